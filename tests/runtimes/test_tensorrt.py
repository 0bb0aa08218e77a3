"""TensorRT's Python API against a stand-in made of its type stubs, in the shapes of 10.3, 10.13 and 11.1."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeprune.errors import DataError, DeviceError, StageError
from edgeprune.export.metadata import read_metadata
from edgeprune.runtimes import worker
from edgeprune.runtimes.base import BenchSettings
from edgeprune.runtimes.engine_file import facts_path, known_metadata, read_facts
from edgeprune.runtimes.onnx_facts import onnx_facts
from tests.runtimes import fake_cuda, fake_tensorrt
from tests.runtimes.models import convolutions
from tests.runtimes.tensorrt_versions import ADDED_AFTER_10_3, REMOVED_IN_11
from tests.runtimes.trtexec_samples import LAYERS

VERSIONS = [(10, 3), (11, 1)]
SOURCE = Path(__file__).parents[2] / "edgeprune" / "runtimes" / "tensorrt_engine.py"
SOURCES = (SOURCE, SOURCE.with_name("tensorrt_build.py"))
needs_stubs = pytest.mark.skipif(fake_tensorrt.stubs() is None, reason="needs tensorrt-stubs (make install)")
OURS = ("edgeprune.runtimes.tensorrt_engine", "edgeprune.runtimes.tensorrt_worker")


@pytest.fixture
def placed(tmp_path, monkeypatch):
    """Put the stand-ins before this process and the workers that it starts; gives a function of version and ways."""
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))

    def place(version=(10, 13), **ways):
        folder = tmp_path / "fakes"
        (folder / "cuda" / "bindings").mkdir(parents=True, exist_ok=True)
        for package in (folder / "cuda", folder / "cuda" / "bindings"):
            (package / "__init__.py").touch()
        (folder / "cuda" / "bindings" / "runtime.py").write_text("from tests.runtimes.fake_cuda import *\n")
        (folder / "tensorrt.py").write_text(
            "import sys\nfrom tests.runtimes.fake_tensorrt import module\n"
            f"sys.modules[__name__] = module({version!r}, {ways!r})\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(folder))
        monkeypatch.syspath_prepend(str(folder))
        forget()
        from edgeprune.runtimes.tensorrt_ import TensorRt

        return TensorRt()

    yield place
    forget()


def forget() -> None:
    """Whatever imports the stand-ins or is one is imported anew."""
    for name in ("tensorrt", "cuda", "cuda.bindings", "cuda.bindings.runtime", *OURS):
        sys.modules.pop(name, None)


@needs_stubs
@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_from_onnx_to_layers_in_every_version(tmp_path, placed, version):
    tensorrt = placed(version)
    assert tensorrt.availability().ok, tensorrt.availability()
    engine = tmp_path / "m.engine"
    tensorrt.engine_from_onnx(convolutions(tmp_path / "m.onnx", half=True), engine, precision="fp16")
    facts = read_facts(engine)
    assert facts is not None and facts.builder == f"tensorrt {version[0]}.{version[1]}.0"
    assert facts.identity["runtime"] == facts.builder and facts.metadata["task"] == "detect"
    assert [layer.precision for layer in tensorrt.layer_info(engine)].count("fp16") == 6
    times = tensorrt.layer_times(engine, runs=5)
    assert [(one.name, one.op) for one in times] == [row[:2] for row in LAYERS]
    assert times[1].mean_ms == 0.25 and (times[1].median_ms, times[1].runs) == (0.25, 5)
    image = np.random.default_rng(0).random((1, 3, 32, 32), np.float32)
    with tensorrt.session(engine) as session:
        np.testing.assert_allclose(session.run({"images": image})["output0"], 2 * image)
        with pytest.raises(DataError, match="no input x, only images"):
            session.run({"x": image})
        with pytest.raises(DataError, match=r"shape \(1, 3, 8, 8\), the engine takes \(1, 3, 32, 32\)"):
            session.run({"images": image[:, :, :8, :8]})
    settings = BenchSettings(rounds=4, per_round=3, warmup_s=0.02, copies=False, cuda_graph=True)
    first, second = tensorrt.latency([engine, engine], settings)
    assert first.values == (2.0,) * 12 == second.values and first.conditions.cuda_graph
    assert first.conditions.gpu.clock == "CUDA events" and not first.conditions.copies
    assert first.conditions.gpu.io_memory == "device"
    memory = tensorrt.peak_memory(engine)
    assert memory.activation_bytes == 4096 and memory.device_bytes > 0


@needs_stubs
@pytest.mark.parametrize("known", [True, False])
def test_an_engine_of_another_batch_or_size_is_refused(tmp_path, placed, known):
    tensorrt, engine = placed(), tmp_path / "m.engine"
    tensorrt.engine_from_onnx(convolutions(tmp_path / "m.onnx"), engine)
    if not known:
        facts_path(engine).unlink()
    brief = BenchSettings(rounds=1, per_round=1, warmup_s=0)
    [found] = tensorrt.latency([engine], replace(brief, batch=1, imgsz=(32, 32)))
    assert found.conditions.shapes == {"images": (1, 3, 32, 32)}
    with pytest.raises(DataError, match="this engine is of batch 1, asked was 8; build it for 8"):
        tensorrt.latency([engine], replace(brief, batch=8))
    with pytest.raises(DataError, match="this engine takes 32 px, asked was 64 px"):
        tensorrt.latency([engine], replace(brief, imgsz=(64, 64)))


@needs_stubs
def test_a_session_gives_back_its_memory_and_names_a_fault_of_the_gpu(tmp_path, placed, monkeypatch):
    tensorrt, engine = placed(), tmp_path / "m.engine"
    tensorrt.engine_from_onnx(convolutions(tmp_path / "m.onnx"), engine)
    image = np.zeros((1, 3, 32, 32), np.float32)
    held = len(fake_cuda.STATE["memory"])
    with tensorrt.session(engine) as session:
        kept = session.run({"images": image + 1})["output0"]
        assert len(fake_cuda.STATE["memory"]) == held + 4  # input and output, on the GPU and pinned
    assert len(fake_cuda.STATE["memory"]) == held
    np.testing.assert_allclose(kept, 2)  # what was given is no view of what was given back
    monkeypatch.setitem(fake_cuda.STATE, "fails", False)
    with pytest.raises(DeviceError, match="cudaMemcpyAsync: "), tensorrt.session(engine) as session:
        fake_cuda.STATE["fails"] = True  # and every call after it, those that give memory back too
        session.run({"images": image})
    fake_cuda.STATE["fails"] = False
    held = len(fake_cuda.STATE["memory"])
    monkeypatch.setitem(fake_cuda.STATE, "room", 1)
    with pytest.raises(DeviceError, match="no room for tensor"), tensorrt.session(engine):
        pass
    assert len(fake_cuda.STATE["memory"]) == held  # what had been taken before there was no more


@needs_stubs
def test_the_timing_cache_is_kept_and_a_foreign_one_is_left_alone(tmp_path, placed):
    tensorrt, model = placed(), convolutions(tmp_path / "m.onnx")
    tensorrt.engine_from_onnx(model, tmp_path / "a.engine")
    [cache] = (tmp_path / "cache" / "timing").iterdir()
    assert cache.read_bytes() == b"+"
    tensorrt.engine_from_onnx(model, tmp_path / "b.engine")
    assert cache.read_bytes() == b"++"
    cache.write_bytes(b"foreign")
    tensorrt.engine_from_onnx(model, tmp_path / "c.engine")
    assert cache.read_bytes() == b"+"


@needs_stubs
@pytest.mark.parametrize("bad", ["the cache", "its folder"])
def test_a_cache_that_cannot_be_used_fails_no_build(tmp_path, placed, bad):
    tensorrt, model, engine = placed(), convolutions(tmp_path / "m.onnx"), tmp_path / "a.engine"
    if bad == "its folder":
        (tmp_path / "cache").write_text("no folder")
    else:  # neither read nor replaced
        tensorrt.engine_from_onnx(model, tmp_path / "first.engine")
        [cache] = (tmp_path / "cache" / "timing").iterdir()
        cache.unlink()
        cache.mkdir()
    tensorrt.engine_from_onnx(model, engine)
    assert read_facts(engine) is not None


@needs_stubs
def test_an_engine_is_never_there_without_its_facts(tmp_path, placed, monkeypatch):
    tensorrt, model = placed(), convolutions(tmp_path / "m.onnx")
    facts_path(tmp_path / "a.engine").mkdir()
    with pytest.raises(StageError, match="cannot be written: is no regular file"):
        tensorrt.engine_from_onnx(model, tmp_path / "a.engine")
    with pytest.raises(StageError, match="cannot be written"):
        tensorrt.engine_from_onnx(model, tmp_path / "gone" / "b.engine")
    monkeypatch.setattr("edgeprune.runtimes.tensorrt_._layers", lambda text: (_ for _ in ()).throw(DeviceError("no")))
    with pytest.raises(DeviceError):
        tensorrt.engine_from_onnx(model, tmp_path / "c.engine")
    assert not [path for path in tmp_path.iterdir() if path.is_file() and "engine" in path.name]


@needs_stubs
def test_a_card_is_watched_while_it_is_timed(tmp_path, placed, monkeypatch):
    tensorrt, engine = placed(), tmp_path / "m.engine"
    tensorrt.engine_from_onnx(convolutions(tmp_path / "m.onnx"), engine)
    seen = {"throttled": True, "throttled_why": "the GPU slowed down: thermal"}
    monkeypatch.setattr(worker.Telemetry, "finish", lambda self, locked: seen)
    [found] = tensorrt.latency([engine], BenchSettings(rounds=1, per_round=1, warmup_s=0))
    assert found.conditions.device.throttled_why == seen["throttled_why"] and found.conditions.device.throttled


@needs_stubs
def test_a_build_that_fails_says_why(tmp_path, placed):
    model = convolutions(tmp_path / "m.onnx")
    with pytest.raises(StageError, match="has no kernel for /x"):
        placed(refuses="Error Code 10: Could not find any implementation for node /x.").engine_from_onnx(
            model, tmp_path / "m.engine"
        )
    with pytest.raises(StageError, match="knows no operator Odd; edgeprune lint"):
        placed(parser="No importer registered for op: Odd. Attempting").engine_from_onnx(model, tmp_path / "m.engine")
    assert not (tmp_path / "m.engine").exists()


@needs_stubs
@pytest.mark.parametrize(
    "errors", ["Error Code 10: Could not find any implementation for node /x.", "a word of its own"]
)
def test_an_error_behind_many_warnings_is_what_is_told(tmp_path, placed, errors):
    told = "has no kernel for /x" if "node" in errors else "TensorRT cannot build an engine: a word of its own$"
    with pytest.raises(StageError, match=told):
        placed(refuses=errors, warns=1000).engine_from_onnx(convolutions(tmp_path / "m.onnx"), tmp_path / "m.engine")


@needs_stubs
def test_where_the_log_names_no_cause_the_parsers_own_words_are_told(placed):
    placed()
    engines = importlib.import_module("edgeprune.runtimes.tensorrt_engine")
    with pytest.raises(engines.JobError, match=r"none\.onnx: no such file$"):
        engines.build(SOURCE.with_name("none.onnx"))  # the stand-in's parser logs nothing of it
    log = engines.Log()
    for severity in ["WARNING"] * 1000 + ["ERROR"]:
        log.log(fake_tensorrt._Member(severity, 1), f"an {severity}")
    assert len([line for line in log.lines if "[W]" in line]) < 1000
    assert log.meaning(["of the parser"]) == "an ERROR"
    assert engines.Log().meaning(["", "of the parser"]) == "of the parser"
    assert engines.Log().meaning() == "TensorRT gave no reason"


@needs_stubs
@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_tensorrts_own_plugins_are_registered_before_parsing_and_before_loading(tmp_path, placed, version):
    tensorrt, engine = placed(version, plugins=True), tmp_path / "m.engine"
    tensorrt.engine_from_onnx(convolutions(tmp_path / "m.onnx"), engine)
    with tensorrt.session(engine) as session:  # in a process that has built nothing
        assert session.output_names == ["output0"]
    assert tensorrt.layer_times(engine, runs=2)


def with_header(plan: bytes, **entries: object) -> bytes:
    """An engine's bytes as Ultralytics writes them."""
    text = json.dumps(entries).encode()
    return len(text).to_bytes(4, "little") + text + plan


