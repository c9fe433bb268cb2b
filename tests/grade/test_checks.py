"""Each check of a claim on its own."""

from __future__ import annotations

import json

import pytest

from lib.grade.checks import lib_diff
from tests.grade.demo import edit_json, edit_table, run_of, sign


def found(result: dict) -> list[str]:
    """Names of what was found, notes left out."""
    return [finding.name for finding in result["findings"] if finding.level != "note"]


def test_an_honest_one_is_clean(examine, ada):
    result = examine(ada)
    assert (result["status"], result["student"], found(result), result["diff"]) == (
        "computed",
        "ada",
        [],
        {},
    )
    assert [finding.name for finding in result["findings"]] == []


def change(name, *path):
    """A submission with one table changed and signed anew: each edit is a lambda on the table."""

    def apply(files, edit):
        run = run_of(files)
        return sign({**files, f"{run}/{name}": edit_table(files[f"{run}/{name}"], edit)})

    return apply


@pytest.mark.parametrize(
    ("table", "edit", "expected"),
    [
        ("cases.csv", lambda t: t.assign(dsc_native=t["dsc_native"] + 0.01), "impossible numbers"),
        (
            "cases.csv",
            lambda t: t.assign(
                fn=t["fn"] + 100,
                dsc_native=2 * t["tp"] / (2 * t["tp"] + t["fp"] + t["fn"] + 100),
                iou=t["tp"] / (t["tp"] + t["fp"] + t["fn"] + 100),
                recall=t["tp"] / (t["tp"] + t["fn"] + 100),
            ),
            "impossible numbers",
        ),
        ("cases.csv", lambda t: t.iloc[:-1], "tables disagree"),
        ("cases.csv", lambda t: t.assign(dsc=t["dsc"] + 0.01), "tables disagree"),
        ("history.csv", lambda t: t.iloc[:-1], "tables disagree"),
        ("history.csv", lambda t: t.assign(epoch=t["epoch"] + 1), "history implausible"),
        ("history.csv", lambda t: t.assign(lr=0.5), "history implausible"),
    ],
)
def test_a_table_was_edited(examine, ada, table, edit, expected):
    assert expected in found(examine(change(table)(ada, edit)))


def test_files_that_are_not_as_the_run_left_them(examine, ada):
    name = f"{run_of(ada)}/history.csv"
    assert "files changed" in found(examine({**ada, name: ada[name].replace(b"1", b"2", 1)}))


@pytest.mark.parametrize(
    "through",
    [
        lambda text: text.replace(b"\n", b"\r\n"),  # git's autocrlf
        lambda text: b"\xef\xbb\xbf" + text,  # an editor of Windows
        lambda text: text.rstrip(b"\n"),
        lambda text: text + b"\n",
    ],
)
def test_what_other_programs_do_to_the_ends_of_lines_costs_nothing(examine, ada, through):
    tables = {f"{run_of(ada)}/{name}" for name in ("history.csv", "cases.csv")}
    result = examine({name: through(c) if name in tables else c for name, c in ada.items()})
    assert (result["status"], found(result)) == ("computed", [])


def test_a_recipe_that_the_id_does_not_tell(examine, ada):
    name = f"{run_of(ada)}/run.json"
    config = {**json.loads(ada[name])["config"], "weight_decay": 0.1}
    assert {"run id does not fit", "checkpoint of another run"} <= set(
        found(examine({**ada, name: edit_json(ada[name], config=config)}))
    )


def test_another_version_of_the_kit(examine, ada):
    """The first version made ids in another way: they cannot be computed again."""
    name = f"{run_of(ada)}/run.json"
    assert found(examine({**ada, name: edit_json(ada[name], schema=1)})) == ["other version"]


def test_a_field_that_the_run_did_not_know_does_not_matter(examine, ada):
    """And one that this version does not know is named."""
    name = f"{run_of(ada)}/run.json"
    config = json.loads(ada[name])["config"]
    older = {key: value for key, value in config.items() if key != "tta"}
    assert found(examine({**ada, name: edit_json(ada[name], config=older)})) == []
    result = examine({**ada, name: edit_json(ada[name], config=config | {"colour": "red"})})
    assert result["status"] != "computed" and "Config.colour" in str(result["findings"])


def test_other_data_and_other_code(examine, ada):
    name = f"{run_of(ada)}/run.json"
    result = examine(
        {**ada, name: edit_json(ada[name], data={"sha256": "0"}, code={"sha256": "0"})}
    )
    assert found(result) == ["other data"]
    assert [finding.name for finding in result["findings"] if finding.level == "note"] == [
        "other code"
    ]


def test_the_lib_that_was_handed_in_is_compared_and_never_imported(ada, tmp_path):
    (tmp_path / "lib" / "own").mkdir(parents=True)
    for name, content in ada.items():
        if name.startswith("lib/"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
    with open(tmp_path / "lib" / "metrics.py", "a", encoding="utf-8") as metrics:
        metrics.write("raise SystemExit\n")
    (tmp_path / "lib" / "own" / "new.py").write_text("raise SystemExit\n")
    (tmp_path / "lib" / "optim.py").unlink()
    (tmp_path / "lib" / "grade" / "rubric.py").write_text("raise SystemExit\n")
    diff = lib_diff(tmp_path / "lib")
    assert "+raise SystemExit" in diff["grade/rubric.py"]
    assert list(diff) == ["grade/rubric.py", "metrics.py", "optim.py", "own/new.py"]
    assert "+raise SystemExit" in diff["metrics.py"]
    assert (diff["optim.py"], diff["own/new.py"]) == (["removed"], ["added: 1 lines"])
    assert lib_diff(tmp_path / "nowhere") == {}
