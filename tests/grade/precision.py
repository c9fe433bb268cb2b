"""How far the number format moves a score: every run of a folder scored in fp32 and in bf16.

``python -m tests.grade.precision RESULTS DATA``: the tolerance of ``lib/grade/rubric.toml`` rests
on it."""

from __future__ import annotations

import sys

from lib.dataset import load_data
from lib.logger import finished_runs
from lib.predict import predict


def main() -> None:
    """A line a run, then the largest differences."""
    means, patients = [], []
    for run in finished_runs(sys.argv[1]):
        data = load_data(sys.argv[2], run.config.image_size, run.config.preprocessing)
        scored = run.info["split"]["validation"]
        one, other = (
            predict(run.weights, data, patients=scored, precision=precision).cases["dsc"]
            for precision in ("fp32", "bf16")
        )
        means.append(abs(one.mean() - other.mean()))
        patients.append((one - other).abs().max())
        print(f"{run.id}: mean DSC {one.mean():.5f} in fp32, {other.mean():.5f} in bf16")
    print(
        f"{len(means)} runs: the mean moves by at most {max(means):.5f}, a patient's DSC by "
        f"{max(patients):.5f}"
    )


if __name__ == "__main__":
    main()
