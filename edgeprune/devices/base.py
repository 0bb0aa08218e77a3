"""The one seam to where an engine runs: run a program there, carry files there and back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Completed:
    """A program that ended: what was run, its exit code, and what it wrote."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


class Device(Protocol):
    """Where engines are built and timed. Paths on it are plain strings, because they mean nothing here.

    Errors: ``DeviceError`` when it cannot be reached or the connection is lost for good, ``ToolError`` for a program
    that does not start or runs past its time.
    """

    name: str
    """``local``, or ``user@host[:port]``."""

    def facts(self) -> dict[str, Any]:
        """What the device is, JSON-ready: see :func:`edgeprune.devices.local.facts` for the keys."""
        ...

    def workspace(self) -> AbstractContextManager[str]:
        """A private, empty folder on the device for as long as the context is open; removed on every way out."""
        ...

    def run(self, argv: Sequence[str], *, timeout_s: float, cwd: str = "", stdin: bytes = b"") -> Completed:
        """Run a program to its end; no shell sees the arguments. A nonzero exit code is the caller's to judge."""
        ...

    def send(self, local: Path, remote: str) -> None:
        """Copy a file to the device; whole or not at all."""
        ...

    def fetch(self, remote: str, local: Path) -> None:
        """Copy a file from the device; whole or not at all."""
        ...
