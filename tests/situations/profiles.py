"""Target profiles of quick builds on this machine's CPU."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

QUICK: dict[str, Any] = {
    "extends": "cpu",
    "description": "as quick as it gets",
    "imgsz": 64,
    "budget": {"macs_speed_up": 1.2},
    "accuracy": {"max_map_drop": 1.0},
    "prune": {"max_probes": 1},
    "pretrain": {"epochs": 1, "batch": 4, "workers": 0, "device": "cpu"},
    "finetune": {"epochs": 1, "batch": 4, "workers": 0, "device": "cpu", "distill": False},
    "calibration": {"images": 16, "method": "minmax"},
    "measure": {"warmup_s": 0.02, "rounds": 40, "per_round": 5, "retries": 0, "time_limit_s": 5.0},
}


def profile(path: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """Write :data:`QUICK` with changes, merged key by key (a budget as a whole)."""
    content = copy.deepcopy(QUICK)
    for key, value in (changes or {}).items():
        if isinstance(value, Mapping) and isinstance(content.get(key), dict) and key != "budget":
            content[key] |= value
        else:
            content[key] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path
