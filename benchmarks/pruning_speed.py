"""Seconds and memory of pruning to MACs ×2 once a checkpoint is loaded, a fresh process each.

Usage: python benchmarks/pruning_speed.py [--imgsz 320] [--data DATA.yaml] [--out TABLE.md] [MODEL.yaml ...]
       python benchmarks/pruning_speed.py --one MODEL.pt --imgsz 320 [--cold] [--data DATA.yaml] [--batch 4]

The second form measures in this process and prints one line of JSON: everything that loads with the pruner is imported,
the checkpoint is read and runs once on a 64 px image, so that torch's own code is in memory (not with --cold). Then the
peak of the resident set starts anew, and dimensions, scores, plan, application and its check run once. Wall and CPU
time are both given: on a shared machine only the second is the program's own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MODELS = ["yolov8n.yaml", "yolo11n.yaml", "yolo26n.yaml", "yolov8x.yaml"]
MIB = 2**20


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("models", nargs="*", default=MODELS)
    arguments.add_argument("--one", type=Path, help="measure this checkpoint in this process")
    arguments.add_argument("--cold", action="store_true", help="run nothing before, so pages of torch's code count")
    arguments.add_argument("--imgsz", type=int, default=320)
    arguments.add_argument("--data", help="rank by the loss on 64 images too (files under 50 MiB)")
    arguments.add_argument("--batch", type=int, default=4)
    arguments.add_argument("--out", type=Path)
    options = arguments.parse_args()
    if options.one is not None:
        print(json.dumps(measured(options)))
        return
    lines = table(options)
    print("\n".join(lines))
    if options.out is not None:
        from edgeprune.artifact import write_atomically

        write_atomically(options.out, "\n".join(lines) + "\n")


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """One pruning in this process; MiB and seconds."""
    import torch

    from edgeprune.checkpoint import load
    from edgeprune.pruning.pruner import Pruner

    model = load(options.one).model
    batches = None
    if options.data is not None:
        from edgeprune.pruning.batches import calibration_batches

        batches = calibration_batches(options.data, "detect", options.imgsz, images=64, batch=options.batch)
    if not options.cold:
        with torch.no_grad():
            model(torch.zeros(1, 3, 64, 64))
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    modules, before, code = len(sys.modules), _resident("VmRSS"), _resident("RssFile")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, see proc(5)
    wall, cpu = time.perf_counter(), time.process_time()
    pruner = Pruner(model, options.imgsz)
    plan = pruner.plan(macs_speed_up=2, batches=batches)
    pruner.apply(plan)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    rise, code = _resident("VmHWM") - before, _resident("RssFile") - code
    return {
        "importance": plan.settings.importance,
        "wall_s": wall,
        "cpu_s": cpu,
        "model_mib": size / MIB,
        "file_mib": options.one.stat().st_size / MIB,
        "process_mib": before / MIB,
        "rise_mib": rise / MIB,
        "code_mib": code / MIB,
        "peak_over_model": (size + rise - code) / size,
        "peak_with_code": (size + rise) / size,
        "modules_loaded": len(sys.modules) - modules,
        "macs_speed_up": plan.macs_speed_up,
    }


def _resident(key: str) -> int:
    """A figure of this process's resident set in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def table(options: argparse.Namespace) -> list[str]:
    """Every model measured, as lines of Markdown."""
    import torch
    import ultralytics
    from ultralytics import YOLO

    lines = [
        f"# Pruning to MACs ×2 at {options.imgsz} px, once the checkpoint is loaded",
        "",
        f"Fresh process each; Ultralytics {ultralytics.__version__}, torch {torch.__version__}. Rise: peak of the "
        "resident set while dimensions, scores, plan, application and its check run, over what the process held with "
        "the pruner imported and the checkpoint read and run once on 64 px; of it, code: pages of libraries' files "
        "that were touched for the first time. **Peak**: the model's float32 tensors and the rise without code, over "
        "those tensors. Other readings: with code; over the half-precision file; the whole process over what it held "
        "before; cold, without that one run. lamp reads weights only; taylor goes forward and back over 64 images in "
        f"batches of {options.batch}, and one batch's pass is what it holds.",
        "",
        "| model | criterion | wall s | CPU s | model MiB | rise MiB | of it code | **peak** | with code | "
        "over the file | whole process | cold | cold with code |",
        "| --- | --- |" + " ---: |" * 11,
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            path = Path(folder) / f"{Path(name).stem}.pt"
            model: Any = YOLO(name)
            model.model.half()
            model.save(path)
            del model
            cases = [[]]
            if options.data is not None and path.stat().st_size < 50 * MIB:
                cases.append(["--data", options.data, "--batch", str(options.batch)])
            for case in cases:
                command = [sys.executable, __file__, "--one", str(path), "--imgsz", str(options.imgsz), *case]
                warm, cold = _printed(command), None if case else _printed([*command, "--cold"])
                held = warm["model_mib"] + warm["rise_mib"]
                figures = [
                    *(f"{warm[key]:.2f}" for key in ("wall_s", "cpu_s")),
                    *(f"{warm[key]:.1f}" for key in ("model_mib", "rise_mib", "code_mib")),
                    f"**{warm['peak_over_model']:.2f}**",
                    f"{warm['peak_with_code']:.2f}",
                    f"{held / warm['file_mib']:.2f}",
                    f"{1 + warm['rise_mib'] / warm['process_mib']:.2f}",
                    *(f"{cold[key]:.2f}" if cold else "" for key in ("peak_over_model", "peak_with_code")),
                ]
                lines.append(f"| {path.stem} | {warm['importance']} | {' | '.join(figures)} |")
    return lines


def _printed(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
