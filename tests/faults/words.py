"""H. Words and small things: what is asked wrongly is answered in one line that helps."""

from __future__ import annotations

import dataclasses
import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lib.config import REFERENCE, Config
from lib.data import cache_folder
from lib.dataset import load_data, make_split
from lib.logger import Run, find_run
from lib.networks import build
from lib.phantom import write_phantom
from lib.predict import load_weights, predict
from lib.report import write_report
from lib.runtime import load_class, pick_device
from lib.runtime.cli import run_command
from lib.stats import compare_to_baseline
from lib.sweep import Plan, cross_validate, sweep
from lib.sweep.crossval import ensemble
from lib.train import fit
from lib.utils import build_folder, progress
from lib.viewer import browse
from tests.faults.things import NAMES, TINY, data_in, patients, runs_in, trained
from tests.faults.tries import Try, kind

FIELDS = [spec.name for spec in dataclasses.fields(Config)]


@kind("H", 120)
def a_field_is_misspelt(t: Try) -> None:
    """The nearest field is named."""
    name = t.pick(FIELDS)
    place = t.number(0, len(name))
    way = t.pick(("plural", "doubled", "swapped", "capital", "missing"))
    wrong = {
        "plural": name[:-1] if name.endswith("s") else f"{name}s",
        "doubled": name[:place] + name[place] + name[place:],
        "swapped": name[1] + name[0] + name[2:],
        "capital": name.capitalize(),
        "missing": name[: max(1, place)] + name[max(1, place) + 1 :],
    }[way]
    if wrong in FIELDS or len(name) < 4:
        return
    call = t.pick(
        (
            lambda: Config(**{wrong: 1}),
            lambda: dataclasses.replace(REFERENCE, **{wrong: 1}),
            lambda: Plan("mine", "?", {"a": {}, "b": {wrong: 1}}).configs(REFERENCE),
        )
    )
    t.refuse(call, wrong, *([name] if len(name) > 5 else ["did you mean"]))


CALLS: dict[str, Callable[[Any, Any, Path, Path], Any]] = {
    "fit with a path": lambda data, run, out, root: fit(TINY, str(root), out),
    "fit with a Path": lambda data, run, out, root: fit(TINY, root, out),
    "fit with nothing": lambda data, run, out, root: fit(TINY, None, out),
    "fit with a name as config": lambda data, run, out, root: fit("best", data, out),
    "fit with a dict as config": lambda data, run, out, root: fit({"lr": 1}, data, out),
    "fit without a plan": lambda data, run, out, root: fit(TINY, data, out, plan=None),
    "fit on another size": lambda data, run, out, root: fit(REFERENCE, data, out),
    "fit in an unknown table": lambda data, run, out, root: fit(TINY, data, out, table="tain"),
    "sweep with one seed": lambda data, run, out, root: sweep("loss", TINY, data, out, seeds=42),
    "sweep with seeds as text": lambda d, r, out, root: sweep("loss", TINY, d, out, seeds="42"),
    "sweep with odd seeds": lambda d, r, out, root: sweep("loss", TINY, d, out, seeds=[1.5]),
    "sweep of an unknown plan": lambda data, run, out, root: sweep("losses", TINY, data, out),
    "sweep with a path": lambda data, run, out, root: sweep("loss", TINY, root, out),
    "sweep without a recipe": lambda data, run, out, root: sweep("loss", None, data, out),
    "sweep of a number": lambda data, run, out, root: sweep(7, TINY, data, out),
    "sweep elsewhere": lambda d, r, out, root: sweep("loss", TINY, d, out, executor="cloud"),
    "folds of an unknown plan": lambda d, r, out, root: cross_validate("los", TINY, d, out),
    "folds with a path": lambda data, run, out, root: cross_validate("loss", TINY, root, out),
    "folds: one": lambda data, run, out, root: cross_validate("loss", TINY, data, out, k=1),
    "folds: too many": lambda data, run, out, root: cross_validate("loss", TINY, data, out, k=99),
    "folds in words": lambda data, run, out, root: cross_validate("loss", TINY, data, out, k="5"),
    "predict by a run": lambda data, run, out, root: predict(run, data),
    "predict by nothing": lambda data, run, out, root: predict(None, data),
    "predict by a network": lambda data, run, out, root: predict(build(TINY)[0], data),
    "predict a stranger": lambda d, r, out, root: predict(r.weights, d, patients=["nobody"]),
    "predict one, not a list": lambda d, r, out, root: predict(r.weights, d, patients=NAMES[0]),
    "predict none at once": lambda d, r, out, root: predict(r.weights, d, batch_size=0),
    "predict half at once": lambda d, r, out, root: predict(r.weights, d, batch_size=0.5),
    "predict on no device": lambda d, r, out, root: predict(r.weights, d, device="gpu"),
    "predict in no precision": lambda d, r, out, root: predict(r.weights, d, precision="fp8"),
    "predict a number": lambda data, run, out, root: predict(run.weights, 7),
    "browse a run": lambda data, run, out, root: browse(run),
    "browse a path": lambda data, run, out, root: browse(str(root)),
    "browse runs": lambda data, run, out, root: browse([run, run]),
    "browse nothing": lambda data, run, out, root: browse([]),
    "browse None": lambda data, run, out, root: browse(None),
    "vote of nobody": lambda data, run, out, root: ensemble([], data),
    "vote of a path": lambda data, run, out, root: ensemble([str(run.weights)], data),
    "compare nothing": lambda data, run, out, root: compare_to_baseline({}),
    "load a number": lambda data, run, out, root: load_data(7),
    "load nothing": lambda data, run, out, root: load_data(""),
    "load another size": lambda data, run, out, root: load_data(root, 33.5),
    "load no size": lambda data, run, out, root: load_data(root, 0),
    "load otherwise": lambda data, run, out, root: load_data(root, 32, "z-score"),
    "split otherwise": lambda data, run, out, root: make_split(data, "random"),
    "split by a number": lambda data, run, out, root: make_split(data, 5),
    "weights of a folder": lambda data, run, out, root: load_weights(run.folder),
    "weights of a number": lambda data, run, out, root: load_weights(7),
    "report of nothing": lambda data, run, out, root: write_report(out),
    "run that is not there": lambda data, run, out, root: find_run(out, run_id="unet8"),
    "phantom in words": lambda data, run, out, root: write_phantom(out / "p", patients="two"),
    "phantom of size 1": lambda data, run, out, root: write_phantom(out / "p", size=1),
    "class without a module": lambda data, run, out, root: load_class("Mine"),
    "class of no module": lambda data, run, out, root: load_class("nowhere:Mine"),
    "class that is none": lambda data, run, out, root: load_class("math:pi"),
    "device 99": lambda data, run, out, root: pick_device("cuda:99"),
}


