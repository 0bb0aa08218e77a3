"""``edgeprune profile``, ``search``, ``sweep`` and ``frontier``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgeprune.cli.sizes import Device, Trust, seed_option, size_option
from edgeprune.cli.streams import say
from edgeprune.options import OUT, output_checkpoint, output_figure, output_folder, output_json

Weights = Annotated[str, typer.Argument(help="Checkpoint (.pt).")]
TargetName = Annotated[str, typer.Option(help="Name of a shipped profile, or path of a .yaml.")]
Data = Annotated[str | None, typer.Option(help="Dataset YAML; its training split ranks channels by the loss.")]
Images = Annotated[str | None, typer.Option(help="Dataset YAML; needed to calibrate INT8 and to time frames.")]
ImgSz = Annotated[
    Any, size_option("Input in pixels: a side, or HEIGHT,WIDTH; the profile's, or what the weights were trained at.")
]
Cache = Annotated[
    Path, typer.Option(callback=output_folder, help="Folder of measured layer times, one file a device and model.")
]
Seed = Annotated[int, seed_option("Seed of everything drawn.")]
LatencyBudgets = Annotated[str | None, typer.Option(help="Budgets in ms, comma-separated.")]
RatioBudgets = Annotated[str | None, typer.Option(help="Budgets as measured latency ratios, comma-separated.")]
Jobs = Annotated[str, typer.Option(help="here: one by one; ray: on a Ray cluster.")]
PROFILES = Path("runs/profiles")


def profile(
    weights: Weights,
    target: TargetName,
    data: Images = None,
    device: Device = None,
    imgsz: ImgSz = None,
    cache: Cache = PROFILES,
    plot: Annotated[
        Path | None, typer.Option(callback=output_figure, help="Write the figure (.svg, or .html with the table).")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Layers to list, the slowest first.")] = 20,
    seed: Seed = 0,
    trust: Trust = False,
) -> None:
    """Measure where a model's milliseconds are on a target, and what narrower layers would take.

    Example:
      edgeprune profile best.pt --target cpu --imgsz 128 --plot layers.html
    """
    from edgeprune.cli.console import ConsoleReporter, print_table
    from edgeprune.report.layer_profile import layer_costs_page, layer_costs_plot, layer_costs_table, layer_costs_text
    from edgeprune.search.run import profile as measured

    with ConsoleReporter() as reporter:
        found = measured(
            target, weights, data, device=device, imgsz=imgsz, cache=cache, seed=seed, trust=trust, progress=reporter
        )
    costs = found.costs()
    print_table(layer_costs_table(costs).first(rows), layer_costs_text(costs))
    if plot is not None:
        from edgeprune.artifact import write_atomically

        page = plot.suffix == ".html"
        write_atomically(plot, layer_costs_page(costs) if page else layer_costs_plot(costs).svg_file())
        say(f"figure: {plot}")


def search(
    weights: Weights,
    target: TargetName,
    output: Annotated[
        Path,
        typer.Option(*OUT, callback=output_checkpoint, help="Pruned checkpoint (.pt); its plan goes beside it."),
    ],
    speed_up: Annotated[float | None, typer.Option(help="Budget: measured latency ratio.")] = None,
    latency_ms: Annotated[float | None, typer.Option(help="Budget: latency in ms on the target.")] = None,
    data: Data = None,
    device: Device = None,
    imgsz: ImgSz = None,
    save_plan: Annotated[Path | None, typer.Option(callback=output_json, help="Where the plan goes (.json).")] = None,
    cache: Cache = PROFILES,
    seed: Seed = 0,
    trust: Trust = False,
) -> None:
    """Find the pruning that gives up least within a latency budget, by a few measurements on the target.

    Example:
      edgeprune search best.pt --target cpu --imgsz 128 --speed-up 1.2 \\
        --data data.yaml -o faster.pt   # exits 0, 1 or 5: the verdict
    """
    from edgeprune.cli.console import ConsoleReporter
    from edgeprune.report.text import number_text
    from edgeprune.samples.gates import Verdict
    from edgeprune.search.inputs import refuse_unused_data
    from edgeprune.search.run import search as run
    from edgeprune.target import load_target

    refuse_unused_data(load_target(target), data, ranks=True)
    with ConsoleReporter() as reporter:
        found = run(
            target,
            weights,
            data,
            output=output,
            speed_up=speed_up,
            latency_ms=latency_ms,
            device=device,
            imgsz=imgsz,
            plan_file=save_plan,
            cache=cache,
            seed=seed,
            trust=trust,
            progress=reporter,
        )
    macs, params, gate = found.plan.macs, found.plan.params, found.gate
    if not found.probes:
        found_so = "is" if gate.verdict is Verdict.PASS else "may be"
        say(f"nothing was pruned: the unpruned model {found_so} within the budget; the plan keeps every channel")
    say(
        f"latency ×{found.speed_up:.3f}, MACs ×{found.plan.macs_speed_up:.2f} ({macs[0] / 1e9:.3f} G -> "
        f"{macs[1] / 1e9:.3f} G), parameters {params[0] / 1e6:.3f} M -> {params[1] / 1e6:.3f} M, channels by "
        f"{found.importance}"
    )
    if found.plan.removed:
        say(f"blocks dropped: {', '.join(found.plan.removed)}")
    say(f"checkpoint: {found.checkpoint}\nplan: {found.plan_file}")
    say(f"{gate.verdict.value}: {gate.metric} {number_text(gate.value, gate.unit)}, {gate.reason}")
    raise typer.Exit(gate.verdict.exit_code)


def sweep(
    weights: Weights,
    target: TargetName,
    data: Annotated[str, typer.Option(help="Dataset YAML: importance, fine-tuning and accuracy.")],
    latency_ms: LatencyBudgets = None,
    speed_up: RatioBudgets = None,
    unpruned: Annotated[
        list[Path] | None, typer.Option(help="Checkpoint of another scale, for the same axes; repeatable.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Fine-tune epochs of every point; 0 for none.")] = None,
    device: Device = None,
    imgsz: ImgSz = None,
    out: Annotated[
        Path,
        typer.Option(
            *OUT, callback=output_folder, help="Folder for checkpoints, table, figure; goes on where it stopped."
        ),
    ] = Path("runs/sweep"),
    jobs: Jobs = "here",
    seed: Seed = 0,
    trust: Trust = False,
) -> None:
    """Accuracy against latency: prune, fine-tune and measure a model for several budgets.

    Example:
      edgeprune sweep best.pt --target cpu --imgsz 128 --speed-up 1.1,1.2 \\
        --data data.yaml --epochs 1 --out swept   # exits 0, 1 or 5: the worst verdict
    """
    from edgeprune.cli.console import ConsoleReporter, print_table
    from edgeprune.records.sweep import worst_exit_code
    from edgeprune.report.sweep import sweep_table
    from edgeprune.sweep.run import sweep as run

    with ConsoleReporter() as reporter:
        found = run(
            target,
            weights,
            data,
            out=out,
            budgets=_budgets(latency_ms, speed_up),
            unpruned=unpruned or (),
            epochs=epochs,
            device=device,
            imgsz=imgsz,
            jobs=jobs,
            seed=seed,
            trust=trust,
            progress=reporter,
        )
    print_table(sweep_table(found, reasons=False))
    points = (*found.unpruned, *found.points)
    for point in points:  # a reason in a column would be a word wide
        if doubt := point.shortcoming or point.moved:
            say(f"{point.name}: {doubt}")
    say(f"table: {out / 'sweep.md'}\nfigure: {out / 'sweep.html'}")
    raise typer.Exit(worst_exit_code(point.exit_code for point in points))


def frontier(
    weights: Weights,
    target: TargetName,
    data: Annotated[str, typer.Option(help="Dataset YAML: calibration, importance, training and accuracy.")],
    latency_ms: LatencyBudgets = None,
    speed_up: RatioBudgets = None,
    also: Annotated[
        list[Path] | None, typer.Option(help="Checkpoint of another scale that is at hand; repeatable.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of every row that is trained; 0 for none.")] = None,
    device: Device = None,
    imgsz: ImgSz = None,
    out: Annotated[
        Path,
        typer.Option(*OUT, callback=output_folder, help="Folder for rows, table, figure; goes on where it stopped."),
    ] = Path("runs/frontier"),
    jobs: Jobs = "here",
    seed: Seed = 0,
    trust: Trust = False,
) -> None:
    """Measure every lever for a budget: number format, input size, pruning, another checkpoint; recommend one.

    Exits 1 where nothing that was measured meets a budget for the accuracy that may be lost, 5 where that is not sure.

    Example:
      edgeprune frontier best.pt --target cpu --imgsz 96 --latency-ms 50 \\
        --data data.yaml --epochs 0 --out levers   # exits 0, 1 or 5: the worst of the budgets
    """
    from edgeprune.cli.console import ConsoleReporter, print_table
    from edgeprune.frontier.run import frontier as run
    from edgeprune.report.frontier import how_to_build, left_out_lines, measured_table

    budgets = _budgets(latency_ms, speed_up)
    with ConsoleReporter() as reporter:
        found = run(
            target,
            weights,
            data,
            out=out,
            kind="speed_up" if latency_ms is None else "latency_ms",
            budgets=[value for _, value in budgets],
            also=also or (),
            epochs=epochs,
            device=device,
            imgsz=imgsz,
            jobs=jobs,
            seed=seed,
            trust=trust,
            progress=reporter,
        )
    print_table(measured_table(found))
    for line in left_out_lines(found):
        say(line)
    for one in found.recommendations:
        say(one.sentence)
        if one.row is not None:
            say("  " + how_to_build(found, one).replace("\n", "\n  "))
    say(f"table: {out / 'frontier.md'}\nfigure: {out / 'frontier.html'}")
    raise typer.Exit(found.exit_code)


def register(app: typer.Typer) -> None:
    """Mount the commands on the main application."""
    app.command()(profile)
    app.command()(search)
    app.command()(sweep)
    app.command()(frontier)


def _budgets(latency_ms: str | None, speed_up: str | None) -> list[tuple[str, float]]:
    """(kind, value) of every budget asked for."""
    from edgeprune.errors import TargetError

    if (latency_ms is None) == (speed_up is None):
        raise TargetError("give either --latency-ms or --speed-up, as numbers with commas between: --speed-up 1.5,2,3")
    kind, text = ("latency_ms", latency_ms) if latency_ms is not None else ("speed_up", speed_up or "")
    try:
        return [(kind, float(one)) for one in (text or "").split(",")]
    except ValueError:
        flag = "--" + kind.replace("_", "-")
        raise TargetError(f"{flag} {text}: numbers with commas between are allowed, for example 1.5,2,3") from None
