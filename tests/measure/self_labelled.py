"""A dataset whose labels are a model's own PyTorch predictions: any faithful form of the model scores 1 on it.

Images are squares of the model's size, so that no resizing lies between a prediction and its label. For each class only
predictions above a threshold become labels, and no prediction above it fails to: those below rank after every label and
cost nothing. The threshold lies in a gap of the scores, so that the last digits of another form move none across it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision  # noqa: F401  NMS is a slow loop until it is imported, and stops after two seconds
import yaml
from PIL import Image
from ultralytics.utils import ops
from ultralytics.utils.nms import non_max_suppression

MOST = 300  # detections an image, the validators' own limit
GAP = 1e-4  # of scores: nearer ones may change places between two forms of a model


def square_images(sources: Sequence[Path], folder: Path, imgsz: int) -> list[Path]:
    """Squares of real images, without loss."""
    folder.mkdir(parents=True)
    paths = []
    for number, source in enumerate(sources):
        paths.append(folder / f"{number}.png")
        Image.open(source).convert("RGB").resize((imgsz, imgsz)).save(paths[-1])
    return paths


def answering(model: Any, images: Sequence[Path]) -> Any:
    """Make a random model answer to what it sees: statistics of these images, small boxes, few high scores."""
    batch = torch.cat([_pixels(image) for image in images])
    norms = [layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    head = model.model[-1]
    masks, angles = hasattr(head, "proto"), hasattr(head, "ne")
    # distances to the sides: the slope of their logits where they have some, else strides; long boxes show their angle
    fall, side = (1.25, 0.4) if masks else (0.7, 1.0) if angles else (0.4, 2.0)
    longer = torch.tensor([2.0, 0.7, 2.0, 0.7] if angles else [1.0] * 4)
    with torch.no_grad():
        for norm in norms:
            norm.momentum = None  # a plain average over the passes below, from scratch
            norm.reset_running_stats()
        model.train()
        model(batch)
        for norm in norms:
            norm.momentum = 0.03
        model.eval()
        for branches in (head.cv2, getattr(head, "one2one_cv2", None) or ()):
            for branch in branches:
                bins = torch.outer(1 / longer, torch.arange(head.reg_max)).flatten()
                branch[-1].bias.copy_(-fall * bins if head.reg_max > 1 else side * longer)
                branch[-1].weight.mul_(0.5)
        if masks:
            _smooth(head)
        hooks = [
            branch[-1].register_forward_hook(partial(_few, 5.0 - 0.5 * level))
            for branches in (head.cv3, getattr(head, "one2one_cv3", None) or ())
            for level, branch in enumerate(branches)
        ]
        model(batch)
        for hook in hooks:
            hook.remove()
        for group in (head.cv3, getattr(head, "one2one_cv3", None) or ()) if masks else ():
            for branch in group[:-1]:  # only the coarsest level, whose boxes are large enough for the shape of a mask
                branch[-1].bias.sub_(30.0)
    return model


def _smooth(head: Any) -> None:
    """Prototypes without detail finer than a few pixels, so that a mask is one shape that a polygon can hold."""
    for weight in (head.proto.cv1.conv.weight, head.proto.cv2.conv.weight, head.proto.upsample.weight):
        weight.copy_(weight.mean(dim=(2, 3), keepdim=True).expand_as(weight))
    for branches in (head.cv4, getattr(head, "one2one_cv4", None) or ()):
        for branch in branches:
            branch[-1].bias.fill_(0.3)


def _few(highest: float, layer: Any, inputs: Any, output: torch.Tensor) -> None:
    """Score 0.5 or more at one place in thirty, for each class.

    No logit is above ``highest``: float32 ranks scores by their distance from 1.
    """
    values = (output - layer.bias[:, None, None]).transpose(0, 1).flatten(1)
    usual = values.quantile(0.97, dim=1)
    steep, capped = 2.0 / values.std(dim=1), highest / (values.amax(dim=1) - usual)
    scale = torch.minimum(steep, capped).clamp(max=1e3)
    layer.weight.mul_(scale[:, None, None, None])
    layer.bias.copy_(-scale * usual)


def _pixels(image: Path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(image), np.float32)).permute(2, 0, 1)[None] / 255


def self_labelled(model: Any, images: Sequence[Path], root: Path, task: str, *, end_to_end: bool) -> Path:
    """Write labels beside ``images`` (under root/images) and the dataset's YAML, whose path is given."""
    if hasattr(model, "end2end"):
        model.end2end = end_to_end
    found = sorted(
        ((*row, image) for image in images for row in _detections(model, image, task)), key=lambda row: -row[0]
    )
    kept: dict[int, list[tuple[float, Path, str]]] = {}  # by class: score, image, line of its label file
    boxes: dict[Path, list[list[float]]] = {image: [] for image in images}
    closed: dict[int, float] = {}  # by class: score of its best prediction without a label
    for score, label, box, values, possible, image in found:
        free = task != "segment" or not any(_overlap(box, other) for other in boxes[image])  # a label map has one layer
        if not possible or not free:
            closed.setdefault(label, score)
        elif label not in closed:
            line = f"{label} {' '.join(f'{value:.8f}' for value in values)}"
            kept.setdefault(label, []).append((score, image, line))
            boxes[image].append(box)
    for label, best in closed.items():
        while kept.get(label) and kept[label][-1][0] - best < GAP:
            best, _, _ = kept[label].pop()
    lines: dict[Path, list[str]] = {image: [] for image in images}
    for _, image, line in (one for group in kept.values() for one in group):
        lines[image].append(line)
    assert sum(map(len, lines.values())) >= 6, "too few predictions became labels: nothing would be tested"
    for image in images:
        path = root / "labels" / image.parent.name / f"{image.stem}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines[image]))
    path = root / "data.yaml"
    content = {"path": str(root), "train": "images/val", "val": "images/val", "names": dict(model.names)}
    if task == "pose":
        content["kpt_shape"] = list(model.model[-1].kpt_shape)
    path.write_text(yaml.safe_dump(content))
    return path


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _detections(model: Any, image: Path, task: str) -> list[tuple[float, int, list[float], list[float], bool]]:
    """(score, class, box, label without the class, whether it can be a label) of each prediction for an image."""
    pixels = _pixels(image)
    size, nc = pixels.shape[-1], len(model.names)
    with torch.inference_mode():
        out = model(pixels)
    protos = None
    if task == "segment":
        out, protos = out[0] if isinstance(out[0], tuple) else (out[0], out[1][-1])
    out = out[0] if isinstance(out, (tuple, list)) else out
    rows = non_max_suppression(
        out.clone(),
        0.001,
        0.7,
        nc=nc,
        multi_label=True,
        max_det=MOST,
        end2end=bool(getattr(model, "end2end", False)),
        rotated=task == "obb",
    )[0]
    rows = rows[rows[:, 4] > 0.25]
    masks = None
    if task == "segment" and len(rows):
        assert protos is not None
        masks = ops.process_mask(protos[0], rows[:, 6:], rows[:, :4], (size, size), upsample=True)
    labels = []
    for number, row in enumerate(rows):
        label, ok = _label(row, task, size, model, None if masks is None else masks[number])
        labels.append((float(row[4]), int(row[5]), row[:4].tolist(), label, ok))
    return labels


def _label(row: torch.Tensor, task: str, size: int, model: Any, mask: Any) -> tuple[list[float], bool]:
    box = row[:4] / size
    inside = bool((box >= 0).all() and (box <= 1).all())
    if task == "obb":
        corners = ops.xywhr2xyxyxyxy(torch.cat([row[:4], row[-1:]])).reshape(-1) / size
        return corners.tolist(), bool((corners >= 0).all() and (corners <= 1).all())
    if task == "segment":
        [segment] = ops.masks2segments(mask[None].byte(), strategy="largest")
        return (segment / size).reshape(-1).tolist(), inside and len(segment) > 3
    centre = ops.xyxy2xywh(box[None])[0].tolist()
    if task == "pose":
        points = row[6:].reshape(model.model[-1].kpt_shape).clone()
        points[:, :2] /= size
        seen = ((points[:, :2] >= 0) & (points[:, :2] <= 1)).all(dim=1)
        flat = [
            v for (x, y, _), ok in zip(points.tolist(), seen, strict=True) for v in ((x, y, 2) if ok else (0, 0, 0))
        ]
        return [*centre, *flat], inside and bool(seen.any())
    return centre, inside
