"""Structured pruning of Ultralytics models: trace once, then plan and apply as often as wanted."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from edgeprune.checkpoint import Checkpoint, load, parameter_count, shape_signature, signature_of
from edgeprune.errors import StageError, TargetError
from edgeprune.options import image_side
from edgeprune.pruning import narrow
from edgeprune.pruning.choose import Chooser, kept_indices
from edgeprune.pruning.cost import CostModel
from edgeprune.pruning.criteria import group_of, importance_named
from edgeprune.pruning.depth import least_needed, without_blocks
from edgeprune.pruning.gates import Batch, gate_gradients
from edgeprune.pruning.plan import Plan, PlannedDimension
from edgeprune.pruning.structure import Constraints, Dimension, Structure, matches
from edgeprune.pruning.trace import trace

AUTO = "auto"  # taylor where there are labelled batches, else lamp; measured in benchmarks/pruning_criteria.md
LARGEST_ERROR = 1e-4  # float32 sums in another order give about 1e-6; wrong channels 1e-3 and more

Scores = dict[str, torch.Tensor]
Widths = Mapping[str, int]


class Pruner:
    """A model, its dimensions, and what each width costs.

    Args:
        model: an Ultralytics model (``YOLO(...).model``), float32; it is never changed.
        imgsz: side of the square images that multiply-accumulates are counted for, in pixels.
        ignore: globs over module names (``model.22.*``); what they match keeps its width.
        max_ratio: glob to the largest share of channels that may go there.
        align: widths are multiples of this.
        min_width: and not less than this.
        removed: blocks to drop before any width changes, see :func:`~edgeprune.pruning.depth.removable_blocks`.

    Attributes:
        dimensions: every width of the model, with its parts, its members, and why it is fixed, if it is.

    Raises:
        StageError: a block that a stock checkpoint cannot hold, or that cannot be traced; names the block.
        TargetError: an argument is out of range, or a glob matches nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        imgsz: int,
        *,
        ignore: Sequence[str] = (),
        max_ratio: Mapping[str, float] | None = None,
        align: int = 8,
        min_width: int = 8,
        removed: Sequence[str] = (),
    ) -> None:
        self.constraints = _checked(Constraints(tuple(ignore), dict(max_ratio or {}), align, min_width))
        image_side(imgsz, int(max(getattr(model, "stride", [32]))), str(getattr(model, "task", "")))
        self.original, self.imgsz, self.removed = model, imgsz, tuple(removed)
        self.model = without_blocks(model, removed) if removed else model
        self.structure = Structure(trace(self.model, imgsz), self.constraints)
        self.dimensions: list[Dimension] = self.structure.dimensions
        self.cost = CostModel(self.model, self.structure)
        self.whole_macs, self.whole_params = self.cost.macs(self.structure.widths), parameter_count(model)
        if removed:  # requests are relative to the model that was given
            whole = Structure(trace(model, imgsz), self.constraints)
            self.whole_macs = CostModel(model, whole).macs(whole.widths)
        makers = [maker for dimension in self.dimensions for part in dimension.parts for maker in part.makers]
        for glob in (*self.constraints.ignore, *self.constraints.max_ratio):
            if not matches(glob, makers):
                raise TargetError(f"'{glob}' matches no module of this model; try '{makers[0].partition('.')[0]}.*'")

    @cached_property
    def source(self) -> dict[str, str]:
        """Digests of the given model: ``weights`` over all values, ``shapes`` as in :func:`shape_signature`."""
        return {"weights": _weights_digest(self.original), "shapes": shape_signature(self.original)}

    def macs(self, widths: Widths | None = None) -> int:
        """Multiply-accumulates of the deployed model, batch 1, for widths by dimension name (missing: unchanged)."""
        return round(self.cost.macs(self._vector(widths)))

    def params(self, widths: Widths | None = None) -> int:
        """Parameters of the checkpoint for widths by dimension name (missing: unchanged)."""
        return self.cost.params(self._vector(widths))

    def savings(self, widths: Widths) -> dict[str, tuple[int, int]]:
        """Multiply-accumulates and parameters that each dimension's new width saves when it alone changes.

        Together they save less than the sum: a layer between two narrowed dimensions counts for both.
        """
        return {
            name: (self.macs() - self.macs({name: width}), self.params() - self.params({name: width}))
            for name, width in widths.items()
            if width != self.structure.widths[self.structure.index[name]]
        }

    def scores(
        self,
        importance: str = AUTO,
        batches: Iterable[Batch] | None = None,
        seed: int = 0,
        normalisation: str | None = None,
    ) -> Scores:
        """Importance of every channel that may go: per free dimension, float64 of shape (parts, width).

        Args:
            importance: a registered name, or ``auto``: ``taylor`` with batches, ``lamp`` without.
            batches: labelled Ultralytics batches, for criteria that need them (one backward pass each).
            seed: of the random criterion.
            normalisation: one of :data:`~edgeprune.pruning.criteria.NORMALISATIONS`; None: the criterion's own.

        Raises:
            TargetError: unknown name, or batches missing.
        """
        criterion = importance_named(resolved(importance, batches))
        gates = None
        if criterion.needs_batches:
            if batches is None:
                raise TargetError(
                    f"importance '{importance}' needs labelled batches: pass batches=, or --data DATA.yaml"
                )
            gates = torch.from_numpy(gate_gradients(self.model, self.structure, batches))
        modules = dict(self.model.named_modules())
        result: Scores = {}
        with torch.no_grad(), narrow.single_thread():
            for dimension in self.dimensions:
                if dimension.fixed is None:
                    rows = []
                    for part in dimension.parts:
                        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {part.name}".encode()))
                        own = None if gates is None else gates[:, torch.from_numpy(part.units)]
                        group = group_of(self.structure, modules, part, gates=own, generator=generator)
                        rows.append(criterion.normalised(group, normalisation).detach().double().cpu())
                    result[dimension.name] = torch.stack(rows)
        return result

    def plan(
        self,
        *,
        macs_speed_up: float | None = None,
        params_ratio: float | None = None,
        ratio: float | None = None,
        widths: Widths | None = None,
        importance: str = AUTO,
        scope: Literal["global", "local"] = "global",
        batches: Iterable[Batch] | None = None,
        seed: int = 0,
        scores: Scores | None = None,
        iterative_steps: int = 1,
        normalisation: str | None = None,
    ) -> Plan:
        """Choose what to keep; exactly one of the first four says how much.

        Args:
            macs_speed_up: multiply-accumulates before over after; at least this, at most 3 % more where widths allow.
            params_ratio: parameters after over before; at most this.
            ratio: share of the prunable channels to remove.
            widths: an explicit width by dimension name (missing: unchanged), as a budget search finds them.
            importance: which channels go; see :mod:`edgeprune.pruning.criteria`.
            scope: ``global`` ranks channels across the model, ``local`` takes the same share everywhere.
            batches: labelled batches for criteria that need them.
            seed: of the random criterion.
            scores: what :meth:`scores` gave, to plan again without computing them.
            iterative_steps: reach the request in this many equal steps, each with scores of the model so far.
            normalisation: as in :meth:`scores`.

        Raises:
            TargetError: not exactly one request, out of range, or out of reach; says how far one can go.
        """
        request = {"macs_speed_up": macs_speed_up, "params_ratio": params_ratio, "ratio": ratio, "widths": widths}
        asked = [key for key, value in request.items() if value is not None]
        if len(asked) != 1:
            raise TargetError(f"ask for exactly one of {', '.join(request)} (seen: {', '.join(asked) or 'none'})")
        if scope not in ("global", "local"):
            raise TargetError(f"unknown scope '{scope}'; choose global or local")
        if iterative_steps < 1 or (iterative_steps > 1 and (scores is not None or widths is not None)):
            raise TargetError("iterative_steps starts at 1, and more than one makes its own scores and widths")
        if iterative_steps > 1:
            batches = None if batches is None else list(batches)
            importance = resolved(importance, batches)
            amount: Any = request[asked[0]]
            scores = self._stepwise(asked[0], amount, iterative_steps, importance, scope, batches, seed, normalisation)
        if scores is None:
            importance = resolved(importance, batches)
            scores = self.scores(importance, batches, seed, normalisation)
        if widths is not None:
            chosen = self._explicit(widths)
        else:
            chosen = self._chosen(Chooser(self.dimensions, scores, local=scope == "local"), asked[0], request[asked[0]])
        settings = {
            "imgsz": self.imgsz,
            "importance": importance,
            "normalisation": normalisation,
            "scope": scope,
            "seed": seed,
            "align": self.constraints.align,
            "min_width": self.constraints.min_width,
            "ignore": list(self.constraints.ignore),
            "max_ratio": dict(self.constraints.max_ratio),
            "iterative_steps": iterative_steps,
            "request": {asked[0]: request[asked[0]] if widths is None else "explicit"},
        }
        return self._finished(chosen, scores, settings)

    def apply(self, plan: Plan, *, check: bool = True) -> nn.Module:
        """A new stock model with only what the plan keeps.

        Args:
            check: compare its raw outputs with the original's where every removed channel is held at zero.

        Raises:
            StageError: the plan does not fit this model (names the first mismatch), or a check failed.
        """
        keep = self._keep(plan)
        image = narrow.check_image(self.model)
        with narrow.single_thread():
            expected = narrow.masked_outputs(self.model, self.structure, keep, image) if check else None
            result = narrow.narrowed(self.model, self.structure, keep).eval()
            signature = shape_signature(result)
            if signature != plan.result_shapes:
                raise StageError(
                    f"the pruned model's shapes ({signature[:12]}) are not the plan's ({plan.result_shapes[:12]}); "
                    "was the plan made by another version?"
                )
            if expected is not None:
                error = narrow.largest_difference(expected, narrow.raw_outputs(result, image))
                if not error <= LARGEST_ERROR:
                    raise StageError(
                        f"the pruned model differs from the masked one by {error:.1e} (allowed {LARGEST_ERROR})"
                    )
                narrow.check_forward(result, image)
        return result

    def _vector(self, widths: Widths | None) -> np.ndarray:
        vector = self.structure.widths.copy()
        for name, width in (widths or {}).items():
            if name not in self.structure.index:
                raise TargetError(f"'{name}' is not a dimension of this model; see Pruner.dimensions")
            vector[self.structure.index[name]] = width
        return vector

    def _explicit(self, widths: Widths) -> np.ndarray:
        for name, width in widths.items():
            dimension = self.dimensions[self.structure.index[name]] if name in self.structure.index else None
            if dimension is not None and width != dimension.width and width not in dimension.allowed:
                why = dimension.fixed or f"allowed are {', '.join(map(str, dimension.allowed))}"
                raise TargetError(f"{name} cannot become {width} wide: {why}")
        return self._vector(widths)

    def _chosen(self, chooser: Chooser, kind: str, value: Any) -> np.ndarray:
        free = np.zeros(len(self.dimensions))
        free[chooser.free] = 1
        cost, whole = {
            "macs_speed_up": (self.cost.macs, self.whole_macs),
            "params_ratio": (self.cost.params, self.whole_params),
            "ratio": (lambda vector: float(free @ vector), float(free @ self.structure.widths)),
        }[kind]
        if kind == "macs_speed_up":
            if not value >= 1:
                raise TargetError(f"macs_speed_up must be at least 1 (seen: {value})")
            limit = whole / value
        else:
            if not 0 < value <= 1 and not (kind == "ratio" and value == 0):
                raise TargetError(f"{kind} must lie between 0 and 1 (seen: {value})")
            limit = whole * (value if kind == "params_ratio" else 1 - value)
        widths = chooser.within(cost, limit)
        if widths is None:
            least = cost(chooser.least)
            reach = whole / least if kind == "macs_speed_up" else least / whole
            reach = 1 - reach if kind == "ratio" else reach
            raise TargetError(
                f"{kind} {value:g} is out of reach: this model comes to {reach:.2f} with every dimension at its "
                f"least width (align {self.constraints.align}, min_width {self.constraints.min_width}); "
                "lower those, or ask for less"
            )
        return widths

    def _stepwise(
        self,
        kind: str,
        value: float,
        steps: int,
        importance: str,
        scope: Any,
        batches: Any,
        seed: int,
        normalisation: str | None,
    ) -> Scores:
        """Scores whose order is the order in which channels go when they are ranked anew after every step.

        What an earlier step removes ranks below everything that a later one still sees.
        """
        scores: Scores = {}
        gone = {one.name: np.zeros((len(one.parts), one.width), dtype=bool) for one in self.dimensions}
        pruner = self
        for step in range(1, steps + 1):
            fresh = pruner.scores(importance, batches, seed, normalisation)
            for dimension in self.dimensions:
                if dimension.fixed is None:
                    alive = ~gone[dimension.name]
                    whole = torch.full(alive.shape, -1.0, dtype=torch.float64)  # gone before: below any criterion
                    known = fresh.get(dimension.name)
                    whole[torch.from_numpy(alive)] = 1.0 if known is None else known.ravel()
                    scores[dimension.name] = whole
            if step == steps:
                break
            share = step / steps
            partial: Any = {kind: value**share if kind != "ratio" else value * share}
            plan = self.plan(**partial, importance=importance, scope=scope, seed=seed, scores=scores)
            for dimension, line in zip(self.dimensions, plan.dimensions, strict=True):
                for i, part in enumerate(dimension.parts):
                    if part.name in line.kept:
                        gone[dimension.name][i] = True
                        gone[dimension.name][i, list(line.kept[part.name])] = False
            pruner = Pruner(self.apply(plan, check=False), self.imgsz, align=1, min_width=1)
        return scores

    def _finished(self, chosen: np.ndarray, scores: Scores, settings: dict[str, Any]) -> Plan:
        dimensions = []
        for dimension, after in zip(self.dimensions, chosen.astype(int).tolist(), strict=True):
            kept = {}
            if after != dimension.width:
                rows = zip(dimension.parts, scores[dimension.name], strict=True)
                kept = {part.name: kept_indices(part, row, after) for part, row in rows}
            dimensions.append(PlannedDimension(dimension.name, dimension.width, after, kept, dimension.fixed))
        return Plan(
            dimensions=tuple(dimensions),
            source=self.source,
            result_shapes=signature_of(narrow.shapes_after(self.model, self.structure, chosen)),
            macs=(round(self.whole_macs), round(self.cost.macs(chosen))),
            params=(self.whole_params, self.cost.params(chosen)),
            settings=settings,
            versions=_versions(),
            removed=self.removed,
        )

    def everything(self) -> np.ndarray:
        """A mask that keeps every unit: booleans of shape (units,)."""
        return np.ones(int(self.structure.unit.max()) + 1, dtype=bool)

    def _mask(self, planned: Iterable[PlannedDimension]) -> np.ndarray:
        keep = self.everything()
        for dimension, line in zip(self.dimensions, planned, strict=True):
            for part in dimension.parts:
                if part.name in line.kept:
                    keep[part.units] = False
                    keep[part.units[list(line.kept[part.name])]] = True
        return keep

    def _keep(self, plan: Plan) -> np.ndarray:
        """The mask of a plan, once it is known to fit; StageError with the first mismatch otherwise."""
        if set(plan.removed) != set(self.removed):
            raise StageError(
                f"the plan drops {', '.join(plan.removed) or 'no blocks'}, this Pruner was built with "
                f"removed={list(self.removed)}; pass the plan's"
            )
        own = {dimension.name: dimension for dimension in self.dimensions}
        for line in plan.dimensions:
            if line.name not in own:
                raise StageError(f"the plan does not fit: this model has no dimension '{line.name}'")
            _refuse_misfit(line, own[line.name])
        missing = set(own) - {line.name for line in plan.dimensions}
        if missing or len(plan.dimensions) != len(own):
            raise StageError(f"the plan does not fit: it says nothing of '{min(missing, default='a second line')}'")
        by_name = {line.name: line for line in plan.dimensions}
        if plan.source.get("shapes") != self.source["shapes"]:
            raise StageError(
                f"the plan does not fit: it was made for shapes {str(plan.source.get('shapes'))[:12]}, "
                f"this model has {self.source['shapes'][:12]}"
            )
        return self._mask(by_name[dimension.name] for dimension in self.dimensions)


