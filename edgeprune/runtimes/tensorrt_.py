"""TensorRT and trtexec: found and reported, not driven yet. Whatever asks more than ``availability`` is told so."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NoReturn

from edgeprune.errors import DeviceError
from edgeprune.measure.measurement import Measurement
from edgeprune.progress import Progress, silent
from edgeprune.runtimes.base import Availability, BenchSettings, LayerTime, Runtime, Session

UNDRIVEN = "this version of edgeprune does not drive it yet"
INSTEAD = "set the target's runtime to onnxruntime-tensorrt"
OLDEST = (10, 3)  # JetPack 6.1; older builders cannot take a strongly typed network


class _Undriven(Runtime):
    """What both have in common until they are driven: an honest refusal."""

    def _refuse(self) -> NoReturn:
        found = self.availability()
        raise DeviceError(f"{self.name}: {found.detail}; next: {found.remedy}")

    def identity(self) -> dict[str, str]:
        self._refuse()

    def engine_from_onnx(self, onnx: Path, engine: Path, *, precision: str = "fp32") -> None:
        self._refuse()

    def session(self, model: Path, *, threads: int = 0) -> AbstractContextManager[Session]:
        self._refuse()

    def latency(
        self, models: Sequence[Path], settings: BenchSettings, *, progress: Progress = silent
    ) -> list[Measurement]:
        self._refuse()

    def layer_times(self, model: Path, *, threads: int = 1, runs: int = 30) -> list[LayerTime]:
        self._refuse()


class TensorRt(_Undriven):
    """TensorRT's Python API."""

    name = "tensorrt"

    def availability(self) -> Availability:
        """Whether a real TensorRT of 10.3 or newer imports; its stubs alone import as an empty namespace."""
        try:
            module = importlib.import_module("tensorrt")
        except ImportError as error:
            return Availability(
                False, f"TensorRT does not import ({error})", "pip install tensorrt polygraphy, or run on the device"
            )
        if not hasattr(module, "Builder"):
            return Availability(
                False, "only TensorRT's stubs are installed", "pip install tensorrt polygraphy, or run on the device"
            )
        version = str(getattr(module, "__version__", "0"))
        if _numbers(version) < OLDEST:
            return Availability(False, f"TensorRT {version} is older than 10.3", "install JetPack 6.1 or newer")
        return Availability(False, f"TensorRT {version} is here, but {UNDRIVEN}", INSTEAD)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
