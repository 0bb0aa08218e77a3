"""INT8 only where it is faster: held against FP16 on a GPU and FP32 on a CPU, both compiled and timed on the target.

Quantised values have to be converted between layers; on a small model that can cost more than the arithmetic saves.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from edgeprune.measure import compiling, latency
from edgeprune.records.facts import FallbackFacts, PrecisionChoice
from edgeprune.samples.gates import moved_reason
from edgeprune.samples.measurement import LEAST_GAIN, Measurement, speed_up_of
from edgeprune.samples.statistics import RatioInterval
from edgeprune.samples.text import ends_text
from edgeprune.stages.base import Build
from edgeprune.stages.mixed_precision import graph_accuracy


def times_both(build: Build) -> bool:
    """Whether INT8 is held against the plainer format: the target has both, does not insist, and can be measured."""
    target, site = build.target, build.site
    asked = target.plainer_precision is not None and not target.keep_precision
    return asked and site.usable and not site.runtime.simulated


def choose_precision(build: Build, source: Path, low: Path, fallback: FallbackFacts) -> PrecisionChoice | None:
    """Time INT8 against the plainer format; where that is the one to ship, its graph replaces ``low``. None where the
    target has no INT8, keeps its precision, or cannot be measured here.

    Args:
        build: target, dataset and unpruned accuracy.
        source: the FP32 graph.
        low: the graph in the target's number format, with what went back to float.
        fallback: what its accuracy came to.
    """
    plainer, site = build.target.plainer_precision, build.site
    if plainer is None or not times_both(build):
        return None
    there = replace(site, target=build.target.in_precision(plainer))
    asked = build.target.precision
    build.reporter.progress(f"timing {asked} against {plainer}")
    accuracy = fallback.accuracy if fallback.mixed is None else fallback.mixed.accuracy_after
    with tempfile.TemporaryDirectory(dir=low.parent, prefix=".plainer-") as scratch:
        folders = [Path(scratch) / name for name in ("plainer", "asked")]
        for folder in folders:
            folder.mkdir()
        other = source
        if there.target.graph_precision != "fp32":
            other = folders[0] / "model.onnx"
            compiling.convert_precision(there.target, source, other, build.dataset, site.seed)
        engines = compiling.compile_engine(there, other, folders[0]), compiling.compile_engine(site, low, folders[1])
        found, doubt = _gain(build, *engines)
        gain, holds = found.ratio, accuracy >= fallback.floor
        faster = gain >= LEAST_GAIN or bool(doubt)  # what is not known to be slower stays what was asked for
        ends = f" ({ends_text(found.low, found.high)})" if math.isfinite(found.high) else ""
        text = f"{asked} is ×{gain:.3f}{ends} as fast as {plainer}"
        text += f", which does not count, as {doubt}" if doubt else ""
        if faster and holds:
            if doubt:
                build.reporter.note(
                    f"{text}: {asked} ships, as was asked for; the other one by precision: {plainer}. If this build "
                    "ends without a PASS of its budget, the same command chooses again"
                )
            why = f"{text}; it holds the accuracy"
            return PrecisionChoice(asked, plainer, gain, accuracy, None, asked, why, doubt)
        other_accuracy = graph_accuracy(build, other, there, engines[0]).value
        both = f"{text}; accuracy {accuracy:.4f} and {other_accuracy:.4f}, floor {fallback.floor:.4f}"
        if other_accuracy < fallback.floor and (holds or faster):
            return PrecisionChoice(asked, plainer, gain, accuracy, other_accuracy, asked, both, doubt)
        shutil.copyfile(other, low)
    build.reporter.note(f"{plainer} ships in place of {asked}: {both}")
    return PrecisionChoice(asked, plainer, gain, accuracy, other_accuracy, plainer, both)


def _gain(build: Build, plainer: Path, asked: Path) -> tuple[RatioInterval, str]:
    """How much faster the asked format is, measured again with twice the samples while its interval does not tell, as
    often as the target says; and why nothing follows from it, empty where something does.

    A steady run that ends near :data:`LEAST_GAIN` decides by its ratio: either format is then as good.
    """
    site = build.site

    def measure(effort: float) -> tuple[Measurement, Measurement]:
        return latency.measure_pair(site, plainer, asked, build.dataset, effort=effort, trained=True)

    def read(pair: tuple[Measurement, Measurement]) -> tuple[tuple[RatioInterval, str], str]:
        found, moved = speed_up_of(*pair), moved_reason(*pair)
        decided = found.low >= LEAST_GAIN or found.high < LEAST_GAIN
        near = "" if decided else f"{ends_text(found.low, found.high)} has ×{LEAST_GAIN:g} inside"
        return (found, moved), moved or near

    what = f"{build.target.precision} against {build.target.plainer_precision}"
    return latency.measure_until_told(site, what, measure, read, site.target.measure.retries)[1]
