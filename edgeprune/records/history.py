"""Builds of one target over time: what each measured, and what got worse by more than chance.

Takes run directories, bundles, or folders that hold them. Each figure is held against that of the latest earlier build
that it may be held against, however many lie between: one under the same conditions (device identity, runtime, threads,
batch, input, scope), whose interval has both ends; figures of different devices are never compared, nor are those of a
stand-in, or of a run that was disturbed, which its gate calls INCONCLUSIVE too. Milliseconds are those of a core that
nobody else used, and a speed-up is one against the same unpruned weights. A latency or speed-up regressed where its
interval lies wholly on the worse side of the other's. An edited record is held against none.
Accuracy is compared between builds of the same weights on the same images, at the same input in the same number format,
whose losses have an interval: from other weights two accuracies differ by how the weights differ on these images too,
and no record says by how much that could be chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgeprune.artifact import sha256_of
from edgeprune.errors import DataError, TargetError
from edgeprune.input_size import pixels
from edgeprune.measure.names import names_apart
from edgeprune.reading import is_file, paths_of, shown
from edgeprune.records.build import BuildRecord
from edgeprune.records.show import RECORD, bundle_of
from edgeprune.records.verify import read_with_edits, refuse_edited
from edgeprune.samples.gates import Verdict, moved_reason, scope_words, unsteady_reason
from edgeprune.samples.measurement import Measurement, differing_conditions, latency_bounds
from edgeprune.samples.statistics import INTERVAL_END_CONFIDENCE, interval_half_width
from edgeprune.workspace import BUNDLE, STATE

FIGURES = ("latency", "speed-up", "accuracy")
"""What of a build is held against earlier ones."""

NO_EARLIER = "no earlier build"


@dataclass(frozen=True)
class Figure:
    """A measured figure with its 95 % interval; ``low`` and ``high`` are None where nothing bounds it."""

    value: float
    low: float | None
    high: float | None

    @property
    def bounded(self) -> bool:
        """Whether the interval has both ends."""
        return self.low is not None and self.high is not None


@dataclass(frozen=True)
class BuildSummary:
    """One build.

    Attributes:
        path: where it was read from.
        created: ISO 8601, UTC.
        verdict: of the build.
        statistic: which percentile ``latency_ms`` is.
        latency_ms: of what ships.
        speed_up: against its own unpruned model, measured together.
        accuracy: of what ships.
        metric: name of the accuracy.
        size_mib: of what ships.
        max_map_drop: drop of accuracy that the target allows.
        baseline: sha256 of the weights that it was built from.
        dataset: digest of the dataset with its split.
        form: input size and number format, in words.
        device: identity in words.
        budget_figure: which of :data:`FIGURES` the target's budget speaks of; empty for a budget of MACs, and for one
            that asks for no speed-up.
        compared_with: each of :data:`FIGURES` that may be compared, to the path of the earlier build that it is held
            against.
        uncompared: each of the others, to the reason.
        regressions: what got worse, in words.
        improvements: what got better.
        edited: what in its record is not as edgeprune wrote it, a line each: the file by its own digest, and gates that
            do not follow from the build's own samples (of a build that was judged by other rules, the file alone). Such
            a build is compared with none.
        scope: words before ``latency`` and ``speed-up``: empty for the model alone.
        simulated: no device was measured; its latency and its speed-up are compared with none.
        disturbed: why its milliseconds are those of a disturbed run; empty where nothing speaks against them.
    """

    path: Path
    created: str
    verdict: Verdict
    statistic: str
    latency_ms: Figure | None
    speed_up: Figure | None
    accuracy: float
    metric: str
    size_mib: float
    max_map_drop: float
    baseline: str
    dataset: str
    form: str
    device: str
    budget_figure: str = ""
    compared_with: Mapping[str, Path] = field(default_factory=dict)
    uncompared: Mapping[str, str] = field(default_factory=dict)
    regressions: tuple[str, ...] = ()
    improvements: tuple[str, ...] = ()
    edited: tuple[str, ...] = ()
    scope: str = ""
    simulated: bool = False
    disturbed: str = ""


@dataclass(frozen=True)
class History:
    """Builds of one target, oldest first."""

    target: str
    builds: tuple[BuildSummary, ...]
    schema_version: int = 2

    @property
    def regressed(self) -> bool:
        """Whether a figure of the latest build is worse than the earlier one that it is held against."""
        return bool(self.builds[-1].regressions)

    @property
    def names(self) -> Mapping[Path, str]:
        """Of the builds, by path, as far as it takes to tell them apart."""
        paths = [built.path for built in self.builds]
        return dict(zip(paths, names_apart(paths), strict=True))

    @property
    def compared(self) -> bool:
        """Whether any figure of the latest build could be held against an earlier one's."""
        return bool(self.builds[-1].compared_with)

    @property
    def verdict(self) -> Verdict:
        """FAIL where the latest build got worse, INCONCLUSIVE where nothing of it, or not the figure that its budget
        speaks of, could be compared, or its record was edited; else PASS."""
        latest = self.builds[-1]
        if latest.regressions:
            return Verdict.FAIL
        judged = latest.budget_figure
        known = bool(latest.compared_with) and (not judged or judged in latest.compared_with)
        return Verdict.PASS if known and not latest.edited else Verdict.INCONCLUSIVE

    def require_as_built(self) -> None:
        """Raise ``DataError`` where the record of the latest build was edited: nothing follows from it."""
        latest = self.builds[-1]
        refuse_edited(latest.path, latest.edited)


