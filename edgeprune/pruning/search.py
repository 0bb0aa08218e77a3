"""Find the mildest pruning that meets a latency budget, with few measurements.

Latency follows MACs as a power, ``latency_ratio ≈ macs_ratio ** a`` with ``a`` between 0.5 and 0.9 on the runtimes
measured so far, so the search interpolates between measured points on a log-log scale and keeps a bracket: never more
than a handful of probes, each one a real measurement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

WINDOW = (1.0, 1 / 0.92)
"""A candidate is good when it uses between 92 % and 100 % of the budget (margin 1.00 to 1.087)."""
FIRST_EXPONENT = 0.75
"""How latency follows MACs before anything is measured (×2.1 MACs gave ×1.67 latency on ONNX Runtime's CPU)."""


@dataclass(frozen=True)
class Probe:
    """One candidate, measured.

    Attributes:
        ratio: MACs of the unpruned model divided by the candidate's.
        margin: budget divided by what was measured; 1.0 and more meets the budget.
        low: lower confidence bound of ``margin``.
        predicted: the margin that the search expected, None for the first.
        detail: what the report shows (latencies in ms, parameters, widths' digest).
    """

    ratio: float
    margin: float
    low: float
    predicted: float | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SearchResult:
    """Outcome of a search.

    Attributes:
        best: the mildest probe that meets the budget; None when none does.
        floor: the probe that got furthest, for the message when the budget is out of reach.
        probes: every measurement, in order.
    """

    best: Probe | None
    floor: Probe
    probes: tuple[Probe, ...]


def search(
    measure: Callable[[float, float | None], Probe],
    *,
    start_margin: float,
    limit: float,
    max_probes: int = 6,
    window: tuple[float, float] = WINDOW,
) -> SearchResult:
    """Bracket the budget and interpolate until a probe lies in ``window``.

    Args:
        measure: given an asked MACs ratio and the margin that is expected there, makes and measures that candidate.
            The candidate's real ratio may differ a little (widths are whole and aligned).
        start_margin: margin of the unpruned model (ratio 1), below 1.
        limit: largest MACs ratio that the model can be pruned to.
        max_probes: most calls of ``measure``.
        window: margins that end the search.
    """
    aim = math.sqrt(window[0] * window[1])
    points = [(0.0, math.log(start_margin))]  # (log ratio, log margin), every measured point
    probes: list[Probe] = []
    while len(probes) < max_probes:
        asked = _next_ratio(points, math.log(aim), math.log(limit))
        expected = math.exp(_line(points, asked)) if probes else None
        probe = measure(math.exp(asked), expected)
        repeated = any(math.isclose(probe.ratio, earlier.ratio, rel_tol=1e-6) for earlier in probes)
        probes.append(probe)
        points.append((math.log(probe.ratio), math.log(probe.margin)))
        if window[0] <= probe.low and probe.margin <= window[1]:
            break
        if asked >= math.log(limit) and probe.margin < window[0]:
            break  # the narrowest model is still too slow
        if repeated:
            break  # aligned widths leave no candidate in between
    meets = [probe for probe in probes if probe.low >= window[0]] or [p for p in probes if p.margin >= window[0]]
    return SearchResult(
        best=min(meets, key=lambda probe: probe.ratio, default=None),
        floor=max(probes, key=lambda probe: probe.margin),
        probes=tuple(probes),
    )


def _next_ratio(points: list[tuple[float, float]], aim: float, limit: float) -> float:
    below = max((p for p in points if p[1] < aim), key=lambda p: p[0])
    above = min((p for p in points if p[1] >= aim and p[0] > below[0]), key=lambda p: p[0], default=None)
    if above is None:  # not bracketed yet: go on along the steepness seen so far, a little further than it says
        seen = (below[1] - points[0][1]) / below[0] if below[0] > 0 else FIRST_EXPONENT
        steepness = min(max(seen, 0.2), 1.2)
        return min(below[0] + (aim - below[1]) / steepness * (1.0 if below[0] == 0 else 1.1), limit)
    share = (aim - below[1]) / (above[1] - below[1])
    return below[0] + min(max(share, 0.1), 0.9) * (above[0] - below[0])


def _line(points: list[tuple[float, float]], at: float) -> float:
    """Margin expected at a log ratio: linear between the two nearest measured points."""
    left, right = sorted(points, key=lambda p: abs(p[0] - at))[:2]
    if math.isclose(left[0], right[0]):
        return left[1]
    return left[1] + (right[1] - left[1]) * (at - left[0]) / (right[0] - left[0])
