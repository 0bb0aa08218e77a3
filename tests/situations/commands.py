"""Every command that reads a model, data or a profile, as a test gives it: quick settings, an output of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Inputs:
    """Files that commands are given; None where a situation has no such thing.

    Attributes:
        weights: a checkpoint.
        onnx: a graph.
        data: a dataset's YAML, or the folder of a classification dataset.
        profile: a target profile of quick builds.
        imgsz: side of the images in pixels.
        cwd: working directory, where one matters.
        more: further arguments by command.
    """

    weights: Path | str | None = None
    onnx: Path | None = None
    data: Path | None = None
    profile: Path | None = None
    imgsz: int = 64
    cwd: Path | None = None
    more: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True)
class Command:
    """One way to call the tool.

    Attributes:
        uses: attributes of :class:`Inputs` that it needs.
        argv: from inputs and an output folder to its arguments.
        slow: it trains or measures: seconds, not a moment.
        long: it searches on the device: half a minute; only for situations that concern it.
    """

    uses: frozenset[str]
    argv: Callable[[Inputs, Path], list[object]]
    slow: bool = False
    long: bool = False


TRAINING = ("--epochs", 1, "--batch", 4, "--workers", 0, "--quiet")
TIMING = ("--rounds", 4, "--warmup-s", 0.01)


def _command(
    uses: str, argv: Callable[[Inputs, Path], list[object]], *, slow: bool = False, long: bool = False
) -> Command:
    return Command(frozenset(uses.split()), argv, slow or long, long)


def _training(name: str, *more: object) -> Callable[[Inputs, Path], list[object]]:
    return lambda i, out: [name, i.weights, "--data", i.data, "--imgsz", i.imgsz, *TRAINING, *more, "--out", out / name]


def _int8(recipe: str, method: str) -> Callable[[Inputs, Path], list[object]]:
    options = ("--precision", "int8", "--recipe", recipe, "--method", method, "--count", 100, "--json")
    return lambda i, out: ["quantize", i.onnx, "--data", i.data, *options, "-o", out / "int8.onnx"]


COMMANDS: dict[str, Command] = {
    "prune": _command("weights", lambda i, out: ["prune", i.weights, "--ratio", 0.3, "-o", out / "pruned.pt"]),
    "prune --dry-run": _command("weights", lambda i, out: ["prune", i.weights, "--ratio", 0.3, "--dry-run"]),
    "prune --data": _command(
        "weights data",
        lambda i, out: [
            *("prune", i.weights, "--ratio", 0.3, "--data", i.data, "--images", 4, "--imgsz", i.imgsz),
            *("-o", out / "pruned.pt", "--save-plan", out / "plan.json"),
        ],
    ),
    "sensitivity": _command(
        "weights data",
        lambda i, out: [
            *("sensitivity", i.weights, "--data", i.data, "--images", 2, "--batch", 2, "--imgsz", i.imgsz),
            *("--ratios", "0.5", "-o", out / "table.json"),
        ],
    ),
    "profile": _command(
        "weights profile", lambda i, out: ["profile", i.weights, "--target", i.profile, "--rows", 3], long=True
    ),
    "search": _command(
        "weights data profile",
        lambda i, out: [
            *("search", i.weights, "--target", i.profile, "--data", i.data, "--speed-up", 1.01),
            *("-o", out / "found.pt"),
        ],
        long=True,
    ),
    "finetune": _command("weights data", _training("finetune"), slow=True),
    "sparsify": _command("weights data", _training("sparsify"), slow=True),
    "iterate": _command("weights data", _training("iterate", "--macs-speed-up", 1.2, "--rounds", 1), slow=True),
    "sweep": _command(
        "weights data profile",
        lambda i, out: [
            *("sweep", i.weights, "--target", i.profile, "--data", i.data, "--speed-up", "1.01"),
            *("--epochs", 1, "--out", out / "swept"),
        ],
        long=True,
    ),
    "frontier": _command(
        "weights data profile",
        lambda i, out: [
            *("frontier", i.weights, "--target", i.profile, "--data", i.data, "--latency-ms", "1000"),
            *("--epochs", 0, "--out", out / "levers"),
        ],
        long=True,
    ),
    "export": _command("weights", lambda i, out: ["export", i.weights, "--imgsz", i.imgsz, "-o", out / "model.onnx"]),
    "export --head nms": _command(
        "weights", lambda i, out: ["export", i.weights, "--imgsz", i.imgsz, "--head", "nms", "-o", out / "model.onnx"]
    ),
    "val": _command("weights data", lambda i, out: ["val", i.weights, "--data", i.data, "--imgsz", i.imgsz, "--json"]),
    "bench": _command(
        "weights", lambda i, out: ["bench", i.weights, "--imgsz", i.imgsz, *TIMING, "--launches", 1], slow=True
    ),
    "build": _command(
        "weights data profile",
        lambda i, out: ["build", "--target", i.profile, "--weights", i.weights, "--data", i.data, "--out", out / "run"],
        slow=True,
    ),
    "parity": _command(
        "weights onnx data", lambda i, out: ["parity", i.weights, i.onnx, "--data", i.data, "--count", 100, "--json"]
    ),
    "compare": _command(
        "weights onnx data",
        lambda i, out: [
            *("compare", i.weights, i.onnx, "--data", i.data, "--imgsz", i.imgsz, *TIMING, "--images", 2),
            *("-o", out / "page"),
        ],
        slow=True,
    ),
    "simplify": _command("onnx", lambda i, out: ["simplify", i.onnx, "-o", out / "small.onnx"]),
    "lint": _command("onnx", lambda i, out: ["lint", i.onnx]),
    "quantize fp16": _command(
        "onnx", lambda i, out: ["quantize", i.onnx, "--precision", "fp16", "-o", out / "half.onnx"]
    ),
    "quantize int8 cpu": _command("onnx data", _int8("cpu", "minmax")),
    "quantize int8 cpu entropy": _command("onnx data", _int8("cpu", "entropy")),
    "quantize int8 tensorrt": _command("onnx data", _int8("tensorrt", "minmax")),
    "parity onnx": _command(
        "onnx data", lambda i, out: ["parity", i.onnx, i.onnx, "--data", i.data, "--count", 100, "--json"]
    ),
    "val onnx": _command("onnx data", lambda i, out: ["val", i.onnx, "--data", i.data, "--json"]),
    "bench onnx": _command("onnx", lambda i, out: ["bench", i.onnx, *TIMING, "--launches", 1], slow=True),
    "bench --end-to-end": _command(
        "onnx", lambda i, out: ["bench", i.onnx, *TIMING, "--launches", 1, "--no-details", "--end-to-end"], slow=True
    ),
    "bench --target": _command(
        "onnx profile", lambda i, out: ["bench", i.onnx, "--target", i.profile, "--no-details"], slow=True
    ),
    "compare onnx": _command(
        "onnx data",
        lambda i, out: [
            *("compare", i.onnx, i.onnx, "--data", i.data, *TIMING, "--images", 2, "-o", out / "page"),
        ],
        slow=True,
    ),
    "compare --target": _command(
        "onnx data profile",
        lambda i, out: ["compare", i.onnx, i.onnx, "--data", i.data, "--target", i.profile, "--images", 0],
        slow=True,
    ),
    "val --target": _command(
        "onnx data profile", lambda i, out: ["val", i.onnx, "--data", i.data, "--target", i.profile, "--json"]
    ),
    "deploy triton": _command("onnx", lambda i, out: ["deploy", "triton", i.onnx, "-o", out / "models"]),
    "deploy deepstream": _command("onnx", lambda i, out: ["deploy", "deepstream", i.onnx, "-o", out / "deepstream"]),
    "targets show": _command("profile", lambda i, out: ["targets", "show", i.profile]),
}


ELSEWHERE: dict[str, str] = {
    **dict.fromkeys(
        ("show", "verify", "history", "push", "sign", "import-results"),
        "reads a finished build: tests/hostile/records.py and deploying.py",
    ),
    **dict.fromkeys(
        ("engine-header add", "engine-header strip", "engine-header show"),
        "reads an engine: tests/hostile/deploying.py",
    ),
    **dict.fromkeys(("device probe", "doctor", "targets schema", "data digits"), "reads no model and no data"),
    "adopt": "takes other pruners' files alone: tests/pruning/test_adopt.py, tests/hostile/deploying.py",
    "qat": "the data and weights of finetune, behind an extra of its own: tests/training/test_qat.py",
}
"""Commands that no situation meets, and what tries them instead."""


def arguments(name: str, inputs: Inputs, out: Path) -> list[object]:
    """The arguments of a command for these inputs."""
    return [*COMMANDS[name].argv(inputs, out), *dict(inputs.more).get(name, ())]
