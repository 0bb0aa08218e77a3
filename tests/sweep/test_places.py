"""Where the steps of a job run on a cluster: nothing is trained beside a measurement."""

from __future__ import annotations

import pytest

from edgeprune.sweep.jobs_ray import NODE_ID, Node, Places, places_for
from edgeprune.target import Target, load_target

CPU, GPU, JETSON = map(load_target, ("cpu", "desktop-cuda", "jetson-orin"))


def node(name: str, *devices: str, gpus: int = 0) -> Node:
    return Node(
        name, {"CPU": 4.0, **({"GPU": float(gpus)} if gpus else {}), **{f"device:{one}": 1.0 for one in devices}}
    )


def beside_a_measurement(places: Places, target: Target, nodes: list[Node]) -> list[str]:
    """Nodes on which a fine-tuning may run while a measurement does."""
    asked = places.training.get("resources", {})
    if set(asked) & set(places.measuring["resources"]):
        return []
    selected = places.training.get("label_selector", {}).get(NODE_ID, "")
    kept_off = selected.removeprefix("!in(").removesuffix(")").split(",")
    able = [one for one in nodes if one.id not in kept_off and set(asked) <= set(one.offers)]
    able = [one for one in able if one.offers.get("GPU", 0) >= places.training["num_gpus"]]
    return [one.id for one in able if one.devices]


@pytest.mark.parametrize(
    "nodes",
    [
        [node("alone", "cpu")],
        [node("device", "cpu"), node("other")],
        [node("device", "cpu"), node("trains", gpus=1)],
        [node("device", "cpu", gpus=1), node("slow")],
        [node("device", "cpu", gpus=2), node("trains", gpus=1)],
        [node("a", "cpu"), node("b", "cpu")],
        [node("a", "cpu"), node("b", "jetson-orin")],
        [node("a", "cpu"), node("b", "cpu", "jetson-orin", gpus=1), node("c", gpus=1)],
    ],
    ids=lambda nodes: " ".join(one.id for one in nodes),
)
def test_nothing_is_trained_beside_a_measurement(nodes: list[Node]) -> None:
    assert beside_a_measurement(places_for(CPU, nodes), CPU, nodes) == []


def test_training_holds_the_device_only_where_it_has_to_be_on_its_node() -> None:
    alone = places_for(CPU, [node("alone", "cpu")])
    assert alone.training == {"resources": {"device:cpu": 1}, "num_cpus": 1, "num_gpus": 0}
    device, other = node("device", "cpu"), node("other")
    apart = places_for(CPU, [device, other])
    assert apart.training == {"label_selector": {NODE_ID: "!in(device)"}, "num_cpus": 1, "num_gpus": 0}
    elsewhere = places_for(CPU, [device, node("trains", gpus=1)])
    assert elsewhere.training == {"num_cpus": 1, "num_gpus": 1}, "it goes where the GPU is anyway"


def test_a_device_that_is_reached_by_ssh_is_not_disturbed_by_its_node() -> None:
    board = JETSON.with_overrides(device="user@board")
    places = places_for(board, [node("alone", "jetson-orin", gpus=1)])
    assert places.training == {"num_cpus": 1, "num_gpus": 1}
    assert places.measuring == {"resources": {"device:jetson-orin": 1}, "num_cpus": 1, "num_gpus": 0}


@pytest.mark.parametrize(
    ("target", "gpus", "asked"), [(GPU, 1, 1), (GPU, 0, 0), (CPU, 1, 0)], ids=["its own", "none offered", "a CPU"]
)
def test_a_measurement_on_a_gpu_asks_for_it_since_ray_hides_it_else(target: Target, gpus: int, asked: int) -> None:
    assert places_for(target, [node("device", target.name, gpus=gpus)]).measuring["num_gpus"] == asked
