"""Points of a sweep: what they depend on, what is kept, and what the table shows."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from edgeprune.cli import app
from edgeprune.errors import DataError, DeviceError, OutOfReachError, StageError, TargetError, ToolError
from edgeprune.export import modelopt
from edgeprune.frontier import run as frontier_module
from edgeprune.frontier.run import FrontierRun
from edgeprune.frontier.screening import Screening
from edgeprune.measure import latency as latency_module
from edgeprune.measure.compiling import CompiledFiles
from edgeprune.pipeline import build
from edgeprune.progress import Silent
from edgeprune.records.frontier import Frontier, Screened
from edgeprune.records.sweep import Point, Sweep
from edgeprune.report import sweep as report_module
from edgeprune.report.sweep import point_cells, sweep_page, sweep_plot, sweep_table
from edgeprune.runtimes.site import open_site
from edgeprune.samples.gates import Gate, Verdict, moved_reason
from edgeprune.samples.measurement import Measurement, latency_bounds
from edgeprune.samples.statistics import INTERVAL_END_CONFIDENCE, bounds
from edgeprune.scratch import locked
from edgeprune.search.bench import SiteBench
from edgeprune.serial import read_json, write_json
from edgeprune.sweep import point as point_module
from edgeprune.sweep import run as run_module
from edgeprune.sweep import steps as steps_module
from edgeprune.sweep.estimate import TimeLeft, workload
from edgeprune.sweep.kept import lock_of, note_user
from edgeprune.sweep.point import Job, Pruned, Result, conditions_of
from edgeprune.sweep.run import (
    checkpoint_file,
    finish_jobs,
    per_image_file,
    require_trainable,
    run_here,
    sweep,
    with_teacher_found,
)
from edgeprune.sweep.steps import RealSteps, _doubt, _ends_of_ms, _note, _timed, _training_key, _undecided, remove_used
from edgeprune.target import load_target
from edgeprune.training import finetune as finetune_module
from edgeprune.training.result_from_run import QUANTIZED
from edgeprune.workspace import LOCK, open_workspace
from tests.samples.made import latency


def frontier(*given: Any, **options: Any) -> Frontier:
    """As the command, with steps and a screening of a test's own."""
    return FrontierRun(*given, **options).made()


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An untrained checkpoint and a dataset of a few digits."""
    from ultralytics import YOLO

    from edgeprune.data.digits import write_digits

    folder = tmp_path_factory.mktemp("sweep")
    data = write_digits(folder / "digits", train=4, val=2, test=2, imgsz=96)
    model = YOLO("yolov8n.yaml")
    model.model.names = {i: str(i) for i in range(10)}
    from edgeprune.training.classes import fit_classes

    fit_classes(model.model, {i: str(i) for i in range(10)})
    model.save(folder / "new.pt")
    return folder / "new.pt", Path(data)


def test_a_point_of_another_machine_version_or_teacher_is_another_point(tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.pt"
    teacher.write_bytes(b"one")
    target = load_target("cpu").changed({"finetune.teacher": str(teacher)})
    with open_site(target) as site:
        job = Job("a", b"w", target, "d.yaml", "d", 0, False, "c", True, 1, conditions=conditions_of(site))
    keys = {job.key, replace(job, conditions={**job.conditions, "cpu": "other"}).key}
    keys.add(replace(job, conditions={**job.conditions, "ultralytics": "8.0.0"}).key)
    trained = _training_key(job, Pruned(b"p", 1.0, 1))
    assert replace(job, start_used=1.5).key in keys, "where a search starts is not what it ends with"
    teacher.write_bytes(b"two")
    assert job.key in keys and replace(job).key not in keys and len(keys) == 3
    assert _training_key(job, Pruned(b"p", 1.0, 1)) != trained


def test_what_was_trained_by_another_figure_is_trained_again() -> None:
    target = load_target("cpu")
    job = Job("a", b"w", target, "d.yaml", "d", 0, False, "c", True, 1)
    made = {task: replace(job, task=task) for task in ("detect", "obb", "segment", "pose", "classify")}
    trained = {task: _training_key(one, Pruned(b"p", 1.0, 1)) for task, one in made.items()}
    assert trained["detect"] == trained["obb"] and made["detect"].key == made["obb"].key == job.key
    assert trained["detect"] == _without_best_by(job), "what detectors were trained to is reused"
    for keys in (trained, {task: one.key for task, one in made.items()}):
        assert keys["segment"] == keys["pose"] and len({keys["detect"], keys["pose"], keys["classify"]}) == 3
    untrained = {replace(one, epochs=0).key for task, one in made.items() if task != "classify"}
    assert len(untrained) == 1
    classifier = replace(made["classify"], epochs=0).key
    assert classifier not in untrained, "its kept results of images may be in another order"


def _without_best_by(job: Job) -> str:
    with pytest.MonkeyPatch.context() as then:
        then.setattr(steps_module, "best_by", lambda task: {})
        return _training_key(job, Pruned(b"p", 1.0, 1))


@pytest.mark.slow
def test_what_is_held_against_every_point_is_compiled_once(
    given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search and a measurement of the same point, then another point: one compilation of the swept model."""
    weights, data = given
    sources: list[str] = []
    compile_ = SiteBench._compile_source

    def counted(bench: SiteBench, folder: Path) -> CompiledFiles:
        sources.append(f"{bench.source.sha256[:8]} {folder.name}")
        return compile_(bench, folder)

    monkeypatch.setattr(SiteBench, "_compile_source", counted)
    target = load_target("cpu").changed({"measure.rounds": 4, "imgsz": 96, "prune.importance": "l1"})
    swept = weights.read_bytes()
    steps, found = RealSteps(), []
    for ratio in (1.1, 1.2, 1.0):
        asked = target.with_overrides(speed_up=ratio)
        job = Job("a", swept, asked, str(data), "d", 0, False, str(tmp_path / "profiles"), True, 0)
        pruned = steps.search(job)
        found.append(steps.measure(job, swept, pruned, steps.finetune(job, pruned)).point)
    baselines = [name for name in sources if not name.endswith("candidate")]
    assert len(baselines) == 1 and len(sources) == 4, sources
    assert found[-1].verdict == "" and found[-1].note == "met without pruning", "no clock is asked about ×1"
    assert all(point.speed_up_low and point.speed_up_high for point in found)
    assert all(point.speed_up_low <= point.speed_up <= point.speed_up_high for point in found)  # type: ignore[operator]
    assert [folder.name for folder in (tmp_path / "compiled").iterdir() if folder.name.startswith(".")] == []


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for searching and training; every training is stopped once after an epoch. Says what ran."""
    ran: list[str] = []

    def search(*_: Any, output: Path, **__: Any) -> Any:
        ran.append("search")
        output.write_bytes(b"pruned %d" % ran.count("search"))  # no two searches end alike
        gate = SimpleNamespace(verdict=Verdict.PASS, reason="")
        return SimpleNamespace(checkpoint=output, plan=SimpleNamespace(macs_speed_up=1.5), probes=(1,), gate=gate)

    def finetune(weights: Path, *, out: Path, settings: Any, work: Path, **_: Any) -> Any:
        epochs = work / "epochs"
        teacher = settings.teacher.read_bytes()
        if not epochs.exists():
            work.mkdir(parents=True)
            epochs.write_bytes(weights.read_bytes() + teacher)
            raise KeyboardInterrupt
        assert epochs.read_bytes() == weights.read_bytes() + teacher
        ran.append("trained on")
        out.mkdir()
        for name in ("best.pt", QUANTIZED):
            (out / name).write_bytes(b"trained " + weights.read_bytes())
        return SimpleNamespace(best=out / "best.pt")

    monkeypatch.setattr(steps_module, "search", search)
    monkeypatch.setattr(finetune_module, "finetune", finetune)
    return ran


def test_a_point_that_is_stopped_goes_on_with_its_search_and_after_its_epochs(
    stopped: list[str], tmp_path: Path
) -> None:
    target = load_target("cpu").changed({"precision": "int8", "qat.epochs": 1}).with_overrides(speed_up=1.5)
    job = Job("a", b"given", target, "d.yaml", "d", 0, False, str(tmp_path / "profiles"), True, 2)
    for _ in ("fine-tuning", "INT8"):
        with pytest.raises(KeyboardInterrupt):
            RealSteps().finetune(job, RealSteps().search(job))
    pruned = RealSteps().search(job)
    assert (pruned.probes, pruned.macs) == (1, 1.5)
    assert RealSteps().finetune(job, pruned) == b"trained trained pruned 1"
    assert stopped == ["search", "trained on", "trained on"]
    assert not list((tmp_path / "trained").glob("*.work")), "what is finished takes no place twice"
    assert RealSteps().search(replace(job, seed=1)).checkpoint == b"pruned 2"


class Trained(RealSteps):
    """The real steps but for what is stood in for, and a measurement that is at hand."""

    def __init__(self, *unsure: str) -> None:
        self.unsure = unsure

    def measure(self, job: Job, swept: bytes, pruned: Pruned, tuned: bytes) -> Result:
        inconclusive = "between 1.9 and 2.1" if job.name in self.unsure else ""
        return Result(Point(job.name, job.budget, 5.0, 2.0, 0.5, inconclusive=inconclusive), tuned)


def finished(jobs: list[Job], out: Path, steps: Trained) -> None:
    """Run jobs until no training is stopped any more."""
    for _ in range(9):
        with contextlib.suppress(KeyboardInterrupt):
            finish_jobs(jobs, b"given", out, "here", steps, Silent())
            return


def of_a_frontier(out: Path, *names: str) -> list[Job]:
    """Rows of one model: fp32, int8 and trained int8 share weights and their training; pruned ones are apart."""
    target = load_target("cpu")
    keys: dict[str, dict[str, Any]] = {"int8": {"precision": "int8"}, "qat": {"precision": "int8", "qat.epochs": 1}}
    alike: dict[str, Any] = {"weights": b"given", "data": "d", "digest": "d", "trust": False, "epochs": 2}
    alike |= {"cache": str(out / "profiles"), "reference": (target, b"given")}
    rows = []
    for name in names:
        asked, pruned = target.changed(keys.get(name, {})).with_overrides(speed_up=2), name.startswith("pruned")
        seed = int(name.removeprefix("pruned ")) if pruned else 0
        rows.append(Job(name, target=asked, seed=seed, pruned=pruned, **alike))
    return rows


def left(out: Path) -> dict[str, list[str]]:
    """Files of searches and trainings; locks are empty."""
    return {
        folder: sorted(file.name for file in (out / folder).iterdir() if file.suffix != ".lock")
        for folder in ("pruned", "trained")
    }


NOTHING: dict[str, list[str]] = {"pruned": [], "trained": []}


def test_what_points_share_goes_once_they_are_there(stopped: list[str], tmp_path: Path) -> None:
    rows = of_a_frontier(tmp_path, "fp32", "int8", "qat", "pruned 1", "pruned 2")
    finished(rows, tmp_path, Trained())
    assert stopped.count("search") == 2
    assert stopped.count("trained on") == 4, "the three that share weights are trained once, and once for INT8"
    assert left(tmp_path) == NOTHING
    assert len(list((tmp_path / "points").glob("*.pt"))) == 5
    finished(rows, tmp_path, Trained())
    assert len(stopped) == 6, "nothing is made again"


def test_what_a_point_that_is_not_there_needs_stays(stopped: list[str], tmp_path: Path) -> None:
    """One measured nothing sure; another has not begun, and shares its training with the first."""

    class Lost(Trained):
        def search(self, job: Job) -> Pruned:
            if job.name == "int8":
                raise DeviceError("the board is gone")
            return super().search(job)

    rows = of_a_frontier(tmp_path, "fp32", "pruned 1", "int8", "pruned 2")
    finished(rows, tmp_path, Lost("pruned 2"))
    searched, trained = left(tmp_path).values()
    unsure = rows[3].beside(b"given").key
    assert searched == [f"{unsure}.json", f"{unsure}.pt"]
    assert len([name for name in trained if name.endswith(".pt")]) == 2
    before = list(stopped)
    finished(rows, tmp_path, Trained())
    assert stopped == before, "both went on with what was there"
    assert left(tmp_path) == NOTHING


def test_what_another_command_began_stays_and_what_a_kill_left_goes(stopped: list[str], tmp_path: Path) -> None:
    [ours, theirs] = of_a_frontier(tmp_path, "pruned 1", "pruned 2")
    for _ in range(2):  # the second time after its epochs; no point is written
        with contextlib.suppress(KeyboardInterrupt):
            RealSteps().finetune(theirs, RealSteps().search(theirs))
    began = left(tmp_path)
    finished([ours], tmp_path, Trained())
    assert left(tmp_path) == began != NOTHING
    finished([theirs], tmp_path, Trained())
    assert left(tmp_path) == NOTHING
    [key] = {file.stem for file in (tmp_path / "points").glob("pruned 2*.json")}
    note_user(tmp_path / "trained" / "0123.pt", key.rpartition("-")[2])  # as far as a removal came that was killed
    (tmp_path / "trained" / "0123.work").mkdir()
    finished([ours], tmp_path, Trained())
    assert left(tmp_path) == NOTHING


def test_a_training_that_somebody_holds_stays_until_the_next_time(tmp_path: Path) -> None:
    """As a worker of a run that was killed may."""
    training = tmp_path / "trained" / "0123.pt"
    note_user(training, "job")
    training.write_bytes(b"trained")
    with locked(lock_of(training), wait=False):
        remove_used(tmp_path, {"job"}, ())
        assert training.is_file()
    remove_used(tmp_path, {"job"}, ())
    assert not training.exists()


def test_weights_are_read_and_hashed_once_for_all_points(
    given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[int] = []

    def sha256(content: bytes) -> Any:
        hashed.append(len(content))
        return hashlib.sha256(content)

    class Seen(CountedSteps):
        def search(self, job: Job) -> Pruned:
            jobs.append(job)
            return super().search(job)

    jobs: list[Job] = []
    monkeypatch.setattr(point_module, "hashlib", SimpleNamespace(sha256=sha256))
    other = tmp_path / "other.pt"
    content = torch.load(given[0], weights_only=False)
    torch.save({**content, "more": "x" * 1000}, other)
    options: dict[str, Any] = {"imgsz": 96, "steps": Seen()}
    asked = [("speed_up", 2.0), ("speed_up", 3.0)]
    sweep("cpu", *given, out=tmp_path / "swept", budgets=asked, unpruned=other, **options)
    assert len(jobs) == 4 and len({id(job.weights) for job in jobs}) == 2
    assert sorted(hashed) == sorted(file.stat().st_size for file in (given[0], other))
    jobs.clear()
    hashed.clear()
    options |= {"kind": "speed_up", "screener": _screened}
    frontier("cpu", *given, out=tmp_path / "levers", budgets=[2.0, 3.0], **options)
    held = {id(content) for job in jobs if job.reference for content in (job.weights, job.reference[1])}
    assert len(jobs) > 2 and len(held) == 1
    assert hashed == [given[0].stat().st_size]


def _screened(site: Any, forms: Any, *_: Any, **__: Any) -> Screening:
    return Screening(tuple(Screened(form, 10.0, 1.0, 0.5, 1000) for form in forms), {}, 1.0)


def test_what_need_not_be_pruned_is_trained_in_a_frontier_and_not_in_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(*_: Any, output: Path, **__: Any) -> Any:
        output.write_bytes(b"saved again")
        gate = SimpleNamespace(verdict=Verdict.PASS, reason="")
        return SimpleNamespace(checkpoint=output, plan=SimpleNamespace(macs_speed_up=1.0), probes=(), gate=gate)

    monkeypatch.setattr(steps_module, "search", search)
    monkeypatch.setattr(steps_module, "_trained", lambda job, key, *_: f"trained {key}".encode())
    target = load_target("cpu").with_overrides(speed_up=1.5)
    of_sweep = Job("a", b"given", target, "d.yaml", "d", 0, False, str(tmp_path / "profiles"), True, 2)
    pruned = RealSteps().search(of_sweep)
    assert pruned == Pruned(b"given", 1.0, 0), "nothing was pruned: it is the given one"
    assert RealSteps().finetune(of_sweep, pruned) == b"given" and _note(of_sweep, pruned, True) == "met without pruning"
    assert _note(of_sweep, pruned, False) == "unpruned"
    row = replace(of_sweep, reference=(target, b"swept"))
    whole = replace(row, pruned=False)
    assert RealSteps().finetune(row, pruned) == RealSteps().finetune(whole, RealSteps().search(whole))
    assert _note(row, pruned, True) == "met without pruning, epochs: 2"


@pytest.mark.parametrize(
    ("keys", "note"),
    [
        ({}, "probes: 2, epochs: 3"),
        ({"finetune.time_h": 1.5}, "probes: 2, trained for 1.5 h"),
        ({"precision": "int8", "qat.epochs": 2}, "probes: 2, epochs: 3 and 2 for INT8"),
        (
            {"precision": "int8", "qat.epochs": 2, "finetune.time_h": 1.5},
            "probes: 2, trained for 1.5 h and 2 epochs for INT8",
        ),
        ({"precision": "int8", "qat.time_h": 0.5}, "probes: 2, epochs: 3 and for 0.5 h for INT8"),
    ],
)
def test_a_note_says_what_was_run(keys: dict[str, Any], note: str) -> None:
    target = load_target("cpu").changed(keys).with_overrides(speed_up=1.5)
    job = Job("a", b"given", target, "d.yaml", "d", 0, False, "", True, 3)
    assert _note(job, Pruned(b"pruned", 1.5, 2), False) == note


def test_a_row_that_an_older_frontier_left_untrained_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = load_target("cpu").with_overrides(speed_up=1.5)
    job = Job("a", b"given", target, "d.yaml", "d", 0, False, "", True, 2, reference=(target, b"swept"))
    older = Point("a", "×1.5", 10.0, 1.5, 0.5, note="met without pruning")
    for version, point, again in (
        (1, older, ["a"]),
        (point_module.VERSION, replace(older, met_unpruned=True), []),
        (point_module.VERSION, replace(older, note="probes: 1"), []),
    ):
        (tmp_path / "points").mkdir(exist_ok=True)
        with monkeypatch.context() as then:
            then.setattr(point_module, "VERSION", version)
            write_json(tmp_path / "points" / f"a-{replace(job).key}.json", point)
        steps = CountedSteps()
        finish_jobs([job], b"swept", tmp_path, "here", steps, Silent())
        assert steps.ran == again


def test_a_point_of_another_model_is_made_again_beside_another_swept_one(tmp_path: Path) -> None:
    target = load_target("cpu")

    def ran(main: bytes, **changes: Any) -> list[str]:
        rows = [Job(name, weights, target, "d.yaml", "d", 0, False, "", False, 0, **changes)
                for name, weights in (("main", main), ("other", b"other"))]  # fmt: skip
        steps = CountedSteps()
        finish_jobs(rows, main, tmp_path, "here", steps, Silent())
        return steps.ran

    assert ran(b"one") == ["main", "other"]
    assert ran(b"one") == []
    assert ran(b"two") == ["main", "other"], "its speed-up is over the swept model"
    assert ran(b"one") == []
    assert ran(b"three", reference=(target, b"reference")) == ["main", "other"]
    assert ran(b"three", reference=(target, b"reference")) == []


def test_epochs_that_a_profile_s_time_would_ignore_are_refused() -> None:
    timed = load_target("cpu").changed({"finetune.time_h": 2.0})
    with pytest.raises(TargetError, match=r"--epochs 5: the profile's finetune\.time_h: 2 decides"):
        require_trainable(timed, 5)
    require_trainable(timed, None)
    require_trainable(timed, 0)


def test_a_kept_search_is_taken_with_its_own_checkpoint_alone(stopped: list[str], tmp_path: Path) -> None:
    """Of two searches of one job that end at a time, the checkpoint of one may lie beside the record of the other."""
    out = tmp_path / "out"
    job = Job("a", b"given", load_target("cpu"), "d.yaml", "d", 0, False, str(out / "profiles"), True, 0)
    with open_workspace(out, "sweep"):  # by the process of the sweep: a worker of Ray's is another one
        first = RealSteps().search(job)
    [record], [weights] = (out / "pruned").glob("*.json"), (out / "pruned").glob("*.pt")
    assert RealSteps().search(job) == first and stopped == ["search"]
    weights.write_bytes(b"of another search")
    second = RealSteps().search(job)
    assert (second.checkpoint, stopped) == (b"pruned 2", ["search"] * 2)
    assert RealSteps().search(job) == second and weights.read_bytes() == second.checkpoint
    write_json(record, replace(second, checkpoint=b""))  # as an older version kept it: nobody knows whose the .pt is
    assert RealSteps().search(job).checkpoint == b"pruned 3"
    weights.unlink()
    assert RealSteps().search(job).checkpoint == b"pruned 4"


class CountedSteps:
    """Stand-ins for the three steps that count how often they ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def search(self, job: Job) -> Pruned:
        self.ran.append(job.name)
        if job.target.budget.speed_up == 50:
            raise TargetError("the budget is out of reach: held by model.0.conv")
        return Pruned(b"pruned", 2.0, 2)

    def finetune(self, job: Job, pruned: Pruned) -> bytes:
        return pruned.checkpoint

    def measure(self, job: Job, swept: bytes, pruned: Pruned, tuned: bytes) -> Result:
        speed_up = job.target.budget.value if job.pruned else 1.0
        point = Point(job.name, "budget" if job.pruned else "", 10 / speed_up, speed_up, 0.5 / speed_up, 2.0, 1000)
        return Result(point, tuned if job.pruned else None)


