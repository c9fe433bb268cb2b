"""Zips of strangers: what is refused, and that nothing is left outside."""

import errno
import io
import os
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from lib.grade import archive
from lib.grade.archive import unpack, write_zip
from lib.grade.trouble import GraderError
from lib.utils import KitError

SUFFIXES = (".csv", ".py")


def zip_of(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in entries:
            bundle.writestr(name, content)
    return path


@pytest.fixture
def target(tmp_path) -> Path:
    (tmp_path / "deep" / "target").mkdir(parents=True)
    return tmp_path / "deep" / "target"


def refused(source: Path, target: Path, reason: str) -> None:
    outside = sorted(path for path in target.parent.parent.rglob("*") if target not in path.parents)
    with pytest.raises(KitError, match=reason) as caught:
        unpack(source, target, SUFFIXES)
    assert "\n" not in str(caught.value)
    assert not list(target.rglob("*.csv"))
    assert (
        sorted(path for path in target.parent.parent.rglob("*") if target not in path.parents)
        == outside
    )


def test_what_is_wanted_comes_out_and_the_rest_stays_packed(tmp_path, target):
    source = zip_of(
        tmp_path / "a.zip",
        ("x/a.csv", b"1"),
        ("x/b.exe", b"2"),
        ("__MACOSX/x/._a.csv", b"3"),
        ("x/./c.py", b"4"),
        ("empty/", b""),
        ("w\\d.csv", b"5"),
    )
    unpack(source, target, SUFFIXES)
    assert names_in(target) == ["w/d.csv", "x/a.csv", "x/c.py"]


@pytest.mark.parametrize(
    "name",
    [
        "../x.csv",
        "a/../../x.csv",
        "/etc/x.csv",
        "C:/x.csv",
        "c:x.csv",
        "..\\x.csv",
        "\\\\host\\share\\x.csv",
        "a/..\\..\\x.csv",
    ],
)
def test_names_that_lead_out(tmp_path, target, name):
    refused(
        zip_of(tmp_path / "a.zip", ("good.csv", b"1"), (name, b"2")),
        target,
        "leads out of its folder",
    )


@pytest.mark.parametrize(
    "name",
    [
        "a\x01.csv",
        "nul.csv",
        "a. /x.csv",
        "ab:c.csv",
        "n" * 250 + ".csv",
        "\u6c49" * 90 + ".csv",  # letters of three bytes: more than a name may have
        "/".join("a" * 30) + "/x.csv",
        "what?.csv",
    ],
)
def test_a_name_that_no_file_can_have_is_left_out(tmp_path, target, name):
    source = zip_of(tmp_path / "a.zip", ("good.csv", b"1"), (name, b"2"))
    assert unpack(source, target, SUFFIXES) == [name]
    assert names_in(target) == ["good.csv"]


@pytest.mark.parametrize(
    "name", ["Icon\r", "a: 12:30?.png", "x" * 250, "con", "x.", "x.csv ", ".git/nul.csv"]
)
def test_a_name_that_nobody_reads_is_no_matter(tmp_path, target, name):
    source = zip_of(tmp_path / "a.zip", ("good.csv", b"1"), (name, b"2"))
    assert unpack(source, target, SUFFIXES) == []
    assert names_in(target) == ["good.csv"]


@pytest.mark.parametrize("around", ["Ada: 12?", "n" * 230, "/".join("a" * 30), "nul"])
def test_what_all_files_are_in_is_no_part_of_their_names(tmp_path, target, around):
    files = ("lib/a.py", b"1"), ("result//./x.csv", b"2"), ("result/runs/y.csv", b"3")
    source = zip_of(tmp_path / "a.zip", *((f"{around}/{name}", content) for name, content in files))
    assert unpack(source, target, SUFFIXES) == []
    assert names_in(target) == ["lib/a.py", "result/runs/y.csv", "result/x.csv"]
    source = zip_of(tmp_path / "b.zip", (f"{around}/result/x.csv", b"2"))
    assert unpack(source, target / "b", SUFFIXES) == []
    assert names_in(target / "b") == ["result/x.csv"]


def test_a_blank_at_the_end_of_a_folder_costs_nothing(tmp_path, target):
    """Whatever lies beside it, so that the folder is a part of the names."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as bundle:
        bundle.writestr("my kit /result /a.csv", "1")
        bundle.writestr("notes.json", "{}")
    assert unpack(tmp_path / "x.zip", target, (".csv", ".json")) == []
    assert (target / "my kit" / "result" / "a.csv").read_text() == "1"


def test_a_zip_in_a_zip_and_beside_other_things(tmp_path, target):
    inner = zip_of(tmp_path / "i.zip", ("result/uexec_result_best.csv", b"1")).read_bytes()
    source = zip_of(
        tmp_path / "a.zip",
        ("x/ada (1).zip", inner),
        ("x/report.pdf", b"2"),
        ("__MACOSX/b.zip", b""),
    )
    unpack(source, target, SUFFIXES)
    assert names_in(target) == ["result/uexec_result_best.csv"]
    folder = tmp_path / "ada"
    folder.mkdir()
    (folder / "ada.zip").write_bytes(inner)
    (folder / "own.py").write_text("")
    unpack(folder, target / "b", SUFFIXES)
    assert names_in(target / "b") == ["result/uexec_result_best.csv"]
    twice = zip_of(tmp_path / "t.zip", ("1.zip", inner), ("2.zip", inner))
    (target / "c").mkdir()
    refused(twice, target / "c", "has 2 zips and no results")
    deeper = zip_of(tmp_path / "d.zip", ("a.zip", source.read_bytes()))
    (target / "d").mkdir()  # one level is enough
    reason = r"a zip again, 'ada \(1\)\.zip'; submit that one alone, as pack made it"
    refused(deeper, target / "d", reason)


def test_trouble_of_the_disk_is_no_fault_of_a_submission(tmp_path, target, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "x.csv")

    monkeypatch.setattr(archive.shutil, "copyfileobj", full)
    with pytest.raises(GraderError, match=r"x\.csv: No space left on device; free some space"):
        unpack(zip_of(tmp_path / "a.zip", ("x.csv", b"1")), target, SUFFIXES)


def names_in(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def test_a_name_after_a_zero_byte(tmp_path, target):
    raw = zip_of(tmp_path / "a.zip", ("ok.csvA../../x.csv", b"1")).read_bytes()
    (tmp_path / "a.zip").write_bytes(raw.replace(b"ok.csvA", b"ok.csv\0"))
    refused(tmp_path / "a.zip", target, "leads out|no file|damaged")


@pytest.mark.parametrize(
    "kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK]
)
def test_links_and_devices(tmp_path, target, kind):
    entry = zipfile.ZipInfo("x.csv")
    entry.create_system, entry.external_attr = 3, (kind | 0o777) << 16
    refused(zip_of(tmp_path / "a.zip", (entry, b"/etc/passwd")), target, "link or a device")


def test_links_in_the_litter_of_other_programs_are_no_matter(tmp_path, target):
    """A folder of a virtual environment has some, and nobody reads it."""
    link = zipfile.ZipInfo("ada/.venv/bin/python")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    unpack(
        zip_of(tmp_path / "a.zip", ("ada/x.csv", b"1"), (link, b"/bin/python")), target, SUFFIXES
    )
    assert names_in(target) == ["x.csv"]
    (target / "x.csv").unlink()
    source = tmp_path / "ada"
    (source / ".git").mkdir(parents=True)
    (source / "x.csv").write_text("1")
    try:
        (source / ".git" / "y.csv").symlink_to("/etc/passwd")
        (source / ".venv").symlink_to("/etc")
    except OSError:
        pytest.skip("this system lets no user make links")
    unpack(source, target, SUFFIXES)
    assert names_in(target) == ["x.csv"]
    (target / "x.csv").unlink()
    (source / "data").mkdir()
    (source / "data" / "patients").symlink_to("/etc")
    refused(source, target, "'data/patients' is a link")


@pytest.mark.parametrize(
    "names",
    [("x.csv", "x.csv"), ("x.csv", "X.CSV"), ("é.csv", "e\u0301.csv"), ("a/x.csv", "a\\x.csv")],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_stand_there_twice(tmp_path, target, names):
    refused(zip_of(tmp_path / "a.zip", *((name, b"1") for name in names)), target, "twice")


def test_a_file_that_is_a_folder_too(tmp_path, target):
    with pytest.raises(KitError, match="cannot be unpacked"):
        unpack(zip_of(tmp_path / "a.zip", ("x.csv", b"1"), ("x.csv/y.csv", b"2")), target, SUFFIXES)


def test_bombs(tmp_path, target, monkeypatch):
    refused(zip_of(tmp_path / "a.zip", ("x.csv", bytes(3 * 2**20))), target, "times its size")
    monkeypatch.setattr(archive, "MAX_FILES", 10)
    refused(zip_of(tmp_path / "b.zip", *((f"{i}.csv", b"") for i in range(11))), target, "11 files")
    monkeypatch.setattr(archive, "MAX_BYTES", 1000)
    refused(
        zip_of(tmp_path / "c.zip", *((f"{i}.csv", bytes(200)) for i in range(6))), target, "6 files"
    )
    monkeypatch.setattr(archive, "MAX_ZIP", 100)
    refused(tmp_path / "c.zip", target, "larger than")


def test_a_size_that_is_a_lie(tmp_path, target):
    raw = bytearray(zip_of(tmp_path / "a.zip", ("x.csv", bytes(2**16))).read_bytes())
    place = raw.index(b"PK\x01\x02") + 24
    raw[place : place + 4] = struct.pack("<I", 10)  # the directory says ten bytes
    (tmp_path / "a.zip").write_bytes(raw)
    with pytest.raises(KitError):
        unpack(tmp_path / "a.zip", target, SUFFIXES)
    assert sum(path.stat().st_size for path in target.rglob("*")) <= 10


@pytest.mark.parametrize("content", [b"", b"PK", b"no zip at all" * 100])
def test_no_zip(tmp_path, target, content):
    (tmp_path / "a.zip").write_bytes(content)
    refused(tmp_path / "a.zip", target, "no zip, or damaged")


def test_a_password(tmp_path, target):
    raw = bytearray(zip_of(tmp_path / "a.zip", ("x.csv", b"1")).read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(mark) + offset] |= 1
    (tmp_path / "a.zip").write_bytes(raw)
    refused(tmp_path / "a.zip", target, "a.zip: has a password; submit it without")


@pytest.mark.parametrize("around", ["", "ada/"])
def test_the_contents_of_the_folder_of_results_are_as_good_as_it(tmp_path, target, around):
    names = ("uexec_result_best.csv", "runs/a/cases.csv")
    source = zip_of(tmp_path / "a.zip", *((f"{around}{name}", b"1") for name in names))
    unpack(source, target, SUFFIXES)
    assert names_in(target) == ["result/runs/a/cases.csv", "result/uexec_result_best.csv"]
    source = zip_of(tmp_path / "b.zip", (names[0], b"1"), (f"result/{names[0]}", b"2"))
    unpack(source, target / "b", SUFFIXES)
    assert names_in(target / "b") == [f"result/{names[0]}", names[0]]


def test_a_folder_is_copied_and_its_links_are_refused(tmp_path, target):
    source = tmp_path / "ada"
    (source / "in").mkdir(parents=True)
    (source / "in" / "x.csv").write_text("1")
    (source / "y.exe").write_text("2")
    unpack(source, target, SUFFIXES)
    assert [path.name for path in target.rglob("*") if path.is_file()] == ["x.csv"]
    (target / "x.csv").unlink()
    try:
        (source / "z.csv").symlink_to("/etc/passwd")
    except OSError:
        pytest.skip("this system lets no user make links")
    refused(source, target, "link or a device")


def test_the_same_files_give_the_same_zip(tmp_path):
    (tmp_path / "x").write_text("1")
    write_zip(tmp_path / "a.zip", {"b.csv": b"2", "a/x.csv": tmp_path / "x", "w.pt": b"3"})
    os.utime(tmp_path / "x", (10**9, 10**9))
    write_zip(tmp_path / "b.zip", {"w.pt": b"3", "a/x.csv": tmp_path / "x", "b.csv": b"2"})
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(io.BytesIO((tmp_path / "a.zip").read_bytes())) as bundle:
        assert bundle.namelist() == ["a/x.csv", "b.csv", "w.pt"]
        assert bundle.read("a/x.csv") == b"1"
