"""Ultralytics trainers that keep the module they are given.

A stock trainer rebuilds the model from its YAML and copies what fits by name and shape, which turns a pruned model into
a half-empty unpruned one. These subclasses override public methods, and one that is not (``_setup_ddp``); no class of
Ultralytics is changed:

- ``get_model`` returns the given module, in float, with the data set's classes and nothing of an earlier loss;
- ``build_dataset`` gives images of one height and width where they are asked for;
- ``validate`` gives the figure that gates judge as the fitness, by which best.pt, patience and the given model go;
- ``save_model`` writes whole files in full precision, with all that an exact continuation needs;
- ``validate_given`` makes the model as it was given, before any step, epoch 0 and a candidate for the best;
- ``accumulate`` and ``optimizer_step`` put the steps of a run that goes on where they would have been;
- ``check_resume`` and ``resume_training`` read that back; ``final_eval`` leaves the full-precision files alone;
- ``train`` starts the processes of several GPUs so that they end with this one and are heard.

Fake quantizers of INT8 (``quantize=8``) lie beside the model in these files, as Ultralytics writes them.

They live in an importable module because distributed training pickles the trainer class by name.
"""

from __future__ import annotations

import io
import math
import os
import random
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
import torch.distributed as dist
import ultralytics
from torch import nn
from ultralytics.cfg import TASK2METRIC
from ultralytics.data import augment
from ultralytics.data.build import build_yolo_dataset
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.models.yolo.classify import ClassificationTrainer
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.models.yolo.obb import OBBTrainer
from ultralytics.models.yolo.pose import PoseTrainer
from ultralytics.models.yolo.segment import SegmentationTrainer
from ultralytics.nn.distill_model import DistillationModel
from ultralytics.utils import LOCAL_RANK, LOGGER, RANK
from ultralytics.utils.torch_utils import qat_state, strip_qat, unwrap_model

from edgeprune.artifact import write_atomically
from edgeprune.checkpoint import in_file_order
from edgeprune.dataset import Dataset
from edgeprune.errors import DataError, StageError, TargetError, first_line
from edgeprune.input_size import pixels
from edgeprune.options import named
from edgeprune.rectangle import fit_dataset
from edgeprune.training.classes import fit_classes
from edgeprune.training.distributed import join_on_cpu
from edgeprune.training.several_gpus import alone_on_gpus, obey_launcher, train_on_several
from edgeprune.unpickle import content_of

STATE = "edgeprune"
"""Key of what Ultralytics does not save in a last.pt: the live weights, the run's place and time."""
ENDED = "ended"
"""File of a run's folder that says that the run is over, whatever its last.pt says."""
TEACHER = "teacher_model."
AUGMENTING = Path(augment.__file__)
"""Where Ultralytics makes its transformations of images: what it refuses there is an argument, not an image."""
LOGGERS = "ultralytics.utils.callbacks."


