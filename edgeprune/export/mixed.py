"""Mixed precision: as few layers of an INT8 or FP16 graph in float as its accuracy needs, chosen by measuring.

Takes the FP32 graph, its low-precision form that failed the accuracy gate, and a function that measures accuracy. Gives
a graph with as few layers in float as reach the floor. Layers are ranked by what the decoder reads (before it decodes,
so that a raw and a sorted head are ranked alike): in INT8 by the part of the error that each one's return alone takes
away, in FP16 by the error that each one alone in half precision causes, since a value that overflows in two layers is
not mended by the return of one. Then the number of layers is doubled until the measured accuracy reaches the floor, and
bisected back. Nothing is calibrated again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx

from edgeprune.errors import StageError
from edgeprune.export.graph import inputs_of, load_graph, save_graph, set_metadata, with_value_info
from edgeprune.export.half import cast_graph_to_half
from edgeprune.export.images import batch_from_images
from edgeprune.export.metadata import FLOAT_LAYERS_KEY
from edgeprune.export.onnx import describe_to_run
from edgeprune.export.precision import precision_of
from edgeprune.export.regions import name_nodes, regions_of
from edgeprune.export.result import MixedInfo
from edgeprune.export.run import Outputs, outputs_of_onnx
from edgeprune.progress import Progress, silent

OVERFLOW_ERROR = 1e6  # counts for an output that overflowed, in units of the signal


def restore_float_layers(
    source: Path,
    low: Path,
    output: Path,
    images: Sequence[Path],
    *,
    floor: float,
    accuracy_of: Callable[[Path], float],
    latency_of: Callable[[Sequence[Path]], Sequence[float]] | None = None,
    half: bool = False,
    progress: Progress = silent,
) -> MixedInfo:
    """Return as few layers to float as reach an accuracy.

    Args:
        source: the FP32 file that ``low`` was made from.
        low: the INT8 or FP16 file; for ``int8-fp16`` its INT8 form, with ``half``.
        output: the file to write: the mixed one; the most accurate of those tried when none reaches the floor.
        images: images to rank layers on; four to eight are enough.
        floor: least accuracy, in the unit of ``accuracy_of``.
        accuracy_of: accuracy of a file, for example mAP50-95 on the validation split.
        latency_of: latencies in ms of several files, measured beside each other.
        half: cast what an INT8 graph has in float to FP16: precision ``int8-fp16``.
        progress: told after every layer and every measurement.

    Raises:
        DataError: a file or an image cannot be read.
        StageError: the two files are not forms of one graph.
        TargetError: the output cannot be written.
    """
    graphs = _MixedGraphs(source, low, half)
    sensitivity = graphs.sensitivity(images, progress)
    order = sorted(graphs.layers, key=lambda name: -sensitivity[name])
    trials: list[tuple[int, float]] = []

    def measure(count: int) -> float:
        graphs.write(order[:count], output)
        trials.append((count, accuracy_of(output)))
        progress(f"{count} of {len(order)} layers in float: {trials[-1][1]:.4f}", done=len(trials))
        return trials[-1][1]

    before = measure(0)
    # one layer at least stays low: the file must still hold the precision that was asked
    count = 0 if before >= floor else _fewest_layers(measure, floor, len(order) - 1)
    best = count if count is not None else max(trials, key=lambda trial: (trial[1], -trial[0]))[0]
    graphs.write(order[:best], output)
    after = next(value for number, value in reversed(trials) if number == best)
    latencies: Sequence[float | None] = (None, None)
    if latency_of is not None and best:
        with TemporaryDirectory(dir=output.parent, prefix=".low-") as folder:
            unmixed = Path(folder) / f"{output.stem}-low{output.suffix}"
            save_graph(graphs.with_float([]), unmixed)
            latencies = latency_of([unmixed, output])
    return MixedInfo(
        layers=tuple(order[:best]),
        layers_low=len(order),
        sensitivity={name: sensitivity[name] for name in order},
        accuracy_before=before,
        accuracy_after=after,
        floor=floor,
        reached=count is not None,
        trials=tuple(trials),
        latency_before_ms=latencies[0],
        latency_after_ms=latencies[1],
        reason=_outcome(best, len(order), before, after, floor, latencies),
    )


def with_float_layers(
    source: Path, low: Path, output: Path, layers: Collection[str], *, half: bool = False
) -> tuple[str, ...]:
    """Return named layers of a low-precision graph to float: those that another graph of the same model had to.

    Args:
        source, low, output, half: as in :func:`restore_float_layers`.
        layers: names of convolutions; what the graph does not have in low precision is passed over.

    Returns:
        Those that went back.
    """
    graphs = _MixedGraphs(source, low, half)
    returned = tuple(name for name in layers if name in graphs.layers)
    graphs.write(returned, output)
    return returned


class _MixedGraphs:
    """The graphs that lie between a low-precision graph and the FP32 graph that it was made from."""

    def __init__(self, source: Path, low: Path, half: bool) -> None:
        self.source, self.low, self.half = name_nodes(load_graph(source)), load_graph(low), half
        self.precision = precision_of(self.low)
        names = [node.name for node in self.source.graph.node if node.op_type == "Conv"]
        if self.precision == "fp16":
            decoder = regions_of(self.source).decoder
            self.layers = [name for name in names if name not in decoder]
        else:
            self.layers = quantized_layers(self.low)
        present = {node.name for node in self.low.graph.node}
        if self.precision not in {"fp16", "int8"} or not self.layers or not set(self.layers) <= present & set(names):
            raise StageError(f"{low} is no INT8 or FP16 form of {source}: quantise the file that is given as source")

    def with_float(self, layers: Collection[str]) -> onnx.ModelProto:
        """The low-precision graph with these layers in float."""
        if self.precision == "fp16":
            return cast_graph_to_half(self.source, layers)
        mixed = restore_float(self.source, self.low, layers)
        return cast_graph_to_half(mixed) if self.half else mixed

    def write(self, layers: Sequence[str], output: Path) -> None:
        """Write the low-precision graph with these layers in float, which its metadata name."""
        graph = self.with_float(layers)
        set_metadata(graph, {FLOAT_LAYERS_KEY: ", ".join(layers)})
        save_graph(graph, output)

    def sensitivity(self, images: Sequence[Path], progress: Progress) -> dict[str, float]:
        """A number for each layer by which to rank them; see the module."""
        info = describe_to_run(self.source)
        pixels = batch_from_images(images, imgsz=info.imgsz, task=info.task, channels=info.channels)
        last = regions_of(self.source).output_layers
        ends = [node.output[0] for node in self.source.graph.node if node.name in last]

        def head_values(model: onnx.ModelProto) -> Outputs:
            return _run_to_values(model, _values_as_read(self.source, model, ends), pixels)

        expected = head_values(self.source)
        error_low = _error(expected, head_values(self.low))
        sensitivity: dict[str, float] = {}
        for number, layer in enumerate(self.layers, start=1):
            if self.precision == "int8":
                error = _error(expected, head_values(restore_float(self.source, self.low, [layer])))
                sensitivity[layer] = 1.0 - error / error_low if error_low else 0.0
            else:
                alone_in_half = self.with_float([name for name in self.layers if name != layer])
                sensitivity[layer] = _error(expected, head_values(alone_in_half))
            progress(f"sensitivity of {layer}", done=number, total=len(self.layers))
        return sensitivity


def quantized_layers(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions whose image input comes from a Q/DQ pair, in the graph's order."""
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and made_by.get(node.input[0]) == "DequantizeLinear"
    ]


