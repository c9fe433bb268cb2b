"""Measure how long a whole class takes: 100 submissions of the quick profile.

They are made of one run by moving its weights a little. ``python -m tests.grade.whole_class FOLDER
[NUMBER]`` makes them, grades them, and prints the time and the largest memory.
"""

from __future__ import annotations

import io
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from lib.config import PROFILES, Config
from lib.dataset import load_data
from lib.grade import grade, pack
from lib.grade.archive import write_zip
from lib.phantom import write_phantom
from lib.train import fit
from tests.grade.demo import checkpoint, read_zip, rename, run_of, sign


def main() -> None:
    """Make, grade, measure."""
    folder, number = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 100
    config = replace(Config(sampling="fresh"), **PROFILES["quick"] | {"epochs": 2})
    data = write_phantom(folder / "data")
    fit(config, load_data(data, config.image_size), folder / "result", plan="best", table="best")
    files = read_zip(pack("s0", folder / "result", quick=True).file)
    content = torch.load(io.BytesIO(files[f"{run_of(files)}/best.pt"]), weights_only=True)
    for student in (f"s{i}" for i in range(number)):
        weights = {
            name: tensor + 1e-4 * torch.randn_like(tensor) if tensor.is_floating_point() else tensor
            for name, tensor in content["weights"].items()
        }
        moved = {
            **rename(files, student),
            f"{run_of(files)}/best.pt": checkpoint({**content, "weights": weights}),
        }
        write_zip(folder / "submissions" / f"{student}.zip", sign(moved))
    started, own_time = time.perf_counter(), time.process_time()
    standings = grade(folder / "submissions", data, folder / "grades")
    seconds = time.perf_counter() - started
    child = resource.getrusage(resource.RUSAGE_CHILDREN)
    computed = time.process_time() - own_time + child.ru_utime + child.ru_stime
    print(
        f"{len(standings)} submissions in {seconds:.0f} s, of which a core computed "
        f"{computed:.0f} s; largest memory of the process that grades "
        f"{child.ru_maxrss / 2**20:.2f} GiB"
    )
    print(
        {
            status: sum(standing.status == status for standing in standings)
            for status in {standing.status for standing in standings}
        }
    )


if __name__ == "__main__":
    main()
