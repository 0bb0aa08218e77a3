"""``bundle/device``: what has to be on a board to measure a build there by hand.

Both ONNX files, images of the validation split as the engine takes them, the commands that the runtime would send to a
board of each generation of TensorRT, and the program that runs them. ``run-on-device.sh`` builds and measures,
``edgeprune import-results`` takes the outcome back.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from packaging.specifiers import SpecifierSet

from edgeprune.agent.facts import JETPACKS
from edgeprune.artifact import sha256_of
from edgeprune.carry.device import RecordingDevice
from edgeprune.carry.graph import carried_graph
from edgeprune.carry.request import MAX_RESULTS_BYTES, SCHEMA_VERSION, Command, Request, Script
from edgeprune.devices.archive import archive
from edgeprune.devices.board import board_modules, outside
from edgeprune.input_size import both_sides
from edgeprune.records.build import BuildRecord
from edgeprune.records.show import bundle_of
from edgeprune.runtimes.onnx_facts import OnnxFacts
from edgeprune.runtimes.trtexec_ import input_bytes
from edgeprune.runtimes.trtexec_argv import (
    DLA_GENERATIONS,
    GENERATIONS,
    Version,
    shown_version,
    version_of,
    weakly_typed,
)
from edgeprune.samples.agreement import FIRST_LOOK
from edgeprune.serial import write_json
from edgeprune.stages.base import Build
from edgeprune.stages.engine import final_onnx
from edgeprune.stages.unpruned import unpruned_onnx
from edgeprune.target import Target
from edgeprune.target.releases import DLA_WORDS, KNOWN_VERSIONS, has_level, parts_in, profile_has_dla
from edgeprune.workspace import BUNDLE

FOLDER = "device"
CONTAINERS = ("docker", "podman", "nerdctl", "jetson-containers")  # programs that start one
IMAGES = FIRST_LOOK  # whose outputs go back, at most: nobody is there to ask for more
LEAST_IMAGES = 8  # however large their outputs are: where import-results does not take them, it says so
VALUE_BYTES = len("-1.23457e-05, ")  # of an output in what trtexec exports, at most: it writes six digits
OUTPUTS_PART = 0.5  # of what comes back, at most; engines, logs and times are the rest
SCRIPT = """#!/bin/sh
# Builds and measures on this board; see README.md one folder up, or docs/jetson.md of edgeprune.
set -eu
cd "$(dirname "$0")"
command -v python3 >/dev/null || { echo "run-on-device: python3 is missing: sudo apt install python3" >&2; exit 4; }
exec python3 agent.zip carried .
"""


# scp would put the folder inside one that is there; whoever runs in it has it locked (edgeprune.agent.carried), where
# its file system has locks and the board has flock: elsewhere nobody can be asked
MAKE_WAY = (
    "[ ! -e edgeprune-device ] || flock -n -E 75 edgeprune-device rm -rf edgeprune-device 2>/dev/null || "
    "if [ $? = 75 ]; then echo edgeprune-device: a run goes on in it, wait for its results.tar; exit 4; "
    "else rm -rf edgeprune-device; fi"
)


def is_carried(build: Build) -> bool:
    """Whether this build waits for a board that its trtexec is the way to."""
    return not build.site.usable and waits_for_board(build.target)


def waits_for_board(target: Target) -> bool:
    """Whether a folder can be carried to the target's board: what is measured there is measured by trtexec, out of no
    container."""
    return target.device.kind == "jetson" and target.runtime == "trtexec" and not why_not_carried(target)


def why_not_carried(target: Target) -> str:
    """Why the target's trtexec cannot work in a folder that is carried to its board; empty where it can.

    The commands name files relative to that folder, wherever it lies: a container sees neither it nor them.
    """
    program = next((Path(word).name for word in target.trtexec_program if Path(word).name in CONTAINERS), "")
    if not program:
        return ""
    return (
        f"device.trtexec starts a container ({program}), which does not see a folder that is carried to the board by "
        "hand: name a trtexec of the board itself, or measure over SSH (--device user@board)"
    )


def carried_files(build: Build) -> dict[str, Path]:
    """Write what goes along, in the scratch of the run directory; name in the bundle to file."""
    from edgeprune.export.images import batch_from_images

    folder = build.workspace.root / ".scratch" / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    target = build.target
    board = target.device
    shutil.copyfile(unpruned_onnx(build), folder / "baseline.onnx")
    shutil.copyfile(final_onnx(build), folder / "model.onnx")
    (folder / "agent.zip").write_bytes(archive())
    (folder / "run-on-device.sh").write_text(SCRIPT, encoding="utf-8")
    (folder / "run-on-device.sh").chmod(0o755)
    images = build.dataset.sample_images(build.dataset.judging_split(target.accuracy.split), IMAGES, build.site.seed)
    graph = carried_graph(folder, target)
    pixels = batch_from_images(
        images[: _images_that_fit(folder, graph)],
        imgsz=both_sides(target.imgsz),
        task=build.weights.task,
        channels=build.dataset.channels,
    )
    inputs = _pack_inputs(folder, pixels, graph)
    scripts = _scripts(target, folder, pixels, inputs)
    request = Request(
        schema_version=SCHEMA_VERSION,
        target=target.name,
        board=board.board,
        modules=tuple(board_modules(board)),
        jetpack=board.jetpack or "",
        jetpacks=_jetpacks(board.jetpack),
        power_mode=board.power_mode or "",
        clocks=board.lock_clocks,
        trtexec=target.trtexec_program,
        known_versions=_known_versions(target),
        scripts=scripts,
        inputs=inputs,
        images=len(pixels),
        files={path.name: sha256_of(path) for path in sorted(folder.iterdir())},
    )
    write_json(folder / "request.json", request)
    files = {f"{FOLDER}/{path.name}": path for path in sorted(folder.iterdir())}
    return {**files, f"{FOLDER}/model.onnx": final_onnx(build)}  # the same file as the bundle's own


def packed_contents(folder: Path, inputs: Mapping[str, str]) -> dict[str, str]:
    """Digest to name of what a carried folder has for its commands: the graphs, and the engine's inputs."""
    graphs = {sha256_of(folder / name): name for name in ("baseline.onnx", "model.onnx")}
    return graphs | {sha256: name for name, sha256 in inputs.items()}


