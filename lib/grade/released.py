"""Read notebooks: the released ones with their questions, and those of students, without trust."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from lib.notebook.cells import ASKS, PHRASES, PLACEHOLDERS, question_hash, read_notebook
from lib.notebook.solutions import CONTENT, REGION, without_solutions
from lib.utils import PROJECT, fingerprint, sha256

_COURSE = ("train_default", "train", "train_best", "inference")
_TELLING = 25  # letters of a line that no two cells share by chance
_MAX_HEADING = 300  # letters that are looked at
_MODEL_ANSWER = re.compile("|".join(f"^{re.escape(one.model_answer)}" for one in PHRASES.values()))


@dataclass(frozen=True)
class Question:
    """Hold a question of a released notebook.

    Attributes:
        key: of notebook and cell, the same in every edition.
        section: the heading above it.
        text: the paragraphs that ask, a line each.
        model_answer: the instructor's; "" in the student edition.
    """

    key: str
    notebook: str
    section: str
    title: str
    text: str
    model_answer: str

    @property
    def name(self) -> str:
        """Return what tells it from all others, in a line."""
        parts = (self.notebook.removesuffix(".ipynb"), self.section, self.title)
        return " · ".join(dict.fromkeys(part for part in parts if part))


@dataclass(frozen=True)
class Released:
    """Hold a released notebook, with and without solutions.

    Attributes:
        texts: id of each cell -> its texts in both editions.
        kinds: id of each cell -> its kind.
        questions: id of a cell that asks -> question.
        hashes: of a question as it was given out -> id of its cell.
        telling: line that only one cell has -> id of the cell.
    """

    name: str
    texts: dict[str, tuple[str, ...]]
    kinds: dict[str, str]
    questions: dict[str, Question]
    hashes: dict[str, str]
    telling: dict[str, str]

    @cached_property
    def all_texts(self) -> frozenset[str]:
        """Return the texts of all cells."""
        return frozenset(text for texts in self.texts.values() for text in texts)


def tidy(text: str) -> str:
    """Return a text without blanks around it and at the ends of its lines."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


# --- released notebooks ---------------------------------------------------------------------------


def released(folder: Path = PROJECT) -> dict[str, Released]:
    """Return the course's notebooks in a folder, by name, in their order; others do not count.

    Raises:
        KitError: one of them cannot be read.
    """
    files = [folder / f"{name}.ipynb" for name in _COURSE]
    return {file.name: _released(file, sha256(file)) for file in files if file.is_file()}


def released_hash(folder: Path = PROJECT) -> str:
    """Return a hash of what is read of the released notebooks; outputs change nothing."""
    found = released(folder).values()
    return fingerprint([[one.name, [*one.texts.items()], one.kinds] for one in found])


def questions(folder: Path = PROJECT) -> dict[str, Question]:
    """Return the questions of all released notebooks, by key."""
    return {
        question.key: question
        for notebook in released(folder).values()
        for question in notebook.questions.values()
    }


@cache
def _released(file: Path, digest: str) -> Released:
    """Return a released notebook.

    Args:
        digest: of the file: one that was edited is read anew.
    """
    texts, kinds, asked, hashes = {}, {}, {}, {}
    lines: dict[str, set[str]] = {}
    section = ""
    for position, cell in enumerate(read_notebook(file)):
        name = cell.id or f"cell-{position}"
        editions = [
            without_solutions(cell.text, one.in_code if cell.kind == "code" else one.in_text)
            for one in PHRASES.values()
        ]
        texts[name] = tuple(dict.fromkeys(map(tidy, (cell.text, *editions))))
        kinds[name] = cell.kind
        for line in {line.strip() for text in texts[name] for line in text.splitlines()}:
            lines.setdefault(line, set()).add(name)
        if cell.kind != "markdown":
            continue
        stripped = editions[0]
        if ASKS.search(stripped):
            above = (headings(ASKS.split(stripped)[0]) or [section])[-1]
            asked[name] = _question(f"{file.stem}-{name}", file.name, above, cell.text, stripped)
            hashes[question_hash(stripped)] = name
        section = (headings(stripped) or [section])[-1]
    telling = {
        line: min(names) for line, names in lines.items() if len(names) == 1 < len(line) - _TELLING
    }
    return Released(file.name, texts, kinds, asked, hashes, telling)


def _question(key: str, notebook: str, section: str, text: str, given_out: str) -> Question:
    """Return the question of a cell: its part around ``ASKS``, up to the next heading."""
    before, after = ASKS.split(given_out, maxsplit=1)
    start = before.rpartition("\n\n")[2]
    end = re.split(r"^#{1,6} ", after, maxsplit=1, flags=re.MULTILINE)[0]
    title = re.match(r"\*\*([^*]+?)[.。]?\*\*", start)
    asks = f"{start[title.end() if title else 0 :]}{end}"
    paragraphs = [
        " ".join(part.split()) for part in asks.split("\n\n") if part.strip() not in PLACEHOLDERS
    ]
    answers = [
        _MODEL_ANSWER.sub("", region[CONTENT].strip(), count=1)
        for region in REGION.finditer(text)
        if region[2] == "SOLUTION"
    ]
    return Question(
        key,
        notebook,
        section,
        title[1] if title else "",
        "\n".join(paragraphs).strip(),
        "\n".join(" ".join(answer.split()) for answer in answers),
    )


def headings(text: str) -> list[str]:
    """Return the headings in a Markdown text."""
    found = (heading(line) for line in text.splitlines())
    return [title for _, title in found if title]


def heading(line: str) -> tuple[int, str]:
    """Return level and title of a heading; 0 and "" for any other line.

    It takes a time that grows with the length of the line: a student wrote it.
    """
    indented = line[:_MAX_HEADING].rstrip()
    text = indented.lstrip(" ")
    level = len(text) - len(text.lstrip("#"))
    rest = text[level:]
    if not 1 <= level <= 6 or len(indented) - len(text) > 3 or not rest.startswith((" ", "\t")):
        return 0, ""
    return level, rest.rstrip("#").strip()
