"""The C++ sample gives Ultralytics' answers on the same file; it is built by its own CMake file, warnings are errors.

ONNX Runtime's headers: Debian's ``libonnxruntime-dev``, or what ``make headers`` fetched; its library is the Python
package's. TensorRT's: ``EDGEPRUNE_TENSORRT_INCLUDE``, folders with ``:`` between them, CUDA's among them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from ultralytics import YOLO
from ultralytics.utils.metrics import box_iou

from edgeprune.export.half import cast_to_fp16
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.shipped import sample
from tests.compiling import needs, without
from tests.export.helpers import saved, stock_model
from tests.shipped.test_sample import bccd_images, inside

SOURCES = Path(sample.__file__).parent / "cpp"
WARNINGS = "-Wall -Wextra -Wpedantic -Werror"
USER_INCLUDE = "usr/include/onnxruntime"
ROOT = Path(__file__).parents[2]
HEADERS = (ROOT / ".headers" / "onnxruntime" / USER_INCLUDE, Path("/") / USER_INCLUDE)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample with ONNX Runtime behind it."""
    needs("cmake", "g++")
    include = next((place for place in HEADERS if (place / "onnxruntime_cxx_api.h").is_file()), None)
    if include is None:
        without("ONNX Runtime's C++ headers are not here (libonnxruntime-dev, or make headers)")
    root = tmp_path_factory.mktemp("cpp")
    (root / "lib").mkdir()
    [library] = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (root / "lib" / name).symlink_to(library)
    shutil.copytree(SOURCES, root / "source")
    for command in (
        ["cmake", "-B", "build", "-S", "source", f"-DCMAKE_CXX_FLAGS={WARNINGS}", f"-DONNXRUNTIME_ROOT={root}"]
        + [f"-DONNXRUNTIME_INCLUDE={include}", "-DCMAKE_DISABLE_FIND_PACKAGE_OpenCV=ON"],
        ["cmake", "--build", "build"],
    ):
        built = subprocess.run(command, cwd=root, capture_output=True, text=True)
        assert built.returncode == 0, built.stdout + built.stderr
    return root / "build" / "sample"


def test_the_build_file_is_for_the_cmake_of_the_oldest_board() -> None:
    """JetPack 5.1 has CMake 3.16, whose finders take no REQUIRED and know no CUDAToolkit."""
    text = (SOURCES / "CMakeLists.txt").read_text()
    assert "cmake_minimum_required(VERSION 3.16)" in text
    commands = "\n".join(line.partition("#")[0] for line in text.splitlines())
    assert "REQUIRED" not in commands.replace("CXX_STANDARD_REQUIRED", "")
    assert "CUDAToolkit" not in commands


def test_a_header_that_the_build_does_not_find_is_named(tmp_path: Path) -> None:
    needs("cmake", "g++")
    nowhere = [f"-D{name}_{kind}=IGNORED-NOTFOUND" for name in ("TENSORRT", "CUDA") for kind in ("INCLUDE", "LIBRARY")]
    argv = ["cmake", "-S", str(SOURCES), "-B", str(tmp_path), "-DBACKEND=tensorrt", *nowhere]
    done = subprocess.run(
        [*argv, "-DCMAKE_FIND_ROOT_PATH=/nowhere", "-DCMAKE_FIND_ROOT_PATH_MODE_INCLUDE=ONLY"],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "NvInfer.h is not found; name the folder that holds include/ and lib/:" in " ".join(done.stderr.split())
    assert "-DTENSORRT_ROOT=/path" in done.stderr


def run(program: Path, *words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=300)


def found_by(program: Path, model: Path, images: list[Path]) -> dict[str, list[dict[str, Any]]]:
    ended = run(program, model, *images)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, list[dict[str, Any]]] = {str(image): [] for image in images}
    for line in ended.stdout.splitlines():
        one = json.loads(line)
        found[one["image"]].append(one)
    return found


