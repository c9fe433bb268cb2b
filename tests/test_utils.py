"""Hashing, atomic writing, progress bars."""

import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lib.utils import (
    LIB,
    KitError,
    _who,
    build_folder,
    fingerprint,
    progress,
    progress_mode,
    sha256,
    this_user,
    visible_files,
    write_atomic,
    write_json,
)


def test_hashes(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(b"abc") == sha256(tmp_path / "file") == known
    assert fingerprint({"a": 1, "b": [2, None]}) == fingerprint({"b": [2, None], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_folder_is_built_once_and_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    target, built = tmp_path / "deep" / "target", []

    def build(folder):
        built.append(folder)
        (folder / "file").touch()
        time.sleep(0.05)
        assert not target.exists()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: build_folder(target, (target / "file").is_file, build), range(4)))
    assert len(built) == 1
    assert [path.name for path in target.parent.iterdir()] == ["target"]
    assert not list((tmp_path / "temporary").iterdir())  # no lock is left

    def broken(folder):
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        build_folder(tmp_path / "other", (tmp_path / "other").is_dir, broken)
    assert {path.name for path in tmp_path.iterdir()} == {"deep", "temporary"}


def test_what_killed_builders_left_is_removed(tmp_path):
    dead, alive, other = (
        tmp_path / name
        for name in (".a.abc.kit-partial", ".a.123.kit-partial", ".b.abc.kit-partial")
    )
    for folder in (dead, alive, other):
        folder.mkdir()
        (folder / "file").touch()
    for path in (dead, dead / "file", alive, other, other / "file"):
        os.utime(path, (1, 1))
    ours = tmp_path / f".a.{this_user()}-99999999.abc.kit-partial"  # of a process that is no more
    mine_now = tmp_path / f".a.{_who()}.abc.kit-partial"  # of this one
    ours.mkdir(), mine_now.mkdir()
    mine = tmp_path / ".a.20240101"  # of the user
    mine.mkdir()
    os.utime(mine, (1, 1))
    target = tmp_path / "a"
    build_folder(target, target.is_dir, lambda folder: None)
    left = {"a", alive.name, other.name, mine.name, mine_now.name}
    assert {path.name for path in tmp_path.iterdir()} == left


def test_what_a_killed_process_left_of_a_file_is_removed(tmp_path):
    dead = tmp_path / f".a[1].csv.{this_user()}-99999999.abc.kit-partial"
    alive = tmp_path / f".a[1].csv.{this_user()}-{os.getpid()}.abc.kit-partial"
    dead.touch(), alive.touch()
    write_atomic(tmp_path / "a[1].csv", "x")
    assert {path.name for path in tmp_path.iterdir()} == {"a[1].csv", alive.name}


def test_atomic_writing(tmp_path):
    file = tmp_path / "new" / "folder" / "file.txt"
    write_atomic(file, "Läsion\n")
    assert file.read_bytes() == "Läsion\n".encode()
    write_atomic(file, b"second")
    assert file.read_bytes() == b"second"
    assert [path.name for path in file.parent.iterdir()] == ["file.txt"]
    write_json(file, {"a": [1, 2.5]})
    assert file.read_text().endswith("\n")


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_interrupted_writing_keeps_the_old_file(tmp_path, monkeypatch, error):
    file = tmp_path / "file"
    write_atomic(file, "old")

    def fail(handle):
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KitError if error is OSError else error):
        write_atomic(file, "new")
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_progress_is_text_on_stderr_and_leaves_nothing(capfd):
    assert list(progress(range(3), desc="counting")) == [0, 1, 2]
    streams = capfd.readouterr()
    assert streams.out == ""
    assert "counting" in streams.err
    assert streams.err.rpartition("\r")[2].strip() == ""


def test_an_installed_kit_works_in_the_folder_where_it_is_used(tmp_path):
    """Data and results are the user's: nothing goes into site-packages."""
    site = tmp_path / "site-packages"
    shutil.copytree(LIB, site / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    code = "from lib.utils import PROJECT; print(PROJECT)"
    (tmp_path / "mine").mkdir()
    for folder, expected in ((site, tmp_path / "mine"), (LIB.parent, LIB.parent)):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path / "mine",
            env=os.environ | {"PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == str(expected)


@pytest.mark.parametrize(
    ("wanted", "terminal", "mode"),
    [
        (None, True, "text"),
        (None, False, "lines"),
        ("lines", True, "lines"),
        ("text", False, "text"),
        ("off", True, "off"),
        ("of", False, "lines"),
    ],
)
def test_bars_where_somebody_looks_and_lines_in_a_file(monkeypatch, wanted, terminal, mode):
    monkeypatch.delenv("KIT_PROGRESS", raising=False)
    if wanted:
        monkeypatch.setenv("KIT_PROGRESS", wanted)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    assert progress_mode() == mode
    bar = progress(range(3), desc="x")
    assert list(bar) == [0, 1, 2]
    assert ("x:" in sys.stderr.getvalue()) == (mode == "text")


def test_what_programs_hide_in_a_folder_is_no_file_of_it(tmp_path):
    for name in ("b.py", "sub/a.py", "._b.py", ".ipynb_checkpoints/b.py", "__pycache__/b.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.py").mkdir()
    (tmp_path / ".#b.py").symlink_to("ada@laptop.4711")  # a lock of Emacs leads nowhere
    found = [tmp_path / "b.py", tmp_path / "sub" / "a.py"]
    assert visible_files(tmp_path, "**/*.py") == found
    assert visible_files(tmp_path, "*.py") == found[:1]
    assert visible_files(tmp_path, "._b.py") == [tmp_path / "._b.py"]
