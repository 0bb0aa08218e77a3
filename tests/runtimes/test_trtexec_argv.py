"""trtexec's lines against what each version parses, and against what its defaults are."""

from __future__ import annotations

from typing import Any

import pytest

from edgeprune.devices.trtexec_options import STRONGLY_TYPED, VERSIONS, WEAKLY_TYPED, known_options
from edgeprune.errors import DeviceError
from edgeprune.runtimes.trtexec_argv import (
    DLA_GENERATIONS,
    GENERATIONS,
    build_argv,
    info_argv,
    outputs_argv,
    profile_argv,
    require_known,
    shown_version,
    time_argv,
    version_argv,
    version_from_banner,
    version_named,
)
from edgeprune.stages.bundle_readme import trtexec_lines
from edgeprune.target import load_target
from edgeprune.target.releases import has_dla
from edgeprune.target.schema import Builder
from tests.runtimes.models import convolutions


@pytest.mark.parametrize(
    ("builder", "version"),
    [
        ("trtexec 10.3.0", "10.3.0"),
        ("tensorrt 10.13.3.9", "10.13.3"),
        ("tensorrt 10.13.0.post1", "10.13.0"),
        ("tensorrt_rtx 1.7.0", ""),
        ("onnxruntime 1.22.0", ""),
    ],
)
def test_the_release_that_built_an_engine_is_read_of_trtexec_and_of_the_library(builder: str, version: str) -> None:
    assert version_named(builder) == version


def names(argv: list[str]) -> set[str]:
    return {word.split("=")[0] for word in argv[1:]}


def every_line(version: tuple[int, int, int], dla: bool = True) -> list[list[str]]:
    """One of each kind, a build for a DLA too where the version has one."""
    shapes = {"images": (1, 3, 64, 64)}
    return [
        version_argv(),
        build_argv(version, onnx="a.onnx", engine="a.engine"),
        build_argv(
            version,
            onnx="a",
            engine="b",
            precision="int8",
            layer_info="c",
            timing_cache="d",
            shapes=shapes,
            dla_core=1 if dla and has_dla(shown_version(version)) else None,
            builder=Builder(
                optimization_level=1 if version >= (8, 6, 0) else None, workspace_mib=512, tactic_sources=("-CUDNN",)
            ),
            trtexec=("trtexec",),
        ),
        build_argv(version, onnx="a", engine="b", precision="fp16", keep_float=["/model.22/Add"]),
        *(
            time_argv(version, engine="a", times="b", copies=copies, cuda_graph=graph, iterations=5, dla_core=core)
            for copies in (True, False)
            for graph in (True, False)
            for core in (None, 0)
        ),
        info_argv(version, engine="a", layer_info="b", shapes=shapes),
        profile_argv(version, engine="a", profile="b", iterations=5, shapes=shapes, dla_core=0),
        outputs_argv(version, engine="a", inputs={"images": "/tmp/in.bin"}, outputs="b"),
    ]


@pytest.mark.parametrize("version", [(*two, 0) for two in VERSIONS], ids=str)
def test_no_version_is_given_an_option_that_it_does_not_parse(version):
    for argv in every_line(version):
        assert names(argv) <= known_options(version), argv


@pytest.mark.parametrize("version", [(10, 3, 0), (10, 13, 3), (10, 16, 1)], ids=str)
def test_10_builds_strongly_typed_and_says_what_it_wants(version):
    assert "--stronglyTyped" in build_argv(version, onnx="a", engine="b")
    bare = names(time_argv(version, engine="a", times="t", copies=True, cuda_graph=False, iterations=1))
    assert not bare & {"--noDataTransfers", "--useCudaGraph"} and "--useSpinWait" in bare  # copies are 10's default
    full = names(time_argv(version, engine="a", times="t", copies=False, cuda_graph=True, iterations=1))
    assert full >= {"--noDataTransfers", "--useSpinWait", "--useCudaGraph"}  # all three are opt-in in 10


@pytest.mark.parametrize("version", [(11, 0, 0), (11, 1, 0), (11, 4, 1)], ids=str)
def test_11_undoes_its_defaults_and_takes_nothing_deprecated(version):
    deprecated = {"--noDataTransfers", "--useSpinWait", "--useCudaGraph", "--separateProfileRun", "--stronglyTyped"}
    for argv in every_line(version):
        assert not names(argv) & deprecated
    opposite = names(time_argv(version, engine="a", times="t", copies=True, cuda_graph=False, iterations=1))
    assert opposite >= {"--includeDataTransfers", "--noCudaGraph"}
    same = names(time_argv(version, engine="a", times="t", copies=False, cuda_graph=True, iterations=1))
    assert not same & {"--includeDataTransfers", "--noCudaGraph", "--noSpinWait"}


