"""Take the solutions out of the kit's own files.

They are between nbgrader's delimiters, ``### BEGIN SOLUTION`` and ``### END SOLUTION``, each on a
line of its own; in Markdown and Makefiles within a comment. The code before a solution must work
without it.
"""

from __future__ import annotations

import re

from lib.utils import KitError

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
REGION = re.compile(
    rf"^([ \t]*)(?:<!-- )?{BEGIN}(?: -->)?[ \t]*\n"
    rf"(.*?)^[ \t]*(?:<!-- )?{END}(?: -->)?[ \t]*(?:\n|\Z)",
    re.MULTILINE | re.DOTALL,
)
"""A solution with its delimiters; group 2 is the solution."""
_DELIMITER = re.compile(rf"[ \t]*(?:<!-- )?({BEGIN}|{END})(?: -->)?[ \t]*")


def without_solutions(text: str, placeholder: str = "# YOUR TURN") -> str:
    """Return a text with each solution and its delimiters replaced.

    Args:
        placeholder: the line that replaces a solution, indented as the delimiter was; "" for none.

    Raises:
        KitError: a delimiter without its partner.
    """
    line = rf"\g<1>{placeholder}\n" if placeholder else ""
    stripped = REGION.sub(line, text if text.endswith("\n") else f"{text}\n")
    for rest in stripped.splitlines():
        if found := _DELIMITER.fullmatch(rest):
            partner = END if found[1] == BEGIN else BEGIN
            raise KitError(f"{found[1]} without {partner}; write both, each on a line of its own")
    return stripped if text.endswith("\n") else stripped[:-1]