class GivenModelTrainer(BaseTrainer):
    """Mixin in front of a task's trainer; see the module's docstring."""

    model: Any  # Ultralytics gives these None or a path until training is set up
    ema: Any
    optimizer: Any
    metrics: Any

    seconds_before = 0.0
    """Training time of earlier runs that this one continues, in seconds."""
    clock_moved = False
    """Whether the time of training counts that of earlier runs."""
    best_epoch = 0
    """The epoch of best.pt, counted from 1; 0 for the given model, and before there is a best.pt."""
    given: dict[str, Any] | None = None
    """``figures`` of the given model's validation by Ultralytics' names, and its ``fitness``; None without one."""

    checked: Dataset | None = None
    """The data set as it was checked, once it was."""

    waiting = 0
    """Batches since the optimiser's last step; their gradients wait for the next, also over the end of an epoch."""
    begun: int | None = None
    """The epoch that began last, from 0."""
    resumed: dict[str, Any] | None = None
    """What last.pt kept of a step that was not made yet, until the first epoch begins."""
    batches_before = 0
    """Batches before the last step of an earlier run, until this run's first step; see `accumulate`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        obey_launcher()
        super().__init__(*args, **kwargs)
        if RANK != -1 and self.device.type == "cpu":
            join_on_cpu(self)
        for said in self.callbacks[ReadBy.EVENT]:
            if isinstance(said, ReadBy):
                self.last, self.best = said.weights / self.last.name, said.weights / self.best.name
        for event, callback in OWN_CALLBACKS:
            if callback not in self.callbacks[event]:  # a process that Ultralytics starts is given those of its parent
                self.add_callback(event, callback)

    def check_resume(self, overrides: dict[str, Any]) -> None:
        """Ultralytics' arguments of last.pt, with the precision of the device that the run goes on on: it would keep
        that of the device before, and emulate bfloat16 on a CPU."""
        super().check_resume({name: value for name, value in overrides.items() if name != "amp"})
        if self.args.resume and "amp" in overrides:
            self.args.amp = overrides["amp"]

    @property
    def accumulate(self) -> int:
        """Batches that make a step. Ultralytics counts them from the last step, of which a run that goes on knows
        nothing: it counts from the first batch of the first epoch, and until its first step as many more are asked for.
        """
        return self._accumulate + self.batches_before

    @accumulate.setter
    def accumulate(self, batches: int) -> None:
        self._accumulate = batches

    def train(self) -> None:
        """Ultralytics' training; on several GPUs that of a process for each, which :func:`train_on_several` starts.

        Raises:
            StageError: the processes of an earlier training work in this folder.
        """
        if self.ddp:
            train_on_several(self)
            return
        with alone_on_gpus(self.save_dir):
            super().train()

    def optimizer_step(self) -> None:
        """Ultralytics' step with the gradients of every batch since the last one."""
        super().optimizer_step()
        self.waiting = self.batches_before = 0

    def run_callbacks(self, event: str) -> None:
        """Run the callbacks of an event; before the first, which follows on the trackers' own, leave out those of
        trackers that nobody asked for.

        Ultralytics tells MLflow and DVC of every training where they are installed, and both keep what they are told in
        the current folder unless they are sent elsewhere.
        """
        if event == "on_pretrain_routine_start":
            unasked = set(_unasked_trackers())
            for name, given in self.callbacks.items():
                self.callbacks[name] = [one for one in given if getattr(one, "__module__", "") not in unasked]
        super().run_callbacks(event)

    def _setup_ddp(self) -> None:
        """Ultralytics' joining of the processes of ``torchrun``; once, however many trainings follow on each other.

        A group that was left cannot be joined anew: what its members told of themselves stays in torchrun's store.
        """
        if dist.is_initialized():  # by the training before, which chose the GPU of this process too
            self.device = torch.device("cuda", torch.cuda.current_device())
        else:
            super()._setup_ddp()

    def get_dataset(self) -> dict[str, Any]:
        """Ultralytics' description of the data set as it was checked; DataError where it cannot be used."""
        given = self.args.data
        dataset = Dataset.load(given, task=self.args.task)
        dataset = dataset.of_one_class() if self.args.single_cls else dataset
        self.checked = dataset
        self.args.data = str(dataset.for_ultralytics("train", "val"))
        try:
            with _data_errors():
                checked = super().get_dataset()
            if self.args.single_cls:  # for which Ultralytics has one name, whatever the one class is called
                checked["names"] = dict(dataset.names)
            return checked
        finally:
            self.args.data = given  # what checkpoints name

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> Any:
        """Ultralytics' images of a split; for training and validation alike at the rectangle of an `AtRectangle`.

        Raises:
            DataError: the system did not read all of them.
        """
        dataset = self._built_dataset(img_path, mode, batch)
        if self.checked is not None and self.args.fraction in (None, 1):  # else fewer are asked for
            self.checked.require_all_taken("train" if mode == "train" else "val", len(dataset))
        return dataset

    def _built_dataset(self, img_path: str, mode: str, batch: int | None) -> Any:
        said = [one for one in self.callbacks[AtRectangle.EVENT] if isinstance(one, AtRectangle)]
        if not said:
            return super().build_dataset(img_path, mode, batch)
        if mode == "train" or self.args.task == "classify":
            dataset: Any = super().build_dataset(img_path, mode, batch)
        else:  # its own validation has a shape for every batch
            arguments: Any = self.args
            dataset = build_yolo_dataset(arguments, img_path, batch or 1, self.data, mode=mode)
        return fit_dataset(dataset, (said[0].height, said[0].width))

    def get_dataloader(self, *arguments: Any, **named: Any) -> Any:
        """Ultralytics' loader of a split; DataError where the split holds no usable image, TargetError where an
        argument of its transformations is wrong."""
        self.waiting = self.batches_before = 0  # with smaller batches after memory ran out, an epoch begins anew
        with _data_errors():
            return super().get_dataloader(*arguments, **named)

    def get_model(self, cfg: Any = None, weights: nn.Module | None = None, verbose: bool = True) -> Any:
        """The given module itself; only without one is a model built from ``cfg``."""
        if weights is None:
            return super().get_model(cfg=cfg, weights=None, verbose=verbose)
        model = cast(Any, weights.float())
        strip_qat(model)  # of a last.pt; the trainer puts them back before it reads the weights
        if fit_classes(model, self.data["names"], by_name=self.args.cls_remap):
            LOGGER.info(f"the head now gives the {len(self.data['names'])} classes of {self.args.data}")
        model.criterion = None  # a loss object of an earlier run would be used as it is
        for parameter in model.parameters():
            parameter.requires_grad_(True)  # saved checkpoints are frozen
        return model

    def validate(self) -> Any:
        """Ultralytics' validation, with the task's own figure (:data:`TASK2METRIC`) as the fitness.

        Its own adds the boxes' figure to that of masks and key points and top-5 to top-1, so that its best epoch may be
        worse than another, and than the given model, by the figure that is reported and judged.
        """
        best = self.best_fitness
        metrics, fitness = super().validate()
        if metrics is None:  # a process that keeps no figures
            return metrics, fitness
        fitness = float(np.nan_to_num(metrics[TASK2METRIC[self.args.task]]))
        self.best_fitness = fitness if best is None or best < fitness else best
        return metrics, fitness

    def save_model(self) -> Literal[True]:
        """Write last.pt, best.pt when this epoch is the best, and epochN.pt where ``save_period`` asks for one, in full
        precision and atomically.

        Raises:
            StageError: the weights are no longer finite, or the disk refuses.
        """
        average, quantizers = self._snapshot()
        # best.pt first: an epoch is done when last.pt says so, and whatever a kill leaves undone is done again
        if self.best_fitness == self.fitness and self.fitness != (self.given or {}).get("fitness"):
            self._save_best(average, quantizers)
        if self.save_period > 0 and self.epoch % self.save_period == 0:  # by Ultralytics' names, which count from 0
            self._save_average(self.wdir / f"epoch{self.epoch}.pt", average, quantizers)
        live = unwrap_model(self.model).state_dict()
        checkpoint = {
            **self._described(),
            "epoch": self.epoch,
            "stopper": {"best_fitness": self.stopper.best_fitness, "best_epoch": self.stopper.best_epoch},
            "model": None,
            "ema": average,
            "modelopt": quantizers,
            "updates": self.ema.updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            STATE: {
                "weights": {key: value for key, value in live.items() if not key.startswith(TEACHER)},
                "mosaic": list(getattr(self.train_loader.dataset, "buffer", [])),  # the images it draws from
                "seconds": time.time() - self.train_time_start,  # the trainer's own clock, moved back on resume
                "ended": bool(self.stop),
                "given": self.given,
                "best_epoch": self.best_epoch,
                "best_by": TASK2METRIC[self.args.task],
                "waiting": self.waiting,
                "gradients": self._gradients() if self.waiting else {},
            },
        }
        self._write(self.last, checkpoint)
        return True

    def validate_given(self) -> bool:
        """Validate the model before its first step, as epoch 0, and keep it in best.pt until an epoch is better.

        A model that finds nothing is no candidate. After a resume nothing is done: last.pt says what came of it.

        Returns:
            Whether it was validated.
        """
        if self.given is not None or self.start_epoch:
            return False
        self.epoch = -1
        loader, arguments = self.test_loader, cast(Any, self.validator).args
        plots = arguments.plots  # a validation before the last epoch switches them off for good
        batch = self.preprocess_batch(loader.collate_fn([loader.dataset[0]]))
        with torch.no_grad():  # validation takes the loss and the names of its parts from the last step: none has been
            loss, self.loss_items = self.ema.ema.eval().loss(batch)
        self.loss = loss.sum()
        metrics, fitness = self.validate()
        arguments.plots = plots
        if metrics is not None and fitness is not None:  # only the first process has figures
            candidate = bool(np.isfinite(fitness)) and fitness > 0
            self.metrics, self.fitness = metrics, fitness
            self.given = {"figures": dict(metrics), "fitness": float(fitness) if candidate else None}
            self.best_fitness = fitness if candidate else None
            if candidate:
                self._save_best(*self._snapshot())
        return True

    def _save_best(self, average: nn.Module, quantizers: dict[str, Any] | None) -> None:
        """Write best.pt, and note its epoch."""
        self.best_epoch = self.epoch + 1
        self._save_average(self.best, average, quantizers)

    def _save_average(self, path: Path, average: nn.Module, quantizers: dict[str, Any] | None) -> None:
        """Write the averaged model of this epoch, its fake quantizers, and what is known of it."""
        training_state = dict.fromkeys(("ema", "updates", "optimizer", "scaler", "stopper", STATE))
        model = {"model": student(average), "modelopt": quantizers, "epoch": -1}
        self._write(path, {**self._described(), **training_state, **model})

    def _described(self) -> dict[str, Any]:
        """Entries of a checkpoint that say how it came about."""
        return {
            "best_fitness": self.best_fitness,
            "train_args": dict(vars(self.args)),
            "train_metrics": {**self.metrics, "fitness": self.fitness},
            "date": datetime.now().astimezone().isoformat(),
            "version": ultralytics.__version__,
        }

    def _write(self, path: Path, checkpoint: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, buffer.getvalue())
        except OSError as error:
            raise StageError(
                f"epoch {self.epoch + 1} cannot be saved in {self.wdir} ({error.strerror or error}); "
                "the epoch before is whole: make room and run the same command again"
            ) from error

    def resume_training(self, ckpt: dict[str, Any] | None) -> None:
        """Continue where last.pt ended: Ultralytics' state, then the live weights, for which it would take the EMA's.

        Raises:
            StageError: last.pt belongs to another model.
        """
        self._fit_epochs_to_time(ckpt)
        super().resume_training(ckpt)
        state = (ckpt or {}).get(STATE)
        if not state or not self.resume:
            return
        missing, unexpected = unwrap_model(self.model).load_state_dict(state["weights"], strict=False)
        if unexpected or any(not key.startswith(TEACHER) for key in missing):
            raise StageError(f"{self.last} holds weights of another model; delete its folder and start again")
        self.seconds_before = float(state["seconds"])
        self.best_epoch, self.given = int(state["best_epoch"]), state["given"]
        same_batch = (ckpt or {})["train_args"]["batch"] == self.args.batch  # a step of other batches begins anew
        self.resumed = state if "waiting" in state and same_batch else None
        for index in state["mosaic"]:
            self.train_loader.dataset.load_image(index)

    def _fit_epochs_to_time(self, ckpt: dict[str, Any] | None) -> None:
        """The epochs that fit into the time, at the pace of those that were run: Ultralytics counts them only after the
        first that it runs itself, which would be the last where the checkpoint says so."""
        state = (ckpt or {}).get(STATE)
        if not self.resume or not self.args.time or not state or float(state["seconds"]) <= 0:
            return
        done = (ckpt or {})["epoch"] + 1
        fit = math.ceil(self.args.time * 3600 / (float(state["seconds"]) / done))
        self.epochs = self.args.epochs = max(fit, done + 1)  # one more ends by the time, if that is over
        self._setup_scheduler()

    def take_up_gradients(self) -> None:
        """Go on with the gradients that last.pt kept, once Ultralytics has cleared all of them before its first epoch,
        and make the next step where it would have been."""
        if self.begun == self.epoch:  # again, after its loss was NaN: Ultralytics forgets the last step
            self.waiting = self.batches_before = 0
        self.begun = self.epoch
        if self.resumed is None:
            return
        self.waiting = int(self.resumed["waiting"])
        self.batches_before = len(self.train_loader) * self.epoch - self.waiting
        parameters = dict(unwrap_model(self.model).named_parameters())
        for name, gradient in self.resumed["gradients"].items():
            parameters[name].grad = gradient.to(parameters[name], copy=True)
        self.resumed = None

    def _gradients(self) -> dict[str, torch.Tensor]:
        parameters = unwrap_model(self.model).named_parameters()
        return {name: parameter.grad for name, parameter in parameters if parameter.grad is not None}

    def final_eval(self) -> None:
        """Nothing: stock would halve the checkpoints here, and the caller validates best.pt as its users will."""

    def _snapshot(self) -> tuple[nn.Module, dict[str, Any] | None]:
        """The averaged model as a file can hold it, and the state of its fake quantizers, None without any."""
        average = self._finite_average()
        quantizers = qat_state(average)
        strip_qat(average)
        return average, quantizers

    def _finite_average(self) -> nn.Module:
        """A copy of the averaged model without loss object, its poisoned tensors taken from the live model.

        One overflow stays in a moving average for ever, so a tensor that is not finite there is reset to the live one.
        The copy is laid out as files are (NCHW): on CUDA Ultralytics trains in another order, and what it released
        before cannot fuse weights that lie in that one.
        """
        average = deepcopy(cast(nn.Module, self.ema.ema)).float()
        live = unwrap_model(self.model).state_dict()
        for (key, saved), kept in zip(average.state_dict().items(), self.ema.ema.state_dict().values(), strict=True):
            if saved.is_floating_point() and not bool(torch.isfinite(saved).all()):
                if not bool(torch.isfinite(live[key]).all()):
                    raise StageError(
                        f"the weights became NaN or infinite in epoch {self.epoch + 1} ({key}); "
                        f"lower the learning rate ({named('lr0')} is {self.args.lr0})"
                    )
                kept.copy_(live[key])
                saved.copy_(live[key])
        if hasattr(average, "criterion"):
            cast(Any, average).criterion = None
        return in_file_order(average)


