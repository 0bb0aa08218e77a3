"""Experiment trackers hear of a run through Ultralytics' own callbacks, where its settings switch them on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeprune.training.trainers import PrunedDetectionTrainer

ROOT = Path(__file__).parents[2]

# TensorBoard itself is not needed to see that it would be told: a writer that writes JSON lines stands in for it.
SCRIPT = """
import json, sys, types
from pathlib import Path

class SummaryWriter:
    def __init__(self, folder): self.file = Path(folder) / "events.out.tfevents.told"
    def add_scalar(self, name, value, step):
        with self.file.open("a") as file: file.write(json.dumps([name, float(value), step]) + "\\n")
    def add_graph(self, *given): pass
    def close(self): pass

module = types.ModuleType("torch.utils.tensorboard")
module.SummaryWriter = SummaryWriter
sys.modules[module.__name__] = module
from ultralytics import settings
settings.update({"tensorboard": True})
from edgeprune.training.finetune import finetune
from edgeprune.settings import TrainSettings
out = Path(sys.argv[3])
finetune(sys.argv[1], data=sys.argv[2], out=out, work=out / "w",
         settings=TrainSettings(epochs=1, batch=8, device="cpu", imgsz=64, quiet=True, train={"plots": True}))
"""


@pytest.mark.slow
def test_tensorboard_hears_of_every_epoch(tmp_path: Path, narrow: Path, digits: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    environment |= {"YOLO_CONFIG_DIR": str(tmp_path), "PYTHONPATH": str(ROOT), "YOLO_OFFLINE": "true"}
    argv = [sys.executable, "-c", SCRIPT, str(narrow), str(digits), str(tmp_path / "out")]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out" / "results.png").is_file(), "plots were asked for"
    told = [json.loads(line) for line in (tmp_path / "out" / "events.out.tfevents.told").read_text().splitlines()]
    assert {step for name, _, step in told if name == "metrics/mAP50-95(B)"} == {1}
    assert {step for name, _, step in told if name == "train/box_loss"} == {1}


def _heard(trackers: dict[str, Any]) -> list[str]:
    """Who is told of an event that these trackers and a callback of our own wait for."""
    heard: list[str] = []
    trainer: Any = object.__new__(PrunedDetectionTrainer)

    def ours(_: Any) -> None:
        heard.append("ours")

    def tell(name: str, module: str) -> Any:
        def theirs(_: Any) -> None:
            heard.append(name)

        theirs.__module__ = module
        return theirs

    told = [*(tell(name, one.__module__) for name, one in trackers.items()), ours]
    trainer.callbacks = {"on_pretrain_routine_start": [], "on_train_end": told}
    for event in trainer.callbacks:
        trainer.run_callbacks(event)
    return heard


def test_trackers_that_write_into_the_current_folder_hear_nothing_unless_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ultralytics.utils.callbacks import clearml, comet, dvc, mlflow, wb

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for name in (*os.environ,):
        if name.startswith(("MLFLOW_", "COMET_", "CLEARML_")):
            monkeypatch.delenv(name)
    modules = {"mlflow": mlflow, "dvc": dvc, "comet": comet, "clearml": clearml, "wandb": wb}
    trackers = {name: module.on_train_end for name, module in modules.items()}
    heard = ["wandb", "ours"]  # what nobody has by default was asked for
    assert _heard(trackers) == heard
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert _heard(trackers) == (heard := ["mlflow", *heard])
    (tmp_path / ".dvc").mkdir()
    assert _heard(trackers) == (heard := ["mlflow", "dvc", "wandb", "ours"])
    (tmp_path / ".comet.config").touch()
    assert _heard(trackers) == (heard := ["mlflow", "dvc", "comet", "wandb", "ours"])
    (tmp_path / "home" / "clearml.conf").touch()
    assert _heard(trackers) == ["mlflow", "dvc", "comet", "clearml", "wandb", "ours"]
