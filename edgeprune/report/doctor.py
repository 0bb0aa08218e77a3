"""What of edgeprune works on this machine, and how to get the rest. Imports nothing heavy before it is asked."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from edgeprune.stages.base import installed


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
    from edgeprune.devices.local import facts

    here = facts()
    yield Finding("this machine", True, ", ".join(f"{key}: {value}" for key, value in here.items() if value))
    ssh = shutil.which("ssh")
    yield Finding("ssh client", ssh is not None, ssh or "not found", "" if ssh else "apt install openssh-client")
