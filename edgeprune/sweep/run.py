"""Several budgets side by side: each is pruned, fine-tuned and measured, as a job that depends on no other.

Finished points are kept in the sweep's folder and are not made again; nor is one whose budget was measured to be out of
reach. What a measurement leaves open is measured again by the next run, and trained anew only where its search was not
sure either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from edgeprune import checkpoint
from edgeprune.artifact import write_atomically
from edgeprune.checkpoint import Checkpoint
from edgeprune.dataset import Dataset
from edgeprune.dataset.class_names import first_differences, same_classes
from edgeprune.errors import DataError, EdgepruneError, TargetError
from edgeprune.export.modelopt import require_modelopt
from edgeprune.input_size import Size, pixels
from edgeprune.measure.names import names_apart
from edgeprune.options import exact, plain_number
from edgeprune.progress import Progress, Reporter, one_run, reporter_of
from edgeprune.reading import is_file, paths_of
from edgeprune.records.sweep import Point, Sweep
from edgeprune.report.sweep import point_cells, sweep_page, sweep_table
from edgeprune.runtimes.site import open_site
from edgeprune.samples.gates import metric_name
from edgeprune.scratch import scratch
from edgeprune.search.inputs import (
    frontier_command,
    read_inputs,
    refuse_lacking_head,
    refuse_untrainable,
    require_prunable,
    require_teacher,
    require_training_arguments,
)
from edgeprune.serial import read_json, write_json
from edgeprune.settings import check_seed
from edgeprune.sweep.estimate import TimeLeft, workload
from edgeprune.sweep.jobs_ray import conditions_on_ray, remove_used_on_ray, run_on_ray
from edgeprune.sweep.point import Content, Finished, Job, Result, Steps, conditions_of, target_on
from edgeprune.sweep.steps import RealSteps, remove_used
from edgeprune.target import Target, load_target, name_to_type
from edgeprune.workspace import open_workspace

JOBS = ("here", "ray")
POINTS = "points"  # folder of finished points, each with its checkpoint and what was found in every image


@scratch()
@one_run()
def sweep(
    target: str | Path | Target,
    weights: str | Path,
    data: str | Path,
    *,
    out: str | Path,
    budgets: Sequence[tuple[str, float]],
    unpruned: str | Path | Sequence[str | Path] = (),
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
        unpruned: a checkpoint of another scale, measured for comparison, or several.
        epochs: of every fine-tuning; the profile's when not given, 0 for none.
        device: where the target's runtime is: ``user@host[:port]``; the profile's, or this machine, when None.
        imgsz: a side, or height and width, in pixels; see :mod:`edgeprune.input_size` for what holds when None.
        jobs: ``here`` or ``ray``.
        seed: of everything drawn.
        trust: load checkpoints with foreign classes.
        progress: called as the work moves, or a :class:`~edgeprune.progress.Reporter`; nobody by default.
        steps: what makes a point; the real steps when None.

    Raises:
        TargetError: a wrong argument, a checkpoint that is given twice, or a profile with ``sparsify``.
        DataError: weights or dataset are unreadable, another checkpoint is of another task or other classes, or the
            profile's teacher cannot teach.
        StageError: another process works in ``out``.
    """
    check_seed(seed)
    require_options(jobs, epochs)
    require_budgets(budgets)
    budgets = [(kind, plain_number(value)) for kind, value in budgets]
    named = name_to_type(target, "TARGET.yaml")
    target = with_teacher_found(load_target(target).with_overrides(device=device))
    require_trainable(target, epochs)
    for kind, value in budgets:
        target.with_budget(kind, value)  # one that is impossible is refused here
    out, reporter = Path(out), reporter_of(progress)
    splits = {"train", target.accuracy.split, *(() if epochs == 0 else ("val",))}  # whose images choose the epoch
    inputs = read_inputs(target, weights, data, trust=trust, splits=splits, imgsz=imgsz)
    target, source, dataset = inputs.target, inputs.source, inputs.dataset
    reporter.note(str(inputs.size))
    assert dataset is not None  # it was given
    require_prunable(target, source)
    sources = checkpoints_apart(source, unpruned, "--unpruned", target, trust=trust, reporter=reporter)
    if epochs != 0:
        require_training(target, dataset, [source], jobs, trust=trust, reporter=reporter)
    if jobs == "ray":  # the device is another node's
        conditions = conditions_on_ray(target)
    else:
        with open_site(target) as site:
            site.require_usable()
            conditions = conditions_of(site)
    refuse_lacking_heads(sources, "--unpruned", target_on(target, conditions))

    alike = jobs_of(data, dataset.digest, source.task, seed=seed, trust=trust, out=out, conditions=conditions)

    given = target.finetune.epochs if epochs is None else epochs
    weights_of = {name: Content(one.path.read_bytes()) for name, one in sources.items()}
    todo = [
        alike(name=name, weights=content, target=target, pruned=False, epochs=0) for name, content in weights_of.items()
    ]
    swept = next(iter(sources))
    stated = {"imgsz": imgsz, "device": device, "epochs": epochs, "seed": seed or None}
    for kind, value in budgets:
        name = f"{swept}-{kind.replace('_', '-')}-{exact(value)}"
        budgeted = target.with_budget(kind, value)
        levers = frontier_command(named, weights, data, budgeted.budget, stated, trust)
        asked = {"target": budgeted, "pruned": True, "epochs": given, "other_levers": levers}
        todo.append(alike(name=name, weights=weights_of[swept], **asked))
    with open_workspace(out, "sweep"):  # a second one would disturb these measurements, and mix its points with these
        check = dataset.require_unchanged
        points = finish_jobs(todo, todo[0].weights, out, jobs, steps or RealSteps(), reporter, check)
        measured = len(sources)
        metric = metric_name(source.task)
        budget = target.budget
        made = Sweep(tuple(points[:measured]), tuple(points[measured:]), budget.statistic, metric, scope=budget.scope)
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


