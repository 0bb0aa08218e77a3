"""Power mode and clocks of a Jetson: read, set for measured jobs, and put back as they were."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
from typing import NamedTuple

from edgeprune.agent.root import CLOCKS_FILE, as_root, may_sudo
from edgeprune.agent.system import Refused, output_of, read_json, system_path, text_of, write_json

LAST_MODE = 9  # one digit, which is all that the rule for sudo allows
# Below the user's home, where it outlives a reboot, as a power mode does
RESTORE_FILE = "~/.local/state/edgeprune/restore.json"


class Restored(NamedTuple):
    """What :func:`restore_board` did, for people.

    Attributes:
        done: what was put back; empty when nothing was to be.
        failure: what could not be, and the command that does it.
    """

    done: str
    failure: str


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


def gpu_clock_folder() -> str:
    """The kernel's folder of the GPU's clock, which everybody may read; empty where there is none.

    ``17000000.gpu`` on an Orin, ``17000000.gv11b`` on a Xavier, ``gpu-gpc-0`` before ``gpu-nvd-0`` on Thor.
    """
    folders = sorted(glob.glob(system_path("/sys/class/devfreq/*")))
    return next((path for path in folders if re.search(r"gpu|ga10b|gv11b|gb10b", os.path.basename(path))), "")


def clocks_locked() -> bool:
    """Whether the GPU's clock has nowhere to go."""
    folder = gpu_clock_folder()
    low, high = (text_of(os.path.join(folder, name)) for name in ("min_freq", "max_freq"))
    return bool(folder) and low == high != ""


def gpu_clock_mhz(folder: str) -> int | None:
    """The GPU's clock in such a folder, now; None where it cannot be read."""
    with contextlib.suppress(ValueError):
        return round(int(text_of(os.path.join(folder, "cur_freq"))) / 1e6) if folder else None
    return None


def over_current_events() -> dict[str, int]:
    """The kernel's counters of over-current events since boot (``oc3_event_cnt``)."""
    events = {}
    for path in glob.glob(system_path("/sys/class/hwmon/hwmon*/oc*_event_cnt")):
        with contextlib.suppress(ValueError):
            events[os.path.basename(path)] = int(text_of(path))
    return events


def over_current_harmless() -> set[str]:
    """Names of those counters whose events slow nothing down: the kernel's ``oc*_throt_en`` beside them reads 0. It
    reads 1 for the kinds that make the hardware throttle."""
    paths = glob.glob(system_path("/sys/class/hwmon/hwmon*/oc*_throt_en"))
    return {os.path.basename(path).replace("throt_en", "event_cnt") for path in paths if text_of(path) == "0"}


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
            f"this board has no power mode {wanted}; it has: {available}",
        )
    if plain_mode(before) == plain_mode(name):
        return None
    command = f"sudo nvpmodel -m {modes[name]}"
    if modes[name] > LAST_MODE:
        raise Refused(
            "device",
            f"power mode {name} has number {modes[name]}, edgeprune sets 0 to {LAST_MODE}; type there: {command}",
        )
    _, text = output_of(as_root(["nvpmodel", "-m", str(modes[name])]), stdin="no\n", timeout_s=60)
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


def prepare_board(mode: str, lock_clocks: bool) -> dict[str, str]:
    """Set power mode and clocks for measured jobs; what has to be put back is on disk before it is changed.

    Args:
        mode: power mode by its name; empty for the one that the board is in.
        lock_clocks: lock the clocks, where this user may.

    Returns:
        ``power_mode`` and ``clocks`` as they are now; empty on a machine that has none.

    Raises:
        Refused: see :func:`set_power_mode`.
    """
    changed = _to_restore()  # what could not be put back earlier is still how the board was

    def note_change(**entry) -> None:
        changed.update(entry)
        os.makedirs(os.path.dirname(_restore_path()), exist_ok=True)
        write_json(_restore_path(), dict(changed, host=os.uname().nodename, boot=_boot()))

    if mode:
        locked = changed.get("relock") or (clocks_locked() and not changed.get("clocks"))  # another mode unlocks them
        note_change(power_mode=changed.get("power_mode") or power_mode(), relock=locked)
        try:
            set_power_mode(mode)
        except Refused as error:
            raise Refused(error.kind, f"{error}; or name another mode in the profile: device.power_mode") from error
    if lock_clocks and shutil.which("jetson_clocks") and not clocks_locked() and may_sudo():
        stored = system_path(CLOCKS_FILE)
        output_of(as_root(["mkdir", "-p", os.path.dirname(stored)]))
        # it asks before it replaces a file
        if output_of(as_root(["jetson_clocks", "--store", stored]), stdin="y\n", timeout_s=60)[0] == 0:
            note_change(clocks=True)
            output_of(as_root(["jetson_clocks"]), timeout_s=60)
    if not shutil.which("nvpmodel"):
        return {}
    return {"power_mode": power_mode(), "clocks": "locked" if clocks_locked() else "free"}


def restore_board() -> Restored:
    """Undo what :func:`prepare_board` changed, in this process or in one that ended without; the caller has the
    device-wide lock. What cannot be undone is kept for the next time."""
    changed, done, failures = _to_restore(), [], []
    if changed.get("clocks"):
        stored = system_path(CLOCKS_FILE)
        code, text = output_of(as_root(["jetson_clocks", "--restore", stored]), timeout_s=60)
        if code == 0:
            done.append("clocks")
            changed.pop("clocks")
        else:
            failures.append(
                f"clocks are still locked ({text.strip()[-80:]}); type there: sudo jetson_clocks --restore {stored}"
            )
    if changed.get("power_mode"):
        try:
            if set_power_mode(changed["power_mode"]) is not None:
                done.append(f"power mode {changed['power_mode']}")
            changed.pop("power_mode")
        except Refused as error:
            failures.append(str(error))
    if changed.get("relock") and not changed.get("power_mode"):
        code = 0 if clocks_locked() else output_of(as_root(["jetson_clocks"]), timeout_s=60)[0]
        changed.pop("relock")
        if code != 0:
            failures.append("clocks are free, and were locked before; type there: sudo jetson_clocks")
    with contextlib.suppress(OSError):
        if changed:
            write_json(_restore_path(), dict(changed, host=os.uname().nodename, boot=_boot()))
        else:
            os.unlink(_restore_path())
    return Restored(", ".join(done), "; ".join(failures))


def _to_restore() -> dict:
    """``power_mode`` (its name), ``clocks`` (True) where edgeprune locked them, ``relock`` where somebody else had:
    as far as they are to be put back on this machine."""
    noted = read_json(_restore_path())
    if not isinstance(noted, dict) or noted.get("host") != os.uname().nodename:  # a home may be on several machines
        return {}
    kept = {"power_mode": noted.get("power_mode")}
    if noted.get("boot") == _boot():  # a reboot unlocks the clocks by itself
        kept.update(clocks=noted.get("clocks"), relock=noted.get("relock"))
    return {name: value for name, value in kept.items() if value}


def _restore_path() -> str:
    return system_path(os.path.expanduser(RESTORE_FILE))


def _boot() -> str:
    return text_of(system_path("/proc/sys/kernel/random/boot_id"))
