"""Every benchmark of this folder, in one run with a budget of hours; writes benchmarks/README.md.

    make bench HOURS=2 [WEIGHTS="a.pt b.pt"] [DATA=data.yaml] [ONLY="name name"] [OUT=benchmarks/.runs]
    python -m benchmarks.suite --readme        # the page anew from what is kept, no run

What fits into the hours runs, in the order of the registry below; what does not, or lacks something, is named with
the reason. What has a record of this commit, with these weights and data, is not run again (``--again`` does); code
that differs from its commit is run each time. Work goes to ``--out``: a benchmark that keeps its finished parts goes on
there after it was stopped or its time was over, and takes them at a later commit too; its record then says at which
commit they were begun, until its folder there is removed. Other weights or data have a folder of their own, and never
replace the runs that a JSON beside a page keeps: it is to be moved away first. The record of a run that ended well
(command, machine, versions, commit, seconds) goes beside the pages, into ``records/``.

Exit codes: 0 all that ran ended well, 1 one did not, 2 wrong options, 5 nothing was run.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import IO

from benchmarks.page import printed_part, publish, table
from edgeprune.agent.host import cpu_identity
from edgeprune.agent.system import end_group
from edgeprune.errors import EdgepruneError, first_line
from edgeprune.serial import read_json, read_json_data, write_json
from tests.devices.server import sshd_path

HERE = Path(__file__).resolve().parent
ROOT, RECORDS, README = HERE.parent, HERE / "records", HERE / "README.md"
PACKAGES = ("torch", "ultralytics", "torch-pruning", "onnx", "onnxruntime")
CODE = ("*.py", "edgeprune", "targets", "pyproject.toml")  # what figures come from
BEGUN, RECORD = "begun.txt", "record.json"  # in the folder of a benchmark's work
FROM = "from.txt"  # there: digest of the JSON beside the page as it was when the one of this work was begun
NAMELESS = ", of weights and data that it does not name"  # work that was begun before they were written down
STOPPED = 124  # exit code of a benchmark whose time was over, as timeout(1) gives it
NOT_IN_PLACE = 1  # of one that ended well, but whose page has changed meanwhile
ASKED_S = 30.0  # for one that is told to end: a build in it has programs on devices to end, and boards to put back
LEAST_LEFT_MIN = 5.0  # less is not worth starting a benchmark that would only be begun


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: a command, and the page that shows what it printed.

    Attributes:
        name: of the record, and of the part of the page.
        about: the question that its figures answer.
        argv: what follows ``python``; ``{data}``, ``{weights}`` (all of them), ``{first}`` (the first), ``{images}``,
            ``{work}``, ``{page}``, ``{made}``, ``{kept}`` and ``{checkouts}`` are filled in. ``{made}`` is a page in
            ``{work}``, for a script that writes as it goes: once it ended well its text goes into the page, and the
            JSON and SVG of its name beside that. ``{kept}`` is the JSON beside the page, for a script that goes on
            with it.
        page: file in benchmarks/.
        minutes: on two cores, roughly; how the hours are filled.
        spread: what stands for the spread on the page.
        goes_on: it keeps finished parts in ``{work}`` and goes on there.
        takes: it counts runs of ``{kept}`` that are of the same as finished.
        needs: besides data and weights, which ``argv`` tells: ``gpu``, ``parser``, ``sshd``, ``checkouts`` or nothing.
        typed: what of the page people wrote or copied from what was printed; empty when a script prints every figure.
    """

    name: str
    about: str
    argv: str
    page: str
    minutes: float
    spread: str
    goes_on: bool = False
    takes: bool = False
    needs: frozenset[str] = frozenset()
    typed: str = ""


