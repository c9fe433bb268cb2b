"""Say how many cores and how much memory this process may use.

A container, a JupyterHub server and a job on a cluster have a share of their host. Linux calls such
a share a control group (cgroup): https://docs.kernel.org/admin-guide/cgroup-v2.html, and
cgroup-v1/memory.html beside it. There is version 1, with a folder for each resource, and version 2.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil
import torch

GROUP_OF_PROCESS = Path("/proc/self/cgroup")
MOUNTED = Path("/sys/fs/cgroup")


def cores() -> int:
    """Return the number of cores that this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    return max(1, min([allowed, *map(int, _shares_of_cores())]))


def free_host_memory() -> int:
    """Return the bytes of host memory that this process may still take, at least 0."""
    return max(0, min([psutil.virtual_memory().available, *_free_in_groups()]))


def limit_threads() -> None:
    """Let torch compute with no more threads than this process may use cores.

    torch counts the cores of the host. Those of a container with 2 of its 64 cores would wait for
    each other most of the time.
    """
    if torch.get_num_threads() > cores():
        torch.set_num_threads(cores())


def _shares_of_cores() -> Iterator[float]:
    """Yield the cores that each control group around this process may keep busy."""
    for group in _groups("cpu"):
        files = ("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")  # version 2, version 1
        for names in files:
            words = [word for name in names for word in _words(group / name)]
            if len(words) == 2 and all(map(str.isdecimal, words)):  # not "max", not -1
                yield int(words[0]) / max(int(words[1]), 1)


def _free_in_groups() -> Iterator[int]:
    """Yield the bytes that each control group around this process may still take.

    The system gives up what it keeps of files that nobody reads, so that counts as free.
    """
    for group in _groups("memory"):
        for limit, used, of_files in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            most, taken = _words(group / limit), _words(group / used)
            if most and taken and most[0].isdecimal():
                table = _words(group / "memory.stat")
                kept = dict(zip(table[::2], table[1::2], strict=False)).get(of_files, "0")
                yield int(most[0]) - int(taken[0]) + int(kept)


def _groups(resource: str) -> Iterator[Path]:
    """Yield the folders of the control groups around this process, the innermost first.

    A container may see its own group as the root, or only the host's name of it: then the folder
    of that name is missing, and the root is the group.
    """
    try:
        lines = GROUP_OF_PROCESS.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        number, resources, path = line.split(":", 2)
        if number == "0":  # version 2
            roots = [MOUNTED, MOUNTED / "unified"]
        elif resource in resources.split(","):
            roots = [MOUNTED / resource]
        else:
            continue
        inner = PurePosixPath(path.lstrip("/"))
        for root in roots:
            yield from (root / group for group in (inner, *inner.parents))


def _words(file: Path) -> list[str]:
    """Return the words of a file, none if it cannot be read."""
    try:
        return file.read_text().split()
    except OSError:
        return []