def restore_float(source: onnx.ModelProto, quantized: onnx.ModelProto, layers: Collection[str]) -> onnx.ModelProto:
    """A copy of an INT8 graph in which some nodes, with what only handles their outputs, are as in the source.

    Args:
        source: the FP32 graph, its nodes named as in ``quantized``.
        quantized: the INT8 graph with Q/DQ pairs.
        layers: names of convolutions, or of other nodes.
    """
    mixed = onnx.ModelProto()
    mixed.CopyFrom(quantized)
    returned = set(layers) | _float_handlers(source, layers)
    original = {node.name: node for node in source.graph.node}
    made_by = {name: node.name for node in source.graph.node for name in node.output}
    weights = {item.name: item for item in source.graph.initializer}
    made = {name for node in mixed.graph.node for name in node.output}
    present = {item.name for item in mixed.graph.initializer}
    dequantized = {n for node in mixed.graph.node if node.op_type == "DequantizeLinear" for n in node.output}
    still_quantized = {
        node.name
        for node in mixed.graph.node
        if node.op_type != "QuantizeLinear" and any(name in dequantized for name in node.input)
    }
    for node in mixed.graph.node:
        if node.name not in original:
            continue
        for index, name in enumerate(original[node.name].input):
            # a float node that reads a returned one reads its value before the Q/DQ pair that stood there
            reads_returned = made_by.get(name) in returned and node.name not in still_quantized
            if node.name in returned or reads_returned:
                # a quantised bias keeps its name, so that the float one that it was made from needs another
                float_name = f"{name}_float" if name in weights and name in made else name
                node.input[index] = float_name
                if name in weights and float_name not in present:
                    weight = mixed.graph.initializer.add()
                    weight.CopyFrom(weights[name])
                    weight.name = float_name
                    present.add(float_name)
    _remove_unused(mixed)
    return with_value_info(mixed)


