"""Say where caches are: of this user, or of a whole class."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from lib.utils import PROJECT, at_home, this_user


def cache_folder() -> Path:
    """Return the folder of caches: ``KIT_CACHE``, else ``data/cache``, else a temporary folder."""
    if os.environ.get("KIT_CACHE"):
        return at_home(os.environ["KIT_CACHE"], "KIT_CACHE")
    return _own_cache()


def place_in_cache(name: str, ready: Callable[[Path], bool]) -> Path:
    """Return the place of that name among the caches: one that is ready, else one to build it in.

    A class may share a cache that its students cannot write. What it lacks goes into their own.
    """
    shared = cache_folder()
    closed = shared.is_dir() and not os.access(shared, os.W_OK)
    return _own_cache() / name if closed and not ready(shared / name) else shared / name


def _own_cache() -> Path:
    """Return the folder of caches of this kit, or of this user where the kit cannot be written."""
    folder = PROJECT / "data" / "cache"
    # with the user in its name: a class may share a computer, and its folder for temporary files
    temporary = Path(tempfile.gettempdir()) / f"brain-segmentation-cache-{this_user()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return temporary
    return folder if os.access(folder, os.W_OK) else temporary
