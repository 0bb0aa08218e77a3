"""Runs a worker process, alone or in the hold of a board: a JSON job in, JSON lines out, live."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from edgeprune.agent.telemetry import Telemetry
from edgeprune.devices.base import Device
from edgeprune.devices.process import by_lines, run_program
from edgeprune.errors import DataError, DeviceError, ToolError
from edgeprune.progress import Progress
from edgeprune.runtimes.jobs import Job, WorkerProgress
from edgeprune.samples.conditions import DeviceState
from edgeprune.serial import from_json

Answer = TypeVar("Answer")
OnProgress = Callable[[WorkerProgress], None]
ERRORS: dict[str, type[DataError] | type[DeviceError]] = {"data": DataError, "device": DeviceError}
ROOT = str(Path(__file__).parents[2])  # the same edgeprune, also from a checkout that is not installed
HELD_TIMEOUT_S = 7200.0  # an INT8 build on an Orin Nano takes minutes


def error_of_job(kind: str, message: str) -> DataError | DeviceError:
    """What a job could not be done for (:class:`~edgeprune.runtimes.bench_worker.JobError`), as an error of this tree;
    the same whether it ran in a worker or in this process."""
    return ERRORS[kind](message)


def run_worker(
    job: Job, answer: type[Answer], on_progress: OnProgress | None = None, *, timeout_s: float | None = None
) -> Answer:
    """Run one job in a fresh interpreter and return its answer.

    The process never outlives this call: any exception on the way, Ctrl-C included, kills it.

    Args:
        job: what to do; see :mod:`edgeprune.runtimes.jobs`.
        answer: class of the answer.
        on_progress: called whenever the worker says that it moves.
        timeout_s: longest run; None for no limit.

    Raises:
        DataError: the worker cannot use a model.
        DeviceError: the runtime or a provider is missing.
        ToolError: the worker crashed, with the tail of its stderr, or ran longer than ``timeout_s``.
    """
    last: dict[str, Any] = {}

    def take(raw: bytes) -> None:
        nonlocal last
        last = line_of(raw, on_progress) or last

    ended = run_program(
        [sys.executable, "-m", job.module],
        stdin=job_text(job),
        on_output=by_lines(take),
        timeout_s=timeout_s,
        cwd=ROOT,
    )
    return answer_in(last, answer, ended.returncode, _told(job), ended.stderr)


def run_watched(job: Job, answer: type[Answer], on_progress: OnProgress | None = None) -> tuple[Answer, DeviceState]:
    """The same, and what this machine's GPU was like meanwhile: a card throttles without a word of its runtime.

    Raises:
        DataError, DeviceError, ToolError: as :func:`run_worker`.
    """
    telemetry = Telemetry()
    try:
        telemetry.begin()
        result = run_worker(job, answer, on_progress)
    finally:
        state = telemetry.finish(locked=False)
    return result, from_json(DeviceState, state, "telemetry")


def run_held(
    board: Device, job: Job, answer: type[Answer], on_progress: OnProgress | None = None, *, uses_gpu: bool = True
) -> tuple[Answer, DeviceState]:
    """The same on this machine as a board, in its hold: in the device's power mode and with its clocks, watched by its
    sensors, and alone. Gives what the board was like meanwhile, too.

    Raises:
        DataError, DeviceError, ToolError: as :func:`run_worker`; ``DeviceError`` where the mode cannot be set.
    """

    def hear(line: str) -> None:
        line_of(line, on_progress)

    done = board.run(
        [sys.executable, "-m", job.module],
        timeout_s=HELD_TIMEOUT_S,
        cwd=ROOT,
        stdin=job_text(job),
        measured=True,
        uses_gpu=uses_gpu,
        on_line=hear,
    )
    return answer_in(last_line(done.stdout), answer, done.returncode, _told(job), done.stderr), done.device


def _told(job: Job) -> list[str]:
    """What errors call a worker on this machine."""
    return [f"{job.module} ({sys.executable} -m {job.module})"]


def job_text(job: Job) -> bytes:
    """What a worker reads."""
    return json.dumps({"job": type(job).__name__, **asdict(job)}).encode()


def line_of(raw: bytes | str, on_progress: OnProgress | None = None) -> dict[str, Any]:
    """The last line of the protocol, or an empty one: progress is passed on, what a library prints between is not."""
    try:
        line = json.loads(raw)
    except ValueError:
        return {}
    if not isinstance(line, dict):
        return {}
    if "progress" in line and on_progress is not None:
        on_progress(WorkerProgress(**line["progress"]))
    return line if "result" in line or "error" in line else {}


def last_line(output: str) -> dict[str, Any]:
    """The last line of the protocol in all that a worker printed; an empty one where it has none."""
    return next((line for text in reversed(output.splitlines()) if (line := line_of(text))), {})


def answer_in(last: Mapping[str, Any], answer: type[Answer], returncode: int, argv: Sequence[str], tail: str) -> Answer:
    """The answer in a worker's last line; its error, or the crash that left none, as one of edgeprune's."""
    if "result" in last and returncode == 0:
        return from_json(answer, last["result"], argv[0])
    if "error" in last:
        raise error_of_job(**last["error"])
    raise ToolError(argv, returncode, tail)


def show_rounds(progress: Progress, before: int = 0, total: int = 0) -> OnProgress:
    """Shows a worker's interleaved rounds to people: the last medians side by side.

    Args:
        progress: told every line.
        before: rounds that earlier launches took.
        total: rounds of all launches; what the worker says when 0.
    """

    def show(worker: WorkerProgress) -> None:
        medians_ms = [statistics.median(values) for values in worker.last_ms]
        text = f"{worker.stage}: {' / '.join(f'{ms:.2f}' for ms in medians_ms)} ms" if medians_ms else worker.stage
        progress(text, done=before + worker.done, total=total or worker.total, latest_ms=medians_ms)

    return show
