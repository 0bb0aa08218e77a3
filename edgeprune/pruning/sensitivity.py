"""How much the loss rises when one dimension alone is narrowed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import nn

from edgeprune.checkpoint import size_for_given
from edgeprune.errors import TargetError
from edgeprune.input_size import Size
from edgeprune.options import named, plain_number
from edgeprune.progress import Progress, Reporter, reporter_of
from edgeprune.pruning.batches import Batch
from edgeprune.pruning.equivalence import masked_parameters
from edgeprune.pruning.loss import loss_model, mean_loss
from edgeprune.pruning.pruner import AUTO, Pruner, Scores, resolve_importance

RATIOS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Point:
    """One forward pass over the batches: a dimension, what it kept, and the loss per image.

    ``ratio`` is the share that was asked for; the widths that are allowed may make it another one, :attr:`removed`.
    Shares that come to the same width are one measurement.
    """

    dimension: str
    ratio: float
    width: int
    kept: int
    loss: float
    macs_saved: int

    @property
    def removed(self) -> float:
        """Share of the channels that was removed."""
        return 1 - self.kept / self.width


@dataclass(frozen=True)
class Sensitivity:
    """Loss per image with everything kept, and a point for each dimension and ratio."""

    whole_loss: float
    importance: str
    points: tuple[Point, ...]

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
    imgsz: Size | None = None,
    importance: str = AUTO,
    ratios: Sequence[float] = RATIOS,
    scores: Scores | None = None,
    progress: Progress | Reporter | None = None,
) -> Sensitivity:
    """Loss with one dimension at a time narrowed, the least important channels held at zero.

    Holding channels at zero gives the same outputs as removing them, so no model is built for a point.

    Args:
        model: the model (``YOLO(...)`` or its ``.model``), or a Pruner of it.
        batches: labelled batches; each point runs all of them once, forward only.
        imgsz: for the multiply-accumulates that a point saves; when None what the checkpoint was trained at that
            ``YOLO(...)`` was read from, else what Ultralytics trains models of its task at. Ignored for a Pruner.
        importance: decides which channels go.
        ratios: shares to remove, each between 0 and 1.
        scores: what :meth:`Pruner.scores` gave.
        progress: called as the work moves, or a :class:`~edgeprune.progress.Reporter`; nobody by default.
    """
    ratios = [plain_number(ratio) for ratio in ratios]
    if not ratios or not all(0 < ratio < 1 for ratio in ratios):
        seen = ", ".join(map(str, ratios)) or "none"
        raise TargetError(f"{named('ratios')} lie between 0 and 1 (seen: {seen})")
    tell = reporter_of(progress).progress
    pruner = model if isinstance(model, Pruner) else Pruner(model, imgsz or size_for_given(model).side)
    pruner.refuse_fixed()
    batches = list(batches)
    importance = resolve_importance(importance, batches)
    scores = pruner.scores(importance, batches, progress=tell) if scores is None else scores
    differentiable = loss_model(pruner.model, pruner.head)
    unpruned_loss = mean_loss(differentiable, batches)
    points: list[Point] = []
    for dimension in pruner.dimensions:
        if dimension.fixed is not None:
            continue
        measured: dict[int, Point] = {}
        for ratio in ratios:
            width = _nearest(dimension.allowed, dimension.width * (1 - ratio))
            if width == dimension.width:
                continue
            if width in measured:
                points.append(replace(measured[width], ratio=ratio))
                continue
            keep = pruner.widths_mask({dimension.name: width}, scores)
            masked = masked_parameters(pruner.model, pruner.structure, keep)
            loss = mean_loss(differentiable, batches, masked)
            saved = pruner.macs() - pruner.macs({dimension.name: width})
            measured[width] = Point(dimension.name, ratio, dimension.width, width, loss, saved)
            points.append(measured[width])
            tell(f"{dimension.name} {dimension.width} -> {width}: loss {loss:.3f}", done=len(points), total=0)
    if not points:
        asked = named("ratios", ",".join(map(str, ratios)))
        raise TargetError(
            f"{asked}: too small for any width allowed, nothing was measured; from "
            f"{min(_least_shares(pruner), default=1.0):.2g} on a dimension is narrowed, or with a smaller "
            f"{named('align')}"
        )
    return Sensitivity(unpruned_loss, importance, tuple(points))


def _least_shares(pruner: Pruner) -> Iterable[float]:
    """Of every dimension that can be narrowed, the least ratio that is nearer to a narrower width."""
    for dimension in pruner.dimensions:
        narrower = [width for width in dimension.allowed if width < dimension.width]
        if dimension.fixed is None and narrower:
            yield (1 - max(narrower) / dimension.width) / 2


def _nearest(widths: Sequence[int], width: float) -> int:
    return min(widths, key=lambda allowed: abs(allowed - width))
