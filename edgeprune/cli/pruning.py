"""``edgeprune prune`` and ``edgeprune sensitivity``: parse, call, print. Heavy imports wait until a command runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeprune.errors import TargetError
from edgeprune.options import output_file, output_plot

if TYPE_CHECKING:
    from edgeprune.pruning.plan import Plan

Weights = Annotated[str, typer.Argument(help="Checkpoint (.pt), or the name of published weights.")]
Data = Annotated[str | None, typer.Option(help="Dataset YAML; its train split ranks channels by the loss.")]
ImgSz = Annotated[int | None, typer.Option(help="Input side in pixels; what the weights were trained at.")]
ImportanceName = Annotated[str, typer.Option(help="Criterion; auto: taylor with --data, lamp without.")]
Images = Annotated[int, typer.Option(help="Images of --data to use.")]
Batch = Annotated[int, typer.Option(help="Images per inference on --data.")]
Ignore = Annotated[list[str] | None, typer.Option(help="Glob over module names that keep their width; repeatable.")]
MaxRatio = Annotated[list[str] | None, typer.Option(help="GLOB=SHARE: remove at most this share there; repeatable.")]
Align = Annotated[int, typer.Option(help="Widths are multiples of this: 1, 4, 8, 16 or 32.")]
Trust = Annotated[bool, typer.Option("--trust", help="Load classes outside Ultralytics; such a file can run any code.")]


def prune(
    weights: Weights,
    macs_speed_up: Annotated[float | None, typer.Option(help="MACs before over after, at least this.")] = None,
    params_ratio: Annotated[float | None, typer.Option(help="Parameters after over before, at most this.")] = None,
    ratio: Annotated[float | None, typer.Option(help="Share of the channels to remove, 0 to 1.")] = None,
    plan: Annotated[Path | None, typer.Option(help="Apply this plan (.json) instead of making one.")] = None,
    output: Annotated[
        Path | None, typer.Option("--out", "--output", "-o", callback=output_file, help="Pruned checkpoint (.pt).")
    ] = None,
    save_plan: Annotated[Path | None, typer.Option(callback=output_file, help="Also write the plan (.json).")] = None,
    data: Data = None,
    imgsz: ImgSz = None,
    importance: ImportanceName = "auto",
    scope: Annotated[
        str, typer.Option(help="global: rank across the model; local: the same share everywhere.")
    ] = "global",
    normalisation: Annotated[
        str | None,
        typer.Option(help="Scores within a group: none, sum, mean, max, standarization; else as they come."),
    ] = None,
    iterative_steps: Annotated[int, typer.Option(help="Rank anew this many times on the way.")] = 1,
    drop_blocks: Annotated[int, typer.Option(help="Drop this many whole blocks first (needs --data).")] = 0,
    images: Images = 64,
    batch: Batch = 4,
    seed: Annotated[int, typer.Option(help="Seed of the random criterion and of the draw of images.")] = 0,
    ignore: Ignore = None,
    max_ratio: MaxRatio = None,
    align: Align = 8,
    min_width: Annotated[int, typer.Option(help="No layer gets narrower than this many channels.")] = 8,
    trust: Trust = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and write no checkpoint.")] = False,
) -> None:
    """Remove channels (and blocks) from a model; the result is a stock Ultralytics checkpoint.

    Examples:
      edgeprune prune best.pt --macs-speed-up 2 --data data.yaml -o pruned.pt
      edgeprune prune best.pt --ratio 0.3 --dry-run --save-plan plan.json
      edgeprune prune best.pt --plan plan.json -o same.pt
    """
    from rich.console import Console

    from edgeprune.checkpoint import load, save
    from edgeprune.pruning.choose import TOLERANCE
    from edgeprune.pruning.plan import Plan
    from edgeprune.pruning.pruner import prune as pruned

    if output is None and not dry_run:
        raise TargetError("say where the pruned checkpoint goes with -o FILE.pt, or look first with --dry-run")
    checkpoint = load(weights, trust=trust)
    size = imgsz or _trained_size(checkpoint.train_args)
    batches = None if data is None else _batches(data, checkpoint, size, images, batch, seed)
    result = pruned(
        checkpoint,
        imgsz=imgsz,
        plan=None if plan is None else Plan.load(plan),
        macs_speed_up=macs_speed_up,
        params_ratio=params_ratio,
        ratio=ratio,
        importance=importance,
        scope=scope,  # pyright: ignore[reportArgumentType]
        iterative_steps=iterative_steps,
        drop_blocks=drop_blocks,
        batches=batches,
        seed=seed,
        ignore=ignore or (),
        max_ratio=_shares(max_ratio or []),
        align=align,
        min_width=min_width,
        normalisation=normalisation,
    )
    console = Console()
    if dry_run:
        console.print(plan_table(result.plan, result.savings))
    if save_plan is not None:
        result.plan.save(save_plan)
    if output is not None and not dry_run:
        save(result.model, output, like=checkpoint, metadata=result.metadata())
    console.print(_summary(result.plan), highlight=False)
    asked = result.plan.settings["request"].get("macs_speed_up")
    if asked is not None and result.plan.macs_speed_up > asked * (1 + TOLERANCE):
        steps = result.plan.settings["align"]
        console.print(f"×{asked:g} was asked: no widths in steps of {steps} come closer; try a smaller --align")


def sensitivity(
    weights: Weights,
    data: Annotated[str, typer.Option(help="Dataset YAML; its train split gives the loss.")],
    imgsz: ImgSz = None,
    importance: ImportanceName = "auto",
    ratios: Annotated[str, typer.Option(help="Shares to remove, 0 to 1, comma-separated.")] = "0.25,0.5,0.75",
    images: Images = 16,
    batch: Batch = 4,
    seed: Annotated[int, typer.Option(help="Seed of the draw of images.")] = 0,
    align: Align = 8,
    ignore: Ignore = None,
    plot: Annotated[Path | None, typer.Option(callback=output_plot, help="Write a plot (.png, .svg or .pdf).")] = None,
    output: Annotated[
        Path | None, typer.Option("--out", "--output", "-o", callback=output_file, help="Write the table (.json).")
    ] = None,
    trust: Trust = False,
) -> None:
    """Show how the loss rises when each dimension alone is narrowed.

    Example:
      edgeprune sensitivity best.pt --data data.yaml --ratios 0.5 --plot loss.png
    """
    from rich.console import Console
    from rich.progress import Progress as Bar

    from edgeprune.artifact import write_atomically
    from edgeprune.checkpoint import load
    from edgeprune.pruning.pruner import Pruner
    from edgeprune.pruning.sensitivity import sensitivity as measured

    try:
        shares = [float(one) for one in ratios.split(",")]
    except ValueError as error:
        raise TargetError(f"--ratios is a comma-separated list of numbers (seen: {ratios})") from error
    checkpoint = load(weights, trust=trust)
    size = imgsz or _trained_size(checkpoint.train_args)
    batches = _batches(data, checkpoint, size, images, batch, seed)
    pruner = Pruner(checkpoint.model, size, align=align, ignore=ignore or ())
    console = Console()
    with Bar(console=console, transient=True) as bar:
        task = bar.add_task("sensitivity", total=None)

        def progress(text: str, *, done: int = 0, total: int = 0) -> None:
            bar.update(task, description=text, completed=done, total=total or None)

        result = measured(pruner, batches, importance=importance, ratios=shares, progress=progress)
    console.print(sensitivity_table(result, shares))
    if output is not None:
        write_atomically(output, result.to_json())
    if plot is not None:
        result.save_plot(plot)


def register(app: typer.Typer) -> None:
    """Mount both commands on the main application."""
    app.command()(prune)
    app.command()(sensitivity)


def plan_table(plan: Plan, savings: Mapping[str, tuple[int, int]]) -> Any:
    """Every dimension: width before and after, the share that goes, what that alone saves, and why it was left alone.

    Args:
        savings: multiply-accumulates and parameters by dimension.
    """
    from rich.table import Table

    table = Table(title=_summary(plan))
    table.add_column("dimension")
    table.add_column("width", justify="right")
    table.add_column("after", justify="right")
    table.add_column("removed", justify="right")
    table.add_column("MACs alone", justify="right")
    table.add_column("parameters alone", justify="right")
    table.add_column("left alone because")
    for name in plan.removed:
        table.add_row(name, "block", "-", "100%", "", "", "")
    for line in plan.dimensions:
        share = 1 - line.after / line.before
        removed = f"{share:.0%}" if share else ""
        saved = [f"-{count / 1e6:.3f} M" for count in savings.get(line.name, ())] or ["", ""]
        why = "" if share else line.fixed or ""
        table.add_row(line.name, str(line.before), str(line.after), removed, *saved, why)
    return table


def sensitivity_table(result: Any, ratios: list[float]) -> Any:
    """Loss per image for each dimension and share, the most sensitive first."""
    from rich.table import Table

    table = Table(title=f"loss per image {result.whole_loss:.3f} with everything kept; channels by {result.importance}")
    table.add_column("dimension")
    for ratio in ratios:
        table.add_column(f"-{ratio:.0%}", justify="right")
    rows = sorted(result.by_dimension().items(), key=lambda row: -max(point.loss for point in row[1].values()))
    for name, points in rows:
        table.add_row(name, *(f"{points[ratio].loss:.3f}" if ratio in points else "" for ratio in ratios))
    return table


def _summary(plan: Plan) -> str:
    macs, params = plan.macs, plan.params
    return (
        f"MACs {macs[0] / 1e9:.3f} G -> {macs[1] / 1e9:.3f} G (x{plan.macs_speed_up:.2f}) at "
        f"{plan.settings['imgsz']} px, "
        f"parameters {params[0] / 1e6:.3f} M -> {params[1] / 1e6:.3f} M"
    )


def _trained_size(train_args: dict[str, Any]) -> int:
    size = train_args.get("imgsz")
    return size if isinstance(size, int) else 640


def _batches(data: str, checkpoint: Any, size: int, images: int, batch: int, seed: int) -> list[dict[str, Any]]:
    from edgeprune.pruning.batches import calibration_batches

    return calibration_batches(
        data, checkpoint.task, size, images=images, batch=batch, seed=seed, stride=checkpoint.stride
    )


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
