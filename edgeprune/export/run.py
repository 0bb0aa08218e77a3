"""Run a model on a stack of images, image by image where its batch is fixed: for comparing, never for timing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from edgeprune.errors import DataError
from edgeprune.export.graph import inputs_of, largest_batch, load_graph, metadata_of, parsed_metadata

Outputs = list[np.ndarray]


def outputs_of_onnx(model: onnx.ModelProto | Path | str, images: np.ndarray) -> Outputs:
    """Every output of an ONNX model for images of shape (N, 3, H, W), by ONNX Runtime on the CPU; first axis N.

    Raises:
        DataError: the file cannot be read, or ONNX Runtime cannot load or run it.
    """
    import onnxruntime as ort

    graph = model if isinstance(model, onnx.ModelProto) else load_graph(model)
    what = "the model" if isinstance(model, onnx.ModelProto) else str(model)
    (first, *others) = inputs_of(graph) or (None,)
    if first is None or others:
        raise DataError(
            f"{what} has {1 + len(others) if first else 0} inputs; a model with one image input was expected"
        )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a busy machine pays for spinning
    try:
        session: Any = ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        most = largest_batch(parsed_metadata(metadata_of(graph))) or len(images)
        batch = first.shape[0] if first.shape and isinstance(first.shape[0], int) else min(most, len(images))
        dtype = np.float16 if first.dtype == "float16" else np.float32
        return in_batches(
            lambda stack: session.run(None, {first.name: stack.astype(dtype, copy=False)}), images, batch=batch
        )
    except Exception as error:  # ONNX Runtime raises its own classes, one a status code
        if isinstance(error, DataError):
            raise
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"ONNX Runtime cannot run {what}: {line}") from error


def outputs_of_module(module: nn.Module, images: np.ndarray, *, end_to_end: bool) -> Outputs:
    """What a model's export would give for the images: decoded predictions, and prototypes for segmentation.

    The module itself is left alone; a copy is fused as every runtime of Ultralytics does it.
    """
    model: Any = deepcopy(module).float().eval()
    if hasattr(model, "end2end"):
        model.end2end = end_to_end
    if hasattr(model, "fuse"):
        model = model.fuse(verbose=False)

    def run(stack: np.ndarray) -> Outputs:
        with torch.inference_mode():
            result = model(torch.from_numpy(stack))
        result = result[0] if isinstance(result, (tuple, list)) else result
        return [item.numpy() for item in (result if isinstance(result, (tuple, list)) else [result])]

    return in_batches(run, images, batch=1)


def in_batches(run: Callable[[np.ndarray], Outputs], images: np.ndarray, *, batch: int) -> Outputs:
    """Run in stacks of exactly ``batch`` images; the last one is filled up with zeros whose outputs are dropped."""
    parts: list[Outputs] = []
    for start in range(0, len(images), batch):
        stack = images[start : start + batch]
        short = batch - len(stack)
        if short:
            stack = np.concatenate([stack, np.zeros((short, *stack.shape[1:]), stack.dtype)])
        parts.append([np.asarray(output)[: batch - short] for output in run(np.ascontiguousarray(stack))])
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def by_order(outputs: Mapping[str, np.ndarray]) -> Outputs:
    """A session's outputs as a list, in the order of the graph."""
    return list(outputs.values())
