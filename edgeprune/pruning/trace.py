"""Follow every channel of a model through one forward pass of no images: every shape, no arithmetic.

Each channel of each feature map carries a label, an integer. A convolution consumes the labels of its input and gives
fresh ones; a normalisation or an activation passes them on; an addition says that two labels are one; a concatenation
joins them; a split cuts them. What cannot be followed pins its labels: those channels are never pruned. So the result
is sound for any block, whether it was known when this was written or not, and no block has to be rewritten first.
Chunked blocks and attention, where tracing autograd graphs goes wrong, need nothing special but the rules below.

A batch of no images serves better than meta tensors: torch's meta kernels bring in its symbolic shapes and SymPy, which
cost more time and memory than all of the pruning of a small model.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from edgeprune.checkpoint import refuse_foreign_classes
from edgeprune.errors import StageError
from edgeprune.pruning.channels import Cost, Labels, Split, Trace
from edgeprune.pruning.rules import ATTENTION, splits_by_attribute

_LABELS, _STACK = "edgeprune_labels", "edgeprune_stack"  # attributes of the tensors that flow

# Operations f with f(0) = 0, one channel in, the same channel out: a removed channel stays exactly zero behind them.
_PASS = {
    "silu", "relu", "relu_", "leaky_relu", "hardswish", "mish", "gelu", "elu", "tanh", "hardtanh", "relu6", "selu",
    "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "interpolate", "dropout",
    "contiguous", "clone", "detach", "float", "half", "to", "type", "requires_grad_", "neg",
}  # fmt: skip
_SUM = {"add", "iadd", "radd", "sub", "isub", "rsub", "add_", "sub_"}
_PRODUCT = {"mul", "imul", "rmul", "div", "truediv", "itruediv", "mul_", "div_"}


def twin_of(model: nn.Module) -> nn.Module:
    """A copy of a model's structure that shares its parameters and buffers."""
    memo: dict[int, Any] = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    criterion = getattr(model, "criterion", None)
    if criterion is not None:
        memo[id(criterion)] = None
    return copy.deepcopy(model, memo)


def raw_head(model: nn.Module) -> nn.Module:
    """Put a model into the state every check here runs in: evaluation, but the head returns its raw maps.

    The raw maps hold both branches of a dual head and exist before anything is decoded or sorted.
    """
    model.eval()
    head_of(model).training = True
    return model


def head_of(model: Any) -> Any:
    """The last block of an Ultralytics model."""
    return model.model[-1]


