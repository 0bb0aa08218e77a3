"""From a checkpoint to an engine at a site. Baseline, probes and the final model all go through these steps, so that a
ratio between two of them speaks of the pruning alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from edgeprune.errors import StageError
from edgeprune.input_size import both_sides
from edgeprune.progress import Progress, silent
from edgeprune.runtimes.base import AS_EXPORTED, FreeAxes
from edgeprune.runtimes.engine_file import read_facts, write_facts
from edgeprune.runtimes.onnx_facts import weight_files

if TYPE_CHECKING:
    from edgeprune.dataset import Dataset
    from edgeprune.export.onnx import ExportInfo
    from edgeprune.export.result import PrecisionInfo
    from edgeprune.runtimes.base import Runtime
    from edgeprune.runtimes.site import Site
    from edgeprune.target import Target

PACKAGES = ("torch", "ultralytics", "onnx", "onnxsim", "onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True)
class CompiledFiles:
    """A checkpoint and what was compiled of it.

    Attributes:
        model: the checkpoint.
        onnx: its graph in the number format that the target's builder takes.
        onnx_fp32: its graph before the number format was changed; ``onnx`` itself for an fp32 target.
        engine: what the target's runtime loads; None at a site that is not usable.
    """

    model: Path
    onnx: Path
    onnx_fp32: Path
    engine: Path | None

    @property
    def required_engine(self) -> Path:
        """The engine; ``StageError`` where there is none."""
        if self.engine is None:
            raise StageError(f"no engine was compiled of {self.model}: the target's runtime is not usable here")
        return self.engine


def graph_inputs(target: Target, dataset: Dataset | None, seed: int | None) -> dict[str, object]:
    """Everything that shapes an exported graph besides the checkpoint, as entries of a stage's key.

    Args:
        target: size, batch, opset, head, number format and how INT8 is made.
        dataset: its training images calibrate INT8.
        seed: of the choice of those; None for a key of times, which do not depend on where ranges end.
    """
    inputs: dict[str, object] = {
        "imgsz": target.imgsz,
        "batch": target.batch,
        "export": {**target.export.model_dump(), "head": target.exported_head},
        "precision": target.graph_precision,
    }
    if target.graph_precision.startswith("int8"):
        inputs["recipe"] = int8_recipe(target)
    if dataset is not None and target.graph_precision.startswith("int8"):
        inputs |= {"data": dataset.digest, "calibration": asdict(target.calibration)}
        if seed is not None:
            inputs["seed"] = seed
    return inputs


def engine_inputs(site: Site) -> dict[str, object]:
    """What an engine depends on besides its graph, as entries of a stage's key: the device that it is built on, and
    what its builder is told."""
    return {
        "runtime": site.target.runtime,
        "device": site.runtime.identity() if site.usable else None,
        "engine_precision": site.target.precision,
        "builder": site.target.builder.model_dump(),
    }


def export_onnx(target: Target, checkpoint: Path, onnx: Path, metadata: Mapping[str, str] | None = None) -> ExportInfo:
    """Export a checkpoint in the size, batch, opset and head of a target."""
    from edgeprune.export.onnx import onnx_from_checkpoint

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


def convert_precision(
    target: Target, onnx: Path, low: Path, dataset: Dataset | None, seed: int, precision: str | None = None
) -> PrecisionInfo:
    """Write a graph in the number format that the target's builder takes, or in another one below FP32.

    Args:
        target: its calibration settings and its runtime decide how.
        onnx: the FP32 graph.
        low: the file to write.
        dataset: its training images calibrate INT8.
        seed: of the choice of images.
        precision: ``fp16``, ``int8`` or ``int8-fp16``; the target's own when None.
    """
    from edgeprune.export.quantize import quantize_onnx

    return quantize_onnx(
        onnx,
        low,
        precision=precision or target.graph_precision,
        data=dataset,
        recipe=int8_recipe(target),
        seed=seed,
        **asdict(target.calibration),
    )


def int8_recipe(target: Target, runtime: str = "") -> str:
    """How INT8 is made for a target, ``tensorrt`` or ``cpu``: by what runs it, whatever the device is. ONNX Runtime's
    CPU provider has no TensorRT parser to please, and its own recipe quantises more of the graph.

    Args:
        target: where it runs.
        runtime: name of the runtime that takes the place of the target's; the target's when empty.
    """
    return "cpu" if (runtime == "onnxruntime" if runtime else target.on_cpu) else "tensorrt"


def export_trained_int8(
    target: Target,
    checkpoint: Path,
    quantized: Path,
    onnx: Path,
    dataset: Dataset,
    seed: int,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the INT8 graph of a model that was trained for it, in the number format of the target's graph.

    Args:
        target: as in :func:`convert_precision`; for ONNX Runtime on a CPU the trained weights are calibrated, since its
            kernels need other pairs of Q/DQ than those that were trained.
        checkpoint: the trained weights.
        quantized: the same with their fake quantizers.
        onnx: the file to write.
        dataset, seed: of a calibration.
        metadata: further entries of the file.
    """
    from edgeprune.export.graph import load_graph, save_graph
    from edgeprune.export.half import cast_graph_to_half

    with TemporaryDirectory(dir=onnx.parent, prefix=".plain-") as folder:
        plain = Path(folder) / "plain.onnx"
        _export_simplified(target, checkpoint if target.on_cpu else quantized, plain, metadata)
        if target.on_cpu:
            convert_precision(target, plain, onnx, dataset, seed)
        elif target.graph_precision == "int8-fp16":
            save_graph(cast_graph_to_half(load_graph(plain)), onnx)
        else:
            plain.replace(onnx)


