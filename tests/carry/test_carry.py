"""A build carried to a board by hand and back: on a stand-in, whose figures never pass, and with wrong results."""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import io
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from edgeprune.artifact import Artifact, sha256_of
from edgeprune.carry import back, visit
from edgeprune.carry.back import import_results
from edgeprune.carry.kept import kept_answers
from edgeprune.carry.out import _images_that_fit, carried_files, waits_for_board, why_not_carried
from edgeprune.cli import app
from edgeprune.devices.fake import FakeBoard, fake_device
from edgeprune.devices.local import LocalDevice
from edgeprune.errors import DataError, DeviceError, StageError, TargetError
from edgeprune.pipeline import _next_command
from edgeprune.records.build import write_build
from edgeprune.records.gates import gates_again
from edgeprune.records.show import read_build
from edgeprune.records.verify import verify_build
from edgeprune.runtimes.base import BenchSettings
from edgeprune.runtimes.engine_file import read_facts
from edgeprune.runtimes.onnx_facts import onnx_facts
from edgeprune.runtimes.site import open_site
from edgeprune.samples.agreement import Counts
from edgeprune.samples.gates import RULES, Verdict, info_gate, inform_by_later, overall_verdict, pending_gate
from edgeprune.stages.base import Build, SilentBuild, Weights
from edgeprune.target import Budget, load_target
from edgeprune.workspace import STATE, BuildState, Key, Record, Workspace, open_workspace
from tests.records.sample import PARITY, accuracy, build_record

PROFILE = """
extends: jetson-orin-nano
precision: fp32
imgsz: 64
budget: {latency_ms: 40, statistic: p50}
accuracy: {max_map_drop: 0.02}
measure: {warmup_s: 0.01, rounds: 24, per_round: 4, retries: 0}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished build that waits for its board."""
    return waiting_build(tmp_path_factory.mktemp("carry"), PROFILE)


def waiting_build(root: Path, profile: str) -> Path:
    """A finished build that waits for its board: a record with PENDING rows, and ``bundle/device``."""
    root.mkdir(exist_ok=True)
    import yaml
    from ultralytics import YOLO
    from ultralytics.nn.tasks import yaml_model_load

    from edgeprune import checkpoint
    from edgeprune.data.digits import write_digits
    from edgeprune.dataset import Dataset
    from edgeprune.export.half import cast_to_fp16
    from edgeprune.export.onnx import onnx_from_checkpoint

    write_digits(root / "digits", train=4, val=4, test=4, imgsz=64)
    (root / "board.yaml").write_text(profile)
    target, sample = load_target(root / "board.yaml"), build_record()
    described = {**yaml_model_load("yolov8n.yaml"), "nc": 10}
    for name, width in (("baseline", 0.25), ("model", 0.125)):
        described["scales"] = {"n": [0.33, width, 1024]}
        (root / "yolov8n.yaml").write_text(yaml.safe_dump(described))
        network: Any = YOLO(str(root / "yolov8n.yaml"), task="detect").model
        network.names = {number: str(number) for number in range(10)}
        checkpoint.save(network, root / f"{name}.pt", like=None)
        onnx_from_checkpoint(
            root / f"{name}.pt",
            root / f"{name}.onnx",
            imgsz=64,
            batch=target.batch,
            head=target.exported_head,
            dynamic=target.export.dynamic,
        )
        if target.precision == "fp16":
            (root / f"{name}.onnx").rename(root / f"{name}-fp32.onnx")
            cast_to_fp16(root / f"{name}-fp32.onnx", root / f"{name}.onnx")
    records: dict[str, Record[Any]] = {
        stage: Record(Key(stage, {}), root, {"onnx": Artifact(root / name, sha256_of(root / name))}, facts, 0.0, "")
        for stage, name, facts in (
            ("baseline", "baseline.onnx", sample.stages.baseline.facts),
            ("simplify", "model.onnx", sample.stages.simplify.facts),
        )
    }
    dataset = Dataset.load(root / "digits" / "data.yaml", task="detect", need=("val",))
    weights = Weights(root / "model.pt", "", "detect")
    with open_site(target) as site:
        build = Build(site, weights, dataset, False, Workspace(root), SilentBuild(), records=records)
    with pytest.MonkeyPatch.context() as fewer:
        fewer.setattr("edgeprune.carry.out.IMAGES", 3)
        files = carried_files(build)
    for name, source in files.items():
        (root / "bundle" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, root / "bundle" / name)
    command = "scp and so on"
    gates = [
        info_gate("baseline", "mAP50-95", 0.5, "", "unpruned"),
        pending_gate("baseline", "latency p50", None, "ms", command),
        pending_gate("prune", "latency p50", 40.0, "ms", command),
        pending_gate("engine", "latency p50", 40.0, "ms", command),
        info_gate("engine", "mAP50-95 of the ONNX", 0.495, "", "by onnxruntime"),
        pending_gate("engine", "mAP50-95 drop", 0.02, "mAP50-95", command),
    ]
    baseline, engine = sample.stages.baseline, sample.stages.engine
    named = {(gate.stage, gate.metric) for gate in gates}
    unpruned, shipped = (
        replace(row.facts, accuracy=accuracy(value)) for row, value in ((baseline, 0.5), (engine, 0.495))
    )
    record = replace(
        sample,
        rules=RULES,
        target=target,
        stages=replace(
            sample.stages,
            baseline=replace(baseline, facts=replace(unpruned, engine_bytes=None)),  # there was none yet
            engine=replace(engine, facts=replace(shipped, layers=None, precision=None)),
        ),
        measurements=(),
        bundle={name: sha256_of(path) for name, path in files.items()},
        next_command=command,
    )
    rows = [*gates, *(gate for gate in gates_again(record) if (gate.stage, gate.metric) not in named)]
    rows = inform_by_later(rows)
    write_build(root / "bundle" / "build.json", replace(record, gates=tuple(rows), verdict=overall_verdict(rows)))
    (root / "report.md").write_text("old")
    Workspace(root).write_state(BuildState(("edgeprune", "build"), ()))
    return root


