"""DeepStream: the configuration of Gst-nvinfer, the parser of the model's boxes, and a pipeline to try them in.

Keys as read in ``gstnvinfer_property_parser.cpp`` and ``deepstream_config_file_parser.c`` of NVIDIA/DeepStream.
"""

from __future__ import annotations

import shlex
from importlib.resources import files

from edgeprune.deploy.shipped import ShippedModel
from edgeprune.devices.board import board_modules
from edgeprune.errors import TargetError
from edgeprune.runtimes.engine_file import BUNDLED

NETWORK_MODES = {"fp32": 0, "int8": 1, "fp16": 2, "int8-fp16": 1}  # informs: an engine has its formats already
NO_CLUSTERING, NMS = 4, 2
SCORE, IOU, OBJECTS = 0.25, 0.7, 300  # Ultralytics' predict defaults: conf, iou, max_det
LABELS = "labels.txt"
WITHOUT_ENCODER = ("p3767-0003", "p3767-0004", "p3767-0005")  # the Orin Nano has no NVENC
LIBRARY = "libnvdsinfer_edgeprune.so"

MAKEFILE = f"""\
# On the board: needs DeepStream's headers, which before 7 include those of CUDA and TensorRT.
DEEPSTREAM ?= /opt/nvidia/deepstream/deepstream
CUDA ?= /usr/local/cuda

{LIBRARY}: nvdsinfer_edgeprune.cpp
\t$(CXX) -O2 -std=c++14 -Wall -Wno-deprecated-declarations -shared -fPIC \
\t\t-I$(DEEPSTREAM)/sources/includes -I$(CUDA)/include $< -o $@
"""


def deepstream_files(
    model: ShippedModel, *, engine: str = f"../{BUNDLED}", onnx: str = "../model.onnx"
) -> dict[str, bytes]:
    """The files of ``deepstream/`` by name.

    Args:
        model: what ships.
        engine: where the bare engine is, relative to the folder.
        onnx: where its graph is, relative to the folder.

    Raises:
        TargetError: a task, or a form of the graph, that Gst-nvinfer has no way for; or there is no engine, and
            TensorRT takes none of the graph.
    """
    refuse(model)
    return {
        "config_infer_primary.txt": config(model, engine=engine).encode(),
        LABELS: labels(model).encode(),
        "deepstream_app_config.txt": app_config(model).encode(),
        "nvdsinfer_edgeprune.cpp": files("edgeprune.deploy").joinpath("nvdsinfer_edgeprune.cpp").read_bytes(),
        "Makefile": MAKEFILE.encode(),
        "README.md": readme(model, engine=engine, onnx=onnx).encode(),
    }


def refuse(model: ShippedModel) -> None:
    """Raise ``TargetError`` for what Gst-nvinfer has no way for."""
    if model.metadata.task != "detect":
        raise TargetError(
            f"DeepStream files are written for detect, and {model.onnx.name} is a {model.metadata.task} model: "
            "Gst-nvinfer hands its output on with output-tensor-meta=1, what reads it there is yours to write"
        )
    for tensor in (model.input, *model.outputs):
        if tensor.dtype != "float":
            raise TargetError(
                f"Gst-nvinfer takes and gives float32, and {tensor.name} of {model.onnx.name} is {tensor.dtype}"
            )
    if model.metadata.channels not in (1, 3):
        raise TargetError(f"Gst-nvinfer gives 1 or 3 channels, and {model.onnx.name} takes {model.metadata.channels}")


def labels(model: ShippedModel) -> str:
    """``labels.txt``, a class a line, as ``InferPostprocessor::parseLabelsFile`` reads it: what stands behind a ``;``
    is another word there, so that a name with one has a comma in its place."""
    names = model.metadata.names
    return "".join(f"{names[index].replace(';', ',')}\n" for index in sorted(names))


