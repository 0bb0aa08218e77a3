"""What shapes a stage's result is in its key, and what does not is not: a stale result is worse than a lost hour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeprune.devices.local import LocalDevice
from edgeprune.errors import StageError
from edgeprune.measure import compiling
from edgeprune.runtimes.base import Availability
from edgeprune.runtimes.site import open_site
from edgeprune.scratch import LOCK, locked, sweep
from edgeprune.search.bench import SiteBench
from edgeprune.stages import baseline, engine, finetune, pretrain, prune, qat, quantize, simplify, sparsify
from edgeprune.stages.base import Build
from edgeprune.sweep import point
from edgeprune.target import load_target
from edgeprune.version import installed
from edgeprune.workspace import flat
from tests.stages.test_unpruned import build_that_ships

Changed = Callable[..., dict[str, Any]]


def build_with(folder: Path, *, seed: int = 0, fit: bool = True, usable: bool = True, **keys: Any) -> Build:
    """A build in INT8 on a made-up CPU, with other values of some keys of its profile."""
    build = build_that_ships(folder, "baseline", usable=usable)
    build.site.runtime.fit_for_dataset = fit
    build.site = replace(build.site, seed=seed, target=build.site.target.changed(keys) if keys else build.site.target)
    return build


def differing(folder: Path, stage: Any, first: dict[str, Any], second: dict[str, Any]) -> set[str]:
    """Names of the entries in which the keys of two builds differ."""
    one, other = (flat(stage.STAGE.inputs(build_with(folder, **keys))) for keys in (first, second))
    return {name for name in {*one, *other} if one.get(name) != other.get(name)}


@pytest.mark.parametrize(
    ("stage", "common", "changed", "entries"),
    [
        # INT8 is calibrated on images that the seed draws, and an engine that takes no dataset is compared on such
        (baseline, {}, {"seed": 1}, {"params.seed"}),
        (baseline, {"precision": "fp32"}, {"seed": 1}, set()),
        (baseline, {"precision": "fp32", "fit": False}, {"seed": 1}, {"params.seed"}),
        (baseline, {"precision": "fp32", "fit": False, "usable": False}, {"seed": 1}, set()),
        # more samples for a gate that could not tell cost no search and no training: what was chosen stays chosen
        (prune, {}, {"measure.retries": 5, "measure.rounds": 90, "measure.time_limit_s": 90.0}, set()),
        (prune, {}, {"prune.diagnose": False}, set()),
        # a number format is tried on as many images as calibrate
        (quantize, {}, {"calibration.images": 32}, {"params.calibration.images"}),
        (quantize, {"precision": "fp16"}, {"calibration.images": 32}, {"params.calibration.images"}),
        (quantize, {"precision": "fp16"}, {"calibration.method": "minmax"}, set()),
        (quantize, {}, {"measure.retries": 5, "measure.rounds": 90, "measure.time_limit_s": 90.0}, set()),
        (engine, {}, {"measure.retries": 5}, set()),
        # a training goes on elsewhere after the epochs that it has
        (pretrain, {}, {"pretrain.device": "0,1", "pretrain.workers": 3}, set()),
        (pretrain, {}, {"pretrain.train": {"cache": "ram"}}, {"params.train", "params.train.cache"}),
        (
            pretrain,
            {"imgsz": (64, 96)},
            {"pretrain.train": {"cache": "ram"}},
            {"params.train", "params.train.cache", "params.images"},
        ),
        (sparsify, {"sparsify.epochs": 2}, {"sparsify.device": "0"}, set()),
        (sparsify, {"sparsify.epochs": 2}, {"sparsify.batch": 5}, {"params.batch"}),
    ],
)
def test_a_key_has_what_shapes_the_result(
    stage: Any, common: dict[str, Any], changed: dict[str, Any], entries: set[str], tmp_path: Path
) -> None:
    assert differing(tmp_path, stage, common, {**common, **changed}) == entries


@pytest.mark.parametrize("stage", [baseline, quantize, engine])
def test_results_of_images_that_were_kept_in_a_drawn_order_are_measured_again(stage: Any, tmp_path: Path) -> None:
    """A classifier's; what was measured of any other model is reused."""
    entries = []
    for task in ("detect", "classify"):
        build = build_with(tmp_path)
        build.weights = replace(build.weights, task=task)
        entries.append({*flat(stage.STAGE.inputs(build))})
    assert entries[1] - entries[0] == {"params.order_of_images"}


def test_what_was_trained_until_a_goal_that_other_class_folders_set_is_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A classifier's with a goal; every other one is kept."""
    monkeypatch.setattr(Build, "source", lambda *_: {})
    with_it = []
    for task, until in (("detect", 0.01), ("classify", None), ("classify", 0.01)):
        build = build_with(tmp_path, **{"finetune.until": until})
        build.weights = replace(build.weights, task=task)
        if "params.class_folders" in flat(finetune.STAGE.inputs(build)):
            with_it.append((task, until))
    assert with_it == [("classify", 0.01)]


@pytest.mark.parametrize("stage", [finetune, qat])
def test_where_a_training_runs_is_in_no_key(stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Build, "source", lambda *_: {})
    name = stage.STAGE.name
    alike, other = {f"{name}.device": "0", f"{name}.workers": 3}, {f"{name}.lr0": 0.5}
    assert differing(tmp_path, stage, {f"{name}.epochs": 2}, {f"{name}.epochs": 2, **alike}) == set()
    assert differing(tmp_path, stage, {f"{name}.epochs": 2}, {f"{name}.epochs": 2, **other}) == {"params.lr0"}


