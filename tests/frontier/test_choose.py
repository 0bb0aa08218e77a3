"""Which levers are worth training for a budget, by what was measured without training; and which one is taken."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from edgeprune.frontier import screening
from edgeprune.frontier.choose import (
    Planned,
    as_measured,
    best_for,
    budget_shares,
    build_keys,
    floor_of,
    is_held,
    one_a_name,
    plan,
    why_unsure,
    with_frontier,
)
from edgeprune.frontier.levers import AS_IT_IS, forms, sizes_to_try, smaller_sizes, trained_int8
from edgeprune.frontier.screening import Screening, with_trained_int8
from edgeprune.input_size import Size, both_sides
from edgeprune.records.frontier import Choice, Form, Row, Screened
from edgeprune.records.sweep import Point
from edgeprune.report.frontier import choice_sentence
from edgeprune.samples.average_precision import DropInterval
from edgeprune.samples.gates import Verdict
from edgeprune.target import load_target

CPU = load_target("cpu").with_overrides(imgsz=320)
SIZES = {288: (1.2, 0.58), 256: (1.5, 0.56), 224: (1.86, 0.5), 192: (2.4, 0.4), 160: (3.4, 0.3), 128: (5.0, 0.2)}


def screened(int8: float = 2.15, int8_accuracy: float = 0.587, others: tuple[str, ...] = ()) -> list[Screened]:
    """What a CPU might show of a nano model."""
    found = []
    for form in forms(CPU, "n", others):
        ratio, accuracy = SIZES.get(int(str(form.keys.get("imgsz", 320))), (1.0, 0.589))
        ratio *= int8 if "precision" in form.levers else 1.0
        if "checkpoint" in form.levers:
            ratio, accuracy = ratio * 0.4, 0.62
        alone = accuracy if form.levers != ("precision",) else int8_accuracy
        found.append(Screened(form, 10 / ratio, ratio, alone if len(form.levers) < 2 else None, 3_000_000))
    return found


def trained(planned: list[Planned]) -> set[tuple[str, float | None]]:
    return {(one.form.name, one.prune_to) for one in planned if not one.dropped}


def test_every_form_has_a_name_of_its_own_and_the_baseline_comes_first() -> None:
    found = forms(CPU, "n", ["s"])
    names = [form.name for form in found]
    assert names[0] == AS_IT_IS and len(set(names)) == len(names)
    assert {"int8", "224 px", "int8, 224 px", "s", "s, int8"} <= set(names)
    assert smaller_sizes(320) == [288, 256, 224, 192, 160, 128]
    assert smaller_sizes(64) == []


def test_where_a_square_is_mostly_padding_the_rectangles_of_the_images_are_tried() -> None:
    assert sizes_to_try(640, 9 / 16)[:3] == [(384, 640), (352, 576), (320, 512)]
    assert sizes_to_try(640, 16 / 9)[0] == (640, 384)
    assert sizes_to_try(320, 0.75)[0] == (256, 320), "a multiple of the stride that an image fits into"
    for aspect in (None, 1.0, 0.95, 1.05):
        assert sizes_to_try(320, aspect) == smaller_sizes(320)
    assert sizes_to_try((384, 640), 9 / 16) == smaller_sizes((384, 640)), "it fits as it is"
    names = [form.name for form in forms(CPU, "n", aspect=0.75)]
    assert {"256 × 320 px", "int8, 256 × 320 px"} <= set(names) and "288 px" not in names


@pytest.mark.parametrize("size", [1280, 960, 640, 320, (384, 640)])
@pytest.mark.parametrize("aspect", [None, 9 / 16, 4 / 3])
def test_sizes_are_multiples_of_the_models_own_stride(size: Size, aspect: float | None) -> None:
    """YOLOv8-p6 has maps of 64 pixels a cell; a stride below 32 tries what Ultralytics trains at."""
    for stride, step in ((64, 64), (16, 32)):
        found = [both_sides(one) for one in sizes_to_try(size, aspect, stride)]
        assert found and not any(side % step for sides in found for side in sides)
        assert min(side for sides in found for side in sides) >= 2 * step
        assert len(set(found)) == len(found)
    asked = CPU.changed({"imgsz": size})
    tried = [form.keys["imgsz"] for form in forms(asked, "n", aspect=aspect, stride=64) if form.levers == ("size",)]
    assert tried == sizes_to_try(size, aspect, 64)


@pytest.mark.parametrize("size", [40, 56, 72, 80, 112, 120, (56, 120), (64, 72), 320])
@pytest.mark.parametrize("aspect", [None, 9 / 16, 4 / 3])
def test_a_size_to_try_is_smaller_than_the_given_one(size: Size, aspect: float | None) -> None:
    """A stride below 32 allows inputs whose sides round up."""
    whole = both_sides(size)
    for sides in map(both_sides, sizes_to_try(size, aspect, 8)):
        assert math.prod(sides) < math.prod(whole) and sides[0] <= whole[0] and sides[1] <= whole[1]


def test_a_budget_within_reach_of_a_harmless_precision_needs_little_else() -> None:
    planned = plan(screened(), [2.0])
    assert trained(planned) == {(AS_IT_IS, None), ("int8", None), (AS_IT_IS, 2.0)}
    reasons = {one.form.name: one.dropped for one in planned if one.dropped}
    assert reasons["192 px"] == "behind int8 without training"
    assert reasons["288 px"] == "faster, but misses every budget"


def test_beyond_the_precision_every_lever_and_the_sensible_combinations_are_tried() -> None:
    planned = plan(screened(), [3.0])
    reasons = {one.form.name: one.dropped for one in planned if one.dropped}
    assert reasons["160 px"] == "behind int8, 256 px without training"
    assert trained(planned) == {
        (AS_IT_IS, None),
        (AS_IT_IS, 3.0),
        ("224 px", 3.0),
        ("int8", 3.0),
        ("int8, 256 px", None),
        ("int8, 288 px", 3.0),
    }


def test_a_precision_that_costs_accuracy_does_not_stand_in_for_the_rest() -> None:
    """FP32 with a smaller input and pruning stays, and so does the size alone: INT8 is not ahead of it."""
    found = trained(plan(screened(int8_accuracy=0.41), [2.0]))
    assert ("192 px", None) in found and (AS_IT_IS, 2.0) in found
    assert any(name.endswith("px") and pruned == 2.0 for name, pruned in found)


def test_another_checkpoint_is_pruned_to_the_budget_where_it_misses_it() -> None:
    found = trained(plan(screened(others=("s",)), [1.5]))
    assert ("s", 1.5) in found and ("s, int8", 1.5) in found
    assert ("s", None) not in found


def test_a_form_that_is_not_faster_says_so() -> None:
    planned = plan(screened(int8=0.8), [1.5])
    [reason] = [one.dropped for one in planned if one.form.name == "int8" and one.prune_to is None]
    assert reason == "not faster than the baseline"


def timed(one: Screened, spread: float = 0.01) -> Screened:
    """With the ends of its ratio."""
    return replace(one, speed_up_low=one.speed_up * (1 - spread), speed_up_high=one.speed_up * (1 + spread))


@pytest.mark.parametrize(("everything", "others"), [(False, ()), (True, ()), (False, ("s",))])
def test_a_number_format_that_is_surely_slower_is_not_pruned_nor_trained(
    everything: bool, others: tuple[str, ...]
) -> None:
    """A CPU without instructions for INT8."""
    found = [timed(one) for one in screened(int8=0.8, others=others)]
    for budgets in ([1.5], [2.0, 3.0], [1.1]):
        planned = plan(found, budgets, everything=everything)
        low = [one for one in planned if "precision" in one.form.levers]
        assert low and all(one.dropped for one in low)
        assert any(one.prune_to for one in planned if not one.dropped), "the plainer one is pruned"
        assert trained(planned) == trained(plan([one for one in found if "precision" not in one.form.levers], budgets))
        if not everything:
            assert not any(one.trained or one.prune_to for one in low)
    reasons = {one.form.name: one.dropped for one in plan(found, [2.0])}
    assert reasons["int8"] == "slower than the model as it is and not more accurate, at ×0.80 and ×1.00"
    assert reasons["int8, 224 px"].startswith("int8: slower than the model as it is")


@pytest.mark.parametrize(
    ("int8", "accuracy", "spread"),
    [(0.98, 0.587, 0.03), (0.8, 0.6, 0.01), (1.2, 0.5, 0.01)],
    ids=["not surely slower", "more accurate", "faster"],
)
def test_a_number_format_that_may_have_something_to_win_is_tried(int8: float, accuracy: float, spread: float) -> None:
    found = [timed(one, spread) for one in screened(int8=int8, int8_accuracy=accuracy)]
    assert ("int8", 2.0) in trained(plan(found, [2.0]))


def test_int8_that_is_slower_than_half_precision_alone_is_left_out_too() -> None:
    target = load_target("desktop-cuda").with_overrides(imgsz=64)
    ratios = {"": 1.0, "fp16": 1.6, "int8-fp16": 1.3}
    found = []
    for form in forms(target, "n"):
        ratio = ratios[str(form.keys.get("precision", ""))]
        found.append(timed(Screened(form, 10 / ratio, ratio, 0.5, 3_000_000)))
    planned = plan(found, [2.0])
    assert trained(planned) == {(AS_IT_IS, None), (AS_IT_IS, 2.0), ("fp16", 2.0)}
    [reason] = [one.dropped for one in planned if one.form.name == "int8-fp16"]
    assert reason == "slower than fp16 and not more accurate, at ×1.30 and ×1.60"


def test_rows_are_made_once_for_several_budgets() -> None:
    planned = plan(screened(), [1.5, 2.0, 2.0])
    keys = [(one.form.name, one.prune_to) for one in planned]
    assert len(keys) == len(set(keys))


def test_everything_is_what_meets_a_budget_or_may_when_it_is_pruned_each_with_why_it_was_left_out() -> None:
    usual, every = plan(screened(), [3.0]), plan(screened(), [3.0], everything=True)
    assert trained(usual) == trained(every), "what is recommended is from the same rows"
    anyway = {(one.form.name, one.prune_to): one.dropped for one in every if one.anyway and one.dropped}
    assert anyway == {
        ("160 px", None): "behind int8, 256 px without training",
        ("128 px", None): "another size is nearer to the budget",
        **{(f"int8, {size} px", None): "another size is nearer to the budget" for size in (224, 192, 160, 128)},
    }
    untrained = {one.form.name for one in every if not one.trained}
    assert untrained == {"288 px", "256 px", "224 px", "192 px", "int8", "int8, 288 px"}, "they miss the budget"
    harmless = [one for one in plan(screened(), [2.0], everything=True) if one.prune_to and one.dropped]
    assert [(one.form.name, one.trained) for one in harmless] == [("256 px", True)]


def with_int8_trained(int8_accuracy: float, monkeypatch: pytest.MonkeyPatch, epochs: int = 5) -> Screening:
    monkeypatch.setattr(screening, "require_modelopt", lambda: None)
    found, _ = with_trained_int8(Screening(tuple(screened(int8_accuracy=int8_accuracy)), {}), CPU, epochs)
    return found


def test_int8_is_trained_where_it_costs_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    found = with_int8_trained(0.57, monkeypatch)
    planned = trained(plan(found.screened, [2.0, 3.0]))
    assert {("int8 trained", None), ("int8 trained", 3.0), ("int8", None), ("int8", 3.0)} <= planned
    [form] = [one.form for one in found.screened if one.form.name == "int8 trained"]
    assert form.keys == {"precision": "int8", "qat.epochs": 5} and form.levers == ("precision",)
    there = CPU.changed(form.keys)
    assert there.qat is not None and there.qat.epochs == 5 and there.precision == "int8"
    assert trained_int8(form, there) is None, "a target that trains INT8 does so whatever the form"


def test_int8_is_not_trained_where_there_is_nothing_to_win_back(monkeypatch: pytest.MonkeyPatch) -> None:
    found = with_int8_trained(0.587, monkeypatch)
    planned = plan(found.screened, [2.0, 3.0])
    [reason] = [one.dropped for one in planned if one.form.name == "int8 trained"]
    assert reason == "calibrated, it costs 0.0020 of the accuracy: next to nothing to win back"
    assert ("int8 trained", None) not in trained(planned)
    anyway = [one for one in plan(found.screened, [2.0, 3.0], everything=True) if one.form.name == "int8 trained"]
    assert [(one.prune_to, one.trained, one.dropped) for one in anyway] == [
        (3.0, True, reason),
        (None, True, reason),
    ]


def test_int8_without_epochs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = with_int8_trained(0.57, monkeypatch, epochs=0)
    assert found.refused == {"int8 trained": "--epochs 0 trains nothing"}
    assert all(one.form.name != "int8 trained" for one in found.screened)


STEP = "a step of +20% after sample 30 of 60"


def row(name: str, speed_up: float, accuracy: float, failed: str | None = None) -> Row:
    point = Point(name, "", 10 / speed_up, speed_up, accuracy, failed=failed)
    return Row(name, Form(name, "n", {}, ()), "", speed_up, None, point=point)


@pytest.mark.parametrize(
    ("speed_up", "low", "pruned_to", "said", "held"),
    [
        (2.25, 2.21, "", {}, True),
        (2.21, 2.15, "", {}, None),
        (2.19, 2.15, "", {}, None),
        (2.19, 2.15, "×2.2", {}, None),
        (2.12, 2.03, "×2.2", {"speed_up_high": 2.21}, None),
        (2.12, 2.03, "×2.2", {"speed_up_high": 2.19}, False),
        (2.10, 2.05, "×2.2", {}, False),
        (2.21, 2.15, "×3", {}, None),
        (2.30, 2.25, "×2.2", {"inconclusive": "no interval holds it"}, None),
        (2.30, 2.25, "×2.2", {"missed": "at least 11 ms"}, None),
        (2.30, 2.25, "×3", {"inconclusive": "no interval holds it"}, True),
        (2.30, 2.25, "×3", {"unsteady": "the device throttled during the run"}, None),
        (4.60, 4.50, "", {"unsteady": STEP, "least_speed_up": 4.41}, True),
        (4.60, 4.50, "", {"unsteady": STEP, "least_speed_up": 4.39}, None),
        (4.60, 4.50, "", {"unsteady": STEP, "least_speed_up": 0.0}, None),
        (4.60, 4.50, "", {"unsteady": STEP}, None),
        (4.60, 0.0, "", {"speed_up_high": math.inf}, None),
        (4.60, 4.50, "", {"unsteady": "the device throttled during the run"}, None),
        (2.10, 2.08, "", {}, False),
    ],
)
def test_a_row_holds_a_budget_by_its_interval(
    speed_up: float, low: float, pruned_to: str, said: dict[str, Any], held: bool | None
) -> None:
    one = row("a", speed_up, 0.5)
    assert one.point is not None
    point = replace(one.point, speed_up_low=low, **said)
    one = replace(one, budget=pruned_to, point=point)
    assert is_held(one, budget_shares({"a": point}, "speed_up", 2.2)["a"], "speed_up", 2.2, "×2.2") is held


@pytest.mark.parametrize(
    ("ms", "low", "high", "share", "held"),
    [
        (9.0, 8.8, 9.4, 0.9, True),
        (9.6, 9.3, 10.2, 0.96, None),
        (10.4, 10.1, 10.8, 1.04, False),
        (11.0, 10.8, 11.2, 0.916, None),
        (9.4, 9.2, math.inf, 0.94, None),
        (10.4, 0.0, math.inf, 1.04, None),
        (9.0, None, None, 0.9, True),
    ],
    ids=[
        "within",
        "p95 is wider than the ratio",
        "over",
        "within only with the drift corrected",
        "too few samples for an upper end",
        "too few for either",
        "older file",
    ],
)
def test_a_budget_in_milliseconds_is_held_by_the_interval_of_the_milliseconds(
    ms: float, low: float | None, high: float | None, share: float, held: bool | None
) -> None:
    one = row("a", 2.0, 0.5)
    assert one.point is not None
    point = replace(one.point, ms=ms, ms_low=low, ms_high=high, speed_up_low=1.99, speed_up_high=2.01)
    assert is_held(replace(one, budget="10 ms", point=point), share, "latency_ms", 10.0, "10 ms") is held


@pytest.mark.parametrize(
    ("slowest", "unsteady", "share", "held"),
    [
        (4.9, STEP, 0.4, True),
        (5.1, STEP, 0.4, None),
        (math.inf, STEP, 0.4, None),
        (None, STEP, 0.4, None),
        (4.9, STEP, 0.45, None),
        (4.9, "the device throttled during the run", 0.4, None),
    ],
    ids=[
        "far inside",
        "one sample is not",
        "too few samples",
        "older file",
        "not with the drift corrected",
        "throttled",
    ],
)
@pytest.mark.parametrize("high", [4.2, math.inf])
def test_milliseconds_that_moved_hold_a_budget_that_every_sample_is_far_inside(
    slowest: float | None, unsteady: str, share: float, held: bool | None, high: float
) -> None:
    one = row("a", 2.0, 0.5)
    assert one.point is not None
    ends = {"ms_low": 3.9, "ms_high": high, "speed_up_low": 1.99, "speed_up_high": 2.01}
    point = replace(one.point, ms=4.0, **ends, slowest_ms=slowest, unsteady=unsteady)
    assert is_held(replace(one, point=point), share, "latency_ms", 10.0, "10 ms") is held


@pytest.mark.parametrize("said", [{"missed": "at most 1.9×"}, {"inconclusive": "no interval holds it"}])
def test_a_budget_that_is_met_without_pruning_is_as_sure_as_its_own_measurement(said: dict[str, str]) -> None:
    measured = Point("b", "×2", 4.0, 2.5, 0.5, speed_up_low=2.4, speed_up_high=2.6, met_unpruned=True)
    point = replace(measured, **said)  # pyright: ignore[reportArgumentType]
    form = replace(row("b", 2.5, 0.5), point=point)
    whole = as_measured(replace(form, name="b, pruned to ×2", budget="×2"))
    other = as_measured(replace(form, budget="×1.5", point=replace(point, missed="", inconclusive="")))
    assert (whole.name, whole.budget, whole.met) == ("b", "", ())
    for kept in (whole, one_a_name([whole, other])[0], one_a_name([other, whole])[0]):
        assert is_held(kept, 0.8, "speed_up", 2.0, "×2") is None
        assert why_unsure(kept, "×2") == next(iter(said.values()))
        assert is_held(kept, 0.6, "speed_up", 1.5, "×1.5") is True


def met(form: Row, budget: str) -> Row:
    """The row of a form that was to be pruned to a budget, and met it as it is."""
    assert form.point is not None
    point = replace(form.point, met_unpruned=True, accuracy=0.4)
    return as_measured(replace(form, name=f"{form.name}, pruned to {budget}", budget=budget, point=point))


def test_what_meets_its_budget_without_pruning_is_the_row_of_its_form() -> None:
    a, b = row("a", 1.5, 0.5), row("b", 2.0, 0.5)
    assert as_measured(a) == a
    untrained = replace(row("b", 2.0, 0.0), point=None, dropped="faster, but misses every budget")
    first, second = one_a_name([a, met(b, "×1.9"), met(a, "×1.4"), met(b, "×2"), untrained])
    assert (first.name, first.budget, first.met, first.measured) == ("a", "", ("×1.4",), a.measured)
    assert (second.name, second.met, second.dropped) == ("b", ("×1.9", "×2"), "")
    assert second.point is not None and second.point.accuracy == 0.4
    near = replace(second, point=replace(second.point, speed_up_low=1.9))
    assert is_held(near, 1.0, "speed_up", 2.0, "×2") is None
    unsure = replace(row("b", 2.0, 0.5).point or second.point, met_unpruned=True, missed="at most 1.9×")
    assert as_measured(replace(b, budget="×2", point=unsure)).met == ()
    failed = replace(a, point=Point("a", "", failed="no engine was built"))
    assert one_a_name([failed, met(a, "×1.4")])[0].measured is not None


def test_milliseconds_are_those_at_the_level_that_the_machine_had_most_of_the_time() -> None:
    points = {
        name: Point(name, "", ms, 2.0, 0.5, swept_ms=level)
        for name, ms, level in (("a", 5.0, 10.0), ("b", 5.0, 10.0), ("c", 6.0, 12.0))
    }
    assert budget_shares(points, "latency_ms", 5.0) == pytest.approx({"a": 1.0, "b": 1.0, "c": 1.0})
    older = {"a": Point("a", "", 6.0, 2.0, 0.5)}
    assert budget_shares(older, "latency_ms", 5.0) == pytest.approx({"a": 1.2})


@pytest.mark.parametrize("value", [1.1, 1.15, 1.333, 2.2, 2.3, 4.35, 4.56])
def test_a_build_is_asked_for_the_ratio_that_was_asked_for(value: float) -> None:
    whole = replace(row("as it is", 2.0, 0.5), budget="some", screened_speed_up=1.0)
    assert build_keys(whole, "speed_up", value, CPU)["budget.speed_up"] == value
    form = replace(whole, form=Form("int8", "n", {"precision": "int8"}, ("precision",)))
    left = float(str(build_keys(form, "speed_up", value, CPU)["budget.speed_up"]))
    assert value <= left < value + 0.01 and round(left, 2) == left
    halved = build_keys(replace(form, screened_speed_up=0.5), "speed_up", 1.15, CPU)
    assert halved["budget.speed_up"] == 2.3


@pytest.mark.parametrize(
    ("profile", "own", "lower", "pinned", "pinned_lower"),
    [
        ("cpu", "fp32", "int8", set(), {"mixed_precision", "keep_precision"}),
        ("cpu", "int8", None, {"mixed_precision", "keep_precision"}, set()),
        ("jetson-orin-nano", "fp16", "int8-fp16", {"mixed_precision"}, {"mixed_precision", "keep_precision"}),
    ],
)
def test_a_build_keeps_the_number_format_that_its_row_was_measured_in(
    profile: str, own: Any, lower: str | None, pinned: set[str], pinned_lower: set[str]
) -> None:
    """In the target's own format no key of the form says it."""
    target = load_target(profile).in_precision(own)
    for form in forms(target, "n"):
        keys = build_keys(replace(row("any", 2.0, 0.5), form=form), "latency_ms", 5.0, target)
        precision = form.keys.get("precision")
        stated = {key: keys[key] for key in ("mixed_precision", "keep_precision") if key in keys}
        expected = pinned if precision is None else pinned_lower
        assert precision in (None, lower) and set(stated) == expected, form.name
        assert stated.get("mixed_precision", False) is False and stated.get("keep_precision", True) is True