@needs_stubs
def test_an_engine_with_ultralytics_header_runs_and_tells_what_it_is(tmp_path, placed):
    """As `yolo export format=engine` and `edgeprune engine-header add` write it: without facts, or beside its own."""
    tensorrt, engine = placed(), tmp_path / "m.engine"
    tensorrt.engine_from_onnx(convolutions(tmp_path / "m.onnx"), engine)
    plan = engine.read_bytes()
    entries = {"task": "detect", "stride": 32, "imgsz": [32, 32], "batch": 1, "names": {"0": "it's", "1": "b"}}
    engine.write_bytes(with_header(plan, **entries))
    facts = read_facts(engine)
    assert facts is not None and facts.metadata["task"] == "detect"  # its own, though the bytes are others
    image = np.random.default_rng(0).random((1, 3, 32, 32), np.float32)

    def used():
        with tensorrt.session(engine) as session:
            np.testing.assert_allclose(session.run({"images": image})["output0"], 2 * image)
            metadata = session.metadata
        [found] = tensorrt.latency([engine], BenchSettings(rounds=1, per_round=1, warmup_s=0))
        assert found.values == (2.0,) and tensorrt.layer_info(engine)
        assert tensorrt.layer_times(engine, runs=2) and tensorrt.peak_memory(engine).device_bytes > 0
        return metadata

    assert used() == facts.metadata
    facts_path(engine).unlink()
    assert used() == known_metadata(engine, None) == onnx_facts(tmp_path / "m.onnx").metadata  # the graph's beside it
    (tmp_path / "m.onnx").unlink()
    told = read_metadata(used())
    assert (told.task, told.stride, told.imgsz, told.batch) == ("detect", 32, (32, 32), 1)
    assert told.names == {0: "it's", 1: "b"} and not told.missing
    engine.write_bytes(plan)
    assert used() == {}


