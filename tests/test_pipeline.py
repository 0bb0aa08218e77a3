"""How a build treats its stages: run once, reuse by content, judge every time, go on after a stop."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeprune import pipeline
from edgeprune.dataset import Dataset
from edgeprune.devices import device_named
from edgeprune.devices.local import LocalDevice
from edgeprune.errors import DataError, DeviceError, StageError, TargetError
from edgeprune.pipeline import STAGES, _replaced, run_stages
from edgeprune.records.build import DeviceRow
from edgeprune.records.show import read_build, stage_history
from edgeprune.runtimes import runtime
from edgeprune.runtimes.base import Availability
from edgeprune.runtimes.site import Site, open_site
from edgeprune.samples.gates import Gate, Verdict, at_most_gate, info_gate
from edgeprune.serial import write_json
from edgeprune.stages.base import Build, Judgement, Output, SilentBuild, Stage, Weights
from edgeprune.stages.inputs import build_command
from edgeprune.target import load_target
from edgeprune.workspace import Key, Record, Workspace, open_workspace
from tests.records.sample import build_record
from tests.test_dataset import written


class Log:
    """Counts what ran and what was judged."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.judged: list[str] = []


@dataclass(frozen=True)
class Size:
    """Facts of a made-up stage."""

    size: int


def stage(
    name: str, log: Log, after: str | None = None, work: Callable[[Path], None] | None = None, **params: Any
) -> Stage[Size]:
    def inputs(build: Build) -> dict[str, Any]:
        return {"params": params, **(build.source((build.records[after], "plan")) if after else {})}

    def run(build: Build, folder: Path, key: Key) -> Output[Size]:
        log.ran.append(name)
        if work:
            work(folder)
        (folder / "file").write_text(f"{name} {params}")
        print(f"printed by {name}")
        return Output({"plan": folder / "file"}, Size(3))

    def judge(build: Build, record: Record[Size]) -> Judgement:
        log.judged.append(name)
        return Judgement([at_most_gate(name, "size", float(record.facts.size), 4.0, "bytes")])

    return Stage(name, 1, Size, inputs, run, judge)


def build(workspace: Workspace) -> Build:
    reporter = SilentBuild()
    device = LocalDevice()
    site = Site(load_target("cpu"), runtime("onnxruntime", device), device, Availability(True, ""), reporter)
    root = workspace.root
    dataset = Dataset(root / "data.yaml", root, "detect", {0: "cell"}, {})
    return Build(site, Weights(root / "model.pt", "", "detect"), dataset, False, workspace, reporter)


def run(root: Path, *stages: Stage):
    with open_workspace(root) as workspace:
        return run_stages(build(workspace), ["edgeprune", "build"], stages)


def test_the_pipeline_is_the_list_of_the_design() -> None:
    assert [stage.name for stage in STAGES] == [
        "pretrain",
        "baseline",
        "sparsify",
        "prune",
        "finetune",
        "export",
        "simplify",
        "qat",
        "quantize",
        "engine",
    ]


def test_a_second_run_reuses_every_stage_and_judges_every_gate_afresh(tmp_path: Path) -> None:
    log = Log()
    stages = [stage("one", log), stage("two", log, after="one")]
    run(tmp_path, *stages)
    again = run(tmp_path, *stages)
    assert log.ran == ["one", "two"]
    assert log.judged == ["one", "two", "one", "two"]
    assert again.reused == {"one", "two"}


def test_what_a_reused_result_lacks_is_added_to_its_record_once(tmp_path: Path) -> None:
    log, sizes = Log(), []

    def complete(build: Build, record: Record[Size]) -> Size | None:
        sizes.append(record.facts.size)
        return Size(4) if record.facts.size == 3 else None

    one, two = replace(stage("one", log), complete=complete), stage("two", log, after="one")
    for _ in range(3):
        run(tmp_path, one, two)
    assert sizes == [3, 4]
    assert log.ran == ["one", "two"]


def test_a_stage_that_was_asked_for_and_is_left_out_is_told_of(tmp_path: Path) -> None:
    class Notes(SilentBuild):
        def note(self, text: str) -> None:
            told.append(text)

    told: list[str] = []
    asked = replace(stage("one", Log()), needed=lambda build: False, left_out=lambda build: "stage one is left out")
    other = replace(stage("two", Log()), needed=lambda build: False)
    with open_workspace(tmp_path) as workspace:
        run_stages(replace(build(workspace), reporter=Notes()), ["edgeprune", "build"], (asked, other))
    assert told == ["stage one is left out"]


