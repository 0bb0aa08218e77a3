"""Device identity: what must be equal before engines, timing caches or measurements of a device may be mixed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

FIELDS = ("board", "l4t", "jetpack", "tensorrt", "cuda")


def plain_mode(name: str) -> str:
    """A power mode's name without what differs between boards: ``MODE_15W`` and ``15w`` are ``15W``."""
    return re.sub(r"^MODE_", "", name.strip().upper().replace(" ", "_"))


def module_of(facts: Mapping[str, Any]) -> str:
    """The module's id (``p3767-0005``) among those of a device tree; the carrier board's (``p3768``) is not it."""
    modules = facts.get("modules", ())
    return next((one for one in modules if one.startswith(("p3767", "p3701", "p3834", "p3668", "p2888"))), "")


def identity_of(facts: Mapping[str, Any], *, power_mode: str = "", clocks: bool = True) -> dict[str, str]:
    """Identity out of a device's facts.

    Args:
        facts: see :func:`edgeprune.devices.local.facts`.
        power_mode: the mode that measured runs are done in; the one that the board is in when empty.
        clocks: whether measured runs lock the clocks where the user may.
    """
    found = {
        "cpu": str(facts.get("cpu", "")),
        "architecture": str(facts.get("machine", "")),
        "isa": str(facts.get("isa", "")),
    }
    found |= {name: str(facts[name]) for name in FIELDS if facts.get(name)}
    if module := module_of(facts):
        found["module"] = module
    if gpus := facts.get("gpus"):
        found["gpu"] = "; ".join(f"{gpu['name']} {gpu['compute_cap']} {gpu['driver_version']}" for gpu in gpus)
    if facts.get("power_modes") or facts.get("power_mode"):
        found["power_mode"] = plain_mode(power_mode or str(facts.get("power_mode", "")))
        may_lock = clocks and bool(facts.get("sudo")) and bool(facts.get("jetson_clocks"))
        found["clocks"] = "locked" if may_lock or facts.get("clocks") == "locked" else "free"
    return found


def digest_of(identity: Mapping[str, str]) -> str:
    """A short name of an identity, for files that belong to it (a timing cache)."""
    return hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()[:12]
