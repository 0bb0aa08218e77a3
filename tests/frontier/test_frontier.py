"""A frontier from levers to page with made-up measurements, and a real screening of a small model."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from edgeprune import checkpoint, version
from edgeprune.cli import app
from edgeprune.dataset import Dataset
from edgeprune.errors import DataError, DeviceError, EdgepruneError, StageError, TargetError, ToolError
from edgeprune.export import modelopt
from edgeprune.frontier import run, screening
from edgeprune.frontier.levers import forms, trained_int8
from edgeprune.frontier.run import FrontierRun, _aspect
from edgeprune.frontier.screening import Screening, screen
from edgeprune.measure.per_image import save_per_image
from edgeprune.progress import Silent
from edgeprune.records.frontier import Form, Frontier, Screened
from edgeprune.records.sweep import Point
from edgeprune.report.frontier import frontier_page, frontier_plot, frontier_table, how_to_build
from edgeprune.runtimes.engine_file import EngineFacts, write_facts
from edgeprune.runtimes.layer_info import Layer
from edgeprune.runtimes.site import open_site
from edgeprune.samples.average_precision import ImageScores
from edgeprune.samples.gates import Verdict
from edgeprune.search.bench import SiteBench
from edgeprune.serial import from_json, read_json
from edgeprune.sweep import run as sweep_run
from edgeprune.sweep.point import Job, Pruned, Result, conditions_of
from edgeprune.sweep.run import run_here
from edgeprune.target import Target, load_target
from tests.report.markup import Page, check_that_nothing_leaves
from tests.samples.made import latency
from tests.search.devices import StandIn, stand_in_site
from tests.sweep.test_points import given as given  # the fixture: an untrained checkpoint and a few digits

SIDE = 96
STATED = {"imgsz": SIDE, "budget.statistic": "p50"}
AS_MEASURED = {"mixed_precision": False, "keep_precision": True}


class MadeUpSteps:
    """Rows of a device on which INT8 is twice as fast and pruning costs accuracy; counts what ran."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def search(self, job: Job) -> Pruned:
        self.jobs.append(job)
        if job.pruned and job.target.budget.speed_up == 50:
            raise TargetError("the budget is out of reach: held by model.0.conv")
        return Pruned(b"pruned" if job.pruned else job.weights, 2.0, 2)

    def finetune(self, job: Job, pruned: Pruned) -> bytes:
        return pruned.checkpoint

    def measure(self, job: Job, swept: bytes, pruned: Pruned, tuned: bytes) -> Result:
        own = 2.0 if job.target.precision == "int8" else 1.0
        asked = job.target.budget.speed_up or 1.0
        speed_up = max(own, asked * 1.03) if job.pruned else own
        accuracy = 0.6 - 0.05 * (speed_up / own - 1) - (0.005 if own > 1 else 0.0)
        return Result(Point(job.name, job.budget, 10 / speed_up, speed_up, accuracy, 2.0, 1000, accuracy_error=0.01))


def made_up_screening(site: Any, given: Any, *_: Any, **__: Any) -> Screening:
    size = {SIDE: 1.0, 64: 1.4}
    found = []
    for form in given:
        ratio = size[int(form.keys.get("imgsz", SIDE))] * (2.0 if "precision" in form.keys else 1.0)
        accuracy = {"": 0.6, "precision": 0.598, "size": 0.4}.get("".join(form.levers))
        found.append(Screened(form, 10 / ratio, ratio, accuracy, 3_000_000))
    return Screening(tuple(found), {}, 12.4)


def made(given: tuple[Path, Path], out: Path, *budgets: float, steps: MadeUpSteps, **more: Any) -> Frontier:
    weights, data = given
    options = {"kind": "speed_up", "budgets": budgets, "imgsz": SIDE, "steps": steps, "screener": made_up_screening}
    return FrontierRun("cpu", weights, data, out=out, **{**options, **more}).made()


@pytest.fixture
def found(given: tuple[Path, Path], tmp_path: Path) -> tuple[Frontier, MadeUpSteps]:
    steps = MadeUpSteps()
    return made(given, tmp_path, 1.8, 3.0, 50, steps=steps), steps


def test_a_row_is_recommended_for_every_budget_with_the_keys_that_build_it(found: Any) -> None:
    result, _ = found
    first, second, third = result.recommendations
    assert (first.budget, first.row) == ("×1.8", "int8")
    assert first.keys == {**STATED, **AS_MEASURED, "precision": "int8", "budget.speed_up": 1.0}
    assert second.row == "int8, pruned to ×3"
    epochs = load_target("cpu").finetune.epochs
    assert second.keys == {
        **STATED,
        **AS_MEASURED,
        "precision": "int8",
        "budget.speed_up": 1.5,  # to INT8, unpruned
        "finetune.epochs": epochs,
    }
    assert third.row is None and "nothing that was measured meets it" in third.sentence
    assert how_to_build(result, second).startswith(
        "extends: cpu\nimgsz: 96\nprecision: int8\nmixed_precision: false\nkeep_precision: true\n"
        "budget: {statistic: p50, speed_up: 1.5}\n"
        f"finetune: {{epochs: {epochs}}}\n\nedgeprune build --target "
    )


def test_the_recommended_keys_make_a_profile(found: Any, tmp_path: Path) -> None:
    result, _ = found
    target = load_target(tmp_path / "build-x3.yaml")
    assert result.recommendations[1].command[:4] == ("edgeprune", "build", "--target", str(tmp_path / "build-x3.yaml"))
    assert target.precision == "int8" and target.budget.speed_up == 1.5 and target.stated_imgsz == SIDE


