"""A finished build proves itself: a changed file is named by its digest, an edited verdict by the record's samples."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeprune import cli
from edgeprune.artifact import sha256_of
from edgeprune.errors import DataError
from edgeprune.records.build import BuildRecord, DeviceRow, write_build
from edgeprune.records.gates import edits, gates_again
from edgeprune.records.history import history
from edgeprune.records.show import read_build, unfinished_since
from edgeprune.records.verify import verify_build
from edgeprune.report.build import conditions_table
from edgeprune.report.history import change_text
from edgeprune.samples.average_precision import DropInterval
from edgeprune.samples.gates import RULES, Verdict, inform_by_later, overall_verdict
from edgeprune.serial import to_json, write_json
from edgeprune.version import __version__
from edgeprune.workspace import STATE, BuildState, StageRun
from tests.records.sample import build_record


def judged() -> BuildRecord:
    """The sample build, its gates as its samples and facts give them: all of them PASS."""
    record = build_record()
    engine = record.stages.engine
    facts = replace(engine.facts, accuracy_drop=DropInterval(0.01, 1e-3, 16, 1000))
    device = DeviceRow("local", False, record.measurements[0].measurement.conditions.identity, record.host)
    stages = replace(record.stages, engine=replace(engine, facts=facts))
    both = (*(replace(row, stage="prune") for row in record.measurements), *record.measurements)
    record = replace(record, rules=RULES, device=device, stages=stages, measurements=both)
    gates = tuple(inform_by_later(list(gates_again(record))))
    return replace(record, gates=gates, verdict=overall_verdict(gates))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of two files with the record of :func:`judged`."""
    folder = tmp_path / "run" / "bundle"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(bytes(1000))
    (folder / "labels.txt").write_text("cell\n")
    digests = {path.name: sha256_of(path) for path in folder.iterdir()}
    write_build(folder / "build.json", replace(judged(), bundle=digests))
    return folder


