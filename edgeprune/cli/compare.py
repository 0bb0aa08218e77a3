"""``edgeprune compare``: models side by side, in figures and on the same images. Heavy imports stay inside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeprune.cli.bench import Live, Rounds, Threads, WarmupS, refuse_unused, write
from edgeprune.cli.sizes import Device, Trust, seed_option, side_to_run, size_option
from edgeprune.cli.streams import say
from edgeprune.options import OUT, command_line, output_file_or_stdout, output_folder, without_none

if TYPE_CHECKING:
    from edgeprune.measure.compare import Comparison


def compare(
    models: Annotated[list[Path], typer.Argument(help="Checkpoints or ONNX files; the first is the base.")],
    data: Annotated[str, typer.Option(help="Dataset that the models were trained on: a YAML, or class folders.")],
    target: Annotated[
        str | None, typer.Option(help="Profile that sets runtime, threads, export, size, batch, statistic, sampling.")
    ] = None,
    device: Device = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    output: Annotated[
        Path | None,
        typer.Option(*OUT, callback=output_folder, help="Folder for compare.html and its data."),
    ] = None,
    images: Annotated[int, typer.Option(min=0, help="Images to show side by side.")] = 6,
    imgsz: Annotated[Any, size_option("Size in pixels of what has to be exported: a side, or HEIGHT,WIDTH.")] = None,
    statistic: Annotated[
        str | None, typer.Option(help="Latency in the table: p50, p90, p95 or p99; the profile's, or p50.")
    ] = None,
    threads: Threads = None,
    rounds: Rounds = None,
    warmup_s: WarmupS = None,
    seed: Annotated[int, seed_option("Seed of the choice of images.")] = 0,
    trust: Trust = False,
    json: Annotated[
        Path | None,
        typer.Option(
            callback=output_file_or_stdout, help="Write everything, raw samples too, to this file; - prints only that."
        ),
    ] = None,
) -> None:
    """Compare models of one task and the same classes: size, MACs, latency, accuracy by class, and the same images.

    Latency is timed in turns, with the interval of the ratio. The page is one file without a network.

    Example:
      edgeprune compare best.onnx model.onnx --data data.yaml -o comparison
    """
    from edgeprune.errors import TargetError
    from edgeprune.measure.bench import check_statistic, sampling_settings
    from edgeprune.measure.compare import compare as run
    from edgeprune.report.comparison import comparison_page
    from edgeprune.runtimes.site import open_site
    from edgeprune.target import default_target, load_target

    profile = (load_target(target) if target else default_target()).with_overrides(device=device)
    refuse_unused(profile.runtime, ["--threads"] if threads is not None else [])
    given: dict[str, Any] = {"threads": threads, "rounds": rounds, "warmup_s": warmup_s}
    settings = replace(sampling_settings(profile), **without_none(given))
    chosen = statistic or (profile.budget.statistic if target else "p50")
    check_statistic(chosen)
    if json is not None and output is not None and json.resolve() == (output / "compare.html").resolve():
        raise TargetError(f"--json {json}: the page of --output goes there; give it a place of its own")
    sides = [side_to_run(model, imgsz, profile, trust=trust) for model in models]
    side = next((one for one in sides if one is not None), None)  # of what is exported: no graph is
    asked = {
        "data": data,
        "target": target,
        "device": device,
        "split": split,
        "output": output,
        "images": images,
        "imgsz": imgsz,
        "statistic": statistic,
        "threads": threads,
        "rounds": rounds,
        "warmup_s": warmup_s,
        "seed": seed,
        "json": json,
    }
    with open_site(profile) as site, Live(enabled=str(json) != "-") as live:
        result = run(
            models,
            data,
            runtime=site.runtime,
            settings=settings,
            target=site.target,
            statistic=chosen,
            split=split,
            imgsz=side,
            images=images,
            seed=seed,
            trust=trust,
            progress=live.progress,
        )
    result = replace(result, command=tuple(command_line("compare", models, asked, trust)))
    if str(json) != "-":  # before the files: a disk may be full by now
        _print(result)
    write(json, result.json_text())
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        write(output / "compare.html", comparison_page(result))
        write(output / "compare.json", result.json_text())
        if str(json) != "-":
            say(f"page: {output / 'compare.html'}")


def _print(result: Comparison) -> None:
    from edgeprune.cli.console import print_table
    from edgeprune.report.comparison import classes_table, models_table
    from edgeprune.report.scenes import differences_text

    judged = f"accuracy of {result.models[0].accuracy.images} images of split {result.split}"
    print_table(models_table(result), judged, models_across=True)
    print_table(classes_table(result), models_across=True)
    for scene in result.scenes:
        say(f"{scene.image}: {'; '.join(f'{one.name} {differences_text(one)}' for one in scene.results[1:])}")
    if result.scenes:
        first = result.models[0].name
        say(f"lost: right in {first} and not found; gone: wrong there and not found; new: not found there")
    if result.pending:
        say(f"latency was not measured: {result.pending}")
    for line in result.notes:
        say(line)
