"""How much of a budget a probe takes, on a host whose clock drifts between probes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeprune.progress import Silent
from edgeprune.samples.conditions import CoreState, DeviceState
from edgeprune.samples.gates import MIN_BLOCK_PAIRS, Verdict, budget_gate
from edgeprune.samples.measurement import Measurement
from edgeprune.search.budget import _out_of_reach, search_gate
from edgeprune.search.prober import Prober
from edgeprune.search.probing import Candidate, Probe, Reading, run_probes
from edgeprune.target import Target, load_target
from edgeprune.target.schema import BUDGET_WINDOW
from tests.samples.made import latency


class DriftingRuntime:
    """A device that takes ``ms`` for an engine of that name, times the host's level of the moment."""

    def __init__(self, levels: list[float]) -> None:
        self.levels, self.dice = list(levels), np.random.default_rng(0)

    def latency(self, engines: list[Path], settings: Any, *, progress: Any) -> list[Measurement]:
        level = self.levels.pop(0)
        return [latency(float(engine.stem) * level * self.dice.normal(1, 0.005, 300)) for engine in engines]


def site(target: Target, levels: list[float]) -> Any:
    here = SimpleNamespace(name="local")
    return SimpleNamespace(target=target, runtime=DriftingRuntime(levels), seed=0, reporter=Silent(), device=here)


@pytest.mark.parametrize("statistic", ["p50", "p95"])
def test_drift_of_the_host_does_not_move_a_budget_in_milliseconds(statistic: str) -> None:
    target = load_target("cpu").with_overrides(latency_ms=5.3)
    target = target.model_copy(update={"budget": target.budget.model_copy(update={"statistic": statistic})})
    prober = Prober(site(target, [1.0, 1.0, 1.15, 0.9, 1.1, 1.0]), Path("10.onnx"))
    assert prober.start_used()[:2] == pytest.approx((10 / 5.3, 10 / 5.3), rel=0.03)
    judged = [prober.measure(Path("5.onnx")) for _ in range(5)]
    assert [reading.used for reading, *_ in judged] == pytest.approx([5 / 5.3] * 5, rel=0.06)
    assert judged[1][1].drift == pytest.approx(1.15, rel=0.02)
    assert all(reading.speed_up_low > 1.9 for reading, *_ in judged)


def test_samples_that_walk_far_inside_a_budget_bound_it() -> None:
    """Neighbours that move together are worth two samples, which bound nothing: every sample's own height does."""
    walking = SimpleNamespace(latency=lambda *_, **__: [latency(np.linspace(10, 14, 160))])
    cpu = load_target("cpu")
    for limit, high in ((100, 0.14), (20, math.inf)):
        place = SimpleNamespace(target=cpu.with_overrides(latency_ms=limit), runtime=walking, seed=0, reporter=Silent())
        assert Prober(place, Path("10.onnx")).start_used()[1] == pytest.approx(high)  # pyright: ignore[reportArgumentType]


def test_what_is_timed_again_waits_for_other_work_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[tuple[float, int]] = []
    monkeypatch.setattr("edgeprune.measure.latency.wait_for_quiet", lambda s, cores, note: waited.append((s, cores)))
    target = load_target("cpu").with_overrides(speed_up=1.9)
    target = target.model_copy(update={"measure": replace(target.measure, quiet_wait_s=7.0)})
    place = site(target, [1.0, 1.0, 1.0])
    for device, attempts, waits in (("local", (0,), 0), ("ssh", (1,), 0), ("local", (1,), 1)):
        place.device = SimpleNamespace(name=device)
        for attempt in attempts:
            Prober(place, Path("10.onnx")).measure(Path("5.onnx"), attempt)
        assert len(waited) == waits
    assert waited == [(7.0, target.measure.threads)]


def made(runtime: Any, budget: dict[str, float], statistic: str = "p50") -> Prober:
    target = load_target("cpu").with_overrides(**budget)  # pyright: ignore[reportArgumentType]
    place = site(target.changed({"budget.statistic": statistic}), [])
    place.runtime = runtime
    return Prober(place, Path("20.onnx"))