@pytest.mark.parametrize(
    ("budget", "later", "again"),
    [
        ({"speed_up": 1.5}, ("speed-up", 1.5, Verdict.PASS), False),
        ({"speed_up": 1.5}, ("speed-up", 1.5, Verdict.INCONCLUSIVE), True),
        ({"speed_up": 1.5}, ("mAP50-95 drop", 0.02, Verdict.PASS), True),  # says nothing of the budget
        ({"macs_speed_up": 1.5}, ("speed-up", 1.0, Verdict.PASS), False),
        ({"macs_speed_up": 1.5}, ("MACs speed-up", 1.5, Verdict.PASS), True),  # counted, not measured
    ],
)
def test_an_undecided_choice_is_made_again_unless_a_later_stage_saw_the_budget_held(
    tmp_path: Path, budget: dict[str, Any], later: tuple[str, float, Verdict], again: bool
) -> None:
    log, target = Log(), load_target("cpu").with_overrides(**budget)
    chooses = replace(stage("one", log), unsure=lambda build, record: "other work ran on the machine")
    judges = replace(
        stage("two", log, after="one"),
        judge=lambda build, record: Judgement([Gate("two", later[0], 1.5, later[1], "×", later[2], "")]),
    )
    for _ in range(2):
        with open_workspace(tmp_path) as workspace:
            here = build(workspace)
            here = replace(here, site=replace(here.site, target=target))
            run_stages(here, ["edgeprune", "build"], (chooses, judges))
    assert log.ran == ["one", "two", *(["one"] if again else [])], "what came out alike is not made again behind it"


def test_a_changed_parameter_starts_again_there_and_not_before(tmp_path: Path) -> None:
    log = Log()
    first, third = stage("one", log), stage("three", log, after="two")
    run(tmp_path, first, stage("two", log, after="one", budget=1.5), third)
    run(tmp_path, first, stage("two", log, after="one", budget=2.0), third)
    assert log.ran == ["one", "two", "three", "two", "three"]
    assert stage_history(tmp_path, "one").startswith("one: reused")
    assert "params.budget: 1.5 → 2.0" in stage_history(tmp_path, "two")
    assert "source.two.plan" in stage_history(tmp_path, "three")
    run(tmp_path, first, stage("two", log, after="one", budget=1.5), third)  # going back finds the older results
    assert log.ran == ["one", "two", "three", "two", "three"]


def test_a_stage_that_dies_leaves_the_earlier_ones_and_is_run_again(tmp_path: Path) -> None:
    log = Log()

    def die(folder: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stage("one", log), stage("two", log, after="one", work=die))
    [folder] = tmp_path.glob("one-*")
    before = (folder / "file").stat().st_mtime_ns
    ran = run(tmp_path, stage("one", log), stage("two", log, after="one"))
    assert log.ran == ["one", "two", "two"]
    assert ran.reused == {"one"}
    assert (folder / "file").stat().st_mtime_ns == before


def test_a_stage_during_which_the_data_changed_is_not_kept(tmp_path: Path) -> None:
    data = written(tmp_path / "data")
    log = Log()

    def edit(folder: Path) -> None:
        (tmp_path / "data/labels/val/0.txt").write_text("1 .5 .5 .2 .2\n")

    def reading(workspace: Workspace, *stages: Stage[Any]) -> None:
        dataset = Dataset.load(data)
        keyed = [replace(one, inputs=lambda build: {"data": build.dataset.digest}) for one in stages]
        run_stages(replace(build(workspace), dataset=dataset), ["edgeprune", "build"], keyed)

    with open_workspace(tmp_path / "run") as workspace:
        with pytest.raises(DataError, match="the data set changed while"):
            reading(workspace, stage("one", log), stage("two", log, work=edit))
        assert len(list((tmp_path / "run").glob("one-*"))) == 1 and not list((tmp_path / "run").glob("two-*"))
        reading(workspace, stage("one", log), stage("two", log))
    assert log.ran == ["one", "two", "one", "two"]


def test_results_of_data_that_changed_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Dataset.load(written(tmp_path / "data"))
    assert data.digest
    weights = Weights(tmp_path / "a.pt", "", "detect")
    read = SimpleNamespace(target=load_target("cpu"), weights=weights, dataset=data, size="")

    def judged(*_: Any) -> None:
        (tmp_path / "data/labels/val/0.txt").unlink()

    monkeypatch.setattr(pipeline, "read_inputs", lambda *_: read)
    monkeypatch.setattr(pipeline, "run_stages", judged)
    monkeypatch.setattr(pipeline, "write_results", lambda *_: pytest.fail("written"))
    with pytest.raises(DataError, match="the data set changed while"):
        pipeline.build("cpu", tmp_path / "a.pt", "data.yaml", out=tmp_path / "run")


