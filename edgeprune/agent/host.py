"""What identifies a host or explains its timing, read from /proc and /sys; nothing is set or changed."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Mapping

from edgeprune.agent.system import allowed_cpus, output_of, system_path, text_of

# Vector instructions that change which kernels a CPU runtime picks, by the names of /proc/cpuinfo (x86, then Arm)
VECTOR_FLAGS = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx_vnni"),
    *("avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
)
PACKAGES = ("onnxruntime", "onnxruntime-gpu", "torch", "ultralytics", "onnx", "numpy")


@dataclass(frozen=True)
class HostState:
    """What explains a timing on a host: its state before a run, and (``…_after``) behind it.

    Attributes:
        cpu: model name.
        architecture: of the CPU, by the kernel's name.
        isa: vector instruction sets that change which kernels a runtime picks.
        cpus: how many CPUs this process may use.
        governor: frequency governors; ``unknown`` where the kernel shows none.
        load_average: over 1, 5 and 15 minutes.
        temperature_c: the hottest thermal zone; None without a sensor.
        kernel: release.
        versions: of Python and the packages that change a measurement.
        load_average_after: likewise, after the run; empty where it was not read.
        temperature_after_c: likewise.
    """

    cpu: str = ""
    architecture: str = ""
    isa: str = ""
    cpus: int = 0
    governor: str = ""
    load_average: tuple[float, ...] = ()
    temperature_c: float | None = None
    kernel: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    load_average_after: tuple[float, ...] = ()
    temperature_after_c: float | None = None


@dataclass(frozen=True)
class WorkerState:
    """The process that timed: versions, its niceness, the CPUs that it may use, its peak memory."""

    python: str = ""
    numpy: str = ""
    onnxruntime: str = ""
    tensorrt: str = ""
    nice: int | None = None
    cpus_allowed: tuple[int, ...] = ()
    peak_rss_bytes: int = 0


def cpu_identity(cpuinfo: str | None = None) -> dict[str, str]:
    """Model name, architecture and vector instruction sets of the CPU.

    Args:
        cpuinfo: text of /proc/cpuinfo; read when not given.
    """
    text = text_of("/proc/cpuinfo") if cpuinfo is None else cpuinfo
    fields = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip().lower(), value.strip())
    flags = fields.get("flags", fields.get("features", "")).split()
    part = (
        f"implementer {fields['cpu implementer']} part {fields.get('cpu part', '?')}"
        if "cpu implementer" in fields
        else ""
    )
    return {
        "cpu": fields.get("model name") or part or _name_by_sysctl() or platform.processor() or "unknown",
        "architecture": platform.machine(),
        "isa": " ".join(flag for flag in VECTOR_FLAGS if flag in flags) or "none known",
    }


def _name_by_sysctl() -> str:
    """The CPU's name on macOS; empty elsewhere."""
    code, name = output_of(["sysctl", "-n", "machdep.cpu.brand_string"])
    return "" if code else name.strip()


def load_average() -> tuple[float, ...]:
    """Runnable processes on average over 1, 5 and 15 minutes."""
    return tuple(round(load, 2) for load in os.getloadavg())


def governor(root: Path = Path("/sys/devices/system/cpu")) -> str:
    """Frequency governors of the CPUs, or ``unknown`` where the kernel shows none (virtual machines)."""
    paths = root.glob("cpu[0-9]*/cpufreq/scaling_governor")
    return " ".join(sorted({text for path in paths if (text := text_of(str(path)))})) or "unknown"


def temperatures_c(root: Path | None = None) -> dict[str, float]:
    """Thermal zones by their kind, in degrees Celsius."""
    zones = {}
    for zone in (root or Path(system_path("/sys/class/thermal"))).glob("thermal_zone*"):
        try:
            value = int(text_of(str(zone / "temp"))) / 1000
        except ValueError:
            continue
        if -40 < value < 200:  # absent sensors report such figures
            zones[text_of(str(zone / "type")) or zone.name] = value
    return zones


def temperature_c(root: Path | None = None) -> float | None:
    """The hottest thermal zone in degrees Celsius; None where there is no sensor."""
    return max(temperatures_c(root).values(), default=None)


def versions() -> dict[str, str]:
    """Versions of the installed packages that change a measurement; imports none of them."""
    from importlib import metadata

    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def host_state() -> HostState:
    """This host at this moment."""
    identity = cpu_identity()
    return HostState(
        cpu=identity["cpu"],
        architecture=identity["architecture"],
        isa=identity["isa"],
        cpus=len(allowed_cpus()),
        governor=governor(),
        load_average=load_average(),
        temperature_c=temperature_c(),
        kernel=platform.release(),
        versions=versions(),
    )
