"""The page of benchmarks/frontier.py: what it says follows from the rows of every seed."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import benchmarks.frontier
from benchmarks.frontier import Run, combinations, page, recommendations, seen, spent
from edgeprune.errors import DataError
from edgeprune.records.frontier import Form, Frontier, Recommendation, Row
from edgeprune.records.sweep import Point
from edgeprune.serial import from_json, to_json

OPTIONS = Namespace(everything=True, target="cpu", data="d/data.yaml", imgsz=320, out=Path("page.md"), picture=None)


def row(name: str, speed_up: float, accuracy: float, budget: str = "", levers: int = 1, dropped: str = "") -> Row:
    point = Point(name, budget, 10 / speed_up, speed_up, accuracy, parameters=2_000_000)
    ends = {"accuracy_error": 0.01, "speed_up_low": speed_up * 0.99, "speed_up_high": speed_up * 1.01}
    form = Form(name, "n", {}, ("precision", "size")[: levers - bool(budget)])
    return Row(name, form, budget, speed_up, None, dropped, Point(**{**to_json(point), **ends}))


def run(seed: int, better: float = 0.0, undecided: str = "") -> Run:
    """A smaller input is left out by the screening though it is better by so much."""
    rows = (
        row("as it is", 1.0, 0.6, levers=0),
        row("int8", 2.15, 0.59 + seed / 1000),
        row("160 px", 5.3, 0.4 + better, dropped="behind"),
        row("pruned to ×5", 5.1, 0.45, "×5"),
        row("int8, pruned to ×5", 5.2 + seed / 10, 0.5 + seed / 100, "×5", 2),
        Row("m", Form("m", "m", {}, ("checkpoint",)), "", 0.5, None, "not faster than the baseline"),
    )
    best = "int8, pruned to ×5" if seed < 2 else "pruned to ×5"
    told = (Recommendation("×2", "int8", "", {}), Recommendation("×5", best, "", {}, inconclusive=undecided))
    return Run(
        seed,
        Frontier("cpu", "speed_up", (2.0, 5.0), "p50", "mAP50-95", 20, rows, told, 95.0),
        3600,
        (0.5, 1.5),
        "a machine; today",
    )


RUNS = [run(0), run(1), run(2)]


def test_what_is_recommended_is_held_against_the_best_row_of_all() -> None:
    low, high = recommendations(RUNS, seen(RUNS))
    assert low == ("×2", "int8 (3 of 3 seeds)", "0.5910", "int8", "0.5910", "the same row", "yes")
    assert high[1] == "int8, pruned to ×5 (2 of 3 seeds)" and high[-1] == "yes"
    worse = [run(seed, better=0.15) for seed in range(3)]
    *_, high = recommendations(worse, seen(worse))
    assert high[3:5] == ("160 px", "0.5500") and high[-1] == "**no**"
    assert high[5] == "-0.0400 (-0.0648 to -0.0152)", "seed by seed, by Student's t"


def test_a_combination_is_held_against_the_best_single_lever() -> None:
    low, high = combinations(RUNS, seen(RUNS))
    assert low[1:3] == ("int8", "0.5910") and low[3] == "int8, pruned to ×5" and low[-1] == "no"
    assert high[1:5] == ("pruned to ×5", "0.4500", "int8, pruned to ×5", "0.5100")
    assert high[5].startswith("+0.0600 (") and high[-1] == "yes"
    alone = [Run(0, Frontier("cpu", "speed_up", (5.0,), "p50", "m", 1, RUNS[0].found.rows[4:5], ()), 1, (0,), "")]
    [only] = combinations(alone, seen(alone))
    assert only[-1] == "open: no single lever gets there"


def test_a_row_that_misses_the_budget_in_most_seeds_is_not_the_best() -> None:
    rows = [row("a", 1.95 if seed else 2.1, 0.7) for seed in range(3)]
    runs = [
        Run(
            seed,
            Frontier("cpu", "speed_up", (2.0,), "p50", "m", 1, (one, row("b", 2.2, 0.5)), (RECOMMENDED,)),
            1,
            (0,),
            "",
        )
        for seed, one in enumerate(rows)
    ]
    [line] = recommendations(runs, seen(runs))
    assert line[3] == "b"


RECOMMENDED = Recommendation("×2", "b", "", {})


def test_the_page_says_how_much_of_the_ratio_was_spent_and_what_was_not_measured() -> None:
    text = page({"n": RUNS}, OPTIONS)
    assert "6 of 6 pruned models" in text and spent(seen(RUNS)) in text
    assert "m (not faster than the baseline)" in text
    assert "95 s, 95 s, 95 s" in text and "1.00 h" in text
    assert "| int8, pruned to ×5 | 2 | 3 | ×5 | ×5.300 | ×5.148 to ×5.454 | 1.060 | 0.5100 |" in text
    assert "left out by the screening" in text and "![Accuracy" in text and "(page.svg)" in text
    over = [Run(0, run(0).found, 1, (0,), "")]
    assert "± 0.0196 over images" in page({"n": over}, OPTIONS), "one seed has no spread of its own"


def test_a_run_is_kept_as_json() -> None:
    assert from_json(Run, to_json(RUNS[0]), "here") == RUNS[0]


@pytest.mark.parametrize("share", [0.9, 1.2])
def test_what_misses_its_ratio_is_counted(share: float) -> None:
    runs = [
        Run(0, Frontier("cpu", "speed_up", (5.0,), "p50", "m", 1, (row("p", 5 * share, 0.5, "×5"),), ()), 1, (0,), "")
    ]
    assert spent(seen(runs)).startswith("0 of 1 pruned models")


def test_what_an_older_frontier_left_is_read() -> None:
    older = to_json(RUNS[0])
    del older["found"]["split"]
    for row in older["found"]["rows"]:
        del row["met"]
        if row["point"] is not None:
            del row["point"]["met_unpruned"]
    assert from_json(Run, older, "run.json") == RUNS[0]


def test_other_models_and_seeds_are_added_to_the_page_and_a_stopped_run_counts_all_of_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, int]] = []

    def made(_: str, weights: Path, __: str, *, out: Path, seed: int, **___: Any) -> Frontier:
        ran.append((weights.stem, seed))
        out.mkdir(parents=True, exist_ok=True)
        if len(ran) == 2:
            raise KeyboardInterrupt
        return run(seed).found

    def called(*words: str) -> None:
        monkeypatch.setattr("sys.argv", ["frontier", *words, "--data", "d/data.yaml", "--work", str(tmp_path / "w")])
        sys.argv[1:1] = ["--speed-ups", "2", "5", "--epochs", "20", "--out", str(tmp_path / "page.md")]
        benchmarks.frontier.main()

    monkeypatch.setattr(
        benchmarks.frontier, "FrontierRun", lambda *given, **more: SimpleNamespace(made=lambda: made(*given, **more))
    )
    monkeypatch.setattr(benchmarks.frontier, "content_of", lambda _: "d" * 12)
    clock = iter(range(0, 10**6, 1800))
    monkeypatch.setattr(benchmarks.frontier.time, "monotonic", lambda: next(clock))
    one, two = tmp_path / "one n.pt", tmp_path / "two.pt"
    one.write_bytes(b"1"), two.write_bytes(b"2")
    called(str(one), "--seeds", "0")
    with pytest.raises(KeyboardInterrupt):
        called(str(two), "--seeds", "0")
    called(str(two), "--seeds", "0")
    called(str(one), "--seeds", "0", "1")
    assert ran == [("one n", 0), ("two", 0), ("two", 0), ("one n", 1)]
    text = (tmp_path / "page.md").read_text()
    assert "All of it, a seed each: 0.50 h, 0.50 h." in text.split("## one n")[1].split("## ")[0]
    assert "All of it, a seed each: 1.00 h." in text.split("## two")[1]
    one.write_bytes(b"trained on")
    called(str(one), "--seeds", "0")
    assert len(ran) == 5, "other weights of the same name"
    text = (tmp_path / "page.md").read_text()
    assert "All of it, a seed each: 0.50 h." in text.split("## one n")[1].split("## ")[0], "are no second seed"
    with pytest.raises(DataError, match="keeps runs of other epochs than these"):
        called(str(one), "--epochs", "5")
