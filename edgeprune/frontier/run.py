"""One budget, every lever: screen them, train what may be worth it alike, measure it, recommend.

What is trained is a point of a sweep (:mod:`edgeprune.sweep`): kept in the folder, made here or on a Ray cluster.
Further levers belong in :mod:`edgeprune.frontier.levers`, as forms.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from edgeprune.artifact import write_atomically
from edgeprune.dataset import Dataset
from edgeprune.dataset.images import read_image
from edgeprune.errors import DeviceError, first_line
from edgeprune.frontier.budgets import Budgets, budget_words, require_possible
from edgeprune.frontier.choose import (
    Planned,
    as_measured,
    build_keys,
    choice_for,
    floor_of,
    one_a_name,
    plan,
    with_frontier,
)
from edgeprune.frontier.levers import TRAINED, forms, refused_by
from edgeprune.frontier.output_form import OutputForm, choose_output
from edgeprune.frontier.screening import Screening, screen, with_trained_int8
from edgeprune.input_size import Size
from edgeprune.measure.per_image import load_per_image
from edgeprune.measure.variants import site_with
from edgeprune.options import plain_number
from edgeprune.progress import Progress, Reporter, one_run, reporter_of
from edgeprune.quiet import quiet
from edgeprune.records.frontier import (
    Choice,
    Form,
    Frontier,
    Identity,
    Keys,
    Kind,
    Recommendation,
    Row,
    Screened,
)
from edgeprune.records.gates import words_of_images
from edgeprune.records.sweep import Point
from edgeprune.report.frontier import choice_sentence, frontier_page, frontier_table
from edgeprune.runtimes.site import open_site
from edgeprune.samples.average_precision import DropInterval, drop_interval
from edgeprune.samples.gates import metric_name
from edgeprune.scratch import scratch
from edgeprune.search.inputs import read_inputs, require_prunable
from edgeprune.serial import write_json
from edgeprune.settings import check_seed
from edgeprune.stages.inputs import build_command
from edgeprune.sweep.jobs_ray import conditions_on_ray, device_resource
from edgeprune.sweep.point import Content, Job, Steps, conditions_of
from edgeprune.sweep.run import (
    checkpoint_file,
    checkpoints_apart,
    finish_jobs,
    jobs_of,
    per_image_file,
    point_file,
    refuse_lacking_heads,
    require_budgets,
    require_options,
    require_trainable,
    require_training,
    with_teacher_found,
)
from edgeprune.sweep.steps import COMPILED, RealSteps
from edgeprune.target import (
    PROFILE,
    Budget,
    Target,
    extending_yaml,
    is_shipped,
    load_target,
    name_to_extend,
    name_to_type,
    profile_yaml,
)
from edgeprune.workspace import open_workspace

IMAGES = 32  # that are looked at for their shape, at most


@scratch()
@one_run()
def frontier(
    target: str | Path | Target,
    weights: str | Path,
    data: str | Path,
    *,
    out: str | Path,
    kind: Kind,
    budgets: Sequence[float],
    also: str | Path | Sequence[str | Path] = (),
    epochs: int | None = None,
    device: str | None = None,
    imgsz: Size | None = None,
    jobs: str = "here",
    seed: int = 0,
    trust: bool = False,
    progress: Progress | Reporter | None = None,
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
        budgets: their values; ratios are above 1.
        also: a further checkpoint that is at hand, of another scale, or several.
        epochs: of every row that is trained; the profile's when not given, 0 for none.
        device: where the target's runtime is: ``user@host[:port]``; the profile's, or this machine, when None.
        imgsz: a side, or height and width, in pixels; see :mod:`edgeprune.input_size` for what holds when None.
        jobs: ``here`` or ``ray``.
        seed: of everything drawn.
        trust: load checkpoints with foreign classes.
        progress: called as the work moves, or a :class:`~edgeprune.progress.Reporter`; nobody by default.

    Raises:
        TargetError: a wrong argument, a checkpoint that is given twice, or a profile with ``sparsify``.
        DataError: weights or dataset are unreadable, another checkpoint is of another task or other classes, or the
            profile's teacher cannot teach.
        DeviceError: the target's runtime is not here; with ``ray``, the device is another than the cluster's.
        StageError: another process works in ``out``.
    """
    run = FrontierRun(
        target,
        weights,
        data,
        out=out,
        kind=kind,
        budgets=budgets,
        also=also,
        epochs=epochs,
        device=device,
        imgsz=imgsz,
        jobs=jobs,
        seed=seed,
        trust=trust,
        progress=progress,
    )
    return run.made()


