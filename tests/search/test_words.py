"""What a search says of a budget: what was asked, how far one gets, and what to type next."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from edgeprune.errors import OutOfReachError, TargetError
from edgeprune.records.facts import Diagnosis
from edgeprune.report.diagnosis import price_text
from edgeprune.search.budget import _ends, _out_of_reach, _refusal, rounded_down, rounded_up, share_text
from edgeprune.search.inputs import frontier_command
from edgeprune.search.probing import Candidate, Probe, Reading
from edgeprune.target import Budget, default_target

LEVERS = "edgeprune frontier best.pt --target cpu --data data.yaml --speed-up 50"
LATENCY: Any = SimpleNamespace(candidate_ms=2.994, speed_up=6.684)


def refusal(
    budget: Budget, used_high: float, speed_up_low: float = 6.64, blocks_stay: bool = False, levers: str = LEVERS
) -> str:
    reading = Reading(7.48, 7.4, used_high, speed_up_low, 6.7)
    floor = Probe(Candidate("least", 0.1, 1.0, exhausted=True), 7.5, reading, 50.0)
    return _out_of_reach(budget, floor, LATENCY, levers, blocks_stay)


@pytest.mark.parametrize(
    ("budget", "used_high", "begins"),
    [
        (
            Budget(speed_up=50, statistic="p50"),
            50 / 6.6491,
            "the budget latency speed-up ≥ ×50 is out of reach for this model: the floor measured here is ×6.68; "
            "ask for --speed-up 6.64 or less, or see what other levers bring: edgeprune frontier best.pt",
        ),
        (
            Budget(latency_ms=0.4, statistic="p95"),
            7.527,
            "the budget p95 latency ≤ 0.4 ms is out of reach for this model: the floor measured here is p95 2.99 ms; "
            "ask for --latency-ms 3.02 or more, or take a smaller scale",
        ),
        (
            Budget(speed_up=50, statistic="p50"),
            math.inf,
            "the budget latency speed-up ≥ ×50 is out of reach for this model: the floor measured here is ×6.68; "
            "see what other levers bring",
        ),
    ],
)
def test_out_of_reach_begins_with_what_was_asked_the_floor_and_what_to_type(
    budget: Budget, used_high: float, begins: str
) -> None:
    text = refusal(budget, used_high)
    assert text.startswith(begins)
    assert text.endswith(f"see what other levers bring: {LEVERS}")  # to type: nothing stands behind it


def test_where_no_images_price_whole_blocks_the_floor_is_that_of_channels_alone() -> None:
    text = refusal(Budget(speed_up=50, statistic="p50"), 50 / 6.6491, blocks_stay=True)
    assert "or less, or let whole blocks go too, which taylor and fisher price on the images of --data, or see" in text
    assert "blocks" not in refusal(Budget(speed_up=50, statistic="p50"), 50 / 6.6491)


@pytest.mark.parametrize(
    ("budget", "speed_up_low", "ends"),
    [
        (Budget(speed_up=50, statistic="p50"), 6.64, "is ×6.68; ask for --speed-up 6.64 or less"),
        (Budget(latency_ms=0.4, statistic="p50"), 6.64, ", or take a smaller scale of the model or a smaller --imgsz"),
        (Budget(speed_up=50, statistic="p50"), 0.98, "which is not faster than the unpruned model beyond the noise"),
    ],
)  # fmt: skip
def test_where_there_is_no_command_for_other_levers_none_is_named(
    budget: Budget, speed_up_low: float, ends: str
) -> None:
    assert refusal(budget, 50 / 6.6491, speed_up_low, levers="").endswith(ends)


def test_where_pruning_makes_nothing_faster_no_milder_budget_is_named() -> None:
    text = refusal(Budget(speed_up=50, statistic="p50"), 7.5, speed_up_low=0.98)
    assert "beyond the noise; see what other levers" in text and "ask for" not in text


@pytest.mark.parametrize("value", [0.0123456, 0.999, 1.04, 6.649, 99.96, 1234.5])
def test_what_is_named_was_reached(value: float) -> None:
    assert 0.99 * value < rounded_down(value) <= value * (1 + 1e-12)
    assert value * (1 - 1e-12) <= rounded_up(value) < 1.01 * value


@pytest.mark.parametrize("value", [1.0, 1.1, 1.15, 2.2, 4.35, 0.0115, 57.1, 1150.0])
def test_what_has_three_digits_is_named_as_it_is(value: float) -> None:
    assert f"{rounded_down(value):g}" == f"{rounded_up(value):g}" == f"{value:g}"


def test_a_share_far_over_the_budget_is_told_as_a_multiple() -> None:
    assert share_text(0.971) + " the budget" == "97.1% of the budget"
    assert share_text(7.48) + " the budget" == "7.48 times the budget"
    assert _ends(7.4, 7.55) == "7.40 to 7.55 times" and _ends(0.95, 0.99) == "95.0% to 99.0%"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Budget(speed_up=1.4, statistic="p50"), "×1.50 here (×1.4 was asked; a plan aims above it"),
        (Budget(speed_up=1.5, statistic="p50"), "×1.50 here costs 58% of the parameters"),
        (Budget(speed_up=9, statistic="p50"), "×1.50 here costs 58% of the parameters"),
        (Budget(latency_ms=9, statistic="p50"), "×1.50 here costs 58% of the parameters"),
    ],
)
def test_a_price_says_why_it_is_of_more_than_was_asked(asked: Budget, words: str) -> None:
    found = Diagnosis(0.5, 0.1, 0.4, None, 1.5, 0.4, 0.58)
    assert price_text(found, asked).startswith(words)
    assert price_text(found, asked).endswith("costs 58% of the parameters and 40% of the MACs")


@pytest.mark.parametrize("budget", [{"speed_up": 40}, {"latency_ms": 1.5}], ids=str)
def test_the_command_of_a_frontier_is_of_what_was_given(budget: dict[str, float]) -> None:
    target = default_target().with_overrides(**budget)
    options = {"imgsz": (384, 640), "device": None}
    line = frontier_command("mine/edge.yaml", "runs/a b/best.pt", None, target.budget, options, trust=True)
    [(kind, value)] = budget.items()
    flag = f"--{kind.replace('_', '-')}"
    assert line == (
        f"edgeprune frontier 'runs/a b/best.pt' --target mine/edge.yaml --data DATA.yaml {flag} {value} "
        "--imgsz 384,640 --trust"
    )


def test_only_steady_measurements_say_that_the_same_search_would_end_alike() -> None:
    quiet = Reading(7.48, 7.4, 7.5, 6.64, 6.7)
    probes = [Probe(Candidate(name, 0.1, 1.0, exhausted=True), 7.5, quiet, 50.0) for name in ("one", "least")]
    assert type(_refusal(probes, "out of reach")) is OutOfReachError
    probes[0] = replace(probes[0], reading=replace(quiet, unsteady="the samples drift"))
    assert type(_refusal(probes, "out of reach")) is TargetError
