"""What plain Ultralytics says of the same files: the figure that edgeprune's is held against."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.situations.datasets import images_of, row
from tests.situations.graphs import quiet

BOXES = 4  # labels an image


def accuracy(weights: Path | str, data: Path, *, imgsz: Any = 64, split: str = "val", **arguments: Any) -> float:
    """mAP50-95 (top-1 of a classifier) by the validator that Ultralytics chooses for the file."""
    from ultralytics import YOLO

    with tempfile.TemporaryDirectory() as folder, quiet(), _without_caches(data), _without_pipes(data):
        told = {"imgsz": imgsz, "batch": 1, "rect": False, "plots": False, "verbose": False, "workers": 0}
        told |= {"device": "cpu", "split": split, "project": folder, "val": False, **arguments}
        results = YOLO(str(weights)).val(data=str(data), **told)
    if hasattr(results, "top1"):
        return float(results.top1)
    metric = next(getattr(results, name) for name in ("seg", "pose", "box") if hasattr(results, name))
    return float(metric.map)


def image_count(data: Path, split: str = "train", *, single_cls: bool = False, task: str = "detect") -> int:
    """Images that Ultralytics' own loader of a split takes, each of them read as training reads it.

    Raises:
        Exception: whatever it raises for a split that it does not take, or for an image that would stop a training.
    """
    from ultralytics.cfg import get_cfg
    from ultralytics.data.build import build_yolo_dataset
    from ultralytics.data.utils import check_det_dataset

    with quiet(), _without_caches(data), _without_pipes(data):
        described = check_det_dataset(str(data), autodownload=False)
        arguments: Any = get_cfg(overrides={"imgsz": 64, "task": task, "single_cls": single_cls, "cache": False})
        taken = build_yolo_dataset(arguments, described[split], 1, described, mode="val", rect=False)
        for index in range(len(taken)):
            taken.load_image(index)
        return len(taken)


class _without_caches:
    """Label caches that Ultralytics writes beside the labels are taken away again."""

    def __init__(self, data: Path) -> None:
        self.root = data if data.is_dir() else data.parent

    def __enter__(self) -> None:
        self.before = set(self.root.rglob("*.cache"))

    def __exit__(self, *_: object) -> None:
        for path in set(self.root.rglob("*.cache")) - self.before:
            path.unlink()


def self_labelled(weights: Path | str, data: Path, *, imgsz: Any = 64, task: str = "detect") -> Path:
    """The dataset with the model's own best detections as labels, so that its accuracy is far from zero."""
    from ultralytics import YOLO

    with quiet():
        model = YOLO(str(weights), task=task)
        for split in ("train", "val", "test"):
            for image in images_of(data, split):
                if image.suffix.lower() not in (".png", ".jpg", ".tif", ".tiff", ".bmp"):
                    continue
                label = data.parent / "labels" / split / f"{image.stem}.txt"
                [seen] = model.predict(str(image), imgsz=imgsz, conf=0.001, max_det=BOXES, device="cpu", verbose=False)
                boxes = seen.boxes if seen.obb is None else seen.obb
                rows = [[*box, 0.0, kind] for box, kind in zip(boxes.xyxy.tolist(), boxes.cls.tolist(), strict=True)]
                height, width = seen.orig_shape
                lines = []
                for left, top, right, low, _, kind in (one[:6] for one in rows):
                    box = ((left + right) / 2 / width, (top + low) / 2 / height)
                    size = ((right - left) / width, (low - top) / height)
                    lines.append(row((int(kind), *box, *size), task))
                label.write_text("\n".join(lines) + "\n")
    return data


@contextmanager
def _without_pipes(data: Path) -> Iterator[None]:
    """Pipes and devices are taken away for a while: Ultralytics opens them as images and would wait for ever."""
    root = data if data.is_dir() else data.parent
    pipes = [path for path in root.rglob("*") if path.exists() and not path.is_file() and not path.is_dir()]
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        for number, path in enumerate(pipes):
            path.rename(Path(folder, str(number)))
        yield
        for number, path in enumerate(pipes):
            Path(folder, str(number)).rename(path)
