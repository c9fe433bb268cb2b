"""Exercises: model solutions pass, unwritten ones say so, each mistake has its sentence."""

import hashlib
import inspect
import itertools
import math
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

import exercises
from lib.check import check_exercises
from lib.check.exercises import EXERCISES
from lib.loss import DiceLoss, FocalTverskyLoss
from lib.metrics import dsc, largest_component
from lib.notebook.course import Course
from lib.notebook.solutions import without_solutions
from lib.utils import PROJECT, KitError


def remedies(name: str, answer: object) -> list[str]:
    """What fails of an answer to one exercise."""
    module = types.SimpleNamespace(**{name: answer, "__name__": answer.__module__})
    return [str(check) for check in check_exercises(module, name) if not check.passed]


def test_the_model_solutions_pass():
    checks = list(check_exercises(exercises))
    assert [str(check) for check in checks if not check.passed] == []
    assert {str(check).split()[1] for check in checks} == set(EXERCISES)


def test_the_model_solutions_agree_with_the_kit():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 1, 8, 8, generator=generator)
    target = (torch.rand(3, 1, 8, 8, generator=generator) < 0.3).float()
    torch.testing.assert_close(exercises.DiceLoss()(logits, target), DiceLoss()(logits, target))
    ours = FocalTverskyLoss()(logits, target)
    torch.testing.assert_close(exercises.FocalTverskyLoss()(logits, target), ours)
    rng = np.random.default_rng(0)
    one, other = rng.random((2, 3, 5, 5)) < 0.4
    assert exercises.dsc(one, other) == dsc(one, other)
    assert np.array_equal(exercises.largest_component(one), largest_component(one))


def test_each_exercise_of_the_edition_is_said_to_be_unwritten():
    """One line each, and nothing of the file fails to be imported."""
    source = without_solutions((PROJECT / "exercises.py").read_text(encoding="utf-8"))
    module = types.ModuleType("exercises")
    exec(compile(source, "exercises.py", "exec"), module.__dict__)
    failed = [str(check) for check in check_exercises(module) if not check.passed]
    assert len(failed) == len(EXERCISES)
    assert all("is written: write it: return" in line for line in failed)


def test_a_loop_without_end_is_named_when_it_is_stopped():
    def endless(*_):
        for turn in itertools.count():
            if turn == 1000:
                raise KeyboardInterrupt  # as Ctrl-C does; a test in the background gets no signal

    [line] = remedies("dsc", endless)
    number = inspect.getsourcelines(endless)[1] + 3
    assert f"you stopped it (line {number} of test_exercises.py)" in line


# --- mistakes, as students make them --------------------------------------------------------------


def a_loss(formula):
    """A class of which forward computes a formula of logits and target."""

    class Loss(nn.Module):
        def forward(self, logits, target):
            return formula(logits, target)

    return Loss


def dice(p, t, twice=2, above=1, below=1):
    return (twice * (p * t).sum() + above) / (p.sum() + t.sum() + below)


def tversky(p, t, fn=0.7, fp=0.3, smooth=1):
    tp = (p * t).sum()
    return (tp + smooth) / (tp + fn * ((1 - p) * t).sum() + fp * (p * (1 - t)).sum() + smooth)


def half_detached(p):
    """The probabilities, of which half leads back to the logits."""
    return p / 2 + p.detach() / 2


def straight(p):
    """A threshold whose gradient is that of the probabilities."""
    return (p > 0.5).float() + p - p.detach()


