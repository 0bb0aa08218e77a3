"""Conditions of every runtime: what a gate reads of them, and what may be compared."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from edgeprune.agent.cpus import CpuUse
from edgeprune.agent.host import WorkerState
from edgeprune.records.version1 import upgrade_measurement
from edgeprune.samples.conditions import (
    MUST_MATCH,
    Conditions,
    CoreState,
    DeviceState,
    GpuTiming,
    differences,
    gpu_span,
    most_disturbed,
)
from edgeprune.samples.gates import Verdict, latency_gate, speed_up_gate
from edgeprune.samples.measurement import Measurement
from edgeprune.serial import from_json, to_json
from tests.samples.made import conditions, latency

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


FULL, QUOTA_OF_2 = CpuUse(4, 0.1), CpuUse(4, 0.1, 2.0, 0.4)


@pytest.mark.parametrize(
    ("threads", "share", "use", "contended", "alone", "words"),
    [
        (1, 0.95, CpuUse(4, 3.9), False, 1.0, ""),  # it had its core, whatever ran on the others
        (1, 0.6, CpuUse(4, 0.5), True, 0.6, "only 60% of a core: other work ran on the machine"),
        (1, 0.5, CpuUse(4, 0.0, 0.5, 0.48), True, 0.5, "quota of processor time (0.5 CPUs) stopped it for 48%"),
        (1, 0.5, CpuUse(4, 0.6, 3.0, 0.01), True, 0.5, "other work ran on the machine"),  # the quota hardly did
        (4, 3.9, FULL, False, 1.0, ""),
        (4, 3.0, CpuUse(4, 0.5), True, 0.5, "took the time of 0.5 of the cores"),
        (4, 3.0, CpuUse(4, 1.5), True, 0.0, "took the time of 1.5 of the cores"),
        (0, 3.0, CpuUse(4, 0.5), True, 0.5, "took the time of 0.5 of the cores"),  # all that there are
        (8, 3.0, CpuUse(4, 0.5), True, 0.5, "took the time of 0.5 of the cores"),
        (2, 2.0, CpuUse(4, 1.5), False, 1.0, ""),  # it has two others
        (2, 2.0, CpuUse(4, 2.5), True, 0.5, "took the time of 0.5 of the cores"),  # of these two, not of the others
        (4, 4.0, CpuUse(16, 12.3), True, 0.7, "took the time of 0.3 of the cores"),
        (4, 4.0, CpuUse(16, 11.0, 3.0, 0.3), True, 0.7, "quota of processor time (3 CPUs) stopped it for 30%"),
        (4, 2.0, QUOTA_OF_2, True, 0.5, "quota of processor time (2 CPUs) stopped it for 40%"),
        (4, 2.0, CpuUse(4, None), False, 1.0, ""),  # macOS
        (None, 1.0, CpuUse(4, 3.9), False, 1.0, ""),  # a GPU computes
        (None, 1.0, QUOTA_OF_2, True, 0.6, "quota of processor time"),  # and waits for its process
        (None, 1.0, CpuUse(4, 3.0, 2.0, 0.4), True, 0.6, "quota of processor time"),
    ],
)
def test_what_disturbed_a_run_is_told_of_any_number_of_threads(
    threads: int | None, share: float, use: CpuUse, contended: bool, alone: float, words: str
) -> None:
    core = CoreState.over_launches([30, 10], [share, share], (1.0,) * 40, [use, use], threads=threads)
    assert (core.contended, core.alone) == (contended, pytest.approx(alone))
    assert (core.others, core.quota, core.stopped) == (use.others, use.quota, pytest.approx(use.stopped))
    assert bool(core.cpu_ms) == (threads == 1)
    assert not contended or words in core.disturbed_by
    assert core.by_quota == ("quota" in words) and ("--cpuset-cpus" in core.remedy) == core.by_quota


def test_what_the_processes_of_a_run_had_of_their_cores_is_weighed_by_their_samples() -> None:
    core = CoreState.over_launches([30, 10], [4, 4], (), [CpuUse(4, 0.2), CpuUse(4, 0.6)], threads=4)
    assert core.others == pytest.approx(0.3) and core.contended
    core = CoreState.over_launches([30, 10], [4, 4], (), [CpuUse(4, 0.2), CpuUse(4, None)], threads=4)
    assert core.others is None and not core.contended


def test_other_work_that_hardly_reached_the_cores_of_several_threads_leaves_both_verdicts_open() -> None:
    """Of 16 CPUs it kept the twelve spare ones busy, and took 0.3 of the four that the model needs."""
    core = CoreState.over_launches([300], [4.0], (), [CpuUse(16, 12.3)], threads=4)
    dice = np.random.default_rng(0)
    before, after = (latency(dice.normal(level, 0.01, 300), threads=4, core=core) for level in (20.0, 10.0))
    for limit, verdict in ((11, Verdict.PASS), (8, Verdict.INCONCLUSIVE), (6, Verdict.FAIL)):
        assert latency_gate("engine", after, limit).verdict is verdict
    for least, verdict in ((1.3, Verdict.PASS), (2.0, Verdict.INCONCLUSIVE), (3.0, Verdict.FAIL)):
        assert speed_up_gate("engine", before, after, least).verdict is verdict
    light = replace(core, others=11.0, contended=False)
    assert most_disturbed([replace(core, others=12.6), core, light]) == replace(core, others=12.6)


def test_how_a_core_was_shared_is_read_from_records_of_earlier_versions() -> None:
    old = {"share": 0.6, "contended": True, "interrupted_share": 0.25, "cpu_ms": [1.0]}
    read = from_json(CoreState, old, "a record")
    assert (read.alone, read.others, read.quota) == (0.6, None, None) and not read.by_quota
    assert "60% of a core" in read.disturbed_by
    threads = from_json(CoreState, {"share": 3.2, "contended": True, "others": 0.4}, "a record without spare ones")
    assert threads.alone == pytest.approx(0.6) and "took the time of 0.4" in threads.disturbed_by


def test_what_explains_does_not_forbid_comparing_and_what_identifies_does() -> None:
    here = conditions()
    assert differences(here, replace(here, model="other", launches=(1, 2), device=DeviceState(throttled=True))) == []
    for entry in fields(Conditions):
        if entry.metadata.get("must_match"):
            assert differences(here, replace(here, **{entry.name: "another"})) != [], entry.name
