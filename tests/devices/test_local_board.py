"""A board that is this machine: what is timed there by the runtimes of this process is timed in its hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeprune.agent.facts import DeviceFacts
from edgeprune.agent.host import WorkerState
from edgeprune.devices.base import Completed
from edgeprune.devices.fake import BOARDS, FakeBoard
from edgeprune.devices.local import LocalDevice
from edgeprune.errors import DeviceError
from edgeprune.runtimes import runtime
from edgeprune.runtimes.base import Availability, BenchSettings
from edgeprune.runtimes.jobs import EngineLatencyJob, PeakMemory, TimedModel, TimedModels
from edgeprune.runtimes.onnxruntime_ import OnnxRuntime
from edgeprune.runtimes.tensorrt_ import TensorRt
from edgeprune.samples.conditions import DeviceState
from edgeprune.serial import json_text
from tests.runtimes.models import convolutions

SHORT = BenchSettings(warmup_s=0.0, rounds=2, per_round=2)
MODES = {"15W": 0, "25W": 1}
HELD = DeviceState(power_mode="15W", clocks="locked", throttled=True, throttled_why="heat")


class Here(LocalDevice):
    """This machine, whose facts are those of a board or not; keeps what was run in its hold."""

    def __init__(self, *, board: bool = True, answer: object | None = None) -> None:
        super().__init__(power_mode="15W" if board else "")
        self.board, self.answer = board, answer
        self.held: list[str] = []

    def _look(self) -> DeviceFacts:
        modes = {"power_mode": "25W", "power_modes": MODES} if self.board else {"power_mode": "", "power_modes": {}}
        return replace(super()._look(), **modes)

    def run(self, argv: Sequence[str], *, measured: bool = False, **options: Any) -> Completed:
        if not measured:
            return super().run(argv, **options)
        if argv == ["true"]:  # for the identity
            return Completed(tuple(argv), 0, "", "", HELD)
        self.held.append(argv[-1])
        if self.answer is None:
            return replace(super().run(argv, **options), device=HELD)
        line = f'{{"result": {json_text(self.answer)}}}'.replace("\n", "")
        return Completed(tuple(argv), 0, f"what a library prints\n{line}\n", "", HELD)


def test_onnxruntime_is_timed_in_the_hold_and_says_what_it_was_timed_under(tmp_path: Path) -> None:
    device, model = Here(), convolutions(tmp_path / "m.onnx")
    cpu = runtime("onnxruntime", device)
    [found] = cpu.latency([model], SHORT)
    assert device.held == ["edgeprune.runtimes.bench_worker"]
    assert found.conditions.device == HELD and len(found.values) == 4
    assert found.conditions.identity["power_mode"] == "15W"
    assert found.conditions.identity["runtime"].startswith("onnxruntime ")


def test_other_questions_are_asked_in_the_hold_too(tmp_path: Path) -> None:
    device = Here(answer=PeakMemory(3, 2))
    assert runtime("onnxruntime", device).peak_memory(convolutions(tmp_path / "m.onnx")) == PeakMemory(3, 2)
    assert device.held == ["edgeprune.runtimes.bench_worker"]


def test_tensorrt_is_timed_in_the_hold_and_says_what_it_was_timed_under(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = tmp_path / "m.engine"
    engine.write_bytes(b"plan")
    timed = TimedModel((2.0, 2.1), (), True, {"images": (1, 3, 32, 32)}, 1.0, (), 0.0)
    device = Here(answer=TimedModels((timed,), 1, WorkerState()))
    tensorrt = runtime("tensorrt", device)
    monkeypatch.setattr(TensorRt, "availability", lambda self: Availability(True, ""))
    monkeypatch.setattr(TensorRt, "tensorrt_version", lambda self: "10.3.0")
    [found] = tensorrt.latency([engine], SHORT)
    assert device.held == [EngineLatencyJob.module]
    assert found.values == (2.0, 2.1) and found.conditions.device == HELD
    assert found.conditions.identity["power_mode"] == "15W"


def test_a_machine_without_power_modes_is_not_held(tmp_path: Path) -> None:
    device, model = Here(board=False), convolutions(tmp_path / "m.onnx")
    [found] = runtime("onnxruntime", device).latency([model], SHORT)
    assert device.held == [] and found.conditions.device == DeviceState()
    assert found.conditions.identity == OnnxRuntime().identity()


@pytest.fixture
def orin(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBoard]:
    """This machine is a scripted Orin Nano in 25W."""
    board = FakeBoard("fake:orin-nano", BOARDS["orin-nano"], {})
    assert board.env is not None
    for name in ("PATH", "EDGEPRUNE_ROOT", "EDGEPRUNE_LOCK"):
        monkeypatch.setenv(name, board.env[name])
    monkeypatch.setattr("edgeprune.agent.system.ROOT", str(board.root))
    yield board


def test_the_mode_of_the_profile_is_set_while_it_is_timed_and_put_back(orin: FakeBoard, tmp_path: Path) -> None:
    with LocalDevice(power_mode="15W") as device:
        [found] = OnnxRuntime("cpu", device).latency([convolutions(tmp_path / "m.onnx")], SHORT)
    assert found.conditions.device.power_mode == "15W" and found.conditions.device.clocks == "locked"
    assert found.conditions.device.telemetry is not None
    assert orin.state()["mode"] == "25W" and not orin.state()["locked"]


def test_a_mode_that_the_board_lacks_times_nothing(orin: FakeBoard, tmp_path: Path) -> None:
    with LocalDevice(power_mode="90W") as device, pytest.raises(DeviceError, match="no power mode 90W"):
        OnnxRuntime("cpu", device).latency([convolutions(tmp_path / "m.onnx")], SHORT)
