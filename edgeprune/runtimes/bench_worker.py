"""The process that times ONNX models: a JSON job on stdin, JSON lines on stdout, nothing else running in it.

``python -m edgeprune.runtimes.bench_worker`` is started afresh for every measurement, so that neither torch nor the
caller's threads and memory are in the samples. The file imports only the standard library, NumPy and ONNX Runtime, and
stands alone: it can be copied to a device that has no edgeprune (Python 3.8 or newer).

Job: ``{"task": "latency" | "profile" | "memory", "models": [path], "provider": name, "provider_options": {},
"threads": n, "cpus": [..], "batch": n or 0, "imgsz": [h, w] or null, "copies": bool, "seed": n}`` and, by task,
``warmup_s, rounds, per_round, time_limit_s`` or ``runs``.

Lines out: ``{"progress": {...}}`` while it works, then one of ``{"result": {...}}`` and
``{"error": {"kind": "data" | "device", "message": text}}``. Anything else (a non-zero exit) is a crash.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import importlib
import json
import os
import platform
import resource
import sys
import tempfile
from pathlib import Path
from time import perf_counter, process_time

import numpy as np

STEADY = 0.02  # warm-up ends when two windows' medians agree this well
LONGEST_WARMUP = 5  # times warmup_s; a machine that never settles is the stability test's business
WINDOW_S = 0.15
REPORT_S = 0.2
TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


# a provider that is a package of its own, with the module that says where its library lies
PLUGINS = {"NvTensorRTRTXExecutionProvider": "onnxruntime_ep_nv_tensorrt_rtx"}
HEAVY = {"Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedMatMul", "QLinearConv", "QLinearMatMul"}


class JobError(Exception):
    """A job that cannot be done, for a reason that the caller's user can act on."""

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind


def open_session(path, provider="CPUExecutionProvider", threads=1, provider_options=None, profile_prefix=None):
    """Load an ONNX file or an optimised engine with exactly this provider; ``threads=0`` leaves the number to ORT.

    ONNX Runtime falls back to the CPU with no more than a warning when a provider does not load; here it is an error.
    """
    import onnxruntime as ort

    if provider not in PLUGINS and provider not in ort.get_available_providers():
        raise JobError(
            "device", f"this ONNX Runtime has no {provider}, only {', '.join(ort.get_available_providers())}"
        )
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
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # CUDA and cuDNN from pip packages are not on the loader's path
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    providers = [(provider, provider_options or {})]
    if provider == "TensorrtExecutionProvider":
        providers.append(("CUDAExecutionProvider", {}))
    if provider in PLUGINS:
        texts = {key: str(value) for key, value in (provider_options or {}).items()}
        options.add_provider_for_devices(plugin_devices(provider)[:1], texts)
        providers = None  # the options name the device
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime's own exceptions have no common public base
        if not Path(path).is_file():
            raise JobError("data", f"{path}: no such file") from error
        raise JobError("data", f"{path}: ONNX Runtime cannot load it: {first_line(error)}") from error
    if session.get_providers()[0] != provider:
        raise JobError(
            "device",
            f"{provider} did not load, ONNX Runtime fell back to {session.get_providers()[0]}: libraries are missing",
        )
    refuse_fallback(provider, placements(session) if provider != "CPUExecutionProvider" else {})
    return session


def plugin_devices(provider):
    """The devices of a provider that comes as a plugin package; registers it once a process."""
    import onnxruntime as ort

    if not hasattr(ort, "register_execution_provider_library"):
        raise JobError("device", f"onnxruntime {ort.__version__} takes no plugins; 1.24 or newer does")
    plugin = importlib.import_module(PLUGINS[provider])
    found = [one for one in ort.get_ep_devices() if one.ep_name == provider]
    if not found:
        try:
            ort.register_execution_provider_library(plugin.get_ep_name(), plugin.get_library_path())
        except Exception as error:  # ONNX Runtime's own exceptions have no common public base
            raise JobError("device", f"{provider} does not load: {first_line(error)}") from error
        found = [one for one in ort.get_ep_devices() if one.ep_name == provider]
    if not found:
        raise JobError("device", f"{provider} finds no GPU that it can use")
    return found


