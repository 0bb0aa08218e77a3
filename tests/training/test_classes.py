"""A change of classes replaces class outputs and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from edgeprune import checkpoint
from edgeprune.errors import DataError
from edgeprune.training.classes import fit_classes
from tests.training.narrow import narrow_checkpoint

OLD = ("ant", "bee", "cat", "dog")
NEW = {0: "bee", 1: "emu", 2: "ant"}


@pytest.mark.parametrize("config", ["yolov8n.yaml", "yolo26n.yaml", "yolo26n-seg.yaml", "yolo11n-pose.yaml"])
def test_shared_classes_keep_their_outputs(config: str, tmp_path: Path) -> None:
    model: Any = checkpoint.load(narrow_checkpoint(tmp_path / "m.pt", config, names=OLD)).model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert fit_classes(model, NEW)
    head = model.model[-1]
    assert (head.nc, head.no, model.nc, model.yaml["nc"], model.names) == (3, 3 + 4 * head.reg_max, 3, 3, NEW)
    changed = {k for k, v in model.state_dict().items() if v.shape != before[k].shape or not torch.equal(v, before[k])}
    branches = {"cv3": head.cv3} | ({"one2one_cv3": head.one2one_cv3} if hasattr(head, "one2one_cv3") else {})
    for name, branch in branches.items():
        for level, layers in enumerate(branch):
            last = len(layers) - 1
            old = before[f"model.{head.i}.{name}.{level}.{last}.weight"]
            assert torch.equal(layers[-1].weight[0], old[1])
            assert torch.equal(layers[-1].weight[2], old[0])
            changed -= {f"model.{head.i}.{name}.{level}.{last}.{kind}" for kind in ("weight", "bias")}
    assert all("semseg.2" in key for key in changed)
    model.train()
    out = model(torch.zeros(1, 3, 64, 64))
    scores = out["one2one"]["scores"] if "one2one" in out else out["scores"]
    assert scores.shape[1] == 3
    assert torch.isfinite(scores).all()


def test_other_names_of_as_many_classes_change_nothing(narrow: Path) -> None:
    model = checkpoint.load(narrow).model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert not fit_classes(model, {i: f"other {i}" for i in range(10)})
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (("dog", "cat", "bee", "ant"), [3, 2, 1, 0]),
        (("bee", "cat", "ant", "dog"), [1, 2, 0, 3]),
        (("Ant", "bee", "cat", "dog"), [0, 1, 2, 3]),  # a class by another name
        (("dog", "emu", "cat", "ant"), [3, 1, 2, 0]),
        (("bee", "emu", "cat", "dog"), [1, 0, 2, 3]),
    ],
)
@pytest.mark.parametrize("config", ["yolo26n.yaml", "yolo26n-seg.yaml", "yolo11n-cls.yaml"])
def test_as_many_classes_in_another_order_move_their_outputs(
    config: str, names: tuple[str, ...], rows: list[int], tmp_path: Path
) -> None:
    model: Any = checkpoint.load(narrow_checkpoint(tmp_path / "m.pt", config, names=OLD)).model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    new = dict(enumerate(names))
    moved = rows != [0, 1, 2, 3]
    assert fit_classes(model, new) is moved
    after = model.state_dict()
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert bool(changed) is moved and all(torch.equal(after[key], before[key][rows]) for key in changed)
    if moved:
        levels = {"yolo26n.yaml": 6, "yolo26n-seg.yaml": 7, "yolo11n-cls.yaml": 1}[config]
        assert sum(key.endswith("weight") for key in changed) == levels
        assert model.names == new and not fit_classes(model, new), "a run that goes on moves nothing again"


def test_a_head_of_another_kind_is_refused() -> None:
    from ultralytics.nn.tasks import RTDETRDetectionModel

    model = RTDETRDetectionModel("rtdetr-resnet50.yaml", verbose=False)
    with pytest.raises(DataError, match="RTDETRDecoder"):
        fit_classes(model, {0: "a"})
