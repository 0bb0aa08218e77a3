"""Runs ``scripts/prune_model.py`` of PCB-Prune-YOLO as its own command does."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from driving import job, leave_graph  # pyright: ignore[reportMissingImports]

if __name__ == "__main__":
    given = job()
    scripts = Path("scripts")  # it starts its own check of the file by a path below the current folder
    if not scripts.exists():
        scripts.symlink_to(given.checkout / "scripts")
    words = [f"--{name}={value}" for name, value in given.setting.items() if name != "config"]
    sys.argv = [
        "prune_model.py",
        f"--config={given.checkout / given.setting['config']}",
        f"--checkpoint={given.weights}",
        "--output=written",
        "--no-dry-run",
        *words,
    ]
    runpy.run_path(str(given.checkout / "scripts" / "prune_model.py"), run_name="__main__")
    made = next(Path("written").rglob("pruned.pt"))
    made.replace(given.out)
    leave_graph(given.out, given.imgsz)
