"""Of a model's two heads the one that ships is counted, ranked and pruned; the other one is left alone."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from edgeprune.checkpoint import save
from edgeprune.errors import DataError, TargetError
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.measure.accuracy import accuracy
from edgeprune.measure.graphs import counts_of
from edgeprune.pruning.api import prune
from edgeprune.pruning.batches import Batch
from edgeprune.pruning.channel_gradients import channel_gradients
from edgeprune.pruning.depth import least_important_blocks
from edgeprune.pruning.heads import refuse_untrainable_head, training_only
from edgeprune.pruning.loss import loss_model, mean_loss
from edgeprune.pruning.plan import Plan
from edgeprune.pruning.pruner import Pruner
from edgeprune.pruning.structure import TRAINING_ONLY
from edgeprune.search.layers import layers_of
from edgeprune.settings import TrainSettings
from edgeprune.training.finetune import finetune


@pytest.mark.parametrize(
    ("name", "head"),
    [("yolo26n", "auto"), ("yolo26n", "raw"), ("yolo26n-seg", "auto"), ("yolo26n-pose", "auto")],
)
def test_a_plans_macs_are_those_of_the_exported_graph(stock, tmp_path, name, head):
    pruner = Pruner(stock(f"{name}.yaml"), 64, head=head)
    plan = pruner.plan(macs_speed_up=2, importance="random")
    save(pruner.apply(plan, check=False), tmp_path / "pruned.pt")
    onnx_from_checkpoint(tmp_path / "pruned.pt", tmp_path / "pruned.onnx", imgsz=64, head=head)
    assert counts_of(tmp_path / "pruned.onnx").macs == plan.macs[1]


@pytest.mark.parametrize(
    ("name", "head", "left_out", "kept"),
    [
        ("yolo26n", "auto", "cv", "one2one_cv"),
        ("yolo26n", "raw", "one2one_cv", "cv"),
        ("yolo26n-obb", "nms", "one2one_cv", "cv"),
        ("yolov10n", "auto", "cv", "one2one_cv"),
    ],
)
def test_the_other_head_has_no_layers_and_keeps_its_widths(stock, name, head, left_out, kept):
    pruner = Pruner(stock(f"{name}.yaml"), 64, head=head)
    layers = [layer.name for layer in layers_of(pruner.model, pruner.structure)]
    assert any(name.startswith(f"model.23.{kept}") for name in layers)
    assert not any(name.startswith(f"model.23.{left_out}") for name in layers)
    fixed = {one.name: one.fixed for one in pruner.dimensions if one.name.startswith("model.23.")}
    assert {reason for name, reason in fixed.items() if name.startswith(f"model.23.{left_out}")} >= {TRAINING_ONLY}
    assert None in {reason for name, reason in fixed.items() if name.startswith(f"model.23.{kept}")}
    plan = pruner.plan(ratio=0.5, importance="l2")
    assert all(line.after == line.before for line in plan.dimensions if line.fixed)


@pytest.mark.parametrize("name", ["yolov8n", "yolo11n-pose", "yolo11n-cls"])
def test_a_model_of_one_head_has_nothing_for_training_alone(stock, name):
    assert training_only(stock(f"{name}.yaml")) == training_only(stock(f"{name}.yaml"), "raw") == frozenset()


def test_a_plan_from_before_this_was_asked_still_loads_and_applies(stock, tmp_path):
    """It may have narrowed the head that does not ship."""
    model = stock("yolo26n.yaml")
    older = Pruner(model, 64, head="raw").plan(macs_speed_up=2, importance="random")
    data = json.loads(older.text())
    del data["settings"]["head"]
    (tmp_path / "plan.json").write_text(json.dumps(data))
    plan = Plan.load(tmp_path / "plan.json")
    assert plan.settings.head == "auto" and plan.digest == older.digest
    Pruner(model, 64, head=plan.settings.head).apply(plan)


def test_an_unknown_head_is_refused_with_those_that_exist(stock):
    with pytest.raises(TargetError, match="'both' is unknown; auto, end-to-end, raw, nms"):
        Pruner(stock("yolo26n.yaml"), 64, head="both")


def _labelled():
    """Two images with one object each, and the masks of those."""
    masks = torch.zeros(2, 16, 16)
    masks[:, 4:12, 4:12] = 1
    labels = {
        "cls": torch.tensor([[1.0], [0.0]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.5, 0.5]] * 2),
        "batch_idx": torch.tensor([0.0, 1.0]),
        "masks": masks,
    }
    return Batch(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), labels)


@pytest.mark.parametrize(
    ("head", "ships", "other"), [("auto", "one2one_cv2", "cv2"), ("raw", "cv2", "one2one_cv2")], ids=["auto", "raw"]
)
def test_the_loss_and_its_gradients_are_those_of_the_head_that_ships(stock, head, ships, other):
    model, batches = copy.deepcopy(stock("yolo26n.yaml")), [_labelled()]
    structure = Pruner(model, 64, head=head).structure
    stem = structure.unit[structure.trace.slots["model.0.conv", "out"].labels]
    losses, gradients = [], []
    for branch in (None, other, ships):
        with torch.no_grad():
            for parameter in () if branch is None else getattr(model.model[-1], branch).parameters():
                parameter.add_(0.1)
        losses.append(mean_loss(loss_model(model, head), batches))
        gradients.append(channel_gradients(model, structure, batches, head=head)[0, stem])
    assert losses[0] == losses[1] != losses[2]
    assert (gradients[0] == gradients[1]).all() and (gradients[0] != gradients[2]).any()


def test_prototypes_of_masks_are_ranked_by_the_loss_of_the_head_that_ships(stock):
    """Ultralytics detaches them from the one-to-one head's loss."""
    pruner = Pruner(stock("yolo26n-seg.yaml"), 64)
    gradients = channel_gradients(pruner.model, pruner.structure, [_labelled()])[0]
    free = [one for one in pruner.dimensions if one.name.startswith("model.23.proto.") and one.fixed is None]
    assert free
    assert all(gradients[part.units].any() for dimension in free for part in dimension.parts)


