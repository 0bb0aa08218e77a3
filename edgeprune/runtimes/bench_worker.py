"""The process that times ONNX models: a JSON job on stdin, JSON lines on stdout, nothing else running in it.

``python -m edgeprune.runtimes.bench_worker`` is started afresh for every measurement, so that neither torch nor the
caller's threads and memory are in the samples. It needs Python 3.8, NumPy and ONNX Runtime, and of edgeprune only the
jobs (:mod:`edgeprune.runtimes.jobs`) and the program for devices (:mod:`edgeprune.agent`), which travel with it.

In: one of the job classes, ``{"job": "LatencyJob", "models": [path], ...}``. Out: ``{"progress": {...}}`` while it
works, then one of ``{"result": {...}}`` (the answer's class) and ``{"error": {"kind": "data" | "device", "message":
text}}``. Anything else (a non-zero exit) is a crash.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import hashlib
import importlib
import json
import math
import os
import platform
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

from edgeprune.agent.cpus import CpuWatch
from edgeprune.agent.host import WorkerState
from edgeprune.agent.system import allowed_cpus, text_of
from edgeprune.runtimes.free_axes import NotFilled, filled_axes
from edgeprune.runtimes.jobs import (
    LatencyJob,
    LayerTime,
    LayerTimes,
    MemoryJob,
    OrtJob,
    PeakMemory,
    ProfileJob,
    Sampling,
    TimedModel,
    TimedModels,
    WorkerProgress,
)

# ONNX Runtime reads this when it is imported: without it, its reports on use become a database below the user's home.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
WARM_TOLERANCE = 0.02  # warm-up ends when two windows' medians agree this well
WARMUP_SHARE = 1 / 3  # of a time limit, at most: the rest is for samples
MAX_WARMUP_FACTOR = 5  # times warmup_s; a machine that never settles is the stability test's business
WARMUP_WINDOW_S = 0.15
WARMUP_WINDOW_RUNS = 5
SLOW_WINDOW_S = 1.0  # a window that takes so long ends with fewer runs
SETTLED_S = 0.3  # an inference that takes longer does not notice what another model left in the caches
REPORT_INTERVAL_S = 0.2
MEMORY_RUNS = 3
NUMPY_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


# a provider that is a package of its own, with the module that says where its library lies
PLUGIN_MODULES = {"NvTensorRTRTXExecutionProvider": "onnxruntime_ep_nv_tensorrt_rtx"}
GRAPH_OPTIONS = {"CUDAExecutionProvider": "enable_cuda_graph", "TensorrtExecutionProvider": "trt_cuda_graph_enable"}
"""Option by which a provider captures the first run as a CUDA graph and replays it; it refuses what it cannot."""
CUDA_GRAPH_ON = {"TensorrtExecutionProvider": "True"}  # its options take no 1 from Python (onnxruntime #14091)
ENGINE_CACHE, TIMING_CACHE = "trt_engine_cache_path", "trt_timing_cache_path"
CACHES_ON = {ENGINE_CACHE: "trt_engine_cache_enable", TIMING_CACHE: "trt_timing_cache_enable"}
TIMING_CACHE_SINCE = (1, 18)  # an ONNX Runtime that does not know an option loads nothing
KEPT_ENGINES = 24  # of a device identity; a search compiles some ten that nobody asks for again
ARITHMETIC_OPS = {
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"),
    *("FusedConv", "NhwcConv", "NhwcFusedConv", "FusedGemm", "FusedMatMul", "QGemm", "MatMulIntegerToFloat"),
}
NODE_TIME = "_kernel_time"  # ends the name of a profile's event that is about a node
MOST_UNNAMED = 0.1  # of the kernels' time; with more of it without a node, what the nodes take is not known


class JobError(Exception):
    """A job that cannot be done, for a reason that the caller's user can act on."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def open_session(
    path: str | Path,
    provider: str = "CPUExecutionProvider",
    threads: int = 1,
    provider_options: Mapping[str, str] | None = None,
    profile_prefix: str = "",
) -> Any:
    """Load an ONNX file or an optimised engine with exactly this provider; ``threads=0`` leaves the number to ORT.

    ONNX Runtime falls back to the CPU with no more than a warning when a provider does not load; here it is an error.
    """
    import onnxruntime as ort

    prepare_provider(provider)
    given = with_caches(path, provider_options or {})
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # the threads of a session that is not running must not spin on the core of the one being timed
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile_prefix:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    if provider != "CPUExecutionProvider":
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    providers: list[Any] | None = [(provider, given)]
    if provider == "TensorrtExecutionProvider":
        providers = [*providers, ("CUDAExecutionProvider", {})]
    if provider in PLUGIN_MODULES:
        texts = {key: str(value) for key, value in given.items()}
        options.add_provider_for_devices(plugin_devices(provider)[:1], texts)
        providers = None  # the options name the device
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime's own exceptions have no common public base
        if not Path(path).is_file():
            raise JobError("data", f"{path}: no such file") from error
        if forget_engine(given):  # a process that was killed as it wrote left a part of it, which no session loads
            rest = {key: value for key, value in (provider_options or {}).items() if key != ENGINE_CACHE}
            return open_session(path, provider, threads, rest, profile_prefix)
        refuse_capture(path, provider, given, error)
        raise JobError("data", f"{path}: ONNX Runtime cannot load it: {load_failure(error)}") from error
    require_loaded(session, provider)
    refuse_fallback(provider, nodes_by_provider(session) if provider != "CPUExecutionProvider" else {})
    return session


