"""The report: complete, self-contained, accessible, honest about what is missing; also in a real browser."""

from __future__ import annotations

import html
import re
import socket
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgeprune.cli.console import print_next_step, print_verdict
from edgeprune.records.build import BuildRecord
from edgeprune.records.facts import SparsifyFacts
from edgeprune.records.gates import drop_gate
from edgeprune.report.build import build_markdown, build_page, sizes_table
from edgeprune.report.build_plots import build_plots
from edgeprune.report.sparsity import scale_plots
from edgeprune.report.table import Table
from edgeprune.report.verdict import accuracy_text
from edgeprune.samples.average_precision import DropInterval
from edgeprune.samples.gates import Gate, Verdict, pending_gate
from edgeprune.settings import SparsitySettings
from edgeprune.stages.bundle_readme import readme
from edgeprune.target import Budget
from edgeprune.training.result import SparsityReport
from edgeprune.training.scales import scales_of
from edgeprune.training.sparsity import ScaleGroup
from tests.measure.test_scenes import scene
from tests.records.sample import build_record, row
from tests.report.browser import WIDTHS, browse, looked_at, needs_chromium
from tests.report.markup import Page, check_that_nothing_leaves

LONG_STAGES = ("pretrain", "baseline", "finetune", "simplify", "quantize")
FIGURES = ["trade-off", "latency", "search", "widths", "curves", "layers"]


@pytest.fixture(scope="module")
def text() -> str:
    """The page of the complete record."""
    return build_page(build_record())


@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "INCONCLUSIVE", "PENDING"])
def test_the_verdict_reads_as_in_the_record(verdict: str) -> None:
    page = build_page(without("measurements", without("dimensions", build_record(verdict))))
    assert re.findall(r'id="verdict">(\w+)<', page) == [verdict]
    assert f"<title>cpu: {verdict}</title>" in page


@pytest.mark.parametrize(("task", "metric"), [("detect", "mAP50-95"), ("classify", "top-1 accuracy")])
def test_every_text_calls_the_figure_by_its_tasks_name(task: str, metric: str) -> None:
    record = replace(build_record(), task=task)
    for stage in ("baseline", "engine"):
        judged = getattr(record.stages, stage).facts.accuracy
        record = with_facts(record, stage, accuracy=replace(judged, accuracy=replace(judged.accuracy, task=task)))
    record = replace(record, gates=())
    assert f"{metric} may fall by 0.02" in build_markdown(record)
    assert "mAP" not in build_markdown(record).replace(metric, "")


def test_names_made_of_digits_are_names() -> None:
    assert Table.of(("class", "AP"), [("7", "0.5"), ("9", "–")]).numeric == (False, True)


def test_every_figure_has_title_description_and_table(text: str) -> None:
    found = build_plots(build_record())
    assert [plot.key for plot in found] == FIGURES
    for plot in found:
        assert f'<title id="{plot.key}-title">{plot.title}</title>' in plot.svg
        assert f'<desc id="{plot.key}-desc">' in plot.svg and len(plot.alt) > 20
        assert f'aria-labelledby="{plot.key}-title {plot.key}-desc"' in plot.svg
        assert plot.table.rows and all(len(row) == len(plot.table.columns) for row in plot.table.rows)
        assert "#01010" not in plot.svg and "#04040" not in plot.svg  # every colour is the page's
    assert text.count("<figure") == text.count("<details") == text.count("</svg>") == len(FIGURES)


def test_the_page_is_well_formed_and_its_ids_are_unique(text: str) -> None:
    page = Page(text)
    assert not page.errors and not page.open
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    uses = re.findall(r"url\(#([^)]+)\)", text) + re.findall(r'href="#([^"]+)"', text)
    assert len(uses) > 10
    for used in uses:
        assert used in ids


def test_nothing_leaves_the_file(text: str) -> None:
    check_that_nothing_leaves(text)


def test_text_of_the_record_is_escaped() -> None:
    page = build_page(replace(build_record(), next_command="scp <x> & run"))
    assert "<b>bold</b>" not in page and "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "<span>&lt;x&gt;</span> <span>&amp;</span>" in page and "<span>&#39;a b.pt&#39;</span>" in page


def with_facts(record: BuildRecord, stage: str, **changes: Any) -> BuildRecord:
    """The record with other facts of a stage."""
    given = getattr(record.stages, stage)
    changed = replace(given, facts=replace(given.facts, **changes))
    return replace(record, stages=replace(record.stages, **{stage: changed}))


def without(part: str, record: BuildRecord | None = None) -> BuildRecord:
    """The record without the data of one part of the page."""
    record = record or build_record()
    if part == "measurements":
        return replace(record, measurements=())
    if part == "dimensions":
        return replace(record, plan=replace(record.plan, dimensions=()))
    if part == "probes":
        return with_facts(record, "prune", probes=())
    if part == "epochs":
        return with_facts(record, "finetune", training=replace(record.stages.finetune.facts.training, epochs=()))
    return with_facts(record, "engine", layers=None)