def as_ppm(images: list[Path], folder: Path, width: int | None = None) -> list[Path]:
    """Copies as PPM, at another width where one is given."""
    folder.mkdir()
    copies = []
    for image in images:
        frame = cv2.imread(str(image))
        if width is not None:
            frame = cv2.resize(frame, (width, round(frame.shape[0] * width / frame.shape[1])))
        copies.append(folder / f"{image.stem}.ppm")
        cv2.imwrite(str(copies[-1]), frame)
    return copies


def agree(program: Path, model: Path, images: list[Path]) -> int:
    """Hold every detection against Ultralytics' of the same file; gives how many there were."""
    ours = found_by(program, model, images)
    size = sample.Model(model)
    theirs = YOLO(model, task="detect").predict(
        [cv2.imread(str(image)) for image in images],
        imgsz=(size.height, size.width),
        rect=False,
        conf=0.25,
        iou=0.7,
        verbose=False,
        device="cpu",
    )
    total = 0
    for image, result in zip(images, theirs, strict=True):
        found = [one for one in ours[str(image)] if inside(one["box"])]
        rows = result[[inside(box) for box in result.boxes.xyxy.tolist()]].boxes
        assert len(found) == len(rows), image.name
        if not found:
            continue
        overlap = box_iou(torch.tensor([one["box"] for one in found]), rows.xyxy).numpy()
        same = np.array([one["label"] for one in found])[:, None] == rows.cls.numpy()
        pairs = np.where(same, overlap, 0).argmax(axis=1)
        assert sorted(pairs) == list(range(len(found))), image.name
        assert overlap[np.arange(len(found)), pairs].min() >= 0.99, image.name
        assert [one["score"] for one in found] == pytest.approx(rows.conf.numpy()[pairs], abs=1e-3), image.name
        assert [one["name"] for one in found] == [result.names[one["label"]] for one in found]
        total += len(found)
    return total


def exported(shared: Path, folder: Path, family: str = "yolov8", **options: Any) -> Path:
    onnx_from_checkpoint(shared / "weights" / f"bccd-{family}n-320.pt", folder / "model.onnx", imgsz=320, **options)
    (folder / "labels.txt").write_text("RBC\nWBC\nPlatelets\n")
    return folder / "model.onnx"


@pytest.mark.shared
@pytest.mark.parametrize(("family", "head"), [("yolov8", "raw"), ("yolo26", "end-to-end"), ("yolo11", "nms")])
def test_it_finds_what_ultralytics_finds(program: Path, family: str, head: str, shared: Path, tmp_path: Path) -> None:
    model = exported(shared, tmp_path, family, head=head)
    images = as_ppm(bccd_images(shared), tmp_path / "images")
    assert len(images) == 87
    assert agree(program, model, images) > 5 * len(images)


@pytest.mark.shared
def test_images_of_other_sizes_and_graphs_of_other_shapes(program: Path, shared: Path, tmp_path: Path) -> None:
    small, large = (as_ppm(bccd_images(shared)[:8], tmp_path / str(width), width) for width in (233, 517))
    for name, options in {"one": {}, "free": {"dynamic": True}, "several": {"batch": 4}}.items():
        folder = tmp_path / name
        folder.mkdir()
        model = exported(shared, folder, **options)
        if name == "several":  # Ultralytics asks for as many images as the graph takes
            found, alone = (found_by(program, each, small) for each in (model, tmp_path / "one" / "model.onnx"))
            scores = [[one["score"] for one in each[str(small[0])]] for each in (found, alone)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-4) and scores[0]
        else:
            assert agree(program, model, [*small, *large]) > 80