def _unasked_trackers() -> Iterator[str]:
    """Modules of Ultralytics' callbacks for trackers that are on by default and that nobody configured: they would keep
    what they hear in the current folder, or ask for an account."""
    here, home = Path(), Path.home()
    configured = {
        "mlflow": _is_set("MLFLOW_TRACKING_URI"),
        "dvc": here.joinpath(".dvc").is_dir(),  # the mark of a DVC repository
        "comet": _is_set("COMET_API_KEY", "COMET_CONFIG")
        or any(folder.joinpath(".comet.config").is_file() for folder in (here, home)),
        "clearml": _is_set("CLEARML_CONFIG_FILE", "CLEARML_API_HOST", "CLEARML_API_ACCESS_KEY")
        or home.joinpath("clearml.conf").is_file(),
    }
    return (f"{LOGGERS}{name}" for name, asked in configured.items() if not asked)


def _is_set(*variables: str) -> bool:
    return any(map(os.environ.get, variables))


@dataclass(frozen=True)
class AtRectangle:
    """Says that images have this height and width in pixels; Ultralytics' own argument knows squares alone.

    It is given as a callback, because those reach every process of distributed training; the event is one that
    Ultralytics calls in the first alone, so nothing hangs on the call.
    """

    EVENT: ClassVar[str] = "on_pretrain_routine_start"
    height: int
    width: int

    def __call__(self, trainer: Any) -> None:
        LOGGER.info(f"Images are {pixels((self.height, self.width))}, in training and validation")


