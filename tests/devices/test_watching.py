"""A run is watched whatever the program does that tells the sensors; where it is not, the gate says so."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeprune.agent import telemetry
from edgeprune.agent.hold import NOT_HELD
from edgeprune.agent.telemetry import Reading, Telemetry, summary, worse_of
from edgeprune.devices.fake import FakeBoard, fake_device
from edgeprune.devices.remote import RemoteDevice
from edgeprune.measure import other_work
from edgeprune.runtimes import worker
from edgeprune.runtimes.jobs import DescribeJob, OrtDescription
from edgeprune.samples.conditions import DeviceState
from edgeprune.samples.gates import Gate, Verdict, latency_gate, speed_up_gate
from edgeprune.samples.telemetry import EITHER, HEAT, LEAVE_ALONE, SUPPLY, over_launches
from edgeprune.serial import from_json
from tests.samples.made import latency

COOLING = "sys/class/thermal/cooling_device0"
CLOCK = "sys/class/devfreq/17000000.gpu/cur_freq"
PID = "$EDGEPRUNE_ROOT/tegrastats.pid"
UNTIL_GONE = f'until p=$(cat {PID} 2>/dev/null) && [ "$p" ] && ! kill -0 $p 2>/dev/null; do sleep 0.05; done'
"""A command that lasts until whoever watches it has seen that tegrastats ended."""
LONGEST_S = 60.0


def board_without(*gone: str, tegrastats: str = "exit 1") -> RemoteDevice:
    """A stand-in whose tegrastats is this script, and which shows nothing at these paths."""
    device = fake_device("orin-nano")
    assert isinstance(device.channel, FakeBoard)
    root = device.channel.root
    (root / "bin" / "tegrastats").write_text(f"#!/bin/sh\necho $$ > {PID}\n{tegrastats}\n")
    for path in gone:
        (root / path).unlink()
    if CLOCK in gone:
        (root / "fake.py").write_text((root / "fake.py").read_text().replace('"/cur_freq"', '"/other"'))
    return device


def timed(device: RemoteDevice, command: str = "true") -> DeviceState:
    return device.run(["sh", "-c", command], timeout_s=60, measured=True).device


def gate_of(state: DeviceState) -> Gate:
    return latency_gate("engine", latency((1 + 0.001 * (n % 7) for n in range(400)), device=state), 2.0)


def until(met: Callable[[], object]) -> None:
    """Wait for a condition."""
    ends = time.monotonic() + LONGEST_S
    while not met():
        assert time.monotonic() < ends, "what was waited for did not come"
        time.sleep(0.02)


def has_ended(watched: Telemetry) -> bool:
    """Whether its program has ended, and all that it told was taken."""
    return watched.process is not None and watched.process.poll() is not None and not watched.threads[0].is_alive()


@pytest.fixture
def on_a_board_whose_tegrastats_dies(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Its files; this process is as one there."""
    channel = board_without().channel
    assert isinstance(channel, FakeBoard)
    monkeypatch.setattr("edgeprune.agent.system.ROOT", str(channel.root))
    monkeypatch.setenv("EDGEPRUNE_ROOT", str(channel.root))
    monkeypatch.setenv("PATH", f"{channel.root}/bin{os.pathsep}{os.environ['PATH']}")
    yield channel.root  # the files live as long as the channel


def test_throttling_is_seen_where_tegrastats_died_at_once(on_a_board_whose_tegrastats_dies: Path) -> None:
    watched, cooling = Telemetry(), on_a_board_whose_tegrastats_dies / COOLING / "cur_state"
    until(lambda: has_ended(watched))
    cooling.write_text("1\n")
    until(lambda: any(watched.throttling.values()))
    cooling.write_text("0\n")
    state = from_json(DeviceState, watched.finish(locked=False), "telemetry")
    assert state.throttled and "gpu-throttle-alert was at work" in state.throttled_why
    assert gate_of(state).verdict is Verdict.INCONCLUSIVE


