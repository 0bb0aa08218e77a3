"""What is done with a board that nothing connects to: engines built, timed and run, by the runtime of a live build.

The same calls record the commands before the folder is carried (:class:`~edgeprune.carry.device.RecordingDevice`) and
judge what came back (:class:`~edgeprune.carry.device.ReplayingDevice`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeprune.agent.programs import Turns
from edgeprune.carry.device import PROGRAM, CarriedDevice, iterations_of
from edgeprune.carry.graph import carried_graph
from edgeprune.errors import only_informs
from edgeprune.export.run import Outputs, outputs_of_engine
from edgeprune.measure.bench import MAX_EFFORT
from edgeprune.measure.compiling import compile_engine
from edgeprune.measure.latency import latency_settings
from edgeprune.measure.result import LayerMs
from edgeprune.progress import Silent
from edgeprune.runtimes.base import Availability, BenchSettings
from edgeprune.runtimes.precision_truth import PrecisionShare
from edgeprune.runtimes.site import Site
from edgeprune.runtimes.trtexec_ import DROPPED_SAMPLES, MAX_PROCESSES, TrtExec
from edgeprune.samples.measurement import Measurement
from edgeprune.settings import MOST_PER_ROUND, Measuring
from edgeprune.stages.energy import Energies, measure_energy
from edgeprune.stages.precision import engine_precision
from edgeprune.target import Target

MIN_SAMPLES = 20  # of a process: nobody waits for a board that measures by itself, and a start takes seconds


@dataclass(frozen=True)
class Visit:
    """What the board gave.

    Attributes:
        engine: the candidate's file.
        baseline: latency of the unpruned engine.
        candidate: latency of the candidate's.
        energy: of an inference of both; None where the board tells no power.
        precision: what the candidate computes in, by its layers' times; by their number where these failed.
        pixels: of the images that went along.
        outputs: of the candidate, for these images.
    """

    engine: Path
    baseline: Measurement
    candidate: Measurement
    energy: Energies | None
    precision: PrecisionShare
    pixels: np.ndarray
    outputs: Outputs


class _Noting(Silent):
    """A reporter of which only the notes are heard."""

    def __init__(self, note: Callable[[str], object]) -> None:
        self._note = note

    def note(self, text: str) -> None:
        """Tell it."""
        self._note(text)


def visit_board(
    device: CarriedDevice,
    target: Target,
    packed: Path,
    pixels: np.ndarray,
    folder: Path,
    note: Callable[[str], object] = lambda text: None,
) -> Visit:
    """Build both engines, time them in turns, measure their power, time the candidate's layers, run it on images.

    Args:
        device: records or replays.
        target: as the build has it.
        packed: folder with ``baseline.onnx`` and ``model.onnx``.
        pixels: of shape (images, channels, height, width), 0 to 1.
        folder: where the engines go.
        note: told what the board failed at that only informs.
    """
    runtime = TrtExec.of_target(target, device, program=(PROGRAM,), keep_timing_cache=False)
    site = Site(target, runtime, device, Availability(True, ""), _Noting(note))
    engines: list[Path] = []
    for name in ("baseline", "model"):
        (folder / name).mkdir()
        engines.append(compile_engine(site, packed / f"{name}.onnx", folder / name))
    settings = latency_settings(site)
    if target.exported_head == "nms":  # what it takes depends on what is on the images
        settings = replace(settings, images=lambda shape: _first(pixels, shape[0]))
    before, after = runtime.latency(engines, _for_one_visit(settings, target.measure.rounds, device.timed()))
    layers: tuple[LayerMs, ...] = ()
    with device.informing():
        energy = measure_energy(site, settings, *engines)
        with only_informs("warning: the layers of the engine were not timed", site.reporter.note):
            times = runtime.layer_times(engines[1], threads=target.measure.threads)
            layers = tuple(LayerMs(time.name, time.op, time.ms) for time in times)
    precision = engine_precision(runtime, engines[1], layers, packed / "model.onnx", target.device.dla_core)
    assert precision is not None  # trtexec tells the layers of every engine that it built
    [image_input] = carried_graph(packed, target).inputs
    outputs = outputs_of_engine(runtime, engines[1], pixels, batch=image_input.shape[0])
    return Visit(engines[1], before, after, energy, precision, pixels, outputs)


def processes_of_visit(asked_rounds: int) -> int:
    """How many processes of an engine a board times that is visited once, for ``measure.rounds`` of a profile."""
    return min(max(1, asked_rounds // Measuring().rounds), MAX_EFFORT) * MAX_PROCESSES


def _for_one_visit(settings: BenchSettings, asked_rounds: int, timed: Turns | None = None) -> BenchSettings:
    """As many samples, in processes that all run: nobody is there to measure again. A start of trtexec takes the board
    seconds, so there are no more of them than a first look has, unless the profile asks for more rounds than usual:
    that is the only way to a ratio from more blocks. They have no time limit, so that their number has one: that of a
    live measurement which is made again. What a board has timed already (``timed``) is judged as it was asked for, also
    where this version would ask for other numbers."""
    if timed is not None:
        processes, samples = timed.rounds, iterations_of(timed.programs[0]) - DROPPED_SAMPLES
    else:
        processes = processes_of_visit(asked_rounds)
        samples = min(max(MIN_SAMPLES, -(-settings.rounds * settings.per_round // processes)), MOST_PER_ROUND)
    return replace(
        settings, rounds=processes, per_round=samples, time_limit_s=0.0, effort=float(processes // MAX_PROCESSES)
    )


def _first(pixels: np.ndarray, batch: int) -> np.ndarray:
    """The first stack of the images that were packed, as it was packed: filled up with zeros."""
    stack = pixels[:batch]
    return np.concatenate([stack, np.zeros((batch - len(stack), *stack.shape[1:]), stack.dtype)])