def read_inputs(folder: Path, request: Request, graph: OnnxFacts) -> np.ndarray:
    """The images that were packed, as float32 of shape (images, channels, height, width)."""
    [image_input] = graph.inputs
    stacks = [zlib.decompress((folder / f"{name}.z").read_bytes()) for name in request.inputs]
    arrays = [np.frombuffer(stack, image_input.dtype).reshape(image_input.shape) for stack in stacks]
    return np.concatenate(arrays)[: request.images].astype(np.float32)


def _images_that_fit(folder: Path, graph: OnnxFacts) -> int:
    """How many images go along, at most :data:`IMAGES`: as many as ``import-results`` takes the outputs of, which come
    back as text; never fewer than :data:`LEAST_IMAGES`. The engine runs whole stacks, so that these are counted."""
    from edgeprune.export.run import outputs_of_onnx

    [image_input] = graph.inputs
    batch = image_input.shape[0]
    outputs = outputs_of_onnx(folder / "model.onnx", np.zeros(image_input.shape, np.float32))
    stack_bytes = sum(output.size for output in outputs) * VALUE_BYTES
    stacks = int(MAX_RESULTS_BYTES * OUTPUTS_PART) // max(stack_bytes, 1)
    return min(IMAGES, max(LEAST_IMAGES, stacks * batch))


def _pack_inputs(folder: Path, pixels: np.ndarray, graph: OnnxFacts) -> dict[str, str]:
    """Write the images as the engine takes them, compressed; name to digest of the raw values."""
    from edgeprune.export.run import run_in_batches

    [image_input] = graph.inputs
    digests: dict[str, str] = {}

    def pack(stack: np.ndarray) -> list[np.ndarray]:
        name, content = f"input-{len(digests):02d}.bin", input_bytes(stack, image_input.dtype)
        (folder / f"{name}.z").write_bytes(zlib.compress(content, 3))
        digests[name] = hashlib.sha256(content).hexdigest()
        return [stack]

    run_in_batches(pack, pixels, batch=image_input.shape[0])
    return digests


