"""Copies that were altered a little, and honest runs, which are far apart."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.config import Config, seed_of
from lib.grade.nearness import (
    NEAR_SHAPES,
    NEAR_WEIGHTS,
    dsc_distance,
    near,
    shapes,
    sketch,
    weights_distance,
)
from lib.grade.result import Finding, Result
from lib.grade.standings import _SAME_TABLES, alike, assess, other_seeds, same_runs, shipped, status
from lib.networks import build_model
from tests.grade.demo import checkpoint, edit_json, rename, run_of, sign
from tests.grade.test_checks import with_second_run
from tests.grade.test_gradebook import RUBRIC, result


def network(seed: int, model: str = "unet") -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return build_model(Config(init_features=4, image_size=32, model=model)).state_dict()


def relative(one, other) -> float:
    """The distance of all weights, each output channel scaled to length 1."""

    def unit(weights):
        rows = [
            torch.nn.functional.normalize(tensor.double().flatten(1), dim=1).flatten()
            for _, tensor in sorted(weights.items())
            if tensor.ndim > 1
        ]
        return torch.cat(rows)

    channels = sum(len(tensor) for tensor in one.values() if tensor.ndim > 1)
    return float((unit(one) - unit(other)).norm()) / channels**0.5


@pytest.mark.parametrize("noise", [0.0, 0.001, 0.01, 0.1, 1.0])
def test_a_sketch_keeps_distances(noise):
    one = network(0)
    other = {
        name: tensor + noise * tensor.float().std(correction=0) * torch.randn(tensor.shape)
        for name, tensor in one.items()
    }
    expected = relative(one, other)
    found = weights_distance(sketch(one), sketch(other))
    assert found == pytest.approx(expected, rel=0.2, abs=1e-5)
    assert len(sketch(one)) == 256 and np.linalg.norm(sketch(one)) == pytest.approx(1, rel=0.2)


def test_weights_that_are_no_numbers_have_a_sketch():
    odd = network(0)
    for value in (float("nan"), float("inf"), 1e38):
        next(iter(odd.values())).view(-1)[0] = value
        assert np.isfinite(sketch(odd)).all() and np.isfinite(shapes(odd)).all()
    assert sketch({"bias": torch.zeros(3)}) == shapes({"bias": torch.zeros(3)}) == [0.0] * 256
    assert shapes({"conv.weight": torch.zeros(8, 8, 3, 3)}) == [0.0] * 256


ALTERED = {
    "float64": lambda name, tensor: tensor.double() if tensor.is_floating_point() else tensor,
    "counter": lambda name, tensor: tensor + 1 if tensor.ndim == 0 else tensor,
    "a layer times 1 + 1e-6": lambda name, tensor: (
        tensor * (1 + 1e-6) if "conv2" in name else tensor
    ),
    "noise of 0.1 %": lambda name, tensor: (
        tensor * (1 + 0.001 * torch.randn(tensor.shape)) if tensor.ndim > 1 else tensor
    ),
    "last bias": lambda name, tensor: tensor + 0.03 if tensor.shape == (1,) else tensor,
    "doubled before a normalisation": lambda name, tensor: (
        2 * tensor if tensor.ndim == 4 and "conv" in name and len(tensor) > 1 else tensor
    ),
}


@pytest.mark.parametrize("how", ALTERED)
def test_an_altered_copy_is_near(how):
    one = network(1)
    copy = {name: ALTERED[how](name, tensor) for name, tensor in one.items()}
    assert weights_distance(sketch(one), sketch(copy)) <= NEAR_WEIGHTS / 5
    apart = weights_distance(sketch(one), sketch(network(2)))
    assert apart > 1


INNER = ("conv1.weight", "norm1.weight", "norm1.bias", "norm1.running_mean", "norm1.running_var")


def inner_channels(weights, change):
    """The weights with the channels between two convolutions changed, by ``change``.

    It takes tensors along the channels and those that follow, and returns both.
    """
    found = dict(weights)
    for name in weights:
        if name.endswith(".conv2.weight"):
            block = name.removesuffix("conv2.weight")
            names = [f"{block}{part}" for part in INNER]
            tensors, behind = change([found[one] for one in names], found[name])
            found |= dict(zip(names, tensors, strict=True)) | {name: behind}
    return found


def in_another_order(weights):
    return inner_channels(
        weights, lambda tensors, behind: ([one.flip(0) for one in tensors], behind.flip(1))
    )


def of_another_size(weights):
    """Other factors of the normalisation, which the next convolution takes out."""

    def change(tensors, behind):
        size = torch.linspace(0.1, 10, len(tensors[0]))
        conv, weight, bias, *running = tensors
        return [conv, size * weight, size * bias, *running], behind / size[:, None, None]

    return inner_channels(weights, change)


def mirrored(weights):
    """It finds as much as the original, in mirrored images."""
    return {
        name: tensor.flip(3) if tensor.ndim == 4 else tensor for name, tensor in weights.items()
    }


def with_noise(weights):
    return {
        name: tensor * (1 + 0.03 * torch.randn(tensor.shape)) if tensor.ndim > 1 else tensor
        for name, tensor in weights.items()
    }


HIDDEN = {
    "order": (in_another_order,),
    "size": (of_another_size,),
    "mirrored": (mirrored,),
    "all of them, and noise": (in_another_order, of_another_size, mirrored, with_noise),
}


@pytest.mark.parametrize("how", HIDDEN)
@pytest.mark.parametrize("model", ["unet", "unet_2plus", "unet_3plus"])
def test_shapes_show_through_what_hides_weights(how, model):
    """Together with another last bias, which moves the DSC of each patient."""
    one, other = (shapes(network(seed, model)) for seed in (1, 2))
    copy = network(1, model)
    for hide in HIDDEN[how]:
        copy = hide(copy)
    assert weights_distance(sketch(network(1, model)), sketch(copy)) > NEAR_WEIGHTS
    assert weights_distance(one, shapes(copy)) <= NEAR_SHAPES / 2
    assert weights_distance(one, other) > 1.5 * NEAR_SHAPES
    a, b = result("a", shapes=one), result("b", (0.1, 0.2, 0.3), shapes=shapes(copy))
    assert [found[2] for found in near([a, b])] == ["shapes"]
    assert {finding.level for _, finding in alike([a, b])} == {"review"}
    assert not list(near([a, replace(b, shapes=other)]))


def test_the_kits_weights_are_found_though_they_are_mirrored(tmp_path):
    torch.save({"weights": network(3)}, tmp_path / "kit.pt")
    copy = mirrored(network(3))
    own = result("a", sketch=sketch(copy), shapes=shapes(copy))
    assert [finding.name for _, finding in shipped([own], tmp_path)] == [
        "nearly weights of the kit"
    ]


def test_much_noise_and_a_share_of_somebody_else_are_near():
    """Both leave the DSC of a network nearly as it was."""
    one, other = network(1), network(2)
    torch.manual_seed(0)
    noisy = {name: tensor * (1 + 0.25 * torch.randn(tensor.shape)) for name, tensor in one.items()}
    mixed = {name: 0.8 * tensor + 0.2 * other[name] for name, tensor in one.items()}
    for copy in (noisy, mixed):
        assert weights_distance(sketch(one), sketch(copy)) <= NEAR_WEIGHTS


@pytest.mark.parametrize("how", ALTERED)
def test_a_classmates_altered_weights_are_found(examine, ada, hand_ins, how):
    """Under an own id, signed anew, with the tables that these weights give."""
    run = run_of(ada)
    content = torch.load(io.BytesIO(ada[f"{run}/best.pt"]), weights_only=True)
    weights = {name: ALTERED[how](name, tensor) for name, tensor in content["weights"].items()}
    files = sign({**ada, f"{run}/best.pt": checkpoint({**content, "weights": weights})})
    info = json.loads(files[f"{run}/run.json"])
    times = {"seconds": info["seconds"] + 1.0}
    files[f"{run}/run.json"] = edit_json(files[f"{run}/run.json"], **times)
    honest = Result.from_dict(json.loads(json.dumps(_listed(examine(ada)))))
    copied = replace(
        Result.from_dict(json.loads(json.dumps(_listed(examine(rename(files, "bela")))))),
        student="bela",
        submission="bela.zip",
        run="another recipe",
        prints={},  # nothing is equal
        findings=[],
    )
    found = list(alike([honest, copied]))
    assert [(index, finding.level) for index, finding in found] == [(0, "review"), (1, "review")]
    assert {finding.private for _, finding in found} == {
        "nearly the same weights as bela",
        "nearly the same weights as ada",
    }


def _listed(values):
    return {**values, "findings": [list(finding) for finding in values["findings"]]}


def test_honest_runs_of_the_demo_are_far_apart(graded):
    results = [
        standing.result
        for standing in graded[1]
        if standing.result.student in ("ada", "bela", "carl", "dora")
    ]
    assert len(results) == 4 and all(one.sketch for one in results)
    assert not list(near(results))


def test_predictions_that_are_nearly_equal():
    """Channels in another order are other weights; the DSC of each patient tells."""
    scores = (0.7, 0.8, 0.9, 0.6, 0.65, 0.72)
    one, other = result("a", scores), result("b", tuple(score + 0.004 for score in scores))
    assert dsc_distance(one, other) == pytest.approx(0.004)
    found = dict(alike([one, other]))
    assert {finding.name for finding in found.values()} == {"nearly the same DSC on every patient"}
    far = result("c", (0.75, *scores[1:]))
    assert not list(near([one, far]))
    assert not list(near([one, replace(other, student="a")]))  # one student, two files
    assert not list(near([one, replace(other, grid="file")]))


@pytest.mark.parametrize("dsc", [0.0, 1.0])
def test_networks_that_find_nothing_are_no_copies(dsc):
    dead = [result(student, (dsc,) * 8) for student in "ab"]
    assert not list(near(dead))


def test_networks_that_mark_everything_are_no_copies():
    """Each patient has twice the share of the tumour, in both: that is no print."""
    shares = (0.003, 0.01, 0.02, 0.03, 0.05, 0.17)
    everything = [result(name, tuple(2 * p / (1 + p) for p in shares)) for name in "ab"]
    assert not list(near(everything))


def test_two_dead_networks_share_nothing(examine, ada):
    """Other weights and other seeds: one finds nothing, or both find everything."""
    run = run_of(ada)
    content = torch.load(io.BytesIO(ada[f"{run}/best.pt"]), weights_only=True)
    for bias in (-1e4, 1e4):
        weights = dict(content["weights"])
        last = [name for name, tensor in weights.items() if tensor.shape == (1,)][-1]
        weights[last] = torch.full((1,), bias)
        values = examine(
            sign({**ada, f"{run}/best.pt": checkpoint({**content, "weights": weights})})
        )
        assert "masks" not in values["prints"]


@pytest.mark.parametrize("seconds", [1.2, 12.34, 180, 0, -1.234567, True, "5.1234567", None])
def test_a_coarse_time_is_no_print(examine, ada, seconds):
    """Two short runs may well take the same hundredth of a second."""
    run = f"{run_of(ada)}/run.json"
    values = examine(sign({**ada, run: edit_json(ada[run], seconds=seconds)}))
    assert "time" not in values["prints"]


def test_equal_measured_times_are_a_print(examine, ada):
    """A verbatim copy under another id, weights and tables and all."""
    assert json.loads(ada[f"{run_of(ada)}/run.json"])["seconds"] < 600  # and yet a print
    first = Result.from_dict(_listed(examine(ada)))
    second = replace(first, student="bela", submission="bela.zip")
    standings = assess([first, second], RUBRIC)
    assert {standing.status for standing in standings} == {"held"}
    assert {finding.name for _, finding in alike([first, second])} == {"the same measured time"}


def test_a_run_of_a_comparison_is_somebody_elses(examine, ada):
    """Its tables, or all of it: a friend's second best run, under another id."""
    files, _ = with_second_run(ada)
    (prints,) = Result.from_dict(_listed(examine(files))).compared
    assert set(prints) == {"time", "cases", "history"}
    own, shared = {"time": "1"}, [{"time": "2"}, {"time": "3"}]
    hana, gus = result("hana", prints=own, compared=shared), result("gus", compared=shared[:1])
    mal = result("mal", prints={"time": "3"})
    team = result("hana+zoe", prints=own, compared=shared)
    found = dict(same_runs([hana, gus, mal, team]))
    assert {index: finding.private for index, finding in found.items()} == {
        0: "the same run as gus, mal",
        1: "the same run as hana, hana+zoe",
        2: "the same run as hana, hana+zoe",
        3: "the same run as gus, mal",
    }
    assert {finding.level for finding in found.values()} == {"review"}
    assert not any(name in finding.text for finding in found.values() for name in ("hana", "gus"))
    assert not list(same_runs([hana, replace(mal, prints={"time": "1"})]))  # a matter of ``alike``
    given_out = [result(name, compared=shared[:1]) for name in "abcd"]
    assert not list(same_runs(given_out))


