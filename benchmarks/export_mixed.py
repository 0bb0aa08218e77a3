"""The mixed-precision fallback on deliberately hard INT8: which layers go back to float, what that wins and costs.

    python -m benchmarks.export_mixed DATA.yaml A.pt B.pt … --work DIR [--imgsz 320] [--step rescue|latency|table]

Every case is calibrated on 16 images, minmax, with one scale a tensor and the head's last layers quantised too, recipe
``cpu``. ``imbalanced`` also rescales channels so that FP32 says the same and one scale a tensor cannot hold them (see
tests/export/imbalanced.py). The floor is the FP32 accuracy less the drop that the case allows. Figures are kept in DIR:
latency can wait for a quiet machine.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.kept import made_of
from benchmarks.page import printed_by
from edgeprune import checkpoint
from edgeprune.agent.host import cpu_identity
from edgeprune.artifact import write_atomically
from edgeprune.dataset import Dataset
from edgeprune.export.int8 import quantize_to_int8
from edgeprune.export.mixed import restore_float_layers
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.export.simplify import simplify_onnx
from edgeprune.measure.accuracy import accuracy
from edgeprune.runtimes.base import BenchSettings
from edgeprune.runtimes.onnxruntime_ import OnnxRuntime
from edgeprune.samples.statistics import value_of
from edgeprune.serial import to_json
from tests.export.imbalanced import imbalanced

DROPS = {"as it is": 0.003, "imbalanced": 0.02}  # of mAP50-95 that a case allows
IMAGES = 16
OCTAVES = 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--case", choices=DROPS, help="one case instead of all")
    parser.add_argument("--step", choices=("rescue", "latency", "table"), help="one step instead of all three")
    parser.add_argument("--page", type=Path, help="page that gets the tables as well")
    given = parser.parse_args()
    dataset = Dataset.load(given.data)
    steps = [given.step] if given.step else ["rescue", "latency", "table"]
    folders = [
        (pt, name, given.work / made_of(pt, given.data, given.imgsz).folder() / name.replace(" ", "-"))
        for pt in given.checkpoints
        for name in ([given.case] if given.case else DROPS)
    ]
    if "rescue" in steps:
        for pt, name, folder in folders:
            _rescue(pt, name, folder, dataset, given.imgsz)
    if "latency" in steps:
        for _, _, folder in folders:
            _latency(folder)
    if "table" in steps:
        rows = [(pt.stem, name, folder) for pt, name, folder in folders]
        printed_by(lambda: _table(rows), given.page, "export-mixed")


def _rescue(pt: Path, case: str, folder: Path, dataset: Dataset, imgsz: int) -> None:
    source, hard, mixed = (folder / f"{name}.onnx" for name in ("fp32", "hard", "mixed"))
    if case == "imbalanced":
        read = checkpoint.load(pt)
        imbalanced(read.model, octaves=OCTAVES)
        pt = folder / "imbalanced.pt"
        checkpoint.save(read.model, pt, like=read)
    onnx_from_checkpoint(pt, source, imgsz=imgsz)
    simplify_onnx(source, source)
    images = dataset.sample_images("train", IMAGES)
    quantize_to_int8(source, hard, images, recipe="cpu", method="minmax", per_channel=False, head_in_float=False)

    def accuracy_of(path: Path) -> float:
        return accuracy(path, data=dataset).map50_95

    base = accuracy_of(source)
    shown = dataset.sample_images("val", 4)
    found = restore_float_layers(source, hard, mixed, shown, floor=base - DROPS[case], accuracy_of=accuracy_of)
    write_atomically(folder / "figures.json", json.dumps({"base": base, "mixed": to_json(found)}, indent=1))


def _latency(folder: Path) -> None:
    settings = BenchSettings(threads=1, rounds=15, per_round=5, warmup_s=0.5)
    forms = [folder / f"{name}.onnx" for name in ("fp32", "hard", "mixed")]
    times = [value_of(found.values, "p50") for found in OnnxRuntime().latency(forms, settings)]
    figures = json.loads((folder / "figures.json").read_text()) | {"ms": times, "cpu": cpu_identity()}
    write_atomically(folder / "figures.json", json.dumps(figures, indent=1))


def _table(rows: list[tuple[str, str, Path]]) -> None:
    print("| model | case | FP32 | INT8 | floor | mixed | layers in float | trials | p50 ms: FP32, INT8, mixed |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    named: list[str] = []
    for model, case, folder in rows:
        figures = json.loads((folder / "figures.json").read_text())
        mixed = figures["mixed"]
        times = ", ".join(f"{value:.1f}" for value in figures.get("ms", ())) or "not measured"
        print(
            f"| {model} | {case} | {figures['base']:.4f} | {mixed['accuracy_before']:.4f} | {mixed['floor']:.4f} "
            f"| {mixed['accuracy_after']:.4f}{'' if mixed['reached'] else ' **missed**'} "
            f"| {len(mixed['layers'])} of {mixed['layers_low']} | {len(mixed['trials'])} | {times} |"
        )
        named.append(f"- {model}, {case}: {', '.join(mixed['layers']) or 'none'}")
    print("\nLayers that went back:\n")
    print("\n".join(named))


if __name__ == "__main__":
    main()
