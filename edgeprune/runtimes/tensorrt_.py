"""TensorRT's Python API behind the runtime seam, on this machine: every build and every timing in a fresh process, on a
board in its hold."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import platform
import shlex
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.agent.facts import gpus, l4t_of
from edgeprune.agent.host import host_state
from edgeprune.agent.system import system_path, text_of
from edgeprune.artifact import sha256_of
from edgeprune.devices.base import Device
from edgeprune.devices.identity import has_power_modes
from edgeprune.devices.local import LocalDevice
from edgeprune.errors import DataError, DeviceError, StageError, TargetError, ToolError
from edgeprune.model_file import require_model
from edgeprune.progress import Progress, silent
from edgeprune.runtimes.base import AS_EXPORTED, NO_GPU, Availability, BenchSettings, FreeAxes, Runtime, Session
from edgeprune.runtimes.bench_worker import JobError
from edgeprune.runtimes.engine_file import (
    EngineFacts,
    bare_engine,
    known_metadata,
    outputs_in_order,
    publish,
    read_facts,
    refuse_foreign,
    require_shape,
    timing_cache_for,
)
from edgeprune.runtimes.identity import identity_on
from edgeprune.runtimes.image_input import images_for, written
from edgeprune.runtimes.jobs import (
    EngineBuild,
    EngineBuildJob,
    EngineLatencyJob,
    EngineMemoryJob,
    EngineProfileJob,
    Job,
    LayerTime,
    LayerTimes,
    PeakMemory,
    TimedModels,
)
from edgeprune.runtimes.layer_info import Layer, layer_info_of
from edgeprune.runtimes.onnx_facts import onnx_facts, require_single_file
from edgeprune.runtimes.worker import (
    Answer,
    OnProgress,
    error_of_job,
    run_held,
    run_watched,
    show_rounds,
)
from edgeprune.samples.conditions import Conditions, CoreState, DeviceState, GpuTiming, batch_of, gpu_span
from edgeprune.samples.gates import MIN_BLOCK_PAIRS
from edgeprune.samples.measurement import Measurement
from edgeprune.target.releases import KNOWN_STRONG_VERSIONS, is_too_new, is_weakly_typed, release_of
from edgeprune.version import declared, installed, pip

FIRST_DRIVER_OF_CUDA_13, FIRST_L4T_OF_CUDA_13 = 580, 38
INSUFFICIENT_DRIVER = 35  # cudaErrorInsufficientDriver


class TensorRt(Runtime):
    """TensorRT 10.3 to 11 by its Python API, with CUDA by NVIDIA's own bindings.

    Args:
        device: this machine as a target has it, with power mode and clocks; as it is when None.
        keep_timing_cache: keep a timing cache for each device identity on this machine.
    """

    name = "tensorrt"
    suffix = ".engine"
    unused_options = frozenset(("--threads", "--launches", "--no-priority", "--end-to-end", "--image"))

    def __init__(self, device: Device | None = None, *, keep_timing_cache: bool = True) -> None:
        self.device: Device = device if device is not None else LocalDevice()
        self.keep_timing_cache = keep_timing_cache

    def availability(self) -> Availability:
        """Whether a known TensorRT, CUDA's bindings and a GPU are here; stubs alone import as an empty namespace."""
        try:
            module = importlib.import_module("tensorrt")
        except ImportError as error:
            return Availability(False, f"TensorRT does not import ({error})", how_to_get_it())
        if not hasattr(module, "Builder"):
            return Availability(False, "only TensorRT's type stubs are installed", how_to_get_it())
        version = str(getattr(module, "__version__", "0"))
        if is_too_new(version):
            reason = f"TensorRT {version} is newer than what edgeprune knows ({KNOWN_STRONG_VERSIONS})"
            return Availability(False, reason, how_to_get_it())
        if release_of(version) is None or is_weakly_typed(version):
            known = f"known are {KNOWN_STRONG_VERSIONS} (the runtime trtexec drives older)"
            return Availability(
                False,
                f"TensorRT {version} is too old; {known}",
                "edgeprune device probe" if on_a_jetson() else how_to_get_it(),  # which names the target of its JetPack
            )
        try:
            from edgeprune.runtimes.cuda_ import runtime as bindings

            error, count = bindings().cudaGetDeviceCount()
        except ImportError as failed:
            return Availability(False, f"CUDA's bindings do not import ({failed})", pip("install", cuda_bindings()))
        if int(error) == INSUFFICIENT_DRIVER:
            return _driver_too_old(version)
        if int(error) != 0 or not count:
            return Availability(
                False,
                f"TensorRT {version} is here, but CUDA finds no GPU ({getattr(error, 'name', error)})",
                NO_GPU.remedy,
            )
        return Availability(True, f"TensorRT {version}")

    def identity(self) -> dict[str, str]:
        """The machine's own, TensorRT's version, and the GPU where nvidia-smi names one."""
        return identity_on(self.device, f"tensorrt {self.tensorrt_version()}", None)

    def tensorrt_version(self) -> str:
        """As the module says."""
        self._require()
        return str(importlib.import_module("tensorrt").__version__)

    def engine_from_onnx(
        self,
        onnx: Path,
        engine: Path,
        *,
        precision: str = "fp32",
        keep_float: Collection[str] = (),
        free: FreeAxes = AS_EXPORTED,
    ) -> None:
        """Build an engine, with its facts beside it.

        Raises:
            DataError: ``onnx`` cannot be read.
            StageError: the graph does not have the precision that was asked, or TensorRT cannot build it.
        """
        self._require()
        require_single_file(onnx)
        graph, identity = onnx_facts(onnx, precision=precision, free=free), self.identity()
        cache = timing_cache_for(identity) if self.keep_timing_cache else None
        partial = engine.with_name(f".{engine.name}.partial")
        job = EngineBuildJob(
            onnx=str(Path(onnx).resolve()),
            engine=str(partial.resolve()),
            timing_cache=str(cache) if cache is not None else "",
            shapes=graph.free_shapes(),
        )
        try:
            build, _ = self._run_job(job, EngineBuild)
            facts = EngineFacts(
                builder=f"tensorrt {build.version}",
                identity=identity,
                precision=precision,
                inputs=graph.inputs,
                outputs=graph.outputs,
                metadata=graph.metadata,
                layers=_layers(build.layers),
                shapes=graph.free_shapes(),
                build_s=build.build_s,
                graph=sha256_of(onnx),
            )
            publish(partial, engine, facts)
        except (DataError, ToolError) as error:
            raise StageError(str(error)) from error
        finally:
            partial.unlink(missing_ok=True)

    def layer_info(self, model: Path) -> tuple[Layer, ...]:
        """Layers of an engine: from its facts, else by loading it here."""
        facts = self._known(model)
        if facts is not None:
            return facts.layers
        from edgeprune.runtimes import tensorrt_engine

        try:
            engine = tensorrt_engine.loaded(bare_engine(Path(model)), tensorrt_engine.Log())
        except JobError as error:
            raise error_of_job(error.kind, str(error)) from error
        return _layers(tensorrt_engine.inspected(engine, None))

    @contextmanager
    def session(self, model: Path, *, threads: int = 0) -> Iterator[Session]:
        """Load an engine in this process."""
        facts = self._known(model)
        from edgeprune.runtimes.cuda_ import Cuda, CudaError
        from edgeprune.runtimes.tensorrt_engine import LoadedEngine

        with contextlib.ExitStack() as opened:  # a build opens many
            try:
                cuda = Cuda(spin=False)
                opened.callback(cuda.close)
                engine = LoadedEngine(bare_engine(Path(model)), cuda, **_options(facts))
            except JobError as error:
                raise error_of_job(error.kind, str(error)) from error
            except CudaError as error:
                raise DeviceError(str(error)) from error
            opened.callback(engine.close)
            outputs = outputs_in_order(Path(model), list(engine.outputs), facts)
            yield EngineSession(engine, known_metadata(Path(model), facts), outputs)

    def latency(
        self, models: Sequence[Path], settings: BenchSettings, *, progress: Progress = silent
    ) -> list[Measurement]:
        """Time engines in one fresh process, interleaved; see :mod:`edgeprune.runtimes.tensorrt_worker`.

        Samples are GPU time of one inference at a time; ``settings.threads`` has no meaning here.
        """
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
            return self._latency(models, settings, progress, Path(folder))

    def _latency(
        self, models: Sequence[Path], settings: BenchSettings, progress: Progress, folder: Path
    ) -> list[Measurement]:
        """The same, with a folder for images."""
        described = [self._known(model) for model in models]
        for model, facts in zip(models, described, strict=True):
            if facts is not None:
                require_shape(Path(model), [entry.shape for entry in facts.inputs], settings.free)
        known = described if settings.images is not None else []
        job = EngineLatencyJob(
            **self._job_fields(models),
            images=tuple(
                written(images_for(settings, facts.inputs if facts else (), Path(model)), folder, number)
                for number, (model, facts) in enumerate(zip(models, known, strict=False))
            ),
            cuda_graph=settings.cuda_graph,
            batch=settings.batch,
            imgsz=settings.imgsz,
            warmup_s=settings.warmup_s,
            warmup_runs=settings.warmup_runs,
            rounds=settings.rounds,
            per_round=settings.per_round,
            least_rounds=MIN_BLOCK_PAIRS if len(models) > 1 else 0,
            time_limit_s=settings.time_limit_s,
            seed=settings.seed,
            copies=settings.copies,
            cpus=settings.cpus,
        )
        identity, host = self.identity(), host_state()
        answer, state = self._run_job(job, TimedModels, show_rounds(progress))
        return [
            Measurement(
                name="latency",
                unit="ms",
                values=timed.values_ms,
                warmups=timed.warmups_ms,
                conditions=Conditions(
                    identity=identity,
                    runtime=self.name,
                    provider=self.name,
                    threads=settings.threads,
                    batch=batch_of(timed.shapes),
                    shapes=timed.shapes,
                    scope="model",
                    copies=settings.copies,
                    cuda_graph=timed.cuda_graph,
                    samples_per_block=answer.per_round,
                    launches=(len(timed.values_ms),),
                    model=Path(path).name,
                    models_in_run=len(models),
                    images=settings.images is not None,
                    warm=timed.warm,
                    load_ms=timed.load_ms,
                    core=CoreState.over_launches([1], [1.0], (), [answer.cpus], threads=None),
                    host=host,
                    device=state,
                    worker=answer.worker,
                    gpu=GpuTiming(
                        gpu_span(settings.copies),
                        settings.cuda_graph,
                        "CUDA events",
                        io_memory="device",
                        device_rise_bytes=timed.device_rise_bytes,
                    ),
                ),
            )
            for path, timed in zip(models, answer.models, strict=True)
        ]

    def layer_times(
        self,
        model: Path,
        *,
        threads: int = 1,
        runs: int = 30,
        free: FreeAxes = AS_EXPORTED,
        cpus: tuple[int, ...] = (),
    ) -> list[LayerTime]:
        """Per-layer times by TensorRT's profiler, in a fresh process; ``op`` is TensorRT's word for the layer."""
        types = {layer.name: layer.type for layer in self.layer_info(model)}
        answer, _ = self._run_job(EngineProfileJob(**self._job_fields([model]), runs=runs), LayerTimes)
        return [replace(layer, op=types.get(layer.name, "")) for layer in answer.layers]

    def peak_memory(self, model: Path, *, threads: int = 1, free: FreeAxes = AS_EXPORTED) -> PeakMemory | None:
        """Memory of a fresh process with this engine alone, of the host and of the GPU."""
        return self._run_job(EngineMemoryJob(**self._job_fields([model])), PeakMemory)[0]

    def _run_job(
        self, job: Job, answer: type[Answer], on_progress: OnProgress | None = None
    ) -> tuple[Answer, DeviceState]:
        """The answer of a worker, and what the board or the card was like meanwhile."""
        if has_power_modes(self.device.facts()):
            return run_held(self.device, job, answer, on_progress)
        return run_watched(job, answer, on_progress)

    def _job_fields(self, models: Sequence[Path]) -> dict[str, Any]:
        """What every job names, checked: see :class:`~edgeprune.runtimes.jobs.EngineJob`."""
        self._require()
        if not models:
            raise TargetError("no model to measure; give at least one engine")
        facts = [self._known(model) for model in models]
        return {
            "models": tuple(str(Path(model).resolve()) for model in models),
            "shapes": tuple(dict(known.shapes) if known else {} for known in facts),
            "dla_cores": tuple(known.dla_core if known else None for known in facts),
        }

    def _known(self, model: Path) -> EngineFacts | None:
        """Facts of an engine that may run here; an ONNX file is not one."""
        self._require()
        model = Path(model)
        require_model(model, ".engine", ".onnx")
        if model.suffix == ".onnx":
            raise DataError(
                f"{model}: TensorRT runs engines; build one, or measure the graph with --runtime onnxruntime-tensorrt"
            )
        facts = read_facts(model)
        refuse_foreign(model, facts, self.identity())
        return facts


