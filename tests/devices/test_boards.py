"""Every decision about a board, on stand-ins: modes by name, reboots, clocks, throttling, drops; nothing is real."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeprune.agent import hold, power, programs
from edgeprune.agent.facts import jetpack_of, l4t_of, modules_of, swap_free_bytes
from edgeprune.agent.jobs import _goes_on
from edgeprune.agent.power import power_modes
from edgeprune.agent.programs import Turns
from edgeprune.agent.root import ROOT_COMMANDS, as_root
from edgeprune.agent.system import (
    Refused,
    end_process,
    is_alive,
    is_of_here,
    is_running,
    output_of,
    pid_of,
    process_of,
    start_detached,
)
from edgeprune.agent.telemetry import (
    DRIVERS_FIRST,
    Card,
    Reading,
    Telemetry,
    board_power_mw,
    card_in,
    first_gpu,
    nvidia_smi_reading,
    summary,
    tegrastats_reading,
)
from edgeprune.devices import device_named
from edgeprune.devices.board import (
    mismatch,
    over_current,
    short_of_memory,
    targets_for,
    unknown_release,
    unsupported_tensorrt,
)
from edgeprune.devices.channel import ConnectionLost
from edgeprune.devices.fake import BOARDS, FakeBoard, fake_device
from edgeprune.devices.identity import digest_of, identity_of
from edgeprune.devices.remote import RemoteDevice
from edgeprune.errors import DeviceError, TargetError, ToolError
from edgeprune.measure.doctor import examine_device
from edgeprune.runtimes.base import BenchSettings
from edgeprune.runtimes.engine_file import read_facts
from edgeprune.runtimes.site import open_site
from edgeprune.runtimes.trtexec_ import TrtExec
from edgeprune.samples.conditions import DeviceState
from edgeprune.samples.conditions import Telemetry as TelemetryRow
from edgeprune.samples.gates import Verdict, accuracy_gate, latency_gate, simulated_gate
from edgeprune.samples.measurement import Measurement
from edgeprune.serial import to_json
from edgeprune.stages.base import SilentBuild
from edgeprune.stages.energy import energy_gates
from edgeprune.target import Board, load_target, shipped_targets
from edgeprune.target.schema import target_from
from tests.runtimes.models import convolutions
from tests.samples.made import latency


def board(device: RemoteDevice) -> FakeBoard:
    channel = device.channel
    assert isinstance(channel, FakeBoard)
    return channel


def timed(device: RemoteDevice, command: str = "true") -> DeviceState:
    return device.run(["sh", "-c", command], timeout_s=600, measured=True).device


@pytest.mark.parametrize(
    ("name", "module"),
    [
        *(("orin-nano", "p3767-0005"), ("orin-nx", "p3767-0000"), ("thor", "p3834-0008")),
        *(("xavier-nx", "p3668-0000"), ("agx-xavier", "p2972-0000")),
    ],
)
def test_a_board_says_what_it_is(name: str, module: str) -> None:
    device = device_named(f"fake:{name}")
    facts = device.facts()
    assert device.simulated
    assert module in facts.modules
    assert facts.jetpack == jetpack_of(facts.l4t) != ""
    assert facts.tensorrt.startswith(BOARDS[name].tensorrt)
    assert facts.power_mode == BOARDS[name].mode
    assert list(facts.power_modes) == list(BOARDS[name].modes)
    identity = device.identity()
    assert identity["module"] == module
    assert {"board", "l4t", "jetpack", "tensorrt", "cuda", "power_mode", "clocks"} <= set(identity)


def test_power_mode_and_clocks_are_set_for_the_run_verified_and_put_back() -> None:
    device = fake_device("orin-nano", power_mode="MAXN_SUPER")
    with device:
        done = device.run(["sh", "-c", "nvpmodel -q; cat $EDGEPRUNE_ROOT/state.json"], timeout_s=30, measured=True)
        assert "MAXN_SUPER" in done.stdout and '"locked": true' in done.stdout
        assert done.device.power_mode == "MAXN_SUPER"
        assert done.device.clocks == "locked"
    assert board(device).state() | {"runs": 0} == {"mode": "25W", "locked": False, "runs": 0}
    assert device.identity()["power_mode"] == "MAXN_SUPER"
    assert device.identity()["clocks"] == "locked"


def test_clocks_that_were_locked_before_are_locked_again_in_the_mode_that_was_there() -> None:
    """A mode sets the range of every clock anew, so that of whoever locked them is gone with it."""
    device = fake_device("orin-nano", power_mode="7W")
    root = Path(board(device).root)
    subprocess.run([root / "bin" / "jetson_clocks"], env={**os.environ, "FAKE_ROOT_USER": "1"}, check=True)
    before = board(device).state() | {"runs": 0}
    assert before == {"mode": "25W", "locked": True, "runs": 0}
    with device:
        assert (timed(device).power_mode, timed(device).clocks) == ("7W", "locked")
    assert board(device).state() | {"runs": 0} == before


def test_clocks_that_could_not_be_locked_again_are_by_the_next_restore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is seen by the clocks: jetson_clocks ends with 0 whatever it could do."""
    asked: list[str] = []

    def answer(argv: list[str], **_: object) -> tuple[int, str]:
        asked.append(argv[-1])
        return 0, ""

    monkeypatch.setattr(power, "_restore_path", lambda: str(tmp_path / "restore.json"))
    monkeypatch.setattr(power, "clocks_locked", lambda: len(asked) > 1)
    monkeypatch.setattr(power, "output_of", answer)
    (tmp_path / "restore.json").write_text(
        json.dumps({"host": os.uname().nodename, "boot": power.boot_id(), "relock": True})
    )
    assert "clocks are free, and were locked before" in power.restore_board().failure
    assert "sudo jetson_clocks" in power.left_to_restore()
    assert power.restore_board() == ("", "", "") and asked == ["jetson_clocks"] * 2
    assert power.left_to_restore() == "" and list(tmp_path.iterdir()) == []


def test_a_mode_is_found_by_the_name_that_this_board_gives_it() -> None:
    device = fake_device("agx-orin", power_mode="30W")
    assert timed(device).power_mode == "MODE_30W"
    assert device.identity()["power_mode"] == "30W"


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ("orin-nano,reboot=MAXN_SUPER", "MAXN_SUPER", r"needs a reboot of the board .*sudo nvpmodel -m 2"),
        ("orin-nano", "MAXN", r"no power mode MAXN; it has: 15W, 25W, MAXN_SUPER, 7W"),
        ("orin-nano,no-sudo", "MAXN_SUPER", r"this user may not change it; type there: sudo nvpmodel -m 2"),
    ],
)
def test_a_mode_that_cannot_be_had_is_a_device_error_and_nothing_was_run(text: str, mode: str, words: str) -> None:
    device = fake_device(text, power_mode=mode)
    with device:
        with pytest.raises(DeviceError, match=words):
            timed(device)
        assert board(device).state()["mode"] == "25W"


def test_a_mode_that_is_refused_is_asked_for_once() -> None:
    device = fake_device("orin-nano,reboot=MAXN_SUPER", power_mode="MAXN_SUPER")
    program = board(device).root / "bin" / "nvpmodel"
    calls = board(device).root / "calls"
    program.write_text(program.read_text().replace("exec ", f'echo "$@" >> {calls}\nexec ', 1))
    with device, pytest.raises(DeviceError, match="needs a reboot"):
        timed(device)
    assert sum(line.startswith("-m") for line in calls.read_text().splitlines()) == 1


def dead_process() -> str:
    with subprocess.Popen(["true"]) as process:
        return process_of(process.pid)


def join(work: Path) -> dict:
    return hold._joined_hold(str(work), str(work / "busy-1"), "7W", True, lambda holder: None, lambda note: None)


