"""What trtexec writes, in its formats and with values of our own.

Formats: exportJSONTrace, exportJSONProfile and exportJSONOutput in NVIDIA/TensorRT, samples/common/sampleReporting.cpp
(release/10.3 to 11.1 write the same); the options' dump in samples/common/sampleOptions.cpp; the inspector's JSON of
10 as in tools/experimental/trt-engine-explorer (10.13: tests/inputs, examples), that of 11 as in NVIDIA's guide
"Migrating IEngineInspector Usage from TensorRT 10.x to 11.x"; log lines as in public issues of NVIDIA/TensorRT.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

LAYERS: tuple[tuple[str, str, str, str], ...] = (  # name, type, what it reads in an FP16 engine, kernel
    ("Reformatting CopyNode for Input Tensor 0 to /model.0/conv/Conv", "Reformat", "fp32", ""),
    ("/model.0/conv/Conv + PWN(/model.0/act/Sigmoid)", "CaskConvolution", "fp16", "sm80_xmma_fprop_implicit_gemm"),
    ("/model.1/conv/Conv", "CaskConvolution", "fp16", "sm80_xmma_fprop_implicit_gemm"),
    ("/model.2/MaxPool", "CaskPooling", "fp16", "sm50_xmma_cudnn_pooling_max"),
    ("__myl_MulSigmAdd_myl0_1", "kgen", "fp16", "__myl_MulSigmAdd_0x1f"),
    ("/model.3/MatMul_myl0_2", "gemm", "fp16", "sm80_xmma_gemm_f16f16_f16f16_f16"),
    ("/model.4/Reshape", "NoOp", "fp16", ""),
)
OLD_TEXTS = {
    "fp32": "Row major linear FP32",
    "fp16": "Channel major FP16 format where channel % 8 == 0",
    "int8": "Thirty-two wide channel vectorized row major Int8 format",
}
MYELIN = {"fp32": "Float", "fp16": "Half", "int8": "Int8"}
WEIGHTS = {"fp32": "Float", "fp16": "Half", "int8": "Int8"}


def times_json(compute: Sequence[float], h2d: float = 0.0, d2h: float = 0.0, began_ms: float = 100.0) -> str:
    """``--exportTimes`` with these computing times in ms, of a run whose first sample begins at ``began_ms``."""
    rows, clock = [], began_ms
    for ms in compute:
        at = {"enq": clock, "h2d": clock, "compute": clock + h2d, "d2h": clock + h2d + ms}
        rows.append(
            f'"startEnqMs" : {at["enq"]:g}, "endEnqMs" : {at["enq"] + 0.25:g}, '
            f'"startH2dMs" : {at["h2d"]:g}, "endH2dMs" : {at["h2d"] + h2d:g}, '
            f'"startComputeMs" : {at["compute"]:g}, "endComputeMs" : {at["compute"] + ms:g}, '
            f'"startD2hMs" : {at["d2h"]:g}, "endD2hMs" : {at["d2h"] + d2h:g}, '
            f'"h2dMs" : {h2d:g}, "computeMs" : {ms:g}, "d2hMs" : {d2h:g}, "latencyMs" : {h2d + ms + d2h:g}'
        )
        clock += h2d + ms + d2h
    return "[\n" + "".join(f"{', ' if place else '  '}{{ {row} }}\n" for place, row in enumerate(rows)) + "]\n"


def profile_json(ms: Sequence[tuple[str, float]], runs: int = 20, *, median: bool = True) -> str:
    """``--exportProfile``; releases before 8.5 wrote no median."""
    whole = sum(value for _, value in ms)
    lines = ["[", f'  {{ "count" : {runs} }}']
    for name, value in ms:
        middle = f', "medianMs" : {value:g}' if median else ""
        share = f"{value / whole * 100:g}" if whole else "-nan"
        spent = f'"timeMs" : {value * runs:g}, "averageMs" : {value:g}{middle}, "percentage" : {share}'
        lines.append(f', {{ "name" : "{name}", {spent} }}')
    return "\n".join([*lines, "]", ""])


def outputs_json(tensors: dict[str, tuple[str, Sequence[float]]]) -> str:
    """``--exportOutput``: name to dimensions and values."""
    parts = []
    for place, (name, (dimensions, values)) in enumerate(tensors.items()):
        listed = ", ".join(f"{value:g}" for value in values)
        parts.append(
            f'{", " if place else "  "}{{ "name" : "{name}"\n  , "dimensions" : "{dimensions}"\n'
            f'  , "values" : [ {listed} ]\n  }}\n'
        )
    return "[\n" + "".join(parts) + "]\n"


def layers_json(generation: int, precision: str = "fp16", *, dla: bool = False, detailed: bool = True) -> str:
    """The inspector's JSON of an engine whose network is in ``precision``."""
    layers: list[Any] = []
    for name, kind, reads, kernel in LAYERS:
        reads = reads if reads == "fp32" else precision
        if not detailed:
            layers.append(name)
            continue
        entry: dict[str, Any] = {
            "Name": name,
            "LayerType": kind,
            "Inputs": [_tensor(generation, "in of " + name, kind, reads)],
            "Outputs": [_tensor(generation, "out of " + name, kind, precision)],
            "TacticName": kernel,
            "StreamId": 0,
            "Metadata": f"[ONNX Layer: {name}]\x1e[ONNX Layer: other]",
        }
        if kind == "CaskConvolution":
            entry |= {"ParameterType": "Convolution", "Weights": {"Type": WEIGHTS[precision], "Count": 864}}
            entry |= {"Bias": {"Type": "Float", "Count": 32}}
        layers.append(entry)
    if dla and detailed:
        layers[1] |= {"Name": "{ForeignNode[/model.0/conv/Conv.../model.2/MaxPool]}", "LayerType": "DLA"}
        del layers[2:4]
    ends: dict[str, Any] = {"Bindings": ["images", "output0"]}
    if generation == 11:
        ends = {
            "I/O Tensors": [
                {
                    "Name": name,
                    "IOMode": mode,
                    "DataType": "Float",
                    "Dimensions": [1, 3, 64, 64],
                    "Location": "Device",
                    "IsShapeInferenceIO": False,
                    "ProfileInfo": [{"Format": "Row major linear FP32 format (kLINEAR)"}],
                }
                for name, mode in (("images", "Input"), ("output0", "Output"))
            ]
        }
    # TensorRT separates the nodes in its metadata by a bare control character
    return json.dumps({"Layers": layers, **ends}, indent=1).replace("\\u001e", "\x1e")


