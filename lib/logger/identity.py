"""Name a run by all that decides its outcome, and read what run.json says of it."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from lib import __version__
from lib.config import PROFILES, Config, identity_of
from lib.dataset import BrainData, Split
from lib.utils import fingerprint

SCHEMA = 2  # of run.json; in 1, an id was the hash of all settings and of the text of the code


def run_id(config: Config, data: BrainData, split: Split, code: str) -> str:
    """Return a readable slug with a hash of all that decides the outcome.

    These are config, data, the patients of the split, and the code. Only fields of the config that
    differ from the published recipe count, so that a new field renames no run. The device is no
    part of it.

    Args:
        code: from ``code_fingerprint``.
    """
    return _id_of(config.to_dict(), data.fingerprint, split.train, split.validation, code)


def stated_id(info: Mapping[str, Any]) -> str:
    """Return the id that a run has by its run.json, see ``run_id``.

    It can be computed of runs of this ``SCHEMA`` only.
    """
    split, data, code = info["split"], info["data"]["sha256"], info["code"]["sha256"]
    return _id_of(info["config"], data, split["train"], split["validation"], code)


def _id_of(
    settings: Mapping[str, Any],
    data: str,
    train: Sequence[str],
    validation: Sequence[str],
    code: str,
) -> str:
    """Return the id of a run, see ``run_id``.

    Args:
        settings: fields of the config, as the version that trained it knew them.
        data: fingerprint of the data.
    """
    identity = {
        name: value
        for name, value in identity_of(settings).items()
        if name not in ("device", "split")
    }
    digest = fingerprint([identity, data, train, validation, code])
    # a custom class is named module:Class, and Windows allows no : in the name of a folder
    network, loss_name, optimizer, sampling = (
        settings[name].rpartition(":")[2] for name in ("model", "loss", "optimizer", "sampling")
    )
    return (
        f"{network}{settings['init_features']}-{loss_name}-{optimizer}-{sampling}-"
        f"{settings['image_size']}px-seed{settings['seed']}-{digest[:10]}"
    )


def description(config: Config, data: BrainData, split: Split, code: str) -> dict[str, Any]:
    """Return what run.json says of a run before it starts.

    Args:
        code: from ``code_fingerprint``.
    """
    return {
        "schema": SCHEMA,
        "status": "running",
        "error": None,
        "config": config.to_dict(),
        "profile": profile_of(config.to_dict()),
        "data": {
            "name": data.name,
            "patients": len(data.patients),
            "sha256": data.fingerprint,
            "phantom": _are_phantoms([*split.train, *split.validation]),
        },
        "code": {"sha256": code},
        "split": {
            "name": split.name,
            "train": list(split.train),
            "validation": list(split.validation),
        },
        "versions": {
            "kit": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "platform": platform.platform(),
        },
    }


def profile_of(settings: Mapping[str, Any]) -> str:
    """Return the name of the smallest profile that is no smaller than a recipe.

    Width and image size decide, because the other fields of a profile are also what sweeps change.

    Args:
        settings: field of ``Config`` -> value.
    """
    sizes = {
        name: [field for field in ("image_size", "init_features") if field in changes]
        for name, changes in PROFILES.items()
    }
    return next(
        name
        for name, fields in sizes.items()
        if all(settings[field] <= PROFILES[name][field] for field in fields)
    )


def _are_phantoms(patients: Sequence[str]) -> bool:
    """Return whether all patients are phantoms, by their names."""
    return all(name.startswith("PHANTOM_") for name in patients)


def updated(info: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a run.json as this version writes it.

    Older versions recorded no ``profile``, no ``data.phantom`` and no ``tables``: a plan whose name
    started with "best" belonged to the best CSV. In schema 1, ``device`` and ``precision`` of a run
    that went on elsewhere were joined by "; then ". A damaged field is left as it is.
    """
    info = dict(info)
    if "profile" not in info and isinstance(info.get("config"), dict):
        with suppress(KeyError, TypeError):
            info["profile"] = profile_of(info["config"])
    if isinstance(info.get("data"), dict) and "phantom" not in info["data"]:
        with suppress(KeyError, TypeError, AttributeError):
            patients = [*info["split"]["train"], *info["split"]["validation"]]
            info["data"] = info["data"] | {"phantom": _are_phantoms(patients)}
    plans = info.get("plans")
    if "tables" not in info and isinstance(plans, list):
        info["tables"] = {
            plan: "best" if plan.startswith("best") else "train"
            for plan in plans
            if isinstance(plan, str)
        }
    device, precision = info.get("device"), info.get("precision")
    if "earlier" not in info and isinstance(device, str) and isinstance(precision, str):
        devices, precisions = device.split("; then "), precision.split("; then ")
        count = max(len(devices), len(precisions))
        # of the two, one may have changed more often
        devices += devices[-1:] * (count - len(devices))
        precisions += precisions[-1:] * (count - len(precisions))
        *earlier, last = (
            {"device": device, "precision": precision}
            for device, precision in zip(devices, precisions, strict=True)
        )
        info |= {"earlier": earlier, **last}
    return info
