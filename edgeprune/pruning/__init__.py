"""Structured pruning: trace a model once, plan widths, apply; the result holds only stock Ultralytics classes.

The names below are imported on first use, so that ``edgeprune.pruning.plan`` stays readable without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeprune.pruning.criteria import importance
    from edgeprune.pruning.plan import Plan
    from edgeprune.pruning.pruner import Pruner, PruneResult, prune

__all__ = ["Plan", "PruneResult", "Pruner", "importance", "prune"]

_HOME = {"Plan": "plan", "PruneResult": "pruner", "Pruner": "pruner", "importance": "criteria", "prune": "pruner"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
