"""Which teacher, schedule, importance and learning rate keep most accuracy, at equal epochs and measured latency?

    python -m benchmarks.recipes --weights W.pt --data data.yaml --work runs/recipes --out PAGE.md [--larger LARGER.pt]
        [--speed-ups 2.2] [--epochs 20] [--seeds 0 1 2] [--schedules …] [--importances …] [--teachers …]
        [--lr0s 0.001 0.002 …] [--full]

The first of each list makes the first row. One is varied at a time (``--full``: every combination); then the best of
each, chosen on the val split, are put together. Every model is found by the search at the asked latency ratio to the
given weights (ONNX Runtime CPU, one thread) and timed in one interleaved run with them; every recipe trains
``--epochs`` in all:

- ``one-shot``: prune, then all epochs. ``rounds``: prune by the root of the ratio, half of the epochs, prune on, the
  other half. ``sparse``: half of the epochs with a penalty on the scales, prune by them, the other half.
- teacher ``none``, ``unpruned`` or ``larger`` (``--larger``, another checkpoint of the same classes).

A stopped run goes on in the epoch where it was (``--work``); finished ones are kept in a JSON beside the page, one
figure a seed. ``--from`` is another such JSON, whose runs count as finished where there is none beside the page
yet; one of other weights or data is refused. ``--print-only`` prints the page from it.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.equal_latency import WINDOW, Bench
from benchmarks.kept import KeptRuns, MadeOf, known_by, made_here, made_of, origins
from benchmarks.page import FEWEST_SEEDS, Seeds, latency_differs, publish, table
from edgeprune.artifact import write_atomically
from edgeprune.errors import DataError, EdgepruneError, first_line
from edgeprune.measure.accuracy import accuracy
from edgeprune.search.run import Reference, search
from edgeprune.settings import TrainSettings
from edgeprune.target import load_target
from edgeprune.training.finetune import finetune
from edgeprune.training.sparsify import sparsify

SCHEDULES = ("one-shot", "rounds", "sparse")
TEACHERS = ("unpruned", "none", "larger")
IMPORTANCES = ("taylor", "lamp", "fisher")
LR0S = (0.001, 0.002, 0.004)
NAMELESS_LR0 = 0.001  # of runs whose name says none: those from before it was varied
FACTORS = ("schedule", "importance", "teacher", "lr0")
BY_SCALES = "bn_scale"  # what a sparse schedule prunes by
SPARSE_LR0 = 0.003  # of `edgeprune sparsify`
COLUMNS = (
    "schedule",
    "importance",
    "teacher",
    "lr0",
    "measured",
    "95 %",
    "parameters",
    "val, mean",
    "test, mean",
    "95 %",
)
COLUMNS = (*COLUMNS, "lowest", "highest", "against the first", "seeds")


@dataclass(frozen=True)
class Recipe:
    """How a model is pruned and trained."""

    schedule: str
    importance: str
    teacher: str
    lr0: float = NAMELESS_LR0

    @property
    def name(self) -> str:
        """Of its folder."""
        own = "" if self.lr0 == NAMELESS_LR0 else f"-lr{self.lr0:g}"
        return f"{self.schedule}-{self.importance}-{self.teacher}{own}"


@dataclass(frozen=True)
class Place:
    """One run: a recipe at a ratio by a seed, in a folder of its own."""

    recipe: Recipe
    asked: float
    seed: int
    options: argparse.Namespace

    @property
    def folder(self) -> Path:
        """Of the run; epochs and size are in its name."""
        given = self.options
        of_all = f"{_of_all(given)}-x{self.asked:g}-epochs{given.epochs}"
        return given.work / of_all / self.recipe.name / f"seed{self.seed}"

    @property
    def name(self) -> str:
        """Of the run, in what is kept."""
        by = f" by {known_by(self.options.larger)}" if self.recipe.teacher == "larger" else ""
        return self.folder.relative_to(self.options.work).as_posix() + by

    @property
    def record(self) -> dict[str, Any] | None:
        """What was found; None where it was not run."""
        return kept(self.options).all().get(self.name)

    def settings(self, epochs: int, lr0: float | None = None) -> TrainSettings:
        """Of a training of some of the epochs; the profile's own, but for the teacher."""
        given = self.options
        teachers = {"none": None, "unpruned": given.weights, "larger": given.larger}
        finetuning = load_target("cpu").finetune
        made = TrainSettings.of(finetuning, imgsz=given.imgsz, seed=self.seed, teacher=teachers[self.recipe.teacher])
        return replace(made, epochs=epochs, lr0=lr0 or self.recipe.lr0, device=given.device, quiet=True)


