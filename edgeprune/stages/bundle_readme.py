"""The page of a bundle: how to run what is in it, what it was judged by, and what is still to do."""

from __future__ import annotations

import shlex
from pathlib import Path

from edgeprune.deploy.bundled import DEEPSTREAM, TRITON
from edgeprune.deploy.shipped import build_line
from edgeprune.deploy.triton import serve_lines
from edgeprune.input_size import both_sides, pixels
from edgeprune.records.build import BuildRecord
from edgeprune.records.facts import ships_trained_int8
from edgeprune.records.sbom import SBOM
from edgeprune.report.page import render_markdown
from edgeprune.report.verdict import CONNECTED, accuracy_text, accuracy_warning, next_step, verdict_table
from edgeprune.runtimes.engine_file import BUNDLED
from edgeprune.runtimes.trtexec_argv import LOOKED_FOR, time_argv, version_named, version_of
from edgeprune.target import Target
from edgeprune.target.releases import OLDEST_TENSORRT
from edgeprune.target.schema import Precision

CLASSIFIER = "`output0` (batch, classes) has probabilities"
EXTRA = {
    "segment": "the coefficients of its mask",
    "pose": "x, y and, where the model gives one, a score of each keypoint",
    "obb": "its angle in radians",
}
"""What follows box, score and class in the rows of a task; nothing for the others."""
MASKS = (
    "; `output1` (batch, coefficients, height / 4, width / 4) has the prototypes: a mask is where their sum, each "
    "times its coefficient, is above 0 inside the box"
)
FILES = {
    "model.onnx": "**load this anywhere**: the graph, with names, stride and task in its metadata",
    "model.pt": 'its checkpoint, {made}, for plain Ultralytics: `YOLO("model.pt")`{train_on}',
    "engine.onnx": "the graph as ONNX Runtime optimised it for the machine that built it: **load it only there**",
    "engine.engine": "TensorRT's engine: **for the board and the TensorRT version that built it**, no other",
    "engine.engine.json": "which those are, the engine's layers and their number formats",
    "sample.py": "runs `model.onnx` on an image and draws what it finds; short enough to be read",
    "cpp/": "the same in C++17, with ONNX Runtime or TensorRT behind it",
    f"{DEEPSTREAM}/": "Gst-nvinfer's configuration, the parser of the boxes, a pipeline",
    f"{TRITON}/": "a model repository for Triton Inference Server",
    "device/": "what a board without a connection needs to build and measure the engine",
    "plan.json": "the width that every layer kept",
    SBOM: "what made it: packages, weights and dataset, as a CycloneDX bill of materials",
    "labels.txt": "class names, one a line",
    "build.json": "target, gates, raw measurements, versions, digests",
}
TRAIN_ON = (
    " predicts, validates and exports; `edgeprune finetune` trains it on, Ultralytics' own `train` undoes the pruning"
)
ALWAYS = ("labels.txt", "build.json")  # the record that is being written does not list them yet


def readme(record: BuildRecord, graph: Path) -> str:
    """How to run what is in the bundle, whose ``model.onnx`` is ``graph``, and what is still to do; Markdown."""
    step = next_step(record)
    target, (height, width) = record.target, both_sides(record.target.imgsz)
    there = {*record.bundle, *(f"{name.split('/')[0]}/" for name in record.bundle if "/" in name), *ALWAYS}
    said = {"made": _made(record), "train_on": "" if record.stages.prune.facts.unpruned else TRAIN_ON}
    on_board = target.runtime in ("tensorrt", "trtexec")
    served = sorted({name.split("/")[1] for name in record.bundle if name.startswith(f"{TRITON}/")})
    device = record.device  # of a range, the lines are for the release that built; the record's target stays the range
    built_by = "" if device is None else version_named(device.identity.get("runtime", ""))
    as_built = target.at_tensorrt(built_by)
    lines = trtexec_lines(as_built, graph, record.precision, record.channels) if on_board else []
    return render_markdown(
        "bundle",
        record=record,
        files={name: what.format(**said) for name, what in FILES.items() if name in there},
        height=height,
        width=width,
        on_board=on_board,
        dla=target.device.dla_core if on_board else None,
        planes=_planes(record.channels),
        prepared=_prepared(record.task, height, width),
        head=_head(record),
        engine=BUNDLED,
        deepstream=DEEPSTREAM,
        triton=TRITON,
        served=served,
        serve=serve_lines(TRITON, served),
        by_hand=[shlex.join(line) for line in lines],
        release=as_built.oldest_tensorrt,
        built=bool(built_by),
        warning=accuracy_warning(record),
        connected=step.connected if step is not None else "",
        connected_words=CONNECTED,
        gates=verdict_table(record.gates, record.next_command, "the command above").markdown(),
        accuracy=accuracy_text(record),
    )


