"""A board that nothing connects to, as a device: its commands are recorded, and answered when its results are here.

Both devices give the same commands the same names of files, so that a replay can hold every command of the runtime
against the one that the board ran.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

from edgeprune.agent.facts import DeviceFacts
from edgeprune.agent.programs import Turns
from edgeprune.artifact import sha256_of, write_atomically
from edgeprune.carry.request import Answer, Command, Results
from edgeprune.devices.base import Completed, Device
from edgeprune.errors import DataError, DeviceError
from edgeprune.runtimes.trtexec_argv import Version, version_argv
from edgeprune.samples.conditions import DeviceState

NAME = "carried by hand"
PROGRAM = "trtexec"  # in recorded commands; the board knows where it lies
RESULTS = "results"  # folder of the board's answers, in the carried one
SAMPLE = {"startEnqMs": 0, "endEnqMs": 0, "h2dMs": 0, "computeMs": 1, "d2hMs": 0}  # of a trtexec that never ran
WORKSPACE_FILE = re.compile(r"workspace-\d+/[\w.-]+")
WRITING = ("--save", "--export")
TITLES = {
    "--saveEngine": "building an engine: minutes",
    "--exportTimes": "timing",
    "--exportProfile": "timing layers",
    "--exportOutput": "running images",
    "--duration": "measuring power",
}


def _title(argv: Sequence[str]) -> str:
    options = [part.partition("=")[0] for part in argv]
    return next((text for option, text in TITLES.items() if option in options), "running trtexec")


def iterations_of(argv: Sequence[str]) -> int:
    """How many inferences a timing process is asked for."""
    [iterations] = [part.partition("=")[2] for part in argv if part.startswith("--iterations=")]
    return int(iterations)


class CarriedDevice(Device):
    """What recording and replay share: which file of the carried folder a path of the runtime means.

    Args:
        contents: digest of a packed file's content to its name in the carried folder.
        banner: what trtexec prints first.
    """

    name = NAME

    def __init__(self, contents: Mapping[str, str], banner: str) -> None:
        super().__init__()
        self._banner = banner
        self._names = dict(contents)
        self._files: dict[str, str] = {}  # path in a workspace to the carried folder's
        self._workspaces = 0
        self._commands = 0
        self._informs = False

    @contextmanager
    def workspace(self) -> Iterator[str]:
        """A name for a folder that is nowhere."""
        self._workspaces += 1
        yield f"workspace-{self._workspaces}"

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
        """The next command; its files are renamed as the carried folder has them."""
        if list(argv) == version_argv((argv[0],)):
            return Completed(tuple(argv), 0, self._banner, "")
        number, renamed = self._next_command(argv)
        return self._answer(number, Command(renamed[0], timeout_s, measured, _title(argv), informs=self._informs))

    def run_turns(self, turns: Turns, on_turn: Callable[[int, Completed], None]) -> None:
        """The next command, as :meth:`run`."""
        number, renamed = self._next_command(*turns.programs)
        as_carried = replace(turns, programs=renamed, writes=self._files.get(turns.writes, ""))
        title = f"{_title(renamed[0])}: {turns.rounds} processes of each of {len(renamed)} engines, in turns"
        command = Command(renamed[0], turns.timeout_s, True, title, as_carried, self._informs)
        for index, done in self._answer_turns(number, command, as_carried):
            on_turn(index, done)

    def timed(self) -> Turns | None:
        """The turns in which the board has timed the engines; None before it has."""
        return None

    @contextmanager
    def informing(self) -> Iterator[None]:
        """Around commands that no verdict rests on: where the board fails at one, it goes on."""
        self._informs = True
        try:
            yield
        finally:
            self._informs = False

    def _next_command(self, *programs: Sequence[str]) -> tuple[int, tuple[tuple[str, ...], ...]]:
        """Its number, and the command lines with their files renamed."""
        number = self._commands
        self._commands += 1
        folder = f"{RESULTS}/commands/{number:03d}"
        return number, tuple(tuple(self._renamed(part, folder) for part in argv) for argv in programs)

    def tells_power(self) -> bool:
        """A board that is not known yet may."""
        return True

    def send(self, local: Path, remote: str) -> None:
        """Note which packed file, or which result of an earlier command, ``remote`` is."""
        sha256 = sha256_of(local)
        if sha256 not in self._names:
            raise DataError(f"{local.name} is not what was packed for the board; build again with the same command")
        self._files[remote] = self._names[sha256]

    def fetch(self, remote: str, local: Path) -> None:
        """Copy what a command wrote."""
        name = self._files[remote]
        content = self._content(name)
        write_atomically(local, content)
        self._names[hashlib.sha256(content).hexdigest()] = name

    def _renamed(self, part: str, folder: str) -> str:
        """A part of a command line with its paths as the carried folder has them; outputs get a place in ``folder``."""

        def name(match: re.Match[str]) -> str:
            if part.startswith(WRITING):
                self._files[match[0]] = f"{folder}/{PurePosixPath(match[0]).name}"
            return self._files[match[0]]

        return WORKSPACE_FILE.sub(name, part)

    @abstractmethod
    def _answer(self, number: int, command: Command) -> Completed:
        """What command ``number`` came to."""

    @abstractmethod
    def _answer_turns(self, number: int, command: Command, turns: Turns) -> Iterator[tuple[int, Completed]]:
        """What each run of command ``number`` came to, with its program's index."""

    @abstractmethod
    def _content(self, name: str) -> bytes:
        """What a command wrote."""

    def _look(self) -> DeviceFacts:
        raise DeviceError(f"{self.name}: nothing is known of the board before its results are back")

    def _release(self) -> None:
        """There is no connection."""


