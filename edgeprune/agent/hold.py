"""Holding a board for measured jobs: one build at a time, in its power mode, for as long as its jobs follow closely.

A detached process, the holder, keeps the device-wide lock with power mode and clocks set, so that jobs which are
compared run under one setting. ``hold.json`` in the work directory says how far it is; a job that runs leaves a file
``busy-PID`` there, and the next one waits for its end.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import time

from edgeprune.agent.orphans import end_orphans
from edgeprune.agent.power import Restored, board_change, left_to_restore, prepare_board, restore_board
from edgeprune.agent.system import (
    Refused,
    Stopped,
    ignore_signals,
    is_of_here,
    is_running,
    pid_of,
    process_of,
    read_json,
    refusal_of,
    start_detached,
    stop_on_signals,
    text_of,
    work_folder,
    write_file,
    write_json,
)

HOLD_FILE = "hold.json"
LOCK_FILE = "edgeprune.lock"
DECISION_FILE = "hold.lock"  # of a work directory for which the board was held, now or before
NOT_RESTORED_FILE = "not_restored"
LOST_FILE = "lost"
LOG_FILE = "hold.log"  # stderr of the holder: what it says when it crashes
NOT_HELD = "the board was not held to the end of the run: another build may have used it, or changed its power mode"
MOST_STARTS = 3  # of a holder for one job: one that is killed for its memory each time would be started for ever
# a pause after which the board is another's; shorter ones lie between processes that are compared
IDLE_S = float(os.environ.get("EDGEPRUNE_IDLE_S", "10"))


@contextlib.contextmanager
def board_lock(on_wait):
    """The device-wide lock: one build or timing at a time, whoever started it.

    Args:
        on_wait: called with the present holder while the lock is another's.

    Yields:
        The seconds that were waited.
    """
    path = _lock_path()
    handle = _open_lock(path)
    began, named = time.monotonic(), True
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                text = text_of(path)
                if text or not named:  # one that has just taken it writes its name in a moment
                    on_wait(_holder_in(text))
                named = bool(text)
                time.sleep(0.1)
        _name_in(handle, f"process {os.getpid()} of {_user()}\n{process_of(os.getpid())}")
        try:
            yield time.monotonic() - began
        finally:
            _name_in(handle, "")  # whoever comes next and may not write names nobody then, and not this one
    finally:
        os.close(handle)


def _open_lock(path: str) -> int:
    """The lock file for reading and writing; for reading alone where it is another user's that nobody else may write.

    One that is there is opened without asking for it to be made: Ubuntu refuses that of another user's file in a sticky
    folder (``fs.protected_regular``), whoever may write it.
    """
    flags = getattr(os, "O_NOFOLLOW", 0)
    while True:
        try:
            return os.open(path, os.O_RDWR | flags)
        except PermissionError:
            return os.open(path, os.O_RDONLY | flags)
        except FileNotFoundError:
            mask = os.umask(0)
            try:
                return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | flags, 0o666)
            except FileExistsError:  # another one was first
                continue
            finally:
                os.umask(mask)


def _name_in(handle: int, text: str) -> None:
    with contextlib.suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, text.encode(), 0)


def _holder_in(text: str) -> str:
    """Who has the board, by the text of the lock file: that of a process which has ended is of an earlier one, whose
    name whoever has the board could not replace."""
    holder, _, process = text.partition("\n")
    ended = is_of_here(process) and not is_running(process)
    return holder if holder and not ended else "another user"


def restore_unless_held() -> Restored | None:
    """Put back what a run that was killed had changed, unless somebody has the board.

    Another build of this user does so first, before it changes anything. One of another user does not: what is to be
    put back is noted in this user's home.

    Returns:
        What was put back and what is not; None where another build of this user has the board.
    """
    holders = []

    def give_up(holder: str) -> None:
        holders.append(holder)
        raise Stopped

    try:
        with board_lock(give_up):
            return restore_board()
    except Stopped:
        if not holders:  # it was not the lock: this process was asked to end
            raise
    if holders[0].endswith(f" of {_user()}"):
        return None
    left = left_to_restore()
    return Restored("", left and f"{left}; this waits until {holders[0]} lets go of the board")


@contextlib.contextmanager
def held_board(mode: str, lock_clocks: bool, on_wait, on_note=lambda text: None):
    """The board for one job: waits for the holder, which is started where there is none, and for the end of another job
    of the same build: one whose caller gave up, and that could not be told so.

    Args:
        mode: power mode by its name; empty for the one that the board is in.
        lock_clocks: lock the clocks, where this user may.
        on_wait: called once with the present holder while the board is another build's.
        on_note: called with what a person may want to know: what an earlier run had left changed, or that one goes on.

    Yields:
        The board's power mode and clocks, and ``waited_s`` if another build had it; and a function that says what of
        that is no longer so, empty for nothing: the holder may be killed, a person may set another mode.
    """
    work = work_folder()
    busy = os.path.join(work, f"busy-{os.getpid()}")
    began, waited = time.monotonic(), []

    def wait(holder: str) -> None:
        if not waited:
            waited.append(holder)
            on_wait(holder)

    end_orphans()  # of whichever build of this user: the holder would let this job in beside a program that goes on
    try:
        hold = _joined_hold(work, busy, mode, lock_clocks, wait, on_note)
        conditions, holder = dict(hold["conditions"]), hold["process"]
        if waited and time.monotonic() - began > 1.0:
            conditions["waited_s"] = round(time.monotonic() - began, 2)

        def changed() -> str:
            now = read_json(os.path.join(work, HOLD_FILE))
            if not isinstance(now, dict) or now.get("process") != holder or not is_running(holder):
                return NOT_HELD
            return board_change(hold["conditions"])

        yield conditions, changed
    finally:
        with contextlib.suppress(OSError):
            os.utime(os.path.join(work, HOLD_FILE))
        with contextlib.suppress(OSError):
            os.unlink(busy)


def hold_board(work: str, mode: str, clocks: str) -> None:
    """Be the holder of a work directory's board (the program's own process).

    Ends, and puts back what it changed, on a signal, when the work directory is gone, or ``IDLE_S`` after the last job.
    """
    path = os.path.join(work, HOLD_FILE)
    stop_on_signals()
    announced = []

    def announce(**state) -> None:
        with _decision(work):
            write_json(path, dict(state, process=process_of(os.getpid())))

    def wait(holder: str) -> None:
        if not announced:
            announced.append(holder)
            announce(state="waiting", holder=holder)
        if not os.path.isdir(work):
            raise Stopped

    try:
        with board_lock(wait):
            try:
                end_orphans()
                left = restore_board()
                conditions = prepare_board(mode, bool(clocks))
                told = "; ".join(filter(None, (_told(left), conditions.get("clocks_doubt"))))
                announce(state="ready", conditions=conditions, left=told)
                untouched = Untouched(path)
                while _is_needed(work, untouched):
                    time.sleep(0.1)
            finally:
                ignore_signals()
                _, failure, lost = restore_board()
                for name, text in ((NOT_RESTORED_FILE, failure), (LOST_FILE, lost)):
                    if text:
                        with contextlib.suppress(OSError), open(os.path.join(work, name), "w") as file:
                            file.write(text)
    except Refused as error:
        announce(state="refused", kind=error.kind, message=str(error))
    except Stopped:
        pass
    except OSError as error:
        with contextlib.suppress(OSError):
            announce(state="refused", **refusal_of(error))


def _joined_hold(work: str, busy: str, mode: str, lock_clocks: bool, on_wait, on_note) -> dict:
    path, log = os.path.join(work, HOLD_FILE), os.path.join(work, LOG_FILE)
    starts, seen, told = 0, False, False
    while True:
        with _decision(work):
            hold: dict | None = read_json(path)
            running = bool(hold) and is_running(hold["process"])
            # one that refused has ended, or is about to; asked again it would do again what it was refused. A refusal
            # that was left by a job which nobody waited for is of another time
            answered = bool(hold) and hold["state"] == "refused" and (running or seen or starts > 0)
            seen = seen or running
            if not hold or not (running or answered):
                if starts == MOST_STARTS:
                    raise Refused("device", _ended_silently(text_of(log)))
                started = start_detached("hold", work, mode, "1" if lock_clocks else "", log=log)
                starts += 1
                hold = {"process": started, "state": "starting"}
                write_json(path, hold)
            other = _busy_in(work, but=busy) if hold["state"] == "ready" else ""
            if hold["state"] == "ready" and not other:
                write_file(work, os.path.basename(busy), process_of(os.getpid()).encode())
                if hold.get("left"):
                    on_note(hold.pop("left"))
                    write_json(path, hold)
                return hold
            if hold["state"] == "refused":
                os.unlink(path)
                raise Refused(hold["kind"], hold["message"])
        if hold["state"] == "waiting":
            on_wait(hold["holder"])
        elif other and not told:
            told = True
            on_note(f"an earlier run of this build goes on there (process {pid_of(other)}); waiting for its end")
        time.sleep(0.05)


def _ended_silently(log: str) -> str:
    """What is told of a holder that ended again and again, and never said why; ``log`` is its stderr."""
    seen = log.splitlines()[-1] if log else "it said nothing: killed, or out of memory"
    return (
        f"the process that holds the board for measured runs ended {MOST_STARTS} times before it had it ({seen}); "
        "end other programs there, or restart it, and give the same command again"
    )


@contextlib.contextmanager
def _decision(work: str):
    """Only one process at a time decides: a job that wants the board held, or a holder that wants to let go."""
    with open(os.path.join(work, DECISION_FILE), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Untouched:
    """For how long nobody has touched a file, by a clock that nobody sets: a board gets the time of day from the
    network, which may put it back by years while it works."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._touched_at, self._since = -1, 0.0

    def seconds(self) -> float:
        """Since a call of this first saw the file as it is."""
        touched_at = os.stat(self.path).st_mtime_ns
        if touched_at != self._touched_at:
            self._touched_at, self._since = touched_at, time.monotonic()
        return time.monotonic() - self._since


