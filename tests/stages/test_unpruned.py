"""What the engine that ships is held against has its number format: a ratio speaks of the pruning alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeprune.artifact import Artifact, Role
from edgeprune.carry import out as carry
from edgeprune.dataset import Dataset
from edgeprune.export import mixed
from edgeprune.export.result import MixedInfo, PrecisionInfo
from edgeprune.measure import compiling
from edgeprune.records.facts import FallbackFacts, PrecisionChoice, QuantizeFacts
from edgeprune.records.gates import gates_again
from edgeprune.runtimes.base import Availability
from edgeprune.samples.gates import Verdict
from edgeprune.stages import engine
from edgeprune.stages.base import Build, SilentBuild, Weights
from edgeprune.stages.unpruned import unpruned_onnx
from edgeprune.target import load_target
from edgeprune.workspace import Key, Record, Workspace
from tests.records.sample import accuracy, build_record, row
from tests.search.devices import StandIn, stand_in_site
from tests.stages.test_precision_choice import graph

INT8_TIME = 1.25  # of INT8 on the made-up CPU, in units of FP32's
FORMATS = ("baseline", "plainer", "mixed")


class Meter(StandIn):
    """A made-up CPU on which INT8 is slower, and that tells which engines it was asked about."""

    def __init__(self) -> None:
        super().__init__(2.0, 0.0, half=INT8_TIME**0.5)
        self.asked: dict[str, list[Path]] = {"layers": [], "energy": []}

    def layer_times(self, model: Path, **options: Any) -> Any:
        self.asked["layers"].append(model)
        return super().layer_times(model, **options)

    def energy(self, models: Any, settings: Any, *, progress: Any = None) -> None:
        self.asked["energy"] += models


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The tools are stood in for: what a checkpoint exports to, and which layers went back to float."""
    returned: list[tuple[str, ...]] = []

    def to_float(site: Any, files: Any, dataset: Any, layers: Any) -> None:
        returned.append(tuple(layers))
        graph(files.onnx, quantized=False)

    def low(target: Any, onnx: Path, to: Path, *_: Any) -> None:
        graph(to, quantized=True)

    monkeypatch.setattr(compiling, "_export_simplified", lambda target, model, onnx: graph(onnx, quantized=False))
    monkeypatch.setattr(compiling, "convert_precision", low)
    monkeypatch.setattr(compiling, "_convert_with_float_layers", to_float)
    monkeypatch.setattr("edgeprune.measure.accuracy.measure_artifact", _measured)
    monkeypatch.setattr("edgeprune.measure.per_image.load_per_image", lambda path: None)
    monkeypatch.setattr(engine, "drop_interval", lambda *_, **__: None)
    return returned


def _measured(site: Any, onnx: Path, built: Any, dataset: Any, per_image: Path) -> Any:
    per_image.write_bytes(b"")
    return accuracy(0.55)


def build_that_ships(folder: Path, shipped: str, *, usable: bool = True) -> Build:
    """A build in INT8 before its engine stage; ``shipped`` is one of FORMATS."""
    target = load_target("cpu").changed({"precision": "int8"}).with_overrides(speed_up=1.1)
    site = stand_in_site(target, Meter())
    site = site if usable else replace(site, availability=Availability(False, "not here"))
    data = Dataset(folder / "data.yaml", folder, "detect", {0: "a"}, {"val": ()})
    files = {
        name: graph(folder / f"{name}.onnx", quantized=quantized)
        for name, quantized in (("baseline", True), ("int8", True), ("float", False))
    }
    choice = PrecisionChoice("int8", "fp32", 1 / INT8_TIME, 0.5, 0.55, "fp32", "") if shipped == "plainer" else None
    back = (
        MixedInfo(("conv",), 2, {"conv": 1.0}, 0.4, 0.55, 0.5, True, (), None, None, "") if shipped == "mixed" else None
    )
    quantize = QuantizeFacts(
        PrecisionInfo("int8", "cpu", 60, (), 64, "entropy", 1, 1),
        FallbackFacts(0.4, "mAP50-95", 0.5, back, ""),
        1,
        choice,
    )
    stages, onnx = build_record().stages, files["int8" if shipped == "baseline" else "float"]
    model = folder / "model.pt"
    model.write_bytes(b"")
    size = files["baseline"].stat().st_size - 100_000  # another format's
    facts = replace(stages.baseline.facts, onnx_bytes=size, engine_bytes=size if usable else None)
    records: dict[str, Any] = {
        "baseline": (
            facts,
            {"model": model, "onnx": files["baseline"], "engine": files["baseline"], "per_image": model},
        ),
        "prune": (stages.prune.facts, {}),
        "simplify": (stages.simplify.facts, {"onnx": files["float"]}),
        "quantize": (quantize, {"onnx": onnx}),
    }
    finished = {
        name: Record(Key(name, {}), folder, {role: Artifact(path, role) for role, path in made.items()}, told, 0.0, "")
        for name, (told, made) in records.items()
    }
    weights = Weights(model, "", "detect")
    return Build(site, weights, data, False, Workspace(folder), SilentBuild(), "next", finished)


