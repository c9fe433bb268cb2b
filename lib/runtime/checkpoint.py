"""Read a file of weights as data, and only if it is as it was written."""

from __future__ import annotations

import errno
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib.utils import KitError


class DamagedError(KitError):
    """Report a file that is not as it was written."""


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Return the content of a file of weights, by name; the file is opened as data.

    torch does not compare the checksums of the archive that it reads: a flipped bit would be
    believed. They are compared here.

    Raises:
        KitError: no such file, or one that cannot be read now.
        DamagedError: not as it was written, or it wants to run code.
    """
    try:
        damaged = _damaged_part(file)
        if damaged:
            raise DamagedError(f"{file}: is damaged (checksum of {damaged}); copy it again")
        with warnings.catch_warnings():
            # about old pickles: a file that cannot be read is reported below
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True)
    except KitError:
        raise
    except (FileNotFoundError, IsADirectoryError):
        trouble = "is a folder" if file.is_dir() else "no such file"
        raise KitError(
            f"{file}: {trouble}; give best.pt of a run, e.g. result/runs/<run>/best.pt"
        ) from None
    except pickle.UnpicklingError:
        raise DamagedError(
            f"{file}: holds more than weights, or is damaged; not opened, as it could run code"
        ) from None
    except Exception as error:  # damaged files raise almost anything
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        # an invalid seek is of a damaged file, any other trouble of the disk
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise KitError(f"{file}: cannot be read now ({reason}); try again") from None
        if isinstance(error, MemoryError):
            raise KitError(f"{file}: does not fit into memory; close other programs") from None
        raise DamagedError(f"{file}: cannot be read as weights ({reason}); copy it again") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise DamagedError(
            f"{file}: holds no dict of weights by name; give best.pt of a run or a published "
            f"state dict"
        )
    return content


def require_finite(file: Path, weights: dict[str, Any]) -> None:
    """Raise ``KitError`` if a weight is infinite or not a number, or is stored as no plain number.

    Such are sparse and quantised weights, and those without content.
    """
    for name, tensor in weights.items():
        if not isinstance(tensor, Tensor):
            continue
        try:
            finite = bool(tensor.isfinite().all())
        except RuntimeError:  # torch cannot compute with such numbers
            kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device.type}"
            raise KitError(
                f"{file}: {name} is stored as no plain numbers ({kind}); save it dense, with 16 "
                f"to 64 bits"
            ) from None
        if not finite:
            raise KitError(
                f"{file}: {name} has a weight that is infinite or not a number; such a network "
                f"finds nothing, train it anew"
            )


def _damaged_part(file: Path) -> str | None:
    """Return the first entry of a zip whose checksum is wrong; None for what is no zip.

    Raises:
        DamagedError: an entry is compressed; a small file could fill the memory.
    """
    if not zipfile.is_zipfile(file):
        return None
    with zipfile.ZipFile(file) as bundle:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in bundle.infolist()):
            raise DamagedError(f"{file}: is compressed, which torch never does; not opened")
        return bundle.testzip()
