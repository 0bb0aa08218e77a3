"""edgeprune: prune an Ultralytics YOLO model to a latency budget, measured on the device it ships on.

```python
import edgeprune

result = edgeprune.build("cpu", "best.pt", "data.yaml", speed_up=1.5)
print(result.verdict, result.bundle)
```
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgeprune.errors import DataError, DeviceError, EdgepruneError, StageError, TargetError, ToolError
from edgeprune.version import __version__

# ONNX Runtime reads this once, when it is first imported: without it, its own reports on use become a database below
# the user's home.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# MLflow's likewise, a file below the home: Ultralytics imports it for every training where it is installed.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

if TYPE_CHECKING:  # what type checkers and completion see; at run time each is imported when it is first used
    from edgeprune.checkpoint import Checkpoint
    from edgeprune.checkpoint import load as load_checkpoint
    from edgeprune.export.onnx import ExportInfo
    from edgeprune.export.onnx import onnx_from_checkpoint as export
    from edgeprune.export.quantize import quantize_onnx as quantize
    from edgeprune.export.result import PrecisionInfo, SimplifyInfo
    from edgeprune.export.simplify import simplify_onnx as simplify
    from edgeprune.frontier.run import frontier
    from edgeprune.measure.accuracy import accuracy as val
    from edgeprune.measure.bench import BenchResult, bench
    from edgeprune.measure.compare import Comparison, compare
    from edgeprune.measure.result import Accuracy, ArtifactAccuracy
    from edgeprune.pipeline import build
    from edgeprune.progress import Progress, Reporter
    from edgeprune.pruning.adopt import Adoption, adopt
    from edgeprune.pruning.api import PruneResult, prune
    from edgeprune.pruning.plan import Plan
    from edgeprune.records.build import BuildResult
    from edgeprune.records.frontier import Form, Frontier, Recommendation, Row, Screened
    from edgeprune.records.history import History, histories, history
    from edgeprune.records.sweep import Point, Sweep
    from edgeprune.runtimes.base import BenchSettings
    from edgeprune.samples.gates import Gate, Verdict
    from edgeprune.samples.measurement import Measurement
    from edgeprune.search.profile import LayerProfile
    from edgeprune.search.run import SearchResult, profile, search
    from edgeprune.settings import SparsitySettings, TrainSettings
    from edgeprune.stages.base import BuildReporter
    from edgeprune.sweep.run import sweep
    from edgeprune.target import Target, load_target
    from edgeprune.training.finetune import finetune
    from edgeprune.training.result import SparsifyResult, TrainResult
    from edgeprune.training.sparsify import sparsify

_ATTRIBUTES = {
    "Accuracy": "measure.result:Accuracy",
    "Adoption": "pruning.adopt:Adoption",
    "ArtifactAccuracy": "measure.result:ArtifactAccuracy",
    "BenchResult": "measure.bench:BenchResult",
    "BenchSettings": "runtimes.base:BenchSettings",
    "BuildReporter": "stages.base:BuildReporter",
    "BuildResult": "records.build:BuildResult",
    "Checkpoint": "checkpoint:Checkpoint",
    "Comparison": "measure.compare:Comparison",
    "ExportInfo": "export.onnx:ExportInfo",
    "Form": "records.frontier:Form",
    "Frontier": "records.frontier:Frontier",
    "Gate": "samples.gates:Gate",
    "History": "records.history:History",
    "LayerProfile": "search.profile:LayerProfile",
    "Measurement": "samples.measurement:Measurement",
    "Plan": "pruning.plan:Plan",
    "Point": "records.sweep:Point",
    "PrecisionInfo": "export.result:PrecisionInfo",
    "Progress": "progress:Progress",
    "PruneResult": "pruning.api:PruneResult",
    "Recommendation": "records.frontier:Recommendation",
    "Reporter": "progress:Reporter",
    "Row": "records.frontier:Row",
    "Screened": "records.frontier:Screened",
    "SearchResult": "search.run:SearchResult",
    "SimplifyInfo": "export.result:SimplifyInfo",
    "SparsifyResult": "training.result:SparsifyResult",
    "SparsitySettings": "settings:SparsitySettings",
    "Sweep": "records.sweep:Sweep",
    "Target": "target:Target",
    "TrainResult": "training.result:TrainResult",
    "TrainSettings": "settings:TrainSettings",
    "Verdict": "samples.gates:Verdict",
    "adopt": "pruning.adopt:adopt",
    "bench": "measure.bench:bench",
    "build": "pipeline:build",
    "compare": "measure.compare:compare",
    "export": "export.onnx:onnx_from_checkpoint",
    "finetune": "training.finetune:finetune",
    "frontier": "frontier.run:frontier",
    "histories": "records.history:histories",
    "history": "records.history:history",
    "load_checkpoint": "checkpoint:load",
    "load_target": "target:load_target",
    "profile": "search.run:profile",
    "prune": "pruning.api:prune",
    "quantize": "export.quantize:quantize_onnx",
    "search": "search.run:search",
    "simplify": "export.simplify:simplify_onnx",
    "sparsify": "training.sparsify:sparsify",
    "sweep": "sweep.run:sweep",
    "val": "measure.accuracy:accuracy",
}
"""Public name to the module under ``edgeprune`` that has it, and its name there."""

__all__ = [
    "Accuracy",
    "Adoption",
    "ArtifactAccuracy",
    "BenchResult",
    "BenchSettings",
    "BuildReporter",
    "BuildResult",
    "Checkpoint",
    "Comparison",
    "DataError",
    "DeviceError",
    "EdgepruneError",
    "ExportInfo",
    "Form",
    "Frontier",
    "Gate",
    "History",
    "LayerProfile",
    "Measurement",
    "Plan",
    "Point",
    "PrecisionInfo",
    "Progress",
    "PruneResult",
    "Recommendation",
    "Reporter",
    "Row",
    "Screened",
    "SearchResult",
    "SimplifyInfo",
    "SparsifyResult",
    "SparsitySettings",
    "StageError",
    "Sweep",
    "Target",
    "TargetError",
    "ToolError",
    "TrainResult",
    "TrainSettings",
    "Verdict",
    "__version__",
    "adopt",
    "bench",
    "build",
    "compare",
    "export",
    "finetune",
    "frontier",
    "histories",
    "history",
    "load_checkpoint",
    "load_target",
    "profile",
    "prune",
    "quantize",
    "search",
    "simplify",
    "sparsify",
    "sweep",
    "val",
]


class _Package(ModuleType):
    """This module: ``edgeprune.search`` is the function, also once the folder ``edgeprune/search`` is imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and name in _ATTRIBUTES):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

if "IPython" in sys.modules and (_shell := sys.modules["IPython"].get_ipython()) is not None:
    from edgeprune.report.notebook import register_formatters

    register_formatters(_shell)


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``import edgeprune`` costs nothing and works without torch."""
    if name not in _ATTRIBUTES:
        raise AttributeError(f"module 'edgeprune' has no attribute {name!r}")
    module, _, attribute = _ATTRIBUTES[name].partition(":")
    return getattr(import_module(f"edgeprune.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