def verdict_of(prober: Prober) -> tuple[Probe, Any]:
    reading, _, raw = prober.measure(Path("9.166.onnx"))
    probe = Probe(Candidate("one", 0.4, 1.0, False), 0.9, reading, 2.0)
    return probe, search_gate(prober.site.target.budget, probe, raw)


def test_what_holds_only_when_drift_is_corrected_is_judged_by_its_plain_milliseconds() -> None:
    """11 ms of a budget of 10 beside an unpruned model at 24 ms, which takes 20 otherwise: 9.17 is nobody's latency."""
    prober = made(DriftingRuntime([1.0, 1.0, 1.2]), {"latency_ms": 10})
    prober.start_used()
    probe, quiet = verdict_of(prober)
    assert quiet.verdict is Verdict.PASS and probe.holds
    probe, gate = verdict_of(prober)
    assert probe.holds, "the plan is chosen by the corrected figure"
    assert gate.verdict is Verdict.FAIL and gate.value == pytest.approx(11.0, rel=0.01)
    assert "drift-corrected 9.1" in gate.reason and "search again" in gate.reason


@pytest.mark.parametrize("budget", [{"latency_ms": 10.0}, {"speed_up": 2.0}])
@pytest.mark.parametrize("seen", ["throttled", "a step"])
def test_a_probe_is_as_sure_as_the_gate_of_a_build(budget: dict[str, float], seen: str) -> None:
    class Disturbed:
        """Throttled, or with a step in both models at once, which the ratio does not show."""

        def latency(self, engines: list[Path], settings: Any, *, progress: Any) -> list[Measurement]:
            dice = np.random.default_rng(0)
            steps = np.where(np.arange(200) < 120, 1.0, 1.0 if seen == "throttled" else 0.8)
            device = DeviceState(throttled=seen == "throttled")
            return [latency(float(one.stem) * steps * dice.normal(1, 0.005, 200), device=device) for one in engines]

    prober = made(Disturbed(), budget)
    target = prober.site.target
    before, after = Disturbed().latency([Path("20.onnx"), Path("9.166.onnx")], None, progress=None)
    expected = budget_gate(target, "search", before, after).verdict
    probe, gate = verdict_of(prober)
    assert gate.verdict is expected and probe.holds is (expected is Verdict.PASS)
    assert (expected is Verdict.PASS) is (seen == "a step" and "speed_up" in budget)


@pytest.mark.parametrize("limit", [21.0, 45.0])
def test_the_unpruned_model_of_a_throttled_device_decides_nothing(limit: float) -> None:
    class Throttled:
        def latency(self, engines: list[Path], settings: Any, *, progress: Any) -> list[Measurement]:
            device = DeviceState(throttled=True)
            return [latency(np.random.default_rng(0).normal(20, 0.1, 200), device=device) for _ in engines]

    start = made(Throttled(), {"latency_ms": limit}).start_used()
    assert start.used_high < 1 and start.undecided


def test_a_ratio_needs_no_reference() -> None:
    target = load_target("cpu").with_overrides(speed_up=1.9)
    prober = Prober(site(target, [1.3]), Path("10.onnx"))
    assert prober.start_used() == (1.9, 1.9, None)
    reading, *_ = prober.measure(Path("5.onnx"))
    assert reading.used == pytest.approx(0.95, rel=0.01)
    assert reading.used_low < reading.used < reading.used_high < 1
    assert not reading.unsteady


