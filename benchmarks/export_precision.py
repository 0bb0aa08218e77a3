"""Accuracy and CPU latency of fp16 and INT8 against FP32, for several checkpoints in one table.

    python -m benchmarks.export_precision DATA.yaml A.pt B.pt … --work DIR [--imgsz 320] [--step accuracy|latency|table]

Calibration is a profile's default: entropy on 256 images of the training split, all of them where there are fewer. Each
form is measured by ONNX Runtime on the CPU, and timed on one thread beside FP32, interleaved in one process. Figures
are kept in DIR, so that the steps can be run apart: accuracy on a busy machine, latency on a quiet one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.kept import made_of
from benchmarks.page import printed_by
from edgeprune.agent.host import cpu_identity
from edgeprune.artifact import write_atomically
from edgeprune.dataset import Dataset
from edgeprune.export.half import cast_to_fp16
from edgeprune.export.int8 import quantize_to_int8
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.export.parity import parity
from edgeprune.export.simplify import simplify_onnx
from edgeprune.measure.accuracy import accuracy
from edgeprune.runtimes.base import BenchSettings
from edgeprune.runtimes.onnxruntime_ import OnnxRuntime
from edgeprune.samples.statistics import ratio, value_of

FORMS = {
    "fp32": "fp32",
    "fp16": "fp16",
    "int8": "int8, recipe tensorrt",
    "int8-fp16": "int8-fp16, recipe tensorrt",
    "int8-cpu": "int8, recipe cpu",
}
SPLITS = ("val", "test")
LIMITS = {"fp16": 0.002, "int8": 0.015, "int8-fp16": 0.015, "int8-cpu": 0.015}
PER_ROUND = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--method", default="entropy")
    parser.add_argument("--step", choices=("accuracy", "latency", "table"), help="one step instead of all three")
    parser.add_argument("--page", type=Path, help="page that gets the tables as well")
    given = parser.parse_args()
    dataset = Dataset.load(given.data)
    folders = {
        one: given.work / made_of(one, given.data, given.imgsz).folder(count=given.count, method=given.method)
        for one in given.checkpoints
    }
    steps = [given.step] if given.step else ["accuracy", "latency", "table"]
    if "accuracy" in steps:
        for checkpoint, folder in folders.items():
            _accuracy(checkpoint, folder, dataset, given)
    if "latency" in steps:
        for folder in folders.values():
            _latency(folder)
    if "table" in steps:
        named = {checkpoint.stem: folder for checkpoint, folder in folders.items()}
        printed_by(lambda: _table(named), given.page, "export-precision")


def _accuracy(checkpoint: Path, folder: Path, dataset: Dataset, given: argparse.Namespace) -> None:
    images = dataset.sample_images("train", given.count)
    shown = dataset.sample_images("val", 16)
    raw, source = folder / "raw.onnx", folder / "fp32.onnx"
    made = {name: folder / f"{name}.onnx" for name in FORMS}
    head = onnx_from_checkpoint(checkpoint, raw, imgsz=given.imgsz).head
    simplify_onnx(raw, source)
    cast_to_fp16(source, made["fp16"])
    for name, recipe in (("int8", "tensorrt"), ("int8-fp16", "tensorrt"), ("int8-cpu", "cpu")):
        quantize_to_int8(source, made[name], images, recipe=recipe, method=given.method, half=name == "int8-fp16")
    figures: dict[str, Any] = {"head": head, "calibration": f"{given.method}, {len(images)} images", "forms": {}}
    for name, path in made.items():
        figures["forms"][name] = {
            "agree": parity(source, path, shown).detections_agreement,
            "mb": path.stat().st_size / 1e6,
            **{split: accuracy(path, data=dataset, split=split).map50_95 for split in SPLITS},
        }
        _keep(folder, figures)


def _latency(folder: Path) -> None:
    figures = json.loads((folder / "figures.json").read_text())
    figures["cpu"] = cpu_identity()
    for name, timed in zip(FORMS, latencies([folder / f"{name}.onnx" for name in FORMS]), strict=True):
        figures["forms"][name] |= timed
    _keep(folder, figures)


def latencies(models: Sequence[Path]) -> list[dict[str, Any]]:
    """Of each graph on one thread, interleaved in one process: ``ms``, the median, and ``speed_up`` against the first,
    low, middle and high of 95 %."""
    settings = BenchSettings(threads=1, rounds=20, per_round=PER_ROUND, warmup_s=0.5)
    base, *others = OnnxRuntime().latency(list(models), settings)
    made = []
    for found in (base, *others):
        faster = ratio(base.values, found.values, block=PER_ROUND)
        speed = [faster.low, faster.ratio, faster.high] if found is not base else [1.0, 1.0, 1.0]
        made.append({"ms": value_of(found.values, "p50"), "speed_up": speed})
    return made


def _keep(folder: Path, figures: dict[str, Any]) -> None:
    write_atomically(folder / "figures.json", json.dumps(figures, indent=1).encode())


def _table(folders: dict[str, Path]) -> None:
    found = {model: json.loads((folder / "figures.json").read_text()) for model, folder in folders.items()}
    if cpu := next(iter(found.values())).get("cpu"):
        print(f"{cpu['cpu']}: {cpu['isa']}\n")
    print("| model, head | form | mAP50-95 val | drop | test | drop | agree | p50 ms | against FP32 | MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    over = []
    for model, figures in found.items():
        base = figures["forms"]["fp32"]
        for name, form in figures["forms"].items():
            drops = {split: base[split] - form[split] for split in SPLITS}
            over += [f"{model} {name} {split}" for split in SPLITS if drops[split] > LIMITS.get(name, 0)]
            low, middle, high = form.get("speed_up", [float("nan")] * 3)
            print(
                f"| {model}, {figures['head']} | {FORMS[name]} | {form['val']:.4f} | {drops['val']:+.4f} "
                f"| {form['test']:.4f} | {drops['test']:+.4f} | {form['agree']:.3f} | {form.get('ms', 0):.1f} "
                f"| ×{middle:.2f} ({low:.2f} to {high:.2f}) | {form['mb']:.1f} |"
            )
    print(f"\nLimits: fp16 {LIMITS['fp16']}, int8 {LIMITS['int8']}; over them: {', '.join(over) or 'none'}.")


if __name__ == "__main__":
    main()
