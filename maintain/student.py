"""Write the student edition: the kit without its solutions, results and weights.

Command line: ``python -m maintain.student [FOLDER]``, or ``make student``. It is a folder and a
zip, made anew each time; ``course.toml`` chooses the exercises.
"""

from __future__ import annotations

import ast
import io
import json
import zipfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path

import nbformat

from lib.data.archive import DAMAGED_ZIP
from lib.grade.archive import write_zip
from lib.grade.rubric import load_rubric
from lib.notebook.cells import ASKS, PHRASES, QUESTION, Phrases, question_hash
from lib.notebook.course import FILE, read_course
from lib.notebook.solutions import without_solutions
from lib.runtime import CommandParser, run_command
from lib.runtime.own_files import OwnFiles, require_replaceable
from lib.utils import PROJECT, KitError, short_path, visible_files
from maintain.answers import as_file
from maintain.online import PAGES, with_badges, with_fetching

PARTS = (
    "*.ipynb",
    "exercises.py",
    "install.py",
    "lib/**/*",
    "img/*",
    "data/README.md",
    "result/reference/phantom/*.csv",
    "docs/*.md",
    "README*.md",
    "LICENSE",
    "Makefile",
    "Dockerfile",
    ".dockerignore",
    ".devcontainer/*",
    "environment.yml",
    "requirements.txt",
    "constraints.txt",
    "pyproject.toml",
    ".gitignore",
)
"""Files that students get: no results, weights or tests, and no solution among the measurements."""
_BETWEEN = ("", "### END SOLUTION")
LEFT_OUT = tuple(
    f"docs/{page}{language}.md"
    for page in ("instructors", "teach-a-class")
    for language in ("", ".zh-CN")
)
EXERCISES, RUBRIC = "exercises.py", "rubric.toml"
_PUBLIC = """# What your instructor has chosen; the grader has the same.

# Exercises that you write; each that is gone from exercises.py fails its check.
exercises = {exercises}
# What you hand in must be scored on "kaggle" (patients) or "phantom"; "" for either.
data = "{data}"
# Of the phantom: with another seed it has other heads.
phantom_seed = {phantom_seed}
# Of the notebooks and figures.
language = "{language}"
"""
TARGET = PROJECT / "result" / "student"
_TEXT = (".md", ".toml", ".txt", ".css", ".js", ".jinja", ".json", ".yml", "")
_OTHERS = (".png", ".csv")  # without solutions
_IN_ZIP = "kit"  # folder that all is in


def chosen_exercises(source: str, names: Collection[str]) -> str:
    """Return ``exercises.py`` with the named classes and functions only.

    Raises:
        KitError: it has no exercise of a name.
    """
    found = {
        node.name: (node.lineno, node.end_lineno or node.lineno)
        for node in ast.parse(source).body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef))
    }
    if unknown := sorted(set(names) - set(found)):
        raise KitError(f"{FILE.name}: {unknown[0]!r} is no exercise; there are {', '.join(found)}")
    lines: list[str | None] = list(io.StringIO(source))  # as Python ends them
    for name, (first, last) in found.items():
        if name not in names:
            after = last  # the delimiter of a solution, and the blank lines
            while after < len(lines) and (lines[after] or "").strip() in _BETWEEN:
                after += 1
            lines[first - 1 : after] = [None] * (after - first + 1)
    return "".join(line for line in lines if line is not None).rstrip() + "\n"


def write_student_edition(target: str | Path = TARGET, source: Path = PROJECT) -> tuple[Path, Path]:
    """Write the folder, and a zip of it beside it; return both.

    Files of an older edition in that folder are replaced, or removed; all others stay. Notebooks
    have no outputs. The same source gives the same bytes.

    Raises:
        KitError: a delimiter without its partner, a file that may have solutions in it unseen, a
            folder or zip of something else, or a ``course.toml`` that is none.
    """
    target = Path(target).resolve()
    if source.resolve().is_relative_to(target):
        raise KitError(f"{target}: contains the kit itself; name another folder")
    files = _edition(source)
    archive = target.with_name(f"{target.name}.zip")
    if archive.exists() and not _is_edition(archive):
        raise KitError(f"{archive}: is no zip of a student edition; move it away")
    own = OwnFiles(target)
    if not own.list.is_file() and target.exists() and any(target.iterdir()):
        raise KitError(
            f"{target}: is no student edition, or that of an older kit; move it away, or name "
            f"another folder"
        )
    contents = {target / name: content for name, content in files.items()}
    require_replaceable(own, contents, "name another folder, or move it away")
    own.write(contents)
    own.remove_others(contents)
    write_zip(archive, {f"{_IN_ZIP}/{name}": content for name, content in files.items()})
    return target, archive


