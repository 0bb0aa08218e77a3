"""ONNX Runtime behind the runtime seam: the CPU, CUDA and TensorRT providers, and TensorRT-RTX as a plugin.

An engine of this runtime is the graph as ONNX Runtime optimised it for this machine, still an ONNX file. Names, stride,
task and image size (``metadata_props``) stay in it, so that it can be decoded without the model it came from.
"""

from __future__ import annotations

import importlib.util
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.devices.agent import Telemetry, gpus
from edgeprune.devices.host import cpu_identity, host_conditions
from edgeprune.errors import DataError, DeviceError, StageError, TargetError
from edgeprune.progress import Progress, silent
from edgeprune.runtimes.base import Availability, BenchSettings, LayerTime, Runtime, Session
from edgeprune.runtimes.bench_worker import JobError, open_session
from edgeprune.runtimes.engine_file import timing_cache_for
from edgeprune.runtimes.onnx_facts import read_model, require_precision
from edgeprune.runtimes.worker import BENCH_WORKER, END_TO_END_WORKER, rounds_told, run_worker
from edgeprune.samples.measurement import Measurement
from edgeprune.samples.telemetry import over_launches

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
}
COMPILING = (PROVIDERS["tensorrt"], PROVIDERS["tensorrt-rtx"])  # they compile when they load: the engine is the graph
NO_GPU = ("nvidia-smi finds no NVIDIA GPU", "install the NVIDIA driver, then check: nvidia-smi")
RTX_PACKAGE = "onnxruntime-ep-nv-tensorrt-rtx-cu13"
ENGINE_KEY = "edgeprune.engine"  # metadata entry of an engine: the identity it was built for, and its precision
IDENTIFYING = ("name", "compute_cap", "driver_version")
LEAST_CPU_SHARE = 0.9
REPLACE_BY_GPU = "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"


