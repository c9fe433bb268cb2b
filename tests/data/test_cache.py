"""The cache of prepared slices: what is found again, and what is prepared anew."""

import ast
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from lib import transform
from lib.data import cache, cache_folder, cache_place, list_patients, read_patient
from lib.data.cache import SliceFile
from lib.dataset import load_data, make_split
from lib.transform import preprocess, preprocess_mask
from lib.utils import KitError
from tests.conftest import NAMES, REAL_DATA, brain, write_patient

ROOT = Path(__file__).parent.parent.parent
SIZE = 32


def built() -> list[str]:
    """Names of the finished caches, and of everything half-made."""
    return sorted(path.name for path in cache_folder().iterdir() if path.is_dir())


@pytest.fixture
def builds(monkeypatch) -> list[int]:
    """Grows by one with each cache that is built."""
    calls, build = [], cache._build

    def counted(*arguments):
        calls.append(1)
        build(*arguments)

    monkeypatch.setattr(cache, "_build", counted)
    return calls


def everything(rows: SliceFile) -> np.ndarray:
    """All rows of a file."""
    return rows[np.arange(len(rows))]


def test_second_time_opens_the_cache(tiny_kaggle, builds):
    first, second = (load_data(tiny_kaggle, SIZE) for _ in range(2))
    assert len(builds) == 1
    np.testing.assert_array_equal(everything(first.cache.images), everything(second.cache.images))
    assert first.cache.records == second.cache.records
    assert first.cache.remarks == second.cache.remarks


@pytest.mark.parametrize("change", ["content", "time", "new patient", "gone"])
def test_changed_source_is_prepared_anew(tiny_kaggle, builds, change):
    before = load_data(tiny_kaggle, SIZE)
    folder = tiny_kaggle / NAMES[2]
    if change == "content":
        volume, mask = brain(77)
        shutil.rmtree(folder)
        write_patient(tiny_kaggle, NAMES[2], volume, mask)
    elif change == "time":
        os.utime(folder / f"{NAMES[2]}_1.tif", (10, 10))
    elif change == "gone":
        shutil.rmtree(folder)
    else:
        write_patient(tiny_kaggle, "TCGA_FG_0009_19990101", *brain(9))
    after = load_data(tiny_kaggle, SIZE)
    assert len(builds) == 2
    assert len(built()) == 1, "the outdated cache is deleted"
    assert (after.fingerprint == before.fingerprint) == (change == "time")
    assert len(after.patients) == {"gone": 5, "new patient": 7}.get(change, 6)


def test_sizes_and_modes_lie_side_by_side(tiny_kaggle, builds):
    for size, mode in ((48, "reference"), (32, "reference"), (48, "native")) * 2:
        data = load_data(tiny_kaggle, size, mode)
        assert data.cache.images.shape[1:] == (3, size, size)
    assert len(builds) == len(built()) == 3


def test_two_datasets_of_the_same_folder_name(kaggle_folder):
    one, other = (
        load_data(kaggle_folder(NAMES[:2]), SIZE),
        load_data(kaggle_folder(NAMES[1:4]), SIZE),
    )
    assert len(built()) == 2
    assert (list(one.patients), list(other.patients)) == (list(NAMES[:2]), list(NAMES[1:4]))
    assert list(one.cache.records) == list(NAMES[:2])


def test_equal_names_sizes_and_times_are_not_equal_pixels(tmp_path):
    """Archives with normalised times: a corrected release must not be answered with the cache of
    the first one.
    """
    found = []
    for seed, place in enumerate(("first", "corrected")):
        folder = write_patient(tmp_path / place / "kaggle_3m", NAMES[0], *brain(seed))
        for file in folder.iterdir():
            os.utime(file, (1_000_000, 1_000_000))
        found.append(load_data(folder.parent, SIZE))
        np.testing.assert_array_equal(found[-1].truth(NAMES[0]), brain(seed)[1])
    assert found[0].fingerprint != found[1].fingerprint


@pytest.mark.parametrize("mode", ["reference", "native"])
def test_values_are_those_of_preprocess(tiny_kaggle, mode):
    data = load_data(tiny_kaggle, 48, mode)
    for name, patient in data.patients.items():
        volume, mask, _ = read_patient(patient)
        images, geometry = preprocess(volume, 48, mode)
        rows = np.arange(*data.record(name).rows)
        np.testing.assert_allclose(
            data.cache.images[rows].astype(np.float32), images, rtol=2**-11, atol=1e-6
        )
        np.testing.assert_array_equal(data.cache.masks[rows], preprocess_mask(mask, geometry))
        assert data.record(name).geometry == geometry
        np.testing.assert_array_equal(data.truth(name), mask)
        np.testing.assert_array_equal(data.volume(name), volume)
        assert data.record(name).tumour_slices == mask.any(axis=(1, 2)).sum()


