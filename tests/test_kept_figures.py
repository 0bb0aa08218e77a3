"""Figures that benchmarks keep: a later run takes those of the same weights, data and size, and no others."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import (
    equal_latency,
    export_mixed,
    export_precision,
    peers_int8,
    pruning_growth,
    quantization_trained,
    search_budgets,
    training_distillation,
    training_sparsity,
)
from benchmarks.kept import MadeOf, made_of
from benchmarks.peers import __main__ as peers
from benchmarks.references import __main__ as references
from tests.export.helpers import noise_images, saved, stock_model

OF = MadeOf("n", "1" * 12, "d", "2" * 12, 320)
BENCHMARKS = Path(equal_latency.__file__).parent


class Stop(Exception):
    """Ends a benchmark where it begins to work."""


def dataset(folder: Path, box: float = 0.5) -> Path:
    for split in ("train", "val", "test"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for image in noise_images(folder / "images" / split, 2):
            (folder / "labels" / split / f"{image.stem}.txt").write_text(f"0 {box} 0.5 0.2 0.2\n")
    splits = "".join(f"{split}: images/{split}\n" for split in ("train", "val", "test"))
    (folder / "data.yaml").write_text(f"path: {folder}\n{splits}names: [class0]\n")
    return folder / "data.yaml"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "n.pt"
    path.write_bytes(b"n")
    return path


def test_a_folder_is_of_weights_data_and_size_by_content(tmp_path: Path, weights: Path) -> None:
    first = made_of(weights, data := dataset(tmp_path / "a" / "d"), 320)
    assert made_of(weights, data, 320) == first
    others = [made_of(weights, data, 640), made_of(weights, dataset(tmp_path / "b" / "d", box=0.4), 320)]
    weights.write_bytes(b"trained on")
    others.append(made_of(weights, data, 320))
    assert len({one.folder() for one in (first, *others)}) == 4
    assert first.folder(epochs=20) != first.folder(epochs=10)
    for other in others:
        assert other.fits(asdict(other)) and not first.fits(asdict(other))


def test_figures_without_digests_are_of_their_names() -> None:
    said = {"model": "n", "data": "d", "imgsz": 320}
    assert OF.fits(said)
    assert not any(OF.fits(said | other) for other in ({"model": "m"}, {"data": "e"}, {"imgsz": 640}))
    assert not OF.fits({})


def folders_of(name: str, module: Any, monkeypatch: pytest.MonkeyPatch, **stubs: Any) -> Callable[..., list[Path]]:
    """The folders that a benchmark asks for its figures, each call with a word of its own for what they are of."""

    def run(work: Path, of: MadeOf) -> list[Path]:
        seen: list[Path] = []

        def stop(*given: Any, **named: Any) -> None:
            words = [*given, *named.values(), *(vars(one) for one in given if isinstance(one, Namespace))]
            words += [value for one in words if isinstance(one, dict) for value in one.values()]
            seen.extend(one for one in words if isinstance(one, Path) and one.is_relative_to(work) and one != work)
            raise Stop

        monkeypatch.setattr(module, "made_of", lambda *_: of)
        for stub in STARTS[name]:
            monkeypatch.setattr(module, stub, stop)
        for stub, value in stubs.items():
            monkeypatch.setattr(module, stub, value)
        monkeypatch.setattr("sys.argv", ["x", *COMMANDS[name].format(work=work).split()])
        with pytest.raises(Stop):
            module.main()
        return seen

    return run


GIVEN = "--weights n.pt --data d/data.yaml"
COMMANDS = {
    "equal-latency": f"{GIVEN} --work {{work}} --out p.md",
    "references": f"{GIVEN} --kept {{work}} --out p.md",
    "peers": f"{GIVEN} --work {{work}} --checkouts c --out p.md",
    "peers-int8": "d/data.yaml n.pt --work {work}",
    "export-precision": "d/data.yaml n.pt --work {work}",
    "export-mixed": "d/data.yaml n.pt --work {work}",
    "quantization-trained": "n.pt d/data.yaml --out {work}",
    "training-distillation": f"{GIVEN} --out {{work}}",
}
MODULES: dict[str, Any] = {
    "equal-latency": equal_latency,
    "references": references,
    "peers": peers,
    "peers-int8": peers_int8,
    "export-precision": export_precision,
    "export-mixed": export_mixed,
    "quantization-trained": quantization_trained,
    "training-distillation": training_distillation,
}
STARTS = {  # what is first given a folder or a file in one
    "equal-latency": ["Bench"],
    "references": ["Bench"],
    "peers": ["Bench"],
    "peers-int8": ["measured"],
    "export-precision": ["_accuracy"],
    "export-mixed": ["_rescue"],
    "quantization-trained": ["_tuned"],
    "training-distillation": ["finetune"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_benchmark_works_in_a_folder_of_its_weights_data_and_size(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = MODULES[name]
    stubs: dict[str, Any] = {}
    if hasattr(module, "Dataset"):
        stubs["Dataset"] = SimpleNamespace(load=lambda *_, **__: None)
    if name == "training-distillation":
        stubs |= {"prune": lambda *_, **__: SimpleNamespace(model=None, metadata=dict)}
        stubs |= {"calibration_batches": lambda *_, **__: None}
        given = SimpleNamespace(task="detect", stride=32)
        stubs["checkpoint"] = SimpleNamespace(load=lambda _: given, save=lambda *_, **__: None)
    run = folders_of(name, module, monkeypatch, **stubs)
    others = [OF, replace(OF, weights="3" * 12), replace(OF, dataset="3" * 12), replace(OF, imgsz=640)]
    found = [run(tmp_path, of) for of in others]
    assert all(found), "it is given a folder"
    tops = {path.relative_to(tmp_path).parts[0] for paths in found for path in paths}
    assert len(tops) == len(others), f"{tops} keep figures of four apart"


def equal_options(folder: Path, of: MadeOf) -> Namespace:
    given: dict[str, Any] = {"weights": folder / f"{of.model}.pt", "data": f"{of.data}/data.yaml", "imgsz": of.imgsz}
    given |= {"recipe": ["edgeprune"], "speed_ups": [1.5], "epochs": 20, "lr0": equal_latency.LR0, "pretrained": 80}
    options = Namespace(**given, work=folder, out=folder / "page.md", of=of, begun=None)
    options.work = equal_latency.work_of(options, of)
    return options


def keep_arm(options: Namespace, test: float, method: str = "lamp", seed: int = 0, **measured: Any) -> None:
    arm = options.work / f"{method}-x1.5"
    run = arm / equal_latency.runs_of(options, "edgeprune", str(seed))
    run.mkdir(parents=True)
    measured = {"speed_up": 1.5, "macs_ratio": 2, "parameters": 10} | measured
    (arm / "measured.json").write_text(json.dumps(measured))
    figures = {"val": 0.5, "test": test, "epoch": 3, "seconds": 3, "by": f"a machine of {test}"}
    (run / "figures.json").write_text(json.dumps(figures))
    given = {"batch": 16, "unpruned": {"val": 0.5, "test": 0.5}, "test_images": 72}
    (options.work / "given.json").write_text(json.dumps(given))


@pytest.mark.parametrize("other", [{"weights": "3" * 12}, {"dataset": "3" * 12}, {"imgsz": 640}, {"model": "m"}])
def test_rows_at_equal_latency_are_not_printed_under_another_name(tmp_path: Path, other: dict[str, Any]) -> None:
    first, second = equal_options(tmp_path, OF), equal_options(tmp_path, replace(OF, **other))
    keep_arm(first, 0.51)
    assert [row["test"] for row in equal_latency.kept_with(first)["rows"]] == [[0.51]]
    keep_arm(second, 0.6)
    kept = equal_latency.kept_with(second)
    assert [row["test"] for row in kept["rows"]] == [[0.6]]
    assert "a machine of 0.6." in equal_latency.page(kept)


def test_rows_at_equal_latency_that_are_kept_already_go_on(tmp_path: Path) -> None:
    committed = BENCHMARKS / "equal_latency.json"
    before = json.loads(committed.read_text())
    (tmp_path / "page.json").write_text(committed.read_text())
    options = equal_options(tmp_path, replace(OF, model="bccd-yolov8n-320", data="bccd"))
    keep_arm(options, 0.51)
    kept = equal_latency.kept_with(options)
    assert len(kept["rows"]) == len({json.dumps(row) for row in [*before["rows"], *kept["rows"]]})
    assert kept["single_runs"] == before["single_runs"]
    assert "weights" not in kept and [row.get("weights") for row in kept["rows"]].count(OF.weights) == 1
    assert kept["rows"][: len(before["rows"])] == before["rows"], "no row is told what it is of by a later run"
    assert f"\n{len(before['rows'])} of {len(kept['rows'])} rows, marked †, do not name" in equal_latency.page(kept)
    assert "| lamp †" in equal_latency.page(kept)
    assert "versions of the last, ONNX Runtime 1.32.0; and a machine of 0.51." in equal_latency.page(kept)


def test_rows_of_other_settings_stand_apart_and_are_not_held_against_each_other(tmp_path: Path) -> None:
    options = equal_options(tmp_path, OF)
    for seed in range(3):
        keep_arm(options, 0.6 + seed / 1000, "edgeprune", seed)
    for seed in range(3):
        keep_arm(options, 0.5 + seed / 1000, "lamp", seed)
    said = "| `edgeprune finetune`'s defaults | ×1.5 | lamp | +0.100 | ahead |"
    assert said in equal_latency.page(equal_latency.kept_with(options))
    for other in ({"epochs": 1}, {"lr0": 3e-4}):
        again = Namespace(**{**vars(options), **other})
        for seed in range(4):
            keep_arm(again, 0.3 + seed / 1000, "lamp", seed)
        rows = equal_latency.kept_with(again)["rows"]
        assert sorted(len(row["test"]) for row in rows if row["method"] == "lamp")[:2] == [3, 4]
    text = equal_latency.page(equal_latency.kept_with(options))
    assert text.count("| lamp, ") == 4 and "| lamp, epochs 1, rate 0.001 |" in text
    assert "| ×1.5 | lamp, epochs 20, rate 0.001 | +0.100 | ahead |" in text and text.count("| +0.") == 1


def test_models_of_stock_width_after_other_epochs_from_random_weights_are_other_rows(tmp_path: Path) -> None:
    for pretrained in (80, 40):
        options = equal_options(tmp_path, OF)
        options.pretrained = pretrained
        options.work = tmp_path / equal_latency.work_of(options, OF)
        keep_arm(options, 0.5, "stock")
        rows = equal_latency.kept_with(options)["rows"]
    assert [row["pretrained"] for row in rows] == [80, 40]
    assert "stock, pretrained 80" in equal_latency.page(equal_latency.kept_with(options))


def test_rows_that_may_be_of_other_weights_are_not_compared(tmp_path: Path) -> None:
    options = equal_options(tmp_path, OF)
    for method in ("edgeprune", "lamp"):
        keep_arm(options, 0.5, method)
    rows = equal_latency.kept_with(options)["rows"]
    assert len(equal_latency.conclusions(rows)) == 3
    rows[0].pop("weights")
    assert len(equal_latency.conclusions(rows)) == 2


def test_every_arm_is_raced_afresh_once_it_was_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least of the probes at or over the budget is not what is reported, of a rival as of the search."""
    raced = []

    def race(model: Path, _: Path) -> Any:
        raced.append(model.parent.name)
        return SimpleNamespace(low=1.4, ratio=1.45, high=1.5)

    bench: Any = SimpleNamespace(raced=race)
    chosen = {"macs_ratio": 2.0, "parameters": 10}
    for method in equal_latency.METHODS:
        monkeypatch.setitem(equal_latency.METHODS, method, lambda *_: dict(chosen))
    options = equal_options(tmp_path, OF)
    for _ in range(2):
        for method in equal_latency.METHODS:
            arm = equal_latency.arm(method, 1.5, options, bench)
            assert arm.measured == chosen | {"speed_up": 1.45, "speed_up_interval": [1.4, 1.5]}
    assert raced == [f"{method}-x1.5" for method in equal_latency.METHODS]
    record = options.work / "lamp-x1.5" / "measured.json"
    record.write_text(json.dumps(chosen | {"speed_up": 1.52}))  # as an older run left it
    assert equal_latency.arm("lamp", 1.5, options, bench).measured["speed_up"] == 1.45
    assert len(raced) == 1 + len(equal_latency.METHODS)


