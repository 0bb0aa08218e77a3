"""``edgeprune bench``: how fast models are, side by side. Heavy imports stay inside."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeprune.cli.settings import option_of
from edgeprune.cli.sizes import Device, Trust, side_to_run, size_option
from edgeprune.cli.streams import BARS, has_bars, results_console, say
from edgeprune.input_size import both_sides
from edgeprune.options import output_file_or_stdout, without_none
from edgeprune.settings import LARGEST_COUNT, LAUNCHES, STABLE_RETRIES, Benching, Measuring, Sampling

if TYPE_CHECKING:
    from edgeprune.measure.bench import BenchResult

SPARKS = 40
PROFILES_OWN = "the profile's, or {}"
RETRIES = f"the profile's, or 0; where that is 0, {STABLE_RETRIES} with --until-stable"


def _known_runtime(name: str | None) -> str | None:
    if name is not None:
        from edgeprune.errors import TargetError
        from edgeprune.runtimes import NAMES

        if name not in NAMES:
            raise TargetError(f"--runtime {name} is unknown; allowed are {', '.join(NAMES)}")
    return name


RuntimeOption = Annotated[
    str | None,
    typer.Option(
        callback=_known_runtime,
        help="onnxruntime, onnxruntime-cuda, tensorrt, trtexec; doctor lists all; the profile's, or onnxruntime.",
    ),
]


Threads = Annotated[int | None, option_of(Sampling, "threads", without=PROFILES_OWN)]
WarmupS = Annotated[float | None, option_of(Sampling, "warmup_s", without=PROFILES_OWN)]
Rounds = Annotated[int | None, option_of(Sampling, "rounds", without=PROFILES_OWN)]


def bench(
    models: Annotated[list[Path], typer.Argument(help="Checkpoints, ONNX files or engines; ratios are of the first.")],
    target: Annotated[
        str | None, typer.Option(help="Profile that sets runtime, threads, export, size, batch, statistic, sampling.")
    ] = None,
    runtime: RuntimeOption = None,
    device: Device = None,
    vs: Annotated[Path | None, typer.Option(help="Model that every ratio is taken of; goes first.")] = None,
    max_ms: Annotated[float | None, typer.Option(help="Limit in ms; the exit code then tells the verdict.")] = None,
    statistic: Annotated[
        str | None, typer.Option(help="What the limit is on: p50, p90, p95, p99; the profile's, or p95.")
    ] = None,
    retries: Annotated[int | None, option_of(Measuring, "retries", without=RETRIES)] = None,
    until_stable: Annotated[
        bool, typer.Option("--until-stable", help="Also measure again while a run was disturbed (within --retries).")
    ] = False,
    threads: Threads = None,
    cpus: Annotated[
        str | None, typer.Option(help="Pin the process to these CPUs of the device, for example 2,3.")
    ] = None,
    imgsz: Annotated[
        Any, size_option("Input in pixels of checkpoints and free axes: a side, or HEIGHT,WIDTH; as for build.")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1, max=LARGEST_COUNT, help="Images per inference, where the model leaves it free; the profile's, or 1."
        ),
    ] = None,
    warmup_s: WarmupS = None,
    rounds: Rounds = None,
    per_round: Annotated[int | None, option_of(Sampling, "per_round", without=PROFILES_OWN)] = None,
    seconds: Annotated[float | None, option_of(Sampling, "time_limit_s", without=PROFILES_OWN)] = None,
    precision: Annotated[
        str,
        typer.Option(help="Number format to time: fp32 (as the file is), fp16; with --data int8, int8-fp16."),
    ] = "fp32",
    data: Annotated[
        str | None, typer.Option(help="Dataset that calibrates int8, and on which NMS inside a graph is timed.")
    ] = None,
    warmup_runs: Annotated[int | None, option_of(Benching, "warmup_runs")] = None,
    launches: Annotated[int | None, option_of(Benching, "launches", without=f"{LAUNCHES} if not given")] = None,
    no_priority: Annotated[
        bool, typer.Option("--no-priority", help="Do not go before other work on the machine, even where allowed.")
    ] = False,
    end_to_end: Annotated[
        bool, typer.Option("--end-to-end", help="Also time a detector from frame to boxes, its parts apart.")
    ] = False,
    image: Annotated[
        Path | None, typer.Option(help="Frame for --end-to-end; without, noise of 1280 x 720 pixels.")
    ] = None,
    trust: Trust = False,
    no_details: Annotated[bool, typer.Option("--no-details", help="Skip memory and layers.")] = False,
    json: Annotated[
        Path | None,
        typer.Option(callback=output_file_or_stdout, help="Write everything, raw samples too, to this file; - prints."),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(callback=output_file_or_stdout, help="Write the raw samples to this file; - prints.")
    ] = None,
) -> None:
    """Time models side by side: fresh process, pinned threads, interleaved rounds, bounds instead of hopes.

    Examples:
      edgeprune bench best.onnx model.onnx --rounds 40 --json times.json
      edgeprune bench model.onnx --target cpu --seconds 5 --retries 0 \\
        --max-ms 500   # exits 0, 1 or 5: the verdict
    """
    from edgeprune.measure.bench import bench as run
    from edgeprune.measure.bench import refuse_unheard, sampling_settings
    from edgeprune.serial import json_text
    from edgeprune.target import default_target, load_target

    profile = (load_target(target) if target else default_target()).with_overrides(device=device)
    stated = {
        "--threads": threads is not None,
        "--cpus": cpus is not None,
        "--launches": launches is not None,
        "--warmup-runs": warmup_runs is not None,
        "--no-priority": no_priority,
        "--end-to-end": end_to_end,
        "--image": image is not None,
    }
    refuse_unused(runtime or profile.runtime, [option for option, is_given in stated.items() if is_given])
    timed = [*([vs] if vs else []), *models]
    asked: dict[str, Any] = {
        "precision": precision,
        "data": data,
        "max_ms": max_ms,
        "statistic": statistic,
        "retries": retries,
        "until_stable": until_stable,
    }
    refuse_unheard(timed, profile, **asked)  # before a model is looked at
    given: dict[str, Any] = {
        "threads": threads,
        "batch": batch,
        "imgsz": None if imgsz is None else both_sides(imgsz),
        "warmup_s": warmup_s,
        "warmup_runs": warmup_runs,
        "launches": launches,
        "priority": False if no_priority else None,
        "rounds": rounds,
        "per_round": per_round,
        "time_limit_s": seconds,
        "cpus": None if cpus is None else _cpus(cpus, here=profile.device.host in ("", "local")),
    }
    settings = replace(sampling_settings(profile), **without_none(given))
    quiet = "-" in (str(json), str(csv))
    for model in timed:
        side_to_run(model, imgsz, profile, trust=trust)
    with Live(enabled=not quiet) as live:
        result = run(
            profile,
            timed,
            runtime=runtime,
            settings=settings,
            imgsz=imgsz,
            **asked,
            details=not no_details,
            image=image,
            end_to_end=end_to_end,
            trust=trust,
            progress=live.progress,
        )
    if not quiet:  # before the files: a disk may be full by now
        _print(result)
    write(json, json_text(result) + "\n")
    write(csv, result.to_csv())
    raise typer.Exit(result.exit_code)


def refuse_unused(runtime: str, options: Sequence[str]) -> None:
    """Refuse options that were given and that the runtime would not follow.

    Args:
        runtime: its name.
        options: with their dashes.

    Raises:
        TargetError: there is one.
    """
    from edgeprune.errors import TargetError
    from edgeprune.runtimes import runtime as runtime_named

    unused = runtime_named(runtime).unused_options
    if seen := [option for option in options if option in unused]:
        words = "them; leave them out" if len(seen) > 1 else "it; leave it out"
        raise TargetError(f"{', '.join(seen)}: the runtime {runtime} does not use {words}")


def _cpus(text: str, *, here: bool) -> tuple[int, ...]:
    """Numbers of CPUs. Those of another machine are checked there, by the process that is pinned."""
    from edgeprune.agent.system import allowed_cpus
    from edgeprune.errors import TargetError

    allowed = allowed_cpus()
    try:
        cpus = tuple(int(part) for part in text.split(","))
    except ValueError:
        cpus = ()
    if not cpus or min(cpus) < 0 or (here and not set(cpus) <= allowed):
        listed = f"numbers out of {','.join(map(str, sorted(allowed)))}" if here else "the device's numbers, as 2,3"
        raise TargetError(f"--cpus {text}: give {listed}")
    return cpus


def write(path: Path | None, text: str) -> None:
    """A file written whole; ``-`` prints, None does nothing."""
    if path is None:
        return
    if str(path) == "-":
        say(text.removesuffix("\n"))
        return
    from edgeprune.artifact import not_written, write_atomically

    try:
        write_atomically(path, text)
    except OSError as error:
        raise not_written(path, error, "give another path") from error


def _print(result: BenchResult) -> None:
    from rich.markup import escape

    from edgeprune.cli.console import print_sentence, print_table
    from edgeprune.report.bench import bench_table, bench_title, end_to_end_text, slowest_layers_table

    console = results_console()
    # across, it fits a narrow terminal too
    print_table(bench_table(result).transposed(), bench_title(result), models_across=True)
    for name, model in zip(result.names, result.models, strict=True):
        if model.layers:
            print_table(slowest_layers_table(model), f"slowest layers of {name}")
        if model.end_to_end:
            print_sentence(console, f"{escape(name)}: {end_to_end_text(model.end_to_end)}")
    host = result.models[0].latency.conditions.host
    if host is not None:
        load = ", ".join(f"{value:g}" for value in host.load_average)
        print_sentence(console, f"[dim]{escape(host.cpu)}, governor {host.governor}, load average {load}[/]")
    for line in result.notes:
        print_sentence(console, f"[yellow]{escape(line)}[/]")
    for name, model in zip(result.names, result.models, strict=True):
        if model.gate is not None:
            gate = model.gate
            print_sentence(console, f"[bold]{gate.verdict.value}[/] {escape(name)}: {escape(gate.reason)}")


def sparkline(values: list[float]) -> str:
    """Values as bars from the least to the greatest; the latest are kept."""
    kept = values[-SPARKS:]
    if not kept:
        return ""
    low, high = min(kept), max(kept)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in kept)


class Live:
    """A bar with the latest medians and a sparkline of the first model; a line now and then without a screen."""

    def __init__(self, enabled: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        from edgeprune.cli.console import ProgressLines

        console = Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not (enabled and has_bars(console)),
        )
        self._lines = ProgressLines(sys.stderr) if enabled and not has_bars(console) else None
        self._task = self._bar.add_task("starting", total=None)
        self._first_ms: list[float] = []

    def __enter__(self) -> Live:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if self._lines is not None:
            self._lines.stop()

    def progress(self, text: str, *, done: int = 0, total: int = 0, latest_ms: Sequence[float] = ()) -> None:
        if self._lines is not None:
            self._lines.update(text, done=done, total=total)
            return
        self._first_ms += latest_ms[:1]
        from rich.markup import escape

        self._bar.update(
            self._task, description=f"{escape(text)} {sparkline(self._first_ms)}", completed=done, total=total or None
        )
