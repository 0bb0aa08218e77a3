"""An OpenSSH server of the test's own: on loopback, with its own keys, as the current user."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from getpass import getuser
from pathlib import Path

import pytest


def sshd_path() -> str | None:
    """The server's program, which is off most users' PATH."""
    return shutil.which("sshd") or next((path for path in ("/usr/sbin/sshd",) if Path(path).is_file()), None)


class Server:
    """Started on a free port; ``env`` is what sessions get in their environment, ``login`` what a shell runs in place
    of the command that a session asks for."""

    def __init__(self, root: Path, env: Mapping[str, str], login: str = "") -> None:
        self.root = root
        self.tmp = Path(env.get("TMPDIR", root / "tmp"))
        self.tmp.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.name = f"{getuser()}@127.0.0.1:{self.port}"
        for key in ("host", "user"):
            if not (root / key).exists():
                subprocess.run(
                    ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / key)], check=True, timeout=1200
                )
        shutil.copyfile(root / "user.pub", root / "authorized")
        self.trust(root / "host.pub")
        (root / "client").write_text(
            f"UserKnownHostsFile {root}/known\nGlobalKnownHostsFile /dev/null\n"
            f"IdentityFile {root}/user\nIdentitiesOnly yes\nIdentityAgent none\n"
        )
        merged = {"TMPDIR": str(self.tmp), "EDGEPRUNE_LOCK": str(root / "lock"), **env}
        pairs = " ".join(f'"{name}={value}"' for name, value in merged.items())
        (root / "server").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {root}/host\nPidFile none\n"
            f"AuthorizedKeysFile {root}/authorized\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            f"PermitRootLogin yes\nMaxStartups 100\nSetEnv {pairs}\n" + (f"ForceCommand {login}\n" if login else "")
        )
        self.process: subprocess.Popen[bytes] | None = None

    def trust(self, public: Path) -> None:
        """Make this the host key that the client knows; a path that does not exist makes it know none."""
        known = f"[127.0.0.1]:{self.port} {public.read_text()}" if public.exists() else ""
        (self.root / "known").write_text(known)

    def start(self) -> None:
        """Listen, and return when somebody can connect."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where root's sshd separates its privileges
        program = sshd_path()
        assert program is not None
        self.process = subprocess.Popen(
            [program, "-D", "-e", "-f", str(self.root / "server")],
            stdin=subprocess.DEVNULL,
            stderr=(self.root / "log").open("ab"),
        )
        ends = time.perf_counter() + 120
        while time.perf_counter() < ends:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        pytest.fail(f"sshd did not start: {(self.root / 'log').read_text()}")

    def sessions(self) -> list[int]:
        """Processes that serve connections: children of the listener."""
        assert self.process is not None
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) == self.process.pid:
                found.append(int(stat.parent.name))
        return found

    def drop(self) -> int:
        """Kill every connection; the listener stays. Gives how many there were."""
        doomed = self.sessions()
        for pid in doomed:
            with suppress(ProcessLookupError):  # it ended by itself meanwhile
                os.kill(pid, signal.SIGKILL)
        return len(doomed)

    def stop(self) -> None:
        """End the listener and every connection."""
        if self.process is not None:
            self.drop()
            self.process.kill()
            self.process.wait()
            self.process = None

    def left(self) -> list[str]:
        """Work directories that are still there."""
        return sorted(path.name for path in self.tmp.glob("edgeprune-*"))