def test_a_finished_build_clears_what_others_left_long_ago(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Dataset(tmp_path / "data.yaml", tmp_path, "detect", {0: "cell"}, {})
    weights = Weights(tmp_path / "a.pt", "", "detect")
    read = SimpleNamespace(target=load_target("cpu"), weights=weights, dataset=data, size="")
    old = tmp_path / "run" / ".scratch" / "finetune-0123456789ab"
    old.mkdir(parents=True)
    os.utime(old, (0, 0))
    monkeypatch.setattr(pipeline, "read_inputs", lambda *_: read)
    monkeypatch.setattr(pipeline, "run_stages", lambda *_: None)
    monkeypatch.setattr(pipeline, "write_results", lambda *_: old.is_dir())
    assert pipeline.build("cpu", tmp_path / "a.pt", "data.yaml", out=tmp_path / "run") is True
    assert not old.exists()


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(StageError, match=r"stage one: the disk of .* is full"):
        run(tmp_path, stage("one", Log(), work=full))
    assert not list(tmp_path.glob("one-*"))


@pytest.mark.parametrize("where", ["write_state", "judge"])
def test_a_disk_that_fills_up_between_two_stages_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    one = stage("one", Log())
    if where == "judge":
        one = replace(one, judge=full)
    else:
        monkeypatch.setattr(Workspace, where, full)
    with pytest.raises(StageError, match=rf"^the disk of {tmp_path} is full; free some space.* goes on from here$"):
        run(tmp_path, one)


def test_what_a_stage_prints_is_in_its_log_and_not_on_the_screen(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run(tmp_path, stage("one", Log()))
    [log] = tmp_path.glob("one-*/log.txt")
    assert "printed by one" in log.read_text()
    assert capsys.readouterr().out == ""


def test_a_stage_that_is_not_needed_is_not_there(tmp_path: Path) -> None:
    log = Log()
    optional = stage("one", log)
    skipped = Stage("two", 1, Size, optional.inputs, optional.run, optional.judge, needed=lambda build: False)
    ran = run(tmp_path, optional, skipped)
    assert log.ran == ["one"] and not ran.reused
    assert list(tmp_path.glob("*/record.json")) == list(tmp_path.glob("one-*/record.json"))


def test_an_informing_row_alone_is_no_verdict() -> None:
    from edgeprune.samples.gates import Verdict, overall_verdict

    assert overall_verdict([info_gate("one", "latency", 3.0, "ms")]) is Verdict.PENDING


def test_a_folder_that_holds_a_build_of_other_weights_says_what_becomes_of_it(tmp_path: Path) -> None:
    record = build_record()
    same = Weights(Path("b.pt"), record.weights.sha256, "detect")
    assert _replaced(tmp_path, same) == ""
    (tmp_path / "bundle").mkdir()
    write_json(tmp_path / "bundle" / "build.json", record)
    assert _replaced(tmp_path, same) == ""
    said = _replaced(tmp_path, Weights(Path("other.pt"), "f" * 64, "detect"))
    assert said.startswith(f"{tmp_path} holds a build of {record.weights.path}: its bundle and report are replaced")


def test_a_folder_that_holds_what_a_board_measured_says_what_becomes_of_it(tmp_path: Path) -> None:
    record = build_record()
    record = replace(record, device=DeviceRow("carried by hand", False, {}, record.host))
    (tmp_path / "bundle").mkdir()
    write_json(tmp_path / "bundle" / "build.json", record)
    same, other = Weights(Path("b.pt"), record.weights.sha256, "detect"), Weights(Path("o.pt"), "f" * 64, "detect")
    measured = f"with what a board measured (verdict {record.verdict.value}, brought by import-results)"
    assert f"{measured}, which stays if this one asks the same of" in _replaced(tmp_path, same, waits=True)
    assert f"{measured}, which is replaced; for both, give this one another --out" in _replaced(tmp_path, same)
    assert f"{measured}: its bundle and report are replaced at the end" in _replaced(tmp_path, other, waits=True)


def test_a_bundle_by_any_path_tells_why_its_stages_ran_and_a_copied_one_where_that_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, copied = tmp_path / "run", tmp_path / "copied"
    run(root, stage("one", Log()))
    for bundle in (root / "bundle", copied / "bundle", copied / "other"):
        bundle.mkdir(parents=True, exist_ok=True)
        (bundle / "build.json").write_text("{}")
    (tmp_path / "latest").symlink_to(root / "bundle")
    expected = stage_history(root, "one")
    assert expected.startswith("one: ran as one-")
    for path in (root / "bundle", tmp_path / "latest", root / "bundle" / ".." / "bundle"):
        assert stage_history(path, "one") == expected
    monkeypatch.chdir(root / "bundle")
    assert stage_history(Path(), "one") == stage_history(Path(".."), "one") == expected
    for path in (copied / "bundle", copied / "other"):
        with pytest.raises(DataError, match=r"away from its run directory.*edgeprune show RUN_DIRECTORY --why one$"):
            stage_history(path, "one")


def test_a_record_that_was_lost_is_written_again_by_its_build_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, stage("one", Log()))
    (tmp_path / "bundle").mkdir(exist_ok=True)
    (tmp_path / "bundle" / "build.json").write_text("{")
    for folder, path in ((tmp_path, tmp_path), (tmp_path / "bundle", Path()), (tmp_path / "bundle", Path(".."))):
        monkeypatch.chdir(folder)
        with pytest.raises(DataError, match="write it again with: edgeprune build"):
            read_build(path)


def test_show_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no build; expected"):
        read_build(tmp_path)
    for version in range(1, 12):
        (tmp_path / "cells" / str(version) / "bundle").mkdir(parents=True)
        (tmp_path / "cells" / str(version) / "bundle" / "build.json").write_text("{}")
    with pytest.raises(DataError) as refused:
        read_build(tmp_path / "cells")
    named = ", ".join(str(tmp_path / "cells" / str(version)) for version in (11, 10, 9, 8, 7))
    assert f"give one of {named}, and 6 more" in str(refused.value)
    assert str(refused.value).endswith(f"edgeprune history {tmp_path / 'cells'}")
    with pytest.raises(DataError, match="no build has run here"):
        stage_history(tmp_path, "prune")
    run(tmp_path, stage("one", Log()))
    with pytest.raises(DataError, match="not finished; go on with: edgeprune build"):
        read_build(tmp_path)

    def fail(_: Path) -> None:
        raise StageError("weights caf\udce9.pt are out of\nreach")

    with pytest.raises(StageError, match="out of"):
        run(tmp_path, stage("one", Log()), stage("two", Log(), work=fail))
    with pytest.raises(DataError, match=r"stage two failed: weights .* are out of; once that is mended: edge"):
        read_build(tmp_path)
    run(tmp_path, stage("one", Log()))  # another build, whose stages did not fail
    with pytest.raises(DataError, match="not finished; go on with"):
        read_build(tmp_path)
    assert stage_history(tmp_path, "bundle") == "bundle: every build writes it anew, from what the stages left"
    with pytest.raises(TargetError, match="has no such stage; it has: one"):
        stage_history(tmp_path, "prune")
    (tmp_path / "build.json").write_text(json.dumps({"verdict": "PASS"}))
    with pytest.raises(DataError, match=r"is not a build\.json"):
        read_build(tmp_path)


def test_a_named_device_of_another_kind_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device_named("").facts().l4t:
        pytest.skip("this machine is of that kind")

    def read(target: Any, weights: Path, *_: Any) -> SimpleNamespace:
        return SimpleNamespace(target=target, weights=Weights(weights, "", "detect"))

    monkeypatch.setattr(pipeline, "read_inputs", read)
    with pytest.raises(DeviceError, match="it is no Jetson") as refused:
        pipeline.build("jetson-orin", tmp_path / "a.pt", "data.yaml", device="local", out=tmp_path / "run")
    assert refused.value.exit_code == 4 and not list(tmp_path.iterdir())
    assert str(refused.value).endswith("; next: the same command with --device user@host")


def test_where_this_machine_is_not_the_board_the_same_command_with_a_device_is_next() -> None:
    if device_named("").facts().l4t:
        pytest.skip("this machine is of that kind")
    with open_site("jetson-orin") as site, pytest.raises(DeviceError) as refused:
        site.require_usable()
    assert str(refused.value).endswith("; next: the same command with --device user@host")
    assert "probe" not in str(refused.value)


def test_a_size_is_kept_as_it_is_typed() -> None:
    words = build_command("cpu", "a.pt", "d.yaml", False, {"imgsz": (96, 160), "latency_ms": 2.0, "epochs": None})
    assert words[-4:] == ["--imgsz", "96,160", "--latency-ms", "2"]


@pytest.mark.parametrize("changed", [False, True])
def test_the_command_of_a_target_made_in_python_builds_that_target(
    changed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = load_target("cpu")
    asked = shipped.changed({"precision": "int8", "finetune.epochs": 3}) if changed else shipped
    root = tmp_path / "run"
    data = Dataset(tmp_path / "data.yaml", tmp_path, "detect", {0: "cell"}, {})

    def read(target: Any, weights: Path, *_: Any) -> SimpleNamespace:
        return SimpleNamespace(target=target, weights=Weights(weights, "", "detect"), dataset=data, size="")

    monkeypatch.setattr(pipeline, "read_inputs", read)
    monkeypatch.setattr(pipeline, "run_stages", lambda *_: None)
    monkeypatch.setattr(pipeline, "write_results", lambda state, argv, *_: argv)
    argv: Any = pipeline.build(asked, tmp_path / "a.pt", "data.yaml", out=root, speed_up=1.5)
    named = argv[argv.index("--target") + 1]
    assert named == (str(root / "profile.yaml") if changed else "cpu")
    assert load_target(named) == asked, "what the options change, they change again"
    assert argv[argv.index("--speed-up") + 1] == "1.5"
