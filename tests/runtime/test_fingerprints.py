"""Which code a run is made of: what changes its fingerprint, and what does not."""

import dataclasses
import importlib.util
import inspect
import os
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lib import train
from lib.config import PUBLISHED, Config
from lib.logger import run_id
from lib.runtime import code_fingerprint
from lib.runtime.fingerprints import _helpers, code_tokens, source_fingerprint
from lib.train import build
from lib.utils import PROJECT, EditedError, KitError, fingerprint
from tests.test_train import TINY

SAMPLE = '''"""A module."""

import os
from pathlib import (
    Path,
)


@decorated(1,  # with a comment
           x=2)
async def method(self, a: int = 1_000, *, b=0xff, **rest) -> "Path":
    """A docstring
    of two lines."""
    async with self as c, \\
            a:
        await c
    match a, b:
        case [1, *_] if a := b:
            return f"{a!r:>{b}} and {f'nested {b + 1:{a}}'} é {{}}"
        case {"x": y} | str():
            yield rf\'\'\'{a:
}\'\'\' "joined" \'\'
    "a lone string"
    return lambda: ("not a docstring",)


class Empty(Base):
    \'\'\'Nothing but this.\'\'\'


é = "ü"; import sys; x: int = 1j if not é else 1.5e-3  # a comment
if x: import os; x @= ~x
'''
FINGERPRINT = """
import importlib, sys
from lib.runtime.fingerprints import source_fingerprint
print(source_fingerprint(importlib.import_module(sys.argv[1])), end="")
"""
KNOWN = "d725bc85ac3cac3aab98129b2d03c2dcb20102d0f6adbb30f67bd002d06c6f0c"


def test_the_fingerprint_of_a_sample_is_the_same_on_every_python():
    assert fingerprint(code_tokens(SAMPLE)) == KNOWN


@pytest.mark.parametrize(
    "same",
    [
        SAMPLE.replace("A module.", "Another\ntext."),
        SAMPLE.replace('"""A module."""\n', "# a comment\n"),
        SAMPLE.replace("import os\n", "", 1),
        SAMPLE.replace("    Path,\n", "    Path, PurePath as P,\n"),
        SAMPLE.replace("A docstring\n    of two lines.", "One line."),
        SAMPLE.replace("# with a comment", ""),
        SAMPLE.replace("Nothing but this.", "Another text."),
        SAMPLE.replace(", \\\n            a:", ", a:"),
        SAMPLE.replace("import sys; ", ""),
        SAMPLE.replace('    "a lone string"\n', ""),
        SAMPLE.replace("\n", "\r\n"),
        SAMPLE.replace("    async with", "\n    # a comment\n    async with"),
        SAMPLE.replace("**rest)", "**rest\n                )"),
        SAMPLE.replace("    ", "        "),
        SAMPLE.rstrip("\n"),
    ],
    ids=range(15),
)
def test_what_changes_no_fingerprint(same):
    assert same != SAMPLE
    assert code_tokens(same.replace("nested        ", "nested ")) == code_tokens(SAMPLE)


@pytest.mark.parametrize(
    "other",
    [
        SAMPLE.replace("1_000", "1_001"),
        SAMPLE.replace("nested", "Nested"),
        SAMPLE.replace("{b + 1", "{b + 2"),
        SAMPLE.replace("é {{}}", "e {{}}"),
        SAMPLE.replace("not a docstring", "no docstring"),
        SAMPLE.replace("return lambda", "yield lambda"),
        SAMPLE.replace("async def", "def"),
        SAMPLE.replace("x: int = 1j", "x: int\n1j"),
        SAMPLE.replace("; x @= ~x", "\nx @= ~x"),
        f"{SAMPLE}a\n(b)\n",
    ],
    ids=range(10),
)
def test_what_changes_a_fingerprint(other):
    assert code_tokens(other) != code_tokens(SAMPLE)
    assert code_tokens("a\n(b)") != code_tokens("a(b)")
    assert code_tokens("if a:\n    b\n    c") != code_tokens("if a:\n    b\nc")


