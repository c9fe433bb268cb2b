"""Draw the layers in CONTRIBUTING.md, from the contracts in pyproject.toml.

Command line: ``python -m maintain.layers``
"""

from __future__ import annotations

import tomllib
from typing import Any

from lib.runtime import run_command
from lib.utils import PROJECT, write_atomic
from maintain.results import with_block

PAGE = PROJECT / "CONTRIBUTING.md"
PACKAGES = {folder.parent.name for folder in (PROJECT / "lib").glob("*/__init__.py")}


def contracts() -> list[dict[str, Any]]:
    """Return the contracts of import-linter, as pyproject.toml has them."""
    return tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "importlinter"
    ]["contracts"]


def drawing() -> str:
    """Return a line for each layer, the topmost first, packages with a slash.

    Below is what some packages may not import.
    """
    layers, *others = contracts()
    names = [[name.strip() for name in layer.split("|")] for layer in layers["layers"]]
    rows = [
        "  ".join(f"{name}/" if name in PACKAGES else name for name in layer) for layer in names
    ]
    width = max(map(len, rows))
    picture = "\n".join(f"| {row.ljust(width)} |" for row in rows)
    edge = f"+{'-' * (width + 2)}+"
    rules = "\n".join(
        f"* {contract['name']}: not {', '.join(_short(contract))}" for contract in others
    )
    return (
        f"```\n{edge}\n{picture}\n{edge}\n```\n\n"
        f"A module imports only from the lines below its own. Besides:\n\n{rules}"
    )


def _short(contract: dict[str, Any]) -> list[str]:
    """Return the forbidden modules of a contract, without ``lib.``."""
    return [f"`{name.removeprefix('lib.')}`" for name in contract["forbidden_modules"]]


def main() -> None:
    """Run the command line."""
    write_atomic(
        PAGE, with_block(PAGE.read_text(encoding="utf-8"), drawing(), "python -m maintain.layers")
    )
    print(PAGE)


if __name__ == "__main__":
    run_command(main)
