"""Every lever for some budgets on real data: is the recommended row the best, and does a combination beat one lever?

    python -m benchmarks.frontier WEIGHTS.pt [WEIGHTS.pt …] --data data.yaml --work runs/frontier --out PAGE.md
        [--everything] [--speed-ups 1.5 2.2 3 5] [--imgsz 320] [--epochs 20] [--seeds 0 1 2] [--target cpu]
        [--also OTHER.pt …] [--picture PICTURE.svg] [--print-only]

Every model and seed is one ``edgeprune frontier``, resumed in ``--work`` where it stopped, and kept in a JSON beside
the page once it is done: with other models or seeds the same command adds to the page. ``--everything`` trains what its
screening leaves out too: what is recommended without that is held against the best of all rows. Rows are matched over
seeds by name. The page, and the picture of the first model's first seed, are written after every model and seed;
``--print-only`` writes them from what is kept.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.kept import KeptRuns, content_of, known_by, made_here, origins
from benchmarks.page import Seeds, publish, table
from edgeprune.artifact import write_atomically
from edgeprune.errors import DataError
from edgeprune.frontier.budgets import budget_words
from edgeprune.frontier.choose import is_held
from edgeprune.frontier.run import FrontierRun
from edgeprune.input_size import pixels, size_from
from edgeprune.progress import Silent
from edgeprune.records.frontier import Frontier, Row
from edgeprune.records.sweep import Point
from edgeprune.report.frontier import frontier_plot
from edgeprune.samples.statistics import interval_half_width
from edgeprune.serial import from_json, to_json

NEAR = 0.005  # mAP that a recommended row may stay behind the best one
AHEAD = 0.03  # mAP that a combination is asked to bring over one lever, at the largest budget
SPENT = (1.00, 1.09)  # of the ratio that was asked, where the lever is continuous
ROWS = ("", "levers", "seeds", "asked", "measured", "95 %", "of what was asked", "accuracy", "95 %", "parameters")
ROWS = (*ROWS, "on the frontier", "recommended for")
RECOMMENDED = ("budget", "recommended", "accuracy", "best row found", "accuracy", "difference", f"within {NEAR:g}")
COMBINED = ("budget", "best single lever", "accuracy", "best combination", "accuracy", "difference")
COMBINED = (*COMBINED, f"at least {AHEAD:g} ahead")


@dataclass(frozen=True)
class Run:
    """One model and seed.

    Attributes:
        seed: of everything drawn.
        found: all of its rows.
        seconds: that it took, all runs of it together.
        loads: of the machine before and after.
        by: which machine and packages, and when.
    """

    seed: int
    found: Frontier
    seconds: float
    loads: tuple[float, ...]
    by: str


@dataclass(frozen=True)
class Seen:
    """A row over all seeds that trained it.

    Attributes:
        name: of the row.
        rows: by seed, each measured.
    """

    name: str
    rows: Mapping[int, Row]

    @property
    def points(self) -> list[Point]:
        """One a seed."""
        return [row.measured for row in self.rows.values() if row.measured is not None]

    @property
    def levers(self) -> int:
        """How many were pulled, pruning included."""
        one = next(iter(self.rows.values()))
        return len(one.form.levers) + bool(one.budget)

    @property
    def left_out(self) -> bool:
        """Whether the screening leaves it out with every seed."""
        return all(row.dropped for row in self.rows.values())

    @property
    def accuracy(self) -> Seeds:
        """One figure a seed."""
        return Seeds(tuple(point.accuracy for point in self.points))

    @property
    def speed_up(self) -> float:
        """Mean over the seeds."""
        return fmean(point.speed_up for point in self.points)

    def holds(self, value: float) -> bool:
        """Whether it surely meets a budget in most seeds."""
        held = [
            is_held(row, value / row.measured.speed_up, "speed_up", value, budget_words("speed_up", value))
            for row in self.rows.values()
            if row.measured is not None
        ]
        return held.count(True) * 2 > len(held)

    def minus(self, other: Seen) -> Seeds:
        """Differences of accuracy, seed by seed."""
        pairs = [(row.measured, other.rows[seed].measured) for seed, row in self.rows.items() if seed in other.rows]
        return Seeds(tuple(own.accuracy - its.accuracy for own, its in pairs if own is not None and its is not None))

    def cells(self, recommended_for: Sequence[str]) -> tuple[str, ...]:
        """Its line of the table."""
        asked = next(iter(self.rows.values())).budget
        lows, highs = ([getattr(point, end) for point in self.points] for end in ("speed_up_low", "speed_up_high"))
        known = all(end is not None and math.isfinite(end) for end in (*lows, *highs))
        ends = f"×{min(lows):.3f} to ×{max(highs):.3f}" if known else "too few samples"
        undominated = sum(row.undominated for row in self.rows.values())
        return (
            self.name,
            str(self.levers),
            str(len(self.rows)),
            asked or "–",
            f"×{self.speed_up:.3f}",
            ends,
            f"{self.speed_up / float(asked.lstrip('×')):.3f}" if asked else "–",
            f"{self.accuracy.mean:.4f}",
            interval_text(self),
            f"{fmean(point.parameters for point in self.points) / 1e6:.3f} M",
            f"{undominated} of {len(self.rows)}" if undominated else "",
            ", ".join(recommended_for) or ("left out by the screening" if self.left_out else ""),
        )


def interval_text(row: Seen) -> str:
    """Of the mean over seeds; with one seed, of its figure over the images."""
    if row.accuracy.interval is not None:
        return row.accuracy.text()
    [point] = row.points
    return "–" if point.accuracy_error is None else f"± {interval_half_width(point.accuracy_error):.4f} over images"


def seen(runs: Sequence[Run]) -> list[Seen]:
    """The trained rows of all seeds, the slowest first."""
    by_name: dict[str, dict[int, Row]] = defaultdict(dict)
    for run in runs:
        for row in run.found.rows:
            if row.measured is not None:
                by_name[row.name][run.seed] = row
    return sorted((Seen(name, rows) for name, rows in by_name.items()), key=lambda row: row.speed_up)


def recommended(runs: Sequence[Run], number: int) -> tuple[str | None, int]:
    """The row that most seeds recommend for a budget, and how many do."""
    return Counter(run.found.recommendations[number].row for run in runs).most_common(1)[0]


def recommendations(runs: Sequence[Run], rows: Sequence[Seen]) -> Iterator[tuple[str, ...]]:
    """For every budget what is recommended, beside the best of all rows in the mean of their seeds."""
    for number, value in enumerate(runs[0].found.budgets):
        name, seeds = recommended(runs, number)
        taken = next((row for row in rows if row.name == name), None)
        best = most_accurate([row for row in rows if row.holds(value)])
        said = "nothing" if taken is None else taken.name
        if len(runs) > 1:
            said += f" ({seeds} of {len(runs)} seeds)"
        behind = None if taken is None or best is None else taken.accuracy.mean - best.accuracy.mean
        difference = "–" if taken is None or best is None else difference_text(taken, best)
        verdict = "open" if behind is None else "yes" if behind >= -NEAR else "**no**"
        yield (f"×{value:g}", said, figure(taken), *named(best), difference, verdict)


def combinations(runs: Sequence[Run], rows: Sequence[Seen]) -> Iterator[tuple[str, ...]]:
    """For every budget the best single lever beside the best combination, by the mean of their seeds."""
    for value in runs[0].found.budgets:
        able = [row for row in rows if row.holds(value)]
        one = most_accurate([row for row in able if row.levers == 1])
        more = most_accurate([row for row in able if row.levers > 1])
        difference, verdict = "–", "open: no single lever gets there" if one is None and more is not None else "open"
        if one is not None and more is not None:
            difference = difference_text(more, one)
            verdict = "yes" if more.accuracy.mean - one.accuracy.mean >= AHEAD else "no"
        yield (f"×{value:g}", *named(one), *named(more), difference, verdict)


def difference_text(row: Seen, other: Seen) -> str:
    """The difference of two rows seed by seed, with its 95 % interval by Student's t where there are two seeds."""
    if row.name == other.name:
        return "the same row"
    found = row.minus(other)
    if not found.values:
        return f"{row.accuracy.mean - other.accuracy.mean:+.4f}, of other seeds"
    ends = "" if found.interval is None else f" ({found.interval[0]:+.4f} to {found.interval[1]:+.4f})"
    return f"{found.mean:+.4f}{ends}"


