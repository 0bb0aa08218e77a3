"""Device identity: what must be equal before engines, timing caches or measurements of a device may be mixed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from edgeprune.agent.facts import DeviceFacts
from edgeprune.agent.power import plain_mode

RELEASES = ("board", "l4t", "jetpack", "tensorrt", "cuda")
# The other ids in a device tree are carrier boards; p2972 is a kit, the only name that an AGX Xavier may give
JETSON_MODULES = ("p3767", "p3701", "p3834", "p3668", "p2888", "p2972")


def has_power_modes(facts: DeviceFacts) -> bool:
    """Whether it is a board whose power mode decides how fast it is."""
    return bool(facts.power_modes or facts.power_mode)


def identity_of(facts: DeviceFacts, *, power_mode: str = "", clocks: str = "") -> dict[str, str]:
    """Identity out of a device's facts.

    Args:
        facts: of the device.
        power_mode: the mode that measured runs had; the one that the board was in when empty.
        clocks: likewise, ``locked`` or ``free``.
    """
    identity = {"cpu": facts.cpu, "architecture": facts.machine, "isa": facts.isa}
    identity |= {name: value for name in RELEASES if (value := getattr(facts, name))}
    if module := next((module for module in facts.modules if module.startswith(JETSON_MODULES)), ""):
        identity["module"] = module
    if facts.gpus:
        identity["gpu"] = "; ".join(str(gpu) for gpu in facts.gpus)
    if has_power_modes(facts):
        identity["power_mode"] = plain_mode(power_mode or facts.power_mode)
        identity["clocks"] = clocks or facts.clocks or "free"
    return identity


def digest_of(identity: Mapping[str, str]) -> str:
    """A short name of an identity, for files that belong to it (a timing cache)."""
    return hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()[:16]
