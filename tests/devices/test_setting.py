"""Power mode and clocks of an identity are those that the measured runs had, and a run that had others is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from edgeprune.agent.programs import Turns
from edgeprune.agent.system import is_running, pid_of
from edgeprune.devices.base import Completed
from edgeprune.devices.fake import BOARDS, FakeBoard, fake_device
from edgeprune.devices.local import LocalDevice
from edgeprune.devices.remote import RemoteDevice
from edgeprune.errors import DeviceError
from edgeprune.samples.conditions import DeviceState
from edgeprune.samples.gates import Verdict, latency_gate
from edgeprune.samples.telemetry import over_launches
from tests.samples.made import latency


def board(device: RemoteDevice) -> FakeBoard:
    assert isinstance(device.channel, FakeBoard)
    return device.channel


def timed(device: RemoteDevice, command: str = "true") -> DeviceState:
    return device.run(["sh", "-c", command], timeout_s=60, measured=True).device


def as_person(root: Path, *argv: str) -> None:
    env = {**os.environ, "FAKE_ROOT_USER": "1"}
    subprocess.run([root / "bin" / argv[0], *argv[1:]], env=env, check=True)


def set_by_hand(root: Path, mode: str) -> None:
    as_person(root, "nvpmodel", "-m", str(json.loads((root / "board.json").read_text())["modes"].index(mode)))


def let_go(device: RemoteDevice) -> None:
    """The pause after which a board is another's."""
    holder = end_holder(device)
    ends = time.perf_counter() + 60
    while is_running(holder) and time.perf_counter() < ends:
        time.sleep(0.02)


def end_holder(device: RemoteDevice) -> str:
    """Ask the process that holds the board to end; gives it."""
    holder = json.loads((Path(device.work) / "hold.json").read_text())["process"]
    os.kill(pid_of(holder), signal.SIGTERM)
    return holder


def setting_of(identity: dict[str, str]) -> tuple[str, str]:
    return identity["power_mode"], identity["clocks"]


def without_rule(device: RemoteDevice, words: str) -> None:
    """Sudo's rules of the board have no line with these words."""
    rules = board(device).root / "etc/sudoers.d/edgeprune"
    rules.write_text("".join(line for line in rules.read_text().splitlines(True) if words not in line))


@pytest.mark.parametrize("words", ["--store", 'jetson_clocks ""', "mkdir"])
def test_clocks_that_could_not_be_locked_are_free_in_the_identity_and_the_user_is_told(words: str) -> None:
    notes: list[str] = []
    device = fake_device("orin-nano", power_mode="7W", note=notes.append)
    without_rule(device, words)
    with device:
        assert setting_of(device.identity()) == ("7W", "free")
        state = timed(device)
    assert (state.power_mode, state.clocks) == ("7W", "free")
    told = f"the clocks were to be locked and are free (sudo {'mkdir -p' if words == 'mkdir' else 'jetson_clocks'}"
    [note] = notes
    assert told in note and "a password is required): compare /etc/sudoers.d/edgeprune" in note
    assert board(device).state() | {"runs": 0} == {"mode": "25W", "locked": False, "runs": 0}
    measured = latency((1 + 0.001 * (n % 7) for n in range(400)), device=over_launches([state, DeviceState()]))
    gate = latency_gate("engine", measured, 2.0)
    assert gate.verdict is Verdict.PASS and told in gate.reason


def test_the_line_that_only_looks_is_not_needed_to_lock_the_clocks() -> None:
    notes: list[str] = []
    device = fake_device("orin-nano", note=notes.append)
    without_rule(device, "--show")
    with device:
        assert timed(device).clocks == "locked"
    assert board(device).state()["locked"] is False and notes == []


FULL = "echo jetson_clocks: line 191: echo: write error: No space left on device >&2"


