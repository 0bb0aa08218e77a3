"""From an ONNX file to a plan by TensorRT's Python API, once for both that have it: TensorRT, and TensorRT for RTX.

The module is handed in, because a process has one of them. What is called exists in TensorRT 10.3 to 11 and in
TensorRT for RTX: precision is the graph's (a strongly typed network), and nothing that 11 removed is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeprune.runtimes.trtexec_output import meaning_of

LETTERS = {"INTERNAL_ERROR": "E", "ERROR": "E", "WARNING": "W", "INFO": "I", "VERBOSE": "V"}
KEPT_WARNINGS = 400  # a build may give thousands; its errors are few, and the last of them may be the cause


class Said:
    """Keeps what TensorRT says, in trtexec's form, so that one reader explains both. A logger is made of it by a class
    that derives from it and from the module's ``ILogger``, in this order."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._warnings = 0

    def log(self, severity: Any, msg: str) -> None:
        """Called by TensorRT, from any of its threads."""
        letter = LETTERS.get(severity.name, "I")
        if letter == "E":
            self.errors.append(msg)
        self._warnings += letter == "W"
        if letter == "E" or (letter == "W" and self._warnings <= KEPT_WARNINGS):
            self.lines.append(f"[{letter}] [TRT] {msg}")

    def meaning(self, others: Sequence[str] = ()) -> str:
        """Why the last thing failed, in one line.

        Args:
            others: what was said beside the log; of use where that names no cause.
        """
        return meaning_of("\n".join(self.lines)) or "; ".join(filter(None, others)) or "TensorRT gave no reason"


@dataclass(frozen=True)
class ParserError:
    """Why the parser does not take a node, in its words; ``operator`` and ``node`` are empty where it names none."""

    operator: str
    node: str
    text: str
    code: str


class Refused(Exception):
    """TensorRT makes no plan of a graph; the log says why.

    Attributes:
        by_parser: its parser does not take the graph; else the builder cannot build it.
        errors: of the parser.
    """

    def __init__(self, by_parser: bool, errors: tuple[ParserError, ...] = ()) -> None:
        super().__init__("parser" if by_parser else "builder")
        self.by_parser = by_parser
        self.errors = errors


@dataclass(frozen=True)
class Plan:
    """An engine's bytes, and the timing cache as it is now; empty where none was asked for."""

    data: bytes
    timing_cache: bytes


def plan_of(
    trt: Any, log: Any, onnx: str, *, shapes: Mapping[str, Sequence[int]], timing_cache: bytes | None = None
) -> Plan:
    """Parse a graph, whose precision is its own, and build it.

    Args:
        trt: the module.
        log: a logger of it, made of :class:`Said`.
        onnx: path of the graph.
        shapes: input name to shape, for a graph with free axes.
        timing_cache: from an earlier build under the same device identity, or empty; None for a module without
            (TensorRT for RTX compiles no kernels yet).

    Raises:
        Refused: it does not parse, or cannot be built.
    """
    register_plugins(trt, log)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(onnx):
        raise Refused(True, tuple(_error(parser.get_error(index)) for index in range(parser.num_errors)))
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if timing_cache is not None:
        cache = config.create_timing_cache(timing_cache)
        # a cache of another device is no cache: TensorRT refuses it, and the build starts from an empty one
        if not config.set_timing_cache(cache, ignore_mismatch=False):
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, ignore_mismatch=False)
    if shapes:
        profile = builder.create_optimization_profile()
        for name, shape in shapes.items():
            size = trt.Dims(list(shape))
            profile.set_shape(name, size, size, size)
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise Refused(False)
    return Plan(bytes(plan), b"" if timing_cache is None else bytes(config.get_timing_cache().serialize()))


def register_plugins(trt: Any, log: Any) -> None:
    """Make TensorRT's own plugins known, as trtexec does: a graph or an engine that holds one (``EfficientNMS_TRT``)
    is neither parsed nor loaded without."""
    if hasattr(trt, "init_libnvinfer_plugins"):
        trt.init_libnvinfer_plugins(log, "")


def _error(error: Any) -> ParserError:
    code = getattr(error.code(), "name", "")
    return ParserError(error.node_operator() or "", error.node_name() or "", error.desc() or "", code)
