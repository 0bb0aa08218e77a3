"""The raw material of every gate: values as they were measured, with the conditions they were measured under."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """Raw samples; every statistic derives from them (pyperf keeps its data the same way).

    Attributes:
        name: what was measured, for example ``latency``.
        unit: unit of every value: ``ms``, ``ratio``, ``mAP50-95``, ``px``, ``bytes``.
        values: the samples, in the order they were taken.
        warmups: samples taken before the first value and not part of any statistic.
        conditions: what must be equal before two measurements may be compared (device identity, runtime, threads,
            batch, imgsz), and what explains them (versions, governor, load, clocks).
        simulated: True when no device was measured; such a measurement never passes a gate.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    warmups: tuple[float, ...] = ()
    conditions: Mapping[str, Any] = field(default_factory=dict)
    simulated: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``build.json``; :meth:`from_json` gives it back."""
        return asdict(self) | {
            "values": list(self.values),
            "warmups": list(self.warmups),
            "conditions": dict(self.conditions),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measurement:
        """Read what :meth:`to_json` wrote."""
        return cls(
            name=data["name"],
            unit=data["unit"],
            values=tuple(data["values"]),
            warmups=tuple(data.get("warmups", ())),
            conditions=dict(data.get("conditions", {})),
            simulated=bool(data.get("simulated", False)),
        )


def launches_of(measurement: Measurement) -> int:
    """How many processes the samples come from; 1 where the runtime does not tell."""
    return len(measurement.conditions.get("launches") or [0])


MUST_MATCH = ("identity", "runtime", "provider", "threads", "batch", "shapes", "scope", "copies", "cuda_graph")
DEFAULTS = {"scope": "model"}  # what records say that do not name it


def differing_conditions(first: Measurement, second: Measurement) -> list[str]:
    """Names of the conditions that forbid comparing two measurements, with both values; empty when they may be."""
    found = [] if first.unit == second.unit else [f"unit ({first.unit}, {second.unit})"]
    for name in MUST_MATCH:
        one, other = (found.conditions.get(name, DEFAULTS.get(name)) for found in (first, second))
        if one == other:
            continue
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            names = [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]
            found += [f"{name}.{key} ({one.get(key)}, {other.get(key)})" for key in names]
        else:
            found.append(f"{name} ({one}, {other})")
    return found
