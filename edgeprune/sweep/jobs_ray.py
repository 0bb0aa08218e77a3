"""Points of a sweep on a Ray cluster: probes on the node that has the device, fine-tuning where a GPU is.

A node offers its device as a custom resource: ``ray start --address=HEAD:6379 --resources='{"device:cpu": 1}'`` for the
profile ``cpu``. One step at a time holds it, so that two measurements never share a device. Training beside a
measurement would slow it: fine-tuning goes to nodes that have no device (of those with a GPU, where any has one), and
where there are none it holds the devices of its node. A step whose worker dies runs again, on another node if need be.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.errors import DeviceError, EdgepruneError, first_line
from edgeprune.progress import Reporter, Silent
from edgeprune.sweep.point import Finished, Job, Pruned, Result, Steps, conditions_of
from edgeprune.sweep.steps import remove_used
from edgeprune.target import Target
from edgeprune.version import pip_extra

TIDYING_S = 60.0  # that nodes have to remove what is not used any more
RETRIES = 3  # of a step whose worker died; an error of edgeprune's own is a result and is not tried again


DEVICE = "device:"  # the resources that stand for devices begin so
NODE_ID = "ray.io/node-id"  # a label that Ray gives every node


def device_resource(target: str) -> str:
    """Name of the resource that a node with the device offers."""
    return f"{DEVICE}{target}"


@dataclass(frozen=True)
class Node:
    """A machine of a cluster.

    Attributes:
        id: as Ray has it.
        offers: its resources.
    """

    id: str
    offers: Mapping[str, float]

    @property
    def devices(self) -> list[str]:
        """The resources that stand for its devices."""
        return sorted(name for name, count in self.offers.items() if name.startswith(DEVICE) and count)


@dataclass(frozen=True)
class Places:
    """Options of a job's steps, which decide where they run and what runs beside them.

    Attributes:
        measuring: of those that need the device.
        training: of fine-tuning.
    """

    measuring: Mapping[str, Any]
    training: Mapping[str, Any]


def places_for(target: Target, nodes: Sequence[Node]) -> Places:
    """Where the steps of a job run.

    Args:
        target: of the job. One that is reached by SSH is timed there, whatever its node does besides.
        nodes: that are alive.
    """
    own, here = device_resource(target.name), target.device.host in ("", "local")
    with_it = [node for node in nodes if own in node.devices]
    # Without one, older releases of Ray hide every GPU from a step; one that no node with the device offers is never
    # given.
    gpu = here and target.device.kind != "cpu" and all(node.offers.get("GPU", 0) >= 1 for node in with_it)
    measuring = {"resources": {own: 1}, "num_cpus": 1, "num_gpus": int(gpu)}
    trains_by = "GPU" if any(node.offers.get("GPU") for node in nodes) else "CPU"
    able = [node for node in nodes if node.offers.get(trains_by, 0) >= 1]
    training: dict[str, Any] = {"num_cpus": 1, "num_gpus": int(trains_by == "GPU")}
    busy = [node for node in able if node.devices]
    if not here or not busy:
        return Places(measuring, training)
    if len(busy) < len(able):
        # a selector holds whatever the node has of a step's inputs; a NodeLabelSchedulingStrategy does not
        others = f"!in({','.join(node.id for node in busy)})"
        return Places(measuring, {**training, "label_selector": {NODE_ID: others}})
    # only there: on a node with further devices it would run beside a measurement on one that it does not hold
    shared = next((node for node in busy if node in with_it), busy[0]).devices
    alike = f"in({','.join(node.id for node in busy if node.devices == shared)})"
    held = {"resources": dict.fromkeys(shared, 1), "label_selector": {NODE_ID: alike}}
    return Places(measuring, {**training, **held})


def nodes_of(ray: Any) -> list[Node]:
    """The nodes of a cluster that are alive."""
    return [Node(node["NodeID"], node["Resources"]) for node in ray.nodes() if node["Alive"]]


def conditions_on_ray(target: Target) -> dict[str, str]:
    """As :func:`edgeprune.sweep.point.conditions_of` of the node that has the target's device.

    Raises:
        DeviceError: Ray is not installed, no node of the cluster has the device, or its runtime is not usable there.
    """
    ray = _connected({target.name})
    asked: Any = ray.remote(max_retries=RETRIES)(_guarded(_conditions))
    found = _result_of(asked.options(**places_for(target, nodes_of(ray)).measuring).remote(target))
    if isinstance(found, EdgepruneError):
        raise found
    if isinstance(found, Exception):
        where = f"the node of the Ray cluster with {device_resource(target.name)}"
        raise DeviceError(f"{where}: {first_line(found)}") from found
    return found


def _conditions(target: Target) -> dict[str, str]:
    from edgeprune.runtimes.site import open_site

    with open_site(target) as site:
        site.require_usable()
        return conditions_of(site)


def run_on_ray(
    jobs: Sequence[Job],
    swept: bytes,
    finished: Finished,
    steps: Steps,
    *,
    reporter: Reporter | None = None,
) -> None:
    """Run jobs on the cluster that ``RAY_ADDRESS`` names, or on one of this machine alone.

    Args:
        jobs: independent of each other.
        swept: bytes of the model that latencies are compared with.
        finished: called here with each result as it comes.
        steps: search, fine-tune, measure; copied to the workers.
        reporter: who watches.

    Raises:
        DeviceError: Ray is not installed, or no node of the cluster has the device.
        Exception: a step raised it that is no error of edgeprune's own: a bug, as where points are made here.
    """
    ray = _connected({job.target.name for job in jobs})
    reporter = reporter or Silent()
    nodes = nodes_of(ray)
    remote: Any = ray.remote(max_retries=RETRIES)  # its types know functions written out, not made
    search, finetune, measure = (remote(_guarded(step)) for step in _of_shared(steps))
    shared = ray.put(Shared(tuple(jobs), swept))
    waiting: dict[Any, Job] = {}
    for number, job in enumerate(jobs):
        places = places_for(job.target, nodes)
        pruned = search.options(**places.measuring).remote(shared, number)
        tuned = finetune.options(**places.training).remote(shared, number, pruned)
        waiting[measure.options(**places.measuring).remote(shared, number, pruned, tuned)] = job
    total = len(waiting)
    while waiting:
        [ready], _ = ray.wait(list(waiting), num_returns=1)
        job = waiting.pop(ready)
        result = _result_of(ready)
        finished(job, job.failure(result) if isinstance(result, Exception) else result)
        reporter.progress(f"{job.name} is there", done=total - len(waiting), total=total)


def remove_used_on_ray(folder: Path, made: Collection[str], waiting: Sequence[Job]) -> None:
    """:func:`edgeprune.sweep.steps.remove_used` on every node of the cluster, each of which may have a disk of its own.
    A node that does not answer keeps what it has until the next time."""
    import ray

    if not ray.is_initialized():
        return
    remove: Any = ray.remote(num_cpus=0)(_guarded(remove_used))
    given = (folder.resolve(), frozenset(made), ray.put(tuple(waiting)))
    places = [{NODE_ID: f"in({node.id})"} for node in nodes_of(ray)]
    removed = [remove.options(label_selector=place).remote(*given) for place in places]
    ray.wait(removed, num_returns=len(removed), timeout=TIDYING_S)


@dataclass(frozen=True)
class Shared:
    """What all steps get as one stored object: the weights that jobs share are in it once.

    Attributes:
        jobs: all of them; a step gets the number of its own.
        swept: bytes of the model that latencies are compared with.
    """

    jobs: tuple[Job, ...]
    swept: bytes


def _of_shared(steps: Steps) -> tuple[Callable[..., Any], ...]:
    """The three steps, of a job that is known by its number."""

    def search(shared: Shared, number: int) -> Pruned:
        return steps.search(shared.jobs[number])

    def finetune(shared: Shared, number: int, pruned: Pruned) -> bytes:
        return steps.finetune(shared.jobs[number], pruned)

    def measure(shared: Shared, number: int, pruned: Pruned, tuned: bytes) -> Result:
        return steps.measure(shared.jobs[number], shared.swept, pruned, tuned)

    return search, finetune, measure


def _result_of(reference: Any) -> Any:
    """What a step gave. What ended it instead is given as a value where it may happen to a correct program: an error of
    edgeprune, or a fault of Ray's own, such as a node that died.

    Raises:
        Exception: any other that the step raised; the traceback of its worker is the cause.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(reference)
    except RayError as error:
        cause: BaseException = error
        while isinstance(cause, RayTaskError):  # of a step behind the one that failed there are several around it
            cause = cause.cause
        bare = type(cause) is RayError  # stands in for an exception that cannot be sent
        if isinstance(cause, (EdgepruneError, RayError)) and not bare:
            return cause
        raise cause from error


def _connected(targets: Collection[str]) -> Any:
    """Ray with its cluster, which has the devices of these targets.

    Raises:
        DeviceError: it is not installed, or no node has one of the devices.
    """
    try:
        import ray
    except ImportError as error:
        raise DeviceError(f"--jobs ray needs Ray; next: {pip_extra('ray', 'ray')}") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    offered = ray.cluster_resources()
    missing = [name for name in sorted(map(device_resource, targets)) if not offered.get(name)]
    if missing:
        raise DeviceError(
            f"no node of the Ray cluster offers {missing[0]}; on the machine with the device: "
            f"ray start --address=HEAD:6379 --resources='{{\"{missing[0]}\": 1}}'"
        )
    return ray


def _guarded(step: Callable[..., Any]) -> Callable[..., Any]:
    """A step that returns an error of edgeprune as its value, its own or that of a step before it."""

    def guarded(*inputs: Any) -> Any:
        for value in inputs:
            if isinstance(value, EdgepruneError):
                return value
        try:
            return step(*inputs)
        except EdgepruneError as error:
            return error

    return guarded
