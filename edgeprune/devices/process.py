"""A local process that stands for a command elsewhere: fed from bytes, read piece by piece, ended with its caller."""

from __future__ import annotations

import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import IO

from edgeprune.devices.channel import Answer

TAIL_BYTES = 4000


def called(
    argv: Sequence[str],
    *,
    stdin: bytes | Iterable[bytes] = b"",
    told: Callable[[bytes], None] | None = None,
    env: dict[str, str] | None = None,
) -> Answer:
    """Run ``argv`` to its end; ``OSError`` when it does not start."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,  # not a pipe: a connection that stays in the background would hold it open
            env=env,
            start_new_session=True,  # Ctrl-C is the caller's; it ends the process below
        )
        assert process.stdin is not None and process.stdout is not None  # both are pipes
        feeder = threading.Thread(target=_feed, args=(process.stdin, stdin), daemon=True)
        try:
            feeder.start()
            while piece := process.stdout.readline(1 << 16):
                if told is not None:
                    told(piece)
            returncode = process.wait()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        feeder.join(5)
        return Answer(returncode, tail_of(errors))


def tail_of(errors: IO[bytes]) -> str:
    """The end of what a process wrote to a file."""
    end = errors.seek(0, 2)
    errors.seek(max(0, end - TAIL_BYTES))
    return errors.read().decode(errors="replace")


def _feed(pipe: IO[bytes], stdin: bytes | Iterable[bytes]) -> None:
    with suppress(OSError):  # it ended without reading all of it: its exit code says why
        for piece in (stdin,) if isinstance(stdin, bytes) else stdin:
            pipe.write(piece)
    with suppress(OSError):
        pipe.close()


class OpenProcess:
    """A process that stays; see :class:`~edgeprune.devices.channel.Pipe`."""

    def __init__(self, argv: Sequence[str], env: dict[str, str] | None = None) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed in close()
        self._process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=env,
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None  # both are pipes
        self.stdin, self.stdout = self._process.stdin, self._process.stdout

    def close(self) -> str:
        """End it; gives the end of its stderr."""
        with suppress(OSError):
            self.stdin.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.stdout.close()
        text = tail_of(self._errors)
        self._errors.close()
        return text