@dataclass(frozen=True)
class Levers:
    """What the screening leaves.

    Attributes:
        target: with the output form that every row has.
        output: that form, and why.
        asked: every form that was asked for, the baseline first.
        found: what was measured of them without training.
        budgets: what is asked, beside the baseline.
        conditions: of the measurements: the device, and versions of packages.
    """

    target: Target
    output: OutputForm
    asked: tuple[Form, ...]
    found: Screening
    budgets: Budgets
    conditions: Mapping[str, str]

    @property
    def screened(self) -> dict[Identity, Screened]:
        """What was measured, by its form."""
        return {one.form.identity: one for one in self.found.screened}


@dataclass(frozen=True)
class TrainedRows:
    """What was trained and measured, and what was not.

    Attributes:
        rows: all of them, the baseline first.
        made_by: name of a measured row to its job.
    """

    rows: tuple[Row, ...]
    made_by: Mapping[str, Job]


class FrontierRun:
    """A frontier in four steps: :meth:`screen`, :meth:`train`, :meth:`recommend`, :meth:`write`; :meth:`made` takes
    them all. What cannot be done is refused when it is set up, and nothing is written before the screening.

    Args: as :func:`frontier`, and:
        steps: what makes a row's point; the real steps when None.
        screener: what times forms without training.
        everything: train what the screening leaves out too, to see whether it was left out rightly; recommended is what
            would be without it.
    """

    def __init__(
        self,
        target: str | Path | Target,
        weights: str | Path,
        data: str | Path,
        *,
        out: str | Path,
        kind: Kind,
        budgets: Sequence[float],
        also: str | Path | Sequence[str | Path] = (),
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
    ) -> None:
        check_seed(seed)
        require_options(jobs, epochs)
        require_budgets(budgets)
        self.weights, self.data, self.out, self.device, self.imgsz = weights, data, Path(out), device, imgsz
        self.kind: Kind = kind
        self.values, self.jobs, self.seed, self.trust = tuple(map(plain_number, budgets)), jobs, seed, trust
        self.steps, self.screener, self.everything = steps or RealSteps(), screener, everything
        self.reporter = reporter_of(progress)
        self.stated_target = load_target(target)
        self.made_in_python = isinstance(target, Target) and not is_shipped(target)  # no name stands for it
        self.profile = name_to_type(target, self.out / PROFILE)
        asked = with_teacher_found(self.stated_target.with_overrides(device=device))
        require_trainable(asked, epochs)
        require_possible(asked, kind, self.values)
        asked = asked.with_budget(kind, self.values[0])
        splits = {"train", "val", asked.accuracy.split}
        inputs = read_inputs(asked, weights, data, trust=trust, splits=splits, imgsz=imgsz)
        assert inputs.dataset is not None  # it was given
        self.target, self.source, self.dataset = inputs.target, inputs.source, inputs.dataset
        require_prunable(self.target, self.source)
        self.sources = checkpoints_apart(self.source, also, "--also", self.target, trust=trust, reporter=self.reporter)
        self.epochs = self.target.finetune.epochs if epochs is None else epochs
        self.metric = metric_name(self.source.task)
        self.reporter.note(str(inputs.size))
        if self.epochs:
            students = self.sources.values()
            require_training(self.target, self.dataset, students, jobs, trust=trust, reporter=self.reporter)

    def made(self) -> Frontier:
        """All steps; the folder is held until everything is written."""
        with contextlib.ExitStack() as until_written:
            levers = self.screen(until_written)
            trained = self.train(levers)
            return self.write(levers, trained, self.recommend(levers, trained))

    def screen(self, until_written: contextlib.ExitStack) -> Levers:
        """Choose the output form, and time every form beside the baseline; no training.

        Args:
            until_written: takes the hold on the folder: a second process would disturb these measurements, and mix its
                rows with these.
        """
        if self.jobs == "ray":
            require_device_of_cluster(self.target)
        kept = self.out / "screened"
        with (
            open_site(self.target, seed=self.seed, reporter=self.reporter) as site,
            TemporaryDirectory(prefix="edgeprune-frontier-", ignore_cleanup_errors=True) as scratch,
            quiet(),
        ):
            site.require_usable()
            refuse_lacking_heads(self.sources, "--also", site.target)
            until_written.enter_context(open_workspace(self.out, "frontier"))
            if self.made_in_python:
                write_atomically(self.out / PROFILE, profile_yaml(self.stated_target))
            conditions = conditions_of(site)
            main, *others = self.sources
            folder = Path(scratch)
            output = choose_output(
                site, self.source, main, self.dataset, folder / "outputs", kept, screener=self.screener
            )
            if output.why:
                self.reporter.note(output.why)
            site = site_with(site, output.keys)
            aspect = None if self.source.task == "classify" else _aspect(self.dataset)
            target = self.target.changed(output.keys)
            asked = forms(target, main, others, aspect, self.source.stride)
            refused = refused_by(target, asked)
            able = [form for form in asked if form.name not in refused]
            found = self.screener(site, able, self.sources, self.dataset, folder / "forms", kept, self.out / COMPILED)
        found = replace(found, refused={**refused, **found.refused})
        found, for_int8 = with_trained_int8(found, target, self.epochs)
        budgets = Budgets.beside(found.screened[0].ms, self.kind, self.values)
        return Levers(target, output, (*asked, *for_int8), found, budgets, conditions)

    def train(self, levers: Levers) -> TrainedRows:
        """Train and measure what the screening does not leave out, each row as a job of a sweep."""
        planned = plan(levers.found.screened, levers.budgets.ratios, everything=self.everything)
        trained = [one for one in planned if one.trained]
        self.reporter.note(f"{len(levers.found.screened)} forms screened; {len(trained)} rows to train and measure")
        jobs = self._jobs(levers, trained)
        swept, check = self.contents[self.source.path], self.dataset.require_unchanged
        points = finish_jobs(jobs, swept, self.out, self.jobs, self.steps, self.reporter, check)
        measured = [as_measured(_row(one, levers, point)) for one, point in zip(trained, points, strict=True)]
        made_by: dict[str, Job] = {}
        for row, job in zip(measured, jobs, strict=True):
            if row.measured is not None:
                made_by.setdefault(row.name, job)
        untrained = [_row(one, levers) for one in planned if not one.trained]
        refused = [
            Row(form.name, form, "", None, None, levers.found.refused[form.name])
            for form in levers.asked
            if form.name in levers.found.refused
        ]
        return TrainedRows(tuple(with_frontier(one_a_name([*measured, *untrained, *refused]))), made_by)

    def recommend(self, levers: Levers, trained: TrainedRows) -> tuple[Recommendation, ...]:
        """What to take for every budget, with the profile and the command that build it; nothing is written."""

        def ahead(first: Row, second: Row) -> DropInterval | None:
            own, other = first.measured, second.measured
            files = [per_image_file(self.out, trained.made_by[row.name]) for row in (first, second)]
            if own is None or other is None or not all(file.is_file() for file in files):
                return None
            seen, seen_by_other = map(load_per_image, files)
            return drop_interval(seen, seen_by_other, own.accuracy - other.accuracy, seed=self.seed)

        kept, allowed = [row for row in trained.rows if not row.dropped], levers.target.accuracy.max_map_drop
        split, trained_on = self._images_that_judge()
        found = []
        for value in self.values:
            choice = choice_for(kept, self.kind, value, budget_words(self.kind, value))
            floor = floor_of(choice, allowed, self.metric, ahead, split=split, trained_on=trained_on)
            job = None if choice.best is None else trained.made_by.get(choice.best.name)
            again = None if job is None else point_file(self.out, job)
            sentence = choice_sentence(choice, self.metric, ahead, floor, trained=self.epochs > 0, kept=again)
            if choice.best is None:
                found.append(Recommendation(choice.budget, None, sentence, {}))
            else:
                built = self._built(choice, choice.best, value, sentence, levers, trained)
                found.append(replace(built, floor=None if floor is None else floor.gate))
        return tuple(found)

    def write(self, levers: Levers, trained: TrainedRows, recommended: tuple[Recommendation, ...]) -> Frontier:
        """A profile for every recommendation, the record, the table and the page."""
        made = Frontier(
            self.profile,
            self.kind,
            self.values,
            self.target.budget.statistic,
            self.metric,
            self.epochs,
            trained.rows,
            recommended,
            levers.found.seconds,
            levers.output.why,
            levers.output.measured,
            self.dataset.judging_split(self.target.accuracy.split),
            self.target.finetune.time_h if self.epochs else None,
            scope=self.target.budget.scope,
        )
        base = name_to_extend(self.profile, self.out)
        for one in recommended:
            if one.row is not None:
                write_atomically(self._profile_of(one.budget), extending_yaml(base, one.keys))
        write_json(self.out / "frontier.json", made)
        write_atomically(self.out / "frontier.md", frontier_table(made).markdown() + "\n")
        write_atomically(self.out / "frontier.html", frontier_page(made))
        return made

    @cached_property
    def contents(self) -> dict[Path, Content]:
        """Bytes of every checkpoint by its path, read once for all rows."""
        return {one.path: Content(one.path.read_bytes()) for one in self.sources.values()}

    def _images_that_judge(self) -> tuple[str, str]:
        split = self.dataset.judging_split(self.target.accuracy.split)
        count, also_in = len(self.dataset.images(split)), self.dataset.also_in(split)
        trained_on, chosen_on = (count if split == name else also_in.get(name, 0) for name in ("train", "val"))
        return words_of_images(split, count, trained_on=trained_on, chosen_on=chosen_on)

    def _jobs(self, levers: Levers, trained: Sequence[Planned]) -> list[Job]:
        """The job of every row: trained alike, and held against the model as the target runs it."""
        target, budgets = levers.target, levers.budgets
        reference = target, self.contents[self.source.path]
        alike = jobs_of(
            self.data,
            self.dataset.digest,
            self.source.task,
            seed=self.seed,
            trust=self.trust,
            out=self.out,
            conditions=levers.conditions,
        )
        main = next(iter(self.sources))
        jobs = []
        for one in trained:
            asked, whose = target.changed(one.form.keys), f"{main} " if one.form.weights == main else ""
            if one.prune_to is not None:
                asked = asked.with_budget(budgets.kind, budgets.at(one.prune_to))
            unpruned = levers.screened[one.form.identity].speed_up
            jobs.append(
                alike(
                    name=_file_name(f"{whose}{one.form.name} {budgets.words_at(one.prune_to)}"),
                    weights=self.contents[self.sources[one.form.weights].path],
                    target=asked,
                    pruned=one.prune_to is not None,
                    epochs=self.epochs,
                    reference=reference,
                    start_used=None if one.prune_to is None else one.prune_to / unpruned,
                )
            )
        return jobs

    def _built(
        self, choice: Choice, best: Row, value: float, sentence: str, levers: Levers, trained: TrainedRows
    ) -> Recommendation:
        """The recommendation of a row: its profile's keys, its weights, and the command of its build."""
        # A build trains what it prunes; what it does not prune ships as it is given, or is trained for INT8 alone.
        baseline = levers.found.screened[0].form
        job = trained.made_by.get(baseline.name if TRAINED in best.form.keys else best.form.name)
        weights = self.sources[best.form.weights].path
        if not best.budget and job is not None and (tuned := checkpoint_file(self.out, job)).is_file():
            weights = tuned
        stated = {**_stated(levers.target, self.imgsz), **levers.output.keys}
        if self.imgsz is None:  # else it is stated, and what the profile says need not fit this checkpoint
            own = self.sources[best.form.weights].size_for(profile=self.stated_target.stated_imgsz)
            if own.side != levers.target.imgsz:  # its build would be at its own size, which none measured
                stated["imgsz"] = levers.target.imgsz
        keys = {**stated, **build_keys(best, self.kind, value, levers.target)}
        if best.budget and self.epochs:
            keys["finetune.epochs"] = self.epochs
        options = {"device": self.device, "seed": self.seed or None}
        command = build_command(str(self._profile_of(choice.budget)), weights, self.data, self.trust, options)
        return Recommendation(choice.budget, best.name, sentence, keys, str(weights), tuple(command), choice.why)

    def _profile_of(self, budget: str) -> Path:
        return self.out / f"build-{_file_name(budget)}.yaml"


