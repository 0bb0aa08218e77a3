"""What quantize does when its graph misses the accuracy floor: a few layers go back to float, as few as it takes.

Accuracy is that of the artifact: compiled and run by the target's runtime where that can take a whole dataset, else the
graph's by ONNX Runtime on this CPU, of which nothing is compiled. It is measured on images that do not judge the build,
the unpruned model's beside it: what is chosen on the images of a gate is judged too well by them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgeprune.dataset import Dataset
from edgeprune.dataset.labels import read_labels
from edgeprune.measure import compiling, latency
from edgeprune.measure.result import ArtifactAccuracy
from edgeprune.records.facts import BaselineFacts, FallbackFacts
from edgeprune.runtimes.site import Site
from edgeprune.samples.gates import Gate, info_gate
from edgeprune.settings import FEWEST_IMAGES
from edgeprune.stages.base import Build
from edgeprune.stages.unpruned import accuracy_as_exported

RANKING_IMAGES = 4  # layers are ranked by their error where the head ends, which hardly differs between images
EFFORT = 0.5  # of a gate's measurement: what the fallback costs is reported, not judged


def meet_floor(build: Build, source: Path, low: Path) -> FallbackFacts:
    """Measure a low-precision graph; where it misses the floor, replace ``low`` by a graph with layers in float.

    Args:
        build: target, dataset and unpruned model.
        source: the FP32 graph.
        low: the same in the target's number format.
    """
    from edgeprune.measure.accuracy import measure_artifact

    images, judging = _choosing_images(build)
    floor = _unpruned_accuracy(build, images) - build.target.accuracy.max_map_drop
    measured = graph_accuracy(build, low)
    facts = FallbackFacts(measured.value, measured.metric, floor, mixed=None, reason="", judging=judging)
    if measured.value >= floor:
        return replace(facts, reason="it reaches the floor")
    if not build.target.mixed_precision:
        return replace(facts, reason="mixed_precision is off in the profile")
    plain = measure_artifact(build.site, source, None, images).value
    if plain < floor:
        reason = f"the FP32 graph has {plain:.4f} itself: precision is not what costs the accuracy"
        return replace(facts, reason=reason)
    from edgeprune.export.mixed import restore_float_layers

    precision, split = build.target.graph_precision, images.judging_split(build.target.accuracy.split)
    with tempfile.TemporaryDirectory(dir=low.parent, prefix=".fallback-") as scratch:
        place = Path(scratch) / "int8.onnx"
        start, half = compiling.graph_for_float_layers(
            build.target, source, place, build.dataset, build.site.seed, converted=low
        )
        mixed = restore_float_layers(
            source,
            start,
            Path(scratch) / "mixed.onnx",
            images.sample_images(split, RANKING_IMAGES, build.site.seed),
            floor=floor,
            accuracy_of=lambda path: graph_accuracy(build, path).value,
            latency_of=(lambda paths: _latency(build, paths)) if build.site.usable else None,
            half=half,
            progress=build.reporter.progress,
        )
        (Path(scratch) / "mixed.onnx").replace(low)
    build.reporter.note(f"{precision} missed the accuracy floor; {mixed.reason}")
    return replace(facts, mixed=mixed)


def fallback_gates(facts: FallbackFacts, precision: str) -> list[Gate]:
    """Rows of the verdict table: accuracy before and after, which layers went back, and what that costs."""
    outcome = facts.reason or "missed: layers go back to float"
    images = "images that judge too, for there are too few others" if facts.judging else "images that do not judge"
    reason = f"on {images}, floor {facts.floor:.4f}; {outcome}"
    rows = [info_gate("quantize", f"{facts.metric} in {precision}", facts.accuracy, "", reason)]
    if facts.mixed is not None:
        layers = facts.mixed.layers
        reason = f"{facts.mixed.reason}: {', '.join(layers)}"
        rows.append(info_gate("quantize", "layers back in float", float(len(layers)), "layers", reason))
    return rows


def choosing_images(build: Build) -> Dataset:
    """The dataset with other images in the place of those that judge: the validation split where the test split does,
    else the images of the calibration; the judging ones themselves where no split holds enough others to choose by."""
    return _choosing_images(build)[0]


def _choosing_images(build: Build) -> tuple[Dataset, bool]:
    """:func:`choosing_images`, and whether they judge too."""
    dataset, judging = build.dataset, build.dataset.judging_split(build.target.accuracy.split)
    sources = ("train",) if judging == "val" else ("val",) if judging == "train" else ("val", "train")

    for source in sources:
        count = build.target.calibration.images if source == "train" else len(dataset.images(source))
        images = dataset.sample_images(source, count, build.site.seed, outside=judging)
        if _telling(dataset, images) >= FEWEST_IMAGES:  # fewer tell no more of an accuracy than of a range
            return dataset.with_other_images(judging, source, images), False
    images = dataset.sample_images(judging, build.target.calibration.images, build.site.seed)
    return dataset.with_other_images(judging, judging, images), True


def _telling(dataset: Dataset, images: Sequence[Path]) -> int:
    """How many images tell of accuracy: those with objects, or a class."""
    return len(images) if dataset.task == "classify" else sum(bool(read_labels(image)) for image in images)


def _unpruned_accuracy(build: Build, images: Dataset) -> float:
    """Accuracy of the unpruned model in FP32 on these images."""
    return accuracy_as_exported(build, build.record(BaselineFacts).path("model"), images, build.target.imgsz).value


def graph_accuracy(build: Build, onnx: Path, site: Site | None = None, engine: Path | None = None) -> ArtifactAccuracy:
    """Accuracy of a graph as an artifact on :func:`choosing_images`.

    Args:
        build: target and dataset.
        onnx: the graph.
        site: the build's with another number format, where the graph has one.
        engine: compiled of it at that site; when None, it is compiled where the runtime can take a whole dataset.
    """
    from edgeprune.measure.accuracy import measure_artifact

    site, images = site or build.site, choosing_images(build)
    if not (site.usable and site.runtime.fit_for_dataset):
        return measure_artifact(site, onnx, None, images)
    if engine is not None:
        return measure_artifact(site, onnx, engine, images)
    with tempfile.TemporaryDirectory(dir=onnx.parent, prefix=".trial-") as folder:
        return measure_artifact(site, onnx, compiling.compile_engine(site, onnx, Path(folder)), images)


def _latency(build: Build, paths: Sequence[Path]) -> list[float]:
    from edgeprune.samples.statistics import value_of

    with tempfile.TemporaryDirectory(dir=paths[0].parent, prefix=".trial-") as folder:
        engines: list[Path] = []
        for number, path in enumerate(paths):
            place = Path(folder) / str(number)
            place.mkdir()
            engines.append(compiling.compile_engine(build.site, path, place))
        before, after = latency.measure_pair(build.site, engines[0], engines[1], build.dataset, effort=EFFORT)
    return [value_of(measurement.values, "p50") for measurement in (before, after)]
