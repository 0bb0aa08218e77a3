"""What a sweep leaves as data: a point for every budget, beside the unpruned models."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """One finished point.

    Attributes:
        name: of the model or the budget.
        budget: as text; empty for an unpruned model.
        ms: the budget's statistic of its latency.
        speed_up: latency of the swept model over its own, measured side by side.
        accuracy: of the engine, by the target's runtime.
        macs: MACs of the swept model over its own; 1.0 for unpruned models.
        parameters: of its checkpoint.
        note: probes that the search took.
        failed: why there is no point, else None.
        inconclusive: why the search is not sure that the budget is held; empty where it is.
        accuracy_error: standard error of the accuracy over images; None where there are too few, and in older files.
        speed_up_low: lower end of the 95 % interval of the speed-up; None in older files.
        speed_up_high: upper end of it; None in older files.
        swept_ms: median latency of the swept model in the same run; None in older files.
        met_unpruned: whether a search for the budget found nothing to prune; False in older files.
    """

    name: str
    budget: str
    ms: float = 0.0
    speed_up: float = 0.0
    accuracy: float = 0.0
    macs: float = 1.0
    parameters: int = 0
    note: str = ""
    failed: str | None = None
    inconclusive: str = ""
    accuracy_error: float | None = None
    speed_up_low: float | None = None
    speed_up_high: float | None = None
    swept_ms: float | None = None
    met_unpruned: bool = False


@dataclass(frozen=True)
class Sweep:
    """All points: the unpruned models first, the swept one at their head."""

    unpruned: tuple[Point, ...]
    points: tuple[Point, ...]
    statistic: str
    metric: str
