"""Distinguish trouble of the computer that grades from faults of a submission."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from lib.runtime.memory import is_out_of_memory
from lib.utils import EditedError, KitError, remedy

_OF_THE_COMPUTER = frozenset(
    (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EIO,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.EMFILE,
        errno.ENFILE,
        errno.ESTALE,
    )
)
"""No content of a submission makes the system answer with one of these."""


class GraderError(KitError):
    """Report trouble of the computer that grades, or of the instructor's data."""


def of_the_computer(error: BaseException) -> BaseException | None:
    """Return the trouble of the disk, of rights or of an edited kit that led to an error."""
    found = (
        one
        for one in _led_to(error)
        if isinstance(one, (GraderError, EditedError))
        or (isinstance(one, OSError) and one.errno in _OF_THE_COMPUTER)
    )
    return next(found, None)


def is_of_memory(error: BaseException) -> bool:
    """Return whether an error, or what led to it, is a lack of memory."""
    return any(
        is_out_of_memory(one) or (isinstance(one, OSError) and one.errno == errno.ENOMEM)
        for one in _led_to(error)
    )


def _led_to(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those while which it was raised."""
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or one.__context__


def in_one_line(error: BaseException, most: int = 500) -> str:
    """Return what an error says, in one line; for trouble of the system with a remedy."""
    if isinstance(error, OSError) and error.errno is not None:
        text = f"{error.filename or 'a file'}: {error.strerror}; {remedy(error)}"
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())[:most]


@contextmanager
def without_submission() -> Iterator[None]:
    """Raise ``GraderError`` for all that goes wrong here, as no submission has a part in it.

    A lack of memory is raised as it is: what a submission has taken may be the reason.
    """
    try:
        yield
    except (KitError, OSError) as error:
        if isinstance(error, GraderError) or is_of_memory(error):
            raise
        raise GraderError(in_one_line(error)) from error
