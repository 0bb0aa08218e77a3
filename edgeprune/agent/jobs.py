"""Jobs: programs that outlive the connection. One process runs a job and leaves its result, others follow its output.

A job's folder holds ``job.json``, ``process`` (who runs it), ``stdin``, ``stdout``, ``stderr``, ``waiting`` (who had
the board while it was another's), ``note`` (for a person to read) and, when it is over, ``result.json``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import sys
import time
from typing import Sequence

from edgeprune.agent.files import remove_folder
from edgeprune.agent.hold import held_board
from edgeprune.agent.orphans import end_orphans
from edgeprune.agent.programs import run_measured, run_program
from edgeprune.agent.system import (
    PROCESS,
    Refused,
    Stopped,
    end_process,
    ignore_signals,
    is_running,
    pid_of,
    read_json,
    refusal_of,
    say,
    start_detached,
    stop_on_signals,
    text_of,
    work_folder,
    write_file,
    write_json,
)

HEARTBEAT_S = 5.0
RESERVED_BYTES = 1 << 16  # room for the result when a job has filled the disk
FULL_DISK_BYTES = 1 << 20
STDERR_BYTES = 1 << 18
PIECE_BYTES = 1 << 20
STOPPED = {"kind": "stopped", "message": "the job was stopped"}


def follow_job(folder: str, offset: int, heard: Sequence[str] = ()) -> dict:
    """Start the job on stdin unless it runs already, send its output from ``offset`` on, and give its result.

    Folders of jobs whose result was ``heard`` are removed: an engine's log and outputs are of no more use there.
    """
    for done in heard:
        remove_folder(done)
    job = sys.stdin.buffer.read()
    with _start(folder) as started:
        if not started:
            write_json(os.path.join(folder, "job.json"), json.loads(job.decode()))
            write_json(os.path.join(folder, PROCESS), start_detached("run", folder))
    process = str(read_json(os.path.join(folder, PROCESS)))
    result_path = os.path.join(folder, "result.json")
    spoke_at, pause_s, unsaid = time.monotonic(), 0.02, {"waiting", "note"}
    while True:
        finished = os.path.exists(result_path) or not _goes_on(process)
        offset, spoke = _send_output(os.path.join(folder, "stdout"), offset, finished)
        for name in [name for name in unsaid if os.path.exists(os.path.join(folder, name))]:
            unsaid.remove(name)
            spoke = True
            say(**{name: text_of(os.path.join(folder, name))})
        if finished:
            break
        if spoke or time.monotonic() - spoke_at > HEARTBEAT_S:
            spoke_at, pause_s = time.monotonic(), 0.02
            if not spoke:
                say(heartbeat=True)
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.25)
    result = read_json(result_path)
    if result is None:
        end_orphans()
        raise Refused("tool", "the job's process died without a result (killed, or the device is out of memory)")
    with contextlib.suppress(OSError), open(os.path.join(folder, "stderr"), "rb") as file:
        file.seek(max(0, os.path.getsize(file.name) - STDERR_BYTES))
        result["stderr"] = file.read().decode(errors="replace")
    return {"done": result}


def cancel_job(folder: str) -> dict:
    """End a job whose caller gave up; gives whether it ``ended``. One that has not begun does not begin any more."""
    with _start(folder) as started:
        if not started:
            write_json(os.path.join(folder, PROCESS), "")
            write_json(os.path.join(folder, "result.json"), {"returncode": None, "conditions": {}, "error": STOPPED})
    process, result = str(read_json(os.path.join(folder, PROCESS))), os.path.join(folder, "result.json")
    end_process(process, lambda: os.path.exists(result))
    end_orphans()
    return {"ended": os.path.exists(result) or not is_running(process)}


def run_job(folder: str) -> None:
    """Do the job in ``folder`` (the program's own process); a result is there in every case."""
    with open(os.path.join(folder, "job.json")) as file:
        job = json.load(file)
    stop_on_signals()
    result: dict = {"returncode": None, "conditions": {}}
    reserve = os.path.join(folder, "reserve")
    try:
        with open(reserve, "wb") as file:
            file.write(b"\0" * RESERVED_BYTES)
        if job["measured"]:
            with held_board(
                job["power_mode"],
                job["clocks"],
                lambda holder: write_file(folder, "waiting", holder.encode()),
                lambda text: write_file(folder, "note", text.encode()),
            ) as (conditions, changed):
                result["conditions"] = conditions
                run_measured(job, folder, conditions.get("clocks") == "locked", result, changed)
        else:
            result["returncode"] = run_program(job, folder)
    except Refused as error:
        result["error"] = {"kind": error.kind, "message": str(error)}
    except Stopped:
        result["error"] = STOPPED
    except OSError as error:
        result["error"] = refusal_of(error, "tool")
    ignore_signals()
    with contextlib.suppress(OSError):
        os.unlink(reserve)
    if result["returncode"] and shutil.disk_usage(folder).free < FULL_DISK_BYTES:
        result["error"] = refusal_of(OSError(errno.ENOSPC, ""))
    write_json(os.path.join(folder, "result.json"), result)


@contextlib.contextmanager
def _start(folder: str):
    """Whether a job was started; only one process at a time may be about to: a connection that was lost is opened
    again before the agent on the other end of it has noticed."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(work_folder(), "jobs.lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield os.path.exists(os.path.join(folder, PROCESS))


def _goes_on(process: str) -> bool:
    """Whether the process runs; one that waits to be collected by its parent does not."""
    pid = pid_of(process)
    with contextlib.suppress(ChildProcessError):
        if pid and os.waitpid(pid, os.WNOHANG)[0] == pid:
            return False
    return is_running(process)


def _send_output(path: str, offset: int, finished: bool) -> tuple[int, bool]:
    """Send what the output has from ``offset`` on: whole lines, and the rest when the job is over.

    Returns:
        The new offset, and whether something was sent that leaves the job running.
    """
    try:
        with open(path, "rb") as file:
            while True:
                file.seek(offset)
                piece = file.read(PIECE_BYTES)
                whole = finished or len(piece) == PIECE_BYTES
                size = len(piece) if whole else piece.rfind(b"\n") + 1
                if not size:
                    return offset, False
                offset += size
                say(out=piece[:size].decode(errors="replace"), at=offset)
                if not finished:
                    return offset, True
    except FileNotFoundError:  # it has not begun
        return offset, False
