"""From weights and images to masks: what is opened, what is refused, what is written."""

import dataclasses
import io
import os
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from torch import nn

from lib import predict
from lib.config import Config
from lib.data import read_patient
from lib.dataset import load_data
from lib.evaluate import TrainedModel, predict_volumes
from lib.metrics import counts, dsc, hd95, largest_component
from lib.networks import build_model
from lib.predict import load_weights, segmentation
from lib.predict.__main__ import main
from lib.runtime import Machine, pick_precision
from lib.unet import UNet
from lib.utils import KitError
from tests.conftest import NAMES, brain, write_patient
from tests.runtime.test_cli import command
from tests.test_unet import Published

ROOT = Path(__file__).parent.parent
TINY = Config(image_size=32, init_features=2, device="cpu")


@pytest.fixture
def weights(tmp_path) -> Path:
    """A ``best.pt`` of an untrained network."""
    torch.manual_seed(0)
    file = tmp_path / "best.pt"
    torch.save(
        {
            "config": TINY.to_dict(),
            "epoch": 1,
            "val_dsc": 0.5,
            "weights": build_model(TINY).state_dict(),
        },
        file,
    )
    return file


class Bright(nn.Module):
    """Finds what shines on FLAIR: on the synthetic patients, the tumour."""

    @classmethod
    def trained(cls, trained_on=(), **changes) -> TrainedModel:
        """Return it as ``load_weights`` would."""
        return TrainedModel(cls(), Config(**{**TINY.to_dict(), **changes}), trained_on)

    def forward(self, x):
        return (x[:, 1:2] - 1.8) * 20


class Silent(Bright):
    """Finds nothing."""

    def forward(self, x):
        return torch.full_like(x[:, :1], -9.0)


# --- weights --------------------------------------------------------------------------------------


def test_weights_of_a_run(weights):
    trained = load_weights(weights)
    network = trained.network
    assert isinstance(network, UNet)
    assert not network.training
    assert trained.config == TINY and trained.trained_on == ()
    saved = torch.load(weights, weights_only=True)["weights"]
    assert all(torch.equal(value, saved[name]) for name, value in network.state_dict().items())
    assert load_weights(str(weights)).config == TINY


def test_published_state_dict(tmp_path):
    torch.manual_seed(0)
    published = Published(4).eval()
    torch.save(published.state_dict(), tmp_path / "unet.pt")
    trained = load_weights(tmp_path / "unet.pt")
    assert (trained.config.init_features, trained.config.image_size) == (4, 256)
    network = trained.network
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(images).sigmoid(), published(images), atol=1e-6, rtol=0)


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f'echo gotcha > "{self.trace}"',)


def saved(content) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def config_with(**changes):
    return {"config": TINY.to_dict() | changes, "weights": build_model(TINY).state_dict()}


def refused(file: Path) -> str:
    """Return the one line in which ``load_weights`` refuses a file; nothing else speaks."""
    with warnings.catch_warnings(record=True) as spoken, pytest.raises(KitError) as caught:
        warnings.simplefilter("always")
        load_weights(file)
    text = str(caught.value)
    assert [str(warning.message) for warning in spoken] == []
    assert str(file) in text
    assert "\n" not in text
    return text


