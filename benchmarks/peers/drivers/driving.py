"""What every driver shares: its options, the file that it leaves, and the graph of the model as its pruner left it.

A driver runs as a program of its own (``python drivers/run_NAME.py …``), by a name that no module of the peer has: the
peer's code on ``PYTHONPATH``, nothing of this project in the process, the working folder of the run as the current one.
It leaves ``--out`` and, beside it, the same model as ONNX.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """What a driver is to do.

    Attributes:
        checkout: folder with the peer's code.
        weights: unpruned checkpoint, a copy that the peer may write beside.
        data: dataset YAML.
        imgsz: side of an image in pixels.
        setting: of the peer.
        out: checkpoint to write.
    """

    checkout: Path
    weights: Path
    data: Path
    imgsz: int
    setting: dict[str, Any]
    out: Path


def job() -> Job:
    """From the command line."""
    parser = argparse.ArgumentParser()
    for name in ("checkout", "weights", "data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--imgsz", type=int, required=True)
    parser.add_argument("--setting", type=json.loads, required=True, help="JSON object")
    return Job(**vars(parser.parse_args()))


def leave_graph(out: Path, imgsz: int) -> None:
    """Write the checkpoint's model as ONNX by Ultralytics' own export, in the process that has the peer's classes."""
    from ultralytics import YOLO

    YOLO(str(out)).export(format="onnx", imgsz=imgsz, opset=17, simplify=False, device="cpu")
