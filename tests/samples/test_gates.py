"""What every gate decides, and that nothing unsure ever passes."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import gate_calibration
from edgeprune.errors import StageError, TargetError
from edgeprune.samples.average_precision import DropInterval
from edgeprune.samples.conditions import QUOTA, CoreState, DeviceState
from edgeprune.samples.gates import (
    FAIL_CONFIDENCE,
    PASS_CONFIDENCE,
    Gate,
    Verdict,
    accuracy_gate,
    at_least_gate,
    at_most_gate,
    fail_confidence,
    info_gate,
    inform_by_later,
    latency_gate,
    moved_reason,
    overall_verdict,
    pass_confidence,
    pending_gate,
    speed_up_gate,
)
from edgeprune.samples.measurement import Measurement, differing_conditions, latency_bounds, speed_up_of
from edgeprune.samples.statistics import bounds, samples_to_settle, value_of
from tests.samples.made import latency

DISTURBED: list[dict[str, Any]] = [
    {"device": DeviceState(throttled=True)},
    {"core": CoreState(share=0.6, contended=True)},
]


def noise(level: float, n: int = 300, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(level, level * 0.02, n)


@pytest.mark.parametrize(
    ("limit", "verdict"), [(11.0, Verdict.PASS), (9.0, Verdict.FAIL), (10.33, Verdict.INCONCLUSIVE)]
)
def test_latency_gate(limit: float, verdict: Verdict) -> None:
    gate = latency_gate("engine", latency(noise(10)), limit, "p95")
    assert gate.verdict is verdict, gate.reason
    assert gate.metric == "latency p95" and gate.unit == "ms" and gate.limit == limit
    assert gate.value == pytest.approx(10.33, abs=0.1)


def test_too_few_samples_say_how_many_more() -> None:
    gate = latency_gate("engine", latency(noise(10, 200)), 50, "p99")
    assert gate.verdict is Verdict.INCONCLUSIVE
    assert "about 540 more samples" in gate.reason


@pytest.mark.parametrize("limit", [5.0, 15.0])
@pytest.mark.parametrize("shape", [np.linspace(1, 1.2, 300), np.repeat([1, 1.25], 150)], ids=["drift", "step"])
def test_unsteady_runs_decide_nothing(limit: float, shape: np.ndarray) -> None:
    assert latency_gate("engine", latency(noise(10) * shape), limit).verdict is Verdict.INCONCLUSIVE


def test_an_unsteady_run_far_inside_its_limit_passes() -> None:
    gate = latency_gate("engine", latency(noise(10) * np.repeat([1, 1.25], 150)), 50)
    assert gate.verdict is Verdict.PASS and "at most 13" in gate.reason, gate.reason
    walking = latency(np.linspace(10, 14, 160))  # neighbours that move together are worth two samples
    assert latency_gate("engine", walking, 50, "p50").verdict is Verdict.PASS
    few = latency_gate("engine", latency([10.0, 13.0] * 5), 50)
    assert few.verdict is Verdict.INCONCLUSIVE, "ten samples bound no 95th percentile, however low they are"


def test_an_unsteady_run_far_over_its_limit_fails_unless_something_else_may_be_why() -> None:
    """More time would show the same: no retry is spent on it."""
    shape = np.repeat([1, 1.25], 150)
    for limit, verdict in ((1, Verdict.FAIL), (4.5, Verdict.FAIL), (5.5, Verdict.INCONCLUSIVE)):
        gate = latency_gate("engine", latency(noise(10) * shape), limit)
        assert gate.verdict is verdict, gate.reason
    assert "at least 9" in latency_gate("engine", latency(noise(10) * shape), 1).reason
    assert latency_gate("engine", latency([10.0, 13.0, 16.0]), 1).verdict is Verdict.INCONCLUSIVE
    for disturbed in DISTURBED:
        gate = latency_gate("engine", latency(noise(10) * shape, **disturbed), 1)
        assert gate.verdict is Verdict.INCONCLUSIVE


def gate(stage: str, verdict: Verdict, metric: str = "speed-up", value: float | None = 1.53) -> Gate:
    return Gate(stage, metric, value, 1.5, "×", verdict, "by its samples")


@pytest.mark.parametrize("early", [Verdict.INCONCLUSIVE, Verdict.FAIL, Verdict.PASS])
@pytest.mark.parametrize("late", [Verdict.INCONCLUSIVE, Verdict.FAIL, Verdict.PASS])
def test_what_ships_decides_a_budget(early: Verdict, late: Verdict) -> None:
    rows = inform_by_later([gate("prune", early), gate("engine", late)])
    assert overall_verdict(rows) is late
    assert rows[0].limit is None and rows[0].value == 1.53
    assert rows[0].reason == f"{early.value} by itself (by its samples); engine decides"


def test_a_planned_frame_to_boxes_latency_is_decided_by_the_real_one() -> None:
    rows = [
        gate("prune", Verdict.FAIL, "planned end-to-end speed-up"),
        gate("engine", Verdict.PASS, "end-to-end speed-up"),
    ]
    assert overall_verdict(inform_by_later(rows)) is Verdict.PASS


@pytest.mark.parametrize(
    "later",
    [
        gate("engine", Verdict.PENDING, value=None),
        gate("engine", Verdict.PASS, metric="size"),
        Gate("engine", "speed-up", 1.53, 1.4, "×", Verdict.PASS, "another limit"),
        gate("prune", Verdict.PASS),
    ],
    ids=["not measured", "another metric", "another limit", "the same stage"],
)
def test_what_was_not_asked_again_still_decides(later: Gate) -> None:
    assert inform_by_later([gate("prune", Verdict.FAIL), later])[0].verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("drop", "error", "verdict", "words"),
    [
        (0.0, 0.01, Verdict.PASS, "-0.0167 or better"),
        (-0.05, 0.01, Verdict.PASS, "+0.0333 or better"),
        (0.02, 0.01, Verdict.INCONCLUSIVE, "about 241 images would settle it (95% for each end, 87 images)"),
        (0.04, 0.01, Verdict.INCONCLUSIVE, "-0.0567 to -0.0233"),
        (0.06, 0.01, Verdict.FAIL, "-0.0433 or worse"),
        (0.0, None, Verdict.INCONCLUSIVE, "87 images give one figure however they are drawn"),
    ],
)
def test_a_loss_of_accuracy_is_judged_by_its_interval(
    drop: float, error: float | None, verdict: Verdict, words: str
) -> None:
    interval = DropInterval(drop, error, images=87, draws=200)
    judged = accuracy_gate("engine", 0.5, 0.5 - drop, 0.03, interval=interval)
    assert judged.verdict is verdict, judged.reason
    assert words in judged.reason
    assert judged.value == pytest.approx(drop) and judged.limit == 0.03


def test_too_few_images_are_said_to_be() -> None:
    judged = accuracy_gate("engine", 0.5, 0.5, 0.03, interval=DropInterval(0.0, None, images=8, draws=0))
    assert judged.verdict is Verdict.INCONCLUSIVE and "8 images are too few to tell, 20 are the least" in judged.reason


def test_the_reason_says_which_images_judged() -> None:
    gate = accuracy_gate("engine", 0.5, 0.49, 0.03, interval=DropInterval(0.01, 0.005, 72, 200), split="test")
    assert "72 images of test" in gate.reason


def test_throttling_reported_by_the_device_decides_nothing() -> None:
    hot = latency(noise(10), device=DeviceState(throttled=True))
    assert latency_gate("engine", hot, 15).verdict is Verdict.INCONCLUSIVE
    assert latency_gate("engine", hot, 1000).verdict is Verdict.INCONCLUSIVE, "however far inside"
    assert speed_up_gate("engine", hot, hot, 0.5).verdict is Verdict.INCONCLUSIVE


def test_a_shared_core_fails_only_what_would_fail_alone() -> None:
    shared = latency(noise(10), core=CoreState(share=0.6, contended=True))
    assert latency_gate("engine", shared, 8).verdict is Verdict.INCONCLUSIVE
    assert "60%" in latency_gate("engine", shared, 8).reason
    assert latency_gate("engine", shared, 5).verdict is Verdict.FAIL
    assert latency_gate("engine", shared, 11).verdict is Verdict.PASS


def time_sliced(busy_ms: float, n: int = 300, seed: int = 0, slice_ms: float = 4.0) -> Measurement:
    """A model on a core that another process has every second slice of: it waits once for every slice that it fills."""
    dice = np.random.default_rng(seed)
    cpu = noise(busy_ms, n, seed)
    clock = cpu + slice_ms * np.floor(cpu / slice_ms + dice.uniform(0, 0.2, n))
    return latency(clock, core=CoreState(share=float(cpu.sum() / clock.sum()), contended=True, cpu_ms=tuple(cpu)))


def test_a_gain_that_only_the_clock_of_a_shared_core_shows_is_none() -> None:
    """Other work interrupts the long inference, not the short one: 9 ms to 3.5 ms are ×2.57, the clock says ×4.9."""
    before, after = time_sliced(9.0), time_sliced(3.5, seed=1)
    found = speed_up_of(before, after)
    assert found.ratio > 4 and found.low < 2.6 < found.high
    gate = speed_up_gate("engine", before, after, 2.8)
    assert gate.verdict is Verdict.INCONCLUSIVE
    assert "other work ran on the machine" in gate.reason
    assert speed_up_gate("engine", before, after, 2.4).verdict is Verdict.PASS, "both clocks are beyond it"


CROWDED = CoreState(share=3.2, contended=True, others=0.4)  # four threads on as many cores
STOPPED = CoreState(share=0.5, contended=True, cpu_ms=(5.0,) * 300, others=0.0, quota=0.5, stopped=0.49)


def test_several_threads_beside_other_work_fail_and_gain_only_what_they_would_alone() -> None:
    shared = latency(noise(10), threads=4, core=CROWDED)
    for limit, verdict in ((11, Verdict.PASS), (8, Verdict.INCONCLUSIVE), (5, Verdict.FAIL)):
        gate = latency_gate("engine", shared, limit)
        assert gate.verdict is verdict
        assert ("other work ran on the machine" in gate.reason) == (verdict is Verdict.INCONCLUSIVE)
    before, after = latency(noise(20), threads=4, core=CROWDED), latency(noise(10, seed=1), threads=4, core=CROWDED)
    found = speed_up_of(before, after)
    assert found.low < 2 * 0.6 < 2 / 0.6 < found.high
    for limit, verdict in ((1.1, Verdict.PASS), (1.9, Verdict.INCONCLUSIVE), (2.5, Verdict.INCONCLUSIVE)):
        gate = speed_up_gate("engine", before, after, limit)
        assert gate.verdict is verdict
        assert ("0.4 of the cores it needs; measure again" in gate.reason) == (verdict is Verdict.INCONCLUSIVE)
    assert speed_up_gate("engine", before, after, 3.5).verdict is Verdict.FAIL
    crowd = replace(CROWDED, others=2.0)
    before, after = (latency(noise(level), threads=4, core=crowd) for level in (20, 10))
    assert speed_up_gate("engine", before, after, 1.1).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("moves", [False, True])
def test_a_quota_is_named_as_the_cause_with_the_way_out(moves: bool) -> None:
    values = np.concatenate([noise(10, 150), noise(30, 150)]) if moves else noise(10)
    stopped = latency(values, core=STOPPED)
    for gate in (
        latency_gate("engine", stopped, 8),
        speed_up_gate("engine", latency(noise(11), core=STOPPED), stopped, 1.1),
    ):
        assert gate.verdict is Verdict.INCONCLUSIVE
        assert QUOTA in gate.reason and "--cpuset-cpus" in gate.reason
        assert "other work ran" not in gate.reason and "quiet" not in gate.reason


@pytest.mark.parametrize("values", [[], [math.nan] * 100, [10.0] * 99 + [math.inf]])
def test_missing_or_broken_samples_never_pass(values: list[float]) -> None:
    assert latency_gate("engine", latency(values), 1e9).verdict is not Verdict.PASS
    assert speed_up_gate("engine", latency(values), latency(values), 1e-9).verdict is not Verdict.PASS


@pytest.mark.parametrize("limit", [math.nan, math.inf, 0, -1])
def test_a_limit_must_be_a_positive_number(limit: float) -> None:
    with pytest.raises(TargetError, match="limit"):
        latency_gate("engine", latency(noise(10)), limit)
    with pytest.raises(TargetError, match="limit"):
        speed_up_gate("engine", latency(noise(10)), latency(noise(5)), limit)


def test_latency_gate_refuses_another_unit_and_statistic() -> None:
    with pytest.raises(TargetError, match="p50, p90"):
        latency_gate("engine", latency(noise(10)), 10, "mean")
    with pytest.raises(StageError, match="MiB"):
        latency_gate("engine", Measurement("size", "MiB", (1.0,), latency([1.0]).conditions), 10)


@pytest.mark.parametrize(("limit", "verdict"), [(1.9, Verdict.PASS), (2.1, Verdict.FAIL), (2.0, Verdict.INCONCLUSIVE)])
def test_speed_up_gate(limit: float, verdict: Verdict) -> None:
    gate = speed_up_gate("engine", latency(noise(10)), latency(noise(5, seed=1)), limit)
    assert gate.verdict is verdict, gate.reason
    assert gate.value == pytest.approx(2, abs=0.01)


def test_a_ratio_within_the_allowance_of_the_limit_is_not_settled_by_samples() -> None:
    gate = speed_up_gate("engine", latency(noise(10, 3000)), latency(noise(5, 3000, seed=1)), 1.99)
    assert gate.verdict is Verdict.INCONCLUSIVE and "too near to the limit" in gate.reason


def test_speed_up_holds_under_a_common_drift_but_not_under_its_own() -> None:
    drift = np.linspace(1, 1.3, 300)
    before, after = noise(10), noise(5, seed=1)
    assert speed_up_gate("e", latency(before * drift), latency(after * drift), 1.9).verdict is Verdict.PASS
    assert speed_up_gate("e", latency(before * drift), latency(after), 1.9).verdict is Verdict.INCONCLUSIVE


def test_an_unsteady_ratio_far_inside_its_limit_passes() -> None:
    generator = np.random.default_rng(0)
    slow, drift = 10 * generator.normal(1, 0.01, 400), np.linspace(1, 1.4, 400)
    fast = latency(2 * drift * generator.normal(1, 0.01, 400))  # from x5 down to x3.6
    gates = {limit: speed_up_gate("engine", latency(slow), fast, limit) for limit in (1.5, 2.5)}
    assert gates[1.5].verdict is Verdict.PASS and "in every block, though" in gates[1.5].reason
    assert gates[2.5].verdict is Verdict.INCONCLUSIVE


def test_an_unsteady_ratio_far_under_its_limit_fails_unless_something_else_may_be_why() -> None:
    generator = np.random.default_rng(0)
    slow, shape = 10 * generator.normal(1, 0.01, 400), np.linspace(1, 1.4, 400) * generator.normal(1, 0.01, 400)
    for limit, verdict in ((12, Verdict.FAIL), (9, Verdict.INCONCLUSIVE)):  # from x5 down to x3.6
        gate = speed_up_gate("engine", latency(slow), latency(2 * shape), limit)
        assert gate.verdict is verdict, gate.reason
    assert "in every block, though" in speed_up_gate("engine", latency(slow), latency(2 * shape), 12).reason
    for disturbed in DISTURBED:
        gate = speed_up_gate("engine", latency(slow), latency(2 * shape, **disturbed), 12)
        assert gate.verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("conditions", "named"),
    [
        ({"identity": {"cpu": "b", "runtime": "r 1"}}, "identity.cpu"),
        ({"threads": 4}, "threads"),
        ({"shapes": {"images": [1, 3, 640, 640]}}, "shapes"),
    ],
)
def test_different_conditions_are_never_compared(conditions: dict, named: str) -> None:
    here, there = latency(noise(10)), latency(noise(5), **conditions)
    with pytest.raises(StageError, match=named):
        speed_up_gate("engine", here, there, 1.5)
    assert any(named in text for text in differing_conditions(here, there))


def test_unpaired_samples_are_refused_and_few_pairs_decide_nothing() -> None:
    with pytest.raises(StageError, match="not pairs"):
        speed_up_gate("engine", latency(noise(10)), latency(noise(5, 200)), 1.5)
    few = speed_up_gate("engine", latency(noise(10, 50)), latency(noise(5, 50)), 1.5)
    assert few.verdict is Verdict.INCONCLUSIVE and "50 more" in few.reason


def test_simulated_never_passes_but_may_fail() -> None:
    pretend = latency(noise(5), simulated=True)
    assert latency_gate("engine", pretend, 50).verdict is Verdict.INCONCLUSIVE
    assert latency_gate("engine", pretend, 1).verdict is Verdict.FAIL
    assert speed_up_gate("engine", latency(noise(10)), pretend, 1.5).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("gate", "verdict"),
    [
        (at_most_gate("s", "m", 1.0, 1.0, ""), Verdict.PASS),
        (at_most_gate("s", "m", 1.1, 1.0, "px"), Verdict.FAIL),
        (at_most_gate("s", "m", None, 1.0, ""), Verdict.PENDING),
        (at_most_gate("s", "m", math.nan, 1.0, ""), Verdict.INCONCLUSIVE),
        (at_most_gate("s", "m", -math.inf, 1.0, ""), Verdict.INCONCLUSIVE),
        (at_least_gate("s", "m", 2.0, 2.0, "×"), Verdict.PASS),
        (at_least_gate("s", "m", 1.9, 2.0, "×"), Verdict.FAIL),
        (at_least_gate("s", "m", math.inf, 2.0, "×"), Verdict.INCONCLUSIVE),
        (accuracy_gate("s", 0.555, 0.545, 0.01), Verdict.PASS),  # 0.010000000000000009 in binary
        (accuracy_gate("s", 0.555, 0.5449, 0.01), Verdict.FAIL),
        (accuracy_gate("s", 0.5, 0.6, 0.0), Verdict.PASS),
        (accuracy_gate("s", 0.0, 0.0, 0.01), Verdict.INCONCLUSIVE),
        (accuracy_gate("s", 0.5, math.nan, 0.01), Verdict.INCONCLUSIVE),
        (accuracy_gate("s", 0.5, None, 0.01), Verdict.PENDING),
        (info_gate("s", "m", 3.0, "MB"), Verdict.PASS),
        (info_gate("s", "m", math.nan, "MB"), Verdict.PASS),
        (info_gate("s", "m", None, "MB"), Verdict.PASS),
        (pending_gate("s", "m", 8.0, "ms", "make jetson-orin"), Verdict.PENDING),
    ],
)
def test_plain_gates(gate: Gate, verdict: Verdict) -> None:
    assert gate.verdict is verdict
    assert gate.reason


@given(st.floats(allow_nan=True, allow_infinity=True), st.floats(-1e6, 1e6))
@settings(max_examples=200)
def test_a_pass_means_the_limit_holds(value: float, limit: float) -> None:
    for gate, holds in (
        (at_most_gate("s", "m", value, limit, ""), value <= limit + 1e-9),
        (at_least_gate("s", "m", value, limit, ""), value >= limit - 1e-9),
    ):
        assert (gate.verdict is Verdict.PASS) == (math.isfinite(value) and holds)


def test_overall_is_the_worst_and_information_is_no_proof() -> None:
    good, bad, open_ = (at_most_gate("s", "m", value, 1.0, "") for value in (0.5, 2.0, None))
    info = info_gate("s", "size", 3.0, "MB")
    assert overall_verdict([]) is overall_verdict([info]) is Verdict.PENDING
    assert overall_verdict([good, info]) is Verdict.PASS
    for nothing in (math.nan, math.inf, None):
        told = info_gate("s", "size", nothing, "MB", "by its file")
        assert overall_verdict([good, told]) is Verdict.PASS and told.value is None
        assert told.reason.startswith("not a number") and told.reason.endswith("by its file")
    assert overall_verdict([good, open_]) is Verdict.PENDING
    assert overall_verdict([good, at_most_gate("s", "m", math.nan, 1.0, ""), open_]) is Verdict.INCONCLUSIVE
    assert overall_verdict([good, open_, bad]) is Verdict.FAIL
    assert [verdict.exit_code for verdict in Verdict] == [1, 5, 5, 0]


def test_gates_are_calibrated() -> None:
    """The quick version of benchmarks/gate_calibration.py: 300 runs a row, so four standard errors are allowed."""
    rows = [
        gate_calibration.latency_row("lognormal", "p95", 300),
        gate_calibration.latency_row("correlated", "p90", 300),
        gate_calibration.speed_up_row("long tail", 60),
        gate_calibration.moving_row("drift of 10 %", 150),
        gate_calibration.moving_row("throttle step of 25 %, long tail", 150),
    ]
    for row in rows:
        if row.inconclusive is not None:
            assert row.inconclusive >= 0.95, row
        else:
            assert row.wrong_pass is not None and row.wrong_pass <= 0.033, row
            assert row.wrong_fail is not None and row.wrong_fail <= 0.1, row
            assert row.useful is not None and row.useful >= 0.85, row  # the allowance for places costs some


def test_measuring_again_makes_no_wrong_verdict_likelier() -> None:
    for of, alone in ((pass_confidence, PASS_CONFIDENCE), (fail_confidence, FAIL_CONFIDENCE)):
        assert of(0) == pytest.approx(alone)
        assert 3 * (1 - of(2)) == pytest.approx(1 - alone)


def test_a_look_of_three_fails_by_its_share_of_the_error() -> None:
    samples = latency(noise(10.0))
    gate = latency_gate("engine", samples, 9.0, "p50", pass_confidence(2), fail_confidence(2))
    assert gate.verdict is Verdict.FAIL and "99% confidence" in gate.reason
    ratio = speed_up_gate("engine", samples, samples, 1.5, pass_confidence(2), fail_confidence(2))
    assert ratio.verdict is Verdict.FAIL and "99% confidence" in ratio.reason


@pytest.mark.parametrize("retries", [0, 2, 12, 50, 1000])
def test_a_gate_never_says_that_it_is_sure(retries: int) -> None:
    samples = latency([10.0, 10.01] * 2000)
    faster = latency([5.0, 5.01] * 2000)
    confidence, against = pass_confidence(retries), fail_confidence(retries)
    gates = [latency_gate("engine", samples, limit, "p50", confidence, against) for limit in (20.0, 9.0)] + [
        speed_up_gate("engine", samples, faster, limit, confidence, against) for limit in (1.5, 3.0)
    ]
    assert [gate.verdict for gate in gates] == [Verdict.PASS, Verdict.FAIL] * 2
    for gate in gates:
        assert "confidence" in gate.reason and "100" not in gate.reason


def test_fewer_samples_settle_a_fail_that_needs_less_confidence() -> None:
    values = noise(10.0).tolist()
    limit = value_of(values, "p95") - 0.01
    asked = [samples_to_settle(values, "p95", limit, 0.998, against) for against in (0.998, 0.97)]
    assert asked[0] is not None and asked[1] is not None and asked[1] < asked[0]


def test_a_limit_in_ms_allows_for_where_memory_lies_in_the_processes_that_were_measured() -> None:
    values = np.random.default_rng(0).normal(10, 0.02, 300)
    one, three = (latency(values, launches=(300 // count,) * count) for count in (1, 3))
    bound = bounds(values.tolist(), "p50", PASS_CONFIDENCE, FAIL_CONFIDENCE)
    assert bound.high is not None and bound.low is not None
    widest = latency_bounds(one, "p50", PASS_CONFIDENCE, FAIL_CONFIDENCE)
    assert widest.high == pytest.approx(1.01 * bound.high) and widest.low == pytest.approx(bound.low / 1.01)
    for limit, verdicts in ((1.004, "INCONCLUSIVE"), (1.008, "INCONCLUSIVE PASS"), (1.02, "PASS")):
        found = [latency_gate("engine", measured, limit * bound.high, "p50") for measured in (one, three)]
        assert " ".join(dict.fromkeys(gate.verdict.value for gate in found)) == verdicts
    for limit, verdicts in ((0.996, "INCONCLUSIVE"), (0.992, "INCONCLUSIVE FAIL"), (0.98, "FAIL")):
        found = [latency_gate("engine", measured, limit * bound.low, "p50") for measured in (one, three)]
        assert " ".join(dict.fromkeys(gate.verdict.value for gate in found)) == verdicts
    undecided = latency_gate("engine", one, 1.004 * bound.high, "p50")  # no number of samples brings it there
    assert "too near to the limit" in undecided.reason


@pytest.mark.parametrize("digits", [4, 5, 6])
def test_the_reason_of_a_failure_never_reads_as_its_limit(digits: int) -> None:
    for missed in (
        at_most_gate("s", "m", 8 + 10**-digits, 8.0, "ms"),
        at_least_gate("s", "m", 8 - 10**-digits, 8.0, ""),
    ):
        seen, limit = re.findall(r"[\d.]+", missed.reason)
        assert missed.verdict is Verdict.FAIL and float(seen) != float(limit)
    lost = accuracy_gate("engine", 0.5, 0.4, 0.02, interval=DropInterval(0.02 + 2 * 10**-digits, 1e-9, 72, 0))
    assert lost.verdict is Verdict.FAIL and "-0.0200 or worse" not in lost.reason
    kept = accuracy_gate("engine", 0.5, 0.5, 0.02, interval=DropInterval(0.0, 0.0, 72, 0))
    assert "-0.0000" not in kept.reason


ENDS = re.compile(r"(at least|at most|between) ([\d.]+)(?: and ([\d.]+))?")


def said(gate: Gate) -> tuple[float, float]:
    """What a reason says that the figure is at least and at most."""
    words, first, second = ENDS.findall(gate.reason)[0]
    if words == "between":
        return float(first), float(second)
    return (float(first), math.inf) if words == "at least" else (0.0, float(first))


@given(
    st.sampled_from([0.999, 0.9999, 0.99999, 1.0, 1.00001, 1.0001, 1.001]),
    st.sampled_from([0.37, 1.5, 8.0, 41.7]),
    st.integers(0, 3),
    st.integers(2, 6),
)
@settings(max_examples=60, deadline=None)
def test_no_reason_says_more_than_was_measured_nor_reads_otherwise_than_its_verdict(
    near: float, level: float, seed: int, digits: int
) -> None:
    """An end is rounded away from the figure, and is on the side of the limit that the verdict says."""
    values = noise(level, seed=seed)
    measured = latency(values)
    bound = latency_bounds(measured, "p50", PASS_CONFIDENCE, FAIL_CONFIDENCE)
    assert bound.low is not None and bound.high is not None
    for end in (bound.low, bound.high):
        limit = round(near * end, digits)
        gate = latency_gate("engine", measured, limit, "p50")
        least, most = said(gate)
        assert least <= bound.low * (1 + 1e-9) and most >= bound.high * (1 - 1e-9)
        reads = Verdict.PASS if most <= limit else Verdict.FAIL if least > limit else Verdict.INCONCLUSIVE
        assert gate.verdict is reads, gate.reason
    first = latency(noise(2 * level, seed=seed + 10))
    gain = speed_up_of(first, measured, tails=(1 - PASS_CONFIDENCE, 1 - FAIL_CONFIDENCE))
    for end in (gain.low, gain.high):
        limit = round(near * end, digits)
        gate = speed_up_gate("engine", first, measured, limit)
        least, most = said(gate)
        assert least <= gain.low * (1 + 1e-9) and most >= gain.high * (1 - 1e-9)
        reads = Verdict.PASS if least >= limit else Verdict.FAIL if most < limit else Verdict.INCONCLUSIVE
        assert gate.verdict is reads, gate.reason


@pytest.mark.parametrize("near", [-2e-5, -1e-9, 0.0, 2e-5, 4e-4])
@pytest.mark.parametrize("end", ["low", "high"])
def test_a_loss_of_accuracy_never_reads_otherwise_than_its_verdict(near: float, end: str) -> None:
    found = DropInterval(0.0123456, 0.004, 200, 1000)
    low, high = found.lower(0.95), found.upper(0.95)
    limit = (low if end == "low" else high) + near
    gate = accuracy_gate("engine", 0.55, 0.55 - found.drop, limit, interval=found)
    least, most = -math.inf, math.inf
    ends = [float(word) for word in re.findall(r"[+-]\d\.\d+", gate.reason)]
    if "or better" in gate.reason:
        least = ends[0]
    elif "or worse" in gate.reason:
        most = ends[0]
    else:
        least, most = ends
    assert least <= -high + 1e-8 or least == -math.inf
    assert most >= -low - 1e-8
    reads = Verdict.PASS if least >= -limit - 1e-9 else Verdict.FAIL if most < -limit else Verdict.INCONCLUSIVE
    assert gate.verdict is reads, gate.reason


def test_what_disturbs_a_run_is_said_of_one_and_of_a_pair() -> None:
    steady, moved = noise(10.0), noise(10.0) * np.repeat([1.0, 1.4], 150)
    assert moved_reason(latency(steady)) == moved_reason(latency(steady), latency(steady / 2)) == ""
    assert "a step of +39%" in moved_reason(latency(moved))
    assert moved_reason(latency(moved), latency(moved / 2)) == ""  # what slows both alike cancels
    assert "a step of -29%" in moved_reason(latency(steady), latency(moved))
    hot = {"device": DeviceState(throttled=True, throttled_why="gpu-throttle-alert was at work")}
    busy = {"core": CoreState(share=0.6, contended=True)}
    for pair in ((latency(steady, **hot),), (latency(steady), latency(steady, **hot))):
        assert moved_reason(*pair) == "the device throttled during the run: gpu-throttle-alert was at work"
    assert moved_reason(latency(steady, **busy)) == "the model had only 60% of a core: other work ran on the machine"
    both = moved_reason(latency(moved, **hot, **busy))
    assert both.startswith("the device throttled") and both.endswith("60% of a core: other work ran on the machine")
