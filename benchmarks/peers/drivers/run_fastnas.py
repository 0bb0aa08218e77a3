"""Runs ModelOpt's FastNAS on a YOLO model, with a budget of FLOPs."""

from __future__ import annotations

import copy
from typing import Any

import torch
from driving import Job, job, leave_graph  # pyright: ignore[reportMissingImports]


def traceable() -> None:
    """Forward passes of equal outputs that torch.fx can follow: no options, and no loop over what is being traced."""
    from ultralytics.nn.modules import C2f
    from ultralytics.nn.tasks import DetectionModel

    def whole(self: Any, x: Any) -> Any:
        kept: list[Any] = []
        for layer in self.model:
            if layer.f != -1:
                x = kept[layer.f] if isinstance(layer.f, int) else [x if j == -1 else kept[j] for j in layer.f]
            x = layer(x)
            kept.append(x if layer.i in self.save else None)
        return x

    def block(self: Any, x: Any) -> Any:
        halves = self.cv1(x).chunk(2, 1)
        parts = [halves[0], halves[1]]
        for inner in self.m:
            parts.append(inner(parts[-1]))
        return self.cv2(torch.cat(parts, 1))

    DetectionModel.forward = whole
    C2f.forward = block


def batches(data: str, split: str, count: int, imgsz: int, size: int = 2) -> list[Any]:
    """So many batches (size, 3, height, width) in 0..1 with their labels, as Ultralytics' own validation takes them."""
    from ultralytics.cfg import get_cfg
    from ultralytics.data.build import build_dataloader, build_yolo_dataset
    from ultralytics.data.utils import check_det_dataset

    described = check_det_dataset(data)
    asked: Any = get_cfg(overrides={"imgsz": imgsz, "task": "detect", "data": data, "rect": False})
    dataset = build_yolo_dataset(asked, described[split], size, described, mode="val", rect=False)
    found = []
    for batch in build_dataloader(dataset, size, workers=0, shuffle=False):
        found.append({**batch, "img": batch["img"].float() / 255})
        if len(found) == count:
            break
    return found


def run(given: Job) -> None:
    """Prune, and leave a checkpoint without what ModelOpt keeps beside a model."""
    import modelopt.torch.prune as mtp  # pyright: ignore[reportMissingImports]
    from ultralytics import YOLO
    from ultralytics.cfg import get_cfg

    seen = batches(str(given.data), "val", given.setting["scored"], given.imgsz)
    fed = batches(str(given.data), "train", given.setting["calibrated"], given.imgsz)
    model: Any = YOLO(str(given.weights)).model
    model.float().eval().requires_grad_(True)
    model.args = get_cfg()
    traceable()

    def score(candidate: Any) -> float:
        # the criterion is made anew for the model that is asked, of its own head
        candidate.eval()
        with torch.no_grad():
            criterion = candidate.init_criterion()
            return -sum(float(criterion(candidate(one["img"]), one)[0].sum()) / len(one["img"]) for one in seen)

    pruned, _ = mtp.prune(
        model,
        mode="fastnas",
        constraints={"flops": given.setting["flops"]},
        dummy_input=torch.rand(1, 3, given.imgsz, given.imgsz),
        config={
            "score_func": score,
            "data_loader": fed,
            "collect_func": lambda batch: batch["img"],
            "checkpoint": "fastnas.pth",
            "verbose": True,
        },
    )
    pruned = copy.deepcopy(pruned).eval()
    for name in [one for one in vars(pruned) if "modelopt" in one]:
        delattr(pruned, name)
    pruned.criterion = None
    torch.save({"model": pruned, "train_args": {}}, given.out)


if __name__ == "__main__":
    work = job()
    run(work)
    leave_graph(work.out, work.imgsz)
