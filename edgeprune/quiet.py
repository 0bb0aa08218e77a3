"""Ultralytics without its running commentary: its warnings stay, its banners and bars go."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(level: int = logging.WARNING) -> Iterator[None]:
    """Raise the level of Ultralytics' logger for a while; its progress bars follow the logger's level."""
    logger = logging.getLogger("ultralytics")
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
