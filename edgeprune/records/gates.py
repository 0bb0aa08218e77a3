"""Gates that follow from what a record holds: right after a stage, and again whenever somebody reads the record.

A verdict that is written down is a claim. What it was made from (raw latencies, facts of the stages) lies beside it, so
:func:`edits` makes it anew by the same functions and says where the two differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from edgeprune.errors import EdgepruneError, first_line
from edgeprune.export.result import (
    EXPORT_TOLERANCE,
    SIMPLIFY_TOLERANCE,
    LintFinding,
    ParityInfo,
    box_tolerance_px,
)
from edgeprune.input_size import DEFAULT_SIDE, Size, both_sides
from edgeprune.measure.result import ArtifactAccuracy
from edgeprune.records.build import BuildRecord
from edgeprune.records.facts import BaselineFacts, EngineFacts, PruneFacts, SimplifyFacts
from edgeprune.runtimes.precision_truth import LEAST_ASKED, LEAST_SHARE, LEAVE_DLA, PrecisionShare
from edgeprune.samples.agreement import MIN_AGREEMENT, MOST_IMAGES, agreement_bounds
from edgeprune.samples.gates import (
    Gate,
    Verdict,
    accuracy_gate,
    at_least_gate,
    at_most_gate,
    budget_gate,
    inform_by_later,
    overall_verdict,
    pending_gate,
    simulated_gate,
    unpruned_gate,
)
from edgeprune.samples.statistics import confidence_text
from edgeprune.samples.text import ceiled, floored
from edgeprune.target import Target

METADATA_BYTES = 16 << 10  # room in a file that holds the same model: digests of its plan and shapes are in it
NAMED = 3  # layers in a reason; the record has all of them
SAME_SIZE = 0.01  # relative: TensorRT builds one graph twice into engines that differ by this
SAME = 1e-9  # relative: what is written is read back exactly


def parity_gate(stage: str, parity: ParityInfo, tolerance: float, imgsz: Size, against: str) -> Gate:
    """The difference of a decoded output that is the farthest in its limit; FAIL where the two share no detection.

    Args:
        stage: the stage behind which the gate stands.
        parity: what was compared.
        tolerance: largest difference of a score, and up to 640 pixels of a coordinate.
        imgsz: size of the model's input, with which the limit of a coordinate grows.
        against: what the model was held against, in words.
    """
    reason, box = f"{against}, {parity.images} images", box_tolerance_px(tolerance, imgsz)
    if box > tolerance:
        reason += f"; within {box:g} px at {max(both_sides(imgsz))}, {tolerance:g} of a score"
    worst = parity.beyond(tolerance, imgsz)
    gate = at_most_gate(stage, "output difference", worst.difference, worst.limit, "px/score", reason)
    if parity.nothing_agrees:
        seen = f"no row of {parity.rows} has a partner" if parity.found_nothing else parity.text
        return replace(gate, verdict=Verdict.FAIL, reason=f"{against}: the two have nothing in common, {seen}")
    if parity.compared_nothing and gate.verdict is Verdict.PASS:
        reason = f"NMS inside finds nothing on {parity.images} images, so nothing was compared; give a trained model"
        return replace(gate, verdict=Verdict.INCONCLUSIVE, reason=reason)
    return gate


def agreement_gate(stage: str, parity: ParityInfo, more: str = "") -> Gate:
    """Whether an engine surely finds what its ONNX finds; where that finds nothing on the images, nothing is known.

    Records from before images were counted one by one are held by their bare share, as they were when they were
    written.

    Args:
        stage: the stage behind which the gate stands.
        parity: of the engine's outputs with those of its graph.
        more: how further images are come by, where fewer were compared than are at most.
    """
    expected, images = parity.detections_reference, parity.images
    seen = f"{expected} detections of the ONNX, {parity.detections_candidate} of the engine on {images} images"
    gate = at_least_gate(stage, "agreement with the ONNX", parity.detections_agreement, MIN_AGREEMENT, "", seen)
    if expected == 0 and gate.verdict is Verdict.PASS:
        reason = f"the ONNX finds nothing on {images} images, so agreement says nothing; give a trained model"
        return replace(gate, verdict=Verdict.INCONCLUSIVE, reason=reason)
    if not parity.by_image or not parity.detections_agreement:
        return gate
    bounds = agreement_bounds(parity.by_image)
    sure = f"with {confidence_text(bounds.confidence, 1)} confidence; {seen}"
    low, high = floored(bounds.low, MIN_AGREEMENT), ceiled(bounds.high, MIN_AGREEMENT)
    if bounds.low >= MIN_AGREEMENT:
        return replace(gate, verdict=Verdict.PASS, reason=f"at least {low} {sure}")
    if bounds.high < MIN_AGREEMENT:
        return replace(gate, verdict=Verdict.FAIL, reason=f"at most {high} {sure}")
    advice = more or "a split with more images would tell (accuracy.split)"
    if images >= MOST_IMAGES:
        advice = "too near to the limit to tell: a plainer precision may agree better"
    reason = f"between {low} and {high} {sure}; {advice}"
    return replace(gate, verdict=Verdict.INCONCLUSIVE, reason=reason)


def precision_gate(stage: str, share: PrecisionShare, precision: str) -> Gate:
    """FAIL, with the numbers, when less than half of the multiplying work that the graph asks for in a lower format is
    in the asked precision; INCONCLUSIVE when the graph asks for so little that nothing follows."""
    text = "; ".join(part for part in (share.text(), share.float_text(precision)) if part)
    gate = at_least_gate(stage, f"{precision} in the engine", share.held(precision), LEAST_SHARE, "", text)
    if share.too_little_asked(precision):
        reason = (
            f"{text}: the rest is too little to tell what the engine holds, {LEAST_ASKED:.0%} is the least; allow a "
            "larger accuracy.max_map_drop or ask for a plainer precision"
        )
        return replace(gate, verdict=Verdict.INCONCLUSIVE, reason=reason)
    if gate.verdict is not Verdict.FAIL:
        return gate
    reason = f"asked for {precision}, the engine is {text}; the builder did not do what was asked"
    return replace(gate, reason=reason)


def dla_gate(stage: str, share: PrecisionShare) -> Gate:
    """How many layers of an engine are on the DLA that it was asked for: FAIL where none is, since its builder exits 0
    with all of them on the GPU. Their share of the work is told, and what runs on the GPU is named."""
    gate = at_least_gate(stage, "on the DLA", float(share.dla), 1.0, "layers", "")
    fallbacks = _named(share.fallbacks)
    if gate.verdict is Verdict.FAIL:
        reason = f"asked for a DLA, and every layer that computes fell back to the GPU: {fallbacks}; {LEAVE_DLA}"
        return replace(gate, reason=reason)
    parts = []
    if share.dla_share is not None:
        mostly = "" if share.dla_share >= LEAST_SHARE else f", so that most of the work is the GPU's; {LEAVE_DLA}"
        what = "time of the layers" if share.time else "layers"
        parts.append(f"{share.dla_share:.0%} of the {what} that multiply{mostly}")
    parts.append(f"on the GPU: {fallbacks}" if share.fallbacks else "nothing fell back to the GPU")
    return replace(gate, reason="; ".join(parts))


def _named(layers: Sequence[str]) -> str:
    more = f" and {len(layers) - NAMED} more" if len(layers) > NAMED else ""
    return ", ".join(layers[:NAMED]) + more


def precision_gates(stage: str, share: PrecisionShare, precision: str, dla_core: int | None) -> list[Gate]:
    """What an engine has to hold: the number format that was asked for, and layers on the DLA where one was."""
    return [precision_gate(stage, share, precision), *([] if dla_core is None else [dla_gate(stage, share)])]


def macs_gate(facts: PruneFacts, least: float) -> Gate:
    """A budget of multiply-accumulates."""
    reason = "counted from the widths of the plan"
    reason = reason if facts.unpruned else f"{reason}: {facts.price}"
    return at_least_gate("prune", "MACs speed-up", facts.macs.ratio, least, "×", reason)


def nodes_gate(facts: SimplifyFacts) -> Gate:
    """Simplifying never adds a node."""
    nodes = facts.nodes
    reason = facts.reason or f"{nodes.before} nodes before"
    return at_most_gate("simplify", "graph nodes", nodes.after, nodes.before, "nodes", reason)


def drop_gate(target: Target, baseline: BaselineFacts, engine: EngineFacts) -> Gate:
    """What the artifact lost against the unpruned model, in a build and for results that came back; ``target`` is in
    the number format of what ships."""
    reference, after, floor = baseline.reference_accuracy, engine.accuracy, target.accuracy.max_map_drop
    drop, judged = engine.accuracy_drop, after.accuracy
    split, trained_on = words_of_images(
        judged.split, judged.images, trained_on=judged.trained_on, chosen_on=judged.chosen_on
    )
    gate = accuracy_gate(
        "engine", reference, after.value, floor, after.metric, interval=drop, split=split, trained_on=trained_on
    )
    ran = what_ran(target, after)
    return replace(gate, reason=f"{gate.reason}; {ran}") if ran else gate


def words_of_images(split: str, images: int, *, trained_on: int, chosen_on: int) -> tuple[str, str]:
    """Words for the images that judge, and for those of them that were trained on: empty where none was.

    Args:
        split: that they are of.
        images: how many they are.
        trained_on: how many of them are of the training split.
        chosen_on: how many of them chose the best epoch.
    """
    seen = f"{trained_on} of the {images} were trained on" if trained_on else ""
    if split == "val":
        return "val, which also chose the best epoch", seen
    return f"{split}, {chosen_on} of which chose the best epoch too" if chosen_on else split, seen


def what_ran(target: Target, accuracy: ArtifactAccuracy) -> str:
    """Words for an accuracy that is not the engine's: which graph was run, and by what; empty where the engine was.

    Args:
        target: in the number format of what ships.
        accuracy: of what ships.
    """
    if not accuracy.of_graph:
        return ""
    words = f"by {accuracy.measured_on}, of the graph that the engine is built from"
    if target.graph_precision == target.precision:
        return words
    return f"{words}, which is in {target.graph_precision} where the engine is in {target.precision}"


def size_gate(baseline: BaselineFacts, engine: EngineFacts) -> Gate:
    """What ships is not larger than the unpruned model, but for metadata; the graphs are weighed without an engine."""
    unpruned, metric = engine.unpruned_bytes(baseline), "ONNX size" if baseline.engine_bytes is None else "size"
    limit = max(unpruned + METADATA_BYTES, unpruned * (1 + SAME_SIZE))
    form = f" in {engine.unpruned.text}" if engine.unpruned is not None else ""
    reason = f"not larger than the unpruned one{form}, with room for metadata"
    return at_most_gate("engine", metric, engine.size_bytes / 2**20, limit / 2**20, "MiB", reason)


def lint_gate(findings: tuple[LintFinding, ...]) -> Gate:
    """No finding that TensorRT's parser would refuse."""
    errors = [finding for finding in findings if finding.severity == "error"]
    reason = f"{len(findings)} findings, none of them an error; docs/lint.md"
    gate = at_most_gate("engine", "graph lint for TensorRT", float(len(errors)), 0.0, "errors", reason)
    if not errors:
        return gate
    return replace(gate, reason=f"{errors[0].rule}: {errors[0].message}; {errors[0].remedy}")


