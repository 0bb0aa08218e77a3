"""What the accuracy gate promises, by simulation: wrong PASS and wrong FAIL over many drawn datasets.

Two detectors look at the same drawn images. The second misses labels more often: it has truly lost nothing, a little
less than the floor, a little more, or twice of it. At or under the floor a FAIL is wrong, over it a PASS is; the gate
errs most where the loss is nearest to the floor. Prints the table of accuracy_gate.md.

    python -m benchmarks.accuracy_gate [--runs 200] [--page benchmarks/accuracy_gate.md]
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.page import printed_by
from edgeprune.samples.average_precision import Detections, drop_interval
from edgeprune.samples.gates import Verdict, accuracy_gate

THRESHOLDS = 10
CLASSES = 3
LOST = 0.35  # skill of the worst detector; half of what that costs is the floor
EDGE = 0.1  # of the floor: how near to it the losses lie at which errors are likeliest
DRAWN = 400_000  # images that a true loss is taken from: known to about 3 % of the floor


@dataclass(frozen=True)
class Scene:
    """Labels of drawn images, and how hard each one is for any detector."""

    images: int
    label_image: np.ndarray
    category: np.ndarray
    difficulty: np.ndarray


def draw_scene(rng: np.random.Generator, images: int) -> Scene:
    """About four labels an image; images differ in how hard they are."""
    label_image = np.repeat(np.arange(images), rng.poisson(4, images))
    hard = rng.normal(0, 0.7, images)[label_image]
    return Scene(images, label_image, rng.integers(0, CLASSES, len(label_image)), rng.normal(0, 1, len(hard)) + hard)


def detect(rng: np.random.Generator, scene: Scene, skill: float) -> Detections:
    """A detector of some skill: what is harder than that is missed; some boxes are invented."""
    own = scene.difficulty + rng.normal(0, 0.5, len(scene.difficulty))
    found = np.flatnonzero(own < skill)
    looseness = np.clip((own[found] + 3) / 6, 0, 1)
    invented = rng.poisson(scene.images)
    image = np.concatenate((scene.label_image[found], rng.integers(0, scene.images, invented)))
    confidence = np.concatenate((rng.beta(5, 2, len(found)), rng.beta(2, 5, invented)))
    correct = np.zeros((len(image), THRESHOLDS), bool)
    correct[: len(found)] = looseness[:, None] < 1 - np.arange(THRESHOLDS) / 15
    category = np.concatenate((scene.category[found], rng.integers(0, CLASSES, invented)))
    return Detections(
        scene.images,
        image.astype(np.int32),
        confidence.astype(np.float32),
        category.astype(np.int32),
        correct,
        scene.label_image.astype(np.int32),
        scene.category.astype(np.int32),
    )


def mean_average_precision(tables: Sequence[Detections]) -> list[float]:
    """The plain mAP of every table: each image counts once."""
    return [float(table.resampled(np.ones((1, table.images), np.float32))[0]) for table in tables]


def true_drop(skill: float, lost: float, images: int = DRAWN) -> float:
    """Difference of mAP on very many images."""
    rng = np.random.default_rng(99)
    scene = draw_scene(rng, images)
    before, after = mean_average_precision([detect(rng, scene, skill), detect(rng, scene, skill - lost)])
    return before - after


def verdicts(runs: int, images: int, lost: float, floor: float, skill: float = 1.0, seed: int = 0) -> Counter[Verdict]:
    """How the gate judged ``runs`` datasets of ``images`` images."""
    counts: Counter[Verdict] = Counter()
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        scene = draw_scene(rng, images)
        tables = detect(rng, scene, skill), detect(rng, scene, skill - lost)
        before, after = mean_average_precision(tables)
        interval = drop_interval(*tables, before - after, seed=run)
        counts[accuracy_gate("engine", before, after, floor, interval=interval).verdict] += 1
    return counts


def lost_for(drop: float, images: int = DRAWN) -> float:
    """The skill that a detector has to lose for a true drop, by bisection on the same drawn images."""
    low, high = 0.0, LOST
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (low, middle) if true_drop(1.0, middle, images) >= drop else (middle, high)
    return (low + high) / 2


def print_table(runs: int, drawn: int = DRAWN) -> None:
    """Every row, and what they were drawn with."""
    drop = true_drop(1.0, LOST, drawn)
    floor = drop / 2
    rows = [
        ("none", 0.0, 0.0),
        *((f"{share:g} × the floor", lost_for(share * floor, drawn), share) for share in (1 - EDGE, 1 + EDGE)),
        ("twice the floor", LOST, 2.0),
    ]
    error = (0.05 * 0.95 / runs) ** 0.5
    print(f"True drop of the worst detector {drop:.4f}, floor {floor:.4f}; {runs} datasets a row. A share of 5 % has a")
    print(f"standard error of {error:.1%} over these.\n")
    print("| true drop | images | PASS | INCONCLUSIVE | FAIL | wrong |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, lost, share in rows:
        for images in (30, 90, 300):
            seen = verdicts(runs, images, lost, floor)
            wrong = seen[Verdict.PASS if share > 1 else Verdict.FAIL] / runs
            row = [seen[verdict] for verdict in (Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL)]
            print(f"| {name} | {images} | {' | '.join(map(str, row))} | {wrong:.1%} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="datasets a row")
    parser.add_argument("--page", type=Path, help="page that gets the table as well")
    given = parser.parse_args()
    printed_by(lambda: print_table(given.runs), given.page, "accuracy-gate")


if __name__ == "__main__":
    main()