REGISTRY = (
    Benchmark(
        "gate-calibration",
        "how often a latency gate is wrong, by simulation",
        "-m benchmarks.gate_calibration --runs 2000",
        "gate_calibration.md",
        6,
        "2000 runs a row, standard error given",
    ),
    Benchmark(
        "accuracy-gate",
        "how often the accuracy gate is wrong, by simulation",
        "-m benchmarks.accuracy_gate --runs 200 --page {page}",
        "accuracy_gate.md",
        10,
        "200 datasets a row",
    ),
    Benchmark(
        "pruning-speed",
        "seconds and memory of pruning",
        "-m benchmarks.pruning_speed --imgsz 320 --data {data} --out {page}",
        "pruning_speed.md",
        5,
        "one process a row",
    ),
    Benchmark(
        "pruning-growth",
        "how the cost of pruning grows, n to x",
        "-m benchmarks.pruning_growth --imgsz 320 --out {made}",
        "pruning_growth.md",
        5,
        "the least of two runs",
        goes_on=True,
    ),
    Benchmark(
        "search-budgets",
        "whether the search hits its budget",
        "-m benchmarks.search_budgets --data {data} --cache {work}/profiles --from {kept} --out {made} {weights}",
        "search_budgets.md",
        12,
        "95 % interval of every ratio",
        goes_on=True,
    ),
    Benchmark(
        "pruning-criteria",
        "mAP right after pruning, by criterion",
        "-m benchmarks.pruning_criteria --data {data} --imgsz 320 --out {made} {weights}",
        "pruning_criteria.md",
        40,
        "one seed",
    ),
    Benchmark(
        "export-parity 640",
        "how far ONNX is from PyTorch, pruned, 640 px",
        "-m benchmarks.export_parity {images} --imgsz 640 --page {page}",
        "export_parity.md",
        15,
        "the largest difference of four images",
    ),
    Benchmark(
        "export-parity 320",
        "how far ONNX is from PyTorch, pruned, 320 px",
        "-m benchmarks.export_parity {images} --imgsz 320 --page {page}",
        "export_parity.md",
        8,
        "the largest difference of four images",
    ),
    Benchmark(
        "parser-acceptance",
        "what NVIDIA's parser takes",
        "-m benchmarks.parser_acceptance --page {page}",
        "parser_acceptance.md",
        25,
        "none: taken or refused",
        needs=frozenset({"parser"}),
    ),
    Benchmark(
        "example-build",
        "the build that the README shows",
        "-m benchmarks.example_build --weights {first} --data {data} --work {work} --out {page}",
        "example_build.md",
        12,
        "bounds of every gate; one seed",
        goes_on=True,
    ),
    Benchmark(
        "export-precision",
        "accuracy and latency of number formats",
        "-m benchmarks.export_precision {data} {weights} --work {work} --page {page}",
        "export_precision.md",
        30,
        "95 % interval of every ratio",
    ),
    Benchmark(
        "export-mixed",
        "layers that go back to float when INT8 loses too much",
        "-m benchmarks.export_mixed {data} {weights} --work {work} --page {page}",
        "export_mixed.md",
        30,
        "one calibration",
        typed="the page leaves out a column and YOLO11's first case",
    ),
    Benchmark(
        "peers-int8",
        "INT8 for a CPU by ONNX Runtime's own defaults, NNCF and this project",
        "-m benchmarks.peers_int8 {data} {weights} --work {work} --page {page}",
        "peers_int8.md",
        15,
        "95 % interval of every ratio and of every loss",
        goes_on=True,
    ),
    Benchmark(
        "references",
        "five usual ways to prune, beside the search at their latencies",
        "-m benchmarks.references --data {data} --weights {first} --kept {work} --out {made}",
        "references.md",
        240,
        "95 % interval over images or seeds, said on the page",
        goes_on=True,
        typed="what follows from its table, which a run replaces",
    ),
    Benchmark(
        "peers",
        "pruners of other people from their own code, beside the search at their latencies",
        "-m benchmarks.peers --data {data} --weights {first} --checkouts {checkouts} --work {work} --out {made}",
        "peers.md",
        240,
        "95 % interval over images or seeds, and of every ratio",
        goes_on=True,
        needs=frozenset({"checkouts"}),
        typed="what follows from its table, which a run replaces",
    ),
    Benchmark(
        "equal-latency",
        "accuracy at equal measured latency, by two recipes",
        "-m benchmarks.equal_latency --weights {first} --data {data} --recipe ultralytics edgeprune --work {work} "
        "--from {kept} --out {made}",
        "equal_latency.md",
        900,
        "95 % interval over the seeds, lowest and highest",
        goes_on=True,
    ),
    Benchmark(
        "recipes",
        "teacher, schedule, importance and learning rate at equal total epochs and latency",
        "-m benchmarks.recipes --weights {first} --data {data} --work {work} --from {kept} --out {made}",
        "recipes.md",
        180,
        "95 % interval over three seeds, and of every ratio",
        goes_on=True,
        takes=True,
    ),
    Benchmark(
        "training-distillation",
        "what a teacher brings",
        "-m benchmarks.training_distillation --weights {first} --data {data} --imgsz 320 --macs-speed-up 4 "
        "--epochs 20 --out {work} --page {page}",
        "training_distillation.md",
        150,
        "three seeds, each one shown",
        goes_on=True,
        typed="the tables by epoch and of features",
    ),
    Benchmark(
        "training-sparsity",
        "scales after sparsity training against L1 without",
        "-m benchmarks.training_sparsity --weights {first} --data {data} --imgsz 320 --out {work} --page {page}",
        "training_sparsity.md",
        90,
        "one seed",
        goes_on=True,
        typed="all tables but the part at the end, from what the script printed",
    ),
    Benchmark(
        "training-schedule",
        "one shot or in rounds",
        "-m benchmarks.training_schedule --weights {first} --data {data} --imgsz 320 --out {work} --page {page}",
        "training_schedule.md",
        90,
        "one seed",
        goes_on=True,
    ),
    Benchmark(
        "search-disturbed",
        "what a search accepts while other work disturbs it",
        "-m benchmarks.search_disturbed {weights} --data {data} --cache {work} --out {made}",
        "search_disturbed.md",
        40,
        "the median of 100 rounds of a bare loop",
        typed="all but the part at the end: two runs, and the words around their tables",
    ),
    Benchmark(
        "frontier",
        "every lever for a budget, and whether the recommended row is the best",
        "-m benchmarks.frontier {weights} --data {data} --everything --work {work} --from {kept} --out {made}",
        "frontier.md",
        1100,
        "95 % interval over three seeds, and of every ratio",
        goes_on=True,
        takes=True,
    ),
    Benchmark(
        "demo-ten-times",
        "whether the demo always ends well",
        "-m benchmarks.demo_ten_times --out {made}",
        "demo_ten_times.md",
        150,
        "ten runs, each one shown",
        typed="all but the part at the end: a table that joins three runs, and the words above it",
    ),
    Benchmark(
        "ssh-turns",
        "what taking turns over SSH costs beside the programs' own time",
        "-m benchmarks.ssh_turns --rounds 24 --times 3 --page {page}",
        "ssh_turns.md",
        5,
        "three times, each shown",
        needs=frozenset({"sshd"}),
        typed="the words around its table",
    ),
    Benchmark(
        "robustness",
        "situations, hostile inputs, kills, long runs",
        "-m benchmarks.robustness --inputs 520 --cells 700 --slow 16 --minutes 45 --kills 30 --builds 200 --benches 50 "
        "--kept {work}",
        "robustness.md",
        75,
        "none: counts",
        goes_on=True,
    ),
    Benchmark(
        "gpu-check",
        "whole builds by TensorRT on an NVIDIA GPU",
        "-m benchmarks.gpu_check --weights {first} --data {data} --out {work} --page {page}",
        "tensorrt_gpu.md",
        60,
        "bounds of every gate",
        goes_on=True,
        needs=frozenset({"gpu"}),
    ),
)