def edits(record: BuildRecord) -> tuple[str, ...]:
    """Where gates and verdict of a record are not what its samples and facts give; a line each.

    Rows that nothing in the record can make again (what was counted in files, what only informs) are taken as they
    stand.
    """
    try:
        made = {_place(gate): gate for gate in gates_again(record)}
    except (EdgepruneError, ArithmeticError, ValueError) as error:
        return (f"its samples cannot be judged ({first_line(error)})",)
    rows = [made.pop(_place(gate), gate) for gate in record.gates]
    lines = [f"{gate.stage}, {gate.metric}: the row is missing" for gate in made.values()]
    again = inform_by_later([*rows, *made.values()])
    for gate, own in zip(record.gates, again, strict=False):
        for name in ("verdict", "value", "limit"):
            written, given = getattr(gate, name), getattr(own, name)
            if not _same(written, given):
                lines.append(f"{gate.stage}, {gate.metric}: {name} {_text(written)}, its samples give {_text(given)}")
    lines += _other_widths(record)
    verdict = overall_verdict(again)
    if record.verdict is not verdict:
        lines.append(f"verdict {record.verdict.value}, the gates give {verdict.value}")
    return tuple(lines)


def _other_widths(record: BuildRecord) -> Iterator[str]:
    """Stages whose model has other widths than the plan says: every one behind pruning keeps them."""
    stages, planned = record.stages, record.plan.result_shapes
    for name, row in (("prune", stages.prune), ("finetune", stages.finetune), ("qat", stages.qat)):
        if row is not None and row.facts.signature != planned:
            yield f"{name}: shapes {row.facts.signature}, the plan leaves {planned}"


