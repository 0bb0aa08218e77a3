"""``build.json``: everything a build did, measured and decided, in one file with a committed JSON Schema."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from edgeprune.agent.facts import DeviceFacts
from edgeprune.artifact import Role
from edgeprune.errors import DamagedError, DataError
from edgeprune.input_size import InputSize
from edgeprune.pruning.plan import Plan
from edgeprune.records.facts import (
    BaselineFacts,
    EngineFacts,
    ExportFacts,
    FinetuneFacts,
    PretrainFacts,
    PruneFacts,
    QatFacts,
    QuantizeFacts,
    SimplifyFacts,
    SparsifyFacts,
    shipped_precision,
)
from edgeprune.samples.gates import MET_UNPRUNED, Gate, Verdict
from edgeprune.samples.measurement import Measurement, speed_up_of
from edgeprune.samples.statistics import MIN_BLOCKS, RatioInterval
from edgeprune.serial import from_json, json_schema, json_text, write_json
from edgeprune.target import Target
from edgeprune.target.schema import Precision, Statistic

SCHEMA_VERSION = 2
Facts = TypeVar("Facts")


@dataclass(frozen=True)
class StageRow(Generic[Facts]):
    """One stage of the build.

    Attributes:
        key: digest of what the stage depends on; equal keys mean an equal result.
        reused: whether it was taken from the run directory.
        seconds: wall time when it ran.
        facts: what it came to.
    """

    key: str
    reused: bool
    seconds: float
    facts: Facts


@dataclass(frozen=True)
class StageRows:
    """The stages in the order in which they run; None for one that this build does not have."""

    pretrain: StageRow[PretrainFacts] | None
    baseline: StageRow[BaselineFacts]
    sparsify: StageRow[SparsifyFacts] | None
    prune: StageRow[PruneFacts]
    finetune: StageRow[FinetuneFacts] | None
    export: StageRow[ExportFacts]
    simplify: StageRow[SimplifyFacts]
    qat: StageRow[QatFacts] | None = field(default=None, kw_only=True)  # absent in older records
    quantize: StageRow[QuantizeFacts] | None
    engine: StageRow[EngineFacts]

    def items(self) -> Iterator[tuple[str, StageRow[Any]]]:
        """Name and row of each stage that the build has."""
        for stage in fields(self):
            if (row := getattr(self, stage.name)) is not None:
                yield stage.name, row


@dataclass(frozen=True)
class MeasurementRow:
    """Samples behind the gates of a stage; ``role`` is ``baseline`` (the unpruned model) or ``candidate``."""

    stage: str
    role: Literal["baseline", "candidate"]
    measurement: Measurement


@dataclass(frozen=True)
class ArtifactRow:
    """A file that a stage made; ``path`` is relative to the run directory."""

    stage: str
    role: Role
    path: str
    sha256: str


@dataclass(frozen=True)
class DeviceRow:
    """The machine that engines were built and timed on.

    Attributes:
        name: ``local``, ``user@host[:port]``, ``fake:BOARD``, or ``carried by hand``.
        simulated: True for a stand-in: nothing was measured on a device, and no gate on it can pass.
        identity: what must be equal before its figures are compared with others'.
        facts: what the device is.
    """

    name: str
    simulated: bool
    identity: Mapping[str, str]
    facts: DeviceFacts


@dataclass(frozen=True)
class SourceRow:
    """An input; ``sha256`` of a dataset is the digest over its images' names and sizes and its labels."""

    path: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class BuildRecord:
    """A finished build; written last, beside the artifacts that it names.

    Attributes:
        schema_version: of this form.
        edgeprune: version of edgeprune.
        created: ISO 8601, UTC.
        command: what rebuilds it, one item an argument.
        verdict: the worst of the gates.
        gates: every row of the verdict table.
        target: the profile, resolved, with the command line's values in it.
        weights: what was pruned.
        dataset: what it was trained and judged on.
        task: ``detect``, ``segment``, ``pose``, ``obb`` or ``classify``.
        names: of the classes, by index.
        channels: of the images; 3 in older records.
        seed: of everything random.
        plan: the width kept for every dimension.
        stages: what each came to.
        artifacts: files of the stages.
        bundle: file in the bundle to sha256.
        measurements: samples that were judged.
        versions: of the packages that the result depends on.
        host: the machine that the build ran on.
        device: the machine that engines were built and timed on; None while they wait for one.
        next_command: what to type where the target's runtime is, while gates are PENDING.
        carried_by: what carried the folder to its board and the results back; None where nothing was carried, and in
            older records.
        input_size: why the input has the size that it has; None in older records.
        levers: why the number format is what it is; None where the profile names it, and in older records.
        rules: by which its gates were judged (:data:`~edgeprune.samples.gates.RULES`); None in older records.
        sha256: of the file itself with this value left empty; None in older records.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    edgeprune: str
    created: str
    command: tuple[str, ...]
    verdict: Verdict
    gates: tuple[Gate, ...]
    target: Target
    weights: SourceRow
    dataset: SourceRow
    task: str
    names: Mapping[int, str]
    seed: int
    plan: Plan
    stages: StageRows
    artifacts: tuple[ArtifactRow, ...]
    bundle: Mapping[str, str]
    measurements: tuple[MeasurementRow, ...]
    versions: Mapping[str, str]
    host: DeviceFacts
    device: DeviceRow | None = None
    next_command: str | None = None
    carried_by: str | None = None
    input_size: InputSize | None = None
    levers: str | None = None
    channels: int = 3
    rules: int | None = None
    sha256: str | None = field(default=None, compare=False)

    @property
    def precision(self) -> Precision:
        """Number format of what ships: the target's, or a plainer one that was as fast."""
        quantize = self.stages.quantize
        return shipped_precision(self.target, None if quantize is None else quantize.facts)

    @property
    def shipped_target(self) -> Target:
        """The target in the number format of what ships."""
        return self.target.in_precision(self.precision)

    @property
    def verdict_words(self) -> str:
        """The verdict, and whether the budget asked for any pruning at all."""
        unpruned = self.stages.prune.facts.unpruned and self.verdict is Verdict.PASS
        return f"{self.verdict.value}, {MET_UNPRUNED}" if unpruned else self.verdict.value

    @property
    def latencies(self) -> tuple[MeasurementRow, ...]:
        """The measurements of time."""
        return tuple(row for row in self.measurements if row.measurement.unit == "ms")

    @property
    def judged_latency(self) -> tuple[Measurement, Measurement] | None:
        """Samples of the unpruned model and of what ships, taken together for the last latency gate; None without."""
        for stage in ("engine", "prune"):
            roles = {
                row.role: row.measurement for row in self.latencies if row.stage == stage and row.measurement.values
            }
            if len(roles) == 2:
                return roles["baseline"], roles["candidate"]
        return None

    @property
    def judged_statistic(self) -> Statistic:
        """The percentile that the judged latencies are told by."""
        return self.target.budget.judged_statistic

    @property
    def speed_up(self) -> RatioInterval | None:
        """Latency of the unpruned model over that of what ships, with its 95 % interval; None with too few samples, or
        samples that give no ratio (a file says what it likes; the gates call such a row INCONCLUSIVE)."""
        pair = self.judged_latency
        if pair is None:
            return None
        try:
            found = speed_up_of(*pair)
        except ValueError:
            return None
        return found if found.blocks >= MIN_BLOCKS else None


