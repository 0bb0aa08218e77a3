"""The one seam to where an engine runs: run a program there, carry files there and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Completed:
    """A program that ended: what was run, its exit code, and what it wrote.

    ``conditions`` is what the device was like meanwhile, for a measured run: power mode, clocks, temperatures, power,
    ``throttled``, ``waited_s`` behind another build; it belongs into the measurement's conditions as it is.
    """

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str
    conditions: Mapping[str, Any] = field(default_factory=dict)


class Device(Protocol):
    """Where engines are built and timed. Paths on it are plain strings, because they mean nothing here.

    Errors: ``DeviceError`` when it cannot be reached or the connection is lost for good, ``ToolError`` for a program
    that does not start or runs past its time.
    """

    name: str
    """``local``, ``user@host[:port]`` or ``fake:BOARD``."""

    simulated: bool
    """True for a stand-in: what it gives is marked ``simulated`` and never passes a gate."""

    def facts(self) -> dict[str, Any]:
        """What the device is, JSON-ready: see :func:`edgeprune.devices.local.facts` for the keys."""
        ...

    def identity(self) -> dict[str, str]:
        """What must be equal before two engines, timing caches or measurements may be mixed: board, module, releases,
        power mode, clocks; for a machine without a board its CPU."""
        ...

    def workspace(self) -> AbstractContextManager[str]:
        """A private, empty folder on the device for as long as the context is open; removed on every way out."""
        ...

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
        """Run a program to its end; no shell sees the arguments. A nonzero exit code is the caller's to judge.

        Args:
            argv: the program and its arguments.
            timeout_s: longest run, without the time that a measured run waits for its turn.
            cwd: folder on the device; its home when empty.
            stdin: what the program reads.
            measured: the program is a build or a timing. It queues behind other builds on that device, runs in the
                power mode and with the clocks that the device was opened with, and is watched (``conditions``).
            told: called with every line of its stdout as it arrives.
        """
        ...

    def send(self, local: Path, remote: str) -> None:
        """Copy a file to the device; whole or not at all."""
        ...

    def fetch(self, remote: str, local: Path) -> None:
        """Copy a file from the device; whole or not at all."""
        ...
