"""The report: complete, self-contained, accessible, honest about what is missing; also in a real browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgeprune.report.html import report_html
from edgeprune.report.plots import plots
from edgeprune.training.scales import scales_of
from edgeprune.training.sparsity import ScaleGroup
from tests.measure.test_scenes import scene
from tests.report.browser import WIDTHS, browse, looked_at, needs_chromium
from tests.report.records import build_record

FIGURES = ["trade-off", "latency", "search", "widths", "curves", "layers"]
VOID = {"meta", "link", "br", "img", "hr"}


class Page(HTMLParser):
    """Tags with their attributes, text by element id, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.errors: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.errors.append(tag)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def text() -> str:
    """The page of the complete record."""
    return report_html(build_record())


@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "INCONCLUSIVE", "PENDING"])
def test_the_verdict_reads_as_in_the_record(verdict: str) -> None:
    page = report_html(build_record(verdict) | {"stages": [], "measurements": [], "plan": {}})
    assert re.findall(r'id="verdict">(\w+)<', page) == [verdict]
    assert f"<title>cpu: {verdict}</title>" in page


def test_every_figure_has_title_description_and_table(text: str) -> None:
    found = plots(build_record())
    assert [plot.key for plot in found] == FIGURES
    for plot in found:
        assert f'<title id="{plot.key}-title">{plot.title}</title>' in plot.svg
        assert f'<desc id="{plot.key}-desc">' in plot.svg and len(plot.alt) > 20
        assert f'aria-labelledby="{plot.key}-title {plot.key}-desc"' in plot.svg
        assert plot.rows and all(len(row) == len(plot.columns) for row in plot.rows)
        assert "#01010" not in plot.svg and "#04040" not in plot.svg  # every colour is the page's
    assert text.count("<figure") == text.count("<details") == text.count("</svg>") == len(FIGURES)


def test_the_page_is_well_formed_and_its_ids_are_unique(text: str) -> None:
    page = Page(text)
    assert not page.errors and not page.open
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for used in re.findall(r"url\(#([^)]+)\)", text) + re.findall(r'href="#([^"]+)"', text):
        assert used in ids


def test_nothing_leaves_the_file(text: str) -> None:
    page = Page(text)
    assert not page.named("script") and not page.named("img") and not page.named("iframe")
    for name in ("src", "href", "xlink:href", "action"):
        for _, attributes in page.tags:
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), value
    assert not re.search(r"@import|url\((?!#)", text)
    [policy] = [row for row in page.named("meta") if row.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in str(policy["content"])


def test_text_of_the_record_is_escaped() -> None:
    record = build_record()
    record["next_command"] = "scp <x> & run"
    page = report_html(record)
    assert "<b>bold</b>" not in page and "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "scp &lt;x&gt; &amp; run" in page and "&#x27;a b.pt&#x27;" in page


def without(*path: str) -> dict[str, Any]:
    record = build_record()
    if path[0] in record:
        record[path[0]] = type(record[path[0]])()
        return record
    facts = next(row["facts"] for row in record["stages"] if row["name"] == path[0])
    del facts[path[1]]
    return record


@pytest.mark.parametrize(
    ("path", "gone"),
    [
        (("measurements",), {"trade-off", "latency"}),
        (("plan",), {"widths"}),
        (("stages",), {"trade-off", "search", "curves", "layers"}),
        (("prune", "probes"), {"search"}),
        (("finetune", "curves"), {"curves"}),
        (("engine", "layers"), {"layers"}),
        (("engine", "accuracy"), {"trade-off"}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_a_part_without_data_is_left_out(path: tuple[str, ...], gone: set[str]) -> None:
    page = report_html(without(*path))
    assert set(re.findall(r'<figure id="([\w-]+)"', page)) == set(FIGURES) - gone
    assert not Page(page).errors


def test_the_figures_carry_the_numbers() -> None:
    record = build_record()
    by_key = {plot.key: plot for plot in plots(record)}
    assert by_key["search"].rows[1][:2] == ("2", "×1.900") and by_key["search"].rows[1][4] == "95.2 %"
    assert by_key["widths"].rows[-1] == ("model.11", "64", "20", "31%")
    assert "Budget 13.3" in by_key["trade-off"].alt
    assert by_key["layers"].rows[-1][3] == "gone or fused"
    assert "Speed-up ×1.598" in by_key["latency"].alt
    record["target"]["budget"] = {"latency_ms": 12.6, "speed_up": None, "macs_speed_up": None, "statistic": "p95"}
    assert "Budget 12.60 ms" in {plot.key: plot for plot in plots(record)}["trade-off"].alt


def test_the_same_record_gives_the_same_page(text: str) -> None:
    assert report_html(build_record()) == text


@needs_chromium
@pytest.mark.parametrize("width", WIDTHS)
def test_in_a_browser(tmp_path: Path, width: int) -> None:
    record = sparsified(build_record("FAIL"))
    seen = looked_at(report_html(record, [scene()]), tmp_path, width)
    assert seen["verdict"] == record["verdict"] == "FAIL"
    assert len(seen["titled"]) == len(FIGURES) + 3 and len(seen["pixels"]) == 3


@needs_chromium
def test_the_browser_would_notice(tmp_path: Path) -> None:
    """Without this the assertions of the test above could be blind."""
    page = tmp_path / "bad.html"
    page.write_text("<img src='http://192.0.2.1/x.png'><script>console.error('seen')</script>")
    _, console, asked = browse(page, "--timeout=3000")
    assert any("seen" in line for line in console)
    assert any("192.0.2.1" in url for url in asked)


def sparsified(record: dict[str, Any]) -> dict[str, Any]:
    """The record with what a sparsity training says of the scales."""
    model = nn.Sequential(nn.BatchNorm2d(40), nn.BatchNorm2d(20))
    groups = [ScaleGroup(40, (("0", tuple(range(40))),)), ScaleGroup(20, (("1", tuple(range(20))),))]
    before = scales_of(model, groups).to_json()
    with torch.no_grad():
        model[0].weight[:30] = 1e-4
    record["stages"].append(
        {"name": "sparsify", "facts": {"scales": {"before": before, "after": scales_of(model, groups).to_json()}}}
    )
    return record


def test_scales_are_drawn_when_the_build_sparsified() -> None:
    drawn = {plot.key: plot for plot in plots(sparsified(build_record()))}["scales"]
    assert "60 prunable channels" in drawn.alt and "before 0.0%, after 50.0%" in drawn.alt
    assert drawn.rows[1][:5] == ("all channels", "after", "60", "50.0%", "30")
    assert len(drawn.rows) == 2 + 4 and all(len(row) == len(drawn.columns) for row in drawn.rows)
    alone = build_record()
    alone["stages"].append(
        {"name": "sparsify", "facts": {"scales": sparsified(build_record())["stages"][-1]["facts"]["scales"]["after"]}}
    )
    assert "scales 50.0%" in {plot.key: plot for plot in plots(alone)}["scales"].alt