def _export_simplified(target: Target, checkpoint: Path, onnx: Path, metadata: Mapping[str, str] | None = None) -> None:
    """As :func:`export_onnx`, simplified."""
    from edgeprune.export.simplify import simplify_onnx

    with TemporaryDirectory(dir=onnx.parent, prefix=".raw-") as folder:
        raw = Path(folder) / "raw.onnx"
        export_onnx(target, checkpoint, raw, metadata)
        simplify_onnx(raw, onnx)


def compile_checkpoint(
    site: Site,
    checkpoint: Path,
    folder: Path,
    dataset: Dataset | None = None,
    before_compiling: Callable[[Path], None] = lambda onnx: None,
    float_layers: Sequence[str] = (),
) -> CompiledFiles:
    """Export a checkpoint, simplify it, convert its number format, and compile it where the site is usable.

    Args:
        site: the target.
        checkpoint: a ``.pt`` file.
        folder: where the files go; it exists.
        dataset: calibrates INT8.
        before_compiling: called with the graph that a usable site is about to compile.
        float_layers: convolutions that stay in float, as far as the graph has them in a lower format.
    """
    files = files_in(site, checkpoint, folder)
    _export_simplified(site.target, checkpoint, files.onnx_fp32)
    if float_layers and files.onnx != files.onnx_fp32:
        _convert_with_float_layers(site, files, dataset, float_layers)
    elif files.onnx != files.onnx_fp32:
        convert_precision(site.target, files.onnx_fp32, files.onnx, dataset, site.seed)
    if site.usable:
        before_compiling(files.onnx)
        compile_engine(site, files.onnx, folder)
    return files


def _convert_with_float_layers(
    site: Site, files: CompiledFiles, dataset: Dataset | None, layers: Sequence[str]
) -> None:
    """Write the graph in the target's number format with these layers in float."""
    from edgeprune.export.mixed import with_float_layers

    with TemporaryDirectory(dir=files.onnx.parent, prefix=".low-") as folder:
        place = Path(folder) / "low.onnx"
        low, half = graph_for_float_layers(site.target, files.onnx_fp32, place, dataset, site.seed)
        with_float_layers(files.onnx_fp32, low, files.onnx, layers, half=half)


def graph_for_float_layers(
    target: Target, onnx: Path, place: Path, dataset: Dataset | None, seed: int, converted: Path | None = None
) -> tuple[Path, bool]:
    """The graph in which layers go back to float, and whether it is cast to half precision afterwards: that is the INT8
    graph for ``int8-fp16``, else the one in the target's number format.

    Args:
        target, onnx, dataset, seed: as in :func:`convert_precision`.
        place: the file to write where the graph has to be made.
        converted: the graph in the target's number format, where there is one already.
    """
    half = target.graph_precision == "int8-fp16"
    if converted is not None and not half:
        return converted, half
    convert_precision(target, onnx, place, dataset, seed, "int8" if half else None)
    return place, half


