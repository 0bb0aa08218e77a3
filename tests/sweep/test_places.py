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


def beside_a_measurement(places: Places, nodes: list[Node]) -> list[str]:
    """Devices that may be measured while a fine-tuning runs on their node, of every node on which one may."""
    asked = places.training.get("resources", {})
    able = [one for one in nodes if is_selected(one, places) and set(asked) <= set(one.offers)]
    able = [one for one in able if one.offers.get("GPU", 0) >= places.training["num_gpus"]]
    assert able, "it has a place"
    return [f"{one.id} {device}" for one in able for device in one.devices if device not in asked]


def is_selected(one: Node, places: Places) -> bool:
    selector = places.training.get("label_selector", {}).get(NODE_ID, "!in()")
    named = selector.removeprefix("!").removeprefix("in(").removesuffix(")").split(",")
    return (one.id in named) is not selector.startswith("!")


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
        [node("one", "cpu"), node("more", "cpu", "jetson-orin")],
        [node("more", "cpu", "jetson-orin"), node("one", "cpu"), node("another", "jetson-orin")],
        [node("a", "cpu"), node("b", "cpu", "jetson-orin", gpus=1), node("c", gpus=1)],
    ],
    ids=lambda nodes: " ".join(one.id for one in nodes),
)
def test_nothing_is_trained_beside_a_measurement(nodes: list[Node]) -> None:
    assert beside_a_measurement(places_for(CPU, nodes), nodes) == []


def test_training_holds_the_device_only_where_it_has_to_be_on_its_node() -> None:
    alone = places_for(CPU, [node("alone", "cpu")])
    held = {"resources": {"device:cpu": 1}, "num_cpus": 1, "num_gpus": 0}
    assert alone.training == {**held, "label_selector": {NODE_ID: "in(alone)"}}
    alike = places_for(CPU, [node("a", "cpu"), node("b", "cpu"), node("more", "cpu", "jetson-orin")])
    assert alike.training == {**held, "label_selector": {NODE_ID: "in(a,b)"}}, "it holds one, wherever it is"
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