class RecordingDevice(CarriedDevice):
    """Keeps the commands of a runtime in ``commands``, and answers as a trtexec would that takes a millisecond.

    Args:
        contents: see :class:`CarriedDevice`.
        version: of the trtexec that it stands for.
        copies: copies between host and device are in the time.
        outputs: names of the engine's outputs.
    """

    simulated = True

    def __init__(self, contents: Mapping[str, str], version: Version, *, copies: bool, outputs: Sequence[str]) -> None:
        major, minor, patch = version
        number = major * (10_000 if major >= 10 else 1_000) + minor * 100 + patch
        super().__init__(contents, f"TensorRT.trtexec [TensorRT v{number}]")
        self.commands: list[Command] = []
        transfers = "Enabled" if copies else "Disabled"
        self._log = f"Data transfers: {transfers}\nSpin-wait: Enabled\nCUDA Graph: Disabled\nExposeDMA: Enabled\n"
        self._outputs = outputs
        self._written: dict[str, bytes] = {}

    def identity(self) -> dict[str, str]:
        """Of no device."""
        return {"board": self.name}

    def _answer(self, number: int, command: Command) -> Completed:
        self.commands.append(command)
        options = {name: value for name, _, value in (part.partition("=") for part in command.argv)}
        files = {
            "--saveEngine": f"engine of command {number}",
            "--exportLayerInfo": {"Layers": [{"Name": "layer", "LayerType": "layer"}], "Bindings": []},
            "--exportProfile": [{"name": "layer", "averageMs": 1}],
            "--exportOutput": [{"name": name, "dimensions": "1", "values": [0]} for name in self._outputs],
        }
        self._written |= {options[name]: json.dumps(data).encode() for name, data in files.items() if name in options}
        return Completed(command.argv, 0, self._log, "")

    def _answer_turns(self, number: int, command: Command, turns: Turns) -> Iterator[tuple[int, Completed]]:
        self.commands.append(command)
        for index, argv in enumerate(turns.programs):  # one round says enough
            log = f"{self._log}Timing trace has 1 queries over 0.001 s\n"
            yield index, Completed(argv, 0, log, "", written=json.dumps([SAMPLE] * iterations_of(argv)))

    def _content(self, name: str) -> bytes:
        return self._written[name]


class ReplayingDevice(CarriedDevice):
    """Answers every command with what the board gave for it.

    Args:
        contents: see :class:`CarriedDevice`.
        results: what the board answered.
        commands: what it was asked.
        folder: where its files lie; their digests were compared.
    """

    def __init__(
        self, contents: Mapping[str, str], results: Results, commands: Sequence[Command], folder: Path
    ) -> None:
        super().__init__(contents, results.banner)
        self.simulated = results.simulated
        self._results, self._recorded, self._folder = results, commands, folder

    def _answer(self, number: int, command: Command) -> Completed:
        answer = self._answer_to(number, command)
        if answer.failure:
            raise DeviceError(answer.failure)
        state = self._as_set(answer.conditions) if command.measured else DeviceState()
        stdout, stderr = (self._printed(number, name) for name in ("stdout", "stderr"))
        return Completed(command.argv, answer.returncode, stdout, stderr, state)

    def _answer_turns(self, number: int, command: Command, turns: Turns) -> Iterator[tuple[int, Completed]]:
        answer = self._answer_to(number, command)
        if answer.failure:
            raise DeviceError(answer.failure)
        for line in self._printed(number, "stdout").splitlines():
            index, done = Completed.of_turn(line, turns.programs, self.name)
            yield index, replace(done, device=self._as_set(done.device))

    def timed(self) -> Turns | None:
        """As the board was asked."""
        return next((command.turns for command in self._recorded if command.turns and command.turns.writes), None)

    def _answer_to(self, number: int, command: Command) -> Answer:
        answers = self._results.answers
        known = number < min(len(answers), len(self._recorded))
        if not known or self._recorded[number].untitled() != command.untitled():
            raise DataError(
                f"results: command {number} is not what this edgeprune measures; "
                "build again with the same command, and carry the new folder to the board"
            )
        return answers[number]

    def _printed(self, number: int, name: str) -> str:
        return self._content(f"{RESULTS}/commands/{number:03d}/{name}").decode(errors="replace")

    def _as_set(self, state: DeviceState) -> DeviceState:
        """With the power mode and clocks that all runs had."""
        conditions = self._results.conditions
        return replace(
            state,
            power_mode=conditions.power_mode,
            clocks=conditions.clocks,
            clocks_doubt=conditions.clocks_doubt,
        )

    def setting(self) -> DeviceState:
        """That of all runs."""
        return self._results.conditions

    def _content(self, name: str) -> bytes:
        file = name.removeprefix(f"{RESULTS}/")
        if file not in self._results.files:
            raise DataError(f"results: {file} is missing; run run-on-device.sh again")
        return (self._folder / file).read_bytes()

    def _look(self) -> DeviceFacts:
        conditions = self._results.conditions
        facts = self._results.facts
        return replace(
            facts,
            power_mode=conditions.power_mode or facts.power_mode,
            clocks=conditions.clocks or facts.clocks,
        )
