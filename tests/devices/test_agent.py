"""What the agent does when something goes wrong beside it: holders and programs that do not end, hands on the board."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeprune.agent import carried, hold, jobs, power, system, work
from edgeprune.agent.power import Restored
from edgeprune.agent.programs import Turns, run_program
from edgeprune.agent.system import Refused, Stopped, output_of, pid_of, write_json
from edgeprune.devices import process as processes
from edgeprune.devices.base import Completed
from edgeprune.devices.fake import FakeBoard, fake_device
from edgeprune.devices.fake_programs import CORE
from edgeprune.devices.process import Ended
from edgeprune.devices.remote import RemoteDevice, _JobOutput
from edgeprune.errors import DeviceError, ToolError
from edgeprune.samples.conditions import DeviceState
from edgeprune.samples.gates import Verdict, latency_gate
from tests.samples.made import latency


def board(device: RemoteDevice) -> FakeBoard:
    assert isinstance(device.channel, FakeBoard)
    return device.channel


def timed(device: RemoteDevice, command: str = "true") -> DeviceState:
    return device.run(["sh", "-c", command], timeout_s=600, measured=True).device


def holder_of(device: RemoteDevice) -> int:
    return pid_of(json.loads((Path(device.work) / "hold.json").read_text())["process"])


def set_by_hand(device: RemoteDevice, mode: str) -> None:
    number = json.loads((board(device).root / "board.json").read_text())["modes"].index(mode)
    env = {**os.environ, "FAKE_ROOT_USER": "1"}
    subprocess.run([board(device).root / "bin" / "nvpmodel", "-m", str(number)], env=env, check=True)


# ------------------------------------------------------------ a board that does not stay as it was set


def inconclusive(state: DeviceState, words: str) -> None:
    assert state.throttled and words in state.throttled_why
    gate = latency_gate("engine", latency((1 + 0.001 * (n % 7) for n in range(400)), device=state), 2.0)
    assert gate.verdict is Verdict.INCONCLUSIVE and words in gate.reason


def test_a_run_whose_holder_was_killed_says_so_and_so_does_every_turn_from_then_on() -> None:
    with fake_device("orin-nano", power_mode="7W") as device:
        timed(device)
        kill = f"kill -9 {holder_of(device)}"
        inconclusive(timed(device, kill), "the board was not held to the end")
        assert not timed(device).throttled  # held anew
        heard: list[DeviceState] = []

        def hear(index: int, done: Completed) -> None:
            heard.append(done.device)
            if len(heard) == 2:
                os.kill(holder_of(device), signal.SIGKILL)

        # enough of them that some run behind the kill: where the machine is busy, they are heard late
        turns = Turns((("sleep", "0.3"),), "", rounds=12, least_rounds=1, time_limit_s=0, timeout_s=600)
        device.run_turns(turns, hear)
    assert [state.throttled for state in heard[:2]] == [False, False]
    inconclusive(heard[-1], "the board was not held to the end")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            "FAKE_ROOT_USER=1 nvpmodel -m 0",
            "the board's power mode was 7W when the run was prepared and 15W at its end",
        ),
        (
            "echo 306000000 > $EDGEPRUNE_ROOT/sys/class/devfreq/17000000.gpu/min_freq",
            "the board's clocks were locked when the run was prepared and free at its end",
        ),
    ],
)
def test_power_and_clocks_that_are_others_at_the_end_of_a_run_make_it_inconclusive(command: str, words: str) -> None:
    with fake_device("orin-nano", power_mode="7W") as device:
        assert not timed(device).throttled
        inconclusive(timed(device, command), words)


def test_a_carried_run_notices_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carried, "board_change", lambda before: f"the board's clocks were {before['clocks']}")
    command = {"argv": ["true"], "timeout_s": 600, "measured": True, "title": "", "turns": None}
    answer = carried._run_one(command, str(tmp_path), "0", {"clocks": "locked"})
    assert answer["conditions"]["throttled_why"] == "the board's clocks were locked"


# ------------------------------------------------------------ what is put back


def cut_off(device: RemoteDevice) -> None:
    """The holder and the work directory are gone, as after a kill and a reboot."""
    os.kill(holder_of(device), signal.SIGKILL)
    subprocess.run(["rm", "-rf", device.work], check=True)


def core_of(device: RemoteDevice) -> str:
    """Whether a core is there that the mode of the fewest watts has not."""
    return (board(device).root / CORE).read_text().strip()


@pytest.mark.parametrize(("asked", "chosen", "core"), [("25W", "15W", "1"), ("7W", "15W", "1"), ("15W", "7W", "0")])
def test_a_mode_that_somebody_chose_later_stays_with_its_cores(asked: str, chosen: str, core: str) -> None:
    """What jetson_clocks has stored are the cores of the mode before, too: written back, 15W would have those of 7W."""
    device = fake_device("orin-nano", power_mode=asked)  # which is in 25W
    device.__enter__()
    timed(device)
    cut_off(device)
    set_by_hand(device, chosen)
    notes: list[str] = []
    for _ in range(2):
        with RemoteDevice(board(device), note=notes.append) as later:
            assert timed(later).power_mode == chosen and core_of(device) == core
    assert board(device).state()["mode"] == chosen and core_of(device) == core
    [note] = notes  # once
    told = (
        f"clocks were not put back (power mode {chosen} was set since they were locked in {asked}; nvpmodel set cores"
    )
    assert told in note and "a reboot frees what of them is still locked (idle states" in note


def test_a_mode_that_somebody_chose_in_the_middle_of_a_run_stays_with_its_cores() -> None:
    notes: list[str] = []
    with fake_device("orin-nano", power_mode="7W", note=notes.append) as device:
        timed(device)
        set_by_hand(device, "15W")
    assert (board(device).state()["mode"], core_of(device)) == ("15W", "1")
    [note] = notes
    assert "is not as it was: clocks were not put back (power mode 15W was set since they were locked in 7W" in note


def by_hand(device: RemoteDevice, *argv: str) -> None:
    env = {**os.environ, "FAKE_ROOT_USER": "1"}
    subprocess.run([board(device).root / "bin" / argv[0], *argv[1:]], env=env, check=True, input="y", text=True)


@pytest.mark.parametrize(
    ("then", "why"), [("stores", "clocks.conf was written anew, by a run of another user"), ("removes", "No such file")]
)
def test_clocks_are_not_put_back_by_what_another_run_has_stored(then: str, why: str) -> None:
    """The file is one for all users of a board."""
    device = fake_device("orin-nano")
    device.__enter__()
    timed(device)
    cut_off(device)
    stored = board(device).root / "var/lib/edgeprune/clocks.conf"
    if then == "stores":
        by_hand(device, "jetson_clocks", "--store", str(stored))  # as they are: locked
    else:
        stored.unlink()
    notes: list[str] = []
    for _ in range(2):
        with RemoteDevice(board(device), note=notes.append) as later:
            assert timed(later).clocks == "locked"
    [note] = notes
    assert why in note and "a reboot frees what of them is still locked" in note


@pytest.mark.parametrize("asked", ["25W", "7W"])
def test_clocks_are_put_back_when_they_are_free_whatever_jetson_clocks_says(asked: str) -> None:
    """It ends with 0 where the kernel took none of what it wrote."""
    notes: list[str] = []
    device = fake_device("orin-nano", power_mode=asked, note=notes.append)  # which is in 25W
    program = board(device).root / "bin/jetson_clocks"
    script = program.read_text()
    instead = '[ "$1" != --restore ] || { echo Error: Failed to restore min_freq; exit 0; }'
    program.write_text(script.replace("exec ", f"{instead}\nexec ", 1))
    with device:
        timed(device)
    [note] = notes
    program.write_text(script)
    told: list[str] = []
    with RemoteDevice(board(device), note=told.append) as later:
        timed(later)
    if asked == "25W":  # the file is still the one to take
        assert "clocks are still locked (Error: Failed to restore min_freq); type there: sudo jetson_clocks --r" in note
        assert told[0].endswith("had left changed: clocks") and len(told) == 1
    else:  # but not in the mode that was put back, whose cores and clocks nvpmodel has set
        assert "clocks were not put back (jetson_clocks --restore: Error: Failed to restore min_freq); a reboot" in note
        assert told == []
    assert board(device).state() | {"runs": 0} == {"mode": "25W", "locked": False, "runs": 0} and core_of(device) == "1"


def test_clocks_in_a_folder_that_only_root_may_look_into_name_what_opens_it_and_are_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was made under a strict umask, and stays as it is."""
    stat = os.stat

    def refusing(path: str, **options: Any) -> os.stat_result:
        if str(path).endswith("clocks.conf"):
            raise PermissionError(13, "Permission denied")
        return stat(path, **options)

    ran: list[list[str]] = []
    monkeypatch.setattr(power.os, "stat", refusing)
    monkeypatch.setattr(power, "as_root", list)
    monkeypatch.setattr(power, "output_of", lambda argv, **options: (ran.append(argv), (0, ""))[1])
    told = power._lock_clocks(lambda **entry: pytest.fail("nothing is changed"))
    assert told.endswith("look there: sudo chmod 755 /var/lib/edgeprune") and "Permission denied" in told
    assert ["jetson_clocks"] not in ran
    assert power._why_lost("7W", "7W", "1 2 3") == ""


