"""``build.json`` of schema version 1 (before typed facts of stages) in the form of version 2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from edgeprune.agent.host import HostState
from edgeprune.errors import DataError
from edgeprune.samples.conditions import Conditions, CoreState, DeviceState, EndToEndState, GpuTiming, Telemetry
from edgeprune.samples.measurement import Measurement

Row = Mapping[str, Any]


def upgrade(data: Row, where: Path) -> Row:
    """The same build in version 2.

    Raises:
        DataError: something is missing that version 1 always had.
    """
    try:
        rows = {row["name"]: row for row in data["stages"]}
        stages = {
            name: {
                "key": rows[name]["key"],
                "reused": rows[name]["reused"],
                "seconds": rows[name]["seconds"],
                "facts": facts_of(rows[name]["facts"]),
            }
            if name in rows
            else None
            for name, facts_of in FACTS.items()
        }
        artifacts = [{key: value for key, value in row.items() if key != "kind"} for row in data["artifacts"]]
        measurements = [
            {"stage": row["stage"], "role": row["role"], "measurement": upgrade_measurement(row)}
            for row in data["measurements"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{where}: is a damaged build.json of version 1: {type(error).__name__} {error}") from error
    changed = {"stages": stages, "artifacts": artifacts, "measurements": measurements}
    judged_by = f"{data.get('edgeprune', '')} (build.json of version 1)"  # its gates followed other rules
    return {**data, **changed, "edgeprune": judged_by, "schema_version": 2}


def upgrade_measurement(row: Row) -> Row:
    """A measurement whose conditions were a free dictionary; what they lack is filled in."""
    own = _fields_of(Measurement, row)
    return {**own, "conditions": _conditions(row.get("conditions", {}), len(row["values"]))}


def _conditions(old: Row, samples: int) -> Row:
    block = int(old.get("per_round", 5))
    processes = samples // block if old.get("runtime") == "trtexec" else 0  # carried results named no processes
    host = old.get("host")
    after = {key: old[key] for key in ("load_average_after", "temperature_after_c") if old.get(key) is not None}
    telemetry = old.get("telemetry")
    return {
        "identity": {},
        "runtime": "",
        "provider": "",
        "threads": 0,
        "batch": 1,
        "shapes": {},
        "scope": "model",
        "copies": True,
        "cuda_graph": False,
        **_fields_of(Conditions, old),
        "samples_per_block": block,
        "launches": old.get("launches") or old.get("processes") or [block] * processes or [samples],
        "core": {**_fields_of(CoreState, old), "share": old.get("cpu_share", 1.0)},
        "host": host and {**_fields_of(HostState, host), **after},
        "device": {**_fields_of(DeviceState, old), "telemetry": telemetry and _fields_of(Telemetry, telemetry)},
        "gpu": _fields_of(GpuTiming, old) if "span" in old else None,
        "end_to_end": _fields_of(EndToEndState, old) or None,
    }


def _fields_of(kind: type, old: Row) -> dict[str, Any]:
    return {entry.name: old[entry.name] for entry in fields(kind) if entry.name in old}


def _training(facts: Row) -> Row:
    return {
        "epochs_run": facts["epochs_run"],
        "best_epoch": facts["best_epoch"],
        "epochs": [
            {
                "number": int(row["epoch"]),
                "seconds": row["time"],
                "figures": {
                    name: float("nan") if value is None else value  # a figure that was not finite stands as null
                    for name, value in row.items()
                    if name not in ("epoch", "time")
                },
            }
            for row in facts["curves"]
        ],
        "map50_95": facts["map50_95"],
        "seconds": facts["seconds"],
    }


def _accuracy(facts: Row) -> Row:
    outer = ("value", "metric", "measured_on", "agreement")
    return {
        "accuracy": {key: value for key, value in facts.items() if key not in outer},
        "measured_on": facts["measured_on"],
        "agreement": facts.get("agreement"),
    }


def _pretrain(facts: Row) -> Row:
    return {"training": _training(facts)}


def _baseline(facts: Row) -> Row:
    plain = facts["accuracy_fp32"]
    return {
        "accuracy": _accuracy(facts["accuracy"]),
        "accuracy_fp32": None if plain is None else _accuracy(plain),
        "parameters": facts["parameters"],
        "signature": facts["signature"],
        "onnx_bytes": facts["bytes"]["onnx"],
        "engine_bytes": facts["bytes"].get("engine"),
    }


def _sparsify(facts: Row) -> Row:
    scales = facts["scales"]
    return {
        "training": _training(facts),
        "scales": {
            "summary": scales["verdict"],
            **{key: scales[key] for key in ("settings", "before", "after")},
        },
    }


def _probe(row: Row) -> Row:
    detail = row["detail"]
    return {
        "macs_ratio": row["ratio"],
        "parameters": detail["parameters"],
        "removed": row["removed"],
        "latency": {key: value for key, value in detail.items() if key != "parameters"},
        "budget_share": 1 / row["margin"],
        "budget_share_high": 1 / row["low"],
        "predicted_share": 1 / row["predicted"],
        "uncorrected_share": 1 / row["uncorrected"],
        "kept": row["kept"],
    }


def _prune(facts: Row) -> Row:
    return {**facts, "probes": [_probe(row) for row in facts["probes"]]}


def _finetune(facts: Row) -> Row:
    until = facts["until"]
    goal = until and {"baseline": until["baseline"], "max_drop": until["most"], "margin": until["margin"]}
    return {
        "training": _training(facts),
        "signature": facts["signature"],
        "parameters": facts["parameters"],
        "goal": goal,
    }


def _export(facts: Row) -> Row:
    return {**{key: facts[key] for key in ("opset", "head", "parity")}, "onnx_bytes": facts["bytes"]}


def _simplify(facts: Row) -> Row:
    return facts


def _quantize(facts: Row) -> Row:
    fallback = facts["fallback"]
    return {
        "conversion": {key: value for key, value in facts.items() if key not in ("fallback", "bytes")},
        "fallback": {
            **{key: fallback[key] for key in ("accuracy", "metric", "floor", "mixed")},
            "reason": fallback["why"],
        },
        "onnx_bytes": facts["bytes"],
    }


def _engine(facts: Row) -> Row:
    share = facts.get("precision")
    return {
        "accuracy": _accuracy(facts["accuracy"]),
        "size_bytes": facts["bytes"],
        "lint": facts["lint"],
        "layers": facts.get("layers"),
        "precision": share and {key: value for key, value in share.items() if key not in ("held", "text")},
    }


FACTS = {
    "pretrain": _pretrain,
    "baseline": _baseline,
    "sparsify": _sparsify,
    "prune": _prune,
    "finetune": _finetune,
    "export": _export,
    "simplify": _simplify,
    "quantize": _quantize,
    "engine": _engine,
}
