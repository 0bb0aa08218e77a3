"""trtexec behind the runtime seam: a device needs nothing but TensorRT's own program, over SSH as well as here.

trtexec times one engine a process. To compare two, short processes take turns, so that what slows the device slows
both; each process is a launch and a block of neighbouring samples, and the measurement's conditions say so. The turns
are one job of the device, so that the time goes into trtexec and not into connections.
"""

from __future__ import annotations

import contextlib
import shlex
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TypedDict, TypeVar

import numpy as np

from edgeprune.agent.host import HostState, host_state
from edgeprune.agent.programs import Turns
from edgeprune.agent.trtexec import NOT_EXECUTABLE, PROGRAMS, crashed_behind_its_work, in_profile, remedy_of
from edgeprune.artifact import sha256_of
from edgeprune.devices.base import Completed, Device
from edgeprune.devices.local import LocalDevice
from edgeprune.errors import DataError, DeviceError, StageError, TargetError, ToolError
from edgeprune.model_file import require_model
from edgeprune.progress import Progress, silent
from edgeprune.reading import exists
from edgeprune.runtimes.base import (
    AS_EXPORTED,
    NO_GPU,
    Availability,
    BenchSettings,
    FreeAxes,
    LayerTime,
    Runtime,
    Session,
)
from edgeprune.runtimes.engine_file import (
    EngineFacts,
    bare_file,
    known_metadata,
    outputs_in_order,
    publish,
    read_facts,
    refuse_foreign,
    require_shape,
    timing_cache_for,
)
from edgeprune.runtimes.identity import identity_on
from edgeprune.runtimes.image_input import images_for
from edgeprune.runtimes.layer_info import Layer, layer_info_of
from edgeprune.runtimes.onnx_facts import input_types, onnx_facts, require_single_file
from edgeprune.runtimes.trtexec_argv import (
    Program,
    Version,
    build_argv,
    info_argv,
    outputs_argv,
    power_argv,
    profile_argv,
    require_known,
    shown_version,
    time_argv,
    version_argv,
    version_from_banner,
    weakly_typed,
)
from edgeprune.runtimes.trtexec_output import (
    INFERENCE_BEGINS,
    INFERENCE_ENDS,
    Bindings,
    Settings,
    bindings_of,
    expected_size,
    failure,
    meaning_of,
    outputs_of,
    pace_of,
    profile_of,
    settings_used,
    times_of,
)
from edgeprune.samples.conditions import Conditions, DeviceState, GpuTiming, batch_of, gpu_span
from edgeprune.samples.gates import MIN_BLOCK_PAIRS
from edgeprune.samples.measurement import Measurement
from edgeprune.samples.telemetry import over_launches
from edgeprune.target.releases import precision_in_graph
from edgeprune.target.schema import Builder, Target

MAX_PROCESSES = 24  # of each model in a first look; the ratio's gate wants 20 blocks
MIN_PROCESSES = 8  # blocks below which no ratio is formed at all
DROPPED_SAMPLES = 2  # asked for in addition: the first after the warm-up still pays for it
ENERGY_RUNS = 6  # of each model; fewer have no interval at 95 %
ENERGY_S = 2
ENERGY_WARMUP_MS = 1000  # nvidia-smi tells the mean power of the last second
MIN_POWER_READINGS = 3
VERSION_TIMEOUT_S = 60.0
RUN_TIMEOUT_S = 600.0
BUILD_TIMEOUT_S = 7200.0  # an INT8 build on an Orin Nano takes minutes
TAKEN_ALL_THE_SAME = "[edgeprune] trtexec crashed behind its last line; the engine was complete and is taken\n"
TYPES = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "UINT8": "uint8", "INT32": "int32", "INT64": "int64"}
"""TensorRT's words for the types of tensors, to numpy's."""
FLOATS = {4: "float32", 2: "float16"}  # by the bytes of a value: images are fed, which are floats
Parsed = TypeVar("Parsed")


class EngineOptions(TypedDict, total=False):
    """What every command repeats that loads an engine."""

    shapes: Mapping[str, tuple[int, ...]]
    dla_core: int | None