def test_a_class_within_a_function_has_a_fingerprint():
    class Inner:
        """A docstring."""

        x = 1

    assert "A docstring" not in " ".join(code_tokens(inspect.getsource(Inner)))
    assert len(source_fingerprint(Inner)) == 64


def module_of(file: Path, source: bytes) -> types.ModuleType:
    file.write_bytes(source)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    sys.modules[file.stem] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_source_is_the_same_with_windows_line_ends(tmp_path):
    source = b"def f():\n    return 1\n"
    unix, windows, other = (
        module_of(tmp_path / f"{name}_lines.py", text)
        for name, text in (
            ("unix", source),
            ("windows", source.replace(b"\n", b"\r\n")),
            ("other", source.replace(b"1", b"2")),
        )
    )
    assert source_fingerprint(unix) == source_fingerprint(windows)
    assert source_fingerprint(unix) != source_fingerprint(other)


def test_a_file_that_was_edited_after_it_was_loaded_is_refused(tmp_path):
    module = module_of(tmp_path / "edited_later.py", b"x = 1\n")
    source_fingerprint(module)
    (tmp_path / "edited_later.py").write_bytes(b"x = 2\n")
    os.utime(tmp_path / "edited_later.py", ns=(1, 1))
    with pytest.raises(EditedError, match=r"edited_later.py.*restart"):
        source_fingerprint(module)


@pytest.mark.parametrize(
    "first", ["import helper; import lib.runtime", "import lib.runtime, helper"]
)
def test_an_edit_between_import_and_first_fingerprint_is_refused(tmp_path, first):
    """In a notebook: a cell imports, then the student edits, then a cell trains."""
    (tmp_path / "helper.py").write_text("x = 1\n")
    code = f"""{first}
import os
from lib.runtime.fingerprints import source_fingerprint
from lib.utils import EditedError
open("helper.py", "w").write("x = 2\\n")
os.utime("helper.py", ns=(1, 1))
try:
    source_fingerprint(helper)
except EditedError as error:
    print(error)
import importlib
importlib.reload(helper)
print(helper.x, len(source_fingerprint(helper)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )
    assert done.stdout.splitlines() == [
        "helper.py was edited after it was loaded; restart the kernel, or the old code runs",
        "2 64",
    ], done.stderr


def test_the_same_name_from_another_library_is_other_custom_code(tmp_path):
    sources = (
        "from torch.nn import ReLU as Act\n",
        "from torch.nn import GELU as Act\n",
        "from lab.nn import ReLU as Act\n",
    )
    modules = [
        module_of(
            tmp_path / f"library_{i}.py",
            f"try:\n    {source}except ImportError:\n    Act = 1\n".encode(),
        )
        for i, source in enumerate(sources)
    ]
    assert len({source_fingerprint(module) for module in modules}) == 3


def test_a_class_counts_with_what_it_uses_of_its_module(tmp_path):
    source = (
        "import functools\nPOWER, OTHER = 2, 3\nMORE: int = 1\n\n\n"
        "def squared(x):\n    return x**POWER + MORE\n\n\n"
        "def unused(x):\n    return x\n\n\n"
        "class Base:\n    pass\n\n\n"
        "@functools.total_ordering\nclass Loss(Base):\n"
        "    def __lt__(self, x):\n        return squared(x)\n"
    )
    numbers = iter(range(100))

    def of(text: str) -> str:
        return source_fingerprint(
            module_of(tmp_path / f"uses_{next(numbers)}.py", text.encode()).Loss
        )

    for change in (
        ("POWER, OTHER = 2, 3", "POWER, OTHER = 4, 3"),
        ("MORE: int = 1", "MORE: int = 2"),
        ("return x**POWER", "return -(x**POWER)"),
        ("    pass\n", "    x = 1\n"),
        ("@functools.total_ordering\n", ""),
    ):
        assert source.count(change[0]) == 1
        assert of(source.replace(*change)) != of(source), change
    assert of(source.replace("    return x\n", "    return 2 * x\n")) == of(source)


# --- of a run -------------------------------------------------------------------------------------


def test_all_of_the_kits_own_sources_can_be_read():
    for file in sorted((Path(__file__).parent.parent.parent / "lib").rglob("*.py")):
        assert not {"import", "#"} & set(code_tokens(file.read_text(encoding="utf-8"))), file


@pytest.fixture
def id_after(monkeypatch):
    """A function that gives the id of a run of ``config`` after an edit of the kit's sources."""
    data, split = (
        types.SimpleNamespace(fingerprint="data"),
        types.SimpleNamespace(train=("a",), validation=("b",)),
    )
    getsource = inspect.getsource

    def run_id_after(old: str = "", new: str = "", config: Config = TINY) -> str:
        edited = []

        def after(thing: object) -> str:
            source = getsource(thing)
            edited.append(old in source)
            return source.replace(old, new) if old else source

        with monkeypatch.context() as patch:
            patch.setattr(inspect, "getsource", after)
            code = code_fingerprint(config, *build(config), train.SOURCES)
        assert any(edited) or config.loss != "DiceLoss", "there is no such line"
        return run_id(config, data, split, code)

    return run_id_after


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Train one network:", "Teach one network:"),
        ("# the last, incomplete batch", "# an incomplete last batch"),
        ("import torch\n", "import torch\nimport pandas as pd\n"),
        ("\n\n\nclass Training", "\n\n\n\n\nclass Training"),
    ],
)
def test_prose_and_imports_of_train_change_no_run(id_after, old, new):
    assert id_after(old, new) == id_after()


