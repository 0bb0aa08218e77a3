"""The one seam to whatever runs a model: build an engine, run it, time it, take it apart."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from edgeprune.errors import DeviceError
from edgeprune.progress import Progress, silent
from edgeprune.runtimes.jobs import EndToEndTimes, LayerTime, PeakMemory
from edgeprune.runtimes.layer_info import Layer
from edgeprune.samples.measurement import Measurement
from edgeprune.settings import MOST_PER_ROUND, MOST_ROUNDS, Benching, Count, File, Positive, Seed, Side


@dataclass(frozen=True)
class Availability:
    """Whether a runtime can be used here.

    Attributes:
        ok: usable now.
        detail: version and providers when usable, else what is missing.
        remedy: the command that gets the missing part; empty when ``ok``.
    """

    ok: bool
    detail: str
    remedy: str = ""


NO_GPU = Availability(
    False,
    "nvidia-smi finds no NVIDIA GPU; it needs one with its driver, or the machine that has one: --device user@host",
    "nvidia-smi",  # typed before the next command, which is then given only where there is one
)


NO_LAYER_TIMES = "this ONNX Runtime tells how long its host took to launch each node, not what the GPU took for it"
"""Why a runtime times no layers of a model that it runs."""


@dataclass(frozen=True)
class FreeAxes:
    """What fills the axes that a graph leaves free.

    Attributes:
        batch: images per inference; 0 is 1, so that models which are compared do not differ in it.
        imgsz: height and width in pixels; None takes the model's metadata.
    """

    batch: int = 0
    imgsz: tuple[int, int] | None = None


AS_EXPORTED = FreeAxes()
"""Nothing is said."""


@dataclass(frozen=True, kw_only=True)
class BenchSettings(Benching):
    """How latency is sampled, and on what."""

    seed: Seed = 0
    """Seed of the input values."""
    imgsz: tuple[Side, Side] | None = None
    """Height and width of free spatial axes, in pixels; the model's metadata says when None."""
    cpus: tuple[Count, ...] = ()
    """CPUs that the process is pinned to; empty for no pinning."""
    scope: Literal["model", "end_to_end"] = "model"
    """``model`` (input in memory to output in memory) or ``end_to_end`` (a frame in memory to boxes)."""
    frames: tuple[File, ...] = ()
    """Image files for ``end_to_end``, in turns, the same for every model; seeded noise without."""
    stand_in: bool = False
    """For ``end_to_end``: the first model's outputs go through the post-processing of all: a pruned model that is not
    trained yet finds nothing, or everything."""
    images: Callable[[tuple[int, ...]], np.ndarray] | None = None
    """Gives an input of a shape (batch, channels, height, width), float32 in [0, 1], from images; noise when None. What
    NMS inside a graph takes depends on the boxes that it is given, and noise has none, or too many."""
    effort: Positive = 1.0
    """How many times the samples of a first look these are; :meth:`longer` keeps count. Where a block of samples is a
    process of its own (``trtexec``), a longer look has as many times the processes: more samples in each would leave
    the spread between them as it is."""

    def longer(self, times: float = 2.0) -> BenchSettings:
        """The same with this many times the samples, and the time for them: in as many times the rounds, as far as a
        run may have them."""
        rounds = max(round(self.rounds * times), 1)
        more = replace(self, rounds=1, time_limit_s=self.time_limit_s * times, effort=self.effort * times)
        return more.with_rounds(rounds)

    def with_rounds(self, least: int) -> BenchSettings:
        """The same with so many rounds at least; beyond the most that a run may have, each gives more samples."""
        rounds, more = max(self.rounds, least), 1
        if rounds > MOST_ROUNDS:
            rounds, more = MOST_ROUNDS, -(-rounds // MOST_ROUNDS)
        return replace(self, rounds=rounds, per_round=min(self.per_round * more, MOST_PER_ROUND))

    @property
    def free(self) -> FreeAxes:
        """What fills free axes."""
        return FreeAxes(self.batch, self.imgsz)


class Session(Protocol):
    """A loaded engine."""

    input_names: list[str]
    output_names: list[str]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name."""
        ...


class Runtime(ABC):
    """Runs artifacts of one kind on one device. Errors: ``DataError`` for a model it cannot read, ``DeviceError`` for a
    runtime that is missing, ``StageError`` when an engine cannot be built."""

    name: str
    suffix: str = ".onnx"
    """Of its engines' file names: the graph itself for ONNX Runtime, a plan for TensorRT."""
    simulated: bool = False
    """True on a stand-in device: nothing that it says passes a gate."""
    fit_for_dataset: bool = True
    """Whether a session is fast enough for every image of a split; else some images are compared with the ONNX's."""
    unused_options: frozenset[str] = frozenset()
    """Options of ``bench`` and ``compare`` that it has no use for."""

    @abstractmethod
    def availability(self) -> Availability:
        """Whether it can be used here; imports nothing heavy before it is asked."""

    def _require(self) -> None:
        """Raise ``DeviceError`` with the next command unless it can be used here."""
        if not (found := self.availability()).ok:
            raise DeviceError(f"{self.name}: {found.detail}; next: {found.remedy}")

    @abstractmethod
    def identity(self) -> dict[str, str]:
        """Device identity: what must be equal before two measurements of this runtime may be compared."""

    def tensorrt_version(self) -> str:
        """Version of the TensorRT that builds its engines, for example ``10.3.0``; empty where it does not tell."""
        return ""

    def precision_of_engine(self, held: str) -> str:
        """Number format of an engine that is built from a graph which holds ``held``, where nobody asks for one."""
        return held

    @property
    def chooses_precision(self) -> bool:
        """Whether its builder chooses the precision of a layer itself, out of those that it is allowed."""
        return False

    @abstractmethod
    def engine_from_onnx(
        self,
        onnx: Path,
        engine: Path,
        *,
        precision: str = "fp32",
        keep_float: Collection[str] = (),
        free: FreeAxes = AS_EXPORTED,
    ) -> None:
        """Compile ``onnx`` into ``engine``; written whole or not at all.

        Args:
            onnx: the graph, in that precision; in FP32, or with Q/DQ pairs, for a builder that chooses precisions.
            engine: the file to write.
            precision: of the engine.
            keep_float: nodes that a builder which chooses precisions keeps in FP32; another does what the graph says.
            free: what TensorRT builds for where the graph leaves axes free; for ONNX Runtime they stay free.
        """

    @abstractmethod
    def session(self, model: Path, *, threads: int = 0) -> AbstractContextManager[Session]:
        """Load an ONNX file or an engine for running."""

    @abstractmethod
    def latency(
        self, models: Sequence[Path], settings: BenchSettings, *, progress: Progress = silent
    ) -> list[Measurement]:
        """Time the models in one fresh process, interleaved; one measurement a model, values in ms, sample i of every
        model taken next to sample i of the others."""

    def energy(
        self, models: Sequence[Path], settings: BenchSettings, *, progress: Progress = silent
    ) -> list[Measurement] | None:
        """Energy of an inference, in mJ, one value a run of some seconds, the models in turns; None where the runtime
        or the device does not tell."""
        return None

    @abstractmethod
    def layer_times(
        self,
        model: Path,
        *,
        threads: int = 1,
        runs: int = 30,
        free: FreeAxes = AS_EXPORTED,
        cpus: tuple[int, ...] = (),
    ) -> list[LayerTime]:
        """Per-layer times by the runtime's own profiler, on these CPUs where it computes on one; an engine has its own
        shape, whatever ``free`` says. Empty where the profiler sees only the host's part of them
        (:data:`NO_LAYER_TIMES`)."""

    def layer_info(self, model: Path) -> Sequence[Layer] | None:
        """What the layers of an engine are and in which number format they work; None where the runtime cannot tell."""
        return None

    def end_to_end(
        self, model: Path, settings: BenchSettings, *, image: Path | None = None, runs: int = 50
    ) -> EndToEndTimes | None:
        """From a frame in memory to boxes, at the size and on the CPUs of ``settings``; None where the runtime cannot
        tell."""
        return None

    def peak_memory(self, model: Path, *, threads: int = 1, free: FreeAxes = AS_EXPORTED) -> PeakMemory | None:
        """Peak memory of a fresh process with this model alone; None where the runtime cannot tell."""
        return None
