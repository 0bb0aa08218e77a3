"""Builds that are killed, stopped, met by another, short of disk or damaged, and processes that run for long.

``python -m tests.hostile.kills [--kills 30] [--builds 200] [--benches 50] [--only NAME ...]`` prints a table.

A small build with sparsity training and INT8 in it is killed at random moments over all its stages; in the end its
verdicts are those of a build that nobody disturbed, what was finished before a kill is byte for byte what it was, and
nothing is left in the temporary folder or in HOME. What is made before any training is also byte for byte that of the
undisturbed build. What comes after need not be, since a training that goes on where it was killed may end with other
weights than one that was never stopped: how much of it differs is told in the table's last column.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.situations import catalogue
from tests.situations.commands import Inputs
from tests.situations.driver import ROOT, VERDICTS, Outcome, Sandbox, server, table
from tests.situations.profiles import profile

STAGES = ("baseline", "sparsify", "prune", "finetune", "export", "simplify", "quantize", "engine")
BUILD_S = 600
UNLIKE = ("engine",)  # roles whose bytes differ from one making to the next: ONNX Runtime's optimised graph
COLUMNS = ("what", "tried", "faults", "seen on the way")
UNTRAINED = ("baseline-",)  # stages that come before any training
LEFT = ("tmp/", "HOME/", "in/", "cwd/", "ABOVE/")


@dataclass
class Report:
    """What was tried and what went wrong."""

    rows: list[tuple[str, int, str, str]] = field(default_factory=list)

    def add(self, what: str, count: int, faults: list[str], told: str) -> None:
        """One line of the table."""
        self.rows.append((what, count, "; ".join(dict.fromkeys(faults)) or "none", told))
        print(f"{what}: {count} tried, faults: {self.rows[-1][2]}", flush=True)


class Site:
    """A sandbox with the inputs of the build."""

    def __init__(self) -> None:
        above = Path(tempfile.mkdtemp(prefix="edgeprune-kills-"))
        self.box = Sandbox(above / "root", above=above)
        self.inputs: Inputs = catalogue.good(self.box.root / "in")
        sparsify = {"epochs": 1, "batch": 4, "workers": 0, "device": "cpu"}
        # else INT8 ships only where it was faster, which depends on who shares the machine
        changes = {"precision": "int8", "keep_precision": True, "sparsify": sparsify}
        self.target = profile(self.box.root / "in" / "kills.yaml", changes)
        self.run = self.box.out / "run"
        self.told = ""

    def argv(self, run: Path | None = None) -> list[object]:
        """The command line of the build."""
        given = self.inputs
        return [
            "build",
            "--target",
            self.target,
            "--weights",
            given.weights,
            "--data",
            given.data,
            "--out",
            run or self.run,
        ]

    def build(self) -> Outcome:
        """Run it to its end."""
        return self.box.run(self.argv(), timeout_s=BUILD_S, keep=True)

    def digests(self, without: tuple[str, ...] = ()) -> dict[str, str]:
        """sha256 of every artifact of a finished stage but those of these roles, by path in the run directory."""
        found = {}
        for record in self.run.glob("*/record.json"):
            artifacts = json.loads(record.read_text())["artifacts"]
            for item in (item for role, item in artifacts.items() if role not in without):
                path = record.parent / item["file"]
                found[path.relative_to(self.run).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def verdicts(self) -> dict[str, str]:
        """Verdict of each gate, but for those on time: what is measured afresh depends on who shares the machine."""
        record = json.loads((self.run / "bundle" / "build.json").read_text())
        timed = ("latency", "speed-up", "energy")
        rows = [row for row in record["gates"] if row["stage"] == "prune" or not row["metric"].endswith(timed)]
        return {f"{row['stage']} {row['metric']}": row["verdict"] for row in rows if "latency" not in row["metric"]}

    def seconds(self) -> dict[str, float]:
        """Wall time of each finished stage."""
        records = (json.loads(path.read_text()) for path in self.run.glob("*/record.json"))
        return {record["stage"]: record["seconds"] for record in records}

    def leftovers(self, outcome: Outcome) -> list[str]:
        """What lies outside the run directory, and what a build never leaves inside it."""
        left = [path for path in outcome.written if path.startswith(LEFT)]
        left += [path.name for path in self.run.glob(".partial-*")]
        scratch = self.run / ".scratch"
        return left + ([f".scratch/{path.name}" for path in scratch.iterdir()] if scratch.is_dir() else [])

    def fresh(self) -> None:
        """Nothing is built yet."""
        shutil.rmtree(self.run, ignore_errors=True)


def killed(site: Site, count: int, seed: int = 0) -> list[str]:
    """SIGKILL at random moments of stages drawn by chance, five of them on the way of each build, which then ends."""
    faults: list[str] = []
    site.fresh()
    undisturbed = site.build()
    if undisturbed.code not in VERDICTS:
        return [f"the undisturbed build: {undisturbed.fault() or undisturbed.last_line}"]
    verdicts, seconds, first = site.verdicts(), site.seconds(), site.digests(without=UNLIKE)
    draw, left, unlike, builds = random.Random(seed), count, 0, 0
    while left:
        site.fresh()
        survived: dict[str, str] = {}
        stages = sorted(draw.sample(range(len(STAGES)), min(5, left)))
        left -= len(stages)
        for stage in (STAGES[number] for number in stages):
            pid = site.box.begin(site.argv(), timeout_s=BUILD_S)
            if not _waits_for(site.box, stage):
                faults.append(f"{stage} never began: {site.box.end(keep=True).last_line}")
                continue
            time.sleep(draw.uniform(0, seconds[stage]))
            _killed_group(pid, signal.SIGKILL)
            site.box.end(keep=True)
            now = site.digests()
            faults += [
                f"after a kill in {stage}: {name} changed" for name in survived if now.get(name) != survived[name]
            ]
            survived = now
            print(f"  killed in {stage}, {len(now)} artifacts finished", flush=True)
        ended = site.build()
        if ended.code not in VERDICTS or site.verdicts() != verdicts:
            faults.append(f"other verdicts than those of an undisturbed build: {ended.fault() or ended.last_line}")
        now = site.digests()
        faults += [f"{name} changed" for name, digest in survived.items() if now.get(name) != digest]
        untrained = {name: digest for name, digest in first.items() if name.startswith(UNTRAINED)}
        faults += [f"{name} is not the undisturbed build's" for name in untrained if now.get(name) != untrained[name]]
        faults += [f"left {path}" for path in site.leftovers(ended)]
        builds, unlike = builds + 1, unlike + (not first.items() <= now.items())
    site.told = f"{unlike} of {builds} builds ended with other artifacts after training than the undisturbed one"
    return faults


def _killed_group(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
        os.killpg(pid, number)


def stopped(site: Site, number: signal.Signals, code: int, stages: tuple[str, ...] = STAGES) -> list[str]:
    """One signal in every stage: its exit code, one line, and a build that goes on."""
    faults: list[str] = []
    site.fresh()
    for stage in stages:
        site.box.begin(site.argv(), timeout_s=BUILD_S)
        pid = site.box.pid
        if not _waits_for(site.box, stage):
            faults.append(f"{stage} never began: {site.box.end(keep=True).last_line}")
            continue
        os.kill(pid, number)
        outcome = site.box.end(keep=True)
        if outcome.code != code:
            faults.append(f"{number.name} in {stage}: exit code {outcome.code}")
        if outcome.traceback:
            faults.append(f"{number.name} in {stage}: traceback {outcome.last_line}")
        faults += [f"{number.name} in {stage}: left {path}" for path in outcome.written if path.startswith(LEFT)]
    ended = site.build()
    if ended.code not in VERDICTS:
        faults.append(f"afterwards: {ended.fault() or ended.last_line}")
    return faults + [f"left {path}" for path in site.leftovers(ended)]


def _waits_for(box: Sandbox, stage: str) -> bool:
    ends = time.monotonic() + BUILD_S
    while time.monotonic() < ends:
        if re.search(rf"^\[\d+/\d+\] {stage}", box.printed(), re.MULTILINE):
            return True
        if not Path(f"/proc/{box.pid}").exists():
            return False
        time.sleep(0.02)
    return False


def two_on_one_folder(site: Site) -> list[str]:
    """The second one is refused in one line, the first one ends as ever."""
    faults: list[str] = []
    site.fresh()
    site.box.begin(site.argv(), timeout_s=BUILD_S)
    if not _waits_for(site.box, "sparsify"):
        site.box.end(keep=True)
        return ["it never began"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "YOLO_OFFLINE": "true"}
    second = subprocess.run(
        [sys.executable, "-m", "edgeprune", *map(str, site.argv())],
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    lines = [line for line in second.stderr.splitlines() if line.startswith("edgeprune: ")]
    if second.returncode != 3 or len(lines) != 1:
        faults.append(f"the second build: exit {second.returncode}, {second.stderr.strip()[-200:]}")
    first = site.box.end(keep=True)
    if first.code not in VERDICTS:
        faults.append(f"the first build: {first.fault() or first.last_line}")
    return faults


def damaged(site: Site, seed: int = 0) -> list[str]:
    """One byte of each finished artifact flipped: its stage is made again and comes to the same bytes, but for an
    engine, which ONNX Runtime does not write alike twice; verdicts are the same, and the artifacts of the other stages
    stay as they are."""
    faults: list[str] = []
    site.fresh()
    first = site.build()
    if first.code not in VERDICTS:
        return [f"the first build: {first.fault() or first.last_line}"]
    verdicts, draw = site.verdicts(), random.Random(seed)
    site.told = f"{len(site.digests())} artifacts"
    for name in sorted(site.digests()):
        path, stage = site.run / name, f"{Path(name).parts[0]}/"
        others = {one: digest for one, digest in site.digests().items() if not one.startswith(stage)}
        same = site.digests(without=UNLIKE)
        data = bytearray(path.read_bytes())
        data[draw.randrange(len(data))] ^= 0x10
        path.write_bytes(bytes(data))
        again = site.build()
        if again.code not in VERDICTS or site.verdicts() != verdicts:
            faults.append(f"{name}: other verdicts than before: {again.fault() or again.last_line}")
        if not others.items() <= site.digests().items():
            faults.append(f"{name}: artifacts of other stages differ afterwards")
        now = site.digests()
        faults += [f"{one} is made unlike the first time" for one in same if now.get(one) != same[one]]
        reused = re.search(rf"^\[\d+/\d+\] {name.partition('-')[0]}(.*)", again.out, re.MULTILINE)
        if reused and "reused" in reused[1]:
            faults.append(f"{name}: the damaged stage was reused")
    return faults


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[bool]:
    """A file system of that size; False where this machine does not allow one."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    try:
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def full_disk(site: Site) -> list[str]:
    """Disks of several sizes: one line, exit 3, what was finished stays; with room it goes on."""
    faults: list[str] = []
    for size in ("100k", "2m", "5m", "9m"):
        with small_disk(site.box.root / "disk", size) as mounted:
            if not mounted:
                return ["not tried: this machine mounts nothing"]
            run = site.box.root / "disk" / "run"
            outcome = site.box.run(site.argv(run), timeout_s=BUILD_S)
            if outcome.code not in (2, 3, *VERDICTS) or outcome.fault():
                faults.append(f"{size}: {outcome.fault() or outcome.code}")
            left = [path for path in outcome.written if path.startswith(("tmp/", "HOME/", "ABOVE/"))]
            faults += [f"{size}: left {path}" for path in left]
    return faults


