"""The delimiters of solutions."""

from __future__ import annotations

import pytest

from lib.grade.solutions import BEGIN, END, without_solutions
from lib.utils import KitError

SAMPLE = f"""BEST = REFERENCE
{BEGIN}
BEST = replace(REFERENCE, secret=1)
{END}
def f():
    x = 1
    {BEGIN}
    x = 2
    {END}
    return x
"""


def test_a_solution_is_replaced_by_a_line():
    assert without_solutions(SAMPLE) == (
        "BEST = REFERENCE\n# YOUR TURN\ndef f():\n    x = 1\n    # YOUR TURN\n    return x\n"
    )
    assert without_solutions(f"a\n{BEGIN}\nb\n{END}") == "a\n# YOUR TURN"
    assert without_solutions(f"a\n<!-- {BEGIN} -->\nb\n<!-- {END} -->\nc\n", "") == "a\nc\n"
    assert without_solutions("nothing here") == "nothing here"


@pytest.mark.parametrize("text", [BEGIN, f"{END}\n", f"{BEGIN}\nx\n{END}\n  {END}\n"])
def test_a_delimiter_alone(text):
    with pytest.raises(KitError, match="without"):
        without_solutions(text)
