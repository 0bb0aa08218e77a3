"""TensorRT's own program on a device: where it lies, and which version it is."""

from __future__ import annotations

import glob
import os
import re
import shutil
from typing import Sequence

from edgeprune.agent.system import output_of, system_path

TRTEXEC = "/usr/src/tensorrt/bin/trtexec"  # where JetPack and NVIDIA's Debian packages put it, off the PATH
PROGRAMS = (TRTEXEC, "trtexec", "/opt/tensorrt/bin/trtexec")
BESIDE = ("/opt/TensorRT*/bin/trtexec", "/usr/local/TensorRT*/bin/trtexec", "~/TensorRT*/bin/trtexec")  # unpacked
BANNER = re.compile(r"TensorRT\.trtexec \[TensorRT v(\d+)\]")
HELP_TIMEOUT_S = 60.0
PASSED = "&&&& PASSED"  # sampleUtils' last line of a run that did what it was asked
CRASHED = (-11, 139, -6, 134, -7, 135)  # segmentation fault, abort, bus error; as a process and as a shell tell them


def every_trtexec() -> tuple[str, ...]:
    """Paths of all programs of that name where one is put, the one that is taken first."""
    known = [system_path(name) if name.startswith("/") else shutil.which(name) or "" for name in PROGRAMS]
    others = [path for places in BESIDE for path in sorted(glob.glob(system_path(os.path.expanduser(places))))]
    return tuple(dict.fromkeys(path for path in [*known, *others] if os.path.isfile(path)))


def version_in(text: str) -> tuple[int, int, int] | None:
    """(major, minor, patch) from ``&&&& RUNNING TensorRT.trtexec [TensorRT v100300] …``; None without that banner.

    The number is ``NV_TENSORRT_VERSION``: major·10000 + minor·100 + patch from 10 on, major·1000 + … before.
    """
    match = BANNER.search(text)
    if not match:
        return None
    number = int(match.group(1))
    unit = 10_000 if number >= 10_000 else 1_000
    return number // unit, number % unit // 100, number % 100


def find_trtexec(program: Sequence[str] = ()) -> tuple[list[str], str] | None:
    """What starts the program, and what it prints first; None where nothing does that prints its version.

    Args:
        program: what a profile says that starts it; looked for where NVIDIA's packages put it when empty.
    """
    for name, *arguments in [program] if program else [[path] for path in PROGRAMS]:
        path = shutil.which(system_path(name) if name.startswith("/") else name)
        text = output_of([path, *arguments, "--help"], timeout_s=HELP_TIMEOUT_S)[1] if path else ""
        if path and version_in(text):
            return [path, *arguments], text
    return None


def crashed_behind_its_work(returncode: int, log: str) -> bool:
    """Whether a run wrote everything, said so, and then crashed while it took its libraries down.

    TensorRT 8.6.0 on a GPU newer than itself does so after every build (H100, driver 580: 13 of 13 builds), and the
    engines are good: they load, run, and agree with their graphs.
    """
    return returncode in CRASHED and any(line.startswith(PASSED) for line in log.splitlines())
