"""Try an exercise on small inputs, and name the mistake.

A try compares what came out with what was expected, and with what the usual mistakes give: so the
answer is a sentence about the mistake, not a number that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib.runtime.trial import Check, own_line, raised

TOLERANCE = 1e-5


Try = Callable[[Any], Iterator[Check]]
"""Takes what a student wrote, and yields checks, each of which needs those before it."""


def attempt(exercise: str, answer: Any, tries: Try) -> Iterator[Check]:
    """Yield the checks of an answer, up to the first that fails.

    Code that raises an error fails with the line where it did, and so does code that the user
    stops, whose loop may have no end.
    """
    checks = tries(answer)
    while True:
        try:
            found = next(checks)
        except StopIteration:
            return
        except (Exception, SystemExit) as error:  # a student's code can be wrong in every way
            yield Check(exercise, False, raised(error))
            return
        except KeyboardInterrupt as stop:
            remedy = f"you stopped it{own_line(stop)}; if a loop has no end there, give it one"
            yield Check(exercise, False, remedy)
            return
        yield Check(f"{exercise} {found.name}", found.passed, found.remedy)
        if not found.passed:
            return


def written(value: Any, what: str) -> Check:
    """Return whether anything was written: a body that is left out returns None."""
    return Check("is written", value is not None, f"write it: return {what}")


def compared(name: str, value: Any, expected: Any, mistakes: Mapping[str, Any], why: str) -> Check:
    """Compare a result with the expected one, and with those of the usual mistakes.

    Args:
        mistakes: what to do about it -> what the mistake gives.
        why: why it matters, for a result that none of them gives.
    """
    if same(value, expected):
        return Check(name, True, "")
    for remedy, wrong in mistakes.items():
        if same(value, wrong):
            return Check(name, False, remedy)
    shape, wanted = (tuple(getattr(one, "shape", ())) for one in (value, expected))
    if wanted and shape == wanted:
        return Check(name, False, f"the shape is right, but not the values; {why}")
    return Check(name, False, f"expected {shown(expected)}, got {shown(value)}; {why}")


def same(one: Any, other: Any) -> bool:
    """Return whether two results are equal, up to rounding; NaN equals NaN."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    try:
        one, other = (_array(value) for value in (one, other))
    except (TypeError, ValueError, RuntimeError):
        return False
    return one.shape == other.shape and bool(
        np.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
    )


def _array(value: Any) -> np.ndarray:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
    return np.asarray(value).astype(float)


def shown(value: Any) -> str:
    """Return a result in a few words."""
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim:
        kind = "a tensor" if isinstance(value, Tensor) else "an array"
        return f"{kind} of shape {tuple(value.shape)}"
    if isinstance(value, (int, float, Tensor, np.ndarray, np.generic)):
        return f"{float(_array(value)):.4g}"
    return " ".join(repr(value).split())[:60]


def shaped(value: Any, shape: tuple[int, ...], mistakes: Mapping[tuple[int, ...], str]) -> Check:
    """Return whether a result has a shape; ``mistakes`` says what other shapes come from."""
    found = tuple(getattr(value, "shape", ()))
    remedy = mistakes.get(found, f"expected {shape}, got {found or type(value).__name__}")
    return Check("has the right shape", found == shape, remedy)


def unchanged(before: Any, after: Any) -> Check:
    """Return whether an argument is as it was before the call."""
    remedy = "work on a copy: what was passed in is used again elsewhere"
    equal = before == after if isinstance(before, list) else same(before, after)
    return Check("leaves its arguments as they are", equal, remedy)


def seeded(number: int) -> torch.Generator:
    """Return a generator for small inputs, the same each time."""
    return torch.Generator().manual_seed(number)
