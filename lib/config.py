"""Describe a run by ``Config``: all hyper-parameters, in one frozen place; recipes; profiles."""

# ruff: noqa: RUF009 -- _option returns a dataclass field
from __future__ import annotations

import dataclasses
import difflib
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from numbers import Integral, Real
from typing import Any, Literal, get_args

from lib.utils import KitError, sha256

# What the fields accept by name. The modules that build them have a table with the same keys.
Preprocessing = Literal["reference", "native"]
Model = Literal["unet", "unet_2plus", "unet_3plus"]
Activation = Literal["ReLU", "LeakyReLU", "ELU", "SiLU", "GELU", "Mish"]
Normalisation = Literal["batch", "instance", "group", "none"]
Initialiser = Literal["default", "normal", "xavier", "kaiming", "orthogonal"]
Loss = Literal[
    "DiceLoss",
    "IOULoss",
    "TverskyLoss",
    "FocalTverskyLoss",
    "FocalLoss",
    "BCELoss",
    "DiceBCELoss",
    "MSSSIMLoss",
    "HybridLoss",
]
Optimizer = Literal["Adam", "AdamW", "SGD"]
Scheduler = Literal["none", "linear", "cosine", "poly", "step", "plateau", "range"]
Component = Literal["largest", "likeliest", "all"]
Sampling = Literal["frozen", "fresh"]
Augmentation = Literal["default"]
Metric = Literal["none"]
Padding = Literal["zero", "background"]
PrecisionName = Literal["auto", "fp32", "bf16", "fp16"]

MODELS: tuple[str, ...] = get_args(Model)
ACTIVATIONS: tuple[str, ...] = get_args(Activation)
NORMALISATIONS: tuple[str, ...] = get_args(Normalisation)
INITIALISERS: tuple[str, ...] = get_args(Initialiser)
LOSSES: tuple[str, ...] = get_args(Loss)
SPLITS = re.compile(r"auto|published|all|holdout(:[1-9]\d*)?|fold-[1-9]\d*-of-[1-9]\d*")
PREDICTING = ("preprocessing", "model", "component")  # fields that predictions depend on
DEVICES = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
LARGE, MANY = 1e6, 100_000  # more is a slip of the pen
CUSTOM = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")  # "my_module:MyNetwork"


def _option(
    default: Any,
    help: str,
    choices: tuple[str, ...] = (),
    limits: tuple[float, float] | None = None,
    pattern: re.Pattern[str] | None = None,
) -> Any:
    """Declare a field with its help text and what it accepts, for validation and command lines.

    A text field takes one of ``choices`` or what matches ``pattern``, a number one within
    ``limits``, both ends included.
    """
    return field(
        default=default,
        metadata={"help": help, "choices": choices, "limits": limits, "pattern": pattern},
    )


