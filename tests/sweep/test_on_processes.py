"""Sweeps in several processes: the same bytes, and none that goes on when the sweep has ended."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from queue import SimpleQueue

import nbformat
import psutil
import pytest

from lib.config import Config
from lib.dataset import load_data
from lib.logger import Run, RunFolder
from lib.notebook.execute import execute
from lib.sweep import Plan, sweep, worker
from lib.sweep.on_processes import MIN_GFLOPS, _how_it_ended, default_workers, pays
from lib.sweep.run import cost_of
from lib.sweep.table import SweepTable
from lib.sweep.task import Task, make_tasks, require_same_code
from lib.utils import PROJECT, EditedError, KitError
from tests.own import MISTAKE
from tests.sweep.test_run import BASE, EPOCHS_LOST, PLAN, Killer, content, count, start_driver

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
TINY = Config(image_size=32, init_features=1, epochs=2, batch_size=8, device="cpu")
OWN_LOSS = """
from torch import nn

class Squares(nn.Module):
    def forward(self, logits, masks):
        return ((logits.sigmoid() - masks) ** 2).mean()
"""


@pytest.fixture
def data(tiny_kaggle):
    return load_data(tiny_kaggle, 32)


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """The file in which each training step leaves a line."""
    for name in ("STEPS", "LIVES"):
        (tmp_path / name.lower()).touch()
        monkeypatch.setenv(f"KIT_{name}", str(tmp_path / name.lower()))
    return tmp_path / "steps"


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """A folder of the user's, with a loss; modules in it can be imported."""
    folder = tmp_path / "of the user"
    folder.mkdir()
    (folder / "squares_of_the_user.py").write_text(OWN_LOSS)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def workers_of(process: int | None = None) -> list[psutil.Process]:
    """The workers that a process has started; by default this one."""
    found = []
    for child in psutil.Process(process).children():
        try:
            if "lib.sweep.worker" in child.cmdline():
                found.append(child)
        except psutil.Error:  # it has just ended
            continue
    return found


def wait_until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# --- the same as in this process ------------------------------------------------------------------


@pytest.mark.slow
def test_the_same_bytes_as_one_after_the_other(data, tmp_path, steps, own_folder, capfd):
    plan = Plan(
        "several",
        "?",
        {
            "Dice": {},
            "own loss": {"loss": "squares_of_the_user:Squares"},
            "raising": {"model": "tests.own:Raising"},
            "slow": {"lr": 1e-5},
        },
    )
    here = sweep(plan, BASE, data, tmp_path / "here", executor="local")
    there = sweep(plan, BASE, data, tmp_path / "there", executor="processes", workers=2)
    assert list(there.runs) == list(here.runs) == ["Dice", "own loss", "slow"]
    assert there.failures == here.failures
    assert list(here.failures) == ["raising"] and MISTAKE in here.failures["raising"]
    assert content(tmp_path / "there") == content(tmp_path / "here")
    assert [run.info["places"] for [run] in there.runs.values()] == [
        run.info["places"] for [run] in here.runs.values()
    ]
    assert "1 threads" in there.runs["Dice"][0].info["device"]
    log = next((tmp_path / "there" / "runs").glob("Raising*/log.txt")).read_text()
    assert "Traceback" in log and "forward" in log
    assert not workers_of()
    assert capfd.readouterr().out.count("Dice, seed 42: finished, epoch 2 of 2") == 2

    trained = count(steps)
    again = sweep(plan, BASE, data, tmp_path / "there", executor="processes", workers=1)
    assert list(again.runs) == list(here.runs)
    assert count(steps) == trained  # loaded, not trained


def test_a_task_is_the_same_after_a_pipe(data, tmp_path):
    for task in make_tasks(replace(PLAN, ladder=True, table="best"), BASE, data, tmp_path):
        same = Task.from_json(json.loads(json.dumps(task.to_json())))
        assert same.folder.path == task.folder.path
        assert replace(same, folder=task.folder) == task


