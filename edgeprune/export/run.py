"""Run a model on a stack of images, image by image where its batch is fixed: for comparing, never for timing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn
from ultralytics.utils import DEFAULT_CFG_DICT

from edgeprune.errors import NOT_OF_THE_INPUT, DataError, first_line
from edgeprune.export.graph import inputs_of, load_graph, refuse_plugins
from edgeprune.export.metadata import ModelMetadata, facts_of
from edgeprune.export.module import most_detections
from edgeprune.runtimes.base import FreeAxes, Runtime
from edgeprune.runtimes.engine_file import read_facts

Outputs = list[np.ndarray]
STACK = 8  # images that are run at once where a model takes any number: what it needs in memory does not grow with them


def outputs_of_onnx(model: onnx.ModelProto | Path | str, images: np.ndarray) -> Outputs:
    """Every output of an ONNX model for images of shape (N, 3, H, W), by ONNX Runtime on the CPU; first axis N.

    Raises:
        DataError: the file cannot be read, or ONNX Runtime cannot load or run it.
    """
    return by_image(*stacks_of_onnx(model, images), len(images))


def stacks_of_onnx(model: onnx.ModelProto | Path | str, images: np.ndarray) -> tuple[list[Outputs], int]:
    """As :func:`outputs_of_onnx`, stack by stack as the model gives it, whatever the first axis of a value is; with the
    number of images in a stack, to which the last one is filled up with zeros."""
    import onnxruntime as ort

    graph = model if isinstance(model, onnx.ModelProto) else load_graph(model)
    what = "the model" if isinstance(model, onnx.ModelProto) else str(model)
    inputs = inputs_of(graph)
    if len(inputs) != 1:
        raise DataError(f"{what} has {len(inputs)} inputs; a model with one image input was expected")
    refuse_plugins(graph, what)
    image_input = inputs[0]
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a busy machine pays for spinning
    try:
        session: Any = ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        largest = min(facts_of(graph).largest_batch or STACK, STACK)
        batch = (
            image_input.shape[0]
            if image_input.shape and isinstance(image_input.shape[0], int)
            else min(largest, len(images))
        )
        dtype = np.float16 if image_input.dtype == "float16" else np.float32
        stacks = _run_stacks(
            lambda stack: session.run(None, {image_input.name: stack.astype(dtype, copy=False)}), images, batch
        )
        return stacks, batch
    except (DataError, *NOT_OF_THE_INPUT):
        raise
    except Exception as error:  # ONNX Runtime raises its own classes, one a status code
        raise DataError(f"ONNX Runtime cannot run {what}: {first_line(error)}") from error


def outputs_of_engine(runtime: Runtime, engine: Path, images: np.ndarray, *, batch: int) -> Outputs:
    """Every output of an engine for images of shape (N, 3, H, W), by its runtime in stacks of ``batch``; first axis
    N."""
    with runtime.session(engine) as session:
        name = session.input_names[0]
        return run_in_batches(lambda stack: list(session.run({name: stack}).values()), images, batch=batch)


def outputs_of_module(module: nn.Module, images: np.ndarray, *, end_to_end: bool, rows: int | None = None) -> Outputs:
    """What a model's export would give for the images: decoded predictions, and prototypes for segmentation.

    The module itself is left alone; a copy is fused as every runtime of Ultralytics does it. How many detections its
    end-to-end head gives, and whether one place may have two classes, is for the exporter to say, whatever training or
    validation left on the head.

    Args:
        module: of any task.
        images: of shape (N, channels, H, W).
        end_to_end: of two heads, whether the one without NMS is asked.
        rows: detections an image of the end-to-end head; what its own export has room for when None.
    """
    model: Any = deepcopy(module).float().eval()
    head: Any = model.model[-1] if hasattr(model, "model") else None
    if hasattr(head, "max_det"):
        head.max_det = most_detections(model) if rows is None else rows
        head.agnostic_nms = DEFAULT_CFG_DICT["agnostic_nms"]
    if hasattr(model, "end2end"):
        model.end2end = end_to_end
    if hasattr(model, "fuse"):
        model = model.fuse(verbose=False)

    def run(stack: np.ndarray) -> Outputs:
        with torch.inference_mode():
            result = model(torch.from_numpy(stack))
        result = result[0] if isinstance(result, (tuple, list)) else result
        return [item.numpy() for item in (result if isinstance(result, (tuple, list)) else [result])]

    return run_in_batches(run, images, batch=1)


def fixed_batch(model: onnx.ModelProto | Path, said: ModelMetadata | None = None) -> int | None:
    """Images that a run of an exported file takes; None for any number, or where nothing tells. A graph of free batch
    says nothing of what its engine was built for: what lies beside the engine does.

    Args:
        model: an ONNX file, what was read of one, or an engine.
        said: of an engine that nothing lies beside, what its graph says.

    Raises:
        DataError: the file, or what lies beside it, cannot be read.
    """
    if isinstance(model, onnx.ModelProto) or model.suffix == ".onnx":
        graph = model if isinstance(model, onnx.ModelProto) else load_graph(model)
        shape = inputs_of(graph)[0].shape
        return shape[0] if shape and isinstance(shape[0], int) and shape[0] > 0 else None
    known = read_facts(model)
    if known is not None and known.inputs:
        return known.inputs[0].shape[0]
    return None if said is None or said.dynamic else said.batch


def axes_to_build(graph: onnx.ModelProto, facts: ModelMetadata, batch: int, size: tuple[int, int] | None) -> FreeAxes:
    """What an engine is built for that images are run by. A batch that the graph fixes is kept, which nobody has to ask
    for; of a free one it is what is asked, as far as NMS inside answers for it.

    Args:
        graph: that is built.
        facts: of it.
        batch: images a run that are asked.
        size: height and width in pixels that are asked; the graph's own when None.
    """
    free = fixed_batch(graph) is None
    return FreeAxes(min(batch, facts.largest_batch or batch) if free else 0, size)


def run_in_batches(run: Callable[[np.ndarray], Outputs], images: np.ndarray, *, batch: int) -> Outputs:
    """Run in stacks of exactly ``batch`` images; the last one is filled up with zeros whose outputs are dropped."""
    return by_image(_run_stacks(run, images, batch), batch, len(images))


def by_image(stacks: Sequence[Outputs], batch: int, count: int) -> Outputs:
    """Outputs of stacks of ``batch`` images as those of ``count`` images: without what the last was filled up with."""
    return [np.concatenate([part[:batch] for part in parts])[:count] for parts in zip(*stacks, strict=True)]


def _run_stacks(run: Callable[[np.ndarray], Outputs], images: np.ndarray, batch: int) -> list[Outputs]:
    stacks: list[Outputs] = []
    for start in range(0, len(images), batch):
        stack = images[start : start + batch]
        if missing := batch - len(stack):
            stack = np.concatenate([stack, np.zeros((missing, *stack.shape[1:]), stack.dtype)])
        stacks.append([np.asarray(output) for output in run(np.ascontiguousarray(stack))])
    return stacks
