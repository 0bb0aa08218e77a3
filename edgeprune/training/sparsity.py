"""A sparsity term on the scales of batch normalisation (network slimming, Liu et al. 2017, arXiv 1708.06519).

The penalty is the sum over prunable channels of the Euclidean norm of all scales that go with the channel. Where a
channel has one normalisation this is the L1 norm of its scale; where a shortcut ties several layers it drives the tied
scales to zero together, so that nothing has to be exempt. Which scales go together comes from the dimensions of
:class:`edgeprune.pruning.Pruner`, not from layer names.

The subgradient is added by a hook that PyTorch calls inside ``optimizer.step``
(:meth:`torch.optim.Optimizer.register_step_pre_hook`). At that moment gradients are averaged over the processes of
distributed training, unscaled and clipped, so the term is applied once, is the same on every process, and neither
scales with mixed precision nor uses up the clipping norm. A step that the scaler skips skips the term too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from ultralytics.utils.torch_utils import unwrap_model

from edgeprune.errors import StageError
from edgeprune.input_size import Size
from edgeprune.pruning.group import group_of
from edgeprune.pruning.pruner import Pruner
from edgeprune.settings import SparsitySettings


@dataclass(frozen=True)
class ScaleGroup:
    """The channels of one prunable part and where their scales lie.

    Attributes:
        name: the part.
        norms: name of each batch normalisation and the indices (channels,) of these channels in it.
    """

    name: str
    norms: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def tied(self) -> bool:
        """Whether several layers' scales belong to one channel."""
        return len(self.norms) > 1


def scale_groups(model: nn.Module, imgsz: Size, head: str = "auto") -> list[ScaleGroup]:
    """The scales of every channel that pruning may remove, part by part; parts without normalisation are left out.

    Args:
        model: unpruned.
        imgsz: of its images.
        head: which of two heads ships, as for :class:`~edgeprune.pruning.pruner.Pruner`.
    """
    pruner = Pruner(model, imgsz, head=head)
    modules = dict(model.named_modules())
    named = {id(module): name for name, module in modules.items()}
    groups = []
    for dimension in pruner.dimensions:
        if dimension.fixed is not None:
            continue
        for part in dimension.parts:
            group = group_of(pruner.structure, modules, part, gradients=None, generator=torch.Generator())
            norms = tuple(
                (named[id(slot.module)], tuple(column.tolist()))
                for slot in group.slots
                if slot.is_norm and isinstance(slot.module, nn.BatchNorm2d)
                for column in slot.positions.T
            )
            if norms:
                groups.append(ScaleGroup(part.name, norms))
    if not groups:
        raise StageError("no prunable channel of this model has a batch normalisation, so there is nothing to sparsify")
    return groups


class SparsityTerm:
    """Adds the penalty's subgradient to the gradients of an optimizer just before each of its steps.

    Args:
        model: the model whose parameters the optimizer holds.
        groups: as :func:`scale_groups` gives them.
        settings: how hard to push.
        progress: called at every step, gives the epoch from 0 and the number of epochs.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[ScaleGroup],
        settings: SparsitySettings,
        progress: Callable[[], tuple[int, int]],
    ) -> None:
        self.settings = settings
        self.progress = progress
        modules: Mapping[str, Any] = dict(model.named_modules())
        self.groups = [
            [
                (modules[name], torch.tensor(indices, device=modules[name].weight.device))
                for name, indices in group.norms
            ]
            for group in groups
            if not (group.tied and settings.tied == "exempt")
        ]

    def __call__(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """The hook; its signature is PyTorch's."""
        factor = self.settings.factor(*self.progress())
        for norms in self.groups:
            self._push([(norm.weight, at) for norm, at in norms], self.settings.strength * factor)
            if self.settings.bias_strength:
                self._push([(norm.bias, at) for norm, at in norms], self.settings.bias_strength * factor)

    @staticmethod
    @torch.no_grad()
    def _push(parameters: list[tuple[nn.Parameter, torch.Tensor]], strength: float) -> None:
        values = torch.stack([parameter[at] for parameter, at in parameters])
        direction = values / values.norm(dim=0).clamp_min(torch.finfo(values.dtype).tiny)  # 0 where all are 0
        for (parameter, at), push in zip(parameters, direction, strict=True):
            if parameter.grad is not None:
                parameter.grad.index_add_(0, at, push, alpha=strength)


class AttachSparsity:
    """Ultralytics callback for ``on_pretrain_routine_end``: hooks the term into the trainer's optimizer.

    A class of an importable module with plain attributes, so that distributed training can hand it to its processes.
    """

    def __init__(self, groups: Sequence[ScaleGroup], settings: SparsitySettings) -> None:
        self.groups = list(groups)
        self.settings = settings

    def __call__(self, trainer: Any) -> None:
        model = unwrap_model(trainer.model)
        learner: Any = getattr(model, "student_model", model)
        term = SparsityTerm(learner, self.groups, self.settings, lambda: (trainer.epoch, trainer.epochs))
        trainer.optimizer.register_step_pre_hook(term)