@kind("H", 4 * len(CALLS))
def a_call_with_what_it_does_not_take(t: Try) -> None:
    """What a notebook may call wrongly gives one line, not an error of Python."""
    name = list(CALLS)[t.index % len(CALLS)]
    folder = t.shared(trained)
    out = t.folder / "out"
    try:
        t.refuse(
            lambda: CALLS[name](data_in(folder), Run(runs_in(folder)[0]), out, folder / "data")
        )
    except Exception as error:
        raise type(error)(f"{name}: {error}") from error
    t.must(not list(t.folder.glob("out/runs/*/last.pt")), f"{name}: something was trained")


@kind("H", 60)
def letters_that_a_pipe_lacks(t: Try) -> None:
    """A path in Chinese on a terminal of Windows is printed somehow, and nothing is lost."""
    encoding = t.pick(("cp1252", "ascii", "latin-1", "cp437"))
    root = t.folder / t.pick(("脑肿瘤", "Gehirn-Ärger-Ω", "мозг", "données 🧠"))
    patients(root)
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
    before = sys.stdout
    sys.stdout = stream

    def main() -> None:
        print(load_data(root, 32).report())
        print(root)

    try:
        run_command(main)
    finally:
        sys.stdout = before
    stream.flush()
    lines = raw.getvalue().decode(encoding).splitlines()
    t.must("6 patients" in lines[0], "nothing was printed")
    shown = str(root).encode(encoding, errors="backslashreplace").decode(encoding)
    t.must(lines[-1] == shown, f"printed {lines[-1]}")


@kind("H", 40)
def no_home(t: Try) -> None:
    """A container without HOME, and a user without a name."""
    before = os.environ.pop("HOME", None)
    expand, t_path = os.path.expanduser, t.folder / "built"
    os.path.expanduser = lambda path: path  # type: ignore[assignment]
    try:
        t.right(lambda: build_folder(t_path, t_path.is_dir, lambda part: None))
        t.must(t_path.is_dir(), "not built")
        root = t.folder / "kaggle_3m"
        patients(root)
        t.right(lambda: load_data(root, 32))
        t.must(cache_folder().is_dir(), "no cache")
    finally:
        os.path.expanduser = expand  # type: ignore[assignment]
        if before is not None:
            os.environ["HOME"] = before


@kind("H", 40)
def no_lock_is_left(t: Try) -> None:
    import tempfile

    place = Path(tempfile.gettempdir())
    target = t.folder / "built"
    t.right(lambda: build_folder(target, target.is_dir, lambda part: None))
    t.must(not list(place.glob("*.lock")), "a lock is left in the temporary folder")


