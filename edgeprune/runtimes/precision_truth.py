"""What an engine really computes in: shares of its layers and of its time by number format, and what fell off a DLA."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from edgeprune.runtimes.base import LayerTime
from edgeprune.runtimes.layer_info import Layer

ASKED: Mapping[str, tuple[str, ...]] = {
    "fp32": ("fp32",),
    "fp16": ("fp16", "bf16"),
    "int8": ("int8",),
    "int8-fp16": ("int8", "fp16", "bf16"),
}
LEAST_SHARE = 0.5
"""Least share of the multiplying layers' time in the asked format. A build that ignored the request has none of it; one
that kept it has nearly all. What the graph itself has in float, for accuracy, is not asked of it."""
LEAST_ASKED = 0.1
"""Share of the multiplying layers' time that the graph has to ask for below float; of less, the share that is there
tells nothing of an engine that computes nearly all in float."""

LEAVE_DLA = "a DLA computes convolutions in fp16; for the GPU leave device.dla_core out"
PARTS = re.compile(r"[\s+(),]+")  # between the nodes in the name of a layer that was fused of them
ROUNDING = 1e-9
NOTHING_LEFT = 0.01  # a rest this small may be in any format


@dataclass(frozen=True)
class PrecisionShare:
    """How the work of an engine is spread.

    Attributes:
        layers: format to its share of the multiplying layers (of the computing ones where nothing multiplies).
        time: the same by time; empty without layer times.
        counts: format to the number of layers counted in ``layers``.
        moving_time: share of the whole time that only moves values; None without layer times.
        dla: layers placed on a DLA.
        fallbacks: names of computing layers that run on the GPU although a DLA was asked for, or has others.
        float_layers: how many of the layers in ``counts`` the graph itself has in float.
        float_share: format to the part of its share in ``time``, or in ``layers``, that is theirs.
        dla_share: of the multiplying layers' time, or of their number without times, what is a DLA's; None where no DLA
            was asked for, and in older records.
        tf32: the part of ``fp32`` in ``time``, or in ``layers``, whose products are TF32 by the names of their kernels.
    """

    layers: Mapping[str, float]
    time: Mapping[str, float]
    counts: Mapping[str, int]
    moving_time: float | None
    dla: int
    fallbacks: tuple[str, ...]
    float_layers: int = 0
    float_share: Mapping[str, float] = field(default_factory=dict[str, float])
    dla_share: float | None = None
    tf32: float = 0.0

    def of(self, precision: str) -> float:
        """Share of time, or of layers without times, in the format that a target calls ``precision``."""
        shares = self.time or self.layers
        return sum(shares.get(name, 0.0) for name in ASKED[precision])

    def held(self, precision: str) -> float:
        """How much of what was asked is there, 0 to 1, of the layers that the graph does not have in float itself; for
        ``int8-fp16`` the lesser of INT8's share of them and of FP16's share of all that is not INT8."""
        if precision != "int8-fp16":
            return self._asked(precision)
        return min(self._asked("int8"), self._half_of_rest())

    @property
    def asked(self) -> float:
        """Share of the time, or of the layers, that the graph does not have in float itself."""
        return 1 - sum(self.float_share.values())

    def too_little_asked(self, precision: str) -> bool:
        """Whether the graph has so much in float that the rest tells nothing of the engine; what ``int8-fp16`` asks of
        the float layers does all the same."""
        if not (0 < self.float_layers < sum(self.counts.values()) and self.asked < LEAST_ASKED):
            return False
        return precision != "int8-fp16" or self._half_of_rest() >= LEAST_SHARE

    def _half_of_rest(self) -> float:
        """FP16's share of all that is not INT8."""
        rest = 1 - self.of("int8")
        return self.of("fp16") / rest if rest > NOTHING_LEFT else 1.0

    def _asked(self, precision: str) -> float:
        """Share of the layers that were asked for in a lower format than float; of all where the graph has all in
        float."""
        left = self.asked
        if left <= ROUNDING:
            return self.of(precision)
        return (self.of(precision) - sum(self.float_share.get(name, 0.0) for name in ASKED[precision])) / left

    def text(self) -> str:
        """``int8 81%, fp16 19% of the time of 57 layers``; of FP32 also what of it multiplies in TF32."""
        shares = self.time or self.layers
        words = {"fp32": f" ({self.tf32 / shares['fp32']:.0%} of it by TF32 products)"} if self._has_tf32 else {}
        ordered = sorted(shares.items(), key=lambda one: -one[1])
        parts = ", ".join(f"{name} {share:.0%}{words.get(name, '')}" for name, share in ordered)
        count = sum(self.counts.values())
        asked = bool(self.dla) or self.dla_share is not None
        placed = f"; {self.dla} on the DLA, {len(self.fallbacks)} fell back to the GPU" if asked else ""
        return f"{parts} of {'the time of ' if self.time else ''}{count} layers that multiply{placed}"

    @property
    def _has_tf32(self) -> bool:
        return self.tf32 > 0 and (self.time or self.layers).get("fp32", 0.0) > 0

    def float_text(self, precision: str) -> str:
        """What :meth:`held` leaves out: ``of the layers that the graph asks for in int8; 3 layers, 21% of the time, are
        float in the graph``; empty where the graph has nothing in float, which leaves out nothing."""
        if not self.float_layers:
            return ""
        layers = "1 layer" if self.float_layers == 1 else f"{self.float_layers} layers"
        part = f"{1 - self.asked:.0%} of the {'time' if self.time else 'layers'}"
        text = f"{layers}, {part}, {'is' if self.float_layers == 1 else 'are'} float in the graph"
        whole = self.float_layers == sum(self.counts.values())
        return text if whole else f"of the layers that the graph asks for in {precision.partition('-')[0]}; {text}"


