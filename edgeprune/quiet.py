"""Ultralytics without its running commentary and without what it changes in the process that calls it."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(level: int = logging.WARNING) -> Iterator[None]:
    """Raise the level of Ultralytics' logger for a while: its warnings stay, its banners and bars go, which follow the
    logger's level."""
    logger = logging.getLogger("ultralytics")
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def process_state_kept() -> Iterator[None]:
    """Give the process back its number of threads and its random numbers (of torch on the CPU, NumPy and Python).

    Ultralytics sets torch's threads where it chooses a device, and a data loader draws a seed; a program that calls a
    function of edgeprune's sees neither. It serves as a decorator too.
    """
    import numpy as np
    import torch

    threads, drawn = torch.get_num_threads(), torch.get_rng_state()
    drawn_numpy, drawn_python = np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(drawn)
        np.random.set_state(drawn_numpy)
        random.setstate(drawn_python)
