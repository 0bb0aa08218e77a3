"""What of edgeprune works on this machine, and how to get the rest. Imports nothing heavy before it is asked."""

from __future__ import annotations

import platform
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING

from edgeprune.version import declared, installed, pip

if TYPE_CHECKING:
    from edgeprune.devices.base import Device


PROBED = ("trtexec", "onnxruntime")  # runtimes of another device that are looked at
LOOK_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table.

    Attributes:
        subject: a package, a runtime or a device.
        usable: now, as it is.
        state: version or fault.
        remedy: the command that gets it; empty when it is usable.
        required: whether edgeprune's CPU target needs it; of a device, whether that does not work without it.
    """

    subject: str
    usable: bool
    state: str
    remedy: str = ""
    required: bool = False


def examine() -> list[Finding]:
    """Python, packages with their tested ranges, runtimes, NVIDIA's parser, devices."""
    return [_python(), *_packages(), *_runtimes(), _parser(), *_devices()]


def exit_code(findings: Sequence[Finding]) -> int:
    """0 where everything that is required can be used, else 4."""
    return 0 if all(finding.usable or not finding.required for finding in findings) else 4


def _python() -> Finding:
    """The interpreter against the range that the package declares, so that the two cannot drift apart."""
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    try:
        allowed = metadata.metadata("edgeprune")["Requires-Python"] or ""
    except metadata.PackageNotFoundError:
        allowed = ""
    usable = SpecifierSet(allowed).contains(version, prereleases=True)
    remedy = "" if usable else f"make an environment of a Python {allowed}: make install PYTHON=/path/to/python3"
    return Finding("Python", usable, version, remedy, required=True)


def _packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(text) for text in metadata.requires("edgeprune") or []]
    except metadata.PackageNotFoundError:
        requirements = []
    for requirement in requirements:
        if requirement.marker is not None:  # the extras: their runtimes are examined below
            continue
        version = installed(requirement.name)
        if requirement.name == "onnxruntime" and version == "absent":
            version = installed("onnxruntime-gpu")
        usable = version != "absent" and requirement.specifier.contains(version, prereleases=True)
        outside = f"{version}, outside the tested range {requirement.specifier}"
        state = version if usable or version == "absent" else outside
        remedy = "" if usable else pip("install", declared(requirement.name))
        yield Finding(requirement.name, usable, state, remedy, required=True)


def _runtimes() -> Iterator[Finding]:
    from edgeprune.runtimes import all_runtimes

    for runtime in all_runtimes():
        available, required = runtime.availability(), runtime.name == "onnxruntime"
        yield Finding(f"runtime {runtime.name}", available.ok, available.detail, available.remedy, required)


def _parser() -> Finding:
    from edgeprune.runtimes.nvidia_parser import NAME, parser_availability

    available = parser_availability()
    return Finding(NAME, available.ok, available.detail, available.remedy)


def _devices() -> Iterator[Finding]:
    from edgeprune.devices.local import LocalDevice

    yield from _board(LocalDevice())
    ssh = shutil.which("ssh")
    yield Finding("ssh client", ssh is not None, ssh or "not found", "" if ssh else "apt install openssh-client")


def examine_device(device: Device) -> list[Finding]:
    """What a device is, what it lacks, and what to type next.

    Raises:
        DeviceError: it cannot be reached, or has no Python.
    """
    from edgeprune.runtimes import runtime

    board, needed = list(_board(device)), _needed_runtimes(device)
    findings = [*board, *_every_tensorrt(device)]
    runtimes = {name: runtime(name, device).availability() for name in PROBED}
    findings += [Finding(f"runtime {name}", one.ok, one.detail, one.remedy) for name, one in runtimes.items()]
    if any(runtimes[name].ok for name in needed):
        return findings
    subjects = {"JetPack", "TensorRT", *(f"runtime {name}" for name in needed)}
    return [replace(one, required=True) if one.subject in subjects else one for one in findings]


def _needed_runtimes(device: Device) -> set[str]:
    """One of these has to be usable: on a Jetson those that its targets measure by, elsewhere whichever there is."""
    from edgeprune.devices.board import targets_for
    from edgeprune.target import load_target

    facts = device.facts()
    named = {load_target(name).runtime for name in targets_for(facts)} if facts.l4t else set[str]()
    return named & set(PROBED) or ({"trtexec"} if facts.l4t else set(PROBED))


