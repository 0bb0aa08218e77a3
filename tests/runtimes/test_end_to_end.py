"""The parts around the model are those of Ultralytics' predictor, and they are timed apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeprune.errors import DataError, StageError
from edgeprune.measure.bench import bench_graphs
from edgeprune.report.bench import end_to_end_text
from edgeprune.runtimes import bench_worker, end_to_end_worker
from edgeprune.runtimes.base import BenchSettings
from edgeprune.runtimes.end_to_end_worker import EndToEndTimer, boxes_of, frame_of, prepared
from edgeprune.runtimes.jobs import LayerTimes, OrtJob
from edgeprune.runtimes.onnxruntime_ import OnnxRuntime
from edgeprune.samples.conditions import EndToEndState
from edgeprune.samples.gates import speed_up_gate
from edgeprune.shipped.sample import Model, Placement
from tests.runtimes.models import convolutions
from tests.samples.made import latency


def detector(path: Path, output: np.ndarray, task: str = "detect", *, kind: int = TensorProto.FLOAT) -> Path:
    """A model that answers any 64 x 64 image, of numbers of a kind, with ``output``."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["floats"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
            helper.make_node("Add", ["answer", "nothing"], ["output0"]),
        ],
        "detector",
        [helper.make_tensor_value_info("images", kind, (1, 3, 64, 64))],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, output.shape)],
        [
            numpy_helper.from_array(output.astype(np.float32), "answer"),
            numpy_helper.from_array(np.float32(0), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    model.metadata_props.add(key="task", value=task)
    onnx.save(model, str(path))
    return path


def head(candidates: int = 400, classes: int = 3, seed: int = 0) -> np.ndarray:
    """A raw head (1, 4 + classes, candidates) with many overlapping boxes over 320 pixels."""
    generator = np.random.default_rng(seed)
    centres = generator.uniform(40, 280, (20, 2))[generator.integers(0, 20, candidates)]
    boxes = np.hstack((centres + generator.normal(0, 4, (candidates, 2)), generator.uniform(20, 60, (candidates, 2))))
    scores = generator.beta(0.4, 1.0, (candidates, classes))
    return np.hstack((boxes, scores)).T[None].astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_boxes_are_those_of_ultralytics(seed: int) -> None:
    import torch
    from ultralytics.utils.nms import non_max_suppression

    output = head(seed=seed)
    [expected] = non_max_suppression(torch.from_numpy(output.copy()), conf_thres=0.25, iou_thres=0.7, max_det=300)
    found = boxes_of(output, Placement((320, 320), np.ones(2), np.zeros(2)))
    assert len(found) == len(expected) > 20
    order = np.argsort(-found[:, 4], kind="stable")
    np.testing.assert_allclose(found[order], expected.numpy(), atol=1e-3)


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (100, 100), (33, 500)])
def test_the_letterbox_is_that_of_ultralytics(size: tuple[int, int]) -> None:
    from ultralytics.data.augment import LetterBox

    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found, placement = prepared(frame, 320, 256, np.float32)
    expected = LetterBox(new_shape=(320, 256), auto=False)(image=frame)[..., ::-1].transpose(2, 0, 1) / 255
    np.testing.assert_allclose(found[0], expected, atol=1e-6)
    assert placement.offset.min() == 0
    assert placement.scale == pytest.approx(min(320 / size[0], 256 / size[1]), rel=0.02)  # sides are whole pixels


def test_boxes_return_to_the_frame() -> None:
    output = np.array([[[64.0, 64.0, 96.0, 128.0, 0.9, 1.0], [0, 0, 9, 9, 0.1, 0]]], np.float32)  # suppressed rows
    [box] = boxes_of(output, Placement((200, 128), np.array([0.5, 0.5]), np.array([0, 32])))
    np.testing.assert_allclose(box, [128, 64, 192, 192, 0.9, 1])


def test_parts_are_timed_apart(tmp_path: Path) -> None:
    rows = np.array([[[10, 10, 20, 20, 0.9, 0], [30, 30, 40, 40, 0.8, 1], [1, 1, 2, 2, 0.01, 0]]])
    found = OnnxRuntime().end_to_end(detector(tmp_path / "m.onnx", rows), BenchSettings(), runs=7)
    assert len(found.pre_ms) == len(found.model_ms) == len(found.post_ms) == 7
    assert found.boxes == 2 and found.frame == (720, 1280)
    assert all(value > 0 for values in (found.pre_ms, found.model_ms, found.post_ms) for value in values)
    assert "pre" in end_to_end_text(found) and "1280 x 720, 2 boxes" in end_to_end_text(found)


