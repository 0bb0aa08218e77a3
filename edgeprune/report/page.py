"""One self-contained page: the style of every page that edgeprune writes, its figures, tables and sections.

Nothing leaves the file: neither scripts nor requests are allowed by its own policy. One drawing serves light and dark,
a desk and a phone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from edgeprune.report.drawing import Plot

STYLE = """
:root { color-scheme: light dark; --page: #fbfbfa; --card: #fff; --ink: #1c1e21; --muted: #6b7177; --line: #e1e3e6;
  --before: #7d8590; --after: #0a6cbd; --limit: #b35900; --pass: #17703a; --fail: #b3261e; --inconclusive: #8a5a00;
  --pending: #0b6a86; }
@media (prefers-color-scheme: dark) { :root { --page: #15171a; --card: #1d2024; --ink: #e8eaed; --muted: #9aa1a9;
  --line: #33383e; --before: #a2abb5; --after: #5ab0f5; --limit: #f0a04b; --pass: #5fd08a; --fail: #ff8a80;
  --inconclusive: #f2c057; --pending: #63c8e6; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 20px 16px 48px; }
h1 { font-size: 1.5rem; margin: 0 0 4px; } h2 { font-size: 1.1rem; margin: 0 0 8px; }
.verdict { border-left: 8px solid var(--colour); background: var(--card); padding: 16px; border-radius: 6px; }
.verdict strong { font-size: 1.7rem; color: var(--colour); letter-spacing: 0.02em; }
.verdict p { margin: 4px 0; }
.PASS { --colour: var(--pass); } .FAIL { --colour: var(--fail); } .INCONCLUSIVE { --colour: var(--inconclusive); }
.PENDING { --colour: var(--pending); } .info { --colour: var(--muted); }
.state { color: var(--colour); font-weight: 600; }
section, figure { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: 14px;
  margin: 16px 0 0; min-width: 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 0 16px; }
figure svg { width: 100%; height: auto; display: block; }
figure svg text { font-family: system-ui, sans-serif !important; }
.scene { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 215px), 1fr)); gap: 12px;
  margin-top: 8px; }
.panel { min-width: 0; } .panel h3 { font-size: 0.95rem; margin: 0; overflow-wrap: anywhere; }
.panel p { margin: 4px 0 0; color: var(--muted); font-size: 0.85rem; } .panel svg { border-radius: 4px; }
.key { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 6px 0 0; padding: 0; list-style: none;
  font-size: 0.85rem; }
.key i { display: inline-block; width: 22px; height: 12px; border: 2px solid; margin-right: 6px; vertical-align: -1px; }
figcaption { color: var(--muted); font-size: 0.9rem; margin-top: 6px; overflow-wrap: anywhere; }
details { margin-top: 6px; } summary { cursor: pointer; color: var(--muted); font-size: 0.9rem; }
.scroll { overflow-x: auto; } details .scroll { max-height: 420px; overflow-y: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--muted); font-weight: 600; }
pre { overflow-x: auto; background: var(--page); padding: 10px; border-radius: 4px; font-size: 0.85rem; margin: 6px 0; }
@media (max-width: 640px) {
  .gates thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); display: block; }
  .gates tr { display: block; padding: 8px 0; border-bottom: 1px solid var(--line); }
  .gates td { display: inline; border: 0; padding: 0 6px 0 0; }
  .gates td:nth-child(2) { padding: 0; } .gates td:nth-child(2)::after { content: ""; display: block; }
  .gates td:first-child { color: var(--muted); } .gates td:last-child { display: block; color: var(--muted); }
  .gates td[data-name]:not(:empty)::before { content: attr(data-name) " "; color: var(--muted); }
}
"""


def page(title: str, parts: Iterable[str]) -> str:
    """The whole file: a title and parts of HTML in reading order."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # nothing leaves the file: neither scripts nor requests are allowed, not even the browser's own for an icon
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{STYLE}</style></head>'
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def figures(plots: Iterable[Plot]) -> str:
    """Drawings beside each other where there is room, each with its title, its words and the table behind it."""
    drawn = "".join(_figure(plot) for plot in plots)
    return f'<div class="figures">{drawn}</div>' if drawn else ""


def section(title: str, content: str) -> str:
    """A part with a heading; nothing without content."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells as text; nothing without rows, no head where every column is unnamed."""
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    top = f"<thead><tr>{head}</tr></thead>" if any(columns) else ""
    return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>'


def _figure(plot: Plot) -> str:
    return (
        f'<figure id="{plot.key}"><h2>{escape(plot.title)}</h2>{plot.svg}<figcaption>{escape(plot.alt)}</figcaption>'
        f"<details><summary>the numbers</summary>{table(plot.columns, plot.rows)}</details></figure>"
    )