def on_a_jetson() -> bool:
    """Whether this is a Jetson, in a container too: its kernel names itself so, and NVIDIA's package on PyPI refuses to
    be installed there by the same word."""
    return "tegra" in platform.release()


def cuda_bindings() -> str:
    """The bindings that this machine's driver can serve: those of CUDA 13 need one of CUDA 13, which JetPack 6 has not
    (L4T 36, driver 540). Where no driver is seen, any."""
    l4t = l4t_of(text_of(system_path("/etc/nv_tegra_release"))).partition(".")[0]
    driver = next((gpu.driver.partition(".")[0] for gpu in gpus()), "")
    old = l4t.isdigit() and int(l4t) < FIRST_L4T_OF_CUDA_13
    old = old or (driver.isdigit() and int(driver) < FIRST_DRIVER_OF_CUDA_13)
    return cuda_12_bindings() if old else declared("cuda-bindings", "tensorrt")


def cuda_12_bindings() -> str:
    """Those of them that an older driver serves."""
    lowest, _, _ = declared("cuda-bindings", "tensorrt").partition(",")
    return f"{lowest},<13" if ">" in lowest else f"{lowest}<13"


def how_to_get_it() -> str:
    """The command that gets TensorRT's Python API and CUDA's bindings: JetPack's own on a Jetson, PyPI's elsewhere."""
    if not on_a_jetson():
        return pip("install", declared("tensorrt", "tensorrt"), cuda_bindings())
    venv = "sudo apt install python3-libnvinfer && python3 -m venv --system-site-packages .venv"
    return f"{venv} && {shlex.join(['.venv/bin/python', '-m', 'pip', 'install', cuda_bindings()])}"


