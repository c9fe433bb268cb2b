"""A folder that holds other people's files, too: none of them is replaced or removed."""

from __future__ import annotations

import json
import sys

import pytest

from lib.runtime.own_files import OwnFiles, require_replaceable
from lib.utils import KitError


@pytest.fixture
def folder(tmp_path):
    """A folder with a file of ours and one of somebody else's."""
    folder = tmp_path / "folder"
    OwnFiles(folder).write({folder / "a" / "ours.tif": b"1"})
    (folder / "theirs.tif").write_bytes(b"2")
    return folder


def test_what_was_written_may_be_replaced(folder):
    ours = folder / "a" / "ours.tif"
    own = OwnFiles(folder)
    assert own.is_ours(ours) and own.foreign([ours, folder / "new.tif"]) == []
    own.write({ours: b"3"})
    assert ours.read_bytes() == b"3" and OwnFiles(folder).is_ours(ours)


def test_what_was_edited_or_was_there_before_may_not(folder):
    ours, theirs = folder / "a" / "ours.tif", folder / "theirs.tif"
    ours.write_bytes(b"corrected by hand")
    assert OwnFiles(folder).foreign([ours, theirs]) == [ours, theirs]
    with pytest.raises(KitError, match=r"ours\.tif: .*edited since \(2 such files\); move them"):
        require_replaceable(OwnFiles(folder), [ours, theirs], "move them")


def test_what_is_not_ours_is_put_aside_and_said(folder, capsys):
    """Whoever edited a page, or had a file of that name, finds it beside the new one."""
    ours, theirs = folder / "a" / "ours.tif", folder / "theirs.tif"
    ours.write_bytes(b"edited")
    OwnFiles(folder).write({ours: b"3", theirs: b"4"})
    assert (ours.read_bytes(), theirs.read_bytes()) == (b"3", b"4")
    assert (folder / "a" / "ours.tif.aside").read_bytes() == b"edited"
    assert (folder / "theirs.tif.aside").read_bytes() == b"2"
    assert (
        "theirs.tif: is not as the kit wrote it; it is theirs.tif.aside now"
        in capsys.readouterr().out
    )
    OwnFiles(folder).write({ours: b"5", theirs: b"4"})
    assert len(list(folder.rglob("*.aside*"))) == 2  # both are ours now
    assert not capsys.readouterr().out


def test_what_is_to_be_written_already_is_not_put_aside(folder):
    OwnFiles(folder).write({folder / "theirs.tif": b"2"})
    assert not list(folder.glob("*.aside"))


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_never_through_a_link(tmp_path, folder):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "ours.tif").write_bytes(b"1")  # the very bytes that the kit wrote
    (folder / "a" / "ours.tif").unlink()
    (folder / "a" / "ours.tif").symlink_to(elsewhere / "ours.tif")
    assert OwnFiles(folder).foreign([folder / "a" / "ours.tif"]) == [folder / "a" / "ours.tif"]
    (folder / "a" / "ours.tif").unlink()
    (folder / "a").rmdir()
    (folder / "a").symlink_to(elsewhere)
    assert OwnFiles(folder).foreign([folder / "a" / "new.tif"]) == [folder / "a" / "new.tif"]
    OwnFiles(folder).remove_others([])
    with pytest.raises(KitError, match="a: is a link; name another folder, or remove it"):
        OwnFiles(folder).write({folder / "a" / "ours.tif": b"new"})
    assert (elsewhere / "ours.tif").read_bytes() == b"1"
    assert [file.name for file in elsewhere.iterdir()] == ["ours.tif"]


def test_only_ours_are_removed(folder):
    edited = folder / "b" / "edited.tif"
    own = OwnFiles(folder)
    own.write({edited: b"4", folder / "kept.tif": b"5"})
    edited.write_bytes(b"6")
    own.remove_others([folder / "kept.tif"])
    left = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.tif"))
    assert left == ["b/edited.tif", "kept.tif", "theirs.tif"]
    assert not (folder / "a").exists()  # nothing is left in it
    assert list(json.loads(own.list.read_text())) == ["kept.tif"]


def test_a_write_that_was_cut_short_leaves_everything_ours(folder, monkeypatch):
    ours, second = folder / "a" / "ours.tif", folder / "a" / "second.tif"

    def killed(path, content, durable):
        if path == second:
            raise KeyboardInterrupt
        path.write_bytes(content)

    monkeypatch.setattr("lib.runtime.own_files.write_atomic", killed)
    for first in (ours, second):  # killed after the first file, and before it
        with pytest.raises(KeyboardInterrupt):
            OwnFiles(folder).write({first: b"new", second: b"new"})
        assert OwnFiles(folder).foreign([ours, second]) == []


def test_writes_that_were_cut_short_again_and_again_leave_everything_ours(folder, monkeypatch):
    """What is there then is not what was planned last."""
    files = [folder / "a" / f"{number}.tif" for number in range(4)]
    written = []

    def killed(path, content, durable):
        if path in files:
            if len(written) == end:
                raise KeyboardInterrupt
            written.append(path)
        path.write_bytes(content)

    monkeypatch.setattr("lib.runtime.own_files.write_atomic", killed)
    for content, end in ((b"A", 4), (b"B", 2), (b"C", 1)):
        written.clear()
        try:
            OwnFiles(folder).write(dict.fromkeys(files, content))
        except KeyboardInterrupt:
            assert end < 4
        assert OwnFiles(folder).foreign(files) == []
    end = 4
    written.clear()
    OwnFiles(folder).write(dict.fromkeys(files, b"D"))
    files[0].write_bytes(b"A")  # put back by hand: not as it was written last
    assert OwnFiles(folder).foreign(files) == files[:1]


@pytest.mark.parametrize("place", ["../elsewhere.tif", "{}/elsewhere.tif", "", ".", "a" * 300])
def test_a_list_that_leads_elsewhere_is_not_followed(tmp_path, folder, place):
    """Nothing outside of the folder is removed, even if its content is that of the list."""
    elsewhere = tmp_path / "elsewhere.tif"
    elsewhere.write_bytes(b"1")
    own = OwnFiles(folder)
    listed = json.loads(own.list.read_text())
    [ours] = listed.values()
    own.list.write_text(json.dumps({**listed, place.format(tmp_path): ours}))
    assert OwnFiles(folder).remove_others([]) == (1, [])
    assert elsewhere.read_bytes() == b"1" and not (folder / "a").exists()


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', "{", '{"a/ours.tif": [null]}'])
def test_without_a_list_nothing_is_ours(folder, content):
    OwnFiles(folder).list.write_text(content)
    assert OwnFiles(folder).foreign([folder / "a" / "ours.tif"]) == [folder / "a" / "ours.tif"]
