"""What the steps of a sweep get on a cluster, and what is removed there, with a stand-in for Ray in this process."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from edgeprune.errors import OutOfReachError
from edgeprune.records.sweep import Point
from edgeprune.sweep import jobs_ray
from edgeprune.sweep.jobs_ray import NODE_ID, remove_used_on_ray, run_on_ray
from edgeprune.sweep.kept import note_user
from edgeprune.sweep.point import Content, Job, Pruned, Result
from edgeprune.sweep.run import run_here
from edgeprune.target import load_target


@dataclass(frozen=True)
class Stored:
    """A value in the object store, as bytes."""

    content: bytes


class RayHere:
    """Runs a step when it is asked for, on copies of its inputs; keeps what was stored and which options were given."""

    def __init__(self) -> None:
        self.stored: list[int] = []
        self.options: list[dict[str, Any]] = []

    def is_initialized(self) -> bool:
        return True

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": name, "Resources": {"CPU": 2.0, "device:cpu": 1.0}, "Alive": True} for name in ("a", "b")]

    def put(self, value: object) -> Stored:
        stored = Stored(pickle.dumps(value))
        self.stored.append(len(stored.content))
        return stored

    def get(self, stored: Stored) -> Any:
        return pickle.loads(stored.content)  # noqa: S301  of this test

    def wait(self, stored: Sequence[Stored], **_: Any) -> tuple[list[Stored], list[Stored]]:
        return list(stored[:1]), list(stored[1:])

    def remote(self, **_: Any) -> Callable[[Callable[..., Any]], Any]:
        def as_task(step: Callable[..., Any]) -> Any:
            return Task(self, step)

        return as_task


class Task:
    def __init__(self, ray: RayHere, step: Callable[..., Any]) -> None:
        self.ray, self.step = ray, step

    def options(self, **given: Any) -> Task:
        self.ray.options.append(given)
        return self

    def remote(self, *inputs: Any) -> Stored:
        given = [self.ray.get(one) if isinstance(one, Stored) else one for one in inputs]
        return Stored(pickle.dumps(self.step(*given)))


class Named:
    """Steps that hand on what they were given."""

    def search(self, job: Job) -> Pruned:
        if job.name == "out of reach":
            raise OutOfReachError("the budget is out of reach")
        return Pruned(job.weights[:9], 2.0, 1)

    def finetune(self, job: Job, pruned: Pruned) -> bytes:
        return pruned.checkpoint + job.name.encode()

    def measure(self, job: Job, swept: bytes, pruned: Pruned, tuned: bytes) -> Result:
        return Result(Point(f"{job.name} {job.key}", str(len(swept))), tuned)


def jobs(*names: str) -> list[Job]:
    target, weights = load_target("cpu"), Content(os.urandom(1_000_000))
    alike = {"reference": (target, weights), "weights": weights, "cache": "c", "trust": False, "pruned": True}
    return [Job(name, target=target, data="d", digest="d", seed=0, epochs=2, **alike) for name in names]  # type: ignore[arg-type]


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> RayHere:
    here = RayHere()
    monkeypatch.setattr(jobs_ray, "_connected", lambda targets: here)
    monkeypatch.setattr(jobs_ray, "_result_of", here.get)
    monkeypatch.setitem(sys.modules, "ray", here)
    return here


def test_the_weights_that_jobs_share_are_stored_once(ray: RayHere) -> None:
    todo = jobs("one", "two", "out of reach", "four")
    there: dict[str, Result] = {}
    here: dict[str, Result] = {}
    run_on_ray(todo, todo[0].weights, lambda job, result: there.update({job.name: result}), Named())
    run_here(todo, todo[0].weights, lambda job, result: here.update({job.name: result}), Named())
    assert there == here and len(there) == 4
    assert there["out of reach"].final and not there["two"].final
    assert sum(ray.stored) < 1.1 * len(todo[0].weights)


def test_what_is_not_used_any_more_is_removed_on_every_node(ray: RayHere, tmp_path: Path) -> None:
    [made, waiting] = jobs("one", "two")
    waiting = replace(waiting, seed=1)
    files = {job.key: tmp_path / "trained" / f"{job.name}.pt" for job in (made, waiting)}
    for key, file in files.items():
        note_user(file, key)
        file.write_bytes(b"trained")
    remove_used_on_ray(tmp_path, {made.key}, [waiting])
    assert not files[made.key].exists() and files[waiting.key].exists()
    assert ray.options == [{"label_selector": {NODE_ID: f"in({node})"}} for node in ("a", "b")]
    assert sum(ray.stored) < 1.1 * len(waiting.weights)
