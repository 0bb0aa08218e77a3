"""Commands on this machine through the same door as on another: what a local measured run and a stand-in board use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from edgeprune.devices.channel import Answer
from edgeprune.devices.process import OpenProcess, called


class Here:
    """This machine as a channel.

    Args:
        name: what errors call it.
        env: the environment of everything that runs; this process' own when None.
    """

    def __init__(self, name: str = "local", env: dict[str, str] | None = None) -> None:
        self.name = name
        self._env = env

    def call(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | Iterable[bytes] = b"",
        told: Callable[[bytes], None] | None = None,
    ) -> Answer:
        """Run a command."""
        try:
            return called(argv, stdin=stdin, told=told, env=self._env)
        except OSError as error:
            return Answer(127, f"{argv[0]}: {error.strerror}")

    def open(self, argv: Sequence[str]) -> OpenProcess:
        """Start a command and keep talking to it."""
        return OpenProcess(argv, self._env)

    def close(self) -> None:
        """There is no connection."""
