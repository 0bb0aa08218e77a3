"""Multiply-accumulates and parameters of a model as functions of its widths: no forward pass, no weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from edgeprune.pruning.structure import Structure
from edgeprune.pruning.trace import head_of, twin_of


class _Products:
    """A sum of ``coefficient x (rows . widths) x (columns . widths)``, vectorised over its terms."""

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self.rows: list[np.ndarray] = []
        self.columns: list[np.ndarray] = []
        self.constants: list[float] = []
        self.coefficients: list[float] = []

    def add(self, rows: np.ndarray, columns: np.ndarray | None, coefficient: float) -> None:
        self.rows.append(rows)
        self.columns.append(np.zeros(self.dimensions) if columns is None else columns)
        self.constants.append(1.0 if columns is None else 0.0)
        self.coefficients.append(coefficient)

    def freeze(self) -> None:
        self.a = np.array(self.rows).reshape(-1, self.dimensions)
        self.b = np.array(self.columns).reshape(-1, self.dimensions)
        self.constant, self.coefficient = np.array(self.constants), np.array(self.coefficients)
        self.rows, self.columns = [], []

    def value(self, widths: np.ndarray) -> float:
        return float(self.coefficient @ ((self.a @ widths) * (self.b @ widths + self.constant)))


class CostModel:
    """Counts of convolutions, linear layers and attention products for one image, batch 1, as deployed.

    "As deployed": branches that ``fuse()`` drops (the one-to-many branch of a dual head, training-only outputs) cost
    no multiply-accumulates; they do count as parameters, since the checkpoint holds them.
    """

    def __init__(self, model: nn.Module, structure: Structure) -> None:
        modules, gone = dict(model.named_modules()), _dropped_at_export(model)
        self._macs, self._params = _Products(len(structure.widths)), _Products(len(structure.widths))
        for cost in structure.trace.costs:
            if cost.module not in gone:
                columns = None if cost.columns is None else structure.expression(cost.columns)
                self._macs.add(structure.expression(cost.rows), columns, cost.coefficient)
        for (name, kind), slot in structure.trace.slots.items():
            module: Any = modules[name]
            labels = structure.expression(slot.labels)
            if kind == "out":
                columns = structure.expression(structure.trace.slots[name, "in"].labels)
                kernel = int(np.prod(module.weight.shape[2:])) / getattr(module, "groups", 1)
                self._params.add(labels, columns, kernel)
            elif kind == "depthwise":
                self._params.add(labels, None, float(np.prod(module.weight.shape[2:])))
            if kind in ("out", "depthwise") and module.bias is not None:
                self._params.add(labels, None, 1.0)
            elif kind == "norm":
                self._params.add(labels, None, 2.0)
            elif kind.startswith("param:"):
                self._params.add(labels, None, 1.0)
        self._macs.freeze()
        self._params.freeze()
        total = sum(parameter.numel() for parameter in model.parameters())
        self._untouched = total - round(self._params.value(structure.widths))

    def macs(self, widths: np.ndarray) -> float:
        """Multiply-accumulates for widths, one per dimension."""
        return self._macs.value(widths)

    def params(self, widths: np.ndarray) -> int:
        """Parameters of the whole checkpoint for widths, one per dimension."""
        return self._untouched + round(self._params.value(widths))


def _dropped_at_export(model: nn.Module) -> set[str]:
    """Names of modules that the head's own ``fuse()`` removes."""
    twin = twin_of(model)
    before = {name for name, _ in twin.named_modules()}
    head = head_of(twin)
    if hasattr(head, "fuse"):
        head.fuse()
    return before - {name for name, _ in twin.named_modules()}
