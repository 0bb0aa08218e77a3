"""What of edgeprune works on this machine, and how to get the rest. Imports nothing heavy before it is asked."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from edgeprune.stages.base import installed

if TYPE_CHECKING:
    from edgeprune.devices.local import LocalDevice
    from edgeprune.devices.remote import RemoteDevice


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table.

    Attributes:
        what: a package, a runtime or a device.
        ok: usable now.
        seen: version or fault.
        remedy: the command that gets it; empty when ``ok``.
        required: whether edgeprune's CPU target needs it.
    """

    what: str
    ok: bool
    seen: str
    remedy: str = ""
    required: bool = False


def examine() -> list[Finding]:
    """Python, packages with their tested ranges, runtimes, devices."""
    return [_python(), *_packages(), *_runtimes(), *_devices()]


def _python() -> Finding:
    good = (3, 10) <= sys.version_info[:2] <= (3, 12)
    remedy = "" if good else "make install PYTHON=python3.12"
    return Finding("Python", good, platform.python_version(), remedy, required=True)


def _packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(text) for text in metadata.requires("edgeprune") or []]
    except metadata.PackageNotFoundError:
        wanted = []
    for requirement in wanted:
        if requirement.marker is not None:  # the extras: their runtimes are examined below
            continue
        version = installed(requirement.name)
        if requirement.name == "onnxruntime" and version == "absent":
            version = installed("onnxruntime-gpu")
        here = version != "absent"
        good = here and requirement.specifier.contains(version, prereleases=True)
        seen = version if good or not here else f"{version}, outside the tested range {requirement.specifier}"
        remedy = "" if good else f'pip install "{requirement.name}{requirement.specifier}"'
        yield Finding(requirement.name, good, seen, remedy, required=True)


def _runtimes() -> Iterator[Finding]:
    from edgeprune.runtimes import all_runtimes

    for runtime in all_runtimes():
        found = runtime.availability()
        yield Finding(f"runtime {runtime.name}", found.ok, found.detail, found.remedy, runtime.name == "onnxruntime")


def _devices() -> Iterator[Finding]:
    from edgeprune.devices.local import local

    yield from _board(local())
    ssh = shutil.which("ssh")
    yield Finding("ssh client", ssh is not None, ssh or "not found", "" if ssh else "apt install openssh-client")


def examine_device(place: LocalDevice | RemoteDevice) -> list[Finding]:
    """What a device is, what it lacks, and what to type next.

    Raises:
        DeviceError: it cannot be reached, or has no Python.
    """
    from edgeprune.runtimes import runtime

    found = list(_board(place))
    for name in ("trtexec", "onnxruntime"):
        one = runtime(name, place).availability()
        found.append(Finding(f"runtime {name}", one.ok, one.detail, one.remedy))
    return found


def _board(place: LocalDevice | RemoteDevice) -> Iterator[Finding]:
    """A line for the machine and, on a Jetson, one for all that decides its figures."""
    from edgeprune.devices.board import profiles_of

    facts = place.facts()
    name = "this machine" if place.name == "local" else place.name
    told = ("board", "cpu", "machine", "cpus", "memory_bytes", "isa", "kernel", "python", "gpus")
    listed = ", ".join(f"{key}: {facts[key]}" for key in told if facts.get(key))
    yield Finding(name, True, f"SIMULATED, {listed}" if place.simulated else listed)
    if not facts.get("l4t"):
        return
    login = "" if place.name == "local" else f"ssh {place.name} "
    jetpack = facts.get("jetpack", "")
    release = f"{jetpack or 'unknown'} (L4T {facts['l4t']}), CUDA {facts.get('cuda', 'not found')}"
    yield Finding(
        "JetPack", bool(jetpack), release, "" if jetpack else "see https://developer.nvidia.com/embedded/jetpack"
    )
    tensorrt = facts.get("tensorrt", "")
    yield Finding(
        "TensorRT",
        bool(tensorrt),
        tensorrt or "not installed",
        "" if tensorrt else f"{login}sudo apt install nvidia-jetpack",
    )
    modes = ", ".join(f"{mode} ({number})" for mode, number in facts.get("power_modes", {}).items())
    yield Finding("power mode", True, f"{facts.get('power_mode', 'unknown')}; the board has: {modes}")
    locks = bool(facts.get("sudo"))
    yield Finding(
        "clocks and power",
        locks or facts.get("clocks") == "locked",
        f"clocks {facts.get('clocks', 'unknown')}; user {'may' if locks else 'may not'} change them without a password",
        "" if locks else f"{login}sudo visudo   # allow nvpmodel and jetson_clocks, NOPASSWD: docs/jetson.md",
    )
    profiles = profiles_of(facts)
    device = "" if place.name == "local" else f" --device {place.name}"
    command = f"edgeprune build --target {profiles[0]}{device} --weights best.pt --data data.yaml" if profiles else ""
    yield Finding(
        "profiles of this board",
        bool(profiles),
        ", ".join(profiles) or f"none for {', '.join(facts.get('modules', ()))}",
        command,
    )
