"""A site: a target's runtime on the target's device. Builds, searches, sweeps and benchmarks all measure at one."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgeprune.agent.power import plain_mode
from edgeprune.devices import device_of
from edgeprune.devices.base import Device
from edgeprune.devices.board import mismatch, short_of_memory, tensorrt_mismatch, unknown_release, unsupported_tensorrt
from edgeprune.errors import DeviceError
from edgeprune.progress import Reporter, Silent
from edgeprune.runtimes import runtime as runtime_named
from edgeprune.runtimes.base import Availability, Runtime
from edgeprune.target import Target, load_target

ON_DEVICE = "the same command with --device user@host"
"""What to type where this machine is not the board that a target names: to probe this one again would tell no more."""


@dataclass(frozen=True)
class Site:
    """Where figures come from.

    Attributes:
        target: what is asked for; where the runtime is usable, with the TensorRT that it found in place of a range; of
            ONNX Runtime on a CPU, with the range of INT8 weights that this CPU needs, where nobody states one.
        runtime: what runs artifacts, on the device.
        device: this machine, another, or a stand-in.
        availability: whether the runtime can be used there, and how to get it where not.
        reporter: who watches.
        seed: of everything drawn.
    """

    target: Target
    runtime: Runtime
    device: Device
    availability: Availability
    reporter: Reporter
    seed: int = 0

    @property
    def usable(self) -> bool:
        """Whether anything can be measured here."""
        return self.availability.ok

    @property
    def remedy(self) -> str:
        """The command that makes it usable; empty when it is."""
        return self.availability.remedy

    def require_usable(self) -> None:
        """Raise ``DeviceError``, with what is missing and the command that gets it, unless the site is usable."""
        if not self.usable:
            detail, remedy = self.availability.detail, self.remedy
            raise DeviceError(f"{self.runtime.name} is not usable here: {detail}; next: {remedy}")


@contextmanager
def open_site(
    target: str | Path | Target, *, runtime: str | None = None, seed: int = 0, reporter: Reporter | None = None
) -> Iterator[Site]:
    """The target's runtime on its device, for as long as the block lasts.

    A runtime that is missing on this machine gives a site that is not usable; a device that the target names has to be
    the target's board, and another than this machine to have the runtime.

    Args:
        target: name of a shipped profile, path of a profile, or a target.
        runtime: name of a runtime that takes the place of the target's; the device may then be any board.
        seed: of everything drawn.
        reporter: who watches; nobody when None.

    Raises:
        TargetError: no such target or runtime, or a device name that is none.
        DeviceError: the named device cannot be reached, is another board, or lacks the runtime.
    """
    target = load_target(target)
    reporter = reporter or Silent()
    board = target.device
    with device_of(board, reporter.note) as device:
        if runtime is None:
            used = runtime_named(target.runtime, device, target=target)
            # a CPU or GPU profile names no board that this machine would have to be
            difference = mismatch(board, device.facts()) if device.name != "local" or board.kind == "jetson" else ""
        else:
            own = target if runtime == target.runtime else None
            used, difference = runtime_named(runtime, device, target=own), ""
        probe = shlex.join(["edgeprune", "device", "probe", device.name])
        another = ON_DEVICE if device.name == "local" else probe
        available = Availability(False, difference, another) if difference else used.availability()
        version = used.tensorrt_version() if available.ok else ""
        if runtime is None and (difference := tensorrt_mismatch(board, device.facts(), version)):
            available = Availability(False, difference, probe)  # of that program, whatever the system has besides
        if device.name != "local" and not available.ok:
            raise DeviceError(f"{device.name}: {available.detail}; next: {available.remedy}")
        if board.host and runtime is None and not available.ok and (difference := mismatch(board, device.facts())):
            raise DeviceError(
                f"device {board.host}, this machine: {difference}; allowed: user@host[:port] of such a device, in "
                "--device or as device.host of the profile, or neither of both, which leaves in a build what it would "
                f"measure PENDING; next: {another}"
            )
        if board.kind == "jetson" and (doubt := unknown_release(board, device.facts())):
            reporter.note(f"warning: {doubt}")
        if available.ok and version and (doubt := unsupported_tensorrt(device.facts(), version)):
            reporter.note(f"warning: {doubt}")
        if used.name in ("tensorrt", "trtexec") and available.ok and (short := short_of_memory(device.facts())):
            reporter.note(f"warning: {device.name}: {short}")
        target = target.at_tensorrt(version)
        if used.name == "onnxruntime":
            target = target.at_cpu(device.facts().machine, device.facts().isa)
        if (
            device.power_mode
            and available.ok
            and plain_mode(device.facts().power_mode) != plain_mode(device.power_mode)
        ):
            device.setting()  # one that cannot be set is told now
        yield Site(target, used, device, available, reporter, seed)