@pytest.mark.parametrize("name", ["yolo26n", "yolo26n-seg", "yolov10n"])
def test_a_fused_model_ships_the_head_that_is_left_and_refuses_the_other(stock, tmp_path, name):
    """``fuse()``, which a prediction calls too, takes the one-to-many head out of such a model."""
    fused = _fused(stock(f"{name}.yaml"), end_to_end=True)
    assert Pruner(fused, 64).macs() == Pruner(fused, 64, head="end-to-end").macs()
    save(fused, tmp_path / "fused.pt")
    plans = prune(fused, ratio=0.3, imgsz=64, importance="l2").plan
    assert plans.params[1] < plans.params[0]
    for head in ("raw", "nms"):
        for refuse in (
            lambda head=head: Pruner(fused, 64, head=head),
            lambda head=head: loss_model(fused, head),
            lambda head=head: onnx_from_checkpoint(tmp_path / "fused.pt", tmp_path / "n.onnx", imgsz=64, head=head),
            lambda head=head: least_important_blocks(fused, 1, [], head=head),
        ):
            with pytest.raises(TargetError, match=f"head {head}: the model was fused"):
                refuse()


def test_the_loss_of_a_fused_model_is_that_of_the_head_that_is_left(stock):
    model, batches = stock("yolo26n.yaml"), [_labelled()]
    for end_to_end, head in ((True, "auto"), (False, "raw")):
        whole = mean_loss(loss_model(model, head), batches)
        fused = _fused(model, end_to_end)
        assert mean_loss(loss_model(fused), batches) == pytest.approx(whole, rel=1e-3)
        assert mean_loss(loss_model(fused, head), batches) == pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize("end_to_end", [True, False])
def test_a_fused_head_without_what_it_is_trained_with_is_refused(stock, end_to_end):
    fused = _fused(stock("yolo26n-pose.yaml"), end_to_end)
    for refuse in (lambda: Pruner(fused, 64), lambda: loss_model(fused), lambda: least_important_blocks(fused, 1, [])):
        with pytest.raises(DataError, match=r"its head \(Pose26\) is trained with; give the checkpoint from before"):
            refuse()


def _fused(model, end_to_end):
    fused = copy.deepcopy(model)
    fused.model[-1].end2end = end_to_end  # which of the two is left
    return fused.fuse(verbose=False)


