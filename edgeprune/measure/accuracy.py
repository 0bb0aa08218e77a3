"""Accuracy of an artifact by its own runtime, computed by Ultralytics' validators.

Takes a checkpoint, an ONNX file or an engine, and a dataset. Gives mAP (or top-1 and top-5), per class too. The
validator is Ultralytics' own, and so are matching and averaging; only the forward pass is the runtime's. Every form of
a model is measured on the same input, square or not, that it ships with, so that figures of two stages may be
subtracted. Nothing is written but the user's cache (:mod:`edgeprune.dataset.linked_split`).
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune.checkpoint import input_channels, keypoint_shape, load
from edgeprune.dataset import Dataset
from edgeprune.dataset.class_folders import on_class_folders
from edgeprune.errors import DataError, EdgepruneError, StageError, TargetError, first_line
from edgeprune.export.graph import inputs_of, load_graph, metadata_of, refuse_plugins
from edgeprune.export.metadata import ModelMetadata, facts_to_run, read_metadata
from edgeprune.export.module import head_arguments, module_from_checkpoint
from edgeprune.export.parity import parity
from edgeprune.export.result import ParityInfo
from edgeprune.export.run import Outputs, axes_to_build, fixed_batch, run_in_batches
from edgeprune.families import family_for
from edgeprune.input_size import Size, asked_sides, both_sides, taken_size
from edgeprune.measure.compiling import compile_once
from edgeprune.measure.per_image import keep_per_image, save_per_image
from edgeprune.measure.result import GRAPH_RUNTIME, Accuracy, ArtifactAccuracy, distinct_names
from edgeprune.model_file import KINDS, require_model
from edgeprune.options import output_file, refuse_without_effect
from edgeprune.progress import Progress, Reporter, reporter_of, silent
from edgeprune.pruning.heads import ships_end_to_end
from edgeprune.quiet import process_state_kept, quiet
from edgeprune.rectangle import at_size
from edgeprune.runtimes.base import AS_EXPORTED, FreeAxes, Runtime
from edgeprune.runtimes.engine_file import known_metadata, read_facts
from edgeprune.runtimes.site import Site
from edgeprune.samples.agreement import FIRST_LOOK, LOOKS, MOST_IMAGES, agreement_bounds
from edgeprune.samples.average_precision import Detections, ImageScores
from edgeprune.settings import Inference

COMPARED_IMAGES = 16  # enough to meet crowded and empty scenes; parity is exact arithmetic, not a statistic
# the metric a task is judged by, as Ultralytics names it: masks for segment, keypoints for pose, boxes else
FITNESS_KEYS = {
    "detect": ("metrics/mAP50-95(B)", "metrics/mAP50(B)"),
    "obb": ("metrics/mAP50-95(B)", "metrics/mAP50(B)"),
    "segment": ("metrics/mAP50-95(M)", "metrics/mAP50(M)"),
    "pose": ("metrics/mAP50-95(P)", "metrics/mAP50(P)"),
    "classify": ("metrics/accuracy_top1", "metrics/accuracy_top5"),
}


@process_state_kept()
def accuracy(
    model: Path | str,
    *,
    data: Path | str | Dataset,
    imgsz: Size | None = None,
    split: str = "val",
    batch: int = 1,
    runtime: Runtime | None = None,
    workers: int = 0,
    progress: Progress | Reporter | None = None,
    head: str = "auto",
    metadata: Mapping[str, str] | None = None,
    device: str | None = None,
    threads: int = 0,
    per_image: Path | str | None = None,
    trust: bool = False,
    confidence: float | None = None,
) -> Accuracy:
    """Measure an artifact.

    Args:
        model: a checkpoint (.pt), an ONNX file, or an engine that ``runtime`` loads.
        data: a dataset, or what :meth:`Dataset.load` takes.
        imgsz: side, or height and width, in pixels; the artifact's own when None.
        split: train, val, test, or auto (:meth:`Dataset.judging_split`).
        batch: images a forward pass, for a checkpoint and for a model of free batch; a fixed batch is kept.
        runtime: runs ONNX files and engines; ONNX Runtime on the CPU when None.
        workers: processes that read images; 0 reads in this one.
        progress: called after every batch, or a :class:`~edgeprune.progress.Reporter`; nobody by default.
        head: for a checkpoint with two heads, ``auto`` and ``end-to-end`` take the one without NMS, ``raw`` the other.
            Of an exported file it was chosen when that was made: ``auto``.
        metadata: names, stride, task, imgsz and head of an engine whose file does not hold them: its ONNX file's
            ``metadata_props``; those of the ONNX file of the same name beside it, or of its header, when None.
        device: torch device of a checkpoint, ``cpu`` or ``0``; a GPU where there is one when None.
        threads: of the runtime; 0 leaves the choice to it.
        per_image: file (.npz) for what was found in every image, as :func:`~edgeprune.measure.per_image.load_per_image`
            reads it; None keeps nothing.
        trust: load a checkpoint with foreign classes, and as in :meth:`Dataset.load`; both execute code.
        confidence: least score of a detection that counts; Ultralytics' own for validation (0.001, of rotated boxes
            0.01) when None. A graph with NMS inside gives none below its own, whatever is asked.

    Raises:
        DataError: the model or the dataset cannot be read, or their classes disagree.
        TargetError: a size that the model cannot take, a number out of range, a place that cannot be written, or what
            is of a checkpoint alone (a head, a torch device) for an exported file, and a runtime for a checkpoint.
        StageError: the validator failed.
    """
    Inference(batch=batch, threads=threads, workers=workers)
    kept = output_file(None if per_image is None else Path(per_image))
    tell = reporter_of(progress).progress
    model = Path(model)
    require_model(model, *KINDS)
    if model.suffix == ".pt":
        refuse_without_effect({"runtime": runtime}, "is for an exported file, and PyTorch runs a checkpoint")
    else:
        chosen = None if head == "auto" else head
        refuse_without_effect({"head": chosen}, f"of {model.name} it was chosen when it was exported")
        refuse_without_effect({"device": device}, f"is of a checkpoint, and a runtime runs {model.name}")
    with subject_of(model, imgsz, batch, runtime, head, metadata, threads, trust) as subject:
        need = (split,)
        dataset = data if isinstance(data, Dataset) else Dataset.load(data, task=subject.task, need=need, trust=trust)
        split = dataset.judging_split(split)
        dataset = dataset.seen_by(
            subject.module.names,
            model=str(model),
            channels=subject.channels,
            kpt_shape=keypoint_shape(subject.module),
            single_cls=subject.single_cls,
        )
        dataset.images(split)
        dataset.say_trained_on(split)
        try:
            where = "cpu" if subject.exported else device
            result, details = _validated(subject, dataset, split, workers, tell, where, confidence)
        except (EdgepruneError, KeyboardInterrupt):
            raise
        except (RuntimeError, ValueError, TypeError, OSError, KeyError, IndexError, AssertionError) as error:
            raise StageError(f"validating {model} on {dataset.source} ({split}) failed: {first_line(error)}") from error
        if kept is not None:
            save_per_image(details, kept)
        return result


def measure_artifact(
    site: Site, onnx: Path, engine: Path | None, dataset: Dataset, per_image: Path | None = None
) -> ArtifactAccuracy:
    """Accuracy of an artifact: the engine by the target's runtime, or its graph on this CPU where there is none.

    A runtime that starts a process for every inference is not asked for a whole split: the graph is, and the engine's
    outputs for some images are compared with the graph's. ``per_image`` as in :func:`accuracy`.
    """
    return judge_artifact(
        site.runtime,
        onnx,
        engine,
        dataset,
        imgsz=site.target.imgsz,
        split=site.target.accuracy.split,
        batch=site.target.batch,
        seed=site.seed,
        progress=site.reporter.progress,
        per_image=per_image,
    )


def judge_artifact(
    runtime: Runtime,
    onnx: Path,
    engine: Path | None,
    dataset: Dataset,
    *,
    imgsz: Size | None = None,
    split: str = "val",
    batch: int = 1,
    threads: int = 0,
    seed: int = 0,
    progress: Progress = silent,
    per_image: Path | None = None,
) -> ArtifactAccuracy:
    """As :func:`measure_artifact` by a runtime of no target; arguments as in :func:`accuracy`.

    Args:
        runtime: of the engine.
        onnx: the graph that the engine is built from.
        engine: what ships; None where there is none.
        dataset: images and labels.
        seed: of the choice of images whose outputs are compared.
    """
    by_engine = engine is not None and runtime.fit_for_dataset
    result = accuracy(
        engine if engine is not None and by_engine else onnx,
        data=dataset,
        imgsz=imgsz,
        split=split,
        batch=batch,
        runtime=runtime if by_engine else None,
        metadata=metadata_of(onnx) if by_engine and engine != onnx else None,
        threads=threads if by_engine else 0,
        progress=progress,
        per_image=per_image,
    )
    agreement = None
    if engine is not None and not by_engine:
        progress("comparing outputs on validation images")
        agreement = _agreement(runtime, onnx, engine, dataset, split, imgsz, seed)
    return ArtifactAccuracy(result, runtime.name if by_engine else GRAPH_RUNTIME, agreement)


def compare_outputs(site: Site, reference: Path, candidate: Path, dataset: Dataset) -> ParityInfo:
    """Differences between the outputs of two forms of a model on validation images.

    Args:
        site: target and seed.
        reference: a checkpoint or an ONNX file.
        candidate: an ONNX file.
        dataset: gives the images.
    """
    site.reporter.progress("comparing outputs on validation images")
    images = compared_images(dataset, site.target.accuracy.split, site.seed)
    return parity(reference, candidate, images, imgsz=site.target.imgsz)


def _agreement(
    runtime: Runtime, onnx: Path, engine: Path, dataset: Dataset, split: str, imgsz: Size | None, seed: int
) -> ParityInfo:
    """An engine held against its graph, on as many images as it takes to tell whether they agree."""
    images = dataset.sample_images(dataset.judging_split(split), MOST_IMAGES, seed)
    random.Random(seed).shuffle(images)  # the first of them are to stand for all of them
    compared = partial(parity, onnx, engine, imgsz=imgsz, runtime=runtime, metadata=metadata_of(onnx))
    found = compared(images[:FIRST_LOOK])
    for seen, most in pairwise(LOOKS):
        if len(images) <= seen or agreement_bounds(found.by_image).decided:
            break
        found = found.with_more(compared(images[seen:most]))
    return found


def compared_images(dataset: Dataset, split: str, seed: int) -> list[Path]:
    """Images that the outputs of two forms of a model are compared on.

    Args:
        dataset: has them.
        split: that judges, or ``auto``.
        seed: of the choice.
    """
    return dataset.sample_images(dataset.judging_split(split), COMPARED_IMAGES, seed)


@dataclass(frozen=True)
class Subject:
    """What the validator is given: something that looks like an Ultralytics model, and how to feed it.

    Attributes:
        module: the model, or a runtime's session in the shape of one.
        task: detect, segment, pose, obb or classify.
        imgsz: height and width in pixels.
        batch: images a forward pass.
        end_to_end: whether its output needs no NMS.
        exported: whether a runtime runs it, not torch.
        single_cls: whether a checkpoint says that it was trained to see every object as of one class; None for a graph.
    """

    module: Any
    task: str
    imgsz: tuple[int, int]
    batch: int
    end_to_end: bool
    exported: bool
    single_cls: bool | None = None

    @property
    def channels(self) -> int:
        """Of the images that it takes."""
        return input_channels(self.module)


@contextmanager
def subject_of(
    model: Path,
    imgsz: Size | None,
    batch: int,
    runtime: Runtime | None,
    head: str,
    metadata: Mapping[str, str] | None,
    threads: int = 0,
    trust: bool = False,
) -> Iterator[Subject]:
    """Open any form of a model for Ultralytics' validators and predictors; arguments as in :func:`accuracy`."""
    if model.suffix == ".pt":
        checkpoint = load(model, trust=trust)
        module = module_from_checkpoint(checkpoint)
        size = both_sides(checkpoint.size_for(command=imgsz).side)
        end_to_end = ships_end_to_end(module, head)
        yield Subject(module, checkpoint.task, size, batch, end_to_end, False, checkpoint.single_cls)
        return
    graph = load_graph(model) if model.suffix == ".onnx" else None
    known = read_facts(model) if graph is None else None
    if graph is None and metadata is None:
        metadata = known_metadata(model, known)
    facts = facts_to_run(graph, str(model)) if graph and metadata is None else read_metadata(metadata or {}, str(model))
    if facts.missing:
        keys = ", ".join(facts.missing)
        raise DataError(f"{model} does not say its {keys}; give metadata, or export it with edgeprune")
    if graph:
        refuse_plugins(graph, str(model))
    shape = inputs_of(graph)[0].shape if graph else ()
    free = isinstance(shape[2], str) if len(shape) == 4 else graph is not None and facts.dynamic
    own = facts.imgsz or (0, 0)
    size = own if imgsz is None else asked_sides(imgsz)
    if free and imgsz is not None:
        taken_size(size, facts.stride, facts.task)
    if not free and size != own:
        raise TargetError(
            f"{model} takes images of {own[0]} × {own[1]}, not of {size[0]} × {size[1]} (height × width); leave out "
            "the size, or export the model again"
        )
    half = bool(graph) and inputs_of(graph)[0].dtype == "float16"
    sorted_rows = facts.head != "raw"  # end-to-end or with NMS inside: no NMS after it
    axes, fixed = AS_EXPORTED, fixed_batch(graph or model, facts) or 0
    if graph is None:
        fixed = fixed or facts.batch
    elif runtime is not None and runtime.suffix != ".onnx":  # an engine that is built on the way has one batch and size
        axes = axes_to_build(graph, facts, batch, None if imgsz is None else size)
        fixed = fixed or axes.batch
    with _session(model, runtime, threads, axes) as run:
        yield Subject(
            _SessionModule(run, facts, batch=fixed, half=half, end_to_end=sorted_rows),
            facts.task,
            size,
            fixed or min(batch, facts.largest_batch or batch),
            sorted_rows,
            exported=True,
        )