def test_a_recommended_profile_says_again_what_a_budget_of_its_own_does_not_take_over(
    given: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(
        "extends: cpu\nlevers: auto\nbudget: {latency_ms: 5, statistic: p50, scope: end_to_end}\n"
    )
    base = load_target(tmp_path / "mine.yaml")
    weights, data = given
    options: dict[str, Any] = {"imgsz": SIDE, "steps": MadeUpSteps(), "screener": made_up_screening}
    FrontierRun(tmp_path / "mine.yaml", weights, data, out=tmp_path, kind="speed_up", budgets=[1.8], **options).made()
    made_of_it = load_target(tmp_path / "build-x1.8.yaml")
    assert (made_of_it.levers, made_of_it.budget.statistic, made_of_it.budget.scope) == ("named", "p50", "end_to_end")
    assert base.levers == "auto"


def test_a_recommended_profile_extends_a_target_that_was_made_in_python(
    given: tuple[Path, Path], tmp_path: Path
) -> None:
    mine = load_target("cpu").changed({"measure.rounds": 77, "prune.min_width": 16})
    weights, data = given
    options: dict[str, Any] = {"imgsz": SIDE, "steps": MadeUpSteps(), "screener": made_up_screening}
    FrontierRun(mine, weights, data, out=tmp_path, kind="speed_up", budgets=[3.0], **options).made()
    made_of_it = load_target(tmp_path / "build-x3.yaml")
    assert (made_of_it.measure.rounds, made_of_it.prune.min_width) == (77, 16)


def test_the_sizes_that_are_screened_are_of_the_stride_of_the_checkpoint(
    given: tuple[Path, Path], tmp_path: Path
) -> None:
    asked: list[Form] = []

    def screener(site: Any, given: Any, *_: Any, **__: Any) -> Screening:
        asked.extend(given)
        raise StageError("seen")

    weights, data = given
    options: dict[str, Any] = {"imgsz": 640, "steps": MadeUpSteps(), "screener": screener}
    run = FrontierRun("cpu", weights, data, out=tmp_path, kind="speed_up", budgets=[1.8], **options)
    run.source = replace(run.source, stride=64)
    with pytest.raises(StageError, match="seen"):
        run.made()
    sizes = {form.keys["imgsz"] for form in asked if "size" in form.levers}
    assert sizes == {576, 512, 448, 384, 320, 256}


class TrainingSteps(MadeUpSteps):
    """Training that leaves other weights in a checkpoint of its own."""

    def finetune(self, job: Job, pruned: Pruned) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            given = Path(folder) / "given.pt"
            given.write_bytes(job.weights)
            source = checkpoint.load(given)
            with torch.no_grad():
                next(source.model.parameters()).mul_(1.5)
            checkpoint.save(source.model, given, like=source)
            return given.read_bytes()

    def measure(self, job: Job, swept: bytes, pruned: Pruned, tuned: bytes) -> Result:
        point = super().measure(job, swept, pruned, tuned).point
        return Result(replace(point, ms=7, speed_up=1.4) if job.target.imgsz == 64 else point, tuned)


@pytest.mark.slow
def test_the_build_of_a_recommended_row_ships_the_model_of_that_row(given: tuple[Path, Path], tmp_path: Path) -> None:
    """A smaller input meets the budget without pruning: what was trained of it ships, not what was given."""
    more = {"kind": "latency_ms", "jobs": "here", "screener": sizes_alone}
    result = made(given, tmp_path / "out", 8.0, steps=TrainingSteps(), **more)
    [one] = result.recommendations
    assert one.row == "64 px" and one.command[one.command.index("--weights") + 1] == one.weights
    assert shlex.join(one.command) in frontier_page(result).replace("&#39;", "'")
    trained = next(checkpoint.load(one.weights).model.parameters())
    assert not torch.equal(trained, next(checkpoint.load(given[0]).model.parameters()))
    argv = [*one.command[1:], "--out", str(tmp_path / "run"), "--latency-ms", "100000"]
    ended = CliRunner().invoke(app, argv)
    assert ended.exit_code == 5, ended.output  # what finds nothing loses nothing
    shipped = tmp_path / "run" / "bundle" / "model.pt"
    assert torch.equal(next(checkpoint.load(shipped).model.parameters()), trained)


def sizes_alone(site: Any, given: Any, *_: Any) -> Screening:
    """64 px is faster, and nothing else runs."""
    asked = [form for form in given if "precision" not in form.levers]
    return made_up_screening(site, asked)


class MetUnpruned(MadeUpSteps):
    """64 px, screened at ×1.4, turns out to be ×1.5 without pruning."""

    def measure(self, job: Job, swept: bytes, pruned: Pruned, tuned: bytes) -> Result:
        point = super().measure(job, swept, pruned, tuned).point
        if job.target.imgsz == 64:
            point = replace(point, speed_up=1.5, accuracy=0.59, met_unpruned=job.pruned)
        return Result(point, b"trained")


def test_a_row_that_need_not_be_pruned_is_that_of_its_form_and_ships_as_it_was_trained(
    given: tuple[Path, Path], tmp_path: Path
) -> None:
    steps = MetUnpruned()
    result = made(given, tmp_path, 1.5, steps=steps, screener=sizes_alone)
    [job] = [job for job in steps.jobs if job.target.imgsz == 64]
    assert job.pruned
    [row] = [row for row in result.rows if row.form.name == "64 px"]
    assert (row.name, row.budget, row.met) == ("64 px", "", ("×1.5",))
    assert "meets ×1.5 without pruning" in (tmp_path / "frontier.md").read_text()
    assert read_json(Frontier, tmp_path / "frontier.json") == result
    [one] = result.recommendations
    assert one.row == "64 px" and one.keys == {**STATED, "imgsz": 64, "budget.speed_up": 1.0}
    assert Path(one.weights).read_bytes() == b"trained"


def test_the_shape_of_the_images_is_looked_at(given: tuple[Path, Path], tmp_path: Path) -> None:
    from PIL import Image

    shutil.copytree(given[1].parent, tmp_path / "wide")
    for image in (tmp_path / "wide").rglob("*.jpg"):
        Image.open(image).resize((128, 64)).save(image)
    dataset = Dataset.load(tmp_path / "wide" / given[1].name, task="detect")
    assert _aspect(dataset) == 0.5 and _aspect(Dataset.load(given[1], task="detect")) == 1


def test_every_row_is_a_job_that_is_held_against_the_model_as_it_is(found: Any) -> None:
    _, steps = found
    assert len({job.key for job in steps.jobs}) == len(steps.jobs)
    for job in steps.jobs:
        assert job.reference is not None and job.reference[0].precision == "fp32" and job.reference[0].imgsz == SIDE
        assert job.epochs == load_target("cpu").finetune.epochs, "trained alike"
        assert (job.start_used is not None) is job.pruned
    [half] = [job for job in steps.jobs if job.name == "new-int8-x3"]
    assert half.start_used == pytest.approx(1.5), "INT8 alone is ×2"


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (
            lambda here: {**here, "cpu": "another"},
            "and another there; next: start this command on the node that offers",
        ),
        (lambda here: {**here, "gpu": "a card"}, "gpu is missing here and a card there; next: "),
    ],
)
def test_a_cluster_with_another_device_than_the_one_that_screens_is_refused(
    given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: Any, said: str
) -> None:
    with open_site("cpu") as site:
        here = conditions_of(site)
    monkeypatch.setattr(run, "conditions_on_ray", lambda target: there(here))
    with pytest.raises(DeviceError) as raised:
        made(given, tmp_path / "out", 1.8, steps=MadeUpSteps(), jobs="ray")
    assert said in str(raised.value) and not (tmp_path / "out").exists()


