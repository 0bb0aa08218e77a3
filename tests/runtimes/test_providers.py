"""ONNX Runtime's GPU providers: where nodes really run, and TensorRT-RTX as a plugin; without a GPU."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from edgeprune.agent.facts import DeviceFacts, Gpu, gpu_nodes
from edgeprune.devices.board import mismatch
from edgeprune.devices.here import Here
from edgeprune.devices.local import LocalDevice
from edgeprune.devices.remote import RemoteDevice
from edgeprune.errors import DeviceError, TargetError
from edgeprune.runtimes import bench_worker, onnxruntime_, runtime
from edgeprune.runtimes.bench_worker import JobError, device_times, node_times, nodes_by_provider, refuse_fallback
from edgeprune.runtimes.jobs import OptimizeJob, OrtDescription, OrtJob, ProfileJob
from edgeprune.runtimes.onnxruntime_ import OnnxRuntime
from edgeprune.runtimes.remote_onnxruntime import RemoteOnnxRuntime
from edgeprune.runtimes.remote_worker import optimize
from edgeprune.target import load_target
from tests.runtimes.models import convolutions


def session_on(path: Path) -> object:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def test_where_nodes_run_is_read_from_the_session(tmp_path: Path) -> None:
    placed = nodes_by_provider(session_on(convolutions(tmp_path / "m.onnx")))
    assert sorted(set(placed["CPUExecutionProvider"])) in (["Conv", "Relu"], ["Conv"], ["FusedConv"])
    refuse_fallback("CPUExecutionProvider", placed | {"CPUExecutionProvider": ["Shape"]})
    with pytest.raises(JobError, match=r"CUDAExecutionProvider left .* of the model's .*Conv and the like to the CPU"):
        refuse_fallback("CUDAExecutionProvider", placed)


@pytest.mark.parametrize(
    ("placed", "words"),
    [
        ({"CUDAExecutionProvider": ["Conv"], "CPUExecutionProvider": ["Shape", "Gather"]}, ""),
        ({}, ""),  # an ONNX Runtime that cannot tell
        ({"CUDAExecutionProvider": ["Conv"], "CPUExecutionProvider": ["MatMul"]}, "left 1 of the model's MatMul"),
        ({"CPUExecutionProvider": ["Relu"]}, "took no node of the model, CPUExecutionProvider took all"),
        ({"CUDAExecutionProvider": ["Conv"], "CPUExecutionProvider": ["ConvInteger"]}, "1 of the model's ConvInteger"),
    ],
)
def test_arithmetic_on_the_cpu_is_an_error(placed: dict[str, list[str]], words: str) -> None:
    if not words:
        refuse_fallback("CUDAExecutionProvider", placed)
        return
    with pytest.raises(JobError, match=words) as raised:
        refuse_fallback("CUDAExecutionProvider", placed)
    assert raised.value.kind == "device"


TENSORRT, CUDA = "TensorrtExecutionProvider", "CUDAExecutionProvider"


@pytest.mark.parametrize("provider", [TENSORRT, "NvTensorRTRTXExecutionProvider"])
def test_arithmetic_on_any_other_provider_is_an_error(provider: str) -> None:
    refuse_fallback(provider, {provider: ["Conv"], CUDA: ["Shape", "Gather"], "CPUExecutionProvider": ["Shape"]})
    with pytest.raises(JobError, match=f"{provider} left 2 of the model's Conv and the like to {CUDA}") as raised:
        refuse_fallback(provider, {provider: ["MatMul"], CUDA: ["Conv", "Sigmoid", "Conv"]})
    assert raised.value.kind == "device" and "onnxruntime-cuda" in str(raised.value)


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The TensorRT provider of a machine that has one, in this process on the CPU: what it is given is kept in
    ``opened``, path and options; it compiles into its folder, as the real one does, and refuses a broken engine."""
    import onnxruntime as ort

    real, opened = ort.InferenceSession, []

    def compiled(path: str, options: Any, providers: list[tuple[str, dict[str, str]]]) -> Any:
        [(name, given), *_] = providers
        assert name == TENSORRT
        opened.append((path, given))
        if folder := given.get("trt_engine_cache_path"):
            engine = Path(folder) / "TRTKernel_graph_main_sm87.engine"  # named alike for every model
            if engine.exists() and engine.read_text() != Path(path).name:
                raise RuntimeError("TensorRT EP could not deserialize engine from cache")
            engine.write_text(Path(path).name)
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", compiled)
    for check in ("require_loaded", "refuse_fallback"):
        monkeypatch.setattr(bench_worker, check, lambda *_: None)
    monkeypatch.setattr(bench_worker, "tells_providers", lambda: False)
    found = runtime("onnxruntime-tensorrt", Machine(gpu_nodes=("nvidia0",)))
    return SimpleNamespace(runtime=found, opened=opened, cache=tmp_path / "cache" / "timing")