@dataclass(frozen=True)
class Config:
    """Hold all settings of a run. The defaults are the published baseline, as shipped.

    Change a field with ``dataclasses.replace(config, lr=3e-4)``. A wrong value raises ``KitError``.
    Source: Buda, Saha, Mazurowski 2019 (doi:10.1016/j.compbiomed.2019.05.002), and its code.
    """

    # A new field gets its default in PUBLISHED too; a field that is dropped stays there.

    # data
    image_size: int = _option(
        256, "edge of the square slices that the network sees, pixels", limits=(32, 2048)
    )
    preprocessing: Preprocessing | str = _option(
        "reference",
        "reference (as published) or native (whole grid); or a custom one, as module:function",
        get_args(Preprocessing),
        pattern=CUSTOM,
    )
    split: str = _option(
        "auto",
        "auto, published, holdout, holdout:N, fold-I-of-K, or all (nobody is left to score); "
        "by patient",
        pattern=SPLITS,
    )
    neighbours: int = _option(
        0,
        "slices below and above that the network sees besides, on either side (2.5-D)",
        limits=(0, 8),
    )
    # network
    model: Model | str = _option(
        "unet", "network; or a custom one, as module:Class", MODELS, pattern=CUSTOM
    )
    init_features: int = _option(
        32, "channels of the first level; each level below doubles them", limits=(1, 512)
    )
    activation: Activation = _option(
        "ReLU", "activation function between convolutions", ACTIVATIONS
    )
    normalisation: Normalisation = _option(
        "batch", "normalisation after each convolution", NORMALISATIONS
    )
    initialiser: Initialiser = _option(
        "default", "how the first weights are drawn; default is torch's", INITIALISERS
    )
    prior: float = _option(
        0.0,
        "share of tumour that the untrained network sees everywhere, e.g. 0.02: the bias of its "
        "output is the log-odds of that; 0: as the initialiser draws it",
        limits=(0, 0.5),
    )
    deep_supervision: bool = _option(False, "a loss at every level; U-Net++ and UNet 3+")
    guided: bool = _option(False, "classification-guided module: is there a tumour at all? UNet 3+")
    checkpointing: bool = _option(
        False, "train in less memory: compute what is cheap again in backward"
    )
    # objective and optimiser
    loss: Loss | str = _option(
        "DiceLoss", "loss function; or a custom one, as module:Class", LOSSES, pattern=CUSTOM
    )
    optimizer: Optimizer | str = _option(
        "Adam", "optimiser; or a custom one, as module:Class", get_args(Optimizer), pattern=CUSTOM
    )
    lr: float = _option(1e-4, "initial learning rate", limits=(0, LARGE))
    momentum: float = _option(0.9, "momentum; used by SGD only", limits=(0, LARGE))
    nesterov: bool = _option(False, "look ahead along the momentum; SGD only")
    weight_decay: float = _option(0.0, "L2 penalty on the weights", limits=(0, LARGE))
    clip: float = _option(
        0.0,
        "largest norm of the gradient, longer ones are shortened; 0: no limit",
        limits=(0, LARGE),
    )
    lr_scheduler: Scheduler | str = _option(
        "none",
        "learning rate over the run, see lib.optim.learning_rate; or a custom one, as "
        "module:function",
        get_args(Scheduler),
        pattern=CUSTOM,
    )
    warmup: float = _option(
        0.0,
        "epochs in which the learning rate climbs to lr; below 1: a share of the run, e.g. 0.05, "
        "but at least one epoch; 0: none",
        limits=(0, MANY),
    )
    lr_step: float = _option(
        10.0,
        "epochs between cuts (step), or without a lower loss before a cut (plateau); below 1: a "
        "share of the run, e.g. 0.25",
        limits=(0.001, MANY),
    )
    lr_factor: float = _option(
        0.1, "what a cut multiplies the learning rate by; step and plateau only", limits=(0, 1)
    )
    ema: float = _option(
        0.0,
        "largest decay of the moving average of weights that is scored and kept; its horizon is at "
        "most a tenth of the run, which 0.9999 leaves to the run; 0: none",
        limits=(0, 1),
    )
    batch_size: int = _option(16, "slices per optimiser step", limits=(1, 4096))
    accumulate: int = _option(
        1,
        "chunks that a batch is computed in, to save memory; normalisation and batch-wise "
        "losses then see one chunk at a time",
        limits=(1, 4096),
    )
    epochs: int = _option(
        100, "passes over as many slices as the training patients have", limits=(1, MANY)
    )
    patience: int = _option(
        0,
        "early stopping: end after so many epochs without a higher validation DSC; 0: never",
        limits=(0, MANY),
    )
    # sampling and augmentation
    sampling: Sampling | str = _option(
        "frozen",
        "frozen: every epoch repeats one draw (as shipped); fresh: a new draw each epoch; or a "
        "custom one, as module:Class",
        get_args(Sampling),
        pattern=CUSTOM,
    )
    background_weight: float = _option(
        0.1,
        "weight of a slice without tumour in the draw, as a share of its patient's "
        "mean tumour area; where two of three slices are without, they make 6 of "
        "100 samples at 0.1 (as published), 33 at 1, 44 at 2",
        limits=(0, LARGE),
    )
    augmentation: Augmentation | str = _option(
        "default",
        "default: as the next fields say; or a custom one, as module:Class",
        get_args(Augmentation),
        pattern=CUSTOM,
    )
    scale: float = _option(0.05, "augmentation: zoom by up to +- this share", limits=(0, 1))
    rotation: float = _option(15.0, "augmentation: rotate by up to +- degrees", limits=(0, 360))
    flip: float = _option(0.5, "augmentation: probability of a left-right flip", limits=(0, 1))
    padding: Padding = _option(
        "zero",
        "what rotation brings in from outside: zero (as published: the mean intensity after "
        "z-scoring, a grey frame) or background (black)",
        get_args(Padding),
    )
    intensity: float = _option(
        0.0,
        "augmentation: probability of each of noise, brightness, contrast and gamma; "
        "0: none, as published",
        limits=(0, 1),
    )
    sequence_dropout: float = _option(
        0.0,
        "augmentation: probability that pre-contrast, post-contrast or both are "
        "missing and replaced by FLAIR, as in a tenth of the patients",
        limits=(0, 1),
    )
    seed: int = _option(42, "seed of weights, sampling and augmentation", limits=(0, 2**63))
    # prediction
    tta: bool = _option(
        False,
        "test-time augmentation: average predictions over a left-right flip, in validation too",
    )
    component: Component | str = _option(
        "largest",
        "which connected component of a predicted mask is kept: largest (as published), likeliest "
        "(largest sum of log-odds) or all; or a custom post-processing, as module:function",
        get_args(Component),
        pattern=CUSTOM,
    )
    metric: Metric | str = _option(
        "none",
        "a further score of each patient, as module:function: a column of cases.csv",
        get_args(Metric),
        pattern=CUSTOM,
    )
    # machine
    device: str = _option("auto", "auto, cpu, cuda, cuda:1, mps", pattern=DEVICES)
    precision: PrecisionName = _option("auto", "auto, fp32, bf16 or fp16", get_args(PrecisionName))

    def __new__(cls, *values: Any, **fields: Any) -> Config:
        """Raise ``KitError`` for a field that there is not, with the nearest name."""
        known = [spec.name for spec in dataclasses.fields(cls)]
        for name in (name for name in fields if name not in known):
            near = difflib.get_close_matches(name.lower(), known, 1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
            raise KitError(f"Config.{name}: there is no such field; {hint}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            object.__setattr__(self, spec.name, _checked(spec, getattr(self, spec.name)))
        contradiction = self._contradiction()
        if contradiction:
            field, problem = contradiction
            raise KitError(f"Config.{field}: {problem}")

    def _contradiction(self) -> tuple[str, str] | None:
        """Return a field that makes no sense beside the others, and why; None if all do."""
        if self.scale == 1:
            return "scale", "must be below 1"
        if self.ema == 1:
            return "ema", "must be below 1, e.g. 0.999"
        if self.nesterov and (self.optimizer != "SGD" or not self.momentum):
            return "nesterov", "needs optimizer=SGD and a momentum above 0"
        # rounded as by lib.optim.learning_rate
        climb = round(self.warmup if self.warmup >= 1 else self.warmup * self.epochs)
        if self.warmup and max(1, climb) >= self.epochs:
            return "warmup", f"takes all of {self.epochs} epochs; give fewer, or more epochs"
        if self.warmup and self.lr_scheduler == "range":
            return "warmup", "must be 0 with lr_scheduler=range, which climbs by itself"
        nobody = "split all leaves nobody to validate on"
        if self.lr_scheduler == "plateau" and self.split == "all":
            return "lr_scheduler", f"plateau follows the validation loss, and {nobody}"
        if self.patience and self.split == "all":
            return "patience", f"early stopping follows the validation DSC, and {nobody}"
        if self.accumulate > self.batch_size:
            return "accumulate", "must not exceed batch_size"
        if self.image_size % 16 and self.model in MODELS:
            return (
                "image_size",
                f"must be a multiple of 16 for model {self.model}, which halves it four times",
            )
        # a custom network may have either of the following
        if self.deep_supervision and self.model == "unet":
            return "deep_supervision", "is for model unet_2plus or unet_3plus; unet has one output"
        if self.guided and self.model in ("unet", "unet_2plus"):
            return (
                "guided",
                f"is for model unet_3plus; {self.model} has no classification-guided module",
            )
        return None

    @property
    def in_channels(self) -> int:
        """Return the input channels: three sequences of the slice and of each neighbour."""
        return 3 * (1 + 2 * self.neighbours)

    @property
    def custom(self) -> dict[str, str]:
        """Return field name -> ``"module:name"`` of those that name code outside the kit."""
        return {
            spec.name: getattr(self, spec.name)
            for spec in dataclasses.fields(self)
            if spec.metadata["pattern"] is CUSTOM
            and getattr(self, spec.name) not in spec.metadata["choices"]
        }

    @property
    def needed_to_predict(self) -> tuple[str, ...]:
        """Return the custom code without which trained weights cannot be used."""
        return tuple(self.custom[name] for name in PREDICTING if name in self.custom)

    def to_dict(self) -> dict[str, Any]:
        """Return field name -> value; ``Config.from_dict`` returns the same Config."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """Return the Config that another version of the kit may have written.

        A field that it did not know yet has its default. A field that is no longer known is left
        out if it has the value at which it changed nothing.

        Raises:
            KitError: a field that is not known, or a wrong value.
        """
        known = {spec.name for spec in dataclasses.fields(cls)}
        for name in sorted(values.keys() - known):
            if name not in PUBLISHED:
                raise KitError(
                    f"Config.{name}: this version of the kit has no such field; use the version "
                    f"that made this"
                )
            if values[name] != PUBLISHED[name]:
                raise KitError(
                    f"Config.{name}: this version of the kit no longer has this field, and "
                    f"{values[name]!r} is not its default, {PUBLISHED[name]!r}; use the version "
                    f"that made this"
                )
        return cls(**{name: value for name, value in values.items() if name in known})

    def identity(self) -> dict[str, Any]:
        """Return the fields that differ from ``PUBLISHED``: they are part of a run's id."""
        return identity_of(self.to_dict())


def _checked(spec: dataclasses.Field[Any], value: Any) -> Any:
    """Return ``value`` as the type of the field.

    Raises:
        KitError: it is of another type, out of range or not a choice.
    """
    kind: type[Any] = type(spec.default)
    number = isinstance(value, Real) and not isinstance(value, bool)
    limits, choices = spec.metadata["limits"], spec.metadata["choices"]
    if limits and number and not limits[0] <= value <= limits[1]:
        raise KitError(
            f"Config.{spec.name}: {_shown(value)} is out of range, expected {limits[0]:g} to "
            f"{limits[1]:g} ({spec.metadata['help']})"
        )
    if kind is float and number:
        value = float(value)
    if kind is int and isinstance(value, Integral) and not isinstance(value, bool):
        value = int(value)  # of NumPy
    if type(value) is not kind:
        raise KitError(
            f"Config.{spec.name}: expected {kind.__name__}, got {_shown(value)} "
            f"({spec.metadata['help']})"
        )
    pattern = spec.metadata["pattern"]
    if (choices or pattern) and value not in choices and not (pattern and pattern.fullmatch(value)):
        accepted = f"one of {', '.join(choices)}" if choices else spec.metadata["help"]
        raise KitError(f"Config.{spec.name}: {_shown(value)} is not {accepted}")
    return value


def _shown(value: Any) -> str:
    """Return a value in few characters."""
    try:
        return repr(value)[:80]
    except ValueError:  # Python writes no number of more than 4,300 digits
        return f"a huge {type(value).__name__}"


PUBLISHED: dict[str, Any] = {
    "image_size": 256,
    "preprocessing": "reference",
    "split": "auto",
    "neighbours": 0,
    "model": "unet",
    "init_features": 32,
    "activation": "ReLU",
    "normalisation": "batch",
    "initialiser": "default",
    "prior": 0.0,
    "deep_supervision": False,
    "guided": False,
    "checkpointing": False,
    "loss": "DiceLoss",
    "optimizer": "Adam",
    "lr": 1e-4,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 0.0,
    "clip": 0.0,
    "lr_scheduler": "none",
    "warmup": 0,
    "lr_step": 10,
    "lr_factor": 0.1,
    "ema": 0.0,
    "batch_size": 16,
    "accumulate": 1,
    "epochs": 100,
    "patience": 0,
    "sampling": "frozen",
    "background_weight": 0.1,
    "augmentation": "default",
    "scale": 0.05,
    "rotation": 15.0,
    "flip": 0.5,
    "padding": "zero",
    "intensity": 0.0,
    "sequence_dropout": 0.0,
    "seed": 42,
    "tta": False,
    "component": "largest",
    "metric": "none",
    "device": "auto",
    "precision": "auto",
}
"""The values at which a field of ``Config`` is not part of a run's id, of all past fields too.

Never change one: the runs that have it would get other ids. The defaults are repeated here because
they may be edited: a run with another default is another run.
"""


def identity_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that differ from ``PUBLISHED``, of a run of whatever version."""
    return {
        name: value
        for name, value in settings.items()
        if name not in PUBLISHED or value != PUBLISHED[name]
    }


REFERENCE = Config()
"""The published recipe as shipped, its frozen sampling and grey frame included."""

STEPS: dict[str, dict[str, Any]] = {
    "as shipped": {},
    # frozen, 100 epochs see about a third of the training slices
    "fresh sampling": {"sampling": "fresh"},
    ### BEGIN INSTRUCTOR
    # ranges of intensity as in nnU-Net, zoom and rotation a little beyond the published ones
    "stronger augmentation": {
        "padding": "background",
        "scale": 0.1,
        "rotation": 20.0,
        "intensity": 0.15,
    },
    # in ten of 100 patients FLAIR replaces a missing sequence: too few to learn it from
    "sequence dropout": {"sequence_dropout": 0.3},
    # long steps first, short ones at the end; nnU-Net's decay
    "larger steps that shrink": {"lr": 1e-3, "lr_scheduler": "poly"},
    # has the effect of a smaller step, Polyak and Juditsky 1992
    "averaged weights": {"ema": 0.99},
    ### END INSTRUCTOR
}
"""Steps that are trained: name -> fields that differ from the step before."""


def ladder(steps: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return step -> all fields that differ from the first, from fields that each step changes."""
    return dict(zip(steps, accumulate(map(dict, steps.values()), operator.or_), strict=True))


LADDER = ladder(STEPS | {"test-time flips": {"tta": True}})
"""From the published recipe to ``BEST``: step -> fields that differ from ``REFERENCE`` so far."""

BEST = dataclasses.replace(REFERENCE, **list(LADDER.values())[-1])
"""The top of ``LADDER``. ``train_best.ipynb`` measures the effect of each of its steps."""


def require_config(value: object) -> Config:
    """Return a ``Config``; raise ``KitError`` for all else, such as a dict."""
    if isinstance(value, Config):
        return value
    raise KitError(f"config: expected a Config, got {_shown(value)}; use Config(...) or REFERENCE")


def require_fields(**values: Any) -> None:
    """Raise ``KitError`` for a value that a field of that name would not take."""
    for spec in dataclasses.fields(Config):
        if spec.name in values:
            _checked(spec, values[spec.name])


def changes(config: Config) -> str:
    """Return the fields that differ from the published recipe, in words, save split and device."""
    return ", ".join(
        f"{name} {value}"
        for name, value in config.to_dict().items()
        if value != getattr(REFERENCE, name) and name not in ("split", "device")
    )


# --- profiles: how much this device can compute in one sitting ----------------------------------


@dataclass(frozen=True)
class Profile:
    """Name a size of experiment and the reason it was chosen; ``apply`` shrinks a recipe to it."""

    name: str
    reason: str

    def apply(self, config: Config) -> Config:
        """Return ``config`` at this size: networks, images and epochs change, the rest does not."""
        return dataclasses.replace(config, **PROFILES[self.name])


PROFILES: dict[str, dict[str, Any]] = {
    # a few seconds a run: does everything work? Its numbers mean nothing.
    "smoke": {"image_size": 32, "init_features": 2, "epochs": 2, "lr": 1e-3},
    # a laptop, a minute or two a run: a narrow network on small slices; smaller batches and a
    # larger rate make up for few steps
    "quick": {"image_size": 80, "init_features": 8, "batch_size": 8, "epochs": 24, "lr": 1e-3},
    # as published
    "full": {},
}


STUDENT_SEEDS = 2**31  # of 200 students with five seeds in a row, two meet in 1 of 12,000 classes

SEEDS_OF_A_STUDENT = 32  # more than anybody trains a recipe with


def seed_of(student: str) -> int:
    """Return the seed of a student's runs: from the id, so that no two students have the same.

    Whoever trains with a few seeds in a row, from that one on, has nobody else's either. Of a team,
    ``ada+bela``, the order of the ids does not matter.
    """
    ids = sorted(student.replace(" ", "").split("+"))
    return int(sha256("+".join(ids).encode()), 16) % STUDENT_SEEDS


def seeds_of(student: str) -> range:
    """Return the seed of a student's runs, and those after it that are theirs, too."""
    return range(seed_of(student), seed_of(student) + SEEDS_OF_A_STUDENT)


def choose_profile(real_data: bool, device_type: str, asked: str | None = None) -> Profile:
    """Return the profile for this data and device.

    It is ``full`` for real patients on an accelerator, otherwise ``quick``.
    """
    if asked:
        if asked not in PROFILES:
            raise KitError(f"profile {asked!r} is unknown; use one of {', '.join(PROFILES)}")
        small = ": too small to judge" if asked == "smoke" else ""
        return Profile(asked, f"asked for{small}")
    if real_data and device_type != "cpu":
        return Profile("full", "real patients and an accelerator")
    why = "no accelerator" if real_data else "phantom data"
    return Profile("quick", f"{why}; full is for real patients on an accelerator")
