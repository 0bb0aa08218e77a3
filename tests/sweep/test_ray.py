"""A sweep's points on a real Ray cluster of two nodes, with a worker that is killed on the way."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgeprune.errors import DeviceError, TargetError, ToolError
from edgeprune.records.sweep import Point
from edgeprune.runtimes.site import open_site
from edgeprune.sweep.kept import note_user
from edgeprune.sweep.point import Job, Pruned, Result, conditions_of
from edgeprune.sweep.run import run_here
from edgeprune.target import load_target

pytestmark = pytest.mark.slow

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")


def job(name: str, folder: Path, speed_up: float) -> Job:
    target = load_target("cpu").with_overrides(speed_up=speed_up)
    return Job(name, b"weights", target, str(folder), "", 0, False, str(folder), True, 2)


def node() -> str:
    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else "here"


@dataclass(frozen=True)
class PrunedThere(Pruned):
    """Says where the search ran."""

    node: str = ""


class QuickSteps:
    """Stand-ins for search, fine-tuning and measuring."""

    def search(self, job: Job) -> Pruned:
        """The budget of 3 cannot be reached."""
        if job.target.budget.speed_up == 3:
            raise TargetError("the budget is out of reach")
        if job.name == "tool":
            raise ToolError(["trtexec"], 1, "out of memory")
        if job.name == "bug":
            raise ZeroDivisionError("a bug in a step")
        return PrunedThere(b"pruned", 2.0, 1, node=node())

    def finetune(self, job: Job, pruned: Pruned) -> bytes:
        """In the job named ``killed`` its process dies the first time; says where it ran."""
        (Path(job.data) / f"{job.name}.trained").write_text(node())
        tries = Path(job.data) / f"{job.name}.tries"
        with tries.open("a") as file:
            file.write("x")
        if (job.name == "killed" and len(tries.read_text()) == 1) or job.name == "killed for ever":
            os.kill(os.getpid(), signal.SIGKILL)
        return pruned.checkpoint + b" tuned"

    def measure(self, job: Job, swept: bytes, pruned: Pruned, tuned: bytes) -> Result:
        """Says where it and the search ran."""
        assert isinstance(pruned, PrunedThere)
        speed_up = job.target.budget.value
        (Path(job.data) / f"{job.name}.nodes").write_text(json.dumps([pruned.node, node()]))
        return Result(Point(job.name, f"×{speed_up}", 10 / speed_up, speed_up, 0.5), tuned)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes on this machine; only the second has the device."""
    from ray.cluster_utils import Cluster

    running = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    device = running.add_node(num_cpus=2, resources={"device:cpu": 1})
    ray.init(address=running.address, log_to_driver=False)
    yield device
    ray.shutdown()
    running.shutdown()


def test_a_killed_worker_costs_nothing_and_the_device_is_where_it_is(cluster: Any, tmp_path: Path) -> None:
    from edgeprune.sweep.jobs_ray import run_on_ray

    jobs = [job("first", tmp_path, 1.5), job("killed", tmp_path, 2), job("unreachable", tmp_path, 3)]
    results: dict[str, Result] = {}
    run_on_ray(jobs, b"swept", lambda one, result: results.update({one.name: result}), QuickSteps())

    assert set(results) == {"first", "killed", "unreachable"}
    assert (tmp_path / "killed.tries").read_text() == "xx", "its first worker died and a second one did the work"
    assert results["killed"].checkpoint == b"pruned tuned"
    assert results["unreachable"].point.failed == "the budget is out of reach"
    nodes = {name: json.loads((tmp_path / f"{name}.nodes").read_text()) for name in ("first", "killed")}
    assert {place for pair in nodes.values() for place in pair} == {cluster.node_id}
    trained = {(tmp_path / f"{name}.trained").read_text() for name in ("first", "killed")}
    assert trained and cluster.node_id not in trained, "training beside a measurement slows it"


