"""Every page and fragment: made from typed data, well formed, each value escaped, asking for nothing outside."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from jinja2 import UndefinedError

from edgeprune.records.sweep import Point
from edgeprune.report import notebook
from edgeprune.report.build import build_page
from edgeprune.report.comparison import comparison_page, comparison_plots
from edgeprune.report.drawing import COLOURS, Plot
from edgeprune.report.frontier import frontier_page
from edgeprune.report.history import history_page
from edgeprune.report.layer_profile import layer_costs_page, layer_costs_plot
from edgeprune.report.page import render
from edgeprune.report.scenes import draw_scene
from edgeprune.report.sensitivity import sensitivity_file, sensitivity_plot
from edgeprune.report.sparsity import scale_plots, sparsity_page
from edgeprune.report.sweep import sweep_page, sweep_plot
from edgeprune.report.table import Table
from tests.report import results
from tests.report.browser import WIDTHS, looked_at, needs_chromium
from tests.report.markup import Page, check_that_nothing_leaves

PAGES: dict[str, Callable[[], str]] = {
    "build": lambda: build_page(results.build(), [results.scene()]),
    "comparison": lambda: comparison_page(results.comparison()),
    "frontier": lambda: frontier_page(results.frontier()),
    "history": lambda: history_page(results.history()),
    "layer profile": lambda: layer_costs_page(results.layer_costs()),
    "sensitivity": lambda: sensitivity_file(results.sensitivity(), ".html").decode(),
    "sparsity": lambda: sparsity_page(results.sparsity()),
    "sweep": lambda: sweep_page(results.sweep()),
}
FRAGMENTS: dict[str, Callable[[], str]] = {
    "build": lambda: notebook.build_html(results.finished_build()),
    "bench": lambda: notebook.bench_html(results.bench_result()),
    "comparison": lambda: notebook.comparison_html(results.comparison()),
    "frontier": lambda: notebook.frontier_html(results.frontier()),
    "history": lambda: notebook.history_html(results.history()),
    "layer costs": lambda: notebook.layer_costs_html(results.layer_costs()),
    "plan": lambda: notebook.plan_html(results.plan()),
    "scene": lambda: notebook.scene_html(results.scene()),
    "sensitivity": lambda: notebook.sensitivity_html(results.sensitivity()),
    "sweep": lambda: notebook.sweep_html(results.sweep()),
    "plot": lambda: comparison_plots(results.comparison())[2]._repr_html_(),
}


MATHEMATICAL = "US$_$"
"""A name that matplotlib would take for a formula, and refuse as one."""


@pytest.mark.parametrize(
    "drawn",
    [
        lambda name: build_page(results.build(name), [results.scene(name)]),
        lambda name: comparison_page(results.comparison(name)),
        lambda name: draw_scene(results.scene(name)).savefig(BytesIO(), format="png"),
        lambda name: frontier_page(results.frontier(name)),
        lambda name: history_page(results.history(name)),
        lambda name: layer_costs_page(results.layer_costs(name)),
        lambda name: sensitivity_file(results.sensitivity(name), ".html").decode(),
        lambda name: sensitivity_file(results.sensitivity(name), ".png"),
        lambda name: sparsity_page(results.sparsity(name)),
        lambda name: sweep_page(results.sweep(name)),
    ],
    ids=[
        "build",
        "comparison",
        "figure",
        "frontier",
        "history",
        "layers",
        "sensitivity",
        "picture",
        "sparsity",
        "sweep",
    ],
)
def test_a_name_with_dollar_signs_is_no_formula(drawn: Callable[[str], Any]) -> None:
    text = drawn(MATHEMATICAL)
    if isinstance(text, str):
        assert MATHEMATICAL in text


def check_that_it_is_escaped(text: str) -> None:
    """The name shows, and nothing of it became markup."""
    page = Page(text)
    assert not page.errors and not page.open
    assert not page.named("b")
    assert "&lt;b&gt;&amp;" in text


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_and_escapes_every_value(name: str) -> None:
    text = PAGES[name]()
    assert text.startswith("<!doctype html>")
    check_that_it_is_escaped(text)
    check_that_nothing_leaves(text)
    ids = [attributes["id"] for _, attributes in Page(text).tags if attributes.get("id")]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", FRAGMENTS)
def test_a_fragment_for_a_notebook_escapes_every_value(name: str) -> None:
    check_that_it_is_escaped(FRAGMENTS[name]())


@needs_chromium
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_in_a_browser(tmp_path: Path, name: str, width: int) -> None:
    looked_at(PAGES[name](), tmp_path, width)


@pytest.mark.parametrize(
    "plot",
    [layer_costs_plot(results.layer_costs()), sweep_plot(results.sweep()), sensitivity_plot(results.sensitivity())],
    ids=lambda plot: plot.key,
)
def test_a_drawing_of_its_own_has_its_colours(plot: Plot) -> None:
    text = plot.svg_file()
    assert text.startswith("<svg ")
    assert all(f"--{name}:#" in text for name in COLOURS if f"var(--{name})" in text)


LONG = "yolov8n-" + 12 * "finetune"
"""A name that is wider than a drawing, as folders of experiments make them."""


@pytest.mark.parametrize("name", [LONG, "模型", "a \N{SNOWMAN} b", MATHEMATICAL], ids=["long", "chinese", "sign", "$"])
@pytest.mark.parametrize("made", ["sweep", "frontier", "sensitivity", "comparison", "layers"])
def test_no_name_takes_the_place_of_a_drawing(made: str, name: str, recwarn: pytest.WarningsRecorder) -> None:
    """matplotlib gives up its layout for a name wider than the axes, and warns of letters that its font has not."""
    plots: dict[str, Callable[[], Any]] = {
        "sweep": lambda: sweep_plot(
            replace(found := results.sweep(name), unpruned=(*found.unpruned, Point(name, "", 4.5, 10 / 4.5, 0.4)))
        ),
        "frontier": lambda: frontier_page(results.frontier(name)),
        "sensitivity": lambda: sensitivity_plot(results.sensitivity(name)),
        "comparison": lambda: comparison_plots(results.comparison(name)),
        "layers": lambda: layer_costs_plot(results.layer_costs(name)),
    }
    plots[made]()
    assert [str(warning.message) for warning in recwarn if issubclass(warning.category, UserWarning)] == []


def test_one_model_alone_is_drawn_without_another() -> None:
    [scales, _] = scale_plots(None, results.sparsity().after)
    assert "scales 50.0%" in scales.alt


def test_a_value_that_a_template_lacks_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render("history", title="no more than a title")


def test_columns_of_figures_are_aligned_to_the_right() -> None:
    table = Table.of(("name", "ms", "speed-up"), [("a|b", "1.5", "×2.0"), ("c\n<i>\u2028d", "–", "")])
    assert table.numeric == (False, True, True)
    assert table.markdown().splitlines() == [
        "| name | ms | speed-up |",
        "| --- | ---: | ---: |",
        "| a\\|b | 1.5 | ×2.0 |",
        "| c &lt;i> d | – |  |",
    ]
    assert Table.of(("a",), ()).html().strip() == ""


def test_every_public_record_has_a_view_of_its_own() -> None:
    shown = {name.rpartition(".")[2] for name in notebook.FORMATTERS}
    assert {"BenchResult", "BuildResult", "Comparison", "Frontier", "History", "Plan", "Sweep"} <= shown


def test_every_class_that_a_notebook_shows_exists() -> None:
    for name in notebook.FORMATTERS:
        module, _, kind = name.rpartition(".")
        assert isinstance(getattr(import_module(module), kind), type), name


def test_a_notebook_learns_the_classes_when_edgeprune_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    interactive = pytest.importorskip("IPython.core.interactiveshell", reason="IPython is not installed (extra dev)")
    shell = interactive.InteractiveShell()
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: shell)
    monkeypatch.delitem(sys.modules, "edgeprune")
    import_module("edgeprune")
    shown: dict[str, Any] = shell.display_formatter.format(results.plan())[0]
    assert "&lt;b&gt;" in shown["text/html"]


def test_a_frontier_whose_training_the_profile_limits_by_time_says_the_time() -> None:
    found = results.frontier()
    assert f"trained for {found.epochs} epochs" in frontier_page(found)
    assert "trained for 1.5 h and timed" in frontier_page(replace(found, hours=1.5))