def most_accurate(rows: Sequence[Seen]) -> Seen | None:
    """By the mean over seeds."""
    return max(rows, key=lambda row: row.accuracy.mean, default=None)


def named(row: Seen | None) -> tuple[str, str]:
    """Name and accuracy."""
    return "–" if row is None else row.name, figure(row)


def figure(row: Seen | None) -> str:
    """Accuracy, the mean over seeds."""
    return "–" if row is None else f"{row.accuracy.mean:.4f}"


def spent(rows: Sequence[Seen]) -> str:
    """How near the pruned rows are to what was asked, every seed for itself."""
    shares = [
        point.speed_up / float(row.budget.lstrip("×"))
        for one in rows
        for row in one.rows.values()
        if row.budget and (point := row.measured) is not None
    ]
    if not shares:
        return "No row was pruned."
    within = sum(SPENT[0] <= share <= SPENT[1] for share in shares)
    return (
        f"{within} of {len(shares)} pruned models, every seed counted, were measured at {SPENT[0]:.2f} to "
        f"{SPENT[1]:.2f} of the ratio that was asked; the lowest at {min(shares):.3f}, the highest at "
        f"{max(shares):.3f}."
    )


def part_of(name: str, runs: Sequence[Run]) -> Iterator[str]:
    """The part of the page on one model."""
    rows = seen(runs)
    for_budgets: dict[str | None, list[str]] = defaultdict(list)
    for number, value in enumerate(runs[0].found.budgets):
        for_budgets[recommended(runs, number)[0]].append(f"×{value:g}")
    yield f"## {name}"
    yield "\n".join(table(ROWS, [row.cells(for_budgets[row.name]) for row in rows]))
    yield "\n".join(table(RECOMMENDED, list(recommendations(runs, rows))))
    yield "\n".join(table(COMBINED, list(combinations(runs, rows))))
    yield spent(rows)
    seconds = [run.found.screening_seconds for run in runs if run.found.screening_seconds is not None]
    if seconds:
        yield "Screening before any training, a seed each: " + ", ".join(f"{one:.0f} s" for one in seconds) + "."
    yield "All of it, a seed each: " + ", ".join(f"{run.seconds / 3600:.2f} h" for run in runs) + "."
    rest = [row for row in runs[0].found.rows if row.measured is None]
    if rest:
        why = [f"{row.name} ({row.dropped or (row.point.failed if row.point else '')})" for row in rest]
        yield f"Not measured with seed {runs[0].seed}: {'; '.join(why)}."
    undecided = [
        f"{row.name}, seed {seed} ({row.point.inconclusive})"
        for one in rows
        for seed, row in one.rows.items()
        if row.point is not None and row.point.inconclusive
    ]
    if undecided:
        yield f"INCONCLUSIVE: {'; '.join(undecided)}."


