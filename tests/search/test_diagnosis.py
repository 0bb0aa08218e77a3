"""What a budget costs is told before any training: a device bound by launches, and one bound by arithmetic."""

from __future__ import annotations

import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from edgeprune import checkpoint, version
from edgeprune.artifact import Artifact, Role
from edgeprune.dataset import Dataset
from edgeprune.errors import OutOfReachError, StageError
from edgeprune.pruning.pruner import Pruner
from edgeprune.records.facts import Alternative, BaselineFacts, Diagnosis
from edgeprune.report.diagnosis import diagnosis_lines, diagnosis_table
from edgeprune.search.bench import SiteBench
from edgeprune.search.budget import BudgetSearch, PlanFound
from edgeprune.search.diagnosis import Diagnostician, _floors, offered_levers
from edgeprune.search.prober import Prober
from edgeprune.stages import prune
from edgeprune.stages.base import Build, SilentBuild, Weights
from edgeprune.target import load_target
from edgeprune.workspace import Key, Record, Workspace
from tests.records.sample import accuracy

from .devices import StandIn, stand_in_site

pytestmark = pytest.mark.slow

SIDE = 64
FIXED_SHARE = 0.8


class Notes(SilentBuild):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An untrained checkpoint."""
    from ultralytics import YOLO

    path = tmp_path_factory.mktemp("diagnosis") / "new.pt"
    YOLO("yolov8n.yaml").save(path)
    return checkpoint.load(path)


def compiled(source: Any, folder: Path, fixed_share: float, speed_up: float) -> tuple[BudgetSearch, Path, StandIn]:
    """A search on a made-up GPU, of whose 10 ms for this model a share is fixed, and the engine of the baseline."""
    target = load_target("desktop-cuda").with_overrides(imgsz=SIDE, speed_up=speed_up)
    runtime = StandIn(0.0, 1.0, half=0.7)
    search = BudgetSearch(stand_in_site(target, runtime, Notes()), source, folder / "work")
    baseline = search.bench.compile(source.model, folder / "baseline", {}).required_engine
    whole = runtime.true_ms(baseline)
    runtime.fixed_ms, runtime.ms_per_million = 10 * fixed_share, 10 * (1 - fixed_share) / whole
    return search, baseline, runtime


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layer times of the device that is bound by launches, measured once."""
    return tmp_path_factory.mktemp("profiles")


@pytest.fixture(scope="module")
def launch_bound(
    source: Any, profiles: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PlanFound, BudgetSearch, StandIn]:
    search, baseline, runtime = compiled(source, tmp_path_factory.mktemp("launch"), FIXED_SHARE, 1.1)
    return search.search(baseline, profiles), search, runtime


def test_a_device_with_a_fixed_share_of_four_fifths_is_recognised_and_priced(
    launch_bound: tuple[PlanFound, BudgetSearch, StandIn],
) -> None:
    found, _, runtime = launch_bound
    diagnosis = found.diagnosis
    assert diagnosis is not None and diagnosis.dear
    assert diagnosis.fixed_share == pytest.approx(FIXED_SHARE, rel=0.1)
    assert diagnosis.width_share + diagnosis.depth_share + diagnosis.fixed_share == pytest.approx(1)
    needed = 1 - (10 / diagnosis.speed_up - runtime.fixed_ms) / (10 - runtime.fixed_ms)  # of what the device counts
    assert diagnosis.macs_share == pytest.approx(needed, rel=0.1)
    left = sum(one.numel() for one in checkpoint.load(found.files.model).model.parameters())
    assert diagnosis.parameters_share == pytest.approx(1 - left / found.plan.params[0], rel=0.02)


def test_the_warning_names_what_was_measured_instead_and_what_was_not(
    launch_bound: tuple[PlanFound, BudgetSearch, StandIn],
) -> None:
    found, search, _ = launch_bound
    assert found.diagnosis is not None
    by_name = {one.name: one for one in found.diagnosis.alternatives}
    assert by_name["precision fp16"].speed_up == pytest.approx(1 / 0.7, rel=0.02)
    assert by_name["batch 4"].speed_up == pytest.approx(4 * 10 / (8 + 4 * 2), rel=0.02)
    assert by_name["precision int8-fp16"].speed_up is None and "--data" in by_name["precision int8-fp16"].reason
    assert by_name["CUDA graph"].speed_up is None and "captured" in by_name["CUDA graph"].reason
    notes = search.site.reporter
    assert isinstance(notes, Notes)
    [warning] = [line for line in notes.lines if line.startswith("warning")]
    assert "precision fp16 gives ×1.4" in warning and "not measured: precision int8-fp16" in warning
    assert f"{found.diagnosis.parameters_share:.0%} of the parameters" in warning


