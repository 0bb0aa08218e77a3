"""The same images side by side with what each model found, marked: drawn by matplotlib over one JPEG an image."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeprune.measure.predictions import Found
from edgeprune.measure.scenes import Scene, Seen
from edgeprune.report.drawing import inline
from edgeprune.report.page import table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# On photographs: the same in light and dark, and apart for eyes that do not tell red from green.
RIGHT, WRONG, MISSED, LOST = "#35c4ff", "#ff9f1c", "#ffe14d", "#ff5fd2"
KEY = (
    (RIGHT, "solid", "right: an object of the labels"),
    (WRONG, "solid", "✗ wrong: no object of the labels"),
    (MISSED, "dashed", "missed: in the labels, not found"),
    (LOST, "dotted", "lost: the first model has it, this one does not"),
)
NEW = "+ new: the first model does not have it"
PANEL_IN = 3.2
LETTER_IN = 0.067  # width of a letter of a label, about
MOST_LABELS = 8  # with more boxes than this only what is marked gets its name in the picture; the table has all
COLUMNS = ("model", "class", "score", "by the labels", "against the first model", "where, px")


def scenes_html(scenes: Iterable[Scene]) -> str:
    """A figure for every scene with the meaning of its marks before them; nothing without scenes."""
    shown = list(scenes)
    if not shown:
        return ""
    key = "".join(f'<li><i style="border-color:{c};border-style:{s}"></i>{escape(w)}</li>' for c, s, w in KEY)
    return f'<ul class="key">{key}<li>{escape(NEW)}</li></ul>{"".join(_figure(scene) for scene in shown)}'


def scene_figure(scene: Scene) -> Figure:
    """The scene as a matplotlib figure: labels and every model, side by side."""
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    names = ["labels", *(one.name for one in scene.seen)]
    height = PANEL_IN * scene.height / scene.width + 0.4
    figure = Figure(figsize=(PANEL_IN * len(names), height), layout="constrained")
    pixels = imread(io.BytesIO(scene.jpeg), format="jpeg")
    for axes, name, one in zip(np.ravel(figure.subplots(1, len(names))), names, [None, *scene.seen], strict=True):
        axes.imshow(pixels, extent=(0, scene.width, scene.height, 0))
        axes.set_title(name, fontsize=9)
        _draw(axes, scene, one)
    return figure


def summary_of(scene: Scene, one: Seen) -> str:
    """What the marks come to, in words."""
    if scene.task == "classify":
        return _answers(scene, one)
    against = "" if one is scene.seen[0] else f"; {len(one.lost)} lost, {one.same.count(False)} new"
    return (
        f"{len(one.found)} found: {sum(one.right)} right, {one.right.count(False)} wrong, {len(one.missed)} missed"
        + against
    )


def _answers(scene: Scene, one: Seen) -> str:
    best = [f"{scene.names[found.label]} {found.score:.2f}" for found in one.found]
    head = "right" if any(one.right) else "wrong"
    against = "" if one is scene.seen[0] or all(one.same) else "; the first model said otherwise"
    return f"{head}: {', '.join(best)}{against}"


def _figure(scene: Scene) -> str:
    # ids by content, so that several pages' worth of scenes can stand in one notebook
    key = f"scene-{hashlib.sha256(scene.jpeg + repr(scene.seen).encode()).hexdigest()[:10]}"
    truth = f"{len(scene.truth)} objects" if scene.task != "classify" else _truth(scene)
    panels = [_panel(scene, None, f"{key}-0", key, "labels", truth)]
    panels += [
        _panel(scene, one, f"{key}-{number}", key, one.name, summary_of(scene, one))
        for number, one in enumerate(scene.seen, 1)
    ]
    said = "; ".join(f"{one.name}: {summary_of(scene, one)}" for one in scene.seen)
    return (
        f'<figure id="{key}"><h2>{escape(scene.image)}</h2><div class="scene">{"".join(panels)}</div>'
        f"<figcaption>{escape(f'Labels: {truth}. {said}.')}</figcaption>"
        f"<details><summary>the numbers</summary>{table(COLUMNS, _rows(scene))}</details></figure>"
    )


def _truth(scene: Scene) -> str:
    return ", ".join(scene.names[one.label] for one in scene.truth) or "no label"


def _panel(scene: Scene, one: Seen | None, key: str, shared: str, name: str, said: str) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    size = PANEL_IN, PANEL_IN * scene.height / scene.width
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        figure = Figure(figsize=size)
        axes = figure.add_axes((0, 0, 1, 1))
        _draw(axes, scene, one)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = inline(text.getvalue(), key, f"{scene.image}, {name}", said)
    at = svg.index("</desc>") + len("</desc>")
    if one is None:  # the pixels are in the page once; the other panels point at them
        data = base64.b64encode(scene.jpeg).decode()
        sides = f'width="{72 * size[0]:.2f}" height="{72 * size[1]:.2f}"'
        picture = (
            f'<image id="{shared}-pixels" {sides} preserveAspectRatio="none" href="data:image/jpeg;base64,{data}"/>'
        )
    else:
        picture = f'<use href="#{shared}-pixels"/>'
    return f'<div class="panel"><h3>{escape(name)}</h3>{svg[:at]}{picture}{svg[at:]}<p>{escape(said)}</p></div>'


def _draw(axes: Axes, scene: Scene, one: Seen | None) -> None:
    axes.set_xlim(0, scene.width)
    axes.set_ylim(scene.height, 0)
    axes.set_aspect("auto")
    axes.axis("off")
    if scene.task == "classify":
        if one is not None:
            colour = RIGHT if any(one.right) else WRONG
            _outline(axes, [(0, 0), (scene.width, 0), (scene.width, scene.height), (0, scene.height)], colour, width=6)
        return
    if one is None:
        for found in scene.truth:
            _object(axes, scene, found, RIGHT, "solid", scene.names[found.label] if _few(scene.truth) else "")
        return
    for found in one.missed:
        _object(axes, scene, found, MISSED, "dashed", "")
    for found in one.lost:
        _object(axes, scene, found, LOST, "dotted", "")
    for found, right, same in zip(one.found, one.right, one.same, strict=True):
        mark = ("" if right else "✗ ") + ("" if same else "+ ")
        label = f"{mark}{scene.names[found.label]} {found.score:.2f}" if mark or _few(one.found) else ""
        _object(axes, scene, found, RIGHT if right else WRONG, "solid", label)


def _few(found: Sequence[Found]) -> bool:
    return len(found) <= MOST_LABELS


def _object(axes: Axes, scene: Scene, found: Found, colour: str, line: str, label: str) -> None:
    if found.box is None:
        return
    left, top, right, bottom = found.box
    upright = [(left, top), (right, top), (right, bottom), (left, bottom)]
    if scene.task == "obb":
        for corners in found.outlines:
            _outline(axes, corners, colour, line)
    else:
        _outline(axes, upright, colour, line)
        for outline in found.outlines:
            axes.fill(*zip(*outline, strict=True), color=colour, alpha=0.35, linewidth=0)
    if found.keypoints:
        _skeleton(axes, found.keypoints, colour, line)
    if label:
        inside = top < scene.height * 0.07
        room = scene.width * (1 - len(label) * LETTER_IN / PANEL_IN)
        axes.text(
            *(max(min(left, room), 0), max(top, 0)),
            label,
            color="#ffffff",
            fontsize=8,
            va="top" if inside else "bottom",
            bbox={"facecolor": "#000000", "alpha": 0.65, "pad": 1.0, "linewidth": 0},
        )


def _outline(axes: Axes, corners: Any, colour: str, line: str = "solid", width: float = 1.8) -> None:
    from matplotlib.patches import Polygon

    if line == "solid":  # a dark edge keeps the line visible on a bright photograph
        axes.add_patch(
            Polygon(corners, closed=True, fill=False, edgecolor="#000000", alpha=0.55, linewidth=width + 1.4)
        )
    axes.add_patch(Polygon(corners, closed=True, fill=False, edgecolor=colour, linestyle=line, linewidth=width))


def _skeleton(axes: Axes, keypoints: Sequence[tuple[float, float, float]], colour: str, line: str) -> None:
    shown = [index for index, (_, _, visible) in enumerate(keypoints) if visible > 0.5]
    for a, b in _bones(len(keypoints)):
        if a in shown and b in shown:
            xs, ys = zip(*(keypoints[index][:2] for index in (a, b)), strict=True)
            axes.plot(xs, ys, color=colour, linestyle=line, linewidth=1.4)
    axes.plot(
        [keypoints[index][0] for index in shown],
        [keypoints[index][1] for index in shown],
        "o",
        color=colour,
        markeredgecolor="#000000",
        markeredgewidth=0.6,
        markersize=3.4,
    )


def _bones(keypoints: int) -> list[tuple[int, int]]:
    """Pairs of joints that Ultralytics draws a line between: those of COCO's person; none for other sets."""
    if keypoints != 17:
        return []
    from ultralytics.utils.plotting import Annotator

    return [(a - 1, b - 1) for a, b in Annotator(np.zeros((32, 32, 3), np.uint8)).skeleton]


def _rows(scene: Scene) -> list[tuple[str, ...]]:
    rows = [("labels", scene.names[one.label], "", "", "", _where(one)) for one in scene.truth]
    for one in scene.seen:
        first = one is scene.seen[0]
        for found, right, same in zip(one.found, one.right, one.same, strict=True):
            against = "" if first else "same" if same else "new"
            said = "right" if right else "" if scene.task == "classify" and found is not one.found[0] else "wrong"
            rows.append((one.name, scene.names[found.label], f"{found.score:.3f}", said, against, _where(found)))
        rows += [(one.name, scene.names[found.label], "–", "missed", "", _where(found)) for found in one.missed]
        rows += [(one.name, scene.names[found.label], "–", "", "lost", _where(found)) for found in one.lost]
    return rows


def _where(found: Found) -> str:
    return "" if found.box is None else ", ".join(f"{side:.0f}" for side in found.box)
