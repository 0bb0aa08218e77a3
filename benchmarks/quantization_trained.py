"""INT8 that is trained against INT8 that is calibrated, on a pruned and fine-tuned model, several seeds.

    python -m benchmarks.quantization_trained WEIGHTS.pt DATA.yaml --out DIR [--imgsz 320] [--seeds 0 1 2]

Prints a Markdown page. The model is pruned and fine-tuned once; each seed trains INT8 anew. Accuracy is mAP50-95 of the
test split by ONNX Runtime on the CPU; the calibrated graphs take every image of the training split, 256 at most. What
is finished in DIR is taken as it is, so a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
from importlib.metadata import version
from pathlib import Path

from benchmarks.kept import made_of
from edgeprune import checkpoint
from edgeprune.artifact import write_atomically
from edgeprune.dataset import Dataset
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.export.quantize import quantize_onnx
from edgeprune.export.simplify import simplify_onnx
from edgeprune.measure.accuracy import accuracy
from edgeprune.pruning.api import prune
from edgeprune.pruning.batches import calibration_batches
from edgeprune.runtimes.nvidia_parser import ask_parser
from edgeprune.settings import TrainSettings
from edgeprune.training.finetune import finetune
from edgeprune.training.result_from_run import QUANTIZED

SPLIT = "test"
PACKAGES = ("ultralytics", "nvidia-modelopt", "torch", "onnx", "onnxruntime", "tensorrt-rtx-cu13-libs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--macs-speed-up", type=float, default=2.0)
    parser.add_argument("--epochs", type=int, default=10, help="of fine-tuning")
    parser.add_argument("--qat-epochs", type=int, default=5)
    parser.add_argument("--lr0", type=float, default=1e-4, help="of training INT8")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    given.out /= folder_of(given)
    tuned = _tuned(given)
    plain = _graph(tuned, given.out / "fp32.onnx", given.imgsz)
    start = {"fp32": _accuracy(plain, given), **_calibrated(plain, given.out, given)}
    rows = [_seed(tuned, seed, given) for seed in given.seeds]
    _print(given, tuned, start, rows)


def folder_of(given: argparse.Namespace) -> str:
    """Where what is finished under these options lies; seeds have a folder each in it."""
    others = {"macs": given.macs_speed_up, "epochs": given.epochs, "qat": given.qat_epochs, "lr": given.lr0}
    return made_of(given.weights, given.data, given.imgsz).folder(**others)


def _tuned(given: argparse.Namespace) -> Path:
    """The weights pruned to a ratio of MACs and fine-tuned with the unpruned model as teacher."""
    pruned = given.out / "pruned.pt"
    if not pruned.is_file():
        source = checkpoint.load(given.weights)
        batches = calibration_batches(str(given.data), source.task, given.imgsz, stride=source.stride)
        done = prune(source, imgsz=given.imgsz, macs_speed_up=given.macs_speed_up, batches=batches)
        checkpoint.save(done.model, pruned, like=source, metadata=done.metadata())
    settings = TrainSettings(
        epochs=given.epochs, imgsz=given.imgsz, device="cpu", workers=0, teacher=given.weights, quiet=True
    )
    return finetune(pruned, data=given.data, out=given.out / "tuned", work=given.out / "work", settings=settings).best


def _seed(tuned: Path, seed: int, given: argparse.Namespace) -> dict[str, float]:
    folder = given.out / f"seed-{seed}"
    settings = TrainSettings(
        epochs=given.qat_epochs,
        lr0=given.lr0,
        imgsz=given.imgsz,
        seed=seed,
        device="cpu",
        workers=0,
        teacher=given.weights,
        quiet=True,
    )
    trained = finetune(tuned, data=given.data, out=folder / "out", work=folder / "work", settings=settings.for_int8())
    before, after = (checkpoint.load(path).model for path in (tuned, trained.best))
    graph = _graph(trained.best.with_name(QUANTIZED), folder / "trained.onnx", given.imgsz)
    plain = _graph(trained.best, folder / "fp32.onnx", given.imgsz)
    calibrated = _calibrated(plain, folder, given)
    return {
        "epoch": trained.summary.best_epoch,
        "trained": _accuracy(graph, given),
        "weights, cpu": calibrated["cpu"],
        "fp32": _accuracy(plain, given),
        "same shapes": checkpoint.shape_signature(before) == checkpoint.shape_signature(after),
        "foreign classes": len(checkpoint.foreign_globals(trained.best)),
        "refusals": len(ask_parser(graph).refusals),
    }


def _graph(weights: Path, onnx: Path, imgsz: int) -> Path:
    if not onnx.is_file():
        onnx.parent.mkdir(parents=True, exist_ok=True)
        onnx_from_checkpoint(weights, onnx, imgsz=imgsz)
        simplify_onnx(onnx, onnx)
    return onnx


def _calibrated(plain: Path, folder: Path, given: argparse.Namespace) -> dict[str, float]:
    """Accuracy of both calibrated forms of a graph, by recipe."""
    found: dict[str, float] = {}
    for recipe in ("tensorrt", "cpu"):
        onnx = folder / f"calibrated-{recipe}.onnx"
        if not onnx.is_file():
            quantize_onnx(plain, onnx, precision="int8", data=given.data, images=256, recipe=recipe)
        found[recipe] = _accuracy(onnx, given)
    return found


def _accuracy(onnx: Path, given: argparse.Namespace) -> float:
    kept = onnx.with_suffix(".json")
    if not kept.is_file():
        data = Dataset.load(given.data, need=(SPLIT,))
        write_atomically(kept, json.dumps(accuracy(onnx, data=data, split=SPLIT).map50_95))
    return float(json.loads(kept.read_text()))


def _print(given: argparse.Namespace, tuned: Path, start: dict[str, float], rows: list[dict[str, float]]) -> None:
    model = checkpoint.load(tuned).model
    sign = "kept" if all(row["same shapes"] for row in rows) else "**changed**"
    foreign, refusals = (sum(int(row[key]) for row in rows) for key in ("foreign classes", "refusals"))
    print("# INT8: trained against calibrated\n")
    print(f"`python -m benchmarks.quantization_trained`: {' '.join((__doc__ or '').split('Prints')[1].split())}\n")
    print(", ".join(f"{package} {version(package)}" for package in PACKAGES) + ".\n")
    print(
        f"{given.weights.stem} on {given.data.parent.name}, {given.imgsz} px, MACs ×{given.macs_speed_up:g} "
        f"({checkpoint.parameter_count(model):,} parameters), {given.epochs} epochs of fine-tuning, then "
        f"{given.qat_epochs} of INT8 at a learning rate of {given.lr0:g}, both with the unpruned model as teacher.\n"
    )
    print("| form | mAP50-95 | against calibrated |\n| --- | --- | --- |")
    print(f"| FP32 | {start['fp32']:.4f} | |")
    print(f"| INT8 calibrated, recipe tensorrt | {start['tensorrt']:.4f} | |")
    print(f"| INT8 calibrated, recipe cpu | {start['cpu']:.4f} | |")
    for key, words, before in (
        ("trained", "INT8 trained, its own Q/DQ", start["tensorrt"]),
        ("weights, cpu", "trained weights, calibrated by recipe cpu", start["cpu"]),
        ("fp32", "trained weights in FP32", start["fp32"]),
    ):
        for seed, row in zip(given.seeds, rows, strict=True):
            print(f"| {words}, seed {seed} (epoch {row['epoch']}) | {row[key]:.4f} | {row[key] - before:+.4f} |")
        mean = statistics.mean(row[key] for row in rows)
        print(f"| **{words}, mean** | **{mean:.4f}** | **{mean - before:+.4f}** |")
    print(f"\nShapes and parameters {sign} in all {len(rows)}; foreign classes in `best.pt`: {foreign}; ", end="")
    print(f"refusals by NVIDIA's parser and builder of the trained graphs: {refusals}.")


if __name__ == "__main__":
    main()
