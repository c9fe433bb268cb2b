"""D. Files of other programs: what they change that counts is named, and the rest is no matter."""

from __future__ import annotations

import csv
import errno
import io
import json
import shutil
import stat
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch

from lib.grade.archive import unpack, write_zip
from lib.grade.checks import check_history, check_tables
from lib.grade.feedback import FOLDER, write_leaderboard, write_page
from lib.grade.gradebook import GRADEBOOK, read_book, write_book
from lib.grade.one import grade_one
from lib.grade.pack import pack
from lib.grade.platforms import list_submissions
from lib.grade.result import Finding, Result
from lib.grade.rubric import Rubric
from lib.grade.run import _believed, _kept, read_roster
from lib.grade.standings import Standing, assess
from lib.grade.submission import READ, Submission, read_submission
from lib.grade.test_set import Exam, prepare_exam
from lib.grade.trouble import GraderError
from lib.grade.worker import WorkerDied, _decoded
from lib.logger import TRAIN_CSV, Run, finished_runs, require_sound
from lib.runtime.own_files import OwnFiles
from lib.utils import EditedError, fingerprint, write_json
from tests.faults.things import ODD, TINY, runs_in, trained
from tests.faults.tries import Item, Try, Wrong, kind
from tests.grade.demo import read_zip, run_of, sign

Files = dict[str, bytes]
RUBRIC = Rubric(((0.5, 0), (0.9, 40)), 0.005, {"report, in own words": 40, "talk": 20})
CPU = torch.device("cpu")


def submitted(folder: Path) -> None:
    """Train, and pack a submission."""
    trained(folder)
    pack("ada", folder / "out", quick=True)


def honest(t: Try) -> Files:
    """Return the files of an honest submission; of ``lib`` and the notebooks, a few."""
    return dict(_honest(t.shared(submitted)))


@lru_cache
def _honest(folder: Path) -> Files:
    files = read_zip(folder / "out" / "ada.zip")
    return {
        name: content
        for name, content in files.items()
        if name.startswith(("result/uexec", "result/runs", "submission"))
        or name in ("lib/metrics.py", "lib/evaluate.py", "lib/dataset.py")
    }


def arrives(t: Try, source: Path, files: Files) -> Submission:
    """Return a submission of which a grader must find every file as it was packed."""
    target = t.folder / "unpacked"
    t.right(lambda: unpack(source, target, READ))
    read = t.right(lambda: read_submission(target))
    for name, content in files.items():
        there = read.root / name
        t.must(there.is_file(), f"{name} is missing")
        t.must(there.read_bytes() == content, f"{name} was changed")
    t.must(read.student == "ada" and read.run_id in run_of(files), "another run or student")
    return read


# --- zips -----------------------------------------------------------------------------------------


