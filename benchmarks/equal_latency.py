"""Which way of choosing channels keeps most accuracy at the same measured latency?

    python -m benchmarks.equal_latency --weights W.pt --data data.yaml --work runs/equal --out TABLE.md \
        --methods edgeprune lamp uniform-l2 stock --speed-ups 1.5 2.2 3.0 --seeds 0 1 2 --epochs 20 --pretrained 80

Every method gives one model for every latency ratio, found by measuring it next to the unpruned one (ONNX Runtime CPU
one thread, interleaved). Each is fine-tuned with the same settings; the best epoch is chosen on the val split and the
figure taken on test. ``stock`` is the same architecture with a smaller width multiple, trained from random weights
for as many epochs as the unpruned model and the fine-tune had together. A stopped benchmark goes on where it was:
finished arms are kept in ``--work``, and the table is written again after every run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from ultralytics.utils import DEFAULT_CFG_DICT

from edgeprune import checkpoint
from edgeprune.artifact import write_atomically
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.export.simplify import simplify_onnx
from edgeprune.measure.accuracy import accuracy
from edgeprune.pruning.pruner import Pruner
from edgeprune.runtimes import runtime
from edgeprune.runtimes.base import BenchSettings
from edgeprune.samples.statistics import ratio
from edgeprune.search.run import search
from edgeprune.settings import TrainSettings
from edgeprune.training.finetune import finetune
from edgeprune.training.pretrain import pretrain

WINDOW = (1.0, 1.03)  # of the asked latency ratio: equal latency means equal within the noise
PROBES = 10
LR0 = 1e-3
Method = Callable[[Path, str, "Bench", float, Path], dict[str, Any]]


@dataclass(frozen=True)
class Arm:
    """One method at one latency ratio: its checkpoint, and what was measured of it."""

    checkpoint: Path
    measured: dict[str, Any]


class Bench:
    """Compiles and times models next to the unpruned one."""

    def __init__(self, weights: Path, imgsz: int, work: Path) -> None:
        self.imgsz, self.work = imgsz, work
        self.runtime = runtime("onnxruntime")
        self.baseline = self.compiled(weights, work / "baseline")

    def compiled(self, weights: Path, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        onnx_from_checkpoint(weights, folder / "raw.onnx", imgsz=self.imgsz)
        simplify_onnx(folder / "raw.onnx", folder / "model.onnx")
        self.runtime.engine_from_onnx(folder / "model.onnx", folder / "engine.onnx")
        return folder / "engine.onnx"

    def speed_up(self, weights: Path, folder: Path, rounds: int = 30) -> float:
        engine = self.compiled(weights, folder)
        settings = BenchSettings(threads=1, rounds=rounds, imgsz=(self.imgsz, self.imgsz))
        first, second = self.runtime.latency([self.baseline, engine], settings)
        return ratio(first.values, second.values).ratio


def found_by(
    pruner: Pruner, amount: Callable[[float], dict[str, Any]], bench: Bench, asked: float, folder: Path, like: Any
) -> dict[str, Any]:
    """Bisect the amount of pruning, in 0 to 1, until the measured ratio lies in the window; the nearest above else."""
    low, high, best = 0.0, 1.0, None
    for number in range(PROBES):
        share = (low + high) / 2
        plan = pruner.plan(**amount(share))
        path = folder / "candidate.pt"
        checkpoint.save(pruner.apply(plan), path, like=like)
        reached = bench.speed_up(path, folder / "candidate")
        print(f"  probe {number + 1}: MACs x{plan.macs_speed_up:.2f} -> latency x{reached:.3f}", flush=True)
        if reached >= asked and (best is None or reached < best["speed_up"]):
            path.replace(folder / "model.pt")
            best = {"speed_up": reached, "macs_ratio": plan.macs_speed_up, "parameters": plan.params[1]}
        if asked * WINDOW[0] <= reached <= asked * WINDOW[1]:
            break
        low, high = (low, share) if reached >= asked else (share, high)
    if best is None:
        raise SystemExit(f"x{asked:g} was not reached in {PROBES} probes")
    return best


def unpruned(weights: Path, data: str, bench: Bench, asked: float, folder: Path) -> dict[str, Any]:
    """The given model with the same epochs of fine-tuning: what those alone bring, at any latency asked."""
    given = checkpoint.load(weights)
    shutil.copyfile(weights, folder / "model.pt")
    return {"speed_up": 1.0, "macs_ratio": 1.0, "parameters": checkpoint.parameter_count(given.model)}


def lamp(weights: Path, data: str, bench: Bench, asked: float, folder: Path, step: int = 8) -> dict[str, Any]:
    """Global LAMP with a MACs target, in widths that are multiples of a step."""
    given = checkpoint.load(weights)
    pruner = Pruner(given.model, bench.imgsz, align=step, min_width=step)
    scores = pruner.scores("lamp")
    least = {one.name: min(one.allowed) for one in pruner.dimensions if one.allowed}
    limit = pruner.macs() / pruner.macs(least)

    def amount(share: float) -> dict[str, Any]:
        return {"macs_speed_up": limit**share, "importance": "lamp", "scores": scores}

    return found_by(pruner, amount, bench, asked, folder, given)


def uniform_l2(weights: Path, data: str, bench: Bench, asked: float, folder: Path) -> dict[str, Any]:
    """The same share of every layer, its channels of least L2 norm."""
    given = checkpoint.load(weights)
    pruner = Pruner(given.model, bench.imgsz)
    scores = pruner.scores("l2")

    def amount(share: float) -> dict[str, Any]:
        return {"ratio": share, "scope": "local", "importance": "l2", "scores": scores}

    return found_by(pruner, amount, bench, asked, folder, given)


def searched(weights: Path, data: str, bench: Bench, asked: float, folder: Path) -> dict[str, Any]:
    """The budget search of this project, as ``edgeprune search`` runs it, held as near to the budget as its rivals."""
    near: dict[str, Any] = {"speed_up": asked, "least_used": 1 / WINDOW[1], "cache": bench.work / "profiles"}
    found = search("cpu", weights, data, output=folder / "model.pt", imgsz=bench.imgsz, **near)
    return {
        "speed_up": bench.speed_up(folder / "model.pt", folder / "candidate"),
        "macs_ratio": found.plan.macs_speed_up,
        "parameters": found.plan.params[1],
    }


def stock(weights: Path, data: str, bench: Bench, asked: float, folder: Path) -> dict[str, Any]:
    """The widest smaller model of the same architecture that is at least as fast, with random weights."""
    given = checkpoint.load(weights)
    pruner = Pruner(given.model, bench.imgsz)
    built_from: dict[str, Any] = dict(vars(given.model)["yaml"])
    scale, name = built_from.pop("scale"), Path(built_from.pop("yaml_file")).name
    depth, width, most = built_from["scales"][scale]
    for step in range(1, 16):
        narrower = width * (16 - step) / 16
        # Ultralytics takes the scale from the file's name.
        path = folder / name
        path.write_text(yaml.safe_dump({**built_from, "scales": {scale: [depth, narrower, most]}}))
        model: Any = type(given.model)(str(path), verbose=False)  # pyright: ignore[reportCallIssue, reportArgumentType]
        checkpoint.save(model, folder / "model.pt", like=given)
        reached = bench.speed_up(folder / "model.pt", folder / "candidate")
        print(f"  width {narrower:.4f}: latency x{reached:.3f}", flush=True)
        if reached >= asked:
            macs = Pruner(model, bench.imgsz).macs()
            parameters = checkpoint.parameter_count(model)
            return {
                "speed_up": reached,
                "macs_ratio": pruner.macs() / macs,
                "parameters": parameters,
                "recipe": path.name,
            }
    raise SystemExit(f"x{asked:g} was not reached by any width")


METHODS: dict[str, Method] = {
    "edgeprune": searched,
    "lamp": lamp,
    "lamp-any-width": partial(lamp, step=1),
    "uniform-l2": uniform_l2,
    "stock": stock,
    "unpruned": unpruned,
}


def arm(method: str, asked: float, options: argparse.Namespace, bench: Bench) -> Arm:
    folder = options.work / f"{method}-x{asked:g}"
    record = folder / "measured.json"
    if not record.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{method} x{asked:g}", flush=True)
        measured = METHODS[method](options.weights, options.data, bench, asked, folder)
        write_atomically(record, json.dumps(measured, indent=1))
    return Arm(folder / "model.pt", json.loads(record.read_text()))


RECIPES: dict[str, dict[str, Any]] = {
    "edgeprune": {},
    # what YOLO.train does when it is told nothing but optimiser, rate and batch
    "ultralytics": {
        name: DEFAULT_CFG_DICT[name]
        for name in ("nbs", "mosaic", "close_mosaic", "warmup_epochs", "warmup_bias_lr", "cos_lr")
    },
}


def runs_of(options: argparse.Namespace, seed: str) -> str:
    """Name of the folder of a run, or the pattern of several."""
    recipe = "" if options.recipe == "edgeprune" else f"-{options.recipe}"
    return f"seed{seed}-epochs{options.epochs}{recipe}" + ("" if options.lr0 == LR0 else f"-lr{options.lr0:g}")


def trained(one: Arm, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    folder = one.checkpoint.parent / runs_of(options, str(seed))
    record = folder / "figures.json"
    if not record.is_file():
        settings = TrainSettings(
            epochs=options.epochs,
            batch=16,
            lr0=options.lr0,
            imgsz=options.imgsz,
            device=options.device,
            seed=seed,
            quiet=True,
            train=RECIPES[options.recipe],
        )
        where: dict[str, Any] = {"data": options.data, "out": folder / "out", "work": folder / "work"}
        if "recipe" in one.measured:
            # From random weights: as many epochs, and the rate, that the unpruned model was trained with.
            settings = replace(settings, epochs=options.pretrained + options.epochs, lr0=2e-3)
            result = pretrain(one.checkpoint.parent / one.measured["recipe"], settings=settings, **where)
        else:
            result = finetune(one.checkpoint, settings=settings, **where)
        test = accuracy(folder / "out" / "best.pt", data=options.data, imgsz=options.imgsz, split="test")
        summary = result.summary
        figures = {
            "val": summary.map50_95,
            "test": test.map50_95,
            "epoch": summary.best_epoch,
            "seconds": summary.seconds,
        }
        write_atomically(record, json.dumps(figures, indent=1))
        print(f"{folder.parent.name} seed {seed}: {figures}", flush=True)
    return json.loads(record.read_text())


def table(options: argparse.Namespace) -> str:
    """Markdown from whatever has finished."""
    lines = [
        "# Accuracy at equal measured latency",
        "",
        f"`{options.weights.stem}` on `{Path(options.data).parent.name}`, {options.imgsz} px, {options.epochs} epochs "
        f"of fine-tuning (AdamW {options.lr0:g}, batch 16, no teacher, else the defaults of {options.recipe}), best "
        "epoch on val, mAP50-95 on test. Latency: ONNX Runtime CPU, one thread, next to the unpruned model. `stock`: a "
        f"smaller width multiple, {options.pretrained + options.epochs} epochs from random weights.",
        "",
        "| asked | method | measured | MACs | parameters | test, mean | lowest | highest | val, mean | seeds |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    kept = runs_of(options, "?")
    for asked in options.speed_ups:
        for method in METHODS:
            folder = options.work / f"{method}-x{asked:g}"
            runs = [json.loads(p.read_text()) for p in sorted(folder.glob(f"{kept}/figures.json"))]
            if not runs:
                continue
            seen = json.loads((folder / "measured.json").read_text())
            test = [run["test"] for run in runs]
            lines.append(
                f"| ×{asked:g} | {method} | ×{seen['speed_up']:.2f} | ×{seen['macs_ratio']:.2f} "
                f"| {seen['parameters'] / 1e6:.2f} M | {statistics.mean(test):.4f} | {min(test):.4f} | {max(test):.4f} "
                f"| {statistics.mean(run['val'] for run in runs):.4f} | {len(runs)} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/equal-latency"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--speed-ups", type=float, nargs="+", default=[1.5, 2.2, 3.0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--pretrained", type=int, default=80, help="epochs that the unpruned weights were trained for")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--lr0", type=float, default=LR0, help="of the fine-tunes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--recipe", choices=list(RECIPES), default="edgeprune", help="of the fine-tunes")
    options = parser.parse_args()
    bench = Bench(options.weights, options.imgsz, options.work)
    arms = [arm(method, asked, options, bench) for asked in options.speed_ups for method in options.methods]
    for seed in options.seeds:
        for one in arms:
            trained(one, seed, options)
            write_atomically(options.out, table(options))
    print(table(options))


if __name__ == "__main__":
    main()
