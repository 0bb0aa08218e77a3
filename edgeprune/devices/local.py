"""This machine: as facts (what it is, not how it is doing), and as a device."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.artifact import write_atomically
from edgeprune.devices import agent
from edgeprune.devices.base import Completed
from edgeprune.devices.identity import identity_of
from edgeprune.errors import DeviceError, ToolError

if TYPE_CHECKING:
    from edgeprune.devices.remote import RemoteDevice


def local(*, power_mode: str = "", clocks: bool = True) -> LocalDevice:
    """This machine; see :class:`LocalDevice`."""
    return LocalDevice(power_mode=power_mode, clocks=clocks)


class LocalDevice:
    """This machine behind the device seam.

    Args:
        power_mode: mode by its name that measured runs are done in; what the board is in when empty.
        clocks: lock the clocks for measured runs, where the user may.
        notes: told one line about what a person may want to know.
    """

    name = "local"
    simulated = False

    def __init__(
        self, *, power_mode: str = "", clocks: bool = True, notes: Callable[[str], None] | None = None
    ) -> None:
        self.power_mode = power_mode
        self.clocks = clocks
        self.notes = notes
        self._facts: dict[str, Any] | None = None
        self._held = 0
        self._watched: RemoteDevice | None = None

    def __enter__(self) -> LocalDevice:
        """Measured runs until the end of the block share one hold on the machine."""
        from edgeprune.devices.here import Here
        from edgeprune.devices.remote import RemoteDevice

        if not self._held:
            self._watched = RemoteDevice(Here(), power_mode=self.power_mode, clocks=self.clocks, notes=self.notes)
            self._watched.__enter__()
        self._held += 1
        return self

    def __exit__(self, *_: object) -> None:
        """Put back what measured runs changed."""
        self._held -= 1
        if not self._held and self._watched is not None:
            self._watched.__exit__()
            self._watched = None

    def facts(self) -> dict[str, Any]:
        """See :func:`facts`."""
        if self._facts is None:
            self._facts = facts()
        return self._facts

    def identity(self) -> dict[str, str]:
        """See :func:`edgeprune.devices.identity.identity_of`."""
        return identity_of(self.facts(), power_mode=self.power_mode, clocks=self.clocks)

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
        if measured:
            where = cwd or str(Path.cwd())
            with self:
                assert self._watched is not None  # it is held
                return self._watched.run(argv, timeout_s=timeout_s, cwd=where, stdin=stdin, measured=True, told=told)
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


def facts() -> dict[str, Any]:
    """What this machine is, JSON-ready. What is not there is left out, never guessed.

    Keys: ``machine``, ``system``, ``kernel``, ``python``, ``cpu``, ``isa``, ``cpus`` (usable by this process),
    ``memory_bytes``, ``load_average``; where they exist ``gpus``, ``trtexec``, ``tensorrt``, ``cuda`` and, on a Jetson,
    ``board`` (device tree), ``compatible``, ``modules`` (``p3767-0005``), ``l4t``, ``jetpack``, ``power_mode``,
    ``power_modes`` (name to id), ``clocks`` (``locked`` or ``free``), ``sudo``, ``tegrastats``, ``jetson_clocks``.
    """
    return agent.facts()


def gpus() -> list[dict[str, str]]:
    """NVIDIA GPUs as nvidia-smi lists them: name, compute capability, driver, memory. Empty where there is none."""
    return agent.gpus()