def test_a_refusal_is_heard_of_a_holder_that_has_ended_and_no_other_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    refused = {"state": "refused", "kind": "device", "message": "no mode 7W", "process": dead_process()}
    monkeypatch.setattr(hold.time, "sleep", lambda _: (tmp_path / "hold.json").write_text(json.dumps(refused)))
    monkeypatch.setattr(hold, "start_detached", lambda *_, **__: started.append("") or dead_process())
    for count in (1, 2):
        with pytest.raises(Refused, match="no mode 7W"):
            join(tmp_path)
        assert len(started) == count
        assert not (tmp_path / "hold.json").exists()  # the next job asks anew
        # and so it does where a job that asked was stopped before it heard
        (tmp_path / "hold.json").write_text(json.dumps(refused | {"message": "of another time"}))


@pytest.mark.parametrize(
    ("log", "seen"), [("", "killed, or out of memory"), ("Traceback\nMemoryError: 9\n", r"\(MemoryError: 9\)")]
)
def test_a_holder_that_ends_again_and_again_without_a_word_is_given_up_in_one_line(
    log: str, seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, ...]] = []

    def start(*arguments: str, log: str = "", said: str = log) -> str:
        started.append(arguments)
        Path(log).write_text(said)
        return dead_process()

    monkeypatch.setattr(hold, "start_detached", start)
    with pytest.raises(Refused, match=seen) as error:
        join(tmp_path)
    assert len(started) == hold.MOST_STARTS
    assert "\n" not in str(error.value) and "give the same command again" in str(error.value)


def test_a_program_that_is_started_apart_leaves_what_it_says_when_it_crashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, log = tmp_path / "agent.zip", tmp_path / "hold.log"
    script.write_text("raise SystemExit('what went wrong')")
    monkeypatch.setattr(sys, "argv", [str(script)])
    process = start_detached("hold", log=str(log))
    ends = time.perf_counter() + 60
    while is_running(process) and time.perf_counter() < ends:
        time.sleep(0.02)
    assert log.read_text().strip() == "what went wrong"


def test_without_sudo_the_mode_that_it_is_in_will_do_and_clocks_are_free() -> None:
    device = fake_device("orin-nano,no-sudo,mode=MAXN_SUPER", power_mode="MAXN_SUPER")
    state = timed(device)
    assert (state.power_mode, state.clocks) == ("MAXN_SUPER", "free")
    assert device.identity()["clocks"] == "free"


def replace_mode(wanted: Board, mode: str | None) -> Board:
    return wanted.model_copy(update={"power_mode": mode})


AS_IT_WAS = {"mode": "25W", "locked": False, "runs": 0}


def settled(device: RemoteDevice) -> dict:
    """The board's state once it is as it was, or after two minutes."""
    ends = time.perf_counter() + 120
    while board(device).state() | {"runs": 0} != AS_IT_WAS and time.perf_counter() < ends:
        time.sleep(0.05)
    return board(device).state() | {"runs": 0}