def with_caches(path: str | Path, options: Mapping[str, str]) -> dict[str, str]:
    """Options of a provider with the folders for what it compiles made ready, and a folder of this model's own in that
    for engines.

    ONNX Runtime's TensorRT provider knows an engine again by the name of the model's file and the names in its graph,
    not by its weights: a pruned model has all of them in common with the unpruned one, and would be given its engine. A
    place that cannot be written costs a compilation, not the measurement.
    """
    import onnxruntime as ort

    given = dict(options)
    if TIMING_CACHE in given and version_of(ort.__version__) < TIMING_CACHE_SINCE:
        del given[TIMING_CACHE]
    with contextlib.suppress(OSError):  # a model that cannot be read is said when it is loaded
        if ENGINE_CACHE in given:
            base = Path(given[ENGINE_CACHE])
            given[ENGINE_CACHE] = str(base / hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16])
    for key in [key for key in CACHES_ON if key in given]:
        try:
            Path(given[key]).mkdir(parents=True, exist_ok=True)  # the provider makes one level only
            os.utime(given[key])
        except OSError:
            del given[key]
    if ENGINE_CACHE in given:
        forget_oldest(Path(given[ENGINE_CACHE]).parent, KEPT_ENGINES)
    return {**given, **{CACHES_ON[key]: "True" for key in given if key in CACHES_ON}}