def test_what_is_typed_puts_the_clocks_back_before_the_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = {"power_mode": "25W", "set_to": "7W", "clocks": True, "clocks_in": "7W", "stored": "1 2 3"}
    note |= {"host": os.uname().nodename, "boot": power.boot_id()}
    monkeypatch.setattr(power, "_restore_path", lambda: str(tmp_path / "restore.json"))
    monkeypatch.setattr(power, "power_mode", lambda: "7W")
    monkeypatch.setattr(power, "_stamp_of", lambda path: ("1 2 3", ""))
    (tmp_path / "restore.json").write_text(json.dumps(note))
    left = power.left_to_restore()
    assert -1 < left.index("sudo jetson_clocks --restore") < left.index("sudo nvpmodel -m")


def test_a_mode_that_could_not_be_put_back_is_not_left() -> None:
    device = fake_device("orin-nano", power_mode="7W")
    root = board(device).root
    known = json.loads((root / "board.json").read_text())
    modes = [*known["modes"], *(f"SPARE{number}" for number in range(4, 12)), "CUSTOM"]
    (root / "board.json").write_text(json.dumps({**known, "modes": modes}))
    rows = [f"< POWER_MODEL ID={number} NAME={name} >\n" for number, name in enumerate(modes)]
    (root / "etc/nvpmodel.conf").write_text("".join(rows))
    (root / "state.json").write_text(json.dumps({"mode": "CUSTOM", "locked": False, "runs": 0}))
    with device, pytest.raises(DeviceError, match=r"is CUSTOM, number 12; it could not be put .*sudo nvpmodel -m 3"):
        timed(device)
    assert board(device).state()["mode"] == "CUSTOM"
    (root / "etc/nvpmodel.conf").write_text("".join(rows[:-1]))
    with device, pytest.raises(DeviceError, match=r"is CUSTOM, which /etc/nvpmodel\.conf does not name; it could not"):
        timed(device)


