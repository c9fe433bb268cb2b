"""Find the folder of patients: where one would put it, on Kaggle, in an archive, by download."""

from __future__ import annotations

import itertools
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from lib.data.archive import unpack
from lib.data.layout import (
    NAMED,
    PICTURE,
    PICTURE_OR_ZIP,
    SEARCH_DEPTH,
    folders_in,
    is_slice_name,
    looks_like_patient,
    names_in,
)
from lib.runtime.own_files import LIST
from lib.utils import PROJECT, KitError, as_path, at_home, see

KAGGLE_DATASET = "mateuszbuda/lgg-mri-segmentation"
_PHANTOM = re.compile(r"phantom(?:-(\d+))?")  # folders of lib.phantom, below data
KIT_PLACES = (PROJECT / "data" / "archive.zip", PROJECT / "data" / "kaggle_3m")
"""The archive first: it is compared with the folder beside it."""
KAGGLE_INPUT = Path("/kaggle/input")
"""Where Kaggle's own notebooks find data sets, some folders deeper."""


def usual_places() -> list[Path]:
    """Return where the data set is, if it is where one would put it; in this folder, on Kaggle.

    Raises:
        KitError: this is Kaggle, and no patients are there, or in several places.
    """
    found = [place for place in KIT_PLACES if place.exists()]
    if found or not (KAGGLE_INPUT.is_dir() or "KAGGLE_KERNEL_RUN_TYPE" in os.environ):
        return found
    advice = (
        f"on Kaggle, add the data set {KAGGLE_DATASET} under Add Input, or take the phantom: "
        f"start(data='phantom'), or KIT_DATA=phantom in the environment"
    )
    if not KAGGLE_INPUT.is_dir() or not any(KAGGLE_INPUT.iterdir()):
        raise KitError(f"{KAGGLE_INPUT}: no data set is attached to this notebook; {advice}")
    try:
        return [find_root(KAGGLE_INPUT)]
    except KitError as error:
        raise KitError(f"{error}; {advice}") from None


def find_root(source: str | Path) -> Path:
    """Return the folder whose sub-folders are patients.

    Args:
        source: that folder, one that holds it (at most four levels up), Kaggle's ``archive.zip``,
            the word ``phantom`` (or ``phantom-SEED``) for that of the kit, or ``kaggle`` to
            download the dataset with kagglehub.

    Raises:
        KitError: nothing usable there.
    """
    if str(source) == "kaggle":
        source = _download()
    source = at_home(as_path(source, "data"), "data")
    if not source.exists() and (match := _PHANTOM.fullmatch(source.name)):
        if len(source.parts) == 1:  # the word alone
            source = PROJECT / "data" / source
        if not source.is_dir():
            seed = f" --seed {match[1]}" if match[1] else ""
            raise KitError(
                f"{source}: is not made yet; make it: python -m lib.phantom {source}{seed}"
            )
    if not source.exists():
        raise KitError(
            f"{source}: no such file or folder; give the Kaggle folder (kaggle_3m) or Kaggle's "
            f"archive.zip, or the word phantom; "
            f"{see('data/README.md', 'The LGG segmentation dataset')}"
        )
    if source.is_file():
        if PICTURE.fullmatch(source.name) and not zipfile.is_zipfile(source):
            raise KitError(
                f"{source}: this is one picture or scan; give the folder whose sub-folders are "
                f"patients"
            )
        return unpack(source)
    found = _distinct(_candidates(source))
    if found:
        _require_one(source, found)
        return found[0]
    if looks_like_patient(source):
        raise KitError(f"{source}: this is one patient's folder; give the folder that holds it")
    some = itertools.islice(source.rglob("*"), 20_000)
    here = next((path for path in some if PICTURE_OR_ZIP.fullmatch(path.name)), None)
    seen = f", there is e.g. {here.relative_to(source).as_posix()}" if here else ""
    raise KitError(
        f"{source}: no patient folders found; {NAMED}{seen}; "
        f"{see('extending', 'A data set of your own')}"
    )


def _candidates(source: Path) -> Iterator[Path]:
    """Yield the folders of patients in ``source``, those nearest to it first."""
    level = [source]
    for _ in range(SEARCH_DEPTH + 1):
        below = []
        for folder in level:
            children = folders_in(folder)
            if any(looks_like_patient(child) for child in children):
                if folder == source or not (folder / LIST).is_file():  # predicted masks
                    yield folder
            else:
                below += children
        level = below


def _distinct(found: Iterable[Path]) -> list[Path]:
    """Return each folder once, by its own name rather than by that of a link to it."""
    folders: dict[Path, Path] = {}
    for folder in found:
        place = folder.resolve()
        if place not in folders or (folders[place].name != place.name == folder.name):
            folders[place] = folder
    return list(folders.values())


def _require_one(source: Path, found: list[Path]) -> None:
    """Raise ``KitError`` unless all folders of patients are the first one again.

    Kaggle's archive has the patients twice, in a folder and in one within another.
    """
    if len(found) == 1:
        return
    depths = {len(folder.parts) for folder in found}
    if len(depths) == len(found) and len({_signs(folder) for folder in found}) == 1:
        return
    first, second = (folder.relative_to(source).as_posix() for folder in found[:2])
    raise KitError(
        f"{source}: {len(found)} folders hold patients, {first} and {second}"
        f"{' ...' if len(found) > 2 else ''}; give the one that is meant, with the masks beside "
        f"their images"
    )


def _signs(root: Path) -> frozenset[tuple[str, str, int, int]]:
    """Return patient, name and bytes of each slice, and a checksum of two of each patient.

    To read all of them would take minutes where Kaggle mounts the data set.
    """
    signs = set()
    for folder in folders_in(root):
        names = sorted(name for name in names_in(folder) if is_slice_name(name))
        middle = names[len(names) // 2 - 1 : len(names) // 2 + 1]
        for name in names:
            file = folder / name
            size = file.stat().st_size if file.exists() else -1
            checksum = zlib.crc32(file.read_bytes()) if name in middle and file.is_file() else 0
            signs.add((folder.name, name, size, checksum))
    return frozenset(signs)


def _download() -> Path:
    try:
        import kagglehub
    except ImportError:
        raise KitError("kagglehub is not installed; run: pip install kagglehub") from None
    try:
        return Path(kagglehub.dataset_download(KAGGLE_DATASET))
    except Exception as error:  # network, credentials, quota: kagglehub raises many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise KitError(
            f"download of {KAGGLE_DATASET} failed ({reason}); get archive.zip by hand, see "
            f"data/README.md"
        ) from None
