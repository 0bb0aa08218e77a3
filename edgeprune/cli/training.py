"""``edgeprune finetune``, ``sparsify`` and ``iterate``: parse, call, print; everything heavy is imported inside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from edgeprune.errors import TargetError
from edgeprune.options import output_folder
from edgeprune.target import until_drop
from edgeprune.training.settings import TrainSettings

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
Response = Annotated[float, typer.Option(help="Weight of the distance to the teacher's answers.")]
Feature = Annotated[float, typer.Option(help="Weight of Ultralytics' distillation of features (its dis).")]
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
    train: Train = None,
    quiet: Quiet = False,
    teacher: Teacher = None,
    response: Response = 1.0,
    feature: Feature = 0.0,
    until: Annotated[str | None, typer.Option(help="End early: 'map_drop <= 0.01' against --baseline.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="mAP50-95 of the unpruned model (0 to 1), or its weights; else the teacher's.")
    ] = None,
) -> None:
    """Train a pruned model with its structure kept, optionally with the unpruned one as teacher.

    Examples:
      edgeprune finetune pruned.pt --data data.yaml --imgsz 320 \\
        --epochs 5 --out tuned
      edgeprune finetune pruned.pt --data data.yaml --imgsz 320 --epochs 2 \\
        --teacher best.pt --train mosaic=0.5 --out taught
    """
    settings = _settings(locals())
    goal = None if until is None else _drop(until, baseline, teacher)

    from edgeprune.training.finetune import finetune as run
    from edgeprune.training.until import UntilDrop, unpruned_figure

    work = out / ".training"
    stop = None
    if goal is not None:
        known, most = goal
        if isinstance(known, Path):
            known = unpruned_figure(known, data=data, settings=settings, work=work)
        stop = UntilDrop(known, most)
    _print(run(weights, data=data, out=out, settings=settings, work=work, until=stop))


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
    settings = _settings(locals())

    from edgeprune.artifact import write_atomically
    from edgeprune.report.html import scales_html
    from edgeprune.training.sparsify import sparsify as run
    from edgeprune.training.sparsity import SparsitySettings

    chosen: dict[str, Any] = {"schedule": schedule, "tied": tied}  # checked by the class, not by the type checker
    sparsity = SparsitySettings(strength=strength, bias_strength=bias_strength, final=final, **chosen)
    result = run(weights, data=data, out=out, settings=settings, work=out / ".training", sparsity=sparsity)
    _print(result.trained)
    typer.echo(result.verdict)
    found = result.to_json()
    edges, sides = found["before"]["edges"], (found["before"]["overall"], found["after"]["overall"])
    typer.echo("prunable channels by size, before and after:   scale            bias")
    for number, low in enumerate(edges):
        counts = [side[kind][number] for kind in ("scales", "biases") for side in sides]
        typer.echo("  from {:<6g} {:>31} {:>6} {:>9} {:>6}".format(low, *counts))
    write_atomically(out / "scales.html", scales_html(found))
    typer.echo(f"by layer: {out / 'scales.html'}")


def iterate(
    weights: Weights,
    data: Data,
    macs_speed_up: Annotated[float, typer.Option(help="MACs of the given model over those of the last round's.")],
    rounds: Annotated[int, typer.Option(help="How often to prune; each time the same factor further.")] = 3,
    importance: Annotated[str, typer.Option(help="Channel importance criterion.")] = "auto",
    align: Annotated[int, typer.Option(help="Keep widths at multiples of this.")] = 8,
    out: Out = Path("iterated"),
    epochs: Annotated[int, typer.Option(help="Passes over the training split, in total over all rounds.")] = 50,
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
    teacher: Teacher = None,
    response: Response = 1.0,
    feature: Feature = 0.0,
) -> None:
    """Prune and fine-tune in turns, with the epochs shared over the rounds.

    Example:
      edgeprune iterate best.pt --data data.yaml --macs-speed-up 1.5 \\
        --rounds 2 --epochs 2 --imgsz 128 --out iterated
    """
    settings = _settings(locals())

    from edgeprune.training.iterative import prune_in_rounds

    done = prune_in_rounds(
        weights,
        macs_speed_up=macs_speed_up,
        rounds=rounds,
        data=data,
        out=out,
        settings=settings,
        work=out / ".training",
        importance=importance,
        align=align,
    )
    for number, one in enumerate(done, 1):
        typer.echo(f"round {number}: MACs x{one.macs_speed_up:.2f}")
        _print(one.trained)


def _settings(given: Mapping[str, Any]) -> TrainSettings:
    """What the options that training commands share ask for, by the names of their parameters."""
    names = ("epochs", "batch", "lr0", "optimizer", "patience", "imgsz", "device", "workers", "seed", "quiet")
    asked = {name: given[name] for name in (*names, "response", "feature") if name in given}
    asked |= {"time_h": given["time"], "distill": given.get("teacher")}
    return TrainSettings(**asked, extra=training_arguments(given["train"] or []))


def _drop(until: str, baseline: str | None, teacher: Path | None) -> tuple[float | Path, float]:
    """The unpruned model's figure, or where its weights lie, and the drop that is allowed."""
    try:
        most = until_drop(until)
    except ValueError as error:
        raise TargetError(f"--until: {error}") from error
    if baseline is None and teacher is None:
        raise TargetError("--until needs --baseline, a figure or the weights of the unpruned model, or --teacher")
    if baseline is None:
        return Path(str(teacher)), most
    try:
        return float(baseline), most
    except ValueError:
        return Path(baseline), most


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
