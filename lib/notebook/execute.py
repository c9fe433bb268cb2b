"""Run notebooks headless: ``python -m lib.notebook train_default.ipynb inference.ipynb``.

Each runs top to bottom in a fresh kernel. What its cells print, progress bars included, appears as
it comes. The executed copies go to ``<out>/notebooks``, their pictures to ``<out>/figures``; with
``--in-place`` they replace the notebooks. ``<out>/notebooks.json`` says how many seconds each took.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from lib.logger import TRAIN_CSV, finished_runs, outside_folds
from lib.runtime.own_files import OwnFiles
from lib.utils import PROJECT, KitError, short_path, write_atomic, write_json

TIMES = "notebooks.json"
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"  # type of a cell's output that is a widget
_BAR = re.compile(
    r"\r|\x1b\[A|^\s*$"
)  # what bars write: back to the start of the line, one line up, nothing


class _Client(NotebookClient):
    """Show in the terminal what a cell prints, while it prints."""

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] == "stream":
            print(
                msg["content"]["text"],
                end="",
                file=getattr(sys, msg["content"]["name"]),
                flush=True,
            )
        return super().process_message(msg, cell, cell_index)


def execute(notebook: Path, target: Path) -> None:
    """Run ``notebook`` and write the executed copy to ``target``.

    An earlier copy that was edited since is put aside, unless ``target`` is the notebook itself.

    Raises:
        KitError: a cell failed; what was executed until then is written too.
    """
    try:
        content = nbformat.reads(notebook.read_text(encoding="utf-8"), as_version=4)
    except (OSError, ValueError, AttributeError, TypeError, nbformat.ValidationError) as error:
        raise KitError(f"{notebook}: is no notebook ({type(error).__name__}); restore it") from None
    cells = sum(cell.cell_type == "code" for cell in content.cells)
    started = iter(range(1, cells + 1))

    def announce(cell: Any, **_: Any) -> None:
        if cell.cell_type == "code":
            print(
                f"--- {notebook.name} [{next(started)}/{cells}] {cell.source.splitlines()[0][:80]}",
                flush=True,
            )

    client = _Client(
        content,
        timeout=None,
        resources={"metadata": {"path": str(PROJECT)}},
        on_cell_execute=announce,
        store_widget_state=False,
        kernel_name="python3",  # whatever kernel it was last saved with
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )
    try:
        client.execute()
    except CellExecutionError as error:
        raise KitError(
            f"{notebook.name}: a cell failed with {error.ename}: {error.evalue}; the notebook up "
            f"to there is {target}"
        ) from None
    except DeadKernelError:
        raise KitError(
            f"{notebook.name}: its kernel died, most likely for want of memory; close other "
            f"programs, or take a smaller batch_size; the notebook up to there is {target}"
        ) from None
    finally:
        _tidy(content)
        executed = (nbformat.writes(content) + "\n").encode()
        if target == notebook:
            write_atomic(target, executed)
        else:  # somebody may have written into an earlier copy
            OwnFiles(target.parent).write({target: executed})


def _tidy(content: nbformat.NotebookNode) -> None:
    """Drop what means nothing in a file: finished bars, dead widgets, times of execution."""
    for cell in content.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [
                output
                for output in cell.outputs
                if not _only_a_widget(output)
                and not (output.get("name") == "stderr" and _BAR.search(output["text"]))
            ]
            for output in cell.outputs:
                output.get("data", {}).pop(WIDGET_MIME, None)


def _only_a_widget(output: nbformat.NotebookNode) -> bool:
    """Return whether an output is a widget without a still picture of it.

    The slice browser has one.
    """
    data = output.get("data", {})
    return WIDGET_MIME in data and "image/png" not in data


def save_figures(notebook: Path, folder: Path) -> None:
    """Write the pictures of an executed notebook as ``<notebook>_<number>.png``."""
    content = nbformat.read(notebook, as_version=4)
    pictures = [
        output.data["image/png"]
        for cell in content.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    OwnFiles(folder).write(
        {
            folder / f"{notebook.stem}_{number}.png": base64.b64decode(picture)
            for number, picture in enumerate(pictures, 1)
        }
    )


def note_time(file: Path, notebook: Path, seconds: float) -> None:
    """Write down how long each notebook took."""
    before = None
    with suppress(OSError, ValueError):  # nothing but times is lost
        before = json.loads(file.read_text(encoding="utf-8"))
    write_json(file, (before if isinstance(before, dict) else {}) | {notebook.stem: round(seconds)})


def tell_results(out: Path, copies: list[Path]) -> None:
    """Say how good the last run is and where everything is."""
    runs = sorted(outside_folds(finished_runs(out)), key=lambda run: run.asked)
    if runs:
        print(f"\nvalidation DSC  {runs[-1].dsc}")
        print(f"run             {short_path(runs[-1].folder)}")
        print(f"result CSV      {short_path(out / TRAIN_CSV)}")
    print("\n".join(f"notebook        {short_path(copy)}" for copy in copies))
    if (out / "figures").is_dir():
        print(f"figures         {short_path(out / 'figures')}")
