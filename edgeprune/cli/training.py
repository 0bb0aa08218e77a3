"""``edgeprune finetune``, ``sparsify``, ``qat``, ``iterate``: parse, call, print; what is heavy is imported inside."""

from __future__ import annotations

import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprune.cli.settings import option_of, options_from_settings
from edgeprune.cli.sizes import Trust
from edgeprune.cli.streams import say
from edgeprune.errors import TargetError
from edgeprune.options import OUT, TRAINING, output_training
from edgeprune.settings import (
    AccuracyGoal,
    PruneSettings,
    Qat,
    Run,
    Sparsifying,
    SparsitySettings,
    TrainSettings,
    read_map_drop,
)

if TYPE_CHECKING:
    from edgeprune.training.result import TrainResult

Weights = Annotated[Path, typer.Argument(help="Checkpoint to train (.pt).")]
Data = Annotated[str, typer.Option(help="Dataset YAML, folder of class folders, or a name Ultralytics knows.")]
Out = Annotated[
    Path,
    typer.Option(*OUT, callback=output_training, help="Folder for best.pt; the same command again goes on."),
]


@options_from_settings
def finetune(
    weights: Weights,
    data: Data,
    settings: TrainSettings,
    out: Out = Path("finetuned"),
    until: Annotated[str | None, typer.Option(help="End early: 'map_drop <= 0.01' against --baseline.")] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="Accuracy of the unpruned model (0 to 1), or its weights; else the teacher's."),
    ] = None,
    trust: Trust = False,
) -> None:
    """Train a pruned model with its structure kept, optionally with a teacher: the unpruned one, or a larger one.

    Examples:
      edgeprune finetune pruned.pt --data data.yaml --imgsz 320 \\
        --epochs 5 --out tuned
      edgeprune finetune pruned.pt --data data.yaml --imgsz 320 --epochs 2 \\
        --teacher best.pt --train mosaic=0.5 --out taught
    """
    if until is None and baseline is not None:
        raise TargetError("--baseline is what --until compares with; add --until 'map_drop <= 0.01', or leave it out")
    if until is None:
        goal = None
    elif baseline is None and settings.teacher is None:
        raise TargetError("--until needs --baseline, a figure or the weights of the unpruned model, or --teacher")
    else:
        goal = _accuracy_goal(until, baseline or str(settings.teacher), weights, data, settings, out, trust)

    from edgeprune.training.finetune import finetune as run

    _print(run(weights, data=data, out=out, settings=settings, work=out / TRAINING, until=goal, trust=trust))


@options_from_settings
def sparsify(
    weights: Weights, data: Data, section: Sparsifying, run: Run, out: Out = Path("sparsified"), trust: Trust = False
) -> None:
    """Train with a penalty on the scales of prunable channels, to prune with --importance bn_scale afterwards.

    Example:
      edgeprune sparsify best.pt --data data.yaml --imgsz 320 \\
        --epochs 3 --out sparse
    """
    settings = TrainSettings.of(section, run)

    from edgeprune.artifact import write_atomically
    from edgeprune.report.sparsity import sparsity_page
    from edgeprune.training.sparsify import sparsify as train

    sparsity = SparsitySettings.of(section)
    result = train(weights, data=data, out=out, settings=settings, work=out / TRAINING, sparsity=sparsity, trust=trust)
    _print(result.trained)
    scales = result.scales
    say(scales.summary)
    say("prunable channels by size, before and after:   scale            bias")
    before, after = scales.before.overall, scales.after.overall
    for low, *counts in zip(scales.before.edges, before.scales, after.scales, before.biases, after.biases, strict=True):
        say("  from {:<6g} {:>31} {:>6} {:>9} {:>6}".format(low, *counts))
    write_atomically(out / "scales.html", sparsity_page(scales))
    say(f"by layer: {out / 'scales.html'}")


