"""Ultralytics' own loads are restricted while edgeprune calls it, whatever was imported first, and only then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ultralytics.nn import tasks

from edgeprune.settings import TrainSettings
from edgeprune.training import model_yaml, run

CODE = """
import os, sys
{imports}
from edgeprune.unpickle import SWITCH, known_classes_only
from ultralytics.nn import tasks
assert not tasks.SAFE_LOAD and SWITCH not in os.environ
with known_classes_only():
    assert tasks.SAFE_LOAD and tasks._SafeLoad.restricted() and os.environ[SWITCH] == "1"
assert not tasks.SAFE_LOAD and SWITCH not in os.environ
"""


@pytest.mark.parametrize("imports", ["import ultralytics, edgeprune", "import edgeprune, ultralytics"])
def test_in_both_orders_and_what_the_user_loads_afterwards_is_as_before(imports: str) -> None:
    env = {name: value for name, value in os.environ.items() if name != "ULTRALYTICS_SAFE_LOAD"}
    code = CODE.format(imports=imports)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


class Seen(Exception):
    """Ends a call where its first load would be."""


def test_every_call_of_ultralytics_that_loads_is_restricted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def load(*_: Any, **__: Any) -> None:
        seen.append(tasks.SAFE_LOAD)
        raise Seen

    monkeypatch.setattr(tasks, "SAFE_LOAD", False)
    monkeypatch.setattr(run, "YOLO", load)
    monkeypatch.setattr("ultralytics.YOLO", load)
    settings = TrainSettings(epochs=1, device="cpu", imgsz=64)
    with pytest.raises(Seen):
        run.run_training(tmp_path, "yolo11n.pt", data="data.yaml", settings=settings)
    with pytest.raises(Seen):
        run.validation_accuracy(tmp_path / "x.pt", data="data.yaml", settings=settings, work=tmp_path)
    with pytest.raises(Exception, match="Seen"):
        model_yaml.read_model_yaml("yolo11n.yaml")
    assert seen == [True] * 3 and not tasks.SAFE_LOAD