def _edition(source: Path) -> dict[str, bytes]:
    """Return name -> content of the files of the edition."""
    course = read_course(source / FILE.name)
    phrases = PHRASES[course.language]
    files = {
        file.relative_to(source).as_posix(): _stripped(file, phrases)
        for pattern in PARTS
        for file in visible_files(source, pattern)
    }
    files = {name: content for name, content in files.items() if name not in LEFT_OUT}
    if (source / EXERCISES).is_file():
        chosen = chosen_exercises(
            (source / EXERCISES).read_text(encoding="utf-8"), course.exercises
        )
        files[EXERCISES] = without_solutions(chosen, phrases.in_code).encode()
    if course.rubric:
        load_rubric(source / course.rubric)  # raises KitError if it is none
        files[RUBRIC] = (source / course.rubric).read_bytes()
    files |= dict(_online(files, course.repository))
    public = {**asdict(course), "exercises": json.dumps(course.exercises)}
    files[FILE.name] = _PUBLIC.format_map(public).encode()
    return files


def _online(files: Mapping[str, bytes], address: str) -> Iterator[tuple[str, bytes]]:
    """Yield pages and notebooks that open the edition on Colab and Kaggle, never the kit itself."""
    for name, content in files.items():
        if fnmatch(name, PAGES):  # not data/README.md
            yield name, with_badges(content.decode(), address).encode()
        elif name.endswith(".ipynb"):
            yield name, as_file(with_fetching(json.loads(content), address)).encode()


def _is_edition(archive: Path) -> bool:
    """Return whether a zip is one that ``write_student_edition`` wrote."""
    try:
        with zipfile.ZipFile(archive) as bundle:
            return all(name.startswith(f"{_IN_ZIP}/") for name in bundle.namelist())
    except (OSError, *DAMAGED_ZIP):
        return False


def _stripped(file: Path, phrases: Phrases) -> bytes:
    """Return a file's content without solutions."""
    try:
        if file.suffix == ".ipynb":
            return _stripped_notebook(file, phrases)
        if file.suffix in (".py", *_TEXT):
            text = file.read_text(encoding="utf-8")
            return without_solutions(text, "# YOUR TURN" if file.suffix == ".py" else "").encode()
        if file.suffix not in _OTHERS:
            raise KitError("may have solutions in it that cannot be told; move it away")
        return file.read_bytes()
    except (KitError, UnicodeDecodeError) as error:
        raise KitError(f"{file.name}: {error}") from None


def _stripped_notebook(file: Path, phrases: Phrases) -> bytes:
    """Return a notebook without solutions and outputs.

    A cell of which nothing is left is left out, and one with a placeholder gets the tag
    ``your-turn``. One that asks for an answer keeps a hash of its question, by which ``pack`` sees
    whether it was answered.
    """
    content = nbformat.read(file, as_version=4)
    cells = []
    for cell in content.cells:
        placeholder = phrases.in_code if cell.cell_type == "code" else phrases.in_text
        stripped = without_solutions(cell.source, placeholder).strip("\n")
        if cell.source and not stripped:
            continue
        if placeholder in stripped and placeholder not in cell.source:
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), "your-turn"]
        cell.source = stripped
        cells.append(cell)
        if cell.cell_type == "markdown" and ASKS.search(cell.source):
            cell.metadata[QUESTION] = question_hash(cell.source)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    content.cells = cells
    return (nbformat.writes(content) + "\n").encode()


def main() -> None:
    """Run the command line."""
    parser = CommandParser(
        prog="python -m maintain.student", description="Write the student edition."
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, default=TARGET, help="default: result/student"
    )
    for path in write_student_edition(parser.parse_args().folder):
        print(short_path(path))


if __name__ == "__main__":
    run_command(main)
