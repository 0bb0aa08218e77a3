"""What worker processes are asked, what they answer, and how far they are: data classes, JSON on the pipe between.

Standard library and Python 3.8: the file goes along to devices that have no edgeprune.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from edgeprune.agent.cpus import CpuUse
from edgeprune.agent.host import WorkerState

BENCH_WORKER = "edgeprune.runtimes.bench_worker"
END_TO_END_WORKER = "edgeprune.runtimes.end_to_end_worker"
NVIDIA_PARSER = "edgeprune.runtimes.nvidia_parser"
REMOTE_WORKER = "edgeprune.runtimes.remote_worker"
TENSORRT_WORKER = "edgeprune.runtimes.tensorrt_worker"


class Job(Protocol):
    """A data class that the worker's ``module`` knows by its name."""

    module: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]


@dataclass(frozen=True)
class Sampling:
    """How models that take turns are sampled; see :class:`~edgeprune.runtimes.base.BenchSettings`.

    Attributes:
        least_rounds: rounds that the time limit has to leave room for; slow models take fewer samples in each for it.
        images: a file for each model with the array that fills its one input; noise where there is none.
    """

    warmup_s: float
    warmup_runs: int
    rounds: int
    per_round: int
    least_rounds: int
    time_limit_s: float
    seed: int
    copies: bool
    cpus: tuple[int, ...]
    images: tuple[str, ...]


@dataclass(frozen=True)
class OrtJob:
    """Models for ONNX Runtime.

    Attributes:
        models: paths.
        provider: of ONNX Runtime, by its own name.
        provider_options: what the provider is given.
        threads: intra-op threads; 0 leaves the number to ONNX Runtime.
        priority: go before other work on the machine, where this user may.
    """

    module: ClassVar[str] = BENCH_WORKER
    models: tuple[str, ...]
    provider: str
    provider_options: Mapping[str, str]
    threads: int
    priority: bool


@dataclass(frozen=True)
class ShapedOrtJob(OrtJob):
    """The same at a size: ``batch`` (0: none) and ``imgsz`` (height, width) fill axes that are left free."""

    batch: int
    imgsz: tuple[int, int] | None


@dataclass(frozen=True)
class LatencyJob(Sampling, ShapedOrtJob):
    """Time models side by side."""


@dataclass(frozen=True)
class EndToEndLatencyJob(LatencyJob):
    """The same from frame to boxes. ``frames`` are image files, noise where there is none; with ``stand_in`` the first
    model's outputs go through the post-processing of all."""

    module: ClassVar[str] = END_TO_END_WORKER
    frames: tuple[str, ...]
    stand_in: bool


@dataclass(frozen=True)
class ProfileJob(ShapedOrtJob):
    """Time the nodes of one model over ``runs`` runs, on these CPUs."""

    runs: int
    cpus: tuple[int, ...]


@dataclass(frozen=True)
class MemoryJob(ShapedOrtJob):
    """Peak memory of one model."""


@dataclass(frozen=True)
class EndToEndJob(ShapedOrtJob):
    """Time the parts of one detector, from a frame (an image file, or noise) to boxes, ``runs`` times, on these
    CPUs."""

    module: ClassVar[str] = END_TO_END_WORKER
    image: str | None
    runs: int
    cpus: tuple[int, ...]


@dataclass(frozen=True)
class DescribeJob:
    """What ONNX Runtime is here."""

    module: ClassVar[str] = REMOTE_WORKER


@dataclass(frozen=True)
class HostJob:
    """What explains a timing on this host at this moment; the answer is a :class:`~edgeprune.agent.host.HostState`."""

    module: ClassVar[str] = REMOTE_WORKER


@dataclass(frozen=True)
class OptimizeJob:
    """Write the graph ``model`` to ``engine`` as ONNX Runtime optimizes it for this machine."""

    module: ClassVar[str] = REMOTE_WORKER
    model: str
    engine: str
    provider: str


@dataclass(frozen=True)
class EngineBuildJob:
    """Build a TensorRT engine. ``timing_cache`` is a path, read if it exists and written; empty for none."""

    module: ClassVar[str] = TENSORRT_WORKER
    onnx: str
    engine: str
    timing_cache: str
    shapes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class EngineJob:
    """TensorRT engines: paths, with the shapes of free axes and the DLA core of each."""

    module: ClassVar[str] = TENSORRT_WORKER
    models: tuple[str, ...]
    shapes: tuple[Mapping[str, tuple[int, ...]], ...]
    dla_cores: tuple[int | None, ...]


@dataclass(frozen=True)
class EngineLatencyJob(Sampling, EngineJob):
    """Time engines side by side; with ``cuda_graph`` an inference is captured once and replayed, where it can be. An
    engine of another ``batch`` (0: any) or ``imgsz`` (height, width; None: any) is refused."""

    cuda_graph: bool
    batch: int
    imgsz: tuple[int, int] | None


@dataclass(frozen=True)
class EngineProfileJob(EngineJob):
    """Time the layers of one engine over ``runs`` inferences."""

    runs: int