def files_in(site: Site, checkpoint: Path, folder: Path) -> CompiledFiles:
    """Where :func:`compile_checkpoint` puts what it makes."""
    plain, precision = folder / "model.onnx", site.target.graph_precision
    onnx = plain if precision == "fp32" else folder / f"model-{precision}.onnx"
    return CompiledFiles(checkpoint, onnx, plain, _engine_in(site, folder) if site.usable else None)


def _engine_in(site: Site, folder: Path) -> Path:
    return folder / f"engine{site.runtime.suffix}"


def compile_engine(site: Site, onnx: Path, folder: Path) -> Path:
    """Compile a graph that has the target's number format, by the target's runtime.

    The file is ``engine.onnx`` for ONNX Runtime, ``engine.engine`` for TensorRT, inside ``folder``.
    """
    engine = _engine_in(site, folder)
    kept = kept_in_float(onnx, chooses=chooses_precision(site.target))
    site.runtime.engine_from_onnx(
        onnx, engine, precision=site.target.precision, keep_float=kept, free=free_axes(site.target)
    )
    return engine


def free_axes(target: Target) -> FreeAxes:
    """What fills the axes that a dynamic export leaves free: the batch and the size that the budget speaks of."""
    return FreeAxes(target.batch, both_sides(target.imgsz)) if target.export.dynamic else AS_EXPORTED


def compile_once(
    runtime: Runtime, model: Path, folder: Path, progress: Progress = silent, free: FreeAxes = AS_EXPORTED
) -> Path:
    """The model as every question is asked of it: of an ONNX file the engine that a runtime builds which loads no
    graphs, built now, else the model itself, in one file. What is asked one by one of a graph would be of several
    engines.

    Args:
        runtime: that is asked.
        model: an ONNX file or an engine.
        folder: where an engine goes, under the graph's name; made where it is missing.
        progress: told before it builds.
        free: what fills axes that the graph leaves free.

    Raises:
        DataError: the graph cannot be read.
        StageError: it cannot be built.
    """
    model = _single_file(model, folder)
    if model.suffix != ".onnx" or runtime.suffix == ".onnx":
        return model
    from edgeprune.export.precision import PRECISIONS, precision_of

    held = told = precision_of(model)
    if told not in PRECISIONS:  # bfloat16, which no profile asks for: a builder does what the graph says
        told = "int8" if held.startswith("int8") else "fp32"
    progress(f"building {model.name}")
    folder.mkdir(parents=True, exist_ok=True)
    engine = folder / f"{model.stem}{runtime.suffix}"
    precision = runtime.precision_of_engine(told)
    runtime.engine_from_onnx(
        model,
        engine,
        precision=precision,
        keep_float=kept_in_float(model, chooses=runtime.chooses_precision),
        free=free,
    )
    if held != precision == told and (facts := read_facts(engine)) is not None:  # the engine holds what the graph does
        write_facts(engine, replace(facts, precision=held))
    return engine


def _single_file(model: Path, folder: Path) -> Path:
    """A model itself, or of a graph whose weights lie beside it one file with all of them, in ``folder``: a device is
    sent one file, and an engine is known by the bytes of one."""
    if not weight_files(model):
        return model
    from edgeprune.export.graph import load_graph, save_graph

    save_graph(load_graph(model), folder / model.name)
    return folder / model.name


def chooses_precision(target: Target | None) -> bool:
    """Whether the builder of a target chooses precisions itself: TensorRT 8.5 and 8.6, and that of a DLA until 11,
    whose command line has no word for it."""
    return target is not None and (target.weakly_typed or target.device.dla_core is not None)


def kept_in_float(onnx: Path, *, chooses: bool) -> tuple[str, ...]:
    """Names of the nodes that a builder which chooses precisions itself is told to keep in FP32: the decoder's
    arithmetic, as a cast graph has it. None for one that does what the graph says.

    Args:
        onnx: the graph that is built.
        chooses: whether the builder does.
    """
    if not chooses:
        return ()
    from edgeprune.export.graph import load_graph
    from edgeprune.export.regions import decoding_arithmetic

    return decoding_arithmetic(load_graph(onnx))
