"""Checkpoints that other pruners left with classes of their own, made stock: equal outputs, nothing of the file runs.

Torch-Pruning's YOLO example, and what was built on it, replaces the convolution in front of a split by two
(``C2f_v2``, ``PrunableC2f``: ``cv0`` and ``cv1``), or splits it at widths of its own (``C2f_infer``: ``c1`` and
``c2``), so that both halves can be pruned apart. A stock block has one convolution and equal halves. The two are
joined here, and the narrower half is filled up with channels that are zero and that nothing reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.nn.modules import block as blocks
from ultralytics.nn.modules.conv import Conv

from edgeprune.checkpoint import load, named_globals, parameter_count, require_running, save, shape_signature
from edgeprune.errors import DamagedError, DataError, StageError, first_line
from edgeprune.options import output_file_with_folder, refuse_source
from edgeprune.unpickle import split_block_of

STOCK = ("C2f", "C3k2", "C2fCIB", "C2fPSA", "C2PSA", "RepNCSPELAN4")
TOLERANCE = 1e-5  # relative to the largest output of a block


@dataclass(frozen=True)
class Adoption:
    """What :func:`adopt` did.

    Attributes:
        model: of stock classes.
        blocks: name of every block that was changed, to the class it had.
        filled: channels of zeros that were added to even out halves, by block.
        parameters: before and after.
    """

    model: nn.Module
    blocks: dict[str, str]
    filled: dict[str, int]
    parameters: tuple[int, int]


def adopt(weights: Path | str, output: Path | str | None = None) -> Adoption:
    """Make a checkpoint stock whose split blocks have classes of another pruner.

    Args:
        weights: the checkpoint; its own code is neither needed nor run.
        output: the stock checkpoint to write; nothing is written when None.

    Raises:
        TargetError: the output is the checkpoint itself, or cannot be written.
        DataError: unreadable, stock already, or with classes that are not known here.
        StageError: halves that cannot be evened out without changing an output.
    """
    if output is not None:
        output_file_with_folder(output)
    refuse_source(output, weights)
    aliases = _aliases(named_globals(weights))
    if not aliases:
        _refuse_damaged(weights)
        raise DataError(
            f"{weights} holds no split block of another pruner, which are {', '.join(f'{name}_v2' for name in STOCK)}; "
            "if it loads, it needs no adopting"
        )
    checkpoint = load(weights, aliases=aliases)
    model, before = checkpoint.model, parameter_count(checkpoint.model)
    found, filled = {}, {}
    for name, block in _foreign_blocks(model):
        found[name] = _class_of(block, aliases)
        try:
            filled[name] = _make_stock(block, name)
        except (AttributeError, TypeError, LookupError, ValueError, RuntimeError) as error:  # a part of it is missing
            raise StageError(
                f"block {name} ({found[name]}) cannot be made stock: {type(error).__name__}: {first_line(error)}; "
                "it is not as the pruner leaves it"
            ) from error
    require_running(checkpoint)
    result = Adoption(
        model, found, {name: count for name, count in filled.items() if count}, (before, parameter_count(model))
    )
    if output is not None:
        save(model, output, like=checkpoint, metadata={"shape_signature": shape_signature(model)})
    return result


def _aliases(names: Iterable[str]) -> dict[str, type]:
    """Stock classes by the names that a file has for their split forms, whatever module those lay in."""
    split = {name: split_block_of(name) for name in names}
    return {name: getattr(blocks, block) for name, block in split.items() if block in STOCK}


def _refuse_damaged(weights: Path | str) -> None:
    """Raise ``DamagedError`` for a file that is empty, cut off or no checkpoint, which names no class either."""
    try:
        load(weights)
    except DamagedError:
        raise
    except DataError:  # of classes that are neither known nor a pruner's
        return


def _foreign_blocks(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        if type(module).__name__ in STOCK and ("cv0" in module._modules or "c1" in module.__dict__):
            yield name, module


def _class_of(block: Any, aliases: dict[str, type]) -> str:
    merged = "cv0" not in block._modules
    return next(name for name, stock in aliases.items() if stock is type(block) and name.endswith("_infer") is merged)


@torch.no_grad()
def _make_stock(block: Any, name: str) -> int:
    """Join and even out the halves of a block; the number of channels that were filled in.

    Raises:
        StageError: the halves cannot be evened out, or the block's output is not what it was.
    """
    image = torch.randn(2, block.cv1.conv.in_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = _forward(block, image)
    first, second = _widths(block)
    if "cv0" in block._modules:
        block.cv1 = _joined(block.cv0, block.cv1)
        del block.cv0
    last, inner = _tail(block)
    count = abs(first - second)
    if first < second:
        _insert_outputs(block.cv1, first, count)
        _insert_inputs(last, first, count)
    elif second < first:
        _insert_outputs(block.cv1, first + second, count)
        _insert_inputs(last, first + second, count)
        _widen_chain(inner, last, first + second + count, count, name)
    block.c = max(first, second)
    for attribute in ("c1", "c2"):
        block.__dict__.pop(attribute, None)
    block.type = f"{type(block).__module__}.{type(block).__name__}"
    seen = block(image)
    if not torch.allclose(seen, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max().clamp(min=1))):
        raise StageError(f"block {name} gives other outputs once it is stock; prune the original again instead")
    return count


def _widths(block: Any) -> tuple[int, int]:
    if "cv0" in block._modules:
        return block.cv0.conv.out_channels, block.cv1.conv.out_channels
    return block.c1, block.c2


def _tail(block: Any) -> tuple[Conv, list[nn.Module]]:
    """The convolution behind the concatenation, and what works on the second half in turn."""
    if isinstance(block, blocks.RepNCSPELAN4):
        return block.cv4, [block.cv2, block.cv3]
    return block.cv2, list(block.m) if isinstance(block.m, nn.ModuleList) else [block.m]


def _forward(block: Any, image: torch.Tensor) -> torch.Tensor:
    """The output that the foreign class gives: both halves, then the second one onward."""
    if "cv0" in block._modules:
        halves = [block.cv0(image), block.cv1(image)]
    else:
        halves = list(block.cv1(image).split((block.c1, block.c2), 1))
    last, inner = _tail(block)
    if isinstance(block, blocks.C2PSA):
        return last(torch.cat((halves[0], inner[0](halves[1])), 1))
    for module in inner:
        halves.append(module(halves[-1]))
    return last(torch.cat(halves, 1))


def _joined(first: Conv, second: Conv) -> Conv:
    """One convolution whose output is that of both, one after the other."""
    _insert_outputs(first, first.conv.out_channels, second.conv.out_channels)
    for ours, theirs in zip(_tensors(first), _tensors(second), strict=True):
        ours[-theirs.shape[0] :] = theirs
    return first


def _tensors(conv: Conv) -> list[torch.Tensor]:
    """Everything that has an entry for each output channel."""
    norm: Any = getattr(conv, "bn", None)
    owners = [conv.conv.weight, conv.conv.bias]
    owners += [norm.weight, norm.bias, norm.running_mean, norm.running_var] if isinstance(norm, nn.BatchNorm2d) else []
    return [tensor.data for tensor in owners if tensor is not None]


def _insert_outputs(conv: Conv, at: int, count: int) -> None:
    """Output channels that are zero: no weight, and a normalisation that leaves zero as it is."""
    if conv.conv.groups != 1:
        raise StageError("a convolution with groups stands behind the split; prune the original again instead")
    conv.conv.weight = _with_zeros(conv.conv.weight, 0, at, count)
    if conv.conv.bias is not None:
        conv.conv.bias = _with_zeros(conv.conv.bias, 0, at, count)
    conv.conv.out_channels += count
    norm: Any = getattr(conv, "bn", None)
    if isinstance(norm, nn.BatchNorm2d):
        norm.weight, norm.bias = _with_zeros(norm.weight, 0, at, count), _with_zeros(norm.bias, 0, at, count)
        norm.running_mean = _with_zeros(norm.running_mean, 0, at, count).data
        norm.running_var = _with_zeros(norm.running_var, 0, at, count).data
        norm.running_var[at : at + count] = 1.0
        norm.num_features += count


def _insert_inputs(conv: Conv, at: int, count: int) -> None:
    """Input channels that nothing reads."""
    if conv.conv.groups != 1:
        raise StageError("a convolution with groups stands behind the split; prune the original again instead")
    conv.conv.weight = _with_zeros(conv.conv.weight, 1, at, count)
    conv.conv.in_channels += count


def _with_zeros(tensor: Any, axis: int, at: int, count: int) -> nn.Parameter:
    before, after = tensor.data.split((at, tensor.shape[axis] - at), axis)
    shape = list(tensor.shape)
    shape[axis] = count
    return nn.Parameter(torch.cat((before, tensor.data.new_zeros(shape), after), axis))


def _widen_chain(inner: list[nn.Module], last: Conv, at: int, count: int, name: str) -> None:
    """Let the blocks behind the second half take ``count`` more channels of zeros at their end.

    A block that adds its input to its output gets wider at both ends, and so does what follows it.

    Args:
        at: where the output of the first block begins in what ``last`` reads.
    """
    for module in inner:
        if not _widen(module, count, name):
            return
        at += _outputs(module) - count
        _insert_inputs(last, at, count)
        at += count


def _outputs(module: Any) -> int:
    if isinstance(module, nn.Sequential):
        return _outputs(module[-1])
    if isinstance(module, blocks.C3):
        return module.cv3.conv.out_channels
    return module.cv2.conv.out_channels if isinstance(module, blocks.Bottleneck) else module.conv.out_channels


def _widen(module: Any, count: int, name: str) -> bool:
    """Widen the input of a block by channels that it does not read; whether its output got wider too."""
    if isinstance(module, blocks.Bottleneck) and isinstance(module.cv1, Conv):
        _insert_inputs(module.cv1, module.cv1.conv.in_channels, count)
        if module.add:
            _insert_outputs(module.cv2, module.cv2.conv.out_channels, count)
        return module.add
    if isinstance(module, blocks.C3):  # C3k and RepNCSP too: two branches read the input, nothing adds it
        for branch in (module.cv1, module.cv2):
            _insert_inputs(branch, branch.conv.in_channels, count)
        return False
    if isinstance(module, nn.Sequential) and isinstance(module[0], blocks.C3):
        return _widen(module[0], count, name)
    raise StageError(
        f"block {name}: its halves are unequal and {type(module).__name__} behind the narrower one cannot be widened; "
        "prune the original again with edgeprune prune"
    )
