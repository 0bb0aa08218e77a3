"""How a build treats its stages: run once, reuse by content, judge every time, go on after a stop."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from edgeprune.errors import DataError, StageError, TargetError
from edgeprune.pipeline import STAGES, run_stages
from edgeprune.records.show import read_build, stage_history
from edgeprune.samples.gates import at_most, informs
from edgeprune.stages.base import Context, Judged, Output, Silent, Stage
from edgeprune.target import load_target
from edgeprune.workspace import Key, Record, Workspace


class Log:
    """Counts what ran and what was judged."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.judged: list[str] = []


def stage(
    name: str, log: Log, after: str | None = None, work: Callable[[Path], None] | None = None, **params: Any
) -> Stage:
    def inputs(context: Context) -> dict[str, Any]:
        return {"params": params, **(context.source((after, "file")) if after else {})}

    def run(context: Context, folder: Path, key: Key) -> Output:
        log.ran.append(name)
        if work:
            work(folder)
        (folder / "file").write_text(f"{name} {params}")
        print(f"printed by {name}")
        return Output({"file": ("plan", folder / "file")}, {"size": 3})

    def judge(context: Context, record: Record) -> Judged:
        log.judged.append(name)
        return Judged([at_most(name, "size", float(record.facts["size"]), 4.0, "bytes")])

    return Stage(name, 1, inputs, run, judge)


def context(workspace: Workspace) -> Context:
    unused = cast(Any, None)
    return Context(load_target("cpu"), unused, unused, 0, False, workspace, unused, True, "", Silent())


def run(root: Path, *stages: Stage):
    with Workspace.opened(root) as workspace:
        return run_stages(context(workspace), ["edgeprune", "build"], stages)


def test_the_pipeline_is_the_list_of_the_design() -> None:
    assert [stage.name for stage in STAGES] == [
        "pretrain",
        "baseline",
        "sparsify",
        "prune",
        "finetune",
        "export",
        "simplify",
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
    assert again.reused == {"one": True, "two": True}


def test_a_changed_parameter_starts_again_there_and_not_before(tmp_path: Path) -> None:
    log = Log()
    first, third = stage("one", log), stage("three", log, after="two")
    run(tmp_path, first, stage("two", log, after="one", budget=1.5), third)
    run(tmp_path, first, stage("two", log, after="one", budget=2.0), third)
    assert log.ran == ["one", "two", "three", "two", "three"]
    assert stage_history(tmp_path, "one").startswith("one: reused")
    assert "params.budget: 1.5 → 2.0" in stage_history(tmp_path, "two")
    assert "source.two.file" in stage_history(tmp_path, "three")
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
    assert ran.reused == {"one": True, "two": False}
    assert (folder / "file").stat().st_mtime_ns == before


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(StageError, match=r"stage one: the disk of .* is full"):
        run(tmp_path, stage("one", Log(), work=full))
    assert not list(tmp_path.glob("one-*"))


def test_what_a_stage_prints_is_in_its_log_and_not_on_the_screen(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run(tmp_path, stage("one", Log()))
    [log] = tmp_path.glob("one-*/log.txt")
    assert "printed by one" in log.read_text()
    assert capsys.readouterr().out == ""


def test_a_stage_that_is_not_needed_is_not_there(tmp_path: Path) -> None:
    log = Log()
    optional = stage("one", log)
    skipped = Stage("two", 1, optional.inputs, optional.run, optional.judge, needed=lambda context: False)
    ran = run(tmp_path, optional, skipped)
    assert list(ran.reused) == ["one"]


def test_an_informing_row_alone_is_no_verdict() -> None:
    from edgeprune.samples.gates import Verdict, overall

    assert overall([informs("one", "latency", 3.0, "ms")]) is Verdict.PENDING


def test_show_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no build"):
        read_build(tmp_path)
    with pytest.raises(DataError, match="no build has run here"):
        stage_history(tmp_path, "prune")
    run(tmp_path, stage("one", Log()))
    with pytest.raises(DataError, match="not finished; go on with: edgeprune build"):
        read_build(tmp_path)
    with pytest.raises(TargetError, match="has no such stage; it has: one"):
        stage_history(tmp_path, "prune")
    (tmp_path / "build.json").write_text(json.dumps({"verdict": "PASS"}))
    with pytest.raises(DataError, match=r"is not a build\.json"):
        read_build(tmp_path)