@dataclass(frozen=True)
class ReadBy:
    """Says by which name of the run's folder of weights Ultralytics reads what lies in it; see
    :func:`~edgeprune.unpickle.own_name`. A callback for the reason that :class:`AtRectangle` is one."""

    EVENT: ClassVar[str] = "on_pretrain_routine_start"
    weights: Path

    def __call__(self, trainer: Any) -> None:
        LOGGER.info(f"Checkpoints are read by the name {self.weights}")


class PrunedDetectionTrainer(GivenModelTrainer, DetectionTrainer):
    """Detection."""


class PrunedSegmentationTrainer(GivenModelTrainer, SegmentationTrainer):
    """Instance segmentation."""


class PrunedPoseTrainer(GivenModelTrainer, PoseTrainer):
    """Key points."""


class PrunedOBBTrainer(GivenModelTrainer, OBBTrainer):
    """Oriented boxes."""


class PrunedClassificationTrainer(GivenModelTrainer, ClassificationTrainer):
    """Classification."""

    def get_model(self, cfg: Any = None, weights: nn.Module | None = None, verbose: bool = True) -> Any:
        """As every task's, with the dropout that is asked for: that of an earlier training is left in its files."""
        model = super().get_model(cfg, weights, verbose)
        for layer in model.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = self.args.dropout
        return model