class OnnxRuntime(Runtime):
    """ONNX Runtime with one execution provider, on this machine.

    Args:
        provider: ``cpu``, ``cuda``, ``tensorrt`` or ``tensorrt-rtx``.

    Raises:
        TargetError: another provider.
    """

    def __init__(self, provider: str = "cpu") -> None:
        if provider not in PROVIDERS:
            raise TargetError(f"provider {provider!r} is not one of {', '.join(PROVIDERS)}")
        self.provider = PROVIDERS[provider]
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
                f"pip uninstall -y onnxruntime onnxruntime-gpu && pip install {keep}",
            )
        if not wheels and importlib.util.find_spec("onnxruntime") is None:
            return Availability(
                False,
                "onnxruntime is not installed",
                "pip install " + ("onnxruntime" if cpu_only else "onnxruntime-gpu"),
            )
        try:
            import onnxruntime as ort
        except ImportError as error:
            return Availability(
                False,
                f"onnxruntime does not import ({error})",
                "pip install --force-reinstall " + (wheels[0] if wheels else "onnxruntime"),
            )

        if self.provider == PROVIDERS["tensorrt-rtx"]:
            return _rtx_availability(ort)
        here = ort.get_available_providers()
        if self.provider not in here:
            return Availability(False, f"onnxruntime {ort.__version__} has no {self.provider}", REPLACE_BY_GPU)
        if not cpu_only and not gpus():
            return Availability(False, *NO_GPU)
        return Availability(True, f"onnxruntime {ort.__version__}, {self.provider}")

    def identity(self) -> dict[str, str]:
        """CPU with its instruction sets (optimised graphs depend on them), runtime version, provider; a GPU if used."""
        self._require()
        import onnxruntime as ort

        found = {**cpu_identity(), "runtime": f"onnxruntime {ort.__version__}", "provider": self.provider}
        if self.provider == PROVIDERS["tensorrt-rtx"]:
            found["plugin"] = f"{RTX_PACKAGE} {metadata.version(RTX_PACKAGE)}"
        if self.provider != PROVIDERS["cpu"]:
            found["gpu"] = "; ".join(" ".join(gpu[key] for key in IDENTIFYING) for gpu in gpus())
        return found

    def engine_from_onnx(self, onnx: Path, engine: Path, *, precision: str = "fp32") -> None:
        """Write the graph as ONNX Runtime optimises it for this machine.

        Precision is the graph's own: ``fp16`` and ``int8`` are refused when ``onnx`` does not hold them. The TensorRT
        providers compile when they load, so their engine is the checked ONNX file itself.

        Raises:
            DataError: ``onnx`` cannot be read.
            StageError: the graph does not have the precision that was asked, or lost its metadata.
        """
        self._require()
        proto = read_model(onnx)
        require_precision(proto, precision, onnx)
        wanted = {entry.key: entry.value for entry in proto.metadata_props}
        partial = engine.with_name(f".{engine.name}.{uuid.uuid4().hex[:8]}.onnx")
        try:
            if self.provider not in COMPILING:
                self._optimise(onnx, partial)
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

    def _optimise(self, onnx: Path, optimised: Path) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3  # "hardware specific optimizations": that is wanted, and in the identity
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.optimized_model_filepath = str(optimised)
        try:
            ort.InferenceSession(str(onnx), options, providers=[self.provider])
        except Exception as error:  # ONNX Runtime's exceptions have no common public base
            raise StageError(f"{onnx}: ONNX Runtime cannot compile it: {str(error).splitlines()[0]}") from error

    @contextmanager
    def session(self, model: Path, *, threads: int = 0) -> Iterator[Session]:
        """Load a model in this process. An engine built for another machine is refused (``DeviceError``)."""
        self._require()
        try:
            loaded = OrtSession(open_session(Path(model), self.provider, threads, self._options()))
        except JobError as error:
            raise _mapped(error) from error
        self._refuse_foreign(Path(model), loaded.metadata.get(ENGINE_KEY))
        yield loaded

    def latency(
        self, models: Sequence[Path], settings: BenchSettings, *, progress: Progress = silent
    ) -> list[Measurement]:
        """Time the models in fresh processes, one a launch, each with all models; see
        :mod:`edgeprune.runtimes.bench_worker` and, for the scope ``end_to_end``, its sibling."""
        launches = max(1, min(settings.launches, settings.rounds))
        identity, before = self.identity(), self._host()
        rows: list[list[dict[str, Any]]] = [[] for _ in models]
        hosts, watched = [], []
        for launch in range(launches):
            # Loaded in another order each time, so that no model always lies where another does.
            shift = launch % max(1, len(models))
            order = [*range(shift, len(models)), *range(shift)] if not settings.stand_in else range(len(models))
            result = self._launch([models[index] for index in order], settings, launch, launches, progress)
            hosts.append(result["host"])
            watched.append(result["conditions"])
            for index, row in zip(order, result["models"], strict=True):
                rows[index].append(row)
        after = self._host()
        least = [min(len(row["values"]) for row in launch) for launch in zip(*rows, strict=True)]
        return [
            Measurement(
                name="latency",
                unit="ms",
                values=tuple(value for row in kept for value in row["values"]),
                warmups=tuple(value for row in kept for value in row["warmups"]),
                conditions={
                    "identity": identity,
                    "runtime": self.name,
                    "provider": self.provider,
                    "threads": settings.threads,
                    "batch": next(iter(kept[0]["shapes"].values()))[0],
                    "shapes": kept[0]["shapes"],
                    "scope": settings.scope,
                    "per_round": settings.per_round,
                    "launches": least,
                    "copies": settings.copies,
                    "cuda_graph": False,
                    "nodes": kept[0]["nodes"],
                    "model": Path(path).name,
                    "models_in_run": len(models),
                    "warm": all(row["warm"] for row in kept),
                    "load_ms": kept[0]["load_ms"],
                    "interrupted_share": _mean([row["interrupted_share"] for row in kept], least),
                    "cpu_share": (share := _mean([row["cpu_share"] for row in kept], least)),
                    "contended": self._contended(share, settings.threads),
                    **(
                        {"cpu_ms": [value for row in kept for value in row["cpu_ms"]]}
                        if self._one_core(settings.threads)
                        else {}
                    ),
                    **{key: kept[-1][key] for key in ("parts_ms", "boxes", "frames") if key in kept[-1]},
                    **({"stand_in": True} if settings.stand_in else {}),
                    "worker": hosts[0],
                    "host": before,
                    "load_average_after": after["load_average"],
                    "temperature_after_c": after["temperature_c"],
                    **over_launches(watched),
                },
                simulated=self.simulated,
            )
            for path, kept in zip(models, rows, strict=True)
        ]

    def _launch(
        self, models: Sequence[Path], settings: BenchSettings, launch: int, launches: int, progress: Progress
    ) -> dict[str, Any]:
        rounds = settings.rounds * (launch + 1) // launches - settings.rounds * launch // launches
        job = self._job("latency", models, settings.threads) | {
            "warmup_s": settings.warmup_s,
            "warmup_runs": settings.warmup_runs,
            "rounds": rounds,
            "per_round": settings.per_round,
            "time_limit_s": settings.time_limit_s / launches,
            "seed": settings.seed,
            "batch": settings.batch,
            "imgsz": settings.imgsz,
            "cpus": settings.cpus,
            "copies": settings.copies,
            "priority": settings.priority,
            "frames": [str(Path(frame).resolve()) for frame in settings.frames],
            "stand_in": settings.stand_in,
        }

        module = END_TO_END_WORKER if settings.scope == "end_to_end" else BENCH_WORKER
        return self._work(job, rounds_told(progress, launch * rounds, settings.rounds), module=module)

    def _one_core(self, threads: int) -> bool:
        """Whether a run keeps one core busy and nothing else, so that processor time means something."""
        return self.provider == PROVIDERS["cpu"] and threads == 1

    def _contended(self, cpu_share: float, threads: int) -> bool:
        """Whether a run had to share its core: it was given less of it than the clock went on."""
        return self._one_core(threads) and cpu_share < LEAST_CPU_SHARE

    def layer_times(self, model: Path, *, threads: int = 1, runs: int = 30) -> list[LayerTime]:
        """Per-node times in order of execution, in a fresh process; ``detail`` has shapes, provider and median."""
        result = self._work(self._job("profile", [model], threads) | {"runs": runs})
        return [
            LayerTime(
                name=row["name"],
                op=row["op"],
                mean_ms=row["mean_ms"],
                detail={key: value for key, value in row.items() if key not in ("name", "op", "mean_ms")},
            )
            for row in result["layers"]
        ]

    def end_to_end(
        self, model: Path, *, image: Path | None = None, threads: int = 1, runs: int = 50
    ) -> dict[str, Any] | None:
        """Time a detector from frame to boxes; see :mod:`edgeprune.runtimes.end_to_end_worker`."""
        if image is not None and not image.is_file():
            raise DataError(f"{image}: no such file")
        job = self._job("end_to_end", [model], threads)
        return self._work(
            job | {"runs": runs, "image": None if image is None else str(image.resolve())}, module=END_TO_END_WORKER
        )

    def peak_memory(self, model: Path, *, threads: int = 1) -> dict[str, float]:
        """Peak resident memory of a fresh process that runs only this model, and the model's part of it, in bytes."""
        return self._work(self._job("memory", [model], threads))

    def _work(
        self,
        job: Mapping[str, Any],
        told: Callable[[dict[str, Any]], None] | None = None,
        *,
        module: str = BENCH_WORKER,
    ) -> dict[str, Any]:
        """Run a worker here; a GPU is watched meanwhile (``conditions``)."""
        if self.provider == PROVIDERS["cpu"]:
            return {"conditions": {}, **run_worker(job, told, module=module)}
        watch = Telemetry()
        try:
            result = run_worker(job, told, module=module)
        finally:
            conditions = watch.finish(locked=False)
        return {"conditions": conditions, **result}

    def _host(self) -> dict[str, Any]:
        return host_conditions()

    def _job(self, task: str, models: Sequence[Path], threads: int) -> dict[str, Any]:
        self._require()
        if not models:
            raise TargetError("no model to measure; give at least one ONNX file or engine")
        for model in models:
            if not Path(model).is_file():
                raise DataError(f"{model}: no such file")
            self._refuse_foreign(Path(model))
        return {
            "task": task,
            "models": [str(Path(model).resolve()) for model in models],
            "provider": self.provider,
            "provider_options": self._options(),
            "threads": threads,
            "priority": True,
        }

    def _options(self) -> dict[str, str]:
        """What a provider compiles when it loads is kept for each device identity, so that it compiles once."""
        if self.provider != PROVIDERS["tensorrt-rtx"]:
            return {}
        return {"nv_runtime_cache_path": str(timing_cache_for(self.identity()).with_suffix(".rtx"))}

    def _require(self) -> None:
        if not (found := self.availability()).ok:
            raise DeviceError(f"{self.name}: {found.detail}; next: {found.remedy}")

    def _refuse_foreign(self, model: Path, written: str | None = None) -> None:
        """An optimised graph may hold layouts of one CPU only; on another it is refused before it gives nonsense."""
        written = written if written is not None else _engine_entry(model)
        if not written:
            return
        built, here = json.loads(written)["identity"], self.identity()
        differ = [f"{key} ({built.get(key)}, here {here[key]})" for key in here if built.get(key) != here[key]]
        if differ:
            raise DeviceError(
                f"{model}: this engine was built elsewhere: {', '.join(differ)}; build it here from the ONNX file"
            )


