"""The Kaggle layout: what is found, what is refused and how, what is read and written."""

import errno
import os
import re
import shutil
import stat
import sys
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from lib.data import encode_masks, find_root, list_patients, read_patient, write_masks
from lib.data.archive import _is_slice_entry, slices_in_archive, unpack
from lib.data.patients import passed_over, stat_key
from lib.data.places import KIT_PLACES, usual_places
from lib.dataset import load_data
from lib.phantom import PHANTOM_FOLDER, write_phantom
from lib.runtime.own_files import OwnFiles
from lib.utils import KitError
from tests.conftest import NAMES, brain, write_patient

NAME = NAMES[0]


def refused(place, call, *arguments):
    """``call`` raises a KitError of one line that names ``place``; its text is returned."""
    with pytest.raises(KitError) as caught:
        call(*arguments)
    text = str(caught.value)
    assert str(place) in text
    assert "\n" not in text
    return text


@pytest.fixture
def patient_folder(tmp_path) -> Path:
    return write_patient(tmp_path / "kaggle_3m", NAME, *brain(0))


def only(folder: Path):
    (patient,) = list_patients(folder.parent)
    return patient


# --- finding --------------------------------------------------------------------------------------


@pytest.mark.parametrize("above", [0, 1, 2, 3])
def test_finds_the_folder_or_one_that_holds_it(tiny_kaggle, tmp_path, above):
    holder = tmp_path.joinpath(*"abcd"[:above])
    holder.mkdir(parents=True, exist_ok=True)
    tiny_kaggle.rename(holder / "kaggle_3m")
    (tmp_path / "README.md").touch()
    for source in (tmp_path, str(holder), holder / "kaggle_3m"):
        assert find_root(source) == holder / "kaggle_3m"


def test_kaggles_doubled_folder(tiny_kaggle, tmp_path):
    double = tmp_path / "lgg-mri-segmentation"
    double.mkdir()
    tiny_kaggle.rename(double / "kaggle_3m")
    found = find_root(tmp_path)
    assert [patient.name for patient in list_patients(found)] == sorted(NAMES)


def test_nothing_there(tmp_path):
    refused(tmp_path / "nowhere", find_root, tmp_path / "nowhere")
    assert "kaggle_3m" in refused(tmp_path / "nowhere", find_root, tmp_path / "nowhere")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "cat_1.png").touch()
    refused(tmp_path, find_root, tmp_path)


def test_a_patients_own_folder(patient_folder):
    assert "one patient" in refused(patient_folder, find_root, patient_folder)


def test_home_folder_is_expanded(tiny_kaggle, monkeypatch):
    monkeypatch.setenv("HOME", str(tiny_kaggle.parent))
    monkeypatch.setenv("USERPROFILE", str(tiny_kaggle.parent))
    assert find_root("~/kaggle_3m") == tiny_kaggle


def test_the_home_folder_of_nobody():
    with pytest.raises(KitError, match=r"^data: ~nobody-here/heads: there is no home folder"):
        find_root("~nobody-here/heads")


def test_a_patient_whose_folder_is_named_as_a_picture(tmp_path):
    """Its slices are taken, so it is not passed over; what is beside them is."""
    write_patient(tmp_path / "set", "P1.nii.gz", *brain(1))
    root = find_root(tmp_path / "set")
    assert passed_over(root, list_patients(root)) == []
    (root / "P1.nii.gz" / "extra.png").touch()
    [remark] = passed_over(root, list_patients(root))
    assert remark.startswith("pictures passed over: 1, e.g. P1.nii.gz/extra.png;")


# --- archives -------------------------------------------------------------------------------------


def write_zip(
    path: Path,
    folder: Path,
    prefixes=("kaggle_3m", "lgg-mri-segmentation/kaggle_3m"),
    compression=zipfile.ZIP_DEFLATED,
) -> Path:
    """Kaggle's archive: the patients twice, with what else lies there."""
    with zipfile.ZipFile(path, "w", compression) as bundle:
        for prefix in prefixes:
            bundle.writestr(f"{prefix}/README.md", "read me")
            bundle.writestr(f"{prefix}/data.csv", "Patient,RNASeqCluster\n")
            for file in sorted(folder.rglob("*.tif"), reverse=True):
                bundle.write(file, f"{prefix}/{file.relative_to(folder).as_posix()}")
            bundle.writestr(f"__MACOSX/{prefix}/{NAME}/._{NAME}_1.tif", b"junk")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*.tif")
    }


def test_archive_is_unpacked_once(tiny_kaggle, tmp_path):
    archive = write_zip(tmp_path / "archive.zip", tiny_kaggle)
    root = find_root(archive)
    assert contents(root) == contents(tiny_kaggle)
    assert {file.name for file in root.iterdir()} == {*NAMES, ".unpacked"}
    changed = root / NAMES[1] / f"{NAMES[1]}_1.tif"
    before = changed.stat().st_mtime_ns
    assert find_root(archive) == root and changed.stat().st_mtime_ns == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["archive.zip", root.name]


