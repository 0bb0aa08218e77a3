"""What a search does at a site: compile a model, time engines side by side, time the layers of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from edgeprune import checkpoint
from edgeprune.checkpoint import Checkpoint
from edgeprune.dataset import Dataset
from edgeprune.measure.compiling import CompiledFiles, compile_checkpoint, engine_inputs, graph_inputs
from edgeprune.measure.latency import latency_settings
from edgeprune.runtimes.base import LayerTime
from edgeprune.runtimes.site import Site
from edgeprune.samples.measurement import Measurement


class Bench(Protocol):
    """A target's runtime with the settings of its profile; :class:`SiteBench`, or a made-up device in tests."""

    conditions: Mapping[str, Any]
    """What a time depends on besides the model: device identity, runtime, precision, image size, batch, threads."""

    def compile(self, model: nn.Module, folder: Path, metadata: Mapping[str, Any]) -> CompiledFiles:
        """Save, export and compile a model inside a folder that does not exist yet."""
        ...

    def latency(self, engines: Sequence[Path], effort: float) -> list[Measurement]:
        """Interleaved latencies in ms, one measurement an engine; ``effort`` scales the number of samples."""
        ...

    def layer_times(self, engine: Path) -> list[LayerTime]:
        """Per-layer times in order of execution."""
        ...


class SiteBench:
    """A :class:`Bench` of a site.

    Args:
        site: the target.
        source: what candidates inherit names, task and training arguments from.
        dataset: calibrates INT8, and gives the frames of an end-to-end latency.
    """

    def __init__(self, site: Site, source: Checkpoint, dataset: Dataset | None = None) -> None:
        self.site, self.source, self.dataset = site, source, dataset
        self.conditions: Mapping[str, Any] = {
            **graph_inputs(site.target, dataset),
            **engine_inputs(site),
            "threads": site.target.measure.threads,
        }

    def compile(self, model: nn.Module, folder: Path, metadata: Mapping[str, Any]) -> CompiledFiles:
        """Save, export and compile a model inside a folder that does not exist yet."""
        folder.mkdir(parents=True)
        path = folder / "model.pt"
        checkpoint.save(model, path, like=self.source, metadata=dict(metadata))
        return compile_checkpoint(self.site, path, folder, self.dataset)

    def latency(self, engines: Sequence[Path], effort: float) -> list[Measurement]:
        """Interleaved latencies in ms, one measurement an engine."""
        settings = latency_settings(self.site, self.dataset, effort=effort)
        return self.site.runtime.latency(engines, settings, progress=self.site.reporter.progress)

    def layer_times(self, engine: Path) -> list[LayerTime]:
        """Per-layer times in order of execution."""
        return self.site.runtime.layer_times(engine, threads=self.site.target.measure.threads)