s = torch.sigmoid
LOSSES = {
    "DiceLoss": [
        (lambda z, t: dice(s(z), t), "take one minus the coefficient"),
        (lambda z, t: -dice(s(z), t), "yours is minus it"),
        (lambda z, t: 1 - dice(z, t), "take the sigmoid of the logits first"),
        (lambda z, t: 1 - dice(s(s(z)), t), "take the sigmoid once"),
        (lambda z, t: 1 - dice(s(z), t, twice=1), "count the overlap twice"),
        (lambda z, t: 1 - dice(s(z), t, above=0, below=0), "add 1 above and below the line"),
        (lambda z, t: 1 - dice(s(z), t, above=0), "add the 1 above the line, too"),
        (lambda z, t: 1 - dice(s(z), t, below=0), "add the 1 below the line, too"),
        (lambda z, t: 1 - dice((s(z) > 0.5).float(), t), "a threshold has no gradient"),
        (
            lambda z, t: torch.stack([1 - dice(s(a), b) for a, b in zip(z, t, strict=True)]),
            "one a slice; sum over all pixels",
        ),
        (
            lambda z, t: torch.stack([1 - dice(s(a), b) for a, b in zip(z, t, strict=True)]).mean(),
            "sum over all pixels of all slices of the batch",
        ),
        (
            lambda z, t: 1 - (2 * (s(z) * t).mean() + 1) / (s(z).mean() + t.mean() + 1),
            "take sums, not means",
        ),
        (
            lambda z, t: 1 - ((s(z) * t).sum() + 1) / ((s(z) + t - s(z) * t).sum() + 1),
            "which makes it an IoU loss",
        ),
        (lambda z, t: (1 - dice(s(z), t)).item(), "is one number for the batch"),
        (lambda z, t: (1 - dice(s(z), t)).detach(), "nothing leads back to the logits"),
        (lambda z, t: 1 - dice(s(z.detach()), t), "nothing leads back to the logits"),
        (lambda z, t: 1 - dice(s(z.detach().requires_grad_()), t), "nothing leads back"),
        (lambda z, t: (1 - dice(s(z), t)).detach().requires_grad_(), "nothing leads back"),
        (lambda z, t: 1 - dice(half_detached(s(z)), t), "in another way than its value"),
        (lambda z, t: 1 - dice(straight(s(z)), t), "a threshold has no gradient"),
        (lambda z, t: 1 - dice(s(z), t.sub_(0)) + 0 * t.fill_(0).sum(), "work on a copy"),
        (lambda z, t: 1 - dice(s(t), z), "yours takes them the other way round"),
        (lambda z, t: 1 - dice(s(z), t.squeeze(9)), "it raised IndexError"),
    ],
    "FocalTverskyLoss": [
        (lambda z, t: (1 - tversky(s(z), t, 0.3, 0.7)) ** 0.75, "weigh false negatives by 0.7"),
        (lambda z, t: (1 - tversky(s(z), t)) ** (4 / 3), "yours is gamma = 4/3 itself"),
        (lambda z, t: 1 - tversky(s(z), t), "without it this is the Tversky loss"),
        (lambda z, t: 1 - tversky(s(z), t) ** 0.75, "not one minus the power"),
        (lambda z, t: tversky(s(z), t) ** 0.75, "take one minus the index before the power"),
        (lambda z, t: (1 - tversky(s(z), t, smooth=0)) ** 0.75, "add 1 above and below the line"),
        (lambda z, t: (1 - tversky(s(s(z)), t)) ** 0.75, "take the sigmoid once"),
        (
            lambda z, t: (1 - tversky(s(z), t)) * (1 - tversky(s(z), t)).detach() ** -0.25,
            "has the right gradient: ",
        ),
    ],
}


@pytest.mark.parametrize(
    ("name", "formula", "sentence"),
    [(name, *case) for name, cases in LOSSES.items() for case in cases],
)
def test_mistakes_in_losses(name, formula, sentence):
    (line,) = remedies(name, a_loss(formula))
    assert sentence in line


def volume_dsc(p, t, empty=1.0):
    total = p.sum() + t.sum()
    return 2 * (p & t).sum() / total if total else empty


def each_slice(function):
    return lambda mask: np.stack([function(plane) for plane in mask])


def labelled(mask, choose, structure=None):
    labels, number = ndimage.label(mask, structure)
    if not number:
        return mask.copy()
    return labels == choose(np.bincount(labels.ravel()))


# faces within a slice, edges and corners too between two of them
BETWEEN_SLICES = np.ones((3, 3, 3)) * ndimage.generate_binary_structure(2, 1)
BETWEEN_SLICES[[0, 2]] = 1


def biggest(sizes):
    return 1 + sizes[1:].argmax()


def by_box(mask):
    """The label of the component with the largest box around it."""
    boxes = ndimage.find_objects(ndimage.label(mask)[0])
    return 1 + np.argmax([math.prod(side.stop - side.start for side in box) for box in boxes])


def by_slices(mask):
    """The label of the component that reaches through most slices."""
    boxes = ndimage.find_objects(ndimage.label(mask)[0])
    return 1 + np.argmax([box[0].stop - box[0].start for box in boxes])


def flipped(network, images, axis=-1, back=-1):
    return s(network(images)), s(network(images.flip(axis))).flip(back)


def quarter(turn):
    return lambda epoch, epochs, lr: lr * (1 + math.cos(turn(epoch, epochs))) / 2


