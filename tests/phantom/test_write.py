"""The phantom: same seed, same bytes; the Kaggle layout; tumours that look like tumours; nobody's
data is touched.
"""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.phantom import make_patient, write, write_phantom, write_test_set
from lib.phantom.__main__ import main
from lib.phantom.shapes import FLAIR, POST, PRE
from lib.phantom.write import RECORD, VERSION, missing_sequences, patient_index
from lib.runtime import run_command
from lib.utils import PROJECT, KitError, remedy

SMALL = 48  # pixels; anatomy is in millimetres, so a coarse grid shows the same head
COHORT = 10


@pytest.fixture(scope="module")
def cohort():
    return [make_patient(0, index, SMALL) for index in range(COHORT)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_phantom(
        tmp_path_factory.mktemp("data") / "phantom", patients=3, seed=5, size=SMALL
    )


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.tif")}


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(cohort):
    volume, mask = make_patient(0, 0, SMALL)
    assert np.array_equal(volume, cohort[0][0]) and np.array_equal(mask, cohort[0][1])
    assert make_patient(1, 0, SMALL)[0].tobytes() != volume.tobytes()


def test_a_patient_does_not_depend_on_how_many_are_written(written, tmp_path):
    alone = contents(write_phantom(tmp_path / "one", patients=1, seed=5, size=SMALL))
    several = contents(written)
    assert alone and all(several[name] == data for name, data in alone.items())


def test_later_patients_of_a_seed_have_the_numbers_that_follow(written, tmp_path):
    later = contents(write_phantom(tmp_path / "later", patients=1, seed=5, size=SMALL, first=2))
    assert set(later) == {name for name in contents(written) if name.startswith("PHANTOM_0003/")}
    assert all(contents(written)[name] == data for name, data in later.items())


def test_the_test_set_shares_no_patient_with_the_phantom(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "TEST_FOLDER", tmp_path / "test")
    monkeypatch.setattr(write, "TEST_PATIENTS", 2)
    root = write_test_set()
    names = {path.name for path in root.iterdir() if path.is_dir()}
    assert names == {"PHANTOM_1001", "PHANTOM_1002"}
    assert not names & {write.patient_name(index) for index in range(write.PATIENTS)}
    assert write_test_set() == root  # it is made once
    few = write_test_set(few=True)
    assert few != root and len([path for path in few.iterdir() if path.is_dir()]) == 4


def test_the_number_of_cores_does_not_matter(written, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "cores", lambda: 1)
    single = write_phantom(tmp_path / "single", patients=3, seed=5, size=SMALL)
    assert contents(single) == contents(written)


def test_files_follow_the_kaggle_layout_and_hold_what_make_patient_returns(written):
    assert sorted(p.name for p in written.iterdir() if p.is_dir()) == [
        f"PHANTOM_000{i}" for i in (1, 2, 3)
    ]
    volume, mask = make_patient(5, 1, SMALL)
    folder = written / "PHANTOM_0002"
    assert len(list(folder.iterdir())) == 2 * len(volume)
    for number in range(1, len(volume) + 1):
        picture = Image.open(folder / f"PHANTOM_0002_{number}.tif")
        truth = np.array(Image.open(folder / f"PHANTOM_0002_{number}_mask.tif"))
        assert picture.mode == "RGB" and picture.info["compression"] == "raw"
        assert np.array_equal(np.array(picture), volume[number - 1])
        assert truth.dtype == np.uint8 and np.array_equal(truth, mask[number - 1] * 255)


def test_shapes_types_and_values(cohort):
    for volume, mask in cohort:
        assert volume.dtype == mask.dtype == np.uint8
        assert volume.shape == (*mask.shape, 3) and mask.shape[1:] == (SMALL, SMALL)
        assert 14 <= len(volume) <= 22
        assert set(np.unique(mask)) == {0, 1}


def test_tumour_is_brighter_than_the_rest_of_the_head_on_flair(cohort):
    ratios = []
    for volume, mask in cohort:
        flair = volume[mask.any((1, 2))][..., FLAIR].astype(float)
        tumour = mask[mask.any((1, 2))] > 0
        head = flair > 0.1 * volume.max()
        ratios.append(flair[tumour].mean() / np.median(flair[head & ~tumour]))
    assert np.mean(ratios) > 1.2
    assert np.mean(np.array(ratios) > 1) >= 0.8


def test_most_slices_are_empty_and_tumours_are_small(cohort):
    empty = np.concatenate([~mask.any((1, 2)) for _, mask in cohort]).mean()
    share = [mask.sum() / (volume.max(-1) > 0.1 * volume.max()).sum() for volume, mask in cohort]
    assert 0.5 < empty < 0.8
    assert min(share) > 0.001 and max(share) < 0.2


def test_missing_sequence_is_a_copy_of_flair():
    drawn = [missing_sequences(0, index) for index in range(200)]
    assert np.mean([channels != () for channels in drawn]) == pytest.approx(0.15)
    assert (
        len({missing_sequences(seed, 2) for seed in range(20)}) == 3
    )  # another seed, other patients
    volume, _ = make_patient(0, drawn.index((PRE, POST)), SMALL)
    assert all(np.array_equal(volume[..., channel], volume[..., FLAIR]) for channel in (PRE, POST))
    volume, _ = make_patient(0, drawn.index(()), SMALL)
    assert not np.array_equal(volume[..., PRE], volume[..., FLAIR])


def test_the_name_of_a_patient_tells_which_sequences_it_lacks(tmp_path):
    folders = sorted(write_phantom(tmp_path, patients=4, seed=5, size=SMALL).glob("PHANTOM_*"))
    lacking = []
    for folder in folders:
        volume = np.stack([np.asarray(Image.open(file)) for file in folder.glob("*[0-9].tif")])
        copies = [n for n in (PRE, POST) if np.array_equal(volume[..., n], volume[..., FLAIR])]
        assert copies == list(missing_sequences(5, patient_index(folder.name)))
        lacking.append(bool(copies))
    assert lacking == [False, True, False, False]


def test_the_same_phantom_is_left_alone(written):
    before = {path: path.stat().st_mtime_ns for path in written.rglob("*")}
    write_phantom(written, patients=3, seed=5, size=SMALL)
    assert before == {path: path.stat().st_mtime_ns for path in written.rglob("*")}


def test_record_names_the_parameters(written):
    record = json.loads((written / RECORD).read_text(encoding="utf-8"))
    assert record == {"version": VERSION, "seed": 5, "patients": 3, "size": SMALL, "first": 0}


def refused(arguments: list[str], capsys) -> str:
    """The single line on stderr of a refused command."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(sys, "argv", ["phantom", *arguments])
        run_command(main)
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.endswith("\n") and captured.err.count("\n") == 1
    return captured.err


def test_foreign_folder_is_refused_and_untouched(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    assert str(tmp_path) in refused([str(tmp_path), "--patients", "1"], capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_another_phantom_is_refused(written, capsys):
    assert "another phantom" in refused([str(written), "--patients", "4", "--seed", "5"], capsys)


def test_a_damaged_phantom_is_not_called_complete(tmp_path, capsys):
    root = write_phantom(tmp_path / "phantom", patients=2, size=32)
    (root / "PHANTOM_0002").rename(tmp_path / "elsewhere")
    assert "PHANTOM_0002" in refused([str(root), "--patients", "2", "--size", "32"], capsys)


@pytest.mark.parametrize(
    "arguments", [["--patients", "0"], ["--seed", "-1"], ["--size", "8"], ["--first", "-1"]]
)
def test_bad_numbers_are_refused(arguments, tmp_path, capsys):
    refused([str(tmp_path / "new"), *arguments], capsys)
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_numpy_are_welcome(written, tmp_path):
    numbers = {"patients": 2, "seed": 5, "size": SMALL}
    root = write_phantom(tmp_path / "phantom", **{k: np.int64(v) for k, v in numbers.items()})
    files = sorted(path.relative_to(root) for path in root.rglob("*.tif"))
    assert files and all((root / f).read_bytes() == (written / f).read_bytes() for f in files)
    assert write_phantom(root, **numbers) == root  # known again


@pytest.mark.parametrize("number", [True, 2.0, "2"])
def test_what_is_no_whole_number_is_refused(tmp_path, number):
    with pytest.raises(KitError, match=r"patients is .*; give a whole number"):
        write_phantom(tmp_path / "phantom", patients=number)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    refused([str(tmp_path / "file"), "--patients", "1"], capsys)


def test_unreadable_arguments_exit_2_with_one_line(tmp_path):
    command = [sys.executable, "-m", "lib.phantom", str(tmp_path / "new"), "--patients", "many"]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and "many" in result.stderr


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(number, tmp_path, monkeypatch):
    error = OSError(number, os.strerror(number))

    def interrupted(*_):
        raise error

    monkeypatch.setattr(write, "cores", lambda: 1)
    monkeypatch.setattr(write, "make_patient", interrupted)
    with pytest.raises(KitError) as raised:
        write_phantom(tmp_path / "phantom", patients=2, size=SMALL)
    message = f"{tmp_path / 'phantom'}: cannot be written ({error.strerror}); {remedy(error)}"
    assert str(raised.value) == message


@pytest.mark.parametrize("signal", [KeyboardInterrupt, OSError("disk full")])
def test_interruption_leaves_nothing(signal, tmp_path, monkeypatch):
    def interrupted(*_):
        raise signal

    monkeypatch.setattr(write, "cores", lambda: 1)
    monkeypatch.setattr(write, "make_patient", interrupted)
    with pytest.raises((KeyboardInterrupt, KitError)):
        write_phantom(tmp_path / "data" / "phantom", patients=2, size=SMALL)
    assert not list(tmp_path.rglob("*PHANTOM*")) and not (tmp_path / "data" / "phantom").exists()
    assert list((tmp_path / "data").iterdir()) == []


def test_errors_are_ours(tmp_path):
    with pytest.raises(KitError, match="patients"):
        write_phantom(tmp_path / "x", patients=0)
