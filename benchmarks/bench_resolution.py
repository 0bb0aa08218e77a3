"""What the latency harness can tell apart: A/A, A against 5 % slower, and against a bare loop over the runtime.

    python benchmarks/bench_resolution.py MODEL.onnx --runs 20 --seconds 57 --out benchmarks/bench_resolution.md

Every run times the model, the same model again and a copy made about 5 % slower (some of its convolutions once more,
with other weights) in one fresh process. The bare loop is a script of fifteen lines in a process of its own, in turns
with the harness.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeprune.measure.conditions import cpu_identity
from edgeprune.measure.statistics import ratio
from edgeprune.runtimes.base import BenchSettings
from edgeprune.runtimes.onnxruntime_ import OnnxRuntime

BARE_LOOP = """
import json, sys, time
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
value = session.get_inputs()[0]
inputs = {value.name: np.random.default_rng(0).random(value.shape, dtype=np.float32)}
for _ in range(30):
    session.run(None, inputs)
times = []
for _ in range(int(sys.argv[2])):
    started = time.perf_counter()
    session.run(None, inputs)
    times.append((time.perf_counter() - started) * 1e3)
print(json.dumps(times))
"""


def slower(model: Path, out: Path, share: float, runtime: OnnxRuntime) -> Path:
    """A copy that repeats convolutions, with other weights, until their profiled time adds about ``share``."""
    layers = runtime.layer_times(model, runs=100)
    took = {layer.name: layer.detail["median_ms"] for layer in layers}  # means of a shared machine are of its others
    wanted = share * sum(took.values())
    proto = onnx.load(str(model))
    weights = {item.name: item for item in proto.graph.initializer}
    times = {name.removesuffix("_nchwc").removesuffix("_output_0"): value for name, value in took.items()}
    added = 0.0
    nodes = [node for node in proto.graph.node if node.op_type == "Conv" and node.name in times]
    for node in sorted(nodes, key=lambda node: -times[node.name]):
        if added + times[node.name] > 1.1 * wanted:
            continue
        added += times[node.name]
        copy = helper.make_node("Conv", list(node.input), [f"{node.output[0]}_again"], name=f"{node.name}_again")
        copy.attribute.extend(node.attribute)
        copy.input[1] = f"{node.input[1]}_again"
        other = numpy_helper.to_array(weights[node.input[1]]) * np.float32(0.5)
        proto.graph.initializer.append(numpy_helper.from_array(other, copy.input[1]))
        proto.graph.node.append(copy)
        proto.graph.output.append(helper.make_tensor_value_info(copy.output[0], onnx.TensorProto.FLOAT, None))
        if added >= 0.95 * wanted:
            break
    onnx.save(proto, str(out))
    return out


def told_apart(models: list[Path], runs: int, seconds: float, runtime: OnnxRuntime) -> list[dict[str, Any]]:
    """Intervals of A/A and of slower/A, one row a run."""
    rows = []
    for number in range(runs):
        settings = BenchSettings(rounds=100_000, per_round=5, time_limit_s=seconds, seed=number)
        a, again, b = runtime.latency(models, settings)
        block = 5 if len(a.values) >= 40 else 1  # a machine under siege gives few samples
        same, other = ratio(again.values, a.values, block=block), ratio(b.values, a.values, block=block)
        cpu = [one.conditions["cpu_ms"] for one in (a, again, b)]
        same_cpu, other_cpu = ratio(cpu[1], cpu[0], block=block), ratio(cpu[2], cpu[0], block=block)
        rows.append(
            {
                "same": (same.low, same.ratio, same.high),
                "slower": (other.low, other.ratio, other.high),
                "same_cpu": (same_cpu.low, same_cpu.ratio, same_cpu.high),
                "slower_cpu": (other_cpu.low, other_cpu.ratio, other_cpu.high),
                "samples": len(a.values),
                "cpu_share": a.conditions["cpu_share"],
                "load": os.getloadavg()[0],
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def against_a_bare_loop(model: Path, turns: int, runtime: OnnxRuntime) -> list[float]:
    """p50 of the harness / p50 of the bare loop, one figure a turn; the order alternates."""
    found = []
    for turn in range(turns):
        p50 = {}
        for who in ("harness", "bare") if turn % 2 else ("bare", "harness"):
            if who == "harness":
                [taken] = runtime.latency([model], BenchSettings(rounds=30, per_round=5, warmup_s=0.7))
                p50[who] = float(np.median(taken.values))
            else:
                argv = [sys.executable, "-c", BARE_LOOP, str(model), "150"]
                done = subprocess.run(argv, capture_output=True, text=True, check=True)
                p50[who] = float(np.median(json.loads(done.stdout)))
        found.append(p50["harness"] / p50["bare"])
        print(json.dumps(p50), flush=True)
    return found


def main() -> None:
    """Measure, print every run as it ends, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=57)
    parser.add_argument("--turns", type=int, default=16)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    runtime = OnnxRuntime()
    with tempfile.TemporaryDirectory() as folder:
        made = slower(asked.model, Path(folder) / "slower.onnx", 0.05, runtime)
        rows = told_apart([asked.model, asked.model, made], asked.runs, asked.seconds, runtime)
        bare = against_a_bare_loop(asked.model, asked.turns, runtime)
    width = np.median([row["same"][2] - row["same"][0] for row in rows])
    same, same_cpu = (sum(row[key][0] <= 1 <= row[key][2] for row in rows) for key in ("same", "same_cpu"))
    apart, apart_cpu = (sum(row[key][0] > 1 for row in rows) for key in ("slower", "slower_cpu"))
    loads, shares = [row["load"] for row in rows], [row["cpu_share"] for row in rows]
    text = "\n".join(
        [
            "# What the latency harness can tell apart",
            "",
            f"`benchmarks/bench_resolution.py`, {asked.model.name}, one thread, {runtime.identity()['runtime']}, "
            f"{cpu_identity()['cpu']}, {os.cpu_count()} cores shared with other work: load {min(loads):.1f} to "
            f"{max(loads):.1f}, the model had {min(shares):.0%} to {max(shares):.0%} of its core.",
            "",
            "| check | result |",
            "| --- | --- |",
            f"| A/A: the 95 % interval of the ratio contains 1.0 | {same} of {len(rows)} |",
            f"| the same by processor time | {same_cpu} of {len(rows)} |",
            f"| ×{np.median([row['slower'][1] for row in rows]):.3f} slower: told apart within {asked.seconds:g} s | "
            f"{apart} of {len(rows)} |",
            f"| ×{np.median([row['slower_cpu'][1] for row in rows]):.3f} by processor time: told apart | "
            f"{apart_cpu} of {len(rows)} |",
            f"| width of the A/A interval, median | ±{50 * width:.2f} % |",
            f"| A/A ratio, least and greatest | {min(r['same'][1] for r in rows):.4f} to "
            f"{max(r['same'][1] for r in rows):.4f} |",
            f"| p50 / p50 of a bare InferenceSession.run loop, median of {len(bare)} turns | {np.median(bare):.4f} |",
            "",
        ]
    )
    print(text)
    if asked.out:
        asked.out.write_text(text)


if __name__ == "__main__":
    main()
