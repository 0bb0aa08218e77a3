"""Whether a device is the board that a target asks for; pure functions on its facts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.specifiers import SpecifierSet

from edgeprune.agent.facts import DeviceFacts, modules_of
from edgeprune.agent.power import plain_mode
from edgeprune.target.releases import DLA_WORDS, ELEVEN_WORDS, board_has_dla, jetson_supports

if TYPE_CHECKING:
    from edgeprune.target import Board

BUILDER_BYTES = 2 << 30  # its kernels alone are 1 GB (libnvinfer_builder_resource); CUDA and scratch come to that
SWAP = "sudo sh -c 'fallocate -l 4G /swapfile && chmod 600 /swapfile && mkswap /swapfile && swapon /swapfile'"
HEADLESS = "sudo systemctl set-default multi-user.target && sudo reboot"
SUPER_HINT = (
    ", or bring it: where the firmware is that of JetPack 6.2 (36.4.3) or newer, sudo rm -rf /etc/nvpmodel.conf && "
    "sudo reboot there, which writes that file anew; where that does not help, flash JetPack 6.2 or newer with the "
    "board's -super configuration"
)


def mismatch(board: Board, facts: DeviceFacts) -> str:
    """Why this device is not the board that a target asks for, with what is allowed; empty when it is."""
    if board.kind == "cuda" and not facts.has_gpu:
        return "it has no NVIDIA GPU (nvidia-smi finds none, and there is no file of one in /dev)"
    if board.kind != "jetson":
        return ""
    allowed = board_modules(board)
    name = facts.board or facts.cpu or "an unknown machine"
    if not facts.l4t:
        return f"it is no Jetson ({name}), the profile is about {board.board or ', '.join(allowed)}"
    if allowed and not set(allowed) & set(facts.modules):
        modules = ", ".join(facts.modules) or "no module id"
        return f"it is {name} ({modules}), the profile is about {board.board} ({', '.join(allowed)})"
    if difference := outside(board.jetpack, facts.jetpack):
        return f"it has JetPack {difference}"
    if board.trtexec:
        return _mode_mismatch(board, facts)  # that program's own version is what counts
    return tensorrt_mismatch(board, facts, facts.tensorrt) or _mode_mismatch(board, facts)


def tensorrt_mismatch(board: Board, facts: DeviceFacts, version: str) -> str:
    """Why this TensorRT of a device will not do for a profile; empty when it does, or no version is known."""
    if difference := outside(board.tensorrt, version):
        return f"it has TensorRT {difference}"
    return without_dla(board, facts, version)


def outside(versions: str | None, version: str) -> str:
    """``8.6.0, the profile asks for >=10.3`` for a version outside the range of a profile; empty inside, or unknown."""
    if not version or not versions or SpecifierSet(versions).contains(version, prereleases=True):
        return ""
    return f"{version}, the profile asks for {versions}"


def without_dla(board: Board, facts: DeviceFacts, version: str) -> str:
    """Why this TensorRT has no DLA there that a profile asks for; empty where it has, or no version is known."""
    if board.dla_core is None or not version or board_has_dla(version, facts.modules, facts.jetpack):
        return ""
    return f"its TensorRT {version} has no DLA: {DLA_WORDS}; or leave device.dla_core out"


def unknown_release(board: Board, facts: DeviceFacts) -> str:
    """What cannot be held against the profile of a board, because its release is not known here; empty for nothing."""
    if board.jetpack and facts.l4t and not facts.jetpack:
        return (
            f"L4T {facts.l4t} is no release that edgeprune knows: whether it is JetPack {board.jetpack}, as the "
            "profile asks, cannot be told"
        )
    return ""


def over_current(facts: DeviceFacts) -> str:
    """What the kernel's counters of over-current say since boot; empty where nothing was counted."""
    return ", ".join(f"{name.partition('_')[0]} {count}" for name, count in sorted(facts.over_current_events.items()))


def unsupported_tensorrt(facts: DeviceFacts, version: str) -> str:
    """That NVIDIA does not support this TensorRT on this Jetson, which may run it all the same; empty where it does, or
    nothing is known."""
    if not facts.l4t or not version or jetson_supports(version, facts.modules, facts.jetpack):
        return ""
    return f"NVIDIA does not support TensorRT {version} on this board: {ELEVEN_WORDS}"


def short_of_memory(facts: DeviceFacts) -> str:
    """What a board has too little of for TensorRT's builder, with what helps; empty where it has enough, or nothing is
    known."""
    free = facts.memory_available_bytes + facts.swap_free_bytes
    if not facts.l4t or not facts.memory_available_bytes or free >= BUILDER_BYTES:
        return ""
    return (
        f"{facts.memory_available_bytes / 2**30:.1f} GiB of memory and {facts.swap_free_bytes / 2**30:.1f} GiB of swap "
        "on a disk are free, which TensorRT's builder may not get by with: close other programs, or the desktop (sudo "
        f"init 3 until the next boot; for good: {HEADLESS}), or add swap ({SWAP})"
    )


def _mode_mismatch(board: Board, facts: DeviceFacts) -> str:
    """Why the power mode of a target cannot be had there, and the key that changes it; empty when it is among the
    board's own. Whether it can be set is known when it is."""
    wanted = board.power_mode or ""
    if not wanted or plain_mode(wanted) in map(plain_mode, facts.power_modes):
        return ""
    if not facts.power_modes:
        return (
            f"it shows no power modes (no /etc/nvpmodel.conf: a container?), the profile asks for {wanted}; set the "
            "mode on the board itself, and here in the profile: device.power_mode: null"
        )
    return (
        f"it has no power mode {wanted}; it has: {', '.join(facts.power_modes)}; name one in the profile, for example "
        f"device.power_mode: {facts.power_mode or next(iter(facts.power_modes))}"
        + (SUPER_HINT if plain_mode(wanted).endswith("_SUPER") else "")
    )


def board_modules(board: Board) -> list[str]:
    """Ids of the modules that a target's board may have; empty for any."""
    return modules_of(" ".join(board.compatible))


def targets_for(facts: DeviceFacts) -> list[str]:
    """Names of the shipped targets whose board has this device's module; those that fit its releases, if any do."""
    from edgeprune.target import load_target, shipped_targets

    boards = {name: load_target(name).device for name in shipped_targets()}
    named = {
        name: board
        for name, board in boards.items()
        if board.kind == "jetson" and set(board_modules(board)) & set(facts.modules)
    }
    fitting = [
        name
        for name, board in named.items()
        if not outside(board.jetpack, facts.jetpack) and not outside(board.tensorrt, facts.tensorrt)
    ]
    return fitting or list(named)
