"""What trtexec writes is read in both generations; what is broken is said in one line."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

from edgeprune.agent.trtexec import PASSED, crashed_behind_its_work
from edgeprune.records.gates import precision_gates
from edgeprune.runtimes.layer_info import Layer, format_in, layer_info_of
from edgeprune.runtimes.precision_truth import precision_share
from edgeprune.runtimes.trtexec_argv import version_from_banner
from edgeprune.runtimes.trtexec_output import (
    Bindings,
    bindings_of,
    failure,
    meaning_of,
    outputs_of,
    profile_of,
    settings_used,
    times_of,
)
from edgeprune.samples.gates import Verdict
from edgeprune.serial import from_json, to_json
from tests.runtimes.trtexec_samples import (
    FAILURES,
    LAYERS,
    bindings_log,
    layers_json,
    options_log,
    outputs_json,
    profile_json,
    times_json,
)


def test_times_are_the_differences_as_written():
    found = times_of(times_json([4.5, 4.25], h2d=0.5, d2h=0.25))
    assert found.compute == (4.5, 4.25) and found.h2d == (0.5, 0.5) and found.d2h == (0.25, 0.25)
    assert found.latency(copies=True) == (5.25, 5.0) and found.latency(copies=False) == (4.5, 4.25)
    assert found.enqueue == pytest.approx((0.25, 0.25))


@pytest.mark.parametrize(("began_ms", "told"), [(900.0, True), (1000.0, False), (12000.0, False)])
def test_what_enqueueing_took_is_left_out_where_its_clocks_are_printed_too_coarsely(began_ms, told):
    found = times_of(times_json([4.5, 4.25], began_ms=began_ms))
    assert found.enqueue == (pytest.approx((0.25, 0.25), abs=1e-3) if told else ())
    assert found.compute == (4.5, 4.25)  # durations are printed as such


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[\n]\n", "no sample"),
        (
            '[ { "startInMs" : 1, "computeMs" : 2 } ]',
            "lacks startEnqMs, endEnqMs, h2dMs, d2hMs .it has computeMs, startInMs",
        ),
        ("", "not JSON"),
        ('{"a": 1}', "not a list"),
        ('[{ "startEnqMs": 1, "endEnqMs": 2, "h2dMs": 0, "computeMs" : nan, "d2hMs": 0 }]', "lacks computeMs"),
    ],
)
def test_broken_times_are_said(text, words):
    with pytest.raises(ValueError, match=words):
        times_of(text)


@pytest.mark.parametrize("median", [True, False])
def test_a_profile_gives_layers_in_order(median):
    layers = profile_of(profile_json([("a", 0.25), ("b + c", 0.5)], runs=30, median=median), {"a": "CaskConvolution"})
    assert [(layer.name, layer.op, layer.mean_ms) for layer in layers] == [
        ("a", "CaskConvolution", 0.25),
        ("b + c", "", 0.5),
    ]
    assert (layers[1].runs, layers[1].median_ms) == (30, 0.5 if median else None)


def test_a_profile_without_times_is_read_or_said():
    text = profile_json([("a", 0.0)])
    assert "-nan" in text and profile_of(text)[0].mean_ms == 0
    with pytest.raises(ValueError, match="no layer"):
        profile_of('[ { "count" : 0 } ]')


def test_outputs_come_back_in_their_shape():
    values = np.arange(12, dtype=np.float32) / 7
    found = outputs_of(outputs_json({"output0": ("1x3x4", values.tolist()), "n": ("scalar", [3])}))
    np.testing.assert_allclose(found["output0"], values.reshape(1, 3, 4), rtol=1e-5)
    assert found["n"].shape == () and found["n"] == 3
    assert np.isnan(outputs_of('[ { "name" : "x", "dimensions" : "2", "values" : [ nan, 1 ] } ]')["x"][0])
    with pytest.raises(ValueError, match="x has 2 values for the shape 3"):
        outputs_of('[ { "name" : "x", "dimensions" : "3", "values" : [ 0, 1 ] } ]')


def test_settings_are_what_the_run_says_of_itself():
    log = options_log(copies=False, spin=True, cuda_graph=True, one_at_a_time=True)
    used = settings_used(log)
    assert (used.copies, used.spin, used.cuda_graph, used.one_at_a_time) == (False, True, True, True)
    assert not settings_used(log.replace("Successfully captured", "Could not capture")).cuda_graph
    with pytest.raises(ValueError, match="does not say 'Data transfers'"):
        settings_used(log.replace("Data transfers", "Transfers"))


@pytest.mark.parametrize(("log", "words"), [row[1:] for row in FAILURES], ids=[row[0] for row in FAILURES])
def test_a_failure_says_what_it_means(log, words):
    error = failure(["trtexec", "--x"], 1, log)
    assert words in str(error) and "\n" not in str(error)
    assert log.splitlines()[-1].strip() in error.tail


def test_a_warning_about_a_tactic_is_not_the_cause_of_a_failure():
    tactic = "[W] [TRT] Skipping tactic 2 due to insufficient memory on requested size of 547356672 detected for tactic"
    refused = "[E] Error[10]: Error Code 10: Internal Error (Could not find any implementation for node /model.9/Conv.)"
    assert meaning_of(f"{tactic}\n{refused}").startswith("TensorRT has no kernel for /model.9/Conv")
    assert "ran out of memory" in meaning_of(f"{tactic}\n[E] Engine could not be created from network")
    unknown = "[E] Error[4]: [network.cpp::validate::3162] Error Code 4: Internal Error (Network must have one output)"
    ends = "[E] Engine could not be created from network\n[E] Building engine failed\n[E] Failed to create engine"
    assert meaning_of(f"{tactic}\n{unknown}\n{ends}").startswith("Error[4]: [network.cpp::validate::3162]")
    assert "ran out of memory" in meaning_of(f"{tactic}\n{ends} from model or file.\n[E] Engine set up failed")


def test_a_block_that_nvmap_does_not_give_is_no_lack_of_memory():
    nvmap = "NvMapMemAllocInternalTagged: 1075072515 error 12\nNvMapMemHandleAlloc: error 0"
    for follows in (
        "[E] [TRT] CUDA error 2 for 622329856-byte allocation: cudaMalloc failed: out of memory",
        "[E] Error Code 10: Internal Error (Could not find any implementation for node {ForeignNode[/a.../b]}.)",
    ):
        meaning = meaning_of(f"[I] Start\n{nvmap}\n{follows}")
        assert "NvMap" in meaning and "reboot the board" in meaning and "swap" not in meaning


REAL_BUILD = (Path(__file__).parent / "trtexec_8_6_h100_build.log").read_text()
"""TensorRT 8.6.0 on an H100, driver 580: YOLOv8n at 640 px, batch 16, by the line that edgeprune writes for FP16.
It took 75.5 s; three libraries that only plugins use were empty, and the program crashed when it unloaded them."""


def test_a_real_build_of_8_6_took_the_line_as_it_was_meant():
    assert version_from_banner(REAL_BUILD) == (8, 6, 0)
    assert "Precision: FP32+FP16 (prefer precision constraints)" in REAL_BUILD
    [asked] = re.findall(r"--layerPrecisions=(\S+)", REAL_BUILD.splitlines()[0])
    [taken] = re.findall(r"\] LayerPrecisions: (\S+)", REAL_BUILD)
    assert sorted(asked.split(",")) == sorted(taken.split(","))
    assert not settings_used(REAL_BUILD).cuda_graph
    assert PASSED in REAL_BUILD and "[E]" in REAL_BUILD


def test_a_crash_behind_a_finished_build_is_not_put_down_to_what_was_logged_before():
    told = str(failure(["trtexec", "--onnx=m.onnx"], -11, REAL_BUILD))
    assert "did its work" in told and "crashed at its end" in told
    assert "it had logged: 1: [myelinCache" in told and "had logged" not in str(failure(["trtexec"], -11, PASSED))
    assert "Myelin" in meaning_of(REAL_BUILD)


@pytest.mark.parametrize(
    ("returncode", "log", "crashed"),
    [
        (-11, REAL_BUILD, True),
        (139, REAL_BUILD, True),
        (-11, REAL_BUILD.replace(PASSED, "&&&& FAILED"), False),
        (-11, "[I] it prints &&&& PASSED at the end", False),
        (0, REAL_BUILD, False),
        (1, REAL_BUILD, False),
        (-9, REAL_BUILD, False),  # killed from outside: by the kernel, or by who runs it
    ],
)
def test_only_a_crash_behind_a_whole_run_counts_as_one_that_did_its_work(returncode, log, crashed):
    assert crashed_behind_its_work(returncode, log) is crashed


def real(name: str) -> str:
    """A file that trtexec 8.6.0 wrote on an H100 (driver 580), for a search's YOLOv8n at 640 px, batch 1, FP16,
    ``builder.optimization_level: 0``."""
    path = Path(__file__).parent / f"trtexec_8_6_h100_{name}"
    return gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()


def test_real_times_of_8_6_are_read_to_the_microsecond():
    found, log = times_of(real("times.json")), real("time.log")
    assert len(found.compute) == 22 and found.compute == found.latency(copies=False)
    [low, high] = map(float, re.findall(r"GPU Compute Time: min = (\S+) ms, max = (\S+) ms", log)[0])
    assert min(found.compute) == pytest.approx(low, abs=1e-6) and max(found.compute) == pytest.approx(high, abs=1e-6)
    assert 0.69 < float(np.median(found.compute)) < 0.71
    used = settings_used(log)
    assert used.cuda_graph and used.spin and PASSED in log


def test_bindings_are_read_in_every_wording():
    assert bindings_of(real("time.log")) == Bindings({"images": (1, 3, 640, 640)}, ("output0",))
    for version in ((8, 5, 2), (8, 6, 1), (10, 3, 0), (10, 13, 3), (11, 1, 0)):
        takes, gives = {"images": "4x3x384x640", "im_info": "4x2"}, {"output1": "4x32x96x160", "output0": "4"}
        log = bindings_log(version, takes, gives)
        types = dict.fromkeys(takes, "FLOAT") if version[0] >= 11 else {}
        expected = Bindings({"images": (4, 3, 384, 640), "im_info": (4, 2)}, ("output1", "output0"), types)
        assert bindings_of(log) == expected, version
    grown = "[I] Output binding for found is dynamic and will be created during execution using OutputAllocator."
    log = "\n".join([bindings_log((10, 3, 0), {"images": "1x3x8x8"}, {}), grown])
    assert bindings_of(log) == Bindings({"images": (1, 3, 8, 8)}, ("found",))
    with pytest.raises(ValueError, match="does not say what the engine takes"):
        bindings_of(grown)


def test_real_layers_of_8_6_tell_what_its_weak_typing_chose():
    text = real("layers.json.gz")
    with pytest.raises(ValueError, match="control character"):
        json.loads(text)  # 8.6 writes line breaks inside its strings
    info = layer_info_of(text)
    assert info.tensors == ("images", "output0")
    kernels = re.findall(r'"TacticName": "\w+_xmma_fprop_\w+?_(f16f16|f32f32)_', text)
    share = precision_share(info.layers)
    assert share.counts == {"fp16": 48, "fp32": 13}  # what its kernels, which nobody asked for here, are named after
    assert share.counts == {"fp16": kernels.count("f16f16"), "fp32": kernels.count("f32f32")}
    assert (
        [layer.tf32 for layer in info.layers].count(True) == len(re.findall(r'"TacticName": "\w+_tf32f32_', text)) > 5
    )


def test_a_killed_builder_ran_out_of_memory():
    assert "the device ran out of memory" in str(failure(["trtexec"], 137, "[I] Start parsing network model."))
    assert str(failure(["trtexec"], 1, "")).endswith("it printed nothing")


@pytest.mark.parametrize("generation", [10, 11])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_layer_information_of_both_generations_tells_the_precision(generation, precision):
    info = layer_info_of(layers_json(generation, precision))
    assert info.generation == generation and info.tensors == ("images", "output0")
    assert [layer.name for layer in info.layers] == [row[0] for row in LAYERS]
    assert [layer.kind for layer in info.layers] == [
        "moves", "multiplies", "multiplies", "computes", "computes", "multiplies", "moves",
    ]  # fmt: skip
    assert {layer.precision for layer in info.layers if layer.kind == "multiplies"} == {precision}
    assert info.types()["/model.2/MaxPool"] == "CaskPooling"
    assert from_json(tuple[Layer, ...], to_json(info.layers), "layers") == info.layers


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense", "not JSON"),
        ('{"Layers": [], "Bindings": []}', "no layer"),
        ("[]", "no layer"),
        ('{"Layers": [{"LayerType": "x"}], "Ports": []}', "no known generation.*seen: Layers, Ports"),
        ('{"Layers": [{"LayerType": "x"}], "Bindings": [], "I/O Tensors": []}', "no known generation"),
        (layers_json(10, detailed=False), "--profilingVerbosity=detailed"),
    ],
)
def test_unknown_layer_information_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        layer_info_of(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Row major linear FP32", "fp32"),
        ("Row major linear FP16 format", "fp16"),
        ("Thirty-two wide channel vectorized row major Int8 format.", "int8"),
        ("Channel major INT8 format where channel == 4 and column stride % 32 == 0", "int8"),
        ("Row major linear BFloat16 format", "bf16"),
        ("Half", "fp16"),
        ("Float", "fp32"),
        ("FloatComplex", "other"),
        ("Row major linear FP8 format", "fp8"),
        ("Int64", "other"),
        ("Row major linear BOOL", "other"),
        ("N/A due to dynamic shapes", "other"),
    ],
)
def test_formats_are_named(text, name):
    assert format_in(text) == name


def times_for(info, ms):
    return profile_of(profile_json([(layer.name, ms.get(layer.kind, 0.1)) for layer in info.layers]))


@pytest.mark.parametrize("generation", [10, 11])
def test_shares_count_the_layers_that_multiply(generation):
    info = layer_info_of(layers_json(generation, "fp16"))
    share = precision_share(info.layers, times_for(info, {"multiplies": 1.0, "moves": 0.5}))
    assert share.layers == {"fp16": 1.0} and share.time == {"fp16": 1.0} and share.counts == {"fp16": 3}
    assert share.moving_time == pytest.approx(1.0 / 4.2) and share.dla == 0 and share.fallbacks == ()
    assert (share.of("fp16"), share.of("int8"), share.of("int8-fp16")) == (1.0, 0.0, 1.0)
    assert share.text() == "fp16 100% of the time of 3 layers that multiply"


def test_an_engine_that_ignored_fp16_has_none_of_it():
    # roboflow/rf-detr #1453: TensorRT 11 without the FP16 flag built an FP32 engine and exited 0
    info = layer_info_of(layers_json(11, "fp32"))
    share = precision_share(info.layers)
    assert share.of("fp16") == 0 and share.of("fp32") == 1
    assert "fp32 100% of 3 layers" in share.text() and share.moving_time is None


def test_mixed_precision_is_shared_by_time():
    info = layer_info_of(layers_json(10, "int8"))
    data = json.loads(layers_json(10, "int8"), strict=False)
    data["Layers"][2]["Inputs"][0]["Format/Datatype"] = "Row major linear FP16 format"
    data["Layers"][2]["Weights"]["Type"] = "Half"
    mixed = layer_info_of(json.dumps(data))
    share = precision_share(mixed.layers, times_for(info, {"multiplies": 2.0}))
    assert share.counts == {"int8": 2, "fp16": 1} and share.time["fp16"] == pytest.approx(1 / 3)
    assert share.of("int8-fp16") == pytest.approx(1.0)


@pytest.mark.parametrize("measured", [True, False])
def test_an_engine_of_which_nothing_is_on_the_dla_fails_its_row(measured):
    info = layer_info_of(layers_json(10, "fp16"))
    share = precision_share(info.layers, times_for(info, {}) if measured else (), dla_core=0)
    computing = tuple(layer.name for layer in info.layers if layer.kind != "moves")
    assert share.dla == 0 and share.dla_share == 0 and share.fallbacks == computing and len(computing) == 5
    assert share.text().endswith("; 0 on the DLA, 5 fell back to the GPU")
    held, on_dla = precision_gates("engine", share, "fp16", 0)
    assert held.verdict is Verdict.PASS and on_dla.verdict is Verdict.FAIL and (on_dla.value, on_dla.limit) == (0, 1)
    assert "/model.1/conv/Conv" in on_dla.reason and "and 2 more" in on_dla.reason
    assert "device.dla_core" in on_dla.reason
    assert [gate.metric for gate in precision_gates("engine", share, "fp16", None)] == [held.metric]


@pytest.mark.parametrize(("ms", "words"), [(9.0, "90% of the time"), (0.1, "so that most of the work is the GPU's")])
def test_the_dlas_share_of_the_work_is_told(ms, words):
    info = layer_info_of(layers_json(10, "fp16", dla=True))
    spent = [(layer.name, ms if layer.placed == "dla" else 1.0) for layer in info.layers]
    share = precision_share(info.layers, profile_of(profile_json(spent)), dla_core=1)
    gate = precision_gates("engine", share, "fp16", 1)[1]
    assert gate.verdict is Verdict.PASS and words in gate.reason and "on the GPU: __myl" in gate.reason


@pytest.mark.parametrize("generation", [10, 11])
def test_what_falls_off_the_dla_is_named(generation):
    share = precision_share(layer_info_of(layers_json(generation, "int8", dla=True)).layers)
    assert share.dla == 1 and share.fallbacks == ("__myl_MulSigmAdd_myl0_1", "/model.3/MatMul_myl0_2")
    assert "1 on the DLA, 2 fell back to the GPU" in share.text()
    assert to_json(share)["fallbacks"] == list(share.fallbacks)
