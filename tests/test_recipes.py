"""benchmarks/recipes.py: which recipes are run, and what its page says of the runs that are kept."""

from __future__ import annotations

from argparse import Namespace
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import recipes
from benchmarks.kept import MadeOf
from benchmarks.recipes import IMPORTANCES, SCHEDULES, TEACHERS, Place, Recipe, every_recipe, page, together
from edgeprune.errors import DataError

DEFAULT = Recipe("one-shot", "taylor", "unpruned")
ROUNDS, LAMP = Recipe("rounds", "taylor", "unpruned"), Recipe("one-shot", "lamp", "unpruned")


@pytest.fixture
def options(tmp_path: Path) -> Namespace:
    lists: dict[str, Any] = {"schedules": list(SCHEDULES), "importances": list(IMPORTANCES), "teachers": list(TEACHERS)}
    lists |= {"lr0s": [0.001]}
    given: dict[str, Any] = {"weights": tmp_path / "n.pt", "larger": tmp_path / "s.pt", "work": tmp_path}
    given |= {"imgsz": 96, "epochs": 4, "data": "d/data.yaml", "device": "cpu", "full": False, "seeds": [0, 1, 2]}
    for name in ("weights", "larger"):
        given[name].write_bytes(name.encode())
    return Namespace(**lists, **given, speed_ups=[2.2], out=tmp_path / "page.md", dataset="abc", print_only=True)


def keep(recipe: Recipe, options: Namespace, val: float, test: float) -> None:
    for seed in options.seeds:
        place = Place(recipe, 2.2, seed, options)
        found = {
            "speed_up": [2.2, 2.25, 2.3],
            "parameters": 800_000,
            "seconds": 360,
            "val": val,
            "test": test + seed / 1000,
            "by": f"a machine of seed {seed % 2}",
        }
        recipes.kept(options).keep(place.name, found)


def test_one_thing_is_varied_at_a_time_and_a_sparse_schedule_prunes_by_scales(options: Namespace) -> None:
    found = recipes.recipes(options)
    assert found[0] == DEFAULT and len(found) == 7
    assert Recipe("sparse", "bn_scale", "unpruned") in found
    assert all(
        sum(a != b for a, b in zip(vars(one).values(), vars(DEFAULT).values(), strict=True)) <= 2 for one in found
    )
    options.full = True
    assert len(recipes.recipes(options)) == 2 * 3 * 3 + 3


def test_the_learning_rate_is_varied_too_and_old_runs_keep_their_names(options: Namespace) -> None:
    options.lr0s = [0.002, 0.001]
    default, *others = recipes.recipes(options)
    assert default == replace(DEFAULT, lr0=0.002) and default.name == "one-shot-taylor-unpruned-lr0.002"
    assert DEFAULT in others and DEFAULT.name == "one-shot-taylor-unpruned"
    assert [one.lr0 for one in others].count(0.002) == len(others) - 1
    settings = Place(default, 2.2, 0, options).settings(2)
    assert settings.lr0 == 0.002 and Place(default, 2.2, 0, options).settings(2, 0.003).lr0 == 0.003


def test_the_best_of_each_are_put_together_by_val(options: Namespace) -> None:
    assert together(recipes.recipes(options), 2.2, options) is None, "nothing was run"
    for one, val, test in ((DEFAULT, 0.5, 0.5), (ROUNDS, 0.51, 0.49), (LAMP, 0.52, 0.4)):
        keep(one, options, val, test)
    best = together(recipes.recipes(options), 2.2, options)
    assert best == Recipe("rounds", "lamp", "unpruned"), "whatever test says"
    assert every_recipe(2.2, options)[-1] == best


def test_the_page_tells_what_is_ahead_by_the_interval_of_the_difference(options: Namespace) -> None:
    for one, test in ((DEFAULT, 0.50), (ROUNDS, 0.53), (LAMP, 0.49)):
        keep(one, options, 0.5, test)
    place = Place(Recipe("one-shot", "fisher", "unpruned"), 2.2, 0, options)
    recipes.kept(options).keep(place.name, {"why": "out of reach", "by": "a machine of seed 0"})
    text = page(options)
    assert "larger teacher s. a machine of seed 0; and a machine of seed 1." in text
    assert "Ahead of the first row, its interval above 0: rounds-taylor-unpruned." in text
    assert "+0.0300 (+0.0300 to +0.0300)" in text and "-0.0100" in text
    assert "one-shot-fisher-unpruned (out of reach)" in text and "not run yet" in text
    assert "Not told, fewer than three seeds: " in text


def test_the_page_says_where_latencies_lie_apart(options: Namespace) -> None:
    for one, low in ((DEFAULT, 2.2), (ROUNDS, 2.24), (LAMP, 2.4)):
        keep(one, options, 0.5, 0.5)
        for seed in options.seeds:
            name = Place(one, 2.2, seed, options).name
            found = recipes.kept(options).all()[name] | {"speed_up": [low, low + 0.02, low + 0.05]}
            recipes.kept(options).keep(name, found)
    rows = {line.split(" | ")[1]: line for line in page(options).splitlines() if " unpruned " in line}
    assert "; latency differs |" in rows["lamp"]
    assert page(options).count("; latency differs |") == 1
    assert "hours" not in page(options), "they tell the load of the machine"