def test_missing_file_and_folder(tmp_path):
    assert "no such file" in refused(tmp_path / "nowhere.pt")
    assert "is a folder; give best.pt" in refused(tmp_path)
    refused(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        b"\x80",
        b"\x80\x02",
        b"PK\x03\x04 not really",
        bytes(1000),
        b"\x00\xff" * 500,
        b"]q\x00.",
        b"(dp0\n.",
        pickle.dumps({"a": 1}),
        pickle.dumps([1, 2]),
        b"import os\n",
    ],
)
def test_garbage(tmp_path, content):
    (tmp_path / "best.pt").write_bytes(content)
    refused(tmp_path / "best.pt")


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"a": 1},
        [],
        torch.zeros(3),
        {1: torch.zeros(3)},
        {("a", 1): 2},
        {"conv.weight": torch.zeros(1)},
        {"conv.weight": torch.zeros(1, 0, 1, 1)},
        {"conv.weight": torch.zeros(1, 2, 1, 1)},
        {"config": {}, "weights": {}},
        {"config": {}, "weights": 3},
        {"config": {"lr": "x"}, "weights": {}},
        {"config": {1: 2}, "weights": {}},
        {"history": [], "weights": {}, "optimizer": {}, "scaler": {}},
    ],
    ids=str,
)
def test_files_that_hold_something_else(tmp_path, content):
    (tmp_path / "best.pt").write_bytes(saved(content))
    refused(tmp_path / "best.pt")


@pytest.mark.parametrize(
    "changes",
    [
        {"init_features": 3},
        {"model": "vnet"},
        {"activation": "Step"},
        {"epochs": 0},
        {"brand_new_field": 1},
    ],
)
def test_config_that_does_not_fit(tmp_path, changes):
    (tmp_path / "best.pt").write_bytes(saved(config_with(**changes)))
    refused(tmp_path / "best.pt")


def test_weights_of_another_network(tmp_path):
    torch.save(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 1, 1)).state_dict(), tmp_path / "other.pt"
    )
    refused(tmp_path / "other.pt")
    state = Published(2).state_dict()
    del state["upconv2.bias"]
    torch.save(state, tmp_path / "incomplete.pt")
    assert "upconv2.bias" in refused(tmp_path / "incomplete.pt")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda bomb: bomb,
        lambda bomb: {"weights": bomb, "config": {}},
        lambda bomb: {"conv.weight": torch.zeros(1), "x": [bomb]},
    ],
)
@pytest.mark.parametrize("dump", [saved, pickle.dumps])
def test_code_in_a_file_is_not_run(tmp_path, wrap, dump):
    trace = tmp_path / "trace"
    (tmp_path / "best.pt").write_bytes(dump(wrap(Bomb(trace))))
    assert "could run code" in refused(tmp_path / "best.pt")
    assert not trace.exists()


def test_whole_pickled_network_is_refused(tmp_path):
    torch.save(UNet(init_features=2), tmp_path / "network.pt")
    refused(tmp_path / "network.pt")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999])
def test_truncated_file(weights, share):
    content = weights.read_bytes()
    weights.write_bytes(content[: int(len(content) * share)])
    refused(weights)


def test_flipped_bytes_load_or_are_refused(weights):
    content = weights.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(content)
        at = rng.integers(
            0, rng.choice([200, 5000, len(content)]), 3
        )  # mostly where the structure is
        if rng.random() < 0.3:
            at = len(content) - 1 - rng.integers(0, 500, 3)
        for position in at:
            damaged[position] = rng.integers(256)
        weights.write_bytes(damaged)
        try:
            load_weights(weights)
        except KitError as error:
            assert "\n" not in str(error) and str(weights) in str(error)


# --- prediction -----------------------------------------------------------------------------------


def test_masks_are_written_in_the_kaggle_layout(tiny_kaggle, tmp_path):
    prediction = predict.predict(
        Bright.trained(), tiny_kaggle, tmp_path / "out", device="cpu", precision="fp32"
    )
    for name in NAMES:
        volume, truth, _ = read_patient(prediction.data.patients[name])
        files = sorted(
            (tmp_path / "out" / name).iterdir(), key=lambda file: int(file.name.split("_")[-2])
        )
        assert [file.name for file in files] == [
            f"{name}_{number}_mask.tif" for number in range(1, 7)
        ]
        written = np.stack([tifffile.imread(file) for file in files])
        assert written.dtype == np.uint8
        assert set(np.unique(written)) <= {0, 255}
        assert written.shape == truth.shape == volume.shape[:3]
        np.testing.assert_array_equal(written > 0, prediction.mask(name))
        np.testing.assert_array_equal(written > 0, largest_component(written))
        assert dsc(written, truth) > 0.7


