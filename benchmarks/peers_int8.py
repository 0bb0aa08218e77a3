"""INT8 for a CPU by four tools, from the same FP32 graph and the same calibration images: accuracy and latency.

    python -m benchmarks.peers_int8 DATA.yaml A.pt B.pt … --work DIR [--imgsz 320] [--page PAGE.md]

The forms: ONNX Runtime's ``quantize_static`` as it comes (min-max, after its own ``quant_pre_process``), the same with
entropy, NNCF's ``quantize`` as it comes (where it is installed; its rows are left out with the reason otherwise), and
this project's recipe for the CPU with its default, entropy. All are run by ONNX Runtime on one thread. Accuracy is that
of the file by this project's validator, in brackets the loss to FP32 with the half width of its 95 % interval by a
paired bootstrap over images. Latency is interleaved in one process, and once more by a bare loop of a few lines that
shares nothing with the first.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.export_precision import latencies
from benchmarks.kept import made_here, made_of, origins
from benchmarks.page import printed_by, table
from edgeprune.artifact import write_atomically
from edgeprune.dataset import Dataset
from edgeprune.export.images import batch_from_images
from edgeprune.export.int8 import quantize_to_int8
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.export.simplify import simplify_onnx
from edgeprune.measure.accuracy import accuracy
from edgeprune.measure.per_image import load_per_image
from edgeprune.quiet import quiet
from edgeprune.samples.average_precision import drop_interval

SPLITS = ("val", "test")
COLUMNS = ("model", "form", *(f"mAP50-95 {split}" for split in SPLITS), "p50 ms", "against FP32", "bare loop", "MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--count", type=int, default=256, help="calibration images of the training split")
    parser.add_argument("--page", type=Path, help="page that gets the table as well")
    given = parser.parse_args()
    dataset = Dataset.load(given.data)
    for checkpoint in given.checkpoints:
        folder = folder_of(checkpoint, given)
        if not (folder / "figures.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            figures = measured(checkpoint, folder, dataset, given)
            write_atomically(folder / "figures.json", json.dumps(figures, indent=1).encode())
    printed_by(lambda: show(given), given.page, "peers-int8")


def folder_of(checkpoint: Path, given: argparse.Namespace) -> Path:
    """Of one model's forms and figures."""
    return given.work / made_of(checkpoint, given.data, given.imgsz).folder(count=given.count)


