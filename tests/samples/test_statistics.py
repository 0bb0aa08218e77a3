"""Latency statistics against exact counts, known distributions and each other."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.samples import statistics
from edgeprune.samples.measurement import summary
from edgeprune.samples.statistics import (
    bounds,
    confidence_text,
    effective_count,
    lower_rank,
    quantile_of,
    ratio,
    samples_needed,
    samples_to_settle,
    stability,
    upper_rank,
    value_of,
)
from edgeprune.serial import to_json
from tests.samples.made import latency


@pytest.mark.parametrize(
    ("confidence", "digits", "text"),
    [
        (0.99962, 1, "99.96%"),
        (0.99962, 0, "99.96%"),
        (1 - 0.005 / 3, 1, "99.8%"),
        (1 - 0.03 / 3, 0, "99%"),
        (1 - 0.03 / 4, 0, "99.2%"),
        (0.9998, 1, "99.98%"),
        (0.9999, 0, "99.99%"),
        (0.97, 0, "97%"),
        (0.995, 1, "99.5%"),
        (0.95, 0, "95%"),
        (0.978, 0, "97%"),
        (1.0, 1, "100%"),
    ],
)
def test_a_printed_confidence_is_rounded_down_and_never_all(confidence: float, digits: int, text: str) -> None:
    assert confidence_text(confidence, digits) == text


@given(st.floats(0.5, 1 - 1e-12))
def test_no_printed_confidence_is_more_than_what_holds(confidence: float) -> None:
    printed = float(confidence_text(confidence, 1).removesuffix("%"))
    assert printed < 100 and printed <= 100 * confidence + 1e-6


@pytest.mark.parametrize(("q", "needed"), [(0.5, 11), (0.9, 64), (0.95, 130), (0.99, 662)])
def test_samples_needed_are_mlperfs(q: float, needed: int) -> None:
    assert samples_needed(q, 0.99) == needed
    assert upper_rank(needed, q, 0.99) == needed - 1  # one sample may lie above the bound
    assert upper_rank(needed - 1, q, 0.99) is None


@pytest.mark.parametrize("n", [11, 30, 64, 150])
@pytest.mark.parametrize("q", [0.3, 0.5, 0.9, 0.95])
@pytest.mark.parametrize("confidence", [0.9, 0.97, 0.99, 0.995])
def test_ranks_are_those_of_exact_binomial_sums(n: int, q: float, confidence: float) -> None:
    exact = np.cumsum([math.comb(n, k) * q**k * (1 - q) ** (n - k) for k in range(n + 1)])
    upper = int(np.flatnonzero(exact >= confidence)[0]) + 1
    assert upper_rank(n, q, confidence) == (upper if upper < n else None)
    lower = np.flatnonzero(exact <= 1 - confidence)
    assert lower_rank(n, q, confidence) == (int(lower[-1]) + 1 if len(lower) else None)


@pytest.mark.parametrize(("false_alarm", "least", "most"), [(0.05, 27, 77), (0.001, 0, 6)])
def test_as_many_steady_runs_are_called_unsteady_as_the_false_alarm_says(
    false_alarm: float, least: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "FALSE_ALARM", false_alarm)
    generator = np.random.default_rng(4)
    runs = [generator.normal(10, 0.3, 200).tolist() for _ in range(1000)]
    assert least <= sum(not stability(run, tolerance=0).stable for run in runs) <= most


@pytest.mark.parametrize("name", ["p0", "p100", "median", "p", "95", "p-5", "pnan", "p0.5", "p99.991", "p99.9999"])
def test_a_name_that_is_no_percentile_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="percentile"):
        quantile_of(name)


@pytest.mark.parametrize(("name", "quantile"), [("p1", 0.01), ("p99.9", 0.999), ("p99.99", 0.9999)])
def test_the_ends_of_the_percentiles_are_taken(name: str, quantile: float) -> None:
    assert quantile_of(name) == pytest.approx(quantile, rel=1e-12)


def test_value_of_takes_the_order_statistic() -> None:
    values = list(range(100, 0, -1))
    assert [value_of(values, name) for name in ("p50", "p90", "p95", "p99")] == [50, 90, 95, 99]
    assert value_of(values, "mean") == 50.5
    with pytest.raises(ValueError, match="no samples"):
        value_of([], "p50")


@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=120), st.sampled_from(["p50", "p90", "p95"]))
@settings(max_examples=80)
def test_bounds_enclose_the_value(values: list[float], statistic: str) -> None:
    found = bounds(values, statistic)
    assert found.low is None or found.low <= found.value
    assert found.high is None or found.high >= found.value
    assert 1 <= found.effective <= found.samples == len(values)


@given(st.floats(0.1, 100), st.integers(0, 10_000))
@settings(max_examples=30)
def test_bounds_follow_the_unit(scale: float, seed: int) -> None:
    values = np.random.default_rng(seed).lognormal(0, 0.2, 150)
    one, other = bounds(values.tolist(), "p90"), bounds((values * scale).tolist(), "p90")
    assert one.high is not None and other.high is not None
    assert other.high == pytest.approx(one.high * scale)


def test_upper_bound_covers_the_true_quantile() -> None:
    generator = np.random.default_rng(0)
    truth = math.exp(0.3 * 1.2815515655)  # p90 of a lognormal with sigma 0.3
    covered = [
        (high := bounds(generator.lognormal(0, 0.3, 200).tolist(), "p90").high) is not None and high >= truth
        for _ in range(500)
    ]
    assert sum(covered) / 500 >= 0.975  # 99 % wanted; 0.975 is three standard errors below


def test_too_few_samples_give_no_upper_bound() -> None:
    assert bounds([1.0] * 100, "p99").high is None
    assert bounds([float("1")] * 70, "p90").high == 1.0


def test_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        bounds([1.0, math.nan], "p50")


def test_dependent_samples_are_worth_fewer() -> None:
    generator = np.random.default_rng(3)
    white = generator.normal(size=400)
    assert effective_count(white) > 360
    assert effective_count(np.repeat(white[:40], 10)) < 100


def test_samples_to_settle_is_about_right() -> None:
    generator = np.random.default_rng(5)
    values = generator.normal(10, 1, 150)
    limit = float(np.quantile(values, 0.93))  # p90 lies a little under the limit
    needed = samples_to_settle(values.tolist(), "p90", limit)
    assert needed is not None and needed > 150
    larger = np.sort(np.resize(np.sort(values), needed))
    generator.shuffle(larger)
    high = bounds(larger.tolist(), "p90").high
    assert high is not None and high <= limit * 1.01
    assert samples_to_settle(values.tolist(), "p90", float(np.quantile(values, 0.9001)), most=20_000) is None


STEADY = {
    "normal": lambda g, n: g.normal(10, 0.3, n),
    "long tail": lambda g, n: g.normal(10, 0.2, n) + np.where(g.random(n) < 0.08, g.exponential(5, n), 0),
    "bimodal": lambda g, n: np.where(g.random(n) < 0.4, 13, 10) + g.normal(0, 0.3, n),
    "constant": lambda g, n: np.full(n, 10.0),
    "coarse clock": lambda g, n: np.round(g.normal(10, 0.3, n), 0),
}


@pytest.mark.parametrize("name", STEADY)
def test_steady_runs_are_steady(name: str) -> None:
    generator = np.random.default_rng(11)
    alarms = sum(not stability(STEADY[name](generator, 200).tolist()).stable for _ in range(300))
    assert alarms <= 3


@pytest.mark.parametrize(
    ("factor", "word"),
    [
        (lambda x: 1 + 0.15 * x, "drift"),
        (lambda x: 1 - 0.15 * x, "drift"),
        (lambda x: np.where(x > 0.6, 1.2, 1), "step"),
        (lambda x: np.where(x > 0.9, 1.3, 1), "level|step"),
        (lambda x: np.where(abs(x - 0.5) < 0.15, 1.25, 1), "level|step"),
    ],
    ids=["drift up", "drift down", "step", "late step", "pulse"],
)
def test_runs_that_move_are_named(factor, word: str) -> None:
    generator = np.random.default_rng(2)
    for _ in range(50):
        found = stability((generator.normal(10, 0.3, 300) * factor(np.linspace(0, 1, 300))).tolist())
        assert not found.stable
        assert found.change > 0.05
        assert any(part in found.reason for part in word.split("|")), found.reason


def test_noise_and_too_few_samples_are_not_steady() -> None:
    generator = np.random.default_rng(0)
    assert "too noisy" in stability(generator.uniform(1, 10, 200).tolist()).reason
    assert "too few" in stability([10.0] * 19).reason
    assert not stability([math.inf] * 50).stable


def test_ratio_is_of_the_first_to_the_second() -> None:
    generator = np.random.default_rng(0)
    base = generator.normal(20, 0.2, 200)
    found = ratio(base.tolist(), (base / 2).tolist())
    assert found.ratio == pytest.approx(2)
    assert found.low <= found.ratio <= found.high


def test_ratio_survives_a_common_drift() -> None:
    generator = np.random.default_rng(0)
    drift = np.linspace(1, 3, 400)
    a, b = generator.normal(12, 0.3, 400) * drift, generator.normal(10, 0.3, 400) * drift
    found = ratio(a.tolist(), b.tolist(), allowance=0)
    assert found.low < 1.2 < found.high
    assert found.high / found.low < 1.03
    assert found.stability.stable


@pytest.mark.parametrize(("block", "n"), [(5, 200), (1, 60), (10, 400)])
def test_ratio_interval_covers(block: int, n: int) -> None:
    generator = np.random.default_rng(block)
    hits = 0
    for _ in range(200):
        a, b = generator.lognormal(0, 0.2, n), generator.lognormal(0, 0.2, n)
        found = ratio(a.tolist(), b.tolist(), block=block, resamples=400, allowance=0)
        hits += found.low <= 1 <= found.high
    assert hits >= 184  # 95 % of 200 are 190, two standard errors are 6


def test_no_number_of_samples_narrows_the_interval_below_the_allowance() -> None:
    found = ratio([10.0] * 1000, [10.0] * 1000)
    assert (found.low, found.ratio, found.high) == pytest.approx((1 / 1.01, 1, 1.01))


@pytest.mark.parametrize("pairs", [1, 3, 5, 30, 39])
def test_too_few_blocks_give_a_ratio_without_ends(pairs: int) -> None:
    found = ratio([2.0] * pairs, [1.0] * pairs)
    assert (found.ratio, found.low, found.high) == (2.0, 0.0, math.inf)


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        ([1.0] * 50, [1.0] * 45, "not pairs"),
        ([], [], "no samples"),
        ([1.0] * 50, [0.0] * 50, "positive"),
        ([math.nan] * 50, [1.0] * 50, "positive"),
    ],
)
def test_ratio_refuses(a: list[float], b: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ratio(a, b)


def test_summary_counts_images() -> None:
    found = summary(latency([20.0] * 200, batch=4))
    assert found.throughput == pytest.approx(200)
    assert found.p99_bound is None and found.p95_bound == pytest.approx(
        20.2
    )  # memory lies elsewhere in another process
    assert to_json(found)["stability"]["stable"] is True


def test_statistics_and_gates_import_nothing_heavy() -> None:
    code = (
        "import sys, edgeprune.samples.gates, edgeprune.samples.statistics; "
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'ultralytics', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert statistics.STATISTICS[:4] == ("p50", "p90", "p95", "p99")
