"""What is left behind: programs of a killed process, a device that is gone, files, locks; and clocks that are set."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprune.agent import files, hold
from edgeprune.agent.power import Restored
from edgeprune.agent.programs import Turns
from edgeprune.agent.system import is_alive, output_of, process_of
from edgeprune.devices import remote
from edgeprune.devices.channel import ConnectionLost
from edgeprune.devices.fake import BOARDS, FakeBoard, fake_device
from edgeprune.devices.remote import RemoteDevice
from edgeprune.errors import DeviceError, ToolError


def board(device: RemoteDevice) -> FakeBoard:
    assert isinstance(device.channel, FakeBoard)
    return device.channel


def until(holds: Callable[[], object], seconds: float = 60) -> bool:
    ends = time.monotonic() + seconds
    while not holds() and time.monotonic() < ends:
        time.sleep(0.02)
    return bool(holds())


# ------------------------------------------------------------ programs of a process that was killed


def by_itself(device: RemoteDevice, argv: list[str]) -> None:
    device.run(argv, timeout_s=600, measured=True)


def in_turns(device: RemoteDevice, argv: list[str]) -> None:
    turns = Turns((tuple(argv),), "", rounds=2, least_rounds=2, time_limit_s=0, timeout_s=600)
    device.run_turns(turns, lambda index, done: None)


@pytest.mark.parametrize("run", [by_itself, in_turns])
@pytest.mark.parametrize("heard", [True, False], ids=["followed", "alone"])
def test_a_program_does_not_outlive_the_process_that_ran_it(
    run: Callable[[RemoteDevice, list[str]], None], heard: bool, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    with fake_device("orin-nano") as device:
        argv = ["sh", "-c", f"echo $$ > {pid_file}.part; mv {pid_file}.part {pid_file}; sleep 600; true"]

        def begin() -> None:
            with pytest.raises((DeviceError, ToolError)):
                run(device, argv)

        thread = threading.Thread(target=begin)
        thread.start()
        assert until(pid_file.exists)
        program = int(pid_file.read_text())
        [folder] = Path(device.work, "jobs").iterdir()
        runner = int(json.loads((folder / "process").read_text()).split()[0])
        if not heard:  # nobody is told of it there
            device._cancel = lambda folder: None  # type: ignore[method-assign]
        os.kill(runner, signal.SIGKILL)
        thread.join(60)
        device.run(["true"], timeout_s=600, measured=True)  # a timing beside it would be wrong
        assert not is_alive(program)
    assert not list(board(device).root.rglob("program-*.json"))


def test_the_program_of_a_carried_run_that_was_killed_is_ended_by_whoever_needs_the_board(tmp_path: Path) -> None:
    """As one that this user's process of another folder left, on this machine."""
    with fake_device("orin-nano") as device:
        state = Path(board(device).root, *Path("~/.local/state/edgeprune").expanduser().parts[1:])
        state.mkdir(parents=True, exist_ok=True)
        with subprocess.Popen(["sleep", "600"], start_new_session=True) as orphan, subprocess.Popen(["true"]) as by:
            ended = process_of(by.pid)
            by.wait()
            note = {"host": os.uname().nodename, "by": ended, "program": process_of(orphan.pid)}
            for name, by_whom in (("orphan", ended), ("mine", process_of(os.getpid()))):
                (state / f"program-{name}.json").write_text(json.dumps({**note, "by": by_whom}))
            device.run(["true"], timeout_s=600, measured=True)
            assert orphan.wait(60) == -signal.SIGTERM
        assert not (state / "program-orphan.json").exists() and (state / "program-mine.json").exists()
        (state / "program-mine.json").unlink()


# ------------------------------------------------------------ a device that is gone


class Gone(FakeBoard):
    """A board that answers nothing from some moment on."""

    gone = False
    calls = 0

    def call(self, argv, *, stdin=b"", on_output=None):
        if self.gone:
            self.calls += 1
            raise ConnectionLost("scripted")
        return super().call(argv, stdin=stdin, on_output=on_output)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(remote.time, "sleep", slept.append)
    return slept