def test_native_masks_of_odd_sizes_are_exact(tmp_path):
    rng = np.random.default_rng(0)
    masks = {}
    for i, shape in enumerate(
        [(3, 31, 29), (4, 17, 17), (1, 33, 21), (2, 30, 32)]
    ):  # none a multiple of 8 voxels
        volume, _ = brain(i, *shape)
        masks[f"P_{i}"] = (rng.random(shape) < 0.4).astype(np.uint8)
        write_patient(tmp_path / "data", f"P_{i}", volume, masks[f"P_{i}"])
    data = load_data(tmp_path / "data", 32)
    for name, mask in masks.items():
        np.testing.assert_array_equal(data.truth(name), mask)


def test_patients_with_and_without_masks(kaggle_folder):
    root = kaggle_folder(NAMES[:2], masks=False)
    volume, mask = brain(5)
    write_patient(root, NAMES[2], volume, mask)
    data = load_data(root, SIZE)
    assert data.truth(NAMES[0]) is None
    np.testing.assert_array_equal(data.truth(NAMES[2]), mask)
    with pytest.raises(KitError, match="2 patients have no masks"):
        make_split(data)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, KitError])
def test_interruption_leaves_nothing(tiny_kaggle, monkeypatch, error):
    prepare = cache._prepare

    def interrupted(patient, *arguments):
        if patient.name == NAMES[4]:
            raise error("stop")
        return prepare(patient, *arguments)

    monkeypatch.setattr(cache, "_prepare", interrupted)
    with pytest.raises(error):
        load_data(tiny_kaggle, SIZE)
    assert built() == []
    monkeypatch.undo()
    monkeypatch.setenv("KIT_PROGRESS", "text")
    assert len(load_data(tiny_kaggle, SIZE).patients) == 6


def test_disk_that_is_full(tiny_kaggle, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "write_json", full)
    with pytest.raises(KitError, match=r"No space left.*KIT_CACHE") as caught:
        load_data(tiny_kaggle, SIZE)
    assert "\n" not in str(caught.value)
    assert built() == []


def test_a_cache_may_be_named_from_the_home_folder(tmp_path, monkeypatch):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("KIT_CACHE", "~/cache")
    assert cache_folder() == tmp_path / "cache"


def test_two_users_of_a_kit_that_is_read_only_do_not_meet(tmp_path, monkeypatch):
    monkeypatch.delenv("KIT_CACHE", raising=False)
    (tmp_path / "data").write_text("no folder")
    monkeypatch.setattr(cache_place, "PROJECT", tmp_path)
    monkeypatch.setattr(cache_place, "this_user", lambda: "ada")
    assert cache_folder().name == "brain-segmentation-cache-ada"


def test_a_class_shares_a_cache_that_it_cannot_write(tiny_kaggle, tmp_path, monkeypatch, builds):
    shared, own = tmp_path / "shared", tmp_path / "data" / "cache"
    monkeypatch.setenv("KIT_CACHE", str(shared))
    load_data(tiny_kaggle, SIZE)
    monkeypatch.setattr(cache_place, "PROJECT", tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != shared)
    load_data(tiny_kaggle, SIZE)
    assert len(builds) == 1 and not own.exists()
    for _ in range(2):  # a size that it lacks
        load_data(tiny_kaggle, 2 * SIZE)
    assert (len(builds), len(list(shared.iterdir())), len(list(own.iterdir()))) == (2, 1, 1)
    (shared / built()[0] / "index.json").write_text("{}")  # damaged
    cache._WHOLE.clear()
    load_data(tiny_kaggle, SIZE)
    assert (len(builds), len(list(own.iterdir()))) == (3, 2)


