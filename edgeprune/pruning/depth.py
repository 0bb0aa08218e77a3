"""Removal of whole blocks, where the stock class allows a shorter list: fewer kernel launches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune.errors import StageError, TargetError
from edgeprune.options import named
from edgeprune.progress import Progress, silent
from edgeprune.pruning import equivalence
from edgeprune.pruning.batches import Batch
from edgeprune.pruning.copies import copy_sharing_weights
from edgeprune.pruning.loss import loss_model, mean_loss
from edgeprune.pruning.structure import Constraints, glob_matches

# Blocks whose list ``m`` is a chain, each output also concatenated into ``cv2`` behind what ``cv1`` gives.
_CONCATENATED = {"C2f", "C3k2", "C2fCIB", "C2fPSA", "A2C2f"}
# Blocks whose ``m`` is a plain chain.
_CHAINED = {"C2", "C3", "C3k", "C2PSA", "RepCSP", "RepC3", "C3x"}
# The last convolution of what stands in such lists: its width is the block's output.
_LAST = {"Bottleneck": "cv2", "RepBottleneck": "cv2", "C3k": "cv3", "CIB": "cv1", "PSABlock": "ffn", "ABlock": "mlp"}

BLOCK_IMAGES = 8  # that a block's loss is measured on: it has to rank a few blocks, not thousands of channels


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

    @property
    def owner(self) -> str:
        """Qualified name of the block whose ``m`` is the list, or holds it."""
        return self.chain.rpartition(".m")[0]


def removable_blocks(model: nn.Module, constraints: Constraints | None = None) -> list[RemovableBlock]:
    """Every block that can be dropped so that the stock forward pass stays valid, in order of execution.

    Args:
        model: whose blocks.
        constraints: of a user; a block that ``ignore`` or ``max_ratio`` names a convolution of is left out, for to
            drop it is to remove all of that convolution's channels.
    """
    blocks: list[RemovableBlock] = []
    for name, module in model.named_modules():
        kind = type(module).__name__
        chain = getattr(module, "m", None)
        if kind in _CONCATENATED and isinstance(chain, nn.ModuleList):
            width = _chain_input_width(module)
            blocks += _removable_items(f"{name}.m", chain, width, concatenated=True)
            inputs = [width, *_item_widths(chain, width)]
            for i, item in enumerate(chain):
                if isinstance(item, nn.Sequential) and len({type(inner) for inner in item}) == 1:
                    blocks += _removable_items(f"{name}.m.{i}", item, inputs[i], concatenated=False)
        elif kind in _CHAINED and isinstance(chain, nn.Sequential):
            blocks += _removable_items(f"{name}.m", chain, _chain_input_width(module), concatenated=False)
    globs = (*constraints.ignore, *constraints.max_ratio) if constraints is not None else ()
    return [block for block in blocks if not _named(globs, model, block)] if globs else blocks


def _named(globs: Sequence[str], model: nn.Module, block: RemovableBlock) -> bool:
    """Whether a glob names a layer of a block that puts channels out."""
    makers = [
        f"{block.name}.{name}"
        for name, module in model.get_submodule(block.name).named_modules()
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))
    ]
    return any(glob_matches(glob, makers) for glob in globs)


def _removable_items(name: str, chain: Any, width: int, concatenated: bool) -> Iterator[RemovableBlock]:
    """Items whose successors can read what they read: input and output equally wide."""
    before = width
    for i, (item, after) in enumerate(zip(chain, _item_widths(chain, width), strict=True)):
        if not after and concatenated:
            return  # where the columns of whatever comes behind it begin is unknown
        if after and after == before:
            yield RemovableBlock(name, i, type(item).__name__, after, concatenated)
        before = after


def _item_widths(chain: Any, width: int) -> list[int]:
    """Width of every item's output, 0 where unknown; an item that lost all of its blocks hands on what it reads.

    Args:
        chain: the items.
        width: of what the first one reads.
    """
    widths: list[int] = []
    for item in chain:
        empty = isinstance(item, nn.Sequential) and len(item) == 0
        widths.append(([width, *widths])[-1] if empty else _output_width(item))
    return widths


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
    """A new model without the named blocks, to look at or to copy: it shares the weights that stay as they are.

    The given one is not touched. The columns of ``cv2`` that read a dropped block go with it; the next block of the
    chain reads the previous one. The outputs of every block that lost some are compared with those that it gives when
    each of these hands on what it reads, and zeros stand in place of its output in front of ``cv2``.

    Raises:
        TargetError: a name is not a removable block; lists those that are.
        StageError: the outputs differ.
    """
    known = {block.name: block for block in removable_blocks(model)}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise TargetError(f"'{unknown[0]}' is not a removable block; this model has {', '.join(known) or 'none'}")
    result: Any = copy_sharing_weights(model)
    dropped = [known[name] for name in set(names) if not is_inside(name, names)]
    # inner lists first (longer names), last items first, so that neither names nor indices move
    for block in sorted(dropped, key=lambda block: (-block.name.count("."), block.chain, -block.index)):
        chain = result.get_submodule(block.chain)
        owner, _, attribute = block.chain.rpartition(".")
        if block.concatenated:
            given: Any = model.get_submodule(block.owner)  # its items still have their widths
            ahead = _item_widths(given.m, _chain_input_width(given))[: block.index]
            parent = result.get_submodule(block.owner)
            _drop_columns(parent.cv2.conv, given.cv1.conv.out_channels + sum(ahead), block.width)
        left = [item for i, item in enumerate(chain) if i != block.index]
        shorter = nn.ModuleList(left) if isinstance(chain, nn.ModuleList) else nn.Sequential(*left)
        result.get_submodule(owner)._modules[attribute] = shorter
    _require_equal(model, result, dropped)
    return result


@torch.no_grad()
def _require_equal(model: nn.Module, result: nn.Module, dropped: Sequence[RemovableBlock]) -> None:
    """Raise StageError unless the blocks that own the dropped ones are what they are in the given model when the
    dropped ones do nothing.

    The widths of what is concatenated are read off a forward pass here, not off the layers. Noise goes through the
    owners alone: it is quick, and further layers would blur what a wrong column changes.
    """
    owners = {block.owner for block in dropped}
    for name in sorted(owner for owner in owners if not is_inside(owner, owners)):
        within = [block for block in dropped if is_inside(block.name, [name])]
        whole, left = (_in_float32(one.get_submodule(name)) for one in (model, result))
        concatenated: dict[str, set[int]] = {}
        for block in within:
            if block.concatenated:
                concatenated.setdefault(block.owner, set()).add(block.index)
        for owner, indices in concatenated.items():
            _zero_outputs(whole.get_submodule(owner[len(name) + 1 :]), indices)
        for block in within:
            whole.get_submodule(block.name[len(name) + 1 :]).forward = _handed_on
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(1, whole.cv1.conv.in_channels, 8, 8, generator=generator).to(whole.cv1.conv.weight)
        with equivalence.single_thread():
            error = equivalence.largest_difference([whole(noise)], [left(noise)])
        if not error <= equivalence.LARGEST_ERROR:
            raise StageError(
                f"without {', '.join(sorted(block.name for block in within))} the outputs of {name} are not those of "
                f"it when these do nothing: they differ by {error:.1e} (allowed {equivalence.LARGEST_ERROR})"
            )


def _in_float32(block: nn.Module) -> Any:
    """A copy in evaluation mode; with weights of its own only where they are of another type."""
    if all(tensor.dtype == torch.float32 for tensor in block.parameters()):
        return copy_sharing_weights(block).eval()
    return copy.deepcopy(block).float().eval()


def _handed_on(value: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return value


def _zero_outputs(owner: Any, indices: set[int]) -> None:
    """Put zeros in place of some items' outputs where ``cv2`` reads them, nowhere else."""
    widths: dict[int, int] = {}
    for i, item in enumerate(owner.m):
        item.register_forward_hook(lambda module, inputs, output, i=i: widths.__setitem__(i, output.shape[1]))

    def zero(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        value = inputs[0].clone()
        end = value.shape[1]
        for i in sorted(widths, reverse=True):  # the items' outputs are the last of what is concatenated
            if i in indices:
                value[:, end - widths[i] : end] = 0
            end -= widths[i]
        return (value,)

    owner.cv2.register_forward_pre_hook(zero)


def original_names(model: nn.Module, removed: Sequence[str]) -> Callable[[str], str]:
    """A function from names in a model without some blocks to the names that they had before; blocks behind a removed
    one move up in their list."""
    gone: dict[str, set[int]] = {}
    for name in removed:
        owner, _, index = name.rpartition(".")
        gone.setdefault(owner, set()).add(int(index))
    left = {
        owner: [i for i in range(len(list(model.get_submodule(owner).children()))) if i not in indices]
        for owner, indices in gone.items()
    }

    def back(name: str) -> str:
        parts: list[str] = []
        for part in name.split("."):
            indices = left.get(".".join(parts))
            number, mark, rest = part.partition("#")
            parts.append(f"{indices[int(number)]}{mark}{rest}" if indices is not None else part)
        return ".".join(parts)

    return back


def is_inside(name: str, blocks: Iterable[str]) -> bool:
    """Whether a block lies inside one of these."""
    return any(name.startswith(f"{block}.") for block in blocks)


def _drop_columns(layer: nn.Conv2d, start: int, count: int) -> None:
    keep = torch.tensor([i for i in range(layer.in_channels) if not start <= i < start + count])
    layer.weight = nn.Parameter(layer.weight.detach()[:, keep].contiguous(), layer.weight.requires_grad)
    layer.in_channels = len(keep)


def least_important_blocks(
    model: nn.Module,
    count: int,
    batches: Iterable[Batch],
    *,
    constraints: Constraints | None = None,
    head: str = "auto",
    progress: Progress = silent,
) -> list[str]:
    """The ``count`` blocks that cost the least loss, chosen one after the other, names as in the given model.

    None lies in another one: a block that is chosen after some inside it takes their place, and the choice goes on. The
    loss is that on :data:`BLOCK_IMAGES` images: every choice tries all blocks that are left.

    Args:
        model: whose blocks.
        count: how many.
        batches: labelled batches; the loss is measured on a few that are spread over them.
        constraints: see :func:`removable_blocks`.
        head: see :func:`~edgeprune.pruning.loss.loss_model`.
        progress: called as the work moves.

    Raises:
        TargetError: a count below 0, or the model has fewer removable blocks.
    """
    batches = few_batches(list(batches))
    chosen: list[str] = []
    names = [block.name for block in removable_blocks(model, constraints)]
    innermost = _innermost(names)
    if count < 0:
        raise TargetError(f"the blocks to drop are counted from 0 (seen: {count})")
    if count > len(innermost):
        kept = len(_innermost([block.name for block in removable_blocks(model)])) - len(innermost)
        beside = f" beside {kept} that {named('ignore')} and {named('max_ratio')} keep" if kept > 0 else ""
        raise TargetError(f"cannot drop {count} blocks: this model has {len(innermost)} removable ones{beside}")
    while len(chosen) < count:
        trials: dict[str, list[str]] = {}
        for name in names:
            taken = with_block(chosen, name)
            left = sum(one not in taken and not is_inside(one, taken) for one in innermost)
            if name not in chosen and not is_inside(name, chosen) and len(taken) + left >= count:
                trials[name] = taken
        losses: dict[str, float] = {}
        for number, (name, taken) in enumerate(trials.items()):
            progress(f"block {len(chosen) + 1} of {count}: loss without {name}", done=number, total=len(trials))
            losses[name] = mean_loss(loss_model(remove_blocks(model, taken), head, own_weights=False), batches)
        best = min(losses, key=lambda name: losses[name])
        chosen = with_block(chosen, best)
        progress(f"dropped {best}", done=len(trials), total=len(trials))
    return chosen


def few_batches(batches: Sequence[Batch], images: int = BLOCK_IMAGES) -> list[Batch]:
    """As few batches as hold so many images together, spread over those given; all where these hold fewer."""
    for count in range(1, len(batches)):
        few = [batches[place] for place in np.linspace(0, len(batches) - 1, count).round().astype(int)]
        if sum(len(batch.images) for batch in few) >= images:
            return few
    return list(batches)


def with_block(chosen: Sequence[str], name: str) -> list[str]:
    """Blocks with one more, in whose place those inside it stood."""
    return [*(one for one in chosen if not is_inside(one, [name])), name]


def _innermost(names: Sequence[str]) -> list[str]:
    """Blocks that no other one lies in: as many as can go side by side."""
    return [name for name in names if not any(is_inside(other, [name]) for other in names)]