def folder_of(given: dict[str, str]) -> Path:
    return Path(given["trt_engine_cache_path"])


def test_tensorrt_compiles_a_model_once_and_no_other_model_gets_its_engine(tensorrt: Any, tmp_path: Path) -> None:
    """ONNX Runtime knows an engine by the names of the file and in the graph, which a pruned model has in common."""
    (tmp_path / "pruned").mkdir()
    wide, narrow = convolutions(tmp_path / "m.onnx"), convolutions(tmp_path / "pruned" / "m.onnx", width=4)
    for model in (wide, narrow, wide):
        with tensorrt.runtime.session(model):
            pass
    options = tensorrt.runtime._options([wide], cuda_graph=True)
    job = OrtJob((str(wide),), TENSORRT, options, 1, False)
    bench_worker.open_session(job.models[0], job.provider, job.threads, job.provider_options)
    given = [options for _, options in tensorrt.opened]
    assert folder_of(given[0]) == folder_of(given[2]) == folder_of(given[3]) != folder_of(given[1])
    assert {folder_of(one).parent.parent for one in given} == {Path(one["trt_timing_cache_path"]) for one in given}
    assert [path.suffix for path in tensorrt.cache.iterdir()] == [".trt"], "below that of the device's identity"
    assert all(one["trt_engine_cache_enable"] == one["trt_timing_cache_enable"] == "True" for one in given)
    assert given[3]["trt_cuda_graph_enable"] == "True" and "trt_cuda_graph_enable" not in given[0]


def test_an_engine_that_a_killed_process_left_half_written_is_compiled_again(tensorrt: Any, tmp_path: Path) -> None:
    model = convolutions(tmp_path / "m.onnx")
    with tensorrt.runtime.session(model):
        pass
    [engine] = folder_of(tensorrt.opened[0][1]).iterdir()
    engine.write_text("half")
    with tensorrt.runtime.session(model):
        pass
    assert not engine.exists() and "trt_engine_cache_path" not in tensorrt.opened[-1][1]
    with tensorrt.runtime.session(model):
        pass
    assert engine.read_text() == "m.onnx"


def test_an_engine_of_free_axes_or_of_weights_elsewhere_is_not_kept(tensorrt: Any, tmp_path: Path) -> None:
    free, beside = convolutions(tmp_path / "m.onnx", shape=("n", 3, "h", "w")), tmp_path / "beside.onnx"
    onnx.save(onnx.load(str(convolutions(beside))), str(beside), save_as_external_data=True, size_threshold=0)
    for model in (free, beside):
        with tensorrt.runtime.session(model):
            pass
        given = tensorrt.opened[-1][1]
        assert "trt_timing_cache_path" in given and not {"trt_engine_cache_path", "trt_engine_cache_enable"} & {*given}


def test_caches_are_bounded_and_one_that_cannot_be_written_costs_nothing_else(
    tensorrt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime as ort

    models = [convolutions(tmp_path / f"{number}.onnx", width=number + 1) for number in range(4)]
    monkeypatch.setattr(bench_worker, "KEPT_ENGINES", 2)
    for place, number in enumerate((0, 1, 0, 2)):
        with tensorrt.runtime.session(models[number]):
            os.utime(folder_of(tensorrt.opened[-1][1]), (place, place))
    folders = [folder_of(given) for _, given in tensorrt.opened]
    assert [folder.exists() for folder in folders] == [True, False, True, True], "the one that was used longest ago"
    monkeypatch.setattr(ort, "__version__", "1.17.3")
    with tensorrt.runtime.session(models[3]):
        assert not {"trt_timing_cache_path", "trt_timing_cache_enable"} & {*tensorrt.opened[-1][1]}
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(models[0]))  # no folder
    with tensorrt.runtime.session(models[0]):
        assert tensorrt.opened[-1][1] == {}


