"""C. What is used is what is there: folders, archives, the cache, and Kaggle's mounts."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tifffile

from lib.data import cache as caches
from lib.data import encode_masks, find_root, list_patients, places, read_patient, write_masks
from lib.data.patients import passed_over
from lib.data.places import usual_places
from lib.dataset import BrainData, load_data
from lib.runtime.own_files import OwnFiles
from lib.train import fit
from tests.conftest import brain, write_patient
from tests.faults.things import DAMAGES, TINY, data_in, patients
from tests.faults.tries import Try, kind, wait_for

SIZE = 32
NAMES = ("TCGA_CS_1", "TCGA_DU_2", "TCGA_HT_3", "TCGA_FG_4")
Content = dict[str, bytes]  # place below a folder of patients -> content of a slice


# --- small data sets ------------------------------------------------------------------------------


def _patients(root: Path, names: Sequence[str] = NAMES[:3], first: int = 0) -> Path:
    """Write small patients; the images depend on the place in ``names`` and on ``first``."""
    for seed, name in enumerate(names, first):
        write_patient(root, name, *brain(seed, 3, 20, 20))
    return root


def _content(root: Path) -> Content:
    return {
        f"{file.parent.name}/{file.name}": file.read_bytes()
        for file in sorted(root.glob("*/*.tif"))
    }


def _zip(
    path: Path, content: Content, prefixes: Sequence[str] = ("kaggle_3m/",), packed: bool = True
) -> Path:
    with zipfile.ZipFile(
        path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    ) as bundle:
        for prefix in prefixes:
            for place, data in content.items():
                bundle.writestr(f"{prefix}{place}", data)
    return path


def _change(t: Try, file: Path, keep_date: bool = False) -> None:
    """Change a pixel of a slice, so that its file is as long as before."""
    stat, image = file.stat(), tifffile.imread(file)
    image.reshape(-1)[t.number(0, image.size)] ^= 255
    tifffile.imwrite(file, image, photometric="rgb" if image.ndim == 3 else "minisblack")
    if keep_date:
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _same(data: BrainData, root: Path) -> bool:
    """Return whether data is what the files of a folder say now."""
    found = list_patients(root)
    if sorted(data.patients) != [patient.name for patient in found]:
        return False
    for patient in found:
        volume, mask, _ = read_patient(patient)
        images, geometry = caches.preprocess(volume, SIZE, "reference")
        rows = np.arange(*data.record(patient.name).rows)
        truth = data.truth(patient.name)
        same = (
            np.array_equal(data.cache.images[rows], images.astype(np.float16))
            and geometry == data.record(patient.name).geometry
            and (truth is None) == (mask is None)
            and (
                mask is None
                or (
                    np.array_equal(truth, mask)
                    and np.array_equal(
                        data.cache.masks[rows], caches.preprocess_mask(mask, geometry)
                    )
                )
            )
        )
        if not same:
            return False
    return True


# --- candidates -----------------------------------------------------------------------------------


@kind("C", 40)
def several_candidates(t: Try) -> None:
    """Patients in several folders are a question that names two of them; one of them is taken."""
    top = t.folder / "top"
    first, second = t.pick(
        (
            ("split/train", "split/val"),
            ("train", "test"),
            ("kaggle_3m", "kaggle_3m (1)"),
            ("kaggle_3m", "old/kaggle_3m"),
            ("a", "b/c/d"),
            ("2023/kaggle_3m", "2024/kaggle_3m"),
            ("images", "masks"),
        )
    )
    _patients(top / first, NAMES[:2])
    if first == "images":
        for mask in (top / first).rglob("*_mask.tif"):
            place = top / second / mask.relative_to(top / first)
            place.parent.mkdir(parents=True, exist_ok=True)
            mask.rename(place)
    elif t.chance(0.3):  # a copy that lacks a slice
        shutil.copytree(top / first, top / second)
        (top / second / NAMES[0] / f"{NAMES[0]}_2_mask.tif").unlink()
    else:
        _patients(top / second, t.pick((NAMES[:2], NAMES[2:], NAMES[1:3])), first=5)
    t.refuse(lambda: find_root(top), top, first)
    t.must(t.right(lambda: find_root(top / first)) == top / first, "another folder")


@kind("C", 40)
def one_candidate(t: Try) -> None:
    """The patients are found at any depth, beside files and folders of other kinds."""
    above = "/".join(t.pick(("data", "x y", "kaggle_3m", "v1")) for _ in range(t.number(0, 4)))
    root = _patients(t.folder / "top" / above / "kaggle_3m")
    top = t.folder / "top"
    for _ in range(t.number(0, 4)):
        what = t.pick(
            ("hidden", "empty", "files", "mac", "copy", "pictures", "archive", "predictions",
             "link", "mac slices", "system")
        )  # fmt: skip
        if what == "hidden":
            shutil.copytree(root, root.parent / ".Trash", dirs_exist_ok=True)
        elif what == "empty":
            (top / "result" / "runs").mkdir(parents=True, exist_ok=True)
        elif what == "files":
            (root.parent / "README.md").write_text("read me")
            (root / "data.csv").write_text("Patient\n")
        elif what == "mac":
            (top / "__MACOSX" / "P1").mkdir(parents=True, exist_ok=True)
            (top / "__MACOSX" / "P1" / "._P1_1.tif").write_bytes(b"junk")
        elif what == "copy" and above.count("/") < 2:  # as in Kaggle's archive
            again = root.parent / "lgg-mri-segmentation" / "kaggle_3m"
            shutil.copytree(root, again, dirs_exist_ok=True)
        elif what == "predictions":
            patient = list_patients(root)[0]
            out = t.pick((top, root.parent)) / "masks"
            contents = encode_masks(out, patient, np.zeros((3, 20, 20), np.uint8))
            OwnFiles(out).write(contents)
        elif what == "link":
            if not (root.parent / "current").is_symlink():
                (root.parent / "current").symlink_to(root.name)
        elif what == "mac slices":
            for file in [file for file in root.rglob("*.tif") if file.name[0] != "."]:
                (file.parent / f"._{file.name}").write_bytes(b"junk")
        elif what == "system":
            (root / "lost+found").mkdir(exist_ok=True)
        elif what == "pictures":
            (top / "pictures").mkdir(exist_ok=True)
            (top / "pictures" / "cat_1.png").touch()
        elif what == "archive":
            (top / "archive.zip").write_bytes(b"not even a zip")
    t.must(t.right(lambda: find_root(top)) == root, "another folder")
    t.must(len(t.right(lambda: list_patients(root))) == 3, "other patients")


@kind("C", 15)
def no_candidates(t: Try) -> None:
    """A place without patients is refused, and says what is expected."""
    top = t.folder / "top"
    top.mkdir()
    what = t.pick(
        ("empty", "flat", "named", "one patient", "too deep", "nowhere", "file", "flat zip",
         "zip in a zip")
    )  # fmt: skip
    if what == "flat":
        for file in _patients(t.folder / "src").rglob("*.tif"):
            shutil.copy(file, top / file.name)
    elif what == "named":
        (top / "P1").mkdir()
        (top / "P1" / "slice_001.png").touch()
    elif what == "one patient":
        top = _patients(top) / NAMES[0]
    elif what == "too deep":
        _patients(top / "1/2/3/4/5/6")
    elif what == "nowhere":
        top = top / "nowhere"
    elif what == "flat zip":
        top = _zip(t.folder / "a.zip", {"TCGA_CS_1_1.tif": b"slice", "b.txt": b""}, [""])
        t.refuse(lambda: find_root(top), top, "there is e.g. TCGA_CS_1_1.tif")
    elif what == "zip in a zip":
        inner = _zip(t.folder / "inner.zip", _content(_patients(t.folder / "src")))
        top = _zip(t.folder / "a.zip", {"inner.zip": inner.read_bytes()}, ["data/"])
        t.refuse(lambda: find_root(top), top, "there is e.g. data/inner.zip")
    elif what == "file":
        top = top / "data.rar"
        top.write_bytes(b"Rar!" + bytes(100))
    t.refuse(lambda: find_root(top), top)


# --- archives -------------------------------------------------------------------------------------


@kind("C", 70)
def an_archive_beside_a_folder(t: Try) -> None:
    """The folder is used if it holds what the archive holds; otherwise it is a question."""
    source = _patients(t.folder / "source")
    content = _content(source)
    name = t.pick(("archive.zip", "hospital.zip"))
    archive = _zip(t.folder / name, content, t.pick((("",), ("kaggle_3m/",), ("a/", "b/a/"))))
    folder = t.folder / ("kaggle_3m" if name == "archive.zip" else "hospital")
    if t.chance(0.5):
        t.right(lambda: find_root(archive))
    else:
        shutil.copytree(source, folder)
    slices = sorted(folder.rglob("*.tif"))
    file = t.pick(slices)
    what = t.pick(
        ("equal", "touched", "patient gone", "slice gone", "changed", "changed, old date",
         "empty slice", "patient more", "slice more", "replaced", "one patient replaced",
         "archive cut", "other files")
    )  # fmt: skip
    if what == "touched":
        os.utime(file)
    elif what == "patient gone":
        shutil.rmtree(file.parent)
    elif what == "slice gone":
        file.unlink()
    elif what.startswith("changed"):
        _change(t, file, keep_date="old" in what)
    elif what == "empty slice":
        file.write_bytes(b"")
    elif what == "patient more":
        _patients(folder, NAMES[3:], first=9)
    elif what == "slice more":
        shutil.copy(file, file.with_name(f"{file.parent.name}_77.tif"))
    elif what == "replaced":
        _zip(archive, _content(_patients(t.folder / "other", first=20)))
    elif what == "one patient replaced":
        other = _content(_patients(t.folder / "other", first=20))
        _zip(archive, {p: other[p] if p.startswith(NAMES[1]) else content[p] for p in content})
    elif what == "archive cut":
        data = archive.read_bytes()
        archive.write_bytes(data[: t.number(0, len(data))])
    elif what == "other files":
        (folder / "notes.txt").write_text("mine")
        (folder / ".DS_Store").write_bytes(b"Mac")
        (file.parent / f"._{file.name}").write_bytes(b"Mac")
    if what in ("equal", "touched", "other files"):
        for _ in range(2):
            t.must(t.right(lambda: find_root(archive)) == folder, "another folder")
    else:
        named = archive if what == "archive cut" else folder
        for _ in range(2):
            t.refuse(lambda: find_root(archive), named)
        if what not in ("archive cut", "patient more"):
            shutil.move(folder, t.folder / "away")
            root = t.right(lambda: find_root(archive))
            expected = content
            if "replaced" in what:
                with zipfile.ZipFile(archive) as bundle:
                    expected = {
                        n.removeprefix("kaggle_3m/"): bundle.read(n) for n in bundle.namelist()
                    }
            t.must(_content(root) == expected, "not what the archive holds")


@kind("C", 50)
def archives_of_any_program(t: Try) -> None:
    """Backslashes, two copies, entries of folders, several entries of a name, other files."""
    content = _content(_patients(t.folder / "source", NAMES[: t.number(1, 4)]))
    archive = t.folder / t.pick(("archive.zip", "my data (1).zip", "患者.zip", "a.b.zip", "UP.ZIP"))
    prefixes = t.pick(
        (("",), ("kaggle_3m/",), ("kaggle_3m/", "lgg-mri-segmentation/kaggle_3m/"), ("./x/",),
         ("a\\b\\",), ("/absolute/",), ("one/two/three/four/five/",))
    )  # fmt: skip
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    with zipfile.ZipFile(archive, "w", t.pick(methods)) as bundle:
        for prefix in prefixes:
            if t.chance(0.5):
                bundle.writestr(f"{prefix}{NAMES[0]}/", b"")
            if t.chance(0.3):  # an entry that was replaced since
                place = t.pick(sorted(content))
                bundle.writestr(f"{prefix}{place}", b"before")
                bundle.writestr(f"{prefix}{place}", content[place])
                rest = [p for p in content if p != place]
            else:
                rest = list(content)
            for place in t.rng.permutation(rest):
                bundle.writestr(f"{prefix}{place}", content[str(place)])
            bundle.writestr(f"{prefix}README.md", "read me")
            bundle.writestr(f"__MACOSX/{prefix}{NAMES[0]}/._{NAMES[0]}_1.tif", b"junk")
        bundle.comment = b"a comment" if t.chance(0.3) else b""
    root = t.right(lambda: find_root(archive))
    t.must(_content(root) == content, "other slices")
    t.must(not passed_over(root, list_patients(root)), "something was passed over")


@kind("C", 20)
def archives_with_several_folders(t: Try) -> None:
    """Train and validation, two versions, images and masks apart: a question, nothing written."""
    first = _content(_patients(t.folder / "source", NAMES[:2]))
    prefixes = t.pick((("train/", "val/"), ("v1/", "v2/"), ("kaggle_3m/", "old/kaggle_3m/")))
    archive = t.folder / "archive.zip"
    what = t.pick(("others", "changed", "fewer", "masks"))
    second = _content(_patients(t.folder / "other", NAMES[2:], first=7))
    if what == "changed":
        second = {**first, t.pick(sorted(first)): b"another slice"}
    elif what == "fewer":
        second = dict(list(first.items())[:-2])
    elif what == "masks":
        second = {place: data for place, data in first.items() if "_mask" in place}
        first = {place: data for place, data in first.items() if "_mask" not in place}
    with zipfile.ZipFile(archive, "w") as bundle:
        for prefix, content in zip(prefixes, (first, second), strict=True):
            for place, data in content.items():
                bundle.writestr(f"{prefix}{place}", data)
    t.refuse(lambda: find_root(archive), archive, prefixes[0][:-1])
    t.must(not (t.folder / "kaggle_3m").exists(), "something was unpacked")


@kind("C", 50)
def damaged_archives(t: Try) -> None:
    """Cut, zeros, noise, a flipped bit: all slices as they were, or a refusal and nothing left."""
    content = _content(_patients(t.folder / "source", NAMES[:2]))
    archive = _zip(t.folder / "archive.zip", content, packed=t.chance(0.5))
    archive.write_bytes(t.pick(DAMAGES)(t.rng, archive.read_bytes()))
    target = t.folder / "kaggle_3m"

    def all_there(root: Path) -> bool:
        listed, found = list_patients(root), _content(root)
        same = all(content.get(place, data) == data for place, data in found.items())
        return same and (len(found) == len(content) or bool(passed_over(root, listed)))

    root = t.right_or_refuse(lambda: find_root(archive), Path.is_dir, archive)
    if root is None:
        t.must(not target.exists(), "half an archive was left")
    else:  # a name in it may be another one
        t.right_or_refuse(lambda: all_there(root), bool, root)


@kind("C", 20)
def entries_that_lead_outside(t: Try) -> None:
    """No archive writes outside of its folder, nor makes a link."""
    inner = t.folder / "deep" / "inner"
    inner.mkdir(parents=True)
    bait = t.folder / "bait_1.tif"
    bait.write_bytes(b"mine")
    t.guard(bait)
    place = t.pick(
        ("../../bait/bait_1.tif", "../bait_1.tif", "/etc/x/x_1.tif", "..\\..\\x\\x_1.tif",
         "x/../../x/x_1.tif", "../../..//.._1.tif", "C:/x/x_1.tif", "./.././x/x_1.tif",
         "..../...._1.tif", " / _1.tif", "CON/CON_1.tif")
    )  # fmt: skip
    entry = zipfile.ZipInfo(place)
    if t.chance(0.3):
        entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(inner / "archive.zip", "w") as bundle:
        bundle.writestr(entry, str(bait))
    t.right_or_refuse(lambda: find_root(inner / "archive.zip"), lambda root: root.parent == inner)
    everything = [path for path in t.folder.rglob("*") if path.is_file() or path.is_symlink()]
    ours = (bait, inner / "archive.zip")
    t.must(
        all(path in ours or (inner / "kaggle_3m") in path.parents for path in everything), "outside"
    )
    t.must(not any(path.is_symlink() for path in everything), "a link")


# --- names ----------------------------------------------------------------------------------------

_ODD_NAMES = (
    "P 1", "P(1)", "P+1", "O'Neil", "-P", "P.1", "患者", "P_1", "P_1_2", "mask", "P_mask",
    "Müller",
    "P#1", "P&1", "P%20", "P[1]", "P{1}", "P,1", "P;1", "P=1", "P@1", "~P", "1", "007", "1_2",
    "P__1", "a" * 100, "TCGA_CS_4941_19960909", "P\u00a01", "\uff30\uff11", "Привет",
    "محمد", "🧠",
    "P_1_mask_2",
)  # fmt: skip


@kind("C", 60)
def odd_names_of_patients(t: Try) -> None:
    """Each patient is there, in a folder, in a zip, and as a table of cases names them."""
    names = [str(name) for name in t.rng.choice(_ODD_NAMES, 3, replace=False)]
    source = _patients(t.folder / "source", names)
    content = _content(source)
    root = source
    if t.chance(0.5):
        root = t.right(lambda: find_root(_zip(t.folder / "hospital.zip", content)))
        t.must(_content(root) == content, "other slices")
    found = t.right(lambda: list_patients(t.right(lambda: find_root(root))))
    t.must([patient.name for patient in found] == sorted(names), "other patients")
    for patient in found:
        t.must(patient.numbers == (1, 2, 3) and len(patient.masks) == 3, "other slices")
        seed = names.index(patient.name)
        t.must(np.array_equal(read_patient(patient)[1], brain(seed, 3, 20, 20)[1]), "another mask")


@kind("C", 15)
def names_that_are_no_text(t: Try) -> None:
    """Line ends and bytes that are no letters would break every table: refused."""
    name = t.pick((b"P\n1", b"P\xff", b"P\t1", b"P\r", b"\x1b[31mP"))
    folder = t.folder / "data" / os.fsdecode(name)
    source = _patients(t.folder / "source", ["P"]) / "P"
    folder.mkdir(parents=True)
    for file in source.iterdir():
        shutil.copy(file, folder / file.name.replace("P", folder.name, 1))
    t.refuse(lambda: load_data(t.folder / "data", SIZE))


@kind("C", 15)
def accents_in_two_spellings(t: Try) -> None:
    """macOS writes an accent as a letter of its own; the slices are the patient's all the same."""
    apart, joined = "Mu\u0308ller", "M\u00fcller"
    folder_name, file_name = t.pick(((apart, joined), (joined, apart)))
    source = _patients(t.folder / "source", ["P"]) / "P"
    content = {
        f"{folder_name}/{file.name.replace('P', file_name, 1)}": file.read_bytes()
        for file in source.iterdir()
    }
    if t.chance(0.5):
        root = t.right(lambda: find_root(_zip(t.folder / "a.zip", content)))
    else:
        root = t.folder / "data"
        for place, data in content.items():
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            (root / place).write_bytes(data)
    (patient,) = t.right(lambda: list_patients(root))
    t.must(len(patient.images) == len(patient.masks) == 3, "slices are missing")


