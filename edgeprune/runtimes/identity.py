"""Device identity of a TensorRT runtime: what must be equal before two engines, caches or timings may be mixed."""

from __future__ import annotations

from edgeprune.devices.base import Device

IDENTIFYING = ("name", "compute_cap", "driver_version")


def identity_on(device: Device, runtime: str, dla_core: int | None) -> dict[str, str]:
    """The device's own identity, the runtime with its version, and the GPUs where nvidia-smi names them."""
    found = {**device.identity(), "runtime": runtime}
    if gpus := device.facts().get("gpus"):
        found["gpu"] = "; ".join(" ".join(str(gpu[key]) for key in IDENTIFYING) for gpu in gpus)
    if dla_core is not None:
        found["dla_core"] = str(dla_core)
    return found
