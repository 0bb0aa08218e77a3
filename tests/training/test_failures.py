"""What Ultralytics refuses and what a machine cannot give end in one line; a bug keeps its traceback."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from ultralytics.engine.trainer import BaseTrainer

from edgeprune.errors import DataError, EdgepruneError, StageError, TargetError, ToolError
from edgeprune.settings import TrainSettings
from edgeprune.training.failures import as_one_line
from edgeprune.training.finetune import finetune
from edgeprune.training.pretrain import pretrain
from edgeprune.training.run import read_epochs, run_training
from tests.training.test_resume import Killed, stop_after

PASSED_ON = "Caught {0} in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  ...\n{0}: {1}"
DEAD = (
    "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
    "shared memory. Please try to raise your shared memory limit."
)
SHARED = "unable to write to file </torch_12_34_0>: No space left on device (28)"


def raising(error: Exception) -> Callable[[Any], None]:
    """A watcher that fails in the second epoch as Ultralytics or torch would there."""

    def fail(trainer: Any) -> None:
        if trainer.epoch == 1:
            raise error

    return fail


def refused(narrow: Path, digits: Path, folder: Path, settings: TrainSettings, watchers: Any = ()) -> str:
    with pytest.raises(EdgepruneError) as caught:
        finetune(narrow, data=digits, out=folder / "o", work=folder / "w", settings=settings, watchers=watchers)
    assert "\n" not in str(caught.value)
    return f"{type(caught.value).__name__}: {caught.value}"


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (RuntimeError(DEAD), ["StageError", "workers", "it is 4", "--shm-size", "kept"]),
        (RuntimeError(PASSED_ON.format("RuntimeError", SHARED)), ["StageError", "workers", "torch_12_34_0"]),
        (OSError(errno.EMFILE, "Too many open files"), ["StageError", "workers", "ulimit -n"]),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), ["StageError", "out of memory with batch 8", "kept"]),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), ["StageError", "out of memory with batch 8"]),
        (OSError(errno.EIO, "Input/output error"), ["StageError", "w/run: Input/output error (EIO)", "kept"]),
        (OSError(errno.EACCES, "Permission denied", "/x.csv"), ["StageError", "/x.csv: Permission denied (EACCES)"]),
        (FileNotFoundError("Image Not Found /a.jpg"), ["DataError", "/a.jpg"]),
        (FileNotFoundError(PASSED_ON.format("FileNotFoundError", "Image Not Found /a.jpg")), ["DataError", "/a.jpg"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_machine_that_gives_out_is_one_line(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings, error: Exception, seen: list[str]
) -> None:
    said = refused(narrow, digits, tmp_path, settings, [("on_train_batch_start", raising(error))])
    assert all(word in said for word in seen), said


@pytest.mark.parametrize(
    ("batch", "tried", "kept", "seen"),
    [
        (16, 2, False, "out of memory with batch 2 (16 was asked for) at 64 px; lower batch below 2, or imgsz, with"),
        (16, 16, False, "out of memory with batch 16 at 64 px; lower batch below 16, or imgsz, with"),
        (
            16,
            16,
            True,
            "lower batch below 16 (finetune, sparsify, qat and iterate go on with it after the last good epoch;",
        ),
        (1, 1, True, "out of memory with batch 1 at 64 px; lower imgsz, with"),
    ],
)
def test_memory_that_ran_out_names_the_batch_it_ran_out_with(
    tmp_path: Path, settings: TrainSettings, batch: int, tried: int, kept: bool, seen: str
) -> None:
    """Ultralytics halves it in a first epoch; nobody can lower what was never tried."""
    if kept:
        (tmp_path / "weights").mkdir()
        (tmp_path / "weights" / "last.pt").touch()
    trainer = SimpleNamespace(args=SimpleNamespace(batch=tried))
    with pytest.raises(StageError) as caught:
        with as_one_line(replace(settings, batch=batch), tmp_path, lambda: trainer):
            raise RuntimeError("CUDA out of memory")
    assert seen in str(caught.value)


AGENT = """W1129 03:00:00 torch/distributed/run.py:774] setting OMP_NUM_THREADS
Traceback (most recent call last):
  File "x.py", line 1, in <module>
{0}
Traceback (most recent call last):
  File "run.py", line 1, in <module>
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
x.py FAILED
"""


@pytest.mark.parametrize(
    ("line", "kind", "seen"),
    [
        (
            "[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried to",
            StageError,
            "out of memory with batch 8 at 64 px",
        ),
        ("[rank0]: RuntimeError: " + DEAD, StageError, "lower workers"),
        ("edgeprune.errors.DataError: no image has a label", DataError, "no image has a label"),
        ("[rank0]: edgeprune.errors.StageError: another training works here", StageError, "another training works"),
        ("[rank0]: KeyError: 'of the program'", ToolError, "torchrun exited with 1: KeyError: 'of the program'"),
        ("Killed", ToolError, "torchrun exited with 1: see the output above"),
    ],
    ids=["memory", "loaders", "data", "stage", "bug", "killed"],
)
def test_what_ended_a_process_on_one_of_several_gpus_is_told_as_here(
    tmp_path: Path, settings: TrainSettings, line: str, kind: type[EdgepruneError], seen: str
) -> None:
    failed = subprocess.CalledProcessError(1, ["torchrun", "x.py"], output=AGENT.format(line))
    with pytest.raises(EdgepruneError) as caught, as_one_line(settings, tmp_path):
        raise failed
    assert type(caught.value) is kind and seen in str(caught.value)


def test_a_disk_that_fills_before_the_checkpoint_is_one_line(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings
) -> None:
    def fill(trainer: Any) -> None:
        def full(metrics: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        trainer.save_metrics = full

    said = refused(narrow, digits, tmp_path, settings, [("on_train_start", fill)])
    assert f"{tmp_path / 'w' / 'run'}: No space left on device (ENOSPC)" in said
    assert "make room" in said


@pytest.mark.parametrize(
    ("train", "seen"),
    [
        ({"freeze": 30}, ["TargetError", "freeze=30"]),
        ({"cls_pw": 2.0}, ["TargetError", "cls_pw"]),
        ({"copy_paste_mode": "sideways"}, ["TargetError", "`flip` or `mixup`, but got sideways"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_arguments_that_ultralytics_refuses_later_are_one_line(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings, train: dict[str, Any], seen: list[str]
) -> None:
    said = refused(narrow, digits, tmp_path, replace(settings, train=train))
    assert all(word in said for word in seen), said


def test_a_wrong_augmentation_of_a_classifier_is_no_fault_of_the_data(
    tmp_path: Path, task_data: Any, settings: TrainSettings
) -> None:
    given = replace(settings, epochs=1, imgsz=32, train={"auto_augment": "sideways"})
    with pytest.raises(TargetError, match=r"a train argument is wrong: .*sideways"):
        pretrain("yolov8n-cls.yaml", data=task_data("classify"), out=tmp_path, work=tmp_path / "w", settings=given)


def test_a_last_batch_of_one_small_image_is_one_line(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name, count in (("a", 3), ("b", 2)):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for index in range(count):
                Image.effect_noise((32, 32), 60).convert("RGB").save(tmp_path / f"data/{split}/{name}/{index}.png")
    settings = TrainSettings(epochs=1, batch=4, imgsz=32, device="cpu", quiet=True)
    with pytest.raises(TargetError, match=r"final batch=1 .*change batch") as caught:
        pretrain("yolov8n-cls.yaml", data=tmp_path / "data", out=tmp_path / "o", work=tmp_path / "w", settings=settings)
    assert "\n" not in str(caught.value)


def test_what_ultralytics_refuses_in_other_words_is_one_line(tmp_path: Path, settings: TrainSettings) -> None:
    trainer: Any = BaseTrainer
    with pytest.raises(StageError, match=r"get_validator .*\(ultralytics/engine/trainer.py:\d+\)$"):
        with as_one_line(settings, tmp_path):
            trainer.get_validator(None)


@pytest.mark.parametrize("error", [ValueError("of the program"), AssertionError(), RuntimeError("shapes differ")])
def test_a_bug_keeps_its_traceback(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings, error: Exception
) -> None:
    with pytest.raises(type(error)) as caught:
        watchers = [("on_train_batch_start", raising(error))]
        finetune(narrow, data=digits, out=tmp_path / "o", work=tmp_path / "w", settings=settings, watchers=watchers)
    assert caught.value is error


def test_a_validation_that_fails_is_one_line(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ultralytics import YOLO

    from edgeprune.training.run import validation_accuracy

    def died(*_: Any, **__: Any) -> None:
        raise RuntimeError(DEAD)

    monkeypatch.setattr(YOLO, "val", died)
    with pytest.raises(StageError, match="lower workers"):
        validation_accuracy(narrow, data=digits, settings=settings, work=tmp_path)


GARBLED = [b"3,0.5,1.0\n", b"\x00\x00\x00\x00\n", b"\xff\xfe,1\n", b"3,0.5,x,", b"nan,1\n", b"\x00"]


@pytest.mark.parametrize("tail", GARBLED)
def test_what_a_loss_of_power_left_of_a_row_is_dropped(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings, tail: bytes
) -> None:
    results = tmp_path / "run" / "results.csv"
    with pytest.raises(Killed):
        run_training(tmp_path, narrow, data=digits, settings=settings, watchers=stop_after(1))
    results.write_bytes(results.read_bytes() + tail)
    assert [epoch.number for epoch in read_epochs(results)] == [1]
    run = run_training(tmp_path, narrow, data=digits, settings=settings)
    assert [epoch.number for epoch in run.epochs] == [1, 2]


def test_a_spoilt_header_gives_no_epochs(tmp_path: Path) -> None:
    results = tmp_path / "results.csv"
    for content in (b"", b"\x00\x00", b"a,b\n1,2\n"):
        results.write_bytes(content)
        assert read_epochs(results) == ()
