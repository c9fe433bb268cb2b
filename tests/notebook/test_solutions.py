"""The delimiters of solutions."""

from __future__ import annotations

import pytest

from lib.notebook.solutions import ASIDE, BEGIN, END, END_OF_ASIDE, without_solutions
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


def test_the_sentence_of_a_solution_stays():
    text = f"def f():\n    {BEGIN}: return the loss, a scalar\n    return 1\n    {END}\n"
    assert without_solutions(text) == "def f():\n    # YOUR TURN: return the loss, a scalar\n"
    hidden = f"<!-- {BEGIN}: say why -->\nx\n<!-- {END} -->\n"
    assert without_solutions(hidden, "*Your turn*") == "*Your turn*: say why\n"


def test_of_an_instructors_remark_nothing_stays():
    text = f"a\n<!-- {ASIDE} -->\n{BEGIN}\nb\n{END}\n<!-- {END_OF_ASIDE} -->\nc\n"
    assert without_solutions(text) == "a\nc\n"
    assert without_solutions(f"{ASIDE}\nb\n{END_OF_ASIDE}") == ""
    with pytest.raises(KitError, match="INSTRUCTOR without ### END INSTRUCTOR"):
        without_solutions(f"{ASIDE}\nb\n{END}\n")


@pytest.mark.parametrize("text", [BEGIN, f"{END}\n", f"{BEGIN}\nx\n{END}\n  {END}\n"])
def test_a_delimiter_alone(text):
    with pytest.raises(KitError, match="without"):
        without_solutions(text)
