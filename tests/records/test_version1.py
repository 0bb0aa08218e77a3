"""A ``build.json`` that the last version before typed facts wrote is still shown, compared and reported.

``build-v1.json`` is of a real build of YOLOv8n on digits with every stage, its samples and lists cut short.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import jsonschema
import pytest

from edgeprune import cli
from edgeprune.errors import DataError
from edgeprune.records.build import build_schema
from edgeprune.records.history import history
from edgeprune.records.show import read_build
from edgeprune.records.version1 import upgrade_measurement
from edgeprune.report.build import build_markdown, build_page
from edgeprune.samples.gates import Verdict
from edgeprune.samples.measurement import Measurement
from edgeprune.serial import from_json, to_json
from edgeprune.target.schema import target_from

OLD = Path(__file__).with_name("build-v1.json")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with the old build in it."""
    (tmp_path / "run" / "bundle").mkdir(parents=True)
    shutil.copy(OLD, tmp_path / "run" / "bundle" / "build.json")
    return tmp_path / "run"


def changed(run: Path, **entries: object) -> None:
    path = run / "bundle" / "build.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_nothing_that_it_says_is_lost(run: Path) -> None:
    old, record = json.loads(OLD.read_text()), read_build(run)
    facts = {row["name"]: row["facts"] for row in old["stages"]}
    assert [name for name, _ in record.stages.items()] == list(facts)
    assert to_json(record.gates) == old["gates"] and record.verdict is Verdict.INCONCLUSIVE
    assert record.target == target_from(old["target"], "old")
    later = {"head": "auto"}  # settings that plans did not have then, by their default
    assert to_json(record.plan) == {**old["plan"], "settings": old["plan"]["settings"] | later}
    assert [list(row.measurement.values) for row in record.measurements] == [
        row["values"] for row in old["measurements"]
    ]

    stages = record.stages
    assert stages.pretrain is not None and stages.sparsify is not None and stages.quantize is not None
    assert stages.finetune is not None
    for row, name in ((stages.pretrain, "pretrain"), (stages.sparsify, "sparsify"), (stages.finetune, "finetune")):
        training = row.facts.training
        curves = [{"epoch": e.number, "time": e.seconds, **e.figures} for e in training.epochs]
        assert curves == facts[name]["curves"] and training.map50_95 == facts[name]["map50_95"]
    baseline, engine = stages.baseline.facts, stages.engine.facts
    assert {"onnx": baseline.onnx_bytes, "engine": baseline.engine_bytes} == facts["baseline"]["bytes"]
    assert baseline.accuracy.metric == facts["baseline"]["accuracy"]["metric"]
    assert baseline.accuracy.accuracy.per_class == facts["baseline"]["accuracy"]["per_class"]
    assert baseline.accuracy_fp32 is not None
    assert baseline.accuracy_fp32.measured_on == facts["baseline"]["accuracy_fp32"]["measured_on"]
    assert to_json(engine.layers) == facts["engine"]["layers"] and engine.size_bytes == facts["engine"]["bytes"]
    scales = facts["sparsify"]["scales"]
    assert to_json(stages.sparsify.facts.scales.after) == scales["after"]
    assert stages.sparsify.facts.scales.summary == scales["verdict"]
    assert to_json(stages.prune.facts.macs) == facts["prune"]["macs"]
    for probe, row in zip(stages.prune.facts.probes, facts["prune"]["probes"], strict=True):
        assert 1 / probe.budget_share == pytest.approx(row["margin"]) and probe.error == pytest.approx(row["error"])
        assert probe.latency.candidate_ms == row["detail"]["candidate_ms"] and probe.kept == row["kept"]
    assert stages.finetune.facts.goal is not None and stages.finetune.facts.goal.max_drop == 0.001
    for stage in ("export", "simplify"):  # since then the rows that were compared are kept too, and each image's counts
        facts[stage]["parity"] |= {"rows": 0, "by_image": []}
    assert to_json(stages.export.facts.parity) == facts["export"]["parity"]
    assert to_json(stages.simplify.facts) == facts["simplify"]
    assert stages.quantize.facts.conversion.float_layers == tuple(facts["quantize"]["float_layers"])
    assert stages.quantize.facts.fallback.reason == facts["quantize"]["fallback"]["why"]


def test_written_again_it_is_of_the_present_version(run: Path) -> None:
    record = read_build(run)
    data = to_json(record)
    jsonschema.validate(data, build_schema())
    assert data["schema_version"] == 2
    (run / "bundle" / "build.json").write_text(json.dumps(data))
    assert read_build(run) == record


