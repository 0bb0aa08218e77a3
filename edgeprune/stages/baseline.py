"""baseline: the unpruned model, compiled and measured as the pruned one will be. Nothing can be compared without it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune.samples.gates import Gate
from edgeprune.samples.measurement import Measurement
from edgeprune.stages import compiling
from edgeprune.stages.base import Context, Judged, Output, Stage
from edgeprune.workspace import Key, Record


def source_checkpoint(context: Context) -> Path:
    """The trained model that the build starts from: the user's, or what pretrain made of a model YAML."""
    return context.weights.path if context.weights.trained else context.records["pretrain"].path("model")


def source_inputs(context: Context) -> dict[str, str]:
    """Key entry for :func:`source_checkpoint`."""
    if context.weights.trained:
        return {"source.weights": context.weights.sha256}
    return context.source(("pretrain", "model"))


def _inputs(context: Context) -> Mapping[str, Any]:
    return {
        **source_inputs(context),
        "params": {
            **compiling.export_inputs(context),
            **compiling.engine_inputs(context),
            "data": context.dataset.digest,
            "split": context.target.accuracy.split,
        },
    }


def _run(context: Context, folder: Path, key: Key) -> Output:
    from edgeprune import checkpoint

    source = checkpoint.load(source_checkpoint(context), trust=context.trust)
    # A copy of our own: the checkpoint in the key is then the checkpoint that later stages read, and it is stock.
    model = folder / "model.pt"
    checkpoint.save(source.model, model, like=source)
    context.reporter.progress("exporting and compiling the unpruned model")
    files = compiling.compiled(context, model, folder)
    context.reporter.progress("measuring its accuracy")
    plain = {"onnx": ("onnx", folder / "model.onnx")} if context.target.precision != "fp32" else None
    return Output(
        {"model": ("checkpoint", model), **files},
        {
            "accuracy": compiling.measured_accuracy(context, files),
            "accuracy_fp32": compiling.measured_accuracy(context, plain) if plain else None,
            "parameters": checkpoint.parameter_count(source.model),
            "signature": checkpoint.shape_signature(source.model),
            "bytes": {role: path.stat().st_size for role, (_, path) in files.items()},
        },
    )


def _judge(context: Context, record: Record) -> Judged:
    from edgeprune.samples.gates import informs, pending, scope_of

    accuracy = record.facts["accuracy"]
    rows: list[Gate] = [
        informs("baseline", accuracy["metric"], accuracy["value"], "", f"unpruned, by {accuracy['measured_on']}")
    ]
    if plain := record.facts["accuracy_fp32"]:
        reason = f"unpruned, before {context.target.precision}, by {plain['measured_on']}"
        rows.append(informs("baseline", f"{plain['metric']} in FP32", plain["value"], "", reason))
    measurements: list[tuple[str, Measurement]] = []
    if context.usable:
        from edgeprune.samples.statistics import value_of
        from edgeprune.stages.timing import settings

        [latency] = context.runtime.latency(
            [record.path("engine")], settings(context), progress=context.reporter.progress
        )
        measurements.append(("baseline", latency))
        statistic = context.target.budget.statistic
        rows.append(
            informs(
                "baseline",
                f"{scope_of(latency)}latency {statistic}",
                value_of(latency.values, statistic),
                "ms",
                "unpruned, measured",
            )
        )
    else:
        rows.append(pending("baseline", f"latency {context.target.budget.statistic}", None, "ms", context.next_command))
    return Judged(rows, measurements)


STAGE = Stage(
    name="baseline",
    version=2,
    inputs=_inputs,
    run=_run,
    judge=_judge,
    packages=compiling.PACKAGES,
)
