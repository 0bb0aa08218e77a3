"""A dataset and a checkpoint that are made in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def digits_and_detector(folder: Path) -> None:
    """``digits/data.yaml``, and ``w.pt``: a detector of them that has learned nothing."""
    import yaml
    from ultralytics import YOLO
    from ultralytics.nn.tasks import yaml_model_load

    from edgeprune import checkpoint
    from edgeprune.data.digits import write_digits

    write_digits(folder / "digits", train=16, val=8, test=4, imgsz=64)
    (folder / "yolov8n.yaml").write_text(yaml.safe_dump({**yaml_model_load("yolov8n.yaml"), "nc": 10}))
    network: Any = YOLO(str(folder / "yolov8n.yaml"), task="detect").model
    network.names = {number: str(number) for number in range(10)}
    checkpoint.save(network, folder / "w.pt", like=None)
