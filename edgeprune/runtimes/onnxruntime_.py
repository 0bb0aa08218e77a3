"""ONNX Runtime behind the runtime seam: the CPU, CUDA and TensorRT providers, and TensorRT-RTX as a plugin.

An engine of this runtime is the graph as ONNX Runtime optimised it for this machine, still an ONNX file. Names, stride,
task and image size (``metadata_props``) stay in it, so that it can be decoded without the model it came from.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import tempfile
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.agent.cpus import CpuUse
from edgeprune.agent.facts import DeviceFacts, gpus
from edgeprune.agent.host import HostState, WorkerState, cpu_identity, host_state
from edgeprune.devices.base import Device
from edgeprune.devices.identity import has_power_modes
from edgeprune.devices.local import LocalDevice
from edgeprune.errors import NOT_OF_THE_INPUT, DataError, DeviceError, StageError, TargetError, first_line
from edgeprune.model_file import require_model
from edgeprune.progress import Progress, silent
from edgeprune.reading import shown
from edgeprune.runtimes.base import AS_EXPORTED, NO_GPU, Availability, BenchSettings, FreeAxes, Runtime, Session
from edgeprune.runtimes.bench_worker import (
    CUDA_GRAPH_ON,
    ENGINE_CACHE,
    GRAPH_OPTIONS,
    TIMING_CACHE,
    JobError,
    open_session,
    write_optimized,
)
from edgeprune.runtimes.engine_file import timing_cache_for
from edgeprune.runtimes.image_input import image_files
from edgeprune.runtimes.jobs import (
    EndToEndJob,
    EndToEndLatencyJob,
    EndToEndTimes,
    Job,
    LatencyJob,
    LayerTime,
    LayerTimes,
    MemoryJob,
    PeakMemory,
    ProfileJob,
    TimedModel,
    TimedModels,
)
from edgeprune.runtimes.onnx_facts import is_below_fp32, is_whole, read_model, require_precision, require_single_file
from edgeprune.runtimes.worker import (
    Answer,
    OnProgress,
    error_of_job,
    run_held,
    run_watched,
    run_worker,
    show_rounds,
)
from edgeprune.samples.conditions import Conditions, CoreState, DeviceState, EndToEndState, batch_of
from edgeprune.samples.gates import MIN_BLOCK_PAIRS
from edgeprune.samples.measurement import Measurement
from edgeprune.samples.telemetry import over_launches
from edgeprune.version import declared, pip, pip_extra

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
}
COMPILING = (PROVIDERS["tensorrt"], PROVIDERS["tensorrt-rtx"])  # they compile when they load: the engine is the graph
TYPED_FROM = (1, 18)
"""The first release of ONNX Runtime that came with a TensorRT (10.0) whose networks it makes strongly typed; 1.15 to
1.17 came with 8.6."""
TYPED_REMEDY = "set the target's runtime to trtexec or onnxruntime-cuda, or its precision to fp32"
RTX_PACKAGE = "onnxruntime-ep-nv-tensorrt-rtx-cu13"
JETSON_INDEX = "https://pypi.jetson-ai-lab.io"  # NVIDIA's: PyPI has no onnxruntime-gpu for a Jetson
ENGINE_KEY = "edgeprune.engine"  # metadata entry of an engine: the identity it was built for, and its precision


class OnnxRuntime(Runtime):
    """ONNX Runtime with one execution provider, on this machine; on a board every timing is in its hold.

    Args:
        provider: ``cpu``, ``cuda``, ``tensorrt`` or ``tensorrt-rtx``.
        machine: this one as a target has it, with power mode and clocks; as it is when None.
        precision: of the graphs that it is to run: what would compute them in another one is not available.

    Raises:
        TargetError: another provider.
    """

    def __init__(self, provider: str = "cpu", machine: Device | None = None, *, precision: str = "fp32") -> None:
        if provider not in PROVIDERS:
            raise TargetError(f"provider {provider!r} is not one of {', '.join(PROVIDERS)}")
        self.provider, self.precision = PROVIDERS[provider], precision
        self._machine = machine if machine is not None else LocalDevice()
        self._board = machine if machine is not None and has_power_modes(machine.facts()) else None
        self.name = "onnxruntime" if provider == "cpu" else f"onnxruntime-{provider}"

    def availability(self) -> Availability:
        """Whether the package and the provider are here; loads ONNX Runtime only when exactly one package is."""
        wheels = [name for name in ("onnxruntime", "onnxruntime-gpu") if _installed(name)]
        cpu_only = self.provider in (PROVIDERS["cpu"], PROVIDERS["tensorrt-rtx"])  # a plugin needs no other package
        if len(wheels) == 2:
            keep = "onnxruntime" if cpu_only else "onnxruntime-gpu"
            return Availability(
                False,
                "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files",
                self._replaced_by(keep),
            )
        if not wheels and importlib.util.find_spec("onnxruntime") is None:
            return Availability(
                False,
                "onnxruntime is not installed",
                self._installed_by("onnxruntime" if cpu_only else "onnxruntime-gpu"),
            )
        try:
            import onnxruntime as ort
        except ImportError as error:
            return Availability(
                False,
                f"onnxruntime does not import ({error})",
                self._installed_by(wheels[0] if wheels else "onnxruntime", "--force-reinstall"),
            )

        if self.provider == PROVIDERS["tensorrt-rtx"]:
            return _rtx_availability(ort, self._machine.facts())
        here = ort.get_available_providers()
        if self.provider not in here:
            return Availability(
                False, f"onnxruntime {ort.__version__} has no {self.provider}", self._replaced_by("onnxruntime-gpu")
            )
        if not cpu_only and not self._machine.facts().has_gpu:
            return NO_GPU
        if weak := self._weak_for(self.precision):
            return weak
        return Availability(True, f"onnxruntime {ort.__version__}, {self.provider}")

    def _seen(self) -> tuple[str, DeviceFacts]:
        """Version of the ONNX Runtime that is here, and what the device is."""
        import onnxruntime as ort

        return ort.__version__, self._machine.facts()

    def _weak_for(self, precision: str) -> Availability | None:
        """Why graphs of a precision cannot be left to the provider; None where they can."""
        if precision == "fp32" or self.provider != PROVIDERS["tensorrt"]:
            return None
        seen = weakly_typed(*self._seen())
        return Availability(False, seen, TYPED_REMEDY) if seen else None

    def _refuse_weak(self, model: Path) -> None:
        """Raise ``DeviceError`` for a graph below FP32 that the provider would compute in FP32."""
        if (weak := self._weak_for("lower")) and is_below_fp32(read_model(model, weights=False)):
            raise DeviceError(f"{model}: {weak.detail}; next: {weak.remedy}")

    def _installed_by(self, package: str, *options: str) -> str:
        """The command that installs one of the packages here."""
        facts = self._machine.facts()
        if package == "onnxruntime" or not facts.l4t:
            return pip("install", *options, _declared(package))
        # the commands that follow a remedy are typed behind it: where the index is not known, its place is left
        index = jetson_index(facts) or f"{JETSON_INDEX}/INDEX_OF_ITS_JETPACK"
        return pip("install", *options, package, "--index-url", index)

    def _replaced_by(self, package: str) -> str:
        """The command that leaves this one of the packages that overwrite each other's files."""
        return f"{pip('uninstall', '-y', 'onnxruntime', 'onnxruntime-gpu')} && {self._installed_by(package)}"

    def identity(self) -> dict[str, str]:
        """CPU with its instruction sets (optimised graphs depend on them), or all that a board is, with its power mode;
        runtime version, provider; a GPU if used."""
        self._require()
        import onnxruntime as ort

        here = self._board.identity() if self._board is not None else cpu_identity()
        found = {**here, "runtime": f"onnxruntime {ort.__version__}", "provider": self.provider}
        if self.provider == PROVIDERS["tensorrt-rtx"]:
            found["plugin"] = f"{RTX_PACKAGE} {metadata.version(RTX_PACKAGE)}"
        if self.provider != PROVIDERS["cpu"]:
            found["gpu"] = "; ".join(str(gpu) for gpu in gpus())
        return found

    def engine_from_onnx(
        self,
        onnx: Path,
        engine: Path,
        *,
        precision: str = "fp32",
        keep_float: Collection[str] = (),
        free: FreeAxes = AS_EXPORTED,
    ) -> None:
        """Write the graph as ONNX Runtime optimises it for this machine.

        Precision is the graph's own: ``fp16`` and ``int8`` are refused when ``onnx`` does not hold them. The TensorRT
        providers compile when they load, so their engine is the checked ONNX file itself.

        Raises:
            DataError: ``onnx`` cannot be read.
            DeviceError: the TensorRT provider would compute the graph in another precision than its own.
            StageError: the graph does not have the precision that was asked, or lost its metadata.
        """
        self._require()
        proto = require_single_file(onnx)
        require_precision(proto, precision, onnx)
        self._refuse_weak(onnx)
        wanted = {entry.key: entry.value for entry in proto.metadata_props}
        partial = engine.with_name(f".{engine.name}.{uuid.uuid4().hex[:8]}.onnx")
        try:
            if self.provider not in COMPILING:
                self._optimize(onnx, partial)
                proto = read_model(partial)
            found = {entry.key: entry.value for entry in proto.metadata_props}
            built = {"identity": self.identity(), "precision": precision}
            _set_metadata(proto, {**wanted, **found, ENGINE_KEY: json.dumps(built, sort_keys=True)})
            with partial.open("wb") as file:
                file.write(proto.SerializeToString())
                file.flush()
                os.fsync(file.fileno())
            partial.replace(engine)
        finally:
            partial.unlink(missing_ok=True)

    def _optimize(self, onnx: Path, optimized: Path) -> None:
        try:
            write_optimized(onnx, optimized, self.provider)
        except JobError as error:
            if error.kind != "data":
                raise error_of_job(error.kind, str(error)) from error
            raise StageError(f"{onnx}: {error}") from error

    @contextmanager
    def session(self, model: Path, *, threads: int = 0) -> Iterator[Session]:
        """Load a model in this process. An engine built for another machine is refused (``DeviceError``)."""
        self._require()
        self._refuse_weak(Path(model))
        try:
            loaded = OrtSession(open_session(Path(model), self.provider, threads, self._options([model])), Path(model))
        except JobError as error:
            raise error_of_job(error.kind, str(error)) from error
        self._refuse_foreign(Path(model), loaded.metadata.get(ENGINE_KEY))
        yield loaded

    def latency(
        self, models: Sequence[Path], settings: BenchSettings, *, progress: Progress = silent
    ) -> list[Measurement]:
        """Time the models in fresh processes, one a launch, each with all models; see
        :mod:`edgeprune.runtimes.bench_worker` and, for the scope ``end_to_end``, its sibling."""
        count = max(1, min(settings.launches, settings.rounds))
        identity, before = self.identity(), self._host()
        timed: list[list[TimedModel]] = [[] for _ in models]  # by model, then by launch
        workers: list[WorkerState] = []
        uses: list[CpuUse] = []
        states: list[DeviceState] = []
        per_round, least_rounds = settings.per_round, -(-MIN_BLOCK_PAIRS // count) if len(models) > 1 else 0
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
            images = image_files(settings, models, Path(folder)) if settings.scope == "model" else ()
            for launch in range(count):
                # Loaded in another order each time, so that no model always lies where another does.
                shift = launch % max(1, len(models)) if not settings.stand_in else 0
                order = [*range(shift, len(models)), *range(shift)]
                turns = replace(settings, per_round=per_round)
                ordered = [models[index] for index in order]
                own_images = tuple(images[index] for index in order) if images else ()
                job = self._latency_job(ordered, turns, launch, count, least_rounds, own_images)
                on_progress = show_rounds(progress, launch * job.rounds, settings.rounds)
                answer, state = self._run_job(job, TimedModels, on_progress)
                per_round, least_rounds = answer.per_round, 0  # every process takes blocks of the first one's length
                workers.append(answer.worker)
                uses.append(answer.cpus)
                states.append(state)
                for index, model in zip(order, answer.models, strict=True):
                    timed[index].append(model)
        after = self._host()
        host = replace(before, load_average_after=after.load_average, temperature_after_c=after.temperature_c)
        launches = [min(len(model.values_ms) for model in launch) for launch in zip(*timed, strict=True)]
        return [
            Measurement(
                name="latency",
                unit="ms",
                values=tuple(ms for part in parts for ms in part.values_ms),
                warmups=tuple(ms for part in parts for ms in part.warmups_ms),
                conditions=Conditions(
                    identity=identity,
                    runtime=self.name,
                    provider=self.provider,
                    threads=settings.threads,
                    batch=batch_of(parts[0].shapes),
                    shapes=parts[0].shapes,
                    scope=settings.scope,
                    copies=settings.copies or settings.scope == "end_to_end",  # a frame is in host memory, boxes too
                    cuda_graph=all(part.cuda_graph for part in parts),
                    samples_per_block=per_round,
                    launches=tuple(launches),
                    model=Path(path).name,
                    models_in_run=len(models),
                    images=settings.images is not None,
                    warm=all(part.warm for part in parts),
                    load_ms=parts[0].load_ms,
                    nodes=parts[0].nodes,
                    core=CoreState.over_launches(
                        launches,
                        [part.cpu_share for part in parts],
                        (ms for part in parts for ms in part.cpu_ms),
                        uses,
                        threads=settings.threads if self.provider == PROVIDERS["cpu"] else None,
                    ),
                    host=host,
                    device=over_launches(states),
                    worker=workers[0],
                    end_to_end=EndToEndState(parts[-1].parts_ms, parts[-1].boxes, parts[-1].frames, settings.stand_in)
                    if settings.scope == "end_to_end"
                    else None,
                ),
                simulated=self.simulated,
            )
            for path, parts in zip(models, timed, strict=True)
        ]

    def _latency_job(
        self,
        models: Sequence[Path],
        settings: BenchSettings,
        launch: int,
        launches: int,
        least_rounds: int,
        images: tuple[str, ...],
    ) -> LatencyJob:
        fields = self._job_fields(models, settings.threads) | {
            "priority": settings.priority,
            "warmup_s": settings.warmup_s,
            "warmup_runs": settings.warmup_runs,
            "rounds": settings.rounds * (launch + 1) // launches - settings.rounds * launch // launches,
            "per_round": settings.per_round,
            "least_rounds": least_rounds,
            "time_limit_s": settings.time_limit_s / launches,
            "seed": settings.seed,
            "copies": settings.copies,
            "cpus": settings.cpus,
            "batch": settings.batch,
            "imgsz": settings.imgsz,
            "images": images,
            "provider_options": self._options(models, cuda_graph=settings.cuda_graph),
        }
        if settings.scope != "end_to_end":
            return LatencyJob(**fields)
        frames = tuple(str(Path(frame).resolve()) for frame in settings.frames)
        return EndToEndLatencyJob(**fields, frames=frames, stand_in=settings.stand_in)

    def layer_times(
        self,
        model: Path,
        *,
        threads: int = 1,
        runs: int = 30,
        free: FreeAxes = AS_EXPORTED,
        cpus: tuple[int, ...] = (),
    ) -> list[LayerTime]:
        """Times per node in order of execution, in a fresh process; none of a GPU that its profiler does not see."""
        fields = self._job_fields([model], threads)
        job = ProfileJob(**fields, runs=runs, batch=free.batch, imgsz=free.imgsz, cpus=cpus)
        return list(self._run_job(job, LayerTimes)[0].layers)

    def end_to_end(
        self, model: Path, settings: BenchSettings, *, image: Path | None = None, runs: int = 50
    ) -> EndToEndTimes | None:
        """Time a detector from frame to boxes; see :mod:`edgeprune.runtimes.end_to_end_worker`."""
        if image is not None and not image.is_file():
            raise DataError(f"{image}: no such file")
        fields = self._job_fields([model], settings.threads) | {
            "provider_options": self._options([model], cuda_graph=settings.cuda_graph),
            "priority": settings.priority,
        }
        job = EndToEndJob(
            **fields,
            image=None if image is None else str(image.resolve()),
            runs=runs,
            batch=settings.batch,
            imgsz=settings.imgsz,
            cpus=settings.cpus,
        )
        return self._run_job(job, EndToEndTimes)[0]

    def peak_memory(self, model: Path, *, threads: int = 1, free: FreeAxes = AS_EXPORTED) -> PeakMemory | None:
        """Peak resident memory of a fresh process that runs only this model, and the model's part of it."""
        job = MemoryJob(**self._job_fields([model], threads), batch=free.batch, imgsz=free.imgsz)
        return self._run_job(job, PeakMemory)[0]

    def _run_job(
        self, job: Job, answer: type[Answer], on_progress: OnProgress | None = None
    ) -> tuple[Answer, DeviceState]:
        """The answer of a worker here, and what the device was like meanwhile (a board is watched, and a GPU)."""
        if self._board is not None:
            return run_held(self._board, job, answer, on_progress, uses_gpu=self.provider != PROVIDERS["cpu"])
        if self.provider == PROVIDERS["cpu"]:
            return run_worker(job, answer, on_progress), DeviceState()
        return run_watched(job, answer, on_progress)

    def _host(self) -> HostState:
        return host_state()

    def _job_fields(self, models: Sequence[Path], threads: int) -> dict[str, Any]:
        """What every job of ONNX Runtime names, checked: see :class:`~edgeprune.runtimes.jobs.OrtJob`."""
        self._require()
        if not models:
            raise TargetError("no model to measure; give at least one ONNX file or engine")
        for model in models:
            require_model(model, ".onnx", ".engine")
            self._refuse_foreign(Path(model))
            self._refuse_weak(Path(model))
        return {
            "models": tuple(str(Path(model).resolve()) for model in models),
            "provider": self.provider,
            "provider_options": self._options(models),
            "threads": threads,
            "priority": True,
        }

    def _options(self, models: Sequence[Path], *, cuda_graph: bool = False) -> dict[str, str]:
        """Of the provider. What one compiles when it loads is kept for each device identity, so that it compiles once
        and what is timed is what was validated.

        An engine for a graph of free axes depends on every shape that it was given before: of such a one only how fast
        its kernels are is kept, and so it is where the weights lie in other files than the graph.

        Args:
            models: that are loaded with them.
            cuda_graph: capture the first run and replay it, where the provider can.
        """
        options: dict[str, str] = {}
        if cuda_graph and (option := GRAPH_OPTIONS.get(self.provider)):
            options[option] = CUDA_GRAPH_ON.get(self.provider, "1")
        if self.provider == PROVIDERS["tensorrt-rtx"]:
            options["nv_runtime_cache_path"] = f"{self._cache_folder()}.rtx"
        if self.provider == PROVIDERS["tensorrt"]:
            options[TIMING_CACHE] = f"{self._cache_folder()}.trt"
            if all(map(_is_whole, models)):
                options[ENGINE_CACHE] = f"{self._cache_folder()}.trt/engines"
        return options

    def _cache_folder(self) -> Path:
        """Where that is kept; an ending follows."""
        return timing_cache_for(self.identity()).with_suffix("")

    def _refuse_foreign(self, model: Path, written: str | None = None) -> None:
        """An optimised graph may hold layouts of one CPU only; on another it is refused before it gives nonsense."""
        written = written if written is not None else _engine_entry(model)
        if not written:
            return
        built, here = _identity_in(written, model), self.identity()
        differ = [f"{key} ({built.get(key)}, here {here[key]})" for key in here if built.get(key) != here[key]]
        if differ:
            raise DeviceError(
                f"{model}: this engine was built elsewhere: {', '.join(differ)}; build it here from the ONNX file"
            )


class OrtSession:
    """A loaded model; ``metadata`` is what its file carries (names, stride, task, imgsz)."""

    def __init__(self, session: Any, path: Path) -> None:
        self._session, self._path = session, path
        self.input_names = [value.name for value in session.get_inputs()]
        self.output_names = [value.name for value in session.get_outputs()]
        self.input_shapes = {value.name: list(value.shape) for value in session.get_inputs()}
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name.

        Raises:
            DataError: the model does not run on them.
        """
        try:
            found = self._session.run(self.output_names, dict(inputs))
        except NOT_OF_THE_INPUT:
            raise
        except Exception as error:  # ONNX Runtime's own exceptions have no common public base
            raise DataError(f"{self._path}: ONNX Runtime cannot run it: {first_line(error)}") from error
        return dict(zip(self.output_names, found, strict=True))


def weakly_typed(version: str, facts: DeviceFacts) -> str:
    """Why the TensorRT provider of an ONNX Runtime computes a graph of any precision in FP32, and does not say so.

    It makes a network strongly typed where it was built with TensorRT 9 or later, and which one that was it does not
    tell: a release is known by its version, and what was built for a board by the board's own TensorRT. Empty for
    anything else, a private build with TensorRT 8 on a desktop too.

    Args:
        version: of ONNX Runtime.
        facts: of the device.
    """
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < TYPED_FROM:
        built = f"onnxruntime {version} came with TensorRT 8 or older"
    elif facts.l4t and facts.tensorrt.startswith("8.") and not facts.tensorrt_pip:
        built = f"onnxruntime {version} on a board with TensorRT {facts.tensorrt}"
    else:
        return ""
    return f"{built}, by which its {PROVIDERS['tensorrt']} computes FP16 and INT8 graphs in FP32"


def _is_whole(model: Path) -> bool:
    try:
        return is_whole(Path(model))
    except DataError:
        return False  # whoever loads it says so


def jetson_index(facts: DeviceFacts) -> str:
    """The index that has onnxruntime-gpu for a Jetson's JetPack; empty where only the page of all of them is known."""
    return f"{JETSON_INDEX}/jp6/cu126" if facts.jetpack.startswith(("6.1", "6.2")) else ""


def _declared(package: str) -> str:
    return declared(package, "cuda" if package == "onnxruntime-gpu" else "")


def _rtx_availability(ort: Any, facts: DeviceFacts) -> Availability:
    """Whether the plugin, an ONNX Runtime that takes plugins and a card that it serves are here."""
    if not _installed(RTX_PACKAGE):
        return Availability(False, f"{RTX_PACKAGE} is not installed", pip_extra("rtx", RTX_PACKAGE))
    if not hasattr(ort, "register_execution_provider_library"):
        seen = f"onnxruntime {ort.__version__} takes no plugins"
        return Availability(False, seen, pip("install", "--upgrade", declared("onnxruntime", "rtx")))
    if not facts.has_gpu:
        return NO_GPU
    seen = [f"{gpu.name} ({gpu.compute_capability})" for gpu in facts.gpus]
    serves = [capability for gpu in facts.gpus if _is_served(capability := gpu.compute_capability)]
    if facts.l4t or (seen and not serves):  # of a card that nvidia-smi does not name the plugin itself will tell
        return Availability(
            False,
            "TensorRT-RTX serves desktop RTX cards of compute capability 8.6, 8.9, 12.0 and newer; seen: "
            + (facts.board if facts.l4t else ", ".join(seen)),
            "set the target's runtime to onnxruntime-cuda or tensorrt",
        )
    return Availability(True, f"onnxruntime {ort.__version__}, {RTX_PACKAGE} {metadata.version(RTX_PACKAGE)}")


def _is_served(capability: str) -> bool:
    return capability in ("8.6", "8.9") or _major(capability) >= 12


def _major(capability: str) -> int:
    whole = capability.partition(".")[0]
    return int(whole) if whole.isdigit() else 0


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _set_metadata(proto: Any, entries: Mapping[str, str]) -> None:
    del proto.metadata_props[:]
    for key in sorted(entries):
        proto.metadata_props.add(key=key, value=entries[key])


def _identity_in(written: str, path: Path) -> Mapping[str, Any]:
    """Of the machine that an engine was built for, from its entry."""
    try:
        entry = json.loads(written)
    except ValueError:
        entry = None
    identity = entry.get("identity") if isinstance(entry, dict) else None
    if not isinstance(identity, dict):
        raise DataError(
            f"{path}: its metadata entry {ENGINE_KEY} is damaged: {shown(written, 60)!r}, where JSON with the identity "
            "of a machine was expected; build it again from the ONNX file"
        )
    return identity


def _engine_entry(path: Path) -> str:
    """The engine entry of an ONNX file's metadata, or an empty string; a file that cannot be parsed has none."""
    if ENGINE_KEY.encode() not in path.read_bytes():
        return ""
    try:
        props = read_model(path).metadata_props
    except DataError:
        return ""
    return next((entry.value for entry in props if entry.key == ENGINE_KEY), "")
