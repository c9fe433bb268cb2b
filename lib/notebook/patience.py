"""Say what is going on where a step may take long, and say nothing where it does not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

SLOW = 4  # seconds


@contextmanager
def said_if_slow(words: str, seconds: float = SLOW) -> Iterator[None]:
    """Print ``words`` if what is done here takes longer than so many seconds."""
    timer = threading.Timer(seconds, print, [words], {"flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