def test_on_a_device_the_caches_lie_in_the_work_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = convolutions(tmp_path / "m.onnx")
    with RemoteDevice(Here("user@board", {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)})) as device:
        there = runtime("onnxruntime-tensorrt", device)
        assert isinstance(there, RemoteOnnxRuntime)
        there._python = sys.executable
        job = there._place(OrtJob((str(model),), TENSORRT, there._options([model]), 1, False))
        assert isinstance(job, OrtJob)
        argv = there._session_argv(model, 1)
        assert json.loads(argv[-1]) == job.provider_options and argv[-2] == "1" and len(job.provider_options) == 2
        assert all(path.startswith(f"{device.work}/compiled.trt") for path in job.provider_options.values())


def profile(*events: tuple[str, str, int, dict[str, str]]) -> list[dict[str, Any]]:
    """A profile's events: category, name, microseconds, arguments."""
    return [{"cat": cat, "name": name, "dur": dur, "args": args} for cat, name, dur, args in events]


def node(name: str, dur: int, provider: str = CUDA) -> tuple[str, str, int, dict[str, str]]:
    return ("Node", f"{name}_kernel_time", dur, {"op_name": "Conv", "provider": provider})


def kernel(parent: str, dur: int) -> tuple[str, str, int, dict[str, str]]:
    return ("Kernel", "implicit_gemm", dur, {"parent_name": f"{parent}_kernel_time"} if parent else {"stream": "7"})


def test_layer_times_of_a_gpu_are_its_kernels_and_not_their_launches() -> None:
    first = (node("a", 9), kernel("a", 5000), kernel("a", 90000), node("b", 8), kernel("b", 1), node("s", 7, "CPU"))
    then = (node("a", 9), kernel("a", 400), kernel("a", 100), node("b", 8), kernel("b", 30), ("Session", "run", 1, {}))
    last = (*then[:2], kernel("a", 300), node("b", 8), kernel("b", 10), node("c", 8))
    cpu = node("shape", 50, "CPUExecutionProvider")
    layers = device_times(profile(*first, *then, cpu, *last, cpu, kernel("", 20)), 2)
    assert {one.name: (round(one.mean_ms, 6), round(one.ms, 6)) for one in layers} == {
        "a": (0.6, 0.6),  # of two runs: 400 + 100, and 400 + 300; the search for an algorithm in the first is not in it
        "b": (0.02, 0.02),
        "s": (0.0, 0.0),
        "shape": (0.05, 0.05),
        "c": (0.0, 0.0),
    }
    assert [one.op for one in layers][:2] == ["Conv", "Conv"]


@pytest.mark.parametrize(
    "events",
    [
        (node("a", 9), node("b", 8)),  # built without CUPTI
        (node("a", 9), kernel("", 100), node("b", 8), kernel("b", 100)),  # half of the work is of no node
        (node("s", 9, "CPUExecutionProvider"),),
    ],
)
def test_a_profile_that_does_not_see_the_gpu_gives_no_layer_times(events: tuple) -> None:
    assert device_times(profile(*events), 1) == []
    assert node_times(profile(*events), 1), "where nodes ran is told all the same"


def test_only_the_cpus_layers_are_timed_by_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = bench_worker.open_session
    monkeypatch.setattr(bench_worker, "open_session", lambda path, _, *rest: real(path, "CPUExecutionProvider", *rest))
    job = ProfileJob((str(convolutions(tmp_path / "m.onnx")),), CUDA, {}, 1, False, 0, None, 3, ())
    assert bench_worker.time_nodes(job).layers == ()
    assert bench_worker.time_nodes(replace(job, provider="CPUExecutionProvider")).layers


def test_a_fallback_is_refused_by_an_onnx_runtime_that_cannot_tell_it_too(tmp_path, monkeypatch) -> None:
    """Before 1.24 a loaded session does not say where its nodes are; the profile of a run does."""
    gpu, real_open = "CUDAExecutionProvider", bench_worker.open_session

    def fallen_back(path: str, provider: str, threads: int, options: Any, profile_prefix: str = "") -> Any:
        return real_open(path, threads=threads, profile_prefix=profile_prefix)

    monkeypatch.setattr(bench_worker, "open_session", fallen_back)
    monkeypatch.setattr(bench_worker, "tells_providers", lambda: False)
    model = str(convolutions(tmp_path / "m.onnx"))
    job = OrtJob(models=(model,), provider=gpu, provider_options={}, threads=1, priority=False)
    with pytest.raises(JobError, match=f"{gpu} left .* of the model's .*Conv and the like to the CPU"):
        bench_worker.SessionTimer(model, job)


