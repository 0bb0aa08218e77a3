"""Sparsity training before pruning: let the data say which channels it can do without.

Takes weights, a data set and settings; gives the weights of the last epoch (the sparsest; the most accurate epoch would
be the first) with a report on the scales; refuses to end with another structure than it began with.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeprune import checkpoint
from edgeprune.artifact import write_atomically
from edgeprune.errors import TargetError
from edgeprune.progress import Progress, silent
from edgeprune.training.finetune import finetune
from edgeprune.training.run import TrainResult
from edgeprune.training.scales import Scales, scales_of, verdict
from edgeprune.training.settings import TrainSettings
from edgeprune.training.sparsity import AttachSparsity, SparsitySettings, scale_groups


@dataclass(frozen=True)
class SparsifyResult:
    """Sparse weights and what became of their scales.

    Attributes:
        trained: as for fine-tuning, but ``best`` is the last epoch's checkpoint.
        before, after: scales of the prunable channels.
        verdict: one line for people.
        settings: what was asked.
    """

    trained: TrainResult
    before: Scales
    after: Scales
    verdict: str
    settings: SparsitySettings

    def to_json(self) -> dict[str, Any]:
        """Verdict, settings, and the histograms before and after (:meth:`edgeprune.training.scales.Scales.to_json`)."""
        return {
            "verdict": self.verdict,
            "settings": asdict(self.settings),
            "before": self.before.to_json(),
            "after": self.after.to_json(),
        }


def sparsify(
    weights: Path | str,
    *,
    data: Path | str,
    out: Path | str,
    settings: TrainSettings,
    work: Path | str,
    sparsity: SparsitySettings | None = None,
    metadata: dict[str, Any] | None = None,
    progress: Progress = silent,
) -> SparsifyResult:
    """Train ``weights`` with a sparsity term; resumable like fine-tuning. Writes ``scales.json`` beside ``best.pt``.

    Args:
        weights: an unpruned checkpoint.
        data, out, settings, work, metadata, progress: as in :func:`edgeprune.training.finetune.finetune`.
        sparsity: how hard to push.

    Raises:
        TargetError: a wrong setting.
        DataError, StageError: as in ``finetune``.
    """
    sparsity = sparsity or SparsitySettings()
    if settings.optimizer == "MuSGD":
        raise TargetError("optimizer=MuSGD rescales gradients, which undoes the sparsity term; choose SGD or AdamW")
    model = checkpoint.load(weights).model
    groups = scale_groups(model, settings.imgsz)
    before = scales_of(model, groups)
    trained = finetune(
        weights,
        data=data,
        out=out,
        settings=settings,
        work=work,
        metadata=metadata,
        watchers=[("on_pretrain_routine_end", AttachSparsity(groups, sparsity))],
        identity={"sparsity": asdict(sparsity)},
        keep="last",
        label="sparsify",
        progress=progress,
    )
    after = scales_of(checkpoint.load(trained.best).model, groups)
    result = SparsifyResult(trained, before, after, verdict(before, after), sparsity)
    write_atomically(Path(out) / "scales.json", json.dumps(result.to_json(), indent=1) + "\n")
    return result
