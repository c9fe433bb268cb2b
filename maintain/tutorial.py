"""Run the commands of ``docs/teach-a-class.md`` and write what they print below them.

Command line: ``python -m maintain.tutorial``. They run in a copy of the kit, one after the other.
The page in Chinese gets the same blocks.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lib.runtime import CommandParser, run_command
from lib.utils import PROJECT, KitError, write_atomic

PAGE = PROJECT / "docs" / "teach-a-class.md"
CHINESE = PAGE.with_name("teach-a-class.zh-CN.md")
_BLOCK = re.compile(r"^```sh\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"\d+(\.\d+)?")


def copied_kit(target: Path) -> Path:
    """Copy the files that git knows, and return the folder."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in listed.stdout.split("\0"):
        if name and (PROJECT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, target / name)
    return target


def run_page(text: str, kit: Path) -> Iterator[tuple[re.Match[str], str]]:
    """Run the blocks of a page in a kit, in order; yield each with what it prints.

    Raises:
        KitError: a command failed.
    """
    here = str(Path(sys.executable).parent)
    environment = os.environ | {
        "PATH": f"{here}{os.pathsep}{os.environ['PATH']}",
        "KIT_PROGRESS": "off",
    }
    for block in _BLOCK.finditer(text):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block[1]],
            cwd=kit,
            env=environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise KitError(f"{PAGE.name}: {block[1].strip()}: {done.stdout}{done.stderr}")
        yield block, done.stdout


def filled(text: str, kit: Path) -> str:
    """Return a page with what its commands print, where it shows that."""
    parts, position = [], 0
    for block, printed in run_page(text, kit):
        parts.append(text[position : block.start()])
        shown = f"\n```text\n{printed.rstrip()}\n```\n" if block[2] is not None else ""
        parts.append(f"```sh\n{block[1]}```\n{shown}")
        position = block.end()
    return "".join([*parts, text[position:]])


def with_blocks_of(text: str, page: str) -> str:
    """Return a text with the blocks of another page in place of its own.

    Raises:
        KitError: they are not as many.
    """
    blocks = [block[0] for block in _BLOCK.finditer(page)]
    if len(blocks) != len(_BLOCK.findall(text)):
        raise KitError(
            f"{CHINESE.name}: has not the blocks of {PAGE.name}; write the same commands"
        )
    rest = iter(blocks)
    return _BLOCK.sub(lambda _: next(rest), text)


def words(text: str) -> str:
    """Return a text without its numbers, which differ from one kind of computer to the next."""
    return re.sub(r" +", " ", _NUMBER.sub("#", text))


def main() -> None:
    """Run the command line."""
    CommandParser(
        prog="python -m maintain.tutorial", description="Run the tutorial, and fill its page."
    ).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = filled(PAGE.read_text(encoding="utf-8"), copied_kit(Path(folder, "kit")))
    write_atomic(PAGE, text)
    write_atomic(CHINESE, with_blocks_of(CHINESE.read_text(encoding="utf-8"), text))
    print(PAGE.name, CHINESE.name)


if __name__ == "__main__":
    run_command(main)
