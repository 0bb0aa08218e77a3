"""DeepStream's files: keys that its parsers know, paths that exist, boxes equal to Ultralytics' on the same graph."""

from __future__ import annotations

import ctypes
import json
import shlex
import subprocess
from configparser import ConfigParser
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torchvision.ops import batched_nms
from typer.testing import CliRunner
from ultralytics import YOLO

from edgeprune.artifact import sha256_of, write_files
from edgeprune.cli import app
from edgeprune.deploy.deepstream import IOU, OBJECTS, SCORE, deepstream_files
from edgeprune.deploy.shipped import ShippedModel
from edgeprune.errors import DataError, TargetError
from edgeprune.export.int8 import quantize_to_int8
from edgeprune.export.metadata import PRECISION_KEY
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.records.build import write_build
from edgeprune.runtimes.engine_file import EngineFacts, write_facts
from edgeprune.runtimes.layer_info import Layer
from edgeprune.runtimes.onnx_facts import onnx_facts
from edgeprune.target import load_target
from tests.compiling import needs
from tests.export.helpers import noise_images, saved, stock_model
from tests.records.sample import build_record

INCLUDE = Path(__file__).parent / "include"
# keys by group, as the parsers of NVIDIA/DeepStream compare them; an unknown one is a warning there that nobody reads
KEYS = {
    group: set(keys.split())
    for group, keys in json.loads(Path(__file__).with_name("deepstream_keys.json").read_text()).items()
}


def parsed(path: Path) -> ConfigParser:
    config = ConfigParser(strict=True, interpolation=None, delimiters=("=",))
    config.optionxform = str  # type: ignore[assignment]
    config.read_string(path.read_text())
    return config


@pytest.fixture(scope="module")
def parser(tmp_path_factory):
    """The shipped parser, compiled with warnings as errors against the stand-in of DeepStream's header."""
    needs("g++")
    library = tmp_path_factory.mktemp("parser") / "parser.so"
    subprocess.run(
        ["g++", "-O1", "-std=c++14", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        + ["-isystem", str(INCLUDE), str(INCLUDE / "call.cpp"), "-o", str(library)],
        check=True,
    )
    call = ctypes.CDLL(str(library)).call
    pointer = np.ctypeslib.ndpointer(np.float32, flags="C")
    call.argtypes = [ctypes.c_int, pointer, *[ctypes.c_uint] * 4, ctypes.c_float, pointer, ctypes.c_int]

    def parse(output: np.ndarray, *, raw: bool, classes: int, side: int, threshold: float) -> np.ndarray | None:
        rows = np.zeros((20000, 6), np.float32)
        plane = np.ascontiguousarray(output, np.float32)
        count = call(raw, plane, *plane.shape, classes, side, threshold, rows, len(rows))
        return None if count < 0 else rows[:count]

    return parse


def square(path: Path) -> np.ndarray:
    """The middle of an image, 320 × 320, so that no letterbox stands between the graph and the boxes; BGR."""
    image = cv2.imread(str(path))
    top, left = (image.shape[0] - 320) // 2, (image.shape[1] - 320) // 2
    return np.ascontiguousarray(image[top : top + 320, left : left + 320])


@pytest.mark.shared
@pytest.mark.parametrize(("family", "head"), [("yolov8", "raw"), ("yolov8", "nms"), ("yolo26", "end-to-end")])
def test_files_claim_what_the_graph_gives(exported, parser, shared, tmp_path, family, head):
    onnx = exported(family, head)
    folder = tmp_path / "deepstream"
    write_files(folder, deepstream_files(ShippedModel.read(onnx)))
    config = parsed(folder / "config_infer_primary.txt")
    values = config["property"]
    assert set(config.sections()) == {"property", "class-attrs-all"}
    assert values["model-engine-file"] == "../engine.engine" and "onnx-file" not in values
    assert int(values["num-detected-classes"]) == 3
    assert (folder / values["labelfile-path"]).read_text() == "RBC\nWBC\nPlatelets\n"
    assert values["parse-bbox-func-name"] in (folder / "nvdsinfer_edgeprune.cpp").read_text()
    assert values["custom-lib-path"] + ":" in (folder / "Makefile").read_text()
    app = parsed(folder / "deepstream_app_config.txt")
    for file in (config, app):
        for group in file.sections():
            assert set(file[group]) <= KEYS[group], group
    assert (folder / app["primary-gie"]["config-file"]).is_file()

    # pre-processing as the file says it, then the graph, then the parser, then the clustering that was asked for
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    assert [int(values["batch-size"]), *map(int, values["infer-dims"].split(";"))] == shape
    compared = 0
    for path in sorted((shared / "data" / "bccd" / "images" / "val").glob("*.jpg"))[:6]:
        image = square(path)
        pixels = image[:, :, ::-1] if values["model-color-format"] == "0" else image
        tensor = (pixels.astype(np.float32) * float(values["net-scale-factor"])).transpose(2, 0, 1)[None]
        output = session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(tensor)})[0][0]
        raw = values["parse-bbox-func-name"].endswith("Raw")
        rows = parser(output, raw=raw, classes=3, side=320, threshold=SCORE)
        assert raw == (values["cluster-mode"] == "2") == (head == "raw")
        if raw:
            boxes, scores, labels = (torch.from_numpy(part) for part in (rows[:, :4], rows[:, 4], rows[:, 5]))
            rows = rows[batched_nms(boxes, scores, labels, IOU).numpy()]
        expected = YOLO(onnx, task="detect").predict(
            image, imgsz=320, conf=SCORE, iou=IOU, max_det=OBJECTS, verbose=False
        )
        wanted = expected[0].boxes.data.numpy()
        order, other = np.argsort(-rows[:, 4], kind="stable"), np.argsort(-wanted[:, 4], kind="stable")
        assert len(rows) == len(wanted)
        assert np.array_equal(rows[order][:, 5], wanted[other][:, 5])
        np.testing.assert_allclose(rows[order][:, :5], wanted[other][:, :5], atol=2e-2)
        compared += len(rows)
    assert compared > 20  # nothing was compared with nothing


