"""Every page for who hears it, or has no pointer: tables that say what a cell is of, places that a keyboard reaches.

What the layout of a phone leaves of the roles is asked of a browser in :mod:`tests.report.browser`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from xml.etree.ElementTree import Element, TreeBuilder

import pytest

from edgeprune.records.build import BuildRecord
from edgeprune.report.build import build_page
from edgeprune.report.comparison import comparison_page
from edgeprune.report.table import Table
from tests.records.sample import build_record
from tests.report import results
from tests.report.markup import VOID
from tests.report.test_html import sparsified
from tests.report.test_pages import FRAGMENTS, PAGES

ROLES = {"table": "table", "thead": "rowgroup", "tbody": "rowgroup", "tr": "row", "td": "cell"}
TEXT_CONTRAST, GRAPHIC_CONTRAST = 4.5, 3.0  # WCAG 2.2, 1.4.3 and 1.4.11
COLOURS_OF_TEXT = ("ink", "muted", "pass", "fail", "inconclusive", "pending")
COLOURS_OF_DRAWINGS = ("before", "after", "limit")


class Tree(HTMLParser):
    """Well-formed HTML as elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.builder = TreeBuilder()
        self.builder.start("fragment", {})
        self.feed(text)
        self.close()
        self.builder.end("fragment")
        self.root = self.builder.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.builder.start(tag, {name: value or "" for name, value in attrs})
        if tag in VOID:
            self.builder.end(tag)

    def handle_endtag(self, tag: str) -> None:
        self.builder.end(tag)

    def handle_data(self, data: str) -> None:
        self.builder.data(data)


def text_of(element: Element) -> str:
    return "".join(element.itertext()).strip()


def two_scenes_of_one_name() -> str:
    comparison, scene = results.comparison(), results.scene()
    other = replace(scene, results=tuple(replace(result, missed=()) for result in scene.results))
    return comparison_page(replace(comparison, scenes=(scene, other)))


def whole_build(verdict: str) -> BuildRecord:
    return sparsified(build_record(verdict))


EVERY_PAGE = PAGES | {
    "sparsified build": lambda: build_page(whole_build("PASS"), [results.scene()]),
    "build that waits": lambda: build_page(whole_build("PENDING")),
    "two scenes of one name": two_scenes_of_one_name,
}
EVERY_TABLE = {**EVERY_PAGE, **{f"{name}, in a notebook": made for name, made in FRAGMENTS.items()}}


@pytest.mark.parametrize("name", EVERY_TABLE)
def test_every_cell_of_a_table_has_a_role_and_every_row_a_name(name: str) -> None:
    root = Tree(EVERY_TABLE[name]()).root
    assert len(list(root.iter("table"))) > 0 or name == "plot, in a notebook"  # a drawing alone
    for table in root.iter("table"):
        heads, rows = table.findall("thead/tr"), table.findall("tbody/tr")
        assert len(heads) <= 1 and rows
        for element in table.iter():
            scope = "col" if any(element in head for head in heads) else "row"
            if element.tag == "th":
                assert text_of(element), "an empty cell names nothing: it is no th"
                assert element.get("scope") == scope
                assert element.get("role") == {"col": "columnheader", "row": "rowheader"}[scope]
            elif element.tag in ROLES:
                assert element.get("role") == ROLES[element.tag], element.tag
        for row in rows:  # no table of a page is without names of rows
            assert row[0].tag == "th", [text_of(cell) for cell in row]
            assert any(cell.tag == "td" for cell in row)
            assert all(len(row) == len(head) for head in heads)


def rows_named_by(table: Table) -> list[list[str]]:
    return [[text_of(cell) for cell in row.findall("th")] for row in Tree(table.html()).root.iterfind(".//tbody/tr")]


def test_a_row_is_named_by_the_columns_that_the_table_says() -> None:
    table = Table.of(("stage", "metric", "value"), [("engine", "size", "1"), ("engine", "", "2")], naming=2)
    assert rows_named_by(table) == [["engine", "size"], ["engine"]]
    assert rows_named_by(table.first(1)) == [["engine", "size"]]
    assert rows_named_by(table.without("stage")) == [["size"], []]
    assert rows_named_by(table.without("value")) == [["engine", "size"], ["engine"]]


@pytest.mark.parametrize("name", EVERY_PAGE)
def test_what_scrolls_is_reached_by_the_keyboard_and_says_what_it_is(name: str) -> None:
    root = Tree(EVERY_PAGE[name]()).root
    scrollers = [element for element in root.iter() if element.get("class") == "scroll"]
    assert len(scrollers) == len(list(root.iter("table")))
    assert all(element.get("tabindex") == "0" and element.get("role") == "region" for element in scrollers)
    labels = [element.get("aria-label", "") for element in scrollers]
    assert all(labels) and len(set(labels)) == len(labels), labels


def test_nothing_else_scrolls() -> None:
    rules = re.findall(r"([^{}]+)\{([^{}]*overflow(?:-[xy])?: (?:auto|scroll)[^{}]*)\}", style())
    assert rules and all(selector.strip().endswith(".scroll") for selector, _ in rules), rules


@pytest.mark.parametrize("name", EVERY_PAGE)
def test_a_page_has_a_language_a_title_and_headings_in_order(name: str) -> None:
    root = Tree(EVERY_PAGE[name]()).root
    assert [element.get("lang") for element in root.iter("html")] == ["en"]
    assert [bool(text_of(element)) for element in root.iterfind(".//head/title")] == [True]
    headings = [element for element in root.iter() if re.fullmatch(r"h[1-6]", element.tag)]
    levels = [int(element.tag[1]) for element in headings]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels
    assert all(text_of(element) for element in headings)


def style() -> str:
    return (files("edgeprune.report") / "templates" / "style.css").read_text()


def colours() -> Iterator[dict[str, str]]:
    """The colours by name of the light page, then of the dark one."""
    for block in re.findall(r":root \{([^}]*)\}", style()):
        yield dict(re.findall(r"--([\w-]+): (#\w+)", block))


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[start : start + 2], 16) / 255 for start in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first: str, second: str) -> float:
    darker, lighter = sorted((luminance(first), luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def test_what_is_written_and_drawn_stands_out_in_light_and_dark() -> None:
    assert contrast("#fff", "#000000") == pytest.approx(21)
    schemes = list(colours())
    assert len(schemes) == 2
    for scheme in schemes:
        named = {*COLOURS_OF_TEXT, *COLOURS_OF_DRAWINGS, "page", "card", "line"}  # a line only parts rows
        assert set(scheme) == named, "a colour that is not held to a contrast"
        for least, names in ((TEXT_CONTRAST, COLOURS_OF_TEXT), (GRAPHIC_CONTRAST, COLOURS_OF_DRAWINGS)):
            for name in names:
                for ground in ("page", "card"):
                    assert contrast(scheme[name], scheme[ground]) >= least, (name, ground)
