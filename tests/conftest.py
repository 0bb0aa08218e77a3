"""Fixtures shared by the whole suite."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("YOLO_AUTOINSTALL", "false")  # a test never installs packages
os.environ.setdefault("YOLO_OFFLINE", "true")  # nor asks the network

if "EDGEPRUNE_CACHE" not in os.environ:  # nor leaves anything in the user's cache
    os.environ["EDGEPRUNE_CACHE"] = tempfile.mkdtemp(prefix="edgeprune-cache-")
    atexit.register(shutil.rmtree, os.environ["EDGEPRUNE_CACHE"], ignore_errors=True)

# What ignores a signal hands that on to every program that it starts, and edgeprune keeps to it: under nohup, or behind
# & in a script, tests that stop one by that signal would wait for ever. A handler is not handed on.
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    in_a_worker = number == signal.SIGHUP and "PYTEST_XDIST_WORKER" in os.environ  # it ends with who started it
    if in_a_worker or signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)

settings.register_profile("edgeprune", deadline=None)  # other work on the machine fails no example
settings.load_profile("edgeprune")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and weights that lies beside a developer's checkout; skipped, visibly, elsewhere."""
    if not (SHARED / "weights").is_dir():
        pytest.skip(f"real data and weights are not here ({SHARED.name}/ beside the checkout)")
    return SHARED


@pytest.fixture(scope="session")
def nvidia_parser() -> None:
    """Skipped, visibly, where NVIDIA's own parser is not installed: it is for Linux with x86-64 only."""
    from edgeprune.runtimes.nvidia_parser import parser_availability

    if not (found := parser_availability()).ok:
        pytest.skip(f"NVIDIA's parser is not here: {found.detail}")