@pytest.mark.parametrize(
    ("instead", "why"),
    [
        (f': > "$2"; {FULL}', "write error: No space left on device"),
        (f'echo /sys/devices/sys > "$2"; {FULL}', "write error: No space left on device"),
        (': > "$2"; echo "line 7: echo: write error: Invalid argument"', "clocks.conf: it is empty"),
        ("true", "the file is as it was"),
        ('echo "jetson_clocks: line 191: $2: Read-only file system" >&2', "clocks.conf: Read-only file system"),
        ('rm "$2"', "clocks.conf: No such file or directory"),
    ],
)
def test_clocks_whose_state_could_not_be_stored_are_not_locked(instead: str, why: str) -> None:
    """NVIDIA's jetson_clocks ends with 0 all the same; what it stored at an earlier run is of another mode."""
    notes: list[str] = []
    device = fake_device("orin-nano", note=notes.append)
    root = board(device).root
    (root / "var/lib/edgeprune").mkdir(parents=True)
    (root / "var/lib/edgeprune/clocks.conf").write_text("/sys/devices/system/cpu/cpu5/online:0\n")
    program = root / "bin/jetson_clocks"
    script = program.read_text()
    program.write_text(script.replace("exec ", f'[ "$1" != --store ] || {{ {instead}; exit 0; }}\nexec ', 1))
    with device:
        state = timed(device)
    assert state.clocks == "free" and "how they are is not stored: " in state.clocks_doubt and why in state.clocks_doubt
    [note] = notes  # and nothing is left that could not be put back
    assert why in note and f"look there: df -h {root}/var/lib" in note
    assert not list(root.rglob("restore.json"))
    program.write_text(script)
    with RemoteDevice(board(device)) as again:
        assert timed(again).clocks == "locked"
    assert board(device).state()["locked"] is False


def test_a_user_who_may_lock_nothing_is_not_told_at_every_run() -> None:
    notes: list[str] = []
    with fake_device("orin-nano,no-sudo", note=notes.append) as device:
        assert setting_of(device.identity()) == ("25W", "free") and timed(device).clocks_doubt == ""
    assert notes == []


def test_an_identity_waits_for_the_board_and_is_the_same_at_each_build() -> None:
    """The board is in another build's mode, with its clocks, until that one lets go."""
    first = fake_device("orin-nano", power_mode="MAXN_SUPER")
    board(first).env = {**(board(first).env or {}), "EDGEPRUNE_IDLE_S": "600"}
    with RemoteDevice(board(first)) as alone:
        before = alone.identity()
    notes: list[str] = []

    def hear(note: str) -> None:
        notes.append(note)
        end_holder(first)  # its pause is over

    with first, RemoteDevice(board(first), note=hear) as second:
        timed(first)
        assert second.facts().power_mode == "MAXN_SUPER"  # as the first one has it
        assert second.identity() == before and setting_of(before) == ("25W", "locked")
        assert timed(second).power_mode == "25W"
    [note] = notes
    assert "busy with another build" in note


def test_clocks_that_a_mode_unlocks_are_free_in_the_identity() -> None:
    device = fake_device("orin-nano", power_mode="MAXN_SUPER", clocks=False)
    as_person(board(device).root, "jetson_clocks")
    with device:
        assert device.facts().clocks == "locked"
        assert setting_of(device.identity()) == ("MAXN_SUPER", "free")
        assert timed(device).clocks == "free"


@pytest.mark.parametrize("asked_first", [False, True])
def test_a_run_in_another_mode_than_the_one_before_is_refused(asked_first: bool) -> None:
    heard: list[int] = []
    with fake_device("orin-nano") as device:
        if asked_first:
            device.identity()
        else:
            timed(device)
        let_go(device)
        set_by_hand(board(device).root, "15W")
        words = r"power mode was 25W with clocks locked and is now 15W with clocks locked, and .* not compared; set the"
        with pytest.raises(DeviceError, match=words):
            timed(device)
        turns = Turns((("true",),), "", rounds=3, least_rounds=3, time_limit_s=0, timeout_s=60)
        with pytest.raises(DeviceError, match=words):
            device.run_turns(turns, lambda index, done: heard.append(index))
        let_go(device)
        set_by_hand(board(device).root, "25W")
        assert timed(device).power_mode == "25W" and setting_of(device.identity()) == ("25W", "locked")
    assert heard == []


def test_a_board_that_is_this_machine_refuses_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    orin = FakeBoard("fake:orin-nano", BOARDS["orin-nano"], {})
    assert orin.env is not None
    for name in ("PATH", "EDGEPRUNE_ROOT", "EDGEPRUNE_LOCK"):
        monkeypatch.setenv(name, orin.env[name])
    monkeypatch.setattr("edgeprune.agent.system.ROOT", str(orin.root))
    device = LocalDevice()
    assert setting_of(device.identity()) == ("25W", "locked")
    set_by_hand(orin.root, "15W")
    turns = Turns((("true",),), "", rounds=1, least_rounds=1, time_limit_s=0, timeout_s=60)
    heard: list[Completed] = []
    for run in (
        lambda: device.run(["true"], timeout_s=60, measured=True),
        lambda: device.run_turns(turns, lambda index, done: heard.append(done)),
    ):
        with pytest.raises(DeviceError, match="was 25W with clocks locked and is now 15W"):
            run()
    assert heard == []


def test_a_machine_without_power_modes_holds_nothing_for_its_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    device = LocalDevice()
    monkeypatch.setattr(device, "run", None)
    assert "power_mode" not in device.identity()