def sweep_of(given: tuple[Path, Path], out: Path, *speed_ups: float, steps: CountedSteps) -> Sweep:
    weights, data = given
    budgets = [("speed_up", speed_up) for speed_up in speed_ups]
    return sweep("cpu", weights, data, out=out, budgets=budgets, imgsz=96, steps=steps)


def test_budgets_may_be_an_array(given: tuple[Path, Path], tmp_path: Path) -> None:
    """Names and commands have its numbers as people type them."""
    found = [sweep_of(given, tmp_path / "array", *np.array([1.5, 2.0]), steps=CountedSteps())]
    found += [sweep_of(given, tmp_path / "whole", *np.array([2, 3]), steps=CountedSteps())]
    names = [point.name for one in found for point in one.points]
    assert names == [f"new-speed-up-{ratio}" for ratio in ("1.5", "2", "2", "3")]
    assert not [file for file in tmp_path.rglob("*") if "np." in file.name]
    for folder in ("array", "whole"):
        assert "np." not in (tmp_path / folder / "sweep.json").read_text()
    budgets: Any = np.array([2, 3])
    run = FrontierRun("cpu", *given, out=tmp_path, kind="speed_up", budgets=budgets, epochs=0, imgsz=96)
    assert [type(value) for value in run.values] == [int, int] and run.target.budget.speed_up == 2
    for command, nothing in ((sweep, {}), (frontier, {"kind": "speed_up"})):
        with pytest.raises(TargetError, match="give at least one budget"):
            command("cpu", *given, out=tmp_path, budgets=np.array([]), **nothing)


