"""What libraries print and log while a stage works: kept in the stage's log, and of a training also on the screen."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TextIO

from edgeprune.quiet import one_thread


class _WhileEpochsRun(logging.Filter):
    """Lets the table of epochs onto the screen; the list of layers and a page of settings stay in the log."""

    running = False

    def filter(self, record: logging.LogRecord) -> bool:
        return self.running or record.levelno >= logging.WARNING


_SCREEN = _WhileEpochsRun()


def show_epochs(trainer: object) -> None:
    """Epochs run: what is logged belongs on the screen."""
    _SCREEN.running = True


def hide_epochs(trainer: object) -> None:
    """An epoch ended: until the next one, what is logged stays in the log."""
    _SCREEN.running = False


EPOCH_WATCHERS = (
    ("on_train_start", show_epochs),
    ("on_train_epoch_start", show_epochs),
    ("on_fit_epoch_end", hide_epochs),
)
"""For a trainer: events of Ultralytics and what to call."""


class _Both:
    """A text stream that writes to the screen and to the log; anything else that is asked of it is the screen's."""

    def __init__(self, screen: TextIO, log: TextIO) -> None:
        self.screen, self.log = screen, log

    def write(self, text: str) -> int:
        self.log.write(text)
        return self.screen.write(text)

    def flush(self) -> None:
        self.log.flush()
        self.screen.flush()

    def __getattr__(self, name: str) -> object:  # isatty, encoding, fileno
        return getattr(self.screen, name)


@contextlib.contextmanager
def capture_output(path: Path, *, show: bool) -> Generator[None, None, None]:
    """Append what is printed, and what Ultralytics logs, to a file for as long as the block lasts.

    Args:
        path: the log.
        show: print it on the screen too; of Ultralytics' log, warnings and what is logged while epochs run.

    Raises:
        StageError: another thread of this process is in such a block (:func:`~edgeprune.quiet.one_thread`).
    """
    logger = logging.getLogger("ultralytics")
    with one_thread(), path.open("a", encoding="utf-8") as log:
        screens = logger.handlers[:]
        for handler in screens:
            handler.addFilter(_SCREEN)
        logger.handlers = [logging.StreamHandler(log), *(screens if show else [])]
        _SCREEN.running = False
        out, err = (_Both(sys.stdout, log), _Both(sys.stderr, log)) if show else (log, log)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                yield
        finally:
            logger.handlers = screens
            for handler in screens:
                handler.removeFilter(_SCREEN)
