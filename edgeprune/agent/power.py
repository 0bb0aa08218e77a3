"""Power mode and clocks of a Jetson: read, set for measured jobs, and put back as they were."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil

from edgeprune.agent.system import Refused, as_root, may_sudo, output_of, read_json, system_path, text_of, write_json

RESTORE_FILE = "restore.json"


def power_modes(conf: str) -> dict[str, int]:
    """Names to ids out of /etc/nvpmodel.conf."""
    rows = re.findall(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", conf, re.M)
    return {name: int(number) for number, name in rows}


def plain_mode(name: str) -> str:
    """A power mode's name without what differs between boards: ``MODE_15W`` and ``15w`` are ``15W``."""
    return re.sub(r"^MODE_", "", name.strip().upper().replace(" ", "_"))


def power_mode() -> str:
    """Name of the current power mode, or an empty string where there are none."""
    if not shutil.which("nvpmodel"):
        return ""
    match = re.search(r"NV Power Mode:\s*(\S+)", output_of(["nvpmodel", "-q"])[1])
    if match:
        return match.group(1)
    status = re.search(r"pmode:0*(\d+)", text_of(system_path("/var/lib/nvpmodel/status")))
    names = {number: name for name, number in power_modes(text_of(system_path("/etc/nvpmodel.conf"))).items()}
    return names.get(int(status.group(1)), "") if status else ""


def clocks_locked() -> bool:
    """Whether the GPU's clock has nowhere to go."""
    folders = sorted(glob.glob(system_path("/sys/class/devfreq/*")))
    folder = next((path for path in folders if re.search(r"gpu|ga10b|gv11b|gb10b", path)), "")
    low, high = (text_of(os.path.join(folder, name)) for name in ("min_freq", "max_freq"))
    return bool(folder) and low == high != ""


def set_power_mode(wanted: str) -> str | None:
    """Switch to a mode by its name, and see that it took; gives the mode before, or None if it was this one.

    Raises:
        Refused: the board has no such mode, the mode needs a reboot, or this user may not set it.
    """
    modes, before = power_modes(text_of(system_path("/etc/nvpmodel.conf"))), power_mode()
    name = next((mode for mode in modes if plain_mode(mode) == plain_mode(wanted)), None)
    if name is None:
        available = ", ".join(modes) or "none (/etc/nvpmodel.conf is missing)"
        raise Refused(
            "device",
            f"this board has no power mode {wanted}; it has: {available}; name one in the profile (device.power_mode)",
        )
    if plain_mode(before) == plain_mode(name):
        return None
    _, text = output_of(as_root(["nvpmodel", "-m", str(modes[name])]), stdin="no\n", timeout_s=60)
    command = f"sudo nvpmodel -m {modes[name]}"
    if re.search(r"reboot\s+required", text, re.I):
        raise Refused(
            "device", f"power mode {name} needs a reboot of the board (it is in {before}); type there: {command}"
        )
    if re.search(r"password is required|not allowed|not in the sudoers|a terminal is required", text):
        raise Refused(
            "device",
            f"the board is in power mode {before}, the target asks for {name}, and this user may not change it; "
            f"type there: {command}",
        )
    now = power_mode()
    if plain_mode(now) != plain_mode(name):
        last = (text.strip().splitlines() or ["no output"])[-1]
        raise Refused(
            "device",
            f"power mode {name} was set but the board is in {now} (nvpmodel: {last}); type there: {command}",
        )
    return before


def prepare_board(mode: str, lock_clocks: bool, folder: str) -> dict[str, str]:
    """Set power mode and clocks for measured jobs; what has to be put back is on disk before it is changed.

    Args:
        mode: power mode by its name; empty for the one that the board is in.
        lock_clocks: lock the clocks, where this user may.
        folder: where :func:`restore_board` finds what was changed.

    Returns:
        ``power_mode`` and ``clocks`` as they are now; empty on a machine that has none.

    Raises:
        Refused: see :func:`set_power_mode`.
    """
    changed: dict[str, str] = {}

    def note_change(**entry: str) -> None:
        changed.update(entry)
        write_json(os.path.join(folder, RESTORE_FILE), changed)

    if mode:
        note_change(power_mode=power_mode())
        if set_power_mode(mode) is None:
            changed.pop("power_mode")
    if lock_clocks and shutil.which("jetson_clocks") and not clocks_locked() and may_sudo():
        stored = os.path.join(folder, "clocks.conf")
        if output_of(as_root(["jetson_clocks", "--store", stored]), timeout_s=60)[0] == 0:
            note_change(clocks=stored)
            output_of(as_root(["jetson_clocks"]), timeout_s=60)
    if not shutil.which("nvpmodel"):
        return {}
    return {"power_mode": power_mode(), "clocks": "locked" if clocks_locked() else "free"}


def restore_board(folder: str) -> str:
    """Undo what :func:`prepare_board` changed; does nothing the second time.

    Returns:
        What could not be undone, and the command that does it; empty when all was.
    """
    path = os.path.join(folder, RESTORE_FILE)
    changed = read_json(path)
    if changed is None:
        return ""
    failure = ""
    if changed.get("clocks"):
        code, text = output_of(as_root(["jetson_clocks", "--restore", changed["clocks"]]), timeout_s=60)
        if code != 0:
            failure = f"clocks are still locked ({text.strip()[-80:]}); type there: sudo jetson_clocks --restore"
    if changed.get("power_mode"):
        try:
            set_power_mode(changed["power_mode"])
        except Refused as error:
            failure = str(error)
    for name in (path, changed.get("clocks", "")):
        with contextlib.suppress(OSError):
            os.unlink(name)
    return failure
