"""``edgeprune compare``: models side by side, in figures and on the same images. Heavy imports stay inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgeprune.cli.bench import Live, replaced, settings_of, write


def compare(
    models: Annotated[list[Path], typer.Argument(help="Checkpoints, ONNX files or engines; the first is the base.")],
    data: Annotated[str, typer.Option(help="Dataset that the models were trained on: a YAML, or class folders.")],
    target: Annotated[
        str | None, typer.Option(help="Profile that sets runtime, threads, size, statistic, sampling.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for compare.html and its data.")] = None,
    images: Annotated[int, typer.Option(min=0, help="Images to show side by side.")] = 6,
    imgsz: Annotated[int | None, typer.Option(help="Side in pixels of what has to be exported.")] = None,
    statistic: Annotated[str | None, typer.Option(help="Latency in the table: p50, p90, p95 or p99.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the runtime; 0 leaves the choice to it.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Interleaved rounds of latency.")] = None,
    warmup_s: Annotated[float | None, typer.Option(help="Least warm-up for each model in seconds.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice of images.")] = 0,
    json: Annotated[
        Path | None, typer.Option(help="Write everything, raw samples too, to this file; - prints only that.")
    ] = None,
) -> None:
    """Compare models of one task and the same classes: size, MACs, latency, accuracy by class, and the same images.

    Latency is interleaved in one process, with the interval of the ratio. The page is one file without a network.

    Example:
      edgeprune compare best.onnx model.onnx --data data.yaml -o comparison
    """
    from edgeprune.errors import TargetError
    from edgeprune.measure.compare import compare as run
    from edgeprune.runtimes.site import placed
    from edgeprune.samples.statistics import quantile_of

    name, settings, profile = settings_of(target)
    given: dict[str, Any] = {"threads": threads, "rounds": rounds, "warmup_s": warmup_s}
    chosen = statistic or profile.get("statistic", "p50")
    try:
        quantile_of(chosen)
    except ValueError as error:
        raise TargetError(f"--statistic: {error}") from None
    if output is not None and output.exists() and not output.is_dir():
        raise TargetError(f"--output {output}: is a file; give the path of a folder")
    with placed(profile.get("profile"), name) as (runs_on, _), Live(enabled=str(json) != "-") as live:
        result = run(
            models,
            data,
            runtime=runs_on,
            settings=replaced(settings, {key: value for key, value in given.items() if value is not None}),
            statistic=chosen,
            split=split,
            imgsz=imgsz or profile.get("imgsz"),
            images=images,
            seed=seed,
            progress=live.progress,
        )
    write(json, result.json_text())
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        write(output / "compare.html", result.html())
        write(output / "compare.json", result.json_text())
    if str(json) == "-":
        return
    _print(result.columns, result.rows())
    _print(("class", *result.columns[1:]), result.classes())
    for scene in result.scenes:
        lost = ", ".join(f"{one.name} {len(one.lost)} lost, {one.same.count(False)} new" for one in scene.seen[1:])
        typer.echo(f"{scene.image}: {lost}")
    if result.pending:
        typer.echo(f"latency was not measured: {result.pending}")
    if output is not None:
        typer.echo(f"page: {output / 'compare.html'}")


def _print(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_edge=False)
    for column in columns:
        table.add_column(escape(column), justify="right" if column != columns[0] else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console(highlight=False).print(table)