def test_a_cluster_whose_device_is_not_here_is_refused(
    given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: Any, **__: Any) -> Any:
        raise DeviceError("onnxruntime is not installed")

    monkeypatch.setattr(run, "conditions_on_ray", lambda target: {})
    monkeypatch.setattr(run, "open_site", nothing)
    with pytest.raises(DeviceError, match=r"seen: onnxruntime is not installed; next: .* offers device:cpu"):
        made(given, tmp_path / "out", 1.8, steps=MadeUpSteps(), jobs="ray")


def test_on_a_cluster_with_the_device_of_this_machine_every_row_is_made_there(
    given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_site("cpu") as site:
        here = conditions_of(site)
    sent: list[Job] = []

    def cluster(jobs: Any, swept: bytes, finished: Any, steps: Any, **_: Any) -> None:
        sent.extend(jobs)
        run_here(jobs, swept, finished, steps)

    monkeypatch.setattr(run, "conditions_on_ray", lambda target: here)
    monkeypatch.setattr(sweep_run, "run_on_ray", cluster)
    steps = MadeUpSteps()
    found = made(given, tmp_path, 1.8, steps=steps, jobs="ray")
    assert sent and all(dict(job.conditions) == here for job in sent)
    assert found.recommendations[0].row == "int8"


def test_a_second_run_makes_nothing_again(given: tuple[Path, Path], tmp_path: Path) -> None:
    steps = MadeUpSteps()
    first = made(given, tmp_path, 1.8, steps=steps)
    ran = len(steps.jobs)
    again = made(given, tmp_path, 1.8, 2.5, steps=steps)
    new = [job.name for job in steps.jobs[ran:]]
    assert new and all("2.5" in name or "px" in name for name in new)
    assert again.rows[0].point == first.rows[0].point
    assert read_json(Frontier, tmp_path / "frontier.json") == again


def test_a_budget_in_milliseconds_is_one_of_the_baseline(given: tuple[Path, Path], tmp_path: Path) -> None:
    result = made(given, tmp_path, 6.0, steps=MadeUpSteps(), kind="latency_ms")
    [one] = result.recommendations
    assert (one.budget, one.row, one.keys) == (
        "6 ms",
        "int8",
        {**STATED, **AS_MEASURED, "precision": "int8", "budget.latency_ms": 6.0},
    )


class NoisySteps(MadeUpSteps):
    """Intervals of 5 %; a search that is not sure where it says so."""

    def __init__(self, undecided: str = "") -> None:
        super().__init__()
        self.undecided = undecided

    def measure(self, job: Job, swept: bytes, pruned: Pruned, tuned: bytes) -> Result:
        result = super().measure(job, swept, pruned, tuned)
        undecided = self.undecided if job.pruned else ""
        return replace(
            result, point=replace(result.point, speed_up_low=result.point.speed_up / 1.05, inconclusive=undecided)
        )


class Beyond(NoisySteps):
    """What is pruned comes out a tenth faster than it was asked to."""

    def measure(self, job: Job, swept: bytes, pruned: Pruned, tuned: bytes) -> Result:
        result = super().measure(job, swept, pruned, tuned)
        faster = 1.1 if job.pruned else 1.0
        low = faster * (result.point.speed_up_low or 1.0)
        return replace(result, point=replace(result.point, speed_up=faster * result.point.speed_up, speed_up_low=low))


class Failing(MadeUpSteps):
    """An error in place of the rows that are pruned, or of all."""

    def __init__(self, error: EdgepruneError, *, every: bool = False) -> None:
        super().__init__()
        self.error, self.every = error, every

    def measure(self, job: Job, swept: bytes, pruned: Pruned, tuned: bytes) -> Result:
        if job.pruned or self.every:
            raise self.error
        return super().measure(job, swept, pruned, tuned)


def test_where_nothing_was_measured_no_figure_is_named_and_the_error_s_code_stays(given: Any, tmp_path: Path) -> None:
    found = made(given, tmp_path / "a", 1.8, steps=Failing(DeviceError("cannot reach user@orin"), every=True))
    [one] = found.recommendations
    assert one.sentence == "×1.8: nothing was measured: cannot reach user@orin"
    assert found.exit_code == 4 and "nothing was measured" in frontier_page(found)


@pytest.mark.parametrize(
    ("error", "budget", "code"),
    [
        (ToolError(["trtexec"], 1, "out of memory"), 1.8, 3),
        (DeviceError("cannot reach user@orin"), 1.8, 4),
        (TargetError("the budget is out of reach"), 1.8, 0),
        (TargetError("the budget is out of reach"), 3.0, 1),
    ],
)
def test_a_row_that_a_device_left_unmeasured_is_not_passed_over(
    given: Any, tmp_path: Path, error: EdgepruneError, budget: float, code: int
) -> None:
    """That a budget is out of reach of a row is an answer; that a program failed is none."""
    found = made(given, tmp_path, budget, steps=Failing(error))
    assert (found.recommendations[0].row == "int8") is (budget < 2) and found.exit_code == code


def test_a_row_within_noise_of_the_budget_stands_behind_one_that_holds_it(given: Any, tmp_path: Path) -> None:
    [one] = made(given, tmp_path, 1.98, steps=Beyond()).recommendations
    assert one.row == "pruned to ×1.98" and not one.inconclusive
    assert "int8 at 0.5950 is within noise of the budget" in one.sentence


def test_a_recommendation_that_rests_on_noise_is_inconclusive(
    given: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = made(given, tmp_path, 1.98, steps=NoisySteps("no interval holds it"))
    [one] = found.recommendations
    assert one.row == "int8" and "within noise" in one.inconclusive and "INCONCLUSIVE" in one.sentence
    [file] = (tmp_path / "points").glob("new-int8-*.json")
    assert "run it again" not in one.sentence, "the next run takes this row as it is"
    assert f"unless you remove {file}: it is then made" in one.sentence
    monkeypatch.setattr(run, "frontier", lambda *_, **__: found)
    weights, data = given
    argv = ["frontier", str(weights), "--target", "cpu", "--data", str(data), "--out", str(tmp_path), "--speed-up", "2"]
    assert CliRunner().invoke(app, argv).exit_code == 5


class Moved(MadeUpSteps):
    """Samples that moved, in the first run."""

    moved = True
    why = "the samples drift"

    def measure(self, job: Job, swept: bytes, pruned: Pruned, tuned: bytes) -> Result:
        result = super().measure(job, swept, pruned, tuned)
        return replace(result, point=replace(result.point, unsteady=self.why if self.moved else ""))


@pytest.mark.parametrize(
    ("why", "when"),
    [
        ("a quota of processor time (0.5 CPUs) stopped it for 49% of the run", "once that is mended"),
        ("the device throttled during the run: cpu-throttle was at work", "once that is mended"),
        ("the board was not watched", "once that is mended"),
        ("between 1.7 and 1.9; too near to the limit for 100000 samples", "with another budget"),
        ("other work ran on the machine", "on a quiet machine"),
    ],
)
def test_a_frontier_is_run_again_where_that_may_tell(why: str, when: str, given: Any, tmp_path: Path) -> None:
    steps = Moved()
    steps.why = why
    [one] = made(given, tmp_path, 1.8, steps=steps).recommendations
    assert one.sentence.endswith(f"; INCONCLUSIVE: {why}; run it again {when}")


def test_rows_that_moved_are_measured_by_the_run_that_they_ask_for(given: Any, tmp_path: Path) -> None:
    steps = Moved()
    [one] = made(given, tmp_path, 1.8, steps=steps).recommendations
    assert one.sentence.endswith("; INCONCLUSIVE: the samples drift; run it again on a quiet machine")
    assert "not steady: the samples drift" in (tmp_path / "frontier.md").read_text()
    steps.moved, ran = False, len(steps.jobs)
    found = made(given, tmp_path, 1.8, steps=steps)
    assert len(steps.jobs) == 2 * ran and found.recommendations[0].inconclusive == "" and found.exit_code == 0
    made(given, tmp_path, 1.8, steps=steps)
    assert len(steps.jobs) == 2 * ran


def test_a_recommended_profile_extends_the_shipped_one_beside_a_file_of_its_name(
    given: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "cpu.yaml").write_text("extends: cpu\nmeasure: {rounds: 77}\n")
    made(given, tmp_path, 1.8, steps=MadeUpSteps())
    assert load_target(tmp_path / "build-x1.8.yaml").measure.rounds == load_target("cpu").measure.rounds != 77


class SeenImages(MadeUpSteps):
    """Every row is right in the easiest images, as many as its accuracy says: the same ones for every row."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self.hardness = (np.arange(images) + 0.5) / images

    def measure(self, job: Job, swept: bytes, pruned: Pruned, tuned: bytes) -> Result:
        result = super().measure(job, swept, pruned, tuned)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "seen.npz"
            save_per_image(ImageScores((self.hardness < result.point.accuracy).astype(float)), file)
            return replace(result, per_image=file.read_bytes())


@pytest.mark.parametrize(
    ("images", "said"),
    [(400, "next comes"), (50, "level with"), (10, "level with")],
)
def test_the_row_behind_is_level_where_the_same_images_cannot_tell(
    given: Any, tmp_path: Path, images: int, said: str
) -> None:
    [one] = (found := made(given, tmp_path, 1.8, steps=SeenImages(images))).recommendations
    assert one.row == "int8" and f"; {said} pruned to ×1.8 at 0.5573, ahead by +0.0377 (" in one.sentence
    assert ("10 images are too few to tell" in one.sentence) is (images == 10)
    assert found.split == "test" and "The split test gives the mAP50-95 and chose" in frontier_page(found)
    (file,) = (tmp_path / "points").glob("new-int8-*.npz")
    file.unlink()  # of an older frontier
    [again] = made(given, tmp_path, 1.8, steps=MadeUpSteps()).recommendations
    assert again.row == one.row and "; next comes pruned to ×1.8 at 0.5573" in again.sentence


@pytest.mark.parametrize(
    ("budget", "images", "verdict", "said"),
    [
        (1.8, 2000, Verdict.PASS, ""),
        (3.0, 2000, Verdict.FAIL, "; it loses more than the profile's max_map_drop of 0.02"),
        (3.0, 200, Verdict.INCONCLUSIVE, "; INCONCLUSIVE: it may lose more than the profile's max_map_drop of 0.02 ("),
        (1.8, 10, Verdict.INCONCLUSIVE, "10 images are too few to tell"),
    ],
)
def test_a_row_that_loses_more_than_the_profile_allows_is_no_pass(
    given: Any, tmp_path: Path, budget: float, images: int, verdict: Verdict, said: str
) -> None:
    found = made(given, tmp_path, budget, steps=SeenImages(images))
    [one] = found.recommendations
    assert one.row is not None and one.floor is not None and one.floor.verdict is verdict
    assert found.exit_code == verdict.exit_code
    assert said in one.sentence and ("max_map_drop" in one.sentence) is bool(said)
    assert not one.inconclusive, "that it holds the budget is sure"
    assert read_json(Frontier, tmp_path / "frontier.json") == found


def test_a_floor_by_images_that_were_trained_on_tells_nothing_of_others(given: Any, tmp_path: Path) -> None:
    weights, data = given
    (tmp_path / "data.yaml").write_text(
        f"path: {data.parent}\ntrain: images/train\nval: images/val\ntest: images/train\nnames: {list('0123456789')}\n"
    )
    for name, said in (("data.yaml", True), (str(data), False)):
        [one] = made((weights, tmp_path / name), tmp_path / "out", 3.0, steps=SeenImages(200)).recommendations
        assert one.floor is not None and one.floor.verdict is Verdict.INCONCLUSIVE
        assert ("; 4 of the 4 were trained on, and tell nothing of images that were not" in one.sentence) is said
        assert ("on other images" in one.sentence) is not said and "200 images of test" in one.sentence


def test_the_floor_is_the_profile_s(given: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: cpu\naccuracy: {max_map_drop: 0.1}\n")
    weights, data = given
    options: dict[str, Any] = {"imgsz": SIDE, "steps": MadeUpSteps(), "screener": made_up_screening}
    options |= {"out": tmp_path / "out", "kind": "speed_up", "budgets": [3.0]}
    found = FrontierRun(tmp_path / "mine.yaml", weights, data, **options).made()
    assert found.exit_code == 0 and "max_map_drop" not in found.recommendations[0].sentence
    [by_figures] = made(given, tmp_path / "out", 3.0, steps=MadeUpSteps()).recommendations
    assert "loses more than the profile's max_map_drop of 0.02" in by_figures.sentence, "where no images were kept"


def test_the_model_as_it_is_loses_nothing(given: Any, tmp_path: Path) -> None:
    [one] = made(given, tmp_path, 20.0, steps=SeenImages(10), kind="latency_ms").recommendations
    assert one.row == "as it is" and one.floor is None and "max_map_drop" not in one.sentence


def test_without_modelopt_the_row_of_trained_int8_says_how_to_install_it(
    given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modelopt, "installed", lambda package: "absent")
    result = made(given, tmp_path, 1.8, steps=MadeUpSteps())
    [row] = [row for row in result.rows if row.name == "int8 trained"]
    assert row.point is None and "pip install 'nvidia-modelopt" in row.dropped
    assert "pip install" in frontier_page(result)


def costly_int8(site: Any, given: Any, *_: Any) -> Screening:
    """INT8 costs three points of accuracy."""
    found = made_up_screening(site, given)
    screened = [replace(one, accuracy=0.57) if one.form.levers == ("precision",) else one for one in found.screened]
    return replace(found, screened=tuple(screened))


class BetterTrained(MadeUpSteps):
    """Training wins back what INT8 costs."""

    def measure(self, job: Job, swept: bytes, pruned: Pruned, tuned: bytes) -> Result:
        result = super().measure(job, swept, pruned, tuned)
        won = 0.03 if job.target.qat is not None else 0.0
        return replace(result, point=replace(result.point, accuracy=result.point.accuracy + won), checkpoint=tuned)


def test_trained_int8_is_a_row_and_its_profile_trains_int8(
    given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not pruned, it is built from the fine-tuned weights, which the build trains for INT8."""
    monkeypatch.setattr(screening, "require_modelopt", lambda: None)
    steps = BetterTrained()
    result = made(given, tmp_path, 1.8, 3.0, steps=steps, screener=costly_int8)
    whole, pruned = result.recommendations
    assert (whole.row, pruned.row) == ("int8 trained", "int8 trained, pruned to ×3")
    assert whole.keys["qat.epochs"] == 5 and pruned.keys["qat.epochs"] == 5
    [baseline] = [
        job for job in steps.jobs if not job.pruned and job.target.precision == "fp32" and job.target.imgsz == SIDE
    ]
    assert Path(whole.weights).name == f"{baseline.name}-{baseline.key}.pt"
    assert pruned.weights == str(given[0])
    target = load_target(tmp_path / "build-x3.yaml")
    assert target.qat is not None and target.qat.epochs == 5 and target.precision == "int8"
    with_it = {
        job.target.qat is not None: job.key for job in steps.jobs if job.target.precision == "int8" and not job.pruned
    }
    assert len(set(with_it.values())) == 2


def test_everything_trains_what_is_left_out_and_recommends_the_same(given: tuple[Path, Path], tmp_path: Path) -> None:
    steps = MadeUpSteps()
    usual = made(given, tmp_path, 1.8, 3.0, steps=steps)
    ran = {job.key for job in steps.jobs}
    every = made(given, tmp_path, 1.8, 3.0, steps=steps, everything=True)
    assert every.recommendations == usual.recommendations
    extra = [row for row in every.rows if row.measured is not None and row.dropped]
    assert extra and len({job.key for job in steps.jobs} - ran) == len(extra)
    shared = {row.name: row.point for row in usual.rows if row.point is not None}
    assert {row.name: row.point for row in every.rows if row.name in shared} == shared


def test_where_the_model_alone_is_timed_the_page_says_why_the_output_form_stays(found: Any) -> None:
    result, _ = found
    assert result.output.startswith("Output form: raw head, not measured") and result.outputs == ()
    assert "budget.scope: end_to_end" in frontier_page(result)


def test_from_frame_to_boxes_the_fastest_output_form_is_taken_by_every_row(
    given: tuple[Path, Path], tmp_path: Path
) -> None:
    def screener(site: Any, asked: Any, *_: Any, **__: Any) -> Screening:
        if any(form.levers == ("output",) for form in asked):
            own, nms = asked
            assert site.target.export.nms is False and nms.keys == {"export.nms": True}
            return Screening((Screened(own, 10, 1.0, 0.6, 1), Screened(nms, 8, 1.25, 0.595, 1)), {})
        assert site.target.export.nms, "what is screened after it has the form"
        return made_up_screening(site, asked)

    (tmp_path / "frames.yaml").write_text("extends: cpu\nbudget: {speed_up: 2, statistic: p50, scope: end_to_end}\n")
    steps, (weights, data) = MadeUpSteps(), given
    options: dict[str, Any] = {"imgsz": SIDE, "steps": steps, "screener": screener, "kind": "speed_up"}
    result = FrontierRun(tmp_path / "frames.yaml", weights, data, out=tmp_path, budgets=[1.8], **options).made()
    assert "NMS in the graph, the fastest from frame to boxes, ×1.25" in result.output and len(result.outputs) == 2
    assert all(job.target.export.nms and job.reference and job.reference[0].export.nms for job in steps.jobs)
    assert load_target(tmp_path / "build-x1.8.yaml").export.nms


def test_the_page_has_every_row_the_frontier_and_the_budgets(found: Any) -> None:
    result, _ = found
    page, plot = frontier_page(result), frontier_plot(result)
    check_that_nothing_leaves(page)
    parsed = Page(page)
    assert not parsed.errors and not parsed.open
    assert "screening before any training took 12 s" in page
    assert len(frontier_table(result).rows) == len(result.rows)
    assert all(name in page for name in ("int8, pruned to ×3", "out of reach", "the frontier", "recommended"))
    assert "int8, 5.00 ms, mAP50-95 0.5950" in plot.alt
    measured = [row for row in result.rows if row.measured is not None]
    assert len(plot.table.rows) == len(measured)
    assert "0.5950 ± 0.020" in frontier_table(result).markdown()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--speed-up", "0.5"], "greater than or equal to 1"),
        (["--speed-up", "2,1"], "--speed-up 1: the model as it is has that ratio"),
        ([], "either --latency-ms or --speed-up"),
        (["--speed-up", "2", "--jobs", "cloud"], "allowed are here, ray"),
        (["--speed-up", "2", "--epochs", "-1"], "0 or more"),
        (["--speed-up", "2", "--also", "WEIGHTS"], "given twice"),
    ],
)
def test_wrong_options_are_one_line(given: tuple[Path, Path], tmp_path: Path, options: list[str], said: str) -> None:
    weights, data = given
    options = [str(weights) if word == "WEIGHTS" else word for word in options]
    argv = ["frontier", str(weights), "--target", "cpu", "--data", str(data), "--out", str(tmp_path / "out"), *options]
    ended = CliRunner().invoke(app, argv)
    assert isinstance(ended.exception, TargetError)
    assert said in str(ended.exception)
    assert not (tmp_path / "out").exists()


