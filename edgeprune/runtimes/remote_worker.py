"""What ONNX Runtime on another machine is asked besides timing: what it is, to compile, to run images.

``python -m edgeprune.runtimes.remote_worker`` needs Python 3.8, NumPy and ONNX Runtime there, and nothing of edgeprune
but the few files that are sent with it. ``session MODEL PROVIDER THREADS OPTIONS`` stays and answers on stdin and
stdout: a line of JSON with names, types and shapes, then the arrays' bytes, in both directions. Without arguments it
takes a job on stdin and speaks the protocol of :mod:`edgeprune.runtimes.bench_worker`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeprune.agent.host import HostState, host_state
from edgeprune.runtimes.bench_worker import JobError, first_line, open_session, serve, write_optimized
from edgeprune.runtimes.jobs import DescribeJob, Done, HostJob, OptimizeJob, OrtDescription


def describe(job: DescribeJob) -> OrtDescription:
    """Version and providers of ONNX Runtime here, and the Python that has it."""
    import onnxruntime as ort

    providers = tuple(ort.get_available_providers())
    return OrtDescription(ort.__version__, providers, sys.version.split()[0], sys.executable)


def describe_host(job: HostJob) -> HostState:
    """What explains a timing on this host at this moment."""
    return host_state()


def optimize(job: OptimizeJob) -> Done:
    """Write the graph as ONNX Runtime optimizes it for this machine."""
    write_optimized(job.model, job.engine, job.provider)
    return Done()


def serve_session(path: str, provider: str, threads: int, options: Mapping[str, str]) -> None:
    """Load a model, its provider with these options, and run whatever arrives until stdin ends."""
    out, source = sys.stdout.buffer, sys.stdin.buffer

    def send(header: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
        out.write(json.dumps(header).encode() + b"\n")
        for array in arrays:
            out.write(array.tobytes())
        out.flush()

    try:
        loaded = open_session(path, provider, threads, options)
    except JobError as error:
        send({"error": {"kind": error.kind, "message": str(error)}})
        return
    names = [value.name for value in loaded.get_outputs()]
    send(
        {
            "inputs": {value.name: list(value.shape) for value in loaded.get_inputs()},
            "outputs": names,
            "metadata": dict(loaded.get_modelmeta().custom_metadata_map),
        }
    )
    while True:
        line = source.readline()
        if not line:
            return
        inputs = {}
        for name, kind, shape in json.loads(line)["arrays"]:
            size = int(np.prod(shape)) * np.dtype(kind).itemsize
            inputs[name] = np.frombuffer(source.read(size), kind).reshape(shape)
        try:
            outputs = [np.ascontiguousarray(array) for array in loaded.run(names, inputs)]
        except Exception as error:  # the same: no common public base
            send({"error": {"kind": "data", "message": first_line(error)}})
            continue
        send({"arrays": [[name, str(a.dtype), list(a.shape)] for name, a in zip(names, outputs)]}, outputs)


if __name__ == "__main__":
    if sys.argv[1:2] == ["session"]:
        serve_session(sys.argv[2], sys.argv[3], int(sys.argv[4]), json.loads(sys.argv[5]))
    else:
        sys.exit(serve({DescribeJob: describe, HostJob: describe_host, OptimizeJob: optimize}))
