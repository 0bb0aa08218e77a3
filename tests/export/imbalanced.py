"""A model that says the same in float and is hard to quantise: channels rescaled where only linear layers follow.

The trick of cross-layer equalisation turned round: a channel is multiplied by s where it is made and divided by s where
it is read. That is exact behind a convolution without an activation: in SPPF (a maximum commutes with s > 0) and for
the values of an attention block. Powers of two keep every bit of a float; one scale a tensor then serves a few
channels and rounds the others to zero. The logits of a side's distance get a constant, which their softmax takes away
again; an 8-bit scale that covers it has nothing left for their differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ultralytics.nn.modules.block import SPPF, Attention
from ultralytics.nn.modules.head import Detect


def imbalanced(model: Any, octaves: int = 5, seed: int = 0) -> list[str]:
    """Rescale channels in place by powers of two from 2**-octaves to 2**octaves; names of the layers that changed."""
    rng, names = np.random.default_rng(seed), []
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, SPPF) and isinstance(module.cv1.act, torch.nn.Identity):
                scale = _powers(rng, module.cv1.conv.out_channels, octaves)
                _scale_outputs(module.cv1, range(len(scale)), scale)
                module.cv2.conv.weight.div_(scale.repeat(module.n + 1)[None, :, None, None])
                names += [f"{name}.cv1", f"{name}.cv2"]
            elif isinstance(module, Attention):
                scale = _powers(rng, module.num_heads * module.head_dim, octaves)
                block = 2 * module.key_dim + module.head_dim
                rows = [
                    head * block + 2 * module.key_dim + index
                    for head in range(module.num_heads)
                    for index in range(module.head_dim)
                ]
                _scale_outputs(module.qkv, rows, scale)
                module.pe.bn.running_mean.mul_(scale)  # a depthwise convolution hands the scale on by itself
                module.pe.bn.bias.mul_(scale)
                module.proj.conv.weight.div_(scale[None, :, None, None])
                names += [f"{name}.qkv", f"{name}.pe", f"{name}.proj"]
            elif isinstance(module, Detect) and module.reg_max > 1:
                for level, branch in enumerate(module.cv2):
                    shift = 4 * rng.integers(-(2**octaves), 2**octaves + 1, 4)
                    branch[-1].bias.add_(torch.tensor(shift, dtype=torch.float32).repeat_interleave(module.reg_max))
                    names.append(f"{name}.cv2.{level}.2")
    return names


def _scale_outputs(layer: Any, rows: Sequence[int], scale: torch.Tensor) -> None:
    layer.bn.weight[list(rows)] *= scale
    layer.bn.bias[list(rows)] *= scale


def _powers(rng: np.random.Generator, count: int, octaves: int) -> torch.Tensor:
    return torch.tensor(2.0 ** rng.integers(-octaves, octaves + 1, count), dtype=torch.float32)
