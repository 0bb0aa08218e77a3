"""A pruner of somebody else, whose split blocks have classes of their own; only their files outlive it."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import nn
from ultralytics.nn.modules import block as blocks
from ultralytics.nn.modules.conv import Conv
from ultralytics.nn.tasks import DetectionModel


class TwoBranches(nn.Module):
    """A split block as Torch-Pruning's example rewrites it: a convolution for each half."""

    def forward(self, x):
        y = [self.cv0(x), self.cv1(x)]
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class TwoBranchesAttention(TwoBranches):
    def forward(self, x):
        return self.cv2(torch.cat((self.cv0(x), self.m(self.cv1(x))), 1))


class TwoWidths(nn.Module):
    """The same merged again, split where the halves now end."""

    def forward(self, x):
        y = list(self.cv1(x).split((self.c1, self.c2), 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


BASES = {
    **dict.fromkeys(("C2f_v2", "C3k2_v2", "C2fCIB_v2", "PrunableC2f"), TwoBranches),
    "C2PSA_v2": TwoBranchesAttention,
    **dict.fromkeys(("C2f_infer", "C3k2_infer"), TwoWidths),
}


@contextmanager
def their_pruner() -> Iterator[ModuleType]:
    """Their module, which can be imported as long as this lasts."""
    module = ModuleType("their_pruner")
    for name, base in BASES.items():
        setattr(module, name, type(name, (base,), {"__module__": "their_pruner"}))
    sys.modules["their_pruner"] = module
    try:
        yield module
    finally:
        sys.modules.pop("their_pruner", None)


def part_of(conv: Conv, keep: list[int]) -> Conv:
    """A copy of a convolution with these output channels."""
    copied = copy.deepcopy(conv)
    copied.conv.weight = nn.Parameter(conv.conv.weight.data[keep])
    copied.conv.out_channels = copied.bn.num_features = len(keep)
    for name in ("weight", "bias"):
        setattr(copied.bn, name, nn.Parameter(getattr(conv.bn, name).data[keep]))
    for name in ("running_mean", "running_var"):
        setattr(copied.bn, name, getattr(conv.bn, name)[keep])
    return copied


def reads(conv: Conv, keep: list[int]) -> None:
    """Let a convolution read these input channels only."""
    conv.conv.weight = nn.Parameter(conv.conv.weight.data[:, keep])
    conv.conv.in_channels = len(keep)


def split(block, module: ModuleType, first: int, second: int, infer: bool = False, name: str = ""):
    """A block in their form with ``first`` and ``second`` channels of its halves left; ``name``: of its class."""
    name = name or type(block).__name__ + ("_infer" if infer else "_v2")
    theirs = getattr(module, name)()
    theirs.__dict__.update({key: value for key, value in block.__dict__.items() if not key.startswith("_")})
    c, inner = block.c, copy.deepcopy(block.m)
    ones, twos = list(range(first)), list(range(c, c + second))
    width = block.cv2.conv.in_channels
    theirs.cv2 = copy.deepcopy(block.cv2)
    kept = ones + twos + list(range(2 * c, width))
    if infer:
        theirs.cv1, theirs.c1, theirs.c2 = part_of(block.cv1, ones + twos), first, second
    else:
        theirs.cv0, theirs.cv1 = part_of(block.cv1, ones), part_of(block.cv1, twos)
    if second < c:  # what works on the second half gets narrower, along every sum
        position = 2 * c
        for module_ in inner:
            if isinstance(module_, blocks.C3):
                reads(module_.cv1, list(range(second)))
                reads(module_.cv2, list(range(second)))
                break
            reads(module_.cv1, list(range(second)))
            if not module_.add:
                break
            module_.cv2 = part_of(module_.cv2, list(range(second)))
            kept = [k for k in kept if not position + second <= k < position + c]
            position += c
    theirs.m = inner
    reads(theirs.cv2, kept)
    return theirs


def their_checkpoint(path, family: str, module: ModuleType, widths, infer: bool = False, name: str = ""):
    """Write a checkpoint with the blocks of ``widths`` in their form; gives an image and their outputs for it."""
    torch.manual_seed(0)
    model = DetectionModel(f"{family}n.yaml", nc=3, verbose=False)
    model.names = {0: "a", 1: "b", 2: "c"}
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.normal_(0, 0.2)
        norm.running_mean.normal_(0, 0.2)
    model.eval()
    for index, (first, second) in widths.items():
        block = model.model[index]
        model.model[index] = split(block, module, round(block.c * first), round(block.c * second), infer, name)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        outputs = model(image)[0]
    torch.save({"model": model, "train_args": {"imgsz": 64}}, path)
    return image, outputs
