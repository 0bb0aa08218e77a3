"""A build carried to a board by hand and back: on a stand-in, whose figures never pass, and with wrong results."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

pytest.importorskip("edgeprune.runtimes.trtexec_argv", reason="needs the TensorRT room")

from edgeprune.artifact import Artifact, sha256_of
from edgeprune.carry.back import imported
from edgeprune.carry.out import carried_files
from edgeprune.devices.fake import FakeBoard, fake_device
from edgeprune.errors import DataError, DeviceError
from edgeprune.records.build import BuildRecord
from edgeprune.samples.gates import informs, pending
from edgeprune.target import load_target
from edgeprune.workspace import Key, Record
from tests.report.records import build_record

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
    """A finished build that waits for its board: a record with PENDING rows, and ``bundle/device``."""
    import yaml
    from ultralytics import YOLO
    from ultralytics.nn.tasks import yaml_model_load

    from edgeprune import checkpoint
    from edgeprune.data.digits import write_digits
    from edgeprune.dataset import Dataset
    from edgeprune.export.onnx import onnx_from_checkpoint

    root = tmp_path_factory.mktemp("carry")
    write_digits(root / "digits", train=4, val=4, test=2, imgsz=64)
    (root / "board.yaml").write_text(PROFILE)
    described = {**yaml_model_load("yolov8n.yaml"), "nc": 10}
    for name, width in (("baseline", 0.25), ("model", 0.125)):
        described["scales"] = {"n": [0.33, width, 1024]}
        (root / "yolov8n.yaml").write_text(yaml.safe_dump(described))
        network: Any = YOLO(str(root / "yolov8n.yaml"), task="detect").model
        network.names = {number: str(number) for number in range(10)}
        checkpoint.save(network, root / f"{name}.pt", like=None)
        onnx_from_checkpoint(root / f"{name}.pt", root / f"{name}.onnx", imgsz=64)
    target = load_target(root / "board.yaml")
    records = {
        stage: Record(Key(stage, {}), root, {"onnx": Artifact.of("onnx", root / name)}, {}, 0.0, "")
        for stage, name in (("baseline", "baseline.onnx"), ("simplify", "model.onnx"))
    }
    context = SimpleNamespace(
        target=target,
        records=records,
        workspace=SimpleNamespace(root=root),
        dataset=Dataset.load(root / "digits" / "data.yaml", task="detect", need=("val",)),
        seed=0,
        weights=SimpleNamespace(task="detect"),
        usable=False,
    )
    with pytest.MonkeyPatch.context() as fewer:
        fewer.setattr("edgeprune.carry.out.IMAGES", 3)
        files = carried_files(cast(Any, context))
    for name, source in files.items():
        (root / "bundle" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, root / "bundle" / name)
    command = "scp and so on"
    gates = [
        informs("baseline", "mAP50-95", 0.5, "", "unpruned"),
        pending("baseline", "latency p50", None, "ms", command),
        pending("prune", "latency p50", 40.0, "ms", command),
        pending("engine", "latency p50", 40.0, "ms", command),
        informs("engine", "mAP50-95 of the ONNX", 0.495, "", "by onnxruntime"),
        pending("engine", "mAP50-95 drop", 0.02, "mAP50-95", command),
    ]
    record = whole(build_record())
    for row in record["stages"]:
        if row["name"] in ("baseline", "engine"):
            value = 0.5 if row["name"] == "baseline" else 0.495
            row["facts"]["accuracy"] = {"value": value, "metric": "mAP50-95", "measured_on": "onnxruntime"}
    record |= {
        "gates": [gate.to_json() for gate in gates],
        "target": target.model_dump(mode="json"),
        "verdict": "PENDING",
        "measurements": [],
        "bundle": {name: sha256_of(path) for name, path in files.items()},
        "next_command": command,
    }
    BuildRecord.model_validate(record)
    (root / "bundle" / "build.json").write_text(json.dumps(record))
    (root / "report.md").write_text("old")
    return root


def whole(record: dict[str, Any]) -> dict[str, Any]:
    """A record as a build writes it, out of the report's sample."""
    stages = [{"key": "0" * 64, "reused": False, "seconds": 1.0, **row} for row in record["stages"]]
    return {
        "schema_version": 1,
        "edgeprune": "0",
        "created": "2026-01-01T00:00:00+00:00",
        "command": ["edgeprune", "build"],
        "weights": {"path": "w.pt", "sha256": "0"},
        "dataset": {"path": "data.yaml", "sha256": "0"},
        "task": "detect",
        "names": {str(number): str(number) for number in range(10)},
        "seed": 0,
        "artifacts": [],
        "host": {},
        **record,
        "stages": stages,
    }


