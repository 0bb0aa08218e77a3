"""Results of a board that were carried back: checked against the build they belong to, judged as a live build would.

Nothing is taken on trust: every file is compared with its digest, the request with the one that the build packed, the
board with the target. What the board gave is then replayed to the runtime of a live build, which forms the figures.
"""

from __future__ import annotations

import contextlib
import lzma
import shlex
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from edgeprune.agent.power import plain_mode
from edgeprune.artifact import sha256_of, write_atomically, write_files
from edgeprune.carry.device import NAME, ReplayingDevice
from edgeprune.carry.graph import carried_graph
from edgeprune.carry.out import FOLDER, carried_from, packed_contents, read_inputs
from edgeprune.carry.request import MAX_RESULTS_BYTES, SCHEMA_VERSION, Request, Results
from edgeprune.deploy.bundled import files_for_tools
from edgeprune.deploy.shipped import ShippedModel
from edgeprune.devices.board import mismatch, tensorrt_mismatch
from edgeprune.errors import DamagedError, DataError, DeviceError, EdgepruneError, StageError, first_line
from edgeprune.reading import is_file, read_bytes, shown, size_of
from edgeprune.records.build import BuildRecord, DeviceRow, MeasurementRow, write_build
from edgeprune.records.show import RECORD
from edgeprune.records.signature import SIGNATURE
from edgeprune.records.verify import read_untouched
from edgeprune.runtimes.engine_file import BUNDLED, facts_path
from edgeprune.runtimes.trtexec_argv import shown_version, version_from_banner
from edgeprune.samples.gates import (
    Gate,
    Verdict,
    info_gate,
    inform_by_later,
    overall_verdict,
    simulated_gate,
    unpruned_gate,
)
from edgeprune.serial import from_json, parse_json, read_json
from edgeprune.target import Target
from edgeprune.workspace import BUILD_RECORD, BUNDLE, OLD_BUNDLE, held, held_build, run_directory_of

if TYPE_CHECKING:
    from edgeprune.carry.visit import Visit

PIECE_BYTES = 1 << 20
MEASURED_AGAIN = "measure again on the board: sh edgeprune-device/run-on-device.sh"
NEEDLESS = (
    "the unpruned model alone is within the budget too, so nothing had to be pruned: give the same command with "
    "--macs-speed-up 1 in place of the budget{profile} to ship it as it is"
)
NAMED = ", and levers: named in the profile,"  # auto is refused beside such a budget


def import_results(
    results: Path, run: Path | None = None, note: Callable[[str], object] = lambda text: None
) -> tuple[BuildRecord, Path]:
    """Judge results and update the build that they belong to.

    Args:
        results: ``results.tar``, or the folder that it unpacks to.
        run: run directory or bundle; without one, ``runs/*`` is searched for the build that made the request.
        note: called with what a person may want to know: a signature that vouches no more is removed.

    Returns:
        The build's new record, and its bundle.

    Raises:
        DataError: results or build are missing, damaged, edited, or do not belong together.
        DeviceError: another board or power mode than the target's.
        StageError: a build works in the run directory.
    """
    from edgeprune.report.build import page_beside

    with tempfile.TemporaryDirectory(prefix="edgeprune-import-") as scratch, contextlib.ExitStack() as lock:
        folder = _unpack(results, Path(scratch))
        answered = _read_results(folder, results)
        given = run
        if run is not None:  # before it is looked for: a bundle whose replacement was stopped is put back
            run = run.resolve()  # `.` has no folder above it by name
            lock.enter_context(held_build(run))
            bundle = _bundle_in(run)
        else:
            bundle = _find_bundle(answered.request_sha256)
            lock.enter_context(held_build(bundle))
        record = read_untouched(bundle)  # of what is judged anew, nothing may be somebody's own figure
        drawn = page_beside(record, bundle).decode(errors="replace")
        request = _read_request(bundle, record, answered)
        _require_board(record.target, answered)
        packed, engines = bundle / FOLDER, Path(scratch) / "engines"
        engines.mkdir()
        visit = _replay(answered, request, record.target, packed, folder, engines, note)
        record = _update(record, _judge(visit, record, packed / "model.onnx"), visit, answered)
        record = carried_from(record, bundle.parent if given is None else given)
        model = ShippedModel.read(packed / "model.onnx", engine=visit.engine)
        files: dict[str, bytes | Path] = {BUNDLED: visit.engine, f"{BUNDLED}.json": facts_path(visit.engine)}
        signed = is_file(bundle / SIGNATURE)
        record = _write_build(record, bundle, files | files_for_tools(model, record.target), drawn)
        if signed:
            command = f"edgeprune sign {shlex.quote(str(bundle))} --key KEY"
            note(f"{SIGNATURE} was of the build before, and is removed; sign again: {command}")
        return record, bundle


