"""The input of a timed model filled from images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeprune.errors import DataError
from edgeprune.runtimes.base import BenchSettings
from edgeprune.runtimes.onnx_facts import InputFacts, onnx_facts


def images_for(settings: BenchSettings, inputs: Sequence[InputFacts], model: Path) -> np.ndarray | None:
    """What fills the model's one input, of its shape and type; None where it is timed on noise.

    Args:
        settings: how it is timed; batch and size fill axes that are free.
        inputs: of the model.
        model: for errors.

    Raises:
        DataError: the model does not take one batch of images.
    """
    if settings.images is None:
        return None
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        shapes = ", ".join(str(list(entry.shape)) for entry in inputs) or "nothing that is known"
        raise DataError(f"{model}: is to be timed on images, and takes {shapes}; allowed: one input of 4 axes")
    [entry] = inputs
    batch, channels, *sides = entry.shape
    if entry.free:
        batch, sides = settings.batch or batch, settings.imgsz or sides
    return np.ascontiguousarray(settings.images((batch, channels, *sides)), entry.dtype)


def image_files(settings: BenchSettings, models: Sequence[Path], folder: Path) -> tuple[str, ...]:
    """The same for ONNX files, as arrays in files that a worker reads; one a model, none for noise."""
    if settings.images is None:
        return ()
    return tuple(
        written(images_for(settings, onnx_facts(Path(model), free=settings.free).inputs, Path(model)), folder, number)
        for number, model in enumerate(models)
    )


def written(values: np.ndarray | None, folder: Path, number: int) -> str:
    """Path of a file with an array."""
    assert values is not None  # the settings have images
    path = folder / f"images-{number}.npy"
    np.save(path, values, allow_pickle=False)
    return str(path)
