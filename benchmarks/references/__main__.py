"""Five usual ways to prune, one row each, and the search of this project at the latencies that they reach.

    python -m benchmarks.references --data data.yaml --weights W.pt --imgsz 320 --epochs 20 --seeds 0 1 2 \\
        --out benchmarks/references.md

Each approach prunes and is fine-tuned by Ultralytics' training defaults. Then the search looks for every latency ratio
that one of them reached, and its model is fine-tuned for as many epochs as that approach trained in all: by the same
defaults, and by ``edgeprune finetune``'s with the unpruned model as teacher. Finished rows are kept in ``--kept``, a
JSON each; the same command goes on after them, and the page is written after every row. ``--print-only`` only writes
the page from what is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.equal_latency import RECIPES, WINDOW, Bench
from benchmarks.kept import made_here, made_of, origins
from benchmarks.page import WORDS, Seeds, latency_differs, publish, table
from benchmarks.references.approaches import Approach, approaches
from edgeprune import checkpoint
from edgeprune.artifact import write_atomically
from edgeprune.errors import EdgepruneError
from edgeprune.measure.accuracy import accuracy
from edgeprune.measure.per_image import load_per_image
from edgeprune.pruning.pruner import Pruner
from edgeprune.samples.average_precision import standard_error
from edgeprune.samples.statistics import interval_half_width
from edgeprune.search.run import search
from edgeprune.settings import TrainSettings
from edgeprune.training.finetune import finetune
from edgeprune.training.sparsify import sparsify

OURS = {"ultralytics": "search, same recipe", "edgeprune": "search, own recipe"}
LEAST = 1.1  # a ratio below this is not searched: narrower layers are no way to save so little
COLUMNS = ("approach", "seeds", "parameters", "MACs", "latency ratio", "mAP before", "mAP after", "after, 95 %")
TIMES = ("epochs", "pruned in", "all in")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="unpruned checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="dataset YAML with a test split")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=20, help="of a fine-tune, and of sparsity training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=200, help="of the approach that prunes in steps")
    parser.add_argument("--only", nargs="+", default=[], help="names of approaches")
    parser.add_argument("--kept", type=Path, default=Path("benchmarks/.runs/references"), help="finished rows, models")
    parser.add_argument("--device", default="cpu", help="that trains")
    parser.add_argument("--out", type=Path, required=True, help="the page")
    parser.add_argument("--print-only", action="store_true")
    options = parser.parse_args()
    every = approaches(options.steps)
    if wrong := set(options.only) - {one.name for one in every}:
        parser.error(f"--only {wrong.pop()}: no such approach; known are {', '.join(one.name for one in every)}")
    chosen = [one for one in every if not options.only or one.name in options.only]
    of = made_of(options.weights, options.data, options.imgsz)
    folder = options.kept / of.folder(epochs=options.epochs, steps=options.steps)
    if not options.print_only:
        bench = Bench(options.weights, options.imgsz, folder)
        for row in rows(chosen, options, bench, folder):
            print(f"{row['approach']} seed {row['seed']}: {row.get('why') or row['after']}", flush=True)
            publish(options.out, "references", page(kept_in(folder), every, options))
    text = page(kept_in(folder), every, options)
    publish(options.out, "references", text)
    print(text)


def rows(chosen: list[Approach], options: argparse.Namespace, bench: Bench, folder: Path) -> Iterator[dict[str, Any]]:
    """Every row that is missing, the references of a seed first; each is kept when it is done."""
    for seed in options.seeds:
        done = []
        for one in chosen:
            done.append(_kept(folder / f"{one.name}-{seed}.json"))
            if done[-1] is None:
                done[-1] = reference_row(one, seed, options, bench, folder)
                yield done[-1]
        for recipe, name in OURS.items():
            for row in done:
                path = folder / f"{row['approach']}-{recipe}-{seed}.json"
                if _kept(path) is None:
                    yield our_row(row, name, recipe, options, bench, path)


def _kept(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None


def kept_in(folder: Path) -> list[dict[str, Any]]:
    """Every finished row."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def reference_row(one: Approach, seed: int, options: argparse.Namespace, bench: Bench, folder: Path) -> dict[str, Any]:
    """Train for sparsity where the approach does, prune, time, fine-tune."""
    work = folder / f"{one.name}-{seed}"
    work.mkdir(parents=True, exist_ok=True)
    weights, before_s, off = options.weights, 0.0, None
    epochs = max(1, round(options.epochs * one.share_of_epochs))
    if one.sparsity is not None:
        place = folder / f"sparse-{one.sparse_name}-{seed}"
        sparse = sparsify(
            options.weights,
            data=options.data,
            out=place / "out",
            work=place / "work",
            settings=settings_of("ultralytics", options.epochs, seed, options, lr0=3e-3),
            sparsity=one.sparsity,
        )
        weights, before_s = sparse.trained.best, sparse.trained.summary.seconds
        off = sparse.scales.after.overall.share_off
    started = perf_counter()
    given = checkpoint.load(weights)
    pruner = Pruner(given.model, options.imgsz, align=one.align, min_width=one.align)
    plan = one.plan(pruner)
    checkpoint.save(pruner.apply(plan), work / "pruned.pt", like=given)
    row = {
        "approach": one.name,
        "method": one.name,
        "seed": seed,
        "parameters": plan.params[1],
        "macs": plan.macs_speed_up,
        "prune_s": perf_counter() - started,
        "epochs": epochs + (options.epochs if one.sparsity else 0),
        "off": off,
    }
    row |= finished(row, work, epochs, "ultralytics", options, bench)
    row["total_s"] = row["prune_s"] + row["tuned_s"] + before_s
    row["by"] = made_here()
    write_atomically(folder / f"{one.name}-{seed}.json", json.dumps(row, indent=1))
    return row