def _tensor(generation: int, name: str, kind: str, reads: str) -> dict[str, Any]:
    tensor: dict[str, Any] = {"Name": name, "Location": "Device", "Dimensions": [1, 16, 32, 32]}
    myelin = kind in ("kgen", "gemm")
    if generation == 10:
        return tensor | {"Format/Datatype": MYELIN[reads] if myelin else OLD_TEXTS[reads]}
    return tensor | {"Format": "Row major linear", "Datatype": MYELIN[reads]}


def bindings_log(
    version: tuple[int, int, int], inputs: dict[str, str], outputs: dict[str, str], half: bool = False
) -> str:
    """The part of a run's log that says what its engine takes and gives, by name and as ``1x3x64x64``
    (sampleInference.cpp, with the marks of a real log)."""
    lines = []
    for way, tensors in (("input", inputs), ("output", outputs)):
        for name, sides in tensors.items():
            lines.append(f"Using random values for {way} {name}")
            if version[0] < 10:
                lines.append(f"Created {way} binding for {name} with dimensions {sides}")
                continue
            kind = f" and type k{'HALF' if half and way == 'input' else 'FLOAT'}" if version[0] >= 11 else ""
            lines.append(f"{way.capitalize()} binding for {name} with dimensions {sides}{kind} is created.")
    return "\n".join(f"[11/28/2026-03:57:33] [I] {line}" for line in lines)


def options_log(
    *, copies: bool, spin: bool, cuda_graph: bool, one_at_a_time: bool, captured: bool = True, tells: bool = True
) -> str:
    """The part of a timing run's log that says how it was made; before 10 it does not tell of a graph's success."""

    def word(on: bool) -> str:
        return "Enabled" if on else "Disabled"

    lines = [
        "=== Inference Options ===",
        "Batch: Explicit",
        "Iterations: 15",
        "Duration: 0s (+ 200ms warm up)",
        "Inference Streams: 1",
        f"ExposeDMA: {word(one_at_a_time)}",
        f"Data transfers: {word(copies)}",
        f"Spin-wait: {word(spin)}",
        "Multithreading: Disabled",
        f"CUDA Graph: {word(cuda_graph)}",
    ]
    if cuda_graph and tells:
        lines.append("Capturing CUDA graph for the current execution context")
    if cuda_graph and captured and tells:
        lines.append("Successfully captured CUDA graph for the current execution context")
    if cuda_graph and not captured:
        lines.append(
            "The built TensorRT engine contains operations that are not permitted under CUDA graph capture mode."
        )
        lines.append(
            "The specified --useCudaGraph flag has been ignored. The inference will be launched without using CUDA "
            "graph launch."
        )
    return "".join(f"[11/21/2026-10:00:00] [I] {line}\n" for line in lines)


