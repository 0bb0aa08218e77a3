"""Is pruning by scales after sparsity training better than L1 without? Same weights, same ratio, epochs to recover.

    python -m benchmarks.training_sparsity --weights W.pt --data digits/data.yaml --imgsz 128 --train fliplr=0.0

The rival trains as many epochs at the same rate without the sparsity term before it is pruned by L1. Prints Markdown
tables and keeps every run in ``--out``; a stopped benchmark goes on in the epoch where it was.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ultralytics import YOLO

from benchmarks.kept import made_of
from benchmarks.page import printed_by
from edgeprune import checkpoint
from edgeprune.artifact import write_atomically
from edgeprune.cli.settings import training_arguments
from edgeprune.pruning.api import prune
from edgeprune.settings import SparsitySettings, TrainSettings
from edgeprune.training.finetune import finetune
from edgeprune.training.sparsify import sparsify

CLOSE = 0.01
"""A pruned model has recovered once its mAP50-95 is this close to that of the rival before pruning."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-sparsity"))
    parser.add_argument("--imgsz", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--ratio", type=float, default=0.4, help="share of prunable channels to remove")
    parser.add_argument("--lambda", dest="strength", type=float, default=1e-3)
    parser.add_argument("--sparsify-epochs", type=int, default=10)
    parser.add_argument("--sparsify-lr0", type=float, default=3e-3)
    parser.add_argument("--epochs", type=int, default=5, help="of fine-tuning")
    parser.add_argument("--lr0", type=float, nargs="+", default=[3e-4, 1e-3], help="of fine-tuning")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--train", nargs="*", default=[], help="NAME=VALUE")
    parser.add_argument("--page", type=Path, help="page that gets the tables as well")
    args = parser.parse_args()
    common = TrainSettings(
        epochs=args.epochs,
        batch=args.batch,
        imgsz=args.imgsz,
        device=args.device,
        quiet=True,
        train=training_arguments(args.train),
    )
    args.out.mkdir(parents=True, exist_ok=True)
    given = figures(args.weights, args, args.out / "given.json")
    unpruned, tuned = [], []
    for seed in args.seeds:
        seeded = replace(common, seed=seed)
        folder = args.out / f"seed{seed}"
        longer = replace(seeded, epochs=args.sparsify_epochs, lr0=args.sparsify_lr0)
        term = SparsitySettings(strength=args.strength)
        where = {"data": args.data, "out": folder / "sparse", "work": folder / "sparse-work"}
        sparse = sparsify(args.weights, settings=longer, sparsity=term, **where)
        off_before, off_after = sparse.scales.before.overall.share_off, sparse.scales.after.overall.share_off
        print(f"seed {seed}: {sparse.scales.summary}", flush=True)
        where = {"data": args.data, "out": folder / "plain", "work": folder / "plain-work"}
        plain = finetune(args.weights, settings=longer, keep="last", **where)
        with_term, without = (
            figures(best, args, folder / name)
            for name, best in (("sparse.json", sparse.trained.best), ("plain.json", plain.best))
        )
        unpruned.append(
            f"| {seed} | {off_before:.1%} | {off_after:.1%} | {given[0]:.3f} | "
            f"{with_term[0]:.3f} | {without[0]:.3f} | {given[1]:.3f} | {with_term[1]:.3f} | {without[1]:.3f} |"
        )
        for name, weights, importance in (("sparsified", sparse.trained.best, "bn_scale"), ("plain", plain.best, "l1")):
            start = folder / f"{name}-{importance}.pt"
            result = prune(weights, imgsz=args.imgsz, ratio=args.ratio, importance=importance)
            checkpoint.save(result.model, start, like=result.checkpoint)
            before = figures(start, args, start.with_suffix(".json"))[1]
            for lr0 in args.lr0:
                own = folder / f"{name}-{importance}-{lr0:g}"
                settings = replace(seeded, lr0=lr0)
                trained = finetune(start, data=args.data, out=own / "out", settings=settings, work=own / "work")
                curve = [before, *(epoch.figures["metrics/mAP50-95(B)"] for epoch in trained.summary.epochs)]
                at = next((epoch for epoch, value in enumerate(curve) if value >= without[1] - CLOSE), None)
                tuned.append(
                    f"| {seed} | {name} | {importance} | x{result.plan.macs_speed_up:.2f} | {lr0:g} | "
                    + " | ".join(f"{value:.3f}" for value in curve)
                    + f" | {'none of them' if at is None else at} |"
                )
                print(tuned[-1], flush=True)
    printed_by(lambda: _tables(args, unpruned, tuned), args.page, "training-sparsity")


def _tables(args: argparse.Namespace, unpruned: list[str], tuned: list[str]) -> None:
    print("| seed | off before | off after | mAP50 given | sparsified | plain | mAP50-95 given | sparsified | plain |")
    print("| --- " * 9 + "|\n" + "\n".join(unpruned))
    epochs = " | ".join(f"epoch {epoch}" for epoch in range(1, args.epochs + 1))
    print(f"\n| seed | weights | importance | MACs | lr0 | pruned | {epochs} | recovered after |")
    print("| --- " * (7 + args.epochs) + "|\n" + "\n".join(tuned))


def figures(weights: Path, args: argparse.Namespace, kept: Path) -> tuple[float, float]:
    """mAP50 and mAP50-95 on the validation split, through plain Ultralytics; measured once for each file and data."""
    of = asdict(made_of(weights, args.data, args.imgsz))
    found = json.loads(kept.read_text()) if kept.is_file() else {}
    if found.get("of") == of:
        return tuple(found["figures"])
    options: dict[str, Any] = {"plots": False, "verbose": False, "device": args.device}
    metrics: Any = YOLO(str(weights)).val(
        data=args.data, imgsz=args.imgsz, project=str(args.out), name="val", **options
    )
    seen = float(metrics.box.map50), float(metrics.box.map)
    write_atomically(kept, json.dumps({"of": of, "figures": seen}))
    return seen


if __name__ == "__main__":
    main()
