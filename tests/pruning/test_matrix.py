"""Every family and task: pruned twofold and fourfold, the outputs are the masked original's and the file is stock.

``make test-matrix`` runs this on the oldest and the newest supported Ultralytics.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgeprune.checkpoint import load, parameter_count, save, shape_signature
from edgeprune.pruning import narrow
from edgeprune.pruning.pruner import Pruner

DETECT = ["yolov8{}", "yolo11{}", "yolo26{}"]
OTHER = ["-seg", "-pose", "-obb", "-cls"]
MATRIX = [family.format(scale) + task for family in DETECT for scale in "ns" for task in ["", *OTHER]]
MORE = ["yolov5n", "yolov5s", "yolov9t", "yolov9c", "yolov10n", "yolov10s", "yolo12n", "yolo12s", "yolo12n-seg"]


@pytest.mark.parametrize("name", [*MATRIX, *MORE])
def test_pruned_models_compute_what_the_masked_original_does(stock, name):
    model = stock(f"{name}.yaml")
    pruner = Pruner(model, 320)
    scores = pruner.scores("random", seed=1)
    for speed_up in (2, 4):
        plan = pruner.plan(macs_speed_up=speed_up, scores=scores, importance="random", seed=1)
        assert speed_up <= plan.macs_speed_up <= speed_up * 1.03
        pruned = pruner.apply(plan, check=False)
        image = narrow.check_image(model)
        expected = narrow.masked_outputs(model, pruner.structure, pruner._keep(plan), image)
        got = narrow.raw_outputs(pruned, image)
        assert max(float((a - b).abs().max()) for a, b in zip(expected, got, strict=True)) <= 1e-5
        assert narrow.largest_difference(expected, got) <= 1e-4
        narrow.check_forward(pruned, image)
        assert shape_signature(pruned) == plan.result_shapes
        assert parameter_count(pruned) == plan.params[1]
        _every_free_width_is_aligned(pruner, plan)
        del pruned


def _every_free_width_is_aligned(pruner, plan):
    for line in plan.dimensions:
        if line.fixed is None:
            assert line.after % 8 == 0, line
    widths = pruner._vector(plan.widths)
    free = {dimension.name for dimension in pruner.dimensions if dimension.fixed is None}
    for (name, kind), slot in pruner.structure.trace.slots.items():
        expression = pruner.structure.expression(slot.labels)
        if kind == "out" and all(pruner.dimensions[i].name in free for i in expression.nonzero()[0]):
            assert (expression @ widths) % 8 == 0, name


_USE = """
import sys, json
sys.modules["edgeprune"] = None
from ultralytics import YOLO
path, image, data = sys.argv[1:]
boxes = YOLO(path).predict(image, imgsz=64, verbose=False)
done = {"predicted": len(boxes)}
if data:
    metrics = YOLO(path).val(data=data, imgsz=64, batch=4, workers=0, plots=False, verbose=False)
    done["validated"] = float(metrics.fitness)
import onnx
done["onnx"] = {}
for name in (path, path.replace("pruned", "stock")):
    graph = onnx.load(YOLO(name).export(format="onnx", imgsz=64, simplify=False, verbose=False)).graph
    counts = [sum(node.op_type == kind for node in graph.node) for kind in ("Conv", "Split", "Concat")]
    done["onnx"][name.rpartition("/")[2]] = counts
print("RESULT" + json.dumps(done))
"""

DATA = {"": "coco8", "-seg": "coco8-seg", "-pose": "coco8-pose", "-obb": "dota8", "-cls": ""}
USED = [(name, DATA[name[name.find("-") :] if "-" in name else ""]) for name in [*MATRIX, *MORE]]
ALWAYS = ["yolov8n", "yolo11n-seg", "yolo26n", "yolo26n-pose"]  # the others take minutes: see ``make test-matrix``
FULL = bool(os.environ.get("EDGEPRUNE_MATRIX"))


def _used(name: str, data: str) -> object:
    skip = pytest.mark.skipif(not (FULL or name in ALWAYS), reason="only in the full matrix (make test-matrix)")
    return pytest.param(name, data, marks=skip, id=name)


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize(("name", "data"), [_used(*one) for one in USED])
def test_plain_ultralytics_predicts_validates_and_exports_the_file(stock, shared, tmp_path, name, data):
    import shutil

    model = stock(f"{name}.yaml")
    pruner = Pruner(model, 64)
    pruned = pruner.apply(pruner.plan(macs_speed_up=2), check=False)
    save(pruned, tmp_path / "pruned.pt")
    save(model, tmp_path / "stock.pt")
    assert shape_signature(load(tmp_path / "pruned.pt").model) == shape_signature(pruned)
    folder = tmp_path / (data or "coco8")
    shutil.copytree(shared / "data" / (data or "coco8"), folder)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    image = next(folder.glob("images/train/*.jpg"))
    description = f"{folder}/{data}.yaml" if data else ""
    if description:
        _root_at(Path(description), folder)
    done = subprocess.run(
        [sys.executable, "-c", _USE, str(tmp_path / "pruned.pt"), str(image), description],
        cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.rpartition("RESULT")[2])
    assert result["predicted"] == 1
    assert data == "" or result["validated"] >= 0
    counts = result["onnx"]
    assert all(mine <= theirs for mine, theirs in zip(counts["pruned.pt"], counts["stock.pt"], strict=True)), counts


def _root_at(description: Path, folder: Path) -> None:
    lines = description.read_text().splitlines()
    description.write_text("\n".join(f"path: {folder}" if line.startswith("path:") else line for line in lines))


@pytest.mark.parametrize("name", ["yolov8n", "yolo11n", "yolo26n"])
@pytest.mark.parametrize("align", [1, 4, 8, 16, 32])
@pytest.mark.parametrize("speed_up", [1.3, 2, 2.7])
def test_the_asked_ratio_is_met_within_three_percent(stock, name, align, speed_up):
    pruner = Pruner(stock(f"{name}.yaml"), 320, align=align)
    plan = pruner.plan(macs_speed_up=speed_up)
    assert speed_up <= plan.macs_speed_up <= speed_up * 1.03


@pytest.mark.parametrize("name", ["yolov8n", "yolo26n-seg", "yolo12n"])
def test_counts_are_those_of_the_real_layers(stock, name):
    """Convolutions and linear layers counted by running the pruned model, attention products by their formula."""
    pruner = Pruner(stock(f"{name}.yaml"), 320)
    plan = pruner.plan(macs_speed_up=2)
    assert plan.macs[1] == pytest.approx(_counted(pruner.apply(plan, check=False), 320), rel=1e-9)


def _counted(model, imgsz):
    total = 0

    def count(module, args, output):
        nonlocal total
        if isinstance(module, torch.nn.ConvTranspose2d):
            total += module.weight.numel() * args[0].shape[2] * args[0].shape[3]
        elif isinstance(module, torch.nn.Conv2d):
            total += module.weight.numel() * output.shape[2] * output.shape[3]
        elif type(module).__name__ in ("Attention", "AAttn"):
            positions = output.shape[2] * output.shape[3]
            key = getattr(module, "key_dim", module.head_dim)
            total += module.num_heads * (key + module.head_dim) * positions**2 / getattr(module, "area", 1)

    deployed = __import__("copy").deepcopy(model)
    deployed.model[-1].fuse()
    handles = [module.register_forward_hook(count) for name, module in deployed.named_modules() if "dfl" not in name]
    with torch.no_grad():
        deployed(torch.zeros(1, 3, imgsz, imgsz))
    assert handles
    return total
