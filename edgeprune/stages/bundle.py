"""bundle: what ships, in one folder, with the record of how it came to be. Every build writes it anew."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edgeprune.artifact import sha256_of, write_files
from edgeprune.deploy.bundled import DEEPSTREAM, TRITON, files_for_tools
from edgeprune.deploy.shipped import ShippedModel, build_line
from edgeprune.input_size import both_sides, pixels
from edgeprune.records.build import BuildRecord, write_build
from edgeprune.records.facts import EngineFacts, PruneFacts
from edgeprune.records.sbom import SBOM
from edgeprune.runtimes.engine_file import BUNDLED, facts_path
from edgeprune.runtimes.trtexec_argv import LOOKED_FOR, time_argv, version_of
from edgeprune.samples.gates import Gate, at_most_gate
from edgeprune.stages.base import Build
from edgeprune.stages.engine import final_onnx, target_to_ship
from edgeprune.stages.quantize import shipped_model
from edgeprune.target import Target
from edgeprune.target.releases import OLDEST_TENSORRT
from edgeprune.target.schema import Precision
from edgeprune.workspace import BUNDLE, OLD_BUNDLE

HEADS = {
    "raw": (
        "raw: `output0` (batch, 4 + classes + extra, anchors) has every candidate, boxes as centre, width and height "
        "in input pixels; NMS is left to whoever runs it (Ultralytics does it)"
    ),
    "end-to-end": (
        "end-to-end: `output0` (batch, rows, 6 + extra) has rows of two corners in input pixels, score, class and "
        "extra, best first; it needs no NMS"
    ),
    "nms": (
        "nms: NMS is inside; `output0` (batch, rows, 6 + extra) has rows of box, score, class and extra, best first, "
        "filled up with zeros"
    ),
}
CLASSIFIER = "`output0` (batch, classes) has probabilities"
SHIPPED = Path(__file__).parents[1] / "shipped"


def stock_gate(build: Build) -> Gate:
    """The checkpoint that ships must load where edgeprune is not installed."""
    from edgeprune.checkpoint import foreign_globals

    foreign = foreign_globals(shipped_model(build))
    reason = "it loads where edgeprune is not installed"
    gate = at_most_gate("bundle", "foreign classes in model.pt", float(len(foreign)), 0.0, "classes", reason)
    return replace(gate, reason=f"found {', '.join(foreign)}") if foreign else gate


def files(build: Build) -> dict[str, bytes | Path]:
    """Name in the bundle to its content, or to the artifact that it is a copy of."""
    chosen: dict[str, bytes | Path] = {
        "model.onnx": final_onnx(build),
        "model.pt": shipped_model(build),
        "plan.json": build.record(PruneFacts).path("plan"),
        "sample.py": SHIPPED / "sample.py",
    }
    if build.weights.task == "detect" and build.dataset.channels == 3:  # the program reads colour images
        chosen |= {f"cpp/{path.name}": path for path in sorted((SHIPPED / "cpp").iterdir())}
    plan: Path | None = None
    if "engine" in (shipped := build.record(EngineFacts)).artifacts:
        engine = shipped.path("engine")
        plan = engine if f"engine{engine.suffix}" == BUNDLED else None
        chosen[f"engine{engine.suffix}"] = engine
        if (facts := facts_path(engine)).is_file():
            chosen[f"engine{engine.suffix}.json"] = facts
    model = ShippedModel.read(final_onnx(build), engine=plan)
    return chosen | files_for_tools(model, target_to_ship(build), build.reporter.note)


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


def with_digests(record: BuildRecord, chosen: Mapping[str, bytes | Path], graph: Path) -> BuildRecord:
    """The record with the sha256 of each further file of its bundle, and of the texts that are made from the record and
    the bundle's graph."""
    digests = {
        name: sha256_of(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()
        for name, content in chosen.items()
    }
    return with_texts(replace(record, bundle={**record.bundle, **digests}), graph)[0]


def with_texts(record: BuildRecord, graph: Path) -> tuple[BuildRecord, dict[str, bytes]]:
    """The record with the digests of what is made from it and its graph, and those files by name."""
    texts = {
        "labels.txt": "".join(f"{record.names[index]}\n" for index in sorted(record.names)).encode(),
        "README.md": readme(record, graph).encode(),
    }
    digests = {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}
    return replace(record, bundle={**record.bundle, **digests}), texts


def write_bundle(root: Path, chosen: Mapping[str, bytes | Path], record: BuildRecord, graph: Path) -> Path:
    """Write ``bundle/`` beside the stages; the old one is replaced only when the new one is whole."""
    partial = root / f".partial-bundle-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    write_files(partial, {**chosen, **with_texts(record, graph)[1]})
    write_build(partial / "build.json", record)
    final, old = root / BUNDLE, root / OLD_BUNDLE
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        final.replace(old)  # from here to the next line there is no bundle: `open_workspace` puts it back
    partial.replace(final)
    shutil.rmtree(old, ignore_errors=True)
    return final


def readme(record: BuildRecord, graph: Path) -> str:
    """How to run what is in the bundle, whose ``model.onnx`` is ``graph``, and what is still to do."""
    from edgeprune.report.verdict import accuracy_text, accuracy_warning, verdict_table

    target, files = record.target, record.bundle
    height, width = both_sides(target.imgsz)
    said = height if height == width else [height, width]
    on_board = target.runtime in ("tensorrt", "trtexec")
    rows = {
        "model.onnx": "**load this anywhere**: the graph, with names, stride and task in its metadata",
        "model.pt": 'the same, pruned and fine-tuned, for plain Ultralytics: `YOLO("model.pt")`',
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
    }
    there = {*files, *(f"{name.split('/')[0]}/" for name in files if "/" in name)}
    table = "".join(f"| `{name}` | {what} |\n" for name, what in rows.items() if name in there)
    text = f"""# {target.name}: {record.verdict_words}

{target.description}; input {target.batch}×{record.channels}×{height}×{width}, {record.precision}.

| file | what it is |
| --- | --- |
{table}| `labels.txt` | class names, one a line |
| `build.json` | target, gates, raw measurements, versions, digests |

Where nothing else is said, commands are typed in the folder of this file, the bundle.

## Run it

```
pip install numpy opencv-python onnxruntime{" pillow" if record.task == "classify" else ""}
python sample.py image.jpg          # prints what it finds, draws it in image-found.png
```

`sample.py` needs neither edgeprune nor Ultralytics. It reads the task, the names and the size from `model.onnx`, \
prepares the image as below, runs the graph and decodes what it gives; `--model` takes another file. With Ultralytics:

```python
from ultralytics import YOLO

results = YOLO("model.onnx", task="{record.task}").predict("image.jpg", imgsz={said})
```

In a program of your own: {_planes(record.channels)}, 0 to 1, NCHW, {_prepared(record.task, height, width)}. \
Head of the graph, {_head(record)}.
"""
    if "cpp/" in there:
        runtime, model = (" -DBACKEND=tensorrt", BUNDLED) if on_board else ("", "model.onnx")
        text += f"""
In C++, with no library but the runtime's:

```
cmake -S cpp -B build{runtime} && cmake --build build{"   # on the board" if on_board else ""}
build/sample {model} image.ppm    # a line of JSON for each object; --draw writes a picture
```

CMake says what it does not find and how to name its folder. Where it finds OpenCV, the program reads JPEG and PNG too.\
{" Without `-DBACKEND` it runs `model.onnx` by ONNX Runtime." if on_board else ""}
"""
    if f"{DEEPSTREAM}/" in there:
        text += f"""
## DeepStream

On the board: `cd {DEEPSTREAM} && make && deepstream-app -c deepstream_app_config.txt`; its `README.md` says more.
"""
    if f"{TRITON}/" in there:
        models = sorted({name.split("/")[1] for name in files if name.startswith(f"{TRITON}/")})
        served = " and, on the board of its engine, ".join(f"`{model}`" for model in models)
        text += f"\n## Triton\n\n`tritonserver --model-repository={TRITON}` serves {served}.\n"
    if "device/" in there:
        text += """
## Measure it on the board

Copy `device/` there; Python 3 and JetPack's trtexec are all that it needs.

```
sh device/run-on-device.sh                                   # on the board: builds, measures, writes device/results.tar
edgeprune import-results results.tar --run RUN_DIRECTORY     # back here: judges the gates, updates this bundle
```

`RUN_DIRECTORY` is the folder that holds this one. Without `--run`, the builds in `runs/` are searched.
"""
    if on_board:
        lines = "\n".join(shlex.join(line) for line in trtexec_lines(target, graph, record.precision, record.channels))
        text += (
            f"\nThe engine alone and its times, by hand, on the board, in a copy of this folder:\n\n```\n{lines}\n```\n"
        )
    if warning := accuracy_warning(record):
        text += f"\n**{warning}**\n"
    if record.next_command:
        text += f"\n## Still to do\n\nWhere the build was started:\n\n```\n{record.next_command}\n```\n"
    gates = verdict_table(record.gates, record.next_command, "the command above")
    return f"{text}\n## Verdict\n\n{gates.markdown()}\n\n{accuracy_text(record)}\n"


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
    return CLASSIFIER if record.task == "classify" else HEADS[record.stages.export.facts.head]
