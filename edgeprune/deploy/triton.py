"""A model repository for NVIDIA's Triton Inference Server; its schema is ``inference.ModelConfig``."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from edgeprune.artifact import sha256_of, write_files
from edgeprune.deploy.shipped import ShippedModel
from edgeprune.errors import TargetError
from edgeprune.export.graph import TensorInfo
from edgeprune.model_metadata import literal_of
from edgeprune.reading import shown

TYPES = {
    "float": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "int64": "TYPE_INT64",
    "int32": "TYPE_INT32",
    "uint8": "TYPE_UINT8",
}
FORMS = {"onnx": ("onnxruntime", "model.onnx"), "tensorrt": ("tensorrt", "model.plan")}  # backend, file
CONFIG = "config.pbtxt"
METADATA = re.compile(r'^parameters \[\{ key: "metadata", value: \{ string_value: (".*") \} \}\]$', re.MULTILINE)
FOREIGN = "what edgeprune did not write"
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
    sources = {"onnx": model.onnx, "tensorrt": model.engine}
    repository: dict[str, bytes | Path] = {}
    for form, (backend, filename) in FORMS.items():
        folder, source = f"{name}_{form}", sources[form]
        if source is None:
            continue
        repository[f"{folder}/{CONFIG}"] = config(model, name=folder, backend=backend).encode()
        repository[f"{folder}/1/{filename}"] = source
    return repository


def serve_lines(repository: str, served: Collection[str]) -> list[str]:
    """What to type for a server: of everything, and where an engine is served too, of the graph alone, for machines
    that the engine does not load on. There the server would end, although the graph loads.

    Args:
        repository: its folder.
        served: names of one model's forms in it.
    """
    every = shlex.join(["tritonserver", f"--model-repository={repository}"])
    if not any(name.endswith("_tensorrt") for name in served):
        return [every]
    graphs = [shlex.quote(f"--load-model={name}") for name in served if name.endswith("_onnx")]
    return [
        f"{every}   # on the board of the engine",
        f"{every} --model-control-mode=explicit {' '.join(graphs)}   # elsewhere, where the engine does not load",
    ]


def add_to_repository(model: ShippedModel, repository: Path, *, name: str = "edgeprune") -> list[str]:
    """Write :func:`triton_files` into a repository that may hold others, and an earlier answer to the same call.

    Args:
        model: what ships.
        repository: made where it is missing.
        name: of the models in it.

    Returns:
        What became of an earlier answer, a line each: a form of it that this model has not would be served beside the
        new one, and is removed.

    Raises:
        TargetError: as of :func:`triton_files`; or a name is taken, by a model of another task or of other classes, or
            by what edgeprune did not write. Nothing was written.
    """
    files, ours = triton_files(model, name=name), _described(model.literals())
    told: list[str] = []
    stale: list[str] = []
    for form, (_, filename) in FORMS.items():
        folder, graph = repository / f"{name}_{form}", f"{name}_{form}/1/{filename}"
        seen, source = _served_by(folder), files.get(graph)
        if not seen or (seen == FOREIGN and source is None):
            continue
        if seen != ours:
            raise TargetError(
                f"{folder} has {shown(seen)}, and this is {shown(ours)}: it is not replaced; give this one a name of "
                "its own, --name NAME, or another repository, -o FOLDER"
            )
        if source is None:
            stale.append(graph)
            told.append(f"{folder}: removed, for it was of an earlier bundle, and this one has no engine")
        elif isinstance(source, Path) and _differs(repository / graph, source):
            told.append(f"{folder}: takes the place of the model that was there")
    write_files(repository, files)
    for graph in stale:
        _remove(repository / graph)
    return told


def _remove(graph: Path) -> None:
    """Remove a model's file and configuration, and its folders where nobody put other versions into them."""
    version, folder = graph.parent, graph.parent.parent
    for path in (folder / CONFIG, graph):
        path.unlink(missing_ok=True)
    for empty in (version, folder):
        with suppress(OSError):
            empty.rmdir()


def _served_by(folder: Path) -> str:
    """What a folder of a repository has, as :func:`_described`, or :data:`FOREIGN` where edgeprune did not write it;
    empty where nothing is there."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return ""
    try:
        found = METADATA.search((folder / CONFIG).read_text(encoding="utf-8"))
        entries = literal_of(json.loads(found[1])) if found else None
    except (OSError, ValueError):
        entries = None
    return _described(entries) if isinstance(entries, dict) else FOREIGN


def _described(entries: Mapping[str, object]) -> str:
    """A model by what its clients rely on, task and classes: a later one of the same takes its place."""
    names = entries.get("names")
    classes = [str(name) for name in (names.values() if isinstance(names, dict) else ())]
    return f"a {entries.get('task')} model of {len(classes)} classes, {', '.join(classes)}"


def _differs(there: Path, source: Path) -> bool:
    return there.is_file() and not there.samefile(source) and sha256_of(there) != sha256_of(source)


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
    entries = model.engine_literals() if is_engine else model.literals()
    metadata = json.dumps(str(entries), ensure_ascii=False)  # protobuf takes no pairs of surrogates
    lines.append(f'parameters [{{ key: "metadata", value: {{ string_value: {metadata} }} }}]')
    return "\n".join(lines) + "\n"


def _tensor(tensor: TensorInfo, free: bool, fixed: Mapping[int | str, int]) -> str:
    """A tensor without the batch axis where that is ``free``; ``fixed``: axes by name that have a size after all."""
    if tensor.dtype not in TYPES:
        raise TargetError(f"tensor {tensor.name} is {tensor.dtype}; Triton files are written for {', '.join(TYPES)}")
    dims = [axis if isinstance(axis, int) else fixed.get(axis, -1) for axis in tensor.shape[1 if free else 0 :]]
    return f"{{ name: {json.dumps(tensor.name)}, data_type: {TYPES[tensor.dtype]}, dims: {dims} }}"
