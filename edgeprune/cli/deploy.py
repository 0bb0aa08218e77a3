"""``edgeprune deploy`` and ``edgeprune engine-header``: what ships, as the tools of this field take it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from edgeprune.cli.streams import say
from edgeprune.options import OUT, output_file, output_folder

app = typer.Typer(no_args_is_help=True, help="Write the files that DeepStream or Triton takes as they are.")
header_app = typer.Typer(no_args_is_help=True, help="Add, remove or show the header YOLO() needs on a TensorRT engine.")

Bundle = Annotated[Path, typer.Argument(help="Bundle of a build, or an ONNX file.")]
Engine = Annotated[Path, typer.Argument(help="TensorRT engine, with or without the header.")]
EngineOut = Annotated[Path, typer.Option(*OUT, callback=output_file, help="Engine file to write.")]


@app.command()
def deepstream(
    bundle: Bundle,
    out: Annotated[
        Path | None, typer.Option(*OUT, callback=output_folder, help="Folder; deepstream/ in the bundle.")
    ] = None,
) -> None:
    """Write Gst-nvinfer's configuration, the parser of the boxes and a pipeline to try them in. Detection models.

    Example:
      edgeprune deploy deepstream model.onnx -o deepstream
    """
    import os

    from edgeprune.artifact import write_files
    from edgeprune.deploy.deepstream import LABELS, deepstream_files
    from edgeprune.deploy.shipped import ShippedModel
    from edgeprune.runtimes.engine_file import BUNDLED

    model = ShippedModel.read(bundle)
    folder = out or model.onnx.parent / "deepstream"
    output_folder(folder)
    home = os.path.relpath(model.onnx.parent.resolve(), folder.resolve())  # `..` goes up from where a link leads
    files = deepstream_files(model, engine=f"{home}/{BUNDLED}", onnx=f"{home}/{model.onnx.name}")
    _refuse_others(folder, files, "config_infer_primary.txt")
    _refuse_other_classes(folder, files[LABELS])
    write_files(folder, files)
    say(f"{folder}: config_infer_primary.txt, the parser, a pipeline; go on with {folder / 'README.md'}")


def _refuse_others(folder: Path, files: Iterable[str], own: str) -> None:
    """Refuse a folder with files of somebody else's under the names of these: one that has not even ``own``, by which
    an earlier answer to the same command is known."""
    from edgeprune.errors import TargetError

    there = [] if (folder / own).is_file() else [name for name in files if (folder / name).exists()]
    if there:
        raise TargetError(
            f"{folder}: has {', '.join(there)}, and no {own}, so that they are of something else; give a folder of its "
            "own: -o FOLDER"
        )


def _refuse_other_classes(folder: Path, labels: bytes) -> None:
    """Refuse a folder with the files of a model of other classes, whose pipeline would run this one."""
    from edgeprune.deploy.deepstream import LABELS
    from edgeprune.errors import TargetError
    from edgeprune.reading import shown

    there = folder / LABELS
    if there.is_file() and (seen := there.read_bytes()) != labels:
        theirs, ours = (", ".join(text.decode(errors="replace").splitlines()) for text in (seen, labels))
        raise TargetError(
            f"{folder}: has the files of a model of other classes ({shown(theirs)}, here {shown(ours)}), which are not "
            "replaced; give a folder of its own: -o FOLDER"
        )


@app.command()
def triton(
    bundle: Bundle,
    out: Annotated[
        Path, typer.Option(*OUT, callback=output_folder, help="Model repository; made where it is missing.")
    ],
    name: Annotated[str, typer.Option(help="Name of the model on the server.")] = "edgeprune",
) -> None:
    """Write a model repository for Triton: the ONNX graph, and the TensorRT engine where the bundle has one.

    A later model of the same task and classes takes the place of the one there, whose engine is removed where the new
    bundle has none. A model of others is refused, as is what edgeprune did not write.

    Example:
      edgeprune deploy triton runs/cpu/bundle -o models
    """
    from edgeprune.deploy.shipped import ShippedModel
    from edgeprune.deploy.triton import add_to_repository, serve_lines, triton_files

    shipped = ShippedModel.read(bundle)
    for line in add_to_repository(shipped, out, name=name):
        say(line)
    served = tuple(dict.fromkeys(file.split("/")[0] for file in triton_files(shipped, name=name)))
    for model in served:
        say(f"{out / model}: YOLO('http://HOST:8000/{model}', task='{shipped.metadata.task}') once it is served")
    for line in serve_lines(str(out), served):
        say(line)


@header_app.command("add")
def header_add(
    engine: Engine,
    onnx: Annotated[Path, typer.Option(help="Graph or bundle that the engine was built from.")],
    out: EngineOut,
) -> None:
    """Write the engine as `YOLO("model.engine")` loads it; an old header is replaced.

    Example:
      edgeprune engine-header add engine.engine --onnx model.onnx -o model.engine
    """
    from edgeprune.deploy.engine_header import add_header

    header = add_header(engine, onnx, out)
    say(f"{out}: header with {', '.join(header)}")


@header_app.command("strip")
def header_strip(engine: Engine, out: EngineOut) -> None:
    """Write the bare engine that trtexec, DeepStream and Triton take.

    Example:
      edgeprune engine-header strip model.engine -o bare.engine
    """
    from edgeprune.deploy.engine_header import strip_header

    taken = strip_header(engine, out)
    say(f"{out}: the bare engine" + (f", {taken} bytes of header taken off" if taken else "; it had no header"))


@header_app.command("show")
def header_show(engine: Engine) -> None:
    """Print the header of an engine as JSON; {} where it has none.

    Example:
      edgeprune engine-header show model.engine
    """
    from edgeprune.deploy.engine_header import read_header

    say(json.dumps(read_header(engine), indent=1, ensure_ascii=False))
