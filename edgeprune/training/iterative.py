"""Prune and fine-tune in rounds, with the same total of epochs, or of time, as one shot.

Takes unpruned weights and a total speed-up in multiply-accumulates; each round goes an equal factor further, and its
share of the epochs repairs it. One round is the one-shot schedule, so that the two can be compared by one number.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal

from edgeprune import checkpoint
from edgeprune.dataset import Dataset
from edgeprune.errors import TargetError
from edgeprune.options import BEST, named, plain_number, refuse_other_training, refuse_source
from edgeprune.progress import Progress, Reporter, one_run, reporter_of
from edgeprune.pruning.api import labelled_batches, metadata_of
from edgeprune.pruning.criteria import ranks_by_images
from edgeprune.pruning.heads import refuse_untrainable_head
from edgeprune.pruning.pruner import AUTO, Pruner
from edgeprune.quiet import process_state_kept
from edgeprune.settings import PruneSettings, TrainSettings
from edgeprune.training.distributed import on_first_process
from edgeprune.training.finetune import finetune
from edgeprune.training.result import PruningRound
from edgeprune.training.run import alone_in
from edgeprune.training.sizes import sized


@one_run()
@process_state_kept()
def prune_in_rounds(
    weights: Path | str,
    *,
    macs_speed_up: float,
    rounds: int,
    data: Path | str,
    out: Path | str,
    settings: TrainSettings,
    work: Path | str,
    importance: str = AUTO,
    scope: Literal["global", "local"] = "global",
    align: int = PruneSettings.align,
    metadata: Mapping[str, object] | None = None,
    trust: bool = False,
    progress: Progress | Reporter | None = None,
) -> list[PruningRound]:
    """Reach ``macs_speed_up`` in ``rounds`` equal factors; ``settings.epochs``, or ``settings.time_h`` where it is
    given, is the total over all rounds.

    Args:
        weights: an unpruned checkpoint; the teacher is what ``settings.teacher`` names.
        macs_speed_up: multiply-accumulates before over after, above 1.
        rounds: 1 or more; the last one gets the epochs that cannot be divided.
        data, settings, metadata, trust, progress: as in :func:`edgeprune.training.finetune.finetune`.
        out: folder for ``best.pt`` of the last round; earlier rounds stay in ``work``.
        work: scratch folder; the same call again goes on in the round and epoch where it stopped, also with what may
            change between epochs (batch, patience, time); a round that had ended stays as it is.
        importance, scope, align: as in :func:`edgeprune.pruning.api.prune`; a criterion that asks the loss is shown
            images of the training split.

    Raises:
        TargetError: fewer epochs than rounds where no time is given, a speed-up that is impossible or out of reach, or
            as in ``finetune`` for where the result goes.
        DataError: as in ``finetune``; what was changed between two rounds counts too.
        StageError: as in ``finetune``.
    """
    macs_speed_up = plain_number(macs_speed_up)
    if rounds < 1 or (settings.epochs < rounds and settings.time_h is None):
        asked = f"{named('rounds', str(rounds))} with {named('epochs', str(settings.epochs))}"
        raise TargetError(f"{asked}: every round needs at least one epoch")
    if not macs_speed_up > 1:
        raise TargetError(f"{named('macs_speed_up', repr(macs_speed_up))}: allowed is a number above 1")
    tell = reporter_of(progress).progress
    refuse_source(Path(out) / BEST, weights, settings.teacher)
    refuse_other_training(out, _work_of(work, rounds))
    unpruned = checkpoint.load(weights, trust=trust)
    refuse_untrainable_head(unpruned.model)
    settings = sized(settings, unpruned)
    whole = Pruner(unpruned.model, settings.side, align=align, head=settings.head)
    whole.require_in_reach("macs_speed_up", macs_speed_up)  # of the last round, before any is trained
    unpruned_macs = float(whole.macs())
    dataset = Dataset.load(data, task=unpruned.task, trust=trust)
    assert dataset.digest  # asked for now: what every round sees is held against it
    current, finished, batches = Path(weights), [], None
    with ExitStack() as stack:
        for number in range(1, rounds + 1):
            folder = _work_of(work, number)
            start = folder / "pruned.pt"
            loaded = checkpoint.load(current, trust=trust and number == 1)
            if batches is None and ranks_by_images(importance):
                batches = labelled_batches(loaded, data, settings.side, seed=settings.seed, trust=trust)
            pruner = Pruner(loaded.model, settings.side, align=align, head=settings.head)
            further = macs_speed_up ** (number / rounds) / (unpruned_macs / pruner.macs())
            plan = pruner.plan(
                macs_speed_up=max(further, 1.0),
                importance=importance,
                scope=scope,
                batches=batches,
                seed=settings.seed,
            )
            carried = {**(loaded.edgeprune if metadata is None else metadata), **metadata_of(plan)}
            if number == 1:
                stack.enter_context(alone_in(work, out))  # of all rounds
            checkpoint.save(pruner.apply(plan), start, like=loaded, metadata=carried)
            epochs = int(settings.epochs // rounds + (settings.epochs % rounds if number == rounds else 0))
            trained = finetune(
                start,
                data=data,
                out=Path(out) if number == rounds else folder / "out",
                settings=replace(settings, epochs=max(epochs, 1), time_h=settings.time_h and settings.time_h / rounds),
                work=folder,
                take_ended=True,  # another batch in a later round, after memory ran out there, costs no earlier one
                trust=trust,
                label=f"round {number}/{rounds}",
                progress=tell,
            )
            on_first_process(dataset.require_unchanged)
            finished.append(PruningRound(unpruned_macs / plan.macs[1], trained))
            current = trained.best
    return finished


def _work_of(work: Path | str, number: int) -> Path:
    """Scratch folder of a round, counted from 1."""
    return Path(work) / f"round-{number}"
