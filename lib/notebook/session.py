"""Start a notebook: check the installation, find the data, choose the size of experiment."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from lib.notebook.waiting import said_if_slow

with said_if_slow("loading PyTorch; the first time this takes up to a minute"):
    import torch

from lib.config import Config, Profile, choose_profile, seed_of
from lib.data import find_root
from lib.data.places import usual_places
from lib.dataset import BrainData, load_data
from lib.notebook.course import Course, read_course
from lib.notebook.student import checked_student
from lib.phantom import is_phantom, write_test_set
from lib.runtime import pick_device, pick_precision
from lib.runtime.device import device_name
from lib.utils import PROJECT, KitError, at_home, short_path

PACKAGES = (
    "scipy",
    "tifffile",
    "pandas",
    "matplotlib",
    "tqdm",
    "ipywidgets",
    "anywidget",
    "jinja2",
    "mistune",
)
INSTALL = "run install.py in the kit's folder; on Colab and Kaggle see README"


@dataclass(frozen=True)
class Session:
    """Hold data, results folder and profile of a notebook.

    Attributes:
        student: an id, or None.
    """

    source: Path
    out: Path
    profile: Profile
    student: str | None = None

    def config(self, recipe: Config) -> Config:
        """Return ``recipe`` at the size of this session's profile, with the student's own seed."""
        seed = recipe.seed if self.student is None else seed_of(self.student)
        return self.profile.apply(replace(recipe, seed=seed))

    def load(self, config: Config) -> BrainData:
        """Return the session's data, prepared as ``config`` wants it; say what was found."""
        data = load_data(self.source, config.image_size, config.preprocessing)
        print(data.report())
        return data

    def test_set(self, config: Config) -> BrainData | None:
        """Return the test phantoms, prepared as ``config`` wants them; made when first needed.

        No run has learnt from them, and no epoch is chosen on them. The profile ``smoke`` has four,
        the others 200. Of patients none can be spared: for other data it is None.
        """
        if self.source.resolve() != read_course().phantom_folder.resolve():
            return None
        folder = write_test_set(few=self.profile.name == "smoke")
        return load_data(folder, config.image_size, config.preprocessing)


def start(
    profile: str | None = None,
    data: str | Path | None = None,
    out: str | Path | None = None,
    student: str | None = None,
) -> Session:
    """Check the installation, find the data and choose the profile, in ``[OK]`` / ``[FAIL]`` lines.

    The environment variables ``KIT_PROFILE``, ``KIT_DATA``, ``KIT_OUT`` and ``KIT_STUDENT`` are the
    defaults of these arguments: so a notebook is run elsewhere without changing it.

    Args:
        profile: ``smoke``, ``quick`` or ``full``; by default what data and device suggest.
        data: Kaggle folder, ``archive.zip``, ``kaggle`` or ``phantom``; by default what
            ``course.toml`` asks for, or else the Kaggle data if it is there.
        out: folder of results; by default ``result``.
        student: your id, if you submit, as ``pack`` wants it. It chooses the seed of your runs, so
            that no classmate's are the same by honest work.

    Raises:
        KitError: a line said ``[FAIL]``.
    """
    out = at_home(out or os.environ.get("KIT_OUT") or PROJECT / "result", "out")
    device = pick_device()
    precision = pick_precision(device)
    _say(
        sys.version_info >= (3, 11),
        f"Python {platform.python_version()}",
        "install Python 3.11 or newer",
    )
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    _say(version >= (2, 6), f"torch {torch.__version__}", INSTALL)
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    _say(not missing, f"packages{' missing: ' if missing else ''}{', '.join(missing)}", INSTALL)
    name = f" ({device_name(device)})" if device.type == "cuda" else ""
    _say(True, f"device {device}{name}, {precision.name}: {precision.reason}")
    if device.type == "cpu" and _has_nvidia_device():
        print(
            "note: there is an NVIDIA GPU here, which this torch cannot use; remove .venv and run "
            "install.py again: it chooses the build for the driver, or says that it is too old"
        )
    with _failing("course"):
        course = read_course()
    with _failing("data"):
        source, real = _find_data(data or os.environ.get("KIT_DATA"), course)
    _say(
        True,
        f"data {short_path(source)}"
        + ("" if real else ": the embedded phantom, generated, nobody's brain"),
    )
    if not course.accepts(phantom=not real):
        counted = {"kaggle": "patients", "phantom": "the phantom"}[course.data]
        print(f"note: in this course {counted} count: what is trained here cannot be submitted")
    with _failing("profile"):
        chosen = choose_profile(real, device.type, profile or os.environ.get("KIT_PROFILE"))
    _say(True, f"profile {chosen.name}: {chosen.reason}")
    _say(True, f"results go to {short_path(out)}")
    student = student or os.environ.get("KIT_STUDENT") or None
    if student:
        with _failing("student"):
            student = checked_student(student)
        _say(True, f"student {student}: your seed is {seed_of(student)}")
    return Session(source, out, chosen, student)


def _has_nvidia_device() -> bool:
    """Return whether the driver's own tool lists a device."""
    tool = shutil.which("nvidia-smi")
    if not tool:
        return False
    return not subprocess.run([tool, "-L"], capture_output=True, check=False).returncode


def _find_data(asked: str | Path | None, course: Course) -> tuple[Path, bool]:
    """Return the folder of the patients, and whether they are real; make the phantom if needed."""
    wanted = asked or ("phantom" if course.data == "phantom" else None)
    places = [wanted] if wanted else usual_places()
    if not places or str(places[0]) == "phantom":
        return course.write_phantom(), False
    root = find_root(places[0])
    return root, not is_phantom(root)


def _say(fine: bool, what: str, remedy: str = "") -> None:
    print(f"[{'OK' if fine else 'FAIL'}] {what}")
    if not fine:
        raise KitError(f"{what} will not do: {remedy}")


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """Say ``[FAIL]`` of what raises a ``KitError``."""
    try:
        yield
    except KitError as error:
        print(f"[FAIL] {what}: {error}")
        raise
