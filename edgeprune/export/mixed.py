"""Which few layers must go back to float so that an INT8 or FP16 graph is accurate enough, found by measuring.

Takes the FP32 graph, its low-precision form that failed the accuracy gate, and a function that measures accuracy. Gives
a graph with as few layers in float as reach the floor. Layers are ranked by what the decoder reads (before it decodes,
so that a raw and a sorted head are ranked alike): in INT8 by the part of the error that each one's return alone takes
away, in FP16 by the error that each one alone in half precision causes, since a value that overflows in two layers is
not mended by the return of one. Then the number of layers is doubled until the measured accuracy reaches the floor, and
bisected back. Nothing is calibrated again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeprune.errors import StageError
from edgeprune.export.graph import inputs_of, load_graph, save_graph, set_metadata
from edgeprune.export.images import batch_from_images
from edgeprune.export.onnx import describe
from edgeprune.export.precision import half_graph, precision_of
from edgeprune.export.regions import regions_of, with_names
from edgeprune.export.run import Outputs, outputs_of_onnx
from edgeprune.progress import Progress, silent

FLOAT_LAYERS_KEY = "edgeprune_float_layers"  # entry of metadata_props: the layers that went back, by name
BROKEN = 1e6  # the error of an output that overflowed, in units of the signal


@dataclass(frozen=True)
class MixedInfo:
    """What the fallback found.

    Attributes:
        layers: convolutions that went back to float, the most sensitive first.
        layers_low: convolutions that were in low precision before.
        sensitivity: for each convolution, the part of the head's error that its return alone takes away (INT8), or that
            it alone causes (FP16).
        accuracy_before: accuracy of the low-precision graph, by the given function.
        accuracy_after: accuracy of the file that was written.
        floor: the accuracy that was asked.
        reached: whether ``accuracy_after`` is at least ``floor``.
        trials: (layers in float, accuracy) in the order they were measured.
        latency_before_ms: median latency of the low-precision graph, None when latency was not measured.
        latency_after_ms: median latency of the written file, measured beside it.
        reason: one line.
    """

    layers: tuple[str, ...]
    layers_low: int
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
    low: Path,
    target: Path,
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
        target: the file to write: the mixed one; the most accurate of those tried when none reaches the floor.
        images: images to rank layers on; four to eight are enough.
        floor: least accuracy, in the unit of ``accuracy_of``.
        accuracy_of: accuracy of a file, for example mAP50-95 on the validation split.
        latency_of: latencies in ms of several files, measured beside each other.
        half: cast what an INT8 graph has in float to FP16: precision ``int8-fp16``.
        progress: told after every layer and every measurement.

    Raises:
        DataError: a file or an image cannot be read.
        StageError: the two files are not forms of one graph.
        TargetError: the target cannot be written.
    """
    forms = _Forms(source, low, half)
    sensitivity = forms.sensitivity(images, progress)
    order = sorted(forms.layers, key=lambda name: -sensitivity[name])
    trials: list[tuple[int, float]] = []

    def written(count: int) -> None:
        graph = forms.mixed(order[:count])
        set_metadata(graph, {FLOAT_LAYERS_KEY: ", ".join(order[:count])})
        save_graph(graph, target)

    def measured(count: int) -> float:
        written(count)
        trials.append((count, accuracy_of(target)))
        progress(f"{count} of {len(order)} layers in float: {trials[-1][1]:.4f}", done=len(trials))
        return trials[-1][1]

    before = measured(0)
    # one layer at least stays low: the file must still hold the precision that was asked
    count = 0 if before >= floor else _fewest(measured, floor, len(order) - 1)
    best = count if count is not None else max(trials, key=lambda trial: (trial[1], -trial[0]))[0]
    written(best)
    after = next(value for number, value in reversed(trials) if number == best)
    latencies: list[float | None] = [None, None]
    if latency_of is not None and best:
        plain = target.with_name(f"{target.stem}-low{target.suffix}")
        try:
            save_graph(forms.mixed([]), plain)
            latencies = list(latency_of([plain, target]))
        finally:
            plain.unlink(missing_ok=True)
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
        reason=_reason(best, len(order), before, after, floor, latencies),
    )


class _Forms:
    """The forms of one graph that lie between its low precision and its float."""

    def __init__(self, source: Path, low: Path, half: bool) -> None:
        self.plain, self.low, self.half = with_names(load_graph(source)), load_graph(low), half
        self.precision = precision_of(self.low)
        names = [node.name for node in self.plain.graph.node if node.op_type == "Conv"]
        if self.precision == "fp16":
            decoder = regions_of(self.plain).decoder
            self.layers = [name for name in names if name not in decoder]
        else:
            self.layers = quantized_layers(self.low)
        present = {node.name for node in self.low.graph.node}
        if self.precision not in {"fp16", "int8"} or not self.layers or not set(self.layers) <= present & set(names):
            raise StageError(f"{low} is no INT8 or FP16 form of {source}: quantise the file that is given as source")

    def mixed(self, layers: Collection[str]) -> onnx.ModelProto:
        """The low-precision graph with these layers in float."""
        if self.precision == "fp16":
            return half_graph(self.plain, {*layers, *_followers(self.plain, layers)})
        mixed = returned_to_float(self.plain, self.low, layers)
        return half_graph(mixed) if self.half else mixed

    def sensitivity(self, images: Sequence[Path], progress: Progress) -> dict[str, float]:
        """A number for each layer by which to rank them; see the module."""
        info = describe(self.plain)
        pixels = batch_from_images(images, imgsz=info.imgsz, task=info.task)
        last = regions_of(self.plain).output_layers
        ends = [node.output[0] for node in self.plain.graph.node if node.name in last]

        def seen(model: onnx.ModelProto) -> Outputs:
            return _values(model, _as_read(self.plain, model, ends), pixels)

        expected = seen(self.plain)
        whole = _error(expected, seen(self.low))
        found: dict[str, float] = {}
        for number, layer in enumerate(self.layers, start=1):
            if self.precision == "int8":
                error = _error(expected, seen(returned_to_float(self.plain, self.low, [layer])))
                found[layer] = 1.0 - error / whole if whole else 0.0
            else:
                others = [name for name in self.layers if name != layer]
                found[layer] = _error(expected, seen(self.mixed(others)))
            progress(f"sensitivity of {layer}", done=number, total=len(self.layers))
        return found


