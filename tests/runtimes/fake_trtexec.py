"""A stand-in for trtexec: it knows the options of its version, refuses the others as the real one does, and writes its
formats.

It computes nothing, unless it is told to (``computes``): then ONNX Runtime gives the outputs. An engine is a JSON file;
its time follows from the size of the ONNX file, its outputs are twice its inputs. Whatever is measured with it is a
test's own and never a result.
"""

from __future__ import annotations

import json
import math
import os
import signal
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeprune.devices.trtexec_options import known_options
from tests.runtimes.trtexec_samples import (
    LAYERS,
    bindings_log,
    layers_json,
    options_log,
    outputs_json,
    profile_json,
    times_json,
)

MAGIC = "fake plan"


def install(folder: Path, version: tuple[int, int, int] = (10, 3, 0), **ways: Any) -> Path:
    """Write an executable ``trtexec`` into ``folder``; ``ways`` as in :func:`main`. It logs its calls beside itself."""
    program = folder / "trtexec"
    root = Path(__file__).parents[2]
    given = {"version": version, "calls": str(folder / "calls.jsonl"), **ways}
    bare = "" if ways.get("computes") else " -S"  # a quick start, without the packages
    program.write_text(
        f"#!{sys.executable}{bare}\nimport sys\nsys.path.insert(0, {str(root)!r})\n"
        f"from tests.runtimes.fake_trtexec import main\nsys.exit(main(sys.argv, **{given!r}))\n"
    )
    program.chmod(0o755)
    return program


def calls(program: Path) -> list[dict[str, str]]:
    """Options of every call so far, in order; ``--help`` left out."""
    lines = (program.parent / "calls.jsonl").read_text().splitlines()
    return [one for one in map(json.loads, lines) if "--help" not in one]


