"""What training gives, as plain data without torch, for records and reports to keep."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgeprune.settings import SparsitySettings

MAIN_FIGURE = re.compile(r"mAP50-95|accuracy_top1")
SCALE_OFF = 1e-2
"""A scale of batch normalisation below this counts as switched off."""


@dataclass(frozen=True)
class Epoch:
    """One finished epoch, as Ultralytics writes it into ``results.csv``.

    Attributes:
        number: counted from 1; 0 is the model as it was given, with figures of the validation alone.
        seconds: training time up to the end of this epoch.
        figures: losses (``train/box_loss``), metrics of the validation split (``metrics/mAP50-95(B)``) and learning
            rates (``lr/pg0``) by Ultralytics' column names.
    """

    number: int
    seconds: float
    figures: dict[str, float]


@dataclass(frozen=True)
class TrainSummary:
    """How a training went.

    Attributes:
        epochs_run: epochs finished, over all continuations.
        best_epoch: the epoch of the checkpoint that was kept, counted from 1; 0 when no epoch was better than the given
            model, which was then kept as it was.
        epochs: every finished epoch in order.
        map50_95: the task's main figure of that checkpoint on the validation split, as plain ``YOLO(best).val`` gives
            it: mAP50-95 of boxes, masks or key points, 0 to 1; top-1 accuracy for a classifier.
        seconds: time in the training loop, over all continuations.
        given: epoch 0, the model before its first step; None where it was no candidate for the best.
    """

    epochs_run: int
    best_epoch: int
    epochs: tuple[Epoch, ...]
    map50_95: float
    seconds: float
    given: Epoch | None = None

    @property
    def found_nothing(self) -> bool:
        """Whether the main figure is 0 in every epoch, so that none is better than another."""
        finished = (*([self.given] if self.given else ()), *self.epochs)
        told = [value for epoch in finished for name, value in epoch.figures.items() if MAIN_FIGURE.search(name)]
        return self.map50_95 <= 0 and not any(told)

    @property
    def which_epoch(self) -> str:
        """Which epoch was kept, in words, where it is not the given model; where none found anything, what to do."""
        return "; ".join(filter(None, (self.kept_epoch, self.advice)))

    @property
    def kept_epoch(self) -> str:
        """The same without what to do."""
        if not self.found_nothing:
            return f"best epoch {self.best_epoch} of {self.epochs_run} on split val"
        epochs = "the only epoch" if self.epochs_run == 1 else f"none of {self.epochs_run} epochs"
        found = "found nothing" if self.epochs_run == 1 else "found anything"
        return f"{epochs} {found} on split val, so that none is the best, and epoch {self.best_epoch} was kept"

    @property
    def advice(self) -> str:
        """What to do where no epoch found anything; else empty."""
        found = "train for more epochs, and look whether the labels lie on their objects"
        return found if self.found_nothing else ""

    @property
    def kept_given(self) -> bool:
        """Whether training was of no use: the given model was kept."""
        return self.best_epoch == 0


@dataclass(frozen=True)
class TrainResult:
    """A trained checkpoint and how it came about.

    Attributes:
        best: the checkpoint that was kept, float32, stock Ultralytics classes only.
        summary: epochs, accuracy and time.
    """

    best: Path
    summary: TrainSummary


@dataclass(frozen=True)
class ScaleHistogram:
    """Absolute scales and biases of batch normalisation, counted by size.

    Attributes:
        channels: prunable channels.
        share_off: share of them whose scales all count as switched off, 0 to 1.
        scales: channels in each bin of :attr:`ScaleReport.edges` by absolute scale.
        biases: the same by absolute bias.
    """

    channels: int
    share_off: float
    scales: tuple[int, ...]
    biases: tuple[int, ...]


@dataclass(frozen=True)
class ScaleReport:
    """The scales of one model.

    Attributes:
        edges: lower limit of each bin, ascending; the last bin is open.
        overall: over channels; a channel counts by the largest of the scales that a shortcut ties to it.
        layers: name of each batch normalisation to its own histogram.
    """

    edges: tuple[float, ...]
    overall: ScaleHistogram
    layers: dict[str, ScaleHistogram]


@dataclass(frozen=True)
class SparsityReport:
    """What sparsity training did to the scales.

    Attributes:
        summary: one line for people.
        settings: what was asked.
        before, after: the scales of the given model and of the trained one.
    """

    summary: str
    settings: SparsitySettings
    before: ScaleReport
    after: ScaleReport


@dataclass(frozen=True)
class SparsifyResult:
    """Sparse weights and what became of their scales.

    Attributes:
        trained: as for fine-tuning, but ``best`` is the last epoch's checkpoint.
        scales: histograms before and after.
    """

    trained: TrainResult
    scales: SparsityReport


@dataclass(frozen=True)
class PruningRound:
    """One round of pruning and fine-tuning.

    Attributes:
        macs_speed_up: multiply-accumulates of the unpruned model over those of this round's.
        trained: its fine-tuning.
    """

    macs_speed_up: float
    trained: TrainResult