def with_teacher_found(target: Target) -> Target:
    """The target with the teacher that it names as an absolute path, where it is a file of this machine: a worker on a
    cluster starts in another folder."""
    teacher = target.finetune.teacher
    if teacher is None or not is_file(Path(teacher)):
        return target
    return target.changed({"finetune.teacher": str(Path(teacher).resolve())})


def checkpoints_apart(
    source: Checkpoint,
    others: str | Path | Sequence[str | Path],
    option: str,
    target: Target,
    *,
    trust: bool,
    reporter: Reporter,
) -> dict[str, Checkpoint]:
    """Every checkpoint under a name of its own, the one that is asked about first; says which was trained at another
    size than all are measured at.

    Args:
        source: the one that is asked about.
        others: paths of further ones; a single path may stand for itself.
        option: that names them, for messages.
        target: what all of them are measured on, with the size of the one that is asked about.
        trust: load them with foreign classes.
        reporter: who watches.

    Raises:
        TargetError: one is given twice, does not take the target's size, or lacks the head that it exports.
        DataError: one cannot be read, or is of another task, other classes or channels.
    """
    found = [source]
    for path in paths_of(others):
        other = checkpoint.load(path, trust=trust)
        if other.task != source.task or len(other.names) != len(source.names):
            seen = f"a {other.task} model of {len(other.names)} classes"
            raise DataError(
                f"{option} {path}: it is {seen}, and {source.path} one of {source.task} and {len(source.names)} "
                "classes; models are compared that find the same"
            )
        if not same_classes(other.names, source.names):
            differ = first_differences(other.names, source.names, source.path)
            raise DataError(f"{option} {path}: {differ}; models are compared that find the same")
        if any(other.path.resolve() == one.path.resolve() for one in found):
            raise TargetError(f"{option} {path}: this checkpoint is given twice; leave it out here")
        if other.channels != source.channels:
            raise DataError(
                f"{option} {path}: it takes images of {other.channels} channels, and {source.path} of "
                f"{source.channels}; models are compared on the same images"
            )
        try:
            size = other.size_for(profile=target.imgsz)
            refuse_lacking_head(other, target, known=False)
        except TargetError as error:
            raise TargetError(f"{option} {path}: {error}") from error
        if size.trained and size.differs:
            reporter.note(
                f"warning: {option} {path}: input {pixels(size.side)}, as for {source.path}; the weights were trained "
                f"at {pixels(size.trained)}"
            )
        found.append(other)
    return dict(zip(names_apart([one.path.with_suffix("") for one in found]), found, strict=True))


def refuse_lacking_heads(sources: Mapping[str, Checkpoint], option: str, target: Target) -> None:
    """Raise ``TargetError`` where one of the checkpoints has not the head that the device's release of TensorRT takes.

    Args:
        sources: as :func:`checkpoints_apart` gives them, the main one first.
        option: that names the others.
        target: on the device.
    """
    main, *others = sources.values()
    refuse_lacking_head(main, target, known=True)
    for other in others:
        try:
            refuse_lacking_head(other, target, known=True)
        except TargetError as error:
            raise TargetError(f"{option} {other.path}: {error}") from error


def require_budgets(budgets: Sequence[object]) -> None:
    """Raise TargetError where no budget is given."""
    if not len(budgets):  # an array of NumPy is neither true nor false
        raise TargetError("give at least one budget: --latency-ms or --speed-up")


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
            "WEIGHTS --data DATA', then this command on its best.pt with a profile that has no sparsify section"
        )
    if target.qat is not None and epochs != 0:
        require_modelopt()


def require_training(
    target: Target, dataset: Dataset, students: Iterable[Checkpoint], jobs: str, *, trust: bool, reporter: Reporter
) -> None:
    """Refuse what only a training would refuse, hours from now, and say what of the profile the points leave out.

    On a cluster no argument and no teacher is refused: the GPU is another node's, and the teacher's file may be.

    Raises:
        TargetError: an argument that Ultralytics does not take.
        DataError: a student cannot be trained, or the profile names a teacher that cannot teach one of them.
    """
    students = list(students)
    for student in students:
        refuse_untrainable(student)
    teacher = target.finetune.teacher
    if jobs == "here":
        require_training_arguments(target, {"finetune": target.finetune, "qat": target.qat})
        for student in students:
            require_teacher(target, dataset, student, trust=trust)
    elif teacher is not None and not is_file(Path(teacher)):
        reporter.note(
            f"finetune.teacher: {teacher} is no file of this machine: points that are there already are taken as they "
            "are, whatever it holds by now"
        )
    if target.finetune.until is not None:
        reporter.note(
            "finetune.until is left out: every point is trained for all of its epochs; a build may end its training "
            "earlier"
        )


