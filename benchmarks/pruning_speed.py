"""Time and memory of pruning to MACs ×2 once the model is loaded.

Usage: python benchmarks/pruning_speed.py [--imgsz 320] [MODEL.yaml ...]

Wall time and CPU time are both printed: on a shared machine only the second one is the program's own. Memory is the
rise of the process's peak over what it held with the model loaded, plus the model itself, over the model.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "models", nargs="*", default=["yolov8n.yaml", "yolo11n.yaml", "yolo26n.yaml", "yolov8x.yaml"]
    )
    arguments.add_argument("--imgsz", type=int, default=320)
    options = arguments.parse_args()
    if len(options.models) > 1:  # a peak is a process's, so each model gets its own
        for model in options.models:
            subprocess.run([sys.executable, __file__, model, "--imgsz", str(options.imgsz)], check=True)
        return

    from ultralytics import YOLO

    from edgeprune.pruning.pruner import Pruner

    model = YOLO(options.models[0]).model.float().eval()
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    wall, cpu = time.perf_counter(), time.process_time()
    pruner = Pruner(model, options.imgsz)
    plan = pruner.plan(macs_speed_up=2)
    pruner.apply(plan)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    again = time.perf_counter()
    pruner.plan(macs_speed_up=3, scores=pruner.scores())
    again = time.perf_counter() - again
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before + size
    print(
        f"{options.models[0]:14} {wall:6.2f} s wall {cpu:6.2f} s CPU, next plan {again:5.2f} s, "
        f"peak {peak / size:4.2f} x model ({size / 2**20:.0f} MiB), MACs ×{plan.macs_speed_up:.3f}"
    )


if __name__ == "__main__":
    main()
