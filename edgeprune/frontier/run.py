"""One budget, every lever: screen them, train what may be worth it alike, measure it, recommend.

What is trained is a point of a sweep (:mod:`edgeprune.sweep`): kept in the folder, made here or on a Ray cluster.
Further levers belong in :mod:`edgeprune.frontier.levers`, as forms.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Literal

from edgeprune import checkpoint
from edgeprune.artifact import write_atomically
from edgeprune.checkpoint import Checkpoint
from edgeprune.dataset import Dataset
from edgeprune.errors import DataError, TargetError
from edgeprune.frontier.choose import (
    Planned,
    as_measured,
    best_for,
    budget_shares,
    is_held,
    one_a_name,
    plan,
    why_unsure,
    with_frontier,
)
from edgeprune.frontier.levers import TRAINED, forms
from edgeprune.frontier.output_form import choose_output
from edgeprune.frontier.screening import Screening, screen, with_trained_int8
from edgeprune.images import read_image
from edgeprune.input_size import Size
from edgeprune.measure.per_image import load_per_image
from edgeprune.measure.variants import site_with
from edgeprune.options import exact
from edgeprune.progress import Progress, Reporter, reporter_of
from edgeprune.quiet import quiet
from edgeprune.records.frontier import Frontier, Keys, Recommendation, Row, Screened
from edgeprune.records.sweep import Point
from edgeprune.report.frontier import Z, frontier_page, frontier_table, profile_text
from edgeprune.report.verdict import INTERVAL_TAIL
from edgeprune.runtimes.site import open_site
from edgeprune.samples.average_precision import DropInterval, drop_interval
from edgeprune.samples.gates import metric_name
from edgeprune.search.inputs import read_inputs
from edgeprune.serial import write_json
from edgeprune.settings import check_seed
from edgeprune.stages.inputs import build_command
from edgeprune.sweep.point import Job, Steps, conditions_of
from edgeprune.sweep.run import (
    checkpoint_file,
    finish_jobs,
    jobs_of,
    per_image_file,
    require_options,
    require_trainable,
    require_training,
    with_budget,
)
from edgeprune.sweep.steps import COMPILED, RealSteps
from edgeprune.target import PROFILE, Budget, Target, is_shipped, load_target, profile_yaml
from edgeprune.workspace import open_workspace

Kind = Literal["latency_ms", "speed_up"]
IMAGES = 32  # that are looked at for their shape, at most


def frontier(
    target: str | Path | Target,
    weights: str | Path,
    data: str | Path,
    *,
    out: str | Path,
    kind: Kind,
    budgets: Sequence[float],
    also: Sequence[str | Path] = (),
    epochs: int | None = None,
    device: str | None = None,
    imgsz: Size | None = None,
    jobs: str = "here",
    seed: int = 0,
    trust: bool = False,
    progress: Progress | Reporter | None = None,
    steps: Steps | None = None,
    screener: Callable[..., Screening] = screen,
    everything: bool = False,
) -> Frontier:
    """Measure every lever for some budgets side by side on a target, and recommend one a budget.

    Writes ``frontier.json``, ``frontier.md``, ``frontier.html`` and a profile for every recommendation; what is
    finished in ``out`` is taken as it is.

    Args:
        target: name of a shipped profile, path of a profile, or a target; its budget is replaced.
        weights: the checkpoint that is asked about; latencies are ratios to it, as the target runs it.
        data: dataset YAML.
        out: folder for all of it.
        kind: of the budgets, ``latency_ms`` or ``speed_up``.
        budgets: their values.
        also: further checkpoints that are at hand, of other scales.
        epochs: of every row that is trained; the profile's when not given, 0 for none.
        device: where the target's runtime is: ``user@host[:port]``; the profile's, or this machine, when None.
        imgsz: a side, or height and width, in pixels; see :mod:`edgeprune.input_size` for what holds when None.
        jobs: ``here`` or ``ray``.
        seed: of everything drawn.
        trust: load checkpoints with foreign classes.
        progress: called as the work moves, or a :class:`~edgeprune.progress.Reporter`; nobody by default.
        steps: what makes a row's point; the real steps when None.
        screener: what times forms without training.
        everything: train what the screening leaves out too, to see whether it was left out rightly; recommended is what
            would be without it.

    Raises:
        TargetError: a wrong argument, or a profile with ``sparsify``.
        DataError: weights or dataset are unreadable, or the profile's teacher cannot teach.
        DeviceError: the target's runtime is not here.
        StageError: another process works in ``out``.
    """
    check_seed(seed)
    require_options(jobs, epochs)
    if not budgets:
        raise TargetError("give at least one budget: --latency-ms or --speed-up")
    out, reporter, stated_target = Path(out), reporter_of(progress), load_target(target)
    made_here = isinstance(target, Target) and not is_shipped(target)  # in Python: no name stands for it
    named = str(out / PROFILE) if made_here else stated_target.name if isinstance(target, Target) else str(target)
    target = stated_target.with_overrides(device=device)
    require_trainable(target, epochs)
    asked_for = [with_budget(target, kind, value) for value in budgets]  # one that is impossible is refused here
    target = asked_for[0]
    splits = {"train", "val", target.accuracy.split}
    inputs = read_inputs(target, weights, data, trust=trust, splits=splits, imgsz=imgsz)
    target, source, dataset = inputs.target, inputs.source, inputs.dataset
    assert dataset is not None  # it was given
    sources = _sources(source, also, trust)
    reporter.note(str(inputs.size))
    if epochs != 0:
        require_training(target, dataset, sources.values(), jobs, trust=trust, reporter=reporter)
    with contextlib.ExitStack() as whole:
        with (
            open_site(target, seed=seed, reporter=reporter) as site,
            TemporaryDirectory(prefix="edgeprune-frontier-", ignore_cleanup_errors=True) as scratch,
            quiet(),
        ):
            site.require_usable()
            # Until all is written: a second one would disturb these measurements, and mix its rows with these.
            whole.enter_context(open_workspace(out, "frontier"))
            if made_here:
                write_atomically(out / PROFILE, profile_yaml(stated_target))
            conditions = conditions_of(site)
            main, *others = sources
            output = choose_output(
                site, source, main, dataset, Path(scratch) / "outputs", out / "screened", screener=screener
            )
            if output.why:
                reporter.note(output.why)
            target, site = target.changed(output.keys), site_with(site, output.keys)
            asked = forms(target, main, others, None if source.task == "classify" else _aspect(dataset))
            found = screener(site, asked, sources, dataset, Path(scratch) / "forms", out / "screened", out / COMPILED)
        given = target.finetune.epochs if epochs is None else epochs
        found, for_int8 = with_trained_int8(found, target, given)
        asked += for_int8
        screened = {one.form.name: one for one in found.screened}
        baseline = found.screened[0]
        ratios = [value if kind == "speed_up" else baseline.ms / value for value in budgets]
        planned = plan(found.screened, ratios, everything=everything)
        trained = [one for one in planned if one.trained]
        reporter.note(f"{len(found.screened)} forms screened; {len(trained)} rows to train and measure")

        alike = jobs_of(data, dataset.digest, source.task, seed=seed, trust=trust, out=out, conditions=conditions)

        def job(one: Planned) -> Job:
            asked = target.changed(one.form.keys)
            if one.prune_to is not None:
                asked = with_budget(asked, kind, budgets[ratios.index(one.prune_to)])
            return alike(
                name=_slug(one, sources, kind, budgets, ratios),
                weights=sources[one.form.weights].path.read_bytes(),
                target=asked,
                pruned=one.prune_to is not None,
                epochs=given,
                reference=(target, source.path.read_bytes()),
                start_used=None if one.prune_to is None else one.prune_to / screened[one.form.name].speed_up,
            )

        todo = [job(one) for one in trained]
        points = finish_jobs(todo, source.path.read_bytes(), out, jobs, steps or RealSteps(), reporter)
        measured = [
            as_measured(_row(one, screened, kind, budgets, ratios, point))
            for one, point in zip(trained, points, strict=True)
        ]
        made_by: dict[str, Job] = {}  # a row to its job
        for row, its_job in zip(measured, todo, strict=True):
            if row.measured is not None:
                made_by.setdefault(row.name, its_job)
        untrained = [_row(one, screened, kind, budgets, ratios) for one in planned if not one.trained]
        refused = [
            Row(form.name, form, "", None, None, found.refused[form.name])
            for form in asked
            if form.name in found.refused
        ]
        rows = with_frontier(one_a_name([*measured, *untrained, *refused]))
        stated = {**_stated(target, imgsz), **output.keys}
        metric = metric_name(source.task)

        def ahead(first: Row, second: Row) -> DropInterval | None:
            """How much more accurate a row is than another, from the same images; None where they were not kept."""
            own, other = first.measured, second.measured
            files = [per_image_file(out, made_by[row.name]) for row in (first, second)]
            if own is None or other is None or not all(file.is_file() for file in files):
                return None
            seen, seen_by_other = map(load_per_image, files)
            return drop_interval(seen, seen_by_other, own.accuracy - other.accuracy, seed=seed)

        def built(value: float) -> Recommendation:
            """What is recommended for a budget, with its profile written into the folder and the command for it."""
            kept = [row for row in rows if not row.dropped]
            one, best = _recommended(kept, kind, value, metric, stated, ahead)
            if best is None:
                return one
            # A build trains what it prunes; what it does not prune ships as it is given, or is trained for INT8 alone.
            its_job = made_by.get(baseline.form.name if TRAINED in best.form.keys else best.form.name)
            weights = sources[best.form.weights].path
            if not best.budget and its_job is not None and (tuned := checkpoint_file(out, its_job)).is_file():
                weights = tuned
            keys = {**one.keys, "finetune.epochs": given} if best.budget and given else one.keys
            profile = out / f"build-{_file_name(budget_words(kind, value))}.yaml"
            base = str(Path(named).resolve()) if Path(named).is_file() else named
            write_atomically(profile, f"{profile_text(base, keys)}\n")
            command = build_command(str(profile), weights, data, trust, {"device": device, "seed": seed or None})
            return replace(one, keys=keys, weights=str(weights), command=tuple(command))

        recommended = tuple(built(value) for value in budgets)
        made = Frontier(
            named,
            kind,
            tuple(budgets),
            target.budget.statistic,
            metric,
            given,
            tuple(rows),
            recommended,
            found.seconds,
            output.why,
            output.measured,
            dataset.judging_split(target.accuracy.split),
            target.finetune.time_h if given else None,
        )
        write_json(out / "frontier.json", made)
        write_atomically(out / "frontier.md", frontier_table(made).markdown() + "\n")
        write_atomically(out / "frontier.html", frontier_page(made))
    return made


def budget_words(kind: Kind, value: float) -> str:
    """A budget in a few words."""
    return f"×{exact(value)}" if kind == "speed_up" else f"{exact(value)} ms"  # files are named so


def _sources(source: Checkpoint, also: Sequence[str | Path], trust: bool) -> dict[str, Checkpoint]:
    """Every checkpoint under a name of its own, the one that is asked about first."""
    found = {source.path.stem: source}
    for path in also:
        other = checkpoint.load(path, trust=trust)
        if other.task != source.task or list(other.names.values()) != list(source.names.values()):
            raise DataError(f"--also {path}: it is a {other.task} model of other classes than {source.path}")
        if other.path.stem in found:
            raise TargetError(f"--also {path}: two checkpoints are called {other.path.stem}; rename one")
        found[other.path.stem] = other
    return found


def _aspect(dataset: Dataset) -> float:
    """Median of height over width of some training images, spread over the split."""
    images = dataset.images("train")
    shapes = [read_image(image).shape for image in images[:: -(-len(images) // IMAGES)]]
    return median(height / width for height, width, *_ in shapes)


def _pruned_to(one: Planned, kind: Kind, budgets: Sequence[float], ratios: Sequence[float]) -> str:
    return "" if one.prune_to is None else budget_words(kind, budgets[list(ratios).index(one.prune_to)])


def _slug(
    one: Planned, sources: Mapping[str, Checkpoint], kind: Kind, budgets: Sequence[float], ratios: Sequence[float]
) -> str:
    main = next(iter(sources))
    words = f"{'' if one.form.weights != main else main + ' '}{one.form.name} {_pruned_to(one, kind, budgets, ratios)}"
    return _file_name(words)


def _file_name(words: str) -> str:
    return re.sub(r"[^\w.]+", "-", words.replace("×", "x")).strip("-")


def _row(
    one: Planned,
    screened: Mapping[str, Screened],
    kind: Kind,
    budgets: Sequence[float],
    ratios: Sequence[float],
    point: Point | None = None,
) -> Row:
    form, budget = one.form, _pruned_to(one, kind, budgets, ratios)
    pruned = f"pruned to {budget}" if form.keys == {} and not form.levers else f"{form.name}, pruned to {budget}"
    seen = screened[form.name]
    return Row(pruned if budget else form.name, form, budget, seen.speed_up, seen.accuracy, one.dropped, point)


def _stated(target: Target, imgsz: Size | None) -> Keys:
    """Keys of every recommendation: what a profile's own budget would not take over from the one that it extends."""
    keys: dict[str, str | Size] = {} if imgsz is None else {"imgsz": target.imgsz}
    if target.levers != "named":  # a build would choose again
        keys["levers"] = "named"
    default = Budget(speed_up=1)
    for key in ("statistic", "scope"):
        if (value := getattr(target.budget, key)) != getattr(default, key):
            keys[f"budget.{key}"] = value
    return keys