def test_a_default_of_the_loss_in_use_is_another_run(id_after):
    tversky = dataclasses.replace(TINY, loss="TverskyLoss")
    edit = (
        "alpha: float = 0.7, beta: float = 0.3, smooth",
        "alpha: float = 0.8, beta: float = 0.3, smooth",
    )
    assert id_after(*edit, config=tversky) != id_after(config=tversky)
    bce = dataclasses.replace(TINY, loss="BCELoss")
    assert id_after(*edit, config=bce) == id_after(config=bce), "which does not use it"


@pytest.mark.parametrize(
    "module",
    [
        "train",
        "transform",
        "dataset",
        "optim",
        "evaluate",
        "metrics",
        "unet_init_weights",
        "unet",
        "unet_layers",
    ],
)
def test_the_code_of_every_run_counts(id_after, module):
    text = (Path(train.__file__).parent / f"{module}.py").read_text(encoding="utf-8")
    assert id_after(text, f"{text}\nedited = True\n") != id_after()


def test_defaults_that_count_are_those_of_config():
    assert Config().to_dict() == {
        name: value for name, value in PUBLISHED.items() if name in Config().to_dict()
    }
    assert Config().identity() == {}
    assert dataclasses.replace(TINY, loss="IOULoss").identity()["loss"] == "IOULoss"


def test_a_new_field_renames_no_run(id_after):
    @dataclasses.dataclass(frozen=True)
    class Later(Config):
        """Of a later version."""

        colour: str = dataclasses.field(
            default="grey",
            metadata={"help": "", "choices": ("grey", "red"), "limits": None, "pattern": None},
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PUBLISHED, "colour", "grey")
        assert id_after(config=Later(**TINY.to_dict())) == id_after()
        assert id_after(config=Later(**TINY.to_dict() | {"colour": "red"})) != id_after()


def test_an_edited_default_is_another_run(id_after):
    @dataclasses.dataclass(frozen=True)
    class Edited(Config):
        """As a student may change config.py."""

        rotation: float = dataclasses.field(
            default=20.0, metadata=Config.__dataclass_fields__["rotation"].metadata
        )

    changed = Edited(
        **{name: value for name, value in TINY.to_dict().items() if name != "rotation"}
    )
    assert id_after(config=changed) != id_after()