def trtexec_lines(
    target: Target, graph: Path, precision: Precision | None = None, channels: int = 3
) -> list[list[str]]:
    """The lines to type on a board: build the engine of ``model.onnx``, which ``graph`` is, then time it as the profile
    says; ``precision`` is the engine's, the target's when None, ``channels`` are the input's.
    """
    version, program = version_of(target.oldest_tensorrt or OLDEST_TENSORRT), target.trtexec_program or LOOKED_FOR
    measure, core, engine = target.measure, target.device.dla_core, BUNDLED
    shapes = {"images": (target.batch, channels, *both_sides(target.imgsz))} if target.export.dynamic else None
    return [
        build_line(
            target,
            graph,
            onnx="model.onnx",
            engine=engine,
            precision=precision or target.precision,
            shapes=shapes,
            dla_core=core,
            layer_info="layers.json",
        ),
        time_argv(
            version,
            engine=engine,
            times="times.json",
            copies=measure.copies,
            cuda_graph=measure.cuda_graph,
            iterations=measure.rounds * measure.per_round,
            warmup_ms=round(1000 * measure.warmup_s),
            shapes=shapes,
            dla_core=core,
            trtexec=program,
        ),
    ]


def _made(record: BuildRecord) -> str:
    """What was done to the weights that were given, in words."""
    stages = record.stages
    done = ["pruned"] if not stages.prune.facts.unpruned else []
    tuned = stages.finetune is not None and not stages.finetune.facts.training.kept_given
    done += ["fine-tuned"] if tuned else []
    quantize = None if stages.quantize is None else stages.quantize.facts
    in_int8 = stages.qat is not None and not stages.qat.facts.training.kept_given
    done += ["trained in INT8"] if in_int8 and ships_trained_int8(record.target, quantize) else []
    return " and ".join(done) or "as it was given"


def _planes(channels: int) -> str:
    return {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels in the order of the file")


def _prepared(task: str, height: int, width: int) -> str:
    """How an image becomes the size of the input, by the loader that the task's model was trained with."""
    size = pixels((height, width))
    if task != "classify":
        return f"letterboxed to {size} (its aspect kept, in the middle, the rest grey 114)"
    how = "bilinear with antialiasing, as Pillow does it"
    if height != width:
        return f"resized to {size}, its aspect not kept ({how})"
    return f"its shorter side resized to {width} px ({how}) and the middle {width} × {width} cut out"


def _head(record: BuildRecord) -> str:
    """What the graph gives: shape and columns of its outputs, which differ by task and head."""
    task, head = record.task, record.stages.export.facts.head
    if task == "classify":
        return CLASSIFIER
    extra, more = (f", then {EXTRA[task]}", " + extra") if task in EXTRA else ("", "")
    masks = MASKS if task == "segment" else ""
    if head == "raw":
        return (
            f"raw: `output0` (batch, 4 + classes{more}, candidates) has of every candidate the box as centre, width "
            f"and height in input pixels, a score for each class{extra}; NMS is left to whoever runs it (Ultralytics "
            f"does it){masks}"
        )
    box = "centre, width and height" if task == "obb" else "two corners"
    rows = f"`output0` (batch, rows, 6{more}) has rows of box ({box} in input pixels), score, class{extra}; best first"
    if head == "nms":
        return f"nms: NMS is inside; {rows}, filled up with rows whose score is 0{masks}"
    return f"end-to-end: {rows}; it needs no NMS{masks}"
