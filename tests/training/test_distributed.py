"""Two processes with gloo, started as torchrun starts them, train as one process does with the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgeprune import checkpoint
from edgeprune.data.digits import write_digits

ROOT = Path(__file__).parents[2]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def train(weights: Path, data: Path, out: Path, strength: float, nbs: int, *launcher: str) -> dict[str, torch.Tensor]:
    argv = [sys.executable, *launcher, "-m", "tests.training.two_processes", weights, data, out, strength, nbs]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([str(part) for part in argv], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return dict(checkpoint.load(out / "best.pt").model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("nbs", [8, 16])
def test_two_processes_sparsify_like_one_with_the_doubled_batch(tmp_path: Path, narrow: Path, nbs: int) -> None:
    """Also where a step gathers the gradients of two batches, which are those of two epochs: order plays no part."""
    data = write_digits(tmp_path / "digits", train=8, val=4, test=2, imgsz=64)
    start = checkpoint.load(narrow).model.state_dict()
    alone = train(narrow, data, tmp_path / "alone", 0.5, nbs)
    shared = train(narrow, data, tmp_path / "shared", 0.5, nbs, *TORCHRUN)
    assert (tmp_path / "shared" / "results.csv").read_text().count("\n") == 4, "one process alone writes"
    scales = [name for name in start if name.endswith("bn.weight")]
    moved = max(float((alone[name] - start[name]).abs().max()) for name in scales)
    assert moved > 0.005, "training must move the scales"
    farthest = max((float((alone[name] - shared[name]).abs().max()), name) for name in start)
    assert farthest[0] < 1e-5, farthest


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from edgeprune.errors import TargetError
    from edgeprune.training import distributed

    monkeypatch.setattr(distributed.dist, "init_process_group", lambda *given, **named: None)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 2)
    trainer = SimpleNamespace(batch_size=7, args=SimpleNamespace(nbs=7))
    with pytest.raises(TargetError, match="multiple of 2"):
        distributed.join_on_cpu(trainer)
