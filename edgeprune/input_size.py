"""The size of a model's input: what a size is, and one rule of which one holds for every command that takes weights.

1. What the command says (``--imgsz``); for a plan that is applied again, the size that it was made for.
2. What the profile says. Shipped profiles leave ``imgsz`` out (only the demo's, which trains from scratch, has one), so
   a profile that states it means it.
3. What the weights were trained at.
4. :func:`default_side`, where the weights do not say, and for a model description, which nobody has trained yet.

A size other than the trained one is never silent: whoever runs at it says so (:meth:`InputSize.__str__`), and a build
measures the unpruned model at both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgeprune.errors import TargetError
from edgeprune.options import named

Size = int | tuple[int, int]
"""Pixels: the side of a square, or height and width of a rectangle. What this module gives is a number for a square."""
DEFAULT_SIDE = 640
"""Pixels; what Ultralytics trains at unless told otherwise, but classifiers."""
CLASSIFIER_SIDE = 224
"""Pixels; what its trainer of classifiers trains at unless told otherwise."""
STRIDE = 32
"""Pixels; the coarsest stride of every Ultralytics detector: it trains at multiples of this, also where the model's own
is less, and pads what is none."""
LARGEST_SIDE = 16_384
"""Pixels; of what files say of themselves, and of what is asked for: weights are run at the size that they name."""
FORMS = "640, or 384,640 for height and width"
Origin = Literal["command", "plan", "profile", "weights", "default"]
WORDS: dict[Origin, str] = {
    "command": "as was asked",
    "plan": "what the plan was made for",
    "profile": "as the profile says",
    "weights": "what the weights were trained at",
    "default": "since nothing says another",
}


def both_sides(size: Size | Sequence[int]) -> tuple[int, int]:
    """Height and width of a size."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return height, width


def asked_sides(size: object) -> tuple[int, int]:
    """Height and width of a size that somebody asks for.

    Raises:
        TargetError: it is no size, or none of an image.
    """
    try:
        return both_sides(Pixels(least=1).read(size))
    except ValueError as error:
        raise TargetError(f"{named('imgsz', repr(size))}: {error}") from None


def plain(size: Size | Sequence[int]) -> Size:
    """The size as it is written: a number for a square."""
    height, width = both_sides(size)
    return height if height == width else (height, width)


def pixels(size: Size | Sequence[int]) -> str:
    """The size in words: ``640 px``, ``384 × 640 px``."""
    size = plain(size)
    return f"{size} px" if isinstance(size, int) else f"{size[0]} × {size[1]} px"


def size_from(text: str) -> Size:
    """What a person types: ``640``, ``384,640`` (height, width), and ``384x640`` or ``[384, 640]`` for the same.

    Raises:
        ValueError: it is something else.
    """
    found = re.fullmatch(r"\s*[\[(]?\s*(\d{1,6})(?:\s*[,x×]\s*(\d{1,6}))?\s*[\])]?\s*", text, re.ASCII)
    if found is None:
        raise ValueError(f"{text!r} is no size in pixels; allowed is {FORMS}")
    return plain((int(found[1]), int(found[2] or found[1])))


@dataclass(frozen=True)
class Pixels:
    """Makes pydantic read a :data:`Size`: a number, or a list of height and width; sides are multiples of ``step``."""

    step: int = 1
    least: int = STRIDE

    def read(self, value: Any) -> Any:
        """The size as it is written; ValueError says what is wrong with anything else."""
        sides = [value] * 2 if isinstance(value, int) else value
        if not isinstance(sides, (list, tuple)) or len(sides) != 2 or not all(type(side) is int for side in sides):
            raise ValueError(f"a number, or [height, width], in pixels is allowed; seen: {value!r}")
        for side in sides:
            if not self.least <= side <= LARGEST_SIDE or side % self.step:
                steps = f"a multiple of {self.step}, " if self.step > 1 else ""
                raise ValueError(f"a side is {steps}{self.least} to {LARGEST_SIDE} pixels; seen: {value!r}")
        return plain(sides)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(self.read, handler(source))

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict[str, Any]:
        steps = {"multipleOf": self.step} if self.step > 1 else {}
        side = {"type": "integer", "minimum": self.least, "maximum": LARGEST_SIDE, **steps}
        return {"anyOf": [side, {"type": "array", "items": side, "minItems": 2, "maxItems": 2}]}


@dataclass(frozen=True)
class InputSize:
    """Height and width of a model's input, and where they come from.

    Attributes:
        side: in pixels: of a square, or height and width.
        origin: who said so.
        trained: what the weights were trained at, in pixels; None where they do not say, or were not trained.
    """

    side: Size
    origin: Origin
    trained: Size | None

    @property
    def differs(self) -> bool:
        """Whether the model runs at another size than it was trained at."""
        return self.trained is not None and self.trained != self.side

    def __str__(self) -> str:
        text = f"input {pixels(self.side)}, {WORDS[self.origin]}"
        return (
            f"warning: {text}; the weights were trained at {pixels(self.trained)}"
            if self.trained and self.differs
            else text
        )


def input_size(
    trained: Size | None,
    stride: int,
    task: str,
    *,
    command: Size | None = None,
    plan: Size | None = None,
    profile: Size | None = None,
) -> InputSize:
    """The size to run a model at, by the rule of this module; everything in pixels.

    Args:
        trained: what it was trained at; None where nobody says. It is rounded up to a size that the model takes, as
            Ultralytics' trainer does.
        stride: of the model.
        task: of the model; a classifier takes any side from its stride up.
        command, plan, profile: what each of them says; None where it says nothing.

    Raises:
        TargetError: the model does not take the size that was asked for; names the nearest.
    """
    if trained is not None:
        step = max(stride, STRIDE)
        trained = plain([-(-side // step) * step for side in both_sides(trained)])
    said: dict[Origin, Size | None] = {"command": command, "plan": plan, "profile": profile, "weights": trained}
    for origin, size in said.items():
        if size is not None:
            return InputSize(taken_size(size, stride, task), origin, trained)
    return InputSize(taken_size(default_side(task), stride, task), "default", trained)


def default_side(task: str) -> int:
    """What Ultralytics trains a model of this task at unless told otherwise, in pixels."""
    return CLASSIFIER_SIDE if task == "classify" else DEFAULT_SIDE


def taken_size(imgsz: Size | Sequence[int], stride: int, task: str) -> Size:
    """A size that a model takes, in pixels, as it is written; a classifier takes any sides from its stride up.

    Raises:
        TargetError: it takes others; names the nearest.
    """
    sides = asked_sides(imgsz)
    if any(side < stride or (task != "classify" and side % stride) for side in sides):
        raise _no_multiple(sides, stride, f"the model's stride {stride}")
    return plain(sides)


def trained_size(imgsz: Size | Sequence[int], stride: int) -> Size:
    """A size that Ultralytics trains at, in pixels, as it is written: it would round up any other without a word, also
    where the model takes that.

    Args:
        imgsz: that is asked for.
        stride: of the model.

    Raises:
        TargetError: it is no multiple of what training goes by; names the nearest.
    """
    sides, step = asked_sides(imgsz), max(stride, STRIDE)
    if any(side % step for side in sides):
        raise _no_multiple(sides, step, f"{step}, by which images are trained at")
    return plain(sides)


def _no_multiple(sides: tuple[int, int], step: int, what: str) -> TargetError:
    near = plain([max(step, round(side / step) * step) for side in sides])
    seen, use = (str(one) if isinstance(one, int) else f"{one[0]},{one[1]}" for one in (plain(sides), near))
    return TargetError(f"imgsz {seen} is no multiple of {what}; use {use}")
