"""Inputs and outputs that stay on the device, and CUDA graphs of ONNX Runtime: on the CPU, and on a session that says
that it is on a GPU. No GPU is asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from edgeprune.agent.host import WorkerState
from edgeprune.runtimes import bench_worker, onnxruntime_
from edgeprune.runtimes import worker as runtimes_worker
from edgeprune.runtimes.base import Availability, BenchSettings
from edgeprune.runtimes.bench_worker import BoundModel, JobError, SessionTimer, open_session, runner
from edgeprune.runtimes.end_to_end_worker import EndToEndTimer, frame_of
from edgeprune.runtimes.jobs import LatencyJob, OrtJob, TimedModel, TimedModels
from edgeprune.runtimes.onnxruntime_ import OnnxRuntime
from tests.runtimes.models import convolutions
from tests.runtimes.test_end_to_end import detector, head

CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"
REFUSED = (
    "[ONNXRuntimeError] : 1 : FAIL : This session cannot use the graph capture feature as requested by the user as the "
    "model has control flow nodes which can't be supported by CUDAExecutionProvider\nand more"
)


class OnGpu:
    """A session of the CPU that calls itself one of a GPU, and takes nothing from host memory by itself."""

    def __init__(self, session: Any, options: Mapping[str, str]) -> None:
        self._session, self._options = session, dict(options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {CUDA: self._options}

    def run(self, *_: object) -> None:
        raise AssertionError("a run from host memory")


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sessions are :class:`OnGpu`; gives the names of the devices that buffers were asked for on."""
    asked: list[str] = []
    real_open, value = open_session, ort.OrtValue
    from_numpy, from_shape = value.ortvalue_from_numpy, value.ortvalue_from_shape_and_type

    def numpy_on(array: np.ndarray, device: str, number: int) -> Any:
        asked.append(device)
        return from_numpy(array, "cpu", number)

    def shape_on(shape: list[int], kind: Any, device: str, number: int) -> Any:
        asked.append(device)
        return from_shape(shape, kind, "cpu", number)

    def opened(path: str, provider: str, threads: int, options: Mapping[str, str]) -> OnGpu:
        assert provider == CUDA
        return OnGpu(real_open(path, CPU, threads), options)

    monkeypatch.setattr(bench_worker, "nodes_by_provider", lambda session: {CUDA: ["Conv"]})

    monkeypatch.setattr(value, "ortvalue_from_numpy", staticmethod(numpy_on))
    monkeypatch.setattr(value, "ortvalue_from_shape_and_type", staticmethod(shape_on))
    monkeypatch.setattr(bench_worker, "open_session", opened)
    return asked


def job(model: Path, **options: str) -> OrtJob:
    return OrtJob(models=(str(model),), provider=CUDA, provider_options=options, threads=1, priority=False)


def images(seed: int, side: int = 32) -> dict[str, np.ndarray]:
    return {"images": np.random.default_rng(seed).random((1, 3, side, side), np.float32)}


@pytest.mark.parametrize("half", [False, True])
def test_a_bound_model_computes_what_a_run_computes_in_buffers_that_stay(tmp_path: Path, half: bool) -> None:
    session = open_session(convolutions(tmp_path / "m.onnx", half=half))
    kind = np.float16 if half else np.float32
    given = [{"images": images(seed)["images"].astype(kind)} for seed in range(3)]
    bound = BoundModel(session, given[0])
    places = set()
    for one in given:
        [found] = bound(one)
        np.testing.assert_array_equal(found, session.run(None, one)[0])
        values = [*bound._inputs.values(), *bound._binding.get_outputs()]
        places.add(tuple(value.data_ptr() for value in values))
    assert len(places) == 1


def test_without_copies_what_runs_is_what_lies_there(tmp_path: Path) -> None:
    session = open_session(convolutions(tmp_path / "m.onnx"))
    bound = BoundModel(session, images(1))
    bound.compute()
    np.testing.assert_array_equal(bound._binding.copy_outputs_to_cpu()[0], session.run(None, images(1))[0])
    assert runner(session, images(1), copies=False)() is None  # nothing is brought back


def test_an_output_of_no_fixed_shape_is_allocated_by_the_run_and_not_captured(
    tmp_path: Path, on_gpu: list[str]
) -> None:
    free = convolutions(tmp_path / "free.onnx", shape=("n", 3, "h", "w"))
    session = open_session(free)
    [found] = BoundModel(session, images(1))(images(2))
    np.testing.assert_array_equal(found, session.run(None, images(2))[0])
    with pytest.raises(JobError, match=r"outputs of a fixed shape, output0 is .*export.dynamic.*cuda_graph: false"):
        BoundModel(OnGpu(session, {"enable_cuda_graph": "1"}), images(1))


