"""Whether NVIDIA's own parser and builder take every form of a graph that edgeprune ships, for every family and task.

    python -m benchmarks.parser_acceptance [--model yolo26n-seg] [--page benchmarks/parser_acceptance.md]

Stock models with seeded random weights, pruned (40 % of the channels), exported at 64 px, simplified, and in every
precision. Each file is parsed and built by TensorRT for RTX (extra ``[parser]``, no GPU), and held against ONNX's own
full check, which infers every type and shape strictly. Exits 1 when one is refused.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import onnx

from benchmarks.page import printed_by
from edgeprune.export.lint import Limits, lint
from edgeprune.export.onnx import describe_onnx
from edgeprune.export.precision import PRECISIONS
from edgeprune.quiet import quiet
from edgeprune.runtimes.nvidia_parser import ask_parser
from tests.export.helpers import TASKS, pruned_forms

EVERY_TASK = tuple(TASKS)
MODELS = (  # family, size, tasks that Ultralytics describes
    ("yolov5", "n", ("detect",)),
    ("yolov8", "n", EVERY_TASK),
    ("yolov9", "t", ("detect",)),
    ("yolov9", "c", ("segment",)),
    ("yolov10", "n", ("detect",)),
    ("yolo11", "n", EVERY_TASK),
    ("yolo12", "n", EVERY_TASK),
    ("yolo26", "n", EVERY_TASK),
)
TWO_HEADS = ("yolov10", "yolo26")
LACKING = """TensorRT for RTX has no plugins: of a graph that needs one (with NMS inside, `NonZero`) it
cannot tell. The full TensorRT has that operator (onnx-tensorrt, `docs/operators.md`)."""
PACKAGES = ("ultralytics", "torch", "onnx", "onnxsim", "onnxruntime", "tensorrt-rtx-cu13-libs")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="one model instead of all, for example yolo26n-seg")
    parser.add_argument("--page", type=Path, help="page that is written as well")
    given = parser.parse_args()
    refused: list[str] = []
    printed_by(lambda: refused.extend(print_page(given.model)), given.page, "parser-acceptance")
    return 1 if refused else 0


def print_page(model: str | None) -> list[str]:
    """The page; gives the names of the models that a form of was refused."""
    print("# What NVIDIA's parser takes\n")
    said = " ".join((__doc__ or "").split(".md]")[1].split()).replace("``", "`")
    print(f"`python -m benchmarks.parser_acceptance`: {said}\n")
    print(", ".join(f"{package} {version(package)}" for package in PACKAGES) + ".\n")
    print(f"| model | head | {' | '.join(PRECISIONS)} |")
    print(f"| --- | --- | {' | '.join('---' for _ in PRECISIONS)} |", flush=True)
    refused: list[str] = []
    taken = 0
    for family, size, tasks in MODELS:
        for task in tasks:
            name = f"{family}{size}{TASKS[task][1]}"
            if model not in (None, name):
                continue
            heads = ["auto", "raw"] if family in TWO_HEADS and task != "classify" else ["auto"]
            for head in [*heads, *(["nms"] if task == "detect" and family not in TWO_HEADS else [])]:
                row = _row(family, size, task, head)
                refused += [name for cell in row[1:] if "**" in cell]
                taken += row.count("taken")
                print(f"| {name} | {' | '.join(row)} |", flush=True)
    print(f"\nTaken: {taken}, refused: {len(refused)}. {LACKING}")
    return refused


def _row(family: str, size: str, task: str, head: str) -> list[str]:
    """The head that was exported, and a cell for every precision: ``taken``, or who refuses it in which words."""
    with quiet(), tempfile.TemporaryDirectory() as folder:
        forms = pruned_forms(family, task, Path(folder), size=size, head=head)
        return [describe_onnx(forms["fp32"]).head, *(_cell(forms[precision], precision) for precision in PRECISIONS)]


def _cell(path: Path, precision: str) -> str:
    errors = [
        finding
        for finding in lint(path, Limits(tensorrt="10.16", imgsz=(64, 64), batch=1, precision=precision))
        if finding.severity == "error"
    ]
    if errors:
        return f"**lint: {errors[0].message}**"
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return f"**ONNX: {' '.join(str(error).split())[:200]}**"
    answer = ask_parser(path)
    if answer.refusals:
        return f"**{answer.refusals[0]}**"
    return f"cannot tell: no {', '.join(answer.lacking)}" if answer.lacking else "taken"


if __name__ == "__main__":
    sys.exit(main())
