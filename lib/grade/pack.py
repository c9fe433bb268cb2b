"""Pack a submission: one zip with what is graded, checked as the grader will check it."""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lib.config import changes, seeds_of
from lib.dataset import BrainData, load_data
from lib.grade.archive import unpack, write_zip
from lib.grade.checks import check_history, check_id, check_other_run, check_tables
from lib.grade.platforms import is_packed
from lib.grade.rubric import Rubric, load_rubric
from lib.grade.submission import MANIFEST, READ, members, read_others, read_submission
from lib.grade.written import EXERCISES, exercises_of
from lib.logger import Run, all_runs, find_run, finished_runs, outside_folds, write_result_csvs
from lib.notebook.cells import Cell, read_notebook
from lib.notebook.course import FILE, read_course
from lib.notebook.student import checked_student, shortened
from lib.predict import load_weights, predict
from lib.utils import LIB, PROJECT, KitError, sha256, visible_files, write_atomic

MAX_ZIP = 200 * 2**20
MAX_PUSHED = 100 * 2**20  # GitHub rejects a push with a larger file
SMALL = 32  # pixels of the copy of the data by which runs are chosen: its fingerprint is the same
RUBRIC = PROJECT / "rubric.toml"  # of the course, where it is public
_MAX_NAME = 200  # bytes of an id in the name of the zip: a team may have more
_TABLES = ("run.json", "history.csv", "cases.csv")


class Receipt(NamedTuple):
    """Hold what was submitted.

    The first digits of its hash show whether the instructor has the same file.

    Attributes:
        about: name -> text, of data and scores.
        remarks: what a grader would hold, and what is missing.
        file: None if nothing was written.
    """

    student: str
    run_id: str
    recipe: str
    claimed: float
    sha256: str
    file: Path | None
    about: dict[str, str]
    remarks: list[str]

    def __str__(self) -> str:
        lines = {
            "submitted by": self.student or "nobody yet",
            "run": self.run_id,
            "its recipe": self.recipe,
            "claimed DSC": f"{self.claimed:.4f}",
            **self.about,
        }
        if self.file:
            lines["file"] = f"{self.file.name}, {self.file.stat().st_size / 1e6:.1f} MB"
            lines["SHA-256"] = self.sha256[:12]
        text = "\n".join(f"{name:<15}{value}" for name, value in lines.items())
        return "\n".join([text, *(f"- {remark}" for remark in self.remarks)])


def pack(
    student: str | None,
    out: str | Path = "result",
    run_id: str | None = None,
    quick: bool = False,
    data: BrainData | str | Path | None = None,
) -> Receipt:
    """Write ``<out>/<student>.zip`` and return its receipt.

    The zip contains CSVs, runs, notebooks, ``lib`` and report; weights of the chosen run only, and
    no data. The report is made anew, of all runs, without images of patients; ``report.html`` in
    ``out`` stays as it is. Notebooks are taken with their pictures: save them first. The same files
    give the same zip.

    Args:
        student: your id; letters, digits and . @ - _. A team joins its ids: ``ada+bela``. With None
            nothing is written: the receipt tells what would be submitted.
        out: folder of results.
        run_id: the run to be graded. By default it is the run with the best DSC in the best CSV,
            else in the other; runs on patients come before those on phantoms, then those of the
            split ``auto``, and folds of a cross-validation are left out.
        quick: also accept a run of the profile ``quick`` or ``smoke``, or on phantoms, as a course
            on phantoms does.
        data: of the assignment, from ``load_data`` or a folder for it; then only runs on these data
            count. A custom network needs it: the grader runs no code of yours, so the masks of the
            validation patients are submitted too.

    Raises:
        KitError: no id of a student; no such run; weights or tables that cannot be read; a run
            that is too small; or a zip over 200 MiB.
    """
    student = None if student is None else checked_student(student)
    out = Path(out)
    if not out.is_dir():
        raise KitError(f"{out}: no such folder; name the folder of results")
    runs = all_runs(out)
    finished = finished_runs(out, runs)
    tables = write_result_csvs(out, finished)
    asked = load_data(data, SMALL) if isinstance(data, (str, Path)) else data
    run = _choose(out, finished, run_id, asked)
    quick = quick or read_course().data == "phantom"  # whose profile is quick
    if not quick and (reason := _too_small(run)):
        raise KitError(
            f"{run.id}: {reason}; submit a run of the profile full, or allow this one with "
            f"quick=True (--quick)"
        )
    files: dict[str, Path | bytes] = {f"result/{name}": file for name, file in tables.items()}
    files |= {**dict(_files(out, finished, run)), **_report(out, runs)}
    files[MANIFEST] = json.dumps(
        {"schema": 1, "student": student or "", "run": run.id}, indent=1
    ).encode()
    if not run.config.needed_to_predict:
        load_weights(run.weights)
    else:
        files |= _masks(run, data)
    target = out / f"{shortened(student, _MAX_NAME)}.zip" if student else None
    if target and target.exists() and not is_packed(target):
        raise KitError(f"{target}: was not written by pack; move it away")
    digest, held = _write_checked(target, files)
    remarks = [] if student else ["nothing was written: say who you are, and pack again"]
    held += [*_held(run, finished)]
    remarks += [f"a grader would hold this: {reason}" for reason in held]
    remarks += [*_large_team(student), *_seed_of_nobody(run, student), *_unfinished(files)]
    recipe = changes(run.config) or "as published"
    claimed = float(run.history["val_dsc"].max())
    about = _about(run, outside_folds(finished))
    return Receipt(student or "", run.id, recipe, claimed, digest, target, about, remarks)