@contextmanager
def _session(
    model: Path, runtime: Runtime | None, threads: int, free: FreeAxes
) -> Iterator[Callable[[np.ndarray], Outputs]]:
    """A function from a stack of images to outputs in the graph's order."""
    if runtime is None:
        from edgeprune.runtimes.onnxruntime_ import OnnxRuntime

        runtime = OnnxRuntime()
    with (
        tempfile.TemporaryDirectory(prefix="edgeprune-val-") as folder,
        runtime.session(compile_once(runtime, model, Path(folder), free=free), threads=threads) as session,
    ):
        name = session.input_names[0]
        yield lambda stack: list(session.run({name: stack}).values())


class _SessionModule(nn.Module):
    """A runtime's session in the shape that Ultralytics' validator takes for a foreign torch module."""

    def __init__(
        self,
        run: Callable[[np.ndarray], Outputs],
        facts: ModelMetadata,
        *,
        batch: int,
        half: bool,
        end_to_end: bool,
    ) -> None:
        super().__init__()
        self.run = run
        self.batch = batch
        self.half_input = half
        self.names = dict(facts.names)
        self.stride = torch.tensor([float(facts.stride)])
        self.task = facts.task
        self.yaml = {"channels": facts.channels}
        self.end2end = end_to_end
        if facts.kpt_shape:
            self.kpt_shape = list(facts.kpt_shape)

    def __deepcopy__(self, memo: dict[int, Any]) -> _SessionModule:
        return self  # the validator copies a model before fusing it; a session cannot be copied and has nothing to fuse

    def set_head_attr(self, **_: Any) -> None:
        """Asked by the validator of an end-to-end model; an exported head is fixed."""

    def forward(self, images: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor | list[torch.Tensor]:
        """(N, channels, H, W) in [0, 1] to the exported head's outputs, float32."""
        stack = images.cpu().numpy().astype(np.float16 if self.half_input else np.float32, copy=False)
        outputs = run_in_batches(self.run, stack, batch=self.batch or len(stack))
        tensors = [torch.from_numpy(output.astype(np.float32, copy=False)) for output in outputs]
        return tensors if len(tensors) > 1 else tensors[0]


def _validated(
    subject: Subject,
    dataset: Dataset,
    split: str,
    workers: int,
    progress: Progress,
    device: str | None,
    confidence: float | None,
) -> tuple[Accuracy, Detections | ImageScores]:
    with tempfile.TemporaryDirectory(prefix="edgeprune-val-") as folder, quiet():
        kind = on_class_folders(family_for(subject.task).validator, dataset.names)
        validator = keep_per_image(at_size(kind, subject.imgsz), subject.task)(
            save_dir=Path(folder),
            args={
                "task": subject.task,
                "mode": "val",
                "data": str(dataset.for_ultralytics(split)),
                "imgsz": max(subject.imgsz),
                "batch": subject.batch,
                "split": split,
                "workers": workers,
                "device": device,
                "rect": False,  # the size that ships; Ultralytics' own default for a .pt pads each batch less
                "plots": False,
                "save_json": False,
                "val": False,  # else COCO's own names would start its external evaluator
                "verbose": False,
                "conf": confidence,
                **head_arguments(end_to_end=subject.end_to_end),
            },
        )
        validator.add_callback(
            "on_val_batch_end",
            lambda v: progress(f"accuracy on {split}", done=v.batch_i + 1, total=len(v.dataloader)),
        )
        results = validator(model=subject.module)
        dataset.require_all_taken(split, len(validator.dataloader.dataset))
    metrics = {key: float(value) for key, value in results.items() if isinstance(value, (int, float, np.number))}
    key, key50 = FITNESS_KEYS[subject.task]
    result = Accuracy(
        map50_95=metrics[key],
        map50=metrics[key50],
        per_class=_per_class(validator, subject.task),
        images=len(validator.dataloader.dataset),
        task=subject.task,
        split=split,
        fitness_key=key,
        metrics=metrics,
        also_in=dataset.also_in(split),
        imgsz=subject.imgsz,
    )
    return result, validator.per_image


def _per_class(validator: Any, task: str) -> dict[str, float]:
    names = distinct_names(validator.names)
    if task == "classify":
        best = torch.cat([pred[:, 0] for pred in validator.pred]).numpy()
        truth = torch.cat(validator.targets).numpy()
        return {names[int(c)]: float((best[truth == c] == c).mean()) for c in np.unique(truth)}
    metric = {"segment": "seg", "pose": "pose"}.get(task, "box")
    metric = getattr(validator.metrics, metric)
    return {names[int(c)]: float(ap) for c, ap in zip(metric.ap_class_index, metric.ap, strict=True)}
