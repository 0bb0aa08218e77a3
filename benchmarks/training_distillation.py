"""Does the unpruned model as teacher help? Prune to one MACs ratio, fine-tune with and without, several seeds.

    python -m benchmarks.training_distillation --weights W.pt --data data.yaml --imgsz 320 --epochs 20 --seeds 0 1 2

Prints a Markdown table and keeps every run in ``--out``; a stopped benchmark goes on in the epoch where it was.
An arm is ``RESPONSE:FEATURE``, the weights of the two terms of distillation; ``0:0`` has no teacher.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from benchmarks.kept import made_of
from benchmarks.page import printed_by, table
from edgeprune import checkpoint
from edgeprune.artifact import write_atomically
from edgeprune.pruning.api import prune
from edgeprune.pruning.batches import calibration_batches
from edgeprune.settings import TrainSettings
from edgeprune.training.finetune import finetune


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-distillation"))
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--macs-speed-up", type=float, default=4.0)
    parser.add_argument("--importance", default="auto")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr0", type=float, default=1e-3)
    parser.add_argument("--arms", nargs="+", default=["0:0", "1:0"], metavar="RESPONSE:FEATURE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--page", type=Path, help="page that gets the tables as well")
    args = parser.parse_args()
    args.out /= made_of(args.weights, args.data, args.imgsz).folder()
    pruned = args.out / f"pruned-{args.importance}-{args.macs_speed_up:g}.pt"
    if not pruned.is_file():
        given = checkpoint.load(args.weights)
        batches = calibration_batches(args.data, given.task, args.imgsz, stride=given.stride)
        done = prune(
            given, imgsz=args.imgsz, macs_speed_up=args.macs_speed_up, importance=args.importance, batches=batches
        )
        checkpoint.save(done.model, pruned, like=given, metadata=done.metadata())
    figures: dict[str, list[float]] = {}
    curves: dict[tuple[int, str], list[float]] = {}
    for seed in args.seeds:
        for arm in args.arms:
            response, feature = map(float, arm.split(":"))
            name = f"{args.importance}-{args.macs_speed_up:g}-lr{args.lr0:g}-{response:g}-{feature:g}-{seed}"
            folder = args.out / f"{name}-{args.epochs}"
            settings = TrainSettings(
                epochs=args.epochs,
                batch=args.batch,
                lr0=args.lr0,
                imgsz=args.imgsz,
                device=args.device,
                seed=seed,
                teacher=args.weights if response or feature else None,
                response=response,
                feature=feature,
                quiet=True,
            )
            where = {"data": args.data, "out": folder / "out", "work": folder / "work"}
            trained = finetune(pruned, settings=settings, **where).summary
            figures.setdefault(arm, []).append(trained.map50_95)
            curves[seed, arm] = [epoch.figures["metrics/mAP50-95(B)"] for epoch in trained.epochs]
            print(
                f"seed {seed}, {arm}: {trained.map50_95:.4f} (epoch {trained.best_epoch}, {trained.seconds:.0f} s) "
                + " ".join(f"{value:.3f}" for value in curves[seed, arm]),
                flush=True,
            )
            write_atomically(folder / "figure.json", json.dumps({"arm": arm, "seed": seed, "map": trained.map50_95}))
    printed_by(lambda: _tables(args, figures, curves), args.page, "training-distillation")


def _tables(
    args: argparse.Namespace, figures: dict[str, list[float]], curves: dict[tuple[int, str], list[float]]
) -> None:
    shown = f"MACs ×{args.macs_speed_up:g}, {args.epochs} epochs, {args.imgsz} px, {args.importance}"
    print(f"{shown}, best epoch, mAP50-95 on val:\n")
    rows = [
        (*arm.split(":"), f"{statistics.mean(values):.4f}", *(f"{value:.4f}" for value in values))
        for arm, values in figures.items()
    ]
    seeds = (f"seed {seed}" for seed in args.seeds)
    print("\n".join(table(("answers", "features", "mean", *seeds), rows, right=2)))
    print("\nBy epoch:\n")
    by_epoch = [(seed, arm, *(f"{value:.3f}" for value in curve)) for (seed, arm), curve in curves.items()]
    print("\n".join(table(("seed", "answers:features", *range(1, args.epochs + 1)), by_epoch)))  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    main()
