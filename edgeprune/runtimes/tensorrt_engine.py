"""TensorRT's Python API, 10.3 to 11: build an engine, load it, run it. The only file that calls it, but for the build
itself (:mod:`edgeprune.runtimes.tensorrt_build`).

Everything here exists in every one of these versions: precision is the graph's (a strongly typed network, the only kind
that 11 has), tensors go by name, and nothing that 11 removed is used. Tests check the calls against the type stubs
of the API of 10.13 and the list of names that 11 removed.
"""

# pyright: reportAttributeAccessIssue=error, reportMissingImports=error
# elsewhere these are warnings, because of torch; here a name that TensorRT does not have must fail `make check`
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import tensorrt as trt

from edgeprune.runtimes.bench_worker import JobError
from edgeprune.runtimes.cuda_ import Cuda, CudaError
from edgeprune.runtimes.tensorrt_build import Refused, Said, plan_of, register_plugins


class Log(Said, trt.ILogger):
    """What TensorRT says, kept."""


@dataclass(frozen=True)
class Built:
    """A plan, what the inspector says of it, the timing cache as it is now, and the seconds it took."""

    plan: bytes
    layers: str
    timing_cache: bytes
    build_s: float


def build(
    onnx: Path,
    *,
    timing_cache: bytes = b"",
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Built:
    """Build an engine from a graph whose precision is its own.

    Args:
        onnx: the graph.
        timing_cache: from an earlier build under the same device identity.
        shapes: input name to shape, for a graph with free axes.

    Raises:
        JobError: TensorRT refuses the graph or cannot build it; ``kind`` is ``data``.
    """
    started = perf_counter()
    log = Log()
    try:
        made = plan_of(trt, log, str(onnx), shapes=shapes or {}, timing_cache=timing_cache)
    except Refused as refused:
        why = log.meaning([error.text for error in refused.errors])
        raise JobError(
            "data", f"{onnx}: {why}" if refused.by_parser else f"{onnx}: TensorRT cannot build an engine: {why}"
        ) from refused
    layers = inspected(loaded(made.data, log), None)
    return Built(made.data, layers, made.timing_cache, perf_counter() - started)


def loaded(plan: bytes, log: Log, dla_core: int | None = None) -> trt.ICudaEngine:
    """Deserialise a plan.

    Raises:
        JobError: it is no plan, or one of another TensorRT or GPU; ``kind`` is ``device``.
    """
    register_plugins(trt, log)
    runtime = trt.Runtime(log)
    if dla_core is not None:
        runtime.DLA_core = dla_core
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise JobError("device", f"the engine cannot be loaded: {log.meaning()}")
    return engine


def inspected(engine: trt.ICudaEngine, context: trt.IExecutionContext | None) -> str:
    """The inspector's JSON of a whole engine."""
    inspector = engine.create_engine_inspector()
    if context is not None:
        inspector.execution_context = context
    return inspector.get_engine_information(trt.LayerInformationFormat.JSON)


class Profiler(trt.IProfiler):
    """Collects the time of every layer, in milliseconds, run by run."""

    def __init__(self) -> None:
        trt.IProfiler.__init__(self)
        self.ms: dict[str, list[float]] = {}

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        """Called by TensorRT for every layer of a run, in order of execution."""
        self.ms.setdefault(layer_name, []).append(ms)


class LoadedEngine:
    """An engine on the GPU with memory for its tensors, ready to run in the stream of ``cuda``.

    Args:
        plan: the file's bytes.
        cuda: the stream.
        shapes: input name to shape, where the engine leaves axes free.
        dla_core: the DLA core that it was built for.

    Raises:
        JobError: it cannot be loaded, a tensor's type or size is not known beforehand, or the GPU has no room.
    """

    def __init__(
        self,
        plan: bytes,
        cuda: Cuda,
        *,
        shapes: Mapping[str, Sequence[int]] | None = None,
        dla_core: int | None = None,
    ) -> None:
        self.cuda = cuda
        self.log = Log()
        self.engine = loaded(plan, self.log, dla_core)
        self.context = self.engine.create_execution_context()
        if self.context is None:
            raise JobError("device", f"the engine cannot be prepared: {self.log.meaning()}")
        self.inputs: dict[str, np.ndarray] = {}
        self.outputs: dict[str, np.ndarray] = {}
        self._device: dict[str, int] = {}
        self._graph: Any = None
        names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        takes = [name for name in names if self.engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        for name in takes:
            if shapes and name in shapes:
                self.context.set_input_shape(name, tuple(shapes[name]))
        for name in names:
            array = self._pinned(name)
            (self.inputs if name in takes else self.outputs)[name] = array

    def _pinned(self, name: str) -> np.ndarray:
        shape = tuple(int(size) for size in self.context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            raise JobError("data", f"tensor {name} has no fixed size {shape}; export the model with a static shape")
        try:
            dtype = np.dtype(trt.nptype(self.engine.get_tensor_dtype(name)))
        except TypeError as error:
            raise JobError("data", f"tensor {name} has a type that NumPy has not: {error}") from error
        try:
            array = self.cuda.pinned(shape, dtype)
            self._device[name] = self.cuda.buffer(array.nbytes)
        except CudaError as error:
            raise JobError("device", f"no room for tensor {name}: {error}") from error
        if not self.context.set_tensor_address(name, self._device[name]):
            raise JobError("device", f"tensor {name} cannot be placed: {self.log.meaning()}")
        return array

    def copy_in(self) -> None:
        """Enqueue the copies of all inputs."""
        for name, array in self.inputs.items():
            self.cuda.to_device(self._device[name], array)

    def copy_out(self) -> None:
        """Enqueue the copies of all outputs."""
        for name, array in self.outputs.items():
            self.cuda.to_host(array, self._device[name])

    def enqueue(self) -> None:
        """Enqueue one inference, from the graph where one was captured.

        Raises:
            JobError: TensorRT refuses to run it.
        """
        if self._graph is not None:
            self.cuda.launch(self._graph)
        elif not self.context.execute_async_v3(self.cuda.stream):
            raise JobError("device", f"the engine does not run: {self.log.meaning()}")

    def capture(self) -> bool:
        """Write one inference into a CUDA graph; False when it holds something that cannot be captured."""
        self.enqueue()  # the first run sets up what must not be captured
        self.cuda.synchronize()
        self.cuda.begin_capture()
        try:
            self.enqueue()
            self._graph = self.cuda.end_capture()
        except (CudaError, JobError):
            self.cuda.drop_capture()
            return False
        return True

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name; copies of them, so that the next run leaves them alone.

        Raises:
            JobError: a name or a shape that the engine does not have.
        """
        for name, values in inputs.items():
            if name not in self.inputs:
                raise JobError("data", f"the engine has no input {name}, only {', '.join(self.inputs)}")
            if values.shape != self.inputs[name].shape:
                raise JobError(
                    "data", f"input {name} has shape {values.shape}, the engine takes {self.inputs[name].shape}"
                )
            self.inputs[name][...] = values
        self.copy_in()
        self.enqueue()
        self.copy_out()
        self.cuda.synchronize()
        return {name: array.copy() for name, array in self.outputs.items()}

    def close(self) -> None:
        """Let go of what it holds on the GPU, before its ``cuda`` is closed; it runs no more."""
        self.inputs, self.outputs, self._device = {}, {}, {}
        self._graph = None
        del self.context, self.engine

    def profile(self, runs: int) -> dict[str, list[float]]:
        """Time of every layer of ``runs`` inferences, in order of execution."""
        profiler = Profiler()
        self.context.profiler = profiler
        self.context.enqueue_emits_profile = False
        for _ in range(runs):
            self.enqueue()
            self.cuda.synchronize()
            self.context.report_to_profiler()
        return profiler.ms

    @property
    def device_bytes(self) -> int:
        """Memory that the engine needs for its activations."""
        return int(self.engine.device_memory_size_v2)
