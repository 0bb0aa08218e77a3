"""The side of a model's square input: one rule for every command that takes weights.

1. What the command says (``--imgsz``); for a plan that is applied again, the size that it was made for.
2. What the profile says. Shipped profiles leave ``imgsz`` out (only the demo's, which trains from scratch, has one), so
   a profile that states it means it.
3. What the weights were trained at.
4. :data:`DEFAULT_SIDE`, where the weights do not say, and for a model description, which nobody has trained yet.

A size other than the trained one is never silent: whoever runs at it says so (:meth:`InputSize.__str__`), and a build
measures the unpruned model at both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeprune.options import image_side

DEFAULT_SIDE = 640
"""Pixels; what Ultralytics trains at unless told otherwise."""
STRIDE = 32
"""Pixels; Ultralytics trains at multiples of this, also where the model's own stride is less."""
Origin = Literal["command", "plan", "profile", "weights", "default"]
WORDS: dict[Origin, str] = {
    "command": "as was asked",
    "plan": "what the plan was made for",
    "profile": "as the profile says",
    "weights": "what the weights were trained at",
    "default": "since nothing says another",
}


@dataclass(frozen=True)
class InputSize:
    """Height and width of a model's input, and where they come from.

    Attributes:
        side: in pixels.
        origin: who said so.
        trained: what the weights were trained at, in pixels; None where they do not say, or were not trained.
    """

    side: int
    origin: Origin
    trained: int | None

    @property
    def differs(self) -> bool:
        """Whether the model runs at another size than it was trained at."""
        return self.trained is not None and self.trained != self.side

    def __str__(self) -> str:
        text = f"input {self.side} px, {WORDS[self.origin]}"
        return f"warning: {text}; the weights were trained at {self.trained} px" if self.differs else text


def input_size(
    trained: int | None,
    stride: int,
    task: str,
    *,
    command: int | None = None,
    plan: int | None = None,
    profile: int | None = None,
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
        trained = -(-trained // step) * step
    said: dict[Origin, int | None] = {"command": command, "plan": plan, "profile": profile, "weights": trained}
    for origin, side in said.items():
        if side is not None:
            return InputSize(image_side(side, stride, task), origin, trained)
    return InputSize(image_side(DEFAULT_SIDE, stride, task), "default", trained)