@kind("C", 50)
def pictures_that_are_passed_over(t: Try) -> None:
    """They are counted, with an example, wherever they are, in a folder and in a zip."""
    content = _content(_patients(t.folder / "source", NAMES[:2]))
    junk = {
        str(place): b"a picture"
        for place in t.rng.choice(
            ("P004/P004-1.tif", "P004/P004_1.png", "P005/P005_1_seg.png", "P006/slice1.TIFF",
             f"{NAMES[0]}/{NAMES[0]}-1.tif", f"{NAMES[0]}/{NAMES[0]}_1.png", f"{NAMES[1]}/mask.jpg",
             "P007/deep/P007.tif", "P010/P\n010.tif", "loose.tif", "P008/P008_1.nii.gz",
             "P009/IM0001.dcm"),
            t.number(1, 5), replace=False,
        )
    }  # fmt: skip
    if t.chance(0.5):
        archive = _zip(t.folder / "hospital.zip", {**content, **junk}, t.pick((("",), ("data/",))))
        source: Path = archive
    else:
        source = t.folder / "data"
        for place, data in {**content, **junk}.items():
            (source / place).parent.mkdir(parents=True, exist_ok=True)
            (source / place).write_bytes(data)
    for _ in range(2):
        remarks = t.right(lambda: load_data(source, SIZE)).remarks
        line = next((r for r in remarks if r.startswith(f"pictures passed over: {len(junk)},")), "")
        shown = [place.replace("\n", "?") for place in junk]
        t.must(any(place in line for place in shown), f"not counted: {remarks}")