def page(results: Mapping[str, Sequence[Run]], options: argparse.Namespace) -> str:
    """The whole page as Markdown."""
    every = [run for runs in results.values() for run in runs]
    first, loads = every[0].found, [load for run in every for load in run.loads]
    what = (
        "Every row was trained, also what the screening leaves out."
        if options.everything
        else "Rows that the screening leaves out were not trained: the best row found is the best of those that were."
    )
    parts = [
        "# Every lever for a budget, measured side by side",
        f"By `python -m benchmarks.frontier`{', told `--everything`' if options.everything else ''}: target "
        f"`{Path(options.target).name}`, data {Path(options.data).parent.name}, {pixels(options.imgsz)}, "
        f"{first.epochs} epochs a row, seeds {', '.join(map(str, sorted({run.seed for run in every})))}. "
        f"{origins(run.by for run in every)}; load of the machine {min(loads):.1f} to {max(loads):.1f}.",
        f"Accuracy is {first.metric} of the artifact on the split that judges, the mean over seeds, its interval by "
        "Student's t. A speed-up is the ratio to the model as it is in one interleaved run; the ends of its interval "
        "are the lowest and the highest of all seeds. What is recommended is from the rows that the screening does not "
        f"leave out. {what}",
        f"![Accuracy against latency of {next(iter(results))}, seed {every[0].seed}]({picture_of(options).name})",
    ]
    for name, runs in results.items():
        parts += part_of(name, runs)
    return "\n\n".join(parts) + "\n"


def picture_of(options: argparse.Namespace) -> Path:
    """Beside the page under its name, where nothing else is said."""
    return options.picture or options.out.with_suffix(".svg")


class Notes(Silent):
    """Prints what is noted, as these runs take hours."""

    def note(self, text: str) -> None:
        print(text, flush=True)


