"""The process that builds and times TensorRT engines: a JSON job on stdin, JSON lines on stdout, nothing else in it.

``python -m edgeprune.runtimes.tensorrt_worker``; the protocol, the interleaving and the warm-up are those of
:mod:`edgeprune.runtimes.bench_worker`, the clock is the GPU's (CUDA events around one inference at a time).
"""

# pyright: reportAttributeAccessIssue=error, reportMissingImports=error
# elsewhere these are warnings, because of torch; here a name that TensorRT does not have must fail `make check`
from __future__ import annotations

import contextlib
import platform
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from edgeprune.agent.host import WorkerState
from edgeprune.artifact import write_atomically
from edgeprune.errors import DataError
from edgeprune.runtimes.base import FreeAxes
from edgeprune.runtimes.bench_worker import JobError, Timer, filled, resident_bytes, serve, take_turns
from edgeprune.runtimes.cuda_ import Cuda
from edgeprune.runtimes.engine_file import bare_engine, require_shape
from edgeprune.runtimes.jobs import (
    EngineBuild,
    EngineBuildJob,
    EngineJob,
    EngineLatencyJob,
    EngineMemoryJob,
    EngineProfileJob,
    LayerTime,
    LayerTimes,
    PeakMemory,
    TimedModels,
)
from edgeprune.runtimes.tensorrt_engine import LoadedEngine, build, trt


class EngineTimer(Timer):
    """One engine under the GPU's clock.

    Args:
        path: of the engine.
        cuda: the stream.
        copies: copies between host and device are in the time.
        cuda_graph: capture an inference once and replay it, where it can be.
        seed: of the inputs.
        images: file with the array that fills the one input; noise when empty.
        options: of :class:`LoadedEngine`.
    """

    def __init__(
        self,
        path: str,
        cuda: Cuda,
        *,
        copies: bool,
        cuda_graph: bool,
        seed: int = 0,
        images: str = "",
        **options: Any,
    ) -> None:
        super().__init__()
        before, free = resident_bytes("VmRSS"), cuda.free_bytes()
        started = perf_counter()
        self.engine = LoadedEngine(bare_engine(Path(path)), cuda, **options)
        self.load_ms = (perf_counter() - started) * 1e3
        fill_inputs(self.engine, seed, images)
        self.shapes = {name: array.shape for name, array in self.engine.inputs.items()}
        self.copies = copies
        self.start, self.end = cuda.event(), cuda.event()
        self.engine.copy_in()
        captured = cuda_graph and self.engine.capture()
        self.sample()
        self.memory_rise_bytes = resident_bytes("VmHWM") - before
        self.device_rise_bytes = max(free - cuda.free_bytes(), 0)
        self.report = {"cuda_graph": captured, "device_rise_bytes": self.device_rise_bytes}

    def sample(self) -> float:
        """One inference between two marks on the stream, in milliseconds."""
        engine, cuda = self.engine, self.engine.cuda
        cuda.record(self.start)
        if self.copies:
            engine.copy_in()
        engine.enqueue()
        if self.copies:
            engine.copy_out()
        cuda.record(self.end)
        return cuda.elapsed_ms(self.start, self.end)


def fill_inputs(engine: LoadedEngine, seed: int, images: str = "") -> None:
    """The array in the file ``images``, or values in [0, 1) for float inputs, 0 to 127 for whole ones; the same for the
    same seed."""
    generator = np.random.default_rng(seed)
    for array in engine.inputs.values():
        if images:
            array[...] = filled(images, array)
            continue
        drawn = generator.random(array.shape, dtype=np.float32)
        array[...] = drawn if array.dtype.kind == "f" else drawn * 127


def options_of(job: EngineJob, index: int) -> dict[str, Any]:
    """What loading an engine of the job takes."""
    return {"shapes": job.shapes[index], "dla_core": job.dla_cores[index]}


def build_engine(job: EngineBuildJob) -> EngineBuild:
    """Build and write an engine; gives the inspector's text."""
    cache, known = Path(job.timing_cache) if job.timing_cache else None, b""
    # it only makes the next build faster: a home that cannot be read or written is no reason to fail this one
    with contextlib.suppress(OSError):
        known = cache.read_bytes() if cache is not None else b""
    built = build(Path(job.onnx), timing_cache=known, shapes=job.shapes)
    try:
        write_atomically(job.engine, built.plan)
    except OSError as error:
        raise JobError("data", f"{job.engine}: cannot be written: {error.strerror}") from error
    with contextlib.suppress(OSError):
        if cache is not None:
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(cache, built.timing_cache)
    return EngineBuild(built.layers, built.build_s, str(trt.__version__))


def time_engines(job: EngineLatencyJob) -> TimedModels:
    """Interleaved samples of every engine."""
    cuda = Cuda(spin=True)
    timing = {"copies": job.copies, "cuda_graph": job.cuda_graph, "seed": job.seed}
    images = job.images or ("",) * len(job.models)
    timers = [
        EngineTimer(path, cuda, images=images[index], **timing, **options_of(job, index))
        for index, path in enumerate(job.models)
    ]
    for path, timer in zip(job.models, timers, strict=True):  # of an engine without facts only the engine itself tells
        try:
            require_shape(Path(path), timer.shapes.values(), FreeAxes(job.batch, job.imgsz))
        except DataError as error:
            raise JobError("data", str(error)) from error
    return take_turns(job, timers, worker_state)


def time_layers(job: EngineProfileJob) -> LayerTimes:
    """Mean and median time of every layer over the last ``runs`` inferences."""
    [path] = job.models
    engine = LoadedEngine(bare_engine(Path(path)), Cuda(), **options_of(job, 0))
    fill_inputs(engine, seed=0)
    engine.copy_in()
    times = engine.profile(job.runs + max(3, job.runs // 5))
    return LayerTimes(
        tuple(
            LayerTime(name, "", float(np.mean(ms[-job.runs :])), float(np.median(ms[-job.runs :])), job.runs)
            for name, ms in times.items()
        )
    )


def measure_memory(job: EngineMemoryJob) -> PeakMemory:
    """Memory that one engine adds to a process that had only TensorRT and NumPy loaded, in bytes."""
    [path] = job.models
    model = EngineTimer(path, Cuda(), copies=True, cuda_graph=False, **options_of(job, 0))
    return PeakMemory(
        peak_rss_bytes=resident_bytes("VmHWM"),
        model_rss_bytes=model.memory_rise_bytes,
        device_bytes=model.device_rise_bytes,
        activation_bytes=model.engine.device_bytes,
    )


def worker_state() -> WorkerState:
    """This process, as far as it explains a timing."""
    return WorkerState(
        python=platform.python_version(),
        numpy=np.__version__,
        tensorrt=str(trt.__version__),
        peak_rss_bytes=resident_bytes("VmHWM"),
    )


TASKS = {
    EngineBuildJob: build_engine,
    EngineLatencyJob: time_engines,
    EngineProfileJob: time_layers,
    EngineMemoryJob: measure_memory,
}

if __name__ == "__main__":
    sys.exit(serve(TASKS, needs="tensorrt and cuda-bindings"))