MODULES = {
    "imported": "import sys\nsys.exit(3)\n",
    "imported quietly": "import sys\nsys.exit()\n",
    "no python": "def (\n",
    "raises": "raise RuntimeError('mine')\n",
    "built": (
        "import sys\nfrom torch import nn\nclass Net(nn.Module):\n"
        "    def __init__(self, in_channels=3):\n        super().__init__()\n        sys.exit(1)\n"
    ),
    "used": (
        "import sys\nfrom torch import nn\nclass Net(nn.Module):\n"
        "    def __init__(self, in_channels=3):\n        super().__init__()\n"
        "        self.c = nn.Conv2d(in_channels, 1, 1)\n"
        "    def forward(self, x):\n        sys.exit(1)\n"
    ),
    "wrong shape": (
        "from torch import nn\nclass Net(nn.Module):\n"
        "    def __init__(self, in_channels=3):\n        super().__init__()\n"
        "        self.c = nn.Conv2d(in_channels, 2, 3)\n"
        "    def forward(self, x):\n        return self.c(x)\n"
    ),
    "no tensor": (
        "from torch import nn\nclass Net(nn.Module):\n"
        "    def __init__(self, in_channels=3):\n        super().__init__()\n"
        "        self.c = nn.Conv2d(in_channels, 1, 1)\n"
        "    def forward(self, x):\n        return None\n"
    ),
}


@kind("H", 80)
def a_network_of_ones_own_misbehaves(t: Try) -> None:
    """It is recorded as a failure of that variant; the reference is trained."""
    way = t.pick(list(MODULES))
    module = f"own_{os.getpid()}_{t.index}"
    (t.folder / f"{module}.py").write_text(MODULES[way])
    sys.path.insert(0, str(t.folder))
    try:
        base = dataclasses.replace(TINY, epochs=1)
        plan = Plan("own", "?", {"unet": {}, "mine": {"model": f"{module}:Net"}})
        done = t.right(lambda: sweep(plan, base, data_in(t.shared(trained)), t.folder / "out"))
        t.must(list(done.runs) == ["unet"], f"trained: {list(done.runs)}")
        why = done.failures["mine"]
        t.must(why and "\n" not in why and len(why) < 400, f"no reason: {why!r}")
    finally:
        sys.path.remove(str(t.folder))
        sys.modules.pop(module, None)


@kind("H", 40)
def a_pipe_among_the_slices(t: Try) -> None:
    """A FIFO, a socket or a folder in the place of a slice is not waited for."""
    root = t.folder / "kaggle_3m"
    patients(root)
    name = t.pick(NAMES)
    file = root / name / f"{name}_{t.number(1, 7)}{t.pick(('', '_mask'))}.tif"
    file.unlink()
    if t.chance(0.6):
        os.mkfifo(file)
    else:
        file.mkdir()
    started = time.monotonic()
    t.refuse(lambda: load_data(root, 32), file.name)
    t.must(time.monotonic() - started < 30, "it waited")


@kind("H", 40)
def no_bar_was_wanted(t: Try) -> None:
    """KIT_PROGRESS=off silences every bar, whoever asks for one."""
    words = io.StringIO()
    with progress(total=3, desc="x", file=words, disable=t.pick((False, None, True))) as bar:
        bar.update(3)
    t.must(not words.getvalue(), f"a bar: {words.getvalue()!r}")


@kind("H", 60)
def weights_as_other_programs_save_them(t: Try) -> None:
    """Prefixes of wrappers, in a dict or bare: the same network."""
    content = torch.load(runs_in(t.shared(trained))[0] / "best.pt", weights_only=True)

    weights = content["weights"]
    prefix = t.pick(("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", ""))
    content["weights"] = {f"{prefix}{name}": value for name, value in weights.items()}
    file = t.folder / "best.pt"
    torch.save(content, file)
    network = t.right(lambda: load_weights(file)).network.state_dict()
    t.must(all(torch.equal(network[name], weights[name]) for name in weights), "other weights")


@kind("H", 60)
def words_on_the_command_line(t: Try) -> None:
    """A file or option that is not there is answered with exit code 2 and what to do."""
    folder = t.shared(trained)
    weights = runs_in(folder)[0] / "best.pt"
    nowhere = t.folder / "nowhere"
    module, *arguments = t.pick(
        (
            ("lib.train", "--data", nowhere, "--out", t.folder / "out"),
            ("lib.predict", "--data", nowhere, "--out", t.folder / "out"),
            ("lib.predict", "--weights", nowhere, "--data", folder / "data", "--out", t.folder),
            ("lib.predict", "--weights", weights, "--data", weights, "--out", t.folder / "out"),
            ("lib.report", "--out", nowhere),
            ("lib.sweep", "los", "--data", folder / "data", "--out", t.folder / "out"),
            ("lib.sweep", "loss", "--data", nowhere, "--out", t.folder / "out"),
            ("lib.grade", nowhere, "--data", folder / "data", "--out", t.folder / "out"),
            ("lib.grade", "pack", "--student", "ada", "--out", nowhere),
            ("lib.grade", "pack", "--student", "../ada", "--out", folder / "out"),
            ("lib.phantom", weights),
            ("lib.notebook", nowhere),
        )
    )
    answer = t.command(module, *arguments)
    t.must(answer.code == 2, f"exit code {answer.code}: {answer.out[-200:]}")