@pytest.mark.parametrize(
    ("part", "gone"),
    [
        ("measurements", {"trade-off", "latency"}),
        ("dimensions", {"widths"}),
        ("probes", {"search"}),
        ("epochs", {"curves"}),
        ("layers", {"layers"}),
    ],
)
def test_a_part_without_data_is_left_out(part: str, gone: set[str]) -> None:
    page = build_page(without(part))
    assert set(re.findall(r'<figure id="([\w-]+)"', page)) == set(FIGURES) - gone
    assert not Page(page).errors


def test_the_figures_carry_the_numbers() -> None:
    record = build_record()
    by_key = {plot.key: plot for plot in build_plots(record)}
    assert by_key["search"].table.rows[1][:2] == ("2", "×1.900") and by_key["search"].table.rows[1][4] == "95.2 %"
    assert by_key["widths"].table.rows[-1] == ("model.11", "64", "20", "31%")
    assert "Budget 13.3" in by_key["trade-off"].alt
    assert [row[0] for row in by_key["curves"].table.rows] == ["0", "1", "2", "3", "4"], "epoch 0 is the pruned model"
    assert by_key["layers"].table.rows[-1][3] == "gone or fused"
    assert "Speed-up ×1.598" in by_key["latency"].alt
    target = record.target.model_copy(update={"budget": Budget(latency_ms=12.6, statistic="p95")})
    record = replace(record, target=target)
    assert "Budget 12.60 ms" in {plot.key: plot for plot in build_plots(record)}["trade-off"].alt


def test_the_banner_names_the_failed_gate_and_the_next_step() -> None:
    page = build_page(build_record("FAIL"))
    banner = page[page.index("<header") : page.index("</header>")]
    assert "engine, speed-up" in banner and "because of speed-up" in banner and "(limit ×1.5)" in banner
    assert "power" not in banner  # it waits, it did not fail
    assert "<span>edgeprune</span> <span>build</span> <span>--weights</span>" in banner
    assert "<pre>" not in build_page(build_record("PASS")).partition("</header>")[0]


def told(record: BuildRecord) -> str:
    """What a terminal says of a finished build."""
    printed = StringIO()
    with redirect_stdout(printed):
        print_verdict(record)
        print_next_step(record)
    return printed.getvalue()


def beside(record: BuildRecord) -> str:
    """The page of a bundle."""
    return readme(record, Path("model.onnx"))


@pytest.mark.parametrize(
    ("text_of", "place"),
    [(build_page, "above"), (build_markdown, "below"), (beside, "above"), (told, "below")],
    ids=["page", "markdown", "readme", "terminal"],
)
def test_a_long_command_stands_once(text_of: Callable[[BuildRecord], str], place: str) -> None:
    command = "scp -r bundle board: && ssh board 'sh run-on-device.sh' && edgeprune import-results results.tar"
    record = build_record("PENDING")
    waiting = [pending_gate("engine", f"latency p{percent}", 8.0, "ms", command) for percent in (50, 95)]
    text = text_of(replace(record, next_command=command, gates=(*record.gates, *waiting)))
    assert text.count("import-results") == 1
    assert text.count(f"the command {place}") == 2


def test_before_and_after_has_latency_and_accuracy_with_what_they_rest_on() -> None:
    record = build_record()
    rows = {row[0]: row[1:] for row in sizes_table(record).rows}
    slow, fast, ratio = rows["latency p50, two-sided 95 % interval"]
    assert re.fullmatch(r"[\d.]+ ms \([\d.]+ to [\d.]+\)", slow) and fast.endswith(")")
    assert re.fullmatch(r"×1\.598 \([\d.]+ to [\d.]+\)", ratio)
    assert rows[f"mAP50-95, 16 images of val of {Path(record.dataset.path).name}"] == ("0.5500", "0.5400", "-0.0100")
    known = with_facts(record, "engine", accuracy_drop=DropInterval(0.01, 0.004, 87, 200))
    [*_, changed] = sizes_table(known).rows
    assert changed[0].endswith("two-sided 95 % interval") and changed[3] == "-0.0100 (-0.0180 to -0.0020)"
    # the same latency reads the same wherever it stands
    shown = fast.split()[0]
    plots = {plot.key: plot for plot in build_plots(record)}
    assert f"What ships: {shown} ms" in plots["trade-off"].alt and f"{shown} ms shipped" in plots["latency"].alt
    assert f"<dd>{shown} ms</dd>" in build_page(record)
    assert ("what ships", shown) == plots["trade-off"].table.rows[1][:2]
    assert plots["latency"].table.rows[1][2].startswith(shown)


def test_every_interval_of_95_says_how_many_sides_it_has() -> None:
    known = with_facts(build_record(), "engine", accuracy_drop=DropInterval(0.01, 0.004, 87, 200))
    gate = drop_gate(known.shipped_target, known.stages.baseline.facts, known.stages.engine.facts)
    known = replace(known, gates=(*known.gates, gate))
    assert gate.verdict is Verdict.PASS and " or better (95%" in gate.reason  # one end
    for text in (build_page(known), build_markdown(known), accuracy_text(known)):
        plain = html.unescape(re.sub(r"<[^>]+>", " ", text))
        told = re.findall(r"(\S+) 95 %(?!\d)", plain)
        assert told and set(told) == {"two-sided"}
        assert "its bound is one-sided" in accuracy_text(known)


