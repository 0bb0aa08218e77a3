"""From a trace to dimensions: sets of channels that can only be pruned together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from edgeprune.errors import TargetError
from edgeprune.options import named
from edgeprune.pruning.channels import Cost, Labels, Slot, Trace

TRAINING_ONLY = "only for training: it does not ship"


@dataclass(frozen=True)
class Part:
    """Channels that share every place they occur in; each is kept or removed as one unit.

    Attributes:
        name: the first convolution that makes them, ``model.2.cv1`` and the like, with ``#2`` where that is not unique.
        units: one unit id per channel, in channel order.
        rows: heads of an attention block; every row keeps equally many units.
        makers: convolutions that put these channels out.
        members: modules the channels run through, in order of execution.
    """

    name: str
    units: np.ndarray
    rows: int
    makers: tuple[str, ...]
    members: tuple[str, ...]


@dataclass(frozen=True)
class Dimension:
    """One width to decide: parts that must stay equally wide (two halves of a chunk, an attention block's values).

    Attributes:
        name: name of its first part.
        width: channels before pruning.
        parts: each keeps ``width`` channels of its own choice.
        step: a narrower width is a multiple of this (heads x alignment).
        allowed: widths a plan may give it, ascending; the last is ``width``, a multiple of ``step`` or not.
        fixed: why it is left alone, or None.
        pinned: True when the model itself fixes it, so that no plan can change it.
    """

    name: str
    width: int
    parts: tuple[Part, ...]
    step: int
    allowed: tuple[int, ...]
    fixed: str | None = None
    pinned: bool = False

    @property
    def members(self) -> tuple[str, ...]:
        """Every module whose shape follows this width."""
        return tuple(dict.fromkeys(member for part in self.parts for member in part.members))


@dataclass(frozen=True)
class Constraints:
    """What a user asks of every dimension.

    Attributes:
        ignore: globs over module names; a dimension that one of them produces keeps its width.
        max_ratio: glob to the largest share of channels that may be removed there, 0 to 1.
        align: a width that changes becomes a multiple of this.
        min_width: and never less than this.
    """

    ignore: tuple[str, ...] = ()
    max_ratio: Mapping[str, float] = field(default_factory=dict)
    align: int = 8
    min_width: int = 8

    def __post_init__(self) -> None:
        """Raise TargetError for a value out of range."""
        if self.align < 1 or self.min_width < 1:
            raise TargetError(
                f"{named('align')} and {named('min_width')} start at 1 (seen: {self.align}, {self.min_width})"
            )
        for glob, share in self.max_ratio.items():
            if not 0 <= share < 1:
                raise TargetError(
                    f"{named('max_ratio')} of '{glob}' must be at least 0 and less than 1 (seen: {share})"
                )


class Structure:
    """Dimensions of one traced model.

    Args:
        trace: of the model.
        constraints: what a user asks.
        training_only: modules that do not ship, see :func:`~edgeprune.pruning.heads.training_only`; a dimension that
            runs through nothing else saves nothing at deployment and keeps its width.
        name_for_user: from a name in the traced model to the one that a user's globs speak of, where blocks were
            dropped from their model; the same when None.

    Attributes:
        dimensions: every width of the model, fixed ones too, in order of execution.
        trace: where the labels came from; ``unit[label]`` is the unit a label belongs to.
        training_only: as given.
    """

    def __init__(
        self,
        trace: Trace,
        constraints: Constraints,
        training_only: frozenset[str] = frozenset(),
        name_for_user: Callable[[str], str] | None = None,
    ) -> None:
        self.trace, self.training_only = trace, training_only
        self.unit = _unit_of_labels(trace)
        parts = _parts(trace, self.unit)
        pinned, tied = self._pins_and_ties(parts)
        self.dimensions = _dimensions(parts, tied, pinned, constraints, training_only, name_for_user or str)
        self.index = {dimension.name: i for i, dimension in enumerate(self.dimensions)}
        self.widths = np.array([dimension.width for dimension in self.dimensions], dtype=np.float64)
        owner = np.zeros(self.unit.max() + 1, dtype=np.int64)
        for i, dimension in enumerate(self.dimensions):
            for part in dimension.parts:
                owner[part.units] = i
        self._dimension_of_unit = owner

    @property
    def shipped_costs(self) -> list[Cost]:
        """The costs of what ships."""
        return [cost for cost in self.trace.costs if cost.module.partition(" ")[0] not in self.training_only]

    def _pins_and_ties(self, parts: list[Part]) -> tuple[dict[int, str], list[list[int]]]:
        """Pins by part, and lists of parts that must stay equally wide."""
        part_of = np.zeros(self.unit.max() + 1, dtype=np.int64)
        for i, part in enumerate(parts):
            part_of[part.units] = i
        pinned: dict[int, str] = {}
        for labels, reason in self.trace.pins:
            for i in np.unique(part_of[self.unit[labels]]):
                pinned.setdefault(int(i), reason)
        tied = []
        for split in self.trace.splits:
            halves = [np.unique(part_of[self.unit[labels]]) for labels in split.parts]
            if not split.even:
                continue
            if all(len(half) == 1 and len(parts[half[0]].units) == len(split.parts[0]) for half in halves):
                tied.append([int(half[0]) for half in halves])
            else:  # a cut through a concatenation: which channel falls into which half would change
                for i in np.concatenate(halves):
                    pinned.setdefault(int(i), f"cut unevenly in {split.owner}")
        return pinned, tied

    def width_shares(self, labels: Labels) -> np.ndarray:
        """How often each dimension's width goes into the width of ``labels``; float64 of shape (dimensions,)."""
        counts = np.bincount(self._dimension_of_unit[self.unit[labels]], minlength=len(self.dimensions))
        return counts / self.widths

    def kept_positions(self, slot: Slot, keep: np.ndarray) -> np.ndarray:
        """Positions along a slot's axis that stay, for a boolean ``keep`` per unit."""
        return np.flatnonzero(keep[self.unit[slot.labels]])


def _unit_of_labels(trace: Trace) -> np.ndarray:
    """Unit of every label: connected components of everything that was said to be the same, numbered by first label."""
    first = np.concatenate([np.asarray(pair[0]) for pair in trace.equal_pairs] or [np.zeros(0, np.int64)])
    second = np.concatenate([np.asarray(pair[1]) for pair in trace.equal_pairs] or [np.zeros(0, np.int64)])
    graph = coo_matrix((np.ones(len(first), np.int8), (first, second)), shape=(trace.label_count, trace.label_count))
    _, component = connected_components(graph, directed=False)
    _, order = np.unique(component, return_index=True)
    rank = np.empty(len(order), np.int64)
    rank[np.argsort(order)] = np.arange(len(order))
    return rank[component]


def _parts(trace: Trace, unit: np.ndarray) -> list[Part]:
    """Group units by the set of places they occur in, each place a random 64-bit number, the set their sum."""
    places = [slot.labels for slot in trace.slots.values()]
    places += [labels for split in trace.splits for labels in split.parts] + [labels for labels, _ in trace.head_rows]
    random = np.random.default_rng(0x5EED).integers(1, 2**63, size=len(places), dtype=np.uint64)
    signature = np.zeros(unit.max() + 1, dtype=np.uint64)
    for labels, number in zip(places, random, strict=True):
        np.add.at(signature, unit[labels], number)
    _, group = np.unique(signature, return_inverse=True)
    order = np.argsort(group, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    members.sort(key=lambda units: units[0])

    part_of = np.empty(len(signature), np.int64)
    for i, units in enumerate(members):
        part_of[units] = i
    passing: list[list[Slot]] = [[] for _ in members]
    for slot in trace.slots.values():
        for i in np.unique(part_of[unit[slot.labels]]):
            passing[i].append(slot)
    rows = [1] * len(members)
    for labels, count in trace.head_rows:
        for i in np.unique(part_of[unit[labels]]):
            rows[i] = math.lcm(rows[i], count)

    uses: dict[str, int] = {}
    parts = []
    for units, slots, heads in zip(members, passing, rows, strict=True):
        makers = tuple(slot.module for slot in slots if slot.kind in ("out", "depthwise"))
        name = next((slot.module for slot in slots if slot.kind == "out"), "input").removesuffix(".conv")
        uses[name] = uses.get(name, 0) + 1
        unique = name if uses[name] == 1 else f"{name}#{uses[name]}"
        parts.append(Part(unique, units, heads, makers, tuple(dict.fromkeys(slot.module for slot in slots))))
    return parts


def _dimensions(
    parts: list[Part],
    tied: list[list[int]],
    pinned: dict[int, str],
    constraints: Constraints,
    training_only: frozenset[str],
    name_for_user: Callable[[str], str],
) -> list[Dimension]:
    ties = [(group[0], part) for group in tied for part in group[1:]]
    graph = coo_matrix(
        (np.ones(len(ties)), ([a for a, _ in ties], [b for _, b in ties])), shape=(len(parts), len(parts))
    )
    count, component = connected_components(graph, directed=False)
    groups: list[list[int]] = [[] for _ in range(count)]
    for i in range(len(parts)):
        groups[component[i]].append(i)
    groups.sort(key=lambda group: group[0])
    return [
        _dimension([parts[i] for i in group], [pinned.get(i) for i in group], constraints, training_only, name_for_user)
        for group in groups
    ]


def _dimension(
    parts: list[Part],
    reasons: list[str | None],
    constraints: Constraints,
    training_only: frozenset[str],
    name_for_user: Callable[[str], str],
) -> Dimension:
    width = len(parts[0].units)
    makers = [name_for_user(maker) for part in parts for maker in part.makers]
    step = math.lcm(constraints.align, *(part.rows for part in parts))
    least = max(constraints.min_width, 1)
    limits = [share for glob, share in constraints.max_ratio.items() if glob_matches(glob, makers)]
    if limits:
        least = max(least, math.ceil(width * (1 - min(limits)) - 1e-9))
    narrower = [value for value in range(step, width, step) if value >= least]
    fixed = next((reason for reason in reasons if reason), None)
    pinned = fixed is not None
    members = {member for part in parts for member in part.members}
    if fixed is None and members and members <= training_only:
        fixed = TRAINING_ONLY
    glob = next((glob for glob in constraints.ignore if glob_matches(glob, makers)), None)
    if fixed is None and glob is not None:
        fixed = f"ignored by '{glob}'"
    if fixed is None and not narrower:
        fixed = f"no smaller width is a multiple of {step} and at least {least}"
        fixed = f"{width} channels are fewer than one step of {step}" if width < step else fixed
    # a width off the step stays one to choose: what is not pruned must not change
    allowed = (width,) if fixed else (*narrower, width)
    return Dimension(parts[0].name, width, tuple(parts), step, allowed, fixed, pinned)


def glob_matches(glob: str, modules: list[str]) -> bool:
    """Whether a glob names a module, with or without the ``.conv`` that an Ultralytics ``Conv`` wraps."""
    return any(fnmatch(name, glob) or fnmatch(name.removesuffix(".conv"), glob) for name in modules)
