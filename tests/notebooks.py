"""Run the notebooks as tests, in teaching order: ``python -m tests.notebooks NOTEBOOK ...``

One call of pytest per notebook, because nbval goes on after a failing cell and mixes files up. All
share one results folder, as a student's do, and leave the working tree as it was."""

import os
import subprocess
import sys
import tempfile

_CHECK = [
    "-q",
    "-x",
    "--nbval-lax",
    "--nbval-current-env",
    "--nbval-cell-timeout=300",
    "-p",
    "no:cacheprovider",
]


def main() -> int:
    with tempfile.TemporaryDirectory() as out:
        environment = os.environ | {
            "KIT_PROFILE": "smoke",
            "KIT_DATA": "phantom",
            "KIT_OUT": out,
            "KIT_PROGRESS": "text",
        }
        for notebook in sys.argv[1:]:
            print(f"--- {notebook}", flush=True)
            code = subprocess.run(
                [sys.executable, "-m", "pytest", *_CHECK, notebook], env=environment
            ).returncode
            if code:
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
