"""The levers that need no training to be timed: number format, input size, another checkpoint, and those together.

A form is a checkpoint with the keys of a profile under which it runs. What a form is made of here is all that the rest
of the room knows of levers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from math import prod

from edgeprune.errors import TargetError, first_line
from edgeprune.input_size import STRIDE, Size, both_sides, pixels, plain
from edgeprune.records.frontier import Form, Keys
from edgeprune.settings import Qat
from edgeprune.target import Target

AS_IT_IS = "as it is"
SIZE_SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)  # of the side: latency goes about with its square
SNUG = 1.1  # times that the shape of an input may be off that of the images before rectangles are tried
TRAINED = "qat.epochs"  # key of a form whose weights are trained for INT8
SAID_OF_FORMS = re.compile(r"as it is|(fp32|fp16|int8|int8-fp16)( trained)?|[\d× ]+ px|.*, .*|.*pruned to .*|.*\.pt")
"""Names of files that read as what a form is called for something else."""
LEAST_CELLS = 2  # of a side of a detector's coarsest map


def forms(
    target: Target, weights: str, others: Sequence[str] = (), aspect: float | None = None, stride: int = STRIDE
) -> list[Form]:
    """Every form to time, the baseline first.

    Args:
        target: as it was given, with its size.
        weights: name of the checkpoint that is asked about.
        others: names of further checkpoints, which run at the target's size alone.
        aspect: height over width of the images; None where they have none of their own.
        stride: of the checkpoint that is asked about, in pixels.
    """
    sizes = sizes_to_try(target.imgsz, aspect, stride)
    found: list[Form] = []
    for precision in (target.precision, *target.lower_precisions):
        lower: Keys = {} if precision == target.precision else {"precision": precision}
        found.append(_form(weights, lower))
        found += [_form(weights, {**lower, "imgsz": size}, size=size) for size in sizes]
        found += [_form(other, lower, other=True) for other in others]
    return found


def refused_by(target: Target, asked: Sequence[Form]) -> dict[str, str]:
    """Name of a form to the reason why the profile does not allow it, whatever the device could: by the release that it
    has a board may take what the profile's range forbids, and no profile of a build would state it.

    Args:
        target: with the range of its profile.
        asked: every form.
    """
    refused = {}
    for form in asked:
        try:
            target.changed(form.keys)
        except TargetError as error:
            refused[form.name] = first_line(error)
    return refused


def trained_int8(form: Form, target: Target) -> Form | None:
    """A form in INT8 whose weights are trained for it; None for what is no INT8, for other sizes and checkpoints, and
    where the target trains INT8 whatever the form."""
    there = target.changed(form.keys)
    if {*form.levers} - {"precision"} or target.qat is not None or not there.graph_precision.startswith("int8"):
        return None
    return Form(f"{there.precision} trained", form.weights, {**form.keys, TRAINED: Qat().epochs}, ("precision",))


def sizes_to_try(size: Size, aspect: float | None = None, stride: int = STRIDE) -> list[Size]:
    """Sizes in pixels below one: smaller ones of its shape, or of the images' where it is mostly padding.

    The rectangle that an image fills shows it as large as the size around it does, in less time: where the shapes
    differ by more than :data:`SNUG`, it and what is smaller of its shape stand in for those of the given shape.

    Args:
        size: as given.
        aspect: height over width of the images.
        stride: of the model; it takes multiples of it, and of :data:`~edgeprune.input_size.STRIDE`.
    """
    step = max(stride, STRIDE)
    height, width = both_sides(size)
    if aspect is None or max(aspect * width / height, height / width / aspect) <= SNUG:
        return smaller_sizes(size, step)
    sides = (min(height, width * aspect), min(width, height / aspect))
    snug = plain([max(math.ceil(side / step - 1e-6), LEAST_CELLS) * step for side in sides])
    if snug == plain(size):
        return smaller_sizes(size, step)
    return [one for one in (snug, *smaller_sizes(snug, step)) if _is_below(one, size)]


def smaller_sizes(size: Size, stride: int = STRIDE) -> list[Size]:
    """Sizes in pixels to try below one, of about its shape and in the model's steps, the largest first."""
    whole = both_sides(size)
    step = max(stride, STRIDE)
    tried = {tuple(round(side * share / step) * step for side in whole) for share in SIZE_SHARES}
    ordered = [plain(sides) for sides in sorted(tried, key=prod, reverse=True) if min(sides) >= LEAST_CELLS * step]
    return [one for one in ordered if _is_below(one, size)]


def _is_below(one: Size, size: Size) -> bool:
    """Whether a size has fewer pixels than another and no longer side: that of a small input is rounded up."""
    sides, whole = both_sides(one), both_sides(size)
    return prod(sides) < prod(whole) and all(side <= limit for side, limit in zip(sides, whole, strict=True))


def _called(weights: str) -> str:
    """What another checkpoint is called in the name of a form, so that no two forms have one: ``fp16.pt`` with its
    suffix, which no number format has."""
    return f"{weights}.pt" if SAID_OF_FORMS.fullmatch(weights) else weights


def _form(weights: str, keys: Keys, *, size: Size | None = None, other: bool = False) -> Form:
    words = [_called(weights)] if other else []
    levers = ["checkpoint"] if other else []
    if "precision" in keys:
        words.append(str(keys["precision"]))
        levers.append("precision")
    if size is not None:
        words.append(pixels(size))
        levers.append("size")
    return Form(", ".join(words) or AS_IT_IS, weights, keys, tuple(levers))
