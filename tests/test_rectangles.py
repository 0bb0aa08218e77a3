"""Input that is not square, through every room that has a size: training, ranking, timing, a whole build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner
from ultralytics.cfg import TASK2METRIC

from edgeprune import build, checkpoint
from edgeprune.cli import app
from edgeprune.export.images import batch_from_images
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.frontier.levers import smaller_sizes
from edgeprune.input_size import Size
from edgeprune.pruning.api import prune
from edgeprune.pruning.batches import calibration_batches
from edgeprune.pruning.plan import Plan
from edgeprune.pruning.pruner import Pruner
from edgeprune.settings import TrainSettings
from edgeprune.training.finetune import finetune
from edgeprune.training.run import run_training, validation_accuracy
from tests.situations import datasets, models

SIZE = (64, 96)
TASKS = ("detect", "segment", "pose", "obb", "classify")
PROFILE = """
extends: cpu
description: a camera of 3:2
imgsz: [64, 96]
precision: int8
budget: {macs_speed_up: 1.3}
accuracy: {max_map_drop: 1.0}
finetune: {epochs: 1, batch: 8}
calibration: {images: 16}
measure: {warmup_s: 0.05, rounds: 20, per_round: 4, retries: 0}
"""


def weights_of(task: str, folder: Path) -> Path:
    made = models.model(task)
    return models.saved(made if task == "classify" else models.answering(made), folder / "w.pt")


class Killed(Exception):
    """Stands for the end of the process."""


class Shapes:
    """Ultralytics callback that keeps the heights and widths of what a trainer would see in each of its phases."""

    def __init__(self) -> None:
        self.seen: dict[str, set[tuple[int, int]]] = {}

    def __call__(self, trainer: Any) -> None:
        self.keep("train", trainer.train_loader)
        self.keep("val", trainer.test_loader)
        if hasattr(trainer.train_loader.dataset, "close_mosaic"):
            trainer.train_loader.dataset.close_mosaic(hyp=trainer.args)
            self.keep("mosaic closed", trainer.train_loader)

    def keep(self, phase: str, loader: Any) -> None:
        self.seen[phase] = {tuple(batch["img"].shape[2:]) for batch in loader}


@pytest.mark.parametrize("task", TASKS)
def test_training_and_its_validation_are_at_the_rectangle(task: str, tmp_path: Path) -> None:
    data, weights = datasets.dataset(tmp_path / "data", task), weights_of(task, tmp_path)
    mosaic = {} if task == "classify" else {"mosaic": 1.0, "mixup": 0.5, "copy_paste": 0.5}
    settings = TrainSettings(epochs=1, batch=4, imgsz=SIZE, device="cpu", workers=0, quiet=True, train=mosaic)
    shapes = Shapes()
    run = run_training(
        tmp_path / "work", weights, data=data, settings=settings, watchers=[("on_train_start", shapes)], keep_given=True
    )
    assert set(shapes.seen) >= {"train", "val"}
    assert all(seen == {SIZE} for seen in shapes.seen.values()), shapes.seen
    assert run.epochs_run == 1 and run.given is not None
    # epoch 0 was validated at the rectangle, as the weights are by the same validator without a trainer
    alone = validation_accuracy(weights, data=data, settings=settings, work=tmp_path / "val", batch=8)
    assert run.given.figures[TASK2METRIC[task]] == pytest.approx(alone, abs=1e-3)


@pytest.mark.parametrize("size", [SIZE, SIZE[::-1]], ids=str)
@pytest.mark.parametrize("task", ["detect", "segment"])
def test_images_kept_in_memory_are_those_that_are_read_from_files(task: str, size: Size, tmp_path: Path) -> None:
    """Ultralytics reads them as it makes its dataset, which knows squares alone: training saw the middle of each."""
    data = datasets.dataset(tmp_path / "data", task)
    moving = ("degrees", "translate", "scale", "shear", "fliplr", "hsv_h", "hsv_s", "hsv_v", "mosaic")
    still = dict.fromkeys(moving, 0.0)
    seen: dict[Any, list[np.ndarray]] = {}

    def keep(trainer: Any) -> None:
        for loader in (trainer.train_loader, trainer.test_loader):
            for index in range(len(loader.dataset)):
                one = loader.dataset[index]
                seen.setdefault(trainer.args.cache, []).extend((one["img"].numpy(), one["bboxes"].numpy()))
        raise Killed

    for cache in (False, "ram"):
        train = {**still, "cache": cache}
        settings = TrainSettings(epochs=1, batch=4, imgsz=size, device="cpu", workers=0, quiet=True, train=train)
        with pytest.raises(Killed):
            run_training(
                tmp_path / f"work-{cache}",
                weights_of(task, tmp_path),
                data=data,
                settings=settings,
                watchers=[("on_train_start", keep)],
            )
    assert len(seen[False]) == 2 * (datasets.COUNTS["train"] + datasets.COUNTS["val"])
    for read, kept in zip(seen[False], seen["ram"], strict=True):
        np.testing.assert_array_equal(read, kept)


def test_a_rectangle_is_remembered_until_it_is_trained_at_another_size(tmp_path: Path) -> None:
    data, weights = datasets.dataset(tmp_path / "data"), weights_of("detect", tmp_path)

    def trained(source: Path, name: str, imgsz: Size) -> Path:
        settings = TrainSettings(epochs=1, batch=4, imgsz=imgsz, device="cpu", workers=0, quiet=True)
        folder = tmp_path / name
        return finetune(source, data=data, out=folder, settings=settings, work=tmp_path / f"{name}-work").best

    best = trained(weights, "wide", SIZE)
    size = checkpoint.load(best).size_for()
    assert (size.side, size.origin, size.differs) == (SIZE, "weights", False)
    assert "were trained at 64 × 96 px" in str(checkpoint.load(best).size_for(command=96))
    pruned = prune(best, tmp_path / "pruned.pt", macs_speed_up=1.2)
    assert pruned.plan.settings.imgsz == SIZE
    assert checkpoint.load(tmp_path / "pruned.pt").trained_imgsz == SIZE
    assert checkpoint.load(trained(tmp_path / "pruned.pt", "square", 64)).trained_imgsz == 64


@pytest.mark.parametrize("task", TASKS)
def test_channels_are_ranked_on_letterboxed_images_and_counted_at_the_rectangle(task: str, tmp_path: Path) -> None:
    data, weights = datasets.dataset(tmp_path / "data", task), weights_of(task, tmp_path)
    batches = calibration_batches(data, task, SIZE, images=4, batch=2)
    assert {tuple(batch.images.shape[2:]) for batch in batches} == {SIZE}
    if task != "classify":
        every = calibration_batches(data, task, SIZE, images=20, batch=20)[0].images.numpy()
        expected = batch_from_images(sorted(datasets.images_of(data, "train")), imgsz=SIZE)
        assert sorted(map(np.sum, every)) == sorted(map(np.sum, expected))
    plan = prune(weights, tmp_path / "pruned.pt", ratio=0.3, data=data, images=4, imgsz=SIZE).plan
    assert plan.settings.imgsz == SIZE and Plan.load(_saved(plan, tmp_path)) == plan
    model = checkpoint.load(weights).model
    square = Pruner(model, 64).macs()
    if task not in ("classify",):
        assert Pruner(model, SIZE).macs() == pytest.approx(1.5 * square, rel=1e-6)
    assert prune(weights, plan=plan).size.side == SIZE


def _saved(plan: Plan, folder: Path) -> Path:
    plan.save(folder / "plan.json")
    return folder / "plan.json"


@pytest.mark.slow
def test_a_whole_build_at_a_rectangle(tmp_path: Path) -> None:
    wide = [[source, count, kind, [2 * some[0], *some[1:]]] for source, count, kind, some in models.BACKBONE]
    data = datasets.dataset(tmp_path / "data")
    weights = models.saved(models.answering(models.model(backbone=wide)), tmp_path / "w.pt", train_args={"imgsz": 96})
    (tmp_path / "camera.yaml").write_text(PROFILE)
    result = build(tmp_path / "camera.yaml", weights, data, out=tmp_path / "run")
    record = json.loads((result.bundle / "build.json").read_text())
    assert record["target"]["imgsz"] == record["input_size"]["side"] == record["plan"]["settings"]["imgsz"] == [*SIZE]
    for name in ("model.onnx",):
        shape = onnx.load(str(result.bundle / name)).graph.input[0].type.tensor_type.shape.dim
        assert [axis.dim_value for axis in shape] == [1, 3, *SIZE]
    words = (result.bundle / "README.md").read_text()
    assert "1×3×64×96" in words and "imgsz=[64, 96]" in words and "letterboxed to 64 × 96 px" in words
    assert "this build is at 64 × 96 px" in result.report.read_text()
    assert CliRunner().invoke(app, ["show", str(tmp_path / "run")]).exit_code in (0, 1, 5)
    again = build(tmp_path / "camera.yaml", weights, data, out=tmp_path / "run")
    assert all(row.reused for row in vars(again.record.stages).values() if row is not None)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, weights, their graph, and a profile that measures quickly."""
    folder = tmp_path_factory.mktemp("commands")
    datasets.dataset(folder / "data")
    onnx_from_checkpoint(weights_of("detect", folder), folder / "m.onnx", imgsz=SIZE)
    measure = "{warmup_s: 0.01, rounds: 8, per_round: 1, retries: 0}"
    (folder / "quick.yaml").write_text(f"extends: cpu\ndescription: quick\nmeasure: {measure}\n")
    return folder


@pytest.mark.parametrize(
    "argv",
    [
        "bench w.pt m.onnx --imgsz 64,96 --rounds 20 --warmup-s 0.01",
        "compare w.pt m.onnx --data data/data.yaml --imgsz 64x96 --images 1 --rounds 20 --warmup-s 0.01",
        "val w.pt --data data/data.yaml --imgsz [64,96]",
        "val m.onnx --data data/data.yaml --imgsz 64,96",
        "parity w.pt m.onnx --data data/data.yaml",
        "profile w.pt --target quick.yaml --imgsz 64,96",
        "quantize m.onnx --precision int8 --data data/data.yaml --count 16 -o low.onnx",
    ],
)
def test_commands_take_height_and_width(
    argv: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    ended = CliRunner().invoke(app, argv.split(), env={"EDGEPRUNE_CACHE": str(tmp_path / "cache")})
    assert ended.exit_code == 0, (ended.output, ended.exception)


def test_a_frontier_tries_smaller_rectangles_of_the_same_shape() -> None:
    sizes = smaller_sizes((384, 640))
    assert sizes[0] == (352, 576) and (192, 320) in sizes
    assert smaller_sizes((64, 64)) == [], "sides would fall below the least"
