"""Runs ``prune`` of Torch-Pruning's example for YOLOv8 with today's Ultralytics, without its fine-tunes."""

from __future__ import annotations

import sys
from argparse import Namespace
from types import ModuleType, SimpleNamespace
from typing import Any

from driving import Job, job, leave_graph  # pyright: ignore[reportMissingImports]


def old_names() -> None:
    """Ultralytics 8.0's modules, by the names that the example imports, with what they hold today."""
    import ultralytics.nn.tasks as tasks
    from ultralytics import utils
    from ultralytics.engine.trainer import BaseTrainer
    from ultralytics.utils import checks, torch_utils

    def module(name: str, **held: Any) -> None:
        made = ModuleType(name)
        made.__dict__.update(held)
        sys.modules[name] = made

    names = ("yaml_load", "LOGGER", "RANK", "DEFAULT_CFG_DICT", "DEFAULT_CFG_KEYS")
    held = {name: getattr(utils, name, None) for name in names}
    for name in ("ultralytics.yolo", "ultralytics.yolo.engine"):
        module(name)
    module("ultralytics.yolo.engine.model", TASK_MAP={})
    module("ultralytics.yolo.engine.trainer", BaseTrainer=BaseTrainer)
    module("ultralytics.yolo.utils", **held)
    module("ultralytics.yolo.utils.checks", check_yaml=checks.check_yaml)
    module(
        "ultralytics.yolo.utils.torch_utils",
        initialize_weights=torch_utils.initialize_weights,
        de_parallel=getattr(torch_utils, "de_parallel", None),
    )
    if not hasattr(tasks, "attempt_load_one_weight"):
        tasks.attempt_load_one_weight = tasks.load_checkpoint  # pyright: ignore[reportAttributeAccessIssue]


def run(given: Job) -> None:
    """Its steps, with nothing trained or validated between them."""
    old_names()
    import torch
    import yolov8_pruning as example  # pyright: ignore[reportMissingImports]

    class Untrained(example.YOLO):
        """Its model, which is validated as perfect, and not exported by it but kept."""

        def val(self, *_: Any, **__: Any) -> Any:
            return SimpleNamespace(box=SimpleNamespace(map=1.0))

        def export(self, *_: Any, **__: Any) -> None:
            torch.save({"model": self.model}, given.out)

    def without_training(model: Any, **_: Any) -> None:
        model.trainer = SimpleNamespace(best=str(given.weights))

    example.YOLO = Untrained
    example.train_v2 = without_training
    example.yaml_load = lambda _: {"batch": 16, "imgsz": given.imgsz}
    example.check_yaml = lambda name: name
    example.save_pruning_performance_graph = lambda *_: None
    example.prune(Namespace(model=str(given.weights), cfg="", max_map_drop=1.0, **given.setting))


if __name__ == "__main__":
    work = job()
    run(work)
    leave_graph(work.out, work.imgsz)