def require_device_of_cluster(target: Target) -> None:
    """Refuse a cluster whose device is another than this machine's: forms are screened here and rows made there, and
    ratios of two devices are not held against each other.

    Raises:
        DeviceError: there is no such device here, or it is another, or no node of the cluster has one.
    """
    there = conditions_on_ray(target)
    try:
        with open_site(target) as site:
            site.require_usable()
            here = conditions_of(site)
        differ = [key for key in sorted({*here, *there}) if here.get(key) != there.get(key)]
        seen = [f"{key} is {here.get(key, 'missing')} here and {there.get(key, 'missing')} there" for key in differ]
    except DeviceError as error:
        seen = [first_line(error)]
    if seen:
        raise DeviceError(
            f"--jobs ray: forms are screened on this machine, on the device on which the cluster makes the rows; seen: "
            f"{seen[0]}; next: start this command on the node that offers {device_resource(target.name)}"
        )


def _aspect(dataset: Dataset) -> float:
    """Median of height over width of some training images, spread over the split."""
    images = dataset.images("train")
    shapes = [read_image(image).shape for image in images[:: -(-len(images) // IMAGES)]]
    return median(height / width for height, width, *_ in shapes)


def _file_name(words: str) -> str:
    return re.sub(r"[^\w.]+", "-", words.replace("×", "x")).strip("-")


def _row(one: Planned, levers: Levers, point: Point | None = None) -> Row:
    form, budget = one.form, levers.budgets.words_at(one.prune_to)
    pruned = f"pruned to {budget}" if form.keys == {} and not form.levers else f"{form.name}, pruned to {budget}"
    seen = levers.screened[form.identity]
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
