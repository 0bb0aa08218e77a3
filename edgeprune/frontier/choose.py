"""Which forms and combinations are worth training for some budgets, and which of the trained ones is the best. Pure.

To plan, a budget is a ratio: the latency of the baseline over what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from statistics import median
from typing import cast

from edgeprune.frontier.levers import AS_IT_IS, TRAINED
from edgeprune.input_size import Size, both_sides
from edgeprune.records.frontier import Choice, Floor, Form, Identity, Keys, Kind, Row, Screened
from edgeprune.records.sweep import Point
from edgeprune.samples.average_precision import DropInterval
from edgeprune.samples.gates import THROTTLED, UNSTEADY_MARGIN, Gate, Verdict, accuracy_gate
from edgeprune.samples.telemetry import BOARD
from edgeprune.target import Target

SIZE_MARGIN = 0.05
"""A smaller input wins some of its accuracy back in training; a form that meets the same budget and is more accurate by
this much without training stays ahead of it."""
MARGIN = 0.02  # the same of forms that keep the size they were trained at
HARMLESS = 0.01  # a lever that costs no more accuracy than this without training is followed, not questioned
NOTHING = 0.005  # accuracy that INT8 costs without training, at which it is not trained
HARMLESS_WORDS = "another lever alone meets the budget for next to nothing"
ROUNDING = 1e-9  # of a product: 1.1 * 100 is a little over 110
LEAST_SHARED = 1.3  # what is left to gain below this is not shared between size and pruning


@dataclass(frozen=True)
class Planned:
    """A row to train, or a form that is not.

    Attributes:
        form: what runs, unpruned.
        prune_to: the budget that it is pruned to; None where it is not pruned.
        dropped: why it is left out; empty where it is not.
        anyway: whether it is trained even so.
    """

    form: Form
    prune_to: float | None = None
    dropped: str = ""
    anyway: bool = False

    @property
    def trained(self) -> bool:
        """Whether it is trained and measured."""
        return self.anyway or not self.dropped


def plan(screened: Sequence[Screened], budgets: Sequence[float], *, everything: bool = False) -> list[Planned]:
    """What to train for some budgets, the baseline first, then what is left out, each once.

    Args:
        screened: the baseline first.
        budgets: ratios; one of at most 1, a budget in ms that the baseline is within, asks for nothing to be pruned.
        everything: train even so what meets a budget, or may when it is pruned: to see whether it was left out rightly.
    """
    baseline = screened[0]
    chosen: dict[tuple[Identity, float | None], Planned] = {(baseline.form.identity, None): Planned(baseline.form)}
    reasons: dict[Identity, str] = {}
    for budget in budgets:
        meeting: list[Screened] = []
        for at_full_size in (one for one in screened if "size" not in one.form.levers):
            sizes = _sizes_of(at_full_size, screened)
            if why := _not_worth_training(at_full_size, screened):
                reasons.setdefault(at_full_size.form.identity, why)
                for one in sizes:
                    reasons.setdefault(one.form.identity, f"{at_full_size.form.name}: {why}")
                if not everything:
                    continue
            if at_full_size.speed_up >= budget:
                if at_full_size is not baseline:
                    meeting.append(at_full_size)
                continue
            if enough := [one for one in sizes if one.speed_up >= budget]:
                meeting.append(max(enough, key=lambda one: prod(both_sides(cast(Size, one.form.keys["imgsz"])))))
            chosen[at_full_size.form.identity, budget] = Planned(at_full_size.form, budget, why, anyway=everything)
            half_way = _half_way(at_full_size, sizes, budget)
            if half_way is not None:
                why = why or _not_worth_training(half_way, screened)
                why = why or HARMLESS_WORDS * _harmless(screened, baseline, budget, at_full_size)
                if everything or not why:
                    chosen[half_way.form.identity, budget] = Planned(half_way.form, budget, why, anyway=everything)
        worth = [one for one in meeting if not _not_worth_training(one, screened)]
        for one in meeting:
            if why := _not_worth_training(one, screened):
                reasons.setdefault(one.form.identity, why)
            elif ahead := _dominating(one, worth, screened):
                reasons.setdefault(one.form.identity, f"behind {ahead.form.name} without training")
            else:
                chosen[one.form.identity, None] = Planned(one.form)
    trained = {identity for identity, pruned_to in chosen if pruned_to is None}
    least = min(budgets)
    for one in screened:
        if one.form.identity not in trained:
            if one.form.identity in reasons:
                why = reasons[one.form.identity]
            elif one.speed_up < least:
                why = "faster, but misses every budget" if one.speed_up > 1 else "not faster than the baseline"
            else:
                why = "another size is nearer to the budget"
            anyway = everything and one.speed_up >= least
            chosen[one.form.identity, None] = Planned(one.form, None, why, anyway)
    return sorted(chosen.values(), key=lambda planned: bool(planned.dropped))


def as_measured(row: Row) -> Row:
    """The row of the form alone, where a search found that it meets its budget without pruning."""
    if row.measured is None or not row.measured.met_unpruned:
        return row
    why = why_unsure(row, row.budget)
    unsure = {row.budget: why} if why else {}
    return replace(row, name=row.form.name, budget="", met=() if why else (row.budget,), unsure=unsure)


def one_a_name(rows: Sequence[Row]) -> list[Row]:
    """One row of every name, in their order: the first that was measured, before one that was not."""
    named: dict[str, list[Row]] = {}
    for row in rows:
        named.setdefault(row.name, []).append(row)
    found = []
    for same in named.values():
        one = min(same, key=lambda row: (row.measured is None, bool(row.dropped)))
        alike = [row for row in same if row.dropped == one.dropped]
        unsure = {budget: why for row in alike for budget, why in row.unsure.items()}
        found.append(replace(one, met=tuple(budget for row in alike for budget in row.met), unsure=unsure))
    return found


def with_frontier(rows: Sequence[Row]) -> list[Row]:
    """The rows with those marked that no other row beats in latency and accuracy."""
    points = [row.measured for row in rows]
    return [
        replace(
            row,
            undominated=point is not None and not any(_beats(other, point) for other in points if other is not None),
        )
        for row, point in zip(rows, points, strict=True)
    ]


def budget_shares(points: Mapping[str, Point], kind: str, value: float) -> dict[str, float]:
    """Share of a budget that each point takes; at most 1 meets it.

    A machine drifts between rows. A budget in ms is taken to speak of the latency at the median of the levels that the
    swept model had beside them, as that of a search's probes is.

    Args:
        points: by the name of their row.
        kind: ``latency_ms`` or ``speed_up``.
        value: of the budget.
    """
    if kind == "speed_up":
        return {name: value / point.speed_up for name, point in points.items()}
    levels = [point.swept_ms for point in points.values() if point.swept_ms]
    level = median(levels) if levels else None
    drifts = {name: point.swept_ms / level if level and point.swept_ms else 1.0 for name, point in points.items()}
    return {name: point.ms / drifts[name] / value for name, point in points.items()}


def is_held(row: Row, share: float, kind: str, value: float, budget: str) -> bool | None:
    """Whether a measured row holds a budget, by the interval of its own measurement; None where that holds both
    answers.

    A search that pruned the row to this very budget saw other samples: it may only take from what these show. A budget
    in ms is held for sure where it is with the drift of the machine corrected and without. What was not steady holds
    it where a gate would pass it: far inside in every sample, or block.

    Args:
        row: measured.
        share: of the budget, that it takes.
        kind: ``latency_ms`` or ``speed_up``.
        value: of the budget.
        budget: the same as text, as the row has it.
    """
    point = row.measured
    assert point is not None
    low, high = _spread(point, kind)
    if share * low > 1:
        return False
    if point.unsteady:
        held = _far_inside(point, share, kind, value)
    else:
        held = share * high <= 1 and (kind == "speed_up" or point.ms * high <= value)
    return True if held and not why_unsure(row, budget) else None


def why_unsure(row: Row, budget: str) -> str:
    """Why it is not sure, or wrong, that a measured row holds the budget that it was pruned to, or needed no pruning
    for, as its search or its measurement said; empty where they were sure, and for another budget."""
    point = row.measured
    own = (point.missed or point.inconclusive) if point is not None and budget == row.budget else ""
    return own or row.unsure.get(budget, "")


def _far_inside(point: Point, share: float, kind: str, value: float) -> bool:
    """Whether a point whose samples moved stayed as far inside a budget as a gate asks; older files cannot tell."""
    if point.unsteady.startswith((THROTTLED, BOARD)):
        return False
    if kind == "speed_up":
        return point.least_speed_up is not None and point.least_speed_up >= UNSTEADY_MARGIN * value
    if point.slowest_ms is None:
        return False
    corrected = share * point.slowest_ms / point.ms  # with the drift of the machine
    return max(corrected, point.slowest_ms / value) * UNSTEADY_MARGIN <= 1


def _spread(point: Point, kind: str) -> tuple[float, float]:
    """The least and the most of a latency that a point's 95 % interval holds, over the figure: 0 and infinite where
    too few samples left no end. Older files have an interval of the speed-up alone, and the oldest none."""
    slower, low = 1.0, point.speed_up_low
    if low is not None:
        slower = point.speed_up / low if low > 0 else math.inf
    faster = point.speed_up / point.speed_up_high if point.speed_up_high else 1 / slower
    if kind == "latency_ms" and point.ms_high is not None:
        slower = max(slower, point.ms_high / point.ms)
    if kind == "latency_ms" and point.ms_low is not None:
        faster = min(faster, point.ms_low / point.ms)
    return faster, slower


def best_for(rows: Sequence[Row], meets: Mapping[str, bool]) -> Row | None:
    """The most accurate of the rows that meet a budget, the fastest of equals; None where none does.

    Args:
        rows: all of them.
        meets: name of a measured row to whether it meets the budget.
    """
    candidates = [(row.measured, row) for row in rows if meets.get(row.name)]
    able = [(point.accuracy, point.speed_up, row) for point, row in candidates if point is not None]
    return max(able, key=lambda one: one[:2])[2] if able else None


def choice_for(rows: Sequence[Row], kind: Kind, value: float, budget: str) -> Choice:
    """Which row to take for a budget: the most accurate that surely holds it, else the most accurate that may.

    Args:
        rows: those that may be taken, the model as it is first.
        kind: of the budget.
        value: of the budget.
        budget: the same as text, as rows have it.
    """
    points = {row.name: row.measured for row in rows if row.measured is not None}
    shares = budget_shares(points, kind, value)
    held = {row.name: is_held(row, shares[row.name], kind, value, budget) for row in rows if row.name in shares}
    surely = {name: answer is True for name, answer in held.items()}
    perhaps = {name: answer is None for name, answer in held.items()}
    best = best_for(rows, surely) or best_for(rows, perhaps)
    if best is None:
        return Choice(budget, None, why=_why_nothing(rows, shares, kind, value))
    point = points[best.name]
    why, near = "", False
    if held[best.name] is None:
        figure = f"×{point.speed_up:.2f}" if kind == "speed_up" else f"{shares[best.name] * value:.2f} ms"
        why = why_unsure(best, budget) or point.unsteady
        near, why = not why, why or f"its {figure} is within noise of the budget"
    others = [row for row in rows if row is not best]
    reference = rows[0] if rows[0].measured is not None and best is not rows[0] else None
    return Choice(budget, best, reference, best_for(others, surely), best_for(others, perhaps), why, near)


def floor_of(
    choice: Choice,
    max_drop: float,
    metric: str,
    lost: Callable[[Row, Row], DropInterval | None],
    *,
    split: str = "",
    trained_on: str = "",
) -> Floor | None:
    """What the row to take lost against the model as it is, held against what the profile allows; None where it is the
    model itself, or that was not measured.

    Both were trained for as long, so that what pruning or a lever costs is told apart from what training brings. The
    gate of a build has another reference: the weights as they are given to it.

    The row is the most accurate that surely holds the budget: what loses too much leaves none that holds both, unless a
    more accurate one may hold it.

    Args:
        choice: the rows.
        max_drop: that the profile allows to be lost.
        metric: name of the accuracy.
        lost: what a row lost against another, from the same images; None where they were not kept.
        split: of the images, in words.
        trained_on: which of them were trained on, in words.
    """

    def held(row: Row | None) -> Gate | None:
        reference = choice.reference
        if row is None or row.measured is None or reference is None or reference.measured is None:
            return None
        before, after = reference.measured.accuracy, row.measured.accuracy
        interval = lost(reference, row)
        return accuracy_gate(
            "frontier", before, after, max_drop, metric, interval=interval, split=split, trained_on=trained_on
        )

    best, unsure = held(choice.best), held(choice.unsure)
    if best is None or best.verdict is not Verdict.FAIL or unsure is None or unsure.verdict is Verdict.FAIL:
        return None if best is None else Floor(best)
    assert choice.unsure is not None  # it was held
    return Floor(best, choice.unsure.name)


def _why_nothing(rows: Sequence[Row], shares: Mapping[str, float], kind: Kind, value: float) -> str:
    """Why no row is taken: the fastest misses the budget, in its own unit, or none was measured."""
    if not shares:
        failed = next((row.point.failed for row in rows if row.point is not None and row.point.failed), "")
        return f"nothing was measured{failed and ': '}{failed}"
    least = min(shares.values())
    fastest = f"is ×{value / least:.2f}" if kind == "speed_up" else f"takes {least * value:.2f} ms"
    return f"nothing that was measured meets it; the fastest {fastest}"


def build_keys(row: Row, kind: Kind, value: float, target: Target) -> Keys:
    """Keys of a profile whose build comes to this row: there a speed-up is a ratio to the form itself, unpruned.

    A row has its number format, its own or the target's, in every layer. Left to itself a build would return layers to
    float for the accuracy that may be lost, or ship a plainer format where INT8 is no faster, and come to another
    latency.

    Args:
        row: measured.
        kind: of the budget.
        value: of the budget.
        target: that the keys are added to.
    """
    keys = dict(row.form.keys)
    precision = target.changed(keys).precision
    if precision != "fp32":
        keys |= {"mixed_precision": False}
    if precision.startswith("int8"):
        keys |= {"keep_precision": True}
    if kind == "latency_ms":
        return {**keys, "budget.latency_ms": value}
    left = 1.0 if not row.budget or row.screened_speed_up is None else max(value / row.screened_speed_up, 1.0)
    if row.form.levers:  # a ratio that was measured; of the baseline it is the budget as it was asked for
        left = math.ceil(left * 100 - ROUNDING) / 100
    return {**keys, "budget.speed_up": left}


def loss(reference: Screened, one: Screened) -> float:
    """Accuracy that a form costs without training against another, as far as both were measured."""
    return (reference.accuracy or 0.0) - (one.accuracy or 0.0)


def _sizes_of(at_full_size: Screened, screened: Sequence[Screened]) -> list[Screened]:
    """The same checkpoint in the same number format at smaller sizes."""
    form = at_full_size.form
    return [
        one
        for one in screened
        if "size" in one.form.levers
        and one.form.weights == form.weights
        and {key: value for key, value in one.form.keys.items() if key != "imgsz"} == dict(form.keys)
    ]


def _half_way(at_full_size: Screened, sizes: Sequence[Screened], budget: float) -> Screened | None:
    """The size that takes about half of what is left to gain, as a ratio; pruning takes the other half."""
    left = budget / at_full_size.speed_up
    able = [one for one in sizes if at_full_size.speed_up < one.speed_up < budget]
    if left < LEAST_SHARED or not able:
        return None
    return min(able, key=lambda one: abs(math.log(one.speed_up / at_full_size.speed_up / math.sqrt(left))))


def _harmless(screened: Sequence[Screened], baseline: Screened, budget: float, asking: Screened) -> bool:
    """Whether some other lever alone meets the budget for next to nothing: a combination has no more to win."""
    return any(
        one is not asking
        and one.speed_up >= budget
        and one.accuracy is not None
        and baseline.accuracy is not None
        and baseline.accuracy - one.accuracy <= HARMLESS
        for one in screened
    )


def _not_worth_training(one: Screened, screened: Sequence[Screened]) -> str:
    """Why a number format has nothing to win; empty where it may have."""
    return _slower_than_plainer(one, screened) or _little_to_win_back(one, screened)


def _slower_than_plainer(one: Screened, screened: Sequence[Screened]) -> str:
    """That a plainer number format of the same weights, at the same size, is surely faster and as accurate: whatever is
    made of the lower one, the plainer one is the better start. Empty where that is not so, or not sure."""
    for plainer in (other for other in screened if _is_plainer(other.form, one.form)):
        slow, fast = one.speed_up_high, 1.0 if plainer is screened[0] else plainer.speed_up_low
        if slow is None or fast is None or slow >= fast:
            continue
        known = one.accuracy is not None and plainer.accuracy is not None
        if not known or loss(plainer, one) >= -NOTHING:
            name = "the model as it is" if plainer.form.name == AS_IT_IS else plainer.form.name
            accuracy = " and not more accurate" if known else ""
            return f"slower than {name}{accuracy}, at ×{one.speed_up:.2f} and ×{plainer.speed_up:.2f}"
    return ""


def _is_plainer(one: Form, other: Form) -> bool:
    """Whether a form is another one in a plainer number format."""
    stated = str(other.keys.get("precision", ""))
    if not stated or one.weights != other.weights:
        return False
    below = stated.startswith("int8") and one.keys.get("precision") == "fp16"
    apart = ("precision", TRAINED)
    alike, rest = ({key: value for key, value in form.keys.items() if key not in apart} for form in (one, other))
    return alike == rest and ("precision" not in one.keys or below)


def _little_to_win_back(one: Screened, screened: Sequence[Screened]) -> str:
    """Why there is next to nothing for the training of INT8 to win back; empty where there may be, and for others."""
    if TRAINED not in one.form.keys:
        return ""
    keys = {key: value for key, value in one.form.keys.items() if key != TRAINED}
    calibrated = next((other for other in screened if dict(other.form.keys) == keys), screened[0])
    if calibrated is screened[0] or calibrated.accuracy is None or screened[0].accuracy is None:
        return ""
    lost = screened[0].accuracy - calibrated.accuracy
    return f"calibrated, it costs {max(lost, 0):.4f} of the accuracy: next to nothing to win back" * (lost <= NOTHING)


def _dominating(one: Screened, others: Sequence[Screened], screened: Sequence[Screened]) -> Screened | None:
    """A form that meets the same budget and is surely more accurate, by what was measured without training."""
    own = _expected(one, screened)
    margin = SIZE_MARGIN if "size" in one.form.levers else MARGIN
    if own is None:
        return None
    expected = ((other, _expected(other, screened)) for other in others if other is not one)
    return next((other for other, value in expected if value is not None and value >= own + margin), None)


def _expected(one: Screened, screened: Sequence[Screened]) -> float | None:
    """Accuracy of a form without training; of a size in a lower number format, that of the size alone less what the
    number format alone costs."""
    if one.accuracy is not None:
        return one.accuracy
    parts = {key: value for key, value in one.form.keys.items() if key in ("imgsz", "precision")}
    alone = {
        key: other.accuracy
        for other in screened
        for key, value in parts.items()
        if other.form.weights == one.form.weights and dict(other.form.keys) == {key: value}
    }
    size, precision, whole = alone.get("imgsz"), alone.get("precision"), screened[0].accuracy
    if size is None or precision is None or whole is None:
        return None
    return size + precision - whole


def _beats(other: Point, point: Point) -> bool:
    as_good = other.speed_up >= point.speed_up and other.accuracy >= point.accuracy
    return as_good and (other.speed_up > point.speed_up or other.accuracy > point.accuracy)
