"""Several budgets side by side: each is pruned, fine-tuned and measured, as a job that depends on no other.

A job's three steps take and give plain data and the bytes of checkpoints, so that they can run in this process or
anywhere: search (on the device), fine-tune (where a GPU is), measure (on the device). Finished points are kept in the
sweep's folder and are not run again.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgeprune.artifact import write_atomically
from edgeprune.errors import EdgepruneError, TargetError
from edgeprune.stages.base import Reporter, Silent
from edgeprune.sweep.alone import opened, search
from edgeprune.target import Target, load_target

JOBS = ("here", "ray")
VERSION = 1
COLUMNS = ("model", "budget", "ms", "speed-up", "accuracy", "MACs", "parameters", "note")


@dataclass(frozen=True)
class Job:
    """One point of a sweep; plain data.

    Attributes:
        name: for people and files.
        weights: the checkpoint's bytes.
        target: the profile as plain data, its budget included.
        data: dataset YAML, the same path on every machine.
        digest: of the dataset's content.
        seed: of everything drawn.
        trust: load a checkpoint with foreign classes.
        cache: folder of measured profiles on the machine with the device.
        pruned: False for a model that is only measured.
        epochs: of fine-tuning; 0 for none.
    """

    name: str
    weights: bytes
    target: dict[str, Any]
    data: str
    digest: str
    seed: int
    trust: bool
    cache: str
    pruned: bool
    epochs: int

    @property
    def key(self) -> str:
        """Digest of everything that the result depends on."""
        content = {k: v for k, v in asdict(self).items() if k not in ("weights", "cache", "name", "data")}
        content["weights"] = hashlib.sha256(self.weights).hexdigest()
        return hashlib.sha256(json.dumps([VERSION, content], sort_keys=True, default=str).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Point:
    """One finished point.

    Attributes:
        name: of the model or the budget.
        budget: as text; empty for an unpruned model.
        ms: the budget's statistic of its latency.
        speed_up: latency of the swept model over its own, measured side by side.
        accuracy: of the engine, by the target's runtime.
        macs: MACs of the swept model over its own; 1.0 for unpruned models.
        parameters: of its checkpoint.
        note: probes that the search took.
        failed: why there is no point, else None.
    """

    name: str
    budget: str
    ms: float = 0.0
    speed_up: float = 0.0
    accuracy: float = 0.0
    macs: float = 1.0
    parameters: int = 0
    note: str = ""
    failed: str | None = None

    def row(self) -> tuple[str, ...]:
        """Text under :data:`COLUMNS`."""
        if self.failed is not None:
            return self.name, self.budget, "–", "–", "–", "–", "–", self.failed
        figures = (f"{self.ms:.2f}", f"×{self.speed_up:.3f}", f"{self.accuracy:.4f}", f"×{self.macs:.2f}")
        return self.name, self.budget, *figures, f"{self.parameters / 1e6:.3f} M", self.note


@dataclass(frozen=True)
class Sweep:
    """All points: the unpruned models first, the swept one at their head."""

    unpruned: tuple[Point, ...]
    points: tuple[Point, ...]
    statistic: str
    metric: str

    def rows(self) -> list[tuple[str, ...]]:
        """A row of text a point, under :data:`COLUMNS`."""
        return [point.row() for point in (*self.unpruned, *self.points)]


Runner = Callable[[Sequence[Job], bytes, Callable[[Job, dict[str, Any]], None]], None]
"""Runs jobs against the bytes of the swept model and hands over each result (a :class:`Point` as plain data) when it is
there; nothing is lost when it ends early."""


def run_sweep(
    weights: str | Path,
    target: str | Path | Target,
    data: str | Path,
    out: str | Path,
    *,
    budgets: Sequence[tuple[str, float]],
    unpruned: Sequence[str | Path] = (),
    epochs: int | None = None,
    imgsz: int | None = None,
    jobs: str = "here",
    seed: int = 0,
    trust: bool = False,
    reporter: Reporter | None = None,
) -> Sweep:
    """Prune, fine-tune and measure a model for several budgets; write ``sweep.md``, ``sweep.json``, ``sweep.html``.

    Args:
        weights: the checkpoint to prune.
        target: name or path of a profile, or a target; its budget is replaced.
        data: dataset YAML.
        out: folder for all of it; finished points in it are taken as they are.
        budgets: (``latency_ms`` or ``speed_up``, value) each.
        unpruned: checkpoints of other scales, measured for comparison.
        epochs: of every fine-tuning; the profile's when not given, 0 for none.
        imgsz: replaces the profile's image side, pixels.
        jobs: ``here`` or ``ray``.
        seed: of everything drawn.
        trust: load checkpoints with foreign classes.
        reporter: who watches.

    Raises:
        TargetError: a wrong argument.
        DataError: weights or dataset are unreadable.
    """
    if jobs not in JOBS:
        raise TargetError(f"--jobs {jobs}: allowed are {', '.join(JOBS)}")
    if epochs is not None and epochs < 0:
        raise TargetError(f"--epochs {epochs}: 0 or more")
    profile = target if isinstance(target, Target) else load_target(target)
    profile = profile.with_overrides(imgsz=imgsz)
    out, reporter = Path(out), reporter or Silent()
    here = jobs == "here"  # on a cluster the device is another node's
    needed = {"train", profile.accuracy.split}
    with opened(
        weights, profile, data=data, seed=seed, trust=trust, reporter=None, device=here, splits=tuple(needed)
    ) as (context, source, _):  # refuses what is wrong before anything is written
        digest, task = context.dataset.digest, source.task

    def job(path: str | Path, budget: tuple[str, float] | None) -> Job:
        return _job(path, profile, budget, data, digest, out, seed, trust, epochs)

    asked = [*(job(path, None) for path in (weights, *unpruned)), *(job(weights, budget) for budget in budgets)]
    folder = out / "points"
    folder.mkdir(parents=True, exist_ok=True)
    done = {job.key: found for job in asked if (found := _read(folder / f"{job.name}-{job.key}.json")) is not None}
    missing = [job for job in asked if job.key not in done]
    if done:
        reporter.note(f"{len(done)} of {len(asked)} points are there already")

    def finished(job: Job, result: dict[str, Any]) -> None:
        checkpoint: bytes | None = result.pop("checkpoint", None)
        point = Point(**result)
        if point.failed is None:
            if checkpoint is not None:
                write_atomically(folder / f"{job.name}-{job.key}.pt", checkpoint)
            write_atomically(folder / f"{job.name}-{job.key}.json", json.dumps(asdict(point), indent=1) + "\n")
        done[job.key] = point
        reporter.note(" ".join(point.row()))

    if missing:
        _runner(jobs, reporter)(missing, asked[0].weights, finished)
    points = [done[job.key] for job in asked]
    whole = len(unpruned) + 1
    metric = "top-1 accuracy" if task == "classify" else "mAP50-95"
    sweep = Sweep(tuple(points[:whole]), tuple(points[whole:]), profile.budget.statistic, metric)
    _write(sweep, out)
    return sweep


def run_here(jobs: Sequence[Job], swept: bytes, finished: Callable[[Job, dict[str, Any]], None]) -> None:
    """One job after the other, in this process."""
    for job in jobs:
        try:
            found = search_step(job)
            tuned = finetune_step(job, found)
            finished(job, measure_step(job, swept, found, tuned))
        except EdgepruneError as error:
            finished(job, failed(job, error))


def failed(job: Job, error: Exception) -> dict[str, Any]:
    """The result of a job that ended with an error."""
    lines = str(error).strip().splitlines()
    return asdict(Point(job.name, _budget_text(job), failed=lines[0] if lines else type(error).__name__))


def search_step(job: Job) -> dict[str, Any]:
    """Pruned checkpoint (bytes) with its facts; the given one for a model that is only measured. Needs the device."""
    if not job.pruned:
        return {"checkpoint": job.weights, "macs": 1.0, "probes": 0}
    with tempfile.TemporaryDirectory(prefix="edgeprune-sweep-") as scratch:
        file = _unpacked(Path(scratch), job.weights)
        target = Target.model_validate(job.target)
        found = search(
            file, target, Path(scratch) / "pruned.pt", data=job.data, cache=job.cache, seed=job.seed, trust=job.trust
        )
        return {
            "checkpoint": found.checkpoint.read_bytes(),
            "macs": found.plan.macs_speed_up,
            "probes": len(found.probes),
        }


def finetune_step(job: Job, found: dict[str, Any]) -> bytes:
    """Fine-tuned checkpoint (bytes); wants a GPU."""
    if not job.pruned or not job.epochs:
        return found["checkpoint"]
    from edgeprune.stages.pretrain import train_settings
    from edgeprune.training.finetune import finetune

    with tempfile.TemporaryDirectory(prefix="edgeprune-sweep-") as scratch:
        file = _unpacked(Path(scratch), found["checkpoint"])
        with _opened(job, file, device=False) as (context, *_):
            asked = context.target.finetune
            teacher = _unpacked(Path(scratch), job.weights, "teacher.pt") if asked.distill else None
            settings = train_settings(context, asked, distill=teacher, response=asked.response, feature=asked.feature)
            settings = replace(settings, epochs=job.epochs, quiet=True)
        work = Path(scratch) / "work"
        result = finetune(file, data=job.data, out=Path(scratch) / "out", settings=settings, work=work)
        return result.best.read_bytes()


def measure_step(job: Job, swept: bytes, found: dict[str, Any], tuned: bytes) -> dict[str, Any]:
    """The point: latency next to the swept model, and accuracy by the target's runtime. Needs the device."""
    from edgeprune import checkpoint
    from edgeprune.samples.statistics import ratio, value_of
    from edgeprune.stages import compiling
    from edgeprune.stages.bench import ContextBench

    with tempfile.TemporaryDirectory(prefix="edgeprune-sweep-") as scratch:
        file = _unpacked(Path(scratch), tuned)
        with _opened(job, file) as (context, source, folder):
            bench = ContextBench(context, source)
            before = checkpoint.load(_unpacked(Path(scratch), swept, "swept.pt"), trust=job.trust)
            reference = bench.compiled(before.model, folder / "swept", {})
            files = bench.compiled(source.model, folder / "candidate", {})
            first, second = bench.raced([reference["engine"][1], files["engine"][1]], 1.0)
            accuracy = compiling.measured_accuracy(context, files)
            point = Point(
                name=job.name,
                budget=_budget_text(job),
                ms=value_of(second.values, context.target.budget.statistic),
                speed_up=ratio(first.values, second.values, block=context.target.measure.per_round).ratio,
                accuracy=accuracy["value"],
                macs=found["macs"],
                parameters=checkpoint.parameter_count(source.model),
                note=f"probes: {found['probes']}, epochs: {job.epochs}" if job.pruned else "unpruned",
            )
        return {**asdict(point), "checkpoint": tuned if job.pruned else None}


