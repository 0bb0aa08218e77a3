"""Results of a board that were carried back: checked against the build they belong to, judged as a live build would.

Nothing is taken on trust: every file is compared with its digest, the request with the one that the build packed, the
board with the profile. Statistics are formed here, from the raw times.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from edgeprune.artifact import sha256_of, write_atomically
from edgeprune.carry.out import FOLDER
from edgeprune.devices.board import mismatch
from edgeprune.devices.identity import identity_of, plain_mode
from edgeprune.errors import DataError, DeviceError, TargetError
from edgeprune.samples.gates import Gate, Verdict, accuracy_gate, informs, not_real, overall
from edgeprune.samples.measurement import Measurement
from edgeprune.target import Target

MOST_BYTES = 2 << 30
NAME = "carried by hand"


def imported(results: Path, run: Path | None = None) -> tuple[dict[str, Any], Path]:
    """Judge results and update the build that they belong to.

    Args:
        results: ``results.tar``, or the folder that it unpacks to.
        run: run directory or bundle; without one, ``runs/*`` is searched for the build that made the request.

    Returns:
        The build's new record, and its bundle.

    Raises:
        DataError: results or build are missing, damaged, or do not belong together.
        DeviceError: another board or power mode than the profile's.
    """
    with tempfile.TemporaryDirectory(prefix="edgeprune-import-") as scratch:
        folder = _unpacked(results, Path(scratch))
        found = _checked(folder)
        bundle = _bundle(run, found["request_sha256"])
        record = json.loads((bundle / "build.json").read_text())
        request = _request(bundle, record, found["request_sha256"])
        target = _target(record)
        _right_board(target, found)
        rows, measurements = _judged(folder, bundle, record, request, target, found)
        record = _updated(record, rows, measurements, found, target)
        engine = folder / "model.engine"
        if engine.is_file():
            write_atomically(bundle / "model.engine", engine.read_bytes())
            record["bundle"]["model.engine"] = sha256_of(engine)
    _write(record, bundle)
    return record, bundle


def _unpacked(results: Path, scratch: Path) -> Path:
    if results.is_dir():
        return results / "results" if (results / "results" / "results.json").is_file() else results
    try:
        with tarfile.open(results) as packed:
            total = 0
            for member in packed:
                path = PurePosixPath(member.name)
                total += member.size
                if member.isdir():
                    continue
                if not member.isfile() or path.is_absolute() or ".." in path.parts or total > MOST_BYTES:
                    raise DataError(f"{results}: {member.name} does not belong into results; nothing was taken from it")
                content = packed.extractfile(member)
                assert content is not None  # it is a file
                target = scratch / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())
    except (OSError, tarfile.TarError, EOFError) as error:
        raise DataError(f"{results}: is not the results.tar of run-on-device.sh: {error}") from error
    return scratch / "results"


def _checked(folder: Path) -> dict[str, Any]:
    """results.json, after every file was compared with its digest."""
    try:
        found = json.loads((folder / "results.json").read_text())
        files = dict(found["files"])
        named = found["schema_version"], found["request_sha256"], found["facts"], found["conditions"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: holds no results.json of run-on-device.sh ({error}); run it again") from error
    if named[0] != 1:
        raise DataError(f"{folder}: results of version {named[0]}, known is 1; update edgeprune")
    for name, wanted in files.items():
        path = folder / name
        if ".." in PurePosixPath(name).parts or not path.is_file() or sha256_of(path) != wanted:
            raise DataError(f"{folder.name}: {name} is missing or was changed; copy results.tar again")
    return found


def _bundle(run: Path | None, request: str) -> Path:
    places = [run / "bundle", run] if run is not None else sorted(Path("runs").glob("*/bundle"))
    for place in places:
        packed = place / FOLDER / "request.json"
        if packed.is_file() and (place / "build.json").is_file() and (run is not None or sha256_of(packed) == request):
            return place
    where = f"{run} holds no bundle/{FOLDER}" if run is not None else "no build below runs/ packed this request"
    raise DataError(f"{where}; name the run directory that the folder came from: --run DIRECTORY")


def _request(bundle: Path, record: Mapping[str, Any], digest: str) -> dict[str, Any]:
    """The request of the build, when the results answer just that one."""
    path = bundle / FOLDER / "request.json"
    packed = record["bundle"].get(f"{FOLDER}/request.json")
    if digest != packed or sha256_of(path) != packed:
        raise DataError(
            f"these results answer another request ({digest[:12]}) than {path} ({str(packed)[:12]}); "
            "carry the present folder to the board and measure again"
        )
    request = json.loads(path.read_text())
    for name, wanted in request["files"].items():
        if not (path.parent / name).is_file() or sha256_of(path.parent / name) != wanted:
            raise DataError(f"{path.parent / name}: is missing or was changed; build again with the same command")
    return request


