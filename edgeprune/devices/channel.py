"""One command on another machine: what a connection has to be able to do, and how it says that it is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import IO, Protocol

from edgeprune.devices.process import Ended
from edgeprune.errors import DeviceError


class ConnectionLost(DeviceError):
    """The connection broke; the same command may be given again on a new one."""


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
        on_output: Callable[[bytes], object] | None = None,
    ) -> Ended:
        """Run a command to its end; ``on_output`` is called with its stdout as it arrives, line by line."""
        ...

    def open(self, argv: Sequence[str]) -> Pipe:
        """Start a command and keep talking to it."""
        ...

    def close(self) -> None:
        """Let go of the connection; the next call opens it again."""
        ...

    def typed(self, command: str) -> str:
        """The line that a person types here to run a shell command there, answering what it asks."""
        ...
