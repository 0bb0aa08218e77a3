"""Runs the command line again and again from one warm process: each run is a fork in which torch is imported already.

A run begins as ``python -m edgeprune`` does (own session, own standard streams, own working directory and environment)
and ends as it does: an uncaught exception prints its traceback, threads are awaited, ``atexit`` runs, and a full or
closed stdout is met while flushing. A child that does not end is killed with
everything that it started. Requests and replies are lines of JSON on two pipes.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import pkgutil
import random
import resource
import select
import signal
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

PRELOADED = (
    *("torch", "torchvision", "ultralytics", "ultralytics.models.yolo", "ultralytics.nn.tasks", "ultralytics.data"),
    *("ultralytics.engine.exporter", "ultralytics.engine.trainer", "ultralytics.engine.validator"),
    *("torch_pruning", "torch.export", "onnx", "onnxruntime", "onnxruntime.quantization", "onnxsim", "scipy.optimize"),
    *("scipy.stats", "matplotlib.pyplot", "pydantic", "jinja2", "yaml", "rich.table", "rich.progress", "cv2", "PIL"),
    *("sklearn.datasets",),
)
SKIPPED = ("__main__", "agent", "fake_programs", "on_device", "worker", "jobs_ray")  # programs of their own, and Ray
MEMORY_BYTES = 6 << 30  # of one run: a bomb shall not take the machine


def preload() -> None:
    """Import what commands need later; what cannot be imported here is met by the command itself."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    # ONNX Runtime's telemetry is a thread, which no fork survives, and a database below HOME, which tests look for
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import edgeprune  # first: it tells Ultralytics to load weights safely, which is read once

    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for module in pkgutil.walk_packages(edgeprune.__path__, "edgeprune."):
        if not any(module.name.rpartition(".")[2].endswith(word) for word in SKIPPED):
            with contextlib.suppress(Exception):  # TensorRT's stubs import, and are no TensorRT
                importlib.import_module(module.name)
    del os.environ["ORT_DISABLE_TELEMETRY"]
    gc.collect()
    gc.freeze()  # pages of what is loaded stay shared with the children


def become(request: dict[str, Any]) -> None:
    """Turn this child into a fresh ``edgeprune ...``."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        ignored = number is signal.SIGPIPE  # as the interpreter sets it
        handler = signal.SIG_IGN if ignored else signal.default_int_handler if number is signal.SIGINT else 0
        signal.signal(number, handler)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if request.get("file_bytes") is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_bytes"],) * 2)
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    tempfile.tempdir = None
    random.seed()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for number, place in ((1, request["stdout"]), (2, request["stderr"])):
        if place == "closed":
            os.close(number)
            continue
        handle = os.open(place, os.O_WRONLY | (0 if place.startswith("/dev/") else os.O_CREAT | os.O_APPEND), 0o644)
        os.dup2(handle, number)
        os.close(handle)
    encoding = request.get("encoding") or "utf-8"
    sys.stdin = open(0, encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = _text(1, encoding, "strict")  # pyright: ignore[reportAttributeAccessIssue]
    sys.stderr = sys.__stderr__ = _text(2, encoding, "backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    _point_loggers_at(sys.stdout, sys.stderr)
    sys.argv = ["edgeprune", *request["argv"]]


def _text(number: int, encoding: str, errors: str) -> io.TextIOWrapper | None:
    try:
        raw = os.fdopen(number, "wb", -1, closefd=False)
    except OSError:  # closed: the interpreter's own answer is None
        return None
    return io.TextIOWrapper(raw, encoding=encoding, errors=errors, line_buffering=number == 2, write_through=False)


def _point_loggers_at(out: Any, err: Any) -> None:
    """Handlers that libraries made while they were imported hold the server's streams."""
    import logging

    loggers = [logging.root, *(one for one in logging.Logger.manager.loggerDict.values() if hasattr(one, "handlers"))]
    for logger in loggers:
        for handler in logger.handlers:  # pyright: ignore[reportAttributeAccessIssue]
            if type(handler) is logging.StreamHandler:
                handler.stream = out if getattr(handler.stream, "fileno", int)() == 1 else err


def serve(requests: io.TextIOBase, replies: io.TextIOBase) -> bool:
    """Answer until the pipe closes; True in a child, which is to run the command line now."""
    for line in requests:
        request = json.loads(line)
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            os.close(requests.fileno())
            os.close(replies.fileno())
            become(request)
            return True
        replies.write(json.dumps({"pid": child}) + "\n")
        replies.flush()
        ended, timed_out = _awaited(child, request["timeout_s"])
        reply = {"code": ended, "timed_out": timed_out, "seconds": time.monotonic() - began}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
    return False


def _awaited(child: int, timeout_s: float) -> tuple[int, bool]:
    """Exit code (negative: the signal) and whether it had to be killed; what it left running goes with it.

    Time is that of its own: seconds of the processor, or seconds in which it neither ran nor wanted to. A machine that
    is busy with other work makes nothing endless.
    """
    handle = os.pidfd_open(child)
    timed_out, idle_s, spent, seen = False, 0.0, 0.0, time.monotonic()
    while not select.select([handle], [], [], 0.25)[0]:
        now, (used, runnable) = time.monotonic(), _work_of(child)
        idle_s = 0.0 if runnable or used > spent else idle_s + now - seen
        spent, seen = used, now
        if timed_out := (spent > timeout_s or idle_s > timeout_s):
            break
    os.close(handle)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), timed_out


def _work_of(session: int) -> tuple[float, bool]:
    """Seconds of the processor that the processes of a session took, and whether one of them wants it now."""
    ticks, runnable = 0, False
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            fields = place.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                ticks += sum(int(field) for field in fields[11:15])
                runnable = runnable or fields[0] in "RD"
    return ticks / os.sysconf("SC_CLK_TCK"), runnable


def main() -> None:
    """Entry point: file descriptors of the pipes are the two arguments."""
    requests, replies = os.fdopen(int(sys.argv[1]), "r"), os.fdopen(int(sys.argv[2]), "w")
    preload()
    replies.write(json.dumps({"ready": True}) + "\n")
    replies.flush()
    if serve(requests, replies):
        os._exit(run())


def run() -> int:
    """The command line and the interpreter's end, without the seconds that taking torch down in order would cost."""
    import edgeprune.cli

    code: Any = 0
    try:
        edgeprune.cli.main()
    except SystemExit as end:
        code = end.code
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except KeyboardInterrupt:
        traceback.print_exc()
        code = 130  # a shell's name for what the interpreter does: it dies of SIGINT
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]  as the interpreter: threads end first
    atexit._run_exitfuncs()
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        traceback.print_exc()
        code = 120
    return code or 0


if __name__ == "__main__":
    main()