NO_RUNNER = {  # pages that no entry of the registry writes, and why
    "bench_resolution.md": "`python -m benchmarks.bench_resolution MODEL.onnx --kept WORK --out "
    "benchmarks/bench_resolution.md` writes its first table, on a quiet machine; the second was typed from single runs",
    "pruning_matrix.md": "`make test-matrix` prints it (`tests/matrix/run.py --out`)",
    "quantization_trained.md": "printed by `python -m benchmarks.quantization_trained WEIGHTS DATA --out WORK "
    "--imgsz 160 --epochs 5 --qat-epochs 3` with the extra `qat`, which `dev` leaves out; ModelOpt's own "
    "lines are taken away",
    "recipes_digits.md": "`python -m benchmarks.recipes --weights digits-yolov8n-128.pt --data digits/data.yaml "
    "--work WORK --out benchmarks/recipes_digits.md --imgsz 128 --speed-ups 2 --epochs 12 --schedules one-shot "
    "--importances taylor --teachers unpruned --lr0s 0.001 0.002` on what `edgeprune data digits` makes, with weights "
    "of `yolov8n.yaml` that Ultralytics trained there (14 epochs, batch 8, AdamW 0.002, fliplr 0, mosaic 0, scale 0.3)",
    "training_demo.md": "typed from the logs of single runs of `edgeprune pretrain` and `finetune`",
}


