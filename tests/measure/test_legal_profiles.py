"""Whatever a profile may ask of a measurement ends in a verdict: on a device with a clock of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.measure.latency import judge_latency, measure_pair
from edgeprune.progress import Silent, silent
from edgeprune.runtimes.base import BenchSettings
from edgeprune.runtimes.bench_worker import samples_per_round
from edgeprune.samples.gates import MIN_BLOCK_PAIRS, Verdict, budget_gate
from edgeprune.samples.measurement import Measurement, speed_up_of, summary
from edgeprune.samples.statistics import MIN_BLOCKS
from edgeprune.search.prober import Prober
from edgeprune.stages.engine import _timed
from edgeprune.target import Target, load_target
from tests.samples.made import latency

ENGINES = Path("baseline.onnx"), Path("candidate.onnx")


class ClockedRuntime:
    """Takes turns as the worker does, on a device where the baseline takes ``ms`` and the candidate ``ms / gain``; the
    time limit is that of a clock which only inferences move."""

    def __init__(self, ms: float, gain: float, noise: float = 0.01) -> None:
        self.ms, self.gain, self.noise, self.dice = ms, gain, noise, np.random.default_rng(0)
        self.rounds: list[int] = []

    def latency(self, models: Sequence[Path], asked: BenchSettings, *, progress: Any = silent) -> list[Measurement]:
        each_s = [self.ms / 1e3 / (self.gain if model == ENGINES[1] else 1.0) for model in models]
        launches, taken, per_round = max(1, min(asked.launches, asked.rounds)), [], asked.per_round
        for launch in range(launches):
            left_s = asked.time_limit_s / launches - 2 * sum(each_s)
            if launch == 0:
                per_round = samples_per_round(
                    per_round, -(-MIN_BLOCK_PAIRS // launches), left_s, sum(each_s), settle=False
                )
            in_time = max(1, int(np.ceil(left_s / (per_round * sum(each_s))))) if left_s > 0 else 1
            taken.append(min(in_time, -(-asked.rounds // launches)))
        self.rounds.append(sum(taken))
        samples = [rounds * per_round for rounds in taken]
        return [
            latency(
                1e3 * seconds * self.dice.normal(1, self.noise, sum(samples)).clip(0.5),
                samples_per_block=per_round,
                launches=tuple(samples),
            )
            for seconds in each_s
        ]


def site(target: Target, runtime: ClockedRuntime) -> Any:
    device = SimpleNamespace(name="elsewhere")
    return SimpleNamespace(target=target, runtime=runtime, device=device, seed=0, reporter=Silent())


def asking(budget: dict[str, Any], **measure: Any) -> Target:
    target = load_target("cpu")
    changed = {"budget": {"statistic": "p50", **budget}, "measure": asdict(target.measure) | measure}
    return Target.model_validate(target.model_dump() | changed)


BUDGETS = st.one_of(
    st.fixed_dictionaries({"speed_up": st.floats(1, 3)}),
    st.fixed_dictionaries({"macs_speed_up": st.floats(1, 3)}),
    st.fixed_dictionaries(
        {"latency_ms": st.floats(1, 3000), "statistic": st.sampled_from(["p50", "p90", "p95", "p99"])}
    ),
)


@settings(max_examples=60)
@given(
    budget=BUDGETS,
    rounds=st.one_of(st.integers(4, 40), st.sampled_from([1000, 100_000])),
    per_round=st.one_of(st.integers(1, 8), st.sampled_from([100, 10_000])),
    time_limit_s=st.sampled_from([1e-6, 0.5, 5.0, 60.0]),
    retries=st.integers(0, 2),
    ms=st.sampled_from([20.0, 150.0, 1200.0, 30_000.0]),
    gain=st.floats(0.8, 3),
)
def test_every_legal_measurement_ends_in_a_verdict_of_one_line(
    budget: dict[str, Any], rounds: int, per_round: int, time_limit_s: float, retries: int, ms: float, gain: float
) -> None:
    target = asking(budget, rounds=rounds, per_round=per_round, time_limit_s=time_limit_s, retries=retries)
    place = site(target, ClockedRuntime(ms, gain))
    judged = judge_latency(place, "engine", *ENGINES)
    assert judged.gate.verdict in Verdict
    assert judged.gate.reason and "\n" not in judged.gate.reason
    before, after = measure_pair(place, *ENGINES, effort=0.4)
    found = speed_up_of(before, after)
    assert found.low <= found.ratio <= found.high
    assert (found.high == np.inf) == (found.blocks < MIN_BLOCKS)
    summary(after)
    if target.budget.kind != "macs_speed_up":
        prober = Prober(place, ENGINES[0])
        prober.start_used()
        reading, *_ = prober.measure(ENGINES[1])
        assert 0 <= reading.used_low <= reading.used <= reading.used_high


@pytest.mark.parametrize("rounds", [4, 8, 16])
def test_few_rounds_are_raised_to_what_a_ratio_needs(rounds: int) -> None:
    runtime = ClockedRuntime(5.0, 2.0)
    judged = judge_latency(site(asking({"speed_up": 1.5}, rounds=rounds, retries=0), runtime), "engine", *ENGINES)
    assert judged.gate.verdict is Verdict.PASS
    assert runtime.rounds[0] >= MIN_BLOCK_PAIRS


@pytest.mark.parametrize(("gain", "verdict"), [(2.0, Verdict.PASS), (1.2, Verdict.FAIL)])
def test_a_model_of_a_second_is_judged_by_more_rounds_of_fewer_samples(gain: float, verdict: Verdict) -> None:
    runtime = ClockedRuntime(1200.0, gain)
    judged = judge_latency(site(asking({"speed_up": 1.5}), runtime), "engine", *ENGINES)
    assert judged.candidate.conditions.samples_per_block < 5
    assert judged.gate.verdict is verdict


def test_a_model_of_a_minute_is_inconclusive_and_says_how_many_would_do() -> None:
    judged = judge_latency(site(asking({"speed_up": 1.5}), ClockedRuntime(60_000.0, 2.0)), "engine", *ENGINES)
    assert judged.gate.verdict is Verdict.INCONCLUSIVE
    assert "more samples would settle it" in judged.gate.reason


def test_measuring_again_has_an_end() -> None:
    runtime = ClockedRuntime(20.0, 1.5)
    judged = judge_latency(site(asking({"speed_up": 1.5}, retries=20), runtime), "engine", *ENGINES)
    assert judged.gate.verdict is Verdict.INCONCLUSIVE
    assert len(runtime.rounds) == 21 and max(runtime.rounds) <= 16 * 60


@pytest.mark.parametrize(("unpruned", "looks"), [(False, 3), (True, 1)])
def test_a_budget_of_macs_is_measured_again_too_and_its_record_gives_the_same(unpruned: bool, looks: int) -> None:
    target, runtime = asking({"macs_speed_up": 1.5}, retries=2), ClockedRuntime(20.0, 1.0)
    build: Any = SimpleNamespace(
        site=site(target, runtime), target=target, dataset=None, facts=lambda kind: SimpleNamespace(unpruned=unpruned)
    )
    judged = _timed(build, *ENGINES)
    assert len(runtime.rounds) == looks
    (gate,) = judged.gates
    if unpruned:
        assert gate.verdict is Verdict.PASS
        return
    assert gate.verdict is Verdict.INCONCLUSIVE and "(measured 3 times)" in gate.reason
    measured = dict(judged.measurements)
    again = budget_gate(target, "engine", measured["baseline"], measured["candidate"])
    assert (again.verdict, again.value, again.limit) == (gate.verdict, gate.value, gate.limit)


def test_before_it_measures_again_it_waits_for_quiet_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr("edgeprune.measure.latency.wait_before_again", lambda site, *_: notes.append("waits"))
    place = site(asking({"speed_up": 1.5}, retries=2), ClockedRuntime(20.0, 1.5))
    place.reporter = SimpleNamespace(note=notes.append, progress=lambda *_, **__: None)
    judge_latency(place, "engine", *ENGINES)
    said = [note for note in notes if note == "waits" or "inconclusive" in note]
    assert [note == "waits" for note in said] == [False, True, False, True]
    assert all("times as many samples" in note for note in said[::2])


@settings(max_examples=200)
@given(st.integers(1, 10_000), st.integers(0, 40), st.floats(-100, 1e4), st.floats(1e-6, 1e3), st.booleans())
def test_samples_of_a_round_leave_room_for_the_rounds(
    wanted: int, least: int, left_s: float, turn_s: float, settle: bool
) -> None:
    count = samples_per_round(wanted, least, left_s, turn_s, settle)
    assert 1 <= count <= wanted
    assert count == 1 or count == wanted or least * (count + settle) * turn_s <= left_s * (1 + 1e-9)
