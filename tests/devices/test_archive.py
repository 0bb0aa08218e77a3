"""The program that a device gets: one zip file, which stands alone on Python 3.8 and on this one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeprune.agent.facts import DeviceFacts
from edgeprune.devices.archive import archive
from edgeprune.serial import from_json


def python_3_8() -> str | None:
    """Its interpreter, where pyenv puts it (whose one on the PATH may refuse to start) or on the PATH."""
    installed = sorted(Path.home().glob(".pyenv/versions/3.8.*/bin/python"))
    return str(installed[-1]) if installed else shutil.which("python3.8")


@pytest.mark.parametrize("version", ["this", "3.8"])
def test_it_says_what_this_machine_is(version: str, tmp_path: Path) -> None:
    python = sys.executable if version == "this" else python_3_8()
    if python is None:
        pytest.skip("there is no Python 3.8 here")
    (tmp_path / "agent.zip").write_bytes(archive())
    argv = [python, "-I", "-S", str(tmp_path / "agent.zip"), "facts"]  # nothing installed, nothing of this checkout
    done = subprocess.run(argv, capture_output=True, text=True, timeout=1200, check=True, cwd=tmp_path)
    facts = from_json(DeviceFacts, json.loads(done.stdout), "facts")
    assert facts.cpus >= 1 and facts.system == "Linux" and facts.memory_bytes > 0


def test_the_same_sources_give_the_same_bytes() -> None:
    first = archive()
    archive.cache_clear()
    assert archive() == first
