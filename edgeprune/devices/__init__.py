"""Where engines are built and timed: this machine, one that ssh reaches, or a stand-in; behind the seam in base."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeprune.devices.base import Device
    from edgeprune.target import Board


def device_named(
    name: str,
    *,
    power_mode: str = "",
    clocks: bool = True,
    python: str = "",
    note: Callable[[str], None] | None = None,
) -> Device:
    """The device of this name; connects to nothing yet.

    Args:
        name: ``local`` or nothing, ``user@host[:port]``, ``fake:orin-nano``.
        power_mode: mode by its name that measured runs are done in; what the board is in when empty.
        clocks: lock the clocks for measured runs, where the user may.
        python: Python of measured programs there; found when empty.
        note: told one line about a lost connection or a queue.

    Raises:
        TargetError: the name is none of them.
    """
    if name in ("", "local"):
        from edgeprune.devices.local import LocalDevice

        return LocalDevice(power_mode=power_mode, clocks=clocks, note=note)
    from edgeprune.devices.remote import RemoteDevice

    if name.startswith("fake:"):
        from edgeprune.devices.fake import fake_device

        return fake_device(name.removeprefix("fake:"), power_mode=power_mode, clocks=clocks, python=python, note=note)
    from edgeprune.devices.ssh import Ssh

    return RemoteDevice(Ssh(name), power_mode=power_mode, clocks=clocks, python=python, note=note)


def device_of(board: Board, note: Callable[[str], None] | None = None) -> Device:
    """The device that a target names."""
    return device_named(
        board.host, power_mode=board.power_mode or "", clocks=board.lock_clocks, python=board.python, note=note
    )