@pytest.mark.parametrize("budget", [{"speed_up": 3.0}, {"latency_ms": 10 / 3}])
def test_a_budget_may_speak_of_another_model_than_the_one_that_is_pruned(budget: Any) -> None:
    """Of 10 ms a lower number format takes 5: what is left of a ratio of 3 is 1.5, and the engines keep their sizes."""
    seen: list[Any] = []

    class Recording(DriftingRuntime):
        def latency(self, engines: list[Path], settings: Any, *, progress: Any) -> list[Measurement]:
            seen.append((len(engines), settings.batch, settings.imgsz))
            return super().latency(engines, settings, progress=progress)

    target = load_target("cpu").with_overrides(**budget)
    target = target.model_copy(update={"budget": target.budget.model_copy(update={"statistic": "p50"})})
    place = site(target, [])
    place.runtime = Recording([1.0, 1.1])
    prober = Prober(place, Path("10.onnx"), unpruned=Path("5.onnx"))
    used, high, _ = prober.start_used()
    assert used == pytest.approx(1.5, rel=0.02) and high >= used
    assert prober.measure(Path("3.2.onnx"))[0].used == pytest.approx(0.96, rel=0.05)
    assert seen == [(2, 0, None), (2, 0, None)]


@pytest.mark.parametrize(
    ("unpruned", "candidate", "holds", "misses"),
    [(7, 3.8, True, False), (7, 4.4, False, True), (3.6, 3.8, False, True)],
    ids=["in the window", "over the budget", "slower than it was unpruned"],
)
@pytest.mark.parametrize("known", [False, True], ids=["measured", "known"])
def test_of_a_larger_checkpoint_than_the_reference_faster_is_than_its_own_unpruned_form(
    unpruned: float, candidate: float, holds: bool, misses: bool, known: bool
) -> None:
    """Of a budget of 4 ms the reference takes 3: whatever is pruned to it from 7 is slower than the reference."""
    prober = made(DriftingRuntime([1.0, 1.0]), {"latency_ms": 4.0})
    prober.baseline, prober.unpruned = Path("3.onnx"), Path(f"{unpruned}.onnx")
    if known:
        prober.unpruned_used = unpruned / 4
    else:
        assert prober.start_used().used == pytest.approx(unpruned / 4, rel=0.02)
    reading, latency_, raw = prober.measure(Path(f"{candidate}.onnx"))
    probe = Probe(Candidate("one", 0.5, 1.0, True), 0.95, reading, unpruned / 4)
    assert latency_.speed_up < 0.8, "to the reference"
    assert reading.speed_up_low < unpruned / candidate < reading.speed_up_high
    assert (probe.holds, probe.misses) == (holds, misses)
    if holds:
        assert search_gate(prober.site.target.budget, probe, raw).verdict is Verdict.PASS
    if unpruned == 7:
        refusal = _out_of_reach(prober.site.target.budget, probe, latency_, "")
        assert "ask for --latency-ms" in refusal and "not faster" not in refusal


def test_on_a_shared_core_the_share_of_the_budget_is_told_by_processor_time() -> None:
    """The clock's gain is ×2.6, the processor's ×2.4: a search that believed the clock would end 8 % short."""

    class Shared:
        simulated = False

        def latency(self, engines: list[Path], settings: Any, *, progress: Any) -> list[Measurement]:
            dice = np.random.default_rng(0)
            cpu = [float(engine.stem) * dice.normal(1, 0.005, 200) for engine in engines]
            clock = [ms * 2.0 * (2.6 / 2.4 if number == 0 else 1.0) for number, ms in enumerate(cpu)]
            return [
                latency(whole, core=CoreState(share=0.5, contended=True, cpu_ms=tuple(own)))
                for whole, own in zip(clock, cpu, strict=True)
            ]

    place = site(load_target("cpu").with_overrides(speed_up=2.6), [])
    place.runtime = Shared()
    reading, *_ = Prober(place, Path("12.onnx")).measure(Path("5.onnx"))
    assert reading.used == pytest.approx(2.6 / 2.4, rel=0.01)
    assert reading.used_low < 1 < reading.used_high