def interval(lost: float, error: float) -> DropInterval:
    return DropInterval(lost, error, 1000, 400, labelled=1000)


@pytest.mark.parametrize(
    ("accuracy", "error", "unsure", "verdict"),
    [
        (0.59, 0.001, None, Verdict.PASS),
        (0.55, 0.001, None, Verdict.FAIL),
        (0.58, 0.01, None, Verdict.INCONCLUSIVE),
        (0.55, 0.001, 0.56, Verdict.FAIL),
        (0.55, 0.001, 0.595, Verdict.INCONCLUSIVE),
    ],
)
def test_what_a_row_lost_is_held_against_what_the_profile_allows(
    accuracy: float, error: float, unsure: float | None, verdict: Verdict
) -> None:
    """A more accurate row that may hold the budget leaves it open whether one holds both."""
    other = None if unsure is None else row("perhaps", 2.0, unsure)
    choice = Choice("×2", row("a", 2.0, accuracy), row("as it is", 1.0, 0.6), unsure=other)

    def lost(first: Row, second: Row) -> DropInterval:
        assert first.measured is not None and second.measured is not None
        return interval(first.measured.accuracy - second.measured.accuracy, error)

    found = floor_of(choice, 0.02, "mAP50-95", lost)
    assert found is not None and found.gate.verdict is verdict and found.gate.limit == 0.02
    sentence = choice_sentence(choice, "mAP50-95", lambda *_: None, found, trained=True)
    assert "against the model as it is, trained for as long" in sentence
    loses = (
        "; it loses more than the profile's max_map_drop of 0.02 "
        "(a build's own gate holds it against the weights as given)"
    )
    if accuracy == 0.55:  # surely too much, whatever another row may do
        both = "; INCONCLUSIVE: perhaps may hold both" if verdict is Verdict.INCONCLUSIVE else ""
        assert sentence.endswith(loses + both)
    may_lose = "; INCONCLUSIVE: it may lose more than the profile's max_map_drop of 0.02 (0.6000 →"
    assert (may_lose in sentence) is (accuracy == 0.58)
    assert floor_of(Choice("×2", row("a", 2.0, accuracy)), 0.02, "mAP50-95", lost) is None
    assert floor_of(Choice("×2", None, why="nothing"), 0.02, "mAP50-95", lost) is None


def test_of_images_that_were_trained_on_a_floor_tells_nothing_of_others() -> None:
    choice = Choice("×2", row("a", 2.0, 0.58), row("as it is", 1.0, 0.6))
    images: dict[str, str] = {"split": "val, which also chose the best epoch"}
    for seen, said in (("", True), ("128 of the 128 were trained on", False)):
        found = floor_of(choice, 0.02, "mAP50-95", lambda *_: interval(0.02, 0.01), **images, trained_on=seen)
        assert found is not None and ("on other images" in found.gate.reason) is said
        assert "1000 images of val, which also chose the best epoch)" in found.gate.reason and seen in found.gate.reason


def test_the_frontier_holds_what_nothing_beats_and_the_best_is_taken_from_what_meets() -> None:
    rows = with_frontier(
        [row("base", 1.0, 0.6), row("a", 2.0, 0.58), row("b", 1.9, 0.57), row("c", 3.0, 0.5), row("d", 9, 0.9, "no")]
    )
    assert [one.name for one in rows if one.undominated] == ["base", "a", "c"]
    best = best_for(rows, {"a": True, "c": True, "d": True})
    assert best is not None and best.name == "a"
    assert best_for(rows, {"d": True}) is None
