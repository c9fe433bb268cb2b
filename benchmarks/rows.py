"""The table of ratios: each row two ways to do one thing, measured in turns."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import nbformat
import numpy as np
import torch
from scipy import ndimage
from torch.utils.data import DataLoader

from benchmarks import plain
from benchmarks.measure import Row, apart, in_turns, row, seconds
from benchmarks.sets import many_patients, some_phantoms, temporary
from benchmarks.step import FULL_WIDTH, Step, random_batch
from lib.config import BEST, PROFILES, Config
from lib.data import list_patients, read_patient
from lib.dataset import load_data, make_split
from lib.evaluate import predict_volumes, predicted_mask
from lib.grade import grade, pack
from lib.logger import Epoch
from lib.loss import DiceLoss
from lib.metrics import hd95, surface_distances
from lib.networks import build_model, summary
from lib.phantom import PHANTOM_FOLDER, make_patient, write_phantom
from lib.plot.pixels import FLAIR, render
from lib.runtime import pick_device, pick_precision
from lib.runtime.limits import cores
from lib.sweep import Plan, sweep
from lib.train import fit
from lib.transform import draw_affine, warp
from lib.utils import PROJECT

SIZE, BATCH = 256, 16


def preparation(patients: int = 2, rounds: int = 2) -> list[Row]:
    """Cold and warm start on patients of 36 slices at 256x256."""
    with temporary() as folder:
        root = many_patients(folder / "data", patients, SIZE)

        def plain_way() -> None:
            for patient in list_patients(root):
                plain.preprocess(*read_patient(patient)[:2], SIZE)

        def cold() -> None:
            shutil.rmtree(folder / "cache", ignore_errors=True)
            load_data(root, SIZE)

        slow, first, again = in_turns(
            plain_way, cold, lambda: load_data(root, SIZE), rounds=rounds, warm_up=0
        )
    what = f"preparing {patients} patients of 36 slices of 256x256"
    remark = f"the kit uses {cores()} cores, the published code one"
    return [
        row(f"{what}, cold", "published, skimage", slow, first, remark),
        row(f"{what}, warm", "published: prepares each time", slow, again),
    ]


def augmentation(rounds: int = 5) -> list[Row]:
    """Zoom, rotation and flip of a batch with masks, one thread."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(BATCH, 3, SIZE, SIZE)).astype(np.float32)
    masks = (rng.random((BATCH, 1, SIZE, SIZE)) > 0.9).astype(np.float32)
    slices = [
        (image.transpose(1, 2, 0), mask[0]) for image, mask in zip(images, masks, strict=True)
    ]
    theta = torch.from_numpy(draw_affine(rng, BATCH, 0.05, 15.0, 0.5))
    batch = torch.from_numpy(images), torch.from_numpy(masks)
    ways = {
        "skimage, rescale and rotate": lambda: [plain.augment(*pair, 1.03, 7.0) for pair in slices]
    }
    monai = _monai_way(*batch)
    if monai is not None:
        ways["MONAI, RandAffined"] = monai
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    *others, ours = in_turns(*ways.values(), lambda: warp(*batch, theta, "zero"), rounds=rounds)
    torch.set_num_threads(threads)
    return [
        row(f"augmenting {BATCH} slices of 256x256, one thread", name, slow, ours)
        for name, slow in zip(ways, others, strict=True)
    ]