class OrtSession:
    """A loaded model; ``metadata`` is what its file carries (names, stride, task, imgsz)."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.input_names = [value.name for value in session.get_inputs()]
        self.output_names = [value.name for value in session.get_outputs()]
        self.input_shapes = {value.name: list(value.shape) for value in session.get_inputs()}
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name."""
        return dict(zip(self.output_names, self._session.run(self.output_names, dict(inputs)), strict=True))


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    return float(np.average(values, weights=weights))


def _mapped(error: JobError) -> DataError | DeviceError:
    return DataError(str(error)) if error.kind == "data" else DeviceError(str(error))


def _rtx_availability(ort: Any) -> Availability:
    """Whether the plugin, an ONNX Runtime that takes plugins and a card that it serves are here."""
    if not _installed(RTX_PACKAGE):
        return Availability(False, f"{RTX_PACKAGE} is not installed", f"pip install {RTX_PACKAGE}")
    if not hasattr(ort, "register_execution_provider_library"):
        seen = f"onnxruntime {ort.__version__} takes no plugins"
        return Availability(False, seen, 'pip install --upgrade "onnxruntime>=1.24"')
    if not (found := gpus()):
        return Availability(
            False, "nvidia-smi finds no NVIDIA GPU", "install the NVIDIA driver, then check: nvidia-smi"
        )
    serves = [gpu for gpu in found if gpu["compute_cap"] in ("8.6", "8.9") or _major(gpu["compute_cap"]) >= 12]
    if not serves:
        seen = ", ".join(f"{gpu['name']} ({gpu['compute_cap']})" for gpu in found)
        return Availability(
            False,
            f"TensorRT-RTX serves desktop RTX cards of compute capability 8.6, 8.9, 12.0 and newer; seen: {seen}",
            "set the target's runtime to onnxruntime-cuda or tensorrt",
        )
    return Availability(True, f"onnxruntime {ort.__version__}, {RTX_PACKAGE} {metadata.version(RTX_PACKAGE)}")


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


def _engine_entry(path: Path) -> str:
    """The engine entry of an ONNX file's metadata, or an empty string; a file that cannot be parsed has none."""
    if ENGINE_KEY.encode() not in path.read_bytes():
        return ""
    try:
        props = read_model(path).metadata_props
    except DataError:
        return ""
    return next((entry.value for entry in props if entry.key == ENGINE_KEY), "")
