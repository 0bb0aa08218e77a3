"""How the cost of pruning grows with the model: trace, plan and apply, n to x, with a plot and the exponents.

    python -m benchmarks.pruning_growth --out benchmarks/pruning_growth.md [--families yolov8 yolo11 yolo26]

MACs ×2 by LAMP on stock models with random weights, which cost what trained ones do. Processor time of one thread, the
least of ``--times`` runs, so that other work on the machine counts little. Models that are in the JSON beside ``--out``
are not measured again; the page is printed from it. Memory is in pruning_speed.md, a fresh process a row.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

from benchmarks.kept import made_here, origins
from benchmarks.page import table
from edgeprune.artifact import write_atomically

SIZES = "nsmlx"
STEPS = ("trace", "plan", "apply")


def measured(name: str, imgsz: int, times: int) -> dict[str, Any]:
    """Processor seconds of each step for one model."""
    import torch
    from ultralytics import YOLO

    from edgeprune.checkpoint import parameter_count
    from edgeprune.pruning.pruner import Pruner

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model: Any = YOLO(f"{name}.yaml").model
    best: dict[str, float] = dict.fromkeys(STEPS, math.inf)
    macs = 0.0
    for _ in range(times):
        marks = [process_time()]
        pruner = Pruner(model, imgsz)
        marks.append(process_time())
        plan = pruner.plan(macs_speed_up=2, importance="lamp")
        marks.append(process_time())
        pruner.apply(plan)
        marks.append(process_time())
        spent: list[float] = np.diff(marks).tolist()
        best = {step: min(best[step], one) for step, one in zip(STEPS, spent, strict=True)}
        macs = plan.macs_speed_up
    found = {"model": name, "parameters": parameter_count(model), "macs": macs, "load": os.getloadavg()[0], **best}
    return found | {"by": made_here()}


def exponent(rows: list[dict[str, Any]]) -> float:
    """Slope of the processor time over the parameters on logarithmic axes, by least squares."""
    sizes = np.log([row["parameters"] for row in rows])
    return float(np.polyfit(sizes, np.log([total(row) for row in rows]), 1)[0])


def total(row: dict[str, Any]) -> float:
    """Processor seconds of all steps."""
    return sum(row[step] for step in STEPS)


def families(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows by family, smallest model first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["parameters"]):
        found.setdefault(row["model"][:-1], []).append(row)
    return dict(sorted(found.items()))


def page(kept: dict[str, Any], picture: str) -> str:
    """Markdown of every model that was measured."""
    rows = kept["rows"]
    found = families(rows)
    lines = [
        "# How the cost of pruning grows",
        "",
        f"`python -m benchmarks.pruning_growth --out benchmarks/pruning_growth.md --imgsz {kept['imgsz']}`: MACs ×2 by "
        f"LAMP on stock models with random weights; processor seconds of one thread, least of {kept['times']} runs. "
        f"{_origins(kept)}. Trace finds what is tied to what, "
        "plan ranks and chooses, apply narrows and checks that the narrowed model answers as the masked one does.",
        "",
        f"![Processor seconds over parameters, logarithmic axes]({picture})",
        "",
    ]
    body = [
        (row["model"], f"{row['parameters'] / 1e6:.1f} M", *(f"{row[step]:.2f}" for step in STEPS), f"{total(row):.2f}")
        for one in found.values()
        for row in one
    ]
    lines += [*table(("model", "parameters", "trace s", "plan s", "apply s", "all s"), body, right=1), ""]
    grown = [
        (
            family,
            f"{one[0]['model'][-1]} to {one[-1]['model'][-1]}",
            f"×{one[-1]['parameters'] / one[0]['parameters']:.1f}",
            f"×{total(one[-1]) / total(one[0]):.1f}",
            f"{exponent(one):.2f}",
        )
        for family, one in found.items()
        if len(one) > 1
    ]
    lines += table(("family", "from, to", "parameters", "processor time", "exponent"), grown, right=2)
    lines += ["", "An exponent of 1 is a cost that grows as the parameters do; below 1 it grows more slowly."]
    return "\n".join(lines) + "\n"


def _origins(kept: dict[str, Any]) -> str:
    """Where its rows are from; ``machine``, ``versions`` and ``date`` are of those that do not say so themselves."""
    loads = [row["load"] for row in kept["rows"]]
    under = f"load {min(loads):.0f} to {max(loads):.0f}"
    older = any("by" not in row for row in kept["rows"])
    said = [f"{kept['machine']}, {under}; {kept['versions']}; {kept['date']}"] if older else []
    if found := [row["by"] for row in kept["rows"] if "by" in row]:
        said += [f"{origins(found)}" + ("" if older else f"; {under}")]
    return "; and ".join(said)


def kept_with(file: Path, imgsz: int, times: int) -> dict[str, Any]:
    """What is kept of this size of input and as many runs; figures of others are left unread."""
    kept = json.loads(file.read_text()) if file.is_file() else {}
    asked = {"imgsz": imgsz, "times": times}
    return kept if asked.items() <= kept.items() else {**asked, "rows": []}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Processor time over parameters, a line a family, on logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for (family, one), marker in zip(families(rows).items(), "osd^v", strict=False):
        label = f"{family}, exponent {exponent(one):.2f}" if len(one) > 1 else family
        axes.plot([row["parameters"] for row in one], [total(row) for row in one], marker=marker, label=label)
    axes.set(xscale="log", yscale="log", xlabel="parameters", ylabel="processor seconds: trace, plan, apply")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, format="svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=["yolov8", "yolo11", "yolo26"])
    parser.add_argument("--sizes", default=SIZES, help="letters of sizes [%(default)s]")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--times", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True, help="the page; JSON and SVG go beside it")
    options = parser.parse_args()
    file, picture = options.out.with_suffix(".json"), options.out.with_suffix(".svg")
    kept = kept_with(file, options.imgsz, options.times)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for name in (f"{family}{size}" for family in options.families for size in options.sizes):
        if name in {row["model"] for row in kept["rows"]}:
            continue
        kept["rows"].append(measured(name, options.imgsz, options.times))
        write_atomically(file, json.dumps(kept, indent=1) + "\n")
        print(kept["rows"][-1], flush=True)
    draw(kept["rows"], picture)
    write_atomically(options.out, page(kept, picture.name))
    print(page(kept, picture.name))


if __name__ == "__main__":
    main()
