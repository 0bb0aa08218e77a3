"""finetune: win the lost accuracy back without giving a channel back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgeprune.samples.gates import informs
from edgeprune.stages.base import Context, Judged, Output, Stage
from edgeprune.stages.pretrain import train_inputs, train_settings, trained
from edgeprune.workspace import Key, Record


def _inputs(context: Context) -> Mapping[str, Any]:
    return {
        **context.source(("prune", "model"), ("baseline", "model")),
        "params": train_inputs(context, context.target.finetune),
    }


def _run(context: Context, folder: Path, key: Key) -> Output:
    from edgeprune import checkpoint
    from edgeprune.training.finetune import finetune
    from edgeprune.training.until import UntilDrop, unpruned_figure

    asked, work = context.target.finetune, context.workspace.scratch(key)
    unpruned = context.records["baseline"].path("model")
    settings = train_settings(
        context, asked, distill=unpruned if asked.distill else None, response=asked.response, feature=asked.feature
    )
    until = None
    if asked.until is not None:
        baseline = unpruned_figure(unpruned, data=context.dataset.source, settings=settings, work=work)
        until = UntilDrop(baseline, asked.until)
    pruned = checkpoint.load(context.records["prune"].path("model"))
    result = finetune(
        context.records["prune"].path("model"),
        data=context.dataset.source,
        out=folder,
        settings=settings,
        work=work,
        metadata=pruned.edgeprune,
        until=until,
    )
    tuned = checkpoint.load(result.best)
    signature = context.records["prune"].facts["signature"]
    checkpoint.require_shapes(tuned.model, signature, "fine-tuning")
    artifacts, facts = trained(result)
    facts |= {
        "signature": signature,
        "parameters": checkpoint.parameter_count(tuned.model),
        "until": None if until is None else asdict(until),
    }
    return Output(artifacts, facts)


def _judge(context: Context, record: Record) -> Judged:
    facts = record.facts
    taught = f", taught by the unpruned model{_nearer(facts['curves'])}" if context.target.finetune.distill else ""
    until = facts["until"]
    goal = f", until within {until['most']:g} of {until['baseline']:.4f}" if until else ""
    reason = f"best epoch {facts['best_epoch']} of {facts['epochs_run']}{taught}{goal}; the artifact is judged below"
    return Judged([informs("finetune", "mAP50-95 (PyTorch)", facts["map50_95"], "", reason)])


def _nearer(curves: Sequence[Mapping[str, float]]) -> str:
    """How far the answers were from the teacher's in the first epoch and in the last, as the loss sees it."""
    seen = [row["train/response_loss"] for row in curves if "train/response_loss" in row]
    return f" (distance of answers {seen[0]:.3g} → {seen[-1]:.3g})" if seen else ""


STAGE = Stage(
    name="finetune",
    version=2,
    inputs=_inputs,
    run=_run,
    judge=_judge,
    packages=("torch", "ultralytics"),
    shows_output=True,
)
