"""The levers that need no training to be timed: number format, input size, another checkpoint, and those together.

A form is a checkpoint with the keys of a profile under which it runs. What a form is made of here is all that the rest
of the room knows of levers.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgeprune.records.frontier import Form, Keys
from edgeprune.target import Target
from edgeprune.target.schema import STRIDE

AS_IT_IS = "as it is"
SIZE_SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)  # of the side: latency goes about with its square
LEAST_SIDE = 64  # pixels; below this a detector's coarsest map has two cells a side


def forms(target: Target, weights: str, others: Sequence[str] = ()) -> list[Form]:
    """Every form to time, the baseline first.

    Args:
        target: as it was given, with its size.
        weights: name of the checkpoint that is asked about.
        others: names of further checkpoints.
    """
    found: list[Form] = []
    for precision in (target.precision, *target.lower_precisions):
        lower: Keys = {} if precision == target.precision else {"precision": precision}
        for side in (target.imgsz, *smaller_sides(target.imgsz)):
            size: Keys = {} if side == target.imgsz else {"imgsz": side}
            found.append(_form(weights, {**lower, **size}))
        found += [_form(other, lower, other=True) for other in others]
    return found


def smaller_sides(side: int) -> list[int]:
    """Sides in pixels to try below one, in the model's steps, the largest first."""
    sides = {max(STRIDE, round(side * share / STRIDE) * STRIDE) for share in SIZE_SHARES}
    return sorted((one for one in sides if LEAST_SIDE <= one < side), reverse=True)


def _form(weights: str, keys: Keys, *, other: bool = False) -> Form:
    words = [weights] if other else []
    levers = ["checkpoint"] if other else []
    if "precision" in keys:
        words.append(str(keys["precision"]))
        levers.append("precision")
    if "imgsz" in keys:
        words.append(f"{keys['imgsz']} px")
        levers.append("size")
    return Form(", ".join(words) or AS_IT_IS, weights, keys, tuple(levers))