class Machine(LocalDevice):
    """This machine, without power modes, with these facts."""

    def __init__(self, **facts: Any) -> None:
        super().__init__()
        self.given = {"l4t": "", "gpus": (), "gpu_nodes": (), "power_mode": "", "power_modes": {}, **facts}

    def _look(self) -> DeviceFacts:
        return replace(super()._look(), **self.given)


SHOW_A_GPU = [
    ({"gpus": (Gpu("NVIDIA H100", "9.0", "580", None),)}, True),
    ({"l4t": "36.4.3"}, True),  # an Orin, whose nvidia-smi names none, or a Xavier, which has none
    ({"gpu_nodes": ("nvidia0",)}, True),  # a container without nvidia-smi
    ({}, False),
]


@pytest.mark.parametrize(("facts", "shown"), SHOW_A_GPU)
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_gpu_that_nvidia_smi_does_not_name_will_do(
    provider: str, facts: dict[str, Any], shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime as ort

    listed = [onnxruntime_.PROVIDERS[provider], "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: listed)
    assert runtime(f"onnxruntime-{provider}", Machine(**facts)).availability().ok is shown
    assert Machine(**facts).facts().has_gpu is shown
    assert bool(mismatch(load_target("desktop-cuda").device, Machine(**facts).facts())) is not shown


def test_what_the_driver_leaves_without_a_card_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("null", "nvidiactl", "nvidia-uvm", "nvidia-caps"):
        (tmp_path / name).touch()
    assert gpu_nodes(str(tmp_path)) == () == gpu_nodes(str(tmp_path / "none"))
    for name in ("nvidia1", "nvhost-gpu", "nvmap", "dxg"):
        (tmp_path / name).touch()
    driver = tmp_path / "libcuda.so.1"
    monkeypatch.setattr("edgeprune.agent.facts.WSL_DRIVER", str(driver))
    assert gpu_nodes(str(tmp_path)) == ("nvhost-gpu", "nvidia1", "nvmap"), "WSL has its file for every maker's card"
    driver.touch()
    assert gpu_nodes(str(tmp_path)) == ("dxg", "nvhost-gpu", "nvidia1", "nvmap")


def test_a_jetson_is_no_card_for_tensorrt_rtx_and_a_card_without_a_name_may_be_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, version = onnxruntime_._installed, onnxruntime_.metadata.version
    monkeypatch.setattr(onnxruntime_, "_installed", lambda name: "rtx" in name or real(name))
    monkeypatch.setattr(onnxruntime_.metadata, "version", lambda name: "0.5.0" if "rtx" in name else version(name))
    found = runtime("onnxruntime-tensorrt-rtx", Machine(l4t="36.4.3", board="Jetson Orin")).availability()
    assert not found.ok and "serves desktop RTX cards" in found.detail and "seen: Jetson Orin" in found.detail
    assert runtime("onnxruntime-tensorrt-rtx", Machine(gpu_nodes=("nvidia0",))).availability().ok


@pytest.mark.parametrize(
    ("jetpack", "index", "words"),
    [
        ("6.2.1", "jp6/cu126", "pip install onnxruntime-gpu --index-url https://pypi.jetson-ai-lab.io/jp6/cu126"),
        ("7.1", "INDEX_OF_ITS_JETPACK", "PyPI has no onnxruntime-gpu for a Jetson: install that of its JetPack from"),
    ],
)
def test_a_jetson_is_told_where_its_wheels_are(
    jetpack: str, index: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyPI has none for it: on the board itself, and from afar, where frames are timed too."""
    import onnxruntime as ort

    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    board = Machine(l4t="36.4.4", jetpack=jetpack)
    found = runtime("onnxruntime-cuda", board).availability()
    assert not found.ok
    assert found.remedy.endswith(f"pip install onnxruntime-gpu --index-url https://pypi.jetson-ai-lab.io/{index}")
    named = {"name": "board", "typed": lambda command: f"ssh board '{command}'"}
    there: Any = SimpleNamespace(facts=board.facts, simulated=False, **named)
    monkeypatch.setattr(RemoteOnnxRuntime, "_probe", lambda self: "none was found")
    for frames in (False, True):
        remedy = RemoteOnnxRuntime("cuda", there, frames=frames).availability().remedy
        assert words in remedy and "device.python" in remedy
        assert ("opencv-python" in remedy, "runtime to trtexec" in remedy) == (frames, not frames)
    remedy = RemoteOnnxRuntime("cpu", there).availability().remedy
    assert "numpy onnxruntime'" in remedy and "jetson" not in remedy


JETPACK_6_0 = {"l4t": "36.3.0", "tensorrt": "8.6.2"}


@pytest.mark.parametrize(
    ("version", "facts", "seen"),
    [
        ("1.17.1", {"gpu_nodes": ("nvidia0",)}, "onnxruntime 1.17.1 came with TensorRT 8 or older"),
        ("1.18.0", {"gpu_nodes": ("nvidia0",)}, ""),
        ("1.22.0", {"gpu_nodes": ("nvidia0",), "tensorrt": "8.6.1"}, ""),  # of another program, or a build's: unknown
        ("1.18.0", JETPACK_6_0, "onnxruntime 1.18.0 on a board with TensorRT 8.6.2"),
        ("1.20.0", {**JETPACK_6_0, "tensorrt_pip": "10.7.0"}, ""),
        ("1.20.0", {"l4t": "36.4.0", "tensorrt": "10.3.0"}, ""),
    ],
)
@pytest.mark.parametrize("there", [False, True])
def test_a_graph_below_fp32_is_not_left_to_a_provider_that_computes_it_in_fp32(
    version: str, facts: dict[str, Any], seen: str, there: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A weakly typed network without a flag is built in FP32, and ONNX Runtime does not say so."""
    import onnxruntime as ort

    monkeypatch.setattr(ort, "__version__", version)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, "CPUExecutionProvider"])
    machine = Machine(**facts)
    half, whole = convolutions(tmp_path / "half.onnx", half=True), convolutions(tmp_path / "whole.onnx")

    def used(precision: str) -> OnnxRuntime:
        target = load_target("desktop-cuda").model_copy(update={"precision": precision})
        if not there:
            made = runtime("onnxruntime-tensorrt", machine, target=target)
        else:
            device = RemoteDevice(Here("user@board"))
            made = runtime("onnxruntime-tensorrt", device, target=target)
            assert isinstance(made, RemoteOnnxRuntime)
            monkeypatch.setattr(device, "facts", machine.facts)
            made._ort = OrtDescription(version, (TENSORRT,), "3.10", sys.executable)
        assert isinstance(made, OnnxRuntime)
        return made

    assert used("fp32").availability().ok
    found = used("fp16").availability()
    used("fp32")._refuse_weak(whole)
    if not seen:
        assert found.ok
        used("fp32")._refuse_weak(half)
        return
    assert not found.ok and found.detail == f"{seen}, by which its {TENSORRT} computes FP16 and INT8 graphs in FP32"
    assert "trtexec or onnxruntime-cuda" in found.remedy
    with pytest.raises(DeviceError, match=f"half.onnx: {seen}, .*; next: set the target's runtime to trtexec"):
        used("fp32").engine_from_onnx(half, tmp_path / "engine.onnx", precision="fp16")
    with pytest.raises(DeviceError, match=f"half.onnx: {seen}"), used("fp32").session(half):
        pass
    with pytest.raises(DeviceError, match=f"half.onnx: {seen}"):
        used("fp32")._job_fields([whole, half], 1)


@pytest.mark.filterwarnings("ignore::UserWarning")  # ONNX Runtime's own, of its fallback
def test_a_graph_is_optimized_by_the_provider_that_was_asked_and_by_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime as ort

    preloaded: list[bool] = []
    cuda = "CUDAExecutionProvider"
    monkeypatch.setattr(ort, "preload_dlls", lambda: preloaded.append(True), raising=False)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [cuda, "CPUExecutionProvider"])
    model, engine = convolutions(tmp_path / "m.onnx"), tmp_path / "engine.onnx"
    # this ONNX Runtime cannot load it, as one whose CUDA libraries are missing
    with pytest.raises(JobError, match=r"CUDAExecutionProvider did not load, .* fell back to CPU") as raised:
        optimize(OptimizeJob(str(model), str(engine), cuda))
    assert raised.value.kind == "device" and preloaded == [True]
    here = runtime("onnxruntime-cuda", Machine(gpu_nodes=("nvidia0",)))
    with pytest.raises(DeviceError, match=r"CUDAExecutionProvider did not load, .* fell back to CPU"):
        here.engine_from_onnx(model, engine)
    assert len(preloaded) == 2
    optimize(OptimizeJob(str(model), str(tmp_path / "cpu.onnx"), "CPUExecutionProvider"))
    assert len(preloaded) == 2 and (tmp_path / "cpu.onnx").is_file()