def commit(file: Path) -> str:
    """Commit a packed zip, although git ignores results; return what to do next.

    Raises:
        KitError: the zip is larger than GitHub takes, no git, no repository around it, or git
            refuses.
    """
    if _git(file, "rev-parse", "--show-toplevel").returncode:
        raise KitError(f"{file}: is in no git repository; submit the zip itself")
    if (size := file.stat().st_size) > MAX_PUSHED:
        raise KitError(
            f"{file}: {size / 2**20:.1f} MiB, GitHub takes at most {MAX_PUSHED >> 20} a file, so "
            f"nothing was committed; submit the zip as your instructor says, or a narrower network"
        )
    for arguments in (("add", "--force"), ("diff", "--cached", "--quiet")):
        done = _git(file, *arguments, "--", file.name)
        if done.returncode > (arguments[0] == "diff"):
            raise KitError(f"{file}: git cannot add it ({done.stderr.strip()}); submit the zip")
    if not done.returncode:
        return f"{file.name} is committed already; send it: git push"
    done = _git(file, "commit", "--quiet", "-m", f"Submit {file.name}", "--", file.name)
    if done.returncode:
        reason = done.stderr.strip().splitlines()
        raise KitError(f"{file}: git commit failed ({reason[0] if reason else 'no reason given'})")
    return f"{file.name} is committed; send it: git push"


