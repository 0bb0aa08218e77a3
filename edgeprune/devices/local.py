"""This machine, as facts: what it is, not how it is doing (that is measure.conditions)."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from edgeprune.measure.conditions import cpu_identity

DEVICE_TREE = Path("/proc/device-tree")
L4T_RELEASE = Path("/etc/nv_tegra_release")
GPU_FIELDS = ("name", "compute_cap", "driver_version", "memory.total")


def facts(device_tree: Path = DEVICE_TREE, release: Path = L4T_RELEASE) -> dict[str, Any]:
    """CPU, memory, GPUs and, on a board, its name; JSON-ready. What is not there is left out, never guessed.

    Keys: ``machine``, ``system``, ``kernel``, ``cpu``, ``isa``, ``cpus`` (usable by this process), ``memory_bytes``;
    where they exist ``board`` (device tree), ``l4t`` (first line of the L4T release file) and ``gpus``.
    """
    cpu = cpu_identity()
    found: dict[str, Any] = {
        "machine": cpu["architecture"],
        "system": platform.system(),
        "kernel": platform.release(),
        "cpu": cpu["cpu"],
        "isa": cpu["isa"],
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }
    if board := _text(device_tree / "model"):
        found["board"] = board
    if l4t := _text(release):
        found["l4t"] = l4t.splitlines()[0]
    if listed := gpus():
        found["gpus"] = listed
    return found


def gpus() -> list[dict[str, str]]:
    """NVIDIA GPUs as nvidia-smi lists them: name, compute capability, driver, memory. Empty where there is none."""
    if not (tool := shutil.which("nvidia-smi")):
        return []
    argv = [tool, f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode != 0:
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    return [dict(zip(GPU_FIELDS, row, strict=True)) for row in rows if len(row) == len(GPU_FIELDS)]


def _text(path: Path) -> str:
    """A kernel file's text without the NUL that ends device-tree strings."""
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""
