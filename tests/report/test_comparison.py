"""A comparison says what its latencies are worth: a disturbed run by name, a bound as its gate would take it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeprune.cli.compare import _print
from edgeprune.report.comparison import comparison_page, models_table, trade_off
from edgeprune.report.text import ms_end
from edgeprune.samples.measurement import latency_bounds
from tests.report import results


def test_a_disturbed_latency_is_not_shown_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    found = results.comparison("other.pt")
    second = found.models[1]
    assert second.latency is not None
    why = "the device throttled during the run: too hot"
    bench = replace(second.latency, disturbed=why, doubt="the clocks stayed free")
    disturbed = replace(
        found,
        models=(found.models[0], replace(second, latency=bench), *found.models[2:]),
        notes=(f"other.pt: {why}; measure again",),
    )
    rows = {row[0]: row[1:] for row in models_table(disturbed).rows}
    assert rows["state of the run"] == ("steady", f"{why}; the clocks stayed free", "steady")
    page = comparison_page(disturbed)
    assert page.count(why) >= 2 and "The times of other.pt are of a disturbed run." in page
    assert "disturbed" not in comparison_page(found)
    _print(disturbed)
    printed = " ".join(capsys.readouterr().out.split())
    assert f"other.pt: {why}; measure again" in printed and "state of the run" in printed


def test_the_bounds_that_are_drawn_hold_in_any_process() -> None:
    found = results.comparison("other.pt")
    plot = trade_off(found)
    assert plot is not None
    for row, model in zip(plot.table.rows, found.models, strict=True):
        assert model.latency is not None
        bound = latency_bounds(model.latency.latency, "p50", 0.99)
        assert row[2:4] == (ms_end(bound.low, up=False), ms_end(bound.high, up=True))
