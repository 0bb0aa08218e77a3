"""Pruning in one call: a model or a checkpoint in, a pruned one out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from edgeprune import serial
from edgeprune.checkpoint import Checkpoint, Training, load, parameter_count, save, size_for_given, training_of
from edgeprune.dataset import Dataset
from edgeprune.errors import StageError, TargetError
from edgeprune.families import network_of
from edgeprune.input_size import InputSize, Size
from edgeprune.options import named, output_file_with_folder, refuse_source, without_none
from edgeprune.progress import Progress, Reporter, reporter_of
from edgeprune.pruning.batches import Batch, calibration_batches
from edgeprune.pruning.criteria import give_batches, ranks_by_images
from edgeprune.pruning.depth import least_important_blocks, removable_blocks
from edgeprune.pruning.plan import Plan
from edgeprune.pruning.plan_mask import require_removable
from edgeprune.pruning.pruner import Pruner, check_request
from edgeprune.pruning.structure import Constraints
from edgeprune.settings import PruneSettings, Scope


@dataclass(frozen=True)
class PruneResult:
    """What :func:`prune` gives.

    Attributes:
        model: the pruned model, of stock classes.
        plan: what was removed, with multiply-accumulates, parameters and shape signature.
        savings: multiply-accumulates and parameters that each dimension's new width saves alone, by dimension.
        checkpoint: what was read; None where a model was given.
        size: of the images that multiply-accumulates were counted for and channels ranked on.
    """

    model: nn.Module
    plan: Plan
    savings: Mapping[str, tuple[int, int]]
    checkpoint: Checkpoint | None
    size: InputSize

    def metadata(self) -> dict[str, object]:
        """Plain data for the checkpoint: the plan, its digest, and the shape signature that later stages check."""
        return metadata_of(self.plan)


def metadata_of(plan: Plan) -> dict[str, object]:
    """What the checkpoint of a model that was pruned by a plan says of it."""
    return {"plan": serial.to_json(plan), "plan_digest": plan.digest, "shape_signature": plan.result_shapes}


def prune(
    weights: nn.Module | Checkpoint | Path | str,
    output: Path | str | None = None,
    *,
    macs_speed_up: float | None = None,
    params_ratio: float | None = None,
    ratio: float | None = None,
    plan: Plan | Path | str | None = None,
    data: Path | str | None = None,
    images: int | None = None,
    batch: int | None = None,
    batches: Iterable[Batch] | None = None,
    imgsz: Size | None = None,
    importance: str | None = None,
    normalisation: str | None = None,
    scope: Scope | None = None,
    iterative_steps: int | None = None,
    drop_blocks: int | None = None,
    ignore: Sequence[str] | str | None = None,
    max_ratio: Mapping[str, float] | None = None,
    align: int | None = None,
    min_width: int | None = None,
    head: str | None = None,
    seed: int | None = None,
    trust: bool = False,
    progress: Progress | Reporter | None = None,
) -> PruneResult:
    """Remove channels (and blocks) from a model; exactly one of the first four options says how much.

    How channels are chosen is described by :class:`~edgeprune.settings.PruneSettings`, whose defaults hold for what is
    None here.

    Args:
        weights: a checkpoint, its file, the name of published weights, or a model (``YOLO(...)`` or its ``.model``);
            it is not changed. A bare ``.model`` does not tell how it was trained.
        output: the pruned checkpoint to write; nothing is written when None.
        macs_speed_up: multiply-accumulates before over after, at least this.
        params_ratio: parameters after over before, at most this.
        ratio: share of the prunable channels to remove.
        plan: a plan or its file; what would choose another one (``data``, ``importance``, ``align``, ``seed`` and the
            like) is then refused, whatever it says. Of a model with other weights in the same shapes it is applied with
            a note that warns.
        data: dataset YAML, or the folder of a classification dataset; its training split ranks channels by the loss.
        images: how many images of ``data``.
        batch: images per pass; each batch is one sample of the gradient.
        batches: labelled batches of your own, instead of ``data``.
        imgsz: a side, or height and width, in pixels; by default the plan's, else what the checkpoint, or the one that
            ``YOLO(...)`` was read from, was trained at, else 640 (a classifier's is 224).
        importance: the criterion; ``auto`` is ``taylor`` with ``data`` or ``batches``, ``lamp`` without.
        normalisation: see :data:`~edgeprune.pruning.criteria.NORMALISATIONS`; the criterion's own when None.
        scope: ``global`` ranks channels across the model, ``local`` takes the same share everywhere.
        iterative_steps: reach the request in this many steps, ranking anew at each.
        drop_blocks: drop this many whole blocks first, those whose absence costs least loss; none that ``ignore`` or
            ``max_ratio`` names a layer of.
        ignore: globs over modules that keep their width.
        max_ratio: glob over modules to the largest share of channels that may go there.
        align: a width that changes becomes a multiple of this.
        min_width: and not less than this.
        head: which of two heads will be exported (one of :data:`~edgeprune.pruning.heads.HEADS`): MACs are counted and
            channels ranked for that one; a plan's own with ``plan``.
        seed: of the random criterion and of the draw of images.
        trust: load a checkpoint with classes outside Ultralytics and torch (it can run any code).
        progress: called as the work moves, or a :class:`~edgeprune.progress.Reporter`; nobody by default.

    Raises:
        TargetError: not exactly one request, one that is out of reach, arguments that contradict each other, or an
            output that cannot be written.
        DataError: the weights or the dataset cannot be read, or the model is of a family that does not run here.
        StageError: the model cannot be pruned, or the pruned one is not what the plan says.
    """
    said = {
        "images": images,
        "batch": batch,
        "importance": importance,
        "normalisation": normalisation,
        "scope": scope,
        "iterative_steps": iterative_steps,
        "drop_blocks": drop_blocks,
        "ignore": (ignore,) if isinstance(ignore, str) else tuple(ignore or ()) or None,  # none of them says nothing
        "max_ratio": dict(max_ratio or {}) or None,
        "align": align,
        "min_width": min_width,
        "head": head,
        "seed": seed,
    }
    given = without_none(said)
    settings = PruneSettings.of(**given)
    if output is not None:
        output_file_with_folder(output)
    if isinstance(weights, (str, Path, Checkpoint)):
        refuse_source(output, weights.path if isinstance(weights, Checkpoint) else weights)
    reporter = reporter_of(progress)
    tell = reporter.progress
    if isinstance(plan, (str, Path)):
        plan = Plan.load(plan)
    requests = {"macs_speed_up": macs_speed_up, "params_ratio": params_ratio, "ratio": ratio}
    amounts = {request: amount for request, amount in requests.items() if amount is not None}
    requested = [*map(named, amounts)]
    if plan is not None and requested:
        raise TargetError(f"a plan says itself how much to prune; leave out {', '.join(requested)}")
    if plan is None and len(requested) != 1:
        raise TargetError(
            f"give one of {named('macs_speed_up', '2')}, {named('params_ratio', '0.5')}, {named('ratio', '0.3')} or "
            f"{named('plan', 'FILE')}; seen: {', '.join(requested) or 'none'}"
        )
    for request, amount in amounts.items():
        check_request(request, amount)
    if plan is not None:
        sources = [name for name, value in (("data", data), ("batches", batches)) if value is not None]
        if ignored := [named(name) for name in (*sources, *given)]:
            raise TargetError(
                f"a plan says itself what to keep, so that these would be ignored: {', '.join(ignored)}; leave them "
                "out, or make a new plan with them"
            )
    if data is not None and batches is not None:
        raise TargetError("data= and batches= are two sources of the same images; leave one out")
    _refuse_unused_images(settings, given, data, batches, plan)
    checkpoint = load(weights, trust=trust) if isinstance(weights, (str, Path)) else None
    checkpoint = weights if isinstance(weights, Checkpoint) else checkpoint
    model: Any = checkpoint.model if checkpoint is not None else network_of(weights)
    training = Training() if checkpoint is not None else training_of(weights)
    sizes = {"command": imgsz, "plan": None if plan is None else plan.settings.imgsz}
    size = size_for_given(weights, **sizes) if checkpoint is None else checkpoint.size_for(**sizes)
    side = size.side
    if data is not None:
        if checkpoint is None:
            raise TargetError("data= needs a checkpoint, which says its task; pass batches= for a bare model")
        tell("reading images for the importance of channels")
        batches = labelled_batches(
            checkpoint, data, side, images=settings.images, batch=settings.batch, seed=settings.seed, trust=trust
        )
    batches = None if batches is None else list(batches)
    removed = plan.removed if plan is not None else ()
    if settings.drop_blocks and plan is None:
        if batches is None:
            raise TargetError(f"{named('drop_blocks')} ranks blocks by the loss: {give_batches()}")
        removed = tuple(
            least_important_blocks(
                model,
                settings.drop_blocks,
                batches,
                constraints=Constraints(settings.ignore, dict(settings.max_ratio), settings.align, settings.min_width),
                head=settings.head,
                progress=tell,
            )
        )
    tell("tracing the model")
    if plan is not None:
        require_removable(plan, [block.name for block in removable_blocks(model)])
    pruner = Pruner(
        model,
        side,
        ignore=settings.ignore,
        max_ratio=settings.max_ratio,
        align=settings.align,
        min_width=settings.min_width,
        removed=removed,
        head=settings.head if plan is None else plan.settings.head,
    )
    if plan is not None:
        pruner.plan_mask(plan)  # refuses one of another model
    if plan is None:
        tell("ranking channels")
        plan = pruner.plan(
            macs_speed_up=macs_speed_up,
            params_ratio=params_ratio,
            ratio=ratio,
            importance=settings.importance,
            scope=settings.scope,
            batches=batches,
            seed=settings.seed,
            iterative_steps=settings.iterative_steps,
            normalisation=settings.normalisation,
            progress=tell,
        )
    elif plan.source.weights != pruner.source.weights:
        reporter.note(
            f"warning: the plan was made for weights {plan.source.weights[:12]}, these are "
            f"{pruner.source.weights[:12]}: it keeps what mattered in those; without {named('plan')} these are ranked"
        )
    tell("narrowing the model and comparing its outputs")
    pruned = pruner.apply(plan)
    count = parameter_count(pruned)
    if count != plan.params[1]:
        raise StageError(f"the pruned model has {count} parameters, the plan says {plan.params[1]}")
    result = PruneResult(pruned, plan, pruner.savings(plan.widths), checkpoint, size)
    if output is not None:
        metadata = {**training.rectangle, **result.metadata()}
        train_args = None if checkpoint is not None else training.train_args
        save(pruned, output, like=checkpoint, metadata=metadata, train_args=train_args)
    return result


def _refuse_unused_images(
    settings: PruneSettings, given: Mapping[str, object], data: object, batches: object, plan: Plan | None
) -> None:
    """Raise ``TargetError`` for images that nothing would look at, and for what is said of images that none gave."""
    if plan is not None:  # which refuses them itself
        return
    drawn = [named(name) for name in ("images", "batch") if name in given]
    if drawn and data is None:
        where = named("data")
        instead = "none are given; give it" if batches is None else "batches= are the images"
        said = f"of images that are drawn from {where}, and {instead}, or leave this out"
        raise TargetError(f"{', '.join(drawn)}: {said}")
    ranks = ranks_by_images(settings.importance)
    if data is not None and not ranks and not settings.drop_blocks:
        raise TargetError(
            f"{named('data')}: {named('importance', settings.importance)} ranks channels without images; leave one out"
        )


def labelled_batches(
    checkpoint: Checkpoint,
    data: Path | str,
    imgsz: Size,
    *,
    images: int = PruneSettings.images,
    batch: int = PruneSettings.batch,
    seed: int = 0,
    trust: bool = False,
) -> list[Batch]:
    """Labelled images of the training split for a checkpoint's own task; see :func:`calibration_batches`.

    Raises:
        DataError: the dataset cannot be read, or is not one for this model.
    """
    dataset = Dataset.load(data, task=checkpoint.task, need=("train",), trust=trust)
    dataset = dataset.seen_by(
        checkpoint.names,
        model=str(checkpoint.path),
        channels=checkpoint.channels,
        kpt_shape=checkpoint.kpt_shape,
        single_cls=checkpoint.single_cls,
    )
    return calibration_batches(
        dataset, checkpoint.task, imgsz, images=images, batch=batch, seed=seed, stride=checkpoint.stride
    )
