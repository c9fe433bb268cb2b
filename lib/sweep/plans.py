"""Plan experiments: a plan is a question, and small changes of one recipe to answer it.

Each variant is a label and the fields of ``Config`` that it changes. ``PLANS`` has those of
``train.ipynb``; ``grid`` and ``random_plan`` make others.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from lib.config import CUSTOM, Config
from lib.logger import Table
from lib.runtime.own_code import load_custom
from lib.utils import KitError, see

Overrides = Mapping[str, Any]


class Trial(NamedTuple):
    """Hold one variant of a plan with one seed."""

    label: str
    config: Config


@dataclass(frozen=True)
class Plan:
    """Hold a question, and the variants that are tried to answer it.

    Attributes:
        name: of its runs in tables. Runs of the same name and question are compared with one
            another: a plan that gets a further variant keeps both.
        variants: label -> the fields of ``Config`` that change; ``{}`` is the baseline.
        ladder: each variant is compared with the one before it, not with the reference.
        table: the result CSV of its runs, ``train`` or ``best``.
    """

    name: str
    question: str
    variants: Mapping[str, Overrides]
    ladder: bool = False
    table: Table = "train"

    def configs(self, base: Config) -> dict[str, Config]:
        """Return label -> config, the reference first.

        The reference is the variant that leaves ``base`` as it is, or else the first. Variants with
        the same config are one, with the label of the first. A ladder keeps its order.

        Raises:
            KitError: no variants; one that names an unknown field or a value that it cannot have;
                or two steps of a ladder are the same.
        """
        configs, same = self._different(base)
        if self.ladder and same:
            label, first = next(iter(same.items()))
            raise KitError(
                f"plan {self.name}: step {label!r} is the same recipe as {first!r}; leave it out, "
                f"or change another field: the profile may have set this one already"
            )
        if self.ladder:
            return configs
        reference = next(
            (label for label, config in configs.items() if config == base), next(iter(configs))
        )
        return {reference: configs[reference], **configs}

    def repeats(self, base: Config) -> dict[str, str]:
        """Return label -> label of the variant before it that has the same config.

        Raises:
            KitError: see ``configs``.
        """
        return self._different(base)[1]

    def _different(self, base: Config) -> tuple[dict[str, Config], dict[str, str]]:
        """Return the configs that differ, and which label has the same as which of them."""
        if not self.variants:
            raise KitError(f"plan {self.name}: has no variants; give it at least one")
        configs: dict[Config, str] = {}
        same = {}
        for label, changes in self.variants.items():
            first = configs.setdefault(_changed(self.name, label, base, changes), label)
            if first != label:
                same[label] = first
        return {label: config for config, label in configs.items()}, same

    def trials(self, base: Config, seeds: Sequence[int] = ()) -> list[Trial]:
        """Return every variant with every seed; the first seed of all variants first.

        Args:
            seeds: by default each variant's own.

        Raises:
            KitError: see ``configs``; seeds that are no whole numbers, or one twice: a training
                counts once; or seeds are given, and a variant has one of its own.
        """
        given = list(seeds) if isinstance(seeds, Iterable) else [seeds]
        whole = all(isinstance(seed, Integral) for seed in given)
        if not isinstance(seeds, Iterable) or not whole or len(set(given)) < len(given):
            raise KitError(
                f"plan {self.name}: seeds {given}; give different whole numbers, e.g. (1, 2, 3)"
            )
        configs = self.configs(base)
        own = [label for label, changes in self.variants.items() if "seed" in changes]
        if given and own:
            raise KitError(
                f"plan {self.name}, variant {own[0]}: has a seed of its own; leave out seeds="
            )
        return [
            Trial(label, config if seed is None else dataclasses.replace(config, seed=int(seed)))
            for seed in given or (None,)
            for label, config in configs.items()
        ]


def _changed(plan: str, label: str, base: Config, changes: Overrides) -> Config:
    """Return a recipe with changes. Raises KitError if it allows none of them."""
    try:
        return dataclasses.replace(base, **changes)
    except (TypeError, KitError) as error:
        raise KitError(f"plan {plan}, variant {label}: {error}") from None


# --- labels ---------------------------------------------------------------------------------------


def _label(changes: Overrides) -> str:
    """Return changes as a label."""
    return ", ".join(f"{field}={_in_words(value)}" for field, value in changes.items())


def _in_words(value: Any) -> str:
    """Return a value as papers write it: ``1e-4`` rather than 0.0001 or 1e-04."""
    if isinstance(value, float) and 0 < abs(value) < 0.01:
        return np.format_float_scientific(value, trim="-", exp_digits=1)
    return f"{value}"


# --- the plans of train.ipynb ---------------------------------------------------------------------

_SINGLE = (
    Plan(
        "sampling",
        "Does it help to draw new slices in every epoch?",
        {"frozen": {"sampling": "frozen"}, "fresh": {"sampling": "fresh"}},
    ),
    Plan(
        "loss",
        "Which loss function?",
        {
            "Dice": {"loss": "DiceLoss"},
            "IoU": {"loss": "IOULoss"},
            "Focal Tversky": {"loss": "FocalTverskyLoss"},
        },
    ),
    # SGD moves lr / (1 - momentum) per unit of gradient: with the first two rates both momenta move
    # equally far
    Plan(
        "optimizer",
        "Adam or SGD, and at which rate?",
        {
            "Adam": {"optimizer": "Adam"},
            "SGD 0.9": {"optimizer": "SGD", "momentum": 0.9, "lr": 0.1},
            "SGD 0.99": {"optimizer": "SGD", "momentum": 0.99, "lr": 0.01},
            "SGD 0.9, lr 1e-4": {"optimizer": "SGD", "momentum": 0.9, "lr": 1e-4},
            "SGD 0.99, lr 1e-4": {"optimizer": "SGD", "momentum": 0.99, "lr": 1e-4},
        },
    ),
    Plan(
        "lr",
        "Which initial learning rate?",
        {_in_words(lr): {"lr": lr} for lr in (3e-5, 1e-4, 3e-4, 1e-3)},
    ),
    Plan(
        "weight_decay",
        "How much weight decay?",
        {_in_words(wd): {"weight_decay": wd} for wd in (0, 1e-4, 2e-4, 3e-4)},
    ),
    Plan(
        "schedule",
        "Should the learning rate fall?",
        {
            "none": {"lr_scheduler": "none"},
            "linear": {"lr_scheduler": "linear"},
            "step": {"lr_scheduler": "step", "lr_factor": 0.5},
            "cosine": {"lr_scheduler": "cosine"},
            "poly": {"lr_scheduler": "poly"},
        },
    ),
    Plan(
        "network",
        "Which network, at equal width?",
        {
            "U-Net": {"model": "unet"},
            "U-Net++": {"model": "unet_2plus"},
            "UNet 3+": {"model": "unet_3plus"},
        },
    ),
    Plan(
        "activation",
        "Which activation function?",
        {name: {"activation": name} for name in ("ReLU", "LeakyReLU", "ELU", "GELU")},
    ),
    Plan("batch_size", "How many slices a step?", {f"{n}": {"batch_size": n} for n in (8, 16, 32)}),
)


def grid(name: str, question: str, **axes: Sequence[Any]) -> Plan:
    """Return a plan of every combination of values.

    ``grid("mine", "...", loss=["DiceLoss", "IOULoss"], lr=[1e-4, 3e-4])`` has four variants.

    Raises:
        KitError: values that are no list, or none.
    """
    for field, values in axes.items():
        _require_values(name, field, values)
    combinations = [
        dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())
    ]
    return Plan(name, question, {_label(changes): changes for changes in combinations})


def random_plan(name: str, question: str, count: int, seed: int = 0, **axes: Any) -> Plan:
    """Return a plan of ``count`` random combinations, the same for the same seed.

    A combination that is drawn twice is tried once. Random search finds good values of the few
    fields that matter sooner than a grid (Bergstra and Bengio 2012, Journal of Machine Learning
    Research 13).

    Args:
        axes: field -> a list of values, or a distribution of scipy.stats, e.g.
            ``lr=loguniform(1e-5, 1e-2)``, of which three digits are kept.

    Raises:
        KitError: a count below 1, or values that are no list, or none.
    """
    if not isinstance(count, Integral) or count < 1:
        raise KitError(f"plan {name}: count={count!r}; give a whole number, 1 or more")
    for field, axis in axes.items():
        if not hasattr(axis, "rvs"):
            _require_values(name, field, axis)
    rng = np.random.default_rng(seed)
    combinations = [
        {field: _drawn(axis, rng) for field, axis in axes.items()} for _ in range(count)
    ]
    return Plan(name, question, {_label(changes): changes for changes in combinations})


def _require_values(plan: str, field: str, values: Any) -> None:
    """Raise KitError unless an axis has a list of values."""
    if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray) or not len(values):
        raise KitError(
            f"plan {plan}: {field}={values!r} is no list of values; give one, as {field}=[...]"
        )


def _drawn(axis: Any, rng: np.random.Generator) -> Any:
    """Return a random value of an axis."""
    if not hasattr(axis, "rvs"):
        return axis[int(rng.integers(len(axis)))]
    value = axis.rvs(random_state=rng)
    if isinstance(value, (int, np.integer)):
        return int(value)
    return float(f"{value:.3g}")  # readable, and exact in a CSV


def _union(name: str, question: str, plans: Sequence[Plan]) -> Plan:
    """Return a plan with all variants of several plans."""
    return Plan(
        name,
        question,
        {
            f"{plan.name}: {label}": changes
            for plan in plans
            for label, changes in plan.variants.items()
        },
    )


PLANS: dict[str, Plan] = {
    plan.name: plan
    for plan in (
        *_SINGLE,
        Plan(
            "network_wide",
            "Which network, with 64 to 1024 channels? For a GPU.",
            {
                label: {"model": model, "init_features": 64, "checkpointing": True}
                for label, model in (
                    ("U-Net", "unet"),
                    ("U-Net++", "unet_2plus"),
                    ("UNet 3+", "unet_3plus"),
                )
            },
        ),
        grid(
            "coursework",
            "Loss, schedule and weight decay together, as the coursework crossed them.",
            loss=("DiceLoss", "IOULoss", "FocalTverskyLoss"),
            lr_scheduler=("none", "linear"),
            weight_decay=(0.0, 1e-4, 2e-4, 3e-4),
        ),
        _union("everything", "Every single question at once, without repeats.", _SINGLE),
    )
}
"""Name -> plan. The first nine each change one factor."""


def find_plan(plan: Plan | str) -> Plan:
    """Return the shipped plan of that name, the custom ``"module:PLAN"``, or a plan itself.

    Raises:
        KitError: it is none of these.
    """
    if isinstance(plan, Plan):
        return plan
    if isinstance(plan, str) and CUSTOM.fullmatch(plan):
        custom = load_custom(plan)
        if not isinstance(custom, Plan):
            raise KitError(f"{plan}: is no lib.sweep.Plan; name one; {see('extending', 'A sweep')}")
        return custom
    if not isinstance(plan, str) or plan not in PLANS:
        raise KitError(f"plan {plan!r} is unknown; use one of {', '.join(PLANS)}, or module:PLAN")
    return PLANS[plan]
