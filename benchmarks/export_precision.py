"""Accuracy and CPU latency of fp16 and INT8 against FP32, and the mixed-precision fallback on a hard case.

    python -m benchmarks.export_precision CHECKPOINT.pt DATA.yaml [--imgsz 320] [--count 64] [--rescue 0.003]

The hard case: 16 images, minmax, one scale a tensor, the head's last layers quantised too. The floor of the fallback is
the FP32 accuracy less ``--rescue``. Latency is measured by ONNX Runtime on one thread, interleaved in one process.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgeprune.dataset import Dataset
from edgeprune.export.mixed import mixed_precision_onnx
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.export.parity import parity
from edgeprune.export.precision import fp16_onnx, int8_onnx
from edgeprune.export.simplify import simplified_onnx
from edgeprune.measure.accuracy import accuracy
from edgeprune.measure.conditions import cpu_identity
from edgeprune.runtimes.base import BenchSettings
from edgeprune.runtimes.onnxruntime_ import OnnxRuntime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--method", default="minmax")
    parser.add_argument("--rescue", type=float, default=None, help="largest drop of the fallback's floor")
    given = parser.parse_args()
    dataset = Dataset.load(given.data)
    images = dataset.sample_images("train", given.count)
    shown = dataset.sample_images("val", 8)

    def accuracy_of(path: Path) -> float:
        return accuracy(path, data=dataset).map50_95

    def latency_of(paths: Sequence[Path]) -> list[float]:
        settings = BenchSettings(threads=1, rounds=10, per_round=3)
        return [statistics.median(found.values) for found in OnnxRuntime().latency(paths, settings)]

    with tempfile.TemporaryDirectory() as folder:
        forms = {
            name: Path(folder) / f"{name}.onnx" for name in ("raw", "fp32", "fp16", "int8", "int8-fp16", "int8-cpu")
        }
        onnx_from_checkpoint(given.checkpoint, forms["raw"], imgsz=given.imgsz)
        source = forms["fp32"]
        simplified_onnx(forms.pop("raw"), source)
        fp16_onnx(source, forms["fp16"])
        int8_onnx(source, forms["int8"], images, method=given.method)
        int8_onnx(source, forms["int8-fp16"], images, method=given.method, half=True)
        int8_onnx(source, forms["int8-cpu"], images, method=given.method, recipe="cpu")
        base = accuracy_of(source)
        times = dict(zip(forms, latency_of(list(forms.values())), strict=True))
        print(f"CPU: {cpu_identity()}\n")
        print("| form | mAP50-95 | drop | detections that agree | median ms, one CPU thread | size MB |")
        print("| --- | --- | --- | --- | --- | --- |")
        for name, path in forms.items():
            found, agree = accuracy_of(path), parity(source, path, shown).detections_agreement
            size = path.stat().st_size / 1e6
            print(
                f"| {name} | {found:.4f} | {base - found:+.4f} | {agree:.3f} | {times[name]:.1f} | {size:.1f} |",
                flush=True,
            )
        if given.rescue is None:
            return
        hard, mixed = Path(folder) / "hard.onnx", Path(folder) / "mixed.onnx"
        bad = {"method": "minmax", "per_channel": False, "head_in_float": False}
        int8_onnx(source, hard, images[:16], recipe="cpu", **bad)
        found = mixed_precision_onnx(
            source, hard, mixed, shown[:2], floor=base - given.rescue, accuracy_of=accuracy_of, latency_of=latency_of
        )
        print(f"\nHard case: {found.reason}")
        print(f"Layers back in float: {', '.join(found.layers)}")
        print(f"Trials (layers in float, mAP50-95): {found.trials}")


if __name__ == "__main__":
    main()
