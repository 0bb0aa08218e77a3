"""Parity rows of the verdict table: the same images through a graph before and after a transform."""

from __future__ import annotations

from dataclasses import replace

from edgeprune.export.result import ParityInfo
from edgeprune.samples.gates import Gate, Verdict, at_least_gate, at_most_gate

MIN_AGREEMENT = 0.9
"""Of an engine's detections with its ONNX's: other kernels round otherwise, which moves a few across the threshold."""


def parity_gate(stage: str, parity: ParityInfo, limit: float, against: str) -> Gate:
    """The largest difference of a decoded output."""
    reason = f"{against}, {parity.images} images"
    return at_most_gate(stage, "output difference", parity.max_abs, limit, "px/score", reason)


def agreement_gate(stage: str, parity: ParityInfo) -> Gate:
    """Whether an engine finds what its ONNX finds; where that finds nothing on the images, nothing is known."""
    expected, images = parity.detections_reference, parity.images
    reason = f"{expected} detections of the ONNX, {parity.detections_candidate} of the engine on {images} images"
    gate = at_least_gate(stage, "agreement with the ONNX", parity.detections_agreement, MIN_AGREEMENT, "", reason)
    if expected == 0 and gate.verdict is Verdict.PASS:
        reason = f"the ONNX finds nothing on {images} images, so agreement says nothing; give a trained model"
        return replace(gate, verdict=Verdict.INCONCLUSIVE, reason=reason)
    return gate