FIRST = {
    "image_size": 128,
    "preprocessing": "reference",
    "split": "all",
    "neighbours": 0,
    "model": "unet",
    "init_features": 16,
    "activation": "ReLU",
    "normalisation": "batch",
    "initialiser": "default",
    "deep_supervision": False,
    "guided": False,
    "checkpointing": False,
    "loss": "DiceLoss",
    "optimizer": "Adam",
    "lr": 0.001,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 0.0,
    "clip": 0.0,
    "lr_scheduler": "poly",
    "warmup": 0,
    "lr_step": 10,
    "lr_factor": 0.1,
    "ema": 0.99,
    "batch_size": 16,
    "accumulate": 1,
    "epochs": 48,
    "sampling": "fresh",
    "background_weight": 0.1,
    "scale": 0.1,
    "rotation": 20.0,
    "flip": 0.5,
    "padding": "background",
    "intensity": 0.15,
    "sequence_dropout": 0.3,
    "seed": 42,
    "tta": True,
    "device": "auto",
    "precision": "auto",
}
"""A config as the first version wrote it, with all of its 39 fields."""


def test_a_config_of_the_first_version_loads():
    config = Config.from_dict(FIRST)
    assert len(FIRST) == 39 and FIRST.keys() <= PUBLISHED.keys()
    assert (
        config.to_dict().items()
        >= {name: FIRST[name] for name in config.to_dict() if name in FIRST}.items()
    )


def test_a_dropped_field_at_its_default_is_ignored_and_any_other_named(monkeypatch):
    monkeypatch.setitem(PUBLISHED, "colour", "grey")
    assert Config.from_dict(FIRST | {"colour": "grey"}) == Config.from_dict(FIRST)
    with pytest.raises(KitError, match=r"Config\.colour: .*'red' is not its default, 'grey'"):
        Config.from_dict(FIRST | {"colour": "red"})
    with pytest.raises(KitError, match=r"Config\.taste: this version of the kit has no such field"):
        Config.from_dict(FIRST | {"taste": "sour"})


def test_threads_read_code_at_once():
    """Python 3.11's parser breaks where threads use it together."""
    source = inspect.getsource(inspect)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(code_tokens, [source] * 8))
    finally:
        sys.setswitchinterval(before)
    assert set(found) == {code_tokens(source)}


def test_what_custom_code_imports_from_beside_it_counts(tmp_path, monkeypatch):
    """In fresh processes: a module keeps the code that it was loaded with."""
    files = {
        "lab/__init__.py": "",
        "lab/nets.py": "import json\nimport numpy\nfrom . import blocks\nfrom lab.sub import *\n"
        "from lib.unet import UNet\nfrom .gone import nothing\n\n\n"
        "class Net(UNet):\n    def late(self):\n        from lab import late\n",
        "lab/blocks.py": "from .sizes import WIDTH\n",
        "lab/sizes.py": "import lab.nets\nWIDTH = 8\n",  # in a circle
        "lab/late.py": "x = 1\n",
        "lab/other.py": "x = 1\n",
        "lab/sub/__init__.py": "from ..blocks import WIDTH\n",
        "lab/sub/other.py": "x = 1\n",
        "lib/unet.py": "x = 1\n",
        "json.py": "x = 1\n",
        "alone.py": "x = 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    net = module_of(tmp_path / "lab" / "nets.py", b"")
    net.__name__, net.__package__ = "lab.nets", "lab"
    (tmp_path / "lab" / "nets.py").write_text(files["lab/nets.py"])
    found = _helpers(net)
    assert {*found} == {
        *("lab.blocks", "lab.sizes", "lab.nets", "lab.late", "lab.sub", "lab", "json", "lib.unet")
    }


def test_an_edit_of_a_helper_is_another_fingerprint(tmp_path):
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "nets.py").write_text("from .blocks import f\n")
    (tmp_path / "alone.py").write_text("import helper\n")
    seen = set()
    for number in (1, 2):
        (tmp_path / "lab" / "blocks.py").write_text(f"def f():\n    return {number}\n")
        (tmp_path / "helper.py").write_text(f"x = {number}\n")
        for name in ("lab.nets", "alone"):
            done = subprocess.run(
                [sys.executable, "-c", FINGERPRINT, name],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                env=os.environ | {"PYTHONPATH": str(PROJECT)},
            )
            seen.add(done.stdout)
            assert len(done.stdout) == 64, done.stderr
    assert len(seen) == 4