def version_of(text: str) -> tuple[int, ...]:
    """First two numbers of a version."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def forget_oldest(base: Path, kept: int) -> None:
    """Remove the folders below ``base`` that nobody used for longest, all but ``kept``."""
    with contextlib.suppress(OSError):  # another process forgets them too
        folders = sorted(base.iterdir(), key=lambda one: one.stat().st_mtime)
        for folder in folders[: max(len(folders) - kept, 0)]:
            shutil.rmtree(str(folder), ignore_errors=True)


def forget_engine(options: Mapping[str, str]) -> bool:
    """Remove what was kept compiled of a model; False where nothing was."""
    if ENGINE_CACHE not in options or not any(Path(options[ENGINE_CACHE]).glob("*")):
        return False
    shutil.rmtree(options[ENGINE_CACHE], ignore_errors=True)
    return True


def write_optimized(model: str | Path, engine: str | Path, provider: str) -> None:
    """Write a graph as ONNX Runtime optimizes it for this machine and exactly this provider."""
    import onnxruntime as ort

    prepare_provider(provider)
    options = ort.SessionOptions()
    options.log_severity_level = 3  # "hardware specific optimizations": that is wanted, and in the engine's identity
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(engine)
    try:
        session = ort.InferenceSession(str(model), options, providers=[provider])
    except Exception as error:  # ONNX Runtime's exceptions have no common public base
        raise JobError("data", f"ONNX Runtime cannot compile it: {load_failure(error)}") from error
    require_loaded(session, provider)  # else it is the graph of another one


def prepare_provider(provider: str) -> None:
    """What has to be done before a session is made for a provider; ``JobError`` where it cannot be had."""
    import onnxruntime as ort

    if provider not in PLUGIN_MODULES and provider not in ort.get_available_providers():
        raise JobError(
            "device", f"this ONNX Runtime has no {provider}, only {', '.join(ort.get_available_providers())}"
        )
    if provider != "CPUExecutionProvider" and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # CUDA and cuDNN from pip packages are not on the loader's path


def require_loaded(session: Any, provider: str) -> None:
    """Raise ``JobError`` where ONNX Runtime fell back to another provider, of which it only warns."""
    if session.get_providers()[0] != provider:
        raise JobError(
            "device",
            f"{provider} did not load, ONNX Runtime fell back to {session.get_providers()[0]}: libraries are missing",
        )


def refuse_capture(path: str | Path, provider: str, options: Mapping[str, str], error: Exception) -> None:
    """Raise ``JobError`` where an error is about a CUDA graph that was asked for."""
    if GRAPH_OPTIONS.get(provider) in options and re.search(r"cuda.?graph|graph.?capture|captur", str(error), re.I):
        raise JobError(
            "device",
            f"{provider} cannot capture {path} as a CUDA graph: {first_line(error)}; set measure.cuda_graph: false",
        ) from error


def captures(session: Any) -> bool:
    """Whether a session replays its runs from a CUDA graph: its provider took the option, without which it had loaded
    nothing."""
    provider = session.get_providers()[0]
    taken = session.get_provider_options().get(provider, {}).get(GRAPH_OPTIONS.get(provider, ""), "0")
    return taken.lower() in ("1", "true")


def plugin_devices(provider: str) -> list[Any]:
    """The devices of a provider that comes as a plugin package; registers it once a process."""
    import onnxruntime as ort

    if not hasattr(ort, "register_execution_provider_library"):
        raise JobError("device", f"onnxruntime {ort.__version__} takes no plugins; 1.24 or newer does")
    plugin = importlib.import_module(PLUGIN_MODULES[provider])

    def registered():
        return [device for device in ort.get_ep_devices() if device.ep_name == provider]

    if not registered():
        try:
            ort.register_execution_provider_library(plugin.get_ep_name(), plugin.get_library_path())
        except Exception as error:  # ONNX Runtime's own exceptions have no common public base
            raise JobError("device", f"{provider} does not load: {first_line(error)}") from error
    if not registered():
        raise JobError("device", f"{provider} finds no GPU that it can use")
    return registered()


def nodes_by_provider(session: Any) -> dict[str, list[str]]:
    """Provider to the types of the nodes that it was given; empty where ONNX Runtime cannot tell (before 1.24)."""
    if not tells_providers():
        return {}
    nodes = {}
    for part in session.get_provider_graph_assignment_info():
        nodes.setdefault(part.ep_name, []).extend(node.op_type for node in part.get_nodes())
    return nodes


def tells_providers() -> bool:
    """Whether this ONNX Runtime says of a loaded session which provider has which node; 1.24 and newer do."""
    import onnxruntime as ort

    return hasattr(ort.InferenceSession, "get_provider_graph_assignment_info")


def nodes_that_ran(session: Any) -> dict[str, list[str]]:
    """The same from the profile of a session that has run once; its profiling ends here."""
    nodes: dict[str, list[str]] = {}
    for node in node_times(json.loads(Path(session.end_profiling()).read_text()), 1):
        nodes.setdefault(node.provider, []).append(node.op)
    return nodes


def refuse_fallback(provider: str, nodes: Mapping[str, Sequence[str]]) -> None:
    """A provider that loads may still leave the work to another one without a word; shapes may go there, arithmetic
    not: what was measured would be the other's, under this one's name."""
    for other, ops in nodes.items():
        left = [op for op in ops if op in ARITHMETIC_OPS]
        if left and other != provider:
            where = (
                "the CPU" if other == "CPUExecutionProvider" else f"{other}, which the runtime onnxruntime-cuda times"
            )
            raise JobError("device", f"{provider} left {len(left)} of the model's {left[0]} and the like to {where}")
    if nodes and not nodes.get(provider):
        raise JobError("device", f"{provider} took no node of the model, {' and '.join(sorted(nodes))} took all")


def first_line(error: Exception) -> str:
    """The part of an error that fits on one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def load_failure(error: Exception) -> str:
    """Why ONNX Runtime cannot load a file, in one line; an operator of TensorRT is called that."""
    plugin = re.search(r"\w+_TRT\b|\bTRT:\w+", str(error))
    if plugin is None:
        return first_line(error)
    return f"it holds {plugin[0]}, a plugin that runs on TensorRT only; export it with --head nms or --head raw"


