"""Runs a worker process: a JSON job in, JSON lines out, live; the one place that starts and ends it."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import edgeprune
from edgeprune.errors import DataError, DeviceError, ToolError
from edgeprune.progress import Progress

TAIL_BYTES = 4000
BENCH_WORKER = "edgeprune.runtimes.bench_worker"
END_TO_END_WORKER = "edgeprune.runtimes.end_to_end_worker"


def run_worker(
    job: Mapping[str, Any], told: Callable[[dict[str, Any]], None] | None = None, *, module: str = BENCH_WORKER
) -> dict[str, Any]:
    """Run one job in a fresh interpreter and return its result.

    The process never outlives this call: any exception on the way, Ctrl-C included, kills it.

    Args:
        job: what to do; see :mod:`edgeprune.runtimes.bench_worker`.
        told: called with every progress line as it arrives.
        module: the worker's module.

    Raises:
        DataError: the worker cannot use a model.
        DeviceError: the runtime or a provider is missing.
        ToolError: the worker crashed; the tail of its stderr is in the error.
    """
    argv = [sys.executable, "-m", module]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=Path(edgeprune.__file__).parents[1],  # the same edgeprune, also from a checkout that is not installed
            start_new_session=True,  # Ctrl-C reaches the caller, which ends the worker below
        )
        try:
            assert process.stdin is not None and process.stdout is not None  # both are pipes
            with contextlib.suppress(BrokenPipeError):  # it ended at once: its exit status says why
                process.stdin.write(json.dumps(dict(job)).encode())
                process.stdin.close()
            answer: dict[str, Any] = {}
            for raw in process.stdout:
                line = line_of(raw)
                if "progress" in line and told is not None:
                    told(line["progress"])
                elif "result" in line or "error" in line:
                    answer = line
            returncode = process.wait()
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        tail = _tail(errors)
    return answered(answer, returncode, _named(argv), tail)


def answered(answer: Mapping[str, Any], returncode: int, argv: Sequence[str], tail: str) -> dict[str, Any]:
    """The result in a worker's last line; its error, or the crash that left none, as one of edgeprune's."""
    if "result" in answer and returncode == 0:
        return answer["result"]
    if "error" in answer:
        kinds: dict[str, type[DataError] | type[DeviceError]] = {"data": DataError, "device": DeviceError}
        raise kinds[answer["error"]["kind"]](answer["error"]["message"])
    raise ToolError(argv, returncode, tail)


def rounds_told(progress: Progress, before: int = 0, total: int = 0) -> Callable[[dict[str, Any]], None]:
    """What a worker says of its interleaved rounds, for people: the last medians side by side.

    Args:
        progress: told every line.
        before: rounds that earlier launches took.
        total: rounds of all launches; what the worker says when 0.
    """

    def told(line: dict[str, Any]) -> None:
        last = [f"{statistics.median(values):.2f}" for values in line.get("last_ms", ())]
        text = f"{line['stage']}: {' / '.join(last)} ms" if last else line["stage"]
        progress(text, done=before + line["done"], total=total or line["total"])

    return told


def _named(argv: Sequence[str]) -> list[str]:
    return [f"{argv[2]} ({argv[0]} -m {argv[2]})", *argv[3:]]


def line_of(raw: bytes | str) -> dict[str, Any]:
    """A line of the protocol; whatever a library prints between is passed over."""
    try:
        line = json.loads(raw)
    except ValueError:
        return {}
    return line if isinstance(line, dict) else {}


def _tail(file: Any) -> str:
    end = file.seek(0, 2)
    file.seek(max(0, end - TAIL_BYTES))
    return file.read().decode(errors="replace")
