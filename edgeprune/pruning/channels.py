"""What a trace finds out about a model's channels: plain arrays of labels, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

Labels = np.ndarray  # int64, one label per channel


@dataclass
class Slot:
    """Where labels sit in a module's parameters.

    Attributes:
        module: qualified name.
        kind: ``out`` or ``in`` of a convolution or linear layer, ``depthwise``, ``norm``, or ``param:<name>``.
        labels: one label per channel of that axis.
    """

    module: str
    kind: str
    labels: Labels


@dataclass
class Split:
    """One cut of a feature map along its channels; with ``even`` the parts must stay equally wide."""

    owner: str
    parts: list[Labels]
    even: bool


@dataclass
class Cost:
    """Multiply-accumulates of one call: ``coefficient x |rows| x |columns|`` (no columns: ``x 1``)."""

    module: str
    rows: Labels
    columns: Labels | None
    coefficient: float


@dataclass
class Trace:
    """Everything one pass found out; see the classes of its parts."""

    size: int = 0
    slots: dict[tuple[str, str], Slot] = field(default_factory=dict)
    same: list[tuple[Labels, Labels]] = field(default_factory=list)
    pins: list[tuple[Labels, str]] = field(default_factory=list)
    splits: list[Split] = field(default_factory=list)
    rows: list[tuple[Labels, int]] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)

    def fresh(self, count: int) -> Labels:
        """``count`` labels that nothing else carries."""
        self.size += count
        return np.arange(self.size - count, self.size)

    def slot(self, module: str, kind: str, labels: Labels) -> Labels:
        """Put labels on a parameter axis; a module that is called twice has both calls' labels united."""
        known = self.slots.setdefault((module, kind), Slot(module, kind, labels))
        if known.labels is not labels:
            self.unite(known.labels, labels)
        return known.labels

    def unite(self, first: Labels, second: Labels) -> None:
        """Say that two channels are one, pairwise."""
        self.same.append((first, second))

    def pin(self, labels: Labels, reason: str) -> None:
        """Never prune these."""
        self.pins.append((labels, reason))
