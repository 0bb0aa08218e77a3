"""Commands on artifacts: parse, call, print. Mounted by ``edgeprune.cli``; torch is imported when a command runs."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeprune.cli.bench import Live, RuntimeOption
from edgeprune.cli.settings import option_of
from edgeprune.cli.sizes import Device, Trust, seed_option, side_to_run, size_option
from edgeprune.cli.streams import say
from edgeprune.model_file import KINDS, require_model
from edgeprune.options import OUT, output_file, output_graph, refuse_without_effect, without_none
from edgeprune.serial import json_text, to_json
from edgeprune.settings import Calibration

if TYPE_CHECKING:
    from edgeprune.export.result import ParityInfo
    from edgeprune.input_size import Size
    from edgeprune.measure.result import ArtifactAccuracy
    from edgeprune.runtimes.base import Runtime
    from edgeprune.runtimes.jobs import ParserAnswer
    from edgeprune.target import Target

EXTRA_UNITS = {"segment": "of mask coefficients and prototypes", "obb": "rad"}  # of what is no pixel and no score

app = typer.Typer(no_args_is_help=True, add_completion=False)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Data = Annotated[str, typer.Option(help="Dataset YAML, folder of class folders, or a name Ultralytics knows.")]


@app.command("export")
def export_command(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint (.pt).")],
    output: Annotated[
        Path | None, typer.Option(*OUT, callback=output_graph, help="ONNX file; CHECKPOINT.onnx.")
    ] = None,
    imgsz: Annotated[Any, size_option("Input in pixels: a side, or HEIGHT,WIDTH; as the weights were trained.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per inference; with --dynamic and head nms, the most.")] = 1,
    dynamic: Annotated[bool, typer.Option("--dynamic", help="Leave batch and size free.")] = False,
    opset: Annotated[int, typer.Option(help="ONNX operator set.")] = 17,
    head: Annotated[
        str, typer.Option(help="auto, end-to-end (no NMS needed), raw (NMS outside) or nms (NMS inside).")
    ] = "auto",
    output_name: Annotated[list[str] | None, typer.Option(help="Name of an output, once for each in order.")] = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Export a checkpoint to ONNX in FP32.

    Examples:
      edgeprune export best.pt --imgsz 320 -o best.onnx
      edgeprune export tuned/best.pt --imgsz 320 -o model.onnx
    """
    from edgeprune.checkpoint import require_checkpoint
    from edgeprune.export.onnx import onnx_from_checkpoint

    require_checkpoint(checkpoint)  # before the place of the result, which is named after it
    if dynamic and head != "nms" and batch > 1:
        refuse_without_effect({"--batch": batch}, "is the most for head nms, and --dynamic leaves it free")
    output = output or _beside(checkpoint, f"{checkpoint.stem}.onnx")
    info = onnx_from_checkpoint(
        checkpoint,
        output,
        imgsz=side_to_run(checkpoint, imgsz, trust=trust),
        batch=batch,
        dynamic=dynamic,
        opset=opset,
        head=head,
        output_names=output_name or (),
        trust=trust,
    )
    shapes = ", ".join(f"{tensor.name} {tensor.shape}" for tensor in (*info.inputs, *info.outputs))
    text = f"{output}: {info.task}, head {info.head}, opset {info.opset}, {info.nodes} nodes; {shapes}"
    _print({"path": output, **to_json(info)}, text, as_json)