def measured(checkpoint: Path, folder: Path, dataset: Dataset, given: argparse.Namespace) -> dict[str, Any]:
    """Every form of a model: made, held against the dataset, timed."""
    source = folder / "fp32.onnx"
    onnx_from_checkpoint(checkpoint, folder / "raw.onnx", imgsz=given.imgsz)
    simplify_onnx(folder / "raw.onnx", source)
    images = dataset.sample_images("train", given.count)
    forms, refused = {"FP32": source}, {}
    for name, make in MAKERS.items():
        made = folder / f"{name.split(',')[0].replace(' ', '-').lower()}-{len(forms)}.onnx"
        try:
            with quiet():
                make(source, made, images)
        except Exception as error:  # other people's tools; their words go to the page
            refused[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        else:
            forms[name] = made
    figures: dict[str, Any] = {"images": len(images), "refused": refused, "forms": {}}
    figures["by"] = f"nncf {_version('nncf')}, {made_here()}"
    for name, path in forms.items():
        figures["forms"][name] = {"mb": path.stat().st_size / 1e6}
        for split in SPLITS:
            kept = path.with_suffix(f".{split}.npz")
            found = accuracy(path, data=dataset, split=split, per_image=kept).map50_95
            drop = figures["forms"]["FP32"].get(split, found) - found
            unpruned, quantised = load_per_image(source.with_suffix(f".{split}.npz")), load_per_image(kept)
            interval = drop_interval(unpruned, quantised, drop)
            figures["forms"][name] |= {split: found, f"{split} ±": interval.ends[1] - drop}
    models = list(forms.values())
    timed, bare = latencies(models), bare_loop(models)
    for name, found, alone in zip(forms, timed, bare, strict=True):
        figures["forms"][name] |= {**found, "bare": bare[0] / alone}
    return figures


def by_onnxruntime(method: str) -> Callable[[Path, Path, Sequence[Path]], None]:
    """``quantize_static`` with its own defaults but for the calibration."""

    def make(source: Path, made: Path, images: Sequence[Path]) -> None:
        from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self.left = fed(source, images)

            def get_next(self) -> dict[str, np.ndarray] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
                return next(self.left, None)

        prepared = made.with_suffix(".prepared.onnx")
        quant_pre_process(str(source), str(prepared))
        quantize_static(str(prepared), str(made), Reader(), calibrate_method=CalibrationMethod[method])

    return make


def by_nncf(source: Path, made: Path, images: Sequence[Path]) -> None:
    """NNCF's post-training quantisation of an ONNX graph with its own defaults."""
    import nncf  # pyright: ignore[reportMissingImports]
    import onnx

    asked = nncf.Dataset(list(fed(source, images)))
    onnx.save(nncf.quantize(onnx.load(source), asked, subset_size=len(images)), made)


def by_this_project(source: Path, made: Path, images: Sequence[Path]) -> None:
    """The recipe for the CPU, as a profile asks by default."""
    quantize_to_int8(source, made, images, recipe="cpu", method="entropy")


MAKERS: dict[str, Callable[[Path, Path, Sequence[Path]], None]] = {
    "ONNX Runtime, min-max": by_onnxruntime("MinMax"),
    "ONNX Runtime, entropy": by_onnxruntime("Entropy"),
    "NNCF": by_nncf,
    "edgeprune, recipe cpu": by_this_project,
}


def fed(source: Path, images: Sequence[Path]) -> Iterator[dict[str, np.ndarray]]:
    """The input of a graph for each image, (1, 3, height, width) float32 in 0..1."""
    import onnx

    given = onnx.load(source, load_external_data=False).graph.input[0]
    height, width = (side.dim_value for side in given.type.tensor_type.shape.dim[2:])
    for image in images:
        yield {given.name: batch_from_images([image], imgsz=(height, width))}


def bare_loop(models: Sequence[Path], rounds: int = 40) -> list[float]:
    """Median seconds of one inference of each, in turns, one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = [onnxruntime.InferenceSession(str(m), options, providers=["CPUExecutionProvider"]) for m in models]
    inputs = [
        {s.get_inputs()[0].name: np.random.default_rng(0).random(s.get_inputs()[0].shape, np.float32)} for s in sessions
    ]
    spent: list[list[float]] = [[] for _ in sessions]
    for _ in range(rounds):
        for number, (session, given) in enumerate(zip(sessions, inputs, strict=True)):
            began = perf_counter()
            session.run(None, given)
            spent[number].append(perf_counter() - began)
    return [statistics.median(one[rounds // 4 :]) for one in spent]


def show(given: argparse.Namespace) -> None:
    """The table, from what is kept."""
    rows, notes, made, seen = [], [], [], {}
    for checkpoint in given.checkpoints:
        seen = json.loads((folder_of(checkpoint, given) / "figures.json").read_text())
        base = seen["forms"]["FP32"]
        for name, form in seen["forms"].items():
            low, middle, high = form["speed_up"]
            drops = [
                f"{form[split]:.4f}"
                + ("" if form is base else f" ({base[split] - form[split]:+.4f} ± {form[f'{split} ±']:.4f})")
                for split in SPLITS
            ]
            speed = "–" if name == "FP32" else f"×{middle:.2f} ({low:.2f} to {high:.2f})"
            bare = "–" if name == "FP32" else f"×{form['bare']:.2f}"
            rows.append((checkpoint.stem, name, *drops, f"{form['ms']:.1f}", speed, bare, f"{form['mb']:.1f}"))
        made.append(seen["by"])
        notes += [f"- {checkpoint.stem}, {name}: {why}" for name, why in seen["refused"].items()]
    print(f"{origins(made)}; {given.imgsz} px, {seen['images']} calibration images, one thread.\n")
    print("\n".join(table(COLUMNS, rows, 2)))
    if notes:
        print("\nRefused:\n\n" + "\n".join(notes))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
