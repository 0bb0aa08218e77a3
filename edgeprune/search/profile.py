"""Measure what each layer of a model costs on the target: the model itself and a few narrowed copies of it.

Takes a model and a :class:`~edgeprune.search.bench.Bench`; gives a :class:`Profile`. A profile belongs to one device
identity and one model's shapes, and is kept as JSON under a name made of both.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import nn

from edgeprune.artifact import write_atomically
from edgeprune.checkpoint import shape_signature
from edgeprune.progress import Progress, silent
from edgeprune.pruning.pruner import Pruner
from edgeprune.pruning.structure import Dimension
from edgeprune.samples.statistics import value_of
from edgeprune.search.bench import Bench
from edgeprune.search.cost import Fit, Sample, fitted
from edgeprune.search.layers import FIXED, Layer, attributed, layers_of

SCHEMA = 1
UNIFORM = (0.5,)  # share of every width that a copy keeps
DRAWN = 4  # copies whose widths are drawn one by one: they tell input from output width
NARROWEST = 0.15  # share of a width that a drawn copy keeps at least
NAMED = 0.25  # share of a model's layers that a runtime's layer times have to name to be of use
KEPT = 0.25  # median held-out error above which a profile is not kept: other work ran beside it, the next may be better
EFFORT = 0.25  # of a gate's samples: a median within a percent is all that a fit can use


@dataclass(frozen=True)
class Profile:
    """Measured times of a model and its copies on one device.

    Attributes:
        conditions: of the :class:`~edgeprune.search.bench.Bench` that measured.
        shapes: signature of the unpruned model.
        dimensions: their names.
        layers: of the unpruned model.
        samples: the unpruned model first.
        nodes: how many timed nodes the unpruned model has; 0 where the runtime names too few of its layers (TensorRT
            may fuse whole regions under names of its own): whole models' times are then shared out by multiplications.
    """

    conditions: Mapping[str, Any]
    shapes: str
    dimensions: tuple[str, ...]
    layers: tuple[Layer, ...]
    samples: tuple[Sample, ...]
    nodes: int

    @cached_property
    def fit(self) -> Fit:
        """The cost of every layer, with its held-out error."""
        return fitted(self.layers, self.samples)

    def to_json(self) -> str:
        """JSON that :func:`profiled` reads again; layers are not in it, they follow from the model."""
        copies = [
            {
                "widths": sample.widths.astype(int).tolist(),
                "whole_ms": sample.whole_ms,
                "layer_ms": dict(sample.layer_ms),
            }
            for sample in self.samples
        ]
        content = {
            "schema": SCHEMA,
            "conditions": dict(self.conditions),
            "shapes": self.shapes,
            "nodes": self.nodes,
            "dimensions": list(self.dimensions),
            "copies": copies,
        }
        return json.dumps(content, indent=1) + "\n"


def cache_file(cache: Path, conditions: Mapping[str, Any], shapes: str) -> Path:
    """Where the profile of a model on a device is kept."""
    text = json.dumps({"schema": SCHEMA, "conditions": dict(conditions), "shapes": shapes}, sort_keys=True, default=str)
    return cache / f"profile-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def profiled(
    model: nn.Module,
    bench: Bench,
    *,
    imgsz: int,
    align: int,
    folder: Path,
    cache: Path | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Profile:
    """Measure a model's layers on the target, or read what was measured before.

    Args:
        model: unpruned, float32; it is not changed.
        bench: the target.
        imgsz: side of the images in pixels.
        align: copies have widths in multiples of this.
        folder: scratch for engines; removed afterwards.
        cache: folder of profiles; None measures anew and keeps nothing. One whose error is above :data:`KEPT` is used
            this once and not kept.
        seed: of the drawn widths.
    """
    pruner = Pruner(model, imgsz, align=align, min_width=align)
    layers = tuple(layers_of(pruner.model, pruner.structure))
    shapes = shape_signature(model)
    names = tuple(dimension.name for dimension in pruner.dimensions)
    file = None if cache is None else cache_file(cache, bench.conditions, shapes)
    if file is not None and (known := _read(file, layers, names)) is not None:
        return known
    profile = _measured(pruner, layers, bench, folder, seed, progress)
    if file is not None and not profile.fit.median_error > KEPT:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, profile.to_json())
    return profile


def copies_of(pruner: Pruner, seed: int) -> list[dict[str, int]]:
    """Widths of the copies to measure, by dimension; the unpruned model first."""
    generator = np.random.default_rng(seed)
    free = [dimension for dimension in pruner.dimensions if dimension.fixed is None]
    shares = [np.full(len(free), share) for share in UNIFORM]
    shares += [generator.uniform(NARROWEST, 1.0, len(free)) for _ in range(DRAWN)]
    return [
        {},
        *(
            {one.name: _nearest(one, share * one.width) for one, share in zip(free, drawn, strict=True)}
            for drawn in shares
        ),
    ]


def _nearest(dimension: Dimension, wanted: float) -> int:
    return min(dimension.allowed, key=lambda width: abs(width - wanted))


def _measured(
    pruner: Pruner, layers: tuple[Layer, ...], bench: Bench, folder: Path, seed: int, progress: Progress
) -> Profile:
    any_channels = {one.name: torch.zeros(len(one.parts), one.width) for one in pruner.dimensions}
    copies = copies_of(pruner, seed)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        engines, plans, spent, nodes = [], [], [], 0
        for number, widths in enumerate(copies):
            progress(f"profile: layer times of copy {number + 1} of {len(copies)}", done=number, total=len(copies) + 1)
            plan = pruner.plan(widths=widths, scores=any_channels, importance="random")
            narrow = pruner.apply(plan, check=False)
            engines.append(bench.compiled(narrow, folder / f"copy-{number}", {})["engine"][1])
            times = bench.taken_apart(engines[-1])
            nodes = nodes or len(times)
            spent.append(attributed(times, layers))
            plans.append(plan)
        progress("profile: whole models side by side", done=len(copies), total=len(copies) + 1)
        whole = [value_of(one.values, "p50") for one in bench.raced(engines, EFFORT)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if sum(layer.name in spent[0] for layer in layers) < NAMED * len(layers):
        nodes = 0
        wide = [np.array([plan.widths[one.name] for one in pruner.dimensions], float) for plan in plans]
        spent = _shared_out(layers, wide, whole)
    samples = tuple(
        Sample(np.array([plan.widths[one.name] for one in pruner.dimensions], float), times, ms)
        for plan, times, ms in zip(plans, spent, whole, strict=True)
    )
    names = tuple(one.name for one in pruner.dimensions)
    return Profile(dict(bench.conditions), shape_signature(pruner.original), names, layers, samples, nodes)


def _shared_out(
    layers: tuple[Layer, ...], copies: Sequence[np.ndarray], whole_ms: Sequence[float]
) -> list[dict[str, float]]:
    """Whole models' times by layer: a part that no width changes, and the rest in proportion to multiplications."""
    work = [{layer.name: layer.multiplications(widths) for layer in layers} for widths in copies]
    totals = np.array([sum(one.values()) for one in work])
    (fixed, per_million), _ = nnls(np.stack([np.ones_like(totals), totals / 1e6], axis=1), np.array(whole_ms))
    ms = (per_million or 1.0) / 1e6  # where nothing depends on the widths every layer is as good as the others
    return [{FIXED: fixed, **{name: ms * count for name, count in one.items()}} for one in work]


def _read(file: Path, layers: tuple[Layer, ...], dimensions: tuple[str, ...]) -> Profile | None:
    """A profile from its file; None where there is none, or it is not one of this model."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA or tuple(data["dimensions"]) != dimensions:
            return None
        samples = tuple(
            Sample(np.array(one["widths"], float), dict(one["layer_ms"]), float(one["whole_ms"]))
            for one in data["copies"]
        )
        return Profile(data["conditions"], data["shapes"], dimensions, layers, samples, int(data["nodes"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
