"""What a deployment tool has to know of the model that ships: read from ``model.onnx``, never typed again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeprune.errors import DataError
from edgeprune.export.graph import TensorInfo, inputs_of, load_graph, metadata_of, outputs_of
from edgeprune.export.metadata import PRECISION_KEY, ModelMetadata, facts_of
from edgeprune.model_metadata import literal_of
from edgeprune.runtimes.engine_file import BUNDLED


@dataclass(frozen=True)
class ShippedModel:
    """An exported model.

    Attributes:
        onnx: the file.
        engine: TensorRT's bare engine beside it in a bundle; None where none was built.
        metadata: what the file says of its model.
        entries: the same as text, ``metadata_props`` as they stand.
        input: the image tensor, (batch, channels, height, width).
        outputs: in their order.
    """

    onnx: Path
    engine: Path | None
    metadata: ModelMetadata
    entries: Mapping[str, str]
    input: TensorInfo
    outputs: tuple[TensorInfo, ...]

    @classmethod
    def read(cls, path: Path) -> ShippedModel:
        """Read a bundle, or an ONNX file.

        Raises:
            DataError: neither of both, or a file that does not say task, names, stride and size.
        """
        onnx = path / "model.onnx" if path.is_dir() else path
        if path.is_dir() and not onnx.is_file():
            raise DataError(f"{path} is no bundle: it has no model.onnx; give runs/TARGET/bundle, or an ONNX file")
        graph = load_graph(onnx)
        entries = metadata_of(graph)
        metadata = facts_of(graph)
        if metadata.missing:
            raise DataError(f"{onnx} does not say its {', '.join(metadata.missing)}; export it with edgeprune export")
        inputs = inputs_of(graph)
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            raise DataError(
                f"{onnx} has {len(inputs)} inputs; one image tensor (batch, channels, height, width) is taken"
            )
        engine = onnx.with_name(BUNDLED)
        return cls(onnx, engine if engine.is_file() else None, metadata, entries, inputs[0], outputs_of(graph))

    @property
    def precision(self) -> str:
        """fp32, fp16, int8 or int8-fp16."""
        return self.entries.get(PRECISION_KEY, "fp32")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        assert self.metadata.imgsz is not None  # read() refuses a file without
        return self.metadata.imgsz

    def literals(self) -> dict[str, object]:
        """The entries as Ultralytics' exporter holds them before they become text: numbers, lists and dictionaries."""
        return {key: _literal(value) for key, value in self.entries.items()}


def _literal(text: str) -> object:
    try:
        value = literal_of(text)
        json.dumps(value)
    except (ValueError, TypeError, RecursionError):  # no literal, or one that a header cannot hold: a set, bytes
        return text
    return value
