"""The student edition: the kit without its solution.

A solution stands between nbgrader's delimiters, ``### BEGIN SOLUTION`` and ``### END SOLUTION``, in a notebook's cell
or in a source file; what stands before it must do without. In the student edition a line takes its place.
"""

from __future__ import annotations

import re

from lib.utils import KitError

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
YOUR_TURN, YOUR_ANSWER = "# YOUR TURN", "*Your turn.*"
_REGION = re.compile(rf"^([ \t]*){BEGIN}[ \t]*\n(.*?)^[ \t]*{END}[ \t]*(\n|\Z)", re.MULTILINE | re.DOTALL)


def without_solutions(text: str, placeholder: str = YOUR_TURN) -> str:
    """``text`` with each solution and its delimiters replaced by ``placeholder``, indented as the solution was.

    Raises:
        KitError: a delimiter without its partner.
    """
    stripped = _REGION.sub(rf"\1{placeholder}\3", text)
    for delimiter, partner in ((BEGIN, END), (END, BEGIN)):
        if any(line.strip() == delimiter for line in stripped.splitlines()):
            raise KitError(f"{delimiter} without {partner}; write both, each on a line of its own")
    return stripped