def kept(options: argparse.Namespace) -> KeptRuns:
    """The runs of these weights, on these data."""
    asked = {"weights": known_by(options.weights), "data": Path(options.data).parent.name, "dataset": options.dataset}
    return KeptRuns(options.out, asked)


def claimed(folder: Path, of: MadeOf) -> bool:
    """Whether what is pruned in a folder is of these weights and data; the first run in it says of which it is."""
    said = folder / "made_of.json"
    if said.is_file():
        return json.loads(said.read_text()) == asdict(of)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(said, json.dumps(asdict(of), indent=1))
    return True


def run(place: Place, bench: Bench) -> dict[str, Any]:
    """Prune and train by a recipe, or take what is kept."""
    if place.record is not None:
        return place.record
    print(f"{place.folder.parent.name} x{place.asked:g} seed {place.seed}", flush=True)
    place.folder.mkdir(parents=True, exist_ok=True)
    try:
        best, seconds = SCHEDULE[place.recipe.schedule](place, bench)
    except EdgepruneError as error:
        found: dict[str, Any] = {"why": first_line(error)}
    else:
        data, ratio = place.options.data, bench.raced(best, place.folder / "engine")
        found = {
            "speed_up": [ratio.low, ratio.ratio, ratio.high],
            "parameters": _parameters(best),
            "seconds": seconds,
            **{
                split: accuracy(best, data=data, imgsz=place.options.imgsz, split=split).map50_95
                for split in ("val", "test")
            },
        }
    found["by"] = made_here()
    kept(place.options).keep(place.name, found)
    print(f"  {found}", flush=True)
    return found


def _one_shot(place: Place, bench: Bench) -> tuple[Path, float]:
    pruned = pruned_to(place.asked, place, place.options.weights, place.recipe.importance, bench)
    return _tuned(place, pruned, place.options.epochs, "tuned")


def _rounds(place: Place, bench: Bench) -> tuple[Path, float]:
    half, importance = place.options.epochs // 2, place.recipe.importance
    first = pruned_to(place.asked**0.5, place, place.options.weights, importance, bench)
    between, spent = _tuned(place, first, half, "first")
    second = pruned_to(place.asked, place, between, importance, bench, place.folder)
    best, more = _tuned(place, second, place.options.epochs - half, "second")
    return best, spent + more


def _sparse(place: Place, bench: Bench) -> tuple[Path, float]:
    half = place.options.epochs // 2
    settings = replace(place.settings(half, SPARSE_LR0), teacher=None, patience=0)
    # the teacher is not heard before pruning: recipes that differ in it share what is trained here
    shared = place.folder.parent.parent / f"sparse-seed{place.seed}"
    trained = sparsify(
        place.options.weights, data=place.options.data, out=shared / "out", work=shared / "work", settings=settings
    ).trained
    pruned = pruned_to(place.asked, place, trained.best, BY_SCALES, bench, place.folder)
    best, spent = _tuned(place, pruned, place.options.epochs - half, "tuned")
    return best, spent + trained.summary.seconds


SCHEDULE = {"one-shot": _one_shot, "rounds": _rounds, "sparse": _sparse}


def pruned_to(
    ratio: float, place: Place, weights: Path, importance: str, bench: Bench, folder: Path | None = None
) -> Path:
    """The search's model at a ratio to the unpruned weights; without a folder shared by all who ask for the same."""
    given = place.options
    folder = folder or bench.work / f"x{ratio:.3f}-{importance}"
    model = folder / "pruned.pt"
    if not model.is_file():
        target = load_target("cpu").changed({"prune.importance": importance, "imgsz": given.imgsz})
        near: dict[str, Any] = {"speed_up": ratio, "least_used": 1 / WINDOW[1], "cache": bench.work / "profiles"}
        folder.mkdir(parents=True, exist_ok=True)
        search(
            target,
            weights,
            given.data,
            output=model,
            reference=None if weights == given.weights else Reference(given.weights, target),
            diagnose=False,
            compiled=bench.work / "compiled",
            **near,
        )
    return model


def _tuned(place: Place, weights: Path, epochs: int, name: str) -> tuple[Path, float]:
    where: dict[str, Any] = {
        "data": place.options.data,
        "out": place.folder / name,
        "work": place.folder / "work" / name,
    }
    done = finetune(weights, settings=place.settings(epochs), **where)
    return done.best, done.summary.seconds


def _parameters(weights: Path) -> int:
    from edgeprune import checkpoint

    return checkpoint.parameter_count(checkpoint.load(weights).model)


