"""A stand-in for ``cuda.bindings.runtime``: host memory for device memory, a GPU that takes 2 ms an inference."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

cudaDeviceScheduleSpin, cudaStreamNonBlocking, cudaEventDefault = 1, 1, 0
cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
CALLS: list[str] = []
STATE: dict[str, Any] = {"captures": True, "devices": 1, "memory": [], "launches": 0}


class _Code(int):
    name = "cudaErrorNoDevice"


def _made(size: int) -> tuple[Any, ...]:
    if "room" in STATE:
        if not STATE["room"]:
            return _Code(2), None
        STATE["room"] -= 1
    buffer = ctypes.create_string_buffer(size)
    STATE["memory"].append(buffer)
    return 0, ctypes.addressof(buffer)


def _freed(address: int) -> tuple[int]:
    if STATE.get("fails"):
        return (_Code(700),)
    [buffer] = [one for one in STATE["memory"] if ctypes.addressof(one) == address]
    STATE["memory"].remove(buffer)
    return (0,)


def cudaGetDeviceCount() -> tuple[Any, ...]:
    return (0, 1) if STATE["devices"] else (_Code(STATE.get("no_devices", 100)), 0)


def cudaGetErrorString(error: int) -> tuple[int, bytes]:
    return 0, b"operation not permitted when stream is capturing"


def cudaSetDeviceFlags(flags: int) -> tuple[int]:
    return (0,)


def cudaStreamCreateWithFlags(flags: int) -> tuple[int, int]:
    return 0, 77


def cudaStreamSynchronize(stream: int) -> tuple[int]:
    return (0,)


def cudaMalloc(size: int) -> tuple[Any, ...]:
    return _made(size)


def cudaMallocHost(size: int) -> tuple[Any, ...]:
    return _made(size)


def cudaFree(address: int) -> tuple[int]:
    return _freed(address)


def cudaFreeHost(address: int) -> tuple[int]:
    return _freed(address)


def cudaStreamDestroy(stream: int) -> tuple[int]:
    return (0,)


def cudaMemcpyAsync(dst: int, src: int, count: int, kind: int, stream: int) -> tuple[int]:
    if STATE.get("fails"):
        return (_Code(700),)
    CALLS.append("to device" if kind == 1 else "to host")
    ctypes.memmove(dst, src, count)
    return (0,)


def cudaEventCreateWithFlags(flags: int) -> tuple[int, object]:
    return 0, object()


def cudaEventRecord(event: object, stream: int) -> tuple[int]:
    CALLS.append("mark")
    return (0,)


def cudaEventSynchronize(event: object) -> tuple[int]:
    return (0,)


def cudaEventElapsedTime(start: object, end: object) -> tuple[int, float]:
    return 0, 2.0


def cudaStreamBeginCapture(stream: int, mode: int) -> tuple[int]:
    return (0,)


def cudaStreamEndCapture(stream: int) -> tuple[int, Any]:
    return (0, "graph") if STATE["captures"] else (901, None)


def cudaGetLastError() -> tuple[int]:
    return (0,)


def cudaGraphInstantiate(graph: Any, flags: int) -> tuple[int, str]:
    return 0, "executable"


def cudaGraphLaunch(graph: Any, stream: int) -> tuple[int]:
    STATE["launches"] += 1
    CALLS.append("launch")
    return (0,)


def cudaMemGetInfo() -> tuple[int, int, int]:
    return 0, 2**30 - sum(len(one) for one in STATE["memory"]), 2**31
