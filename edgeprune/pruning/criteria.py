"""How much each channel matters: a small registry of criteria over groups of channels.

A criterion is a function from a :class:`Group` to one score per channel, larger is more important. Ten lines add one::

    @importance("max_weight")
    def max_weight(group):
        return torch.stack([slot.weight.abs().amax(1) for slot in group.layers]).mean(0)

and one line adds any importance object of Torch-Pruning::

    torch_pruning_importance("l2_median", tp.importance.MagnitudeImportance(p=2, normalizer="sentinel_0.5"))

``random``, ``l1``, ``l2``, ``lamp``, ``bn_scale`` and ``fpgm`` are Torch-Pruning's classes; ``l1``, ``l2`` and ``lamp``
count the scales of batch normalisations and leave depthwise convolutions out, as those classes do. ``taylor`` and
``fisher`` are our own: they differentiate the loss by one factor per channel, which Torch-Pruning, whose gradients are
those of single weights, does not have. A global ranking compares channels of different groups, so every criterion's
numbers mean the same in each: parts of the group's own mean (1 is average; LAMP: parts of what would be left), or
the raw quantity where that is comparable itself (``bn_scale``, ``taylor``, ``fisher``). :data:`NORMALISATIONS` are
the other choices.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp

from edgeprune.errors import TargetError
from edgeprune.options import named, option
from edgeprune.pruning.group import Group
from edgeprune.pruning.torch_pruning_ import Estimator, torch_pruning_scores
from edgeprune.settings import PruneSettings

Score = Callable[[Group], torch.Tensor]

NORMALISATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda scores: scores,
    "sum": lambda scores: scores / scores.sum(),
    "mean": lambda scores: scores / scores.mean(),
    "max": lambda scores: scores / scores.max(),
    "standarization": lambda scores: (scores - scores.min()) / (scores.max() - scores.min()),
}
"""How the scores of one group come to a common scale, named as Torch-Pruning's normalizers are, spelling included."""


@dataclass(frozen=True)
class Importance:
    """A registered criterion.

    Attributes:
        score: as it is used by default.
        summary: one line for users.
        raw: the same before the criterion's own normalisation; None where it has none.
    """

    name: str
    score: Score
    needs_batches: bool
    summary: str
    raw: Score | None = None

    def normalised_scores(self, group: Group, normalisation: str | None = None) -> torch.Tensor:
        """Scores of a group's channels, by one of :data:`NORMALISATIONS` instead of the criterion's own.

        LAMP's is the criterion itself, so what is normalised there are its results.

        Raises:
            TargetError: unknown name.
        """
        if normalisation is None:
            return self.score(group)
        if normalisation not in NORMALISATIONS:
            raise TargetError(
                f"unknown {named('normalisation')} '{normalisation}'; choose one of {', '.join(NORMALISATIONS)}"
            )
        scores = NORMALISATIONS[normalisation]((self.raw or self.score)(group))
        return scores.masked_fill(~scores.isfinite(), 0.0)  # scores that are all zero, or all alike


REGISTRY: dict[str, Importance] = {}


def importance(name: str, *, needs_batches: bool = False) -> Callable[[Score], Score]:
    """Register a criterion under a name; the first line of its docstring is its description."""

    def register(score: Score) -> Score:
        summary = (score.__doc__ or name).strip().splitlines()[0]
        REGISTRY[name] = Importance(name, score, needs_batches, summary)
        return score

    return register


def torch_pruning_importance(
    name: str, estimator: Estimator, summary: str | None = None, *, otherwise: Score | None = None
) -> Score:
    """Register an importance object of Torch-Pruning, called as ``estimator(group)``, under a name.

    Objects that read ``weight.grad`` find there what a backward pass of yours left on the model given to ``Pruner``.

    Args:
        summary: one line for users; by default the class's name.
        otherwise: scores the groups in which the object finds nothing to read; without it they are refused.
    """

    normalizer = getattr(estimator, "normalizer", None)
    raw = None
    if normalizer is not None and normalizer != "lamp":
        unnormalised: Any = copy.copy(estimator)
        unnormalised.normalizer = None
        raw = _score_function(name, unnormalised, otherwise)
    score = _score_function(name, estimator, otherwise)
    summary = summary or f"Torch-Pruning's {type(estimator).__name__}."
    REGISTRY[name] = Importance(name, score, False, summary.splitlines()[0], raw)
    return score


