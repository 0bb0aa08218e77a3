"""ONNX Runtime's GPU providers: where nodes really run, and TensorRT-RTX as a plugin; without a GPU."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeprune.agent.facts import Gpu
from edgeprune.runtimes import runtime
from edgeprune.runtimes.bench_worker import JobError, nodes_by_provider, refuse_fallback
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
    from edgeprune.runtimes import onnxruntime_

    real, version = onnxruntime_._installed, onnxruntime_.metadata.version
    monkeypatch.setattr(onnxruntime_, "_installed", lambda name: cards is not None if "rtx" in name else real(name))
    monkeypatch.setattr(onnxruntime_.metadata, "version", lambda name: "0.5.0" if "rtx" in name else version(name))
    listed = [Gpu(name, capability, "580", None) for name, capability in cards or ()]
    monkeypatch.setattr(onnxruntime_, "gpus", lambda: listed)
    found = runtime("onnxruntime-tensorrt-rtx").availability()
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
