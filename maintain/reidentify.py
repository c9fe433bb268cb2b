"""Give runs of 0.1.0 today's ids: ``python -m maintain.reidentify OUT --old CHECKOUT``.

Until commit e5a23fb a run's id depended on the text of the code, docstrings included. What is
trained since then has the same bytes, but other ids. A run whose code was that of e5a23fb gets the
id that asks for it today, so that it is found again. Nothing but names and hashes changes. Runs of
still older code keep their ids, and are marked.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lib.config import Config
from lib.logger import SCHEMA, run_id, write_result_csvs
from lib.networks import build
from lib.runtime import code_fingerprint
from lib.train import SOURCES
from lib.utils import fingerprint, write_json

OLDER = "older than e5a23fb"
# run in a checkout of e5a23fb: configs in, their code fingerprints out
_OLD_CODE = """
import json, sys
from lib import train
from lib.config import Config
from lib.logger import code_fingerprint
print(json.dumps([code_fingerprint(Config(**config), train) for config in json.load(sys.stdin)]))
"""


def reidentify(out: Path, old: Path) -> dict[str, str]:
    """Rename the runs below ``out`` whose code was that of e5a23fb; mark those of older code.

    Args:
        out: a folder of results, with ``runs/<run_id>/run.json``.
        old: a checkout of e5a23fb.

    Returns:
        Old id -> new id, of the runs that were renamed.
    """
    files = sorted(out.glob("runs/*/run.json"))
    infos = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    before = [(file, info) for file, info in zip(files, infos, strict=True) if info["schema"] == 1]
    asked = json.dumps([info["config"] for _, info in before])
    answer = subprocess.run(
        [sys.executable, "-c", _OLD_CODE], cwd=old, input=asked, capture_output=True, text=True
    )
    if answer.returncode:
        sys.exit(f"{old}: is no checkout of e5a23fb ({answer.stderr.strip().splitlines()[-1]})")
    groups = _groups([info for _, info in before])
    renamed = {}
    for (file, info), code in zip(before, json.loads(answer.stdout), strict=True):
        if info["code"]["sha256"] != code:
            write_json(file, info | {"code": info["code"] | {"of": OLDER}})
            continue
        new = _identity(info)
        info["code"]["sha256"] = _code(Config.from_dict(info["config"]))
        for place in info.get("places", []):
            place["group"] = groups.get(place["group"], place["group"])
        write_json(file, info | {"schema": SCHEMA})
        renamed[file.parent.name] = new
        file.parent.rename(file.parent.with_name(new))
    write_result_csvs(out)
    return renamed


def _code(config: Config) -> str:
    return code_fingerprint(config, *build(config), SOURCES)


def _identity(info: dict[str, Any]) -> str:
    """Return the id that a run has with today's code."""
    config = Config.from_dict(info["config"])
    data = SimpleNamespace(fingerprint=info["data"]["sha256"])
    split = SimpleNamespace(**info["split"])
    return run_id(config, data, split, _code(config))  # type: ignore[arg-type]


def _groups(infos: list[dict[str, Any]]) -> dict[str, str]:
    """Return old -> new name of what a sweep compares, see ``lib.sweep.task.make_tasks``."""
    references: dict[str, list[dict[str, Any]]] = {}
    for info in infos:
        for place in info.get("places", []):
            if place["position"] == 0:
                references.setdefault(place["group"], []).append(info)
    groups = {}
    for group, runs in references.items():
        config, data = Config.from_dict(runs[0]["config"]), runs[0]["data"]["sha256"]
        left_out = ("device", "seed", "split")
        base = {name: value for name, value in config.identity().items() if name not in left_out}
        splits = {info["split"]["name"]: info["split"] for info in runs}
        parts = [(splits[name]["train"], splits[name]["validation"]) for name in sorted(splits)]
        groups[group] = fingerprint([base, data, parts])[:8] + group[8:]  # that of a question stays
    return groups


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m maintain.reidentify", description=__doc__)
    parser.add_argument("out", type=Path, help="folder of results")
    parser.add_argument("--old", type=Path, required=True, help="a checkout of e5a23fb")
    options = parser.parse_args()
    renamed = reidentify(options.out, options.old)
    for old, new in renamed.items():
        print(f"{old} -> {new}")
    print(f"{len(renamed)} runs renamed")


if __name__ == "__main__":
    main()
