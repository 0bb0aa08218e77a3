"""The references of benchmarks/: each prunes as it says, rows are kept, and the page says what they show."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.references import __main__ as references
from benchmarks.references.approaches import Approach, approaches
from edgeprune import checkpoint
from edgeprune.errors import TargetError
from edgeprune.pruning.pruner import Pruner
from tests.export.helpers import saved, stock_model

EVERY = {one.name: one for one in approaches(steps=2)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = stock_model("yolov8", "detect", random_norms=True)
    return saved(model, tmp_path_factory.mktemp("references") / "w.pt")


@pytest.mark.parametrize("name", EVERY)
def test_each_approach_prunes_as_it_says(weights: Path, name: str) -> None:
    one = EVERY[name]
    pruner = Pruner(checkpoint.load(weights).model, 64, align=one.align, min_width=one.align)
    plan = one.plan(pruner)
    free = [line for line in plan.dimensions if line.fixed is None]
    gone = 1 - sum(line.after for line in free) / sum(line.before for line in free)
    if name == "half-l2":
        assert all(abs(line.after / line.before - 0.5) < 0.1 for line in free)
    elif name == "lamp-macs-2":
        assert 2.0 <= plan.macs_speed_up < 2.2
        assert all(line.after % 8 == 0 for line in free)
    else:
        share = {"slimming-keep-80": 20, "bn-30-short": 30}.get(name) or int(name.removeprefix("slimming-"))
        assert gone == pytest.approx(share / 100, abs=0.02)
    assert (one.sparsity is not None) is name.startswith("slimming")


def options_for(folder: Path, weights: Path, **others: Any) -> argparse.Namespace:
    given = {"imgsz": 64, "epochs": 3, "seeds": [0], "steps": 2, "device": "cpu"} | others
    return argparse.Namespace(weights=weights, data=Path("data/data.yaml"), kept=folder, **given)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """Training, timing, validation and search without work; ``done`` counts the fine-tunes."""
    seen = SimpleNamespace(done=[], bench=None, refuse=False)

    def trained(weights: Path, **given: Any) -> Any:
        seen.done.append((Path(weights).parent.name, given["settings"].epochs))
        return SimpleNamespace(best=weights, summary=SimpleNamespace(best_epoch=0, seconds=3600.0))

    def searched(*_: Any, output: Path, **__: Any) -> Any:
        if seen.refuse:
            raise TargetError("out of reach")
        output.write_bytes(tmp_path.joinpath("w.pt").read_bytes())
        plan = SimpleNamespace(params=(10, 4), macs_speed_up=2.1)
        return SimpleNamespace(plan=plan, gate=SimpleNamespace(verdict=SimpleNamespace(value="PASS")))

    raced = SimpleNamespace(low=1.9, ratio=2.0, high=2.1)
    seen.bench = SimpleNamespace(work=tmp_path, raced=lambda *_: raced)
    monkeypatch.setattr(references, "finetune", trained)
    monkeypatch.setattr(references, "search", searched)
    monkeypatch.setattr(references, "_accuracy", lambda *_: (0.5, 0.01))
    return seen


def test_rows_are_kept_and_the_search_is_asked_for_the_latency_that_was_reached(
    tmp_path: Path, weights: Path, quick: SimpleNamespace
) -> None:
    (tmp_path / "w.pt").write_bytes(weights.read_bytes())
    options = options_for(tmp_path, weights)
    chosen = [EVERY["bn-30-short"]]
    found = list(references.rows(chosen, options, quick.bench, tmp_path))
    assert [row["method"] for row in found] == ["bn-30-short", *references.OURS.values()]
    assert found[1]["asked"] == found[2]["asked"] == 2.0
    assert [epochs for _, epochs in quick.done] == [2, 2, 2], "half of three epochs, and ours as many"
    assert [row["total_s"] - row["prune_s"] for row in found] == pytest.approx([3600.0] * 3), "by the trainings' clock"
    assert all(row["by"] for row in found)
    assert list(references.rows(chosen, options, quick.bench, tmp_path)) == []
    text = references.page(references.kept_in(tmp_path), tuple(EVERY.values()), options)
    assert "| `bn-30-short` | 1 |" in text
    assert "| `half-l2` | 0 | – |" in text, "what was not run is said"
    assert "A small run: 3 epochs, 1 seed." in text
    assert "search, same recipe against `bn-30-short`: not told: fewer than three seeds." in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1, "every row has every column"


def test_a_search_out_of_reach_is_a_row_with_its_reason(tmp_path: Path, weights: Path, quick: SimpleNamespace) -> None:
    quick.refuse = True
    options = options_for(tmp_path, weights)
    found = list(references.rows([EVERY["bn-30-short"]], options, quick.bench, tmp_path))
    assert [row.get("why") for row in found] == [None, "out of reach", "out of reach"]
    text = references.page(references.kept_in(tmp_path), tuple(EVERY.values()), options)
    assert text.count("| out of reach |") == 2


def test_three_seeds_are_judged_by_their_interval(tmp_path: Path, weights: Path) -> None:
    def row(method: str, seed: int, after: float) -> dict[str, Any]:
        same = {"parameters": 10, "macs": 2.0, "prune_s": 1, "total_s": 2, "epochs": 20, "before": 0.1, "spread": 0.01}
        return same | {
            "approach": "half-l2",
            "method": method,
            "seed": seed,
            "after": after,
            "speed_up": [1, 2, 3],
            "load": 1,
            "by": f"a machine of seed {seed}",
        }

    ours, theirs = references.OURS["edgeprune"], "half-l2"
    found = [row(theirs, seed, 0.40 + seed / 100) for seed in range(3)]
    found += [row(ours, seed, 0.60 + seed / 100) for seed in range(3)]
    found += [row(references.OURS["ultralytics"], seed, 0.2 + seed / 100) for seed in range(3)]
    options = options_for(tmp_path, weights, epochs=20, seeds=[0, 1, 2])
    text = references.page(json.loads(json.dumps(found)), tuple(EVERY.values()), options)
    assert "search, own recipe against `half-l2`: ahead" in text
    assert "search, same recipe against `half-l2`: behind" in text, "where we lose, the row stays"
    assert "A small run" not in text
    assert "a machine of seed 0; and a machine of seed 1; and a machine of seed 2; load 1 to 1." in text


def test_approaches_with_the_same_sparsity_share_its_training() -> None:
    names = {one.sparse_name for one in EVERY.values() if one.name[-1] == "0" and one.sparsity}
    assert isinstance(EVERY["half-l2"], Approach)
    assert len(names) == 2
    assert EVERY["slimming-20"].sparse_name == EVERY["slimming-60"].sparse_name != EVERY["slimming-keep-80"].sparse_name