def _scripts(target: Target, folder: Path, pixels: np.ndarray, inputs: Mapping[str, str]) -> tuple[Script, ...]:
    """The commands for every generation of trtexec that the profile allows and that can take these graphs: a weakly
    typed one takes others. A version outside the profile's range is in none of them."""
    on_dla, versions = target.device.dla_core is not None, SpecifierSet(target.device.tensorrt or "")
    scripts: list[Script] = []
    for first, below in DLA_GENERATIONS if on_dla else GENERATIONS:
        parts = parts_in(versions, shown_version(first), shown_version(below))
        if (
            parts
            and weakly_typed(first) == target.weakly_typed
            and has_level(shown_version(first), target.builder.optimization_level)
            and (not on_dla or profile_has_dla(shown_version(first), target.device.compatible))
        ):
            commands = _record(first, target, folder, pixels, inputs)
            scripts += [Script(version_of(begin), version_of(end), commands) for begin, end in parts]
    return tuple(scripts)


def _jetpacks(versions: str | None) -> tuple[str, ...]:
    """The known releases of JetPack that a profile asks for: the board's program reads no version specifiers."""
    known = dict.fromkeys(release for _, release in JETPACKS)
    return tuple(release for release in known if not outside(versions, release)) if versions else ()


def _known_versions(target: Target) -> str:
    typed = "8.5 and 8.6, as the profile's range begins there" if target.weakly_typed else KNOWN_VERSIONS
    if not has_level("8.5.0", target.builder.optimization_level):
        typed += ", but for 8.5, which has no builder.optimization_level"
    if target.device.tensorrt:
        typed += f"; those of them that the profile asks for: {target.device.tensorrt}"
    return typed if target.device.dla_core is None else f"{typed}; those of them with a DLA: {DLA_WORDS}"


def _record(
    version: Version, target: Target, folder: Path, pixels: np.ndarray, inputs: Mapping[str, str]
) -> tuple[Command, ...]:
    """The commands of a visit, for the trtexec of one generation."""
    from edgeprune.carry.visit import visit_board

    graph = carried_graph(folder, target)
    device = RecordingDevice(
        packed_contents(folder, inputs), version, copies=target.measure.copies, outputs=graph.outputs
    )
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch:
        visit_board(device, target, folder, pixels, Path(scratch))
    return tuple(device.commands)


def carry_command(root: Path, bundle: Path | None = None) -> str:
    """What to type to carry the folder there and the results back.

    Args:
        root: run directory, or a bundle that was copied out of one.
        bundle: that has the folder; the run directory's when None.
    """
    run, packed = shlex.quote(str(root)), (root / BUNDLE if bundle is None else bundle) / FOLDER
    return (
        f"ssh USER@BOARD {shlex.quote(MAKE_WAY)} && "
        f"scp -r {shlex.quote(str(packed))} USER@BOARD:edgeprune-device && "
        "ssh USER@BOARD sh edgeprune-device/run-on-device.sh && scp USER@BOARD:edgeprune-device/results.tar . && "
        f"edgeprune import-results results.tar --run {run}"
    )


def carried_from(record: BuildRecord, directory: Path) -> BuildRecord:
    """The record with the command that carries its folder to the board made for where the build lies now, which may
    have been moved or copied since; as it is where nothing is carried.

    Args:
        record: of the build.
        directory: its run directory, or its bundle, as it is to be typed.

    Raises:
        DataError: it holds no bundle.
    """
    if not waits_for_board(record.target) or not (record.next_command or record.carried_by):
        return record
    now, before = carry_command(directory, bundle_of(directory)), record.next_command
    if before is None:  # it came back already
        return replace(record, carried_by=now)
    gates = tuple(replace(gate, reason=gate.reason.replace(before, now)) for gate in record.gates)
    return replace(record, gates=gates, next_command=now)
