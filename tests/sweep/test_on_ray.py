"""Sweeps on Ray, for real: a cluster of two workers on this machine, some of which die."""

import sys
import time
from dataclasses import replace

import psutil
import pytest

from lib.dataset import load_data
from lib.logger import Run
from lib.sweep import Plan, sweep
from lib.sweep.on_ray import _take, train_remotely
from lib.sweep.task import make_tasks, note_place
from lib.utils import KitError
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
    assert done.failures == {"raising": "IndexError: a student's mistake"}
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


def test_no_cluster_there(data, tmp_path, cluster, monkeypatch):
    def refuse(**_):  # as Ray does after some minutes
        raise ConnectionError("Failed to connect to Ray cluster")

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(cluster, "init", refuse)
    with pytest.raises(KitError, match=r"no connection to 127\.0\.0\.1:1 .*check RAY_ADDRESS"):
        sweep(PLAN, BASE, data, tmp_path / "out", executor="ray")


def test_asking_for_more_than_there_is(data, tmp_path, cluster):
    with pytest.raises(
        KitError, match="a run asks for 1000 CPU, no machine of the cluster has more than"
    ):
        sweep(PLAN, BASE, data, tmp_path / "out", executor="ray", cpus=1000)