def _of_all(options: argparse.Namespace) -> str:
    return f"{options.weights.stem}-{options.imgsz}"


def recipes(options: argparse.Namespace) -> list[Recipe]:
    """The first row, then what is varied. A sparse schedule has one importance."""
    first = Recipe(options.schedules[0], options.importances[0], options.teachers[0], options.lr0s[0])
    every = [Recipe(*one) for one in product(options.schedules, options.importances, options.teachers, options.lr0s)]
    if not options.full:
        every = [one for one in every if _differences(one, first) <= 1]
    return list(dict.fromkeys([first, *map(_plain, every)]))


def _plain(one: Recipe) -> Recipe:
    return replace(one, importance=BY_SCALES) if one.schedule == "sparse" else one


def _differences(one: Recipe, other: Recipe) -> int:
    return sum(getattr(one, name) != getattr(other, name) for name in FACTORS)


def together(done: Sequence[Recipe], asked: float, options: argparse.Namespace) -> Recipe | None:
    """The best schedule, importance, teacher and learning rate of those that were varied alone, by the mean on val;
    None where that was run already."""
    first = done[0]
    scores = {
        one: statistics.mean(run["val"] for run in found) for one in done if (found := figures(one, asked, options))
    }
    if first not in scores:
        return None
    best: dict[str, Any] = {}
    for factor in FACTORS:
        alone = [one for one in scores if _plain(replace(first, **{factor: getattr(one, factor)})) == one]
        best[factor] = getattr(max(alone, key=lambda one: scores[one]), factor)
    found = _plain(Recipe(**best))
    return None if found in done else found


