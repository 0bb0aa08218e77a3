"""The search's view of a build: compile a candidate as the baseline was compiled, race engines, take one apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.runtimes.base import LayerTime
from edgeprune.samples.measurement import Measurement
from edgeprune.stages import compiling, timing
from edgeprune.stages.base import Context

if TYPE_CHECKING:
    from torch import nn

    from edgeprune.checkpoint import Checkpoint


class ContextBench:
    """A :class:`~edgeprune.search.bench.Bench` of a build's target.

    Args:
        context: of the build.
        source: what candidates inherit names, task and training arguments from.
    """

    def __init__(self, context: Context, source: Checkpoint) -> None:
        self.context, self.source = context, source
        self.conditions: Mapping[str, Any] = {
            **compiling.export_inputs(context),
            **compiling.engine_inputs(context),
            "threads": context.target.measure.threads,
        }

    def compiled(self, model: nn.Module, folder: Path, metadata: Mapping[str, Any]) -> dict[str, tuple[str, Path]]:
        """Save, export and compile a model inside a new folder; role to (kind, file)."""
        from edgeprune import checkpoint

        folder.mkdir(parents=True)
        path = folder / "model.pt"
        checkpoint.save(model, path, like=self.source, metadata=dict(metadata))
        return {"model": ("checkpoint", path), **compiling.compiled(self.context, path, folder)}

    def raced(self, engines: Sequence[Path], effort: float) -> list[Measurement]:
        """Interleaved latencies in ms, one measurement an engine."""
        settings = timing.settings(self.context, effort)
        return self.context.runtime.latency(engines, settings, progress=self.context.reporter.progress)

    def taken_apart(self, engine: Path) -> list[LayerTime]:
        """Per-layer times in order of execution."""
        return self.context.runtime.layer_times(engine, threads=self.context.target.measure.threads)
