"""ONNX Runtime on another machine, behind the runtime seam: compiled, timed and run there, by a Python of its own.

Nothing is installed there: the workers travel as one archive. Measured runs are jobs of the device (they queue, and
survive a lost connection); a session is a pipe, and an image whose answer was lost is sent again.
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import edgeprune
from edgeprune.artifact import write_atomically
from edgeprune.devices.channel import Pipe
from edgeprune.devices.remote import RemoteDevice
from edgeprune.errors import DataError, DeviceError, StageError, ToolError
from edgeprune.runtimes.base import Availability, Session
from edgeprune.runtimes.onnxruntime_ import PROVIDERS, OnnxRuntime
from edgeprune.runtimes.worker import BENCH_WORKER, answered, line_of

WORKER = "edgeprune.runtimes.remote_worker"
SENT = (
    "devices/host.py",
    "runtimes/bench_worker.py",
    "runtimes/end_to_end_worker.py",
    "runtimes/remote_worker.py",
)
PACKAGES = ("__init__.py", "devices/__init__.py", "runtimes/__init__.py")
PYTHONS = ("python3", ".venv/bin/python", "venv/bin/python", "edgeprune/.venv/bin/python", "miniconda3/bin/python")
WATCHED = ("latency", "profile", "optimise")
QUICK_S = 120.0
LONGEST_S = 3600.0


class RemoteOnnxRuntime(OnnxRuntime):
    """ONNX Runtime on a device that a connection reaches.

    Args:
        provider: ``cpu``, ``cuda`` or ``tensorrt``.
        device: where.
    """

    def __init__(self, provider: str, device: RemoteDevice) -> None:
        super().__init__(provider)
        self.device = device
        self.simulated = device.simulated
        self._found: dict[str, Any] | None = None
        self._python = ""

    def availability(self) -> Availability:
        """Whether a Python there has NumPy and ONNX Runtime with the provider. Raises ``DeviceError`` when nobody
        answers."""
        package = "onnxruntime" if self.provider == PROVIDERS["cpu"] else "onnxruntime-gpu"
        remedy = (
            f"on {self.device.name}: python3 -m venv .venv && .venv/bin/pip install numpy {package}; "
            "or name a Python that has them (device.python in the profile)"
        )
        if self._found is None:
            failed = self._probe()
            if self._found is None:
                return Availability(
                    False, f"no Python on {self.device.name} has NumPy and onnxruntime ({failed})", remedy
                )
        version = self._found["onnxruntime"]
        if self.provider not in self._found["providers"]:
            return Availability(False, f"onnxruntime {version} on {self.device.name} has no {self.provider}", remedy)
        return Availability(True, f"onnxruntime {version}, {self.provider}, on {self.device.name}")

    def identity(self) -> dict[str, str]:
        """The device's own, with runtime and provider."""
        self._require()
        assert self._found is not None  # availability found it
        runtime = f"onnxruntime {self._found['onnxruntime']}"
        return {**self.device.identity(), "runtime": runtime, "provider": self.provider}

    @contextmanager
    def session(self, model: Path, *, threads: int = 0) -> Iterator[Session]:
        """Load a model there and run it image by image. An engine built for another machine is refused."""
        self._require()
        self._refuse_foreign(Path(model))
        with self.device:
            remote = RemoteSession(self.device, lambda: self._session_argv(Path(model), threads))
            try:
                yield remote
            finally:
                remote.close()

    def _session_argv(self, model: Path, threads: int) -> list[str]:
        return [*self._worker(WORKER), "session", self.device.placed(model), self.provider, str(threads)]

    def _probe(self) -> str:
        """Find the Python; gives why the last candidate was not it."""
        why = "none was found"
        with self.device:
            for number, python in enumerate((self.device.python,) if self.device.python else PYTHONS):
                self._python = python
                try:
                    self._found = self._work({"task": "describe", "models": []}, module=WORKER)
                    return ""
                except (ToolError, _Missing) as error:
                    if number == 0:  # the likeliest one's reason is worth telling
                        lines = error.tail.splitlines() if isinstance(error, ToolError) else [str(error)]
                        why = f"{python}: {lines[-1] if lines else error}"
        return why

    def _worker(self, module: str) -> list[str]:
        return ["env", f"PYTHONPATH={self.device.placed(archive())}", self._python, "-m", module]

    def _work(
        self,
        job: Mapping[str, Any],
        told: Callable[[dict[str, Any]], None] | None = None,
        *,
        module: str = BENCH_WORKER,
    ) -> dict[str, Any]:
        """A worker there; what the device was like meanwhile is in the result's ``conditions``."""
        with self.device:
            asked = {**job, "models": [self.device.placed(Path(model)) for model in job["models"]]}
            if job.get("image"):
                asked["image"] = self.device.placed(Path(job["image"]))
            if job.get("frames"):
                asked["frames"] = [self.device.placed(Path(frame)) for frame in job["frames"]]
            argv = self._worker(module)

            def heard(text: str) -> None:
                line = line_of(text)
                if "progress" in line and told is not None:
                    told(line["progress"])

            done = self.device.run(
                argv,
                timeout_s=QUICK_S if job["task"] in ("describe", "host") else LONGEST_S,
                stdin=json.dumps(asked).encode(),
                measured=job["task"] in WATCHED,
                told=heard,
            )
        lines = [line_of(text) for text in done.stdout.splitlines()]
        answer = next((line for line in reversed(lines) if "result" in line or "error" in line), {})
        if "error" in answer and job["task"] == "describe":
            raise _Missing(answer["error"]["message"])
        result = answered(answer, done.returncode, [module, self.device.name], done.stderr)
        return {**result, "conditions": dict(done.conditions)}

    def _host(self) -> dict[str, Any]:
        return self._work({"task": "host", "models": []}, module=WORKER)

    def _optimise(self, onnx: Path, optimised: Path) -> None:
        with self.device.workspace() as folder:
            there = f"{folder}/engine.onnx"
            job = {"task": "optimise", "models": [], "model": self.device.placed(onnx), "engine": there}
            try:
                self._work({**job, "provider": self.provider}, module=WORKER)
            except DataError as error:
                raise StageError(f"{onnx}: {error}") from error
            self.device.fetch(there, optimised)


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
                    self._pipe = self._device.open(self._argv())
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


@cache
def archive() -> Path:
    """The workers as one zip file that Python imports from; the same bytes for the same sources."""
    root = Path(edgeprune.__file__).parent
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as packed:
        for name in PACKAGES:
            packed.writestr(zipfile.ZipInfo(f"edgeprune/{name}"), b"")
        for name in SENT:
            packed.writestr(zipfile.ZipInfo(f"edgeprune/{name}"), (root / name).read_bytes())
    folder = tempfile.TemporaryDirectory(prefix="edgeprune-workers-")
    _KEPT.append(folder)  # removed when this process ends
    path = Path(folder.name) / "workers.zip"
    with suppress(FileNotFoundError):
        write_atomically(path, content.getvalue())
    return path


_KEPT: list[tempfile.TemporaryDirectory[str]] = []
