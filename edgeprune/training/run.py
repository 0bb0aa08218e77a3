"""One training run in a scratch folder that survives being killed.

`work/run/` is Ultralytics' own folder (`results.csv`, `args.yaml`, `weights/last.pt`, `weights/best.pt`), and
`work/run.json` says what it was started with. The same call again continues from the last finished epoch, or returns at
once when the run had ended; a call with other weights, data or settings starts anew.
"""

from __future__ import annotations

import csv
import json
import logging
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ultralytics import YOLO
from ultralytics.cfg import TASK2METRIC
from ultralytics.data.utils import check_cls_dataset, check_det_dataset
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.nn.tasks import torch_safe_load
from ultralytics.utils import LOGGER

from edgeprune.artifact import sha256_of, write_atomically
from edgeprune.errors import DataError, EdgepruneError, StageError, TargetError, ToolError
from edgeprune.progress import Progress, silent
from edgeprune.training.processes import by_first
from edgeprune.training.response import AttachTeacher
from edgeprune.training.settings import TrainSettings, first_line, ultralytics_arguments
from edgeprune.training.trainers import STATE, trainer_for

Watcher = tuple[str, Callable[[Any], None]]
"""An Ultralytics callback event and what to call with the trainer; importable, for distributed training pickles it."""


@dataclass(frozen=True)
class TrainResult:
    """What a training stage gives back.

    Attributes:
        best: the best epoch's checkpoint, float32, stock Ultralytics classes only.
        epochs_run: epochs finished, over all continuations.
        best_epoch: the epoch of ``best``, counted from 1.
        curves: one row an epoch: the columns of ``results.csv`` by name (losses, metrics, learning rates).
        map50_95: the task's main figure of ``best`` on the validation split, as plain ``YOLO(best).val`` gives it:
            mAP50-95 of boxes, masks or key points; top-1 accuracy for a classifier.
        seconds: time in the training loop, over all continuations.
    """

    best: Path
    epochs_run: int
    best_epoch: int
    curves: list[dict[str, float]]
    map50_95: float
    seconds: float


@dataclass(frozen=True)
class FinishedRun:
    """A run that ended: ``best`` is its full-precision checkpoint in the scratch folder, ``last`` its full state."""

    best: Path
    last: Path
    task: str
    epochs_run: int
    best_epoch: int
    curves: list[dict[str, float]]
    seconds: float


def class_names(data: Path | str, task: str, *, quiet: bool = False) -> dict[int, str]:
    """Class index to name of a data set, which is found (or fetched) and checked the way Ultralytics does.

    Raises:
        DataError: the data set is missing, incomplete or contradicts itself.
    """
    try:
        with _quiet(quiet):
            described = (check_cls_dataset if task == "classify" else check_det_dataset)(str(data))
    except Exception as error:  # Ultralytics raises six kinds here, all of them about the data set
        raise DataError(f"data set {data}: {first_line(error)}") from error
    return dict(described["names"])


def train_in(
    work: Path | str,
    source: Path | str,
    *,
    data: Path | str,
    settings: TrainSettings,
    watchers: Sequence[Watcher] = (),
    identity: Mapping[str, Any] | None = None,
    label: str = "training",
    progress: Progress = silent,
) -> FinishedRun:
    """Train ``source`` (weights or a model YAML) on ``data`` inside ``work``, continuing what is there.

    ``identity`` is plain data that says what the watchers do: with other values a run begins anew.

    Raises:
        TargetError: an unknown or wrong training argument.
        DataError: the data set or the weights are unusable.
        StageError: training failed (out of memory, NaN, disk full); the last good epoch stays in ``work``.
        ToolError: the launcher of distributed training failed.
    """
    work = Path(work).resolve()
    arguments = ultralytics_arguments(settings)
    folder = work / "run"
    last = folder / "weights" / "last.pt"
    ended = folder / "ended"  # a watcher may end a run after its last epoch was saved

    def found() -> tuple[dict[str, Any] | None, bool]:
        """What there is to go on from, and whether that is all; anything else is cleared away."""
        work.mkdir(parents=True, exist_ok=True)
        state = _state_of(last) if _same_run(work, source, data, settings, identity or {}) else None
        if state is None:
            shutil.rmtree(folder, ignore_errors=True)
            return None, False
        _drop_rows_after(folder / "results.csv", state.epochs)
        return asdict(state), state.ended or ended.exists()

    resumable, finished = by_first(found)
    if not finished:
        with _quiet(settings.quiet), _clear_errors(settings, last):
            model = YOLO(str(last if resumable else source))
            if settings.distill and settings.response:
                teach = AttachTeacher(settings.distill, settings.response)
                watchers = [*watchers, ("on_pretrain_routine_end", teach)]
            for event, watcher in [*watchers, ("on_fit_epoch_end", _Reporter(label, progress))]:
                model.add_callback(event, watcher)
            if resumable:
                done = resumable["epochs"]
                progress(f"{label} goes on after epoch {done}", done=done, total=settings.epochs)
                allowed = {key: arguments[key] for key in ("device", "workers")}
                arguments = {**allowed, "resume": str(last), "save_dir": str(folder)}
            else:
                arguments |= {"project": str(work), "name": folder.name, "exist_ok": True}
            model.train(trainer=trainer_for(str(model.task)), data=str(data), **arguments)
        by_first(ended.touch)
    state = _state_of(last)
    best = folder / "weights" / "best.pt"
    if state is None or not best.is_file():
        raise StageError(f"{label} ended without a checkpoint in {folder}; the log above says why")
    curves = read_curves(folder / "results.csv")
    return FinishedRun(best, last, state.task, state.epochs, state.best_epoch, curves, state.seconds)