def test_what_depends_on_no_budget_is_compiled_and_timed_once(
    launch_bound: tuple[PlanFound, BudgetSearch, StandIn], source: Any, profiles: Path, tmp_path: Path
) -> None:
    first, _, _ = launch_bound
    search, baseline, runtime = compiled(source, tmp_path, FIXED_SHARE, 1.12)
    found = search.search(baseline, profiles).diagnosis
    assert found is not None and first.diagnosis is not None and found.speed_up != first.diagnosis.speed_up
    assert (found.width_share, found.depth_share) == (first.diagnosis.width_share, first.diagnosis.depth_share)
    assert found.alternatives == first.diagnosis.alternatives
    assert not [name for names in runtime.timed for name in names if "floor" in name or "lever-2" in name]
    told = Diagnostician(search.site, source, search.pruner, None, baseline, tmp_path / "d", profiles)._file()
    other = search.site.target.changed({"prune.min_width": 64})
    wider = BudgetSearch(replace(search.site, target=other), source, tmp_path / "wider")
    assert told is not None and told.is_file()
    assert told != Diagnostician(wider.site, source, wider.pruner, None, baseline, tmp_path / "d", profiles)._file()


def test_a_diagnosis_is_of_one_architecture_and_of_these_packages(
    source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of the same shapes with another activation takes other times."""

    def named(one: Any) -> Path | None:
        search, baseline, _ = compiled(one, tmp_path / str(len(files)), FIXED_SHARE, 1.1)
        return Diagnostician(search.site, one, search.pruner, None, baseline, tmp_path / "d", tmp_path)._file()

    files: list[Path | None] = []
    files.append(named(source))
    other = deepcopy(source)
    for module in other.model.modules():
        if hasattr(module, "act"):
            module.act = torch.nn.ReLU()
    files.append(named(other))
    monkeypatch.setattr(version, "installed", lambda package: "0.0.1")
    files.append(named(source))
    assert len(set(files)) == 3


@pytest.mark.parametrize("disturbed", [True, False])
def test_what_other_work_disturbed_is_told_and_not_kept(source: Any, tmp_path: Path, disturbed: bool) -> None:
    """The shares, and the levers beside them."""
    search, baseline, runtime = compiled(source, tmp_path, FIXED_SHARE, 1.1)

    def latency(models: Any, settings: Any, **_: Any) -> Any:
        """The last model slows down in the middle of it."""
        *steady, last = StandIn.latency(runtime, models, settings)
        half = len(last.values) // 2
        slower = (*last.values[:half], *(1.5 * ms for ms in last.values[half:]))
        return [*steady, replace(last, values=slower) if disturbed else last]

    runtime.latency = latency  # type: ignore[method-assign]
    told = Diagnostician(search.site, source, search.pruner, None, baseline, tmp_path / "d", tmp_path / "cache")
    profile: Any = SimpleNamespace(copies=[SimpleNamespace(layer_ms={"a": 1.0})], nodes=1)
    plan: Any = SimpleNamespace(macs=(4, 1), params=(4, 1))
    assert told.diagnose(profile, plan, 1.1).dear
    file = told._file()
    assert file is not None and file.is_file() is not disturbed
    assert bool(told.disturbed) is disturbed


def test_a_device_bound_by_arithmetic_is_not_warned_about(source: Any, tmp_path: Path) -> None:
    search, baseline, runtime = compiled(source, tmp_path, 0.05, 1.5)
    diagnosis = search.search(baseline, None).diagnosis
    assert diagnosis is not None and not diagnosis.dear and diagnosis.alternatives == ()
    assert diagnosis.fixed_share < 0.2
    assert not [line for line in diagnosis_lines(diagnosis, search.site.target.budget) if "warning" in line]
    assert all("lever" not in name for names in runtime.timed for name in names)


def test_a_budget_out_of_reach_is_diagnosed_too(source: Any, profiles: Path, tmp_path: Path) -> None:
    search, baseline, _ = compiled(source, tmp_path, FIXED_SHARE, 2.0)
    with pytest.raises(OutOfReachError, match="out of reach") as refused:
        search.search(baseline, profiles)
    assert isinstance(search.site.reporter, Notes)
    assert str(refused.value).endswith(f": {search.other_levers}")
    assert any("floor of the latency is held by model." in line for line in search.site.reporter.lines)
    assert any("is fixed" in line for line in search.site.reporter.lines)


def test_what_the_unpruned_model_takes_is_not_timed_again_where_it_is_known_to_miss(
    source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, baseline, _ = compiled(source, tmp_path, FIXED_SHARE, 1.5)

    def timed(*_: Any) -> Any:
        raise StageError("timed")

    def on_to_the_search() -> None:
        raise StageError("on to the search")

    monkeypatch.setattr(Prober, "start_used", timed)
    monkeypatch.setattr(search.pruner, "refuse_fixed", on_to_the_search)
    with pytest.raises(StageError, match="on to the search"):
        search.search(baseline, None, start_used=1.5)
    for near in (None, 1.05):
        with pytest.raises(StageError, match="timed"):
            search.search(baseline, None, start_used=near)


@pytest.mark.parametrize("name", ["yolo11n", "yolo26n"])
def test_the_floors_are_the_least_widths_with_and_without_depth(name: str) -> None:
    from ultralytics.nn.tasks import DetectionModel

    pruner = Pruner(DetectionModel(f"{name}.yaml", nc=3, verbose=False), 64)
    sizes = [sum(tensor.numel() for tensor in floor.parameters()) for floor in _floors(pruner)]
    assert len(sizes) == 2 and sizes[1] < sizes[0] < pruner.params() / 5


@pytest.mark.parametrize(("refused", "said"), [("floor-0", "could not be measured"), ("floor-1", "counts as fixed")])
def test_a_floor_that_cannot_be_exported_does_not_end_a_search(
    source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str, said: str
) -> None:
    """Whatever refuses it."""
    search, baseline, _ = compiled(source, tmp_path, FIXED_SHARE, 1.1)

    def compile_(bench: Any, model: Any, folder: Path, metadata: Any) -> Any:
        if folder.name == refused:
            raise StageError("could not be exported")
        return SimpleNamespace(required_engine=baseline)

    monkeypatch.setattr(SiteBench, "compile", compile_)
    monkeypatch.setattr(Diagnostician, "alternatives", lambda self, known: ())
    profile: Any = SimpleNamespace(copies=[SimpleNamespace(layer_ms={"a": 1.0})], nodes=1)
    probed: Any = SimpleNamespace(
        plan=SimpleNamespace(macs=(2, 1), params=(2, 1)), latency=SimpleNamespace(speed_up=1.1)
    )
    found = search._diagnose(baseline, profile, probed.plan, probed.latency.speed_up)
    assert (found is None) is (refused == "floor-0")
    assert isinstance(search.site.reporter, Notes)
    assert any(said in line for line in search.site.reporter.lines)


@pytest.mark.parametrize(
    ("fixed_share", "speed_up", "dear"),
    [(0.4, 2.2, True), (0.3, 3.0, True), (0.8, 1.1, True), (0.05, 1.5, False), (0.15, 2.2, False), (0.1, 5.0, False)],
)
def test_what_is_fixed_makes_a_budget_dear_whatever_the_speed_up(
    fixed_share: float, speed_up: float, dear: bool
) -> None:
    """The rest of the latency goes with the MACs; at ×3 a fixed share above a third is out of reach."""
    macs_left = (1 / speed_up - fixed_share) / (1 - fixed_share)
    found = Diagnosis(1 - fixed_share, 0.0, fixed_share, None, speed_up, 1 - macs_left, 0.9)
    assert found.dear is dear


@pytest.mark.parametrize(
    ("macs", "speed_up", "dear"), [(2.1, 1.67, False), (2.68, 2.23, False), (4.06, 3.03, False), (3.5, 1.35, True)]
)
def test_measured_rows_of_a_cpu_are_not_dear_and_that_of_a_gpu_is(macs: float, speed_up: float, dear: bool) -> None:
    assert Diagnosis(0.5, 0.0, 0.5, None, speed_up, 1 - 1 / macs, 0.9).dear is dear


def test_a_build_is_warned_behind_prune_whether_the_stage_ran_or_not(
    source: Any, profiles: Path, tmp_path: Path
) -> None:
    from edgeprune.data.digits import write_digits

    data = Dataset.load(write_digits(tmp_path / "digits", train=4, val=2, test=2, imgsz=SIDE), task="detect")
    search, baseline, _ = compiled(source, tmp_path, FIXED_SHARE, 1.1)
    key = Key("baseline", {})
    files: dict[Role, Artifact] = {"model": Artifact(source.path, "a"), "engine": Artifact(baseline, "b")}
    facts = BaselineFacts(accuracy(0.5), None, 1, "s", 1, 1)
    notes = Notes()
    state = Build(search.site, Weights(source.path, "", "detect"), data, False, Workspace(tmp_path / "run"), notes)
    state.records["baseline"] = Record(key, tmp_path, files, facts, 0.0, "")
    (tmp_path / "prune").mkdir()
    shutil.copytree(profiles, tmp_path / "run" / "profiles")
    output = prune.STAGE.run(state, tmp_path / "prune", Key("prune", {}))
    made: dict[Role, Artifact] = {role: Artifact(path, "") for role, path in output.artifacts.items()}
    record = Record(Key("prune", {}), tmp_path / "prune", made, output.facts, 0.0, "")
    rows = prune.STAGE.judge(state, record).gates
    [row] = [gate for gate in rows if gate.metric == "fixed part of the latency"]
    assert row.value == pytest.approx(100 * FIXED_SHARE, rel=0.1)
    assert "before any training" in row.reason and "precision int8-fp16 gives" not in row.reason

    # the same plan, found without a diagnosis, gets one when the profile asks for it by now
    undiagnosed = replace(record, facts=replace(record.facts, diagnosis=None))
    silent = replace(search.site, target=search.site.target.changed({"prune.diagnose": False}))
    assert prune.STAGE.complete(state, record) is None
    assert prune.STAGE.complete(replace(state, site=silent), undiagnosed) is None
    state.workspace.root.mkdir(exist_ok=True)
    completed = prune.STAGE.complete(state, undiagnosed)
    assert completed is not None and record.facts.diagnosis is not None and completed.diagnosis is not None
    assert completed == replace(record.facts, diagnosis=completed.diagnosis)
    assert completed.diagnosis.fixed_share == pytest.approx(record.facts.diagnosis.fixed_share)
    assert not list((tmp_path / "run").glob(".partial-*"))


@pytest.mark.parametrize(
    ("target", "keys", "names"),
    [
        ("cpu", {}, ["precision int8", "batch 4"]),
        ("cpu", {"precision": "int8"}, ["batch 4"]),
        ("cpu", {"budget.scope": "end_to_end"}, ["precision int8"]),
        ("desktop-cuda", {"runtime": "onnxruntime"}, ["precision int8", "CUDA graph", "batch 4"]),
        ("desktop-cuda", {}, ["precision fp16", "precision int8-fp16", "CUDA graph", "batch 4"]),
        ("jetson-orin-nano", {"measure.cuda_graph": False}, ["precision int8-fp16", "CUDA graph", "batch 4"]),
        ("jetson-orin-nano", {"measure.cuda_graph": True, "batch": 2}, ["precision int8-fp16", "batch 8"]),
    ],
)
def test_levers_are_those_that_the_runtime_has(target: str, keys: dict[str, Any], names: list[str]) -> None:
    assert [name for name, _, _ in offered_levers(load_target(target).changed(keys))] == names


def test_the_table_says_what_was_not_measured() -> None:
    levers = (
        Alternative("precision fp16", {"precision": "fp16"}, 1.8),
        Alternative("batch 4", {"batch": 4}, 1.5),
        Alternative("CUDA graph", {}, None, "not for this runtime"),
    )
    found = Diagnosis(0.15, 0.05, 0.8, 0.1, 1.3, 0.7, 0.86, levers)
    rows = {row[0]: row[1] for row in diagnosis_table(found).rows}
    assert rows["parameters given up for ×1.30"] == "86%"
    assert rows["instead, on the unpruned model: batch 4"] == "×1.50 a frame"
    assert rows["instead, on the unpruned model: CUDA graph"] == "not measured: not for this runtime"
    assert not diagnosis_table(None).rows
