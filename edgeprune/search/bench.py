"""What a search asks of the target: compile a model, race engines, take one apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from edgeprune.runtimes.base import LayerTime
from edgeprune.samples.measurement import Measurement


class Bench(Protocol):
    """A target's runtime with the settings of its profile."""

    conditions: Mapping[str, Any]
    """What a time depends on besides the model: device identity, runtime, precision, image size, batch, threads."""

    def compiled(self, model: nn.Module, folder: Path, metadata: Mapping[str, Any]) -> dict[str, tuple[str, Path]]:
        """Save, export and compile a model inside a folder that does not exist yet; role to (kind, file)."""
        ...

    def raced(self, engines: Sequence[Path], effort: float) -> list[Measurement]:
        """Interleaved latencies in ms, one measurement an engine; ``effort`` scales the number of samples."""
        ...

    def taken_apart(self, engine: Path) -> list[LayerTime]:
        """Per-layer times in order of execution."""
        ...
