"""Say what is going on where a step may take long, and say nothing where it does not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lib.utils import in_notebook

SLOW = 4  # seconds


@contextmanager
def said_if_slow(words: str, seconds: float = SLOW) -> Iterator[None]:
    """Print ``words`` in a notebook if what is done here takes longer than so many seconds."""
    if not in_notebook():
        yield
        return
    timer = threading.Timer(seconds, print, [words], {"flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
