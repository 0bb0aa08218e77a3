"""What a sweep leaves as data: a point for every budget, beside the unpruned models."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

WORST_FIRST = (4, 3, 2, 1, 5)  # exit codes: an error, FAIL, what is undecided


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
        inconclusive: why the last measurement is not sure that the budget is held; empty where it is.
        accuracy_error: standard error of the accuracy over images; None where there are too few, and in older files.
        speed_up_low: lower end of the 95 % interval of the speed-up; None in older files.
        speed_up_high: upper end of it; None in older files.
        swept_ms: median latency of the swept model in the same run; None in older files.
        met_unpruned: whether a search for the budget found nothing to prune; False in older files.
        missed: why this measurement does not hold the budget; empty where it does, may, or there is none.
        unsteady: why the samples cannot show that any budget is held; empty where they can, and in older files.
        ms_low: lower end of the 95 % interval of ``ms``; 0 where too few samples leave none, None in older files.
        ms_high: upper end of it; infinite where too few samples leave none, None in older files.
        slowest_ms: the slowest sample; infinite where there are too few of them for a run that was not steady to show
            anything, None in older files.
        least_speed_up: the least of the speed-ups of single blocks; 0 where the device throttled, other work shared the
            core, or there are too few blocks, None in older files.
        failed_code: exit code of the error that left no point.
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
    missed: str = ""
    unsteady: str = ""
    ms_low: float | None = None
    ms_high: float | None = None
    slowest_ms: float | None = None
    least_speed_up: float | None = None
    failed_code: int = 1

    @property
    def exit_code(self) -> int:
        """What a command ends with for it: that of the error, 1 for a budget that is missed, 5 for one that is not
        sure, else 0."""
        if self.failed is not None:
            return self.failed_code
        return 1 if self.missed else 5 if self.inconclusive else 0

    @property
    def shortcoming(self) -> str:
        """What keeps it from being a sure answer, in words; empty where nothing does."""
        if self.failed is not None:
            return self.failed
        return f"{self.verdict}: {self.missed or self.inconclusive}" if self.verdict else ""

    @property
    def moved(self) -> str:
        """That it is of samples that moved, in words, where nothing else keeps it from being sure; else empty."""
        return f"not steady: {self.unsteady}" if self.unsteady and not self.shortcoming else ""

    @property
    def verdict(self) -> str:
        """``FAIL`` or ``INCONCLUSIVE`` of a measured point that is no sure answer; else empty."""
        return "FAIL" if self.missed else "INCONCLUSIVE" if self.inconclusive else ""


def worst_exit_code(codes: Iterable[int]) -> int:
    """The exit code of several together; 0 where all are."""
    return min((code for code in codes if code), key=WORST_FIRST.index, default=0)


@dataclass(frozen=True)
class Sweep:
    """All points.

    Attributes:
        unpruned: models that are not pruned, the swept one at their head.
        points: of the budgets.
        statistic: of the latencies in ms.
        metric: name of the accuracy.
        scope: of every latency: ``model``, or ``end_to_end``; ``model`` in older files.
        schema_version: of the JSON that :mod:`edgeprune.serial` makes of it; 1 in files that say none.
    """

    unpruned: tuple[Point, ...]
    points: tuple[Point, ...]
    statistic: str
    metric: str
    schema_version: Literal[1] = 1
    scope: Literal["model", "end_to_end"] = "model"
