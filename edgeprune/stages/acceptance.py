"""NVIDIA's own parser on the graph that will be compiled, asked before any device is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgeprune.errors import DataError, DeviceError, ToolError
from edgeprune.runtimes.nvidia_parser import NAME, ask_parser, parser_availability
from edgeprune.samples.gates import Gate, Verdict, at_most_gate
from edgeprune.target import Target


def acceptance_gates(stage: str, target: Target, onnx: Path) -> list[Gate]:
    """A row for a target whose engines TensorRT builds, none for another.

    PASS when the parser takes the graph and the builder builds it; FAIL with their words; INCONCLUSIVE where they
    crash, which says nothing of the graph. Where they are not installed, do not load, cannot be asked about this graph
    or lack an operator that the full TensorRT may have, the row informs: an engine that was really built needs no
    second opinion. So does a refusal where ONNX Runtime stands between: it gives TensorRT what that takes.

    Args:
        stage: the stage that made the graph.
        target: whose runtime will compile it.
        onnx: the graph.
    """
    if target.oldest_tensorrt is None:
        return []
    available = parser_availability()
    if not available.ok:
        reason = f"not asked, {available.detail}; next: {available.remedy}"
        return [_information(stage, reason)]
    try:
        answer = ask_parser(onnx)
    except (DataError, DeviceError) as error:  # installed is not loaded: another glibc, half an install
        return [_information(stage, f"gave no answer: {error}")]
    except ToolError as error:
        return [Gate(stage, NAME, None, 0.0, "errors", Verdict.INCONCLUSIVE, f"gave no answer: {error}")]
    if answer.lacking and not answer.refusals:
        reason = f"cannot tell: TensorRT for RTX {answer.version} has no {', '.join(answer.lacking)}"
        return [_information(stage, reason)]
    taken = f"TensorRT for RTX {answer.version} parsed and built the graph"
    gate = at_most_gate(stage, NAME, float(len(answer.refusals)), 0.0, "errors", taken)
    if not answer.refusals:
        return [gate]
    refused = f"TensorRT for RTX {answer.version} refuses the graph: {answer.refusals[0]}"
    if target.runtime.startswith("onnxruntime"):
        kept = "ONNX Runtime leaves such nodes to another provider, and nothing is timed where they multiply"
        return [_information(stage, f"{refused}; {kept}")]
    return [replace(gate, reason=refused)]


def _information(stage: str, reason: str) -> Gate:
    """A row without a figure that does not decide."""
    return Gate(stage, NAME, None, None, "", Verdict.PASS, reason)
