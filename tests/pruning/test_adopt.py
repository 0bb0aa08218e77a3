"""Checkpoints of other pruners: made as their own code makes them, adopted without it, equal outputs, stock classes."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn
from typer.testing import CliRunner
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel

from edgeprune.checkpoint import foreign_globals, load
from edgeprune.cli import app
from edgeprune.errors import DataError, StageError
from edgeprune.pruning.adopt import adopt
from edgeprune.pruning.api import prune
from edgeprune.records.show import read_build
from edgeprune.records.verify import verify_build
from edgeprune.unpickle import split_block_of
from tests.pruning.theirs import part_of, split, their_checkpoint, their_pruner
from tests.situations.datasets import dataset
from tests.situations.profiles import profile


@pytest.fixture
def foreign():
    """Their module; a test takes it away before edgeprune reads their file."""
    with their_pruner() as module:
        yield module


# the number of a layer, and the shares of its halves that are left; every way in which they can differ
CASES = {
    "equal halves": ("yolov8", {2: (1, 1), 4: (0.5, 0.5)}, False),
    "first narrower": ("yolov8", {4: (0.5, 1), 12: (0.25, 1)}, False),
    "second narrower, sums in a chain": ("yolov8", {4: (1, 0.5), 6: (1, 0.25)}, False),
    "second narrower, no sum": ("yolov8", {12: (1, 0.5), 15: (0.75, 0.5)}, False),
    "merged with two widths": ("yolov8", {4: (0.5, 1), 12: (1, 0.5)}, True),
    "blocks of YOLO11": ("yolo11", {2: (1, 0.5), 6: (1, 0.5), 8: (0.5, 1)}, False),
    "blocks of YOLO11, merged": ("yolo11", {6: (0.5, 1), 8: (1, 0.5)}, True),
    "blocks of YOLOv10": ("yolov10", {4: (1, 0.5), 22: (0.5, 1)}, False),
    "attention": ("yolo11", {10: (0.5, 1)}, False),
}


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_equal_and_classes_stock(foreign, tmp_path, monkeypatch, case):
    family, widths, infer = CASES[case]
    image, expected = their_checkpoint(tmp_path / "theirs.pt", family, foreign, widths, infer)
    monkeypatch.delitem(sys.modules, "their_pruner")
    with pytest.raises(DataError, match="edgeprune adopt"):
        load(tmp_path / "theirs.pt")
    done = adopt(tmp_path / "theirs.pt", tmp_path / "stock.pt")
    assert len(done.blocks) == len(widths) and all("their_pruner." in name for name in done.blocks.values())
    assert foreign_globals(tmp_path / "stock.pt") == []
    stock = YOLO(tmp_path / "stock.pt").model.float().eval()
    with torch.no_grad():
        outputs = stock(image)[0]
    assert float(expected.abs().max()) > 1
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-4)
    uneven = {index: pair for index, pair in widths.items() if pair[0] != pair[1]}
    assert len(done.filled) == len(uneven) and (done.parameters[1] > done.parameters[0]) == bool(uneven)


def test_a_class_that_is_named_in_front_is_a_split_block_too(foreign, tmp_path, monkeypatch):
    image, expected = their_checkpoint(tmp_path / "theirs.pt", "yolov8", foreign, {4: (0.5, 1)}, name="PrunableC2f")
    monkeypatch.delitem(sys.modules, "their_pruner")
    with pytest.raises(DataError, match="edgeprune adopt"):
        load(tmp_path / "theirs.pt")
    assert list(adopt(tmp_path / "theirs.pt", tmp_path / "stock.pt").blocks.values()) == ["their_pruner.PrunableC2f"]
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path / "stock.pt").model(image)[0], expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("a.C2f_v2", "C2f"),
        ("a.b.PrunableC2f", "C2f"),
        ("C3k2_infer", "C3k2"),
        ("a.C2f", None),
        ("a.PrunableC2f_v2", None),
        ("a.Prunable", None),
    ],
)
def test_names_of_split_blocks(name, block):
    assert split_block_of(name) == block


def test_what_is_adopted_can_be_pruned_further(foreign, tmp_path, monkeypatch):
    their_checkpoint(tmp_path / "theirs.pt", "yolov8", foreign, {4: (1, 0.5), 12: (0.5, 1)})
    monkeypatch.delitem(sys.modules, "their_pruner")
    adopt(tmp_path / "theirs.pt", tmp_path / "stock.pt")
    result = prune(tmp_path / "stock.pt", tmp_path / "pruned.pt", macs_speed_up=1.5, imgsz=64)
    assert result.plan.macs_speed_up >= 1.5
    assert load(tmp_path / "pruned.pt").signature == result.plan.result_shapes


@pytest.mark.slow
def test_what_is_adopted_is_built(foreign, tmp_path, monkeypatch):
    their_checkpoint(tmp_path / "theirs.pt", "yolo11", foreign, {4: (1, 0.5), 10: (0.5, 1)})
    monkeypatch.delitem(sys.modules, "their_pruner")
    adopt(tmp_path / "theirs.pt", tmp_path / "stock.pt")
    data = dataset(tmp_path / "data", names={0: "a", 1: "b", 2: "c"})
    argv = ["build", "--target", profile(tmp_path / "quick.yaml"), "--weights", tmp_path / "stock.pt", "--data", data]
    CliRunner().invoke(app, [*map(str, argv), "--out", str(tmp_path / "run")])
    record = read_build(tmp_path / "run")
    assert foreign_globals(tmp_path / "run" / "bundle" / "model.pt") == []
    assert record.plan is not None and record.plan.macs_speed_up >= 1.2
    assert verify_build(tmp_path / "run").changed == ()


def test_a_half_before_attention_cannot_be_filled(foreign, tmp_path, monkeypatch):
    model = DetectionModel("yolo11n.yaml", nc=3, verbose=False).eval()
    block = model.model[10]
    theirs = split(block, foreign, block.c, block.c)
    theirs.cv0 = part_of(block.cv1, [*range(block.c), 0, 1])  # two channels more than the half that attention reads
    theirs.cv2.conv.weight = nn.Parameter(torch.cat((theirs.cv2.conv.weight, theirs.cv2.conv.weight[:, :2]), 1))
    theirs.cv2.conv.in_channels += 2
    model.model[10] = theirs
    torch.save({"model": model}, tmp_path / "theirs.pt")
    monkeypatch.delitem(sys.modules, "their_pruner")
    with pytest.raises(StageError, match=r"model\.10: its halves are unequal"):
        adopt(tmp_path / "theirs.pt", tmp_path / "stock.pt")
    assert not (tmp_path / "stock.pt").exists()


class Payload:
    """Runs something when a pickle builds it."""

    def __reduce__(self):
        return print, ("executed",)


def test_a_hostile_file_of_the_same_shape_executes_nothing(foreign, tmp_path, monkeypatch, capfd):
    their_checkpoint(tmp_path / "theirs.pt", "yolov8", foreign, {4: (1, 0.5)})
    content = torch.load(tmp_path / "theirs.pt", weights_only=False)
    content["model"].model[4].trap = Payload()
    torch.save(content, tmp_path / "hostile.pt")
    monkeypatch.delitem(sys.modules, "their_pruner")
    with pytest.raises(DataError) as refused:
        adopt(tmp_path / "hostile.pt", tmp_path / "stock.pt")
    assert "--trust" not in str(refused.value)  # an option that adopt has not
    assert "executed" not in capfd.readouterr().out and not (tmp_path / "stock.pt").exists()


@pytest.mark.parametrize("content", [b"", b"PK\3\4cut"], ids=["empty", "cut off"])
def test_a_file_that_is_no_checkpoint_is_called_that(content, tmp_path):
    (tmp_path / "theirs.pt").write_bytes(content)
    with pytest.raises(DataError, match=r"theirs.pt is empty.*; copy or train it again$"):
        adopt(tmp_path / "theirs.pt", tmp_path / "stock.pt")


def test_the_command(foreign, tmp_path, monkeypatch):
    their_checkpoint(tmp_path / "theirs.pt", "yolov8", foreign, {4: (1, 0.5)})
    monkeypatch.delitem(sys.modules, "their_pruner")
    runner = CliRunner()
    done = runner.invoke(app, ["adopt", str(tmp_path / "theirs.pt"), "-o", str(tmp_path / "stock.pt")])
    assert done.exit_code == 0 and "model.4" in done.stdout
    again = runner.invoke(app, ["adopt", str(tmp_path / "stock.pt"), "-o", str(tmp_path / "again.pt")])
    assert isinstance(again.exception, DataError) and "needs no adopting" in str(again.exception)
