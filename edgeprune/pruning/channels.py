"""What a trace says about a model's channels: plain arrays of labels, no torch."""

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
    """What one forward pass showed.

    Attributes:
        label_count: labels given out so far; they are 0 to ``label_count - 1``.
        slots: where labels sit, by module and kind.
        equal_pairs: pairs of arrays whose labels are the same channels, place by place.
        pins: labels that are never pruned, with the reason.
        splits: cuts along channels.
        head_rows: labels of an attention block, with the number of heads that must keep equally many of them.
        costs: multiply-accumulates of every call.
        normalised: module and kind of the slots whose outputs a normalisation reads as they are, or summed or joined
            with others.
    """

    label_count: int = 0
    slots: dict[tuple[str, str], Slot] = field(default_factory=dict)
    equal_pairs: list[tuple[Labels, Labels]] = field(default_factory=list)
    pins: list[tuple[Labels, str]] = field(default_factory=list)
    splits: list[Split] = field(default_factory=list)
    head_rows: list[tuple[Labels, int]] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    normalised: set[tuple[str, str]] = field(default_factory=set)

    def new_labels(self, count: int) -> Labels:
        """``count`` labels that nothing else carries."""
        self.label_count += count
        return np.arange(self.label_count - count, self.label_count)

    def add_slot(self, module: str, kind: str, labels: Labels) -> Labels:
        """Put labels on a parameter axis; a module that is called twice has both calls' labels united."""
        known = self.slots.setdefault((module, kind), Slot(module, kind, labels))
        if known.labels is not labels:
            self.unite(known.labels, labels)
        return known.labels

    def unite(self, first: Labels, second: Labels) -> None:
        """Say that two channels are one, pairwise."""
        self.equal_pairs.append((first, second))

    def pin(self, labels: Labels, reason: str) -> None:
        """Never prune these."""
        self.pins.append((labels, reason))
