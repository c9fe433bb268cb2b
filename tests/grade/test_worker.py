"""The process that grades: it may hang or die, and the next call finds a new one."""

import json
import os
import subprocess
import sys
import time

import pytest

from lib.grade import worker
from lib.grade.trouble import GraderError
from lib.grade.worker import Worker, WorkerDied, limited_memory
from lib.utils import PROJECT, KitError


def prepare():
    return work


def work(text):
    if text == "die":
        os._exit(7)
    if text == "hang":
        time.sleep(60)
    return text


class Odd:
    """What a child sends that a submission has taken over."""


def odd_answers(pipe, _, arguments):
    pipe.send_bytes(b'{"value": null}')
    while True:
        answer = json.loads(pipe.recv_bytes())
        if answer == "stall":
            os.write(pipe.fileno(), b"\0\0\1\0half")
            time.sleep(60)
        elif answer == "pickle":
            pipe.send(Odd())
        elif answer == "long":
            pipe.send_bytes(b"x" * 2000)
        else:
            pipe.send_bytes(answer.encode())


def troubled():
    return raise_trouble


def raise_trouble(text):
    if text:
        raise GraderError(text)
    return {"a": [1, 0.1, None, "é"]}


def unprepared():
    raise KitError("no data")


def test_what_kills_or_hangs_the_process_costs_one_call():
    with Worker(prepare) as child:
        with pytest.raises(WorkerDied, match="status 7") as died:
            child.call("die", 60)
        assert not died.value.timed_out
        assert child.call("2", 60) == "2"
        with pytest.raises(WorkerDied, match=r"not done after 1 s") as died:
            child.call("hang", 1)
        assert died.value.timed_out


def test_a_worker_that_cannot_start_says_why():
    with Worker(unprepared) as child, pytest.raises(GraderError, match="no data"):
        child.call("1", 60)


@pytest.mark.skipif(sys.platform == "win32", reason="the half answer is written to a socket")
@pytest.mark.parametrize("answer", ["pickle", "long", "stall"])
def test_an_answer_that_is_none_is_a_death(monkeypatch, answer):
    monkeypatch.setattr(worker, "_serve", odd_answers)
    monkeypatch.setattr(worker, "MAX_ANSWER", 1000)
    with Worker(prepare) as child, pytest.raises(WorkerDied) as died:
        child.call(answer, 2 if answer == "stall" else 60)
    assert died.value.timed_out == (answer == "stall")


@pytest.mark.parametrize("answer", ["", "[1]", "{}", '{"value": 1, "trouble": ""}', "[" * 10**5])
def test_what_is_no_answer(answer):
    with pytest.raises((ValueError, RecursionError)):
        worker._decoded(answer.encode())


def test_trouble_of_the_computer_comes_out_as_such_and_the_child_lives_on():
    with Worker(troubled) as child:
        with pytest.raises(GraderError, match="disk full"):
            child.call("disk full", 60)
        first = child._child
        assert child.call("", 60) == {"a": [1, 0.1, None, "é"]}
        assert child._child is first


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system keeps no such limit")
def test_memory():
    with limited_memory(2**28), pytest.raises(MemoryError):
        bytearray(2**32)  # more than this process may have kept of what it gave back
    assert len(bytearray(2**30)) == 2**30


UNDER_A_HARD_LIMIT = """
import resource, psutil
from lib.grade.worker import limited_memory
hard = psutil.Process().memory_info().vms + 2**29
resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
with limited_memory(2**40):
    assert resource.getrlimit(resource.RLIMIT_AS) == (hard, hard)
with limited_memory(2**28):
    assert resource.getrlimit(resource.RLIMIT_AS)[0] < hard
assert resource.getrlimit(resource.RLIMIT_AS) == (hard, hard)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system keeps no such limit")
def test_a_hard_limit_of_the_system_stays():
    subprocess.run([sys.executable, "-c", UNDER_A_HARD_LIMIT], cwd=PROJECT, check=True)
