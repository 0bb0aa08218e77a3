"""The three steps behind a point: search (on the device), fine-tune (where a GPU is), measure (on the device).

They take and give plain data and the bytes of checkpoints, so that each can run in this process or anywhere. A step
that is stopped goes on where it runs again on the same machine: a finished search and finished epochs lie beside the
layer profiles until the point is there, and :func:`remove_used` then takes them away. The profiles, and what was
compiled of unpruned models, stay for other budgets.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from edgeprune import checkpoint
from edgeprune.artifact import write_atomically
from edgeprune.measure.accuracy import measure_artifact
from edgeprune.measure.latency import judge_until_decided, measure_until_told
from edgeprune.measure.per_image import load_per_image
from edgeprune.measure.variants import only_timed, side_by_side, site_for
from edgeprune.options import options_of_command
from edgeprune.quiet import quiet
from edgeprune.records.sweep import Point
from edgeprune.runtimes.site import Site, open_site
from edgeprune.samples.average_precision import standard_error
from edgeprune.samples.gates import (
    MET_UNPRUNED,
    Gate,
    Verdict,
    least_undisturbed_ratio,
    moved_reason,
    pass_confidence,
    slowest_of_enough,
    unpruned_gate,
    unsteady_reason,
)
from edgeprune.samples.measurement import Measurement, latency_bounds, speed_up_of, with_input_of
from edgeprune.samples.statistics import INTERVAL_END_CONFIDENCE, value_of
from edgeprune.scratch import locked
from edgeprune.search.bench import SiteBench
from edgeprune.search.inputs import read_inputs
from edgeprune.search.run import Reference, search
from edgeprune.serial import digest_of, to_json
from edgeprune.sweep.kept import (
    lock_of,
    note_user,
    read_search,
    remove_search,
    remove_trainings,
    work_of,
    write_search,
)
from edgeprune.sweep.point import UNUSED, Job, Pruned, Result, digest_of_content
from edgeprune.training.best_by import best_by
from edgeprune.version import installed, versions_of

if TYPE_CHECKING:
    from edgeprune.dataset import Dataset
    from edgeprune.settings import TrainSettings

TRAINED_VERSION = 4  # of how weights are trained: raised whenever the same job would train others
SCRATCH = "edgeprune-sweep-"
COMPILED, TRAINED = "compiled", "trained"  # folders beside the layer profiles, of what points share
PRUNED = "pruned"  # the same of searches, by the key of their job


class RealSteps:
    """:class:`~edgeprune.sweep.point.Steps` that search, train and measure."""

    def search(self, job: Job) -> Pruned:
        """Prune to the budget, or give the checkpoint as it is."""
        if not job.pruned:
            return Pruned(job.weights, 1.0, 0)
        kept = _beside(job, PRUNED) / f"{job.key}.json"
        if (before := read_search(kept)) is not None:
            return before
        with TemporaryDirectory(prefix=SCRATCH) as scratch:
            weights = _unpacked(scratch, job.weights)
            reference = None
            if job.reference is not None:
                target, swept = job.reference
                reference = Reference(_unpacked(scratch, swept, "swept.pt"), target, job.start_used)
            found = search(
                only_timed(job.target),
                weights,
                job.data,
                output=Path(scratch) / "pruned.pt",
                cache=job.cache,
                reference=reference,
                diagnose=False,
                compiled=_beside(job, COMPILED),
                other_levers=job.other_levers,
                seed=job.seed,
                trust=job.trust,
            )
            undecided = "" if found.gate.verdict is Verdict.PASS else found.gate.reason
            content = found.checkpoint.read_bytes() if found.probes else job.weights
            pruned = Pruned(content, found.plan.macs_speed_up, len(found.probes), undecided)
        write_search(kept, pruned)
        return pruned

    @options_of_command(None)  # what it refuses is called by the profile's keys
    def finetune(self, job: Job, pruned: Pruned) -> bytes:
        """The bytes of the fine-tuned checkpoint."""
        if not _is_trained(job, pruned):
            return pruned.checkpoint
        from edgeprune.settings import TrainSettings
        from edgeprune.training.result_from_run import QUANTIZED

        finetuning, qat, (key, *for_int8) = job.target.finetune, job.target.qat, _training_keys(job, pruned)
        where: dict[str, Any] = {
            "imgsz": job.target.imgsz,
            "seed": job.seed,
            "head": job.head,
            "teacher": None,
        }
        settings = replace(TrainSettings.of(finetuning, **where), epochs=job.epochs)
        tuned = _trained(job, key, pruned.checkpoint, settings, job.weights)
        if qat is None:
            return tuned
        # What is not pruned is its own teacher in a build, whose baseline has these weights.
        teacher = job.weights if pruned.probes else tuned
        return _trained(job, for_int8[0], tuned, TrainSettings.of(qat, **where).for_int8(), teacher, QUANTIZED)

    def measure(self, job: Job, swept: bytes, pruned: Pruned, tuned: bytes) -> Result:
        """The point: latency next to the swept model, and accuracy by the target's runtime."""
        target = job.target
        with TemporaryDirectory(prefix=SCRATCH) as scratch, open_site(target, seed=job.seed) as site, quiet():
            site.require_usable()
            folder = Path(scratch)
            inputs = read_inputs(target, _unpacked(scratch, tuned), job.data, trust=job.trust)
            source, dataset = inputs.source, inputs.dataset
            assert dataset is not None  # a job has data
            reference = checkpoint.load(_unpacked(scratch, swept, "swept.pt"), trust=job.trust)
            bench = SiteBench(site, source, dataset)
            there = site if job.reference is None else site_for(site, job.reference[0])
            beside = SiteBench(there, reference, dataset)
            before = beside.compile_source(folder / "swept", _beside(job, COMPILED))
            after = bench.compile_source(folder / "candidate")
            engines = [before.required_engine, after.required_engine]
            unpruned = job.pruned and not pruned.probes
            first, second, gate = _timed(site, job, bench, engines, dataset, unpruned=unpruned)
            ratio, per_image = speed_up_of(first, second), folder / "per_image.npz"
            statistic = target.budget.statistic
            ms_low, ms_high = _ends_of_ms(second, statistic)
            engine = after.engine if site.runtime.fit_for_dataset else None  # else it is only compared: not asked here
            accuracy = measure_artifact(site, after.onnx, engine, dataset, per_image)
            point = Point(
                name=job.name,
                budget=job.budget,
                ms=value_of(second.values, statistic),
                speed_up=ratio.ratio,
                accuracy=accuracy.value,
                macs=pruned.macs,
                parameters=checkpoint.parameter_count(source.model),
                note=_note(job, pruned, unpruned and _passed(gate)) + _doubt(pruned, gate),
                inconclusive=_undecided(pruned, gate),
                accuracy_error=standard_error(load_per_image(per_image), seed=job.seed),
                speed_up_low=ratio.low,
                speed_up_high=ratio.high,
                swept_ms=value_of(first.values, "p50"),
                met_unpruned=unpruned,
                missed=_reason(gate, Verdict.FAIL),
                unsteady=unsteady_reason(ratio.stability, first, second),
                ms_low=ms_low,
                ms_high=ms_high,
                slowest_ms=slowest_of_enough(second.values, statistic, pass_confidence(target.measure.retries)),
                least_speed_up=least_undisturbed_ratio(first, second),
            )
            found = per_image.read_bytes()
        if pruned.inconclusive and not _passed(gate):  # the same command searches such a point again
            remove_search(_beside(job, PRUNED) / f"{job.key}.json")
        return Result(point, tuned if job.pruned or job.epochs else None, found)