def test_points_that_train_int8_need_modelopt_before_anything_is_written(
    given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modelopt, "installed", lambda package: "absent")
    (tmp_path / "trained.yaml").write_text("extends: cpu\nprecision: int8\nqat: {epochs: 2}\n")
    options: dict[str, Any] = {"out": tmp_path / "out", "budgets": [("speed_up", 1.5)], "imgsz": 96}
    with pytest.raises(DeviceError, match="pip install 'nvidia-modelopt"):
        sweep(tmp_path / "trained.yaml", *given, **options, steps=CountedSteps())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("sparsify: {epochs: 2}", "sparsify: runs in a build alone"),
        ("finetune: {train: {mosiac: 0.5}}", "finetune: .*mosiac"),
        ("prune: {importance: magic}", "profile mine: prune: unknown importance 'magic'"),
        ("prune: {ignore: ['nowhere.*']}", "profile mine: prune: ignore: .* matches no module"),
        (
            "finetune: {teacher: gone.pt}",
            "profile .*: finetune.teacher: cannot read .*gone.pt.*beside the profile",
        ),
    ],
)
@pytest.mark.parametrize("command", [sweep, frontier])
def test_what_no_point_could_be_trained_by_is_refused_before_the_first_search(
    given: tuple[Path, Path], tmp_path: Path, section: str, said: str, command: Any
) -> None:
    (tmp_path / "mine.yaml").write_text(f"extends: cpu\n{section}\n")
    asked: dict[str, Any] = (
        {"budgets": [("speed_up", 1.5)]} if command is sweep else {"budgets": [1.5], "kind": "speed_up"}
    )
    with pytest.raises((DataError, TargetError), match=said):
        command(tmp_path / "mine.yaml", *given, out=tmp_path / "out", imgsz=96, steps=CountedSteps(), **asked)
    assert not (tmp_path / "out").exists()