@pytest.mark.parametrize("name", ["archive", ".zip"])
def test_an_archive_without_an_ending(tiny_kaggle, tmp_path, name):
    archive = write_zip(tmp_path / name, tiny_kaggle)
    assert "rename it to archive.zip" in refused(archive, find_root, archive)
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == [name]


@pytest.mark.parametrize("name", ["P1_1.tif", "scan.nii.gz"])
def test_one_picture_is_no_data_set(tmp_path, name):
    (tmp_path / name).write_bytes(b"pixels")
    assert "one picture or scan" in refused(tmp_path / name, find_root, tmp_path / name)


@pytest.mark.parametrize("damage", [lambda content: content[:-1] + b"!", lambda content: b""])
def test_a_slice_that_was_changed_since_it_was_unpacked_is_noticed(tiny_kaggle, tmp_path, damage):
    archive = write_zip(tmp_path / "archive.zip", tiny_kaggle)
    root = find_root(archive)
    changed = root / NAMES[1] / f"{NAMES[1]}_1.tif"
    content = changed.read_bytes()
    changed.write_bytes(damage(content))
    for _ in range(2):
        assert f"1 slices differ, e.g. {NAMES[1]}/{NAMES[1]}_1.tif" in refused(
            root, find_root, archive
        )
    changed.write_bytes(content)
    assert find_root(archive) == root


def test_the_copy_of_a_folder_is_compared_once(tiny_kaggle, tmp_path, monkeypatch):
    """All its files are younger than the note of what was unpacked."""
    archive = write_zip(tmp_path / "archive.zip", tiny_kaggle)
    root, compared = find_root(archive), []
    crc32 = zlib.crc32
    monkeypatch.setattr(
        "lib.data.archive.zlib.crc32", lambda data: compared.append(1) or crc32(data)
    )
    for _ in range(2):
        assert find_root(archive) == root
    assert len(compared) in (0, 72)  # the clock of some disks is slow
    (root / NAMES[1] / f"{NAMES[1]}_1.tif").touch()
    compared.clear()
    for _ in range(2):
        assert find_root(archive) == root
    assert len(compared) == 72


def test_several_folders_in_an_archive_are_a_question(kaggle_folder, tmp_path):
    folders = {
        name: kaggle_folder(NAMES[:2] if name == "train" else NAMES[2:4])
        for name in ("train", "val")
    }
    with zipfile.ZipFile(tmp_path / "split.zip", "w") as bundle:
        for name, folder in folders.items():
            for file in folder.rglob("*.tif"):
                bundle.write(file, f"split/{name}/{file.relative_to(folder).as_posix()}")
    text = refused(tmp_path / "split.zip", find_root, tmp_path / "split.zip")
    assert "2 folders in it hold patients, split/train and split/val; unpack it by hand" in text
    assert [path.name for path in tmp_path.iterdir()] == ["split.zip"]


def test_of_two_entries_of_a_name_the_last_counts(tmp_path):
    """As in other programs: the first is what was there before an update."""
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as bundle, pytest.warns(UserWarning):
        bundle.writestr("P1/P1_1.tif", b"before")
        bundle.writestr("P1/P1_1.tif", b"after")
    assert (find_root(tmp_path / "data.zip") / "P1" / "P1_1.tif").read_bytes() == b"after"


def test_what_is_passed_over_in_an_archive_is_counted(kaggle_folder, tmp_path):
    archive = write_zip(tmp_path / "hospital.zip", kaggle_folder(["P1", "P2"]))
    with zipfile.ZipFile(archive, "a") as bundle:
        for name in ("P3/P3-1.tif", "P4/P4_1.png", ".P5/.P5_1.tif", "P6\n/P6\n_1.tif"):
            bundle.writestr(name, b"slice")
    for _ in range(2):  # where it is unpacked, and where it was
        remarks = load_data(archive, 32).remarks
        assert len(remarks) == 1
        assert "passed over: 3, e.g. hospital.zip/P3/P3-1.tif; slices are named" in remarks[0]


def test_another_archive_under_the_same_name_is_noticed(kaggle_folder, tmp_path):
    source = kaggle_folder(NAMES[:2])
    archive = write_zip(tmp_path / "archive.zip", source)
    root = find_root(archive)
    changed = source / NAMES[0] / f"{NAMES[0]}_2.tif"
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1  # as many bytes
    changed.write_bytes(content)
    write_zip(archive, source)
    text = refused(root, find_root, archive)
    assert (
        f"is not what archive.zip holds (1 slices differ, e.g. {NAMES[0]}/{NAMES[0]}_2.tif)" in text
    )
    assert find_root(root) == root  # as it is