FAILURES: tuple[tuple[str, str, str], ...] = (  # what happened, lines of the log, what must be said
    (
        "out of memory",
        "[E] Error[1]: [defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)\n"
        "[W] [TRT] Requested amount of GPU memory (15485030400 bytes) could not be allocated.\n"
        "[E] Error[10]: IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any "
        "implementation for node {ForeignNode[/1/Constant_36_output_0.../1/Slice_4]}.)\n"
        "[E] Engine could not be created from network",
        "ran out of memory; close other programs",
    ),
    (
        "another version",
        "[E] Error[1]: [runtime.cpp::parsePlan::314] Error Code 1: Serialization (Serialization assertion plan->header."
        "serializationVersion == rt::kSERIALIZATION_VERSION failed. The engine plan file is not compatible with this "
        "version of TensorRT, expecting library version 10.3.0.30 got 8.6.2.3, please rebuild.)\n"
        "[E] Engine deserialization failed.",
        "built by TensorRT 8.6.2.3, here is 10.3.0.30; build it on this device",
    ),
    (
        "another GPU",
        "[E] Error[6]: The engine plan file is generated on an incompatible device, expecting compute 8.7 got "
        "compute 8.6, please rebuild.\n[E] Engine deserialization failed.",
        "built for compute capability 8.6, here is 8.7",
    ),
    (
        "not an engine",
        "[E] Error[1]: [stdArchiveReader.cpp::stdArchiveReaderInitCommon::46] Error Code 1: Serialization "
        "(Serialization assertion stdArchiveMagicTag == magicTagRead failed.Magic tag does not match)",
        "no TensorRT engine",
    ),
    (
        "unknown operator",
        '[E] [TRT] ModelImporter.cpp:950: While parsing node number 12 [CustomThing -> "x"]:\n'
        "[E] [TRT] ModelImporter.cpp:954: ERROR: builtin_op_importers.cpp:5404 In function importFallbackPlugin:\n"
        "[8] No importer registered for op: CustomThing. Attempting to import as plugin.\n"
        "[E] Failed to parse onnx file",
        "knows no operator CustomThing; edgeprune lint",
    ),
    (
        "refused node",
        "[E] [TRT] In node 4 with name: /q and operator: DequantizeLinear (importDequantizeLinear): UNSUPPORTED_NODE: "
        "Assertion failed: type\n[E] Failed to parse onnx file",
        "refuses the graph: In node 4 with name: /q and operator: DequantizeLinear",
    ),
    ("unknown option", "[E] Unknown option: --noSuchThing 1", "does not know --noSuchThing; update edgeprune"),
    (
        "no kernel",
        "[E] Error[10]: IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any "
        "implementation for node /model.9/Conv.)",
        "has no kernel for /model.9/Conv",
    ),
    (
        "wrong input",
        "[E] Unexpected file size for input file: in.bin. Note: Input binding size is: 49152 bytes but the file "
        "size is 12 bytes. Double check the size and datatype of the provided data.",
        "an input has 12 bytes, the engine takes 49152",
    ),
    (
        "wrong input of 8",
        "[E] Unexpected file size for input file: in.bin. Note: Expected: 49152 bytes but only read: 12 bytes",
        "an input has 12 bytes, the engine takes 49152",
    ),
    (
        "no GPU",
        "[E] Uncaught exception detected: Cuda failure: no CUDA-capable device is detected",
        "CUDA does not work on the device",
    ),
    (
        "no library",
        "trtexec: error while loading shared libraries: libnvinfer.so.10: cannot open shared object file",
        "needs libnvinfer.so.10",
    ),
    (
        "something new",
        "[11/21/2026-10:00:00] [I] fine\n[11/21/2026-10:00:00] [E] A thing broke\n[E] Then more",
        "A thing broke",
    ),
)