class Notes(Silent):
    """Keeps what was noted."""

    def __init__(self) -> None:
        self.noted: list[str] = []

    def note(self, text: str) -> None:
        self.noted.append(text)


@pytest.mark.parametrize("epochs", [None, 0])
def test_that_no_point_ends_its_training_early_is_said(
    given: tuple[Path, Path], tmp_path: Path, epochs: int | None
) -> None:
    (tmp_path / "mine.yaml").write_text("extends: cpu\nfinetune: {until: map_drop <= 0.01}\n")
    notes, budgets = Notes(), [("speed_up", 1.5)]
    options: dict[str, Any] = {"imgsz": 96, "steps": CountedSteps(), "epochs": epochs, "progress": notes}
    sweep(tmp_path / "mine.yaml", *given, out=tmp_path, budgets=budgets, **options)
    assert any("finetune.until is left out" in note for note in notes.noted) is (epochs is None)


@pytest.mark.parametrize(
    ("epochs", "probes", "note"),
    [(0, 2, "probes: 2, epochs: 0"), (3, 2, "probes: 2, epochs: 3 and 5 for INT8"), (3, 0, "met without pruning")],
)
def test_a_note_says_what_was_trained(epochs: int, probes: int, note: str) -> None:
    target = load_target("cpu").changed({"precision": "int8", "qat.epochs": 5}).with_overrides(speed_up=1.5)
    job = Job("a", b"given", target, "d.yaml", "d", 0, False, "", True, epochs)
    assert _note(job, Pruned(b"pruned", 1.5, probes), True) == note


def test_finished_points_are_not_run_again_and_failed_ones_are(given: tuple[Path, Path], tmp_path: Path) -> None:
    steps = CountedSteps()
    first = sweep_of(given, tmp_path, 1.5, 50, steps=steps)
    assert [point.failed is None for point in first.points] == [True, False]
    assert steps.ran == ["new", "new-speed-up-1.5", "new-speed-up-50"]
    steps.ran.clear()
    second = sweep_of(given, tmp_path, 1.5, 50, 2.0, steps=steps)
    assert steps.ran == ["new-speed-up-50", "new-speed-up-2"]
    assert second.points[0] == first.points[0]
    table = (tmp_path / "sweep.md").read_text()
    assert "×1.500" in table and "out of reach" in table
    assert len(list((tmp_path / "points").glob("*.pt"))) == 2
    assert json.loads((tmp_path / "sweep.json").read_text())["points"][0]["speed_up"] == 1.5


class OutOfReach(CountedSteps):
    """×50 was measured to be out of reach; ×60 cannot be searched for, and nobody knows whether it is."""

    def search(self, job: Job) -> Pruned:
        if job.pruned and job.target.budget.value >= 50:
            self.ran.append(job.name)
            sure = job.target.budget.value == 50
            raise OutOfReachError("the budget is out of reach") if sure else TargetError("this place has no locks")
        return super().search(job)


def test_a_budget_that_was_measured_to_be_out_of_reach_is_not_searched_for_again(tmp_path: Path) -> None:
    target = load_target("cpu")
    jobs = [
        Job(str(ask), b"given", target.with_overrides(speed_up=ask), "d", "d", 0, False, "", True, 2)
        for ask in (2, 50, 60)
    ]

    def ran() -> tuple[list[str], list[str], list[Point]]:
        steps, notes = OutOfReach(), Notes()
        points = finish_jobs(jobs, b"given", tmp_path, "here", steps, notes)
        return steps.ran, [note for note in notes.noted if "remove" in note], points

    [kept] = [job for job in jobs if job.name == "50"]
    file = tmp_path / "points" / f"50-{kept.beside(b'given').key}.json"
    first, told, found = ran()
    words = f"50: out of reach, and not searched for by the next run, unless you remove {file}"
    assert first == ["2", "50", "60"] and told == [words]
    again, told, points = ran()
    assert again == ["60"] and points == found and points[1].failed_code == 2
    assert told == [f"{words}. An earlier one found the budget is out of reach"], "a command to type may end it"
    file.unlink()
    assert ran()[0] == ["50", "60"]
    file.unlink()
    with pytest.raises(DataError, match="the data set changed"):
        finish_jobs(jobs, b"given", tmp_path, "here", OutOfReach(), Silent(), check=_changed)
    assert not file.exists(), "it was found with other data"


def _changed() -> None:
    raise DataError("the data set changed")


class Held(CountedSteps):
    """Each step looks whether its folder is held, as a second process finds it."""

    def __init__(self, out: Path) -> None:
        super().__init__()
        self.out = out

    def search(self, job: Job) -> Pruned:
        with pytest.raises(StageError, match=r"another (sweep|frontier) \(process"), open_workspace(self.out):
            pass
        return super().search(job)


@pytest.mark.parametrize("command", [sweep, frontier, build])
def test_a_weight_of_two_layers_is_refused_before_anything_is_measured(
    given: tuple[Path, Path], tmp_path: Path, command: Any
) -> None:
    from ultralytics import YOLO

    weights, data = given
    model: Any = YOLO(weights)
    block = model.model.model[2].m[0]
    block.cv1.bn.weight = block.cv2.bn.weight
    model.save(tmp_path / "shared.pt")
    ways: dict[Any, Any] = {sweep: {"budgets": [("speed_up", 1.5)]}, build: {}}
    ways[frontier] = {"budgets": [1.5], "kind": "speed_up"}
    with pytest.raises(StageError, match="are one tensor"):
        command("cpu", tmp_path / "shared.pt", data, out=tmp_path / "out", imgsz=96, **ways[command])
    assert not (tmp_path / "out").exists(), "nothing was begun"


