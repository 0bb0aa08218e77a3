"""What the engine that ships is held against: the unpruned model in the same number format.

Where a plainer format ships in the place of INT8, or layers went back to float, the baseline's engine has another one,
and a ratio of the two would be of the format too. The unpruned model is then compiled once more, as what ships was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgeprune.dataset import Dataset
from edgeprune.input_size import Size
from edgeprune.measure import compiling
from edgeprune.measure.result import GRAPH_RUNTIME, ArtifactAccuracy
from edgeprune.records.facts import BaselineFacts, EngineFacts, QuantizeFacts, UnprunedFormat, shipped_precision
from edgeprune.runtimes.site import Site
from edgeprune.stages.base import Build
from edgeprune.workspace import Record


def shipped_site(build: Build) -> Site:
    """The build's, with the number format of what ships."""
    quantized = build.finished(QuantizeFacts)
    precision = shipped_precision(build.target, None if quantized is None else quantized.facts)
    return replace(build.site, target=build.target.in_precision(precision))


def shipped_float_layers(build: Build) -> tuple[str, ...]:
    """Convolutions that went back to float in what ships."""
    quantized = build.finished(QuantizeFacts)
    return () if quantized is None else quantized.facts.float_layers


def baseline_has_its_format(build: Build) -> bool:
    """Whether the baseline stage has compiled the unpruned model in the number format of what ships."""
    return shipped_site(build).target.precision == build.target.precision and not shipped_float_layers(build)


def unpruned_inputs(build: Build) -> Mapping[str, Any]:
    """Key entries for :func:`compile_unpruned`; none where the baseline's engine will do."""
    if baseline_has_its_format(build):
        return {}
    shipped = shipped_site(build)
    graph = compiling.graph_inputs(shipped.target, build.dataset, build.site.seed)
    return {
        **build.source((build.record(BaselineFacts), "model")),
        "unpruned": {**graph, "float_layers": shipped_float_layers(build)},
    }


def compile_unpruned(build: Build, folder: Path) -> tuple[compiling.CompiledFiles, UnprunedFormat] | None:
    """Compile the unpruned model in the number format of what ships; None where the baseline's engine has it."""
    if baseline_has_its_format(build):
        return None
    site, layers = shipped_site(build), shipped_float_layers(build)
    build.reporter.progress("compiling the unpruned model in the number format of what ships")
    folder.mkdir()
    files = compiling.compile_checkpoint(
        site, build.record(BaselineFacts).path("model"), folder, build.dataset, float_layers=layers
    )
    size = (files.engine or files.onnx).stat().st_size
    return files, UnprunedFormat(site.target.precision, layers, size)


def accuracy_as_exported(build: Build, model: Path, dataset: Dataset, imgsz: Size) -> ArtifactAccuracy:
    """Accuracy of a checkpoint in FP32 through the head that the build exports, by PyTorch; with NMS inside that of its
    graph, for the validator's own NMS, of far lower confidence, finds what the graph's leaves out.

    Args:
        build: says the target and the split that judges.
        model: the checkpoint.
        dataset: images and labels.
        imgsz: in pixels.
    """
    from edgeprune.measure.accuracy import accuracy

    with TemporaryDirectory(prefix="edgeprune-unpruned-") as folder:
        measured, by, head = model, "PyTorch", build.target.exported_head
        if build.target.exported_head == "nms":
            measured, by, head = Path(folder) / "model.onnx", GRAPH_RUNTIME, "auto"  # chosen by its export
            compiling.export_onnx(build.target.model_copy(update={"imgsz": imgsz}), model, measured)
        found = accuracy(
            measured,
            data=dataset,
            imgsz=imgsz,
            split=dataset.judging_split(build.target.accuracy.split),
            batch=build.target.batch,
            head=head,
            progress=build.reporter.progress,
        )
    return ArtifactAccuracy(found, by, None)


def unpruned_engine(build: Build, record: Record[EngineFacts]) -> Path:
    """Engine of the unpruned model that the one of this record is held against."""
    if record.facts.unpruned is not None:
        return record.path("unpruned_engine")
    return build.record(BaselineFacts).path("engine")


def unpruned_onnx(build: Build) -> Path:
    """Its graph."""
    record = build.finished(EngineFacts)
    if record is not None and record.facts.unpruned is not None:
        return record.path("unpruned_onnx")
    return build.record(BaselineFacts).path("onnx")