def test_cases_are_computed_from_the_written_masks(tiny_kaggle, tmp_path):
    prediction = predict.predict(Bright.trained(), tiny_kaggle, tmp_path / "out", device="cpu")
    table = pd.read_csv(tmp_path / "out" / "cases.csv")
    assert b"\r" not in (tmp_path / "out" / "cases.csv").read_bytes()
    assert list(table.columns)[:8] == [
        "patient",
        "slices",
        "seen",
        "dsc",
        "dsc_native",
        "tp",
        "fp",
        "fn",
    ]
    assert list(table["patient"]) == sorted(NAMES)
    for row in table.itertuples():
        mask, truth = (
            prediction.mask(row.patient).astype(bool),
            prediction.data.truth(row.patient).astype(bool),
        )
        assert (row.slices, row.tp) == (6, (mask & truth).sum())
        assert (row.fp, row.fn) == ((mask & ~truth).sum(), (truth & ~mask).sum())
        assert row.dsc_native == pytest.approx(dsc(mask, truth), abs=1e-7)
        assert row.iou == pytest.approx(counts(mask, truth).iou, abs=1e-7)
        assert row.hd95 == pytest.approx(hd95(mask, truth), rel=1e-7)
        assert 0.7 < row.dsc <= 1
    assert set(table.pop("seen")) == {"unknown"}
    cases = prediction.cases.drop(columns="seen")
    pd.testing.assert_frame_equal(table, cases, rtol=1e-7, check_dtype=False)
    assert prediction.ranked() == list(table.sort_values("dsc_native")["patient"])
    assert "DSC as published: mean 0." in str(prediction)


@pytest.mark.parametrize("mode", ["reference", "native"])
@pytest.mark.parametrize("size", [32, 64])
def test_masks_come_back_to_the_files_own_grid(tmp_path, mode, size):
    volume, mask = brain(3, 8, 50, 41)
    write_patient(tmp_path / "data", NAMES[0], volume, mask, numbers=(1, 2, 3, 5, 8, 9, 10, 11))
    prediction = predict.predict(
        Bright.trained(image_size=size, preprocessing=mode), tmp_path / "data", device="cpu"
    )
    assert prediction.mask(NAMES[0]).shape == (8, 50, 41)
    assert prediction.cases["dsc_native"][0] > 0.8


def test_unlabelled_patients(kaggle_folder, tmp_path):
    root = kaggle_folder(NAMES[:2], masks=False)
    prediction = predict.predict(Bright.trained(), root, tmp_path / "out", device="cpu")
    assert list(prediction.cases.columns) == ["patient", "slices", "seen"]
    assert prediction.ranked() == list(NAMES[:2])
    assert prediction.mask(NAMES[0]).any()
    assert "2 patients without masks" in str(prediction)
    assert len(list((tmp_path / "out").rglob("*_mask.tif"))) == 12


def test_some_patients_without_masks(kaggle_folder, tmp_path):
    root = kaggle_folder(NAMES[:2], masks=False)
    write_patient(root, NAMES[2], *brain(5))
    prediction = predict.predict(Bright.trained(), root, device="cpu")
    assert prediction.cases["dsc"].isna().tolist() == [True, True, False]
    assert prediction.ranked()[0] == NAMES[2]
    assert "1 patient\n" in str(prediction)


def test_nothing_found(tiny_kaggle):
    prediction = predict.predict(Silent.trained(), tiny_kaggle, patients=[NAMES[4]], device="cpu")
    row = prediction.cases.iloc[0]
    assert (row["dsc"], row["dsc_native"], row["tp"], row["fp"], row["recall"]) == (0, 0, 0, 0, 0)
    assert row["hd95"] == pytest.approx(np.sqrt(6**2 + 32**2 + 32**2))
    assert not prediction.mask(NAMES[4]).any()


