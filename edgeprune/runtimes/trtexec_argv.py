"""trtexec's command lines: one pure function a command, explicit for every version.

What a flag's absence means changed between TensorRT 10 and 11 (data transfers, spin wait and CUDA graphs turned round,
strong typing became the only typing), 8.5 has other words for two of them, and 8.5 and 8.6 know no strong typing. So
every line says what it means where the version has a word for it, and what a run then did is read back from its log
(:func:`edgeprune.runtimes.trtexec_output.settings_used`). Read in the sources of 8.5.2, 8.6.0, release/10.0 to 10.16,
11.0 and 11.1 (NVIDIA/TensorRT, samples/common/sampleOptions.cpp, sampleEngines.cpp) and NVIDIA's migration guide of 11.
The same lines are recorded for a board that nothing connects to (:mod:`edgeprune.carry`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence

from edgeprune.agent.trtexec import TRTEXEC, version_in
from edgeprune.errors import DeviceError
from edgeprune.target.releases import (
    DLA_WORDS,
    Release,
    has_dla,
    has_level,
    is_too_new,
    is_weakly_typed,
    spans,
    why_unknown,
)
from edgeprune.target.schema import Builder

Version = tuple[int, int, int]
Program = tuple[str, ...]  # what starts trtexec: its path, or a wrapper with its arguments


def version_of(text: str) -> Version:
    """``10.3`` as (10, 3, 0)."""
    major, minor, patch = (int(part) for part in [*text.split("."), "0", "0"][:3])
    return major, minor, patch


def _generations(kind: Callable[[Release], str | None]) -> tuple[tuple[Version, Version], ...]:
    return tuple((version_of(first), version_of(below)) for first, below in spans(kind))


GENERATIONS = _generations(lambda release: release.trtexec)
"""First version of each kind of command line that is known, and the version that ends it."""
DLA_GENERATIONS = _generations(lambda release: release.trtexec if release.dla is not None else None)
"""The same for a DLA, which the versions between do not have."""
LOOKED_FOR: Program = (TRTEXEC,)
SPLIT = frozenset("',")  # what trtexec cuts a list of names at, or takes for a quotation mark


def version_argv(trtexec: Program = LOOKED_FOR) -> list[str]:
    """Print the banner that holds the version; needs no GPU and no engine."""
    return [*trtexec, "--help"]


def version_from_banner(text: str) -> Version:
    """(major, minor, patch) from ``&&&& RUNNING TensorRT.trtexec [TensorRT v100300] …``.

    Raises:
        DeviceError: there is no banner.
    """
    version = version_in(text)
    if version is None:
        last = text.strip().splitlines()[-1:] or ["it printed nothing"]
        raise DeviceError(f"trtexec printed no version banner ({last[0]}); next: {TRTEXEC} --help")
    return version


def require_known(version: Version, *, on_jetson: Callable[[], bool] = lambda: False) -> Version:
    """The version itself when its command line is known.

    Args:
        version: of a trtexec.
        on_jetson: asked where it is too old: whether it lies on a board with JetPack, which brings it.

    Raises:
        DeviceError: older than 8.5, newer than 11, or one between 8.6 and 10.3; behind ``; next:`` what to do.
    """
    if reason := why_unknown(shown := shown_version(version)):
        if is_too_new(shown):
            raise DeviceError(f"{reason}; next: update edgeprune")
        newer = "one of them; the profile names its trtexec (device.trtexec)"
        if on_jetson():  # a Xavier has no JetPack behind 5.1
            newer = f"JetPack {'5.1' if version < GENERATIONS[0][0] else '6.1'} or newer"
        raise DeviceError(f"{reason}; next: install {newer}")
    return version


def version_named(text: str) -> str:
    """``10.3.0`` of ``trtexec 10.3.0`` and of ``tensorrt 10.3.0.26``, as engines and identities name their builder;
    empty for one that is not TensorRT."""
    found = re.fullmatch(r"(?:trtexec|tensorrt) (\d+\.\d+\.\d+)(?:\.\w+)*", text)
    return found[1] if found else ""


def weakly_typed(version: Version) -> bool:
    """Whether this builder chooses precisions itself, out of those that it is allowed."""
    return is_weakly_typed(shown_version(version))


def shown_version(version: Version) -> str:
    """``10.3.0``."""
    return ".".join(str(part) for part in version)


def build_argv(
    version: Version,
    *,
    onnx: str,
    engine: str,
    precision: str = "fp32",
    layer_info: str = "",
    timing_cache: str = "",
    shapes: Mapping[str, Sequence[int]] | None = None,
    dla_core: int | None = None,
    keep_float: Collection[str] = (),
    builder: Builder | None = None,
    trtexec: Program = LOOKED_FOR,
) -> list[str]:
    """Build an engine from ONNX and run nothing.

    Precision is the graph's: the network is strongly typed. Two are not: that of 8.5 and 8.6, which know no such
    typing, and before 11 that of a DLA, where the builder refuses both together (NVIDIA/TensorRT #4228). They are told
    what they may use, and what they did is read from the layers.

    Args:
        version: of this trtexec.
        onnx: path of the graph, on the device like every path here.
        engine: where the plan goes.
        precision: of the engine, and of the graph but for 8.5 and 8.6
            (:func:`~edgeprune.target.releases.precision_in_graph`); not ``fp32`` with a DLA.
        layer_info: where the inspector's JSON goes; empty for none.
        timing_cache: read if it exists, then written; empty for none.
        shapes: input name to shape, only for a graph with free axes: trtexec refuses shapes for a static one.
        dla_core: build for this DLA core; what it cannot take falls back to the GPU.
        keep_float: layers that a weakly typed builder keeps in FP32, by their nodes' names; names that trtexec would
            split are left to it.
        builder: the profile's settings of the builder.
        trtexec: what starts the program.

    Raises:
        DeviceError: the version is not known, or lacks what is asked.
    """
    require_known(version)
    builder = builder or Builder()
    if not has_level(shown_version(version), builder.optimization_level):
        raise DeviceError(
            f"TensorRT {shown_version(version)} has no optimization level; leave builder.optimization_level out"
        )
    if dla_core is not None and not has_dla(shown_version(version)):
        raise DeviceError(f"TensorRT {shown_version(version)} has no DLA: {DLA_WORDS}; or leave device.dla_core out")
    return [
        *trtexec,
        f"--onnx={onnx}",
        f"--saveEngine={engine}",
        *_typing(version, precision, dla_core is not None, keep_float),
        "--profilingVerbosity=detailed",
        *([f"--exportLayerInfo={layer_info}"] if layer_info else []),
        *([f"--timingCacheFile={timing_cache}"] if timing_cache else []),
        *_shapes(shapes),
        *([f"--useDLACore={dla_core}", "--allowGPUFallback"] if dla_core is not None else []),
        *_searching(builder),
        _runs_nothing(version),
    ]


def info_argv(
    version: Version,
    *,
    engine: str,
    layer_info: str,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dla_core: int | None = None,
    trtexec: Program = LOOKED_FOR,
) -> list[str]:
    """Load an engine and write what its layers are (arguments as in :func:`build_argv`); nothing is timed."""
    return [
        *_loaded(version, engine, shapes, dla_core, trtexec),
        "--profilingVerbosity=detailed",
        f"--exportLayerInfo={layer_info}",
        _runs_nothing(version),
    ]


def time_argv(
    version: Version,
    *,
    engine: str,
    times: str,
    copies: bool,
    cuda_graph: bool,
    iterations: int,
    warmup_ms: int = 200,
    inputs: Mapping[str, str] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dla_core: int | None = None,
    trtexec: Program = LOOKED_FOR,
) -> list[str]:
    """Time an engine: one stream, one inference at a time, every one of them written down.

    trtexec by itself keeps two inferences in flight, so that a figure speaks of throughput; ``--exposeDMA`` is what it
    calls waiting for one before the next is started.

    Args:
        version: of this trtexec.
        engine: path of the plan.
        times: where the samples go, as JSON.
        copies: inputs start and outputs end in host memory, and the copies are in the time.
        cuda_graph: capture the inference once and replay it; never with a DLA core, which cannot.
        iterations: inferences after the warm-up.
        warmup_ms: time before the first sample that counts.
        inputs: as in :func:`outputs_argv`; noise when empty.
        shapes: as in :func:`build_argv`.
        dla_core: as in :func:`build_argv`.
        trtexec: what starts the program.
    """
    return [
        *_loaded(version, engine, shapes, dla_core, trtexec),
        *_load_inputs(inputs),
        f"--exportTimes={times}",
        "--avgRuns=1",
        _one_stream(version),
        "--exposeDMA",
        *_pace(iterations, warmup_ms),
        *_scope(version, copies=copies, cuda_graph=cuda_graph and dla_core is None, spin=True),
    ]


def profile_argv(
    version: Version,
    *,
    engine: str,
    profile: str,
    iterations: int,
    warmup_ms: int = 200,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dla_core: int | None = None,
    trtexec: Program = LOOKED_FOR,
) -> list[str]:
    """Write the time of every layer, from a run of their own (arguments as in :func:`time_argv`).

    Without a CUDA graph, whose launch hides the layers. 10 profiles the only run unless told to run twice; 11 always
    runs twice.
    """
    return [
        *_loaded(version, engine, shapes, dla_core, trtexec),
        f"--exportProfile={profile}",
        _one_stream(version),
        *_pace(iterations, warmup_ms),
        *_scope(version, copies=False, cuda_graph=False, spin=True),
    ]


def power_argv(
    version: Version,
    *,
    engine: str,
    copies: bool,
    cuda_graph: bool,
    duration_s: int,
    warmup_ms: int,
    inputs: Mapping[str, str] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dla_core: int | None = None,
    trtexec: Program = LOOKED_FOR,
) -> list[str]:
    """Run an engine for ``duration_s`` as :func:`time_argv` runs it (arguments as there), and write no sample down: how
    many inferences that were is in the log."""
    return [
        *_loaded(version, engine, shapes, dla_core, trtexec),
        *_load_inputs(inputs),
        _one_stream(version),
        "--exposeDMA",
        "--iterations=1",
        f"--duration={duration_s}",
        f"--warmUp={warmup_ms}",
        *_scope(version, copies=copies, cuda_graph=cuda_graph and dla_core is None, spin=True),
    ]


def outputs_argv(
    version: Version,
    *,
    engine: str,
    inputs: Mapping[str, str],
    outputs: str,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dla_core: int | None = None,
    trtexec: Program = LOOKED_FOR,
) -> list[str]:
    """Run once on given inputs and write the outputs as JSON.

    Args:
        version: of this trtexec.
        engine: path of the plan.
        inputs: tensor name to a file of raw values in the engine's own type, C order.
        outputs: where the JSON goes.
        shapes: as in :func:`build_argv`.
        dla_core: as in :func:`build_argv`.
        trtexec: what starts the program.

    Raises:
        DeviceError: a name or path that trtexec would split at a comma, a quote or the path's colon.
    """
    return [
        *_loaded(version, engine, shapes, dla_core, trtexec),
        *_load_inputs(inputs),
        f"--exportOutput={outputs}",
        _one_stream(version),
        *_pace(1, 0),
        *_scope(version, copies=True, cuda_graph=False, spin=False),
    ]


def _loaded(
    version: Version, engine: str, shapes: Mapping[str, Sequence[int]] | None, dla_core: int | None, trtexec: Program
) -> list[str]:
    require_known(version)
    return [
        *trtexec,
        f"--loadEngine={engine}",
        *_shapes(shapes),
        *([f"--useDLACore={dla_core}"] if dla_core is not None else []),
    ]


def _load_inputs(inputs: Mapping[str, str] | None) -> list[str]:
    for name, path in (inputs or {}).items():
        if SPLIT & set(name + path) or ":" in path:
            raise DeviceError(
                f"trtexec cannot take the input {name} from {path}: it splits at commas, quotes and colons"
            )
    return ["--loadInputs=" + ",".join(f"{name}:{path}" for name, path in inputs.items())] if inputs else []


def _typing(version: Version, precision: str, on_dla: bool, keep_float: Collection[str]) -> list[str]:
    if version[0] >= 11:
        return []  # strong is the only typing
    if not weakly_typed(version) and not on_dla:
        return ["--stronglyTyped"]
    if on_dla:  # which computes in half precision what is not INT8
        allowed = ["--int8", "--fp16"] if precision.startswith("int8") else ["--fp16"]
    else:
        allowed = [f"--{name}" for name in precision.split("-") if name != "fp32"]
    kept = [f"{name}:fp32" for name in keep_float if not SPLIT & set(name)]
    if not kept or not allowed:
        return allowed
    return [*allowed, "--precisionConstraints=prefer", f"--layerPrecisions={','.join(kept)}"]


def _searching(builder: Builder) -> list[str]:
    level, workspace, sources = builder.optimization_level, builder.workspace_mib, builder.tactic_sources
    return [
        *([f"--builderOptimizationLevel={level}"] if level is not None else []),
        *([f"--memPoolSize=workspace:{workspace}"] if workspace is not None else []),
        *([f"--tacticSources={','.join(sources)}"] if sources else []),
    ]


def _runs_nothing(version: Version) -> str:
    return "--skipInference" if version >= (8, 6, 0) else "--buildOnly"


def _one_stream(version: Version) -> str:
    return "--infStreams=1" if version >= (8, 6, 0) else "--streams=1"


def _shapes(shapes: Mapping[str, Sequence[int]] | None) -> list[str]:
    if not shapes:
        return []
    return ["--shapes=" + ",".join(f"{name}:{'x'.join(str(size) for size in shape)}" for name, shape in shapes.items())]


def _pace(iterations: int, warmup_ms: int) -> list[str]:
    # a duration of 0 leaves the number of iterations to decide; by default it runs for at least three seconds
    return [f"--iterations={iterations}", "--duration=0", f"--warmUp={warmup_ms}"]


def _scope(version: Version, *, copies: bool, cuda_graph: bool, spin: bool) -> list[str]:
    if version[0] < 11:
        wanted = {"--noDataTransfers": not copies, "--useSpinWait": spin, "--useCudaGraph": cuda_graph}
    else:
        wanted = {"--includeDataTransfers": copies, "--noSpinWait": not spin, "--noCudaGraph": not cuda_graph}
    return [flag for flag, on in wanted.items() if on]
