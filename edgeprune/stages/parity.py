"""Parity rows of the verdict table: the same images through a graph before and after a transform."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeprune.gate import Gate, at_most
from edgeprune.stages.base import Context

IMAGES = 16  # enough to meet crowded and empty scenes; parity is exact arithmetic, not a statistic


def parity_facts(context: Context, reference: Path, candidate: Path) -> dict[str, Any]:
    """Differences of outputs on validation images, as plain facts."""
    from edgeprune.export.parity import parity

    context.reporter.progress("comparing outputs on validation images")
    images = context.dataset.sample_images(context.target.accuracy.split, IMAGES, context.seed)
    return parity(reference, candidate, images, imgsz=context.target.imgsz).to_json()


def parity_gate(stage: str, facts: dict[str, Any], limit: float, against: str) -> list[Gate]:
    """One row: the largest difference of a decoded output."""
    reason = f"{against}, {facts['images']} images"
    return [at_most(stage, "output difference", facts["max_abs"], limit, "px/score", reason)]