def history(folders: Path | str | Sequence[Path | str], target: str | None = None) -> History:
    """Read builds of one target and hold each figure against the latest earlier one that it may be held against.

    Args:
        folders: a run directory, a bundle, or a folder of run directories; or several of them.
        target: name of the target, where the folders hold builds of several.

    Raises:
        DataError: no folder, or one without a build.
        TargetError: builds of several targets (:func:`histories` takes them), or none of the target that was asked for.
    """
    only, *others = histories(folders, target)
    if others:
        names = ", ".join(one.target for one in (only, *others))
        raise TargetError(f"builds of several targets were given: {names}; name one as target, or take histories()")
    return only


def histories(folders: Path | str | Sequence[Path | str], target: str | None = None) -> tuple[History, ...]:
    """The same for builds of any number of targets: a history each, sorted by the target's name.

    Raises:
        DataError: no folder, or one without a build.
        TargetError: there is no build of the target that was asked for.
    """
    given = paths_of(folders)
    if not given:
        raise DataError("no folder was given; give run directories of builds, bundles, or folders that hold them")
    builds: dict[str, Path] = {}  # by their bytes: a copy of a build tells nothing of its own
    for path in (path for folder in given for path in _builds_in(folder)):
        builds.setdefault(sha256_of(bundle_of(path) / RECORD), path)
    records = [(path, *read_with_edits(path)) for path in builds.values()]
    names = sorted({record.target.name for _, record, _ in records})
    if target is not None and target not in names:
        raise TargetError(f"--target {shown(target)}: no such build was given; there are: {', '.join(names)}")
    entries: dict[str, list[_Entry]] = {name: [] for name in names if target in (None, name)}
    for path, record, edited in sorted(records, key=lambda item: (item[1].created, str(item[0]))):
        if (earlier := entries.get(record.target.name)) is not None:
            earlier.append(_with_changes(_entry(path, record, edited), earlier))
    return tuple(History(name, tuple(one.build for one in own)) for name, own in entries.items())


@dataclass(frozen=True)
class _Entry:
    """A build with the measurement behind its latency, whose conditions decide what it may be compared with."""

    build: BuildSummary
    measurement: Measurement | None
    accuracy_error: float | None
    """Standard error of the build's loss of accuracy over images; None where they were too few, or in older records."""
    disturbed: Mapping[str, str]
    """Each of latency and speed-up to why it is that of a disturbed run; empty where nothing speaks against it."""


def _builds_in(folder: Path) -> list[Path]:
    """The folder itself where it is a build, or one that is not finished, else the builds in it."""
    own = (folder / BUNDLE / RECORD, folder / RECORD, folder / STATE)
    if not folder.is_dir() or any(map(is_file, own)):
        return [folder]
    builds = sorted(path.parent.parent for path in folder.glob(f"*/{BUNDLE}/{RECORD}"))
    builds += sorted(path.parent for path in folder.glob(f"*/{RECORD}"))
    if not builds:
        if unfinished := sorted(path.parent for path in folder.glob(f"*/{STATE}")):
            return unfinished[:1]  # whose reader says how to go on
        raise DataError(
            f"{shown(folder)}: holds no build, nor do the folders in it; expected {BUNDLE}/{RECORD} in one of them"
        )
    return builds


