"""What is handed on is that of the request: another one validates again, and the same one does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from edgeprune import checkpoint
from edgeprune.settings import TrainSettings
from edgeprune.training import result_from_run as module
from edgeprune.training.run import _request, _write_request


def test_the_given_model_kept_twice_is_another_result_for_another_request(
    tmp_path: Path, narrow: Path, settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epoch 0 has the same weights whatever it was compared with."""
    validated: list[int] = []
    monkeypatch.setattr(module, "validation_accuracy", lambda *_, **__: validated.append(0) or 0.1 * len(validated))
    work, out = tmp_path / "work", tmp_path / "out"
    (work / "run" / "weights").mkdir(parents=True)
    best = work / "run" / "weights" / "best.pt"
    best.write_bytes(narrow.read_bytes())
    run: Any = SimpleNamespace(best=best, task="detect", best_epoch=0, epochs_run=1, epochs=(), seconds=1.0, given=None)

    def result(
        data: str = "d.yaml", digest: str = "one", metadata: dict[str, object] | None = None, **changes: Any
    ) -> float:
        changed: TrainSettings = replace(settings, **changes)
        _write_request(work / "run.json", _request(narrow, data, changed, {"dataset": digest}), [])
        (work / "run" / "results.csv").write_text(f"epoch,time\n1,{len(validated)}\n")
        made = module.result_from_run(
            run, checkpoint.load(narrow).model, epoch=0, data=data, out=out, settings=changed, work=work,
            metadata=metadata,
        )  # fmt: skip
        return made.summary.map50_95

    assert result() == result() == pytest.approx(0.1)
    assert result(digest="relabelled") == pytest.approx(0.2)
    assert result(digest="relabelled", imgsz=96) == pytest.approx(0.3)
    assert result(digest="relabelled", imgsz=96, lr0=1e-4) == pytest.approx(0.4)
    assert (out / "results.csv").read_text() == "epoch,time\n1,3\n"
    assert result(digest="relabelled", imgsz=96, lr0=1e-4, metadata={"note": "new"}) == pytest.approx(0.5)
    assert checkpoint.load(out / "best.pt").edgeprune["note"] == "new"
    assert json.loads((work / "result.json").read_text())["map50_95"] == pytest.approx(0.5)


@pytest.mark.parametrize(("epoch", "figures"), [(1, {"fitness": 0.8}), (2, {"fitness": 0.3})])
def test_what_is_handed_on_has_the_figures_of_its_own_epoch(
    tmp_path: Path, narrow: Path, settings: TrainSettings, monkeypatch: pytest.MonkeyPatch, epoch: int, figures: object
) -> None:
    monkeypatch.setattr(module, "validation_accuracy", lambda *_, **__: 0.1)
    weights = tmp_path / "work" / "run" / "weights"
    weights.mkdir(parents=True)
    best, last = weights / "best.pt", weights / "last.pt"
    content = torch.load(narrow, weights_only=False)
    torch.save({**content, "best_fitness": 0.8, "train_metrics": {"fitness": 0.8}}, best)
    torch.save({"ema": None, "best_fitness": 0.8, "train_metrics": {"fitness": 0.3}}, last)
    run: Any = SimpleNamespace(
        best=best, last=last, task="detect", best_epoch=1, epochs_run=2, epochs=(), seconds=1.0, given=None
    )
    module.result_from_run(
        run, checkpoint.load(narrow).model, epoch=epoch, data="d.yaml", out=tmp_path / "out", settings=settings,
        work=tmp_path / "work", metadata=None,
    )  # fmt: skip
    extra = checkpoint.load(tmp_path / "out" / "best.pt").extra
    assert (extra["train_metrics"], extra["best_fitness"]) == (figures, 0.8 if epoch == 1 else None)
