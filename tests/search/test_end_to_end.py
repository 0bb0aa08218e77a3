"""A real search by ONNX Runtime on this machine: export, profile, probes, and what is left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from edgeprune import checkpoint
from edgeprune.checkpoint import Checkpoint
from edgeprune.cli import app
from edgeprune.dataset import Dataset
from edgeprune.errors import OutOfReachError, StageError, TargetError
from edgeprune.measure.variants import only_timed
from edgeprune.progress import Silent
from edgeprune.pruning.pruner import Pruner
from edgeprune.runtimes.site import Site
from edgeprune.samples.conditions import DeviceState
from edgeprune.samples.gates import Verdict
from edgeprune.search import run
from edgeprune.search.diagnosis import Diagnostician
from edgeprune.search.run import Reference, search
from edgeprune.target import Target, load_target
from tests.search.devices import StandIn, stand_in_site
from tests.situations import datasets, models

PROFILE = """
extends: cpu
description: small and quick, for tests
imgsz: 96
budget: {speed_up: 1.3, statistic: p50}
measure: {warmup_s: 0.05, rounds: 20, per_round: 4, retries: 0}
prune: {max_probes: 4}
"""


class Notes(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small profile and an untrained checkpoint."""
    from ultralytics import YOLO

    folder = tmp_path_factory.mktemp("search")
    (folder / "small.yaml").write_text(PROFILE)
    YOLO("yolov8n.yaml").save(folder / "new.pt")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of six layers, for what needs no real one."""
    return models.saved(models.model(), tmp_path_factory.mktemp("tiny") / "w.pt", train_args={"imgsz": 96})


@pytest.fixture(scope="module")
def small(place: Path) -> Target:
    return load_target(place / "small.yaml")


@pytest.fixture(scope="module")
def found(place: Path, small: Target) -> Any:
    from edgeprune.search.run import search

    notes = Notes()
    result = search(small, place / "new.pt", output=place / "pruned.pt", cache=place / "profiles", progress=notes)
    return result, notes


@pytest.mark.slow
def test_a_search_leaves_a_stock_checkpoint_with_its_plan(place: Path, found: Any) -> None:
    from edgeprune.pruning.plan import Plan

    result, notes = found
    assert result.speed_up > 1
    assert 1 <= len(result.probes) <= 4
    assert sum(row.kept for row in result.probes) == 1
    assert result.importance == "lamp", "without data the importance needs none"
    saved = checkpoint.load(place / "pruned.pt")
    plan = Plan.load(place / "pruned.plan.json")
    assert checkpoint.shape_signature(saved.model) == plan.result_shapes
    shown = [line for line in notes.lines if "predicted" in line and "again" not in line]
    assert len(shown) == len(result.probes), "every probe is shown"
    assert result.gate.verdict in (Verdict.PASS, Verdict.INCONCLUSIVE)
    kept = next(row for row in result.probes if row.kept)
    holds = kept.budget_share_high is not None and kept.budget_share_high <= 1
    assert result.gate.verdict is Verdict.INCONCLUSIVE or holds


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., StandIn]:
    """Have the searches that follow measure on a made-up device."""

    def made(noise: float) -> StandIn:
        runtime = StandIn(0.5, 0.1, noise=noise)
        monkeypatch.setattr(
            run, "open_site", lambda target, reporter, **_: nullcontext(stand_in_site(target, runtime, reporter))
        )
        return runtime

    return made


def test_the_profile_is_kept_and_read_again(
    weights: Path, small: Target, tmp_path: Path, stand_in: Callable[..., StandIn]
) -> None:
    from edgeprune.search.run import profile

    runtime = stand_in(noise=0.003)
    first = profile(small, weights, cache=tmp_path)
    [file] = tmp_path.glob("profile-*.json")
    before, timed = file.read_bytes(), len(runtime.timed)
    data = json.loads(before)
    assert data["copies"][0]["whole_ms"] == first.copies[0].total_ms > 0
    assert data["conditions"]["device"] == runtime.identity()
    again = profile(small, weights, cache=tmp_path)
    assert (file.read_bytes(), len(runtime.timed)) == (before, timed)
    assert again.copies[0].total_ms == data["copies"][0]["whole_ms"]
    assert len(again.fit.errors) == len(data["copies"]) - 1


def test_a_search_that_other_work_disturbs_ends_with_5_and_leaves_its_best_plan(
    weights: Path, place: Path, tmp_path: Path, stand_in: Callable[..., StandIn]
) -> None:
    from edgeprune.pruning.plan import Plan

    stand_in(noise=0.5)
    argv = ["search", str(weights), "--target", str(place / "small.yaml"), "-o", str(tmp_path / "faster.pt")]
    ended = CliRunner().invoke(app, [*argv, "--cache", str(tmp_path / "profiles")])
    assert ended.exit_code == 5, (ended.output, ended.exception)
    assert "INCONCLUSIVE: " in ended.output
    assert "the search is not sure of the budget; its best plan goes on" in " ".join(ended.output.split())
    plan = Plan.load(tmp_path / "faster.plan.json")
    assert plan.macs_speed_up > 1
    assert checkpoint.shape_signature(checkpoint.load(tmp_path / "faster.pt").model) == plan.result_shapes


@pytest.mark.parametrize(
    ("budget", "said"),
    [(["--speed-up", "1.3"], "throttled"), (["--latency-ms", "6"], "throttled"), (["--latency-ms", "90"], "may be")],
    ids=["ratio", "ms", "met without pruning"],
)
def test_a_search_on_a_device_that_throttled_is_not_sure(
    weights: Path,
    place: Path,
    tmp_path: Path,
    stand_in: Callable[..., StandIn],
    monkeypatch: pytest.MonkeyPatch,
    budget: list[str],
    said: str,
) -> None:
    timed = StandIn.latency

    def throttled(*arguments: Any, **options: Any) -> Any:
        found = timed(*arguments, **options)
        hot = DeviceState(throttled=True)
        return [replace(one, conditions=replace(one.conditions, device=hot)) for one in found]

    runtime = stand_in(noise=0.003)
    argv = ["search", str(weights), "--target", str(place / "small.yaml"), "-o", str(tmp_path / "faster.pt"), *budget]
    argv += ["--cache", str(tmp_path / "profiles")]
    steady = CliRunner().invoke(app, argv)
    assert steady.exit_code == 0 and "PASS: " in steady.output, (steady.output, runtime.timed)
    monkeypatch.setattr(StandIn, "latency", throttled)
    ended = CliRunner().invoke(app, argv)
    assert ended.exit_code == 5, (ended.output, ended.exception)
    assert "INCONCLUSIVE: " in ended.output and "the device throttled" in ended.output and said in ended.output


@pytest.mark.slow
def test_an_unreachable_budget_says_what_holds_it_and_writes_nothing(place: Path, found: Any, small: Target) -> None:
    from edgeprune.search.run import search

    notes = Notes()
    given = {"output": place / "never.pt", "cache": place / "profiles", "progress": notes}
    with pytest.raises(TargetError, match=r"floor measured here is ×\d") as refused:
        search(small, place / "new.pt", speed_up=500, **given)
    assert [line for line in notes.lines if "held by model." in line]
    assert "\n" not in str(refused.value)
    assert not (place / "never.pt").exists()
    assert not (place / "never.plan.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": "pruned.onnx"}, r"\.pt file"),
        ({"imgsz": 95}, "imgsz"),
        ({"speed_up": 2.0, "latency_ms": 3.0}, "several budgets: latency_ms and speed_up; give one of them"),
    ],
    ids=["not a checkpoint", "size off the stride", "two budgets"],
)
def test_wrong_arguments_are_refused(place: Path, small: Target, changes: dict[str, Any], message: str) -> None:
    from edgeprune.search.run import search

    output = place / changes.pop("output", "wrong.pt")
    with pytest.raises(TargetError, match=message):
        search(small, place / "new.pt", output=output, **changes)
    assert not output.exists()


def test_a_model_slower_than_what_a_frontier_is_held_against_is_pruned_into_the_window(
    weights: Path, small: Target, tmp_path: Path, stand_in: Callable[..., StandIn]
) -> None:
    """2.4 ms for 1 ms beside a reference of 0.7: the end is milder than the floor, and no faster than the reference."""
    stand_in(noise=0.003)
    reference = Reference(weights, small.with_overrides(imgsz=32))
    asked: dict[str, Any] = {"cache": tmp_path / "profiles", "reference": reference, "diagnose": False}
    found = search(small, weights, output=tmp_path / "pruned.pt", latency_ms=1.0, **asked)
    [kept] = [probe for probe in found.probes if probe.kept]
    assert found.gate.verdict is Verdict.PASS and found.speed_up < 0.8
    assert 0.92 <= kept.budget_share <= 1
    with pytest.raises(OutOfReachError) as refused:
        search(small, weights, output=tmp_path / "pruned.pt", latency_ms=0.3, other_levers="", **asked)
    assert "; ask for --latency-ms 0.7" in str(refused.value) and "not faster" not in str(refused.value)
    assert "edgeprune" not in str(refused.value), "no command was handed on"


@pytest.mark.parametrize("sparsified", [False, True])
def test_a_search_names_a_frontier_that_takes_its_profile_and_seed(
    weights: Path,
    small: Target,
    tmp_path: Path,
    stand_in: Callable[..., StandIn],
    monkeypatch: pytest.MonkeyPatch,
    sparsified: bool,
) -> None:
    """A profile with sparsify is refused there: nothing is trained before it is pruned."""
    stand_in(noise=0.003)
    named: list[str] = []

    def begun(*_: Any, other_levers: str) -> Any:
        named.append(other_levers)
        raise OutOfReachError("the budget is out of reach")

    monkeypatch.setattr(run, "BudgetSearch", begun)
    target = small.changed({"sparsify.epochs": 3}) if sparsified else small
    with pytest.raises(OutOfReachError):
        search(target, weights, output=tmp_path / "pruned.pt", latency_ms=0.3, seed=7)
    [line] = named
    assert line.startswith(f"edgeprune frontier {weights} ") is not sparsified
    assert line.endswith("--latency-ms 0.3 --seed 7") if not sparsified else line == ""


@pytest.mark.slow
def test_a_budget_that_the_unpruned_model_meets_costs_no_probe(place: Path, small: Target) -> None:
    from edgeprune.pruning.plan import Plan
    from edgeprune.search.run import search

    result = search(small, place / "new.pt", output=place / "whole.pt", latency_ms=100_000, cache=place / "profiles")
    assert result.probes == () and result.profile is None
    assert result.gate.verdict is Verdict.PASS and "met without pruning" in result.gate.reason
    plan = Plan.load(place / "whole.plan.json")
    assert plan.macs[0] == plan.macs[1]


@pytest.fixture
def off_the_grid(tmp_path: Path) -> Path:
    """A checkpoint that was pruned before, to widths that are no multiples of the profile's alignment."""
    from edgeprune.pruning.pruner import Pruner

    pruner = Pruner(models.model(), 96, align=1, min_width=1)
    narrow = pruner.apply(pruner.plan(ratio=0.2, scope="local"), check=False)
    return models.saved(narrow, tmp_path / "odd.pt", train_args={"imgsz": 96})


