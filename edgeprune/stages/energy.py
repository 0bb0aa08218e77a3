"""Energy of one inference, where the board has a sensor for its power."""

from __future__ import annotations

from statistics import fmean

from edgeprune.samples.gates import Gate, informs
from edgeprune.samples.measurement import Measurement


def energy_row(stage: str, measurement: Measurement) -> list[Gate]:
    """A row with the millijoules of an inference; none where no power was sampled.

    The mean power of the run times the mean latency. Two models that take turns share the run, and with it the power:
    their difference is that of their times.
    """
    watts = measurement.conditions.get("telemetry", {}).get("power_w_mean")
    if not watts or not measurement.values:
        return []
    source = measurement.conditions["telemetry"]["source"]
    shared = ", shared with the unpruned model" if measurement.conditions.get("models_in_run", 1) > 1 else ""
    reason = f"mean power of the run by {source}, {watts:.3g} W{shared}, times the mean latency"
    if measurement.simulated:
        reason = f"simulated: {reason}"
    return [informs(stage, "energy per inference", watts * fmean(measurement.values), "mJ", reason)]