@dataclass(frozen=True)
class BuildResult:
    """What a build came to.

    Attributes:
        verdict: the worst of the gates.
        gates: every row of the verdict table.
        out: the run directory.
        bundle: what ships.
        report: the report for people; ``report.html`` beside it has the figures.
        record: what ``bundle/build.json`` holds.
    """

    verdict: Verdict
    gates: tuple[Gate, ...]
    out: Path
    bundle: Path
    report: Path
    record: BuildRecord


def build_from_json(data: object, where: Path) -> BuildRecord:
    """Read the content of a ``build.json`` of this version or of an older one.

    Raises:
        DamagedError: it is none, or not as it was written.
        DataError: a newer edgeprune wrote it.
    """
    if not isinstance(data, dict) or "gates" not in data or "target" not in data:
        raise DamagedError(f"{where}: is not a build.json of edgeprune")
    version = data.get("schema_version")
    if version == 1:
        from edgeprune.records.version1 import upgrade

        data = upgrade(data, where)
    elif isinstance(version, int) and version > SCHEMA_VERSION:
        raise DataError(
            f"{where}: was written by edgeprune {data.get('edgeprune', '')} in schema version {version}, known are 1 "
            f"and {SCHEMA_VERSION}; update edgeprune: git pull in its checkout, then make install"
        )
    try:
        return from_json(BuildRecord, data, where)
    except DataError as error:
        raise DamagedError(str(error)) from error


def write_build(path: Path, record: BuildRecord) -> None:
    """Write a ``build.json`` with its own digest in it, whole or not at all."""
    unsealed = json_text(replace(record, sha256="")) + "\n"
    write_json(path, replace(record, sha256=hashlib.sha256(unsealed.encode()).hexdigest()))


def is_as_written(content: bytes, record: BuildRecord) -> bool:
    """Whether the bytes that a record was read from are those of its own digest; true of older ones, which have none.

    It finds damage and edits by hand. Who wants to be believed computes it anew: against that there are signatures.
    """
    if record.sha256 is None:
        return True
    unsealed = content.replace(record.sha256.encode(errors="replace"), b"", 1)
    return hashlib.sha256(unsealed).hexdigest() == record.sha256


def build_schema() -> dict[str, Any]:
    """JSON Schema of ``build.json``; committed as ``edgeprune/records/build.schema.json``."""
    return json_schema(BuildRecord, "edgeprune build.json")


if __name__ == "__main__":
    import json

    print(json.dumps(build_schema(), indent=1))
