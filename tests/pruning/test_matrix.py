"""Every family and task: pruned twofold and fourfold, the outputs are the masked original's and the file is stock.

``make test-matrix`` runs this on the oldest and the newest supported Ultralytics.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import ultralytics
from ultralytics.cfg import get_cfg

from edgeprune.checkpoint import parameter_count, save, shape_signature, signature_of
from edgeprune.errors import TargetError
from edgeprune.pruning import equivalence
from edgeprune.pruning.heads import has_end_to_end_head
from edgeprune.pruning.pruner import Pruner
from tests.pruning.test_loss import batch_of

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
        image = equivalence.check_image(model)
        expected = equivalence.masked_outputs(model, pruner.structure, pruner.plan_mask(plan), image)
        got = equivalence.raw_outputs(pruned, image)
        assert max(float((a - b).abs().max()) for a, b in zip(expected, got, strict=True)) <= 1e-5
        assert equivalence.largest_difference(expected, got) <= 1e-4
        equivalence.check_forward(pruned, image)
        assert shape_signature(pruned) == plan.result_shapes
        assert parameter_count(pruned) == plan.params[1]
        _every_free_width_is_aligned(pruner, plan)
        del pruned


@pytest.mark.parametrize("name", [name for name in [*MATRIX, *MORE] if name.partition("-")[0].endswith(("n", "t"))])
def test_a_pruned_model_takes_a_step_of_training(stock, name):
    """By the stock model's own forward pass and loss: some layers run in training alone."""
    model = stock(f"{name}.yaml")
    pruner = Pruner(model, 64)
    pruned = pruner.apply(pruner.plan(macs_speed_up=2, importance="random", seed=1), check=False).train()
    widths = {key: value.shape for key, value in model.state_dict().items()}
    assert any(value.shape != widths[key] for key, value in pruned.state_dict().items())
    pruned.args = get_cfg()
    batch = batch_of(name[name.find("-") :] if "-" in name else "", 2)
    labels = {"sem_masks": torch.zeros_like(batch.labels["masks"])} if "masks" in batch.labels else {}
    for parameter in pruned.parameters():
        parameter.requires_grad_(True)
    loss, _ = pruned.loss({**batch.labels, **labels, "img": batch.images})
    loss.sum().backward()
    unreached = {key for key, one in pruned.named_parameters() if one.grad is None and "dfl" not in key}
    assert torch.isfinite(loss).all()
    assert not unreached


def _every_free_width_is_aligned(pruner, plan):
    for line in plan.dimensions:
        if line.fixed is None:
            assert line.after % 8 == 0, line
    widths = pruner._width_vector(plan.widths)
    free = {dimension.name for dimension in pruner.dimensions if dimension.fixed is None}
    for (name, kind), slot in pruner.structure.trace.slots.items():
        expression = pruner.structure.width_shares(slot.labels)
        if kind == "out" and all(pruner.dimensions[i].name in free for i in expression.nonzero()[0]):
            assert (expression @ widths) % 8 == 0, name


DATA = {"": "coco8", "-seg": "coco8-seg", "-pose": "coco8-pose", "-obb": "dota8", "-cls": "coco8"}
ALWAYS = ["yolov8n", "yolo11n-seg", "yolo26n", "yolo26n-pose"]  # the others take minutes: see ``make test-matrix``
FULL = bool(os.environ.get("EDGEPRUNE_MATRIX"))
TABLE = os.environ.get("EDGEPRUNE_MATRIX_TABLE")  # one line of JSON a cell is appended here


def _cell(name: str) -> object:
    skip = pytest.mark.skipif(not (FULL or name in ALWAYS), reason="only in the full matrix (make test-matrix)")
    return pytest.param(name, marks=skip, id=name)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """``plain(job)``: one job for a process without edgeprune, see ``plain_worker``."""
    folder = tmp_path_factory.mktemp("plain")
    worker = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("plain_worker.py"))],
        cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=(folder / "errors.txt").open("w"),
        text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert worker.stdin is not None
    assert worker.stdout is not None

    def ask(job):
        worker.stdin.write(json.dumps(job) + "\n")
        worker.stdin.flush()
        for line in worker.stdout:
            if line.startswith("RESULT"):
                return json.loads(line.removeprefix("RESULT"))
        raise AssertionError((folder / "errors.txt").read_text()[-2000:])

    yield ask
    worker.stdin.close()
    worker.wait(timeout=1200)