@pytest.mark.parametrize("learnt", [NAMES[1:3], NAMES, ()])
def test_patients_seen_in_training_are_marked(tiny_kaggle, tmp_path, learnt):
    trained = Bright.trained((*learnt, "TCGA_somebody_else"))
    prediction = predict.predict(trained, tiny_kaggle, tmp_path, device="cpu")
    assert prediction.seen == tuple(learnt)
    assert prediction.cases["seen"].tolist() == [name in learnt for name in sorted(NAMES)]
    flags = [line.split(",")[2] for line in (tmp_path / "cases.csv").read_text().splitlines()]
    assert flags == ["seen", *("TRUE" if name in learnt else "FALSE" for name in sorted(NAMES))]
    assert (
        f"not counted: {len(learnt)} patients that the network was trained on" in str(prediction)
    ) == bool(learnt)
    assert f"{6 - len(learnt)} patients" in str(prediction) or len(learnt) == 6


def test_patients_are_known_again_under_other_names_and_dates(tiny_kaggle, kaggle_folder):
    known = load_data(tiny_kaggle, TINY.image_size)
    trained = dataclasses.replace(
        Bright.trained(NAMES[:2]), scans=tuple(known.scans([NAMES[0], NAMES[1]]))
    )
    root = kaggle_folder(("P1", "P2", "P3"))  # the first two have the images of NAMES[:2]
    for file in (root / "P2").glob("P2_3*.tif"):
        file.unlink()  # a copy that lacks a slice
    visit = NAMES[1].replace("1996", "1999")
    write_patient(root, visit, *brain(77))
    prediction = predict.predict(trained, root, device="cpu")
    assert prediction.seen == ("P1", "P2", visit)


def test_nobody_to_segment(tiny_kaggle, tmp_path):
    prediction = predict.predict(Bright.trained(), tiny_kaggle, tmp_path, patients=[], device="cpu")
    assert (tmp_path / "cases.csv").read_text() == "patient,slices,seen\n"
    assert (prediction.seen, prediction.ranked()) == ((), [])
    assert "0 patients" in str(prediction)


def test_chosen_patients_only(tiny_kaggle, tmp_path):
    prediction = predict.predict(
        Bright.trained(), tiny_kaggle, tmp_path / "out", patients=[NAMES[3], NAMES[0]], device="cpu"
    )
    assert list(prediction.cases["patient"]) == [NAMES[3], NAMES[0]]
    shown = {path.name for path in (tmp_path / "out").iterdir() if path.name[0] != "."}
    assert shown == {NAMES[0], NAMES[3], "cases.csv"}
    with pytest.raises(KitError, match=f"nobody.*{NAMES[0]}"):
        predict.predict(Bright.trained(), tiny_kaggle, patients=["nobody"], device="cpu")
    with pytest.raises(KitError, match=f"patient {NAMES[0]} is asked for twice"):
        predict.predict(Bright.trained(), tiny_kaggle, patients=[NAMES[0]] * 2, device="cpu")


def test_batch_size_does_not_matter(tiny_kaggle, weights):
    one, many = (
        predict.predict(weights, tiny_kaggle, device="cpu", precision="fp32", batch_size=n)
        for n in (1, 5)
    )
    pd.testing.assert_frame_equal(one.cases, many.cases)


@pytest.mark.parametrize(
    ("wrong", "answer"),
    [
        ({"batch_size": 0}, "batch_size is 0; use a whole number"),
        ({"batch_size": 2.5}, r"batch_size is 2\.5; use a whole number"),
        ({"batch_size": "4"}, "batch_size is '4'; use a whole number"),
        ({"patients": NAMES[0]}, f"patients is '{NAMES[0]}'; give a list of names"),
    ],
)
def test_wrong_arguments(tiny_kaggle, wrong, answer):
    with pytest.raises(KitError, match=answer):
        predict.predict(Bright.trained(), tiny_kaggle, device="cpu", **wrong)