def finished_engine(build: Build, folder: Path) -> Record[Any]:
    """Run the stage, and note its record."""
    folder.mkdir()
    output = engine.STAGE.run(build, folder, Key("engine", {}))
    artifacts: dict[Role, Artifact] = {role: Artifact(path, "") for role, path in output.artifacts.items()}
    record = Record(Key("engine", {}), folder, artifacts, output.facts, 0.0, "")
    build.records["engine"] = record
    return record


@pytest.mark.parametrize("shipped", FORMATS)
def test_ratio_layers_energy_and_size_are_of_one_number_format(
    shipped: str, exported: list[tuple[str, ...]], tmp_path: Path
) -> None:
    build = build_that_ships(tmp_path, shipped)
    record = finished_engine(build, tmp_path / "engine")
    judged = engine.STAGE.judge(build, record)
    rows = {gate.metric: gate for gate in judged.gates}
    # one model held against itself: where the number format were in the ratio, it would be ×1.25
    assert rows["speed-up"].value == pytest.approx(1.0, rel=0.02)
    assert rows["speed-up"].verdict is Verdict.FAIL
    runtime = build.site.runtime
    assert isinstance(runtime, Meter)
    against = record.path("unpruned_engine") if shipped != "baseline" else tmp_path / "baseline.onnx"
    assert runtime.asked == {name: [against, record.path("engine")] for name in ("layers", "energy")}
    assert runtime.timed == [(str(against), str(record.path("engine")))]
    assert exported == ([("conv",)] if shipped == "mixed" else [])
    if shipped == "baseline":
        assert record.facts.unpruned is None
        return
    form = {"plainer": "fp32", "mixed": "int8 with 1 layer in float"}[shipped]
    assert record.facts.unpruned.text == form
    assert rows["speed-up"].reason.endswith(f"the unpruned model in {form} too")
    assert rows["size"].verdict is Verdict.PASS and f"than the unpruned one in {form}," in rows["size"].reason


@pytest.mark.parametrize("shipped", FORMATS[1:])
def test_the_gates_that_are_made_again_know_the_format(shipped: str, exported: Any, tmp_path: Path) -> None:
    build = build_that_ships(tmp_path, shipped)
    made = finished_engine(build, tmp_path / "engine")
    baseline, quantize = (build.records[name].facts for name in ("baseline", "quantize"))
    record = build_record()
    stages = replace(record.stages, baseline=row(baseline), quantize=row(quantize), engine=row(made.facts))
    again = {gate.metric: gate for gate in gates_again(replace(record, target=build.target, stages=stages))}
    [size] = [gate for gate in engine.STAGE.judge(build, made).gates if gate.metric == "size"]
    assert again["size"] == size and size.verdict is Verdict.PASS


def test_a_carried_folder_and_its_size_are_of_one_number_format(exported: Any, tmp_path: Path) -> None:
    build = build_that_ships(tmp_path, "mixed", usable=False)
    record = finished_engine(build, tmp_path / "engine")
    [size] = [gate for gate in engine.STAGE.judge(build, record).gates if gate.metric == "ONNX size"]
    assert size.verdict is Verdict.PASS
    assert carry.unpruned_onnx(build) == unpruned_onnx(build) == record.path("unpruned_onnx")


def test_the_unpruned_model_of_another_format_is_in_the_key(tmp_path: Path) -> None:
    keys = {shipped: engine.STAGE.inputs(build_that_ships(tmp_path, shipped)) for shipped in FORMATS}
    assert "unpruned" not in keys["baseline"]
    assert keys["mixed"]["unpruned"]["float_layers"] == ("conv",)
    assert keys["plainer"]["unpruned"]["precision"] == "fp32"
    assert all(keys[shipped]["source.baseline.model"] == "model" for shipped in FORMATS[1:])


@pytest.mark.parametrize("half", [False, True])
def test_layers_go_back_before_a_graph_is_cast_and_it_is_calibrated_once(
    half: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def convert(target: Any, onnx: Path, to: Path, dataset: Any, seed: int, precision: str | None = None) -> None:
        asked.append(precision)
        graph(to, quantized=True)

    def back(source: Path, low: Path, output: Path, layers: Any, *, half: bool) -> None:
        asked.append((source.name, low.name, output.name, tuple(layers), half))
        graph(output, quantized=True)

    monkeypatch.setattr(compiling, "_export_simplified", lambda target, model, onnx: graph(onnx, quantized=False))
    monkeypatch.setattr(compiling, "convert_precision", convert)
    monkeypatch.setattr(mixed, "with_float_layers", back)
    precision = "int8-fp16" if half else "int8"
    site: Any = SimpleNamespace(
        target=load_target("desktop-cuda").changed({"precision": precision}), usable=False, seed=0
    )
    files = compiling.compile_checkpoint(site, tmp_path / "m.pt", tmp_path, float_layers=("a", "b"))
    name = files.onnx.name
    assert asked == ["int8" if half else None, ("model.onnx", "low.onnx", name, ("a", "b"), half)]
    assert files.onnx.is_file() and not (tmp_path / "low.onnx").exists()
    # a graph that is there already is converted no more, but where it is cast
    asked.clear()
    source, place = files.onnx_fp32, tmp_path / "place.onnx"
    low = compiling.graph_for_float_layers(site.target, source, place, None, 0, converted=files.onnx)
    assert low == ((place, True) if half else (files.onnx, False)) and asked == (["int8"] if half else [])
