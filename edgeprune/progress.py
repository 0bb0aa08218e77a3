"""How long work reports that it moves, so that no room needs to know who is watching."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, runtime_checkable

from edgeprune.errors import TargetError

_said: ContextVar[set[object] | None] = ContextVar("said", default=None)


@contextmanager
def one_run() -> Iterator[None]:
    """Around a run, or a decorator of one: what is worth one warning is said once in it, and again in the next run of
    the same process. Inside of another such block nothing changes."""
    if _said.get() is not None:
        yield
        return
    token = _said.set(set())
    try:
        yield
    finally:
        _said.reset(token)


def said_in_this_run() -> set[object]:
    """What was said already in the run that works now; outside of any run a set of its own for whoever asks."""
    said = _said.get()
    return set() if said is None else said


class Progress(Protocol):
    """Called as work advances: ``progress("probe 3: 12.1 ms", done=3, total=6)``. ``total=0`` means unknown;
    ``latest_ms`` are the latest latencies of models that are being timed side by side."""

    def __call__(self, text: str, *, done: int = 0, total: int = 0, latest_ms: Sequence[float] = ()) -> None: ...


@runtime_checkable
class Reporter(Protocol):
    """Who watches long work and hears more than that it moves. The command line draws bars; the Python API is silent by
    default."""

    def progress(self, text: str, *, done: int = 0, total: int = 0, latest_ms: Sequence[float] = ()) -> None:
        """The work moved on; a :class:`Progress`."""
        ...

    def note(self, text: str) -> None:
        """One line worth keeping on the screen."""
        ...


def silent(text: str, *, done: int = 0, total: int = 0, latest_ms: Sequence[float] = ()) -> None:
    """The default :class:`Progress`: nobody watches."""


class Silent:
    """The default :class:`Reporter`: nobody watches."""

    def progress(self, text: str, *, done: int = 0, total: int = 0, latest_ms: Sequence[float] = ()) -> None: ...
    def note(self, text: str) -> None: ...


class Told(Silent):
    """A :class:`Reporter` made of a :class:`Progress`: it hears that the work moves, and nothing else."""

    def __init__(self, progress: Progress) -> None:
        self._told = progress

    def progress(self, text: str, *, done: int = 0, total: int = 0, latest_ms: Sequence[float] = ()) -> None:
        if latest_ms:
            self._told(text, done=done, total=total, latest_ms=latest_ms)
        else:  # where nothing is timed, a function does without it
            self._told(text, done=done, total=total)


def reporter_of(progress: Progress | Reporter | None) -> Reporter:
    """What a caller gave as ``progress``, as a reporter; nobody watches when it is None.

    Raises:
        TargetError: it is neither; said before the work, which would end at its first report.
    """
    if isinstance(progress, Reporter):
        return progress
    if progress is not None and not callable(progress):
        seen = type(progress).__name__
        raise TargetError(f"progress: a function, a Reporter (with progress and note) or None is allowed; seen: {seen}")
    return Silent() if progress is None else Told(progress)
