"""The same images side by side with what each model found, marked: drawn by matplotlib over one JPEG an image."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeprune.measure.predictions import Detection
from edgeprune.measure.scenes import Scene, SceneResult
from edgeprune.report.drawing import PLAIN_TEXT, inline_svg
from edgeprune.report.page import render
from edgeprune.report.table import Table

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# On photographs: the same in light and dark, and apart for eyes that do not tell red from green.
RIGHT, WRONG, MISSED, LOST, GONE = "#35c4ff", "#ff9f1c", "#ffe14d", "#ff5fd2", "#d0d0d0"
PANEL_IN, GAP_IN, TITLE_IN = 3.2, 0.1, 0.3
LETTER_IN = 0.067  # width of a letter of a tag, about
TAG_IN = 0.17  # height of a tag
MOST_TAGS = 8  # names in one picture, what is marked and likely first: more would hide it; the table has all
COLUMNS = ("model", "class", "score", "by the labels", "against the first", "where, px")


@dataclass(frozen=True)
class Mark:
    """A line of the legend; one without a colour explains a sign of the labels."""

    colour: str
    line: str
    meaning: str


@dataclass(frozen=True)
class Panel:
    """One drawing of a scene: its labels, or what one model found in it."""

    name: str
    svg: Markup
    summary: str


@dataclass(frozen=True)
class SceneFigure:
    """A scene as a page shows it: a panel for the labels and for every model, and the objects as a table."""

    key: str
    image: str
    panels: tuple[Panel, ...]
    caption: str
    table: Table


def legend_of(scenes: Sequence[Scene]) -> tuple[Mark, ...]:
    """What the marks mean; empty without scenes."""
    if not scenes:
        return ()
    first = scenes[0].results[0].name
    return (
        Mark(RIGHT, "solid", "right: an object of the labels"),
        Mark(WRONG, "solid", "✗ wrong: no object of the labels"),
        Mark(MISSED, "dashed", "missed: in the labels, not found"),
        Mark(LOST, "dotted", f"lost: right in {first}, not found here"),
        Mark(GONE, "dotted", f"gone: wrong in {first}, not found here"),
        Mark("", "", f"+ new: not found by {first}"),
        Mark("", "", "a name that has no room is in the table only"),
    )


def scene_figures(scenes: Iterable[Scene]) -> list[SceneFigure]:
    """The scenes drawn for a page, in their order."""
    return [_scene_figure(scene) for scene in scenes]


def scenes_html(scenes: Sequence[Scene]) -> str:
    """The scenes as a fragment of HTML with the meaning of their marks."""
    return render("scenes", legend=legend_of(scenes), scenes=scene_figures(scenes))


def draw_scene(scene: Scene) -> Figure:
    """The scene as a matplotlib figure: labels and every model, side by side."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    panels = [("labels", None), *((result.name, result) for result in scene.results)]
    width, height = PANEL_IN * len(panels) + GAP_IN * (len(panels) - 1), PANEL_IN * scene.height / scene.width
    with rc_context(PLAIN_TEXT):
        figure = Figure(figsize=(width, height + TITLE_IN))
        pixels = imread(io.BytesIO(scene.jpeg), format="jpeg")
        for place, (name, result) in enumerate(panels):
            left = place * (PANEL_IN + GAP_IN)
            axes = figure.add_axes((left / width, 0, PANEL_IN / width, height / (height + TITLE_IN)))
            axes.imshow(pixels, extent=(0, scene.width, scene.height, 0))
            axes.set_title(name, fontsize=9)
            _draw(axes, scene, result)
    return figure


