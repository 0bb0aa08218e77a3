"""What a stage is, and what it may see.

A stage takes the artifacts of earlier stages and gives its own; :func:`edgeprune.pipeline.build` decides whether it has
to run at all. Its gates run every time, cached or not, because a latency is always measured afresh.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

from edgeprune.artifact import Role
from edgeprune.errors import StageError
from edgeprune.input_size import InputSize
from edgeprune.options import options_of_command
from edgeprune.progress import Progress, Reporter, Silent, reporter_of
from edgeprune.samples.gates import Gate
from edgeprune.samples.measurement import Measurement
from edgeprune.target import Target
from edgeprune.version import versions_of
from edgeprune.workspace import Key, Record, Workspace, flat

if TYPE_CHECKING:
    from edgeprune.dataset import Dataset
    from edgeprune.measure.compiling import CompiledFiles
    from edgeprune.measure.latency import JudgedLatency
    from edgeprune.runtimes.site import Site


Facts = TypeVar("Facts")


@runtime_checkable
class BuildReporter(Reporter, Protocol):
    """Who watches a build."""

    def stage(self, name: str, number: int, total: int, reused: bool) -> None:
        """A stage starts, or is taken from the run directory."""
        ...

    def gates(self, gates: Sequence[Gate]) -> None:
        """The gates behind a stage were judged."""
        ...


class SilentBuild(Silent):
    """The default :class:`BuildReporter`: nobody watches."""

    def stage(self, name: str, number: int, total: int, reused: bool) -> None: ...
    def gates(self, gates: Sequence[Gate]) -> None: ...


class ToldOfBuild(SilentBuild):
    """A :class:`BuildReporter` made of a reporter that does not know of stages and gates."""

    def __init__(self, reporter: Reporter) -> None:
        self._told = reporter

    def progress(self, text: str, *, done: int = 0, total: int = 0, latest_ms: Sequence[float] = ()) -> None:
        self._told.progress(text, done=done, total=total, latest_ms=latest_ms)

    def note(self, text: str) -> None:
        self._told.note(text)


def build_reporter_of(progress: Progress | Reporter | None) -> BuildReporter:
    """What a caller gave as ``progress``, as a reporter of a build; nobody watches when it is None.

    Raises:
        TargetError: as in :func:`~edgeprune.progress.reporter_of`.
    """
    reporter = reporter_of(progress)
    return reporter if isinstance(reporter, BuildReporter) else ToldOfBuild(reporter)


@dataclass(frozen=True)
class Weights:
    """What the build starts from.

    Attributes:
        path: a checkpoint, or a model YAML that the pretrain stage trains.
        sha256: of the file's bytes; of the resolved model description for a YAML.
        task: ``detect``, ``segment``, ``pose``, ``obb`` or ``classify``.
    """

    path: Path
    sha256: str
    task: str

    @property
    def trained(self) -> bool:
        """Whether it holds weights already."""
        return self.path.suffix == ".pt"


@dataclass
class Build:
    """Everything a stage may read. ``records`` and ``judged`` grow as stages finish; nothing else in it changes.

    Attributes:
        site: target, runtime and device.
        weights: what is pruned.
        dataset: what it is trained, calibrated and judged on.
        trust: whether the user's checkpoint may hold foreign classes.
        workspace: the run directory.
        reporter: who watches; the site's too.
        next_command: what to type where the site is not usable.
        records: finished stages by name.
        judged: what the gates behind each finished stage said, by name.
        size: where the target's size of the input comes from; None where nobody asked.
        levers: why the number format is what it is; empty where the profile names it.
        other_levers: the command that tells what other levers than pruning bring for the same budget, of the trained
            checkpoint that the build starts from; an empty one where no command would.
    """

    site: Site
    weights: Weights
    dataset: Dataset
    trust: bool
    workspace: Workspace
    reporter: BuildReporter
    next_command: str = ""
    records: dict[str, Record[Any]] = field(default_factory=dict)
    judged: dict[str, Judgement] = field(default_factory=dict)
    size: InputSize | None = None
    levers: str = ""
    other_levers: Callable[[Path], str] = lambda source: ""

    @property
    def target(self) -> Target:
        """The site's."""
        return self.site.target

    def finished(self, facts: type[Facts]) -> Record[Facts] | None:
        """The finished stage that has facts of this class; None where it has not run, or is not needed."""
        return next((record for record in self.records.values() if isinstance(record.facts, facts)), None)

    def record(self, facts: type[Facts]) -> Record[Facts]:
        """The same for a stage that must have run."""
        record = self.finished(facts)
        if record is None:
            raise StageError(f"no finished stage has {facts.__name__}; there are: {', '.join(self.records) or 'none'}")
        return record

    def facts(self, facts: type[Facts]) -> Facts:
        """What the stage that has facts of this class came to."""
        return self.record(facts).facts

    def source(self, *artifacts: tuple[Record[Any], Role]) -> dict[str, str]:
        """Key entries for the artifacts that a stage reads, as pairs of a finished stage and a role."""
        return {f"source.{record.key.stage}.{role}": record.artifacts[role].sha256 for record, role in artifacts}