@pytest.mark.parametrize(
    ("cards", "ok", "words"),
    [
        ([("NVIDIA GeForce RTX 4090", "8.9")], True, "onnxruntime-ep-nv-tensorrt-rtx-cu13 0.5.0"),
        ([("NVIDIA GeForce RTX 5090", "12.0")], True, "onnxruntime-ep-nv-tensorrt-rtx-cu13 0.5.0"),
        ([("NVIDIA H100", "9.0")], False, r"8.6, 8.9, 12.0 and newer; seen: NVIDIA H100 \(9.0\)"),
        ([], False, "no NVIDIA GPU"),
        (None, False, "onnxruntime-ep-nv-tensorrt-rtx-cu13 is not installed"),
    ],
)
def test_tensorrt_rtx_is_available_where_its_plugin_serves_the_card(
    monkeypatch: pytest.MonkeyPatch, cards: list[tuple[str, str]] | None, ok: bool, words: str
) -> None:
    real, version = onnxruntime_._installed, onnxruntime_.metadata.version
    monkeypatch.setattr(onnxruntime_, "_installed", lambda name: cards is not None if "rtx" in name else real(name))
    monkeypatch.setattr(onnxruntime_.metadata, "version", lambda name: "0.5.0" if "rtx" in name else version(name))
    listed = [Gpu(name, capability, "580", None) for name, capability in cards or ()]
    found = runtime("onnxruntime-tensorrt-rtx", Machine(gpus=tuple(listed))).availability()
    assert found.ok is ok and re.search(words, found.detail) and bool(found.remedy) is not ok


