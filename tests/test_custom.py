"""Custom code that fields of Config name: what it does, and one line for what it does wrong."""

from __future__ import annotations

import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.config import Config
from lib.data import cache_folder
from lib.dataset import load_data, make_split
from lib.evaluate import segmentation, try_custom
from lib.logger import Run, run_id
from lib.networks import build
from lib.optim import build_optimizer, learning_rate
from lib.predict import load_weights, predict
from lib.runtime import code_fingerprint, load_function
from lib.runtime.checkpoint import read_checkpoint
from lib.runtime.own_code import without_custom_code
from lib.sweep.plans import PLANS, find_plan
from lib.train import SOURCES, fit
from lib.transform import Drawn, build_augmentation, preprocess
from lib.utils import KitError

TINY = Config(image_size=32, init_features=1, epochs=1, batch_size=8)
MODULE = """
from dataclasses import replace
import numpy as np
import torch
from torch import nn
from lib.data import cache_folder
from lib.dataset import Sampler
from lib.sweep import Plan
from lib.transform import Augmentation, preprocess

class Inverted(Augmentation):
    def apply(self, images, masks, drawn):
        return -images, masks

class Alone(Augmentation):
    def apply(self, images, masks, drawn):
        return images

class Cropped(Augmentation):
    def apply(self, images, masks, drawn):
        return images[:, :, :16], masks

class Fewer(Augmentation):
    def apply(self, images, masks, drawn):
        return images[:1], masks[:1]

class Divided(Augmentation):
    def apply(self, images, masks, drawn):
        return images / 0, masks

class Grey(Augmentation):
    def apply(self, images, masks, drawn):
        return images, 255 * masks

class Three(Augmentation):
    def draw(self, rng, n):
        return super().draw(rng, 3)

class First(Sampler):
    def draw_slices(self, rng):
        return np.arange(len(self.slices))

class Short(Sampler):
    def draw_slices(self, rng):
        return np.arange(3)

class Beyond(Sampler):
    def draw_slices(self, rng):
        return np.arange(len(self.slices)) + 1

class Later(Sampler):
    def draw_slices(self, rng):
        self.epochs = getattr(self, "epochs", -1) + 1
        return np.arange(len(self.slices)) + 100 * (self.epochs > 1)

class Undrawn(Sampler):
    def draw_slices(self, rng):
        return 1 // 0

class Plain(torch.optim.SGD):
    pass

class Closing(torch.optim.LBFGS):
    def __init__(self, parameters, lr, weight_decay):
        super().__init__(parameters, lr)

class Choosy(torch.optim.SGD):
    def __init__(self, parameters, lr):
        super().__init__(parameters, lr)

def halved(share, losses): return 0.5
def wave(share, losses): return np.cos(share)
def negative(share, losses): return -1.0
def tensor(share, losses): return torch.tensor(1.0)
def single(share, losses): return np.float32(0.5)
def divided(share, losses): return 1 / 0
def falling(share, losses): return 0.1 if len(losses) > 1 else 1.0

def nothing(mask, probabilities): return np.zeros_like(mask)
def flat(mask, probabilities): return mask[0]
def far(mask, probabilities): return mask[99]
def soft(mask, probabilities): return probabilities
def spoiling(mask, probabilities):
    mask[:] = False
    return mask

def voxels(predicted, truth): return predicted.sum()
def dsc(predicted, truth): return 1.0
def words(predicted, truth): return "good"
def ratio(predicted, truth): return 1 / 0

def doubled(volume, size):
    slices, geometry = preprocess(volume, size)
    return 2 * slices, geometry
def alone(volume, size): return preprocess(volume, size)[0]
def cropped(volume, size):
    slices, geometry = preprocess(volume, size)
    return slices[1:], geometry
def infinite(volume, size):
    slices, geometry = preprocess(volume, size)
    return slices / 0, geometry

def large(volume, size):
    slices, geometry = preprocess(volume, size)
    return 1e5 * slices, geometry
def moved(volume, size, **place):
    slices, geometry = preprocess(volume, size)
    return slices, replace(geometry, **place)
def beyond(volume, size):
    z0, z1, *rest = preprocess(volume, size)[1].box
    return moved(volume, size, box=(z0 + 99, z1 + 99, *rest))
def turned(volume, size):
    z0, z1, y0, y1, x0, x1 = preprocess(volume, size)[1].box
    return moved(volume, size, box=(z0, z1, y1, y0, x0, x1))
def padded(volume, size):
    return moved(volume, size, pad=(50, 50))
def empty(volume, size):
    slices, geometry = moved(volume, size, box=(2, 2, *preprocess(volume, size)[1].box[2:]))
    return slices[:0], geometry
def by_numpy(volume, size):
    return moved(volume, size, box=tuple(np.array(preprocess(volume, size)[1].box)))

class Broken(nn.Module):
    def __init__(self):
        self.layer = nn.Conv2d(3, 1, 1)  # without super().__init__() first
    def forward(self, *inputs):
        return self.layer(*inputs)

class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
    def forward(self, logits, target):
        return self.weight * (logits.sigmoid() - target).square().mean()

class Remembering(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
    def forward(self, logits, target):
        self.seen += 1
        return (logits.sigmoid() - target).abs().mean() * (1 + 1 / self.seen)

class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.module = nn.Conv2d(3, 1, 1)
        self.register_buffer("calls", torch.zeros(()))
    def forward(self, images):
        if self.training:
            self.calls = self.calls + 1
        return self.module(images)

class Memorising(torch.optim.SGD):
    def step(self, closure=None):
        self.param_groups[0]["seen"] = np.float64(1.0)
        return super().step(closure)

PLAN = Plan("mine", "Does it help?", {"baseline": {}, "first": {"sampling": "own_code:First"}})
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of a researcher; it can be imported."""
    file = tmp_path / "own_code.py"
    file.write_text(textwrap.dedent(MODULE))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_code", raising=False)
    yield file
    sys.modules.pop("own_code", None)


