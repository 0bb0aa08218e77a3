"""What a build starts from: weights and dataset, read and held against each other and the target."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune import checkpoint
from edgeprune.checkpoint import Checkpoint
from edgeprune.dataset import Dataset
from edgeprune.errors import DataError, TargetError
from edgeprune.input_size import InputSize, Size, input_size
from edgeprune.model_file import missing_model
from edgeprune.options import command_line
from edgeprune.reading import exists, is_file
from edgeprune.search.inputs import (
    frontier_command,
    read_dataset,
    refuse_lacking_head,
    refuse_untrainable,
    require_prunable,
    require_teacher,
    require_training_arguments,
)
from edgeprune.stages.base import Weights
from edgeprune.stages.buildable import require_buildable, trainings_of
from edgeprune.target import Budget, Target

if TYPE_CHECKING:
    from edgeprune.training.model_yaml import ModelDescription

MODEL_DESCRIPTIONS = (".yaml", ".yml")


@dataclass(frozen=True)
class Inputs:
    """What a build starts from.

    Attributes:
        target: with the size of the input in it.
        size: where that size comes from.
        weights: a checkpoint, or a model description.
        dataset: with the splits that the build reads.
    """

    target: Target
    size: InputSize
    weights: Weights
    dataset: Dataset


def read_inputs(
    target: Target, weights: str | Path, data: str | Path, trust: bool, imgsz: Size | None = None
) -> Inputs:
    """Read weights and dataset; nothing is written.

    Args:
        target: its image size, scope and splits have to fit.
        weights: a checkpoint, the name of one, or a model description.
        data: a dataset YAML, by path or name.
        trust: load a checkpoint that holds foreign classes.
        imgsz: what the command says; None where it leaves the size to the target and the weights.

    Raises:
        DataError: one is unreadable or unsafe, or they contradict each other.
        TargetError: the target asks for what they do not allow.
        DeviceError: it trains INT8, and ModelOpt is not installed.
    """
    model = _read_weights(weights, trust)
    loaded = model if isinstance(model, Checkpoint) else None
    trained = None if loaded is None else loaded.trained_imgsz
    size = input_size(trained, model.stride, model.task, command=imgsz, profile=target.stated_imgsz)
    target = target.with_overrides(imgsz=size.side)
    require_buildable(target, pretrains=loaded is None)
    if target.qat is not None:
        from edgeprune.export.modelopt import require_modelopt

        require_modelopt()
    _require_possible(target, model)
    splits = {"train", "val", target.accuracy.split}
    dataset = read_dataset(target, data, model.task, splits, loaded, trust=trust)
    dataset.say_trained_on(dataset.judging_split(target.accuracy.split))
    if loaded is None and target.pretrain.train.get("single_cls"):
        dataset = dataset.of_one_class()
    require_teacher(target, dataset, model, trust=trust)
    _require_same_classes(target, model.path, dataset)
    digest = model.sha256 if isinstance(model, Checkpoint) else model.digest
    return Inputs(target, size, Weights(model.path, digest, model.task), dataset)


def _require_same_classes(target: Target, weights: Path, dataset: Dataset) -> None:
    """Raise ``TargetError`` where a training of a build would see other classes than those before it."""
    for name, section in {"sparsify": target.sparsify, "finetune": target.finetune, "qat": target.qat}.items():
        asked = section.train.get("single_cls") if section is not None else None
        if asked and dataset.nc > 1:
            raise TargetError(
                f"profile {target.name}: {name}.train.single_cls: {weights} knows {dataset.nc} classes, "
                "which a build holds against each other before and after; "
                f"{_train_first(weights, dataset, 'true')}"
            )
        if asked is False and dataset.one_class:
            raise TargetError(
                f"profile {target.name}: {name}.train.single_cls: {weights} sees every object as of one class, "
                "which a build holds against each other before and after; leave it out, or "
                f"{_train_first(weights, dataset, 'false')}"
            )


def _train_first(weights: Path, dataset: Dataset, single_cls: str) -> str:
    """How weights come to see as many classes as is asked, before a build begins with them."""
    if weights.suffix.lower() in MODEL_DESCRIPTIONS:
        return f"say so of the training that the build begins with too, pretrain.train.single_cls: {single_cls}"
    files = shlex.join(["edgeprune", "finetune", str(weights), "--data", str(dataset.source)])
    classes = "one class" if single_cls == "true" else "several"
    return f"make it a model of {classes} first: {files} --train single_cls={single_cls}"


def _require_possible(target: Target, model: Checkpoint | ModelDescription) -> None:
    """Raise ``TargetError`` for what a profile may say and only a later stage would refuse, hours from now; likewise
    ``StageError`` for a model that cannot be narrowed, and ``DataError`` for a checkpoint that cannot be trained."""
    from edgeprune.pruning.trace import refuse_shared_weights

    refuse_shared_weights(model.model)
    refuse_lacking_head(model, target, known=False)  # else the baseline, which is exported first, refuses it
    in_ms = target.budget.kind == "latency_ms"  # which the model may meet as it is: sparsify and prune ask then
    if target.qat is not None or not (in_ms or target.budget.asks_nothing):
        refuse_untrainable(model)
    require_prunable(target, model)
    require_training_arguments(target, trainings_of(target, not isinstance(model, Checkpoint)))


def _read_weights(weights: str | Path, trust: bool) -> Checkpoint | ModelDescription:
    """The checkpoint, or what a model description says."""
    suffix = Path(weights).suffix.lower()
    if suffix in MODEL_DESCRIPTIONS:
        from edgeprune.training.model_yaml import read_model_yaml

        return read_model_yaml(weights)
    if suffix == ".pt":
        return checkpoint.load(weights, trust=trust)
    if not is_file(Path(weights)) and exists(Path(weights)):
        raise DataError(f"--weights {missing_model(Path(weights), '.pt')}")
    instead = checkpoint.the_checkpoint_instead(weights)
    raise DataError(f"--weights {weights}: is neither a checkpoint (.pt) nor a model description (.yaml); {instead}")


def build_command(
    target: str, weights: str | Path, data: str | Path, trust: bool, options: Mapping[str, object]
) -> list[str]:
    """The command line of a build, one item an argument; an option that is None is left out."""
    given = {"target": target, "weights": weights, "data": data, **options}
    return command_line("build", (), given, trust)


def levers_command(
    profile: Target,
    target: str,
    weights: str | Path,
    data: str | Path,
    budget: Budget,
    options: Mapping[str, object],
    trust: bool,
) -> Callable[[Path], str]:
    """What gives, for the trained checkpoint that a build starts from, the command that puts other levers beside
    pruning as the build was asked; an empty one where the frontier refuses the profile.

    Args:
        profile: as it was read.
        target: its name or path.
        weights: as they were given; a model description was trained first, and is no checkpoint.
        data: as it was given.
        budget: of latency.
        options: that were given, by name; those that are None were not.
        trust: the checkpoint holds foreign classes.
    """
    if profile.sparsify is not None:  # which runs in a build alone
        return lambda source: ""
    said = {key: options.get(key) for key in ("imgsz", "epochs", "device", "seed")}
    if profile.finetune.time_h is not None:  # which decides there, and is refused beside epochs
        said["epochs"] = None
    described = Path(weights).suffix.lower() in MODEL_DESCRIPTIONS
    return lambda source: frontier_command(target, source if described else weights, data, budget, said, trust)
