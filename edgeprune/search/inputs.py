"""What searches, sweeps and builds start from: a checkpoint and a dataset, held against each other and the target.

What a profile says of training is looked at here too: a search of hours may lie before it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune import checkpoint
from edgeprune.checkpoint import Checkpoint
from edgeprune.dataset import Dataset
from edgeprune.errors import DataError, TargetError
from edgeprune.input_size import InputSize, Size
from edgeprune.options import command_line, named, options_of_command
from edgeprune.quiet import process_state_kept
from edgeprune.reading import is_file, shown
from edgeprune.settings import Training, TrainSettings
from edgeprune.target import Budget, Target

if TYPE_CHECKING:
    from edgeprune.training.model_yaml import ModelDescription


@dataclass(frozen=True)
class Inputs:
    """What a command starts from.

    Attributes:
        target: with the size of the input in it.
        size: where that size comes from.
        source: the checkpoint.
        dataset: None where none was given.
    """

    target: Target
    size: InputSize
    source: Checkpoint
    dataset: Dataset | None


def read_inputs(
    target: Target,
    weights: str | Path,
    data: str | Path | None,
    *,
    trust: bool,
    splits: Iterable[str] = ("train",),
    imgsz: Size | None = None,
) -> Inputs:
    """A checkpoint, and the dataset with these splits where one is given; nothing is written.

    Args:
        target: its image size, precision and scope have to fit.
        weights: a checkpoint, or the name of one.
        data: a dataset YAML, by path or name.
        trust: load a checkpoint that holds foreign classes.
        splits: of the dataset, which have to be there; ``auto`` is the one that judges.
        imgsz: what the command says; None where it leaves the size to the target and the weights.

    Raises:
        TargetError: the target asks for what the model does not allow, or needs images and has none.
        DataError: checkpoint or dataset are unreadable or unsafe, or their classes disagree.
        StageError: two layers share a weight, so that the model cannot be narrowed.
    """
    from edgeprune.pruning.trace import refuse_shared_weights

    source = checkpoint.load(weights, trust=trust)
    refuse_shared_weights(source.model)
    refuse_lacking_head(source, target, known=False)
    size = source.size_for(command=imgsz, profile=target.stated_imgsz)
    target = target.with_overrides(imgsz=size.side)
    if data is not None:
        dataset = read_dataset(target, data, source.task, splits, source, trust=trust)
        return Inputs(target, size, source, dataset)
    if target.precision.startswith("int8"):
        raise TargetError(f"precision {target.precision} is calibrated on images: give --data")
    if target.budget.scope == "end_to_end":
        raise TargetError("budget.scope: end_to_end is timed on images: give --data")
    return Inputs(target, size, source, None)


def refuse_lacking_head(source: Checkpoint | ModelDescription, target: Target, *, known: bool) -> None:
    """Raise ``TargetError`` where the target exports a head that the model has not, hours after it was pruned.

    Args:
        source: of one head or two; ``fuse()`` leaves one of two. A classifier has no boxes that NMS could sort.
        target: what it is exported for.
        known: whether its release of TensorRT is that of a device; else the model has to have a head for none of the
            releases that the profile allows.
    """
    from edgeprune.pruning.heads import ships_end_to_end

    if target.export.nms and source.task == "classify":
        raise TargetError(f"export.nms: true: {source.path} is a classifier, and NMS is for detectors; leave it out")
    refused: list[TargetError] = []
    heads = (target.exported_head,) if known else target.possible_heads
    with options_of_command(None):  # it is the profile's key
        for head in heads:
            try:
                ships_end_to_end(source.model, head)
            except TargetError as error:
                refused.append(error)
    if len(refused) == len(heads):
        raise TargetError(f"export: {refused[0]}") from refused[0]


def refuse_untrainable(source: Checkpoint | ModelDescription) -> None:
    """Raise ``DataError`` for a checkpoint that cannot be trained, where it would be after it was pruned for hours."""
    from edgeprune.pruning.heads import refuse_untrainable_head

    try:
        refuse_untrainable_head(source.model)
    except DataError as error:
        raise DataError(f"{source.path}: {error}") from error


def refuse_unused_data(target: Target, data: str | Path | None, *, ranks: bool) -> None:
    """Raise ``TargetError`` where nothing would look at the images that were given.

    Args:
        target: what is calibrated, timed or ranked by.
        data: None where none were given.
        ranks: whether channels are ranked too.
    """
    from edgeprune.pruning.criteria import ranks_by_images

    importance = target.prune.importance
    seen = target.precision.startswith("int8") or target.qat is not None
    seen = seen or target.budget.scope == "end_to_end" or target.exported_head == "nms"
    if ranks and not seen:
        require_prunable(target, None)  # which says so of a criterion that is none
        seen = ranks_by_images(importance)
        # where a plan is dear, the diagnosis times the lower formats too, and INT8 is calibrated
        seen = seen or (target.prune.diagnose and any(one.startswith("int8") for one in target.lower_precisions))
    if data is not None and not seen:
        ranked = f", and ranks channels by {importance}, which needs none" if ranks else ""
        raise TargetError(
            f"{named('data')}: the target {shown(target.name)} neither calibrates INT8 nor times frames{ranked}; leave "
            "it out"
        )


def read_dataset(
    target: Target,
    data: str | Path,
    task: str,
    splits: Iterable[str],
    source: Checkpoint | None,
    *,
    trust: bool = False,
) -> Dataset:
    """A dataset with these splits, for a model of this task, which is known to ``source`` (None for a model
    description); ``trust`` as in :meth:`Dataset.load`.

    Raises:
        TargetError: the target's scope is not for this task.
        DataError: it is unreadable, has too few images to calibrate on, or has other classes.
    """
    if target.budget.scope == "end_to_end" and task != "detect":
        raise TargetError(f"budget.scope: end_to_end is known for detectors; a {task} model allows model")
    if source is not None:
        _refuse_frames_of(source.channels, target)
    dataset = Dataset.load(data, task=task, need=sorted(set(splits)), trust=trust)
    if source is None:  # it is trained for the data set's, whatever it says itself
        _refuse_frames_of(dataset.channels, target)
    if target.precision.startswith("int8"):
        from edgeprune.export.int8 import calibration_warnings

        calibration_warnings(min(target.calibration.images, len(dataset.images("train"))))  # refuses too few
    if source is None:
        return dataset
    return dataset.seen_by(
        source.names, channels=source.channels, kpt_shape=source.kpt_shape, single_cls=source.single_cls
    )


def _refuse_frames_of(channels: int, target: Target) -> None:
    if target.budget.scope == "end_to_end" and channels != 3:
        raise TargetError(f"budget.scope: end_to_end is known for RGB; a model of {channels} channels allows model")


@options_of_command(None)  # what it refuses is called by the profile's keys
@process_state_kept()
def require_training_arguments(target: Target, sections: Mapping[str, Training | None], *, here: bool = True) -> None:
    """Raise ``TargetError`` where Ultralytics does not take what a section of the profile says; None is left out.

    Args:
        target: its size is that of the images.
        sections: by name.
        here: whether this machine is to train: its devices and packages are looked at too.
    """
    from edgeprune.training.arguments import check_arguments, ultralytics_arguments

    check = ultralytics_arguments if here else check_arguments
    for name, section in sections.items():
        if section is not None:
            try:
                check(TrainSettings.of(section, imgsz=target.imgsz, seed=0, teacher=None))
            except TargetError as error:
                raise TargetError(f"profile {target.name}: {name}: {error}") from error


@options_of_command(None)
def require_prunable(target: Target, model: Checkpoint | ModelDescription | None) -> None:
    """Raise ``TargetError`` where a profile's ``prune`` names what is not there, before anything is measured.

    Args:
        target: its criterion, and its globs of layers.
        model: what is pruned; None where it is not known. A description is trained for hours before it is pruned: its
            layers are looked at whatever the profile names.

    Raises:
        StageError: a layer of a description cannot be followed.
    """
    from edgeprune.pruning.criteria import importance_named
    from edgeprune.pruning.pruner import AUTO, Pruner

    wanted = target.prune
    try:
        if wanted.importance != AUTO:
            importance_named(wanted.importance)
        described = model is not None and not isinstance(model, Checkpoint)
        if model is not None and (described or wanted.ignore or wanted.max_ratio):  # globs that match nothing
            Pruner(model.model, target.imgsz, ignore=wanted.ignore, max_ratio=wanted.max_ratio)
    except TargetError as error:
        raise TargetError(f"profile {target.name}: prune: {error}") from error


def frontier_command(
    target: str,
    weights: str | Path,
    data: str | Path | None,
    budget: Budget,
    options: Mapping[str, object],
    trust: bool,
) -> str:
    """The command that puts every lever side by side for a budget, with what a search or a build was given.

    Args:
        target: name or path of the profile.
        weights: as they were given, not a copy in a run directory.
        data: None leaves a place for it: without one nothing is known of accuracy.
        budget: of latency.
        options: further ones that were given, by name; those that are None were not.
        trust: the checkpoint holds foreign classes.
    """
    given = {"target": target, "data": data or "DATA.yaml", budget.kind: budget.value, **options}
    return shlex.join(command_line("frontier", [weights], given, trust))


def require_teacher(
    target: Target, dataset: Dataset, student: Checkpoint | ModelDescription, *, trust: bool = False
) -> None:
    """Raise ``DataError`` where this student cannot be taught as the profile says.

    Args:
        target: its ``finetune.teacher``; the student, which teaches where none is named, is known to fit itself.
        dataset: of the training.
        student: of the dataset's classes, which a description is trained for.
        trust: load a teacher that holds foreign classes.
    """
    from edgeprune.training.finetune import load_teacher, refuse_features

    section = target.finetune
    for teaching in (section if section.distill else None, target.qat):
        if teaching is not None:
            refuse_features(student.task, teaching)
    if not section.distill or section.teacher is None:
        return
    try:
        load_teacher(
            section.teacher,
            student.task,
            dataset.names,
            section,
            channels=dataset.channels,
            kpt_shape=dataset.kpt_shape,
            imgsz=target.imgsz,
            trust=trust,
            student=student.model,
        )
    except DataError as error:
        sought = "" if is_file(Path(section.teacher)) else "; looked for beside the profile that states it, and here"
        raise type(error)(f"profile {target.name}: finetune.teacher: {error}{sought}") from error