@pytest.mark.parametrize(("holder", "told"), [("somebody", True), (hold._user(), False)])
def test_what_waits_behind_another_users_run_is_told(
    holder: str, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPRUNE_LOCK", str(tmp_path / "lock"))
    monkeypatch.setattr(hold, "left_to_restore", lambda: "power mode 25W is to be put back")
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(f"process 1 of {holder}")
        file.flush()
        found = hold.restore_unless_held()
    expected = "power mode 25W is to be put back; this waits until process 1 of somebody lets go of the board"
    assert found == (Restored("", expected) if told else None)


def left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restored: Callable[[], Restored | None], held: bool = True
) -> dict:
    folder = tmp_path / "edgeprune-x"
    folder.mkdir()
    if held:
        (folder / "hold.lock").touch()
    (folder / "not_restored").write_text("clocks are still locked")
    monkeypatch.setattr(work, "restore_unless_held", restored)
    return work.leave_work(str(folder))


def test_a_retry_that_succeeded_is_no_failure_and_nothing_keeps_a_work_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = left(tmp_path, monkeypatch, lambda: Restored("clocks", ""))
    assert done == {"removed": True, "restored": "clocks", "not_restored": ""}
    held = left(tmp_path, monkeypatch, lambda: None)
    assert held == {"removed": True, "restored": "", "not_restored": "clocks are still locked"}

    def refused() -> Restored:
        raise PermissionError(13, "Permission denied", "/run/lock/edgeprune.lock")

    answer = left(tmp_path, monkeypatch, refused)
    assert answer["removed"] and "/run/lock/edgeprune.lock: Permission denied" in answer["not_restored"]
    assert left(tmp_path, monkeypatch, refused, held=False)["not_restored"] == "clocks are still locked"  # none asked