def summary_of(scene: Scene, result: SceneResult) -> str:
    """What the marks come to, in words."""
    first = result is scene.results[0]
    if scene.task == "classify":
        answers = ", ".join(f"{scene.names[answer.label]} {answer.score:.2f}" for answer in result.detections)
        against = "" if first or all(result.same) else f"; {scene.results[0].name} said otherwise"
        return f"{'right' if any(result.right) else 'wrong'}: {answers}{against}"
    against = "" if first else f"; against {scene.results[0].name}: {differences_text(result)}"
    return (
        f"{len(result.detections)} found: {sum(result.right)} right, {result.right.count(False)} wrong, "
        f"{len(result.missed)} missed{against}"
    )


def differences_text(result: SceneResult) -> str:
    """What a model has in common with the first one and what not, in numbers."""
    return f"{len(result.lost)} lost, {len(result.gone)} gone, {result.new} new"


def _scene_figure(scene: Scene) -> SceneFigure:
    # ids by content, so that several pages' worth of scenes can stand in one notebook
    key = f"scene-{hashlib.sha256(scene.jpeg + repr(scene.results).encode()).hexdigest()[:10]}"
    classes = ", ".join(scene.names[label.label] for label in scene.truth) or "no label"
    truth = classes if scene.task == "classify" else f"{len(scene.truth)} objects"
    panels = [_panel(scene, None, key, 0, "labels", truth)]
    panels += [
        _panel(scene, result, key, number, result.name, summary_of(scene, result))
        for number, result in enumerate(scene.results, 1)
    ]
    caption = "; ".join(f"{panel.name}: {panel.summary}" for panel in panels[1:])
    table = Table.of(COLUMNS, _rows(scene), naming=2)
    return SceneFigure(key, scene.image, tuple(panels), f"Labels: {truth}. {caption}.", table)


def _panel(scene: Scene, result: SceneResult | None, key: str, number: int, name: str, summary: str) -> Panel:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    size = PANEL_IN, PANEL_IN * scene.height / scene.width
    if result is None:  # the pixels are in the page once; the other panels point at them
        data = base64.b64encode(scene.jpeg).decode()
        sides = f'width="{72 * size[0]:.2f}" height="{72 * size[1]:.2f}"'
        pixels = f'<image id="{key}-pixels" {sides} preserveAspectRatio="none" href="data:image/jpeg;base64,{data}"/>'
    else:
        pixels = f'<use href="#{key}-pixels"/>'
    own_key = f"{key}-{number}"
    with rc_context({**PLAIN_TEXT, "svg.fonttype": "none", "svg.hashsalt": own_key}):
        figure = Figure(figsize=size)
        axes = figure.add_axes((0, 0, 1, 1))
        _draw(axes, scene, result)
        return Panel(name, inline_svg(figure, own_key, f"{scene.image}, {name}", summary, pixels), summary)


def _draw(axes: Axes, scene: Scene, result: SceneResult | None) -> None:
    axes.set_xlim(0, scene.width)
    axes.set_ylim(scene.height, 0)
    axes.set_aspect("auto")
    axes.axis("off")
    if scene.task == "classify":
        if result is not None:
            colour = RIGHT if any(result.right) else WRONG
            _outline(axes, [(0, 0), (scene.width, 0), (scene.width, scene.height), (0, scene.height)], colour, width=6)
        return
    tags: list[tuple[str, Detection]] = []
    if result is None:
        for label in scene.truth:
            _object(axes, scene, label, RIGHT, "solid")
        tags = [(scene.names[label.label], label) for label in scene.truth]
    else:
        for label in result.missed:
            _object(axes, scene, label, MISSED, "dashed")
        for detections, colour in ((result.lost, LOST), (result.gone, GONE)):
            for detection in detections:
                _object(axes, scene, detection, colour, "dotted")
        for detection, right, same in zip(result.detections, result.right, result.same, strict=True):
            _object(axes, scene, detection, RIGHT if right else WRONG, "solid")
            mark = ("" if right else "✗ ") + ("" if same else "+ ")
            tags.append((f"{mark}{scene.names[detection.label]} {detection.score:.2f}", detection))
        tags.sort(key=lambda tag: (tag[0][0] not in "✗+", -(tag[1].score or 0.0)))
    _write_tags(axes, scene, tags[:MOST_TAGS])


