"""Run notebooks headless: ``python -m lib.notebook train_default.ipynb inference.ipynb``."""

from __future__ import annotations

import os
import time
from pathlib import Path

from lib.notebook.execute import TIMES, execute, note_time, save_figures, tell_results
from lib.runtime import CommandParser, run_command
from lib.runtime.cli import RESUMES
from lib.utils import PROJECT, KitError, at_home


def main() -> None:
    """Run the command line."""
    parser = CommandParser(prog="python -m lib.notebook", description="Run notebooks headless.")
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument(
        "--in-place", action="store_true", help="write the outputs into the notebooks themselves"
    )
    arguments = parser.parse_args()
    for name in ("KIT_OUT", "KIT_DATA", "KIT_CACHE"):  # the kernel works in another folder
        path = at_home(os.environ.get(name, ""), name)
        if os.environ.get(name) and (name != "KIT_DATA" or path.exists()):  # else it is a word
            os.environ[name] = str(path.absolute())
    out = Path(os.environ.get("KIT_OUT") or PROJECT / "result")
    os.environ.setdefault(
        "KIT_PROGRESS", "text"
    )  # the kernel inherits it: a widget would not show in a terminal
    copies = []
    for notebook in arguments.notebooks:
        if not notebook.is_file():
            raise KitError(f"{notebook}: no such notebook; run this in the folder that holds them")
        copies.append(notebook if arguments.in_place else out / "notebooks" / notebook.name)
        started = time.perf_counter()
        execute(notebook, copies[-1])
        note_time(out / TIMES, notebook, time.perf_counter() - started)
        if not arguments.in_place:
            save_figures(copies[-1], out / "figures")
    tell_results(out, copies)


if __name__ == "__main__":
    run_command(main, RESUMES)
