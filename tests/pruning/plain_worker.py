"""A process that cannot import edgeprune: uses checkpoints as any user of Ultralytics would, one job a line of JSON.

In: ``files`` to use, an ``image``, ``data`` to validate on, ``imgsz`` and ``work``, where exports go. Out: a line that
starts with RESULT, and by file what was predicted and validated and the counts of ONNX nodes, or the error.
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
    import onnx
    from ultralytics import YOLO

    size = job["imgsz"]
    results = YOLO(file).predict(job["image"], imgsz=size, save=False, verbose=False)
    metrics: Any = YOLO(file).val(
        data=job["data"], imgsz=size, batch=4, workers=0, plots=False, verbose=False, project=job["work"]
    )
    model = YOLO(file)
    shapes = {name: list(tensor.shape) for name, tensor in model.model.state_dict().items()}
    graph = onnx.load(model.export(format="onnx", imgsz=size, simplify=False, verbose=False)).graph
    return {
        "predicted": len(results),
        "fitness": float(metrics.fitness),
        "nodes": [sum(node.op_type == kind for node in graph.node) for kind in COUNTED],
        "shapes": shapes,
    }


def main() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        try:
            answer = {file: used(file, job) for file in job["files"]}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print("RESULT" + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
