"""One file a runtime, behind the seam in base; this file knows them all by name."""

from __future__ import annotations

from typing import get_args

from edgeprune.devices.base import Device
from edgeprune.errors import TargetError
from edgeprune.runtimes.base import Runtime
from edgeprune.settings import RuntimeName
from edgeprune.target import Target

NAMES = get_args(RuntimeName)


def runtime(name: str, device: Device | None = None, *, target: Target | None = None) -> Runtime:
    """The runtime of this name on a device, this machine when None; whether it can be used there is its own
    ``availability()``.

    Args:
        name: one of ``NAMES``.
        device: where it runs; this machine when None.
        target: how trtexec is started and builds, and the precision that ONNX Runtime is to compute in; as trtexec does
            by itself, and FP32, when None.

    Raises:
        TargetError: no runtime has this name, or it cannot be driven from afar.
    """
    from edgeprune.devices.remote import RemoteDevice
    from edgeprune.runtimes.onnxruntime_ import OnnxRuntime
    from edgeprune.runtimes.tensorrt_ import TensorRt
    from edgeprune.runtimes.trtexec_ import TrtExec

    precision = target.precision if target else "fp32"
    made = {
        "onnxruntime": lambda: OnnxRuntime("cpu", device),
        "onnxruntime-cuda": lambda: OnnxRuntime("cuda", device),
        "onnxruntime-tensorrt": lambda: OnnxRuntime("tensorrt", device, precision=precision),
        "onnxruntime-tensorrt-rtx": lambda: OnnxRuntime("tensorrt-rtx", device),
        "tensorrt": lambda: TensorRt(device),
        "trtexec": lambda: TrtExec.of_target(target, device) if target else TrtExec(device),
    }
    if name not in NAMES:
        raise TargetError(f"runtime {name!r} is not one of {', '.join(NAMES)}")
    if isinstance(device, RemoteDevice):
        from edgeprune.runtimes.remote_onnxruntime import RemoteOnnxRuntime

        if name == "onnxruntime-tensorrt-rtx":
            raise TargetError(
                f"runtime {name} is a plugin of this machine's ONNX Runtime and cannot be driven on {device.name}; "
                "set the target's runtime to trtexec or onnxruntime-cuda, or run edgeprune there"
            )
        if name.startswith("onnxruntime"):
            frames = target is not None and target.budget.scope == "end_to_end"
            return RemoteOnnxRuntime(name.partition("-")[2] or "cpu", device, frames=frames, precision=precision)
        if name != "trtexec":
            raise TargetError(
                f"runtime {name} runs in this process and cannot be driven on {device.name}; "
                "set the target's runtime to trtexec (part of every JetPack) or onnxruntime"
            )
    return made[name]()


def all_runtimes() -> list[Runtime]:
    """Every runtime, usable here or not, in the order of ``NAMES``."""
    return [runtime(name) for name in NAMES]