def test_cache_folder_that_cannot_be_made(tiny_kaggle, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(KitError, match="KIT_CACHE"):
        load_data(tiny_kaggle, SIZE)


def test_cache_that_lost_its_index_is_built_again(tiny_kaggle):
    """What an interrupted deletion leaves behind must not stop every later run."""
    load_data(tiny_kaggle, SIZE)
    (cache_folder() / built()[0] / "index.json").unlink()
    assert len(load_data(tiny_kaggle, SIZE).patients) == 6


def cache_of(data):
    """The folder of a data set's cache."""
    return data.cache.images.path.parent


DAMAGE = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "zeros": lambda content: content[: len(content) // 2] + bytes(len(content) - len(content) // 2),
    "one bit": lambda content: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
    "gone": None,
}


@pytest.mark.parametrize("name", ["images.f16", "masks.u8", "truth.bits", "index.json"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_cache_is_built_anew(tiny_kaggle, builds, capsys, monkeypatch, name, kind):
    whole = load_data(tiny_kaggle, SIZE)
    before = {name: whole.truth(name) for name in whole.patients}
    images = everything(whole.cache.images)
    file = cache_of(whole) / name
    content = file.read_bytes()
    del whole
    if DAMAGE[kind] is None:
        file.unlink()
    else:
        file.write_bytes(DAMAGE[kind](content))
    monkeypatch.setattr(cache, "_WHOLE", set())  # as in another process
    again = load_data(tiny_kaggle, SIZE)
    said = capsys.readouterr().out
    assert said.count("the prepared slices are damaged; they are prepared anew") == 1
    assert file.read_bytes() == content
    np.testing.assert_array_equal(everything(again.cache.images), images)
    for name, truth in before.items():
        np.testing.assert_array_equal(again.truth(name), truth)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"root": 3}'])
def test_a_damaged_cache_of_others_stops_nobody(tiny_kaggle, content):
    first = load_data(tiny_kaggle, SIZE)
    (cache_of(first) / "index.json").write_text(content)
    (tiny_kaggle / NAMES[0] / f"{NAMES[0]}_1.tif").touch()  # another cache of the same series
    assert list(load_data(tiny_kaggle, SIZE).patients) == sorted(NAMES)


def test_the_cache_of_others_in_this_place_is_not_taken(kaggle_folder, capsys, monkeypatch):
    """Each file fits its checksum, but the patients are others."""
    mine, theirs = (load_data(kaggle_folder(names), SIZE) for names in (NAMES[:2], NAMES[2:4]))
    shutil.copytree(cache_of(theirs), cache_of(mine), dirs_exist_ok=True)
    monkeypatch.setattr(cache, "_WHOLE", set())
    again = load_data(mine.root, SIZE)
    assert list(again.cache.records) == list(NAMES[:2])
    assert "they are prepared anew" in capsys.readouterr().out


def test_what_is_changed_after_it_was_checked_is_noticed(tiny_kaggle, builds):
    """In one process, too, as in a notebook."""
    file = load_data(tiny_kaggle, SIZE).cache.masks.path
    content = file.read_bytes()
    file.write_bytes(bytes(len(content)))
    load_data(tiny_kaggle, SIZE)
    assert len(builds) == 2 and file.read_bytes() == content


def test_a_file_where_the_cache_was(tiny_kaggle, builds, capsys):
    folder = cache_of(load_data(tiny_kaggle, SIZE))
    shutil.rmtree(folder)
    folder.touch()
    assert len(load_data(tiny_kaggle, SIZE).patients) == 6
    assert len(builds) == 2
    assert "prepared anew" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["kaggle [1]", "k" * 250])
def test_odd_names_of_a_data_set(tiny_kaggle, builds, name):
    root = tiny_kaggle.rename(tiny_kaggle.with_name(name))
    for _ in range(2):
        load_data(root, SIZE)
    (root / NAMES[0] / f"{NAMES[0]}_1.tif").touch()
    load_data(root, SIZE)
    assert len(builds) == 2 and len(built()) == 1, "the outdated cache is deleted"


@pytest.mark.parametrize("kind", ["a folder", "nested"])
def test_an_index_that_is_no_index(tiny_kaggle, builds, kind):
    index = cache_of(load_data(tiny_kaggle, SIZE)) / "index.json"
    if kind == "nested":
        index.write_text("[" * 100_000)
    else:
        index.unlink()
        index.mkdir()
    assert len(load_data(tiny_kaggle, SIZE).patients) == 6
    assert len(builds) == 2


def test_a_source_whose_date_was_set_back_is_prepared_anew(tiny_kaggle, builds):
    file = tiny_kaggle / NAMES[0] / f"{NAMES[0]}_3.tif"
    before, stat = load_data(tiny_kaggle, SIZE), file.stat()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    if sys.platform != "win32":  # which does not say when a file was changed
        assert load_data(tiny_kaggle, SIZE).fingerprint != before.fingerprint
        assert len(builds) == 2


def test_slices_are_known_again(tmp_path):
    volume, mask = brain(0)
    volume[0] = 0
    volume[0, 0, 0] = 9  # less than 1 % of it
    write_patient(tmp_path, NAMES[0], volume, mask)
    write_patient(tmp_path, NAMES[1], np.delete(volume, 2, 0), np.delete(mask, 2, 0))
    write_patient(tmp_path, NAMES[2], *brain(2))
    records = load_data(tmp_path, SIZE).cache.records
    first, lacks_one, other = (records[name].slices for name in NAMES[:3])
    assert len(first) == 5 and len(other) == 6
    assert lacks_one == (first[0], *first[2:])
    assert set(other).isdisjoint(first)
    assert all(len(sign) == 12 and int(sign, 16) >= 0 for sign in first)


def captioned(size, background=0, lines=3):
    """A slice with words only, their edges smooth, ``(256, 256, 3)``."""
    image = Image.new("L", (256, 256), background)
    draw = ImageDraw.Draw(image)
    for line in range(lines):
        place = (4, 4 + line * size * 1.2)
        draw.text(place, "HOSPITAL 2001-02-03 R", fill=255, font=ImageFont.load_default(size))
    return np.repeat(np.asarray(image)[..., None], 3, axis=2)


@pytest.mark.parametrize("size", [8, 12, 16, 20, 24, 32, 40, 60])
@pytest.mark.parametrize("background", [0, 7])
def test_a_caption_is_no_sign(size, background):
    assert not cache._has_sign(captioned(size, background))


def test_what_a_sign_is():
    head = brain(0)[0][3]
    assert cache._has_sign(head)
    assert cache._has_sign(np.where(head == 0, 7, head).astype(np.uint8))  # air is not black
    assert not cache._has_sign(head * 0)
    assert not cache._has_sign(head * 0 + 7)
    assert not cache._has_sign(head // 60)  # few values
    one = np.zeros_like(head)
    one[..., 1] = head[..., 1]
    assert cache._has_sign(one)  # the others are missing


# --- the files of slices --------------------------------------------------------------------------

SHAPE = (7, 3, 4, 5)


@pytest.fixture
def rows_of(tmp_path):
    """An array, and the file that holds it."""
    array = np.arange(np.prod(SHAPE), dtype=np.float16).reshape(SHAPE)
    array.tofile(tmp_path / "images.f16")
    return array, SliceFile(tmp_path / "images.f16", np.float16, SHAPE)


@pytest.mark.parametrize(
    "rows",
    [[2, 3, 4], [6, 0, 0, 5, 6], [[1, 2], [3, 1], [0, 6]], range(7), [], 4, np.empty((0, 3), int)],
    ids=["run", "any order", "table", "all", "none", "one", "empty table"],
)
def test_rows_of_a_file(rows_of, rows):
    array, file = rows_of
    rows = np.asarray(rows, int)
    np.testing.assert_array_equal(file[rows], array[rows])
    assert file[rows].dtype == np.float16 and file[rows].flags.writeable
    assert (len(file), file.shape, file.nbytes) == (7, SHAPE, array.nbytes)


@pytest.mark.parametrize("row", [-1, 7])
def test_rows_that_are_not_there(rows_of, row):
    with pytest.raises(IndexError):
        rows_of[1][np.array([0, row])]


def test_rows_that_follow_each_other_are_one_read(rows_of, monkeypatch):
    reads, read = [], SliceFile._read
    monkeypatch.setattr(
        SliceFile, "_read", lambda self, part, at: reads.append(at) or read(self, part, at)
    )
    rows_of[1][np.array([1, 2, 3, 3, 5, 6, 0])]
    size = 3 * 4 * 5 * 2
    assert reads == [size, 3 * size, 5 * size, 0]


def test_a_file_that_is_cut_while_it_is_used(rows_of):
    array, file = rows_of
    os.truncate(file.path, array.nbytes // 2)
    np.testing.assert_array_equal(file[np.arange(3)], array[:3])
    with pytest.raises(KitError, match=r"images\.f16: was cut or changed while it was used; run"):
        file[np.arange(4)]


def test_a_file_that_is_gone(tmp_path):
    with pytest.raises(KitError, match=r"images\.f16: cannot be read \(No such file"):
        SliceFile(tmp_path / "images.f16", np.float16, SHAPE)


def test_threads_and_copies_of_a_process_read_the_same_file(rows_of):
    array, file = rows_of
    rng = np.random.default_rng(0)
    wanted = [rng.integers(0, 7, 5) for _ in range(200)]
    with ThreadPoolExecutor(4) as pool:
        for rows, found in zip(wanted, pool.map(file.__getitem__, wanted), strict=True):
            np.testing.assert_array_equal(found, array[rows])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(file))[wanted[0]], array[wanted[0]])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no copies of processes")
def test_a_copy_of_a_process_opens_the_file_by_itself(rows_of):
    array, file = rows_of
    child = os.fork()
    if child == 0:
        same = all((file[np.array([row])][0] == array[row]).all() for row in range(7))
        os._exit(0 if same and file._opened[0] == os.getpid() else 1)
    assert all((file[np.array([row])][0] == array[row]).all() for row in range(7))
    assert os.waitpid(child, 0)[1] == 0


def test_threads_build_it_once(tiny_kaggle, builds):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: load_data(tiny_kaggle, SIZE).fingerprint, range(4)))
    assert len(set(found)) == 1
    assert len(builds) == 1