def gates_again(record: BuildRecord) -> Iterator[Gate]:
    """Every gate with a limit that samples and facts in the record decide."""
    target, stages = record.target, record.stages
    baseline, engine, budget = stages.baseline.facts, stages.engine.facts, target.budget
    in_ms = budget.kind == "latency_ms"
    itself = stages.prune.facts.unpruned and not in_ms  # as fast as itself, whatever a clock says
    if budget.kind == "macs_speed_up":
        yield macs_gate(stages.prune.facts, budget.value)
    elif itself:
        yield unpruned_gate("prune", budget.value)
    else:
        unmeasured = f"latency {budget.statistic}" if in_ms else "latency speed-up"
        yield _latency_again(record, "prune") or pending_gate("prune", unmeasured, budget.value, "", "")
    yield _parity_again(record, "export", stages.export.facts.parity, EXPORT_TOLERANCE)
    yield _parity_again(record, "simplify", stages.simplify.facts.parity, SIMPLIFY_TOLERANCE)
    yield nodes_gate(stages.simplify.facts)
    limit_ms = budget.value if in_ms else None
    if itself and record.device is not None:
        yield unpruned_gate("engine", budget.value if budget.kind == "speed_up" else 1.0)
    else:
        metric = f"latency {budget.statistic}"
        yield _latency_again(record, "engine") or pending_gate("engine", metric, limit_ms, "", "")
    drop = drop_gate(record.shipped_target, baseline, engine)
    if record.device is None:
        drop = pending_gate("engine", drop.metric, drop.limit, drop.unit, "")
    others = [drop]
    if baseline.engine_bytes is None:  # graphs were weighed before there was a device
        yield size_gate(baseline, engine)
    else:
        others.append(size_gate(baseline, engine))
    if engine.precision is not None:
        # before the share was kept there was no such row, so that a record without it was not edited
        core = None if engine.precision.dla_share is None else target.device.dla_core
        others += precision_gates("engine", engine.precision, record.precision, core)
    if record.device is not None and engine.accuracy.agreement is not None:
        others.append(agreement_gate("engine", engine.accuracy.agreement))
    simulated = record.device is not None and record.device.simulated
    yield from map(simulated_gate, others) if simulated else others
    if engine.lint is not None:
        yield lint_gate(engine.lint)


