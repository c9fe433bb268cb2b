"""Sweeps on Ray, for real: a cluster of two workers on this machine, some of which die.

And one that ``ray start`` began, which ``RAY_ADDRESS`` names.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from lib.dataset import load_data
from lib.logger import Run, all_runs
from lib.sweep import Plan, sweep
from lib.sweep.on_ray import _modules, _take, train_remotely
from lib.sweep.task import make_tasks, note_place
from lib.utils import PROJECT, EditedError, KitError
from tests.own import MISTAKE
from tests.sweep.test_run import BASE, EPOCHS_LOST, PLAN, Killer, content, count

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")]


@pytest.fixture
def data(tiny_kaggle):
    return load_data(tiny_kaggle, 32)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Ray with two workers; what the networks of ``tests.own`` want in their environment."""
    ray = pytest.importorskip("ray")
    for name in ("STEPS", "LIVES"):
        (tmp_path / name.lower()).touch()
        monkeypatch.setenv(f"KIT_{name}", str(tmp_path / name.lower()))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield ray
    ray.shutdown()


@pytest.mark.long
def test_raising_dying_and_succeeding(data, tmp_path, cluster):
    (tmp_path / "lives").write_text("1\n2\n")
    plan = Plan(
        "mixed",
        "?",
        {
            "good": {},
            "raising": {"model": "tests.own:Raising"},
            "dying": {"model": "tests.own:Dying"},
        },
    )
    started = time.perf_counter()
    done = sweep(plan, BASE, data, tmp_path / "out", executor="ray", cpus=0.5)
    print(f"Ray, from nothing to the results of three runs: {time.perf_counter() - started:.0f} s")
    assert list(done.runs) == ["good", "dying"]  # it died twice and was begun again
    assert list(done.failures) == ["raising"] and MISTAKE in done.failures["raising"]
    assert (tmp_path / "lives").read_text() == ""

    (tmp_path / "lives").write_text("1\n" * 10)
    again = sweep(
        plan,
        BASE.__class__(**BASE.to_dict() | {"seed": 1}),
        data,
        tmp_path / "out",
        executor="ray",
        cpus=0.5,
        retries=1,
    )
    assert "good" in again.runs and "dying" in again.failures
    assert len((tmp_path / "lives").read_text().splitlines()) == 8  # begun twice, no more
    assert "died" in again.failures["dying"]


@pytest.mark.long
def test_workers_killed_at_random_moments(data, tmp_path, cluster):
    base = BASE.__class__(**BASE.to_dict() | {"epochs": 60})
    whole = content_of_sweep(base, data, tmp_path / "whole", executor="local")
    steps = count(tmp_path / "steps")
    (tmp_path / "steps").write_text("")
    killer = Killer(tmp_path / "steps", kills=3, victims=workers)
    killer.start()
    killed = content_of_sweep(base, data, tmp_path / "killed", executor="ray", retries=20)
    killer.join()
    assert killer.killed == 3
    assert killed == whole
    assert steps < count(tmp_path / "steps") <= steps + 3 * EPOCHS_LOST * (steps // (3 * 60))


def content_of_sweep(base, data, out, **how):
    done = sweep(PLAN, base, data, out, **how)
    assert not done.failures
    return content(out)


def workers():
    """The processes in which Ray trains."""
    return [child for child in psutil.Process().children(recursive=True) if is_training(child)]


def is_training(process):
    try:
        return "train_remotely" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def test_results_are_brought_home_where_nothing_is_shared(data, tmp_path, cluster, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "another machine"))
    [task, *_] = make_tasks(PLAN, BASE, data, tmp_path / "out")
    files = train_remotely(task, str(data.root), tmp_path / "out", home="that of another folder")
    assert {"run.json", "history.csv", "cases.csv", "best.pt", "last.pt"} <= set(files)
    assert not (task.folder.path / "run.json").exists()
    note_place(replace(task, place=task.place._replace(plan="earlier")), data)
    monkeypatch.setattr(cluster, "get", lambda reference: files)
    _take(cluster, None, task, data)
    run = Run(task.folder.path)
    assert run.info["status"] == "finished" and len(run.cases)
    assert run.info["plans"] == ["earlier", "tiny"]  # what was known at home is kept
    assert not list((tmp_path / "another machine").rglob("*.pt"))


def test_other_data_on_a_machine_of_the_cluster_end_the_sweep(data, tmp_path, cluster, monkeypatch):
    """They would be trained for hours under an id that nobody asked for."""
    [task, *_] = make_tasks(PLAN, BASE, data, tmp_path / "out")
    other = tmp_path / "other"
    shutil.copytree(data.root, other)
    shutil.rmtree(min(path for path in other.iterdir() if path.is_dir()))
    with pytest.raises(EditedError, match="or a machine of the cluster has others") as raised:
        train_remotely(task, str(other), tmp_path / "out", home="that of another folder")

    def get(reference):
        raise cluster.exceptions.RayTaskError("train_remotely", "traceback", raised.value)

    monkeypatch.setattr(cluster, "get", get)
    with pytest.raises(EditedError):
        _take(cluster, None, task, data)
    assert not list(tmp_path.rglob("run.json"))


