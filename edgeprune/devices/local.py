"""This machine as a device."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgeprune.agent.facts import DeviceFacts, device_facts
from edgeprune.agent.programs import Turns
from edgeprune.artifact import write_atomically
from edgeprune.devices.base import Completed, Device
from edgeprune.devices.here import Here
from edgeprune.devices.process import run_program
from edgeprune.devices.remote import RemoteDevice
from edgeprune.errors import DeviceError, ToolError


class LocalDevice(Device):
    """This machine behind the device seam; see :class:`~edgeprune.devices.base.Device` for the arguments."""

    name = "local"

    def __init__(self, *, power_mode: str = "", clocks: bool = True, note: Callable[[str], None] | None = None) -> None:
        super().__init__(power_mode=power_mode, clocks=clocks, note=note)
        self._board: RemoteDevice | None = None

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
        uses_gpu: bool = True,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        """Run a program, in this process' folder when ``cwd`` is empty; it and whatever it started end with this
        call. A measured one is run as on another machine, by the agent."""
        argv = [str(part) for part in argv]
        if measured:
            with self:
                done = self._as_board().run(
                    argv,
                    timeout_s=timeout_s,
                    cwd=cwd or str(Path.cwd()),
                    stdin=stdin,
                    measured=True,
                    uses_gpu=uses_gpu,
                    on_line=on_line,
                )
            self._require_setting(done.device)
            return done
        output: list[bytes] = []

        def keep(piece: bytes) -> None:
            output.append(piece)
            if on_line is not None:
                on_line(piece.decode(errors="replace").rstrip("\n"))

        try:
            ended = run_program(argv, stdin=stdin, on_output=keep, timeout_s=timeout_s, cwd=cwd)
        except OSError as error:
            raise ToolError(argv, 127, f"does not start: {error.strerror}") from error
        return Completed(tuple(argv), ended.returncode, b"".join(output).decode(errors="replace"), ended.stderr)

    def run_turns(self, turns: Turns, on_turn: Callable[[int, Completed], None]) -> None:
        """Run programs that take turns, by the agent."""

        def hear(index: int, done: Completed) -> None:
            self._require_setting(done.device)
            on_turn(index, done)

        with self:
            self._as_board().run_turns(turns, hear)

    def _as_board(self) -> RemoteDevice:
        """This machine as the agent sees it; kept until the last ``with`` ends."""
        if self._board is None:
            self._board = RemoteDevice(
                Here(),
                power_mode=self.power_mode,
                clocks=self.clocks,
                agent_python=sys.executable,  # what is called python3 on the PATH may be absent, too old or a script
                note=self.note,
            )
            self._board.when_full = "free some space there, or set EDGEPRUNE_CACHE to a folder on another disk"
            self._board.__enter__()
        return self._board

    def send(self, local: Path, remote: str) -> None:
        """Copy a file."""
        _copy(local, Path(remote))

    def fetch(self, remote: str, local: Path) -> None:
        """Copy a file."""
        _copy(Path(remote), local)

    def _look(self) -> DeviceFacts:
        return device_facts()

    def _release(self) -> None:
        board, self._board = self._board, None
        if board is not None:
            board.__exit__()


def _copy(source: Path, target: Path) -> None:
    try:
        write_atomically(target, source.read_bytes())
    except OSError as error:
        raise DeviceError(f"{source} cannot be copied to {target}: {error.strerror}") from error
