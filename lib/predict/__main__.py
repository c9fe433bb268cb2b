"""Segment the patients of a folder from the command line.

``python -m lib.predict --data DIR --out DIR [--weights FILE]``
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lib.dataset import BrainData, load_data
from lib.evaluate import TrainedModel, seconds_per_slice
from lib.predict.segmentation import predict, require_free
from lib.predict.weights import KIT_WEIGHTS, SMALL_WEIGHTS, default_weights, load_weights
from lib.runtime import CommandParser, run_command
from lib.runtime.cli import DATA_HELP
from lib.runtime.device import prepare
from lib.utils import short_path

SLOW = 60  # seconds
MOST_SHOWN = 20  # patients on a page: about 10 MB


def main() -> None:
    """Run the command line."""
    parser = CommandParser(
        prog="python -m lib.predict", description="Segment the patients of a folder."
    )
    parser.add_argument(
        "--weights",
        help="best.pt of a run, or a state dict of the published U-Net (default: the best "
        "run in result/ on patients, or the kit's)",
    )
    parser.add_argument("--data", required=True, help=DATA_HELP)
    parser.add_argument("--out", required=True, help="folder for masks and cases.csv")
    parser.add_argument(
        "--html",
        metavar="FILE",
        help=f"also write the slice browser of the {MOST_SHOWN} worst patients, as one page",
    )
    parser.add_argument(
        "--trust",
        nargs="+",
        default=(),
        metavar="MODULE:NAME",
        help="code outside the kit that the weights need, e.g. of a custom network",
    )
    parser.add_argument(
        "--tta", action="store_true", default=None, help="average over left-right flips"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16", "fp16"])
    arguments = parser.parse_args()
    if arguments.html:
        from lib.viewer import require_own_page  # which builds on this package

        require_own_page(Path(arguments.html))  # rather than after all the computing
    weights = Path(arguments.weights or default_weights())
    trained = load_weights(weights, arguments.trust)
    if arguments.tta is not None:
        trained = replace(trained, config=replace(trained.config, tta=arguments.tta))
    data = load_data(arguments.data, trained.config.image_size, trained.config.preprocessing)
    require_free(Path(arguments.out), data, tuple(data.patients))
    seconds, what = _forecast(trained, data, arguments.device, arguments.precision)
    print(f"{data.report()}\nweights: {short_path(weights)}: {trained}")
    advice = ""
    if seconds > SLOW and weights.resolve() == KIT_WEIGHTS and SMALL_WEIGHTS.is_file():
        advice = f"; several times faster: --weights {short_path(SMALL_WEIGHTS)}"
    print(f"{what}: about {seconds:.0f} s{advice}")
    prediction = predict(
        trained, data, arguments.out, device=arguments.device, precision=arguments.precision
    )
    print(f"{prediction}\nmasks and cases.csv: {arguments.out}")
    if arguments.html:
        from lib.viewer import browse

        browse(prediction).to_html(arguments.html, prediction.ranked()[:MOST_SHOWN])


def _forecast(
    trained: TrainedModel, data: BrainData, device: str, precision: str
) -> tuple[float, str]:
    """Return how many seconds the network needs for all slices here, and what they are."""
    machine = prepare([trained.network], device, precision)
    count = len(data.slices(tuple(data.patients)))
    seconds = count * seconds_per_slice(trained, machine)
    return seconds, f"{count} slices on {machine.device}, {machine.precision.name}"


if __name__ == "__main__":
    run_command(main)
