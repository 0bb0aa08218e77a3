"""Which few layers must go back to float so that an INT8 graph is accurate enough, found by measuring.

Takes the FP32 graph, its INT8 form that failed the accuracy gate, and a function that measures accuracy. Gives an INT8
graph with as few layers in float as reach the floor. Layers are ranked by what each one alone wins back, seen where the
head ends (before decoding, so that a raw and a sorted head are ranked alike); then the number of layers is doubled until
the measured accuracy reaches the floor, and bisected back. Nothing is calibrated again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeprune.errors import StageError
from edgeprune.export.graph import inputs_of, load_graph, save_graph
from edgeprune.export.images import batch_from_images
from edgeprune.export.onnx import describe
from edgeprune.export.regions import regions_of, with_names
from edgeprune.export.run import Outputs, outputs_of_onnx
from edgeprune.progress import Progress, silent


@dataclass(frozen=True)
class MixedInfo:
    """What the fallback found.

    Attributes:
        layers: convolutions that went back to float, the most sensitive first.
        layers_quantized: convolutions that were in INT8 before.
        sensitivity: for each convolution, the part of the head's error that its return alone takes away.
        accuracy_before: accuracy of the INT8 graph, by the given function.
        accuracy_after: accuracy of the file that was written.
        floor: the accuracy that was asked.
        reached: whether ``accuracy_after`` is at least ``floor``.
        trials: (layers in float, accuracy) in the order they were measured.
        latency_before_ms: median latency of the INT8 graph, None when latency was not measured.
        latency_after_ms: median latency of the written file, measured beside it.
        reason: one line.
    """

    layers: tuple[str, ...]
    layers_quantized: int
    sensitivity: dict[str, float]
    accuracy_before: float
    accuracy_after: float
    floor: float
    reached: bool
    trials: tuple[tuple[int, float], ...]
    latency_before_ms: float | None
    latency_after_ms: float | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``build.json``."""
        return asdict(self)


def mixed_precision_onnx(
    source: Path,
    quantized: Path,
    target: Path,
    images: Sequence[Path],
    *,
    floor: float,
    accuracy_of: Callable[[Path], float],
    latency_of: Callable[[Sequence[Path]], Sequence[float]] | None = None,
    progress: Progress = silent,
) -> MixedInfo:
    """Return as few layers to float as reach an accuracy.

    Args:
        source: the FP32 file that ``quantized`` was made from.
        quantized: the INT8 file.
        target: the file to write: the mixed one; the most accurate of those tried when none reaches the floor.
        images: images to rank layers on; four to eight are enough.
        floor: least accuracy, in the unit of ``accuracy_of``.
        accuracy_of: accuracy of a file, for example mAP50-95 on the validation split.
        latency_of: latencies in ms of several files, measured beside each other.
        progress: told after every layer and every measurement.

    Raises:
        DataError: a file or an image cannot be read.
        StageError: the two files are not forms of one graph.
        TargetError: the target cannot be written.
    """
    plain, int8 = with_names(load_graph(source)), load_graph(quantized)
    layers = quantized_layers(int8)
    if not layers or not set(layers) <= {node.name for node in plain.graph.node}:
        raise StageError(f"{quantized} is no INT8 form of {source}: quantise the file that is given as source")
    sensitivity = _sensitivity(plain, int8, layers, images, progress)
    order = sorted(layers, key=lambda name: -sensitivity[name])
    trials: list[tuple[int, float]] = []

    def measured(count: int) -> float:
        if count:
            _write(plain, int8, order[:count], target)
        value = accuracy_of(target if count else quantized)
        trials.append((count, value))
        progress(f"{count} of {len(order)} layers in float: {value:.4f}", done=len(trials))
        return value

    before = measured(0)
    count = 0 if before >= floor else _fewest(measured, floor, len(order))
    best = count if count is not None else max(trials, key=lambda trial: (trial[1], -trial[0]))[0]
    _write(plain, int8, order[:best], target)
    after = next(value for number, value in reversed(trials) if number == best)
    latencies = list(latency_of([quantized, target])) if latency_of else [None, None]
    reached = count is not None
    return MixedInfo(
        layers=tuple(order[:best]),
        layers_quantized=len(order),
        sensitivity={name: sensitivity[name] for name in order},
        accuracy_before=before,
        accuracy_after=after,
        floor=floor,
        reached=reached,
        trials=tuple(trials),
        latency_before_ms=latencies[0],
        latency_after_ms=latencies[1],
        reason=_reason(best, len(order), before, after, floor, latencies),
    )


def quantized_layers(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions whose image input comes from a Q/DQ pair, in the graph's order."""
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and made_by.get(node.input[0]) == "DequantizeLinear"
    ]