def input_shapes(session: Any, batch: int = 0, imgsz: Sequence[int] | None = None) -> dict[str, tuple[int, ...]]:
    """Shapes of every input, ``{name: [n, ...]}``; free axes are filled from ``batch`` and ``imgsz`` (h, w).

    A size that is not given comes from the model's own metadata (Ultralytics writes ``imgsz``), a batch is 1: models
    that are compared must not differ in it. An axis that the model fixes must agree with what was asked.
    """
    metadata = session.get_modelmeta().custom_metadata_map
    sides = None
    if not imgsz and "imgsz" in metadata:
        with contextlib.suppress(ValueError, SyntaxError, TypeError):
            sides = [int(side) for side in ast.literal_eval(metadata["imgsz"])]
    shapes = {}
    for value in session.get_inputs():
        sizes = [size if isinstance(size, int) else 0 for size in value.shape]
        try:
            shapes[value.name] = filled_axes(value.name, sizes, batch, imgsz, sides)
        except NotFilled as error:
            raise JobError("data", str(error)) from error
        if imgsz and len(sizes) == 4 and min(sizes[2:]) <= 0:
            refuse_size(metadata, imgsz)
    return shapes


def refuse_size(metadata: Mapping[str, str], imgsz: Sequence[int]) -> None:
    """Raise ``JobError`` for a size that the model does not take, by what its file says of its stride: the rule of
    :func:`edgeprune.input_size.taken_size`, which a board's Python does not read."""
    stride, any_side = 0, metadata.get("task") == "classify"
    with contextlib.suppress(ValueError):
        stride = int(metadata.get("stride", "0"))
    if stride > 0 and any(side < stride or (side % stride and not any_side) for side in imgsz):
        near = [max(stride, round(side / stride) * stride) for side in imgsz]
        seen, use = (",".join(map(str, sides if sides[0] != sides[-1] else sides[:1])) for sides in (imgsz, near))
        raise JobError("data", f"imgsz {seen} is no multiple of the model's stride {stride}; use {use}")


def random_inputs(session: Any, shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, np.ndarray]:
    """Values in [0, 1) for float inputs, 0 to 255 for whole ones; the same for the same seed."""
    generator = np.random.default_rng(seed)
    inputs = {}
    for value in session.get_inputs():
        if value.type not in NUMPY_TYPES:
            raise JobError("data", f"input {value.name} has type {value.type}, which is not timed here")
        kind = np.dtype(NUMPY_TYPES[value.type])
        drawn = generator.random(shapes[value.name], dtype=np.float32)
        inputs[value.name] = (drawn if kind.kind == "f" else drawn * min(np.iinfo(kind).max, 255)).astype(kind)
    return inputs


def filled(path: str, like: np.ndarray) -> np.ndarray:
    """The array in a file, of the type of another one, whose shape it must have."""
    values = np.load(path, allow_pickle=False)
    if values.shape != like.shape:
        raise JobError("data", f"images {list(values.shape)} do not fill an input of {list(like.shape)}")
    return values.astype(like.dtype)


