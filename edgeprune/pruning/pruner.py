"""Structured pruning of Ultralytics models: trace once, then plan and apply as often as wanted."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from importlib.metadata import version

import numpy as np
import torch
from torch import nn

from edgeprune.checkpoint import parameter_count, shape_signature, signature_of
from edgeprune.errors import StageError, TargetError
from edgeprune.families import network_of
from edgeprune.input_size import Size, taken_size
from edgeprune.options import named, option, plain_number
from edgeprune.progress import Progress, Reporter, reporter_of
from edgeprune.pruning import equivalence
from edgeprune.pruning.batches import Batch
from edgeprune.pruning.channel_gradients import channel_gradients
from edgeprune.pruning.choose import Chooser, CostFunction, best_channels, within
from edgeprune.pruning.criteria import importance_named, refuse_without_batches
from edgeprune.pruning.depth import original_names, remove_blocks
from edgeprune.pruning.group import group_of
from edgeprune.pruning.heads import refuse_fused_head, training_only
from edgeprune.pruning.macs import MacsModel
from edgeprune.pruning.narrow import narrow_model, shapes_for_widths
from edgeprune.pruning.plan import Plan, PlannedDimension, PlanSettings, SourceDigests
from edgeprune.pruning.plan_mask import require_fit, unit_mask
from edgeprune.pruning.structure import Constraints, Dimension, Structure, glob_matches
from edgeprune.pruning.trace import trace_model
from edgeprune.settings import PruneSettings, Scope, refuse_unused_normalisation
from edgeprune.version import __version__

AUTO = "auto"  # taylor where there are labelled batches, else lamp; measured in benchmarks/pruning_criteria.md
UNCHANGED = {"macs_speed_up": 1.0, "params_ratio": 1.0, "ratio": 0.0}  # what asks for nothing

Scores = dict[str, torch.Tensor]
Widths = Mapping[str, int]


class Pruner:
    """A model, its dimensions, and what each width costs.

    Args:
        model: an Ultralytics model (``YOLO(...)`` or its ``.model``), float32; it is never changed.
        imgsz: of the images that multiply-accumulates are counted for, in pixels: a side, or height and width.
        ignore, max_ratio, align, min_width: as in :class:`~edgeprune.pruning.structure.Constraints`; globs are matched
            against the names in ``model``, whatever is dropped from it.
        removed: blocks to drop before any width changes, see :func:`~edgeprune.pruning.depth.removable_blocks`.
        head: which of two heads ships, one of :data:`~edgeprune.pruning.heads.HEADS`; the other one costs nothing,
            ranks nothing and keeps its widths.
        whole: one of the same model by the same arguments but ``removed``, whose counts and digests hold for this one
            too; as :meth:`without` gives it.

    Attributes:
        dimensions: every width of the model, with its parts, its members, and why it is fixed, if it is.

    Raises:
        DataError: no model of Ultralytics, one of a family that does not run here, or a head that ``fuse()`` left
            without what it is trained with; names its class.
        StageError: a block that a stock checkpoint cannot hold, or that cannot be traced; names the block.
        TargetError: an argument is out of range, a glob matches nothing, or the head is unknown.
    """

    def __init__(
        self,
        model: nn.Module,
        imgsz: Size,
        *,
        ignore: Sequence[str] = (),
        max_ratio: Mapping[str, float] | None = None,
        align: int = PruneSettings.align,
        min_width: int = PruneSettings.min_width,
        removed: Sequence[str] = (),
        head: str = "auto",
        whole: Pruner | None = None,
    ) -> None:
        model = network_of(model)
        refuse_fused_head(model)
        shares = {glob: plain_number(share) for glob, share in (max_ratio or {}).items()}
        self.constraints = Constraints(tuple(ignore), shares, align, min_width)
        imgsz = taken_size(imgsz, int(max(getattr(model, "stride", [32]))), str(getattr(model, "task", "")))
        self.original, self.imgsz, self.removed, self.head = model, imgsz, tuple(removed), head
        self.model = remove_blocks(model, removed) if removed else model
        self._whole = whole
        self._left_out = left_out = training_only(model, head) if whole is None else whole._left_out
        back = original_names(model, self.removed) if removed else None
        self.structure = Structure(trace_model(self.model, imgsz), self.constraints, left_out, back)
        self.dimensions: list[Dimension] = self.structure.dimensions
        self.counts = MacsModel(self.model, self.structure)
        if whole is not None:
            self.macs_unpruned, self.params_unpruned = whole.macs_unpruned, whole.params_unpruned
        else:
            self.macs_unpruned, self.params_unpruned = self._macs_unpruned(), parameter_count(model)

    def _macs_unpruned(self) -> float:
        """Multiply-accumulates of the model that was given, which requests are relative to; its globs are looked at."""
        unpruned, counts = self.structure, self.counts
        if self.removed:
            unpruned = Structure(trace_model(self.original, self.imgsz), self.constraints, self._left_out)
            counts = MacsModel(self.original, unpruned)
        makers = [maker for dimension in unpruned.dimensions for part in dimension.parts for maker in part.makers]
        for argument in ("ignore", "max_ratio"):
            for glob in getattr(self.constraints, argument):
                if not glob_matches(glob, makers):
                    near = f"'{makers[0].partition('.')[0]}.*'"
                    raise TargetError(f"{named(argument)}: '{glob}' matches no module of this model; try {near}")
        return counts.macs(unpruned.widths)

    @property
    def narrowest(self) -> dict[str, int]:
        """The least width that is allowed, by name of the free dimension."""
        return {one.name: min(one.allowed) for one in self.dimensions if one.fixed is None}

    @property
    def even_scores(self) -> Scores:
        """Scores that put no channel before another, for plans of which no channel matters: those that are only timed,
        or keep all."""
        free = [one for one in self.dimensions if one.fixed is None]
        return {one.name: torch.zeros(len(one.parts), one.width, dtype=torch.float64) for one in free}

    def without(self, blocks: Sequence[str]) -> Pruner:
        """One for the same model without these blocks, under the same constraints."""
        constraints = self.constraints
        return Pruner(
            self.original,
            self.imgsz,
            ignore=constraints.ignore,
            max_ratio=constraints.max_ratio,
            align=constraints.align,
            min_width=constraints.min_width,
            removed=blocks,
            head=self.head,
            whole=self._whole or self,
        )

    @cached_property
    def source(self) -> SourceDigests:
        """Digests of the given model."""
        if self._whole is not None:
            return self._whole.source
        return SourceDigests(_weights_digest(self.original), shape_signature(self.original))

    def macs(self, widths: Widths | None = None) -> int:
        """Multiply-accumulates of the deployed model, batch 1, for widths by dimension name (missing: unchanged)."""
        return round(self.counts.macs(self._width_vector(widths)))

    def params(self, widths: Widths | None = None) -> int:
        """Parameters of the checkpoint for widths by dimension name (missing: unchanged)."""
        return self.counts.params(self._width_vector(widths))

    def savings(self, widths: Widths) -> dict[str, tuple[int, int]]:
        """Multiply-accumulates and parameters that each dimension's new width saves when it alone changes.

        Together they save less than the sum: a layer between two narrowed dimensions counts for both.
        """
        return {
            name: (self.macs() - self.macs({name: width}), self.params() - self.params({name: width}))
            for name, width in widths.items()
            if width != self.structure.widths[self.structure.index[name]]
        }

    def refuse_fixed(self) -> None:
        """Raise ``TargetError`` where no width of the model can change; says why, the commonest reason first."""
        if any(dimension.fixed is None for dimension in self.dimensions):
            return
        counts = Counter(dimension.fixed for dimension in self.dimensions if dimension.fixed)
        reasons = "; ".join(f"{count} × {reason}" for reason, count in counts.most_common(4))
        raise TargetError(f"nothing can be pruned: none of {len(self.dimensions)} widths may change: {reasons}")

    def scores(
        self,
        importance: str = AUTO,
        batches: Iterable[Batch] | None = None,
        seed: int = 0,
        normalisation: str | None = None,
        *,
        progress: Progress | Reporter | None = None,
    ) -> Scores:
        """Importance of every channel that may go: per free dimension, float64 of shape (parts, width).

        Args:
            importance: a registered name, or ``auto``: ``taylor`` with batches, ``lamp`` without.
            batches: labelled Ultralytics batches, for criteria that need them (one backward pass each).
            seed: of the random criterion.
            normalisation: one of :data:`~edgeprune.pruning.criteria.NORMALISATIONS`; None: the criterion's own.
            progress: called as the work moves, or a :class:`~edgeprune.progress.Reporter`; nobody by default.

        Raises:
            TargetError: unknown name, or batches missing.
        """
        tell = reporter_of(progress).progress
        importance = resolve_importance(importance, batches)
        refuse_without_batches(importance, batches)
        criterion, gradients = importance_named(importance), None
        if criterion.needs_batches and batches is not None:
            gradients = torch.from_numpy(
                channel_gradients(self.model, self.structure, batches, head=self.head, progress=tell)
            )
        modules = dict(self.model.named_modules())
        result: Scores = {}
        with torch.no_grad(), equivalence.single_thread():
            for dimension in self.dimensions:
                if dimension.fixed is None:
                    rows = []
                    for part in dimension.parts:
                        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {part.name}".encode()))
                        part_gradients = None if gradients is None else gradients[:, torch.from_numpy(part.units)]
                        group = group_of(self.structure, modules, part, gradients=part_gradients, generator=generator)
                        rows.append(criterion.normalised_scores(group, normalisation).detach().double().cpu())
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
        scope: Scope = "global",
        batches: Iterable[Batch] | None = None,
        seed: int = 0,
        scores: Scores | None = None,
        iterative_steps: int = 1,
        normalisation: str | None = None,
        progress: Progress | Reporter | None = None,
    ) -> Plan:
        """Choose what to keep; exactly one of the first four says how much. The rest as in
        :func:`~edgeprune.pruning.api.prune`.

        Args:
            macs_speed_up: multiply-accumulates before over after; at least this, at most 3 % more where widths allow.
            params_ratio: parameters after over before; at most this.
            ratio: share of the prunable channels to remove.
            widths: an explicit width by dimension name (missing: unchanged), as a budget search finds them.
            scores: what :meth:`scores` gave, to plan again without computing them.

        Raises:
            TargetError: not exactly one request, out of range, or out of reach; says how far one can go.
        """
        tell = reporter_of(progress).progress
        requests = {"macs_speed_up": macs_speed_up, "params_ratio": params_ratio, "ratio": ratio}
        kinds = [kind for kind, value in {**requests, "widths": widths}.items() if value is not None]
        if len(kinds) != 1:
            seen = ", ".join(kinds) or "none"
            raise TargetError(f"ask for exactly one of {', '.join(map(named, requests))}, widths (seen: {seen})")
        if scope not in ("global", "local"):
            raise TargetError(f"unknown {named('scope')} '{scope}'; choose global or local")
        refuse_unused_normalisation(scope, normalisation)
        if iterative_steps < 1 or (iterative_steps > 1 and (scores is not None or widths is not None)):
            raise TargetError(
                f"{named('iterative_steps')} starts at 1, and more than one makes its own scores and widths"
            )
        kind = kinds[0]
        amount = plain_number(requests.get(kind) or 0.0)
        if widths is None:
            check_request(kind, amount)
            if amount != UNCHANGED[kind]:
                self.refuse_fixed()
            self._limit_of(kind, amount)  # before channels are ranked, which can take minutes
        if iterative_steps > 1:
            batches = None if batches is None else list(batches)
            importance = resolve_importance(importance, batches)
            scores = self._stepwise_scores(
                kind, amount, iterative_steps, importance, scope, batches, seed, normalisation, tell
            )
        if scores is None:
            importance = resolve_importance(importance, batches)
            scores = self.scores(importance, batches, seed, normalisation, progress=tell)
        if widths is not None:
            chosen = self._allowed_widths(widths)
        else:
            chosen = self._choose(Chooser(self.dimensions, scores, local=scope == "local"), kind, amount)
        settings = PlanSettings(
            imgsz=self.imgsz,
            importance=importance,
            normalisation=normalisation,
            scope=scope,
            seed=seed,
            align=self.constraints.align,
            min_width=self.constraints.min_width,
            ignore=self.constraints.ignore,
            max_ratio=self.constraints.max_ratio,
            iterative_steps=iterative_steps,
            request={kind: amount if widths is None else "explicit"},
            head=self.head,
        )
        lines = []
        for dimension, after in zip(self.dimensions, chosen.astype(int).tolist(), strict=True):
            kept = self._kept_channels(dimension, after, scores) if after != dimension.width else {}
            lines.append(PlannedDimension(dimension.name, dimension.width, after, dimension.fixed, kept))
        return Plan(
            versions=_versions(),
            source=self.source,
            settings=settings,
            macs=(round(self.macs_unpruned), round(self.counts.macs(chosen))),
            params=(self.params_unpruned, self.counts.params(chosen)),
            result_shapes=signature_of(shapes_for_widths(self.model, self.structure, chosen)),
            removed=self.removed,
            dimensions=tuple(lines),
        )

    def apply(self, plan: Plan, *, check: bool = True) -> nn.Module:
        """A new stock model with only what the plan keeps.

        Args:
            check: compare its raw outputs with the original's where every removed channel is held at zero.

        Raises:
            DataError: the plan does not fit this model (names the first mismatch).
            StageError: a check failed.
        """
        keep = self.plan_mask(plan)
        image = equivalence.check_image(self.model)
        with equivalence.single_thread():
            expected = equivalence.masked_outputs(self.model, self.structure, keep, image) if check else None
            result = narrow_model(self.model, self.structure, keep).eval()
            signature = shape_signature(result)
            if signature != plan.result_shapes:
                raise StageError(
                    f"the pruned model's shapes ({signature[:12]}) are not the plan's ({plan.result_shapes[:12]}); "
                    "was the plan made by another version?"
                )
            if expected is not None:
                error = equivalence.largest_difference(expected, equivalence.raw_outputs(result, image))
                if not error <= equivalence.LARGEST_ERROR:
                    raise StageError(
                        f"the pruned model differs from the masked one by {error:.1e} "
                        f"(allowed {equivalence.LARGEST_ERROR})"
                    )
                equivalence.check_forward(result, image)
        return result

    def plan_mask(self, plan: Plan) -> np.ndarray:
        """Booleans of shape (units,), True for what a plan keeps; StageError unless it fits this model."""
        require_fit(plan, self.dimensions, shapes=self.source.shapes, removed=self.removed)
        return self._mask(item for line in plan.dimensions for item in line.kept.items())

    def widths_mask(self, widths: Widths, scores: Scores) -> np.ndarray:
        """Booleans of shape (units,), True for what stays when dimensions keep only their most important channels.

        Args:
            widths: width by dimension name; dimensions that are not named keep all of theirs.
            scores: what :meth:`scores` gave.
        """
        narrowed = [self.dimensions[self.structure.index[name]] for name in widths]
        kept = [self._kept_channels(dimension, widths[dimension.name], scores) for dimension in narrowed]
        return self._mask(item for parts in kept for item in parts.items())

    def _mask(self, kept: Iterable[tuple[str, Sequence[int]]]) -> np.ndarray:
        return unit_mask(self.dimensions, kept, int(self.structure.unit.max()) + 1)

    @staticmethod
    def _kept_channels(dimension: Dimension, width: int, scores: Scores) -> dict[str, tuple[int, ...]]:
        """Indices of the channels that stay, for every part of a dimension."""
        rows = zip(dimension.parts, scores[dimension.name], strict=True)
        return {part.name: best_channels(part, row, width) for part, row in rows}

    def _width_vector(self, widths: Widths | None) -> np.ndarray:
        vector = self.structure.widths.copy()
        for name, width in (widths or {}).items():
            if name not in self.structure.index:
                raise TargetError(f"'{name}' is not a dimension of this model; see Pruner.dimensions")
            vector[self.structure.index[name]] = width
        return vector

    def _allowed_widths(self, widths: Widths) -> np.ndarray:
        """A width for every dimension; TargetError for one that the dimension cannot take."""
        for name, width in widths.items():
            dimension = self.dimensions[self.structure.index[name]] if name in self.structure.index else None
            if dimension is not None and width != dimension.width and width not in dimension.allowed:
                why = dimension.fixed or f"allowed are {', '.join(map(str, dimension.allowed))}"
                raise TargetError(f"{name} cannot become {width} wide: {why}")
        return self._width_vector(widths)

    def _cost_of(self, kind: str) -> tuple[CostFunction, float]:
        """What a request of a kind limits: its value for widths, and that of the unpruned model."""
        free = np.array([float(dimension.fixed is None) for dimension in self.dimensions])
        costs: dict[str, tuple[CostFunction, float]] = {
            "macs_speed_up": (self.counts.macs, self.macs_unpruned),
            "params_ratio": (self.counts.params, self.params_unpruned),
            "ratio": (lambda vector: float(free @ vector), float(free @ self.structure.widths)),
        }
        return costs[kind]

    def require_in_reach(self, kind: str, value: float) -> None:
        """Refuse a request that no widths meet, without ranking anything.

        Args:
            kind: ``macs_speed_up``, ``params_ratio`` or ``ratio``, as :meth:`plan` takes them.
            value: of it.

        Raises:
            TargetError: it is out of range, or out of reach at every dimension's least width.
        """
        self._limit_of(kind, value)

    def _limit_of(self, kind: str, value: float) -> float:
        """The largest cost that meets a request; TargetError where that is out of range or out of reach."""
        check_request(kind, value)
        cost, unpruned = self._cost_of(kind)
        share = {"macs_speed_up": 1 / value, "params_ratio": value, "ratio": 1 - value}[kind] if value else 1.0
        least = cost(self._width_vector(self.narrowest))
        if within(least, unpruned * share):
            return unpruned * share
        reach = unpruned / least if kind == "macs_speed_up" else least / unpruned
        reach = 1 - reach if kind == "ratio" else reach
        least_widths = {"align": self.constraints.align, "min_width": self.constraints.min_width}
        stated = ", ".join(named(name, str(amount)) for name, amount in least_widths.items())
        asked_for = [name for name in least_widths if option(name)] or [*least_widths]  # a command may have one alone
        lower = [f"lower {named(name)}, or " for name in asked_for if least_widths[name] > 1]
        raise TargetError(
            f"{named(kind, f'{value:g}')} is out of reach: this model comes to {reach:.2f} with every dimension at "
            f"its least width ({stated}); {''.join(lower)}ask for less"
        )

    def _choose(self, chooser: Chooser, kind: str, value: float) -> np.ndarray:
        """The widths that meet a request; TargetError where it is out of range or out of reach."""
        return chooser.widest_within(self._cost_of(kind)[0], self._limit_of(kind, value))

    def _stepwise_scores(
        self,
        kind: str,
        value: float,
        steps: int,
        importance: str,
        scope: Scope,
        batches: Sequence[Batch] | None,
        seed: int,
        normalisation: str | None,
        progress: Progress,
    ) -> Scores:
        """Scores whose order is the order in which channels go when they are ranked anew after every step.

        What an earlier step removes ranks below everything that a later one still has.
        """
        scores: Scores = {}
        removed = {
            dimension.name: np.zeros((len(dimension.parts), dimension.width), dtype=bool)
            for dimension in self.dimensions
        }
        pruner = self
        for step in range(1, steps + 1):
            progress(f"ranking channels: step {step} of {steps}", done=step - 1, total=steps)
            current = pruner.scores(importance, batches, seed, normalisation, progress=progress)
            for dimension in self.dimensions:
                if dimension.fixed is None:
                    alive = ~removed[dimension.name]
                    row = torch.full(alive.shape, -1.0, dtype=torch.float64)  # below any criterion
                    known = current.get(dimension.name)
                    row[torch.from_numpy(alive)] = 1.0 if known is None else known.ravel()
                    scores[dimension.name] = row
            if step == steps:
                break
            share = step / steps
            plan = self.plan(
                macs_speed_up=value**share if kind == "macs_speed_up" else None,
                params_ratio=value**share if kind == "params_ratio" else None,
                ratio=value * share if kind == "ratio" else None,
                importance=importance,
                scope=scope,
                seed=seed,
                scores=scores,
            )
            for dimension, line in zip(self.dimensions, plan.dimensions, strict=True):
                for i, part in enumerate(dimension.parts):
                    if part.name in line.kept:
                        removed[dimension.name][i] = True
                        removed[dimension.name][i, list(line.kept[part.name])] = False
            pruner = Pruner(self.apply(plan, check=False), self.imgsz, align=1, min_width=1, head=self.head)
        return scores


def check_request(kind: str, value: float) -> None:
    """Raise ``TargetError`` where ``macs_speed_up``, ``params_ratio`` or ``ratio`` is no such number, for any model."""
    if kind == "macs_speed_up":
        if not 1 <= value < math.inf:
            raise TargetError(f"{named(kind)} must be at least 1 (seen: {value})")
    elif not 0 < value <= 1 and not (kind == "ratio" and value == 0):
        raise TargetError(f"{named(kind)} must lie between 0 and 1 (seen: {value})")


def resolve_importance(importance: str, batches: Iterable[Batch] | None) -> str:
    """The criterion that ``auto`` stands for: ``taylor``, which needs images; ``lamp`` without."""
    if importance != AUTO:
        return importance
    return "lamp" if batches is None else "taylor"


def _weights_digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)  # NumPy lacks some
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    import ultralytics

    return {
        "edgeprune": __version__,
        "ultralytics": ultralytics.__version__,
        "torch": str(torch.__version__),
        "torch-pruning": version("torch-pruning"),
    }