def _entry(path: Path, record: BuildRecord, edited: tuple[str, ...]) -> _Entry:
    pair, ratio, target, shipped = record.judged_latency, record.speed_up, record.target, record.stages.engine.facts
    statistic, drop, budget = record.judged_statistic, shipped.accuracy_drop, record.target.budget
    latency, device, disturbed = None, "no latency was measured", {"latency": "", "speed-up": ""}
    if pair is not None:
        bound = latency_bounds(pair[1], statistic, INTERVAL_END_CONFIDENCE)
        latency = Figure(bound.value, bound.low, bound.high)
        device = ", ".join(pair[1].conditions.identity.values()) or "not named"
        disturbed["latency"] = moved_reason(pair[1])
        # other work on the core slows both models of a ratio, whose interval allows for it
        disturbed["speed-up"] = "" if ratio is None else unsteady_reason(ratio.stability, *pair)
    timed = {"latency_ms": "latency", "speed_up": "speed-up"}
    build = BuildSummary(
        path=path,
        created=record.created,
        verdict=record.verdict,
        statistic=statistic,
        latency_ms=latency,
        speed_up=None if ratio is None else Figure(ratio.ratio, ratio.low, ratio.high),
        accuracy=shipped.accuracy.value,
        metric=shipped.accuracy.metric,
        size_mib=shipped.size_bytes / 2**20,
        max_map_drop=target.accuracy.max_map_drop,
        baseline=record.weights.sha256,
        dataset=f"{record.dataset.sha256} {shipped.accuracy.accuracy.split}",
        form=f"{pixels(target.imgsz)}, {record.precision}",
        device=device,
        budget_figure="" if budget.asks_nothing else timed.get(budget.kind, ""),
        edited=edited,
        scope="" if pair is None else scope_words(pair[1]),
        simulated=pair is not None and any(measurement.simulated for measurement in pair),
        disturbed=disturbed["latency"],
    )
    error = None if drop is None else drop.standard_error
    return _Entry(build, None if pair is None else pair[1], error, disturbed)


def _with_changes(entry: _Entry, earlier: Sequence[_Entry]) -> _Entry:
    """The entry with what moved since the latest earlier one that each of its figures may be compared with."""
    changes, build = _Changes([], []), entry.build
    compared: dict[str, Path] = {}
    uncompared: dict[str, str] = {}
    for name in FIGURES:
        other, why = _held_against(entry, earlier, _OBSTACLES[name])
        if other is None:
            uncompared[name] = why
            continue
        before = other.build
        compared[name] = before.path
        if name == "accuracy":
            # what the target calls a loss, and more than other images would bring
            chance = interval_half_width(math.hypot(entry.accuracy_error or 0, other.accuracy_error or 0))
            changes.note_accuracy(build.metric, before.accuracy, build.accuracy, max(build.max_map_drop, chance))
        elif name == "latency":
            changes.note(f"{build.scope}{name}", "ms", before.latency_ms, build.latency_ms, less_is_better=True)
        else:
            changes.note(f"{build.scope}{name}", "×", before.speed_up, build.speed_up, less_is_better=False)
    moved = replace(
        build,
        compared_with=compared,
        uncompared=uncompared,
        regressions=tuple(changes.worse),
        improvements=tuple(changes.better),
    )
    return replace(entry, build=moved)


def _held_against(
    entry: _Entry, earlier: Sequence[_Entry], obstacles: Callable[[_Entry, _Entry], Sequence[str]]
) -> tuple[_Entry | None, str]:
    """The latest earlier build that a figure may be held against, or why there is none.

    Args:
        entry: the build.
        earlier: those before it, oldest first.
        obstacles: what forbids to compare this figure of two builds, what weighs most first; empty where it may be.
    """
    if entry.build.edited:
        return None, EDITED
    nearest: Sequence[str] = ()  # of the build that least forbids to compare with, the latest of those
    for other in reversed(earlier):
        found = [f"{EDITED} before"] if other.build.edited else obstacles(entry, other)
        if not found:
            return other, ""
        if not nearest or len(found) < len(nearest):
            nearest = found
    return None, nearest[0] if nearest else NO_EARLIER


