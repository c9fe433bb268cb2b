"""Write the report of all attempts, from the run folders alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from lib.dataset import BrainData
from lib.logger import Run
from lib.notebook.markdown import to_html
from lib.report.analysis import read_analysis, to_markdown
from lib.report.examples import Examples
from lib.report.experiments import experiments, read_attempts
from lib.report.format import cell, duration, number, settings, signed
from lib.report.page import Page, make_page
from lib.runtime.own_files import OwnFiles, require_replaceable
from lib.stats import p_in_cell
from lib.utils import PROJECT, put_aside, say

HTML, MARKDOWN, FIGURES = "report.html", "report.md", "report"
LIST = ".report.json"  # of both: predictions may keep a list of their own in the same folder

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=select_autoescape(["html.jinja"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters |= {
    "number": number,
    "signed": signed,
    "p": p_in_cell,
    "duration": duration,
    "settings": settings,
    "cell": cell,
    "student_html": to_html,
    "student_markdown": to_markdown,
}


def write_report(
    out: str | Path = "result",
    data: BrainData | str | Path | None = None,
    images: bool = True,
    target: str | Path | None = None,
    runs: Sequence[Run] = (),
    notebooks: Path = PROJECT,
) -> dict[str, Path]:
    """Write ``report.html`` and ``report.md``, the latter with its pictures in ``report/``.

    The HTML is one file that opens without a network. The student's words are their answers in the
    notebooks. The same run folders, notebooks and data give the same bytes.

    Args:
        out: folder of results.
        data: for examples of segmentations, from ``load_data`` or a folder for it. By default it is
            the folder where the notebooks find it, if it has the patients of a run.
        images: False leaves the examples out. Images of real patients may not be shared as freely
            as numbers.
        target: folder for the report; by default ``out``.
        runs: those of ``out`` that were read before.
        notebooks: folder of the notebooks.

    Returns:
        File name -> path.

    Raises:
        KitError: there are no runs, or the data cannot be read.
    """
    out = Path(out)
    attempts, unreadable = read_attempts(out, runs)
    plans = experiments(attempts)
    words = read_analysis(notebooks, plans)
    with plt.rc_context({"text.parse_math": False}):  # a label may contain a dollar sign
        page = make_page(plans, attempts, unreadable, words, Examples(data, images))
    return _write(Path(target or out), page)


def _write(out: Path, page: Page) -> dict[str, Path]:
    """Fill both templates, and delete figures of earlier reports; other pictures stay."""
    own = OwnFiles(out / FIGURES)
    if not own.list.is_file() and any((out / FIGURES).glob("*.png")):
        aside = put_aside(out / FIGURES)  # by an earlier version, which kept no list
        say(f"{out / FIGURES}: has no list of what is the kit's in it; it is {aside.name} now")
    figures = {out / FIGURES / figure.file: figure.png for figure in page.figures}
    require_replaceable(own, figures, "move your pictures to another folder")
    own.write(figures)
    own.remove_others(figures)
    texts = {
        out / name: _TEMPLATES.get_template(f"{name}.jinja").render(vars(page))
        for name in (HTML, MARKDOWN)
    }
    texts[out / MARKDOWN] = re.sub(r"\n{3,}", "\n\n", texts[out / MARKDOWN])
    OwnFiles(out, LIST).write({path: text.encode() for path, text in texts.items()})
    return {path.name: path for path in texts}
