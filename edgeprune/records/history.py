"""Builds of one target over time: what each measured, and what got worse by more than chance.

Takes run directories, bundles, or folders that hold them. A figure is held against that of the latest earlier build
under the same conditions (device identity, runtime, threads, batch, input, scope); figures of different devices are
never compared. A latency or speed-up regressed where its interval lies wholly on the worse side of the other's.
Accuracy is compared between builds of the same weights on the same images, at the same input in the same number format,
whose losses have an interval: from other weights two accuracies differ by how the weights differ on these images too,
and no record says by how much that could be chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgeprune.artifact import sha256_of
from edgeprune.errors import DataError, TargetError
from edgeprune.input_size import pixels
from edgeprune.measure.names import names_apart
from edgeprune.records.build import BuildRecord
from edgeprune.records.gates import edits
from edgeprune.records.show import RECORD, bundle_of, read_build
from edgeprune.samples.gates import Verdict
from edgeprune.samples.measurement import Measurement, differing_conditions
from edgeprune.samples.statistics import PLACEMENT_ALLOWANCE, bounds
from edgeprune.version import __version__

CONFIDENCE = 0.975  # one-sided: two intervals of 95 % that do not touch

CHANCE = 1.96  # standard errors of a change that chance brings in one of twenty pairs of builds


@dataclass(frozen=True)
class Figure:
    """A measured figure with its 95 % interval; ``low`` and ``high`` are None where nothing bounds it."""

    value: float
    low: float | None
    high: float | None


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
        compared_with: ``latency``, ``speed-up`` and ``accuracy``, as far as they may be compared, to the path of the
            earlier build that the figure is held against.
        uncompared: the same of those that could be compared with no earlier build, to the reason.
        regressions: what got worse, in words.
        improvements: what got better.
        edited: gates that do not follow from the build's own samples; see :func:`edgeprune.records.gates.edits`.
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
    compared_with: Mapping[str, Path] = field(default_factory=dict)
    uncompared: Mapping[str, str] = field(default_factory=dict)
    regressions: tuple[str, ...] = ()
    improvements: tuple[str, ...] = ()
    edited: tuple[str, ...] = ()


@dataclass(frozen=True)
class History:
    """Builds of one target, oldest first."""

    target: str
    builds: tuple[BuildSummary, ...]
    schema_version: int = 2

    @property
    def regressed(self) -> bool:
        """Whether the latest build is worse than the one before it."""
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


def history(folders: Sequence[Path | str], target: str | None = None) -> History:
    """Read builds and hold each against the one before it.

    Args:
        folders: run directories, bundles, or folders of run directories.
        target: name of the target, where the folders hold builds of several.

    Raises:
        DataError: a folder without a build.
        TargetError: builds of several targets, or none of the target that was asked for.
    """
    builds: dict[str, Path] = {}  # by their bytes: a copy of a build tells nothing of its own
    for path in (path for folder in folders for path in _builds_in(Path(folder))):
        builds.setdefault(sha256_of(bundle_of(path) / RECORD), path)
    records = {path: read_build(path) for path in builds.values()}
    names = sorted({record.target.name for record in records.values()})
    if target is None and len(names) > 1:
        raise TargetError(f"builds of several targets were given; choose one with --target: {', '.join(names)}")
    chosen = target or names[0]
    if chosen not in names:
        raise TargetError(f"--target {chosen}: no such build was given; there are: {', '.join(names)}")
    entries: list[_Entry] = []
    for path, record in sorted(records.items(), key=lambda item: (item[1].created, str(item[0]))):
        if record.target.name == chosen:
            pair = record.judged_latency
            drop = record.stages.engine.facts.accuracy_drop
            error = None if drop is None else drop.standard_error
            entry = _Entry(_summary(path, record), None if pair is None else pair[1], error)
            entries.append(_with_changes(entry, entries))
    return History(chosen, tuple(entry.build for entry in entries))


@dataclass(frozen=True)
class _Entry:
    """A build with the measurement behind its latency, whose conditions decide what it may be compared with."""

    build: BuildSummary
    measurement: Measurement | None
    accuracy_error: float | None
    """Standard error of the build's loss of accuracy over images; None where they were too few, or in older records."""


def _builds_in(folder: Path) -> list[Path]:
    """The folder itself where it is a build, else the builds in it."""
    own = (folder / "bundle" / "build.json", folder / "build.json")
    if not folder.is_dir() or any(path.is_file() for path in own):
        return [folder]
    builds = sorted(path.parent.parent for path in folder.glob("*/bundle/build.json"))
    builds += sorted(path.parent for path in folder.glob("*/build.json"))
    if not builds:
        raise DataError(
            f"{folder}: holds no build, nor do the folders in it; expected bundle/build.json in one of them"
        )
    return builds


