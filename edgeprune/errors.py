"""Every error that edgeprune raises on purpose, and the exit code each one ends the command line with.

```
EdgepruneError
├─ TargetError   bad profile or arguments                             exit 2
├─ DataError     weights or dataset unreadable, unsafe, inconsistent  exit 2
├─ StageError    a stage broke its promise                            exit 3
├─ ToolError     an external program failed                           exit 3
└─ DeviceError   unreachable, wrong board, wrong versions             exit 4
```

A gate is not an error: FAIL exits 1, INCONCLUSIVE and PENDING exit 5. Any other exception is a bug and keeps its
traceback.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

MARKS = re.compile("\x1b\\[[0-9;]*m|[\u2600-\u27bf\ufe0f\U0001f000-\U0001faff]")  # colours and signs of Ultralytics


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of what another library's exception says, without marks and of ``most`` letters; its class where
    it says nothing."""
    return (MARKS.sub("", str(error)).strip() or type(error).__name__).splitlines()[0].rstrip()[:most]


NOT_OF_THE_INPUT = (MemoryError, ImportError)
"""What another library raises where the machine or the installation fails, which no file and no setting is to blame
for: passed on where anything else that it raises is told as a line about what it was given."""


class EdgepruneError(Exception):
    """Base of the tree. The message is one line: what was seen, what is allowed, and the next command.

    Attributes:
        log: all that a program printed before it failed, where that is known; a build that fails keeps it.
    """

    exit_code = 3
    log = ""


WHAT_MAY_END_IT = (EdgepruneError, *NOT_OF_THE_INPUT)
"""What ends work that nothing rests on, and no more than that work."""


class TargetError(EdgepruneError):
    """A target profile or an argument is wrong; the message names file, key and what is allowed."""

    exit_code = 2


class SettingError(TargetError, ValueError):
    """A setting has an impossible value; a ValueError too, so that pydantic says in which section of the YAML it is."""


class OutOfReachError(TargetError):
    """No plan meets the latency budget: a steady measurement showed for sure that the fastest one misses it. The same
    search on the same device would end alike."""


class DataError(EdgepruneError):
    """Weights or a dataset cannot be read, are unsafe to read, or contradict each other."""

    exit_code = 2


class DamagedError(DataError):
    """A file was read to its end, and its content is none that was ever written whole: reading it again won't help."""


class UnreadableError(DataError):
    """The system did not read a file of a dataset, which may pass: nothing is left out or kept because of it."""


class StageError(EdgepruneError):
    """A stage could not keep its promise (a reset model, outputs that differ, an infeasible budget found late)."""

    exit_code = 3


class ToolError(EdgepruneError):
    """An external program failed.

    Args:
        argv: the command as it was run, one item an argument.
        returncode: its exit status.
        tail: the last lines of what it printed.
    """

    exit_code = 3

    def __init__(self, argv: Sequence[str], returncode: int, tail: str) -> None:
        self.argv = list(argv)
        self.returncode = returncode
        self.tail = tail.strip()
        last = self.tail.splitlines()[-1] if self.tail else "it printed nothing"
        super().__init__(f"{self.argv[0]} exited with {returncode}: {last}")

    def __reduce__(self) -> tuple[Any, ...]:
        """By what it was made of, not by its message: it comes from the processes of a cluster."""
        return type(self), (self.argv, self.returncode, self.tail), self.__dict__


class DeviceError(EdgepruneError):
    """The device is unreachable, is another board than the target names, or has the wrong versions."""

    exit_code = 4


@contextmanager
def only_informs(what: str, note: Callable[[str], None]) -> Generator[None, None, None]:
    """Around what no verdict rests on, a picture or a further table: an error of this tree ends the block and is told
    in a line, so that it costs nothing that is finished.

    Args:
        what: will be missing, for people.
        note: told of it.
    """
    try:
        yield
    except WHAT_MAY_END_IT as error:
        note(f"{what}: {error if isinstance(error, EdgepruneError) else first_line(error)}")
