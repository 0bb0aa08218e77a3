"""A board whose work directory is gone, and jobs that nobody waits for any more: what the next command does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeprune.agent import work
from edgeprune.agent.programs import Turns
from edgeprune.agent.system import process_of
from edgeprune.devices.base import Completed
from edgeprune.devices.channel import ConnectionLost
from edgeprune.devices.fake import BOARDS, FakeBoard, fake_device
from edgeprune.devices.remote import RemoteDevice, WorkGone
from edgeprune.errors import DeviceError
from edgeprune.runtimes import runtime
from tests.runtimes.models import convolutions


def board(device: RemoteDevice) -> FakeBoard:
    assert isinstance(device.channel, FakeBoard)
    return device.channel


class Deaf(FakeBoard):
    """A board that the first ``lost`` orders to end a job do not reach."""

    lost = 0

    def call(self, argv, *, stdin=b"", on_output=None):
        if "cancel" in argv and self.lost:
            self.lost -= 1
            raise ConnectionLost("scripted")
        return super().call(argv, stdin=stdin, on_output=on_output)


GOES_ON = "an earlier run of this build goes on there"


def refuse(index: int, done: Completed) -> None:
    raise DeviceError("a turn that cannot be read")


@pytest.mark.parametrize("lost", [0, 1, 99])
def test_a_measured_run_never_meets_one_whose_caller_gave_up(lost: int) -> None:
    channel, notes = Deaf("fake:deaf", BOARDS["orin-nano"], {}), list[str]()
    channel.lost = lost
    with RemoteDevice(channel, note=notes.append) as device, device.workspace() as folder:
        log, end = f"{folder}/log", Path(folder, "end")

        def hear(note: str) -> None:
            notes.append(note)
            if GOES_ON in note:
                end.touch()

        device.note = hear
        begun = (  # only the first turn ends by itself before somebody waits for them
            f'echo begin >> {log}; trap "echo end >> {log}" EXIT; trap exit TERM; '
            f"until [ $(grep -c begin {log}) = 1 ] || [ -e {end} ]; do sleep 0.05; done"
        )
        turns = Turns((("sh", "-c", begun),), "", rounds=3, least_rounds=3, time_limit_s=0, timeout_s=60)
        with pytest.raises(DeviceError, match="cannot be read"):
            device.run_turns(turns, refuse)
        after = f"echo other >> {log}; sleep 2; cat {log}"
        heard = device.run(["sh", "-c", after], timeout_s=60, measured=True).stdout.split()
    assert heard[-1] == "other" and heard.count("begin") == heard.count("end")
    assert any(GOES_ON in note for note in notes) == (lost == 99)
    if lost < 99:
        assert heard.count("begin") < 3  # it was ended, and not waited for


def test_a_job_that_was_given_up_before_it_began_does_not_begin() -> None:
    with fake_device("orin-nano") as device, device.workspace() as folder:
        job = f"{device.work}/jobs/late"
        device._ask("cancel", job)
        late = {"argv": ["touch", f"{folder}/begun"], "measured": False, "stdin": "", "timeout_s": 60, "cwd": ""}
        answer = device._agent("job", job, "0", stdin=json.dumps(late).encode())
        assert answer["done"]["error"]["kind"] == "stopped"
        assert not Path(folder, "begun").exists()


def test_a_job_that_was_ended_does_not_begin_after_the_next_one_either() -> None:
    """What starts it may arrive last: the connection that it was sent by was given up for lost."""
    with fake_device("orin-nano") as device, device.workspace() as folder:
        job = f"{device.work}/jobs/late"
        device._cancel(job)
        for _ in range(2):  # the second is told whose result was heard
            device.run(["true"], timeout_s=60)
        late = {"argv": ["touch", f"{folder}/begun"], "measured": False, "stdin": "", "timeout_s": 60, "cwd": ""}
        answer = device._agent("job", job, "0", stdin=json.dumps(late).encode())
        assert answer["done"]["error"]["kind"] == "stopped"
        assert not Path(folder, "begun").exists()


# ------------------------------------------------------------ a work directory that is gone


def restart(device: RemoteDevice) -> None:
    """As a reboot leaves /tmp."""
    shutil.rmtree(device.work)


def in_a_folder(device: RemoteDevice, local: Path) -> None:
    with device.workspace() as folder:
        device.send(local, f"{folder}/f")
        assert device.run(["cat", f"{folder}/f"], timeout_s=60).stdout == "content"


def as_a_job(device: RemoteDevice, local: Path) -> None:
    assert device.run(["echo", "x"], timeout_s=60, measured=True).stdout == "x\n"


def by_facts(device: RemoteDevice, local: Path) -> None:
    device._facts = None
    assert device.facts().modules


def by_a_placed_file(device: RemoteDevice, local: Path) -> None:
    done = device.afresh(lambda: device.run(["cat", device.place(local)], timeout_s=60))
    assert done.stdout == "content"


def by_a_session(device: RemoteDevice, local: Path) -> None:
    device.reconnect()


@pytest.mark.parametrize("command", [in_a_folder, as_a_job, by_facts, by_a_placed_file, by_a_session])
def test_a_board_that_restarted_between_two_commands_is_gone_on_with(
    command: Callable[[RemoteDevice, Path], None], tmp_path: Path
) -> None:
    """Hours of training lie between two commands of a build."""
    notes: list[str] = []
    local = tmp_path / "f"
    local.write_text("content")
    with fake_device("orin-nano", power_mode="7W", note=notes.append) as device:
        command(device, local)
        first = device.work
        restart(device)
        command(device, local)
        assert device.work != first
        assert [note for note in notes if "going on in a new one" in note]
    assert not list((board(device).root / "tmp").glob("edgeprune-*"))


def test_a_session_with_another_model_outlives_a_restart(tmp_path: Path) -> None:
    """The workers are placed already, the model is not: it is in sending that the restart shows."""
    notes: list[str] = []
    first, second = convolutions(tmp_path / "a.onnx"), convolutions(tmp_path / "b.onnx", width=16)
    with fake_device("orin-nano", note=notes.append) as device:
        there = runtime("onnxruntime", device)
        for model in (first, second):
            with there.session(model) as session:
                assert session.run({"images": np.zeros((1, 3, 32, 32), np.float32)})["output0"].shape[0] == 1
            restart(device)
    assert len([note for note in notes if "going on in a new one" in note]) == 1


def test_what_lay_in_a_work_directory_that_is_gone_is_missed(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("content")
    with fake_device("orin-nano") as device:
        with device.workspace() as folder:
            restart(device)
            with pytest.raises(WorkGone, match="give the same command again: it goes on"):
                device.run(["ls", folder], timeout_s=60)
        path = device.place(tmp_path / "f")
        restart(device)
        with pytest.raises(WorkGone):
            device.run(["cat", path], timeout_s=60)
        turns = Turns((("true",),), "", rounds=3, least_rounds=3, time_limit_s=0, timeout_s=60)
        heard: list[int] = []

        def lose(index: int, done: Completed) -> None:
            heard.append(index)
            restart(device)
            raise ConnectionLost("scripted")

        with pytest.MonkeyPatch.context() as patched, pytest.raises(WorkGone):
            patched.setattr("edgeprune.devices.remote.RETRY_PAUSES_S", (0.01, 0.01))
            device.run_turns(turns, lose)
        assert heard == [0]  # it is not taken twice


# ------------------------------------------------------------ work directories that nobody seems to use

LONG_AGO = time.time() - 2 * work.STALE_S


@pytest.fixture
def left() -> tuple[RemoteDevice, Path]:
    """A board, and the work directory of a build on another machine that was last heard of long ago."""
    device = fake_device("orin-nano")
    folder = board(device).root / "tmp" / "edgeprune-left"
    (folder / "jobs" / "0").mkdir(parents=True)
    (folder / "owner.json").write_text(json.dumps({"owner": "elsewhere 1 2 3"}))
    os.utime(folder / "owner.json", (LONG_AGO, LONG_AGO))
    return device, folder


def test_who_only_looks_at_a_board_removes_nothing_there(left: tuple[RemoteDevice, Path]) -> None:
    device, folder = left
    with device:
        device.facts()
        device.run(["true"], timeout_s=60)
        assert folder.is_dir()
        device.run(["true"], timeout_s=60, measured=True)
        assert not folder.exists()


def test_a_build_whose_job_runs_is_not_left_however_long_it_is_silent(left: tuple[RemoteDevice, Path]) -> None:
    device, folder = left
    with subprocess.Popen(["sleep", "600"]) as process:
        (folder / "jobs" / "0" / "process").write_text(json.dumps(process_of(process.pid)))
        with device, device.workspace():
            assert folder.is_dir() and process.poll() is None
        process.kill()
    with device, device.workspace():
        assert not folder.exists()


def test_every_command_says_that_a_work_directory_is_in_use() -> None:
    with fake_device("orin-nano") as device:
        device.run(["true"], timeout_s=60)
        owner = Path(device.work, "owner.json")
        os.utime(owner, (LONG_AGO, LONG_AGO))
        device._ask("stat", str(owner))
        assert time.time() - owner.stat().st_mtime < work.STALE_S


def test_a_time_of_day_that_was_put_on_by_years_makes_no_build_stale(left: tuple[RemoteDevice, Path]) -> None:
    device, folder = left
    (folder / work.USED_FILE).write_text(f"first {work._since_boot_s() - 60}")
    with device, device.workspace():
        assert folder.is_dir()
    (folder / work.USED_FILE).write_text(f"an-earlier-boot {work._since_boot_s() - 60}")
    with device, device.workspace():
        assert not folder.exists()


def test_a_build_that_another_machine_took_for_dead_goes_on() -> None:
    first = fake_device("orin-nano", power_mode="7W")
    with first:
        first.run(["true"], timeout_s=60, measured=True)
        owner = Path(first.work, "owner.json")
        owner.write_text(json.dumps({"owner": "elsewhere 1 2 3"}))
        os.utime(owner, (LONG_AGO, LONG_AGO))
        (owner.parent / work.USED_FILE).write_text(f"first {work._since_boot_s() - 2 * work.STALE_S}")
        with RemoteDevice(board(first), agent_python=sys.executable) as other, other.workspace():
            assert not Path(owner).exists()
        assert first.run(["true"], timeout_s=60, measured=True).device.power_mode == "7W"
