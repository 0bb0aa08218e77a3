"""Several launches of one measurement are one condition of the device."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeprune.samples.conditions import DeviceState
from edgeprune.samples.gates import Verdict, latency_gate
from edgeprune.samples.telemetry import doubt_of, over_launches, remedy_of
from edgeprune.serial import from_json
from tests.samples.made import latency


def launch(samples: int, watts: float, hottest: float, **more: object) -> DeviceState:
    telemetry = {
        "source": "tegrastats",
        "samples": samples,
        "power_w_mean": watts,
        "power_w_max": watts + 1,
        "gpu_mhz_min": 1000 - samples,
        "temperature_max_c": {"gpu": hottest},
    }
    return from_json(DeviceState, {"temperature_c": hottest, "telemetry": telemetry, **more}, "a launch")


def test_means_are_weighed_and_extremes_are_of_all() -> None:
    told = over_launches([launch(1, 4.0, 50.0), launch(3, 8.0, 45.0)])
    assert told.temperature_c == 50.0 and told.telemetry is not None
    assert told.telemetry.samples == 4
    assert told.telemetry.power_w_mean == pytest.approx(7.0)
    assert told.telemetry.power_w_max == 9.0
    assert told.telemetry.gpu_mhz_min == 997
    assert told.telemetry.temperature_max_c == {"gpu": 50.0}


def test_throttling_in_one_launch_is_throttling() -> None:
    told = over_launches([launch(1, 4.0, 50.0, throttled=True, throttled_why="oc1 rose by 1"), launch(1, 4.0, 50.0)])
    assert told.throttled is True
    assert told.throttled_why == "oc1 rose by 1"


def test_a_machine_that_tells_nothing_adds_nothing() -> None:
    assert over_launches([DeviceState(), DeviceState(), DeviceState()]) == DeviceState()


@pytest.mark.parametrize("source", ["tegrastats", "nvidia-smi"])
def test_the_remedy_for_what_was_not_watched_names_the_program_that_told_nothing(source: str) -> None:
    cause = f"the board was not watched: {source} told nothing in 6 s"
    assert remedy_of([cause]) == f"see that {source} runs there"


@pytest.mark.parametrize(
    ("events", "harmless", "seconds", "words"),
    [
        ({"oc3_event_cnt": 2}, (), 4.0, ""),  # spikes come in any mode, and one is 1,800 an hour
        ({"oc3_event_cnt": 40}, (), 60.0, "40 over-current events (oc3) in 60 s"),
        ({"oc3_event_cnt": 40}, ("oc3_event_cnt",), 60.0, ""),
        ({"oc3_event_cnt": 40}, (), 3600.0, ""),
        ({"oc1_event_cnt": 0, "oc2_event_cnt": 3, "oc3_event_cnt": 40}, (), 60.0, "(oc2, oc3)"),
    ],
)
def test_many_over_current_events_are_a_doubt_and_no_verdict(events, harmless, seconds, words):
    one = {"over_current_events": events, "over_current_harmless": list(harmless), "seconds": seconds / 4}
    parts = [launch(3, 8.0, 45.0) for _ in range(4)]
    counted = from_json(DeviceState, {"telemetry": {"source": "tegrastats", **one}}, "a launch")
    rest = replace(counted, telemetry=replace(counted.telemetry, over_current_events={}))
    joined = over_launches([*parts, counted, rest, rest, rest])
    assert words in doubt_of(joined) and bool(doubt_of(joined)) == bool(words)
    steady = [1 + 0.001 * (n % 7) for n in range(400)]
    for limit, verdict in ((2.0, Verdict.PASS), (0.5, Verdict.FAIL)):
        gate = latency_gate("engine", latency(steady, device=joined), limit)
        assert gate.verdict is verdict and (not words or "over-current" in gate.reason)


def test_a_locked_clock_that_nothing_tells_is_a_doubt():
    watched = {"source": "tegrastats", "samples": 9}
    for clocks, gpu_clock, said in (("locked", "", True), ("locked", "devfreq", False), ("free", "", False)):
        state = {"clocks": clocks, "telemetry": {**watched, "gpu_clock": gpu_clock}}
        assert ("no clock of the GPU" in doubt_of(from_json(DeviceState, state, "a launch"))) == said