def test_a_clock_that_falls_is_seen_where_tegrastats_died_at_once(on_a_board_whose_tegrastats_dies: Path) -> None:
    clock = on_a_board_whose_tegrastats_dies / CLOCK
    clock.write_text("1020000000\n")
    watched = Telemetry()
    for mhz in (1020, 612):
        clock.write_text(f"{mhz}000000\n")
        until(lambda mhz=mhz: any(one.gpu_mhz == mhz for one in list(watched.readings)))
    state = from_json(DeviceState, watched.finish(locked=True), "telemetry")
    assert state.throttled and "fell from 1020 to 612 MHz although clocks are locked" in state.throttled_why


@pytest.mark.parametrize("script", ["exit 1", "echo 'gpu@50C VDD_IN 9000mW/8700mW'; exit 1"])
def test_a_run_whose_sensor_program_ended_early_says_so(script: str) -> None:
    state = timed(board_without(tegrastats=script), UNTIL_GONE)
    gate = gate_of(state)
    assert not state.throttled and gate.verdict is Verdict.PASS  # the kernel's own readings show that it kept its clock
    assert "tegrastats ended by itself, with exit code 1, so that the run was watched only in part" in gate.reason


def test_a_run_that_nothing_watched_is_inconclusive() -> None:
    gate = gate_of(timed(board_without(CLOCK, f"{COOLING}/type"), UNTIL_GONE))
    assert gate.verdict is Verdict.INCONCLUSIVE
    assert "the board was not watched: tegrastats ended by itself, with exit code 1" in gate.reason


@pytest.mark.parametrize("command", ["true", "sleep 1"])
def test_a_program_that_stays_and_tells_nothing_watches_nothing(command: str) -> None:
    state = timed(board_without(CLOCK, f"{COOLING}/type", tegrastats="exec sleep 600"), command)
    assert re.search(r"the board was not watched: tegrastats told nothing in \d+\.\d s", gate_of(state).reason)


CARDS = ("NVIDIA H100", "Tesla T4")


def install_nvidia_smi(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch, cards: Sequence[str]) -> None:
    """From now on this script is what nvidia-smi tells again and again, of a machine with these cards."""
    rows = [f"{number}, {name}, GPU-{number}, 00000000:0{number}:00.0" for number, name in enumerate(cards)]
    listing = f"printf '%s\\n' {' '.join(map(repr, rows))}"
    program = folder / "nvidia-smi"
    program.write_text(f'#!/bin/sh\ncase "$*" in *-lms*) ;; *uuid*) {listing}; exit 0;; *) exit 0;; esac\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def on_a_desktop(
    script: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    heard: Callable[[Telemetry], object],
    cards: Sequence[str] = CARDS[:1],
) -> DeviceState:
    """A run on a machine whose nvidia-smi is this script, without one when it is empty; it lasts until that is heard of
    it which a test is about."""
    if script:
        install_nvidia_smi(script, folder, monkeypatch, cards)
    else:
        monkeypatch.setattr(telemetry, "temperatures_c", dict)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    watched = Telemetry()
    until(lambda: heard(watched))
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
    heard = has_ended if "exit" in script else lambda watched: watched.lines or not script
    gate = gate_of(on_a_desktop(script, tmp_path, monkeypatch, heard))
    assert gate.verdict is verdict and words in gate.reason
    assert bool(words) == (gate.reason != gate_of(DeviceState()).reason)


def test_a_card_that_is_no_longer_told_of_is_inconclusive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "echo '55, 123.4, 1980, 0x0000000000000000'; exit 3"
    gate = gate_of(on_a_desktop(script, tmp_path, monkeypatch, has_ended))
    assert gate.verdict is Verdict.INCONCLUSIVE and "nvidia-smi ended by itself, with exit code 3" in gate.reason


NO_REASON, TOO_HOT = (f"55, 100, 1980, 0x00000000000000{bits}" for bits in ("00", "20"))
NO_TEGRASTATS = pytest.mark.skipif(Path("/usr/bin/tegrastats").exists(), reason="a Jetson has its own")


def gpu_run(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.0) -> DeviceState:
    """What a run on this machine's GPU is told to have been like, of a job that takes so long."""
    monkeypatch.setattr(worker, "run_worker", lambda *_: time.sleep(seconds))
    return worker.run_watched(DescribeJob(), OrtDescription)[1]


