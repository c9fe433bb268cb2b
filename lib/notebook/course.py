"""Read ``course.toml``: what an instructor chooses for a class, and the phantom of that class."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.notebook.cells import ENGLISH, PHRASES
from lib.phantom import PHANTOM_FOLDER, write_phantom
from lib.utils import PROJECT, KitError

FILE = PROJECT / "course.toml"
DATA = ("", "kaggle", "phantom")
MAX_SEED = 999_999
REPOSITORY = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+(?<!\.git)")


@dataclass(frozen=True)
class Course:
    """Hold what an instructor chooses, see ``course.toml``.

    Attributes:
        exercises: names in ``exercises.py``; all others are left out of the student edition.
        rubric: file whose scale is public; "" for none.
        data: what a submission must be scored on, ``kaggle`` or ``phantom``; "" for either.
        phantom_seed: of the phantom; with another seed it has other heads.
        language: of the notebooks and figures.
        repository: address of the students' edition on GitHub, whose notebooks open on Colab and
            Kaggle then; "" for none.
    """

    exercises: tuple[str, ...] = ()
    rubric: str = ""
    data: str = ""
    phantom_seed: int = 0
    language: str = ENGLISH
    repository: str = ""

    @property
    def phantom_folder(self) -> Path:
        """Return the folder of the phantom of this class."""
        if not self.phantom_seed:
            return PHANTOM_FOLDER
        return PHANTOM_FOLDER.with_name(f"{PHANTOM_FOLDER.name}-{self.phantom_seed}")

    def write_phantom(self) -> Path:
        """Write the phantom of this class, unless it is there; return its folder."""
        return write_phantom(self.phantom_folder, seed=self.phantom_seed)

    def accepts(self, phantom: bool) -> bool:
        """Return whether a submission may be scored on the phantom, or on patients."""
        return self.data in ("", "phantom" if phantom else "kaggle")


def read_course(file: Path | None = None) -> Course:
    """Read a file, by default ``course.toml``; without one everything is as the kit has it.

    Raises:
        KitError: it is no TOML, or has something else than the fields of ``Course``.
    """
    file = file or FILE
    if not file.is_file():
        return Course()
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8-sig"))  # as Notepad may save it
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise KitError(f"{file}: cannot be read ({error}); restore it") from None
    if problem := _problem(values):
        raise KitError(f"{file}: {problem}; correct it")
    return Course(**{**values, "exercises": tuple(values.get("exercises", ()))})


def _problem(values: dict[str, Any]) -> str | None:
    """Return what is wrong with the values, in words, or None."""
    fields = Course.__dataclass_fields__
    if unknown := sorted(set(values) - set(fields)):
        return f"{unknown[0]} is unknown; there are {', '.join(fields)}"
    exercises = values.get("exercises", [])
    if not isinstance(exercises, list) or not all(isinstance(one, str) for one in exercises):
        return "exercises must be a list of names"
    if not isinstance(values.get("rubric", ""), str):
        return "rubric must be the name of a file"
    if values.get("data", "") not in DATA:
        return f"data must be one of {', '.join(map(repr, DATA))}"
    if values.get("language", ENGLISH) not in list(PHRASES):  # whatever kind of value it is
        return f"language must be one of {', '.join(map(repr, PHRASES))}"
    repository = values.get("repository", "")
    if not isinstance(repository, str) or (repository and not REPOSITORY.fullmatch(repository)):
        return "repository must be like https://github.com/OWNER/NAME"
    seed = values.get("phantom_seed", 0)
    if type(seed) is not int or not 0 <= seed <= MAX_SEED:
        return f"phantom_seed must be a whole number from 0 to {MAX_SEED}"
    return None