def test_a_worker_answers_its_setup_and_each_run(data, tmp_path, steps, monkeypatch):
    task, *_ = make_tasks(PLAN, BASE, data, tmp_path)
    place = {"root": str(data.root), "image_size": 32, "preprocessing": "reference"}
    monkeypatch.setattr(sys, "path", sys.path[:])
    answers = io.StringIO()
    with pytest.raises(EOFError):
        worker.serve(Messages({"path": sys.path, "data": place}, task.to_json()), answers)
    assert answers.getvalue() == '{"ready": true}\n{}\n' and task.status == "finished"

    lost, answers = {**place, "root": str(tmp_path / "nowhere")}, io.StringIO()
    worker.serve(Messages({"path": sys.path, "data": lost}), answers)
    assert "nowhere" in json.loads(answers.getvalue())["error"]


class Messages:
    """A queue of messages whose writer is gone in the end."""

    def __init__(self, *messages):
        self.messages = list(messages)

    def get(self):
        if not self.messages:
            raise EOFError
        return self.messages.pop(0)


def test_a_worker_ends_with_its_input(monkeypatch):
    ended = []
    monkeypatch.setattr("os._exit", ended.append)
    messages = SimpleQueue()
    worker.receive(io.StringIO('{"run": 1}\n'), messages)
    assert messages.get() == {"run": 1} and ended == [0]
    with pytest.raises(ValueError):  # the parent was killed while it wrote
        worker.receive(io.StringIO('{"run": '), messages)
    assert ended == [0, 0]


def test_what_stops_the_whole_sweep(data, tmp_path, steps, monkeypatch):
    task, *_ = make_tasks(PLAN, BASE, data, tmp_path)
    other = replace(task, folder=RunFolder(tmp_path, f"{task.folder.path.name[:-1]}x"))
    with pytest.raises(EditedError, match=r"were edited after the sweep began, .*; restart"):
        require_same_code(other, data)
    assert "were edited" in worker.train(other.to_json(), data)["edited"]
    task.folder.path.mkdir(parents=True)
    (task.folder.path / "run.json").write_text("{")
    assert "is damaged" in worker.train(task.to_json(), data)["error"]
    assert not list(tmp_path.glob("runs/*/history.csv"))


# --- how many -------------------------------------------------------------------------------------


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr("lib.sweep.on_processes.cores", lambda: 2)


SLICES = 40


def test_processes_where_they_are_faster(two_cores, monkeypatch):
    def missing(plan: Plan, **changes: object) -> list[Config]:
        return list(plan.configs(replace(TINY, **changes)).values())

    long = {"epochs": 50_000}
    one = Plan("one", "?", {"only": {}})
    assert pays(missing(PLAN, **long), SLICES)
    assert pays(missing(PLAN, model="tests.own:Counting"), SLICES)  # how long is not known
    assert not pays(missing(PLAN), SLICES), f"less than {MIN_GFLOPS}"
    assert not pays(missing(one, **long), SLICES)
    assert not pays(missing(PLAN, **long | {"device": "cuda:99"}), SLICES)
    assert not pays([], SLICES)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert not pays(missing(PLAN, **long | {"device": "auto"}), SLICES)
    monkeypatch.setattr("lib.sweep.on_processes.cores", lambda: 1)
    assert not pays(missing(PLAN, **long), SLICES)


def test_a_run_that_a_worker_began_goes_on_in_one(data, tmp_path, two_cores, monkeypatch):
    [task] = make_tasks(Plan("one", "?", {"only": {}}), TINY, data, tmp_path)
    task.folder.update(status="running", device="cpu (of another number of threads)")
    assert not pays([TINY], SLICES) and pays([TINY], SLICES, begun=True)
    asked = []
    monkeypatch.setattr("lib.sweep.run.pays", lambda *args: asked.append(args[2]))
    cost_of([task], data)
    assert asked == [True]


def test_one_worker_a_core_as_far_as_memory_allows(data, tmp_path, two_cores, monkeypatch):
    tasks = make_tasks(PLAN, TINY, data, tmp_path)
    configs = [task.trial.config for task in tasks]
    assert default_workers(configs, SLICES) == 2
    assert default_workers(configs[:1], SLICES) == 1
    assert cost_of(tasks, data, "processes").at_once == 2
    assert cost_of(tasks, data, "processes", workers=3).at_once == 3
    assert cost_of(tasks, data, workers=9).at_once == 3  # no more than runs
    assert cost_of(tasks, data).at_once == 1
    memory = psutil.virtual_memory()._replace(available=700_000_000)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    assert default_workers(configs, SLICES) == 1
    assert not pays([replace(each, epochs=50_000) for each in configs], SLICES)


