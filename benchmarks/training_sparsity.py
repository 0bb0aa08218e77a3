"""Is pruning by scales after sparsity training better than L1 without? Same weights, same ratio, epochs to recover.

    python benchmarks/training_sparsity.py --weights W.pt --data digits/data.yaml --imgsz 128 --train fliplr=0.0

Prints the scales' verdict and a Markdown table of mAP50-95 after every fine-tuning epoch.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from edgeprune import checkpoint
from edgeprune.pruning import prune
from edgeprune.training.cli import training_arguments
from edgeprune.training.finetune import finetune
from edgeprune.training.settings import TrainSettings
from edgeprune.training.sparsify import sparsify
from edgeprune.training.sparsity import SparsitySettings


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
    parser.add_argument("--lr0", type=float, default=1e-3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--train", nargs="*", default=[], help="NAME=VALUE")
    args = parser.parse_args()
    common = TrainSettings(
        epochs=args.epochs,
        batch=args.batch,
        lr0=args.lr0,
        imgsz=args.imgsz,
        device=args.device,
        quiet=True,
        extra=training_arguments(args.train),
    )
    longer = replace(common, epochs=args.sparsify_epochs, lr0=args.sparsify_lr0)
    where = {"out": args.out / "sparse", "work": args.out / "sparse-work"}
    sparse = sparsify(
        args.weights, data=args.data, settings=longer, sparsity=SparsitySettings(strength=args.strength), **where
    )
    print(sparse.verdict)
    # the fair rival trains as long at the same rate, only without the term
    where = {"out": args.out / "longer", "work": args.out / "longer-work"}
    rival = finetune(args.weights, data=args.data, settings=longer, keep="last", **where)
    print(f"after sparsify: {sparse.trained.map50_95:.4f}; as many epochs without the term: {rival.map50_95:.4f}\n")
    epochs = range(1, args.epochs + 1)
    print("| weights | importance | MACs | " + " | ".join(f"epoch {e}" for e in epochs) + " |")
    print("| --- | --- | --- | " + " | ".join("---" for _ in epochs) + " |")
    for name, weights, importance in (
        ("sparsified", sparse.trained.best, "bn_scale"),
        ("sparsified", sparse.trained.best, "l1"),
        ("as long without", rival.best, "l1"),
        ("as given", args.weights, "l1"),
    ):
        folder = args.out / f"{name.replace(' ', '-')}-{importance}"
        result = prune(weights, imgsz=args.imgsz, ratio=args.ratio, importance=importance)
        checkpoint.save(result.model, folder / "pruned.pt", like=result.checkpoint)
        trained = finetune(
            folder / "pruned.pt", data=args.data, out=folder / "out", settings=common, work=folder / "work"
        )
        curve = " | ".join(f"{row['metrics/mAP50-95(B)']:.3f}" for row in trained.curves)
        print(f"| {name} | {importance} | x{result.macs_before / result.macs_after:.2f} | {curve} |", flush=True)


if __name__ == "__main__":
    main()
