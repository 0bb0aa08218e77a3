"""Accuracy right after pruning, before any fine-tuning, by criterion, at equal multiply-accumulates.

Usage: python -m benchmarks.pruning_criteria --data DATA.yaml --imgsz 320 --out TABLE.md WEIGHTS.pt [WEIGHTS.pt ...]

Channels are ranked on the training split and accuracy is measured on the validation split. The table decides what
``--importance auto`` stands for; run it again when that is in question.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

CRITERIA = ["taylor", "fisher", "lamp", "bn_scale", "l2", "l1", "fpgm", "random"]
SPEED_UPS = [1.5, 2.0, 3.0]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("weights", nargs="+", type=Path)
    arguments.add_argument("--data", required=True)
    arguments.add_argument("--imgsz", type=int, default=320)
    arguments.add_argument("--images", type=int, default=64)
    arguments.add_argument("--out", type=Path, required=True)
    options = arguments.parse_args()

    import torch
    import ultralytics
    from ultralytics import YOLO

    from edgeprune.artifact import write_atomically
    from edgeprune.checkpoint import load, save
    from edgeprune.pruning.batches import calibration_batches
    from edgeprune.pruning.pruner import Pruner

    ultralytics.utils.LOGGER.setLevel(logging.ERROR)
    versions = f"Ultralytics {ultralytics.__version__}, torch {torch.__version__}"
    lines = [
        "# mAP50-95 after pruning, before fine-tuning",
        "",
        f"`{Path(options.data).parent.name}` val, {options.imgsz} px, global ranking, widths in steps of 8; loss-based "
        f"criteria saw {options.images} training images; {versions}. Columns: MACs before over after.",
        "",
    ]
    for path in options.weights:
        checkpoint = load(path)
        batches = calibration_batches(options.data, checkpoint.task, options.imgsz, images=options.images)
        pruner = Pruner(checkpoint.model, options.imgsz)
        lines += [f"## {path.stem}", "", f"| criterion | ×{' | ×'.join(f'{one:g}' for one in SPEED_UPS)} |"]
        lines += ["| --- |" + " ---: |" * len(SPEED_UPS)]
        for criterion in CRITERIA:
            scores, cells = pruner.scores(criterion, batches), []
            for speed_up in SPEED_UPS:
                plan = pruner.plan(macs_speed_up=speed_up, scores=scores, importance=criterion)
                with tempfile.TemporaryDirectory() as folder:
                    file = Path(folder) / "pruned.pt"
                    save(pruner.apply(plan, check=False), file, like=checkpoint)
                    metrics = YOLO(file).val(
                        data=options.data, imgsz=options.imgsz, batch=8, workers=0, plots=False, project=folder
                    )
                cells.append(f"{metrics.box.map:.3f}")
                print(path.stem, criterion, f"x{plan.macs_speed_up:.3f}", cells[-1], flush=True)
            lines.append(f"| {criterion} | {' | '.join(cells)} |")
            write_atomically(options.out, "\n".join(lines) + "\n")
        lines.append("")


if __name__ == "__main__":
    main()