def main(
    argv: list[str],
    *,
    version: tuple[int, int, int],
    calls: str,
    precision: str = "fp16",
    log: str = "",
    killed: bool = False,
    crashes: bool = False,
    drift: float = 0.0,
    captures: bool = True,
    samples_lost: int = 0,
    dla: bool = False,
    computes: bool = False,
    takes: str = "1x3x32x32",
    gives: Sequence[str] = ("output0",),
    half: bool = False,
    any_size: bool = False,
    shown: str = "",
    sizes: bool = False,
    fails: str = "",
) -> int:
    """Act as trtexec.

    Args:
        argv: its command line.
        version: which one it is.
        calls: file that every call is appended to.
        precision: what its engines are really in, whatever was asked.
        log: what a build prints before it fails; empty to succeed.
        killed: it is killed then, as the kernel does where memory ends, and had begun to write its timing cache.
        crashes: it crashes behind every build, and had said that it passed.
        drift: relative slowing of every process against the one before it.
        captures: whether CUDA graphs can be captured.
        samples_lost: samples that are missing from the times.
        dla: whether a DLA takes a part of the network.
        computes: whether engines hold their graph and outputs are its own.
        takes: shape of its engines' one input.
        gives: names of its engines' outputs, in the order of the engine.
        half: their input is float16.
        any_size: files of inputs may have any size.
        shown: shape of that input as its log tells it, where another one decides its size.
        sizes: they have a second input, ``sizes``, of 1x2 int64.
        fails: what a run on files prints before it fails; empty to succeed.
    """
    given = {name: value for name, _, value in (word.partition("=") for word in argv[1:])}
    with Path(calls).open("a") as file:
        file.write(json.dumps(given) + "\n")
    number = version[0] * (10_000 if version[0] >= 10 else 1_000) + version[1] * 100 + version[2]
    build = " [b30]" if version >= (11, 1, 0) else ""
    print(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{number}]{build} # {' '.join(argv)}")
    if "--help" in given:
        return 0
    if unknown := sorted(set(given) - known_options(version)):
        for name in unknown:
            print(f"[E] Unknown option: {name} {given[name]}", file=sys.stderr)
        return 1
    settings = _settings(version, given)
    if "--onnx" in given:
        if killed:
            print(log, flush=True)
            Path(given["--timingCacheFile"]).write_bytes(b"half of")
            os.kill(os.getpid(), signal.SIGKILL)
        if log:
            print(log, file=sys.stderr)
            return 1
        code = _build(version, given, precision, dla, computes)
        if crashes and code == 0:
            print("&&&& PASSED TensorRT.trtexec", flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        return code
    try:
        engine = json.loads(Path(given["--loadEngine"]).read_text())
    except (ValueError, OSError):
        print("[E] Error[1]: Serialization assertion magicTagRead == kMAGIC failed.Magic tag does not match")
        return 1
    if engine["version"] != list(version):
        here, built = (".".join(str(part) for part in one) for one in (version, engine["version"]))
        print(f"[E] not compatible with this version of TensorRT, expecting library version {here} got {built}, please")
        return 1
    generation = 11 if version[0] >= 11 else 10
    if "--exportLayerInfo" in given:
        text = layers_json(generation, engine["precision"], dla=engine["dla"])
        Path(given["--exportLayerInfo"]).write_text(text)
    if {"--skipInference", "--buildOnly"} & set(given):
        return 0
    print(options_log(**settings, captured=captures, tells=version[0] >= 10))
    turn = sum("--exportTimes" in json.loads(line) for line in Path(calls).read_text().splitlines())
    inputs = {"images": shown or takes, **({"sizes": "1x2"} if sizes else {})}
    print(bindings_log(version, inputs, dict.fromkeys(gives, "1x6x4"), half))
    if "--loadInputs" in given and fails:
        print(f"[E] {fails}")
        return 1
    if "--loadInputs" in given and not any_size and not _fits(version, given["--loadInputs"], takes, half):
        return 1
    _inference(given, engine, settings, turn * drift, samples_lost, "e" if half else "f")
    print("&&&& PASSED TensorRT.trtexec")
    return 0


def _settings(version: tuple[int, int, int], given: dict[str, str]) -> dict[str, bool]:
    """What the options mean: the defaults turned round between 10 and 11."""
    if version[0] < 11:
        found = {
            "copies": "--noDataTransfers" not in given,
            "spin": "--useSpinWait" in given,
            "cuda_graph": "--useCudaGraph" in given,
        }
    else:
        found = {
            "copies": "--includeDataTransfers" in given,
            "spin": "--noSpinWait" not in given,
            "cuda_graph": "--noCudaGraph" not in given,
        }
    return {**found, "one_at_a_time": "--exposeDMA" in given}


def _build(version: tuple[int, int, int], given: dict[str, str], precision: str, dla: bool, computes: bool) -> int:
    onnx = Path(given["--onnx"]).read_bytes()
    for one in given.get("--layerPrecisions", "a:fp32").split(","):
        name, _, kept = one.rpartition(":")
        if not name or kept not in ("fp32", "fp16", "int8", "int32"):
            print(f"[E] Unknown precision in {one}", file=sys.stderr)
            return 1
    if "--useDLACore" in given:  # NVIDIA/TensorRT #4228, and the release notes of 10.8 and 11.4.1
        if "--stronglyTyped" in given:
            print("[E] Error Code 9: API Usage Error (!config.getFlag(BuilderFlag::kFP16))", file=sys.stderr)
            return 1
        if version[:2] >= (10, 8) and version < (11, 4, 1):
            print("[E] Cannot create DLA engine, 0 not available", file=sys.stderr)
            return 1
    weak = ("--useDLACore" in given or version[0] < 10) and ("--int8" in given or "--fp16" in given)
    strong = version[0] >= 11 or "--stronglyTyped" in given or weak
    on_dla = dla and "--useDLACore" in given
    engine = {
        "magic": MAGIC,
        "version": version,
        "precision": precision if strong else "fp32",
        "ms": 1 + len(onnx) / 1000,
        "dla": on_dla,
        "onnx": onnx.hex() if computes else "",
        "shape": given.get("--shapes", "").rpartition(":")[2],
    }
    if given["--saveEngine"]:
        Path(given["--saveEngine"]).write_text(json.dumps(engine))
    if "--timingCacheFile" in given:
        cache = Path(given["--timingCacheFile"])
        cache.write_bytes((cache.read_bytes() if cache.exists() else b"") + b"+")
    detailed = given.get("--profilingVerbosity") == "detailed"
    if "--exportLayerInfo" in given:
        generation = 11 if version[0] >= 11 else 10
        text = layers_json(generation, engine["precision"], dla=on_dla, detailed=detailed)
        Path(given["--exportLayerInfo"]).write_text(text)
    return 0


def _fits(version: tuple[int, int, int], listed: str, takes: str, half: bool) -> bool:
    """Whether a file of an input is taken, as loadFromFile of sampleUtils.cpp decides it; what is too large in the
    right way is read as if it were not."""
    for one in listed.split(","):
        name, _, path = one.partition(":")
        want = 16 if name == "sizes" else math.prod(map(int, takes.split("x"))) * (2 if half else 4)
        if not _fits_one(version, path, want):
            return False
    return True


def _fits_one(version: tuple[int, int, int], path: str, want: int) -> bool:
    size = Path(path).stat().st_size
    if version[0] < 10:
        note = "" if size >= want else f"Expected: {want} bytes but only read: {size} bytes"
    else:
        note = f"Input binding size is: {want} bytes but the file size is {size} bytes. Double check the size and"
        note = "" if size in (want, 2 * want) else note
    if note:
        print(f"[E] Uncaught exception detected: Unexpected file size for input file: {path}. Note: {note}")
    return not note


def _inference(
    given: dict[str, str], engine: dict[str, Any], settings: dict[str, bool], slower: float, lost: int, kind: str
) -> None:
    count = max(int(given["--iterations"]) - lost, 0)
    print("[I] Starting inference")
    print(f"[I] Timing trace has {count} queries over {count * engine['ms'] / 1000:g} s")
    if "--exportTimes" in given:
        ms = engine["ms"] * (1 + slower)
        copy = 0.125 if settings["copies"] else 0.0
        values = [ms * (1 + 0.01 * (place % 3)) for place in range(count)]
        Path(given["--exportTimes"]).write_text(times_json(values, h2d=copy, d2h=copy))
    if "--exportProfile" in given:
        rows = [(name, engine["ms"] / len(LAYERS)) for name, *_ in LAYERS]
        Path(given["--exportProfile"]).write_text(profile_json(rows, runs=count))
    if "--exportOutput" in given and engine["onnx"]:
        Path(given["--exportOutput"]).write_text(
            outputs_json(_computed(given["--loadInputs"], engine["onnx"], engine["shape"]))
        )
    elif "--exportOutput" in given:
        content = Path(given["--loadInputs"].rpartition(":")[2]).read_bytes()
        whole = content[: len(content) // struct.calcsize(kind) * struct.calcsize(kind)]  # one byte is no value
        doubled = [2 * value for (value,) in struct.iter_unpack(kind, whole)]
        Path(given["--exportOutput"]).write_text(outputs_json({"output0": (f"1x{len(doubled)}", doubled)}))


def _computed(listed: str, onnx: str, shape: str) -> dict[str, tuple[str, list[float]]]:
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(bytes.fromhex(onnx), options, providers=["CPUExecutionProvider"])
    [taken] = session.get_inputs()
    kind = np.float16 if "16" in taken.type else np.float32
    values = np.fromfile(listed.rpartition(":")[2], kind).reshape(
        [int(axis) for axis in shape.split("x")] if shape else taken.shape
    )
    found = session.run(None, {taken.name: values})
    named = zip((one.name for one in session.get_outputs()), found, strict=True)
    return {name: ("x".join(map(str, one.shape)), one.ravel().tolist()) for name, one in named}