def kept_with(options: argparse.Namespace) -> KeptRuns:
    """The runs for these budgets and epochs, on these data."""
    asked = {
        "target": Path(options.target).name,
        "data": Path(options.data).parent.name,
        "imgsz": options.imgsz,
        "epochs": options.epochs,
        "speed_ups": options.speed_ups,
        "everything": options.everything,
        "dataset": options.dataset,
        "also": [known_by(other) for other in options.also],
    }
    return KeptRuns(options.out, asked)


def name_of(weights: Path, seed: int) -> str:
    """Of a run, in what is kept; the weights by their content too."""
    return f"{known_by(weights)} seed {seed}"


def results_of(options: argparse.Namespace) -> dict[str, list[Run]]:
    """Everything that is kept, by model, seeds in order; the models of this call first. Of weights of one name those
    that are given now."""
    given = {weights.stem: known_by(weights) for weights in options.weights}
    found: dict[str, list[Run]] = {stem: [] for stem in given}
    for name, run in kept_with(options).all().items():
        model = name.rpartition(" seed ")[0]
        stem = model.rpartition(" ")[0]
        if given.get(stem, model) == model:
            found.setdefault(stem, []).append(from_json(Run, run, name))
    return {name: sorted(runs, key=lambda run: run.seed) for name, runs in found.items() if runs}


def run_of(weights: Path, seed: int, options: argparse.Namespace) -> Run:
    """One model and seed, in its folder, on from where it stopped."""
    folder = options.work / name_of(weights, seed).replace(" ", "-")
    clock = folder / "spent.json"  # of the runs that were stopped
    spent: dict[str, Any] = json.loads(clock.read_text()) if clock.is_file() else {"seconds": 0.0, "loads": []}
    began = time.monotonic()
    spent["loads"].append(os.getloadavg()[0])
    try:
        found = FrontierRun(
            options.target,
            weights,
            options.data,
            out=folder,
            kind="speed_up",
            budgets=options.speed_ups,
            also=[other for other in options.also if other.stem != weights.stem],
            epochs=options.epochs,
            imgsz=options.imgsz,
            seed=seed,
            progress=Notes(),
            everything=options.everything,
        ).made()
    finally:
        spent["seconds"] += time.monotonic() - began
        spent["loads"].append(os.getloadavg()[0])
        if folder.is_dir():
            write_atomically(clock, json.dumps(spent))
    return Run(seed, found, spent["seconds"], tuple(spent["loads"]), made_here())


def main() -> int:
    """Run what is missing, and write the page after every model and seed."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("weights", nargs="+", type=Path)
    arguments.add_argument("--data", required=True)
    arguments.add_argument("--work", type=Path, required=True, help="rows of runs under way")
    arguments.add_argument("--out", type=Path, required=True, help="the page; finished runs are kept beside it")
    arguments.add_argument("--from", dest="begun", type=Path, help="JSON that the one beside --out is begun with")
    arguments.add_argument("--picture", type=Path, help="drawing of the first model's first seed [beside the page]")
    arguments.add_argument("--everything", action="store_true", help="train what the screening leaves out too")
    arguments.add_argument("--speed-ups", type=float, nargs="+", default=[1.5, 2.2, 3.0, 5.0])
    arguments.add_argument("--imgsz", type=size_from, default=320)
    arguments.add_argument("--epochs", type=int, default=20)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--also", type=Path, nargs="*", default=[], help="further checkpoints of other scales")
    arguments.add_argument("--target", default="cpu")
    arguments.add_argument("--print-only", action="store_true", help="the page from what is kept, no run")
    options = arguments.parse_args()
    options.dataset = content_of(options.data)
    kept = kept_with(options)
    try:
        kept.begin_with(options.begun)
    except DataError as error:
        arguments.error(str(error))
    missing = [(seed, weights) for seed in options.seeds for weights in options.weights]
    missing = [(seed, weights) for seed, weights in missing if name_of(weights, seed) not in kept.all()]
    for seed, weights in [] if options.print_only else missing:
        kept.keep(name_of(weights, seed), to_json(run_of(weights, seed, options)))
        written(options)
    if not kept.all():
        arguments.error(f"{kept.path} keeps no run for these budgets, epochs and data")
    written(options)
    print(options.out.read_text())
    return 0


def written(options: argparse.Namespace) -> None:
    """The page and its picture."""
    results = results_of(options)
    write_atomically(picture_of(options), frontier_plot(next(iter(results.values()))[0].found).svg_file())
    publish(options.out, "frontier", page(results, options))


if __name__ == "__main__":
    sys.exit(main())