@dataclass(frozen=True)
class Record:
    """A run of a benchmark.

    Attributes:
        name: of the benchmark.
        command: with the names of files alone, not their folders.
        exit_code: of the command.
        seconds: of this run; a run that went on took longer altogether.
        date: UTC, ISO 8601.
        machine: processor and cores.
        load: one-minute load average before and after.
        versions: of packages, Python and edgeprune.
        commit: of the code, with ``+`` and a digest of what differed from it when files did; empty outside git.
        begun: the commit at which the work was begun that this run went on with, or took figures of; until the folder
            of that work is removed.
        digest: SHA-256 of what it put into its page.
        inputs: weights and data, each by its name and the first digits of its SHA-256; older records do not name them.
    """

    name: str
    command: str
    exit_code: int
    seconds: float
    date: str
    machine: str
    load: tuple[float, float]
    versions: dict[str, str] = field(default_factory=dict)
    commit: str = ""
    begun: str = ""
    digest: str = ""
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Given:
    """What a run has: files, folder and hours."""

    weights: tuple[Path, ...]
    data: Path | None
    work: Path

    @cached_property
    def known_weights(self) -> tuple[str, ...]:
        """Every checkpoint by name and content."""
        from benchmarks.kept import known_by

        return tuple(map(known_by, self.weights))

    @cached_property
    def known_data(self) -> tuple[str, ...]:
        """The dataset by name and content, where there is one."""
        from benchmarks.kept import content_of

        return () if self.data is None else (f"{self.data.resolve().parent.name} {content_of(self.data)}",)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0, help="of all runs together [%(default)s]")
    parser.add_argument("--weights", type=Path, nargs="*", default=[], help="unpruned checkpoints; pages say which")
    parser.add_argument("--data", type=Path, help="dataset YAML that they were trained on")
    parser.add_argument("--only", nargs="*", default=[], help="names of benchmarks, or of their pages")
    parser.add_argument("--again", action="store_true", help="run what has a record of this commit too")
    parser.add_argument("--out", type=Path, default=HERE / ".runs", help="folder for work [benchmarks/.runs]")
    parser.add_argument("--dry-run", action="store_true", help="say what would run")
    parser.add_argument("--readme", action="store_true", help="only write benchmarks/README.md")
    options = parser.parse_args(argv)
    if options.readme:
        publish(README, "suite", readme())
        return 0
    known = {one.name for one in REGISTRY} | {one.page for one in REGISTRY}
    if wrong := [name for name in options.only if name not in known]:
        parser.error(f"--only {wrong[0]}: no such benchmark; known are {', '.join(one.name for one in REGISTRY)}")
    for path in [*options.weights, *([options.data] if options.data else [])]:
        if not path.is_file():
            parser.error(f"{path}: no such file; give checkpoints as --weights and a dataset YAML as --data")
    if options.hours <= 0:
        parser.error(f"--hours {options.hours:g}: give a number above 0")
    given = Given(tuple(options.weights), options.data, options.out)
    try:
        _ = given.known_data
    except EdgepruneError as error:
        parser.error(first_line(error))
    chosen = [one for one in REGISTRY if not options.only or {one.name, one.page} & set(options.only)]
    runs, left_out = planned(chosen, given, options.hours * 60, again=options.again)
    for one, why in left_out:
        print(f"left out: {one.name}: {why}")
    for one in runs:
        print(f"runs: {one.name} (about {one.minutes:g} min): python {shlex.join(arguments(one, given))}", flush=True)
        if (begun := begun_at(one, given)) not in (None, commit()):
            place = work_of(one, given)
            places = f"{place} and {_beside(one)}" if one.takes and _beside(one).is_file() else place
            print(f"  takes what was finished since {begun or 'an unknown commit'}; for all of it anew remove {places}")
    if options.dry_run or not runs:
        return 0 if runs else 5
    ends, failed = perf_counter() + options.hours * 3600, False
    for one in runs:
        left = ends - perf_counter()
        if left < 60 * LEAST_LEFT_MIN and one is not runs[0]:
            print(f"left out: {one.name}: the hours are over; the same command goes on here")
            continue
        record = run(one, given, left)
        publish(README, "suite", readme())
        failed |= record.exit_code not in (0, STOPPED)
        print(f"{one.name}: exit code {record.exit_code} after {record.seconds / 60:.1f} min", flush=True)
    return 1 if failed else 0


