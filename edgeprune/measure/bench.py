"""The benchmark of one or several models: latency side by side, memory, layers, and an optional limit.

Takes ONNX files or engines and a runtime, gives a :class:`BenchResult`: raw samples, and everything that derives from
them. Prints nothing and writes nothing.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from edgeprune.errors import DataError, TargetError
from edgeprune.progress import Progress, silent
from edgeprune.runtimes.base import BenchSettings, LayerTime, Runtime
from edgeprune.samples.gates import PASS_CONFIDENCE, Gate, Verdict, latency_gate, overall
from edgeprune.samples.measurement import Measurement, launches_of
from edgeprune.samples.statistics import (
    FEWEST_BLOCKS,
    RatioInterval,
    Summary,
    quantile_of,
    ratio,
    samples_needed,
    summary,
    value_of,
)

TOP_LAYERS = 10
CONFIDENCE = 0.99  # of the bounds in tables; gates have their own
COLUMNS = (
    "model",
    "p50",
    "p90",
    "p95",
    "p99",
    "mean",
    "images/s",
    "size",
    "memory",
    "speed-up",
    "by CPU time",
    "state",
)
MIB = 2**20


@dataclass(frozen=True)
class ModelBench:
    """Everything measured of one model.

    Attributes:
        model: path as it was given.
        size_bytes: of the file.
        latency: raw samples in ms.
        summary: percentiles with upper bounds at 99 %, mean, throughput, stability.
        speed_up: first model's latency / this one's, with a 95 % interval; None for the first, or too few samples.
        cpu_speed_up: the same ratio of processor time, which other work on the machine hardly moves; None where a run
            is not one core's work. For people on shared machines; gates are on the clock.
        memory: peak memory in bytes of a process with this model alone; None where the runtime does not tell.
        layers: slowest layers first.
        end_to_end: milliseconds of pre-processing, model and post-processing for one frame, when it was asked for.
        gate: the verdict on the limit, if one was given.
    """

    model: Path
    size_bytes: int
    latency: Measurement
    summary: Summary
    speed_up: RatioInterval | None
    cpu_speed_up: RatioInterval | None
    memory: dict[str, float] | None
    layers: tuple[LayerTime, ...]
    end_to_end: dict[str, Any] | None
    gate: Gate | None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "model": str(self.model),
            "size_bytes": self.size_bytes,
            "latency": self.latency.to_json(),
            "summary": self.summary.to_json(),
            "speed_up": None if self.speed_up is None else asdict(self.speed_up),
            "cpu_speed_up": None if self.cpu_speed_up is None else asdict(self.cpu_speed_up),
            "memory": self.memory,
            "layers": [asdict(layer) for layer in self.layers],
            "end_to_end": self.end_to_end,
            "gate": None if self.gate is None else self.gate.to_json(),
        }


@dataclass(frozen=True)
class BenchResult:
    """A finished benchmark.

    Attributes:
        runtime: name of the runtime.
        models: in the order given; the first is the one that ratios are taken of.
        attempts: how often it was measured until it was settled; the last measurement is the one kept.
    """

    runtime: str
    models: tuple[ModelBench, ...]
    attempts: int

    @property
    def gates(self) -> list[Gate]:
        """The gates, one a model; empty when no limit was given."""
        return [model.gate for model in self.models if model.gate is not None]

    @property
    def exit_code(self) -> int:
        """0 without a limit; else that of the worst gate."""
        return overall(self.gates).exit_code if self.gates else 0

    def to_json(self) -> dict[str, Any]:
        """Plain data with every raw sample."""
        return {
            "schema_version": 1,
            "runtime": self.runtime,
            "attempts": self.attempts,
            "verdict": overall(self.gates).value if self.gates else None,
            "models": [model.to_json() for model in self.models],
        }

    def rows(self) -> list[tuple[str, ...]]:
        """A row of text a model, under :data:`COLUMNS`; bounds stand behind their percentile as ``≤``."""
        return [_row(model) for model in self.models]

    def _repr_html_(self) -> str:
        """The table, in a notebook."""
        head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows())
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def to_csv(self) -> str:
        """Raw samples, one a line: model, sample, milliseconds."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("model", "sample", "ms"))
        for model in self.models:
            writer.writerows((str(model.model), number, value) for number, value in enumerate(model.latency.values))
        return text.getvalue()


