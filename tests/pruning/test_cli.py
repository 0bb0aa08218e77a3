"""The commands: files in, files out, and what a dry run tells."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
import typer
import yaml
from typer.testing import CliRunner

from edgeprune.checkpoint import load, save, shape_signature
from edgeprune.cli import streams
from edgeprune.cli.pruning import _beyond, register
from edgeprune.errors import TargetError
from edgeprune.pruning import sensitivity as sensitivity_module
from edgeprune.pruning.api import prune
from edgeprune.pruning.plan import Plan
from edgeprune.pruning.pruner import Pruner
from edgeprune.report.sensitivity import sensitivity_table


@pytest.fixture(scope="module")
def run():
    app = typer.Typer()
    register(app)
    streams.register(app)

    def invoke(*arguments):
        result = CliRunner().invoke(app, [str(one) for one in arguments], env={"COLUMNS": "80"})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.fixture(scope="module")
def weights(stock, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    save(stock("yolov8n.yaml"), path, train_args={"imgsz": 320})
    return path


def test_prune_writes_a_checkpoint_that_its_plan_makes_again(run, weights, tmp_path):
    one, two, plan = tmp_path / "one.pt", tmp_path / "two.pt", tmp_path / "plan.json"
    result = run("prune", weights, "--macs-speed-up", "2", "-o", one, "--save-plan", plan)
    assert result.exit_code == 0
    assert "at 320 px" in result.output
    assert run("prune", weights, "--plan", plan, "-o", two).exit_code == 0
    assert one.read_bytes() == two.read_bytes()
    checkpoint = load(one)
    assert checkpoint.edgeprune["shape_signature"] == shape_signature(checkpoint.model)
    assert checkpoint.edgeprune["plan"] == json.loads(plan.read_text())


def test_a_dry_run_shows_every_dimension_and_writes_nothing(run, weights, tmp_path):
    result = run("prune", weights, "--ratio", "0.5", "--dry-run", "--ignore", "model.22.*", "-o", tmp_path / "no.pt")
    assert result.exit_code == 0
    assert "model.12.m.0.cv1" in result.output
    assert re.search(r"model\.\S+ .* \d+% .* -\d+\.\d{3} M .* -\d+\.\d{3} M", result.output)
    shown = result.output.splitlines()
    assert max(map(len, shown)) <= 80
    said = []
    plan = prune(weights, ratio=0.5, ignore=["model.22.*"], progress=lambda text, **_: said.append(text)).plan
    assert said == ["tracing the model", "ranking channels", "narrowing the model and comparing its outputs"]
    for one in plan.dimensions:  # name and widths stand whole on one line
        pattern = rf" *{re.escape(one.name)} *│ *{one.before} │ *{one.after} │.*"
        assert any(re.fullmatch(pattern, line) for line in shown), one.name
    ignored = [one.name for one in plan.dimensions if one.fixed == "ignored by 'model.22.*'"]
    text = " ".join(result.output.split())
    assert ignored and f"left alone (ignored by 'model.22.*'): {', '.join(ignored)}" in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--ratio", "0.5"], "-o FILE"),
        (["--dry-run"], "give one of --macs-speed-up 2"),
        (["--dry-run", "--max-ratio", "x"], "GLOB=SHARE"),
        (["--dry-run", "--ratio", "0.5", "--drop-blocks", "1"], "--data"),
        (["--dry-run", "--ratio", "0.5", "--normalisation", "magic"], "standarization"),
    ],
)
def test_missing_arguments_are_named(run, weights, arguments, error):
    with pytest.raises(TargetError, match=error):
        run("prune", weights, *arguments)


@pytest.fixture(scope="module")
def coco8(shared, tmp_path_factory):
    """Real images, described with the class names of an untrained model."""
    names = {index: str(index) for index in range(80)}
    content = {"path": str(shared / "data" / "coco8"), "train": "images/train", "val": "images/val", "names": names}
    description = tmp_path_factory.mktemp("data") / "coco8.yaml"
    description.write_text(yaml.safe_dump(content))
    return description


@pytest.mark.shared
def test_blocks_are_dropped_by_the_loss_and_again_by_the_plan(run, weights, coco8, tmp_path):
    request = ["--macs-speed-up", "2", "--drop-blocks", "1", "--data", coco8, "--images", "2", "--imgsz", "64"]
    one, two, plan = tmp_path / "one.pt", tmp_path / "two.pt", tmp_path / "plan.json"
    assert run("prune", weights, *request, "-o", one, "--save-plan", plan).exit_code == 0
    (dropped,) = json.loads(plan.read_text())["removed"]
    shown = run("prune", weights, *request, "--dry-run")
    assert re.search(rf"{re.escape(dropped)} .* block .* 100%", shown.output)
    assert run("prune", weights, "--plan", plan, "-o", two).exit_code == 0
    assert one.read_bytes() == two.read_bytes()
    owner, _, index = dropped.rpartition(".")
    pruned, whole = load(one).model, load(weights).model
    assert len(pruned.get_submodule(owner)) == len(whole.get_submodule(owner)) - 1, index


def test_a_plan_of_other_weights_is_applied_with_a_warning(run, weights, tmp_path):
    plan, other = tmp_path / "plan.json", tmp_path / "other.pt"
    assert run("prune", weights, "--ratio", "0.2", "--dry-run", "--save-plan", plan).exit_code == 0
    source = load(weights)
    with torch.no_grad():
        next(source.model.parameters()).mul_(1.5)
    save(source.model, other, like=source)
    for given, warned in ((weights, False), (other, True)):
        shown = run("prune", given, "--plan", plan, "--dry-run")
        assert shown.exit_code == 0
        assert ("warning: the plan was made for weights" in shown.output) is warned


def test_a_ratio_that_aligned_widths_overshoot_is_said(run, weights, tmp_path):
    rest = ("model.[0-9].*", "model.1?.*", "model.21.*", "model.22.cv2.*", "model.22.cv3.[12].*", "model.22.cv3.0.1*")
    one_width = [word for glob in rest for word in ("--ignore", glob)]
    file = tmp_path / "plan.json"
    given = ["--macs-speed-up", "1.005", "--align", "48", *one_width]
    coarse = run("prune", weights, *given, "--dry-run", "--save-plan", file)
    assert coarse.exit_code == 0
    assert "×1.005 was asked: no widths in steps of 48 come closer; try a smaller --align" in coarse.output
    again = run("prune", weights, "--plan", file, "--dry-run")
    assert again.exit_code == 0 and "--align" not in again.output  # which is refused beside a plan
    plan = Plan.load(file)
    finest = replace(plan, settings=replace(plan.settings, align=1))
    assert _beyond(finest, 1.005) == "no widths in steps of 1 come closer"  # there is no smaller --align
    assert "was asked" not in run("prune", weights, "--macs-speed-up", "1.5", "--dry-run").output


@pytest.mark.shared
def test_a_ratio_that_whole_blocks_overshoot_is_not_laid_to_widths(run, weights, coco8, tmp_path):
    given = ["--macs-speed-up", "1.001", "--drop-blocks", "3", "--data", coco8, "--images", "2", "--imgsz", "64"]
    shown = run("prune", weights, *given, "--dry-run", "--save-plan", tmp_path / "plan.json")
    said = " ".join(shown.output.split())
    why = "what goes whole brings more by itself, and no width was changed; "
    assert shown.exit_code == 0 and f"×1.001 was asked: {why}try --drop-blocks 2" in said
    plan = Plan.load(tmp_path / "plan.json")
    assert _beyond(replace(plan, removed=plan.removed[:1]), 1.001) == f"{why}leave --drop-blocks out"


@pytest.mark.shared
def test_sensitivity_gives_table_plot_and_json(run, weights, coco8, tmp_path):
    arguments = ["--imgsz", "64", "--images", "2", "--ratios", "0.5", "--ignore", "model.[2-9]*", "--importance", "l2"]
    arguments += ["--plot", tmp_path / "plot.png", "-o", tmp_path / "table.json"]
    result = run("sensitivity", weights, "--data", coco8, *arguments)
    assert result.exit_code == 0
    assert "model.12.cv1" in result.output
    points = json.loads((tmp_path / "table.json").read_text())["points"]
    assert {point["dimension"] for point in points} >= {"model.0", "model.12.cv1"}
    assert all(point["macs_saved"] > 0 for point in points)
    assert len({point["loss"] for point in points}) > 1
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_shares_that_come_to_one_width_are_one_measurement_and_say_which(stock, monkeypatch):
    """16 channels in steps of 8: a quarter, a half and three quarters all keep 8."""
    measured = iter(range(100))
    monkeypatch.setattr(sensitivity_module, "mean_loss", lambda *_: float(next(measured)))
    pruner = Pruner(stock("yolov8n.yaml"), 64, align=8, ignore=["model.[1-9]*"])
    result = sensitivity_module.sensitivity(pruner, [], importance="l2", ratios=(0.25, 0.5, 0.75))
    points = result.by_dimension()["model.0"]
    assert [(point.kept, point.removed) for point in points.values()] == [(8, 0.5)] * 3
    assert len({point.loss for point in points.values()}) == 1 == next(measured) - 1
    [row] = sensitivity_table(result).rows
    assert row == ("model.0", *[f"{points[0.5].loss:.3f} (8 of 16)"] * 3)
    with pytest.raises(TargetError, match=r"ratios=0\.01: too small for any width.*from 0\.25 on") as refused:
        sensitivity_module.sensitivity(pruner, [], importance="l2", ratios=(0.01,))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--images", "8"), "--images: of images that are drawn from --data, and none are given; give it, or"),
        (("--images", "8", "--batch", "2"), "--images, --batch: of images that are drawn from --data"),
        (("--head", "end-to-end"), "--head end-to-end: the model has no end-to-end head; auto, raw, nms are allowed"),
        (("--scope", "local", "--normalisation", "mean"), "--normalisation mean brings groups to a common scale, and"),
        (("--data", "d.yaml", "--importance", "l1"), "--data: --importance l1 ranks channels without images"),
    ],
)
def test_an_option_without_an_effect_is_refused(run, weights, tmp_path, options, says):
    with pytest.raises(TargetError, match=re.escape(says)):
        run("prune", weights, "--ratio", "0.3", "-o", tmp_path / "one.pt", *options)
    assert not list(tmp_path.iterdir())
