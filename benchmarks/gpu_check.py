"""The whole build with real TensorRT engines, on the NVIDIA GPU of this machine; writes tensorrt_gpu.md.

    make gpu-check WEIGHTS=best.pt DATA=data.yaml
    python -m benchmarks.gpu_check --weights best.pt --data data.yaml --phases batch-1 int8

Phases, in this order: ``batch-N`` builds for N images an inference (``--batch``), ``int8`` compiles what the first of
them fine-tuned in INT8 and times it beside its engine, ``files`` keeps what trtexec writes about that engine, ``table``
judges and writes the page. What a phase finished stays in ``--out``: one that was stopped goes on where it was, and a
later call may run the next ones. Without a GPU or TensorRT it ends with code 4; on a stand-in it runs to the end, calls
every figure SIMULATED and writes no tensorrt_gpu.md.

Exit codes: 0 every check passed, 1 one failed, 5 one is open (not measured, or inconclusive), 2 and 4 as ``edgeprune``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter
from typing import Any

import yaml

from benchmarks.page import publish
from edgeprune.agent.facts import DeviceFacts
from edgeprune.artifact import Role
from edgeprune.errors import DataError, DeviceError, EdgepruneError, TargetError
from edgeprune.measure.result import ArtifactAccuracy, LayerMs
from edgeprune.records.build import BuildRecord
from edgeprune.records.facts import BaselineFacts, PruneFacts
from edgeprune.records.gates import agreement_gate, precision_gate
from edgeprune.records.show import read_build
from edgeprune.runtimes.precision_truth import PrecisionShare
from edgeprune.runtimes.site import open_site
from edgeprune.runtimes.trtexec_ import RUN_TIMEOUT_S, TrtExec
from edgeprune.runtimes.trtexec_argv import info_argv, profile_argv, time_argv
from edgeprune.samples.gates import Gate, Verdict, overall_verdict, simulated_gate
from edgeprune.samples.measurement import Measurement, speed_up_of
from edgeprune.serial import from_json, read_json, read_json_data, write_json
from edgeprune.stages.base import SilentBuild
from edgeprune.target import name_to_extend
from edgeprune.version import __version__
from edgeprune.workspace import RECORD

INSIDE = (1.0, 1.09)  # measured over asked: a budget that is met, and not by giving up more than it takes
OVER_ASKED = "measured over asked"
KEPT_SAMPLES = 50  # of the times that are kept as an example of the format
SHOWN_LAYERS = 12
PAGE, SIMULATED_PAGE = "tensorrt_gpu.md", "simulated.md"


@dataclass(frozen=True)
class Int8Facts:
    """What the fine-tuned model came to in INT8.

    Attributes:
        precision: asked of the engine.
        accuracy: of the graph, and how far the engine agrees with it.
        shares: what the engine computes in; None where the runtime does not tell.
        before: latency of the build's own engine.
        after: latency of the INT8 engine, timed beside it.
        seconds: of the phase.
        simulated: on a stand-in.
    """

    precision: str
    accuracy: ArtifactAccuracy
    shares: PrecisionShare | None
    before: Measurement
    after: Measurement
    seconds: float
    simulated: bool


@dataclass(frozen=True)
class Searched:
    """A build that was stopped behind its search.

    Attributes:
        asked: speed-up of its budget.
        baseline: the unpruned model, and its engine.
        search: the plan, and what was measured on the way to it.
    """

    asked: float
    baseline: BaselineFacts
    search: PruneFacts


class Notes(SilentBuild):
    """Prints stages, notes and verdicts with the seconds since the start."""

    def __init__(self) -> None:
        self.began = perf_counter()

    def note(self, text: str) -> None:
        print(f"{perf_counter() - self.began:6.1f} s  {text}", flush=True)

    def stage(self, name: str, number: int, total: int, reused: bool) -> None:
        self.note(f"[{number}/{total}] {name}{' (reused)' if reused else ''}")

    def gates(self, gates: Sequence[Gate]) -> None:
        for gate in gates:
            self.note(f"    {gate.verdict.value}: {gate.metric} {_figure(gate.value)} {gate.unit} ({gate.reason})")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the phases that are asked for; gives the exit code."""
    options = _options(argv)
    try:
        return run(options)
    except EdgepruneError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return error.exit_code


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="checkpoint of the unpruned model")
    parser.add_argument("--data", required=True, help="dataset YAML")
    parser.add_argument("--target", default="desktop-tensorrt", help="profile by name or path [%(default)s]")
    parser.add_argument("--imgsz", type=int, default=640, help="input side in pixels [%(default)s]")
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[1, 16], help="images an inference, a build each [1 16]"
    )
    parser.add_argument("--speed-up", type=float, default=1.3, help="budget of every build [%(default)s]")
    parser.add_argument("--epochs", type=int, default=2, help="of fine-tuning [%(default)s]")
    parser.add_argument("--probes", type=int, default=4, help="most candidates of a search [%(default)s]")
    parser.add_argument("--no-diagnosis", action="store_true", help="save two to four engines that a search adds")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of a latency measurement [%(default)s]")
    parser.add_argument("--per-round", type=int, default=20, help="samples of each model a round [%(default)s]")
    parser.add_argument("--retries", type=int, default=1, help="of an inconclusive latency [%(default)s]")
    parser.add_argument("--phases", nargs="+", default=[], help="which to run [all]")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/gpu-check"), help="folder that it works in [%(default)s]"
    )
    parser.add_argument("--page", type=Path, help=f"where the page goes [OUT/{PAGE}]; never written on a stand-in")
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> int:
    """See :func:`main`.

    Raises:
        EdgepruneError: wrong input, no GPU or no TensorRT, a tool that failed.
    """
    batches = [f"batch-{number}" for number in options.batch]
    every = [*batches, "int8", "files", "table"]
    if unknown := [phase for phase in options.phases if phase not in every]:
        raise TargetError(f"--phases {unknown[0]}: allowed are {', '.join(every)}")
    phases = [phase for phase in every if phase in (options.phases or every)]
    facts, trtexec, simulated = find_device(options)
    notes = Notes()
    words = ", ".join(str(gpu) for gpu in facts.gpus) or facts.board
    notes.note(f"{'SIMULATED ' if simulated else ''}{words}; {trtexec}")
    for number, phase in zip(options.batch, batches, strict=True):
        if phase in phases:
            _build(options, number, notes)
    first = options.out / batches[0]
    if "int8" in phases:
        _int8(options, first, notes)
    if "files" in phases:
        _files(options, first, notes)
    if "table" not in phases:
        return 0
    checks, page = _page(options, batches, facts, trtexec, simulated)
    path = options.out / (SIMULATED_PAGE if simulated else PAGE)
    path.write_text(page, encoding="utf-8")
    if options.page is not None and not simulated:
        publish(options.page, "gpu-check", page)
    for check in checks:
        notes.note(f"{check.verdict.value}: {check.stage}, {check.metric} {_figure(check.value)} {check.unit}")
    notes.note(f"written: {path}")
    return {Verdict.PASS: 0, Verdict.FAIL: 1}.get(overall_verdict(checks), 5)