@dataclass(frozen=True)
class Output(Generic[Facts]):
    """What a stage made inside its folder, files by role, and what it came to, for gates and report."""

    artifacts: Mapping[Role, Path]
    facts: Facts


@dataclass(frozen=True)
class Judgement:
    """What the gates behind a stage said, with the measurements they said it from."""

    gates: Sequence[Gate]
    measurements: Sequence[tuple[Literal["baseline", "candidate"], Measurement]] = ()


@dataclass(frozen=True)
class Stage(Generic[Facts]):
    """One step of the pipeline.

    Attributes:
        name: as in run directories, tables and ``--why``.
        version: raised whenever the same inputs would give another result; older results are then stale.
        facts: class of what it comes to; no other stage has it.
        inputs: what the result depends on, as flat or nested plain values.
        packages: distributions whose version the result depends on.
        run: does the work inside an empty folder.
        judge: the gates behind it.
        needed: whether this build has the stage at all, by what the stages before it came to; asked before them too.
        shows_output: True when the stage's own output (a training bar) belongs on the screen, not in the log.
        complete: facts of a reused result with what it lacks and no key asks for, because nothing else depends on it;
            None where it lacks nothing.
        unsure: why its measurements left open what it chose; empty where they did not. Such a result is kept where a
            measurement behind it shows the budget held, and made again after a build that ended without one.
        left_out: words for a build that asked for the stage and does not need it; empty where it did not ask.
    """

    name: str
    version: int
    facts: type[Facts]
    inputs: Callable[[Build], Mapping[str, Any]]
    run: Callable[[Build, Path, Key], Output[Facts]]
    judge: Callable[[Build, Record[Facts]], Judgement]
    packages: tuple[str, ...] = ()
    needed: Callable[[Build], bool] = lambda build: True
    shows_output: bool = False
    complete: Callable[[Build, Record[Facts]], Facts | None] = lambda build, record: None
    unsure: Callable[[Build, Record[Facts]], str] = lambda build, record: ""
    left_out: Callable[[Build], str] = lambda build: ""

    def __post_init__(self) -> None:
        """Have what a stage refuses called by the profile's keys: of a build's options, ``--device`` is the board."""
        object.__setattr__(self, "run", options_of_command(None)(self.run))

    def key(self, build: Build) -> Key:
        """What its result depends on, once the stages before it are finished."""
        inputs = {"version": self.version, **self.inputs(build), "env": versions_of(self.packages)}
        return Key(self.name, flat(inputs))


def artifacts_of(files: CompiledFiles) -> dict[Role, Path]:
    """Artifacts of a stage that compiled a checkpoint."""
    artifacts: dict[Role, Path] = {"model": files.model, "onnx": files.onnx}
    return artifacts if files.engine is None else {**artifacts, "engine": files.engine}


def judgement_of(latency: JudgedLatency) -> Judgement:
    """The gate of a latency with both measurements."""
    return Judgement([latency.gate], [("baseline", latency.baseline), ("candidate", latency.candidate)])