def remove_used(folder: Path, made: Collection[str], waiting: Sequence[Job]) -> None:
    """Remove the searches and trainings on this machine whose points are all there.

    Args:
        folder: of the sweep.
        made: keys of jobs whose point is kept in it.
        waiting: jobs that are still to make, or to measure again. What they began stays, and so do the trainings that
            they share with others if nothing is pruned for them.
    """
    for key in made:
        with contextlib.suppress(OSError):
            remove_search(folder / PRUNED / f"{key}.json")
    shared = (_training_keys(job, Pruned(job.weights, 1.0, 0)) for job in waiting if job.epochs > 0)
    remove_trainings(folder / TRAINED, made, {key for keys in shared for key in keys})


def _timed(
    site: Site, job: Job, bench: SiteBench, engines: list[Path], dataset: Dataset, *, unpruned: bool = False
) -> tuple[Measurement, Measurement, Gate | None]:
    """Latency of the swept engine and of the job's, and the job's budget held against it; what does not decide is
    measured again, as in a build. A job without a budget is only timed, again while something moves the samples."""

    def measure(effort: float) -> tuple[Measurement, Measurement]:
        if job.reference is None:
            first, second = bench.latency(engines, effort)
        else:
            first, second = side_by_side(site, engines, dataset, effort=effort)
        return with_input_of(first, second), second

    def read(pair: tuple[Measurement, Measurement]) -> tuple[None, str]:
        return None, moved_reason(*pair)

    budget, retries = site.target.budget, 0 if site.runtime.simulated else site.target.measure.retries
    itself = unpruned and job.reference is None and budget.asks_nothing  # of one model beside itself no clock tells one
    if itself or not job.pruned:
        (first, second), *_ = measure_until_told(site, job.name, measure, read, retries)
        return first, second, unpruned_gate("sweep", budget.value) if itself else None
    judged = judge_until_decided(site, "sweep", measure, retries)
    return judged.baseline, judged.candidate, judged.gate


