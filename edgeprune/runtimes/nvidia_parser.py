"""NVIDIA's own ONNX parser and builder as a judge of graphs, where there is neither a GPU nor TensorRT.

They are those of TensorRT for RTX, two packages on PyPI that run on any Linux machine with x86-64. Its parser is
onnx-tensorrt, as TensorRT's is, and its networks are strongly typed, as edgeprune builds them everywhere; but it is one
version, and what older ones refuse besides is what :mod:`edgeprune.export.lint` knows. The engine is thrown away: it
could only be loaded on an RTX card.

Parser and builder are C++ that may crash: they run in a process of their own, ``python -m`` this module, whose protocol
is that of :mod:`edgeprune.runtimes.bench_worker`.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from edgeprune.errors import ToolError
from edgeprune.runtimes.base import Availability
from edgeprune.runtimes.bench_worker import JobError, serve
from edgeprune.runtimes.jobs import ParserAnswer, ParserJob
from edgeprune.runtimes.onnx_facts import onnx_facts
from edgeprune.runtimes.tensorrt_build import ParserError, Refused, Said, plan_of
from edgeprune.runtimes.worker import run_worker
from edgeprune.version import pip_extra, versions_of

NAME = "NVIDIA's parser"
PLATFORM = ("linux", "x86_64")
PACKAGES = ("tensorrt-rtx-cu13-libs", "tensorrt-rtx-cu13-bindings")
LIBRARIES = ("libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1")  # the second needs the first
TIMEOUT_S = 600.0  # a nano model takes two seconds, the largest ones a minute
NO_PLUGIN = "plugin"  # in every error about an operator that it would take from a plugin
NO_NEWS = ("Invalid Node - ", "[checkMacros.cpp")  # lines without the cause: a heading, and that no GPU is here


def parser_availability() -> Availability:
    """Whether both packages are installed; loads neither."""
    versions = versions_of(PACKAGES)
    if missing := [package for package, version in versions.items() if version == "absent"]:
        if (sys.platform, platform.machine()) != PLATFORM:
            return Availability(False, "TensorRT for RTX is for Linux on x86-64", "ask it on such a machine")
        return Availability(False, f"{' and '.join(missing)} not installed", _install())
    return Availability(True, f"TensorRT for RTX {versions[PACKAGES[0]]}")


def ask_parser(onnx: Path, *, timeout_s: float = TIMEOUT_S) -> ParserAnswer:
    """Parse a graph and build an engine of it, which is thrown away.

    Args:
        onnx: the file; free axes are filled as for an engine.
        timeout_s: longest run.

    Raises:
        DataError: not an ONNX file, or a free axis that nothing fills.
        DeviceError: the packages are not installed.
        ToolError: the process crashed or ran too long; says nothing about the graph.
    """
    job = ParserJob(str(Path(onnx).resolve()), onnx_facts(onnx).free_shapes())
    try:
        return run_worker(job, ParserAnswer, timeout_s=timeout_s)
    except ToolError as error:
        raise ToolError([NAME], error.returncode, error.tail) from error


def parse_and_build(job: ParserJob) -> ParserAnswer:
    """The process' part: what the parser and the builder say of a graph."""
    trt = _load()

    class Log(Said, trt.ILogger):
        pass

    started, log, version = perf_counter(), Log(), str(trt.__version__)
    refusals: list[str] = []
    lacking: set[str] = set()
    try:
        plan_of(trt, log, job.onnx, shapes=job.shapes)
    except Refused as refused:
        lacking = {error.operator for error in refused.errors if NO_PLUGIN in error.text.lower()}
        refusals += [_refusal(error) for error in refused.errors if error.operator not in lacking]
        if not refused.errors:
            refusals.append(_cause(log.errors))
    return ParserAnswer(version, tuple(refusals), tuple(sorted(lacking)), perf_counter() - started)


def _install() -> str:
    return pip_extra("parser", *PACKAGES)


def _load() -> Any:
    """NVIDIA's bindings; their libraries are loaded first, from where their package has them."""
    found = importlib.util.find_spec("tensorrt_rtx_libs")
    if found is None or not found.submodule_search_locations:
        raise JobError("device", f"TensorRT for RTX is not installed; next: {_install()}")
    folder = Path(next(iter(found.submodule_search_locations)))
    try:
        for library in LIBRARIES:
            ctypes.CDLL(str(folder / library), mode=ctypes.RTLD_GLOBAL)
        return importlib.import_module("tensorrt_rtx_bindings")
    except (OSError, ImportError) as error:
        raise JobError("device", f"TensorRT for RTX does not load ({error}); next: {_install()}") from error


def _refusal(error: ParserError) -> str:
    """One error of the parser: the node that it is about, and why."""
    node = f"{error.operator} '{error.node}': " if error.operator else ""
    return f"{node}{_cause(error.text.splitlines())} ({error.code})"


def _cause(lines: Sequence[str]) -> str:
    """The first line that holds a cause, in NVIDIA's words."""
    return next((line for line in lines if line and not line.startswith(NO_NEWS)), "it gave no reason")


if __name__ == "__main__":
    sys.exit(serve({ParserJob: parse_and_build}, needs=" and ".join(PACKAGES)))