def test_a_comparison_with_other_times_is_somebody_elses_all_the_same(examine, ada):
    """Run folders and result CSV of ada, with each measured time changed by a percent."""
    files, name = with_second_run(ada)
    owner = Result.from_dict(_listed(examine(files)))
    info = json.loads(files[f"result/runs/{name}/run.json"])
    info["seconds"] *= 1.01
    copied = {**files, f"result/runs/{name}/run.json": json.dumps(info).encode()}
    copier = Result.from_dict(_listed(examine(copied)))
    copier = replace(copier, student="finn", prints={"history": "1", "cases": "2", "time": "3"})
    assert copier.compared[0]["time"] != owner.compared[0]["time"]
    found = dict(same_runs([owner, copier]))
    assert [one.private for one in found.values()] == [
        "the same run as finn",
        "the same run as ada",
    ]
    assert {(one.level, one.text) for one in found.values()} == {("review", _SAME_TABLES)}
    whole_class = [replace(copier, student=student) for student in "abcd"]
    assert not list(same_runs([owner, *whole_class]))  # given out


def test_the_seeds_of_compared_runs_may_be_somebody_elses():
    ada = result("ada", recipe={"seed": seed_of("ada")}, seeds=[seed_of("ada") + 1, 42])
    finn = result("finn", recipe={"seed": seed_of("finn")}, seeds=[seed_of("ada"), 42])
    both = result("gus", recipe={"seed": seed_of("ada")}, seeds=[seed_of("ada")])
    ines = result("ines", recipe={"seed": seed_of("ines") + 2}, seeds=[seed_of("ada") + 4])
    found = [
        (index, one.private, one.text.split(" has")[0])
        for index, one in other_seeds([ada, finn, both, ines])
    ]
    assert found == [
        (1, "the seed of ada", "A run of the comparison"),
        (2, "the seed of ada", "The run"),
        (3, "the seed of ada", "A run of the comparison"),
    ]


def test_only_what_proves_foreign_weights_tells_who_copied():
    a, b = (result(student, prints={"weights": "1"}) for student in "ab")
    odd_ends = replace(a, findings=[Finding("fault", "files changed", "")])
    assert [f.level for _, f in alike([odd_ends, replace(b, run="other")])] == ["fault", "fault"]
    stolen = replace(b, run="other", findings=[Finding("fault", "checkpoint of another run", "")])
    assert [f.level for _, f in alike([odd_ends, stolen])] == ["review", "fault"]


def test_nearly_the_weights_of_the_kit(tmp_path):
    ours = network(3)
    torch.save({"weights": ours}, tmp_path / "kit.pt")
    moved = {name: ALTERED["noise of 0.1 %"](name, tensor) for name, tensor in ours.items()}
    own = result("a", sketch=sketch(moved))
    ((index, finding),) = shipped([own, result("b", sketch=sketch(network(4)))], tmp_path)
    assert (index, finding.level) == (0, "review") and "kit.pt" in finding.text
    assert status(replace(own, findings=[finding])) == "review"
