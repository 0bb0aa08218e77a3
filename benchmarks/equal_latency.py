"""Which way of choosing channels keeps most accuracy at the same measured latency?

    python -m benchmarks.equal_latency --weights W.pt --data data.yaml --work runs/equal --out TABLE.md \
        --methods edgeprune lamp uniform-l2 stock --speed-ups 1.5 2.2 3.0 --seeds 0 1 2 --epochs 20 --pretrained 80

Every method gives one model for every latency ratio, found by measuring it next to the unpruned one (ONNX Runtime CPU
one thread, interleaved). The model that was chosen is then raced afresh, with as many rounds for every method: the race
that chose it flatters it. Each is fine-tuned with the same settings; the best epoch is chosen on the val split and the
figure taken on test. ``stock`` is the same architecture with a smaller width multiple, trained from random weights
for as many epochs as the unpruned model and the fine-tune had together. A stopped benchmark goes on where it was:
finished arms are kept in ``--work``, in a folder of these weights, data and size. Results are added to the JSON beside
``--out`` (begun as a copy of ``--from`` where it is absent), from which the page is printed. A row there is replaced by
one of the same settings that has at least as many seeds, and rows of other weights, data or size by the first one of
these; rows from before they named their weights and data by digests stay, and the page says so.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from itertools import groupby, product
from pathlib import Path
from typing import Any

import yaml
from ultralytics.utils import DEFAULT_CFG_DICT

from benchmarks.kept import MadeOf, made_here, made_of, mark_of, nameless, origins
from benchmarks.page import WORDS, Seeds, latency_differs, publish, table
from edgeprune import checkpoint
from edgeprune.artifact import write_atomically
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.export.simplify import simplify_onnx
from edgeprune.measure.accuracy import accuracy
from edgeprune.pruning.pruner import Pruner
from edgeprune.runtimes import runtime
from edgeprune.runtimes.base import BenchSettings
from edgeprune.samples.statistics import RatioInterval, ratio
from edgeprune.search.run import search
from edgeprune.settings import TrainSettings
from edgeprune.training.finetune import finetune
from edgeprune.training.pretrain import pretrain

WINDOW = (1.0, 1.03)  # of the asked latency ratio: equal latency means equal within the noise
PROBES = 10
LR0, BATCH = 1e-3, 16
INTERVAL = "speed_up_interval"  # of a fresh race, low and high; rows from before there was one lack it
SETTINGS = ("epochs", "lr0", "pretrained", "weights", "dataset")  # what rows of one method differ in
SEEDS = 100  # seeds that are looked for in the kept runs, from 0 on
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

    def raced(self, weights: Path, folder: Path, rounds: int = 30) -> RatioInterval:
        """Latency of the unpruned model over that of this one."""
        return self.raced_engine(self.compiled(weights, folder), rounds)

    def raced_engine(self, engine: Path, rounds: int = 30) -> RatioInterval:
        """The same for what is compiled already."""
        settings = BenchSettings(threads=1, rounds=rounds, imgsz=(self.imgsz, self.imgsz))
        first, second = self.runtime.latency([self.baseline, engine], settings)
        return ratio(first.values, second.values)

    def speed_up(self, weights: Path, folder: Path) -> float:
        return self.raced(weights, folder).ratio


def found_by(
    pruner: Pruner, amount: Callable[[float], dict[str, Any]], bench: Bench, asked: float, folder: Path, like: Any
) -> dict[str, Any]:
    """Bisect the amount of pruning, in 0 to 1, until the measured ratio lies in the window; the nearest above else."""
    low, high, best, nearest = 0.0, 1.0, None, math.inf
    for number in range(PROBES):
        share = (low + high) / 2
        plan = pruner.plan(**amount(share))
        path = folder / "candidate.pt"
        checkpoint.save(pruner.apply(plan), path, like=like)
        reached = bench.speed_up(path, folder / "candidate")
        print(f"  probe {number + 1}: MACs x{plan.macs_speed_up:.2f} -> latency x{reached:.3f}", flush=True)
        if reached >= asked and reached < nearest:
            path.replace(folder / "model.pt")
            best, nearest = {"macs_ratio": plan.macs_speed_up, "parameters": plan.params[1]}, reached
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
    return {"macs_ratio": 1.0, "parameters": checkpoint.parameter_count(given.model)}


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
    return {"macs_ratio": found.plan.macs_speed_up, "parameters": found.plan.params[1]}


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
    """The model that a method chose, raced afresh: the least of several noisy ratios is lower than what was chosen."""
    folder = options.work / f"{method}-x{asked:g}"
    record = folder / "measured.json"
    measured = json.loads(record.read_text()) if record.is_file() else {}
    if not measured:
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{method} x{asked:g}", flush=True)
        measured = METHODS[method](options.weights, options.data, bench, asked, folder)
    if INTERVAL not in measured:
        raced = bench.raced(folder / "model.pt", folder / "candidate")
        measured |= {"speed_up": raced.ratio, INTERVAL: [raced.low, raced.high]}
        print(f"  raced afresh: x{raced.ratio:.3f} ({raced.low:.3f} to {raced.high:.3f})", flush=True)
        write_atomically(record, json.dumps(measured, indent=1))
    return Arm(folder / "model.pt", measured)


DISTILLED = "distilled"  # by the unpruned model, as a build does it
RECIPES: dict[str, dict[str, Any]] = {
    "edgeprune": {},
    DISTILLED: {},
    # what YOLO.train does when it is told nothing but optimiser, rate and batch
    "ultralytics": {
        name: DEFAULT_CFG_DICT[name]
        for name in ("nbs", "mosaic", "close_mosaic", "warmup_epochs", "warmup_bias_lr", "cos_lr")
    },
}


def runs_of(options: argparse.Namespace, recipe: str, seed: str) -> str:
    """Name of the folder of a run, or the pattern of several."""
    name = "" if recipe == "edgeprune" else f"-{recipe}"
    return f"seed{seed}-epochs{options.epochs}{name}" + ("" if options.lr0 == LR0 else f"-lr{options.lr0:g}")


def work_of(options: argparse.Namespace, of: MadeOf) -> Path:
    """The folder of what is finished of these weights; ``pretrained`` shapes the models of stock widths."""
    return options.work / of.folder(pretrained=options.pretrained)


def trained(one: Arm, recipe: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    folder = one.checkpoint.parent / runs_of(options, recipe, str(seed))
    record = folder / "figures.json"
    if not record.is_file():
        settings = TrainSettings(
            epochs=options.epochs,
            batch=BATCH,
            lr0=options.lr0,
            imgsz=options.imgsz,
            device=options.device,
            seed=seed,
            quiet=True,
            train=RECIPES[recipe],
        )
        where: dict[str, Any] = {"data": options.data, "out": folder / "out", "work": folder / "work"}
        if recipe == DISTILLED:
            settings = replace(settings, teacher=options.weights)
        if "recipe" in one.measured:
            # From random weights: as many epochs, and the rate, that the unpruned model was trained with.
            settings = replace(settings, epochs=options.pretrained + options.epochs, lr0=2e-3, teacher=None)
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
            "by": made_here(),
        }
        write_atomically(record, json.dumps(figures, indent=1))
        print(f"{folder.parent.name} seed {seed}: {figures}", flush=True)
    return json.loads(record.read_text())


def row_of(recipe: str, method: str, asked: float, options: argparse.Namespace) -> dict[str, Any] | None:
    """What has finished of one method at one latency ratio, under these options; None when no seed has."""
    folder = options.work / f"{method}-x{asked:g}"
    by_seed = {seed: folder / runs_of(options, recipe, str(seed)) / "figures.json" for seed in range(SEEDS)}
    runs = {seed: json.loads(path.read_text()) for seed, path in by_seed.items() if path.is_file()}
    if not runs:
        return None
    seen = json.loads((folder / "measured.json").read_text())
    return {
        "recipe": recipe,
        "asked": asked,
        "method": method,
        **{key: seen[key] for key in ("speed_up", INTERVAL) if key in seen},
        "macs_ratio": seen["macs_ratio"],
        "parameters": seen["parameters"],
        "seeds": list(runs),
        "test": [run["test"] for run in runs.values()],
        "val": statistics.mean(run["val"] for run in runs.values()),
        "epochs": options.epochs,
        "lr0": options.lr0,
        **({"pretrained": options.pretrained} if method == "stock" else {}),
        "weights": options.of.weights,
        "dataset": options.of.dataset,
        "date": f"{date.fromtimestamp(max(by_seed[seed].stat().st_mtime for seed in runs)):%Y-%m-%d}",
        "by": list(dict.fromkeys(run["by"] for run in runs.values())),
    }


def settings_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a row was trained with and of; None for what it does not name."""
    return tuple(row.get(name) for name in SETTINGS)


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """Rows of one key are of the same thing: one replaces the other."""
    return (row["recipe"], row["asked"], row["method"], *settings_of(row))


