"""Export the kit's weights: runs of the reference as float16, with a model card.

Command line: ``python -m maintain.pretrained``, after ``python -m maintain.reference`` has trained
them.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import torch

from lib.config import changes
from lib.logger import Run
from lib.predict import KIT_WEIGHTS, PRETRAINED, read_checkpoint
from lib.runtime import CommandParser, run_command
from lib.utils import KitError, sha256, write_atomic
from maintain.reference import FOLDER, WEIGHTS, cross_validated, measured
from maintain.results import choice, cross_validation_table, markdown

CARD, SUMS = "README.md", "SHA256SUMS"
_TEMPLATE = Path(__file__).with_name("model_card.md")


def export(runs: Path = FOLDER, target: Path = PRETRAINED) -> list[Path]:
    """Write the weights as ``<label>.pt``, their hashes, and the card.

    Raises:
        KitError: weights, their checkpoints, or the cross-validation for the card are missing.
            Nothing has been written then.
    """
    contents = {f"{label}.pt": _halved(run) for label, run in weight_runs(runs).items()}
    text = card({name: (len(content), sha256(content)) for name, content in contents.items()}, runs)
    for name, content in contents.items():
        write_atomic(target / name, content)
    write_atomic(
        target / SUMS, "".join(f"{sha256(content)}  {name}\n" for name, content in contents.items())
    )
    write_atomic(target / CARD, text)
    return [target / name for name in contents]


def weight_runs(folder: Path = FOLDER) -> dict[str, Run]:
    """Return label -> its run on all patients, the baseline first.

    They are of the largest scale that was cross-validated.

    Raises:
        KitError: there are none.
    """
    scale, _ = cross_validated(folder)
    runs = measured(WEIGHTS, scale, folder)
    if not runs:
        raise KitError(
            f"{folder}: no weights at scale {scale}; python -m maintain.reference --only {WEIGHTS} "
            f"--at {scale} trains them"
        )
    return {label: run for label, [run] in runs.items()}


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


def card(files: Mapping[str, tuple[int, str]], runs: Path = FOLDER) -> str:
    """Return the model card, as Markdown.

    Args:
        files: name of each file of weights -> its size in bytes and its SHA-256.
    """
    chosen, (scale, folds) = weight_runs(runs), cross_validated(runs)
    some = next(iter(chosen.values()))
    patients = some.info["split"]["train"]
    return _TEMPLATE.read_text(encoding="utf-8").format(
        files="\n".join(
            _file_line(name, *files[name], chosen[name.removesuffix(".pt")]) for name in files
        ),
        recipes="\n".join(f"* `{label}`: {changes(run.config)}" for label, run in chosen.items()),
        results=markdown(cross_validation_table(folds)),
        fold_epochs=next(iter(folds.values())).config.epochs,
        trials=choice(folds, runs).replace("(#trials)", "(../reference/results.md#trials)"),
        scale=scale,
        default=KIT_WEIGHTS.name,
        size=some.config.image_size,
        count=len(patients),
        ids=", ".join(patients),
        sha=some.info["data"]["sha256"],
    )


def _file_line(name: str, size: int, digest: str, run: Run) -> str:
    """Return the line of a file in the table of the card."""
    cells = (
        f"`{name}`",
        f"{size / 1e6:.1f} MB",
        f"{run.info['parameters']:,}",
        run.config.epochs,
        f"`{run.id}`",
        f"`{digest}`",
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
