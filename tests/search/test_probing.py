"""Probe and correct, on devices that are not what the cost model thinks."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any

import pytest

from edgeprune.samples.gates import PASS_CONFIDENCE, Gate, Verdict, pass_confidence
from edgeprune.search.budget import search_gate
from edgeprune.search.probing import (
    Candidate,
    Probe,
    ProbeRun,
    Reading,
    choose,
    most_further_looks,
    most_looks,
    most_repeats,
    run_probes,
)
from edgeprune.target import load_target
from edgeprune.target.schema import BUDGET_WINDOW


def solver(floor: float = 0.02, step: float = 0.0) -> Callable[[float], Candidate]:
    """Proposes any share down to a floor, on a grid when there is a step."""

    def solve(share: float) -> Candidate:
        share = max(share, floor)
        if step:
            share = max(int(share / step) * step, floor)
        return Candidate(round(share, 9), share, 1 / share, share <= floor * (1 + 1e-9))

    return solve


def device(
    truth: Callable[[float], float], asked: float, noise: float = 0.0, seed: int = 0, settles: bool = True
) -> Callable[[Candidate, float, int], Reading]:
    """Measures ``truth(predicted share)`` against a budget of a speed-up, with noise that longer measuring halves."""
    dice = random.Random(seed)

    def measure(candidate: Candidate, predicted: float, attempt: int) -> Reading:
        spread = noise / 2**attempt if settles else noise
        used, margin = asked * truth(candidate.share) * (1 + dice.uniform(-spread, spread)), 1.01 / (1 - spread)
        return Reading(used, used / margin, used * margin, asked / used / margin, asked / used * margin)

    return measure


def lands(result: ProbeRun) -> bool:
    return result.best is not None and BUDGET_WINDOW[0] <= result.best.reading.used <= BUDGET_WINDOW[1]


@pytest.mark.parametrize("asked", [1.1, 1.3, 1.7, 2.2, 3.0, 6.0])
@pytest.mark.parametrize(
    "truth",
    [lambda s: s, lambda s: s**0.7, lambda s: s**1.3, lambda s: 0.1 + 0.9 * s],
    ids=["right", "pessimistic", "optimistic", "overhead"],
)
def test_lands_in_the_window(truth: Callable[[float], float], asked: float) -> None:
    result = run_probes(solver(), device(truth, asked), start_used=asked)
    assert lands(result)
    assert len(result.probes) <= 5


def test_a_right_model_takes_one_probe() -> None:
    assert len(run_probes(solver(), device(lambda s: s, 2.0), start_used=2.0).probes) == 1


def test_a_probe_records_what_was_predicted_and_how_wrong_that_was() -> None:
    [first, *_] = run_probes(solver(), device(lambda s: 1.2 * s, 2.0), start_used=2.0).probes
    assert first.error == pytest.approx(1 / 1.2 - 1)


def test_noise_of_three_percent_still_lands_mostly() -> None:
    hits = 0
    for seed in range(40):
        result = run_probes(solver(), device(lambda s: s**0.8, 2.2, 0.03, seed), start_used=2.2)
        assert len(result.probes) <= 6
        hits += lands(result) and 1.0 <= 1 / (2.2 * result.best.candidate.share**0.8) <= 1.13  # type: ignore[union-attr]
    assert hits >= 36


def test_an_unreachable_budget_gives_the_floor() -> None:
    result = run_probes(solver(floor=0.3), device(lambda s: s, 5.0), start_used=5.0)
    assert result.best is None
    assert result.floor.candidate.exhausted
    assert result.floor.reading.used == pytest.approx(1.5)
    assert len(result.probes) == 1


def test_coarse_widths_do_not_measure_the_same_candidate_twice() -> None:
    result = run_probes(solver(step=0.17), device(lambda s: s, 2.0), start_used=2.0, max_probes=12)
    keys = [probe.candidate.key for probe in result.probes]
    assert len(keys) == len(set(keys))
    assert result.best is not None
    assert result.best.reading.used <= 1


def test_the_mildest_that_meets_the_budget_is_kept() -> None:
    result = run_probes(solver(), device(lambda s: s**0.5, 1.8), start_used=1.8)
    assert result.best is not None
    assert all(probe.candidate.loss >= result.best.candidate.loss for probe in result.probes if probe.holds)


def test_what_is_not_faster_than_the_parent_is_never_kept() -> None:
    """A budget in ms that the drift of a host seems to meet, while side by side the candidate is slower."""

    def measure(candidate: Candidate, predicted: float, attempt: int) -> Reading:
        return Reading(0.95, 0.94, 0.96, 0.97, 0.99)

    result = run_probes(solver(), measure, start_used=1.02)
    assert result.best is None
    assert all(probe.misses for probe in result.probes)


def test_a_step_in_the_device_is_found_from_both_sides() -> None:
    """Latency that jumps: above a share of 0.5 nothing is gained."""
    result = run_probes(solver(), device(lambda s: 0.9 if s > 0.5 else 0.8 * s, 2.0), start_used=2.0, max_probes=8)
    assert result.best is not None
    assert result.best.reading.used <= 1


def test_a_narrower_window_can_be_asked_for() -> None:
    result = run_probes(solver(), device(lambda s: s**0.8, 2.2), start_used=2.2, least_used=0.97)
    assert result.best is not None
    assert 0.97 <= result.best.reading.used <= 1


def test_what_an_interval_leaves_open_is_measured_again_before_another_candidate_is_tried() -> None:
    attempts: list[tuple[object, int]] = []
    quiet = device(lambda s: s, 2.0, 0.06)

    def measure(candidate: Candidate, predicted: float, attempt: int) -> Reading:
        attempts.append((candidate.key, attempt))
        return quiet(candidate, predicted, attempt)

    result = run_probes(solver(), measure, start_used=2.0)
    assert result.best is not None and result.best.holds
    assert attempts[1] == (attempts[0][0], 1), "the same candidate, once more"
    assert result.best.reading.used_low >= 1 / 1.1 and result.best.reading.used_high <= 1


@pytest.mark.parametrize("asked", [1.5, 2.4, 2.6])
def test_noise_that_does_not_settle_is_never_called_a_hit(asked: float) -> None:
    """The best guess is kept, and whoever asks is told that it is one."""
    for seed in range(20):
        measured = 0
        noisy = device(lambda s: s**0.9, asked, 0.15, seed, settles=False)

        def measure(candidate: Candidate, predicted: float, attempt: int, noisy: Any = noisy) -> Reading:
            nonlocal measured
            measured += 1
            return noisy(candidate, predicted, attempt)

        result = run_probes(solver(), measure, start_used=asked, max_probes=6, max_repeats=2)
        assert result.best is not None
        assert measured <= 8
        if result.best.holds:
            assert asked * result.best.candidate.share**0.9 <= 1


def test_an_unsteady_probe_holds_nothing() -> None:
    def measure(candidate: Candidate, predicted: float, attempt: int) -> Reading:
        return Reading(0.95, 0.94, 0.96, 2.0, 2.1, "a step of +20% after sample 30 of 60")

    result = run_probes(solver(), measure, start_used=2.0)
    assert result.best is not None and not result.best.holds


def test_too_few_samples_for_an_interval_hold_nothing() -> None:
    def measure(candidate: Candidate, predicted: float, attempt: int) -> Reading:
        return Reading(0.95, 0.0, inf, 0.0, inf)

    result = run_probes(solver(), measure, start_used=2.0, max_probes=1)
    assert result.best is not None and not result.best.holds


@pytest.mark.parametrize("width", [0.02, 0.06])
def test_a_plan_that_is_too_fast_is_no_hit_while_a_milder_one_could_not_be_told(width: float) -> None:
    """A disturbed search at ×3 ended with 89 % of the budget used, beside one at 98 % (92 to 104 %)."""

    def measure(candidate: Candidate, predicted: float, attempt: int) -> Reading:
        used = 2.0 * candidate.share
        wide = width if used > 0.9 else 0.01
        return Reading(used, used - wide, used + wide, 2.0, 2.1)

    shares = iter([0.49, 0.43, 0.485, 0.48])
    result = run_probes(lambda share: solver()(next(shares)), measure, start_used=2.0, max_probes=2, max_repeats=1)
    assert result.best is not None and result.best.holds
    if width > 0.04:  # an interval of more than the window
        assert result.best.reading.used < BUDGET_WINDOW[0]
        assert result.milder is not None and result.milder.reading.used == pytest.approx(0.98)
    else:
        assert result.milder is None


def test_the_gate_of_such_a_search_says_what_may_do_instead() -> None:
    fast = Probe(Candidate("fast", 0.44, 2.0, False), 0.9, Reading(0.88, 0.85, 0.92, 2.1, 2.3), 2.0)
    milder = Probe(Candidate("milder", 0.49, 1.0, False), 0.98, Reading(0.98, 0.92, 1.04, 1.9, 2.2), 2.0)
    budget = load_target("cpu").changed({"budget.speed_up": 2.0}).budget
    raw = Gate("search", "speed-up", 2.27, 2.0, "×", Verdict.PASS, "at least 2.174×")
    assert search_gate(budget, fast, raw).verdict is Verdict.PASS
    gate = search_gate(budget, fast, raw, milder)
    assert gate.verdict is Verdict.INCONCLUSIVE
    assert "a plan that removes less may hold it too, at 98%" in gate.reason and "quiet machine" in gate.reason


@pytest.mark.parametrize(
    ("seen", "how"),
    [
        (
            "between 1.9 and 2.1, but a quota of processor time stopped it; give the container whole",
            "once that is mended",
        ),
        (
            "the device throttled during the run; give it a fan, and measure again when it is cool",
            "once that is mended",
        ),
        ("the board was set otherwise; measure again while nobody else uses or sets the board", "once that is mended"),
        ("between 1.9 and 2.1; too near to the limit for 100000 samples: prune more", "with another budget"),
        ("drift of +9%", "on a quiet machine, or with more measure.retries"),
    ],
)
def test_an_undecided_search_asks_for_what_may_decide_it(seen: str, how: str) -> None:
    probe = Probe(Candidate("near", 0.49, 1.0, False), 0.98, Reading(0.98, 0.92, 1.04, 1.9, 2.2, seen), 2.0)
    budget = load_target("cpu").changed({"budget.speed_up": 2.0}).budget
    again = f"; search again {how} (another --seed begins a new search)"
    raw = Gate("search", "speed-up", 2.0, 2.0, "×", Verdict.INCONCLUSIVE, seen)
    assert search_gate(budget, probe, raw).reason == f"{seen}{again}"
    unsure = search_gate(budget, probe, replace(raw, verdict=Verdict.PASS, reason="at least 2.01×"))
    assert unsure.verdict is Verdict.INCONCLUSIVE and unsure.reason == f"at least 2.01×: {seen}{again}"


def throttled(steady_from: int | None = None) -> Callable[[Candidate, float, int], Reading]:
    """A device whose every figure is over the budget, unsteady before so many measurements of one candidate."""

    def measure(candidate: Candidate, predicted: float, attempt: int) -> Reading:
        unsteady = "" if steady_from is not None and attempt >= steady_from else "the device throttled during the run"
        used = candidate.share * 2.6
        return Reading(used, used * 0.95, used * 1.05, 1.05, 1.4, unsteady)

    return measure


def test_what_an_unsteady_probe_is_over_the_budget_by_is_not_believed() -> None:
    seen: list[tuple[Any, int]] = []

    def measure(candidate: Candidate, predicted: float, attempt: int) -> Reading:
        seen.append((candidate.key, attempt))
        return throttled()(candidate, predicted, attempt)

    result = run_probes(solver(floor=0.5), measure, start_used=1.3)
    assert result.best is not None and result.best is result.floor
    assert not result.best.misses and not result.best.holds
    assert result.floor.candidate.exhausted
    assert [attempt for key, attempt in seen if key == result.floor.candidate.key] == [0, 1, 2], "measured again"
    budget = load_target("cpu").changed({"budget.speed_up": 1.3}).budget
    raw = Gate("search", "speed-up", 1.0, 1.3, "×", Verdict.INCONCLUSIVE, "the device throttled during the run")
    assert search_gate(budget, result.best, raw).verdict is Verdict.INCONCLUSIVE


def test_a_floor_that_becomes_steady_when_measured_again_is_out_of_reach() -> None:
    result = run_probes(solver(floor=0.5), throttled(steady_from=1), start_used=1.3)
    assert result.best is None and result.floor.candidate.exhausted


def test_an_unsteady_probe_that_is_slower_than_one_that_misses_for_sure_leaves_nothing_open() -> None:
    slow = Probe(Candidate("slow", 0.9, 1.0, False), 1.2, Reading(1.2, 1.1, 1.3, 1.1, 1.2, "a step"), 1.3)
    floor = Probe(Candidate("floor", 0.8, 2.0, True), 1.1, Reading(1.1, 1.05, 1.15, 1.1, 1.2), 1.3)
    assert choose([slow, floor], BUDGET_WINDOW[0]) == (None, None)
    fast = replace(floor, reading=replace(floor.reading, used=1.01, unsteady="a step"))
    assert choose([replace(slow, reading=replace(slow.reading, unsteady="")), fast], BUDGET_WINDOW[0])[0] is fast


@pytest.mark.parametrize("retries", [0, 2])
def test_every_look_of_a_search_has_its_share_of_the_error(retries: int) -> None:
    """A search keeps what looked best of so many measurements; together they err as often as one gate may."""
    for max_probes in (1, 6):
        looks = 0

        def measure(candidate: Candidate, predicted: float, attempt: int) -> Reading:
            nonlocal looks
            looks += 1
            return Reading(0.99, 0.9, 1.1, 0.9, 2.0)

        run_probes(solver(), measure, start_used=2.0, max_probes=max_probes, max_repeats=most_repeats(retries))
        allowed = most_looks(max_probes, retries)
        assert looks + 2 + most_further_looks(retries) <= allowed
        assert allowed * (1 - pass_confidence(allowed - 1)) == pytest.approx(1 - PASS_CONFIDENCE)


def test_nothing_is_called_out_of_reach_before_the_fastest_was_tried() -> None:
    """One probe by a cost model that is too hopeful; the budget is met by a wide margin."""
    result = run_probes(solver(), device(lambda s: s**0.5, 1.8), start_used=1.8, max_probes=1)
    first, floor, between = result.probes
    assert first.misses and not first.candidate.exhausted
    assert floor.candidate.exhausted and floor.holds
    assert result.best is between, "what was learnt at the floor gives a milder one"
    assert floor.reading.used < between.reading.used <= 1


def test_what_the_fastest_misses_is_out_of_reach() -> None:
    result = run_probes(solver(floor=0.3), device(lambda s: s**0.5, 2.5), start_used=2.5, max_probes=1)
    assert [probe.candidate.exhausted for probe in result.probes] == [False, True]
    assert result.best is None and result.floor.candidate.exhausted


@pytest.mark.parametrize("retries", [0, 2])
def test_the_looks_at_the_floor_have_their_share_of_the_error_too(retries: int) -> None:
    looks = 0

    def measure(candidate: Candidate, predicted: float, attempt: int) -> Reading:
        nonlocal looks
        looks += 1
        low, high = (0.9, 1.1) if candidate.exhausted else (1.05, 1.2)
        return Reading(1.1, low, high, 1.1, 2.0)

    result = run_probes(solver(), measure, start_used=2.0, max_probes=2, max_repeats=most_repeats(retries))
    assert any(probe.candidate.exhausted for probe in result.probes)
    assert looks + 2 + most_further_looks(retries) <= most_looks(2, retries)