@pytest.fixture(scope="module")
def data(shared, tmp_path_factory):
    """``data("-seg")``: description (or folder) of a writable copy of real images for a task, and one of the images."""
    root = tmp_path_factory.mktemp("data")

    def copied(task):
        name = DATA[task]
        folder = root / (name + ("-cls" if task == "-cls" else ""))
        if not folder.exists():
            shutil.copytree(shared / "data" / name, folder)
            for path in [folder, *folder.rglob("*")]:
                path.chmod(0o755)
            description = folder / f"{name}.yaml"
            _root_at(description, folder)
            if task == "-cls":
                for i, image in enumerate(sorted(folder.glob("images/*/*.jpg"))):
                    for split in ("train", "val"):
                        place = folder / "classes" / split / ("even", "odd")[i % 2]
                        place.mkdir(parents=True, exist_ok=True)
                        shutil.copy(image, place)
        image = sorted(folder.glob("images/val/*.jpg"))[0]
        return str(folder / "classes" if task == "-cls" else folder / f"{name}.yaml"), str(image)

    return copied


def _root_at(description: Path, folder: Path) -> None:
    lines = description.read_text().splitlines()
    description.write_text("\n".join(f"path: {folder}" if line.startswith("path:") else line for line in lines))


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("name", [_cell(name) for name in [*MATRIX, *MORE]])
def test_plain_ultralytics_predicts_validates_and_exports_the_file(stock, plain, data, tmp_path, name):
    model = stock(f"{name}.yaml")
    pruner = Pruner(model, 320)
    scores = pruner.scores("lamp")
    plans = {speed_up: pruner.plan(macs_speed_up=speed_up, scores=scores) for speed_up in ((2, 4) if FULL else (2,))}
    files = {speed_up: tmp_path / f"pruned{speed_up}.pt" for speed_up in plans}
    for speed_up, plan in plans.items():
        save(pruner.apply(plan), files[speed_up])
    whole = tmp_path / "stock.pt"
    save(model, whole)
    description, image = data(name[name.find("-") :] if "-" in name else "")
    job = {
        "files": [str(file) for file in files.values()],
        "exported": [str(whole)],
        "imgsz": 64,
        "work": str(tmp_path),
    }
    answer = plain(job | {"image": image, "data": description})
    assert "error" not in answer, answer["error"][-2000:]
    for speed_up, plan in plans.items():
        seen = answer[str(files[speed_up])]
        assert seen["predicted"] == 1
        assert 0 <= seen["fitness"] <= 2
        shapes = {key: tuple(shape) for key, shape in seen["shapes"].items()}
        assert signature_of(shapes) == plan.result_shapes
        theirs = answer[str(whole)]["nodes"]
        assert all(mine <= other for mine, other in zip(seen["nodes"], theirs, strict=True)), (seen["nodes"], theirs)
        if TABLE:
            cell = {
                "ultralytics": ultralytics.__version__,
                "model": name,
                "asked": speed_up,
                "macs": plan.macs_speed_up,
                "fitness": seen["fitness"],
            }
            cell |= {"nodes": seen["nodes"], "stock_nodes": theirs}
            with Path(TABLE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(cell) + "\n")


ALIGNMENTS = [
    *((name, align) for name in ("yolov8n", "yolo11n", "yolo26n") for align in (1, 4, 8, 16, 32)),
    *(
        (name, align)
        for name in ("yolov8s", "yolo11s", "yolo26s")
        for align in ((1, 4, 8, 16, 32) if FULL else (8, 32))
    ),
]


@pytest.mark.parametrize(("name", "align"), ALIGNMENTS)
def test_the_asked_ratio_is_met_within_three_percent_or_refused(stock, name, align):
    pruner = Pruner(stock(f"{name}.yaml"), 320, align=align)
    furthest = pruner.macs() / pruner.macs({one.name: one.allowed[0] for one in pruner.dimensions})
    for importance in ("lamp", "random"):
        scores = pruner.scores(importance)
        for speed_up in (1.1, 1.3, 2, 2.7, 3, 4):
            if speed_up > furthest:
                with pytest.raises(TargetError, match=f"comes to {furthest:.2f}"):
                    pruner.plan(macs_speed_up=speed_up, scores=scores)
                continue
            plan = pruner.plan(macs_speed_up=speed_up, scores=scores)
            assert speed_up <= plan.macs_speed_up <= speed_up * 1.03, (importance, speed_up)


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
    deployed.model[-1].end2end = has_end_to_end_head(deployed)
    deployed.model[-1].fuse()
    handles = [module.register_forward_hook(count) for name, module in deployed.named_modules() if "dfl" not in name]
    with torch.no_grad():
        deployed(torch.zeros(1, 3, imgsz, imgsz))
    assert handles
    return total
