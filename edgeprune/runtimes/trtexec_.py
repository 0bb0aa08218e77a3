"""trtexec behind the runtime seam: a device needs nothing but TensorRT's own program, over SSH as well as here.

trtexec times one engine a process. To compare two, short processes take turns, so that what slows the device slows
both; a process is a block of neighbouring samples, and the gates are told so (``per_round``, ``processes``).
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.devices.base import Completed, Device
from edgeprune.devices.host import host_conditions
from edgeprune.devices.local import LocalDevice
from edgeprune.errors import DataError, DeviceError, StageError, TargetError, ToolError
from edgeprune.progress import Progress, silent
from edgeprune.runtimes.base import Availability, BenchSettings, LayerTime, Runtime, Session
from edgeprune.runtimes.engine_file import EngineFacts, read_facts, refuse_foreign, timing_cache_for, write_facts
from edgeprune.runtimes.identity import identity_on
from edgeprune.runtimes.layer_info import Layer, LayerInfo, layer_info_of
from edgeprune.runtimes.onnx_facts import onnx_facts
from edgeprune.runtimes.trtexec_argv import (
    TRTEXEC,
    Version,
    build_argv,
    info_argv,
    outputs_argv,
    profile_argv,
    required,
    shown_version,
    time_argv,
    version_argv,
    version_from_banner,
)
from edgeprune.runtimes.trtexec_output import Settings, failure, outputs_of, profile_of, settings_used, times_of
from edgeprune.samples.measurement import Measurement

PROGRAMS = (TRTEXEC, "trtexec", "/opt/tensorrt/bin/trtexec")
PROCESSES = 24  # of each model; the ratio's gate wants 20 blocks
FEWEST_PROCESSES = 8  # blocks below which no ratio is formed at all
SPARE = 2  # samples asked for and dropped: the first after the warm-up still pays for it
VERSION_S, RUN_S, BUILD_S = 60.0, 600.0, 7200.0  # longest runs, in seconds; an INT8 build on an Orin Nano takes minutes


@dataclass(frozen=True)
class _Ready:
    """An engine that lies on the device: its path there, and what is known of it."""

    path: str
    facts: EngineFacts | None

    @property
    def options(self) -> dict[str, Any]:
        """What every run of it has to repeat."""
        if self.facts is None:
            return {}
        return {"shapes": self.facts.shapes, "dla_core": self.facts.dla_core}


class TrtExec(Runtime):
    """NVIDIA's command-line builder and timer, part of every JetPack.

    Args:
        device: where it runs; this machine when None.
        dla_core: build engines for this DLA core, with fallback to the GPU.
        program: path of trtexec on the device; found where NVIDIA's packages put it when empty.
        keep_timing_cache: keep a timing cache for each device identity on this machine.
    """

    name = "trtexec"
    suffix = ".engine"
    fit_for_dataset = False

    def __init__(
        self,
        device: Device | None = None,
        *,
        dla_core: int | None = None,
        program: str = "",
        keep_timing_cache: bool = True,
    ) -> None:
        self.device: Device = device if device is not None else LocalDevice()
        self.simulated = self.device.simulated
        self.dla_core = dla_core
        self.keep_timing_cache = keep_timing_cache
        self._programs = (program,) if program else PROGRAMS
        self._found: tuple[str, Version] | None = None

    def availability(self) -> Availability:
        """Whether the device has a trtexec whose command line is known."""
        try:
            program, version = self._program()
        except DeviceError as error:
            detail, _, remedy = str(error).partition("; next: ")
            return Availability(False, detail, remedy or "on a Jetson: sudo apt install nvidia-jetpack")
        return Availability(True, f"trtexec {shown_version(version)} at {program} on {self.device.name}")

    def identity(self) -> dict[str, str]:
        """The device's own, TensorRT's version, and the GPU where nvidia-smi names one."""
        _, version = self._program()
        return identity_on(self.device, f"trtexec {shown_version(version)}", self.dla_core)

    def engine_from_onnx(self, onnx: Path, engine: Path, *, precision: str = "fp32") -> None:
        """Build on the device and bring the engine back, with its facts beside it and the builder's log.

        Raises:
            DataError: ``onnx`` cannot be read.
            StageError: the graph does not have the precision that was asked, or TensorRT cannot build it.
        """
        with self.device.workspace() as folder:
            log = engine.with_name(engine.name + ".log")
            ready = self._built(folder, Path(onnx), "0", precision, log)
            partial = engine.with_name(f".{engine.name}.partial")
            try:
                self.device.fetch(ready.path, partial)
                partial.replace(engine)
            finally:
                partial.unlink(missing_ok=True)
        assert ready.facts is not None  # a build always has them
        write_facts(engine, ready.facts)

    def layer_info(self, model: Path) -> tuple[Layer, ...]:
        """Layers of an engine: from its facts, else by loading it on the device."""
        model = self._checked(model)
        if (facts := read_facts(model)) is not None:
            return facts.layers
        with self.device.workspace() as folder:
            return self._info(folder, self._on_device(folder, model, 0)).layers

    @contextmanager
    def session(self, model: Path, *, threads: int = 0) -> Iterator[Session]:
        """Run an engine, or an ONNX file that is built first, a process an inference: slow for a whole dataset."""
        with self.device.workspace() as folder:
            yield _Running(self, folder, self._on_device(folder, self._checked(model), 0))

    def latency(
        self, models: Sequence[Path], settings: BenchSettings, *, progress: Progress = silent
    ) -> list[Measurement]:
        """Time the models in processes that take turns; see the module's docstring.

        ``settings.threads``, ``seed`` and ``cpus`` have no meaning here: trtexec fills the inputs itself.
        """
        self._program()
        if not models:
            raise TargetError("no model to measure; give at least one ONNX file or engine")
        paths = [self._checked(model) for model in models]
        processes = max(FEWEST_PROCESSES, min(PROCESSES, settings.rounds))
        samples = -(-settings.rounds * settings.per_round // processes)
        runs: list[list[_Process]] = [[] for _ in paths]
        before = host_conditions() if self.device.name == "local" else {}
        with self.device.workspace() as folder:
            ready = [self._on_device(folder, path, number, progress) for number, path in enumerate(paths)]
            started = time.perf_counter()
            for number in range(processes):
                for place in range(len(paths)):
                    which = (place + number) % len(paths)
                    runs[which].append(self._timed(folder, ready[which], settings, samples))
                last = " / ".join(f"{float(np.median(one[-1].values)):.2f}" for one in runs)
                progress(f"processes in turn: {last} ms", done=number + 1, total=processes)
                if settings.time_limit_s and time.perf_counter() - started > settings.time_limit_s:
                    break
        identity = self.identity()
        return [
            Measurement(
                name="latency",
                unit="ms",
                values=tuple(value for process in taken for value in process.values),
                conditions={
                    "identity": identity,
                    "runtime": self.name,
                    "provider": self.name,
                    "threads": settings.threads,
                    "batch": self._batch(one, settings),
                    "shapes": {entry.name: list(entry.shape) for entry in one.facts.inputs} if one.facts else {},
                    "per_round": samples,
                    "processes": [len(process.values) for process in taken],
                    "copies": settings.copies,
                    "scope": "model",
                    "span": "copies in, inference, copies out" if settings.copies else "inference on the device alone",
                    "cuda_graph": all(process.settings.cuda_graph for process in taken),
                    "cuda_graph_asked": settings.cuda_graph,
                    "spin_wait": all(process.settings.spin for process in taken),
                    "in_flight": 1,
                    "enqueue_ms": [value for process in taken for value in process.enqueue],
                    "model": path.name,
                    "models_in_run": len(paths),
                    "host": before,
                    **self._seen(taken),
                },
                simulated=self.simulated or bool(one.facts and one.facts.simulated),
            )
            for path, one, taken in zip(paths, ready, runs, strict=True)
        ]

    def layer_times(self, model: Path, *, threads: int = 1, runs: int = 30) -> list[LayerTime]:
        """Per-layer times by TensorRT's profiler, in their own process; ``op`` is TensorRT's word for the layer."""
        program, version = self._program()
        with self.device.workspace() as folder:
            ready = self._on_device(folder, self._checked(model), 0)
            types = {layer.name: layer.type for layer in ready.facts.layers} if ready.facts else {}
            target = f"{folder}/profile.json"
            argv = profile_argv(
                version, engine=ready.path, profile=target, iterations=runs, trtexec=program, **ready.options
            )
            self._run(argv, RUN_S, measured=True)
            return self._read(target, lambda text: profile_of(text, types))

    def _program(self) -> tuple[str, Version]:
        if self._found is None:
            for program in self._programs:
                try:
                    done = self.device.run(version_argv(program), timeout_s=VERSION_S)
                except ToolError:
                    continue  # it is not there, or is no program
                if done.returncode in (126, 127):
                    continue
                self._found = program, required(version_from_banner(done.stdout + done.stderr))
                return self._found
            listed = ", ".join(self._programs)
            raise DeviceError(
                f"{self.device.name} has no trtexec ({listed}); next: on a Jetson: sudo apt install nvidia-jetpack"
            )
        return self._found

    def _checked(self, model: Path) -> Path:
        self._program()  # whether it can be used at all is the first thing to say
        model = Path(model)
        if not model.is_file():
            raise DataError(f"{model}: no such file")
        return model

    def _on_device(self, folder: str, model: Path, number: int, progress: Progress = silent) -> _Ready:
        if model.suffix == ".onnx":
            progress(f"building {model.name} on {self.device.name}", done=0, total=0)
            return self._built(folder, model, str(number), "fp32", None)
        facts = read_facts(model)
        refuse_foreign(model, facts, self.identity())
        remote = f"{folder}/{number}.engine"
        self.device.send(model, remote)
        return _Ready(remote, facts)

    def _built(self, folder: str, onnx: Path, name: str, precision: str, log: Path | None) -> _Ready:
        """Build inside ``folder`` on the device; the engine stays there."""
        program, version = self._program()
        graph, identity = onnx_facts(onnx, precision=precision), self.identity()
        paths = {kind: f"{folder}/{name}.{kind}" for kind in ("onnx", "engine", "layers.json", "cache")}
        self.device.send(onnx, paths["onnx"])
        cache = timing_cache_for(identity) if self.keep_timing_cache else None
        if cache is not None and cache.is_file():
            self.device.send(cache, paths["cache"])
        argv = build_argv(
            version,
            onnx=paths["onnx"],
            engine=paths["engine"],
            layer_info=paths["layers.json"],
            timing_cache=paths["cache"] if cache is not None else "",
            shapes=graph.free_shapes(),
            dla_core=self.dla_core,
            trtexec=program,
        )
        started = time.perf_counter()
        try:
            done = self._run(argv, BUILD_S, measured=True)
        except ToolError as error:
            if log is not None:
                log.write_text(error.tail + "\n")
            raise StageError(f"{onnx}: {error}") from error
        taken = time.perf_counter() - started
        if log is not None:
            log.write_text(done.stdout + done.stderr)
        if cache is not None:
            self._keep(paths["cache"], cache)
        info = self._read(paths["layers.json"], layer_info_of)
        return _Ready(
            paths["engine"],
            EngineFacts(
                builder=f"trtexec {shown_version(version)}",
                identity=identity,
                precision=precision,
                inputs=graph.inputs,
                outputs=graph.outputs,
                metadata=graph.metadata,
                layers=info.layers,
                shapes=graph.free_shapes(),
                dla_core=self.dla_core,
                build_s=taken,
                simulated=self.simulated,
            ),
        )

    def _keep(self, remote: str, cache: Path) -> None:
        # the cache only makes the next build faster: a home that cannot be written to is no reason to fail this one
        with contextlib.suppress(OSError, DeviceError, ToolError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            self.device.fetch(remote, cache)

    def _info(self, folder: str, ready: _Ready) -> LayerInfo:
        program, version = self._program()
        target = f"{folder}/layers.json"
        self._run(
            info_argv(version, engine=ready.path, layer_info=target, trtexec=program, **ready.options),
            RUN_S,
            measured=False,
        )
        return self._read(target, layer_info_of)

    def _timed(self, folder: str, ready: _Ready, settings: BenchSettings, samples: int) -> _Process:
        program, version = self._program()
        target = f"{folder}/times.json"
        argv = time_argv(
            version,
            engine=ready.path,
            times=target,
            copies=settings.copies,
            cuda_graph=settings.cuda_graph,
            iterations=samples + SPARE,
            warmup_ms=round(1000 * settings.warmup_s),
            trtexec=program,
            **ready.options,
        )
        done = self._run(argv, RUN_S, measured=True)
        times = self._read(target, times_of)
        try:
            used = settings_used(done.stdout + done.stderr)
        except ValueError as error:
            raise DeviceError(f"trtexec on {self.device.name} does not say how it timed: {error}") from error
        if used.copies != settings.copies or not used.one_at_a_time:
            raise DeviceError(
                f"trtexec on {self.device.name} timed with copies {'in' if used.copies else 'out'}"
                f"{'' if used.one_at_a_time else ' and several inferences in flight'}, asked was "
                f"{'in' if settings.copies else 'out'} and one at a time; its version's defaults are not known"
            )
        values = times.latency(settings.copies)[-samples:]
        if len(values) < samples:
            raise DeviceError(f"trtexec on {self.device.name} gave {len(values)} of {samples} samples; measure again")
        return _Process(values, times.enqueue[-samples:], used, done.conditions)

    def _run(self, argv: list[str], timeout_s: float, *, measured: bool) -> Completed:
        done = self.device.run(argv, timeout_s=timeout_s, measured=measured)
        if done.returncode != 0:
            raise failure(argv, done.returncode, f"{done.stdout}\n{done.stderr}")
        return done

    def _read(self, remote: str, parse: Any) -> Any:
        """A file of the device, parsed; what trtexec wrote wrongly is the device's fault, not the caller's."""
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
            local = Path(folder) / "file"
            self.device.fetch(remote, local)
            try:
                return parse(local.read_text())
            except (ValueError, KeyError) as error:
                raise DeviceError(f"what trtexec wrote on {self.device.name} cannot be read: {error}") from error

    def _batch(self, ready: _Ready, settings: BenchSettings) -> int:
        return ready.facts.inputs[0].shape[0] if ready.facts and ready.facts.inputs else settings.batch or 1

    @staticmethod
    def _seen(taken: Sequence[_Process]) -> dict[str, Any]:
        """What the device was like over all processes: the last word on everything, but any throttling counts."""
        seen: dict[str, Any] = {}
        for process in taken:
            seen.update(process.conditions)
        if any("throttled" in process.conditions for process in taken):
            seen["throttled"] = any(process.conditions.get("throttled") for process in taken)
        watts = [
            told["power_w_mean"] for one in taken if "power_w_mean" in (told := one.conditions.get("telemetry", {}))
        ]
        if watts:  # of all processes, not of the last one
            seen["telemetry"] = {**seen["telemetry"], "power_w_mean": sum(watts) / len(watts)}
        if any("waited_s" in process.conditions for process in taken):
            seen["waited_s"] = sum(float(process.conditions.get("waited_s", 0)) for process in taken)
        return seen


@dataclass(frozen=True)
class _Process:
    """What one timing process gave."""

    values: tuple[float, ...]
    enqueue: tuple[float, ...]
    settings: Settings
    conditions: Mapping[str, Any]


class _Running:
    """An engine that lies on the device; every run is a process there."""

    def __init__(self, runtime: TrtExec, folder: str, ready: _Ready) -> None:
        self._runtime, self._folder, self._ready = runtime, folder, ready
        facts = ready.facts
        self.input_names = [one.name for one in facts.inputs] if facts else []
        self.output_names: list[str] = list(facts.outputs) if facts else []
        self.metadata: dict[str, str] = dict(facts.metadata) if facts else {}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name, as float32."""
        runtime, facts = self._runtime, self._ready.facts
        types = {one.name: one.dtype for one in facts.inputs} if facts else {}
        program, version = runtime._program()
        remote: dict[str, str] = {}
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
            for number, (name, values) in enumerate(inputs.items()):
                local = Path(folder) / f"{number}.bin"
                np.ascontiguousarray(values, dtype=types.get(name, values.dtype)).tofile(local)
                remote[name] = f"{self._folder}/in{number}.bin"
                runtime.device.send(local, remote[name])
        target = f"{self._folder}/outputs.json"
        argv = outputs_argv(
            version, engine=self._ready.path, inputs=remote, outputs=target, trtexec=program, **self._ready.options
        )
        runtime._run(argv, RUN_S, measured=False)
        found = runtime._read(target, outputs_of)
        if not self.output_names:  # trtexec writes them in no particular order; the graph's is in the facts
            self.output_names = sorted(found)
        return {name: found[name] for name in self.output_names}
