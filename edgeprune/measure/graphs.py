"""A model of any form as a graph that a runtime can time, and what can be counted in it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

from edgeprune.input_size import Size
from edgeprune.progress import Progress, silent

HEAVY = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
PASSING = {"QuantizeLinear", "DequantizeLinear", "Cast", "Transpose", "Identity"}  # between a weight and its use


def graph_of(
    model: Path,
    folder: Path,
    *,
    imgsz: Size | None = None,
    batch: int = 1,
    trust: bool = False,
    progress: Progress = silent,
) -> Path:
    """The model itself, or for a checkpoint its export, simplified as a build does it, in ``folder``.

    Args:
        model: a checkpoint, an ONNX file or an engine.
        folder: where an export goes; its name begins with the model's.
        imgsz: size of an export in pixels, where somebody says one; see :mod:`edgeprune.input_size`.
        batch: of an export.
        trust: load a checkpoint with foreign classes; this executes code from the file.
        progress: told when an export begins.

    Raises:
        DataError: a checkpoint that cannot be read.
    """
    if model.suffix != ".pt" or not model.is_file():
        return model
    from edgeprune.export.onnx import onnx_from_checkpoint
    from edgeprune.export.simplify import simplify_onnx
    from edgeprune.quiet import quiet

    progress(f"exporting {model.name}")
    folder.mkdir(parents=True, exist_ok=True)
    raw, graph = folder / f"{model.stem}-raw.onnx", folder / f"{model.stem}.pt.onnx"
    with quiet():
        onnx_from_checkpoint(model, raw, imgsz=imgsz, batch=batch, trust=trust)
        simplify_onnx(raw, graph)
    raw.unlink()
    return graph


def in_precision(
    graph: Path,
    folder: Path,
    precision: str,
    data: str | None = None,
    images: int = 128,
    *,
    recipe: str,
    trust: bool = False,
) -> Path:
    """A float graph in another number format, in ``folder``.

    Args:
        graph: an ONNX file in FP32.
        folder: where the copy goes.
        precision: ``fp32`` (the graph itself), ``fp16`` or ``int8``.
        data: dataset whose training images calibrate INT8.
        images: how many of them.
        recipe: of INT8, for what runs it: :func:`~edgeprune.measure.compiling.int8_recipe`.
        trust: as in :meth:`~edgeprune.dataset.Dataset.load`.

    Raises:
        TargetError: another precision, or INT8 without data.
        DataError: a file that cannot be read.
    """
    from edgeprune.errors import TargetError

    if precision == "fp32":
        return graph
    if precision not in ("fp16", "int8"):
        raise TargetError(f"--precision {precision}: allowed are fp32, fp16, int8")
    if precision == "int8" and data is None:
        raise TargetError("--precision int8: ranges are found on images; give --data DATASET.yaml")
    from edgeprune.export.quantize import quantize_onnx
    from edgeprune.quiet import quiet

    folder.mkdir(parents=True, exist_ok=True)
    low = folder / f"{graph.stem}-{precision}.onnx"
    with quiet():
        quantize_onnx(graph, low, precision=precision, data=data, images=images, recipe=recipe, trust=trust)
    return low


@dataclass(frozen=True)
class Counts:
    """What one run of a graph takes.

    Attributes:
        parameters: numbers in the weights and biases of its convolutions and matrix products; batch normalisation is
            folded into them where the graph has it so.
        macs: multiplications with addition of its convolutions and matrix products; None where a shape is not known
            (a graph that a runtime has optimised into operators of its own).
    """

    parameters: int
    macs: int | None


def counts_of(graph: Path) -> Counts:
    """Count parameters and MACs of an ONNX file.

    Raises:
        DataError: the file cannot be read.
    """
    from edgeprune.export.graph import load_graph, with_shapes

    model = load_graph(graph)
    weights = {item.name: list(item.dims) for item in model.graph.initializer}
    # scales of quantisation, sizes of a resize, anchors and the like are no parameters
    source_of = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type in PASSING}
    used = {name for node in model.graph.node if node.op_type in HEAVY for name in node.input[1:]}
    while found := {source_of[name] for name in used if name in source_of} - used:
        used |= found
    parameters = sum(prod(weights[name]) for name in used if name in weights)
    shapes = dict(weights)
    inferred = with_shapes(model).graph
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        sides = value.type.tensor_type.shape.dim
        if all(side.HasField("dim_value") for side in sides):
            shapes[value.name] = [side.dim_value for side in sides]
    macs = 0
    for node in model.graph.node:
        if node.op_type not in HEAVY:
            continue
        source, weight, out = (shapes.get(name) for name in (node.input[0], node.input[1], node.output[0]))
        if node.domain not in ("", "ai.onnx") or source is None or weight is None or out is None:
            return Counts(parameters, None)
        if node.op_type == "Conv":
            macs += prod(out) * prod(weight[1:])
        elif node.op_type == "ConvTranspose":
            macs += prod(source) * prod(weight[1:])
        else:
            transposed = any(item.name == "transA" and item.i for item in node.attribute)
            macs += prod(out) * (source[0] if transposed else source[-1])
    return Counts(parameters, macs)
