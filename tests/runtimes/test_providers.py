"""ONNX Runtime's GPU providers: where nodes really run, and TensorRT-RTX as a plugin; without a GPU."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeprune.agent.facts import DeviceFacts, Gpu, gpu_nodes
from edgeprune.devices.board import mismatch
from edgeprune.devices.here import Here
from edgeprune.devices.local import LocalDevice
from edgeprune.devices.remote import RemoteDevice
from edgeprune.errors import DeviceError, TargetError
from edgeprune.runtimes import bench_worker, onnxruntime_, runtime
from edgeprune.runtimes.bench_worker import JobError, nodes_by_provider, refuse_fallback
from edgeprune.runtimes.jobs import OptimizeJob, OrtJob
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
    ],
)
def test_arithmetic_on_the_cpu_is_an_error(placed: dict[str, list[str]], words: str) -> None:
    if not words:
        refuse_fallback("CUDAExecutionProvider", placed)
        return
    with pytest.raises(JobError, match=words) as raised:
        refuse_fallback("CUDAExecutionProvider", placed)
    assert raised.value.kind == "device"


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
