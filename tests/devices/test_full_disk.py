"""What is said of a full disk names a way out that the one who reads it has."""

from __future__ import annotations

import errno

import pytest

from edgeprune.agent import carried
from edgeprune.agent.system import refusal_of
from edgeprune.devices.fake import fake_device
from edgeprune.devices.local import LocalDevice
from edgeprune.devices.process import Ended
from edgeprune.devices.remote import RemoteDevice
from edgeprune.errors import DeviceError

FULL = OSError(errno.ENOSPC, "No space left on device")


def test_a_board_is_asked_for_another_disk_in_its_own_environment() -> None:
    said = str(fake_device("orin-nano")._refusal(refusal_of(FULL), []))
    assert " is full (" in said and "; free some space there, or take a folder of another disk" in said
    # what every login reads, and every user's
    assert "test -w /mnt/big && echo TMPDIR=/mnt/big | sudo tee -a /etc/environment" in said
    assert "for all users there until that line is removed from /etc/environment: " in said
    assert said.endswith("; then give the same command again")


def test_this_machine_is_asked_for_another_cache_where_its_temporary_files_lie() -> None:
    with LocalDevice() as device:
        said = str(device._as_board()._refusal(refusal_of(FULL), []))
    assert said.endswith("; free some space there, or set EDGEPRUNE_CACHE to a folder on another disk")


@pytest.mark.parametrize("words", ["No space left on device", "Disk quota exceeded"])
def test_no_room_for_the_work_directory_is_told_alike(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device = fake_device("orin-nano")
    monkeypatch.setattr(device.channel, "call", lambda argv, **_: Ended(9, f"mktemp: failed: {words}"))
    with pytest.raises(DeviceError, match=rf"{words}; free some space there, or take a folder of"):
        RemoteDevice.facts(device)


def test_a_carried_folder_is_told_to_be_carried_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill(folder: str, not_restored: list[str]) -> None:
        raise FULL

    monkeypatch.setattr(carried, "_run_all", fill)
    monkeypatch.setattr(carried.signal, "signal", lambda *_: None)  # this process keeps its own
    assert carried.run_carried(".") == 4
    said = capsys.readouterr().err
    assert said.startswith("run-on-device: the disk of ") and said.count("\n") == 1
    assert "carry the folder to another disk" in said and "TMPDIR" not in said
