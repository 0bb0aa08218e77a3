"""This machine: as facts (what it is, not how it is doing), and as a device."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edgeprune.artifact import write_atomically
from edgeprune.devices.base import Completed
from edgeprune.errors import DeviceError, ToolError
from edgeprune.measure.conditions import cpu_identity

DEVICE_TREE = Path("/proc/device-tree")
L4T_RELEASE = Path("/etc/nv_tegra_release")
GPU_FIELDS = ("name", "compute_cap", "driver_version", "memory.total")


def local() -> LocalDevice:
    """This machine."""
    return LocalDevice()


class LocalDevice:
    """This machine behind the device seam."""

    name = "local"
    simulated = False

    def facts(self) -> dict[str, Any]:
        """See :func:`facts`."""
        return facts()

    def identity(self) -> dict[str, str]:
        """CPU, architecture and vector instructions."""
        return cpu_identity()

    @contextmanager
    def workspace(self) -> Iterator[str]:
        """A private temporary folder."""
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
            yield folder

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        cwd: str = "",
        stdin: bytes = b"",
        measured: bool = False,
        told: Callable[[str], None] | None = None,
    ) -> Completed:
        """Run a program; it and whatever it started end with this call."""
        return run_here(argv, timeout_s=timeout_s, cwd=cwd, stdin=stdin, told=told)

    def send(self, local: Path, remote: str) -> None:
        """Copy a file."""
        _copied(local, Path(remote))

    def fetch(self, remote: str, local: Path) -> None:
        """Copy a file."""
        _copied(Path(remote), local)


def run_here(
    argv: Sequence[str],
    *,
    timeout_s: float,
    cwd: str = "",
    stdin: bytes = b"",
    told: Callable[[str], None] | None = None,
    env: dict[str, str] | None = None,
) -> Completed:
    """Run a program on this machine in a session of its own, which never outlives the call.

    Raises:
        ToolError: it does not start, or runs longer than ``timeout_s``.
    """
    argv = [str(part) for part in argv]
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd or None,
            env=env,
            start_new_session=True,  # Ctrl-C reaches the caller, which ends the whole group below
        )
    except OSError as error:
        raise ToolError(argv, 127, f"does not start: {error.strerror}") from error
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None  # all are pipes
    kept: dict[str, list[bytes]] = {"out": [], "err": []}

    def read(pipe: Any, into: list[bytes], tell: Callable[[str], None] | None) -> None:
        for line in pipe:
            into.append(line)
            if tell is not None:
                tell(line.decode(errors="replace").rstrip("\n"))

    def write(pipe: Any) -> None:
        try:
            pipe.write(stdin)
            pipe.close()
        except OSError:
            pass  # it ended without reading: its exit code says why

    threads = [
        threading.Thread(target=read, args=(process.stdout, kept["out"], told), daemon=True),
        threading.Thread(target=read, args=(process.stderr, kept["err"], None), daemon=True),
        threading.Thread(target=write, args=(process.stdin,), daemon=True),
    ]
    try:
        for thread in threads:
            thread.start()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ToolError(argv, 124, f"ran longer than {timeout_s:g} s and was stopped") from None
    finally:
        _end_group(process)
    for thread in threads:
        thread.join(5)
    for pipe in (process.stdout, process.stderr):
        pipe.close()
    out, err = (b"".join(kept[name]).decode(errors="replace") for name in ("out", "err"))
    return Completed(tuple(argv), process.returncode, out, err)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _copied(source: Path, target: Path) -> None:
    try:
        write_atomically(target, source.read_bytes())
    except OSError as error:
        raise DeviceError(f"{source} cannot be copied to {target}: {error.strerror}") from error


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