def figures(recipe: Recipe, asked: float, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Of every seed that was run and reached the ratio."""
    found = (Place(recipe, asked, seed, options).record for seed in options.seeds)
    return [one for one in found if one is not None and "why" not in one]


def every_recipe(asked: float, options: argparse.Namespace) -> list[Recipe]:
    """The planned ones, and those put together that a run left."""
    done = recipes(options)
    more = together(done, asked, options)
    return done if more is None else [*done, more]


def page(options: argparse.Namespace) -> str:
    """Markdown from what is kept."""
    runs = [one for name, one in kept(options).all().items() if name.startswith(f"{_of_all(options)}-x")]
    larger = "" if options.larger is None else f", the larger teacher {options.larger.stem}"
    lines = [
        "# Teacher, schedule, importance and learning rate at equal total epochs",
        "",
        f"By `python -m benchmarks.recipes`: {options.weights.stem} on {Path(options.data).parent.name}, "
        f"{options.imgsz} px, {options.epochs} epochs in all, seeds {', '.join(map(str, options.seeds))}{larger}. "
        f"{origins(one['by'] for one in runs)}.",
        "",
        "The others differ from the first row in one thing, but for `sparse`: it is pruned by the "
        "scales that it trained (`bn_scale`), so that its importance differs too, and it hears its teacher in the "
        "second half of its epochs alone. The last may put the best of each together, chosen on val. Latency is the "
        "ratio to the given weights in one interleaved run, through ONNX "
        "Runtime on the CPU, one thread; its interval is the widest of the seeds. Accuracy is mAP50-95 of the "
        "checkpoint. `against the first` is the difference on test seed by seed, with its 95 % interval by "
        "Student's t; where the two intervals of latency lie apart, it says so.",
    ]
    for asked in options.speed_ups:
        every = every_recipe(asked, options)
        lines += ["", f"## ×{asked:g}", "", *table(COLUMNS, list(_rows(every, asked, options)), right=4)]
        missing = [f"{one.name} ({_why(one, asked, options)})" for one in every if not figures(one, asked, options)]
        if missing:
            lines += ["", f"Without a figure: {'; '.join(missing)}."]
        lines += ["", _conclusion(every, asked, options)]
    return "\n".join(lines) + "\n"


def _rows(every: Sequence[Recipe], asked: float, options: argparse.Namespace) -> Iterator[tuple[object, ...]]:
    for one in every:
        found = figures(one, asked, options)
        if not found:
            continue
        test = Seeds(tuple(run["test"] for run in found))
        ratio = [run["speed_up"] for run in found]
        yield (
            one.schedule,
            one.importance,
            one.teacher,
            f"{one.lr0:g}",
            f"×{statistics.mean(middle for _, middle, _ in ratio):.3f}",
            "×{:.3f} to ×{:.3f}".format(*_widest(found)),
            f"{statistics.mean(run['parameters'] for run in found) / 1e6:.3f} M",
            f"{statistics.mean(run['val'] for run in found):.4f}",
            f"{test.mean:.4f}",
            test.text(),
            f"{min(test.values):.4f}",
            f"{max(test.values):.4f}",
            "–" if one == every[0] else _difference_text(one, every[0], asked, options),
            len(found),
        )


def _widest(found: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """The lowest and the highest end of the latency ratios of several seeds."""
    return min(run["speed_up"][0] for run in found), max(run["speed_up"][2] for run in found)


def _difference(one: Recipe, other: Recipe, asked: float, options: argparse.Namespace) -> Seeds:
    """On test, seed by seed."""
    pairs = [[Place(each, asked, seed, options).record for each in (one, other)] for seed in options.seeds]
    able = [(own, its) for own, its in pairs if own and its and "why" not in own and "why" not in its]
    return Seeds(tuple(own["test"] - its["test"] for own, its in able))


def _difference_text(one: Recipe, other: Recipe, asked: float, options: argparse.Namespace) -> str:
    found = _difference(one, other, asked, options)
    if not found.values:
        return "of other seeds"
    ends = "" if found.interval is None else f" ({found.interval[0]:+.4f} to {found.interval[1]:+.4f})"
    apart = latency_differs(*(_widest(figures(each, asked, options)) for each in (one, other)))
    return f"{found.mean:+.4f}{ends}" + "; latency differs" * apart


def _why(one: Recipe, asked: float, options: argparse.Namespace) -> str:
    records = [Place(one, asked, seed, options).record for seed in options.seeds]
    return next((record["why"] for record in records if record and "why" in record), "not run yet")


def _conclusion(every: Sequence[Recipe], asked: float, options: argparse.Namespace) -> str:
    """What the intervals say against the first row."""
    ahead, open_ = [], []
    for one in every[1:]:
        found = _difference(one, every[0], asked, options)
        if len(found.values) < FEWEST_SEEDS or found.interval is None:
            open_.append(one.name)
        elif found.interval[0] > 0:
            ahead.append(one.name)
    text = f"Ahead of the first row, its interval above 0: {', '.join(ahead) or 'none'}."
    return text + (f" Not told, fewer than three seeds: {', '.join(open_)}." if open_ else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="unpruned checkpoint")
    parser.add_argument("--data", required=True, help="dataset YAML with a test split")
    parser.add_argument("--work", type=Path, required=True, help="models and trainings")
    parser.add_argument("--out", type=Path, required=True, help="the page; finished runs are kept beside it")
    parser.add_argument("--from", dest="begun", type=Path, help="JSON that the one beside --out is begun with")
    parser.add_argument("--larger", type=Path, help="teacher one scale up, of the same classes")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--speed-ups", type=float, nargs="+", default=[2.2])
    parser.add_argument("--epochs", type=int, default=20, help="in all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=list(SCHEDULES))
    parser.add_argument("--importances", nargs="+", default=list(IMPORTANCES))
    parser.add_argument("--teachers", nargs="+", choices=TEACHERS, default=list(TEACHERS))
    parser.add_argument("--lr0s", type=float, nargs="+", default=list(LR0S))
    parser.add_argument("--full", action="store_true", help="every combination")
    parser.add_argument("--device", default="cpu", help="that trains")
    parser.add_argument("--print-only", action="store_true")
    options = parser.parse_args()
    if options.epochs < 2:
        parser.error(f"--epochs {options.epochs}: 2 or more, since some recipes train in two halves")
    if options.larger is None:
        options.teachers = [one for one in options.teachers if one != "larger"] or ["unpruned"]
    of = made_of(options.weights, options.data, options.imgsz)
    options.dataset = of.dataset
    try:
        kept(options).begin_with(options.begun)
    except DataError as error:
        parser.error(str(error))
    if options.print_only and not kept(options).all():
        parser.error(f"{kept(options).path} keeps no run of these weights and data")
    if not options.print_only:
        shared = options.work / f"{_of_all(options)}-shared"
        if not claimed(shared, of):
            parser.error(f"{shared} has models of other weights or data of these names; give another --work")
        bench = Bench(options.weights, options.imgsz, shared)
        for asked in options.speed_ups:
            planned = recipes(options)
            for seed in options.seeds:
                for one in planned:
                    run(Place(one, asked, seed, options), bench)
                    publish(options.out, "recipes", page(options))
            if (best := together(planned, asked, options)) is not None:
                for seed in options.seeds:
                    run(Place(best, asked, seed, options), bench)
                    publish(options.out, "recipes", page(options))
    publish(options.out, "recipes", page(options))
    print(page(options))


if __name__ == "__main__":
    main()
