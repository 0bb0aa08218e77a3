"""TensorRT's own program on a device: where it lies, and which version it is."""

from __future__ import annotations

import glob
import os
import re
import shlex
import shutil
from typing import Callable, Sequence

from edgeprune.agent.system import Refused, output_of, system_path

TRTEXEC = "/usr/src/tensorrt/bin/trtexec"  # where JetPack and NVIDIA's Debian packages put it, off the PATH
PROGRAMS = (TRTEXEC, "trtexec", "/opt/tensorrt/bin/trtexec")
BESIDE = ("/opt/TensorRT*/bin/trtexec", "/usr/local/TensorRT*/bin/trtexec", "~/TensorRT*/bin/trtexec")  # unpacked
BANNER = re.compile(r"TensorRT\.trtexec \[TensorRT v(\d+)\]")
HELP_TIMEOUT_S = 60.0
PASSED = "&&&& PASSED"  # sampleUtils' last line of a run that did what it was asked
NOT_EXECUTABLE = "it may not be executed"
CRASHED = (-11, 139, -6, 134, -7, 135)  # segmentation fault, abort, bus error; as a process and as a shell tell them


def every_trtexec() -> tuple[str, ...]:
    """Paths of all programs of that name where one is put: those that are looked for first, in their order, then those
    that only a profile takes."""
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


def find_trtexec(program: Sequence[str] = ()) -> tuple[list[str], str]:
    """What starts the program, and what it prints first.

    Args:
        program: what a profile says that starts it; looked for where NVIDIA's packages put it when empty.

    Raises:
        Refused: nothing does that prints its version; with why not, and what to do.
    """
    broken: list[tuple[list[str], str]] = []
    for name, *arguments in [program] if program else [[path] for path in PROGRAMS]:
        named = system_path(name) if name.startswith("/") else name
        path = shutil.which(named)
        if path:
            text = output_of([path, *arguments, "--help"], timeout_s=HELP_TIMEOUT_S)[1]
            if version_in(text):
                return [path, *arguments], text
            broken.append(([path, *arguments], (text.strip().splitlines() or ["it printed nothing"])[-1]))
        elif os.path.isfile(named):
            broken.append(([named, *arguments], NOT_EXECUTABLE))
    if broken:
        by, why = broken[0]
        raise Refused("device", f"trtexec does not start here, by {' '.join(by)}: {why}; next: {remedy_of(by, why)}")
    known = every_trtexec()
    named = " ".join(program)
    where = f"the profile's device.trtexec, {named}, starts no trtexec here" if named else "there is no trtexec here"
    remedy = f"build for a profile that says {in_profile(known[0])}" if known else "sudo apt install nvidia-jetpack"
    raise Refused("device", f"{where}; next: {remedy}")


def in_profile(path: str) -> str:
    """How a profile names the trtexec that it takes."""
    return f"device.trtexec: {path}"


def remedy_of(program: Sequence[str], said: str, typed: Callable[[str], str] = str) -> str:
    """What to do where a trtexec is there and does not start.

    Args:
        program: what should start it.
        said: what was printed instead.
        typed: makes a command of the device one of whoever reads it.
    """
    path = program[0] if said == NOT_EXECUTABLE else program[-1]  # a wrapper is what was tried, and names trtexec last
    if "shared libraries" in said:
        own = re.match(r"(.*TensorRT[^/]*)/(?:.*/)?bin/trtexec$", path)  # an archive of NVIDIA's has them beside it
        folder = f"{own.group(1)}/lib" if own else "FOLDER"
        ldconfig = typed(f"sudo ldconfig {folder}")
        wrapped = in_profile(f"[env, LD_LIBRARY_PATH={folder}, {path}]")
        return f"{ldconfig}, or in the profile: {wrapped}" + ("" if own else ", with the FOLDER that holds it")
    if said == NOT_EXECUTABLE:
        return typed(f"sudo chmod +x {shlex.quote(path)}")
    return typed(" ".join(map(shlex.quote, [*program, "--help"])))


def crashed_behind_its_work(returncode: int, log: str) -> bool:
    """Whether a run wrote everything, said so, and then crashed while it took its libraries down.

    TensorRT 8.6.0 on a GPU newer than itself does so after every build (H100, driver 580: 13 of 13 builds), and the
    engines are good: they load, run, and agree with their graphs.
    """
    return returncode in CRASHED and any(line.startswith(PASSED) for line in log.splitlines())