def test_a_plugin_is_registered_and_its_device_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime as ort

    from edgeprune.runtimes import bench_worker

    provider = "NvTensorRTRTXExecutionProvider"
    device = SimpleNamespace(ep_name=provider)
    seen: list[tuple[str, str]] = []
    plugin = SimpleNamespace(get_ep_name=lambda: provider, get_library_path=lambda: "/lib/plugin.so")
    monkeypatch.setitem(sys.modules, bench_worker.PLUGIN_MODULES[provider], plugin)
    monkeypatch.setattr(ort, "register_execution_provider_library", lambda *given: seen.append(given))
    monkeypatch.setattr(ort, "get_ep_devices", lambda: [device] if seen else [])
    assert bench_worker.plugin_devices(provider) == [device] and seen == [(provider, "/lib/plugin.so")]
    assert bench_worker.plugin_devices(provider) == [device] and len(seen) == 1  # once a process
    monkeypatch.setattr(ort, "get_ep_devices", list)
    with pytest.raises(JobError, match="finds no GPU that it can use"):
        bench_worker.plugin_devices(provider)


def test_a_plugin_that_does_not_load_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from edgeprune.runtimes import bench_worker

    provider = "NvTensorRTRTXExecutionProvider"
    library = tmp_path / "libnothing.so"
    plugin = SimpleNamespace(get_ep_name=lambda: provider, get_library_path=lambda: str(library))
    monkeypatch.setitem(sys.modules, bench_worker.PLUGIN_MODULES[provider], plugin)
    with pytest.raises(JobError, match=r"does not load: .*libnothing\.so"):  # by the real ONNX Runtime
        bench_worker.open_session(convolutions(tmp_path / "m.onnx"), provider)


def test_a_plugin_provider_is_refused_on_another_machine_with_what_works_there() -> None:
    device = RemoteDevice(Here("user@desktop"))
    with pytest.raises(TargetError, match=r"onnxruntime-tensorrt-rtx .* on user@desktop; .*onnxruntime-cuda") as error:
        runtime("onnxruntime-tensorrt-rtx", device)
    assert "pip install" not in str(error.value)
