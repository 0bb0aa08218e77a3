"""Processor time on the CPUs that this process may use: what other work takes of it, and what a quota withholds.

A quota belongs to a control group (Docker's ``--cpus``, systemd's ``CPUQuota``): once its processes have used their
time of a period, 0.1 s mostly, all of them stand still until the next one begins.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import Collection, Sequence

from edgeprune.agent.system import allowed_cpus, system_path, text_of

IDLE, WAITING = 3, 4  # columns of /proc/stat: nothing to do, and waiting for a disk
COUNTED = 8  # of its columns; what guests took, behind them, is in the first two as well
FEWEST_TICKS = 4  # of each CPU, of a time in which others are looked for: one may be counted too many or too few
HALF = 0.5  # of its own time, at least, a process finds counted; a /proc/stat that has less counts nothing (gVisor)


@dataclass(frozen=True)
class CpuUse:
    """What a process had of its CPUs over a time.

    Attributes:
        cpus: how many it may use; 0 where nobody looked.
        others: processor time that other work took of them, over the time: 1 is that of one CPU. None where the system
            does not tell (macOS, some containers), and of a time that is too short for its clock.
        quota: how much it is granted by a quota, in the same unit; None without one.
        stopped: share of the time, at most, for which that quota stopped it.
    """

    cpus: int = 0
    others: float | None = None
    quota: float | None = None
    stopped: float = 0.0


class CpuWatch:
    """Looks at the CPUs that this process may use, from its making on."""

    def __init__(self) -> None:
        self.allowed = allowed_cpus()
        self.began_at, self.busy_s, self.own_s, self.stopped_s = _now(self.allowed)

    def use(self) -> CpuUse:
        """What this process had of them until now."""
        ended_at, busy_s, own_s, stopped_s = _now(self.allowed)
        seconds, own_s = max(ended_at - self.began_at, 1e-9), own_s - self.own_s
        others, least_s = None, FEWEST_TICKS * len(self.allowed) / _ticks_per_s()
        if busy_s is not None and self.busy_s is not None and seconds >= least_s:
            busy_s -= self.busy_s
            others = max(0.0, busy_s - own_s) / seconds if busy_s >= HALF * own_s else None
        stopped = min(max(stopped_s - self.stopped_s, 0.0) / seconds, 1.0)
        return CpuUse(len(self.allowed), others, cpu_quota(), stopped)


def _now(cpus: Collection[int]) -> tuple[float, float | None, float, float]:
    """The time; seconds since boot for which these CPUs were busy, by whomever; for which this process and those that
    it started and collected were; and for which a quota stopped it."""
    found, spent = cpu_ticks(cpus), os.times()
    busy = None if found is None else sum(found) - found[IDLE] - found[WAITING]
    busy_s = None if busy is None else busy / _ticks_per_s()
    own_s = time.process_time() + spent.children_user + spent.children_system
    return time.monotonic(), busy_s, own_s, quota_stopped_s()


def _ticks_per_s() -> int:
    return os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def cpu_ticks(cpus: Collection[int]) -> list[int] | None:
    """Time of these CPUs together since boot, by what they did, in ticks of the clock; None where the system does not
    tell of all of them."""
    total, seen = [0] * COUNTED, 0
    for line in text_of(system_path("/proc/stat")).splitlines():
        name, *columns = line.split() or [""]
        number = name[len("cpu") :]
        if not name.startswith("cpu") or not number.isdecimal() or int(number) not in cpus or len(columns) < COUNTED:
            continue
        total = [had + int(column) for had, column in zip(total, columns)]
        seen += 1
    return total if seen == len(cpus) else None


def cpu_quota() -> float | None:
    """How much processor time this process and its control groups are granted at most, 1 is that of one CPU; None
    without a quota."""
    quotas = [quota for quota in map(_quota_of, control_groups()) if quota is not None]
    return min(quotas, default=None)


def quota_stopped_s() -> float:
    """Seconds for which quotas stopped the control groups of this process so far; of several CPUs that stood still at
    once each counts."""
    stopped = 0.0
    for folder in control_groups():
        for line in text_of(os.path.join(folder, "cpu.stat")).splitlines():
            name, _, value = line.partition(" ")
            with contextlib.suppress(ValueError, KeyError):
                stopped += int(value) / {"throttled_usec": 1e6, "throttled_time": 1e9}[name]
    return stopped


def control_groups() -> Sequence[str]:
    """Folders of the control groups that this process is in and that may have a quota, of both versions of cgroups.

    A container may be shown its place on the host, of which it has the last part alone, as if it were the first.
    """
    folders: list[str] = []
    for line in text_of(system_path("/proc/self/cgroup")).splitlines():
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = [f"/sys/fs/cgroup/{controllers}", "/sys/fs/cgroup/cpu"] if controllers else ["/sys/fs/cgroup"]
        mount = next((found for found in map(system_path, mounts) if os.path.isdir(found)), "")
        parts = [part for part in path.split("/") if part and part != ".."]
        folders += [os.path.join(mount, *parts[:depth]) for depth in range(len(parts), -1, -1) if mount]
    return folders


def _quota_of(folder: str) -> float | None:
    """``50000 100000`` of version 2, and the two files of version 1: microseconds out of how many; ``max``, or -1, is
    no quota."""
    granted, _, period = text_of(os.path.join(folder, "cpu.max")).partition(" ")
    if not granted:
        granted, period = (text_of(os.path.join(folder, f"cpu.cfs_{name}_us")) for name in ("quota", "period"))
    return int(granted) / int(period) if granted.isdecimal() and period.isdecimal() and int(period) else None