def test_a_folder_beside_an_archive_is_not_taken_for_it(kaggle_folder, tmp_path):
    source = kaggle_folder(NAMES[:3])
    archive = write_zip(tmp_path / "archive.zip", source)
    shutil.copytree(source / NAMES[0], tmp_path / "kaggle_3m" / NAMES[0])
    assert "(24 slices differ" in refused(tmp_path / "kaggle_3m", find_root, archive)
    for name in NAMES[1:3]:
        shutil.copytree(source / name, tmp_path / "kaggle_3m" / name)
    assert find_root(archive) == tmp_path / "kaggle_3m"  # unpacked by hand


def test_the_archive_decides_what_the_kits_own_folder_holds(kaggle_folder, tmp_path, monkeypatch):
    places = [tmp_path / place.name for place in KIT_PLACES]
    monkeypatch.setattr("lib.data.places.KIT_PLACES", places)
    source = kaggle_folder(NAMES[:2])
    write_zip(tmp_path / "archive.zip", source)
    shutil.copytree(source / NAMES[0], tmp_path / "kaggle_3m" / NAMES[0])
    assert usual_places() == [tmp_path / "archive.zip", tmp_path / "kaggle_3m"]
    refused(tmp_path / "kaggle_3m", find_root, usual_places()[0])


@pytest.mark.parametrize("attached", ["no folder", "nothing", "something else"])
def test_on_kaggle_without_patients_the_phantom_is_not_taken_in_silence(
    attached, tmp_path, monkeypatch
):
    monkeypatch.setattr("lib.data.places.KIT_PLACES", ())
    monkeypatch.setattr("lib.data.places.KAGGLE_INPUT", tmp_path / "input")
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    if attached != "no folder":
        (tmp_path / "input").mkdir()
    if attached == "something else":
        (tmp_path / "input" / "titanic").mkdir()
    message = refused(tmp_path / "input", usual_places)
    assert "Add Input" in message and "KIT_DATA=phantom" in message
    assert ("no data set is attached" in message) == (attached != "something else")
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE")
    if attached == "no folder":
        assert usual_places() == []


@pytest.mark.parametrize("name", ["P 1", "P(1)", "P+1", "O'Neil", "-P", "P.1", "患者"])
def test_names_of_patients_in_a_zip(kaggle_folder, tmp_path, name):
    archive = write_zip(tmp_path / "hospital.zip", kaggle_folder([name]))
    (patient,) = list_patients(find_root(archive))
    assert patient.name == name and len(patient.masks) == 6


def test_one_slice_that_is_far_too_large(tiny_kaggle, tmp_path):
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr(f"{NAME}/{NAME}_1.tif", bytes(65 * 2**20))
    assert "the largest of 65 MiB" in refused(archive, find_root, archive)
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".zip"] == ["archive.zip"]


def test_several_candidates_are_a_question(kaggle_folder, tmp_path):
    for name in ("train", "val"):
        shutil.copytree(kaggle_folder(NAMES[:2]), tmp_path / "split" / name)
    text = refused(tmp_path, find_root, tmp_path)
    assert "2 folders hold patients, split/train and split/val; give the one that is meant" in text
    assert find_root(tmp_path / "split" / "val") == tmp_path / "split" / "val"


def test_kaggles_second_copy_is_no_candidate(kaggle_folder, tmp_path):
    source = kaggle_folder(NAMES[:2])
    copy = tmp_path / "lgg-mri-segmentation" / "kaggle_3m"
    for place in (tmp_path / "kaggle_3m", copy):
        shutil.copytree(source, place)
    assert find_root(tmp_path) == tmp_path / "kaggle_3m"
    (copy / NAMES[1] / f"{NAMES[1]}_6_mask.tif").unlink()
    assert "2 folders hold patients, kaggle_3m and lgg-mri-segmentation/kaggle_3m" in refused(
        tmp_path, find_root, tmp_path
    )


def test_predicted_masks_are_no_candidate(patient_folder, tmp_path):
    out, patient = tmp_path / "result" / "masks", only(patient_folder)
    OwnFiles(out).write(encode_masks(out, patient, np.zeros((6, 32, 32), np.uint8)))
    assert find_root(tmp_path) == patient_folder.parent


def test_images_and_masks_apart_are_a_question(patient_folder, tmp_path):
    masks = tmp_path / "masks" / NAME
    masks.mkdir(parents=True)
    for file in patient_folder.glob("*_mask.tif"):
        file.rename(masks / file.name)
    assert "with the masks beside their images" in refused(tmp_path, find_root, tmp_path)


