"""How much there is to make, and how long what is left will take, from what was measured on the way."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean

from edgeprune.samples.text import duration_text
from edgeprune.sweep.point import Job


def workload(jobs: Sequence[Job]) -> str:
    """How many points are to be made, and how much training that is at most."""
    trained = [job for job in jobs if job.epochs > 0]
    epochs = sum(job.epochs for job in trained if job.target.finetune.time_h is None)
    hours = sum(job.target.finetune.time_h or 0.0 for job in trained)
    for qat in (job.target.qat for job in trained):
        if qat is not None:
            hours += qat.time_h or 0.0
            epochs += 0 if qat.time_h is not None else qat.epochs
    parts = [f"{epochs} epoch{'' if epochs == 1 else 's'}"] if epochs else []
    parts += [f"{hours:g} h"] if hours else []
    training = f", {len(trained)} of them trained, {' and '.join(parts)} in all" if trained else ""
    return f"{_points(len(jobs))} to make{training}"


class TimeLeft:
    """Tells once how long the rest will take, as soon as a point of every kind that is left was made.

    Args:
        jobs: in the order in which they are made, one after the other.
        clock: seconds that pass.
    """

    def __init__(self, jobs: Sequence[Job], clock: Callable[[], float] = time.monotonic) -> None:
        self._left, self._clock, self._began = list(jobs), clock, clock()
        self._took: dict[tuple[bool, ...], list[float]] = defaultdict(list)
        self._told = False

    def after(self, job: Job, *, failed: bool) -> str:
        """A line to say after a point; empty where there is none. A point that failed tells nothing of the others."""
        now = self._clock()
        if not failed:
            self._took[_kind(job)].append(now - self._began)
        self._began = now
        self._left.remove(job)
        if self._told or not self._left or not all(self._took[_kind(one)] for one in self._left):
            return ""
        self._told = True
        seconds = sum(fmean(self._took[_kind(one)]) for one in self._left)
        verb = "is" if len(self._left) == 1 else "are"
        return f"{_points(len(self._left))} {verb} left: about {duration_text(seconds)}, by what was made so far"


def _kind(job: Job) -> tuple[bool, ...]:
    """What decides how long a point takes: a search, a training, a further one for INT8."""
    return job.pruned, job.epochs > 0, job.epochs > 0 and job.target.qat is not None


def _points(number: int) -> str:
    return f"{number} point{'' if number == 1 else 's'}"