def test_processes_build_it_once(tiny_kaggle):
    code = (
        "import sys\nfrom lib.data import cache\nfrom lib.dataset import load_data\n"
        "build = cache._build\n"
        "def counted(*a):\n    print('built')\n    build(*a)\ncache._build = counted\n"
        f"print(load_data(sys.argv[1], {SIZE}).fingerprint)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tiny_kaggle)],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]
    lines = "".join(process.communicate()[0] for process in processes).split()
    assert all(process.returncode == 0 for process in processes)
    assert lines.count("built") == 1
    assert len(set(lines)) == 2, "both found the same data"


def test_fingerprint_is_that_of_the_pixels(tiny_kaggle, tmp_path):
    before = load_data(tiny_kaggle, SIZE)
    elsewhere = tmp_path / "renamed"
    shutil.copytree(tiny_kaggle, elsewhere)
    for file in elsewhere.rglob("*.tif"):
        os.utime(file, (1_000_000, 1_000_000))
    assert load_data(elsewhere, SIZE).fingerprint == before.fingerprint
    assert load_data(elsewhere, 48).fingerprint == before.fingerprint
    volume, mask, _ = read_patient(before.patients[NAMES[0]])
    shutil.rmtree(elsewhere / NAMES[0])
    mask[2, 16, 16] ^= 1
    write_patient(elsewhere, NAMES[0], volume, mask)
    assert load_data(elsewhere, SIZE).fingerprint != before.fingerprint


def test_remarks_survive_in_the_cache_and_the_report(tiny_kaggle):
    volume, mask = brain(0)  # the pixels of the first patient under another name
    write_patient(tiny_kaggle, "TCGA_ZZ_1_1", volume, mask)
    write_patient(tiny_kaggle, "TCGA_ZZ_2_1", *brain(50, tumour=False), numbers=(1, 2, 3, 4, 5, 9))
    for _ in range(2):
        report = load_data(tiny_kaggle, SIZE).report()
        assert f"{NAMES[0]} = TCGA_ZZ_1_1" in report
        assert "TCGA_ZZ_2_1: no tumour" in report
        assert "TCGA_ZZ_2_1: slice numbers missing: 6, 7, 8" in report
        assert "8 patients, 48 slices (6 to 6 each)" in report


@pytest.mark.parametrize(
    ("ends", "words"), [(0, ""), (200, " but the first and the last, which are left out,")]
)
def test_black_patient_is_named(tiny_kaggle, ends, words):
    volume = np.zeros((4, 32, 32, 3), np.uint8)
    volume[[0, -1], 8:24, 8:24] = ends
    write_patient(tiny_kaggle, "TCGA_ZZ_1_1", volume, np.zeros((4, 32, 32), np.uint8))
    with pytest.raises(KitError, match=f"TCGA_ZZ_1_1: all slices{words} are black") as caught:
        load_data(tiny_kaggle, SIZE)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="needs the Kaggle data")
def test_facts_of_the_real_dataset():
    patients = list_patients(REAL_DATA)
    lengths = [len(patient.numbers) for patient in patients]
    assert min(lengths) >= 20 and max(lengths) <= 88
    assert {patient.institution for patient in patients} <= {"DU", "HT", "CS", "FG", "EZ"}
    if len(patients) == 110:
        assert sum(lengths) == 3929
        assert Counter(patient.institution for patient in patients) == {
            "DU": 45,
            "HT": 34,
            "CS": 16,
            "FG": 14,
            "EZ": 1,
        }


def test_index_of_the_cache_is_plain_json(tiny_kaggle):
    load_data(tiny_kaggle, SIZE)
    index = json.loads((cache_folder() / built()[0] / "index.json").read_text(encoding="utf-8"))
    assert [patient["name"] for patient in index["patients"]] == sorted(NAMES)


def test_all_of_the_preprocessing_counts_and_nothing_of_the_augmentation():
    head, _ = Path(transform.__file__).read_text(encoding="utf-8").split("def preprocessing_code")
    defined = {
        node.name
        for node in ast.parse(head).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    }
    assert {thing.__name__ for thing in transform.preprocessing_code("native")} == defined
