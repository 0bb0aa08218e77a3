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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from edgeprune.artifact import sha256_of
from edgeprune.devices.base import Completed
from edgeprune.devices.channel import Channel, ConnectionLost, Pipe
from edgeprune.devices.identity import identity_of
from edgeprune.errors import DataError, DeviceError, ToolError

Result = TypeVar("Result")
PAUSES_S = (0.2, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)  # between attempts to reach a device that answered before
PIECE = 1 << 16
MAKE_WORK = 'umask 077 && d=$(mktemp -d "${TMPDIR:-/tmp}/edgeprune-XXXXXXXXXX") && echo "$d"'


class RemoteDevice:
    """A device behind a channel.

    Args:
        channel: how commands get there.
        power_mode: mode by its name that measured runs are done in; what the board is in when empty.
        clocks: lock the clocks for measured runs, where the user may.
        python: Python of measured programs there; ``python3`` when empty.
        notes: told one line about what a person may want to know (a lost connection, a queue).
        simulated: what it gives is marked so.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        power_mode: str = "",
        clocks: bool = True,
        python: str = "",
        notes: Callable[[str], None] | None = None,
        simulated: bool = False,
    ) -> None:
        self.name = channel.name
        self.simulated = simulated
        self.power_mode = power_mode
        self.clocks = clocks
        self.python = python
        self.notes = notes
        self._channel = channel
        self._work = ""
        self._held = 0
        self._facts: dict[str, Any] | None = None
        self._placed: set[str] = set()

    def __enter__(self) -> RemoteDevice:
        """Hold the connection and the work directory until the end of the block."""
        self._held += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._held -= 1
        if not self._held:
            self._leave()

    def facts(self) -> dict[str, Any]:
        """What the device is; asked once."""
        if self._facts is None:
            with self:
                self._facts = self._ask("facts")
        return self._facts

    def identity(self) -> dict[str, str]:
        """See :func:`edgeprune.devices.identity.identity_of`."""
        return identity_of(self.facts(), power_mode=self.power_mode, clocks=self.clocks)

    @contextmanager
    def workspace(self) -> Iterator[str]:
        """A private folder inside the work directory."""
        with self:
            self._open()
            folder = f"{self._work}/{uuid.uuid4().hex[:12]}"
            self._ask("mkdir", folder)
            try:
                yield folder
            finally:
                if self._held > 1:  # else all of it goes at once
                    with suppress(DeviceError):
                        self._ask("remove", folder)

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
        """Run a program as a detached job; a lost connection is opened again and the same job followed on."""
        argv = [str(part) for part in argv]
        job = {
            "argv": argv,
            "timeout_s": timeout_s,
            "cwd": cwd,
            "stdin": base64.b64encode(stdin).decode(),
            "measured": measured,
            "power_mode": self.power_mode if measured else "",
            "clocks": self.clocks and measured,
        }
        with self:
            self._open()
            follow = _Followed(f"{self._work}/jobs/{uuid.uuid4().hex[:12]}", self.name, told, self.notes)
            content = json.dumps(job).encode()
            done = self._retried(
                lambda: self._agent("job", follow.folder, str(follow.offset), stdin=content, each=follow)
            )
        answer = done["done"]
        if error := answer.get("error"):
            self._refuse(error, argv)
        return Completed(
            tuple(argv), answer["returncode"], "".join(follow.output), answer.get("stderr", ""), answer["conditions"]
        )

    def send(self, local: Path, remote: str) -> None:
        """Copy a file there, from where an earlier attempt stopped; content that is there already is not sent."""
        try:
            size, sha = local.stat().st_size, sha256_of(local)
        except OSError as error:
            raise DataError(f"{local}: cannot be read: {error.strerror}") from error

        def attempt() -> None:
            offered = self._agent("offer", remote, sha, str(size))
            if offered["have"]:
                return
            offset = offered["offset"]
            with local.open("rb") as file:
                file.seek(offset)
                put = self._agent("put", remote, sha, str(size), str(offset), stdin=iter(lambda: file.read(PIECE), b""))
            if not put.get("have"):
                raise ConnectionLost(f"{self.name}: {local.name} arrived only in part")

        with self:
            self._retried(attempt)

    def placed(self, local: Path, name: str = "") -> str:
        """A file's path in the work directory, where it is put once for as long as that lives."""
        with self:
            self._open()
            sha = sha256_of(local)
            remote = f"{self._work}/files/{sha[:16]}/{name or local.name}"
            if remote not in self._placed:
                self.send(local, remote)
                self._placed.add(remote)
            return remote

    def fetch(self, remote: str, local: Path) -> None:
        """Copy a file from there, from where an earlier attempt stopped; its digest is compared."""
        partial = local.with_name(f".{local.name}.{uuid.uuid4().hex[:8]}.part")

        def attempt() -> None:
            there = self._agent("stat", remote)
            offset = partial.stat().st_size if partial.exists() else 0
            with partial.open("ab") as file:
                self._call("get", remote, str(offset), told=file.write)
                file.flush()
                os.fsync(file.fileno())
            if partial.stat().st_size != there["size"] or sha256_of(partial) != there["sha256"]:
                if partial.stat().st_size >= there["size"]:
                    partial.unlink()
                raise ConnectionLost(f"{self.name}: {PurePosixPath(remote).name} arrived only in part")

        try:
            with self:
                self._retried(attempt)
            partial.replace(local)
        finally:
            partial.unlink(missing_ok=True)

    def open(self, argv: Sequence[str]) -> Pipe:
        """Start a program in the work directory and keep talking to it; it ends with the connection."""
        self._open()
        return self._channel.open(["sh", "-c", f"cd {shlex.quote(self._work)} && exec {shlex.join(argv)}"])

    def reconnect(self) -> None:
        """Open the connection again after a program that was open lost it.

        Raises:
            DeviceError: the device does not come back.
        """
        self._channel.close()
        self._ask("stat", f"{self._work}/agent.py")

    # ------------------------------------------------------------ the agent

    def _open(self) -> None:
        """Make the work directory and put the agent into it, once."""
        if self._work:
            return
        source = files("edgeprune.devices").joinpath("agent.py").read_bytes()
        script = f'{MAKE_WORK} && cat > "$d/agent.py" || {{ rm -rf "$d"; exit 9; }}'
        lines: list[bytes] = []
        answer = self._channel.call(["sh", "-c", script], stdin=source, told=lines.append)
        folder = b"".join(lines).decode(errors="replace").strip().splitlines()
        if answer.returncode or not folder:
            last = (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
            hint = (
                "free some space there, or set TMPDIR to another disk" if "space" in last else f"check: ssh {self.name}"
            )
            raise DeviceError(f"{self.name}: no work directory can be made there: {last}; {hint}")
        self._work = folder[-1]
        self._placed = set()
        try:
            greeting = self._ask("hello", self._work, _owner(os.getpid()))
        except DeviceError:
            self._leave()
            raise
        for other in greeting["others"]:  # of builds on this machine that were killed before they could tidy up
            if _abandoned(other["owner"]):
                self._ask("clean", other["folder"])

    def _leave(self) -> None:
        """Remove the work directory; a connection that is gone is tried once more for it."""
        if self._work:
            work, heard = self._work, []
            argv = ["python3", f"{work}/agent.py", "clean", work]
            with suppress(DeviceError):
                if self._retried(lambda: self._channel.call(argv, told=heard.append), most=3).returncode:
                    self._channel.call(["rm", "-rf", "--", work])  # there may be no Python
            with suppress(ValueError, IndexError):
                if self.notes is not None and (left := json.loads(heard[-1]).get("not_put_back")):
                    self.notes(f"{self.name} is not as it was: {left}")
            self._work = ""
        self._channel.close()

    def _ask(self, verb: str, *rest: str) -> dict[str, Any]:
        return self._retried(lambda: self._agent(verb, *rest))

    def _agent(
        self,
        verb: str,
        *rest: str,
        stdin: Any = b"",
        each: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """One verb of the agent; gives its last line of JSON, after telling every one."""
        last: dict[str, Any] = {}

        def heard(piece: bytes) -> None:
            nonlocal last, kept
            kept += piece
            if not kept.endswith(b"\n"):  # a line longer than the buffer
                return
            with suppress(ValueError):
                line = json.loads(kept)
                if isinstance(line, dict):
                    last = line
                    if each is not None:
                        each(line)
            kept = b""

        kept = b""
        self._call(verb, *rest, stdin=stdin, told=heard)
        if error := last.get("error"):
            self._refuse(error, [verb, *rest])
        return last

    def _call(self, verb: str, *rest: str, stdin: Any = b"", told: Callable[[bytes], Any] | None = None) -> None:
        self._open()
        argv = ["python3", f"{self._work}/agent.py", verb, *rest]
        answer = self._channel.call(argv, stdin=stdin, told=told)
        if answer.returncode == 0:
            return
        last = (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
        if answer.returncode in (126, 127) or "not found" in last:
            raise DeviceError(
                f"{self.name}: there is no python3 on its PATH ({last}); "
                "next, there: sudo apt install python3 (3.8 or newer)"
            )
        if "SyntaxError" in last:
            raise DeviceError(f"{self.name}: its python3 is older than 3.8 ({last}); install a newer one there")
        if "can't open file" in answer.stderr:
            self._work = ""
            raise DeviceError(
                f"{self.name}: the work directory there is gone (was it restarted?); "
                "give the same command again: it goes on"
            )
        raise ToolError(argv, answer.returncode, answer.stderr)

    def _retried(self, attempt: Callable[[], Result], most: int | None = None) -> Result:
        """Do it, and do it again on a new connection while the one before was lost."""
        pauses = PAUSES_S[:most]
        for number in range(len(pauses) + 1):
            try:
                if number == 0:
                    self._open()  # a first connection that fails is final
                return attempt()
            except ConnectionLost as error:
                if not self._work or number == len(pauses):
                    raise
                if self.notes is not None:
                    self.notes(f"{self.name}: the connection was lost; trying again in {pauses[number]:g} s ({error})")
                self._channel.close()
                time.sleep(pauses[number])
        raise AssertionError("unreachable")

    def _refuse(self, error: Mapping[str, str], argv: Sequence[str]) -> None:
        kind, message = error["kind"], error["message"]
        if kind == "start":
            raise ToolError(argv, 127, message)
        if kind in ("timeout", "stopped"):
            raise ToolError(argv, 124, message)
        if kind == "tool":
            raise ToolError(argv, 1, message)
        raise DeviceError(f"{self.name}: {message}")


class _Followed:
    """What is heard of one job: output from where it was heard last, over any number of connections."""

    def __init__(
        self, folder: str, name: str, told: Callable[[str], None] | None, notes: Callable[[str], None] | None
    ) -> None:
        self.folder = folder
        self.offset = 0
        self.output: list[str] = []
        self._name = name
        self._told, self._notes = told, notes

    def __call__(self, line: dict[str, Any]) -> None:
        if "out" in line:
            self.offset = line["at"]
            self.output.append(line["out"])
            if self._told is not None:
                for text in line["out"].splitlines():
                    self._told(text)
        elif "waiting" in line and self._notes is not None:
            self._notes(f"{self._name} is busy with another build ({line['waiting']}); waiting for its turn")


def _owner(pid: int) -> str:
    """This machine and a process of it, so that what a killed build left can be told from one that works."""
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        started = "?"
    return f"{_machine()} {pid} {started}"


def _machine() -> str:
    for path in (Path("/etc/machine-id"), Path("/proc/sys/kernel/random/boot_id")):
        with suppress(OSError):
            if text := path.read_text().strip():
                return hashlib.sha256(text.encode()).hexdigest()[:16]
    return hashlib.sha256(os.uname().nodename.encode()).hexdigest()[:16]


def _abandoned(owner: str) -> bool:
    parts = owner.split()
    return len(parts) == 3 and parts[0] == _machine() and _owner(int(parts[1])) != owner