@kind("C", 30)
def slices_without_their_like(t: Try) -> None:
    """A mask or an image that is missing, twice, or of another patient is named."""
    root = _patients(t.folder / "data", NAMES[:2])
    folder = root / NAMES[1]
    number = t.number(1, 4)
    image, mask = (folder / f"{NAMES[1]}_{number}{end}.tif" for end in ("", "_mask"))
    what = t.pick(
        ("no mask", "no image", "no images", "twice", "mask twice", "of another", "renamed")
    )
    if what == "no mask":
        mask.unlink()
    elif what == "no image":
        image.unlink()
    elif what == "no images":
        for file in folder.glob("*[0-9].tif"):
            file.unlink()
    elif what == "twice":
        shutil.copy(image, folder / t.pick((f"{NAMES[1]}_0{number}.tif", f"{image.stem}.tiff")))
    elif what == "mask twice":
        shutil.copy(mask, folder / f"{NAMES[1]}_00{number}_mask.TIF")
    elif what == "of another":
        shutil.copy(image, folder / f"{NAMES[0]}_{number}.tif")
    else:
        folder = folder.rename(root / f"{NAMES[1]} - Copy")
    t.refuse(lambda: load_data(root, SIZE), folder)


@kind("C", 25)
def files_that_are_no_files(t: Try) -> None:
    """Links to nothing, folders, pipes and sockets among the slices are named; nothing hangs."""
    root = _patients(t.folder / "data", NAMES[:2])
    file = t.pick(sorted(root.rglob("*.tif")))
    content = file.read_bytes()
    file.unlink()
    what = t.pick(("broken link", "link to itself", "folder", "pipe", "link"))
    if what == "broken link":
        file.symlink_to(t.folder / "gone")
    elif what == "link to itself":
        file.symlink_to(file)
    elif what == "folder":
        file.mkdir()
    elif what == "pipe":
        os.mkfifo(file)
    else:
        (t.folder / "store").write_bytes(content)
        file.symlink_to(t.folder / "store")
        t.must(_same(t.right(lambda: load_data(root, SIZE)), root), "other data")
        return
    t.refuse(lambda: load_data(root, SIZE), file)


