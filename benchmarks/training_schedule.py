"""One shot or in rounds? Prune and fine-tune to one MACs ratio in 1, 2, ... rounds with the same total of epochs.

    python -m benchmarks.training_schedule --weights W.pt --data data.yaml --imgsz 320 --epochs 12 --rounds 1 2 4

Prints a Markdown table and keeps every run in ``--out``; a stopped benchmark goes on in the epoch where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.page import printed_by, table
from edgeprune.settings import TrainSettings
from edgeprune.training.iterative import prune_in_rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-schedule"))
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--macs-speed-up", type=float, nargs="+", default=[2.0, 4.0])
    parser.add_argument("--importance", default="auto")
    parser.add_argument("--rounds", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--epochs", type=int, default=12, help="total over all rounds")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr0", type=float, default=1e-3)
    parser.add_argument("--teacher", action="store_true", help="distil from the unpruned model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--page", type=Path, help="page that gets the tables as well")
    args = parser.parse_args()
    rows = []
    for seed in args.seeds:
        for speed_up in args.macs_speed_up:
            for rounds in args.rounds:
                folder = args.out / f"x{speed_up:g}-{rounds}of{args.epochs}-lr{args.lr0:g}-{args.teacher}-{seed}"
                settings = TrainSettings(
                    epochs=args.epochs,
                    batch=args.batch,
                    lr0=args.lr0,
                    imgsz=args.imgsz,
                    device=args.device,
                    seed=seed,
                    teacher=args.weights if args.teacher else None,
                    quiet=True,
                )
                done = prune_in_rounds(
                    args.weights,
                    macs_speed_up=speed_up,
                    rounds=rounds,
                    data=args.data,
                    out=folder / "out",
                    work=folder / "work",
                    settings=settings,
                    importance=args.importance,
                )
                figures = ", ".join(f"{each.trained.summary.map50_95:.3f}" for each in done)
                last, accuracy = done[-1], done[-1].trained.summary.map50_95
                rows.append((seed, f"×{last.macs_speed_up:.2f}", rounds, f"{accuracy:.4f}", figures))
                print(rows[-1], flush=True)
    lines = table(("seed", "MACs", "rounds", "mAP50-95", "after each round"), rows)
    printed_by(lambda: print("\n".join(lines)), args.page, "training-schedule")


if __name__ == "__main__":
    main()