def labels_read_by_deepstream(text: str) -> list[list[str]]:
    """As ``InferPostprocessor::parseLabelsFile`` in ``nvdsinfer_context_impl.cpp`` reads them; a class's name is the
    first word of its line."""
    return [line.split(";") for line in text.split("\n") if line]


def test_deepstream_reads_the_name_of_every_class(tmp_path: Path) -> None:
    names = ["car;van", "traffic light", ";", "Straße", "#1", "a, b;c"]
    model = stock_model("yolov8", "detect", nc=len(names))
    model.names = dict(enumerate(names))
    onnx_from_checkpoint(saved(model, tmp_path / "m.pt"), tmp_path / "model.onnx", imgsz=64)
    text = deepstream_files(ShippedModel.read(tmp_path / "model.onnx"))["labels.txt"].decode()
    seen = labels_read_by_deepstream(text)
    assert seen == [["car,van"], ["traffic light"], [","], ["Straße"], ["#1"], ["a, b,c"]]


@pytest.mark.parametrize(
    ("precision", "target", "says"),
    [
        ("int8", None, r"TensorRT 11\.5 makes no engine .*quantized.*recipe tensorrt --data"),
        ("int8", "jetson-xavier-nx", r"TensorRT 8\.5 makes no engine .*recipe tensorrt --data"),
        ("fp32", None, ""),
    ],
)
def test_files_for_an_engine_that_tensorrt_does_not_make_are_refused(
    tmp_path: Path, precision: str, target: str | None, says: str
) -> None:
    """A build for a CPU quantises a graph as ONNX Runtime alone takes it."""
    onnx = tmp_path / "model.onnx"
    onnx_from_checkpoint(saved(stock_model("yolov8", "detect"), tmp_path / "m.pt"), onnx, imgsz=64)
    if precision == "int8":
        quantize_to_int8(onnx, onnx, noise_images(tmp_path), method="minmax", recipe="cpu")
    model = replace(ShippedModel.read(tmp_path), target=load_target(target) if target else None)
    if not says:
        assert "README.md" in deepstream_files(model)
        return
    with pytest.raises(TargetError, match=says):
        deepstream_files(model)
    with pytest.raises(TargetError, match=says):
        model.build_line(onnx="model.onnx", engine="engine.engine")
    assert "README.md" in deepstream_files(replace(model, engine=tmp_path / "engine.engine"))  # somebody made one
    ended = CliRunner().invoke(app, ["deploy", "deepstream", str(tmp_path)])
    assert isinstance(ended.exception, TargetError) and not (tmp_path / "deepstream").exists()


