"""Several launches of one measurement are one condition of the device."""

from __future__ import annotations

import pytest

from edgeprune.samples.conditions import DeviceState
from edgeprune.samples.telemetry import over_launches
from edgeprune.serial import from_json


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
