"""Removal of whole blocks, where the stock class allows a shorter list: fewer kernel launches."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgeprune.errors import TargetError
from edgeprune.progress import Progress, silent
from edgeprune.pruning.batches import Batch
from edgeprune.pruning.loss import loss_model, mean_loss

# Blocks whose list ``m`` is a chain, each output also concatenated into ``cv2`` behind what ``cv1`` gives.
_CONCATENATED = {"C2f", "C3k2", "C2fCIB", "C2fPSA", "A2C2f"}
# Blocks whose ``m`` is a plain chain.
_CHAINED = {"C2", "C3", "C3k", "C2PSA", "RepCSP", "RepC3", "C3x"}
# The last convolution of what stands in such lists: its width is the block's output.
_LAST = {"Bottleneck": "cv2", "RepBottleneck": "cv2", "C3k": "cv3", "CIB": "cv1", "PSABlock": "ffn", "ABlock": "mlp"}


@dataclass(frozen=True)
class RemovableBlock:
    """A block that can go.

    Attributes:
        chain: qualified name of the list that it stands in.
        index: its place in that list.
        kind: its class.
        width: channels of its input and output alike.
        concatenated: whether its output also goes into the ``cv2`` of the block that owns the list.
    """

    chain: str
    index: int
    kind: str
    width: int
    concatenated: bool

    @property
    def name(self) -> str:
        """Qualified name of the block."""
        return f"{self.chain}.{self.index}"


def removable_blocks(model: nn.Module) -> list[RemovableBlock]:
    """Every block that can be dropped so that the stock forward pass stays valid, in order of execution."""
    blocks: list[RemovableBlock] = []
    for name, module in model.named_modules():
        kind = type(module).__name__
        chain = getattr(module, "m", None)
        if kind in _CONCATENATED and isinstance(chain, nn.ModuleList):
            blocks += _removable_items(f"{name}.m", chain, _chain_input_width(module), concatenated=True)
            for i, item in enumerate(chain):
                if isinstance(item, nn.Sequential) and len({type(inner) for inner in item}) == 1:
                    width = _output_width(item[0])
                    blocks += _removable_items(f"{name}.m.{i}", item, width, concatenated=False)
        elif kind in _CHAINED and isinstance(chain, nn.Sequential):
            blocks += _removable_items(f"{name}.m", chain, _chain_input_width(module), concatenated=False)
    return blocks


def _removable_items(name: str, chain: Any, width: int, concatenated: bool) -> Iterator[RemovableBlock]:
    """Items whose successors can read what they read: input and output equally wide."""
    before = width
    for i, item in enumerate(chain):
        after = _output_width(item)
        if after and after == before:
            yield RemovableBlock(name, i, type(item).__name__, after, concatenated)
        before = after


def _chain_input_width(module: Any) -> int:
    outputs = module.cv1.conv.out_channels
    halved = type(module).__name__ in ("C2", "C2f", "C3k2", "C2fCIB", "C2fPSA", "C2PSA")
    return outputs // 2 if halved else outputs


def _output_width(item: Any) -> int:
    """Width of a block's output, 0 when unknown."""
    if isinstance(item, nn.Sequential):
        return _output_width(item[-1]) if len(item) else 0
    if type(item).__name__ == "Conv":
        return item.conv.out_channels
    last = getattr(item, _LAST.get(type(item).__name__, ""), None)
    return _output_width(last) if last is not None else 0


def remove_blocks(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """A new model without the named blocks; the given one is not touched.

    The columns of ``cv2`` that read a dropped block go with it; the next block of the chain reads the previous one.

    Raises:
        TargetError: a name is not a removable block; lists those that are.
    """
    known = {block.name: block for block in removable_blocks(model)}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise TargetError(f"'{unknown[0]}' is not a removable block; this model has {', '.join(known) or 'none'}")
    result: Any = copy.deepcopy(model)
    dropped = [known[name] for name in set(names) if not _inside(name, names)]
    # inner lists first (longer names), last items first, so that neither names nor indices move
    for block in sorted(dropped, key=lambda block: (-block.name.count("."), block.chain, -block.index)):
        chain = result.get_submodule(block.chain)
        owner, _, attribute = block.chain.rpartition(".")
        if block.concatenated:
            parent = result.get_submodule(block.chain.rpartition(".m")[0])
            start = parent.cv1.conv.out_channels + sum(_output_width(item) for item in chain[: block.index])
            _drop_columns(parent.cv2.conv, start, _output_width(chain[block.index]))
        left = [item for i, item in enumerate(chain) if i != block.index]
        shorter = nn.ModuleList(left) if isinstance(chain, nn.ModuleList) else nn.Sequential(*left)
        result.get_submodule(owner)._modules[attribute] = shorter
    return result


def _inside(name: str, blocks: Iterable[str]) -> bool:
    """Whether a block lies inside another one."""
    return any(name.startswith(f"{block}.") for block in blocks)


def _drop_columns(layer: nn.Conv2d, start: int, count: int) -> None:
    keep = torch.tensor([i for i in range(layer.in_channels) if not start <= i < start + count])
    layer.weight = nn.Parameter(layer.weight.detach()[:, keep].contiguous(), layer.weight.requires_grad)
    layer.in_channels = len(keep)


def least_important_blocks(
    model: nn.Module, count: int, batches: Iterable[Batch], *, head: str = "auto", progress: Progress = silent
) -> list[str]:
    """The ``count`` blocks that cost the least loss, chosen one after the other, names as in the given model.

    Raises:
        TargetError: the model has fewer removable blocks.
    """
    batches, chosen = list(batches), []
    names = [block.name for block in removable_blocks(model)]
    if count > len(names):
        raise TargetError(f"cannot drop {count} blocks: this model has {len(names)} removable ones")
    for step in range(count):
        losses = {
            name: mean_loss(loss_model(remove_blocks(model, [*chosen, name]), head), batches)
            for name in names
            if name not in chosen and not _inside(name, chosen)
        }
        if not losses:
            raise TargetError(f"cannot drop {count} blocks: after {step} none is left")
        chosen.append(min(losses, key=lambda name: losses[name]))
        progress(f"dropped {chosen[-1]}", done=step + 1, total=count)
    return chosen
