"""A drawing by matplotlib as accessible SVG with the table behind it, in colours that the page decides."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeprune.report.page import render
from edgeprune.report.table import Table

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Drawn in a colour that nothing else has, then replaced by the page's variable of that name.
COLOURS = {"ink": "#010101", "muted": "#020202", "before": "#030303", "after": "#040404", "limit": "#050505"}
# Where no page decides (a notebook, a file of its own): middle tones that can be read on white and on black.
COLOURS_OUTSIDE_A_PAGE = {
    "ink": "#77808a",
    "muted": "#8a929b",
    "before": "#8a929b",
    "after": "#2f8fdd",
    "limit": "#d07a1e",
}
WIDTH_IN = 5.0  # wide enough for a column on a desk, still readable when a phone shrinks it to 345 px
PLAIN_TEXT: dict[Any, Any] = {"text.parse_math": False}
"""For everything that draws a name: two dollar signs in a class's or a model's name are no formula."""
STYLE: dict[Any, Any] = {
    **PLAIN_TEXT,
    "svg.fonttype": "none",  # text stays text: it can be read aloud, found, and takes the page's font
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": COLOURS["muted"],
    "axes.labelcolor": COLOURS["ink"],
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.labelcolor": COLOURS["ink"],
    "ytick.labelcolor": COLOURS["ink"],
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


@dataclass(frozen=True)
class Plot:
    """One drawing with its words and its numbers.

    Attributes:
        key: its id in the page.
        title: what it shows, as a heading.
        alt: the same in words with the main figures, for who cannot see it.
        svg: the drawing, with title and description inside.
        table: the numbers behind it.
    """

    key: str
    title: str
    alt: str
    svg: Markup
    table: Table

    def __repr__(self) -> str:
        return f"Plot({self.title!r}: {self.alt})"

    def _repr_html_(self) -> str:
        """The drawing with its title and words, in a notebook."""
        return render("figure", plot=self, colours=COLOURS_OUTSIDE_A_PAGE.items())

    def svg_file(self) -> str:
        """The drawing as a file of its own, with colours in it."""
        colours = "".join(f"--{name}:{colour};" for name, colour in COLOURS_OUTSIDE_A_PAGE.items())
        return str(self.svg).replace("<svg ", f'<svg style="{colours}" ', 1) + "\n"


def draw_plot(
    key: str, title: str, alt: str, draw: Callable[[Axes], None], table: Table, *, height_in: float = 3.2
) -> Plot:
    """Draw a figure of one pair of axes.

    Args:
        key: its id in the page; letters, digits and dashes.
        title, alt, table: as in :class:`Plot`.
        draw: draws on the axes, in the colours of :data:`COLOURS`.
        height_in: in inches; the width is :data:`WIDTH_IN`.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # The salt makes ids of clip paths repeat between runs.
    with rc_context({**STYLE, "svg.hashsalt": key}), warnings.catch_warnings():
        # A name may be of letters that matplotlib's font lacks: it measures a box in their place, and the page's font,
        # which draws the text, has them.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        draw(figure.add_subplot())
        return Plot(key, title, alt, inline_svg(figure, key, title, alt), table)


def legend_above(axes: Axes, columns: int = 1) -> None:
    """A legend above the axes, where it covers nothing that is drawn."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, fontsize=10)


def draw_marks(axes: Axes, places: Sequence[tuple[float, float]], **style: Any) -> None:
    """Marks at these places, where there are any; ``style`` as matplotlib's ``scatter`` takes it."""
    if places:
        axes.scatter(*zip(*places, strict=True), linewidths=2, **style)


def draw_unsure(axes: Axes, places: Sequence[tuple[float, float]]) -> None:
    """Cross out points whose measurement does not show that their budget is held."""
    draw_marks(axes, places, s=80, marker="x", color=COLOURS["limit"], label="not sure", zorder=5)


def shortened(name: str, most: int = 24) -> str:
    """The end of a name that is too long to stand in a drawing; the table behind it has the whole."""
    return name if len(name) <= most else "…" + name[1 - most :]


def inline_svg(figure: Figure, key: str, title: str, alt: str, background: str = "") -> Markup:
    """A drawing as part of a page: no file header, the page's colours, a title and a description.

    The only place where markup is marked as safe: matplotlib escapes the text that it draws, the rest is escaped here.

    Args:
        figure: what to draw; the caller sets matplotlib's parameters.
        key: put before every id in the drawing, because a page may hold an id once.
        title, alt: as in :class:`Plot`.
        background: SVG elements below the drawing, made of nothing that a user can name.
    """
    from markupsafe import Markup

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(width|height)="[\d.]+pt"', "", svg, count=2)
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    svg = re.sub(r'((?:id="|href="#|url\(#))', rf"\g<1>{key}-", svg)
    start = svg.index(">") + 1
    head = Markup('<svg role="img" aria-labelledby="{0}-title {0}-desc"').format(key)
    words = Markup('<title id="{0}-title">{1}</title><desc id="{0}-desc">{2}</desc>').format(key, title, alt)
    return head + Markup(svg[len("<svg") : start]) + words + Markup(background + svg[start:])