@needs_stubs
def test_an_engine_of_another_version_is_refused(tmp_path, placed):
    engine = tmp_path / "m.engine"
    placed((10, 13)).engine_from_onnx(convolutions(tmp_path / "m.onnx"), engine)
    newer = placed((11, 1))
    with pytest.raises(DeviceError, match=r"built elsewhere: runtime \(tensorrt 10.13.0, here tensorrt 11.1.0\)"):
        newer.latency([engine], BenchSettings())
    (tmp_path / "m.engine.json").unlink()
    with pytest.raises(DeviceError, match="no TensorRT engine"):
        newer.layer_times(engine)
    with pytest.raises(DataError, match="TensorRT runs engines"):
        newer.latency([tmp_path / "m.onnx"], BenchSettings())


@needs_stubs
def test_free_axes_reach_the_builder(tmp_path, placed):
    free = convolutions(tmp_path / "m.onnx", shape=("n", 3, "h", "w"))
    with pytest.raises(StageError):  # the stand-in only knows 32 x 32
        placed(refuses="no").engine_from_onnx(free, tmp_path / "m.engine")
    placed().engine_from_onnx(free, tmp_path / "m.engine")
    facts = read_facts(tmp_path / "m.engine")
    assert facts is not None and facts.shapes == {"images": (1, 3, 32, 48)}


