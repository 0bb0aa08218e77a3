"""One training run in a scratch folder that survives being killed.

`work/run/` is Ultralytics' own folder (`results.csv`, `args.yaml`, `weights/last.pt`, `weights/best.pt`), and
`work/run.json` says what it was started with. The same call again continues from the last finished epoch, or returns at
once when the run had ended. So does a call with other values of what may change between epochs (:data:`RESUMABLE`, the
device, the place of the data set). One with any other weights, data or settings starts anew and leaves the epochs that
were finished in ``work/run.before-N``; so does one that finds a damaged checkpoint, and keeps it in
``work/run.unreadable-N``. Whatever else keeps the checkpoint from being read ends the call.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

from torch import nn
from ultralytics import YOLO
from ultralytics.cfg import TASK2METRIC
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.utils import DEFAULT_CFG_DICT, LOGGER, RANK

from edgeprune.artifact import remove_unfinished, sha256_of, write_atomically
from edgeprune.checkpoint import keypoint_shape
from edgeprune.dataset import Dataset
from edgeprune.dataset.class_folders import on_class_folders
from edgeprune.errors import DamagedError, StageError
from edgeprune.export.module import head_arguments
from edgeprune.families import BOXES_ALONE, family_for
from edgeprune.input_size import both_sides
from edgeprune.logs import EPOCH_WATCHERS
from edgeprune.progress import Progress, silent
from edgeprune.pruning.heads import ships_end_to_end
from edgeprune.quiet import quiet
from edgeprune.rectangle import at_size
from edgeprune.samples.text import duration_text
from edgeprune.settings import TrainSettings
from edgeprune.training.arguments import training_device, ultralytics_arguments
from edgeprune.training.distillation import AttachTeacher
from edgeprune.training.distributed import on_first_process
from edgeprune.training.failures import as_one_line
from edgeprune.training.result import Epoch
from edgeprune.training.results_csv import read_epochs, row_of
from edgeprune.training.trainers import ENDED, STATE, TRAINERS, AtRectangle, ReadBy
from edgeprune.unpickle import content_of, known_classes_only, own_name
from edgeprune.workspace import LOCK, differences, open_workspace

_logger = logging.getLogger(__name__)

Watcher = tuple[str, Callable[[Any], None]]
"""An Ultralytics callback event and what to call with the trainer; importable, for distributed training pickles it."""

RESUMABLE = {"batch": "batch", "patience": "patience", "time_h": "time"} | {
    f"train.{name}": name for name in ("cache", "channels_last", "close_mosaic", "freeze", "plots", "save_period")
}
"""Settings that a run which has not ended goes on with, to Ultralytics' arguments: what it takes on a resume. The size
of the images is not among them: the figures of epochs before and after could not be compared."""
ELSEWHERE = ("device", "workers", "amp", "distill_model")
"""Arguments that say where a run goes on, or follow from it: its precision is the device's, a teacher may lie elsewhere
(the same by its digest)."""
VALIDATION = ("conf", "iou", "max_det", "agnostic_nms", "overlap_mask", "mask_ratio", "fraction", "single_cls")
"""Training arguments that change the figures of validation."""


@dataclass(frozen=True)
class FinishedRun:
    """A run that ended.

    Attributes:
        best: full-precision checkpoint of the best epoch, in the scratch folder.
        last: checkpoint of the last epoch with everything that an exact continuation needs.
        task: of the model.
        epochs_run: epochs finished, over all continuations.
        best_epoch: the epoch of ``best``, counted from 1; 0 for the given model.
        epochs: every finished epoch in order.
        seconds: time in the training loop, over all continuations.
        given: epoch 0, the given model, where it was a candidate for the best.
    """

    best: Path
    last: Path
    task: str
    epochs_run: int
    best_epoch: int
    epochs: tuple[Epoch, ...]
    seconds: float
    given: Epoch | None = None


@contextmanager
def alone_in(work: Path | str, out: Path | str) -> Iterator[None]:
    """Hold the scratch folder of a training, and with it what the training leaves in ``out``: a second one there would
    take this one's epochs away, and both would say that all is well. Of several processes the first one holds it. What
    a killed one had not finished writing is removed.

    Raises:
        StageError: another training works there.
        TargetError: the folder cannot be written, or its file system has no locks.
    """
    if RANK not in {-1, 0}:
        yield
        return
    with open_workspace(Path(work), "training"):
        run = Path(work) / "run"
        if (run / LOCK).is_file():  # held by processes on GPUs that outlived the training which started them
            with open_workspace(run, "training"):
                pass
        remove_unfinished(run / "weights")
        if Path(work).absolute().parent == Path(out).absolute():  # else another training may write there
            remove_unfinished(Path(out))
        yield


def run_training(
    work: Path | str,
    source: Path | str,
    *,
    data: Path | str,
    settings: TrainSettings,
    watchers: Sequence[Watcher] = (),
    identity: Mapping[str, Any] | None = None,
    keep_given: bool = False,
    take_ended: bool = False,
    label: str = "training",
    progress: Progress = silent,
) -> FinishedRun:
    """Train ``source`` (weights or a model YAML) on ``data`` inside ``work``, continuing what is there.

    ``identity`` is plain data that says what the watchers do, and under ``dataset`` the digest of the data: with other
    values a run begins anew. With ``keep_given`` the model as it was given is epoch 0 and a candidate for the best.
    With ``take_ended`` a run that had ended is the result where only what may change between epochs has changed.

    Raises:
        TargetError: an unknown or wrong training argument.
        DataError: the data set or the weights are unusable.
        StageError: training failed (out of memory, NaN, disk full, a loader process that died); the last good epoch
            stays in ``work``.
        ToolError: the launcher of distributed training failed.
    """
    work = Path(work).resolve()
    arguments = ultralytics_arguments(settings)
    last = last_of(work)
    folder = last.parent.parent
    ended = folder / ENDED  # a watcher may end a run after its last epoch was saved
    identity = {**(identity or {}), "keep_given": keep_given}
    prepare = partial(_prepare, folder, source, data, settings, identity, take_ended=take_ended)
    before = _Before(*on_first_process(prepare))
    epochs_done = before.epochs
    if before.said and RANK in {-1, 0}:
        _logger.warning("%s %s", label, before.said)
    if not before.ended:
        with ExitStack() as stack:
            stack.enter_context(known_classes_only())
            stack.enter_context(quiet() if settings.quiet else nullcontext())
            place = stack.enter_context(own_name(work))  # of last.pt and best.pt, which Ultralytics reads by itself too
            resumed = place / last.relative_to(work)
            if place != work:
                watchers = [*watchers, (ReadBy.EVENT, ReadBy(resumed.parent))]
            model = YOLO(str(resumed) if epochs_done else _named_for_ultralytics(stack, source))
            if teacher := arguments["distill_model"]:
                arguments["distill_model"] = _named_for_ultralytics(stack, teacher)
            if settings.teacher and settings.response:
                teach = AttachTeacher(Path(settings.teacher), settings.response)
                watchers = [*watchers, ("on_pretrain_routine_end", teach)]
            height, width = both_sides(settings.side)
            if height != width:
                watchers = [*watchers, (AtRectangle.EVENT, AtRectangle(height, width))]
            report = EpochReporter(label, progress)
            watchers = [*EPOCH_WATCHERS, *watchers, ("on_fit_epoch_end", report)]
            if keep_given:
                watchers.append(("on_train_start", ValidateGiven(report)))
            for event, watcher in watchers:
                model.add_callback(event, watcher)
            if epochs_done:
                progress(f"{label} goes on after epoch {epochs_done}", done=epochs_done, total=settings.epochs)
                names = [*ELSEWHERE, *(RESUMABLE[key] for key in before.changed)]
                changeable = {name: arguments.get(name, DEFAULT_CFG_DICT.get(name)) for name in names}
                arguments = {**changeable, "resume": str(resumed), "save_dir": str(folder)}
            else:
                arguments |= {"project": str(work), "name": folder.name, "exist_ok": True}
                arguments = {**_head(model, settings), **arguments}
            _train(model, settings, folder, data=str(data), **arguments)
        on_first_process(ended.touch)
    try:
        state = _read_state(last)
    except _NotContinuedError as error:
        raise StageError(f"{label} ended with a checkpoint that cannot be read: {error}") from error
    best = folder / "weights" / "best.pt"
    if state is None or not best.is_file():
        raise StageError(f"{label} ended without a checkpoint in {folder}; the log above says why")
    epochs = read_epochs(folder / "results.csv")
    return FinishedRun(best, last, state.task, state.epochs, state.best_epoch, epochs, state.seconds, state.given)


def last_of(work: Path) -> Path:
    """Where a training in ``work`` keeps its last finished epoch."""
    return work / "run" / "weights" / "last.pt"


def _named_for_ultralytics(stack: ExitStack, source: Path | str) -> str:
    """A checkpoint by :func:`own_name`, until ``stack`` is left; a model YAML and a name to download by their own."""
    path = Path(source)
    return str(stack.enter_context(own_name(path))) if path.suffix == ".pt" and path.is_file() else str(source)


def _train(model: YOLO, settings: TrainSettings, folder: Path, **arguments: Any) -> None:
    """``model.train`` with known failures as one line each; anything else keeps its traceback."""
    with warnings.catch_warnings(), as_one_line(settings, folder, lambda: model.trainer):
        warnings.filterwarnings("ignore", module="modelopt")  # of extensions that are not compiled here
        model.train(trainer=TRAINERS[str(model.task)], **arguments)


def _head(model: YOLO, settings: TrainSettings) -> dict[str, Any]:
    """The argument by which Ultralytics validates the head that ships; without it, it takes the one-to-many head of a
    model with two, and the best epoch would be that of a head which no export keeps."""
    return head_arguments(end_to_end=ships_end_to_end(cast(nn.Module, model.model), settings.head))


def validation_accuracy(
    weights: Path,
    *,
    data: Path | str | Dataset,
    settings: TrainSettings,
    work: Path | str,
    batch: int | None = None,
    half: bool = False,
) -> float:
    """The task's main figure of ``weights`` on the validation split, through plain ``YOLO(weights).val``.

    Of two heads, the one that ``settings`` says will ship, and by the arguments of validation that it trains with.
    ``batch`` is Ultralytics' default unless given; ``half`` computes in float16, as training validates on a GPU: the
    figure of a result is float32's.
    """
    folder = Path(work).resolve()
    silence = quiet() if settings.quiet else nullcontext()
    with known_classes_only(), silence, own_name(weights) as named, as_one_line(settings, folder):
        model = YOLO(str(named))
        dataset = data if isinstance(data, Dataset) else Dataset.load(data, task=str(model.task), need=("val",))
        arguments: Any = model.model.args  # type: ignore[union-attr]  of a loaded checkpoint, as it was trained
        dataset = dataset.seen_by(
            model.names,
            kpt_shape=keypoint_shape(cast(nn.Module, model.model)),
            single_cls=bool(arguments.get("single_cls")),
        )
        height, width = both_sides(settings.side)
        kind = on_class_folders(family_for(str(model.task)).validator, dataset.names)
        metrics: Any = model.val(
            validator=at_size(kind, settings.side),
            **({} if height == width else {"rect": False}),
            data=str(dataset.for_ultralytics("val")),
            imgsz=max(height, width),
            device=training_device(settings).split(",")[0],
            workers=settings.workers,
            plots=False,
            verbose=False,
            project=str(folder),
            name="val",
            exist_ok=True,
            **_head(model, settings),
            **validation_arguments(settings),
            **({} if batch is None else {"batch": batch}),
            **({"quantize": 16} if half else {}),
        )
    return float(metrics.results_dict[TASK2METRIC[str(model.task)]])


def validation_arguments(settings: TrainSettings) -> dict[str, Any]:
    """Those of the training arguments that its validation of every epoch hears too."""
    return {name: value for name, value in settings.train.items() if name in VALIDATION}


class _Before(NamedTuple):
    """What lies in a run's folder when it is called for: epochs to go on from, whether it had ended, what has changed
    since it began (keys of :data:`RESUMABLE`), and what is to be said of changes."""

    epochs: int
    ended: bool
    changed: Sequence[str] = ()
    said: str = ""


def _prepare(
    folder: Path,
    source: Path | str,
    data: Path | str,
    settings: TrainSettings,
    identity: Mapping[str, Any],
    *,
    take_ended: bool = False,
) -> _Before:
    """See what a run in ``folder`` can go on from; without any of it the folder is moved aside."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    record, last = folder.parent / "run.json", folder / "weights" / "last.pt"
    request, (known, changed) = _request(source, data, settings, identity), _read_request(record)
    lines = ["run.json does not say how it was trained"] if known is None else differences(known, request)
    now = {line.partition(":")[0] for line in lines}
    said, state = "", None
    try:
        state = None if known is None else _read_state(last)
    except _NotContinuedError as error:
        said = f"starts anew: {error}; what was there is kept in {_put_aside(folder, 'unreadable')}"
    ended = state is not None and (state.ended or (folder / ENDED).exists())
    if state is not None and lines and ended and take_ended and _may_change(now, request):
        return _Before(
            state.epochs, True, said=f"had ended with other settings ({'; '.join(lines)}), and stays as it is"
        )
    if state is None or (lines and (ended or not _may_change(now, request))):
        if os.path.lexists(last):  # an epoch was finished
            said = f"starts anew ({'; '.join(lines)}); the run before it is kept in {_put_aside(folder, 'before')}"
        shutil.rmtree(folder, ignore_errors=True)
        _write_request(record, request, [])  # last: a run that is stopped here continues no other one's epochs
        return _Before(0, False, said=said)
    changed = sorted({*changed, *now})
    _write_request(record, request, changed)
    _drop_rows_after(folder / "results.csv", state.epochs)
    return _Before(state.epochs, ended, changed, f"goes on with other settings ({'; '.join(lines)})" if lines else "")