def test_a_folder_that_cannot_be_read(patient_folder, tmp_path, monkeypatch):
    closed, listing = [tmp_path / "lost+found"], Path.iterdir
    closed[0].mkdir()

    def iterdir(self):
        if self in closed:
            raise PermissionError(13, "Permission denied")
        return listing(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert find_root(tmp_path) == patient_folder.parent
    closed.append(patient_folder)
    refused(patient_folder, list_patients, patient_folder.parent)


def test_what_is_passed_over_is_counted(patient_folder):
    root = patient_folder.parent
    (patient_folder / f"{NAME}-7.tif").touch()
    (root / "P004").mkdir()
    for name in ("P004-1.tif", "P004_1_seg.png"):
        (root / "P004" / name).touch()
    (remark,) = passed_over(root, list_patients(root))
    assert remark.startswith("pictures passed over: 3, e.g. P004/P004-1.tif; slices are named")
    assert remark in load_data(root, 32).remarks
    (root / "old" / NAME).mkdir(parents=True)
    (root / "old" / NAME / f"{NAME}_1.tif").touch()
    (root / "loose.png").touch()
    assert passed_over(root, list_patients(root))[0].startswith("pictures passed over: 5, e.g.")


def test_nothing_found_but_pictures(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "P004-1.png").touch()
    assert "no patient folders found; slices are named <patient>/<patient>_<slice>.tif" in (
        text := refused(tmp_path, find_root, tmp_path)
    )
    assert "there is e.g. a/P004-1.png; see docs/extending.md" in text


def test_another_archive_in_the_same_folder_gives_its_own_patients(kaggle_folder, tmp_path):
    first = write_zip(tmp_path / "archive.zip", kaggle_folder(NAMES[:2]))
    second = write_zip(tmp_path / "hospital.zip", kaggle_folder(NAMES[2:4]))
    assert [patient.name for patient in list_patients(find_root(first))] == sorted(NAMES[:2])
    assert [patient.name for patient in list_patients(find_root(second))] == sorted(NAMES[2:4])


@pytest.mark.parametrize(
    "place",
    [
        "../../evil/evil_1.tif",
        "/tmp/evil/evil_2.tif",
        "..\\..\\evil\\evil_4.tif",
        "../..//..//.._1.tif",
        "C:/evil/evil_5.tif",
        "evil/../../evil_6.tif",
        "x/../.._7.tif",
        "a link",
    ],
)
def test_entries_cannot_lead_outside(tiny_kaggle, tmp_path, place):
    inner = tmp_path / "deep" / "inner"
    inner.mkdir(parents=True)
    archive = inner / "archive.zip"
    slice_path = tiny_kaggle / NAME / f"{NAME}_1.tif"
    link = zipfile.ZipInfo("kaggle_3m/evil/evil_3.tif")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "w") as bundle:
        if place == "a link":
            bundle.writestr(link, str(slice_path))
        else:
            bundle.writestr(place, slice_path.read_bytes())
    with suppress(KitError):  # no slices: the folder has a name that is not safe
        assert unpack(archive) == inner / "kaggle_3m"
    root = inner / "kaggle_3m"
    everything = [path for path in tmp_path.rglob("*") if not path.is_dir()]
    ours = (archive, root / ".unpacked")
    assert all(path in ours or path.parent == root / "evil" for path in everything)
    assert not any(path.is_symlink() for path in everything)
    assert not Path("/tmp/evil/evil_2.tif").exists()


@pytest.mark.parametrize("name", ["NUL", "con", "Aux.1", "com1", "LPT9.x", "a:b", "a ", "a.", ".a"])
def test_a_name_that_some_system_cannot_make_is_left_out(tiny_kaggle, tmp_path, name):
    archive = tmp_path / "archive.zip"
    content = (tiny_kaggle / NAME / f"{NAME}_1.tif").read_bytes()
    with zipfile.ZipFile(archive, "w") as bundle:
        for folder in (name, "console"):
            bundle.writestr(f"kaggle_3m/{folder}/{folder}_1.tif", content)
    assert [path.name for path in unpack(archive).iterdir() if path.is_dir()] == ["console"]


@pytest.mark.parametrize(("limit", "value"), [("_MAX_FILES", 10), ("_MAX_BYTES", 10_000)])
def test_zip_bomb(tiny_kaggle, tmp_path, monkeypatch, limit, value):
    archive = write_zip(tmp_path / "archive.zip", tiny_kaggle)
    monkeypatch.setattr(f"lib.data.archive.{limit}", value)
    assert "far more" in refused(archive, unpack, archive)
    assert [path.name for path in tmp_path.iterdir()] == ["archive.zip"]


