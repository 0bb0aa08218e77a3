"""The process that builds and times TensorRT engines: a JSON job on stdin, JSON lines on stdout, nothing else in it.

``python -m edgeprune.runtimes.tensorrt_worker``; the protocol, the interleaving and the warm-up are those of
:mod:`edgeprune.runtimes.bench_worker`, the clock is the GPU's (CUDA events around one inference at a time).

Job: ``{"task": "build" | "latency" | "profile" | "memory", …}``; ``build`` takes ``onnx, engine, timing_cache, shapes,
dla_core`` and writes the engine and the cache; the others take ``models``, and ``options`` with ``shapes`` and
``dla_core`` by model; ``latency`` also ``copies, cuda_graph, seed, warmup_s, rounds, per_round, time_limit_s``.
"""

# pyright: reportAttributeAccessIssue=error, reportMissingImports=error
# elsewhere these are warnings, because of torch; here a name that TensorRT does not have must fail `make check`
from __future__ import annotations

import platform
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from edgeprune.artifact import write_atomically
from edgeprune.runtimes.bench_worker import Timed, interleaved, resident, serve
from edgeprune.runtimes.cuda_ import Cuda
from edgeprune.runtimes.tensorrt_engine import LoadedEngine, build, trt


class TimedEngine(Timed):
    """One engine under the GPU's clock."""

    def __init__(self, path: str, job: dict[str, Any], cuda: Cuda) -> None:
        before, free = resident("VmRSS"), cuda.free_bytes()
        started = perf_counter()
        self.engine = LoadedEngine(Path(path).read_bytes(), cuda, **job.get("options", {}).get(path, {}))
        self.load_ms = (perf_counter() - started) * 1e3
        fill(self.engine, job.get("seed", 0))
        self.shapes = {name: list(array.shape) for name, array in self.engine.inputs.items()}
        self.copies = job.get("copies", True)
        self.start, self.end = cuda.event(), cuda.event()
        self.engine.copy_in()
        captured = bool(job.get("cuda_graph")) and self.engine.capture()
        self.run = self.sample
        self.run()
        self.memory_rise = resident("VmHWM") - before
        self.told = {"cuda_graph": captured, "device_rise_bytes": max(free - cuda.free_bytes(), 0)}
        self.reset()

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


def fill(engine: LoadedEngine, seed: int) -> None:
    """Values in [0, 1) for float inputs, 0 to 127 for whole ones; the same for the same seed."""
    generator = np.random.default_rng(seed)
    for array in engine.inputs.values():
        drawn = generator.random(array.shape, dtype=np.float32)
        array[...] = drawn if array.dtype.kind == "f" else drawn * 127


def build_task(job: dict[str, Any]) -> dict[str, Any]:
    """Build and write an engine; gives the inspector's text."""
    cache = Path(job["timing_cache"]) if job.get("timing_cache") else None
    built = build(
        Path(job["onnx"]),
        timing_cache=cache.read_bytes() if cache is not None and cache.is_file() else b"",
        shapes=job.get("shapes"),
        dla_core=job.get("dla_core"),
    )
    write_atomically(job["engine"], built.plan)
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cache, built.timing_cache)
    return {"layers": built.layers, "build_s": built.build_s, "version": str(trt.__version__)}


def latency_task(job: dict[str, Any]) -> dict[str, Any]:
    """Interleaved samples of every engine."""
    cuda = Cuda(spin=True)
    return interleaved(job, [TimedEngine(path, job, cuda) for path in job["models"]], host)


def profile_task(job: dict[str, Any]) -> dict[str, Any]:
    """Mean and median time of every layer over the last ``runs`` inferences."""
    [path] = job["models"]
    cuda = Cuda()
    engine = LoadedEngine(Path(path).read_bytes(), cuda, **job.get("options", {}).get(path, {}))
    fill(engine, job.get("seed", 0))
    engine.copy_in()
    runs = job["runs"]
    times = engine.profile(runs + max(3, runs // 5))
    return {
        "layers": [
            {"name": name, "mean_ms": float(np.mean(ms[-runs:])), "median_ms": float(np.median(ms[-runs:]))}
            for name, ms in times.items()
        ]
    }


def memory_task(job: dict[str, Any]) -> dict[str, Any]:
    """Memory that one engine adds to a process that had only TensorRT and NumPy loaded, in bytes."""
    [path] = job["models"]
    model = TimedEngine(path, {**job, "cuda_graph": False}, Cuda())
    return {
        "peak_rss_bytes": resident("VmHWM"),
        "model_rss_bytes": model.memory_rise,
        "device_bytes": model.told["device_rise_bytes"],
        "activation_bytes": model.engine.device_bytes,
    }


def host() -> dict[str, Any]:
    """What of this process' surroundings explains its timing."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "tensorrt": str(trt.__version__),
        "peak_rss_bytes": resident("VmHWM"),
    }


TASKS = {"build": build_task, "latency": latency_task, "profile": profile_task, "memory": memory_task}

if __name__ == "__main__":
    sys.exit(serve(TASKS, needs="tensorrt and cuda-bindings"))
