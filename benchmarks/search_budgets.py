"""Whether the budget search hits: 12 budgets, each searched on this machine and measured again afterwards.

Usage: python -m benchmarks.search_budgets --data DATA.yaml --out TABLE.md [--only N] WEIGHTS.pt [WEIGHTS.pt ...]

Every row is a search of its own for a measured speed-up on the ``cpu`` target, and then a fresh race of its result
against the unpruned model. The JSON beside the table has every probe. It goes on where it stopped: rows that are in the
JSON are not run again, those of other weights, data or size are left out; ``--only 1`` runs one row more and ends.
Where there is no JSON yet, rows of models that are not given are taken from ``--from``, so that they stay. The profile
of a model's layers is measured in its first row and counted there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.kept import MadeOf, made_here, made_of, mark_of, nameless, origins
from edgeprune.progress import Silent
from edgeprune.serial import to_json

SPEED_UPS = (1.3, 1.7, 2.2, 3.0)
INSIDE = (1.0, 1.09)  # measured over asked
MOST_S, MOST_PROBES = 90, 6


class Notes(Silent):
    """Prints every probe with the seconds since the start."""

    def __init__(self) -> None:
        self.began = perf_counter()

    def note(self, text: str) -> None:
        print(f"{perf_counter() - self.began:6.1f} s  {text}", flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("weights", nargs="+", type=Path)
    arguments.add_argument("--data", required=True)
    arguments.add_argument("--imgsz", type=int, default=320)
    arguments.add_argument("--speed-ups", type=float, nargs="+", default=SPEED_UPS)
    arguments.add_argument("--only", type=int, default=0, help="rows to run now; 0 runs all that are missing")
    arguments.add_argument("--cache", type=Path, default=Path("runs/profiles"))
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--from", dest="begun", type=Path, help="JSON whose rows of other models are taken over")
    options = arguments.parse_args()
    file = options.out.with_suffix(".json")
    made = {path: made_of(path, options.data, options.imgsz) for path in options.weights}
    rows = kept_in(file, list(made.values()))
    if options.begun is not None and not file.is_file():
        names = {one.model for one in made.values()}
        rows = [row for row in kept_in(options.begun, list(made.values())) if row["model"] not in names]
    done = {(row["model"], row["asked"]) for row in rows}
    missing = [(path, ask) for ask in options.speed_ups for path in options.weights if (path.stem, ask) not in done]
    for path, asked in missing[: options.only or None]:
        rows.append({**asdict(made[path]), **one_row(path, asked, options), "by": made_here()})
        file.write_text(json.dumps(rows, indent=1) + "\n")
        options.out.write_text(table(rows, options))
        print(options.out.read_text().splitlines()[-1 - len(summary(rows))], flush=True)


def kept_in(file: Path, given: Sequence[MadeOf]) -> list[dict[str, Any]]:
    """Rows of these weights, and of models that are not given now, on the same data and size."""
    by_model = {one.model: one for one in given}
    rows: list[dict[str, Any]] = json.loads(file.read_text()) if file.is_file() else []
    others = (replace(given[0], model=row["model"], weights=row.get("weights", "")) for row in rows)
    return [row for row, other in zip(rows, others, strict=True) if by_model.get(row["model"], other).fits(row)]


def one_row(path: Path, asked: float, options: argparse.Namespace) -> dict[str, Any]:
    """Search one budget, then race what it found against the unpruned model in a fresh process."""
    from edgeprune.runtimes.site import open_site
    from edgeprune.search.inputs import read_inputs
    from edgeprune.search.run import search
    from edgeprune.target import load_target

    target = load_target("cpu").with_overrides(speed_up=asked, imgsz=options.imgsz)
    with tempfile.TemporaryDirectory() as scratch:
        began = perf_counter()
        found = search(
            target, path, options.data, output=Path(scratch) / "pruned.pt", cache=options.cache, progress=Notes()
        )
        seconds = perf_counter() - began
        given = read_inputs(target, path, options.data, trust=False)
        with open_site(target) as site:
            from edgeprune import checkpoint
            from edgeprune.samples.statistics import ratio
            from edgeprune.search.bench import SiteBench

            bench = SiteBench(site, given.source, given.dataset)
            models = {"before": given.source.model, "after": checkpoint.load(found.checkpoint).model}
            engines = [bench.compile(model, Path(scratch) / name, {}).required_engine for name, model in models.items()]
            before, after = bench.latency(engines, 1.0)
            measured = ratio(before.values, after.values)
        assert found.profile is not None
        kept = next(probe for probe in found.probes if probe.kept)
        return {
            "asked": asked,
            "measured": measured.ratio,
            "interval": [measured.low, measured.high],
            "probes": to_json(found.probes),
            "seconds": seconds,
            "first_error": found.probes[0].error,
            "final_uncorrected_error": kept.uncorrected_share / kept.budget_share - 1,
            "held_out_error": found.profile.fit.median_error,
            "step": found.profile.fit.model.sizes.step,
            "macs": found.plan.macs_speed_up,
            "parameters": list(found.plan.params),
            "removed": list(found.plan.removed),
            "load_average": after.conditions.host and after.conditions.host.load_average,
        }


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """What the bars ask, over all rows so far."""
    hit = [row for row in rows if INSIDE[0] <= row["measured"] / row["asked"] <= INSIDE[1]]
    quick = [row for row in rows if row["seconds"] <= MOST_S and len(row["probes"]) <= MOST_PROBES]
    errors = [abs(row["final_uncorrected_error"]) for row in rows]
    return [
        "",
        f"Measured within [{INSIDE[0]:.2f}, {INSIDE[1]:.2f}] × asked: {len(hit)} of {len(rows)}. At most {MOST_PROBES} "
        f"probes and {MOST_S} s: {len(quick)} of {len(rows)}. Prediction of the final plan before any probe corrected "
        f"it: median error {median(errors):.1%}, largest {max(errors):.1%}.",
    ]


def table(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """The table as Markdown."""
    lines = [
        "# Does the search hit its budget?",
        "",
        f"`cpu` target ({origins(row['by'] for row in rows)}; one thread), {options.imgsz} px, importance from 64 "
        f"images of `{Path(options.data).parent.name}`. Measured: a fresh race after the search, with its 95 % "
        "interval. Error: predicted over measured latency of the final plan minus 1, before any probe corrected the "
        "model." + (f" {said}" if (said := nameless(rows)) else ""),
        "",
        "| model | asked | measured | over asked | probes | seconds | error | MACs | parameters | blocks dropped |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        low, high = row["interval"]
        lines.append(
            f"| {row['model']}{mark_of(row, rows)} | ×{row['asked']:g} | "
            f"×{row['measured']:.3f} ({low:.3f} to {high:.3f}) | "
            f"{row['measured'] / row['asked']:.3f} | {len(row['probes'])} | {row['seconds']:.0f} | "
            f"{row['final_uncorrected_error']:+.1%} | ×{row['macs']:.2f} | "
            f"{row['parameters'][1] / row['parameters'][0]:.0%} | {', '.join(row['removed']) or '–'} |"
        )
    return "\n".join([*lines, *summary(rows)]) + "\n"


if __name__ == "__main__":
    main()