def _is_needed(work: str, untouched: Untouched) -> bool:
    """Whether a measured job runs or ran a moment ago; once not, nobody can join any more."""
    with _decision(work):
        if _busy_in(work):
            return True
        if untouched.seconds() < IDLE_S:
            return True
        os.unlink(untouched.path)
        return False


def _busy_in(work: str, but: str = "") -> str:
    """The process of a measured job that runs in a work directory, ``but`` the one that this file names; empty for
    none."""
    files = (path for path in glob.glob(os.path.join(work, "busy-*")) if path != but)
    return next(filter(is_running, map(text_of, files)), "")


def _told(left: Restored) -> str:
    """What an earlier run had left changed, in a sentence; empty for nothing."""
    done = left.done and f"put back what an earlier run that was cut off had left changed: {left.done}"
    return "; ".join(text for text in (done, left.lost, left.failure) if text)


def _lock_path() -> str:
    # everybody may write to it on a Jetson and on Debian; where not, and nobody made the file, all find the other one
    folders = ("/run/lock", "/tmp")
    usable = (one for one in folders if os.access(one, os.W_OK) or os.path.exists(os.path.join(one, LOCK_FILE)))
    return os.environ.get("EDGEPRUNE_LOCK") or os.path.join(next(usable, "/tmp"), LOCK_FILE)


def _user() -> str:
    return os.environ.get("USER") or os.environ.get("LOGNAME") or str(os.getuid())