@pytest.mark.shared
def test_it_draws_and_reads_comments_in_a_ppm(program: Path, shared: Path, tmp_path: Path) -> None:
    model = exported(shared, tmp_path)
    [image] = as_ppm(bccd_images(shared)[:1], tmp_path / "images")
    head, size, rest = image.read_bytes().split(b"\n", 2)
    image.write_bytes(head + b"\n# made by hand\n" + size + b" # here too\n" + rest)
    ended = run(program, model, image, "--draw", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    drawn, before = cv2.imread(str(tmp_path / f"{image.stem}-found.ppm")), cv2.imread(str(bccd_images(shared)[0]))
    left, top, *_ = json.loads(ended.stdout.splitlines()[0])["box"]
    assert drawn.shape == before.shape and drawn[int(top), int(left)].tolist() == [0, 0, 255]


def test_what_it_cannot_take_is_one_line(program: Path, tmp_path: Path) -> None:
    model, labels = tmp_path / "model.onnx", tmp_path / "labels.txt"
    onnx_from_checkpoint(saved(stock_model("yolov8", "detect"), tmp_path / "m.pt"), model, imgsz=64)
    classes = len(sample.Model(model).names)
    image = tmp_path / "image.ppm"
    image.write_bytes(b"P6 8 8 255 " + bytes(192))
    named = "".join(f"class {index}\n" for index in range(classes))

    def line(*words: object, names: str = named) -> str:
        labels.write_text(names)
        ended = run(program, *words)
        assert ended.returncode == 1 and ended.stdout == ""
        assert ended.stderr.count("\n") == 1, ended.stderr
        return ended.stderr

    for content, expected in {
        b"": "is no PPM",
        b"\xff\xd8\xff": "is no PPM",
        b"P6 8 8 255 " + bytes(191): "ends before its last pixel",
        b"P6 8 8 65535 " + bytes(384): "8 bits",
        b"P6 99999999999 8 255 ": "8 bits",
        b"P6 -8 8 255 ": "8 bits",
        b"P6 # for ever": "8 bits",
    }.items():
        (tmp_path / "bad.ppm").write_bytes(content)
        assert expected in line(model, tmp_path / "bad.ppm"), content
    assert "cannot be read" in line(model, tmp_path / "none.ppm")
    assert "not of one model" in line(model, image, names="a\nb\n")
    assert "labels.txt: cannot be read" in line(model, image, names="")
    (tmp_path / "nonsense.onnx").write_bytes(b"nonsense")
    line(tmp_path / "nonsense.onnx", image)
    line(tmp_path / "none.onnx", image)
    cast_to_fp16(model, tmp_path / "half.onnx", half_inputs=True)
    assert "no float32 image" in line(tmp_path / "half.onnx", image)
    onnx_from_checkpoint(saved(stock_model("yolov8", "pose"), tmp_path / "p.pt"), tmp_path / "pose.onnx", imgsz=64)
    assert "sample.py runs the others" in line(tmp_path / "pose.onnx", image)
    assert "ONNX Runtime runs nothing on a DLA" in line(model, image, "--dla", "0")
    assert run(program).returncode == 2


@pytest.fixture(scope="module")
def program_of_tensorrt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample with TensorRT behind it, or rather a stand-in that gives what a test wrote into its engine."""
    needs("g++")
    path = tmp_path_factory.mktemp("tensorrt") / "sample"
    sources = [str(SOURCES / name) for name in ("sample.cpp", "tensorrt.cpp")]
    flags = ["-std=c++17", "-O1", *WARNINGS.split(), "-isystem", str(Path(__file__).parent / "include")]
    built = subprocess.run(["g++", *flags, *sources, "-o", str(path)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return path


def engine_file(path: Path, expected: np.ndarray, given: np.ndarray, *, kind: int = 0, free: bool = False) -> Path:
    head = np.array([kind, free, *expected.shape, *given.shape], np.int32)
    path.write_bytes(head.tobytes() + expected.astype(np.float32).tobytes() + given.astype(np.float32).tobytes())
    return path


@pytest.mark.shared
@pytest.mark.parametrize(("batch", "free"), [(1, False), (4, False), (4, True)])
def test_tensorrt_gets_the_image_and_its_answer_is_read(
    program_of_tensorrt: Path, shared: Path, tmp_path: Path, batch: int, free: bool
) -> None:
    """The graph's own answer, by ONNX Runtime, comes back through TensorRT's calls as the Python sample reads it; other
    images are black."""
    model = exported(shared, tmp_path)
    [image] = as_ppm(bccd_images(shared)[:1], tmp_path / "images")
    pixels, _ = sample.letterbox(cv2.imread(str(image)), 320, 320)
    tensor = np.zeros((batch, 3, 320, 320), np.float32)
    tensor[0] = pixels[..., ::-1].transpose(2, 0, 1).astype(np.float32) / 255
    [answer] = onnxruntime.InferenceSession(model).run(None, {"images": tensor[:1]})
    given = np.full((batch, *answer.shape[1:]), np.nan, np.float32)
    given[0] = answer[0]
    engine = engine_file(tmp_path / "engine.engine", tensor, given, free=free)
    ours = found_by(program_of_tensorrt, engine, [image])[str(image)]
    theirs = sample.Model(model)(cv2.imread(str(image)))
    assert len(ours) == len(theirs) > 5
    for found, expected in zip(ours, theirs, strict=True):
        assert found["box"] == pytest.approx(expected.box.tolist(), abs=1e-2)
        assert found["score"] == pytest.approx(expected.score, abs=1e-4)
        assert (found["label"], found["name"]) == (expected.label, expected.name)
    engine_file(engine, tensor + 0.01, given, free=free)  # the stand-in notices another image
    assert "did not run" in run(program_of_tensorrt, engine, image).stderr


@pytest.mark.parametrize("rows", [True, False])
def test_what_is_no_number_is_no_box(program_of_tensorrt: Path, tmp_path: Path, rows: bool) -> None:
    """Whatever an overflow leaves in the answer, every box that comes out lies in the image; it is drawn, too."""
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    image, generator = tmp_path / "image.ppm", np.random.default_rng(0)
    image.write_bytes(b"P6 20 30 255 " + bytes(1800))
    pixels = sample.letterbox(np.zeros((30, 20, 3), np.uint8), 32, 32)[0].transpose(2, 0, 1)[None] / 255
    kept = 0
    for _ in range(20):
        answer = generator.normal(0, 100, (1, 50, 6) if rows else (1, 7, 50))
        if rows:
            answer[..., 4:] = generator.random((1, 50, 2))
        spoiled = generator.random(answer.shape) < 0.05
        answer[spoiled] = generator.choice([np.nan, np.inf, -np.inf, 3e38, -3e38], spoiled.sum())
        if rows:
            answer[..., 5] = generator.integers(0, 3, 50)
        engine = engine_file(tmp_path / "engine.engine", pixels, answer)
        ended = run(program_of_tensorrt, engine, image, "--draw", cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        for line in ended.stdout.splitlines():
            left, top, right, bottom = json.loads(line)["box"]
            assert all(0 <= x <= 20 for x in (left, right)) and all(0 <= y <= 30 for y in (top, bottom))
            kept += 1
    assert kept > 100


def test_what_tensorrt_cannot_take_is_one_line(program_of_tensorrt: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cell\n")
    (tmp_path / "image.ppm").write_bytes(b"P6 8 8 255 " + bytes(192))
    engine = tmp_path / "engine.engine"
    pixels, answer = np.zeros((1, 3, 8, 8)), np.zeros((1, 5, 4))

    def line(*words: str) -> str:
        ended = run(program_of_tensorrt, engine, tmp_path / "image.ppm", *words)
        assert ended.returncode == 1 and ended.stderr.count("\n") == 1, ended.stderr
        return ended.stderr

    assert "cannot be read, or is empty" in line()
    engine.write_bytes(b"\x02\0\0\0{}plan")  # with Ultralytics' header
    assert "is no bare engine of this TensorRT" in line()
    engine_file(engine, pixels, answer, kind=1)
    assert "is not float32" in line()
    engine_file(engine, np.zeros((1, 1, 8, 8)), answer)
    assert "three channels" in line()
    engine_file(engine, pixels, np.zeros((1, 9, 4)))
    assert "not of one model" in line()
    assert "--dla 2: there are 2 DLA cores here" in line("--dla", "2")


def test_an_engine_for_a_dla_is_loaded_on_its_core(program_of_tensorrt: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cell\n")
    image = tmp_path / "image.ppm"
    image.write_bytes(b"P6 8 8 255 " + bytes(192))
    engine = engine_file(tmp_path / "engine.engine", np.zeros((1, 3, 8, 8)), np.zeros((1, 5, 4)), kind=101)
    ended = run(program_of_tensorrt, engine, image, "--dla", "1")
    assert (ended.returncode, ended.stderr) == (0, "")
    for words in [], ["--dla", "0"]:
        assert "is no bare engine of this TensorRT" in run(program_of_tensorrt, *words, engine, image).stderr
    for words in ["--dla"], ["--dla", "GPU"]:
        ended = run(program_of_tensorrt, engine, image, *words)
        assert ended.returncode == 2 and "[--dla N: the engine's DLA core]" in ended.stderr


def test_it_is_compiled_against_tensorrt() -> None:
    include = os.environ.get("EDGEPRUNE_TENSORRT_INCLUDE")
    if include is None or shutil.which("g++") is None:
        pytest.skip("TensorRT's headers are not here (EDGEPRUNE_TENSORRT_INCLUDE=NvInfer's folder:CUDA's folder)")
    folders = [word for folder in include.split(":") for word in ("-isystem", folder)]
    command = ["g++", "-std=c++17", "-O1", *WARNINGS.split(), "-fsyntax-only", *folders, str(SOURCES / "tensorrt.cpp")]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr


def test_headers_are_fetched_whole_from_where_apt_takes_packages(tmp_path: Path) -> None:
    """By stand-ins of apt and of dpkg; into the place that these tests look into."""
    checkout, programs = tmp_path / "checkout", tmp_path / "bin"
    (checkout / ".ci").mkdir(parents=True)
    programs.mkdir()
    script = Path(shutil.copy(ROOT / ".ci" / "onnxruntime-headers", checkout / ".ci"))
    release, seen = tmp_path / "os-release", tmp_path / "seen"
    release.write_text("ID=debian\nVERSION_CODENAME=bookworm\n")
    header = HEADERS[1] / "onnxruntime_cxx_api.h"
    if header.is_file():
        pytest.skip(f"this machine has {header}, and nothing is fetched")

    def fetch(*, header: str, site: str = "http://mirror/debian") -> subprocess.CompletedProcess[str]:
        stand_ins = {
            "apt-get": 'case "$*" in\n'
            f'  indextargets*) echo "http://other/security bookworm-security"; echo "{site} bookworm";;\n'
            f'  *update) cat "$(dirname "$(ls -d "$PWD"/.headers/.new.*/lists)")/sources.list" >{seen};;\n'
            "  *download*) touch libonnxruntime-dev_1_all.deb;;\n"
            "esac",
            "dpkg": f'mkdir -p "$3/{USER_INCLUDE}"; touch "$3/{USER_INCLUDE}/{header}"',
        }
        for name, text in stand_ins.items():
            (programs / name).write_text(f"#!/bin/sh\n{text}\n")
            (programs / name).chmod(0o755)
        around = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "OS_RELEASE": str(release)}
        return subprocess.run([script], env=around, capture_output=True, text=True, check=False)

    broken = fetch(header="onnxruntime_c_api.h")
    assert broken.returncode == 1 and "libonnxruntime-dev of trixie has no" in broken.stderr
    assert list((checkout / ".headers").iterdir()) == []
    assert fetch(header="onnxruntime_cxx_api.h").returncode == 0
    assert seen.read_text().split()[-3:] == ["http://mirror/debian", "trixie", "main"]
    assert (checkout / HEADERS[0].relative_to(ROOT) / "onnxruntime_cxx_api.h").is_file()
    seen.unlink()
    assert fetch(header="onnxruntime_cxx_api.h").returncode == 0 and not seen.exists()
    shutil.rmtree(checkout / ".headers")
    release.write_text("ID=debian\nVERSION_CODENAME=forky\n")
    assert "apt has no source of 'forky'" in fetch(header="onnxruntime_cxx_api.h").stderr
