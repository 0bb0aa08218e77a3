"""A sweep's points on a real Ray cluster of two nodes, with a worker that is killed on the way."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from edgeprune.errors import DeviceError, TargetError
from edgeprune.sweep.points import Job, Point, run_here
from edgeprune.target import load_target

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'edgeprune[ray]'")


def job(name: str, folder: Path, speed_up: float) -> Job:
    target = load_target("cpu").with_overrides(speed_up=speed_up)
    return Job(name, b"weights", target.model_dump(mode="json"), str(folder), "", 0, False, str(folder), True, 2)


def node() -> str:
    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else "here"


def searched(one: Job) -> dict[str, Any]:
    """Quick stand-in for a search; the budget of 3 cannot be reached."""
    if one.target["budget"]["speed_up"] == 3:
        raise TargetError("the budget is out of reach")
    return {"checkpoint": b"pruned", "macs": 2.0, "probes": 1, "node": node()}


def tuned(one: Job, found: dict[str, Any]) -> bytes:
    """Quick stand-in for fine-tuning; in the job named ``killed`` its process dies the first time."""
    tries = Path(one.data) / f"{one.name}.tries"
    with tries.open("a") as file:
        file.write("x")
    if one.name == "killed" and len(tries.read_text()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return found["checkpoint"] + b" tuned"


def measured(one: Job, swept: bytes, found: dict[str, Any], checkpoint: bytes) -> dict[str, Any]:
    """Quick stand-in for measuring; says where it and the search ran."""
    speed_up = one.target["budget"]["speed_up"]
    (Path(one.data) / f"{one.name}.nodes").write_text(json.dumps([found["node"], node()]))
    return asdict(Point(one.name, f"×{speed_up}", 10 / speed_up, speed_up, 0.5)) | {"checkpoint": checkpoint}


STEPS = (searched, tuned, measured)


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
    results: dict[str, dict[str, Any]] = {}
    run_on_ray(jobs, b"swept", lambda one, result: results.update({one.name: result}), steps=STEPS)

    assert set(results) == {"first", "killed", "unreachable"}
    assert (tmp_path / "killed.tries").read_text() == "xx", "its first worker died and a second one did the work"
    assert results["killed"]["checkpoint"] == b"pruned tuned"
    assert results["unreachable"]["failed"] == "the budget is out of reach"
    nodes = {name: json.loads((tmp_path / f"{name}.nodes").read_text()) for name in ("first", "killed")}
    assert {place for pair in nodes.values() for place in pair} == {cluster.node_id}


def test_the_same_points_as_one_by_one(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeprune.sweep import points
    from edgeprune.sweep.jobs_ray import run_on_ray

    jobs = [job("a", tmp_path, 1.5), job("b", tmp_path, 2), job("c", tmp_path, 3)]
    there: dict[str, Any] = {}
    run_on_ray(jobs, b"swept", lambda one, result: there.update({one.name: result}), steps=STEPS)
    for name, step in zip(("search_step", "finetune_step", "measure_step"), STEPS, strict=True):
        monkeypatch.setattr(points, name, step)
    here: dict[str, Any] = {}
    run_here(jobs, b"swept", lambda one, result: here.update({one.name: result}))
    assert there == here


def test_a_cluster_without_the_device_is_refused_with_the_command(cluster: Any, tmp_path: Path) -> None:
    from edgeprune.sweep.jobs_ray import run_on_ray

    other = load_target("jetson-orin").model_dump(mode="json")
    strange = Job("x", b"", other, str(tmp_path), "", 0, False, str(tmp_path), True, 0)
    with pytest.raises(DeviceError, match=r"device:jetson-orin.*ray start"):
        run_on_ray([strange], b"", lambda one, result: None, steps=STEPS)
