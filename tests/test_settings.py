"""What a setting is by default, and what it may be, is said once: by its class in edgeprune.settings."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

import edgeprune
from docs.pages import commands
from edgeprune.cli import app
from edgeprune.devices.local import LocalDevice
from edgeprune.errors import TargetError
from edgeprune.export.int8 import quantize_to_int8
from edgeprune.export.parity import parity
from edgeprune.export.quantize import quantize_onnx
from edgeprune.measure import bench as bench_module
from edgeprune.measure import graphs
from edgeprune.measure.bench import sampling_settings
from edgeprune.runtimes.base import BenchSettings
from edgeprune.runtimes.onnxruntime_ import OnnxRuntime
from edgeprune.settings import Calibration, Measuring, Sampling, field_names
from edgeprune.target import default_target, load_target
from tests.export.helpers import saved, stock_model
from tests.runtimes.models import convolutions


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return convolutions(tmp_path / "m.onnx")


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detector")
    edgeprune.export(saved(stock_model("yolov8", "detect"), folder / "m.pt"), folder / "m.onnx", imgsz=64)
    return folder / "m.onnx"


def help_of(command: str) -> str:
    return " ".join(CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "400"}).output.split())


@pytest.mark.parametrize("function", [quantize_onnx, quantize_to_int8, edgeprune.quantize])
def test_calibration_is_everywhere_what_a_build_does_by_itself(function: Callable[..., Any]) -> None:
    taken = {name: one.default for name, one in inspect.signature(function).parameters.items()}
    own = asdict(load_target("cpu").calibration)
    assert own == asdict(Calibration()) and {"method", "percentile"} <= own.keys() & taken.keys()
    assert {
        name: taken[name] for name in own if taken.get(name, inspect.Parameter.empty) != inspect.Parameter.empty
    }.items() <= own.items()
    assert f"; {own['images']} if not given." in help_of("quantize")


def test_bench_calibrates_as_its_target_says(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def took(*_: object, **given: Any) -> None:
        asked.append(given)
        raise TargetError("calibration began")

    monkeypatch.setattr(sys.modules["edgeprune.export.quantize"], "quantize_onnx", took)
    target = load_target("cpu").changed({"calibration.images": 99, "calibration.method": "minmax"})
    for wanted in (target, load_target("cpu")):
        with pytest.raises(TargetError, match="began"):
            edgeprune.bench(wanted, [model], precision="int8", data="data.yaml")
        here = LocalDevice().facts()
        assert asdict(wanted.at_cpu(here.machine, here.isa).calibration).items() <= asked.pop().items()
    with pytest.raises(TargetError, match="began"):
        graphs.in_precision(model, model.parent / "low", "int8", "data.yaml", recipe="cpu")
    assert asdict(Calibration()).items() <= asked.pop().items()


def test_sampling_is_by_default_the_same_from_a_profile_a_command_and_python() -> None:
    def own(settings: Sampling) -> dict[str, Any]:
        return {name: getattr(settings, name) for name in field_names(Sampling)}

    assert own(Sampling()) == own(Measuring()) == own(edgeprune.BenchSettings()) == own(default_target().measure)
    assert own(sampling_settings(default_target())) == own(Sampling())
    for command in ("bench", "compare"):
        assert f"; the profile's, or {Sampling.rounds}." in help_of(command)


def test_what_holds_without_a_profile_is_told_by_every_option_as_it_is() -> None:
    without, measured = default_target(), default_target().measure
    holds = {name: getattr(measured, name) for name in ("threads", "warmup_s", "rounds", "per_round", "retries")}
    holds |= {"seconds": measured.time_limit_s, "batch": without.batch, "runtime": without.runtime}
    holds |= {"bench statistic": without.budget.statistic, "compare statistic": "p50", "split": "val"}
    told: dict[str, set[str]] = {}
    for command in ("bench", "compare", "val"):
        for option in commands()[command].params:
            for value in re.findall(r"the profile's, or ([\w.]+)[.;]", getattr(option, "help", None) or ""):
                name = option.opts[0].removeprefix("--").replace("-", "_")
                told.setdefault(f"{command} {name}" if name == "statistic" else name, set()).add(value)
    assert told == {name: {f"{value:g}" if isinstance(value, float) else str(value)} for name, value in holds.items()}


@pytest.mark.parametrize(
    ("retries", "options", "measured"),
    [(0, [], 1), (0, ["--until-stable"], 5), (1, ["--until-stable"], 2), (0, ["--until-stable", "--retries", "0"], 1)],
)
def test_as_often_as_the_help_says_a_benchmark_is_measured_again(
    retries: int, options: list[str], measured: int, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(bench_module, "bench_graphs", lambda *_, retries, **__: asked.append(retries) or 1 / 0)
    monkeypatch.setattr(
        "edgeprune.target.default_target", lambda: default_target().changed({"measure.retries": retries})
    )
    CliRunner().invoke(app, ["bench", str(model), "--max-ms", "500", *options])
    assert asked == [measured - 1]


OUT_OF_RANGE = {
    "threads": (-4, 1025),
    "warmup_s": (-1.0, 601.0, float("nan")),
    "rounds": (0, -1, 100_001, 2.5),
    "per_round": (0, 10_001),
    "time_limit_s": (-1.0, float("inf"), float("nan")),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in OUT_OF_RANGE.items() for value in values]
)
def test_a_profile_a_command_and_python_refuse_the_same(model: Path, name: str, value: Any) -> None:
    for refuse in (
        lambda: edgeprune.BenchSettings(**{name: value}),
        lambda: load_target("cpu").changed({f"measure.{name}": value}),
    ):
        with pytest.raises(TargetError, match=name) as refused:
            refuse()
        assert "\n" not in str(refused.value)
    flag = {"time_limit_s": "--seconds"}.get(name, f"--{name.replace('_', '-')}")
    done = CliRunner().invoke(app, ["bench", str(model), flag, str(value)])
    assert done.exit_code == 2 or isinstance(done.exception, TargetError)


@pytest.mark.parametrize("value", [1, 100_000])
def test_and_allow_the_same(value: int) -> None:
    assert edgeprune.BenchSettings(rounds=value).rounds == value
    assert load_target("cpu").changed({"measure.rounds": value, "measure.time_limit_s": 0}).measure.rounds == value


def test_a_file_may_be_named_by_text() -> None:
    assert edgeprune.TrainSettings(teacher="best.pt").teacher == Path("best.pt")
    assert edgeprune.BenchSettings(frames=("a.jpg", Path("b.jpg"))).frames == (Path("a.jpg"), Path("b.jpg"))
    for refuse in (
        lambda: edgeprune.TrainSettings(teacher=cast(Any, 3)),
        lambda: edgeprune.BenchSettings(frames=cast(Any, (3,))),
    ):
        with pytest.raises(TargetError, match=r"^(teacher=3|frames=\(3,\)): .*path") as refused:
            refuse()
        assert "\n" not in str(refused.value)


def test_a_measurement_of_the_most_rounds_may_be_made_again() -> None:
    longest = edgeprune.BenchSettings(rounds=100_000, per_round=5).longer(16)
    assert (longest.rounds, longest.per_round) == (100_000, 80), "more in a round"
    assert edgeprune.BenchSettings(rounds=30).longer(0.25).rounds == 8
    assert edgeprune.BenchSettings(rounds=30).longer().longer().effort == 4, "of a first look"


NO_NUMBERS: dict[str, Callable[[Path, Path], Any]] = {
    "bench retries": lambda m, out: edgeprune.bench("cpu", [m], retries=-1),
    "bench many retries": lambda m, out: edgeprune.bench("cpu", [m], retries=21),
    "bench imgsz": lambda m, out: edgeprune.bench("cpu", [m], imgsz=-32),
    "bench no imgsz": lambda m, out: edgeprune.bench("cpu", [m], imgsz=0),
    "bench statistic": lambda m, out: edgeprune.bench("cpu", [m], statistic="mean"),
    "bench max_ms": lambda m, out: edgeprune.bench("cpu", [m], max_ms=-1.0),
    "compare images": lambda m, out: edgeprune.compare([m, m], "none.yaml", images=-1),
    "compare statistic": lambda m, out: edgeprune.compare([m, m], "none.yaml", statistic="mean"),
    "compare imgsz": lambda m, out: edgeprune.compare([m, m], "none.yaml", imgsz=-1),
    "export batch": lambda m, out: edgeprune.export(m, out, batch=0),
    "export half a batch": lambda m, out: edgeprune.export(m, out, batch=1.5),  # type: ignore[arg-type]
    "export opset": lambda m, out: edgeprune.export(m, out, opset=99),
    "parity imgsz": lambda m, out: parity(m, m, [], imgsz=100),
    "parity no imgsz": lambda m, out: parity(m, m, [], imgsz=0),
    "quantize images": lambda m, out: edgeprune.quantize(m, out, precision="int8", data="none.yaml", images=0),
    "quantize percentile": lambda m, out: edgeprune.quantize(m, out, precision="int8", data="d", percentile=9999.0),
    "quantize method": lambda m, out: edgeprune.quantize(m, out, precision="int8", data="none.yaml", method="mean"),
    "simplify tolerance": lambda m, out: edgeprune.simplify(m, out, tolerance=float("nan")),
    "val batch": lambda m, out: edgeprune.val(m, data="none.yaml", batch=0),
    "val threads": lambda m, out: edgeprune.val(m, data="none.yaml", threads=-1),
    "val workers": lambda m, out: edgeprune.val(m, data="none.yaml", workers=-1),
    "val imgsz": lambda m, out: edgeprune.val(m, data="none.yaml", imgsz=0),
}


@pytest.mark.parametrize("call", NO_NUMBERS)
def test_a_number_out_of_range_is_refused_in_one_line(call: str, tmp_path: Path, detector: Path) -> None:
    with pytest.raises(TargetError) as refused:
        NO_NUMBERS[call](detector, tmp_path / "out.onnx")
    assert "\n" not in str(refused.value) and not (tmp_path / "out.onnx").exists()


OF_NO_EFFECT: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "a head of a graph": (
        lambda pt, onnx: edgeprune.val(onnx, data="none.yaml", head="raw"),
        "head: of m.onnx it was chosen when it was exported; leave it out",
    ),
    "a torch device of a graph": (
        lambda pt, onnx: edgeprune.val(onnx, data="none.yaml", device="0"),
        "device: is of a checkpoint, and a runtime runs m.onnx; leave it out",
    ),
    "a runtime of a checkpoint": (
        lambda pt, onnx: edgeprune.val(pt, data="none.yaml", runtime=OnnxRuntime()),
        "runtime: is for an exported file, and PyTorch runs a checkpoint; leave it out",
    ),
}


@pytest.mark.parametrize("call", OF_NO_EFFECT)
def test_what_val_would_not_hear_is_refused(call: str, detector: Path, model: Path) -> None:
    judged, said = OF_NO_EFFECT[call]
    with pytest.raises(TargetError) as refused:
        judged(detector.with_suffix(".pt"), model)
    assert str(refused.value) == said


@pytest.mark.parametrize(("least", "rounds", "per_round"), [(7, 60, 5), (900, 900, 5), (138_497, 100_000, 10)])
def test_what_is_computed_of_rounds_stays_in_the_bounds_of_what_is_given(
    least: int, rounds: int, per_round: int
) -> None:
    settings = BenchSettings(rounds=60, per_round=5).with_rounds(least)
    assert (settings.rounds, settings.per_round) == (rounds, per_round)
    assert settings.rounds * settings.per_round >= least * 5
