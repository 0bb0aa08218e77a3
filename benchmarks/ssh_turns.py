"""What taking turns over SSH costs beside the programs' own time: one job of the device, whatever the rounds.

Usage: python -m benchmarks.ssh_turns [--rounds 24] [--times 3] [--equal] [--page benchmarks/ssh_turns.md]

An OpenSSH server on loopback stands for the board, and a script for trtexec (the tests' own), wrapped so that the time
from its start to its end is known. Two engines are timed in turns. The wall clock less the programs' own time is what
the connection, the copies, the agent and the pauses between programs cost. Exits 1 when that is 10 s or more. All of it
goes before other work where this user may, as a measurement does (``--equal`` leaves it at the priority of the rest).
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from benchmarks.page import printed_by
from edgeprune.agent.host import cpu_identity
from edgeprune.devices.remote import RemoteDevice
from edgeprune.devices.ssh import Ssh
from edgeprune.report.table import Table
from edgeprune.runtimes.base import BenchSettings
from edgeprune.runtimes.bench_worker import raise_priority
from edgeprune.runtimes.trtexec_ import TrtExec
from tests.devices.server import Server
from tests.runtimes import fake_trtexec
from tests.runtimes.models import convolutions

COLUMNS = ("time", "rounds", "programs run", "wall s", "programs' own s", "left s", "load before")
BAR_S = 10.0


def timed_program(folder: Path) -> tuple[Path, Path]:
    """The tests' trtexec behind a wrapper that writes down when it starts and ends; the wrapper, and its log."""
    inner, wrapper, log = fake_trtexec.install(folder), folder / "timed" / "trtexec", folder / "timed" / "log"
    wrapper.parent.mkdir()
    wrapper.write_text(
        f'#!/usr/bin/env bash\nbegan=$EPOCHREALTIME\n{shlex.quote(str(inner))} "$@"\ncode=$?\n'
        f'echo "$began $EPOCHREALTIME" >> {shlex.quote(str(log))}\nexit $code\n'
    )
    wrapper.chmod(0o755)
    return wrapper, log


def one_time(trtexec: TrtExec, engines: list[Path], log: Path, rounds: int) -> tuple[int, float, float]:
    """How many programs ran, the wall clock, and the programs' own share of it, in seconds."""
    log.write_text("")
    began = perf_counter()
    trtexec.latency(engines, BenchSettings(rounds=rounds, per_round=3, warmup_s=0))
    wall = perf_counter() - began
    spans = [[float(at) for at in line.split()] for line in log.read_text().splitlines()]
    return len(spans), wall, sum(ended - started for started, ended in spans)


def main() -> int:
    """Print the table; the exit code says whether the bar was held."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=24)
    arguments.add_argument("--times", type=int, default=3)
    arguments.add_argument("--page", type=Path, help="write what is printed there too")
    arguments.add_argument("--equal", action="store_true", help="at the priority of other work")
    options = arguments.parse_args()
    if not options.equal:
        raise_priority()
    left_s: list[float] = []
    printed_by(lambda: left_s.extend(measured(options.rounds, options.times)), options.page, "ssh-turns")
    return 0 if max(left_s) < BAR_S else 1


def measured(rounds: int, times: int) -> list[float]:
    """Print machine and table; gives the seconds beside the programs' own, of each time."""
    table: list[tuple[str, ...]] = []
    left_s: list[float] = []
    with tempfile.TemporaryDirectory(prefix="ssh-turns-") as scratch:
        folder = Path(scratch)
        (folder / "server").mkdir()
        (folder / "programs").mkdir()
        server = Server(folder / "server", {})
        os.environ["EDGEPRUNE_SSH_CONFIG"] = str(folder / "server" / "client")
        server.start()
        try:
            program, log = timed_program(folder / "programs")
            with RemoteDevice(Ssh(server.name)) as device:
                trtexec = TrtExec(device, program=(str(program),), keep_timing_cache=False)
                engines = []
                for width in (16, 4):
                    graph = convolutions(folder / f"{width}.onnx", width=width)
                    engines.append(graph.with_suffix(".engine"))
                    trtexec.engine_from_onnx(graph, engines[-1])
                for number in range(times):
                    load = os.getloadavg()[0]
                    count, wall, own = one_time(trtexec, engines, log, rounds)
                    left_s.append(wall - own)
                    figures = (f"{wall:.1f}", f"{own:.1f}", f"{wall - own:.1f}", f"{load:.1f}")
                    table.append((str(number + 1), str(rounds), str(count), *figures))
        finally:
            server.stop()
    machine = f"{cpu_identity()['cpu']}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}, {ssh_version()}, nice {os.getpriority(os.PRIO_PROCESS, 0)}.\n")
    print(Table.of(COLUMNS, table).markdown())
    verdict = "held" if max(left_s) < BAR_S else "**not held**"
    print(f"\nUnder {BAR_S:g} s beside the programs' own time: {verdict}, {max(left_s):.1f} s at most.")
    return left_s


def ssh_version() -> str:
    """Of the client, without its libraries'."""
    done = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip().partition(",")[0]


if __name__ == "__main__":
    sys.exit(main())