def test_latencies_that_lie_apart_are_said_so_beside_the_accuracy(tmp_path: Path) -> None:
    options = equal_options(tmp_path, OF)
    keep_arm(options, 0.5, "edgeprune", speed_up_interval=[1.5, 1.55])
    keep_arm(options, 0.5, "lamp", speed_up_interval=[1.6, 1.65])
    keep_arm(options, 0.5, "uniform-l2", speed_up_interval=[1.54, 1.65])
    keep_arm(options, 0.5, "stock")
    text = equal_latency.page(equal_latency.kept_with(options))
    assert "| ×1.50 | ×1.60 to ×1.65 |" in text and "| ×1.50 | – |" in text
    told = {line.split(" | ")[2]: line for line in text.splitlines() if line.endswith("fewer than three seeds |")}
    assert len(told) == 2 and not [line for line in told.values() if "differs" in line]
    assert text.count("not told: fewer than three seeds; latency differs |") == 1


def test_searched_budgets_are_of_these_weights_data_and_size(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    kinds = [{}, {"weights": "3" * 12}, {"dataset": "3" * 12}, {"imgsz": 640}, {"model": "m", "weights": "4" * 12}]
    rows = [{**asdict(replace(OF, **kind)), "asked": number} for number, kind in enumerate(kinds)]
    rows.append({"model": "n", "data": "d", "imgsz": 320, "asked": 5})
    file.write_text(json.dumps(rows))
    assert [row["asked"] for row in search_budgets.kept_in(file, [OF])] == [0, 4, 5]
    assert search_budgets.kept_in(tmp_path / "absent.json", [OF]) == []


def test_searched_budgets_of_other_models_stay_and_those_given_are_searched_anew(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = json.loads((BENCHMARKS / "search_budgets.json").read_text())[:2]
    for row, model, digest in zip(committed, ("n", "other"), (None, "3" * 12), strict=True):
        row |= {"model": model, "data": "d", "asked": 1.5, "dataset": OF.dataset}
        row["weights"] = digest or row.pop("weights")
    (tmp_path / "committed.json").write_text(json.dumps(committed))
    monkeypatch.setattr(search_budgets, "made_of", lambda *_: OF)
    searched = []

    def one_row(path: Path, asked: float, _: Any) -> dict[str, Any]:
        searched.append(path.stem)
        return {name: value for name, value in committed[0].items() if name not in asdict(OF)}

    monkeypatch.setattr(search_budgets, "one_row", one_row)
    words = ["x", str(weights), "--data", "d/data.yaml", "--speed-ups", "1.5", "--out", str(tmp_path / "page.md")]
    monkeypatch.setattr("sys.argv", [*words, "--from", str(tmp_path / "committed.json")])
    for _ in range(2):
        search_budgets.main()
        assert [row["model"] for row in json.loads((tmp_path / "page.json").read_text())] == ["other", "n"]
    assert searched == ["n"]


def test_searched_budgets_that_name_no_digests_are_said_so() -> None:
    rows = json.loads((BENCHMARKS / "search_budgets.json").read_text())
    options = Namespace(imgsz=320, data="bccd/data.yaml")
    assert "†" not in search_budgets.table(rows, options) and "digests" not in search_budgets.table(rows, options)
    rows[0].pop("weights")
    text = search_budgets.table(rows, options)
    assert f"1 of {len(rows)} rows, marked †, do not name digests" in text and text.count(" † |") == 1


def test_searched_budgets_are_printed_from_their_results() -> None:
    rows = json.loads((BENCHMARKS / "search_budgets.json").read_text())
    options = Namespace(imgsz=320, data="bccd/data.yaml")
    assert (BENCHMARKS / "search_budgets.md").read_text() == search_budgets.table(rows, options)


def test_a_budget_is_searched_and_raced_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a search and a bench that do no work; the inputs are read as a search reads them."""
    weights = saved(stock_model("yolov8", "detect", nc=1), tmp_path / "w.pt")
    data = dataset(tmp_path / "d")
    probe = SimpleNamespace(kept=True, error=0.1, uncorrected_share=0.5, budget_share=0.5)
    profile = SimpleNamespace(
        fit=SimpleNamespace(median_error=0.1, model=SimpleNamespace(sizes=SimpleNamespace(step=8)))
    )
    plan = SimpleNamespace(macs_speed_up=2.0, params=(2, 1), removed=())
    found = SimpleNamespace(checkpoint=weights, plan=plan, profile=profile, probes=(probe,))
    seen = []

    class Bench:
        def __init__(self, _: Any, source: Any, images: Any) -> None:
            seen.append((source.path, images.nc))

        def compile(self, model: Any, *_: Any) -> Any:
            return SimpleNamespace(required_engine=model)

        def latency(self, engines: list[Any], _: float) -> list[Any]:
            conditions = SimpleNamespace(host=None)
            return [SimpleNamespace(values=[time] * 20, conditions=conditions) for time in (2.0, 1.0)]

    monkeypatch.setattr(import_module("edgeprune.search.run"), "search", lambda *_, **__: found)
    monkeypatch.setattr("edgeprune.runtimes.site.open_site", lambda _: nullcontext())
    monkeypatch.setattr(import_module("edgeprune.search.bench"), "SiteBench", Bench)
    monkeypatch.setattr(search_budgets, "to_json", lambda _: [])
    options = Namespace(imgsz=64, data=str(data), cache=tmp_path)
    row = search_budgets.one_row(weights, 1.5, options)
    assert row["measured"] == pytest.approx(2.0) and seen == [(weights, 1)]


def test_accuracy_after_sparsity_training_is_of_these_data_and_size(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    class Yolo:
        def __init__(self, _: str) -> None:
            pass

        def val(self, **given: Any) -> Any:
            measured.append(given["imgsz"])
            return SimpleNamespace(box=SimpleNamespace(map50=0.5, map=len(measured) / 10))

    monkeypatch.setattr(training_sparsity, "YOLO", Yolo)
    args = Namespace(data=str(dataset(tmp_path / "d")), imgsz=128, device="cpu", out=tmp_path)
    kept = tmp_path / "given.json"
    assert training_sparsity.figures(weights, args, kept) == training_sparsity.figures(weights, args, kept)
    args.imgsz = 320
    assert training_sparsity.figures(weights, args, kept) == (0.5, 0.2)
    args.data = str(dataset(tmp_path / "other", box=0.4))
    assert training_sparsity.figures(weights, args, kept) == (0.5, pytest.approx(0.3))


def test_int8_by_other_tools_says_where_each_row_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    form = {"speed_up": [1, 1, 1], "ms": 1.0, "mb": 1.0, "bare": 1.0, "val": 0.5, "test": 0.5}
    monkeypatch.setattr(peers_int8, "made_of", lambda path, *_: replace(OF, model=path.stem))
    given = Namespace(work=tmp_path, checkpoints=[Path("a.pt"), Path("b.pt")], data="d", imgsz=320, count=256)
    for number, path in enumerate(given.checkpoints):
        folder = peers_int8.folder_of(path, given)
        folder.mkdir()
        figures = {"images": 256, "refused": {}, "forms": {"FP32": form}, "by": f"machine {number}, day {number}"}
        (folder / "figures.json").write_text(json.dumps(figures))
    peers_int8.show(given)
    assert "machine 0, day 0; and machine 1, day 1; 320 px, 256 calibration images" in capsys.readouterr().out


def test_growth_of_another_size_is_not_taken_and_a_row_says_where_it_is_from(tmp_path: Path) -> None:
    file = tmp_path / "g.json"
    made = json.loads((BENCHMARKS / "pruning_growth.json").read_text())
    made |= {"machine": "a machine", "versions": "torch 2", "date": "2026-11-27"}  # of rows that do not say so
    made["rows"] = [{key: value for key, value in row.items() if key != "by"} for row in made["rows"]]
    file.write_text(json.dumps(made))
    kept = pruning_growth.kept_with(file, 320, json.loads(file.read_text())["times"])
    assert len(kept["rows"]) > 1
    assert pruning_growth.kept_with(file, 640, kept["times"])["rows"] == []
    kept["rows"][-1]["by"] = "another machine; a day"
    assert f"{kept['date']}; and another machine; a day. Trace" in pruning_growth.page(kept, "p.svg")
    kept["rows"] = [row | {"by": "another machine; a day"} for row in kept["rows"]]
    assert kept["date"] not in pruning_growth.page(kept, "p.svg")