def turned(images, masks, chosen, axis=-1, both=True):
    images, masks = images.copy(), masks.copy()
    images[chosen] = np.flip(images[chosen], axis)
    if both:
        masks[chosen] = np.flip(masks[chosen], axis)
    return images, masks


def draw(rng, images):
    return rng.random(len(images)) < 0.5


def in_place(images, masks, rng):
    chosen = draw(rng, images)
    images[chosen], masks[chosen] = images[chosen, ..., ::-1], masks[chosen, ..., ::-1]
    return images, masks


def by_patient(patients, number, seed, order=sorted, replace=False):
    rng = np.random.default_rng(seed)
    chosen = set(rng.choice(order(set(patients)), number, replace=replace).tolist())
    learn = [i for i, name in enumerate(patients) if name not in chosen]
    return learn, [i for i, name in enumerate(patients) if name in chosen]


UNSEEDED = itertools.count()  # without a seed two draws of 3 of 10 would agree once in 120 times


def by_slice(patients, number, seed):
    order = np.random.default_rng(seed).permutation(len(patients))
    return sorted(order[number:].tolist()), sorted(order[:number].tolist())


def first_come(names):
    return list(names)


def sorted_too_soon(names):
    return list(set().union(sorted(names)))


class Step(exercises.DecoderStep):
    """The model solution, of which a part is spoilt."""

    def forward(self, x, skip):
        return self.spoilt(x, skip)

    def joined(self, x, skip):
        return torch.cat([self.up(x), skip], dim=1)


def spoilt(forward, **parts):
    def init(self, inner, skip, out):
        exercises.DecoderStep.__init__(self, inner, skip, out)
        for name, make in parts.items():
            setattr(self, name, make(inner, skip, out))

    return type("Spoilt", (Step,), {"spoilt": forward, "__init__": init})


def plain_layers(*channels, padding=1, norm=True, relu=True):
    layers = []
    for one, other in itertools.pairwise(channels):
        layers += [nn.Conv2d(one, other, 3, padding=padding)]
        layers += [nn.BatchNorm2d(other)] * norm + [nn.ReLU()] * relu
    return nn.Sequential(*layers)