def test_size_that_the_archive_lies_about(tmp_path):
    """The limit is taken from the directory of the zip: an entry must not grow beyond what it says
    there.
    """
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr(f"{NAME}/{NAME}_1.tif", bytes(5_000_000))
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        at = content.index(signature) + offset
        content[at : at + 4] = (1000).to_bytes(4, "little")
    archive.write_bytes(content)
    refused(archive, unpack, archive)
    assert [path.name for path in tmp_path.iterdir()] == ["archive.zip"]


def damage_directory(content):
    return content[: len(content) // 2]


def damage_entry(content):
    """Garbage in the compressed bytes of the first slice; the directory at the end stays whole."""
    at = content.index(b".tif") + 40
    return content[:at] + b"\xff" * 200 + content[at + 200 :]


def damage_start(content):
    """Garbage where the first slice's compressed bytes begin: the decompressor itself stumbles,
    before any checksum.
    """
    at = content.index(b".tif") + 4
    return content[:at] + b"\xff" * 20 + content[at + 20 :]


def flip_stored_byte(content):
    at = content.index(b".tif") + 400
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    ("compression", "damage"),
    [
        (zipfile.ZIP_DEFLATED, damage_directory),
        (zipfile.ZIP_DEFLATED, damage_entry),
        (zipfile.ZIP_DEFLATED, damage_start),
        (zipfile.ZIP_LZMA, damage_entry),
        (zipfile.ZIP_BZIP2, damage_entry),
        (zipfile.ZIP_STORED, flip_stored_byte),
        (zipfile.ZIP_STORED, lambda content: b"no zip at all"),
        (zipfile.ZIP_STORED, lambda content: b""),
    ],
)
def test_damaged_zip(tiny_kaggle, tmp_path, compression, damage):
    archive = write_zip(tmp_path / "archive.zip", tiny_kaggle, compression=compression)
    archive.write_bytes(damage(archive.read_bytes()))
    refused(archive, unpack, archive)
    assert [path.name for path in tmp_path.iterdir()] == ["archive.zip"]


def test_zip_without_slices(tmp_path):
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr("kaggle_3m/README.md", "nothing here")
        bundle.writestr("loose_1.tif", b"not in a patient's folder")
    assert refused(archive, unpack, archive).endswith(", there is e.g. loose_1.tif")


def test_encrypted_zip(tiny_kaggle, tmp_path):
    archive = write_zip(tmp_path / "archive.zip", tiny_kaggle)
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        at = content.find(signature)
        while at >= 0:
            content[at + offset] |= 1
            at = content.find(signature, at + 4)
    archive.write_bytes(content)
    assert "password" in refused(archive, unpack, archive)