@pytest.mark.parametrize("command", [sweep, frontier])
@pytest.mark.parametrize("jobs", ["here", "ray"])
def test_one_process_at_a_time_works_in_a_folder(
    given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Any, jobs: str
) -> None:
    """Two would disturb each other's measurements, and pair what one found with what the other kept."""
    ran: list[str] = []

    def screener(site: Any, forms: Any, *_: Any) -> Screening:
        ran.append("screening")
        return Screening(tuple(Screened(form, 10.0, 1.0, 0.5, 1000) for form in forms), {}, 1.0)

    def cluster(todo: Any, swept: bytes, finished: Any, steps: Any, *, reporter: Any) -> None:
        run_here(todo, swept, finished, steps)

    monkeypatch.setattr(run_module, "run_on_ray", cluster)
    monkeypatch.setattr(run_module, "conditions_on_ray", lambda target: {"cpu": target.name})
    monkeypatch.setattr(frontier_module, "require_device_of_cluster", lambda target: None)
    out = tmp_path / "out"
    steps = Held(out)
    options: dict[str, Any] = {"out": out, "imgsz": 96, "epochs": 0, "jobs": jobs, "steps": steps}
    options |= {"budgets": [("speed_up", 1.5)]}
    if command is frontier:
        options |= {"budgets": [1.5], "kind": "speed_up", "screener": screener}
    with (
        open_workspace(out, command.__name__),
        pytest.raises(StageError, match=rf"another {command.__name__} \(process \d+\) works here; wait for it"),
    ):
        command("cpu", *given, **options)
    assert ran == steps.ran == []
    assert [path.name for path in out.iterdir()] == [LOCK], "nothing was written"
    command("cpu", *given, **options)
    assert steps.ran
    with open_workspace(out):  # it is free again
        pass


@pytest.mark.parametrize(
    "change",
    [{"weights": b"other"}, {"seed": 1}, {"epochs": 3}, {"digest": "d2"}, {"pruned": False}],
    ids=lambda change: next(iter(change)),
)
def test_a_point_depends_on_what_it_is_made_from(change: dict[str, Any]) -> None:
    job = Job("a", b"weights", load_target("cpu"), "data.yaml", "d1", 0, False, "cache", True, 2)
    assert replace(job, **change).key != job.key
    assert replace(job, name="b", cache="elsewhere", data="/other/place.yaml").key == job.key


def test_what_a_sweep_never_does_makes_no_other_point() -> None:
    """``prune.diagnose`` leaves out the engines of a diagnosis, which a sweep has none of."""
    target = load_target("cpu")
    told = target.changed({"prune.diagnose": not target.prune.diagnose})
    job = Job("a", b"weights", target, "data.yaml", "d1", 0, False, "cache", True, 2, reference=(target, b"swept"))
    assert replace(job, target=told, reference=(told, b"swept")).key == job.key
    other = target.changed({"prune.importance": "l1"})
    assert replace(job, target=other).key != job.key != replace(job, reference=(other, b"swept")).key


NOISE: list[dict[str, Any]] = [
    {"name": "another"},
    {"description": "in other words"},
    {"device.board": "mine"},
    {"device.host": "local"},
    {"pretrain.epochs": 3},
    {"prune.diagnose": False},
    {"measure.quiet_wait_s": 60.0},
    {"finetune.until": "map_drop <= 0.01"},
    {"finetune.epochs": 7},
]


@pytest.mark.parametrize("change", NOISE, ids=lambda change: next(iter(change)))
def test_what_changes_no_figure_is_in_no_key(change: dict[str, Any]) -> None:
    target = load_target("cpu")
    other = target.changed(change)
    assert other != target
    job = Job("a", b"weights", target, "data.yaml", "d1", 0, False, "cache", True, 2, reference=(target, b"swept"))
    changed = replace(job, target=other, reference=(other, b"swept"))
    assert changed.key == job.key
    assert _training_key(changed, Pruned(b"p", 1.0, 1)) == _training_key(job, Pruned(b"p", 1.0, 1))


def test_the_budget_is_in_the_key_of_what_is_held_against_it_alone() -> None:
    target = load_target("cpu").with_overrides(speed_up=2)
    pruned = Job("a", b"weights", target, "data.yaml", "d1", 0, False, "cache", True, 2)
    unpruned = replace(pruned, pruned=False)
    faster = target.with_overrides(speed_up=3)
    assert replace(pruned, target=faster).key != pruned.key
    assert replace(unpruned, target=faster).key == unpruned.key
    for key, value in (("statistic", "p99"), ("scope", "end_to_end")):
        assert replace(unpruned, target=target.changed({f"budget.{key}": value})).key != unpruned.key


def test_what_draws_other_images_is_another_training() -> None:
    """Every worker of a GPU's data loader draws its own augmentation."""
    target = load_target("cpu")
    job = Job("a", b"weights", target, "data.yaml", "d1", 0, False, "cache", True, 2)
    fewer = replace(job, target=target.changed({"finetune.workers": 1}))
    assert fewer.key != job.key
    assert _training_key(fewer, Pruned(b"p", 1.0, 1)) != _training_key(job, Pruned(b"p", 1.0, 1))


def test_a_teacher_is_known_by_its_content_and_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "big.pt").write_bytes(b"one")
    (tmp_path / "same.pt").write_bytes(b"one")

    def taught_by(teacher: str) -> Job:
        target = with_teacher_found(load_target("cpu").changed({"finetune.teacher": teacher}))
        return Job("a", b"w", target, "d.yaml", "d", 0, False, "c", True, 1)

    job = taught_by("big.pt")
    assert job.target.finetune.teacher == str(tmp_path / "big.pt"), "a worker of Ray's starts in another folder"
    assert taught_by("same.pt").key == job.key
    assert len({job.key, taught_by("gone.pt").key, taught_by("gone too.pt").key}) == 3
    assert taught_by("gone.pt").target.finetune.teacher == "gone.pt"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    before = job.key
    (tmp_path / "big.pt").write_bytes(b"two")
    assert replace(job).key != before


def test_the_same_weights_under_another_name_are_the_same_point(tmp_path: Path) -> None:
    class Kept(CountedSteps):
        def measure(self, job: Job, swept: bytes, pruned: Pruned, tuned: bytes) -> Result:
            return replace(super().measure(job, swept, pruned, tuned), per_image=b"seen")

    job = Job(
        "best-speed-up-2", b"given", load_target("cpu").with_overrides(speed_up=2), "d", "d", 0, False, "", True, 2
    )
    steps, renamed = Kept(), replace(job, name="renamed-speed-up-2")
    [first] = finish_jobs([job], b"given", tmp_path, "here", steps, Silent())
    assert finish_jobs([renamed], b"given", tmp_path, "here", steps, Silent()) == [replace(first, name=renamed.name)]
    assert steps.ran == [job.name]
    assert checkpoint_file(tmp_path, renamed) == checkpoint_file(tmp_path, job)
    assert checkpoint_file(tmp_path, renamed).read_bytes() == b"pruned"
    assert per_image_file(tmp_path, renamed).read_bytes() == b"seen"


def test_a_point_of_other_data_than_the_one_before_ends_the_sweep_and_is_not_kept(tmp_path: Path) -> None:
    target = load_target("cpu").with_overrides(speed_up=2)
    jobs = [Job(name, name.encode(), target, "d", "d", 0, False, "", True, 0) for name in ("one", "two", "three")]
    steps = CountedSteps()

    def check() -> None:
        if "two" in steps.ran:
            raise DataError("the data set changed")

    with pytest.raises(DataError, match="changed"):
        finish_jobs(jobs, b"given", tmp_path, "here", steps, Silent(), check)
    assert steps.ran == ["one", "two"]
    steps = CountedSteps()
    finish_jobs(jobs, b"given", tmp_path, "here", steps, Silent())
    assert steps.ran == ["two", "three"]


