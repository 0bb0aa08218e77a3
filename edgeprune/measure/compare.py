"""Several models of the same classes held against each other: size, cost, latency, accuracy, and the same images.

Takes checkpoints and ONNX files in any mixture and a dataset; every form is measured as the graph that would ship, by
the same runtime. Gives a :class:`Comparison`. Prints nothing; writes nothing outside a temporary folder.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.dataset import Dataset
from edgeprune.dataset.class_names import first_differences, same_classes, words_of
from edgeprune.errors import DataError, TargetError, only_informs
from edgeprune.export.images import inputs_from_dataset
from edgeprune.input_size import Size, asked_sides
from edgeprune.measure.accuracy import accuracy, judge_artifact
from edgeprune.measure.bench import (
    ModelBench,
    as_profiled,
    bench_graphs,
    check_statistic,
    sampling_settings,
    timed_words,
)
from edgeprune.measure.compiling import compile_once
from edgeprune.measure.graphs import Counts, counts_of, graph_of, nms_inside
from edgeprune.measure.names import names_apart
from edgeprune.measure.result import Accuracy, distinct_names
from edgeprune.measure.scenes import IMAGES_PER_SCENE, Scene, SceneModel, choose_scenes
from edgeprune.model_file import require_model
from edgeprune.progress import Progress, Reporter, reporter_of
from edgeprune.reading import paths_of
from edgeprune.runtimes.base import BenchSettings, Runtime
from edgeprune.runtimes.onnx_facts import model_bytes
from edgeprune.samples.gates import metric_name
from edgeprune.scratch import scratch
from edgeprune.serial import to_json
from edgeprune.settings import LAUNCHES, check_count, check_seed

if TYPE_CHECKING:
    from edgeprune.export.metadata import ModelMetadata
    from edgeprune.target import Target

FORMS = (".pt", ".onnx")  # an engine shows neither its parameters nor its MACs


@dataclass(frozen=True)
class Compared:
    """One model of a comparison.

    Attributes:
        name: its file's name, with as much of the path as tells it from the others.
        path: as it was given.
        size_bytes: of the file that was given, with the weights that lie beside it.
        counts: parameters and MACs of its graph.
        latency: samples and what derives from them; None where the runtime cannot be used here.
        accuracy: overall and by class.
        imgsz: height and width in pixels.
    """

    name: str
    path: Path
    size_bytes: int
    counts: Counts
    latency: ModelBench | None
    accuracy: Accuracy
    imgsz: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        """Plain data, raw samples included."""
        return {
            "name": self.name,
            "model": str(self.path),
            "size_bytes": self.size_bytes,
            "parameters": self.counts.parameters,
            "macs": self.counts.macs,
            "imgsz": list(self.imgsz),
            "latency": None if self.latency is None else to_json(self.latency),
            "accuracy": to_json(self.accuracy),
        }


@dataclass(frozen=True)
class Comparison:
    """A finished comparison; ratios and marks are against the first model.

    Attributes:
        models: in the order given.
        scenes: the images on which they differ most.
        looked_at: how many images the scenes were chosen from.
        task: detect, segment, pose, obb or classify.
        metric: what ``accuracy`` is, for people.
        split: of the dataset.
        data: the dataset's source.
        runtime: what ran them.
        statistic: of the latency in the table.
        pending: why there is no latency; empty when there is.
        notes: what the figures do not say by themselves: runs that were disturbed and what helps, number formats that
            differ, what else is missing and why.
        command: that repeats it, one item an argument; empty where it was no command.
    """

    models: tuple[Compared, ...]
    scenes: tuple[Scene, ...]
    looked_at: int
    task: str
    metric: str
    split: str
    data: str
    runtime: str
    statistic: str
    pending: str = ""
    notes: tuple[str, ...] = ()
    command: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data with every raw sample; of the scenes their counts, not their pixels."""
        return {
            "schema_version": 1,
            "task": self.task,
            "metric": self.metric,
            "split": self.split,
            "data": self.data,
            "runtime": self.runtime,
            "statistic": self.statistic,
            "pending": self.pending,
            "notes": list(self.notes),
            "command": list(self.command),
            "models": [model.to_json() for model in self.models],
            "scenes": {"looked_at": self.looked_at, "shown": [scene.to_json() for scene in self.scenes]},
        }

    def json_text(self) -> str:
        """The same as a file's text."""
        return json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n"

    def __repr__(self) -> str:
        said = ", ".join(f"{model.name} {model.accuracy.map50_95:.4f}" for model in self.models)
        return f"Comparison({self.task}, {self.metric} on {self.split}: {said})"


