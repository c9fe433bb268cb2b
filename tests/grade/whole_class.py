"""Measure how long a class takes: U-Nets of 32 features on ten phantoms of 128 pixels.

``python -m tests.grade.whole_class FOLDER [NUMBER]`` trains a network for each student (for an
epoch, a few seconds), breaks one submission in five, grades them, and prints the time and the
largest memory. What is trained already is not trained again.
"""

from __future__ import annotations

import json
import resource
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lib.config import Config, seed_of
from lib.dataset import load_data
from lib.grade import grade, pack
from lib.grade.archive import write_zip
from lib.grade.gradebook import flags
from lib.grade.submission import MANIFEST
from lib.phantom import write_phantom
from lib.train import fit
from lib.utils import progress
from tests.grade.demo import (
    Files,
    edit_json,
    edited_metric,
    inflated_csv,
    missing_files,
    pickled_code,
    read_zip,
    rename,
    run_of,
)
from tests.grade.tutorial import altered

RECIPE = Config(image_size=128, epochs=1, lr=1e-3, sampling="fresh", split="holdout:10")
SPLIT, PATIENTS = "holdout:10", 14
NUMBER, ONE_IN = 60, 5
Way = Callable[[Files, dict[str, Files], Path], Files]


def other_line_ends(files: Files, packed: dict[str, Files], trace: Path) -> Files:
    """An honest submission that went through Windows."""
    ends = (".csv", ".py")
    return {
        name: content.replace(b"\n", b"\r\n") if name.endswith(ends) else content
        for name, content in files.items()
    }


def no_text(files: Files, packed: dict[str, Files], trace: Path) -> Files:
    """A field of the settings that no encoding can write."""
    name = f"{run_of(files)}/run.json"
    config = json.loads(files[name])["config"] | {"model": "\ud800"}
    return {**files, name: edit_json(files[name], config=config)}


def copied(files: Files, packed: dict[str, Files], trace: Path) -> Files:
    """A classmate's submission under another id."""
    return packed["s00"]


def copied_and_altered(files: Files, packed: dict[str, Files], trace: Path) -> Files:
    """A classmate's weights with noise of 1 %."""
    return altered(packed["s01"])


def only_words(files: Files, packed: dict[str, Files], trace: Path) -> Files:
    """The notebooks alone."""
    return {name: content for name, content in files.items() if name.endswith(".ipynb")}


WAYS: tuple[Way, ...] = (
    inflated_csv,
    edited_metric,
    missing_files,
    pickled_code,
    other_line_ends,
    no_text,
    copied,
    copied_and_altered,
    only_words,
)


def build(folder: Path, number: int) -> Path:
    """Write data and submissions, and return the folder of the data."""
    data_folder = write_phantom(folder / "data", patients=PATIENTS)
    data = load_data(data_folder, RECIPE.image_size)
    packed: dict[str, Files] = {}
    for student in progress([f"s{i:02}" for i in range(number)], desc="training", unit="student"):
        out = folder / "results" / student
        fit(replace(RECIPE, seed=seed_of(student)), data, out, plan="best", table="best")
        packed[student] = read_zip(pack(student, out, quick=True).file)
    for place, (student, files) in enumerate(packed.items()):
        target = folder / "submissions" / f"{student}.zip"
        turn, rest = divmod(place, ONE_IN)
        if rest != ONE_IN - 1:
            write_zip(target, files)
        elif turn < len(WAYS):
            trace = (folder / "TRACE").resolve()
            broken = WAYS[turn](files, packed, trace)
            write_zip(target, rename(broken, student) if MANIFEST in broken else broken)
        else:
            _write_odd(target, files, turn)
    return data_folder


def _write_odd(target: Path, files: Files, turn: int) -> None:
    """Write a zip that was cut off, another archive, or a name of another encoding."""
    write_zip(target, files)
    whole = target.read_bytes()
    if turn % 3 == 0:
        target.write_bytes(whole[: len(whole) // 2])
    elif turn % 3 == 1:
        with tarfile.open(target.with_suffix(".tar.gz"), "w:gz") as bundle:
            bundle.add(target, target.name)
        target.unlink()
    else:
        name = f"张三-{target.stem}.zip".encode("gbk").decode("utf-8", "surrogateescape")
        target.rename(target.with_name(name))


def main() -> None:
    """Make, grade, measure."""
    folder = Path(sys.argv[1])
    number = int(sys.argv[2]) if len(sys.argv) > 2 else NUMBER
    data = build(folder, number)
    started, own_time = time.perf_counter(), time.process_time()
    standings = grade(folder / "submissions", data, folder / "grades", split=SPLIT)
    seconds = time.perf_counter() - started
    child = resource.getrusage(resource.RUSAGE_CHILDREN)
    computed = time.process_time() - own_time + child.ru_utime + child.ru_stime
    print(
        f"{len(standings)} submissions in {seconds:.0f} s, of which the cores computed "
        f"{computed:.0f} s; largest memory of the process that grades "
        f"{child.ru_maxrss / 2**20:.2f} GiB"
    )
    print(dict(Counter(standing.status for standing in standings)))
    for standing in standings:
        if flags(standing):
            print(f"{standing.result.student:<6}{standing.status:<16}{flags(standing)}")


if __name__ == "__main__":
    main()
