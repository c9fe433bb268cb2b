"""Write the student edition: the kit without its solutions, results and weights.

Command line: ``python -m maintain.student [FOLDER]``, or ``make student``. It is a folder and a
zip, made anew each time.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat

from lib.grade.archive import write_zip
from lib.grade.pack import QUESTION, question_hash
from lib.grade.released import ASKS, PLACEHOLDER
from lib.grade.solutions import without_solutions
from lib.runtime import CommandParser, run_command
from lib.utils import PROJECT, KitError, build_folder, short_path

PARTS = (
    "*.ipynb",
    "lib/**/*",
    "img/*",
    "data/README.md",
    "result/reference/phantom/*.csv",
    "docs/*.md",
    "README*.md",
    "LICENSE",
    "Makefile",
    "requirements.txt",
    "constraints.txt",
    "pyproject.toml",
    ".gitignore",
)
"""Files that students get: no results, weights or tests, and no solution among the measurements."""
LEFT_OUT = ("docs/instructors.md",)
TARGET = PROJECT / "result" / "student"
_TEXT = (".md", ".toml", ".txt", ".css", ".js", ".jinja", "")


def write_student_edition(target: str | Path = TARGET, source: Path = PROJECT) -> tuple[Path, Path]:
    """Write the folder, and a zip of it beside it; return both.

    An older edition in that folder is replaced. Notebooks have no outputs. The same source gives
    the same bytes.

    Raises:
        KitError: a delimiter without its partner, or a folder with something else in it.
    """
    target = Path(target).absolute()
    if (
        target.exists()
        and not (target / "lib" / "grade" / "solutions.py").is_file()
        and any(target.iterdir())
    ):
        raise KitError(f"{target}: is no student edition; name another folder")
    files = {
        file.relative_to(source).as_posix(): _stripped(file)
        for pattern in PARTS
        for file in sorted(source.glob(pattern))
        if file.is_file() and "__pycache__" not in file.parts
    }
    files = {name: content for name, content in files.items() if name not in LEFT_OUT}

    def build(partial: Path) -> None:
        for name, content in files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(content)

    shutil.rmtree(target, ignore_errors=True)
    build_folder(target, target.is_dir, build)
    archive = target.with_suffix(".zip")
    write_zip(archive, {f"kit/{name}": content for name, content in files.items()})
    return target, archive


def _stripped(file: Path) -> bytes:
    """Return a file's content without solutions."""
    try:
        if file.suffix == ".ipynb":
            return _stripped_notebook(file)
        if file.suffix in (".py", *_TEXT):
            text = file.read_text(encoding="utf-8")
            return without_solutions(text, "# YOUR TURN" if file.suffix == ".py" else "").encode()
        return file.read_bytes()
    except KitError as error:
        raise KitError(f"{file.name}: {error}") from None


def _stripped_notebook(file: Path) -> bytes:
    """Return a notebook without solutions and outputs.

    A cell that lost something gets the tag ``your-turn``; one that asks for an answer keeps a hash
    of its question, by which ``pack`` sees whether it was answered.
    """
    content = nbformat.read(file, as_version=4)
    for cell in content.cells:
        stripped = without_solutions(
            cell.source, "# YOUR TURN" if cell.cell_type == "code" else PLACEHOLDER
        )
        if stripped != cell.source:
            cell.source = stripped
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), "your-turn"]
        if cell.cell_type == "markdown" and ASKS in cell.source:
            cell.metadata[QUESTION] = question_hash(cell.source)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
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
