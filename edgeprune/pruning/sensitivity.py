"""How the loss answers when one dimension alone is narrowed: which widths a model can spare."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeprune.artifact import write_atomically
from edgeprune.errors import TargetError
from edgeprune.progress import Progress, silent
from edgeprune.pruning.choose import kept_indices
from edgeprune.pruning.gates import Batch, loss_model, mean_loss
from edgeprune.pruning.narrow import masked_state
from edgeprune.pruning.pruner import AUTO, Pruner, Scores, resolved

RATIOS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Point:
    """One forward pass over the batches: a dimension, what it kept, and the loss per image."""

    dimension: str
    ratio: float
    width: int
    kept: int
    loss: float
    macs_saved: int


@dataclass(frozen=True)
class Sensitivity:
    """The table: the whole model's loss per image, and one point for each dimension and ratio."""

    whole_loss: float
    importance: str
    points: tuple[Point, ...]

    def to_json(self) -> str:
        """Plain data as JSON."""
        return json.dumps(asdict(self), indent=1)

    def save_plot(self, path: Path | str) -> None:
        """Draw the rise of the loss over the removed share, most sensitive dimensions named; PNG, SVG or PDF."""
        write_atomically(path, plot_bytes(self, Path(path).suffix.removeprefix(".") or "png"))

    def by_dimension(self) -> dict[str, dict[float, Point]]:
        """Points by dimension, then by ratio."""
        table: dict[str, dict[float, Point]] = {}
        for point in self.points:
            table.setdefault(point.dimension, {})[point.ratio] = point
        return table


def sensitivity(
    model: nn.Module | Pruner,
    batches: Iterable[Batch],
    *,
    imgsz: int = 640,
    importance: str = AUTO,
    ratios: Sequence[float] = RATIOS,
    scores: Scores | None = None,
    progress: Progress = silent,
) -> Sensitivity:
    """Loss with one dimension at a time narrowed, the least important channels held at zero.

    Holding channels at zero gives the same outputs as removing them, so no model is built for a point.

    Args:
        model: the model, or a Pruner of it.
        batches: labelled batches; each point runs all of them once, forward only.
        imgsz: for the multiply-accumulates that a point saves; ignored for a Pruner.
        importance: decides which channels go.
        ratios: shares to remove, each between 0 and 1.
        scores: what :meth:`Pruner.scores` gave.
    """
    if not ratios or not all(0 < ratio < 1 for ratio in ratios):
        raise TargetError(f"ratios lie between 0 and 1 (seen: {', '.join(map(str, ratios)) or 'none'})")
    pruner = model if isinstance(model, Pruner) else Pruner(model, imgsz)
    batches = list(batches)
    importance = resolved(importance, batches)
    scores = pruner.scores(importance, batches) if scores is None else scores
    ready = loss_model(pruner.model)
    whole = _loss(ready, {}, batches)
    free = [dimension for dimension in pruner.dimensions if dimension.fixed is None]
    points = []
    for dimension in free:
        for ratio in ratios:
            wanted = dimension.width * (1 - ratio)
            kept = min(dimension.allowed, key=lambda width: abs(width - wanted))
            if kept == dimension.width or any(p.dimension == dimension.name and p.kept == kept for p in points):
                continue
            keep = pruner.everything()
            for part, row in zip(dimension.parts, scores[dimension.name], strict=True):
                keep[part.units] = False
                keep[part.units[list(kept_indices(part, row, kept))]] = True
            loss = _loss(ready, masked_state(pruner.model, pruner.structure, keep), batches)
            saved = pruner.macs() - pruner.macs({dimension.name: kept})
            points.append(Point(dimension.name, ratio, dimension.width, kept, loss, saved))
            progress(f"{dimension.name} {dimension.width} -> {kept}: loss {loss:.3f}", done=len(points), total=0)
    return Sensitivity(whole, importance, tuple(points))


@torch.no_grad()
def _loss(ready: Any, state: Mapping[str, torch.Tensor], batches: Sequence[Batch]) -> float:
    """Mean loss per image with some parameters replaced for the time being."""
    own = dict(ready.named_parameters())
    before = {name: own[name].data for name in state if name in own}
    try:
        for name in before:
            own[name].data = state[name]
        return mean_loss(ready, batches)
    finally:
        for name, data in before.items():
            own[name].data = data


def plot_bytes(result: Sensitivity, kind: str) -> bytes:
    """The plot as a file's bytes."""
    import io

    from matplotlib.figure import Figure

    table = result.by_dimension()
    worst = {name: max(point.loss for point in row.values()) for name, row in table.items()}
    named = sorted(worst, key=lambda name: -worst[name])[:8]
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for name, row in table.items():
        x = [0.0, *(1 - point.kept / point.width for point in row.values())]
        y = [0.0, *(point.loss - result.whole_loss for point in row.values())]
        style: dict[str, Any] = {"label": name, "linewidth": 2} if name in named else {"color": "0.8", "linewidth": 1}
        axes.plot(x, y, marker=".", zorder=2 if name in named else 1, **style)
    axes.set_xlabel("share of the channels removed")
    axes.set_ylabel("rise of the loss per image")
    axes.legend(fontsize="small", title="most sensitive")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind)
    return buffer.getvalue()
