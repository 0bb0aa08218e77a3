"""Where engines are built and timed: this machine, one that ssh reaches, or a stand-in; behind the seam in base."""

from __future__ import annotations

from edgeprune.devices.base import Device


def device(name: str) -> Device:
    """The device of this name: ``local`` or nothing, ``user@host[:port]``, ``fake:orin-nano``. Connects to nothing yet.

    Raises:
        TargetError: the name is none of them.
    """
    from edgeprune.devices.local import local

    if name in ("", "local"):
        return local()
    raise NotImplementedError(name)
