"""``edgeprune bench``: how fast models are, side by side. Heavy imports stay inside."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edgeprune.devices.local import LocalDevice
    from edgeprune.devices.remote import RemoteDevice
    from edgeprune.measure.bench import BenchResult
    from edgeprune.runtimes.base import BenchSettings
    from edgeprune.target import Device as Board

BARS = "▁▂▃▄▅▆▇█"
SPARKS = 40
LAUNCHES = 3
UNTIL_STABLE = 4  # attempts beyond the first when --until-stable comes without --retries


def bench(
    models: Annotated[list[Path], typer.Argument(help="Checkpoints, ONNX files or engines; ratios are of the first.")],
    target: Annotated[
        str | None, typer.Option(help="Profile that sets runtime, threads, size, batch, statistic, sampling.")
    ] = None,
    runtime: Annotated[str | None, typer.Option(help="Runtime instead of the profile's; onnxruntime.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Where to run: user@host[:port]; the profile's, or this machine.")
    ] = None,
    vs: Annotated[Path | None, typer.Option(help="Model that every ratio is taken of; goes first.")] = None,
    max_ms: Annotated[float | None, typer.Option(help="Limit in ms; the exit code then tells the verdict.")] = None,
    statistic: Annotated[
        str | None, typer.Option(help="What the limit is on: p50, p90, p95, p99; the profile's, or p95.")
    ] = None,
    retries: Annotated[
        int | None, typer.Option(help="Measure an inconclusive limit again this often, twice as long each time.")
    ] = None,
    until_stable: Annotated[
        bool, typer.Option("--until-stable", help="Also measure again while a run was unsteady (within --retries).")
    ] = False,
    threads: Annotated[int | None, typer.Option(help="Threads of the runtime; 0 leaves the choice to it.")] = None,
    cpus: Annotated[str | None, typer.Option(help="Pin the process to these CPUs, for example 2,3.")] = None,
    imgsz: Annotated[int | None, typer.Option(help="Input side in pixels, where the model leaves it free.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images per inference, where the model leaves it free.")] = None,
    warmup_s: Annotated[float | None, typer.Option(help="Least warm-up for each model in seconds.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Interleaved rounds.")] = None,
    per_round: Annotated[int | None, typer.Option(help="Samples of each model in a round.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Longest run in seconds; whole rounds until then.")] = None,
    precision: Annotated[
        str, typer.Option(help="Number format to time: fp32 (as the file is), fp16 or int8 (needs --data).")
    ] = "fp32",
    data: Annotated[str | None, typer.Option(help="Dataset that calibrates int8.")] = None,
    warmup_runs: Annotated[int | None, typer.Option(help="Least warm-up for each model in runs.")] = None,
    launches: Annotated[int | None, typer.Option(help="Fresh processes that the rounds are divided among; 3.")] = None,
    no_priority: Annotated[
        bool, typer.Option("--no-priority", help="Do not go before other work on the machine, even where allowed.")
    ] = False,
    end_to_end: Annotated[
        bool, typer.Option("--end-to-end", help="Also time a detector from frame to boxes, its parts apart.")
    ] = False,
    image: Annotated[
        Path | None, typer.Option(help="Frame for --end-to-end; without, noise of 1280 x 720 pixels.")
    ] = None,
    no_details: Annotated[bool, typer.Option("--no-details", help="Skip memory and layers.")] = False,
    json: Annotated[
        Path | None, typer.Option(help="Write everything, raw samples too, to this file; - prints.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the raw samples to this file; - prints.")] = None,
) -> None:
    """Time models side by side: fresh process, pinned threads, interleaved rounds, bounds instead of hopes.

    Examples:
      edgeprune bench best.onnx model.onnx --rounds 40 --json times.json
      edgeprune bench model.onnx --target cpu --seconds 5 --retries 0 \\
        --max-ms 500   # exits 0, 1 or 5: the verdict
    """
    from edgeprune.devices import device as device_named
    from edgeprune.measure.bench import bench as run
    from edgeprune.measure.graphs import in_precision
    from edgeprune.runtimes import runtime as runtime_of

    name, settings, profile = settings_of(target)
    place = device_named(device if device is not None else profile.get("host", ""), **profile.get("place", {}))
    given: dict[str, Any] = {
        "threads": threads,
        "batch": batch,
        "imgsz": None if imgsz is None else (imgsz, imgsz),
        "warmup_s": warmup_s,
        "warmup_runs": warmup_runs,
        "launches": launches,
        "priority": False if no_priority else None,
        "rounds": rounds,
        "per_round": per_round,
        "time_limit_s": seconds,
        "cpus": None if cpus is None else _cpus(cpus),
    }
    settings = replaced(settings, {key: value for key, value in given.items() if value is not None})
    quiet = "-" in (str(json), str(csv))
    named = [*([vs] if vs else []), *models]
    with place, Live(enabled=not quiet) as live, TemporaryDirectory(prefix="edgeprune-bench-") as folder:
        result = run(
            [
                in_precision(graph, Path(folder) / f"low-{number}", precision, data)
                for number, graph in enumerate(
                    _as_graphs(
                        named, Path(folder), imgsz or profile.get("imgsz"), batch or profile.get("batch", 1), live
                    )
                )
            ],
            runtime_of(runtime or name, _checked(place, profile.get("board") if runtime is None else None)),
            settings,
            max_ms=max_ms,
            statistic=statistic or profile.get("statistic", "p95"),
            retries=retries if retries is not None else profile.get("retries", UNTIL_STABLE if until_stable else 0),
            until_stable=until_stable,
            details=not no_details,
            image=image,
            end_to_end=end_to_end or image is not None,
            progress=live.progress,
        )
    write(json, _json_text(result))
    write(csv, result.to_csv())
    if not quiet:
        _print(result)
    raise typer.Exit(result.exit_code)


def settings_of(target: str | None) -> tuple[str, BenchSettings, dict[str, Any]]:
    """Runtime name, sampling and gate settings of a profile, or the defaults."""
    from edgeprune.runtimes.base import BenchSettings

    if target is None:
        return "onnxruntime", BenchSettings(launches=LAUNCHES), {}
    from edgeprune.target import load_target

    profile = load_target(target)
    measure = profile.measure
    # Size and batch of the profile are for free axes only: a file that fixes others is still worth timing.
    settings = BenchSettings(
        threads=measure.threads,
        warmup_s=measure.warmup_s,
        rounds=measure.rounds,
        per_round=measure.per_round,
        time_limit_s=measure.time_limit_s,
        copies=measure.copies,
        cuda_graph=measure.cuda_graph,
        launches=LAUNCHES,
    )
    asked = {"statistic": profile.budget.statistic, "retries": measure.retries}
    board = profile.device
    place = {"power_mode": board.power_mode or "", "clocks": board.lock_clocks, "python": board.python}
    sizes = {"imgsz": profile.imgsz, "batch": profile.batch}
    where = {"host": board.host, "place": place, "board": board, "profile": profile}
    return profile.runtime, settings, {**asked, **sizes, **where}


def _checked(place: LocalDevice | RemoteDevice, board: Board | None) -> LocalDevice | RemoteDevice:
    """The device, when it is the board that the profile is about; figures of another would carry its name."""
    from edgeprune.devices.board import mismatch
    from edgeprune.errors import DeviceError

    if board is not None and board.kind == "jetson" and (other := mismatch(board, place.facts())):
        raise DeviceError(f"{place.name}: {other}; next: edgeprune device probe {place.name}")
    return place


def _as_graphs(models: list[Path], folder: Path, imgsz: int | None, batch: int, live: Live) -> list[Path]:
    """The models as files that a runtime can time: a checkpoint is exported and simplified first, as a build does."""
    from edgeprune.measure.graphs import graph_of

    return [
        graph_of(model, folder / str(number), imgsz=imgsz, batch=batch, progress=live.progress)
        for number, model in enumerate(models, 1)
    ]


def replaced(settings: BenchSettings, given: dict[str, Any]) -> BenchSettings:
    """The settings with what was given on the command line, refused where it is too small."""
    from dataclasses import replace

    from edgeprune.errors import TargetError

    least = {
        "threads": 0,
        "batch": 1,
        "warmup_s": 0,
        "warmup_runs": 0,
        "launches": 1,
        "rounds": 1,
        "per_round": 1,
        "time_limit_s": 0,
    }
    for key, value in given.items():
        if key in least and not value >= least[key]:
            raise TargetError(f"--{key.replace('_', '-')} {value}: at least {least[key]} is needed")
    return replace(settings, **given)


def _cpus(text: str) -> tuple[int, ...]:
    import os

    from edgeprune.errors import TargetError

    allowed = os.sched_getaffinity(0)
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not set(found) <= allowed:
        raise TargetError(f"--cpus {text}: give numbers out of {','.join(map(str, sorted(allowed)))}")
    return found


def _json_text(result: BenchResult) -> str:
    import json

    return json.dumps(result.to_json(), indent=1, allow_nan=False) + "\n"


def write(path: Path | None, text: str) -> None:
    """A file written whole; ``-`` prints, None does nothing."""
    if path is None:
        return
    if str(path) == "-":
        typer.echo(text, nl=False)
        return
    from edgeprune.artifact import write_atomically
    from edgeprune.errors import TargetError

    try:
        write_atomically(path, text)
    except OSError as error:
        raise TargetError(f"{path}: cannot be written: {error.strerror}") from error


def _print(result: BenchResult) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from edgeprune.measure.bench import COLUMNS, end_to_end_text

    console = Console(highlight=False)
    rows = result.rows()
    simulated = "SIMULATED " if any(model.latency.simulated for model in result.models) else ""
    title = f"{simulated}latency in ms by {result.runtime}, bounds at 99 %"
    table = Table(show_edge=False, title=title, title_justify="left")
    table.add_column("")
    for row in rows:
        table.add_column(escape(row[0]), justify="right", overflow="fold")
    for number, name in enumerate(COLUMNS[1:], 1):  # models side by side: that also fits a narrow terminal
        table.add_row(name, *(escape(row[number]) for row in rows))
    console.print(table)
    for model in result.models:
        if model.layers:
            slowest = Table(show_edge=False, title=f"slowest layers of {model.model.name}", title_justify="left")
            for column in ("layer", "operation", "ms"):
                slowest.add_column(column, justify="right" if column == "ms" else "left", overflow="fold")
            for layer in model.layers:
                slowest.add_row(escape(layer.name), escape(layer.op), f"{layer.mean_ms:.3f}")
            console.print(slowest)
        if model.end_to_end:
            console.print(f"{escape(model.model.name)}: {end_to_end_text(model.end_to_end)}")
    host = result.models[0].latency.conditions.get("host", {})
    if host:
        load = ", ".join(f"{value:g}" for value in host["load_average"])
        console.print(f"[dim]{escape(host['cpu'])}, governor {host['governor']}, load average {load}[/]")
    for model in result.models:
        if model.latency.conditions.get("contended"):
            share = model.latency.conditions["cpu_share"]
            console.print(
                f"[yellow]{escape(model.model.name)} had {share:.0%} of a core: other work ran on this machine[/]"
            )
    for model in result.models:
        if model.gate is not None:
            gate = model.gate
            console.print(f"[bold]{gate.verdict.value}[/] {escape(model.model.name)}: {escape(gate.reason)}")


def sparkline(values: list[float]) -> str:
    """Values as bars from the least to the greatest; the latest are kept."""
    kept = values[-SPARKS:]
    if not kept:
        return ""
    low, high = min(kept), max(kept)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in kept)


class Live:
    """A bar with the latest medians and a sparkline of the first model; nothing on a stream that is not a screen."""

    def __init__(self, enabled: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not (enabled and console.is_terminal),
        )
        self._task = self._bar.add_task("starting", total=None)
        self._seen: list[float] = []

    def __enter__(self) -> Live:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def progress(self, text: str, *, done: int = 0, total: int = 0) -> None:
        if text.startswith("rounds: "):
            self._seen.append(float(text.removeprefix("rounds: ").split()[0]))
        from rich.markup import escape

        self._bar.update(
            self._task, description=f"{escape(text)} {sparkline(self._seen)}", completed=done, total=total or None
        )
