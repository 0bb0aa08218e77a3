"""Screening: every form compiled and timed in one run with the baseline, and its accuracy without training.

Minutes, not hours: INT8 is calibrated on a few images, accuracy is that of some images of the split that training looks
at, and only of a lever pulled alone.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeprune.checkpoint import Checkpoint, parameter_count, shape_signature
from edgeprune.dataset import Dataset
from edgeprune.errors import WHAT_MAY_END_IT, DataError, TargetError, first_line
from edgeprune.export.graph import metadata_of
from edgeprune.export.modelopt import require_modelopt
from edgeprune.frontier.levers import trained_int8
from edgeprune.measure.accuracy import accuracy
from edgeprune.measure.latency import measure_until_told
from edgeprune.measure.variants import only_timed, other_output, require_same_output, side_by_side, site_with
from edgeprune.records.frontier import Form, Identity, Screened
from edgeprune.runtimes.engine_file import off_dla
from edgeprune.runtimes.precision_truth import LEAVE_DLA
from edgeprune.runtimes.site import Site
from edgeprune.samples.gates import moved_reason
from edgeprune.samples.measurement import Measurement, speed_up_of
from edgeprune.samples.statistics import value_of
from edgeprune.search.bench import SiteBench
from edgeprune.serial import digest_of, read_json, write_json
from edgeprune.sweep.point import conditions_of, target_inputs
from edgeprune.target import Target

EFFORT = 0.25  # of a gate's samples: what is kept is measured in full once it is trained
IMAGES = 200  # of the validation split, at most
CALIBRATION = {"calibration.images": 64}
VERSION = 4  # of how a form is screened: raised whenever the same inputs would give other figures


@dataclass(frozen=True)
class Screening:
    """What was measured of the forms, and why some could not be.

    Attributes:
        screened: the baseline first.
        refused: name of a form to the reason why it does not run on the target.
        seconds: that it took; None in older files.
        may_pass: whether a form was refused for what may pass: a lost connection, a full disk.
    """

    screened: tuple[Screened, ...]
    refused: Mapping[str, str]
    seconds: float | None = None
    may_pass: bool = False

    @property
    def refused_text(self) -> str:
        """What could not be measured and why, behind a sentence; empty where everything was."""
        return "".join(f"; {name} does not run here: {reason}" for name, reason in self.refused.items())


def screen(
    site: Site,
    forms: Sequence[Form],
    sources: Mapping[str, Checkpoint],
    dataset: Dataset,
    folder: Path,
    keep: Path | None = None,
    compiled: Path | None = None,
    *,
    confidence: float | None = None,
    final: bool = False,
    settled: bool = False,
) -> Screening:
    """Time every form and measure what is asked of its accuracy; from ``keep`` where it was done before.

    Args:
        site: of the target as it was given.
        forms: the baseline first.
        sources: checkpoints by name.
        dataset: of training and validation.
        folder: scratch; removed afterwards.
        keep: folder of finished screenings. One is not kept where a form was refused for what may pass: a lost
            connection, a full disk; nor one whose times other work moved.
        compiled: folder of what was compiled of the baseline, here or by whoever is held against it later.
        confidence: least score of a detection that counts for the accuracy, as in :func:`accuracy`.
        final: keep it all the same: the stages of a build will rest on what is chosen by it.
        settled: they do by now, so that one which was kept is taken, whatever was refused in it; before that, it is
            made again where that may pass.
    """
    file = None if keep is None else keep / f"screening-{_key(site, forms, sources, dataset, confidence)}.json"
    if file is not None:
        with contextlib.suppress(DataError):
            before = read_json(Screening, file)
            if settled or not before.may_pass:
                return before
    began = time.monotonic()
    found, moved = _screened(site, forms, sources, dataset, folder, compiled, confidence, final=final)
    found = replace(found, seconds=time.monotonic() - began)
    dataset.require_unchanged()
    if file is not None and (final or not (found.may_pass or moved)):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, found)
    return found


def with_trained_int8(found: Screening, target: Target, epochs: int) -> tuple[Screening, list[Form]]:
    """A screening with a form more for every one in INT8, whose weights are trained for it, and those forms.

    Nothing is measured: it computes what calibrated INT8 computes, and its accuracy is there once it is trained.

    Args:
        found: of forms without training.
        target: as it was given.
        epochs: of every row.
    """
    refused, more = dict(found.refused), []
    for one in found.screened:
        form = trained_int8(one.form, target)
        if form is None:
            continue
        more.append(replace(one, form=form, accuracy=None))
        if why := _untrainable(epochs):
            refused[form.name] = why
    able = [one for one in more if one.form.name not in refused]
    return replace(found, screened=(*found.screened, *able), refused=refused), [one.form for one in more]


def _untrainable(epochs: int) -> str:
    """Why nothing is trained for INT8 here; empty where it is."""
    if not epochs:
        return "--epochs 0 trains nothing"
    try:
        require_modelopt()
    except WHAT_MAY_END_IT as error:
        return first_line(error)
    return ""


def alone(form: Form) -> bool:
    """Whether at most one lever was pulled: its accuracy is then measured in the screening."""
    return len(form.levers) <= 1


def _screened(
    site: Site,
    forms: Sequence[Form],
    sources: Mapping[str, Checkpoint],
    dataset: Dataset,
    folder: Path,
    compiled: Path | None,
    confidence: float | None,
    *,
    final: bool,
) -> tuple[Screening, bool]:
    """What was measured, and whether other work moved the times."""
    few, total = _fewer_images(dataset), len(forms)
    engines: dict[Identity, Path] = {}
    values: dict[Identity, float] = {}
    refused: dict[str, str] = {}
    may_pass = False
    try:
        for number, form in enumerate(forms):
            site.reporter.progress(f"screening {form.name}: compiling", done=number, total=total + 1)
            source, judged = sources[form.weights], alone(form)
            try:
                there = site_with(site, form.keys)
                require_same_output(site, there, source.model)
                if not judged:
                    there = replace(there, target=only_timed(there.target))
                elif there.target.precision.startswith("int8"):
                    there = site_with(there, CALIBRATION)
                bench = SiteBench(there, source, dataset)
                files = bench.compile_source(folder / f"form-{number}", None if form.levers else compiled)
                _require_dla(files.required_engine)
                if judged:
                    site.reporter.progress(f"screening {form.name}: accuracy", done=number, total=total + 1)
                    on_device = site.runtime.fit_for_dataset
                    values[form.identity] = accuracy(
                        files.required_engine if on_device else files.onnx,
                        data=few,
                        imgsz=there.target.imgsz,
                        split="val",
                        batch=there.target.batch,
                        runtime=site.runtime if on_device else None,
                        metadata=metadata_of(files.onnx) if on_device else None,
                        confidence=confidence,
                    ).map50_95
                engines[form.identity] = files.required_engine
            except WHAT_MAY_END_IT as error:
                if not number:
                    raise  # nothing can be compared without the baseline
                refused[form.name] = first_line(error)
                given = isinstance(error, (TargetError, DataError))  # profile and data are in the key
                may_pass = may_pass or not given
                again = "" if given else f"; the next run screens again{', until a stage has finished' * final}"
                site.reporter.note(f"{form.name} does not run here: {refused[form.name]}{again}")
        site.reporter.progress("screening: all of them side by side", done=total, total=total + 1)
        times, moved = _times(site, list(engines.values()), dataset)
        if moved:
            again = "" if final else "; the next run screens again"
            site.reporter.note(f"screening: {moved}, so its times are rough{again}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    measured = dict(zip(engines, times, strict=True))
    screened = tuple(
        Screened(
            form,
            value_of(measured[form.identity].values, site.target.budget.statistic),
            gain.ratio,
            values.get(form.identity),
            parameter_count(sources[form.weights].model),
            None if moved else gain.low,  # nothing is sure by samples that something moved
            None if moved or not math.isfinite(gain.high) else gain.high,
        )
        for form in forms
        if form.identity in measured
        for gain in [speed_up_of(times[0], measured[form.identity])]
    )
    return Screening(screened, refused, may_pass=may_pass), bool(moved)


def _has_other_output(site: Site, form: Form, source: Checkpoint) -> bool:
    with contextlib.suppress(TargetError):  # it is refused whatever its output
        return bool(other_output(site, site_with(site, form.keys), source.model))
    return False


def _times(site: Site, engines: Sequence[Path], dataset: Dataset) -> tuple[list[Measurement], str]:
    """Every engine in one run, the baseline first, again while something moves the samples, as often as the target
    says; and what moved those of the last run, empty where nothing did."""

    def measure(effort: float) -> list[Measurement]:
        return side_by_side(site, engines, dataset, effort=EFFORT * effort)

    def read(times: list[Measurement]) -> tuple[str, str]:
        moved = next(filter(None, (moved_reason(times[0], one) for one in times[1:] or times)), "")
        return moved, moved

    times, moved, _ = measure_until_told(site, "screening", measure, read, site.target.measure.retries)
    return times, moved


def _require_dla(engine: Path) -> None:
    """Refuse a form whose figures would be the GPU's although the target asks for a DLA: its build fails for that."""
    if fell_back := off_dla(engine):
        raise TargetError(f"{fell_back}; {LEAVE_DLA}")


def _fewer_images(dataset: Dataset) -> Dataset:
    """The dataset with at most :data:`IMAGES` of its validation split, spread over it."""
    images = dataset.images("val")
    chosen = images[:: -(-len(images) // IMAGES)]
    return dataset.with_other_images("val", "val", chosen)


def _key(
    site: Site,
    forms: Sequence[Form],
    sources: Mapping[str, Checkpoint],
    dataset: Dataset,
    confidence: float | None,
) -> str:
    content = {
        "version": VERSION,
        "target": target_inputs(site.target, budget=False),
        "conditions": conditions_of(site),
        "forms": [[form.name, dict(form.keys)] for form in forms],
        "weights": {name: [source.sha256, shape_signature(source.model)] for name, source in sources.items()},
        "data": dataset.digest,
        "seed": site.seed,
        "confidence": confidence,
    }
    if other := [form.name for form in forms if _has_other_output(site, form, sources[form.weights])]:
        content["other_output"] = other  # which were once timed as if only the number format were another
    return digest_of(content)[:12]