def test_no_cluster_there(data, tmp_path, cluster, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(KitError, match=r"no connection to 127\.0\.0\.1:1 .*check RAY_ADDRESS"):
        sweep(PLAN, BASE, data, tmp_path / "out", executor="ray")

    def refuse(**_):  # as Ray does after some minutes
        raise ConnectionError("Failed to connect to Ray cluster")

    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(cluster, "init", refuse)
    with pytest.raises(KitError, match=r"no connection to auto \(Failed .*check RAY_ADDRESS"):
        sweep(PLAN, BASE, data, tmp_path / "out", executor="ray")


def test_without_an_address_ray_starts_a_cluster_of_its_own(data, tmp_path, cluster, monkeypatch):
    asked = {}

    def refuse(**options):
        asked.update(options)
        raise ConnectionError

    monkeypatch.setattr(cluster, "init", refuse)
    with pytest.raises(KitError, match="no connection to a cluster of its own"):
        sweep(PLAN, BASE, data, tmp_path / "out", executor="ray")
    assert asked["address"] == "local"  # not what somebody else began here with ray start


def test_asking_for_more_than_there_is(data, tmp_path, cluster):
    with pytest.raises(
        KitError, match="a run asks for 1000 CPU, no machine of the cluster has more than"
    ):
        sweep(PLAN, BASE, data, tmp_path / "out", executor="ray", cpus=1000)


def test_custom_code_goes_along_and_that_of_pip_does_not(data, tmp_path):
    variants = {
        "kit's": {},
        "own": {"model": "tests.own:Counting"},
        "pip's": {"loss": "torch.nn:BCEWithLogitsLoss"},
    }
    tasks = make_tasks(Plan("mixed", "?", variants), BASE, data, tmp_path / "out")
    assert _modules(tasks) == [str(PROJECT / "lib"), str(PROJECT / "tests")]


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """The address of a cluster that wants a token, and the environment that has it.

    Its workers find neither ``lib`` nor the module of ``own_code`` unless these are sent.
    """
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    temporary = Path(tempfile.mkdtemp(prefix="kit-ray"))  # a socket's path has 107 letters at most
    unset = {name for name in os.environ if name.startswith("RAY_")} | {"PYTHONPATH"}
    environment = {name: value for name, value in os.environ.items() if name not in unset} | {
        "HOME": str(tmp_path_factory.mktemp("home")),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
    }
    options = f"--node-ip-address=127.0.0.1 --port={address.rpartition(':')[2]} --num-cpus=1"
    options += f" --object-store-memory=100000000 --include-dashboard=false --temp-dir={temporary}"
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    with open(temporary / "log.txt", "w", encoding="utf-8") as log:
        started = subprocess.Popen(
            [*command, *options.split()], cwd=temporary, env=environment, stdout=log, stderr=log
        )
    processes = [psutil.Process(started.pid)]
    try:
        give_up = time.monotonic() + 120
        while "Ray runtime started" not in (temporary / "log.txt").read_text(encoding="utf-8"):
            assert started.poll() is None and time.monotonic() < give_up, "ray start failed"
            time.sleep(0.5)
        yield address, environment
    finally:
        with suppress(psutil.NoSuchProcess):
            processes += processes[0].children(recursive=True)
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        _, left = psutil.wait_procs(processes, timeout=5)
        for process in left:
            process.kill()
        started.wait()
        shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture
def on_head(head, tiny_kaggle, tmp_path):
    """A function that sweeps on that cluster from a folder outside the kit."""
    address, environment = head
    code = "from torch import nn\n\nclass MyLoss(nn.BCEWithLogitsLoss):\n    pass\n"
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "own_code.py").write_text(code)
    (tmp_path / "elsewhere").mkdir()
    small = "--image-size 32 --init-features 2 --epochs 1 --batch-size 8"

    def run(*options, **changes):
        environ = environment | {
            "RAY_ADDRESS": address,
            "PYTHONPATH": os.pathsep.join([str(PROJECT), str(tmp_path / "code")]),
            "RAY_gcs_server_port_wait_time_s": "2",  # how often Ray asks a head that refuses it
        }
        command = ["-m", "lib.sweep", "loss", "--executor", "ray", "--data", str(tiny_kaggle)]
        return subprocess.run(
            [sys.executable, *command, "--out", str(tmp_path / "out"), *options, *small.split()],
            cwd=tmp_path / "elsewhere",
            env={name: value for name, value in (environ | changes).items() if value},
            capture_output=True,
            text=True,
        )

    return run


def test_a_live_head_gets_the_kit_and_custom_code(on_head, tmp_path):
    done = on_head("--loss", "own_code:MyLoss", "--only", "own_code:MyLoss")
    assert (done.returncode, done.stderr) == (0, "")
    losses = {run.config.loss for run in all_runs(tmp_path / "out")}
    assert losses == {"DiceLoss", "own_code:MyLoss"}


@pytest.mark.parametrize(
    "changes",
    [
        {"RAY_AUTH_MODE": ""},  # not asked for: none is sent
        {"RAY_AUTH_TOKEN": ""},  # asked for, and there is none
        {"RAY_AUTH_TOKEN": "fedcba9876543210" * 4},
    ],
)
def test_a_live_head_that_refuses_a_token_is_one_line(on_head, changes):
    exceptions = pytest.importorskip("ray").exceptions
    if not hasattr(exceptions, "AuthenticationError"):
        pytest.skip("Ray has tokens since 2.52")
    done = on_head("--only", "IoU", **changes)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "set RAY_AUTH_MODE=token" in done.stderr
