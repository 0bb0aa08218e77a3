"""The few calls of CUDA's runtime that timing an engine takes, by NVIDIA's own bindings; every error is said.

``cuda.bindings.runtime`` (package ``cuda-bindings``) gives every call as a tuple whose first item is the error code;
its signatures are the same in 12.8 to 13, of which 13 wants a driver of 580 or newer.
"""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

import numpy as np


class CudaError(RuntimeError):
    """A CUDA call failed; the message names the call's error."""


def runtime() -> Any:
    """The bindings; ``ImportError`` where they are not installed."""
    return importlib.import_module("cuda.bindings.runtime")


class Cuda:
    """One stream of the current GPU.

    Args:
        spin: the host waits without sleeping; must be set before anything else uses the GPU in this process.
    """

    def __init__(self, *, spin: bool = True) -> None:
        self.api = runtime()
        if spin:
            self.call("cudaSetDeviceFlags", self.api.cudaDeviceScheduleSpin)
        self._stream = self.call("cudaStreamCreateWithFlags", self.api.cudaStreamNonBlocking)
        self._freed_by: list[tuple[str, int]] = []  # call and address

    @property
    def stream(self) -> int:
        """The stream's handle, as TensorRT takes it."""
        return int(self._stream)

    def call(self, name: str, *arguments: Any) -> Any:
        """Call ``name``; gives its value, or a tuple of several.

        Raises:
            CudaError: it did not succeed.
        """
        error, *values = getattr(self.api, name)(*arguments)
        if int(error) != 0:
            _, text = self.api.cudaGetErrorString(error)
            raise CudaError(f"{name}: {text.decode() if isinstance(text, bytes) else text}")
        return values[0] if len(values) == 1 else tuple(values)

    def synchronize(self) -> None:
        """Wait for everything on the stream."""
        self.call("cudaStreamSynchronize", self._stream)

    def buffer(self, nbytes: int) -> int:
        """Address of memory on the device, kept until :meth:`close`."""
        address = int(self.call("cudaMalloc", max(nbytes, 1)))
        self._freed_by.append(("cudaFree", address))
        return address

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array in host memory that the device copies from and to without a detour, kept until :meth:`close`."""
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        address = int(self.call("cudaMallocHost", max(nbytes, 1)))
        self._freed_by.append(("cudaFreeHost", address))
        memory = memoryview((ctypes.c_byte * nbytes).from_address(address))
        return np.frombuffer(memory, dtype=dtype).reshape(shape)

    def to_device(self, device: int, host: np.ndarray) -> None:
        """Enqueue a copy."""
        kind = self.api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", device, host.ctypes.data, host.nbytes, kind, self._stream)

    def to_host(self, host: np.ndarray, device: int) -> None:
        """Enqueue a copy."""
        kind = self.api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", host.ctypes.data, device, host.nbytes, kind, self._stream)

    def event(self) -> Any:
        """A mark on the stream that can be timed."""
        return self.call("cudaEventCreateWithFlags", self.api.cudaEventDefault)

    def record(self, event: Any) -> None:
        """Put a mark on the stream."""
        self.call("cudaEventRecord", event, self._stream)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Wait for ``end``; milliseconds between two marks by the GPU's clock (resolution about 0.5 µs)."""
        self.call("cudaEventSynchronize", end)
        return float(self.call("cudaEventElapsedTime", start, end))

    def begin_capture(self) -> None:
        """What is enqueued from here on is written into a graph instead of being run."""
        mode = self.api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.call("cudaStreamBeginCapture", self._stream, mode)

    def end_capture(self) -> Any:
        """The graph, ready to be launched."""
        return self.call("cudaGraphInstantiate", self.call("cudaStreamEndCapture", self._stream), 0)

    def drop_capture(self) -> None:
        """End a capture that failed, and forget its error."""
        self.api.cudaStreamEndCapture(self._stream)
        self.api.cudaGetLastError()

    def launch(self, graph: Any) -> None:
        """Replay a graph."""
        self.call("cudaGraphLaunch", graph, self._stream)

    def close(self) -> None:
        """Give back the stream and all memory; arrays of :meth:`pinned` must not be read from here on.

        What cannot be given back is left: after a fault of the GPU every call fails, and the fault was told already.
        """
        while self._freed_by:
            name, address = self._freed_by.pop()
            getattr(self.api, name)(address)
        self.api.cudaStreamDestroy(self._stream)

    def free_bytes(self) -> int:
        """Memory of the device that nobody uses."""
        free, _ = self.call("cudaMemGetInfo")
        return int(free)