class Pipe(io.BytesIO):
    """What cannot be sought in: a zip that is written to it has data descriptors."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: Any) -> int:
        raise OSError("no way back")

    def tell(self) -> int:
        raise OSError("nobody knows")


def zipped(
    entries: Sequence[tuple[str, bytes]],
    method: int = zipfile.ZIP_DEFLATED,
    system: int = 3,
    stream: bool = False,
    large: bool = False,
    comment: bytes = b"",
) -> bytes:
    """Return a zip of entries, in their order; a name that ends with a stroke is a folder."""
    buffer = Pipe() if stream else io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as bundle:
        for name, content in entries:
            entry = zipfile.ZipInfo("x")
            entry.filename = entry.orig_filename = name
            entry.create_system, entry.compress_type = system, method
            is_folder = name.endswith(("/", "\\"))
            kind = stat.S_IFDIR | 0o755 if is_folder else stat.S_IFREG | 0o644
            entry.external_attr = kind << 16 if system == 3 else 0x10 * is_folder
            with bundle.open(entry, "w", force_zip64=large) as sink:
                sink.write(content)
        bundle.comment = comment
    return buffer.getvalue()


def folders_of(names: Sequence[str], end: str = "/") -> list[tuple[str, bytes]]:
    """Return an entry for each folder in which a file lies."""
    parents = {parent.as_posix() for name in names for parent in Path(name).parents}
    return [(parent + end, b"") for parent in sorted(parents - {"."})]


def within(folder: str, files: Files) -> Files:
    return {f"{folder}/{name}" if folder else name: content for name, content in files.items()}


ODD_FOLDERS = (
    "",
    "ada",
    "Ada Lovelace, Übung",
    "Abgabe: final?",
    "ada (1)",
    "U\u0308bung 1",
    "Group 3/ada ",
    "x" * 180,
    "/".join(f"a folder deep down {i}" for i in range(12)),
    "con",
    "50% *new*",
    "semester.",
)
NOBODY_READS = (
    "Icon\r",
    "Screenshot 2026-11-28 12:30:05.png",
    "is it finished?.png",
    'a "quoted" name.docx',
    "notes|old.txt",
    "x" * 240 + ".pdf",
    "/".join(["deep"] * 20) + "/picture.png",
    "NUL",
    "aux.txt",
    "ends with a dot.",
    "ends with a blank ",
    "Q: what.png",
    "tab\there.txt",
    "Ubersicht\u0308.xlsx",
    "desktop.ini",
    "Thumbs.db",
    ".ipynb_checkpoints/a: b.csv",
    "__MACOSX/._Icon\r",
    ".git/refs/heads/what?.py",
    ".venv/lib/python3.12/site-packages/a/" + "b/" * 12 + "aux.py",
    "venv/lib/site-packages/" + "n" * 210 + ".py",
    "~$report.docx",
)
ODD_BUT_WANTED = (
    "plan: b.py",
    "what?.csv",
    "aux.json",
    "x" * 220 + ".csv",
    "/".join(["deep"] * 20) + "/old.csv",
    "old. /x.py",
    "a*.tif",
)


def _source(t: Try, content: bytes, name: str = "ada.zip") -> Path:
    (t.folder / name).write_bytes(content)
    return t.folder / name


@kind("D", 70)
def zip_of_a_mac(t: Try) -> None:
    """Finder: a folder around all, resource forks, .DS_Store, Icon, decomposed names."""
    files = honest(t)
    inside = within(t.pick(ODD_FOLDERS) or "ada", files)
    inside |= {f"{next(iter(inside)).partition('/')[0]}/{name}": b"x" for name in _some(t)}
    names = list(inside)
    forks = [(f"__MACOSX/{Path(name).parent}/._{Path(name).name}", b"\0\5") for name in names]
    litter = [("ada/.DS_Store", b"\0"), ("__MACOSX/._ada", b"\0"), ("ada/Icon\r", b"")]
    entries = [*folders_of(names), *inside.items(), *litter, *forks]
    decomposed = [(unicodedata.normalize("NFD", name), content) for name, content in entries]
    arrives(t, _source(t, zipped(decomposed, stream=t.chance(0.5))), files)


def _some(t: Try) -> list[str]:
    return [t.pick(NOBODY_READS) for _ in range(t.number(0, 3))]


@kind("D", 60)
def zip_of_windows(t: Try) -> None:
    """Explorer and .NET: backslashes, folders as entries, names in the letters of DOS."""
    files = honest(t)
    inside = within(t.pick(ODD_FOLDERS), files)
    inside["Übersicht é.docx"] = b"x"
    end = t.pick(("/", "\\"))
    entries = [*folders_of(list(inside), end), *inside.items()]
    if t.chance(0.6):
        entries = [(name.replace("/", "\\"), content) for name, content in entries]
    content = zipped(entries, system=0)
    arrives(t, _source(t, _in_letters_of_dos(content, "Übersicht é.docx")), files)


def _in_letters_of_dos(content: bytes, name: str) -> bytes:
    """Return a zip with a name in cp437, and without the mark of UTF-8."""
    raw = bytearray(content)
    new = name.encode("cp437").ljust(len(name.encode()), b"_")
    for head, flags, start in ((b"PK\3\4", 6, 30), (b"PK\1\2", 8, 46)):
        place = (
            raw.index(name.encode(), raw.index(head))
            if head == b"PK\3\4"
            else raw.rindex(name.encode())
        )
        raw[place : place + len(new)] = new
        raw[place - start + flags + 1] &= ~0x08
    return bytes(raw)


@kind("D", 70)
def zip_of_any_packer(t: Try) -> None:
    """7-Zip, Info-ZIP, tar: any order, other compression, zip64, comments, what is before it."""
    files = honest(t)
    inside = within(t.pick(ODD_FOLDERS), files)
    entries = [*folders_of(list(inside)), *inside.items()] if t.chance(0.5) else [*inside.items()]
    if t.chance(0.5):
        t.rng.shuffle(entries)
    if t.chance(0.2):
        entries = [(f"./{name}", content) for name, content in entries]
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    content = zipped(
        entries,
        t.pick(methods),
        t.pick((0, 3, 10, 19)),
        t.chance(0.4),
        t.chance(0.4),
        t.pick((b"", b"made by me", b"x" * 60_000)),
    )
    before, after = t.pick((b"", b"", b"#!/bin/sh\n" * 50)), t.pick((b"", b"", b"\r\n"))
    arrives(t, _source(t, before + content + after), files)


@kind("D", 60)
def zip_with_names_that_nobody_reads(t: Try) -> None:
    files = honest(t)
    odd = {t.pick(NOBODY_READS): b"x" for _ in range(t.number(1, 6))}
    wanted = {t.pick(ODD_BUT_WANTED): b"x" for _ in range(t.number(0, 3))}
    source = _source(t, zipped([*files.items(), *odd.items(), *wanted.items()]))
    left_out = unpack(source, t.folder / "once", READ)
    t.must(sorted(left_out) == sorted(wanted), f"left out: {left_out}")
    arrives(t, source, files)


@kind("D", 8)
def zip_of_a_folder_of_git(t: Try) -> None:
    """5,200 objects, and more Python files of other packages than a submission may have."""
    files = honest(t)
    many = [(f".git/objects/{i % 256:02x}/{i:038x}", b"") for i in range(5_200)]
    other = [(f".venv/lib/site-packages/p/m{i}.py", b"") for i in range(t.pick((0, 6_000)))]
    arrives(t, _source(t, zipped([*many, *other, *files.items()], zipfile.ZIP_STORED)), files)


@kind("D", 60)
def zip_in_something(t: Try) -> None:
    """A cloud's zip of the zip, a platform's folder of it, with other things beside."""
    files = honest(t)
    inner = zipped([*within(t.pick(ODD_FOLDERS), files).items()])
    name = t.pick(("ada.zip", "ada (1).zip", "Kopie von ada.ZIP", "ada-20261128T1200Z-001.zip"))
    beside = {t.pick((*NOBODY_READS, "report.pdf", "own.py", "notes.csv")): b"x"}
    beside = beside if t.chance(0.6) else {}
    if t.chance(0.5):
        outer = t.pick(("", "drive-download", "Ada Lovelace_123_assignsubmission_file"))
        source = _source(t, zipped([*within(outer, {name: inner} | beside).items()]), "outer.zip")
    else:
        source = t.folder / "Ada Lovelace_123_file"
        _write(source, {name: inner} | _writable(beside))
        listed = list(list_submissions(t.folder))
        t.must(len(listed) == 1 and listed[0].startswith(source.name), f"listed: {listed}")
    arrives(t, source, files)


def _write(folder: Path, files: Files) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _writable(files: Files) -> Files:
    """Return the files whose names this disk can have."""
    return {name: content for name, content in files.items() if len(Path(name).name) < 250}


@kind("D", 50)
def folder_as_somebody_unpacked_it(t: Try) -> None:
    files = honest(t)
    source = t.folder / "submissions" / "ada"
    inside = within(t.pick(ODD_FOLDERS), files)
    if t.chance(0.3):  # unzip of a zip of Windows on another system
        inside = {name.replace("/", "\\"): content for name, content in inside.items()}
        inside = inside if max(map(len, inside)) < 250 else files
    _write(source, inside | _writable(dict.fromkeys(_some(t), b"x")))
    if t.chance(0.3):
        _write(source.parent, {"__MACOSX/x": b"", ".DS_Store": b""})
    t.must(list(list_submissions(source.parent)) == ["ada"], "other submissions are listed")
    arrives(t, source, files)


@kind("D", 80)
def zip_that_leads_out(t: Try) -> None:
    """One name that leads out, a link, a bomb, or a name that occurs twice: nothing is unpacked."""
    files = honest(t)
    way = t.pick(("out", "link", "bomb", "twice"))
    entries = list(files.items())
    if way == "out":
        names = ("../x.csv", "a/../../x.png", "/etc/x.py", "C:/x.csv", "c:\\x.py", "..\\x.csv")
        entries.append((t.pick((*names, "\\\\host\\x.csv", "a/..\\..\\x", "c:x.csv")), b"x"))
    if way == "bomb":
        entries.append(("lib/x.csv", bytes(t.number(3, 6) * 2**20)))
    if way == "twice":
        name = t.pick(list(files))
        twins = (name.upper(), f"./{name}", name.replace("/", "//"), name.replace("/", "\\"))
        other = t.pick([twin for twin in twins if twin != name])
        entries.append((other, files[name]))
    t.rng.shuffle(entries)
    content = zipped(entries)
    if way == "link":
        buffer = io.BytesIO(content)
        with zipfile.ZipFile(buffer, "a") as bundle:
            entry = zipfile.ZipInfo(t.pick(("lib/x.csv", "picture.png")))
            kinds = (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK)
            entry.create_system, entry.external_attr = 3, (t.pick(kinds) | 0o777) << 16
            bundle.writestr(entry, "/etc/passwd")
        content = buffer.getvalue()
    source, target = _source(t, content), t.folder / "deep" / "target"
    t.refuse(lambda: unpack(source, target, READ), "ada.zip")
    t.must(not list(target.iterdir()), "something was unpacked")
    there = {path.name for path in t.folder.iterdir()} | {p.name for p in target.parent.iterdir()}
    t.must(there == {"ada.zip", "deep", "target"}, f"written outside: {there}")


# --- tables and JSON of a run ---------------------------------------------------------------------


class Saved(NamedTuple):
    """Hold a file as another program saves it, and whether the kit has to read it."""

    content: bytes
    is_sound: bool


def saved_again(t: Try, content: bytes) -> Saved:
    """Return a table of a run as another program saves it."""
    is_sound = t.chance(0.4)
    program = t.pick(SOUND_TABLES if is_sound else OTHER_TABLES)
    return Saved(program(content.decode()), is_sound)


def right(
    t: Try, is_sound: bool, call: Callable[[], Item], is_right: Callable[[Item], Any], *parts: Any
) -> Item | None:
    """Return what is right; the kit may refuse the call, and name ``parts``, if it is not sound."""
    if not is_sound:
        return t.right_or_refuse(call, is_right, *parts)
    result = t.right(call)
    t.must(is_right(result), f"believed: {str(result)[:200]}")
    return result


def _by_excel(text: str, separator: str = ";", comma: bool = True) -> str:
    rows = list(csv.reader(io.StringIO(text)))
    if comma:
        rows = [[_with_comma(cell) for cell in row] for row in rows]
    return "\r\n".join(separator.join(row) for row in rows) + "\r\n"


def _with_comma(cell: str) -> str:
    return cell.replace(".", ",") if cell.replace(".", "", 1).isdigit() else cell


def _rounded(text: str) -> str:
    table = pd.read_csv(io.StringIO(text), dtype={"patient": str})
    return str(table.round(4).to_csv(index=False))


SOUND_TABLES: tuple[Callable[[str], bytes], ...] = (
    lambda text: text.replace("\n", "\r\n").encode(),
    lambda text: b"\xef\xbb\xbf" + text.encode(),
    lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
    lambda text: text.rstrip("\n").encode(),
    lambda text: text.replace("\n", "\r\n").rstrip("\r\n").encode(),
    lambda text: text.encode() + b"\n\n",
)
"""The lines are those of the run, so its hash holds."""
OTHER_TABLES: tuple[Callable[[str], bytes], ...] = (
    lambda text: text.replace("\n", "\r").encode(),
    lambda text: text.encode("utf-16"),
    lambda text: _by_excel(text).encode(),
    lambda text: _by_excel(text, comma=False).encode(),
    lambda text: _by_excel(text, "\t").encode("utf-16"),
    lambda text: _by_excel(text, ",", comma=False).encode("utf-8-sig"),
    lambda text: ("sep=;\r\n" + _by_excel(text)).encode(),
    lambda text: pd.read_csv(io.StringIO(text)).to_csv(index=False).encode(),
    lambda text: pd.read_csv(io.StringIO(text)).to_csv().encode(),
    lambda text: _rounded(text).encode(),
    lambda text: text.replace("\n", ",,\n").encode(),
    lambda text: "\n".join(f'"{line}"' for line in text.split("\n")).encode(),
    lambda text: "\n".join(" " + line for line in text.split("\n")).encode(),
    lambda text: text.replace("0.", ".").encode(),
    lambda text: "\n".join(text.split("\n")[:-2]).encode(),
)
JSON_PROGRAMS: tuple[Callable[[str], bytes], ...] = (
    lambda text: text.replace("\n", "\r\n").encode(),
    lambda text: b"\xef\xbb\xbf" + text.encode(),
    lambda text: json.dumps(json.loads(text)).encode(),
    lambda text: json.dumps(json.loads(text), indent=4, sort_keys=True).encode(),
    lambda text: json.dumps(json.loads(text), indent="\t", ensure_ascii=False).encode(),
    lambda text: text.rstrip().encode(),
    lambda text: text.encode("utf-16"),
    lambda text: text.replace('"', "'").encode(),
    lambda text: text.replace(".", ",").encode(),
    lambda text: (text + "\n// seen").encode(),
    lambda text: text.rstrip()[:-1].encode(),
    lambda text: text.rstrip()[:-1].encode() + b",}",
)


@kind("D", 140)
def table_of_a_submission_saved_again(t: Try) -> None:
    """The grader believes the numbers that the run wrote, or names the file."""
    files, reference = honest(t), _read_files(t, honest(t), "honest")
    run = run_of(files)
    tables = (TRAIN_CSV, f"runs/{Path(run).name}/history.csv", f"runs/{Path(run).name}/cases.csv")
    name = f"result/{t.pick(tables)}"
    saved = saved_again(t, files[name])
    changed = files | {name: saved.content}
    read = right(t, saved.is_sound, lambda: _read_files(t, changed, "changed"), lambda _: True)
    if read is not None:
        _same_or_named(t, read, reference, Path(name).name)
    t.must(not (saved.is_sound and t.refused), f"{name}: is sound, and a fault")


def _read_files(t: Try, files: Files, name: str) -> Submission:
    _write(t.folder / name, files)
    return read_submission(t.folder / name)


def _same_or_named(t: Try, read: Submission, reference: Submission, name: str) -> None:
    faults = [*check_tables(read, 0.005), *check_history(read)]
    if faults:
        t.refused = True
        return
    for one, other in (
        (read.claim, reference.claim),
        (read.history, reference.history),
        (read.cases, reference.cases),
    ):
        numbers = one.select_dtypes("number"), other.select_dtypes("number")
        t.must(np.allclose(*numbers, rtol=1e-6, atol=1e-6), f"{name}: other numbers are believed")
        texts = one.select_dtypes("object"), other.select_dtypes("object")
        t.must(texts[0].equals(texts[1]), f"{name}: other names are believed")
    t.must(read.info == reference.info, "another run.json is believed")


@kind("D", 60)
def json_of_a_submission_saved_again(t: Try) -> None:
    files, reference = honest(t), _read_files(t, honest(t), "honest")
    name = t.pick((f"{run_of(files)}/run.json", "submission.json"))
    changed = files | {name: t.pick(JSON_PROGRAMS)(files[name].decode())}
    read = t.right_or_refuse(
        lambda: _read_files(t, changed, "changed"), lambda _: True, Path(name).name
    )
    if read is not None:
        _same_or_named(t, read, reference, name)
        t.must(read.student == reference.student, "another student")


@kind("D", 100)
def table_of_a_run_saved_again(t: Try) -> None:
    """A run is used as it was, or it is named and left out; no file of it is changed."""
    folder = t.copied(trained)
    run = Run(runs_in(folder)[0])
    other = Run(runs_in(t.shared(trained))[0])
    file = run.folder / t.pick(("history.csv", "cases.csv"))
    saved = saved_again(t, file.read_bytes())
    file.write_bytes(saved.content)
    t.guard(folder)

    def sound() -> Run:
        require_sound(run)
        return run

    right(t, saved.is_sound, sound, lambda _: _same_tables(run, other), file)
    found = [one for one in finished_runs(folder / "out") if one.id == run.id]
    t.must(all(_same_tables(one, other) for one in found), "other numbers are in the results")
    t.must(bool(found) != t.refused, "what is refused is used, or the other way round")


def _same_tables(run: Run, other: Run) -> bool:
    return run.history.equals(other.history) and run.cases.equals(other.cases)


@kind("D", 40)
def json_of_a_run_saved_again(t: Try) -> None:
    folder = t.copied(trained)
    run, other = Run(runs_in(folder)[0]), Run(runs_in(t.shared(trained))[0])
    file = run.folder / "run.json"
    file.write_bytes(t.pick(JSON_PROGRAMS)(file.read_text(encoding="utf-8")))
    t.guard(folder)
    found = {one.id: one for one in finished_runs(folder / "out")}
    t.must(len(found) in (1, 2), "the other run is gone")
    if run.id in found:
        t.must(found[run.id].info == other.info, "another run.json is believed")
    else:
        t.refused = True


# --- tables of people -----------------------------------------------------------------------------

Rows = list[list[str]]


def _csv(rows: Rows, separator: str, end: str, quoted: bool = False) -> str:
    buffer = io.StringIO()
    writer = partial(csv.writer, buffer, delimiter=separator, lineterminator=end)
    (writer(quoting=csv.QUOTE_ALL) if quoted else writer()).writerows(rows)
    return buffer.getvalue()


def _wider(rows: Rows) -> Rows:
    return [[*row, "", "", ""] for row in rows] + [[""] * (len(rows[0]) + 3)] * 4


def _in_blanks(rows: Rows) -> Rows:
    return [[f"{cell} " for cell in row] for row in rows]


SOUND_PEOPLE: tuple[Callable[[Rows], bytes], ...] = (
    lambda rows: _csv(rows, ";", "\r\n").encode("utf-8-sig"),  # Excel, German
    lambda rows: _csv(rows, ",", "\r\n").encode("utf-8-sig"),  # Excel, English
    lambda rows: _csv(rows, "\t", "\r\n").encode("utf-16"),  # Excel, Unicode text
    lambda rows: _csv(rows, ";", "\r\n").encode("cp1252"),
    lambda rows: _csv(rows, "\t", "\r\n").encode("cp1252"),
    lambda rows: _csv(rows, ";", "\r").encode(),  # Excel of a Mac
    lambda rows: _csv(rows, ",", "\n").encode(),  # Numbers, LibreOffice, pandas
    lambda rows: _csv(rows, ",", "\n", quoted=True).encode(),
    lambda rows: _csv(rows, ";", "\n", quoted=True).encode(),
    lambda rows: _csv(rows, ",", "\r\n").encode()[:-2],  # Google Sheets
    lambda rows: ("sep=;\r\n" + _csv(rows, ";", "\r\n")).encode("utf-8-sig"),
    lambda rows: _csv(_wider(rows), ";", "\r\n").encode(),
    lambda rows: _csv(_wider(rows), ",", "\n").encode(),
    lambda rows: _csv(_in_blanks(rows), ",", "\n").encode(),
    lambda rows: ("\n\n" + _csv(rows, ",", "\n\n")).encode(),
)
OTHER_PEOPLE: tuple[Callable[[Rows], bytes], ...] = (
    lambda rows: _csv(rows, ",", "\n").encode("utf-16-le"),  # without a mark: no text
    lambda rows: _csv(rows, ",", "\n").encode("utf-32"),
)
IDS = ("ada", "0012345", "202012345678", "mar1", "b.ela-7", "12e5", "zoé", "0007", "x_1", "8")


@kind("D", 120)
def roster_as_other_programs_save_it(t: Try) -> None:
    ids = [str(one) for one in t.rng.permutation(IDS)[: t.number(1, len(IDS))]]
    has_ids = t.chance(0.9)
    saved = _saved_by(t, t.pick(SOUND_ROSTERS if has_ids else OTHER_ROSTERS)(ids))
    file = t.folder / "roster.csv"
    file.write_bytes(saved.content)
    t.guard(file)
    is_sound = has_ids and saved.is_sound
    right(t, is_sound, lambda: read_roster(file), lambda found: found == ids, file)


def _saved_by(t: Try, rows: Rows) -> Saved:
    """Return a table of people as another program saves it."""
    is_sound = t.chance(0.9)
    return Saved(t.pick(SOUND_PEOPLE if is_sound else OTHER_PEOPLE)(rows), is_sound)


SOUND_ROSTERS: tuple[Callable[[list[str]], Rows], ...] = (
    *(
        lambda ids, head=head: [[head], *([one] for one in ids)]
        for head in (
            "student",
            "id",
            "Username",
            "Student ID",
            "user_name",
            " Login ID ",
            "STUDENT",
        )
    ),
    lambda ids: [[one] for one in ids],
    lambda ids: [["Name", "id"], *(["Müller, É.", one] for one in ids)],
    lambda ids: [["Last, first; middle", "id"], *(["M", one] for one in ids)],
    lambda ids: [  # Canvas
        ["Student", "ID", "SIS User ID", "SIS Login ID", "Section"],
        ["    Points Possible", "", "", "", ""],
        *(["Müller, É.", str(i), f"s{i}", one, "A 1"] for i, one in enumerate(ids)),
    ],
    lambda ids: [  # Moodle
        ["First name", "Last name", "ID number", "Email address"],
        *(["É.", "Müller", one, "m@x.org"] for one in ids),
    ],
)
OTHER_ROSTERS: tuple[Callable[[list[str]], Rows], ...] = (
    lambda ids: [["First name", "Surname", "Email"], *(["É.", "M", f"{one}@x"] for one in ids)],
    lambda ids: [["student"], *([one] for one in ids), ["2.02E+11"]],
)


def _result(student: str, score: float = 0.8, submission: str | None = None) -> Result:
    cases: dict[str, list[float | None]] = {f"P{i}": [score, score, None] for i in range(3)}
    name = f"{student}.zip" if submission is None else submission
    result = Result(name, student, run="r", grid="network", cases=cases)
    return replace(result, claimed=score, verified=score, low=score, high=score)


def _written(file: Path, results: Sequence[Result]) -> list[dict[str, str]]:
    """Read the gradebook, write it, and return its rows."""
    book = read_book(file, RUBRIC)
    standings = _standings(results)
    book = replace(book, ids=frozenset(standing.result.student for standing in standings))
    write_book(file, standings, book, RUBRIC, dict.fromkeys(range(len(standings)), "p.html"))
    return _table(file)


def _standings(results: Sequence[Result]) -> list[Standing]:
    """Return the standings of a class, without a look at the weights of the kit."""
    with patch("lib.grade.standings.shipped", return_value=[]):
        return assess(results, RUBRIC)


def _table(file: Path) -> list[dict[str, str]]:
    with open(file, encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def _by_spreadsheet(t: Try, cell: str) -> str:
    """Return what a spreadsheet makes of an id."""
    if cell.isdigit():
        number = int(cell)
        return t.pick((str(number), f"{number:.2E}" if number > 10**10 else str(number), cell))
    return {"mar1": "01-Mar", "12e5": "1.20E+06"}.get(cell, cell)


def _filled(
    t: Try, file: Path, results: list[Result]
) -> tuple[Rows, dict[str, str], dict[str, float]]:
    """Write points and comments into a gradebook; return its rows, the comments, and the points."""
    table = _written(file, results)
    said, marks = {}, {}
    for row in table[1:]:
        if t.chance(0.8):
            said[row["student"]] = f'comment on {row["student"]}: gut, é; "ok"'
            row["comment"] = said[row["student"]]
            row["report, in own words"] = t.pick(("12.5", "12,5", "0", " 7"))
            marks[row["student"].lstrip("'")] = float(row["report, in own words"].replace(",", "."))
    table[0]["comment"] = "of all"
    return [list(table[0]), *(list(row.values()) for row in table)], said, marks


@kind("D", 160)
def gradebook_as_other_programs_save_it(t: Try) -> None:
    """What was written about a student is theirs afterwards, however ids were changed."""
    file = t.folder / GRADEBOOK
    results = [_result(student) for student in IDS]
    rows, said, marks = _filled(t, file, results)
    mangle, columns = t.chance(0.6), t.pick((1, 1, 2))
    if mangle:
        for row in rows[2:]:
            row[0] = _by_spreadsheet(t, row[0].lstrip("'"))
            if columns == 2 and row[0] != row[1]:  # folders are named as ids
                row[1] = row[0]
    if t.chance(0.3):
        t.rng.shuffle(order := list(range(2, len(rows))))
        rows = [*rows[:2], *(rows[place] for place in order)]
    if t.chance(0.3):
        for row in rows:
            row.append("mine" if row is rows[0] else t.pick(("", "x")))
    saved = _saved_by(t, rows)
    file.write_bytes(saved.content)
    table = right(t, saved.is_sound, lambda: _written(file, results), lambda _: True, file)
    if table is None:
        t.must(file.read_bytes() == saved.content, "refused, and written all the same")
        return
    found = {row["student"].lstrip("'"): row["comment"].strip() for row in table[1:]}
    everything = "\n".join(row["comment"] for row in table)
    for student, comment in said.items():
        t.must(comment in everything, f"the comment on {student} is gone")
        mine = found.get(student.lstrip("'"), "")
        t.must(mine in ("", comment), f"{student} has the comment of another: {mine}")
        if not (mangle and columns == 2):
            t.must(mine == comment, f"{student} has no comment any more")
            cells = next(row for row in table if row["student"].lstrip("'") == student.lstrip("'"))
            points = float(cells["score"]) - float(cells["DSC points"])
            given = float(cells["report, in own words"].replace(",", "."))
            t.must(points == given == marks[student.lstrip("'")], "other points are counted")
    t.must("of all" in everything, "what was written about all is gone")
    again = _written(file, results)
    t.must(again == table, "the next grading writes another gradebook")


def _without_header(rows: Rows, t: Try) -> None:
    rows[0].append("")
    for row in rows[1:]:
        row.append("a note")


def _without_student(rows: Rows, t: Try) -> None:
    row = t.pick(rows[2:])
    row[0] = ""


def _of_nobody(rows: Rows, t: Try) -> None:
    row = ["" for _ in rows[0]]
    row[rows[0].index("comment")] = "mean of the class: 12"
    rows.append(row)


def _twice(rows: Rows, t: Try) -> None:
    row = list(t.pick(rows[2:]))
    row[rows[0].index("comment")] = "another line"
    rows.append(row)


def _two_columns(rows: Rows, t: Try) -> None:
    for row in rows:
        row.append("comment" if row is rows[0] else "a second comment")


def _in_possible(rows: Rows, t: Try) -> None:
    for row in rows:
        row.append("attendance" if row is rows[0] else "5 at most")


def _no_points(rows: Rows, t: Try) -> None:
    column = rows[0].index("report, in own words")
    t.pick(rows[2:])[column] = t.pick(("27. Mai", "#REF!", "1e99", "nan", "-3", "12 of 40", "½"))


def _longer(rows: Rows, t: Try) -> None:
    t.pick(rows[2:]).extend(["", "beside the table"])


ODD_BOOKS: tuple[Callable[[Rows, Try], None], ...] = (
    _without_header,
    _without_student,
    _of_nobody,
    _twice,
    _two_columns,
    _in_possible,
    _no_points,
    _longer,
)


@kind("D", 80)
def gradebook_in_which_somebody_worked(t: Try) -> None:
    """Every cell that a person wrote is there afterwards, or nothing is written."""
    file = t.folder / GRADEBOOK
    results = [_result(student) for student in IDS]
    rows, _, _ = _filled(t, file, results)
    t.pick(ODD_BOOKS)(rows, t)
    computed = {"student", "submission", "status", "flags", "run", "score", "feedback", "grid"}
    theirs = {
        cell
        for row in rows
        for place, cell in enumerate(row)
        if (rows[0][place : place + 1] or [""])[0] not in computed and cell.strip()
    }
    file.write_text(_csv(rows, ",", "\n"), encoding="utf-8", newline="")
    before = file.read_bytes()
    table = t.right_or_refuse(lambda: _written(file, results), lambda _: True, file)
    if table is None:
        t.must(file.read_bytes() == before, "refused, and written all the same")
        return
    cells = {cell for row in table for cell in (*row, *row.values())}
    lost = {cell for cell in theirs - cells if not cell.replace(".", "").lstrip("-").isdigit()}
    t.must(not lost, f"gone: {sorted(lost)[:3]}")


# --- damaged at random ----------------------------------------------------------------------------

STATUSES = {"computed", "refused", "incomplete", "not verifiable"}
DEEP = "[" * 100_000 + "]" * 100_000
NASTY = (
    "",
    "nan",
    "inf",
    "-inf",
    "-1",
    "1e999",
    "0.5",
    "=cmd|' /C calc'!A0",
    "9" * 6000,
    "\x00",
    "é" * 999,
    "../../x",
    "C:\\x",
    "<script>alert(1)</script>",
    "true",
    "null",
)
VALUES: tuple[Any, ...] = (
    *ODD,
    "<b>",
    "=1+1",
    "os:system",
    "9" * 5000,
    [1] * 1000,
    {"\ud800": 1},
    "\ud800",
)


def _damaged(t: Try, content: bytes) -> bytes:
    """Return bytes of which some were flipped, cut, doubled or put in."""
    data = bytearray(content)
    for _ in range(t.number(1, 6)):
        place, way = t.number(0, len(data) + 1), t.number(0, 4)
        if way == 0 and data:
            data[place % len(data)] = t.number(0, 256)
        elif way == 1:
            del data[place : place + t.number(1, 400)]
        elif way == 2:
            data[place:place] = data[place : place + t.number(1, 400)]
        else:
            data[place:place] = t.rng.bytes(t.number(1, 9))
    return bytes(data)


def _damaged_table(t: Try, content: bytes) -> bytes:
    rows = [line.split(",") for line in content.decode().splitlines()]
    for _ in range(t.number(1, 4)):
        row = t.pick(rows)
        row[t.number(0, len(row))] = t.pick(NASTY)
    if t.chance(0.3):
        rows += rows[t.number(0, len(rows)) :]
    return "\n".join(map(",".join, rows)).encode()


def _damaged_json(t: Try, content: bytes) -> bytes:
    value = json.loads(content)
    for _ in range(t.number(1, 4)):
        place = value
        while True:
            key = t.pick(list(place))
            if not (isinstance(place[key], dict) and place[key]) or t.chance(0.3):
                break
            place = place[key]
        if t.chance(0.2):
            del place[key]
        else:
            place[key] = t.pick(VALUES)
        if not value:
            break
    text = json.dumps(value)
    return (text.replace("null", DEEP, 1) if t.chance(0.1) else text).encode()


@lru_cache
def _exam(folder: Path) -> Exam:
    return prepare_exam(folder / "data", TINY.split)


def _graded(t: Try, source: Path) -> Result:
    """Grade a submission in this process, and all that follows from it."""
    exam = _exam(t.shared(submitted))
    work, temporary = t.folder / "work", t.folder / "temporary"
    work.mkdir()
    temporary.mkdir()
    outside = set(t.folder.rglob("*"))
    with patch.object(tempfile, "tempdir", str(temporary)):
        values = grade_one((str(source), source.name, "x", False, str(work)), exam, CPU, 1e-3)
    left = {path for path in t.folder.rglob("*") if work not in path.parents} - outside
    t.must(not left, f"left behind: {sorted(left)[:3]}")
    result = Result.from_dict(json.loads(json.dumps(values)))
    t.must(result.status in STATUSES, f"{result.status}: {result.findings}")
    t.must(result.findings or result.status == "computed", "no score and no reason")
    reason = result.findings[-1].text if result.findings else ""
    t.must("\n" not in reason and str(t.folder) not in reason, f"odd reason: {reason[:300]}")
    (standing,) = _standings([result])
    out = t.folder / "grades"
    write_page(out, standing, {}, 0.0, RUBRIC, OwnFiles(out / FOLDER))
    write_leaderboard(out, [standing], read_book(out / GRADEBOOK, RUBRIC), RUBRIC)
    t.must(len(_written(out / GRADEBOOK, [result])) == 2, "no row in the gradebook")
    t.refused = result.status != "computed"
    return result


@kind("D", 50)
def zip_damaged_at_random(t: Try) -> None:
    source = t.folder / "x.zip"
    write_zip(source, honest(t))
    source.write_bytes(_damaged(t, source.read_bytes()))
    _graded(t, source)


def _graded_with(t: Try, names: Sequence[str], damage: Callable[[Try, bytes], bytes]) -> Files:
    files = honest(t)
    name = f"{run_of(files)}/{t.pick(names)}"
    files[name] = damage(t, files[name])
    return files


@kind("D", 50)
def table_damaged_at_random(t: Try) -> None:
    files = _graded_with(t, ("history.csv", "cases.csv"), _damaged_table)
    if t.chance(0.7):
        files = sign(files)
    if t.chance(0.3):
        files[f"result/{TRAIN_CSV}"] = _damaged_table(t, files[f"result/{TRAIN_CSV}"])
    write_zip(t.folder / "x.zip", files)
    _graded(t, t.folder / "x.zip")


@kind("D", 50)
def json_damaged_at_random(t: Try) -> None:
    files = _graded_with(t, ("run.json",), _damaged_json)
    if t.chance(0.3):
        files["submission.json"] = _damaged_json(t, files["submission.json"])
    write_zip(t.folder / "x.zip", files)
    _graded(t, t.folder / "x.zip")


@kind("D", 50)
def checkpoint_damaged_at_random(t: Try) -> None:
    files = _graded_with(t, ("best.pt",), _damaged)
    if t.chance(0.7):
        files = sign(files)
    write_zip(t.folder / "x.zip", files)
    _graded(t, t.folder / "x.zip")


@kind("D", 12)
def zip_of_others_graded(t: Try) -> None:
    """From the zip to the score: the claim comes out again."""
    files = honest(t)
    inside = {**within(t.pick(ODD_FOLDERS), files), **dict.fromkeys(_some(t), b"x")}
    content = zipped([*inside.items()], system=t.pick((0, 3)), stream=t.chance(0.5))
    content = zipped([("ada (1).zip", content)]) if t.chance(0.3) else content
    result = _graded(t, _source(t, content, "upload.zip"))
    t.must(result.status == "computed" and result.student == "ada", str(result.findings))
    t.must(not any(finding.level == "fault" for finding in result.findings), "a fault is found")
    t.must(abs(result.score - (result.claimed or 0)) < 1e-6, "another score")


# --- the process that grades, and its computer ----------------------------------------------------


def _some_result() -> dict[str, Any]:
    return asdict(replace(_result("ada"), findings=[Finding("note", "a", "b")], prints={"a": "b"}))


ODD_ANSWERS: tuple[Any, ...] = (
    {"student": "../../x"},
    {"student": "/etc/x"},
    {"student": 7},
    {"student": ""},
    {"submission": "bela.zip"},
    {"status": "verified"},
    {"verified": None},
    {"verified": "1"},
    {"verified": float("nan")},
    {"claimed": float("inf")},
    {"cases": {"P0": [1.0]}},
    {"cases": {"P0": [1.0, None, None]}},
    {"cases": [1]},
    {"findings": [["fatal", "a", "b"]]},
    {"findings": [["note", "a", 7]]},
    {"findings": [["note"]]},
    {"findings": "abc"},
    {"prints": {"a": 1}},
    {"diff": {"a": "b", "c": [1]}},
    {"extra": 1},
    {"run": ["r"]},
)


@kind("D", 60)
def answer_of_a_child_that_is_none(t: Try) -> None:
    """A child that a submission has taken over gives no result but a sound one."""
    sound = json.dumps({"value": _some_result()}).encode()
    t.must(_believed(_decoded(sound)[0], "ada.zip") == _result_of(_some_result()), "not believed")
    way = t.number(0, 3)
    answer = sound
    if way == 0:
        answer = json.dumps({"value": _some_result() | t.pick(ODD_ANSWERS)}).encode()
    if way == 1:
        value = _some_result()
        del value[t.pick(("submission", "student", "findings"))]
        answer = json.dumps({"value": value}).encode()
    if way == 2:
        nothing = (b"", b"{}", b"[]", b"null", b"\xff", b"\x80\x04.", b"9" * 5000, sound[:-5])
        answer = t.pick((*nothing, b"[" * 10**5, sound + sound, b'{"value": 1, "trouble": "x"}'))
    try:
        _believed(_decoded(answer)[0], "ada.zip")
    except (ValueError, RecursionError, WorkerDied):
        return
    raise Wrong(f"believed: {answer[:200]!r}")


def _result_of(values: dict[str, Any]) -> Result:
    return Result.from_dict(json.loads(json.dumps(values)))


@kind("D", 60)
def kept_result_damaged(t: Try) -> None:
    """A result that was computed before is believed as it was written, or computed anew."""
    file, values = t.folder / "r.json", _some_result()
    write_json(file, {"sha256": fingerprint(values), "result": values})
    t.must(_kept(file) == _result_of(values), "not believed")
    content = file.read_bytes()
    after = content
    while after == content:
        way = t.number(0, 4)
        if way == 0:
            after = _damaged(t, content)
        elif way == 1:
            after = content.replace(b"0.8", b"0.9", t.number(1, 5))
        elif way == 2:
            after = content[: t.number(0, len(content))]
        else:
            after = t.pick((b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 10**5))
    file.write_bytes(after)
    found = _kept(file)
    t.must(found in (None, _result_of(values)), "another result is believed")


TROUBLES = ("ENOSPC", "EDQUOT", "EIO", "EROFS", "EMFILE", "EACCES")
PLACES = (
    "lib.grade.archive.shutil.copyfileobj",
    "lib.grade.archive.zipfile.ZipFile",
    "lib.grade.submission.json.loads",
    "lib.runtime.checkpoint.torch.load",
    "lib.grade.test_set._load",
    "lib.grade.rescore.lib_diff",
)


@kind("D", 60)
def trouble_of_the_computer(t: Try) -> None:
    """A full or broken disk stops the grading in one line; it is no fault of a student."""
    exam, source = _exam(t.shared(submitted)), t.folder / "ada.zip"
    write_zip(source, honest(t))
    name = t.pick(TROUBLES)
    error: Exception = OSError(getattr(errno, name), f"[{name}]", str(t.folder / "x"))
    if t.chance(0.1):  # the kit was brought up to date while it graded
        error = EditedError(f"[{name}] was edited after it was loaded; restart")
    job = (str(source), "ada.zip", "x", False, str(t.folder / "w"))
    with patch(t.pick(PLACES), side_effect=error):
        line = t.refuse(lambda: grade_one(job, exam, CPU, 1), "ada.zip", f"[{name}]")
    t.must("Errno" not in line, line)


@kind("D", 12)
def trouble_with_the_data(t: Try) -> None:
    """Data that is gone or damaged meanwhile is the instructor's trouble."""
    folder = t.copied(submitted)
    exam = prepare_exam(folder / "data", TINY.split)
    exam = replace(exam, folder=Path(shutil.copytree(exam.folder, t.folder / "exam")))
    source = t.folder / "ada.zip"
    write_zip(source, honest(t))
    if t.chance(0.5):
        shutil.rmtree(exam.folder)
    else:
        next(exam.folder.rglob("clean/*/*_1.tif")).write_bytes(b"no picture")
    job = (str(source), "ada.zip", "x", False, str(t.folder / "w"))
    with patch("lib.grade.test_set._load", _load_anew):
        try:
            grade_one(job, exam, CPU, 1)
        except GraderError as error:
            t.must(str(exam.folder) in str(error), f"names no place: {error}")
            t.refused = True
            return
    raise Wrong("believed")


def _load_anew(folder: Path, image_size: int, preprocessing: str) -> Any:
    from lib.dataset import load_data

    return load_data(folder, image_size, preprocessing)


@kind("D", 30)
def memory_is_nobodys_fault(t: Try) -> None:
    """Too little memory is told, and the next grading tries again."""
    exam, source = _exam(t.shared(submitted)), t.folder / "ada.zip"
    write_zip(source, honest(t))
    errors = (
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    )
    with patch(t.pick(PLACES), side_effect=t.pick(errors)):
        values = grade_one((str(source), "ada.zip", "x", False, str(t.folder / "w")), exam, CPU, 1)
    t.must(values["status"] == "failed", f"{values['status']}: {values['findings'][-1]}")
    t.must("memory" in values["findings"][-1].text, values["findings"][-1].text)
