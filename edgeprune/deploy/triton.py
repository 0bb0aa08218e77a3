"""A model repository for NVIDIA's Triton Inference Server; its schema is ``inference.ModelConfig``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from edgeprune.deploy.shipped import ShippedModel
from edgeprune.errors import TargetError
from edgeprune.export.graph import TensorInfo

TYPES = {
    "float": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "int64": "TYPE_INT64",
    "int32": "TYPE_INT32",
    "uint8": "TYPE_UINT8",
}
FREE_BATCH = 16  # the most of one run where the graph sets no limit
QUEUE_US = 500  # how long a request may wait for others to join its batch


def triton_files(model: ShippedModel, *, name: str = "edgeprune") -> dict[str, bytes | Path]:
    """A model repository: ``NAME_onnx``, and ``NAME_tensorrt`` where an engine was built.

    Args:
        model: what ships.
        name: of the models in it.

    Returns:
        Name in the repository to content, or to the file that it is a copy of.

    Raises:
        TargetError: a name that is no file name, or a tensor type that Triton does not have.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise TargetError(f"'{name}' cannot name a model of Triton: letters, digits, '_', '-' and '.' are allowed")
    forms = {"onnx": ("onnxruntime", "model.onnx", model.onnx)}
    if model.engine is not None:
        forms["tensorrt"] = ("tensorrt", "model.plan", model.engine)
    repository: dict[str, bytes | Path] = {}
    for form, (backend, filename, source) in forms.items():
        folder = f"{name}_{form}"
        repository[f"{folder}/config.pbtxt"] = config(model, name=folder, backend=backend).encode()
        repository[f"{folder}/1/{filename}"] = source
    return repository


def config(model: ShippedModel, *, name: str, backend: str) -> str:
    """``config.pbtxt``.

    A graph of fixed shape states its batch as an axis (``max_batch_size: 0``); one of free batch lets Triton put
    requests together. An engine has one shape, whatever its graph left free. ``parameters.metadata`` is where
    Ultralytics' Triton client looks for names, task and stride.
    """
    is_engine = backend == "tensorrt"
    free = model.free_batch and not is_engine
    fixed = dict(zip(model.input.shape, model.engine_shape, strict=True)) if is_engine else {}
    core = model.dla_in_use if is_engine else None
    dla = "" if core is None else f", secondary_devices [{{ kind: KIND_NVDLA, device_id: {core} }}]"
    limit = (model.metadata.largest_batch or FREE_BATCH) if free else 0
    lines = [
        f"name: {json.dumps(name)}",
        f"backend: {json.dumps(backend)}",
        f"max_batch_size: {limit}",
        f"input [{_tensor(model.input, free, fixed)}]",
        f"output [{', '.join(_tensor(output, free, fixed) for output in model.outputs)}]",
        f"instance_group [{{ count: 1, kind: {'KIND_GPU' if is_engine else 'KIND_AUTO'}{dla} }}]",
    ]
    if free:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_US} }}")
    metadata = json.dumps(str(model.literals()), ensure_ascii=False)  # protobuf takes no pairs of surrogates
    lines.append(f'parameters [{{ key: "metadata", value: {{ string_value: {metadata} }} }}]')
    return "\n".join(lines) + "\n"


def _tensor(tensor: TensorInfo, free: bool, fixed: Mapping[int | str, int]) -> str:
    """A tensor without the batch axis where that is ``free``; ``fixed``: axes by name that have a size after all."""
    if tensor.dtype not in TYPES:
        raise TargetError(f"tensor {tensor.name} is {tensor.dtype}; Triton files are written for {', '.join(TYPES)}")
    dims = [axis if isinstance(axis, int) else fixed.get(axis, -1) for axis in tensor.shape[1 if free else 0 :]]
    return f"{{ name: {json.dumps(tensor.name)}, data_type: {TYPES[tensor.dtype]}, dims: {dims} }}"
