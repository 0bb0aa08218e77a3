"""Work directories: whose they are, and how one is left so that nothing of it stays on the device."""

from __future__ import annotations

import contextlib
import glob
import os
import platform
import shutil
import time
from functools import partial

from edgeprune.agent.hold import DECISION_FILE, HOLD_FILE, LOST_FILE, NOT_RESTORED_FILE, restore_unless_held
from edgeprune.agent.orphans import end_orphans
from edgeprune.agent.power import RESTORE_TIMEOUT_S, boot_id
from edgeprune.agent.system import (
    PROCESS,
    Refused,
    end_process,
    is_running,
    read_json,
    refusal_of,
    text_of,
    write_file,
    write_json,
)

PREFIX = "edgeprune-"
OWNER_FILE = "owner.json"  # its time is that of the last command
USED_FILE = "used"  # which boot of the machine that was in, and how many seconds after it
STALE_S = 7 * 86400


def note_use(work: str) -> None:
    """Somebody uses this work directory: it is not stale."""
    with contextlib.suppress(OSError):
        os.utime(os.path.join(work, OWNER_FILE))
        write_file(work, USED_FILE, f"{boot_id()} {_since_boot_s()}".encode())


def _unused_s(work: str) -> float:
    """Seconds since somebody used a work directory: by the time of day, and no more than a clock says that nobody sets
    where the machine has not been started since. A board gets the time of day from the network, which may put it on by
    years while a build trains."""
    by_day_s = time.time() - os.stat(os.path.join(work, OWNER_FILE)).st_mtime
    boot, _, at = text_of(os.path.join(work, USED_FILE)).partition(" ")
    with contextlib.suppress(ValueError):
        if boot and boot == boot_id():
            return min(by_day_s, _since_boot_s() - float(at))
    return by_day_s


def _since_boot_s() -> float:
    """Sleep counts, where the system can tell."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def enter_work(work: str, owner: str) -> dict:
    """Name the owner of this work directory; gives those of others that lie beside it: their ``folder``, ``owner``, and
    whether they are ``stale``: no command came for :data:`STALE_S`, and no job runs there."""
    write_json(os.path.join(work, OWNER_FILE), {"owner": owner})
    others = []
    for folder in glob.glob(os.path.join(os.path.dirname(work), PREFIX + "*")):
        named = read_json(os.path.join(folder, OWNER_FILE))
        try:
            mine = os.stat(folder).st_uid == os.geteuid() and os.path.abspath(folder) != os.path.abspath(work)
            unused_s = _unused_s(folder)
        except OSError:
            continue
        if not mine or not isinstance(named, dict) or "owner" not in named:
            continue
        stale = unused_s > STALE_S and not any(is_running(process) for _, process in _jobs_in(folder))
        others.append({"folder": folder, "owner": named["owner"], "stale": stale})
    return {"python": platform.python_version(), "free_bytes": shutil.disk_usage(work).free, "others": others}


def _jobs_in(work: str) -> list[tuple[str, str]]:
    """Folders of the jobs of a work directory, each with its process."""
    folders = glob.glob(os.path.join(work, "jobs", "*"))
    return [(folder, str(read_json(os.path.join(folder, PROCESS)))) for folder in folders]


def leave_work(work: str) -> dict:
    """End the jobs of a work directory, put power and clocks back where it ever held the board, and remove it, whatever
    else fails. Of whoever only looked at the device nothing is put back: that waits for the next run.

    Returns:
        ``restored``: what was put back of a run that was killed, for people; ``not_restored``: what could not be;
        ``removed``: whether the folder is gone.
    """
    if not os.path.basename(os.path.abspath(work)).startswith(PREFIX):
        raise Refused("device", f"{work} is not a work directory of edgeprune")
    restored = lost = ""
    try:
        jobs = _jobs_in(work)
        for folder, process in jobs:
            end_process(process, partial(os.path.exists, os.path.join(folder, "result.json")))
        end_orphans([process for _, process in jobs])
        hold = read_json(os.path.join(work, HOLD_FILE))
        if isinstance(hold, dict):
            end_process(str(hold.get("process")), timeout_s=RESTORE_TIMEOUT_S)
        left, lost = None, text_of(os.path.join(work, LOST_FILE))
        if os.path.exists(os.path.join(work, DECISION_FILE)):
            left = restore_unless_held()  # a holder that was killed could not put anything back itself
        if left is None:
            failure = text_of(os.path.join(work, NOT_RESTORED_FILE))
        else:
            restored, failure, found = left
            lost = lost or found
    except OSError as error:
        failure = f"its power mode and clocks may be changed: {refusal_of(error)['message']}"
    finally:
        shutil.rmtree(work, ignore_errors=True)
    told = "; ".join(text for text in (lost, failure) if text)
    return {"removed": not os.path.exists(work), "restored": restored, "not_restored": told}