def _unpack(results: Path, scratch: Path) -> Path:
    if results.is_dir():
        return results / "results" if (results / "results" / "results.json").is_file() else results
    if not size_of(results):  # a pipe would be waited for
        raise DataError(f"{shown(results)}: is empty; copy results.tar from the board again, or {MEASURED_AGAIN}")
    try:
        with tarfile.open(results) as packed:
            total = 0
            for member in packed:
                path = PurePosixPath(member.name)
                total += member.size
                if member.isdir():
                    continue
                if not member.isfile() or path.is_absolute() or ".." in path.parts:
                    raise DataError(f"{results}: {member.name} does not belong into results; nothing was taken from it")
                if total > MAX_RESULTS_BYTES:
                    raise DataError(
                        f"{shown(results)}: what it holds is larger than {MAX_RESULTS_BYTES / 2**30:g} GiB, and "
                        "nothing was taken from it; if it is of your board, unpack it yourself and give the folder: "
                        f"tar -xf {shlex.quote(str(results))}, then import-results with results in its place"
                    )
                content = packed.extractfile(member)
                assert content is not None  # it is a file
                target = scratch / path
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy(content, target)
    except (OSError, tarfile.TarError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:  # it may be packed
        raise DataError(
            f"{shown(results)}: is not the results.tar of run-on-device.sh: {first_line(error)}; copy it from the "
            f"board again, or {MEASURED_AGAIN}"
        ) from error
    return scratch / "results"


def _copy(content: IO[bytes], target: Path) -> None:
    """A member of an archive as a file, piece by piece: one of a GiB needs no GiB of memory."""
    with target.open("wb") as file:
        while piece := content.read(PIECE_BYTES):
            try:
                file.write(piece)
            except OSError as error:
                raise StageError(
                    f"{target.parent}: cannot be written: {error.strerror or first_line(error)}; free some space, or "
                    "name a folder with more by EDGEPRUNE_CACHE"
                ) from error


def _read_results(folder: Path, given: Path) -> Results:
    """results.json, after every file was compared with its digest; ``given`` is what they were unpacked from, which
    errors name: nobody knows the folder of that."""
    where = shown(given)
    path = folder / "results.json"
    if not is_file(path):
        raise DataError(f"{where}: holds no results.json of run-on-device.sh; {MEASURED_AGAIN}, and give results.tar")
    try:
        content = parse_json(read_bytes(path), f"{where}: results.json")
    except DamagedError as error:
        raise DamagedError(f"{error}; copy results.tar from the board again, or {MEASURED_AGAIN}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(f"{where}: results of version {version}, known is {SCHEMA_VERSION}; build and measure again")
    results = from_json(Results, content, f"{where}: results.json")
    for name, sha256 in results.files.items():
        file = folder / name
        if ".." in PurePosixPath(name).parts or not file.is_file() or sha256_of(file) != sha256:
            raise DataError(f"{where}: {name} is missing or was changed; copy results.tar again")
    return results


def _bundle_in(run: Path) -> Path:
    """The bundle with a carried folder of a run directory, or that folder itself."""
    for place in (run / BUNDLE, run):
        if _is_bundle(place):
            return place
    raise _none_found(f"{run} holds no bundle/{FOLDER}")


def _find_bundle(request: str) -> Path:
    """The bundle below ``runs/`` whose carried folder made a request."""
    for old in Path("runs").glob(f"*/{OLD_BUNDLE}"):  # a bundle whose replacement was stopped is put back
        with contextlib.suppress(EdgepruneError, OSError), held(old.parent):  # it may be no build of these results
            pass
    found: list[Path] = []
    for place in sorted(Path("runs").glob(f"*/{BUNDLE}")):
        with contextlib.suppress(OSError):  # of an unrelated build that this user may not read
            if _is_bundle(place) and sha256_of(place / FOLDER / "request.json") == request:
                found.append(place)
    if len(found) > 1:  # a run directory was copied
        raise _none_found(f"{', '.join(str(place.parent) for place in found)} all packed this request")
    if not found:
        raise _none_found("no build below runs/ packed this request")
    return found[0]


def _is_bundle(place: Path) -> bool:
    return (place / FOLDER / "request.json").is_file() and (place / BUILD_RECORD).is_file()


def _none_found(where: str) -> DataError:
    return DataError(f"{where}; name the run directory that the folder came from: --run DIRECTORY")


def _read_request(bundle: Path, record: BuildRecord, results: Results) -> Request:
    """The request of the build, when the results answer just that one."""
    path, digest = bundle / FOLDER / "request.json", results.request_sha256
    packed = record.bundle.get(f"{FOLDER}/request.json")
    if digest != packed or sha256_of(path) != packed:
        raise DataError(
            f"these results answer another request ({digest[:12]}) than {path} ({str(packed)[:12]}); "
            "carry the present folder to the board and measure again"
        )
    request = read_json(Request, path)
    for name, sha256 in request.files.items():
        file = path.parent / name
        if not file.is_file() or sha256_of(file) != sha256:
            raise DataError(f"{file}: is missing or was changed; build again with the same command")
    return request


def _require_board(target: Target, results: Results) -> None:
    version = shown_version(version_from_banner(results.banner))
    facts = replace(results.facts, tensorrt=version)  # of the program that ran, whatever the system has besides
    if difference := mismatch(target.device, facts) or tensorrt_mismatch(target.device, facts, version):
        raise DeviceError(f"the results are not from the target's board: {difference}")
    mode, measured_mode = target.device.power_mode, results.conditions.power_mode
    if mode and plain_mode(mode) != plain_mode(measured_mode):
        raise DeviceError(
            f"measured in power mode {measured_mode or 'unknown'}, the target asks for {mode}; measure again"
        )


def _replay(
    results: Results,
    request: Request,
    target: Target,
    packed: Path,
    folder: Path,
    engines: Path,
    note: Callable[[str], object],
) -> Visit:
    """The visit to the board by the runtime of a live build, every command answered with what the board gave."""
    from edgeprune.carry.visit import visit_board

    version = version_from_banner(results.banner)
    script = next((script for script in request.scripts if script.first <= version < script.below), None)
    if script is None:
        raise DataError(f"results: of TensorRT {shown_version(version)}, the request knows {request.known_versions}")
    device = ReplayingDevice(packed_contents(packed, request.inputs), results, script.commands, folder)
    pixels = read_inputs(packed, request, carried_graph(packed, target))
    return visit_board(device, target, packed, pixels, engines, note)


def _judge(visit: Visit, record: BuildRecord, onnx: Path) -> list[Gate]:
    """Rows that take the place of the PENDING ones."""
    from edgeprune.export.detections import Layout
    from edgeprune.export.metadata import facts_of
    from edgeprune.export.parity import compare_arrays
    from edgeprune.export.run import outputs_of_onnx
    from edgeprune.records.gates import agreement_gate, drop_gate, precision_gates
    from edgeprune.samples.agreement import MOST_IMAGES
    from edgeprune.samples.gates import budget_gate
    from edgeprune.samples.statistics import value_of
    from edgeprune.stages.baseline import unpruned_words
    from edgeprune.stages.energy import energy_gates

    target, before, after = record.target, visit.baseline, visit.candidate
    layout = Layout.of(facts_of(onnx))
    # A board is looked at once, yet by the confidence that is shared among retries: only more careful than it has to
    # be, and what whoever reads the record finds when the gates are made again from it.
    engine, stand_in = budget_gate(target, "engine", before, after), record.stages.prune.facts.stand_in(target.budget)
    if stand_in:
        engine = replace(engine, reason=f"{engine.reason}; {stand_in}")
    agreement = compare_arrays(outputs_of_onnx(onnx, visit.pixels), visit.outputs, layout, what="the engine")
    budget, prune = target.budget, budget_gate(target, "prune", before, after)
    if record.stages.prune.facts.unpruned and budget.kind != "latency_ms":
        prune = unpruned_gate("prune", budget.value)
        engine = unpruned_gate("engine", budget.value if budget.kind == "speed_up" else 1.0)
    words = unpruned_words(target, before, "")
    if words and not record.stages.prune.facts.unpruned:  # nobody could know before the board had measured it
        needless = NEEDLESS.format(profile="" if record.levers is None else NAMED)
        prune = replace(prune, reason=f"{prune.reason}; {needless}")
    alone = value_of(before.values, budget.judged_statistic)
    left = record.stages.engine.facts.accuracy.accuracy.images > agreement.images  # in the split that they are of
    more = f"over SSH (--device) up to {MOST_IMAGES} images are compared" if left else ""
    gates = [
        info_gate("baseline", f"latency {budget.judged_statistic}", alone, "ms", words or "unpruned, measured"),
        *([] if budget.kind == "macs_speed_up" else [prune]),
        engine,
        *energy_gates("engine", visit.energy),
        *precision_gates("engine", visit.precision, record.precision, target.device.dla_core),
        drop_gate(record.shipped_target, record.stages.baseline.facts, record.stages.engine.facts),
        agreement_gate("engine", agreement, more),
    ]
    return [simulated_gate(gate) for gate in gates] if after.simulated else gates


def _update(record: BuildRecord, rows: Sequence[Gate], visit: Visit, results: Results) -> BuildRecord:
    """The record with the new rows in place of what waited (or of an earlier import)."""
    from edgeprune.stages.energy import ENERGY, by_role

    measured = {(row.stage, row.metric) for row in rows}
    stages = {row.stage for row in rows}
    gates: list[Gate] = []
    replaced: set[str] = set()
    for gate in record.gates:
        waited = gate.verdict is Verdict.PENDING and gate.stage in stages
        # a board may tell its power at one visit and not at the next, whose figures those would not be
        waited = waited or (gate.metric == ENERGY and gate.stage in stages)
        if not waited and (gate.stage, gate.metric) not in measured:
            gates.append(gate)
        elif gate.stage not in replaced:
            replaced.add(gate.stage)
            gates += [row for row in rows if row.stage == gate.stage]
    gates = inform_by_later(gates)
    timed = ("baseline", "engine") if record.target.budget.kind == "macs_speed_up" else ("baseline", "prune", "engine")
    return replace(
        record,
        gates=tuple(gates),
        verdict=overall_verdict(gates),
        measurements=(
            *(MeasurementRow(stage, "baseline", visit.baseline) for stage in timed),
            *(MeasurementRow(stage, "candidate", visit.candidate) for stage in timed if stage != "baseline"),
            *(MeasurementRow("engine", role, energy) for role, energy in by_role(visit.energy)),
        ),
        device=DeviceRow(NAME, results.simulated, visit.candidate.conditions.identity, results.facts),
        next_command=None,
        carried_by=record.next_command or record.carried_by,
    )


def _write_build(record: BuildRecord, bundle: Path, files: Mapping[str, bytes | Path], before: str) -> BuildRecord:
    """A reader sees the old build or the new one, and so does whoever looks after a kill or behind a full disk: the
    bundle of a run directory is replaced as a whole, in one that was copied elsewhere nothing before all is written.
    ``before`` is the page of the record that is replaced."""
    from edgeprune.report.build import build_markdown, build_page
    from edgeprune.stages.bundle import with_digests, with_texts, write_bundle

    graph = bundle / FOLDER / "model.onnx"
    record = with_digests(record, files, graph)
    root = run_directory_of(bundle)
    if root is not None:
        kept = {
            path.relative_to(bundle).as_posix(): path
            for path in sorted(bundle.rglob("*"))
            if path.is_file() and path not in (bundle / RECORD, bundle / SIGNATURE)  # nobody signed this one yet
        }
        write_bundle(root, {**kept, **files}, record, graph)
    else:
        write_files(bundle, {**files, **with_texts(record, graph)[1]})
        write_build(bundle / RECORD, record)
        (bundle / SIGNATURE).unlink(missing_ok=True)
    if root is not None and (root / "report.md").is_file():
        write_atomically(root / "report.html", build_page(record, before=before))
        write_atomically(root / "report.md", build_markdown(record))  # which says whose the page beside it is
    return record
