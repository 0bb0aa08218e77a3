"""``bundle/device``: what has to be on a board to measure a build there by hand.

Both ONNX files, images of the validation split, command lines for every known TensorRT, and two scripts of the standard
library. ``run-on-device.sh`` builds and measures, ``edgeprune import-results`` takes the outcome back.
"""

from __future__ import annotations

import json
import shutil
import zlib
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.artifact import sha256_of
from edgeprune.devices.agent import modules_of
from edgeprune.stages.base import Context
from edgeprune.stages.engine import final_onnx
from edgeprune.stages.parity import IMAGES
from edgeprune.stages.timing import settings

FOLDER = "device"
PROCESSES = 24  # of each model; the gate of a ratio wants 20 blocks
FEWEST_SAMPLES = 20  # in a process; its start takes seconds
SPARE = 2  # samples asked for and dropped: the first after the warm-up still pays for it
PROFILE_RUNS = 50
SCRIPT = """#!/bin/sh
# Builds and measures on this board; see README.md one folder up, or docs/jetson.md of edgeprune.
set -eu
cd "$(dirname "$0")"
command -v python3 >/dev/null || { echo "run-on-device: python3 is missing: sudo apt install python3" >&2; exit 4; }
exec python3 on_device.py "$@"
"""


def is_carried(context: Context) -> bool:
    """Whether this build waits for a board that trtexec is the way to."""
    return not context.usable and context.target.device.kind == "jetson"


def carried_files(context: Context) -> dict[str, Path]:
    """Write what goes along, in the scratch of the run directory; name in the bundle to file."""
    from edgeprune.export.graph import inputs_of, load_graph
    from edgeprune.export.images import batch_from_images

    folder = context.workspace.root / ".scratch" / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    target = context.target
    candidate = final_onnx(context)
    shutil.copyfile(context.records["baseline"].path("onnx"), folder / "baseline.onnx")
    shutil.copyfile(candidate, folder / "model.onnx")
    (folder / "agent.py").write_bytes(files("edgeprune.devices").joinpath("agent.py").read_bytes())
    (folder / "on_device.py").write_bytes(files("edgeprune.carry").joinpath("on_device.py").read_bytes())
    (folder / "run-on-device.sh").write_text(SCRIPT)
    (folder / "run-on-device.sh").chmod(0o755)
    chosen = context.dataset.sample_images(target.accuracy.split, IMAGES, context.seed)
    pixels = batch_from_images(chosen, imgsz=(target.imgsz, target.imgsz), task=context.weights.task)
    names = []
    for number, image in enumerate(np.rint(pixels * 255).astype(np.uint8)):
        names.append(f"image-{number:02d}.z")
        (folder / names[-1]).write_bytes(zlib.compress(image.tobytes(), 6))
    (graph_input,) = inputs_of(load_graph(candidate))
    wanted = settings(context)
    samples = max(FEWEST_SAMPLES, -(-wanted.rounds * wanted.per_round // PROCESSES))
    board = target.device
    request: dict[str, Any] = {
        "schema_version": 1,
        "target": target.name,
        "board": board.board,
        "modules": modules_of(" ".join(board.compatible)),
        "power_mode": board.power_mode or "",
        "clocks": board.lock_clocks,
        "precision": target.precision,
        "images": names,
        "input": graph_input.name,
        "shape": [target.batch, 3, target.imgsz, target.imgsz],
        "dtype": graph_input.dtype,
        "processes": PROCESSES,
        "samples": samples,
        "spare": SPARE,
        "warmup_ms": max(200, round(1000 * target.measure.warmup_s)),
        **command_lines(context, graph_input.name),
        "files": {path.name: sha256_of(path) for path in sorted(folder.iterdir())},
    }
    (folder / "request.json").write_text(json.dumps(request, indent=1))
    return {f"{FOLDER}/{path.name}": path for path in sorted(folder.iterdir())}


def command_lines(context: Context, name: str) -> dict[str, Any]:
    """trtexec's command lines by major version of TensorRT, with places for what only the board knows."""
    from edgeprune.runtimes.trtexec_argv import (
        KNOWN,
        OLDEST,
        build_argv,
        outputs_argv,
        profile_argv,
        time_argv,
    )

    target = context.target
    shape = {name: (target.batch, 3, target.imgsz, target.imgsz)} if target.export.dynamic else None
    common = {"shapes": shape, "dla_core": target.device.dla_core, "trtexec": "{trtexec}"}
    engine = {"engine": "{engine}", **common}
    lines = {}
    for version in (OLDEST, (11, 0, 0)):
        timed = time_argv(
            version,
            times="{times}",
            copies=target.measure.copies,
            cuda_graph=target.measure.cuda_graph,
            iterations=0,
            warmup_ms=0,
            **engine,
        )
        filled = {"--iterations=0": "--iterations={iterations}", "--warmUp=0": "--warmUp={warmup}"}
        lines[str(version[0])] = {
            "build": build_argv(version, onnx="{onnx}", layer_info="{layers}", timing_cache="{cache}", **engine),
            "time": [filled.get(part, part) for part in timed],
            "profile": profile_argv(version, profile="{profile}", iterations=PROFILE_RUNS, **engine),
            "outputs": outputs_argv(version, inputs={name: "{input}"}, outputs="{outputs}", **engine),
        }
    return {"commands": lines, "oldest": list(OLDEST), "known": KNOWN}


def carry_command(root: Path) -> str:
    """What to type to carry the folder there and the results back."""
    import shlex

    run = shlex.quote(str(root))
    return (
        f"scp -r {shlex.quote(str(root / 'bundle' / FOLDER))} USER@BOARD:edgeprune-device && "
        "ssh USER@BOARD sh edgeprune-device/run-on-device.sh && scp USER@BOARD:edgeprune-device/results.tar . && "
        f"edgeprune import-results results.tar --run {run}"
    )
