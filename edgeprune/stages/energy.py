"""Energy of one inference, where the board has a sensor for its power."""

from __future__ import annotations

from statistics import fmean

from edgeprune.samples.gates import Gate, info_gate
from edgeprune.samples.measurement import Measurement


def energy_gates(stage: str, measurement: Measurement) -> list[Gate]:
    """A row with the millijoules of an inference; none where no power was sampled.

    The mean power of the run times the mean latency. Two models that take turns share the run, and with it the power:
    their difference is that of their times.
    """
    telemetry = measurement.conditions.device.telemetry
    if telemetry is None or not telemetry.power_w_mean or not measurement.values:
        return []
    watts = telemetry.power_w_mean
    shared = ", shared with the unpruned model" if measurement.conditions.models_in_run > 1 else ""
    reason = f"mean power of the run by {telemetry.source}, {watts:.3g} W{shared}, times the mean latency"
    if measurement.simulated:
        reason = f"simulated: {reason}"
    return [info_gate(stage, "energy per inference", watts * fmean(measurement.values), "mJ", reason)]
