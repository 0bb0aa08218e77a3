"""The build: the visible list of stages, and the rule by which each one runs, is reused, and is judged."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgeprune.artifact import is_full, write_atomically
from edgeprune.carry import out as carry
from edgeprune.carry.kept import is_of_a_board, kept_answers
from edgeprune.devices.local import LocalDevice
from edgeprune.errors import DataError, EdgepruneError, StageError, TargetError
from edgeprune.logs import capture_output
from edgeprune.progress import Progress, Reporter, one_run
from edgeprune.quiet import one_thread
from edgeprune.records.build import BuildResult, MeasurementRow
from edgeprune.records.show import read_build
from edgeprune.runtimes.site import ON_DEVICE, open_site
from edgeprune.samples.gates import Gate, Verdict
from edgeprune.scratch import scratch
from edgeprune.settings import Overrides, check_seed
from edgeprune.stages import (
    baseline,
    engine,
    export,
    finetune,
    pretrain,
    prune,
    qat,
    quantize,
    simplify,
    sparsify,
)
from edgeprune.stages.base import Build, BuildReporter, Judgement, Stage, Weights, build_reporter_of
from edgeprune.stages.inputs import Inputs, build_command, levers_command, read_inputs
from edgeprune.stages.results import StagesResult, write_results
from edgeprune.target import PROFILE, Target, is_shipped, load_target, name_to_type, profile_yaml
from edgeprune.workspace import (
    LOG,
    BuildState,
    Key,
    Record,
    StageRun,
    Workspace,
    differences,
    has_finished_stage,
    has_logs,
    open_workspace,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack


Facts = TypeVar("Facts")
SCREENED = "screened"  # folder of the run directory for what was measured of levers without training
STAGES: tuple[Stage[Any], ...] = (
    pretrain.STAGE,
    baseline.STAGE,
    sparsify.STAGE,
    prune.STAGE,
    finetune.STAGE,
    export.STAGE,
    simplify.STAGE,
    qat.STAGE,
    quantize.STAGE,
    engine.STAGE,
)
"""In the order in which data flows; the bundle, written after the last, is not a stage that could be reused."""


@one_thread()
@one_run()
def build(
    target: str | Path | Target,
    weights: str | Path,
    data: str | Path,
    *,
    out: str | Path | None = None,
    seed: int = 0,
    trust: bool = False,
    progress: Progress | Reporter | None = None,
    **overrides: Unpack[Overrides],
) -> BuildResult:
    """Prune, fine-tune, export and compile a model until a measurement on the target says that it meets the budget.

    What is finished in ``out`` under the same inputs is reused; gates on latency are always measured afresh.

    Args:
        target: name of a shipped profile, path of a profile, or a :class:`~edgeprune.target.Target`.
        weights: an Ultralytics checkpoint (``.pt``), a name that Ultralytics downloads (``yolov8n.pt``), or a model
            description (``.yaml``) that is trained first.
        data: an Ultralytics dataset YAML, by path or name.
        out: run directory; ``runs/<target>`` when not given.
        seed: of training, sampling and importance.
        trust: load a checkpoint that holds classes outside Ultralytics and torch; this executes code from the file.
        progress: called as the work moves, or a :class:`~edgeprune.progress.Reporter`, which hears of stages and gates
            too where it is a :class:`~edgeprune.stages.base.BuildReporter`; nobody by default.
        overrides: what replaces the target's own: ``latency_ms``, ``speed_up``, ``macs_speed_up``, ``max_map_drop``,
            ``imgsz``, ``epochs``, ``until``, ``device`` (:class:`edgeprune.settings.Overrides`).

    Raises:
        TargetError: the profile or an argument is wrong, or the budget is out of reach. Nothing was written for a
            wrong argument; an unreachable budget is found before any fine-tuning.
        DataError: weights or dataset are unreadable, unsafe or contradict each other. Nothing was written.
        DeviceError: the device cannot be reached, is another board than the profile's, or lacks its runtime. What was
            finished stays.
        StageError: a stage broke its promise; what was finished before it stays. Or another thread of this process is
            at work.
    """
    check_seed(seed)
    reporter = build_reporter_of(progress)
    given = load_target(target)
    root = Path(out) if out is not None else Path("runs") / given.name
    profile = root / PROFILE if isinstance(target, Target) and not is_shipped(target) else None
    name = name_to_type(target, root / PROFILE)
    target = given.with_overrides(**overrides)
    if root.exists() and not root.is_dir():
        raise TargetError(f"--out {root}: is a file; give the path of a folder")
    inputs = read_inputs(target, weights, data, trust, overrides.get("imgsz"))
    target, source = inputs.target, inputs.weights
    argv = build_command(name, weights, data, trust, {**overrides, "out": out, "seed": seed or None})

    levers = ""
    if target.levers == "auto":
        target, levers = _levers(target, inputs, root, seed, trust, reporter)
    fresh = not root.exists()
    with (
        scratch(),
        open_site(target, seed=seed, reporter=reporter) as site,
        _remove_if_refused(root, fresh and source.trained),
        open_workspace(root) as workspace,
    ):
        if profile is not None:  # a target made in Python has no name that a command could repeat it by
            write_atomically(profile, profile_yaml(given))
        command = ""
        if not site.usable:
            command = _next_command(target, site.remedy, root, argv)
            why = site.availability.detail
            reporter.note(f"{target.runtime} is not usable here ({why}): its gates stay PENDING")
            if why := carry.why_not_carried(target):
                reporter.note(f"warning: no folder for the board is packed: {why}")
        if note := site.target.head_note(known=site.usable):
            reporter.note(note)
        reporter.note(str(inputs.size))
        if before := _replaced(root, source, waits=not site.usable and carry.waits_for_board(target)):
            reporter.note(before)
        state = Build(site, source, inputs.dataset, trust, workspace, reporter, command, size=inputs.size)
        state.levers = levers
        stated = {**overrides, "seed": seed or None}
        state.other_levers = levers_command(given, name, weights, data, target.budget, stated, trust)
        finished = run_stages(state, argv)
        inputs.dataset.require_unchanged()  # of the judging too
        with _full_disk_told(root):
            carried = carry.carried_files(state) if carry.is_carried(state) else {}
            answered, told = kept_answers(state, carried)
            if told:
                reporter.note(told)
            result = write_results(state, argv, finished, carried, answered)
        workspace.remove_old([record.key for record in state.records.values()])
        return result


def _replaced(root: Path, source: Weights, *, waits: bool = False) -> str:
    """What a run directory says about its last finished build, where that has other weights than these, or is judged by
    what a board measured; ``waits``: this one waits for its board."""
    try:
        before = read_build(root)
    except DataError:  # none has finished here, or its record cannot be read; it is written anew either way
        return ""
    seen = f"{root} holds a build of {before.weights.path}"
    of_board = is_of_a_board(before)
    if of_board:
        seen += f", with what a board measured (verdict {before.verdict.value}, brought by import-results)"
    if before.weights.sha256 != source.sha256:
        return f"{seen}: its bundle and report are replaced at the end of this one"
    fate = "stays if this one asks the same of the board, and is replaced at its end if not" if waits else "is replaced"
    return f"{seen}, which {fate}; for both, give this one another --out" if of_board else ""


def _levers(
    target: Target, inputs: Inputs, root: Path, seed: int, trust: bool, reporter: BuildReporter
) -> tuple[Target, str]:
    """The target with the levers that a screening chose, and why; as it is named where nothing can be measured."""
    if not inputs.weights.trained:
        raise TargetError(f"levers: auto needs a trained checkpoint (.pt); seen: {inputs.weights.path}")
    from edgeprune import checkpoint
    from edgeprune.frontier.auto import choose_precision

    with scratch(), open_site(target, seed=seed, reporter=reporter) as site:
        if not site.usable or site.runtime.simulated:
            why = "levers auto: nothing can be measured here; the number format stays as it is named"
            reporter.note(why)
            return target.changed({"levers": "named"}), why
        source = checkpoint.load(inputs.weights.path, trust=trust)
        # two builds that screen at once would disturb each other's measurements
        with open_workspace(root), _full_disk_told(root):
            chosen, why = choose_precision(site, source, inputs.dataset, root / SCREENED, stated=target)
    reporter.note(why)
    chosen_keys = {"precision": chosen.precision, "export.head": chosen.export.head, "export.nms": chosen.export.nms}
    return target.changed({**chosen_keys, "levers": "named"}), why


@contextlib.contextmanager
def _remove_if_refused(root: Path, fresh: bool) -> Iterator[None]:
    """Remove a run directory that was made for a request that turns out to be wrong (``fresh``); what a stage finished
    in it is never removed."""
    try:
        yield
    except (TargetError, DataError):
        if fresh and not has_finished_stage(root):
            shutil.rmtree(root, ignore_errors=True)
        raise


def run_stages(build: Build, argv: Sequence[str], stages: Sequence[Stage[Any]] = STAGES) -> StagesResult:
    """Run, or reuse, each stage that this build needs, and judge it; ``build.records`` has them afterwards."""
    gates: list[Gate] = []
    measurements: list[MeasurementRow] = []
    runs: list[StageRun] = []
    left_out = 0
    for place, stage in enumerate(stages, 1):
        if not stage.needed(build):
            left_out += 1
            if why := stage.left_out(build):
                build.reporter.note(why)
            continue
        number, total = place - left_out, _count(build, stages) + 1
        with _full_disk_told(build.workspace.root):
            key = stage.key(build)
            record = build.workspace.find(key, stage.facts)
            build.reporter.stage(stage.name, number, total, record is not None)
            runs.append(_stage_run(build.workspace, key, record is not None))
            build.workspace.write_state(BuildState(tuple(argv), tuple(runs)))
            record = _run(build, stage, key) if record is None else _completed(build, stage, record)
            judged = _judged(build, stage, record)
            if runs[-1].reused and (why := _made_again(build, stage, record, judged)):
                build.reporter.note(f"stage {stage.name} is made again: {why}")
                build.reporter.stage(stage.name, number, total, False)
                runs[-1] = replace(runs[-1], reused=False, again=why)
                build.workspace.write_state(BuildState(tuple(argv), tuple(runs)))
                del build.records[stage.name], build.judged[stage.name]
                judged = _judged(build, stage, _run(build, stage, key))
            if Verdict.PASS in _of_the_budget(build.target, judged):
                _settle(build, stages, held=True)
        build.reporter.gates(judged.gates)
        gates += judged.gates
        measurements += [MeasurementRow(stage.name, role, measurement) for role, measurement in judged.measurements]
    with _full_disk_told(build.workspace.root):
        _settle(build, stages, held=False)
    build.reporter.stage("bundle", len(runs) + 1, len(runs) + 1, False)
    return StagesResult(tuple(gates), tuple(measurements), frozenset(run.stage for run in runs if run.reused))


def _judged(build: Build, stage: Stage[Facts], record: Record[Facts]) -> Judgement:
    build.records[stage.name] = record
    with capture_output(record.folder / LOG, show=False):
        judged = build.judged[stage.name] = stage.judge(build, record)
    return judged


def _made_again(build: Build, stage: Stage[Facts], record: Record[Facts], judged: Judgement) -> str:
    """Why a result that is there is made again; empty where it stays.

    It was unsure, and no measurement has shown the budget held. A build that was stopped goes on with it all the same,
    so that the epochs of its training are not lost, unless the budget is missed for sure by now.
    """
    verdicts = _of_the_budget(build.target, judged)
    stays = record.held is None and Verdict.FAIL not in verdicts
    return "" if record.held or Verdict.PASS in verdicts or stays else stage.unsure(build, record)


def _settle(build: Build, stages: Sequence[Stage[Any]], *, held: bool) -> None:
    """Keep with the stages so far that were unsure that the budget was shown to be held behind them, or that a build
    has come to its end without that."""
    for stage in stages:
        record = build.records.get(stage.name)
        if record is not None and not record.held and record.held is not held and stage.unsure(build, record):
            build.records[stage.name] = build.workspace.settle(record, held=held)


def _of_the_budget(target: Target, judged: Judgement) -> set[Verdict]:
    """Verdicts of the gates that held a measured latency against the budget."""
    budget = target.budget
    limit = 1.0 if budget.kind == "macs_speed_up" else budget.value  # asked of its latency: not to be slower
    metrics = (f"latency {budget.statistic}", "speed-up")
    return {gate.verdict for gate in judged.gates if gate.limit == limit and gate.metric.endswith(metrics)}


def _count(build: Build, stages: Sequence[Stage[Any]]) -> int:
    """How many stages this build has, as far as it is known by now."""
    return sum(stage.needed(build) for stage in stages)


def _run(build: Build, stage: Stage[Facts], key: Key) -> Record[Facts]:
    began = time.perf_counter()
    try:
        with _full_disk_told(build.workspace.root, stage.name), build.workspace.partial(key) as folder:
            with capture_output(folder / LOG, show=stage.shows_output):
                output = stage.run(build, folder, key)
            build.dataset.require_unchanged()
            return build.workspace.publish(key, folder, output.artifacts, output.facts, time.perf_counter() - began)
    except EdgepruneError:
        if has_logs(logs := build.workspace.failed_logs(key)):
            build.reporter.note(
                f"stage {stage.name} ended without a result, for the reason below; its log is in {logs}"
            )
        raise


@contextlib.contextmanager
def _full_disk_told(root: Path, stage: str = "") -> Iterator[None]:
    """A disk that fills up in the block is told in one line: in a stage, between two, and where results are written."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            where = f"stage {stage}: " if stage else ""
            raise StageError(
                f"{where}the disk of {root} is full; free some space and give the same command again: it goes on from "
                "here"
            ) from error
        raise


