"""The engine inspector's JSON, read: what the layers of an engine are, and in which number format each one works.

Two generations. TensorRT 10 lists ``Bindings`` as names and gives every tensor one ``Format/Datatype`` text ("Row major
linear FP16 format", or "Half" for Myelin's layers); 11 lists ``I/O Tensors`` as objects and splits the text into
``Format`` and ``Datatype`` (NVIDIA's migration guide "IEngineInspector 10.x to 11.x"; names of formats in TREx,
tools/experimental/trt-engine-explorer/trex/activations.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeprune.reading import entries_of

# Narrowest first: an INT8 convolution also has FP32 scales and biases, an FP16 one INT32 shapes.
FORMATS: tuple[tuple[str, str], ...] = (
    ("fp4", r"FP4\w*|NVFP4"),
    ("int4", r"U?Int4"),
    ("fp8", r"FP8\w*"),
    ("int8", r"U?Int8"),
    ("fp16", r"FP16|Half|Float16"),
    ("bf16", r"BF16|BFloat16"),
    ("fp32", r"FP32|Float|Float32|TF32"),
)
OTHER = "other"  # integers, booleans, shapes: no arithmetic that a precision is about
SPELLINGS = tuple(
    (name, re.compile(rf"(?<![A-Za-z0-9])(?:{pattern})(?![A-Za-z0-9])", re.I)) for name, pattern in FORMATS
)
# Layers that move or hold values; what they cost is real, but they compute nothing in any precision.
MOVING = re.compile(r"reformat|noop|shuffle|constant|signal|wait|shape|copy|slice|reshape|memcpy|identity", re.I)
# Convolutions and matrix products, by the words of TensorRT.
PRODUCTS = re.compile(r"conv|gemm|matmul|matrix_?multiply|fully_?connected|mha|attention", re.I)
NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
KERNELS = re.compile(r"xmma|fprop|gemm|conv", re.I)
# In the name of a kernel whose products are TF32: sm80_xmma_fprop_implicit_gemm_f32f32_tf32f32_f32_nhwckrsc_nhwc_...
TF32 = re.compile(r"tf32", re.I)


@dataclass(frozen=True)
class Layer:
    """One layer of an engine.

    Attributes:
        name: as the profiler names it.
        type: TensorRT's own word (``CaskConvolution``, ``kgen``, ``Reformat``, ``DLA``).
        precision: ``fp32``, ``fp16``, ``int8`` and so on: the narrowest format that it reads; ``other`` for integers.
        placed: ``gpu`` or ``dla``.
        kind: ``multiplies`` (convolutions and matrix products, where the time of a detector goes), ``computes``
            (other arithmetic) or ``moves`` (copies, reshapes, constants).
        nodes: of the graph that it was made of, as far as the engine tells.
        tf32: the name of its kernel says that it multiplies FP32 numbers in TF32 (10 bits behind the point, not 23),
            which is TensorRT's own choice for FP32 from Ampere on.
    """

    name: str
    type: str
    precision: str
    placed: str
    kind: str
    nodes: tuple[str, ...] = ()
    tf32: bool = False


@dataclass(frozen=True)
class LayerInfo:
    """Layers in order of execution, and the names of the engine's inputs and outputs."""

    layers: tuple[Layer, ...]
    tensors: tuple[str, ...]
    generation: int

    def types(self) -> dict[str, str]:
        """Layer name to type."""
        return {layer.name: layer.type for layer in self.layers}


@entries_of("the layers")
def layer_info_of(text: str) -> LayerInfo:
    """Read the inspector's JSON of a whole engine, of either generation.

    Raises:
        ValueError: not that JSON, neither or both generations, or an engine that was built without detailed profiling
            verbosity and so knows only its layers' names.
    """
    try:
        data = json.loads(text, strict=False)  # metadata separates ONNX nodes by a bare control character
    except ValueError as error:
        raise ValueError(f"the layer information is not JSON: {error}") from error
    listed = data.get("Layers") if isinstance(data, dict) else None
    if not listed:
        raise ValueError("the layer information lists no layer")
    generation, tensors = _tensors(data)
    return LayerInfo(tuple(_layer(entry, generation) for entry in listed), tensors, generation)


def format_in(text: str) -> str:
    """The number format that a text names, the narrowest one; ``other`` when it names none."""
    return next((name for name, pattern in SPELLINGS if pattern.search(text)), OTHER)


def _tensors(data: Mapping[str, Any]) -> tuple[int, tuple[str, ...]]:
    old, new = data.get("Bindings"), data.get("I/O Tensors")
    if isinstance(old, list) and new is None:
        return 10, tuple(str(name) for name in old)
    if isinstance(new, list) and old is None:
        return 11, tuple(str(tensor["Name"]) for tensor in new)
    seen = ", ".join(sorted(data))
    raise ValueError(
        f"the layer information is of no known generation: Bindings (10) or I/O Tensors (11), seen: {seen}"
    )


def _layer(entry: Any, generation: int) -> Layer:
    if not isinstance(entry, dict) or "LayerType" not in entry:
        raise ValueError("the engine tells only its layers' names; build it with --profilingVerbosity=detailed")
    kind = str(entry["LayerType"])
    placed = "dla" if kind.upper() == "DLA" else "gpu"
    name, nodes = str(entry.get("Name", "")), tuple(NODE.findall(str(entry.get("Metadata", ""))))
    precision = _precision(entry, generation)
    tf32 = precision == "fp32" and TF32.search(str(entry.get("TacticName", ""))) is not None
    return Layer(name, kind, precision, placed, _kind(entry, placed), nodes, tf32)


def _kind(entry: Mapping[str, Any], placed: str) -> str:
    if placed == "dla":
        return "multiplies"  # a loadable of many layers; what a DLA cannot multiply stays on the GPU
    words = " ".join(str(entry.get(key, "")) for key in ("LayerType", "ParameterType"))
    if PRODUCTS.search(words):
        return "multiplies"
    if MOVING.search(words):
        return "moves"
    # Myelin fuses what it likes into a layer that it calls kgen; the kernel's name says whether it multiplies.
    return (
        "multiplies" if "pool" not in words.lower() and KERNELS.search(str(entry.get("TacticName", ""))) else "computes"
    )


def _precision(entry: Mapping[str, Any], generation: int) -> str:
    weights = entry.get("Weights")
    found = [_tensor_format(tensor, generation) for tensor in entry.get("Inputs") or ()]
    if isinstance(weights, Mapping):
        found.append(format_in(str(weights.get("Type", ""))))
    order = [name for name, _ in FORMATS]
    return min((one for one in found if one != OTHER), key=order.index, default=OTHER)


def _tensor_format(tensor: Mapping[str, Any], generation: int) -> str:
    if generation == 10:
        return format_in(str(tensor.get("Format/Datatype", "")))
    spoken = tensor.get("Datatype", tensor.get("DataType", ""))
    return format_in(str(spoken)) if spoken else format_in(str(tensor.get("Format", "")))