def _summary(path: Path, record: BuildRecord) -> BuildSummary:
    pair, ratio, target, shipped = record.judged_latency, record.speed_up, record.target, record.stages.engine.facts
    statistic = record.judged_statistic
    latency, device = None, "no latency was measured"
    if pair is not None:
        bound = bounds(pair[1].values, statistic, CONFIDENCE)
        latency = Figure(bound.value, bound.low, bound.high)
        device = ", ".join(pair[1].conditions.identity.values()) or "not named"
    return BuildSummary(
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
        edited=edits(record) if record.edgeprune == __version__ else (),
    )


def _comparable(first: _Entry, second: _Entry) -> bool:
    """Whether the latencies of two builds may be compared."""
    if first.measurement is None or second.measurement is None or first.build.statistic != second.build.statistic:
        return False
    return not differing_conditions(first.measurement, second.measurement)


def _with_changes(entry: _Entry, earlier: Sequence[_Entry]) -> _Entry:
    """The entry with what moved since the latest earlier one that each of its figures may be compared with."""
    changes, build = _Changes([], []), entry.build
    compared: dict[str, Path] = {}
    same_site = next((other for other in reversed(earlier) if _comparable(entry, other)), None)
    if same_site is not None:
        before = same_site.build
        if build.latency_ms is not None and before.latency_ms is not None and _had_core_alone(entry, same_site):
            compared["latency"] = before.path
            # two runs of one file differ by where it lies in memory; no interval within a run knows of that
            changes.note(
                "latency", "ms", before.latency_ms, build.latency_ms, less_is_better=True, slack=1 + PLACEMENT_ALLOWANCE
            )
        if before.baseline == build.baseline and build.speed_up is not None and before.speed_up is not None:
            compared["speed-up"] = before.path
            changes.note("speed-up", "×", before.speed_up, build.speed_up, less_is_better=False, slack=1.0)
    uncompared: dict[str, str] = {}
    same_data = [other for other in reversed(earlier) if other.build.dataset == build.dataset and other.build.accuracy]
    reasons = [_accuracy_uncompared(entry, other) for other in same_data]
    if "" in reasons:
        before = same_data[reasons.index("")]
        compared["accuracy"] = before.build.path
        change = build.accuracy - before.build.accuracy
        text = f"{build.metric} {before.build.accuracy:.4f} → {build.accuracy:.4f}"
        # what the target calls a loss, and more than other images would bring
        least = max(build.max_map_drop, CHANCE * math.hypot(entry.accuracy_error or 0, before.accuracy_error or 0))
        if change < -least:
            changes.worse.append(f"{text}, more than {least:.4g}")
        elif change > least:
            changes.better.append(text)
    elif reasons:
        uncompared["accuracy"] = reasons[0]
    moved = replace(
        build,
        compared_with=compared,
        uncompared=uncompared,
        regressions=tuple(changes.worse),
        improvements=tuple(changes.better),
    )
    return replace(entry, build=moved)


def _accuracy_uncompared(entry: _Entry, before: _Entry) -> str:
    """Why the accuracies of two builds on the same images cannot be compared; empty where they can.

    Each error is that of a loss against the build's own unpruned model: it is one of the accuracy, too, where both
    builds began from the same unpruned model.
    """
    if entry.build.form != before.build.form:
        return f"{before.build.form} before, {entry.build.form} now"
    if entry.build.baseline != before.build.baseline:
        return "built from other weights"
    if entry.accuracy_error is None or before.accuracy_error is None:
        return "how much other images would bring is not known of both"
    return ""


def _had_core_alone(*entries: _Entry) -> bool:
    """Whether each run had its core to itself: milliseconds of a shared one are of its other users."""
    return not any(entry.measurement is not None and entry.measurement.conditions.core.contended for entry in entries)


@dataclass(frozen=True)
class _Changes:
    """What got worse and what got better, in words."""

    worse: list[str]
    better: list[str]

    def note(self, name: str, unit: str, old: Figure, new: Figure, *, less_is_better: bool, slack: float) -> None:
        """Add a figure whose interval left the old one's by more than the factor ``slack``."""
        if old.low is None or old.high is None or new.low is None or new.high is None:
            return
        text = f"{name} {old.value:.3f} → {new.value:.3f} {unit}"
        if new.low > old.high * slack:
            (self.worse if less_is_better else self.better).append(text)
        elif new.high * slack < old.low:
            (self.better if less_is_better else self.worse).append(text)
