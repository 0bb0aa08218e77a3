"""The benchmark of one or several models: latency side by side, memory, layers, and an optional limit.

Gives a :class:`BenchResult`: raw samples, and everything that derives from them. Prints nothing and writes nothing.
"""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.dataset.images import read_image
from edgeprune.errors import DataError, TargetError, only_informs
from edgeprune.input_size import Size, asked_sides, both_sides, pixels
from edgeprune.measure.compiling import compile_once, int8_recipe
from edgeprune.measure.names import names_apart
from edgeprune.measure.other_work import let_cool
from edgeprune.model_file import KINDS, require_model
from edgeprune.options import named, refuse_without_effect
from edgeprune.progress import Progress, Reporter, reporter_of, silent
from edgeprune.reading import paths_of
from edgeprune.runtimes.base import NO_LAYER_TIMES, BenchSettings, Runtime
from edgeprune.runtimes.engine_file import off_dla, read_facts
from edgeprune.runtimes.jobs import EndToEndTimes, LayerTime, PeakMemory
from edgeprune.runtimes.onnx_facts import frees, model_bytes, onnx_facts
from edgeprune.runtimes.site import open_site
from edgeprune.samples.conditions import may_end_otherwise
from edgeprune.samples.gates import (
    Gate,
    Verdict,
    doubt_about,
    fail_confidence,
    latency_gate,
    moved_reason,
    overall_verdict,
    pass_confidence,
    steadier,
)
from edgeprune.samples.measurement import Measurement, Summary, core_speed_up_of, speed_up_of, summary
from edgeprune.samples.statistics import (
    MIN_BLOCKS,
    RatioInterval,
    quantile_of,
    samples_needed,
)
from edgeprune.scratch import scratch
from edgeprune.settings import LAUNCHES, STABLE_RETRIES, Measuring
from edgeprune.target import Target, load_target

if TYPE_CHECKING:
    import numpy as np

MAX_EFFORT = 16  # times the samples of a first measurement: what they do not settle is settled by another machine
TOP_LAYERS = 10
IMAGE_TYPES = ("float32", "float16", "float64")  # of inputs that a frame is prepared for
CONFIDENCE = 0.99  # of the bounds in tables; where there is a limit, they are those of its gate
NMS_ON_NOISE = (
    "NMS inside was timed on noise, in which it finds no boxes or too many; for its time on images give "
    "--data DATASET.yaml"
)


@dataclass(frozen=True)
class ModelBench:
    """Everything measured of one model.

    Attributes:
        model: path as it was given.
        size_bytes: of that file, with the weights that lie beside it.
        latency: raw samples in ms.
        summary: percentiles with upper bounds, mean, throughput, stability of the samples. The bounds are at 99 %, or
            where there is a limit at the confidence of its gate, which rests on them.
        speed_up: first model's latency / this one's, with a 95 % interval; None for the first, or too few samples.
        cpu_speed_up: the same ratio of processor time, which other work on the machine hardly moves; None where a run
            is not one core's work. For people on shared machines; gates are on the clock.
        energy: of an inference, in mJ; None where no power is told, or was not asked.
        memory: of a process with this model alone; None where the runtime does not tell, or was not asked.
        layers: slowest layers first.
        end_to_end: times from a frame to boxes, when they were asked for.
        gate: the verdict on the limit, if one was given.
        precision: number format of the graph that was loaded, or of the engine as its facts say; empty where nothing
            tells.
        timed: what was made of that file and timed in its place, in words; empty where the file itself was.
        disturbed: why its times, or their ratio to the first model's, are not those of a quiet run: a device that
            throttled, samples that moved, other work on the core; empty where nothing speaks against them.
        doubt: what speaks against a quiet run and proves nothing; empty where nothing does.
    """

    model: Path
    size_bytes: int
    latency: Measurement
    summary: Summary
    speed_up: RatioInterval | None
    cpu_speed_up: RatioInterval | None
    energy: Measurement | None
    memory: PeakMemory | None
    layers: tuple[LayerTime, ...]
    end_to_end: EndToEndTimes | None
    gate: Gate | None
    precision: str = ""
    timed: str = ""
    disturbed: str = ""
    doubt: str = ""

    @property
    def state(self) -> str:
        """``steady``, or why it is not, with what may speak against it."""
        return "; ".join(filter(None, (self.disturbed or "steady", self.doubt)))