@pytest.mark.parametrize("how", ["a file", "a job"])
def test_a_board_that_is_gone_is_waited_for_once(how: str, pauses: list[float], tmp_path: Path) -> None:
    channel = Gone("fake:gone", BOARDS["orin-nano"], {})
    (tmp_path / "f").write_text("content")
    with (
        pytest.raises(ConnectionLost),
        RemoteDevice(channel) as device,
        device.workspace(),
        device.workspace() as inner,
    ):
        channel.gone = True
        if how == "a file":
            device.send(tmp_path / "f", f"{inner}/f")
        device.run(["true"], timeout_s=60)
    assert sum(pauses) == sum(remote.RETRY_PAUSES_S)
    assert channel.calls == len(remote.RETRY_PAUSES_S) + 2  # the command's own, and one to leave


def test_ctrl_c_waits_for_no_board_that_is_gone(pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Gone("fake:gone", BOARDS["orin-nano"], {})

    def interrupted(seconds: float) -> None:
        pauses.append(seconds)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), RemoteDevice(channel) as device, device.workspace(), device.workspace():
        channel.gone = True
        monkeypatch.setattr(remote.time, "sleep", interrupted)
        device.run(["true"], timeout_s=60)
    assert len(pauses) == 1


def test_a_folder_is_removed_again_once_the_board_answers() -> None:
    channel = Gone("fake:gone", BOARDS["orin-nano"], {})
    with RemoteDevice(channel) as device:
        folders: list[str] = []
        with pytest.raises(ConnectionLost), pytest.MonkeyPatch.context() as patched:
            patched.setattr(remote, "RETRY_PAUSES_S", ())
            with device.workspace() as left:
                folders.append(left)
                channel.gone = True
                device.run(["true"], timeout_s=60)
        channel.gone = False
        assert Path(folders[0]).is_dir()
        with device.workspace() as folder:
            assert Path(folder).is_dir()
        assert not Path(folder).exists()


# ------------------------------------------------------------ the board's disk


def test_a_search_leaves_no_file_and_no_job_of_each_of_its_steps(tmp_path: Path) -> None:
    with fake_device("orin-nano") as device:
        assert device.facts()
        for number in range(4):
            (tmp_path / "f").write_bytes(bytes([number]) * (1 << 20))
            with device.workspace() as folder:
                device.send(tmp_path / "f", f"{folder}/f")
                assert device.run(["wc", "-c", f"{folder}/f"], timeout_s=60).stdout.split()[0] == str(1 << 20)
        assert len(list(Path(device.work, "jobs").iterdir())) == 1  # the last one: its result may be asked for again


def stored(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "store").iterdir())


def test_the_store_keeps_what_was_used_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "work_folder", lambda: str(tmp_path))
    monkeypatch.setattr(files, "STORE_BYTES", 3)

    def put(name: str) -> None:
        (tmp_path / "content").write_text(name)
        sha256 = files.sha256_of(str(tmp_path / "content"))
        if not files.offer(str(tmp_path / "there" / name), sha256, 1)["have"]:
            with (tmp_path / "content").open("rb") as content, monkeypatch.context() as patched:
                patched.setattr(files.sys, "stdin", type("Stdin", (), {"buffer": content}))
                assert files.put(str(tmp_path / "there" / name), sha256, 1, 0) == {"have": True}
        for number, path in enumerate(sorted((tmp_path / "store").iterdir(), key=lambda path: path.stat().st_mtime_ns)):
            os.utime(path, (number, number))

    for name in "abcad":
        put(name)
    kept = {(tmp_path / "store" / name).read_text() for name in stored(tmp_path)}
    assert kept == set("cad") and (tmp_path / "there" / "b").read_text() == "b"
    free = iter([0, 10])
    monkeypatch.setattr(files, "_has_room", lambda size, offset: next(free) >= size)
    assert files.offer(str(tmp_path / "there" / "e"), "e" * 64, 1) == {"have": False, "offset": 0}
    assert stored(tmp_path) == []  # rather than to refuse a file for what was only kept


# ------------------------------------------------------------ locks and clocks


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="another user's file needs root")


@needs_root
def test_the_lock_of_another_user_is_opened_where_ubuntu_protects_files_in_sticky_folders() -> None:
    if Path("/proc/sys/fs/protected_regular").read_text().strip() == "0":
        pytest.skip("fs.protected_regular is 0 here")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o1777)
        path = Path(folder, hold.LOCK_FILE)
        path.touch()
        path.chmod(0o666)
        os.chown(path, 1234, 1234)
        os.chown(folder, 4321, 4321)
        handle = hold._open_lock(str(path))
        hold._name_in(handle, "process 1 of me")
        os.close(handle)
        assert path.read_text() == "process 1 of me"