@dataclass(frozen=True)
class PruneResult:
    """What :func:`prune` gives: the new model, the plan, the counts before and after, and :meth:`Pruner.savings`."""

    model: nn.Module
    plan: Plan
    macs_before: int
    macs_after: int
    params_before: int
    params_after: int
    signature: str
    checkpoint: Checkpoint | None
    savings: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def metadata(self) -> dict[str, Any]:
        """Plain data for the checkpoint: the plan, its digest, and the shape signature that later stages check."""
        return {"plan": self.plan.to_data(), "plan_digest": self.plan.digest, "shape_signature": self.signature}


def prune(
    model: nn.Module | Checkpoint | Path | str,
    *,
    imgsz: int | None = None,
    plan: Plan | Path | str | None = None,
    macs_speed_up: float | None = None,
    params_ratio: float | None = None,
    ratio: float | None = None,
    importance: str = AUTO,
    scope: Literal["global", "local"] = "global",
    batches: Iterable[Batch] | None = None,
    seed: int = 0,
    iterative_steps: int = 1,
    ignore: Sequence[str] = (),
    max_ratio: Mapping[str, float] | None = None,
    align: int = 8,
    min_width: int = 8,
    drop_blocks: int = 0,
    trust: bool = False,
    normalisation: str | None = None,
) -> PruneResult:
    """Prune a model or a checkpoint in one call; arguments as in :class:`Pruner` and :meth:`Pruner.plan`.

    Args:
        imgsz: pixels; by default the plan's, else what the checkpoint was trained at, else 640.
        plan: a plan or its file, instead of one of the three requests.
        drop_blocks: drop this many whole blocks first, those whose loss on ``batches`` matters least.
        trust: load a checkpoint with classes outside Ultralytics and torch (it can run any code).
    """
    checkpoint = model if isinstance(model, Checkpoint) else None
    if isinstance(model, (str, Path)):
        checkpoint = load(model, trust=trust)
    network: Any = checkpoint.model if checkpoint is not None else model
    if plan is not None and not isinstance(plan, Plan):
        plan = Plan.load(plan)
    if plan is not None and any(value is not None for value in (macs_speed_up, params_ratio, ratio)):
        raise TargetError("a plan says itself how much to prune; leave out macs_speed_up, params_ratio and ratio")
    if imgsz is None:
        trained = (checkpoint.train_args if checkpoint else {}).get("imgsz")
        imgsz = int(plan.settings["imgsz"]) if plan is not None else int(trained) if isinstance(trained, int) else 640
    batches = None if batches is None else list(batches)
    removed = plan.removed if plan is not None else ()
    if drop_blocks and plan is None:
        if batches is None:
            raise TargetError("drop_blocks ranks blocks by the loss: pass batches=, or --data DATA.yaml")
        removed = tuple(least_needed(network, drop_blocks, batches))
    pruner = Pruner(
        network, imgsz, ignore=ignore, max_ratio=max_ratio, align=align, min_width=min_width, removed=removed
    )
    if plan is None:
        plan = pruner.plan(
            macs_speed_up=macs_speed_up,
            params_ratio=params_ratio,
            ratio=ratio,
            importance=importance,
            scope=scope,
            batches=batches,
            seed=seed,
            iterative_steps=iterative_steps,
            normalisation=normalisation,
        )
    result = pruner.apply(plan)
    if parameter_count(result) != plan.params[1]:
        raise StageError(f"the pruned model has {parameter_count(result)} parameters, the plan says {plan.params[1]}")
    return PruneResult(
        result, plan, *plan.macs, *plan.params, plan.result_shapes, checkpoint, pruner.savings(plan.widths)
    )