def _target(record: Mapping[str, Any]) -> Target:
    try:
        return Target.model_validate_json(json.dumps(record["target"]))
    except ValueError as error:
        raise TargetError(f"build.json: its target is not a profile of this edgeprune: {error}") from error


def _right_board(target: Target, found: Mapping[str, Any]) -> None:
    version = ".".join(str(part) for part in found["tensorrt"])
    if other := mismatch(target.device, {**found["facts"], "tensorrt": version}):
        raise DeviceError(f"the results are not from the target's board: {other}")
    asked, seen = target.device.power_mode, found["conditions"].get("power_mode", "")
    if asked and plain_mode(asked) != plain_mode(seen):
        raise DeviceError(f"measured in power mode {seen or 'unknown'}, the target asks for {asked}; measure again")


def _judged(
    folder: Path,
    bundle: Path,
    record: Mapping[str, Any],
    request: Mapping[str, Any],
    target: Target,
    found: Mapping[str, Any],
) -> tuple[list[Gate], list[tuple[str, str, Measurement]]]:
    """Rows that take the place of the PENDING ones, and the measurements behind them."""
    from edgeprune.samples.statistics import value_of
    from edgeprune.stages.energy import energy_row
    from edgeprune.stages.parity import agreement_gate
    from edgeprune.stages.precision import precision_gate
    from edgeprune.stages.timing import gate_of

    before, after = (_latency(folder, name, request, target, found) for name in ("baseline", "model"))
    statistic = target.budget.statistic
    facts = {row["name"]: row["facts"] for row in record["stages"]}
    old, new = facts["baseline"]["accuracy"], facts["engine"]["accuracy"]
    rows = [
        informs("baseline", f"latency {statistic}", value_of(before.values, statistic), "ms", "unpruned, measured"),
        *([] if target.budget.kind == "macs_speed_up" else [gate_of(target, "prune", before, after)]),
        gate_of(target, "engine", before, after),
        *energy_row("engine", after),
        precision_gate("engine", _precision(folder, target), target.precision),
        accuracy_gate("engine", old["value"], new["value"], target.accuracy.max_map_drop, metric=new["metric"]),
        agreement_gate("engine", _agreement(folder, bundle / FOLDER, request)),
    ]
    if found["simulated"]:
        rows = [not_real(row) for row in rows]
    stages = ("baseline", "engine") if target.budget.kind == "macs_speed_up" else ("baseline", "prune", "engine")
    taken = [(stage, "baseline", before) for stage in stages]
    return rows, taken + [(stage, "candidate", after) for stage in stages if stage != "baseline"]


def _latency(
    folder: Path, name: str, request: Mapping[str, Any], target: Target, found: Mapping[str, Any]
) -> Measurement:
    from edgeprune.runtimes.trtexec_output import settings_used, times_of

    values: list[float] = []
    samples, graph = request["samples"], True
    for number in range(request["processes"]):
        stem = f"times/{name}-{number:03d}"
        try:
            times = times_of((folder / f"{stem}.json").read_text())
            used = settings_used((folder / f"{stem}.log").read_text(errors="replace"))
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"results: {stem}: cannot be read: {error}") from error
        taken = times.latency(target.measure.copies)[-samples:]
        if len(taken) < samples or used.copies != target.measure.copies or not used.one_at_a_time:
            raise DataError(f"results: {stem}: was not timed as asked; run run-on-device.sh again")
        values += taken
        graph = graph and used.cuda_graph
    version = ".".join(str(part) for part in found["tensorrt"])
    identity = identity_of(
        {**found["facts"], "clocks": found["conditions"].get("clocks", "free"), "sudo": False},
        power_mode=found["conditions"].get("power_mode", ""),
    )
    return Measurement(
        name="latency",
        unit="ms",
        values=tuple(values),
        conditions={
            "identity": {**identity, "runtime": f"trtexec {version}"},
            "runtime": "trtexec",
            "provider": "trtexec",
            "threads": target.measure.threads,
            "batch": target.batch,
            "shapes": {request["input"]: request["shape"]},
            "per_round": samples,
            "copies": target.measure.copies,
            "cuda_graph": graph,
            "model": f"{name}.engine",
            "models_in_run": 2,
            **found["conditions"],
        },
        simulated=bool(found["simulated"]),
    )