def test_what_fuse_left_without_a_head_for_training_is_refused_before_any_epoch(stock, tmp_path):
    save(_fused(stock("yolo26n.yaml"), end_to_end=True), tmp_path / "fused.pt")
    with pytest.raises(DataError, match="give the checkpoint from before fuse"):
        finetune(
            tmp_path / "fused.pt", data="d.yaml", out=tmp_path / "out", settings=TrainSettings(), work=tmp_path / "w"
        )


@pytest.mark.parametrize("end_to_end", [True, False])
def test_a_fused_segmenter_prunes_and_is_not_trained(stock, tmp_path, end_to_end):
    """What training alone runs of its prototypes is gone, whichever of its heads was left."""
    fused = _fused(stock("yolo26n-seg.yaml"), end_to_end)
    if not end_to_end:
        fused.model[-1].one2one_cv2 = fused.model[-1].one2one_cv3 = None
    save(fused, tmp_path / "fused.pt")
    assert prune(fused, ratio=0.3, imgsz=64, importance="l2").plan.params
    with pytest.raises(DataError, match=r"the model was fused, which removed .*; give the checkpoint from before fuse"):
        _trained(tmp_path, "fused.pt")


def test_a_segmenter_pruned_without_what_only_training_runs_is_refused_before_any_epoch(stock, tmp_path):
    """As an earlier version pruned it: the widths of what a layer reads went, and the layer stayed as it was."""
    model = stock("yolo26n-seg.yaml")
    pruner = Pruner(model, 64)
    pruned = pruner.apply(pruner.plan(macs_speed_up=2, importance="random"), check=False)
    refuse_untrainable_head(pruned)
    given = pruned.model[-1].proto.semseg[0].conv.in_channels
    assert given < 64
    pruned.model[-1].proto.semseg = copy.deepcopy(model.model[-1].proto.semseg)
    save(pruned, tmp_path / "earlier.pt")
    with pytest.raises(DataError, match=rf"reads 64 channels where {given} are given; next: prune the original"):
        _trained(tmp_path, "earlier.pt")


def _trained(folder, weights):
    return finetune(folder / weights, data="d.yaml", out=folder / "out", settings=TrainSettings(), work=folder / "w")


@pytest.mark.parametrize("head", ["auto", "raw"])
def test_what_only_training_runs_follows_the_width_that_it_reads_and_keeps_its_own(stock, head):
    """It neither ships nor counts, and no channel is ranked by it; its loss wants masks that no calibration has."""
    model = stock("yolo26n-seg.yaml")
    pruner = Pruner(model, 64, head=head)
    part = "model.23.proto.semseg"
    own = {one.name: one.fixed for one in pruner.dimensions if one.name.startswith(part)}
    assert own == {f"{part}.0": TRAINING_ONLY, f"{part}.1": TRAINING_ONLY, f"{part}.2": "an output of the model"}
    assert not any("semseg" in layer.name for layer in layers_of(pruner.model, pruner.structure))
    read = [one for one in pruner.dimensions if any(f"{part}.0.conv" in these.members for these in one.parts)]
    assert [(one.name, one.fixed) for one in read] == [("model.16.cv2", None), (f"{part}.0", TRAINING_ONLY)]
    ready = loss_model(model, head)
    assert not ready.model[-1].proto.training and mean_loss(ready, [_labelled()]) > 0


def test_a_head_that_the_model_has_not_is_refused_by_whoever_is_told_one(stock, tmp_path):
    model, says = stock("yolov8n.yaml"), "head end-to-end: the model has no end-to-end head; auto, raw, nms are allowed"
    save(model, tmp_path / "one.pt")
    settings = TrainSettings(epochs=1, imgsz=64, head="end-to-end")
    told = {
        "prune": lambda: Pruner(model, 64, head="end-to-end"),
        "loss": lambda: loss_model(model, "end-to-end"),
        "val": lambda: accuracy(tmp_path / "one.pt", data="data.yaml", head="end-to-end"),
        "train": lambda: finetune(
            tmp_path / "one.pt", data="data.yaml", out=tmp_path / "out", settings=settings, work=tmp_path / "work"
        ),
    }
    for name, act in told.items():
        with pytest.raises(TargetError, match=says):
            act()
        assert [file.name for file in tmp_path.iterdir()] == ["one.pt"], name
