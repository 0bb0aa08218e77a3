"""Accuracy of an artifact by its own runtime, computed by Ultralytics' validators.

Takes a checkpoint, an ONNX file or an engine, and a dataset. Gives mAP (or top-1 and top-5), per class too. The
validator is Ultralytics' own, and so are matching and averaging; only the forward pass is the runtime's. Every form of
a model is measured on the same square input that it ships with, so that figures of two stages may be subtracted.
Nothing is written but Ultralytics' label cache beside the labels, where that is writable.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune.dataset import Dataset
from edgeprune.errors import DataError, EdgepruneError, StageError, TargetError
from edgeprune.export.graph import inputs_of, largest_batch, load_graph, metadata_of, parsed_metadata
from edgeprune.export.module import has_end_to_end_head, head_arguments, module_from_checkpoint
from edgeprune.export.onnx import HEAD_KEY
from edgeprune.export.quiet import quiet
from edgeprune.export.run import Outputs, by_order, in_batches
from edgeprune.progress import Progress, silent
from edgeprune.runtimes.base import Runtime

# the metric a task is judged by, as Ultralytics names it: masks for segment, keypoints for pose, boxes else
FITNESS_KEYS = {
    "detect": ("metrics/mAP50-95(B)", "metrics/mAP50(B)"),
    "obb": ("metrics/mAP50-95(B)", "metrics/mAP50(B)"),
    "segment": ("metrics/mAP50-95(M)", "metrics/mAP50(M)"),
    "pose": ("metrics/mAP50-95(P)", "metrics/mAP50(P)"),
    "classify": ("metrics/accuracy_top1", "metrics/accuracy_top5"),
}


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of one artifact on one split.

    Attributes:
        map50_95: the figure the gates use: mAP50-95 of boxes (detect, obb), masks (segment) or keypoints (pose); for
            classify the top-1 accuracy.
        map50: mAP50 of the same; for classify the top-5 accuracy.
        per_class: the gates' figure by class name, for the classes that the split has.
        images: images seen.
        task: detect, segment, pose, obb or classify.
        split: train, val or test.
        fitness_key: Ultralytics' name of ``map50_95``.
        metrics: everything the validator gave, by Ultralytics' names.
    """

    map50_95: float
    map50: float
    per_class: Mapping[str, float]
    images: int
    task: str
    split: str
    fitness_key: str
    metrics: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``build.json``."""
        return asdict(self) | {"per_class": dict(self.per_class), "metrics": dict(self.metrics)}


def accuracy(
    model: Path | str,
    *,
    data: Path | str | Dataset,
    imgsz: int | None = None,
    split: str = "val",
    batch: int = 1,
    runtime: Runtime | None = None,
    workers: int = 0,
    progress: Progress = silent,
    head: str = "auto",
    metadata: Mapping[str, str] | None = None,
    device: str | None = None,
    threads: int = 0,
) -> Accuracy:
    """Measure an artifact.

    Args:
        model: a checkpoint (.pt), an ONNX file, or an engine that ``runtime`` loads.
        data: a dataset, or what :meth:`Dataset.load` takes.
        imgsz: height and width in pixels; an exported model's own when None.
        split: train, val or test.
        batch: images a forward pass, for a checkpoint and for a model of free batch; a fixed batch is kept.
        runtime: runs ONNX files and engines; ONNX Runtime on the CPU when None.
        workers: processes that read images; 0 reads in this one.
        progress: told after every batch.
        head: for a checkpoint with two heads, ``auto`` and ``end-to-end`` take the one without NMS, ``raw`` the other.
        metadata: names, stride, task, imgsz and head of an engine whose file does not hold them: its ONNX file's
            ``metadata_props``; those of the ONNX file of the same name beside it when None.
        device: torch device of a checkpoint, ``cpu`` or ``0``; a GPU where there is one when None.
        threads: of the runtime; 0 leaves the choice to it.

    Raises:
        DataError: the model or the dataset cannot be read, or their classes disagree.
        TargetError: a size that the model cannot take.
        StageError: the validator failed.
    """
    model = Path(model)
    if not model.is_file():
        raise DataError(f"model {model} does not exist")
    with subject_of(model, imgsz, batch, runtime, head, metadata, threads) as subject:
        dataset = data if isinstance(data, Dataset) else Dataset.load(data, task=subject.task, need=(split,))
        dataset.images(split)
        dataset.check_matches(subject.module.names, model=str(model))
        try:
            return _validated(subject, dataset, split, workers, progress, "cpu" if subject.exported else device)
        except (EdgepruneError, KeyboardInterrupt):
            raise
        except (RuntimeError, ValueError, TypeError, OSError, KeyError, IndexError, AssertionError) as error:
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise StageError(f"validating {model} on {dataset.source} ({split}) failed: {line}") from error


@dataclass(frozen=True)
class Subject:
    """What the validator is given: something that looks like an Ultralytics model, and how to feed it."""

    module: Any
    task: str
    imgsz: int
    batch: int
    end_to_end: bool
    exported: bool


@contextmanager
def subject_of(
    model: Path,
    imgsz: int | None,
    batch: int,
    runtime: Runtime | None,
    head: str,
    metadata: Mapping[str, str] | None,
    threads: int = 0,
) -> Iterator[Subject]:
    """Open any form of a model for Ultralytics' validators and predictors; arguments as in :func:`accuracy`."""
    if model.suffix == ".pt":
        module: Any = module_from_checkpoint(model)
        if imgsz is None:
            imgsz = int((module.args or {}).get("imgsz") or 640)
        dual = has_end_to_end_head(module)
        yield Subject(module, str(module.task), imgsz, batch, dual and head in {"auto", "end-to-end"}, exported=False)
        return
    graph = load_graph(model) if model.suffix == ".onnx" else None
    if graph is None and metadata is None and (beside := model.with_suffix(".onnx")).is_file():
        metadata = metadata_of(beside)
    data = parsed_metadata(metadata if metadata is not None else metadata_of(graph) if graph else {})
    missing = [key for key in ("names", "task", "stride", "imgsz") if key not in data]
    if missing:
        raise DataError(f"{model} does not say its {', '.join(missing)}; give metadata, or export it with edgeprune")
    if data["task"] not in FITNESS_KEYS:
        raise DataError(f"{model} has task '{data['task']}'; {', '.join(FITNESS_KEYS)} are allowed")
    shape = inputs_of(graph)[0].shape if graph else ()
    dynamic = (bool(shape) and isinstance(shape[0], str)) or bool((data.get("args") or {}).get("dynamic"))
    height, width = data["imgsz"]
    size = imgsz or int(height)
    if not dynamic and (height, width) != (size, size):
        raise TargetError(f"{model} takes images of {height} × {width}, not of {size} × {size}; export it for {size}")
    half = bool(graph) and inputs_of(graph)[0].dtype == "float16"
    # an exported head of a sorted list, end-to-end or with NMS inside, needs no NMS after it
    sorted_rows = data.get(HEAD_KEY) in {"end-to-end", "nms"} or bool(
        data.get("end2end") or (data.get("args") or {}).get("nms")
    )
    with _session(model, runtime, threads) as run:
        fixed = 0 if dynamic else int(data.get("batch") or 1)
        yield Subject(
            _SessionModule(run, data, batch=fixed, half=half, end_to_end=sorted_rows),
            str(data["task"]),
            size,
            fixed or min(batch, largest_batch(data) or batch),
            sorted_rows,
            exported=True,
        )