@needs_stubs
def test_copies_graphs_and_images_are_in_the_time_as_asked(placed, tmp_path):
    placed()
    engines = importlib.import_module("edgeprune.runtimes.tensorrt_engine")
    worker = importlib.import_module("edgeprune.runtimes.tensorrt_worker")
    plan = engines.build(SOURCE).plan
    path = SOURCE.with_name("none.engine")

    class File(type(path)):
        def read_bytes(self):
            return plan

    worker.Path = File
    timed = worker.EngineTimer(str(path), worker.Cuda(), copies=True, cuda_graph=False)
    for copies, graph, expected in (
        (True, False, ["mark", "to device", "to host", "mark"]),
        (False, True, ["mark", "launch", "mark"]),
    ):
        timed = worker.EngineTimer(str(path), worker.Cuda(), copies=copies, cuda_graph=graph)
        fake_cuda.CALLS.clear()
        assert timed.sample() == 2.0
        assert expected == fake_cuda.CALLS and timed.report["cuda_graph"] is graph
    np.save(tmp_path / "images.npy", np.full(timed.shapes["images"], 0.5))
    filled = worker.EngineTimer(
        str(path), worker.Cuda(), copies=True, cuda_graph=False, images=str(tmp_path / "images.npy")
    )
    assert (filled.engine.inputs["images"] == 0.5).all() and not (timed.engine.inputs["images"] == 0.5).all()
    fake_cuda.STATE["captures"] = False
    try:
        timed = worker.EngineTimer(str(path), worker.Cuda(), copies=False, cuda_graph=True)
    finally:
        fake_cuda.STATE["captures"] = True
    fake_cuda.CALLS.clear()
    timed.sample()
    assert timed.report["cuda_graph"] is False and "launch" not in fake_cuda.CALLS


