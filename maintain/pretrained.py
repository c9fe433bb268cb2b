"""Export the kit's weights: runs of the reference as float16; and write the model card of the box.

Command line: ``python -m maintain.pretrained``, after ``python -m maintain.reference`` has trained
them. Weights in the box whose checkpoint is not at hand stay as they are; the card tells of all.
"""

from __future__ import annotations

import io
from pathlib import Path

import torch

from lib.config import REFERENCE, changes
from lib.logger import Run
from lib.predict import KIT_WEIGHTS, PRETRAINED, SMALL_WEIGHTS, load_weights
from lib.runtime import CommandParser, run_command
from lib.runtime.checkpoint import read_checkpoint
from lib.runtime.cost import count_parameters
from lib.utils import KitError, sha256, write_atomic
from maintain.reference import FOLDER, SCALES, WEIGHTS, cross_validations, measured
from maintain.results import all_cross_validations, choice, in_words, markdown

CARD, SUMS = "README.md", "SHA256SUMS"
_TEMPLATE = Path(__file__).with_name("model_card.md")


def export(runs: Path = FOLDER, target: Path = PRETRAINED) -> list[Path]:
    """Write the weights of the reference's runs, the hashes of all weights there, and the card.

    Returns:
        The files of weights that were written.

    Raises:
        KitError: weights, their checkpoints, or the cross-validation for the card are missing.
            Nothing has been written then. Or other weights there do not fit the card.
    """
    cross_validations(runs)
    contents = {
        name: _halved(run)
        for name, run in weight_runs(runs).items()
        if run.weights.is_file() or not (target / name).is_file()
    }
    for name, content in contents.items():
        write_atomic(target / name, content)
    sums = "".join(f"{sha256(file.read_bytes())}  {file.name}\n" for file in weight_files(target))
    write_atomic(target / SUMS, sums)
    write_atomic(target / CARD, card(target, runs))
    return [target / name for name in contents]


def weight_runs(folder: Path = FOLDER) -> dict[str, Run]:
    """Return name of a file -> its run on all patients, of every size of images once.

    ``best.pt`` is of the published size, ``best-128.pt`` of 128x128 pixels.

    Raises:
        KitError: there are none.
    """
    found = {
        file_name(label, run.config.image_size): run
        for scale in SCALES  # the largest of a size last
        for label, [run] in measured(WEIGHTS, scale, folder).items()
    }
    if not found:
        raise KitError(
            f"{folder}: no weights there; python -m maintain.reference --only {WEIGHTS} trains them"
        )
    return found


def file_name(label: str, size: int) -> str:
    """Return the name of the file of a recipe's weights at a size of images."""
    return f"{label}.pt" if size == REFERENCE.image_size else f"{label}-{size}.pt"


def weight_files(folder: Path = PRETRAINED) -> list[Path]:
    """Return the files of weights in a folder, by name."""
    return sorted(folder.glob("*.pt"))


def _halved(run: Run) -> bytes:
    """Return a checkpoint with its weights as float16.

    Running statistics stay as they are: they are few, but have a wide range.

    Raises:
        KitError: no checkpoint, or a weight that is too large for float16.
    """
    content = read_checkpoint(run.weights)
    weights = {
        name: tensor.half() if tensor.is_floating_point() and ".running_" not in name else tensor
        for name, tensor in content["weights"].items()
    }
    if not all(tensor.isfinite().all() for tensor in weights.values()):
        raise KitError(f"{run.weights}: a weight is too large for float16; keep this file as it is")
    buffer = io.BytesIO()
    torch.save(
        {
            "config": content["config"],
            "epoch": content["epoch"],
            "run_id": run.id,
            "trained_on": content["trained_on"],
            "weights": weights,
        },
        buffer,
    )
    return buffer.getvalue()


# --- the card -------------------------------------------------------------------------------------


def card(folder: Path = PRETRAINED, runs: Path = FOLDER) -> str:
    """Return the model card of the weights in a folder, as Markdown."""
    files, scales = weight_files(folder), cross_validations(runs)
    trained = {file.name: load_weights(file) for file in files}
    known = {tuple(each.trained_on) for each in trained.values()}
    if len(known) != 1:
        raise KitError(f"{folder}: the files were not all trained on the same patients")
    [patients] = known
    folds = list(scales.values())[-1]
    return _TEMPLATE.read_text(encoding="utf-8").format(
        files="\n".join(map(_file_line, files)),
        recipes="\n".join(
            f"* `{name}`: {changes(each.config) or 'as published'}"
            for name, each in trained.items()
        ),
        results=markdown(all_cross_validations(runs)),
        scales="\n".join(f"* `{scale}`: {in_words(scale)}" for scale in scales),
        trials=choice(folds, runs).replace("(#trials)", "(../reference/results.md#trials)"),
        default=KIT_WEIGHTS.name,
        small=SMALL_WEIGHTS.name,
        count=len(patients),
        ids=", ".join(patients),
        sha=next(iter(folds.values())).runs[0].info["data"]["sha256"],
    )


def _file_line(file: Path) -> str:
    """Return the line of a file in the table of the card."""
    content, trained = read_checkpoint(file), load_weights(file)
    cells = (
        f"`{file.name}`",
        f"{trained.config.image_size}x{trained.config.image_size}",
        f"{file.stat().st_size / 1e6:.1f} MB",
        f"{count_parameters(trained.network):,}",
        content["epoch"],
        f"`{content['run_id']}`"
        if "run_id" in content
        else "[elsewhere](../reference/elsewhere.md)",
        f"`{sha256(file.read_bytes())}`",
    )
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Run the command line."""
    CommandParser(
        prog="python -m maintain.pretrained", description="Export the kit's weights."
    ).parse_args()
    for file in [*export(), PRETRAINED / CARD]:
        print(file)


if __name__ == "__main__":
    run_command(main)