def test_what_is_not_a_detector_or_an_image_is_refused(tmp_path: Path) -> None:
    runtime = OnnxRuntime()
    other = detector(tmp_path / "m.onnx", np.zeros((1, 10)), task="classify")
    with pytest.raises(DataError, match="this is classify"):
        runtime.end_to_end(other, BenchSettings(), runs=1)
    text = tmp_path / "not.jpg"
    text.write_text("x")
    with pytest.raises(DataError, match="OpenCV"):
        runtime.end_to_end(convolutions(tmp_path / "c.onnx"), BenchSettings(), image=text, runs=1)
    with pytest.raises(DataError, match="no such file"):
        runtime.end_to_end(other, BenchSettings(), image=tmp_path / "gone.jpg", runs=1)


@pytest.mark.parametrize("name", ["FLOAT", "FLOAT16", "DOUBLE", "UINT8", "INT8", "INT32", "INT64"])
def test_a_frame_is_prepared_for_floats_and_for_whole_numbers_by_nobody(name: str, tmp_path: Path) -> None:
    """Before anything is measured, in the worker that would time it, and in the sample that ships."""
    rows = np.array([[[10, 10, 20, 20, 0.9, 0]]])
    model = detector(tmp_path / "m.onnx", rows, kind=getattr(TensorProto, name))
    onnx.save(with_entries(model, names="{0: 'a'}", end2end="True", imgsz="[64, 64]"), str(model))
    runtime, brief = OnnxRuntime(), BenchSettings(rounds=2, per_round=1, warmup_s=0, launches=1)
    if "INT" not in name:
        assert runtime.end_to_end(model, brief, runs=1).boxes == 1
        assert len(Model(model)(frame_of(None))) == 1
        return
    seen = name.lower()
    with pytest.raises(DataError, match=f"--end-to-end gives images as floats from 0 to 1, this takes {seen}; leave"):
        bench_graphs([model], runtime, brief, end_to_end=True, details=False)
    with pytest.raises(DataError, match=rf"images as floats from 0 to 1, and input images is tensor\({seen}\)"):
        runtime.end_to_end(model, brief, runs=1)
    with pytest.raises(ValueError, match=rf"takes tensor\({seen}\); this gives images as floats from 0 to 1"):
        Model(model)


def with_entries(path: Path, **entries: str) -> onnx.ModelProto:
    model = onnx.load(str(path))
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)
    return model


def test_parts_are_timed_at_the_size_on_the_cpus_and_with_the_graph_that_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = convolutions(tmp_path / "free.onnx", shape=(1, 3, "h", "w"))
    asked: list[tuple[int, int]] = []

    def noted(frame: np.ndarray, height: int, width: int, kind: Any) -> Any:
        asked.append((height, width))
        raise bench_worker.JobError("data", "enough")

    monkeypatch.setattr(end_to_end_worker, "prepared", noted)
    jobs: list[Any] = []
    monkeypatch.setattr(OnnxRuntime, "_run_job", lambda self, job, *_: jobs.append(job) or (LayerTimes(()), None))
    settings = BenchSettings(imgsz=(64, 96), batch=1, cpus=(0,), cuda_graph=True, threads=2, priority=False)
    runtime = OnnxRuntime()
    monkeypatch.setattr(runtime, "_options", lambda models, cuda_graph=False: {"graph": str(cuda_graph)})
    runtime.end_to_end(free, settings)
    runtime.layer_times(free, cpus=(0,))
    parts, layers = jobs
    assert (parts.batch, parts.imgsz, parts.cpus, parts.threads, parts.priority) == (1, (64, 96), (0,), 2, False)
    assert parts.provider_options == {"graph": "True"} and layers.cpus == (0,)
    with pytest.raises(bench_worker.JobError, match="enough"):
        end_to_end_worker.time_parts(replace(parts, provider_options={}))
    assert asked == [(64, 96)]


def few_boxes(value: float) -> np.ndarray:
    """A raw head whose candidates all have this score."""
    output = head()
    output[:, 4:] = value
    return output


def test_whole_runs_are_interleaved_over_the_same_frames(tmp_path: Path) -> None:
    busy, idle = detector(tmp_path / "busy.onnx", head()), detector(tmp_path / "idle.onnx", few_boxes(0.0))
    frames = []
    for number, side in enumerate((80, 120)):
        frames.append(tmp_path / f"{number}.png")
        cv2.imwrite(str(frames[-1]), np.full((side, side, 3), 90, np.uint8))
    settings = BenchSettings(
        warmup_s=0.02, warmup_runs=7, rounds=12, per_round=4, launches=3, scope="end_to_end", frames=tuple(frames)
    )
    first, second = OnnxRuntime().latency([busy, idle], settings)
    assert len(first.values) == len(second.values) == 48
    assert first.conditions.launches == (16, 16, 16) and len(first.warmups) >= 3 * 7
    assert first.conditions.scope == "end_to_end" and first.conditions.end_to_end.frames == ((80, 80), (120, 120))
    assert first.conditions.end_to_end.boxes > 20 and second.conditions.end_to_end.boxes == 0
    assert all(value > 0 for value in first.conditions.end_to_end.parts_ms.values())