def precision_share(
    layers: Sequence[Layer],
    times: Sequence[LayerTime] = (),
    float_nodes: Collection[str] = (),
    dla_core: int | None = None,
) -> PrecisionShare:
    """Shares by number format, over the layers that multiply: a detector's arithmetic, where precision is what counts.

    Args:
        layers: of the engine, from its inspector.
        times: of the same engine; a layer that the profiler does not name counts with no time.
        float_nodes: nodes that multiply in float in the graph that was built.
        dla_core: the DLA core that the engine was asked for, or None.
    """
    spent = {layer.name: layer.ms for layer in times}
    counted = [layer for layer in layers if layer.kind == "multiplies"] or [
        layer for layer in layers if layer.kind == "computes"
    ]
    kept = [layer for layer in counted if _is_of(layer, frozenset(float_nodes))]
    counts: dict[str, int] = {}
    took: dict[str, float] = {}
    for layer in counted:
        counts[layer.precision] = counts.get(layer.precision, 0) + 1
        took[layer.precision] = took.get(layer.precision, 0.0) + spent.get(layer.name, 0.0)
    whole, everything = sum(took.values()), sum(spent.values())
    moving = sum(spent.get(layer.name, 0.0) for layer in layers if layer.kind == "moves")
    on_dla = sum(layer.placed == "dla" for layer in layers)
    of_dla = [layer for layer in counted if layer.placed == "dla"]
    dla_share = sum(spent.get(layer.name, 0.0) for layer in of_dla) / whole if whole > 0 else _part(of_dla, counted)
    dla = bool(on_dla) or dla_core is not None
    theirs: dict[str, float] = {}

    def part_of(layer: Layer) -> float:
        return spent.get(layer.name, 0.0) / whole if whole > 0 else 1 / len(counted)

    for layer in kept:
        theirs[layer.precision] = theirs.get(layer.precision, 0.0) + part_of(layer)
    return PrecisionShare(
        layers={name: count / len(counted) for name, count in counts.items()},
        time={name: ms / whole for name, ms in took.items()} if whole > 0 else {},
        counts=counts,
        moving_time=moving / everything if everything > 0 else None,
        dla=on_dla,
        fallbacks=tuple(one.name for one in layers if dla and one.placed == "gpu" and one.kind != "moves"),
        float_layers=len(kept),
        float_share=theirs,
        dla_share=None if dla_core is None else dla_share,
        tf32=sum(map(part_of, (layer for layer in counted if layer.tf32))),
    )


def _part(some: Sequence[Layer], of: Sequence[Layer]) -> float:
    return len(some) / len(of) if of else 0.0


def _is_of(layer: Layer, nodes: Collection[str]) -> bool:
    """Whether a layer of the GPU was made of one of these nodes; a DLA's loadable is of many. What has no name is in no
    layer: the name of one splits into an empty part where it ends in a bracket."""
    parts = {*layer.nodes, *PARTS.split(layer.name)} - {""}
    return layer.placed != "dla" and not parts.isdisjoint(nodes)
