"""What is the whole process's is changed by one of its threads at a time."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from ultralytics.nn import tasks

import edgeprune
from edgeprune.errors import StageError
from edgeprune.logs import capture_output
from edgeprune.pruning.equivalence import single_thread
from edgeprune.quiet import one_thread, process_state_kept
from edgeprune.scratch import scratch
from edgeprune.training.iterative import prune_in_rounds
from edgeprune.training.pretrain import pretrain
from edgeprune.unpickle import known_classes_only
from tests.situations import models

SWAPS: dict[str, Callable[[Path], AbstractContextManager[None]]] = {
    "temporary files": lambda folder: scratch(),
    "output": lambda folder: capture_output(folder / "log.txt", show=False),
    "what may be unpickled": lambda folder: known_classes_only(),
    "threads and random numbers": lambda folder: process_state_kept(),
    "one thread of torch": lambda folder: single_thread(),
}


def process() -> tuple[object, ...]:
    logger, unpickler = logging.getLogger("ultralytics"), tasks.__dict__
    environment = {name: os.environ.get(name) for name in ("TMPDIR", "ULTRALYTICS_SAFE_LOAD")}
    return (
        *(tempfile.tempdir, environment, sys.stdout, sys.stderr, logger.handlers[:]),
        *(unpickler["SAFE_LOAD"], torch.get_num_threads()),
    )


@contextmanager
def held(block: AbstractContextManager[None]) -> Iterator[None]:
    """Another thread, called ``first``, is inside of the block."""
    inside, leave, failed = threading.Event(), threading.Event(), []

    def work() -> None:
        try:
            with block:
                inside.set()
                leave.wait(60)
        except BaseException as error:
            failed.append(error)
            inside.set()

    thread = threading.Thread(target=work, name="first")
    thread.start()
    assert inside.wait(60)
    try:
        yield
    finally:
        leave.set()
        thread.join(60)
    assert not failed and not thread.is_alive()


@pytest.mark.parametrize("second", SWAPS)
@pytest.mark.parametrize("first", SWAPS)
def test_what_two_threads_would_restore_crosswise_is_changed_by_one(first: str, second: str, tmp_path: Path) -> None:
    before = process()
    with held(SWAPS[first](tmp_path)):
        during = process()
        with pytest.raises(StageError, match=r"^another thread \(first\) works in edgeprune") as refused:
            SWAPS[second](tmp_path).__enter__()
        assert "\n" not in str(refused.value) and process() == during
    assert process() == before
    with SWAPS[second](tmp_path), SWAPS[first](tmp_path):  # free again, and free within a thread
        pass
    assert process() == before


SETTINGS = edgeprune.TrainSettings(epochs=1)
CALLS: dict[str, Callable[[Path], Any]] = {
    "bench": lambda out: edgeprune.bench("cpu", "none.onnx"),
    "build": lambda out: edgeprune.build("cpu", "none.pt", "none.yaml", out=out),
    "compare": lambda out: edgeprune.compare(["none.pt", "none.onnx"], "none.yaml"),
    "export": lambda out: edgeprune.export("none.pt", out),
    "finetune": lambda out: edgeprune.finetune("none.pt", data="none.yaml", out=out, work=out, settings=SETTINGS),
    "frontier": lambda out: edgeprune.frontier("cpu", "none.pt", "none.yaml", kind="speed_up", budgets=[2.0], out=out),
    "pretrain": lambda out: pretrain("none.yaml", data="none.yaml", out=out, work=out, settings=SETTINGS),
    "profile": lambda out: edgeprune.profile("cpu", "none.pt"),
    "prune_in_rounds": lambda out: prune_in_rounds(
        "none.pt", macs_speed_up=2, rounds=1, data="none.yaml", out=out, work=out, settings=SETTINGS
    ),
    "search": lambda out: edgeprune.search("cpu", "none.pt", output=out, speed_up=2.0),
    "sparsify": lambda out: edgeprune.sparsify("none.pt", data="none.yaml", out=out, work=out, settings=SETTINGS),
    "sweep": lambda out: edgeprune.sweep("cpu", "none.pt", "none.yaml", out=out, budgets=[("speed_up", 2.0)]),
    "val": lambda out: edgeprune.val("none.pt", data="none.yaml"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_second_thread_is_refused_before_anything_is_read_or_written(name: str, tmp_path: Path) -> None:
    with held(one_thread()), pytest.raises(StageError, match=r"^another thread \(first\) works"):
        CALLS[name](tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_call_inside_of_a_call_passes_and_another_thread_does_not(tmp_path: Path) -> None:
    models.saved(models.model(), tmp_path / "m.pt", train_args={"imgsz": 64})
    refused: list[BaseException] = []

    def other() -> None:
        try:
            edgeprune.export(tmp_path / "m.pt", tmp_path / "other.onnx", imgsz=64)
        except StageError as error:
            refused.append(error)

    def progress(text: str, **_: object) -> None:
        if not (tmp_path / "inner.onnx").exists():
            edgeprune.export(tmp_path / "m.pt", tmp_path / "inner.onnx", imgsz=64)
            thread = threading.Thread(target=other)
            thread.start()
            thread.join(60)

    few = edgeprune.BenchSettings(warmup_s=0.0, rounds=2, per_round=2)
    edgeprune.bench("cpu", tmp_path / "m.pt", imgsz=64, settings=few, details=False, progress=progress)
    assert (tmp_path / "inner.onnx").is_file() and len(refused) == 1 and not (tmp_path / "other.onnx").exists()


def test_a_child_process_is_free() -> None:
    with held(one_thread()), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, from Python 3.12 on
        child = os.fork()
        if child == 0:
            try:
                with one_thread():
                    os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