def our_row(
    reference: dict[str, Any], name: str, recipe: str, options: argparse.Namespace, bench: Bench, path: Path
) -> dict[str, Any]:
    """The search at the latency of a reference, trained for as many epochs as it was."""
    asked, seed = reference["speed_up"][1], reference["seed"]
    row: dict[str, Any] = {"approach": reference["approach"], "method": name, "seed": seed, "asked": asked}
    row["epochs"] = reference["epochs"]
    work = path.with_suffix("")
    found = path.parent / f"search-{reference['approach']}-{seed}"
    found.mkdir(parents=True, exist_ok=True)
    try:
        row |= _searched(asked, found, options, bench)
    except EdgepruneError as error:
        row["why"] = str(error)
    if "why" not in row:
        work.mkdir(parents=True, exist_ok=True)
        checkpoint.save((given := checkpoint.load(found / "pruned.pt")).model, work / "pruned.pt", like=given)
        row |= finished(row, work, row["epochs"], recipe, options, bench)
        row["total_s"] = row["prune_s"] + row["tuned_s"]
    row["by"] = made_here()
    write_atomically(path, json.dumps(row, indent=1))
    return row


def _searched(asked: float, folder: Path, options: argparse.Namespace, bench: Bench) -> dict[str, Any]:
    """One search, kept for the second recipe."""
    kept = folder / "search.json"
    if asked < LEAST:
        return {"why": f"not searched: ×{asked:.2f} is below ×{LEAST:g}"}
    if not kept.is_file():
        began = perf_counter()
        near: dict[str, Any] = {"speed_up": asked, "least_used": 1 / WINDOW[1], "cache": bench.work / "profiles"}
        found = search(
            "cpu",
            options.weights,
            options.data,
            output=folder / "pruned.pt",
            imgsz=options.imgsz,
            diagnose=False,
            **near,
        )
        seen = {
            "parameters": found.plan.params[1],
            "macs": found.plan.macs_speed_up,
            "prune_s": perf_counter() - began,
            "gate": found.gate.verdict.value,
        }
        write_atomically(kept, json.dumps(seen))
    return json.loads(kept.read_text())


def settings_of(recipe: str, epochs: int, seed: int, options: argparse.Namespace, lr0: float = 1e-3) -> TrainSettings:
    """One recipe's settings; ``edgeprune`` has the unpruned model as teacher, as a build has."""
    return TrainSettings(
        epochs=epochs,
        batch=16,
        lr0=lr0,
        imgsz=options.imgsz,
        device=options.device,
        seed=seed,
        quiet=True,
        teacher=options.weights if recipe == "edgeprune" else None,
        train=RECIPES[recipe],
    )


def finished(
    row: dict[str, Any], work: Path, epochs: int, recipe: str, options: argparse.Namespace, bench: Bench
) -> dict[str, Any]:
    """Latency, accuracy before and after the fine-tune, and the load that it was measured under."""
    raced = bench.raced(work / "pruned.pt", work / "candidate")
    before, _ = _accuracy(work / "pruned.pt", work, options)
    tuned = finetune(
        work / "pruned.pt",
        data=options.data,
        out=work / "out",
        work=work / "work",
        settings=settings_of(recipe, epochs, row["seed"], options),
    )
    after, spread = _accuracy(tuned.best, work, options)
    return {
        "speed_up": [raced.low, raced.ratio, raced.high],
        "before": before,
        "after": after,
        "spread": spread,
        "best_epoch": tuned.summary.best_epoch,
        "tuned_s": tuned.summary.seconds,  # of all its epochs, also those before a stop
        "load": round(os.getloadavg()[0], 1),
    }


def _accuracy(model: Path, work: Path, options: argparse.Namespace) -> tuple[float, float | None]:
    """mAP50-95 on test, and its standard error over images."""
    kept = work / "images.npz"
    found = accuracy(model, data=options.data, imgsz=options.imgsz, split="test", device=options.device, per_image=kept)
    return found.map50_95, standard_error(load_per_image(kept))


