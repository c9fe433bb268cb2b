"""Check the id under which a student trains and submits."""

from __future__ import annotations

import re
import unicodedata

from lib.utils import KitError

STUDENT = re.compile(r"\w[\w.@-]{0,63}")
MAX_TEAM = 5  # ids that a submission may have; how many a rubric allows is another matter
TEAM = re.compile(  # ada, or ada+bela
    rf"{STUDENT.pattern}(\+{STUDENT.pattern}){{0,{MAX_TEAM - 1}}}"
)
PLACEHOLDER = "your-id"


def checked_student(student: object) -> str:
    """Return an id, or the ids of a team joined by +, without blanks around and in composed form.

    Raises:
        KitError: a number instead of a text, the placeholder, or what no submission may have.
    """
    if not isinstance(student, str):
        raise KitError(f'student {student!r}: is no text; put it in quotes, "{student}"')
    student = unicodedata.normalize("NFC", student.strip())
    if student == PLACEHOLDER:
        raise KitError(f"student {student!r}: is a placeholder; put your own id in its place")
    if not TEAM.fullmatch(student):
        raise KitError(
            f"student {student!r}: give your id, of letters, digits and . @ - _ only, without "
            f"blanks; a team joins at most {MAX_TEAM} ids by +"
        )
    return student


def shortened(student: str, most: int) -> str:
    """Return an id, or the ids of a team, in at most ``most`` bytes, for the name of a file.

    A name has at most 255 bytes on most systems, and a Chinese letter takes three.
    """
    return student.encode()[:most].decode(errors="ignore")  # no half of a letter