def _parity_again(record: BuildRecord, stage: str, parity: ParityInfo, tolerance: float) -> Gate:
    """The gate of a comparison, by the rule that the record was written by.

    Before boxes were held in proportion to the input, those of every size were held as those of 640 pixels are. That is
    never the milder rule, so that no record passes by being taken for an old one.
    """
    now, before = (parity_gate(stage, parity, tolerance, imgsz, "") for imgsz in (record.target.imgsz, DEFAULT_SIDE))
    for written in record.gates:
        if _place(written) == _place(before):
            by_before = _same(written.limit, before.limit) and _same(written.value, before.value)
            return before if by_before else now
    return now


def _latency_again(record: BuildRecord, stage: str) -> Gate | None:
    """The gate of a stage's latencies; None where none were measured."""
    measured = {row.role: row.measurement for row in record.latencies if row.stage == stage}
    if len(measured) < 2:
        return None
    return budget_gate(record.target, stage, measured["baseline"], measured["candidate"])


def _place(gate: Gate) -> tuple[str, str]:
    return gate.stage, gate.metric


def _same(first: object, second: object) -> bool:
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, rel_tol=SAME)
    return first == second


def _text(value: object) -> str:
    return value.value if isinstance(value, Verdict) else "none" if value is None else f"{value:.6g}"