@needs_stubs
def test_a_tensor_without_a_fixed_size_is_refused(placed):
    placed(shape=(1, -1, 6))
    engines = importlib.import_module("edgeprune.runtimes.tensorrt_engine")
    cuda = importlib.import_module("edgeprune.runtimes.cuda_").Cuda()
    with pytest.raises(engines.JobError, match=r"tensor images has no fixed size \(1, -1, 6\)"):
        engines.LoadedEngine(engines.build(SOURCE).plan, cuda)


@needs_stubs
@pytest.mark.parametrize(
    ("version", "removed"),
    [
        ((11, 1), "BuilderFlag.FP16"),
        ((11, 1), "ICudaEngine.device_memory_size"),
        ((10, 3), "Builder.build_engine_with_config"),
    ],
)
def test_the_stand_in_is_strict(version, removed):
    trt = fake_tensorrt.module(version)
    owner, _, member = removed.partition(".")
    assert not hasattr(getattr(trt, owner), member)
    assert hasattr(getattr(fake_tensorrt.module((10, 13)), owner), member)
    with pytest.raises(AttributeError, match="no attribute max_workspace_size"):
        object.__new__(trt.IBuilderConfig).max_workspace_size = 1
    with pytest.raises(TypeError, match="does not take"):
        trt.Builder()


