"""Every hostile input given to the commands that read it, and one table of what came of it.

``python -m tests.hostile.harness [--every N] [--quick] [READER ...]`` runs them and prints one line of JSON a try.
"""

from __future__ import annotations

import atexit
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.hostile import checkpoints, deploying, folders, onnx_files, records, surroundings, yamls
from tests.hostile.records import FINISHED, Finished
from tests.hostile.registry import Try
from tests.situations import catalogue
from tests.situations.commands import COMMANDS, Inputs, arguments
from tests.situations.driver import Outcome, Sandbox, server, table
from tests.situations.profiles import profile

TIMEOUT_S = 90
OF_BUILDS = ("plan", "run directory", "archive", "environment", "bundle", "signature")  # readers of what a build wrote
COLUMNS = ("read", "tried", "tracebacks", "executed", "never ended", "written outside", "wrong exit code")


@dataclass(frozen=True)
class Result:
    """What a try came to.

    Attributes:
        kind: ``executed``, ``endless``, ``traceback``, ``outside`` (it wrote where nothing was to be written), ``code``
            (another exit code than a documented one, or another outcome than the input calls for); empty when nothing
            is wrong.
        fault: the same in words.
    """

    attempt: Try
    outcome: Outcome
    kind: str
    fault: str

    @property
    def outside(self) -> bool:
        """Whether it wrote where nothing was to be written."""
        return bool(self.outcome.written)


@cache
def tries() -> dict[str, Try]:
    """Every try by its id."""
    modules = (checkpoints, yamls, folders, onnx_files, records, surroundings, deploying)
    found: dict[str, Try] = {}
    for module in modules:
        for one in module.tries():
            assert one.id not in found, one.id
            found[one.id] = one
    return found


@cache
def sandbox() -> Sandbox:
    """The one sandbox of all tries."""
    above = Path(tempfile.mkdtemp(prefix="edgeprune-hostile-"))
    atexit.register(shutil.rmtree, above, ignore_errors=True)
    return Sandbox(above / "root", above=above)


@cache
def inputs() -> Inputs:
    """Good inputs that hostile ones take the place in."""
    return catalogue.good(sandbox().root / "in" / "base")


def finished() -> Finished:
    """What the tool itself wrote on good inputs: made once, with two builds."""
    if not FINISHED:
        box, given = sandbox(), inputs()
        place = box.root / "in" / "finished"
        place.mkdir(parents=True)
        assert given.data is not None
        _made(
            box, ["prune", given.weights, "--ratio", 0.3, "-o", box.out / "p.pt", "--save-plan", box.out / "plan.json"]
        )
        shutil.move(box.out / "plan.json", place / "plan.json")
        _made(box, arguments("build", given, box.out))
        shutil.move(box.out / "run", place / "run")
        board = {
            "extends": "jetson-orin-nano",
            "precision": "fp32",
            "budget": {"macs_speed_up": 1.2, "statistic": "p50"},
        }
        board_file = profile(
            place / "board.yaml", {**board, "measure": {"warmup_s": 0.01, "rounds": 8, "per_round": 4}}
        )
        _made(
            box,
            [
                "build",
                "--target",
                board_file,
                "--weights",
                given.weights,
                "--data",
                given.data,
                "--out",
                box.out / "run",
            ],
        )
        shutil.move(box.out / "run", place / "carried")
        FINISHED.append(Finished(place / "plan.json", place / "run", place / "carried", _measured(place)))
    return FINISHED[0]


def _made(box: Sandbox, argv: Sequence[object]) -> None:
    shutil.rmtree(box.out)
    box.out.mkdir()
    outcome = box.run(argv, timeout_s=300, keep=True)
    assert outcome.fault() is None, f"{outcome.argv}: {outcome.fault()}\n{outcome.err}"


def _measured(place: Path) -> Path:
    """What a stand-in board gives for the carried build: the folder's own script, with the board's programs in PATH."""
    from edgeprune.devices.fake import FakeBoard, fake_device

    copy, board = place / "board", fake_device("orin-nano").channel
    assert isinstance(board, FakeBoard)
    shutil.copytree(place / "carried" / "bundle" / "device", copy)
    argv = ["sh", str(copy / "run-on-device.sh")]
    done = subprocess.run(argv, capture_output=True, text=True, env=board.env, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    return copy / "results.tar"


def attempt(one: Try) -> Result:
    """Run one try."""
    box, given = sandbox(), inputs()
    if one.reader in OF_BUILDS:
        finished()
    folder = box.root / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    argv = one.prepare(folder, given, box.out)
    outcome = box.run([str(word) for word in argv], **{"timeout_s": TIMEOUT_S, **one.options})
    shutil.rmtree(folder, ignore_errors=True)
    return Result(one, outcome, *_judged(one, outcome))


def _judged(one: Try, outcome: Outcome) -> tuple[str, str]:
    if outcome.executed:
        return "executed", "code of the input was executed"
    if outcome.timed_out:
        return "endless", f"did not end within {outcome.seconds:.0f} s"
    if outcome.traceback:
        return "traceback", outcome.fault() or ""
    if stray := outcome.stray():
        return "outside", stray
    if one.reader == "environment":  # what was printed may be lost; the exit code is what counts
        fault = one.right(outcome) if one.right else None
        return ("code", fault) if fault else ("", "")
    fault = None if _usage(outcome) else outcome.fault()
    fault = fault or (one.right(outcome) if one.right else None)
    return ("code", fault) if fault else ("", "")


def _usage(outcome: Outcome) -> bool:
    """Whether the parser of the command line refused an argument, in its own words."""
    return outcome.code == 2 and outcome.err.startswith("edgeprune: ") and outcome.err.rstrip().endswith(" --help")


def counted(results: Iterable[Result]) -> str:
    """The table, as Markdown."""
    results = list(results)
    rows = []
    readers = [*dict.fromkeys(result.attempt.reader for result in results), "all"]
    for reader in readers:
        chosen = [result for result in results if reader in (result.attempt.reader, "all")]
        kinds = [result.kind for result in chosen]
        counts = [kinds.count(kind) for kind in ("traceback", "executed", "endless")]
        rows.append([reader, len(chosen), *counts, sum(result.outside for result in chosen), kinds.count("code")])
    return table(COLUMNS, rows)


def as_line(result: Result) -> str:
    """One line of JSON."""
    outcome = result.outcome
    last = re.sub(r"\s+", " ", outcome.last_line)[:300]
    told = [result.attempt.id, result.kind, result.fault[:300], outcome.code, round(outcome.seconds, 1), last]
    return json.dumps([*told, list(outcome.written)[:5]])


def main() -> None:
    """Run the readers that are named, or all."""
    words = sys.argv[1:]
    every = int(words[words.index("--every") + 1]) if "--every" in words else 1
    readers = [word for word in words if not word.startswith("--") and not word.isdigit()]
    chosen = [one for one in tries().values() if not readers or one.reader in readers][::every]
    if "--quick" in words:
        chosen = [one for one in chosen if one.command not in COMMANDS or not COMMANDS[one.command].slow]
    began, results = time.monotonic(), []
    for one in chosen:
        try:
            result = attempt(one)
        except Exception as error:
            print(json.dumps([one.id, "harness", repr(error)[:300]]), flush=True)
            continue
        results.append(result)
        print(as_line(result), flush=True)
    print(f"# {len(results)} tries in {time.monotonic() - began:.0f} s\n{counted(results)}", flush=True)
    server().close()


if __name__ == "__main__":
    main()
