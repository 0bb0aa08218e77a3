"""History: builds in order, held only against what may be compared, regressions by interval."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune import cli
from edgeprune.errors import DataError, TargetError
from edgeprune.records.build import BuildRecord, DeviceRow, build_from_json, write_build
from edgeprune.records.gates import gates_again
from edgeprune.records.history import FIGURES, NO_EARLIER, histories, history
from edgeprune.report.build import sizes_table
from edgeprune.report.history import NOTHING, figures_text, history_page, history_table
from edgeprune.report.notebook import history_html
from edgeprune.report.text import ms_end, ms_text
from edgeprune.samples.average_precision import DropInterval
from edgeprune.samples.conditions import CoreState, EndToEndState
from edgeprune.samples.gates import RULES, Verdict, inform_by_later, overall_verdict
from edgeprune.serial import write_json
from edgeprune.target import Target, load_target
from edgeprune.workspace import BuildState
from tests.records.sample import CONDITIONS, build_record, samples
from tests.records.sample import accuracy as sample_accuracy
from tests.records.test_verify import typed
from tests.report.browser import WIDTHS, looked_at, needs_chromium


def built(
    folder: Path,
    day: int,
    level: float = 12.5,
    accuracy: float = 0.54,
    error: float | None = 0.001,
    target: Target | None = None,
    **conditions: Any,
) -> Path:
    """A finished build of that day: what ships takes ``level`` ms."""
    generator, under = np.random.default_rng(day), replace(CONDITIONS, **conditions)
    record = replace(
        build_record(),
        created=f"2026-01-{day:02d}T00:00:00+00:00",
        rules=RULES,
        measurements=(samples("baseline", 20.0, generator, under), samples("candidate", level, generator, under)),
    )
    engine, drop = record.stages.engine, None if error is None else DropInterval(0.01, error, 87, 200)
    facts = replace(engine.facts, accuracy=sample_accuracy(accuracy), accuracy_drop=drop)
    record = replace(record, stages=replace(record.stages, engine=replace(engine, facts=facts)))
    device = DeviceRow("local", False, under.identity, record.host)
    write(folder, replace(record, device=device, target=target or record.target))
    return folder


def write(folder: Path, record: BuildRecord) -> None:
    """A bundle of the record, its gates as its samples give them."""
    gates = tuple(inform_by_later(list(gates_again(record))))
    (folder / "bundle").mkdir(parents=True, exist_ok=True)
    write_build(folder / "bundle" / "build.json", replace(record, gates=gates, verdict=overall_verdict(gates)))


def with_value(folder: Path, keys: Sequence[str], value: object) -> Path:
    """The build with another value in its record, as if it had been built so."""
    file = folder / "bundle" / "build.json"
    content = inside = json.loads(file.read_text())
    for key in keys[:-1]:
        inside = inside[key]
    assert keys[-1] in inside
    inside[keys[-1]] = value
    write(folder, build_from_json(content, file))
    return folder


def test_samples_that_give_no_ratio_leave_it_out(tmp_path):
    folder = built(tmp_path / "a", 1)
    file = folder / "bundle" / "build.json"
    content = json.loads(file.read_text())
    for values, block in (([0.0] * 60, 1), ([5.0] * 59, 1), ([5.0] * 60, 0), ([5.0] * 60, -3)):
        candidate = content["measurements"][1]["measurement"]
        candidate["values"], candidate["conditions"]["samples_per_block"] = values, block
        content["measurements"][0]["measurement"]["values"] = [5.0] * 60
        file.write_text(json.dumps(content))
        if block < 1:
            with pytest.raises(DataError, match="samples_per_block"):
                history([folder])
        else:
            assert history([folder]).builds[0].speed_up is None


def test_a_slower_build_is_a_regression_and_chance_is_none(tmp_path):
    found = history(
        [built(tmp_path / name, day, level) for name, day, level in [("c", 3, 14), ("a", 1, 12.5), ("b", 2, 12.51)]]
    )
    assert [one.path.name for one in found.builds] == ["a", "b", "c"]
    assert [len(one.regressions) for one in found.builds] == [0, 0, 2]
    assert [one.split()[0] for one in found.builds[2].regressions] == ["latency", "speed-up"]
    assert found.builds[2].compared_with["latency"] == tmp_path / "b" and found.regressed
    assert not history([tmp_path / "a", tmp_path / "b"]).regressed


def test_a_copy_of_a_build_is_no_second_build(tmp_path):
    one = built(tmp_path / "one", 1)
    shutil.copytree(one, tmp_path / "copy")
    found = history([one, tmp_path / "copy"])
    assert len(found.builds) == 1 and not found.compared


def test_a_faster_build_is_better(tmp_path):
    found = history([built(tmp_path / "a", 1, 14), built(tmp_path / "b", 2, 12)])
    assert found.builds[1].regressions == () and len(found.builds[1].improvements) == 2


@pytest.mark.parametrize(
    "conditions",
    [{"identity": {"cpu": "another"}}, {"threads": 4}, {"batch": 8}, {"scope": "end_to_end"}, {"runtime": "x"}],
    ids=lambda value: next(iter(value)),
)
def test_figures_under_other_conditions_are_never_compared(tmp_path, conditions):
    found = history(
        [built(tmp_path / "a", 1, 12), built(tmp_path / "b", 2, 24, **conditions), built(tmp_path / "c", 3, 12)]
    )
    assert found.builds[1].regressions == () and set(found.builds[1].compared_with) == {"accuracy"}
    assert (
        found.builds[2].compared_with["latency"] == tmp_path / "a"
    )  # the other device's build lies between and is passed over
    assert found.builds[2].improvements == ()


def test_a_contended_run_is_judged_by_its_ratio_only(tmp_path):
    found = history(
        [built(tmp_path / "a", 1, 12), built(tmp_path / "b", 2, 15, core=CoreState(share=0.5, contended=True))]
    )
    assert [one.split()[0] for one in found.builds[1].regressions] == ["speed-up"]


def test_accuracy_regresses_by_what_the_target_calls_a_loss(tmp_path):
    found = history(
        [built(tmp_path / "a", 1), built(tmp_path / "b", 2, accuracy=0.53), built(tmp_path / "c", 3, accuracy=0.50)]
    )
    assert found.builds[1].regressions == ()
    assert found.builds[2].regressions == ("mAP50-95 0.5300 → 0.5000, more than 0.02",)


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("weights", "sha256"), "f" * 64, "built from other weights"),
        (("target", "imgsz"), 320, "640 px, fp32 before, 320 px, fp32 now"),
        (("target", "precision"), "fp16", "640 px, fp32 before, 640 px, fp16 now"),
        (
            ("stages", "engine", "facts", "accuracy_drop"),
            None,
            "how much other images would bring is not known of both",
        ),
        (
            ("stages", "engine", "facts", "accuracy_drop", "standard_error"),
            None,
            "how much other images would bring is not known of both",
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else None,
)
def test_accuracies_that_differ_by_more_than_pruning_are_left_uncompared(tmp_path, keys, value, said):
    pair = [built(tmp_path / "a", 1), built(tmp_path / "b", 2, accuracy=0.40)]
    with_value(pair[1], keys, value)
    found = history(pair)
    last = found.builds[1]
    assert not [line for line in last.regressions if "mAP" in line] and "accuracy" not in last.compared_with
    assert last.uncompared["accuracy"] == said and f"accuracy not compared: {said}" in history_table(found).rows[1][-1]
    third = history([*pair, built(tmp_path / "c", 3, accuracy=0.40)]).builds[2]
    assert third.compared_with["accuracy"] == tmp_path / "a" and third.regressions


@pytest.mark.parametrize(("error", "regressed"), [(0.005, True), (0.02, False)])
def test_a_loss_that_other_images_could_bring_is_no_regression(tmp_path, error, regressed):
    pair = [built(tmp_path / "a", 1, accuracy=0.54, error=error), built(tmp_path / "b", 2, accuracy=0.50, error=error)]
    assert history(pair).regressed is regressed


def test_folders_of_builds_and_several_targets(tmp_path):
    built(tmp_path / "runs" / "a", 1)
    other = built(tmp_path / "runs" / "b", 2)
    assert len(history([tmp_path / "runs"]).builds) == len(history(str(tmp_path / "runs")).builds) == 2
    with_value(other, ("target", "name"), "board")
    with pytest.raises(TargetError, match="board, cpu"):
        history([tmp_path / "runs"])
    assert [one.path.name for one in history([tmp_path / "runs"], "board").builds] == ["b"]
    with pytest.raises(TargetError, match="no such build"):
        history([tmp_path / "runs"], "jetson")
    assert [one.target for one in histories(tmp_path / "runs")] == ["board", "cpu"]
    assert histories(tmp_path / "runs", "cpu") == (history([tmp_path / "runs"], "cpu"),)
    with pytest.raises(DataError, match="no folder was given"):
        history([])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no build"):
        history([tmp_path / "empty"])


def test_the_command_names_the_regression_and_ends_with_1(tmp_path, monkeypatch, capsys):
    built(tmp_path / "runs" / "monday", 1, 12)
    built(tmp_path / "runs" / "tuesday", 2, 14)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["edgeprune", "history", "runs/monday", "runs/tuesday", "-o", "history.html"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1  # the latest build is worse
    assert "regression: latency" in capsys.readouterr().out.replace("\n", " ")
    assert 'id="verdict">regression<' in Path("history.html").read_text()
    monkeypatch.setattr(sys, "argv", ["edgeprune", "history", "runs/monday", "--json", "-"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 5  # alone it has nothing to be better or worse than
    assert json.loads(capsys.readouterr().out)["builds"][0]["compared_with"] == {}


@needs_chromium
@pytest.mark.parametrize("width", [*WIDTHS, 1000])
def test_in_a_browser(tmp_path, width):
    found = history(
        [built(tmp_path / "a", 1, 12), built(tmp_path / "b", 2, 14), built(tmp_path / "c", 3, 9, threads=2)]
    )
    assert found.verdict is Verdict.INCONCLUSIVE
    (tmp_path / "page").mkdir()
    long = replace(found.builds[1], verdict=Verdict.INCONCLUSIVE)
    seen = looked_at(
        history_page(replace(found, builds=(found.builds[0], long, *found.builds[1:]))), tmp_path / "page", width
    )
    assert seen["verdict"] == "speed-up not compared" and len(seen["titled"]) == 3
    assert all(len(row) == 9 for row in history_table(found).rows)
    assert history_html(found).count("<tr ") == 4
    (tmp_path / "both").mkdir()
    both = looked_at(history_page(found, replace(found, target="board")), tmp_path / "both", width)
    assert len(both["titled"]) == 6


SHARED: dict[str, Any] = {"core": CoreState(share=0.5, contended=True)}
IN_MS = load_target("cpu").changed({"budget": {"latency_ms": 200.0, "statistic": "p50"}})
IN_P99 = load_target("cpu").changed({"budget": {"latency_ms": 200.0, "statistic": "p99"}})


def test_a_build_on_a_shared_core_hides_no_regression_behind_it(tmp_path):
    found = history(
        [built(tmp_path / "a", 1, 10), built(tmp_path / "b", 2, 15, **SHARED), built(tmp_path / "c", 3, 30)]
    )
    last = found.builds[2]
    assert last.compared_with["latency"] == tmp_path / "a" and found.verdict is Verdict.FAIL
    assert last.regressions[0].startswith("latency 10.")
    slow = replace(CONDITIONS.device, throttled=True)
    third = history([tmp_path / "a", built(tmp_path / "d", 2, 15, device=slow), tmp_path / "c"]).builds[2]
    assert third.compared_with["latency"] == tmp_path / "a"


def test_builds_of_other_weights_between_hide_no_regression_of_the_speed_up(tmp_path):
    builds = [built(tmp_path / name, day, level) for name, day, level in (("a", 1, 10), ("b", 2, 16), ("c", 3, 16.5))]
    with_value(builds[1], ("weights", "sha256"), "f" * 64)
    found = history(builds)
    assert found.builds[1].uncompared["speed-up"] == "built from other weights"
    assert found.builds[2].compared_with["speed-up"] == tmp_path / "a"
    assert any(line.startswith("speed-up") for line in found.builds[2].regressions)


@pytest.mark.parametrize(
    ("target", "level", "conditions", "why"),
    [
        (IN_P99, 100, {}, "300 samples do not bound p99 now"),
        (IN_MS, 12, SHARED, "disturbed now: the model had only 50% of a core: other work ran on the machine"),
        (IN_MS, 12, {"threads": 4}, "taken under other conditions: threads (1, 4)"),
        (
            IN_MS,
            12,
            {"device": replace(CONDITIONS.device, throttled=True, throttled_why="too hot")},
            "disturbed now: the device throttled during the run: too hot",
        ),
    ],
    ids=["no bound", "shared core", "other conditions", "throttled"],
)
def test_a_latency_that_is_not_compared_is_told_and_no_green(tmp_path, target, level, conditions, why):
    found = history(
        [built(tmp_path / "a", 1, 10, target=target), built(tmp_path / "b", 2, level, target=target, **conditions)]
    )
    last = found.builds[1]
    assert last.uncompared["latency"].startswith(why) and "latency" not in last.compared_with
    last = replace(last, regressions=())  # a speed-up may have moved as well
    found = replace(found, builds=(found.builds[0], last))
    assert found.verdict is Verdict.INCONCLUSIVE
    text = history_table(found).rows[1][-1]
    assert "latency not compared: " in text or "latency, speed-up not compared: " in text
    assert why in text and why in history_page(found)


def stepped(folder: Path, both: bool) -> Path:
    """The build with a level that moved in the middle of its run: of what ships, or of both models alike."""
    file = folder / "bundle" / "build.json"
    record = build_from_json(json.loads(file.read_text()), file)
    shape = np.repeat([1.0, 1.4], 150)
    rows = [
        replace(row, measurement=replace(row.measurement, values=tuple(np.array(row.measurement.values) * shape)))
        if both or row.role == "candidate"
        else row
        for row in record.measurements
    ]
    write(folder, replace(record, measurements=tuple(rows)))
    return folder


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("moved", ["now", "before"])
def test_a_run_whose_gate_is_inconclusive_is_held_against_none(tmp_path, moved, both):
    pair = [built(tmp_path / "a", 1, 10, target=IN_MS), built(tmp_path / "b", 2, 30, target=IN_MS)]
    stepped(pair[moved == "now"], both)
    found = history(pair)
    last = found.builds[1]
    assert last.uncompared["latency"].startswith(f"disturbed {moved}: a step of +")
    assert ("speed-up" in last.uncompared) is not both  # what moves both models alike does not move their ratio
    assert found.verdict is (Verdict.FAIL if both else Verdict.INCONCLUSIVE)
    told = history_table(found).rows[moved == "now"][-1]
    assert told.count("after sample 150 of 300") == 1


def test_throttling_forbids_a_speed_up_too(tmp_path):
    hot = replace(CONDITIONS.device, throttled=True, throttled_why="too hot")
    found = history([built(tmp_path / "a", 1, 10), built(tmp_path / "b", 2, 30, device=hot)])
    why = "disturbed now: the device throttled during the run: too hot"
    assert {found.builds[1].uncompared[name] for name in ("latency", "speed-up")} == {why}
    assert found.verdict is Verdict.INCONCLUSIVE


def test_what_a_stand_in_said_is_no_measurement(tmp_path):
    def simulated(folder: Path) -> Path:
        file = folder / "bundle" / "build.json"
        record = build_from_json(json.loads(file.read_text()), file)
        rows = [replace(row, measurement=replace(row.measurement, simulated=True)) for row in record.measurements]
        write(folder, replace(record, measurements=tuple(rows)))
        return folder

    alike = [simulated(built(tmp_path / "a", 1, 10)), simulated(built(tmp_path / "b", 2, 30))]
    found = history(alike)
    last = found.builds[1]
    assert last.regressions == () and set(last.compared_with) == {"accuracy"}
    assert {last.uncompared[name] for name in ("latency", "speed-up")} == {"simulated now: no device was measured"}
    assert found.verdict is Verdict.INCONCLUSIVE
    third = history([*alike, built(tmp_path / "c", 3, 30)])
    assert third.builds[2].uncompared["latency"] == "simulated before: no device was measured"
    for row, marked in zip(history_table(third).rows, (True, True, False), strict=True):
        assert row[3].startswith("SIMULATED ") is row[4].startswith("SIMULATED ") is marked
    assert figures_text(last).count("SIMULATED") == 2 and "SIMULATED" not in figures_text(third.builds[2])
    page = history_page(third)
    assert page.count("SIMULATED ") >= 8  # both figures of both builds in the table, and behind their drawings


def test_a_builds_interval_is_the_one_that_its_report_tells(tmp_path):
    folder = built(tmp_path / "a", 1)
    figure = history([folder]).builds[0].latency_ms
    file = folder / "bundle" / "build.json"
    record = build_from_json(json.loads(file.read_text()), file)
    [row] = [row for row in sizes_table(record).rows if row[0].startswith("latency")]
    assert row[2] == f"{ms_text(figure.value)} ms ({ms_end(figure.low, up=False)} to {ms_end(figure.high, up=True)})"
    assert history_table(history([folder])).rows[0][3] == f"{row[2].replace(' ms', '')} p50"


def test_milliseconds_from_frame_to_boxes_are_called_so(tmp_path):
    whole = {"scope": "end_to_end", "end_to_end": EndToEndState()}
    found = history([built(tmp_path / "a", 1, 10, **whole), built(tmp_path / "b", 2, 30, **whole)])
    assert found.builds[1].regressions[0].startswith("end-to-end latency 10.")
    assert found.builds[1].regressions[1].startswith("end-to-end speed-up")
    for row in history_table(found).rows:
        assert row[3].endswith(" end-to-end p50") and row[4].endswith(" end-to-end")
    assert figures_text(found.builds[0]).startswith("end-to-end p50 10.")
    page = history_page(found)
    assert "End-to-end latency of what ships" in page and "regressions: 1." in page
    mixed = history_page(history([tmp_path / "a", built(tmp_path / "c", 3)]))
    assert "Latency of what ships" in mixed and ") end-to-end<" in mixed


def test_a_budget_of_macs_waits_for_no_latency(tmp_path):
    target = load_target("cpu").with_overrides(macs_speed_up=1.5)
    builds = [built(tmp_path / "a", 1, target=target), built(tmp_path / "b", 2, target=target, **SHARED)]
    assert history(builds).verdict is Verdict.PASS
    builds[1] = with_value(builds[1], ("weights", "sha256"), "f" * 64)
    assert history(builds).verdict is Verdict.INCONCLUSIVE  # nothing at all


def test_every_figure_is_held_against_a_build_or_says_why_not(tmp_path):
    found = history(
        [built(tmp_path / "a", 1), built(tmp_path / "b", 2), built(tmp_path / "c", 3, threads=2, error=None)]
    )
    assert len(found.builds) == 3
    for one in found.builds:
        assert {*one.compared_with, *one.uncompared} == set(FIGURES) and not set(one.compared_with) & set(
            one.uncompared
        )
    assert set(found.builds[0].uncompared.values()) == {NO_EARLIER}
    assert history_table(found).rows[0][-1] == NOTHING


def edited(folder: Path, change: dict[str, Any], *, sealed: bool) -> Path:
    file = folder / "bundle" / "build.json"
    content = json.loads(file.read_text()) | change
    if not sealed:
        content.pop("sha256")
    file.write_text(json.dumps(content, indent=1) + "\n")
    return folder


@pytest.mark.parametrize("rules", [RULES, None])
def test_an_edited_record_is_no_baseline_and_no_green(tmp_path, monkeypatch, capsys, rules):
    first, second = built(tmp_path / "a", 1, 10), built(tmp_path / "b", 2, 30)
    edited(second, {"command": ["none"], "rules": rules}, sealed=True)
    found = history([first, second, built(tmp_path / "c", 3, 30)])
    assert found.builds[1].edited[0] == "build.json was changed" and not found.builds[1].compared_with
    assert set(found.builds[2].compared_with.values()) == {first} and found.verdict is Verdict.FAIL
    for folders in ([first, second], [second]):
        assert history(folders).verdict is Verdict.INCONCLUSIVE
        assert typed(monkeypatch, "history", *folders, "-o", tmp_path / "page.html") == 2
        said = capsys.readouterr()
        assert "edited, not as it was built: build.json was changed" in said.err and "edited: " in said.out
        assert 'id="verdict">edited<' in (tmp_path / "page.html").read_text()


def test_a_record_of_other_rules_that_nobody_edited_is_compared(tmp_path):
    first = with_value(built(tmp_path / "a", 1, 10), ("rules",), None)
    found = history([first, built(tmp_path / "b", 2, 30)])
    assert found.builds[0].edited == () and found.builds[1].compared_with["latency"] == first
    edited(first, {"verdict": "FAIL"}, sealed=False)  # as older ones are; by other rules it may be so
    assert history([first]).builds[0].edited == ()


def test_several_targets_are_a_table_each_and_the_worst_is_the_exit_code(tmp_path, monkeypatch, capsys):
    board, one = tmp_path / "board", tmp_path / "one"
    for folder, levels in ((board, (10, 30)), (one, (10, 10))):
        for day, level in enumerate(levels, 1):
            built(folder / str(day), day, level)
    for day in (1, 2):
        with_value(board / str(day), ("target", "name"), "board")
    assert typed(monkeypatch, "history", board, one, "-o", tmp_path / "page.html") == 1
    printed = capsys.readouterr().out
    assert printed.index("board, oldest first") < printed.index("cpu, oldest first")
    page = (tmp_path / "page.html").read_text()
    assert "board: 2 builds" in page and "cpu: 2 builds" in page and "2 targets" in page
    assert typed(monkeypatch, "history", board, one, "--target", "cpu") == 0
    assert "board" not in capsys.readouterr().out
    assert typed(monkeypatch, "history", board / "1", one) == 5  # nothing to compare beside a PASS
    capsys.readouterr()
    assert typed(monkeypatch, "history", board, one, "--json", "-") == 1
    assert [part["target"] for part in json.loads(capsys.readouterr().out)] == ["board", "cpu"]
    assert typed(monkeypatch, "history", one, "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["target"] == "cpu"


def test_a_build_that_is_not_finished_says_how_to_go_on(tmp_path):
    run = tmp_path / "runs" / "cpu"
    (run / ".bundle-old").mkdir(parents=True)
    (run / ".bundle-old" / "build.json").write_text("{}")
    write_json(run / "state.json", BuildState(("edgeprune", "build", "--weights", "a b.pt"), ()))
    for folder in (run, tmp_path / "runs", str(run)):
        with pytest.raises(DataError, match=r"not finished; go on with: edgeprune build --weights 'a b\.pt'"):
            history(folder)
    built(tmp_path / "runs" / "done", 1)
    assert len(history(tmp_path / "runs").builds) == 1