@kind("C", 30)
def gaps_and_numbers(t: Try) -> None:
    """Gaps are remarked on, however far; predicted masks are named after their images."""
    volume, mask = brain(t.number(0, 100), 4, 20, 20)
    width = t.pick((1, 1, 3, 5))
    numbers = sorted(
        int(n) for n in t.pick(((1, 2, 3, 4), (7, 8, 9, 10), (0, 1, 5, 30), (2, 4, 6, 8),
                                (1, 20230101, 20230102, 20230401), (1, 2, 3, 10**15)))
    )  # fmt: skip
    labelled = t.chance(0.5)
    folder = t.folder / "data" / "P1"
    folder.mkdir(parents=True)
    for number, image, plane in zip(numbers, volume, mask, strict=True):
        tifffile.imwrite(folder / f"P1_{number:0{width}d}.tif", image, photometric="rgb")
        if labelled:
            tifffile.imwrite(folder / f"P1_{number:0{width}d}_mask.tif", plane * np.uint8(255))
    data = t.right(lambda: load_data(t.folder / "data", SIZE))
    gaps = numbers[-1] - numbers[0] + 1 > len(numbers)
    said = any("slice numbers missing" in remark for remark in data.remarks)
    t.must(said == gaps, f"remarks: {data.remarks}")
    t.must(np.array_equal(data.volume("P1"), volume), "other images")
    write_masks(t.folder / "out", data.patients["P1"], mask)
    names = sorted(path.name for path in (t.folder / "out" / "P1").iterdir())
    t.must(names == sorted(f"P1_{n:0{width}d}_mask.tif" for n in numbers), f"names: {names}")


