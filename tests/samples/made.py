"""Measurements that no device took: samples of a test's own under plain conditions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgeprune.samples.conditions import Conditions
from edgeprune.samples.measurement import Measurement


def conditions(samples: int = 300, **changed: Any) -> Conditions:
    """One process on a CPU, blocks of five; ``changed`` are fields of :class:`Conditions`."""
    plain: dict[str, Any] = {
        "identity": {"cpu": "a", "runtime": "r 1"},
        "runtime": "r",
        "provider": "r",
        "threads": 1,
        "batch": 1,
        "shapes": {"images": (1, 3, 32, 32)},
        "scope": "model",
        "copies": True,
        "cuda_graph": False,
        "samples_per_block": 5,
        "launches": (samples,),
    }
    return Conditions(**(plain | changed))


def latency(values: Iterable[float], *, simulated: bool = False, **changed: Any) -> Measurement:
    """Samples in ms; ``changed`` are fields of :class:`Conditions`."""
    taken = tuple(float(value) for value in values)
    return Measurement("latency", "ms", taken, conditions(len(taken), **changed), simulated=simulated)
