"""By which figure a training chooses its best epoch, for the keys of what is kept; without torch."""

from __future__ import annotations

from edgeprune.families import BOXES_ALONE
from edgeprune.samples.gates import metric_name


def best_by(task: str) -> dict[str, str]:
    """Key entry of a training: the figure that its best epoch is chosen by. Empty where Ultralytics' fitness, by which
    older versions chose, is the same figure: what they trained is then reused."""
    return {} if task in BOXES_ALONE else {"best_by": metric_name(task)}