def _every_tensorrt(device: Device) -> Iterator[Finding]:
    """A line for each TensorRT of a device that has several, or one that is not looked for: which is taken, and how
    another one is."""
    from edgeprune.agent.trtexec import in_profile
    from edgeprune.runtimes.trtexec_ import TrtExec

    facts, taken = device.facts(), _taken_trtexec(device)
    paths = list(dict.fromkeys(filter(None, (taken, *facts.trtexecs))))
    for number, path in enumerate(paths if paths != [taken] else ()):
        available = TrtExec(device, program=(path,)).availability()
        how = "taken" if path == taken else f"another one; to take it, in the profile: {in_profile(path)}"
        yield Finding(f"trtexec {number + 1} of {len(paths)}", available.ok, f"{available.detail}; {how}")
    if facts.tensorrt_pip:
        state = f"{facts.tensorrt_pip}, for Python alone: no trtexec belongs to it"
        yield Finding("TensorRT by pip", True, state)


def _taken_trtexec(device: Device) -> str | None:
    """Path of the trtexec that is taken where no profile names one; None where none is."""
    from edgeprune.errors import DeviceError
    from edgeprune.runtimes.trtexec_ import TrtExec

    try:
        (program, *_), _ = TrtExec(device).find_program()
    except DeviceError:  # the line of the runtime says why
        return None
    if "/" in program:
        return program
    found = device.run(["sh", "-c", 'command -v "$1"', "sh", program], timeout_s=LOOK_TIMEOUT_S)
    return found.stdout.strip() or None


def _board(device: Device) -> Iterator[Finding]:
    """A line for the machine and, on a Jetson, one for all that decides its figures."""
    from edgeprune.devices.board import SWAP, mismatch, over_current, short_of_memory, targets_for, unsupported_tensorrt
    from edgeprune.samples.conditions import QUOTA, WHOLE_CORES
    from edgeprune.target import load_target

    facts = device.facts()
    name = "this machine" if device.name == "local" else device.name
    keys = ("board", "cpu", "machine", "cpus", "isa", "kernel", "python")
    parts = [*((key, getattr(facts, key)) for key in keys), ("gpus", "; ".join(str(gpu) for gpu in facts.gpus))]
    parts.append(("memory", f"{facts.memory_bytes / 2**30:.0f} GiB" if facts.memory_bytes else ""))
    listed = ", ".join(f"{key}: {value}" for key, value in parts if value)
    yield Finding(name, True, f"SIMULATED, {listed}" if device.simulated else listed)
    if facts.cpu_quota is not None:
        granted = f"{facts.cpu_quota:g} CPUs: what needs more at a time is stopped in the middle of a measurement"
        yield Finding(QUOTA, False, granted, WHOLE_CORES)
    if not facts.l4t:
        return
    release = f"{facts.jetpack or 'unknown'} (L4T {facts.l4t}), CUDA {facts.cuda or 'not found'}"
    remedy = "" if facts.jetpack else "see https://developer.nvidia.com/embedded/jetpack"
    yield Finding("JetPack", bool(facts.jetpack), release, remedy)
    yield Finding(
        "TensorRT",
        bool(facts.tensorrt),
        "; ".join(filter(None, (facts.tensorrt or "not installed", unsupported_tensorrt(facts, facts.tensorrt)))),
        "" if facts.tensorrt else device.typed("sudo apt install nvidia-jetpack"),
    )
    if facts.memory_available_bytes:
        short = short_of_memory(facts)
        free = f"{facts.memory_available_bytes / 2**30:.1f} GiB free, swap {facts.swap_free_bytes / 2**30:.1f} GiB free"
        yield Finding("memory for the builder", not short, free, short and device.typed(SWAP))
    modes = ", ".join(f"{mode} ({number})" for mode, number in facts.power_modes.items())
    yield Finding("power mode", True, f"{facts.power_mode or 'unknown'}; the board has: {modes}")
    locks = bool(facts.sudo)
    yield Finding(
        "clocks and power",
        locks or facts.clocks == "locked",
        f"clocks {facts.clocks or 'unknown'}; user {'may' if locks else 'may not'} change them without a password",
        "" if locks else device.typed("sudo visudo -f /etc/sudoers.d/edgeprune") + "   # its lines: docs/jetson.md",
    )
    if counted := over_current(facts):
        state = f"{counted} since boot; single ones are usual, thousands an hour mean that the board throttles"
        yield Finding("over-current events", True, state)
    reasons = {name: mismatch(load_target(name).device, facts) for name in targets_for(facts)}
    fitting = [name for name, reason in reasons.items() if not reason]
    option = "" if device.name == "local" else f" --device {shlex.quote(device.name)}"
    command = "name one in a profile of your own that extends it, with what differs" if reasons else ""
    if fitting:  # what is recommended is what build takes
        command = f"edgeprune build --target {fitting[0]}{option} --weights best.pt --data data.yaml"
    listed = ", ".join(f"{name} (not as it is: {reason})" if reason else name for name, reason in reasons.items())
    yield Finding("targets of this board", bool(fitting), listed or f"none for {', '.join(facts.modules)}", command)