def finish_jobs(
    todo: Sequence[Job],
    swept: bytes,
    out: Path,
    jobs: str,
    steps: Steps,
    reporter: Reporter,
    check: Callable[[], None] = lambda: None,
) -> list[Point]:
    """The point of every job, in their order: from the folder of a sweep where it is there already, else made.

    Args:
        todo: independent of each other.
        swept: bytes of the checkpoint that latencies are compared with.
        out: the sweep's folder.
        jobs: one of :data:`JOBS`.
        steps: what makes a point.
        reporter: who watches.
        check: called before a point is kept; raises where it is of other data than the ones before.
    """
    todo = [job.beside(swept) for job in todo]
    folder = out / POINTS
    folder.mkdir(parents=True, exist_ok=True)
    done = {job.key: point for job in todo if (point := _read(point_file(out, job))) is not None}
    missing = list({job.key: job for job in todo if job.key not in done}.values())
    if done:
        reporter.note(f"{len(done)} of {len(todo)} points are there already")
    for job in todo:
        if (point := done.get(job.key)) is not None and point.failed is not None:
            reporter.note(f"{job.name}: {_not_again(out, job)}. An earlier one found {point.failed}")
    if missing:
        reporter.note(workload(missing))
    left = TimeLeft(missing)

    def finished(job: Job, result: Result) -> None:
        point = result.point
        if result.final:
            check()
            write_json(point_file(out, job), point)
            reporter.note(f"{job.name}: {_not_again(out, job)}")
        elif point.failed is None:
            check()
            if result.checkpoint is not None:
                write_atomically(checkpoint_file(out, job), result.checkpoint)
            if result.per_image is not None:
                write_atomically(per_image_file(out, job), result.per_image)
            if _is_settled(job, point):
                write_json(point_file(out, job), point)
        done[job.key] = point
        reporter.note(" ".join(point_cells(point)))
        # On a cluster nobody knows how many are made at a time.
        if jobs == "here" and (line := left.after(job, failed=point.failed is not None)):
            reporter.note(line)

    if missing and jobs == "here":
        run_here(missing, swept, finished, steps)
    elif missing:
        run_on_ray(missing, swept, finished, steps, reporter=reporter)
    made = {file.stem.rpartition("-")[2] for file in folder.glob("*.json")}
    waiting = [job for job in todo if job.key not in made]
    remove_used(out, made, waiting)
    if jobs == "ray":
        remove_used_on_ray(out, made, waiting)
    return [replace(done[job.key], name=job.name) for job in todo]  # the weights may have had another name then


def _is_settled(job: Job, point: Point) -> bool:
    """Whether the next run takes a measured point as it is: its own measurement decides what is held against it. In a
    sweep that is the budget it was pruned to; to a model that is not pruned others are held, and a frontier holds each
    of its rows against every budget: there samples that moved leave it open."""
    if point.inconclusive or point.missed:
        return False
    return not point.unsteady or (job.pruned and job.reference is None)


def point_file(out: Path, job: Job) -> Path:
    """Where a job's point lies in the folder of a sweep, if it is one that the next run takes as it is."""
    return _kept(out, job, ".json")


def _not_again(out: Path, job: Job) -> str:
    return f"out of reach, and not searched for by the next run, unless you remove {point_file(out, job)}"


def checkpoint_file(out: Path, job: Job) -> Path:
    """Where the checkpoint of a job's point lies in the folder of a sweep, if one was made."""
    return _kept(out, job, ".pt")


def per_image_file(out: Path, job: Job) -> Path:
    """Where what was found in every image lies; older sweeps kept none."""
    return _kept(out, job, ".npz")


def _kept(out: Path, job: Job, suffix: str) -> Path:
    """A file of a job's point: known by its key, whatever the job was called when it was written."""
    key, name = job.key, job.name.replace("/", "-")
    return next((out / POINTS).glob(f"*-{key}{suffix}"), out / POINTS / f"{name}-{key}{suffix}")


def run_here(jobs: Sequence[Job], swept: bytes, finished: Finished, steps: Steps) -> None:
    """One job after the other, in this process; ``swept`` is the checkpoint that latencies are compared with."""
    for job in jobs:
        try:
            pruned = steps.search(job)
            result = steps.measure(job, swept, pruned, steps.finetune(job, pruned))
        except EdgepruneError as error:
            result = job.failure(error)
        finished(job, result)


def _read(file: Path) -> Point | None:
    try:
        return read_json(Point, file)
    except DataError:
        return None


def _write(made: Sweep, out: Path) -> None:
    write_atomically(out / "sweep.md", sweep_table(made).markdown() + "\n")
    write_json(out / "sweep.json", made)
    write_atomically(out / "sweep.html", sweep_page(made))
