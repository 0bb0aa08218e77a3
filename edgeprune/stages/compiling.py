"""What baseline, probes and the final model have in common: from a checkpoint to an engine, and the engine's accuracy.

Baseline and candidate go through the same steps, so that a ratio between them speaks of the pruning alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.errors import StageError
from edgeprune.stages.base import Context
from edgeprune.stages.parity import parity_facts

if TYPE_CHECKING:
    from edgeprune.export.onnx import ExportInfo

PACKAGES = ("torch", "ultralytics", "onnx", "onnxsim", "onnxruntime", "onnxruntime-gpu")


def export_inputs(context: Context) -> dict[str, Any]:
    """Key entries for everything that shapes the ONNX graph."""
    target = context.target
    int8 = target.precision.startswith("int8")
    return {
        "imgsz": target.imgsz,
        "batch": target.batch,
        "export": {**target.export.model_dump(), "head": target.exported_head},
        "precision": target.precision,
        **({"data": context.dataset.digest, "calibration": target.calibration.model_dump()} if int8 else {}),
    }


def engine_inputs(context: Context) -> dict[str, Any]:
    """Key entries for the engine: it belongs to the device it was built on."""
    return {"runtime": context.target.runtime, "device": context.runtime.identity() if context.usable else None}


def onnx_of(context: Context, checkpoint: Path, onnx: Path, metadata: Mapping[str, str] | None = None) -> ExportInfo:
    """Export a checkpoint as the target's profile asks."""
    from edgeprune.export.onnx import onnx_from_checkpoint

    target = context.target
    return onnx_from_checkpoint(
        checkpoint,
        onnx,
        imgsz=target.imgsz,
        batch=target.batch,
        dynamic=target.export.dynamic,
        opset=target.export.opset,
        head=target.exported_head,
        metadata=metadata,
    )


def in_precision(context: Context, onnx: Path, low: Path, precision: str | None = None) -> dict[str, Any]:
    """The graph in the target's number format, or in another; gives the facts of the transform."""
    precision = precision or context.target.precision
    if precision == "fp32":
        raise StageError("a fp32 target needs no precision transform")
    from edgeprune.export.precision import fp16_onnx, int8_onnx

    if precision == "fp16":
        return fp16_onnx(onnx, low).to_json()
    asked = context.target.calibration
    return int8_onnx(
        onnx,
        low,
        context.dataset.sample_images("train", asked.images, context.seed),
        # Without a TensorRT parser to please, ONNX Runtime's own recipe quantises more of the graph.
        recipe="cpu" if context.target.device.kind == "cpu" else "tensorrt",
        method=asked.method,
        percentile=asked.percentile,
        half=precision == "int8-fp16",
    ).to_json()


def compiled(context: Context, checkpoint: Path, folder: Path) -> dict[str, tuple[str, Path]]:
    """ONNX, and the engine where the target's runtime is usable, of a checkpoint; files inside ``folder``."""
    from edgeprune.export.simplify import simplified_onnx

    raw, onnx = folder / "raw.onnx", folder / "model.onnx"
    onnx_of(context, checkpoint, raw)
    simplified_onnx(raw, onnx)
    raw.unlink()
    files: dict[str, tuple[str, Path]] = {"onnx": ("onnx", onnx)}
    if context.target.precision != "fp32":
        low = folder / f"model-{context.target.precision}.onnx"
        in_precision(context, onnx, low)
        files["onnx"] = ("onnx", low)
    if context.usable:
        files["engine"] = ("engine", engine_of(context, files["onnx"][1], folder))
    return files


def engine_of(context: Context, onnx: Path, folder: Path) -> Path:
    """Compile a graph that holds the target's precision, by the target's runtime.

    The file is ``engine.onnx`` for ONNX Runtime, ``engine.engine`` for TensorRT, inside ``folder``.
    """
    engine = folder / f"engine{context.runtime.suffix}"
    context.runtime.engine_from_onnx(onnx, engine, precision=context.target.precision)
    return engine


def measured_accuracy(context: Context, files: Mapping[str, tuple[str, Path]]) -> dict[str, Any]:
    """Accuracy of the artifact itself: the engine by the target's runtime, or its ONNX on this CPU without one.

    A runtime that starts a process for every inference is not asked for a whole split: the ONNX is, and the engine's
    outputs for some images are compared with the ONNX's (``agreement``, as
    :class:`~edgeprune.export.parity.ParityInfo` has it).

    Args:
        context: the build.
        files: role to (kind, file): ``onnx``, and ``engine`` where there is one.

    Returns what :class:`~edgeprune.measure.accuracy.Accuracy` has, and ``value`` with its ``metric`` for the gates and
    ``measured_on``.
    """
    from edgeprune.export.graph import metadata_of
    from edgeprune.measure.accuracy import accuracy

    onnx = files["onnx"][1]
    engine = files["engine"][1] if "engine" in files else None
    by_engine = engine is not None and context.runtime.fit_for_dataset
    result = accuracy(
        engine if engine is not None and by_engine else onnx,
        data=context.dataset,
        imgsz=context.target.imgsz,
        split=context.target.accuracy.split,
        batch=context.target.batch,
        runtime=context.runtime if by_engine else None,
        metadata=metadata_of(onnx) if by_engine else None,
        progress=context.reporter.progress,
    )
    agreed = parity_facts(context, onnx, engine, runtime=context.runtime) if engine and not by_engine else None
    return {
        **result.to_json(),
        "value": result.map50_95,
        "metric": "top-1 accuracy" if result.task == "classify" else "mAP50-95",
        "measured_on": context.runtime.name if by_engine else "onnxruntime on this CPU",
        **({"agreement": agreed} if agreed else {}),
    }


def unpruned_accuracy(context: Context) -> float:
    """What accuracy is held against: the unpruned artifact's, or its FP32 graph's where a precision below cost some."""
    facts = context.records["baseline"].facts
    return max(facts[key]["value"] for key in ("accuracy", "accuracy_fp32") if facts.get(key))
