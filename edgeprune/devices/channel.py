"""One command on another machine: what a connection has to be able to do, and how it says that it is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import IO, Protocol

from edgeprune.errors import DeviceError


class ConnectionLost(DeviceError):
    """The connection broke; the same command may be given again on a new one."""


@dataclass(frozen=True)
class Answer:
    """A command that ended there: its exit code and the end of its stderr."""

    returncode: int
    stderr: str


class Pipe(Protocol):
    """A command that stays: bytes in, bytes out."""

    stdin: IO[bytes]
    stdout: IO[bytes]

    def close(self) -> str:
        """End it; gives the end of its stderr."""
        ...


class Channel(Protocol):
    """A way to run commands on one machine. Errors: ``ConnectionLost``; ``DeviceError`` for what trying again does not
    mend (an unknown host key, a refused login)."""

    name: str

    def call(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | Iterable[bytes] = b"",
        told: Callable[[bytes], None] | None = None,
    ) -> Answer:
        """Run a command to its end; ``told`` is called with its stdout piece by piece, in lines where it has any."""
        ...

    def open(self, argv: Sequence[str]) -> Pipe:
        """Start a command and keep talking to it."""
        ...

    def close(self) -> None:
        """Let go of the connection; the next call opens it again."""
        ...
