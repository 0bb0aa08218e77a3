"""edgeprune: prune an Ultralytics YOLO model to a latency budget, measured on the device it ships on.

```python
import edgeprune

result = edgeprune.build("cpu", "best.pt", "data.yaml", speed_up=1.5)
print(result.verdict, result.bundle)
```
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# Ultralytics reads this once, when it is first imported: from then on none of its own loads (resume, teacher, final
# validation) rebuilds a class it does not know. `--trust` concerns only the file that a user names.
os.environ.setdefault("ULTRALYTICS_SAFE_LOAD", "1")

__version__ = "0.1.0"

if TYPE_CHECKING:
    from edgeprune.checkpoint import load as load_checkpoint
    from edgeprune.measure.bench import bench
    from edgeprune.measure.compare import Comparison, compare
    from edgeprune.pipeline import BuildResult, build
    from edgeprune.pruning import prune
    from edgeprune.records.history import history
    from edgeprune.target import Target, load_target

_HOMES = {
    "BuildResult": "edgeprune.pipeline",
    "Comparison": "edgeprune.measure.compare",
    "Target": "edgeprune.target",
    "bench": "edgeprune.measure.bench",
    "build": "edgeprune.pipeline",
    "compare": "edgeprune.measure.compare",
    "history": "edgeprune.records.history",
    "load_checkpoint": "edgeprune.checkpoint",
    "load_target": "edgeprune.target",
    "prune": "edgeprune.pruning",
}
__all__ = [
    "BuildResult",
    "Comparison",
    "Target",
    "__version__",
    "bench",
    "build",
    "compare",
    "history",
    "load_checkpoint",
    "load_target",
    "prune",
]


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``import edgeprune`` costs nothing and works without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edgeprune' has no attribute {name!r}")
    from importlib import import_module

    attribute = "load" if name == "load_checkpoint" else name
    return getattr(import_module(_HOMES[name]), attribute)