def config(model: ShippedModel, *, engine: str) -> str:
    """``config_infer_primary.txt``: paths are relative to the file itself, as Gst-nvinfer reads them."""
    batch, channels, height, width = model.engine_shape
    raw = model.metadata.head == "raw"
    return f"""\
# Gst-nvinfer for this bundle's model; written by edgeprune from model.onnx.
[property]
gpu-id=0
# The engine that was built and measured, and no onnx-file: where it does not load, DeepStream stops instead of
# building another one with flags of its own.
model-engine-file={engine}
labelfile-path={LABELS}
batch-size={batch}
infer-dims={channels};{height};{width}
network-mode={NETWORK_MODES[model.precision]}
{_dla_lines(model)}\
network-type=0
process-mode=1
gie-unique-id=1
interval=0
num-detected-classes={len(model.metadata.names)}
# RGB from 0 to 1, letterboxed in the middle. Gst-nvinfer pads with black, training with grey (114).
net-scale-factor=0.00392156862745098
model-color-format={2 if channels == 1 else 0}
maintain-aspect-ratio=1
symmetric-padding=1
scaling-filter=1
# {"every candidate comes out, and NMS is left to DeepStream" if raw else "the graph gives final boxes, no clustering"}
cluster-mode={NMS if raw else NO_CLUSTERING}
custom-lib-path={LIBRARY}
parse-bbox-func-name=NvDsInferParseEdgeprune{"Raw" if raw else "Rows"}

[class-attrs-all]
pre-cluster-threshold={SCORE}
{f"nms-iou-threshold={IOU}" if raw else f"post-cluster-threshold={SCORE}"}
topk={OBJECTS}
"""


def _dla_lines(model: ShippedModel) -> str:
    if model.dla_in_use is not None:
        return f"enable-dla=1\nuse-dla-core={model.dla_in_use}\n"
    off = model.facts.off_dla if model.facts is not None else ""
    return f"# no enable-dla: {off}\n" if off else ""


def app_config(model: ShippedModel) -> str:
    """``deepstream_app_config.txt``: a file through the model, timed, with boxes as a video or in a window by one key;
    the source is the user's to change."""
    nano = model.target is not None and bool(set(board_modules(model.target.device)) & set(WITHOUT_ENCODER))
    return f"""\
# deepstream-app -c deepstream_app_config.txt
[application]
enable-perf-measurement=1
perf-measurement-interval-sec=5

[tiled-display]
enable=0

[source0]
enable=1
# 3: a file or a stream by its address; 4: RTSP; 1: a USB camera
type=3
uri=file:///opt/nvidia/deepstream/deepstream/samples/streams/sample_1080p_h264.mp4
num-sources={model.engine_shape[0]}
gpu-id=0

[streammux]
gpu-id=0
batch-size={model.engine_shape[0]}
batched-push-timeout=40000
width=1920
height=1080
live-source=0

[primary-gie]
enable=1
gpu-id=0
gie-unique-id=1
config-file=config_infer_primary.txt

[osd]
enable=1
gpu-id=0
border-width=2
text-size=15

# Nothing is shown, frames a second are printed: works over SSH, where no display is.
[sink0]
enable=1
type=1
sync=0

# Boxes as a video: enable=1. enc-type=1 encodes on the CPU (an Orin Nano has no encoder, and 0 fails there).
[sink1]
enable=0
type=3
container=1
codec=1
enc-type={int(nano)}
output-file=boxes.mp4
sync=0

# Boxes in a window: enable=1, on a board with a screen, in a session of its desktop.
[sink2]
enable=0
type=2
sync=0
"""


def readme(model: ShippedModel, *, engine: str, onnx: str) -> str:
    """How to come from the bundle to frames a second, and to boxes in a video or on screen."""
    return f"""\
# DeepStream

On the board, in this folder. Written by edgeprune; the parser was compiled and run against this layout on a
workstation, DeepStream itself was not run.

1. The engine: `{engine}`. Where there is none yet, build it (the line of TensorRT {model.release}):

   ```
   {shlex.join(model.build_line(onnx=onnx, engine=engine))}
   ```

   It must be the bare engine: a file with Ultralytics' header is refused by TensorRT
   (`edgeprune engine-header strip model.engine -o engine.engine`).
2. The parser: `make` (DeepStream elsewhere: `make DEEPSTREAM=/path`).
3. Frames a second: `deepstream-app -c deepstream_app_config.txt`, with your own `uri` under `[source0]`. Nothing is
   shown: this works over SSH.
4. Boxes: `enable=1` under `[sink1]` writes them into `boxes.mp4`, under `[sink2]` shows them in a window on the
   board's own screen. Without a screen a window ends in an error about EGL or the display (`DISPLAY`): take the video.
   An Orin Nano has no video encoder: `enc-type=1` encodes on the CPU (`sudo apt install gstreamer1.0-plugins-ugly`
   where `x264enc` is missing).

No boxes? Three causes cover most reports: `num-detected-classes` is not that of the labels, the engine is of another
model than the parser (head {model.metadata.head}), or `pre-cluster-threshold` is too high. Boxes that sit beside their
objects: `maintain-aspect-ratio` and `symmetric-padding` must both be 1.
"""
