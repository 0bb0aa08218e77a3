"""Commands on another machine by OpenSSH's own client: one shared connection, checked host keys, no password ever.

Whatever ``~/.ssh/config`` says about the host holds (keys, jump hosts, aliases); ``EDGEPRUNE_SSH_CONFIG`` names another
file of that form.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgeprune.devices.channel import ConnectionLost
from edgeprune.devices.process import PIECE_BYTES, Ended, Process, run_program
from edgeprune.errors import DeviceError, TargetError, ToolError
from edgeprune.target.address import ssh_parts, why_no_device

OPTIONS = {
    "BatchMode": "yes",  # a question would wait for ever; a password never goes over a command line
    "StrictHostKeyChecking": "yes",
    "ConnectTimeout": "10",
    "ServerAliveInterval": "15",
    "ServerAliveCountMax": "8",  # a board that swaps answers nothing for a minute; one that is gone costs two
    "RemoteCommand": "none",  # one of a person's own configuration would be refused beside ours
    "ClearAllForwardings": "yes",  # a port that another session of theirs holds would end this one
    "ControlMaster": "auto",
    "ControlPersist": "120",
    "LogLevel": "ERROR",
}
CLOSE_TIMEOUT_S = 10.0
LONGEST_SOCKET = 85  # bytes: ssh puts 17 behind it, and a socket's path has at most 104
SSH_FAILED = 255  # ssh's own exit code; agent and shell never end with it
BEGINS = "edgeprune-begins"  # a line before a command's own output: what comes earlier is the login's
NOT_QUOTED = frozenset('"\\$\n\r')  # of these no quoting of ssh's is the same in all its releases
CONFIGURATION = re.compile(  # of "FILE line 2: Bad port" the last words are "FILE: terminating, 1 bad configuration …"
    r"^(?:(?:(?P<file>.+): terminating, \d+ bad configuration options)|command-line:? line|.*Bad configuration option|"
    r"Can't open user config file|Bad owner or permissions on)"
)
REMOVE_WITH = re.compile(r'^\s*ssh-keygen -f "(?P<file>[^"\n]+)" -R "(?P<name>[^"\n]+)"', re.M)  # of Debian's ssh
OFFENDING = re.compile(r"^Offending \S+ key in (?P<file>.+):\d+\s*$", re.M)
CHANGED = re.compile(r"^Host key for (?P<name>\S+) has changed", re.M)
UNREACHABLE = (
    "Connection refused",
    "Connection timed out",
    "Operation timed out",
    "No route to host",
    "Network is unreachable",
    "Could not resolve hostname",
)


@dataclass(frozen=True)
class Address:
    """Where to: user and port only where they were given."""

    user: str
    host: str
    port: int

    @classmethod
    def from_text(cls, text: str) -> Address:
        """``[user@]host[:port]``; ``TargetError`` for anything else."""
        parts = ssh_parts(text)
        if parts is None:
            raise TargetError(why_no_device(text) or f"{text!r} is no device that ssh reaches")
        return cls(*parts)

    @property
    def arguments(self) -> str:
        """What a person types after ``ssh``."""
        port = f"-p {self.port} " if self.port else ""
        return f"{port}{self.user}@{self.host}" if self.user else f"{port}{self.host}"


class Ssh:
    """A connection to one machine; opened with the first call and shared by all of them."""

    def __init__(self, text: str) -> None:
        self.address = Address.from_text(text)
        self.name = text
        self._folder = ""

    def call(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | Iterable[bytes] = b"",
        on_output: Callable[[bytes], object] | None = None,
    ) -> Ended:
        """Run a command; every argument is quoted for the one shell that sshd puts in between."""
        begun, last = False, b""

        def take(piece: bytes) -> None:
            nonlocal begun, last
            if begun:
                if on_output is not None:
                    on_output(piece)
            else:
                begun, last = _is_begin(piece), piece.strip() or last

        try:
            # the shared connection stays in the background, and with it what a jump host needs
            ended = run_program(self._argv(argv), stdin=stdin, on_output=take, whole_group=False)
        except FileNotFoundError:
            raise DeviceError("ssh is not installed here; next: apt install openssh-client") from None
        if ended.returncode == SSH_FAILED or ended.returncode < 0:
            raise self._failure(ended.stderr)
        if not begun:
            said = last.decode(errors="replace") or (ended.stderr.strip().splitlines() or ["nothing"])[-1]
            raise DeviceError(
                f"{self.name}: its login starts no command, and its last words are: {said[:200]}; "
                f"check it with: ssh {self.address.arguments} true"
            )
        return ended

    def open(self, argv: Sequence[str]) -> Process:
        """Start a command and keep talking to it."""
        process = Process(self._argv(argv))
        while (line := process.stdout.readline(PIECE_BYTES)) and not _is_begin(line):
            pass
        return process

    def close(self) -> None:
        """End the shared connection and remove its socket."""
        if not self._folder:
            return
        argv = [*self._client(), "-O", "exit", "--", self.address.host]
        with suppress(OSError, ToolError):
            run_program(argv, timeout_s=CLOSE_TIMEOUT_S)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = ""

    def typed(self, command: str) -> str:
        """By ssh, with a terminal there: without one sudo cannot ask for a password, and no editor opens."""
        plain = "'" not in command or set(command) & set('"$`\\!')
        return f"ssh -t {self.address.arguments} " + (shlex.quote(command) if plain else f'"{command}"')

    def _argv(self, argv: Sequence[str]) -> list[str]:
        # The login shell may be any shell; sh is the one whose quoting is known. The empty line ends what a login
        # prints without one.
        script = f"echo; echo {BEGINS}; exec {shlex.join(argv)}"
        command = f"exec sh -c {shlex.quote(script)}"
        return [*self._client(), "-T", "--", self.address.host, command]

    def _client(self) -> list[str]:
        if not self._folder:
            self._folder = tempfile.mkdtemp(prefix="ep-")
            too_long = len(os.fsencode(self._folder)) + len("/c") > LONGEST_SOCKET
            if too_long or NOT_QUOTED & set(self._folder):
                Path(self._folder).rmdir()
                self._folder = tempfile.mkdtemp(prefix="ep-", dir="/tmp")
        argv = ["ssh"]
        if config := os.environ.get("EDGEPRUNE_SSH_CONFIG"):
            argv += ["-F", os.path.expanduser(config)]  # noqa: PTH111
        for name, value in {**OPTIONS, "ControlPath": _one_path(f"{self._folder}/c")}.items():
            argv += ["-o", f"{name}={value}"]
        if self.address.port:
            argv += ["-p", str(self.address.port)]
        if self.address.user:
            argv += ["-l", self.address.user]
        return argv

    def _failure(self, stderr: str) -> DeviceError:
        """What ssh's last words mean, with the command that goes on."""
        there = self.address.arguments
        lines = [line for line in stderr.strip().splitlines() if line.strip("@ \t")]
        last = lines[-1].strip() if lines else "the connection closed"
        with suppress(FileNotFoundError):
            Path(self._folder, "c").unlink()  # a dead master's socket would be asked again
        if refused := next(filter(None, map(CONFIGURATION.match, lines)), None):
            first = next(line for line in lines if line.startswith(refused["file"] or refused[0]))
            return DeviceError(f"ssh refuses its configuration: {first.strip()}")
        if "HOST IDENTIFICATION HAS CHANGED" in stderr:
            return DeviceError(
                f"{self.name}: its host key is not the one that is known, so this may be another machine; if the board "
                "was flashed anew, forget the old key and look at the new one: "
                f"{self._forget(stderr)} && ssh {there}"
            )
        if "Host key verification failed" in stderr or "host key is known" in stderr:
            return DeviceError(
                f"{self.name}: its host key is not known here; log in once (ssh {there}) and answer yes if the "
                "fingerprint that ssh shows is the one that the board shows on its own screen: "
                "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"
            )
        if "Permission denied (" in stderr:  # with what may be tried; without, a command of the login's said it
            return DeviceError(
                f"{self.name}: the login was refused, and a password is never asked for; "
                f"put your key there: ssh-copy-id {there}; or, for a key with a passphrase: "
                "eval $(ssh-agent) && ssh-add"
            )
        if "ControlPath too long" in stderr or "too long for Unix domain socket" in stderr:
            return DeviceError(f"{self.name}: {last}; set TMPDIR to a folder with a shorter path")
        if any(sign in stderr for sign in UNREACHABLE):
            return Unreachable(f"{self.name} cannot be reached: {last}; check it with: ssh {there} true")
        return ConnectionLost(f"{self.name}: the connection was lost: {last}; check it with: ssh {there} true")

    def _forget(self, stderr: str) -> str:
        """The command that forgets a host key, of the host that ssh names: behind an alias, a jump host or another file
        of known hosts only ssh knows it."""
        if (found := REMOVE_WITH.search(stderr)) is not None:
            file, name = found["file"], found["name"]
        elif (changed := CHANGED.search(stderr)) is not None:
            file, name = (found["file"] if (found := OFFENDING.search(stderr)) else ""), changed["name"]
        else:
            host, port = self.address.host, self.address.port
            file, name = "", f"[{host}]:{port}" if port else host
        return shlex.join(["ssh-keygen", *(["-f", file] if file else []), "-R", name])


def _one_path(path: str) -> str:
    """A path as a value of ssh's configuration: one word, whose per cent signs stand for themselves."""
    return '"' + path.replace("%", "%%") + '"'


def _is_begin(line: bytes) -> bool:
    return line == f"{BEGINS}\n".encode()


class Unreachable(ConnectionLost):
    """Nobody answers there: final for a first connection, worth waiting for after one that was lost."""
