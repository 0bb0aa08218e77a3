"""How results look in a notebook: HTML for classes of every room, registered with IPython by name.

The classes themselves know nothing of HTML, and nothing is imported before one of them is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeprune.report.page import render

if TYPE_CHECKING:
    from edgeprune.measure.bench import BenchResult
    from edgeprune.measure.compare import Comparison
    from edgeprune.measure.layers import LayerCosts
    from edgeprune.measure.scenes import Scene
    from edgeprune.pruning.plan import Plan
    from edgeprune.pruning.sensitivity import Sensitivity
    from edgeprune.records.build import BuildResult
    from edgeprune.records.frontier import Frontier
    from edgeprune.records.history import History
    from edgeprune.records.sweep import Sweep


def register_formatters(shell: Any) -> None:
    """Teach IPython the classes of :data:`FORMATTERS`.

    Args:
        shell: the running ``InteractiveShell``.
    """
    html = shell.display_formatter.formatters["text/html"]
    for name, formatter in FORMATTERS.items():
        html.for_type_by_name(*name.rsplit(".", 1), formatter)


def bench_html(result: BenchResult) -> str:
    """The table of a benchmark."""
    from edgeprune.report.bench import bench_table

    return bench_table(result).html()


def build_html(result: BuildResult) -> str:
    """The verdict of a build with its table, and what to do about it."""
    from edgeprune.report.verdict import next_step, verdict_table

    record = result.record
    title = f"{record.target.name}: {record.verdict.value}"
    gates = verdict_table(record.gates, record.next_command)
    return render("verdict", title=title, gates=gates, next_step=next_step(record))


def comparison_html(comparison: Comparison) -> str:
    """The two tables of a comparison."""
    from edgeprune.report.comparison import classes_table, models_table

    return models_table(comparison).html() + classes_table(comparison).html()


def frontier_html(found: Frontier) -> str:
    """The table of a frontier."""
    from edgeprune.report.frontier import frontier_table

    return frontier_table(found).html()


def history_html(history: History) -> str:
    """The table of a history."""
    from edgeprune.report.history import history_table

    return history_table(history).html()


def layer_costs_html(costs: LayerCosts) -> str:
    """The table of a layer profile."""
    from edgeprune.report.layer_profile import layer_costs_table

    return layer_costs_table(costs).html()


def plan_html(plan: Plan) -> str:
    """The widths that a plan changes."""
    from edgeprune.report.plan import widths_table

    return widths_table(plan).html()


def scene_html(scene: Scene) -> str:
    """One image with what every model found in it."""
    from edgeprune.report.scenes import scenes_html

    return scenes_html([scene])


def sensitivity_html(sensitivity: Sensitivity) -> str:
    """The table of a sensitivity analysis."""
    from edgeprune.report.sensitivity import sensitivity_table

    return sensitivity_table(sensitivity).html()


def sweep_html(sweep: Sweep) -> str:
    """The table of a sweep."""
    from edgeprune.report.sweep import sweep_table

    return sweep_table(sweep).html()


FORMATTERS = {
    "edgeprune.measure.bench.BenchResult": bench_html,
    "edgeprune.measure.compare.Comparison": comparison_html,
    "edgeprune.measure.layers.LayerCosts": layer_costs_html,
    "edgeprune.measure.scenes.Scene": scene_html,
    "edgeprune.records.build.BuildResult": build_html,
    "edgeprune.pruning.plan.Plan": plan_html,
    "edgeprune.pruning.sensitivity.Sensitivity": sensitivity_html,
    "edgeprune.records.frontier.Frontier": frontier_html,
    "edgeprune.records.history.History": history_html,
    "edgeprune.records.sweep.Sweep": sweep_html,
}
"""Full name of a class to what gives its HTML."""
