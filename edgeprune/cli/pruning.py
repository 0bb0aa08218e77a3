"""``edgeprune prune`` and ``edgeprune sensitivity``: parse, call, print. Heavy imports wait until a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from edgeprune.cli.settings import option_of
from edgeprune.cli.sizes import Trust, seed_option, size_option
from edgeprune.cli.streams import say
from edgeprune.errors import TargetError
from edgeprune.options import OUT, output_checkpoint, output_json, output_plot, without_none
from edgeprune.settings import PruneSettings

if TYPE_CHECKING:
    from edgeprune.pruning.plan import Plan

Weights = Annotated[str, typer.Argument(help="Checkpoint (.pt), or the name of published weights.")]
Data = Annotated[str | None, typer.Option(help="Dataset YAML; its train split ranks channels by the loss.")]
ImgSz = Annotated[Any, size_option("Input in pixels: a side, or HEIGHT,WIDTH; what the weights were trained at.")]
ImportanceName = Annotated[str | None, option_of(PruneSettings, "importance")]
Images = Annotated[int | None, option_of(PruneSettings, "images")]
Batch = Annotated[int | None, option_of(PruneSettings, "batch")]
Ignore = Annotated[list[str] | None, typer.Option(help="Glob over module names that keep their width; repeatable.")]
MaxRatio = Annotated[list[str] | None, typer.Option(help="GLOB=SHARE: remove at most this share there; repeatable.")]
HeadName = Annotated[str | None, option_of(PruneSettings, "head")]
Align = Annotated[int | None, option_of(PruneSettings, "align")]


def prune(
    weights: Weights,
    macs_speed_up: Annotated[float | None, typer.Option(help="MACs before over after, at least this.")] = None,
    params_ratio: Annotated[float | None, typer.Option(help="Parameters after over before, at most this.")] = None,
    ratio: Annotated[float | None, typer.Option(help="Share of the channels to remove, 0 to 1.")] = None,
    plan: Annotated[Path | None, typer.Option(help="Apply this plan (.json) instead of making one.")] = None,
    output: Annotated[
        Path | None, typer.Option(*OUT, callback=output_checkpoint, help="Pruned checkpoint (.pt).")
    ] = None,
    save_plan: Annotated[Path | None, typer.Option(callback=output_json, help="Also write the plan (.json).")] = None,
    data: Data = None,
    imgsz: ImgSz = None,
    importance: ImportanceName = None,
    scope: Annotated[str | None, option_of(PruneSettings, "scope")] = None,
    normalisation: Annotated[
        str | None,
        typer.Option(help="Scores within a group: none, sum, mean, max, standarization; else the criterion's own."),
    ] = None,
    iterative_steps: Annotated[int | None, option_of(PruneSettings, "iterative_steps")] = None,
    drop_blocks: Annotated[int | None, option_of(PruneSettings, "drop_blocks", without="needs --data")] = None,
    images: Images = None,
    batch: Batch = None,
    seed: Annotated[int | None, option_of(PruneSettings, "seed")] = None,
    ignore: Ignore = None,
    max_ratio: MaxRatio = None,
    align: Align = None,
    min_width: Annotated[int | None, option_of(PruneSettings, "min_width")] = None,
    head: HeadName = None,
    trust: Trust = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and write no checkpoint.")] = False,
) -> None:
    """Remove channels (and blocks) from a model; the result is a stock Ultralytics checkpoint.

    Examples:
      edgeprune prune best.pt --macs-speed-up 2 --data data.yaml -o pruned.pt
      edgeprune prune best.pt --ratio 0.3 --dry-run --save-plan plan.json
      edgeprune prune best.pt --plan plan.json -o same.pt
    """
    from edgeprune.cli.console import ConsoleReporter, print_lines, print_table
    from edgeprune.pruning import api
    from edgeprune.report.plan import dimensions_table, left_alone_lines, plan_text

    if output is None and not dry_run:
        raise TargetError("say where the pruned checkpoint goes with -o FILE.pt, or look first with --dry-run")
    with ConsoleReporter() as reporter:
        result = api.prune(
            weights,
            None if dry_run else output,
            macs_speed_up=macs_speed_up,
            params_ratio=params_ratio,
            ratio=ratio,
            plan=plan,
            data=data,
            images=images,
            batch=batch,
            imgsz=imgsz,
            importance=importance,
            normalisation=normalisation,
            scope=cast(Any, scope),  # checked by the function
            iterative_steps=iterative_steps,
            drop_blocks=drop_blocks,
            ignore=ignore,
            max_ratio=_shares(max_ratio or []),
            align=align,
            min_width=min_width,
            head=head,
            seed=seed,
            trust=trust,
            progress=reporter,
        )
    if dry_run:
        print_table(dimensions_table(result.plan, result.savings))
        print_lines(left_alone_lines(result.plan))
    if save_plan is not None:
        result.plan.save(save_plan)
    if result.size.differs:
        say(str(result.size))
    say(plan_text(result.plan))
    if macs_speed_up is not None and (why := _beyond(result.plan, macs_speed_up)):
        say(f"×{macs_speed_up:g} was asked: {why}")


def _beyond(plan: Plan, asked: float) -> str:
    """Why a plan removes more than was asked, and what to type for less; empty where it comes close."""
    from edgeprune.pruning.choose import EXCHANGE_TOLERANCE

    if plan.macs_speed_up <= asked * (1 + EXCHANGE_TOLERANCE):
        return ""
    if plan.removed and all(line.after == line.before for line in plan.dimensions):
        count = len(plan.removed)
        fewer = f"try --drop-blocks {count - 1}" if count > 1 else "leave --drop-blocks out"
        return f"what goes whole brings more by itself, and no width was changed; {fewer}"
    align = plan.settings.align
    return f"no widths in steps of {align} come closer" + ("; try a smaller --align" if align > 1 else "")


def adopt(
    weights: Annotated[Path, typer.Argument(help="Checkpoint (.pt) that another pruner wrote.")],
    output: Annotated[Path, typer.Option(*OUT, callback=output_checkpoint, help="Stock checkpoint (.pt) to write.")],
) -> None:
    """Make a checkpoint stock that another pruner left with split blocks (C2f_v2, C3k2_v2, ...); outputs stay equal.

    Example:
      edgeprune adopt theirs.pt -o stock.pt
    """
    from edgeprune.pruning.adopt import adopt as run

    done = run(weights, output)
    say(f"{output}: stock; {done.parameters[0] / 1e6:.3f} → {done.parameters[1] / 1e6:.3f} M parameters")
    for name, foreign in done.blocks.items():
        count = done.filled.get(name, 0)
        say(f"  {name}: was {foreign}" + (f"; {count} channels of zeros even out its halves" if count else ""))


def sensitivity(
    weights: Weights,
    data: Annotated[str, typer.Option(help="Dataset YAML; its train split gives the loss.")],
    imgsz: ImgSz = None,
    importance: ImportanceName = None,
    ratios: Annotated[str, typer.Option(help="Shares to remove, 0 to 1, comma-separated.")] = "0.25,0.5,0.75",
    images: Annotated[int, typer.Option(min=1, help="Images of --data to use.")] = 16,
    batch: Batch = None,
    seed: Annotated[int, seed_option("Seed of the draw of images.")] = 0,
    align: Align = None,
    ignore: Ignore = None,
    head: HeadName = None,
    plot: Annotated[
        Path | None, typer.Option(callback=output_plot, help="Write a plot (.html, .png, .svg or .pdf).")
    ] = None,
    output: Annotated[Path | None, typer.Option(*OUT, callback=output_json, help="Write the table (.json).")] = None,
    trust: Trust = False,
) -> None:
    """Show how the loss rises when each dimension alone is narrowed.

    Example:
      edgeprune sensitivity best.pt --data data.yaml --ratios 0.5 --plot loss.png
    """
    from edgeprune.artifact import write_atomically
    from edgeprune.checkpoint import load
    from edgeprune.cli.console import ConsoleReporter, print_table
    from edgeprune.pruning.api import labelled_batches
    from edgeprune.pruning.pruner import Pruner
    from edgeprune.pruning.sensitivity import sensitivity as measure_sensitivity
    from edgeprune.report.sensitivity import sensitivity_file, sensitivity_table, sensitivity_text
    from edgeprune.serial import write_json

    try:
        shares = [float(share) for share in ratios.split(",")]
    except ValueError as error:
        raise TargetError(f"--ratios is a comma-separated list of numbers (seen: {ratios})") from error
    stated: dict[str, Any] = {"importance": importance, "batch": batch, "align": align, "head": head}
    settings = PruneSettings.of(images=images, seed=seed, **without_none(stated))
    checkpoint = load(weights, trust=trust)
    size = checkpoint.size_for(command=imgsz)
    if size.differs:
        say(str(size))
    with ConsoleReporter() as reporter:
        reporter.progress("reading images")
        batches = labelled_batches(
            checkpoint, data, size.side, images=images, batch=settings.batch, seed=seed, trust=trust
        )
        pruner = Pruner(checkpoint.model, size.side, align=settings.align, ignore=ignore or (), head=settings.head)
        result = measure_sensitivity(
            pruner, batches, importance=settings.importance, ratios=shares, progress=reporter.progress
        )
    print_table(sensitivity_table(result), sensitivity_text(result))
    if output is not None:
        write_json(output, result)
    if plot is not None:
        write_atomically(plot, sensitivity_file(result, plot.suffix))


def register(app: typer.Typer) -> None:
    """Mount the commands on the main application."""
    app.command()(prune)
    app.command()(adopt)
    app.command()(sensitivity)


def _shares(items: list[str]) -> dict[str, float]:
    shares = {}
    for item in items:
        glob, _, share = item.rpartition("=")
        try:
            shares[glob] = float(share)
        except ValueError:
            glob = ""
        if not glob:
            raise TargetError(f"--max-ratio takes GLOB=SHARE, for example 'model.22.*=0.5' (seen: {item})")
    return shares