@NO_TEGRASTATS
@pytest.mark.parametrize(
    ("script", "verdict"),
    [
        (f"sleep 0.7; while :; do echo '{NO_REASON}'; sleep 0.1; done", Verdict.PASS),
        (f"sleep 0.7; while :; do echo '{TOO_HOT}'; sleep 0.1; done", Verdict.INCONCLUSIVE),
    ],
)
def test_a_run_that_ends_before_nvidia_smi_had_begun_is_watched(
    script: str, verdict: Verdict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_nvidia_smi(script, tmp_path, monkeypatch, CARDS[:1])
    state = gpu_run(monkeypatch)
    assert state.telemetry is not None and state.telemetry.samples and not state.telemetry.unwatched
    assert state.telemetry.seconds < 0.7  # the wait before it is no part of it
    assert gate_of(state).verdict is verdict


@NO_TEGRASTATS
@pytest.mark.parametrize(
    "script", ["exec sleep 600", f"echo '{NO_REASON}'; exec sleep 600"], ids=["from the start", "from then on"]
)
def test_silence_over_a_whole_run_is_a_doubt_however_short_it_is(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("START_S", "NEXT_S"):
        monkeypatch.setattr(telemetry, name, 0.5)
    install_nvidia_smi(script, tmp_path, monkeypatch, CARDS[:1])
    launches = [gpu_run(monkeypatch) for _ in range(3)]
    for state in (*launches, over_launches(launches)):
        assert state.telemetry is not None and not state.throttled
        gate = gate_of(state)
        assert gate.verdict is Verdict.PASS
        assert re.search(r"nvidia-smi told nothing in 0\.\d s, so that the run was watched only in part", gate.reason)


@NO_TEGRASTATS
def test_a_long_pause_in_the_middle_of_a_run_is_a_doubt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "SILENT_S", 0.8)
    tell = f"echo '{NO_REASON}'; sleep 0.1"
    script = f"{tell}; {tell}; sleep 1; while :; do {tell}; done"
    install_nvidia_smi(script, tmp_path, monkeypatch, CARDS[:1])
    gate = gate_of(gpu_run(monkeypatch, 2.0))
    assert gate.verdict is Verdict.PASS
    assert re.search(r"nvidia-smi told nothing in 1\.\d s, so that the run was watched only in part", gate.reason)


@NO_TEGRASTATS
@pytest.mark.parametrize(
    ("visible", "hot", "verdict", "words"),
    [
        (None, (), Verdict.PASS, ""),
        (None, (1,), Verdict.PASS, "nvidia-smi reports throttle reasons of GPU 1 (0x20), and which of 2 the run used"),
        (None, (0, 1), Verdict.INCONCLUSIVE, "throttle reasons 0x20"),  # whichever it was
        ("GPU-0", (1,), Verdict.PASS, ""),
        ("GPU-1", (1,), Verdict.INCONCLUSIVE, "throttle reasons 0x20"),
    ],
)
def test_another_cards_throttling_and_figures_are_not_the_runs(
    visible: str | None,
    hot: tuple[int, ...],
    verdict: Verdict,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = [f"{(TOO_HOT if card in hot else NO_REASON)}, {card}" for card in (0, 1)]
    own = 'case "$*" in *"-i GPU-0"*) only=0;; *"-i GPU-1"*) only=1;; esac'
    tell = 'tell() { [ "${only-$1}" = $1 ] && echo "$2"; }'
    script = f"{own}\n{tell}\nwhile :; do tell 0 '{lines[0]}'; tell 1 '{lines[1]}'; sleep 0.1; done"
    install_nvidia_smi(script, tmp_path, monkeypatch, CARDS)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    state = gpu_run(monkeypatch, 0.5)
    gate, seen = gate_of(state), state.telemetry
    assert gate.verdict is verdict and words in gate.reason
    assert bool(words) == (gate.reason != gate_of(DeviceState()).reason)
    assert seen is not None and seen.samples
    told = (seen.power_w_mean, seen.gpu_mhz_max, state.temperature_c)
    assert told == ((None, None, None) if visible is None else (100.0, 1980, 55.0))


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
    calm, last = (f"{celsius}, 100, 1980, 0x0000000000000000" for celsius in (55, 54))
    lines = [calm] * 4 + ["71, 300, 1200, 0x0000000000000040"] + [calm] * 3 + [last]
    script = f"printf '%s\\n' {' '.join(repr(line) for line in lines)}; sleep 60"
    state = on_a_desktop(script, tmp_path, monkeypatch, lambda watched: last in watched.lines)
    assert state.telemetry is not None and state.telemetry.samples == 3
    assert (state.temperature_c, state.telemetry.power_w_max, state.telemetry.gpu_mhz_min) == (71.0, 300.0, 1200)
    assert state.throttled and "reasons 0x40" in state.throttled_why
    assert (state.telemetry.first_line, state.telemetry.last_line) == (calm, last)


def test_the_worst_of_two_readings_is_that_of_a_gpu_that_worked() -> None:
    slow, idle = Reading({"gpu": 50.0}, {}, gpu_mhz=900, gpu_load=99), Reading({"cpu": 70.0}, {}, 306, gpu_load=0)
    for worst in (worse_of(slow, idle), worse_of(idle, slow)):
        assert (worst.gpu_mhz, worst.temperature_c) == (900, {"gpu": 50.0, "cpu": 70.0})
    assert worse_of(Reading(), slow).gpu_mhz == 900 and worse_of(Reading(), Reading()) == Reading()


# ------------------------------------------------------------ what a gate makes of it


def watched(**seen: Any) -> DeviceState:
    """A run's state, of what was seen besides a GPU that kept its clock."""
    readings = [Reading({"gpu": 50.0}, {}, gpu_mhz=mhz, **seen.get("reading", {})) for mhz in seen.get("mhz", (1000,))]
    events, cooling = seen.get("events", {}), seen.get("cooling", {})
    return from_json(DeviceState, summary(readings, [], "tegrastats", events, cooling, True), "a run")


CAUSES = [
    ({"cooling": {"gpu-throttle-alert": 1}}, "gpu-throttle-alert was at work", HEAT),
    ({"events": {"oc1_event_cnt": 2}}, "oc1_event_cnt rose by 2", SUPPLY),
    ({"mhz": (1000, 600)}, "the GPU's clock fell from 1000 to 600 MHz although clocks are locked", EITHER),
    ({"reading": {"throttle_reasons": 0x20}}, "nvidia-smi reports throttle reasons 0x20", HEAT),
    ({"reading": {"throttle_reasons": 0x80}}, "nvidia-smi reports throttle reasons 0x80", SUPPLY),
    ({"reading": {"throttle_reasons": 0x8}}, "nvidia-smi reports throttle reasons 0x8", EITHER),
]


@pytest.mark.parametrize(("seen", "cause", "remedy"), CAUSES)
def test_a_gate_says_why_the_device_throttled_and_what_helps_against_that(
    seen: dict[str, Any], cause: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot = latency((1 + 0.001 * (n % 7) for n in range(400)), device=watched(**seen))
    for gate in (latency_gate("engine", hot, 2.0), speed_up_gate("engine", hot, hot, 1.5)):
        assert gate.verdict is Verdict.INCONCLUSIVE
        assert gate.reason.startswith(f"the device throttled during the run: {cause}; {remedy}")
    slept: list[float] = []
    monkeypatch.setattr(other_work.time, "sleep", slept.append)
    notes: list[str] = []
    other_work.let_cool([hot], notes.append)
    assert len(slept) == len(notes) == (remedy is not SUPPLY)  # a pause gives no board a stronger supply
    other_work.let_cool([replace(hot, simulated=True)], notes.append)
    other_work.let_cool([latency([1.0] * 400)], notes.append)
    assert len(slept) == (remedy is not SUPPLY)


def test_each_cause_of_a_run_is_told_and_a_board_that_was_set_is_left_alone() -> None:
    both = watched(cooling={"fan": 1}, events={"oc1_event_cnt": 1})
    held = replace(both, throttled_why=f"{both.throttled_why}; {NOT_HELD}")
    gate = latency_gate("engine", latency((1 + 0.001 * (n % 7) for n in range(400)), device=held), 2.0)
    told = f"{NOT_HELD}; the device throttled during the run: fan was at work; oc1_event_cnt rose by 1; "
    assert gate.reason.startswith(f"{told}{HEAT}; {SUPPLY}; {LEAVE_ALONE}")