MISTAKES = {
    "dsc": [
        (lambda p, t: volume_dsc(p, t, 0.0), "nothing to find and nothing found is right"),
        (lambda p, t: volume_dsc(p, t, math.nan), "0 / 0 is no number"),
        (lambda p, t: (p & t).sum() / max((p | t).sum(), 1), "yours is the IoU"),
        (lambda p, t: volume_dsc(p, t) / 2, "count the overlap twice"),
        (
            lambda p, t: np.mean([volume_dsc(a, b) for a, b in zip(p, t, strict=True)]),
            "a mean over slices rewards the many empty ones",
        ),
        (
            lambda p, t: np.mean([volume_dsc(a, b, 0.0) for a, b in zip(p, t, strict=True)]),
            "yours is a mean over slices, with 0",
        ),
        (lambda p, t: (2 * (p & t).sum() + 1) / (p.sum() + t.sum() + 1), "add nothing"),
        (lambda p, t: (p & t).sum() / max(p.sum(), 1), "yours is the precision"),
        (lambda p, t: (p & t).sum() / max(t.sum(), 1), "yours is the recall"),
        (lambda p, t: (p == t).mean(), "yours counts the background"),
        (lambda p, t: 1.0 if not p.any() or not t.any() else volume_dsc(p, t), "only if both"),
    ],
    "largest_component": [
        (each_slice(lambda plane: labelled(plane, biggest)), "a tumour is a volume"),
        (lambda mask: labelled(mask, np.argmax), "leave out label 0"),
        (lambda mask: labelled(mask, biggest, np.ones((3, 3, 3))), "shares an edge"),
        (lambda mask: labelled(mask, biggest, ndimage.generate_binary_structure(3, 2)), "an edge"),
        (lambda mask: labelled(mask, biggest, BETWEEN_SLICES), "shares an edge"),
        (lambda mask: labelled(mask, lambda n: 1 + n[1:].argmin()), "yours is the smallest"),
        (lambda mask: mask.copy(), "yours keeps all of them"),
        (lambda mask: 1 * labelled(mask, biggest), "is a mask of bool"),
        (lambda mask: labelled(mask, lambda sizes: 1), "compare sizes, not numbers"),
        (lambda mask: labelled(mask, lambda n: by_box(mask)), "count voxels"),
        (lambda mask: labelled(mask, lambda n: by_slices(mask)), "most slices"),
        (
            lambda mask: labelled(mask, biggest) if mask.any() else mask.astype(int),
            "its type is int64 for an empty mask",
        ),
        (
            lambda mask: labelled(mask, biggest) if mask.any() else ~mask,
            "without a component return the mask",
        ),
        (
            lambda mask: (
                ndimage.label(mask)[0]
                == np.bincount(ndimage.label(mask)[0].ravel())[1:].argmax() + 1
            ),
            "it raised ValueError",
        ),
    ],
    "DecoderStep": [
        (spoilt(lambda self, x, skip: self.up(x)), "is used nowhere|ReLU|uses the skip"),
        (
            spoilt(
                lambda self, x, skip: self.convolve(x),
                convolve=lambda i, k, o: plain_layers(i, o, o),
            ),
            "enlarge x twofold before you concatenate",
        ),
        (spoilt(Step.joined), "convolve what you concatenated"),
        (
            spoilt(
                lambda self, x, skip: self.convolve(self.joined(x, skip)),
                convolve=lambda i, k, o: plain_layers(o + k, o, o, padding=0),
            ),
            "pad the 3x3 convolutions by 1",
        ),
        (
            spoilt(
                lambda self, x, skip: self.convolve(self.up(x) + self.match(skip)),
                convolve=lambda i, k, o: plain_layers(o, o, o),
                match=lambda i, k, o: nn.Conv2d(k, o, 1),
            ),
            "has two 3x3 convolutions",
        ),
        (
            spoilt(
                lambda self, x, skip: self.convolve(self.up(x)),
                convolve=lambda i, k, o: plain_layers(o, o, o),
            ),
            "a sum would mix|concatenates",
        ),
        (
            spoilt(
                lambda self, x, skip: self.convolve(self.joined(x, skip)),
                convolve=lambda i, k, o: plain_layers(o + k, o, o, norm=False),
            ),
            "normalises behind each convolution",
        ),
        (
            spoilt(
                lambda self, x, skip: self.convolve(self.joined(x, skip)),
                convolve=lambda i, k, o: plain_layers(o + k, o, o, relu=False),
            ),
            "ends in a ReLU",
        ),
        (
            spoilt(lambda self, x, skip: self.convolve(self.joined(x, 0 * skip))),
            "another skip changes nothing",
        ),
        (
            spoilt(
                lambda self, x, skip: self.convolve(self.joined(x, skip)),
                spare=lambda i, k, o: nn.Linear(1, 1),
            ),
            "spare.weight, spare.bias is used nowhere",
        ),
    ],
    "nested_node": [
        (
            lambda h, u, e, b: h(torch.cat([e[-1], u(b)], 1)),
            "take all earlier nodes, not only the last",
        ),
        (
            lambda h, u, e, b: h(torch.cat([e[0], u(b)], 1)),
            "take all earlier nodes, not only the first",
        ),
        (lambda h, u, e, b: h(torch.cat([*e], 1)), "add the node below, enlarged"),
        (lambda h, u, e, b: h(torch.cat([u(b), *e], 1)), "put the node below behind"),
        (
            lambda h, u, e, b: h(torch.cat([*e[::-1], u(b)], 1)),
            "keep the earlier nodes in their order",
        ),
        (lambda h, u, e, b: torch.cat([*e, u(b)], 1), "apply H"),
        (lambda h, u, e, b: h(sum(e) + u(b)), "instead of adding"),
        (lambda h, u, e, b: h(torch.cat([*e, b], 1)), "it raised RuntimeError"),
        (lambda h, u, e, b: (e.append(u(b)), h(torch.cat(e, 1)))[1], "do not append"),
    ],
    "flip_average": [
        (
            lambda n, x: (s(n(x)) + s(n(x.flip(-1)))) / 2,
            "flip the mirror image's probabilities back",
        ),
        (lambda n, x: s((n(x) + n(x.flip(-1)).flip(-1)) / 2), "average probabilities, not logits"),
        (lambda n, x: (n(x) + n(x.flip(-1)).flip(-1)) / 2, "these are logits"),
        (lambda n, x: sum(flipped(n, x, -2, -2)) / 2, "yours flips top to bottom"),
        (lambda n, x: s(n(x)), "these are those of the slice as it is"),
        (lambda n, x: flipped(n, x)[1], "these are those of the mirror image"),
        (lambda n, x: sum(flipped(n, x)), "divide by 2"),
    ],
    "cosine": [
        (quarter(lambda e, n: 2 * math.pi * e / n), "yours goes on to 2 pi"),
        (lambda e, n, lr: lr * math.cos(math.pi * e / n) / 2, "else half of the rates are below 0"),
        (lambda e, n, lr: lr * math.cos(math.pi * e / n), "and halve the sum"),
        (lambda e, n, lr: lr * (1 + math.cos(math.pi * e / n)), "halve the sum"),
        (quarter(lambda e, n: math.pi * e / (n - 1)), "yours uses one less"),
        (quarter(lambda e, n: math.pi * (e + 1) / n), "yours is one ahead"),
        (quarter(lambda e, n: 180 * e / n), "yours are degrees"),
        (lambda e, n, lr: lr * (1 - math.cos(math.pi * e / n)) / 2, "yours climbs"),
        (quarter(lambda e, n: e / n), "pi is missing"),
        (lambda e, n, lr: (1 + math.cos(math.pi * e / n)) / 2, "multiply by lr"),
    ],
    "mirror": [
        (lambda x, m, r: turned(x, m, draw(r, x), both=False), "the masks stay where they were"),
        (
            lambda x, m, r: (turned(x, m, draw(r, x))[0], turned(x, m, draw(r, x))[1]),
            "a mask is mirrored where its slice is not",
        ),
        (lambda x, m, r: turned(x, m, slice(None)), "all slices are mirrored, or none"),
        (lambda x, m, r: turned(x, m, slice(0)), "all slices are mirrored, or none"),
        (lambda x, m, r: turned(x, m, draw(r, x), axis=-2), "heads are not scanned upside down"),
        (lambda x, m, r: turned(x, m, draw(r, x), axis=1), "changes the order of the sequences"),
        (in_place, "work on a copy"),
        (
            lambda x, m, r: turned(x, m, draw(np.random.default_rng(), x)),
            "a run could not be repeated",
        ),
        (lambda x, m, r: turned(x, m, draw(r, x))[0], "return the slices and the masks"),
        (lambda x, m, r: turned(x, m, r.random(len(x)) < 0.1), "expected about half"),
    ],
    "split_by_patient": [
        (by_slice, "draw patients, not slices"),
        (lambda p, n, seed: by_patient(p, n, next(UNSEEDED)), "two calls differ"),
        (lambda p, n, seed: by_patient(p, n, 0), "draw them by it"),
        (lambda p, n, seed: by_patient(p, n, seed)[::-1], "the other way round"),
        (lambda p, n, seed: by_patient(p, n + 1, seed), "4 patients are validated on, expected 3"),
        (
            lambda p, n, seed: by_patient(p, n, seed, lambda names: list(dict.fromkeys(p))),
            "sort the patients first",
        ),
        (lambda p, n, seed: by_patient(p, n, seed, first_come), "a set has no order"),
        (lambda p, n, seed: by_patient(p, n, seed, sorted_too_soon), "draw from a sorted list"),
        (
            lambda p, n, seed: by_patient(p, n, seed, lambda names: list({*np.unique(p)})),
            "draw from a sorted list",
        ),
        (
            lambda p, n, seed: tuple(part[::-1] for part in by_patient(p, n, seed)),
            "sort the indices",
        ),
        (
            lambda p, n, seed: (by_patient(p, n, seed)[0][1:], by_patient(p, n, seed)[1]),
            "54 of 55 slices",
        ),
        (lambda p, n, seed: by_patient(p, n, seed)[1], "return two lists"),
        (lambda p, n, seed: (by_patient(p, n, seed), p.__setitem__(0, "x"))[0], "work on a copy"),
        (lambda p, n, seed: by_patient(p, n, seed, replace=True), "draw without replacement"),
    ],
}