def test_a_lock_is_opened_before_it_is_asked_to_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, asked, real = str(tmp_path / "lock"), [], os.open

    def opened(name, flags, *mode):
        asked.append(bool(flags & os.O_CREAT))
        if asked[-1] and Path(name).exists():
            raise PermissionError(13, "Permission denied", name)  # fs.protected_regular
        return real(name, flags, *mode)

    monkeypatch.setattr(hold.os, "open", opened)
    for _ in range(2):
        os.close(hold._open_lock(path))
    assert asked == [False, True, False] and Path(path).stat().st_mode & 0o777 == 0o666


def test_the_lock_names_whoever_has_it_and_nobody_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "lock"
    monkeypatch.setenv("EDGEPRUNE_LOCK", str(lock))
    with hold.board_lock(lambda holder: None):
        assert hold._holder_in(lock.read_text()) == f"process {os.getpid()} of {hold._user()}"
    assert lock.read_text() == ""


@pytest.mark.parametrize("writes", [True, False])
def test_one_that_has_just_taken_the_lock_is_waited_for_by_its_name(
    writes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, told = tmp_path / "lock", list[str]()
    monkeypatch.setenv("EDGEPRUNE_LOCK", str(lock))
    turns = iter([lambda: lock.write_text("process 7 of ada") if writes else None])
    monkeypatch.setattr(hold.time, "sleep", lambda seconds: next(turns, lambda: None)())

    def tell(holder: str) -> None:
        told.append(holder)
        raise hold.Stopped

    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(hold.Stopped), hold.board_lock(tell):
            raise AssertionError("it is another's")
    assert next(turns, None) is None  # a turn went by without a word
    assert told == ["process 7 of ada" if writes else "another user"]


def test_a_name_that_an_earlier_holder_left_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another user who holds the lock and could not write to it: what waits behind that one is told."""
    monkeypatch.setenv("EDGEPRUNE_LOCK", str(tmp_path / "lock"))
    monkeypatch.setattr(hold, "left_to_restore", lambda: "power mode 25W is to be put back")
    with subprocess.Popen(["true"]) as process:
        earlier = process_of(process.pid)
        process.wait()
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(f"process 7 of {hold._user()}\n{earlier}")
        file.flush()
        found = hold.restore_unless_held()
    assert found == Restored("", "power mode 25W is to be put back; this waits until another user lets go of the board")


@pytest.mark.parametrize("day", [0, 4e9], ids=["put back", "put on"])
def test_a_pause_is_counted_by_a_clock_that_nobody_sets(
    day: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, now = tmp_path / "hold.json", [100.0]
    path.touch()
    os.utime(path, (day, day))
    monkeypatch.setattr(hold.time, "monotonic", lambda: now[0])
    untouched = hold.Untouched(str(path))
    assert untouched.seconds() == 0
    now[0] += 7
    assert untouched.seconds() == 7
    os.utime(path)
    assert untouched.seconds() == 0


def test_the_agent_counts_no_time_by_the_time_of_day() -> None:
    """A work directory's age, which outlives a boot, is the one thing that it is needed for."""
    folder = Path(hold.__file__).parent
    users = {path.name: path.read_text().count("time.time()") for path in folder.glob("*.py")}
    assert {name: count for name, count in users.items() if count} == {"work.py": 1}


# ------------------------------------------------------------ programs that speak another language


def test_what_is_searched_for_words_is_said_in_english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert output_of(["sh", "-c", "echo $LC_ALL"]) == (0, "C\n")


def test_a_work_directory_that_cannot_be_made_is_told_in_english_with_its_place(tmp_path: Path) -> None:
    """By a mktemp that speaks the language that it is asked to."""
    mktemp = tmp_path / "mktemp"
    mktemp.write_text(
        '#!/bin/sh\n[ "$LC_ALL" = C ] && w="No space left" || w="Kein Platz"\necho "mktemp: $w" >&2\nexit 1'
    )
    mktemp.chmod(0o755)
    device = fake_device("orin-nano")
    env = board(device).env
    assert env is not None
    board(device).env = {**env, "LC_ALL": "de_DE.UTF-8", "PATH": f"{tmp_path}:{env['PATH']}"}
    taken = f"no work directory can be made in {env['TMPDIR']} there: mktemp: No space left; free some space"
    with pytest.raises(DeviceError, match=taken):
        device.facts()