def measured(
    run: Path, there: Path, text: str = "orin-nano", without: str = ""
) -> tuple[subprocess.CompletedProcess[str], FakeBoard]:
    """Copy the folder to a stand-in board, one file of which is taken away, and run it there."""
    shutil.copytree(run / "bundle" / "device", there)
    board = fake_device(text).channel
    assert isinstance(board, FakeBoard)
    if without:
        (board.root / without).unlink()
    done = subprocess.run(
        ["sh", str(there / "run-on-device.sh")],
        capture_output=True,
        text=True,
        env=board.env,
        timeout=1200,
        check=False,
    )
    return done, board


@pytest.fixture(scope="module")
def results(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    there = tmp_path_factory.mktemp("board") / "device"
    done, board = measured(run, there)
    assert done.returncode == 0, done.stdout + done.stderr
    assert board.state() | {"runs": 0} == {"mode": "25W", "locked": False, "runs": 0}  # put back
    return there / "results.tar"


def copied(run: Path, tmp_path: Path) -> Path:
    for name in ("bundle", "report.md", STATE):
        source = run / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    return tmp_path


def test_what_comes_back_is_judged_and_a_stand_in_does_not_pass(run: Path, results: Path, tmp_path: Path) -> None:
    here = copied(run, tmp_path)
    record, bundle = import_results(results, here)
    assert record == read_build(bundle)
    verdicts = {(gate.stage, gate.metric): gate.verdict for gate in record.gates}
    assert Verdict.PENDING not in verdicts.values()
    assert verdicts["engine", "latency p50"] is Verdict.INCONCLUSIVE
    [earlier] = [gate for gate in record.gates if (gate.stage, gate.metric) == ("prune", "latency p50")]
    assert earlier.limit is None and earlier.reason.startswith("INCONCLUSIVE by itself (simulated, no device")
    assert verdicts["engine", "mAP50-95 drop"] is Verdict.INCONCLUSIVE
    assert {("baseline", "mAP50-95"), ("engine", "mAP50-95 of the ONNX")} <= set(verdicts)  # kept
    assert record.verdict in (Verdict.INCONCLUSIVE, Verdict.FAIL)
    [latency] = [gate for gate in record.gates if (gate.stage, gate.metric) == ("engine", "latency p50")]
    assert latency.reason.startswith("simulated, no device was measured (at most ")
    assert record.device is not None
    assert record.device.simulated and record.device.identity["module"] == "p3767-0005"
    assert record.device.identity["clocks"] == "locked"
    assert record.device.identity["power_mode"] == "MAXN_SUPER"
    assert record.bundle["engine.engine"] == sha256_of(bundle / "engine.engine")
    assert record.bundle["engine.engine.json"] == sha256_of(bundle / "engine.engine.json")
    facts = read_facts(bundle / "engine.engine")
    assert facts is not None and facts.builder.startswith("trtexec") and facts.simulated
    assert record.bundle["triton/edgeprune_tensorrt/1/model.plan"] == record.bundle["engine.engine"]
    assert {"deepstream/config_infer_primary.txt", "triton/edgeprune_onnx/config.pbtxt"} <= set(record.bundle)
    assert verify_build(here).changed == verify_build(here).missing == ()
    assert record.next_command is None
    timed = {(row.stage, row.role): row.measurement for row in record.latencies}
    before, after = timed["engine", "baseline"], timed["engine", "candidate"]
    assert len(before.values) == len(after.values) == 24 * 20
    assert sum(after.values) < sum(before.values)  # the narrower file is the faster one in the script
    telemetry = after.conditions.device.telemetry
    assert telemetry is not None and telemetry.source == "tegrastats"
    [energy] = [gate for gate in record.gates if gate.metric == "energy per inference"]
    shown = [row.measurement for row in record.measurements if row.measurement.name == "energy"]
    assert [len(one.values) for one in shown] == [6, 6]
    assert min(shown[1].values) == energy.value < min(shown[0].values)  # the stand-in draws 9 W, whatever it runs
    assert "SIMULATED device" in (here / "report.md").read_text()
    again, _ = import_results(results, here)  # taking them back twice changes nothing
    assert again.gates == record.gates


def rewritten(folder: Path, name: str, edit: Callable[[Any], object]) -> None:
    """A file of the results with other JSON in it, as if the board had written that."""
    data = json.loads((folder / name).read_text())
    edit(data)
    (folder / name).write_text(json.dumps(data))
    files = json.loads((folder / "results.json").read_text())["files"]
    change(folder, files={**files, name: sha256_of(folder / name)})


def test_precision_shares_of_a_carried_engine_are_of_medians(run: Path, results: Path, tmp_path: Path) -> None:
    here, folder = copied(run, tmp_path), unpacked(results, tmp_path)

    def one_in_half(info: Any) -> None:
        [tensor] = info["Layers"][0]["Inputs"]
        for place in ("Inputs", "Outputs"):
            half = "Channel major FP16 format where channel % 8 == 0"
            info["Layers"][0][place] = [{**tensor, "Format/Datatype": half}]

    def a_mean_of_another_user(profile: Any) -> None:
        rows = profile[1:]
        for row in rows:
            row["medianMs"] = row["averageMs"] = 1.0
        rows[0]["averageMs"] = 9.0

    [_, layers] = sorted(folder.glob("commands/*/*layers.json"))  # of the unpruned engine, and of the candidate
    [profile] = sorted(folder.glob("commands/*/profile.json"))  # of the candidate
    rewritten(folder, str(layers.relative_to(folder)), one_in_half)
    rewritten(folder, str(profile.relative_to(folder)), a_mean_of_another_user)
    record, _ = import_results(folder, here)
    [held] = [gate for gate in record.gates if gate.metric == "fp32 in the engine"]
    assert held.value == pytest.approx(3 / 4)  # by means it were 3 / 12


WITH_NMS = f"{PROFILE}batch: 2\nexport: {{nms: true}}\n"


def test_a_carried_graph_with_nms_inside_is_to_be_timed_on_the_images_that_go_along(tmp_path: Path) -> None:
    here = waiting_build(tmp_path / "run", WITH_NMS.replace("rounds: 24", "rounds: 120"))
    request = json.loads((here / "bundle/device/request.json").read_text())
    first = next(iter(request["inputs"]))
    assert request["scripts"]
    for script in request["scripts"]:
        turns = [command["turns"] for command in script["commands"] if command["turns"]]
        assert len(turns) == 2  # the latency, and the energy
        assert turns[0]["rounds"] == turns[0]["least_rounds"] + 8 == 48, "twice those of a usual profile"
        titles = [command["title"] for command in script["commands"] if command["turns"]]
        assert titles[0] == "timing: 48 processes of each of 2 engines, in turns"
        for argv in (argv for turn in turns for argv in turn["programs"]):
            assert f"--loadInputs=images:{first}" in argv


@pytest.mark.parametrize(
    ("rounds", "processes", "samples"), [(4, 24, 20), (60, 24, 20), (119, 24, 25), (120, 48, 20), (100_000, 384, 1303)]
)
def test_more_rounds_than_usual_are_more_processes_on_a_board_that_measures_once(
    rounds: int, processes: int, samples: int
) -> None:
    asked = visit._for_one_visit(BenchSettings(rounds=max(rounds, 20), per_round=5), rounds)
    assert (asked.rounds, asked.per_round, asked.effort) == (processes, samples, processes / 24)


def test_results_of_a_folder_that_an_earlier_version_packed_are_judged_as_they_were_asked_for(
    run: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visit, "processes_of_visit", lambda rounds: 48)
    monkeypatch.setattr("edgeprune.carry.device.TITLES", {})
    record, _ = import_results(results, copied(run, tmp_path))
    assert {len(row.measurement.conditions.launches) for row in record.latencies} == {24}


@pytest.mark.slow
def test_a_carried_graph_with_nms_inside_is_timed_on_images_and_says_so(tmp_path: Path) -> None:
    here = waiting_build(tmp_path / "run", WITH_NMS)
    done, _ = measured(here, tmp_path / "device")
    assert done.returncode == 0, done.stdout + done.stderr
    record, _ = import_results(tmp_path / "device" / "results.tar", here)
    timed = [row.measurement for row in record.measurements]
    assert timed and all(one.conditions.images for one in timed)


def test_a_carried_graph_of_free_batch_is_packed_run_and_judged_at_the_batch_that_its_engine_is_built_for(
    tmp_path: Path,
) -> None:
    here = waiting_build(tmp_path / "run", f"{PROFILE}batch: 2\nexport: {{dynamic: true}}\n")
    packed = here / "bundle" / "device"
    assert len(json.loads((packed / "request.json").read_text())["inputs"]) == 2  # 3 images in stacks of 2
    done, _ = measured(here, tmp_path / "device")
    assert done.returncode == 0, done.stdout + done.stderr
    record, bundle = import_results(tmp_path / "device" / "results.tar", here)
    facts = read_facts(bundle / "engine.engine")
    assert facts is not None and facts.inputs[0].shape == (2, 3, 64, 64)
    [agreement] = [gate for gate in record.gates if gate.metric == "agreement with the ONNX"]
    assert agreement.value == 1.0 and "3 images" in agreement.reason


@pytest.mark.parametrize(("runtime", "waits"), [("trtexec", True), ("tensorrt", False), ("onnxruntime-cuda", False)])
def test_only_what_trtexec_measures_is_carried(runtime: Any, waits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    target = load_target("jetson-orin").model_copy(update={"runtime": runtime})
    assert waits_for_board(target) == waits
    remedy, told = "pip install onnxruntime-gpu", {}
    for argv in (["edgeprune", "build"], ["edgeprune", "build", "--device", "local"]):
        told[argv[-1]] = _next_command(target, remedy, Path("runs/x"), argv)
    here = {"build": "edgeprune build", "local": "edgeprune build --device local"}
    if waits:
        assert all("run-on-device.sh" in command for command in told.values())
    else:  # TensorRT's own module is driven nowhere but in the process
        assert told == here | ({} if runtime == "tensorrt" else {"build": "edgeprune build --device user@board"})
    monkeypatch.setattr(LocalDevice, "facts", lambda _: SimpleNamespace(l4t="36.4.3"))  # on the board itself
    there = _next_command(target, remedy, Path("runs/x"), ["edgeprune", "build"])
    assert there == (told["build"] if waits else f"{remedy} && edgeprune build")


@pytest.mark.slow
def test_a_xavier_is_carried_the_fp32_graph_and_chooses_fp16(tmp_path: Path) -> None:
    profile = PROFILE.replace("jetson-orin-nano", "jetson-xavier-nx").replace("fp32", "fp16")
    here = waiting_build(tmp_path / "run", profile)
    request = json.loads((here / "bundle/device/request.json").read_text())
    assert [script["first"] for script in request["scripts"]] == [[8, 5, 0]]  # the profile ends before 8.6
    done, _ = measured(here, tmp_path / "device", "xavier-nx")
    assert done.returncode == 0, done.stdout + done.stderr
    record, _ = import_results(tmp_path / "device" / "results.tar", here)
    assert record.device is not None and record.device.identity["module"] == "p3668-0000"
    assert record.device.identity["runtime"] == "trtexec 8.5.2"
    [precision] = [gate for gate in record.gates if gate.metric == "fp16 in the engine"]
    assert precision.value == 1.0 and precision.verdict is Verdict.INCONCLUSIVE  # of a stand-in
    other, _ = measured(here, tmp_path / "newer", "xavier-nx,jetpack=6.2")
    assert other.returncode == 4 and "this has JetPack 6.2, the request asks for >=5.1,<6" in other.stderr


def test_a_real_boards_results_can_pass_or_fail(
    run: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same files without the stand-in's mark: what decides is the samples."""
    here = copied(run, tmp_path)
    folder = unpacked(results, tmp_path)
    change(folder, simulated=False)
    record, _ = import_results(folder, here)
    verdicts = {(gate.stage, gate.metric): gate.verdict for gate in record.gates}
    assert verdicts["engine", "latency p50"] is Verdict.PASS
    [pruned] = [gate.reason for gate in record.gates if gate.stage == "prune" and "nothing had to" in gate.reason]
    assert "with --macs-speed-up 1 in place of the budget to ship it" in pruned
    assert verdicts["engine", "fp32 in the engine"] is Verdict.PASS
    assert verify_build(here).edited == ()
    target = record.target
    record = replace(record, target=target.model_copy(update={"budget": Budget(latency_ms=0.01, statistic="p50")}))
    record = replace(record, gates=tuple(inform_by_later(list(gates_again(record)))))
    write_build(here / "bundle" / "build.json", replace(record, verdict=overall_verdict(record.gates)))
    record, _ = import_results(folder, here)
    assert record.verdict is Verdict.FAIL
    assert not any("nothing had to be pruned" in gate.reason for gate in record.gates)


def test_what_had_not_to_be_pruned_is_asked_for_by_a_profile_that_names_its_levers(
    run: Path, results: Path, tmp_path: Path
) -> None:
    """levers: auto, of which the board's build took nothing, is refused beside a ratio of MACs."""
    here, folder = copied(run, tmp_path), unpacked(results, tmp_path)
    change(folder, simulated=False)
    record = replace(read_build(here), levers="levers auto: nothing can be measured here")
    write_build(here / "bundle" / "build.json", record)
    record, _ = import_results(folder, here)
    assert any("1 in place of the budget, and levers: named in the profile, to ship" in g.reason for g in record.gates)


@pytest.mark.parametrize(("images", "advice"), [(3, "accuracy.split"), (200, "up to 128 images are compared")])
def test_more_images_are_advised_from_where_there_are_more(
    images: int, advice: str, run: Path, results: Path, tmp_path: Path
) -> None:
    from edgeprune.export.parity import compare_arrays

    here, folder = copied(run, tmp_path), unpacked(results, tmp_path)
    change(folder, simulated=False)
    record = read_build(here)
    engine = record.stages.engine
    figures = replace(engine.facts.accuracy, accuracy=replace(engine.facts.accuracy.accuracy, images=images))
    stages = replace(record.stages, engine=replace(engine, facts=replace(engine.facts, accuracy=figures)))
    with pytest.MonkeyPatch.context() as patch:  # of an untrained model the graph finds nothing to agree about
        parity = replace(PARITY, images=3, detections_agreement=0.9, by_image=(Counts(10, 10, 9),) * 3)
        patch.setattr(sys.modules[compare_arrays.__module__], "compare_arrays", lambda *_, **__: parity)
        write_build(here / "bundle" / "build.json", replace(record, stages=stages))
        record, _ = import_results(folder, here)
    [agreement] = [gate for gate in record.gates if gate.metric == "agreement with the ONNX"]
    assert agreement.verdict is Verdict.INCONCLUSIVE and advice in agreement.reason


def test_a_moved_build_is_carried_from_where_it_lies(run: Path, results: Path, tmp_path: Path) -> None:
    """Shown as a run directory and as a bundle alone; what came back may have to be carried again."""
    here = tmp_path / "moved run"
    here.mkdir()
    copied(run, here)
    for place, packed in ((here, here / "bundle"), (here / "bundle", here / "bundle")):
        told = CliRunner().invoke(app, ["show", str(place)])
        shown = " ".join(told.stdout.split())
        assert told.exit_code == 5
        assert f"scp -r '{packed}/device' USER@BOARD:edgeprune-device" in shown and "scp and so on" not in shown
        assert shown.endswith(f"edgeprune import-results results.tar --run '{place}'")
    record, _ = import_results(results, here)
    assert record.carried_by is not None and f"--run '{here}'" in record.carried_by


def figure_edited(found: dict[str, Any]) -> None:
    accuracy = found["stages"]["engine"]["facts"]["accuracy"]["accuracy"]
    assert accuracy["map50_95"] == 0.495
    accuracy["map50_95"] = 0.5


def gate_edited(found: dict[str, Any]) -> None:
    """As somebody does it who knows of the digest and leaves it out, as older records do."""
    del found["sha256"]
    [drop] = [gate for gate in found["gates"] if gate["metric"] == "mAP50-95 drop"]
    drop["limit"] = 0.9


@pytest.mark.parametrize("named", ["run", "bundle"])
def test_nothing_is_imported_into_a_run_directory_that_a_build_holds(
    run: Path, results: Path, tmp_path: Path, named: str
) -> None:
    (tmp_path / "run").mkdir()
    copy = copied(run, tmp_path / "run")
    before = (copy / "bundle" / "build.json").read_bytes()
    with open_workspace(copy), pytest.raises(StageError, match="another build"):
        import_results(results, copy if named == "run" else copy / "bundle")
    assert (copy / "bundle" / "build.json").read_bytes() == before
    (copy / "bundle").rename(copy / ".bundle-old")  # as a kill leaves it
    import_results(results, copy)
    assert (copy / "bundle" / "build.json").read_bytes() != before


def test_a_build_whose_bundle_was_being_replaced_is_found_without_its_name(
    run: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "one").mkdir(parents=True)
    copy = copied(run, tmp_path / "runs" / "one")
    (copy / "bundle").rename(copy / ".bundle-old")
    monkeypatch.chdir(tmp_path)
    with open_workspace(copy):  # it may be this very build that replaces it
        (copy / "bundle").rename(copy / ".bundle-old")
        with pytest.raises(DataError, match="no build below runs/ packed this request"):
            import_results(results)
    import_results(results)
    assert (copy / "bundle" / "build.json").is_file() and not (copy / ".bundle-old").exists()


@pytest.mark.parametrize(
    "refused",
    [
        TargetError("runs/other: cannot be written"),
        StageError("runs/other: another build works here"),
        DataError("runs/other: no build"),
        NotADirectoryError("runs/other/bundle"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_another_build_that_cannot_be_put_back_does_not_end_an_import(
    run: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Exception
) -> None:
    (tmp_path / "runs" / "one").mkdir(parents=True)
    copy = copied(run, tmp_path / "runs" / "one")
    (tmp_path / "runs" / "other" / ".bundle-old").mkdir(parents=True)

    @contextlib.contextmanager
    def held(folder: Path) -> Iterator[None]:
        if folder.name == "other":
            raise refused
        yield

    monkeypatch.setattr("edgeprune.carry.back.held", held)
    monkeypatch.chdir(tmp_path)
    import_results(results)
    assert "SIMULATED device" in (copy / "report.md").read_text()


def test_another_build_that_cannot_be_read_does_not_end_an_import(
    run: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "runs" / "one"
    copy.mkdir(parents=True)
    copied(run, copy)
    other = tmp_path / "runs" / "another" / "bundle"
    (other / "device").mkdir(parents=True)
    for name in ("build.json", "device/request.json"):
        (other / name).touch()

    def digest(path: Path) -> str:
        if path.is_relative_to(Path("runs/another")):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return sha256_of(path)

    monkeypatch.setattr("edgeprune.carry.back.sha256_of", digest)
    monkeypatch.chdir(tmp_path)
    import_results(results)
    assert "SIMULATED device" in (copy / "report.md").read_text()


@pytest.mark.parametrize(("name", "named"), [("bundle", "."), ("bundle", "bundle"), ("shipped", "shipped")])
def test_what_lies_beside_a_bundle_that_was_copied_elsewhere_is_somebody_elses(
    run: Path, results: Path, tmp_path: Path, name: str, named: str
) -> None:
    shutil.copytree(run / "bundle", tmp_path / name)
    (tmp_path / "report.md").write_text("mine")
    before = (tmp_path / name / "build.json").read_bytes()
    import_results(results, tmp_path / named)
    assert (tmp_path / "report.md").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {name, "report.md"}
    assert (tmp_path / name / "build.json").read_bytes() != before


@pytest.mark.parametrize("edit", [figure_edited, gate_edited])
def test_an_edited_record_gets_no_seal_by_an_import(
    run: Path, results: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], None]
) -> None:
    here = copied(run, tmp_path)
    path = here / "bundle" / "build.json"
    found = json.loads(path.read_text())
    edit(found)
    path.write_text(json.dumps(found, indent=1) + "\n")
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"edited, not as it was built: .*; build again"):
        import_results(results, here)
    assert path.read_bytes() == before
    assert not (here / "bundle" / "engine.engine").exists()


@pytest.mark.slow
@pytest.mark.parametrize("version", ["10.7.0", "10.16.1", "11.1.0", "11.4.1"])
def test_a_board_with_a_newer_tensorrt_runs_the_commands_of_its_generation(
    run: Path, tmp_path: Path, version: str
) -> None:
    if version.startswith("11."):  # which the shipped profile of this board leaves out, as NVIDIA does
        widened = tmp_path / "widened"
        widened.mkdir()
        run = waiting_build(widened, f"{PROFILE}device: {{tensorrt: '>=10.3,<12'}}\n")
    done, _ = measured(run, tmp_path / "device", f"orin-nano,tensorrt={version}")
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "run").mkdir()
    record, bundle = import_results(tmp_path / "device" / "results.tar", copied(run, tmp_path / "run"))
    assert record.device is not None and record.device.identity["runtime"] == f"trtexec {version}"
    assert f"The lines are for TensorRT {version}, which built the engine" in (bundle / "README.md").read_text()
    assert record.target == read_build(run).target  # which the same build command compares with its own
    assert Verdict.PENDING not in [gate.verdict for gate in record.gates]


def unpacked(results: Path, tmp_path: Path) -> Path:
    with tarfile.open(results) as packed:
        packed.extractall(tmp_path / "unpacked")
    return tmp_path / "unpacked" / "results"


def change(folder: Path, **entries: object) -> None:
    found = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps({**found, **entries}))


@pytest.mark.parametrize("wrong", ["times", "request", "commands", "board", "mode", "not a tar", "no build", "escape"])
def test_results_that_do_not_belong_are_refused_and_nothing_changes(
    run: Path, results: Path, tmp_path: Path, wrong: str
) -> None:
    here = copied(run, tmp_path)
    before = (here / "bundle" / "build.json").read_bytes()
    folder = unpacked(results, tmp_path)
    given: Path = folder
    error: type[Exception] = DataError
    words = {
        "times": r"commands/002/stdout is missing or was changed",
        "request": "answer another request",
        "commands": "command 5 is not what this edgeprune measures; build again",
        "board": "not from the target's board: it is .* the profile is about",
        "mode": "measured in power mode 15W, the target asks for MAXN_SUPER",
        "not a tar": "is not the results.tar",
        "no build": "name the run directory",
        "escape": r"\.\./evil does not belong into results",
    }[wrong]
    if wrong == "times":
        (folder / "commands" / "002" / "stdout").write_text("{}\n")
    elif wrong == "request":
        change(folder, request_sha256="0" * 64)
    elif wrong == "commands":
        answers = json.loads((folder / "results.json").read_text())["answers"]
        assert len(answers) == 2 + 1 + 1 + 1 + 3
        change(folder, answers=answers[:5])
    elif wrong == "board":
        error = DeviceError
        change(folder, facts={**json.loads((folder / "results.json").read_text())["facts"], "modules": ["p3701-0000"]})
    elif wrong == "mode":
        error = DeviceError
        change(folder, conditions={"power_mode": "15W"})
    elif wrong == "not a tar":
        given = tmp_path / "x.tar"
        given.write_bytes(b"nonsense")
    elif wrong == "no build":
        here = tmp_path / "elsewhere"
        here.mkdir()
    else:
        given = tmp_path / "evil.tar"
        (tmp_path / "evil").write_text("x")
        with tarfile.open(given, "w") as packed:
            packed.add(tmp_path / "evil", arcname="../evil")
    with pytest.raises(error, match=words):
        import_results(given, here)
    assert (tmp_path / "bundle" / "build.json").read_bytes() == before


def test_results_that_are_too_large_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeprune.carry.back.MAX_RESULTS_BYTES", 1 << 29)
    with tarfile.open(tmp_path / "large.tar", "w") as packed:
        packed.addfile(tarfile.TarInfo("results/first"))
        entry = tarfile.TarInfo("results/second")
        entry.size = (1 << 29) + 1  # it is told before the content, which is not there
        packed.addfile(entry)
    with pytest.raises(DataError, match=r"large.tar: what it holds is larger than 0.5 GiB.*: tar -xf .*large.tar"):
        import_results(tmp_path / "large.tar", tmp_path)


@pytest.mark.parametrize(
    ("batch", "fitting", "images"),
    [(1, 99, 32), (1, 20, 20), (8, 20, 16), (16, 20, 16), (32, 20, 8), (1, 0, 8)],
)
def test_as_many_images_are_packed_as_their_outputs_can_come_back(
    batch: int, fitting: int, images: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnx import TensorProto, helper, save

    shape = [batch, 1, 8, 8]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xyz"]
    nodes = [helper.make_node("Relu", ["x"], [name]) for name in "yz"]
    model = helper.make_model(
        helper.make_graph(nodes, "g", values[:1], values[1:]), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    save(model, tmp_path / "model.onnx")
    of_an_image = 2 * 64 * len("-1.23457e-05, ")  # and as much again is for the engines
    monkeypatch.setattr("edgeprune.carry.out.MAX_RESULTS_BYTES", 2 * fitting * of_an_image)
    assert _images_that_fit(tmp_path, onnx_facts(tmp_path / "model.onnx")) == images


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])
def test_results_that_hold_nothing_are_named_as_they_were_given(packed: bool, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    (given / "results.json").write_text("{")
    if packed:
        with tarfile.open(tmp_path / "given.tar", "w") as archive:
            archive.add(given / "results.json", arcname="results/results.json")
        (tmp_path / "empty.tar").touch()
        with pytest.raises(DataError, match=r"empty.tar: is empty; copy .* again, or measure again on the board: sh "):
            import_results(tmp_path / "empty.tar", tmp_path)
    where = tmp_path / "given.tar" if packed else given
    with pytest.raises(DataError, match=f"^{where}: results.json: is cut off: .*; copy results.tar from the board"):
        import_results(where, tmp_path)
    (given / "results.json").unlink()
    if packed:
        with tarfile.open(where, "w") as archive:
            archive.add(given, arcname="results")
    with pytest.raises(
        DataError, match=f"^{where}: holds no results.json .*; measure again on the board: sh edgeprune-device/"
    ):
        import_results(where, tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("orin-nx", r"this is NVIDIA Jetson Orin NX .* the request is for Jetson Orin Nano"),
        ("orin-nano,no-sudo", r"this user may not change it; type there: sudo nvpmodel -m 2"),
        ("orin-nano,reboot=MAXN_SUPER", "needs a reboot of the board"),
        ("orin-nano,tensorrt=12.0.0", r"TensorRT 12\.0\.0 is not among those that this request knows"),
    ],
)
def test_a_board_that_will_not_do_says_so_and_stays_as_it_was(run: Path, tmp_path: Path, text: str, words: str) -> None:
    import re

    done, board = measured(run, tmp_path / "device", text)
    assert done.returncode == 4, done.stdout + done.stderr
    assert re.search(words, done.stderr)
    assert done.stderr.count("\n") == 1
    assert board.state() | {"runs": 0} == {"mode": "25W", "locked": False, "runs": 0}
    assert not (tmp_path / "device" / "results.tar").exists()


def test_a_container_without_the_release_of_its_board_is_told_before_it_measures(run: Path, tmp_path: Path) -> None:
    done, board = measured(run, tmp_path / "device", without="etc/nv_tegra_release")
    assert done.returncode == 4 and done.stderr.count("\n") == 1, done.stdout + done.stderr
    assert "-v /etc/nv_tegra_release:/etc/nv_tegra_release:ro" in done.stderr
    assert board.state()["runs"] == 0 and not (tmp_path / "device" / "results").exists()


def test_only_a_trtexec_that_the_profile_asks_for_gets_commands_and_is_taken_back(
    run: Path, results: Path, tmp_path: Path
) -> None:
    """A live build holds the version of the profile's own trtexec against its range too."""
    from edgeprune.carry.back import _read_results, _require_board
    from edgeprune.carry.out import _scripts

    target, answered = read_build(run / "bundle").target, _read_results(unpacked(results, tmp_path), results)
    _require_board(target, answered)  # 10.3.0
    own = {"trtexec": ("/opt/trtexec",)}
    with pytest.raises(DeviceError, match=r"it has TensorRT 10\.3\.0, the profile asks for >=10\.7,<12"):
        _require_board(target.changed({"device.trtexec": "/opt/trtexec", "device.tensorrt": ">=10.7,<12"}), answered)
    on_dla = target.model_copy(
        update={"device": target.device.model_copy(update=own | {"dla_core": 0, "tensorrt": ">=10.3,<12"})}
    )
    with pytest.raises(DeviceError, match=r"its TensorRT 11\.1\.0 has no DLA"):
        _require_board(on_dla, replace(answered, banner="TensorRT.trtexec [TensorRT v110100]"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("edgeprune.carry.out._record", lambda *_: ())
        for versions, spans in (
            (">=10.3,<12", [((10, 3, 0), (11, 0, 0)), ((11, 0, 0), (12, 0, 0))]),
            (">=10.7,<11", [((10, 7, 0), (11, 0, 0))]),
            (">=11", [((11, 0, 0), (12, 0, 0))]),
            ("==10.3.*", [((10, 3, 0), (10, 4, 0))]),
            (">=10.3,!=10.7.*,<=10.9", [((10, 3, 0), (10, 7, 0)), ((10, 8, 0), (10, 9, 1))]),
        ):
            scripts = _scripts(target.changed({"device.tensorrt": versions}), tmp_path, None, {})  # type: ignore[arg-type]
            assert [(script.first, script.below) for script in scripts] == spans, versions
        core = {"device.dla_core": 0, "measure.cuda_graph": False, "device.tensorrt": ">=10.3,<12"}
        scripts = _scripts(load_target("jetson-orin-nx").changed(core), tmp_path, None, {})  # type: ignore[arg-type]
        assert [script.first[0] for script in scripts] == [10], "11 has a DLA on an AGX Orin alone"


def test_the_releases_of_jetpack_that_a_profile_asks_for_are_in_the_request(run: Path) -> None:
    from edgeprune.carry.out import _jetpacks

    request = json.loads((run / "bundle/device/request.json").read_text())
    assert request["jetpack"] == read_build(run / "bundle").target.device.jetpack == ">=6.1"
    assert {"6.1", "6.2", "6.2.1", "7.2"} <= set(request["jetpacks"]) and "6.0" not in request["jetpacks"]
    assert _jetpacks(None) == () and _jetpacks(">=5.1,<5.1.3") == ("5.1.2", "5.1.1", "5.1")


def test_energy_and_layers_that_fail_on_the_board_cost_their_rows_alone(
    run: Path, results: Path, tmp_path: Path
) -> None:
    here, folder, notes = copied(run, tmp_path), unpacked(results, tmp_path), []
    request = json.loads((run / "bundle/device/request.json").read_text())
    informing = [place for place, command in enumerate(request["scripts"][0]["commands"]) if command["informs"]]
    assert informing == [3, 4]
    answers = json.loads((folder / "results.json").read_text())["answers"]
    for place in informing:
        answers[place] |= {"returncode": 1, "failure": f"trtexec failed with 1: number {place}"}
    change(folder, answers=answers)
    record, _ = import_results(folder, here, notes.append)
    assert [note.rpartition(": ")[2] for note in notes] == ["number 3", "number 4"]
    metrics = [gate.metric for gate in record.gates]
    assert "energy per inference" not in metrics and "latency p50" in metrics
    [held] = [gate for gate in record.gates if gate.metric == "fp32 in the engine"]
    assert "of 4 layers that multiply" in held.reason or "of 3 layers" in held.reason


def test_a_trtexec_in_a_container_is_not_carried_and_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    target = load_target("jetson-orin-nano")
    wrapped = target.changed({"device.trtexec": ["nice", "-n", "-5", "trtexec"]})
    inside = target.changed({"device.trtexec": ["sudo", "/usr/bin/docker", "run", "IMAGE", "trtexec"]})
    assert waits_for_board(wrapped) and not why_not_carried(wrapped)
    assert not waits_for_board(inside)
    assert "device.trtexec starts a container (docker)" in why_not_carried(inside)
    argv = ["edgeprune", "build"]
    assert _next_command(inside, "", Path("runs/x"), argv) == "edgeprune build --device user@board"


def test_a_second_visit_leaves_no_energy_of_the_first(
    run: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeprune.carry import back

    here, real = copied(run, tmp_path), back._replay
    record, _ = import_results(results, here)
    assert "energy per inference" in [gate.metric for gate in record.gates]
    monkeypatch.setattr(back, "_replay", lambda *told: replace(real(*told), energy=None))
    record, _ = import_results(results, here)
    assert "energy per inference" not in [gate.metric for gate in record.gates]
    assert "mAP50-95 of the ONNX" in [gate.metric for gate in record.gates]


@pytest.mark.parametrize("place", ["run", "elsewhere"])
def test_a_disk_that_is_full_leaves_the_bundle_as_it_was(
    run: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "run").mkdir()
    here = copied(run, tmp_path / "run") / "bundle"
    if place == "elsewhere":
        here = here.rename(tmp_path / "shipped")
    import_results(results, here)
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    change(unpacked(results, tmp_path / "again"), simulated=False)
    real: Any = shutil.copy

    def full(source: Path, target: Path) -> object:
        if "edgeprune-import-" not in str(source):
            return real(source, target)
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr("edgeprune.artifact.shutil.copy", full)
    with pytest.raises(OSError, match="No space left"):
        import_results(tmp_path / "again" / "unpacked" / "results", here)
    monkeypatch.undo()
    with open_workspace(here.parent) if place == "run" else contextlib.nullcontext():  # it clears what was half done
        pass
    after = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    named = {path for path in after if "again" not in path.parts and path.name != ".lock"}
    assert {path: after[path] for path in named} == {path: before[path] for path in before if path.name != ".lock"}


def test_an_import_takes_a_signature_away_that_vouches_no_more(run: Path, results: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    here, notes = copied(run, tmp_path / "run"), []
    for bundle in (here / "bundle", shutil.copytree(here / "bundle", tmp_path / "shipped")):
        (bundle / "build.json.minisig").write_text("signed")
        (bundle / "mine.txt").write_text("kept")
        import_results(results, bundle, notes.append)
        assert not (bundle / "build.json.minisig").exists() and (bundle / "mine.txt").read_text() == "kept"
        assert notes.pop().endswith(f"sign again: edgeprune sign {bundle} --key KEY")
        import_results(results, bundle, notes.append)
        assert notes == []


@pytest.mark.parametrize("kind", ["gz", "xz", "bz2"])
def test_a_packed_tar_that_is_damaged_is_a_data_error(results: Path, tmp_path: Path, kind: str) -> None:
    packer: Any = {"gz": gzip, "xz": lzma, "bz2": bz2}[kind]
    content, given = packer.compress(results.read_bytes()), tmp_path / f"results.tar.{kind}"
    for at in range(32, len(content), len(content) // 8):
        given.write_bytes(content[:at] + b"\xff" * 64 + content[at + 64 :])
        with pytest.raises(DataError):
            import_results(given, tmp_path)


def test_a_damaged_folder_is_refused_on_the_board(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "bundle" / "device", tmp_path / "device")
    (tmp_path / "device" / "model.onnx").write_bytes(b"half")
    done = subprocess.run(
        ["sh", str(tmp_path / "device" / "run-on-device.sh")], capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 4
    assert "model.onnx is missing or not what was packed" in done.stderr


def test_stopping_it_puts_the_board_back(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "bundle" / "device", tmp_path / "device")
    board = fake_device("orin-nano").channel
    assert isinstance(board, FakeBoard)
    argv = [sys.executable, str(tmp_path / "device" / "agent.zip"), "carried", str(tmp_path / "device")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=board.env) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("timing"):
                break
        assert board.state()["mode"] == "MAXN_SUPER"
        os.kill(process.pid, signal.SIGTERM)
        ends = time.perf_counter() + 120
        while process.poll() is None and time.perf_counter() < ends:
            time.sleep(0.05)
        assert process.returncode == 130
    assert board.state() | {"runs": 0} == {"mode": "25W", "locked": False, "runs": 0}


class Endless(io.RawIOBase):
    """A member of an archive that is larger than anybody has memory for, told by what it is asked for at once."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.most = 0

    def read(self, size: int = -1) -> bytes:  # type: ignore[override]
        assert size > 0, "the whole of it was asked for at once"
        self.most = max(self.most, size)
        taken = min(size, self.left)
        self.left -= taken
        return bytes(taken)


def test_a_large_member_is_unpacked_piece_by_piece(tmp_path: Path) -> None:
    member = Endless(5 * back.PIECE_BYTES + 7)
    back._copy(member, tmp_path / "engine")  # type: ignore[arg-type]
    assert (tmp_path / "engine").stat().st_size == 5 * back.PIECE_BYTES + 7
    assert member.most == back.PIECE_BYTES


def test_a_full_disk_here_is_not_taken_for_a_damaged_archive(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, _: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", lambda *_: Full())
    with pytest.raises(StageError, match="cannot be written: No space left on device; free some space"):
        back._unpack(results, tmp_path)


def test_the_scenes_of_the_page_outlive_what_comes_back(run: Path, results: Path, tmp_path: Path) -> None:
    from edgeprune.report.build import build_markdown, build_page
    from tests.measure.test_scenes import scene

    here = copied(run, tmp_path)
    (here / "report.md").write_text(build_markdown(read_build(here)))
    (here / "report.html").write_text(build_page(read_build(here), [scene()]))
    for _ in range(2):
        record, _ = import_results(results, here)
        page = (here / "report.html").read_text()
        assert page == build_page(record, [scene()])
        assert (record.carried_by or "").endswith(f"results.tar --run {here}")


def upgraded(asked: dict[str, Any]) -> None:
    asked["files"]["agent.zip"] = "a" * 64
    asked["scripts"][0]["commands"][0]["title"] = "in other words"


def of_another_graph(asked: dict[str, Any]) -> None:
    asked["files"]["model.onnx"] = "b" * 64


@pytest.mark.parametrize(
    ("request_edit", "changes", "says"),
    [
        (None, {}, ""),
        (upgraded, {}, ""),
        (of_another_graph, {}, "the board is asked something else; carry the new folder to it"),
        (None, {"latency_ms": 41}, "the target is another, as of its budget; its results.tar, if you kept it, answers"),
        (upgraded, {"latency_ms": 41}, "the target is another, as of its budget; carry the new folder to it"),
        (None, {"stage": "finetune"}, "another finetune stands behind it; its results.tar, if you kept it"),
        (None, {"rules": RULES - 1}, "its gates were judged by older rules; its results.tar"),
        (None, {"file": "labels.txt"}, "edited, not as it was built: labels.txt was changed"),
    ],
)
def test_what_a_board_measured_stays_where_the_next_build_asks_the_same(
    request_edit: Callable[[Any], object] | None,
    changes: dict[str, Any],
    says: str,
    run: Path,
    results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "run").mkdir()
    here, asked = copied(run, tmp_path / "run"), tmp_path / "device"
    shutil.copytree(here / "bundle" / "device", asked)
    if request_edit is not None:
        content = json.loads((asked / "request.json").read_text())
        request_edit(content)
        (asked / "request.json").write_text(json.dumps(content))
    carried = {f"device/{path.name}": path for path in asked.iterdir()}
    waiting = read_build(here)
    build: Any = SimpleNamespace(
        workspace=SimpleNamespace(root=here),
        target=waiting.target.with_overrides(latency_ms=changes.get("latency_ms", 40)),
        records={name: SimpleNamespace(key=SimpleNamespace(digest=row.key)) for name, row in waiting.stages.items()},
    )
    assert kept_answers(build, carried) == (None, "")  # no board has measured anything
    record, bundle = import_results(results, here)
    if "stage" in changes:
        build.records[changes["stage"]].key.digest = "another"
    if "file" in changes:
        (bundle / changes["file"]).write_text("edited")
    monkeypatch.setattr("edgeprune.carry.kept.RULES", 2 * RULES - changes.get("rules", RULES))
    kept, said = kept_answers(build, carried)
    assert f"a board measured (verdict {record.verdict.value}" in said
    assert (kept, says in said) == (None if says else record, True)
    assert ("stays" in said) == (not says) and ("is replaced" in said) == bool(says)
    assert kept_answers(build, {}) == (None, "")  # it is measured over a connection now


def test_of_two_copies_of_a_build_none_is_chosen(
    run: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a-copy", "one"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        copied(run, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="runs/a-copy, runs/one all packed this request; name the run directory"):
        import_results(results)


ON_DLA = (
    PROFILE.replace("jetson-orin-nano", "jetson-orin-nx")
    .replace("fp32", "fp16")
    .replace("measure: {", "device: {dla_core: 0}\nmeasure: {cuda_graph: false, ")
)


def test_a_carried_engine_that_fell_off_the_dla_fails_and_its_files_ask_for_none(tmp_path: Path) -> None:
    here = waiting_build(tmp_path / "run", ON_DLA)
    done, _ = measured(here, tmp_path / "device", "orin-nx,tensorrt=10.7.0")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = unpacked(tmp_path / "device" / "results.tar", tmp_path)

    def judged() -> tuple[Verdict, float | None, str]:
        record, bundle = import_results(folder, here)
        [row] = [gate for gate in record.gates if gate.metric == "on the DLA"]
        return row.verdict, row.value, (bundle / "deepstream" / "config_infer_primary.txt").read_text()

    verdict, value, config = judged()
    assert (verdict, value) == (Verdict.INCONCLUSIVE, 1)  # a stand-in passes nothing
    assert "enable-dla=1" in config

    def off(info: Any) -> None:
        for layer in info["Layers"]:
            layer["LayerType"] = "CaskConvolution"

    for layers in folder.glob("commands/*/*layers.json"):
        rewritten(folder, str(layers.relative_to(folder)), off)
    verdict, value, config = judged()
    assert (verdict, value) == (Verdict.FAIL, 0) and "enable-dla=" not in config
