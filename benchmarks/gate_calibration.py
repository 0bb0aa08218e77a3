"""How often the gates are wrong, by simulation where the truth is known; writes gate_calibration.md beside itself.

    python benchmarks/gate_calibration.py            # 2,000 runs a row, a few minutes
    python benchmarks/gate_calibration.py --runs 200 # a quick look, the table is printed only
    python benchmarks/gate_calibration.py --seed 7   # other draws, printed only

A wrong PASS is counted where it is easiest to get: the true percentile lies over the limit by 0.1 %, the true ratio
under it by 0.1 %. A wrong FAIL likewise from the other side. "useful" tells that the gates do decide: the share of runs
decided rightly when the limit is 10 % away. "retried" is a gate as a build has it: while it is INCONCLUSIVE it is
measured anew, twice at most, with twice the samples each time. The samples come from three processes, as a build's do,
and each of them loads a model where it is a little faster or slower (bench_resolution.md); the truth is over all of
these places.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeprune.samples.conditions import Conditions
from edgeprune.samples.gates import (
    FAIL_CONFIDENCE,
    PASS_CONFIDENCE,
    Gate,
    Verdict,
    fail_confidence,
    latency_gate,
    pass_confidence,
    speed_up_gate,
)
from edgeprune.samples.measurement import Measurement
from edgeprune.settings import LAUNCHES

SAMPLES = 300  # 60 rounds of 5: what p95 is measured with
RETRIES = 2  # of a build, by default
PLACEMENT = 0.0057 / np.sqrt(2)  # spread of one load; of the difference of two it is 0.57 %
EDGE = 1e-3
AWAY = 0.10
Draw = Callable[[np.random.Generator, int], np.ndarray]


def normal(generator: np.random.Generator, n: int) -> np.ndarray:
    """A quiet device: 10 ms, 3 % spread."""
    return generator.normal(10, 0.3, n)


def long_tail(generator: np.random.Generator, n: int) -> np.ndarray:
    """A preempted process: one sample in twelve is late by an exponential delay of 5 ms."""
    return generator.normal(10, 0.2, n) + np.where(generator.random(n) < 1 / 12, generator.exponential(5, n), 0)


def lognormal(generator: np.random.Generator, n: int) -> np.ndarray:
    """Skewed noise, 15 %."""
    return 10 * generator.lognormal(0, 0.15, n)


def bimodal(generator: np.random.Generator, n: int) -> np.ndarray:
    """Two paths through the runtime: 10 ms, and 13 ms in four runs of ten."""
    return np.where(generator.random(n) < 0.4, generator.normal(13, 0.3, n), generator.normal(10, 0.3, n))


def neighbours(generator: np.random.Generator, n: int) -> np.ndarray:
    """Samples that resemble the one before (autoregressive, 0.5), 3 % spread."""
    noise = generator.normal(0, 0.3 * np.sqrt(1 - 0.25), n)
    values = np.empty(n)
    values[0] = generator.normal(0, 0.3)
    for i in range(1, n):
        values[i] = 0.5 * values[i - 1] + noise[i]
    return 10 + values


STEADY: dict[str, Draw] = {
    "normal": normal,
    "long tail": long_tail,
    "lognormal": lognormal,
    "bimodal": bimodal,
    "correlated": neighbours,
}


def drifting(by: float, base: Draw = normal) -> Draw:
    """Latency that grows by this share from the first sample to the last."""
    return lambda generator, n: base(generator, n) * np.linspace(1, 1 + by, n)


def throttled(by: float, base: Draw = normal) -> Draw:
    """Latency that steps up by this share at a random place between 20 % and 80 % of the run."""

    def draw(generator: np.random.Generator, n: int) -> np.ndarray:
        at = int(n * generator.uniform(0.2, 0.8))
        return base(generator, n) * np.where(np.arange(n) < at, 1, 1 + by)

    return draw


MOVING: dict[str, Draw] = {
    "drift of 10 %": drifting(0.10),
    "drift of 20 %": drifting(0.20),
    "drift of 20 %, long tail": drifting(0.20, long_tail),
    "throttle step of 10 %": throttled(0.10),
    "throttle step of 25 %": throttled(0.25),
    "throttle step of 25 %, long tail": throttled(0.25, long_tail),
    "throttle step of 25 %, lognormal": throttled(0.25, lognormal),
}


@dataclass(frozen=True)
class Row:
    """Shares of runs; None where the column does not apply."""

    gate: str
    distribution: str
    wrong_pass: float | None
    wrong_fail: float | None
    useful: float | None
    inconclusive: float | None


def latency(values: np.ndarray) -> Measurement:
    """Samples as a runtime would hand them over."""
    conditions = Conditions(
        identity={},
        runtime="simulation",
        provider="simulation",
        threads=1,
        batch=1,
        shapes={},
        scope="model",
        copies=True,
        cuda_graph=False,
        samples_per_block=5,
        launches=(len(values) // LAUNCHES,) * LAUNCHES,
    )
    return Measurement("latency", "ms", tuple(values.tolist()), conditions)


def placed(generator: np.random.Generator, values: np.ndarray, launches: int = LAUNCHES) -> np.ndarray:
    """Samples from so many processes, one after the other, each of which drew its places in memory."""
    return values * np.repeat(np.exp(generator.normal(0, PLACEMENT, launches)), len(values) // launches)


def share(verdicts: list[Gate], verdict: Verdict) -> float:
    """How many of the gates ended so."""
    return sum(gate.verdict is verdict for gate in verdicts) / len(verdicts)


def latency_row(name: str, statistic: str, runs: int, seed: int = 0, retries: int = 0) -> Row:
    """Calibration of the latency gate on one steady distribution, measured again while it is INCONCLUSIVE."""
    generator = np.random.default_rng(seed)
    count = 2_000_000 if name != "correlated" else 200_000
    everywhere = placed(generator, STEADY[name](generator, count), launches=count // 10)
    truth = float(np.quantile(everywhere, float(statistic[1:]) / 100))
    confidence, against = pass_confidence(retries), fail_confidence(retries)
    gates: dict[float, list[Gate]] = {-EDGE: [], EDGE: [], -AWAY: [], AWAY: []}
    for _ in range(runs):
        looks = [
            latency(placed(generator, STEADY[name](generator, SAMPLES * 2**attempt))) for attempt in range(retries + 1)
        ]
        for offset, kept in gates.items():
            tried = (
                latency_gate("engine", look, truth * (1 + offset), statistic, confidence, against) for look in looks
            )
            kept.append(
                next(one for i, one in enumerate(tried) if one.verdict is not Verdict.INCONCLUSIVE or i == retries)
            )
    return Row(
        f"latency {statistic}{', retried' if retries else ''}",
        name,
        share(gates[-EDGE], Verdict.PASS),
        share(gates[EDGE], Verdict.FAIL),
        (share(gates[-AWAY], Verdict.FAIL) + share(gates[AWAY], Verdict.PASS)) / 2,
        None,
    )


def speed_up_row(name: str, runs: int, seed: int = 0) -> Row:
    """Calibration of the speed-up gate: a candidate twice as fast, both under a common drift of 20 %."""
    generator = np.random.default_rng(seed)
    gates: dict[float, list[Gate]] = {-EDGE: [], EDGE: [], -AWAY: [], AWAY: []}
    common = np.linspace(1, 1.2, SAMPLES)
    for _ in range(runs):
        baseline = latency(placed(generator, STEADY[name](generator, SAMPLES) * common))
        candidate = latency(placed(generator, STEADY[name](generator, SAMPLES) * common / 2))
        for offset, kept in gates.items():
            kept.append(speed_up_gate("engine", baseline, candidate, 2 * (1 + offset)))
    return Row(
        "speed-up",
        f"{name}, common drift",
        share(gates[EDGE], Verdict.PASS),
        share(gates[-EDGE], Verdict.FAIL),
        (share(gates[-AWAY], Verdict.PASS) + share(gates[AWAY], Verdict.FAIL)) / 2,
        None,
    )


def moving_row(name: str, runs: int, seed: int = 0) -> Row:
    """How often a run that moved is INCONCLUSIVE, whatever the limit (here 30 % above and 30 % below 10 ms)."""
    generator = np.random.default_rng(seed)
    gates = []
    for run in range(runs):
        measured = latency(MOVING[name](generator, SAMPLES))
        gates.append(latency_gate("engine", measured, 13.0 if run % 2 else 7.0, "p95"))
    return Row("latency p95", name, None, None, None, share(gates, Verdict.INCONCLUSIVE))


def rows(runs: int, seed: int) -> list[Row]:
    """Every row of the table, over the machine's cores."""
    with ProcessPoolExecutor() as pool:
        jobs = [
            pool.submit(latency_row, name, statistic, runs, seed)
            for statistic in ("p50", "p90", "p95")
            for name in STEADY
        ]
        jobs += [
            pool.submit(latency_row, name, statistic, runs, seed, RETRIES)
            for statistic in ("p50", "p95")
            for name in STEADY
        ]
        jobs += [pool.submit(speed_up_row, name, runs, seed) for name in STEADY]
        jobs += [pool.submit(moving_row, name, runs, seed) for name in MOVING]
        return [job.result() for job in jobs]


