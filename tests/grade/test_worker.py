"""The process that grades: it may hang or die, and the next call finds a new one."""

import os
import sys
import time

import pytest

from lib.grade.worker import Worker, WorkerDied, limited_memory
from lib.utils import KitError


def prepare():
    return work


def work(text):
    if text == "die":
        os._exit(7)
    if text == "hang":
        time.sleep(60)
    return text


def unprepared():
    raise KitError("no data")


def test_what_kills_or_hangs_the_process_costs_one_call():
    with Worker(prepare) as worker:
        with pytest.raises(WorkerDied, match="status 7") as died:
            worker.call("die", 60)
        assert not died.value.timed_out
        assert worker.call("2", 60) == "2"
        with pytest.raises(WorkerDied, match=r"not done after 1 s") as died:
            worker.call("hang", 1)
        assert died.value.timed_out


def test_a_worker_that_cannot_start_says_why():
    with Worker(unprepared) as worker, pytest.raises(KitError, match="no data"):
        worker.call("1", 60)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system keeps no such limit")
def test_memory():
    with limited_memory(2**28), pytest.raises(MemoryError):
        bytearray(2**32)  # more than this process may have kept of what it gave back
    assert len(bytearray(2**30)) == 2**30
