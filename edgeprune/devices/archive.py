"""The program for a device as one zip file: its Python runs it (``python3 agent.zip VERB``) and imports from it."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from importlib.resources import files

MAIN = "import sys\n\nfrom edgeprune.agent.__main__ import main\n\nsys.exit(main(sys.argv))\n"


@cache
def archive(*workers: str) -> bytes:
    """The zip file's content; the same bytes for the same sources.

    Args:
        workers: files of edgeprune that go along with :mod:`edgeprune.agent`, as ``runtimes/bench_worker.py``. They may
            import the agent and one another, else only what the device has.
    """
    root = files("edgeprune")
    agent = sorted(entry.name for entry in root.joinpath("agent").iterdir() if entry.name.endswith(".py"))
    names = [*(f"agent/{name}" for name in agent), *workers]
    packages = {"", *(f"{name.rpartition('/')[0]}/" for name in workers)}
    sources = {
        "__main__.py": MAIN.encode(),
        **{f"edgeprune/{package}__init__.py": b"" for package in sorted(packages)},
        **{f"edgeprune/{name}": root.joinpath(name).read_bytes() for name in names},
    }
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as packed:
        for name, source in sources.items():
            packed.writestr(zipfile.ZipInfo(name), source)
    return content.getvalue()