def placements(session):
    """Provider to the types of the nodes that it was given; empty where ONNX Runtime cannot tell (before 1.24)."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    placed = {}
    for part in session.get_provider_graph_assignment_info():
        placed.setdefault(part.ep_name, []).extend(node.op_type for node in part.get_nodes())
    return placed


def refuse_fallback(provider, placed):
    """A provider that loads may still leave the work to the CPU without a word; shapes may go there, arithmetic not."""
    left = [op for op in placed.get("CPUExecutionProvider", ()) if op in HEAVY]
    if left:
        raise JobError("device", f"{provider} left {len(left)} of the model's {left[0]} and the like to the CPU")
    if placed and not placed.get(provider):
        raise JobError("device", f"{provider} took no node of the model, {' and '.join(sorted(placed))} took all")


def first_line(error):
    """The part of an error that fits on one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def input_shapes(session, batch=0, imgsz=None):
    """Shapes of every input, ``{name: [n, ...]}``; free axes are filled from ``batch`` and ``imgsz`` (h, w).

    What is not given comes from the model's own metadata (Ultralytics writes ``imgsz``); an axis that the model fixes
    must agree with what was asked.
    """
    metadata = session.get_modelmeta().custom_metadata_map
    asked = list(imgsz) if imgsz else None
    if asked is None and "imgsz" in metadata:
        with contextlib.suppress(ValueError, SyntaxError, TypeError):
            asked = [int(side) for side in ast.literal_eval(metadata["imgsz"])]
    shapes = {}
    for value in session.get_inputs():
        shape = []
        for axis, size in enumerate(value.shape):
            if isinstance(size, int) and size > 0:
                wanted = (
                    batch if axis == 0 else (imgsz[axis - 2] if imgsz and len(value.shape) == 4 and axis >= 2 else 0)
                )
                if wanted and wanted != size:
                    raise JobError(
                        "data",
                        f"input {value.name} has axis {axis} fixed at {size}, asked was {wanted}; export it so",
                    )
                shape.append(size)
            elif axis == 0:
                shape.append(batch or 1)
            elif asked and len(value.shape) == 4 and axis >= 2:
                shape.append(asked[axis - 2])
            else:
                raise JobError("data", f"input {value.name} leaves axis {axis} ({size}) free; give --imgsz")
        shapes[value.name] = shape
    return shapes


def random_inputs(session, shapes, seed):
    """Values in [0, 1) for float inputs, 0 to 255 for whole ones; the same for the same seed."""
    generator = np.random.default_rng(seed)
    inputs = {}
    for value in session.get_inputs():
        if value.type not in TYPES:
            raise JobError("data", f"input {value.name} has type {value.type}, which is not timed here")
        kind = np.dtype(TYPES[value.type])
        drawn = generator.random(shapes[value.name], dtype=np.float32)
        inputs[value.name] = (drawn if kind.kind == "f" else drawn * min(np.iinfo(kind).max, 255)).astype(kind)
    return inputs


def runner(session, inputs, device, copies):
    """A function without arguments that runs the model once and returns when the outputs are there.

    With ``copies`` inputs start and outputs end in host memory; without, both stay on the device.
    """
    if copies:
        run, names = session.run, [output.name for output in session.get_outputs()]
        return lambda: run(names, inputs)
    import onnxruntime as ort

    if session.get_providers()[0] in PLUGINS:
        raise JobError("device", "a plugin provider is timed with copies only; set measure.copies: true")
    binding = session.io_binding()
    for name, values in inputs.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(values, device, 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, device)
    return lambda: session.run_with_iobinding(binding)