@pytest.mark.parametrize(("budget", "rounds"), [({"speed_up": 2.0}, MIN_BLOCK_PAIRS), ({"latency_ms": 10.0}, 8)])
def test_only_a_ratio_needs_as_many_rounds_as_a_verdict_on_it_takes(budget: dict[str, float], rounds: int) -> None:
    asked: list[int] = []

    class Recording(DriftingRuntime):
        def latency(self, engines: list[Path], settings: Any, *, progress: Any) -> list[Measurement]:
            asked.append(settings.rounds)
            return super().latency(engines, settings, progress=progress)

    prober = made(Recording([1.0, 1.0]), budget)
    prober.site.target = prober.site.target.changed({"measure.rounds": 20})
    prober.measure(Path("5.onnx"))
    assert asked == [rounds]


def test_what_moves_both_models_within_a_probe_neither_prunes_harder_nor_measures_longer() -> None:
    class Drifting:
        """6 % slower at the end of every measurement than at its beginning."""

        dice = np.random.default_rng(0)

        def latency(self, engines: list[Path], settings: Any, *, progress: Any) -> list[Measurement]:
            drift = np.linspace(0.97, 1.03, 300)
            return [latency(float(one.stem) * drift * self.dice.normal(1, 0.03, 300)) for one in engines]

    prober, measured = made(Drifting(), {"latency_ms": 10.0}), list[Any]()
    start = prober.start_used().used

    def measure(candidate: Candidate, predicted: float, attempt: int) -> Reading:
        measured.append(prober.measure(Path(f"{20 * candidate.share:.6f}.onnx"), attempt))
        return measured[-1][0]

    found = run_probes(lambda share: Candidate(share, share, 1 / share, False), measure, start_used=start)
    assert found.best is not None and found.best.holds
    assert BUDGET_WINDOW[0] <= found.best.reading.used and len(measured) == 1
    assert measured[0][2].verdict is Verdict.INCONCLUSIVE, "the verdict is on plain milliseconds"


def test_a_search_in_milliseconds_on_a_drifting_host_lands() -> None:
    levels = [1.0, 1.12, 0.95, 1.1, 1.0, 0.93, 1.05]
    prober = Prober(site(load_target("cpu").with_overrides(latency_ms=4.0), levels), Path("10.onnx"))
    start = prober.start_used().used

    def solve(share: float) -> Candidate:
        return Candidate(share, share, 1 / share, False)

    def measure(candidate: Candidate, predicted: float, attempt: int) -> Reading:
        return prober.measure(Path(f"{10 * candidate.share**0.9:.6f}.onnx"), attempt)[0]

    result = run_probes(solve, measure, start_used=start)
    assert result.best is not None
    assert BUDGET_WINDOW[0] <= result.best.reading.used <= BUDGET_WINDOW[1]
    assert 10 * result.best.candidate.share**0.9 <= 4.0 * 1.04


@pytest.mark.parametrize("retries", [0, 2])
def test_a_search_is_surer_of_each_look_than_a_gate_that_is_held_once(retries: int) -> None:
    """Just within the budget by one gate's confidence, and not by that of one look of many."""
    target = load_target("cpu").with_overrides(speed_up=2.0).changed({"measure.retries": retries})

    class Same:
        def latency(self, engines: list[Path], settings: Any, *, progress: Any) -> list[Measurement]:
            dice = np.random.default_rng(3)
            return [latency(float(engine.stem) * dice.normal(1, 0.02, 300)) for engine in engines]

    place = site(target, [])
    place.runtime = Same()
    prober = Prober(place, Path("20.onnx"))
    verdicts = []
    for ms in np.linspace(9.5, 9.95, 46):
        before, after = Same().latency([Path("20.onnx"), Path(f"{ms:.4f}.onnx")], None, progress=None)
        once = budget_gate(target, "search", before, after, 0).verdict
        verdicts.append((once, prober.measure(Path(f"{ms:.4f}.onnx"))[2].verdict))
    assert (Verdict.PASS, Verdict.INCONCLUSIVE) in verdicts
    assert (Verdict.INCONCLUSIVE, Verdict.PASS) not in verdicts