@pytest.mark.parametrize(
    ("name", "answer", "sentence"),
    [(name, *case) for name, cases in MISTAKES.items() for case in cases],
)
def test_mistakes(name, answer, sentence):
    (line,) = remedies(name, answer)
    assert any(part in line for part in sentence.split("|")), line


@pytest.mark.parametrize(
    "order",
    [
        sorted,
        lambda names: np.unique(list(names)),
        lambda names: sorted(dict.fromkeys(names)),
        lambda n: sorted({*n}),
        lambda names: sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest()),
    ],
)
def test_right_splits_pass(order):
    assert remedies("split_by_patient", lambda p, n, seed: by_patient(p, n, seed, order)) == []


def test_a_split_from_a_set_fails_where_hashes_do_not_change(tmp_path):
    source = (PROJECT / "exercises.py").read_text(encoding="utf-8")
    patients = "patients = sorted(set(patient_of))"
    assert patients in source
    body = source.replace(patients, "patients = list(set(sorted(patient_of)))")
    (tmp_path / "exercises.py").write_text(body, encoding="utf-8")
    done = checked(tmp_path, "exercises:split_by_patient", PYTHONHASHSEED="0")
    assert done.returncode == 1
    assert "[FAIL] split_by_patient does not depend on the order of a set: " in done.stdout


