"""The header that Ultralytics puts before a TensorRT engine: length in 4 bytes, little-endian, then that much JSON.

``YOLO("model.engine")`` reads names, task, size and stride from it (``BaseBackend.engine_header`` in
``ultralytics/nn/backends/base.py``); trtexec, DeepStream and Triton take the bare engine and nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path

from edgeprune.artifact import write_atomically
from edgeprune.deploy.shipped import ShippedModel
from edgeprune.errors import DataError
from edgeprune.model_file import require_model
from edgeprune.reading import read_bytes, shown
from edgeprune.runtimes.engine_file import LENGTH_BYTES, split_header

MAX_ENGINE_BYTES = 8 << 30
ZIP = b"PK\x03\x04"  # as torch writes a checkpoint
IR_VERSION = b"\x08"  # field 1 of onnx.ModelProto, a varint


def read_header(engine: Path) -> dict[str, object]:
    """The header of an engine file, empty where it has none.

    Raises:
        DataError: the file cannot be read, or is a checkpoint or an ONNX graph.
    """
    return split_header(_read(engine))[0]


def strip_header(engine: Path, output: Path) -> int:
    """Write the bare engine; the number of bytes that were taken off, 0 where there was no header.

    Raises:
        DataError: the file cannot be read, or is a checkpoint or an ONNX graph.
    """
    data = _read(engine)
    _, bare = split_header(data)
    write_atomically(output, bare)
    return len(data) - len(bare)


def add_header(engine: Path, onnx: Path, output: Path) -> dict[str, object]:
    """Write the engine with the header that describes ``onnx``, the graph it was built from, with batch and size of the
    engine; an old header is replaced.

    Raises:
        DataError: a file cannot be read, the graph does not say what Ultralytics needs, or the engine's facts beside it
            are of another graph.
    """
    data = _read(engine)  # first: what is no engine is said of it, not of its facts
    model = ShippedModel.read(onnx, engine=engine)
    header = model.engine_literals() | ({} if model.dla_in_use is None else {"dla": model.dla_in_use})
    text = json.dumps(header).encode()
    _, bare = split_header(data)
    write_atomically(output, len(text).to_bytes(LENGTH_BYTES, "little") + text + bare)
    return header


def _read(engine: Path) -> bytes:
    require_model(engine, ".engine")
    data = read_bytes(engine, most=MAX_ENGINE_BYTES)
    if not data:
        raise DataError(f"{shown(engine)} is empty; build the engine again")
    bare = split_header(data)[1]
    kind = "a checkpoint" if bare.startswith(ZIP) else "an ONNX graph" if _is_graph(bare) else ""
    if kind:
        raise DataError(
            f"{shown(engine)} holds {kind}, and a TensorRT engine was expected; give the engine that was built from it"
        )
    return data


def _is_graph(data: bytes) -> bool:
    """Whether bytes are a serialized ONNX model: it begins with its ``ir_version``, and an engine does not."""
    if not data.startswith(IR_VERSION):
        return False
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return bool(onnx.ModelProto.FromString(data).graph.node)
    except DecodeError:
        return False