@POSIX
def test_how_a_worker_ended_in_words():
    assert _how_it_ended(3, "ValueError: odd") == "status 3: ValueError: odd"
    assert _how_it_ended(-9, "") == "signal 9, Killed"


def test_workers_that_cannot_start(data, tmp_path, steps, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no python"))
    with pytest.raises(KitError, match=r'a worker cannot start \(No such.*use executor="local"'):
        sweep(PLAN, BASE, data, tmp_path / "out", executor="processes")


# --- workers that die, and none that survives -----------------------------------------------------


@POSIX
@pytest.mark.long
def test_raising_dying_and_succeeding(data, tmp_path, steps):
    (tmp_path / "lives").write_text("1\n2\n")
    dying = {"model": "tests.own:Dying"}
    plan = Plan("mixed", "?", {"good": {}, "dying": dying, "also good": {"lr": 1e-5}})
    how = {"executor": "processes", "workers": 2}
    done = sweep(plan, BASE, data, tmp_path / "out", **how)
    assert list(done.runs) == ["good", "dying", "also good"]  # it died twice and went on
    assert (tmp_path / "lives").read_text() == ""

    (tmp_path / "lives").write_text("1\n" * 10)
    again = sweep(plan, replace(BASE, seed=1), data, tmp_path / "out", **how)
    assert list(again.runs) == ["good", "also good"]
    assert again.failures["dying"] == (
        "its process died 4 times (signal 9, Killed); if memory is short, use fewer workers"
    )
    assert len((tmp_path / "lives").read_text().splitlines()) == 6


@POSIX
@pytest.mark.long
def test_workers_killed_at_random_moments(data, tmp_path, steps):
    base = replace(BASE, epochs=60)
    assert not sweep(PLAN, base, data, tmp_path / "whole", executor="local").failures
    whole = count(steps)
    steps.write_text("")
    killer = Killer(steps, kills=3, victims=workers_of)
    killer.start()
    how = {"executor": "processes", "workers": 2}
    assert not sweep(PLAN, base, data, tmp_path / "killed", **how).failures
    killer.join()
    assert killer.killed == 3
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert whole <= count(steps) <= whole + 3 * EPOCHS_LOST * (whole // (3 * 60))


@pytest.mark.slow
def test_an_interruption_leaves_no_process_and_the_sweep_goes_on(
    data, tmp_path, steps, monkeypatch
):
    base, how = replace(BASE, epochs=40), {"executor": "processes", "workers": 2}
    seen = []

    def interrupt(table: SweepTable, last: bool = False) -> None:
        if count(steps) > 20:
            seen.extend(workers_of())
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SweepTable, "refresh", interrupt)
        with pytest.raises(KeyboardInterrupt):
            sweep(PLAN, base, data, tmp_path / "out", **how)
    assert seen and not any(process.is_running() for process in seen)
    assert not workers_of()
    before = count(steps)
    time.sleep(0.2)
    assert count(steps) == before
    assert not sweep(PLAN, base, data, tmp_path / "out", **how).failures
    sweep(PLAN, base, data, tmp_path / "whole", executor="local")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def a_sweep_in_training(data, tmp_path, steps):
    """Another process that sweeps, and its workers; they have begun to train."""
    driver = start_driver(data.root, tmp_path / "out", 2000, "processes")
    wait_until(lambda: count(steps) > 20 or driver.poll() is not None)
    workers = workers_of(driver.pid)
    assert workers, driver.communicate()[1]
    return driver, workers


@POSIX
@pytest.mark.slow
def test_workers_end_when_the_sweep_is_killed(data, tmp_path, steps):
    driver, workers = a_sweep_in_training(data, tmp_path, steps)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


@POSIX
@pytest.mark.slow
def test_a_script_without_guard_that_is_interrupted_by_the_terminal(data, tmp_path, steps):
    driver, workers = a_sweep_in_training(data, tmp_path, steps)
    for process in (driver.pid, *(each.pid for each in workers)):  # as Ctrl-C does
        os.kill(process, signal.SIGINT)
    try:
        assert "KeyboardInterrupt" in driver.communicate(timeout=30)[1]
    finally:
        driver.kill()
    assert not psutil.wait_procs(workers, timeout=10)[1]
    assert {Run(path).info["status"] for path in (tmp_path / "out/runs").iterdir()} == {"running"}


@pytest.mark.slow
def test_edited_code_stops_the_sweep(data, tmp_path, steps, own_folder):
    (own_folder / "edited_by_the_user.py").write_text(
        "import os\nfrom lib.unet import UNet\n\n"
        "class Edited(UNet):\n"
        "    def forward(self, images):\n"
        "        if self.training and len(images) > 2:\n"  # not in the trial before it
        "            os.utime(__file__, ns=(1, 1))\n"
        "        return super().forward(images)\n"
    )
    plan = Plan("edited", "?", {"one": {}, "two": {"lr": 1e-5}})
    base = replace(BASE, model="edited_by_the_user:Edited")
    with pytest.raises(EditedError, match=r"edited_by_the_user\.py was edited after it was loaded"):
        sweep(plan, base, data, tmp_path / "out", executor="processes", workers=1)
    assert len(list(tmp_path.glob("out/runs/*/run.json"))) == 1
    assert not workers_of()


@pytest.mark.slow
def test_a_worker_that_cannot_begin(data, tmp_path, steps, monkeypatch):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "__init__.py").write_text("raise ImportError('another lib')")
    monkeypatch.setattr("lib.sweep.on_processes.PROJECT", tmp_path)
    with pytest.raises(KitError, match=r"a worker cannot start \(status 1: .*another lib"):
        sweep(PLAN, BASE, data, tmp_path / "out", executor="processes", workers=1)