@pytest.mark.parametrize("version", [(10, 3, 0), (11, 1, 0)], ids=str)
def test_no_line_weakly_types_or_times_more_than_one_inference_at_once(version):
    for argv in every_line(version):
        if "--useDLACore" not in names(argv):
            assert not names(argv) & {"--precisionConstraints", "--layerPrecisions"}
            assert not names(argv) & {"--fp16", "--int8", "--best", "--bf16"}
    timing = time_argv(version, engine="a", times="t", copies=False, cuda_graph=False, iterations=7, warmup_ms=50)
    assert {"--exposeDMA", "--infStreams=1", "--avgRuns=1", "--iterations=7", "--duration=0", "--warmUp=50"} <= set(
        timing
    )


@pytest.mark.parametrize("version", [(*two, 2) for two in WEAKLY_TYPED], ids=str)
def test_8_is_told_what_it_may_use_and_what_stays_in_fp32(version):
    def told(precision: str, **given: Any) -> set[str]:
        return set(build_argv(version, onnx="a", engine="b", precision=precision, **given))

    typing = {"--fp16", "--int8", "--stronglyTyped", "--precisionConstraints=prefer"}
    assert not told("fp32", keep_float=["/22/Add"]) & typing  # nothing lower is allowed
    assert told("fp16") & typing == {"--fp16"} and told("int8") & typing == {"--int8"}
    assert told("int8-fp16") & typing == {"--fp16", "--int8"}
    line = told("fp16", keep_float=["/22/Add", "/22/dfl/Conv", "split,here"])  # that one trtexec would cut in two
    assert {"--precisionConstraints=prefer", "--layerPrecisions=/22/Add:fp32,/22/dfl/Conv:fp32"} <= line
    assert ("--buildOnly" in line) == (version < (8, 6, 0)) == ("--skipInference" not in line)
    timing = time_argv(version, engine="a", times="t", copies=False, cuda_graph=True, iterations=1)
    assert ("--streams=1" in timing) == (version < (8, 6, 0)) == ("--infStreams=1" not in timing)
    assert {"--noDataTransfers", "--useSpinWait", "--useCudaGraph", "--exposeDMA"} <= set(timing)


def test_8_builds_for_a_dla_by_the_classic_route():
    line = build_argv((8, 5, 2), onnx="a", engine="b", precision="fp16", dla_core=1)
    assert {"--fp16", "--useDLACore=1", "--allowGPUFallback"} <= set(line)


def test_the_builder_s_settings_are_passed_on_and_a_missing_one_is_said():
    settings = Builder(optimization_level=1, workspace_mib=900, tactic_sources=("-CUDNN", "-CUBLAS"))
    line = build_argv((8, 6, 0), onnx="a", engine="b", builder=settings)
    told = {"--builderOptimizationLevel=1", "--memPoolSize=workspace:900", "--tacticSources=-CUDNN,-CUBLAS"}
    assert told <= set(line)
    with pytest.raises(DeviceError, match=r"TensorRT 8\.5\.2 has no .*leave builder\.optimization_level out"):
        build_argv((8, 5, 2), onnx="a", engine="b", builder=settings)


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_a_wrapper_stands_before_every_line(version):
    wrapper = ("docker", "run", "image", "trtexec")
    assert build_argv((*version, 0), onnx="a", engine="b", trtexec=wrapper)[:5] == [*wrapper, "--onnx=a"]
    assert version_argv(wrapper) == [*wrapper, "--help"]


def test_a_dla_core_goes_with_a_fallback_and_never_with_a_cuda_graph():
    build = build_argv((10, 3, 0), onnx="a", engine="b", precision="fp16", dla_core=1)
    assert {"--useDLACore=1", "--allowGPUFallback"} <= set(build)
    for version, graph in (((10, 3, 0), "--useCudaGraph"), ((11, 1, 0), "--noCudaGraph")):
        line = time_argv(version, engine="a", times="t", copies=False, cuda_graph=True, iterations=1, dla_core=0)
        assert "--useDLACore=0" in line and (graph in line) == (version[0] == 11)
    assert "--allowGPUFallback" not in build_argv((10, 3, 0), onnx="a", engine="b")


@pytest.mark.parametrize(
    ("version", "precision", "typing"),
    [
        ((10, 3, 0), "fp16", {"--fp16"}),
        ((10, 7, 1), "int8", {"--int8", "--fp16"}),
        ((10, 7, 0), "int8-fp16", {"--int8", "--fp16"}),
        ((11, 4, 1), "fp16", set()),
    ],
)
def test_a_dla_before_11_is_typed_weakly_as_its_builder_wants(version, precision, typing):
    line = build_argv(version, onnx="a", engine="b", precision=precision, dla_core=0, keep_float=["/22/Add"])
    assert names(line) & {"--fp16", "--int8", "--stronglyTyped"} == typing
    assert ("--layerPrecisions=/22/Add:fp32" in line) == bool(typing) and names(line) <= known_options(version[:2])