def bench(
    models: Sequence[Path],
    runtime: Runtime,
    settings: BenchSettings | None = None,
    *,
    max_ms: float | None = None,
    statistic: str = "p95",
    retries: int = 0,
    until_stable: bool = False,
    details: bool = True,
    image: Path | None = None,
    end_to_end: bool = False,
    progress: Progress = silent,
) -> BenchResult:
    """Time models side by side in one fresh process.

    Args:
        models: ONNX files or engines; ratios are of the first.
        runtime: what runs them.
        settings: how to sample.
        max_ms: limit on ``statistic`` for every model.
        statistic: a percentile, such as ``p95``.
        retries: how often an INCONCLUSIVE limit is measured again, with twice the samples each time. Every look gets
            its share of the error, so that trying again does not make a wrong PASS likelier.
        until_stable: measure again, within ``retries``, also while a run was unsteady.
        details: memory and layers as well.
        image: frame for the end-to-end time; noise of 1280 x 720 when not given.
        end_to_end: time pre-processing, model and post-processing apart as well (detectors only).
        progress: who watches.

    Raises:
        DataError: a model that is not an ONNX file or an engine.
        TargetError: a statistic or limit that is none.
        DeviceError: the runtime is missing.
    """
    paths = [Path(model) for model in models]
    settings = settings or BenchSettings()
    _check(paths, statistic, max_ms, retries)
    confidence = 1 - (1 - PASS_CONFIDENCE) / (retries + 1)
    if max_ms is not None:
        settings = replace(settings, rounds=max(settings.rounds, least_rounds(statistic, confidence, settings)))
    attempt = 0
    while True:
        attempt += 1
        measured = runtime.latency(paths, settings, progress=progress)
        gates: list[Gate | None] = [
            None if max_ms is None else latency_gate("bench", one, max_ms, statistic, confidence) for one in measured
        ]
        summaries = [
            summary(one.values, batch=int(one.conditions.get("batch", 1)), confidence=CONFIDENCE) for one in measured
        ]
        open_ = any(gate is not None and gate.verdict is Verdict.INCONCLUSIVE for gate in gates)
        unsteady = until_stable and not all(found.stability.stable for found in summaries)
        if attempt > retries or not (open_ or unsteady):
            break
        settings = replace(settings, rounds=settings.rounds * 2, time_limit_s=settings.time_limit_s * 2)
    rows, launches = [], launches_of(measured[0])
    for number, path in enumerate(paths):
        if details:
            progress(f"memory and layers of {path.name}", done=number, total=len(paths))
        memory = runtime.peak_memory(path, threads=settings.threads) if details else None
        layers = runtime.layer_times(path, threads=settings.threads) if details else []
        rows.append(
            ModelBench(
                model=path,
                size_bytes=path.stat().st_size,
                latency=measured[number],
                summary=summaries[number],
                speed_up=_speed_up(measured[0].values, measured[number].values, settings, launches) if number else None,
                cpu_speed_up=_speed_up(_cpu_ms(measured[0]), _cpu_ms(measured[number]), settings, launches)
                if number
                else None,
                memory=memory,
                layers=tuple(sorted(layers, key=lambda layer: -layer.mean_ms)[:TOP_LAYERS]),
                end_to_end=runtime.end_to_end(path, image=image, threads=settings.threads) if end_to_end else None,
                gate=gates[number],
            )
        )
    return BenchResult(runtime.name, tuple(rows), attempt)


def _check(paths: Sequence[Path], statistic: str, max_ms: float | None, retries: int) -> None:
    if not paths:
        raise TargetError("no model to measure; give at least one ONNX file or engine")
    for path in paths:
        if path.suffix == ".pt":
            raise DataError(f"{path}: is a checkpoint; export it first: yolo export model={path} format=onnx imgsz=640")
        if path.suffix not in (".onnx", ".engine"):
            raise DataError(f"{path}: is not a model to measure; allowed: .onnx, .engine")
        if not path.is_file():
            raise DataError(f"{path}: no such file")
    try:
        quantile_of(statistic)
    except ValueError as error:
        raise TargetError(f"--statistic: {error}") from None
    if max_ms is not None and not 0 < max_ms < float("inf"):
        raise TargetError(f"--max-ms {max_ms}: a positive number of milliseconds is needed")
    if retries < 0:
        raise TargetError(f"--retries {retries}: 0 or more")


def least_rounds(statistic: str, confidence: float, settings: BenchSettings) -> int:
    """Rounds that can settle the statistic at all, with half as many again for samples that depend on each other."""
    return -(-samples_needed(quantile_of(statistic), confidence) * 3 // 2 // settings.per_round)


def _speed_up(
    first: Sequence[float], other: Sequence[float], settings: BenchSettings, launches: int
) -> RatioInterval | None:
    if len(other) < FEWEST_BLOCKS * settings.per_round:
        return None
    return ratio(first, other, block=settings.per_round, launches=launches)


def _cpu_ms(measurement: Measurement) -> Sequence[float]:
    return measurement.conditions.get("cpu_ms", ())


def _row(model: ModelBench) -> tuple[str, ...]:
    found = model.summary

    def with_bound(value: float, bound: float | None) -> str:
        return f"{value:.2f}" + (f" (≤ {bound:.2f})" if bound is not None else "")

    return (
        model.model.name,
        with_bound(found.p50, found.p50_bound),
        with_bound(found.p90, found.p90_bound),
        with_bound(found.p95, found.p95_bound),
        with_bound(found.p99, found.p99_bound),
        f"{found.mean:.2f}",
        f"{found.throughput:.1f}",
        f"{model.size_bytes / MIB:.1f} MiB",
        f"{model.memory['model_rss_bytes'] / MIB:.0f} MiB" if model.memory else "–",
        _interval(model.speed_up),
        _interval(model.cpu_speed_up),
        "steady" if found.stability.stable else found.stability.reason,
    )


def _interval(found: RatioInterval | None) -> str:
    return f"×{found.ratio:.3f} ({found.low:.3f} to {found.high:.3f})" if found else "–"


def end_to_end_text(found: dict[str, Any]) -> str:
    """Medians of the parts on one line."""
    parts = {name: value_of(values, "p50") for name, values in found["ms"].items()}
    total = value_of([sum(run) for run in zip(*found["ms"].values(), strict=True)], "p50")
    height, width = found["frame"]
    listed = " + ".join(f"{name} {value:.2f}" for name, value in parts.items())
    return f"end to end p50 {total:.2f} ms = {listed} (frame {width} x {height}, {found['boxes']} boxes)"
