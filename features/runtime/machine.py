"""What this machine is: its processor, and what of its memory and cores is this process's to use.

A container or a job of a batch system may use less than the machine has: Linux limits its control group (cgroup), or one
above it. Sources: the kernel's ``Documentation/admin-guide/cgroup-v2.rst`` (``memory.max``, ``cpu.max``) and
``cgroup-v1/memory.rst`` (``memory.limit_in_bytes``), ``Documentation/scheduler/sched-bwc.rst`` (``cpu.cfs_quota_us``), and the
manual pages cgroups(7), sched_setaffinity(2), sysconf(3) and getrusage(2).
"""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ROOT = Path("/")
_core_limit = math.inf


def memory_limit(root: Path = _ROOT) -> float:
    """Return the bytes of memory that this process may use if no other does, so that it is the same on each call.

    Parameters
    ----------
    root : Path
        Of the file system in which cgroups are looked up.

    Returns
    -------
    memory : float
        Physical memory, or the least that a cgroup allows; infinity where the system does not tell, as Windows does not.
    """
    limits = [float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) if hasattr(os, "sysconf") else math.inf]
    for folder in _cgroups("memory", root):
        told = [_read(folder / name) for name in ("memory.max", "memory.limit_in_bytes")]
        limits += [int(each) for each in told if each.isdigit()]  # "max" is no limit
    return min(limits)


def cores(root: Path = _ROOT) -> int:
    """Return how many cores this process may use: by its affinity, its cgroups' quotas and `limit_cores`.

    A quota of one and a half cores counts as two, as joblib counts it.
    """
    limits = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, _core_limit]
    for folder in _cgroups("cpu", root):
        told = _read(folder / "cpu.max") or " ".join(
            map(_read, (folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"))
        )
        quota, _, period = told.partition(" ")
        if quota.isdigit() and period.isdigit():  # neither "max" nor -1, which are no limit
            limits.append(max(1, math.ceil(int(quota) / int(period))))
    return int(min(limits))


def limit_cores(count: int) -> None:
    """Let `cores` return at most so many from now on."""
    global _core_limit
    _core_limit = count


def processor() -> str:
    """Return the processor's model, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else f"{platform.machine()} {platform.processor()}"


def gpu_in_sight(root: Path = _ROOT) -> bool:
    """Return whether there may be a GPU: on Linux, if a driver's device is there and not hidden; elsewhere True.

    Sources: NVIDIA's ``/dev/nvidiactl`` (``/dev/dxg`` in WSL 2, ``/dev/nvmap`` on Jetson), AMD's ``/dev/kfd``; CUDA's programming guide on
    ``CUDA_VISIBLE_DEVICES``, whose list ends at the first index that is no device.
    """
    if not sys.platform.startswith("linux"):
        return True
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() in ("", "-1"):
        return False
    return any((root / "dev" / name).exists() for name in ("nvidiactl", "nvmap", "dxg", "kfd"))


def _cgroups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders of this process's cgroup and of all above it, of both versions, as far as they can be seen.

    A container sees its own cgroup as the topmost one, though ``/proc/self/cgroup`` may name it as the host does.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        below = PurePosixPath(path.lstrip("/"))
        for mount in (controller,) if controllers else ("", "unified"):  # version 1; version 2, alone or beside it
            yield from (root / "sys/fs/cgroup" / mount / each for each in (below, *below.parents))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""  # not there, or not for us to see