def _precision(folder: Path, target: Target) -> dict[str, Any]:
    from edgeprune.runtimes.layer_info import layer_info_of
    from edgeprune.runtimes.precision_truth import precision_share
    from edgeprune.runtimes.trtexec_output import profile_of

    try:
        layers = layer_info_of((folder / "model.layers.json").read_text()).layers
        times = profile_of((folder / "model.profile.json").read_text())
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"results: the engine's layers cannot be read: {error}") from error
    share = precision_share(layers, times)
    return {**share.to_json(), "held": share.held(target.precision), "text": share.text()}


def _agreement(folder: Path, packed: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's outputs for the images that went along, against the ONNX's for the very same pixels."""
    from edgeprune.export.detections import Layout
    from edgeprune.export.graph import metadata_of, parsed_metadata
    from edgeprune.export.onnx import HEAD_KEY, describe
    from edgeprune.export.parity import compare
    from edgeprune.export.run import outputs_of_onnx
    from edgeprune.runtimes.onnx_facts import onnx_facts
    from edgeprune.runtimes.trtexec_output import outputs_of

    onnx = packed / "model.onnx"
    batch, *shape = request["shape"]
    pixels = np.stack(
        [
            np.frombuffer(zlib.decompress((packed / name).read_bytes()), np.uint8).reshape(shape)
            for name in request["images"]
        ]
    ).astype(np.float32)
    names = onnx_facts(onnx, precision=request["precision"]).outputs
    parts: list[list[np.ndarray]] = []
    for start in range(0, len(pixels), batch):
        path = folder / "outputs" / f"{start:03d}.json"
        try:
            tensors = outputs_of(path.read_text())
            parts.append([tensors[name][: len(pixels) - start] for name in names])
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"results: {path.name}: the engine's outputs cannot be read: {error}") from error
    theirs = [np.concatenate(stack) for stack in zip(*parts, strict=True)]
    data = parsed_metadata(metadata_of(onnx))
    layout = Layout(
        task=str(data.get("task", "detect")),
        head=str(data.get(HEAD_KEY) or describe(onnx).head),
        nc=len(data.get("names") or ()),
        kpt_shape=tuple(data.get("kpt_shape") or ()),
    )
    return compare(outputs_of_onnx(onnx, pixels / 255), theirs, layout, what="the engine").to_json()


def _updated(
    record: dict[str, Any],
    rows: Sequence[Gate],
    measurements: Sequence[tuple[str, str, Measurement]],
    found: Mapping[str, Any],
    target: Target,
) -> dict[str, Any]:
    """The record with the new rows in place of what waited (or of an earlier import)."""
    from edgeprune.records.build import BuildRecord

    new = {(row.stage, row.metric) for row in rows}
    stages = {row.stage for row in rows}
    gates: list[Gate] = []
    placed: set[str] = set()
    for row in record["gates"]:
        gate = Gate(**{**row, "verdict": Verdict(row["verdict"])})
        replaced = (gate.stage, gate.metric) in new or (gate.verdict is Verdict.PENDING and gate.stage in stages)
        if replaced and gate.stage not in placed:
            placed.add(gate.stage)
            gates += [one for one in rows if one.stage == gate.stage]
        if not replaced:
            gates.append(gate)
    identity = measurements[0][2].conditions["identity"]
    facts = dict(found["facts"])
    record = {
        **record,
        "gates": [gate.to_json() for gate in gates],
        "verdict": overall(gates).value,
        "measurements": [
            {"stage": stage, "role": role, **measurement.to_json()} for stage, role, measurement in measurements
        ],
        "device": {"name": NAME, "simulated": bool(found["simulated"]), "identity": identity, "facts": facts},
        "next_command": None,
    }
    return BuildRecord.model_validate(record).model_dump(mode="json")


def _write(record: dict[str, Any], bundle: Path) -> None:
    """Record last: a reader sees the old build or the new one."""
    from edgeprune.report.html import report_html
    from edgeprune.report.text import report_markdown
    from edgeprune.stages.bundle import readme

    if (bundle.parent / "report.md").is_file():
        write_atomically(bundle.parent / "report.md", report_markdown(record))
        write_atomically(bundle.parent / "report.html", report_html(record))
    write_atomically(bundle / "README.md", readme(record))
    write_atomically(bundle / "build.json", json.dumps(record, indent=1))
