"""Training in several processes that ``torchrun`` started.

On GPUs Ultralytics does it all. On CPUs it takes every process for a run of its own, so :func:`join_on_cpu` makes them
one: gradients are summed over the processes exactly as Ultralytics sums them on GPUs. Around the training,
:func:`on_first_process` lets one process write what the others only wait for.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch.distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous
from ultralytics.utils import RANK

from edgeprune.errors import TargetError
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


def join_on_cpu(trainer: Any) -> None:
    """Make this trainer one of several that train one model on CPUs, each with its share of every batch.

    To be called when the trainer is constructed.

    Raises:
        TargetError: the batch cannot be shared out evenly.
    """
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=TIMEOUT)
    count, batch, nominal = dist.get_world_size(), trainer.batch_size, trainer.args.nbs
    if batch % count or nominal % count:
        raise TargetError(
            f"{named('batch', str(batch))} cannot be shared by {count} processes; allowed is a multiple of {count}"
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
