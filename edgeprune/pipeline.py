"""The build: the visible list of stages, and the rule by which each one runs, is reused, and is judged."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edgeprune
from edgeprune.carry import out as carry
from edgeprune.errors import DataError, StageError, TargetError
from edgeprune.options import image_side
from edgeprune.samples.gates import Gate, Verdict, overall
from edgeprune.samples.measurement import Measurement
from edgeprune.stages import (
    baseline,
    bundle,
    engine,
    export,
    finetune,
    pretrain,
    prune,
    quantize,
    simplify,
    sparsify,
)
from edgeprune.stages.base import Context, Reporter, Silent, Stage, Weights, installed
from edgeprune.target import Target, load_target
from edgeprune.workspace import LOG, Key, Record, Workspace, differences, flat

if TYPE_CHECKING:
    from edgeprune.measure.scenes import Scene
    from edgeprune.report.drawing import Plot

STAGES: tuple[Stage, ...] = (
    pretrain.STAGE,
    baseline.STAGE,
    sparsify.STAGE,
    prune.STAGE,
    finetune.STAGE,
    export.STAGE,
    simplify.STAGE,
    quantize.STAGE,
    engine.STAGE,
)
"""In the order in which data flows; the bundle, written after the last, is not a stage that could be reused."""

SCENES = 4  # images of the report
REPORTED_PACKAGES = (
    "torch",
    "torchvision",
    "ultralytics",
    "torch-pruning",
    "onnx",
    "onnxsim",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "numpy",
)


@dataclass(frozen=True)
class BuildResult:
    """What a build came to.

    Attributes:
        verdict: the worst of the gates.
        gates: every row of the verdict table.
        out: the run directory.
        bundle: what ships.
        report: the report for people; ``report.html`` beside it has the figures.
        record: the content of ``bundle/build.json``.
    """

    verdict: Verdict
    gates: tuple[Gate, ...]
    out: Path
    bundle: Path
    report: Path
    record: dict[str, Any]

    def figures(self) -> list[Plot]:
        """The figures of the report, to be shown in a notebook."""
        from edgeprune.report.plots import plots

        return plots(self.record)

    def _repr_html_(self) -> str:
        """The verdict and its table, in a notebook; the figures are in ``report.html`` beside ``report``."""
        from edgeprune.report.page import table
        from edgeprune.report.text import COLUMNS, gate_cells

        rows = [gate_cells(gate) for gate in self.record["gates"]]
        return f"<p><strong>{self.record['target']['name']}: {self.verdict.value}</strong></p>{table(COLUMNS, rows)}"


def build(
    target: str | Path | Target,
    weights: str | Path,
    data: str | Path,
    *,
    latency_ms: float | None = None,
    speed_up: float | None = None,
    macs_speed_up: float | None = None,
    max_map_drop: float | None = None,
    imgsz: int | None = None,
    epochs: int | None = None,
    device: str | None = None,
    until: str | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    trust: bool = False,
    reporter: Reporter | None = None,
) -> BuildResult:
    """Prune, fine-tune, export and compile a model until a measurement on the target says that it meets the budget.

    What is finished in ``out`` under the same inputs is reused; gates on latency are always measured afresh.

    Args:
        target: name of a shipped profile, path of a profile, or a :class:`~edgeprune.target.Target`.
        weights: an Ultralytics checkpoint (``.pt``), a name that Ultralytics downloads (``yolov8n.pt``), or a model
            description (``.yaml``) that is trained first.
        data: an Ultralytics dataset YAML, by path or name.
        latency_ms: replaces the profile's budget: milliseconds of its statistic on the target.
        speed_up: replaces the budget: measured latency ratio.
        macs_speed_up: replaces the budget: MACs ratio.
        max_map_drop: replaces the accuracy floor: largest absolute loss of mAP50-95.
        imgsz: replaces the input size in pixels; a multiple of 32.
        epochs: replaces the fine-tune epochs.
        device: where engines are built and timed, ``user@host[:port]``; the profile's ``device.host`` when not given.
        until: replaces when fine-tuning may end early: ``map_drop <= 0.01``.
        out: run directory; ``runs/<target>`` when not given.
        seed: of training, sampling and importance.
        trust: load a checkpoint that holds classes outside Ultralytics and torch; this executes code from the file.
        reporter: who watches; nobody by default.

    Raises:
        TargetError: the profile or an argument is wrong, or the budget is out of reach. Nothing was written for a
            wrong argument; an unreachable budget is found before any fine-tuning.
        DataError: weights or dataset are unreadable, unsafe or contradict each other. Nothing was written.
        DeviceError: the device cannot be reached, is another board than the profile's, or lacks its runtime. What was
            finished stays.
        StageError: a stage broke its promise; what was finished before it stays.
    """
    reporter = reporter or Silent()
    profile = target if isinstance(target, Target) else load_target(target)
    profile = profile.with_overrides(
        latency_ms=latency_ms,
        speed_up=speed_up,
        macs_speed_up=macs_speed_up,
        max_map_drop=max_map_drop,
        imgsz=imgsz,
        epochs=epochs,
        device=device,
        until=until,
    )
    root = Path(out) if out is not None else Path("runs") / profile.name
    if root.exists() and not root.is_dir():
        raise TargetError(f"--out {root}: is a file; give the path of a folder")
    source, dataset = _checked_inputs(profile, weights, data, trust)
    argv = _command(
        target,
        weights,
        data,
        trust,
        {
            "--latency-ms": latency_ms,
            "--speed-up": speed_up,
            "--macs-speed-up": macs_speed_up,
            "--max-map-drop": max_map_drop,
            "--imgsz": imgsz,
            "--epochs": epochs,
            "--until": until,
            "--device": device,
            "--out": out,
            "--seed": seed or None,
        },
    )

    from edgeprune.devices import device_of
    from edgeprune.runtimes.site import runtime_on

    fresh = not root.exists()
    with device_of(profile.device, reporter.note) as place:
        runs_on, available = runtime_on(place, profile)
        with _nothing_left(root, fresh and source.trained), Workspace.opened(root) as workspace:
            context = Context(
                target=profile,
                weights=source,
                dataset=dataset,
                seed=seed,
                trust=trust,
                workspace=workspace,
                runtime=runs_on,
                usable=available.ok,
                next_command="" if available.ok else _next_command(profile, available.remedy, root, argv),
                reporter=reporter,
                device=place,
            )
            if not available.ok:
                reporter.note(f"{profile.runtime} is not usable here ({available.detail}): its gates stay PENDING")
            return _bundled(context, argv, run_stages(context, argv))


@contextlib.contextmanager
def _nothing_left(root: Path, fresh: bool) -> Iterator[None]:
    """A run directory that was made for a wrong request goes with it; one that was there before, or that holds a
    training, stays."""
    try:
        yield
    except (TargetError, DataError):
        if fresh:
            shutil.rmtree(root, ignore_errors=True)
        raise


@dataclass(frozen=True)
class Ran:
    """What running a list of stages gave.

    Attributes:
        gates: rows of the verdict table, in the order of the stages.
        measurements: (stage, role, measurement) behind them.
        reused: stage to whether it was taken from the run directory.
    """

    gates: tuple[Gate, ...]
    measurements: tuple[tuple[str, str, Measurement], ...]
    reused: dict[str, bool]


def run_stages(context: Context, argv: Sequence[str], stages: Sequence[Stage] = STAGES) -> Ran:
    """Run, or reuse, each stage that this build needs, and judge it; ``context.records`` has them afterwards."""
    wanted = [stage for stage in stages if stage.needed(context)]
    gates: list[Gate] = []
    measured: list[tuple[str, str, Measurement]] = []
    history: list[dict[str, Any]] = []
    for number, stage in enumerate(wanted, 1):
        key = _key(context, stage)
        record = context.workspace.find(key)
        context.reporter.stage(stage.name, number, len(wanted) + 1, record is not None)
        history.append(_why(context.workspace, key, record is not None))
        context.workspace.write_state({"command": list(argv), "stages": history})
        if record is None:
            record = _finished(context, stage, key)
        context.records[stage.name] = record
        with _logged(record.folder / LOG, show=False):
            judged = stage.judge(context, record)
        context.reporter.gates(judged.gates)
        gates += judged.gates
        measured += [(stage.name, role, measurement) for role, measurement in judged.measurements]
    context.reporter.stage("bundle", len(wanted) + 1, len(wanted) + 1, False)
    return Ran(tuple(gates), tuple(measured), {row["stage"]: row["reused"] for row in history})


def _key(context: Context, stage: Stage) -> Key:
    return Key(
        stage.name,
        flat(
            {
                "version": stage.version,
                **stage.inputs(context),
                "env": {package: installed(package) for package in stage.packages},
            }
        ),
    )


def _finished(context: Context, stage: Stage, key: Key) -> Record:
    began = time.perf_counter()
    try:
        with context.workspace.partial(key) as folder:
            with _logged(folder / LOG, show=stage.shows_output):
                output = stage.run(context, folder, key)
            return context.workspace.publish(key, folder, output.artifacts, output.facts, time.perf_counter() - began)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StageError(
                f"stage {stage.name}: the disk of {context.workspace.root} is full; free some space and give the same "
                "command again: it goes on from here"
            ) from error
        raise


def _why(workspace: Workspace, key: Key, reused: bool) -> dict[str, Any]:
    earlier = workspace.earlier(key)
    return {
        "stage": key.stage,
        "key": key.digest,
        "folder": key.folder_name,
        "reused": reused,
        "compared_with": earlier.folder.name if earlier else None,
        "differs": differences(earlier.key.inputs, key.inputs) if earlier else [],
    }


def _bundled(context: Context, argv: Sequence[str], ran: Ran) -> BuildResult:
    from edgeprune.artifact import write_atomically
    from edgeprune.devices.local import facts
    from edgeprune.records.build import BuildRecord
    from edgeprune.report.html import report_html
    from edgeprune.report.text import report_markdown

    stock = bundle.stock_gate(context)
    context.reporter.gates([stock])
    gates = [*ran.gates, stock]
    verdict = overall(gates)
    chosen = bundle.files(context)
    if carry.is_carried(context):
        chosen |= carry.carried_files(context)
    root = context.workspace.root
    record = BuildRecord(
        edgeprune=edgeprune.__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=list(argv),
        verdict=verdict.value,
        gates=[gate.to_json() for gate in gates],  # pyright: ignore[reportArgumentType]  pydantic validates them
        target=context.target.model_dump(mode="json"),
        weights={"path": str(context.weights.path), "sha256": context.weights.sha256},  # pyright: ignore[reportArgumentType]
        dataset={"path": str(context.dataset.source), "sha256": context.dataset.digest},  # pyright: ignore[reportArgumentType]
        task=context.weights.task,
        names=dict(context.dataset.names),
        seed=context.seed,
        plan=json.loads(context.records["prune"].path("plan").read_text()),
        stages=[
            {
                "name": name,
                "key": item.key.digest,
                "reused": ran.reused[name],
                "seconds": item.seconds,
                "facts": dict(item.facts),
            }  # pyright: ignore[reportArgumentType]
            for name, item in context.records.items()
        ],
        artifacts=[
            {
                "stage": name,
                "role": role,
                "kind": artifact.kind,
                "path": artifact.path.relative_to(root).as_posix(),
                "sha256": artifact.sha256,
            }  # pyright: ignore[reportArgumentType]
            for name, item in context.records.items()
            for role, artifact in item.artifacts.items()
        ],
        bundle=bundle.digests(chosen),
        measurements=[
            {"stage": stage, "role": role, **measurement.to_json()}  # pyright: ignore[reportArgumentType]
            for stage, role, measurement in ran.measurements
        ],
        versions={package: installed(package) for package in REPORTED_PACKAGES if installed(package) != "absent"},
        host=facts(),
        device=_device_row(context),  # pyright: ignore[reportArgumentType]
        next_command=context.next_command or None,
    )
    content = record.model_dump(mode="json")
    folder = bundle.write_bundle(context, chosen, record.model_dump_json(indent=1), record.names)
    report = root / "report.md"
    write_atomically(report, report_markdown(content))
    write_atomically(root / "report.html", report_html(content, _scenes(context)))
    return BuildResult(verdict, tuple(gates), root, folder, report, content)


def _device_row(context: Context) -> dict[str, Any] | None:
    place = context.device
    if place is None or not context.usable:
        return None
    return {
        "name": place.name,
        "simulated": place.simulated,
        "identity": context.runtime.identity(),
        "facts": place.facts(),
    }


def _scenes(context: Context) -> tuple[Scene, ...]:
    """A few validation images through the unpruned model and what ships; none where they cannot be run."""
    from edgeprune.measure.scenes import Looker, scenes

    runtime = context.runtime if context.usable else None
    models = {
        "unpruned": context.records["baseline"].path("engine" if context.usable else "onnx"),
        "what ships": context.records["engine"].path("engine")
        if context.usable
        else bundle.files(context)["model.onnx"],
    }
    lookers = [Looker(name, path, runtime, context.target.imgsz) for name, path in models.items()]
    split = context.target.accuracy.split
    try:
        return scenes(lookers, context.dataset, context.weights.task, split=split, count=SCENES, seed=context.seed)
    except (DataError, StageError) as error:  # a finished build is not lost for a picture
        context.reporter.note(f"no detections in the report: {error}")
        return ()


def _checked_inputs(profile: Target, weights: str | Path, data: str | Path, trust: bool) -> tuple[Weights, Any]:
    """Weights and dataset, read and compared before anything is written."""
    from edgeprune import checkpoint
    from edgeprune.dataset import Dataset

    path = Path(weights)
    if path.suffix.lower() in (".yaml", ".yml"):
        from edgeprune.training.description import described_model

        model = described_model(weights)
        source = Weights(model.path, model.digest, model.task)
        stride = model.stride
        names = None
    elif path.suffix.lower() == ".pt":
        loaded = checkpoint.load(weights, trust=trust)
        source = Weights(loaded.path, loaded.sha256, loaded.task)
        stride, names = loaded.stride, loaded.names
    else:
        raise DataError(f"--weights {weights}: is neither a checkpoint (.pt) nor a model description (.yaml)")
    image_side(profile.imgsz, stride, source.task)
    if profile.budget.scope == "end_to_end" and source.task != "detect":
        raise TargetError(f"budget.scope: end_to_end is known for detectors; a {source.task} model allows model")
    dataset = Dataset.load(data, task=source.task, need=sorted({"train", "val", profile.accuracy.split}))
    if profile.precision.startswith("int8"):
        from edgeprune.export.precision import calibration_warnings

        calibration_warnings(min(profile.calibration.images, len(dataset.images("train"))))  # refuses too few
    if names is not None:
        dataset.check_matches(names)
    return source, dataset


def _command(
    target: str | Path | Target, weights: str | Path, data: str | Path, trust: bool, options: Mapping[str, Any]
) -> list[str]:
    name = target.name if isinstance(target, Target) else str(target)
    argv = ["edgeprune", "build", "--target", name, "--weights", str(weights), "--data", str(data)]
    for flag, value in options.items():
        if value is not None:
            argv += [flag, f"{value:g}" if isinstance(value, float) else str(value)]
    return [*argv, "--trust"] if trust else argv


def _next_command(profile: Target, remedy: str, root: Path, argv: Sequence[str]) -> str:
    if profile.device.kind == "jetson":
        # Engines belong to the board that they were built on; nothing of it can be prepared elsewhere.
        return carry.carry_command(root)
    return f"{remedy} && {shlex.join(argv)}" if remedy else shlex.join(argv)


class _Both:
    """A text stream that writes to the screen and to the log."""

    def __init__(self, screen: Any, log: Any) -> None:
        self.screen, self.log = screen, log

    def write(self, text: str) -> int:
        self.log.write(text)
        return self.screen.write(text)

    def flush(self) -> None:
        self.log.flush()
        self.screen.flush()

    def __getattr__(self, name: str) -> Any:  # isatty, encoding, fileno: those of the screen
        return getattr(self.screen, name)


class _Epochs(logging.Filter):
    """Lets the lines of the epoch table onto the screen; the layer list and a page of settings stay in the log."""

    def __init__(self) -> None:
        super().__init__()
        self.training = False

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        self.training = (self.training or "Starting training for" in text) and "epochs completed in" not in text
        return self.training or record.levelno >= logging.WARNING


@contextlib.contextmanager
def _logged(path: Path, *, show: bool) -> Iterator[None]:
    """Keep what libraries print and log in ``path``; on the screen only where ``show`` says so."""
    logger = logging.getLogger("ultralytics")
    with path.open("a", encoding="utf-8") as log:
        handler = logging.StreamHandler(log)
        kept, epochs = logger.handlers[:], _Epochs()
        for screen in kept:
            screen.addFilter(epochs)
        logger.handlers = [handler, *kept] if show else [handler]
        try:
            out, err = (_Both(sys.stdout, log), _Both(sys.stderr, log)) if show else (log, log)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                yield
        finally:
            logger.handlers = kept
            for screen in kept:
                screen.removeFilter(epochs)
