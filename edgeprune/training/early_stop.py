"""End fine-tuning as soon as the accuracy is close enough to the unpruned model's."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ultralytics.cfg import TASK2METRIC
from ultralytics.utils import RANK

from edgeprune import checkpoint
from edgeprune.dataset import Dataset
from edgeprune.errors import DataError
from edgeprune.serial import digest_of, read_json, write_json
from edgeprune.settings import AccuracyGoal, TrainSettings
from edgeprune.training.arguments import validates_in_half
from edgeprune.training.classes import require_same_names
from edgeprune.training.distributed import in_a_process_of_its_own, on_first_process, processes
from edgeprune.training.run import last_of, validation_accuracy, validation_arguments
from edgeprune.version import installed

UNDOUBLED = "obb"
"""The task that Ultralytics' trainer validates in batches of its own size; for every other one here it doubles them."""

CLASS_FOLDERS = {"class_folders": "the dataset's"}


def goal_conditions(task: str) -> dict[str, str]:
    """Key entry of what rests on the unpruned model's figure: an older version could take a classifier's on other
    folders than the dataset's classes. Empty for every other task, so that what was made is kept."""
    return CLASS_FOLDERS if task == "classify" else {}


@dataclass(frozen=True)
class StopAtGoal:
    """Ultralytics callback for ``on_fit_epoch_end``: stop once the drop is below the allowed one by the margin.

    A class of an importable module with plain attributes, so that distributed training can hand it to its processes.
    """

    goal: AccuracyGoal

    def __call__(self, trainer: Any) -> None:
        accuracy = (trainer.metrics or {}).get(TASK2METRIC[trainer.args.task])
        if accuracy is not None and self.goal.baseline - accuracy <= self.goal.max_drop - self.goal.margin:
            trainer.stop = True  # Ultralytics reads it after this event, and tells the other processes


@dataclass(frozen=True)
class _Baseline:
    """What was measured: digests of the weights and of what else their figure depends on, the images of a batch (over
    all devices) and the precision, which move its last digits, and the figure."""

    weights: str
    conditions: str
    batch: int
    half: bool
    figure: float


def baseline_accuracy(
    weights: Path, *, data: Path | str, settings: TrainSettings, work: Path | str, trust: bool = False
) -> float:
    """What the trainer's own validation says of ``weights``, 0 to 1; kept in ``work``, so that a run goes on unchanged.

    An accuracy measured on another runtime does not serve: with other padding or thresholds it differs by more than the
    drops that are asked for. A run of which an epoch is finished keeps its first figure with another batch and on
    another device: the goal is the same, and the last digits would begin it anew. Where the training is with
    ``single_cls``, every object and every detection counts as of one class here too. ``trust`` as in
    :func:`~edgeprune.training.finetune.finetune`. Of several processes the first one measures.

    Raises:
        DataError: the weights cannot be read, or know other classes or channels than ``data``.
    """
    unpruned = checkpoint.load(weights, trust=trust)
    dataset = Dataset.load(data, task=unpruned.task, need=("val",), trust=trust)
    dataset = dataset.known_to(unpruned.names, single_cls=unpruned.single_cls)
    require_same_names(f"baseline {weights}", unpruned.names, dataset.names)
    dataset.check_channels(unpruned.channels, model=f"baseline {weights}")
    dataset.check_keypoints(unpruned.kpt_shape, model=f"baseline {weights}")
    return on_first_process(partial(_kept_or_measured, unpruned, dataset, settings, Path(work)))


def _kept_or_measured(unpruned: checkpoint.Checkpoint, dataset: Dataset, settings: TrainSettings, work: Path) -> float:
    factor = 1 if unpruned.task == UNDOUBLED else 2
    conditions = digest_of(
        {
            "dataset": dataset.digest,
            "imgsz": settings.side,
            "head": settings.head,
            "arguments": validation_arguments(settings),
            "ultralytics": installed("ultralytics"),
            **goal_conditions(unpruned.task),
        }
    )
    # not the share of a device: a run may go on elsewhere, with the goal it began with
    batch, half = factor * settings.batch, validates_in_half(settings)
    record = work / "unpruned.json"
    with suppress(DataError):  # none yet, or one that something cut off
        kept = read_json(_Baseline, record)
        same = (kept.weights, kept.conditions) == (unpruned.sha256, conditions)
        if same and ((kept.batch, kept.half) == (batch, half) or last_of(work).is_file()):
            return kept.figure
    readable = checkpoint.for_ultralytics(unpruned, work / "baseline.pt")
    measure = partial(
        validation_accuracy,
        readable,
        data=dataset,
        settings=settings,
        work=work,
        # rectangular batches are padded to their largest image, so it takes the trainer's own batches of validation
        batch=factor * max(settings.batch // processes(settings.device), 1),
        half=half,
    )
    accuracy = measure() if RANK == -1 else in_a_process_of_its_own(measure)
    record.parent.mkdir(parents=True, exist_ok=True)
    write_json(record, _Baseline(unpruned.sha256, conditions, batch, half, accuracy))
    return accuracy
