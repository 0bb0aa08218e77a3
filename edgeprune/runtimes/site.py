"""A target's runtime on the device that its profile names: what a build, a search and a sweep measure with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgeprune.devices import device_of
from edgeprune.devices.board import mismatch
from edgeprune.errors import DeviceError
from edgeprune.runtimes import runtime
from edgeprune.runtimes.base import Availability, Runtime
from edgeprune.target import Target

if TYPE_CHECKING:
    from edgeprune.devices.local import LocalDevice
    from edgeprune.devices.remote import RemoteDevice


@contextmanager
def placed(profile: Target | None, name: str) -> Iterator[tuple[Runtime, Availability]]:
    """The profile's runtime on its device while the block lasts; without a profile the runtime of this name, here.

    Raises:
        DeviceError: as :func:`runtime_on`.
    """
    if profile is None:
        found = runtime(name)
        yield found, found.availability()
        return
    with device_of(profile.device) as place:
        yield runtime_on(place, profile)


def runtime_on(place: LocalDevice | RemoteDevice, profile: Target) -> tuple[Runtime, Availability]:
    """The target's runtime on its device. Here it may be missing (PENDING); a device that was named has to have it.

    Raises:
        DeviceError: the named device is another board, or lacks the runtime.
    """
    runs_on = runtime(profile.runtime, place, dla_core=profile.device.dla_core)
    if place.name == "local":
        other = mismatch(profile.device, place.facts()) if profile.device.kind == "jetson" else ""
        if other:
            return runs_on, Availability(False, f"this machine: {other}")
        return runs_on, runs_on.availability()
    if other := mismatch(profile.device, place.facts()):
        raise DeviceError(f"{place.name}: {other}; next: edgeprune device probe {place.name}")
    available = runs_on.availability()
    if not available.ok:
        raise DeviceError(f"{place.name}: {available.detail}; next: {available.remedy}")
    return runs_on, available