def measured(run: Path, there: Path, text: str = "orin-nano") -> tuple[subprocess.CompletedProcess[str], FakeBoard]:
    """Copy the folder to a stand-in board and run it there."""
    shutil.copytree(run / "bundle" / "device", there)
    board = fake_device(text)._channel
    assert isinstance(board, FakeBoard)
    done = subprocess.run(
        ["sh", str(there / "run-on-device.sh")],
        capture_output=True,
        text=True,
        env=board._env,
        timeout=120,
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
    for name in ("bundle", "report.md"):
        source = run / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    return tmp_path


def test_what_comes_back_is_judged_and_a_stand_in_does_not_pass(run: Path, results: Path, tmp_path: Path) -> None:
    here = copied(run, tmp_path)
    record, bundle = imported(results, here)
    BuildRecord.model_validate(record)
    assert record == json.loads((bundle / "build.json").read_text())
    verdicts = {(row["stage"], row["metric"]): row["verdict"] for row in record["gates"]}
    assert "PENDING" not in verdicts.values()
    assert verdicts["engine", "latency p50"] == "INCONCLUSIVE"
    assert verdicts["prune", "latency p50"] == "INCONCLUSIVE"
    assert verdicts["engine", "mAP50-95 drop"] == "INCONCLUSIVE"
    assert {("baseline", "mAP50-95"), ("engine", "mAP50-95 of the ONNX")} <= set(verdicts)  # kept
    assert record["verdict"] in ("INCONCLUSIVE", "FAIL")
    [latency] = [row for row in record["gates"] if (row["stage"], row["metric"]) == ("engine", "latency p50")]
    assert latency["reason"].startswith("simulated, no device was measured (at most ")
    assert record["device"]["simulated"] and record["device"]["identity"]["module"] == "p3767-0005"
    assert record["device"]["identity"]["clocks"] == "locked"
    assert record["device"]["identity"]["power_mode"] == "MAXN_SUPER"
    assert record["bundle"]["model.engine"] == sha256_of(bundle / "model.engine")
    assert record["next_command"] is None
    timed = {(row["stage"], row["role"]): row for row in record["measurements"]}
    before, after = timed["engine", "baseline"], timed["engine", "candidate"]
    assert len(before["values"]) == len(after["values"]) == 24 * 20
    assert sum(after["values"]) < sum(before["values"])  # the narrower file is the faster one in the script
    assert after["conditions"]["telemetry"]["source"] == "tegrastats"
    assert "SIMULATED device" in (here / "report.md").read_text()
    again, _ = imported(results, here)  # taking them back twice changes nothing
    assert again["gates"] == record["gates"]


def test_a_real_boards_results_can_pass_or_fail(
    run: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same files without the stand-in's mark: what decides is the samples."""
    here = copied(run, tmp_path)
    folder = unpacked(results, tmp_path)
    change(folder, simulated=False)
    record, _ = imported(folder, here)
    verdicts = {(row["stage"], row["metric"]): row["verdict"] for row in record["gates"]}
    assert verdicts["engine", "latency p50"] == "PASS"
    assert verdicts["engine", "fp32 in the engine"] == "PASS"
    found = json.loads((here / "bundle" / "build.json").read_text())
    found["target"]["budget"]["latency_ms"] = 0.01
    (here / "bundle" / "build.json").write_text(json.dumps(found))
    record, _ = imported(folder, here)
    assert record["verdict"] == "FAIL"


def unpacked(results: Path, tmp_path: Path) -> Path:
    with tarfile.open(results) as packed:
        packed.extractall(tmp_path / "unpacked")
    return tmp_path / "unpacked" / "results"


def change(folder: Path, **entries: object) -> None:
    found = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps({**found, **entries}))


@pytest.mark.parametrize("wrong", ["times", "request", "board", "mode", "not a tar", "no build", "escape"])
def test_results_that_do_not_belong_are_refused_and_nothing_changes(
    run: Path, results: Path, tmp_path: Path, wrong: str
) -> None:
    here = copied(run, tmp_path)
    before = (here / "bundle" / "build.json").read_bytes()
    folder = unpacked(results, tmp_path)
    given: Path = folder
    error: type[Exception] = DataError
    words = {
        "times": r"times/model-003\.json is missing or was changed",
        "request": "answer another request",
        "board": "not from the target's board: it is .* the profile is about",
        "mode": "measured in power mode 15W, the target asks for MAXN_SUPER",
        "not a tar": "is not the results.tar",
        "no build": "name the run directory",
        "escape": r"\.\./evil does not belong into results",
    }[wrong]
    if wrong == "times":
        (folder / "times" / "model-003.json").write_text("[]")
    elif wrong == "request":
        change(folder, request_sha256="0" * 64)
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
        imported(given, here)
    assert (tmp_path / "bundle" / "build.json").read_bytes() == before


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


def test_a_damaged_folder_is_refused_on_the_board(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "bundle" / "device", tmp_path / "device")
    (tmp_path / "device" / "model.onnx").write_bytes(b"half")
    done = subprocess.run(
        ["sh", str(tmp_path / "device" / "run-on-device.sh")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 4
    assert "model.onnx is missing or not what was packed" in done.stderr


def test_stopping_it_puts_the_board_back(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "bundle" / "device", tmp_path / "device")
    board = fake_device("orin-nano")._channel
    assert isinstance(board, FakeBoard)
    argv = [sys.executable, str(tmp_path / "device" / "on_device.py")]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=board._env
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("timing 2"):
                break
        assert board.state()["mode"] == "MAXN_SUPER"
        os.kill(process.pid, signal.SIGTERM)
        ends = time.perf_counter() + 20
        while process.poll() is None and time.perf_counter() < ends:
            time.sleep(0.05)
        assert process.returncode == 130
    assert board.state() | {"runs": 0} == {"mode": "25W", "locked": False, "runs": 0}