def _recommended(
    rows: Sequence[Row],
    kind: Kind,
    value: float,
    metric: str,
    stated: Keys,
    ahead: Callable[[Row, Row], DropInterval | None],
) -> tuple[Recommendation, Row | None]:
    """What is recommended for a budget, and its row; ``ahead`` tells how much more accurate a row is than another."""
    budget = budget_words(kind, value)
    points = {row.name: row.measured for row in rows if row.measured is not None}
    shares = budget_shares(points, kind, value)
    held = {row.name: is_held(row, shares[row.name], kind, value, budget) for row in rows if row.name in shares}
    surely = {name: answer is True for name, answer in held.items()}
    perhaps = {name: answer is None for name, answer in held.items()}
    best = best_for(rows, surely) or best_for(rows, perhaps)
    if best is None:
        if points:
            fastest = max(point.speed_up for point in points.values())
            text = f"{budget}: nothing that was measured meets it; the fastest is ×{fastest:.2f}"
        else:
            why = next((row.point.failed for row in rows if row.point is not None and row.point.failed), "")
            text = f"{budget}: nothing was measured{why and ': '}{why}"
        return Recommendation(budget, None, text, {}), None
    point = points[best.name]
    keys = {**stated, **_keys(best, kind, value)}
    reference = points.get(rows[0].name)
    text = f"{budget}: take {best.name}, ×{point.speed_up:.2f} at {metric} {point.accuracy:.4f}"
    if point.accuracy_error is not None:
        text += f" ± {Z * point.accuracy_error:.4f}"
    if reference is not None and best is not rows[0]:
        difference = _with_ends(point.accuracy - reference.accuracy, ahead(best, rows[0]))
        text += f", {difference} against the model as it is"
    others = [row for row in rows if row is not best]
    if (second := best_for(others, surely)) is not None:
        interval = ahead(best, second)
        level = interval is not None and interval.lower(INTERVAL_TAIL) <= 0 <= interval.upper(INTERVAL_TAIL)
        text += f"; {'level with' if level else 'next comes'} {second.name} at {points[second.name].accuracy:.4f}"
        if interval is not None:
            text += f", ahead by {_with_ends(interval.drop, interval)}"
    if (unsure := best_for(others, perhaps)) is not None:
        text += f"; {unsure.name} at {points[unsure.name].accuracy:.4f} is within noise of the budget"
    why = ""
    if held[best.name] is None:
        why = why_unsure(best, budget) or point.unsteady or f"its ×{point.speed_up:.2f} is within noise of the budget"
        text += f"; INCONCLUSIVE: {why}; run it again on a quiet machine"
    return Recommendation(budget, best.name, text, keys, inconclusive=why), best


def _with_ends(difference: float, interval: DropInterval | None) -> str:
    """A difference of accuracy, and its 95 % interval over images where one is known."""
    text = f"{difference:+.4f}"
    if interval is None:
        return text
    if interval.standard_error is None:
        return f"{text} ({interval.images} images {interval.why_unknown})"
    return f"{text} ({interval.lower(INTERVAL_TAIL):+.4f} to {interval.upper(INTERVAL_TAIL):+.4f})"


def _keys(row: Row, kind: Kind, value: float) -> Keys:
    """Keys of a profile whose build comes to this row: there a speed-up is a ratio to the form itself, unpruned."""
    if kind == "latency_ms":
        return {**row.form.keys, "budget.latency_ms": value}
    left = 1.0 if not row.budget or row.screened_speed_up is None else max(value / row.screened_speed_up, 1.0)
    return {**row.form.keys, "budget.speed_up": math.ceil(left * 100) / 100}
