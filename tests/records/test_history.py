"""History: builds in order, held only against what may be compared, regressions by interval."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune import cli
from edgeprune.errors import DataError, TargetError
from edgeprune.records.history import history
from edgeprune.report.history import history_page, history_table
from edgeprune.report.notebook import history_html
from edgeprune.samples.average_precision import DropInterval
from edgeprune.samples.conditions import CoreState
from edgeprune.serial import write_json
from tests.records.sample import CONDITIONS, build_record, samples
from tests.records.sample import accuracy as sample_accuracy
from tests.report.browser import WIDTHS, looked_at, needs_chromium


def built(
    folder: Path, day: int, level: float = 12.5, accuracy: float = 0.54, error: float | None = 0.001, **conditions: Any
) -> Path:
    """A finished build of that day: what ships takes ``level`` ms."""
    record, generator = build_record(), np.random.default_rng(day)
    under = replace(CONDITIONS, **conditions)
    engine = record.stages.engine
    drop = None if error is None else DropInterval(0.01, error, 87, 200)
    facts = replace(engine.facts, accuracy=sample_accuracy(accuracy), accuracy_drop=drop)
    record = replace(
        record,
        created=f"2026-01-{day:02d}T00:00:00+00:00",
        measurements=(samples("baseline", 20.0, generator, under), samples("candidate", level, generator, under)),
        stages=replace(record.stages, engine=replace(engine, facts=facts)),
    )
    (folder / "bundle").mkdir(parents=True)
    write_json(folder / "bundle" / "build.json", record)
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
    file = pair[1] / "bundle" / "build.json"
    content = inside = json.loads(file.read_text())
    for key in keys[:-1]:
        inside = inside[key]
    assert keys[-1] in inside
    inside[keys[-1]] = value
    file.write_text(json.dumps(content))
    found = history(pair)
    last = found.builds[1]
    assert not [line for line in last.regressions if "mAP" in line] and "accuracy" not in last.compared_with
    assert (
        last.uncompared == {"accuracy": said} and f"accuracy not compared: {said}" in history_table(found).rows[1][-1]
    )
    third = history([*pair, built(tmp_path / "c", 3, accuracy=0.40)]).builds[2]
    assert third.compared_with["accuracy"] == tmp_path / "a" and third.regressions


@pytest.mark.parametrize(("error", "regressed"), [(0.005, True), (0.02, False)])
def test_a_loss_that_other_images_could_bring_is_no_regression(tmp_path, error, regressed):
    pair = [built(tmp_path / "a", 1, accuracy=0.54, error=error), built(tmp_path / "b", 2, accuracy=0.50, error=error)]
    assert history(pair).regressed is regressed


def test_folders_of_builds_and_several_targets(tmp_path):
    built(tmp_path / "runs" / "a", 1)
    other = built(tmp_path / "runs" / "b", 2) / "bundle" / "build.json"
    assert len(history([tmp_path / "runs"]).builds) == 2
    record = json.loads(other.read_text())
    record["target"]["name"] = "board"
    other.write_text(json.dumps(record))
    with pytest.raises(TargetError, match="board, cpu"):
        history([tmp_path / "runs"])
    assert [one.path.name for one in history([tmp_path / "runs"], "board").builds] == ["b"]
    with pytest.raises(TargetError, match="no such build"):
        history([tmp_path / "runs"], "jetson")
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
@pytest.mark.parametrize("width", WIDTHS)
def test_in_a_browser(tmp_path, width):
    found = history(
        [built(tmp_path / "a", 1, 12), built(tmp_path / "b", 2, 14), built(tmp_path / "c", 3, 9, threads=2)]
    )
    (tmp_path / "page").mkdir()
    seen = looked_at(history_page(found), tmp_path / "page", width)
    assert seen["verdict"] == "no regression" and len(seen["titled"]) == 3
    assert all(len(row) == 9 for row in history_table(found).rows)
    assert history_html(found).count("<tr ") == 4