@dataclass(frozen=True)
class BenchResult:
    """A finished benchmark.

    Attributes:
        runtime: name of the runtime.
        models: in the order given; the first is the one that ratios are taken of.
        attempts: how often it was measured until it was settled; the last measurement is the one kept.
        verdict: of the worst gate; None when no limit was given.
        notes: what the figures do not say by themselves: runs that were disturbed and what helps, number formats that
            differ, a detail that is missing and why.
        schema_version: of the JSON that :mod:`edgeprune.serial` makes of it.
    """

    runtime: str
    models: tuple[ModelBench, ...]
    attempts: int
    verdict: Verdict | None
    notes: tuple[str, ...] = ()
    schema_version: int = (
        5  # 5: what disturbed a run, and bounds that hold in any process, at a confidence of their own
    )

    @property
    def names(self) -> list[str]:
        """Of the models, as far as it takes to tell them apart."""
        return names_apart([model.model for model in self.models])

    @property
    def gates(self) -> list[Gate]:
        """The gates, one a model; empty when no limit was given."""
        return [model.gate for model in self.models if model.gate is not None]

    @property
    def exit_code(self) -> int:
        """0 without a limit; else that of the worst gate."""
        return 0 if self.verdict is None else self.verdict.exit_code

    def to_csv(self) -> str:
        """Raw samples, one a line: model, sample, milliseconds."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("model", "sample", "ms"))
        for model in self.models:
            writer.writerows((str(model.model), number, value) for number, value in enumerate(model.latency.values))
        return text.getvalue()


def sampling_settings(target: Target) -> BenchSettings:
    """How a target asks latency to be sampled, for models that may have another size than its own."""
    return BenchSettings.of(target.measure, launches=LAUNCHES)


@scratch()
def bench(
    target: str | Path | Target,
    models: Path | str | Sequence[Path | str],
    *,
    runtime: str | None = None,
    settings: BenchSettings | None = None,
    imgsz: Size | None = None,
    precision: str = "fp32",
    data: str | None = None,
    max_ms: float | None = None,
    statistic: str | None = None,
    retries: int | None = None,
    until_stable: bool = False,
    details: bool = True,
    image: Path | str | None = None,
    end_to_end: bool = False,
    trust: bool = False,
    progress: Progress | Reporter | None = None,
) -> BenchResult:
    """Time models side by side, by a target's runtime on its device.

    Args:
        target: name of a shipped profile, path of a profile, or a target.
        models: checkpoints (exported and simplified first, as the target's build does it), ONNX files or engines, one
            or several; ratios are of the first.
        runtime: name of a runtime that takes the place of the target's.
        settings: how to sample; as the target asks when None.
        imgsz: side in pixels of what is exported; when None the target's where it states one, else that of each
            checkpoint's training.
        precision: number format to time: ``fp32`` (as the file is), ``fp16``, or ``int8`` and ``int8-fp16``, which need
            ``data``.
        data: dataset that calibrates INT8, as the target asks; and whose images a graph with NMS inside is timed on,
            since its time depends on the boxes. On noise there is no verdict about such a graph.
        max_ms: limit on ``statistic`` for every model.
        statistic: a percentile, such as ``p95``; the target's when None.
        retries: how often an INCONCLUSIVE limit is measured again; as the target says when None.
        until_stable: measure again, within ``retries``, also while a run was disturbed; four times at most where
            neither ``retries`` nor the target says how often.
        details: memory and layers as well.
        image: frame for the end-to-end time, which it asks for; noise of 1280 x 720 when None.
        end_to_end: time pre-processing, model and post-processing apart as well (detectors only).
        trust: load checkpoints with foreign classes, and as in :meth:`~edgeprune.dataset.Dataset.load`; both execute
            code.
        progress: called as the work moves, or a :class:`~edgeprune.progress.Reporter`; nobody by default.

    Raises:
        DataError: a model that cannot be read or timed.
        TargetError: no model, no such target or runtime; a statistic, limit or precision that is none; an argument that
            would change nothing (:func:`refuse_unheard`).
        DeviceError: the device cannot be reached or is another board, or the runtime is missing.
    """
    from edgeprune.measure.graphs import graph_of, in_precision, nms_inside

    target = load_target(target)
    image = None if image is None else Path(image)
    tell = reporter_of(progress).progress
    paths = paths_of(models)
    if not paths:
        raise TargetError("no model was given; give checkpoints, ONNX files or engines")
    for path in paths:
        require_model(path, *KINDS, closed=True)
    if imgsz is not None:
        asked_sides(imgsz)
    if retries is not None:
        Measuring(retries=retries)
    if statistic is not None:
        check_statistic(statistic)
    refuse_unheard(
        paths,
        target,
        precision=precision,
        data=data,
        max_ms=max_ms,
        statistic=statistic,
        retries=retries,
        until_stable=until_stable,
    )
    with (
        open_site(target, runtime=runtime) as site,
        tempfile.TemporaryDirectory(prefix="edgeprune-bench-") as scratch,
    ):
        site.require_usable()
        target, settings = site.target, settings or sampling_settings(site.target)
        side, batch = target.stated_imgsz if imgsz is None else imgsz, settings.batch or target.batch
        graphs, recipe = [], int8_recipe(target, site.runtime.name)
        for number, model in enumerate(paths, 1):
            folder = Path(scratch) / str(number)
            graph = graph_of(model, folder, imgsz=side, batch=batch, target=target, trust=trust, progress=tell)
            low = in_precision(
                graph,
                folder / "precision",
                precision,
                data,
                calibration=target.calibration,
                recipe=recipe,
                trust=trust,
            )
            graphs.append(low)
        if data is not None and settings.images is None and (inside := list(filter(nms_inside, graphs))):
            settings = replace(settings, images=_images_for(inside[0], data, target, settings.seed, trust))
        return bench_graphs(
            graphs,
            site.runtime,
            as_profiled(settings, side, target, graphs),
            max_ms=max_ms,
            statistic=statistic or target.budget.statistic,
            retries=retries if retries is not None else target.measure.retries or STABLE_RETRIES * until_stable,
            until_stable=until_stable,
            details=details,
            image=image,
            end_to_end=end_to_end or image is not None,
            given=paths,
            timed=[timed_words(path, "" if precision == "fp32" else precision) for path in paths],
            progress=tell,
        )


def refuse_unheard(
    models: Sequence[Path],
    target: Target,
    *,
    precision: str,
    data: str | None,
    max_ms: float | None,
    statistic: str | None,
    retries: int | None,
    until_stable: bool,
) -> None:
    """Refuse what was said to :func:`bench` and would change nothing; its arguments.

    Raises:
        TargetError: ``data`` that calibrates nothing and that no graph is timed on, a ``statistic`` without a limit, or
            ``retries`` of what is never measured again.
    """
    from edgeprune.measure.graphs import nms_inside

    if data is not None and not precision.startswith("int8") and not any(nms_inside(one, target) for one in models):
        why = (
            f"calibrates int8, and {named('precision')} is {precision}; it is for graphs with NMS inside too, and here "
            "is none"
        )
        refuse_without_effect({"data": data}, why)
    if max_ms is None:
        refuse_without_effect({"statistic": statistic}, f"is what {named('max_ms')} is on, and none is given")
    if max_ms is None and not until_stable:
        why = f"is for a limit, {named('max_ms')}, or {named('until_stable')}, and neither is given"
        refuse_without_effect({"retries": retries}, why)


def _images_for(
    model: Path, data: str, target: Target, seed: int, trust: bool
) -> Callable[[tuple[int, ...]], np.ndarray]:
    """Inputs from images of a dataset, of the split that the target judges accuracy on."""
    from edgeprune.dataset import Dataset
    from edgeprune.export.images import inputs_from_dataset
    from edgeprune.measure.graphs import metadata_in

    split = target.accuracy.split
    need = () if split == "auto" else (split,)
    dataset = Dataset.load(data, task=metadata_in(model).get("task") or "detect", need=need, trust=trust)
    split = dataset.judging_split(split)
    dataset.images(split)  # where there are none, that is said before anything is built
    return inputs_from_dataset(dataset, split, seed)


def timed_words(given: Path, precision: str = "") -> str:
    """What is timed in place of a file, for :attr:`ModelBench.timed`: of a checkpoint the graph, in another number
    format a copy."""
    graph = "graph exported from it" if given.suffix == ".pt" else ""
    if not precision:
        return graph
    return f"{precision} copy of the {graph}" if graph else f"{precision} copy of it"


def as_profiled(settings: BenchSettings, side: Size | None, target: Target, graphs: Sequence[Path]) -> BenchSettings:
    """Batch and size, where they are not said and every graph leaves them free: the profile's."""
    free = [frees(graph) for graph in graphs if graph.suffix == ".onnx"]
    if len(free) < len(graphs):  # an engine fixes them
        return settings
    batch, size = (all(one) for one in zip(*free, strict=True))
    if batch and not settings.batch:
        settings = replace(settings, batch=target.batch)
    if size and settings.imgsz is None and side is not None:
        settings = replace(settings, imgsz=both_sides(side))
    return settings


def bench_graphs(
    models: Sequence[Path],
    runtime: Runtime,
    settings: BenchSettings | None = None,
    *,
    max_ms: float | None = None,
    statistic: str = "p95",
    retries: int = 0,
    until_stable: bool = False,
    details: bool = True,
    image: Path | None = None,
    end_to_end: bool = False,
    given: Sequence[Path] | None = None,
    timed: Sequence[str] | None = None,
    progress: Progress = silent,
) -> BenchResult:
    """Time ONNX files or engines side by side, by a runtime that is there; other arguments as for :func:`bench`.

    For a runtime that loads no graphs an ONNX file is built once: all that is told of it is told of one engine.

    An INCONCLUSIVE limit is measured again with twice the samples each time (:data:`MAX_EFFORT` times as many at most),
    ``retries`` times at most. Every look gets its share of the error, so that trying again does not make a wrong
    verdict likelier.

    Args:
        models: what is timed.
        given: the files that those were made of, which the result speaks of; the same where None.
        timed: what was made of each of them, as :attr:`ModelBench.timed` says it.
    """
    from edgeprune.measure.graphs import nms_inside

    paths = [Path(model) for model in models]
    settings = settings or BenchSettings()
    _check(paths, statistic, max_ms, retries)
    if end_to_end:
        _check_detectors(paths, settings, image)
    on_noise = [settings.images is None and nms_inside(path) for path in paths]
    confidence, against = pass_confidence(retries), fail_confidence(retries)
    if max_ms is not None:
        settings = settings.with_rounds(least_rounds(statistic, confidence, settings))
    with tempfile.TemporaryDirectory(prefix="edgeprune-bench-") as scratch:
        folders = [Path(scratch) / str(number) for number in range(len(paths))]
        engines = [
            compile_once(runtime, path, folder, progress, settings.free)
            for path, folder in zip(paths, folders, strict=True)
        ]
        attempt = 0
        while True:
            attempt += 1
            latencies = runtime.latency(engines, settings, progress=progress)
            gates = [
                None if max_ms is None else latency_gate("bench", latency, max_ms, statistic, confidence, against)
                for latency in latencies
            ]
            undecided = any(
                gate is not None and gate.verdict is Verdict.INCONCLUSIVE and may_end_otherwise(gate.reason)
                for gate in gates
            )
            unsteady = until_stable and any(why and may_end_otherwise(why) for why in map(moved_reason, latencies))
            if attempt > retries or not (undecided or unsteady):
                break
            let_cool(latencies, progress)
            if 2**attempt <= MAX_EFFORT:
                settings = settings.longer()
        rows = []
        given = paths if given is None else [Path(path) for path in given]
        names = names_apart(given)
        notes: list[str] = []
        formats = [_precision_of(engine, name, notes.append) for name, engine in zip(names, engines, strict=True)]
        disturbed = [_disturbed(latencies, number) for number in range(len(latencies))]
        notes += [
            f"{name}: {why}; {steadier(latencies[0], latency)}"
            for name, latency, why in zip(names, latencies, disturbed, strict=True)
            if why
        ]
        notes += _differences(names, formats, latencies)
        notes += [f"{name}: {words}" for name, words in zip(names, map(_off_dla, engines), strict=True) if words]
        notes += [f"{name}: {NMS_ON_NOISE}" for name, doubtful in zip(names, on_noise, strict=True) if doubtful]
        gates = [
            replace(gate, verdict=Verdict.INCONCLUSIVE, reason=f"{NMS_ON_NOISE} ({gate.reason})")
            if gate is not None and doubtful
            else gate
            for gate, doubtful in zip(gates, on_noise, strict=True)
        ]
        energies = None
        if details:
            with only_informs("no energy", notes.append):
                energies = runtime.energy(engines, settings, progress=progress)
        for number, (path, engine) in enumerate(zip(given, engines, strict=True)):
            layers, memory = (), None
            if details:
                progress(f"memory and layers of {names[number]}", done=number, total=len(paths))
                layers, memory = _details(runtime, engine, names[number], settings, notes.append)
            pair = (latencies[0], latencies[number]) if number else ()
            parts = None
            if end_to_end:
                with only_informs(f"no time from frame to boxes of {names[number]}", notes.append):
                    parts = runtime.end_to_end(engine, settings, image=image)
            rows.append(
                ModelBench(
                    model=path,
                    size_bytes=model_bytes(path),
                    latency=latencies[number],
                    summary=summary(latencies[number], CONFIDENCE if max_ms is None else confidence),
                    speed_up=_with_ends(speed_up_of(*pair)) if pair else None,
                    cpu_speed_up=_with_ends(core_speed_up_of(*pair)) if pair else None,
                    energy=energies[number] if energies else None,
                    memory=memory,
                    layers=layers,
                    end_to_end=parts,
                    gate=gates[number],
                    precision=formats[number],
                    timed=timed[number] if timed else "",
                    disturbed=disturbed[number],
                    doubt=doubt_about(latencies[number]),
                )
            )
    verdict = overall_verdict([gate for gate in gates if gate is not None]) if max_ms is not None else None
    return BenchResult(runtime.name, tuple(rows), attempt, verdict, tuple(notes))


def _disturbed(latencies: Sequence[Measurement], number: int) -> str:
    """Why a model's times, or their ratio to the first one's, are of a disturbed run; empty where they are not."""
    own = moved_reason(latencies[number])
    if own or not number:
        return own
    ratio = moved_reason(latencies[0], latencies[number])
    return f"its ratio to the first: {ratio}" if ratio else ""


def _details(
    runtime: Runtime, engine: Path, name: str, settings: BenchSettings, note: Callable[[str], None]
) -> tuple[tuple[LayerTime, ...], PeakMemory | None]:
    """The slowest layers, slowest first, and the memory; what cannot be had is told."""
    layers, memory = [], None
    with only_informs(f"no layers of {name}", note):
        layers = runtime.layer_times(engine, threads=settings.threads, free=settings.free, cpus=settings.cpus)
        if not layers:
            note(f"no layers of {name}: {NO_LAYER_TIMES}")
    with only_informs(f"no memory of {name}", note):
        memory = runtime.peak_memory(engine, threads=settings.threads, free=settings.free)
    return tuple(sorted(layers, key=lambda layer: -layer.mean_ms)[:TOP_LAYERS]), memory


def _check(paths: Sequence[Path], statistic: str, max_ms: float | None, retries: int) -> None:
    if not paths:
        raise TargetError("no model to measure; give at least one ONNX file or engine")
    for path in paths:
        require_model(path, ".onnx", ".engine", closed=True)
    check_statistic(statistic)
    if max_ms is not None and not 0 < max_ms < float("inf"):
        raise TargetError(f"--max-ms {max_ms}: a positive number of milliseconds is needed")
    Measuring(retries=retries)


def check_statistic(statistic: str) -> None:
    """Refuse a statistic that is no percentile, by a TargetError."""
    try:
        quantile_of(statistic)
    except ValueError as error:
        raise TargetError(f"--statistic: {error}") from None


def _check_detectors(paths: Sequence[Path], settings: BenchSettings, image: Path | None) -> None:
    """Refuse beforehand what no time from frame to boxes can be had of: it would be known when all else is measured."""
    if image is not None:
        read_image(image)
    for path in paths:
        if path.suffix != ".onnx":
            continue
        facts = onnx_facts(path, free=settings.free)
        shapes = [entry.shape for entry in facts.inputs]
        if (task := facts.metadata.get("task", "detect")) != "detect":
            raise DataError(f"{path}: --end-to-end is for detectors, this is {task}; leave it out")
        if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][:2] != (1, 3):
            seen = ", ".join(str(list(shape)) for shape in shapes) or "nothing"
            raise DataError(f"{path}: --end-to-end is of one RGB image, this takes {seen}; leave it out, or --batch 1")
        if (kind := facts.inputs[0].dtype) not in IMAGE_TYPES:
            raise DataError(f"{path}: --end-to-end gives images as floats from 0 to 1, this takes {kind}; leave it out")