def _object(axes: Axes, scene: Scene, detection: Detection, colour: str, line: str) -> None:
    if detection.box is None:
        return
    left, top, right, bottom = detection.box
    if scene.task == "obb":
        for corners in detection.outlines:
            _outline(axes, corners, colour, line)
    else:
        _outline(axes, [(left, top), (right, top), (right, bottom), (left, bottom)], colour, line)
        for outline in detection.outlines:
            axes.fill(*zip(*outline, strict=True), color=colour, alpha=0.35, linewidth=0)
    if detection.keypoints:
        _skeleton(axes, detection.keypoints, colour, line)


def _write_tags(axes: Axes, scene: Scene, tags: Iterable[tuple[str, Detection]]) -> None:
    """Name boxes at one of their corners, so that no name covers another; one without room is left to the table."""
    taken: list[tuple[float, float, float, float]] = []
    height = TAG_IN / PANEL_IN * scene.width
    for text, detection in tags:
        if detection.box is None:
            continue
        left, top, right, bottom = detection.box
        width = (len(text) + 1) * LETTER_IN / PANEL_IN * scene.width
        for x, y in itertools.product((left, right - width), (top - height, bottom, top, bottom - height)):
            x, y = max(min(x, scene.width - width), 0), max(min(y, scene.height - height), 0)
            place = (x, y, x + width, y + height)
            if not any(_overlap(place, other) for other in taken):
                taken.append(place)
                style = {"facecolor": "#000000", "alpha": 0.65, "pad": 1.0, "linewidth": 0}
                axes.text(x, y + height / 2, text, color="#ffffff", fontsize=8, va="center", bbox=style)
                break


def _overlap(first: tuple[float, float, float, float], second: tuple[float, float, float, float]) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def _outline(axes: Axes, corners: Any, colour: str, line: str = "solid", width: float = 1.8) -> None:
    from matplotlib.patches import Polygon

    if line == "solid":  # a dark edge keeps the line visible on a bright photograph
        axes.add_patch(
            Polygon(corners, closed=True, fill=False, edgecolor="#000000", alpha=0.55, linewidth=width + 1.4)
        )
    axes.add_patch(Polygon(corners, closed=True, fill=False, edgecolor=colour, linestyle=line, linewidth=width))


def _skeleton(axes: Axes, keypoints: Sequence[tuple[float, float, float]], colour: str, line: str) -> None:
    shown = [index for index, (_, _, visible) in enumerate(keypoints) if visible > 0.5]
    for bone in _bones(len(keypoints)):
        if set(bone) <= set(shown):
            xs, ys = zip(*(keypoints[index][:2] for index in bone), strict=True)
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

    return [(start - 1, end - 1) for start, end in Annotator(np.zeros((32, 32, 3), np.uint8)).skeleton]


def _rows(scene: Scene) -> list[tuple[str, ...]]:
    names = scene.names
    rows = [("labels", names[label.label], "", "", "", _corners(label)) for label in scene.truth]
    for result in scene.results:
        first = result is scene.results[0]
        for detection, right, same in zip(result.detections, result.right, result.same, strict=True):
            against = "" if first else "same" if same else "new"
            unlikely = scene.task == "classify" and detection is not result.detections[0]
            judged = "right" if right else "" if unlikely else "wrong"
            score = f"{detection.score:.3f}"
            rows.append((result.name, names[detection.label], score, judged, against, _corners(detection)))
        rows += [(result.name, names[label.label], "–", "missed", "", _corners(label)) for label in result.missed]
        for word, absent in (("lost", result.lost), ("gone", result.gone)):
            rows += [(result.name, names[other.label], "–", "", word, _corners(other)) for other in absent]
    return rows


def _corners(detection: Detection) -> str:
    return "" if detection.box is None else ", ".join(f"{side:.0f}" for side in detection.box)
