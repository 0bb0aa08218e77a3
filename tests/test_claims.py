"""Every table of README.md and docs/ says where its figures are from, and they are there.

A table has one of these above it, else a test fails:

- ``<!-- source: benchmarks/X.md -->``: it is measured. Each of its rows, the head too, is a row of that page: the same
  cells, or fewer of them in the same order, with figures rounded as shown.
- ``<!-- not measured: why -->``: facts, such as exit codes. It may hold nothing that looks measured.
- ``<!-- begin: … -->``: written by docs/pages.py from the code, which tests/test_docs.py holds.

A paragraph, and a cell, that names a page of benchmarks/ has its figures from that page, or that page's JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_DOWN, ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARK = re.compile(r"^<!-- (?P<kind>source|not measured|begin): (?P<what>.+?) -->$")
FIGURE = re.compile(r"(?<![\w.-])\d*\.?\d+(?![\w]|\.\d|-\d)")
MEASURED = re.compile(r"[×x] ?\d|\d ?(?:ms|µs|s|fps|images/s)\b|(?<![\w.])0?\.\d{3,4}(?![\d.])")
"""What looks like a measurement: a ratio, a latency, an mAP."""
NAMED = re.compile(r"benchmarks/(?P<page>\w+)\.(?:md|json)")


@dataclass(frozen=True)
class Block:
    """A paragraph or a table of a page.

    Attributes:
        page: relative to the repository.
        line: of its first line, from 1.
        text: without the mark above it.
        kind: of the mark above it, or empty.
        what: what the mark says.
    """

    page: str
    line: int
    text: str
    kind: str
    what: str

    @property
    def is_table(self) -> bool:
        return self.text.startswith("|")

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str, text: str) -> Iterator[Block]:
    """Paragraphs and tables of a page; code between fences is left out."""
    lines, start, fenced, kind, what, inside = [], 0, False, "", "", ""

    def done() -> Iterator[Block]:
        if lines:
            yield Block(page, start, "\n".join(lines), inside or kind, what)

    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.startswith("```"):
            fenced = not fenced
        mark = MARK.match(line)
        ends = fenced or line.startswith(("```", "<!--")) or not line.strip()
        item = re.match(r"(?:[-*]|\d+\.) ", line)  # a list's items are about different things
        if ends or item or (lines and line.startswith("|") != lines[-1].startswith("|")):
            yield from done()
            if lines:
                kind = what = "" if not inside else what
            lines = []
        if mark and mark["kind"] == "begin":
            inside, what = "begin", mark["what"]
        elif mark:
            kind, what = mark["kind"], mark["what"]
        elif line == "<!-- end -->":
            inside = kind = what = ""
        elif not ends:
            start = start if lines else number
            lines.append(line)


def rows(text: str) -> list[list[str]]:
    """Cells of every row of a table, marks of emphasis left out, the head first, the line under it left out."""
    found = [line.strip().strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip().replace("**", "").replace("`", "") for cell in row] for row in found]
    return [row for row in cells if not all(re.fullmatch(r":?-+:?", cell) for cell in row)]


def rounds_to(shown: str, source: str) -> bool:
    """Whether a figure is another one with as many digits as shown: ``.552`` is ``0.5518``."""
    places = Decimal(1).scaleb(-len(shown.partition(".")[2]))
    ways = (ROUND_HALF_EVEN, ROUND_HALF_UP, ROUND_HALF_DOWN)
    return any(Decimal(source).quantize(places, rounding=way) == Decimal(shown) for way in ways)


def cell_is(shown: str, source: str) -> bool:
    """The same words, and figures that round to those shown."""
    if FIGURE.sub("#", shown) != FIGURE.sub("#", source):
        return False
    return all(map(rounds_to, FIGURE.findall(shown), FIGURE.findall(source)))


def row_is(shown: list[str], source: list[str]) -> bool:
    """All cells of a row stand in another row, in order."""
    rest = iter(source)
    return all(any(cell_is(cell, other) for other in rest) for cell in shown)


def source_text(name: str) -> str:
    """A page of benchmarks/ and the JSON of its name."""
    path = ROOT / name
    files = [one for one in (path, path.with_suffix(".md"), path.with_suffix(".json")) if one.is_file()]
    assert files, f"{name} is named as a source and is not there"
    return "\n".join(one.read_text() for one in dict.fromkeys(files))


def faults(block: Block) -> list[str]:
    """What is not held of a block; one line each."""
    if block.is_table and not block.kind:
        return [f"{block.place}: no mark above this table (source, not measured, or begin)"]
    if block.is_table and block.kind == "source":
        known = rows((ROOT / block.what).read_text()) if (ROOT / block.what).is_file() else []
        return [
            f"{block.place}: no row of {block.what} says: {' | '.join(row)}"
            for row in rows(block.text)
            if not any(row_is(row, other) for other in known)
        ]
    found = []
    if block.is_table:
        cells = [cell for row in rows(block.text) for cell in row]
        if block.kind == "not measured":
            found += [
                f"{block.place}: looks measured, under 'not measured': {cell}"
                for cell in cells
                if MEASURED.search(cell) and not NAMED.search(cell)
            ]
        said = [(cell, NAMED.findall(cell)) for cell in cells]
    else:
        said = [(block.text, [block.what.removesuffix(".md")] if block.kind == "source" else NAMED.findall(block.text))]
    for text, names in said:
        sources = [name if "/" in name else f"benchmarks/{name}.md" for name in dict.fromkeys(names)]
        known = [figure for name in sources for figure in FIGURE.findall(source_text(name))]
        for figure in measured_figures(text if block.is_table else re.sub(r"`[^`]*`", "", text)) if names else ():
            if not any(rounds_to(figure, other) for other in known):
                found.append(f"{block.place}: {figure} stands nowhere in {' and '.join(sources)}")
    return found


def measured_figures(text: str) -> list[str]:
    """The figures of a text that look measured: with a decimal point, or behind ×."""
    return [found[0] for found in FIGURE.finditer(text) if "." in found[0] or text[: found.start()].endswith("×")]


def every_block() -> list[Block]:
    return [block for path in PAGES for block in blocks(path.relative_to(ROOT).as_posix(), path.read_text())]


def test_every_figure_in_a_table_has_its_source() -> None:
    tables = [block for block in every_block() if block.is_table]
    assert len(tables) > 40
    assert [fault for block in tables for fault in faults(block)] == []


def test_figures_beside_the_name_of_a_page_stand_in_it() -> None:
    told = [block for block in every_block() if not block.is_table and (NAMED.search(block.text) or block.kind)]
    assert len(told) > 5
    assert [fault for block in told for fault in faults(block)] == []


MEASURED_TABLES = [block for block in every_block() if block.is_table and block.kind == "source"]


@pytest.mark.parametrize("block", MEASURED_TABLES, ids=lambda block: block.place)
def test_any_changed_digit_of_a_measured_table_is_noticed(block: Block) -> None:
    assert faults(block) == []
    digits = [place for place, character in enumerate(block.text) if character.isdigit()]
    assert len(digits) > 10
    for place in digits:
        other = str((int(block.text[place]) + 1) % 10)
        changed = Block(
            block.page, block.line, block.text[:place] + other + block.text[place + 1 :], "source", block.what
        )
        assert faults(changed), f"{block.place}: {block.text[place]} may be {other}"


def test_a_table_without_a_mark_is_noticed() -> None:
    [block] = blocks("page.md", "| a | b |\n| --- | --- |\n| c | ×1.5 |\n")
    assert faults(block)


def test_a_changed_figure_beside_the_name_of_a_page_is_noticed() -> None:
    told = "It brought {} in the mean (`benchmarks/training_distillation.md`)."
    for figure, count in ((".004", 0), (".0041", 1)):
        [block] = blocks("page.md", told.format(figure))
        assert len(faults(block)) == count


def test_a_measurement_among_facts_is_noticed() -> None:
    for cell in ("×1.5", "12 ms", "75.5 s", ".552", "0.5518"):
        [block] = blocks("page.md", f"<!-- not measured: facts -->\n| a | b |\n| --- | --- |\n| c | {cell} |\n")
        assert block.kind == "not measured"
        assert faults(block), cell


@pytest.mark.parametrize(
    ("shown", "source", "same"),
    [
        (".552", "0.5518", True),
        ("0.552", "0.5518", True),
        (".553", "0.5518", False),
        ("×2.0 (1 seed)", "×2.04 (1 seed)", True),
        ("×2.0 (2 seeds)", "×2.04 (1 seed)", False),
        ("yolov8n", "yolov8s", False),
        ("30 of 63", "30 of 63", True),
    ],
)
def test_a_cell_is_another_rounded(shown: str, source: str, same: bool) -> None:
    assert cell_is(shown, source) is same