def input_channels(model: nn.Module) -> int:
    """Channels of the image that the first convolution reads."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    raise StageError("the model has no convolution, so there is nothing to prune")


def trace(model: nn.Module, imgsz: int) -> Trace:
    """Trace a model for square images of ``imgsz`` pixels, batch 1.

    Raises:
        StageError: a block is not one of Ultralytics' or torch's own, or the forward pass failed; names the block.
    """
    refuse_foreign_classes(model)
    twin = raw_head(twin_of(model))
    follower = _Follower(twin)
    image = next(model.parameters()).new_empty(0, input_channels(model), imgsz, imgsz)
    channels = follower.trace.fresh(image.shape[1])
    follower.label(image, channels)
    follower.trace.pin(channels, "the input image")
    try:
        with follower.watching(twin), torch.no_grad(), follower:
            output = twin(image)
    except StageError:
        raise
    except Exception as error:
        where = follower.where()
        raise StageError(
            f"block {where} cannot be traced at {imgsz} px: {type(error).__name__}: {str(error).splitlines()[0]}"
        ) from error
    for tensor in _features(output):
        labels = follower.of(tensor)
        if labels is not None:
            follower.trace.pin(labels, "an output of the model")
    return follower.trace


def _features(output: Any) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, Mapping):
        for key, value in output.items():
            if key != "feats":  # the head's inputs, handed on for their shapes only
                yield from _features(value)
    elif isinstance(output, (list, tuple)):
        for value in output:
            yield from _features(value)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _sized(x: torch.Tensor, *shape: Any) -> tuple[Any, ...]:
    """Arguments of ``view`` with the -1 worked out, which torch does not do for a tensor of no elements."""
    sizes = list(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else list(shape)
    if x.numel() == 0 and sizes.count(-1) == 1 and sizes[0] == 0:
        others = math.prod(size for size in sizes[1:] if size != -1)
        sizes[sizes.index(-1)] = math.prod(x.shape[1:]) // others
        return x, *sizes
    return x, *shape


class _Follower(TorchFunctionMode):
    """Sees every torch function of the forward pass and moves labels along."""

    def __init__(self, twin: nn.Module) -> None:
        super().__init__()
        self.trace = Trace()
        self.modules: dict[str, nn.Module] = dict(twin.named_modules())
        self.owners = {
            id(parameter): (name, key)
            for name, module in twin.named_modules()
            for key, parameter in module.named_parameters(recurse=False)
        }
        self.stack: list[str] = [""]
        self.inside_attention = 0

    # labels live on the tensor objects themselves, so they die with them
    def label(self, tensor: torch.Tensor, labels: Labels | None) -> None:
        if labels is not None:
            setattr(tensor, _LABELS, labels)

    def of(self, value: Any) -> Labels | None:
        return getattr(value, _LABELS, None) if isinstance(value, torch.Tensor) else None

    def where(self) -> str:
        """Class and name of the innermost composite block that runs."""
        name = self.stack[-1]
        return f"{type(self.modules[name]).__name__} ({name or 'the model'})"

    def watching(self, twin: nn.Module) -> _Hooks:
        return _Hooks(self, twin)

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func)).strip("_")
        result = func(*(_sized(*args) if name in ("view", "reshape") else args), **kwargs)
        if name == "get" or not any(True for _ in _tensors(result)):
            if name == "get" and isinstance(result, torch.Tensor) and self.of(result) is None:
                self._lose(args, name)  # .data, .T and the like
            return result
        handler = getattr(self, f"_on_{name}", None)
        if handler is not None:
            handler(result, *args, **kwargs)
        elif name in _PASS:
            self.label(result, self.of(args[0]))
        elif name in _SUM or name in _PRODUCT:
            self._combine(result, args[0], args[1], name)
        else:
            self._lose((args, tuple(kwargs.values())), name)
        return result

    def _lose(self, values: Any, operation: str) -> None:
        """Labels went into an operation that cannot be followed: pin them, unless an attention rule takes over."""
        if self.inside_attention:
            return
        for tensor in _tensors(values):
            labels = self.of(tensor)
            if labels is not None:
                self.trace.pin(labels, f"{self.where()} fixes it ({operation})")

    def _input(self, tensor: torch.Tensor, channels: int) -> Labels:
        """Labels of a layer's input; an input that was lost gets fresh pinned ones."""
        labels = self.of(tensor)
        if labels is None:
            labels = self.trace.fresh(channels)
            if not self.inside_attention:
                self.trace.pin(labels, f"an input that cannot be followed, in {self.where()}")
        return labels

    def _on_conv2d(self, result: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        self._convolution(result, *args, **kwargs)

    def _on_conv_transpose2d(
        self, result: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, *args: Any, **kwargs: Any
    ) -> None:
        groups = args[4] if len(args) > 4 else kwargs.get("groups", 1)
        self._layer(result, x, weight, groups, outputs=result.shape[1], per_call=x.shape[2] * x.shape[3])

    def _convolution(
        self, result: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, *args: Any, **kwargs: Any
    ) -> None:
        groups = args[4] if len(args) > 4 else kwargs.get("groups", 1)
        self._layer(result, x, weight, groups, outputs=weight.shape[0], per_call=result.shape[2] * result.shape[3])

    def _layer(
        self, result: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, groups: int, outputs: int, per_call: int
    ) -> None:
        """A convolution of either direction: consume labels, give fresh ones, note the cost."""
        owner = self.owners.get(id(weight))
        inputs = self._input(x, x.shape[1])
        if owner is None:  # a weight computed on the fly
            self._lose(x, "convolution with a computed weight")
            return
        name = owner[0]
        area = float(weight.shape[2] * weight.shape[3] * per_call)
        if groups == len(inputs) == outputs:
            labels = self.trace.slot(name, "depthwise", inputs)
            self.trace.costs.append(Cost(name, labels, None, area))
        else:
            self.trace.slot(name, "in", inputs)
            known = self.trace.slots.get((name, "out"))
            labels = self.trace.slot(name, "out", known.labels if known else self.trace.fresh(outputs))
            if groups > 1:
                reason = f"groups of {len(inputs) // groups} in {self.where()}"
                self.trace.pin(inputs, reason)
                self.trace.pin(labels, reason)
            self.trace.costs.append(Cost(name, labels, inputs, area / groups))
        self.label(result, labels)

    def _on_linear(self, result: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: Any = None) -> None:
        owner = self.owners.get(id(weight))
        if owner is None or x.ndim != 2:
            self._lose(x, "linear layer over more than one position")
            return
        inputs = self._input(x, x.shape[1])
        self.trace.slot(owner[0], "in", inputs)
        labels = self.trace.slot(owner[0], "out", self.trace.fresh(weight.shape[0]))
        self.trace.costs.append(Cost(owner[0], labels, inputs, 1.0))
        self.label(result, labels)

    def _on_batch_norm(
        self, result: torch.Tensor, x: torch.Tensor, mean: Any, var: Any, weight: Any = None, *args: Any, **kw: Any
    ) -> None:
        labels, owner = self.of(x), self.owners.get(id(weight))
        if labels is None:
            return
        if owner is None:
            self._lose(x, "batch_norm without weight")
            return
        self.label(result, self.trace.slot(owner[0], "norm", labels))

    def _on_cat(self, result: torch.Tensor, tensors: Any, dim: int = 0, **kwargs: Any) -> None:
        labels = [self.of(tensor) for tensor in tensors]
        if dim != 1 or any(one is None for one in labels):
            if any(one is not None for one in labels):
                self._lose(tensors, "cat")
            return
        self.label(result, np.concatenate([one for one in labels if one is not None]))

    def _on_concat(self, result: torch.Tensor, tensors: Any, dim: int = 0, **kwargs: Any) -> None:
        self._on_cat(result, tensors, dim)

    def _on_chunk(self, result: Any, x: torch.Tensor, chunks: int, dim: int = 0) -> None:
        self._cut(result, x, dim, even=True)

    def _on_split(self, result: Any, x: torch.Tensor, sizes: Any, dim: int = 0) -> None:
        labels = self.of(x)
        if labels is not None and dim == 1 and not splits_by_attribute(self.modules[self.stack[-1]]):
            self._lose(x, "split")  # the sizes are an attribute that nobody here knows how to rewrite
            return
        self._cut(result, x, dim, even=len(set(np.atleast_1d(sizes).tolist())) == 1 and self._halves())

    def _halves(self) -> bool:
        return splits_by_attribute(self.modules[self.stack[-1]]) == "c"

    def _cut(self, result: Any, x: torch.Tensor, dim: int, even: bool) -> None:
        labels = self.of(x)
        if labels is None:
            return
        if dim != 1:
            self._lose(x, "split")
            return
        parts = np.split(labels, np.cumsum([part.shape[1] for part in result])[:-1])
        self.trace.splits.append(Split(self.stack[-1], parts, even))
        for part, own in zip(result, parts, strict=True):
            self.label(part, own)

    def _on_stack(self, result: torch.Tensor, tensors: Any, dim: int = 0) -> None:
        labels = [self.of(tensor) for tensor in tensors]
        if dim != 0 or any(one is None for one in labels):
            self._lose(tensors, "stack")
            return
        for other in labels[1:]:
            self.trace.unite(labels[0], other)  # pyright: ignore[reportArgumentType]
        setattr(result, _STACK, labels[0])

    def _on_sum(self, result: torch.Tensor, x: torch.Tensor, dim: Any = None, **kwargs: Any) -> None:
        stacked = getattr(x, _STACK, None)
        if stacked is not None and dim == 0:
            self.label(result, stacked)
        else:
            self._lose(x, "sum")

    def _on_flatten(self, result: torch.Tensor, x: torch.Tensor, start_dim: int = 0, end_dim: int = -1) -> None:
        if start_dim == 1 and x.ndim == 4 and x.shape[2] == x.shape[3] == 1:
            self.label(result, self.of(x))
        else:
            self._lose(x, "flatten")

    def _on_view(self, result: torch.Tensor, x: torch.Tensor, *shape: Any) -> None:
        owner = self.owners.get(id(x))
        if owner is not None and x.ndim == 1 and result.ndim == 4 and result.shape[1] == len(x):
            self.label(result, self.trace.slot(owner[0], f"param:{owner[1]}", self._parameter(owner, len(x))))
        else:
            self._lose(x, "view")

    def _parameter(self, owner: tuple[str, str], count: int) -> Labels:
        known = self.trace.slots.get((owner[0], f"param:{owner[1]}"))
        return known.labels if known else self.trace.fresh(count)

    def _combine(self, result: torch.Tensor, first: Any, second: Any, name: str) -> None:
        """Sum or product of two maps, or of a map and a number."""
        one, other = self.of(first), self.of(second)
        if one is not None and other is not None and len(one) == len(other):
            self.trace.unite(one, other)
            self.label(result, one)
        elif name in _PRODUCT and (one is None) != (other is None):
            scalar = second if one is not None else first
            if not isinstance(scalar, torch.Tensor) or scalar.ndim == 0:
                self.label(result, one if one is not None else other)
            else:
                self._lose((first, second), name)
        elif name in _SUM and any(type(value) in (int, float) and value == 0 for value in (first, second)):
            self.label(result, one if one is not None else other)  # RepConv adds the number 0 for a branch it lacks
        elif one is not None or other is not None:
            self._lose((first, second), name)


class _Hooks:
    """Keeps the stack of running blocks, and lets an attention rule see its block's input."""

    def __init__(self, follower: _Follower, twin: nn.Module) -> None:
        self.follower = follower
        self.twin = twin
        self.handles: list[Any] = []

    def __enter__(self) -> None:
        names = {id(module): name for name, module in self.twin.named_modules()}
        follower = self.follower

        def enter(module: nn.Module, args: tuple) -> None:
            name = names[id(module)]
            if type(module).__module__.startswith("ultralytics"):
                follower.stack.append(name)
            if type(module).__name__ in ATTENTION:
                follower.inside_attention += 1

        def leave(module: nn.Module, args: tuple, output: Any) -> None:
            name = names[id(module)]
            if type(module).__name__ in ATTENTION:
                follower.inside_attention -= 1
                labels = follower.of(args[0])
                if labels is None:
                    labels = follower.trace.fresh(args[0].shape[1])
                    follower.trace.pin(labels, f"an input that cannot be followed, in {follower.where()}")
                height, width = args[0].shape[2:]
                ATTENTION[type(module).__name__].follow(follower.trace, name, module, labels, height * width)
            if type(module).__module__.startswith("ultralytics"):
                follower.stack.pop()

        for module in self.twin.modules():
            self.handles.append(module.register_forward_pre_hook(enter))
            self.handles.append(module.register_forward_hook(leave))

    def __exit__(self, *exception: Any) -> None:
        for handle in self.handles:
            handle.remove()
