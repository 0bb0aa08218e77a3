"""Names in a drawing of a scene: none covers another, however many boxes there are."""

from __future__ import annotations

from itertools import combinations

import cv2
import numpy as np

from edgeprune.measure.predictions import Detection
from edgeprune.measure.scenes import Scene, SceneResult
from edgeprune.report.scenes import draw_scene


def dense_scene() -> Scene:
    """Eighteen objects in a small image, of which the second model gets a third wrong."""
    generator = np.random.default_rng(3)
    places = [(float(x), float(y)) for x, y in generator.uniform(0, (270, 190), (18, 2))]

    def detection(place: tuple[float, float], label: int, score: float | None) -> Detection:
        return Detection(label, score, (*place, place[0] + 44, place[1] + 44))

    jpeg = cv2.imencode(".jpg", np.full((240, 320, 3), 150, np.uint8))[1].tobytes()
    truth = tuple(detection(place, number % 3, None) for number, place in enumerate(places))
    both = tuple(detection(place, number % 3, 0.9 - number / 50) for number, place in enumerate(places))
    right = tuple(number % 3 > 0 for number in range(18))
    results = (
        SceneResult("unpruned", both, (True,) * 18, (True,) * 18, (), (), ()),
        SceneResult("what ships", both, right, tuple(number < 12 for number in range(18)), truth[12:], both[12:], ()),
    )
    return Scene("dense.jpg", 240, 320, jpeg, "detect", {0: "RBC", 1: "WBC", 2: "Platelets"}, truth, results)


def test_no_name_covers_another_and_all_lie_in_the_picture() -> None:
    figure = draw_scene(dense_scene())
    figure.canvas.draw()
    *_, ships = figure.axes
    tags = [text.get_window_extent() for text in ships.texts]
    assert 6 <= len(tags) < 12  # of twelve that are marked some have no room
    assert not any(first.overlaps(second) for first, second in combinations(tags, 2))
    assert all(ships.bbox.expanded(1.02, 1.02).contains(tag.x0, tag.y0) for tag in tags)
    assert all(ships.bbox.expanded(1.02, 1.02).contains(tag.x1, tag.y1) for tag in tags)


def test_the_wrong_and_the_new_are_named_before_the_right() -> None:
    scene = dense_scene()
    texts = [text.get_text() for text in draw_scene(scene).axes[2].texts]
    assert texts and all(text.startswith(("✗", "+")) for text in texts)
