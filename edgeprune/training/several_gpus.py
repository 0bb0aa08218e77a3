"""Training on several GPUs of this machine: a process for each, started as Ultralytics starts them.

Ultralytics runs torchrun and waits for it. Here the same command is run by :mod:`~edgeprune.training.launcher`, so that
what trains ends with the process that wants it; what it prints comes out of this process, where a stage's log hears it;
and epochs are reported as their rows appear in ``results.csv``, since the processes have no listener.
"""

from __future__ import annotations

import codecs
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ultralytics.utils import LOGGER, RANK
from ultralytics.utils.dist import ddp_cleanup, generate_ddp_command
from ultralytics.utils.torch_utils import unset_deterministic

from edgeprune.training import launcher
from edgeprune.training.result import Epoch
from edgeprune.training.results_csv import read_epochs
from edgeprune.workspace import open_workspace

TORCHRUN = ["-m", "torch.distributed.run"]
LEVEL = "EDGEPRUNE_LOG_LEVEL"
"""Variable that tells a process of a training the level that this one's log has."""
GRACE_S = 45.0
"""Seconds that torchrun is given to end; it gives its own processes 30."""
POLL_S = 1.0
KEPT = 65536
"""Letters of what was printed last on a stream: where it failed, the reason is looked for in them."""


@runtime_checkable
class HearsOfEpochs(Protocol):
    """A callback of ``on_fit_epoch_end`` that is told of epochs which other processes finished."""

    def finished(self, trainer: Any, epoch: Epoch) -> None: ...


def train_on_several(trainer: Any) -> None:
    """Train by the processes that Ultralytics would start for this trainer, and wait for them.

    Raises:
        subprocess.CalledProcessError: they failed; its output is the end of what they printed.
    """
    if trainer.args.rect:
        LOGGER.warning("'rect=True' is incompatible with Multi-GPU training, setting 'rect=False'")
        trainer.args.rect = False
    listeners = [one for one in trainer.callbacks["on_fit_epoch_end"] if isinstance(one, HearsOfEpochs)]
    reported = len(read_epochs(trainer.csv)) if trainer.resume else 0

    def report() -> None:
        nonlocal reported
        for epoch in read_epochs(trainer.csv)[reported:]:
            reported += 1
            for listener in listeners:
                listener.finished(trainer, epoch)

    file = None
    try:
        command, file = generate_ddp_command(trainer)
        LOGGER.info(f"several GPUs: {' '.join(command)}")
        run_torchrun(command, meanwhile=report)
        report()
    finally:
        if file is not None:
            ddp_cleanup(trainer, str(file))
        unset_deterministic()


def run_torchrun(command: Sequence[str], *, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Run torchrun until it ends, and print what it prints. Whatever ends the call ends it too, and what it started:
    gently, since it alone knows those processes.

    Args:
        command: Python, ``-m torch.distributed.run`` and its arguments.
        meanwhile: called about once a second.

    Raises:
        subprocess.CalledProcessError: it failed; ``output`` is the end of what it printed.
    """
    assert list(command[1:3]) == TORCHRUN, command
    argv = [command[0], str(Path(launcher.__file__)), str(os.getpid()), *command[3:]]
    process = subprocess.Popen(
        argv,
        env={**os.environ, LEVEL: str(LOGGER.getEffectiveLevel())},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C reaches this process alone, which ends it once, and not twice at a time
    )
    try:
        printed = _print_on(process, meanwhile)
        code = process.wait()
    finally:
        _end(process)
    if code:
        raise subprocess.CalledProcessError(code, argv, output=printed)


def _print_on(process: subprocess.Popen[bytes], meanwhile: Callable[[], None]) -> str:
    """Print what a process prints until it has ended; gives the last of it, errors first: lines of two streams that are
    read as they come would cut each other."""
    last = {"stderr": "", "stdout": ""}
    due = 0.0
    with selectors.DefaultSelector() as waiting:
        for name in last:
            decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
            waiting.register(getattr(process, name), selectors.EVENT_READ, (name, decoder))
        while waiting.get_map():
            ready = waiting.select(timeout=POLL_S)
            for key, _ in ready:
                name, decoder = key.data
                piece = os.read(key.fd, 4096)
                if not piece:
                    waiting.unregister(key.fileobj)
                text = decoder.decode(piece, final=not piece)
                last[name] = (last[name] + text)[-KEPT:]
                stream = getattr(sys, name)  # looked up now: a stage has another one
                stream.write(text)
                stream.flush()
            if time.monotonic() >= due:
                meanwhile()
                due = time.monotonic() + POLL_S
            if not ready and process.poll() is not None:  # a loader that outlives it for a moment holds its streams
                break
    return "\n".join(last.values())


def _end(process: subprocess.Popen[bytes]) -> None:
    """End torchrun as SIGTERM ends it, and with it what it started; after that time by force, and the kernel those."""
    with process:  # closes its streams
        if process.poll() is not None:
            return
        process.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=GRACE_S)  # reads on: a full pipe would hold it up
        finally:
            process.kill()


@contextmanager
def alone_on_gpus(folder: Path) -> Iterator[None]:
    """Hold the folder of a run in the first of the processes on several GPUs: the training that started them may be
    killed while they live, and the same command would train in it too. Elsewhere nothing is done.

    Raises:
        StageError: the processes of an earlier training work there.
    """
    if RANK != 0 or not launched():
        yield
        return
    with open_workspace(folder, "training"):
        yield


def launched() -> bool:
    """Whether :func:`run_torchrun`, in another process, started this one to train on one of several GPUs."""
    return RANK != -1 and launcher.STARTED_BY in os.environ


def obey_launcher() -> None:
    """In a process that :func:`run_torchrun` started: end with the one that started it, and log what that one logs."""
    if launched():
        launcher.end_with(int(os.environ[launcher.STARTED_BY]))
        LOGGER.setLevel(max(LOGGER.level, int(os.environ[LEVEL])))
