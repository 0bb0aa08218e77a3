"""What ends a training or validation of Ultralytics, as one line: what it refuses itself, and failures of the machine.

Anything else is a fault of the program and keeps its traceback.
"""

from __future__ import annotations

import errno
import re
import subprocess
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ultralytics

from edgeprune.artifact import is_full
from edgeprune.errors import DataError, EdgepruneError, StageError, TargetError, ToolError, first_line
from edgeprune.input_size import pixels
from edgeprune.settings import TrainSettings
from edgeprune.training.trainers import has_diverged

MEMORY = re.compile(
    r"out of memory|DefaultCPUAllocator|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_INTERNAL_ERROR"
    r"|unable to find an engine",
    re.IGNORECASE,
)
"""Torch has no class of its own for an exhausted CPU, but names its allocator; Ultralytics counts the rest as well."""
LOADERS = re.compile(
    r"DataLoader worker \(pid|out of shared memory|unable to (?:open|allocate) shared memory|/torch_\d+"
    r"|received 0 items of ancdata|Too many open files",
    re.IGNORECASE,
)
"""What torch says where a loader process died, or the memory or files that it shares with this one ran out."""
WRONG_ARGUMENT = {
    "final batch=1 training": "",
    "more than 1 value per channel": "; the last batch holds one small image: change batch or raise imgsz",
    "froze the entire model": "",
    "cls_pw must be": "",
    "flip_idx": "",
}
"""Texts of Ultralytics and torch for arguments that cannot work together, and what to do where they do not say it."""
RAISED = re.compile(r"^(?:\[rank\d+\]:\s?)?((?:\w+\.)*\w+(?:Error|Exception)): (.+)$", re.MULTILINE)
"""The line of a traceback that says what was raised, as torch prints it in one of several processes."""
TOLD = {kind.__name__: kind for kind in (TargetError, DataError, StageError)}
"""Errors of edgeprune that a process of several may raise."""
REFUSING = ("engine", "data", "models")
"""Folders of Ultralytics that check what they are given; deeper ones check what the program does."""


@contextmanager
def as_one_line(settings: TrainSettings, folder: Path, trainer: Callable[[], Any] = lambda: None) -> Iterator[None]:
    """Around a call of Ultralytics: known failures as errors of edgeprune; anything else keeps its traceback.

    Args:
        settings: of the call.
        folder: where it writes; its ``weights/last.pt`` is what was finished before.
        trainer: gives Ultralytics' trainer, once there is one.

    Raises:
        TargetError: settings that Ultralytics refuses.
        DataError: images that are no longer there.
        StageError: memory, disk or a loader process gave out, or training diverged.
        ToolError: the launcher of distributed training failed.
    """
    try:
        yield
    except EdgepruneError:
        raise
    except subprocess.CalledProcessError as error:
        raise _failure_of_processes(error, settings, folder, trainer()) from error
    except (RuntimeError, MemoryError, ValueError, TypeError, AssertionError, OSError) as error:
        failure = _failure(error, settings, folder, trainer())
        if failure is None:
            raise
        raise failure from error


def _failure(error: Exception, settings: TrainSettings, folder: Path, trainer: Any) -> EdgepruneError | None:
    text, said = str(error), _said(error)
    last = folder / "weights" / "last.pt"
    kept = f"; the last good epoch is kept in {last.parent}" if last.is_file() else ""
    number = error.errno if isinstance(error, OSError) else None
    if LOADERS.search(text):
        return StageError(
            f"loading images failed ({said}); lower workers (it is {settings.workers}; 0 needs none of this), or give "
            f"more: docker run --shm-size 8g for shared memory, ulimit -n for files{kept}"
        )
    if isinstance(error, MemoryError) or number == errno.ENOMEM or (number is None and MEMORY.search(text)):
        return StageError(_out_of_memory(settings, trainer, kept))
    if isinstance(error, OSError) and number is not None:
        place = error.filename if isinstance(error.filename, str) else folder
        room = "; make room and give the same command again" if is_full(error) else ""
        name = errno.errorcode.get(number, str(number))
        return StageError(f"{place}: {error.strerror} ({name}), while Ultralytics worked in {folder}{room}{kept}")
    if "Image Not Found" in text:
        return DataError(f"the data set changed while it was read: {said}{kept}")
    if isinstance(error, RuntimeError) and has_diverged(trainer):
        return StageError(
            f"training diverged ({said}); lower lr0 (it is {settings.lr0}), with which training starts anew{kept}"
        )
    for known, advice in WRONG_ARGUMENT.items():
        if known in text:
            return TargetError(f"Ultralytics cannot train like this: {said}{advice}")
    if (place := _refused_in(error)) is not None:
        return StageError(f"Ultralytics ended the work: {said} ({place}){kept}")
    return None


def _failure_of_processes(
    error: subprocess.CalledProcessError, settings: TrainSettings, folder: Path, trainer: Any
) -> EdgepruneError:
    """What one of the processes on several GPUs raised, as it would be told if this one had."""
    raised = [found.groups() for found in RAISED.finditer(str(error.output or ""))]
    for name, text in raised:
        if (kind := TOLD.get(name.rpartition(".")[2])) is not None:
            return kind(text)
        failure = RuntimeError(text)
        if MEMORY.search(text) or LOADERS.search(text):
            return _failure(failure, settings, folder, trainer) or StageError(text)
    said = next((f"{name.rpartition('.')[2]}: {text}" for name, text in raised), "see the output above")
    return ToolError([str(part) for part in error.cmd], error.returncode, said)


def _out_of_memory(settings: TrainSettings, trainer: Any, kept: str) -> str:
    """With which batch it was, and where a smaller one goes on: Ultralytics halves it while a first epoch runs, and a
    stage of a build is known by it."""
    tried = settings.batch if trainer is None else trainer.args.batch
    halved = f" ({settings.batch} was asked for)" if tried != settings.batch else ""
    lower = f"lower batch below {tried}, or " if tried > 1 else "lower "
    if kept and tried > 1:
        lower = (
            f"lower batch below {tried} (finetune, sparsify, qat and iterate go on with it after the last good epoch; "
            "a build, a sweep and a frontier train anew), or "
        )
    what = f"out of memory with batch {tried}{halved} at {pixels(settings.side)}"
    return f"{what}; {lower}imgsz, with which training starts anew{kept}"


def _said(error: Exception) -> str:
    """What an exception says; of one that a loader process passed on, what it said there."""
    text = str(error).strip()
    if text.startswith("Caught ") and "\n" in text:
        return first_line(RuntimeError(text.splitlines()[-1]))
    return first_line(error)


def _refused_in(error: Exception) -> str | None:
    """File and line where Ultralytics itself refused what it was given; None for an error of any other statement."""
    *_, frame = traceback.extract_tb(error.__traceback__)
    root = Path(ultralytics.__file__).parent
    path = Path(frame.filename)
    if not path.is_relative_to(root) or path.relative_to(root).parts[0] not in REFUSING:
        return None
    refuses = (frame.line or "").startswith(("raise ", "assert "))
    return f"{path.relative_to(root.parent)}:{frame.lineno}" if refuses else None