# --- the cache ------------------------------------------------------------------------------------


def _fresh(data: BrainData) -> Content:
    """Return the files of a data set's cache."""
    return _files(data.cache.images.path.parent)


def _files(folder: Path) -> Content:
    """Return the files of a folder, none if it is no folder."""
    if not folder.is_dir():
        return {}
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def _forget() -> None:
    """Forget which caches were compared, as another process would."""
    caches._WHOLE.clear()


def _own_cache(t: Try) -> None:
    os.environ["KIT_CACHE"] = str(t.folder / "cache")


@contextmanager
def _cache_of_this_try(t: Try) -> Iterator[None]:
    before = os.environ["KIT_CACHE"]
    _own_cache(t)
    try:
        yield
    finally:
        os.environ["KIT_CACHE"] = before
        _forget()


def _built_anew(t: Try, root: Path, before: Content, damage: Callable[[Path], object]) -> None:
    """Damage a cache; it must be as it was the next time, with a line unless it stayed whole."""
    folder = load_data(root, SIZE).cache.images.path.parent
    damage(folder)
    if t.chance(0.5):
        _forget()
    files = _files(folder)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        again = t.right(lambda: load_data(root, SIZE))
    expected = "are prepared anew" if files != before else ""
    t.must(expected in said.getvalue(), f"no line, but: {said.getvalue()!r}")
    t.must(_same(again, root), "believed")
    after = _fresh(again)
    t.must({n: after[n] for n in caches.ARRAYS} == {n: before[n] for n in caches.ARRAYS}, "other")


