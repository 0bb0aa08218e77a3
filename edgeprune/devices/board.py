"""Whether a device is the board that a profile is about; pure functions on its facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from packaging.specifiers import SpecifierSet

from edgeprune.devices.agent import modules_of

if TYPE_CHECKING:
    from edgeprune.target import Device as Board


def mismatch(board: Board, facts: Mapping[str, Any]) -> str:
    """Why this device is not what the profile asks for, with what is allowed; empty when it is.

    Args:
        board: the profile's ``device``.
        facts: of the device; see :func:`edgeprune.devices.local.facts`.
    """
    if board.kind == "cuda" and not facts.get("gpus"):
        return "it has no NVIDIA GPU (nvidia-smi finds none)"
    if board.kind != "jetson":
        return ""
    here = facts.get("modules", ())
    wanted = modules_of(" ".join(board.compatible))
    seen = facts.get("board") or facts.get("cpu") or "an unknown machine"
    if not facts.get("l4t"):
        return f"it is no Jetson ({seen}), the profile is about {board.board or ', '.join(wanted)}"
    if wanted and not set(wanted) & set(here):
        modules = ", ".join(here) or "no module id"
        return f"it is {seen} ({modules}), the profile is about {board.board} ({', '.join(wanted)})"
    for name, asked in (("jetpack", board.jetpack), ("tensorrt", board.tensorrt)):
        found = facts.get(name)
        if asked and found and not SpecifierSet(asked).contains(found, prereleases=True):
            return f"it has {'JetPack' if name == 'jetpack' else 'TensorRT'} {found}, the profile asks for {asked}"
    return ""


def profiles_of(facts: Mapping[str, Any]) -> list[str]:
    """Names of the shipped profiles whose module this device has."""
    from edgeprune.target import load_target, shipped_targets

    found = []
    for name in shipped_targets():
        board = load_target(name).device
        if board.kind == "jetson" and set(modules_of(" ".join(board.compatible))) & set(facts.get("modules", ())):
            found.append(name)
    return found