def test_the_mask_of_a_patient_who_was_not_predicted(tiny_kaggle):
    prediction = predict.predict(Bright.trained(), tiny_kaggle, patients=[NAMES[0]], device="cpu")
    with pytest.raises(KitError, match=f"no mask of '{NAMES[1]}' was predicted.* {NAMES[0]}"):
        prediction.mask(NAMES[1])


@pytest.mark.parametrize(
    ("weights", "answer"),
    [(Bright(), "not Bright; a bare network"), (None, "not NoneType"), (["a.pt"], "not list")],
)
def test_neither_a_file_nor_a_trained_model(tiny_kaggle, weights, answer):
    with pytest.raises(KitError, match=answer):
        predict.predict(weights, tiny_kaggle)


def test_where_new_memory_is_slow_slices_are_computed_in_parts(tiny_kaggle, weights, monkeypatch):
    machine = Machine(torch.device("cpu"), pick_precision(torch.device("cpu"), "fp32"))
    whole = predict.predict(weights, tiny_kaggle, device="cpu", precision="fp32")
    monkeypatch.setattr("lib.runtime.device.keeps_freed_memory", lambda: False)
    assert [len(part) for part in machine.at_once(torch.empty(20, 3, 128, 128))] == [8, 8, 4]
    assert [len(part) for part in machine.at_once(torch.empty(3, 3, 512, 512))] == [1, 1, 1]
    monkeypatch.setattr(Machine, "at_once", lambda self, batch: batch.split(2))
    parts = predict.predict(weights, tiny_kaggle, device="cpu", precision="fp32")
    pd.testing.assert_frame_equal(whole.cases, parts.cases)


class Lopsided(Bright):
    """Sees the tumour in the left half only; at the edge of probability elsewhere."""

    def forward(self, x):
        logits = super().forward(x)
        logits[..., x.shape[3] // 2 :] = -1.0
        return logits


def test_flips_are_averaged(tiny_kaggle):
    data = load_data(tiny_kaggle, 32)
    machine = Machine(torch.device("cpu"), pick_precision(torch.device("cpu"), "fp32"))
    model = Lopsided()
    images, _ = data.slices((NAMES[0],)).batch(np.arange(4))
    one, other = (
        torch.sigmoid(part)[:, 0] for part in (model(images), model(images.flip(3)).flip(3))
    )
    ((_, plain),) = predict_volumes(model, TINY, data, (NAMES[0],), machine, 3)
    flips = dataclasses.replace(TINY, tta=True)
    ((_, both),) = predict_volumes(model, flips, data, (NAMES[0],), machine, 3)
    np.testing.assert_allclose(plain, one, atol=1e-6)
    np.testing.assert_allclose(both, (one + other) / 2, atol=1e-6)


def test_flips_by_argument_or_by_the_networks_config(tiny_kaggle):
    plain, asked = (
        predict.predict(Lopsided.trained(), tiny_kaggle, device="cpu", tta=tta)
        for tta in (None, True)
    )
    config = predict.predict(Lopsided.trained(tta=True), tiny_kaggle, device="cpu")
    pd.testing.assert_frame_equal(asked.cases, config.cases)
    assert (plain.config.tta, asked.config.tta, config.config.tta) == (False, True, True)
    assert not plain.cases.equals(asked.cases)
    off = predict.predict(Lopsided.trained(tta=True), tiny_kaggle, device="cpu", tta=False)
    pd.testing.assert_frame_equal(plain.cases, off.cases)


def test_data_of_another_size_is_refused(tiny_kaggle):
    for data in (load_data(tiny_kaggle, 64), load_data(tiny_kaggle, 32, "native")):
        with pytest.raises(KitError, match="reference at 32"):
            predict.predict(Bright.trained(), data, device="cpu")


def test_the_true_masks_are_never_overwritten(tiny_kaggle, tmp_path):
    """With the data folder as ``--out``, predictions would replace what the doctors drew."""
    before = {file: file.read_bytes() for file in tiny_kaggle.rglob("*.tif")}
    with pytest.raises(KitError) as caught:
        predict.predict(Bright.trained(), tiny_kaggle, tiny_kaggle, device="cpu")
    assert str(tiny_kaggle) in str(caught.value)
    assert {file: file.read_bytes() for file in tiny_kaggle.rglob("*.tif")} == before


def files_of(folder):
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*.tif")
    }


