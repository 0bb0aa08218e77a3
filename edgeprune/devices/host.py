"""Host facts that identify a machine or explain its timing, read from /proc and /sys; nothing is set or changed."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

# Vector instructions that change which kernels a CPU runtime picks, by the names of /proc/cpuinfo (x86, then Arm)
VECTOR_FLAGS = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx_vnni"),
    *("avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
)
PACKAGES = ("onnxruntime", "onnxruntime-gpu", "torch", "ultralytics", "onnx", "numpy")


def cpu_identity(cpuinfo: str | None = None) -> dict[str, str]:
    """Model name, architecture and vector instruction sets of the CPU.

    Args:
        cpuinfo: text of /proc/cpuinfo; read when not given.
    """
    text = _read(Path("/proc/cpuinfo")) if cpuinfo is None else cpuinfo
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip().lower(), value.strip())
    flags = set(fields.get("flags", fields.get("features", "")).split())
    part = (
        f"implementer {fields['cpu implementer']} part {fields.get('cpu part', '?')}"
        if "cpu implementer" in fields
        else ""
    )
    return {
        "cpu": fields.get("model name") or part or platform.processor() or "unknown",
        "architecture": platform.machine(),
        "isa": " ".join(flag for flag in VECTOR_FLAGS if flag in flags) or "none known",
    }


def governor(root: Path = Path("/sys/devices/system/cpu")) -> str:
    """Frequency governors of the CPUs, or ``unknown`` where the kernel shows none (virtual machines)."""
    found = {text for path in sorted(root.glob("cpu[0-9]*/cpufreq/scaling_governor")) if (text := _read(path).strip())}
    return " ".join(sorted(found)) or "unknown"


def temperature_c(root: Path = Path("/sys/class/thermal")) -> float | None:
    """The hottest thermal zone in degrees Celsius; None where there is no sensor."""
    found = []
    for path in root.glob("thermal_zone*/temp"):
        try:
            value = int(_read(path)) / 1000
        except ValueError:
            continue
        if -40 < value < 200:  # absent sensors report such figures
            found.append(value)
    return max(found) if found else None


def versions() -> dict[str, str]:
    """Versions of the installed packages that change a measurement; imports none of them."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def host_conditions() -> dict[str, Any]:
    """What explains a timing on this host at this moment: governor, load, temperature, CPUs, kernel, versions."""
    return {
        **cpu_identity(),
        "cpus": len(os.sched_getaffinity(0)),
        "governor": governor(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "temperature_c": temperature_c(),
        "kernel": platform.release(),
        "versions": versions(),
    }


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