def test_interrupted_unpacking_leaves_nothing(tiny_kaggle, tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "archive.zip", tiny_kaggle)
    copy, calls = shutil.copyfileobj, []

    def interrupted(source, sink):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        copy(source, sink)

    monkeypatch.setattr("lib.data.archive.shutil.copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unpack(archive)
    assert [path.name for path in tmp_path.iterdir()] == ["archive.zip"]
    monkeypatch.undo()
    assert contents(unpack(archive)) == contents(tiny_kaggle)


def test_archive_in_a_folder_that_is_taken_by_a_file(tiny_kaggle, tmp_path):
    archive = write_zip(tmp_path / "archive.zip", tiny_kaggle)
    (tmp_path / "kaggle_3m").touch()
    refused(archive, unpack, archive)


def test_download_that_fails(monkeypatch):
    class Kagglehub:
        def dataset_download(self, name):
            raise OSError("no network\nand more lines")

    monkeypatch.setitem(sys.modules, "kagglehub", Kagglehub())
    text = refused("mateuszbuda/lgg-mri-segmentation", find_root, "kaggle")
    assert "no network" in text and "archive.zip" in text
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    assert "pip install" in refused("kagglehub", find_root, "kaggle")


def test_download_that_works(tiny_kaggle, monkeypatch):
    class Kagglehub:
        def dataset_download(self, name):
            return str(tiny_kaggle.parent)

    monkeypatch.setitem(sys.modules, "kagglehub", Kagglehub())
    assert find_root("kaggle") == tiny_kaggle


def test_notes_of_macos_are_no_slices(kaggle_folder, tmp_path):
    source = kaggle_folder(NAMES[:2])
    archive = write_zip(tmp_path / "archive.zip", source)
    root = find_root(archive)
    (root / NAME / f"._{NAME}_1.tif").write_bytes(b"junk")
    assert find_root(archive) == root
    copy = tmp_path / "a" / "kaggle_3m"
    shutil.copytree(root, copy)
    (copy / NAME / f"._{NAME}_1.tif").unlink()
    assert find_root(tmp_path) == root


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_to_the_folder_is_no_second_one(tiny_kaggle):
    (tiny_kaggle.parent / "current").symlink_to(tiny_kaggle.name)
    assert find_root(tiny_kaggle.parent) == tiny_kaggle


@pytest.mark.parametrize("name", ["lost+found", "System Volume Information"])
def test_a_closed_folder_of_the_system_is_remarked_on(patient_folder, monkeypatch, name):
    root, listing = patient_folder.parent, Path.iterdir
    (root / name).mkdir()
    assert passed_over(root, list_patients(root)) == []

    def iterdir(self):
        if self.name == name:
            raise PermissionError(13, "Permission denied")
        return listing(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    (remark,) = passed_over(root, list_patients(root))
    assert f"cannot be read: 1, e.g. {name}; if slices are in them" in remark


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_an_archive_that_cannot_be_read(tiny_kaggle, tmp_path, monkeypatch, number):
    archive = write_zip(tmp_path / "archive.zip", tiny_kaggle)

    def closed(path, *_):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr("lib.data.archive.zipfile.ZipFile", closed)
    text = refused(archive, find_root, archive)
    assert "cannot be read" in text and "free some space" not in text


def test_an_archive_is_parsed_once(tiny_kaggle, tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "archive.zip", tiny_kaggle)
    find_root(archive)
    calls, is_slice = [], _is_slice_entry
    monkeypatch.setattr(
        "lib.data.archive._is_slice_entry", lambda entry: calls.append(1) or is_slice(entry)
    )
    find_root(archive)
    with zipfile.ZipFile(archive) as bundle:
        assert len(calls) == len(bundle.infolist())


@pytest.mark.parametrize("writable", [True, False])
def test_nothing_is_written_into_the_users_folder(tiny_kaggle, tmp_path, monkeypatch, writable):
    archive = write_zip(tmp_path / "archive.zip", tiny_kaggle)
    root = tmp_path / "kaggle_3m"
    shutil.copytree(tiny_kaggle, root)
    if not writable:
        (tmp_path / "file").touch()
        monkeypatch.setenv("KIT_CACHE", str(tmp_path / "file" / "cache"))
    compared, crc32 = [], zlib.crc32
    monkeypatch.setattr(
        "lib.data.archive.zlib.crc32", lambda data: compared.append(1) or crc32(data)
    )
    for _ in range(2):
        assert find_root(archive) == root
    assert len(compared) == (72 if writable else 144)
    assert {file.name for file in root.iterdir()} == set(NAMES)
    image_path(root / NAME).write_bytes(b"changed")
    assert "1 slices differ" in refused(root, find_root, archive)


# --- listing --------------------------------------------------------------------------------------


def test_slices_are_in_the_order_of_their_numbers(tmp_path):
    volume, mask = brain(1, slices=12)
    folder = write_patient(tmp_path, NAME, volume, mask)
    for junk in (
        "README.md",
        ".DS_Store",
        "Thumbs.db",
        f"._{NAME}_1.tif",
        f"{NAME}.tif.txt",
        f"{NAME}_1_mask.tif.bak",
    ):
        (folder / junk).write_text("junk")
    (tmp_path / ".git").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "data.csv").touch()
    patient = only(folder)
    assert patient.numbers == tuple(range(1, 13))
    assert patient.images[9].name == f"{NAME}_10.tif"
    assert patient.masks[9].name == f"{NAME}_10_mask.tif"
    read, read_mask, remarks = read_patient(patient)
    np.testing.assert_array_equal(read, volume)
    np.testing.assert_array_equal(read_mask, mask)
    assert remarks == []


@pytest.mark.parametrize(
    ("name", "institution"),
    [
        ("TCGA_CS_4941_19960909", "CS"),
        ("TCGA_DU_5851_19950428", "DU"),
        ("PHANTOM_0001", "PHANTOM"),
        ("anna", "anna"),
    ],
)
def test_institution(tmp_path, name, institution):
    assert only(write_patient(tmp_path, name, *brain(0))).institution == institution


def test_unlabelled_patient(tmp_path):
    volume, _ = brain(0)
    patient = only(write_patient(tmp_path, NAME, volume, None))
    assert patient.masks == ()
    assert read_patient(patient)[1] is None


@pytest.mark.parametrize(("gone", "word"), [("_3_mask.tif", "mask"), ("_3.tif", "image")])
def test_missing_file(patient_folder, gone, word):
    (patient_folder / f"{NAME}{gone}").unlink()
    text = refused(patient_folder, list_patients, patient_folder.parent)
    assert "slice 3" in text and f"no {word}" in text


def test_masks_without_any_image(patient_folder):
    for file in patient_folder.glob("*[0-9].tif"):
        file.unlink()
    assert "no image" in refused(patient_folder, list_patients, patient_folder.parent)


@pytest.mark.parametrize("twin", [f"{NAME}_01.tif", f"{NAME}_1.tiff", f"{NAME}_001_mask.tif"])
def test_slice_number_twice(patient_folder, twin):
    (patient_folder / twin).write_bytes(b"")
    assert twin in refused(patient_folder, list_patients, patient_folder.parent)


def test_a_folder_that_was_copied_or_renamed(patient_folder):
    """Or the same patient would be learnt from under one name, and scored under another."""
    copy = patient_folder.with_name(f"{NAME} - Copy")
    shutil.copytree(patient_folder, copy)
    assert f"give it the name {NAME}" in refused(copy, list_patients, patient_folder.parent)


def test_an_accent_in_two_spellings(tmp_path):
    """macOS writes it as a letter of its own."""
    folder = write_patient(tmp_path, "M\u00fcller", *brain(0))
    renamed = folder.rename(tmp_path / "Mu\u0308ller")
    assert find_root(tmp_path) == tmp_path
    assert len(only(renamed).masks) == 6


@pytest.mark.skipif(sys.platform == "win32", reason="no such names")
@pytest.mark.parametrize("name", [b"P\n1", b"P\xff"])
def test_names_that_are_no_text(tmp_path, name):
    write_patient(tmp_path, os.fsdecode(name), *brain(0))
    assert "no text; give it another name" in refused(tmp_path, list_patients, tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_to_a_slice_that_is_gone(patient_folder):
    image_path(patient_folder).unlink()
    image_path(patient_folder).symlink_to("gone")
    text = refused(image_path(patient_folder), load_data, patient_folder.parent, 32)
    assert "restore it, or remove the patient" in text


def test_folder_without_patients(tmp_path):
    refused(tmp_path, list_patients, tmp_path)


# --- reading --------------------------------------------------------------------------------------


def image_path(folder: Path, number: int = 3) -> Path:
    return folder / f"{NAME}_{number}.tif"


def mask_path(folder: Path, number: int = 3) -> Path:
    return folder / f"{NAME}_{number}_mask.tif"


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((32, 40, 3), np.uint8),
        np.zeros((32, 32), np.uint8),
        np.zeros((32, 32, 4), np.uint8),
        np.zeros((2, 32, 32, 3), np.uint8),
        np.zeros((32, 32, 3), np.uint16),
        np.zeros((32, 32, 3), np.float32),
    ],
    ids=["size", "grey", "four channels", "two pages", "uint16", "float"],
)
def test_odd_image(patient_folder, image):
    tifffile.imwrite(
        image_path(patient_folder), image, photometric="rgb" if image.ndim > 2 else "minisblack"
    )
    refused(image_path(patient_folder), read_patient, only(patient_folder))