def test_another_copy_of_the_data_is_refused(tiny_kaggle, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_kaggle, copy)
    with pytest.raises(KitError, match="copy: holds the images of patients"):
        predict.predict(Bright.trained(), tiny_kaggle, copy, device="cpu")
    for file in copy.rglob("*.tif"):
        if "mask" not in file.name:
            file.unlink()
    with pytest.raises(
        KitError, match=r"_1_mask\.tif: is there and was not written by this version"
    ):
        predict.predict(Bright.trained(), tiny_kaggle, copy, device="cpu")
    assert files_of(copy) == {
        name: c for name, c in files_of(tiny_kaggle).items() if "mask" in name
    }


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_masks_behind_links_stay(tiny_kaggle, tmp_path):
    before = files_of(tiny_kaggle)
    for name in NAMES:
        (tmp_path / "out" / name).mkdir(parents=True)
        for mask in (tiny_kaggle / name).glob("*_mask.tif"):
            (tmp_path / "out" / name / mask.name).symlink_to(mask)
    with pytest.raises(KitError, match="was not written by this version"):
        predict.predict(Bright.trained(), tiny_kaggle, tmp_path / "out", device="cpu")
    assert files_of(tiny_kaggle) == before


def test_a_mask_corrected_by_hand_stays(tiny_kaggle, tmp_path):
    out = tmp_path / "out"
    predict.predict(Bright.trained(), tiny_kaggle, out, device="cpu")
    corrected = out / NAMES[2] / f"{NAMES[2]}_3_mask.tif"
    tifffile.imwrite(corrected, np.zeros((32, 32), np.uint8))
    before = files_of(out)
    with pytest.raises(KitError, match=rf"{corrected.name}: .* edited since \(1 such files\)"):
        predict.predict(Silent.trained(), tiny_kaggle, out, device="cpu")
    assert files_of(out) == before and (out / "cases.csv").is_file()


def test_masks_of_an_earlier_prediction_do_not_stay_beside_other_cases(tiny_kaggle, tmp_path):
    out = tmp_path / "out"
    predict.predict(Bright.trained(), tiny_kaggle, out, device="cpu")
    (out / "notes.txt").write_text("mine")
    (out / NAMES[5] / "notes.txt").write_text("mine")
    predict.predict(Silent.trained(), tiny_kaggle, out, patients=NAMES[:2], device="cpu")
    assert pd.read_csv(out / "cases.csv")["patient"].tolist() == list(NAMES[:2])
    assert {file.parent.name for file in out.rglob("*.tif")} == set(NAMES[:2])
    assert not any(tifffile.imread(file).any() for file in out.rglob("*.tif"))
    assert [file.name for file in (out / NAMES[5]).iterdir()] == ["notes.txt"]
    assert (out / "notes.txt").is_file() and not (out / NAMES[4]).exists()


