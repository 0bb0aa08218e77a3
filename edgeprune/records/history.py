"""Builds of one target over time: what each measured, and what got worse by more than chance.

Takes run directories, bundles, or folders that hold them. A figure is held against that of the latest earlier build
under the same conditions (device identity, runtime, threads, batch, input, scope); figures of different devices are
never compared. A latency or speed-up regressed where its interval lies wholly on the worse side of the other's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.errors import DataError, TargetError
from edgeprune.records.show import read_build
from edgeprune.report.plots import accuracy, facts, judged_latency
from edgeprune.samples.measurement import Measurement, differing_conditions, launches_of
from edgeprune.samples.statistics import FEWEST_BLOCKS, PLACEMENT, bounds, ratio

CONFIDENCE = 0.975  # one-sided: two intervals of 95 % that do not touch


@dataclass(frozen=True)
class Figure:
    """A measured figure with its 95 % interval; ``low`` and ``high`` are None where nothing bounds it."""

    value: float
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, float | None]:
        """Plain data."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Built:
    """One build.

    Attributes:
        path: where it was read from.
        created: ISO 8601, UTC.
        verdict: of the build.
        statistic: which percentile ``latency`` is.
        latency: of what ships, in ms.
        speed_up: against its own unpruned model, measured together.
        accuracy: of what ships.
        metric: name of the accuracy.
        size_mib: of what ships.
        conditions: of the latency: the measurement itself, without its samples.
        baseline: sha256 of the weights that it was built from.
        dataset: digest of the dataset with its split.
        device: identity in words.
        compared_with: the earlier build that its latency is held against, by its path; None where there is none.
        regressions: what got worse, in words.
        improvements: what got better.
    """

    path: Path
    created: str
    verdict: str
    statistic: str
    latency: Figure | None
    speed_up: Figure | None
    accuracy: float | None
    metric: str
    size_mib: float | None
    max_map_drop: float
    conditions: Measurement | None
    baseline: str
    dataset: str
    device: str
    compared_with: Path | None = None
    regressions: tuple[str, ...] = ()
    improvements: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "path": str(self.path),
            "created": self.created,
            "verdict": self.verdict,
            "statistic": self.statistic,
            "latency_ms": self.latency and self.latency.to_json(),
            "speed_up": self.speed_up and self.speed_up.to_json(),
            "metric": self.metric,
            "accuracy": self.accuracy,
            "size_mib": self.size_mib,
            "device": self.device,
            "compared_with": None if self.compared_with is None else str(self.compared_with),
            "regressions": list(self.regressions),
            "improvements": list(self.improvements),
        }


@dataclass(frozen=True)
class History:
    """Builds of one target, oldest first."""

    target: str
    builds: tuple[Built, ...]

    @property
    def regressed(self) -> bool:
        """Whether the latest build is worse than the one before it."""
        return bool(self.builds[-1].regressions)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"schema_version": 1, "target": self.target, "builds": [built.to_json() for built in self.builds]}

    def json_text(self) -> str:
        """The same as a file's text."""
        return json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n"

    def html(self) -> str:
        """A self-contained page."""
        from edgeprune.report.history_page import history_page

        return history_page(self)

    def _repr_html_(self) -> str:
        """The table, in a notebook."""
        from edgeprune.report.history_page import COLUMNS, rows
        from edgeprune.report.page import table

        return table(COLUMNS, rows(self))


def history(folders: Sequence[Path | str], target: str | None = None) -> History:
    """Read builds and hold each against the one before it.

    Args:
        folders: run directories, bundles, or folders of run directories.
        target: name of the target, where the folders hold builds of several.

    Raises:
        DataError: a folder without a build.
        TargetError: builds of several targets, or none of the target that was asked for.
    """
    records = [(path, read_build(path)) for folder in folders for path in _builds_in(Path(folder))]
    names = sorted({record["target"]["name"] for _, record in records})
    if target is None and len(names) > 1:
        raise TargetError(f"builds of several targets were given; choose one with --target: {', '.join(names)}")
    wanted = target or names[0]
    if wanted not in names:
        raise TargetError(f"--target {wanted}: no such build was given; there are: {', '.join(names)}")
    chosen = {path: record for path, record in records if record["target"]["name"] == wanted}
    made: list[Built] = []
    for path, record in sorted(chosen.items(), key=lambda item: (item[1]["created"], str(item[0]))):
        made.append(_judged(_built(path, record), made))
    return History(wanted, tuple(made))


