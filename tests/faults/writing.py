"""G. Writing where it must not: what the kit did not write stays, byte for byte."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import tifffile

from lib.data import find_root
from lib.dataset import load_data
from lib.grade.pack import pack
from lib.logger import write_result_csvs
from lib.phantom import write_phantom
from lib.predict import predict
from lib.report import write_report
from lib.runtime.own_files import OwnFiles
from lib.train import fit
from tests.conftest import NAMES, brain, write_patient
from tests.faults.things import TINY, data_in, patients, runs_in, trained
from tests.faults.tries import Try, kind


def _predict(t: Try, out: Path, patients: list[str] | None = None) -> object:
    folder = t.shared(trained)
    weights = runs_in(folder)[t.number(0, 2)] / "best.pt"
    data = data_in(folder)
    return predict(weights, data, out, patients=patients, device="cpu", precision="fp32")


def _masks(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*_mask.tif"))


@kind("G", 60)
def predict_into_another_copy_of_the_data(t: Try) -> None:
    """With images, with masks only, with some of either: nothing is replaced."""
    copy = t.folder / "copy"
    patients(copy)
    way = t.pick(("all", "masks", "one mask", "images", "one image", "kaggle_3m"))
    keep = {
        "masks": lambda file: file.name.endswith("_mask.tif"),
        "images": lambda file: not file.name.endswith("_mask.tif"),
        "one mask": lambda file: file.name == f"{NAMES[2]}_3_mask.tif",
        "one image": lambda file: file.name == f"{NAMES[2]}_3.tif",
    }.get(way, lambda file: True)
    for file in [file for file in copy.rglob("*.tif") if not keep(file)]:
        file.unlink()
    t.guard(copy)
    t.refuse(lambda: _predict(t, copy), copy)
    t.must(not (copy / "cases.csv").exists(), "cases.csv of nothing")


@kind("G", 60)
def predict_through_links(t: Try) -> None:
    """As DVC, git-annex and cp -rs make them: what lies behind stays."""
    truth, out = t.folder / "truth", t.folder / "out"
    patients(truth)
    out.mkdir()
    way = t.pick(("files", "folder", "patient", "hard", "dangling", "cases"))
    if way == "folder":
        out.rmdir()
        out.symlink_to(truth, target_is_directory=True)
    elif way == "patient":
        (out / NAMES[0]).symlink_to(truth / NAMES[0], target_is_directory=True)
    elif way == "cases":
        (truth / "cases.csv").write_text("mine\n")
        (out / "cases.csv").symlink_to(truth / "cases.csv")
    else:
        for file in _masks(truth):
            place = out / file.parent.name / file.name
            place.parent.mkdir(exist_ok=True)
            if way == "hard":
                os.link(file, place)
            else:
                place.symlink_to(t.folder / "nowhere" if way == "dangling" else file)
    t.guard(truth)
    t.refuse(lambda: _predict(t, out))


@kind("G", 60)
def masks_were_corrected_by_hand(t: Try) -> None:
    """Predicting again leaves a mask alone that somebody has edited, added or replaced."""
    out = t.folder / "masks"
    t.right(lambda: _predict(t, out))
    mask = t.pick(_masks(out))
    way = t.pick(("edited", "saved again", "touched", "note"))
    if way == "edited":
        pixels = tifffile.imread(mask)
        pixels[t.number(0, 32), t.number(0, 32)] ^= 255
        tifffile.imwrite(mask, pixels)
    elif way == "saved again":
        tifffile.imwrite(mask, tifffile.imread(mask), compression="zlib")
    elif way == "touched":
        os.utime(mask, (0, 0))
    else:
        note = mask.with_name("note.txt")
        note.write_text("looks odd")
        t.guard(note)
    if way in ("edited", "saved again"):
        t.guard(mask)
        t.refuse(lambda: _predict(t, out), mask)
    else:
        t.right(lambda: _predict(t, out))


@kind("G", 40)
def masks_beside_cases_belong_to_them(t: Try) -> None:
    """After a prediction of some patients no mask of others is left beside cases.csv."""
    out = t.folder / "masks"
    t.right(lambda: _predict(t, out))
    names = [str(name) for name in t.rng.permutation(NAMES)[: t.number(1, 4)]]
    prediction = t.right(lambda: _predict(t, out, names))
    here = sorted({mask.parent.name for mask in _masks(out)})
    t.must(here == sorted(names), f"masks of {here}")
    rows = (out / "cases.csv").read_text().splitlines()[1:]
    t.must(sorted(row.split(",")[0] for row in rows) == sorted(names), "cases of others")
    for name in names:
        stack = [
            tifffile.imread(mask) > 0
            for mask in sorted(
                (out / name).glob("*"), key=lambda path: int(path.stem.split("_")[-2])
            )
        ]
        same = np.array_equal(np.stack(stack), prediction.mask(name) > 0)  # type: ignore[attr-defined]
        t.must(same, f"{name}: another mask is there")


@kind("G", 60)
def pictures_in_the_folder_of_the_report(t: Try) -> None:
    """Pictures and notes of the student in result/report stay."""
    folder = t.copied(trained)
    figures = folder / "out" / "report"
    if t.chance(0.7):
        t.right(lambda: write_report(folder / "out", images=False))
    figures.mkdir(exist_ok=True)
    names = ("mine.png", "figure 1.PNG", "sub/curve.png", "notes.md", "experiment-1-curves.png")
    for name in names[: t.number(1, len(names) + 1)]:
        (figures / name).parent.mkdir(exist_ok=True)
        (figures / name).write_bytes(t.rng.bytes(50))
    if t.chance(0.3) and list(figures.glob("*.png")):
        t.pick(sorted(figures.glob("*.png"))).write_bytes(b"edited by hand")
    listed = OwnFiles(figures)
    theirs = [file for file in figures.rglob("*") if file.is_file() and not listed.is_ours(file)]
    before = {file.name: file.read_bytes() for file in theirs if file != listed.list}
    t.right_or_refuse(lambda: write_report(folder / "out", images=False), lambda _: True, figures)
    after = {p.name: p.read_bytes() for p in (folder / "out").rglob("*") if p.is_file()}
    for name, content in before.items():
        t.must(after.get(name) == content, f"{name} is gone or changed")


@kind("G", 40)
def the_notebooks_of_the_student_stay(t: Try) -> None:
    """A report reads the notebooks, whatever is in them, and changes none."""
    folder = t.copied(trained)
    asked = {"cell_type": "markdown", "source": ["# \ud800"], "metadata": {"question": "0"}}
    content = t.pick(
        (
            json.dumps({"cells": [asked]}).encode(),
            b"",
            b"\xef\xbb\xbf{}",
            b'{"cells": [7, {"source": {}, "metadata": {"question": []}}]}',
            b"\xff\xfe#\x00",
            b"[" * 90_000,
        )
    )
    notebooks = folder / "notebooks"
    notebooks.mkdir()
    (notebooks / "x.ipynb").write_bytes(content)
    t.guard(notebooks)
    t.right_or_refuse(
        lambda: write_report(folder / "out", images=False, notebooks=notebooks), lambda _: True
    )


@kind("G", 60)
def results_lie_where_other_files_are(t: Try) -> None:
    """Training into a folder with other files touches none of them."""
    out = t.folder / "out"
    out.mkdir()
    for name in ("notes.txt", "runs/readme.md", "runs/other/run.txt", "uexec_result_train.csv.bak"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(t.rng.bytes(20))
    t.guard(out)
    data = data_in(t.shared(trained))
    run = t.right(lambda: fit(TINY, data, out))
    t.must(run.folder.parent == out / "runs", str(run.folder))


@kind("G", 40)
def a_file_is_where_a_folder_should_be(t: Try) -> None:
    data = data_in(t.shared(trained))
    out = t.folder / "out"
    way = t.pick(("out", "runs", "masks", "phantom", "report"))
    if way == "runs":
        out.mkdir()
        (out / "runs").write_text("a file")
        t.guard(out)
        t.refuse(lambda: fit(TINY, data, out), out)
        return
    out.write_text("a file")
    t.guard(out)
    call = {
        "out": lambda: fit(TINY, data, out),
        "masks": lambda: _predict(t, out),
        "phantom": lambda: write_phantom(out, patients=1, size=32),
        "report": lambda: write_report(t.copied(trained) / "out", images=False, target=out),
    }[way]
    t.refuse(call, out)


@kind("G", 40)
def a_phantom_into_a_folder_of_others(t: Try) -> None:
    root = t.folder / "ph"
    root.mkdir()
    way = t.pick(("notes", "patients", "record", "link", "another"))
    if way == "notes":
        (root / "notes.txt").write_text("mine")
    elif way == "patients":
        write_patient(root, NAMES[0], *brain(0))
    elif way == "record":
        (root / "phantom.json").write_text(t.pick(("{}", "", "[]", '{"seed": 1}')))
    elif way == "another":
        write_phantom(root, patients=1, seed=5, size=32)
    else:
        root.rmdir()
        (t.folder / "elsewhere").mkdir()
        write_patient(t.folder / "elsewhere", NAMES[0], *brain(0))
        root.symlink_to(t.folder / "elsewhere", target_is_directory=True)
    t.guard(t.folder)
    t.refuse(lambda: write_phantom(root, patients=2, seed=1, size=32), root)


@kind("G", 60)
def an_archive_is_unpacked_beside_other_files(t: Try) -> None:
    """Unpacking fills a folder of its own, and none that is there."""
    archive = t.folder / t.pick(("archive.zip", "scans.zip", "My scans.zip"))
    source = t.folder / "source"
    patients(source)
    with zipfile.ZipFile(archive, "w") as bundle:
        for file in sorted(source.rglob("*.tif")):
            bundle.write(file, f"x/{file.relative_to(source).as_posix()}")
    target = t.folder / ("kaggle_3m" if archive.name == "archive.zip" else archive.stem)
    way = t.pick(("free", "notes", "patient", "file", "link"))
    if way == "notes":
        target.mkdir()
        (target / "notes.txt").write_text("mine")
    elif way == "patient":
        write_patient(target, "TCGA_XX_1_19990101", *brain(9))
    elif way == "file":
        target.write_text("mine")
    elif way == "link":
        (t.folder / "elsewhere").mkdir()
        (t.folder / "elsewhere" / "mine.txt").write_text("mine")
        target.symlink_to(t.folder / "elsewhere", target_is_directory=True)
    t.guard(archive, source)
    if target.exists():
        t.guard(target)
    found = t.right_or_refuse(lambda: find_root(archive), lambda _: True)
    if found is not None:
        t.must(load_data(found, 32).fingerprint == load_data(source, 32).fingerprint, "other data")


@kind("G", 40)
def result_csvs_through_a_link(t: Try) -> None:
    """A link in the place of a result CSV is replaced by the file; what it leads to stays."""
    folder = t.copied(trained)
    outside = t.folder / "thesis.csv"
    outside.write_text("my numbers\n")
    name = t.pick(("uexec_result_train.csv", "report.html", "report.md"))
    place = folder / "out" / name
    place.unlink(missing_ok=True)
    place.symlink_to(outside)
    t.guard(outside)
    if name.endswith(".csv"):
        t.right_or_refuse(lambda: write_result_csvs(folder / "out"), lambda _: True)
    else:
        t.right_or_refuse(lambda: write_report(folder / "out", images=False), lambda _: True)


@kind("G", 30)
def a_zip_of_that_name_is_there(t: Try) -> None:
    """Packing replaces what pack wrote; a zip of something else stays."""
    folder = t.copied(trained)
    target = folder / "out" / "ada.zip"
    run = runs_in(folder)[0].name
    if t.chance(0.5):
        with zipfile.ZipFile(target, "w") as bundle:
            bundle.writestr("thesis.docx", "years of work")
        t.guard(target)
        t.refuse(lambda: pack("ada", folder / "out", run_id=run, quick=True), target)
    else:
        t.right(lambda: pack("ada", folder / "out", run_id=run, quick=True))
        first = target.read_bytes()
        t.right(lambda: pack("ada", folder / "out", run_id=run, quick=True))
        t.must(target.read_bytes() == first, "another zip of the same")


@kind("G", 40)
def folders_that_may_only_be_read(t: Try) -> None:
    """Data in a place for reading only is used."""
    data = t.copied(patients)
    for path in [data, *data.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    t.guard(data)
    loaded = t.right(lambda: load_data(data, 32))
    t.must(len(loaded.patients) == len(NAMES), "not all patients")