def test_a_look_puts_nothing_back_and_the_next_run_says_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    device = fake_device("orin-nano", power_mode="7W")  # which is in 25W
    device.__enter__()
    timed(device)
    cut_off(device)
    notes: list[str] = []
    with RemoteDevice(board(device), note=notes.append) as looking:
        assert looking.facts().power_mode == "7W"
        looking.run(["true"], timeout_s=600)
    assert (board(device).state()["mode"], notes) == ("7W", [])
    with RemoteDevice(board(device), note=notes.append) as later:
        timed(later)
    assert board(device).state()["mode"] == "25W" and "power mode 25W" in " ".join(notes)


def test_what_is_put_back_on_leaving_is_told() -> None:
    """Of this run, whose holder was killed, and of another, whose work directory is left with its own."""
    notes: list[str] = []
    device = fake_device("orin-nano", power_mode="7W", note=notes.append)
    with device:
        timed(device)
        os.kill(holder_of(device), signal.SIGKILL)
    assert board(device).state()["mode"] == "25W"
    told = [note for note in notes if "put back what a run that was killed had left changed: " in note]
    assert len(told) == 1 and "power mode 25W" in told[0]


class Leaving(FakeBoard):
    """A board that answers ``leave`` as it is told."""

    answer = b""

    def call(self, argv, *, stdin=b"", on_output=None):
        if "leave" not in argv:
            return super().call(argv, stdin=stdin, on_output=on_output)
        assert on_output is not None
        on_output(self.answer)
        return Ended(0, "")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b'{"error": {"kind": "device", "message": "no such lock"}}\n', "could not be removed there: no such lock"),
        (b'{"removed": false, "not_restored": ""}\n', "could not be removed there: the reason is not known; next: "),
        (b'{"removed": true, "not_restored": "clocks are locked"}\n', "is not as it was: clocks are locked"),
        (b'{"removed": true, "not_restored": ""}\n', ""),
        (b'{"removed": true, "restored": "power mode 15W", "not_restored": ""}\n', "had left changed: power mode 15W"),
    ],
)
def test_what_leaving_could_not_do_is_told(answer: bytes, words: str) -> None:
    plain = board(fake_device("orin-nano"))
    channel, notes = Leaving.__new__(Leaving), []
    channel.__dict__.update(plain.__dict__)
    channel.answer = answer
    with RemoteDevice(channel, note=notes.append) as device:
        device.run(["true"], timeout_s=600)
    assert len(notes) == bool(words) and words in "".join(notes)


def test_the_holder_has_the_time_that_putting_back_may_take() -> None:
    from edgeprune.agent.power import PROGRAM_TIMEOUT_S, RESTORE_TIMEOUT_S

    asked: list[float] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(work, "end_process", lambda *_, timeout_s=system.END_TIMEOUT_S: asked.append(timeout_s))
        patched.setattr(work, "restore_unless_held", lambda: Restored("", ""))
        patched.setattr(work, "read_json", lambda path: {"process": "1 2 3"})
        work.leave_work("/tmp/edgeprune-that-is-not-there")
    assert asked == [RESTORE_TIMEOUT_S] and RESTORE_TIMEOUT_S > 3 * PROGRAM_TIMEOUT_S


# ------------------------------------------------------------ programs that do not end


TOLD = "trap 'echo told > told; exit' TERM; echo up; while :; do sleep 0.05; done"
DEAF = "trap '' TERM; echo $$ > pid; while :; do sleep 0.05; done"