class BoundModel:
    """A session whose inputs and outputs lie on its device, in the same buffers in every run: what a CUDA graph, which
    replays the addresses that it was captured with, needs.

    Args:
        session: loaded.
        inputs: what the inputs hold.

    Raises:
        JobError: a CUDA graph is captured, and an output has no fixed shape.
    """

    def __init__(self, session: Any, inputs: Mapping[str, np.ndarray]) -> None:
        import onnxruntime as ort

        device = "cpu" if session.get_providers()[0] == "CPUExecutionProvider" else "cuda"
        self._session, self._binding = session, session.io_binding()
        self._inputs = {name: ort.OrtValue.ortvalue_from_numpy(values, device, 0) for name, values in inputs.items()}
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for output in session.get_outputs():
            if output.type in NUMPY_TYPES and all(isinstance(size, int) for size in output.shape):
                value = ort.OrtValue.ortvalue_from_shape_and_type(output.shape, NUMPY_TYPES[output.type], device, 0)
                self._binding.bind_ortvalue_output(output.name, value)
            elif captures(session):
                raise JobError(
                    "data",
                    f"a CUDA graph needs outputs of a fixed shape, {output.name} is {list(output.shape)}; export with "
                    "fixed sizes (export.dynamic: false), or set measure.cuda_graph: false",
                )
            else:  # allocated there by every run
                self._binding.bind_output(output.name, device)

    def compute(self) -> None:
        """Run on what lies in the inputs; returns when the outputs lie on the device."""
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Outputs in their order for inputs by name: each is copied once, in before the run or out after it."""
        for name, values in inputs.items():
            self._inputs[name].update_inplace(values)
        self.compute()
        return self._binding.copy_outputs_to_cpu()


def from_host(session: Any, inputs: Mapping[str, np.ndarray]) -> Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]:
    """A function that gives a session's outputs in their order for inputs by name, both in host memory.

    On a GPU through buffers there that stay. On a CPU nothing has to be copied, and a plugin keeps its buffers itself:
    there it is ONNX Runtime's own run.

    Args:
        session: loaded.
        inputs: some, of the shapes and types of all that follow.
    """
    if session.get_providers()[0] in ("CPUExecutionProvider", *PLUGIN_MODULES):
        run, names = session.run, [output.name for output in session.get_outputs()]
        return lambda given: run(names, given)
    return BoundModel(session, inputs)


def runner(session: Any, inputs: Mapping[str, np.ndarray], copies: bool) -> Callable[[], Any]:
    """A function without arguments that runs the model once and returns when the outputs are there.

    What it takes is the time of a sample. With ``copies`` inputs start and outputs end in host memory: one copy of each
    input to the device, launching (or replaying, of a CUDA graph) and computing, one copy of each output from it.
    Without, both stay on the device: launching and computing alone.
    """
    if copies:
        run = from_host(session, inputs)
        return lambda: run(inputs)
    if session.get_providers()[0] in PLUGIN_MODULES:
        raise JobError("device", "a plugin provider is timed with copies only; set measure.copies: true")
    return BoundModel(session, inputs).compute


class Timer:
    """One model under the clock; times in milliseconds. What is timed is :meth:`run`."""

    run: Callable[[], Any]
    shapes: Mapping[str, tuple[int, ...]]
    load_ms: float
    report: dict[str, Any]
    """What a subclass adds to its :class:`TimedModel`."""

    def __init__(self) -> None:
        self.values_ms: list[float] = []
        self.warmups_ms: list[float] = []
        self.cpu_ms: list[float] = []
        self.warm = False

    def begin_block(self) -> None:
        """Called before a block of samples."""

    def sample(self) -> float:
        """One timed run."""
        run = self.run
        started = perf_counter()
        run()
        return (perf_counter() - started) * 1e3

    def keep(self, ms: float) -> None:
        """Keep a sample that counts: neither a warm-up nor one that settles."""
        self.values_ms.append(ms)

    def warm_up(self, least_s: float, least_runs: int = 0, most_s: float = math.inf) -> None:
        """Run ``least_runs`` times and for ``least_s``, on until two windows agree, at most 5 times that, and no longer
        than ``most_s``."""
        started, previous = perf_counter(), None
        self.warmups_ms += [self.sample() for _ in range(least_runs)]
        while True:
            window, opened = [], perf_counter()
            while (lasted := perf_counter() - opened) < WARMUP_WINDOW_S or (
                len(window) < WARMUP_WINDOW_RUNS and lasted < SLOW_WINDOW_S
            ):
                window.append(self.sample())
            self.warmups_ms += window
            level = float(np.median(window))
            self.warm = previous is not None and abs(level / previous - 1) <= WARM_TOLERANCE
            previous = level
            spent = perf_counter() - started
            if (self.warm and spent >= least_s) or spent >= min(MAX_WARMUP_FACTOR * least_s, most_s):
                return

    def take_block(self, count: int, settle: bool) -> None:
        """Take ``count`` samples; ``settle`` runs once untimed, so that no sample pays for another model's cache."""
        self.begin_block()
        if settle:
            self.warmups_ms.append(self.sample())
        for _ in range(count):
            cpu = process_time()
            self.keep(self.sample())
            self.cpu_ms.append((process_time() - cpu) * 1e3)

    def timed_model(self) -> TimedModel:
        """What was measured."""
        return TimedModel(
            values_ms=tuple(self.values_ms),
            warmups_ms=tuple(self.warmups_ms),
            warm=self.warm,
            shapes=self.shapes,
            load_ms=self.load_ms,
            cpu_ms=tuple(self.cpu_ms),
            cpu_share=sum(self.cpu_ms) / max(sum(self.values_ms), 1e-9),
            **self.report,
        )