EDITED = "edited, not as it was built"


def _latency_obstacles(now: _Entry, before: _Entry) -> list[str]:
    """Why the milliseconds of two builds cannot be compared."""
    found = _site_obstacles(now, before)
    if not found and now.build.statistic != before.build.statistic:
        found.append(f"{before.build.statistic} before, {now.build.statistic} now")
    for entry, when in ((now, "now"), (before, "before")):
        if entry.measurement is None or entry.build.latency_ms is None:
            continue
        found += _run_obstacles(entry, "latency", when)
        if not entry.build.latency_ms.bounded:
            count = len(entry.measurement.values)
            found.append(f"{count} samples do not bound {entry.build.statistic} {when}; measure.rounds takes more")
    return found


def _speed_up_obstacles(now: _Entry, before: _Entry) -> list[str]:
    """Why the speed-ups of two builds cannot be compared."""
    found = _site_obstacles(now, before)
    if now.build.baseline != before.build.baseline:
        found.append(OTHER_WEIGHTS)
    for entry, when in ((now, "now"), (before, "before")):
        if entry.measurement is not None and (entry.build.speed_up is None or not entry.build.speed_up.bounded):
            found.append(f"its samples give no ratio {when}")
        found += _run_obstacles(entry, "speed-up", when)
    return found


def _run_obstacles(entry: _Entry, figure: str, when: str) -> list[str]:
    """Why a run proves nothing of a figure, whatever it is held against."""
    found = [f"simulated {when}: no device was measured"] if entry.build.simulated else []
    return found + ([f"disturbed {when}: {why}"] if (why := entry.disturbed[figure]) else [])


def _site_obstacles(now: _Entry, before: _Entry) -> list[str]:
    for entry, when in ((now, "now"), (before, "before")):
        if entry.measurement is None:
            return [f"no latency was measured {when}"]
    assert now.measurement is not None and before.measurement is not None
    if differing := differing_conditions(before.measurement, now.measurement):
        return [f"taken under other conditions: {', '.join(differing)}"]
    return []


OTHER_WEIGHTS = "built from other weights"


def _accuracy_obstacles(now: _Entry, before: _Entry) -> list[str]:
    """Why the accuracies of two builds cannot be compared.

    Each error is that of a loss against the build's own unpruned model: it is one of the accuracy, too, where both
    builds began from the same unpruned model.
    """
    found: list[str] = []
    if now.build.dataset != before.build.dataset:
        found.append("judged on other images")
    if not before.build.accuracy:
        found.append("the model found nothing before")
    if now.build.form != before.build.form:
        found.append(f"{before.build.form} before, {now.build.form} now")
    if now.build.baseline != before.build.baseline:
        found.append(OTHER_WEIGHTS)
    if now.accuracy_error is None or before.accuracy_error is None:
        found.append("how much other images would bring is not known of both")
    return found


_OBSTACLES: Mapping[str, Callable[[_Entry, _Entry], list[str]]] = {
    "latency": _latency_obstacles,
    "speed-up": _speed_up_obstacles,
    "accuracy": _accuracy_obstacles,
}


@dataclass(frozen=True)
class _Changes:
    """What got worse and what got better, in words."""

    worse: list[str]
    better: list[str]

    def note(self, name: str, unit: str, old: Figure | None, new: Figure | None, *, less_is_better: bool) -> None:
        """Add a figure whose interval left the old one's."""
        assert old is not None and new is not None
        assert old.low is not None and old.high is not None and new.low is not None and new.high is not None
        text = f"{name} {old.value:.3f} → {new.value:.3f} {unit}"
        if new.low > old.high:
            (self.worse if less_is_better else self.better).append(text)
        elif new.high < old.low:
            (self.better if less_is_better else self.worse).append(text)

    def note_accuracy(self, metric: str, old: float, new: float, least: float) -> None:
        """Add an accuracy that moved by more than ``least``."""
        text = f"{metric} {old:.4f} → {new:.4f}"
        if new - old < -least:
            self.worse.append(f"{text}, more than {least:.4g}")
        elif new - old > least:
            self.better.append(text)
