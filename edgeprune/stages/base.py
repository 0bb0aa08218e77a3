"""What a stage is, and what it may see.

A stage takes the artifacts of earlier stages and gives its own; :func:`edgeprune.pipeline.build` decides whether it has
to run at all. Its gates run every time, cached or not, because a latency is always measured afresh.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgeprune.samples.gates import Gate
from edgeprune.samples.measurement import Measurement
from edgeprune.target import Target
from edgeprune.workspace import Key, Record, Workspace

if TYPE_CHECKING:
    from edgeprune.dataset import Dataset
    from edgeprune.devices.local import LocalDevice
    from edgeprune.devices.remote import RemoteDevice
    from edgeprune.runtimes.base import Runtime


class Reporter(Protocol):
    """Who watches a build. The command line draws bars; the Python API is silent by default."""

    def stage(self, name: str, number: int, total: int, reused: bool) -> None:
        """A stage starts, or is taken from the run directory."""
        ...

    def progress(self, text: str, *, done: int = 0, total: int = 0) -> None:
        """The stage at work moved on."""
        ...

    def note(self, text: str) -> None:
        """One line worth keeping on the screen."""
        ...

    def gates(self, gates: Sequence[Gate]) -> None:
        """The gates behind a stage were judged."""
        ...


class Silent:
    """The reporter that reports nothing."""

    def stage(self, name: str, number: int, total: int, reused: bool) -> None: ...
    def progress(self, text: str, *, done: int = 0, total: int = 0) -> None: ...
    def note(self, text: str) -> None: ...
    def gates(self, gates: Sequence[Gate]) -> None: ...


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
class Context:
    """Everything a stage may read. ``records`` grows as stages finish; nothing in it is changed afterwards."""

    target: Target
    weights: Weights
    dataset: Dataset
    seed: int
    trust: bool
    workspace: Workspace
    runtime: Runtime
    usable: bool  # whether the target's runtime works on this machine
    next_command: str  # what to type where it does not
    reporter: Reporter
    device: LocalDevice | RemoteDevice | None = None  # None: this machine, which nobody asked to be looked at
    records: dict[str, Record] = field(default_factory=dict)

    def source(self, *roles: tuple[str, str]) -> dict[str, str]:
        """Key entries for the artifacts that a stage reads, as (stage, role) pairs."""
        return {f"source.{stage}.{role}": self.records[stage].artifacts[role].sha256 for stage, role in roles}


@dataclass(frozen=True)
class Output:
    """What a stage made inside its folder: role to (kind, file), and plain facts for gates and report."""

    artifacts: Mapping[str, tuple[str, Path]]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged:
    """What the gates behind a stage said, with the measurements they said it from."""

    gates: Sequence[Gate]
    measurements: Sequence[tuple[str, Measurement]] = ()  # (role, measurement), role ``baseline`` or ``candidate``


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline.

    Attributes:
        name: as in run directories, tables and ``--why``.
        version: raised whenever the same inputs would give another result; older results are then stale.
        inputs: what the result depends on, as flat or nested plain values.
        packages: distributions whose version the result depends on.
        run: does the work inside an empty folder.
        judge: the gates behind it.
        needed: whether this build has the stage at all.
        shows_output: True when the stage's own output (a training bar) belongs on the screen, not in the log.
    """

    name: str
    version: int
    inputs: Callable[[Context], Mapping[str, Any]]
    run: Callable[[Context, Path, Key], Output]
    judge: Callable[[Context, Record], Judged]
    packages: tuple[str, ...] = ()
    needed: Callable[[Context], bool] = lambda context: True
    shows_output: bool = False


def installed(package: str) -> str:
    """Version of an installed distribution, ``absent`` when there is none; imports nothing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
