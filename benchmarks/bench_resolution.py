"""What the latency harness can tell apart: A/A, A against 5 % slower, and against a bare loop over the runtime.

    python -m benchmarks.bench_resolution MODEL.onnx --kept kept --out benchmarks/bench_resolution.md

Every run times the model, the same model again and a copy made about 5 % slower (some of its convolutions once more,
with other weights) in three launches, each a fresh process. The bare loop is a script of fifteen lines in a process of
its own, in turns with the harness.

Finished runs are kept in a folder, and the same command goes on after them: ``--at-most 5`` does five and writes the
table of what there is, so that a quiet machine is needed for minutes at a time only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from benchmarks.page import publish
from edgeprune.agent.host import cpu_identity
from edgeprune.runtimes.base import BenchSettings
from edgeprune.runtimes.onnxruntime_ import OnnxRuntime
from edgeprune.samples.statistics import ratio

LAUNCHES = 3
BARE_LOOP = """
import contextlib, json, os, sys, time
import numpy as np, onnxruntime as ort
with contextlib.suppress(OSError):  # the harness' own priority
    os.nice(-20)
    open("/proc/self/autogroup", "w").write("-20")
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
value = session.get_inputs()[0]
inputs = {value.name: np.random.default_rng(0).random(value.shape, dtype=np.float32)}
for _ in range(30):
    session.run(None, inputs)
clock, cpu = [], []
for _ in range(int(sys.argv[2])):
    begun = time.process_time()
    started = time.perf_counter()
    session.run(None, inputs)
    clock.append((time.perf_counter() - started) * 1e3)
    cpu.append((time.process_time() - begun) * 1e3)