def page(found: list[dict[str, Any]], every: tuple[Approach, ...], options: argparse.Namespace) -> str:
    """Markdown of what there is."""
    loads = [row["load"] for row in found if "load" in row]
    seeds = sorted({row["seed"] for row in found})
    under = f"; load {min(loads):g} to {max(loads):g}" if loads else ""
    command = f"python -m benchmarks.references --weights {options.weights.name} --data {options.data.parent.name}/"
    lines = [
        "# Five usual ways to prune, and the search at their latencies",
        "",
        f"`{command}{options.data.name} --imgsz {options.imgsz} --epochs {options.epochs} --steps {options.steps} "
        f"--seeds {' '.join(map(str, seeds or options.seeds))} --out benchmarks/references.md`",
        "",
        f"{origins(row['by'] for row in found)}{under}.",
        "",
        f"mAP50-95 on **test** at {options.imgsz} px; the best epoch is chosen on val, and the pruned model itself is "
        'epoch 0, so that a fine-tune that only harms leaves it. "Before" is right after pruning. Latency ratio: the '
        "unpruned model's over this one's, ONNX Runtime on one thread, interleaved, with its 95 % interval. The "
        "interval of mAP is over the images of test by bootstrap for one seed, over seeds by Student's t for more. "
        "Times are of a shared machine; `all in` is pruning and training. What each approach does:",
        "",
        *(f"- `{one.name}`: {one.about}." for one in every),
        "",
        f"All are fine-tuned for {options.epochs} epochs (AdamW 0.001, batch 16) by Ultralytics' training defaults; "
        f"sparsity training is {options.epochs} epochs before. `search` looks for the latency ratio that the approach "
        "reached, and trains for all of its epochs; `same recipe` by the same defaults, `own recipe` by `edgeprune "
        "finetune`'s with the unpruned model as teacher.",
        "",
    ]
    if options.epochs < 20 or len(seeds) < 3:
        lines += [
            f"**A small run: {options.epochs} epochs, {len(seeds)} seed{'s' * (len(seeds) != 1)}.** It shows that one "
            "command makes every row, and what each approach does to size and latency. It does not rank accuracy: "
            "Ultralytics' defaults warm up for three epochs, and scales need hundreds of steps to reach zero.",
            "",
        ]
    body = []
    for one in every:
        for method in (one.name, *OURS.values()):
            group = [row for row in found if (row["approach"], row["method"]) == (one.name, method)]
            body.append(_line(method, group))
    lines += [*table((*COLUMNS, *TIMES), body, right=1), "", *remarks(found, every)]
    return "\n".join(lines)


def _line(method: str, group: list[dict[str, Any]]) -> list[str]:
    """One row over its seeds."""
    name = f"`{method}`" if method not in OURS.values() else f"→ {method}"
    whole = [row for row in group if "why" not in row]
    if not whole:
        why = group[0]["why"] if group else "not run"
        return [name, str(len(group)), *["–"] * 7, why if len(why) < 60 else "refused", "–"][: len(COLUMNS + TIMES)]

    def mean(key: str) -> float:
        return statistics.mean(row[key] for row in whole)

    low, middle, high = (statistics.mean(row["speed_up"][i] for row in whole) for i in range(3))
    return [
        name,
        str(len(whole)),
        f"{mean('parameters') / 1e6:.2f} M",
        f"×{mean('macs'):.2f}",
        f"×{middle:.2f} ({low:.2f} to {high:.2f})",
        f"{mean('before'):.3f}",
        f"{mean('after'):.3f}",
        " to ".join(f"{end:.3f}" for end in ends) if (ends := interval(whole)) else "–",
        f"{mean('epochs'):g}",
        f"{mean('prune_s'):.0f} s",
        f"{mean('total_s'):.0f} s",
    ]


def interval(whole: list[dict[str, Any]]) -> tuple[float, float] | None:
    """Of the mAP after the fine-tune at 95 %: over images for one seed, over seeds for more."""
    if len(whole) > 1:
        return Seeds(tuple(row["after"] for row in whole)).interval
    spread = whole[0]["spread"]
    if spread is None:
        return None
    after, half = whole[0]["after"], interval_half_width(spread)
    return after - half, after + half


def told(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    """What the seeds say of two groups of rows, and whether their latencies are apart."""
    accuracies = [Seeds(tuple(row["after"] for row in group)) for group in (ours, theirs)]
    ends = [tuple(statistics.mean(row["speed_up"][end] for row in group) for end in (0, 2)) for group in (ours, theirs)]
    return WORDS[accuracies[0].against(accuracies[1])] + "; latency differs" * latency_differs(*ends)


def remarks(found: list[dict[str, Any]], every: tuple[Approach, ...]) -> list[str]:
    """What follows from the seeds, and where a row says less than it seems to."""
    lines = []
    for one in every:
        groups = {
            method: [
                row for row in found if (row["approach"], row["method"]) == (one.name, method) and "why" not in row
            ]
            for method in (one.name, *OURS.values())
        }
        for method in OURS.values():
            if groups[method] and groups[one.name]:
                lines.append(f"- {method} against `{one.name}`: {told(groups[method], groups[one.name])}.")
        off = [row["off"] for row in groups[one.name] if row.get("off") is not None]
        if off and statistics.mean(off) < 0.05:
            lines.append(
                f"- `{one.name}`: sparsity training switched {statistics.mean(off):.1%} of the channels off, so it "
                "prunes channels that still count."
            )
    return ["What follows:", "", *lines] if lines else []


if __name__ == "__main__":
    main()
