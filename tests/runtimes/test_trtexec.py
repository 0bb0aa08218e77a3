"""TrtExec from ONNX to layer times through a device, against a stand-in for trtexec of each generation."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from edgeprune.agent.facts import DeviceFacts, Gpu
from edgeprune.agent.programs import Turns
from edgeprune.agent.system import Refused
from edgeprune.agent.trtexec import find_trtexec
from edgeprune.devices.base import Completed
from edgeprune.devices.identity import identity_of
from edgeprune.devices.local import LocalDevice
from edgeprune.errors import DataError, DeviceError, StageError, ToolError
from edgeprune.export import graph, regions
from edgeprune.measure.compiling import compile_engine, compile_once
from edgeprune.measure.doctor import examine_device
from edgeprune.runtimes.base import BenchSettings, FreeAxes
from edgeprune.runtimes.engine_file import facts_path, read_facts
from edgeprune.runtimes.trtexec_ import TrtExec, _DeviceEngine, _io_memory, _TrtExecSession
from edgeprune.runtimes.trtexec_output import Bindings
from edgeprune.samples.conditions import DeviceState, Telemetry
from edgeprune.samples.gates import Verdict, speed_up_gate
from edgeprune.samples.measurement import differing_conditions
from edgeprune.target import load_target
from tests.runtimes import fake_trtexec
from tests.runtimes.models import METADATA, convolutions
from tests.runtimes.trtexec_samples import FAILURES, LAYERS

VERSIONS = [(10, 3, 0), (10, 13, 3), (11, 1, 0)]
WEAK = [(8, 5, 2), (8, 6, 0)]
SHORT = BenchSettings(rounds=8, per_round=5, warmup_s=0.2, copies=False)


class Bench(LocalDevice):
    """This machine with a stand-in for trtexec on it: whatever it measures is simulated."""

    name = "bench"
    simulated = True

    def __init__(self) -> None:
        super().__init__()
        self.states: list[DeviceState] = []
        self.beside_the_lock: list[str] = []

    def _look(self) -> DeviceFacts:
        return replace(super()._look(), l4t="36.4.3")  # a board's GPU is there, whether nvidia-smi is or not

    def identity(self) -> dict[str, str]:
        return {"board": "bench", "power_mode": "15W"}

    def run(self, argv: Sequence[str], **options: Any) -> Completed:
        if not options.get("measured"):
            self.beside_the_lock.append(argv[1])
        done = super().run(argv, **{**options, "measured": False})  # what it was like meanwhile is made up below
        return replace(done, device=self._state() if options.get("measured") else DeviceState())

    def run_turns(self, turns: Turns, on_turn: Callable[[int, Completed], None]) -> None:
        super().run_turns(turns, lambda index, done: on_turn(index, replace(done, device=self._state())))

    def _state(self) -> DeviceState:
        return self.states.pop(0) if self.states else DeviceState()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))


def tool(tmp_path: Path, version=(10, 3, 0), dla_core=None, **ways) -> tuple[TrtExec, Path]:
    program = fake_trtexec.install(tmp_path, version, **ways)
    return TrtExec(Bench(), program=(str(program),), dla_core=dla_core), program


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_from_onnx_to_layers(tmp_path, version):
    trtexec, program = tool(tmp_path, version)
    shown = ".".join(map(str, version))
    assert trtexec.availability().ok and f"trtexec {shown}" in trtexec.availability().detail
    engine = tmp_path / "model.engine"
    trtexec.engine_from_onnx(convolutions(tmp_path / "m.onnx", half=True), engine, precision="fp16")
    facts = read_facts(engine)
    assert facts is not None and facts.simulated and facts.builder == f"trtexec {shown}" and facts.precision == "fp16"
    assert facts.metadata["names"] == METADATA["names"] and facts.inputs[0].shape == (1, 3, 32, 32)
    assert facts.identity == {"board": "bench", "power_mode": "15W", "runtime": f"trtexec {shown}"}
    assert "&&&& RUNNING" in (tmp_path / "model.engine.log").read_text()
    assert [layer.name for layer in trtexec.layer_info(engine)] == [row[0] for row in LAYERS]
    times = trtexec.layer_times(engine, runs=9)
    assert [(one.name, one.op) for one in times] == [row[:2] for row in LAYERS]
    assert times[0].mean_ms > 0 and times[0].runs == 9
    assert ("--stronglyTyped" in fake_trtexec.calls(program)[0]) == (version[0] == 10)


@pytest.mark.parametrize("version", WEAK, ids=str)
def test_8_takes_the_fp32_graph_and_chooses_fp16(tmp_path, version):
    trtexec, program = tool(tmp_path, version)
    engine, plain = tmp_path / "model.engine", convolutions(tmp_path / "m.onnx")
    trtexec.engine_from_onnx(plain, engine, precision="fp16", keep_float=["/head/Add"])
    facts, [told] = read_facts(engine), fake_trtexec.calls(program)
    assert facts is not None and facts.precision == "fp16" and {one.precision for one in facts.layers} >= {"fp16"}
    assert told["--layerPrecisions"] == "/head/Add:fp32" and "--fp16" in told
    assert facts.command.startswith(f"{program} --onnx=0.onnx --saveEngine=0.engine --fp16")
    assert [layer.name for layer in trtexec.layer_info(engine)] == [row[0] for row in LAYERS]
    facts_path(engine).unlink()
    assert [layer.name for layer in trtexec.layer_info(engine)] == [row[0] for row in LAYERS]  # loaded, nothing timed
    with pytest.raises(StageError, match="asked for int8, but its graph holds no int8"):
        trtexec.engine_from_onnx(plain, engine, precision="int8-fp16")


def test_8_builds_a_graph_on_the_way_in_the_precision_of_the_profile(tmp_path):
    program = fake_trtexec.install(tmp_path, (8, 6, 0))
    trtexec = TrtExec(Bench(), program=(str(program),), precision="fp16")
    trtexec.latency([convolutions(tmp_path / "m.onnx")], SHORT)
    assert "--fp16" in fake_trtexec.calls(program)[0]


def test_a_build_that_dies_of_memory_leaves_its_log_and_the_timing_cache_from_before(tmp_path):
    good, _ = tool(tmp_path)
    plain, engine = convolutions(tmp_path / "m.onnx"), tmp_path / "model.engine"
    good.engine_from_onnx(plain, engine)
    [cache] = (tmp_path / "cache").rglob("*.cache")
    before = cache.read_bytes()
    starved, _ = tool(tmp_path, killed=True, log="[I] it had begun")
    with pytest.raises(StageError, match=r"the device ran out of memory; .*builder.workspace_mib.*swap"):
        starved.engine_from_onnx(plain, tmp_path / "other.engine")
    assert "it had begun" in (tmp_path / "other.engine.log").read_text()
    assert cache.read_bytes() == before and not (tmp_path / "other.engine").exists()


def test_the_engine_of_a_build_that_crashes_behind_its_last_line_is_taken_and_its_log_says_so(tmp_path):
    crashing, program = tool(tmp_path, (8, 6, 0), crashes=True)
    plain, engine = convolutions(tmp_path / "m.onnx"), tmp_path / "model.engine"
    crashing.engine_from_onnx(plain, engine, precision="fp16")
    assert (tmp_path / "model.engine.log").read_text().endswith("the engine was complete and is taken\n")
    found = crashing.latency([engine], SHORT)
    assert len(found[0].values) > 1 and len(fake_trtexec.calls(program)) > 1
    quiet, _ = tool(tmp_path, (8, 6, 0))
    quiet.engine_from_onnx(plain, tmp_path / "other.engine", precision="fp16")
    assert "taken" not in (tmp_path / "other.engine.log").read_text()


@pytest.mark.parametrize(
    ("raised", "becomes"), [(ToolError(["t"], 1, "died"), StageError), (DeviceError("gone"), DeviceError)]
)
def test_what_was_heard_of_a_build_that_nobody_saw_the_end_of_is_kept(tmp_path, monkeypatch, raised, becomes):
    trtexec, _ = tool(tmp_path)
    trtexec.find_program()

    def dies(self, argv, *, on_line=None, **options):
        on_line("[I] the last words")
        raise raised

    monkeypatch.setattr(Bench, "run", dies)
    with pytest.raises(becomes, match=r"died|gone"):
        trtexec.engine_from_onnx(convolutions(tmp_path / "m.onnx"), tmp_path / "model.engine")
    assert (tmp_path / "model.engine.log").read_text().startswith("[I] the last words")


def test_a_wrapper_starts_trtexec(tmp_path):
    program = fake_trtexec.install(tmp_path)
    trtexec = TrtExec(Bench(), program=("/usr/bin/env", "HERE=1", str(program)))
    assert trtexec.availability().detail.startswith(f"trtexec 10.3.0 by /usr/bin/env HERE=1 {program} on")
    engine = tmp_path / "model.engine"
    trtexec.engine_from_onnx(convolutions(tmp_path / "m.onnx"), engine)
    facts = read_facts(engine)
    assert facts is not None and facts.command.startswith(f"/usr/bin/env HERE=1 {program} --onnx")


@pytest.mark.parametrize("version", [*WEAK, VERSIONS[0], VERSIONS[-1]], ids=str)
@pytest.mark.parametrize(("copies", "graph"), [(True, False), (False, True)])
def test_scope_and_graph_are_what_was_asked(tmp_path, version, copies, graph):
    trtexec, _ = tool(tmp_path, version)
    onnx_file = convolutions(tmp_path / "m.onnx")
    settings = BenchSettings(rounds=8, per_round=2, warmup_s=0.1, copies=copies, cuda_graph=graph)
    [found] = trtexec.latency([onnx_file], settings)
    told = found.conditions
    assert (told.copies, told.cuda_graph, told.gpu.spin_wait, told.gpu.in_flight) == (copies, graph, True, 1)
    assert found.simulated and len(found.values) == 16 and told.launches == (2,) * 8 and told.samples_per_block == 2
    alone = 1 + onnx_file.stat().st_size / 1000
    assert min(found.values) == pytest.approx(alone + (0.25 if copies else 0), rel=1e-4)


def test_processes_take_turns_so_that_drift_meets_both(tmp_path):
    trtexec, program = tool(tmp_path, drift=0.02)
    small, large = convolutions(tmp_path / "s.onnx", width=4), convolutions(tmp_path / "l.onnx", width=16)
    told: list[str] = []
    first, second = trtexec.latency([large, small], SHORT, progress=lambda text, **_: told.append(text))
    timed = [Path(one["--loadEngine"]).stem for one in fake_trtexec.calls(program) if "--exportTimes" in one]
    assert timed == ["0", "1", "1", "0"] * 4  # a rotating order
    before, after = np.array(first.values).reshape(8, 5), np.array(second.values).reshape(8, 5)
    assert np.median(before[-1]) / np.median(before[0]) > 1.2  # the drift is in the samples
    ratios = np.median(before, 1) / np.median(after, 1)
    assert ratios.std() / ratios.mean() < 0.03  # and not in the ratio
    assert first.conditions.identity == second.conditions.identity and "processes in turn" in told[-1]


@pytest.mark.parametrize(
    ("settings", "models", "launches"),
    [
        (SHORT.longer(), 2, (5,) * 16),
        (replace(SHORT, time_limit_s=0.001).longer(), 2, (5,) * 16),  # a ratio that ends sooner tells nothing new
        (replace(SHORT, time_limit_s=0.001).longer(), 1, (5,)),
        (replace(SHORT, rounds=60, per_round=1).longer(2), 1, (3,) * 48),
        (replace(SHORT, rounds=120, per_round=1), 1, (5,) * 24),  # asked for at once, as a percentile may need them
    ],
)
def test_a_look_at_twice_the_samples_is_of_twice_the_processes(tmp_path, settings, models, launches):
    """A process is a block: more samples in each would leave the spread between them, and so the interval, as it is."""
    trtexec, _ = tool(tmp_path)
    timed = trtexec.latency([convolutions(tmp_path / f"{number}.onnx") for number in range(models)], settings)
    assert [one.conditions.launches for one in timed] == [launches] * models
    assert {one.conditions.samples_per_block for one in timed} == {launches[0]}


def test_what_is_simulated_passes_no_gate(tmp_path):
    trtexec, _ = tool(tmp_path)
    small, large = convolutions(tmp_path / "s.onnx", width=4), convolutions(tmp_path / "l.onnx", width=16)
    settings = BenchSettings(rounds=20, per_round=5, warmup_s=0.05, copies=False)
    gate = speed_up_gate("engine", *trtexec.latency([large, small], settings), 1.05)
    assert gate.verdict not in (Verdict.PASS, Verdict.FAIL) and "simulated" in gate.reason


@pytest.mark.parametrize(
    ("l4t", "machine", "copies", "where"),
    [
        ("36.4.3", "aarch64", False, "managed"),
        ("36.4.3", "aarch64", True, "device"),
        ("", "x86_64", False, "device"),
        ("", "aarch64", False, ""),  # a card, or one chip with the CPU
    ],
)
def test_where_inputs_and_outputs_lie_is_told_as_trtexec_chooses_it(l4t, machine, copies, where):
    facts = replace(Desktop((), ())._look(), l4t=l4t, machine=machine)
    assert _io_memory(identity_of(facts), copies) == where


@pytest.mark.parametrize("version", [WEAK[-1], VERSIONS[0]], ids=str)
def test_a_graph_that_cannot_be_captured_is_said(tmp_path, version):
    trtexec, _ = tool(tmp_path, version, captures=False)
    [found] = trtexec.latency(
        [convolutions(tmp_path / "m.onnx")], BenchSettings(rounds=8, per_round=1, warmup_s=0, cuda_graph=True)
    )
    assert found.conditions.gpu.cuda_graph_asked and not found.conditions.cuda_graph


def test_a_time_limit_ends_it_and_lost_samples_are_said(tmp_path):
    trtexec, _ = tool(tmp_path)
    limited = BenchSettings(rounds=24, per_round=1, warmup_s=0, time_limit_s=0.001)
    [found] = trtexec.latency([convolutions(tmp_path / "m.onnx")], limited)
    assert found.conditions.launches == (1,)
    trtexec, _ = tool(tmp_path, samples_lost=4)
    with pytest.raises(DeviceError, match="gave 3 of 5 samples"):
        trtexec.latency([tmp_path / "m.onnx"], SHORT)


def test_what_the_device_saw_goes_into_the_conditions(tmp_path):
    trtexec, _ = tool(tmp_path)
    trtexec.device.states = [  # type: ignore[attr-defined]  the stand-in's own
        DeviceState(),
        DeviceState(throttled=True, power_mode="15W", waited_s=1.5),
        *(DeviceState(waited_s=0.5, telemetry=Telemetry(power_w_mean=6.0 + n)) for n in range(7)),
    ]
    [found] = trtexec.latency([convolutions(tmp_path / "m.onnx")], SHORT)
    told = found.conditions.device
    assert told.throttled and told.power_mode == "15W" and told.waited_s == 5.0
    assert told.telemetry is not None and told.telemetry.power_w_mean == 9.0


def test_images_fill_the_input_of_what_is_timed(tmp_path):
    trtexec, program = tool(tmp_path, half=True)
    engine = tmp_path / "m.engine"
    trtexec.engine_from_onnx(convolutions(tmp_path / "m.onnx", half=True), engine, precision="fp16")
    asked: list[tuple[int, ...]] = []

    def images(shape: tuple[int, ...]) -> np.ndarray:
        asked.append(shape)
        return np.linspace(0, 1, int(np.prod(shape))).reshape(shape)

    sent: list[bytes] = []
    send = trtexec.device.send
    trtexec.device.send = lambda local, remote: (sent.append(local.read_bytes()), send(local, remote))  # type: ignore
    [found] = trtexec.latency([engine], replace(SHORT, images=images))
    assert found.conditions.images and asked == [(1, 3, 32, 32)]
    [entry] = read_facts(engine).inputs
    assert sent[-1] == images((1, 3, 32, 32)).astype(entry.dtype).tobytes()
    timed = [call for call in fake_trtexec.calls(program) if "--exportTimes" in call]
    assert {call["--loadInputs"].partition(":")[0] for call in timed} == {"images"}
    [noise] = trtexec.latency([engine], SHORT)
    assert not noise.conditions.images and "--loadInputs" not in fake_trtexec.calls(program)[-1]
    assert differing_conditions(found, noise) == ["images (True, False)"]
    facts_path(engine).unlink()
    with pytest.raises(DataError, match="is to be timed on images, and takes nothing that is known"):
        trtexec.latency([engine], replace(SHORT, images=images))


LOG = "Data transfers: Enabled\nSpin-wait: Enabled\nCUDA Graph: Disabled\nExposeDMA: Enabled\n"


@pytest.mark.parametrize(
    ("power_w", "energy_mj"),
    [
        (((2.6, 90.0), (2.1, 80.0), (1.9, 10.0), (1.0, 11.0), (0.1, 12.0)), 22.0),  # the warm-up is left out
        (((1.9, 10.0), (1.0, 11.0)), None),  # two readings say too little
        ((), None),  # absent, not 0
    ],
)
def test_energy_is_the_power_of_the_timed_part_over_its_pace(tmp_path, power_w, energy_mj):
    trtexec, _ = tool(tmp_path)
    done = Completed((), 0, f"{LOG}Timing trace has 1000 queries over 2.0 s", "", power_w=power_w)
    assert trtexec._power_run(done).energy_mj == (None if energy_mj is None else pytest.approx(energy_mj))
    with pytest.raises(DeviceError, match="does not say how it ran"):
        trtexec._power_run(replace(done, stdout=LOG))


def test_a_device_that_tells_no_power_has_no_energy(tmp_path, monkeypatch):
    trtexec, program = tool(tmp_path)
    assert trtexec.energy([convolutions(tmp_path / "m.onnx")], SHORT) is None
    monkeypatch.setattr(trtexec.device, "tells_power", lambda: True)  # or so it seems
    assert trtexec.energy([tmp_path / "m.onnx"], SHORT) is None
    runs = [one for one in fake_trtexec.calls(program) if one.get("--duration") not in (None, "0")]
    assert len(runs) == 6 and runs[0]["--warmUp"] == "1000" and "--exposeDMA" in runs[0]


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_outputs_come_back(tmp_path, version):
    trtexec, program = tool(tmp_path, version)
    engine = tmp_path / "m.engine"
    trtexec.engine_from_onnx(convolutions(tmp_path / "m.onnx"), engine)
    image = np.linspace(0, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)  # float64: the engine takes float32
    with trtexec.session(engine) as session:
        found = session.run({"images": image})
        assert session.input_names == ["images"] and session.output_names == ["output0"]
    np.testing.assert_allclose(found["output0"].reshape(image.shape), 2 * image, rtol=1e-5)
    call = fake_trtexec.calls(program)[-1]
    assert call["--iterations"] == "1" and call["--duration"] == "0" and "--noDataTransfers" not in call


def test_the_timing_cache_is_kept_for_each_identity(tmp_path):
    trtexec, program = tool(tmp_path)
    model = convolutions(tmp_path / "m.onnx")
    for name in ("a", "b"):
        trtexec.engine_from_onnx(model, tmp_path / f"{name}.engine")
    [cache] = (tmp_path / "cache" / "timing").iterdir()
    assert cache.read_bytes() == b"++"  # the second build read what the first wrote
    trtexec.device.identity = lambda: {"board": "bench", "power_mode": "MAXN"}  # type: ignore[method-assign]
    trtexec.engine_from_onnx(model, tmp_path / "c.engine")
    assert sorted(path.read_bytes() for path in (tmp_path / "cache" / "timing").iterdir()) == [b"+", b"++"]
    TrtExec(Bench(), program=(str(program),), keep_timing_cache=False).engine_from_onnx(model, tmp_path / "d.engine")
    assert "--timingCacheFile" not in fake_trtexec.calls(program)[-1]


def test_a_dla_core_is_built_for_and_run_with(tmp_path):
    trtexec, program = tool(tmp_path, dla_core=1, dla=True)
    engine = tmp_path / "m.engine"
    trtexec.engine_from_onnx(convolutions(tmp_path / "m.onnx", half=True), engine, precision="fp16")
    assert [layer.placed for layer in trtexec.layer_info(engine)].count("dla") == 1
    [found] = trtexec.latency([engine], BenchSettings(rounds=8, per_round=1, warmup_s=0, cuda_graph=True))
    build, run = fake_trtexec.calls(program)[0], fake_trtexec.calls(program)[-1]
    assert build["--useDLACore"] == run["--useDLACore"] == "1" and "--allowGPUFallback" in build
    assert "--fp16" in build and "--stronglyTyped" not in build
    assert not found.conditions.cuda_graph and found.conditions.identity["dla_core"] == "1"


@pytest.mark.parametrize(("device", "kept"), [("{dla_core: 0}", ("/22/Add",)), ("{}", ())])
def test_the_decoder_is_kept_in_fp32_where_a_builder_chooses_for_a_dla(tmp_path, monkeypatch, device, kept):
    profile, told = tmp_path / "mine.yaml", {}
    profile.write_text(f"extends: jetson-orin-nx\ndevice: {device}\nmeasure: {{cuda_graph: false}}\n")
    monkeypatch.setattr(graph, "load_graph", lambda path: None)
    monkeypatch.setattr(regions, "decoding_arithmetic", lambda model: ("/22/Add",))
    runtime = SimpleNamespace(suffix=".engine", engine_from_onnx=lambda *_, **options: told.update(options))
    site: Any = SimpleNamespace(target=load_target(profile), runtime=runtime)
    compile_engine(site, convolutions(tmp_path / "m.onnx"), tmp_path)
    assert told["keep_float"] == kept


def test_a_graph_for_a_dla_is_no_fp32_and_int8_only_where_it_is(tmp_path):
    trtexec, program = tool(tmp_path, dla_core=0, dla=True)
    full = convolutions(tmp_path / "m.onnx")
    with pytest.raises(StageError, match=r"m\.onnx: its graph is fp32, and a DLA computes in half precision or INT8"):
        trtexec.engine_from_onnx(full, tmp_path / "m.engine")
    with pytest.raises(StageError, match=r"quantize .*m\.onnx --precision fp16"):
        trtexec.latency([full], SHORT)
    assert fake_trtexec.calls(program) == []
    half = convolutions(tmp_path / "half.onnx", half=True)
    trtexec.engine_from_onnx(half, tmp_path / "h.engine", precision="fp16")
    assert "--int8" not in fake_trtexec.calls(program)[0]


@pytest.mark.parametrize(("version", "dla_core"), [((8, 6, 0), None), ((10, 3, 0), 0), ((10, 3, 0), None)])
def test_what_is_only_timed_is_built_as_a_build_builds_it(tmp_path, monkeypatch, version, dla_core):
    trtexec, program = tool(tmp_path, version, dla_core=dla_core, dla=True)
    trtexec.precision = "fp16"
    monkeypatch.setattr(regions, "decoding_arithmetic", lambda model: ("/22/Add",))
    graph_ = convolutions(tmp_path / "m.onnx", half=version > (9,))
    compile_once(trtexec, graph_, tmp_path / "engines")
    kept = fake_trtexec.calls(program)[0].get("--layerPrecisions")
    assert kept == (None if version > (9,) and dla_core is None else "/22/Add:fp32")


def test_a_board_without_a_dla_in_its_tensorrt_is_told_before_it_builds(tmp_path):
    trtexec, program = tool(tmp_path, (10, 16, 1), dla_core=0, dla=True)
    with pytest.raises(DeviceError, match=r"TensorRT 10\.16\.1 has no DLA"):
        trtexec.engine_from_onnx(convolutions(tmp_path / "m.onnx", half=True), tmp_path / "m.engine", precision="fp16")
    assert fake_trtexec.calls(program) == []


def test_free_axes_are_built_for_one_size(tmp_path):
    trtexec, program = tool(tmp_path)
    free = convolutions(tmp_path / "m.onnx", shape=("n", 3, "h", "w"))
    trtexec.engine_from_onnx(free, tmp_path / "m.engine")
    assert fake_trtexec.calls(program)[-1]["--shapes"] == "images:1x3x32x48"  # imgsz of its metadata
    trtexec.layer_times(tmp_path / "m.engine")
    assert fake_trtexec.calls(program)[-1]["--shapes"] == "images:1x3x32x48"
    model = onnx.load(str(free))
    model.metadata_props.add(key="batch", value="4")  # the most that it was exported for: not what others are timed at
    onnx.save(model, str(free))
    trtexec.engine_from_onnx(free, tmp_path / "m.engine", free=FreeAxes(8))
    assert fake_trtexec.calls(program)[-1]["--shapes"] == "images:8x3x32x48"
    [found] = trtexec.latency([tmp_path / "m.engine"], replace(SHORT, batch=8))
    assert found.conditions.batch == 8
    with pytest.raises(DataError, match="this engine is of batch 8, asked was 1; build it for 1"):
        trtexec.latency([tmp_path / "m.engine"], replace(SHORT, batch=1))
    [found] = trtexec.latency([free], replace(SHORT, batch=2, imgsz=(64, 96)))
    assert found.conditions.shapes == {"images": (2, 3, 64, 96)}
    with pytest.raises(DataError, match="axis 0 fixed at 1, asked was 2; export it so"):
        trtexec.latency([convolutions(tmp_path / "fixed.onnx")], replace(SHORT, batch=2))
    del model.metadata_props[:]
    onnx.save(model, str(free))
    with pytest.raises(DataError, match="leaves axis 2 free"):
        trtexec.engine_from_onnx(free, tmp_path / "n.engine")
    assert not (tmp_path / "n.engine").exists()


@pytest.mark.parametrize(("log", "words"), [row[1:] for row in FAILURES[:6]], ids=[row[0] for row in FAILURES[:6]])
def test_a_build_that_fails_says_why_and_leaves_no_engine(tmp_path, log, words):
    trtexec, _ = tool(tmp_path, log=log)
    with pytest.raises(StageError) as raised:
        trtexec.engine_from_onnx(convolutions(tmp_path / "m.onnx"), tmp_path / "m.engine")
    assert words in str(raised.value)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["calls.jsonl", "m.engine.log", "m.onnx", "trtexec"]


def test_a_build_that_fails_keeps_its_whole_log(tmp_path):
    said = "\n".join(["[E] Error[9]: the cause", *(f"[I] line {number}" for number in range(50))])
    trtexec, _ = tool(tmp_path, log=said)
    with pytest.raises(StageError, match="the cause") as raised:
        trtexec.engine_from_onnx(convolutions(tmp_path / "m.onnx"), tmp_path / "m.engine")
    assert said in (tmp_path / "m.engine.log").read_text()
    assert isinstance(cause := raised.value.__cause__, ToolError) and said in cause.log


def test_an_asked_precision_must_be_in_the_graph(tmp_path):
    trtexec, _ = tool(tmp_path)
    with pytest.raises(StageError, match="asked for fp16, but its graph holds no fp16"):
        trtexec.engine_from_onnx(convolutions(tmp_path / "m.onnx"), tmp_path / "m.engine", precision="fp16")


def test_an_engine_of_another_device_or_version_is_refused(tmp_path):
    trtexec, program = tool(tmp_path)
    engine = tmp_path / "m.engine"
    trtexec.engine_from_onnx(convolutions(tmp_path / "m.onnx"), engine)
    fake_trtexec.install(tmp_path, (10, 13, 3))
    newer = TrtExec(Bench(), program=(str(program),))
    with pytest.raises(DeviceError, match=r"built elsewhere: runtime \(trtexec 10.3.0, here trtexec 10.13.3\)"):
        newer.latency([engine], SHORT)
    facts_path(engine).unlink()  # nothing kept: TensorRT itself refuses it
    with pytest.raises(ToolError, match=r"built by TensorRT 10.3.0, here is 10.13.3"):
        newer.layer_info(engine)
    engine.write_text("something else")
    with pytest.raises(ToolError, match="no TensorRT engine"):
        newer.layer_times(engine)


@pytest.mark.parametrize("known", [True, False])
def test_an_engine_with_ultralytics_header_goes_to_the_device_without_it(tmp_path, known):
    trtexec, _ = tool(tmp_path, (11, 1, 0))
    engine = tmp_path / "m.engine"
    trtexec.engine_from_onnx(convolutions(tmp_path / "m.onnx"), engine)
    text = json.dumps({"task": "detect", "names": {"0": "of the header"}}).encode()
    engine.write_bytes(len(text).to_bytes(4, "little") + text + engine.read_bytes())
    if not known:
        facts_path(engine).unlink()
        (tmp_path / "m.onnx").unlink()
    before = engine.read_bytes()
    assert trtexec.layer_info(engine) and trtexec.layer_times(engine)
    [found] = trtexec.latency([engine], SHORT)
    assert found.conditions.shapes
    with trtexec.session(engine) as session:
        assert session.run({"images": np.zeros((1, 3, 32, 32), np.float32)})
        assert session.metadata["task"] == "detect" and ("header" in session.metadata["names"]) is not known
    assert engine.read_bytes() == before


def test_facts_of_another_engine_are_refused(tmp_path):
    trtexec, _ = tool(tmp_path)
    engine = tmp_path / "m.engine"
    trtexec.engine_from_onnx(convolutions(tmp_path / "m.onnx"), engine)
    engine.write_bytes(engine.read_bytes() + b" ")
    with pytest.raises(DataError, match="belongs to another engine"):
        trtexec.layer_info(engine)
    facts_path(engine).write_text(json.dumps({"engine": 1}))
    with pytest.raises(DataError, match="cannot be read"):
        trtexec.layer_info(engine)


def test_layers_of_an_engine_without_facts_are_asked_of_the_device(tmp_path):
    trtexec, _ = tool(tmp_path, (11, 1, 0))
    engine = tmp_path / "m.engine"
    trtexec.engine_from_onnx(convolutions(tmp_path / "m.onnx"), engine)
    kept = trtexec.layer_info(engine)
    facts_path(engine).unlink()
    assert trtexec.layer_info(engine) == kept


@pytest.mark.parametrize("version", [*WEAK, *VERSIONS], ids=str)
def test_an_engine_without_facts_is_timed_as_what_it_is_and_refused_as_what_it_is_not(tmp_path, version):
    trtexec, _ = tool(tmp_path, version, takes="4x3x32x32")
    engine = tmp_path / "m.engine"
    trtexec.engine_from_onnx(convolutions(tmp_path / "m.onnx"), engine)
    facts_path(engine).unlink()
    [found] = trtexec.latency([engine], SHORT)
    assert found.conditions.batch == 4 and found.conditions.shapes == {"images": (4, 3, 32, 32)}
    with pytest.raises(DataError, match="this engine is of batch 4, asked was 8; build it for 8"):
        trtexec.latency([engine], replace(SHORT, batch=8))
    with pytest.raises(DataError, match="this engine takes 32 px, asked was 64 px; build it for that"):
        trtexec.latency([engine], replace(SHORT, imgsz=(64, 64)))
    small, _ = tool(tmp_path, version)
    [other] = small.latency([engine], SHORT)
    assert differing_conditions(found, other)


def test_an_engine_with_facts_is_refused_at_another_size_too(tmp_path):
    trtexec, program = tool(tmp_path)
    engine = tmp_path / "m.engine"
    trtexec.engine_from_onnx(convolutions(tmp_path / "m.onnx"), engine)
    with pytest.raises(DataError, match="this engine takes 32 px, asked was 32 × 64 px"):
        trtexec.latency([engine], replace(SHORT, imgsz=(32, 64)))
    assert not any("--exportTimes" in one for one in fake_trtexec.calls(program))  # before anything is timed


@pytest.mark.parametrize(
    ("gives", "beside", "order"),
    [
        (["output0"], False, ["output0"]),
        (["output1", "output0"], False, ["output0", "output1"]),  # Ultralytics' own names say it
        (["protos", "boxes"], True, ["boxes", "protos"]),
        (["protos", "boxes"], False, None),
    ],
)
def test_an_engine_without_facts_has_its_graphs_order_of_outputs_or_is_refused(tmp_path, gives, beside, order):
    trtexec, _ = tool(tmp_path, gives=gives)
    engine, source = tmp_path / "m.engine", convolutions(tmp_path / "source.onnx")
    trtexec.engine_from_onnx(source, engine)
    facts_path(engine).unlink()
    if beside:
        proto = onnx.load(source)
        del proto.graph.output[:]
        for name in order:
            proto.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        onnx.save(proto, engine.with_suffix(".onnx"))
    if order is None:
        said = r"\(protos, boxes\) are its graph's; put its ONNX file beside it as m.onnx"
        with pytest.raises(DataError, match=said), trtexec.session(engine):
            pass
        return
    with trtexec.session(engine) as session:
        assert session.input_names == ["images"] and session.output_names == order


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("version", [(8, 6, 0), (10, 3, 0), (11, 1, 0)], ids=str)
def test_an_engine_without_facts_is_fed_what_it_takes(tmp_path, version, half):
    """TensorRT takes a file of twice the size, and reads float32 as twice as many float16."""
    trtexec, program = tool(tmp_path, version, half=half)
    engine, image = tmp_path / "foreign.engine", np.linspace(0, 1, 3 * 32 * 32, dtype=np.float32).reshape(1, 3, 32, 32)
    trtexec.engine_from_onnx(convolutions(tmp_path / "m.onnx"), engine)
    facts_path(engine).unlink()
    before = len(fake_trtexec.calls(program))
    with trtexec.session(engine) as session:
        for _ in range(2):
            found = session.run({"images": image})["output0"]
            np.testing.assert_allclose(found.ravel(), 2 * image.ravel(), rtol=1e-3)
    asked = [call for call in fake_trtexec.calls(program)[before:] if "--loadInputs" in call]
    assert len(asked) == (2 if version[0] >= 11 else 3)  # its type is asked once, and of 11 never


@pytest.mark.parametrize(
    ("takes", "beside", "ways", "words"),
    [
        ("1x3x32x32", True, {"any_size": True}, ""),
        ("1x3x32x32", "free", {"any_size": True}, ""),  # of another exporter, which does not say a size
        ("1x3x32x32", False, {"any_size": True}, r"which type its inputs \(images\) have; put its ONNX .* m.onnx"),
        ("1x3x32x33", True, {"shown": "1x3x32x32"}, "of shape 1x3x32x32 takes 6336 bytes, .* neither float32 nor"),
    ],
)
def test_an_engine_whose_type_nothing_tells_is_refused(tmp_path, takes, beside, ways, words):
    trtexec, _ = tool(tmp_path, half=True, takes=takes, **ways)
    engine, image = tmp_path / "m.engine", np.ones((1, 3, 32, 32), np.float32)
    trtexec.engine_from_onnx(convolutions(tmp_path / "source.onnx"), engine)
    facts_path(engine).unlink()
    if beside:
        shape = ("n", 3, "h", "w") if beside == "free" else (1, 3, 32, 32)
        graph = onnx.load(str(convolutions(engine.with_suffix(".onnx"), half=True, shape=shape)))
        del graph.metadata_props[:]
        onnx.save(graph, str(engine.with_suffix(".onnx")))
    with trtexec.session(engine) as session:
        if not words:
            assert set(session.run({"images": image})["output0"].ravel()) == {2.0}
            return
        with pytest.raises(DataError, match=words):
            session.run({"images": image})


def test_an_engine_of_a_type_that_is_not_fed_is_refused(tmp_path):
    trtexec, _ = tool(tmp_path)
    session = _TrtExecSession(
        trtexec, "", Path("m.engine"), _DeviceEngine("", None, Bindings({"x": (1,)}, ("output0",), {"x": "BF16"}))
    )
    with pytest.raises(DataError, match="its input x is of type BF16, allowed: FLOAT, HALF"):
        session.run({"x": np.zeros(1, np.float32)})


@pytest.mark.parametrize("version", [(8, 6, 0), (10, 3, 0), (11, 1, 0)], ids=str)
def test_of_an_input_that_is_not_fed_no_type_is_asked(tmp_path, version):
    """An input of int64 beside the image's, as RT-DETR's ``orig_target_sizes``: trtexec fills it."""
    trtexec, _ = tool(tmp_path, version, sizes=True)
    engine, image = tmp_path / "m.engine", np.ones((1, 3, 32, 32), np.float32)
    trtexec.engine_from_onnx(convolutions(tmp_path / "source.onnx"), engine)
    facts_path(engine).unlink()
    with trtexec.session(engine) as session:
        assert session.input_names == ["images", "sizes"]
        assert set(session.run({"images": image})["output0"].ravel()) == {2.0}


def test_a_type_that_is_no_float_is_that_of_the_graph_beside_where_it_is_of_that_size(tmp_path):
    trtexec, _ = tool(tmp_path, takes="1x3x32x64", shown="1x3x32x32")  # 8 bytes a value
    engine = tmp_path / "m.engine"
    trtexec.engine_from_onnx(convolutions(tmp_path / "source.onnx"), engine)
    facts_path(engine).unlink()
    model = onnx.load(str(convolutions(engine.with_suffix(".onnx"))))
    for kind, refused in ((onnx.TensorProto.INT64, False), (onnx.TensorProto.UINT8, True)):
        model.graph.input[0].type.tensor_type.elem_type = kind
        onnx.save(model, str(engine.with_suffix(".onnx")))
        with trtexec.session(engine) as session:
            assert isinstance(session, _TrtExecSession)
            if not refused:
                assert session._input_types(["images"]) == {"images": "int64"}
                continue
            with pytest.raises(DataError, match=r"takes 24576 bytes, .* put its ONNX file beside it as m\.onnx"):
                session._input_types(["images"])


@pytest.mark.parametrize("beside", [True, False])
def test_a_run_that_fails_says_nothing_of_types(tmp_path, beside):
    trtexec, _ = tool(tmp_path, fails="Error[2]: [defaultAllocator.cpp] Requested size was 9 bytes. out of memory")
    engine = tmp_path / "m.engine"
    trtexec.engine_from_onnx(convolutions(tmp_path / "source.onnx"), engine)
    facts_path(engine).unlink()
    if beside:
        convolutions(engine.with_suffix(".onnx"))
    with trtexec.session(engine) as session, pytest.raises(ToolError, match="memory"):
        session.run({"images": np.ones((1, 3, 32, 32), np.float32)})


def test_whatever_loads_an_engine_takes_the_board_for_itself(tmp_path):
    trtexec, _ = tool(tmp_path)
    engine = tmp_path / "m.engine"
    trtexec.engine_from_onnx(convolutions(tmp_path / "m.onnx"), engine)
    with trtexec.session(engine) as session:
        session.run({"images": np.zeros((1, 3, 32, 32), np.float32)})
    facts_path(engine).unlink()
    trtexec.layer_info(engine)
    trtexec.layer_times(engine, runs=3)
    assert isinstance(trtexec.device, Bench) and set(trtexec.device.beside_the_lock) == {"--help"}


@pytest.mark.parametrize(
    ("version", "jetpack"),
    [((8, 4, 1), "5.1"), ((8, 2, 1), "5.1"), ((8, 7, 0), "6.1"), ((10, 2, 0), "6.1"), ((12, 0, 0), "")],
    ids=str,
)
def test_an_unknown_version_is_not_available(tmp_path, version, jetpack):
    """A Xavier has no JetPack behind 5.1; what lies between the known ones is of no Jetson, and 6.1 has the next."""
    trtexec, _ = tool(tmp_path, version)
    found = trtexec.availability()
    assert not found.ok and "10.3 and newer of 10, and 11" in found.detail
    too_new = not jetpack
    assert found.remedy == ("update edgeprune" if too_new else f"install JetPack {jetpack} or newer")
    found = TrtExec(Desktop((), ()), program=trtexec._programs[0]).availability()
    assert "Jetson" not in found.detail and "JetPack" not in found.remedy and "apt" not in found.remedy
    assert found.remedy.startswith("update edgeprune" if too_new else "install one of them; the profile names its")


def test_a_device_that_is_lost_is_no_missing_program(tmp_path, monkeypatch):
    trtexec, _ = tool(tmp_path)

    def lose(*_: object, **__: object) -> None:
        raise DeviceError("bench: the connection was lost; check it with: ssh bench true")

    monkeypatch.setattr(trtexec.device, "run", lose)
    with pytest.raises(DeviceError, match="the connection was lost"):
        trtexec.availability()


class Desktop(Bench):
    """A machine that is no board, with these GPUs for nvidia-smi and these files of GPUs in /dev."""

    def __init__(self, gpus: tuple[Gpu, ...], nodes: tuple[str, ...]) -> None:
        super().__init__()
        self.gpus, self.nodes = gpus, nodes

    def _look(self) -> DeviceFacts:
        return replace(super()._look(), l4t="", gpus=self.gpus, gpu_nodes=self.nodes)


@pytest.mark.parametrize(
    ("gpus", "nodes", "ok"),
    [
        ((), (), False),
        ((Gpu("NVIDIA H100", "9.0", "580", None),), (), True),
        ((), ("nvidia0",), True),  # a container without nvidia-smi
    ],
)
def test_trtexec_on_a_machine_without_a_gpu_is_not_usable(tmp_path, gpus, nodes, ok):
    program = fake_trtexec.install(tmp_path, (8, 6, 0))
    found = TrtExec(Desktop(gpus, nodes), program=(str(program),)).availability()
    assert found.ok == ok and found.detail.startswith(f"trtexec 8.6.0 at {program} on bench")
    assert ("nvidia-smi finds no NVIDIA GPU" in found.detail) == (not ok) and found.remedy == (
        "" if ok else "nvidia-smi"
    )


def test_a_trtexec_that_does_not_end_is_not_called_missing(tmp_path, monkeypatch):
    trtexec, program = tool(tmp_path)
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    monkeypatch.setattr("edgeprune.runtimes.trtexec_.VERSION_TIMEOUT_S", 0.2)
    found = trtexec.availability()
    assert not found.ok and "does not say its version" in found.detail and "--help" in found.remedy


LOADER = (
    "trtexec: error while loading shared libraries: libnvinfer.so.10: cannot open shared object file: No such file or "
    "directory"
)


def script(path: Path, *lines: str, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("place", "lines", "mode", "why", "remedy"),
    [
        (
            *("opt/TensorRT-10.3/bin", (f"echo '{LOADER}' >&2; exit 127",), 0o755),
            "trtexec needs libnvinfer.so.10, which the loader",
            "sudo ldconfig {lib}, or in the profile: device.trtexec: [env, LD_LIBRARY_PATH={lib}, {program}]",
        ),
        (
            *("own/bin", (f"echo '{LOADER}' >&2; exit 127",), 0o755),
            "trtexec needs libnvinfer.so.10, which the loader",
            "sudo ldconfig FOLDER, or in the profile: device.trtexec: [env, LD_LIBRARY_PATH=FOLDER, {program}], with",
        ),
        (
            "own",
            ("echo 'sh: exec: x: Permission denied' >&2; exit 126",),
            0o755,
            "Permission denied",
            "{program} --help",
        ),
        ("own", (), 0o644, "it may not be executed", "sudo chmod +x {program}"),
    ],
)
def test_a_trtexec_that_is_there_and_does_not_start_is_not_called_missing(tmp_path, place, lines, mode, why, remedy):
    program = script(tmp_path / place / "trtexec", *lines, mode=mode)
    found = TrtExec(Bench(), program=(str(program),)).availability()
    assert not found.ok and "has no trtexec" not in found.detail
    assert f"trtexec on bench does not start, by {program}: " in found.detail and why in found.detail
    lib = program.parent.parent / "lib"
    assert found.remedy.startswith(remedy.format(lib=lib, program=program))
    with pytest.raises(Refused) as refused:  # in a carried folder
        find_trtexec([str(program)])
    assert f"trtexec does not start here, by {program}: " in str(refused.value)
    assert f"next: {remedy.format(lib=lib, program=program)}" in str(refused.value)


def test_of_a_wrapper_that_may_not_be_executed_the_wrapper_is_named(tmp_path):
    wrapper, program = script(tmp_path / "wrapper", 'exec "$@"', mode=0o644), script(tmp_path / "trtexec")
    remedy = f"sudo chmod +x {wrapper}"
    assert TrtExec(Bench(), program=(str(wrapper), str(program))).availability().remedy == remedy
    with pytest.raises(Refused, match=re.escape(f"next: {remedy}") + "$"):  # in a carried folder
        find_trtexec([str(wrapper), str(program)])


def test_a_trtexec_that_does_not_start_is_passed_over_where_another_one_does(tmp_path):
    broken = script(tmp_path / "broken" / "trtexec", f"echo '{LOADER}' >&2; exit 127")
    trtexec, program = tool(tmp_path)
    trtexec._programs = ((str(broken),), (str(program),))
    assert trtexec.find_program() == ((str(program),), (10, 3, 0))


def test_a_wrapper_that_starts_nothing_says_why(tmp_path):
    found = TrtExec(Bench(), program=("env", "A=1", str(tmp_path / "none"))).availability()
    assert not found.ok and "No such file or directory" in found.detail and "has no trtexec" not in found.detail


def test_a_trtexec_that_is_not_looked_for_is_named(tmp_path, monkeypatch):
    unpacked = script(tmp_path / "TensorRT-10.3" / "bin" / "trtexec", "echo '[TensorRT v100300]'")
    nothing, places = (str(tmp_path / "none"),), (str(tmp_path / "TensorRT*/bin/trtexec"),)
    monkeypatch.setattr("edgeprune.agent.trtexec.BESIDE", places)
    for module in ("edgeprune.agent.trtexec", "edgeprune.runtimes.trtexec_"):
        monkeypatch.setattr(f"{module}.PROGRAMS", nothing)
    device = Bench()
    found = TrtExec(device).availability()
    assert "bench has no trtexec" in found.detail and found.remedy == f"in the profile, device.trtexec: {unpacked}"
    with pytest.raises(Refused, match=f"there is no trtexec here; .* says device.trtexec: {unpacked}"):
        find_trtexec()
    rows = {one.subject: one for one in examine_device(device)}
    assert rows["trtexec 1 of 1"].state.endswith(f"in the profile: device.trtexec: {unpacked}")
    assert not any(row.state.endswith("; taken") for row in rows.values())
    assert rows["runtime trtexec"].required and not rows["runtime trtexec"].usable


def test_of_several_trtexecs_the_one_is_called_taken_that_is(tmp_path, monkeypatch):
    broken = script(tmp_path / "system" / "trtexec", f"echo '{LOADER}' >&2; exit 127")
    started = fake_trtexec.install(tmp_path)
    for module in ("edgeprune.agent.trtexec", "edgeprune.runtimes.trtexec_"):
        monkeypatch.setattr(f"{module}.PROGRAMS", (str(broken), str(started)))
    rows = {one.subject: one for one in examine_device(Bench())}
    assert rows["trtexec 1 of 2"].state.endswith(f"at {started} on bench; taken")
    assert rows["trtexec 2 of 2"].state.endswith(f"device.trtexec: {broken}") and not rows["trtexec 2 of 2"].usable


def test_a_device_without_trtexec_is_not_available(tmp_path):
    trtexec = TrtExec(Bench(), program=(str(tmp_path / "none"),))
    found = trtexec.availability()
    assert not found.ok and "bench has no trtexec" in found.detail and "nvidia-jetpack" in found.remedy
    assert "device.trtexec" in found.detail
    with pytest.raises(DeviceError, match="next: sudo apt install nvidia-jetpack"):
        trtexec.engine_from_onnx(convolutions(tmp_path / "m.onnx"), tmp_path / "m.engine")
    with pytest.raises(DataError, match="does not exist"):
        tool(tmp_path)[0].latency([tmp_path / "none.engine"], SHORT)


@pytest.mark.parametrize(
    ("version", "asked", "held", "built"),
    [
        ((10, 3, 0), "fp16", "fp32", "fp32"),  # strongly typed: the graph's own, whatever the profile says
        ((10, 3, 0), "fp32", "int8-fp16", "int8-fp16"),
        ((8, 6, 0), "fp16", "fp32", "fp16"),
        ((8, 6, 0), "fp32", "fp16", "fp16"),
        ((8, 6, 0), "fp16", "int8", "int8"),  # the builder has to be allowed what the graph asks for
        ((8, 6, 0), "int8-fp16", "int8", "int8-fp16"),
    ],
)
def test_what_an_engine_of_a_graph_that_is_only_timed_is_built_in(version, asked, held, built):
    trtexec = TrtExec(Bench(), precision=asked)
    trtexec._trtexec = (("trtexec",), version)
    assert trtexec.precision_of_engine(held) == built


def test_a_graph_that_is_only_timed_has_its_own_number_format_in_its_engine(tmp_path):
    trtexec, _ = tool(tmp_path)
    half = convolutions(tmp_path / "half.onnx", half=True)
    engine = compile_once(trtexec, half, tmp_path / "engines")
    assert engine == tmp_path / "engines" / "half.engine"
    assert read_facts(engine).precision == "fp16"
    assert compile_once(trtexec, engine, tmp_path / "engines") == engine


def test_a_graph_in_bfloat16_is_called_that_by_its_engine(tmp_path):
    trtexec, _ = tool(tmp_path)
    source = convolutions(tmp_path / "m.onnx")
    proto = onnx.load(source)
    proto.graph.initializer.append(onnx.helper.make_tensor("low", onnx.TensorProto.BFLOAT16, (1, 1), [0.0]))
    onnx.save(proto, source)
    assert read_facts(compile_once(trtexec, source, tmp_path / "engines")).precision == "bf16"
