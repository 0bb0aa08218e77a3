"""Measure what each layer of a model costs on the target: the model itself and a few narrowed copies of it.

Takes a model and a :class:`~edgeprune.search.bench.Bench`; gives a :class:`LayerProfile`. A profile belongs to one
device identity and one architecture, and is kept as JSON under a name made of both.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls
from torch import nn

from edgeprune.checkpoint import architecture_digest, shape_signature
from edgeprune.errors import DataError
from edgeprune.input_size import Size
from edgeprune.measure.compiling import PACKAGES
from edgeprune.measure.layers import BEHIND_THE_LAYERS, LayerCost, LayerCosts
from edgeprune.options import output_folder
from edgeprune.progress import Progress, silent
from edgeprune.pruning.pruner import Pruner
from edgeprune.pruning.structure import Dimension
from edgeprune.samples.statistics import value_of
from edgeprune.search.bench import Bench
from edgeprune.search.cost import Fit, MeasuredCopy, fit_costs
from edgeprune.search.layers import FIXED, Layer, layers_of, sum_by_layer
from edgeprune.serial import digest_of, read_json, write_json
from edgeprune.version import versions_of

SCHEMA_VERSION = 7
"""2: of two heads only the one that ships; 3: says when and by which packages it was measured; 4: graphs with NMS
inside are simplified too; 5: of models of the same shapes only the one that was measured; 6: no launches of a GPU's
layers by ONNX Runtime for their times; 7: of two heads the one that the device's TensorRT builds."""
UNIFORM_SHARES = (0.5,)  # share of every width that a copy keeps
RANDOM_COPIES = 4  # copies whose widths are drawn one by one: they tell input from output width
NARROWEST_SHARE = 0.15  # share of a width that a drawn copy keeps at least
MIN_NAMED_SHARE = 0.25  # share of a model's layers that a runtime's layer times have to name to be of use
MAX_CACHED_ERROR = (
    0.25  # median held-out error above which a profile is not kept: other work ran beside it, the next may be better
)
PROFILE_EFFORT = 0.25  # of a gate's samples: a median within a percent is all that a fit can use


@dataclass(frozen=True)
class LayerProfile:
    """Measured times of a model and its copies on one device.

    Attributes:
        conditions: of the :class:`~edgeprune.search.bench.Bench` that measured.
        shapes: signature of the unpruned model.
        dimensions: their names.
        layers: of the unpruned model.
        copies: measured, the unpruned model first.
        nodes: how many timed nodes the unpruned model has; 0 where the runtime names too few of its layers (TensorRT
            may fuse whole regions under names of its own): whole models' times are then shared out by multiplications.
        kept_since: the day it was measured, where it is from the cache; empty where it was measured now.
    """

    conditions: Mapping[str, Any]
    shapes: str
    dimensions: tuple[str, ...]
    layers: tuple[Layer, ...]
    copies: tuple[MeasuredCopy, ...]
    nodes: int
    kept_since: str = ""

    @cached_property
    def fit(self) -> Fit:
        """The cost of every layer, with its held-out error."""
        return fit_costs(self.layers, self.copies)

    def costs(self) -> LayerCosts:
        """Every timed layer, and what lies behind them: measured and fitted ms, and ms with every width halved."""
        model, unpruned = self.fit.model, self.copies[0]
        factor = unpruned.total_ms / sum(unpruned.layer_ms.values())
        fitted_ms, half_ms = model.layer_ms(unpruned.widths), model.layer_ms(unpruned.widths / 2)
        outputs, inputs, *_ = model.sizes.state(unpruned.widths)
        layers = [
            LayerCost(name, factor * unpruned.layer_ms.get(name, 0.0), *map(float, figures))
            for name, *figures in zip(model.layers, fitted_ms, half_ms, inputs, outputs, strict=True)
        ]
        if fixed_ms := factor * unpruned.layer_ms.get(FIXED, 0.0):
            layers.append(LayerCost(BEHIND_THE_LAYERS, fixed_ms, model.fixed_ms, model.fixed_ms, 0, 0))
        layers.sort(key=lambda layer: -layer.ms)
        errors = self.fit.errors
        return LayerCosts(tuple(layers), unpruned.total_ms, self.nodes, model.sizes.step, errors, self.kept_since)


@dataclass(frozen=True)
class _CopyRow:
    widths: tuple[int, ...]
    whole_ms: float
    layer_ms: Mapping[str, float]


@dataclass(frozen=True)
class _ProfileFile:
    """A :class:`LayerProfile` as it is kept; its layers are not in it, because they follow from the model."""

    schema: int
    conditions: Mapping[str, Any]
    shapes: str
    nodes: int
    dimensions: tuple[str, ...]
    copies: tuple[_CopyRow, ...]
    measured: str


def timed_model(pruner: Pruner) -> dict[str, str | None]:
    """What the times of a model and its narrowed copies depend on of the model: what it computes, and with NMS inside
    its graph the weights, which say how many boxes there are."""
    return {
        "architecture": architecture_digest(pruner.original),
        "weights": pruner.source.weights if pruner.head == "nms" else None,
    }


def cache_file(cache: Path, conditions: Mapping[str, Any], model: Mapping[str, str | None], align: int) -> Path:
    """Where the profile of a model, as :func:`timed_model` tells it, on a device is kept, by copies in widths of
    multiples of ``align``, and by the packages that make its graphs."""
    content = {
        "schema": SCHEMA_VERSION,
        "conditions": dict(conditions),
        "model": dict(model),
        "align": align,
        "packages": versions_of(PACKAGES),
    }
    return cache / f"profile-{digest_of(content)[:16]}.json"


