"""What a search does at a site: compile a model, time engines side by side, time the layers of one."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from edgeprune import checkpoint
from edgeprune.checkpoint import Checkpoint
from edgeprune.dataset import Dataset
from edgeprune.measure.compiling import (
    PACKAGES,
    CompiledFiles,
    compile_checkpoint,
    compile_engine,
    engine_inputs,
    export_trained_int8,
    files_in,
    free_axes,
    graph_inputs,
)
from edgeprune.measure.latency import latency_settings, timing_inputs
from edgeprune.measure.variants import only_timed
from edgeprune.runtimes.base import LayerTime
from edgeprune.runtimes.site import Site
from edgeprune.samples.measurement import Measurement
from edgeprune.scratch import LOCK, locked, sweep
from edgeprune.serial import digest_of
from edgeprune.version import versions_of

MODEL = "model.pt"
VERSION = 3  # of how a model is compiled: raised whenever the same inputs would give another engine


class Bench(Protocol):
    """A target's runtime with the settings of its profile; :class:`SiteBench`, or a made-up device in tests."""

    conditions: Mapping[str, Any]
    """What a time depends on besides the model: device identity, runtime, precision, image size, batch, threads, and
    what of a frame is timed."""

    def compile(self, model: nn.Module, folder: Path, metadata: Mapping[str, Any]) -> CompiledFiles:
        """Save, export and compile a model inside a folder that does not exist yet."""
        ...

    def latency(self, engines: Sequence[Path], effort: float, *, trained: bool = True) -> list[Measurement]:
        """Interleaved latencies in ms, one measurement an engine; ``effort`` scales the number of samples. The boxes of
        engines that are not ``trained`` mean nothing."""
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
            **graph_inputs(site.target, dataset, None),
            **engine_inputs(site),
            **timing_inputs(site.target, dataset),
        }

    def compile(self, model: nn.Module, folder: Path, metadata: Mapping[str, Any]) -> CompiledFiles:
        """Save, export and compile a model inside a folder that does not exist yet."""
        folder.mkdir(parents=True)
        path = folder / MODEL
        checkpoint.save(model, path, like=self.source, metadata=dict(metadata))
        return compile_checkpoint(self.site, path, folder, self.dataset)

    def compile_source(self, folder: Path, kept: Path | None = None) -> CompiledFiles:
        """The source as it is, compiled; where the target trains INT8, by the ranges that were trained.

        Args:
            folder: to compile it in where nothing is kept; it does not exist yet.
            kept: folder of what was compiled before, by the digest of what it depends on; None compiles it anew.
        """
        if kept is None:
            return self._compile_source(folder)
        content = {
            "version": VERSION,
            "weights": self.source.sha256,
            "conditions": dict(self.conditions),
            "seed": self.site.seed,
            "trained_int8": self._trains_int8,
            "packages": versions_of(PACKAGES),
        }
        place = kept / digest_of(content)[:16]
        sweep(kept.glob(".*.*"))  # of killed processes
        if not place.is_dir():
            partial = kept / f".{place.name}.{uuid.uuid4().hex[:8]}"
            partial.mkdir(parents=True)
            with contextlib.ExitStack() as held:
                held.callback(shutil.rmtree, partial, ignore_errors=True)
                with contextlib.suppress(OSError):  # a file system without locks: then nobody sweeps it either
                    held.enter_context(locked(partial / LOCK, wait=False))
                self._compile_source(partial / place.name)
                try:
                    (partial / place.name).replace(place)
                except OSError:
                    if not place.is_dir():  # another process was not first either
                        raise
        return files_in(self.site, place / MODEL, place)

    @property
    def _trains_int8(self) -> bool:
        """Whether the source is compiled by the ranges that were trained."""
        return bool(self.source.quantizers) and self.site.target.qat is not None and self.dataset is not None

    def _compile_source(self, folder: Path) -> CompiledFiles:
        target = self.site.target
        if self.dataset is None or not self._trains_int8:
            return self.compile(self.source.model, folder, {})
        folder.mkdir(parents=True)
        files = files_in(self.site, folder / MODEL, folder)
        checkpoint.save(self.source.model, files.model, like=self.source, metadata={})
        export_trained_int8(target, files.model, self.source.path, files.onnx, self.dataset, self.site.seed)
        if self.site.usable:
            compile_engine(self.site, files.onnx, folder)
        return files

    def latency(self, engines: Sequence[Path], effort: float, *, trained: bool = True) -> list[Measurement]:
        """Interleaved latencies in ms, one measurement an engine."""
        settings = latency_settings(self.site, self.dataset, effort=effort, trained=trained)
        return self.site.runtime.latency(engines, settings, progress=self.site.reporter.progress)

    def layer_times(self, engine: Path) -> list[LayerTime]:
        """Per-layer times in order of execution."""
        target = self.site.target
        return self.site.runtime.layer_times(engine, threads=target.measure.threads, free=free_axes(target))


def timing_bench(site: Site, source: Checkpoint, dataset: Dataset | None = None) -> SiteBench:
    """A bench for engines that are only timed, as probes and copies of a model are: INT8 is calibrated on a few images.

    Builds, sweeps and searches of one profile share what is kept by its conditions.

    Args:
        site, source, dataset: as :class:`SiteBench` takes them.
    """
    return SiteBench(replace(site, target=only_timed(site.target)), source, dataset)