def test_what_there_is_to_make_and_how_long_the_rest_takes_is_told(tmp_path: Path) -> None:
    target = load_target("cpu").with_overrides(speed_up=2)
    whole = Job("whole", b"given", target, "d", "d", 0, False, "", False, 0)
    pruned = [replace(whole, name=str(seed), seed=seed, pruned=True, epochs=20) for seed in range(3)]
    notes = Notes()
    finish_jobs([whole, *pruned], b"given", tmp_path, "here", CountedSteps(), notes)
    assert notes.noted[0] == "4 points to make, 3 of them trained, 60 epochs in all"
    told = [note for note in notes.noted if "by what was made so far" in note]
    assert told == ["2 points are left: about 0 s, by what was made so far"]
    notes.noted.clear()
    finish_jobs([whole, *pruned], b"given", tmp_path, "here", CountedSteps(), notes)
    assert notes.noted == ["4 of 4 points are there already"], "nothing is left to tell"


def test_the_rest_is_told_once_every_kind_of_it_was_measured() -> None:
    target = load_target("cpu").with_overrides(speed_up=2)
    whole = Job("whole", b"given", target, "d", "d", 0, False, "", False, 0)
    first, second, third = (replace(whole, name=str(seed), pruned=True, epochs=20) for seed in range(3))
    now = iter([0.0, 10.0, 100.0, 1000.0])
    left = TimeLeft([whole, first, second, third], clock=lambda: next(now))
    assert left.after(whole, failed=False) == "", "what is not pruned tells nothing of the others"
    assert left.after(first, failed=True) == "", "nor does what failed"
    assert left.after(second, failed=False) == "1 point is left: about 15 min, by what was made so far"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"finetune.time_h": 1.5}, "2 points to make, 2 of them trained, 3 h in all"),
        ({"precision": "int8", "qat.epochs": 3}, "2 points to make, 2 of them trained, 10 epochs in all"),
        ({"precision": "int8", "qat.time_h": 1}, "2 points to make, 2 of them trained, 4 epochs and 2 h in all"),
    ],
)
def test_what_there_is_to_train_is_told_as_the_profile_limits_it(keys: dict[str, Any], said: str) -> None:
    job = Job("a", b"given", load_target("cpu").changed(keys), "d", "d", 0, False, "", True, 2)
    assert workload([job, job]) == said
    assert workload([replace(job, epochs=0)]) == "1 point to make"


@pytest.mark.parametrize("command", [sweep, frontier])
def test_checkpoints_beside_the_swept_one_are_others_of_its_classes(
    given: tuple[Path, Path], tmp_path: Path, command: Any
) -> None:
    """A path alone stands for itself: a text is a sequence of texts too."""
    from ultralytics import YOLO

    weights, data = given
    budgets: Any = [("speed_up", 1.5)] if command is sweep else [1.5]
    option = "unpruned" if command is sweep else "also"
    options: dict[str, Any] = {"out": tmp_path / "out", "budgets": budgets, "imgsz": 96, "steps": CountedSteps()}
    options |= {} if command is sweep else {"kind": "speed_up"}
    same, foreign, renamed = (tmp_path / name for name in ("same.pt", "foreign.pt", "renamed.pt"))
    same.symlink_to(weights)
    with pytest.raises(TargetError, match=f"--{option} .*same.pt: this checkpoint is given twice"):
        command("cpu", weights, data, **options, **{option: str(same)})
    content = torch.load(weights, weights_only=False)
    content["model"].names = {index: f"class{index}" for index in content["model"].names}
    torch.save(content, renamed)
    said = rf"--{option} .*renamed\.pt: 10 of its classes differ: it calls 0 'class0', .* 0 '\w+', 1 '"
    with pytest.raises(DataError, match=said):
        command("cpu", weights, data, **options, **{option: renamed})
    YOLO("yolov8n.yaml").save(foreign)
    with pytest.raises(DataError, match=rf"--{option} .*foreign\.pt: it is a detect model of 80 classes.* 10 classes"):
        command("cpu", weights, data, **options, **{option: [foreign]})
    with pytest.raises(TargetError, match="at least one budget"):
        command("cpu", weights, data, **{**options, "budgets": []})
    assert not (tmp_path / "out").exists()


def test_checkpoints_of_one_file_name_and_names_in_other_spaces_are_measured(
    given: tuple[Path, Path], tmp_path: Path
) -> None:
    """As Ultralytics lays its runs out: best.pt in the folder of each."""
    weights, data = given
    content = torch.load(weights, weights_only=False)
    files = [tmp_path / run / "weights" / "best.pt" for run in ("train", "train2")]
    for file in files:
        file.parent.mkdir(parents=True)
        torch.save(content, file)
        content["model"].names = {index: f" {name} " for index, name in content["model"].names.items()}
    options: dict[str, Any] = {"imgsz": 96, "steps": CountedSteps(), "unpruned": files[1]}
    found = sweep("cpu", files[0], data, out=tmp_path / "out", budgets=[("speed_up", 1.5)], **options)
    assert [point.name for point in (*found.unpruned, *found.points)] == [
        *("train/weights/best", "train2/weights/best", "train/weights/best-speed-up-1.5")
    ]
    assert {file.parent for file in (tmp_path / "out/points").rglob("*.json")} == {tmp_path / "out/points"}


def test_one_path_of_an_unpruned_model_is_one_model(given: tuple[Path, Path], tmp_path: Path) -> None:
    weights, data = given
    (tmp_path / "small.pt").write_bytes(weights.read_bytes())
    budgets = [("speed_up", 1.5)]
    options: dict[str, Any] = {"imgsz": 96, "steps": CountedSteps(), "unpruned": str(tmp_path / "small.pt")}
    found = sweep("cpu", weights, data, out=tmp_path / "out", budgets=budgets, **options)
    assert [point.name for point in found.unpruned] == ["new", "small"]
    assert read_json(Sweep, tmp_path / "out" / "sweep.json") == found
    with pytest.raises(TargetError, match="allowed are latency_ms and speed_up"):
        sweep("cpu", weights, data, out=tmp_path / "other", budgets=[("fps", 30)], **options)


def test_the_figure_has_every_point_in_words_and_in_its_table() -> None:
    whole = (Point("n", "", 10.0, 1.0, 0.5, 1.0, 3_000_000, "unpruned"),)
    pruned = (Point("n-2", "×2", 5.0, 2.0, 0.45, 2.5, 1_000_000, "1 probes"), Point("n-9", "×9", failed="out of reach"))
    made = Sweep(whole, pruned, "p50", "mAP50-95")
    figure, text = sweep_plot(made), sweep_page(made)
    assert "5.00 ms, mAP50-95 0.4500" in figure.alt
    assert text.count("<tr ") == 4
    assert "out of reach" in text
    assert "<script" not in text and "http://" not in text.replace("http://www.w3.org", "")