@dataclass(frozen=True)
class _DeviceEngine:
    """An engine that lies on the device: its path there, and what is known of it."""

    path: str
    facts: EngineFacts | None
    bindings: Bindings | None = None  # asked of the device, of an engine without facts

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of its inputs, by name."""
        if self.facts is not None:
            return {entry.name: entry.shape for entry in self.facts.inputs}
        return dict(self.bindings.inputs) if self.bindings is not None else {}

    @property
    def options(self) -> EngineOptions:
        """What every command that loads it repeats."""
        return {} if self.facts is None else {"shapes": self.facts.shapes, "dla_core": self.facts.dla_core}


@dataclass(frozen=True)
class _Launch:
    """What one timing process gave."""

    latency_ms: tuple[float, ...]
    enqueue_ms: tuple[float, ...]
    settings: Settings
    device: DeviceState


@dataclass(frozen=True)
class _PowerRun:
    """What one process of some seconds gave; no energy where no power was told while it worked."""

    energy_mj: float | None
    settings: Settings
    device: DeviceState


class TrtExec(Runtime):
    """NVIDIA's command-line builder and timer, part of every JetPack.

    Args:
        device: where it runs; this machine when None.
        dla_core: build engines for this DLA core, with fallback to the GPU.
        program: what starts trtexec on the device; found where NVIDIA's packages put it when empty.
        builder: settings of engines that are built.
        precision: of engines that are built from an ONNX file on the way; the graph's own for a strongly typed builder.
        keep_timing_cache: keep a timing cache for each device identity on this machine.
    """

    name = "trtexec"
    suffix = ".engine"
    fit_for_dataset = False
    unused_options = frozenset(
        ("--threads", "--cpus", "--launches", "--warmup-runs", "--no-priority", "--end-to-end", "--image")
    )

    def __init__(
        self,
        device: Device | None = None,
        *,
        dla_core: int | None = None,
        program: Program = (),
        builder: Builder | None = None,
        precision: str = "fp32",
        keep_timing_cache: bool = True,
    ) -> None:
        self.device: Device = device if device is not None else LocalDevice()
        self.simulated = self.device.simulated
        self.dla_core = dla_core
        self.builder = builder
        self.precision = precision
        self.keep_timing_cache = keep_timing_cache
        self._programs: tuple[Program, ...] = (tuple(program),) if program else tuple((path,) for path in PROGRAMS)
        self._trtexec: tuple[Program, Version] | None = None

    @classmethod
    def of_target(
        cls, target: Target, device: Device | None = None, *, program: Program = (), keep_timing_cache: bool = True
    ) -> TrtExec:
        """The one that a profile describes; ``program`` takes the place of the profile's."""
        return cls(
            device,
            dla_core=target.device.dla_core,
            program=program or target.trtexec_program,
            builder=target.builder,
            precision=target.precision,
            keep_timing_cache=keep_timing_cache,
        )

    def availability(self) -> Availability:
        """Whether the device has a trtexec whose command line is known, and a GPU that it can build for: it starts
        without one, and only building fails."""
        try:
            program, version = self.find_program()
        except DeviceError as error:
            detail, _, remedy = str(error).partition("; next: ")
            if not remedy:  # of the device, not of the program
                raise
            return Availability(False, detail, remedy)
        where = f"at {program[0]}" if len(program) == 1 else f"by {shlex.join(program)}"
        found = f"trtexec {shown_version(version)} {where} on {self.device.name}"
        if not self.device.facts().has_gpu:
            return Availability(False, f"{found}: {NO_GPU.detail}", self.device.typed(NO_GPU.remedy))
        return Availability(True, found)

    def identity(self) -> dict[str, str]:
        """The device's own, TensorRT's version, and the DLA core where there is one."""
        return identity_on(self.device, f"trtexec {self.tensorrt_version()}", self.dla_core)

    def tensorrt_version(self) -> str:
        """As trtexec's banner says."""
        _, version = self.find_program()
        return shown_version(version)

    def engine_from_onnx(
        self,
        onnx: Path,
        engine: Path,
        *,
        precision: str = "fp32",
        keep_float: Collection[str] = (),
        free: FreeAxes = AS_EXPORTED,
    ) -> None:
        """Build on the device and bring the engine back, with its facts beside it and the builder's log.

        Raises:
            DataError: ``onnx`` cannot be read.
            StageError: the graph does not have the precision that was asked, or TensorRT cannot build it.
        """
        with self.device.workspace() as folder:
            log = engine.with_name(engine.name + ".log")
            built = self._build(folder, Path(onnx), "0", precision, log, keep_float, free)
            partial = engine.with_name(f".{engine.name}.partial")
            try:
                self.device.fetch(built.path, partial)
                assert built.facts is not None  # a build always has them
                publish(partial, engine, built.facts)
            finally:
                partial.unlink(missing_ok=True)

    def precision_of_engine(self, held: str) -> str:
        """The graph's own; for a builder that chooses precisions the target's, where the graph has no other."""
        _, version = self.find_program()
        chooses = weakly_typed(version) and (held == "fp32" or self.precision.startswith(held))
        return self.precision if chooses else held

    @property
    def chooses_precision(self) -> bool:
        """That of 8.5 and 8.6 does, and that of a DLA."""
        _, version = self.find_program()
        return weakly_typed(version) or self.dla_core is not None

    def layer_info(self, model: Path) -> tuple[Layer, ...]:
        """Layers of an engine: from its facts, else by loading it on the device."""
        model = self._require_file(model)
        if (facts := read_facts(model)) is not None:
            return facts.layers
        program, version = self.find_program()
        with self.device.workspace() as folder:
            engine, output = self._load(folder, model, 0), f"{folder}/layers.json"
            argv = info_argv(version, engine=engine.path, layer_info=output, trtexec=program, **engine.options)
            self.run(argv, RUN_TIMEOUT_S)
            return self.read(output, layer_info_of).layers

    @contextmanager
    def session(self, model: Path, *, threads: int = 0) -> Iterator[Session]:
        """Run an engine, or an ONNX file that is built first, a process an inference: slow for a whole dataset."""
        with self.device.workspace() as folder:
            model = self._require_file(model)
            yield _TrtExecSession(self, folder, model, self._known(folder, self._load(folder, model, 0)))

    def latency(
        self, models: Sequence[Path], settings: BenchSettings, *, progress: Progress = silent
    ) -> list[Measurement]:
        """Time the models in processes that take turns; see the module's docstring.

        ``settings.threads``, ``seed`` and ``cpus`` have no meaning here: trtexec fills the inputs itself.
        """
        self.find_program()
        if not models:
            raise TargetError("no model to measure; give at least one ONNX file or engine")
        paths = [self._require_file(model) for model in models]
        looks = max(1, round(settings.effort))  # of the size of the first one
        first = max(MIN_PROCESSES, min(MAX_PROCESSES, settings.rounds // looks))
        processes = first * looks
        samples = -(-settings.rounds * settings.per_round // processes)
        launches: list[list[_Launch]] = [[] for _ in paths]
        host = host_state() if self.device.name == "local" else None

        def take(index: int, done: Completed) -> None:
            launches[index].append(self._launch(done, settings, samples))
            rounds = len(launches[index])
            if any(len(own) != rounds for own in launches):
                return
            latest_ms = [float(np.median(own[-1].latency_ms)) for own in launches]
            text = f"processes in turn: {' / '.join(f'{ms:.2f}' for ms in latest_ms)} ms"
            progress(text, done=rounds, total=processes, latest_ms=latest_ms)

        with self.device.workspace() as folder:
            engines = self._loaded(folder, paths, settings, progress)
            images = [self._images(folder, path, number, engines, settings) for number, path in enumerate(paths)]
            times = f"{folder}/times.json"
            turns = Turns(
                programs=tuple(
                    tuple(self._time_argv(engine, settings, samples, times, inputs))
                    for engine, inputs in zip(engines, images, strict=True)
                ),
                writes=times,
                rounds=processes,
                # a ratio that the time limit leaves without its blocks would be measured again, from the start; and one
                # that is measured again tells more by more blocks alone
                least_rounds=min(first, MIN_BLOCK_PAIRS) * looks if len(paths) > 1 else 1,
                time_limit_s=settings.time_limit_s,
                timeout_s=RUN_TIMEOUT_S,
            )
            self.device.run_turns(turns, take)
        if not all(launches):
            raise DeviceError(f"trtexec on {self.device.name} timed nothing; measure again")
        return [
            self._measurement(
                "latency",
                "ms",
                [ms for launch in own for ms in launch.latency_ms],
                path,
                engine,
                settings,
                models=len(paths),
                launches=[len(launch.latency_ms) for launch in own],
                used=[launch.settings for launch in own],
                device=over_launches([launch.device for launch in own]),
                host=host,
                # one a sample, or none: a process whose clocks were printed too coarsely tells none of its own
                enqueue_ms=[ms for launch in own for ms in launch.enqueue_ms if all(one.enqueue_ms for one in own)],
            )
            for path, engine, own in zip(paths, engines, launches, strict=True)
        ]

    def energy(
        self, models: Sequence[Path], settings: BenchSettings, *, progress: Progress = silent
    ) -> list[Measurement] | None:
        """Power of the board while an engine runs, times the pace at which it does: one value a process of some
        seconds, the models in turns. None where no power is told."""
        if not self.device.tells_power():
            return None
        paths = [self._require_file(model) for model in models]
        program, version = self.find_program()
        runs: list[list[_PowerRun]] = [[] for _ in paths]

        def take(index: int, done: Completed) -> None:
            runs[index].append(self._power_run(done))
            progress("power in turns", done=min(map(len, runs)), total=ENERGY_RUNS)

        with self.device.workspace() as folder:
            engines = self._loaded(folder, paths, settings, progress)
            images = [self._images(folder, path, number, engines, settings) for number, path in enumerate(paths)]
            commands = [
                power_argv(
                    version,
                    engine=engine.path,
                    copies=settings.copies,
                    cuda_graph=settings.cuda_graph,
                    duration_s=ENERGY_S,
                    warmup_ms=ENERGY_WARMUP_MS,
                    inputs=inputs,
                    trtexec=program,
                    **engine.options,
                )
                for engine, inputs in zip(engines, images, strict=True)
            ]
            turns = Turns(
                programs=tuple(map(tuple, commands)),
                writes="",
                rounds=ENERGY_RUNS,
                least_rounds=ENERGY_RUNS,
                time_limit_s=0.0,
                timeout_s=RUN_TIMEOUT_S,
                begins=INFERENCE_BEGINS,
                ends=INFERENCE_ENDS,
            )
            self.device.run_turns(turns, take)
        values = [[run.energy_mj for run in own] for own in runs]
        if any(None in own or not own for own in values):
            return None
        return [
            self._measurement(
                "energy",
                "mJ",
                [mj for mj in own if mj is not None],
                path,
                engine,
                settings,
                models=len(paths),
                launches=[1] * len(own),
                used=[run.settings for run in of_model],
                device=over_launches([run.device for run in of_model]),
            )
            for path, engine, own, of_model in zip(paths, engines, values, runs, strict=True)
        ]

    def _measurement(
        self,
        name: str,
        unit: str,
        values: Sequence[float],
        path: Path,
        engine: _DeviceEngine,
        settings: BenchSettings,
        *,
        models: int,
        launches: Sequence[int],
        used: Sequence[Settings],
        device: DeviceState,
        host: HostState | None = None,
        enqueue_ms: Sequence[float] = (),
    ) -> Measurement:
        """What processes that took turns gave of one engine."""
        shapes, identity = engine.shapes, self.identity()
        return Measurement(
            name=name,
            unit=unit,
            values=tuple(values),
            conditions=Conditions(
                identity=identity,
                runtime=self.name,
                provider=self.name,
                threads=settings.threads,
                batch=batch_of(shapes),
                shapes=shapes,
                scope="model",
                copies=settings.copies,
                cuda_graph=all(one.cuda_graph for one in used),
                samples_per_block=min(launches),  # each process is a block
                launches=tuple(launches),
                model=path.name,
                models_in_run=models,
                images=settings.images is not None,
                host=host,
                device=device,
                gpu=GpuTiming(
                    gpu_span(settings.copies),
                    settings.cuda_graph,
                    spin_wait=all(one.spin for one in used),
                    io_memory=_io_memory(identity, settings.copies),
                    enqueue_ms=tuple(enqueue_ms),
                ),
            ),
            simulated=self.simulated or bool(engine.facts and engine.facts.simulated),
        )

    def layer_times(
        self,
        model: Path,
        *,
        threads: int = 1,
        runs: int = 30,
        free: FreeAxes = AS_EXPORTED,
        cpus: tuple[int, ...] = (),
    ) -> list[LayerTime]:
        """Per-layer times by TensorRT's profiler, in their own process; ``op`` is TensorRT's word for the layer."""
        program, version = self.find_program()
        with self.device.workspace() as folder:
            engine, output = self._load(folder, self._require_file(model), 0, free), f"{folder}/profile.json"
            types = {layer.name: layer.type for layer in engine.facts.layers} if engine.facts else {}
            argv = profile_argv(
                version, engine=engine.path, profile=output, iterations=runs, trtexec=program, **engine.options
            )
            self.run(argv, RUN_TIMEOUT_S)
            return self.read(output, lambda text: profile_of(text, types))

    # ------------------------------------------------------------ on the device

    def find_program(self) -> tuple[Program, Version]:
        """What starts trtexec on the device, and its version; looked for once.

        Raises:
            DeviceError: there is none, it does not end, or its command line is not known.
        """
        if self._trtexec is None:
            broken: list[tuple[Program, str]] = []
            for program in self._programs:
                try:
                    done = self.device.run(version_argv(program), timeout_s=VERSION_TIMEOUT_S)
                except ToolError as error:
                    if error.returncode == 127:  # it is not there, or is no program
                        if (why := _why_not_started(program, error.tail)) is not None:
                            broken.append((program, why))
                        continue
                    by_hand = self.device.typed(shlex.join(version_argv(program)))
                    raise DeviceError(
                        f"trtexec on {self.device.name} does not say its version: {error}; next: {by_hand}"
                    ) from error
                if done.returncode in (126, 127):  # of the loader, or of what should start it; of nothing, nothing
                    if said := f"{done.stdout}\n{done.stderr}".strip():
                        broken.append((program, said))
                    continue
                version = version_from_banner(done.stdout + done.stderr)
                self._trtexec = program, require_known(version, on_jetson=lambda: bool(self.device.facts().l4t))
                return self._trtexec
            raise self._none_starts(broken)
        return self._trtexec

    def _none_starts(self, broken: Sequence[tuple[Program, str]]) -> DeviceError:
        """That there is no trtexec, or none that starts, and what to do."""
        if broken:
            program, said = broken[0]
            text = f"trtexec on {self.device.name} does not start, by {shlex.join(program)}"
            why = meaning_of(said) or said.splitlines()[-1]
            return DeviceError(f"{text}: {why}; next: {remedy_of(program, said, self.device.typed)}")
        listed = ", ".join(shlex.join(program) for program in self._programs)
        text = f"{self.device.name} has no trtexec ({listed}; where it is elsewhere, the profile says: device.trtexec)"
        facts = self.device.facts()
        if facts.trtexecs:  # where nothing is looked for, but an archive of NVIDIA's is unpacked
            return DeviceError(f"{text}; next: in the profile, {in_profile(facts.trtexecs[0])}")
        package = "nvidia-jetpack" if facts.l4t else "libnvinfer-bin"
        return DeviceError(f"{text}; next: {self.device.typed(f'sudo apt install {package}')}")

    def run(self, argv: list[str], timeout_s: float) -> Completed:
        """Run trtexec, which uses the board's GPU whatever it does; ``ToolError``, with what its log means, when it
        fails."""
        return _succeeded(self.device.run(argv, timeout_s=timeout_s, measured=True))

    def read(self, remote: str, parse: Callable[[str], Parsed]) -> Parsed:
        """A file of the device, parsed; what trtexec wrote wrongly is the device's fault, not the caller's."""
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
            local = Path(folder) / "file"
            self.device.fetch(remote, local)
            return self._parsed(local.read_text(), parse)

    def _parsed(self, text: str, parse: Callable[[str], Parsed]) -> Parsed:
        try:
            return parse(text)
        except (ValueError, KeyError) as error:
            raise DeviceError(f"what trtexec wrote on {self.device.name} cannot be read: {error}") from error

    def _require_file(self, model: Path) -> Path:
        self.find_program()  # whether it can be used at all is the first thing to say
        model = Path(model)
        require_model(model, ".onnx", ".engine")
        return model

    def _loaded(
        self, folder: str, paths: Sequence[Path], settings: BenchSettings, progress: Progress
    ) -> list[_DeviceEngine]:
        """All models that take turns, of the batch and the size that are asked for."""
        engines: list[_DeviceEngine] = []
        for number, path in enumerate(paths):
            engine = self._known(folder, self._load(folder, path, number, settings.free, progress))
            require_shape(path, engine.shapes.values(), settings.free)
            engines.append(engine)
        return engines

    def _known(self, folder: str, engine: _DeviceEngine) -> _DeviceEngine:
        """The same, with what it takes and gives: where no facts say so, a run of it does."""
        if engine.facts is not None:
            return engine
        program, version = self.find_program()
        argv = time_argv(
            version,
            engine=engine.path,
            times=f"{folder}/bindings.json",
            copies=False,
            cuda_graph=False,
            iterations=1,
            warmup_ms=0,
            trtexec=program,
        )
        done = self.run(argv, RUN_TIMEOUT_S)
        return replace(engine, bindings=self._said(done, bindings_of))

    def _load(
        self, folder: str, model: Path, number: int, free: FreeAxes = AS_EXPORTED, progress: Progress = silent
    ) -> _DeviceEngine:
        """Put an engine on the device, or build it there from an ONNX file."""
        if model.suffix == ".onnx":
            progress(f"building {model.name} on {self.device.name}", done=0, total=0)
            return self._build(folder, model, str(number), self.precision_of_engine("fp32"), None, free=free)
        facts = read_facts(model)
        refuse_foreign(model, facts, self.identity())
        remote = f"{folder}/{number}.engine"
        with bare_file(model) as bare:
            self.device.send(bare, remote)
        return _DeviceEngine(remote, facts)

    def _build(
        self,
        folder: str,
        onnx: Path,
        name: str,
        precision: str,
        log: Path | None,
        keep_float: Collection[str] = (),
        free: FreeAxes = AS_EXPORTED,
    ) -> _DeviceEngine:
        """Build inside ``folder`` on the device; the engine stays there."""
        program, version = self.find_program()
        held = precision_in_graph(precision, shown_version(version))
        require_single_file(onnx)
        graph, identity = onnx_facts(onnx, precision=held, free=free), self.identity()
        if self.dla_core is not None and precision == "fp32":
            raise StageError(
                f"{onnx}: its graph is fp32, and a DLA computes in half precision or INT8; next: edgeprune quantize "
                f"{shlex.quote(str(onnx))} --precision fp16 -o half.onnx"
            )
        paths = {kind: f"{folder}/{name}.{kind}" for kind in ("onnx", "engine", "layers.json", "cache")}
        self.device.send(onnx, paths["onnx"])
        cache = timing_cache_for(identity) if self.keep_timing_cache else None
        with contextlib.suppress(OSError):  # as where it is written
            if cache is not None and cache.is_file():
                self.device.send(cache, paths["cache"])
        argv = build_argv(
            version,
            onnx=paths["onnx"],
            engine=paths["engine"],
            precision=precision,
            layer_info=paths["layers.json"],
            timing_cache=paths["cache"] if cache is not None else "",
            shapes=graph.free_shapes(),
            dla_core=self.dla_core,
            keep_float=keep_float,
            builder=self.builder,
            trtexec=program,
        )
        started = time.perf_counter()
        heard: list[str] = []
        try:
            done = self.device.run(argv, timeout_s=BUILD_TIMEOUT_S, measured=True, on_line=heard.append)
        except (ToolError, DeviceError) as error:  # what was heard before it died is all that is left of it
            error.log = "\n".join([*heard, str(error), ""])
            if log is not None:
                log.write_text(error.log, encoding="utf-8")
            if isinstance(error, DeviceError):
                raise
            raise StageError(f"{onnx}: {error}") from error
        build_s = time.perf_counter() - started
        said = f"{done.stdout}\n{done.stderr}"
        crashed = crashed_behind_its_work(done.returncode, said)
        if log is not None:
            log.write_text(done.stdout + done.stderr + (TAKEN_ALL_THE_SAME if crashed else ""), encoding="utf-8")
        if done.returncode != 0 and not crashed:
            error = failure(argv, done.returncode, said)
            raise StageError(f"{onnx}: {error}") from error
        if cache is not None:  # of a build that died the one from before is kept: its own may be half a file
            self._fetch_timing_cache(paths["cache"], cache)
        facts = EngineFacts(
            builder=f"trtexec {shown_version(version)}",
            command=shlex.join(argv).replace(f"{folder}/", ""),
            graph=sha256_of(onnx),
            identity=identity,
            precision=precision,
            inputs=graph.inputs,
            outputs=graph.outputs,
            metadata=graph.metadata,
            layers=self.read(paths["layers.json"], layer_info_of).layers,
            shapes=graph.free_shapes(),
            dla_core=self.dla_core,
            build_s=build_s,
            simulated=self.simulated,
        )
        return _DeviceEngine(paths["engine"], facts)

    def _fetch_timing_cache(self, remote: str, cache: Path) -> None:
        # the cache only makes the next build faster: a home that cannot be written to is no reason to fail this one
        with contextlib.suppress(OSError, DeviceError, ToolError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            self.device.fetch(remote, cache)

    def _images(
        self, folder: str, model: Path, number: int, engines: Sequence[_DeviceEngine], settings: BenchSettings
    ) -> dict[str, str]:
        """Put the images that fill an engine's input on the device; input to path, empty for noise."""
        facts = engines[number].facts
        inputs = list(facts.inputs) if facts else []
        values = images_for(settings, inputs, model)
        if values is None:
            return {}
        remote = f"{folder}/images{number}.bin"
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch:
            local = Path(scratch) / "images.bin"
            local.write_bytes(input_bytes(values, inputs[0].dtype))
            self.device.send(local, remote)
        return {inputs[0].name: remote}

    def _time_argv(
        self, engine: _DeviceEngine, settings: BenchSettings, samples: int, times: str, inputs: Mapping[str, str]
    ) -> list[str]:
        """One timing process."""
        program, version = self.find_program()
        return time_argv(
            version,
            engine=engine.path,
            times=times,
            copies=settings.copies,
            cuda_graph=settings.cuda_graph,
            iterations=samples + DROPPED_SAMPLES,
            warmup_ms=round(1000 * settings.warmup_s),
            inputs=inputs,
            trtexec=program,
            **engine.options,
        )

    def _launch(self, done: Completed, settings: BenchSettings, samples: int) -> _Launch:
        """What a timing process gave, when it timed what was asked."""
        times = self._parsed(_succeeded(done).written, times_of)
        used = self._said(done, settings_used)
        if used.copies != settings.copies or not used.one_at_a_time:
            raise DeviceError(
                f"trtexec on {self.device.name} timed with copies {'in' if used.copies else 'out'}"
                f"{'' if used.one_at_a_time else ' and several inferences in flight'}, asked was "
                f"{'in' if settings.copies else 'out'} and one at a time; its version's defaults are not known"
            )
        latency_ms = times.latency(settings.copies)[-samples:]
        if len(latency_ms) < samples:
            raise DeviceError(
                f"trtexec on {self.device.name} gave {len(latency_ms)} of {samples} samples; measure again"
            )
        return _Launch(latency_ms, times.enqueue[-samples:], used, done.device)

    def _power_run(self, done: Completed) -> _PowerRun:
        """Mean power of the timed part of a run, over its inferences a second."""
        count, seconds = self._said(_succeeded(done), pace_of)
        watts = [watts for before_end_s, watts in done.power_w if before_end_s <= seconds]
        energy_mj = 1000 * fmean(watts) * seconds / count if len(watts) >= MIN_POWER_READINGS else None
        return _PowerRun(energy_mj, self._said(done, settings_used), done.device)

    def _said(self, done: Completed, parse: Callable[[str], Parsed]) -> Parsed:
        """What a run's log says of itself."""
        try:
            return parse(done.stdout + done.stderr)
        except ValueError as error:
            raise DeviceError(f"trtexec on {self.device.name} does not say how it ran: {error}") from error


def _why_not_started(program: Program, tail: str) -> str | None:
    """Why a program that is there does not start; None where it is not there.

    Of a bare name the system's word may be about a folder of the PATH that this user may not read.
    """
    reason = tail.partition("does not start: ")[2]
    if "/" not in program[0] or "No such file" in reason:
        return None
    return NOT_EXECUTABLE if "Permission denied" in reason else reason


def _succeeded(done: Completed) -> Completed:
    if done.returncode != 0:
        raise failure(list(done.argv), done.returncode, f"{done.stdout}\n{done.stderr}")
    return done


class _TrtExecSession:
    """An engine that lies on the device; every run is a process there."""

    def __init__(self, runtime: TrtExec, folder: str, model: Path, engine: _DeviceEngine) -> None:
        self._runtime, self._folder, self._model, self._engine = runtime, folder, model, engine
        self._types: dict[str, str] = {}
        facts, told = engine.facts, engine.bindings
        self.input_names = list(engine.shapes)
        # trtexec writes them in no particular order
        self.output_names = outputs_in_order(model, told.outputs if told is not None else (), facts)
        self.metadata = known_metadata(model, facts)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name, as float32."""
        runtime, types = self._runtime, self._input_types(list(inputs))
        remote: dict[str, str] = {}
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
            for number, (name, values) in enumerate(inputs.items()):
                local = Path(folder) / f"{number}.bin"
                local.write_bytes(input_bytes(values, types[name]))
                remote[name] = f"{self._folder}/in{number}.bin"
                runtime.device.send(local, remote[name])
        tensors = runtime.read(self._run_on(remote), outputs_of)
        return {name: tensors[name] for name in self.output_names}

    def _run_on(self, inputs: Mapping[str, str]) -> str:
        """Run on files of the device; the file with the outputs, there."""
        program, version = self._runtime.find_program()
        engine, output = self._engine, f"{self._folder}/outputs.json"
        argv = outputs_argv(
            version, engine=engine.path, inputs=inputs, outputs=output, trtexec=program, **engine.options
        )
        self._runtime.run(argv, RUN_TIMEOUT_S)
        return output

    def _input_types(self, names: Sequence[str]) -> dict[str, str]:
        """Types of these inputs of the engine by name: in a file of another type trtexec reads other numbers, and says
        nothing where the file is twice as large. What is not fed is not asked for.

        Raises:
            DataError: nothing says them, or one is of a type that cannot be fed.
            ToolError: the engine does not run.
        """
        if missing := [name for name in names if name not in self._types]:
            engine, told = self._engine, self._engine.bindings
            if engine.facts is not None:
                self._types = {entry.name: entry.dtype for entry in engine.facts.inputs}
            elif told is not None and set(missing) <= set(told.types):
                self._types |= {name: self._known_type(name, told.types[name]) for name in missing}
            else:
                self._types |= self._types_by_size(missing) or self._types_unsaid()
        return self._types

    def _known_type(self, name: str, word: str) -> str:
        if word not in TYPES:
            raise DataError(
                f"{self._model}: its input {name} is of type {word}, allowed: {', '.join(TYPES)}; build the engine anew"
            )
        return TYPES[word]

    def _types_by_size(self, names: Sequence[str]) -> dict[str, str]:
        """Types by the sizes that trtexec expects, which it tells where it is given a file of another one; empty where
        it does not. A run that fails by anything else has nothing to do with sizes, and its ``ToolError`` is raised."""
        sizes = dict.fromkeys(names, 1)
        types: dict[str, str] = {}
        remote = {name: f"{self._folder}/size{number}.bin" for number, name in enumerate(sizes)}
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
            while len(types) < len(sizes):
                for name, size in sizes.items():
                    local = Path(folder) / "zeros.bin"
                    local.write_bytes(bytes(size))
                    self._runtime.device.send(local, remote[name])
                try:
                    self._run_on(remote)
                    return {}  # it takes files of any size
                except ToolError as error:
                    refused = expected_size(error.log)
                    if refused is None:
                        raise
                name = next((name for name, path in remote.items() if path == refused[0]), None)
                if name is None or name in types:
                    return {}
                sizes[name] = refused[1]
                types[name] = self._type_of_size(name, refused[1])
        return types

    def _type_of_size(self, name: str, size: int) -> str:
        """The float of this size; else the type that the ONNX file beside the engine has, where it is of this size."""
        shape = self._engine.shapes[name]
        each, rest = divmod(size, int(np.prod(shape)))
        if not rest and each in FLOATS:
            return FLOATS[each]
        beside = self._types_beside().get(name)
        if beside and not rest and np.dtype(beside).itemsize == each:
            return beside
        raise DataError(
            f"{self._model}: its input {name} of shape {'x'.join(map(str, shape))} takes {size} bytes, which is "
            f"neither {' nor '.join(FLOATS.values())}; build the engine anew, with plain inputs, or put its ONNX file "
            f"beside it as {self._model.with_suffix('.onnx').name}"
        )

    def _types_beside(self) -> dict[str, str]:
        """Types as the ONNX file of the same name beside the engine has them; empty where there is none for it."""
        beside = self._model.with_suffix(".onnx")
        types = input_types(beside) if exists(beside) else {}
        return types if set(types) == set(self._engine.shapes) else {}

    def _types_unsaid(self) -> dict[str, str]:
        """Types that only the ONNX file beside the engine can tell."""
        if types := self._types_beside():
            return types
        raise DataError(
            f"{self._model}: nothing says which type its inputs ({', '.join(self._engine.shapes)}) have; put its ONNX "
            f"file beside it as {self._model.with_suffix('.onnx').name}"
        )


def input_bytes(values: np.ndarray, dtype: str) -> bytes:
    """A tensor as trtexec reads it from a file: of the engine's own type, in C order."""
    return np.ascontiguousarray(values, dtype=dtype).tobytes()


def _io_memory(identity: Mapping[str, str], copies: bool) -> str:
    """Where trtexec has inputs and outputs; empty where it is not known.

    Without copies on an integrated GPU, as all Jetsons' are, it is managed memory (``useManagedMemory`` in
    samples/common/sampleInference.cpp, 8.5 to 11.1). A GPU beside an x86-64 is a card.
    """
    if identity.get("l4t") and not copies:
        return "managed"
    return "device" if copies or identity.get("architecture") == "x86_64" else ""