def test_the_same_points_as_one_by_one(cluster: Any, tmp_path: Path) -> None:
    from edgeprune.sweep.jobs_ray import run_on_ray

    jobs = [job("a", tmp_path, 1.5), job("b", tmp_path, 2), job("c", tmp_path, 3)]
    there: dict[str, Any] = {}
    run_on_ray(jobs, b"swept", lambda one, result: there.update({one.name: result}), QuickSteps())
    here: dict[str, Any] = {}
    run_here(jobs, b"swept", lambda one, result: here.update({one.name: result}), QuickSteps())
    assert there == here


def test_what_is_not_used_any_more_is_removed(cluster: Any, tmp_path: Path) -> None:
    from edgeprune.sweep.jobs_ray import remove_used_on_ray

    made, waiting = job("made", tmp_path, 1.5), job("waiting", tmp_path, 2)
    files = [tmp_path / "trained" / f"{one.name}.pt" for one in (made, waiting)]
    for file, one in zip(files, (made, waiting), strict=True):
        note_user(file, one.key)
        file.write_bytes(b"trained")
    remove_used_on_ray(tmp_path, {made.key}, [waiting])
    assert [file.exists() for file in files] == [False, True]


def test_what_ended_a_step_is_told_as_here(cluster: Any, tmp_path: Path) -> None:
    """A program that failed keeps its reason, the fault of a worker is one line, and a bug ends the sweep."""
    from edgeprune.sweep.jobs_ray import run_on_ray

    results: dict[str, Result] = {}
    jobs = [job("tool", tmp_path, 1.5), job("killed for ever", tmp_path, 2)]
    run_on_ray(jobs, b"swept", lambda one, result: results.update({one.name: result}), QuickSteps())
    assert results["tool"].point.failed == "trtexec exited with 1: out of memory"
    assert results["tool"].point.exit_code == ToolError.exit_code
    killed = results["killed for ever"].point.failed or ""
    assert "worker" in killed and "Error()" not in killed and "\x1b" not in killed and "\n" not in killed
    with pytest.raises(ZeroDivisionError, match="a bug in a step") as raised:
        run_on_ray([job("bug", tmp_path, 1.5)], b"swept", lambda one, result: None, QuickSteps())
    assert "in search" in str(raised.value.__cause__), "the traceback of the worker"


@pytest.mark.parametrize("dies", [True, False])
def test_a_node_that_cannot_tell_its_conditions_says_so_in_a_line(
    cluster: Any, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    from edgeprune.sweep import jobs_ray

    def conditions(target: Any) -> dict[str, str]:
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        raise ToolError(["trtexec"], 1, "out of memory")

    monkeypatch.setattr(jobs_ray, "_conditions", conditions)
    with pytest.raises(DeviceError if dies else ToolError) as raised:
        jobs_ray.conditions_on_ray(load_target("cpu"))
    said = str(raised.value)
    assert ("device:cpu: " in said) is dies and "\n" not in said and "\x1b" not in said


def test_what_a_point_depends_on_is_asked_of_the_node_with_the_device(cluster: Any) -> None:
    from edgeprune.sweep.jobs_ray import conditions_on_ray

    with open_site("cpu") as site:
        assert conditions_on_ray(load_target("cpu")) == conditions_of(site), "both are this machine"
    with pytest.raises(DeviceError, match=r"device:jetson-orin.*ray start"):
        conditions_on_ray(load_target("jetson-orin"))


def test_a_cluster_without_the_device_is_refused_with_the_command(cluster: Any, tmp_path: Path) -> None:
    from edgeprune.sweep.jobs_ray import run_on_ray

    other = load_target("jetson-orin")
    strange = Job("x", b"", other, str(tmp_path), "", 0, False, str(tmp_path), True, 0)
    with pytest.raises(DeviceError, match=r"device:jetson-orin.*ray start"):
        run_on_ray([strange], b"", lambda one, result: None, QuickSteps())
