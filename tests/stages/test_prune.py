"""What a search was not sure of is told as such, kept with its plan, and searched again where nothing holds it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeprune import checkpoint
from edgeprune.artifact import Artifact
from edgeprune.dataset import Dataset
from edgeprune.errors import DeviceError, StageError, first_line
from edgeprune.measure import latency
from edgeprune.measure.compiling import CompiledFiles
from edgeprune.measure.latency import JudgedLatency
from edgeprune.pipeline import run_stages
from edgeprune.records.facts import PruneFacts
from edgeprune.records.show import stage_history
from edgeprune.samples.gates import Gate, Verdict
from edgeprune.search import budget as budget_module
from edgeprune.serial import from_json, to_json
from edgeprune.stages import prune
from edgeprune.stages.base import Build, Weights
from edgeprune.target import load_target
from edgeprune.workspace import Key, Record, open_workspace
from tests.records.sample import build_record
from tests.search.devices import StandIn, stand_in_site
from tests.stages.conftest import Notes
from tests.test_dataset import written

LIMIT_MS = 8.0
TARGET = load_target("cpu").with_overrides(latency_ms=LIMIT_MS)


def gate(stage: str, verdict: Verdict, reason: str = "between 7 and 9 ms") -> Gate:
    return Gate(stage, f"latency {TARGET.budget.statistic}", 7.9, LIMIT_MS, "ms", verdict, reason)


class Searches:
    """Stands in for the search and for the gate behind it; counts the searches.

    Attributes:
        said: what a search says of the budget.
        judged: what the gate behind it says.
        diagnosed: how often what a plan costs was measured behind a search that was finished.
        fault: what such a measurement ends with.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.unpruned = 0, False
        self.diagnosed, self.fault = 0, StageError("a profile of layers could not be compiled")
        self.said = self.judged = Verdict.INCONCLUSIVE
        monkeypatch.setattr(checkpoint, "load", lambda *_, **__: None)
        monkeypatch.setattr(budget_module, "BudgetSearch", lambda *given, **_: self._search(given[2]))
        monkeypatch.setattr(latency, "judge_latency", self._judge)

    def _search(self, folder: Path) -> Any:
        plan, probes = build_record().plan, build_record().stages.prune.facts.probes

        def found(*_: Any) -> Any:
            self.count += 1
            (folder / "model.pt").write_text(f"plan {self.count}")
            files = CompiledFiles(folder / "model.pt", folder / "model.pt", folder / "model.pt", folder / "model.pt")
            words = "it may be met without pruning: between 7 and 9 ms" if self.unpruned else "between 7 and 9 ms"
            said = gate("search", self.said, f"{words}; search again on a quiet machine")
            given = () if self.unpruned else probes
            return SimpleNamespace(
                files=files, plan=plan, probes=given, unpruned=self.unpruned, diagnosis=None, gate=said
            )

        return SimpleNamespace(macs_limit=4.0, search=found, diagnose=self._diagnose)

    def _diagnose(self, *_: Any) -> Any:
        self.diagnosed += 1
        if self.fault is not None:
            raise self.fault
        return build_record().stages.prune.facts.diagnosis

    def _judge(self, *_: Any, **__: Any) -> JudgedLatency:
        before, after = (row.measurement for row in build_record().measurements)
        return JudgedLatency(gate("prune", self.judged), before, after)


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> Searches:
    return Searches(monkeypatch)


def state(workspace: Any, notes: Notes, *, simulated: bool = False) -> Build:
    root = workspace.root
    runtime = StandIn(2.0, 1.0)
    runtime.simulated = simulated
    site = stand_in_site(TARGET, runtime, notes)
    data = Dataset.load(written(root.with_name("data")))
    build = Build(site, Weights(root / "given.pt", "", "detect"), data, False, workspace, notes)
    baseline = SimpleNamespace(
        facts=build_record().stages.baseline.facts,
        path=lambda role: root / "given.pt",
        artifacts={"model": SimpleNamespace(sha256="given")},
        key=SimpleNamespace(stage="baseline"),
        held=None,
    )
    build.records["baseline"] = baseline  # pyright: ignore[reportArgumentType]
    return build


def built(root: Path, **options: Any) -> list[str]:
    """One run of the stage in a run directory; what was told."""
    notes = Notes()
    with open_workspace(root) as workspace:
        run_stages(state(workspace, notes, **options), ["edgeprune", "build"], [prune.STAGE])
    return notes.lines


def test_an_unsure_search_is_made_again_where_the_gate_behind_it_does_not_pass(
    searches: Searches, tmp_path: Path
) -> None:
    told = built(tmp_path / "run")
    assert any(f"if this build ends without a PASS of {TARGET.budget}" in line for line in told)
    searches.said = Verdict.PASS
    told = built(tmp_path / "run")
    assert searches.count == 2
    [again] = [line for line in told if line.startswith("stage prune is made again")]
    assert again.endswith("(between 7 and 9 ms), and no measurement has shown the budget held")
    assert "made again as prune-" in stage_history(tmp_path / "run", "prune")
    [model] = tmp_path.glob("run/prune-*/model.pt")
    assert model.read_text() == "plan 2"
    built(tmp_path / "run")
    assert searches.count == 2, "this one was sure: its plan stays, whatever the gate says"


