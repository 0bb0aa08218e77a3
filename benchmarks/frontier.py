"""Every lever for some budgets on real data: is the recommended row the best, and does a combination beat one lever?

    python -m benchmarks.frontier WEIGHTS.pt [WEIGHTS.pt …] --data data.yaml --work runs/frontier --out TABLE.md
        [--picture PICTURE.svg] [--speed-ups 1.5 2.2 3 5] [--imgsz 320] [--epochs 20] [--seeds 0 1 2] [--target cpu]

Every model and seed is one ``edgeprune frontier``, resumed where it stopped. Rows are matched over seeds by name: which
rows are trained follows from a screening, which differs a little from seed to seed; a row says how many seeds have it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from edgeprune.agent.facts import device_facts
from edgeprune.artifact import write_atomically
from edgeprune.frontier.run import frontier
from edgeprune.input_size import pixels, size_from
from edgeprune.progress import Reporter, Silent
from edgeprune.records.frontier import Frontier, Row
from edgeprune.records.sweep import Point
from edgeprune.report.frontier import frontier_plot
from edgeprune.report.table import Table

COLUMNS = ("", "levers", "seeds", "speed-up", "accuracy", "lowest to highest", "parameters", "on the frontier")
VERDICTS = (
    "budget",
    "recommended",
    "its accuracy",
    "best row",
    "its accuracy",
    "best single lever",
    "best combination",
)


@dataclass(frozen=True)
class Seen:
    """A row over all seeds that trained it.

    Attributes:
        name: of the row.
        levers: how many were pulled, pruning included.
        points: one a seed.
        undominated: in how many seeds.
    """

    name: str
    levers: int
    points: tuple[Point, ...]
    undominated: int

    @property
    def accuracy(self) -> float:
        """Mean over the seeds."""
        return fmean(point.accuracy for point in self.points)

    @property
    def speed_up(self) -> float:
        """Mean over the seeds."""
        return fmean(point.speed_up for point in self.points)

    def cells(self) -> tuple[str, ...]:
        """Its row of the table."""
        accuracies = [point.accuracy for point in self.points]
        spread = f"{min(accuracies):.4f} to {max(accuracies):.4f}" if len(accuracies) > 1 else "–"
        parameters = f"{fmean(point.parameters for point in self.points) / 1e6:.3f} M"
        edge = f"{self.undominated} of {len(self.points)}" if self.undominated else ""
        head = (self.name, str(self.levers), str(len(self.points)), f"×{self.speed_up:.3f}")
        return *head, f"{self.accuracy:.4f}", spread, parameters, edge


def seen(found: Sequence[Frontier]) -> list[Seen]:
    """The trained rows of all seeds, the slowest first."""
    by_name: dict[str, list[Row]] = defaultdict(list)
    for one in found:
        for row in one.rows:
            if row.measured is not None:
                by_name[row.name].append(row)
    rows = [
        Seen(
            name,
            len(same[0].form.levers) + bool(same[0].budget),
            tuple(row.measured for row in same if row.measured is not None),
            sum(row.undominated for row in same),
        )
        for name, same in by_name.items()
    ]
    return sorted(rows, key=lambda row: row.speed_up)


def verdicts(found: Sequence[Frontier], rows: Sequence[Seen]) -> Iterator[tuple[str, ...]]:
    """For every budget what was recommended with the first seed, beside the best of all rows in the mean."""
    for number, value in enumerate(found[0].budgets):
        meeting = [row for row in rows if row.speed_up >= value]
        recommended = next((row for row in rows if row.name == found[0].recommendations[number].row), None)
        best = _best(meeting)
        yield (
            f"×{value:g}",
            *_named(recommended),
            *_named(best),
            ", ".join(_named(_best([row for row in meeting if row.levers == 1]))),
            ", ".join(_named(_best([row for row in meeting if row.levers > 1]))),
        )


def _best(rows: Sequence[Seen]) -> Seen | None:
    return max(rows, key=lambda row: row.accuracy, default=None)


def _named(row: Seen | None) -> tuple[str, str]:
    return ("–", "–") if row is None else (row.name, f"{row.accuracy:.4f}")


def page(results: Mapping[str, Sequence[Frontier]], options: argparse.Namespace, loads: Sequence[float]) -> str:
    """The whole page as Markdown."""
    facts, epochs = device_facts(), next(iter(results.values()))[0].epochs
    parts = [
        "# Every lever for a budget, measured side by side",
        f"By `python -m benchmarks.frontier` on {facts.cpu}, {facts.cpus} CPUs, target `{options.target}`, "
        f"{pixels(options.imgsz)}, {epochs} epochs a row, seeds {', '.join(map(str, options.seeds))}; load of the "
        f"machine between {min(loads):.1f} and {max(loads):.1f}. Accuracy is {results_metric(results)} of the artifact "
        "on the split that judges; a speed-up is the ratio to the model as it is in one interleaved run.",
    ]
    for name, found in results.items():
        rows = seen(found)
        dropped = [row for row in found[0].rows if row.dropped]
        parts += [
            f"## {name}",
            Table.of(COLUMNS, (row.cells() for row in rows)).markdown(),
            Table.of(VERDICTS, verdicts(found, rows)).markdown(),
            f"Not trained with seed {options.seeds[0]}: "
            + "; ".join(f"{row.name} ({row.dropped})" for row in dropped)
            + ".",
        ]
    return "\n\n".join(parts) + "\n"


def results_metric(results: Mapping[str, Sequence[Frontier]]) -> str:
    """Name of the accuracy."""
    return next(iter(results.values()))[0].metric


class Notes(Silent):
    """Prints what is noted, as these runs take hours."""

    def note(self, text: str) -> None:
        print(text, flush=True)


def main() -> int:
    """Run what is missing, and write the page after every model and seed."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("weights", nargs="+", type=Path)
    arguments.add_argument("--data", required=True)
    arguments.add_argument("--work", type=Path, required=True, help="finished rows are kept here")
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--picture", type=Path, help="drawing of the first model's first seed")
    arguments.add_argument("--speed-ups", type=float, nargs="+", default=[1.5, 2.2, 3.0, 5.0])
    arguments.add_argument("--imgsz", type=size_from, default=320)
    arguments.add_argument("--epochs", type=int, default=20)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--target", default="cpu")
    options = arguments.parse_args()
    results: dict[str, list[Frontier]] = defaultdict(list)
    loads_file = options.work / "loads.json"
    loads: list[float] = json.loads(loads_file.read_text()) if loads_file.is_file() else []
    reporter: Reporter = Notes()
    for seed in options.seeds:
        for weights in options.weights:
            loads.append(os.getloadavg()[0])
            found = frontier(
                options.target,
                weights,
                options.data,
                out=options.work / f"{weights.stem}-{seed}",
                kind="speed_up",
                budgets=options.speed_ups,
                epochs=options.epochs,
                imgsz=options.imgsz,
                seed=seed,
                progress=reporter,
            )
            loads.append(os.getloadavg()[0])
            write_atomically(loads_file, json.dumps(loads))
            if options.picture is not None and not results:
                write_atomically(options.picture, frontier_plot(found).svg)
            results[weights.stem].append(found)
            write_atomically(options.out, page(results, options, loads))
    print(options.out.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