def returned_to_float(source: onnx.ModelProto, quantized: onnx.ModelProto, layers: Collection[str]) -> onnx.ModelProto:
    """A copy of an INT8 graph in which some convolutions, with the activation behind them, are as in the source.

    Args:
        source: the FP32 graph, its nodes named as in ``quantized``.
        quantized: the INT8 graph with Q/DQ pairs.
        layers: names of convolutions.
    """
    mixed = onnx.ModelProto()
    mixed.CopyFrom(quantized)
    returned = set(layers) | _activations(source, layers)
    original = {node.name: node for node in source.graph.node}
    made_by = {name: node.name for node in source.graph.node for name in node.output}
    weights = {item.name: item for item in source.graph.initializer}
    present = {item.name for item in mixed.graph.initializer} | {n for node in mixed.graph.node for n in node.output}
    still_quantized = {node.name for node in mixed.graph.node if _is_quantized(node, mixed)}
    for node in mixed.graph.node:
        if node.name not in original:
            continue
        for index, name in enumerate(original[node.name].input):
            # a float node that reads a returned one reads its value before the Q/DQ pair that stood there
            reads_returned = made_by.get(name) in returned and node.name not in still_quantized
            if node.name in returned or reads_returned:
                node.input[index] = name
                if name in weights and name not in present:
                    mixed.graph.initializer.add().CopyFrom(weights[name])
                    present.add(name)
    _drop_unused(mixed)
    return mixed


def _is_quantized(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    quantized = {name for other in model.graph.node if other.op_type == "DequantizeLinear" for name in other.output}
    return node.op_type not in {"QuantizeLinear", "DequantizeLinear"} and any(name in quantized for name in node.input)


def _activations(source: onnx.ModelProto, layers: Collection[str]) -> set[str]:
    """The nodes of the SiLU behind each layer: a sigmoid of its output, and their product."""
    outputs = {node.output[0] for node in source.graph.node if node.name in layers}
    sigmoids = [n for n in source.graph.node if n.op_type in {"Sigmoid", "Relu", "LeakyRelu"} and n.input[0] in outputs]
    inner = outputs | {node.output[0] for node in sigmoids}
    products = [n for n in source.graph.node if n.op_type == "Mul" and all(name in inner for name in n.input)]
    return {node.name for node in (*sigmoids, *products)}


def _drop_unused(model: onnx.ModelProto) -> None:
    outputs = {value.name for value in model.graph.output}
    nodes = list(model.graph.node)
    while True:
        used = outputs | {name for node in nodes for name in node.input}
        alive = [node for node in nodes if any(name in used for name in node.output)]
        if len(alive) == len(nodes):
            break
        nodes = alive
    weights = [item for item in model.graph.initializer if item.name in used]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(weights)


def _sensitivity(
    source: onnx.ModelProto,
    quantized: onnx.ModelProto,
    layers: Sequence[str],
    images: Sequence[Path],
    progress: Progress,
) -> dict[str, float]:
    """For each layer, the part of the head's error that is gone when it alone is in float; negative when it grew."""
    info = describe(source)
    pixels = batch_from_images(images, imgsz=info.imgsz, task=info.task)
    seen = [node.output[0] for node in source.graph.node if node.name in regions_of(source).output_layers]
    expected = _values(source, seen, pixels)
    whole = _error(expected, _values(quantized, seen, pixels))
    found: dict[str, float] = {}
    for number, layer in enumerate(layers, start=1):
        error = _error(expected, _values(returned_to_float(source, quantized, [layer]), seen, pixels))
        found[layer] = 1.0 - error / whole if whole else 0.0
        progress(f"sensitivity of {layer}", done=number, total=len(layers))
    return found


def _values(model: onnx.ModelProto, names: Sequence[str], pixels: np.ndarray) -> Outputs:
    """Values inside a graph: a copy with them as its outputs."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    _drop_unused(probe)
    if not inputs_of(probe):
        raise StageError("the graph's head does not depend on its input")
    return outputs_of_onnx(probe, pixels)


def _error(expected: Outputs, found: Outputs) -> float:
    """Sum over the head's layers of the relative difference (Euclidean norm)."""
    return float(
        sum(np.linalg.norm(a - b) / max(float(np.linalg.norm(a)), 1e-12) for a, b in zip(expected, found, strict=True))
    )


def _fewest(measured: Callable[[int], float], floor: float, most: int) -> int | None:
    """The least count that reaches the floor, by doubling and bisection; None when even ``most`` does not."""
    low, high = 0, 1
    while measured(high) < floor:
        if high == most:
            return None
        low, high = high, min(high * 2, most)
    while high - low > 1:
        middle = (low + high) // 2
        if measured(middle) >= floor:
            high = middle
        else:
            low = middle
    return high


def _write(source: onnx.ModelProto, quantized: onnx.ModelProto, layers: Sequence[str], target: Path) -> None:
    mixed = returned_to_float(source, quantized, layers)
    save_graph(mixed, target)


def _reason(
    count: int, layers: int, before: float, after: float, floor: float, latencies: Sequence[float | None]
) -> str:
    if before >= floor:
        return f"INT8 reaches {before:.4f}, no layer had to go back to float"
    cost = ""
    if latencies[0] and latencies[1]:
        cost = f", latency {latencies[0]:.2f} → {latencies[1]:.2f} ms ({latencies[1] / latencies[0] - 1:+.1%})"
    outcome = "reaches" if after >= floor else "does not reach"
    return f"{count} of {layers} layers in float: {before:.4f} → {after:.4f}, {outcome} {floor:.4f}{cost}"
