"""A process that cannot import edgeprune: uses checkpoints as any user of Ultralytics would, one job a line of JSON.

In: ``files`` to use, files that are only ``exported``, an ``image``, ``data`` to validate on, ``imgsz`` and ``work``
for what validation writes. Out: a line that starts with RESULT, and by file what was predicted and validated, the
shapes of its tensors and the counts of ONNX nodes, or the error.
"""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any

sys.modules["edgeprune"] = None  # pyright: ignore[reportArgumentType]

COUNTED = ("Conv", "Split", "Concat")


def used(file: str, job: dict[str, Any]) -> dict[str, Any]:
    """Predict, validate and export one checkpoint."""
    from ultralytics import YOLO

    size = job["imgsz"]
    results = YOLO(file).predict(job["image"], imgsz=size, save=False, verbose=False)
    metrics: Any = YOLO(file).val(
        data=job["data"], imgsz=size, batch=4, workers=0, plots=False, verbose=False, project=job["work"]
    )
    shapes = {name: list(tensor.shape) for name, tensor in YOLO(file).model.state_dict().items()}
    return {
        "predicted": len(results),
        "fitness": float(metrics.fitness),
        "nodes": nodes(file, size),
        "shapes": shapes,
    }


def nodes(file: str, size: int) -> list[int]:
    """How many nodes of each counted kind the exported graph has."""
    import onnx
    from ultralytics import YOLO

    graph = onnx.load(YOLO(file).export(format="onnx", imgsz=size, simplify=False, verbose=False)).graph
    return [sum(node.op_type == kind for node in graph.node) for kind in COUNTED]


def main() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        try:
            answer: dict[str, Any] = {file: used(file, job) for file in job["files"]}
            answer |= {file: {"nodes": nodes(file, job["imgsz"])} for file in job["exported"]}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print("RESULT" + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
