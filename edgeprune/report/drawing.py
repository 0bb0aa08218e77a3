"""A drawing by matplotlib as accessible SVG with the table behind it, in colours that the page decides."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Drawn in a colour that nothing else has, then replaced by the page's variable of that name.
COLOURS = {"ink": "#010101", "muted": "#020202", "before": "#030303", "after": "#040404", "limit": "#050505"}
# A notebook has no style of ours: middle tones that can be read on white and on black.
IN_A_NOTEBOOK = {"ink": "#77808a", "muted": "#8a929b", "before": "#8a929b", "after": "#2f8fdd", "limit": "#d07a1e"}
WIDTH_IN = 5.0  # wide enough for a column on a desk, still readable when a phone shrinks it to 345 px
STYLE: dict[Any, Any] = {
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
    """One figure of the report.

    Attributes:
        key: its id in the page.
        title: what it shows, as a heading.
        alt: the same in words with the main figures, for who cannot see it.
        svg: the drawing, with title and description inside.
        columns: head of the table behind it.
        rows: the table.
    """

    key: str
    title: str
    alt: str
    svg: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __repr__(self) -> str:
        return f"Plot({self.title!r}: {self.alt})"

    def _repr_html_(self) -> str:
        """The drawing with its title and words, in a notebook."""
        colours = "".join(f"--{name}:{colour};" for name, colour in IN_A_NOTEBOOK.items())
        return (
            f'<div style="{colours}max-width:640px"><strong>{escape(self.title)}</strong>{self.svg}'
            f"<p>{escape(self.alt)}</p></div>"
        )


def plot(
    key: str,
    title: str,
    alt: str,
    draw: Callable[[Axes], None],
    columns: Sequence[str],
    rows: Sequence[tuple[str, ...]],
    height: float = 3.2,
) -> Plot:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # The salt makes ids of clip paths repeat between runs.
    with rc_context({**STYLE, "svg.hashsalt": key}):
        figure = Figure(figsize=(WIDTH_IN, height), layout="constrained")
        draw(figure.add_subplot())
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Plot(key, title, alt, inline(text.getvalue(), key, title, alt), tuple(columns), tuple(rows))


def inline(svg: str, key: str, title: str, alt: str) -> str:
    """A drawing as part of a page: no file header, the page's colours, a title and a description."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(width|height)="[\d.]+pt"', "", svg, count=2)
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    # matplotlib gives every figure the same ids (axes_1, patch_2), but a page may hold an id once
    svg = re.sub(r'((?:id="|href="#|url\(#))', rf"\g<1>{key}-", svg)
    head = f'<svg role="img" aria-labelledby="{key}-title {key}-desc"'
    said = f'<title id="{key}-title">{escape(title)}</title><desc id="{key}-desc">{escape(alt)}</desc>'
    start = svg.index(">") + 1
    return head + svg[len("<svg") : start] + said + svg[start:]