def by_the_agent(script: str, folder: Path) -> None:
    job = {"argv": ["sh", "-c", script], "cwd": str(folder), "stdin": "", "timeout_s": 0.5}
    with pytest.raises(Refused, match=r"ran longer than 0\.5 s"):
        run_program(job, str(folder))


def here(script: str, folder: Path) -> None:
    with pytest.raises(ToolError, match=r"ran longer than 0\.5 s"):
        processes.run_program(["sh", "-c", script], cwd=str(folder), timeout_s=0.5)


@pytest.mark.parametrize("run", [by_the_agent, here])
def test_a_program_is_asked_to_end_before_it_is_killed(run: Callable[[str, Path], None], tmp_path: Path) -> None:
    """A kill of docker's client leaves its container running."""
    run(TOLD, tmp_path)
    assert (tmp_path / "told").read_text() == "told\n"


@pytest.mark.parametrize("run", [by_the_agent, here])
def test_a_program_that_does_not_listen_is_killed(
    run: Callable[[str, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "GRACE_S", 0.3)
    run(DEAF, tmp_path)
    assert not system.is_alive(int((tmp_path / "pid").read_text()))


@pytest.fixture
def unkillable(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen]]:
    """Programs are another user's, as one by sudo is."""
    left: list[subprocess.Popen] = []
    real = subprocess.Popen.kill

    def refused(process: subprocess.Popen) -> None:
        left.append(process)
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(subprocess.Popen, "kill", refused)
    monkeypatch.setattr(system, "KILLED_S", 0.1)
    yield left
    for process in left:
        real(process)
        process.wait()


def test_a_program_that_cannot_be_killed_is_not_waited_for(unkillable: list[subprocess.Popen]) -> None:
    began = time.perf_counter()
    code, text = output_of(["sleep", "600"], timeout_s=0.2)
    assert code == 127 and "timed out" in text
    assert time.perf_counter() - began < 60 and len(unkillable) == 1


def test_a_signal_to_end_is_heard_while_a_program_runs_that_cannot_be_killed(
    unkillable: list[subprocess.Popen],
) -> None:
    def stop(*_: object) -> None:
        raise Stopped

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(Stopped):
            output_of(["sleep", "600"])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(unkillable) == 1


# ------------------------------------------------------------ two connections at once


def test_a_job_that_two_connections_ask_for_is_started_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    def start(verb: str, folder: str) -> str:
        time.sleep(0.3)
        started.append(verb)
        write_json(f"{folder}/result.json", {"returncode": 0})
        return "1 2 3"

    monkeypatch.setattr(jobs, "work_folder", lambda: str(tmp_path))
    monkeypatch.setattr(jobs, "start_detached", start)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=SimpleNamespace(read=lambda: b"{}")))
    answers: list[dict] = []
    folder = str(tmp_path / "jobs" / "0")
    threads = [threading.Thread(target=lambda: answers.append(jobs.follow_job(folder, 0))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert started == ["run"]
    assert answers == [{"done": {"returncode": 0}}] * 2


def test_a_file_that_could_not_be_written_leaves_no_half_and_two_writers_have_one_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TypeError):
        write_json(str(tmp_path / "a.json"), {"a": object()})
    assert not list(tmp_path.iterdir())
    names: list[str] = []
    monkeypatch.setattr(system.os, "replace", lambda partial, path: names.append(partial))
    for number in (1, 2):
        monkeypatch.setattr(system.os, "getpid", lambda number=number: number)
        write_json(str(tmp_path / "a.json"), {})
    assert len(set(names)) == 2


def test_a_job_tells_its_device_that_it_got_on_while_it_runs() -> None:
    """By the device's own method: a connection that brought a job on starts the count of lost ones again."""
    heard: list[str] = []
    device: Any = SimpleNamespace(got_on=lambda: heard.append("on"), note=lambda text: None, name="board")
    output = _JobOutput(device, "job", None)
    for line in ({"out": "a\n", "at": 2}, {"heartbeat": True}, {"note": "waits"}):
        output.take(line)
    assert heard == ["on", "on"] and output.offset == 2
