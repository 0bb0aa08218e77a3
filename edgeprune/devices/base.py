"""The one seam to where an engine runs: run a program there, carry files there and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from edgeprune.agent.facts import DeviceFacts
from edgeprune.agent.power import plain_mode
from edgeprune.agent.programs import Turns
from edgeprune.devices.identity import has_power_modes, identity_of
from edgeprune.errors import DataError, DeviceError
from edgeprune.samples.conditions import DeviceState
from edgeprune.serial import from_json, parse_json

Self = TypeVar("Self", bound="Device")
TRIAL_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Completed:
    """A program that ended.

    Attributes:
        argv: what was run.
        returncode: its exit code.
        stdout: what it wrote.
        stderr: the end of what it wrote there.
        device: what the device was like meanwhile; empty for a run that was not measured.
        written: of a program that took turns, what it wrote to the file that was named.
        power_w: likewise, power of the whole board while it worked: seconds before the work's end, and watts.
    """

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str
    device: DeviceState = field(default_factory=DeviceState)
    written: str = ""
    power_w: tuple[tuple[float, float], ...] = ()

    @classmethod
    def of_turn(cls, line: str, programs: Sequence[Sequence[str]], device: str) -> tuple[int, Completed]:
        """One run of programs that took turns, with its program's index, from the agent's line about it.

        Raises:
            DataError: it is no such line.
        """
        turn = from_json(_Turn, parse_json(line, device), device)
        if not 0 <= turn.program < len(programs):
            raise DataError(f"{device}: program {turn.program} is none of the {len(programs)} that took turns")
        argv = tuple(programs[turn.program])
        return turn.program, cls(
            argv, turn.returncode, turn.stdout, turn.stderr, turn.conditions, turn.written, turn.power
        )


@dataclass(frozen=True)
class _Turn:
    """What the agent says of one run, see :func:`edgeprune.agent.programs.run_measured`."""

    program: int
    returncode: int
    stdout: str
    stderr: str
    written: str
    conditions: DeviceState
    power: tuple[tuple[float, float], ...]


class Device(ABC):
    """Where engines are built and timed. Paths on it are plain strings, because they mean nothing here.

    ``with device:`` holds the connection, and the board for measured runs, until the end of the block; blocks nest.

    Errors: ``DeviceError`` when it cannot be reached or the connection is lost for good, ``ToolError`` for a program
    that does not start or runs past its time.

    Attributes:
        name: ``local``, ``user@host[:port]`` or ``fake:BOARD``.
        simulated: a stand-in: what it gives is marked ``simulated`` and never passes a gate.
        power_mode: mode by its name that measured runs are done in; what the board is in when empty.
        clocks: lock the clocks for measured runs, where the user may.
        note: told one line about what a person may want to know: a lost connection, a queue.
    """

    name: str
    simulated: bool = False

    def __init__(self, *, power_mode: str = "", clocks: bool = True, note: Callable[[str], None] | None = None) -> None:
        self.power_mode = power_mode
        self.clocks = clocks
        self.note = note or (lambda text: None)
        self._holds = 0
        self._facts: DeviceFacts | None = None
        self._setting: DeviceState | None = None

    def __enter__(self: Self) -> Self:
        self._holds += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._holds -= 1
        if not self._holds:
            self._release()

    def facts(self) -> DeviceFacts:
        """What the device is; looked at once."""
        if self._facts is None:
            self._facts = self._look()
        return self._facts

    def identity(self) -> dict[str, str]:
        """What must be equal before two engines, timing caches or measurements may be mixed: board, module, releases,
        power mode, clocks; for a machine without a board its CPU. Power mode and clocks are those that measured runs
        have (:meth:`setting`)."""
        facts = self.facts()
        if not has_power_modes(facts):
            return identity_of(facts)
        setting = self.setting()
        return identity_of(facts, power_mode=setting.power_mode, clocks=setting.clocks)

    def setting(self) -> DeviceState:
        """Power mode and clocks of the measured runs, all of which have the same: what the first of them had. What is
        asked for may not be had, and another build may have the board set otherwise until it is this one's turn.

        Raises:
            DeviceError: the board cannot be set as asked.
        """
        if self._setting is None:
            self._setting = self.run(["true"], timeout_s=TRIAL_TIMEOUT_S, measured=True).device
        return self._setting

    def _require_setting(self, state: DeviceState) -> None:
        """Take power mode and clocks of the first measured run for those of all; ``DeviceError`` for a later one that
        had others, since its figures would be taken for those of this identity."""
        if self._setting is None:
            self._setting = state
        first = self._setting
        if (plain_mode(first.power_mode), first.clocks) == (plain_mode(state.power_mode), state.clocks):
            return
        before, now = (f"{one.power_mode or 'unknown'} with clocks {one.clocks or 'unknown'}" for one in (first, state))
        raise DeviceError(
            f"{self.name}: its power mode was {before} and is now {now}, and figures of the two are not compared; set "
            "the board as it was and give the same command again, or give it as the board is: it measures anew"
        )

    def tells_power(self) -> bool:
        """Whether something there tells the power of the board, or of its only GPU."""
        facts = self.facts()
        return bool(facts.tegrastats) or len(facts.gpus) == 1

    def typed(self, command: str) -> str:
        """The line that a person types on this machine to run a shell command on the device: what remedies are."""
        return command

    @abstractmethod
    def workspace(self) -> AbstractContextManager[str]:
        """A private, empty folder on the device for as long as the context is open; removed on every way out."""

    @abstractmethod
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
        """Run a program to its end; no shell sees the arguments. A nonzero exit code is the caller's to judge.

        Args:
            argv: the program and its arguments.
            timeout_s: longest run, without the time that a measured run waits for its turn.
            cwd: folder on the device; its home when empty.
            stdin: what the program reads.
            measured: the program is a build, a timing or anything else that others' timings would feel. It queues
                behind other builds on that device, runs in the power mode and with the clocks that the device was
                opened with, and is watched.
            uses_gpu: a measured program's figures depend on the GPU, so that a card is watched too.
            on_line: called with every line of its stdout as it arrives.
        """

    @abstractmethod
    def run_turns(self, turns: Turns, on_turn: Callable[[int, Completed], None]) -> None:
        """Run programs that are compared, measured (see :meth:`run`): all of it is one job of the device, so that
        nothing is asked of the connection between two runs.

        Args:
            turns: the programs; the paths in it are the device's.
            on_turn: called after each run, in their order, with the program's index. A nonzero exit code ends the turns
                and is the caller's to judge.
        """

    @abstractmethod
    def send(self, local: Path, remote: str) -> None:
        """Copy a file to the device; whole or not at all."""

    @abstractmethod
    def fetch(self, remote: str, local: Path) -> None:
        """Copy a file from the device; whole or not at all."""

    @abstractmethod
    def _look(self) -> DeviceFacts:
        """Find out what the device is."""

    @abstractmethod
    def _release(self) -> None:
        """Let go of the connection and of the board; nothing of edgeprune stays there."""
