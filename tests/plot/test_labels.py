"""The labels of figures in another language: each is translated, and none too many."""

from __future__ import annotations

import ast
import re
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.text import Text

from lib import plot
from lib.plot import labels
from lib.plot.labels import label
from lib.stats import compare_ladder
from lib.stats.verdicts import CANNOT_TELL, NO_DIFFERENCE
from lib.stats.words import candidates_in_words
from tests.plot.test_figures import drawings, run

LANGUAGES = [file.name.split(".")[1] for file in Path(labels.__file__).parent.glob("labels.*.toml")]
SOURCES = sorted(Path(labels.__file__).parent.glob("*.py"))
NAMES = re.compile(
    r"(TCGA|PHANTOM)_\w+|DSC|FLAIR|CI|TP|FP|FN|Holm|epoch|Dice(Loss)?|IoU|shift|only|mathdefault"
)
# put together from parts, or of other modules
COMPOSED = {
    "{0} (trained on)",
    *(f"{{0}} {kind}" for kind in ("found", "missed", "invented")),
    *(f"{word}: {{0}}\n{{1}}\nslice {{2}} of {{3}}" for word in ("worst", "median", "best")),
    *(CANNOT_TELL, NO_DIFFERENCE, "no difference larger than {0}", "mean DSC", "validation loss"),
    *(candidates_in_words(1), "{0} candidates"),
    *("{0} runs of each recipe", "{0} against {1} runs", "{0} to {1}"),
}
NO_FIGURE = {"labels", "given"}  # the latter has the words of errors
# columns, and words of matplotlib
NO_LABELS = {
    " (trained on)",
    *("val loss", "CI low", "CI high", "p (Holm)", "compared with", "baseline seeds"),
    *("seed SD", "patient SD", "residual SD"),
    *(
        "lower left",
        "lower right",
        "upper left",
        "outside lower center",
        "outside lower left",
        "offset points",
    ),
}


@pytest.fixture(params=LANGUAGES)
def language(request, tmp_path, monkeypatch) -> str:
    """The language of the course, as if a font had its letters."""
    course = tmp_path / "course.toml"
    course.write_text(f'language = "{request.param}"\n')
    monkeypatch.setattr(labels, "COURSE", course)
    monkeypatch.setattr(labels, "_font", lambda language: labels.LATIN)
    return request.param


def strings(source: str) -> Iterator[str]:
    """Strings of a module; of f-strings what is filled in is {0}, {1}. No docstrings, no errors."""
    tree = ast.parse(source)
    left_out = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, (ast.Raise, ast.JoinedStr))
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for inner in ast.walk(node)
        if isinstance(node, ast.Raise) or isinstance(inner, ast.Constant)
    }
    for node in ast.walk(tree):
        if node in left_out:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            parts = node.values
            fields = [part for part in parts if not isinstance(part, ast.Constant)]
            yield "".join(
                part.value if isinstance(part, ast.Constant) else f"{{{fields.index(part)}}}"
                for part in parts
            )
            yield from (
                one.value
                for field in fields
                for one in ast.walk(field.value)
                if isinstance(one, ast.Constant) and isinstance(one.value, str)
            )


def in_sources() -> set[str]:
    texts = [file.read_text(encoding="utf-8") for file in SOURCES if file.stem not in NO_FIGURE]
    return {one for text in texts for one in strings(text)}


@pytest.mark.parametrize("name", LANGUAGES)
def test_no_label_is_missing_and_none_too_many(name):
    file = Path(labels.__file__).with_name(f"labels.{name}.toml")
    english = set(tomllib.loads(file.read_text(encoding="utf-8")))
    assert english - in_sources() - COMPOSED == set(), "no figure has these"
    sentences = {one for one in in_sources() if re.search(r"[a-z]{2,} [a-z(]{2,}", one)}
    assert sentences - english - NO_LABELS == set(), "these have no translation"


