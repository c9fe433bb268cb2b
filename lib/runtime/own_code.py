"""Load custom code, and notice where a file was edited after Python loaded it."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from lib.runtime.trial import in_words
from lib.utils import EditedError, KitError, see

T = TypeVar("T")
_REFUSED = ContextVar("custom code is refused", default=False)


def load_class(spec: str, base: type[T]) -> type[T]:
    """Return the custom class ``"module:Class"``; importing it runs its module's code.

    Raises:
        KitError: no such module or class, or it is not derived from ``base``.
    """
    found = load_custom(spec)
    if not (isinstance(found, type) and issubclass(found, base)):
        package = ".".join(base.__module__.split(".")[:2])  # torch.nn, not torch.nn.modules.module
        wanted = f"{package}.{base.__name__}"
        raise KitError(f"{spec}: is not a class derived from {wanted}; derive it from that")
    return found


def load_function(spec: str) -> Callable[..., Any]:
    """Return the custom function ``"module:function"``; importing it runs its module's code.

    Whatever it raises when it is called is a KitError of one line.

    Raises:
        KitError: no such module, or nothing of that name that can be called.
    """
    found = load_custom(spec)
    if isinstance(found, type) or not callable(found):
        raise KitError(f"{spec}: is no function; name one")

    def called(*arguments: Any) -> Any:
        with in_words(spec):
            return found(*arguments)

    return called


@contextmanager
def without_custom_code() -> Iterator[None]:
    """Refuse custom code for a while: a file of somebody else must not choose which code runs."""
    before = _REFUSED.set(True)
    try:
        yield
    finally:
        _REFUSED.reset(before)


def load_custom(spec: str) -> Any:
    """Return what ``"module:name"`` names.

    Raises:
        KitError: there is no such thing, or it must not be loaded here.
    """
    module, _, name = spec.partition(":")
    if _REFUSED.get():
        raise KitError(f"{spec}: code of others is not run here")
    if module == "__main__":
        raise KitError(
            f"{spec}: what is in a cell is gone with the kernel; move it into a file beside the "
            f"notebooks, e.g. my_module.py, and name it my_module:{name}"
        )
    try:
        with in_words(spec, passing=ImportError):
            loaded = importlib.import_module(module)
        found = getattr(loaded, name)
    except (ImportError, AttributeError) as error:
        raise KitError(
            f"{spec}: cannot be loaded ({error}); expected module:name, importable from here; "
            f"{see('extending', 'From another folder')}"
        ) from None
    except SystemExit:  # a script that ends itself would end the sweep
        raise KitError(
            f"{spec}: its module ends Python while it is imported; put what it runs below if "
            f"__name__ == '__main__'"
        ) from None
    require_unchanged(inspect.getmodule(found))
    return found


def module_of(spec: str) -> ModuleType:
    """Return the module that contains the code which ``"module:name"`` names."""
    module = inspect.getmodule(load_custom(spec)) or sys.modules[spec.partition(":")[0]]
    try:
        inspect.getsource(module)
    except (OSError, TypeError):
        raise KitError(
            f"{spec}: has no Python source, so that a run could not tell when it changes; call it "
            f"from a function of your own"
        ) from None
    return module


def require_unchanged(module: ModuleType | None) -> None:
    """Raise EditedError if a module's file was edited after Python loaded it."""
    if file := getattr(module, "__file__", None):
        changed = _changed(file)
        if _LOADED.changed.setdefault(file, changed) != changed:
            raise EditedError(
                f"{Path(file).name} was edited after it was loaded; restart the kernel, or the old "
                f"code runs"
            )


def _changed(file: str) -> int:
    """Return when a file was changed last, in nanoseconds; 0 if it is gone."""
    with suppress(OSError):
        return Path(file).stat().st_mtime_ns
    return 0


class _LoadedFiles:
    """Note when the file of each module was changed last, at the moment that it is imported.

    Python does not keep that. So this finder stands before Python's own, whom it asks.
    """

    def __init__(self) -> None:
        files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
        self.changed = {file: _changed(file) for file in files if file}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module as Python does, and note its file."""
        spec = PathFinder.find_spec(name, path, target)
        if spec and spec.has_location and spec.origin:
            self.changed[spec.origin] = _changed(spec.origin)
        return spec


_LOADED = _LoadedFiles()
sys.meta_path.insert(sys.meta_path.index(PathFinder), _LOADED)