def validated(
    weights: Path, *, data: Path | str, settings: TrainSettings, work: Path | str, batch: int | None = None
) -> float:
    """The task's main figure of ``weights`` on the validation split, through plain ``YOLO(weights).val``.

    ``batch`` is Ultralytics' default unless given.
    """
    with _quiet(settings.quiet):
        model = YOLO(str(weights))
        metrics: Any = model.val(
            data=str(data),
            imgsz=settings.imgsz,
            device=settings.device.split(",")[0],
            plots=False,
            verbose=False,
            project=str(Path(work).resolve()),
            name="val",
            exist_ok=True,
            **({} if batch is None else {"batch": batch}),
        )
    return float(metrics.results_dict[TASK2METRIC[str(model.task)]])


def read_curves(results: Path) -> list[dict[str, float]]:
    """The rows of a ``results.csv``, every column as a float."""
    if not results.is_file():
        return []
    with results.open(newline="") as file:
        return [{key.strip(): float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@dataclass(frozen=True)
class _State:
    task: str
    epochs: int
    best_epoch: int
    seconds: float
    ended: bool


def _state_of(last: Path) -> _State | None:
    """What a last.pt says about its run; None if there is none or it cannot be read, so that the run begins anew."""
    if not last.is_file():
        return None
    try:
        raw, _ = torch_safe_load(str(last), safe_only=True)  # not checkpoint.load: under distillation it is no model
        own = raw[STATE]
        return _State(
            raw["train_args"]["task"], raw["epoch"] + 1, own["best_epoch"], float(own["seconds"]), bool(own["ended"])
        )
    except Exception as error:  # whatever is wrong with it, the run can begin anew
        LOGGER.warning(f"{last} cannot be continued ({first_line(error)}); training starts anew")
        return None


def _same_run(
    work: Path, source: Path | str, data: Path | str, settings: TrainSettings, identity: Mapping[str, Any]
) -> bool:
    """Whether ``work`` was started with the same things; records them if not."""
    asked = asdict(settings) | dict(identity)
    for key in ("device", "workers", "quiet"):  # may change between continuations
        asked.pop(key)
    path = Path(source)
    asked |= {"source": sha256_of(path) if path.is_file() else str(source), "data": str(data)}
    if settings.distill:
        asked["distill"] = sha256_of(settings.distill)
    text = json.dumps(asked, indent=2, sort_keys=True, default=str)
    record = work / "run.json"
    if record.is_file() and record.read_text() == text:
        return True
    write_atomically(record, text)
    return False


def _drop_rows_after(results: Path, epochs: int) -> None:
    """Ultralytics writes an epoch's row before it saves the epoch: a kill between leaves a row that will come again."""
    if not results.is_file():
        return
    lines = results.read_text().splitlines(keepends=True)
    kept = [line for line in lines[1:] if line.endswith("\n") and int(float(line.split(",")[0])) <= epochs]
    write_atomically(results, "".join([*lines[:1], *kept]))


class _Reporter:
    """Tells the watcher of every epoch; a class, so that distributed training can pickle it without its watcher."""

    def __init__(self, label: str, progress: Progress) -> None:
        self.label = label
        self.progress = progress

    def __getstate__(self) -> dict[str, Any]:
        return {"label": self.label, "progress": silent}

    def __call__(self, trainer: BaseTrainer) -> None:
        metric = (trainer.metrics or {}).get(TASK2METRIC[trainer.args.task])
        figure = "" if metric is None else f", {TASK2METRIC[trainer.args.task].split('/')[-1]} {metric:.3f}"
        done = trainer.epoch + 1
        self.progress(f"{self.label} epoch {done}/{trainer.epochs}{figure}", done=done, total=trainer.epochs)


@contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    """Ultralytics' log at warnings only, which hides its progress bars too."""
    level = LOGGER.level
    if quiet:
        LOGGER.setLevel(logging.WARNING)
    try:
        yield
    finally:
        LOGGER.setLevel(level)


@contextmanager
def _clear_errors(settings: TrainSettings, last: Path) -> Iterator[None]:
    """Known failures of a training run as one line each; anything else keeps its traceback."""
    try:
        yield
    except EdgepruneError:
        raise
    except subprocess.CalledProcessError as error:
        raise ToolError([str(part) for part in error.cmd], error.returncode, "see the output above") from error
    except (RuntimeError, MemoryError, FileNotFoundError, ValueError, AssertionError) as error:
        text = first_line(error)
        small = text.lower()
        kept = f"; the last good epoch is kept in {last.parent}" if last.is_file() else ""
        if isinstance(error, MemoryError) or "out of memory" in small or "can't allocate memory" in small:
            raise StageError(
                f"out of memory with batch {settings.batch} at {settings.imgsz} px; lower batch or imgsz{kept}"
            ) from error
        if "nan" in small.split() or "nan/inf" in small:
            raise StageError(f"training diverged ({text}); lower lr0 (it is {settings.lr0}){kept}") from error
        if (
            small.startswith("dataset '")
            or "no valid images" in small
            or "no images found" in small
            or "no labels" in small
        ):
            raise DataError(f"the data set is unusable: {text}") from error
        if text.startswith("Invalid CUDA"):
            raise TargetError(
                f"device {settings.device!r} is not here; cpu is allowed, or GPUs by number: edgeprune doctor"
            ) from error
        raise