def _may_change(keys: Collection[str], request: Mapping[str, Any]) -> bool:
    """Whether a run may go on where these keys of its request have changed. The epochs of a run by time are no longer
    those that were asked for, so that it cannot go on by epochs."""
    return {*keys} <= RESUMABLE.keys() and not ("time_h" in keys and request["time_h"] is None)


def _put_aside(folder: Path, why: str) -> Path:
    """Move a run that cannot be continued to a name of its own, which is given back: its epochs may be worth hours."""
    names = (folder.with_name(f"{folder.name}.{why}-{number}") for number in itertools.count(1))
    return folder.rename(next(name for name in names if not os.path.lexists(name)))


class _NotContinuedError(Exception):
    """A last.pt was read, and is damaged or of another kind of run: it will never be continued."""


@dataclass(frozen=True)
class _State:
    """What a last.pt says about its run: task, finished epochs, seconds of training, whether it had ended, epoch 0."""

    task: str
    epochs: int
    best_epoch: int
    seconds: float
    ended: bool
    given: Epoch | None


def _read_state(last: Path) -> _State | None:
    """The state in a last.pt; None where there is none.

    Raises:
        _NotContinuedError: it is damaged, or of another kind of run.
        DataError: it cannot be read, here or now.
        Exception: anything else that reading it leads to; none of it says that the file is bad.
    """
    try:
        last.stat()
    except FileNotFoundError:
        return None
    try:
        content = content_of(last, trust=False)  # not checkpoint.load: under distillation it is no model
    except DamagedError as error:
        raise _NotContinuedError(str(error)) from error
    own = content.get(STATE) if isinstance(content, dict) else None
    if not isinstance(own, dict) or not own.keys() >= {"given", "best_epoch", "seconds", "ended"}:
        raise _NotContinuedError(f"{last} says nothing of a training of edgeprune")
    task, epochs = content["train_args"]["task"], content["epoch"] + 1
    if task not in BOXES_ALONE and own.get("best_by") != TASK2METRIC[task]:
        raise _NotContinuedError(f"the best epoch in {last} was chosen by another figure than {TASK2METRIC[task]}")
    given = None if own["given"] is None else Epoch(0, 0.0, own["given"]["figures"])
    return _State(task, epochs, own["best_epoch"], float(own["seconds"]), bool(own["ended"]), given)


