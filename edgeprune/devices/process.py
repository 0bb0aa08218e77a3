"""Programs on this machine: the one place that starts a process of edgeprune's, feeds it, follows it and ends it."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from edgeprune.agent.system import KILLED_S, end_group
from edgeprune.errors import ToolError

PIECE_BYTES = 1 << 16
STDERR_BYTES = 1 << 18
CLOSE_TIMEOUT_S = 2.0
JOIN_TIMEOUT_S = 5.0


def by_lines(on_line: Callable[[bytes], object]) -> Callable[[bytes], None]:
    """What takes output in pieces and calls ``on_line`` with every line that ends, however long it is."""
    line = bytearray()

    def take(piece: bytes) -> None:
        line.extend(piece)
        if line.endswith(b"\n"):
            on_line(bytes(line))
            line.clear()

    return take


@dataclass(frozen=True)
class Ended:
    """A program that ended: its exit code, and the end of what it wrote to stderr."""

    returncode: int
    stderr: str


class Process:
    """A program that runs until it is closed; ``stdin`` and ``stdout`` are pipes of bytes.

    It has a session of its own: Ctrl-C reaches only the caller, who ends it. Its stderr is a file and not a pipe, which
    a child that stays in the background would hold open.

    Args:
        argv: the program and its arguments; no shell sees them.
        cwd: the folder that it runs in; this process' own when empty.
        env: its environment; this process' own when None.

    Raises:
        OSError: it does not start.
    """

    def __init__(self, argv: Sequence[str], *, cwd: str = "", env: Mapping[str, str] | None = None) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed in close()
        try:
            self._process = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                cwd=cwd or None,
                env=env,
                start_new_session=True,
            )
        except OSError:
            self._errors.close()
            raise
        assert self._process.stdin is not None and self._process.stdout is not None  # both are pipes
        self.stdin, self.stdout = self._process.stdin, self._process.stdout
        self._ending = threading.Lock()

    def feed(self, content: bytes | Iterable[bytes]) -> None:
        """Write to its stdin and close it; a program that ends without reading says why by its exit code."""
        with suppress(OSError):
            for piece in (content,) if isinstance(content, bytes) else content:
                self.stdin.write(piece)
        with suppress(OSError):
            self.stdin.close()

    def wait(self, timeout_s: float | None = None) -> int:
        """Its exit code, once it has ended. Raises ``subprocess.TimeoutExpired``."""
        return self._process.wait(timeout_s)

    def end(self, whole_group: bool = True) -> None:
        """End it: at once, or with everything that it started if ``whole_group``, which is asked first
        (:func:`edgeprune.agent.system.end_group`)."""
        if whole_group:
            with self._ending:  # whoever comes second does not kill what is still being asked
                end_group(self._process)
            return
        with suppress(OSError):  # one of another user, by sudo, cannot be
            self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(KILLED_S)

    def close(self) -> str:
        """Close its pipes, which tells it to end, and end it if it does not; gives the end of its stderr."""
        with suppress(OSError):
            self.stdin.close()
        try:
            self.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.end(whole_group=False)
        self.stdout.close()
        with self._errors as errors:
            errors.seek(max(0, errors.seek(0, os.SEEK_END) - STDERR_BYTES))
            return errors.read().decode(errors="replace")


def run_program(
    argv: Sequence[str],
    *,
    stdin: bytes | Iterable[bytes] = b"",
    on_output: Callable[[bytes], object] | None = None,
    timeout_s: float | None = None,
    cwd: str = "",
    env: Mapping[str, str] | None = None,
    whole_group: bool = True,
) -> Ended:
    """Run a program to its end. It never outlives this call: any exception on the way, Ctrl-C included, ends it.

    Args:
        argv: see :class:`Process`.
        stdin: what it reads, whole or in pieces.
        on_output: called with its stdout as it arrives, line by line where it has lines.
        timeout_s: longest run; None for no limit.
        cwd: see :class:`Process`.
        env: see :class:`Process`.
        whole_group: whatever it started ends with it.

    Raises:
        OSError: it does not start.
        ToolError: it ran longer than ``timeout_s``.
    """
    process = Process(argv, cwd=cwd, env=env)
    expired = threading.Event()

    def watch() -> None:
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            expired.set()
        process.end(whole_group)  # a child that outlives the program would hold its stdout open

    threads = [
        threading.Thread(target=process.feed, args=(stdin,), daemon=True),
        threading.Thread(target=watch, daemon=True),
    ]
    try:
        for thread in threads:
            thread.start()
        while piece := process.stdout.readline(PIECE_BYTES):
            if on_output is not None:
                on_output(piece)
        returncode = process.wait()
    finally:
        process.end(whole_group)
        for thread in threads:
            thread.join(JOIN_TIMEOUT_S)
        stderr = process.close()
    if expired.is_set():
        raise ToolError(argv, 124, f"ran longer than {timeout_s:g} s and was stopped")
    return Ended(returncode, stderr)
