"""What pruning needs beside the model: measured in a fresh process, as ``benchmarks/pruning_speed.py`` does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeprune.checkpoint import save

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="no /proc: a peak cannot start anew")
@pytest.mark.parametrize(
    "name", ["yolo26n", *(pytest.param(n, marks=pytest.mark.slow) for n in ("yolov8n", "yolo11n"))]
)
def test_pruning_holds_at_most_two_and_a_half_models(stock, tmp_path, name):
    save(stock(f"{name}.yaml"), tmp_path / "model.pt")
    command = [sys.executable, str(ROOT / "benchmarks/pruning_speed.py"), "--one", str(tmp_path / "model.pt")]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["peak_over_model"] <= 2.5, seen
    assert seen["peak_with_code"] <= 3.5, seen  # pages of torch's own files differ from version to version
    assert seen["modules_loaded"] < 50, seen  # a lazy import of half of torch hides in here: SymPy alone cost 110 MiB
