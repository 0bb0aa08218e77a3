"""A whole build whose engines are compiled, timed and run on the other side of a real SSH connection."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprune.export.precision import precision_of
from tests.devices.models import digits_and_detector
from tests.devices.server import Server
from tests.runtimes import fake_trtexec

QUICK = """
imgsz: 96
accuracy: {max_map_drop: 1.0}
prune: {importance: l1, max_probes: 2}
finetune: {epochs: 1, batch: 8}
measure: {warmup_s: 0.05, rounds: 24, per_round: 4, retries: 0, time_limit_s: 10}
"""
PROFILE = f"""
extends: cpu
description: small and quick, on the other side
device: {{python: {json.dumps(sys.executable)}}}
budget: {{speed_up: 1.25, statistic: p50}}
{QUICK}"""
VERDICTS = {0, 1, 5}  # how quick this machine is, is not tested here


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, a detector of them that has learned nothing, and the profile."""
    folder = tmp_path_factory.mktemp("remote")
    digits_and_detector(folder)
    (folder / "there.yaml").write_text(PROFILE)
    return folder


def argv(inputs: Path, out: Path, device: str) -> list[str]:
    return [
        *(sys.executable, "-m", "edgeprune", "build", "--target", str(inputs / "there.yaml"), "--device", device),
        *("--weights", str(inputs / "w.pt"), "--data", str(inputs / "digits" / "data.yaml"), "--out", str(out)),
    ]


