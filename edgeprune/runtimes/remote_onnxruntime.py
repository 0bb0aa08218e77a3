"""ONNX Runtime on another machine, behind the runtime seam: compiled, timed and run there, by a Python of its own.

Nothing is installed there: the workers travel as one archive. Measured runs are jobs of the device (they queue, and
survive a lost connection); a session is a pipe, and an image whose answer was lost is sent again.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.agent.facts import DeviceFacts
from edgeprune.agent.host import HostState
from edgeprune.devices.archive import archive
from edgeprune.devices.base import Completed
from edgeprune.devices.channel import Pipe
from edgeprune.devices.remote import RemoteDevice
from edgeprune.errors import DataError, DeviceError, StageError, ToolError
from edgeprune.runtimes.base import NO_GPU, Availability, Session
from edgeprune.runtimes.bench_worker import ENGINE_CACHE, TIMING_CACHE
from edgeprune.runtimes.jobs import (
    REMOTE_WORKER,
    DescribeJob,
    Done,
    EndToEndJob,
    EndToEndLatencyJob,
    HostJob,
    Job,
    LatencyJob,
    OptimizeJob,
    OrtDescription,
    OrtJob,
)
from edgeprune.runtimes.onnxruntime_ import JETSON_INDEX, PROVIDERS, OnnxRuntime, jetson_index
from edgeprune.runtimes.worker import Answer, OnProgress, answer_in, job_text, last_line, line_of
from edgeprune.samples.conditions import DeviceState

WORKERS = (
    *(f"runtimes/{name}.py" for name in ("jobs", "free_axes", "bench_worker", "end_to_end_worker", "remote_worker")),
    "shipped/sample.py",
)
# names on the PATH there, or paths below its home, in which jobs run
PYTHONS = ("python3", ".venv/bin/python", "venv/bin/python", "edgeprune/.venv/bin/python", "miniconda3/bin/python")
QUICK_S = 120.0
LONGEST_S = 3600.0


class RemoteOnnxRuntime(OnnxRuntime):
    """ONNX Runtime on a device that a connection reaches.

    Args:
        provider: ``cpu``, ``cuda`` or ``tensorrt``.
        device: where.
        frames: whether whole frames will be timed, which takes OpenCV too.
        precision: of the graphs that it is to run, see :class:`OnnxRuntime`.
    """

    def __init__(self, provider: str, device: RemoteDevice, *, frames: bool = False, precision: str = "fp32") -> None:
        super().__init__(provider, precision=precision)
        self.device = device
        self._frames = frames
        self.simulated = device.simulated
        self._ort: OrtDescription | None = None
        self._python = ""

    def availability(self) -> Availability:
        """Whether a Python there has NumPy and ONNX Runtime with the provider. Raises ``DeviceError`` when nobody
        answers."""
        if self._ort is None:
            failed = self._probe()
            if self._ort is None:
                missing = f"no Python on {self.device.name} has NumPy and onnxruntime ({failed})"
                return Availability(False, missing, self._remedy())
        version = self._ort.onnxruntime
        if self.provider not in self._ort.providers:
            seen = f"onnxruntime {version} on {self.device.name} has no {self.provider}"
            return Availability(False, seen, self._remedy())
        if self.provider != PROVIDERS["cpu"] and not self.device.facts().has_gpu:
            return replace(NO_GPU, remedy=self.device.typed(NO_GPU.remedy))
        if weak := self._weak_for(self.precision):
            return weak
        return Availability(True, f"onnxruntime {version}, {self.provider}, on {self.device.name}")

    def _remedy(self) -> str:
        """How a Python there comes by what is missing."""
        facts, named = self.device.facts(), "name a Python that has them (device.python in the profile)"
        wanted = "numpy opencv-python" if self._frames else "numpy"
        make = f"python3 -m venv .venv && .venv/bin/pip install {wanted}"
        if self.provider == PROVIDERS["cpu"] or not facts.l4t:
            package = "onnxruntime" if self.provider == PROVIDERS["cpu"] else "onnxruntime-gpu"
            return f"{self.device.typed(f'{make} {package}')}; or {named}"
        other = "" if self._frames else "; or set the target's runtime to trtexec, which is part of JetPack"
        if index := jetson_index(facts):  # NVIDIA's: PyPI has no onnxruntime-gpu for a Jetson
            install = self.device.typed(f"{make} && .venv/bin/pip install onnxruntime-gpu --index-url {index}")
            return f"{install}; or {named}{other}"
        wheels = f"PyPI has no onnxruntime-gpu for a Jetson: install that of its JetPack from {JETSON_INDEX}"
        return f"{wheels}, with {wanted.replace(' ', ' and ')}, and {named}{other}"

    def _seen(self) -> tuple[str, DeviceFacts]:
        assert self._ort is not None  # availability found it
        return self._ort.onnxruntime, self.device.facts()

    def identity(self) -> dict[str, str]:
        """The device's own, with runtime and provider."""
        self._require()
        assert self._ort is not None  # availability found it
        runtime = f"onnxruntime {self._ort.onnxruntime}"
        return {**self.device.identity(), "runtime": runtime, "provider": self.provider}

    @contextmanager
    def session(self, model: Path, *, threads: int = 0) -> Iterator[Session]:
        """Load a model there and run it image by image. An engine built for another machine is refused."""
        self._require()
        self._refuse_foreign(Path(model))
        self._refuse_weak(Path(model))
        with self.device:
            remote = RemoteSession(self.device, lambda: self._session_argv(Path(model), threads))
            try:
                yield remote
            finally:
                remote.close()

    def _session_argv(self, model: Path, threads: int) -> list[str]:
        place = self.device.place(model)
        options = json.dumps(self._there(self._options([model])))
        return [*self._worker(REMOTE_WORKER), "session", place, self.provider, str(threads), options]

    def _cache_folder(self) -> Path:
        """In the work directory, with which it goes: nothing stays on a device. See :meth:`_there`."""
        return Path("compiled")

    def _there(self, options: Mapping[str, str]) -> dict[str, str]:
        """Options of a provider with their paths as they are on the device: no job runs in the work directory."""
        return {
            key: f"{self.device.work}/{value}" if key in (ENGINE_CACHE, TIMING_CACHE) else value
            for key, value in options.items()
        }

    def _probe(self) -> str:
        """Find the Python; gives why the likeliest candidate was not it.

        From then on it is called by its absolute path: a session runs in the work directory, where no other one is.
        """
        why = "none was found"
        with self.device:
            for number, python in enumerate((self.device.python,) if self.device.python else PYTHONS):
                self._python = python.removeprefix("~/")  # no shell is there to replace it
                try:
                    self._ort, _ = self._run_job(DescribeJob(), OrtDescription)
                    self._python = self._ort.executable or self._python
                    return ""
                except (ToolError, _Missing) as error:
                    if number == 0:  # the likeliest one's reason is worth telling
                        lines = error.tail.splitlines() if isinstance(error, ToolError) else [str(error)]
                        why = f"{python}: {lines[-1] if lines else error}"
        return why

    def _worker(self, module: str) -> list[str]:
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
            packed = Path(folder) / "workers.zip"
            packed.write_bytes(archive(*WORKERS))
            return ["env", f"PYTHONPATH={self.device.place(packed)}", self._python, "-m", module]

    def _run_job(
        self, job: Job, answer: type[Answer], on_progress: OnProgress | None = None
    ) -> tuple[Answer, DeviceState]:
        """The answer of a worker there, and what the device was like meanwhile."""

        def hear(line: str) -> None:
            line_of(line, on_progress)

        quick = isinstance(job, (DescribeJob, HostJob))  # loads no model

        def run() -> Completed:
            return self.device.run(
                self._worker(job.module),
                timeout_s=QUICK_S if quick else LONGEST_S,
                stdin=job_text(self._place(job)),
                measured=not quick,
                uses_gpu=self.provider != PROVIDERS["cpu"],
                on_line=hear,
            )

        with self.device:
            done = self.device.afresh(run)
        last = last_line(done.stdout)
        if "error" in last and isinstance(job, DescribeJob):
            raise _Missing(last["error"]["message"])
        result = answer_in(last, answer, done.returncode, [job.module, self.device.name], done.stderr)
        return result, done.device

    def _place(self, job: Job) -> Job:
        """The job with its files brought to the device, and their paths there."""
        if isinstance(job, OrtJob):
            models = tuple(self.device.place(Path(model)) for model in job.models)  # from here on there is a directory
            job = replace(job, models=models, provider_options=self._there(job.provider_options))
        if isinstance(job, LatencyJob):
            job = replace(job, images=tuple(self.device.place(Path(file)) for file in job.images))
        if isinstance(job, EndToEndLatencyJob):
            job = replace(job, frames=tuple(self.device.place(Path(frame)) for frame in job.frames))
        if isinstance(job, EndToEndJob) and job.image is not None:
            job = replace(job, image=self.device.place(Path(job.image)))
        return job

    def _host(self) -> HostState:
        return self._run_job(HostJob(), HostState)[0]

    def _optimize(self, onnx: Path, optimized: Path) -> None:
        with self.device.workspace() as folder:
            there = f"{folder}/engine.onnx"
            try:
                self._run_job(OptimizeJob(self.device.place(onnx), there, self.provider), Done)
            except DataError as error:
                raise StageError(f"{onnx}: {error}") from error
            self.device.fetch(there, optimized)