def test_the_source_names_nothing_that_some_version_lacks():
    """Members by their last name alone: stricter than types, and it sees code that no test runs."""
    trees = [ast.parse(source.read_text()) for source in SOURCES]
    used = {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    both = {name.rpartition(".")[2] for name in REMOVED_IN_11} | {name.rpartition(".")[2] for name in ADDED_AFTER_10_3}
    assert used & both == {"name", "dtype"}  # of an enumeration's member and of a NumPy array
    assert {"device_memory_size", "FP16", "int8_calibrator"} <= both and "device_memory_size_v2" in used


def test_cudas_own_bindings_take_our_calls():
    """Names and numbers of arguments, where the real package is installed; it needs no GPU to be asked."""
    real = pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-bindings")
    calls = [one for one in inspect.getmembers(fake_cuda, inspect.isfunction) if one[0].startswith("cuda")]
    assert len(calls) > 10
    for name, ours in calls:
        words = (getattr(real, name).__doc__ or "").strip().splitlines()[0]
        inside = words.partition("(")[2].rpartition(")")[0]
        assert len(inside.split(",")) * bool(inside) == len(inspect.signature(ours).parameters), words
    for name in ("cudaDeviceScheduleSpin", "cudaStreamNonBlocking", "cudaEventDefault"):
        assert isinstance(getattr(real, name), int)
    assert real.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal is not None


@pytest.mark.parametrize(
    ("version", "words"),
    [("8.6.2", "too old"), ("10.2.0", "too old"), ("12.0.0", "newer than what edgeprune knows")],
)
def test_an_unknown_version_is_not_available(tmp_path, monkeypatch, version, words):
    (tmp_path / "tensorrt.py").write_text(f"__version__ = {version!r}\nclass Builder: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    from edgeprune.runtimes.tensorrt_ import TensorRt

    found = TensorRt().availability()
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    assert not found.ok and words in found.detail and "10.3 and newer of 10, and 11" in found.detail and found.remedy


JETSON, GH200 = "5.15.148-tegra", "6.8.0-1013-nvidia-64k"


@pytest.mark.parametrize(
    ("kernel", "l4t", "driver", "by", "bindings"),
    [
        (JETSON, "# R36 (release), REVISION: 4.3", "", "apt install python3-libnvinfer", "cuda-bindings>=12.8,<13"),
        ("6.8.12-tegra", "# R38 (release), REVISION: 4.0", "", "apt install python3-libnvinfer", "<14"),
        (JETSON, "", "", "apt install python3-libnvinfer", "<14"),  # a container without the release
        (GH200, "", "580.95.05", "tensorrt>=10.3,<12", "<14"),
        (GH200, "", "550.54.15", "tensorrt>=10.3,<12", "cuda-bindings>=12.8,<13"),
        (GH200, "", "", "tensorrt>=10.3,<12", "<14"),
    ],
)
def test_what_is_to_be_installed_is_what_this_kernel_and_driver_take(monkeypatch, kernel, l4t, driver, by, bindings):
    from edgeprune.agent.facts import Gpu
    from edgeprune.runtimes import tensorrt_

    monkeypatch.setattr("platform.release", lambda: kernel)
    monkeypatch.setattr(tensorrt_, "text_of", lambda path: l4t)
    monkeypatch.setattr(tensorrt_, "gpus", lambda: [Gpu("a card", "9.0", driver, None)] if driver else [])
    told = tensorrt_.how_to_get_it()
    assert by in told and bindings in told
    assert ("tensorrt>=" in told) == (kernel == GH200)  # NVIDIA's package raises on a kernel that says tegra


def test_pips_tensorrt_is_no_part_of_the_extra_on_a_jetson():
    from packaging.requirements import Requirement

    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    [named] = [line.strip(' ",') for line in text.splitlines() if line.strip().startswith('"tensorrt>=')]
    marker = Requirement(named).marker
    assert marker is not None
    assert not marker.evaluate({"platform_release": JETSON}) and marker.evaluate({"platform_release": GH200})


@needs_stubs
@pytest.mark.parametrize(
    ("have", "words", "remedy"),
    [
        (
            "13.0.3",
            "newer than the driver (cudaErrorInsufficientDriver): those of 13 need 580",
            "cuda-bindings>=12.8,<13",
        ),
        ("12.9.4", "older ones are not known; it needs a newer driver", "edgeprune device probe"),
    ],
)
def test_bindings_that_are_newer_than_the_driver_are_no_missing_gpu(placed, monkeypatch, have, words, remedy):
    tensorrt = placed()
    from edgeprune.runtimes import tensorrt_
    from edgeprune.runtimes.cuda_ import runtime

    state = runtime().STATE
    monkeypatch.setitem(state, "devices", 0)
    monkeypatch.setitem(state, "no_devices", 35)
    monkeypatch.setattr(tensorrt_, "installed", lambda package: have)
    found = tensorrt.availability()
    assert not found.ok and words in found.detail and remedy in found.remedy
    assert "no GPU" not in found.detail and "nvidia-smi" not in found.remedy