class Timed:
    """One model under the clock; times in milliseconds."""

    def __init__(self, path, job):
        before = resident("VmRSS")
        started = perf_counter()
        session = open_session(path, job["provider"], job["threads"], job.get("provider_options"))
        self.load_ms = (perf_counter() - started) * 1e3
        self.shapes = input_shapes(session, job.get("batch", 0), job.get("imgsz"))
        device = "cpu" if job["provider"] == "CPUExecutionProvider" else "cuda"
        self.run = self.prepared(session, device, job)
        self.run()
        self.memory_rise = resident("VmHWM") - before
        placed = placements(session) if job["provider"] != "CPUExecutionProvider" else {}
        self.told = {"nodes": {name: len(ops) for name, ops in placed.items()}}
        self.reset()

    def reset(self):
        """Nothing measured yet."""
        self.values, self.warmups = [], []
        self.interrupted = 0
        self.cpu_ms = []
        self.settled = False

    def prepared(self, session, device, job):
        """What is timed: a function without arguments."""
        inputs = random_inputs(session, self.shapes, job.get("seed", 0))
        return runner(session, inputs, device, job.get("copies", True))

    def begin(self):
        """Called before a block of samples."""

    def sample(self):
        """One timed run."""
        run = self.run
        started = perf_counter()
        run()
        return (perf_counter() - started) * 1e3

    def warm_up(self, least_s, least_runs=0):
        """Run ``least_runs`` times and for ``least_s``, on until two windows agree, at most 5 times that."""
        started, previous = perf_counter(), None
        self.warmups += [self.sample() for _ in range(least_runs)]
        while True:
            window, opened = [], perf_counter()
            while len(window) < 5 or perf_counter() - opened < WINDOW_S:
                window.append(self.sample())
            self.warmups += window
            level = float(np.median(window))
            self.settled = previous is not None and abs(level / previous - 1) <= STEADY
            previous = level
            spent = perf_counter() - started
            if (self.settled and spent >= least_s) or spent >= LONGEST_WARMUP * least_s:
                return

    def take(self, count, settle):
        """Take ``count`` samples; ``settle`` runs once untimed, so that no sample pays for another model's cache."""
        self.begin()
        if settle:
            self.warmups.append(self.sample())
        for _ in range(count):
            switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
            cpu = process_time()
            self.values.append(self.sample())
            self.cpu_ms.append((process_time() - cpu) * 1e3)
            self.interrupted += resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw > switches


def latency(job, timed=None):
    """Interleaved samples of every model, ``rounds`` times ``per_round`` in an order that rotates."""
    return interleaved(job, [(timed or Timed)(path, job) for path in job["models"]], host)


def interleaved(job, models, about):
    """Rounds over loaded models, with what ``about()`` says of the process at the end; the time limit counts from here,
    because a provider that compiles when it loads would have used it up."""
    started = perf_counter()
    for model in models:
        tell(stage="warm-up", done=0, total=job["rounds"])
        model.warm_up(job["warmup_s"], job.get("warmup_runs", 0))
    gc.collect()
    gc.disable()
    told = perf_counter()
    for number in range(job["rounds"]):
        for place in range(len(models)):
            models[(place + number) % len(models)].take(job["per_round"], settle=len(models) > 1)
        now = perf_counter()
        if now - told > REPORT_S or number + 1 == job["rounds"]:
            told = now
            tell(
                stage="rounds",
                done=number + 1,
                total=job["rounds"],
                last_ms=[m.values[-job["per_round"] :] for m in models],
            )
        if job["time_limit_s"] and now - started > job["time_limit_s"]:
            break
    gc.enable()
    return {"models": [describe(model) for model in models], "host": about()}


def describe(model):
    taken = len(model.values)
    return {
        "values": model.values,
        "warmups": model.warmups,
        "warm": model.settled,
        "shapes": model.shapes,
        "load_ms": model.load_ms,
        "interrupted_share": model.interrupted / taken,
        "cpu_ms": model.cpu_ms,
        "cpu_share": sum(model.cpu_ms) / max(sum(model.values), 1e-9),
        **model.told,
    }


