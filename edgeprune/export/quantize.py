"""A graph in a lower precision: half precision by casting, INT8 by calibration on the training images of a dataset."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from edgeprune.dataset import Dataset
from edgeprune.errors import DataError, TargetError
from edgeprune.export.graph import load_graph
from edgeprune.export.half import cast_to_fp16
from edgeprune.export.int8 import quantize_to_int8
from edgeprune.export.metadata import facts_to_run
from edgeprune.export.onnx import describe_onnx
from edgeprune.export.precision import PRECISIONS
from edgeprune.export.result import PrecisionInfo
from edgeprune.options import output_file_with_folder, refuse_source
from edgeprune.settings import Calibration, check_seed


def dataset_for(model: Path | str, data: Path | str, *, split: str, trust: bool = False) -> Dataset:
    """A dataset whose images an ONNX file is run on; ``split`` as in :func:`edgeprune.measure.accuracy.accuracy`.

    Raises:
        DataError: it cannot be read, lacks the split, or is not one for this model.
    """
    graph = load_graph(model)
    info, facts = describe_onnx(graph), facts_to_run(graph, str(model))
    dataset = Dataset.load(data, task=info.task, need=() if split == "auto" else (split,), trust=trust)
    return dataset.seen_by(
        facts.names or dataset.names, model=str(model), channels=info.channels, kpt_shape=facts.kpt_shape
    )


def quantize_onnx(
    model: Path | str,
    output: Path | str,
    *,
    precision: str,
    data: Dataset | Path | str | None = None,
    images: int = Calibration.images,
    recipe: str = "tensorrt",
    method: str = Calibration.method,
    percentile: float = Calibration.percentile,
    reduce_range: bool | None = Calibration.reduce_range,
    keep_float: Collection[str] = (),
    seed: int = 0,
    trust: bool = False,
) -> PrecisionInfo:
    """Cast an ONNX file to half precision, or quantise it to INT8.

    Args:
        model: an FP32 ONNX file, best simplified.
        output: the file to write.
        precision: ``fp16``, ``int8``, or ``int8-fp16`` (what is not INT8 in half precision).
        data: a dataset, its YAML, folder or name; INT8 is calibrated on its training split.
        images: how many images of it.
        recipe: INT8 for ``tensorrt`` or for ONNX Runtime's ``cpu`` provider.
        method: how the ranges of INT8 are chosen: ``entropy``, ``percentile`` or ``minmax``.
        percentile: share of the values that a range covers, in percent, for ``percentile``.
        reduce_range: weights of 7 bits, for the recipe ``cpu`` on an x86 CPU without VNNI, whose integer kernels cut
            off sums of full ones; where this machine's CPU needs it when None.
        keep_float: names of nodes that stay in FP32, with what handles their outputs: in INT8 what handles no others
            (an activation), in half precision all of it up to the next convolution. What INT8 leaves in float anyway is
            told in the warnings: by the recipe ``tensorrt`` every node but convolutions.
        seed: of the choice of images.
        trust: as in :meth:`Dataset.load`.

    Raises:
        DataError: the model or the dataset cannot be read, or there are too few images.
        TargetError: an argument is out of range, or the output cannot be written.
        StageError: the graph cannot be transformed.
    """
    check_seed(seed)
    Calibration.of(images=images, method=method, percentile=percentile)
    output_file_with_folder(output)
    refuse_source(output, model)
    if precision not in PRECISIONS or precision == "fp32":
        allowed = ", ".join(name for name in PRECISIONS if name != "fp32")
        raise TargetError(f"precision '{precision}' is unknown; {allowed} are allowed")
    if precision == "fp16":
        return cast_to_fp16(model, output, keep_float=keep_float)
    if data is None:
        raise DataError("INT8 needs images to calibrate on; give --data DATASET.yaml")
    dataset = data if isinstance(data, Dataset) else dataset_for(model, data, split="train", trust=trust)
    return quantize_to_int8(
        model,
        output,
        dataset.sample_images("train", images, seed),
        recipe=recipe,
        method=method,
        percentile=percentile,
        reduce_range=reduce_range,
        keep_float=keep_float,
        half=precision == "int8-fp16",
    )
