"""What is handed on is that of the request: another one validates again, and the same one does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeprune import checkpoint
from edgeprune.settings import TrainSettings
from edgeprune.training import result_from_run as module
from edgeprune.training.run import _record_request


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
        _record_request(work / "run.json", narrow, data, changed, {"dataset": digest})
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