def least_rounds(statistic: str, confidence: float, settings: BenchSettings) -> int:
    """Rounds that can settle the statistic at all, with half as many again for samples that depend on each other."""
    return -(-samples_needed(quantile_of(statistic), confidence) * 3 // 2 // settings.per_round)


def _precision_of(engine: Path, name: str, note: Callable[[str], None]) -> str:
    """Number format of a graph, or of an engine as its facts say; empty where nothing tells."""
    with only_informs(f"no number format of {name}", note):
        if engine.suffix == ".onnx":
            from edgeprune.export.precision import precision_of

            return precision_of(engine)
        if (facts := read_facts(engine)) is not None:
            return facts.precision
    return ""


def _off_dla(engine: Path) -> str:
    """That an engine's figures are the GPU's, although a DLA was asked for; empty where they are not."""
    with only_informs("", lambda _: None):
        return "" if engine.suffix == ".onnx" else off_dla(engine)
    return ""


def _differences(names: Sequence[str], formats: Sequence[str], latencies: Sequence[Measurement]) -> Iterator[str]:
    """A line for each thing in which the models that ratios are of differ; what is not known differs from nothing."""
    conditions = [latency.conditions for latency in latencies]
    sizes = [{shape[2:] for shape in one.shapes.values() if len(shape) == 4} for one in conditions]
    told = {
        "number formats": (
            [known and f"in {known}" for known in formats],
            "a speed-up is of the format too; of the model alone it is with both in one (edgeprune quantize makes it)",
        ),
        "batches": (
            [f"of {one.batch}" for one in conditions],
            "a speed-up is of different work; images/s can be compared",
        ),
        "sizes": (
            [pixels(min(one)) if len(one) == 1 else "" for one in sizes],
            "a speed-up is of the size too; export them at one",
        ),
    }
    for what, (said, meaning) in told.items():
        if len(set(said) - {""}) > 1:
            listed = ", ".join(f"{name} {one}" for name, one in zip(names, said, strict=True) if one)
            yield f"different {what} ({listed}): {meaning}"


def _with_ends(found: RatioInterval | None) -> RatioInterval | None:
    return found if found is not None and found.blocks >= MIN_BLOCKS else None
