"""Commands and links of the pages, for the tests that type and follow what a reader does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from lib.utils import PROJECT

SMALL = "--image-size 32 --init-features 2 --epochs 2 --batch-size 8"
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")
_SHELLS = ("", "sh", "bash", "console")
_PROGRAMS = (
    *("python", "python3", "py", "pip", "uv", "conda", "make", "git", "docker", "ray"),
    *("ruff", "mypy", "pytest", "lint-imports"),
)
_INLINE = re.compile(rf"(?<!`)`((?:\w+=\S+ )*(?:{'|'.join(_PROGRAMS)})(?: [^`]+)?)`(?!`)")


def blocks(text: str, *languages: str) -> list[str]:
    """Return what is in the fences of some languages."""
    return [block for language, block in _FENCE.findall(text) if language in languages]


def commands(text: str) -> list[str]:
    """Return what a page tells to type, in its order: lines of shell blocks, and inline code.

    A block that begins with ``#!`` is one command. What explains a line beside it is left out.
    """
    found = []
    for match in re.finditer(rf"{_FENCE.pattern}|{_INLINE.pattern}", text, _FENCE.flags):
        language, block, inline = match.groups()
        if inline:
            found.append(" ".join(inline.split()))
        elif language in _SHELLS and block.startswith("#!"):
            found.append(block)
        elif language in _SHELLS:
            lines = (re.split(r"\s{4,}|  #", line.strip())[0] for line in block.splitlines())
            found += [re.sub(" +", " ", line) for line in lines if line]
    return list(dict.fromkeys(found))


def small(command: str) -> str:
    """Return a command with options of smoke size, if it trains."""
    return re.sub(r"(-m lib\.(?:train|sweep) (?!--help).*)", rf"\1 {SMALL}", command)


def run(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command line in a folder, where ``python`` is the Python of the tests."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = {"PATH": path, "KIT_PROGRESS": "off", "PYTHONPATH": str(PROJECT)} | environment
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )


def prose(file: Path) -> str:
    """Return the text of a page without blocks of code; of a notebook its Markdown cells."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    return _FENCE.sub("", text)


def anchors(file: Path) -> set[str]:
    """Return the headings of a page as GitHub makes links of them."""
    found = re.findall(r"^#{1,6} (.+)$", prose(file), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).strip().replace(" ", "-")
        for heading in found
    }


def dead_links(page: Path) -> list[str]:
    """Return the links of a page to files or headings that are not there; not those of hosts."""
    dead = []
    for link in _LINK.findall(prose(page)):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if re.match(r"[a-z]+:", link):
            continue
        if not target.exists() or (
            anchor and target.suffix == ".md" and anchor not in anchors(target)
        ):
            dead.append(link)
    return dead
