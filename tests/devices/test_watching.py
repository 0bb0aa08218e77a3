"""A run is watched whatever the program does that tells the sensors; where it is not, the gate says so."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from edgeprune.agent import telemetry
from edgeprune.agent.telemetry import Reading, Telemetry, worse_of
from edgeprune.devices.fake import FakeBoard, fake_device
from edgeprune.devices.remote import RemoteDevice
from edgeprune.samples.conditions import DeviceState
from edgeprune.samples.gates import Gate, Verdict, latency_gate
from edgeprune.serial import from_json
from tests.samples.made import latency

COOLING = "sys/class/thermal/cooling_device0"
CLOCK = "sys/class/devfreq/17000000.gpu/cur_freq"


def board_without(*gone: str, tegrastats: str = "exit 1") -> RemoteDevice:
    """A stand-in whose tegrastats is this script, and which shows nothing at these paths."""
    device = fake_device("orin-nano")
    assert isinstance(device.channel, FakeBoard)
    root = device.channel.root
    (root / "bin" / "tegrastats").write_text(f"#!/bin/sh\n{tegrastats}\n")
    for path in gone:
        (root / path).unlink()
    if CLOCK in gone:
        (root / "fake.py").write_text((root / "fake.py").read_text().replace('"/cur_freq"', '"/other"'))
    return device


def timed(device: RemoteDevice, command: str = "true") -> DeviceState:
    return device.run(["sh", "-c", command], timeout_s=60, measured=True).device


def gate_of(state: DeviceState) -> Gate:
    return latency_gate("engine", latency((1 + 0.001 * (n % 7) for n in range(400)), device=state), 2.0)


def test_throttling_is_seen_where_tegrastats_died_at_once() -> None:
    path = f"$EDGEPRUNE_ROOT/{COOLING}/cur_state"
    state = timed(board_without(), f"echo 1 > {path}; sleep 1; echo 0 > {path}; sleep 0.5")
    assert state.throttled and "gpu-throttle-alert was at work" in state.throttled_why
    assert gate_of(state).verdict is Verdict.INCONCLUSIVE


def test_a_clock_that_falls_is_seen_where_tegrastats_died_at_once() -> None:
    state = timed(board_without(), f"sleep 0.5; echo 612000000 > $EDGEPRUNE_ROOT/{CLOCK}; sleep 0.5")
    assert state.throttled and "fell from 1020 to 612 MHz although clocks are locked" in state.throttled_why


@pytest.mark.parametrize("script", ["exit 1", "echo 'gpu@50C VDD_IN 9000mW/8700mW'; exit 1"])
def test_a_run_whose_sensor_program_ended_early_says_so(script: str) -> None:
    state = timed(board_without(tegrastats=script), "sleep 0.5")
    gate = gate_of(state)
    assert not state.throttled and gate.verdict is Verdict.PASS  # the kernel's own readings show that it kept its clock
    assert "tegrastats ended by itself, with exit code 1, so that the run was watched only in part" in gate.reason


def test_a_run_that_nothing_watched_is_inconclusive() -> None:
    gate = gate_of(timed(board_without(CLOCK, f"{COOLING}/type"), "sleep 0.5"))
    assert gate.verdict is Verdict.INCONCLUSIVE
    assert "the board was not watched: tegrastats ended by itself, with exit code 1" in gate.reason


def test_a_program_that_stays_and_tells_nothing_watches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    state = timed(board_without(CLOCK, f"{COOLING}/type", tegrastats="exec sleep 600"), "sleep 5.2")
    assert "the board was not watched: tegrastats told nothing in 5 s" in gate_of(state).reason


def on_a_desktop(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch, seconds: float = 0.5) -> DeviceState:
    """A run on a machine whose nvidia-smi is this script, without one when it is empty."""
    if script:
        program = folder / "nvidia-smi"
        program.write_text(f'#!/bin/sh\ncase "$*" in *-lms*) ;; *) exit 0;; esac\n{script}\n')
        program.chmod(0o755)
    else:
        monkeypatch.setattr(telemetry, "temperatures_c", dict)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    watched = Telemetry()
    time.sleep(seconds)
    return from_json(DeviceState, watched.finish(locked=False), "telemetry")


@pytest.mark.skipif(Path("/usr/bin/tegrastats").exists(), reason="a Jetson has its own")
@pytest.mark.parametrize(
    ("script", "verdict", "words"),
    [
        ("while :; do echo '55, 123.4, 1980, 0x0000000000000000'; sleep 0.1; done", Verdict.PASS, ""),
        ("while :; do echo '55, 123.4, 1980, 0x0000000000000020'; sleep 0.1; done", Verdict.INCONCLUSIVE, "throttled"),
        ("echo 'Field is not a valid field to query.'; exit 2", Verdict.PASS, "ended by itself, with exit code 2"),
        ("exit 9", Verdict.PASS, "nvidia-smi ended by itself, with exit code 9"),
        ("echo '[N/A], [N/A], [N/A], [N/A]'; sleep 60", Verdict.PASS, "nvidia-smi tells no reasons for throttling"),
        ("", Verdict.PASS, ""),
    ],
)
def test_what_a_card_does_not_tell_is_a_doubt(
    script: str, verdict: Verdict, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = on_a_desktop(script, tmp_path, monkeypatch)
    gate = gate_of(state)
    assert gate.verdict is verdict and words in gate.reason
    assert bool(words) == (gate.reason != gate_of(DeviceState()).reason)


def test_a_card_that_is_no_longer_told_of_is_inconclusive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "echo '55, 123.4, 1980, 0x0000000000000000'; exit 3"
    gate = gate_of(on_a_desktop(script, tmp_path, monkeypatch))
    assert gate.verdict is Verdict.INCONCLUSIVE and "nvidia-smi ended by itself, with exit code 3" in gate.reason


def test_a_turn_that_is_shorter_than_the_pause_between_two_looks_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "temperatures_c", lambda: {"cpu": 61.0})
    monkeypatch.setenv("PATH", str(tmp_path))
    watched = Telemetry()
    turns = [from_json(DeviceState, watched.state(False), "turn") for _ in range(3)]
    watched.finish(False)
    for turn in turns:
        assert turn.telemetry is not None and turn.telemetry.source == "sysfs"
        assert turn.telemetry.samples == 1 and turn.temperature_c == 61.0


def test_of_a_run_that_is_longer_than_any_the_worst_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "MAX_READINGS", 3)
    calm = "55, 100, 1980, 0x0000000000000000"
    lines = [calm] * 4 + ["71, 300, 1200, 0x0000000000000040"] + [calm] * 4
    script = f"printf '%s\\n' {' '.join(repr(line) for line in lines)}; sleep 60"
    state = on_a_desktop(script, tmp_path, monkeypatch)
    assert state.telemetry is not None and state.telemetry.samples == 3
    assert (state.temperature_c, state.telemetry.power_w_max, state.telemetry.gpu_mhz_min) == (71.0, 300.0, 1200)
    assert state.throttled and "reasons 0x40" in state.throttled_why
    assert state.telemetry.first_line == state.telemetry.last_line == calm


def test_the_worst_of_two_readings_is_that_of_a_gpu_that_worked() -> None:
    slow, idle = Reading({"gpu": 50.0}, {}, gpu_mhz=900, gpu_load=99), Reading({"cpu": 70.0}, {}, 306, gpu_load=0)
    for worst in (worse_of(slow, idle), worse_of(idle, slow)):
        assert (worst.gpu_mhz, worst.temperature_c) == (900, {"gpu": 50.0, "cpu": 70.0})
    assert worse_of(Reading(), slow).gpu_mhz == 900 and worse_of(Reading(), Reading()) == Reading()
