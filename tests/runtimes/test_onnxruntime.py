"""ONNX Runtime on the CPU: engines, latency in a process of its own, layer times, honest refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeprune.agent.cpus import cpu_ticks
from edgeprune.agent.system import allowed_cpus
from edgeprune.devices.archive import archive
from edgeprune.errors import DataError, DeviceError, StageError, TargetError
from edgeprune.measure.layers import compare_layers
from edgeprune.measure.result import LayerComparison
from edgeprune.runtimes import NAMES, all_runtimes, onnxruntime_, runtime
from edgeprune.runtimes.base import BenchSettings, FreeAxes
from edgeprune.runtimes.bench_worker import JobError, SessionTimer, input_shapes, open_session
from edgeprune.runtimes.image_input import written
from edgeprune.runtimes.jobs import MemoryJob, ProfileJob
from edgeprune.runtimes.onnx_facts import onnx_facts
from edgeprune.runtimes.onnxruntime_ import ENGINE_KEY, OnnxRuntime
from edgeprune.runtimes.remote_onnxruntime import WORKERS
from edgeprune.runtimes.worker import job_text
from edgeprune.samples.measurement import Measurement, differing_conditions
from edgeprune.serial import from_json, to_json
from tests.runtimes.models import METADATA, convolutions, quantised

QUICK = BenchSettings(warmup_s=0.05, rounds=6, per_round=3, time_limit_s=20)


@pytest.fixture
def cpu() -> OnnxRuntime:
    return OnnxRuntime()


def props(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}


def test_an_engine_keeps_outputs_and_metadata(cpu: OnnxRuntime, tmp_path: Path) -> None:
    model, engine = convolutions(tmp_path / "m.onnx"), tmp_path / "m.engine"
    cpu.engine_from_onnx(model, engine)
    assert METADATA.items() <= props(engine).items()
    assert json.loads(props(engine)[ENGINE_KEY]) == {"identity": cpu.identity(), "precision": "fp32"}
    image = {"images": np.random.default_rng(0).random((1, 3, 32, 32), np.float32)}
    with cpu.session(model) as before, cpu.session(engine, threads=1) as after:
        assert after.input_names == ["images"] and after.output_names == ["output0"]
        np.testing.assert_allclose(before.run(image)["output0"], after.run(image)["output0"], atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.engine", "m.onnx"]


def test_images_fill_the_input_of_what_is_timed(cpu: OnnxRuntime, tmp_path: Path) -> None:
    models = [convolutions(tmp_path / "m.onnx"), convolutions(tmp_path / "free.onnx", shape=("n", 3, "h", "w"))]
    asked: list[tuple[int, ...]] = []

    def images(shape: tuple[int, ...]) -> np.ndarray:
        asked.append(shape)
        return np.full(shape, 0.25)

    settings = replace(QUICK, images=images, batch=1)
    first, second = cpu.latency(models, settings)
    assert first.conditions.images and second.conditions.images
    assert asked == [(1, 3, 32, 32), (1, 3, 32, 48)]
    foreign = onnx.load(str(models[1]))
    del foreign.metadata_props[:]  # of another exporter, which does not say a size
    onnx.save(foreign, str(tmp_path / "foreign.onnx"))
    cpu.latency([tmp_path / "foreign.onnx"], replace(settings, batch=2, imgsz=(64, 32)))
    assert asked[2:] == [(2, 3, 64, 32)]
    with pytest.raises(DataError, match=r"foreign\.onnx: input images leaves axis 2 free; give --imgsz"):
        cpu.latency([tmp_path / "foreign.onnx"], settings)
    [noise] = cpu.latency(models[:1], QUICK)
    assert differing_conditions(first, noise) == ["images (True, False)"]
    with pytest.raises(DataError, match=r"images \[2, 3, 32, 32\] do not fill an input of \[1, 3, 32, 32\]"):
        cpu.latency(models[:1], replace(settings, images=lambda shape: np.zeros((2, *shape[1:]))))
    file = written(np.full((1, 3, 32, 32), 0.25, np.float32), tmp_path, 0)
    job = MemoryJob((str(models[0]),), cpu.provider, {}, 1, False, 0, None)
    with cpu.session(models[0]) as session:
        [expected] = session.run({"images": np.full((1, 3, 32, 32), 0.25, np.float32)}).values()
    [given] = SessionTimer(str(models[0]), job, images=file).run()
    np.testing.assert_allclose(given, expected, rtol=1e-5)


def test_a_failed_build_leaves_nothing(cpu: OnnxRuntime, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(DataError, match=r"broken\.onnx"):
        cpu.engine_from_onnx(broken, tmp_path / "engine")
    proto = onnx.load(str(convolutions(tmp_path / "m.onnx")))
    proto.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(proto, str(broken))
    with pytest.raises(StageError, match="cannot compile"):
        cpu.engine_from_onnx(broken, tmp_path / "engine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.onnx", "m.onnx"]


def test_precision_must_be_in_the_graph(cpu: OnnxRuntime, tmp_path: Path) -> None:
    full, half = convolutions(tmp_path / "full.onnx"), convolutions(tmp_path / "half.onnx", half=True)
    for precision in ("fp16", "int8"):
        with pytest.raises(StageError, match=f"asked for {precision}"):
            cpu.engine_from_onnx(full, tmp_path / "engine", precision=precision)
    with pytest.raises(TargetError, match="fp8"):
        cpu.engine_from_onnx(full, tmp_path / "engine", precision="fp8")
    cpu.engine_from_onnx(half, tmp_path / "half.engine", precision="fp16")
    cpu.engine_from_onnx(quantised(tmp_path / "q.onnx"), tmp_path / "q.engine", precision="int8")
    assert json.loads(props(tmp_path / "half.engine")[ENGINE_KEY])["precision"] == "fp16"


def test_an_engine_of_another_machine_is_refused(cpu: OnnxRuntime, tmp_path: Path) -> None:
    engine = tmp_path / "m.engine"
    cpu.engine_from_onnx(convolutions(tmp_path / "m.onnx"), engine)
    proto = onnx.load(str(engine))
    entry = next(entry for entry in proto.metadata_props if entry.key == ENGINE_KEY)
    entry.value = json.dumps({"identity": cpu.identity() | {"isa": "avx2"}, "precision": "fp32"})
    onnx.save(proto, str(engine))
    with pytest.raises(DeviceError, match=r"isa \(avx2"), cpu.session(engine):
        pass
    with pytest.raises(DeviceError, match="built elsewhere"):
        cpu.latency([engine], QUICK)


@pytest.mark.parametrize("written", ["not json", "[1, 2]", "{}", '{"identity": "here"}', "null"])
def test_a_damaged_entry_of_an_engine_is_named(cpu: OnnxRuntime, tmp_path: Path, written: str) -> None:
    engine = convolutions(tmp_path / "m.onnx")
    proto = onnx.load(str(engine))
    proto.metadata_props.add(key=ENGINE_KEY, value=written)
    onnx.save(proto, str(engine))
    with pytest.raises(DataError, match=f"m.onnx: its metadata entry {ENGINE_KEY} is damaged"):
        cpu.peak_memory(engine)
    with pytest.raises(DataError, match="build it again from the ONNX file"), cpu.session(engine):
        pass


@pytest.mark.parametrize(
    "given",
    [
        {"images": np.zeros((1, 3, 16, 16), np.float32)},  # another shape
        {"images": np.zeros((1, 3, 32, 32), np.float64)},  # another type
        {"other": np.zeros((1, 3, 32, 32), np.float32)},
        {"images": None},
    ],
)
def test_what_onnxruntime_says_of_a_run_is_of_the_model_and_no_bug(cpu: OnnxRuntime, tmp_path: Path, given) -> None:
    model = convolutions(tmp_path / "m.onnx")
    with cpu.session(model) as session, pytest.raises(DataError, match="ONNX Runtime cannot run it: "):
        session.run(given)


def test_latency_is_raw_interleaved_and_described(cpu: OnnxRuntime, tmp_path: Path) -> None:
    small, large = convolutions(tmp_path / "s.onnx"), convolutions(tmp_path / "l.onnx", width=64, depth=4)
    told: list[tuple[str, int, int]] = []
    found = cpu.latency([small, large], QUICK, progress=lambda text, done, total, **_: told.append((text, done, total)))
    assert [len(one.values) for one in found] == [18, 18]
    assert all(value > 0 for one in found for value in one.values)
    assert all(len(one.warmups) >= 6 + 5 for one in found)  # warm-up, and one settling run at each of six turns
    assert told[-1][1:] == (6, 6) and " / " in told[-1][0]
    conditions = found[0].conditions
    assert conditions.shapes == {"images": (1, 3, 32, 32)}
    assert (conditions.threads, conditions.batch, conditions.samples_per_block) == (1, 1, 3)
    assert conditions.identity == cpu.identity()
    host = conditions.host
    assert host.governor and host.load_average and host.isa and host.versions
    assert conditions.worker.onnxruntime in conditions.identity["runtime"]
    assert 0 < conditions.core.share <= 1.1
    assert not differing_conditions(*found)
    assert from_json(Measurement, to_json(found[0]), "a measurement") == found[0]


@pytest.mark.skipif(not sum(cpu_ticks(allowed_cpus()) or ()), reason="the system does not tell")
@pytest.mark.parametrize("threads", [1, 2])
def test_what_other_work_took_meanwhile_is_recorded(cpu: OnnxRuntime, tmp_path: Path, threads: int) -> None:
    model, own = convolutions(tmp_path / "m.onnx", width=32), tuple(sorted(allowed_cpus()))[:2]
    settings = BenchSettings(warmup_s=0.05, rounds=10**5, per_round=2, time_limit_s=1.5, threads=threads, cpus=own)
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        os.sched_setaffinity(other.pid, own)
        try:
            [found] = cpu.latency([model], settings)
        finally:
            other.kill()
    core = found.conditions.core
    assert core.others is not None and 0 < core.others <= len(own)  # little of one CPU, where a run goes first
    assert bool(core.cpu_ms) == (threads == 1)


def test_the_time_limit_ends_a_run_between_rounds(cpu: OnnxRuntime, tmp_path: Path) -> None:
    model = convolutions(tmp_path / "m.onnx", width=32)
    settings = BenchSettings(warmup_s=0.05, rounds=10**5, per_round=2, time_limit_s=0.6)
    first, second = cpu.latency([model, model], settings)
    assert len(first.values) == len(second.values) < 10**6
    assert len(first.values) % first.conditions.samples_per_block == 0


def test_the_worker_loads_no_torch(tmp_path: Path) -> None:
    model = convolutions(tmp_path / "m.onnx")
    job = job_text(MemoryJob((str(model),), "CPUExecutionProvider", {}, 1, False, 0, None)).decode()
    code = (
        "import io, json, sys\n"
        f"sys.stdin = io.StringIO({json.dumps(job)})\n"
        "from edgeprune.runtimes import bench_worker\n"
        "bench_worker.serve({bench_worker.MemoryJob: bench_worker.measure_memory})\n"
        "print(sorted({'torch', 'onnx', 'ultralytics', 'scipy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert json.loads(done.stdout.splitlines()[0])["result"]["peak_rss_bytes"] > 0


def test_the_worker_stands_alone(tmp_path: Path) -> None:
    """It is one zip file that can be copied to a device without edgeprune."""
    copy = tmp_path / "workers.zip"
    copy.write_bytes(archive(*WORKERS))
    job = ProfileJob(
        models=(str(convolutions(tmp_path / "m.onnx")),),
        provider="CPUExecutionProvider",
        provider_options={},
        threads=1,
        priority=False,
        runs=3,
        batch=0,
        imgsz=None,
        cpus=(),
    )
    code = (
        f"import runpy, sys; sys.path.insert(0, {str(copy)!r}); runpy.run_module({job.module!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        input=job_text(job).decode(),
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert json.loads(done.stdout.splitlines()[-1])["result"]["layers"]


def test_layer_times_follow_the_graph(cpu: OnnxRuntime, tmp_path: Path) -> None:
    layers = cpu.layer_times(convolutions(tmp_path / "m.onnx", width=32, depth=3), runs=5)
    convs = [layer for layer in layers if "Conv" in layer.op]
    assert len(convs) == 3
    assert all(layer.mean_ms >= 0 for layer in layers)
    assert convs[-1].outputs == (("float", (1, 32, 32, 32)),)
    assert convs[-1].inputs[1] == ("float", (32, 32, 3, 3))


def test_compare_layers(cpu: OnnxRuntime, tmp_path: Path) -> None:
    wide, narrow = convolutions(tmp_path / "w.onnx", width=32), convolutions(tmp_path / "n.onnx")
    layers = compare_layers(cpu, wide, narrow, runs=5)
    assert from_json(LayerComparison, to_json(layers), "layers") == layers
    assert {layer.name for layer in layers.baseline} & {layer.name for layer in layers.candidate}
    assert all(layer.op and layer.ms >= 0 for layer in (*layers.baseline, *layers.candidate))


def test_memory_grows_with_the_model(cpu: OnnxRuntime, tmp_path: Path) -> None:
    small = cpu.peak_memory(convolutions(tmp_path / "s.onnx"))
    large = cpu.peak_memory(convolutions(tmp_path / "l.onnx", width=512, depth=5))  # 38 MB of weights
    assert large.model_rss_bytes > small.model_rss_bytes + 30e6
    assert large.peak_rss_bytes > large.model_rss_bytes


@pytest.mark.parametrize(
    ("shape", "settings", "expected"),
    [
        (("n", 3, "h", "w"), {}, [1, 3, 32, 48]),  # imgsz of the model's metadata
        (("n", 3, "h", "w"), {"batch": 2, "imgsz": (64, 32)}, [2, 3, 64, 32]),
        ((1, 3, 32, 32), {"batch": 1, "imgsz": (32, 32)}, [1, 3, 32, 32]),
    ],
)
def test_free_axes_are_filled(
    cpu: OnnxRuntime, tmp_path: Path, shape: tuple, settings: dict, expected: list[int]
) -> None:
    model = convolutions(tmp_path / "m.onnx", shape=shape)
    [found] = cpu.latency([model], BenchSettings(warmup_s=0.01, rounds=1, per_round=1, **settings))
    assert found.conditions.shapes == {"images": tuple(expected)}
    assert found.conditions.batch == expected[0]


def test_a_size_that_the_model_does_not_take_is_refused_where_it_leaves_the_size_free(
    cpu: OnnxRuntime, tmp_path: Path
) -> None:
    model, brief = convolutions(tmp_path / "m.onnx", shape=(1, 3, "h", "w")), BenchSettings(rounds=1, per_round=1)
    for size, said in (((100, 100), "imgsz 100 is .* stride 32; use 96"), ((64, 100), "imgsz 64,100 .* use 64,96")):
        with pytest.raises(DataError, match=said):
            cpu.latency([model], replace(brief, imgsz=size))
        with pytest.raises(DataError, match=said):
            cpu.peak_memory(model, free=FreeAxes(0, size))
        with pytest.raises(TargetError, match=said):  # the same rule where it is built for TensorRT
            onnx_facts(model, free=FreeAxes(0, size))
    proto = onnx.load(str(model))
    onnx.helper.set_model_props(proto, {**props(model), "task": "classify"})
    onnx.save(proto, str(model))
    assert onnx_facts(model, free=FreeAxes(0, (100, 100))).inputs[0].shape == (1, 3, 100, 100)
    assert cpu.peak_memory(model, free=FreeAxes(0, (100, 100))) is not None


@pytest.mark.parametrize(
    ("shape", "free", "expected"),
    [
        (("n", 3, "h", "w"), FreeAxes(), (1, 3, 32, 48)),
        (("n", 3, "h", "w"), FreeAxes(4, (64, 96)), (4, 3, 64, 96)),
        ((2, 3, "h", 64), FreeAxes(2, (32, 64)), (2, 3, 32, 64)),
        ((2, 3, 32, 48), FreeAxes(1), "input images has axis 0 fixed at 2, asked was 1; export it so"),
        ((1, 3, "h", 48), FreeAxes(0, (64, 64)), "input images has axis 3 fixed at 48, asked was 64; export it so"),
        ((1, "c", 32, 48), FreeAxes(), "input images leaves axis 1 free; export it with a fixed size"),
        ((1, 3, "h", "w"), None, "input images leaves axis 2 free; give --imgsz, or export it with a fixed size"),
    ],
)
def test_what_is_built_and_what_is_timed_fill_free_axes_by_one_rule(tmp_path: Path, shape, free, expected) -> None:
    model, sizes = convolutions(tmp_path / "m.onnx", shape=shape), free or FreeAxes()
    if free is None:
        proto = onnx.load(str(model))
        onnx.helper.set_model_props(proto, {})  # whose file says no size either
        onnx.save(proto, str(model))
    session = open_session(model)
    if isinstance(expected, tuple):
        assert input_shapes(session, sizes.batch, sizes.imgsz) == {"images": expected}
        assert onnx_facts(model, free=sizes).inputs[0].shape == expected
        return
    with pytest.raises(JobError, match=f"^{expected}$"):
        input_shapes(session, sizes.batch, sizes.imgsz)
    with pytest.raises(DataError, match=f"m.onnx: {expected}$"):
        onnx_facts(model, free=sizes)


def test_latency_of_fp16_whole_numbers_and_without_copies(cpu: OnnxRuntime, tmp_path: Path) -> None:
    half = convolutions(tmp_path / "h.onnx", half=True)
    [found] = cpu.latency([half], BenchSettings(warmup_s=0.01, rounds=2, per_round=1, copies=False))
    assert len(found.values) == 2 and found.conditions.copies is False


def test_bad_models_are_named(cpu: OnnxRuntime, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x00" * 64)
    fixed = convolutions(tmp_path / "m.onnx")
    with pytest.raises(DataError, match=r"broken\.onnx"):
        cpu.latency([broken], QUICK)
    with pytest.raises(DataError, match=r"broken\.onnx"), cpu.session(broken):
        pass
    with pytest.raises(DataError, match="does not exist"):
        cpu.latency([tmp_path / "absent.onnx"], QUICK)
    with pytest.raises(DataError, match="axis 0 fixed at 1, asked was 8"):
        cpu.latency([fixed], BenchSettings(batch=8))
    with pytest.raises(TargetError, match="no model"):
        cpu.latency([], QUICK)


@pytest.mark.parametrize(
    ("wheels", "provider", "said", "remedy"),
    [
        ({"onnxruntime", "onnxruntime-gpu"}, "cpu", "both installed", "uninstall -y onnxruntime onnxruntime-gpu"),
        ({"onnxruntime", "onnxruntime-gpu"}, "cuda", "both installed", "pip install 'onnxruntime-gpu>="),
        ({"onnxruntime"}, "cuda", "no CUDAExecutionProvider", "pip install 'onnxruntime-gpu>="),
        ({"onnxruntime"}, "tensorrt", "no TensorrtExecutionProvider", "pip install 'onnxruntime-gpu>="),
    ],
)
def test_availability_tells_the_remedy(
    monkeypatch: pytest.MonkeyPatch, wheels: set[str], provider: str, said: str, remedy: str
) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime_, "_installed", lambda name: name in wheels)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    found = OnnxRuntime(provider).availability()
    assert not found.ok
    assert said in found.detail and remedy in found.remedy
    with pytest.raises(DeviceError, match="next: "):
        OnnxRuntime(provider).latency([Path("x.onnx")], QUICK)


def test_every_runtime_has_its_name_and_an_honest_answer() -> None:
    assert [one.name for one in all_runtimes()] == list(NAMES)
    for one in all_runtimes():
        found = one.availability()
        assert found.detail and bool(found.remedy) == (not found.ok)
    with pytest.raises(TargetError, match="onnxruntime-cuda"):
        runtime("openvino")
    with pytest.raises(TargetError, match="cuda"):
        OnnxRuntime("metal")


@pytest.mark.parametrize("name", ["tensorrt", "trtexec"])
def test_tensorrt_refuses_with_the_next_step(name: str, tmp_path: Path) -> None:
    one = runtime(name)
    for call in (one.identity, lambda: one.latency([], QUICK), lambda: one.session(tmp_path).__enter__()):
        with pytest.raises(DeviceError, match="next: "):
            call()


def test_stubs_alone_are_not_tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tensorrt").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    found = runtime("tensorrt").availability()
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    assert not found.ok and "stubs" in found.detail


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may go before others")
def test_a_measurement_goes_before_other_work_where_it_may(tmp_path: Path) -> None:
    model = convolutions(tmp_path / "m.onnx")
    quick = BenchSettings(warmup_s=0.01, rounds=2, per_round=2)
    [first] = OnnxRuntime().latency([model], quick)
    assert first.conditions.worker.nice == -20, "wherever the caller stands"
    [beside] = OnnxRuntime().latency([model], replace(quick, priority=False))
    assert beside.conditions.worker.nice == os.getpriority(os.PRIO_PROCESS, 0)