def gpu(imgsz: int) -> Target:
    return load_target("desktop-cuda").with_overrides(imgsz=imgsz, speed_up=1.5)


def test_a_screening_measures_every_form_once_and_is_kept(given: tuple[Path, Path], tmp_path: Path) -> None:
    """A made-up GPU that is twice as fast in half precision; INT8 cannot be calibrated on so few images."""
    weights, data = given
    source, runtime = checkpoint.load(weights), StandIn(1.0, 0.1, half=0.5)
    runtime.fit_for_dataset = True
    dataset = Dataset.load(data, task="detect")
    site = stand_in_site(gpu(64), runtime, Silent())
    asked = forms(site.target, "new")
    found = screen(site, asked, {"new": source}, dataset, tmp_path / "work", tmp_path / "kept")
    by_name = {one.form.name: one for one in found.screened}
    assert by_name["fp16"].speed_up == pytest.approx(2.0, rel=0.02)
    assert by_name["as it is"].speed_up == pytest.approx(1.0, rel=0.01)
    half = by_name["fp16"]
    assert half.speed_up_low is not None and half.speed_up_high is not None
    assert 1.9 < half.speed_up_low < half.speed_up < half.speed_up_high < 2.1
    assert by_name["fp16"].accuracy is not None
    assert "int8-fp16" in found.refused
    assert len(runtime.timed) == 1, "all in one run"
    assert found.seconds is not None and found.seconds > 0
    assert not (tmp_path / "work").exists()
    again = screen(site, asked, {"new": source}, dataset, tmp_path / "work", tmp_path / "kept")
    assert again == found and len(runtime.timed) == 1
    silent = replace(site, target=site.target.changed({"prune.diagnose": not site.target.prune.diagnose}))
    assert screen(silent, asked, {"new": source}, dataset, tmp_path / "work", tmp_path / "kept") == found
    [file] = (tmp_path / "kept").glob("*.json")
    assert json.loads(file.read_text())["screened"][0]["form"]["name"] == "as it is"