def rewritten(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Edited as the code before files had a digest of their own left it: what is found follows from the content."""
    content = json.loads((bundle / "build.json").read_text())
    change(content)
    content.pop("sha256", None)
    (bundle / "build.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (b"", "build.json: is empty; "),
        (b"\n", "build.json: is empty; "),
        (None, "build.json: is cut off: EOF while parsing"),
        (b"{}", "build.json: is not a build.json of edgeprune; "),
        (b'{"gates": [], "target": {}}', "build.json: edgeprune: "),
        (b"PK", "build.json: is not JSON: "),
    ],
    ids=["empty", "a line", "cut off", "of something else", "keys missing", "no JSON"],
)
@pytest.mark.parametrize("command", ["show", "verify", "history"])
def test_a_record_that_cannot_be_read_says_how_it_comes_back(
    bundle: Path, command: str, content: bytes | None, seen: str, monkeypatch: Any, capsys: Any
) -> None:
    file = bundle / "build.json"
    file.write_bytes(file.read_bytes()[:-200] if content is None else content)
    assert typed(monkeypatch, command, bundle) == 2
    said = capsys.readouterr().err
    assert seen in said and said.count("\n") == 1
    assert said.endswith("; copy the bundle again from where it was built, or build again\n")
    argv = ("edgeprune", "build", "--target", "cpu", "--weights", "my best.pt")
    write_json(bundle.parent / STATE, BuildState(argv, ()))  # where its build left it, finished stages are at hand
    assert typed(monkeypatch, command, bundle) == 2
    assert capsys.readouterr().err.endswith("with: edgeprune build --target cpu --weights 'my best.pt'\n")


def typed(monkeypatch: pytest.MonkeyPatch, *argv: object) -> int:
    monkeypatch.setattr(sys, "argv", ["edgeprune", *map(str, argv)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_a_build_that_nobody_touched_is_as_built(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judged().verdict is Verdict.PASS
    assert typed(monkeypatch, "verify", bundle) == 0
    assert capsys.readouterr().out.startswith("as built: 2 files, ")
    assert typed(monkeypatch, "show", bundle.parent) == 0


@pytest.mark.parametrize("command", ["show", "verify", "history", "push", "sign"])
@pytest.mark.parametrize("later", ["failed", "stopped", "as finished", "same keys"])
def test_a_later_build_that_did_not_finish_is_told_of_beside_the_one_before(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, later: str
) -> None:
    run, record = bundle.parent, read_build(bundle)
    rows = list(record.stages.items())
    runs = [StageRun(name, row.key, f"{name}-0", row.reused, None, ()) for name, row in rows]
    if later == "same keys":  # the command alone is another: a limit is in no key
        write_json(run / STATE, BuildState(("edgeprune", "build", "--max-map-drop", "0.1"), tuple(runs)))
    elif later == "as finished":
        write_json(run / STATE, BuildState(record.command, tuple(runs)))
    else:
        other = StageRun("prune", "f" * 64, "prune-ffffffffffff", False, None, ())
        write_json(run / STATE, BuildState(("edgeprune", "build", "--speed-up", "9"), (runs[0], other)))
    if later == "failed":
        (run / "failed" / "prune-ffffffffffff").mkdir(parents=True)
        (run / "failed" / "prune-ffffffffffff" / "reason.txt").write_text("it is out of reach")
    monkeypatch.setattr("edgeprune.records.signature.sign_build", lambda *_: bundle / "build.json.minisig")
    options: tuple[object, ...] = ("--to", run.parent / "models") if command == "push" else ()
    options = ("--key", "k") if command == "sign" else options
    assert typed(monkeypatch, command, run, *options) == (5 if command == "history" else 0)  # as without it
    said = capsys.readouterr().err
    told = [line for line in said.splitlines() if line.startswith(f"edgeprune: {run}: a later build")]
    if later == "as finished":
        assert "later build" not in said
        return
    [line] = told
    ends = {
        "failed": ": stage prune failed: it is out of reach; the one of {}; once that is mended: {} --speed-up 9",
        "stopped": "; the one of {}; go on with: {} --speed-up 9",
        "same keys": "; the one of {}; go on with: {} --max-map-drop 0.1",
    }
    told_of = f"{record.created} is told of"
    assert line == f"edgeprune: {run}: a later build here is not finished" + ends[later].format(
        told_of, "edgeprune build"
    )


def test_a_bundle_that_was_copied_elsewhere_knows_of_no_later_build(bundle: Path, tmp_path: Path) -> None:
    write_json(bundle.parent / STATE, BuildState(("edgeprune", "build"), ()))
    assert unfinished_since(bundle) and unfinished_since(bundle.parent)
    copied = tmp_path / "else" / "cells"
    shutil.copytree(bundle, copied)
    assert unfinished_since(copied) == ""
    (bundle.parent / STATE).write_text("{")
    assert unfinished_since(bundle) == ""


def test_a_flipped_byte_is_found_and_named(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray((bundle / "model.onnx").read_bytes())
    data[500] ^= 1
    (bundle / "model.onnx").write_bytes(data)
    for command in ("verify", "show"):
        assert typed(monkeypatch, command, bundle) == 2
        assert "model.onnx was changed" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["verify", "show", "push"])
def test_any_byte_of_the_record_itself_is_found(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    path = bundle / "build.json"
    whole = path.read_bytes()
    said = [whole.index(word) + 1 for word in (b'"verdict": "PASS', b"Made-up CPU", b"a b.pt", b"sha256", b"0.1.0")]
    said += [whole.index(b'"sha256": "') + 12, whole.index(b"\n"), len(whole) - 1]
    said += random.Random(0).sample(range(len(whole)), 10)
    target = ("--to", bundle.parent / "models") if command == "push" else ()
    for place in said:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        assert typed(monkeypatch, command, bundle, *target) == 2, (place, whole[place - 20 : place + 20])
        assert "build.json" in capsys.readouterr().err
    path.write_bytes(whole + b"\n")
    assert typed(monkeypatch, command, bundle, *target) == 2
    assert "build.json was changed" in capsys.readouterr().err
    assert not (bundle.parent / "models").exists()


def test_a_record_that_was_edited_by_hand_is_named_with_what_was_edited(bundle: Path) -> None:
    content = to_json(read_build(bundle))
    _gate(content, "speed-up")["value"] = 9.0
    write_json(bundle / "build.json", content)
    verified = verify_build(bundle)
    assert verified.changed == ("build.json was changed",) and len(verified.edited) == 1


def test_a_missing_file_is_for_verify_to_say_and_a_record_is_shown_alone(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle / "labels.txt").unlink()
    assert typed(monkeypatch, "show", bundle) == 0
    assert typed(monkeypatch, "verify", bundle) == 2
    assert "labels.txt is missing" in capsys.readouterr().err


def test_a_name_that_leaves_the_bundle_is_not_opened(bundle: Path) -> None:
    rewritten(bundle, lambda content: content["bundle"].update({"../../../etc/hostname": "0" * 64}))
    assert verify_build(bundle).changed == ("../../../etc/hostname lies outside of the bundle",)


def test_a_link_that_leads_round_is_a_file_that_is_missing(bundle: Path) -> None:
    (bundle / "labels.txt").unlink()
    (bundle / "labels.txt").symlink_to("labels.txt")
    assert verify_build(bundle).missing == ("labels.txt is missing",)


def _slower(content: dict[str, Any]) -> None:
    for row in content["measurements"]:
        if row["role"] == "candidate":
            row["measurement"]["values"] = [2 * value for value in row["measurement"]["values"]]


def _less_accurate(content: dict[str, Any]) -> None:
    content["stages"]["engine"]["facts"]["accuracy"]["accuracy"]["map50_95"] = 0.1


EDITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a sample": (_slower, "engine, speed-up: verdict PASS, its samples give FAIL"),
    "an accuracy": (_less_accurate, "mAP50-95 drop"),
    "a figure": (lambda content: _gate(content, "speed-up").update(value=9.0), "speed-up: value 9"),
    "a limit": (lambda content: _gate(content, "speed-up").update(limit=1.1), "speed-up: limit 1.1"),
    "no limit": (lambda content: _gate(content, "speed-up").update(limit=None), "speed-up: limit none"),
    "the budget": (lambda content: content["target"]["budget"].update(speed_up=3.0), "speed-up: verdict PASS"),
    "a row taken away": (lambda content: content["gates"].remove(_gate(content, "speed-up")), "row is missing"),
    "the widths": (
        lambda content: content["stages"]["finetune"]["facts"].update(signature="wider"),
        "finetune: shapes wider, the plan leaves r",
    ),
    "the verdict": (lambda content: content.update(verdict="FAIL"), "verdict FAIL, the gates give PASS"),
}


def _gate(content: dict[str, Any], metric: str) -> dict[str, Any]:
    return next(gate for gate in content["gates"] if (gate["stage"], gate["metric"]) == ("engine", metric))


@pytest.mark.parametrize("name", EDITS)
def test_what_was_edited_is_said_by_every_reader(bundle: Path, name: str) -> None:
    change, part = EDITS[name]
    rewritten(bundle, change)
    with pytest.raises(DataError, match="edited, not as it was built") as caught:
        verify_build(bundle).require_as_built()
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    built = history([bundle]).builds[0]
    assert any(part in line for line in built.edited)
    assert "edited: " in change_text(built, {})


def test_an_energy_beside_the_latencies_is_not_taken_for_one() -> None:
    record = judged()
    rows = [row for row in record.measurements if row.stage == "engine"]
    energies = [
        replace(row, measurement=replace(row.measurement, name="energy", unit="mJ", values=(float(place),) * 6))
        for place, row in enumerate(reversed(rows), 1)
    ]
    beside = replace(record, measurements=(*record.measurements, *energies))
    assert edits(beside) == edits(record) == ()
    assert beside.judged_latency == record.judged_latency
    assert conditions_table(beside).rows == conditions_table(record).rows


def test_what_waits_for_a_device_cannot_be_edited_to_pass() -> None:
    record = replace(judged(), device=None, measurements=())
    gates = tuple(inform_by_later(list(gates_again(record))))
    waiting = replace(record, gates=gates, verdict=overall_verdict(gates))
    assert waiting.verdict is Verdict.PENDING
    assert edits(waiting) == ()
    passed = tuple(replace(gate, verdict=Verdict.PASS, value=gate.limit) for gate in gates)
    assert len(edits(replace(waiting, gates=passed, verdict=Verdict.PASS))) >= 3


def test_a_build_that_a_stand_in_measured_later_is_as_built() -> None:
    record = judged()
    baseline = record.stages.baseline
    weighed = replace(baseline, facts=replace(baseline.facts, engine_bytes=None))
    assert record.device is not None
    device = replace(record.device, simulated=True)
    record = replace(record, device=device, stages=replace(record.stages, baseline=weighed))
    gates = inform_by_later(list(gates_again(record)))
    verdicts = {gate.metric: gate.verdict for gate in gates}
    assert (verdicts["ONNX size"], verdicts["mAP50-95 drop"]) == (Verdict.PASS, Verdict.INCONCLUSIVE)


@pytest.mark.parametrize(
    ("box", "score", "verdict"),
    [(9e-5, 1e-6, Verdict.PASS), (9e-5, 8e-5, Verdict.PASS), (1.5e-4, 1e-6, Verdict.FAIL)],
)
def test_boxes_of_a_large_input_may_have_been_held_as_those_of_640_px(
    box: float, score: float, verdict: Verdict
) -> None:
    record = judged()
    parity = replace(record.stages.export.facts.parity, max_abs=box, max_abs_box_px=box, max_abs_score=score)
    stages = replace(
        record.stages,
        export=replace(record.stages.export, facts=replace(record.stages.export.facts, parity=parity)),
        simplify=replace(record.stages.simplify, facts=replace(record.stages.simplify.facts, parity=parity)),
    )
    gates = {}
    for side in (640, 1280):
        target = record.target.model_copy(update={"imgsz": side})
        asked = replace(record, target=target, stages=stages, gates=())
        rows = tuple(inform_by_later(list(gates_again(asked))))
        gates[side] = rows, overall_verdict(rows)
    large = record.target.model_copy(update={"imgsz": 1280})
    record = replace(record, target=large, stages=stages)
    by_old = replace(record, gates=gates[640][0], verdict=gates[640][1])
    [simplified] = [row for row in by_old.gates if (row.stage, row.metric) == ("simplify", "output difference")]
    assert (simplified.limit, simplified.verdict) == (1e-4, verdict)
    assert edits(by_old) == edits(replace(record, gates=gates[1280][0], verdict=gates[1280][1])) == ()
    for changed in (replace(simplified, limit=3e-4), replace(simplified, value=1e-5)):
        rows = tuple(changed if row is simplified else row for row in by_old.gates)
        assert any("output difference" in line for line in edits(replace(by_old, gates=rows)))
    if verdict is Verdict.FAIL:
        rows = tuple(replace(row, verdict=Verdict.PASS) for row in by_old.gates)
        assert any("output difference" in line for line in edits(replace(by_old, gates=rows, verdict=Verdict.PASS)))


@pytest.mark.parametrize("rules", [None, RULES - 1, RULES + 1])
def test_gates_that_other_rules_judged_are_no_edit_whatever_the_version_says(
    bundle: Path, rules: int | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def judged_otherwise(content: dict[str, Any]) -> None:
        _slower(content)
        content["rules"] = rules
        if rules is None:  # as every record was before there was a number
            content.pop("rules")

    rewritten(bundle, judged_otherwise)
    assert read_build(bundle).edgeprune == __version__
    verified = verify_build(bundle)
    verified.require_as_built()
    assert verified.edited and history([bundle]).builds[0].edited == ()
    assert typed(monkeypatch, "verify", bundle) == 0
    assert "by today's rules: engine, speed-up: verdict PASS" in capsys.readouterr().out
    rewritten(bundle, lambda content: content.update(rules=RULES, edgeprune="0.0.9"))
    with pytest.raises(DataError, match="edited, not as it was built"):
        verify_build(bundle).require_as_built()


def test_a_sealed_record_from_before_rules_had_a_number_is_as_built(bundle: Path) -> None:
    """A file that today's code never wrote: without the key, and its digest over what it has."""
    file = bundle / "build.json"
    content = json.loads(file.read_text())
    content.pop("rules")
    _gate(content, "speed-up")["verdict"], content["verdict"] = "INCONCLUSIVE", "INCONCLUSIVE"  # as it may have judged
    content["sha256"] = ""
    unsealed = json.dumps(content, indent=1) + "\n"
    digest = hashlib.sha256(unsealed.encode()).hexdigest()
    file.write_text(unsealed.replace('"sha256": ""', f'"sha256": "{digest}"'))
    verified = verify_build(bundle)
    verified.require_as_built()
    assert verified.changed == () and verified.record.rules is None and verified.edited
    file.write_text(file.read_text().replace("INCONCLUSIVE", "PASS"))
    with pytest.raises(DataError, match=r"build\.json was changed"):  # the file's own digest holds of any rules
        verify_build(bundle).require_as_built()


def test_a_build_of_the_first_schema_is_verified_as_far_as_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its files by digest; its gates followed other rules, which is said and is no fault."""
    record = json.loads(Path(__file__).with_name("build-v1.json").read_text())
    for name in record["bundle"]:
        (tmp_path / name).write_text(name)
        record["bundle"][name] = sha256_of(tmp_path / name)
    (tmp_path / "build.json").write_text(json.dumps(record))
    assert typed(monkeypatch, "verify", tmp_path) == 0
    said = capsys.readouterr().out
    assert said.startswith("as built: 4 files") and "by today's rules: " in said
    (tmp_path / "later.txt").touch()
    assert typed(monkeypatch, "verify", tmp_path) == 0
    assert "not of the build, not checked: later.txt" in capsys.readouterr().out
    (tmp_path / "plan.json").write_text("other")
    assert typed(monkeypatch, "verify", tmp_path) == 2
    assert "plan.json was changed" in capsys.readouterr().err


def test_what_is_not_of_the_build_is_named_a_linked_folder_too(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret.txt").touch()
    (bundle / "extra").symlink_to(tmp_path / "elsewhere")
    (bundle / "note.txt").touch()
    assert verify_build(bundle).others == ("extra", "note.txt")