@pytest.mark.parametrize("copies", [True, False])
@pytest.mark.parametrize("options", [{}, {"enable_cuda_graph": "1"}])
def test_on_a_gpu_the_timed_loop_is_bound_there(
    tmp_path: Path, on_gpu: list[str], copies: bool, options: dict[str, str]
) -> None:
    timer = SessionTimer(str(convolutions(tmp_path / "m.onnx")), job(tmp_path / "m.onnx", **options), copies=copies)
    timer.sample()
    assert on_gpu == ["cuda", "cuda"]  # one input, one output, once each
    assert timer.report["cuda_graph"] == bool(options)


def test_frames_to_boxes_go_through_the_same_buffers(tmp_path: Path, on_gpu: list[str]) -> None:
    path = detector(tmp_path / "m.onnx", head())
    timer = EndToEndTimer(str(path), job(path, enable_cuda_graph="1"), [frame_of(None)])
    timer.sample()
    assert timer.boxes > 0 and timer.report["cuda_graph"] and on_gpu == ["cuda", "cuda"]
    np.testing.assert_allclose(timer.output_of(timer.frames[0]), head())


@pytest.mark.parametrize("option", ["enable_cuda_graph", "nothing"])
def test_a_refused_capture_is_one_line_with_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise RuntimeError(REFUSED)

    model = convolutions(tmp_path / "m.onnx")
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(ort, "InferenceSession", refused)
    with pytest.raises(JobError) as raised:
        open_session(model, CUDA, 1, {option: "1"})
    asked = option != "nothing"
    assert "\n" not in str(raised.value) and raised.value.kind == ("device" if asked else "data")
    assert ("cannot capture" in str(raised.value)) == str(raised.value).endswith("measure.cuda_graph: false") == asked


def test_a_capture_that_fails_in_the_first_run_is_the_same_line(
    tmp_path: Path, on_gpu: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(*_: object) -> None:
        raise RuntimeError("CUDA failure 900: operation not permitted when stream is capturing ; GPU=0")

    monkeypatch.setattr(BoundModel, "compute", failed)
    path = str(convolutions(tmp_path / "m.onnx"))
    with pytest.raises(JobError, match=r"cannot capture .* CUDA failure 900.*measure\.cuda_graph: false"):
        SessionTimer(path, job(tmp_path / "m.onnx", enable_cuda_graph="1"))
    with pytest.raises(RuntimeError, match="CUDA failure 900"):  # one that was not asked for is no refusal of it
        SessionTimer(path, job(tmp_path / "m.onnx"))


@pytest.mark.parametrize(
    ("provider", "asked", "options"),
    [
        ("cuda", True, {"enable_cuda_graph": "1"}),
        ("cuda", False, {}),
        ("tensorrt", True, {"trt_cuda_graph_enable": "True"}),  # its options take no 1 from Python
        ("cpu", True, {}),
    ],
)
def test_the_provider_is_told_and_the_measurement_says_whether_it_was_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: str, asked: bool, options: dict[str, str]
) -> None:
    jobs: list[LatencyJob] = []

    def worker(given: LatencyJob, *_: object) -> TimedModels:
        jobs.append(given)
        captured = bool({"1", "True"} & set(given.provider_options.values()))
        one = TimedModel((1.0, 1.1), (), True, {"images": (1, 3, 32, 32)}, 1.0, (), 0.0, cuda_graph=captured)
        return TimedModels((one,), 1, WorkerState())

    for module in (onnxruntime_, runtimes_worker):  # a GPU is watched meanwhile
        monkeypatch.setattr(module, "run_worker", worker)
    monkeypatch.setattr(OnnxRuntime, "availability", lambda self: Availability(True, ""))
    monkeypatch.setattr(OnnxRuntime, "identity", lambda self: {})
    settings = BenchSettings(rounds=2, per_round=1, cuda_graph=asked)
    [found] = OnnxRuntime(provider).latency([convolutions(tmp_path / "m.onnx")], settings)
    told = [{key: text for key, text in one.provider_options.items() if "cache" not in key} for one in jobs]
    assert told == [options]
    assert found.conditions.cuda_graph == bool(options)
