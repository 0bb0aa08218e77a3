"""What a bundle holds for other tools: covered by its digests, and no larger for it."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeprune.artifact import write_files
from edgeprune.deploy import deepstream
from edgeprune.deploy.bundled import files_for_tools
from edgeprune.deploy.shipped import ShippedModel
from edgeprune.devices.trtexec_options import known_options
from edgeprune.export.images import batch_from_images
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.measure.compiling import compile_engine
from edgeprune.records.build import DeviceRow
from edgeprune.records.show import read_build
from edgeprune.records.verify import verify_build
from edgeprune.runtimes.engine_file import EngineFacts
from edgeprune.runtimes.trtexec_argv import version_of
from edgeprune.serial import write_json
from edgeprune.stages.bundle import SHIPPED, with_digests, write_bundle
from edgeprune.stages.bundle_readme import readme, trtexec_lines
from edgeprune.target import load_target
from edgeprune.workspace import open_workspace
from tests.export.helpers import saved, stock_model
from tests.records.sample import build_record


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ShippedModel]:
    def made(task: str) -> ShippedModel:
        folder = tmp_path_factory.mktemp(task)
        path = saved(stock_model("yolov8", task), folder / "m.pt")
        onnx_from_checkpoint(path, folder / "model.onnx", imgsz=64)
        return ShippedModel.read(folder / "model.onnx")

    return made


def test_which_tools_have_a_way_for_it(graph: Callable[[str], ShippedModel]) -> None:
    found = {
        (task, target): {name.split("/")[0] for name in files_for_tools(graph(task), load_target(target))}
        for task in ("detect", "pose")
        for target in ("cpu", "jetson-orin")
    }
    assert found == {
        ("detect", "cpu"): {"triton"},
        ("detect", "jetson-orin"): {"triton", "deepstream"},
        ("pose", "cpu"): {"triton"},
        ("pose", "jetson-orin"): {"triton"},
    }


def test_a_tool_that_is_left_out_is_said(graph: Callable[[str], ShippedModel]) -> None:
    said: list[str] = []
    files_for_tools(graph("pose"), load_target("jetson-orin"), said.append)
    assert len(said) == 1 and said[0].startswith(
        "no deepstream/ in the bundle: DeepStream files are written for detect"
    )
    files_for_tools(graph("detect"), load_target("jetson-orin"), said.append)
    assert len(said) == 1


def test_the_page_is_of_the_images_channels(bundle: Path) -> None:
    record = replace(read_build(bundle), channels=4)
    target = record.target.model_copy(update={"export": record.target.export.model_copy(update={"dynamic": True})})
    graph = bundle / "model.onnx"
    page = (write_bundle(bundle.parent, {}, replace(record, target=target), graph) / "README.md").read_text()
    assert "input 1×4×640×640" in page and "--shapes=images:1x4x640x640" in page
    assert "4 channels in the order of the file, 0 to 1, NCHW" in page


@pytest.mark.parametrize(
    ("task", "imgsz", "words"),
    [
        ("detect", 320, "letterboxed to 320 px (its aspect kept"),
        ("obb", (64, 96), "letterboxed to 64 × 96 px (its aspect kept"),
        ("classify", 224, "its shorter side resized to 224 px (bilinear with antialiasing, as Pillow does it) and the"),
        ("classify", (64, 96), "resized to 64 × 96 px, its aspect not kept (bilinear"),
    ],
    ids=str,
)
def test_the_page_says_how_an_image_is_prepared_for_its_task(
    task: str, imgsz: int | tuple[int, int], words: str
) -> None:
    record = build_record()
    record = replace(record, task=task, target=record.target.with_overrides(imgsz=imgsz))
    page = readme(record, Path("model.onnx"))
    assert words in page
    assert ("letterbox" in page) == (task != "classify")


@pytest.mark.parametrize(
    ("task", "extra"),
    [("detect", ""), ("segment", "coefficients of its mask"), ("pose", "each keypoint"), ("obb", "angle in radians")],
)
@pytest.mark.parametrize(("head", "columns"), [("raw", "4 + classes"), ("end-to-end", "6"), ("nms", "6")])
def test_the_page_says_what_the_graph_gives_for_its_task(task: str, extra: str, head: str, columns: str) -> None:
    """Boxes that are turned have no corners in the output, whatever the head; what follows them is named."""
    record = replace(build_record(), task=task)
    export = record.stages.export
    stages = replace(record.stages, export=replace(export, facts=replace(export.facts, head=head)))
    page = readme(replace(record, stages=stages), Path("model.onnx"))
    [told] = [line for line in page.splitlines() if "Head of the graph, " in line]
    told = told.split("Head of the graph, ")[1]
    assert told.startswith(f"{head}: ")
    assert ("two corners in input pixels" in told) == (head != "raw" and task != "obb")
    assert ("centre, width and height" in told) == (head == "raw" or task == "obb")
    assert extra in told
    assert (f" {columns} + extra" in told) == bool(extra) and (", then " in told) == bool(extra)
    assert ("`output1`" in told) == (task == "segment")


@pytest.mark.parametrize("imgsz", [(64, 64), (64, 96), (96, 64)], ids=str)
def test_what_the_page_says_of_a_classifiers_image_is_what_it_is_trained_on(
    imgsz: tuple[int, int], tmp_path: Path
) -> None:
    """By the page's words: the aspect is kept and cut at a square, and not kept at a rectangle."""
    height, width = imgsz
    pixels = np.random.default_rng(0).integers(0, 255, (50, 130, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    side = (int(width * 130 / 50), height) if height == width else (width, height)
    resized = np.asarray(Image.fromarray(pixels).resize(side, Image.Resampling.BILINEAR))
    left = round((side[0] - width) / 2)
    expected = resized[:, left : left + width].transpose(2, 0, 1) / 255
    [seen] = batch_from_images([tmp_path / "wide.png"], imgsz=imgsz, task="classify")
    assert np.abs(seen - expected).max() < 1e-6


@pytest.mark.parametrize(
    ("extends", "more"),
    [
        ("jetson-xavier-nx", ""),
        ("jetson-orin-nx", "device: {dla_core: 0}\nmeasure: {cuda_graph: false}\n"),
        ("jetson-orin", ""),
    ],
)
def test_the_line_to_type_keeps_in_float_what_a_build_keeps(
    graph: Callable[[str], ShippedModel], tmp_path: Path, extends: str, more: str
) -> None:
    (tmp_path / "mine.yaml").write_text(f"extends: {extends}\n{more}")
    model, target = graph("detect"), load_target(tmp_path / "mine.yaml")
    told: dict[str, Any] = {}
    runtime = SimpleNamespace(suffix=".engine", engine_from_onnx=lambda *_, **options: told.update(options))
    site: Any = SimpleNamespace(target=target, runtime=runtime)
    compile_engine(site, model.onnx, tmp_path)
    expected = ["--layerPrecisions=" + ",".join(f"{name}:fp32" for name in told["keep_float"])]
    assert bool(told["keep_float"]) == (extends != "jetson-orin")  # what is typed strongly needs no such list
    for line in (
        trtexec_lines(target, model.onnx)[0],
        replace(model, target=target).build_line(onnx="model.onnx", engine="model.engine"),
    ):
        kept = [word for word in line if word.startswith("--layerPrecisions")]
        assert kept == (expected if told["keep_float"] else [])


def as_typed(text: str) -> list[list[str]]:
    """The lines of a page that are trtexec's."""
    return [shlex.split(line) for line in text.splitlines() if "trtexec --" in line]


def test_the_lines_to_type_are_for_the_release_that_built_the_engine(
    graph: Callable[[str], ShippedModel], tmp_path: Path
) -> None:
    """11 refuses --fp16 for a DLA, and turned the defaults of copies and CUDA graphs round; what was carried to a board
    of a range of releases keeps the range as its target."""
    profile = tmp_path / "dla.yaml"
    profile.write_text("extends: jetson-agx-orin\ndevice: {dla_core: 0}\nmeasure: {cuda_graph: false, copies: true}\n")
    target, model = load_target(profile), graph("detect")
    waits = replace(build_record(), target=target)
    facts = EngineFacts("trtexec 11.4.1", {}, "fp16", (), (), {}, (), dla_core=0)
    visit = DeviceRow("carried by hand", False, {"tensorrt": "10.7.0", "runtime": "trtexec 11.4.1"}, waits.host)
    native = replace(facts, builder="tensorrt 10.7.0.23", command="")
    here = replace(visit, identity={"runtime": native.builder})
    for record, built, release in (
        (waits, None, "10.3"),
        (replace(waits, device=visit), facts, "11.4.1"),
        (replace(waits, device=here), native, "10.7.0"),
    ):
        page = readme(record, model.onnx)
        build, timing = as_typed(page)
        known = known_options(version_of(release))
        assert f"The lines are for TensorRT {release}, {'which built' if built else 'the oldest'}" in page
        deployed = replace(model, target=target, facts=built)
        [served] = as_typed(deepstream.readme(deployed, engine="e.engine", onnx="model.onnx"))
        for line in (build, timing, served):
            assert {word.partition("=")[0] for word in line[1:]} <= known
        for line in (build, served):
            assert "--useDLACore=0" in line and ("--fp16" in line) == (built is not facts)
        assert {"--includeDataTransfers", "--noCudaGraph"} <= set(timing) or built is not facts
        assert deployed.release == release and f"(the line of TensorRT {release})" in deepstream.readme(
            deployed, engine="e.engine", onnx="model.onnx"
        )
        assert record.target == target and target.device.tensorrt != f"=={release}"


@pytest.fixture
def bundle(graph: Callable[[str], ShippedModel], tmp_path: Path) -> Path:
    """The bundle of a TensorRT target, its plan built."""
    plan = tmp_path / "plan"
    plan.write_bytes(b"plan" * 1000)
    model, target = replace(graph("detect"), engine=plan), load_target("jetson-orin")
    chosen: dict[str, bytes | Path] = {"model.onnx": model.onnx, "engine.engine": plan}
    chosen |= {f"cpp/{path.name}": path for path in (SHIPPED / "cpp").iterdir()} | files_for_tools(model, target)
    record = with_digests(replace(build_record(), target=target), chosen, model.onnx)
    return write_bundle(tmp_path, chosen, record, model.onnx)


def test_the_page_says_which_file_runs_anywhere_and_which_only_where_it_was_built(bundle: Path) -> None:
    page = (bundle / "README.md").read_text()
    assert "| `model.onnx` | **load this anywhere**" in page
    assert "| `engine.engine` | TensorRT's engine: **for the board and the TensorRT version that built it**" in page
    record = replace(read_build(bundle), bundle={"model.onnx": "", "engine.onnx": ""})
    page = (write_bundle(bundle.parent, {}, record, bundle / "model.onnx") / "README.md").read_text()
    [line] = [line for line in page.splitlines() if line.startswith("| `engine.onnx` |")]
    assert "for the machine that built it: **load it only there**" in line


def test_the_page_names_the_dla_core_to_the_program(bundle: Path, tmp_path: Path) -> None:
    assert "build/sample engine.engine image.ppm    #" in (bundle / "README.md").read_text()
    profile = tmp_path / "dla.yaml"
    profile.write_text("extends: jetson-orin-nx\ndevice: {dla_core: 1}\nmeasure: {cuda_graph: false}\n")
    page = readme(replace(read_build(bundle), target=load_target(profile)), bundle / "model.onnx")
    assert "build/sample engine.engine image.ppm --dla 1    #" in page


def test_a_bundle_that_finds_no_room_leaves_none_taken(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = read_build(bundle)
    monkeypatch.setattr("edgeprune.stages.bundle.write_build", full)
    with pytest.raises(OSError, match="No space left"):
        write_bundle(bundle.parent, {}, before, bundle / "model.onnx")
    assert not list(bundle.parent.glob(".partial-*")) and read_build(bundle) == before


def test_every_file_is_covered_by_a_digest_and_stored_once(bundle: Path) -> None:
    names = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert names - {"build.json"} == set(read_build(bundle).bundle)
    assert {"deepstream/Makefile", "triton/edgeprune_onnx/config.pbtxt", "cpp/CMakeLists.txt"} <= names
    for name, twin in {
        "model.onnx": "edgeprune_onnx/1/model.onnx",
        "engine.engine": "edgeprune_tensorrt/1/model.plan",
    }.items():
        assert (bundle / name).samefile(bundle / "triton" / twin)
    for name in sorted(names - {"build.json"}):
        path = bundle / name
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        assert verify_build(bundle).changed == (f"{name} was changed",)
        path.write_bytes(content)
    assert verify_build(bundle).changed == verify_build(bundle).missing == ()


def test_its_page_names_what_is_there_and_nothing_else(bundle: Path) -> None:
    page = (bundle / "README.md").read_text()
    for words in (
        "## DeepStream",
        "with `edgeprune_onnx` and `edgeprune_tensorrt`:",
        "\ntritonserver --model-repository=triton   # on the board of the engine\n",
        " --model-control-mode=explicit --load-model=edgeprune_onnx   # elsewhere, where the engine does not load\n",
        "cmake -S cpp",
    ):
        assert words in page
    record = read_build(bundle)
    cpu = replace(
        record, target=load_target("cpu"), bundle={"model.onnx": "", "triton/edgeprune_onnx/config.pbtxt": ""}
    )
    page = (write_bundle(bundle.parent, {}, cpu, bundle / "model.onnx") / "README.md").read_text()
    assert "\ntritonserver --model-repository=triton\n```" in page
    for words in ("DeepStream", "cpp/", "on the board", "edgeprune_tensorrt"):
        assert words not in page


@pytest.mark.parametrize("nms", [True, False])
def test_its_line_of_trtexec_says_where_the_gates_had_images_instead_of_noise(bundle: Path, nms: bool) -> None:
    record = read_build(bundle)
    target = record.target.model_copy(update={"export": record.target.export.model_copy(update={"nms": nms})})
    page = readme(replace(record, target=target), bundle / "model.onnx")
    assert "--exportTimes=" in page
    assert ("the gates' are of images of the dataset (`--loadInputs`)" in page) is nms


def test_where_there_are_no_links_a_file_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refused)
    source = tmp_path / "source"
    source.write_bytes(b"one")
    write_files(tmp_path / "there", {"a": source, "b/c": source, "d": b"text"})
    assert {path.read_bytes() for path in (tmp_path / "there" / "a", tmp_path / "there" / "b" / "c")} == {b"one"}
    write_files(tmp_path / "there", {"a": tmp_path / "there" / "a", "d": source})  # what lies there stays
    assert (tmp_path / "there" / "a").read_bytes() == (tmp_path / "there" / "d").read_bytes() == b"one"


def test_an_older_bundle_without_them_is_verified(bundle: Path) -> None:
    record = json.loads((bundle / "build.json").read_text())
    record["bundle"] = {name: digest for name, digest in record["bundle"].items() if "/" not in name}
    del record["sha256"]  # which it had not either
    write_json(bundle / "build.json", record)
    assert verify_build(bundle).changed == verify_build(bundle).missing == ()


def test_a_kill_at_any_step_of_a_replacement_leaves_a_whole_bundle(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every rename and every removal is one at which the process may end; the next command finds a whole bundle."""
    record, graph, root = build_record(), bundle / "model.onnx", tmp_path / "run"
    moved, removed, steps, done, killed_at = Path.replace, shutil.rmtree, 0, False, 0

    def step() -> None:
        nonlocal steps
        steps -= 1
        if steps == 0:
            raise KeyboardInterrupt

    def move(path: Path, to: Path) -> Path:
        if root in (path.parent, to.parent):
            step()
        return moved(path, to)

    def remove(path: Path, **options: Any) -> None:
        step()
        removed(path, **options)

    for killed_at in range(1, 10):
        removed(root, ignore_errors=True)
        with open_workspace(root):
            write_bundle(root, {"kept.txt": b"first"}, record, graph)
            steps = killed_at
            with monkeypatch.context() as slow:
                slow.setattr(Path, "replace", move)
                slow.setattr(shutil, "rmtree", remove)
                try:
                    write_bundle(root, {"kept.txt": b"second"}, record, graph)
                except KeyboardInterrupt:
                    done = False
                else:
                    done = True
        with open_workspace(root):
            assert (root / "bundle" / "kept.txt").read_bytes() in (b"first", b"second"), killed_at
            assert (root / "bundle" / "build.json").is_file()
            assert [path.name for path in root.iterdir() if path.is_dir()] == ["bundle"]
        if done:
            break
    assert done and killed_at >= 4