@pytest.mark.slow
def test_a_build_runs_there_survives_a_lost_connection_and_leaves_nothing(
    inputs: Path, server: Server, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        argv(inputs, tmp_path / "run", server.name), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if "] prune" in line:  # in the middle: probes are built and timed there
            server.drop()
    assert process.wait(300) in VERDICTS, "".join(seen)
    assert server.left() == []
    assert (tmp_path / "run" / "bundle").is_dir(), "".join(seen)
    record = json.loads((tmp_path / "run" / "bundle" / "build.json").read_text())
    assert record["device"]["name"] == server.name
    assert record["device"]["simulated"] is False
    assert record["stages"]["prune"]["facts"]["probes"]
    timed = {(row["stage"], row["role"]) for row in record["measurements"]}
    assert {("baseline", "baseline"), ("prune", "candidate"), ("engine", "candidate")} <= timed
    for row in record["measurements"]:
        assert row["measurement"]["conditions"]["device"]["telemetry"]
        assert row["measurement"]["conditions"]["identity"]["runtime"].startswith("onnxruntime")
    [accuracy] = [row for row in record["gates"] if row["stage"] == "engine" and row["metric"] == "mAP50-95 drop"]
    assert accuracy["value"] is not None
    assert f"Device {server.name}" in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.parametrize("wrong", ["key", "gone", "runtime"])
def test_a_device_that_cannot_do_it_ends_with_4_and_writes_nothing(
    inputs: Path, serve: Callable[..., Server], tmp_path: Path, wrong: str
) -> None:
    server = serve()
    target = inputs / "there.yaml"
    if wrong == "key":
        server.trust(tmp_path / "none")
    elif wrong == "gone":
        server.stop()
    else:
        target = tmp_path / "there.yaml"
        target.write_text(PROFILE.replace(json.dumps(sys.executable), '"/bin/false"'))
    command = argv(inputs, tmp_path / "run", server.name)
    command[command.index("--target") + 1] = str(target)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert ended.returncode == 4, ended.stdout + ended.stderr
    assert ended.stderr.startswith("edgeprune: ") and ended.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert server.left() == []


@pytest.mark.slow
@pytest.mark.skipif(any(Path("/dev").glob("nvidia[0-9]*")), reason="this machine has an NVIDIA GPU")
def test_a_build_by_trtexec_without_a_gpu_is_pending_and_says_what_to_type(inputs: Path, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    trtexec = fake_trtexec.install(programs, (10, 3, 0))
    (tmp_path / "mine.yaml").write_text(f"extends: desktop-tensorrt\nbudget: {{speed_up: 1.25}}\n{QUICK}")
    command = argv(inputs, tmp_path / "run", "local")
    named = command.index("--device")
    del command[named : named + 2]  # this machine where none is named; named, it would be refused
    command[command.index("--target") + 1] = str(tmp_path / "mine.yaml")
    env = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=1200, env=env)
    assert ended.returncode == 5, ended.stdout + ended.stderr
    assert "nvidia-smi finds no NVIDIA GPU" in " ".join(ended.stdout.split())  # lines are wrapped
    record = json.loads((tmp_path / "run" / "bundle" / "build.json").read_text())
    assert record["verdict"] == "PENDING" and record["device"] is None
    assert record["next_command"].startswith("nvidia-smi && edgeprune build --target ")
    assert fake_trtexec.calls(trtexec) == []  # it was asked for its version alone


ON_A_STAND_IN = """
extends: EXTENDS
description: small and quick, on a stand-in
budget: {speed_up: 1.1, statistic: p50}
"""


def built_on_a_stand_in(
    inputs: Path, folder: Path, extends: str, device: str, version: str, dla: bool = False
) -> list[str]:
    """The words of the line that built the engine of a whole build."""
    command, profile = argv(inputs, folder / "run", device), folder / "mine.yaml"
    more = "device: {dla_core: 0}\n" if dla else ""
    quick = QUICK.replace("measure: {", "measure: {cuda_graph: false, ") if dla else QUICK
    profile.write_text(ON_A_STAND_IN.replace("EXTENDS", extends) + quick + more)
    command[command.index("--target") + 1] = str(profile)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert ended.returncode in VERDICTS - {0}, ended.stdout + ended.stderr  # a stand-in passes nothing
    bundle = folder / "run" / "bundle"
    facts = json.loads((bundle / "engine.engine.json").read_text())
    assert facts["builder"] == f"trtexec {version}" and facts["simulated"] is True
    record = json.loads((bundle / "build.json").read_text())
    assert record["device"]["simulated"] is True and record["stages"]["prune"]["facts"]["probes"]
    [precision] = [gate for gate in record["gates"] if gate["metric"] == "fp16 in the engine"]
    assert precision["value"] == 1.0
    on_dla = [(gate["value"], gate["limit"]) for gate in record["gates"] if gate["metric"] == "on the DLA"]
    assert on_dla == ([(1.0, 1.0)] if dla else [])
    return facts["command"].split()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extends", "device", "version"),
    [
        ("jetson-xavier-nx", "fake:xavier-nx", "8.5.2"),
        ("jetson-orin-nano-tensorrt-8", "fake:orin-nano,jetpack=6.0", "8.6.2"),
    ],
)
def test_a_build_on_tensorrt_8_lets_it_choose_fp16_and_keeps_the_decoder(
    inputs: Path, tmp_path: Path, extends: str, device: str, version: str
) -> None:
    told = built_on_a_stand_in(inputs, tmp_path, extends, device, version)
    assert "--fp16" in told and "--stronglyTyped" not in told
    [kept] = [word for word in told if word.startswith("--layerPrecisions=")]
    assert kept.endswith(":fp32") and "/model.22/" in kept
    assert kept in (tmp_path / "run" / "bundle" / "README.md").read_text()  # the line to type by hand does the same


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extends", "device", "version"),
    [
        ("jetson-orin-nano", "fake:orin-nano,tensorrt=10.7.0", "10.7.0"),
        ("jetson-thor", "fake:thor,tensorrt=10.16.1", "10.16.1"),
        ("jetson-agx-orin", "fake:agx-orin,jetpack=7.2,tensorrt=11.4.1", "11.4.1"),
    ],
)
def test_a_build_on_tensorrt_10_or_11_leaves_the_precision_to_the_graph(
    inputs: Path, tmp_path: Path, extends: str, device: str, version: str
) -> None:
    told = built_on_a_stand_in(inputs, tmp_path, extends, device, version)
    names = {word.partition("=")[0] for word in told}
    assert ("--stronglyTyped" in names) == version.startswith("10.")
    assert not names & {"--fp16", "--int8", "--layerPrecisions", "--precisionConstraints"}
    assert precision_of(tmp_path / "run" / "bundle" / "model.onnx") == "fp16"


@pytest.mark.slow
def test_a_build_for_a_dla_of_tensorrt_10_lets_it_choose_fp16_and_keeps_the_decoder(
    inputs: Path, tmp_path: Path
) -> None:
    device = "fake:orin-nx,tensorrt=10.7.0"
    told = built_on_a_stand_in(inputs, tmp_path, "jetson-orin-nx", device, "10.7.0", dla=True)
    assert {"--fp16", "--useDLACore=0", "--allowGPUFallback"} <= set(told) and "--stronglyTyped" not in told
    [kept] = [word for word in told if word.startswith("--layerPrecisions=")]
    assert kept in (tmp_path / "run" / "bundle" / "README.md").read_text()
