"""The kit's weights: exported from runs of the reference, halved, with a card that says what they are.

Command line: ``python -m lib.pretrained``, where ``python -m lib.sweep reference --only pretrained`` was run before.
"""

from __future__ import annotations

import io
from pathlib import Path

import torch

from lib.logger import Run
from lib.measured import FOLDER, cross_validated
from lib.predict import PRETRAINED, read_checkpoint
from lib.reference import SCALES, WEIGHTS
from lib.results import changes, cross_validation_table, markdown
from lib.utils import CommandParser, KitError, run_command, sha256, write_atomic

CARD, SUMS = "README.md", "SHA256SUMS"
_TEMPLATE = Path(__file__).with_name("model_card.md")


def export(runs: Path = FOLDER, target: Path = PRETRAINED) -> list[Path]:
    """Write the weights of the latest scale that was trained as ``<label>.pt``, their hashes, and the card.

    Raises:
        KitError: a run's checkpoint is not there.
    """
    files = []
    for label, run in weight_runs(runs).items():
        files.append(target / f"{label}.pt")
        write_atomic(files[-1], _halved(run))
    write_atomic(target / SUMS, "".join(f"{sha256(file)}  {file.name}\n" for file in files))
    write_atomic(target / CARD, card(runs, target))
    return files


def weight_runs(folder: Path = FOLDER) -> dict[str, Run]:
    """Label -> its run on all patients, the baseline first; of the larger scale where both are there.

    Raises:
        KitError: there is none.
    """
    found: dict[str, list[tuple[int, str, Run]]] = {}
    for file in sorted(folder.glob("runs/*/run.json")):
        run = Run(file.parent)
        for place in run.info.get("places", []):
            if place["plan"] == WEIGHTS and place.get("scale") in SCALES and run.info["status"] == "finished":
                found.setdefault(place["scale"], []).append((place["position"], place["label"], run))
    if not found:
        raise KitError(f"{folder}: no weights there; python -m lib.sweep reference --only {WEIGHTS} trains them")
    chosen = found[max(found, key=list(SCALES).index)]
    return {label: run for _, label, run in sorted(chosen, key=lambda each: each[0])}


def _halved(run: Run) -> bytes:
    """A checkpoint with its weights as float16, which is what they were multiplied as in training."""
    content = read_checkpoint(run.weights)
    weights = {name: tensor.half() if tensor.is_floating_point() else tensor
               for name, tensor in content["weights"].items()}
    buffer = io.BytesIO()
    torch.save({"config": content["config"], "epoch": content["epoch"], "run_id": run.id,
                "trained_on": content["trained_on"], "weights": weights}, buffer)
    return buffer.getvalue()


# --- the card -----------------------------------------------------------------------------------------------------


def card(runs: Path = FOLDER, target: Path = PRETRAINED) -> str:
    """The model card, as Markdown."""
    chosen = weight_runs(runs)
    some = next(iter(chosen.values()))
    scale = next(place["scale"] for place in some.info["places"] if place["plan"] == WEIGHTS)
    patients = some.info["split"]["train"]
    folds = cross_validated(scale, runs)
    return _TEMPLATE.read_text(encoding="utf-8").format(
        files="\n".join(_file_line(label, run, target / f"{label}.pt") for label, run in chosen.items()),
        recipes="\n".join(f"* `{label}`: {changes(run.config)}" for label, run in chosen.items()),
        results=markdown(cross_validation_table(folds)), fold_epochs=next(iter(folds.values())).config.epochs,
        scale=scale, size=some.config.image_size, count=len(patients), ids=", ".join(patients),
        sha=some.info["data"]["sha256"])


def _file_line(label: str, run: Run, file: Path) -> str:
    cells = (f"`{file.name}`", f"{file.stat().st_size / 1e6:.1f} MB", f"{run.info['parameters']:,}", run.config.epochs,
             f"`{run.id}`", f"`{sha256(file)}`")
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """The command line."""
    CommandParser(prog="python -m lib.pretrained", description="Export the kit's weights.").parse_args()
    for file in [*export(), PRETRAINED / CARD]:
        print(file)


if __name__ == "__main__":
    run_command(main)
