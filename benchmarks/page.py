"""How a benchmark writes its page: what it printed stands between two marks, and what people wrote around it stays.

``<!-- begin: NAME -->`` and ``<!-- end -->`` mark the part, as in docs/. A page without marks is the script's whole.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from edgeprune.artifact import write_atomically

PART = r"(?P<begin><!-- begin: {name} -->\n).*?(?P<end><!-- end -->)"
CONFIDENCE = 0.95
FEWEST_SEEDS = 3  # below these nobody is called ahead, behind or level
WORDS = {
    "ahead": "ahead",
    "behind": "behind",
    "level": "level: the intervals overlap",
    "open": "not told: fewer than three seeds",
}


def publish(page: Path, name: str, text: str) -> None:
    """Put what was printed into a page.

    Args:
        page: the Markdown file; written whole where it is absent or has no such part.
        name: of the part between the marks.
        text: Markdown.
    """
    text = text.rstrip() + "\n"
    pattern = re.compile(PART.format(name=re.escape(name)), re.DOTALL)
    written = page.read_text() if page.is_file() else ""
    whole = pattern.sub(lambda found: found["begin"] + text + found["end"], written, count=1)
    write_atomically(page, whole if pattern.search(written) else text)


def printed_part(page: Path, name: str) -> str | None:
    """What a page has between the marks; all of it where it has no marks; None where there is no page."""
    if not page.is_file():
        return None
    found = re.search(PART.format(name=re.escape(name)), page.read_text(), re.DOTALL)
    return page.read_text() if found is None else found[0][len(found["begin"]) : -len(found["end"])]


def printed_by(work: Callable[[], None], page: Path | None, name: str) -> None:
    """Run what prints Markdown; what it printed goes to the page too when there is one, once it has ended well."""
    if page is None:
        work()
        return
    kept = StringIO()
    with redirect_stdout(kept):
        work()
    print(kept.getvalue())
    publish(page, name, kept.getvalue())


@dataclass(frozen=True)
class Seeds:
    """One figure by several seeds.

    Attributes:
        values: one a seed.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.mean(self.values)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the mean at 95 %, by Student's t over the seeds; None for fewer than two."""
        if len(self.values) < 2:
            return None
        from scipy.stats import t

        half = float(t.ppf((1 + CONFIDENCE) / 2, len(self.values) - 1))
        half *= statistics.stdev(self.values) / math.sqrt(len(self.values))
        return self.mean - half, self.mean + half

    def against(self, other: Seeds) -> str:
        """``ahead``, ``behind``, ``level`` (the intervals overlap) or ``open`` (fewer than three seeds of one): the one
        rule of every page. An interval over images does not tell what another seed would give."""
        fewest = min(len(self.values), len(other.values))
        if fewest < FEWEST_SEEDS or self.interval is None or other.interval is None:
            return "open"
        if self.interval[0] > other.interval[1]:
            return "ahead"
        return "behind" if self.interval[1] < other.interval[0] else "level"

    def text(self, digits: int = 4) -> str:
        """The interval as people read it."""
        if self.interval is None:
            return "one seed"
        return f"{self.interval[0]:.{digits}f} to {self.interval[1]:.{digits}f}"


def latency_differs(one: Sequence[float] | None, other: Sequence[float] | None) -> bool:
    """Whether two intervals of a latency ratio, each its low and its high end, lie apart; not told without both."""
    return one is not None and other is not None and (one[1] < other[0] or other[1] < one[0])


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], right: int = 10**6) -> list[str]:
    """Lines of a Markdown table; columns from ``right`` on are figures."""
    marks = ["---" if number < right else "---:" for number in range(len(columns))]
    lines = [columns, marks, *rows]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]