def table(found: list[Row], runs: int) -> str:
    """The table in Markdown."""

    def cell(value: float | None) -> str:
        return "" if value is None else f"{value:.1%}"

    lines = [
        "# Calibration of the gates by simulation",
        "",
        f"`python benchmarks/gate_calibration.py --runs {runs}`: {runs} runs a row, {SAMPLES} samples a run from "
        f"{LAUNCHES} processes, each of which",
        f"is {PLACEMENT:.1%} (standard deviation) faster or slower by where its memory lies. PASS at "
        f"{PASS_CONFIDENCE:.1%}, FAIL at {FAIL_CONFIDENCE:.0%} confidence.",
        f"Wrong verdicts are counted with the truth {EDGE:.1%} on the other side of the",
        'limit, where they are likeliest; a retried gate has a third of either error a look. "decided" is the share of',
        f"right verdicts with the limit {AWAY:.0%} away.",
        f"A share of 1 % has a standard error of {(0.01 * 0.99 / runs) ** 0.5:.2%} over these runs.",
        "",
        "| gate | distribution | wrong PASS | wrong FAIL | decided | INCONCLUSIVE |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in found:
        cells = (row.wrong_pass, row.wrong_fail, row.useful, row.inconclusive)
        lines.append(f"| {row.gate} | {row.distribution} | " + " | ".join(cell(value) for value in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compute, print, and write the table when the run was long enough to be kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    runs = asked.runs
    text = table(rows(runs, asked.seed), runs)
    print(text)
    if runs >= 2000 and asked.seed == 0:
        Path(__file__).with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