@pytest.mark.parametrize(
    "mask",
    [np.zeros((32, 40), np.uint8), np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.int32)],
    ids=["size", "colour", "int32"],
)
def test_odd_mask(patient_folder, mask):
    tifffile.imwrite(mask_path(patient_folder), mask)
    refused(mask_path(patient_folder), read_patient, only(patient_folder))


def test_masks_of_another_size_than_the_images(patient_folder):
    for number in range(1, 7):
        tifffile.imwrite(mask_path(patient_folder, number), np.zeros((32, 40), np.uint8))
    text = refused(patient_folder, read_patient, only(patient_folder))
    assert "(32, 40)" in text and "(32, 32)" in text


def truncated(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        lambda content: b"",
        lambda content: b"II*\0" + b"\xff" * 50,
        lambda content: b"this is no TIFF",
        lambda content: content[:20],
    ],
)
@pytest.mark.parametrize("path", [image_path, mask_path])
def test_damaged_tiff(patient_folder, damage, path, capfd, recwarn):
    file = path(patient_folder)
    file.write_bytes(damage(file.read_bytes()))
    refused(file, read_patient, only(patient_folder))
    assert (
        capfd.readouterr().err == ""
    )  # the readers' own complaints would stand beside our one line
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff(patient_folder, compression):
    before = read_patient(only(patient_folder))
    for file in patient_folder.iterdir():
        with Image.open(file) as image:
            image.copy().save(file, compression=compression)
    after = read_patient(only(patient_folder))
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_array_equal(after[1], before[1])


@pytest.mark.parametrize("values", [(0, 1), (0, 255), (0, 128), (3, 4)])
def test_mask_values(patient_folder, values):
    expected = read_patient(only(patient_folder))[1]
    for number, plane in enumerate(expected, 1):
        drawn = np.array(values, np.uint8)[plane]
        tifffile.imwrite(mask_path(patient_folder, number), drawn)
    _, mask, remarks = read_patient(only(patient_folder))
    np.testing.assert_array_equal(mask, expected)
    assert mask.dtype == np.uint8 and not remarks