@dataclass(frozen=True)
class EngineMemoryJob(EngineJob):
    """Memory of one engine."""


@dataclass(frozen=True)
class ParserJob:
    """Parse a graph by NVIDIA's parser and build it. ``shapes`` fill free axes."""

    module: ClassVar[str] = NVIDIA_PARSER
    onnx: str
    shapes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class WorkerProgress:
    """How far a worker is: rounds ``done`` of ``total``, and the latest samples of every model in milliseconds."""

    stage: str
    done: int
    total: int
    last_ms: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class TimedModel:
    """What one process measured of one model.

    Attributes:
        values_ms: the samples, in order.
        warmups_ms: samples before the first one, and those between turns.
        warm: the warm-up ended because the level was steady.
        shapes: of the inputs, by name.
        load_ms: of the model.
        cpu_ms: processor time of each sample.
        cpu_share: processor time over wall time.
        nodes: how many nodes each provider of ONNX Runtime was given.
        cuda_graph: an inference was replayed from a CUDA graph.
        device_rise_bytes: GPU memory that an engine took.
        parts_ms: medians of ``pre``, ``model`` and ``post``, from frame to boxes.
        boxes: that the last frame gave.
        frames: (height, width) of each.
    """

    values_ms: tuple[float, ...]
    warmups_ms: tuple[float, ...]
    warm: bool
    shapes: Mapping[str, tuple[int, ...]]
    load_ms: float
    cpu_ms: tuple[float, ...]
    cpu_share: float
    nodes: Mapping[str, int] = field(default_factory=dict)
    cuda_graph: bool = False
    device_rise_bytes: int | None = None
    parts_ms: Mapping[str, float] = field(default_factory=dict)
    boxes: int = 0
    frames: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class TimedModels:
    """The answer to a latency job: models in its order, the samples that each took in a round, the process that timed
    them, and what it had of its CPUs meanwhile."""

    models: tuple[TimedModel, ...]
    per_round: int
    worker: WorkerState
    cpus: CpuUse = field(default_factory=CpuUse)


@dataclass(frozen=True)
class LayerTime:
    """Time of one layer of an engine over some runs, in milliseconds, with what the runtime tells of it.

    Attributes:
        name: as the profiler calls it.
        op: its operation, by the runtime's own word.
        mean_ms: over the runs.
        median_ms: likewise; None where the profiler gives only the mean.
        runs: how many; 0 where it is not told.
        provider: of ONNX Runtime, that ran the node.
        inputs: element type and shape of each.
        outputs: likewise.
        parameter_bytes: of its weights.
    """

    name: str
    op: str
    mean_ms: float
    median_ms: float | None = None
    runs: int = 0
    provider: str = ""
    inputs: tuple[tuple[str, tuple[int, ...]], ...] = ()
    outputs: tuple[tuple[str, tuple[int, ...]], ...] = ()
    parameter_bytes: int = 0

    @property
    def ms(self) -> float:
        """The median where it is known, else the mean."""
        return self.mean_ms if self.median_ms is None else self.median_ms


@dataclass(frozen=True)
class LayerTimes:
    """The answer to a profile job: layers in order of execution."""

    layers: tuple[LayerTime, ...]


@dataclass(frozen=True)
class PeakMemory:
    """Memory of a fresh process with one model alone.

    Attributes:
        peak_rss_bytes: of the whole process.
        model_rss_bytes: what the model added.
        device_bytes: of the GPU, that an engine took; None without one.
        activation_bytes: of the GPU, that an engine needs while it runs; None without one.
    """

    peak_rss_bytes: int
    model_rss_bytes: int
    device_bytes: int | None = None
    activation_bytes: int | None = None


@dataclass(frozen=True)
class EndToEndTimes:
    """From a frame in memory to boxes, a value a run.

    Attributes:
        pre_ms: letterbox and normalization.
        model_ms: the model.
        post_ms: confidence, suppression, back to the frame.
        boxes: that the frame gave.
        frame: (height, width).
    """

    pre_ms: tuple[float, ...]
    model_ms: tuple[float, ...]
    post_ms: tuple[float, ...]
    boxes: int
    frame: tuple[int, int]


@dataclass(frozen=True)
class OrtDescription:
    """An ONNX Runtime: its version, its providers, and its Python's version and absolute path."""

    onnxruntime: str
    providers: tuple[str, ...]
    python: str
    executable: str


@dataclass(frozen=True)
class Done:
    """The answer to a job whose result is a file."""


@dataclass(frozen=True)
class EngineBuild:
    """A TensorRT engine that was built: the inspector's text, the seconds it took, TensorRT's version."""

    layers: str
    build_s: float
    version: str


@dataclass(frozen=True)
class ParserAnswer:
    """What NVIDIA's parser and builder said of a graph.

    Attributes:
        version: of TensorRT for RTX.
        refusals: why they do not take it, in their words.
        lacking: operators for which TensorRT for RTX wants a plugin, which it has none of: what the full TensorRT would
            say is not known.
        seconds: it took.
    """

    version: str
    refusals: tuple[str, ...]
    lacking: tuple[str, ...]
    seconds: float