def test_a_probe_lies_at_its_share_of_the_budget_whatever_the_machine_did_meanwhile() -> None:
    record = build_record()
    slower = [
        replace(probe, latency=replace(probe.latency, baseline_ms=40.0, candidate_ms=25.4))
        for probe in record.stages.prune.facts.probes
    ]
    drifted = with_facts(record, "prune", probes=tuple(slower))
    given, after = (next(plot for plot in build_plots(one) if plot.key == "trade-off") for one in (record, drifted))
    assert given.svg == after.svg and given.table == after.table
    assert [row[1] for row in given.table.rows if row[0].startswith("probe")] == [
        "80.0% of the budget",
        "95.2% of the budget",
    ]


def test_probes_have_their_intervals_where_the_record_has_them() -> None:
    record = build_record()
    known = [replace(probe, budget_share_low=probe.budget_share - 0.03) for probe in record.stages.prune.facts.probes]
    drawn = {plot.key: plot for plot in build_plots(with_facts(record, "prune", probes=tuple(known)))}
    assert [row[4] for row in drawn["search"].table.rows] == ["80.0 % (77.0 to 82.0)", "95.2 % (92.2 to 97.2)"]


def test_the_window_of_the_search_is_the_one_that_the_search_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeprune.report.build_plots.BUDGET_WINDOW", (0.9, 0.98))
    [plot] = [plot for plot in build_plots(build_record()) if plot.key == "search"]
    assert "wanted: 92 to 98 %" in plot.svg


def test_the_same_record_gives_the_same_page(text: str) -> None:
    assert build_page(build_record()) == text


@needs_chromium
@pytest.mark.parametrize("width", WIDTHS)
def test_in_a_browser(tmp_path: Path, width: int) -> None:
    record = sparsified(build_record("FAIL"))
    # a reason and units as long as a real build's: they must not push the names of stages into pieces
    lost = "0.5308 → 0.5951, 0.0300 may be lost; on other images +0.0513 or better (95%, 160 images)"
    long = [Gate(name, "output difference", 1.8e-4, 1e-3, "px/score", Verdict.PASS, lost) for name in LONG_STAGES]
    record = replace(record, gates=(*record.gates, *long))
    seen = looked_at(build_page(record, [scene()]), tmp_path, width)
    assert seen["verdict"] == record.verdict.value == "FAIL"
    assert len(seen["titled"]) == len(FIGURES) + 3 and len(seen["pixels"]) == 3


@needs_chromium
def test_the_browser_would_notice(tmp_path: Path) -> None:
    """Without this the assertions of the test above could be blind."""
    page = tmp_path / "bad.html"
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # taken, and refusing at once: nobody listens
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x.png"
        page.write_text(f"<img src='{url}'><script>console.error('seen')</script>")
        _, console, asked = browse(page)
    assert any("seen" in line for line in console)
    assert url in asked


def sparsified(record: BuildRecord) -> BuildRecord:
    """The record with what a sparsity training says of the scales."""
    model = nn.Sequential(nn.BatchNorm2d(40), nn.BatchNorm2d(20))
    groups = [ScaleGroup(40, (("0", tuple(range(40))),)), ScaleGroup(20, (("1", tuple(range(20))),))]
    before = scales_of(model, groups).report()
    with torch.no_grad():
        model[0].weight[:30] = 1e-4
    scales = SparsityReport("summary", SparsitySettings(), before, scales_of(model, groups).report())
    facts = SparsifyFacts(record.stages.finetune.facts.training, scales)
    return replace(record, stages=replace(record.stages, sparsify=row(facts)))


def test_scales_are_drawn_when_the_build_sparsified() -> None:
    record = sparsified(build_record())
    drawn = {plot.key: plot for plot in build_plots(record)}["scales"]
    assert "60 prunable channels" in drawn.alt and "before 0.0%, after 50.0%" in drawn.alt
    assert drawn.table.rows[1][:5] == ("all channels", "after", "60", "50.0%", "30")
    assert len(drawn.table.rows) == 2 + 4 and all(len(row) == len(drawn.table.columns) for row in drawn.table.rows)
    assert record.stages.sparsify is not None
    scales, _ = scale_plots(None, record.stages.sparsify.facts.scales.after)
    assert "scales 50.0%" in scales.alt


def test_scenes_that_were_drawn_are_taken_over(text: str) -> None:
    drawn = build_page(record := build_record(), [scene()])
    assert text == build_page(record) and "Detections side by side" not in text
    assert build_page(record, before=drawn) == drawn
    assert build_page(record, before=build_page(record, before=drawn)) == drawn
    assert build_page(record, before=text) == text
