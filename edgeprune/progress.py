"""How long work reports that it moves: one function type, so that no room needs to know who is watching."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called as work advances: ``progress("probe 3: 12.1 ms", done=3, total=6)``. ``total=0`` means unknown."""

    def __call__(self, text: str, *, done: int = 0, total: int = 0) -> None: ...


def silent(text: str, *, done: int = 0, total: int = 0) -> None:
    """The default watcher: nobody."""