def test_forty_mistakes_and_more_each_with_a_sentence_of_its_own():
    cases = [
        (name, case[1]) for group in (LOSSES, MISTAKES) for name in group for case in group[name]
    ]
    assert len(cases) >= 80
    assert len({sentence for _, sentence in cases}) >= 70


# --- around it ------------------------------------------------------------------------------------


def test_an_error_is_named_with_its_line():
    def broken(predicted, truth):
        return predicted.nothing

    (line,) = remedies("dsc", broken)
    number = inspect.getsourcelines(broken)[1] + 1
    assert "it raised AttributeError" in line and f"line {number} of test_exercises.py" in line


@pytest.mark.parametrize("end", [sys.exit, lambda: sys.exit(0), quit])
def test_code_that_ends_python_is_an_error(end):
    """Else the command ended with 0, and without a word."""
    (line,) = remedies("dsc", lambda predicted, truth: end())
    assert line.startswith("[FAIL] dsc: it raised SystemExit: ")


def test_an_exercise_that_the_course_hands_out_must_be_there(monkeypatch):
    course = Course(exercises=("cosine", "dsc"))
    monkeypatch.setattr("lib.check.exercises.read_course", lambda: course)
    module = types.SimpleNamespace(cosine=exercises.cosine, __name__="exercises")
    failed = [str(check) for check in check_exercises(module) if not check.passed]
    said = "[FAIL] dsc is there: put it back into exercises.py, as it was handed out"
    assert failed == [said]
    assert all(check.passed for check in check_exercises(module, "cosine"))


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("from lib.metrics import dsc", "dsc is your own: it comes from lib.metrics; write it in "),
        ("import lib.metrics\ndsc = lib.metrics.dsc", "dsc is your own: it comes from lib.met"),
        ("from lib.loss import DiceLoss", "DiceLoss is your own: it comes from lib.loss; write "),
        ("from numpy import dot as dsc", "dsc is your own: it comes from numpy"),
        ("dsc = 1", "dsc is your own: it comes from elsewhere; write it in exercises.py yourself"),
    ],
)
def test_an_exercise_must_be_written_in_the_file(source, line):
    module = types.ModuleType("exercises")
    exec(source, module.__dict__)
    failed = [str(check) for check in check_exercises(module) if not check.passed]
    assert any(one.startswith(f"[FAIL] {line}") for one in failed)


def test_what_was_checked_is_told_before_code_that_never_ends(tmp_path):
    source = (PROJECT / "exercises.py").read_text(encoding="utf-8")
    head, _ = source.split("def split_by_patient", 1)
    body = "def split_by_patient(*_):\n    import os\n    os._exit(7)  # for an endless loop\n"
    (tmp_path / "exercises.py").write_text(f"{head}{body}", encoding="utf-8")
    done = checked(tmp_path)
    assert done.returncode == 7 and "[OK] mirror draws from rng alone" in done.stdout


def checked(folder, what="exercises", **environment):
    """What the command says of the exercises of a folder."""
    return subprocess.run(
        [sys.executable, "-m", "lib.check", what],
        cwd=folder,
        env={"PYTHONPATH": str(PROJECT), "PATH": "", **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("what", "status", "line"),
    [
        ("exercises", 0, "[OK] dsc is 1 if both are empty"),
        ("exercises:cosine", 0, "[OK] cosine starts at lr"),
        ("exercises:nothing", 2, "error: exercises:nothing: cannot be loaded"),
    ],
)
def test_command_line(what, status, line):
    done = subprocess.run(
        [sys.executable, "-m", "lib.check", what], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == status
    assert line in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("source", "reason"),
    [("def dsc(:\n", "SyntaxError: "), ("raise SystemExit(0)\n", "SystemExit: 0")],
)
def test_a_file_that_cannot_be_imported_is_one_line(tmp_path, source, reason):
    (tmp_path / "exercises.py").write_text(source)
    done = checked(tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"exercises.py: cannot be imported ({reason}" in done.stderr


def test_an_exercise_that_is_not_there_is_named():
    with pytest.raises(KitError, match="has no exercise; there are DiceLoss"):
        list(check_exercises(types.ModuleType("exercises")))
