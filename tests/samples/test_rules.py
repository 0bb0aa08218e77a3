"""What gates say of the same samples is kept in a file: who changes it raises the number of the rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgeprune.samples.average_precision import DropInterval
from edgeprune.samples.conditions import CoreState, DeviceState
from edgeprune.samples.gates import (
    RULES,
    Gate,
    accuracy_gate,
    at_least_gate,
    at_most_gate,
    info_gate,
    latency_gate,
    overall_verdict,
    speed_up_gate,
)
from tests.samples.made import latency

KEPT = Path(__file__).with_name("rules.txt")


def gates() -> Iterator[Gate]:
    """Every kind of gate near and far from its limit, of runs that were steady and that were not."""
    spread = np.random.default_rng(0).normal(1.0, 0.02, (2, 300))
    plain, slow = 10 * spread[0], 20 * spread[1]
    step = np.repeat([1.0, 1.4], 150)
    runs = {
        "steady": latency(plain),
        "three launches": latency(plain, launches=(100, 100, 100)),
        "few": latency(plain[:15]),
        "moved": latency(plain * step),
        "throttled": latency(plain, device=DeviceState(throttled=True, throttled_why="too hot")),
        "doubtful": latency(plain, device=DeviceState(clocks_doubt="the clocks stayed free")),
        "shared": latency(plain, core=CoreState(share=0.6, contended=True)),
        "simulated": latency(plain, simulated=True),
    }
    for name, run in runs.items():
        for limit in (4.0, 9.9, 10.1, 10.4, 30.0):
            yield latency_gate(name, run, limit, "p50")
            yield latency_gate(name, run, limit, "p95")
        first = latency(slow[: len(run.values)])
        for limit in (0.7, 1.97, 2.0, 2.03, 4.5):
            yield speed_up_gate(name, first, run, limit)
    for drop, error in ((0.0, 0.0), (0.01, 0.002), (0.02, 0.002), (0.03, 0.002), (0.02, None)):
        yield accuracy_gate("accuracy", 0.55, 0.55 - drop, 0.02, interval=DropInterval(drop, error, 72, 500))
    yield at_most_gate("plain", "size", 1.0000001, 1.0, "MiB")
    yield at_least_gate("plain", "agreement", 0.9, 0.9, "")
    yield info_gate("plain", "energy", float("nan"), "mJ")


def told() -> str:
    """Verdict, figure and reason of each, and what they come to together."""
    found = list(gates())
    lines = [f"{one.stage} | {one.metric} {one.limit}: {one.verdict.value} {one.value} {one.reason}" for one in found]
    return "\n".join([f"rules {RULES}", *lines, f"all: {overall_verdict(found).value}", ""])


def test_rules_that_say_something_else_have_another_number() -> None:
    """Where this fails on purpose: raise RULES in samples/gates.py, then python -m tests.samples.test_rules."""
    assert told() == KEPT.read_text(encoding="utf-8")


if __name__ == "__main__":
    KEPT.write_text(told(), encoding="utf-8")