def test_points_of_runs_that_drifted_apart_are_drawn_on_one_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine slowed by a half before the last point: ×2.5 in 6 ms is faster than ×2 in 5 ms."""
    whole = (Point("n", "", 10.0, 1.0, 0.5, swept_ms=10.0),)
    pruned = (
        Point("n-2", "×2", 5.0, 2.0, 0.45, swept_ms=10.0),
        Point("n-2.5", "×2.5", 6.0, 2.5, 0.4, swept_ms=15.0, inconclusive="between 2.4 and 2.6"),
        Point("n-3", "×3", 5.0, 2.9, 0.3, swept_ms=14.5, missed="at most 2.95×"),
    )
    marked: list[Any] = []
    monkeypatch.setattr(report_module, "draw_unsure", lambda axes, places: marked.extend(places))
    figure = sweep_plot(Sweep(whole, pruned, "p50", "mAP50-95"))
    assert [line.split(" ms")[0] for line in figure.alt.split("; ")] == [
        "n: 10.00", "n-2: 5.00", "n-2.5: 4.00", "n-3: 3.45",
    ]  # fmt: skip
    assert figure.alt.count("INCONCLUSIVE") == figure.alt.count("FAIL") == 1
    assert marked == [(4.0, 0.4), (pytest.approx(3.448, abs=1e-3), 0.3)]
    assert "6.00" in sweep_page(Sweep(whole, pruned, "p50", "mAP50-95")), "the table has what was measured"
    without = sweep_plot(Sweep((replace(whole[0], failed="no engine"),), pruned, "p50", "mAP50-95"))
    assert "n-2: 5.00 ms" in without.alt and "n-2.5: 4.00 ms" in without.alt


def test_an_unpruned_model_that_fails_is_said_and_not_drawn(
    given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeprune.sweep import run

    whole = (Point("whole", "", 10.0, 1.0, 0.5), Point("small", "", failed="no engine was built"))
    made = Sweep(whole, (Point("whole-2", "×2", 5.0, 2.0, 0.45),), "p50", "mAP50-95")
    drawn = sweep_plot(made).svg
    assert ">whole</text>" in drawn and ">small</text>" not in drawn
    assert "</text>" in sweep_plot(replace(made, unpruned=whole[1:])).svg, "the swept model itself may fail"
    monkeypatch.setattr(run, "sweep", lambda *_, **__: made)
    weights, data = given
    argv = ["sweep", str(weights), "--target", "cpu", "--data", str(data), "--out", str(tmp_path), "--speed-up", "2"]
    ended = CliRunner().invoke(app, argv)
    assert ended.exit_code == 1 and "small: no engine was built" in ended.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--speed-up", "1.5,x"], "numbers with commas"),
        ([], "either --latency-ms or --speed-up"),
        (["--speed-up", "2", "--latency-ms", "3"], "either --latency-ms or --speed-up"),
        (["--speed-up", "2", "--jobs", "cloud"], "allowed are here, ray"),
        (["--speed-up", "0.5"], "greater than or equal to 1"),
        (["--speed-up", "2", "--epochs", "-1"], "0 or more"),
    ],
)
def test_wrong_options_are_one_line(given: tuple[Path, Path], tmp_path: Path, options: list[str], said: str) -> None:
    weights, data = given
    argv = ["sweep", str(weights), "--target", "cpu", "--data", str(data), "--out", str(tmp_path / "out"), *options]
    ended = CliRunner().invoke(app, argv)
    assert isinstance(ended.exception, TargetError)
    assert said in str(ended.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("points", "code", "said"),
    [
        ([Point("a", "×2", 5.0, 2.2, 0.5)], 0, ""),
        ([Point("a", "×2", 5.0, 2.0, 0.5, inconclusive="between 1.9 and 2.1")], 5, "a: INCONCLUSIVE: between 1.9"),
        ([Point("a", "×2", 5.0, 1.8, 0.5, missed="at most 1.9×")], 1, "a: FAIL: at most 1.9×"),
        ([Point("a", "×9", failed="out of reach", failed_code=2), Point("b", "×2", 5.0, 2.0, 0.5)], 2, "a: out"),
        ([Point("a", "×2", failed="gone", failed_code=4), Point("b", "×2", failed="no", failed_code=3)], 4, "a: gone"),
    ],
)  # fmt: skip
def test_a_sweep_ends_with_the_worst_of_its_points(
    given: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    points: list[Point],
    code: int,
    said: str,
) -> None:
    from edgeprune.sweep import run

    made = Sweep((Point("whole", "", 10.0, 1.0, 0.5),), tuple(points), "p50", "mAP50-95")
    monkeypatch.setattr(run, "sweep", lambda *_, **__: made)
    weights, data = given
    argv = ["sweep", str(weights), "--target", "cpu", "--data", str(data), "--out", str(tmp_path), "--speed-up", "2"]
    ended = CliRunner().invoke(app, argv)
    assert ended.exit_code == code and said in ended.output
    assert said.partition(": ")[2] in sweep_page(made)


@pytest.mark.parametrize(
    ("error", "code"), [(DeviceError("gone"), 4), (ToolError(["a"], 1, "b"), 3), (ValueError(), 3)]
)
def test_a_failed_point_keeps_the_code_of_its_error(error: Exception, code: int) -> None:
    job = Job("a", b"w", load_target("cpu"), "d.yaml", "d", 0, False, "c", True, 1)
    assert job.failure(error).point.exit_code == code


@pytest.mark.parametrize(
    ("candidate", "verdict", "looks"),
    [(4.6, Verdict.PASS, 1), (5.0, Verdict.INCONCLUSIVE, 3), (6.0, Verdict.FAIL, 1)],
)
@pytest.mark.parametrize("beside", [False, True], ids=["sweep", "frontier"])
def test_the_last_measurement_is_held_against_the_budget(
    candidate: float, verdict: Verdict, looks: int, beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search passed on other samples; a row of a frontier takes another size than the model that it is beside."""
    dice, timed, target = np.random.default_rng(0), [], load_target("cpu").with_overrides(speed_up=2.0)

    def both(*_: Any, **__: Any) -> list[Measurement]:
        timed.append(1)
        shapes = [{"images": (1, 3, side, side)} for side in (32, 64 if beside else 32)]
        return [
            latency(ms * dice.normal(1, 0.01, 300), shapes=shape)
            for ms, shape in zip((10.0, candidate), shapes, strict=True)
        ]

    monkeypatch.setattr(steps_module, "side_by_side", both)
    monkeypatch.setattr(latency_module, "wait_before_again", lambda site, *_: None)
    job = Job("a", b"w", target, "d", "d", 0, False, "c", True, 1, reference=(target, b"") if beside else None)
    site: Any = SimpleNamespace(target=target, runtime=SimpleNamespace(simulated=False), reporter=Silent())
    bench: Any = SimpleNamespace(latency=both)
    *_, gate = _timed(site, job, bench, [], None)  # pyright: ignore[reportArgumentType]
    assert gate is not None and gate.verdict is verdict and len(timed) == looks
    assert _timed(site, replace(job, pruned=False), bench, [], None)[2] is None  # pyright: ignore[reportArgumentType]


def timed_moving(monkeypatch: pytest.MonkeyPatch, *moves: bool) -> tuple[list[float], Any, Any]:
    """A site on which the looks of these places in turn have a ratio that steps; the efforts that were asked for."""
    dice, efforts = np.random.default_rng(0), list[float]()
    target = load_target("cpu").with_overrides(speed_up=1.0)

    def both(engines: Any, effort: float) -> list[Measurement]:
        step = np.where(np.arange(300) < 150, 1.0, 1.5 if moves[len(efforts)] else 1.0)
        efforts.append(effort)
        return [latency(10 * dice.normal(1, 0.01, 300)), latency(5 * step * dice.normal(1, 0.01, 300))]

    monkeypatch.setattr(latency_module, "wait_before_again", lambda site, *_: None)
    here = SimpleNamespace(simulated=False)
    return efforts, SimpleNamespace(target=target, runtime=here, reporter=Silent()), SimpleNamespace(latency=both)