class RemoteSession:
    """A model loaded on a device; see :class:`~edgeprune.runtimes.base.Session`."""

    def __init__(self, device: RemoteDevice, argv: Callable[[], list[str]]) -> None:
        self._device = device
        self._argv = argv
        self._pipe: Pipe | None = None
        header = self._retried(lambda pipe: {})
        self.input_names = list(header["inputs"])
        self.input_shapes: dict[str, list[Any]] = header["inputs"]
        self.output_names: list[str] = header["outputs"]
        self.metadata: dict[str, str] = header["metadata"]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name; sent again when the connection was lost before the answer."""
        arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        described = [[name, str(array.dtype), list(array.shape)] for name, array in arrays.items()]

        def ask(pipe: Pipe) -> dict[str, Any]:
            pipe.stdin.write(json.dumps({"arrays": described}).encode() + b"\n")
            for array in arrays.values():
                pipe.stdin.write(array.tobytes())
            pipe.stdin.flush()
            header = _header(pipe)
            outputs = {}
            for name, kind, shape in header["arrays"]:
                size = int(np.prod(shape)) * np.dtype(kind).itemsize
                content = pipe.stdout.read(size)
                if len(content) < size:
                    raise _Broken
                outputs[name] = np.frombuffer(content, kind).reshape(shape)
            return outputs

        return self._retried(ask)

    def close(self) -> str:
        """End the program there; gives the end of its stderr."""
        pipe, self._pipe = self._pipe, None
        return pipe.close() if pipe is not None else ""

    def _retried(self, ask: Callable[[Pipe], dict[str, Any]]) -> dict[str, Any]:
        """Ask on the open pipe, or on a new one; gives the loaded model's header when nothing was asked."""
        for attempt in range(3):
            header: dict[str, Any] = {}
            try:
                if self._pipe is None:
                    self._pipe = self._device.afresh(lambda: self._device.open(self._argv()))
                    header = _header(self._pipe)
                return ask(self._pipe) or header
            except (_Broken, OSError):
                why = (self.close().strip().splitlines() or ["it closed the connection"])[-1]
                if attempt == 2:
                    raise DeviceError(f"{self._device.name}: running the model there failed: {why}") from None
                self._device.reconnect()
        raise AssertionError("unreachable")


class _Broken(Exception):
    """The pipe ended in the middle of an answer."""


class _Missing(DeviceError):
    """The Python has no ONNX Runtime."""


def _header(pipe: Pipe) -> dict[str, Any]:
    line = pipe.stdout.readline()
    try:
        header = json.loads(line)
    except ValueError:
        raise _Broken from None
    if error := header.get("error"):
        raise (DataError if error["kind"] == "data" else DeviceError)(error["message"])
    return header
