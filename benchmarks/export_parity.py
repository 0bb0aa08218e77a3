"""Parity of every family and task, pruned: ONNX to PyTorch, and the simplified file to the unsimplified one.

    python -m benchmarks.export_parity IMAGES_DIR [--ratio 0.4] [--imgsz 640] [--family yolo26]

Weights are seeded and random, scales and shifts of the normalisation layers too, with their statistics and the score
biases set so that scores are spread over [0, 1]: parity of arithmetic does not depend on training, and trained weights
of all fifteen models are not at hand.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.page import printed_by
from edgeprune.checkpoint import parameter_count
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.export.parity import parity
from edgeprune.export.simplify import simplify_onnx
from edgeprune.pruning.api import prune
from edgeprune.quiet import quiet
from tests.export.helpers import TASKS, saved, stock_model

FAMILIES = ("yolov8", "yolo11", "yolo26")
LIMIT, SIMPLIFY_LIMIT = 1e-3, 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--ratio", type=float, default=0.4)
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--family", choices=FAMILIES, help="one family instead of all three")
    parser.add_argument("--page", type=Path, help="page that gets the table as well, in its part for this size")
    given = parser.parse_args()
    printed_by(lambda: print_table(given), given.page, f"export-parity {given.imgsz}")


def print_table(given: argparse.Namespace) -> None:
    """Every family and task, as lines of Markdown."""
    images = sorted(given.images.glob("*.jpg"))[: given.count]
    print(
        "| model | task | head | parameters kept | box px | score | extra | unpaired | nodes | simplify max |",
        flush=True,
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    bad = done = 0
    with quiet(), tempfile.TemporaryDirectory() as folder:
        for family in [given.family] if given.family else FAMILIES:
            for task in TASKS:
                imgsz = 224 if task == "classify" else given.imgsz
                # rotated NMS of all anchors is slow
                model = stock_model(family, task, bias=-7.0 if task == "obb" else -1.0, random_norms=True)
                pruned: Any = prune(model, ratio=given.ratio, imgsz=imgsz, importance="lamp").model
                pruned.names, pruned.task = model.names, task
                pt, onnx, simple = (Path(folder) / f"m{suffix}" for suffix in (".pt", ".onnx", "-s.onnx"))
                info = onnx_from_checkpoint(saved(pruned, pt), onnx, imgsz=imgsz)
                found = parity(pt, onnx, images)
                simplified = simplify_onnx(onnx, simple, images=images)
                kept = parameter_count(pruned) / parameter_count(model)
                fine = max(found.max_abs_box_px, found.max_abs_score) <= LIMIT and simplified.changed
                fine = fine and (simplified.max_abs or 0) <= SIMPLIFY_LIMIT
                bad, done = bad + (not fine), done + 1
                print(
                    f"| {family}n | {task} | {info.head} | {kept:.0%} | {found.max_abs_box_px:.1e} "
                    f"| {found.max_abs_score:.1e} | {found.max_abs_extra:.1e} | {found.unpaired} "
                    f"| {simplified.nodes_before} → {simplified.nodes_after} | {simplified.max_abs:.1e} |"
                    + ("" if fine else " **over the limit**"),
                    flush=True,
                )
    print(f"\nLimits: {LIMIT:g} px and score, {SIMPLIFY_LIMIT:g} for simplifying; {bad} of {done} over.")


if __name__ == "__main__":
    main()