def resolved(importance: str, batches: Iterable[Batch] | None) -> str:
    """The criterion that ``auto`` stands for: the one that keeps most accuracy with what is there."""
    if importance != AUTO:
        return importance
    return "lamp" if batches is None else "taylor"


def _checked(constraints: Constraints) -> Constraints:
    if constraints.align < 1 or constraints.min_width < 1:
        raise TargetError(f"align and min_width start at 1 (seen: {constraints.align}, {constraints.min_width})")
    for glob, share in constraints.max_ratio.items():
        if not 0 <= share < 1:
            raise TargetError(f"max_ratio of '{glob}' must be at least 0 and less than 1 (seen: {share})")
    return constraints


def _refuse_misfit(line: PlannedDimension, dimension: Dimension) -> None:
    def refuse(what: str) -> None:
        raise StageError(f"the plan does not fit: dimension '{line.name}' {what}")

    if line.before != dimension.width:
        refuse(f"is {dimension.width} wide here and {line.before} in the plan")
    if line.after == line.before and not line.kept:
        return
    names = [part.name for part in dimension.parts]
    if sorted(line.kept) != sorted(names):
        refuse(f"has the parts {', '.join(names)} here and {', '.join(line.kept) or 'none'} in the plan")
    for part in dimension.parts:
        indices = line.kept[part.name]
        if len(indices) != line.after or not indices:
            refuse(f"keeps {len(indices)} channels of {part.name}, not {line.after}")
        if list(indices) != sorted(set(indices)) or indices[0] < 0 or indices[-1] >= dimension.width:
            refuse(f"keeps channels of {part.name} that are not ascending within 0..{dimension.width - 1}")
        per_row = np.bincount(np.array(indices) // (dimension.width // part.rows), minlength=part.rows)
        if len(set(per_row.tolist())) != 1:
            refuse(f"keeps unequally many channels of the {part.rows} heads of {part.name}")
    if dimension.pinned:
        refuse(f"cannot change: {dimension.fixed}")


def _weights_digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    import ultralytics

    import edgeprune

    return {
        "edgeprune": edgeprune.__version__,
        "ultralytics": ultralytics.__version__,
        "torch": str(torch.__version__),
        "torch-pruning": version("torch-pruning"),
    }
