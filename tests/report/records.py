"""A ``build.json`` made of plausible parts; tests take away or break what they are about."""

from __future__ import annotations

from typing import Any

import numpy as np


def build_record(verdict: str = "PASS") -> dict[str, Any]:
    """A record with data for every figure; samples are seeded, nothing in it was measured."""
    generator = np.random.default_rng(0)
    conditions = {
        "identity": {"cpu": "Made-up CPU", "isa": "avx2", "runtime": "onnxruntime 0"},
        "threads": 1,
        "batch": 1,
        "shapes": {"images": [1, 3, 320, 320]},
        "cpu_share": 0.97,
        "host": {"load_average": [0.1, 0.2, 0.3], "governor": "performance", "temperature_c": 41.5},
        "load_average_after": [0.4, 0.2, 0.3],
    }

    def samples(role: str, level: float) -> dict[str, Any]:
        return {
            "stage": "engine",
            "role": role,
            "name": "latency",
            "unit": "ms",
            "values": generator.normal(level, level / 50, 300).tolist(),
            "warmups": [],
            "conditions": conditions,
            "simulated": False,
        }

    def gate(
        stage: str, metric: str, value: float | None, limit: float | None, unit: str, found: str
    ) -> dict[str, Any]:
        shown = {"stage": stage, "metric": metric, "value": value, "limit": limit, "unit": unit}
        return shown | {"verdict": found, "reason": f"because of {metric} <&>"}

    def accuracy(value: float) -> dict[str, Any]:
        return {"value": value, "metric": "mAP50-95", "per_class": {"cell": value, "<b>bold</b>": value / 2}}

    layers = [{"name": f"/model.{i}/conv/Conv", "op": "Conv", "ms": 1 / (i + 1)} for i in range(20)]
    facts = {
        "baseline": {"accuracy": accuracy(0.55), "bytes": {"onnx": 12e6, "engine": 12.5e6}},
        "prune": {
            "macs": {"before": 1.0e9, "after": 5.0e8},
            "parameters": {"before": 3.0e6, "after": 1.2e6},
            "probes": [
                {
                    "ratio": 2.5,
                    "margin": 1.25,
                    "predicted": None,
                    "detail": {"baseline_ms": 20.0, "candidate_ms": 10.6},
                },
                {
                    "ratio": 1.9,
                    "margin": 1.05,
                    "predicted": 1.02,
                    "detail": {"baseline_ms": 20.1, "candidate_ms": 12.7},
                },
            ],
        },
        "finetune": {
            "best_epoch": 3,
            "curves": [
                {
                    "epoch": float(e),
                    "metrics/mAP50(B)": 0.6 + e / 20,
                    "metrics/mAP50-95(B)": 0.4 + e / 30,
                    "lr/pg0": 0.1,
                }
                for e in range(1, 5)
            ],
        },
        "engine": {
            "accuracy": accuracy(0.54),
            "bytes": 5e6,
            "layers": {"baseline": layers, "candidate": [row | {"ms": row["ms"] / 2} for row in layers[:18]]},
        },
    }
    return {
        "schema_version": 1,
        "edgeprune": "0.1.0",
        "created": "2026-01-01T00:00:00+00:00",
        "command": ["edgeprune", "build", "--weights", "a b.pt"],
        "verdict": verdict,
        "gates": [
            gate("baseline", "mAP50-95", 0.55, None, "", "PASS"),
            gate("engine", "speed-up", 1.6, 1.5, "×", verdict),
            gate("engine", "power", None, 10.0, "W", "PENDING"),
        ],
        "target": {
            "name": "cpu",
            "description": "A CPU",
            "budget": {"latency_ms": None, "speed_up": 1.5, "macs_speed_up": None, "statistic": "p50"},
            "accuracy": {"max_map_drop": 0.02},
        },
        "weights": {"path": "a b.pt", "sha256": "0" * 64},
        "dataset": {"path": "data.yaml", "sha256": "1" * 64},
        "task": "detect",
        "seed": 0,
        "plan": {
            "dimensions": [
                {"name": "input", "before": 3, "after": 3, "fixed": "the input image"},
                *({"name": f"model.{i}", "before": 64, "after": 64 - 4 * i, "fixed": None} for i in range(12)),
            ]
        },
        "stages": [{"name": name, "facts": told} for name, told in facts.items()],
        "measurements": [samples("baseline", 20.0), samples("candidate", 12.5)],
        "versions": {"onnxruntime": "0"},
        "next_command": None,
    }