# legends are measured, and a font with all characters may not be installed
@pytest.mark.filterwarnings("ignore:Glyph")
def test_every_figure_is_translated(language, tiny_kaggle):
    figures = drawings(tiny_kaggle)
    cases = run().cases.assign(seen=[True, *[False] * 7])
    figures |= {
        "seen": plot.dsc_bars(cases),
        "all seen": plot.size_against_dsc(cases.assign(seen=True)),
        "empty": plot.dsc_bars(cases.iloc[:0]),
        "strangers": plot.dsc_strips({"a": pd.Series({"x": 0.5}), "b": pd.Series({"y": 0.5})}),
        "among": plot.among({"a": run(3, patients=5, image_size=32)}, {"0": run(0), "a": run(1)}),
        "alone": plot.among({}, {"0": [run(0), run(1)], "a": [run(2), run(3)]}),
    }
    for name, figure in figures.items():
        for text in {one.get_text() for one in figure.findobj(Text)}:
            words = re.findall("[A-Za-z]{2,}", NAMES.sub("", text))
            assert not words, (name, text)


def test_parts_are_translated_and_names_stay(language):
    assert label("mean 0.912") == "平均值 0.912"
    assert label("0.912   +0.020   helps") == "0.912   +0.020   有帮助"
    assert label("3 found, 1 missed") == "找到 3 个，漏掉 1 个"
    assert label("DiceLoss: 0.500 after epoch 3") == "DiceLoss：第 3 个 epoch 后为 0.500"
    assert label(f"+0.001   {NO_DIFFERENCE}") == "+0.001   差异不超过 0.02"
    names = ["best", "SGD 0.9, lr 1e-4", "+ fresh sampling", "PHANTOM_0001", ""]
    assert [label(name) for name in names] == names
    runs = "your runs: 4 of these patients, 5 other patients; compare the means only"
    assert label(runs) == "你的运行：其中 4 位患者，5 位其他患者；只能比较平均值"


def test_labels_of_ticks_are_translated_and_steps_keep_their_names(language):
    table = compare_ladder({"0": run(0), "best": run(1), "b": run(2)})
    axis = plot.waterfall(table).axes[0]
    assert [one.get_text() for one in axis.get_yticklabels()] == ["0", "+ best", "+ b", "全部各级"]


@pytest.mark.parametrize("course", ["", 'language = "en"\n', "language = [\n", None])
def test_without_another_language_labels_are_english(course, tmp_path, monkeypatch):
    if course is not None:
        (tmp_path / "course.toml").write_text(course)
    monkeypatch.setattr(labels, "COURSE", tmp_path / "course.toml")
    assert label("loss") == "loss" and labels.font_settings() == {}


def test_without_a_font_labels_are_english(language, monkeypatch):
    monkeypatch.setattr(labels, "_font", lambda language: None)
    assert label("loss") == "loss" and labels.font_settings() == {}


def test_a_font_is_found_where_one_is(monkeypatch):
    monkeypatch.setattr(labels, "findSystemFonts", lambda: ["/no/such/font.ttf"])
    monkeypatch.setattr(labels.fontManager, "ttflist", [])
    assert labels._font.__wrapped__("zh-CN") is None
    entry = type("Entry", (), {"name": "SimHei", "fname": "simhei.ttf"})
    monkeypatch.setattr(labels.fontManager, "ttflist", [entry])
    assert labels._font.__wrapped__("zh-CN") == "SimHei"
    assert labels._font.__wrapped__("en") is None


def test_all_letters_are_in_the_font(tmp_path, monkeypatch):
    if labels._font("zh-CN") is None:
        pytest.skip("no font with Chinese letters is installed")
    (tmp_path / "course.toml").write_text('language = "zh-CN"\n')
    monkeypatch.setattr(labels, "COURSE", tmp_path / "course.toml")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot.dsc_bars(run().cases).savefig(tmp_path / "a.png")