def kept_with(options: argparse.Namespace) -> dict[str, Any]:
    """The results beside the page with those of this run in them, written back; those of others are left out."""
    path: Path = options.out.with_suffix(".json")
    begun = next((one for one in (path, options.begun) if one is not None and one.is_file()), None)
    kept: dict[str, Any] = {} if begun is None else json.loads(begun.read_text())
    if options.weights is not None and not options.of.fits(kept):
        kept = {}
    for name in ("rows", "single_runs"):
        kept.setdefault(name, [])
    for name in ("weights", "dataset"):  # a row names its own; what stands above all may be of a later run
        kept.pop(name, None)
    rows = {key_of(one): one for one in kept["rows"]}
    if options.weights is not None:
        names = ("model", "data", "imgsz")
        rows = {key: one for key, one in rows.items() if options.of.fits({**one, **{n: kept[n] for n in names}})}
        for recipe, asked, name in product(options.recipe, options.speed_ups, METHODS):
            if one := row_of(recipe, name, asked, options):
                before = rows.setdefault(key_of(one), one)
                if len(one["test"]) >= len(before["test"]):
                    rows[key_of(one)] = one
        kept |= given_with(options) | {name: getattr(options.of, name) for name in names}
    kept["rows"] = list(rows.values())
    write_atomically(path, json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    return kept


def given_with(options: argparse.Namespace) -> dict[str, Any]:
    """What the page says of the given weights, measured once."""
    path = options.work / "given.json"
    if not path.is_file():
        found = {
            split: accuracy(options.weights, data=options.data, imgsz=options.imgsz, split=split)
            for split in ("val", "test")
        }
        unpruned = {split: one.map50_95 for split, one in found.items()}
        given = {"batch": BATCH, "unpruned": unpruned, "test_images": found["test"].images}
        write_atomically(path, json.dumps(given))
    return json.loads(path.read_text())


INTRODUCTION = """# Accuracy at equal measured latency

```
python -m benchmarks.equal_latency --weights bccd-yolov8n-320.pt --data bccd/data.yaml --recipe ultralytics \\
    --methods edgeprune lamp-any-width uniform-l2 --speed-ups 1.5 2.2 3.0 --out benchmarks/equal_latency.md
```

This page is printed by that script from `equal_latency.json`, where every seed of every row is kept; `--print-only`
prints it without a run.

{model} on {data}, {imgsz} px ({val:.3f} on val, {test:.3f} on test unpruned).
Every method gives one model for every latency ratio, found by measuring it next to the unpruned one ({runtime}
CPU, one thread, interleaved). Each is fine-tuned for {how}; the best
epoch is chosen on val, the figure taken on **test** ({test_images} images).
{made}.{digests}{apart}

- `edgeprune`: the budget search (`edgeprune search --speed-up`), taylor on 64 training images.
- `lamp-any-width`: global LAMP with a MACs target and no thought of alignment, as the FLOPs-targeted reference prunes.
  `lamp`: the same in widths that are multiples of 8.
- `uniform-l2`: the same share of every layer.
- `stock`: YOLOv8 with a smaller width multiple from random weights, {stock} epochs with this project's `pretrain`.
- `unpruned`: the given weights with the same epochs, at ×1.0.

An interval of accuracy is of the mean over seeds, at 95 % by Student's t. The seeds share one test split: what another
split would give is not in it. An interval of the latency ratio is of one race of the chosen model, with as many rounds
for every method. A row without one is older: there the search was raced afresh, and a rival's ratio is the one that
chose it, the least of several at or over what was asked, which flatters it.
"""
TITLES = {
    "ultralytics": "Fine-tuned by Ultralytics' training defaults",
    "edgeprune": "Fine-tuned by `edgeprune finetune`'s defaults",
    DISTILLED: "Fine-tuned by `edgeprune build`'s defaults, the unpruned model as teacher",
}
SHORT = ("edgeprune", "lamp-any-width", "uniform-l2", "stock", "unpruned")  # in the summary


def page(kept: dict[str, Any]) -> str:
    """Markdown from the results that are kept: a summary, every row, and what follows from the intervals."""
    given = kept.get("unpruned", {"val": float("nan"), "test": float("nan")})
    facts = {"batch": BATCH, "test_images": "?"} | kept | {"val": given["val"], "test": given["test"]}
    epochs, lr0 = (" or ".join(sorted({f"{one[key]:g}" for one in kept["rows"]})) for key in ("epochs", "lr0"))
    facts["how"] = f"{epochs} epochs with AdamW {lr0}, batch {facts['batch']}, no teacher"
    facts["how"] += " unless it is said" * any(one["recipe"] == DISTILLED for one in kept["rows"])
    mixed = any("by" in one for one in kept["rows"])
    facts["runtime"] = "ONNX Runtime" if mixed else kept["runtime"]
    facts["made"] = _origins(kept)
    facts["apart"] = _apart(kept["rows"])
    facts["digests"] = f"\n{said}" if (said := nameless(kept["rows"])) else ""
    facts["stock"] = " or ".join(
        dict.fromkeys(
            f"{one.get('pretrained', 'unknown')} + {one['epochs']}" for one in kept["rows"] if one["method"] == "stock"
        )
    )
    facts["stock"] = facts["stock"] or "as many"
    lines = [INTRODUCTION.format(**facts), "## In short", "", *summary(kept["rows"]), ""]
    for recipe, title in TITLES.items():
        rows = sorted((one for one in kept["rows"] if one["recipe"] == recipe), key=lambda one: one["asked"])
        lines += [f"## {title}", "", *rows_table(rows, kept["rows"]), ""] if rows else []
    lines += ["## What follows", "", *conclusions(kept["rows"]), ""]
    if kept["single_runs"]:
        lines += ["## Single runs", "", "One seed each: no interval, so nothing follows from a difference.", ""]
        lines += table(
            ("tried", "model", "asked", "run", "test"),
            [
                (one["about"], one["model"], f"×{one['asked']:g}", name, f"{figure:.3f}")
                for one in kept["single_runs"]
                for name, figure in one["rows"]
            ],
        )
    return "\n".join(lines).rstrip() + "\n"


def _origins(kept: dict[str, Any]) -> str:
    """Where its rows are from; ``machine`` and ``versions`` are of those that do not say so themselves."""
    dates = sorted({one["date"] for one in kept["rows"] if "by" not in one})
    older = f"rows of {' and '.join(dates)}, versions of the last" if len(dates) > 1 else "".join(dates)
    said = [f"{kept['machine']}; {kept['versions']}; {older}"] if dates else []
    if dates and any("by" in one for one in kept["rows"]):
        said = [f"{said[0]}, {kept['runtime']}"]
    return origins([*said, *(by for one in kept["rows"] for by in one.get("by", ()))])


def _apart(rows: list[dict[str, Any]]) -> str:
    """Where the recipes did not train the same model, since each run of the script prunes for itself."""
    models: dict[tuple[float, str], set[str]] = {}
    for one in rows:
        size = f"{one['parameters'] / 1e6:.2f} {one['macs_ratio']:.2f}"  # older rows have no more digits
        models.setdefault((one["asked"], one["method"]), set()).add(size)
    found = sorted(key for key, sizes in models.items() if len(sizes) > 1)
    said = "; ".join(
        f"at ×{asked:g} of {', '.join(f'`{method}`' for _, method in ones)}"
        for asked, ones in groupby(found, key=lambda key: key[0])
    )
    which = f"\nThe recipes' rows were pruned apart, and are of other models where parameters or MACs differ:\n{said}."
    return which if found else ""


def named(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """The method of a row, with what tells it from others of its name on the page."""
    words = {"epochs": "epochs {:g}", "lr0": "rate {:g}", "pretrained": "pretrained {}"}
    alike = [one for one in rows if one["method"] == row["method"]]
    differ = [
        words[name].format(row[name]) if name in row else f"{name} unknown"
        for name in words
        if len({one.get(name) for one in alike}) > 1
    ]
    return ", ".join([row["method"], *differ]) + mark_of(row, rows)


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """One line a recipe and method, a column a latency ratio; what the README shows."""
    asked = sorted({one["asked"] for one in rows})
    lines = []
    names = {
        "ultralytics": "Ultralytics' defaults",
        "edgeprune": "`edgeprune finetune`",
        DISTILLED: "`edgeprune build`",
    }
    for recipe, name in names.items():
        for method in SHORT:
            alike = [one for one in rows if (one["recipe"], one["method"]) == (recipe, method)]
            for settings in dict.fromkeys(map(settings_of, alike)):
                found = {one["asked"]: one for one in alike if settings_of(one) == settings}
                which = named(next(iter(found.values())), rows).removeprefix(method)
                lines.append((name, f"`{method}`{which}", *(_short(found.get(one)) for one in asked)))
    return table(("fine-tuned by", "pruned by", *(f"×{one:.1f}" for one in asked)), lines, right=2)


def _short(row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    seeds = Seeds(tuple(row["test"]))
    at = "" if abs(row["speed_up"] / row["asked"] - 1) <= 0.035 else f" at ×{row['speed_up']:.2f}"
    spread = "one seed" if seeds.interval is None else f"± {seeds.interval[1] - seeds.mean:.3f}"
    return f"{seeds.mean:.3f} {spread}{'' if len(seeds.values) != 2 else ', two seeds'}{at}"


def rows_table(rows: list[dict[str, Any]], every: Sequence[dict[str, Any]]) -> list[str]:
    """Rows with their seeds; ``every``: all of the page."""
    columns = ("asked", "method", "measured", "measured, 95 %", "MACs", "parameters", "test, mean", "95 %")
    return table(
        (*columns, "lowest", "highest", "val, mean", "seeds"),
        [
            (
                f"×{one['asked']:g}",
                named(one, every),
                f"×{one['speed_up']:.2f}",
                "×{:.2f} to ×{:.2f}".format(*one[INTERVAL]) if INTERVAL in one else "–",
                f"×{one['macs_ratio']:.2f}",
                f"{one['parameters'] / 1e6:.2f} M",
                f"{Seeds(tuple(one['test'])).mean:.4f}",
                Seeds(tuple(one["test"])).text(),
                f"{min(one['test']):.4f}",
                f"{max(one['test']):.4f}",
                f"{one['val']:.4f}",
                len(one["test"]),
            )
            for one in rows
        ],
        right=2,
    )


def conclusions(rows: list[dict[str, Any]]) -> list[str]:
    """A line a comparison of the search with a rival at the same latency, from the intervals alone.

    Rows of other epochs or another rate are not held against each other, nor are rows that may be of other weights.
    """
    lines = []
    ours = sorted((one for one in rows if one["method"] == "edgeprune"), key=lambda one: one["asked"])
    for title, own, method in (
        (title, own, method)
        for recipe, title in TITLES.items()
        for own in ours
        if own["recipe"] == recipe
        for method in METHODS
        if method != "edgeprune"
    ):
        alike = ("recipe", "asked", "epochs", "lr0", "weights", "dataset")
        rivals = [one for one in rows if one["method"] == method]
        for their in (one for one in rivals if all(one.get(name) == own.get(name) for name in alike)):
            first, second = (Seeds(tuple(one["test"])) for one in (own, their))
            differs = latency_differs(own.get(INTERVAL), their.get(INTERVAL))
            lines.append(
                (
                    title.removeprefix("Fine-tuned by "),
                    f"×{own['asked']:g}",
                    named(their, rows),
                    f"{first.mean - second.mean:+.3f}",
                    WORDS[first.against(second)] + "; latency differs" * differs,
                )
            )
    return table(("fine-tuned by", "asked", "against", "difference of means", "the search is"), lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=Path, help="unpruned checkpoint; not needed with --print-only")
    parser.add_argument("--data")
    parser.add_argument("--print-only", action="store_true", help="print the page from what is kept beside --out")
    parser.add_argument("--work", type=Path, default=Path("runs/equal-latency"))
    parser.add_argument("--out", type=Path, required=True, help="the page; results are kept beside it as .json")
    parser.add_argument("--from", dest="begun", type=Path, help="JSON that the one beside --out is begun with")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--speed-ups", type=float, nargs="+", default=[1.5, 2.2, 3.0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--pretrained", type=int, default=80, help="epochs that the unpruned weights were trained for")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--lr0", type=float, default=LR0, help="of the fine-tunes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--recipe", nargs="+", choices=list(RECIPES), default=["edgeprune"], help="of the fine-tunes")
    options = parser.parse_args()
    if options.print_only:
        options.weights = None
    elif options.weights is None or options.data is None:
        parser.error("--weights and --data are needed, or --print-only")
    else:
        options.of = made_of(options.weights, options.data, options.imgsz)
        options.work = work_of(options, options.of)
        bench = Bench(options.weights, options.imgsz, options.work)
        arms = [arm(method, asked, options, bench) for asked in options.speed_ups for method in options.methods]
        for seed in options.seeds:
            for recipe in options.recipe:
                for one in arms:
                    trained(one, recipe, seed, options)
                    kept_with(options)
    publish(options.out, "equal-latency", page(kept_with(options)))
    print(page(kept_with(options)))


if __name__ == "__main__":
    main()
