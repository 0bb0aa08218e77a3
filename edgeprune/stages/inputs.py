"""What a build starts from: weights and dataset, read and held against each other and the target."""

from __future__ import annotations

from pathlib import Path

from edgeprune import checkpoint
from edgeprune.dataset import Dataset
from edgeprune.errors import DataError
from edgeprune.options import image_side
from edgeprune.search.inputs import read_dataset
from edgeprune.stages.base import Weights
from edgeprune.target import Target


def read_inputs(target: Target, weights: str | Path, data: str | Path, trust: bool) -> tuple[Weights, Dataset]:
    """Read weights and dataset; nothing is written.

    Args:
        target: its image size, scope and splits have to fit.
        weights: a checkpoint, the name of one, or a model description.
        data: a dataset YAML, by path or name.
        trust: load a checkpoint that holds foreign classes.

    Raises:
        DataError: one is unreadable or unsafe, or they contradict each other.
        TargetError: the target asks for what they do not allow.
    """
    source, stride, names, channels = _read_weights(weights, trust)
    image_side(target.imgsz, stride, source.task)
    splits = {"train", "val", target.accuracy.split}
    return source, read_dataset(target, data, source.task, splits, names, channels=channels, trust=trust)


def _read_weights(weights: str | Path, trust: bool) -> tuple[Weights, int, dict[int, str] | None, int | None]:
    """The weights, the stride of the model, the names of its classes and its channels; None for a description."""
    suffix = Path(weights).suffix.lower()
    if suffix in (".yaml", ".yml"):
        from edgeprune.training.model_yaml import read_model_yaml

        model = read_model_yaml(weights)
        return Weights(model.path, model.digest, model.task), model.stride, None, None
    if suffix == ".pt":
        loaded = checkpoint.load(weights, trust=trust)
        return Weights(loaded.path, loaded.sha256, loaded.task), loaded.stride, dict(loaded.names), loaded.channels
    raise DataError(f"--weights {weights}: is neither a checkpoint (.pt) nor a model description (.yaml)")
