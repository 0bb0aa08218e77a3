"""``edgeprune finetune`` and ``edgeprune sparsify``: parse, call, print; everything heavy is imported inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from edgeprune.errors import TargetError
from edgeprune.options import output_folder

if TYPE_CHECKING:
    from edgeprune.training.run import TrainResult

Weights = Annotated[Path, typer.Argument(help="Checkpoint to train (.pt).")]
Data = Annotated[str, typer.Option(help="Dataset YAML: a path, or a name Ultralytics knows.")]
Out = Annotated[
    Path,
    typer.Option("--out", "-o", callback=output_folder, help="Folder for best.pt; the same command again goes on."),
]
Epochs = Annotated[int, typer.Option(help="Passes over the training split.")]
Time = Annotated[float | None, typer.Option("--time", help="Hours after which training ends, whatever --epochs says.")]
Batch = Annotated[int, typer.Option(help="Images per optimiser step.")]
ImgSz = Annotated[int, typer.Option(help="Input side in pixels.")]
Lr0 = Annotated[float, typer.Option(help="Learning rate after warm-up.")]
Optimizer = Annotated[str, typer.Option(help="AdamW, SGD, Adam, Adamax, NAdam, RAdam, RMSprop, MuSGD.")]
Patience = Annotated[int, typer.Option(help="Epochs without improvement before stopping; 0 never.")]
Device = Annotated[str, typer.Option(help="cpu, or GPUs by number: 0, or 0,1 for both.")]
Workers = Annotated[int, typer.Option(help="Data loader processes per device.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Teacher = Annotated[Path | None, typer.Option(help="Weights of a teacher, usually the unpruned model.")]
Train = Annotated[list[str] | None, typer.Option(help="Any other Ultralytics training argument: NAME=VALUE.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Hide Ultralytics' log and progress bars.")]


def finetune(
    weights: Weights,
    data: Data,
    out: Out = Path("finetuned"),
    epochs: Epochs = 50,
    time: Time = None,
    batch: Batch = 16,
    imgsz: ImgSz = 640,
    lr0: Lr0 = 1e-3,
    optimizer: Optimizer = "AdamW",
    patience: Patience = 0,
    device: Device = "cpu",
    workers: Workers = 4,
    seed: Seed = 0,
    teacher: Teacher = None,
    train: Train = None,
    quiet: Quiet = False,
    until_drop: Annotated[float | None, typer.Option(help="Stop once mAP50-95 is within this of --baseline.")] = None,
    baseline: Annotated[float | None, typer.Option(help="mAP50-95 of the unpruned model, 0 to 1.")] = None,
) -> None:
    """Train a pruned model with its structure kept, optionally with the unpruned one as teacher.

    Examples:
      edgeprune finetune pruned.pt --data data.yaml --imgsz 320 \\
        --epochs 5 --out tuned
      edgeprune finetune pruned.pt --data data.yaml --imgsz 320 --epochs 2 \\
        --teacher best.pt --train mosaic=0.5 --out taught
    """
    from edgeprune.training.finetune import finetune as run
    from edgeprune.training.settings import TrainSettings
    from edgeprune.training.until import UntilDrop

    settings = TrainSettings(
        epochs=epochs,
        time_h=time,
        batch=batch,
        lr0=lr0,
        optimizer=optimizer,
        patience=patience,
        imgsz=imgsz,
        device=device,
        workers=workers,
        seed=seed,
        distill=teacher,
        quiet=quiet,
        extra=training_arguments(train or []),
    )
    if (until_drop is None) != (baseline is None):
        raise TargetError("--until-drop and --baseline belong together; give both or neither")
    until = None if until_drop is None or baseline is None else UntilDrop(baseline, until_drop)
    _print(run(weights, data=data, out=out, settings=settings, work=out / ".training", until=until))


def sparsify(
    weights: Weights,
    data: Data,
    out: Out = Path("sparsified"),
    strength: Annotated[float, typer.Option("--lambda", help="Weight of the penalty on scales.")] = 1e-3,
    bias_strength: Annotated[float, typer.Option("--bias-lambda", help="The same for biases; 0 leaves them.")] = 0.0,
    schedule: Annotated[str, typer.Option(help="How both fall: constant, linear or cosine.")] = "linear",
    final: Annotated[float, typer.Option(help="What is left of them at the end, 0 to 1.")] = 0.1,
    tied: Annotated[str, typer.Option(help="Scales tied by shortcuts: group or exempt.")] = "group",
    epochs: Epochs = 50,
    time: Time = None,
    batch: Batch = 16,
    imgsz: ImgSz = 640,
    lr0: Lr0 = 1e-3,
    optimizer: Optimizer = "AdamW",
    device: Device = "cpu",
    workers: Workers = 4,
    seed: Seed = 0,
    train: Train = None,
    quiet: Quiet = False,
) -> None:
    """Train with a penalty on the scales of prunable channels, to prune with --importance bn_scale afterwards.

    Example:
      edgeprune sparsify best.pt --data data.yaml --imgsz 320 \\
        --epochs 3 --out sparse
    """
    from edgeprune.training.settings import TrainSettings
    from edgeprune.training.sparsify import sparsify as run
    from edgeprune.training.sparsity import SparsitySettings

    settings = TrainSettings(
        epochs=epochs,
        time_h=time,
        batch=batch,
        lr0=lr0,
        optimizer=optimizer,
        imgsz=imgsz,
        device=device,
        workers=workers,
        seed=seed,
        quiet=quiet,
        extra=training_arguments(train or []),
    )
    chosen: dict[str, Any] = {"schedule": schedule, "tied": tied}  # checked by the class, not by the type checker
    sparsity = SparsitySettings(strength=strength, bias_strength=bias_strength, final=final, **chosen)
    result = run(weights, data=data, out=out, settings=settings, work=out / ".training", sparsity=sparsity)
    _print(result.trained)
    typer.echo(result.verdict)
    typer.echo("prunable channels by size of scale, before and after:")
    before, after = result.before.to_json(), result.after.to_json()
    for low, *counts in zip(before["edges"], before["overall"]["scales"], after["overall"]["scales"], strict=True):
        typer.echo("  from {:<6g} {:>6} {:>6}".format(low, *counts))


def training_arguments(pairs: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` pairs as a dictionary, values read as YAML (numbers, true, lists).

    Raises:
        TargetError: something that is no such pair.
    """
    arguments: dict[str, Any] = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        if not sign or not name.isidentifier():
            raise TargetError(f"--train {pair!r}: allowed is NAME=VALUE, for example --train mosaic=0.5")
        arguments[name] = value
    return arguments


def _print(result: TrainResult) -> None:
    typer.echo(
        f"{result.best}: {result.map50_95:.4f} on the validation split "
        f"(epoch {result.best_epoch} of {result.epochs_run}, {result.seconds:.0f} s)"
    )
