"""Take out of the kit's own files what students do not get.

Two kinds of region have delimiters, each on a line of its own; in Markdown and Makefiles they are
within a comment:

``### BEGIN SOLUTION`` ... ``### END SOLUTION``, nbgrader's: the student writes this. A placeholder
takes its place, with the sentence behind a colon: ``### BEGIN SOLUTION: return the loss``. The code
before a solution must work without it.

``### BEGIN INSTRUCTOR`` ... ``### END INSTRUCTOR``: a remark or a table that students do not get.
Nothing takes its place.
"""

from __future__ import annotations

import re

from lib.utils import KitError

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
ASIDE, END_OF_ASIDE = "### BEGIN INSTRUCTOR", "### END INSTRUCTOR"
REGION = re.compile(
    r"^([ \t]*)(?:<!-- )?### BEGIN (SOLUTION|INSTRUCTOR)(?:: ([^\n]*?))?(?: -->)?[ \t]*\n"
    r"(.*?)^[ \t]*(?:<!-- )?### END \2(?: -->)?[ \t]*(?:\n|\Z)",
    re.MULTILINE | re.DOTALL,
)
"""A region with its delimiters; groups: indentation, kind, sentence, content."""
CONTENT = 4
_DELIMITER = re.compile(
    r"[ \t]*(?:<!-- )?(### (BEGIN|END) (SOLUTION|INSTRUCTOR))(?:: [^\n]*?)?(?: -->)?[ \t]*"
)


def without_solutions(text: str, placeholder: str = "# YOUR TURN") -> str:
    """Return a text without solutions and instructor's remarks.

    Args:
        placeholder: the line that replaces a solution, indented as the delimiter was; the sentence
            of the solution follows it. "" for none.

    Raises:
        KitError: a delimiter without its partner.
    """

    def replaced(region: re.Match[str]) -> str:
        indent, kind, sentence, _ = region.groups()
        if kind == "INSTRUCTOR" or not placeholder:
            return ""
        return f"{indent}{placeholder}{f': {sentence}' if sentence else ''}\n"

    stripped = REGION.sub(replaced, text if text.endswith("\n") else f"{text}\n")
    for rest in stripped.splitlines():
        if found := _DELIMITER.fullmatch(rest):
            partner = f"### {'END' if found[2] == 'BEGIN' else 'BEGIN'} {found[3]}"
            raise KitError(f"{found[1]} without {partner}; write both, each on a line of its own")
    return stripped if text.endswith("\n") else stripped[:-1]