def profile_layers(
    model: nn.Module,
    bench: Bench,
    *,
    imgsz: Size,
    align: int,
    folder: Path,
    cache: Path | None = None,
    seed: int = 0,
    head: str = "auto",
    progress: Progress = silent,
) -> LayerProfile:
    """Measure a model's layers on the target, or read what was measured before.

    Args:
        model: unpruned, float32; it is not changed.
        bench: the target.
        imgsz: of the images in pixels: a side, or height and width.
        align: copies have widths in multiples of this.
        folder: scratch for engines; removed afterwards.
        cache: folder of profiles; None measures anew and keeps nothing. One whose error is above
            :data:`MAX_CACHED_ERROR` is used this once and not kept.
        seed: of the drawn widths.
        head: which of two heads the bench exports.
    """
    pruner = Pruner(model, imgsz, align=align, min_width=align, head=head)
    layers = tuple(layers_of(pruner.model, pruner.structure))
    names = tuple(dimension.name for dimension in pruner.dimensions)
    file = None if cache is None else cache_file(cache, bench.conditions, timed_model(pruner), align)
    if file is not None and (known := _read(file, layers, names)) is not None:
        return known
    output_folder(None if file is None else file.parent)
    profile = _measure(pruner, layers, bench, folder, seed, progress)
    if file is not None and not profile.fit.median_error > MAX_CACHED_ERROR:
        file.parent.mkdir(parents=True, exist_ok=True)
        _write(file, profile)
    return profile


def copy_widths(pruner: Pruner, seed: int) -> list[dict[str, int]]:
    """Widths of the copies to measure, by dimension; the first, the unpruned model, is empty."""
    generator = np.random.default_rng(seed)
    free = [dimension for dimension in pruner.dimensions if dimension.fixed is None]
    shares = [np.full(len(free), share) for share in UNIFORM_SHARES]
    shares += [generator.uniform(NARROWEST_SHARE, 1.0, len(free)) for _ in range(RANDOM_COPIES)]
    return [
        {},
        *(
            {
                dimension.name: _nearest_width(dimension, share * dimension.width)
                for dimension, share in zip(free, drawn, strict=True)
            }
            for drawn in shares
        ),
    ]


def _nearest_width(dimension: Dimension, channels: float) -> int:
    return min(dimension.allowed, key=lambda width: abs(width - channels))


def _measure(
    pruner: Pruner, layers: tuple[Layer, ...], bench: Bench, folder: Path, seed: int, progress: Progress
) -> LayerProfile:
    dimensions = pruner.dimensions
    copies = copy_widths(pruner, seed)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        engines, widths, layer_ms, nodes = [], [], [], 0
        for number, narrowed in enumerate(copies):
            progress(f"profile: layer times of copy {number + 1} of {len(copies)}", done=number, total=len(copies) + 1)
            plan = pruner.plan(widths=narrowed, scores=pruner.even_scores, importance="random")
            model = pruner.apply(plan, check=False)
            engines.append(bench.compile(model, folder / f"copy-{number}", {}).required_engine)
            times = bench.layer_times(engines[-1])
            nodes = nodes or len(times)
            layer_ms.append(sum_by_layer(times, layers))
            widths.append(np.array([plan.widths[dimension.name] for dimension in dimensions], float))
        progress("profile: whole models side by side", done=len(copies), total=len(copies) + 1)
        timed = bench.latency(engines, PROFILE_EFFORT, trained=False)
        total_ms = [value_of(measurement.values, "p50") for measurement in timed]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if sum(layer.name in layer_ms[0] for layer in layers) < MIN_NAMED_SHARE * len(layers):
        nodes, layer_ms = 0, _share_out(layers, widths, total_ms)
    measured = tuple(MeasuredCopy(*copy) for copy in zip(widths, layer_ms, total_ms, strict=True))
    names = tuple(dimension.name for dimension in dimensions)
    return LayerProfile(dict(bench.conditions), shape_signature(pruner.original), names, layers, measured, nodes)


def _share_out(
    layers: tuple[Layer, ...], copies: Sequence[np.ndarray], total_ms: Sequence[float]
) -> list[dict[str, float]]:
    """Whole models' times by layer: a part that no width changes, and the rest in proportion to multiplications."""
    counts = [{layer.name: layer.multiplications(widths) for layer in layers} for widths in copies]
    totals = np.array([sum(by_layer.values()) for by_layer in counts])
    (fixed, per_million), _ = nnls(np.stack([np.ones_like(totals), totals / 1e6], axis=1), np.array(total_ms))
    ms = (per_million or 1.0) / 1e6  # where nothing depends on the widths every layer is as good as the others
    return [{FIXED: fixed, **{name: ms * count for name, count in by_layer.items()}} for by_layer in counts]


def _write(file: Path, profile: LayerProfile) -> None:
    copies = tuple(
        _CopyRow(tuple(copy.widths.astype(int).tolist()), copy.total_ms, copy.layer_ms) for copy in profile.copies
    )
    write_json(
        file,
        _ProfileFile(
            SCHEMA_VERSION,
            profile.conditions,
            profile.shapes,
            profile.nodes,
            profile.dimensions,
            copies,
            datetime.now(timezone.utc).date().isoformat(),
        ),
    )


def _read(file: Path, layers: tuple[Layer, ...], dimensions: tuple[str, ...]) -> LayerProfile | None:
    """A profile from its file; None where there is none, or it is not one of this model."""
    try:
        kept = read_json(_ProfileFile, file)
    except DataError:
        return None
    if kept.schema != SCHEMA_VERSION or kept.dimensions != dimensions:
        return None
    copies = tuple(MeasuredCopy(np.array(row.widths, float), row.layer_ms, row.whole_ms) for row in kept.copies)
    return LayerProfile(kept.conditions, kept.shapes, dimensions, layers, copies, kept.nodes, kept.measured)