def _score_function(name: str, estimator: Estimator, otherwise: Score | None) -> Score:
    """A criterion that asks a Torch-Pruning object; TargetError for a group that it cannot read."""

    def score(group: Group) -> torch.Tensor:
        scores = torch_pruning_scores(estimator, group)
        if scores is not None:
            return scores
        if otherwise is not None:
            return otherwise(group)
        kinds = ", ".join(sorted({type(slot.module).__name__ for slot in group.slots}))
        raise TargetError(
            f"importance '{name}' ({type(estimator).__name__}) finds nothing to read in {group.name} ({kinds}); "
            "register it with otherwise=, for example criteria.l1"
        )

    return score


def importance_named(name: str) -> Importance:
    """Look a criterion up; TargetError names what there is."""
    if name not in REGISTRY:
        raise TargetError(f"unknown {named('importance')} '{name}'; choose one of {', '.join(sorted(REGISTRY))}")
    return REGISTRY[name]


def ranks_by_images(name: str) -> bool:
    """Whether a criterion looks at images; the default, which is chosen among them, does where it has some."""
    return name == PruneSettings.importance or importance_named(name).needs_batches


random = torch_pruning_importance(
    "random",
    tp.importance.RandomImportance(),
    "Uniform noise: the floor that every other criterion has to beat.",
)
l1 = torch_pruning_importance(
    "l1",
    tp.importance.MagnitudeImportance(p=1),
    "Sum of absolute weights, mean over the layers of a group, relative to the group's mean.",
)
l2 = torch_pruning_importance(
    "l2",
    tp.importance.MagnitudeImportance(p=2),
    "Sum of squared weights, mean over the layers of a group, relative to the group's mean.",
)
lamp = torch_pruning_importance(
    "lamp",
    tp.importance.LAMPImportance(),
    "Squared weights over the sum of all squared weights that are not smaller (LAMP, arXiv 2010.07611).",
)
bn_scale = torch_pruning_importance(
    "bn_scale",
    # not normalised, as slimming sets one threshold for the whole model
    tp.importance.BNScaleImportance(normalizer=None),  # pyright: ignore[reportArgumentType]
    "Absolute scale of the batch normalisation (network slimming, arXiv 1708.06519); for one global threshold.",
    otherwise=l1,
)
fpgm = torch_pruning_importance(
    "fpgm",
    tp.importance.FPGMImportance(),
    "Distance to the other filters of a layer (geometric median, arXiv 1811.00250), relative to the group's mean.",
)


@importance("taylor", needs_batches=True)
def taylor(group: Group) -> torch.Tensor:
    """First-order change of the loss when a channel goes, mean of its size over batches (arXiv 1906.10771)."""
    return _gradients(group).abs().mean(0)


@importance("fisher", needs_batches=True)
def fisher(group: Group) -> torch.Tensor:
    """Mean square of that derivative: the diagonal of the empirical Fisher matrix (group Fisher, arXiv 2108.00708)."""
    return _gradients(group).square().mean(0)


def refuse_without_batches(name: str, batches: object) -> None:
    """Raise ``TargetError`` for a criterion that needs labelled batches where there are none (None)."""
    if batches is None and importance_named(name).needs_batches:
        raise TargetError(f"{named('importance')} '{name}' needs labelled batches: {give_batches()}")


def give_batches() -> str:
    """What to do where labelled images are missing."""
    return f"give {named('data', 'DATA.yaml')}" if option("data") else "pass batches=, or data= of a checkpoint"


def _gradients(group: Group) -> torch.Tensor:
    """A group's gradients; TargetError without batches."""
    if group.gradients is None:
        raise TargetError(f"this importance needs calibration batches: {give_batches()}")
    return group.gradients
