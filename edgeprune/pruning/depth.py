"""Drop whole blocks where the stock class allows a shorter list: fewer launches, not only narrower ones."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgeprune.errors import TargetError
from edgeprune.progress import Progress, silent
from edgeprune.pruning.gates import Batch, loss_model, mean_loss

# Blocks whose list ``m`` is a chain, each output also concatenated into ``cv2`` behind what ``cv1`` gives.
_CONCATENATED = {"C2f", "C3k2", "C2fCIB", "C2fPSA", "A2C2f"}
# Blocks whose ``m`` is a plain chain.
_CHAINED = {"C2", "C3", "C3k", "C2PSA", "RepCSP", "RepC3", "C3x"}
# The last convolution of what stands in such lists: its width is the block's output.
_LAST = {"Bottleneck": "cv2", "RepBottleneck": "cv2", "C3k": "cv3", "CIB": "cv1", "PSABlock": "ffn", "ABlock": "mlp"}


@dataclass(frozen=True)
class RemovableBlock:
    """A block that can go: its name, its class, and its width in channels (input and output alike)."""

    name: str
    kind: str
    width: int


def removable_blocks(model: nn.Module) -> list[RemovableBlock]:
    """Every block that can be dropped so that the stock forward pass stays valid, in order of execution."""
    return [RemovableBlock(f"{name}.{i}", kind, width) for name, i, kind, width, _ in _places(model)]


def _places(model: nn.Module) -> Iterator[tuple[str, int, str, int, bool]]:
    """(list name, index, class, width, concatenated) of every removable block."""
    for name, module in model.named_modules():
        kind = type(module).__name__
        chain = getattr(module, "m", None)
        if kind in _CONCATENATED and isinstance(chain, nn.ModuleList):
            yield from _equal(f"{name}.m", chain, _entry(module), concatenated=True)
            for i, item in enumerate(chain):
                if isinstance(item, nn.Sequential) and len({type(one) for one in item}) == 1:
                    yield from _equal(f"{name}.m.{i}", item, _output(item[0]), concatenated=False)
        elif kind in _CHAINED and isinstance(chain, nn.Sequential):
            yield from _equal(f"{name}.m", chain, _entry(module), concatenated=False)


def _equal(name: str, chain: Any, width: int, concatenated: bool) -> Iterator[tuple[str, int, str, int, bool]]:
    """Items whose successors can read what they read: input and output equally wide."""
    before = width
    for i, item in enumerate(chain):
        after = _output(item)
        if after and after == before:
            yield name, i, type(item).__name__, after, concatenated
        before = after


def _entry(module: Any) -> int:
    """Width of what enters the chain of a block."""
    outputs = module.cv1.conv.out_channels
    halved = type(module).__name__ in ("C2", "C2f", "C3k2", "C2fCIB", "C2fPSA", "C2PSA")
    return outputs // 2 if halved else outputs


def _output(item: Any) -> int:
    """Width of a block's output, 0 when unknown."""
    if isinstance(item, nn.Sequential):
        return _output(item[-1]) if len(item) else 0
    if type(item).__name__ == "Conv":
        return item.conv.out_channels
    last = getattr(item, _LAST.get(type(item).__name__, ""), None)
    return _output(last) if last is not None else 0


def without_blocks(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """A new model without the named blocks; the given one is not touched.

    The columns of ``cv2`` that read a dropped block go with it; the next block of the chain reads the previous one.

    Raises:
        TargetError: a name is not a removable block; lists those that are.
    """
    places = {f"{name}.{i}": (name, i, concatenated) for name, i, _, _, concatenated in _places(model)}
    unknown = [name for name in names if name not in places]
    if unknown:
        raise TargetError(f"'{unknown[0]}' is not a removable block; this model has {', '.join(places) or 'none'}")
    result: Any = copy.deepcopy(model)
    # inner lists first (longer names), last items first, so that neither names nor indices move
    for name in sorted(set(names), key=lambda one: (-one.count("."), places[one][0], -places[one][1])):
        owner, i, concatenated = places[name]
        if any(name.startswith(other + ".") for other in names):
            continue
        block = result.get_submodule(owner.rpartition(".m")[0]) if concatenated else None
        chain = result.get_submodule(owner)
        if block is not None:
            start = block.cv1.conv.out_channels + sum(_output(item) for item in chain[:i])
            _drop_columns(block.cv2.conv, start, _output(chain[i]))
        left = [item for j, item in enumerate(chain) if j != i]
        result.get_submodule(owner.rpartition(".")[0])._modules[owner.rpartition(".")[2]] = (
            nn.ModuleList(left) if isinstance(chain, nn.ModuleList) else nn.Sequential(*left)
        )
    return result


def _drop_columns(layer: nn.Conv2d, start: int, count: int) -> None:
    keep = torch.tensor([i for i in range(layer.in_channels) if not start <= i < start + count])
    layer.weight = nn.Parameter(layer.weight.detach()[:, keep].contiguous(), layer.weight.requires_grad)
    layer.in_channels = len(keep)


def least_needed(model: nn.Module, count: int, batches: Iterable[Batch], *, progress: Progress = silent) -> list[str]:
    """The ``count`` blocks that cost the least loss, chosen one after the other, names as in the given model.

    Raises:
        TargetError: the model has fewer removable blocks.
    """
    batches, chosen = list(batches), []
    places = [block.name for block in removable_blocks(model)]
    if count > len(places):
        raise TargetError(f"cannot drop {count} blocks: this model has {len(places)} removable ones")
    for step in range(count):
        losses = {
            name: mean_loss(loss_model(without_blocks(model, [*chosen, name])), batches)
            for name in places
            if name not in chosen and not any(name.startswith(one + ".") for one in chosen)
        }
        if not losses:
            raise TargetError(f"cannot drop {count} blocks: after {step} none is left")
        chosen.append(min(losses, key=lambda name: losses[name]))
        progress(f"dropped {chosen[-1]}", done=step + 1, total=count)
    return chosen
