"""What a budget search accepts while other work disturbs it, held against a bare A/B loop.

Usage: python -m benchmarks.search_disturbed WEIGHTS.pt [WEIGHTS.pt …] [--busy 2] [--speed-ups 1.5 2 2.6 …]
           [--imgsz 320] [--data DATA.yaml] [--out TABLE.md]

While ``--busy`` processes keep a core busy each, ``edgeprune search`` looks for every budget with every model, as a
user would type it. Then the busy processes end, and its result is raced against the unpruned model by a loop that knows
nothing of edgeprune's way to measure: two ONNX Runtime sessions in turns, the median of the ratios. A search holds its
promise when a plan that it accepted (exit 0) lies within 0.98 to 1.10 times what was asked, and everything else ended
INCONCLUSIVE (exit 5).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

WITHIN = (0.98, 1.10)
BUSY = "while True: pass"
TOLD = re.compile(r"^latency ×(?P<ratio>[\d.]+)", re.MULTILINE)
COLUMNS = ("model", "asked", "told", "verdict", "by the loop", "loop / asked", "promise held", "seconds")


@dataclass(frozen=True)
class Cell:
    """One search. ``told`` is the ratio that it printed, ``by_loop`` that of the loop; None where there was no plan."""

    model: str
    asked: float
    code: int
    told: float | None
    by_loop: float | None
    seconds: float

    @property
    def promise_held(self) -> bool:
        """An accepted plan is as fast as asked, and not much faster; anything else says that it is not sure."""
        if self.code == 0:
            return self.by_loop is not None and WITHIN[0] <= self.by_loop / self.asked <= WITHIN[1]
        return self.code == 5

    def row(self) -> str:
        """As a line of the table."""
        verdict = {0: "PASS", 5: "INCONCLUSIVE"}.get(self.code, f"exit {self.code}")
        told = "–" if self.told is None else f"×{self.told:.3f}"
        loop = "–" if self.by_loop is None else f"×{self.by_loop:.3f}"
        share = "–" if self.by_loop is None else f"{self.by_loop / self.asked:.3f}"
        held = "yes" if self.promise_held else "**no**"
        cells = (self.model, f"×{self.asked:g}", told, verdict, loop, share, held, f"{self.seconds:.0f}")
        return f"| {' | '.join(cells)} |"


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that do nothing else than keep a core busy."""
    running = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def one_cell(weights: Path, asked: float, options: argparse.Namespace) -> Cell:
    """Search with other work beside it, then race the result without."""
    with tempfile.TemporaryDirectory(prefix="search-disturbed-") as scratch:
        pruned = Path(scratch) / "pruned.pt"
        argv = [sys.executable, "-m", "edgeprune", "search", str(weights), "--target", options.target]
        argv += ["--speed-up", f"{asked:g}", "--imgsz", str(options.imgsz), "-o", str(pruned)]
        argv += ["--cache", str(options.cache), *(["--data", options.data] if options.data else [])]
        began = perf_counter()
        with busy(options.busy):
            ended = subprocess.run(argv, capture_output=True, text=True)
        seconds = perf_counter() - began
        print(ended.stdout + ended.stderr, file=sys.stderr, flush=True)
        told = TOLD.search(ended.stdout)
        by_loop = None
        if pruned.is_file():
            graphs = [graph_of(path, Path(scratch), options.imgsz) for path in (weights, pruned)]
            by_loop = raced(*graphs, rounds=options.rounds)
    return Cell(weights.stem, asked, ended.returncode, told and float(told["ratio"]), by_loop, seconds)


def graph_of(weights: Path, folder: Path, imgsz: int) -> Path:
    """The checkpoint as the graph that a build would time."""
    from edgeprune.export.onnx import onnx_from_checkpoint
    from edgeprune.export.simplify import simplify_onnx

    raw, graph = folder / f"{weights.stem}-raw.onnx", folder / f"{weights.stem}.onnx"
    onnx_from_checkpoint(weights, raw, imgsz=imgsz)
    simplify_onnx(raw, graph)
    return graph


def raced(first: Path, second: Path, *, rounds: int, per_round: int = 5) -> float:
    """Latency of the first over that of the second: the median over rounds of the ratio of medians, one thread."""
    import numpy as np
    import onnxruntime

    sessions = []
    for path in (first, second):
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        [image] = session.get_inputs()
        feed = {image.name: np.random.default_rng(0).random(image.shape, np.float32)}
        sessions.append((session, feed))

    def block(number: int) -> float:
        session, feed = sessions[number]
        times = []
        session.run(None, feed)
        for _ in range(per_round):
            began = perf_counter()
            session.run(None, feed)
            times.append(perf_counter() - began)
        return median(times)

    for number in (0, 1, 0, 1):
        block(number)
    ratios = []
    for turn in range(rounds):
        order = (0, 1) if turn % 2 else (1, 0)
        taken = {number: block(number) for number in order}
        ratios.append(taken[0] / taken[1])
    return median(ratios)


def main() -> int:
    """Every model with every budget; the table is printed, and written after every row where ``--out`` is given."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("weights", nargs="+", type=Path)
    arguments.add_argument("--busy", type=int, default=os.cpu_count() or 2, help="busy processes beside the search")
    arguments.add_argument("--speed-ups", type=float, nargs="+", default=(1.5, 2.0, 2.4, 2.6))
    arguments.add_argument("--imgsz", type=int, default=320)
    arguments.add_argument("--target", default="cpu")
    arguments.add_argument("--data", help="ranks channels by the loss; without it importance needs no data")
    arguments.add_argument("--cache", type=Path, default=Path("runs/profiles"))
    arguments.add_argument("--rounds", type=int, default=100, help="of the loop, five inferences of each model in one")
    arguments.add_argument("--out", type=Path)
    options = arguments.parse_args()
    cells: list[Cell] = []
    text = ""
    for weights in options.weights:
        for asked in options.speed_ups:
            cells.append(one_cell(weights, asked, options))
            text = table(cells, options.busy)
            if options.out is not None:
                options.out.write_text(text)
    print(text)
    return 0 if all(cell.promise_held for cell in cells) else 1


def table(cells: list[Cell], processes: int) -> str:
    """The rows under their columns, and how many searches held their promise."""
    held, accepted = sum(cell.promise_held for cell in cells), sum(cell.code == 0 for cell in cells)
    head = [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
    said = f"{processes} busy processes; {accepted} of {len(cells)} plans accepted, {held} promises held."
    return "\n".join([*head, *(cell.row() for cell in cells), "", said, ""])


if __name__ == "__main__":
    sys.exit(main())