def _request(
    source: Path | str, data: Path | str, settings: TrainSettings, identity: Mapping[str, Any]
) -> dict[str, Any]:
    """What is trained and how, as JSON has it: what a run of the same is known by."""
    request = asdict(settings) | {"imgsz": settings.side} | dict(identity)
    for key in ("device", "workers", "quiet"):  # may change between continuations
        request.pop(key)
    request.pop("train")
    request |= {f"train.{name}": value for name, value in settings.train.items()}
    path = Path(source)
    request["source"] = sha256_of(path) if path.is_file() else str(source)
    if "dataset" not in request:  # the digest tells it, wherever it lies
        request["data"] = str(data)
    if settings.teacher:
        request["teacher"] = sha256_of(settings.teacher)
    return json.loads(json.dumps(request, default=str))


def _read_request(record: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The request in a record and what has changed since its run began; None where it does not say so."""
    try:
        content = json.loads(record.read_text())
    except (FileNotFoundError, ValueError):
        return None, []
    match content:
        case {"request": dict(request), "changed": list(changed)} if all(isinstance(key, str) for key in changed):
            return request, changed
        case {"source": str(), "train": dict(train), **others} if "request" not in content:  # of older versions
            request = others | {"source": content["source"]} | {f"train.{name}": train[name] for name in train}
            if "dataset" in request:
                request.pop("data", None)
            return request, []
        case _:
            return None, []


def _write_request(record: Path, request: Mapping[str, Any], changed: Sequence[str]) -> None:
    text = json.dumps({"request": request, "changed": changed}, indent=2, sort_keys=True)
    if not record.is_file() or record.read_text() != text:
        write_atomically(record, text)


def _drop_rows_after(results: Path, epochs: int) -> None:
    """Cut a ``results.csv`` to its finished epochs, and those to whole ones.

    Ultralytics writes an epoch's row before it saves the epoch: a kill between the two leaves a row that comes again,
    and a loss of power a line of anything.
    """
    if not results.is_file():
        return
    header, *lines = results.read_text(errors="replace").splitlines(keepends=True) or [""]
    whole = [(line, row_of(header, line)) for line in lines if line.endswith("\n")]
    rows = [line for line, row in whole if row is not None and row["epoch"] <= epochs]
    write_atomically(results, "".join([header, *rows]))


class EpochReporter:
    """Reports every epoch as progress; a class, so that distributed training can pickle it without its listener. Where
    other processes train, it is told of the rows of their ``results.csv``."""

    def __init__(self, label: str, progress: Progress) -> None:
        self.label = label
        self.progress = progress

    def __getstate__(self) -> dict[str, Any]:
        return {"label": self.label, "progress": silent}

    def __call__(self, trainer: BaseTrainer) -> None:
        name = TASK2METRIC[trainer.args.task]
        self._report(trainer, trainer.epoch + 1, trainer.epochs, (trainer.metrics or {}).get(name), time_left(trainer))

    def finished(self, trainer: BaseTrainer, epoch: Epoch) -> None:
        """An epoch that processes on several GPUs finished; by time, only they know how many it will be."""
        left = trainer.epochs - epoch.number
        known = not trainer.args.time and left >= 0
        accuracy = epoch.figures.get(TASK2METRIC[trainer.args.task])
        text = _left_text(epoch.seconds / epoch.number * left) if known and left and epoch.number else ""
        self._report(trainer, epoch.number, trainer.epochs if known else 0, accuracy, text)

    def _report(self, trainer: BaseTrainer, done: int, total: int, accuracy: float | None, left: str) -> None:
        name = TASK2METRIC[trainer.args.task].split("/")[-1]
        text = "" if accuracy is None else f", {name} {accuracy:.3f}"
        of = f"/{total}" if total else ""
        self.progress(f"{self.label} epoch {done}{of}{text}{left}", done=done, total=total)


def time_left(trainer: BaseTrainer) -> str:
    """How long the epochs that are left take at the mean pace of this run so far; empty when none is left, or none was
    run. Early stopping may end it before."""
    done = trainer.epoch + 1
    left, run = trainer.epochs - done, done - trainer.start_epoch  # a run that goes on timed its own epochs alone
    if left <= 0 or run <= 0:
        return ""
    return _left_text((time.time() - trainer.train_time_start) / run * left)


def _left_text(seconds: float) -> str:
    return f", about {duration_text(seconds)} left"


class ValidateGiven:
    """Ultralytics callback for ``on_train_start``: validates the model as it was given, and reports it as epoch 0."""

    def __init__(self, report: EpochReporter) -> None:
        self.report = report

    def __call__(self, trainer: Any) -> None:
        LOGGER.info("Epoch 0 is the model as it was given; it is kept unless an epoch is better")
        if trainer.validate_given():
            self.report(trainer)
