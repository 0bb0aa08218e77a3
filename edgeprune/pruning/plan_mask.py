"""The units that a plan keeps, and the check that the plan fits the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NoReturn

import numpy as np

from edgeprune.errors import DataError, StageError
from edgeprune.pruning.plan import AGAIN, Plan, PlannedDimension
from edgeprune.pruning.structure import Dimension

NO_FIT = "the plan does not fit"
REMEDY = f"give the weights that it was made for, or {AGAIN}"


def require_fit(plan: Plan, dimensions: Sequence[Dimension], *, shapes: str, removed: Sequence[str]) -> None:
    """Raise StageError with the first mismatch unless a plan was made for this model.

    Args:
        plan: the plan.
        dimensions: all of the model's, its blocks in ``removed`` already dropped.
        shapes: shape signature of the model before blocks were dropped.
        removed: those blocks.
    """
    if set(plan.removed) != set(removed):
        raise StageError(
            f"the plan drops {', '.join(plan.removed) or 'no blocks'}, this Pruner was built with "
            f"removed={list(removed)}; pass the plan's"
        )
    by_name = {dimension.name: dimension for dimension in dimensions}
    for line in plan.dimensions:
        if line.name not in by_name:
            raise DataError(f"{NO_FIT}: this model has no dimension '{line.name}'; {REMEDY}")
        _require_line_fits(line, by_name[line.name])
    missing = set(by_name) - {line.name for line in plan.dimensions}
    if missing or len(plan.dimensions) != len(by_name):
        raise DataError(f"{NO_FIT}: it says nothing of '{min(missing, default='a second line')}'; {REMEDY}")
    if plan.source.shapes != shapes:
        raise DataError(
            f"{NO_FIT}: it was made for shapes {plan.source.shapes[:12]}, this model has {shapes[:12]}; {REMEDY}"
        )


def require_removable(plan: Plan, blocks: Sequence[str]) -> None:
    """Raise DataError where a plan drops a block that is none of the model's."""
    if strange := [name for name in plan.removed if name not in blocks]:
        raise DataError(f"{NO_FIT}: it drops '{strange[0]}', and this model has no such block; {REMEDY}")


def unit_mask(dimensions: Iterable[Dimension], kept: Iterable[tuple[str, Sequence[int]]], units: int) -> np.ndarray:
    """Booleans of shape (units,): True for every unit that stays.

    Args:
        dimensions: all of the model's.
        kept: (name of a part, indices of its channels that stay); parts that are not named keep all of theirs.
        units: how many units the model has.
    """
    parts = {part.name: part for dimension in dimensions for part in dimension.parts}
    mask = np.ones(units, dtype=bool)
    for name, indices in kept:
        mask[parts[name].units] = False
        mask[parts[name].units[list(indices)]] = True
    return mask


def _require_line_fits(line: PlannedDimension, dimension: Dimension) -> None:
    def refuse(mismatch: str) -> NoReturn:
        raise DataError(f"{NO_FIT}: dimension '{line.name}' {mismatch}; {REMEDY}")

    if line.before != dimension.width:
        refuse(f"is {dimension.width} wide here and {line.before} in the plan")
    if line.after == line.before and not line.kept:
        return
    names = [part.name for part in dimension.parts]
    if sorted(line.kept) != sorted(names):
        refuse(f"has the parts {', '.join(names)} here and {', '.join(line.kept) or 'none'} in the plan")
    for part in dimension.parts:
        indices = line.kept[part.name]
        if len(indices) != line.after or not indices:
            refuse(f"keeps {len(indices)} channels of {part.name}, not {line.after}")
        if list(indices) != sorted(set(indices)) or indices[0] < 0 or indices[-1] >= dimension.width:
            refuse(f"keeps channels of {part.name} that are not ascending within 0..{dimension.width - 1}")
        per_row = np.bincount(np.array(indices) // (dimension.width // part.rows), minlength=part.rows)
        if len(set(per_row.tolist())) != 1:
            refuse(f"keeps unequally many channels of the {part.rows} heads of {part.name}")
    if dimension.pinned:
        refuse(f"cannot change: {dimension.fixed}")