@options_from_settings
def qat(
    weights: Weights,
    data: Data,
    section: Qat,
    run: Run,
    teacher: Annotated[Path | None, typer.Option(help="Weights of a teacher, usually the unpruned model.")] = None,
    out: Out = Path("int8"),
    trust: Trust = False,
) -> None:
    """Train INT8 (quantization-aware training) with the structure kept; needs NVIDIA's ModelOpt, the extra qat.

    Writes best.pt, which loads anywhere, and quantized.pt, the same with its ranges, which export makes INT8 of.

    Examples:
      edgeprune qat tuned/best.pt --data data.yaml --imgsz 320 --epochs 1   # exits 0 or 4: 4 without the extra qat
    """
    from edgeprune.export.modelopt import require_modelopt

    require_modelopt()  # before torch
    settings = TrainSettings.of(section, run, teacher=teacher).for_int8()

    from edgeprune.training.finetune import finetune as train
    from edgeprune.training.result_from_run import QUANTIZED

    result = train(weights, data=data, out=out, settings=settings, work=out / TRAINING, trust=trust, label="INT8")
    _print(result)
    following = ["edgeprune", "export", str(out / QUANTIZED), "-o", str(out / "int8.onnx")]
    say(f"next: {shlex.join([*following, *(['--trust'] if trust else [])])}")


OVER_ROUNDS = {
    "epochs": "Passes over the training split, of all rounds together; a round of fewer than 30 trains without mosaic.",
    "time_h": "Hours that all rounds take together, a like share each, whatever ``epochs`` says.",
}


@partial(options_from_settings, said=OVER_ROUNDS)
def iterate(
    weights: Weights,
    data: Data,
    macs_speed_up: Annotated[float, typer.Option(help="MACs of the given model over those of the last round's.")],
    settings: TrainSettings,
    rounds: Annotated[
        int, typer.Option(help="How often to prune; each round gets a like share of --epochs, or of --time.")
    ] = 3,
    importance: Annotated[str, typer.Option(help="Channel importance criterion.")] = "auto",
    align: Annotated[int | None, option_of(PruneSettings, "align")] = None,
    out: Out = Path("iterated"),
    trust: Trust = False,
) -> None:
    """Prune and fine-tune in turns, with the epochs (or --time) shared over the rounds.

    Example:
      edgeprune iterate best.pt --data data.yaml --macs-speed-up 1.5 \\
        --rounds 2 --epochs 2 --imgsz 128 --out iterated
    """
    from edgeprune.training.iterative import prune_in_rounds

    finished = prune_in_rounds(
        weights,
        macs_speed_up=macs_speed_up,
        rounds=rounds,
        data=data,
        out=out,
        settings=settings,
        work=out / TRAINING,
        importance=importance,
        align=PruneSettings.align if align is None else align,
        trust=trust,
    )
    for number, pruning_round in enumerate(finished, 1):
        say(f"round {number}: MACs x{pruning_round.macs_speed_up:.2f}")
        _print(pruning_round.trained)


def _accuracy_goal(
    until: str, baseline: str, weights: Path, data: str, settings: TrainSettings, out: Path, trust: bool
) -> AccuracyGoal:
    """``until`` against ``baseline``: a figure, or weights that are validated now."""
    try:
        max_drop = read_map_drop(until)
    except ValueError as error:
        raise TargetError(f"--until: {error}") from error

    from edgeprune.checkpoint import load
    from edgeprune.training.early_stop import baseline_accuracy
    from edgeprune.training.sizes import sized

    try:
        accuracy = float(baseline)
    except ValueError:
        trained = load(weights, trust=trust)
        settings = sized(settings, trained)  # both are judged at the size that is trained at
        if trained.single_cls:  # the model is believed where nothing is said
            settings = replace(settings, train={"single_cls": True, **settings.train})
        work = out / TRAINING
        accuracy = baseline_accuracy(Path(baseline), data=data, settings=settings, work=work, trust=trust)
    return AccuracyGoal(baseline=accuracy, max_drop=max_drop)


def _print(result: TrainResult) -> None:
    summary = result.summary
    say(
        f"{result.best}: {summary.map50_95:.4f} on the validation split "
        f"(epoch {summary.best_epoch} of {summary.epochs_run}, {summary.seconds:.0f} s)"
    )
    if summary.found_nothing:
        say(summary.which_epoch)
    elif summary.kept_given:
        say("epoch 0 is the given model: no epoch was better on the validation split, so it is kept as it was")