TRAINERS: dict[str, type[GivenModelTrainer]] = {
    "detect": PrunedDetectionTrainer,
    "segment": PrunedSegmentationTrainer,
    "pose": PrunedPoseTrainer,
    "obb": PrunedOBBTrainer,
    "classify": PrunedClassificationTrainer,
}


def student(model: nn.Module) -> nn.Module:
    """The model without the wrapper and the hooks of distillation; the model itself if it has none."""
    if not isinstance(model, DistillationModel):
        return model
    copy = deepcopy(model)  # unhooking the original would end its distillation
    copy._remove_feature_hooks()
    return copy.student_model


def averaged_model(last: Path) -> nn.Module:
    """The averaged weights of a last.pt, float32, without what distillation adds; read by the restricted loader."""
    return student(content_of(last, trust=False)["ema"]).float()


def has_diverged(trainer: Any) -> bool:
    """Whether the loss or the accuracy of a trainer's last epoch is NaN or infinite."""
    figures = [] if trainer is None else [trainer.loss, trainer.fitness]
    return any(figure is not None and not torch.isfinite(torch.as_tensor(figure)) for figure in figures)


@contextmanager
def _data_errors() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, FileNotFoundError, ValueError, AssertionError) as error:
        if AUGMENTING in (Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)):
            raise TargetError(f"a train argument is wrong: {first_line(error)}") from error
        raise DataError(f"the data set is unusable: {first_line(error)}") from error


