"""Commands on this machine through the same door as on another: what a local measured run and a stand-in board use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from edgeprune.devices.process import Ended, Process, run_program


class Here:
    """This machine as a channel.

    Args:
        name: what errors call it.
        env: the environment of everything that runs; this process' own when None.
    """

    def __init__(self, name: str = "local", env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.env = env

    def call(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | Iterable[bytes] = b"",
        on_output: Callable[[bytes], object] | None = None,
    ) -> Ended:
        """Run a command."""
        try:
            return run_program(argv, stdin=stdin, on_output=on_output, env=self.env, whole_group=False)
        except OSError as error:
            return Ended(127, f"{argv[0]}: {error.strerror}")

    def open(self, argv: Sequence[str]) -> Process:
        """Start a command and keep talking to it."""
        return Process(argv, env=self.env)

    def close(self) -> None:
        """There is no connection."""

    def typed(self, command: str) -> str:
        """The command itself."""
        return command