@pytest.mark.parametrize("itself", [False, True], ids=["only timed", "asks for nothing"])
@pytest.mark.parametrize(("moves", "looks"), [([False], 1), ([True, False], 2), ([True, True, True], 3)])
def test_what_is_held_against_no_budget_is_timed_again_while_it_moves(
    moves: list[bool], looks: int, itself: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    efforts, site, bench = timed_moving(monkeypatch, *moves)
    job = Job("a", b"w", site.target, "d", "d", 0, False, "c", itself, 0)
    first, second, gate = _timed(site, job, bench, [], None, unpruned=itself)  # pyright: ignore[reportArgumentType]
    assert len(efforts) == looks and efforts == [1.0, 2.0, 4.0][:looks]
    assert bool(moved_reason(first, second)) is moves[-1]
    assert (gate is not None) is itself and (gate is None or gate.verdict is Verdict.PASS)


class Unsteady(CountedSteps):
    """Samples that moved in the first run, whatever the budget's gate said."""

    moved = True

    def measure(self, job: Job, swept: bytes, pruned: Pruned, tuned: bytes) -> Result:
        result = super().measure(job, swept, pruned, tuned)
        unsteady = "the samples drift" if self.moved else ""
        return replace(result, point=replace(result.point, unsteady=unsteady))


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"pruned": False, "epochs": 0}, True),
        ({"pruned": False, "reference": (load_target("cpu"), b"given")}, True),
        ({"reference": (load_target("cpu"), b"given")}, True),
        ({}, False),
    ],
    ids=["a model beside it", "a row", "a pruned row", "held against its own budget"],
)
def test_samples_that_moved_are_not_kept_where_others_are_held_against_them(
    tmp_path: Path, changes: dict[str, Any], again: bool
) -> None:
    target = load_target("cpu").with_overrides(speed_up=2)
    job = replace(Job("a", b"given", target, "d", "d", 0, False, "", True, 2), **changes)
    steps = Unsteady()
    [point] = finish_jobs([job], b"given", tmp_path, "here", steps, Silent())
    assert "not steady: the samples drift" in point_cells(point)[-1] and point.exit_code == 0
    steps.moved = False
    [point] = finish_jobs([job], b"given", tmp_path, "here", steps, Silent())
    assert steps.ran == (["a", "a"] if again else ["a"]) and bool(point.unsteady) is not again
    finish_jobs([job], b"given", tmp_path, "here", steps, Silent())
    assert len(steps.ran) == 1 + again, "what is settled is kept"


def test_a_row_that_moved_is_measured_again_and_not_trained_again(stopped: list[str], tmp_path: Path) -> None:
    class Moving(Trained):
        def measure(self, job: Job, swept: bytes, pruned: Pruned, tuned: bytes) -> Result:
            result = super().measure(job, swept, pruned, tuned)
            return replace(result, point=replace(result.point, unsteady="the samples drift"))

    rows = of_a_frontier(tmp_path, "fp32", "pruned 1")
    finished(rows, tmp_path, Moving())
    ran = list(stopped)
    assert ran.count("trained on") == 2
    finished(rows, tmp_path, Trained())
    assert stopped == ran and left(tmp_path) == NOTHING


def test_that_a_model_beside_a_sweep_moved_is_in_its_table_and_on_the_terminal(
    given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = Point("whole", "", 10.0, 1.0, 0.5, note="unpruned", unsteady="the samples drift")
    missed = replace(moved, name="whole-2", budget="×2", missed="at most 1.9×")
    swept = Sweep((moved,), (missed,), "p50", "mAP50-95")
    assert [row[-1] for row in sweep_table(swept).rows] == [
        "unpruned, not steady: the samples drift", "unpruned, FAIL: at most 1.9×",
    ]  # fmt: skip
    assert [row[-1] for row in sweep_table(swept, reasons=False).rows] == ["not steady", "FAIL"]
    monkeypatch.setattr(run_module, "sweep", lambda *_, **__: swept)
    argv = ["sweep", str(given[0]), "--target", "cpu", "--data", str(given[1]), "--out", str(tmp_path)]
    ended = CliRunner().invoke(app, [*argv, "--speed-up", "2"])
    assert "whole: not steady: the samples drift" in ended.output


def test_an_interval_in_milliseconds_allows_for_where_memory_lies() -> None:
    values = tuple(np.random.default_rng(0).normal(10, 0.1, 300))
    plain = bounds(values, "p50", INTERVAL_END_CONFIDENCE)
    low, high = _ends_of_ms(latency(values), "p50")
    assert plain.low is not None and plain.high is not None
    assert low < plain.low < plain.high < high
    told = latency_bounds(latency(values), "p50", INTERVAL_END_CONFIDENCE)
    assert (low, high) == (told.low, told.high), "as everywhere else"
    assert _ends_of_ms(latency(values[:2]), "p50") == (0.0, math.inf)


@pytest.mark.parametrize("command", [sweep, frontier])
def test_a_budget_out_of_reach_names_a_command_of_what_was_given_and_a_frontier_not_itself(
    given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Any
) -> None:
    """A point is searched for in copies that are gone when somebody reads this."""
    named: list[str] = []

    def search(target: Any, weights: Any, data: Any, *, other_levers: str, **_: Any) -> Any:
        named.append(other_levers)
        raise OutOfReachError("the budget is out of reach")

    monkeypatch.setattr(steps_module, "search", search)
    weights, data = given
    (tmp_path / "mine.yaml").write_text("extends: cpu\n")
    asked: dict[str, Any] = {"out": tmp_path / "out", "imgsz": 96, "device": "local", "epochs": 0, "steps": Searching()}
    if command is sweep:
        asked["budgets"] = [("speed_up", 1.5), ("latency_ms", 0.25)]
        line = f"edgeprune frontier {weights} --target {tmp_path}/mine.yaml --data {data}"
        expected = [
            f"{line} {budget} --imgsz 96 --device local --epochs 0"
            for budget in ("--speed-up 1.5", "--latency-ms 0.25")
        ]
    else:
        asked |= {"kind": "speed_up", "budgets": [1.5], "screener": _screened}
        expected = []
    found = command(tmp_path / "mine.yaml", weights, data, **asked)
    assert found.points if command is sweep else found.rows
    assert named and named == (expected or [""] * len(named))


class Searching(CountedSteps):
    """The real search."""

    def search(self, job: Job) -> Pruned:
        return RealSteps().search(job)


def test_a_point_that_misses_its_budget_is_measured_again(tmp_path: Path) -> None:
    class Slow(CountedSteps):
        def measure(self, job: Job, swept: bytes, pruned: Pruned, tuned: bytes) -> Result:
            result = super().measure(job, swept, pruned, tuned)
            return replace(result, point=replace(result.point, missed="at most 1.9×"))

    job = Job("a", b"given", load_target("cpu").with_overrides(speed_up=2), "d", "d", 0, False, "", True, 2)
    steps = Slow()
    for _ in range(2):
        finish_jobs([job], b"swept", tmp_path, "here", steps, Silent())
    assert steps.ran == ["a", "a"]


def test_one_by_one_a_failed_job_does_not_stop_the_next() -> None:
    target = load_target("cpu")
    jobs = [Job(str(ask), b"", target.with_overrides(speed_up=ask), "", "", 0, False, "", True, 0) for ask in (50, 2)]
    results: list[Result] = []
    run_here(jobs, b"", lambda job, result: results.append(result), CountedSteps())
    assert [result.point.failed is None for result in results] == [False, True]


@pytest.mark.parametrize(
    ("verdict", "undecided", "doubt"),
    [
        (Verdict.PASS, "", "; the search was not sure: 0.98 to 1.02"),
        (Verdict.INCONCLUSIVE, "last", ""),
        (Verdict.FAIL, "", ""),
        (None, "0.98 to 1.02", ""),
    ],
)
def test_the_last_measurement_decides_about_a_point_whose_search_was_not_sure(
    verdict: Verdict | None, undecided: str, doubt: str
) -> None:
    pruned = Pruned(b"pruned", 1.5, 2, "0.98 to 1.02")
    gate = None if verdict is None else Gate("sweep", "speed-up", 2.0, 2.0, "×", verdict, "last")
    assert (_undecided(pruned, gate), _doubt(pruned, gate)) == (undecided, doubt)
    assert _doubt(replace(pruned, inconclusive=""), gate) == ""