def _refuse_empty_labels(trainer: BaseTrainer) -> None:
    labels = getattr(trainer.train_loader.dataset, "labels", None)
    if labels is not None and not any(len(image["cls"]) for image in labels):
        raise DataError(f"no image of the training split of {trainer.args.data} has a label; check its labels folder")


def _count_batch(trainer: BaseTrainer) -> None:
    if isinstance(trainer, GivenModelTrainer):
        trainer.waiting += 1


def _end_epoch(trainer: BaseTrainer) -> None:
    """Count epochs from the first one where the clock of training was moved back to it; until its batches are done,
    Ultralytics tells by the number that this run began with whether memory may still run out in its first epoch."""
    if isinstance(trainer, GivenModelTrainer) and trainer.clock_moved:
        trainer.start_epoch = 0


def _note_end(trainer: BaseTrainer) -> None:
    """Note that a run ends with the epoch that was just saved, where a goal or the clock said so after it was: killed
    before Ultralytics is back, it would go on."""
    if trainer.stop and RANK in {-1, 0}:
        Path(trainer.save_dir, ENDED).touch()


def _start_epoch(trainer: BaseTrainer) -> None:
    """Seed the epoch by its number, so that what it draws does not depend on where the process began.

    The order of the images has a generator of its own because making a loader's iterator draws from the loader's.
    With loader processes (``workers`` above 0) they fetch ahead of the epoch, and a resumed run is only as good as,
    not equal to, an uninterrupted one.
    """
    seed = trainer.args.seed + 1 + RANK + 1_000_003 * (trainer.epoch + 1)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    sampler = trainer.train_loader.sampler
    if LOCAL_RANK == -1 and isinstance(sampler, torch.utils.data.RandomSampler):
        # a new one, not a new seed: the iterator of the epoch before still draws once more, from the one it holds
        sampler.generator = torch.Generator().manual_seed(seed)
    if isinstance(trainer, GivenModelTrainer):
        trainer.take_up_gradients()
    if isinstance(trainer, GivenModelTrainer) and trainer.seconds_before:
        # time limits and estimates count what was spent before; with the clock moved back, epochs count from 0 too
        trainer.train_time_start -= trainer.seconds_before
        trainer.seconds_before = 0.0
        trainer.clock_moved = True


OWN_CALLBACKS = (
    ("on_pretrain_routine_end", _refuse_empty_labels),
    ("on_train_epoch_start", _start_epoch),
    ("on_train_epoch_end", _end_epoch),
    ("on_train_batch_start", _count_batch),
    ("on_fit_epoch_end", _note_end),  # after those that were given, which may stop the run
)
"""What every training listens to: an event of Ultralytics and what it calls."""