def _builds_in(folder: Path) -> list[Path]:
    own = (folder / "bundle" / "build.json", folder / "build.json")
    if not folder.is_dir() or any(path.is_file() for path in own):
        return [folder]
    found = sorted(path.parent.parent for path in folder.glob("*/bundle/build.json"))
    found += sorted(path.parent for path in folder.glob("*/build.json"))
    if not found:
        raise DataError(
            f"{folder}: holds no build, nor do the folders in it; expected bundle/build.json in one of them"
        )
    return found


def _built(path: Path, record: Mapping[str, Any]) -> Built:
    pair = judged_latency(record)
    statistic = record["target"]["budget"].get("statistic", "p50")
    latency = speed_up = conditions = None
    device = "no latency was measured"
    if pair is not None:
        before, after = (Measurement.from_json(row) for row in pair)
        conditions = after
        seen = bounds(after.values, statistic, CONFIDENCE)
        latency = Figure(seen.value, seen.low, seen.high)
        block = int(after.conditions.get("per_round", 5))
        if len(before.values) == len(after.values) >= FEWEST_BLOCKS * block:
            found = ratio(before.values, after.values, block=block, launches=launches_of(after))
            speed_up = Figure(found.ratio, found.low, found.high)
        device = ", ".join(str(value) for value in (after.conditions.get("identity") or {}).values()) or "not named"
    size = facts(record, "engine").get("bytes")
    return Built(
        path=path,
        created=record["created"],
        verdict=record["verdict"],
        statistic=statistic,
        latency=latency,
        speed_up=speed_up,
        accuracy=accuracy(record, "engine"),
        metric=facts(record, "engine").get("accuracy", {}).get("metric", "mAP50-95"),
        size_mib=None if size is None else size / 2**20,
        max_map_drop=record["target"]["accuracy"]["max_map_drop"],
        conditions=conditions,
        baseline=record["weights"]["sha256"],
        dataset=f"{record['dataset']['sha256']} {record['target']['accuracy'].get('split', 'val')}",
        device=device,
    )


def comparable(one: Built, other: Built) -> list[str]:
    """Why the latencies of two builds may not be compared; empty when they may be."""
    if one.conditions is None or other.conditions is None:
        return ["no latency was measured"]
    if one.statistic != other.statistic:
        return [f"statistic ({one.statistic}, {other.statistic})"]
    return differing_conditions(one.conditions, other.conditions)


def _judged(built: Built, earlier: Sequence[Built]) -> Built:
    """The build with what moved since the latest earlier one that each of its figures may be compared with."""
    from dataclasses import replace

    worse: list[str] = []
    better: list[str] = []
    timed = next((one for one in reversed(earlier) if not comparable(built, one)), None)
    if timed is not None and built.latency is not None and timed.latency is not None and _alone(built, timed):
        # two runs of one file differ by where it lies in memory; no interval within a run knows of that
        _note(worse, better, "latency", "ms", timed.latency, built.latency, sign=1, slack=1 + PLACEMENT)
    if timed is not None and timed.baseline == built.baseline and built.speed_up and timed.speed_up:
        _note(worse, better, "speed-up", "×", timed.speed_up, built.speed_up, sign=-1, slack=1.0)
    same_data = next((one for one in reversed(earlier) if one.dataset == built.dataset and one.accuracy), None)
    if same_data is not None and built.accuracy is not None and same_data.accuracy is not None:
        change = built.accuracy - same_data.accuracy
        words = f"{built.metric} {same_data.accuracy:.4f} → {built.accuracy:.4f}"
        if change < -built.max_map_drop:  # no interval is in the record: what the target calls a loss is one here
            worse.append(f"{words}, more than {built.max_map_drop:g}")
        elif change > built.max_map_drop:
            better.append(words)
    return replace(built, compared_with=timed and timed.path, regressions=tuple(worse), improvements=tuple(better))


def _alone(*builds: Built) -> bool:
    """Whether each run had its core to itself: milliseconds of a shared one are of its other users."""
    return not any(one.conditions is not None and one.conditions.conditions.get("contended") for one in builds)


def _note(
    worse: list[str], better: list[str], name: str, unit: str, old: Figure, new: Figure, *, sign: int, slack: float
) -> None:
    """Words for a figure whose interval left the old one; ``sign`` 1 where more is worse."""
    if old.low is None or old.high is None or new.low is None or new.high is None:
        return
    told = f"{name} {old.value:.3f} → {new.value:.3f} {unit}"
    if new.low > old.high * slack:
        (worse if sign > 0 else better).append(told)
    elif new.high * slack < old.low:
        (better if sign > 0 else worse).append(told)
