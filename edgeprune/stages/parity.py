"""Parity rows of the verdict table: the same images through a graph before and after a transform."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeprune.runtimes.base import Runtime
from edgeprune.samples.gates import Gate, Verdict, at_least, at_most
from edgeprune.stages.base import Context

LEAST_AGREEMENT = 0.9
"""Of an engine's detections with its ONNX's: other kernels round otherwise, which moves a few across the threshold."""
IMAGES = 16  # enough to meet crowded and empty scenes; parity is exact arithmetic, not a statistic


def parity_facts(
    context: Context, reference: Path, candidate: Path, *, runtime: Runtime | None = None
) -> dict[str, Any]:
    """Differences of outputs on validation images, as plain facts; an engine of ``runtime`` is what its ONNX
    ``reference`` says it is."""
    from edgeprune.export.graph import metadata_of
    from edgeprune.export.parity import parity

    context.reporter.progress("comparing outputs on validation images")
    images = context.dataset.sample_images(context.target.accuracy.split, IMAGES, context.seed)
    told = metadata_of(reference) if runtime is not None else None
    return parity(reference, candidate, images, imgsz=context.target.imgsz, runtime=runtime, metadata=told).to_json()


def parity_gate(stage: str, facts: dict[str, Any], limit: float, against: str) -> list[Gate]:
    """One row: the largest difference of a decoded output."""
    reason = f"{against}, {facts['images']} images"
    return [at_most(stage, "output difference", facts["max_abs"], limit, "px/score", reason)]


def agreement_gate(stage: str, facts: dict[str, Any]) -> Gate:
    """Whether an engine finds what its ONNX finds; where that finds nothing on the images, nothing is known."""
    seen, theirs = facts["detections_reference"], facts["detections_candidate"]
    reason = f"{seen} detections of the ONNX, {theirs} of the engine on {facts['images']} images"
    gate = at_least(stage, "agreement with the ONNX", facts["detections_agreement"], LEAST_AGREEMENT, "", reason)
    if seen == 0 and gate.verdict is Verdict.PASS:
        reason = f"the ONNX finds nothing on {facts['images']} images, so agreement says nothing; give a trained model"
        return replace(gate, verdict=Verdict.INCONCLUSIVE, reason=reason)
    return gate