def _job(
    path: str | Path,
    target: Target,
    budget: tuple[str, float] | None,
    data: str | Path,
    digest: str,
    out: Path,
    seed: int,
    trust: bool,
    epochs: int | None,
) -> Job:
    asked = target if budget is None else target.with_overrides(**{budget[0]: budget[1]})  # pyright: ignore[reportArgumentType]
    from edgeprune import checkpoint

    source = checkpoint.load(path, trust=trust).path
    name = source.stem if budget is None else f"{source.stem}-{budget[0].replace('_', '-')}-{budget[1]:g}"
    return Job(
        name=name,
        weights=source.read_bytes(),
        target=asked.model_dump(mode="json"),
        data=str(Path(data).resolve()) if Path(data).exists() else str(data),
        digest=digest,
        seed=seed,
        trust=trust,
        cache=str((out / "profiles").resolve()),
        pruned=budget is not None,
        epochs=(target.finetune.epochs if epochs is None else epochs) if budget is not None else 0,
    )


def _opened(job: Job, file: Path, *, device: bool = True) -> Any:
    target = Target.model_validate(job.target)
    return opened(file, target, data=job.data, seed=job.seed, trust=job.trust, reporter=None, device=device)


def _runner(name: str, reporter: Reporter) -> Runner:
    if name == "here":
        return run_here
    from edgeprune.sweep.jobs_ray import run_on_ray

    return lambda jobs, swept, finished: run_on_ray(jobs, swept, finished, reporter=reporter)


def _budget_text(job: Job) -> str:
    return str(Target.model_validate(job.target).budget) if job.pruned else ""


def _unpacked(folder: Path, content: bytes, name: str = "given.pt") -> Path:
    file = folder / name
    file.write_bytes(content)
    return file


def _read(file: Path) -> Point | None:
    try:
        return Point(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _write(sweep: Sweep, out: Path) -> None:
    from edgeprune.sweep.figures import page, trade_off

    head = ["| " + " | ".join(COLUMNS) + " |", "| --- | --- |" + " ---: |" * 5 + " --- |"]
    lines = [*head, *("| " + " | ".join(row) + " |" for row in sweep.rows())]
    write_atomically(out / "sweep.md", "\n".join(lines) + "\n")
    content = {"unpruned": [asdict(one) for one in sweep.unpruned], "points": [asdict(one) for one in sweep.points]}
    write_atomically(out / "sweep.json", json.dumps(content, indent=1) + "\n")
    write_atomically(out / "sweep.html", page([trade_off(sweep)]))
