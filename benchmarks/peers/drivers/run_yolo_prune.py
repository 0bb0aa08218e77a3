"""Runs ``prune.py`` of yolo-prune as its own command does, without its fine-tune."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from driving import job, leave_graph  # pyright: ignore[reportMissingImports]

if __name__ == "__main__":
    given = job()
    # it writes beside the weights, and the folder of an absolute name is kept
    words = [f"--{name}={value}" for name, value in given.setting.items()]
    sys.argv = ["prune.py", f"--model_path={given.weights}", "--device=cpu", f"--imgsz={given.imgsz}", *words]
    runpy.run_path(str(given.checkout / "prune.py"), run_name="__main__")
    made = given.weights.parent / f"pruned_model_{given.setting.get('prune_method', 'lamp')}.pt"
    Path(made).replace(given.out)
    leave_graph(given.out, given.imgsz)