def test_boolean_masks(patient_folder):
    expected = read_patient(only(patient_folder))[1]
    for number in range(1, 7):
        Image.fromarray(expected[number - 1] * np.uint8(255)).convert("1").save(
            mask_path(patient_folder, number)
        )
    np.testing.assert_array_equal(read_patient(only(patient_folder))[1], expected)


def test_remarks_on_gaps_and_on_no_tumour(tmp_path):
    volume, mask = brain(0, tumour=False)
    patient = only(write_patient(tmp_path, NAME, volume, mask, numbers=(1, 2, 5, 6, 7, 20)))
    remarks = read_patient(patient)[2]
    assert len(remarks) == 2
    assert any("no tumour" in remark for remark in remarks)
    assert any("3, 4, 8, 9, 10 ..." in remark for remark in remarks)


def test_numbers_that_are_dates(tmp_path):
    volume, mask = brain(0, slices=3)
    patient = only(write_patient(tmp_path, NAME, volume, mask, numbers=(1, 10**15, 10**15 + 1)))
    assert read_patient(patient)[2] == [f"{NAME}: slice numbers missing: 2, 3, 4, 5, 6 ..."]


def test_gaps_are_remarked_without_masks_too(tmp_path):
    volume, _ = brain(0)
    patient = only(write_patient(tmp_path, NAME, volume, None, numbers=(1, 2, 5, 6, 7, 8)))
    assert read_patient(patient)[2] == [f"{NAME}: slice numbers missing: 3, 4"]


# --- writing --------------------------------------------------------------------------------------


def test_masks_are_read_back_as_written(tmp_path):
    volume, mask = brain(4)
    numbers = (2, 3, 9, 10, 11, 100)
    patient = only(write_patient(tmp_path / "source", NAME, volume, mask, numbers))
    random = (np.random.default_rng(0).random(mask.shape) < 0.3).astype(np.uint8)
    write_masks(tmp_path / "out", patient, random)
    files = {path.name for path in (tmp_path / "out" / NAME).iterdir()}
    assert files == {f"{NAME}_{number}_mask.tif" for number in numbers}
    raw = tifffile.imread(tmp_path / "out" / NAME / f"{NAME}_9_mask.tif")
    assert raw.dtype == np.uint8
    assert set(np.unique(raw)) == {0, 255}
    for image in patient.images:
        os.link(image, tmp_path / "out" / NAME / image.name)
    np.testing.assert_array_equal(read_patient(only(tmp_path / "out" / NAME))[1], random)


def test_stat_key_changes_with_any_file(patient_folder):
    before = stat_key([only(patient_folder)])
    assert before == stat_key([only(patient_folder)])
    os.utime(mask_path(patient_folder), (1, 1))
    assert stat_key([only(patient_folder)]) != before


def test_masks_are_named_after_their_images(tmp_path):
    folder = tmp_path / "source" / "P01"
    folder.mkdir(parents=True)
    for number in (1, 2):
        tifffile.imwrite(folder / f"P01_00{number}.tif", brain(0)[0][0], photometric="rgb")
    (patient,) = list_patients(tmp_path / "source")
    write_masks(tmp_path / "out", patient, np.zeros((2, 32, 32), np.uint8))
    names = sorted(path.name for path in (tmp_path / "out" / "P01").iterdir())
    assert names == ["P01_001_mask.tif", "P01_002_mask.tif"]


@pytest.mark.parametrize(("word", "seed"), [("phantom", ""), ("phantom-77", " --seed 77")])
def test_the_word_for_a_phantom_of_the_kit(tmp_path, monkeypatch, word, seed):
    monkeypatch.setattr("lib.data.places.PROJECT", tmp_path / "kit")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "kit" / "data" / word
    with pytest.raises(KitError, match=f"is not made yet; .*{re.escape(str(folder))}{seed}$"):
        find_root(word)
    for path in (f"data/{word}", str(tmp_path / "mine" / word)):
        with pytest.raises(
            KitError, match=f"is not made yet; .*lib.phantom {re.escape(path)}{seed}$"
        ):
            find_root(path)
    write_phantom(folder, patients=2, size=32)
    assert find_root(word) == folder
    write_phantom(tmp_path / word, patients=2, size=32)  # a folder of that name comes first
    assert find_root(word).resolve() == tmp_path / word
    assert (PHANTOM_FOLDER.parent.name, PHANTOM_FOLDER.name) == ("data", "phantom")


def test_an_archive_that_cannot_be_counted_is_named(tmp_path):
    damaged = tmp_path / "archive.zip"
    damaged.write_bytes(b"PK no zip")
    with pytest.raises(KitError, match=r"archive\.zip: cannot be unpacked .*download it again"):
        slices_in_archive(damaged)
    with pytest.raises(KitError, match=r"gone\.zip: cannot be read .No such file"):
        slices_in_archive(tmp_path / "gone.zip")