@scratch()
def compare(
    models: Path | str | Sequence[Path | str],
    data: Path | str | Dataset,
    *,
    runtime: Runtime | None = None,
    settings: BenchSettings | None = None,
    target: Target | None = None,
    statistic: str = "p50",
    split: str = "val",
    imgsz: Size | None = None,
    images: int = 6,
    seed: int = 0,
    trust: bool = False,
    progress: Progress | Reporter | None = None,
) -> Comparison:
    """Compare models on one dataset and one machine.

    Args:
        models: two or more checkpoints or ONNX files of the same task and classes; the first is what the
            others are held against.
        data: a dataset, or what :meth:`Dataset.load` takes.
        runtime: what runs and times them; ONNX Runtime on the CPU when None.
        settings: how latency is sampled; as ``target`` asks when None, and without one in as many processes as
            :func:`~edgeprune.measure.bench.bench` takes.
        target: whose head, opset and batch checkpoints are exported with, as by its build; the batch of ``settings``,
            if one is there, goes before. An export's own when None.
        statistic: percentile of the latency in the table, such as ``p50``.
        split: train, val or test.
        imgsz: of what is exported, in pixels: a side, or height and width; that of each checkpoint's training when
            None.
        images: how many to show side by side; 0 shows none.
        seed: of the choice of images.
        trust: load checkpoints with foreign classes, and as in :meth:`Dataset.load`; both execute code.
        progress: called as the work moves, or a :class:`~edgeprune.progress.Reporter`; nobody by default.

    Raises:
        DataError: a file that cannot be read, or models of different tasks or classes.
        TargetError: fewer than two models, a statistic that is none, or a number out of range.
    """
    from edgeprune.runtimes.onnxruntime_ import OnnxRuntime

    check_seed(seed)
    check_count(images, "images")
    check_statistic(statistic)
    if imgsz is not None:
        asked_sides(imgsz)
    tell = reporter_of(progress).progress
    paths = paths_of(models)
    _check(paths)
    runtime = runtime or OnnxRuntime()
    if settings is None:
        settings = BenchSettings(launches=LAUNCHES) if target is None else sampling_settings(target)
    available = runtime.availability()
    by = runtime if available.ok else None
    names = names_apart(paths)
    described = [_described(path, trust) for path in paths]
    _same(described)
    task = described[0].task
    dataset = data if isinstance(data, Dataset) else Dataset.load(data, task=task, need=(split,), trust=trust)
    dataset.images(split)
    told = [one.single_cls for one in described if one.single_cls is not None]  # by checkpoints; a graph does not say
    single_cls = any(told) if told else None  # of models of the same classes
    dataset = dataset.seen_by(described[0].names, model=str(paths[0]), single_cls=single_cls)
    for one in described:
        dataset.check_keypoints(one.kpt_shape, model=str(one.path))
    with tempfile.TemporaryDirectory(prefix="edgeprune-compare-") as folder:
        graphs = [
            graph_of(
                path,
                Path(folder) / str(number),
                imgsz=imgsz,
                batch=settings.batch or (1 if target is None else target.batch),
                target=target,
                trust=trust,
                progress=tell,
            )
            for number, path in enumerate(paths)
        ]
        sizes = [_size(path, graph) for path, graph in zip(paths, graphs, strict=True)]
        own = replace(settings, imgsz=None)  # every graph at its own size, the one that its accuracy is of
        if target is not None:
            own = as_profiled(own, None, target, graphs)
        engines = graphs
        if by is not None:
            engines = [
                compile_once(by, graph, Path(folder) / f"engine-{n}", tell, own.free) for n, graph in enumerate(graphs)
            ]
        judged: list[Accuracy] = []
        notes: list[str] = []
        for number, (name, graph, engine, size) in enumerate(zip(names, graphs, engines, sizes, strict=True)):
            tell(f"accuracy of {name}", done=number, total=len(names))
            if by is None:
                judged.append(accuracy(graph, data=dataset, split=split, imgsz=size))
                continue
            found = judge_artifact(by, graph, engine, dataset, imgsz=size, split=split, seed=seed)
            judged.append(found.accuracy)
            if found.agreement is not None:
                notes.append(f"{name}: {found.text(by.name)}")
        timed: Sequence[ModelBench | None] = [None] * len(paths)
        if available.ok:
            if own.images is None and any(map(nms_inside, graphs)):  # all of them: a time on noise is another
                own = replace(own, images=inputs_from_dataset(dataset, split, seed))
            result = bench_graphs(
                engines,
                runtime,
                own,
                details=False,
                given=paths,
                timed=[timed_words(path) for path in paths],
                progress=tell,
            )
            timed = result.models
            notes += result.notes
        seen, eyes = (engines, by) if by is not None and by.fit_for_dataset else (graphs, None)
        lookers = [SceneModel(name, file, eyes, size) for name, file, size in zip(names, seen, sizes, strict=True)]
        shown: tuple[Scene, ...] = ()
        with only_informs("no images side by side", notes.append):
            shown = choose_scenes(lookers, dataset, task, split=split, count=images, seed=seed, progress=tell)
        counted = [counts_of(graph) for graph in graphs]
    judged = [_by_names(one, own.names, described[0].names) for one, own in zip(judged, described, strict=True)]
    made = [
        Compared(name, path, model_bytes(path), counts, latency, found, size)
        for name, path, counts, latency, found, size in zip(names, paths, counted, timed, judged, sizes, strict=True)
    ]
    return Comparison(
        models=tuple(made),
        scenes=shown,
        looked_at=min(IMAGES_PER_SCENE * images, len(dataset.images(split))),
        task=task,
        metric=metric_name(task),
        split=split,
        data=str(dataset.source),
        runtime=runtime.name,
        statistic=statistic,
        pending="" if available.ok else f"{runtime.name}: {available.detail}; next: {available.remedy}",
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _What:
    path: Path
    task: str
    names: Mapping[int, str]
    single_cls: bool | None = None
    kpt_shape: tuple[int, ...] = ()


def _check(paths: Sequence[Path]) -> None:
    if len(paths) < 2:
        raise TargetError(f"{len(paths)} model given; a comparison takes two or more: edgeprune compare A B --data D")
    for path in paths:
        require_model(path, *FORMS, closed=True)


def _described(path: Path, trust: bool) -> _What:
    """Task and classes, before anything is exported."""
    if path.suffix == ".pt":
        from edgeprune import checkpoint

        loaded = checkpoint.load(path, trust=trust)
        return _What(path, loaded.task, dict(loaded.names), loaded.single_cls, loaded.kpt_shape)
    facts = _facts(path)
    return _What(path, facts.task, facts.names, kpt_shape=facts.kpt_shape)


def _by_names(found: Accuracy, own: Mapping[int, str], first: Mapping[int, str]) -> Accuracy:
    """The same with the classes called as the first model calls them: another one may write them otherwise."""
    index_of = {name: index for names in (own, words_of(own)) for index, name in distinct_names(names).items()}
    called = distinct_names(first)
    per_class = {called[index_of[name]] if name in index_of else name: ap for name, ap in found.per_class.items()}
    return replace(found, per_class=per_class)


def _size(path: Path, graph: Path) -> tuple[int, int]:
    return _facts(graph, path).imgsz or (0, 0)


def _facts(graph: Path, path: Path | None = None) -> ModelMetadata:
    from edgeprune.export.metadata import facts_to_run

    facts = facts_to_run(graph, str(path or graph))
    missing = [key for key in facts.missing if key != "stride"]
    if missing:
        raise DataError(
            f"{path or graph} does not say its {', '.join(missing)}; export it with edgeprune or Ultralytics"
        )
    return facts


def _same(described: Sequence[_What]) -> None:
    first = described[0]
    for other in described[1:]:
        if other.task != first.task:
            raise DataError(
                f"{first.path} is a {first.task} model and {other.path} a {other.task} model; compare models of a task"
            )
        if not same_classes(other.names, first.names):
            raise DataError(
                f"{other.path}: {first_differences(other.names, first.names, first.path)}; compare models that were "
                "trained on the same classes"
            )
