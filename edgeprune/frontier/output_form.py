"""The output form of a detector, chosen by measurement: end-to-end head, raw head, or NMS in the graph.

A raw head leaves the suppression to the caller, so that forms can be told apart from frame to boxes alone
(``budget.scope: end_to_end``). The form is a property of the target: every row, the baseline too, then has it; where
``export.head: auto`` would give a number format another one, that format is not held against the others by the time of
the model (:func:`~edgeprune.measure.variants.require_same_output`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgeprune.checkpoint import Checkpoint
from edgeprune.dataset import Dataset
from edgeprune.export.detections import CONFIDENCE
from edgeprune.frontier.choose import HARMLESS, loss
from edgeprune.frontier.screening import Screening, screen
from edgeprune.pruning.heads import has_end_to_end_head, has_one_to_many_head, ships_end_to_end
from edgeprune.records.frontier import Form, Keys, Screened
from edgeprune.runtimes.site import Site
from edgeprune.samples.measurement import LEAST_GAIN
from edgeprune.target import Target

HEADS = {"end-to-end": "end-to-end head", "raw": "raw head"}
NMS = "NMS in the graph"


@dataclass(frozen=True)
class OutputForm:
    """What was chosen.

    Attributes:
        keys: of a profile; empty where the form stays.
        why: in one sentence; empty for a model that is no detector.
        measured: every form, the one of the target first; empty where none was measured.
    """

    keys: Keys
    why: str
    measured: tuple[Screened, ...] = ()


def output_forms(target: Target, source: Checkpoint, weights: str) -> list[Form]:
    """Every form that the model has and the target allows, the target's own first."""
    own = HEADS["end-to-end" if ships_end_to_end(source.model, target.exported_head) else "raw"]
    others: dict[str, Keys] = {NMS: {"export.nms": True}}
    if not has_one_to_many_head(source.model):
        others = {}
    elif has_end_to_end_head(source.model):
        others = {HEADS[head]: {"export.head": head} for head in HEADS} | others
    return [
        Form(own, weights, {}, ()),
        *(Form(name, weights, others[name], ("output",)) for name in others if name != own),
    ]


def choose_output(
    site: Site,
    source: Checkpoint,
    weights: str,
    dataset: Dataset,
    folder: Path,
    keep: Path | None,
    screener: Callable[..., Screening] = screen,
) -> OutputForm:
    """Time every output form from frame to boxes in one run, and take the fastest that costs next to no accuracy.

    Args:
        site: usable, its target as it was given.
        source: the checkpoint.
        weights: its name.
        dataset: gives frames, and images for the accuracy.
        folder: scratch.
        keep: folder of finished screenings.
        screener: what times forms without training.
    """
    target = site.target
    if source.task != "detect":
        return OutputForm({}, "")
    if target.export.nms or target.export.head != "auto":
        return OutputForm({}, f"Output form: {_stated(target)}, as the profile says.")
    asked = output_forms(target, source, weights)
    if target.budget.scope != "end_to_end":
        why = "another one is chosen with budget.scope: end_to_end alone, since the time of the model leaves out what"
        return OutputForm({}, f"Output form: {asked[0].name}, not measured; {why} follows the model.")
    # NMS in the graph cuts at its own confidence: what the others find below it, no user of any form sees
    found = screener(site, asked, {weights: source}, dataset, folder, keep, confidence=CONFIDENCE)
    best, why = fastest(found.screened)
    return OutputForm(best.form.keys, f"Output form: {why}{found.refused_text}.", found.screened)


def fastest(screened: tuple[Screened, ...]) -> tuple[Screened, str]:
    """The form to take, and why. Pure.

    Args:
        screened: the target's own form first.
    """
    own = screened[0]
    able = [one for one in screened[1:] if one.speed_up >= LEAST_GAIN and loss(own, one) <= HARMLESS]
    best = max(able, key=lambda one: one.speed_up, default=own)
    told = "; ".join(
        f"{one.form.name}: {one.ms:.2f} ms, ×{one.speed_up:.2f}, accuracy {one.accuracy or 0:.4f}" for one in screened
    )
    if best is own:
        dear = [one.form.name for one in screened[1:] if one.speed_up >= LEAST_GAIN]
        why = (
            f"what is faster costs more than {HARMLESS:g} of the accuracy"
            if dear
            else f"no other one is ×{LEAST_GAIN:g}"
        )
    else:
        why = f"the fastest from frame to boxes, ×{best.speed_up:.2f}, for at most {HARMLESS:g} of the accuracy"
    return best, f"{best.form.name}, {why} ({told}; without training, of what scores {CONFIDENCE:g} or more)"


def _stated(target: Target) -> str:
    return NMS if target.export.nms else HEADS[target.export.head]