@kind("C", 90)
def a_damaged_cache(t: Try) -> None:
    """Any file of it cut, empty, zeros, noise, doubled, one bit flipped, or gone."""
    with _cache_of_this_try(t):
        root = _patients(t.folder / "data", NAMES[: t.number(1, 4)])
        before = _fresh(load_data(root, SIZE))
        name = t.pick((*caches.ARRAYS, caches.INDEX))
        ways = [*DAMAGES, None, "a file in its place"]
        way = ways[t.index % len(ways)]

        def damage(folder: Path) -> None:
            if way is None:
                (folder / name).unlink()
            elif isinstance(way, str):
                shutil.rmtree(folder)
                folder.touch()
            else:
                (folder / name).write_bytes(way(t.rng, before[name]))

        _built_anew(t, root, before, damage)


@kind("C", 40)
def an_index_that_is_another(t: Try) -> None:
    """Missing, other JSON, another version, an edited number, that of other patients."""
    with _cache_of_this_try(t):
        root = _patients(t.folder / "data", NAMES[:2])
        other = _patients(t.folder / "other" / "data", NAMES[:2], first=30)
        before, theirs = (_fresh(load_data(place, SIZE)) for place in (root, other))
        index = json.loads(before[caches.INDEX])
        what = t.pick(
            ("[]", "{}", "null", "3", '"index"', "[[", "edited", "files", "lists", "their index",
             "their folder", "a folder", "their arrays", "deep", "number", "checksum")
        )  # fmt: skip

        def damage(folder: Path) -> None:
            file = folder / caches.INDEX
            if what == "edited":
                index["patients"][0]["rows"][1] -= 1
            elif what == "files":
                index["files"] = {}
            elif what == "lists":
                index["files"] = {name: [] for name in caches.ARRAYS}
            elif what == "number":
                index["size"] = SIZE * 2
            elif what == "checksum":
                index["checksum"] = None
            text = what if what[0] in '[{n3"' and what != "number" else json.dumps(index)
            if what in ("their index", "their folder"):
                text = theirs[caches.INDEX].decode()
            if what == "deep":
                text = "[" * 50_000
            if what in ("their folder", "their arrays"):
                for name in caches.ARRAYS:
                    (folder / name).write_bytes(theirs[name])
            if what == "a folder":
                file.unlink()
                file.mkdir()
            else:
                file.write_text(text)

        _built_anew(t, root, before, damage)


