"""Install the kit into ``.venv``: ``python3 install.py``, on Windows ``py install.py``.

It needs Python 3.11 to 3.14 and nothing else. A ``.venv`` that does not work is made anew. Without
an NVIDIA driver torch comes without CUDA: 200 MB instead of 3 GB.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

OLDEST, NEWEST = (3, 11), (3, 14)
ROOT = Path(__file__).parent
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
NO_VENV = """this Python cannot make environments (its module ensurepip is missing). Install it:
  Debian, Ubuntu   sudo apt install python3-venv
  Fedora           sudo dnf install python3
  conda            conda create -n kit python=3.12 && conda activate kit
then run this again."""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python install.py", description="Install the kit.")
    parser.add_argument("--dev", action="store_true", help="also what the tests need")
    wants_dev = parser.parse_args().dev
    version = sys.version_info[:2]
    if not OLDEST <= version <= NEWEST:
        stop(
            f"Python 3.{OLDEST[1]} to 3.{NEWEST[1]} is needed (newer ones as soon as torch has "
            f"packages for them); this is {version[0]}.{version[1]}. Name another, for example: "
            f"python3.12 install.py, or make PYTHON=python3.12"
        )
    python = environment(ROOT / ".venv")
    install_torch(python)
    files = ["requirements.txt", *(["requirements-dev.txt"] if wants_dev else [])]
    print("installing the other packages: 250 MB", flush=True)
    pip(python, *(part for file in files for part in ("-r", str(ROOT / file))))
    print(f"installed; this Python has everything: {python}")


def stop(message: str) -> None:
    """End with a message and no traceback."""
    sys.exit(f"install.py: {message}")


def environment(folder: Path) -> Path:
    """Return the Python of an environment, which is made if there is none that works."""
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if works(python):
        return python
    if folder.exists():
        if not (folder / "pyvenv.cfg").is_file():
            stop(f"{folder} is no environment of Python; move it away, and run this again")
        print(f"{folder} does not work; making it anew", flush=True)
        shutil.rmtree(folder)
    if subprocess.run(
        [sys.executable, "-c", "import ensurepip, venv"], capture_output=True
    ).returncode:
        stop(NO_VENV)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=False)
    if not works(python):
        shutil.rmtree(folder, ignore_errors=True)
        stop(f"{folder} could not be made; see the lines above")
    return python


def works(python: Path) -> bool:
    """Return whether a Python of an environment runs, is new enough, and has pip."""
    check = f"import pip, sys; sys.exit(not {OLDEST} <= sys.version_info[:2] <= {NEWEST})"
    try:
        return not subprocess.run([str(python), "-c", check], capture_output=True).returncode
    except OSError:
        return False


def install_torch(python: Path) -> None:
    """Install torch where it is missing: without CUDA, if there is no NVIDIA driver."""
    if not subprocess.run([str(python), "-c", "import torch"], capture_output=True).returncode:
        return
    if sys.platform == "darwin" or has_nvidia_driver():
        return  # PyPI's is the right one, and comes with the others
    if not is_reachable(f"{CPU_INDEX}/torch/"):
        print(f"{CPU_INDEX} is out of reach: torch comes from PyPI (3 GB on Linux)", flush=True)
        return
    print("installing torch without CUDA, as there is no NVIDIA driver: 200 MB", flush=True)
    pip(python, "torch", "--extra-index-url", CPU_INDEX)  # its 2.x+cpu counts as newer than 2.x


def has_nvidia_driver() -> bool:
    """Return whether the driver's own tool sees a device."""
    tool = shutil.which("nvidia-smi")
    return bool(tool) and not subprocess.run([tool, "-L"], capture_output=True).returncode


def is_reachable(address: str) -> bool:
    """Return whether an index answers within five seconds."""
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def pip(python: Path, *arguments: str) -> None:
    """Install packages in the tested versions, and show pip's progress."""
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
    command += [] if sys.stdout.isatty() else ["-q"]
    command += ["-c", str(ROOT / "constraints.txt"), *arguments]
    if subprocess.run(command, check=False).returncode:
        stop("pip could not install everything, see its lines above; run this again")


if __name__ == "__main__":
    main()
