"""Does the unpruned model as teacher help? Prune to one MACs ratio, fine-tune with and without, several seeds.

    python benchmarks/training_distillation.py --weights W.pt --data data.yaml --imgsz 320 --epochs 20 --seeds 0 1 2

Prints a Markdown table and writes every run to ``--out``; a stopped benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from edgeprune import checkpoint
from edgeprune.pruning import prune
from edgeprune.training.finetune import finetune
from edgeprune.training.settings import TrainSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-distillation"))
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--macs-speed-up", type=float, default=4.0)
    parser.add_argument("--importance", default="lamp")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr0", type=float, default=1e-3)
    parser.add_argument("--dis", type=float, nargs="+", default=[6.0], help="weights of the distillation loss")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    pruned = args.out / "pruned.pt"
    result = prune(args.weights, imgsz=args.imgsz, macs_speed_up=args.macs_speed_up, importance=args.importance)
    checkpoint.save(result.model, pruned, like=result.checkpoint)
    figures: dict[str, list[float]] = {}
    for seed in args.seeds:
        for dis in [0.0, *args.dis]:
            name = f"teacher, dis {dis:g}" if dis else "no teacher"
            folder = args.out / f"seed{seed}-dis{dis:g}"
            settings = TrainSettings(
                epochs=args.epochs,
                batch=args.batch,
                lr0=args.lr0,
                imgsz=args.imgsz,
                device=args.device,
                seed=seed,
                distill=args.weights if dis else None,
                quiet=True,
                extra={"dis": dis} if dis else {},
            )
            trained = finetune(pruned, data=args.data, out=folder / "out", settings=settings, work=folder / "work")
            figures.setdefault(name, []).append(trained.map50_95)
            print(f"seed {seed}, {name}: {trained.map50_95:.4f} (epoch {trained.best_epoch}, {trained.seconds:.0f} s)")
            (args.out / "figures.json").write_text(json.dumps(figures, indent=1))
    ratio = result.macs_before / result.macs_after
    print(f"\nMACs x{ratio:.2f}, {args.epochs} epochs, {args.imgsz} px, {args.importance}, best epoch, val split\n")
    print("| fine-tuning | mAP50-95, mean | lowest | highest | seeds |\n| --- | --- | --- | --- | --- |")
    for name, values in figures.items():
        print(f"| {name} | {statistics.mean(values):.4f} | {min(values):.4f} | {max(values):.4f} | {len(values)} |")


if __name__ == "__main__":
    main()
