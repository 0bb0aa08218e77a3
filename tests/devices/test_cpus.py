"""What other work takes of the CPUs, and what a quota withholds, from files of known content."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from edgeprune.agent import cpus
from edgeprune.agent.cpus import CpuUse, CpuWatch, cpu_quota, cpu_ticks, quota_stopped_s
from edgeprune.agent.facts import device_facts
from edgeprune.devices.local import LocalDevice
from edgeprune.measure.doctor import examine_device
from edgeprune.samples.conditions import WHOLE_CORES


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of the system are below it."""
    monkeypatch.setattr("edgeprune.agent.system.ROOT", str(tmp_path))
    return tmp_path


def write(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


V1, V2 = "sys/fs/cgroup/cpu", "sys/fs/cgroup"
STOPPED_2 = "usage_usec 9\nnr_periods 30\nnr_throttled 12\nthrottled_usec 1500000\n"
STOPPED_1 = "nr_periods 30\nnr_throttled 12\nthrottled_time 1500000000\n"
GROUPS = [
    ({}, None, 0.0),  # macOS
    ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.stat": "usage_usec 9\n"}, None, 0.0),  # no container
    ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "max 100000\n", f"{V2}/cpu.stat": STOPPED_2[:20]}, None, 0.0),
    ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "50000 100000\n", f"{V2}/cpu.stat": STOPPED_2}, 0.5, 1.5),
    (  # a service within a slice that has less
        {
            "proc/self/cgroup": "0::/a.slice/b.service\n",
            f"{V2}/a.slice/b.service/cpu.max": "300000 100000\n",
            f"{V2}/a.slice/b.service/cpu.stat": STOPPED_2,
            f"{V2}/a.slice/cpu.max": "200000 100000\n",
            f"{V2}/a.slice/cpu.stat": STOPPED_2,
        },
        2.0,
        3.0,
    ),
    (  # a container that is shown its place on the host
        {
            "proc/self/cgroup": "5:cpuset:/docker/1\n4:cpu,cpuacct:/docker/1\n0::/docker/1\n",
            f"{V1}/cpu.cfs_quota_us": "150000\n",
            f"{V1}/cpu.cfs_period_us": "100000\n",
            f"{V1}/cpu.stat": STOPPED_1,
        },
        1.5,
        1.5,
    ),
    (
        {"proc/self/cgroup": "1:cpu:/\n", f"{V1}/cpu.cfs_quota_us": "-1\n", f"{V1}/cpu.cfs_period_us": "100000\n"},
        None,
        0.0,
    ),
]


@pytest.mark.parametrize(("files", "quota", "stopped_s"), GROUPS)
def test_a_quota_is_read_of_both_versions_of_control_groups(
    files: Mapping[str, str], quota: float | None, stopped_s: float, root: Path
) -> None:
    write(root, files)
    assert (cpu_quota(), quota_stopped_s()) == (quota, stopped_s)


def test_the_doctor_shows_a_quota_and_the_way_out(root: Path) -> None:
    device = LocalDevice()
    assert not [one for one in examine_device(device) if "quota" in one.subject]
    write(root, GROUPS[3][0])
    assert device_facts().cpu_quota == 0.5
    [found] = [one for one in examine_device(LocalDevice()) if "quota" in one.subject]
    assert found.remedy == WHOLE_CORES and "--cpuset-cpus" in found.remedy
    assert found.state.startswith("0.5 CPUs") and not found.usable and not found.required


def stat(*busy: float) -> str:
    """/proc/stat of CPUs that were busy for so many seconds."""
    tick = os.sysconf("SC_CLK_TCK")
    rows = [f"cpu{number} {round(seconds * tick)} 0 0 900 0 0 0 0 0 0" for number, seconds in enumerate(busy)]
    return "\n".join(["cpu  1 2 3 4 5 6 7 8 9 10", *rows, "intr 4", ""])


@pytest.mark.parametrize(
    ("before", "after", "allowed", "others"),
    [
        (stat(5, 5), stat(5.4, 5.6), {0, 1}, 0.3),  # both were busy for 1 s of 2 s, the process for 0.4 s of that
        (stat(5, 5), stat(5.4, 9), {0}, 0.0),
        (stat(5, 5), stat(5.3, 9), {0}, 0.0),  # ticks are coarse
        (stat(0, 0), stat(0, 0), {0, 1}, None),  # they are not counted there
        (stat(5, 5), stat(5.4, 5.6), {0, 2}, None),
        ("", "", {0}, None),
    ],
)
def test_what_the_process_did_not_use_other_work_did(
    before: str, after: str, allowed: set[int], others: float | None, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = {"monotonic": 100.0, "process_time": 7.0}
    for name in clocks:
        monkeypatch.setattr(cpus.time, name, lambda name=name: clocks[name])
    monkeypatch.setattr(cpus, "allowed_cpus", lambda: allowed)
    write(root, {"proc/stat": before, **GROUPS[3][0]})
    watch = CpuWatch()
    clocks.update(monotonic=102.0, process_time=7.4)
    write(root, {"proc/stat": after, f"{V2}/cpu.stat": STOPPED_2.replace("15", "23")})
    used = watch.use()
    assert used == CpuUse(len(allowed), used.others, 0.5, pytest.approx(0.4))
    assert used.others == (None if others is None else pytest.approx(others))


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system does not tell")
def test_a_busy_process_beside_this_one_is_seen() -> None:
    here = sorted(os.sched_getaffinity(0))
    if cpu_ticks(here) is None or not sum(cpu_ticks(here) or [0]):
        pytest.skip("the system does not tell")
    watch = CpuWatch()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            time.sleep(1.0)
            used = watch.use()  # before it is collected: then its time is this process's
        finally:
            other.kill()
    assert used.others is not None and 0.2 < used.others <= len(here) + 0.1