def memory(job):
    """Peak memory that one model adds to a process that had only ONNX Runtime and NumPy loaded, in bytes."""
    import onnxruntime  # noqa: F401  its own size is not the model's

    (path,) = job["models"]
    model = Timed(path, job)
    for _ in range(job.get("runs", 3)):
        model.run()
    return {"peak_rss_bytes": resident("VmHWM"), "model_rss_bytes": model.memory_rise, "load_ms": model.load_ms}


def profile(job):
    """Mean time of every node over the last ``runs`` runs, by ONNX Runtime's own profiler, in milliseconds."""
    (path,) = job["models"]
    with tempfile.TemporaryDirectory() as folder:
        prefix = str(Path(folder) / "profile")
        session = open_session(path, job["provider"], job["threads"], job.get("provider_options"), prefix)
        shapes = input_shapes(session, job.get("batch", 0), job.get("imgsz"))
        inputs = random_inputs(session, shapes, job.get("seed", 0))
        for _ in range(job["runs"] + max(3, job["runs"] // 5)):
            session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text())
    return {"layers": nodes_of(events, job["runs"]), "shapes": shapes}


def nodes_of(events, runs):
    """Rows per node from a profile's events: those of the last ``runs`` runs, in the order of execution."""
    nodes = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes.setdefault(event["name"][: -len("_kernel_time")], []).append(event)
    rows = []
    for name, seen in nodes.items():
        kept = [event["dur"] / 1e3 for event in seen[-runs:]]
        told = seen[-1]["args"]
        rows.append(
            {
                "name": name,
                "op": told.get("op_name", ""),
                "mean_ms": float(np.mean(kept)),
                "median_ms": float(np.median(kept)),
                "provider": told.get("provider", ""),
                "inputs": shapes_of(told.get("input_type_shape", [])),
                "outputs": shapes_of(told.get("output_type_shape", [])),
                "parameter_bytes": int(told.get("parameter_size", 0)),
            }
        )
    return rows


def shapes_of(listed):
    """``[{"float": [1, 3, 320, 320]}]`` as pairs of type and shape."""
    return [[kind, shape] for entry in listed for kind, shape in entry.items()]


def host():
    """What of this process' surroundings explains its timing."""
    import onnxruntime as ort

    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": ort.__version__,
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "cpus_allowed": sorted(os.sched_getaffinity(0)),
        "peak_rss_bytes": resident("VmHWM"),
    }


def resident(field):
    """VmRSS (now) or VmHWM (peak) of this process in bytes. (getrusage's peak begins with that of the parent.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0


def tell(**progress):
    """Report that work moves; a caller that is gone ends the process here (broken pipe)."""
    say({"progress": progress})


def say(line):
    """One JSON line for the caller."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def raise_priority():
    """Go before other work on this machine, where this user may; what other work costs is not the model's time."""
    with contextlib.suppress(OSError):
        os.nice(-20)
    with contextlib.suppress(OSError):  # Linux shares time between sessions first, then within one
        Path("/proc/self/autogroup").write_text("-20")


def serve(tasks, needs="onnxruntime"):
    """Do the job on stdin with the task that it names; 0 unless it crashed."""
    job = json.load(sys.stdin)
    if job.get("priority"):
        raise_priority()
    if job.get("cpus"):
        os.sched_setaffinity(0, job["cpus"])
    try:
        say({"result": tasks[job["task"]](job)})
    except JobError as error:
        say({"error": {"kind": error.kind, "message": str(error)}})
    except ImportError as error:
        say({"error": {"kind": "device", "message": f"{error}; install {needs} for {sys.executable}"}})
    except BrokenPipeError:
        os._exit(1)  # the caller ended; there is nobody to tell
    return 0


if __name__ == "__main__":
    sys.exit(serve({"latency": latency, "memory": memory, "profile": profile}))