def test_findings_of_lint_are_of_a_release(tmp_path: Path) -> None:
    def entries(tensorrt: str) -> dict[str, Any]:
        target = load_target("desktop-tensorrt").changed({"device.tensorrt": tensorrt})
        build = build_that_ships(tmp_path, "baseline", usable=False)
        build.site = replace(build.site, target=target)
        return flat(engine.STAGE.inputs(build))

    old, new = entries(">=10.3,<12"), entries(">=10.9,<12")
    assert {name for name in old if old[name] != new[name]} == {"params.lint.tensorrt"}


def test_how_int8_is_made_is_in_the_key_of_its_graph() -> None:
    cpu, gpu = (load_target(name).changed({"precision": "int8"}) for name in ("cpu", "desktop-tensorrt"))
    recipes = [compiling.graph_inputs(target, None, 0)["recipe"] for target in (cpu, gpu)]
    assert recipes == ["cpu", "tensorrt"]
    assert "recipe" not in compiling.graph_inputs(load_target("cpu"), None, 0)


def test_times_do_not_depend_on_where_ranges_end(tmp_path: Path) -> None:
    build = build_with(tmp_path)
    again = replace(build.site, seed=1)
    source: Any = SimpleNamespace()
    conditions = [dict(SiteBench(site, source, build.dataset).conditions) for site in (build.site, again)]
    assert conditions[0] == conditions[1]


def test_an_engine_by_trained_ranges_is_not_taken_for_one_by_calibrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = build_with(tmp_path)
    source: Any = SimpleNamespace(sha256="same", quantizers={"q": 1}, model=None)
    sites = [build.site, replace(build.site, target=build.target.changed({"qat.epochs": 3}))]
    for site in sites:
        bench = SiteBench(site, source, build.dataset)
        monkeypatch.setattr(bench, "_compile_source", lambda folder: folder.mkdir(parents=True))
        bench.compile_source(tmp_path / "never", tmp_path / "kept")
    assert len(list((tmp_path / "kept").iterdir())) == 2
    assert sites[0].availability == Availability(True, "")


def test_what_a_killed_process_had_compiled_by_half_is_swept_and_what_another_one_compiles_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    source: Any = SimpleNamespace(sha256="a", quantizers={}, model=None)
    bench = SiteBench(build_with(tmp_path).site, source, None)
    killed, beside = kept / ".0123456789abcdef.01234567", kept / ".0123456789abcdef.89abcdef"
    for folder in (killed, beside):
        folder.mkdir(parents=True)
        (folder / "engine").touch()
        (folder / LOCK).touch()  # the file stays, the lock on it does not
    during: list[Path] = []

    def compile_source(folder: Path) -> None:
        folder.mkdir(parents=True)
        sweep(kept.glob(".*"))  # another process starts meanwhile
        during.extend(kept.iterdir())

    monkeypatch.setattr(bench, "_compile_source", compile_source)
    with locked(beside / LOCK, wait=False):
        bench.compile_source(tmp_path / "never", kept)
    own = [folder for folder in during if folder.name.startswith(".") and folder != beside]
    assert len(own) == 1 and beside in during and killed not in during
    assert sorted(folder.name.startswith(".") for folder in kept.iterdir()) == [False, True]
    [made] = [folder for folder in kept.iterdir() if folder != beside]
    assert not list(made.iterdir())


def test_a_refused_source_leaves_nothing_half_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source: Any = SimpleNamespace(sha256="a", quantizers={}, model=None)
    bench = SiteBench(build_with(tmp_path).site, source, None)

    def refuse(folder: Path) -> None:
        folder.mkdir(parents=True)
        raise StageError("refused")

    monkeypatch.setattr(bench, "_compile_source", refuse)
    with pytest.raises(StageError, match="refused"):
        bench.compile_source(tmp_path / "never", tmp_path / "kept")
    assert not list((tmp_path / "kept").iterdir())


def test_packages_that_make_a_result_are_in_its_key() -> None:
    made_by = {
        simplify: {"ultralytics", "onnxsim"},
        quantize: {"torch", "ultralytics"},
        qat: {"onnxsim", "nvidia-modelopt"},
        engine: {"torch", "onnxsim"},
    }
    for stage, packages in made_by.items():
        assert packages <= set(stage.STAGE.packages), stage.__name__
    with open_site("cpu") as site:
        versions = {name: installed(name) for name in (*compiling.PACKAGES, "torch-pruning")}
        assert point.conditions_of(site) == {**site.runtime.identity(), **versions}


def test_int8_for_a_cpu_is_another_where_the_device_has_no_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device says it, this machine or another; a runtime of TensorRT is not asked."""
    facts, found = LocalDevice().facts(), {}
    sets = ("avx2", "avx2 avx512_vnni")
    for isa in sets:
        monkeypatch.setattr(LocalDevice, "facts", lambda _, isa=isa: replace(facts, machine="x86_64", isa=isa))
        for profile, runtime in (("cpu", None), ("desktop-cuda", "onnxruntime"), ("desktop-tensorrt", None)):
            with open_site(profile, runtime=runtime) as site:
                found[profile, isa] = site.target
    reduced = {place: target.calibration.reduce_range for place, target in found.items()}
    assert reduced == {
        **dict.fromkeys([("cpu", sets[0]), ("desktop-cuda", sets[0])], True),
        **dict.fromkeys([("cpu", sets[1]), ("desktop-cuda", sets[1])], False),
        **dict.fromkeys([("desktop-tensorrt", isa) for isa in sets], None),
    }
    dataset: Any = SimpleNamespace(digest="")
    for precision, differ in (("int8", True), ("fp32", False)):
        one, other = (compiling.graph_inputs(found["cpu", isa].in_precision(precision), dataset, 0) for isa in sets)
        assert (one != other) is differ, precision