def _monai_way(images: torch.Tensor, masks: torch.Tensor) -> Callable[[], object] | None:
    try:
        from monai.transforms import Compose, RandAffined, RandFlipd
    except ImportError:
        print("augmentation against MONAI: left out, monai is not installed")
        return None
    angle = float(np.deg2rad(15))
    change = Compose(
        [
            RandAffined(
                ["image", "mask"],
                prob=1,
                rotate_range=[angle],
                scale_range=[0.05, 0.05],
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            RandFlipd(["image", "mask"], prob=0.5, spatial_axis=1),
        ]
    )
    return lambda: [
        change({"image": image, "mask": mask}) for image, mask in zip(images, masks, strict=True)
    ]


def training(
    image_size: int = 128, patients: int = 6, rounds: int = 2, precision: str = "auto"
) -> list[Row]:
    """Compare a whole epoch of the published recipe with a plain loop.

    Validation and checkpoint are included.
    """
    config = Config(image_size=image_size, sampling="fresh", epochs=rounds + 1, precision=precision)
    device = pick_device()
    with (
        temporary() as folder,
        apart(
            _plain_epochs, some_phantoms(folder / "data", patients), config, device
        ) as plain_epoch,
    ):
        plain_times, our_times, last = [], [], None

        def between(
            _: Epoch,
        ) -> None:  # lib.train calls it after each epoch: the other way runs here, in turns
            nonlocal last
            now = time.perf_counter()
            if last is not None:
                our_times.append(now - last)
            plain_epoch()
            last = time.perf_counter()
            plain_times.append(last - now)

        fit(config, load_data(folder / "data", image_size), folder / "out", watch=between)
    chosen = pick_precision(device, precision).name
    name = (
        f"an epoch, U-Net 32, {image_size}x{image_size}, {chosen}, "
        f"batch {config.batch_size}, {patients} phantoms"
    )
    return [
        row(
            name,
            "plain fp32 loop, DataLoader",
            float(np.median(plain_times[1:])),
            float(np.median(our_times)),
        )
    ]


def quick_runs(runs: int = 2, epochs: int = 12) -> list[Row]:
    """Compare a sweep of quick runs side by side with the same, one run after the other."""
    recipe = replace(BEST, **PROFILES["quick"] | {"epochs": epochs, "split": "holdout:10"})
    plan = Plan("seeds", "How many runs an hour?", {"best": {}})
    with temporary() as folder:
        data = load_data(some_phantoms(folder / "data", 30), recipe.image_size)
        slow, fast = (
            seconds(partial(sweep, plan, recipe, data, folder / executor, range(runs), executor))
            for executor in ("local", "processes")
        )
    rate = " and ".join(f"{3600 * runs / each:.0f}" for each in (slow, fast))
    return [
        row(
            f"{runs} runs of the best recipe, U-Net 8, 80x80, batch 8, {epochs} epochs, 30 heads",
            "one after the other, all cores each",
            slow,
            fast,
            f"{rate} runs an hour",
        )
    ]


def _plain_epochs(root: Path, config: Config, device: torch.device) -> Callable[[], object]:
    """The same patients, split and network in a plain loop; a call is an epoch."""
    data = load_data(root, config.image_size)
    split, model = make_split(data, "auto"), build_model(config).to(device)
    optimizer = torch.optim.Adam(model.parameters(), config.lr)
    loaders = []
    for names, drawn in ((split.train, True), (split.validation, False)):
        arrays = [
            data.slices((name,)).batch(np.arange(len(data.slices((name,))))) for name in names
        ]
        volumes = [images.numpy().transpose(0, 2, 3, 1).astype(float) for images, _ in arrays]
        slices = plain.Slices(volumes, [masks.numpy()[:, 0] for _, masks in arrays], drawn)
        loaders.append(
            DataLoader(slices, config.batch_size, drop_last=drawn, num_workers=min(4, cores()))
        )
    return lambda: plain.epoch(model, DiceLoss(), optimizer, *loaders, device)


def inference(image_size: int = 128, rounds: int = 3, precision: str = "auto") -> list[Row]:
    """Compare the segmentation of a patient, from prepared slices to the largest component.

    The kit also brings it to the file's own grid. It is compared with a plain network that takes
    slices
    in batches of the published size, and with one that takes as few at once as is fastest.
    """
    with temporary() as folder:
        data = load_data(many_patients(folder / "data", 1, image_size), image_size)
        [name] = data.patients
        step = Step(Config(image_size=image_size), precision=precision)
        images = data.slices((name,)).batch(np.arange(len(data.slices((name,)))))[0].numpy()
        few = max(1, 2**17 // image_size**2)

        def ours() -> None:
            volumes = predict_volumes(step.model, step.config, data, (name,), step.machine)
            for patient, probabilities in volumes:
                predicted_mask(data, patient, probabilities, step.config.component)

        with (
            apart(_plain_prediction, images, step.device, BATCH) as published,
            apart(_plain_prediction, images, step.device, few) as tuned,
        ):
            *others, fast = in_turns(published, tuned, ours, rounds=rounds)
    what = (
        f"segmenting a patient of {len(images)} slices, U-Net 32, {image_size}x{image_size}, "
        f"{step.machine.precision.name}"
    )
    return [
        row(what, f"plain fp32, {size} at once", slow, fast)
        for size, slow in zip((BATCH, few), others, strict=True)
    ]


def _plain_prediction(
    images: np.ndarray, device: torch.device, batch_size: int
) -> Callable[[], object]:
    model = build_model(Config()).to(device)
    return lambda: plain.predict(model, images, device, batch_size)


def grading(submissions: int = 3, rounds: int = 3) -> list[Row]:
    """Compare the grading of a class with a plain scoring of the same networks.

    The plain way is in a process that runs already, has the patients in memory, and predicts each
    once. The kit starts its child, and predicts each as it is and perturbed.
    """
    recipe = Config(image_size=64, init_features=8, epochs=1, lr=1e-3, device="cpu")
    with temporary() as folder:
        root = some_phantoms(folder / "data", 12)
        data, classroom = load_data(root, recipe.image_size), folder / "class"
        classroom.mkdir()
        runs = []
        for seed in range(submissions):
            out = folder / f"student-{seed}"
            runs.append(fit(replace(recipe, seed=seed), data, out, plan="best", table="best"))
            pack(f"student-{seed}", out, quick=True).file.rename(classroom / f"{seed}.zip")
        gradebook = folder / "grades"

        def graded() -> None:
            shutil.rmtree(gradebook, ignore_errors=True)
            grade(classroom, root, gradebook)

        grade(classroom, root, gradebook)  # the copies of the patients are made once
        weights = [run.weights for run in runs]
        with apart(_plain_scoring, root, recipe, weights) as plain_scoring:
            slow, fast = in_turns(plain_scoring, graded, rounds=rounds, warm_up=0)
    what = f"grading {submissions} submissions, each of 4 phantoms, U-Net 8, 64x64"
    return [row(what, "plain: weights to DSC, no checks", slow, fast)]


def _plain_scoring(root: Path, config: Config, weights: list[Path]) -> Callable[[], object]:
    data, model = load_data(root, config.image_size), build_model(config)
    volumes = [
        (data.slices((name,)).batch(np.arange(len(data.slices((name,)))))[0].numpy(), name)
        for name in make_split(data, "auto").validation
    ]

    def score() -> None:
        for file in weights:
            model.load_state_dict(torch.load(file, weights_only=True)["weights"])
            for images, name in volumes:
                predicted = plain.predict(model, images, torch.device("cpu"), BATCH)
                plain.dsc(predicted, data.slices((name,)).volume_masks()[0])

    return score


def pooled_hd95(pred: np.ndarray, true: np.ndarray) -> float:
    """Return medpy's variant of HD95, from the kit's distances.

    It is the 95th percentile of both directions together.
    """
    both = surface_distances(pred.astype(bool), true.astype(bool))
    return float(np.percentile(np.concatenate(both), 95))


def surface_distance(rounds: int = 3, pairs: int = 4) -> list[Row]:
    """HD95 of tumours in volumes of 36 slices at 256x256."""
    try:
        from medpy.metric.binary import hd95 as medpy_hd95
    except ImportError:
        print("HD95 against medpy: left out, medpy is not installed")
        return []
    cases = []
    for index in range(pairs):
        mask = make_patient(0, index, 128)[1]
        true = np.kron(mask[np.arange(36) * len(mask) // 36], np.ones((1, 2, 2), np.uint8))
        cases.append(
            (
                np.roll(ndimage.binary_dilation(true, iterations=index + 1), 3 * index + 1, axis=2),
                true,
            )
        )
    difference = max(abs(pooled_hd95(*case) - medpy_hd95(*case)) for case in cases)
    slow, fast = in_turns(
        lambda: [medpy_hd95(*case) for case in cases],
        lambda: [hd95(*case) for case in cases],
        rounds=rounds,
        warm_up=0,
    )
    return [
        row(
            f"HD95 of {pairs} volumes of 36 slices of 256x256",
            "medpy",
            slow,
            fast,
            f"pooled values differ by at most {difference:.1g}; shifted, enlarged tumours",
        )
    ]


def viewer_frame(rounds: int = 20) -> list[Row]:
    """A slice with two outlines, 256x256, to PNG."""
    import matplotlib.pyplot as plt

    volume, masks = make_patient(0, 0, SIZE)
    number = int(masks.sum(axis=(1, 2)).argmax())
    image, mask = np.ascontiguousarray(volume[number, ..., FLAIR]), masks[number]

    def with_matplotlib() -> None:
        figure, axes = plt.subplots(figsize=(5, 5))
        axes.imshow(image, cmap="gray")
        axes.contour(mask, levels=[0.5], colors=["yellow"])
        axes.axis("off")
        figure.savefig(io.BytesIO(), format="png")
        plt.close(figure)

    slow, fast = in_turns(with_matplotlib, lambda: render(image, mask, mask), rounds=rounds)
    return [row("a frame of the viewer, 256x256", "matplotlib", slow, fast)]


def start_up(rounds: int = 2) -> list[Row]:
    """A new Python process that imports all of the kit, or runs a notebook's first cell."""
    cells = nbformat.read(PROJECT / "train_default.ipynb", as_version=4).cells
    first = next(cell.source for cell in cells if cell.cell_type == "code")
    files = sorted(
        file.relative_to(PROJECT).with_suffix("") for file in (PROJECT / "lib").rglob("*.py")
    )
    modules = ", ".join(
        ".".join(file.parts)
        for file in files
        if file.name not in ("__init__", "__main__", "execute")
    )
    write_phantom(PHANTOM_FOLDER)  # the first cell makes it once

    def python(code: str) -> Callable[[], object]:
        environment = os.environ | {"PYTHONPATH": str(PROJECT), "KIT_DATA": "phantom"}
        return lambda: subprocess.run(
            [sys.executable, "-c", code], env=environment, check=True, stdout=subprocess.DEVNULL
        )

    torch_alone, everything, cell = in_turns(
        python("import torch"), python(f"import {modules}"), python(first), rounds=rounds
    )
    return [
        row("start-up: import of every module", "import torch", torch_alone, everything),
        row("start-up: a notebook's first cell", "import torch", torch_alone, cell),
    ]


def memory() -> list[Row]:
    """Count the activations that a training step keeps, in GiB, for each network in full width.

    Hooks on saved tensors count them, for 16 slices of 256x256 in bf16. Nothing is computed, so the
    figures are the same on every machine.
    """
    rows = []
    for config in FULL_WIDTH.values():
        plain_way, ours = (
            summary(replace(config, checkpointing=on), BATCH, SIZE, "bf16") for on in (False, True)
        )
        in_gib = {
            "kept, plain": plain_way.saved_bytes,
            "kept, checkpointing": ours.saved_bytes,
            "largest other tensor": ours.largest_bytes,
            "peak, plain": plain_way.peak_bytes,
            "peak, checkpointing": ours.peak_bytes,
        }
        rows.append(
            {
                "network": f"{config.model} {config.init_features}",
                "parameters": ours.parameters,
                "GFLOPs a slice": round(ours.gflops, 1),
                **{what: round(size / 2**30, 2) for what, size in in_gib.items()},
            }
        )
    return rows


def training_step(image_size: int = 128, rounds: int = 3) -> list[Row]:
    """One step without the data path."""
    step = Step(Config())
    batch = random_batch(BATCH, image_size, step.device)
    with apart(_plain_step, image_size, step.device) as plain_step:
        slow, fast = in_turns(plain_step, lambda: step.whole(*batch), rounds=rounds)
    return [
        row(
            f"a training step, U-Net 32, {BATCH} slices of {image_size}x{image_size}, "
            f"{step.machine.precision.name}",
            "plain fp32",
            slow,
            fast,
        )
    ]


def _plain_step(image_size: int, device: torch.device) -> Callable[[], object]:
    model = build_model(Config()).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    batch = random_batch(BATCH, image_size, device)
    return lambda: plain.train_step(model, DiceLoss(), optimizer, *batch).item()