def test_each_part_gets_its_own_time_and_the_whole_is_their_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def taking(seconds: float, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            nonlocal now
            now += seconds
            return function(*args)

        return timed

    path = detector(tmp_path / "m.onnx", head())
    timer = EndToEndTimer(str(path), OrtJob((str(path),), "CPUExecutionProvider", {}, 1, False), [frame_of(None)])
    for module in (bench_worker, end_to_end_worker):
        monkeypatch.setattr(module, "perf_counter", lambda: now)
    monkeypatch.setattr(end_to_end_worker, "prepared", taking(0.002, prepared))
    monkeypatch.setattr(end_to_end_worker, "boxes_of", taking(0.011, boxes_of))
    timer.model = taking(0.005, timer.model)
    timer.take_block(3, settle=False)
    assert timer.values_ms == pytest.approx([18.0] * 3)
    for part, ms in {"pre": 2.0, "model": 5.0, "post": 11.0}.items():
        assert timer.parts_ms[part] == pytest.approx([ms] * 3)


def test_parts_are_those_of_the_samples_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm-ups, and the run that settles a block, are in no part's median, and no block's samples are left out."""
    now, lasts = 0.0, iter([50, 60, 70, *[900, 1, 2, 3] * 2])

    def taking(*args: Any) -> Any:
        nonlocal now
        now += next(lasts) / 1e3
        return model(*args)

    path = detector(tmp_path / "m.onnx", head())
    timer = EndToEndTimer(str(path), OrtJob((str(path),), "CPUExecutionProvider", {}, 1, False), [frame_of(None)])
    for module in (bench_worker, end_to_end_worker):
        monkeypatch.setattr(module, "perf_counter", lambda: now)
    model, timer.model = timer.model, taking
    for _ in range(3):
        timer.warmups_ms.append(timer.sample())
    for _ in range(2):
        timer.take_block(3, settle=True)
    assert timer.values_ms == timer.parts_ms["model"] == pytest.approx([1, 2, 3] * 2)
    assert timer.warmups_ms == pytest.approx([50, 60, 70, 900, 900])
    assert timer.timed_model().parts_ms == pytest.approx({"pre": 0, "model": 2, "post": 0})


def test_the_first_models_boxes_stand_in_for_an_untrained_candidates(tmp_path: Path) -> None:
    busy, idle = detector(tmp_path / "busy.onnx", head()), detector(tmp_path / "idle.onnx", few_boxes(0.0))
    settings = BenchSettings(warmup_s=0.02, rounds=4, per_round=4, launches=2, scope="end_to_end", stand_in=True)
    first, second = OnnxRuntime().latency([busy, idle], settings)
    assert first.conditions.end_to_end.boxes == second.conditions.end_to_end.boxes > 20
    assert second.conditions.end_to_end.stand_in is True


@pytest.mark.parametrize(("stand_in", "said"), [(False, "end-to-end speed-up"), (True, "planned end-to-end speed-up")])
def test_a_gate_says_what_was_timed(stand_in: bool, said: str) -> None:
    conditions: dict[str, Any] = {"scope": "end_to_end", "end_to_end": EndToEndState(stand_in=stand_in)}
    values = np.random.default_rng(0).normal(20, 0.2, 200)
    slow, fast = (latency(values / by, **conditions) for by in (1.0, 2.0))
    gate = speed_up_gate("engine", slow, fast, 1.5)
    assert (gate.metric, gate.verdict.value) == (said, "PASS")
    alone = latency(fast.values)
    with pytest.raises(StageError, match="scope"):
        speed_up_gate("engine", slow, alone, 1.5)


def test_a_machine_without_opencv_is_told_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "cv2.py").write_text("raise ImportError(\"No module named 'cv2'\", name='cv2')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(Path(__file__).parents[2])))}
    argv = [sys.executable, "-m", end_to_end_worker.__name__]
    done = subprocess.run(argv, env=environment, input="{}", capture_output=True, text=True, check=True)
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "device"
    assert "No module named 'cv2'; install opencv-python for " in error["message"]


@pytest.mark.parametrize("asked", [True, False])
def test_a_frame_and_its_boxes_are_in_host_memory_whatever_was_asked_of_copies(tmp_path: Path, asked: bool) -> None:
    settings = BenchSettings(warmup_s=0.01, rounds=2, per_round=1, copies=asked)
    model = detector(tmp_path / "m.onnx", few_boxes(0.0))
    [whole] = OnnxRuntime().latency([model], replace(settings, scope="end_to_end"))
    [alone] = OnnxRuntime().latency([model], settings)
    assert (whole.conditions.copies, alone.conditions.copies) == (True, asked)