@pytest.fixture
def data(tiny_kaggle):
    return load_data(tiny_kaggle, TINY.image_size)


def own(**fields: str) -> Config:
    return replace(TINY, **{field: f"own_code:{name}" for field, name in fields.items()})


def weights_of(run: Run) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in read_checkpoint(run.weights)["weights"].values()]


def test_a_config_says_what_is_custom():
    assert TINY.custom == {} and TINY.needed_to_predict == ()
    config = own(optimizer="Plain", component="nothing", metric="voxels", model="Net")
    assert config.custom == {
        "model": "own_code:Net",
        "optimizer": "own_code:Plain",
        "component": "own_code:nothing",
        "metric": "own_code:voxels",
    }
    assert config.needed_to_predict == ("own_code:Net", "own_code:nothing")
    assert Config.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("augmentation", "Inverted"),
        ("sampling", "First"),
        ("lr_scheduler", "halved"),
        ("optimizer", "Plain"),
        ("preprocessing", "doubled"),
    ],
)
def test_it_changes_what_is_learnt(module, data, tmp_path, field, name):
    config = own(**{field: name})
    if field == "preprocessing":
        data = load_data(data.root, TINY.image_size, config.preprocessing)
    usual = fit(TINY, load_data(data.root, TINY.image_size), tmp_path / "out")
    other = fit(config, data, tmp_path / "out")
    assert other.id != usual.id and other.config == config
    assert weights_of(other) != weights_of(usual)
    assert weights_of(fit(config, data, tmp_path / "again")) == weights_of(other)


def test_an_edit_of_it_makes_another_run(module, data, monkeypatch):
    def id_now() -> str:
        config = own(lr_scheduler="halved")
        code = code_fingerprint(config, *build(config), SOURCES)
        return run_id(config, data, make_split(data), code)

    before = id_now()
    module.write_text(module.read_text().replace("return 0.5", "return 0.25"))
    sys.modules.pop("own_code")
    assert id_now() != before


def test_post_processing_and_metric_are_in_the_table(module, data, tmp_path):
    run = fit(own(component="nothing", metric="voxels"), data, tmp_path)
    assert run.cases["voxels"].tolist() == [0.0] * len(run.cases)
    assert (run.cases["tp"] == 0).all() and run.history["val_dsc"].tolist() == [0.0]
    again = predict(run, data, patients=run.unseen(data))
    assert again.cases["voxels"].tolist() == run.cases["voxels"].tolist()
    with pytest.raises(KitError, match=r"--trust own_code:nothing\)"):
        load_weights(run.weights)
    without = load_weights(run.weights, "own_code:nothing").config
    assert without == replace(run.config, metric="none")
    trust = ["own_code:nothing", "own_code:voxels"]
    assert load_weights(run.weights, trust).config == run.config


def test_what_it_is_given_is_its_own(module):
    probabilities = np.full((2, 4, 4), 0.9, np.float32)
    assert not segmentation(probabilities, "own_code:spoiling").any()
    assert (probabilities == np.float32(0.9)).all()


def test_a_schedule_knows_share_and_losses(module):
    config = replace(own(lr_scheduler="falling"), epochs=10, warmup=2, lr=1.0)
    rates = [learning_rate(config, epoch, [0.5] * epoch) for epoch in range(5)]
    assert rates == pytest.approx([1 / 3, 2 / 3, 1, 1, 0.1])


@pytest.mark.parametrize("schedule", ["wave", "single"])
def test_a_schedule_by_numpy_leaves_a_run_that_goes_on(module, data, tmp_path, schedule):
    run = fit(own(lr_scheduler=schedule), data, tmp_path)
    state = read_checkpoint(run.folder / "last.pt")
    assert [type(row["lr"]) for row in state["history"]] == [float] * TINY.epochs