def _completed(build: Build, stage: Stage[Facts], record: Record[Facts]) -> Record[Facts]:
    with capture_output(record.folder / LOG, show=False):
        facts = stage.complete(build, record)
    return record if facts is None else build.workspace.with_facts(record, facts)


def _stage_run(workspace: Workspace, key: Key, reused: bool) -> StageRun:
    earlier = workspace.earlier(key)
    if earlier is None:
        return StageRun(key.stage, key.digest, key.folder_name, reused, compared_with=None, differs=())
    folder, other = earlier
    return StageRun(
        key.stage, key.digest, key.folder_name, reused, folder.name, tuple(differences(other.inputs, key.inputs))
    )


def _next_command(target: Target, remedy: str, root: Path, argv: Sequence[str]) -> str:
    # Engines belong to the board that they were built on; nothing of it can be prepared elsewhere.
    if carry.waits_for_board(target):
        return carry.carry_command(root)
    here = shlex.join(argv)
    if target.device.kind == "jetson" and (remedy == ON_DEVICE or not LocalDevice().facts().l4t):  # its remedy is none
        named = any(word.partition("=")[0] == "--device" for word in argv)
        # TensorRT's module runs in the process of the command: on the board itself
        return here if named or target.runtime == "tensorrt" else shlex.join([*argv, "--device", "user@board"])
    return f"{remedy} && {here}" if remedy else here
