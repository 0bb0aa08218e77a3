"""Multiply-accumulates and parameters of a model as functions of its widths: no forward pass, no weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from edgeprune.pruning.structure import Structure


class _Products:
    """A sum of ``coefficient x (rows . widths) x (columns . widths)``, computed for all its terms at once.

    Args:
        terms: (rows, columns, coefficient); rows and columns are shares of each dimension's width, columns None for 1.
        dimensions: how many widths there are.
    """

    def __init__(self, terms: list[tuple[np.ndarray, np.ndarray | None, float]], dimensions: int) -> None:
        no_columns = np.zeros(dimensions)
        self.rows = np.array([rows for rows, _, _ in terms]).reshape(-1, dimensions)
        columns = [no_columns if columns is None else columns for _, columns, _ in terms]
        self.columns = np.array(columns).reshape(-1, dimensions)
        self.constants = np.array([float(columns is None) for _, columns, _ in terms])
        self.coefficients = np.array([coefficient for _, _, coefficient in terms])

    def value(self, widths: np.ndarray) -> float:
        return float(self.coefficients @ ((self.rows @ widths) * (self.columns @ widths + self.constants)))


class MacsModel:
    """Counts of convolutions, linear layers and attention products for one image, batch 1, as deployed.

    "As deployed": what an export leaves out (``structure.training_only``: the other one of two heads, outputs for
    training alone) costs no multiply-accumulates; it does count as parameters, since the checkpoint holds it.
    """

    def __init__(self, model: nn.Module, structure: Structure) -> None:
        shares, dimensions = structure.width_shares, len(structure.widths)
        self._macs = _Products(
            [
                (shares(cost.rows), None if cost.columns is None else shares(cost.columns), cost.coefficient)
                for cost in structure.shipped_costs
            ],
            dimensions,
        )
        self._params = _Products(_parameter_terms(model, structure), dimensions)
        total = sum(parameter.numel() for parameter in model.parameters())
        self._untouched = total - round(self._params.value(structure.widths))

    def macs(self, widths: np.ndarray) -> float:
        """Multiply-accumulates for widths, one per dimension."""
        return self._macs.value(widths)

    def params(self, widths: np.ndarray) -> int:
        """Parameters of the whole checkpoint for widths, one per dimension."""
        return self._untouched + round(self._params.value(widths))


def _parameter_terms(model: nn.Module, structure: Structure) -> list[tuple[np.ndarray, np.ndarray | None, float]]:
    """The parameters of every layer that channels run through, as terms of :class:`_Products`."""
    modules, slots = dict(model.named_modules()), structure.trace.slots
    terms: list[tuple[np.ndarray, np.ndarray | None, float]] = []
    for (name, kind), slot in slots.items():
        module: Any = modules[name]
        rows = structure.width_shares(slot.labels)
        if kind == "out":
            columns = structure.width_shares(slots[name, "in"].labels)
            terms.append((rows, columns, int(np.prod(module.weight.shape[2:])) / getattr(module, "groups", 1)))
        elif kind == "depthwise":
            terms.append((rows, None, float(np.prod(module.weight.shape[2:]))))
        elif kind == "norm":
            terms.append((rows, None, 2.0))
        elif kind.startswith("param:"):
            terms.append((rows, None, 1.0))
        if kind in ("out", "depthwise") and module.bias is not None:
            terms.append((rows, None, 1.0))
    return terms