def find_device(options: argparse.Namespace) -> tuple[DeviceFacts, str, bool]:
    """What engines are built on, by which TensorRT, and whether it is a stand-in.

    Raises:
        DeviceError: no TensorRT, or no GPU.
    """
    with open_site(options.target) as site:
        facts = site.device.facts()
        if not site.device.simulated and site.target.device.kind == "cuda" and not facts.gpus:
            raise DeviceError("no NVIDIA GPU: nvidia-smi lists none; next: run it on a machine that has one")
        site.require_usable()
        return facts, site.availability.detail, site.runtime.simulated


# ------------------------------------------------------------------------------------------------------------- phases


def _profile(options: argparse.Namespace, name: str, **keys: object) -> Path:
    """Write the profile of a phase: the asked one, sampled as the options say."""
    path = options.out / f"{name}.yaml"
    content = {
        "extends": name_to_extend(options.target, options.out),
        "description": f"gpu-check, {name}",
        "imgsz": options.imgsz,
        "mixed_precision": False,  # a few epochs win little back, and what stays in float is not the question here
        "budget": {"speed_up": options.speed_up, "statistic": "p50"},
        "prune": {"max_probes": options.probes, "diagnose": not options.no_diagnosis},
        "measure": {
            "rounds": options.rounds,
            "per_round": options.per_round,
            "retries": options.retries,
            "warmup_s": 0.2,
            "time_limit_s": 180.0,
        },
        **keys,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def _build(options: argparse.Namespace, batch: int, notes: Notes) -> None:
    from edgeprune import build

    name = f"batch-{batch}"
    profile = _profile(options, name, batch=batch)
    notes.note(f"{name}: {options.weights} on {options.data} at {options.imgsz} px for ×{options.speed_up:g}")
    out = options.out / name
    result = build(profile, options.weights, options.data, out=out, epochs=options.epochs, progress=notes)
    notes.note(f"{name}: {result.verdict.value}")


def _int8(options: argparse.Namespace, first: Path, notes: Notes) -> None:
    from edgeprune.measure.accuracy import measure_artifact
    from edgeprune.measure.compiling import compile_checkpoint
    from edgeprune.measure.latency import measure_pair
    from edgeprune.measure.layers import compare_layers
    from edgeprune.search.inputs import read_inputs
    from edgeprune.stages.precision import engine_precision

    record, began = _record(first), perf_counter()
    profile = _profile(options, "int8", precision="int8-fp16", batch=record.target.batch)
    trained, engine = _artifact(first, record, "finetune", "model"), _artifact(first, record, "engine", "engine")
    folder = options.out / "int8"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with open_site(profile, seed=record.seed, reporter=notes) as site:
        dataset = read_inputs(site.target, trained, options.data, trust=False).dataset
        assert dataset is not None
        notes.note("int8: calibrating and compiling what was fine-tuned")
        files = compile_checkpoint(site, trained, folder, dataset)
        accuracy = measure_artifact(site, files.onnx, files.engine, dataset)
        layers = compare_layers(site.runtime, engine, files.required_engine)
        shares = engine_precision(site.runtime, files.required_engine, layers.candidate, files.onnx)
        before, after = measure_pair(site, engine, files.required_engine, dataset, trained=True)
        precision, seconds = site.target.precision, perf_counter() - began
        facts = Int8Facts(precision, accuracy, shares, before, after, seconds, site.runtime.simulated)
    write_json(options.out / "int8.json", facts)
    notes.note(f"int8: {_medians(before, after)}")


def _files(options: argparse.Namespace, first: Path, notes: Notes) -> None:
    """Keep what trtexec itself writes about the first build's engine: layers, times, profile, and its logs."""
    record = _record(first)
    engine, kept = _artifact(first, record, "engine", "engine"), options.out / "files"
    kept.mkdir(exist_ok=True)
    with open_site(options.target, seed=record.seed, reporter=notes) as site:
        runtime = site.runtime
        if not isinstance(runtime, TrtExec):
            notes.note(f"files: {runtime.name} writes none")
            return
        program, version = runtime.find_program()
        with site.device.workspace() as there:
            plan = f"{there}/engine"
            site.device.send(engine, plan)
            path = {name: f"{there}/{name}.json" for name in ("layers", "times", "profile")}
            lines = {
                "layers": info_argv(version, engine=plan, layer_info=path["layers"], trtexec=program),
                "times": time_argv(
                    version,
                    engine=plan,
                    times=path["times"],
                    copies=True,
                    cuda_graph=True,
                    iterations=KEPT_SAMPLES,
                    trtexec=program,
                ),
                "profile": profile_argv(
                    version, engine=plan, profile=path["profile"], iterations=KEPT_SAMPLES, trtexec=program
                ),
            }
            for name, argv in lines.items():
                done = runtime.run(argv, RUN_TIMEOUT_S)
                (kept / f"{name}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
                site.device.fetch(path[name], kept / f"{name}.json")
    if (log := engine.with_name(engine.name + ".log")).is_file():
        shutil.copy(log, kept / "build.log")
    notes.note(f"files: {', '.join(sorted(file.name for file in kept.iterdir()))} in {kept}")


def _record(folder: Path) -> BuildRecord:
    try:
        return read_build(folder)
    except DataError as error:
        raise DataError(f"{folder.name} is not finished ({error}); run that phase first") from error


def _artifact(folder: Path, record: BuildRecord, stage: str, role: Role) -> Path:
    found = [row.path for row in record.artifacts if (row.stage, row.role) == (stage, role)]
    if not found:
        raise DataError(f"{folder}: stage {stage} left no {role}; run {folder.name} again")
    return folder / found[0]


# --------------------------------------------------------------------------------------------------------------- page


def _page(
    options: argparse.Namespace, batches: Sequence[str], facts: DeviceFacts, trtexec: str, simulated: bool
) -> tuple[list[Gate], str]:
    """The checks, and the page that shows what they rest on."""
    records: dict[str, BuildRecord] = {}
    for name in batches:
        if (options.out / name / "bundle").is_dir():
            records[name] = _record(options.out / name)
    begun = {name: _searched(options.out / name) for name in batches if name not in records}
    stopped = {name: stages for name, stages in begun.items() if stages is not None}
    if not records and not stopped:
        raise DataError(f"{options.out}: no build with a finished search; run the phases {' and '.join(batches)} first")
    path = options.out / "int8.json"
    int8 = read_json(Int8Facts, path) if path.is_file() else None
    checks = [check for name in batches for check in build_checks(name, records.get(name))]
    searches = {name: record.stages.prune.facts for name, record in records.items()}
    searches |= {name: found.search for name, found in stopped.items()}
    checks += [check for name, found in stopped.items() for check in stopped_checks(name, found, simulated)]
    checks += int8_checks(int8)
    title = "SIMULATED: a stand-in, nothing here was measured" if simulated else "TensorRT on a GPU"
    device = "; ".join(f"{gpu.name} (driver {gpu.driver})" for gpu in facts.gpus) or facts.board
    today = datetime.now(timezone.utc).date().isoformat()
    lines = [
        f"# {title}",
        "",
        f"`make gpu-check`: {Path(options.weights).name} at {options.imgsz} px, ×{options.speed_up:g} asked, "
        f"{options.epochs} epochs of fine-tuning: a check of engines and figures, not of what a model can regain.",
        "",
        f"{device}; {trtexec}; edgeprune {__version__}; {today}.",
        "",
        "| check | value | limit | verdict |",
        "| --- | --- | --- | --- |",
        *(
            f"| {check.stage}: {check.metric} | {_figure(check.value)} {check.unit} | {_limit(check)} "
            f"| {check.verdict.value}: {check.reason} |"
            for check in checks
        ),
        "",
        *_build_table(records),
        "## The search: predicted against measured",
        "",
        "| build | probe | MACs | predicted share of the budget | measured | predicted / measured − 1 |",
        "| --- | --- | --- | --- | --- | --- |",
        *(row for name, search in searches.items() for row in _probe_rows(name, search)),
        "",
        *(line for name, found in stopped.items() for line in _stopped_lines(name, found)),
        *_int8_lines(int8),
        *(line for name, record in records.items() for line in _layer_lines(name, record)),
    ]
    return checks, "\n".join(lines).rstrip() + "\n"


def build_checks(name: str, record: BuildRecord | None) -> Iterator[Gate]:
    """The checks of one build: its budget, and the gates of its engine that say what it computes in and how well."""
    if record is None:
        yield Gate(name, "build", None, None, "", Verdict.PENDING, "not finished; run this phase")
        return
    simulated = record.device is not None and record.device.simulated
    found, asked = record.speed_up, record.target.budget.speed_up
    assert asked is not None  # the profile says so
    value = None if found is None else found.ratio / asked
    inside = value is not None and INSIDE[0] <= value <= INSIDE[1]
    verdict = Verdict.INCONCLUSIVE if simulated or value is None else Verdict.PASS if inside else Verdict.FAIL
    words = "too few samples" if found is None else f"×{found.ratio:.3f} measured for ×{asked:g}"
    yield Gate(name, OVER_ASKED, value, INSIDE[1], "", verdict, _marked(words, simulated))
    wanted = (f"{record.target.precision} in the engine", "agreement with the ONNX")
    for metric in wanted:
        rows = [gate for gate in record.gates if (gate.stage, gate.metric) == ("engine", metric)]
        missing = Gate(name, metric, None, None, "", Verdict.PENDING, "the build has no such row")
        row = rows[0] if rows else missing
        yield Gate(name, metric, row.value, row.limit, row.unit, row.verdict, row.reason)


def stopped_checks(name: str, found: Searched, simulated: bool) -> Iterator[Gate]:
    """What can be judged of a build that was stopped behind its search: the search, and the unpruned engine."""
    rows = []
    for probe in found.search.probes:
        if probe.kept and probe.latency is not None:
            value = probe.latency.speed_up / found.asked
            verdict = Verdict.PASS if INSIDE[0] <= value <= INSIDE[1] else Verdict.FAIL
            words = f"×{probe.latency.speed_up:.3f} measured for ×{found.asked:g}"
            rows.append(Gate(f"{name}, search", OVER_ASKED, value, INSIDE[1], "", verdict, words))
    if found.baseline.accuracy.agreement is not None:
        rows.append(agreement_gate(f"{name}, unpruned", found.baseline.accuracy.agreement))
    yield from (simulated_gate(row) if simulated else row for row in rows)


def int8_checks(int8: Int8Facts | None) -> Iterator[Gate]:
    if int8 is None:
        yield Gate("int8", "engine", None, None, "", Verdict.PENDING, "not finished; run this phase")
        return
    gates = []
    if int8.shares is not None:
        gates.append(precision_gate("int8", int8.shares, int8.precision))
    if int8.accuracy.agreement is not None:
        gates.append(agreement_gate("int8", int8.accuracy.agreement))
    for gate in gates:
        verdict = Verdict.INCONCLUSIVE if int8.simulated else gate.verdict
        reason = _marked(gate.reason, int8.simulated)
        yield Gate(gate.stage, gate.metric, gate.value, gate.limit, gate.unit, verdict, reason)


def _build_table(records: Mapping[str, BuildRecord]) -> list[str]:
    if not records:
        return []
    return [
        "## The builds",
        "",
        "| build | p50 before → after | speed-up (95 %) | MACs | parameters | mAP50-95 before → after | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(_build_row(name, record) for name, record in records.items()),
        "",
    ]


def _build_row(name: str, record: BuildRecord) -> str:
    pair, found, prune = record.judged_latency, record.speed_up, record.stages.prune.facts
    before, after = record.stages.baseline.facts.accuracy, record.stages.engine.facts.accuracy
    cells = (
        _medians(*pair) if pair else "—",
        f"×{found.ratio:.3f} ({found.low:.3f} to {found.high:.3f})" if found else "—",
        f"×{prune.macs.ratio:.2f}",
        f"{prune.parameters.before / 1e6:.2f} → {prune.parameters.after / 1e6:.2f} M",
        f"{before.value:.3f} → {after.value:.3f}",
        f"{sum(row.seconds for _, row in record.stages.items()):.0f}",
    )
    return f"| {name} | {' | '.join(cells)} |"


def _probe_rows(name: str, search: PruneFacts) -> Iterator[str]:
    for number, probe in enumerate(search.probes, 1):
        kept = ", kept" if probe.kept else ""
        yield (
            f"| {name} | {number}{kept} | ×{probe.macs_ratio:.2f} | {probe.predicted_share:.1%} "
            f"| {probe.budget_share:.1%} | {probe.error:+.1%} |"
        )


def _searched(folder: Path) -> Searched | None:
    """What a build that was stopped came to before and in its search; None where the search had no result."""
    if not (found := _newest(folder, "prune")):
        return None
    _, search = found[0]
    unpruned = search["inputs"].get("source.baseline.model")  # not of a model that was trained for sparsity before
    for path, baseline in _newest(folder, "baseline"):
        if baseline["artifacts"]["model"]["sha256"] == unpruned:
            return Searched(
                asked=search["inputs"]["params.budget.speed_up"],
                baseline=from_json(BaselineFacts, baseline["facts"], str(path)),
                search=from_json(PruneFacts, search["facts"], str(path)),
            )
    return None


def _newest(folder: Path, stage: str) -> list[tuple[Path, dict[str, Any]]]:
    """Records of a stage, the newest first."""
    files = sorted(folder.glob(f"{stage}-*/{RECORD}"), key=lambda file: -file.stat().st_mtime)
    return [(file, read_json_data(file)) for file in files]


def _stopped_lines(name: str, found: Searched) -> list[str]:
    """What is known of a build whose fine-tuning and engine are missing."""
    baseline, search = found.baseline, found.search
    lines = [f"## {name}, stopped behind its search", ""]
    agreed = baseline.accuracy.agreement
    if agreed is not None:
        lines.append(
            f"The unpruned engine agrees with its graph in {agreed.detections_agreement:.1%} of "
            f"{agreed.detections_reference} detections on {agreed.images} images."
        )
    if latency := next((probe.latency for probe in search.probes if probe.kept), None):
        lines.append(
            f"{latency.statistic} {latency.baseline_ms:.3f} → {latency.candidate_ms:.3f} ms (×{latency.speed_up:.3f}), "
            f"{search.parameters.before / 1e6:.2f} → {search.parameters.after / 1e6:.2f} M parameters, "
            f"MACs ×{search.macs.ratio:.2f}; not trained yet."
        )
    if told := search.diagnosis:
        others = [f"{one.name} ×{one.speed_up:.2f}" for one in told.alternatives if one.speed_up is not None]
        lines.append(
            f"Of the latency narrower layers can take {told.width_share:.0%}, fewer blocks another "
            f"{told.depth_share:.0%}; {told.fixed_share:.0%} is fixed. Without pruning, a frame: {', '.join(others)}."
        )
    return [*lines, ""]


def _int8_lines(int8: Int8Facts | None) -> list[str]:
    if int8 is None:
        return []
    shares = "" if int8.shares is None else f"; {int8.shares.text()}"
    return [
        "## INT8",
        "",
        f"The same fine-tuned model in {int8.precision}, timed beside the engine above: "
        f"p50 {_medians(int8.before, int8.after)}, mAP50-95 of its graph {int8.accuracy.value:.3f}{shares}.",
        "",
    ]


def _layer_lines(name: str, record: BuildRecord) -> list[str]:
    layers = record.stages.engine.facts.layers
    if layers is None:
        return []
    return [
        f"## Layers, {name}",
        "",
        f"{len(layers.baseline)} layers took {_sum(layers.baseline):.3f} ms, {len(layers.candidate)} take "
        f"{_sum(layers.candidate):.3f} ms, by TensorRT's profiler; the {SHOWN_LAYERS} slowest:",
        "",
        "| before | ms | after | ms |",
        "| --- | --- | --- | --- |",
        *(
            f"| {_layer(before)} | {_layer(after)} |"
            for before, after in zip(_slowest(layers.baseline), _slowest(layers.candidate), strict=False)
        ),
        "",
    ]


def _slowest(layers: Sequence[LayerMs]) -> list[LayerMs]:
    return sorted(layers, key=lambda layer: -layer.ms)[:SHOWN_LAYERS]


def _layer(layer: LayerMs) -> str:
    name = layer.name if len(layer.name) <= 60 else f"{layer.name[:57]}…"
    return f"`{name}` | {layer.ms:.4f}".replace("|", "\\|", layer.name.count("|"))


def _sum(layers: Sequence[LayerMs]) -> float:
    return sum(layer.ms for layer in layers)


def _medians(before: Measurement, after: Measurement) -> str:
    from edgeprune.samples.statistics import value_of

    ratio = speed_up_of(before, after).ratio
    return f"{value_of(before.values, 'p50'):.3f} → {value_of(after.values, 'p50'):.3f} ms (×{ratio:.2f})"


def _marked(text: str, simulated: bool) -> str:
    return f"SIMULATED: {text}" if simulated else text


def _figure(value: float | None) -> str:
    return "—" if value is None else f"{value:.4g}"


def _limit(gate: Gate) -> str:
    if gate.metric == OVER_ASKED:
        return f"{INSIDE[0]:.2f} to {INSIDE[1]:.2f}"
    return _figure(gate.limit)


if __name__ == "__main__":
    sys.exit(main())