def test_runs_that_another_page_keeps_are_taken_only_if_they_are_of_the_same(options: Namespace) -> None:
    keep(DEFAULT, options, 0.5, 0.5)
    again = Namespace(**{**vars(options), "out": options.out.with_name("again.md")})
    with pytest.raises(DataError, match=r"json: keeps runs of other dataset than these; move it away"):
        recipes.kept(Namespace(**{**vars(again), "dataset": "def"})).begin_with(options.out.with_suffix(".json"))
    assert recipes.kept(again).all() == {}
    recipes.kept(again).begin_with(options.out.with_name("absent.json"))
    recipes.kept(again).begin_with(options.out.with_suffix(".json"))
    assert len(recipes.kept(again).all()) == 3
    keep(ROUNDS, again, 0.5, 0.5)
    recipes.kept(again).begin_with(options.out.with_suffix(".json"))
    assert len(recipes.kept(again).all()) == 6, "what has begun goes on"


def test_every_schedule_trains_as_many_epochs_and_a_second_run_trains_none(
    options: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stand-ins for the search and the training: the parts, and what they are given."""
    spent: dict[str, list[int]] = {}
    current: list[str] = []

    def trained(kind: str) -> Any:
        def run(weights: Any, *, out: Path, settings: Any, **_: Any) -> Any:
            spent[current[0]].append(settings.epochs)
            assert settings.teacher == (None if kind == "sparse" or "none" in current[0] else options.weights)
            done: Any = Namespace(best=out / "best.pt", summary=Namespace(seconds=1.0))
            return Namespace(trained=done) if kind == "sparse" else done

        return run

    bench: Any = Namespace(work=options.work / "shared", raced=lambda *_: Namespace(low=2.1, ratio=2.2, high=2.3))
    monkeypatch.setattr(recipes, "finetune", trained("finetune"))
    monkeypatch.setattr(recipes, "sparsify", trained("sparse"))
    monkeypatch.setattr(recipes, "search", lambda *_, **__: None)
    monkeypatch.setattr(recipes, "accuracy", lambda *_, **__: Namespace(map50_95=0.5))
    monkeypatch.setattr(recipes, "_parameters", lambda _: 1)
    options.teachers, options.importances = ["unpruned", "none"], ["taylor"]
    for _ in range(2):
        for one in recipes.recipes(options):
            current[:] = [one.name]
            spent.setdefault(one.name, [])
            recipes.run(Place(one, 2.2, 0, options), bench)
    assert spent == {
        "one-shot-taylor-unpruned": [4],
        "one-shot-taylor-none": [4],
        "rounds-taylor-unpruned": [2, 2],
        "sparse-bn_scale-unpruned": [2, 2],
    }


def test_models_that_were_pruned_of_other_weights_are_not_trained_as_these(
    options: Namespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = []
    monkeypatch.setattr(recipes, "Bench", lambda *given: begun.append(given))
    monkeypatch.setattr(recipes, "run", lambda *_: None)
    words = ["--weights", str(options.weights), "--data", options.data, "--work", str(options.work)]
    monkeypatch.setattr("sys.argv", ["recipes", *words, "--out", str(options.out)])
    of = MadeOf("n", "1" * 12, "d", "2" * 12, 320)
    for one, able in ((of, True), (of, True), (replace(of, weights="3" * 12), False), (replace(of, dataset=""), False)):
        monkeypatch.setattr(recipes, "made_of", lambda *_, one=one: one)
        begun.clear()
        with nullcontext() if able else pytest.raises(SystemExit):
            recipes.main()
        assert bool(begun) is able
    assert (
        "n-320-shared has models of other weights or data of these names; give another --work"
        in capsys.readouterr().err
    )


def test_figures_of_other_weights_or_data_are_refused_and_stay(options: Namespace) -> None:
    keep(DEFAULT, options, 0.5, 0.5)
    place = Place(DEFAULT, 2.2, 0, options)
    assert place.record is not None
    for name, value in (("dataset", "def"), ("weights", options.weights.with_name("o.pt"))):
        options.weights.with_name("o.pt").write_bytes(b"trained on")
        other = Namespace(**{**vars(options), name: value})
        with pytest.raises(DataError, match=f"keeps runs of other {name} than these; give another page: --out"):
            keep(DEFAULT, other, 0.1, 0.1)
    assert place.record is not None and place.record["val"] == 0.5


def test_a_larger_teacher_is_known_by_its_content_and_others_need_none(options: Namespace) -> None:
    larger = Recipe("one-shot", "taylor", "larger")
    for one in (DEFAULT, larger):
        keep(one, options, 0.5, 0.5)
    options.larger.write_bytes(b"trained on")
    assert Place(larger, 2.2, 0, options).record is None
    options.larger = None
    assert Place(DEFAULT, 2.2, 0, options).record is not None
