"""ONNX files as others make them: stock Ultralytics exports of any size, and graphs with TensorRT's own operators."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from tests.situations.models import NAMES, SIDE


def stock(made: Any, path: Path, *, imgsz: int | Sequence[int] = SIDE, **arguments: Any) -> Path:
    """A model as Ultralytics itself exports it: no entry of edgeprune in the file."""
    from ultralytics.engine.exporter import Exporter
    from ultralytics.utils import DEFAULT_CFG_DICT

    path.parent.mkdir(parents=True, exist_ok=True)
    made = copy.deepcopy(made)
    made.args = {**DEFAULT_CFG_DICT, "imgsz": SIDE, "task": made.task}
    made.pt_path = str(path.with_suffix(".pt"))
    told = {"format": "onnx", "imgsz": imgsz, "batch": 1, "opset": 17, "simplify": False, "device": "cpu", **arguments}
    with quiet():
        written = Exporter(overrides=told)(model=made)
    return Path(str(written))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Ultralytics' log."""
    logger = logging.getLogger("ultralytics")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)


def with_metadata(source: Path, path: Path, **entries: str | None) -> Path:
    """A copy with other ``metadata_props``; None removes an entry."""
    model = onnx.load(str(source))
    kept = {entry.key: entry.value for entry in model.metadata_props} | entries
    del model.metadata_props[:]
    helper.set_model_props(model, {key: value for key, value in kept.items() if value is not None})
    onnx.save(model, str(path))
    return path


def with_plugin(source: Path, path: Path, *, op: str = "EfficientNMS_TRT", domain: str = "TRT", rows: int = 10) -> Path:
    """A detector whose raw output goes through one of TensorRT's NMS plugins, as many exporters write it."""
    model = onnx.load(str(source))
    graph = model.graph
    raw = graph.output[0]
    channels, anchors = (axis.dim_value for axis in raw.type.tensor_type.shape.dim[1:])
    graph.initializer.extend(
        helper.make_tensor(f"cut{number}", TensorProto.INT64, [1], [number]) for number in (0, 4, channels, 1)
    )
    graph.node.extend(
        [
            helper.make_node("Transpose", [raw.name], ["rows"], perm=[0, 2, 1]),
            helper.make_node("Slice", ["rows", "cut0", "cut4", "axis2"], ["boxes"]),
            helper.make_node("Slice", ["rows", "cut4", f"cut{channels}", "axis2"], ["scores"]),
            helper.make_node(
                op,
                ["boxes", "scores"],
                ["num_dets", "det_boxes", "det_scores", "det_classes"],
                domain=domain,
                name="nms",
                background_class=-1,
                box_coding=1,
                iou_threshold=0.7,
                max_output_boxes=rows,
                plugin_version="1",
                score_activation=0,
                score_threshold=0.25,
            ),
        ]
    )
    graph.initializer.append(helper.make_tensor("axis2", TensorProto.INT64, [1], [2]))
    del graph.output[:]
    for name, kind, shape in (
        ("num_dets", TensorProto.INT32, [1, 1]),
        ("det_boxes", TensorProto.FLOAT, [1, rows, 4]),
        ("det_scores", TensorProto.FLOAT, [1, rows]),
        ("det_classes", TensorProto.INT32, [1, rows]),
    ):
        graph.output.append(helper.make_tensor_value_info(name, kind, shape))
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    assert anchors
    onnx.save(model, str(path))
    return path


def with_nan(source: Path, path: Path, value: float = float("nan")) -> Path:
    """A copy whose first weight is not a number."""
    model = onnx.load(str(source))
    weight = next(item for item in model.graph.initializer if len(item.dims) == 4)
    values = onnx.numpy_helper.to_array(weight).copy()
    values.reshape(-1)[0] = value
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, str(path))
    return path


def identity(path: Path, *, shape: Sequence[int | str] = (1, 3, SIDE, SIDE), kind: int = TensorProto.FLOAT) -> Path:
    """A graph that gives back what it is given, with a detector's metadata."""
    value = [helper.make_tensor_value_info(name, kind, list(shape)) for name in ("images", "output0")]
    graph = helper.make_graph([helper.make_node("Identity", ["images"], ["output0"])], "g", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    told = {"names": str(NAMES), "task": "detect", "stride": "32", "imgsz": f"[{SIDE}, {SIDE}]", "batch": "1"}
    helper.set_model_props(model, told)
    onnx.save(model, str(path))
    return path