def holder_of(device: RemoteDevice) -> int:
    return pid_of(json.loads((Path(device.work) / "hold.json").read_text())["process"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_the_holder_puts_power_and_clocks_back_however_it_ends(number: int) -> None:
    device = fake_device("orin-nano", power_mode="7W")
    with device:
        timed(device)
        assert board(device).state() | {"runs": 0} == {"mode": "7W", "locked": True, "runs": 0}
        holder = holder_of(device)
        os.kill(holder, number)
        if number != signal.SIGKILL:
            assert settled(device) == AS_IT_WAS
        assert timed(device).power_mode == "7W"  # the next measured run takes the board again
    assert settled(device) == AS_IT_WAS


def test_runs_that_follow_one_another_share_one_hold_and_a_pause_lets_go() -> None:
    device = fake_device("orin-nano", power_mode="7W")
    board(device).env["EDGEPRUNE_IDLE_S"] = "600"  # pyright: ignore[reportOptionalSubscript]  it has its own
    with device:
        timed(device)
        first = holder_of(device)
        timed(device)
        assert holder_of(device) == first
    board(device).env["EDGEPRUNE_IDLE_S"] = "0.2"  # pyright: ignore[reportOptionalSubscript]
    with device:
        timed(device)
        assert settled(device) == AS_IT_WAS
        assert timed(device).power_mode == "7W"


def test_a_process_that_ended_and_that_nobody_collected_is_not_waited_for() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it ended, and its number is still taken
        os.kill(process.pid, 0)
        assert not is_alive(process.pid)
    assert is_alive(os.getpid())


def test_a_process_is_told_from_another_one_that_has_its_number() -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        named = process_of(process.pid)
        number, started, namespace = named.split()
        before_the_reboot, elsewhere = f"{number} {int(started) - 1} {namespace}", f"{number} {started} pid:[1]"
        assert (is_running(named), is_of_here(named), _goes_on(named)) == (True, True, True)
        assert (is_running(before_the_reboot), is_of_here(before_the_reboot)) == (False, True)
        assert (is_running(elsewhere), is_of_here(elsewhere)) == (False, False)
        for other in (before_the_reboot, elsewhere, number, "", "None", "0 1 2"):
            end_process(other)
            assert not is_running(other) and not _goes_on(other)
        assert process.poll() is None
        end_process(named)
        assert process.wait() == -signal.SIGTERM


def test_a_build_in_another_container_of_the_same_machine_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    first = fake_device("orin-nano")
    with first:
        with monkeypatch.context() as container:
            container.setattr("edgeprune.agent.system._namespace", lambda: "pid:[1]", raising=False)
            container.setattr(os, "getpid", lambda: 4_194_300)  # a number that nobody has out here
            first.run(["true"], timeout_s=600)
        with RemoteDevice(board(first)) as other:
            other.run(["true"], timeout_s=600)
            assert Path(first.work).is_dir() and first.work != other.work


@pytest.mark.parametrize("rebooted", [False, True])
def test_what_a_run_that_was_cut_off_had_changed_is_put_back_by_the_next_one_which_says_so(rebooted: bool) -> None:
    device = fake_device("orin-nano", power_mode="7W")
    device.__enter__()
    timed(device)
    os.kill(holder_of(device), signal.SIGKILL)
    root = board(device).root
    shutil.rmtree(device.work)  # as a reboot leaves /tmp
    if rebooted:  # the power mode stays, locked clocks do not
        (root / "proc/sys/kernel/random/boot_id").write_text("second")
        (root / "state.json").write_text(json.dumps({"mode": "7W", "locked": False, "runs": 0}))
        (root / "sys/class/devfreq/17000000.gpu/min_freq").write_text("306000000")
    notes: list[str] = []
    with RemoteDevice(board(device), power_mode="15W", note=notes.append) as later:
        assert (timed(later).power_mode, timed(later).clocks) == ("15W", "locked")
    assert board(device).state() | {"runs": 0} == AS_IT_WAS
    [note] = notes
    assert note.endswith(f"had left changed: {'' if rebooted else 'clocks, '}power mode 25W")
    with RemoteDevice(board(device), power_mode="15W", note=notes.append) as later:
        timed(later)
    assert len(notes) == 1


def test_a_build_that_leaves_does_not_touch_the_board_while_another_one_has_it() -> None:
    first = fake_device("orin-nano", power_mode="7W")
    with first, RemoteDevice(board(first), power_mode="15W") as other:
        other.run(["true"], timeout_s=10)
        timed(first)
        other.__exit__()
        assert board(first).state() | {"runs": 0} == {"mode": "7W", "locked": True, "runs": 0}
        other.__enter__()


NOT_AMONG_THEM = (
    ["nvpmodel", "-m", "22"],
    ["nvpmodel", "-m", "2", "-f", "x"],
    ["jetson_clocks", "--fan"],
    ["jetson_clocks", "--store", "/etc/shadow"],
    ["jetson_clocks", "--restore", "/tmp/x"],
    ["true"],
)


def test_nothing_but_the_commands_of_the_sudoers_lines_is_run_as_root_and_they_allow_no_other() -> None:
    with fake_device("orin-nano") as device:
        for command in NOT_AMONG_THEM:
            with pytest.raises(ValueError, match="not among"):
                as_root(command)
            assert device.run(["sudo", "-n", *command], timeout_s=600).returncode == 1, command
        for rule in ROOT_COMMANDS[:3]:
            allowed = [Path(rule[0]).name, *(part.replace("[0-9]", "2") for part in rule[1:])]
            assert as_root(allowed)[-len(allowed) :] == allowed
            assert device.run(["sudo", "-n", *allowed], timeout_s=600).returncode == 0, allowed


def test_a_mode_that_the_board_does_not_have_is_told_before_anything_is_built() -> None:
    facts = fake_device("orin-nano").facts()
    wanted = load_target("jetson-orin-nano").device
    assert mismatch(wanted, facts) == ""
    plain = replace(facts, power_modes={"15W": 0, "7W": 1}, power_mode="15W")
    assert mismatch(wanted, plain) == (
        "it has no power mode MAXN_SUPER; it has: 15W, 7W; name one in the profile, for example device.power_mode: 15W"
        ", or bring it: where the firmware is that of JetPack 6.2 (36.4.3) or newer, sudo rm -rf /etc/nvpmodel.conf && "
        "sudo reboot there, which writes that file anew; where that does not help, flash JetPack 6.2 or newer with the "
        "board's -super configuration"
    )
    container = replace(facts, power_modes={}, power_mode="")
    assert "a container?" in mismatch(wanted, container)
    assert "device.power_mode: null" in mismatch(wanted, container)
    assert mismatch(replace_mode(wanted, None), container) == ""


@pytest.mark.parametrize("trait", ["reboot=MAXN_SUPER", "no-sudo"])
def test_a_mode_that_cannot_be_set_is_told_when_the_site_is_opened(trait: str, tmp_path: Path) -> None:
    profile = tmp_path / "mine.yaml"
    profile.write_text(f"extends: jetson-orin-nano\ndevice: {{host: 'fake:orin-nano,{trait}'}}\n")
    with pytest.raises(DeviceError, match=r"MAXN_SUPER.*sudo nvpmodel -m 2; or name another mode .*device\.power_mode"):
        with open_site(profile):
            pytest.fail("it was opened")


def test_a_profile_without_a_power_mode_takes_the_board_as_it_is(tmp_path: Path) -> None:
    profile = tmp_path / "mine.yaml"
    profile.write_text("extends: jetson-orin-nano\ndevice: {host: 'fake:orin-nano,no-sudo', power_mode: null}\n")
    with open_site(profile) as site:
        assert timed(site.device).power_mode == "25W"  # type: ignore[arg-type]


class Breaking(FakeBoard):
    """A board whose connection breaks whenever a job has been heard ``lines`` times."""

    lines = 1

    def call(self, argv, *, stdin=b"", on_output=None):
        heard = 0

        def hear(piece: bytes) -> None:
            nonlocal heard
            if on_output is not None and heard < self.lines:
                on_output(piece)
            heard += 1
            if heard >= max(self.lines, 1) and b'"done"' not in piece:
                raise ConnectionLost("scripted")

        return super().call(argv, stdin=stdin, on_output=hear if "job" in argv else on_output)


@pytest.mark.parametrize("lines", [1, 0])
def test_lost_connections_are_counted_in_a_row_and_one_that_brought_something_starts_again(
    lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeprune.devices.remote.RETRY_PAUSES_S", (0.01, 0.01))
    monkeypatch.setattr(Breaking, "lines", lines)
    device = RemoteDevice(Breaking("fake:breaking", BOARDS["orin-nano"], {}))
    command = ["sh", "-c", "for i in 1 2 3 4 5 6; do echo $i; sleep 0.3; done"]
    with device:
        if lines:
            assert device.run(command, timeout_s=30).stdout.split() == list("123456")
        else:
            with pytest.raises(ConnectionLost):
                device.run(command, timeout_s=30)


class Spoiling(FakeBoard):
    """A board whose files arrive with another content; ``halves``: its connection breaks in the middle of every other
    one."""

    halves = False
    gets = 0

    def call(self, argv, *, stdin=b"", on_output=None):
        if "get" not in argv or on_output is None:
            return super().call(argv, stdin=stdin, on_output=on_output)
        self.gets += 1
        assert self.gets < 50, "it goes on for ever"
        breaks = self.halves and self.gets % 2
        share = 2 if breaks else 1
        ended = super().call(argv, stdin=stdin, on_output=lambda piece: on_output(b"x" * (len(piece) // share)))
        if breaks:
            raise ConnectionLost("f arrived by half")
        return ended


@pytest.mark.parametrize("halves", [False, True])
def test_a_file_that_arrives_with_another_content_brings_nothing_and_is_given_up(
    halves: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeprune.devices.remote.RETRY_PAUSES_S", (0.01, 0.01))
    monkeypatch.setattr(Spoiling, "halves", halves)
    channel = Spoiling("fake:spoiling", BOARDS["orin-nano"], {})
    (tmp_path / "f").write_bytes(b"content " * 100)
    device = RemoteDevice(channel)
    with device.workspace() as folder:
        device.send(tmp_path / "f", f"{folder}/f")
        with pytest.raises(ConnectionLost, match="f arrived"):
            device.fetch(f"{folder}/f", tmp_path / "back")
    assert channel.gets == 3
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_leaving_in_the_middle_of_a_job_ends_it_and_puts_the_board_back() -> None:
    device = fake_device("orin-nano", power_mode="7W")

    def stop(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        device.run(["sh", "-c", "echo here; sleep 30"], timeout_s=60, measured=True, on_line=stop)
    assert board(device).state() | {"runs": 0} == {"mode": "25W", "locked": False, "runs": 0}
    assert not list((board(device).root / "tmp").glob("edgeprune-*"))


def test_throttling_is_seen_and_makes_a_gate_inconclusive() -> None:
    at_work = "grep -q 1 $EDGEPRUNE_ROOT/sys/class/thermal/cooling_device0/cur_state"
    state = timed(fake_device("orin-nano,throttle"), f"until {at_work}; do sleep 0.02; done")
    assert state.throttled is True
    assert "gpu-throttle-alert was at work" in state.throttled_why
    told = 'until [ "$(cat $EDGEPRUNE_ROOT/reports.json || echo 0)" -ge 3 ]; do sleep 0.02; done'
    calm = timed(fake_device("orin-nano"), told)
    assert not calm.throttled and calm.telemetry is not None
    assert calm.telemetry.source == "tegrastats"
    assert calm.telemetry.power_w_mean == pytest.approx(9.0)
    assert calm.telemetry.gpu_mhz_max == BOARDS["orin-nano"].gpu_mhz
    assert calm.telemetry.gpu_clock == "devfreq" and "GR3D_FREQ 98% " in calm.telemetry.first_line
    assert "although clocks are locked" in state.throttled_why
    hot = latency((1 + 0.001 * (n % 7) for n in range(400)), device=state)
    assert latency_gate("engine", hot, 2.0).verdict is Verdict.INCONCLUSIVE


def test_what_a_stand_in_says_never_passes() -> None:
    pretended = latency((1 + 0.001 * (n % 7) for n in range(400)), simulated=True)
    gate = latency_gate("engine", pretended, 2.0)
    assert gate.verdict is Verdict.INCONCLUSIVE
    assert gate.reason.startswith("simulated, no device was measured")
    assert latency_gate("engine", pretended, 0.5).verdict is Verdict.FAIL
    assert simulated_gate(accuracy_gate("engine", 0.5, 0.5, 0.02)).verdict is Verdict.INCONCLUSIVE


def test_a_connection_that_drops_again_and_again_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeprune.devices.remote.RETRY_PAUSES_S", (0.01, 0.01, 0.01))
    notes: list[str] = []
    device = fake_device("orin-nano,drops=3", note=notes.append)
    (tmp_path / "f").write_bytes(os.urandom(100_000))
    with device.workspace() as folder:
        for number in range(4):
            device.send(tmp_path / "f", f"{folder}/{number}")
            mark = f"{folder}/starts"
            assert device.run(["sh", "-c", f"echo x >> {mark}; echo {number}"], timeout_s=10).stdout == f"{number}\n"
        device.fetch(mark, tmp_path / "starts")
    assert (tmp_path / "starts").read_text() == "x\n" * 4
    assert len(notes) >= 3
    assert not list((board(device).root / "tmp").glob("edgeprune-*"))


@pytest.mark.parametrize(
    ("fake", "targets"),
    [
        ("xavier-nx", ["jetson-xavier-nx"]),
        ("agx-xavier", ["jetson-agx-xavier"]),
        ("orin-nano,jetpack=5.1", ["jetson-orin-nano-tensorrt-8"]),
        ("orin-nano,jetpack=6.2", ["jetson-orin", "jetson-orin-nano"]),
        ("orin-nx,jetpack=6.0", ["jetson-orin-nx-tensorrt-8"]),
        ("agx-orin,jetpack=6.0", ["jetson-agx-orin-tensorrt-8"]),
        ("agx-orin,jetpack=7.2", ["jetson-agx-orin", "jetson-agx-orin-64gb"]),
        ("agx-orin,tensorrt=9.3.0", ["jetson-agx-orin", "jetson-agx-orin-64gb", "jetson-agx-orin-tensorrt-8"]),
    ],
)
def test_a_board_has_targets_for_its_releases_and_each_fits_it(fake: str, targets: list[str]) -> None:
    facts = fake_device(fake).facts()
    assert sorted(targets_for(facts)) == targets
    fits = [not mismatch(load_target(name).device, facts) for name in targets]
    assert all(fits) or "9.3" in fake  # for which there is none: its boards are named


@pytest.mark.parametrize(
    ("name", "fake", "words"),
    [
        ("jetson-orin-nano", "orin-nano", ""),
        ("jetson-xavier-nx", "xavier-nx", ""),
        ("jetson-xavier-nx", "agx-xavier", r"it is Jetson-AGX \(p2972-0000\), the profile is about Jetson Xavier NX"),
        ("jetson-orin-nano", "orin-nano,jetpack=5.1", r"it has JetPack 5\.1, the profile asks for >=6\.1"),
        ("jetson-agx-orin-tensorrt-8", "agx-orin,jetpack=6.0", ""),
    ],
)
def test_only_the_profiles_own_board_and_releases_will_do(name: str, fake: str, words: str) -> None:
    import re

    found = mismatch(load_target(name).device, fake_device(fake).facts())
    assert bool(found) == bool(words) and re.search(words, found)


@pytest.mark.parametrize(
    ("swaps", "mib"),
    [
        ("", 0),
        ("Filename Type Size Used Priority\n", 0),
        ("Filename Type Size Used Priority\n/dev/zram0 partition 635100 0 5\n/dev/zram1 partition 635100 512 5\n", 0),
        ("Filename Type Size Used Priority\n/dev/zram0 partition 1024 0 5\n/swapfile file 4194304 1048576 -2\n", 3072),
        ("Filename Type Size Used Priority\n/mnt/my\\040swap file 2048 0 -2\n/dev/nvme0n1p2 partition 1024 0 -3", 3),
    ],
)
def test_swap_is_what_lies_on_a_disk(swaps: str, mib: int) -> None:
    assert swap_free_bytes(swaps) == mib << 20


def test_zram_is_no_room_for_the_builder() -> None:
    facts = fake_device("orin-nano,free-mib=1500").facts()
    assert "1.5 GiB of memory and 0.0 GiB of swap on a disk are free" in short_of_memory(facts)
    assert "sudo systemctl set-default multi-user.target" in short_of_memory(facts)
    assert short_of_memory(replace(facts, swap_free_bytes=1 << 30)) == ""


@pytest.mark.slow
def test_too_little_memory_for_the_builder_is_said_before_a_build_and_by_the_probe() -> None:
    notes: list[str] = []

    class Notes(SilentBuild):
        def note(self, text: str) -> None:
            notes.append(text)

    for free_mib in (900, 6000):
        target = load_target("jetson-orin").with_overrides(device=f"fake:orin-nano,free-mib={free_mib}")
        with open_site(target, reporter=Notes()):
            pass
    [said] = [note for note in notes if "TensorRT's builder" in note]
    assert "0.9 GiB of memory and 0.0 GiB of swap on a disk are free" in said and "mkswap" in said
    with fake_device("orin-nano,free-mib=900") as device:
        rows = {finding.subject: finding for finding in examine_device(device)}
    assert not rows["memory for the builder"].usable and "mkswap" in rows["memory for the builder"].remedy
    assert "taken" in rows["trtexec 1 of 2"].state and "device.trtexec: " in rows["trtexec 2 of 2"].state


def test_a_profile_that_names_its_trtexec_goes_by_that_ones_version(tmp_path: Path) -> None:
    facts = fake_device("orin-nano,tensorrt=8.5.2").facts()
    own = load_target("jetson-orin-nano").device.model_copy(update={"trtexec": "/opt/trtexec"})
    assert not mismatch(own, facts)  # what the system has besides is no matter
    named = target_from({**load_target("desktop-tensorrt").model_dump(mode="json"), "name": "a"}, "a test").model_copy(
        update={"device": own.model_copy(update={"trtexec": "trtexec", "power_mode": None})}
    )
    with pytest.raises(DeviceError, match=r"it has TensorRT 8\.5\.2, the profile asks for >=10\.3"):
        with open_site(named.with_overrides(device="fake:orin-nano,tensorrt=8.5.2")):
            pass
    orin_nx = load_target("jetson-orin-nx").device.model_copy(
        update={"trtexec": "trtexec", "power_mode": None, "dla_core": 0, "tensorrt": ">=10.3,<12"}
    )
    measure = replace(named.measure, cuda_graph=False)
    on_dla = named.model_copy(update={"device": orin_nx, "runtime": "trtexec", "measure": measure})
    with pytest.raises(DeviceError, match=r"its TensorRT 11\.4\.1 has no DLA: .*leave device.dla_core out"):
        with open_site(on_dla.with_overrides(device="fake:orin-nx,tensorrt=11.4.1")):
            pass


@pytest.mark.parametrize(
    ("name", "fake", "words"),
    [
        ("jetson-orin-nano", "orin-nano", ""),
        ("jetson-agx-orin", "agx-orin", ""),
        (
            "jetson-orin-nano",
            "orin-nx",
            r"it is NVIDIA Jetson Orin NX .*\(p3768-0000, p3767-0000\), the profile is about",
        ),
        ("jetson-orin-nano", "orin-nano,tensorrt=8.5.2", r"it has TensorRT 8\.5\.2.*, the profile asks for >=10\.3"),
    ],
)
def test_only_the_profiles_own_board_will_do(name: str, fake: str, words: str) -> None:
    import re

    found = mismatch(load_target(name).device, fake_device(fake).facts())
    assert bool(found) == bool(words)
    assert re.search(words, found)


ORIN_NX = Board(kind="jetson", compatible=("nvidia,p3767-0000",), dla_cores=2, dla_core=0)
AGX = Board(kind="jetson", compatible=("nvidia,p3701-0005",), dla_cores=2, dla_core=0)


@pytest.mark.parametrize(
    ("board", "fake", "jetpack", "has"),
    [
        (ORIN_NX, "orin-nx,tensorrt=10.3.0", "6.2", True),
        (ORIN_NX, "orin-nx,tensorrt=10.7.0", "6.2", True),
        (ORIN_NX, "orin-nx,tensorrt=10.16.1", "7.2", False),
        (ORIN_NX, "orin-nx,tensorrt=11.4.1", "7.2.2", False),
        (AGX, "agx-orin,tensorrt=11.3.0", "7.2.2", False),
        (AGX, "agx-orin,tensorrt=11.4.1", "7.2", False),
        (AGX, "agx-orin,tensorrt=11.4.1", "7.2.2", True),
    ],
)
def test_a_dla_is_there_where_the_boards_tensorrt_has_one(board: Board, fake: str, jetpack: str, has: bool) -> None:
    facts = replace(fake_device(fake).facts(), jetpack=jetpack)
    found = mismatch(board, facts)
    assert ("has no DLA" in found) != has
    assert not mismatch(board.model_copy(update={"dla_core": None}), facts)


def test_an_unknown_release_is_said_and_not_skipped() -> None:
    board, facts = load_target("jetson-orin-nano").device, fake_device("orin-nano").facts()
    assert unknown_release(board, facts) == ""
    unknown = replace(facts, l4t="47.1.0", jetpack=jetpack_of("47.1.0"))
    assert mismatch(board, unknown) == ""
    assert "L4T 47.1.0 is no release that edgeprune knows" in unknown_release(board, unknown)


@pytest.mark.parametrize(
    ("precision", "device", "head", "says"),
    [
        ("int8", "fake:orin-nano,tensorrt=10.3.0", "raw", "TensorRT 10.3.0 (the device's)"),
        ("int8", "fake:orin-nano,tensorrt=10.16.1", "auto", ""),
        ("fp16", "fake:orin-nano,tensorrt=10.3.0", "auto", ""),
        ("int8", "fake:orin-nano,jetpack=6.0", "raw", "TensorRT 8.6.2 (the device's) is not known to build"),
        ("int8", "", "raw", "TensorRT 10.3 (the oldest that the profile allows, >=10.3,<11)"),
    ],
)
def test_the_head_is_that_of_the_boards_tensorrt(precision: str, device: str, head: str, says: str) -> None:
    name = "jetson-orin-nano-tensorrt-8" if "6.0" in device else "jetson-orin-nano"
    target = target_from({**load_target(name).model_dump(mode="json"), "precision": precision}, "a test")
    with open_site(target.with_overrides(device=device or None)) as site:
        assert site.target.exported_head == head
        note = site.target.head_note(known=site.usable)
    assert bool(note) == bool(says) and says in note


def test_a_measured_run_here_is_watched_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEPRUNE_LOCK", str(tmp_path / "lock"))
    monkeypatch.chdir(tmp_path)
    done = device_named("").run(["pwd"], timeout_s=10, measured=True)
    assert done.stdout.strip() == str(tmp_path)
    assert done.device.telemetry.source in ("sysfs", "nvidia-smi", "tegrastats")


def test_a_mode_that_cannot_be_put_back_is_told() -> None:
    notes: list[str] = []
    device = fake_device("orin-nano,reboot=25W", power_mode="15W", note=notes.append)
    timed(device)
    assert any("is not as it was: power mode 25W needs a reboot of the board" in note for note in notes)


def test_this_machine_is_no_jetson() -> None:
    assert "it is no Jetson" in mismatch(load_target("jetson-orin").device, device_named("").facts())


@pytest.mark.parametrize(
    ("name", "seen"),
    [("jetson-orin", "it is no Jetson"), ("desktop-cuda", "no NVIDIA GPU"), ("desktop-tensorrt", "no NVIDIA GPU")],
)
def test_this_machine_is_refused_where_it_is_named_and_of_another_kind(name: str, seen: str) -> None:
    here = device_named("")
    if here.facts().gpus or here.facts().l4t:
        pytest.skip("this machine is of that kind")
    target = load_target(name)
    with open_site(target) as site:
        assert not site.usable  # unnamed: whoever goes on leaves gates PENDING
    with pytest.raises(
        DeviceError,
        match=rf"device local, .*{seen}.*; allowed: user@host.*; next: the same command with --device user@host",
    ):
        with open_site(target.with_overrides(device="local")):
            pytest.fail("it was opened")
    elsewhere = target.model_copy(update={"device": target.device.model_copy(update={"host": "user@orin.invalid"})})
    assert elsewhere.with_overrides(device="local").device.host == "local"  # it replaces the profile's device


def test_this_machine_named_for_a_profile_of_its_kind_is_taken() -> None:
    with open_site(load_target("cpu").with_overrides(device="local")) as site:
        assert site.usable and site.device.name == "local"


@pytest.mark.parametrize("text", ["fake:toaster", "fake:orin-nano,nonsense", "fake:orin-nano,drops=x"])
def test_a_stand_in_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(TargetError, match="is no stand-in; allowed: orin-nano"):
        device_named(text)


@pytest.mark.parametrize(
    ("module", "release", "target"),
    [
        ("p3767-0004", "orin-nano,jetpack=5.1", "jetson-orin-nano-4gb-tensorrt-8"),
        ("p3767-0001", "orin-nx,jetpack=6.0", "jetson-orin-nx-8gb-tensorrt-8"),
        ("p3701-0008", "agx-orin,jetpack=5.1", "jetson-agx-orin-industrial-tensorrt-8"),
        ("p3834-0000", "thor", "jetson-thor-t4000"),
        ("p3767-0002", "orin-nx", "jetson-orin-nx"),
        ("p3767-0002", "orin-nx,jetpack=6.0", "jetson-orin-nx-tensorrt-8"),
    ],
)
def test_a_sibling_of_a_stand_in_has_a_profile_of_its_release(module: str, release: str, target: str) -> None:
    facts = replace(fake_device(release).facts(), modules=(module,))
    facts = replace(facts, power_modes={**facts.power_modes, "10W": 9})  # the 4 GB board's own, as NVIDIA lists them
    assert targets_for(facts) == [target]
    assert mismatch(load_target(target).device, facts) == ""


def test_every_jetson_profile_names_a_module_and_a_mode_that_boards_have() -> None:
    seen: dict[str, str] = {}
    for name in shipped_targets():
        profile = load_target(name).device
        if profile.kind != "jetson":
            continue
        assert modules_of(" ".join(profile.compatible)), name
        assert profile.power_mode, name
        for module in modules_of(" ".join(profile.compatible)):
            seen.setdefault(module, name)
    assert {"p3767-0000", "p3767-0001", "p3767-0003", "p3767-0004", "p3701-0000", "p3701-0004", "p3834-0008"} <= set(
        seen
    )


@pytest.mark.parametrize(
    ("release", "l4t", "jetpack"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64", "36.4.3", "6.2"),
        ("# R36 (release), REVISION: 4.7, GCID: 1, BOARD: generic", "36.4.7", "6.2.1"),
        ("# R36 (release), REVISION: 4.0, GCID: 1", "36.4.0", "6.1"),
        ("# R36 (release), REVISION: 3.0, GCID: 1", "36.3.0", "6.0"),
        ("# R35 (release), REVISION: 4.1, GCID: 1", "35.4.1", "5.1.2"),
        ("# R35 (release), REVISION: 2.1, GCID: 1", "35.2.1", "5.1"),
        ("# R35 (release), REVISION: 6.0, GCID: 1", "35.6.0", "5.1.4"),
        ("# R35 (release), REVISION: 6.2, GCID: 1", "35.6.2", "5.1.5"),
        ("# R35 (release), REVISION: 1.0, GCID: 1", "35.1.0", "5.0.2"),
        ("# R38 (release), REVISION: 2.1, GCID: 1", "38.2.1", "7.0"),
        ("# R39 (release), REVISION: 2.2, GCID: 1", "39.2.2", "7.2.2"),
        ("# R99 (release), REVISION: 1.0, GCID: 1", "99.1.0", ""),
        ("not a release", "", ""),
    ],
)
def test_releases(release: str, l4t: str, jetpack: str) -> None:
    assert l4t_of(release) == l4t
    assert jetpack_of(l4t) == jetpack


def test_modes_out_of_a_configuration() -> None:
    conf = (
        "# < POWER_MODEL ID=9 NAME=NO >\n< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n"
        "< POWER_MODEL ID=2 NAME=MODE_30W >\n"
    )
    assert power_modes(conf) == {"MAXN": 0, "MODE_30W": 2}


@pytest.mark.parametrize(
    ("line", "total_mw", "load", "mhz", "hottest"),
    [
        (  # Orin Nano, JetPack 6.2
            "11-21-2026 10:00:00 RAM 3162/7620MB (lfb 8x4MB) SWAP 0/3810MB (cached 0MB) CPU [1%@1510,0%@1510,off,off] "
            "EMC_FREQ 2%@2133 GR3D_FREQ 97%@[1020] VIC off APE 200 cpu@50.031C soc2@48C gpu@51.5C tj@51.75C cv0@-256C "
            "VDD_IN 9952mW/8952mW VDD_CPU_GPU_CV 5013mW/4013mW VDD_SOC 1544mW/1544mW",
            9952, 97, 1020, 51.75,
        ),
        (  # Orin Nano, JetPack 6.2, as a user who is not root reads it: no clock of GPU and memory
            "07-29-2026 18:00:27 RAM 2272/7620MB (lfb 4x4MB) SWAP 221/3810MB (cached 0MB) CPU [0%@729,0%@1036] "
            "GR3D_FREQ 0% cpu@54.937C soc2@55.562C soc0@56.156C gpu@55.468C tj@56.656C soc1@56.656C "
            "VDD_IN 4673mW/4673mW VDD_CPU_GPU_CV 527mW/527mW VDD_SOC 1339mW/1339mW",
            4673, 0, None, 56.656,
        ),
        (  # AGX Orin, JetPack 6: two clusters, no rail for the whole board
            "RAM 4321/62801MB (lfb 1759x4MB) SWAP 19/31400MB (cached 0MB) CPU [0%@729,0%@729] EMC_FREQ 0%@2133 "
            "GR3D_FREQ 0%@[0,1300] VIC_FREQ 729 APE 174 CV0@-256C CPU@44.562C Tboard@32C tj@44.343C GPU@-256C "
            "VDD_GPU_SOC 2340mW/2340mW VDD_CPU_CV 390mW/390mW VIN_SYS_5V0 4025mW/4025mW NC 0mW/0mW "
            "VDDQ_VDD2_1V8AO 301mW/301mW",
            6755, 0, 1300, 44.562,
        ),
        (  # Xavier NX: no units; PMIC is no measurement
            "RAM 4412/7772MB (lfb 237x4MB) SWAP 139/3886MB (cached 2MB) CPU [9%@1190,6%@1190] EMC_FREQ 10%@1600 "
            "GR3D_FREQ 62%@306 APE 150 MTS fg 0% bg 0% AO@41.5C GPU@43C PMIC@100C AUX@41.5C CPU@43.5C thermal@42.55C "
            "VDD_IN 4067/4067 VDD_CPU_GPU_CV 738/738 VDD_SOC 1353/1353",
            4067, 62, 306, 43.5,
        ),
        (  # AGX Xavier: no units, and no rail for the whole board
            "RAM 721/31927MB (lfb 7291x4MB) SWAP 0/15963MB (cached 0MB) CPU [2%@1190,off] EMC_FREQ 0%@665 "
            "GR3D_FREQ 0%@318 APE 150 MTS fg 0% bg 0% AO@37.5C GPU@37.5C Tdiode@40C PMIC@100C AUX@36C CPU@37.5C "
            "thermal@36.9C Tboard@37C GPU 10/10 CPU 311/311 SOC 932/932 CV 0/0 VDDRQ 621/621 SYS5V 1482/1482",
            3356, 0, 318, 40.0,
        ),
        (  # AGX Xavier, JetPack 5: the same with units
            "RAM 721/31927MB CPU [2%@1190] GR3D_FREQ 0%@318 GPU@37.5C GPU 10mW/10mW CPU 311mW/311mW SOC 932mW/932mW "
            "CV 0mW/0mW VDDRQ 621mW/621mW SYS5V 1482mW/1482mW",
            3356, 0, 318, 37.5,
        ),
        (  # Thor, JetPack 7.0: no load, three clusters
            "RAM 105265/125772MB (lfb 34x4MB) CPU [0%@972,8%@972] EMC_FREQ 0%@2750 GR3D_FREQ @[314,1575,314] "
            "NVENC0_FREQ @314 VIC off cpu@37.343C tj@38.875C gpu@38.875C VDD_GPU 1962mW/1962mW "
            "VDD_CPU_SOC_MSS 5887mW/5887mW VIN_SYS_5V0 5635mW/5635mW VIN 19780mW/19780mW",
            19780, None, 1575, 38.875,
        ),
        (  # Thor, JetPack 7.2: nothing about the GPU, three figures a rail
            "RAM 36529/125749MB (lfb 12x4MB) SWAP 11/4096MB (cached 9MB) CPU [2%@972] cpu@60.406C tj@63.281C "
            "gpu@62.906C VDD_GPU 37528mW/37528mW/37528mW VDD_CPU_SOC_MSS 18961mW/18961mW/18961mW "
            "VIN 87426mW/43713mW/87426mW",
            87426, None, None, 63.281,
        ),
    ],
)  # fmt: skip
def test_tegrastats_of_both_generations(
    line: str, total_mw: int, load: int | None, mhz: int | None, hottest: float
) -> None:
    reading = tegrastats_reading(line)
    assert board_power_mw(reading.power_mw) == total_mw
    assert reading.gpu_load == load
    assert reading.gpu_mhz == mhz
    assert max(reading.temperature_c.values()) == hottest


def reading(mhz: int = 1000, throttle_reasons: int = 0, load: int | None = 99) -> Reading:
    return Reading({"gpu": 50.0}, {"VDD_IN": 9000}, gpu_mhz=mhz, gpu_load=load, throttle_reasons=throttle_reasons)


def thor(*clocks_mhz: int) -> list[Reading]:
    """Readings of a board that tells no load."""
    return [reading(mhz, load=None) for mhz in clocks_mhz]


@pytest.mark.parametrize(
    ("readings", "events", "throttling", "locked", "why"),
    [
        ([reading()], {"oc1_event_cnt": 0, "oc3_event_cnt": 8}, {}, True, ""),
        ([reading()], {"oc1_event_cnt": 2}, {}, True, "oc1_event_cnt rose by 2"),
        ([reading()], {}, {"gpu-throttle-alert": 1}, True, "gpu-throttle-alert was at work"),
        ([reading(), reading(600)], {}, {}, True, "fell from 1000 to 600 MHz"),
        ([reading(), reading(600)], {}, {}, False, ""),
        (thor(314, 314, 1575, 1575, 314), {}, {}, True, ""),
        (thor(314, 1575, 945, 314), {}, {}, True, "fell from 1575 to 945 MHz"),
        (thor(1575, 314, 1575), {}, {}, True, "fell from 1575 to 314 MHz"),
        (thor(0, 0), {}, {}, True, ""),
        ([reading(1020, load=0), reading(612, load=0)], {}, {}, True, "fell from 1020 to 612 MHz"),
        ([reading(throttle_reasons=0x4)], {}, {}, False, ""),
        ([reading(throttle_reasons=0x20)], {}, {}, False, "throttle reasons 0x20"),
    ],
)
def test_what_counts_as_throttling(readings: list, events: dict, throttling: dict, locked: bool, why: str) -> None:
    state = summary(readings, [], "tegrastats", events, throttling, locked)
    assert state.get("throttled", False) == bool(why)
    assert why in state.get("throttled_why", "")


def test_events_of_a_kind_that_throttles_nothing_decide_nothing() -> None:
    state = summary([reading()], [], "tegrastats", {"oc1_event_cnt": 2}, {}, True, harmless={"oc1_event_cnt"})
    assert not state.get("throttled", False)
    assert state["telemetry"]["over_current_harmless"] == ["oc1_event_cnt"]


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_a_clock_that_falls_is_seen_by_a_user_who_is_not_root(name: str) -> None:
    """The kernel's own reading, by the name that each chip's GPU has there."""
    at_work = "grep -q 1 $EDGEPRUNE_ROOT/sys/class/thermal/cooling_device0/cur_state"
    state = timed(fake_device(f"{name},throttle"), f"until {at_work}; do sleep 0.02; done; sleep 1")
    mhz = BOARDS[name].gpu_mhz
    assert f"the GPU's clock fell from {mhz} to {mhz * 6 // 10} MHz although clocks are locked" in state.throttled_why
    assert state.telemetry is not None and "EMC_FREQ" not in state.telemetry.first_line


def test_where_no_clock_can_be_read_the_record_and_the_gate_say_so() -> None:
    device = fake_device("orin-nano")
    (board(device).root / "sys/class/devfreq/17000000.gpu/cur_freq").unlink()
    hidden = RemoteDevice(board(device))
    program = board(device).root / "fake.py"
    program.write_text(program.read_text().replace('"/cur_freq"', '"/other"'))
    told = 'until [ "$(cat $EDGEPRUNE_ROOT/reports.json || echo 0)" -ge 3 ]; do sleep 0.02; done'
    state = timed(hidden, told)
    assert state.telemetry is not None and state.telemetry.gpu_clock == "" and state.telemetry.gpu_mhz_max is None
    gate = latency_gate("engine", latency((1 + 0.001 * (n % 7) for n in range(400)), device=state), 2.0)
    assert gate.verdict is Verdict.PASS and "no clock of the GPU could be read" in gate.reason


def test_over_current_that_was_counted_since_boot_is_told_by_the_probe() -> None:
    with fake_device("orin-nano") as device:
        rows = {finding.subject: finding for finding in examine_device(device)}
    assert rows["over-current events"].state.startswith("oc3 7 since boot")
    facts = replace(fake_device("orin-nano").facts(), over_current_events={})
    assert over_current(facts) == ""


@pytest.mark.parametrize(
    ("name", "version", "jetpack", "supported"),
    [
        ("orin-nano", "10.3.0", "6.2", True),
        ("orin-nano", "11.1.0", "6.2", False),
        ("orin-nx", "11.4.1", "7.2.2", False),
        ("agx-orin", "11.4.0", "7.2.2", False),
        ("agx-orin", "11.4.1", "7.2", False),
        ("agx-orin", "11.4.1", "7.2.2", True),
        ("thor", "11.4.1", "7.2.2", True),
        ("thor", "11.3.0", "7.2.2", False),
    ],
)
def test_a_tensorrt_that_nvidia_does_not_support_there_is_warned_of(
    name: str, version: str, jetpack: str, supported: bool
) -> None:
    facts = replace(fake_device(name).facts(), jetpack=jetpack)
    assert (unsupported_tensorrt(facts, version) == "") == supported
    assert unsupported_tensorrt(replace(facts, l4t=""), version) == ""  # of a desktop nothing is said


def test_the_warning_comes_with_the_probe_and_before_a_build() -> None:
    notes: list[str] = []

    class Notes(SilentBuild):
        def note(self, text: str) -> None:
            notes.append(text)

    text = "fake:agx-orin,jetpack=7.2,tensorrt=11.1.0"
    with open_site(load_target("jetson-agx-orin").with_overrides(device=text), reporter=Notes()):
        pass
    assert any(note.startswith("warning: NVIDIA does not support TensorRT 11.1.0 on this board") for note in notes)
    with device_named(text) as device:
        rows = {finding.subject: finding for finding in examine_device(device)}
    assert "NVIDIA does not support TensorRT 11.1.0" in rows["TensorRT"].state


def energy(values: Sequence[float], source: str = "tegrastats") -> Measurement:
    seen = DeviceState(telemetry=TelemetryRow(source=source))
    return replace(latency(values, device=seen), name="energy", unit="mJ")


def test_energy_is_told_with_its_interval_where_power_was_measured() -> None:
    before, after = energy((29, 30, 31, 32, 33, 34)), energy((12, 15, 11, 14, 13, 10))
    [row] = energy_gates("engine", (before, after))
    assert (row.value, row.unit, row.limit) == (12.0, "mJ", None)
    assert row.reason.startswith("10 to 15 at 96.8% by 6 runs of seconds, unpruned 31 (29 to 34)")
    assert "whole board by tegrastats" in row.reason
    [row] = energy_gates("engine", (before, energy((1.0,) * 6, "nvidia-smi")))
    assert "GPU alone by nvidia-smi" in row.reason
    assert energy_gates("engine", None) == []


def test_power_is_kept_only_while_a_program_says_that_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sensors are read whenever the agent looks at the program, which works until they were read often enough."""
    seen, made = tmp_path / "seen", []

    class Sensors(Telemetry):
        def __init__(self, uses_gpu: bool = True) -> None:
            super().__init__(uses_gpu)
            made.append(self)

        def begin(self) -> None:
            seen.write_text("")
            super().begin()

    def look(work: programs._Work) -> None:
        looked(work)
        made[-1].powers.append((time.monotonic(), 9000))
        if work.began_at is not None:
            seen.write_text(seen.read_text() + "x")

    looked = programs._Work.look
    monkeypatch.setattr("edgeprune.agent.telemetry.shutil.which", lambda name: None)  # this machine's own are silent
    monkeypatch.setattr(programs, "Telemetry", Sensors)
    monkeypatch.setattr(programs._Work, "look", look)
    wait = f"import time\nwhile len(open({str(seen)!r}).read()) < 5: time.sleep(0.005)"
    lines = tuple(
        (sys.executable, "-u", "-S", "-c", f"{begin}\n{waits}\n{end}")
        for begin, waits, end in (
            ("print('begins')", wait, "print('it ends')"),
            ("print('begins')", wait, ""),
            ("", "", "print('it ends')"),
        )
    )
    turns = Turns(lines, "", rounds=2, least_rounds=2, time_limit_s=0, timeout_s=600, begins="begins", ends="ends")
    result = {"conditions": {}}
    programs.run_measured({"turns": to_json(turns), "stdin": "", "cwd": str(tmp_path)}, str(tmp_path), False, result)
    assert result["returncode"] == 0
    told = [json.loads(line) for line in (tmp_path / "stdout").read_text().splitlines()]
    heard = [[line["power"] for line in told if line["program"] == program] for program in range(3)]
    for row in heard[0]:
        assert len(row) > 3
        assert {watts for _, watts in row} == {9.0}
        assert all(before_end_s >= 0 for before_end_s, _ in row)
        assert [at for at, _ in row] == sorted((at for at, _ in row), reverse=True)
    assert heard[1] == heard[2] == [[], []]  # one that does not say when it ends is not taken for one that worked


@pytest.mark.slow
def test_each_engine_has_an_energy_of_its_own(tmp_path: Path) -> None:
    graphs = [convolutions(tmp_path / f"{width}.onnx", width=width) for width in (64, 4)]
    with fake_device("orin-nano") as device:
        trtexec = TrtExec(device, keep_timing_cache=False)
        settings = BenchSettings(rounds=8, per_round=3, copies=False)
        times, found = trtexec.latency(graphs, settings), trtexec.energy(graphs, settings)
    assert found is not None
    for time_ms, own in zip(times, found, strict=True):
        assert (own.name, own.unit, len(own.values), own.conditions.launches) == ("energy", "mJ", 6, (1,) * 6)
        assert own.simulated
        # the board draws 9 W all the time, and the stand-in has no pause between inferences
        assert own.values == pytest.approx([9.0 * min(time_ms.values)] * 6, rel=0.02)
    assert min(found[0].values) > 1.05 * max(found[1].values)


QUICK_TENSORRTS = ("10.7.0", "11.4.1")  # of two kinds of command line; the others are slow


@pytest.mark.parametrize(
    "version",
    [
        *QUICK_TENSORRTS,
        *(
            pytest.param(version, marks=pytest.mark.slow)
            for version in ("8.5.2", "8.6.2", "10.3.0", "10.13.3", "10.16.1", "11.1.0")
        ),
    ],
)
def test_an_engine_is_built_timed_and_run_by_the_options_of_every_tensorrt(version: str, tmp_path: Path) -> None:
    weak = version.startswith("8.")
    plan, graph = tmp_path / "m.engine", convolutions(tmp_path / "m.onnx", half=not weak)
    settings = BenchSettings(rounds=8, per_round=2, warmup_s=0.01, copies=False, cuda_graph=True)
    with fake_device(f"orin-nano,tensorrt={version}") as device:
        trtexec = TrtExec(device, keep_timing_cache=False)
        trtexec.engine_from_onnx(graph, plan, precision="fp16", keep_float=["conv0"] if weak else ())
        [timed_ms] = trtexec.latency([plan], settings)
        layers = trtexec.layer_times(plan, runs=3)
        with trtexec.session(plan) as session:
            given = np.ones((1, 3, 32, 32), np.float32)
            [found] = session.run({"images": given}).values()
    facts = read_facts(plan)
    assert facts is not None and facts.builder == f"trtexec {version}"
    assert {layer.precision for layer in facts.layers} == {"fp16"}
    told = {word.partition("=")[0] for word in facts.command.split()}
    assert ("--fp16" in told, "--stronglyTyped" in told) == (weak, version.startswith("10."))
    assert len(timed_ms.values) == 8 * 2 and timed_ms.simulated and timed_ms.conditions.cuda_graph
    assert timed_ms.conditions.gpu is not None and timed_ms.conditions.gpu.io_memory == "managed"
    assert sum(layer.mean_ms for layer in layers) == pytest.approx(np.median(timed_ms.values), rel=0.05)
    assert found.shape == (1, 8, 32, 32)


def test_a_stand_in_refuses_an_input_of_another_size_as_trtexec_does(tmp_path: Path) -> None:
    with fake_device("orin-nano") as device:
        trtexec = TrtExec(device, keep_timing_cache=False)
        trtexec.engine_from_onnx(convolutions(tmp_path / "m.onnx"), tmp_path / "m.engine")
        with trtexec.session(tmp_path / "m.engine") as session, pytest.raises(ToolError, match="has 24576 bytes"):
            session.run({"images": np.ones((2, 3, 32, 32), np.float32)})


@pytest.mark.parametrize(
    ("version", "option"),
    [
        ("8.5.2", "--stronglyTyped"),
        ("8.5.2", "--skipInference"),
        ("8.6.2", "--noCudaGraph"),
        ("10.7.0", "--buildOnly"),
        ("10.16.1", "--includeDataTransfers"),
        ("11.1.0", "--fp16"),
        ("11.4.1", "--fp16"),
        ("11.4.1", "--layerPrecisions=a:fp32"),
    ],
)
def test_a_stand_in_refuses_an_option_that_its_tensorrt_does_not_parse(version: str, option: str) -> None:
    done = trtexec_of(f"orin-nano,tensorrt={version}", "--onnx=missing.onnx", option)
    assert done.returncode == 1
    assert f"Unknown option: {option.partition('=')[0]} " in done.stdout


def test_a_weakly_typed_stand_in_uses_only_what_it_is_allowed(tmp_path: Path) -> None:
    argv = [f"--onnx={convolutions(tmp_path / 'm.onnx', half=True)}", f"--saveEngine={tmp_path}/m.engine"]
    argv += [f"--exportLayerInfo={tmp_path}/l.json", "--skipInference"]
    for typing, words in ((["--stronglyTyped"], "FP16 format"), (["--fp16"], "FP16 format"), ([], "linear FP32")):
        done = trtexec_of("orin-nano,tensorrt=10.7.0", *argv, *typing)
        assert done.returncode == 0, done.stdout
        assert words in (tmp_path / "l.json").read_text(), typing


def trtexec_of(text: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """A stand-in's trtexec alone, without the agent around it."""
    channel = board(fake_device(text))
    program = str(channel.root / "bin/trtexec")
    return subprocess.run([program, *argv], capture_output=True, text=True, timeout=600, env=channel.env, check=False)


UUID = "GPU-5{}1c2a3b-0001-4c1d-9e2f-0123456789ab"


@pytest.mark.parametrize(
    ("environment", "names", "gpu"),
    [
        ({}, ["H100", "H100"], 0),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ["H100", "H100"], 1),
        ({"CUDA_VISIBLE_DEVICES": " 1 ,0"}, ["H100", "H100"], 1),
        ({"CUDA_VISIBLE_DEVICES": f"{UUID.format(1)},0"}, ["H100", "T4"], 1),
        ({"CUDA_VISIBLE_DEVICES": UUID.format(1)[:8].upper()}, ["H100", "T4"], 1),  # its beginning
        ({"CUDA_VISIBLE_DEVICES": f"MIG-{UUID.format(1)}/1/0"}, ["H100", "T4"], 1),
        ({"CUDA_VISIBLE_DEVICES": "GPU-5"}, ["H100", "T4"], None),  # the beginning of both
        ({"CUDA_VISIBLE_DEVICES": "1"}, ["H100", "T4"], None),  # CUDA's second is the slower one, nvidia-smi's any
        ({"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, ["H100", "T4"], 1),
        ({"CUDA_VISIBLE_DEVICES": "7"}, ["H100", "H100"], None),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, ["H100"], 0),  # there is no other to be watched
        ({"CUDA_VISIBLE_DEVICES": "MIG-5f1c2a3b-0001-4c1d-9e2f-0123456789ab"}, ["H100"], 0),
        ({"CUDA_VISIBLE_DEVICES": "MIG-5f1c2a3b-0001-4c1d-9e2f-0123456789ab"}, ["H100", "H100"], None),
        ({}, [], None),
    ],
)
@pytest.mark.parametrize("driver", ["", "0000:02:00.0\n"])
def test_of_several_gpus_the_one_that_programs_take_is_watched(
    environment: dict[str, str], names: list[str], gpu: int | None, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the environment does not tell, NVIDIA's driver may: here that CUDA's first is the second by the bus."""
    listed = [Card(name, UUID.format(number), f"00000000:0{number + 1}:00.0") for number, name in enumerate(names)]
    assert first_gpu(environment, listed) == ("" if gpu is None else UUID.format(gpu))
    if gpu is None and driver and len(names) > 1:
        gpu = 1
    rows = "".join(f"{number}, {one.name}, {one.uuid}, {one.bus}\n" for number, one in enumerate(listed))
    started: list[tuple[str, ...]] = []

    def start(argv: Sequence[str], **_: object) -> None:
        started.append(tuple(argv))
        raise OSError

    def answer(argv: Sequence[str]) -> tuple[int, str]:
        if argv[0] == "nvidia-smi":
            return 0, rows
        return (0, driver) if driver else (1, "OSError: libcuda.so.1: cannot open shared object file")

    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("edgeprune.agent.telemetry.output_of", answer)
    monkeypatch.setattr("edgeprune.agent.telemetry.shutil.which", lambda name: name if name == "nvidia-smi" else None)
    monkeypatch.setattr("edgeprune.agent.telemetry.subprocess.Popen", start)
    Telemetry().finish(False)
    [argv] = started
    assert argv[argv.index("200") + 1 :] == (() if gpu is None else ("-i", UUID.format(gpu)))


LIBCUDA = """
#include <string.h>
int cuInit(unsigned flags) { return CODE; }
int cuDeviceGet(int *device, int ordinal) { *device = 40 + ordinal; return 0; }
int cuDeviceGetPCIBusId(char *bus, int length, int device) { strncpy(bus, BUS, length); return device != 40; }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.parametrize(("code", "told"), [(0, (0, "0000:65:00.0\n")), (100, (1, ""))])
def test_the_driver_tells_its_first_gpu(
    code: int, told: tuple[int, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cuda.c").write_text(LIBCUDA.replace("CODE", str(code)).replace("BUS", '"0000:65:00.0"'))
    library = str(tmp_path / "libcuda.so.1")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, str(tmp_path / "cuda.c")], check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    assert output_of([sys.executable, "-c", DRIVERS_FIRST]) == told


def test_nvidia_smi_lines() -> None:
    for index in ("", ", 1"):
        assert nvidia_smi_reading("55, 123.45, 1980, 0x0000000000000020" + index) == Reading(
            {"gpu": 55.0}, {"VIN": 123450}, gpu_mhz=1980, throttle_reasons=0x20
        )
        assert nvidia_smi_reading("[N/A], [N/A], [N/A], [N/A]" + index) == Reading()
    assert [card_in(f"55, 123.45, 1980, 0x20{index}") for index in ("", ", 1")] == ["", "1"]


def test_an_identity_changes_with_all_that_changes_figures() -> None:
    facts = fake_device("orin-nano").facts()
    first = identity_of(facts)
    others = [
        identity_of(facts, power_mode="15W"),
        identity_of(facts, clocks="locked"),
        identity_of(replace(facts, tensorrt="10.7.0")),
        identity_of(replace(facts, l4t="36.4.7")),
        identity_of(replace(facts, modules=("p3767-0003",))),
    ]
    assert len({digest_of(one) for one in (first, *others)}) == 6
    assert digest_of(identity_of(replace(facts, load_average=(9, 9, 9)))) == digest_of(first)
