"""Small ONNX graphs for the tests: enough to be optimised, timed and taken apart in milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

METADATA = {"names": "{0: 'cell'}", "stride": "32", "task": "detect", "imgsz": "[32, 48]"}


def convolutions(
    path: Path, *, width: int = 8, depth: int = 2, shape: tuple[int | str, ...] = (1, 3, 32, 32), half: bool = False
) -> Path:
    """A chain of 3x3 convolutions with ReLU over an image; float32 or float16, with an exporter's metadata."""
    kind = np.float16 if half else np.float32
    onnx_kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    generator = np.random.default_rng(0)
    nodes, weights, last, channels = [], [], "images", 3
    for i in range(depth):
        weight = (generator.normal(size=(width, channels, 3, 3)) / (3 * channels**0.5)).astype(kind)
        weights.append(numpy_helper.from_array(weight, f"w{i}"))
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], name=f"conv{i}", pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"], name=f"relu{i}"))
        last, channels = f"r{i}", width
    nodes[-1].output[0] = "output0"
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("images", onnx_kind, shape)],
        [helper.make_tensor_value_info("output0", onnx_kind, (shape[0], width, *shape[2:]))],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    for key, value in METADATA.items():
        model.metadata_props.add(key=key, value=value)
    save(model, str(path))
    return path


def quantised(path: Path) -> Path:
    """One multiplication behind a pair of QuantizeLinear and DequantizeLinear."""
    scale = numpy_helper.from_array(np.array(0.01, np.float32), "scale")
    zero = numpy_helper.from_array(np.array(0, np.int8), "zero")
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
            helper.make_node("Mul", ["d", "d"], ["y"]),
        ],
        "quantised",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (4,))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (4,))],
        [scale, zero],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path