# --- scripts, notebooks, the command line ---------------------------------------------------------

SCRIPT = """
import sys
from lib.config import Config
from lib.dataset import load_data
from lib.sweep import Plan, sweep

plan = Plan("script", "?", {"Dice": {}, "own": {"loss": "squares_of_the_user:Squares"}})
base = Config(image_size=32, init_features=1, epochs=1, batch_size=8)
done = sweep(plan, base, load_data(sys.argv[1], 32), "out", executor="processes")
print(list(done.runs), done.failures)
"""


@pytest.mark.slow
def test_a_script_of_the_user_in_another_folder(data, tmp_path, own_folder):
    (own_folder / "script.py").write_text(SCRIPT)
    (tmp_path / "lib").mkdir()  # in the working folder, which is not where scripts look
    done = subprocess.run(
        [sys.executable, str(own_folder / "script.py"), str(data.root)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(PROJECT), "KIT_PROGRESS": "off"},
        capture_output=True,
        text=True,
    )
    assert "['Dice', 'own'] {}" in done.stdout, done.stderr
    assert not done.stderr
    assert len(list(tmp_path.glob("out/runs/*"))) == 2


@pytest.mark.slow
def test_a_notebook(data, tmp_path, own_folder):
    cells = [
        f"import os, sys; sys.path += {[str(PROJECT), str(own_folder)]}",
        f"os.chdir({str(tmp_path)!r})",  # notebooks run in the kit's folder
        f"sys.argv = ['', {str(data.root)!r}]",
        SCRIPT,
    ]
    content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbformat.write(content, tmp_path / "sweep.ipynb")
    execute(tmp_path / "sweep.ipynb", tmp_path / "executed.ipynb")
    outputs = nbformat.read(tmp_path / "executed.ipynb", as_version=4).cells[-1].outputs
    printed = "".join(output["text"] for output in outputs if output.output_type == "stream")
    assert "['Dice', 'own'] {}" in printed
    [table] = [output["data"]["text/plain"] for output in outputs if "data" in output]
    assert table.count("finished") == 2
    assert len(list(tmp_path.glob("out/runs/*"))) == 2


@pytest.mark.slow
def test_command_line(data, tmp_path):
    options = ("--image-size", "32", "--init-features", "1", "--epochs", "1", "--workers", "2")
    place = ("--data", str(data.root), "--out", str(tmp_path / "out"))
    command = [sys.executable, "-m", "lib.sweep", "sampling", *place, *options]
    dry = subprocess.run([*command, "--dry-run"], cwd=PROJECT, capture_output=True, text=True)
    assert "2 at a time" in dry.stdout, dry.stderr
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "cannot tell" in done.stdout
