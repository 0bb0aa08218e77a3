"""What trtexec writes, read: times, profiles, outputs, the settings it ran with, and what its errors mean.

The formats are those of samples/common/sampleReporting.cpp and sampleOptions.cpp in NVIDIA/TensorRT, the same from
8.5.2 to 11.1; the engine inspector's JSON, which did change, is read by :mod:`edgeprune.runtimes.layer_info`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeprune.agent.trtexec import PASSED, version_in
from edgeprune.errors import ToolError
from edgeprune.reading import entries_of
from edgeprune.runtimes.base import LayerTime

TAIL_LINES = 12
KILLED = (-9, 137)
FINE_CLOCK_MS = 1000.0  # six digits, as a C++ stream prints them, are thousandths of a ms below it
MORE_MEMORY = (
    "close other programs, give the builder less (builder.workspace_mib in the profile), add swap for the build, or "
    "take a smaller imgsz or batch"
)
NOT_JSON_NUMBERS = re.compile(r"(?<=[\[,:]) *-?(?:nan|inf)\b", re.IGNORECASE)  # as C++ streams print them


@dataclass(frozen=True)
class Times:
    """Samples of one process, in milliseconds and in the order they were taken.

    Attributes:
        compute: from the first kernel's start to the last one's end, on the GPU's clock.
        h2d: copy of the inputs; zero without copies.
        d2h: copy of the outputs; zero without copies.
        enqueue: the host's part of starting an inference, on the host's clock; empty where it is printed too coarsely.
    """

    compute: tuple[float, ...]
    h2d: tuple[float, ...]
    d2h: tuple[float, ...]
    enqueue: tuple[float, ...]

    def latency(self, copies: bool) -> tuple[float, ...]:
        """What a frame waits: with ``copies`` the three parts, else the computing alone."""
        if not copies:
            return self.compute
        return tuple(sum(parts) for parts in zip(self.h2d, self.compute, self.d2h, strict=True))


@entries_of("trtexec's times")
def times_of(text: str) -> Times:
    """Samples of ``--exportTimes``; durations are taken as written, since the clocks beside them are rounded.

    Enqueueing has no duration of its own in the file, only two clocks with six significant digits: steps of 0.01 ms
    from the first second on, which is what enqueueing a captured graph takes. It is left out from there.

    Raises:
        ValueError: not JSON, no sample, or a sample without its parts; the message says which.
    """
    rows = _list(text, "times")
    needed = ("startEnqMs", "endEnqMs", "h2dMs", "computeMs", "d2hMs")
    for row in rows:
        if missing := [key for key in needed if not isinstance(row.get(key), (int, float))]:
            seen = ", ".join(sorted(row)) or "nothing"
            raise ValueError(f"a sample lacks {', '.join(missing)} (it has {seen})")
    if not rows:
        raise ValueError("it holds no sample; ask for more iterations")
    return Times(
        compute=tuple(float(row["computeMs"]) for row in rows),
        h2d=tuple(float(row["h2dMs"]) for row in rows),
        d2h=tuple(float(row["d2hMs"]) for row in rows),
        enqueue=_enqueue(rows),
    )


def _enqueue(rows: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
    """Differences of the clocks around enqueueing, in ms; empty once a clock is rounded to more than 0.001 ms."""
    if max(float(row["endEnqMs"]) for row in rows) >= FINE_CLOCK_MS:
        return ()
    return tuple(float(row["endEnqMs"]) - float(row["startEnqMs"]) for row in rows)


@entries_of("trtexec's profile")
def profile_of(text: str, types: Mapping[str, str] | None = None) -> list[LayerTime]:
    """Layers of ``--exportProfile`` in order of execution.

    Args:
        text: the file. Its first entry is the number of runs; older releases write no median.
        types: layer name to its type, from the layer information, for ``LayerTime.op``.

    Raises:
        ValueError: not JSON, or no layer in it.
    """
    rows = _list(text, "profile")
    runs = next((row["count"] for row in rows if "count" in row), 0)
    layers = []
    for row in rows:
        if "name" not in row or row.get("averageMs") is None:
            continue  # the entry with the count, or a layer that never ran
        median_ms = None if row.get("medianMs") is None else float(row["medianMs"])
        name = str(row["name"])
        layers.append(LayerTime(name, (types or {}).get(name, ""), float(row["averageMs"]), median_ms, int(runs)))
    if not layers:
        raise ValueError("it holds no layer")
    return layers


@entries_of("trtexec's outputs")
def outputs_of(text: str) -> dict[str, np.ndarray]:
    """Tensors of ``--exportOutput``, float32, by name: six significant digits, which is what trtexec prints.

    Raises:
        ValueError: not JSON, or values that do not fill the dimensions.
    """
    found = {}
    for row in _list(text, "outputs"):
        words = str(row["dimensions"])
        shape = [int(size) for size in words.split("x")] if re.fullmatch(r"\d+(x\d+)*", words) else []
        values = np.array([np.nan if value is None else value for value in row["values"]], np.float32)
        if values.size != int(np.prod(shape)):
            raise ValueError(f"{row['name']} has {values.size} values for the shape {words}")
        found[str(row["name"])] = values.reshape(shape)
    return found


@dataclass(frozen=True)
class Settings:
    """How a timing run was really made, from its log.

    Attributes:
        copies: copies between host and device in the time.
        spin: the host waited without sleeping.
        cuda_graph: the inference was replayed from a graph; False also where a graph was asked and could not be
            captured.
        one_at_a_time: no inference was started before the last one ended.
    """

    copies: bool
    spin: bool
    cuda_graph: bool
    one_at_a_time: bool


def settings_used(log: str) -> Settings:
    """Read the settings that a run printed about itself.

    Raises:
        ValueError: the log does not state one of them.
    """

    def enabled(title: str) -> bool:
        found = re.search(rf"\b{re.escape(title)}: (Enabled|Disabled)\b", log)
        if not found:
            raise ValueError(f"the log does not say {title!r}")
        return found[1] == "Enabled"

    version = version_in(log)
    if version is not None and version[0] < 10:  # which says nothing when it was captured
        captured = "--useCudaGraph flag has been ignored" not in log
    else:
        captured = "Successfully captured CUDA graph" in log
    return Settings(
        copies=enabled("Data transfers"),
        spin=enabled("Spin-wait"),
        cuda_graph=enabled("CUDA Graph") and captured,
        one_at_a_time=enabled("ExposeDMA"),
    )


@dataclass(frozen=True)
class Bindings:
    """What an engine takes and gives, from the log of a run.

    Attributes:
        inputs: their shapes by name, in the engine's own order.
        outputs: their names, likewise.
        types: input name to TensorRT's word for its type (``HALF``); empty before 11, which tells none.
    """

    inputs: Mapping[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    types: Mapping[str, str] = field(default_factory=dict[str, str])


# samples/common/sampleInference.cpp: "Created input binding for images with dimensions 1x3x64x64" (8.5, and 8.6 as it
# ships), "Input binding for images with dimensions 1x3x64x64 is created." (10), "… and type kFLOAT is created." (11)
BINDING = re.compile(
    r"(?P<way>[Ii]n|[Oo]ut)put binding for (?P<name>.+?) "
    r"(?:with dimensions (?P<sides>[\d x,()]*?)(?: and type k(?P<type>\w+)|(?![\d x,()]))|is dynamic)"
)


def bindings_of(log: str) -> Bindings:
    """Read what a run printed of its engine.

    Raises:
        ValueError: it names no input.
    """
    found = list(BINDING.finditer(log))
    takes = [one for one in found if one["way"].lower() == "in"]
    inputs = {one["name"]: tuple(map(int, re.findall(r"\d+", one["sides"] or ""))) for one in takes}
    if not inputs or not all(inputs.values()):
        raise ValueError("the log does not say what the engine takes")
    outputs = [one["name"] for one in found if one not in takes]
    return Bindings(inputs, tuple(dict.fromkeys(outputs)), {one["name"]: one["type"] for one in takes if one["type"]})


# sampleUtils.cpp: "Expected: 6144 bytes but only read: 1 bytes" (8.5, 8.6), "Input binding size is: 6144 bytes but the
# file size is 1 bytes" (10, 11). A file that is too large is read all the same: of any size, or twice the engine's own.
UNEXPECTED_SIZE = (
    r"Unexpected file size for input file: (?P<file>.+?)\. Note: (?:Input binding size is|Expected): (?P<want>\d+)"
    r" bytes but (?:the file size is|only read:?) (?P<got>\d+)"
)


def expected_size(log: str) -> tuple[str, int] | None:
    """The file of an input that a failed run refused for its size, and the bytes that the engine takes; None where it
    refused none."""
    found = re.search(UNEXPECTED_SIZE, log)
    return (found["file"], int(found["want"])) if found else None


INFERENCE_BEGINS = "Starting inference"  # the warm-up comes first
INFERENCE_ENDS = "Timing trace has"


def pace_of(log: str) -> tuple[int, float]:
    """How many inferences were timed, and the seconds that they took with the pauses between them.

    Raises:
        ValueError: the log does not say.
    """
    found = re.search(r"Timing trace has (\d+) queries over (\d+(?:\.\d+)?(?:e[-+]?\d+)?) s\b", log)
    if not found or not int(found[1]) or not float(found[2]):
        raise ValueError("the log does not say how many inferences were timed")
    return int(found[1]), float(found[2])


# Pattern in the log, and what it means; the first that fits wins, so causes stand before their consequences.
MEANINGS: tuple[tuple[str, str], ...] = (
    (
        r"NvMapMem\w*: \d+ error 12\b",
        "the board's memory allocator (NvMap) gave no block of that size, though memory may be free; reboot the board, "
        "run it without a desktop (sudo systemctl set-default multi-user.target) and build first of all; reported from "
        "L4T 36.4.7 on (cat /etc/nv_tegra_release); lfb in a line of tegrastats is the largest block; else give the "
        "builder less (builder.workspace_mib in the profile)",
    ),
    (
        r"Unknown option: (?P<what>\S+)",
        "this trtexec does not know {what}; update edgeprune, or use a TensorRT that it knows",
    ),
    (
        r"expecting library version (?P<want>[\d.]+) got (?P<got>[\d.]+)",
        "the engine was built by TensorRT {got}, here is {want}; build it on this device",
    ),
    (
        r"incompatible device, expecting compute (?P<want>[\d.]+) got compute (?P<got>[\d.]+)",
        "the engine was built for compute capability {got}, here is {want}; build it on this device",
    ),
    (
        r"(?:stdVersionRead == serializationVersion|[Vv]ersion tag does not match)",
        "the engine was built by another TensorRT version; build it on this device",
    ),
    (r"[Mm]agic tag does not match|magicTagRead == ", "this file is no TensorRT engine; build it from the ONNX file"),
    (
        r"out of memory|OutOfMemory|insufficient memory|[Rr]equested amount of GPU memory",
        f"the device ran out of memory; {MORE_MEMORY}",
    ),
    (
        r"No importer registered for op: (?P<what>[\w:]+)",
        "TensorRT knows no operator {what}; edgeprune lint model.onnx names such nodes",
    ),
    (
        r"(?:UNSUPPORTED_NODE(?:_\w+)?|INVALID_NODE|INVALID_GRAPH|UNSUPPORTED_GRAPH)\W.*|In node \d+ .*",
        "TensorRT's parser refuses the graph: {all}; edgeprune lint model.onnx names such nodes",
    ),
    (
        r"Could not find any implementation for node (?P<what>.+?)\.?$",
        "TensorRT has no kernel for {what} on this device in the precision of the graph",
    ),
    (
        UNEXPECTED_SIZE,
        "an input has {got} bytes, the engine takes {want}: another shape or type",
    ),
    (
        r"Cannot find input tensor with name \"(?P<what>[^\"]+)\"",
        "the engine has no input named {what}",
    ),
    (
        r"no CUDA-capable device|CUDA initialization failure|CUDA driver version is insufficient|Cannot find any",
        "CUDA does not work on the device: {all}; check the driver (nvidia-smi, or dmesg on a Jetson)",
    ),
    (
        r"(?:Error opening engine file|Could not open (?:input )?file|Failed to open file)[: ]*(?P<what>\S*)",
        "a file is missing on the device: {what}",
    ),
    (
        r"error while loading shared libraries: (?P<what>\S+?):",
        "trtexec needs {what}, which the loader of the device does not find",
    ),
    (r"No space left on device", "the device's disk is full"),
)


# Errors that only say that there is no engine
CONSEQUENCE = re.compile(r"Engine (could not be created|set up failed)|Building engine failed|Failed to create engine")


def meaning_of(log: str) -> str:
    """One line that says why trtexec failed: a known cause, else the first line that it marked as an error.

    Warnings are read only where no error names a cause: a tactic that does not fit into memory is one of many a build
    that succeeds.
    """
    lines = log.splitlines()
    texts = ["\n".join(line for line in lines if not re.search(r"\[[WIV]\]", line))]
    if all(CONSEQUENCE.search(line) for line in lines if "[E]" in line):
        texts.append(log)
    for text in texts:
        for pattern, meaning in MEANINGS:
            if found := re.search(pattern, text, re.MULTILINE):
                return meaning.format(all=found[0].strip(), **found.groupdict())
    return _first_error(log)


def _first_error(log: str) -> str:
    """The first line that trtexec or TensorRT marked as an error, without time and mark; empty where there is none."""
    errors = [line for line in log.splitlines() if "[E]" in line]
    return re.sub(r"^.*?\[E\]\s*(?:\[TRT\]\s*)?", "", errors[0]).strip() if errors else ""


def failure(argv: list[str], returncode: int, log: str) -> ToolError:
    """The error of a failed run, with its log: its last line says what it means, the lines before it are the log's
    end."""
    tail = "\n".join(log.strip().splitlines()[-TAIL_LINES:])
    if returncode in KILLED:  # a device that runs out of memory kills the largest process without a word in its log
        meaning = f"it was killed: the device ran out of memory; {MORE_MEMORY}"
    elif PASSED in log:  # what it logged before need not be the cause: TensorRT gets along without some of it
        meaning = f"it did its work ({PASSED}) and crashed at its end: look at the libraries that it loads (ldd)"
        meaning += f"; it had logged: {said}" if (said := _first_error(log)) else ""
    else:
        meaning = meaning_of(log)
    error = ToolError(argv, returncode, f"{tail}\n{meaning}" if meaning else tail)
    error.log = log
    return error


def _list(text: str, what: str) -> list[dict[str, Any]]:
    try:
        rows = json.loads(NOT_JSON_NUMBERS.sub(" null", text))
    except ValueError as error:
        raise ValueError(f"trtexec's {what} are not JSON: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"trtexec's {what} are not a list of entries")
    return rows
