"""`edgeprune bench`: what it measures, when it measures again, how it ends, what it refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import typer
from typer.testing import CliRunner

from edgeprune.cli.bench import _cpus, _print, sparkline
from edgeprune.cli.bench import bench as command
from edgeprune.cli.compare import compare
from edgeprune.devices.here import Here
from edgeprune.devices.local import LocalDevice
from edgeprune.devices.remote import RemoteDevice
from edgeprune.errors import DataError, DeviceError, TargetError, ToolError
from edgeprune.export.quantize import quantize_onnx
from edgeprune.measure import other_work
from edgeprune.measure.bench import NMS_ON_NOISE, bench, bench_graphs
from edgeprune.measure.graphs import nms_inside
from edgeprune.progress import Silent
from edgeprune.report.bench import COLUMNS, bench_table, bench_title, end_to_end_text
from edgeprune.runtimes import all_runtimes
from edgeprune.runtimes import runtime as runtime_named
from edgeprune.runtimes.base import AS_EXPORTED, Availability, BenchSettings, FreeAxes
from edgeprune.runtimes.engine_file import EngineFacts, write_facts
from edgeprune.runtimes.jobs import EndToEndTimes
from edgeprune.runtimes.layer_info import Layer
from edgeprune.runtimes.onnxruntime_ import OnnxRuntime
from edgeprune.runtimes.site import Site
from edgeprune.samples.conditions import CoreState, DeviceState
from edgeprune.samples.gates import Verdict, fail_confidence, latency_gate, pass_confidence
from edgeprune.samples.measurement import Measurement, core_speed_up_of, latency_bounds, speed_up_of
from edgeprune.samples.statistics import bounds
from edgeprune.samples.text import ceiled
from edgeprune.serial import to_json
from edgeprune.target import load_target
from tests.runtimes.models import convolutions
from tests.samples.made import latency
from tests.situations import datasets, graphs, models

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(command)


class Scripted(OnnxRuntime):
    """Latencies from a list of levels in ms, one entry an attempt; notes the rounds that were asked for."""

    def __init__(self, *attempts: float | np.ndarray) -> None:
        super().__init__()
        self.attempts = list(attempts)
        self.rounds: list[int] = []

    def latency(self, models: Sequence[Path], settings: BenchSettings, *, progress=None) -> list[Measurement]:
        self.rounds.append(settings.rounds)
        level = self.attempts[len(self.rounds) - 1]
        count = settings.rounds * settings.per_round
        shape = np.interp(np.linspace(0, 1, count), np.linspace(0, 1, np.size(level)), np.ravel(level))
        generator = np.random.default_rng(len(self.rounds))
        return [latency(shape * generator.normal(1 + i, 0.02, count)) for i in range(len(models))]


def grey(path: Path) -> Path:
    """A model of one grey image."""
    one = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, (1, 1, 32, 32))
    other = onnx.helper.make_tensor_value_info("output0", onnx.TensorProto.FLOAT, (1, 1, 32, 32))
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["images"], ["output0"])], "grey", [one], [other])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return convolutions(tmp_path / "small.onnx")


def test_two_models_side_by_side(model: Path, tmp_path: Path) -> None:
    large = convolutions(tmp_path / "large.onnx", width=64, depth=4)
    result = bench_graphs([large, model], OnnxRuntime(), BenchSettings(warmup_s=0.05, rounds=20, per_round=3))
    first, second = result.models
    assert first.speed_up is None
    pair = first.latency, second.latency
    given = {"speed_up": speed_up_of(*pair), "cpu_speed_up": core_speed_up_of(*pair)}
    for name, ratio in given.items():  # that of these samples, in this direction
        assert ratio is not None and getattr(second, name).ratio == ratio.ratio
        assert getattr(first, name) is None
    assert first.layers[0].mean_ms == max(layer.mean_ms for layer in first.layers)
    assert first.energy is None  # nothing here tells the power of a core
    assert first.memory is not None and first.size_bytes == large.stat().st_size
    assert result.exit_code == 0 and result.gates == []
    assert all(len(row) == len(COLUMNS) for row in bench_table(result).rows)
    assert result.to_csv().count("\n") == 1 + 2 * 60
    data = json.loads(json.dumps(to_json(result), allow_nan=False))
    assert data["models"][1]["latency"]["values"] == list(second.latency.values)


def test_checkpoints_of_one_name_are_told_apart_by_their_own_paths(tmp_path: Path) -> None:
    """What is timed is exported to a folder that is gone afterwards; nobody asked about that."""
    files = []
    for number, folder in enumerate(("a", "b")):
        (tmp_path / folder).mkdir()
        files.append(models.saved(models.model(), tmp_path / folder / "best.pt", train_args={"imgsz": 64, "n": number}))
    settings = BenchSettings(warmup_s=0.01, rounds=2, per_round=2)
    result = bench("cpu", files, settings=settings, imgsz=64, details=False)
    assert result.names == ["a/best.pt", "b/best.pt"]
    rows = json.loads(json.dumps(to_json(result), allow_nan=False))["models"]
    assert [row["model"] for row in rows] == [str(file) for file in files]
    assert [row["size_bytes"] for row in rows] == [file.stat().st_size for file in files]
    assert {row["timed"] for row in rows} == {"graph exported from it"}
    assert {line.split(",")[0] for line in result.to_csv().splitlines()[1:]} == {str(file) for file in files}


def test_an_energy_is_shown_with_its_ends(model: Path) -> None:
    class Metered(Scripted):
        def energy(self, models, settings, *, progress=None):
            taken = replace(latency((5.0, 6.0, 5.5, 5.2, 5.8, 5.1)), name="energy", unit="mJ")
            return [taken for _ in models]

        def layer_times(self, model, *, threads=1, runs=30, free=AS_EXPORTED, cpus=()):
            return []

    result = bench_graphs([model], Metered(10.0))
    assert "5.2 (5 to 6) mJ" in bench_table(result).rows[0]
    assert "–" in bench_table(bench_graphs([model], Metered(10.0), details=False)).rows[0]


@pytest.mark.parametrize(("weak", "built"), [(False, ["fp32", "fp16"]), (True, ["int8", "int8"])])
def test_a_graph_is_built_once_and_all_that_is_told_is_of_that_engine(
    model: Path, tmp_path: Path, weak: bool, built: list[str]
) -> None:
    class Builder(Scripted):
        suffix = ".engine"

        def __init__(self, *attempts: float | np.ndarray) -> None:
            super().__init__(*attempts)
            self.built: list[str] = []
            self.asked: dict[Path, list[str]] = {}

        def precision_of_engine(self, held):
            return "int8" if weak else held

        def engine_from_onnx(self, onnx, engine, *, precision="fp32", keep_float=(), free=AS_EXPORTED):
            self.built.append(precision)
            engine.write_bytes(b"plan")

        def note(self, question, *models):
            for path in models:
                assert path.read_bytes() == b"plan"
                self.asked.setdefault(path, []).append(question)

        def latency(self, models, settings, *, progress=None):
            self.note("latency", *models)
            return super().latency(models, settings)

        def energy(self, models, settings, *, progress=None):
            self.note("energy", *models)
            return [replace(latency((5.0, 6.0, 5.5, 5.2, 5.8, 5.1)), name="energy", unit="mJ") for _ in models]

        def layer_times(self, model, *, threads=1, runs=30, free=AS_EXPORTED, cpus=()):
            self.note("layers", model)
            return []

        def peak_memory(self, model, *, threads=1, free=AS_EXPORTED):
            self.note("memory", model)

    half = convolutions(tmp_path / "half.onnx", half=True)
    runtime = Builder(np.array([10, 13]), np.array([10, 13]), 10.0)
    result = bench_graphs([model, half], runtime, max_ms=12, statistic="p50", retries=2)
    assert runtime.built == built
    assert list(runtime.asked.values()) == [["latency"] * result.attempts + ["energy", "layers", "memory"]] * 2
    assert [row.model for row in result.models] == [model, half]
    assert not any(path.exists() for path in runtime.asked)


def test_models_of_different_number_formats_are_told_apart(model: Path, tmp_path: Path) -> None:
    half = convolutions(tmp_path / "half.onnx", half=True)
    mixed = bench_graphs([model, half], Scripted(10.0), details=False)
    column = COLUMNS.index("format")
    assert [row[column] for row in bench_table(mixed).rows] == ["fp32", "fp16"]
    [warning] = mixed.notes
    assert "small.onnx in fp32, half.onnx in fp16" in warning
    assert bench_graphs([half, half], Scripted(10.0), details=False).notes == ()


def test_an_engine_has_the_format_of_its_facts_and_without_them_none(tmp_path: Path) -> None:
    known, unknown = tmp_path / "known.engine", tmp_path / "unknown.engine"
    for engine in (known, unknown):
        engine.write_bytes(b"plan")
    write_facts(known, EngineFacts("trtexec 10.3.0", {}, "int8", (), (), {}, ()))
    result = bench_graphs([known, unknown], Scripted(10.0), details=False)
    assert [row.precision for row in result.models] == ["int8", ""] and result.notes == ()


def test_a_detail_that_cannot_be_had_costs_no_verdict(model: Path) -> None:
    class Leaving(Scripted):
        def energy(self, models, settings, *, progress=None):
            raise ToolError(["trtexec"], 1, "out of memory")

        def layer_times(self, model, *, threads=1, runs=30, free=AS_EXPORTED, cpus=()):
            raise DeviceError("orin: the connection was lost")

    result = bench_graphs([model], Leaving(10.0), max_ms=20, statistic="p50")
    assert result.exit_code == 0 and result.models[0].layers == () and result.models[0].energy is None
    assert result.models[0].memory is not None
    assert result.notes == (
        "no energy: trtexec exited with 1: out of memory",
        "no layers of small.onnx: orin: the connection was lost",
    )
    assert to_json(result)["notes"] == list(result.notes)


def test_layers_that_the_profiler_does_not_see_are_told_to_be_missing(model: Path) -> None:
    class Launching(Scripted):
        def layer_times(self, model, *, threads=1, runs=30, free=AS_EXPORTED, cpus=()):
            return []  # ONNX Runtime on a GPU, built without CUPTI

    result = bench_graphs([model], Launching(10.0))
    assert result.models[0].layers == () and result.models[0].memory is not None
    [note] = result.notes
    assert note.startswith("no layers of small.onnx: this ONNX Runtime tells how long its host took to launch")


def test_a_time_to_boxes_that_cannot_be_had_costs_no_verdict(model: Path) -> None:
    class Leaving(Scripted):
        def end_to_end(self, model, settings, *, image=None, runs=50):
            raise DeviceError("orin: OpenCV is missing")

    result = bench_graphs([model], Leaving(10.0), max_ms=20, statistic="p50", details=False, end_to_end=True)
    assert result.exit_code == 0 and result.models[0].end_to_end is None
    assert result.notes == ("no time from frame to boxes of small.onnx: orin: OpenCV is missing",)


def test_a_frame_alone_asks_for_the_time_to_boxes_and_may_be_named_by_text(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path | None] = []

    class Looking(Scripted):
        def end_to_end(self, model, settings, *, image=None, runs=50):
            asked.append(image)
            raise DeviceError("seen")

    site = Site(load_target("cpu"), Looking(10.0), LocalDevice(), Availability(True, ""), Silent())
    monkeypatch.setattr(sys.modules[bench.__module__], "open_site", lambda *_, **__: nullcontext(site))
    (tmp_path / "text.jpg").write_text("x")
    with pytest.raises(DataError, match="OpenCV does not decode it"):
        bench("cpu", model, image=str(tmp_path / "text.jpg"), details=False)
    frame = tmp_path / "frame.png"
    frame.write_bytes(cv2.imencode(".png", np.zeros((48, 64, 3), np.uint8))[1].tobytes())
    bench("cpu", model, image=str(frame), details=False)
    assert asked == [frame]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"data": "data.yaml"}, "data: calibrates int8, and precision is fp32; it is for graphs with NMS inside too"),
        ({"data": "data.yaml", "precision": "fp16"}, "data: calibrates int8, and precision is fp16"),
        ({"statistic": "p99"}, "statistic: is what max_ms is on, and none is given; leave it out"),
        ({"retries": 3}, "retries: is for a limit, max_ms, or until_stable, and neither is given; leave it out"),
    ],
)
def test_what_would_change_nothing_is_refused_from_python_too(model: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(TargetError, match=f"^{re.escape(said)}"):
        bench("cpu", model, **given)


@pytest.mark.parametrize(
    ("shape", "task", "image", "said"),
    [
        ((1, 3, 32, 32), "detect", "gone.jpg", "gone.jpg cannot be read: there is no such file"),
        ((1, 3, 32, 32), "detect", "text.jpg", "text.jpg cannot be read: OpenCV does not decode it"),
        ((1, 3, 32, 32), "classify", None, "--end-to-end is for detectors, this is classify; leave it out"),
        ((4, 3, 32, 32), "detect", None, r"is of one RGB image, this takes \[4, 3, 32, 32\]; leave it out, or --batch"),
        ((1, 1, 32, 32), "detect", None, r"is of one RGB image, this takes \[1, 1, 32, 32\]"),
        (("n", 3, 32, 32), "detect", None, r"is of one RGB image, this takes \[2, 3, 32, 32\]"),
    ],
)
def test_what_no_time_to_boxes_can_be_had_of_is_refused_before_anything_is_measured(
    tmp_path: Path, shape: tuple[int | str, ...], task: str, image: str | None, said: str
) -> None:
    path = convolutions(tmp_path / "m.onnx", shape=shape) if shape[1] == 3 else grey(tmp_path / "m.onnx")
    proto = onnx.load(path)
    onnx.helper.set_model_props(proto, {**{one.key: one.value for one in proto.metadata_props}, "task": task})
    onnx.save(proto, path)
    (tmp_path / "text.jpg").write_text("x")
    runtime, settings = Scripted(10.0), BenchSettings(batch=0 if isinstance(shape[0], int) else 2)
    with pytest.raises(DataError, match=said):
        bench_graphs([path], runtime, settings, end_to_end=True, image=tmp_path / image if image else None)
    assert runtime.rounds == []


@pytest.mark.parametrize(
    ("limit", "verdict", "exit_code"),
    [(20.0, Verdict.PASS, 0), (5.0, Verdict.FAIL, 1), (10.0, Verdict.INCONCLUSIVE, 5)],
)
def test_a_limit_decides_the_exit_code(model: Path, limit: float, verdict: Verdict, exit_code: int) -> None:
    result = bench_graphs([model], Scripted(10.0), max_ms=limit, statistic="p50", details=False)
    assert [gate.verdict for gate in result.gates] == [verdict]
    assert result.exit_code == exit_code


def test_the_worst_model_decides(model: Path) -> None:
    result = bench_graphs([model, model], Scripted(10.0), max_ms=15, statistic="p50", details=False)
    assert [gate.verdict for gate in result.gates] == [Verdict.PASS, Verdict.FAIL]
    assert result.exit_code == 1


def test_inconclusive_is_measured_again_with_twice_the_samples(model: Path) -> None:
    runtime = Scripted(np.array([10, 13]), np.array([10, 13]), 10.0)
    result = bench_graphs([model], runtime, max_ms=12, statistic="p50", retries=3, details=False)
    assert runtime.rounds == [60, 120, 240]
    assert result.attempts == 3 and result.exit_code == 0


def test_until_stable_goes_on_without_a_limit(model: Path) -> None:
    runtime = Scripted(np.array([10, 13]), 10.0)
    assert bench_graphs([model], runtime, retries=2, until_stable=True, details=False).attempts == 2
    assert (
        bench_graphs([model], Scripted(np.array([10, 13])), retries=0, until_stable=True, details=False).attempts == 1
    )


def test_rounds_suffice_for_the_statistic(model: Path) -> None:
    runtime = Scripted(10.0)
    assert bench_graphs([model], runtime, max_ms=50, statistic="p99", details=False).exit_code == 0
    assert runtime.rounds[0] * 5 >= 662


@pytest.mark.parametrize(
    ("name", "said"),
    [("model.pt", "next: edgeprune export"), ("model.txt", "was expected"), ("gone.onnx", "does not exist")],
)
def test_what_is_no_model_is_refused(tmp_path: Path, name: str, said: str) -> None:
    if not name.startswith("gone"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=said):
        bench_graphs([tmp_path / name], OnnxRuntime())


def test_one_path_is_a_model_and_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.onnx does not exist"):
        bench("cpu", str(tmp_path / "gone.onnx"))
    with pytest.raises(TargetError, match="no model was given"):
        bench("cpu", [])


@pytest.mark.parametrize(
    "arguments",
    [["--max-ms", "nan"], ["--max-ms", "-1"], ["--statistic", "median"], ["--retries", "-1"], ["--rounds", "0"]]
    + [["--precision", "fp8"], ["--precision", "int8"], ["--launches", "0"], ["--warmup-runs", "-1"]]
    + [["--cpus", "x"], ["--cpus", "99999"], ["--runtime", "openvino"], ["--seconds", "nan"]],
)
def test_bad_arguments_are_one_line(model: Path, arguments: list[str]) -> None:
    done = CliRunner().invoke(app, [str(model), *arguments])
    if isinstance(done.exception, TargetError):
        assert "\n" not in str(done.exception)
    else:  # out of the range that an option's help shows
        assert done.exit_code == 2 and arguments[0] in done.output


IGNORED = {
    "--threads": ("--threads", "2"),
    "--cpus": ("--cpus", "0"),
    "--launches": ("--launches", "2"),
    "--warmup-runs": ("--warmup-runs", "5"),
    "--no-priority": ("--no-priority",),
    "--end-to-end": ("--end-to-end",),
    "--image": ("--image", "frame.jpg"),
}


@pytest.mark.parametrize("option", IGNORED)
@pytest.mark.parametrize("how", [("--runtime", "trtexec"), ("--target", "jetson-orin"), ("--runtime", "tensorrt")])
def test_an_option_that_the_runtime_would_not_follow_is_refused(
    model: Path, option: str, how: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[BenchSettings] = []

    def took(*_: object, settings: BenchSettings, **__: object) -> None:
        asked.append(settings)
        raise DeviceError("the benchmark began")

    monkeypatch.setattr("edgeprune.measure.bench.bench", took)
    done = CliRunner().invoke(app, [str(model), *how, *IGNORED[option]])
    if how[1] == "tensorrt" and option in ("--cpus", "--warmup-runs"):  # its own process can
        assert asked and isinstance(done.exception, DeviceError)
        return
    runtime = "tensorrt" if how[1] == "tensorrt" else "trtexec"
    assert isinstance(done.exception, TargetError) and not asked
    assert str(done.exception).startswith(f"{option}: the runtime {runtime} does not use it; leave it out")


def test_compare_refuses_such_an_option_too(model: Path) -> None:
    comparing = typer.Typer(pretty_exceptions_enable=False)
    comparing.command()(compare)
    arguments = [str(model), str(model), "--data", "none.yaml", "--target", "jetson-orin", "--threads", "2"]
    done = CliRunner().invoke(comparing, arguments)
    assert isinstance(done.exception, TargetError) and "--threads: the runtime trtexec" in str(done.exception)


def test_every_option_that_a_runtime_does_not_use_is_refused_and_onnxruntime_uses_all() -> None:
    unused = {runtime.name: runtime.unused_options for runtime in all_runtimes()}
    assert set().union(*unused.values()) == set(IGNORED)
    assert {name for name, options in unused.items() if options} == {"tensorrt", "trtexec"}


def test_cpus_are_those_of_where_it_runs(model: Path, tmp_path: Path) -> None:
    more = "4090"  # of a device that has more than this machine
    assert _cpus(f"0,{more}", here=False) == (0, int(more))
    for text in ("x", "-1", ""):
        with pytest.raises(TargetError, match="the device's numbers, as 2,3"):
            _cpus(text, here=False)
    with pytest.raises(DataError, match=rf"--cpus 0,{more}: give numbers out of .* the CPUs of {os.uname().nodename}"):
        OnnxRuntime().latency([model], BenchSettings(rounds=2, warmup_s=0.0, cpus=(0, int(more))))
    home = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "EDGEPRUNE_LOCK": str(tmp_path / "lock")}
    with RemoteDevice(Here("user@board", {**os.environ, **home}), python=sys.executable) as device:
        there = runtime_named("onnxruntime", device)
        with pytest.raises(DataError, match=rf"--cpus {more}: give numbers out of .* the CPUs of "):
            there.latency([model], BenchSettings(rounds=2, warmup_s=0.0, cpus=(int(more),)))


def test_a_limit_is_judged_and_everything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convolutions(tmp_path / "model.onnx", width=32)
    convolutions(tmp_path / "pruned.onnx")
    monkeypatch.chdir(tmp_path)
    arguments = ["model.onnx", "pruned.onnx", "--max-ms", "500", "--statistic", "p50"]
    done = CliRunner().invoke(
        app, [*arguments, "--json", "out.json", "--csv", "out.csv", "--rounds", "20", "--warmup-s", "0.1"]
    )
    assert done.exit_code in (0, 5), done.output  # 5: a busy machine may be unsteady, it is never a FAIL at 500 ms
    assert "pruned.onnx" in done.output
    assert [row["model"] for row in json.loads(Path("out.json").read_text())["models"]] == ["model.onnx", "pruned.onnx"]
    assert Path("out.csv").read_text().startswith("model,sample,ms\nmodel.onnx,0,")


def test_another_precision_is_a_copy_of_the_graph(model: Path) -> None:
    onnx.save(onnx.shape_inference.infer_shapes(onnx.load(str(model))), str(model))
    options = [
        "--precision",
        "fp16",
        "--no-priority",
        "--json",
        "-",
        "--no-details",
        "--rounds",
        "9",
        "--warmup-runs",
        "3",
    ]
    done = CliRunner().invoke(app, [str(model), *options, "--warmup-s", "0", "--per-round", "4"])
    assert done.exit_code == 0, done.output
    [row] = json.loads(done.stdout)["models"]
    assert row["model"] == str(model) and row["size_bytes"] == model.stat().st_size
    assert (row["timed"], row["precision"]) == ("fp16 copy of it", "fp16")
    assert row["latency"]["conditions"]["launches"] == [12, 12, 12]
    assert row["latency"]["conditions"]["worker"]["nice"] == os.getpriority(os.PRIO_PROCESS, 0)
    assert len(row["latency"]["warmups"]) >= 3 * 3


@pytest.mark.parametrize(
    ("target", "runtime", "recipe"),
    [
        ("cpu", "onnxruntime", "cpu"),
        ("cpu", "onnxruntime-cuda", "tensorrt"),  # --runtime takes the place of the profile's
        ("cpu", "trtexec", "tensorrt"),
        ("desktop-cuda", "onnxruntime", "cpu"),
        ("jetson-orin-nano", "onnxruntime", "cpu"),
        ("desktop-cuda", "onnxruntime-cuda", "tensorrt"),
        ("desktop-tensorrt", "tensorrt", "tensorrt"),
        ("jetson-orin-nano", "trtexec", "tensorrt"),
    ],
)
def test_int8_is_made_for_what_times_it(
    model: Path, monkeypatch: pytest.MonkeyPatch, target: str, runtime: str, recipe: str
) -> None:
    """TensorRT's parser refuses what ONNX Runtime's CPU kernels are given: unsigned activations, quantised biases."""
    asked: list[str] = []

    def quantize(graph: Path, low: Path, **options: Any) -> None:
        asked.append(options["recipe"])
        low.write_bytes(graph.read_bytes())

    used = Scripted(10.0)
    used.name = runtime
    monkeypatch.setattr(sys.modules[quantize_onnx.__module__], "quantize_onnx", quantize)
    site = Site(load_target(target), used, LocalDevice(), Availability(True, ""), Silent())
    monkeypatch.setattr(sys.modules[bench.__module__], "open_site", lambda *_, **__: nullcontext(site))
    bench(target, [model], runtime=runtime, precision="int8", data="data.yaml", details=False)
    assert asked == [recipe]


def test_json_alone_on_stdout_and_vs_goes_first(model: Path, tmp_path: Path) -> None:
    other = convolutions(tmp_path / "other.onnx")
    options = ["--vs", str(other), "--json", "-", "--no-details", "--rounds", "2", "--warmup-s", "0.01"]
    done = CliRunner().invoke(app, [str(model), *options])
    assert done.exit_code == 0
    assert [row["model"] for row in json.loads(done.stdout)["models"]] == [str(other), str(model)]


def test_a_target_sets_what_is_not_given(model: Path) -> None:
    options = [
        "--target",
        "demo",
        "--max-ms",
        "500",
        "--json",
        "-",
        "--no-details",
        "--rounds",
        "4",
        "--threads",
        "2",
        "--launches",
        "1",
        "--warmup-s",
        "0.05",
    ]
    done = CliRunner().invoke(app, [str(model), *options])
    assert done.exit_code in (0, 5), done.output
    [row] = json.loads(done.stdout)["models"]
    assert row["gate"]["metric"] == "latency p50"  # the profile's statistic
    assert row["latency"]["conditions"]["threads"] == 2


@pytest.fixture(scope="module")
def with_nms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return graphs.stock(models.answering(models.model()), tmp_path_factory.mktemp("nms") / "nms.onnx", nms=True)


@pytest.mark.parametrize("limit", [100.0, 1.0])
def test_a_limit_on_nms_that_was_timed_on_noise_is_inconclusive(with_nms: Path, model: Path, limit: float) -> None:
    result = bench_graphs([model, with_nms], Scripted(10.0), max_ms=limit, retries=0, details=False)
    plain, inside = result.gates
    assert plain.verdict is (Verdict.PASS if limit > 10 else Verdict.FAIL)
    assert inside.verdict is Verdict.INCONCLUSIVE and "--data DATASET.yaml" in inside.reason
    assert result.notes == (f"{with_nms.name}: {NMS_ON_NOISE}",)
    images = BenchSettings(images=lambda shape: np.zeros(shape, np.float32))
    result = bench_graphs([model, with_nms], Scripted(10.0), images, max_ms=limit, retries=0, details=False)
    assert inside.verdict is not result.gates[1].verdict is plain.verdict and not result.notes


def test_a_checkpoint_that_is_exported_with_nms_is_timed_on_images_of_the_data(tmp_path: Path) -> None:
    weights, data = models.saved(models.model(), tmp_path / "m.pt"), datasets.dataset(tmp_path / "data", "detect")
    (tmp_path / "mine.yaml").write_text("extends: cpu\nimgsz: 64\nexport: {nms: true}\n")
    argv = [str(weights), "--data", str(data), "--no-details", "--rounds", "2", "--warmup-s", "0.01", "--json", "-"]
    done = CliRunner().invoke(app, [*argv, "--target", str(tmp_path / "mine.yaml")])
    assert done.exit_code == 0, (done.output, done.exception)
    assert json.loads(done.stdout)["models"][0]["latency"]["conditions"]["images"] is True
    done = CliRunner().invoke(app, argv)
    assert isinstance(done.exception, TargetError) and "here is none" in str(done.exception)


def test_nms_inside_is_timed_on_images_of_the_data(with_nms: Path, model: Path, tmp_path: Path) -> None:
    data = datasets.dataset(tmp_path / "data", "detect")
    options = ["--no-details", "--rounds", "2", "--warmup-s", "0.01", "--json", "-"]
    for more, images in ((["--data", str(data)], True), ([], False)):
        done = CliRunner().invoke(app, [str(with_nms), *options, *more])
        assert done.exit_code == 0, done.output
        said = json.loads(done.stdout)
        assert said["models"][0]["latency"]["conditions"]["images"] is images
        assert any(NMS_ON_NOISE in note for note in said["notes"]) is not images
    done = CliRunner().invoke(app, [str(model), *options, "--data", str(data)])
    assert isinstance(done.exception, TargetError) and "NMS inside" in str(done.exception)


def test_what_holds_nms_is_told_from_what_does_not(with_nms: Path, model: Path, tmp_path: Path) -> None:
    bare = onnx.load(str(with_nms))
    del bare.metadata_props[:]
    onnx.save(bare, str(tmp_path / "bare.onnx"))
    engine = tmp_path / "model.engine"
    engine.write_bytes(b"engine")
    write_facts(engine, EngineFacts("", {}, "fp32", (), (), {"args": "{'nms': True}"}, ()))
    for path in (with_nms, tmp_path / "bare.onnx", engine):
        assert nms_inside(path)
    for path in (model, tmp_path / "none.onnx", tmp_path / "model.pt"):
        assert not nms_inside(path)


def test_sparkline() -> None:
    assert sparkline([]) == ""
    assert sparkline([1, 1]) == "▁▁"
    assert sparkline([1, 2, 3]) == "▁▅█"
    assert len(sparkline(list(range(100)))) == 40


@pytest.mark.parametrize(
    ("shape", "batch", "imgsz", "told"),
    [
        (("n", 3, "h", "w"), 0, None, FreeAxes(4, (64, 96))),  # the profile's
        (("n", 3, "h", "w"), 2, (32, 32), FreeAxes(2, (32, 32))),  # what was said
        ((1, 3, 32, 32), 0, None, FreeAxes()),  # the graph's own
        (("n", 3, 32, 32), 0, None, FreeAxes(4)),
    ],
)
def test_a_profile_fills_axes_that_a_graph_leaves_free_in_every_question(
    shape: tuple[int | str, ...],
    batch: int,
    imgsz: Any,
    told: FreeAxes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, FreeAxes] = {}

    class Asked(Scripted):
        def latency(self, models, settings, *, progress=None):
            asked["latency"] = settings.free
            return super().latency(models, settings)

        def layer_times(self, model, *, threads=1, runs=30, free=AS_EXPORTED, cpus=()):
            asked["layers"] = free
            return []

        def peak_memory(self, model, *, threads=1, free=AS_EXPORTED):
            asked["memory"] = free

    target = load_target("cpu").changed({"batch": 4, "imgsz": [64, 96]})
    site = Site(target, Asked(10.0), LocalDevice(), Availability(True, ""), Silent())
    monkeypatch.setattr("edgeprune.measure.bench.open_site", lambda *_, **__: nullcontext(site))
    settings = BenchSettings(batch=batch, imgsz=imgsz)
    bench(target, [convolutions(tmp_path / "m.onnx", shape=shape)], settings=settings)
    assert asked == dict.fromkeys(("latency", "layers", "memory"), told)


def test_onnxruntime_times_layers_and_memory_in_the_batch_that_is_asked(tmp_path: Path) -> None:
    free = convolutions(tmp_path / "m.onnx", shape=("n", 3, "h", "w"), width=32)
    runtime = OnnxRuntime()
    small, large = (
        sum(layer.median_ms for layer in runtime.layer_times(free, runs=5, free=FreeAxes(batch, (160, 160))))
        for batch in (1, 8)
    )
    assert large > 3 * small


def test_models_of_different_batches_are_told_apart(tmp_path: Path) -> None:
    free, fixed = (convolutions(tmp_path / f"{n}.onnx", shape=(n, 3, 32, 32)) for n in ("n", 4))
    brief = BenchSettings(rounds=4, per_round=1, warmup_s=0)
    notes = bench_graphs([free, fixed], OnnxRuntime(), brief, details=False).notes
    assert any("different batches (n.onnx of 1, 4.onnx of 4)" in note for note in notes), notes
    alike = bench_graphs([free, free], OnnxRuntime(), brief, details=False).notes
    assert not any("batches" in note for note in alike)


def test_models_of_different_sizes_are_told_apart(tmp_path: Path) -> None:
    small, large = (convolutions(tmp_path / f"{side}.onnx", shape=(1, 3, side, side)) for side in (32, 64))
    brief = BenchSettings(rounds=4, per_round=1, warmup_s=0)
    notes = bench_graphs([large, small], OnnxRuntime(), brief, details=False).notes
    assert any("different sizes (64.onnx 64 px, 32.onnx 32 px)" in note for note in notes), notes
    assert not any("sizes" in note for note in bench_graphs([small, small], OnnxRuntime(), brief, details=False).notes)


def test_figures_of_an_engine_that_fell_off_the_dla_are_said_to_be_the_gpus(tmp_path: Path) -> None:
    engine = tmp_path / "mine.engine"
    engine.write_bytes(b"plan")
    layer = Layer("/model.0/conv/Conv", "CaskConvolution", "fp16", "gpu", "multiplies")
    facts = EngineFacts("trtexec 10.3.0", {}, "fp16", (), (), {}, (layer,), dla_core=1)
    write_facts(engine, facts)
    told = bench_graphs([engine], Scripted(10.0), details=False).notes
    assert told == ("mine.engine: no layer of the engine is on DLA core 1: all of it fell back to the GPU",)
    write_facts(engine, replace(facts, layers=(replace(layer, placed="dla"),)))
    assert bench_graphs([engine], Scripted(10.0), details=False).notes == ()


def test_a_bench_that_was_too_hot_pauses_before_it_measures_again(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hot(Scripted):
        def latency(self, models: Sequence[Path], settings: BenchSettings, *, progress=None) -> list[Measurement]:
            found = super().latency(models, settings, progress=progress)
            state = DeviceState(throttled=True, throttled_why="gpu-throttle-alert was at work")
            return [replace(one, conditions=replace(one.conditions, device=state)) for one in found]

    slept: list[float] = []
    monkeypatch.setattr(other_work.time, "sleep", slept.append)
    said: list[str] = []
    bench_graphs(
        [model], Hot(10.0, 10.0), max_ms=11.0, retries=1, details=False, progress=lambda text, **_: said.append(text)
    )
    assert slept == [other_work.COOLING_S] and any("so that it cools" in text for text in said)


HOT = DeviceState(throttled=True, throttled_why="gpu-throttle-alert was at work")
DISTURBED: dict[str, dict[str, Any]] = {
    "the device throttled during the run: gpu-throttle-alert was at work; give it a fan": {"device": HOT},
    "the model had only 60% of a core: other work ran on the machine; measure again": {
        "core": CoreState(share=0.6, contended=True)
    },
}


class Under(Scripted):
    """The same, its last model under other conditions in the first attempts."""

    def __init__(self, attempts: int, disturbed: int, **conditions: Any) -> None:
        super().__init__(*[10.0] * attempts)
        self.disturbed, self.conditions = disturbed, conditions

    def latency(self, models: Sequence[Path], settings: BenchSettings, *, progress=None) -> list[Measurement]:
        *others, last = super().latency(models, settings, progress=progress)
        if len(self.rounds) <= self.disturbed:
            last = replace(last, conditions=replace(last.conditions, **self.conditions))
        return [*others, last]


@pytest.mark.parametrize("why", DISTURBED)
def test_a_disturbed_run_is_not_called_steady_and_not_taken_for_stable(
    model: Path, tmp_path: Path, why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(other_work.time, "sleep", lambda _: None)
    shutil.copy(model, other := tmp_path / "other.onnx")
    reason = why.partition(";")[0]
    result = bench_graphs([model, other], Under(1, 1, **DISTURBED[why]), details=False)
    assert [one.state for one in result.models] == ["steady", reason]
    assert [row[-1] for row in bench_table(result).rows] == ["steady", reason]
    assert [line for line in result.notes if line.startswith(f"other.onnx: {why}")]
    _print(result)
    assert why in " ".join(capsys.readouterr().out.split())
    runtime = Under(3, 2, **DISTURBED[why])
    again = bench_graphs([model, other], runtime, retries=4, until_stable=True, details=False)
    assert again.attempts == 3 and [one.disturbed for one in again.models] == ["", ""]
    first = bench_graphs([model, other], Reversed(1, 1, **DISTURBED[why]), details=False)
    assert first.models[1].disturbed == f"its ratio to the first: {reason}"


class Reversed(Under):
    """The same, its first model under other conditions."""

    def latency(self, models: Sequence[Path], settings: BenchSettings, *, progress=None) -> list[Measurement]:
        return super().latency(models, settings, progress=progress)[::-1]


def test_a_doubt_is_told_and_measures_nothing_again(model: Path) -> None:
    runtime = Under(1, 1, device=DeviceState(clocks="free", clocks_doubt="the clocks stayed free: not allowed"))
    result = bench_graphs([model], runtime, retries=3, until_stable=True, details=False)
    assert result.attempts == 1 and result.models[0].state == "steady; the clocks stayed free: not allowed"


@pytest.mark.parametrize("statistic", ["p50", "p95"])
def test_the_bound_in_the_table_is_the_one_that_its_gate_rests_on(model: Path, statistic: str) -> None:
    result = bench_graphs([model], Scripted(10.0), max_ms=30, statistic=statistic, retries=2, details=False)
    [one] = result.models
    high = getattr(one.summary, f"{statistic}_bound")
    assert high == latency_bounds(one.latency, statistic, pass_confidence(2)).high
    assert high > bounds(one.latency.values, statistic, 0.99).high  # the margin of another process is in it
    at = latency_gate("bench", one.latency, high, statistic, pass_confidence(2), fail_confidence(2))
    under = latency_gate("bench", one.latency, high * 0.9999, statistic, pass_confidence(2), fail_confidence(2))
    assert (at.verdict, under.verdict) == (Verdict.PASS, Verdict.INCONCLUSIVE)
    assert "one-sided bounds at 99.8%" in bench_title(result)
    assert "one-sided bounds at 99%" in bench_title(bench_graphs([model], Scripted(10.0), details=False))
    assert one.gate is not None and ceiled(high, 30.0, "g", 4) in one.gate.reason
    assert f"(≤ {ceiled(high, digits=2)})" in bench_table(result).rows[0][1 if statistic == "p50" else 3]


def test_medians_of_parts_are_not_said_to_add_up() -> None:
    times = EndToEndTimes((1.0, 9.0, 1.0), (10.0, 10.0, 30.0), (5.0, 1.0, 1.0), 3, (480, 640))
    said = end_to_end_text(times)
    assert "p50 20.00 ms; medians of its parts: pre 1.00, model 10.00, post 1.00 " in said and "=" not in said
