"""What is known of a graph that a folder carries: with the batch and size that its engine is built for."""

from __future__ import annotations

from pathlib import Path

from edgeprune.measure.compiling import free_axes
from edgeprune.runtimes.onnx_facts import OnnxFacts, onnx_facts
from edgeprune.target import Target


def carried_graph(folder: Path, target: Target) -> OnnxFacts:
    """Inputs and outputs of ``model.onnx`` in a carried folder, axes that it leaves free filled as the builder does."""
    return onnx_facts(folder / "model.onnx", precision=target.graph_precision, free=free_axes(target))