@contextmanager
def _session(model: Path, runtime: Runtime | None, threads: int) -> Iterator[Callable[[np.ndarray], Outputs]]:
    """A function from a stack of images to outputs in the graph's order."""
    if runtime is None:
        from edgeprune.runtimes.onnxruntime_ import OnnxRuntime

        runtime = OnnxRuntime()
    with runtime.session(model, threads=threads) as session:
        name = session.input_names[0]
        yield lambda stack: by_order(session.run({name: stack}))


class _SessionModule(nn.Module):
    """A runtime's session in the shape that Ultralytics' validator takes for a foreign torch module."""

    def __init__(
        self,
        run: Callable[[np.ndarray], Outputs],
        data: Mapping[str, Any],
        *,
        batch: int,
        half: bool,
        end_to_end: bool,
    ) -> None:
        super().__init__()
        self.run = run
        self.batch = batch
        self.half_input = half
        self.names = {int(index): str(name) for index, name in dict(data["names"]).items()}
        self.stride = torch.tensor([float(data["stride"])])
        self.task = data["task"]
        self.yaml = {"channels": int(data.get("channels", 3))}
        self.end2end = end_to_end
        if data.get("kpt_shape"):
            self.kpt_shape = list(data["kpt_shape"])

    def __deepcopy__(self, memo: dict[int, Any]) -> _SessionModule:
        return self  # the validator copies a model before fusing it; a session cannot be copied and has nothing to fuse

    def set_head_attr(self, **_: Any) -> None:
        """Asked by the validator of an end-to-end model; an exported head is fixed."""

    def forward(self, images: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor | list[torch.Tensor]:
        """(N, 3, H, W) in [0, 1] to the exported head's outputs, float32."""
        stack = images.cpu().numpy().astype(np.float16 if self.half_input else np.float32, copy=False)
        outputs = in_batches(self.run, stack, batch=self.batch or len(stack))
        tensors = [torch.from_numpy(output.astype(np.float32, copy=False)) for output in outputs]
        return tensors if len(tensors) > 1 else tensors[0]


def _validated(
    subject: Subject, dataset: Dataset, split: str, workers: int, progress: Progress, device: str | None
) -> Accuracy:
    with tempfile.TemporaryDirectory(prefix="edgeprune-val-") as folder, quiet():
        validator = _validator_class(subject.task)(
            save_dir=Path(folder),
            args={
                "task": subject.task,
                "mode": "val",
                "data": str(dataset.source),
                "imgsz": subject.imgsz,
                "batch": subject.batch,
                "split": split,
                "workers": workers,
                "device": device,
                "rect": False,  # the square that ships; Ultralytics' own default for a .pt pads each batch less
                "plots": False,
                "save_json": False,
                "val": False,  # else COCO's own names would start its external evaluator
                "verbose": False,
                **head_arguments(end_to_end=subject.end_to_end),
            },
        )
        validator.add_callback(
            "on_val_batch_end",
            lambda v: progress(f"accuracy on {split}", done=v.batch_i + 1, total=len(v.dataloader)),
        )
        results = validator(model=subject.module)
    metrics = {key: float(value) for key, value in results.items() if isinstance(value, (int, float, np.number))}
    key, key50 = FITNESS_KEYS[subject.task]
    return Accuracy(
        map50_95=metrics[key],
        map50=metrics[key50],
        per_class=_per_class(validator, subject.task),
        images=len(validator.dataloader.dataset),
        task=subject.task,
        split=split,
        fitness_key=key,
        metrics=metrics,
    )


def _validator_class(task: str) -> Any:
    from ultralytics.models.yolo.classify import ClassificationValidator
    from ultralytics.models.yolo.detect import DetectionValidator
    from ultralytics.models.yolo.obb import OBBValidator
    from ultralytics.models.yolo.pose import PoseValidator
    from ultralytics.models.yolo.segment import SegmentationValidator

    return {
        "detect": DetectionValidator,
        "segment": SegmentationValidator,
        "pose": PoseValidator,
        "obb": OBBValidator,
        "classify": ClassificationValidator,
    }[task]


def _per_class(validator: Any, task: str) -> dict[str, float]:
    names = validator.names
    if task == "classify":
        best = torch.cat([pred[:, 0] for pred in validator.pred]).numpy()
        truth = torch.cat(validator.targets).numpy()
        return {names[int(c)]: float((best[truth == c] == c).mean()) for c in np.unique(truth)}
    metric = {"segment": "seg", "pose": "pose"}.get(task, "box")
    metric = getattr(validator.metrics, metric)
    return {names[int(c)]: float(ap) for c, ap in zip(metric.ap_class_index, metric.ap, strict=True)}