def test_a_network_with_a_part_called_module_and_a_count(module, data, tmp_path):
    config = own(model="Counting")
    run = fit(config, data, tmp_path)
    trained = load_weights(run.weights, "own_code:Counting")
    kept = read_checkpoint(run.weights)
    steps = read_checkpoint(run.folder / "last.pt")["weights"]["calls"].item() / TINY.epochs
    assert trained.network.calls.item() == kept["epoch"] * steps > 0
    again = predict(run, data, patients=make_split(data, config.split).validation)
    assert sorted(again.cases["dsc"]) == pytest.approx(sorted(run.cases["dsc"]))


def test_a_loss_that_remembers_goes_on_where_it_stopped(module, data, tmp_path):
    config = replace(own(loss="Remembering"), epochs=3)

    def stop(epoch):
        raise KeyboardInterrupt

    whole = fit(config, data, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(config, data, tmp_path / "out", watch=stop)
    resumed = fit(config, data, tmp_path / "out")
    assert weights_of(resumed) == weights_of(whole)
    assert resumed.history["val loss"].tolist() == whole.history["val loss"].tolist()


def test_every_draw_of_a_sampler_is_checked(module, data, tmp_path):
    config = replace(own(sampling="Later"), epochs=3)
    with pytest.raises(KitError, match=r"own_code:Later: draw_slices must return \d+ integers"):
        fit(config, data, tmp_path)


def test_a_plan_of_ones_own(module):
    assert find_plan("own_code:PLAN").name == "mine"
    assert find_plan("loss") is PLANS["loss"]
    with pytest.raises(KitError, match=r"own_code:halved: is no lib\.sweep\.Plan"):
        find_plan("own_code:halved")


WRONG = {
    "no such module": ({"optimizer": "Plain"}, "absent:Plain: cannot be loaded"),
    "no such name": ({"augmentation": "Absent"}, "own_code:Absent: cannot be loaded"),
    "no augmentation": ({"augmentation": "Plain"}, "derive it from that"),
    "images alone": (
        {"augmentation": "Alone"},
        r"Alone: apply must return images of shape \(2, 3, 32, 32\) and masks .*, got a tensor of",
    ),
    "a part of each image": ({"augmentation": "Cropped"}, r"got .* \(2, 3, 16, 32\) and a tensor"),
    "fewer images": ({"augmentation": "Fewer"}, r"got a tensor of shape \(1, 3, 32, 32\) and"),
    "infinite images": ({"augmentation": "Divided"}, "returned values that are infinite or not"),
    "masks of 255": ({"augmentation": "Grey"}, "masks from 0 to 255, they must be from 0 to 1"),
    "another number of draws": ({"augmentation": "Three"}, "Three: it raised RuntimeError: grid_s"),
    "no optimiser": ({"optimizer": "Inverted"}, r"derived from torch\.optim\.Optimizer"),
    "no weight decay": ({"optimizer": "Choosy"}, "own_code:Choosy: is made with the parameters"),
    "few slices": ({"sampling": "Short"}, r"must return \d+ integers from 0 to \d+, got int64 of"),
    "slices that are not": ({"sampling": "Beyond"}, r"must return \d+ integers"),
    "slices that cannot be drawn": (
        {"sampling": "Undrawn"},
        r"Undrawn: it raised ZeroDivisionError: .* \(line \d+ of own_code\.py",
    ),
    "a step with a closure": ({"optimizer": "Closing"}, "its step needs a closure"),
    "no function": ({"lr_scheduler": "Plain"}, "own_code:Plain: is no function"),
    "a negative factor": ({"lr_scheduler": "negative"}, r"returned -1\.0 at 0\.00 of the run"),
    "a factor that cannot be computed": (
        {"lr_scheduler": "divided"},
        r"divided: it raised ZeroDivisionError: .* \(line \d+ of own_code\.py",
    ),
    "a factor that is a tensor": ({"lr_scheduler": "tensor"}, r"returned tensor"),
    "a state that is no data": ({"optimizer": "Memorising"}, "state of custom code cannot be read"),
    "a loss with weights": ({"loss": "Scaled"}, "weight would not be trained: make it a buffer"),
    "a network that cannot be made": (
        {"model": "Broken"},
        r"Broken: it raised AttributeError: cannot assign .* \(line \d+ of own_code\.py",
    ),
    "a loss that cannot be made": (
        {"loss": "Broken"},
        r"Broken: it raised AttributeError: cannot assign .* \(line \d+ of own_code\.py",
    ),
    "a mask of one slice": ({"component": "flat"}, r"must return a mask of \(3, 16, 16\)"),
    "a slice beyond": (
        {"component": "far"},
        r"far: it raised IndexError: .* \(line \d+ of own_code\.py",
    ),
    "a score that cannot be computed": (
        {"metric": "ratio"},
        r"ratio: it raised ZeroDivisionError: .* \(line \d+ of own_code\.py",
    ),
    "probabilities": ({"component": "soft"}, "of 0 and 1, got float32"),
    "a column that is there": ({"metric": "dsc"}, "tables of cases have a column dsc"),
    "a column of predictions": ({"metric": "seen"}, "tables of cases have a column seen"),
    "a column of folds": ({"metric": "fold"}, "tables of cases have a column fold"),
    "words": ({"metric": "words"}, "must return a number, got a str"),
    "in a cell": ({"metric": "__main__"}, "what is in a cell is gone with the kernel"),
}


@pytest.mark.parametrize("name", WRONG)
def test_one_line_before_anything_is_trained(module, data, tmp_path, name):
    fields, line = WRONG[name]
    config = own(**fields)
    if name == "no such module":
        config = replace(TINY, optimizer="absent:Plain")
    if name == "in a cell":
        config = replace(TINY, metric="__main__:mine")
    with pytest.raises(KitError, match=line) as caught:
        fit(config, data, tmp_path / "out")
    assert "\n" not in str(caught.value)
    runs = list((tmp_path / "out").glob("runs/*/best.pt"))
    assert runs == []


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("def f(:", r"own_code:First: it raised SyntaxError: .*\(own_code\.py, line 1\)$"),
        ("\n1 / 0", r"it raised ZeroDivisionError: division by zero \(line 2 of own_code\.py\)"),
        ("import math\nmath.tau2", r"it raised AttributeError: .*\(line 2 of own_code\.py\)"),
        ("import absent", r"own_code:First: cannot be loaded \(No module named 'absent'\)"),
    ],
)
def test_one_line_for_a_module_that_cannot_be_imported(module, code, line):
    module.write_text(code)
    with pytest.raises(KitError, match=line) as caught:
        build_augmentation(own(augmentation="First"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("alone", r"^own_code:alone: must return slices, an array, and their lib\.transform"),
        ("cropped", r"returned slices of shape \(\d+, 3, 32, 32\) with Geometry.* must have"),
        ("infinite", "infinite or not a number"),
        ("large", r"^own_code:large: returned values of up to .*, which 16 bits cannot hold"),
        ("beyond", r"^own_code:beyond: returned Geometry.*; box must be in shape and not empty"),
        ("turned", "box must be in shape and not empty"),
        ("padded", "pad at most what makes it square"),
        ("empty", "box must be in shape and not empty"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_one_line_for_a_preprocessing(module, tiny_kaggle, name, line):
    with pytest.raises(KitError, match=line):
        load_data(tiny_kaggle, 32, f"own_code:{name}")


def test_a_place_in_numbers_of_numpy_is_one_of_python(module, tiny_kaggle):
    places = [
        [record.geometry for record in load_data(tiny_kaggle, 32, mode).cache.records.values()]
        for mode in ("reference", "own_code:by_numpy")
    ]
    assert places[0] == places[1]


def test_preprocessing_is_found_again_until_it_is_edited(module, tiny_kaggle, monkeypatch):
    volume = np.random.default_rng(0).integers(0, 255, (5, 40, 40, 3), np.uint8)
    slices, geometry = preprocess(volume, 32, "own_code:doubled")
    expected, place = preprocess(volume, 32)
    assert geometry == place and np.allclose(slices, 2 * expected)
    prepared = []
    for factor in (2, 2, 3):
        module.write_text(module.read_text().replace("2 * slices", f"{factor} * slices"))
        sys.modules.pop("own_code")
        data = load_data(tiny_kaggle, 32, "own_code:doubled")
        prepared.append(data.slices(tuple(data.patients)).batch(np.array([0]))[0])
    assert torch.equal(prepared[0], prepared[1])
    assert torch.allclose(prepared[2], 1.5 * prepared[0], rtol=1e-3, atol=1e-2)
    names = [folder.name for folder in cache_folder().iterdir() if "doubled" in folder.name]
    assert len(names) == 1 and ":" not in names[0]


def test_code_of_others_is_refused_where_files_of_others_are_read(module):
    with without_custom_code(), pytest.raises(KitError, match="is not run here"):
        load_function("own_code:halved")
    assert load_function("own_code:halved")(0.5, []) == 0.5


def test_the_kits_own_are_not_custom(data):
    assert type(build_augmentation(TINY)).__name__ == "Augmentation"
    parameters = [torch.nn.Parameter(torch.zeros(2))]
    assert isinstance(build_optimizer(TINY, parameters), torch.optim.Adam)
    try_custom(TINY)
    drawn = build_augmentation(TINY).draw(np.random.default_rng(0), 2)
    assert isinstance(drawn, Drawn)