def test_its_makefile_finds_the_headers_that_an_older_deepstream_includes(exported, tmp_path):
    """Those of DeepStream 6 include TensorRT's, which include CUDA's, in no folder that a compiler looks into."""
    needs("make", "g++")
    folder, deepstream, cuda = tmp_path / "deepstream", tmp_path / "ds", tmp_path / "cuda"
    write_files(folder, deepstream_files(ShippedModel.read(exported("yolov8", "raw"))))
    (deepstream / "sources" / "includes").mkdir(parents=True)
    (cuda / "include").mkdir(parents=True)
    header = (INCLUDE / "nvdsinfer_custom_impl.h").read_text()
    old = deepstream / "sources" / "includes" / "nvdsinfer_custom_impl.h"
    old.write_text(f"#include <cuda_runtime_api.h>\n{header}")
    (cuda / "include" / "cuda_runtime_api.h").touch()
    argv = ["make", "-C", str(folder), f"DEEPSTREAM={deepstream}", f"CUDA={cuda}"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_parser_refuses_another_models_layout(parser):
    wrong = np.zeros((9, 100), np.float32)
    assert parser(wrong, raw=True, classes=3, side=320, threshold=0.25) is None
    assert parser(np.zeros((300, 5), np.float32), raw=False, classes=3, side=320, threshold=0.25) is None


def test_a_class_beyond_the_labels_and_a_box_in_the_padding_are_dropped(parser):
    rows = np.array([[10, 10, 50, 50, 0.9, 7], [-40, 0, -10, 20, 0.9, 0], [300, 300, 400, 400, 0.8, 1]], np.float32)
    kept = parser(rows, raw=False, classes=3, side=320, threshold=0.25)
    np.testing.assert_array_equal(kept, np.array([[300, 300, 320, 320, 0.8, 1]], np.float32))


@pytest.mark.parametrize("raw", [True, False])
def test_what_is_no_number_is_no_box(parser, raw):
    """Whatever an overflow leaves in the answer, every box that comes out lies in the input and has a score."""
    generator, kept = np.random.default_rng(0), 0
    for _ in range(200):
        answer = generator.normal(16, 20, (7, 50) if raw else (50, 6)).astype(np.float32)
        if raw:
            answer[4:] = generator.random((3, 50))
        else:
            answer[:, 4] = generator.random(50)
            answer[:, 5] = generator.integers(0, 3, 50)
        spoiled = generator.random(answer.shape) < 0.05
        answer[spoiled] = generator.choice([np.nan, np.inf, -np.inf, 3e38, -3e38, -1], spoiled.sum())
        rows = parser(answer, raw=raw, classes=3, side=32, threshold=0.25)
        assert np.isfinite(rows).all()
        assert ((rows[:, :4] >= 0) & (rows[:, :4] <= 32)).all()
        assert ((rows[:, 2] > rows[:, 0]) & (rows[:, 3] > rows[:, 1]) & (rows[:, 4] >= 0.25)).all()
        kept += len(rows)
    assert kept > 1000


@pytest.mark.parametrize("label", [np.nan, np.inf, -np.inf, -1, -0.5, 3, 1e20])
def test_a_class_that_is_none_is_no_box(parser, label):
    rows = np.array([[1, 1, 9, 9, 0.9, label], [2, 2, 9, 9, 0.8, 1]], np.float32)
    assert parser(rows, raw=False, classes=3, side=32, threshold=0.25)[:, 4].tolist() == [np.float32(0.8)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", range(5))
def test_one_value_that_is_no_number_drops_its_box(parser, bad, column):
    row = np.array([[1, 1, 9, 9, 0.9, 1]], np.float32)
    row[0, column] = bad
    assert len(parser(row, raw=False, classes=3, side=32, threshold=0.25)) == 0


@pytest.mark.parametrize("form", ["a lone graph", "a bundle", "elsewhere", "behind a link", "both behind links"])
def test_a_written_folder_leads_to_boxes(tmp_path, form):
    """Every path of the configuration is there once the folder's own page was followed."""
    onnx = tmp_path / "home" / ("cells.onnx" if form == "a lone graph" else "model.onnx")
    onnx.parent.mkdir()
    onnx_from_checkpoint(saved(stock_model("yolov8", "detect"), tmp_path / "m.pt"), onnx, imgsz=64, dynamic=True)
    given, out = (onnx, []) if form == "a lone graph" else (onnx.parent, [])
    folder = onnx.parent / "deepstream"
    if form == "elsewhere":
        folder = tmp_path / "away" / "deepstream"
        out = ["-o", str(folder)]
    if "link" in form:
        (tmp_path / "disk" / "of" / "another").mkdir(parents=True)
        (tmp_path / "away").symlink_to("disk/of/another")
        folder = tmp_path / "away" / "deepstream"
        out = ["-o", str(folder)]
    if form == "both behind links":
        (tmp_path / "away" / "latest").symlink_to(onnx.parent)
        given = tmp_path / "away" / "latest"
    ended = CliRunner().invoke(app, ["deploy", "deepstream", str(given), *out])
    assert ended.exit_code == 0, ended.output
    values = parsed(folder / "config_infer_primary.txt")["property"]
    assert (folder / values["labelfile-path"]).read_text() == "class0\nclass1\nclass2\n"
    assert values["custom-lib-path"] + ":" in (folder / "Makefile").read_text()
    page = (folder / "README.md").read_text()
    [line] = [shlex.split(line) for line in page.splitlines() if "--saveEngine" in line]
    options = dict(item.split("=", 1) for item in line if "=" in item)
    assert (folder / options["--onnx"]).samefile(onnx)
    assert options["--shapes"] == "images:1x3x64x64"
    (folder / options["--saveEngine"]).write_bytes(b"plan")
    assert (folder / values["model-engine-file"]).read_bytes() == b"plan"
    assert onnx.with_name("engine.engine").is_file()


def test_the_configuration_says_the_core_and_the_format_of_the_engine(tmp_path):
    profile = tmp_path / "mine.yaml"
    profile.write_text("extends: jetson-orin-nx\ndevice: {dla_core: 1}\nmeasure: {cuda_graph: false}")
    onnx_from_checkpoint(saved(stock_model("yolov8", "detect"), tmp_path / "m.pt"), tmp_path / "model.onnx", imgsz=64)
    model = ShippedModel.read(tmp_path)
    for target, modes in ((load_target(profile), ["2", "1", "1"]), (None, ["0", None, None])):
        write_files(tmp_path / "deepstream", deepstream_files(replace(model, target=target)))
        values = parsed(tmp_path / "deepstream" / "config_infer_primary.txt")["property"]
        assert [values.get(key) for key in ("network-mode", "enable-dla", "use-dla-core")] == modes
        assert set(values) <= KEYS["property"]


def test_the_configuration_of_an_engine_that_fell_back_to_the_gpu_asks_for_no_dla(tmp_path):
    onnx_from_checkpoint(saved(stock_model("yolov8", "detect"), tmp_path / "m.pt"), tmp_path / "model.onnx", imgsz=64)
    layers = tuple(Layer(f"/model.{n}/conv/Conv", "CaskConvolution", "fp16", "gpu", "multiplies") for n in range(2))
    facts = EngineFacts("trtexec 10.3.0", {}, "fp16", (), (), {}, layers, dla_core=0)
    model = replace(ShippedModel.read(tmp_path), facts=facts)
    text = deepstream_files(model)["config_infer_primary.txt"].decode()
    assert "enable-dla=" not in text and "# no enable-dla: no layer of the engine is on DLA core 0" in text
    some = replace(facts, layers=(replace(layers[0], placed="dla"), layers[1]))
    assert (
        "enable-dla=1\nuse-dla-core=0\n"
        in deepstream_files(replace(model, facts=some))["config_infer_primary.txt"].decode()
    )


@pytest.mark.parametrize(
    ("name", "encoder"),
    [("jetson-orin-nano", "1"), ("jetson-orin-nano-4gb", "1"), ("jetson-orin-nx", "0"), (None, "0")],
)
def test_the_pipeline_needs_no_screen_and_encodes_a_video_as_its_board_can(tmp_path, name, encoder):
    onnx_from_checkpoint(saved(stock_model("yolov8", "detect"), tmp_path / "m.pt"), tmp_path / "model.onnx", imgsz=64)
    model = replace(ShippedModel.read(tmp_path), target=load_target(name) if name else None)
    write_files(tmp_path / "deepstream", deepstream_files(model))
    app = parsed(tmp_path / "deepstream" / "deepstream_app_config.txt")
    sinks = [app[group] for group in app.sections() if group.startswith("sink")]
    assert [(sink["type"], sink["enable"]) for sink in sinks] == [("1", "1"), ("3", "0"), ("2", "0")]
    assert sinks[1]["enc-type"] == encoder and sinks[1]["output-file"].endswith(".mp4")
    assert all(set(app[group]) <= KEYS[group] for group in app.sections())
    assert app["application"]["enable-perf-measurement"] == "1"
    assert "EGL" in (tmp_path / "deepstream" / "README.md").read_text()


def test_what_gst_nvinfer_has_no_way_for_is_refused(tmp_path):
    checkpoint = tmp_path / "pose.pt"
    torch.save({"model": stock_model("yolov8", "pose"), "train_args": {"imgsz": 64}}, checkpoint)
    onnx_from_checkpoint(checkpoint, tmp_path / "pose.onnx", imgsz=64)
    with pytest.raises(TargetError, match=r"written for detect, and pose\.onnx is a pose model"):
        deepstream_files(ShippedModel.read(tmp_path / "pose.onnx"))
    with pytest.raises(DataError, match=r"no bundle: it has no model\.onnx"):
        ShippedModel.read(tmp_path)


def test_a_graph_that_says_another_number_format_than_there_are_is_refused_by_every_tool(tmp_path: Path) -> None:
    onnx_from_checkpoint(saved(stock_model("yolov8", "detect"), tmp_path / "m.pt"), tmp_path / "odd.onnx", imgsz=64)
    graph = onnx.load(tmp_path / "odd.onnx")
    entry = next((one for one in graph.metadata_props if one.key == PRECISION_KEY), None) or graph.metadata_props.add()
    entry.key, entry.value = PRECISION_KEY, "bf16"
    onnx.save(graph, str(tmp_path / "odd.onnx"))
    with pytest.raises(DataError, match=r"odd\.onnx says that its number format is 'bf16'; known are fp32, fp16, int8"):
        ShippedModel.read(tmp_path / "odd.onnx")


def bundle_for_an_old_jetpack(folder: Path) -> Path:
    """A bundle for a DLA of a board with JetPack 5.1, without its engine; its graph."""
    folder.mkdir()
    profile = folder.parent / "mine.yaml"
    profile.write_text(
        "extends: jetson-xavier-nx\nprecision: fp16\ndevice: {dla_core: 1}\nmeasure: {cuda_graph: false}"
    )
    graph = folder / "model.onnx"
    onnx_from_checkpoint(saved(stock_model("yolov8", "detect"), folder / "m.pt"), graph, imgsz=64)
    record = build_record()
    stages = replace(record.stages, quantize=None, qat=None)
    shipped = {"model.onnx": sha256_of(graph)}
    write_build(folder / "build.json", replace(record, target=load_target(profile), stages=stages, bundle=shipped))
    return graph


def test_a_bundles_graph_is_told_of_by_the_record_beside_it_as_the_bundle_is(tmp_path: Path) -> None:
    graph = bundle_for_an_old_jetpack(tmp_path / "bundle")
    asked = {path: deepstream_files(ShippedModel.read(path)) for path in (graph.parent, graph)}
    assert asked[graph] == asked[graph.parent]
    assert b"enable-dla=1\nuse-dla-core=1\n" in asked[graph]["config_infer_primary.txt"]
    assert b"network-mode=2\n" in asked[graph]["config_infer_primary.txt"]
    assert b"--fp16" in asked[graph]["README.md"] and b"--stronglyTyped" not in asked[graph]["README.md"]
    record = (graph.parent / "build.json").read_text()
    for content in (record.replace(sha256_of(graph), "f" * 64), "damaged"):  # of another file, of something else
        (graph.parent / "build.json").write_text(content)
        assert ShippedModel.read(graph).target is None


def test_the_line_for_a_lone_graph_is_that_of_the_engine_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx_from_checkpoint(saved(stock_model("yolov8", "detect"), tmp_path / "m.pt"), path, imgsz=64)
    graph = onnx_facts(path)
    (tmp_path / "engine.engine").write_bytes(b"plan")
    facts = EngineFacts("trtexec 8.6.2", {}, "fp16", graph.inputs, graph.outputs, graph.metadata, ())
    for command, program in (("docker run --rm trt trtexec --onnx=m.onnx", 5), ("", 1)):
        write_facts(tmp_path / "engine.engine", replace(facts, command=command))
        line = ShippedModel.read(path).build_line(onnx="model.onnx", engine="engine.engine")
        assert line[program] == "--onnx=model.onnx" and "--fp16" in line and "--stronglyTyped" not in line
        assert not command or shlex.join(line).startswith("docker run --rm trt trtexec --onnx=")


def test_the_files_of_a_model_of_other_classes_are_not_replaced(tmp_path: Path) -> None:
    for name, first in (("a", "cat"), ("b", "dog")):
        network = stock_model("yolov8", "detect")
        network.names = {0: first, 1: "bird", 2: "fish"}
        onnx_from_checkpoint(saved(network, tmp_path / f"{name}.pt"), tmp_path / f"{name}.onnx", imgsz=64)
    folder = tmp_path / "deepstream"

    def deployed(name: str) -> str:
        argv = ["deploy", "deepstream", str(tmp_path / name), "-o", str(folder)]
        return str(CliRunner().invoke(app, argv).exception or "")

    assert deployed("a.onnx") == ""
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert "a model of other classes (cat, bird, fish, here dog, bird, fish), which are not replaced" in deployed(
        "b.onnx"
    )
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert deployed("a.onnx") == ""
