"""Device identity of a TensorRT runtime: what must be equal before two engines, caches or timings may be mixed."""

from __future__ import annotations

from edgeprune.devices.base import Device


def identity_on(device: Device, runtime: str, dla_core: int | None) -> dict[str, str]:
    """The device's own identity, the runtime with its version, and the DLA core where there is one."""
    dla = {} if dla_core is None else {"dla_core": str(dla_core)}
    return {**device.identity(), "runtime": runtime, **dla}