def quantized_layers(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions whose image input comes from a Q/DQ pair, in the graph's order."""
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and made_by.get(node.input[0]) == "DequantizeLinear"
    ]


def returned_to_float(source: onnx.ModelProto, quantized: onnx.ModelProto, layers: Collection[str]) -> onnx.ModelProto:
    """A copy of an INT8 graph in which some convolutions, with what only handles their outputs, are as in the source.

    Args:
        source: the FP32 graph, its nodes named as in ``quantized``.
        quantized: the INT8 graph with Q/DQ pairs.
        layers: names of convolutions.
    """
    mixed = onnx.ModelProto()
    mixed.CopyFrom(quantized)
    returned = set(layers) | _joins(source, layers)
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
    _drop_unused(mixed)
    return mixed


def _joins(source: onnx.ModelProto, layers: Collection[str]) -> set[str]:
    """Everything without weights that handles the outputs of these layers and of no others: activations, and joins of
    which every branch is in float. All layers in float is then the source again."""
    made_by = {name: node for node in source.graph.node for name in node.output}
    found: set[str] = set()
    for node in source.graph.node:  # in topological order
        makers = [made_by[name].name for name in node.input if name in made_by and made_by[name].op_type != "Constant"]
        if node.op_type != "Conv" and makers and all(name in found or name in layers for name in makers):
            found.add(node.name)
    return found


def _followers(source: onnx.ModelProto, layers: Collection[str]) -> set[str]:
    """Everything that handles a layer's output until the next convolution reads it: a value too large for half
    precision must not be cast to it on the way."""
    carried: set[str] = set()
    found: set[str] = set()
    for node in source.graph.node:  # in topological order
        if node.name in layers:
            carried.update(node.output)
        elif node.op_type != "Conv" and carried & set(node.input):
            carried.update(node.output)
            found.add(node.name)
    return found


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


def _as_read(source: onnx.ModelProto, model: onnx.ModelProto, names: Sequence[str]) -> list[str]:
    """What stands in ``model`` for the values of a source graph where they are read: behind a Q/DQ pair or a cast,
    whose rounding is part of what the precision costs."""
    present = {node.name: node for node in model.graph.node}
    readers = {
        name: (present[node.name], index)
        for node in source.graph.node
        if node.name in present
        for index, name in enumerate(node.input)
    }
    found = ((name, readers.get(name)) for name in names)
    return [reader[0].input[reader[1]] if reader else name for name, reader in found]


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
    """Sum over the head's layers of the difference (Euclidean norm) in units of the signal; an overflow: BROKEN."""
    return sum(
        float(np.linalg.norm(a - b.astype(np.float32))) / _signal(a) if np.isfinite(b).all() else BROKEN
        for a, b in zip(expected, found, strict=True)
    )


def _signal(values: np.ndarray) -> float:
    """Norm of what varies: a channel's constant tells nothing of an image, and would hide an error in what does."""
    axes = (0, *range(2, values.ndim)) if values.ndim > 3 else None  # without places: over everything
    return max(float(np.linalg.norm(values - values.mean(axis=axes, keepdims=True))), 1e-12)


def _fewest(measured: Callable[[int], float], floor: float, most: int) -> int | None:
    """The least count that reaches the floor, by doubling and bisection; None when even ``most`` does not."""
    low, high = 0, 1
    while high > most or measured(high) < floor:
        if high >= most:
            return None
        low, high = high, min(high * 2, most)
    while high - low > 1:
        middle = (low + high) // 2
        if measured(middle) >= floor:
            high = middle
        else:
            low = middle
    return high


def _reason(
    count: int, layers: int, before: float, after: float, floor: float, latencies: Sequence[float | None]
) -> str:
    if before >= floor:
        return f"it reaches {before:.4f}, no layer had to go back to float"
    cost = ""
    if latencies[0] and latencies[1]:
        cost = f", latency {latencies[0]:.2f} → {latencies[1]:.2f} ms ({latencies[1] / latencies[0] - 1:+.1%})"
    outcome = "reaches" if after >= floor else "does not reach"
    return f"{count} of {layers} layers in float: {before:.4f} → {after:.4f}, {outcome} {floor:.4f}{cost}"