def _git(file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run git in the folder of a file."""
    try:
        return subprocess.run(
            ["git", *arguments],
            cwd=file.parent,
            capture_output=True,
            encoding="utf-8",
            errors="replace",  # git may name files in another encoding than this computer's
            check=False,
        )
    except FileNotFoundError:
        raise KitError("git is not installed; submit the zip itself") from None


def _choose(out: Path, finished: list[Run], run_id: str | None, data: BrainData | None) -> Run:
    """Return the run to be graded, see ``pack``."""
    if run_id is not None:
        return _require_accepted(find_run(out, run_id=run_id, runs=finished))
    candidates = [
        run
        for run in outside_folds(finished)
        if data is None or run.info["data"]["sha256"] == data.fingerprint
    ]
    if candidates:
        accepted = [run for run in candidates if _is_accepted(run)]
        candidates = accepted or [_require_accepted(candidates[0])]
    candidates = [run for run in candidates if not run.info["data"].get("phantom")] or candidates
    candidates = _of_auto(candidates, finished) or candidates
    candidates = [run for run in candidates if "best" in run.tables] or candidates
    if not candidates:
        return find_run(out, data, runs=finished)  # says what is missing
    return max(candidates, key=lambda run: run.dsc.mean)


def _of_auto(runs: list[Run], finished: list[Run]) -> list[Run]:
    """Return the runs that are scored on the patients of ``auto``, as an assignment is by default.

    A run keeps the split that it was first trained for: which patients these are, any run tells.
    """
    scored = [_scored_on(run) for run in finished if run.config.split == "auto"]
    return [run for run in runs if _scored_on(run) in scored]


def _scored_on(run: Run) -> tuple[str, list[str]]:
    return run.info["data"]["sha256"], run.info["split"]["validation"]


def _is_accepted(run: Run) -> bool:
    """Return whether a run has the kind of data that ``course.toml`` asks for."""
    return read_course().accepts(phantom=bool(run.info["data"].get("phantom")))


def _require_accepted(run: Run) -> Run:
    """Return a run. Raises KitError unless it has the kind of data that the course asks for."""
    if not _is_accepted(run):
        raise KitError(
            f"{run.id}: is scored on {run.info['data']['name']}, but {FILE.name} asks for "
            f"{read_course().data}; train on that, see data/README.md"
        )
    return run


def _about(run: Run, others: list[Run]) -> dict[str, str]:
    """Return what a receipt tells of a run beside its recipe."""
    info = run.info
    about = {
        "data": f"{info['data']['name']}, {len(info['split']['train'])} patients to learn from, "
        f"{len(info['split']['validation'])} scored (split {info['split']['name']})"
    }
    rivals = [other for other in others if _scored_on(other) == _scored_on(run)]
    better = max(rivals, key=lambda other: other.dsc.mean, default=run)
    if better.dsc.mean > run.dsc.mean:
        about["a better run"] = f"{better.id}: {better.dsc.mean:.4f}; name it to submit it"
    if rubric := _public_rubric():
        about["points"] = (
            f"{rubric.points(run.dsc.mean):g} of {rubric.dsc_points:g} for this DSC, by "
            f"{RUBRIC.name}"
        )
    return about


def _held(run: Run, finished: list[Run]) -> Iterator[str]:
    """Yield why a grader would hold a run that is as it was trained."""
    if not _of_auto([run], finished):
        yield (
            f"it is scored on the split {run.info['split']['name']}, not on that of auto; submit a "
            f"run of split=auto, unless your assignment names another split"
        )
    if run.config.needed_to_predict:
        yield (
            f"{', '.join(run.config.needed_to_predict)} is not run, its masks are scored instead; "
            f"the instructor has to look before they earn points"
        )


def _public_rubric() -> Rubric | None:
    """Return the rubric of the course, where it is public."""
    return load_rubric(RUBRIC) if RUBRIC.is_file() else None


def _large_team(student: str | None) -> Iterator[str]:
    """Yield a remark if more students submit together than a public rubric allows."""
    number, rubric = len(members(student or "")), _public_rubric()
    if rubric and number > rubric.team:
        yield (
            f"you are a team of {number}, but at most {rubric.team} may submit together, by "
            f"{RUBRIC.name}: a grader would look at it"
        )


def _seed_of_nobody(run: Run, student: str | None) -> Iterator[str]:
    """Yield a remark if the run's seed is not that of the student, or of a member of the team."""
    own = [seeds_of(name) for name in (student, *members(student))] if student else []
    if own and not any(run.config.seed in seeds for seeds in own):
        yield (
            f"the run has seed {run.config.seed}, not that of {student}: whoever trained the same "
            f"recipe with it has the same weights; put your id into the first cell of the notebooks"
        )


def _too_small(run: Run) -> str | None:
    """Return why a run is of no use for grading, or None."""
    if run.info["profile"] != "full":
        return f"as small as the profile {run.info['profile']}"
    return "scored on phantoms" if run.info["data"].get("phantom") else None


def _files(out: Path, finished: list[Run], chosen: Run) -> Iterator[tuple[str, Path]]:
    """Yield (name in the zip, file) of all but the result CSVs.

    One of these may be left from runs that are gone.
    """
    for run in finished:
        for name in _TABLES:
            yield f"result/runs/{run.id}/{name}", run.folder / name
    yield f"result/runs/{chosen.id}/best.pt", chosen.weights
    packages = {name.partition(".")[0] for run in finished for name in _own_modules(run)}
    sources = [*visible_files(PROJECT, "*.ipynb"), *visible_files(PROJECT, "*.py")]
    for package in sorted(packages):
        sources += visible_files(PROJECT / package, "**/*.py")
    for file in sources:
        yield file.relative_to(PROJECT).as_posix(), file
    for file in visible_files(LIB, "**/*.py"):  # elsewhere, where the kit was installed by pip
        yield file.relative_to(LIB.parent).as_posix(), file
    for file in visible_files(out / "notebooks", "*.ipynb"):
        yield f"result/notebooks/{file.name}", file


def _own_modules(run: Run) -> list[str]:
    """Return the modules of the custom code of a run."""
    return sorted({spec.partition(":")[0] for spec in run.config.custom.values()})


def _report(out: Path, runs: list[Run]) -> dict[str, bytes]:
    """Return the report of all runs, without images of patients."""
    # imported here, because the process that grades need not load what draws
    from lib.report.write import write_report

    with tempfile.TemporaryDirectory() as folder:
        write_report(out, images=False, target=folder, runs=runs)
        return {
            f"result/{file.relative_to(folder).as_posix()}": file.read_bytes()
            for file in sorted(Path(folder).rglob("[!.]*"))
            if file.is_file()
        }


def _masks(run: Run, data: BrainData | str | Path | None) -> dict[str, bytes]:
    """Return the predicted masks of the validation patients."""
    if data is None:
        raise KitError(
            f"{run.id}: needs {', '.join(run.config.needed_to_predict)}, which the grader does not "
            f"run; name the data, so that its masks can be submitted"
        )
    with tempfile.TemporaryDirectory() as folder:
        device, precision = run.config.device, run.config.precision  # for the scores of its tables
        predict(run, data, folder, run.info["split"]["validation"], device, precision)
        return {
            f"masks/{file.relative_to(folder).as_posix()}": file.read_bytes()
            for file in Path(folder).rglob("*.tif")
        }


def _write_checked(target: Path | None, files: dict[str, Path | bytes]) -> tuple[str, list[str]]:
    """Write the zip, once it was read and checked as the grader will.

    An older zip stays as it is if this one is not good.

    Returns:
        The zip's SHA-256, and what a grader would hold in other runs.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "submission.zip")
        write_zip(made, files)
        size = made.stat().st_size
        if size > MAX_ZIP:
            sizes = {
                name: file.stat().st_size for name, file in files.items() if isinstance(file, Path)
            }
            raise KitError(
                f"{target or 'zip'}: {size >> 20} MiB, at most {MAX_ZIP >> 20} are accepted; the "
                f"largest file is {max(sizes, key=sizes.__getitem__)}"
            )
        unpack(made, Path(folder, "unpacked"), READ)
        submission = read_submission(Path(folder, "unpacked"))
        checks = (
            *check_tables(submission, math.inf),
            *check_history(submission),
            *check_id(submission),
        )
        for finding in checks:
            if finding.level == "fault":
                raise KitError(
                    f"{submission.run_id}: {finding.text} A grader would hold it; train it anew"
                )
        held = [
            finding.text
            for name, run in read_others(submission)
            for finding in check_other_run(name, run)
        ]
        if target:
            write_atomic(target, made.read_bytes())
        return sha256(made), held


# --- what is unwritten ----------------------------------------------------------------------------


def _unfinished(files: dict[str, Path | bytes]) -> Iterator[str]:
    """Yield what is to be written and run yet: answers, cells of notebooks, exercises."""
    asked = written = 0
    for name, file in sorted(files.items()):
        if "/" in name or not name.endswith(".ipynb"):
            continue
        try:
            run, answered = (
                _cells(each) for each in (files.get(f"result/notebooks/{name}", file), file)
            )
        except KitError as error:
            yield f"nobody can read this: {error}"
            continue
        code = [cell for cell in run if cell.kind == "code" and cell.text]
        idle = sum(not cell.was_run for cell in code)
        if idle:
            yield f"{name}: {idle} of {len(code)} cells were not run, or saved without outputs"
        questions = [cell for cell in answered if cell.asked]
        asked += len(questions)
        written += sum(cell.is_answered for cell in questions)
    if asked:
        yield f"analysis: {written} of {asked} answers written"
    source = files.get(EXERCISES)
    if isinstance(source, Path):
        try:
            exercises = exercises_of(source, read_course().exercises)
        except (OSError, ValueError, SyntaxError) as error:
            yield f"{EXERCISES}: cannot be read ({type(error).__name__})"
        else:
            done = [bool(one.lines) for one in exercises if one.key]
            yield f"{EXERCISES}: {sum(done)} of {len(done)} exercises written"


def _cells(file: Path | bytes) -> list[Cell]:
    """Return the cells of a notebook. Raises KitError for a damaged one."""
    return read_notebook(file) if isinstance(file, Path) else []