def not_quantized(source: onnx.ModelProto, quantized: onnx.ModelProto, nodes: Collection[str]) -> list[str]:
    """Those of some nodes that :func:`restore_float` changes nothing for: neither they read what was rounded nor what
    only handles their outputs. Arguments as there."""
    dequantized = {n for node in quantized.graph.node if node.op_type == "DequantizeLinear" for n in node.output}
    rounded = {node.name for node in quantized.graph.node if dequantized.intersection(node.input)}
    return [name for name in nodes if rounded.isdisjoint({name, *_float_handlers(source, [name])})]


def _float_handlers(source: onnx.ModelProto, layers: Collection[str]) -> set[str]:
    """Nodes without weights that handle the outputs of these layers and of no others: activations, and joins of which
    every branch is in float. With all layers in float that is every such node, and the graph is the source again."""
    made_by = {name: node for node in source.graph.node for name in node.output}
    handlers: set[str] = set()
    for node in source.graph.node:  # in topological order
        makers = [made_by[name].name for name in node.input if name in made_by and made_by[name].op_type != "Constant"]
        if node.op_type != "Conv" and makers and all(name in handlers or name in layers for name in makers):
            handlers.add(node.name)
    return handlers


def _remove_unused(model: onnx.ModelProto) -> None:
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


def _values_as_read(source: onnx.ModelProto, model: onnx.ModelProto, names: Sequence[str]) -> list[str]:
    """Names in ``model`` of a source graph's values where they are read: behind a Q/DQ pair or a cast, whose rounding
    is part of what the precision costs."""
    present = {node.name: node for node in model.graph.node}
    readers = {
        name: (present[node.name], index)
        for node in source.graph.node
        if node.name in present
        for index, name in enumerate(node.input)
    }
    read = ((name, readers.get(name)) for name in names)
    return [reader[0].input[reader[1]] if reader else name for name, reader in read]


def _run_to_values(model: onnx.ModelProto, names: Sequence[str], pixels: np.ndarray) -> Outputs:
    """Run a graph up to values inside it: a copy has them as its outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    _remove_unused(copy)
    if not inputs_of(copy):
        raise StageError("the graph's head does not depend on its input")
    return outputs_of_onnx(copy, pixels)


def _error(expected: Outputs, actual: Outputs) -> float:
    """Sum over the head's layers of the difference (Euclidean norm) in units of the signal."""
    return sum(
        float(np.linalg.norm(a - b.astype(np.float32))) / _signal(a) if np.isfinite(b).all() else OVERFLOW_ERROR
        for a, b in zip(expected, actual, strict=True)
    )


def _signal(values: np.ndarray) -> float:
    """Norm of what varies: a channel's constant tells nothing of an image, and would hide an error in what does."""
    axes = (0, *range(2, values.ndim)) if values.ndim > 3 else None  # without places: over everything
    return max(float(np.linalg.norm(values - values.mean(axis=axes, keepdims=True))), 1e-12)


def _fewest_layers(accuracy_with: Callable[[int], float], floor: float, most: int) -> int | None:
    """The least count that reaches the floor, by doubling and bisection; None when even ``most`` does not."""
    low, high = 0, 1
    while high > most or accuracy_with(high) < floor:
        if high >= most:
            return None
        low, high = high, min(high * 2, most)
    while high - low > 1:
        middle = (low + high) // 2
        if accuracy_with(middle) >= floor:
            high = middle
        else:
            low = middle
    return high


def _outcome(
    count: int, layers: int, before: float, after: float, floor: float, latencies: Sequence[float | None]
) -> str:
    if before >= floor:
        return f"it reaches {before:.4f}, no layer had to go back to float"
    cost = ""
    if latencies[0] and latencies[1]:
        cost = f", latency {latencies[0]:.2f} → {latencies[1]:.2f} ms ({latencies[1] / latencies[0] - 1:+.1%})"
    outcome = "reaches" if after >= floor else "does not reach"
    return f"{count} of {layers} layers in float: {before:.4f} → {after:.4f}, {outcome} {floor:.4f}{cost}"