SOAK = """
import contextlib, gc, io, json, os, sys
import edgeprune.cli
count, argv = int(sys.argv[1]), json.loads(sys.argv[2])
def seen():
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    children = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
                children += file.read().rpartition(")")[2].split()[1] == str(os.getpid())
    return [len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), children, pages * 4096 / 2**20]
for number in range(count):
    sys.argv = ["edgeprune", *argv]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            edgeprune.cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
    gc.collect()
    print(json.dumps([code, *seen(), len(os.listdir(os.environ["TMPDIR"]))]), flush=True)
"""
GROWTH_MIB = 0.5  # a run, on average of the second half: more is a leak, less is what allocators keep


def soaked(site: Site, argv: list[object], count: int, allowed: tuple[int, ...]) -> list[str]:
    """The command again and again in one process: files, threads, children, memory and temporary files do not grow."""
    (site.box.root / "soak").mkdir(exist_ok=True)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "YOLO_OFFLINE": "true"}
    env |= {"TMPDIR": str(site.box.root / "soak"), "HOME": str(server().home)}
    done = subprocess.run(
        [sys.executable, "-c", SOAK, str(count), json.dumps([str(word) for word in argv])],
        capture_output=True, text=True, env=env, cwd=site.box.cwd, check=False,
    )  # fmt: skip
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    if len(rows) < count:
        return [f"ended after {len(rows)} of {count}: {done.stderr.strip()[-300:]}"]
    faults = [f"exit codes {sorted({row[0] for row in rows})}"] if {row[0] for row in rows} - set(allowed) else []
    half = rows[len(rows) // 2 :]
    for name, place, limit in (("files", 1, 0), ("threads", 2, 0), ("children", 3, 0), ("temporary files", 5, 0)):
        if half[-1][place] - half[0][place] > limit:
            faults.append(f"{name} grow from {half[0][place]} to {half[-1][place]} in {len(half)} runs")
    growth = (half[-1][4] - half[0][4]) / max(len(half) - 1, 1)
    site.told = f"memory {half[0][4]:.0f} → {half[-1][4]:.0f} MiB over the second half, files {half[-1][1]}"
    if growth > GROWTH_MIB:
        faults.append(f"memory grows by {growth:.2f} MiB a run")
    return faults


def main() -> None:
    """Run what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--builds", type=int, default=200)
    parser.add_argument("--benches", type=int, default=50)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    site, report = Site(), Report()
    given_inputs = site.inputs
    bench = ["bench", given_inputs.onnx, "--rounds", 2, "--warmup-s", 0.01, "--launches", 1, "--no-details"]
    tasks: dict[str, tuple[int, Callable[[], list[str]]]] = {
        "SIGKILL": (given.kills, lambda: killed(site, given.kills)),
        "Ctrl-C": (len(STAGES), lambda: stopped(site, signal.SIGINT, 130)),
        "SIGTERM": (len(STAGES), lambda: stopped(site, signal.SIGTERM, 143)),
        "two builds on one folder": (1, lambda: two_on_one_folder(site)),
        "one byte flipped": (1, lambda: damaged(site)),
        "a full disk": (4, lambda: full_disk(site)),
        "cached builds": (given.builds, lambda: soaked(site, site.argv(), given.builds, VERDICTS)),
        "benches": (given.benches, lambda: soaked(site, bench, given.benches, (0,))),
        "benches on a remote stand-in": (
            given.benches,
            lambda: soaked(site, [*bench, "--runtime", "trtexec", "--device", "fake:orin-nano"], given.benches, (0,)),
        ),
    }  # fmt: skip
    for name, (count, task) in tasks.items():
        if not given.only or name in given.only:
            site.told = ""
            report.add(name, count, task(), site.told)
    text = table(COLUMNS, report.rows)
    print(text)
    if given.output:
        given.output.write_text(text)
    shutil.rmtree(site.box.above or site.box.root, ignore_errors=True)


if __name__ == "__main__":
    main()