def planned(
    chosen: Sequence[Benchmark], given: Given, minutes: float, *, again: bool
) -> tuple[list[Benchmark], list[tuple[Benchmark, str]]]:
    """What runs in so many minutes, in the given order, and what does not, each with the reason."""
    runs: list[Benchmark] = []
    left_out: list[tuple[Benchmark, str]] = []
    too_long: list[Benchmark] = []
    now, left = commit(), minutes
    for one in chosen:
        if not again and is_recorded(one, given, now):
            left_out.append((one, "has a record of this commit; --again runs it all the same"))
        elif lacking := ", ".join(lacks(one, given)):
            left_out.append((one, f"needs {lacking}"))
        elif one.minutes <= left:
            runs.append(one)
            left -= one.minutes
        else:
            too_long.append(one)
    for one in too_long:  # one of them is begun in what is left, and goes on in the next call
        if one.goes_on and left >= LEAST_LEFT_MIN:
            runs.append(one)
            left = 0
        else:
            left_out.append((one, f"takes about {one.minutes:g} min, {left:g} are left; give more HOURS"))
    return runs, left_out


def is_recorded(one: Benchmark, given: Given, now: str) -> bool:
    """Whether its record is of this commit, weights and data; code that differs from a commit is none."""
    kept = record_of(one)
    return kept is not None and kept.commit == now != "" and "+" not in now and kept.inputs == inputs_of(one, given)


def inputs_of(one: Benchmark, given: Given) -> tuple[str, ...]:
    """Weights and data that a benchmark is given, by name and content."""
    weights = given.known_weights if "{weights}" in one.argv else ()
    first = given.known_weights[:1] if "{first}" in one.argv else ()
    data = given.known_data if "{data}" in one.argv or "{images}" in one.argv else ()
    return (*weights, *first, *data)


def lacks(one: Benchmark, given: Given) -> Iterator[str]:
    """What a benchmark needs and this machine, or the command line, has not."""
    if ("{weights}" in one.argv or "{first}" in one.argv) and not given.weights:
        yield "WEIGHTS"
    if ("{data}" in one.argv or "{images}" in one.argv) and given.data is None:
        yield "DATA"
    if "gpu" in one.needs and shutil.which("nvidia-smi") is None:
        yield "an NVIDIA GPU"
    if "parser" in one.needs and importlib.util.find_spec("tensorrt_rtx_libs") is None:
        yield "the extra [parser]"
    if "checkouts" in one.needs and not checkouts_of(one, given).is_dir():
        yield f"the peers' code in {checkouts_of(one, given)} (python -m benchmarks.peers --list)"
    if has_moved_on(one, work := work_of(one, given)):
        yield f"one {_beside(one).name}: {_moved_on(one, work)}"
    if keeps_others(one, given):
        yield f"another place for {_beside(one)}, which keeps runs of other weights or data: move it away"
    if "sshd" in one.needs and sshd_path() is None:
        yield "OpenSSH's server (apt install openssh-server)"


def checkouts_of(one: Benchmark, given: Given) -> Path:
    """Where the code of others is, whatever the weights."""
    return given.work / one.name.replace(" ", "-") / "checkouts"


