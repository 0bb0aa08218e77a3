"""Follow every channel of a model through one forward pass of no images: every shape, no arithmetic.

Each channel of each feature map carries a label, an integer. A convolution consumes the labels of its input and gives
new ones; a normalisation or an activation passes them on; an addition says that two labels are one; a concatenation
joins them; a split cuts them. What cannot be followed pins its labels: those channels are never pruned. So the result
is sound for any block, whether it was known when this was written or not, and no block has to be rewritten first.
Chunked blocks and attention, where tracing autograd graphs goes wrong, need nothing special but the rules below.

A batch of no images serves better than meta tensors: torch's meta kernels bring in its symbolic shapes and SymPy, which
cost more time and memory than all of the pruning of a small model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from edgeprune.checkpoint import input_channels, refuse_foreign_classes
from edgeprune.errors import NOT_OF_THE_INPUT, StageError, first_line
from edgeprune.input_size import Size, both_sides, pixels
from edgeprune.pruning.channels import Cost, Labels, Split, Trace
from edgeprune.pruning.copies import copy_sharing_weights, output_tensors, set_raw_outputs
from edgeprune.pruning.rules import ATTENTION, splits_by_attribute

# attributes of the tensors that flow; makers: slots of the layers whose bare outputs a tensor is made of
_LABELS, _STACK, _MAKERS = "edgeprune_labels", "edgeprune_stack", "edgeprune_makers"

# Operations f with f(0) = 0, one channel in, the same channel out: a removed channel stays exactly zero behind them.
_PASS = {
    "silu", "relu", "relu_", "leaky_relu", "hardswish", "mish", "gelu", "elu", "tanh", "hardtanh", "relu6", "selu",
    "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "interpolate", "dropout",
    "contiguous", "clone", "detach", "float", "half", "to", "type", "requires_grad_", "neg",
}  # fmt: skip
_SUM = {"add", "iadd", "radd", "sub", "isub", "rsub", "add_", "sub_"}
_PRODUCT = {"mul", "imul", "rmul", "div", "truediv", "itruediv", "mul_", "div_"}


def trace_model(model: nn.Module, imgsz: Size) -> Trace:
    """Trace a model for images of ``imgsz`` pixels (a side, or height and width), batch 1.

    Raises:
        StageError: a block is not one of Ultralytics' or torch's own, two layers share a weight, or the forward pass
            failed; names the block.
    """
    refuse_foreign_classes(model)
    refuse_shared_weights(model)
    copy = set_raw_outputs(copy_sharing_weights(model))
    tracker = _LabelTracker(copy)
    image = next(model.parameters()).new_empty(0, input_channels(model), *both_sides(imgsz))
    channels = tracker.trace.new_labels(image.shape[1])
    tracker.set_labels(image, channels)
    tracker.trace.pin(channels, "the input image")
    try:
        with tracker.hooks(), torch.no_grad(), tracker:
            output = copy(image)
    except (StageError, *NOT_OF_THE_INPUT):
        raise
    except Exception as error:
        where = tracker.current_block()
        raise StageError(
            f"block {where} cannot be traced at {pixels(imgsz)}: {type(error).__name__}: {first_line(error)}"
        ) from error
    for tensor in output_tensors(output):
        labels = tracker.labels_of(tensor)
        if labels is not None:
            tracker.trace.pin(labels, "an output of the model")
    return tracker.trace


def refuse_shared_weights(model: nn.Module) -> None:
    """Raise StageError for a weight of two layers: each would narrow it to channels of its own."""
    owners: dict[int, str] = {}
    for name, module in model.named_modules():  # a layer that stands in two places comes once
        for key, parameter in module.named_parameters(recurse=False):
            if (first := owners.setdefault(id(parameter), f"{name}.{key}")) != f"{name}.{key}":
                raise StageError(
                    f"{first} and {name}.{key} are one tensor, which cannot be narrowed for both; give each layer its "
                    "own (torch.nn.Parameter(weight.clone())) and save the checkpoint again"
                )


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _view_arguments(x: torch.Tensor, *shape: Any) -> tuple[Any, ...]:
    """Arguments of ``view`` with the -1 worked out, which torch does not do for a tensor of no elements."""
    sizes = list(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else list(shape)
    if x.numel() == 0 and sizes.count(-1) == 1 and sizes[0] == 0:
        known = math.prod(size for size in sizes[1:] if size != -1)
        sizes[sizes.index(-1)] = math.prod(x.shape[1:]) // known
        return x, *sizes
    return x, *shape


class _LabelTracker(TorchFunctionMode):
    """Sees every torch function of the forward pass and moves labels along."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.trace = Trace()
        self.modules: dict[str, nn.Module] = dict(model.named_modules())
        self.owners = {
            id(parameter): (name, key)
            for name, module in model.named_modules()
            for key, parameter in module.named_parameters(recurse=False)
        }
        self.stack: list[str] = [""]
        self.inside_attention = 0

    def set_labels(self, tensor: torch.Tensor, labels: Labels | None) -> None:
        """Put labels on the tensor object itself, so that they die with it."""
        if labels is not None:
            setattr(tensor, _LABELS, labels)

    def labels_of(self, value: Any) -> Labels | None:
        """The labels that a tensor carries, None for any other value."""
        return getattr(value, _LABELS, None) if isinstance(value, torch.Tensor) else None

    def current_block(self) -> str:
        """Class and name of the innermost composite block that runs."""
        name = self.stack[-1]
        return f"{type(self.modules[name]).__name__} ({name or 'the model'})"

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func)).strip("_")
        result = func(*(_view_arguments(*args) if name in ("view", "reshape") else args), **kwargs)
        if name == "get" or not any(True for _ in _tensors(result)):
            if name == "get" and isinstance(result, torch.Tensor) and self.labels_of(result) is None:
                self._pin_unfollowed(args, name)  # .data, .T and the like
            return result
        handler = getattr(self, f"_on_{name}", None)
        if handler is not None:
            handler(result, *args, **kwargs)
        elif name in _PASS:
            self.set_labels(result, self.labels_of(args[0]))
            self._made_of(result, ())  # in place it is the tensor that was given
        elif name in _SUM or name in _PRODUCT:
            self._combine(result, args[0], args[1], name)
        else:
            self._pin_unfollowed((args, tuple(kwargs.values())), name)
        return result

    def _pin_unfollowed(self, values: Any, operation: str) -> None:
        """Labels went into an operation that cannot be followed: pin them, unless an attention rule takes over."""
        if self.inside_attention:
            return
        for tensor in _tensors(values):
            labels = self.labels_of(tensor)
            if labels is not None:
                self.trace.pin(labels, f"{self.current_block()} fixes it ({operation})")

    def _input_labels(self, tensor: torch.Tensor, channels: int) -> Labels:
        """Labels of a layer's input; an input that was not followed gets new pinned ones."""
        labels = self.labels_of(tensor)
        if labels is None:
            labels = self.trace.new_labels(channels)
            if not self.inside_attention:
                self.trace.pin(labels, f"an input that cannot be followed, in {self.current_block()}")
        return labels

    def _on_conv_transpose2d(
        self, result: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, *args: Any, **kwargs: Any
    ) -> None:
        groups = args[4] if len(args) > 4 else kwargs.get("groups", 1)
        self._convolve(result, x, weight, groups, positions=x.shape[2] * x.shape[3])

    def _on_conv2d(
        self, result: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, *args: Any, **kwargs: Any
    ) -> None:
        groups = args[4] if len(args) > 4 else kwargs.get("groups", 1)
        self._convolve(result, x, weight, groups, positions=result.shape[2] * result.shape[3])

    def _convolve(
        self, result: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, groups: int, positions: int
    ) -> None:
        """A convolution of either direction: consume labels, give new ones, note the cost of its ``positions``."""
        owner, outputs = self.owners.get(id(weight)), result.shape[1]
        inputs = self._input_labels(x, x.shape[1])
        if owner is None:  # a weight computed on the fly
            self._pin_unfollowed(x, "convolution with a computed weight")
            return
        name = owner[0]
        area = float(weight.shape[2] * weight.shape[3] * positions)
        if groups == len(inputs) == outputs:
            labels = self.trace.add_slot(name, "depthwise", inputs)
            self.trace.costs.append(Cost(name, labels, None, area))
        else:
            self.trace.add_slot(name, "in", inputs)
            known = self.trace.slots.get((name, "out"))
            labels = self.trace.add_slot(name, "out", known.labels if known else self.trace.new_labels(outputs))
            if groups > 1:
                reason = f"groups of {len(inputs) // groups} in {self.current_block()}"
                self.trace.pin(inputs, reason)
                self.trace.pin(labels, reason)
            self.trace.costs.append(Cost(name, labels, inputs, area / groups))
        self.set_labels(result, labels)
        setattr(result, _MAKERS, {(name, "depthwise" if groups == len(inputs) == outputs else "out")})

    def _made_of(self, result: torch.Tensor, parts: Any) -> None:
        """Note of which layers' bare outputs a sum or a concatenation is made."""
        setattr(result, _MAKERS, set().union(*(getattr(part, _MAKERS, set()) for part in _tensors(parts))))

    def _on_linear(self, result: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: Any = None) -> None:
        owner = self.owners.get(id(weight))
        if owner is None or x.ndim != 2:
            self._pin_unfollowed(x, "linear layer over more than one position")
            return
        inputs = self._input_labels(x, x.shape[1])
        self.trace.add_slot(owner[0], "in", inputs)
        labels = self.trace.add_slot(owner[0], "out", self.trace.new_labels(weight.shape[0]))
        self.trace.costs.append(Cost(owner[0], labels, inputs, 1.0))
        self.set_labels(result, labels)

    def _on_batch_norm(
        self, result: torch.Tensor, x: torch.Tensor, mean: Any, var: Any, weight: Any = None, *args: Any, **kw: Any
    ) -> None:
        labels, owner = self.labels_of(x), self.owners.get(id(weight))
        if labels is None:
            return
        if owner is None:
            self._pin_unfollowed(x, "batch_norm without weight")
            return
        self.set_labels(result, self.trace.add_slot(owner[0], "norm", labels))
        self.trace.normalised |= getattr(x, _MAKERS, set())

    def _on_prelu(self, result: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> None:
        """A slope for every channel, or one for all; zero stays zero."""
        labels, owner = self.labels_of(x), self.owners.get(id(weight))
        if labels is None:
            return
        if weight.numel() > 1:
            if owner is None:
                self._pin_unfollowed(x, "prelu with computed slopes")
                return
            labels = self.trace.add_slot(owner[0], f"param:{owner[1]}", labels)
        self.set_labels(result, labels)

    def _on_cat(self, result: torch.Tensor, tensors: Any, dim: int = 0, **kwargs: Any) -> None:
        labels = [own for tensor in tensors if (own := self.labels_of(tensor)) is not None]
        if dim == 1 and len(labels) == len(tensors):
            self.set_labels(result, np.concatenate(labels))
            self._made_of(result, tensors)
        else:
            self._pin_unfollowed(tensors, "cat")

    def _on_concat(self, result: torch.Tensor, tensors: Any, dim: int = 0, **kwargs: Any) -> None:
        self._on_cat(result, tensors, dim)

    def _on_chunk(self, result: Any, x: torch.Tensor, chunks: int, dim: int = 0) -> None:
        self._split_labels(result, x, dim, even=True)

    def _on_split(self, result: Any, x: torch.Tensor, sizes: Any, dim: int = 0) -> None:
        labels = self.labels_of(x)
        if labels is not None and dim == 1 and not splits_by_attribute(self.modules[self.stack[-1]]):
            self._pin_unfollowed(x, "split")  # the sizes are an attribute that nobody here knows how to rewrite
            return
        self._split_labels(result, x, dim, even=len(set(np.atleast_1d(sizes).tolist())) == 1 and self._cuts_in_halves())

    def _cuts_in_halves(self) -> bool:
        return splits_by_attribute(self.modules[self.stack[-1]]) == "c"

    def _split_labels(self, result: Any, x: torch.Tensor, dim: int, even: bool) -> None:
        labels = self.labels_of(x)
        if labels is None:
            return
        if dim != 1:
            self._pin_unfollowed(x, "split")
            return
        parts = np.split(labels, np.cumsum([part.shape[1] for part in result])[:-1])
        self.trace.splits.append(Split(self.stack[-1], parts, even))
        for part, own in zip(result, parts, strict=True):
            self.set_labels(part, own)

    def _on_stack(self, result: torch.Tensor, tensors: Any, dim: int = 0) -> None:
        labels = [own for tensor in tensors if (own := self.labels_of(tensor)) is not None]
        if dim != 0 or len(labels) != len(tensors):
            self._pin_unfollowed(tensors, "stack")
            return
        for own in labels[1:]:
            self.trace.unite(labels[0], own)
        setattr(result, _STACK, labels[0])

    def _on_sum(self, result: torch.Tensor, x: torch.Tensor, dim: Any = None, **kwargs: Any) -> None:
        stacked = getattr(x, _STACK, None)
        if stacked is not None and dim == 0:
            self.set_labels(result, stacked)
        else:
            self._pin_unfollowed(x, "sum")

    def _on_flatten(self, result: torch.Tensor, x: torch.Tensor, start_dim: int = 0, end_dim: int = -1) -> None:
        if start_dim == 1 and x.ndim == 4 and x.shape[2] == x.shape[3] == 1:
            self.set_labels(result, self.labels_of(x))
        else:
            self._pin_unfollowed(x, "flatten")

    def _on_view(self, result: torch.Tensor, x: torch.Tensor, *shape: Any) -> None:
        owner = self.owners.get(id(x))
        if owner is not None and x.ndim == 1 and result.ndim == 4 and result.shape[1] == len(x):
            name, kind = owner[0], f"param:{owner[1]}"
            known = self.trace.slots.get((name, kind))
            labels = known.labels if known else self.trace.new_labels(len(x))
            self.set_labels(result, self.trace.add_slot(name, kind, labels))
        else:
            self._pin_unfollowed(x, "view")

    def _combine(self, result: torch.Tensor, first: Any, second: Any, name: str) -> None:
        """Sum or product of two maps, or of a map and a number."""
        labels = [own for value in (first, second) if (own := self.labels_of(value)) is not None]
        if len(labels) == 2 and len(labels[0]) == len(labels[1]):
            self.trace.unite(*labels)
            self.set_labels(result, labels[0])
            self._made_of(result, (first, second) if name in _SUM else ())
        elif len(labels) == 1 and self._keeps_zero(name, first if self.labels_of(first) is None else second):
            self.set_labels(result, labels[0])
        else:
            self._pin_unfollowed((first, second), name)

    @staticmethod
    def _keeps_zero(name: str, operand: Any) -> bool:
        """Whether a channel that is zero stays so when it is combined with an operand that carries no labels."""
        if name in _PRODUCT:
            return not isinstance(operand, torch.Tensor) or operand.ndim == 0
        return type(operand) in (int, float) and operand == 0  # RepConv adds the number 0 for a branch it lacks

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Hooks on every block that keep the stack of running blocks and apply the rule of an attention block."""
        names = {id(module): name for name, module in self.modules.items()}

        def enter(module: nn.Module, args: tuple) -> None:
            if type(module).__module__.startswith("ultralytics"):
                self.stack.append(names[id(module)])
            if type(module).__name__ in ATTENTION:
                self.inside_attention += 1

        def leave(module: nn.Module, args: tuple, output: Any) -> None:
            if type(module).__name__ in ATTENTION:
                self.inside_attention -= 1
                labels = self.labels_of(args[0])
                if labels is None:
                    labels = self.trace.new_labels(args[0].shape[1])
                    self.trace.pin(labels, f"an input that cannot be followed, in {self.current_block()}")
                height, width = args[0].shape[2:]
                rule = ATTENTION[type(module).__name__]
                rule.follow(self.trace, names[id(module)], module, labels, height * width)
            if type(module).__module__.startswith("ultralytics"):
                self.stack.pop()

        handles = []
        for module in self.modules.values():
            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
