"""The share of a host that a process may use: containers, JupyterHub, clusters."""

import os
import subprocess
import sys

import psutil
import pytest
import torch

from lib.runtime import limits
from lib.runtime.device import free_memory, prepare
from lib.runtime.limits import cores, free_host_memory

GIB = 2**30
UNLIMITED = 2**63 - 4096  # version 1 has no word for it

CASES = {
    # name -> (lines of /proc/self/cgroup, files, cores, GiB)
    "version 2, a container": (
        "0::/\n",
        {
            "cpu.max": "200000 100000\n",
            "memory.max": f"{8 * GIB}\n",
            "memory.current": f"{3 * GIB}\n",
            "memory.stat": f"anon {GIB}\nfile {2 * GIB}\ninactive_file {GIB}\n",
        },
        2,
        6,
    ),
    "version 2, no limit": (
        "0::/\n",
        {"cpu.max": "max 100000\n", "memory.max": "max\n", "memory.current": "4096\n"},
        64,
        100,
    ),
    "version 2, the limit is further out": (
        "0::/kubepods/pod1/main\n",
        {
            "kubepods/pod1/main/cpu.max": "max 100000\n",
            "kubepods/pod1/cpu.max": "350000 100000\n",
            "kubepods/pod1/memory.max": f"{4 * GIB}\n",
            "kubepods/pod1/memory.current": f"{GIB}\n",
        },
        3,
        3,
    ),
    "version 1, a host's name of the container": (
        "11:cpu,cpuacct:/docker/0a1b\n4:memory:/docker/0a1b\n0::/docker/0a1b\n",
        {
            "cpu/cpu.cfs_quota_us": "150000\n",
            "cpu/cpu.cfs_period_us": "100000\n",
            "memory/memory.limit_in_bytes": f"{2 * GIB}\n",
            "memory/memory.usage_in_bytes": f"{2 * GIB}\n",
            "memory/memory.stat": f"cache 7\ninactive_file 5\ntotal_inactive_file {GIB}\n",
        },
        1,
        1,
    ),
    "version 1, no limit": (
        "3:cpu:/\n4:memory:/\n",
        {
            "cpu/cpu.cfs_quota_us": "-1\n",
            "cpu/cpu.cfs_period_us": "100000\n",
            "memory/memory.limit_in_bytes": f"{UNLIMITED}\n",
            "memory/memory.usage_in_bytes": f"{GIB}\n",
        },
        64,
        100,
    ),
    "half a core, and more taken than allowed": (
        "0::/\n",
        {"cpu.max": "50000 100000\n", "memory.max": "4096\n", "memory.current": "8192\n"},
        1,
        0,
    ),
    "none": ("", {}, 64, 100),
}


@pytest.fixture
def host(tmp_path, monkeypatch):
    """64 cores and 100 GiB that are free; returns how to set the control groups."""
    memory = psutil.virtual_memory()._replace(available=100 * GIB)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    monkeypatch.setattr(limits, "GROUP_OF_PROCESS", tmp_path / "cgroup")
    monkeypatch.setattr(limits, "MOUNTED", tmp_path / "mounted")

    def set_groups(lines, files):
        (tmp_path / "cgroup").write_text(lines)
        for name, text in files.items():
            (tmp_path / "mounted" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "mounted" / name).write_text(text)

    return set_groups


@pytest.mark.parametrize("name", CASES)
def test_the_share_of_a_control_group(host, name):
    lines, files, expected_cores, expected_gib = CASES[name]
    host(lines, files)
    assert cores() == expected_cores
    assert free_host_memory() == expected_gib * GIB
    assert free_memory(torch.device("cpu")) == expected_gib * GIB


def test_other_systems_have_no_control_groups(host):
    assert (cores(), free_host_memory()) == (64, 100 * GIB)


def test_torch_uses_no_more_threads_than_cores(host, monkeypatch):
    set_to = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 32)
    host("0::/\n", {"cpu.max": "max 100000"})
    prepare([], "cpu", "fp32")
    host("0::/\n", {"cpu.max": "200000 100000"})
    prepare([], "cpu", "fp32")
    assert set_to == [2]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux sets it")
def test_the_cores_that_a_cluster_gives():
    first = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{first}])\n"
    code += "from lib.runtime.limits import cores; print(cores())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "1\n"