def test_show_prints_its_verdict(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", ["edgeprune", "show", str(run)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 5
    printed = capsys.readouterr().out
    assert "small: a measured speed-up of at least ×1.15" in printed and "verdict: INCONCLUSIVE" in printed


def test_history_holds_it_against_another(run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "later")
    changed(other, created="2099-01-01T00:00:00+00:00")
    first, second = history([run, other]).builds
    assert first.latency_ms is not None and first.speed_up is not None and "AMD EPYC" in first.device
    assert second.compared_with["latency"] == run and not second.regressions


def test_its_report_has_every_figure(run: Path) -> None:
    record = read_build(run)
    page = build_page(record)
    for figure in ("trade-off", "latency", "search", "widths", "curves", "layers", "scales"):
        assert f'<figure id="{figure}"' in page
    assert build_markdown(record).startswith("# small: INCONCLUSIVE")


def test_a_figure_that_was_not_finite_stood_as_null(run: Path) -> None:
    stages = json.loads(OLD.read_text())["stages"]
    stages[0]["facts"]["curves"][0]["train/box_loss"] = None
    changed(run, stages=stages)
    pretrain = read_build(run).stages.pretrain
    assert pretrain is not None
    loss = pretrain.facts.training.epochs[0].figures["train/box_loss"]
    assert loss != loss  # NaN


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"schema_version": 3}, r"build\.json: was written by edgeprune .* in schema version 3, .* update edgeprune"),
        ({"stages": []}, r"build\.json: stages\.baseline: "),
        ({"gates": 3}, r"build\.json: gates: "),
        ({"plan": {}, "stages": [{"name": "prune"}]}, r"build\.json: is a damaged build\.json of version 1"),
        ({"schema_version": "x"}, r"build\.json: .*schema_version"),
    ],
    ids=["newer", "no-stages", "gates", "no-facts", "no-version"],
)
def test_what_cannot_be_read_is_refused_in_one_line(run: Path, entries: dict, message: str) -> None:
    changed(run, **entries)
    with pytest.raises(DataError, match=message) as error:
        read_build(run)
    assert "\n" not in str(error.value)


def test_conditions_are_read_with_everything_that_they_tell() -> None:
    old = {
        "identity": {"cpu": "a"},
        "runtime": "onnxruntime",
        "provider": "CPUExecutionProvider",
        "threads": 1,
        "batch": 1,
        "shapes": {"images": [1, 3, 32, 32]},
        "scope": "end_to_end",
        "per_round": 4,
        "launches": [8, 8],
        "copies": True,
        "cuda_graph": False,
        "nodes": {},
        "warm": True,
        "cpu_share": 0.7,
        "contended": True,
        "cpu_ms": [1.0] * 16,
        "parts_ms": {"pre": 1.0},
        "boxes": 3,
        "frames": [[80, 80]],
        "stand_in": True,
        "worker": {"python": "3.12", "nice": -20},
        "host": {"cpu": "a", "load_average": [0.1, 0.2, 0.3], "governor": "performance", "temperature_c": 41.5},
        "load_average_after": [0.4, 0.2, 0.3],
        "temperature_after_c": 42.0,
        "throttled": True,
        "throttled_why": "hot",
        "clocks": "locked",
        "telemetry": {"source": "sysfs", "samples": 3, "temperature_max_c": {"cpu": 50.0}},
    }
    row = {"name": "latency", "unit": "ms", "values": [1.0] * 16, "conditions": old}
    read = from_json(Measurement, upgrade_measurement(row), OLD).conditions
    assert (read.samples_per_block, read.launches, read.scope) == (4, (8, 8), "end_to_end")
    assert read.core.contended and read.core.share == 0.7 and len(read.core.cpu_ms) == 16
    assert read.host is not None and read.host.load_average_after == (0.4, 0.2, 0.3)
    assert read.device.throttled and read.device.clocks == "locked" and read.device.telemetry is not None
    assert read.end_to_end is not None and read.end_to_end.stand_in and read.end_to_end.frames == ((80, 80),)
    assert read.worker is not None and read.worker.nice == -20 and read.gpu is None
    bare = from_json(Measurement, upgrade_measurement({**row, "conditions": {}}), OLD).conditions
    assert (bare.samples_per_block, bare.launches, bare.scope, bare.host) == (5, (16,), "model", None)
    carried = upgrade_measurement({**row, "conditions": {"runtime": "trtexec", "per_round": 4}})
    assert carried["conditions"]["launches"] == [4] * 4  # results that were carried back named no processes
