"""Ultralytics without its running commentary and without what it changes in the process that calls it, and what only
one thread of a process may change at a time."""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from edgeprune.errors import StageError

DETERMINISM = ("CUBLAS_WORKSPACE_CONFIG", "PYTHONHASHSEED")
"""Variables that Ultralytics sets for a deterministic training."""
_at_work = threading.RLock()
_thread = ""  # the name of the one that holds it


def _unlock() -> None:
    """For a process that was forked: the thread that holds the lock is not in it."""
    global _at_work
    _at_work = threading.RLock()


os.register_at_fork(after_in_child=_unlock)


@contextmanager
def one_thread() -> Iterator[None]:
    """Around what gives the process another state for a while (output, temporary files, threads, random numbers, what
    may be unpickled) and then the one from before: two that overlap would each restore the other's.

    A second thread is refused, and does not wait: that might take hours without a word, or for ever where the first
    one waits for it, and what both measured would be the other's disturbance. Within a thread, and in child processes,
    nothing changes. It serves as a decorator too.

    Raises:
        StageError: another thread of this process is inside.
    """
    global _thread
    lock = _at_work
    if not lock.acquire(blocking=False):
        raise StageError(
            f"another thread ({_thread}) works in edgeprune, which changes what is the whole process's: output, "
            "temporary files, threads, random numbers; wait for its end, or use a process for each: "
            "concurrent.futures.ProcessPoolExecutor"
        )
    try:
        _thread = threading.current_thread().name
        yield
    finally:
        lock.release()


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
    """Give the process back its number of threads, its random numbers (of torch on the CPU, NumPy and Python), its
    current GPU and what it says about deterministic algorithms.

    Ultralytics sets torch's threads and the current GPU where it chooses a device, a data loader draws a seed, and a
    training ends with determinism off, whatever it was; a program that calls a function of edgeprune's sees none of it.
    It serves as a decorator too.

    Raises:
        StageError: as in :func:`one_thread`.
    """
    with one_thread():
        yield from _process_state_kept()


def _process_state_kept() -> Iterator[None]:
    import numpy as np
    import torch

    threads, drawn = torch.get_num_threads(), torch.get_rng_state()
    drawn_numpy, drawn_python = np.random.get_state(), random.getstate()
    gpu = torch.cuda.current_device() if torch.cuda.is_initialized() else 0  # asking would initialise CUDA
    as_deterministic = _determinism()
    try:
        yield
    finally:
        as_deterministic()
        if torch.cuda.is_initialized():
            torch.cuda.set_device(gpu)
        torch.set_num_threads(threads)
        torch.set_rng_state(drawn)
        np.random.set_state(drawn_numpy)
        random.setstate(drawn_python)


def _determinism() -> Callable[[], None]:
    """What gives the process back all that Ultralytics sets for a deterministic training, and unsets behind it."""
    import torch

    asked, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    flags: Any = torch.utils.deterministic
    cudnn, filled = torch.backends.cudnn.deterministic, flags.fill_uninitialized_memory
    variables = {name: os.environ.get(name) for name in DETERMINISM}

    def restore() -> None:
        torch.use_deterministic_algorithms(asked, warn_only=warns)
        torch.backends.cudnn.deterministic = cudnn
        flags.fill_uninitialized_memory = filled
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    return restore
