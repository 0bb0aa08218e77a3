"""Labelled batches for criteria that ask the loss, read by Ultralytics' own dataset classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeprune.dataset import Dataset
from edgeprune.errors import NOT_OF_THE_INPUT, DataError, TargetError
from edgeprune.input_size import Size, both_sides
from edgeprune.options import named
from edgeprune.quiet import process_state_kept, quiet
from edgeprune.settings import PruneSettings, check_seed


@dataclass(frozen=True)
class Batch:
    """Images with their labels, as a model's loss takes them.

    Attributes:
        images: float32 of shape (images, channels, height, width) in [0, 1], RGB where there are three.
        labels: the task's tensors by Ultralytics' names: ``cls``, ``bboxes``, ``batch_idx``, ...
    """

    images: torch.Tensor
    labels: Mapping[str, torch.Tensor]

    @classmethod
    def from_ultralytics(cls, batch: Mapping[str, Any]) -> Batch:
        """Take what the collate function of an Ultralytics dataset gives; images may be uint8 in 0..255."""
        images = batch["img"]
        labels = {key: value for key, value in batch.items() if key != "img" and isinstance(value, torch.Tensor)}
        return cls(images.float() / 255 if images.dtype == torch.uint8 else images, labels)


@process_state_kept()
def calibration_batches(
    data: Path | str | Dataset,
    task: str,
    imgsz: Size,
    *,
    images: int = PruneSettings.images,
    batch: int = PruneSettings.batch,
    split: str = "train",
    seed: int = 0,
    stride: int = 32,
) -> list[Batch]:
    """Read labelled images as a model's loss wants them, without augmentation.

    Args:
        data: a dataset, or what :meth:`Dataset.load` takes.
        task: ``detect``, ``segment``, ``pose``, ``obb`` or ``classify``.
        imgsz: of the letterboxed images in pixels: a side, or height and width.
        images: how many images, drawn without replacement; fewer when the split has fewer. They stay in the order in
            which they were drawn: files that lie together show one class, or one scene, and a batch, or the first few
            of them, would show no other.
        batch: images per batch; each batch is one sample of the gradient, however many passes it takes
            (:data:`~edgeprune.pruning.loss.MOST_PIXELS`).
        split: use the training split for pruning decisions, so that validation stays unseen.
        seed: of the draw.
        stride: of the model.

    Returns:
        Batches with images of shape (batch, channels, height, width); the last one may hold fewer.

    Raises:
        TargetError: ``images`` or ``batch`` is under 1, or the seed out of range.
        DataError: the data set or the split cannot be read, or is empty.
    """
    from torch.utils.data import DataLoader, Subset
    from ultralytics.cfg import get_cfg
    from ultralytics.data.build import build_yolo_dataset
    from ultralytics.data.dataset import ClassificationDataset
    from ultralytics.data.utils import check_cls_dataset, check_det_dataset

    from edgeprune.rectangle import fit_dataset

    check_seed(seed)
    if images < 1 or batch < 1:
        raise TargetError(f"{named('images')} and {named('batch')} start at 1 (seen: {images}, {batch})")
    overrides = {
        "imgsz": max(both_sides(imgsz)),
        "task": task,
        "rect": False,
        "cache": False,
        "single_cls": False,
        "fraction": 1.0,
    }
    cfg: Any = get_cfg(overrides=overrides)
    checked = data if isinstance(data, Dataset) else Dataset.load(data, task=task, need=(split,))
    given = str(checked.for_ultralytics(split))
    try:
        with quiet():
            if task == "classify":
                folder = check_cls_dataset(given)[split]
                dataset: Any = ClassificationDataset(root=str(folder), args=cfg, augment=False)
            else:
                described = check_det_dataset(given, autodownload=False)
                dataset = build_yolo_dataset(cfg, described[split], batch, described, mode="val", stride=stride)
    except NOT_OF_THE_INPUT:
        raise
    except Exception as error:
        text = str(error).strip().splitlines() or [""]
        raise DataError(
            f"cannot read split '{split}' of {checked.source}: {type(error).__name__}: {text[0][:160]}"
        ) from error
    fit_dataset(dataset, imgsz)
    count = min(images, len(dataset))
    chosen = np.random.default_rng(seed).permutation(len(dataset))[:count].tolist()
    loader = DataLoader(
        Subset(dataset, chosen), batch_size=batch, shuffle=False, collate_fn=getattr(dataset, "collate_fn", None)
    )
    return [Batch.from_ultralytics(batch_of_dataset) for batch_of_dataset in loader]
