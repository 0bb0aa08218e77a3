"""Runs a module or code as ``python`` does, and has it end what it started once it is told to end.

    python -m benchmarks.until_told -m MODULE WORDS...
    python -m benchmarks.until_told -c CODE WORDS...

Python ends at once at SIGTERM, and what was started in a session of its own, as every program of a build is, would go
on. Here it is an exit like any other, so that ``finally`` is reached.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

OTHERS_S = 12.0  # a build that runs beside asks its programs first, and kills them after five seconds


def main(argv: Sequence[str]) -> None:
    signal.signal(signal.SIGTERM, _leave)
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))  # workers just end
    kind, what, *words = argv
    if kind == "-m":
        sys.argv = [what, *words]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [kind, *words]
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})


def _leave(*_: object) -> None:
    """Exit, once the others of this group have: they were told too, and ``subprocess.run`` would kill them before they
    had ended what they started."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ends = time.monotonic() + OTHERS_S
    while os.getpgrp() == os.getpid() and _others_of_group() and time.monotonic() < ends:
        time.sleep(0.02)
    sys.exit(128 + signal.SIGTERM)


def _others_of_group() -> bool:
    """Whether another program of this process group runs; where there is no /proc, nothing is known of any."""
    group = str(os.getpgrp())
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of, *_ = stat.read_text(errors="replace").rpartition(")")[2].split()
        except (OSError, ValueError):
            continue  # it has ended meanwhile
        if of == group and state not in "ZX" and stat.parent.name != str(os.getpid()):
            return True
    return False


if __name__ == "__main__":
    main(sys.argv[1:])
