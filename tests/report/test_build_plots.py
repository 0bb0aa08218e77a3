"""The drawings and tables of a build say what its gates say: their reference, their statistic, their confidence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeprune.records.build import BuildRecord
from edgeprune.records.gates import drop_gate
from edgeprune.report import build_plots
from edgeprune.report.build import build_markdown, build_page, classes_table, sizes_table
from edgeprune.report.frontier import frontier_page
from edgeprune.report.sweep import sweep_page
from edgeprune.samples.conditions import EndToEndState
from edgeprune.samples.gates import budget_gate
from edgeprune.samples.measurement import latency_bounds
from edgeprune.samples.statistics import value_of
from edgeprune.samples.text import ceiled
from edgeprune.target import Budget
from tests.records.sample import accuracy, build_record
from tests.report import results

INT8, FP32 = 0.50, 0.55


@pytest.fixture
def below_fp32() -> BuildRecord:
    """A build below FP32, whose unpruned model lost accuracy by its number format already."""
    record = build_record()
    baseline = record.stages.baseline
    facts = replace(baseline.facts, accuracy=accuracy(INT8), accuracy_fp32=accuracy(FP32))
    stages = replace(record.stages, baseline=replace(baseline, facts=facts))
    return replace(record, target=record.target.changed({"precision": "int8"}), stages=stages)


def test_the_floor_that_is_drawn_is_the_gates(below_fp32: BuildRecord) -> None:
    gate = drop_gate(below_fp32.target, below_fp32.stages.baseline.facts, below_fp32.stages.engine.facts)
    assert gate.limit is not None and gate.value == pytest.approx(FP32 - 0.54)
    plot = build_plots.trade_off(below_fp32)
    assert plot is not None
    rows = {row[0]: row for row in plot.table.rows}
    assert rows["floor"][2] == f"{FP32 - gate.limit:.4f}"
    assert rows["unpruned, accuracy in FP32"][2] == f"{FP32:.4f}"
    assert f"Accuracy floor {FP32 - gate.limit:.4f}" in plot.alt


def test_what_is_called_unpruned_is_one_model(below_fp32: BuildRecord) -> None:
    [row] = [row for row in sizes_table(below_fp32).rows if row[0].startswith("mAP")]
    assert row[1] == f"{FP32:.4f}"
    classes = {row[0]: row for row in classes_table(below_fp32).rows}
    assert classes["cell"][1:] == (f"{FP32:.4f}", "0.5400", "-0.0100")
    assert classes["<b>bold</b>"][1] == f"{FP32 / 2:.4f}"


@pytest.mark.parametrize("budget", [Budget(speed_up=1.5, statistic="p95"), Budget(latency_ms=13.0, statistic="p95")])
def test_the_budgets_line_and_figures_are_of_the_statistic_that_is_judged(budget: Budget) -> None:
    record = build_record()
    record = replace(record, target=record.target.model_copy(update={"budget": budget}))
    slow, _ = record.judged_latency or (None, None)
    assert slow is not None
    median = value_of(slow.values, "p50") / 1.5
    assert build_plots.limit_ms(record) == pytest.approx(median if budget.speed_up else 13.0)
    statistic = "p50" if budget.speed_up else "p95"
    for plot in (build_plots.trade_off(record), build_plots.latency(record)):
        assert plot is not None and statistic in f"{plot.alt} {plot.table.columns}"
    assert any(row[0].startswith(f"latency {statistic}") for row in sizes_table(record).rows)


def test_the_bound_that_is_told_is_the_gates() -> None:
    record = build_record()
    target = record.target.model_copy(update={"budget": Budget(latency_ms=13.0, statistic="p95")})
    record = replace(record, target=target)
    pair = record.judged_latency
    assert pair is not None
    gate, plot = budget_gate(target, "engine", *pair), build_plots.latency(record)
    assert plot is not None
    assert "with 99.8% confidence" in plot.alt and plot.table.columns[0] == "ms, one-sided bound at 99.8%"
    high = latency_bounds(pair[1], "p95", 1 - 0.005 / 3).high
    assert high is not None and f" {ceiled(high, 13.0, 'g', 4)} ms" in gate.reason
    assert f"at most {ceiled(high, 13.0, digits=2)} ms" in plot.alt


@pytest.mark.parametrize(("planned", "words"), [(False, "end-to-end "), (True, "planned end-to-end ")])
def test_milliseconds_from_frame_to_boxes_are_called_so_wherever_they_stand(planned: bool, words: str) -> None:
    record = build_record()
    target = record.target.model_copy(update={"budget": Budget(latency_ms=13.0, scope="end_to_end")})
    rows = tuple(
        replace(
            row,
            measurement=replace(
                row.measurement,
                conditions=replace(
                    row.measurement.conditions, scope="end_to_end", end_to_end=EndToEndState(stand_in=planned)
                ),
            ),
        )
        for row in record.measurements
    )
    record = replace(record, target=target, measurements=rows)
    page, markdown = build_page(record), build_markdown(record)
    assert any(row[0].startswith(f"{words}latency p95") for row in sizes_table(record).rows)
    for head in (f">{words}latency p95<", f">{words}speed-up<", f"Accuracy against {words}latency"):
        assert head in page, head
    assert f"| {words}latency p95" in markdown and "| end-to-end unpruned | end-to-end pruned |" in markdown
    drawn = build_plots.latency(record)
    assert drawn is not None and drawn.title == f"{words[:1].upper()}{words[1:]}latency, every sample"
    assert f"{words}p95 " in drawn.alt and drawn.table.columns[0].startswith(f"{words}ms")
    assert "end-to-end" not in build_page(build_record()) + build_markdown(build_record())


def test_a_sweep_and_a_frontier_say_what_was_timed() -> None:
    for made, page in ((results.sweep(), sweep_page), (results.frontier(), frontier_page)):
        assert "end-to-end" not in page(made)
        whole = page(replace(made, scope="end_to_end"))
        assert "Accuracy against end-to-end latency" in whole and ">end-to-end ms<" in whole
