"""Install the kit into ``.venv``: ``python3 install.py``, on Windows ``py install.py``.

It needs Python 3.11 to 3.14 and nothing else. A ``.venv`` that does not work is made anew. torch
comes with the CUDA that an NVIDIA driver and device can use (3 GB), or without (200 MB).
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

OLDEST, NEWEST = (3, 11), (3, 14)
ROOT = Path(__file__).parent
INDEX = "https://download.pytorch.org/whl/{}"
CPU, NEW, OLD = "cpu", "cu130", "cu126"  # builds of torch, see ``build_for``
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
    """Install the build of torch for this computer, where torch is missing."""
    if not subprocess.run([str(python), "-c", "import torch"], capture_output=True).returncode:
        return
    build = build_for(nvidia_devices())
    if sys.platform == "darwin" or (sys.platform == "linux" and build == NEW):
        return  # PyPI's is the right one, and comes with the others
    index = INDEX.format(build)
    if not is_reachable(f"{index}/torch/"):
        what = "3 GB on Linux, without CUDA on Windows"
        print(f"{index} is out of reach: torch comes from PyPI ({what})", flush=True)
        return
    what = "without CUDA: 200 MB" if build == CPU else f"for CUDA ({build}): 3 GB"
    print(f"installing torch {what}", flush=True)
    pip(python, "torch", "--extra-index-url", index)  # its 2.x+cpu counts as newer than 2.x


def nvidia_devices() -> list[tuple[float, float]]:
    """Return (version of the driver, compute capability) of each NVIDIA device."""
    tool = shutil.which("nvidia-smi")
    if not tool:
        return []
    asked = [tool, "--query-gpu=driver_version,compute_cap", "--format=csv,noheader"]
    answer = subprocess.run(asked, capture_output=True, text=True, errors="replace")
    found = re.findall(r"^(\d+)\.\S*, *(\d+\.\d+)", answer.stdout, re.MULTILINE)
    return [(float(driver), float(capability)) for driver, capability in found]


def build_for(devices: list[tuple[float, float]]) -> str:
    """Return the build of torch 2.13 for these devices.

    CUDA 13.0 needs a driver of the 580 series and Turing (7.5) or newer; CUDA 12.6 a driver of the
    525 series, and has kernels for Maxwell (5.0) to Hopper (9.0).
    https://github.com/pytorch/pytorch/blob/main/RELEASE.md#pytorch-cuda-support-matrix
    """
    if any(driver >= 580 and capability >= 7.5 for driver, capability in devices):
        return NEW
    if any(driver >= 525 and 5.0 <= capability <= 9.0 for driver, capability in devices):
        return OLD
    if devices:
        print("the NVIDIA driver is too old for torch: update it, remove .venv, and run this again")
    return CPU


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
