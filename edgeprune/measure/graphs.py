"""A model of any form as a graph that a runtime can time, and what can be counted in it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, get_args

from edgeprune.errors import EdgepruneError
from edgeprune.input_size import Size
from edgeprune.progress import Progress, silent
from edgeprune.runtimes.engine_file import known_metadata, read_facts
from edgeprune.runtimes.onnx_facts import PASSING
from edgeprune.settings import Calibration, Precision

if TYPE_CHECKING:
    from edgeprune.target import Target

COUNTED_DOMAINS = ("", "ai.onnx", "com.microsoft")  # others keep weights reordered and padded: their sizes tell nothing


def graph_of(
    model: Path,
    folder: Path,
    *,
    imgsz: Size | None = None,
    batch: int = 1,
    target: Target | None = None,
    trust: bool = False,
    progress: Progress = silent,
) -> Path:
    """The model itself, or for a checkpoint its export, simplified as a build does it, in ``folder``.

    Args:
        model: a checkpoint, an ONNX file or an engine.
        folder: where an export goes; its name begins with the model's.
        imgsz: size of an export in pixels, where somebody says one; see :mod:`edgeprune.input_size`.
        batch: of an export.
        target: says the head, the opset and whether batch and size are free, as of a build; an export's own when None.
        trust: load a checkpoint with foreign classes; this executes code from the file.
        progress: told when an export begins.

    Raises:
        DataError: a checkpoint that cannot be read.
        TargetError: the target asks for a head that it has not.
    """
    if model.suffix != ".pt" or not model.is_file():
        return model
    from edgeprune.export.onnx import onnx_from_checkpoint
    from edgeprune.export.simplify import simplify_onnx
    from edgeprune.quiet import quiet

    progress(f"exporting {model.name}")
    folder.mkdir(parents=True, exist_ok=True)
    graph = folder / f"{model.stem}.pt.onnx"
    with quiet(), TemporaryDirectory(dir=folder, prefix=".raw-") as own:
        raw = Path(own) / "raw.onnx"
        onnx_from_checkpoint(model, raw, imgsz=imgsz, batch=batch, trust=trust, **_export_of(target))
        simplify_onnx(raw, graph)
    return graph


def _export_of(target: Target | None) -> dict[str, Any]:
    if target is None:
        return {}
    return {"dynamic": target.export.dynamic, "opset": target.export.opset, "head": target.exported_head}


def metadata_in(model: Path) -> Mapping[str, str]:
    """What an exporter wrote of a model into its graph, or into the facts of its engine; empty where nothing is there
    or it cannot be read."""
    with contextlib.suppress(EdgepruneError, OSError):
        if model.suffix == ".onnx":
            from edgeprune.export.graph import load_graph, metadata_of

            return metadata_of(load_graph(model))
        if model.suffix == ".engine":
            return known_metadata(model, read_facts(model))
    return {}


def nms_inside(model: Path, target: Target | None = None) -> bool:
    """Whether a graph or an engine holds NMS, so that its time depends on what is on its input; of a checkpoint its
    export for a target. False where nothing tells."""
    from edgeprune.export.metadata import read_metadata

    if model.suffix == ".pt":
        return target is not None and target.exported_head == "nms"
    with contextlib.suppress(EdgepruneError, OSError):
        if model.suffix == ".onnx":
            from edgeprune.export.graph import load_graph, metadata_of, tensorrt_plugins

            graph = load_graph(model)
            operators = [*(node.op_type for node in graph.graph.node), *tensorrt_plugins(graph)]
            if any("NonMaxSuppression" in name or "NMS" in name for name in operators):
                return True
            return read_metadata(metadata_of(graph)).head == "nms"
        return read_metadata(metadata_in(model)).head == "nms"
    return False


def in_precision(
    graph: Path,
    folder: Path,
    precision: str,
    data: str | None = None,
    *,
    calibration: Calibration | None = None,
    recipe: str,
    trust: bool = False,
) -> Path:
    """A float graph in another number format, in ``folder``.

    Args:
        graph: an ONNX file in FP32.
        folder: where the copy goes.
        precision: ``fp32`` (the graph itself), ``fp16``, ``int8`` or ``int8-fp16``.
        data: dataset whose training images calibrate INT8.
        calibration: on how many of them, and how; as a profile does by itself when None.
        recipe: of INT8, for what runs it: :func:`~edgeprune.measure.compiling.int8_recipe`.
        trust: as in :meth:`~edgeprune.dataset.Dataset.load`.

    Raises:
        TargetError: another precision, or INT8 without data.
        DataError: a file that cannot be read.
    """
    from edgeprune.errors import TargetError

    if precision == "fp32":
        return graph
    if precision not in get_args(Precision):
        raise TargetError(f"--precision {precision}: allowed are {', '.join(get_args(Precision))}")
    if precision.startswith("int8") and data is None:
        raise TargetError(f"--precision {precision}: ranges are found on images; give --data DATASET.yaml")
    from edgeprune.export.quantize import quantize_onnx
    from edgeprune.quiet import quiet

    folder.mkdir(parents=True, exist_ok=True)
    found_by = asdict(calibration or Calibration())
    low = folder / f"{graph.stem}-{precision}.onnx"
    with quiet():
        quantize_onnx(
            graph,
            low,
            precision=precision,
            data=data,
            recipe=recipe,
            trust=trust,
            **found_by,
        )
    return low


@dataclass(frozen=True)
class _Operands:
    """Which inputs of a multiplying operator are its image, its weight and its bias; no bias where the operator takes
    none of its own, so that a node behind it may add one."""

    image: int
    weight: int
    bias: int | None


# of ONNX, its whole-number operators included, and of what ONNX Runtime makes of them
OPERANDS = {
    **dict.fromkeys(("Conv", "FusedConv", "ConvTranspose"), _Operands(0, 1, 2)),
    **dict.fromkeys(("Gemm", "FusedGemm", "MatMul", "FusedMatMul"), _Operands(0, 1, 2)),
    **dict.fromkeys(("ConvInteger", "MatMulInteger"), _Operands(0, 1, None)),
    "QLinearConv": _Operands(0, 3, 8),
    "QLinearMatMul": _Operands(0, 3, None),
    "QGemm": _Operands(0, 3, 6),
    "DynamicQuantizeMatMul": _Operands(0, 1, 4),
    "MatMulIntegerToFloat": _Operands(0, 1, 6),
}
CONVOLUTIONS = {"Conv", "FusedConv", "ConvInteger", "QLinearConv"}
# they multiply, and how often is not worked out here
UNCOUNTED = {"Einsum", "DeformConv", "LSTM", "GRU", "RNN", "Attention"}
# ONNX Runtime's own operators that have no weights: activations, norms and poolings, in whole numbers too. Of any other
# of com.microsoft (attention and fused convolutions are among them) it is not known whether it multiplies.
WEIGHTLESS = {
    *("QuantizeLinear", "DequantizeLinear", "Gelu", "FastGelu", "QuickGelu", "BiasGelu", "BiasAdd", "BiasSplitGelu"),
    *("BiasSoftmax", "BiasDropout", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "GroupNorm"),
    *("SkipGroupNorm", "EmbedLayerNormalization", "NhwcMaxPool", "GridSample", "Pad", "Trilu", "Unique"),
    *("QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearWhere", "QLinearSigmoid", "QLinearLeakyRelu"),
    *("QLinearSoftmax", "QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearReduceMean"),
}


@dataclass(frozen=True)
class Counts:
    """What one run of a graph takes.

    Attributes:
        parameters: numbers in the weights and biases of its convolutions and matrix products; batch normalisation is
            folded into them where the graph has it so. None where they cannot be told from the graph: a runtime has
            optimised it into operators of its own, or biases are added apart from whole-number products.
        macs: multiplications with addition of its convolutions and matrix products; None where a shape or an operator
            that multiplies is not known.
    """

    parameters: int | None
    macs: int | None


def counts_of(graph: Path) -> Counts:
    """Count parameters and MACs of an ONNX file.

    Raises:
        DataError: the file cannot be read.
    """
    from edgeprune.export.graph import load_graph, with_shapes
    from edgeprune.runtimes.onnx_facts import constants_of

    model = load_graph(graph)
    weights = {name: list(item.dims) for name, item in constants_of(model).items()}
    multiplying = [(node, OPERANDS[node.op_type]) for node in model.graph.node if node.op_type in OPERANDS]
    foreign = any(_is_foreign(node, weights) for node in model.graph.node)
    shapes = dict(weights)
    inferred = with_shapes(model).graph
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        sides = value.type.tensor_type.shape.dim
        if all(side.HasField("dim_value") for side in sides):
            shapes[value.name] = [side.dim_value for side in sides]
    counted = [_macs(node, operands, shapes) for node, operands in multiplying]
    if foreign:
        counted.append(None)
    return Counts(
        None if foreign else _parameters(model, multiplying, weights),
        None if None in counted else sum(macs for macs in counted if macs is not None),
    )


def _is_foreign(node: Any, weights: Mapping[str, Sequence[int]]) -> bool:
    """Whether a node multiplies, or may, in a way that is not counted here."""
    if node.op_type in UNCOUNTED:
        return True
    if node.domain == "com.microsoft":
        return node.op_type not in {*OPERANDS, *WEIGHTLESS}
    if node.domain in COUNTED_DOMAINS:
        return False
    return any(sum(side > 1 for side in weights.get(name, ())) > 1 for name in node.input)


def _parameters(
    model: Any, multiplying: Sequence[tuple[Any, _Operands]], weights: Mapping[str, Sequence[int]]
) -> int | None:
    # scales of quantisation, sizes of a resize, anchors and the like are no parameters
    source_of = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type in PASSING}
    used: set[str] = set()
    for node, operands in multiplying:
        places = [operands.weight] + ([] if operands.bias is None else [operands.bias])
        used |= {node.input[place] for place in places if place < len(node.input)}
    while found := {source_of[name] for name in used if name in source_of} - used:
        used |= found
    if any(
        operands.bias is None and node.input[operands.weight] in used & set(weights) for node, operands in multiplying
    ):
        return None
    return sum(prod(weights[name]) for name in used if name in weights)


def _macs(node: Any, operands: _Operands, shapes: Mapping[str, Sequence[int]]) -> int | None:
    names = node.input[operands.image], node.input[operands.weight], node.output[0]
    source, weight, out = (shapes.get(name) for name in names)
    if node.domain not in COUNTED_DOMAINS or source is None or weight is None or out is None:
        return None
    if node.op_type in CONVOLUTIONS:
        return prod(out) * prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return prod(source) * prod(weight[1:])
    transposed = any(item.name == "transA" and item.i for item in node.attribute)
    return prod(out) * (source[-2] if transposed else source[-1])