@kind("C", 15)
def an_index_of_others_that_cannot_be_read(t: Try) -> None:
    """What is wrong with another cache stops nobody."""
    with _cache_of_this_try(t):
        root = _patients(t.folder / "data", NAMES[:2])
        other = load_data(_patients(t.folder / "other" / "data", NAMES[:2], first=3), SIZE)
        index = other.cache.images.path.parent / caches.INDEX
        index.write_bytes(t.pick((b"", b"[]", b"\xff\xfe", b'{"root": 3}', b"{" * 9_000, b"null")))
        t.must(_same(t.right(lambda: load_data(root, SIZE)), root), "other data")


@kind("C", 25)
def a_cache_that_is_cut_while_it_is_used(t: Try) -> None:
    """A line with the path, and the next time it is prepared anew; no crash."""
    with _cache_of_this_try(t):
        root = _patients(t.folder / "data")
        data = load_data(root, SIZE)
        name = t.pick(("images", "masks"))
        rows = getattr(data.cache, name)
        whole = rows.nbytes
        os.truncate(rows.path, t.number(0, whole - 1))
        if t.chance(0.5):
            slices = data.slices(tuple(data.patients))
            t.refuse(lambda: slices.batch(np.arange(len(slices))), rows.path)
        else:
            t.refuse(lambda: rows[np.arange(len(rows))], rows.path)
        t.must(_same(t.right(lambda: load_data(root, SIZE)), root), "believed")


