"""What a build leaves once its stages are finished: the bundle, the record and the reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from edgeprune.agent.facts import device_facts
from edgeprune.artifact import write_atomically
from edgeprune.errors import only_informs
from edgeprune.pruning.plan import Plan
from edgeprune.records.build import (
    ArtifactRow,
    BuildRecord,
    BuildResult,
    DeviceRow,
    MeasurementRow,
    SourceRow,
    StageRow,
    StageRows,
)
from edgeprune.records.facts import (
    BaselineFacts,
    EngineFacts,
    ExportFacts,
    FinetuneFacts,
    PretrainFacts,
    PruneFacts,
    QatFacts,
    QuantizeFacts,
    SimplifyFacts,
    SparsifyFacts,
)
from edgeprune.records.sbom import SBOM, sbom
from edgeprune.runtimes.engine_file import BUNDLED
from edgeprune.samples.gates import RULES, Gate, inform_by_later, overall_verdict
from edgeprune.stages import bundle
from edgeprune.stages.base import Build
from edgeprune.stages.engine import final_onnx
from edgeprune.stages.unpruned import unpruned_engine, unpruned_onnx
from edgeprune.version import __version__, installed
from edgeprune.workspace import BUNDLE, Record

if TYPE_CHECKING:
    from edgeprune.measure.scenes import Scene

Facts = TypeVar("Facts")
SCENE_COUNT = 4  # images of the report
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
class StagesResult:
    """What running a list of stages gave.

    Attributes:
        gates: rows of the verdict table, in the order of the stages.
        measurements: samples behind them.
        reused: names of the stages that were taken from the run directory.
    """

    gates: tuple[Gate, ...]
    measurements: tuple[MeasurementRow, ...]
    reused: frozenset[str]


def write_results(
    build: Build,
    argv: Sequence[str],
    finished: StagesResult,
    carried: Mapping[str, Path],
    answered: BuildRecord | None = None,
) -> BuildResult:
    """Write bundle, record and reports, once every stage is finished and judged.

    Args:
        build: with the records of all its stages.
        argv: the command that repeats it.
        finished: gates and measurements of the stages.
        carried: further files of the bundle, for a board without a connection; name in the bundle to file.
        answered: of the bundle that is replaced, where what its board measured is of this build too.
    """
    from edgeprune.report.build import build_markdown, build_page

    stock = bundle.stock_gate(build)
    build.reporter.gates([stock])
    gates = tuple(inform_by_later((*finished.gates, stock)))
    record = _build_record(build, argv, finished, gates)
    engine: Path | None = None
    if answered is not None:
        record = _with_answers(record, answered)
        engine = build.workspace.root / BUNDLE / BUNDLED
    files = {**bundle.files(build, engine), **carried, SBOM: sbom(record)}
    graph = final_onnx(build)
    record = bundle.with_digests(record, files, graph)
    folder = bundle.write_bundle(build.workspace.root, files, record, graph)
    report = build.workspace.root / "report.md"
    write_atomically(report.with_suffix(".html"), build_page(record, _scenes(build)))
    write_atomically(report, build_markdown(record))  # last: a report of this record vouches for the page beside it
    return BuildResult(record.verdict, record.gates, build.workspace.root, folder, report, record)


def _with_answers(record: BuildRecord, answered: BuildRecord) -> BuildRecord:
    """The record of a build that waits for its board, with what the board measured for the same build before."""
    return replace(
        record,
        gates=answered.gates,
        verdict=answered.verdict,
        measurements=answered.measurements,
        device=answered.device,
        next_command=None,
        carried_by=record.next_command or answered.carried_by,
    )


def _build_record(build: Build, argv: Sequence[str], finished: StagesResult, gates: tuple[Gate, ...]) -> BuildRecord:
    def row(record: Record[Facts]) -> StageRow[Facts]:
        return StageRow(record.key.digest, record.key.stage in finished.reused, record.seconds, record.facts)

    def row_if_run(facts: type[Facts]) -> StageRow[Facts] | None:
        record = build.finished(facts)
        return None if record is None else row(record)

    site, root = build.site, build.workspace.root
    return BuildRecord(
        edgeprune=__version__,
        rules=RULES,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=tuple(argv),
        verdict=overall_verdict(gates),
        gates=gates,
        target=build.target,
        weights=SourceRow(str(build.weights.path), build.weights.sha256),
        dataset=SourceRow(str(build.dataset.source), build.dataset.digest),
        task=build.weights.task,
        names=dict(build.dataset.names),
        channels=build.dataset.channels,
        seed=site.seed,
        plan=Plan.load(build.record(PruneFacts).path("plan")),
        stages=StageRows(
            pretrain=row_if_run(PretrainFacts),
            baseline=row(build.record(BaselineFacts)),
            sparsify=row_if_run(SparsifyFacts),
            prune=row(build.record(PruneFacts)),
            finetune=row_if_run(FinetuneFacts),
            export=row(build.record(ExportFacts)),
            simplify=row(build.record(SimplifyFacts)),
            quantize=row_if_run(QuantizeFacts),
            engine=row(build.record(EngineFacts)),
            qat=row_if_run(QatFacts),
        ),
        artifacts=tuple(
            ArtifactRow(name, role, artifact.path.relative_to(root).as_posix(), artifact.sha256)
            for name, record in build.records.items()
            for role, artifact in record.artifacts.items()
        ),
        bundle={},
        measurements=finished.measurements,
        versions={package: installed(package) for package in REPORTED_PACKAGES if installed(package) != "absent"},
        host=device_facts(),
        device=DeviceRow(site.device.name, site.device.simulated, site.runtime.identity(), site.device.facts())
        if site.usable
        else None,
        next_command=build.next_command or None,
        input_size=build.size,
        levers=build.levers or None,
    )


def _scenes(build: Build) -> tuple[Scene, ...]:
    """A few validation images through the unpruned model and what ships; none where they cannot be run."""
    from edgeprune.measure.scenes import SceneModel, choose_scenes

    with only_informs("no detections in the report", build.reporter.note):
        shipped = build.record(EngineFacts)
        if build.site.usable:
            runtime, before, after = build.site.runtime, unpruned_engine(build, shipped), shipped.path("engine")
        else:
            runtime, before, after = None, unpruned_onnx(build), final_onnx(build)
        models = {"unpruned": before, "what ships": after}
        run = [SceneModel(name, path, runtime, build.target.imgsz) for name, path in models.items()]
        split = build.dataset.judging_split(build.target.accuracy.split)
        return choose_scenes(
            run, build.dataset, build.weights.task, split=split, count=SCENE_COUNT, seed=build.site.seed
        )
    return ()
