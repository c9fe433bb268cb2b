"""Run the notebooks as tests, in teaching order: ``python -m tests.notebooks NOTEBOOK ...``

The first comes first, as it trains what the last one shows; the others run two at a time. One call
of pytest per notebook, because nbval goes on after a failing cell and mixes files up. All share one
results folder, as a student's do, and leave the working tree as it was.
"""

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

_CHECK = [
    "-q",
    "-x",
    "--nbval-lax",
    "--nbval-current-env",
    "--nbval-cell-timeout=600",
    "-p",
    "no:cacheprovider",
]


def check(notebook: str, out: str) -> int:
    """Run a notebook, print what pytest says, and return its exit status."""
    environment = os.environ | {
        "KIT_PROFILE": "smoke",
        "KIT_DATA": "phantom",
        "KIT_OUT": out,
        "KIT_PROGRESS": "text",
        "KIT_STUDENT": "ada",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *_CHECK, notebook],
        env=environment,
        capture_output=True,
        text=True,
    )
    print(f"--- {notebook}\n{done.stdout}{done.stderr}", flush=True)
    return done.returncode


def main() -> int:
    """Run the command line."""
    first, *others = sys.argv[1:]
    with tempfile.TemporaryDirectory() as out, ThreadPoolExecutor(2) as two:
        if check(first, out):
            return 1
        return int(any(list(two.map(check, others, [out] * len(others)))))


if __name__ == "__main__":
    sys.exit(main())