def work_of(one: Benchmark, given: Given) -> Path:
    """Folder of a benchmark's work: of its name, or a second one where that has work of other weights or data."""
    folder = given.work / one.name.replace(" ", "-")
    begun, inputs = begun_in(folder), inputs_of(one, given)
    if not one.goes_on or begun is None or begun[1] in ((), inputs):
        return folder
    return folder.with_name(f"{folder.name}-{hashlib.sha256(repr(inputs).encode()).hexdigest()[:8]}")


def begun_in(folder: Path) -> tuple[str, tuple[str, ...]] | None:
    """The commit at which work in a folder was begun, and its weights and data; None where there is no work.

    What older runs left does not name its weights and data. A record stands for what says when the work was begun.
    """
    if (folder / BEGUN).is_file():
        commit, *inputs = (folder / BEGUN).read_text().split("\n")
        return commit, tuple(inputs)
    if (folder / RECORD).is_file():
        record = read_json(Record, folder / RECORD)
        return record.begun, record.inputs
    return None


def arguments(one: Benchmark, given: Given, *, shown: bool = False) -> list[str]:
    """What follows ``python``; ``shown``: as a record has it, without folders of this machine."""

    def named(path: Path) -> str:
        if not shown:
            return str(path)
        return f"{path.parent.name}/{path.name}" if path.suffix in (".yaml", ".yml") else path.name

    work = work_of(one, given)
    images = Path("images/val")
    if given.data is not None and "{images}" in one.argv:
        from edgeprune.dataset import Dataset

        images = Dataset.load(given.data).sample_images("val", 1)[0].parent
    words: list[str] = []
    for word in shlex.split(one.argv):
        if word == "{weights}":
            words += map(named, given.weights)
            continue
        words.append(
            word.format(
                data=named(given.data) if given.data else "DATA",
                first=named(given.weights[0]) if given.weights else "WEIGHTS",
                images="IMAGES" if shown else images,
                work=f"benchmarks/.runs/{work.name}" if shown else work,
                checkouts="CHECKOUTS" if shown else checkouts_of(one, given),
                page=f"benchmarks/{one.page}" if shown else HERE / one.page,
                kept=f"benchmarks/{_beside(one).name}" if shown else _beside(one),
                made=f"benchmarks/{one.page}" if shown else work / one.page,
            )
        )
    return words


def run(one: Benchmark, given: Given, seconds: float) -> Record:
    """Run a benchmark for so many seconds at most; when it ended well, its record goes beside its page too."""
    folder = work_of(one, given)
    folder.mkdir(parents=True, exist_ok=True)
    before, began, now = os.getloadavg()[0], perf_counter(), datetime.now(timezone.utc)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    begun = begun_at(one, given)
    if begun is None or begun_in(folder) is None:
        begun = commit() if begun is None else begun
        (folder / BEGUN).write_text("\n".join([begun, *inputs_of(one, given)]))
    if not has_moved_on(one, folder):
        (folder / FROM).write_text(_content(_beside(one)))
    with (folder / "log.txt").open("a") as log:
        log.write(f"\n{now:%Y-%m-%d %H:%M} {shlex.join([sys.executable, *arguments(one, given)])}\n")
        log.flush()
        code = ended(arguments(one, given), environment, log, seconds)
    if code == 0 and "{made}" in one.argv:
        code = 0 if put_into_place(one, folder) else NOT_IN_PLACE
    record = Record(
        name=one.name,
        command=shlex.join(["python", *arguments(one, given, shown=True)]),
        exit_code=code,
        seconds=round(perf_counter() - began, 1),
        date=f"{now:%Y-%m-%dT%H:%MZ}",
        machine=f"{cpu_identity()['cpu']}, {os.cpu_count()} cores",
        load=(round(before, 1), round(os.getloadavg()[0], 1)),
        versions=versions(),
        commit=commit(),
        begun=begun,
        digest=digest_of(one),
        inputs=inputs_of(one, given),
    )
    write_json(folder / RECORD, record)
    if code == 0:
        RECORDS.mkdir(exist_ok=True)
        write_json(RECORDS / f"{one.name.replace(' ', '-')}.json", record)
    return record


