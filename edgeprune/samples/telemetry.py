"""What a device was like over several runs, from what it was like in each (:func:`edgeprune.devices.agent.summary`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def over_launches(watched: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Conditions of a measurement that took several launches: throttled when it was in any, its highest temperature."""
    told = {key: value for one in watched for key, value in one.items()}
    if temperatures := [one["temperature_c"] for one in watched if "temperature_c" in one]:
        told["temperature_c"] = max(temperatures)
    if reasons := [one["throttled_why"] for one in watched if "throttled_why" in one]:
        told["throttled_why"] = "; ".join(dict.fromkeys(reasons))
    if telemetry := [one["telemetry"] for one in watched if "telemetry" in one]:
        told["telemetry"] = _joined(telemetry)
    return told


def _joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sums, extremes and means by name: ``samples`` weigh the means, ``…_max`` and ``…_min`` are of all."""
    told = {key: value for one in parts for key, value in one.items()}
    told["samples"] = sum(one["samples"] for one in parts)
    for name in told:
        found = [one for one in parts if name in one]
        if name.endswith("_mean"):
            weights = [one["samples"] for one in found]
            told[name] = sum(one[name] * weight for one, weight in zip(found, weights, strict=True)) / sum(weights)
        elif name.endswith("_max"):
            told[name] = max(one[name] for one in found)
        elif name.endswith("_min"):
            told[name] = min(one[name] for one in found)
        elif name == "temperature_max_c":
            places = {place for one in found for place in one[name]}
            told[name] = {place: max(one[name][place] for one in found if place in one[name]) for place in places}
        elif name == "over_current_events":
            kinds = {kind for one in found for kind in one[name]}
            told[name] = {kind: sum(one[name].get(kind, 0) for one in found) for kind in kinds}
        elif name == "first_line":
            told[name] = found[0][name]
    return told
