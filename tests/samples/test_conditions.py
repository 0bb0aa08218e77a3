"""Conditions of every runtime: what a gate reads of them, and what may be compared."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from edgeprune.agent.host import WorkerState
from edgeprune.records.version1 import upgrade_measurement
from edgeprune.samples.conditions import (
    MUST_MATCH,
    Conditions,
    DeviceState,
    GpuTiming,
    differences,
    gpu_span,
)
from edgeprune.samples.gates import Verdict, speed_up_gate
from edgeprune.samples.measurement import Measurement
from edgeprune.serial import from_json, to_json
from tests.samples.made import conditions

LAUNCHES = (20,) * 24
SHAPES = {"images": (1, 3, 640, 640)}


def of_onnxruntime(launches: tuple[int, ...] = LAUNCHES) -> Conditions:
    """As its runs give them: a process holds several blocks."""
    return replace(conditions(runtime="onnxruntime"), samples_per_block=20, launches=launches, worker=WorkerState())


def of_trtexec(launches: tuple[int, ...] = LAUNCHES) -> Conditions:
    """As its runs give them: a process is a block."""
    made = conditions(runtime="trtexec", gpu=GpuTiming(gpu_span(copies=True), cuda_graph_asked=False))
    return replace(made, samples_per_block=min(launches), launches=launches)


def version_1(launches: tuple[int, ...] = LAUNCHES) -> Conditions:
    """As trtexec's conditions stood in build.json before they had a class."""
    old = {"runtime": "trtexec", "per_round": 20, "processes": list(launches), "shapes": {"images": [1, 3, 640, 640]}}
    row = {"name": "latency", "unit": "ms", "values": [1.0] * 480, "conditions": old}
    return from_json(Measurement, upgrade_measurement(row), "version 1").conditions


@pytest.mark.parametrize("made", [of_onnxruntime, of_trtexec, version_1])
def test_the_same_samples_give_the_same_verdict_by_every_runtime(made) -> None:
    generator = np.random.default_rng(0)
    slow, fast = generator.normal(20.12, 0.02, 480).tolist(), generator.normal(10.0, 0.01, 480).tolist()

    def gate(launches: tuple[int, ...]):
        return speed_up_gate(
            "engine", *(Measurement("latency", "ms", tuple(ms), made(launches)) for ms in (slow, fast)), 2.0
        )

    assert gate(LAUNCHES).verdict is Verdict.PASS, gate(LAUNCHES).reason
    if made is not of_trtexec:  # there a process is a block
        assert gate((480,)).verdict is Verdict.INCONCLUSIVE
    assert made().samples_per_block == 20 and made().launches == LAUNCHES


def test_blocks_and_launches_are_never_guessed() -> None:
    named = {entry.name: None for entry in fields(Conditions) if entry.metadata == MUST_MATCH}
    with pytest.raises(TypeError, match="'samples_per_block' and 'launches'"):
        Conditions(**named)  # type: ignore[arg-type]


@pytest.mark.parametrize("made", [of_onnxruntime, of_trtexec, version_1])
def test_json_there_and_back(made) -> None:
    measurement = Measurement("latency", "ms", (1.0,) * 480, made(), warmups=(2.0,), simulated=True)
    assert from_json(Measurement, to_json(measurement), "a measurement") == measurement


def test_what_explains_does_not_forbid_comparing_and_what_identifies_does() -> None:
    here = conditions()
    assert differences(here, replace(here, model="other", launches=(1, 2), device=DeviceState(throttled=True))) == []
    for entry in fields(Conditions):
        if entry.metadata.get("must_match"):
            assert differences(here, replace(here, **{entry.name: "another"})) != [], entry.name