def test_an_interrupted_prediction_has_no_cases(tiny_kaggle, tmp_path, monkeypatch):
    out = tmp_path / "out"
    predict.predict(Bright.trained(), tiny_kaggle, out, device="cpu")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(segmentation, "case_row", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        predict.predict(Silent.trained(), tiny_kaggle, out, device="cpu")
    assert not (out / "cases.csv").exists()
    predict.predict(Silent.trained(), tiny_kaggle, out, device="cpu")
    assert len(pd.read_csv(out / "cases.csv")) == 6


def test_weights_that_do_not_say_whom_they_saw(weights, tiny_kaggle, tmp_path):
    content = torch.load(weights, weights_only=True)
    torch.save(content["weights"], tmp_path / "bare.pt")
    data = load_data(tiny_kaggle, 256)
    for file in (tmp_path / "bare.pt", weights):
        trained = load_weights(file)
        seen = predict.predict(
            trained,
            data if trained.config.image_size == 256 else tiny_kaggle,
            tmp_path / file.stem,
            patients=NAMES[:1],
            device="cpu",
        )
        assert not seen.known and "do not say whom they were trained on" in str(seen)
        assert pd.read_csv(tmp_path / file.stem / "cases.csv")["seen"].tolist() == ["unknown"]
    named = predict.predict(Bright.trained(NAMES[:1]), tiny_kaggle, device="cpu")
    assert named.known and "do not say" not in str(named)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_weights_as_wrappers_of_torch_save_them(tmp_path, prefix):
    torch.manual_seed(0)
    weights = Published(4).state_dict()
    torch.save({prefix + name: value for name, value in weights.items()}, tmp_path / "a.pt")
    torch.save({"state_dict": weights, "epoch": 7}, tmp_path / "b.pt")
    torch.save(weights, tmp_path / "c.pt")
    a, b, c = (load_weights(tmp_path / f"{name}.pt").network.state_dict() for name in "abc")
    assert all(torch.equal(a[name], c[name]) and torch.equal(b[name], c[name]) for name in c)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_weights_of_a_run_as_wrappers_save_them(weights, prefix):
    content = torch.load(weights, weights_only=True)
    expected = load_weights(weights).network.state_dict()
    content["weights"] = {prefix + name: value for name, value in content["weights"].items()}
    torch.save(content, weights)
    found = load_weights(weights).network.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_width_that_the_weights_do_not_have_takes_no_memory(weights):
    content = torch.load(weights, weights_only=True)
    for width, words in ((10**6, "Config.init_features"), (512, "are not those of unet")):
        content["config"]["init_features"] = width
        torch.save(content, weights)
        with pytest.raises(KitError, match=words):
            load_weights(weights)


def test_an_output_that_is_no_number_names_the_patient(tiny_kaggle):
    trained = Bright.trained()
    trained.network.forward = lambda images: images[:, :1] * float("nan")
    with pytest.raises(KitError, match=rf"{NAMES[1]}: the network's output is not a number"):
        predict.predict(trained, tiny_kaggle, patients=NAMES[1:2], device="cpu")


def test_weights_that_are_no_numbers_are_refused(weights):
    content = torch.load(weights, weights_only=True)
    content["weights"]["conv.bias"][:] = float("nan")
    torch.save(content, weights)
    with pytest.raises(KitError, match=r"conv\.bias has a weight that is infinite or not a number"):
        load_weights(weights)


def test_medpy_finds_the_same_scores(tiny_kaggle, monkeypatch):
    found = predict.predict(Bright.trained(), tiny_kaggle, device="cpu")
    table = found.by_medpy()
    assert list(table.index) == sorted(found.cases["patient"]) and len(table) == 6
    for name in ("dsc", "iou", "precision", "recall"):
        np.testing.assert_allclose(table[name], table[f"{name}, medpy"])
    expected = found.cases.set_index("patient")["dsc_native"]
    pd.testing.assert_series_equal(table["dsc"], expected[table.index], check_names=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert list(found.by_medpy()) == ["dsc", "iou", "precision", "recall"]


def test_medpy_says_nothing_of_a_missed_and_of_an_invented_tumour(tiny_kaggle, recwarn):
    data = load_data(tiny_kaggle, 32)
    found = predict.predict(Bright.trained(), data, device="cpu")
    missed = found.cases["patient"][0]
    found._packed[missed] = np.zeros_like(found._packed[missed])
    row = found.by_medpy().loc[missed]
    assert (row["precision"], row["recall"], row["recall, medpy"]) == (0, 0, 0)
    assert np.isnan(row["precision, medpy"])
    assert not [str(each.message) for each in recwarn if "divide" in str(each.message)]


# --- command line ---------------------------------------------------------------------------------


def test_command_line(weights, tiny_kaggle, tmp_path, monkeypatch, capfd):
    status, out, err = command(
        main,
        monkeypatch,
        capfd,
        "--weights",
        str(weights),
        "--data",
        str(tiny_kaggle),
        "--out",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    )
    assert status == 0
    assert (
        "best.pt: unet, 2 features, 32x32 pixels, trained on patients that it does not name" in out
    )
    assert re.search(r"\d+ slices on cpu, (fp32|bf16): about 0 s\n", out)
    assert "DSC on the file's grid: mean" in out
    assert "error" not in err
    assert len(pd.read_csv(tmp_path / "out" / "cases.csv")) == 6


def test_the_command_line_writes_the_slice_browser(weights, tiny_kaggle, tmp_path, monkeypatch):
    """As a command, where the module has another name than the viewer knows."""
    asked = [sys.executable, "-m", "lib.predict", "--weights", weights, "--data", tiny_kaggle]
    page = tmp_path / "page.html"
    for out in ("first", "second"):  # a page of the kit is replaced
        asked_so = [*asked, "--out", tmp_path / out, "--html", page]
        done = subprocess.run(asked_so, cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stdout.splitlines()[-1][:9]) == (0, "page.html"), done.stderr
    assert all(name in page.read_text(encoding="utf-8") for name in NAMES)
    page.write_text("a page about something else")
    asked_so = [*asked, "--out", tmp_path / "third", "--html", page]
    done = subprocess.run(asked_so, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "no slice browser" in done.stderr
    assert page.read_text() == "a page about something else"
    assert not (tmp_path / "third").exists(), "it is said before anything is computed"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--weights", "{tmp}/nowhere.pt"),
        ("--weights", "{tmp}/file"),
        ("--data", "{tmp}/nowhere"),
        ("--data", "{tmp}"),
        ("--data", "{tmp}/file"),
        ("--device", "abacus"),
        ("--precision", "int4"),
        ("--colour", "red"),
        ("--out", "{tmp}/file"),
    ],
)
def test_bad_input_exits_2_with_one_line(
    option, value, weights, tiny_kaggle, tmp_path, monkeypatch, capfd
):
    (tmp_path / "file").write_text("neither a folder nor weights nor a zip")
    arguments = {
        "--weights": str(weights),
        "--data": str(tiny_kaggle),
        "--out": str(tmp_path / "out"),
        "--device": "cpu",
    } | {option: value.format(tmp=tmp_path)}
    status, out, err = command(
        main, monkeypatch, capfd, *(part for pair in arguments.items() for part in pair)
    )
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("damage", ["truncated", "uneven"])
def test_damaged_data_exits_2_with_one_line(
    damage, weights, tiny_kaggle, tmp_path, monkeypatch, capfd
):
    file = tiny_kaggle / NAMES[1] / f"{NAMES[1]}_2.tif"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:700])
    else:
        tifffile.imwrite(file, np.zeros((16, 16, 3), np.uint8), photometric="rgb")
    status, _, err = command(
        main,
        monkeypatch,
        capfd,
        "--weights",
        str(weights),
        "--data",
        str(tiny_kaggle),
        "--out",
        str(tmp_path / "out"),
    )
    assert status == 2
    assert err.count("\n") == 1 and file.name in err
    assert not (tmp_path / "out").exists()


def test_as_a_user_meets_it(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "lib.predict",
            "--weights",
            str(tmp_path / "nowhere.pt"),
            "--data",
            str(tmp_path),
            "--out",
            str(tmp_path / "out"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "nowhere.pt" in done.stderr