@pytest.mark.parametrize(
    ("fault", "times"),
    [
        (StageError("a layer profile could not be compiled\nand more"), 1),
        (MemoryError(), 1),
        (DeviceError("board: the connection was lost"), 3),  # which may pass
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_diagnosis_that_cannot_be_had_ends_no_build_and_is_not_tried_for_ever(
    searches: Searches, tmp_path: Path, fault: Exception, times: int
) -> None:
    searches.said = searches.judged = Verdict.PASS
    searches.fault = fault
    built(tmp_path / "run")
    told = [line for _ in range(3) for line in built(tmp_path / "run") if "could not be measured" in line]
    assert searches.count == 1 and searches.diagnosed == times == len(told)
    assert all(line.endswith("; it is not tried again for this plan") is (times == 1) for line in told)
    [file] = tmp_path.glob("run/prune-*/record.json")
    kept = json.loads(file.read_text())["facts"]
    assert kept["undiagnosed"] == ("" if times > 1 else first_line(fault)) and kept["diagnosis"] is None
    assert not (tmp_path / "run" / "failed").exists(), "the stage did not fail"


def test_the_layer_times_of_a_diagnosis_are_no_reason_to_end_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search itself, whose profile is not there any more and cannot be made again."""

    def profile(search: Any, cache: Any) -> Any:
        raise StageError("a copy of the model could not be compiled")

    monkeypatch.setattr(budget_module.BudgetSearch, "__init__", lambda self, *_, **__: None)
    monkeypatch.setattr(budget_module.BudgetSearch, "profile", profile)
    monkeypatch.setattr(checkpoint, "load", lambda *_, **__: None)
    monkeypatch.setattr(prune.Plan, "load", lambda path: build_record().plan)
    facts = build_record().stages.prune.facts
    facts = replace(facts, probes=tuple(replace(probe, kept=True) for probe in facts.probes[:1]), diagnosis=None)
    with open_workspace(tmp_path / "run") as workspace:
        here = state(workspace, Notes())
        record: Any = Record(Key("prune", {}), tmp_path, {"plan": Artifact(tmp_path / "plan.json", "")}, facts, 0.0, "")
        completed = prune.STAGE.complete(here, record)
    assert completed == replace(facts, undiagnosed="a copy of the model could not be compiled")


@pytest.mark.parametrize("when", ["at once", "the next time"])
def test_an_unsure_search_whose_plan_was_seen_to_hold_the_budget_stays(
    searches: Searches, tmp_path: Path, when: str
) -> None:
    if when == "at once":
        searches.judged = Verdict.PASS
    built(tmp_path / "run")
    searches.judged = Verdict.PASS
    built(tmp_path / "run")
    searches.judged = Verdict.INCONCLUSIVE
    for _ in range(2):
        assert not any("made again" in line for line in built(tmp_path / "run"))
    assert searches.count == 1


@pytest.mark.parametrize(("judged", "count"), [(Verdict.INCONCLUSIVE, 1), (Verdict.FAIL, 2)])
def test_a_build_that_was_stopped_goes_on_with_an_unsure_plan_unless_it_surely_misses(
    searches: Searches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judged: Verdict, count: int
) -> None:
    with monkeypatch.context() as then, pytest.raises(KeyboardInterrupt):
        then.setattr(Notes, "gates", lambda self, gates: (_ for _ in ()).throw(KeyboardInterrupt))
        built(tmp_path / "run")
    searches.judged = judged
    built(tmp_path / "run")
    assert searches.count == count


def test_a_search_by_a_stand_in_is_never_sure_and_not_made_again(searches: Searches, tmp_path: Path) -> None:
    for _ in range(2):
        built(tmp_path / "run", simulated=True)
    assert searches.count == 1


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (Verdict.PASS, "there is nothing to prune: the unpruned model meets the budget, and ships as it is"),
        (
            Verdict.INCONCLUSIVE,
            "nothing is pruned, and the model ships as it is; of the budget the search says: "
            "it may be met without pruning: between 7 and 9 ms",
        ),
    ],
)
def test_a_budget_that_may_be_met_unpruned_is_not_told_as_met(
    searches: Searches, tmp_path: Path, said: Verdict, words: str
) -> None:
    searches.unpruned, searches.said = True, said
    assert words in built(tmp_path / "run")
    built(tmp_path / "run")
    assert searches.count == (1 if said is Verdict.PASS else 2)


def test_a_record_from_before_the_search_was_kept_stays(searches: Searches, tmp_path: Path) -> None:
    facts = build_record().stages.prune.facts
    older = {key: value for key, value in to_json(facts).items() if key != "search"}
    assert from_json(PruneFacts, older, "record.json") == facts and facts.search is None
    with open_workspace(tmp_path / "run") as workspace:
        build = state(workspace, Notes())
        record: Any = SimpleNamespace(facts=replace(facts, search=None))
        assert prune.STAGE.unsure(build, record) == ""
