"""Several budgets side by side: each is pruned, fine-tuned and measured, as a job that depends on no other.

Finished points are kept in the sweep's folder and are not made again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from edgeprune import checkpoint
from edgeprune.artifact import write_atomically
from edgeprune.checkpoint import Checkpoint
from edgeprune.dataset import Dataset
from edgeprune.errors import DataError, EdgepruneError, TargetError
from edgeprune.export.modelopt import require_modelopt
from edgeprune.input_size import Size
from edgeprune.options import exact
from edgeprune.progress import Progress, Reporter, reporter_of
from edgeprune.records.sweep import Point, Sweep
from edgeprune.report.sweep import point_cells, sweep_page, sweep_table
from edgeprune.runtimes.site import open_site
from edgeprune.samples.gates import metric_name
from edgeprune.search.inputs import read_inputs, require_teacher, require_training_arguments
from edgeprune.serial import read_json, write_json
from edgeprune.settings import check_seed
from edgeprune.sweep.jobs_ray import conditions_on_ray, run_on_ray
from edgeprune.sweep.point import Finished, Job, Result, Steps, conditions_of
from edgeprune.sweep.steps import RealSteps
from edgeprune.target import Target, load_target
from edgeprune.workspace import open_workspace

JOBS = ("here", "ray")
POINTS = "points"  # folder of finished points, each with its checkpoint and what was found in every image


def sweep(
    target: str | Path | Target,
    weights: str | Path,
    data: str | Path,
    *,
    out: str | Path,
    budgets: Sequence[tuple[str, float]],
    unpruned: Sequence[str | Path] = (),
    epochs: int | None = None,
    device: str | None = None,
    imgsz: Size | None = None,
    jobs: str = "here",
    seed: int = 0,
    trust: bool = False,
    progress: Progress | Reporter | None = None,
    steps: Steps | None = None,
) -> Sweep:
    """Prune, fine-tune and measure a model for several budgets; write ``sweep.md``, ``sweep.json``, ``sweep.html``.

    Args:
        target: name of a shipped profile, path of a profile, or a target; its budget is replaced.
        weights: the checkpoint to prune.
        data: dataset YAML.
        out: folder for all of it; finished points in it are taken as they are.
        budgets: (``latency_ms`` or ``speed_up``, value) each.
        unpruned: checkpoints of other scales, measured for comparison.
        epochs: of every fine-tuning; the profile's when not given, 0 for none.
        device: where the target's runtime is: ``user@host[:port]``; the profile's, or this machine, when None.
        imgsz: a side, or height and width, in pixels; see :mod:`edgeprune.input_size` for what holds when None.
        jobs: ``here`` or ``ray``.
        seed: of everything drawn.
        trust: load checkpoints with foreign classes.
        progress: called as the work moves, or a :class:`~edgeprune.progress.Reporter`; nobody by default.
        steps: what makes a point; the real steps when None.

    Raises:
        TargetError: a wrong argument, or a profile with ``sparsify``.
        DataError: weights or dataset are unreadable, or the profile's teacher cannot teach.
        StageError: another process works in ``out``.
    """
    check_seed(seed)
    require_options(jobs, epochs)
    target = load_target(target).with_overrides(device=device)
    require_trainable(target, epochs)
    out, reporter = Path(out), reporter_of(progress)
    splits = {"train", target.accuracy.split, *(() if epochs == 0 else ("val",))}  # whose images choose the epoch
    inputs = read_inputs(target, weights, data, trust=trust, splits=splits, imgsz=imgsz)
    target, source, dataset = inputs.target, inputs.source, inputs.dataset
    reporter.note(str(inputs.size))
    assert dataset is not None  # it was given
    if epochs != 0:
        require_training(target, dataset, [source], jobs, trust=trust, reporter=reporter)
    if jobs == "ray":  # the device is another node's
        conditions = conditions_on_ray(target)
    else:
        with open_site(target) as site:
            site.require_usable()
            conditions = conditions_of(site)

    alike = jobs_of(data, dataset.digest, source.task, seed=seed, trust=trust, out=out, conditions=conditions)

    def job(path: str | Path, budget: tuple[str, float] | None) -> Job:
        loaded = checkpoint.load(path, trust=trust).path
        asked = target if budget is None else with_budget(target, *budget)
        return alike(
            name=loaded.stem if budget is None else f"{loaded.stem}-{budget[0].replace('_', '-')}-{exact(budget[1])}",
            weights=loaded.read_bytes(),
            target=asked,
            pruned=budget is not None,
            epochs=0 if budget is None else (target.finetune.epochs if epochs is None else epochs),
        )

    todo = [*(job(path, None) for path in (weights, *unpruned)), *(job(weights, budget) for budget in budgets)]
    with open_workspace(out, "sweep"):  # a second one would disturb these measurements, and mix its points with these
        points = finish_jobs(todo, todo[0].weights, out, jobs, steps or RealSteps(), reporter)
        measured = len(unpruned) + 1
        metric = metric_name(source.task)
        made = Sweep(tuple(points[:measured]), tuple(points[measured:]), target.budget.statistic, metric)
        _write(made, out)
    return made


def jobs_of(
    data: Path | str, digest: str, task: str, *, seed: int, trust: bool, out: Path, conditions: Mapping[str, str]
) -> partial[Job]:
    """A job without what tells those of one sweep or frontier apart."""
    return partial(
        Job,
        data=str(Path(data).resolve()) if Path(data).exists() else str(data),
        digest=digest,
        seed=seed,
        trust=trust,
        cache=str((out / "profiles").resolve()),
        conditions=conditions,
        task=task,
    )


def require_options(jobs: str, epochs: int | None) -> None:
    """Raise TargetError for a place of jobs that is none, or epochs below 0."""
    if jobs not in JOBS:
        raise TargetError(f"--jobs {jobs}: allowed are {', '.join(JOBS)}")
    if epochs is not None and epochs < 0:
        raise TargetError(f"--epochs {epochs}: 0 or more")


def require_trainable(target: Target, epochs: int | None) -> None:
    """Raise TargetError where a build would be trained before it is pruned, which no point is, and where the profile's
    time would decide instead of the epochs; DeviceError where points are trained for INT8 and ModelOpt is not here."""
    if epochs and target.finetune.time_h is not None:
        raise TargetError(
            f"--epochs {epochs}: the profile's finetune.time_h: {target.finetune.time_h:g} decides how long a point is "
            "trained; leave --epochs out, or take a profile that extends this one with finetune: {time_h: null}"
        )
    if target.sparsify is not None:
        raise TargetError(
            "sparsify: runs in a build alone, so that no point would be what a build makes; run 'edgeprune sparsify "
            "WEIGHTS', then this command on its best.pt with a profile that has no sparsify section"
        )
    if target.qat is not None and epochs != 0:
        require_modelopt()


def require_training(
    target: Target, dataset: Dataset, students: Iterable[Checkpoint], jobs: str, *, trust: bool, reporter: Reporter
) -> None:
    """Refuse what only a training would refuse, hours from now, and say what of the profile the points leave out.

    On a cluster nothing is refused: the GPU is another node's, and the teacher's file may be.

    Raises:
        TargetError: an argument that Ultralytics does not take.
        DataError: the profile names a teacher that cannot teach one of the students.
    """
    if jobs == "here":
        require_training_arguments(target, {"finetune": target.finetune, "qat": target.qat})
        for student in students:
            require_teacher(target, dataset, student.task, student, trust=trust)
    if target.finetune.until is not None:
        reporter.note(
            "finetune.until is left out: every point is trained for all of its epochs; a build may end its training "
            "earlier"
        )


def finish_jobs(
    todo: Sequence[Job], swept: bytes, out: Path, jobs: str, steps: Steps, reporter: Reporter
) -> list[Point]:
    """The point of every job, in their order: from the folder of a sweep where it is there already, else made.

    Args:
        todo: independent of each other.
        swept: bytes of the checkpoint that latencies are compared with.
        out: the sweep's folder.
        jobs: one of :data:`JOBS`.
        steps: what makes a point.
        reporter: who watches.
    """
    todo = [job.beside(swept) for job in todo]
    folder = out / POINTS
    folder.mkdir(parents=True, exist_ok=True)
    done = {job.key: point for job in todo if (point := _read(folder / f"{job.name}-{job.key}.json")) is not None}
    missing = list({job.key: job for job in todo if job.key not in done}.values())
    if done:
        reporter.note(f"{len(done)} of {len(todo)} points are there already")

    def finished(job: Job, result: Result) -> None:
        point = result.point
        if point.failed is None:
            if result.checkpoint is not None:
                write_atomically(checkpoint_file(out, job), result.checkpoint)
            if result.per_image is not None:
                write_atomically(per_image_file(out, job), result.per_image)
            if not point.inconclusive and not point.missed:  # the same command measures such a point again
                write_json(folder / f"{job.name}-{job.key}.json", point)
        done[job.key] = point
        reporter.note(" ".join(point_cells(point)))

    if missing and jobs == "here":
        run_here(missing, swept, finished, steps)
    elif missing:
        run_on_ray(missing, swept, finished, steps, reporter=reporter)
    return [done[job.key] for job in todo]


def checkpoint_file(out: Path, job: Job) -> Path:
    """Where the checkpoint of a job's point lies in the folder of a sweep, if one was made."""
    return out / POINTS / f"{job.name}-{job.key}.pt"


def per_image_file(out: Path, job: Job) -> Path:
    """Where what was found in every image lies; older sweeps kept none."""
    return checkpoint_file(out, job).with_suffix(".npz")


def run_here(jobs: Sequence[Job], swept: bytes, finished: Finished, steps: Steps) -> None:
    """One job after the other, in this process; ``swept`` is the checkpoint that latencies are compared with."""
    for job in jobs:
        try:
            pruned = steps.search(job)
            finished(job, steps.measure(job, swept, pruned, steps.finetune(job, pruned)))
        except EdgepruneError as error:
            finished(job, job.failure(error))


def with_budget(target: Target, kind: str, value: float) -> Target:
    """The target with another budget of latency; its statistic and scope stay."""
    if kind == "latency_ms":
        return target.with_overrides(latency_ms=value)
    return target.with_overrides(speed_up=value)


def _read(file: Path) -> Point | None:
    try:
        return read_json(Point, file)
    except DataError:
        return None


def _write(made: Sweep, out: Path) -> None:
    write_atomically(out / "sweep.md", sweep_table(made).markdown() + "\n")
    write_json(out / "sweep.json", made)
    write_atomically(out / "sweep.html", sweep_page(made))