@pytest.mark.parametrize("version", [(10, 8, 0), (10, 13, 3), (10, 16, 1), (11, 0, 0), (11, 4, 0)], ids=str)
def test_a_version_without_a_dla_is_said_before_it_is_asked(version):
    with pytest.raises(DeviceError, match=r"has no DLA: .*10.3 to 10.7.*leave device.dla_core out"):
        build_argv(version, onnx="a", engine="b", precision="fp16", dla_core=0)


def test_the_generations_of_a_dla_are_those_that_have_one():
    for first, below in DLA_GENERATIONS:
        assert build_argv(first, onnx="a", engine="b", precision="fp16", dla_core=0)
        assert not has_dla(shown_version(below)) or below == (8, 6, 0)  # which has one by another command line


def test_the_build_line_is_what_the_docs_print():
    assert build_argv((10, 3, 0), onnx="m.onnx", engine="m.engine", layer_info="l.json", timing_cache="c") == [
        "/usr/src/tensorrt/bin/trtexec",
        "--onnx=m.onnx",
        "--saveEngine=m.engine",
        "--stronglyTyped",
        "--profilingVerbosity=detailed",
        "--exportLayerInfo=l.json",
        "--timingCacheFile=c",
        "--skipInference",
    ]
    assert "--shapes=images:2x3x64x64" in build_argv(
        (11, 0, 0), onnx="m", engine="e", shapes={"images": (2, 3, 64, 64)}
    )


@pytest.mark.parametrize(
    ("banner", "version"),
    [
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # trtexec --help", (10, 3, 0)),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v101303] # /usr/src/tensorrt/bin/trtexec", (10, 13, 3)),
        ("noise\n&&&& RUNNING TensorRT.trtexec [TensorRT v110100] [b30] # trtexec --help\nmore", (11, 1, 0)),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v8602] # trtexec", (8, 6, 2)),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v8400] # trtexec", (8, 4, 0)),
    ],
)
def test_the_version_is_read_from_the_banner(banner, version):
    assert version_from_banner(banner) == version


def test_no_banner_is_said():
    with pytest.raises(DeviceError, match="no version banner \\(bash: trtexec: not found\\)"):
        version_from_banner("bash: trtexec: not found")


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ((8, 4, 3), "8.4.3 is too old: known are 8.5, 8.6, 10.3 and newer of 10, and 11; next: install one of them"),
        ((8, 7, 0), "too old"),
        ((9, 3, 0), "too old"),
        ((10, 2, 0), "too old"),
        ((12, 0, 0), "12.0.0 is newer than what edgeprune knows.*; next: update edgeprune"),
    ],
)
def test_an_unknown_version_is_refused_with_what_is_known(version, words):
    with pytest.raises(DeviceError, match=words):
        require_known(version)
    with pytest.raises(DeviceError, match=words):
        build_argv(version, onnx="a", engine="b")
    with pytest.raises(DeviceError, match=words):
        time_argv(version, engine="a", times="t", copies=False, cuda_graph=False, iterations=1)


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_a_generation_has_one_command_line(version):
    whole = (*version, 0)
    [first] = [first for first, below in GENERATIONS if first <= whole < below]
    assert every_line(whole, dla=False) == every_line(first, dla=False)
    for first, below in DLA_GENERATIONS:
        if first <= whole < below:
            assert every_line(whole) == every_line(first)


def test_an_input_that_trtexec_would_split_is_refused():
    for name, path in (("a,b", "/tmp/x"), ("a", "/tmp/x,y"), ("a", "/tmp/x:y"), ("a'", "/tmp/x")):
        with pytest.raises(DeviceError, match="splits"):
            outputs_argv((10, 3, 0), engine="e", inputs={name: path}, outputs="o")
    line = outputs_argv((10, 3, 0), engine="e", inputs={"scope:images": "/tmp/x"}, outputs="o")
    assert "--loadInputs=scope:images:/tmp/x" in line  # trtexec splits at the last colon


@pytest.mark.parametrize("version", STRONGLY_TYPED, ids=str)
def test_what_the_bundle_says_to_type_is_taken_by_every_version(version, tmp_path):
    profile = tmp_path / "mine.yaml"
    profile.write_text(
        "extends: jetson-orin-nx\ndevice: {dla_core: 1}\nmeasure: {cuda_graph: false}\nexport: {dynamic: true}"
    )
    for target in (load_target("jetson-orin"), load_target(profile)):
        build, timing = trtexec_lines(target, convolutions(tmp_path / "model.onnx"))
        if target.device.dla_core is None or version < (10, 8):
            assert names(build) | names(timing) <= known_options(version)
        typing = "--stronglyTyped" if target.device.dla_core is None else "--fp16"
        assert {"--onnx=model.onnx", typing, "--skipInference"} <= set(build)
        assert {"--noDataTransfers", "--iterations=300", "--exportTimes=times.json"} <= set(timing)
        dynamic = target.export.dynamic
        assert ("--shapes=images:1x3x640x640" in build) == ("--shapes=images:1x3x640x640" in timing) == dynamic
        assert ("--useDLACore=1" in build) == dynamic and ("--useCudaGraph" in timing) != dynamic