@app.command("simplify")
def simplify_command(
    model: Annotated[Path, typer.Argument(help="ONNX file.")],
    output: Annotated[
        Path | None, typer.Option(*OUT, callback=output_graph, help="ONNX file; MODEL-simple.onnx.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Simplify an ONNX file; the source goes on where that fails or changes an output.

    Example:
      edgeprune simplify model.onnx -o small.onnx
    """
    from edgeprune.export.simplify import simplify_onnx

    output = output or _beside(model, f"{model.stem}-simple.onnx")
    info = simplify_onnx(model, output)
    _print({"path": output, **to_json(info)}, f"{output}: {info.reason}", as_json)


@app.command("quantize")
def quantize_command(
    model: Annotated[Path, typer.Argument(help="FP32 ONNX file.")],
    precision: Annotated[str, typer.Option(help="fp16, int8 or int8-fp16.")],
    data: Annotated[str | None, typer.Option(help="Dataset YAML; INT8 is calibrated on its train split.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(*OUT, callback=output_graph, help="ONNX file; MODEL-PRECISION.onnx."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="INT8 for 'tensorrt', if not given, or for ONNX Runtime's 'cpu' provider.")
    ] = None,
    count: Annotated[int | None, option_of(Calibration, "images", "--count")] = None,
    method: Annotated[str | None, option_of(Calibration, "method")] = None,
    reduce_range: Annotated[
        bool | None,
        option_of(
            Calibration, "reduce_range", "--reduce-range/--full-range", without="as this CPU needs it if not given"
        ),
    ] = None,
    seed: Annotated[int, seed_option("Seed of the choice of images.")] = 0,
    keep_float: Annotated[
        list[str] | None, typer.Option(help="Node that stays in float, of those that lint --nodes lists; repeatable.")
    ] = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Cast an ONNX file to half precision, or quantise it to INT8.

    Examples:
      edgeprune quantize small.onnx --precision fp16 -o half.onnx
      edgeprune quantize small.onnx --precision int8 --data data.yaml -o int8.onnx
    """
    from edgeprune.export.quantize import quantize_onnx

    if precision == "fp16":
        of_int8 = {"--data": data, "--recipe": recipe, "--count": count, "--method": method}
        of_int8 |= {"--reduce-range": reduce_range or None, "--full-range": None if reduce_range is not False else True}
        refuse_without_effect(of_int8, "calibrates INT8, and --precision is fp16")
    output = output or _beside(model, f"{model.stem}-{precision}.onnx")
    stated: dict[str, Any] = {"images": count, "recipe": recipe, "method": method, "reduce_range": reduce_range}
    info = quantize_onnx(
        model,
        output,
        precision=precision,
        data=data,
        keep_float=keep_float or (),
        seed=seed,
        trust=trust,
        **without_none(stated),
    )
    lines = [f"{output}: {info.precision}, {info.size_before / 1e6:.1f} → {info.size_after / 1e6:.1f} MB"]
    if info.images:
        lines.append(f"{info.quantized_layers} layers in INT8, {len(info.float_layers)} in float; {info.images} images")
        if info.reduced_range and reduce_range is None:
            lines.append("weights of 7 bits, as this CPU needs them: x86 without VNNI; for another CPU --full-range")
        elif recipe == "cpu" and reduce_range is None:
            lines.append("weights of 8 bits, as this CPU takes them; for an x86 CPU without VNNI --reduce-range")
        if recipe in (None, "tensorrt") and precision == "int8":
            lines.append("made for TensorRT; ONNX Runtime runs it on a CPU more slowly than FP32: there --recipe cpu")
    _print({"path": output, **to_json(info)}, "\n".join([*lines, *info.warnings]), as_json)


@app.command("parity")
def parity_command(
    reference: Annotated[Path, typer.Argument(help="Checkpoint or ONNX file.")],
    candidate: Annotated[Path, typer.Argument(help="ONNX file.")],
    data: Data,
    split: Annotated[str, typer.Option(help="Split the images come from.")] = "val",
    count: Annotated[int, typer.Option(min=1, help="Images.")] = 16,
    limit: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Exit 1 beyond this difference of any number: pixels, scores, radians of an angle, mask values; "
            "and where no detection agrees.",
        ),
    ] = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Compare two forms of a model on real images. Exits 5 where neither detects anything: nothing was compared.

    Example:
      edgeprune parity tuned/best.pt small.onnx --data data.yaml \\
        --limit 0.01   # exits 0, 1 or 5: 5 where neither detects anything
    """
    from edgeprune.errors import TargetError
    from edgeprune.export.parity import parity, require_reference
    from edgeprune.export.quantize import dataset_for

    if limit is not None and not math.isfinite(limit):
        raise TargetError(f"--limit {limit}: a finite number is needed, 0 or more")
    require_model(candidate, ".onnx")
    require_reference(reference)
    dataset = dataset_for(candidate, data, split=split, trust=trust)
    found = parity(reference, candidate, dataset.sample_images(split, count), trust=trust)
    apart = [f"{found.max_abs_box_px:.2g} px", f"{found.max_abs_score:.2g} of score"]
    if (unit := EXTRA_UNITS.get(found.task)) is not None:
        apart.append(f"{found.max_abs_extra:.2g} {unit}")
    text = f"{found.images} images, {found.task}, head {found.head}: at most {', '.join(apart)} apart; "
    if found.found_nothing:
        text += "INCONCLUSIVE: neither detects anything on these images; give a trained model, or other images"
    else:
        text += f"{found.detections_agreement:.1%} of {found.detections_reference} detections agree"
    # rows of scores near 0 pair with nothing, which says nothing where neither form detects anything
    shares_nothing = found.nothing_agrees and not found.found_nothing
    failed = limit is not None and (shares_nothing or not found.max_abs <= limit)
    if failed:
        text += f"; FAIL: {'no detection agrees' if shares_nothing else f'more than --limit {limit:g}'}"
    _print(found, text, as_json)
    if failed:
        raise typer.Exit(1)
    if found.found_nothing:
        raise typer.Exit(5)


@app.command("lint")
def lint_command(
    model: Annotated[Path, typer.Argument(help="ONNX file.")],
    tensorrt: Annotated[
        str | None, typer.Option(help="TensorRT release of the target; when left out, that of JetPack 6.1.")
    ] = None,
    dynamic: Annotated[bool, typer.Option("--dynamic", help="Free shapes are allowed.")] = False,
    precision: Annotated[
        str | None, typer.Option(help="Precision the graph must hold: fp32, fp16, int8, int8-fp16.")
    ] = None,
    nodes: Annotated[bool, typer.Option("--nodes", help="List what quantize --keep-float can name instead.")] = False,
    as_json: Json = False,
) -> None:
    """Check an ONNX file against what TensorRT accepts, without TensorRT. Exits 1 on an error.

    NVIDIA's own parser and builder are asked too, where they are installed (docs/tensorrt.md).

    Examples:
      edgeprune lint small.onnx
      edgeprune lint int8.onnx --tensorrt 10.3 --precision int8
    """
    from edgeprune.export.graph import load_graph
    from edgeprune.export.lint import Limits, lint
    from edgeprune.export.precision import nodes_to_keep

    graph = load_graph(model)
    if nodes:
        given = {"--tensorrt": tensorrt, "--dynamic": dynamic or None, "--precision": precision}
        refuse_without_effect(given, "is what the graph is held against, and --nodes lists its nodes alone")
        names = nodes_to_keep(graph)
        _print({"layers": names}, "\n".join(names), as_json)
        return
    limits = Limits(dynamic=dynamic, precision=precision)
    limits = replace(limits, tensorrt=tensorrt) if tensorrt is not None else limits
    findings = lint(graph, limits)
    lines = [
        f"{f.severity} {f.rule}{f' ({f.count} ×, first {f.node})' if f.node else ''}: {f.message}; {f.remedy}"
        for f in findings
    ]
    answer, said = _ask_parser(model)
    text = "\n".join(lines) or f"{model}: TensorRT {limits.tensorrt} should take it"
    # None is an answer that was not had: absent, crashed and unreadable are told apart by the words
    _print({"findings": findings, "parser": answer, "parser_says": said}, f"{text}\n{said}", as_json)
    if any(finding.severity == "error" for finding in findings) or (answer is not None and answer.refusals):
        raise typer.Exit(1)


def _ask_parser(model: Path) -> tuple[ParserAnswer | None, str]:
    """What NVIDIA's parser says of a graph, None where it says nothing, with a line for people."""
    from edgeprune.errors import DataError, DeviceError, ToolError
    from edgeprune.runtimes.nvidia_parser import NAME, ask_parser, parser_availability

    available = parser_availability()
    if not available.ok:
        return None, f"{NAME} was not asked, {available.detail}; next: {available.remedy}"
    try:
        answer = ask_parser(model)
    except (DataError, DeviceError, ToolError) as error:
        return None, f"{NAME} gave no answer: {error}"
    if answer.refusals:
        return answer, "\n".join(f"error from {NAME} ({available.detail}): {line}" for line in answer.refusals)
    if answer.lacking:
        return answer, f"{NAME} ({available.detail}) cannot tell: it has no {', '.join(answer.lacking)}"
    return answer, f"{NAME} ({available.detail}) took it and built an engine in {answer.seconds:.1f} s"


@app.command("val")
def val_command(
    artifact: Annotated[Path, typer.Argument(help="Checkpoint (.pt), ONNX file or engine.")],
    data: Data,
    target: Annotated[
        str | None,
        typer.Option(help="Profile that gives size, batch, threads, split, and the runtime of an exported file."),
    ] = None,
    device: Device = None,
    split: Annotated[str | None, typer.Option(help="train, val or test; the profile's, or val.")] = None,
    imgsz: Annotated[
        Any,
        size_option("Input in pixels: a side, or HEIGHT,WIDTH; of a checkpoint the profile's, or the artifact's own."),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Images per inference, where the artifact leaves it free; the profile's, or 1."),
    ] = None,
    runtime: RuntimeOption = None,
    head: Annotated[
        str | None, typer.Option(help="Of a checkpoint with two heads: auto, end-to-end or raw; auto when left out.")
    ] = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Accuracy of any artifact by its own runtime, per class.

    By trtexec, a process an inference, it is that of the ONNX file, and some outputs of the engine are held against it:
    exits 1 where surely fewer than 90 % of the detections agree, 5 where the images do not tell.

    Example:
      edgeprune val int8.onnx --data data.yaml --split test
    """
    from edgeprune.errors import TargetError
    from edgeprune.export.run import fixed_batch
    from edgeprune.measure.accuracy import accuracy
    from edgeprune.records.gates import agreement_gate
    from edgeprune.samples.gates import Verdict
    from edgeprune.target import load_target

    if target and runtime:
        raise TargetError("--target and --runtime contradict each other: the profile has a runtime; leave one out")
    require_model(artifact, *KINDS)
    if artifact.suffix == ".pt":
        here = {"--device": None if device == "local" else device, "--runtime": runtime}
        refuse_without_effect(here, "is for an exported file, and PyTorch runs a checkpoint on this machine")
    else:
        refuse_without_effect({"--head": head}, f"of {artifact.name} it was chosen when it was exported")
        if batch is not None and (fixed := fixed_batch(artifact)) not in (None, batch):
            refuse_without_effect({"--batch": batch}, f"{artifact.name} was exported for {fixed}")
    profile = load_target(target) if target else None
    side = side_to_run(artifact, imgsz, profile, trust=trust)
    split = split or (profile.accuracy.split if profile else "val")
    batch, threads = batch or (profile.batch if profile else 1), profile.measure.threads if profile else 0
    graph = artifact if artifact.suffix == ".onnx" else artifact.with_suffix(".onnx")
    agreement: ParityInfo | None = None
    with _runtime(artifact, profile, runtime or "onnxruntime", device) as used, Live(enabled=not as_json) as live:
        if used is not None and not used.fit_for_dataset and graph.is_file():
            judged = _judged(used, graph, artifact, data, side, split, batch, trust, live)
            found, agreement, by, words = judged.accuracy, judged.agreement, judged.measured_on, judged.text(used.name)
        else:
            if used is not None and not used.fit_for_dataset:
                print(
                    f"edgeprune: {used.name} starts a process for every inference, which may take hours; with the ONNX "
                    f"file that it was built from beside it, as {graph.name}, it takes minutes",
                    file=sys.stderr,
                )
            found = accuracy(
                artifact,
                data=data,
                imgsz=side,
                split=split,
                batch=batch,
                head=head or "auto",
                runtime=used,
                threads=threads,
                trust=trust,
                progress=live.progress,
            )
            by = used.name if used else "PyTorch"
            words = f"by {by}"
    best, second = ("top-1", "top-5") if found.task == "classify" else ("mAP50-95", "mAP50")
    lines = [f"{artifact}: {found.task} on {found.images} images of {found.split}, {words}"]
    lines.append(f"{best} {found.map50_95:.4f}, {second} {found.map50:.4f}")
    lines += [f"  {name}: {value:.4f}" for name, value in found.per_class.items()]
    gate = None if agreement is None else agreement_gate("val", agreement)
    if gate is not None and gate.verdict is not Verdict.PASS:
        lines.append(f"{gate.verdict.value}: the accuracy may not be the engine's: {gate.reason}")
    _print({**to_json(found), "runtime": by, "agreement": agreement}, "\n".join(lines), as_json)
    if gate is not None:
        raise typer.Exit(gate.verdict.exit_code)


def _judged(
    runtime: Runtime,
    graph: Path,
    artifact: Path,
    data: str,
    imgsz: Size | None,
    split: str,
    batch: int,
    trust: bool,
    live: Live,
) -> ArtifactAccuracy:
    """Accuracy of a graph, and its engine's outputs against it, where the engine's runtime is too slow for a split."""
    from edgeprune.export.graph import load_graph
    from edgeprune.export.metadata import facts_to_run
    from edgeprune.export.quantize import dataset_for
    from edgeprune.export.run import axes_to_build
    from edgeprune.input_size import both_sides
    from edgeprune.measure.accuracy import judge_artifact
    from edgeprune.measure.compiling import compile_once
    from edgeprune.runtimes.engine_file import require_graph

    if artifact != graph:
        require_graph(artifact, graph)
    dataset = dataset_for(graph, data, split=split, trust=trust)
    with TemporaryDirectory(prefix="edgeprune-val-") as folder:
        model = load_graph(graph)
        size = None if imgsz is None else both_sides(imgsz)
        free = axes_to_build(model, facts_to_run(model, str(graph)), batch, size)
        engine = compile_once(runtime, artifact, Path(folder), live.progress, free)
        return judge_artifact(
            runtime, graph, engine, dataset, imgsz=imgsz, split=split, batch=batch, progress=live.progress
        )


@contextmanager
def _runtime(artifact: Path, profile: Target | None, name: str, device: str | None) -> Iterator[Runtime | None]:
    """The profile's runtime on its device, or the one of this name here; None for a checkpoint, which torch runs."""
    from edgeprune.runtimes.site import open_site
    from edgeprune.target import default_target

    if artifact.suffix == ".pt":
        yield None
        return
    target = (profile or default_target()).with_overrides(device=device)
    with open_site(target, runtime=None if profile else name) as site:
        site.require_usable()
        yield site.runtime


def _beside(source: Path, name: str) -> Path:
    """Where a file goes that nobody named, refused before the work where it cannot be written."""
    path = source.with_name(name)
    if source.is_file():  # of one that is missing, that is said
        output_file(path)
    return path


def _print(data: object, text: str, as_json: bool) -> None:
    say(json_text(data) if as_json else text)