class SessionTimer(Timer):
    """A model loaded by ONNX Runtime.

    Args:
        path: of the model.
        job: provider and threads.
        batch: fills a free batch axis.
        imgsz: height and width, fill free image axes.
        copies: inputs start and outputs end in host memory.
        seed: of the inputs.
        images: file with the array that fills the one input; noise when empty.
    """

    def __init__(
        self,
        path: str,
        job: OrtJob,
        *,
        images: str = "",
        batch: int = 0,
        imgsz: Sequence[int] | None = None,
        copies: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        before = resident_bytes("VmRSS")
        on_gpu = job.provider != "CPUExecutionProvider"
        folder = tempfile.TemporaryDirectory() if on_gpu and not tells_providers() else None
        profiled = {} if folder is None else {"profile_prefix": str(Path(folder.name) / "profile")}
        started = perf_counter()
        self.session = open_session(path, job.provider, job.threads, job.provider_options, **profiled)
        self.load_ms = (perf_counter() - started) * 1e3
        self.shapes = input_shapes(self.session, batch, imgsz)
        self.images = images
        self.run = self.prepare(copies, seed)
        try:
            self.run()
        except Exception as error:  # ONNX Runtime's own exceptions have no common public base
            refuse_capture(path, job.provider, job.provider_options, error)
            raise
        self.memory_rise_bytes = resident_bytes("VmHWM") - before
        nodes = nodes_by_provider(self.session) if on_gpu else {}
        if folder is not None:
            nodes = nodes_that_ran(self.session)
            folder.cleanup()
            refuse_fallback(job.provider, nodes)
        self.report = {
            "nodes": {name: len(ops) for name, ops in nodes.items()},
            "cuda_graph": captures(self.session),
        }

    def prepare(self, copies: bool, seed: int) -> Callable[[], Any]:
        """What is timed: a function without arguments."""
        inputs = random_inputs(self.session, self.shapes, seed)
        if self.images:
            inputs = {name: filled(self.images, noise) for name, noise in inputs.items()}
        return runner(self.session, inputs, copies)


def time_models(job: LatencyJob) -> TimedModels:
    """Interleaved samples of every model."""
    options = {"batch": job.batch, "imgsz": job.imgsz, "copies": job.copies, "seed": job.seed}
    images = job.images or [""] * len(job.models)
    timers = [SessionTimer(path, job, images=file, **options) for path, file in zip(job.models, images)]  # noqa: B905
    return take_turns(job, timers, worker_state)


def take_turns(job: Sampling, models: Sequence[Timer], state: Callable[[], WorkerState]) -> TimedModels:
    """``rounds`` times ``per_round`` samples of each loaded model, in an order that rotates.

    The time limit counts from here: a provider that compiles when it loads would have used it up.

    Args:
        job: how to sample.
        models: loaded.
        state: asked at the end, of this process.
    """
    started = perf_counter()
    most_s = WARMUP_SHARE * job.time_limit_s / len(models) if job.time_limit_s else math.inf
    for model in models:
        report(WorkerProgress("warm-up", 0, job.rounds))
        model.warm_up(job.warmup_s, job.warmup_runs, most_s)
    runs_s = [model.warmups_ms[-1] / 1e3 for model in models]
    settle = len(models) > 1 and max(runs_s) < SETTLED_S
    left_s = job.time_limit_s - (perf_counter() - started) if job.time_limit_s else math.inf
    per_round = samples_per_round(job.per_round, job.least_rounds, left_s, sum(runs_s), settle)
    gc.collect()
    gc.disable()
    cpus, reported = CpuWatch(), perf_counter()
    for number in range(job.rounds):
        for place in range(len(models)):
            models[(place + number) % len(models)].take_block(per_round, settle=settle)
        now = perf_counter()
        if now - reported > REPORT_INTERVAL_S or number + 1 == job.rounds:
            reported = now
            last_ms = tuple(tuple(model.values_ms[-per_round:]) for model in models)
            report(WorkerProgress("rounds", number + 1, job.rounds, last_ms))
        if job.time_limit_s and now - started > job.time_limit_s:
            break
    used = cpus.use()
    gc.enable()
    return TimedModels(tuple(model.timed_model() for model in models), per_round, state(), used)


def samples_per_round(wanted: int, least_rounds: int, left_s: float, turn_s: float, settle: bool) -> int:
    """``wanted`` samples of each model in a round, or fewer, so that ``least_rounds`` rounds end in time; at least one.

    A ratio is known from blocks, not from samples: many short rounds say more of slow models than a few long ones.

    Args:
        wanted: samples of each model in a round.
        least_rounds: rounds to leave room for; 0 for none in particular.
        left_s: seconds until the time limit.
        turn_s: seconds of one inference of every model.
        settle: each block begins with an inference that is not timed.
    """
    if least_rounds == 0 or least_rounds * (wanted + settle) * turn_s <= left_s:
        return wanted
    return max(1, min(wanted, int(left_s / least_rounds / turn_s) - settle))


def measure_memory(job: MemoryJob) -> PeakMemory:
    """Peak memory that one model adds to a process that had only ONNX Runtime and NumPy loaded, in bytes."""
    import onnxruntime  # noqa: F401  its own size is not the model's

    (path,) = job.models
    model = SessionTimer(path, job, batch=job.batch, imgsz=job.imgsz)
    for _ in range(MEMORY_RUNS):
        model.run()
    return PeakMemory(resident_bytes("VmHWM"), model.memory_rise_bytes)


def time_nodes(job: ProfileJob) -> LayerTimes:
    """Mean and median time of every node over the last ``runs`` runs, by ONNX Runtime's own profiler; of a GPU none
    where that does not see it."""
    (path,) = job.models
    with tempfile.TemporaryDirectory() as folder:
        prefix = str(Path(folder) / "profile")
        session = open_session(path, job.provider, job.threads, job.provider_options, prefix)
        inputs = random_inputs(session, input_shapes(session, job.batch, job.imgsz), seed=0)
        for _ in range(job.runs + max(3, job.runs // 5)):
            session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text())
    times = node_times if job.provider == "CPUExecutionProvider" else device_times
    return LayerTimes(tuple(times(events, job.runs)))


def device_times(events: Sequence[Mapping[str, Any]], runs: int) -> list[LayerTime]:
    """Times per node of a GPU: what a node's kernels took there; of a node that the CPU has, its own.

    The node's own event is what the host took to launch it, and the GPU is not waited for. Only an ONNX Runtime built
    with CUPTI tells of kernels: events of the category Kernel behind their node's, whose name is their ``parent_name``
    (``include/onnxruntime/core/common/gpu_profiler_common.h``, which says itself that it misses some). Of another one
    this is empty, and so it is where too many kernels name no node.
    """
    spent_us: dict[str, list[float]] = {}
    named_us = unnamed_us = 0.0
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(NODE_TIME):
            spent_us.setdefault(event["name"][: -len(NODE_TIME)], []).append(0.0)
        elif event.get("cat") == "Kernel":
            parent = event["args"].get("parent_name", "")
            if parent.endswith(NODE_TIME) and (runs_of_node := spent_us.get(parent[: -len(NODE_TIME)])):
                runs_of_node[-1] += event["dur"]
                named_us += event["dur"]
            else:
                unnamed_us += event["dur"]
    if not named_us or unnamed_us > MOST_UNNAMED * (named_us + unnamed_us):
        return []
    layers = []
    for layer in node_times(events, runs):
        ms = [us / 1e3 for us in spent_us[layer.name][-runs:]]
        of_cpu = layer.provider == "CPUExecutionProvider"
        layers.append(layer if of_cpu else replace(layer, mean_ms=float(np.mean(ms)), median_ms=float(np.median(ms))))
    return layers


def node_times(events: Sequence[Mapping[str, Any]], runs: int) -> list[LayerTime]:
    """Times per node on the host from a profile's events, of the last ``runs`` runs, in the order of execution."""
    events_of: dict[str, list[Mapping[str, Any]]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(NODE_TIME):
            events_of.setdefault(event["name"][: -len(NODE_TIME)], []).append(event)
    layers = []
    for name, events_of_node in events_of.items():
        ms = [event["dur"] / 1e3 for event in events_of_node[-runs:]]
        details = events_of_node[-1]["args"]
        layers.append(
            LayerTime(
                name=name,
                op=details.get("op_name", ""),
                mean_ms=float(np.mean(ms)),
                median_ms=float(np.median(ms)),
                runs=len(ms),
                provider=details.get("provider", ""),
                inputs=tensors(details.get("input_type_shape", [])),
                outputs=tensors(details.get("output_type_shape", [])),
                parameter_bytes=int(details.get("parameter_size", 0)),
            )
        )
    return layers


def tensors(listed: Sequence[Mapping[str, Sequence[int]]]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """``[{"float": [1, 3, 320, 320]}]`` as pairs of type and shape."""
    return tuple((kind, tuple(shape)) for entry in listed for kind, shape in entry.items())


def worker_state() -> WorkerState:
    """This process, as far as it explains a timing."""
    import onnxruntime as ort

    return WorkerState(
        python=platform.python_version(),
        numpy=np.__version__,
        onnxruntime=ort.__version__,
        nice=os.getpriority(os.PRIO_PROCESS, 0),
        cpus_allowed=tuple(sorted(allowed_cpus())),
        peak_rss_bytes=resident_bytes("VmHWM"),
    )


def resident_bytes(field: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process in bytes. (getrusage's peak begins with that of the parent.)"""
    for line in text_of("/proc/self/status").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    if field == "VmHWM" and sys.platform == "darwin":  # where getrusage counts bytes, and a child begins from nothing
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        import psutil  # Ultralytics requires it; a board has /proc
    except ImportError:
        return 0
    return psutil.Process().memory_info().rss


def report(progress: WorkerProgress) -> None:
    """Say that work moves; a caller that is gone ends the process here (broken pipe)."""
    write_line(progress=asdict(progress))


def report_missing(error: ImportError, needs: str) -> None:
    """Answer that a package is missing here; ``needs`` names what brings it."""
    write_line(error={"kind": "device", "message": f"{error}; install {needs} for {sys.executable}"})


def write_line(**line: Any) -> None:
    """One JSON line for the caller."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def raise_priority() -> None:
    """Go before other work on this machine, where this user may; what other work costs is not the model's time."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)  # os.nice would count from where the caller stands
    with contextlib.suppress(OSError):  # Linux shares time between sessions first, then within one
        Path("/proc/self/autogroup").write_text("-20")


def pin(cpus: Sequence[int]) -> None:
    """Keep this process on these CPUs; on none in particular when empty. Linux would leave out what is not there."""
    if cpus and not hasattr(os, "sched_setaffinity"):
        raise JobError("data", f"--cpus {','.join(map(str, cpus))}: {platform.system()} pins no process; leave it out")
    allowed = allowed_cpus()
    if not set(cpus) <= allowed:
        asked, there = (",".join(map(str, numbers)) for numbers in (cpus, sorted(allowed)))
        raise JobError("data", f"--cpus {asked}: give numbers out of {there}, the CPUs of {os.uname().nodename}")
    if cpus:
        os.sched_setaffinity(0, cpus)


def serve(tasks: Mapping[type, Callable[[Any], Any]], needs: str = "onnxruntime") -> int:
    """Do the job on stdin by the function of its class; 0 unless it crashed.

    Args:
        tasks: class of a job to the function that gives its answer, a data class.
        needs: packages to name when one is missing.
    """
    fields = json.load(sys.stdin)
    kind = {kind.__name__: kind for kind in tasks}[fields.pop("job")]
    job = kind(**fields)
    if getattr(job, "priority", False):
        raise_priority()
    try:
        pin(getattr(job, "cpus", ()))
        write_line(result=asdict(tasks[kind](job)))
    except JobError as error:
        write_line(error={"kind": error.kind, "message": str(error)})
    except ImportError as error:
        report_missing(error, needs)
    except BrokenPipeError:
        os._exit(1)  # the caller ended; there is nobody to tell
    return 0


if __name__ == "__main__":
    sys.exit(serve({LatencyJob: time_models, MemoryJob: measure_memory, ProfileJob: time_nodes}))
