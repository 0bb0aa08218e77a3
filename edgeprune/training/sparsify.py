"""Sparsity training before pruning: let the data say which channels it can do without.

The result is the last epoch's weights, the sparsest (the most accurate epoch would be the first), with a report on the
scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from edgeprune import checkpoint
from edgeprune.errors import TargetError
from edgeprune.options import named, refuse_other_training
from edgeprune.progress import Progress, Reporter, one_run, reporter_of
from edgeprune.quiet import process_state_kept
from edgeprune.serial import write_json
from edgeprune.settings import PlainOptimizer, SparsitySettings, TrainSettings
from edgeprune.training.finetune import finetune
from edgeprune.training.result import SparsifyResult, SparsityReport
from edgeprune.training.scales import scales_of, summary_of
from edgeprune.training.sizes import sized
from edgeprune.training.sparsity import AttachSparsity, scale_groups


@one_run()
@process_state_kept()
def sparsify(
    weights: Path | str,
    *,
    data: Path | str,
    out: Path | str,
    settings: TrainSettings,
    work: Path | str,
    sparsity: SparsitySettings | None = None,
    metadata: Mapping[str, object] | None = None,
    trust: bool = False,
    progress: Progress | Reporter | None = None,
) -> SparsifyResult:
    """Train ``weights`` with a sparsity term; resumable like fine-tuning. Writes ``scales.json`` beside ``best.pt``.

    Args:
        weights: an unpruned checkpoint.
        data, out, settings, work, metadata, trust, progress: as in :func:`edgeprune.training.finetune.finetune`; of two
            heads, the scales of the one that does not ship are left alone.
        sparsity: how hard to push.

    Raises:
        TargetError: a wrong setting, or as in ``finetune`` for where the result goes.
        DataError, StageError: as in ``finetune``.
    """
    tell = reporter_of(progress).progress
    sparsity = sparsity or SparsitySettings()
    if settings.optimizer not in (allowed := get_args(PlainOptimizer)):
        optimizer = named("optimizer", settings.optimizer)
        raise TargetError(
            f"{optimizer} rescales gradients, which undoes the sparsity term; allowed: {', '.join(allowed)}"
        )
    refuse_other_training(out, work)
    source = checkpoint.load(weights, trust=trust)
    settings, model = sized(settings, source), source.model
    groups = scale_groups(model, settings.side, settings.head)
    before = scales_of(model, groups)
    trained = finetune(
        weights,
        data=data,
        out=out,
        settings=settings,
        work=work,
        metadata=metadata,
        trust=trust,
        watchers=[("on_pretrain_routine_end", AttachSparsity(groups, sparsity))],
        identity={"sparsity": asdict(sparsity)},
        keep="last",
        label="sparsify",
        progress=tell,
    )
    after = scales_of(checkpoint.load(trained.best).model, groups)
    report = SparsityReport(summary_of(before, after), sparsity, before.report(), after.report())
    write_json(Path(out) / "scales.json", report)
    return SparsifyResult(trained, report)
