"""Training in several processes that ``torchrun`` started.

On GPUs of one machine Ultralytics does it all. On CPUs it takes every process for a run of its own, so
:func:`join_on_cpu` makes them one: gradients are summed over the processes exactly as Ultralytics sums them on GPUs.
Around the training, :func:`on_first_process` lets one process write what the others only wait for.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from functools import cache
from multiprocessing import get_context
from typing import Any, TypeVar

import torch.distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous
from ultralytics.utils import RANK, WORLD_SIZE

from edgeprune.errors import StageError, TargetError, first_line
from edgeprune.options import named

T = TypeVar("T")
TIMEOUT = timedelta(hours=3)
"""How long a process waits for the first one, as Ultralytics' process group does."""
_call_numbers = itertools.count()


def on_first_process(work: Callable[[], T]) -> T:
    """Call ``work`` in the first process and return what it returns, as JSON, in every process.

    The processes speak through torchrun's own store: a process group cannot be left and joined again reliably, and
    Ultralytics wants to be the one that makes it.
    """
    if RANK == -1:
        return work()
    key = f"edgeprune-{next(_call_numbers)}"
    if RANK == 0:
        result = work()
        _store().set(key, json.dumps(result))
        return result
    _store().wait([key], TIMEOUT)
    return json.loads(_store().get(key))


@cache
def _store() -> Any:
    store, _, _ = next(rendezvous("env://"))
    return store


def processes(device: str) -> int:
    """Among how many processes Ultralytics shares a batch: one a GPU, or those that torchrun started on CPUs."""
    return WORLD_SIZE if RANK != -1 else gpus_of(device)


def gpus_of(device: str) -> int:
    """How many devices a name of Ultralytics means; one where it is empty."""
    return len(device.split(","))


def require_shared(batch: int, count: int) -> None:
    """Raise ``TargetError`` where a batch cannot be shared out evenly; Ultralytics would leave the rest of it out, or
    begin without an image a process."""
    if batch % count:
        raise TargetError(
            f"{named('batch', str(batch))} cannot be shared by {count} processes; allowed is a multiple of {count}"
        )


def require_a_gpu_each(device: str) -> None:
    """Raise ``TargetError`` where ``torchrun`` started another number of processes than GPUs are named: Ultralytics
    takes the number of GPUs for that of the processes, and with one GPU every process for a training of its own."""
    if RANK == -1 or device.lower() in ("cpu", "mps"):
        return
    count = gpus_of(device)
    if count != WORLD_SIZE:
        raise TargetError(
            f"torchrun started {WORLD_SIZE} processes, and {named('device', device)} names {count} GPU"
            f"{'s' * (count > 1)}; allowed is one process a GPU of one machine: torchrun --nproc_per_node N with "
            f"N numbers in {named('device')}, or the command without torchrun"
        )


def in_a_process_of_its_own(work: Callable[[], T]) -> T:
    """Call ``work`` in a new process that knows nothing of ``torchrun``, and return what it returns.

    A validation of Ultralytics takes the variables of ``torchrun`` for a training that has begun: it waits for the
    other processes, and wants a GPU. ``work`` and what it returns have to be picklable.

    Raises:
        StageError: the process died.
    """
    kept = {name: os.environ.pop(name) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE") if name in os.environ}
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(work).result()
    except BrokenProcessPool as error:
        raise StageError(f"the process that validates died ({first_line(error)}); is there enough memory?") from error
    finally:
        os.environ.update(kept)


def join_on_cpu(trainer: Any) -> None:
    """Make this trainer one of several that train one model on CPUs, each with its share of every batch.

    To be called when the trainer is constructed.

    Raises:
        TargetError: the batch cannot be shared out evenly.
    """
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=TIMEOUT)
    count, batch, nominal = dist.get_world_size(), trainer.batch_size, trainer.args.nbs
    require_shared(batch, count)
    if nominal % count:
        raise TargetError(
            f"train argument nbs={nominal} cannot be shared by {count} processes; allowed is a multiple of {count}"
        )
    # 0, Ultralytics' own choice, would multiply the loss by nothing; above 1 it wants a GPU for every process
    trainer.world_size = 1
    trainer.batch_size = batch // count
    trainer.args.nbs = nominal // count

    # At every batch the wrapper averages all that a step has gathered so far: earlier batches, the same in all of the
    # processes, stay as they are. A sum would count them once a process. So the sum that is wanted comes from gradients
    # that are multiplied before they are gathered, as Ultralytics multiplies the loss on GPUs.
    def wrap_model(trainer: Any) -> None:
        trainer.args.nbs = nominal  # as it was asked for, since checkpoints keep the arguments
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.register_hook(lambda gradient: gradient * count)
        trainer.model = nn.parallel.DistributedDataParallel(trainer.model, find_unused_parameters=True)

    trainer.add_callback("on_pretrain_routine_end", wrap_model)
    trainer.add_callback("on_train_epoch_end", _broadcast_buffers)


def _broadcast_buffers(trainer: Any) -> None:
    """Give every process the first one's statistics of batch normalisation: each validates a share of the images."""
    for buffer in trainer.ema.ema.buffers():
        dist.broadcast(buffer, 0)