def ended(words: Sequence[str], environment: Mapping[str, str], log: IO[str], seconds: float) -> int:
    """The exit code of Python with these words, which has so many seconds; whatever it started ends with it."""
    command = [sys.executable, "-m", "benchmarks.until_told", *words]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return STOPPED
    finally:
        end_group(process, ASKED_S)


def put_into_place(one: Benchmark, folder: Path) -> bool:
    """Move what a script made to the pages: its text between the marks of the page, what else it made beside.

    False, and all stays where it is, when the JSON beside the page is no longer the one that the script began with.
    """
    made = folder / one.page
    if has_moved_on(one, folder):
        print(f"{one.name}: what it made stays in {folder}, since {_moved_on(one, folder)}")
        return False
    if (text := printed_part(made, one.name)) is not None:
        publish(HERE / one.page, one.name, text)
        made.unlink()
    for beside in (made.with_suffix(end) for end in (".json", ".svg")):
        if beside.is_file():
            shutil.move(beside, HERE / beside.name)
    return True


def has_moved_on(one: Benchmark, folder: Path) -> bool:
    """Whether the JSON beside the page is another one than that with which the one of a work was begun: what is in only
    one of them would be lost."""
    made, begun = (folder / one.page).with_suffix(".json"), folder / FROM
    if "{kept}" not in one.argv or not made.is_file():
        return False
    now = _content(_beside(one))
    return now not in (begun.read_text() if begun.is_file() else "", _content(made))


def _moved_on(one: Benchmark, folder: Path) -> str:
    made = (folder / one.page).with_suffix(".json")
    return f"{_beside(one)} has changed since {made} was begun with it; join them by hand, or remove the second"


def keeps_others(one: Benchmark, given: Given) -> bool:
    """Whether the JSON beside the page keeps runs of other weights or data, which would be lost once a run of these
    takes its place; what it does not name is not held against it. Of several weights it may keep each."""
    if "{kept}" not in one.argv or not _beside(one).is_file():
        return False
    content = read_json_data(_beside(one))
    rows = [content.get("asked", content), *content.get("rows", ())] if isinstance(content, dict) else content
    weights = given.known_weights[:1] if "{first}" in one.argv else ()
    for row in (row for row in rows if isinstance(row, dict)):
        name, _, digest = str(row.get("weights") or "").rpartition(" ")
        of_data = _is_of(row.get("data") or "", row.get("dataset") or "", given.known_data)
        if not of_data or not _is_of(name or row.get("model") or "", digest, weights):
            return True
    return False


def _is_of(name: str, digest: str, known: Sequence[str]) -> bool:
    """Whether what is said of a file fits one that is given by name and digest: by the digest, where it is said."""
    given = [one.rpartition(" ") for one in known]
    return not given or any(of == digest if digest else name in ("", stem) for stem, _, of in given)


def _beside(one: Benchmark) -> Path:
    """The JSON that belongs to a page."""
    return (HERE / one.page).with_suffix(".json")


def _content(file: Path) -> str:
    """Digest of a file; empty where there is none."""
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def begun_at(one: Benchmark, given: Given) -> str | None:
    """The commit at which the work of a benchmark was begun that goes on; None where there is none to go on with.

    A run that ended well leaves its finished parts there, so that they stay the figures of that commit. Where a script
    takes finished runs of the JSON beside its page, they are of the commit that the record there names; none of other
    weights or data are taken.
    """
    begun = begun_in(work_of(one, given))
    if not one.goes_on:
        return None
    if begun is not None:
        nameless = inputs_of(one, given) and not begun[1] and NAMELESS not in begun[0]
        return begun[0] + (NAMELESS if nameless else "")
    if one.takes and _beside(one).is_file() and not keeps_others(one, given):
        record = record_of(one)
        return "" if record is None else record.begun
    return None


