"""Latency of a baseline and a candidate side by side at a site, and its gate against the target's budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from edgeprune.errors import StageError
from edgeprune.export.images import inputs_from_dataset
from edgeprune.input_size import both_sides
from edgeprune.measure.bench import MAX_EFFORT, least_rounds, sampling_settings
from edgeprune.measure.other_work import let_cool, wait_for_quiet
from edgeprune.runtimes.base import BenchSettings
from edgeprune.samples.conditions import may_end_otherwise
from edgeprune.samples.gates import (
    MIN_BLOCK_PAIRS,
    Gate,
    Verdict,
    budget_gate,
    pass_confidence,
)
from edgeprune.samples.measurement import Measurement
from edgeprune.samples.statistics import MIN_BLOCKS, quantile_of, samples_needed

if TYPE_CHECKING:
    from edgeprune.dataset import Dataset
    from edgeprune.runtimes.site import Site
    from edgeprune.target import Target

LEAST_FRAMES, MOST_FRAMES = 8, 32  # validation images that an end-to-end measurement goes through in turn
FRAMES_CONFIDENCE = 0.95  # with which the slowest of so many images bound the percentile of all, as far as 32 can
FRAMES_BYTES = 256 * 2**20  # that they may take in the memory of the process that times: a board has little

Taken = TypeVar("Taken", bound=Sequence[Measurement])
Found = TypeVar("Found")


@dataclass(frozen=True)
class JudgedLatency:
    """A gate on latency, with the two measurements that it was judged by."""

    gate: Gate
    baseline: Measurement
    candidate: Measurement


def latency_settings(
    site: Site,
    dataset: Dataset | None = None,
    *,
    effort: float = 1.0,
    trained: bool = True,
    retries: int | None = None,
) -> BenchSettings:
    """How the target asks latency to be sampled.

    Args:
        site: the target.
        dataset: gives the frames of a budget whose scope is ``end_to_end``, and the images of a graph with NMS inside.
        effort: scales the number of samples. From 1 on it is a factor on as many as the budget's gate needs to pass,
            where the target asks for fewer; below, a share of what the target asks for, and at least as many rounds as
            a ratio needs.
        trained: False for a candidate whose boxes mean nothing yet: with the scope ``end_to_end`` the outputs of the
            unpruned model then go through its post-processing.
        retries: further looks that the verdict may rest on; as often as the target measures again when None.
    """
    target = site.target
    retries = target.measure.retries if retries is None else retries
    end_to_end = target.budget.scope == "end_to_end"
    if end_to_end and dataset is None:
        raise StageError("the scope end_to_end is timed on images, and no dataset was given")
    frames: list[Path] = []
    if dataset is not None and end_to_end:
        frames = _frames(dataset, dataset.judging_split(target.accuracy.split), target, site.seed)
    return replace(
        _sampled(target, effort, retries),
        seed=site.seed,
        batch=target.batch,
        imgsz=both_sides(target.imgsz),
        scope=target.budget.scope,
        frames=tuple(frames),
        stand_in=end_to_end and not trained,
        images=None if dataset is None or end_to_end else input_images(target, dataset, site.seed),
    )


def _sampled(target: Target, effort: float, retries: int) -> BenchSettings:
    """How many samples are taken, and within what time; arguments as in :func:`latency_settings`."""
    asked = sampling_settings(target)
    if effort < 1:  # it only has to place a point, in a process of its own, in the time that the target grants
        rounds = max(MIN_BLOCKS, asked.longer(effort).rounds)
        return replace(asked, rounds=rounds, launches=1)
    # Fewer samples than this can never pass: p99 has no upper bound before hundreds of them. Only then the factor: it
    # is what a look adds to the one before, whichever of both numbers was the greater.
    least = least_rounds(target.budget.statistic, pass_confidence(retries), asked)
    return asked.with_rounds(max(least, MIN_BLOCK_PAIRS)).longer(effort)


def _frames(dataset: Dataset, split: str, target: Target, seed: int) -> list[Path]:
    """As many images as the budget's percentile needs, where their pixels have room in memory: post-processing takes as
    long as an image has boxes, so that a percentile of a few images is that of one of them."""
    count = min(samples_needed(quantile_of(target.budget.judged_statistic), FRAMES_CONFIDENCE), MOST_FRAMES)
    frames = dataset.sample_images(split, max(count, LEAST_FRAMES), seed)
    room = FRAMES_BYTES // max(map(_pixel_bytes, frames), default=1)
    return frames if room >= len(frames) else dataset.sample_images(split, max(room, LEAST_FRAMES), seed)


def _pixel_bytes(image: Path) -> int:
    """Of an image in memory, by its header."""
    from PIL import Image

    with Image.open(image) as header:
        return header.width * header.height * 3


def timing_inputs(target: Target, dataset: Dataset | None) -> dict[str, object]:
    """What the latency of an engine depends on besides the engine and the device, as entries of a key."""
    inputs: dict[str, object] = {
        "threads": target.measure.threads,
        "copies": target.measure.copies,
        "cuda_graph": target.measure.cuda_graph,
        "scope": target.budget.scope,
    }
    if dataset is not None and (target.budget.scope == "end_to_end" or target.exported_head == "nms"):
        inputs["frames"] = dataset.digest
    if target.budget.scope == "end_to_end":
        inputs["most_frames"] = MOST_FRAMES
    return inputs


def input_images(target: Target, dataset: Dataset, seed: int) -> Callable[[tuple[int, ...]], np.ndarray] | None:
    """Inputs of any shape from images of the split that accuracy is judged on, for a graph whose time depends on what
    is on them; None for every other graph, which takes as long for noise."""
    if target.exported_head != "nms":
        return None
    return inputs_from_dataset(dataset, dataset.judging_split(target.accuracy.split), seed)


def measure_pair(
    site: Site,
    baseline: Path,
    candidate: Path,
    dataset: Dataset | None = None,
    *,
    effort: float = 1.0,
    trained: bool = False,
) -> tuple[Measurement, Measurement]:
    """Latency of two engines in the budget's scope, interleaved on the target; arguments as in
    :func:`latency_settings`."""
    settings = latency_settings(site, dataset, effort=effort, trained=trained)
    first, second = site.runtime.latency([baseline, candidate], settings, progress=site.reporter.progress)
    return first, second


def wait_before_again(site: Site, *before: Measurement) -> None:
    """Between an undecided measurement and the next: wait for a device that throttled to cool, and on this machine for
    other work to end, as long as the target allows."""
    let_cool(before, site.reporter.note)
    if site.device.name == "local":
        wait_for_quiet(site.target.measure.quiet_wait_s, site.target.measure.threads, site.reporter.note)


def measure_until_told(
    site: Site, what: str, measure: Callable[[float], Taken], read: Callable[[Taken], tuple[Found, str]], retries: int
) -> tuple[Taken, Found, int]:
    """Measure, and again with twice the samples each time, :data:`MAX_EFFORT` times as many at most, while what came
    out tells nothing; see :func:`wait_before_again`. What a quota of processor time stopped is not measured again: it
    would be stopped as often.

    Args:
        site: the target.
        what: is measured; for the notes.
        measure: takes the factor on the number of samples.
        read: gives what follows from what was measured, and why that tells nothing, empty where it tells something.
        retries: how often to measure again.

    Returns:
        What was measured last, what follows from it, and how often it was measured.
    """
    attempt, effort = 0, 1.0
    while True:
        taken = measure(effort)
        found, why = read(taken)
        if not why or attempt >= retries or not may_end_otherwise(why):
            return taken, found, attempt + 1
        attempt, effort = attempt + 1, min(2 * effort, MAX_EFFORT)
        times = f"{effort:g} times as many samples as the first time at most"
        site.reporter.note(f"{what}: inconclusive, {why}; measuring again, {times}")
        wait_before_again(site, *taken)


def judge_latency(
    site: Site, stage: str, baseline: Path, candidate: Path, dataset: Dataset | None = None, *, trained: bool = False
) -> JudgedLatency:
    """Measure two engines and judge the candidate by the budget; see :func:`judge_until_decided`."""

    def measure(effort: float) -> tuple[Measurement, Measurement]:
        return measure_pair(site, baseline, candidate, dataset, effort=effort, trained=trained)

    return judge_until_decided(site, stage, measure, site.target.measure.retries)


def judge_until_decided(
    site: Site, stage: str, measure: Callable[[float], tuple[Measurement, Measurement]], retries: int
) -> JudgedLatency:
    """Judge a candidate by the budget; what is INCONCLUSIVE is measured again with twice the samples,
    :data:`MAX_EFFORT` times as many at most.

    Args:
        site: the target.
        stage: of the gate.
        measure: takes the factor on the number of samples, gives the baseline's latency and the candidate's.
        retries: how often to measure again.
    """

    def read(pair: tuple[Measurement, Measurement]) -> tuple[Gate, str]:
        found = budget_gate(site.target, stage, *pair)
        return found, found.reason if found.verdict is Verdict.INCONCLUSIVE else ""

    (before, after), gate, times = measure_until_told(site, stage, measure, read, retries)
    if times > 1:
        gate = replace(gate, reason=f"{gate.reason} (measured {times} times)")
    if (state := after.conditions.end_to_end) is not None and state.frames:
        images = len(state.frames)
        gate = replace(gate, reason=f"{gate.reason}; over {images} image{'s' * (images > 1)}")
    return JudgedLatency(gate, before, after)
