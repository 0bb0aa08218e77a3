"""A machine behind a channel: the agent is put into a private work directory there, and does the rest.

The work directory is removed with the last ``with`` that holds the device. A connection that breaks is opened again and
the command goes on: files from where they stopped, jobs by asking for the one that is still running there.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shlex
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar

from edgeprune.agent.facts import DeviceFacts
from edgeprune.agent.programs import Turns
from edgeprune.agent.system import is_of_here, is_running, process_of, text_of
from edgeprune.artifact import sha256_of, sha256_of_open
from edgeprune.devices.archive import archive
from edgeprune.devices.base import Completed, Device
from edgeprune.devices.channel import Channel, ConnectionLost, Pipe
from edgeprune.devices.process import PIECE_BYTES, by_lines
from edgeprune.errors import DataError, DeviceError, ToolError
from edgeprune.samples.conditions import DeviceState
from edgeprune.serial import from_json, to_json


class WorkGone(DeviceError):
    """The work directory is no longer there: the device was restarted, or somebody removed it.

    Attributes:
        missed: a folder or a job in it was in use.
    """

    missed = False


Result = TypeVar("Result")
Line = dict[str, Any]  # of the agent's JSON; what it may hold is in edgeprune.agent.__main__
RETRY_PAUSES_S = (0.2, 1.0, 2.0, 5.0, 10.0, 30.0, 120.0)  # before a device that answered is tried again
LEAVING_ATTEMPTS = 3
AGENT = "agent.zip"  # in the work directory
MAKE_WORK = (  # its first line is the folder that is taken; what goes wrong is read, so that it is said in English
    'umask 077 && echo "${TMPDIR:-/tmp}" && export LC_ALL=C && '
    'd=$(mktemp -d "${TMPDIR:-/tmp}/edgeprune-XXXXXXXXXX") && echo "$d"'
)
NO_ROOM = ("space", "quota")
# A login that types nothing reads no ~/.bashrc to its end; what pam_env reads, every one has, of every user
OTHER_DISK = "test -w /mnt/big && echo TMPDIR=/mnt/big | sudo tee -a /etc/environment"


class RemoteDevice(Device):
    """A device behind a channel.

    Args:
        channel: how commands get there.
        power_mode: see :class:`~edgeprune.devices.base.Device`.
        clocks: likewise.
        python: Python of measured programs there; ``python3`` when empty.
        agent_python: Python of the agent there.
        note: see :class:`~edgeprune.devices.base.Device`.
        simulated: likewise.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        power_mode: str = "",
        clocks: bool = True,
        python: str = "",
        agent_python: str = "python3",
        note: Callable[[str], None] | None = None,
        simulated: bool = False,
    ) -> None:
        super().__init__(power_mode=power_mode, clocks=clocks, note=note)
        self.name = channel.name
        self.simulated = simulated
        self.python = python
        self.agent_python = agent_python
        self.channel = channel
        self.when_full = (  # of the work directory's disk
            "free some space there, or take a folder of another disk, here /mnt/big, for all users there until that "
            f"line is removed from /etc/environment: {self.typed(OTHER_DISK)}; then give the same command again"
        )
        self.work = ""  # path of the work directory, while there is one
        self._progress = 0  # grows with whatever brings a command on
        self._placed: set[str] = set()
        self._folders = 0  # of the work directory that are in use
        self._left_there: list[str] = []  # work directories of builds that ended
        self._given_up: list[str] = []  # folders of jobs that could not be told to end
        self._heard: list[str] = []  # folders of jobs whose result is here
        # The device does not answer, or a person ended the command: what is left to tidy up is left to the end, or to
        # the next build
        self._gone = False

    def typed(self, command: str) -> str:
        """By the channel; see :class:`~edgeprune.devices.base.Device`."""
        return self.channel.typed(command)

    @contextmanager
    def workspace(self) -> Iterator[str]:
        """A private folder inside the work directory."""
        with self:
            folder = self.afresh(self._new_folder)
            self._folders += 1
            try:
                yield folder
            except BaseException as error:
                self._note_end(error)
                raise
            finally:
                self._folders -= 1
                if self.work and self._holds > 1 and not self._gone:  # else all of it goes at once
                    try:
                        self._agent("remove", folder)  # once: a connection that is lost now is opened for the next
                    except (DeviceError, ToolError) as error:
                        self._note_end(error)

    def _note_end(self, error: BaseException) -> None:
        """Nothing is tidied up behind a person who ends the command, or on a device that does not answer."""
        if isinstance(error, ConnectionLost) or not isinstance(error, Exception):
            self._gone = True

    def _new_folder(self) -> str:
        self._enter_work()
        self._tidy_up()
        folder = f"{self.work}/{uuid.uuid4().hex[:12]}"
        self._ask("mkdir", folder)
        return folder

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
        """Run a program as a detached job; a lost connection is opened again and the same job followed on."""
        argv = [str(part) for part in argv]
        text = base64.b64encode(stdin).decode()
        return self._follow(argv, on_line, measured, uses_gpu=uses_gpu, timeout_s=timeout_s, cwd=cwd, stdin=text)

    def run_turns(self, turns: Turns, on_turn: Callable[[int, Completed], None]) -> None:
        """Run programs that take turns as one detached job; see :meth:`run`."""

        def hear(line: str) -> None:
            index, done = Completed.of_turn(line, turns.programs, self.name)
            self._require_setting(done.device)
            on_turn(index, done)

        self._follow(list(turns.programs[0]), hear, True, turns=to_json(turns), cwd="", stdin="")

    def _follow(
        self, argv: list[str], on_line: Callable[[str], None] | None, measured: bool, **job: object
    ) -> Completed:
        """Run a job to its end; ``argv`` is what errors are about."""
        job |= {
            "argv": argv,
            "measured": measured,
            "power_mode": self.power_mode if measured else "",
            "clocks": self.clocks and measured,
        }
        with self:
            follow = partial(self._job, job, on_line)
            output, result = follow() if self._placed else self.afresh(follow)  # it may be about what was placed
        if error := result.get("error"):
            raise self._refusal(error, argv)
        output.end()
        state = from_json(DeviceState, result["conditions"], self.name)
        if measured:
            self._require_setting(state)
        return Completed(tuple(argv), result["returncode"], "".join(output.parts), result.get("stderr", ""), state)

    def _job(self, job: Line, on_line: Callable[[str], None] | None) -> tuple[_JobOutput, Line]:
        """Follow a job to its result. It ends with this call, whatever ends that: the caller may go on, and measure."""
        self._enter_work()
        if job["measured"]:
            self._tidy_up()
        for folder in list(self._given_up):
            self._cancel(folder)
        output = _JobOutput(self, f"{self.work}/jobs/{uuid.uuid4().hex[:12]}", on_line)
        content, attempts, heard = json.dumps(job).encode(), 0, tuple(self._heard)

        def attempt() -> Line:
            nonlocal attempts
            attempts += 1
            offset = str(output.offset)
            return self._agent("job", output.folder, offset, *heard, stdin=content, on_answer=output.take)

        try:
            done = self._retry(attempt)["done"]
            self._heard = [output.folder]
            return output, done
        except BaseException as error:
            self._note_end(error)
            if isinstance(error, WorkGone):
                error.missed |= attempts > 1  # from the first one on it may have run there
            if isinstance(error, ConnectionLost):  # it was given up: not asked once more
                self._given_up.append(output.folder)
            else:
                self._cancel(output.folder)
            raise

    def _cancel(self, folder: str) -> None:
        """End a job that nobody waits for any more: now, or else before the next one."""
        if folder in self._given_up:
            self._given_up.remove(folder)
        if not self.work or not folder.startswith(f"{self.work}/"):  # it went with its work directory
            return
        try:
            # Its folder stays, with the mark that it ended: what starts it may arrive yet, by a lost connection
            self._agent("cancel", folder)
        except (DeviceError, ToolError) as error:
            self._note_end(error)
            if self.work:
                self._given_up.append(folder)

    def send(self, local: Path, remote: str) -> None:
        """Copy a file there, from where an earlier attempt stopped; content that is there already is not sent.

        What is sent is the file as it was when it was opened: another build may put a newer one in its place meanwhile.
        """
        with ExitStack() as opened:
            try:
                file = opened.enter_context(local.open("rb"))
                sha256, size = sha256_of_open(file), file.tell()
            except OSError as error:
                raise DataError(f"{local}: cannot be read: {error.strerror}") from error
            self._send(file, sha256, size, remote)

    def _send(self, file: BinaryIO, sha256: str, size: int, remote: str) -> None:
        furthest = 0

        def attempt() -> None:
            nonlocal furthest
            offered = self._agent("offer", remote, sha256, str(size))
            if offered["have"]:
                return
            if offered["offset"] > furthest:
                self.got_on()
            furthest = max(furthest, offered["offset"])
            file.seek(offered["offset"])
            pieces = iter(lambda: file.read(PIECE_BYTES), b"")
            put = self._agent("put", remote, sha256, str(size), str(offered["offset"]), stdin=pieces)
            if not put.get("have"):
                raise ConnectionLost(f"{self.name}: {PurePosixPath(remote).name} arrived only in part")

        with self:
            self._retry(attempt)

    def place(self, local: Path) -> str:
        """Put a file into the work directory, once for as long as that lives; gives its path there."""
        with self:
            self._enter_work()
            remote = f"{self.work}/files/{sha256_of(local)[:16]}/{local.name}"
            if remote not in self._placed:
                self.send(local, remote)
                self._placed.add(remote)
            return remote

    def fetch(self, remote: str, local: Path) -> None:
        """Copy a file from there, from where an earlier attempt stopped; its digest is compared."""
        partial = local.with_name(f".{local.name}.{uuid.uuid4().hex[:8]}.part")
        furthest = 0

        def attempt() -> None:
            nonlocal furthest
            expected = self._agent("stat", remote)
            with partial.open("ab") as file:
                try:
                    self._call("get", remote, str(file.tell()), on_output=file.write)
                finally:
                    here = file.tell()
                    if furthest < here < expected["size"]:  # a whole one brings something if its digest is right
                        self.got_on()
                        furthest = here
                file.flush()
                os.fsync(file.fileno())
            if here < expected["size"]:
                raise ConnectionLost(f"{self.name}: {PurePosixPath(remote).name} arrived only in part")
            if here > expected["size"] or sha256_of(partial) != expected["sha256"]:
                partial.unlink()
                raise ConnectionLost(f"{self.name}: {PurePosixPath(remote).name} arrived with another content")

        try:
            with self:
                self._retry(attempt)
            partial.replace(local)
        finally:
            partial.unlink(missing_ok=True)

    def open(self, argv: Sequence[str]) -> Pipe:
        """Start a program in the work directory and keep talking to it; it ends with the connection."""
        self._enter_work()
        return self.channel.open(["sh", "-c", f"cd {shlex.quote(self.work)} && exec {shlex.join(argv)}"])

    def reconnect(self) -> None:
        """Open the connection again after a program that was open lost it.

        Raises:
            DeviceError: the device does not come back.
        """
        self.channel.close()
        self.afresh(self._ask_for_agent)

    def _ask_for_agent(self) -> None:
        self._enter_work()
        self._ask("stat", f"{self.work}/{AGENT}")

    def afresh(self, work: Callable[[], Result]) -> Result:
        """Do what makes all its paths there by itself; once more, in a new work directory, where that is gone and
        nobody waits for anything in it.

        Raises:
            DeviceError: the work directory is gone, and something in it is missed.
        """
        try:
            return work()
        except WorkGone as error:
            if error.missed:
                raise
            self.note(f"{self.name}: the work directory there is gone (was it restarted?); going on in a new one")
            return work()

    # ------------------------------------------------------------ the agent

    def _look(self) -> DeviceFacts:
        with self:
            return from_json(DeviceFacts, self.afresh(lambda: self._ask("facts")), self.name)

    def _enter_work(self) -> None:
        """Make the work directory and put the agent into it, once."""
        if self.work:
            return
        script = f'{MAKE_WORK} && cat > "$d/{AGENT}" || {{ rm -rf "$d"; exit 9; }}'
        output: list[bytes] = []
        ended = self.channel.call(["sh", "-c", script], stdin=archive(), on_output=output.append)
        lines = b"".join(output).decode(errors="replace").strip().splitlines()
        if ended.returncode or len(lines) < 2:
            last = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
            taken = lines[0] if lines else "/tmp"
            look = self.typed(f"ls -ld {shlex.quote(taken)}")
            hint = self.when_full if any(word in last for word in NO_ROOM) else f"check: {look}"
            raise DeviceError(f"{self.name}: no work directory can be made in {taken} there: {last}; {hint}")
        self.work = lines[-1]
        self._placed, self._heard, self._gone = set(), [], False
        try:
            answer = self._ask("enter", self.work, _owner(os.getpid()))
        except DeviceError:
            self._release()
            raise
        self._left_there = [
            other["folder"] for other in answer["others"] if other["stale"] or _is_abandoned(other["owner"])
        ]

    def _tidy_up(self) -> None:
        """Leave the work directories of builds that were killed before they could. Who only looks at a device changes
        nothing there."""
        while self._left_there:
            self._tell_left(self._ask("leave", self._left_there.pop()))

    def _tell_left(self, answer: Line) -> None:
        """What became of power and clocks when a work directory was left."""
        if restored := answer.get("restored"):
            self.note(f"{self.name}: put back what a run that was killed had left changed: {restored}")
        if not_restored := answer.get("not_restored"):
            self.note(f"{self.name} is not as it was: {not_restored}")

    def _release(self) -> None:
        """Remove the work directory; a connection that is lost over it is tried a few times more, one that was given up
        once. What could not be put back or removed is told."""
        if self.work:
            work, output, why = self.work, [], ""
            argv = [self.agent_python, f"{work}/{AGENT}", "leave", work]
            answer: Line = {"removed": False}
            try:
                attempts = 0 if self._gone else LEAVING_ATTEMPTS
                ended = self._retry(lambda: self.channel.call(argv, on_output=output.append), attempts)
                with suppress(ValueError, IndexError):
                    answer |= json.loads(output[-1])
                if ended.returncode:  # there may be no Python
                    answer["removed"] = not self.channel.call(["rm", "-rf", "--", work]).returncode
            except DeviceError as error:
                why = str(error)
            self._tell_left(answer)
            if not answer["removed"]:
                why = why or answer.get("error", {}).get("message", "the reason is not known")
                command = self.typed(f"rm -rf {shlex.quote(work)}")
                self.note(f"{self.name}: {work} could not be removed there: {why}; next: {command}")
            self.work = ""
        self.channel.close()

    def _ask(self, verb: str, *arguments: str) -> Line:
        return self._retry(lambda: self._agent(verb, *arguments))

    def _agent(
        self,
        verb: str,
        *arguments: str,
        stdin: bytes | Iterable[bytes] = b"",
        on_answer: Callable[[Line], None] | None = None,
    ) -> Line:
        """One verb of the agent; gives its last line of JSON, after ``on_answer`` was called with every one."""
        last: Line = {}

        def take(text: bytes) -> None:
            nonlocal last
            with suppress(ValueError):
                line = json.loads(text)
                if isinstance(line, dict):
                    last = line
                    if on_answer is not None:
                        on_answer(line)

        self._call(verb, *arguments, stdin=stdin, on_output=by_lines(take))
        if error := last.get("error"):
            raise self._refusal(error, [verb, *arguments])
        return last

    def _call(
        self,
        verb: str,
        *arguments: str,
        stdin: bytes | Iterable[bytes] = b"",
        on_output: Callable[[bytes], object] | None = None,
    ) -> None:
        self._enter_work()
        argv = [self.agent_python, f"{self.work}/{AGENT}", verb, *arguments]
        ended = self.channel.call(argv, stdin=stdin, on_output=on_output)
        self._gone = False
        if ended.returncode == 0:
            return
        last = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
        if ended.returncode in (126, 127) or "not found" in last:
            raise DeviceError(
                f"{self.name}: there is no python3 on its PATH ({last}), and 3.8 or newer is needed; "
                f"next: {self.typed('sudo apt install python3')}"
            )
        if "SyntaxError" in last:
            raise DeviceError(f"{self.name}: its python3 is older than 3.8 ({last}); install a newer one there")
        if "can't open file" in ended.stderr:
            self.work = ""
            self._placed.clear()
            gone = WorkGone(
                f"{self.name}: the work directory there is gone (was it restarted?); "
                "give the same command again: it goes on"
            )
            gone.missed = self._folders > 0
            raise gone
        raise ToolError(argv, ended.returncode, ended.stderr)

    def got_on(self) -> None:
        """A command has moved on: connections that were lost before are forgotten."""
        self._progress += 1

    def _retry(self, attempt: Callable[[], Result], attempts: int | None = None) -> Result:
        """Do it, and do it again on a new connection while the one before was lost.

        Connections that brought nothing new are counted in a row: one that brought the command on starts again at 0.
        """
        pauses_s, lost = RETRY_PAUSES_S[:attempts], 0
        while True:
            begun = self._progress
            try:
                self._enter_work()  # a first connection that fails is final
                return attempt()
            except ConnectionLost as error:
                lost = 0 if self._progress > begun else lost
                if not self.work or lost == len(pauses_s):
                    self._note_end(error)
                    raise
                self.note(f"{self.name}: the connection was lost; trying again in {pauses_s[lost]:g} s ({error})")
                self._pause(pauses_s[lost])
                lost += 1

    def _pause(self, seconds: float) -> None:
        try:
            self.channel.close()
            time.sleep(seconds)
        except BaseException as error:
            self._note_end(error)
            raise

    def _refusal(self, error: Mapping[str, str], argv: Sequence[str]) -> ToolError | DeviceError:
        """What the agent refused, as an error of edgeprune."""
        codes = {"start": 127, "timeout": 124, "stopped": 124, "tool": 1}
        kind, message = error["kind"], error["message"]
        if kind == "full":
            message += f"; {self.when_full}"
        return ToolError(argv, codes[kind], message) if kind in codes else DeviceError(f"{self.name}: {message}")