def versions() -> dict[str, str]:
    """Of everything that figures depend on."""
    found = {"python": sys.version.split()[0]}
    for package in (*PACKAGES, "edgeprune"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def commit() -> str:
    """Of the checkout, with ``+`` and a digest of the changes when code, profiles or requirements differ from it; empty
    where there is no git."""

    def git(*words: str) -> str:
        argv = ["git", *words]
        return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True, errors="replace").stdout

    try:
        head = git("rev-parse", "--short", "HEAD").strip()
        changes = git("diff", "HEAD", "--", *CODE)
        added = git("ls-files", "--others", "--exclude-standard", "--full-name", "-z", "--", *CODE).split("\0")[:-1]
    except (OSError, subprocess.CalledProcessError):
        return ""
    if not changes and not added:
        return head
    contents = [changes, *(f"{name} {_content(ROOT / name)}" for name in added)]
    return f"{head}+{hashlib.sha256(chr(0).join(contents).encode()).hexdigest()[:6]}"


def digest_of(one: Benchmark) -> str:
    """Of what the page has of a benchmark; empty where it has nothing."""
    text = printed_part(HERE / one.page, one.name)
    return "" if text is None else hashlib.sha256(text.encode()).hexdigest()


def record_of(one: Benchmark) -> Record | None:
    """The record beside the pages; None where no run has left one."""
    path = RECORDS / f"{one.name.replace(' ', '-')}.json"
    return read_json(Record, path) if path.is_file() else None


def readme() -> str:
    """benchmarks/README.md: a line a benchmark, and the pages that none of them writes."""
    lines = [
        "# Benchmarks",
        "",
        "Every figure in the README and in docs/ is from one of these pages. `make bench HOURS=2 WEIGHTS=best.pt",
        "DATA=data.yaml` runs what fits into two hours, goes on where it stopped, and writes this page",
        "(`benchmarks/suite.py`). `no record`: the figures were taken before runs left one; the page says on what.",
        "",
        *table(
            ("page", "what", "record", "machine", "versions", "spread, as designed"), [_line(one) for one in REGISTRY]
        ),
        "",
        "What a page has that no script wrote: "
        + "; ".join(f"`{one.page}`: {one.typed}" for one in REGISTRY if one.typed)
        + ".",
        "",
        "Not in `make bench`:",
        "",
        *(f"- [{page}]({page}): {why}." for page, why in NO_RUNNER.items()),
        *(f"- [{page}]({page}): {why}." for page, why in _others().items()),
        "",
        "The commands:",
        "",
        "```",
        *(f"python {_shown(one)}" for one in REGISTRY),
        "```",
    ]
    return "\n".join(lines)


def _others() -> dict[str, str]:
    """Pages that nothing above names, by the script of their name."""
    told = {one.page for one in REGISTRY} | {*NO_RUNNER, README.name}
    pages = sorted(path.name for path in HERE.glob("*.md") if path.name not in told)
    return {page: f"by `benchmarks/{Path(page).stem}.py`, which has no entry here yet" for page in pages}


def _shown(one: Benchmark) -> str:
    words = {
        "data": "DATA",
        "weights": "WEIGHTS...",
        "first": "WEIGHTS",
        "images": "IMAGES",
        "page": f"benchmarks/{one.page}",
    }
    return one.argv.format(
        work="WORK", made=words["page"], kept=f"benchmarks/{_beside(one).name}", checkouts="CHECKOUTS", **words
    )


def _line(one: Benchmark) -> tuple[str, ...]:
    record = record_of(one)
    there = (HERE / one.page).is_file() and (printed_part(HERE / one.page, one.name) or "").strip()
    page = f"[{one.name}]({one.page})" if (HERE / one.page).is_file() else one.name
    if record is None:
        absent = "not run yet" if page == one.name else "not run since the script writes its part"
        return page, one.about, "no record" if there else f"**{absent}**", "–", "–", one.spread
    said = f"{record.date[:10]}, {record.seconds / 60:.0f} min, {record.commit or 'no git'}"
    if record.begun != record.commit:
        said += f", begun at {record.begun or 'an unknown commit'}"
    if record.digest != digest_of(one):
        said += "; **the page differs from what this run wrote**"
    load = f"load {record.load[0]:g} to {record.load[1]:g}"
    names = ", ".join(f"{name} {record.versions[name]}" for name in ("torch", "ultralytics", "onnxruntime"))
    return page, one.about, said, f"{record.machine}, {load}", names, one.spread


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that a benchmark ends with this
    sys.exit(main())