def _driver_too_old(tensorrt: str) -> Availability:
    """Of an error that says that the driver is older than what the bindings were made for: a GPU is there."""
    have = installed("cuda-bindings")
    here = f"TensorRT {tensorrt} is here, but CUDA's bindings ({have}) are newer than the driver"
    if have.startswith("12."):
        return Availability(
            False,
            f"{here} (cudaErrorInsufficientDriver), and older ones are not known; it needs a newer driver (on a Jetson "
            "a newer JetPack), or the runtime trtexec, which needs no bindings",
            "edgeprune device probe",
        )
    return Availability(
        False, f"{here} (cudaErrorInsufficientDriver): those of 13 need 580", pip("install", cuda_12_bindings())
    )


class EngineSession:
    """A loaded engine as the seam wants it; ``metadata`` is its ONNX file's, or its header's."""

    def __init__(self, engine: Any, metadata: dict[str, str], outputs: list[str]) -> None:
        self._engine = engine
        self.input_names: list[str] = list(engine.inputs)
        self.output_names = outputs
        self.metadata = metadata

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name."""
        from edgeprune.runtimes.cuda_ import CudaError

        try:
            found = self._engine.run(inputs)
        except JobError as error:
            raise error_of_job(error.kind, str(error)) from error
        except CudaError as error:
            raise DeviceError(str(error)) from error
        return {name: found[name] for name in self.output_names}


def _options(facts: EngineFacts | None) -> dict[str, Any]:
    return {"shapes": dict(facts.shapes), "dla_core": facts.dla_core} if facts else {}


def _layers(text: str) -> tuple[Layer, ...]:
    try:
        return layer_info_of(text).layers
    except ValueError as error:
        raise DeviceError(f"TensorRT's inspector cannot be read: {error}; see {json.dumps(text[:80])}") from error