def _ends_of_ms(measured: Measurement, statistic: str) -> tuple[float, float]:
    """The 95 % interval of a percentile in ms; 0 and infinite where too few samples leave no end."""
    found = latency_bounds(measured, statistic, INTERVAL_END_CONFIDENCE)
    return 0.0 if found.low is None else found.low, math.inf if found.high is None else found.high


def _passed(gate: Gate | None) -> bool:
    return gate is not None and gate.verdict is Verdict.PASS


def _undecided(pruned: Pruned, gate: Gate | None) -> str:
    """Why it is not known whether a point holds its budget: the last measurement decides, whatever the search was sure
    of."""
    return _reason(gate, Verdict.INCONCLUSIVE) if gate is not None else pruned.inconclusive


def _doubt(pruned: Pruned, gate: Gate | None) -> str:
    """What is left to say of a search that was not sure, where the point turned out to hold its budget."""
    return f"; the search was not sure: {pruned.inconclusive}" if pruned.inconclusive and _passed(gate) else ""


def _reason(gate: Gate | None, verdict: Verdict) -> str:
    return gate.reason if gate is not None and gate.verdict is verdict else ""


def _beside(job: Job, name: str) -> Path:
    return Path(job.cache).with_name(name)


def _trained(
    job: Job, key: str, weights: bytes, settings: TrainSettings, unpruned: bytes, file: str = "best.pt"
) -> bytes:
    """What training makes of some weights: one of its files, kept under a key for points that share it.

    A training that is stopped leaves its epochs beside that file, and goes on after them. A second process that asks
    for the same waits for the first one.
    """
    kept = _beside(job, TRAINED) / f"{key}.pt"
    note_user(kept, job.key)
    with contextlib.suppress(FileNotFoundError):
        return kept.read_bytes()
    from edgeprune.training.finetune import finetune

    finetuning, place = job.target.finetune, work_of(kept)
    with locked(lock_of(kept), wait=True):
        place.mkdir(parents=True, exist_ok=True)
        if not kept.is_file():
            teacher = None
            if finetuning.teacher is not None and settings.teaches():  # where the data lies too
                teacher = Path(finetuning.teacher)
            elif finetuning.distill and settings.teaches():  # qat: {response: 0} asks for none
                teacher = _unpacked(place, unpruned, "teacher.pt")
            result = finetune(
                _unpacked(place, weights),
                data=job.data,
                out=place / "out",
                settings=replace(settings, teacher=teacher, quiet=True),
                work=place / "run",
                trust=job.trust,
                teacher_is_named=False,  # one that is was told of before anything began
            )
            write_atomically(kept, result.best.with_name(file).read_bytes())
        shutil.rmtree(place, ignore_errors=True)
        return kept.read_bytes()


def _is_trained(job: Job, pruned: Pruned) -> bool:
    """Whether a point is trained: not where there was nothing to prune, as in a build; a frontier's rows all are."""
    return job.epochs > 0 and (pruned.probes > 0 or not job.pruned or job.reference is not None)


def _note(job: Job, pruned: Pruned, met: bool) -> str:
    """What led to a point; ``met`` where the budget turned out to be met without pruning."""
    found = f"probes: {pruned.probes}" if pruned.probes else MET_UNPRUNED if met else "unpruned"
    if not _is_trained(job, pruned):
        return f"{found}, epochs: 0" if pruned.probes else found
    qat, hours = job.target.qat, job.target.finetune.time_h
    trained = f"epochs: {job.epochs}" if hours is None else f"trained for {hours:g} h"
    if qat is None:
        return f"{found}, {trained}"
    if qat.time_h is not None:
        return f"{found}, {trained} and for {qat.time_h:g} h for INT8"
    return f"{found}, {trained} and {qat.epochs}{'' if hours is None else ' epochs'} for INT8"


def _training_key(job: Job, pruned: Pruned) -> str:
    """Digest of what training depends on: forms of one model share it, whatever their number format."""
    finetuning = to_json(job.target.finetune)
    content = {
        "weights": digest_of_content(pruned.checkpoint),
        "finetune": {key: value for key, value in finetuning.items() if key not in UNUSED["finetune"]},
        "epochs": job.epochs,
        "imgsz": job.target.imgsz,
        "digest": job.digest,
        "seed": job.seed,
        "head": job.head,
        "teacher": job.taught_by,
        "packages": versions_of(("torch", "ultralytics")),
        **best_by(job.task),
    }
    return digest_of([TRAINED_VERSION, content])[:16]


def _training_keys(job: Job, pruned: Pruned) -> tuple[str, ...]:
    """That of fine-tuning, and behind it that of INT8 where it is trained for."""
    key, qat = _training_key(job, pruned), job.target.qat
    return (key,) if qat is None else (key, digest_of([key, to_json(qat), installed("nvidia-modelopt")])[:16])


def _unpacked(folder: str | Path, content: bytes, name: str = "given.pt") -> Path:
    file = Path(folder) / name
    file.write_bytes(content)
    return file
