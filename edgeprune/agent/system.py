"""Reading a machine: its files, programs and processes.

Absolute paths of the system are read below ``EDGEPRUNE_ROOT``, which only a stand-in board sets.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import Sequence

ROOT = os.environ.get("EDGEPRUNE_ROOT", "")
STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
PROCESS = "process"  # file of a job's folder that names its process
END_TIMEOUT_S = 20.0  # for a process that was asked to end, until it has tidied up
GRACE_S = 5.0  # for a program that was asked to end; docker's client has its container end, which no kill of it does
KILLED_S = 5.0  # for a program that was killed; one of another user (sudo) cannot be, and is not waited for


class Refused(Exception):
    """A person has to change something; ``kind`` is for the program on the other side."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Stopped(Exception):
    """A signal asked this process to end."""


def archive_path() -> str:
    """The zip file that this program runs from."""
    return os.path.abspath(sys.argv[0])


def work_folder() -> str:
    """The folder that the zip file lies in; all that edgeprune leaves on a device is below it."""
    return os.path.dirname(archive_path())


def start_detached(*arguments: str, log: str = os.devnull) -> str:
    """Start this program in a session of its own, which outlives the connection; gives the process as
    :func:`process_of` names it. ``log`` is the file that its stderr goes to."""
    with open(log, "wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, archive_path(), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
    return process_of(process.pid)


def say(**line) -> None:
    """Send one line of JSON to the workstation."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def system_path(path: str) -> str:
    """An absolute path as this board has it."""
    return ROOT + path


def text_of(path: str) -> str:
    """A file's text without the white space and zero bytes around it; empty where it cannot be read."""
    try:
        with open(path, errors="replace") as file:
            return file.read().strip("\0\n ")
    except OSError:
        return ""


def allowed_cpus() -> set:
    """Numbers of the CPUs that this process may use; all of them where the system pins no process (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def output_of(argv: list[str], stdin: str = "", timeout_s: float = 20) -> tuple[int, str]:
    """Exit code of a program, and both of its streams as one text, in English, for it is searched for words; 127 where
    it does not start or end.

    A program that this user may not kill, as one by ``sudo``, is left behind when its time is over.
    """
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            errors="replace",
            env=dict(os.environ, LC_ALL="C"),
        )
    except OSError as error:
        return 127, str(error)
    try:
        text, _ = process.communicate(stdin, timeout_s)
        return process.returncode, text
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, str(error)
    finally:  # a signal to end goes on from here
        if process.poll() is None:
            with contextlib.suppress(OSError):
                process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(KILLED_S)
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if stream:
                    stream.close()


def end_group(process: subprocess.Popen, grace_s: float = GRACE_S) -> None:
    """End a program that leads a process group, and all that it started: asked first, killed after ``grace_s``.

    Of one that has ended by itself, what it left behind is killed at once.
    """
    try:
        if process.poll() is None:
            _signal_group(process.pid, signal.SIGTERM)
            ends = time.monotonic() + grace_s
            while (process.poll() is None or _signal_group(process.pid, 0)) and time.monotonic() < ends:
                time.sleep(0.02)
    finally:  # whoever is told again to end does not leave it running
        _signal_group(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(KILLED_S)


def end_leader(process: str, grace_s: float = GRACE_S) -> None:
    """End a program that leads a process group and is no child of this process, with all that it started, as
    :func:`end_group` does; ``process`` as :func:`process_of` named it."""
    if not is_running(process):
        return
    group, ends = pid_of(process), time.monotonic() + grace_s
    _signal_group(group, signal.SIGTERM)
    while is_running(process) and time.monotonic() < ends:
        time.sleep(0.02)
    _signal_group(group, signal.SIGKILL)
    ends = time.monotonic() + KILLED_S
    while is_running(process) and time.monotonic() < ends:
        time.sleep(0.02)


def _signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group; whether there is one that may be sent it."""
    try:
        os.killpg(group, number)
    except OSError:
        return False
    return True


def read_json(path: str):
    """What a JSON file holds; None where there is none, or half of one."""
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def write_json(path: str, data) -> None:
    """Write a JSON file, whole or not at all."""
    partial = f"{path}.{os.getpid()}.part"  # two connections may write the same file at once
    try:
        with open(partial, "w") as file:
            json.dump(data, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


def write_file(folder: str, name: str, content: bytes) -> None:
    """Write a file of a job's folder."""
    with open(os.path.join(folder, name), "wb") as file:
        file.write(content)


def is_alive(pid: int) -> bool:
    """Whether a process of this id runs, whoever it belongs to.

    One that ended and was not yet collected does not: in a container the first process may collect late, or never.
    """
    state = text_of(f"/proc/{pid}/stat").rpartition(")")[2].split()[:1]  # the name before it may hold anything
    if state:
        return state[0] not in ("Z", "X")
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True


def process_of(pid: int) -> str:
    """``PID STARTED NAMESPACE``: what a process is known by in files.

    A number alone is given again, soon after a reboot, and every container counts from 1.
    """
    fields = text_of(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return f"{pid} {fields[19] if len(fields) > 19 else '?'} {_namespace()}"


def is_running(process: str) -> bool:
    """Whether a process, as :func:`process_of` named it, runs; one of another container is not known to."""
    pid = pid_of(process)
    return bool(pid) and is_alive(pid) and process_of(pid) == process


def is_of_here(process: str) -> bool:
    """Whether :func:`process_of` named it where it can be looked for: in no other container."""
    return bool(pid_of(process)) and process.split()[2:] == [_namespace()]


def pid_of(process: str) -> int:
    """The number of a process, as :func:`process_of` named it; 0 for a text that names none."""
    match = re.match(r"(\d+) \S+ \S+$", process)
    return int(match.group(1)) if match else 0


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return "?"


def end_process(process: str, finished=lambda: False, timeout_s: float = END_TIMEOUT_S) -> None:
    """Ask a process, as :func:`process_of` named it, to end; wait until it is gone or ``finished()`` says that its work
    is, for ``timeout_s`` at most."""
    if finished() or not is_running(process):
        return
    with contextlib.suppress(OSError):
        os.kill(pid_of(process), signal.SIGTERM)
    ends = time.monotonic() + timeout_s
    while is_running(process) and not finished() and time.monotonic() < ends:
        time.sleep(0.05)


def stop_on_signals(but: Sequence[int] = ()) -> None:
    """From now on a signal to end raises :class:`Stopped`, ``but`` those that keep their meaning.

    One that whoever started this process had ignored (``nohup``: SIGHUP; ``&`` in a script: SIGINT) stays so; but for
    SIGTERM, by which :func:`end_process` asks.
    """

    def stop(*_) -> None:
        raise Stopped

    for number in STOP_SIGNALS:
        ignored = signal.getsignal(number) is signal.SIG_IGN and number != signal.SIGTERM
        if number not in but and not ignored:
            signal.signal(number, stop)


def ignore_signals() -> None:
    """From now on a signal to end is ignored: what is left to do must be done."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def refusal_of(error: OSError, fallback: str = "device") -> dict:
    """An error of the operating system as ``{kind, message}``. Of a full disk ``kind`` is ``full``: the caller knows
    which other disk may be taken."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        folder = work_folder()
        free = shutil.disk_usage(folder).free / 2**20
        place = os.path.dirname(folder)
        return {"kind": "full", "message": f"the disk of {place} is full ({free:.1f} MiB free)"}
    where = f"{error.filename}: " if error.filename else ""
    return {"kind": fallback, "message": where + (error.strerror or str(error))}