@kind("C", 6, seconds=90)
def training_on_a_cache_that_is_cut(t: Try) -> None:
    """The process ends with one line, not by a signal; the next one prepares it anew."""
    with _cache_of_this_try(t):
        patients(t.folder / "data")
        data = data_in(t.folder)

        def cut(_: object) -> None:
            for rows in (data.cache.images, data.cache.masks):
                os.truncate(rows.path, rows.nbytes // 10)

        code = wait_for(t.child(lambda: fit(TINY, data, t.folder / "out", watch=cut)))
        t.must(code == 2, f"code {code}: {t.words()}")
        t.must("was cut or changed while it was used" in t.words(), t.words())
        again = t.right(lambda: data_in(t.folder))
        t.right(lambda: fit(TINY, again, t.folder / "out"))


@kind("C", 60)
def sources_that_change(t: Try) -> None:
    """Whatever changes in the files is in what is used, whatever their sizes and dates."""
    with _cache_of_this_try(t):
        root = _patients(t.folder / "v1" / "data")
        link = t.folder / "link"
        link.symlink_to(t.folder / "v1")
        source = link / "data" if t.chance(0.3) else root
        t.must(_same(t.right(lambda: load_data(source, SIZE)), root), "other data")
        files = sorted(root.rglob("*.tif"))
        file = t.pick(files)
        what = t.pick(
            ("changed", "changed, old date", "swapped", "swapped, old dates", "patient gone",
             "patient more", "slice gone", "renamed", "replaced", "link", "touched")
        )  # fmt: skip
        if what.startswith("changed"):
            _change(t, file, keep_date="old" in what)
        elif what.startswith("swapped"):
            one, other = (root / NAMES[i] / f"{NAMES[i]}_2.tif" for i in (0, 1))
            stats = [path.stat().st_mtime_ns for path in (one, other)]
            contents = one.read_bytes(), other.read_bytes()
            one.write_bytes(contents[1])
            other.write_bytes(contents[0])
            if "old" in what:
                for path, date in zip((one, other), stats, strict=True):
                    os.utime(path, ns=(date, date))
        elif what == "patient gone":
            shutil.rmtree(file.parent)
        elif what == "patient more":
            _patients(root, NAMES[3:], first=8)
        elif what == "slice gone":
            for path in file.parent.glob(f"{file.parent.name}_3*.tif"):
                path.unlink()
        elif what == "renamed":
            for path in file.parent.iterdir():
                path.rename(path.with_name(path.name.replace(path.parent.name, "NEW")))
            file.parent.rename(root / "NEW")
        elif what == "replaced":
            dates = {path: path.stat().st_mtime_ns for path in files}
            shutil.rmtree(root)
            _patients(root, first=40)
            for path, date in dates.items():
                os.utime(path, ns=(date, date))
        elif what == "link":
            _patients(t.folder / "v2" / "data", first=60)
            for path in (t.folder / "v2").rglob("*.tif"):
                like = root / path.relative_to(t.folder / "v2" / "data")
                os.utime(path, ns=(like.stat().st_mtime_ns,) * 2)
            link.unlink()
            link.symlink_to(t.folder / "v2")
            source = link / "data"
        elif what == "touched":
            os.utime(file)
        now = source.resolve()
        t.must(_same(t.right(lambda: load_data(source, SIZE)), now), f"{what}: not noticed")


# --- Kaggle and the kit's own places --------------------------------------------------------------


@contextmanager
def _places(t: Try) -> Iterator[tuple[Path, Path]]:
    """Give a folder for Kaggle's mounts and one for the kit's data."""
    before = places.KAGGLE_INPUT, places.KIT_PLACES
    mounts, own = t.folder / "input", t.folder / "own"
    own.mkdir()
    places.KAGGLE_INPUT = mounts
    places.KIT_PLACES = tuple(own / place.name for place in before[1])
    try:
        yield mounts, own
    finally:
        places.KAGGLE_INPUT, places.KIT_PLACES = before


@kind("C", 30)
def mounts_of_kaggle(t: Try) -> None:
    """The data set is found wherever Kaggle mounts it; its absence is not the phantom."""
    with _places(t) as (mounts, _):
        where = t.pick(
            ("lgg-mri-segmentation", "datasets/mateuszbuda/lgg-mri-segmentation", "nothing",
             "d/mateuszbuda/lgg-mri-segmentation", "mri", "two", "not on Kaggle")
        )  # fmt: skip
        if where == "not on Kaggle":
            t.must(usual_places() == [], "a place that is not there")
            return
        mounts.mkdir()
        if t.chance(0.5):
            (mounts / "titanic").mkdir()
            (mounts / "titanic" / "train.csv").write_text("a,b\n")
        if where in ("two", "nothing"):
            if where == "two":
                _patients(mounts / "one" / "kaggle_3m", NAMES[:2])
                _patients(mounts / "other" / "kaggle_3m", NAMES[1:])
            t.refuse(usual_places, mounts, "Add Input")
            return
        root = _patients(mounts / where / "kaggle_3m")
        if t.chance(0.5):
            shutil.copytree(root, mounts / where / "lgg-mri-segmentation" / "kaggle_3m")
        t.must(t.right(usual_places) == [root], "another place")


@kind("C", 20)
def the_kits_own_places(t: Try) -> None:
    """The archive decides what the folder beside it must hold."""
    with _places(t) as (_, own):
        content = _content(_patients(t.folder / "source"))
        what = t.pick(("folder", "archive", "both", "one patient", "another archive"))
        if what != "archive":
            names = NAMES[:1] if what == "one patient" else NAMES[:3]
            _patients(own / "kaggle_3m", names)
        if what == "another archive":
            content = _content(_patients(t.folder / "other", first=9))
        if what != "folder":
            _zip(own / "archive.zip", content)
        place = t.right(usual_places)[0]
        if what in ("one patient", "another archive"):
            t.refuse(lambda: find_root(place), own / "kaggle_3m")
        else:
            t.must(_content(t.right(lambda: find_root(place))) == content, "other slices")


@kind("C", 10)
def archives_that_are_too_much(t: Try) -> None:
    """An archive that unpacks into far more than a data set is refused before it is unpacked."""
    archive = t.folder / "archive.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as bundle:
        if t.index % 2:
            bundle.writestr("P1/P1_1.tif", bytes(65 * 2**20))
        else:
            bundle.writestr("P1/P1_1.tif", bytes(1000))
    if not t.index % 2:  # its directory says 9 GiB
        content = bytearray(archive.read_bytes())
        place = content.index(b"PK\x01\x02") + 24
        content[place : place + 4] = struct.pack("<I", 2**32 - 2)
        archive.write_bytes(content)
    t.refuse(lambda: find_root(archive), archive)
    t.must(not (t.folder / "kaggle_3m").exists(), "it was unpacked")


@kind("C", 10)
def a_folder_that_cannot_be_read(t: Try) -> None:
    """A folder without rights stops no search, and is named where its slices are needed."""
    root = _patients(t.folder / "top" / "data", NAMES[:2])
    beside = root / t.pick(("lost+found", "System Volume Information"))
    closed = (t.folder / "top" / "lost+found", root / NAMES[1], beside)[t.index % 3]
    closed.mkdir(exist_ok=True)
    listing = Path.iterdir

    def iterdir(self: Path) -> Iterator[Path]:
        if self == closed:
            raise PermissionError(13, "Permission denied", str(self))
        return listing(self)

    Path.iterdir = iterdir  # type: ignore[method-assign]  # root may read everything
    try:
        if t.index % 3 == 0:
            t.must(t.right(lambda: find_root(t.folder / "top")) == root, "another folder")
        elif t.index % 3 == 2:
            found = t.right(lambda: list_patients(root))
            (remark,) = t.right(lambda: passed_over(root, found))
            t.must(len(found) == 2 and closed.name in remark, f"another remark: {remark}")
        else:
            t.refuse(lambda: list_patients(root), closed)
    finally:
        Path.iterdir = listing  # type: ignore[method-assign]