def test_a_model_that_is_fast_enough_is_compiled_as_it_was_given(
    off_the_grid: Path, tmp_path: Path, small: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeprune.search import budget

    source, compiled = checkpoint.load(off_the_grid), []

    class Bench:
        def __init__(self, *_: object) -> None: ...

        def compile(self, model: Any, *_: object) -> None:
            compiled.append(model)

    monkeypatch.setattr(budget, "timing_bench", Bench)
    search = budget.BudgetSearch(stand_in_site(small, StandIn(0.5, 0.1)), source, tmp_path)
    assert any(one.fixed is None and one.width % one.step for one in search.pruner.dimensions)
    _, plan = search.keep_all()
    given = source.model.state_dict()
    assert plan.params[0] == plan.params[1]
    assert all(values.equal(given[name]) for name, values in compiled[0].state_dict().items())

    monkeypatch.setattr(search, "prune_by_macs", lambda *_: (None, search.pruner.plan(macs_speed_up=1.3)))
    with pytest.raises(StageError, match="to keep every channel has"):
        search.keep_all()


@pytest.mark.parametrize(
    ("fast", "near", "kept", "verdict", "words"),
    [
        # by number of earlier measurements: the share of the budget, and the gate's verdict
        ([(0.85, "PASS")], [(0.96, "INCONCLUSIVE")] * 2, "fast", Verdict.INCONCLUSIVE, "may hold it too, at 96%"),
        ([(0.85, "INCONCLUSIVE"), (0.85, "PASS")], [(0.96, "INCONCLUSIVE"), (1.03, "FAIL")], "fast", Verdict.PASS, ""),
        ([(0.85, "PASS")], [(0.96, "INCONCLUSIVE"), (1.03, "FAIL")], "fast", Verdict.PASS, ""),
        ([(0.85, "PASS")], [(0.96, "INCONCLUSIVE"), (0.96, "PASS")], "near", Verdict.PASS, ""),
        ([(0.85, "INCONCLUSIVE"), (1.02, "FAIL")], [(0.96, "INCONCLUSIVE"), (1.03, "FAIL")], "fast", Verdict.FAIL, ""),
    ],
)
def test_a_search_whose_best_plan_turns_out_undecided_ends_with_one_whose_samples_decide(
    weights: Path,
    tmp_path: Path,
    small: Target,
    monkeypatch: pytest.MonkeyPatch,
    fast: list[tuple[float, str]],
    near: list[tuple[float, str]],
    kept: str,
    verdict: Verdict,
    words: str,
) -> None:
    """The first of two plans uses too little of the budget, the second fits it and no gate makes out whether it holds;
    without the first the search would leave a plan that may miss."""
    from edgeprune.measure.compiling import CompiledFiles
    from edgeprune.records.facts import ProbeLatency
    from edgeprune.samples.gates import Gate
    from edgeprune.search import budget
    from edgeprune.search.prober import Start
    from edgeprune.search.probing import Candidate, Reading

    source = checkpoint.load(weights)
    pruner = budget.BudgetSearch(stand_in_site(small, StandIn(0.5, 0.1)), source, tmp_path / "plans").pruner
    readings = {"fast": fast, "near": near}
    used = {"fast": 0.85, "near": 0.96}
    names = iter(used)

    class Planner:
        profile = SimpleNamespace(
            fit=SimpleNamespace(
                timed=(), model=SimpleNamespace(sizes=SimpleNamespace(step=1)), median_error=0.0, errors=()
            )
        )

        def solve(self, share: float) -> Candidate:
            name = next(names)
            return Candidate(name, used[name] / 1.3, 1 / used[name], False)

        def plan(self, candidate: Candidate) -> tuple[Any, str]:
            return pruner.plan(macs_speed_up=1.3 / used[str(candidate.key)]), str(candidate.key)

    class Bench:
        def __init__(self, *_: object) -> None: ...

        def compile(self, model: str, folder: Path, _: object) -> CompiledFiles:
            folder.mkdir(parents=True)
            (folder / "model.pt").write_text(model)
            return CompiledFiles(folder / "model.pt", folder / "o", folder / "o", folder / "model.pt")

    class Prober:
        def __init__(self, *_: object) -> None: ...

        def start_used(self, attempt: int = 0) -> Start:
            return Start(1.3, 1.3)

        def measure(self, engine: Path, attempt: int) -> tuple[Reading, ProbeLatency, Gate]:
            name = engine.read_text()
            share, said = readings[name][attempt]
            reading = Reading(share, share - 0.005, share + 0.005, 1.2, 1.5)
            latency = ProbeLatency(13.0, 10 * share, "p50", 1.3 / share, None)
            return reading, latency, Gate("search", "speed-up", 1.3 / share, 1.3, "×", Verdict[said], "measured")

    monkeypatch.setattr(budget, "timing_bench", Bench)
    monkeypatch.setattr(budget, "Prober", Prober)
    told = small.changed({"prune.diagnose": False})
    search = budget.BudgetSearch(stand_in_site(told, StandIn(0.5, 0.1)), source, tmp_path / "work")
    monkeypatch.setattr(search, "_diagnose", lambda *_: pytest.fail("the profile asks for none"))
    monkeypatch.setattr(search, "planner", lambda cache: Planner())
    monkeypatch.setattr(search, "_gate", lambda gate: gate)  # the device is made up
    found = search.search(tmp_path, None, start_used=1.3)
    assert found.files.model.read_text() == kept
    assert [probe.kept for probe in found.probes] == [kept == "fast", kept == "near"]
    assert found.gate.verdict is verdict and words in found.gate.reason
    [left] = (tmp_path / "work").iterdir()
    assert (left / "model.pt").read_text() == kept


@pytest.fixture
def in_int8(tmp_path: Path, weights: Path, small: Target) -> tuple[Site, Checkpoint, Dataset]:
    dataset = Dataset.load(datasets.dataset(tmp_path / "data"), task="detect")
    site = stand_in_site(small.changed({"precision": "int8"}), StandIn(0.5, 0.1))
    return site, checkpoint.load(weights), dataset


def test_engines_that_are_only_timed_are_calibrated_on_a_few_images(
    in_int8: tuple[Site, Checkpoint, Dataset], tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Probes, copies of the layer profile and floors of the diagnosis were each calibrated on 256, by entropy."""
    from edgeprune.search import bench, budget

    site, source, dataset = in_int8
    compiled: list[int] = []

    def compile_(self: bench.SiteBench, *_: Any) -> None:
        compiled.append(self.site.target.calibration.images)
        raise StageError("told")

    monkeypatch.setattr(bench.SiteBench, "compile", compile_)
    search = budget.BudgetSearch(site, source, tmp_path / "work", dataset, "l2")
    data = datasets.dataset(tmp_path / "data")
    monkeypatch.setattr(run, "open_site", lambda *_, **__: nullcontext(site))
    for timed in (
        search.keep_all,
        lambda: search.prune_by_macs(1.2),
        lambda: search.profile(None),
        lambda: Diagnostician(site, source, search.pruner, dataset, tmp_path, tmp_path / "d")._shares(),
        lambda: run.profile(site.target, weights, data, cache=None),
    ):
        with pytest.raises(StageError, match="told"):
            timed()
    assert compiled == [16] * 5
    with pytest.raises(StageError, match="told"):
        search.bench.compile_source(tmp_path / "baseline")
    assert compiled[-1] == site.target.calibration.images == 256, "what the build compares with is as it was"


def test_a_build_a_search_and_a_sweep_share_layer_profiles(
    in_int8: tuple[Site, Checkpoint, Dataset], tmp_path: Path
) -> None:
    from edgeprune.search import budget

    site, source, dataset = in_int8
    swept = replace(site, target=only_timed(site.target))  # what a sweep hands to its searches
    conditions = [
        dict(budget.BudgetSearch(one, source, tmp_path, dataset, "l2").timing.conditions) for one in (site, swept)
    ]
    assert conditions[0] == conditions[1]


def test_channels_are_ranked_only_where_one_may_go(
    in_int8: tuple[Site, Checkpoint, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeprune.search import budget

    site, source, dataset = in_int8
    ranked: list[str] = []
    monkeypatch.setattr(Pruner, "scores", lambda self, name, **_: ranked.append(name) or self.even_scores)
    monkeypatch.setattr(budget, "calibration_batches", lambda *_, **__: ranked.append("images") or [])
    monkeypatch.setattr(budget, "timing_bench", lambda *_: SimpleNamespace(compile=lambda *_: None))
    search = budget.BudgetSearch(site, source, tmp_path, dataset)
    search.keep_all()
    assert search.importance == "taylor" and not ranked
    search.prune_by_macs(1.2)
    search.prune_by_macs(1.3)
    assert ranked == ["images", "taylor"]
    with pytest.raises(TargetError, match="needs labelled batches"):  # before anything is compiled
        budget.BudgetSearch(site, source, tmp_path, None, "fisher")