print(json.dumps([clock, cpu]))
"""


def slower(model: Path, out: Path, share: float, runtime: OnnxRuntime) -> Path:
    """A copy that repeats convolutions, with other weights, until their profiled time adds about ``share``."""
    layers = runtime.layer_times(model, runs=100)
    # means of a shared machine are of its others
    took = {layer.name: layer.median_ms or layer.mean_ms for layer in layers}
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


def told_apart(
    models: list[Path], runs: int, seconds: float, runtime: OnnxRuntime, kept: Path, at_most: int
) -> list[dict[str, Any]]:
    """Intervals of A/A and of slower/A, one row a run; finished rows are read from ``kept`` and new ones added."""
    rows = lines_of(kept)
    for number in range(len(rows), min(runs, len(rows) + at_most)):
        settings = BenchSettings(
            rounds=100_000, per_round=5, time_limit_s=seconds, warmup_s=0.5, seed=number, launches=LAUNCHES
        )
        began = time.perf_counter()
        a, again, b = runtime.latency(models, settings)
        block = 5 if len(a.values) >= 40 else 1  # a machine under siege gives few samples
        given: dict[str, Any] = {"block": block, "launches": LAUNCHES}
        same, other = ratio(again.values, a.values, **given), ratio(b.values, a.values, **given)
        cpu = [one.conditions.core.cpu_ms for one in (a, again, b)]
        same_cpu, other_cpu = ratio(cpu[1], cpu[0], **given), ratio(cpu[2], cpu[0], **given)
        rows.append(
            {
                "same": (same.low, same.ratio, same.high),
                "slower": (other.low, other.ratio, other.high),
                "same_cpu": (same_cpu.low, same_cpu.ratio, same_cpu.high),
                "slower_cpu": (other_cpu.low, other_cpu.ratio, other_cpu.high),
                "seconds": time.perf_counter() - began,
                "samples": len(a.values),
                "cpu_share": a.conditions.core.share,
                "load": os.getloadavg()[0],
            }
        )
        print(json.dumps(rows[-1]), flush=True)
        with kept.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
    return rows


def lines_of(kept: Path) -> list[Any]:
    """What earlier runs left."""
    return [json.loads(line) for line in kept.read_text().splitlines()] if kept.is_file() else []


def against_a_bare_loop(
    model: Path, turns: int, runtime: OnnxRuntime, kept: Path, at_most: int
) -> list[tuple[float, float]]:
    """p50 of the harness / p50 of the bare loop, by the clock and by processor time, a turn; the order alternates."""
    found = [(row[0], row[1]) for row in lines_of(kept)]
    for turn in range(len(found), min(turns, len(found) + at_most)):
        p50 = {}
        for who in ("harness", "bare") if turn % 2 else ("bare", "harness"):
            if who == "harness":
                [taken] = runtime.latency([model], BenchSettings(rounds=30, per_round=5, warmup_s=0.7))
                p50[who] = [float(np.median(values)) for values in (taken.values, taken.conditions.core.cpu_ms)]
            else:
                argv = [sys.executable, "-c", BARE_LOOP, str(model), "150"]
                done = subprocess.run(argv, capture_output=True, text=True, check=True, start_new_session=True)
                p50[who] = [float(np.median(values)) for values in json.loads(done.stdout)]
        found.append((p50["harness"][0] / p50["bare"][0], p50["harness"][1] / p50["bare"][1]))
        print(json.dumps(p50), flush=True)
        with kept.open("a") as file:
            file.write(json.dumps(found[-1]) + "\n")
    return found


def comparison_rows(rows: list[dict[str, Any]], seconds: float) -> list[str]:
    """Lines of the table for A/A and for the slower copy."""
    same, same_cpu = (sum(row[key][0] <= 1 <= row[key][2] for row in rows) for key in ("same", "same_cpu"))
    apart, apart_cpu = (sum(row[key][0] > 1 for row in rows) for key in ("slower", "slower_cpu"))
    slower_by, slower_cpu = (np.median([row[key][1] for row in rows]) for key in ("slower", "slower_cpu"))
    width, width_cpu = (np.median([row[key][2] - row[key][0] for row in rows]) for key in ("same", "same_cpu"))
    longest = max(row["seconds"] for row in rows)
    shares, loads = [row["cpu_share"] for row in rows], [row["load"] for row in rows]
    return [
        f"| machine during the comparisons | load {min(loads):.1f} to {max(loads):.1f}, the model had "
        f"{min(shares):.0%} to {max(shares):.0%} of its core |",
        f"| A/A: the 95 % interval of the ratio contains 1.0, {seconds:g} s a run | {same} of {len(rows)} "
        f"(±{50 * width:.2f} % wide, median; the longest run took {longest:.0f} s) |",
        f"| ×{slower_by:.3f} slower: told apart, same runs | {apart} of {len(rows)} |",
        f"| A/A by processor time | {same_cpu} of {len(rows)} (±{50 * width_cpu:.2f} %) |",
        f"| ×{slower_cpu:.3f} slower by processor time: told apart | {apart_cpu} of {len(rows)} |",
    ]


def bare_rows(found: list[tuple[float, float]]) -> list[str]:
    """Lines of the table for the bare loop."""
    clock, cpu = (np.median([turn[i] for turn in found]) for i in range(2))
    return [
        f"| p50 / p50 of a bare InferenceSession.run loop, median of {len(found)} turns | {clock:.4f} |",
        f"| the same by processor time | {cpu:.4f} |",
    ]


def main() -> None:
    """Measure, print every run as it ends, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--runs", type=int, default=20, help="comparisons; 0 leaves them out")
    parser.add_argument("--seconds", type=float, default=20, help="of one comparison")
    parser.add_argument("--turns", type=int, default=16, help="turns against the bare loop; 0 leaves them out")
    parser.add_argument("--kept", type=Path, required=True, help="folder for finished runs and the slower copy")
    parser.add_argument("--at-most", type=int, default=10_000, help="new runs, and new turns, in this call")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    runtime = OnnxRuntime()
    lines = []
    asked.kept.mkdir(parents=True, exist_ok=True)
    if asked.runs:
        made = asked.kept / "slower.onnx"
        if not made.is_file():
            slower(asked.model, made, 0.05, runtime)
        models = [asked.model, asked.model, made]
        rows = told_apart(models, asked.runs, asked.seconds, runtime, asked.kept / "runs.jsonl", asked.at_most)
        lines += comparison_rows(rows, asked.seconds)
    if asked.turns:
        lines += bare_rows(
            against_a_bare_loop(asked.model, asked.turns, runtime, asked.kept / "bare.jsonl", asked.at_most)
        )
    host = f"{cpu_identity()['cpu']}, {os.cpu_count()} cores shared with other work, {runtime.identity()['runtime']}"
    text = "\n".join(
        [
            f"`python -m benchmarks.bench_resolution {asked.model.name} --kept DIR`, one thread; {host}.",
            "",
            "| check | result |",
            "| --- | --- |",
            *lines,
            "",
        ]
    )
    print(text)
    if asked.out:
        publish(asked.out, "bench-resolution", text)


if __name__ == "__main__":
    main()