def test_a_form_of_which_nothing_is_on_the_dla_is_left_out(
    given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its figures would be the GPU's, and its build fails for that."""
    source, dataset = checkpoint.load(given[0]), Dataset.load(given[1], task="detect")
    runtime = StandIn(1.0, 0.1)
    runtime.fit_for_dataset = False
    site = stand_in_site(gpu(64), runtime, Silent())

    def compile_source(bench: SiteBench, folder: Path, kept: Path | None = None) -> Any:
        folder.mkdir(parents=True)
        placed = "gpu" if bench.site.target.precision == "fp16" else "dla"
        layer = Layer("/model.0/conv/Conv", "CaskConvolution", "fp16", placed, "multiplies")
        (folder / "engine.engine").write_bytes(b"plan")
        write_facts(folder / "engine.engine", EngineFacts("trtexec", {}, "fp16", (), (), {}, (layer,), dla_core=0))
        return SimpleNamespace(onnx=folder, required_engine=folder / "engine.engine")

    monkeypatch.setattr(SiteBench, "compile_source", compile_source)
    monkeypatch.setattr(screening, "accuracy", lambda *_, **__: SimpleNamespace(map50_95=0.5))
    times = latency(np.random.default_rng(0).lognormal(0, 0.01, 200), samples_per_block=5)
    monkeypatch.setattr(screening, "side_by_side", lambda _, engines, *__, **___: [times] * len(engines))
    asked = [form for form in forms(site.target, "new") if form.name in ("as it is", "fp16")]
    found = screen(site, asked, {"new": source}, dataset, tmp_path / "work")
    assert [one.form.name for one in found.screened] == ["as it is"]
    assert "no layer of the engine is on DLA core 0: all of it fell back to the GPU" in found.refused["fp16"]


def fails_once(monkeypatch: pytest.MonkeyPatch, error: EdgepruneError) -> list[str]:
    """Precisions that were compiled by now, of which the first in half precision fails."""
    failures: list[EdgepruneError] = [error]
    compiled: list[str] = []

    def compile_source(bench: SiteBench, folder: Path, kept: Path | None = None) -> Any:
        compiled.append(bench.site.target.precision)
        if compiled[-1] == "fp16" and failures:
            raise failures.pop()
        return SimpleNamespace(onnx=folder, required_engine=folder)

    monkeypatch.setattr(SiteBench, "compile_source", compile_source)
    monkeypatch.setattr(screening, "accuracy", lambda *_, **__: SimpleNamespace(map50_95=0.5))
    times = latency(np.random.default_rng(0).lognormal(0, 0.01, 200), samples_per_block=5)
    monkeypatch.setattr(screening, "side_by_side", lambda _, engines, *__, **___: [times] * len(engines))
    return compiled


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (DeviceError("board: the connection was lost"), False),
        (StageError("no space left on the device"), False),
        (TargetError("half precision is unknown to this runtime"), True),
        (DataError("too few images to calibrate on"), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_screening_is_kept_only_without_a_refusal_that_may_pass(
    given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: EdgepruneError, kept: bool
) -> None:
    source, dataset = checkpoint.load(given[0]), Dataset.load(given[1], task="detect")
    runtime = StandIn(1.0, 0.1)
    runtime.fit_for_dataset = False
    site = stand_in_site(gpu(64), runtime, Silent())
    compiled = fails_once(monkeypatch, error)
    asked = [form for form in forms(site.target, "new") if form.name in ("as it is", "fp16")]

    def screened() -> Screening:
        return screen(site, asked, {"new": source}, dataset, tmp_path / "work", tmp_path / "kept")

    assert screened().refused == {"fp16": str(error)}
    again = screened()
    assert ("fp16" in again.refused) is kept and len(compiled) == (2 if kept else 4)
    assert screened() == again, "what is whole is kept"
    monkeypatch.setattr(version, "installed", lambda package: "another version")
    screened()
    assert len(compiled) == (4 if kept else 6), "other packages give other figures"


@pytest.mark.parametrize("finished", [False, True])
def test_the_screening_of_a_build_is_made_again_only_until_a_stage_rests_on_it(
    given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    """Another choice would leave behind its finished stages and epochs."""
    source, dataset = checkpoint.load(given[0]), Dataset.load(given[1], task="detect")
    runtime = StandIn(1.0, 0.1)
    runtime.fit_for_dataset = False
    lines: list[str] = []
    monkeypatch.setattr(Silent, "note", lambda self, text: lines.append(text))
    site = stand_in_site(gpu(64), runtime, Silent())
    compiled = fails_once(monkeypatch, DeviceError("board: the connection was lost"))
    asked = [form for form in forms(site.target, "new") if form.name in ("as it is", "fp16")]

    def screened(settled: bool) -> Screening:
        where = (tmp_path / "work", tmp_path / "kept")
        return screen(site, asked, {"new": source}, dataset, *where, final=True, settled=settled)

    first = screened(settled=False)
    assert list(first.refused) == ["fp16"]
    assert "the connection was lost; the next run screens again, until a stage has finished" in lines[-1]
    again = screened(settled=finished)
    assert (again == first) is finished and len(compiled) == (2 if finished else 4)
    assert screened(settled=True) == again


FILE_NAMES = ["fp16", "int8-fp16", "as it is", "224 px", "64 px", "int8 trained", "int8-fp16 trained", "fp16, 64 px"]
FILE_NAMES += ["pruned to ×2", "a", "a, fp16", "a.pt", "fp16.pt", "384 × 640 px"]


def test_no_two_forms_have_one_name_whatever_checkpoints_are_called() -> None:
    target = gpu(96)
    made = forms(target, "new", FILE_NAMES)
    made += [trained for form in made if (trained := trained_int8(form, target)) is not None]
    budgets = ["", *(f", pruned to {budget}" for budget in ("×2", "×3"))]
    names = [f"{form.name}{budget}" for form in made for budget in budgets] + ["pruned to ×2", "pruned to ×3"]
    assert len(set(names)) == len(names)
    assert len({form.identity for form in made}) == len(made)
    assert {"a", "fp16.pt", "as it is.pt"} <= {form.name for form in made}


@pytest.mark.parametrize("name", ["int8", "as it is", "64 px"])
def test_a_checkpoint_that_is_called_like_another_lever_is_a_row_of_its_own(
    given: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    other = tmp_path / f"{name}.pt"
    shutil.copy(given[0], other)
    steps = MadeUpSteps()
    screener = WithOther()
    result = made(given, tmp_path / "out", 1.8, steps=steps, screener=screener, also=str(other))  # one path alone
    assert len({row.name for row in result.rows}) == len(result.rows)
    whose = {row.name: (row.form.weights, dict(row.form.keys)) for row in result.rows}
    assert whose[f"{name}.pt"] == (name, {}) and whose["as it is"] == ("new", {})
    assert whose["int8"] == ("new", {"precision": "int8"})
    assert next(row for row in result.rows if row.name == f"{name}.pt").screened_speed_up == 3.0


def test_checkpoints_of_one_file_name_are_rows_of_their_own(given: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / given[0].name
    shutil.copy(given[0], other)
    result = made(given, tmp_path / "out", 1.8, steps=MadeUpSteps(), screener=WithOther(), also=other)
    names = [f"{path.parent.name}/new" for path in (given[0], other)]
    assert {row.form.weights for row in result.rows} == {*names}
    assert names[1] in {row.name for row in result.rows}
    assert [one.weights for one in result.recommendations if one.weights is not None]


class WithOther:
    """Another checkpoint is three times as fast."""

    def __init__(self, accuracy: float = 0.3) -> None:
        self.accuracy = accuracy

    def __call__(self, site: Any, given: Any, *_: Any) -> Screening:
        found = made_up_screening(site, given)
        fast = [replace(one, speed_up=3.0, accuracy=self.accuracy) if "checkpoint" in one.form.levers else one
                for one in found.screened]  # fmt: skip
        return replace(found, screened=tuple(fast))


class FastOther(MadeUpSteps):
    """So it is when it is measured."""

    def __init__(self, other: bytes) -> None:
        super().__init__()
        self.other = other

    def measure(self, job: Job, swept: bytes, pruned: Pruned, tuned: bytes) -> Result:
        point = super().measure(job, swept, pruned, tuned).point
        return Result(replace(point, ms=10 / 3, speed_up=3.0) if job.weights == self.other else point, tuned)


@pytest.mark.parametrize(("accuracy", "row"), [(0.6, "other"), (0.3, "int8")])
def test_the_build_of_another_checkpoint_is_at_the_size_that_it_was_measured_at(
    given: tuple[Path, Path], tmp_path: Path, accuracy: float, row: str
) -> None:
    content = torch.load(given[0], weights_only=False)
    for name, side in (("own", SIDE), ("other", 128)):
        torch.save({**content, "train_args": {"imgsz": side}}, tmp_path / f"{name}.pt")
    own, other = tmp_path / "own.pt", tmp_path / "other.pt"
    more: dict[str, Any] = {"imgsz": None, "epochs": 0, "also": other, "screener": WithOther(accuracy)}
    result = made((own, given[1]), tmp_path / "out", 1.8, steps=FastOther(other.read_bytes()), **more)
    [one] = result.recommendations
    assert one.row == row
    _, _, _, profile, _, weights, *_ = one.command
    size = checkpoint.load(weights).size_for(profile=load_target(profile).stated_imgsz)
    assert (size.side, size.origin) == (SIDE, "profile" if row == "other" else "weights")


def test_a_profile_of_a_folder_with_any_name_is_extended_by_one_that_loads(
    given: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "ours #2: new"
    folder.mkdir()
    (folder / "mine.yaml").write_text("extends: cpu\nmeasure: {rounds: 77}\n")
    options: dict[str, Any] = {"imgsz": SIDE, "steps": MadeUpSteps(), "screener": made_up_screening}
    FrontierRun(folder / "mine.yaml", *given, out=folder, kind="speed_up", budgets=[3.0], **options).made()
    assert load_target(folder / "build-x3.yaml").measure.rounds == 77
    taken = folder.rename(tmp_path / "taken")
    assert load_target(taken / "build-x3.yaml").measure.rounds == 77


def test_what_no_row_meets_is_told_in_the_unit_of_the_budget(given: tuple[Path, Path], tmp_path: Path) -> None:
    [in_ms] = made(given, tmp_path / "a", 0.5, steps=Failing(TargetError("no")), kind="latency_ms").recommendations
    assert in_ms.sentence == "0.5 ms: nothing that was measured meets it; the fastest takes 10.00 ms"
    [ratio] = made(given, tmp_path / "b", 50, steps=Failing(TargetError("no"))).recommendations
    assert ratio.sentence == "×50: nothing that was measured meets it; the fastest is ×1.00"


def test_a_kind_of_budget_that_is_none_is_refused_by_both_names(given: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"'fps' is no kind .* allowed are latency_ms and speed_up"):
        made(given, tmp_path / "out", 30, steps=MadeUpSteps(), kind="fps")
    assert not (tmp_path / "out").exists()


def test_rows_are_drawn_in_ms_of_the_model_as_it_is_also_where_that_failed(found: Any) -> None:
    result, _ = found
    whole, *others = result.rows
    failed = replace(whole, point=replace(whole.point, failed="no engine was built"))
    for one in (result, replace(result, rows=(failed, *others))):
        assert "int8, 5.00 ms" in frontier_plot(one).alt, "×2 of 10 ms"


def test_a_frontier_of_a_newer_form_is_refused_and_an_older_one_read(found: Any, tmp_path: Path) -> None:
    result, _ = found
    kept = json.loads((tmp_path / "frontier.json").read_text())
    assert kept.pop("schema_version") == 1
    assert from_json(Frontier, kept, "frontier.json") == result
    with pytest.raises(DataError, match="schema_version: input should be 1; seen: 2"):
        from_json(Frontier, {**kept, "schema_version": 2}, "frontier.json")
