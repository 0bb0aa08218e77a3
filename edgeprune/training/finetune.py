"""Fine-tune a pruned model: the given module itself, never a copy built from its YAML.

The result is a float32 checkpoint of the best epoch, in stock Ultralytics classes, of the structure that was given.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from edgeprune import checkpoint
from edgeprune.dataset import Dataset
from edgeprune.errors import DataError, StageError
from edgeprune.input_size import Size, pixels
from edgeprune.options import BEST, named, refuse_other_training, refuse_source
from edgeprune.progress import Progress, Reporter, one_run, reporter_of, said_in_this_run
from edgeprune.pruning.heads import (
    has_end_to_end_head,
    has_one_to_many_head,
    refuse_untrainable_head,
    ships_end_to_end,
)
from edgeprune.quiet import process_state_kept
from edgeprune.settings import AccuracyGoal, Teaching, TrainSettings
from edgeprune.training.classes import fit_classes, require_same_names
from edgeprune.training.distributed import on_first_process
from edgeprune.training.early_stop import StopAtGoal
from edgeprune.training.result import TrainResult
from edgeprune.training.result_from_run import result_from_run
from edgeprune.training.run import Watcher, alone_in, run_training
from edgeprune.training.sizes import sized
from edgeprune.training.trainers import averaged_model

_logger = logging.getLogger(__name__)


@one_run()
@process_state_kept()
def finetune(
    weights: Path | str,
    *,
    data: Path | str,
    out: Path | str,
    settings: TrainSettings,
    work: Path | str,
    metadata: Mapping[str, object] | None = None,
    until: AccuracyGoal | None = None,
    watchers: Sequence[Watcher] = (),
    identity: Mapping[str, Any] | None = None,
    keep: Literal["best", "last"] = "best",
    take_ended: bool = False,
    trust: bool = False,
    teacher_is_named: bool = True,
    label: str = "fine-tune",
    progress: Progress | Reporter | None = None,
) -> TrainResult:
    """Train ``weights`` on ``data`` with every width kept; call it again to go on after a kill.

    Args:
        weights: an Ultralytics checkpoint, pruned or not.
        data: a data set as Ultralytics takes it (YAML path or name; a folder for classification). If it has other
            classes than the model, the class outputs are replaced and nothing else.
        out: folder that receives ``best.pt`` and ``results.csv``; none that has those of another training.
        settings: how to train.
        work: scratch folder of this run alone; keep it until the call has returned.
        metadata: plain data to keep inside the checkpoint; None keeps what ``weights`` holds.
        until: end as soon as the drop against a baseline is small enough.
        watchers: Ultralytics callbacks to add.
        identity: plain data that says what they do; with other values a run in ``work`` begins anew.
        keep: which epoch's averaged weights to give; for ``best`` the model as it was given is epoch 0, so that the
            result is never worse on the validation split, by the task's own figure in the trainer's validation.
        take_ended: a run in ``work`` that had ended is the result also where a batch, patience, time or anything else
            that may change between epochs is another one now; else it begins anew.
        trust: load weights and teacher with foreign classes, and as in :meth:`Dataset.load`; both execute code.
        teacher_is_named: whether somebody named the teacher; then one that was trained at another size is told.
        label: what ``progress`` calls the work.
        progress: called after every epoch, or a :class:`~edgeprune.progress.Reporter`; nobody by default.

    Raises:
        TargetError: a wrong setting, a folder that cannot be written, or ``best.pt`` would take the place of the
            weights, or of what another training left.
        DataError: weights, teacher or data set are unusable or disagree, or the data set was changed meanwhile.
        StageError: training failed, the structure changed, or another training works in ``work``.
    """
    tell = reporter_of(progress).progress
    refuse_source(Path(out) / BEST, weights, settings.teacher)
    refuse_other_training(out, work)
    source = checkpoint.load(weights, trust=trust)
    before = source.model
    refuse_untrainable_head(before)
    ships_end_to_end(before, settings.head)  # refuses one that is not there
    settings = sized(settings, source)
    dataset = Dataset.load(data, task=source.task, trust=trust)
    dataset.check_channels(source.channels, model=str(source.path))
    dataset.check_keypoints(source.kpt_shape, model=str(source.path))
    asked = settings.train.get("single_cls")
    if asked or asked is None:  # the model is believed where nothing is said
        known = dataset.known_to(source.names, single_cls=source.single_cls)
        dataset = known if known.one_class or not asked else dataset.of_one_class()
    if dataset.one_class:
        settings = replace(settings, train={**settings.train, "single_cls": True})
    with alone_in(work, out):
        given = checkpoint.for_ultralytics(source, Path(work) / "given.pt")
        names = dict(dataset.names)
        if fit_classes(before, names, by_name=settings.train.get("cls_remap", True)):
            tell(f"the head is given the {len(names)} classes of {data}")
        if settings.teacher:
            teacher = load_teacher(
                settings.teacher,
                source.task,
                names,
                settings,
                channels=dataset.channels,
                kpt_shape=dataset.kpt_shape,
                imgsz=settings.imgsz if teacher_is_named else None,
                trust=trust,
                student=before,
            )
            settings = replace(settings, teacher=checkpoint.for_ultralytics(teacher, Path(work) / "teacher.pt"))
        if until is not None:
            watchers = [*watchers, ("on_fit_epoch_end", StopAtGoal(until))]
            identity = {**(identity or {}), "until": asdict(until)}
        identity = {**(identity or {}), "dataset": dataset.digest}
        run = run_training(
            work,
            given,
            data=data,
            settings=settings,
            watchers=watchers,
            identity=identity,
            keep_given=keep == "best",
            take_ended=take_ended,
            label=label,
            progress=tell,
        )
        on_first_process(dataset.require_unchanged)
        after: Any = checkpoint.load(run.best).model if keep == "best" else averaged_model(run.last)
        if checkpoint.shape_signature(after) != checkpoint.shape_signature(before):
            raise StageError(
                f"training changed the model from {checkpoint.parameter_count(before)} to "
                f"{checkpoint.parameter_count(after)} parameters; report this with the Ultralytics version"
            )
        after.names = names  # the trainer does not know what the one class of a model is called
        carried = source.edgeprune if metadata is None else metadata
        if "shape_signature" in carried:  # another data set's classes are the one change of shapes that is meant
            carried = {**carried, "shape_signature": checkpoint.shape_signature(after)}
        epoch = run.best_epoch if keep == "best" else run.epochs_run
        return result_from_run(
            run, after, epoch=epoch, data=data, out=out, settings=settings, work=work, metadata=carried
        )


def load_teacher(
    path: Path | str,
    task: str,
    names: Mapping[int, str],
    teaching: Teaching,
    *,
    channels: int,
    kpt_shape: tuple[int, int] | None = None,
    imgsz: Size | None = None,
    trust: bool = False,
    student: nn.Module | None = None,
) -> checkpoint.Checkpoint:
    """A teacher that a student can be taught by.

    Args:
        path: a checkpoint, or the name of one that Ultralytics downloads; it may be of another scale.
        task, names: of the student.
        teaching: how it is heard.
        channels: of the images that both are given.
        kpt_shape: keypoints of the student and numbers a keypoint, for pose.
        imgsz: in pixels, of the images that both are given; a teacher that was trained at another size is heard all
            the same, with one warning. None says nothing of it.
        trust: load foreign classes.
        student: its answers are compared with the teacher's; None where it is not there yet.

    Raises:
        DataError: it cannot be read, or is of another task, of other classes, channels or keypoints, answers in
            another form, or lacks a head that ``fuse()`` removed.
    """
    teacher = checkpoint.load(path, trust=trust)
    if teacher.task != task:
        raise DataError(
            f"teacher {path} is a {teacher.task} model and the student a {task} model; distillation needs two models "
            "of one task"
        )
    refuse_features(task, teaching)
    require_same_names(f"teacher {path}", teacher.names, dict(names))
    if teacher.channels != channels:
        raise DataError(
            f"teacher {path} takes images of {teacher.channels} channels and the student of {channels}; name one that "
            "takes the same, or go without"
        )
    if kpt_shape is not None and teacher.kpt_shape and teacher.kpt_shape != kpt_shape:
        raise DataError(
            f"teacher {path} gives keypoints of kpt_shape {list(teacher.kpt_shape)} and the student of "
            f"{list(kpt_shape)}; name one that gives the same, or go without"
        )
    if student is not None and task != "classify" and _answers(teacher.model) != _answers(student):
        raise DataError(
            f"teacher {path} answers by {_answers(teacher.model)}, the student by {_answers(student)}; name a teacher "
            "of the student's family"
        )
    if not has_one_to_many_head(teacher.model):
        raise DataError(
            f"teacher {path} was fused, which removed the one of its two heads that a student learns most from; give "
            "the checkpoint from before fuse()"
        )
    _say_other_size(teacher, path, imgsz)
    return teacher


def _say_other_size(teacher: checkpoint.Checkpoint, path: Path | str, imgsz: Size | None) -> None:
    size = teacher.size_for(profile=imgsz)
    if not size.trained or not size.differs:
        return
    line = (
        f"teacher {path}: its input is {pixels(size.side)}, as the student's; it was trained at {pixels(size.trained)}"
    )
    if line not in (said := said_in_this_run()):
        said.add(line)
        _logger.warning("%s", line)


def refuse_features(task: str, teaching: Teaching) -> None:
    """Raise ``DataError`` where features are to be heard of a model whose head has none to give."""
    if teaching.feature and task == "classify":
        raise DataError(
            f"{named('feature', f'{teaching.feature:g}')}: features are those of a detection head, which a {task} "
            "model lacks; leave it at 0"
        )


def _answers(model: Any) -> str:
    """The form of a detector's raw answers, which two models must share to be compared."""
    head = model.model[-1]
    branches = "two heads" if has_end_to_end_head(model) else "one head"
    strides = ", ".join(f"{float(stride):g}" for stride in head.stride)
    return f"{branches} of {head.reg_max} bins a side at strides {strides}"
