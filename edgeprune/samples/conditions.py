"""What a measurement was taken under: the fields that must match before two are compared, and those that explain it.

Every kind of runtime has one constructor of :class:`Conditions`; nothing else makes one, and no constructor leaves out
how many processes the samples come from, nor how many neighbouring samples are a block.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, cast

from annotated_types import Gt

from edgeprune.agent.cpus import CpuUse
from edgeprune.agent.host import HostState, WorkerState

MIN_CORE_SHARE = 0.9  # a run with less of its core than this shared it with other work
MOST_TAKEN = 0.25
"""Processor time that other work may take of the CPUs which a model's threads need; 1 is that of one CPU.

Of two threads on a virtual machine with two cores, in turns with and without one busy process beside them, it took 0.00
to 0.05 alone, 0.99 to 1.01 beside one of the same rank, which made an inference 4 times as long, and 0.05 to 0.07
beside one that the model went before, which made it no longer. Where between them the limit lies is a choice.
"""
QUOTA = "a quota of processor time"
WHOLE_CORES = f"give the container whole cores (--cpuset-cpus), not {QUOTA} (--cpus)"
QUIET_MACHINE = "measure again on a quiet one"


def may_end_otherwise(why: str) -> bool:
    """Whether measuring again may mend what was said against a run; a quota would stop the next one as often."""
    return QUOTA not in why


@dataclass(frozen=True)
class Telemetry:
    """What sensors of the device showed while it ran.

    Attributes:
        source: ``tegrastats``, ``nvidia-smi`` or ``sysfs``.
        samples: how often they were read.
        temperature_max_c: by sensor.
        power_w_mean: of the whole board (of the GPU, by ``nvidia-smi``), over the run with its start and its end; what
            an inference takes is a measurement of its own, ``energy``.
        power_w_max: likewise.
        gpu_mhz_min: of the GPU's clock under load.
        gpu_mhz_max: likewise.
        gpu_clock: what told it: the source, or ``devfreq``, the kernel's own reading; empty where nothing did, so that
            a clock that fell would not have been seen.
        over_current_events: by the kernel's counter, during the run.
        over_current_harmless: of those counters, the ones whose events throttle nothing (``oc*_throt_en`` is 0).
        seconds: how long they were read.
        unwatched: what the source did not tell: its program ended before the run did, was silent, or told of several
            GPUs and nothing says which of them the run used; empty where it told all.
        first_line: the source's own, for people.
        last_line: likewise.
    """

    source: str = ""
    samples: int = 0
    temperature_max_c: Mapping[str, float] = field(default_factory=dict[str, float])
    power_w_mean: float | None = None
    power_w_max: float | None = None
    gpu_mhz_min: float | None = None
    gpu_mhz_max: float | None = None
    gpu_clock: str = ""
    over_current_events: Mapping[str, int] = field(default_factory=dict[str, int])
    over_current_harmless: tuple[str, ...] = ()
    seconds: float = 0.0
    unwatched: str = ""
    first_line: str = ""
    last_line: str = ""


@dataclass(frozen=True)
class DeviceState:
    """The device during a run.

    Attributes:
        power_mode: a Jetson's; empty where there is none.
        clocks: ``locked`` or ``free``; empty where they cannot be locked.
        clocks_doubt: why they are free although they were to be locked, where that was tried; for people.
        temperature_c: the highest of the run.
        throttled: it was slowed down by heat or power, or did not stay as it was set; its gate is inconclusive.
        throttled_why: by what.
        waited_s: how long the run waited behind another one.
        telemetry: None where nothing was watched.
    """

    power_mode: str = ""
    clocks: str = ""
    clocks_doubt: str = ""
    temperature_c: float | None = None
    throttled: bool = False
    throttled_why: str = ""
    waited_s: float = 0.0
    telemetry: Telemetry | None = None


@dataclass(frozen=True)
class CoreState:
    """How much of its core, or of its cores, the model had.

    Attributes:
        share: processor time over wall time; a busy single thread alone on its core has 1.
        contended: the run shared the cores that it needs with other work, or a quota stopped it.
        interrupted_share: of the samples, those in which the process had to yield its core; of records of earlier
            versions.
        cpu_ms: processor time of each sample; empty where a run is not one core's work.
        others: processor time that other work took of the CPUs that the process may use; 1 is that of one CPU. None
            where the system does not tell, of a very short run, and in older records.
        quota: how much a quota grants, in the same unit (Docker's ``--cpus``); None without one.
        stopped: share of the run, at most, for which that quota stopped it.
        spare: CPUs that the process may use and that no thread of the model needs: so much of ``others`` took nothing
            from it. 0 in older records, which then count all of it.
    """

    share: float = 1.0
    contended: bool = False
    interrupted_share: float = 0.0
    cpu_ms: tuple[float, ...] = ()
    others: float | None = None
    quota: float | None = None
    stopped: float = 0.0
    spare: int = 0

    @classmethod
    def over_launches(
        cls,
        launches: Sequence[int],
        shares: Sequence[float],
        cpu_ms: Iterable[float],
        uses: Sequence[CpuUse],
        *,
        threads: int | None,
    ) -> CoreState:
        """Of several processes, each with the weight of its samples.

        One thread that is busy all the time has its core's whole time unless something else does; of several, which
        wait for one another, only the time that other work took tells.

        Args:
            launches: samples from each process.
            shares: of its core, of each.
            cpu_ms: processor time of every sample.
            uses: of its CPUs, by each.
            threads: that compute the model, 0 for as many as the process has CPUs; None where a GPU does.
        """
        weights = [count / sum(launches) for count in launches]
        share = sum(value * weight for value, weight in zip(shares, weights, strict=True))
        stopped = sum(use.stopped * weight for use, weight in zip(uses, weights, strict=True))
        told = [use.others for use in uses if use.others is not None]
        others = None
        if len(told) == len(uses):
            others = sum(value * weight for value, weight in zip(told, weights, strict=True))
        here = min(use.cpus for use in uses)
        spare = here if threads is None else here - min(threads or here, here)
        if threads == 1:
            contended = share < MIN_CORE_SHARE
        else:
            crowded = threads is not None and others is not None and others - spare > MOST_TAKEN
            contended = crowded or stopped > 1 - MIN_CORE_SHARE
        quota = min((use.quota for use in uses if use.quota is not None), default=None)
        return cls(
            share,
            contended,
            cpu_ms=tuple(cpu_ms) if threads == 1 else (),
            others=others,
            quota=quota,
            stopped=stopped,
            spare=spare,
        )

    @property
    def taken(self) -> float:
        """Processor time that other work took of the CPUs that the model needs, in the unit of ``others``."""
        return max(0.0, (self.others or 0.0) - self.spare)

    @property
    def alone(self) -> float:
        """Of the time that a run took, what it would have taken at least with its cores for itself: 1 where nothing
        disturbed it. Of several threads the one that all wait for may have been the one beside which others worked."""
        if not self.contended:
            return 1.0
        if self.of_one_core:
            return min(self.share, 1.0)
        return max(0.0, 1.0 - self.taken - self.stopped)

    @property
    def of_one_core(self) -> bool:
        """Whether the share of its core tells what a run lost; older records know nothing else."""
        return bool(self.cpu_ms) or (self.others is None and not self.stopped)

    @property
    def by_quota(self) -> bool:
        """Whether it was a quota rather than other work that disturbed it: waiting mends nothing then."""
        return self.contended and self.stopped > 0 and self.stopped >= (1.0 - self.alone) / 2

    @property
    def disturbed_by(self) -> str:
        """What disturbed a contended run, for people."""
        if self.by_quota:
            granted = "" if self.quota is None else f" ({self.quota:g} CPUs)"
            return f"{QUOTA}{granted} stopped it for {self.stopped:.0%} of the run"
        if self.of_one_core:
            return f"the model had only {self.share:.0%} of a core: other work ran on the machine"
        return f"other work ran on the machine: it took the time of {self.taken:.1f} of the cores it needs"

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return WHOLE_CORES if self.by_quota else QUIET_MACHINE


def most_disturbed(cores: Iterable[CoreState]) -> CoreState | None:
    """The contended run that lost most; None where none is."""
    return min((core for core in cores if core.contended), key=lambda core: core.alone, default=None)


@dataclass(frozen=True)
class GpuTiming:
    """How TensorRT was timed.

    Attributes:
        span: what lies between start and end of a sample.
        clock: whose clock; empty for trtexec's own.
        cuda_graph_asked: a graph was asked for; whether there was one is ``Conditions.cuda_graph``.
        spin_wait: the host waited without sleeping.
        io_memory: where inputs and outputs lie: ``device``, or ``managed`` (trtexec without copies on a GPU that shares
            the host's memory, as every Jetson's does); empty where that is not known.
        in_flight: inferences at a time.
        enqueue_ms: what enqueueing each sample cost the host; empty where it is not told to 0.001 ms.
        device_rise_bytes: GPU memory that the engine took; None where it is not told.
    """

    span: str
    cuda_graph_asked: bool
    clock: str = ""
    spin_wait: bool = True
    io_memory: str = ""
    in_flight: int = 1
    enqueue_ms: tuple[float, ...] = ()
    device_rise_bytes: int | None = None


@dataclass(frozen=True)
class EndToEndState:
    """What a run from frame to boxes worked on.

    Attributes:
        parts_ms: medians of ``pre``, ``model`` and ``post``.
        boxes: how many the last frame gave.
        frames: (height, width) of each frame.
        stand_in: the first model's outputs went through the post-processing of all.
    """

    parts_ms: Mapping[str, float] = field(default_factory=dict[str, float])
    boxes: int = 0
    frames: tuple[tuple[int, ...], ...] = ()
    stand_in: bool = False


MUST_MATCH = {"must_match": True}  # two measurements that differ in a field with this mark are not compared


@dataclass(frozen=True)
class Conditions:
    """What a measurement was taken under. Fields marked :data:`MUST_MATCH` decide what may be compared.

    Attributes:
        identity: of the device: CPU or board, GPU, power mode, runtime with its version.
        runtime: its name.
        provider: of ONNX Runtime; the runtime's name for others.
        threads: intra-op threads; 0: the runtime chose.
        batch: images per inference.
        shapes: of the inputs, by name.
        scope: ``model`` or ``end_to_end``.
        copies: copies between host and device are in the time.
        cuda_graph: an inference was replayed from a CUDA graph.
        samples_per_block: neighbouring samples that what slows the device at one time slows alike.
        launches: samples from each process, in order; where memory lies is drawn anew in each.
        model: file name.
        models_in_run: models that took turns.
        images: the inputs held images, not noise.
        warm: the warm-up ended because the level was steady; None where it is not told.
        load_ms: of the model, in the first process; None where it is not told.
        nodes: how many nodes each provider of ONNX Runtime was given.
        core: how much of its core the model had.
        host: of the processes; None where they ran on a device that does not tell.
        device: its state during the run.
        worker: the first process that timed; None for trtexec.
        gpu: how TensorRT was timed; None for ONNX Runtime.
        end_to_end: None for the model alone.
    """

    identity: Mapping[str, str] = field(metadata=MUST_MATCH)
    runtime: str = field(metadata=MUST_MATCH)
    provider: str = field(metadata=MUST_MATCH)
    threads: int = field(metadata=MUST_MATCH)
    batch: int = field(metadata=MUST_MATCH)
    shapes: Mapping[str, tuple[int, ...]] = field(metadata=MUST_MATCH)
    scope: str = field(metadata=MUST_MATCH)
    copies: bool = field(metadata=MUST_MATCH)
    cuda_graph: bool = field(metadata=MUST_MATCH)
    samples_per_block: Annotated[int, Gt(0)]
    launches: tuple[Annotated[int, Gt(0)], ...]
    model: str = ""
    models_in_run: int = 1
    images: bool = field(default=False, metadata=MUST_MATCH)
    warm: bool | None = None
    load_ms: float | None = None
    nodes: Mapping[str, int] = field(default_factory=dict[str, int])
    core: CoreState = CoreState()
    host: HostState | None = None
    device: DeviceState = DeviceState()
    worker: WorkerState | None = None
    gpu: GpuTiming | None = None
    end_to_end: EndToEndState | None = None


def batch_of(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Images per inference, by the shapes of the inputs."""
    return next(iter(shapes.values()))[0]


def gpu_span(copies: bool) -> str:
    """What lies between start and end of a sample on a GPU, for :class:`GpuTiming`."""
    return "copies in, inference, copies out" if copies else "inference on the device alone"


def differences(first: Conditions, second: Conditions) -> list[str]:
    """Names of the conditions that forbid comparing, with both values; empty when two measurements may be compared."""
    named: list[str] = []
    for entry in fields(Conditions):
        if not entry.metadata.get("must_match"):
            continue
        here, there = getattr(first, entry.name), getattr(second, entry.name)
        if here == there:
            continue
        if isinstance(here, Mapping) and isinstance(there, Mapping):
            first_entries, second_entries = cast("Mapping[str, object]", here), cast("Mapping[str, object]", there)
            for key in sorted({*first_entries, *second_entries}):
                a, b = first_entries.get(key), second_entries.get(key)
                named += [f"{entry.name}.{key} ({a}, {b})"] if a != b else []
        else:
            named.append(f"{entry.name} ({here}, {there})")
    return named
