"""What measuring gives as plain data, without torch, for records and reports to keep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeprune.export.result import ParityInfo
from edgeprune.samples.gates import metric_name

GRAPH_RUNTIME = "onnxruntime on this CPU"
"""What measures the accuracy of a graph where no runtime can measure its engine's."""


def distinct_names(names: Mapping[int, str]) -> dict[int, str]:
    """Class names by index, each of them once: one that several classes share is told apart by the index behind it
    (ImageNet has two cranes)."""
    shared = {name for name, count in Counter(names.values()).items() if count > 1}
    told = {index: f"{name} ({index})" if name in shared else name for index, name in names.items()}
    if len({*told.values()}) == len(told):
        return told
    return {index: f"{name} ({index})" for index, name in names.items()}  # somebody calls a class "crane (1)"


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of one artifact on one split.

    Attributes:
        map50_95: the figure the gates use: mAP50-95 of boxes (detect, obb), masks (segment) or keypoints (pose); for
            classify the top-1 accuracy.
        map50: mAP50 of the same; for classify the top-5 accuracy.
        per_class: the gates' figure by class name (:func:`distinct_names`), for the classes that the split has.
        images: images seen.
        task: detect, segment, pose, obb or classify.
        split: train, val or test.
        fitness_key: Ultralytics' name of ``map50_95``.
        metrics: everything the validator gave, by Ultralytics' names.
        also_in: other splits that hold some of the images too, and how many.
        imgsz: height and width in pixels that they were seen at; None in records of earlier versions.
    """

    map50_95: float
    map50: float
    per_class: Mapping[str, float]
    images: int
    task: str
    split: str
    fitness_key: str
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    also_in: Mapping[str, int] = field(default_factory=dict[str, int])
    imgsz: tuple[int, int] | None = None

    @property
    def metric(self) -> str:
        """What people call ``map50_95`` for this task."""
        return metric_name(self.task)

    @property
    def trained_on(self) -> int:
        """How many of the images are of the training split."""
        return self.images if self.split == "train" else self.also_in.get("train", 0)

    @property
    def chosen_on(self) -> int:
        """How many of the images chose the best epoch of a training."""
        return self.images if self.split == "val" else self.also_in.get("val", 0)


@dataclass(frozen=True)
class ArtifactAccuracy:
    """Accuracy of a file that may ship, and by what it was measured.

    Attributes:
        accuracy: of the engine, or of its graph where no runtime can take an engine through a whole split.
        measured_on: name of the runtime.
        agreement: outputs of the engine held against those of its graph, where ``accuracy`` is the graph's; else None.
    """

    accuracy: Accuracy
    measured_on: str
    agreement: ParityInfo | None = None

    @property
    def of_graph(self) -> bool:
        """Whether the graph was run, since no runtime can take the engine through a whole split, or none is here."""
        return self.measured_on == GRAPH_RUNTIME

    def text(self, runtime: str) -> str:
        """What the accuracy is of, for people.

        Args:
            runtime: name of the engine's.
        """
        if self.agreement is None:
            return f"by {self.measured_on}"
        return (
            f"by {self.measured_on}, of the graph, since {runtime} starts a process for every inference; the engine's "
            f"outputs against it: {self.agreement.text}"
        )

    @property
    def value(self) -> float:
        """The figure that the gates use, 0 to 1."""
        return self.accuracy.map50_95

    @property
    def metric(self) -> str:
        """Its name."""
        return self.accuracy.metric


@dataclass(frozen=True)
class LayerMs:
    """Time of one layer in milliseconds, the median where the runtime tells one."""

    name: str
    op: str
    ms: float


@dataclass(frozen=True)
class LayerComparison:
    """Layers of two engines, each in order of execution."""

    baseline: tuple[LayerMs, ...]
    candidate: tuple[LayerMs, ...]
