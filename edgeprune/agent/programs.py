"""The programs of a job: one, or several that take turns; a measured one under telemetry."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import Callable

from edgeprune.agent.orphans import forget_program, note_program
from edgeprune.agent.system import Refused, end_group, write_file
from edgeprune.agent.telemetry import Telemetry

LOOK_S = 0.02
TURN = "turn"  # folder of the run whose turn it is; a failed one's stays


@dataclass(frozen=True)
class Turns:
    """Programs that are compared: each runs once a round, in an order that rotates, so that what slows the device slows
    all of them.

    Attributes:
        programs: command lines.
        writes: file that every program writes; what is in it is kept of each run. Empty for none.
        rounds: at most.
        least_rounds: taken whatever the time.
        time_limit_s: after it no further round begins; 0 for no limit.
        timeout_s: longest run of one program.
        begins: what a program prints when the work begins of which power is kept; empty for none.
        ends: what it prints when that work ends.
    """

    programs: tuple[tuple[str, ...], ...]
    writes: str
    rounds: int
    least_rounds: int
    time_limit_s: float
    timeout_s: float
    begins: str = ""
    ends: str = ""


def run_measured(job: dict, folder: str, locked: bool, result: dict, changed: Callable[[], str] = lambda: "") -> None:
    """Run a job's program, or its ``turns`` (:class:`Turns`), under telemetry, with the clocks ``locked`` or not.

    A card is watched unless the job says that its figures do not depend on one (``uses_gpu``). ``result`` gets its
    ``returncode``, and its ``conditions`` grow. Turns write a line of JSON a run to ``stdout``: ``program`` (its
    index), ``returncode``, ``stdout``, ``stderr``, ``written``, ``conditions``, and ``power``, of the whole board while
    the program worked: pairs of seconds before the work's end and watts. One that fails is the last. What ``changed()``
    says behind a run, of the board, is told in its conditions, and makes its gate inconclusive.
    """
    telemetry = Telemetry(job.get("uses_gpu", True))
    try:
        telemetry.begin()
        if job.get("turns"):
            result["returncode"] = _run_turns(job, folder, telemetry, locked, dict(result["conditions"]), changed)
        else:
            result["returncode"] = run_program(job, folder)
    finally:
        state = telemetry.finish(locked)
        result["conditions"].update(state)
    result["conditions"].update(_with_change(state, changed()))


def _with_change(state: dict, change: str) -> dict:
    """A run's state with what changed on the board meanwhile."""
    if not change:
        return state
    return dict(state, throttled=True, throttled_why="; ".join(filter(None, (state.get("throttled_why"), change))))


def _run_turns(
    job: dict, folder: str, telemetry: Telemetry, locked: bool, conditions: dict, changed: Callable[[], str]
) -> int:
    turns, own = job["turns"], os.path.join(folder, TURN)
    written = os.path.join(_folder_of(job), turns["writes"])
    os.makedirs(own, exist_ok=True)
    began, count = time.monotonic(), len(turns["programs"])
    with open(os.path.join(folder, "stdout"), "w") as output:
        for number in range(turns["rounds"]):
            for place in range(count):
                index = (place + number) % count
                telemetry.begin()  # the pause before is no part of the run
                program = dict(job, argv=turns["programs"][index], timeout_s=turns["timeout_s"])
                work = _Work(os.path.join(own, "stdout"), turns["begins"], turns["ends"])
                returncode = run_program(program, own, work.look if turns["begins"] else None)
                work.look()
                line = {
                    "program": index,
                    "returncode": returncode,
                    "stdout": _text(os.path.join(own, "stdout")),
                    "stderr": _text(os.path.join(own, "stderr")),
                    "written": _text(written) if turns["writes"] else "",
                    "power": telemetry.power_w(work.began_at, work.ended_at),
                    "conditions": dict(conditions, **_with_change(telemetry.state(locked), changed())),
                }
                output.write(json.dumps(line) + "\n")
                output.flush()
                with contextlib.suppress(OSError):
                    os.unlink(written)  # the next run has its own
                conditions.pop("waited_s", None)  # the first of them waited
                if returncode:
                    return returncode
            late = turns["time_limit_s"] and time.monotonic() - began > turns["time_limit_s"]
            if late and number + 1 >= turns["least_rounds"]:
                break
    shutil.rmtree(own, ignore_errors=True)
    return 0


class _Work:
    """When a program said that its work began and ended, by the clock of :func:`time.monotonic`; None for not yet."""

    def __init__(self, path: str, begins: str, ends: str) -> None:
        self.path, self.begins, self.ends = path, begins, ends
        self.began_at: float | None = None
        self.ended_at: float | None = None

    def look(self) -> None:
        """Read what it has printed by now."""
        if self.ended_at is None and self.begins:
            now, text = time.monotonic(), _text(self.path)
            if self.began_at is None and self.begins in text:
                self.began_at = now
            if self.began_at is not None and self.ends in text:
                self.ended_at = now


def run_program(job: dict, folder: str, look: Callable[[], None] | None = None) -> int:
    """Run a job's program, in a process group that ends with it; its streams go to files in ``folder``. ``look`` is
    called again and again meanwhile.

    Raises:
        Refused: it does not start, or runs longer than ``timeout_s``.
    """
    write_file(folder, "stdin", base64.b64decode(job["stdin"]))
    with contextlib.ExitStack() as files:
        stdin, stdout, stderr = (
            files.enter_context(open(os.path.join(folder, name), mode))
            for name, mode in (("stdin", "rb"), ("stdout", "wb"), ("stderr", "wb"))
        )
        try:
            process = subprocess.Popen(
                job["argv"],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                cwd=_folder_of(job),
                start_new_session=True,
            )
        except OSError as error:
            raise Refused("start", f"does not start: {error.strerror or error}") from error
    try:
        note_program(process.pid)
        return _waited_for(process, job["timeout_s"], look)
    finally:
        try:
            end_group(process)
        finally:
            forget_program(process.pid)


def _waited_for(process: subprocess.Popen, timeout_s: float, look: Callable[[], None] | None) -> int:
    ends = time.monotonic() + timeout_s
    while True:
        try:
            return process.wait(LOOK_S if look else timeout_s)
        except subprocess.TimeoutExpired:
            if not look or time.monotonic() > ends:
                raise Refused("timeout", f"ran longer than {timeout_s:g} s and was stopped") from None
            look()


def _folder_of(job: dict) -> str:
    return os.path.expanduser(job.get("cwd") or "~")


def _text(path: str) -> str:
    with contextlib.suppress(OSError), open(path, errors="replace") as file:
        return file.read()
    return ""