class _JobOutput:
    """What is heard of one job: output from where it was heard last, over any number of connections."""

    def __init__(self, device: RemoteDevice, folder: str, on_line: Callable[[str], None] | None) -> None:
        self.folder = folder
        self.offset = 0
        self.parts: list[str] = []
        self._begun = ""  # a line whose end is yet to come
        self._device, self._on_line = device, on_line or (lambda text: None)

    def take(self, line: Line) -> None:
        """One answer of the agent."""
        if "out" in line or "heartbeat" in line:  # it runs
            self._device.got_on()
        if "out" in line:
            self.offset = line["at"]
            self.parts.append(line["out"])
            *whole, self._begun = (self._begun + line["out"]).split("\n")
            for text in whole:
                self._on_line(text)
        elif "waiting" in line:
            holder = line["waiting"]
            self._device.note(f"{self._device.name} is busy with another build ({holder}); waiting for its turn")
        elif "note" in line:
            self._device.note(f"{self._device.name}: {line['note']}")

    def end(self) -> None:
        """Nothing more will come."""
        if self._begun:
            self._on_line(self._begun)


def _owner(pid: int) -> str:
    """This machine and a process of it, so that what a killed build left can be told from one that works."""
    return f"{_machine()} {process_of(pid)}"


def _machine() -> str:
    """What tells this machine from another: two copies of one disk have one id, but not one name."""
    ids = map(text_of, ("/etc/machine-id", "/proc/sys/kernel/random/boot_id"))
    text = f"{next(filter(None, ids), '')} {os.uname().nodename}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_abandoned(owner: str) -> bool:
    """Whether its process has ended; of one in another container nobody here knows."""
    machine, _, process = owner.partition(" ")
    return machine == _machine() and is_of_here(process) and not is_running(process)
