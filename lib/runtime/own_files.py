"""Write into a folder that may hold other people's files, and never replace one of theirs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from lib.utils import KitError, changing, put_aside, say, sha256, write_atomic

LIST = ".written.json"


class OwnFiles:
    """Know which files of a folder the kit has written, by a list of their hashes in the folder.

    A file is the kit's as long as its content is what was written. One that was edited since, or
    that was there before, is somebody else's. So is what lies elsewhere, whatever the list says.

    Args:
        folder: may be missing.
        name: of the list.
    """

    def __init__(self, folder: Path, name: str = LIST) -> None:
        self.folder, self.list = folder, folder / name
        self._hashes: dict[str, list[str]] = {}
        try:
            listed = json.loads(self.list.read_text(encoding="utf-8"))
            self._hashes = {
                file: [str(h) for h in hashes] for file, hashes in listed.items() if _is_below(file)
            }
        except (OSError, ValueError, AttributeError, TypeError):
            pass  # no list: nothing there is ours

    def is_ours(self, path: Path) -> bool:
        """Return whether a file is as the kit has written it."""
        if path.is_symlink() or not path.is_file():
            return False
        return sha256(path) in self._hashes.get(self._place(path), ())

    def foreign(self, paths: Iterable[Path]) -> list[Path]:
        """Return those of ``paths`` that are there and that the kit may not replace.

        Links are among them: behind one lies a file of another place.
        """
        return [
            path
            for path in paths
            if any(part.is_symlink() for part in self._steps(path))
            or (path.exists() and not self.is_ours(path))
        ]

    def write(self, contents: dict[Path, bytes]) -> None:
        """Write files, each as a whole; somebody else's that is in the place is put aside.

        Until all are written the list knows what comes and all that may be there: after several
        interruptions that is not what was to be written last.

        Raises:
            KitError: a folder on the way is a link, or something cannot be written.
        """
        hashes = {self._place(path): sha256(content) for path, content in contents.items()}
        for place, digest in hashes.items():
            self._hashes[place] = [*self._hashes.get(place, []), digest]
        for path in self.foreign(contents):
            self._put_aside(path)
        self._write_list()
        for path, content in contents.items():
            write_atomic(path, content, durable=False)
        self._hashes |= {place: [digest] for place, digest in hashes.items()}
        self._write_list()

    def remove_others(self, kept: Iterable[Path]) -> tuple[int, list[Path]]:
        """Remove the kit's own files that are not among ``kept``.

        Returns:
            How many, and those that stay as they were edited since.
        """
        places, removed, edited = {self._place(path) for path in kept}, 0, []
        for place in [place for place in self._hashes if place not in places]:
            path = self.folder / place
            if self.is_ours(path) and not self.foreign([path]):
                with changing(path):
                    path.unlink()
                    if path.parent != self.folder and not any(path.parent.iterdir()):
                        path.parent.rmdir()
                removed += 1
            elif path.exists():
                edited.append(path)
            del self._hashes[place]
        self._write_list()
        return removed, edited

    def _put_aside(self, path: Path) -> None:
        """Rename what is not the kit's, unless it is in the folder of another place."""
        _, *above = self._steps(path)
        if links := [step for step in above if step.is_symlink()]:
            raise KitError(f"{links[0]}: is a link; name another folder, or remove it")
        say(f"{path}: is not as the kit wrote it; it is {put_aside(path).name} now")

    def _write_list(self) -> None:
        write_atomic(self.list, json.dumps(self._hashes, indent=1).encode(), durable=False)

    def _place(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _steps(self, path: Path) -> list[Path]:
        """Return the path and the folders above it, inside of the folder."""
        above = path.relative_to(self.folder).parents
        return [path, *(self.folder / up for up in above if up != Path())]


def _is_below(place: str) -> bool:
    """Return whether a place in a list is inside of the folder, and no name in it is too long."""
    path = Path(place)
    inside = bool(path.parts) and not path.anchor and ".." not in path.parts
    return inside and all(len(os.fsencode(step)) < 256 for step in path.parts)


def require_replaceable(own: OwnFiles, paths: Iterable[Path], remedy: str) -> None:
    """Raise ``KitError`` if one of ``paths`` is not the kit's to replace."""
    foreign = own.foreign(paths)
    if foreign:
        raise KitError(
            f"{foreign[0]}: is there and was not written by this version of the kit, or was edited "
            f"since ({len(foreign)} such files); {remedy}"
        )
