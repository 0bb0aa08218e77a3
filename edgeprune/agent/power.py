"""Power mode and clocks of a Jetson: read, set for measured jobs, and put back as they were."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
from typing import Callable, Iterable, NamedTuple

from edgeprune.agent.root import CLOCKS_FILE, as_root, may_sudo
from edgeprune.agent.system import Refused, output_of, read_json, system_path, text_of, write_json

PROGRAM_TIMEOUT_S = 60.0  # of nvpmodel and jetson_clocks where they change something
RESTORE_TIMEOUT_S = 4 * PROGRAM_TIMEOUT_S  # three of them, and a few looks
LAST_MODE = 9  # one digit, which is all that the rule for sudo allows
CONF_FILE = "/etc/nvpmodel.conf"
# Below the user's home, where it outlives a reboot, as a power mode does
RESTORE_FILE = "~/.local/state/edgeprune/restore.json"
# jetson_clocks locks these besides, and nvpmodel has no words for them
REBOOT = "a reboot frees what of them is still locked (idle states of the CPUs, the memory's clock)"
REFUSED_BY_SUDO = r"password is required|not allowed|not in the sudoers|a terminal is required"


class Restored(NamedTuple):
    """What :func:`restore_board` did, for people.

    Attributes:
        done: what was put back; empty when nothing was to be.
        failure: what could not be, and the command that does it.
        lost: what nobody can put back any more, and what frees it; told this once.
    """

    done: str
    failure: str
    lost: str = ""


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
    names = {number: name for name, number in _modes().items()}
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


def _modes() -> dict[str, int]:
    """Names to ids of the power modes that this board has."""
    return power_modes(text_of(system_path(CONF_FILE)))


def _own_name(wanted: str) -> str:
    """The name that this board gives a power mode; ``Refused`` where it has none of it."""
    modes = _modes()
    name = _same_mode(wanted, modes)
    if not name:
        available = ", ".join(modes) or f"none ({CONF_FILE} is missing)"
        raise Refused("device", f"this board has no power mode {wanted}; it has: {available}")
    return name


def _same_mode(wanted: str, modes: Iterable[str]) -> str:
    """The one of these modes that is meant by a name; empty for none."""
    return next((mode for mode in modes if plain_mode(mode) == plain_mode(wanted)), "")


def _typed(wanted: str) -> str:
    """What a person types to set a power mode."""
    modes = _modes()
    return f"sudo nvpmodel -m {modes.get(_same_mode(wanted, modes), 'NUMBER')}"


def _require_way_back(before: str, wanted: str) -> None:
    """``Refused`` where the mode that the board is in could not be set again behind a run."""
    modes = _modes()
    number = modes.get(_same_mode(before, modes))
    if number is not None and number <= LAST_MODE:
        return
    known = f"{before}, number {number}" if number is not None else f"{before}, which {CONF_FILE} does not name"
    seen = known if before else "one that nvpmodel -q does not say"
    raise Refused(
        "device",
        f"the board's power mode is {seen}; it could not be put back behind a run, for edgeprune sets 0 to {LAST_MODE}"
        f"; the target asks for {wanted}; type there: {_typed(wanted)}",
    )


def set_power_mode(wanted: str) -> str | None:
    """Switch to a mode by its name, and see that it took; gives the mode before, or None if it was this one.

    Raises:
        Refused: the board has no such mode, the mode needs a reboot, or this user may not set it.
    """
    name, before = _own_name(wanted), power_mode()
    if plain_mode(before) == plain_mode(name):
        return None
    number, command = _modes()[name], _typed(name)
    if number > LAST_MODE:
        raise Refused(
            "device", f"power mode {name} has number {number}, edgeprune sets 0 to {LAST_MODE}; type there: {command}"
        )
    _, text = output_of(as_root(["nvpmodel", "-m", str(number)]), stdin="no\n", timeout_s=PROGRAM_TIMEOUT_S)
    if re.search(r"reboot\s+required", text, re.I):
        raise Refused(
            "device", f"power mode {name} needs a reboot of the board (it is in {before}); type there: {command}"
        )
    if re.search(REFUSED_BY_SUDO, text):
        raise Refused(
            "device",
            f"the board is in power mode {before}, the target asks for {name}, and this user may not change it; "
            f"type there: {command}",
        )
    now = power_mode()
    if plain_mode(now) != plain_mode(name):
        raise Refused(
            "device",
            f"power mode {name} was set but the board is in {now} (nvpmodel: {_last_line(text)}); "
            f"type there: {command}",
        )
    return before


def prepare_board(mode: str, lock_clocks: bool) -> dict[str, str]:
    """Set power mode and clocks for measured jobs; what has to be put back is on disk before it is changed.

    Args:
        mode: power mode by its name; empty for the one that the board is in.
        lock_clocks: lock the clocks, where this user may.

    Returns:
        ``power_mode`` and ``clocks`` as they are now, with ``clocks_doubt`` where they could not be locked; empty on a
        machine that has none.

    Raises:
        Refused: see :func:`set_power_mode`; or the mode that the board is in could not be put back.
    """
    changed, _ = _to_restore()  # what could not be put back earlier is still how the board was

    def note_change(**entry) -> None:
        changed.update(entry)
        os.makedirs(os.path.dirname(_restore_path()), exist_ok=True)
        write_json(_restore_path(), dict(changed, host=os.uname().nodename, boot=boot_id()))

    if mode:
        try:
            name, before = _own_name(mode), power_mode()
            if plain_mode(before) != plain_mode(name):  # else nothing is changed, and nothing is to be put back
                before = changed.get("power_mode") or before
                _require_way_back(before, name)
                # another mode unlocks them
                locked = changed.get("relock") or (clocks_locked() and not changed.get("clocks"))
                note_change(power_mode=before, set_to=name, relock=locked)
                set_power_mode(name)
        except Refused as error:
            raise Refused(error.kind, f"{error}; or name another mode in the profile: device.power_mode") from error
    doubt = ""
    if lock_clocks and shutil.which("jetson_clocks") and not clocks_locked():
        doubt = _lock_clocks(note_change)
    setting = board_setting()
    return dict(setting, clocks_doubt=doubt) if setting and doubt else setting


def _lock_clocks(note_change: Callable[..., None]) -> str:
    """Lock the clocks once it is stored how they are, which ``note_change`` hears; gives why they are free all the
    same. Empty too for a user who may change nothing: to them it is no news."""
    stored = system_path(CLOCKS_FILE)
    folder, store = ["mkdir", "-p", os.path.dirname(stored)], ["jetson_clocks", "--store", stored]
    lock = ["jetson_clocks"]
    mask = os.umask(0o022)  # sudo adds this user's to its own, and whoever may not look there sees no file
    try:
        made, said = output_of(as_root(folder))
        before, _ = _stamp_of(stored)
        code, text = output_of(as_root(store), stdin="y\n", timeout_s=PROGRAM_TIMEOUT_S)  # it asks before it replaces
    finally:
        os.umask(mask)
    if code != 0:
        return _why_free(store, _last_line(text)) if made == 0 or may_sudo() else ""
    stamp, missing = _stamp_of(stored)
    # It ends with 0 where it could write nothing, or half of it (NVIDIA's scripts of 2020 and 2023). What is not stored
    # cannot be put back: such clocks would stay locked until a reboot.
    # The kernel's own files may refuse a write besides, which is no fault of the disk.
    fault = re.search(rf"^.*(?:{re.escape(stored)}: |write error: (?:No space|Disk quota)).*$", text, re.M)
    if fault or missing or stamp == before:
        if made != 0 and not os.path.isdir(folder[-1]):
            return _why_free(folder, _last_line(said))
        why = fault.group(0).strip() if fault else missing or "the file is as it was"
        if not fault and _is_hidden(stored):
            return _why_free(
                store, f"whether it stored how they are is hidden: {why[-80:]}", f"sudo chmod 755 {folder[-1]}"
            )
        return _why_free(store, f"how they are is not stored: {why[-80:]}", f"df -h {os.path.dirname(folder[-1])}")
    note_change(clocks=True, clocks_in=power_mode(), stored=stamp)
    _, text = output_of(as_root(lock), timeout_s=PROGRAM_TIMEOUT_S)
    return "" if clocks_locked() else _why_free(lock, _last_line(text))


def _why_free(command: list[str], said: str, look: str = "sudo jetson_clocks --show") -> str:
    """That clocks which were to be locked are free, what the command said, and the next one: ``look``, where it was not
    sudo that refused."""
    rules = "compare /etc/sudoers.d/edgeprune there with docs/jetson.md"
    then = rules if re.search(REFUSED_BY_SUDO, said) else f"look there: {look}"
    return f"the clocks were to be locked and are free (sudo {' '.join(command)}: {said}): {then}"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1][-80:]


def _stamp_of(path: str) -> tuple[str, str]:
    """What tells a file that holds something from every other one that was or will be there; else empty, and why."""
    try:
        found = os.stat(path)
    except OSError as error:
        return "", f"{path}: {error.strerror}"
    if not found.st_size:
        return "", f"{path}: it is empty"
    return f"{found.st_ino} {found.st_mtime_ns} {found.st_size}", ""


def _is_hidden(path: str) -> bool:
    """Whether this user may not see if there is a file, as in a folder that was made under a strict umask."""
    try:
        os.stat(path)
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def board_setting() -> dict[str, str]:
    """``power_mode`` and ``clocks`` as they are now; empty on a machine that has none."""
    if not shutil.which("nvpmodel"):
        return {}
    return {"power_mode": power_mode(), "clocks": "locked" if clocks_locked() else "free"}


def board_change(before: dict[str, str]) -> str:
    """What of the power mode and the clocks is no longer as :func:`prepare_board` gave it, for people; empty for
    nothing."""
    now = board_setting()
    told = (("power_mode", "power mode was"), ("clocks", "clocks were"))
    changes = (
        f"the board's {words} {before[name]} when the run was prepared and {now.get(name) or 'unknown'} at its end"
        for name, words in told
        if name in before and before[name] != now.get(name)
    )
    return "; ".join(changes)


def left_to_restore() -> str:
    """What :func:`prepare_board` changed and nobody has put back, with what is typed for it; empty for nothing."""
    (changed, _), left = _to_restore(), []
    if changed.get("clocks"):  # before the mode: what is stored of them are those of the mode that they were locked in
        left.append(f"clocks are still locked (sudo jetson_clocks --restore {system_path(CLOCKS_FILE)})")
    if changed.get("power_mode"):
        left.append(f"power mode {changed['power_mode']} is to be put back ({_typed(changed['power_mode'])})")
    if changed.get("relock"):
        left.append("clocks that were locked before are to be locked again (sudo jetson_clocks)")
    return "; ".join(left)


def restore_board() -> Restored:
    """Undo what :func:`prepare_board` changed, in this process or in one that ended without; the caller has the
    device-wide lock. What cannot be undone is kept for the next time, where that may do better. A mode that somebody
    else has set since stays, and so do the cores and clocks that came with it."""
    (changed, lost), done, failures = _to_restore(), [], []
    still, stored = "", system_path(CLOCKS_FILE)
    if changed.get("clocks"):
        code, text = output_of(as_root(["jetson_clocks", "--restore", stored]), timeout_s=PROGRAM_TIMEOUT_S)
        if code == 0 and not clocks_locked():  # it ends with 0 whatever it could write
            done.append("clocks")
            _forget_clocks(changed)
        else:
            still = text.strip()[-80:] or "no output"
    if changed.get("power_mode"):
        try:
            if set_power_mode(changed["power_mode"]) is not None:
                done.append(f"power mode {changed['power_mode']}")
                if still:  # what is stored are cores and clocks of the mode before, which is no more
                    lost, still = f"jetson_clocks --restore: {still}", ""
                    _forget_clocks(changed)
            changed.pop("power_mode")
            changed.pop("set_to", None)
        except Refused as error:
            failures.append(str(error))
    if still:
        failures.insert(0, f"clocks are still locked ({still}); type there: sudo jetson_clocks --restore {stored}")
    if changed.get("relock") and not changed.get("power_mode"):
        if not clocks_locked():
            output_of(as_root(["jetson_clocks"]), timeout_s=PROGRAM_TIMEOUT_S)
        if clocks_locked():
            changed.pop("relock")
        else:
            failures.append("clocks are free, and were locked before; type there: sudo jetson_clocks")
    with contextlib.suppress(OSError):
        if changed:
            write_json(_restore_path(), dict(changed, host=os.uname().nodename, boot=boot_id()))
        else:
            os.unlink(_restore_path())
    return Restored(", ".join(done), "; ".join(failures), lost and f"clocks were not put back ({lost}); {REBOOT}")


def _to_restore() -> tuple[dict, str]:
    """What is to be put back on this machine, as far as it can be, and why the clocks cannot be; empty where they can.

    ``power_mode`` (its name) and ``set_to``, the mode that edgeprune set in its place; ``clocks`` (True) where
    edgeprune locked them, ``clocks_in`` (the mode that they were locked in) and ``stored`` (:func:`_stamp_of` the file
    that has how they were); ``relock`` where somebody else had locked them.
    """
    noted = read_json(_restore_path())
    if not isinstance(noted, dict) or noted.get("host") != os.uname().nodename:  # a home may be on several machines
        return {}, ""
    kept = {name: noted.get(name) for name in ("power_mode", "set_to")}
    if noted.get("boot") == boot_id():  # a reboot unlocks the clocks by itself
        kept.update((name, noted.get(name)) for name in ("clocks", "clocks_in", "stored", "relock"))
    kept = {name: value for name, value in kept.items() if value}
    locked_in, lost = kept.get("clocks_in") or kept.get("set_to", ""), ""
    now = power_mode() if locked_in else ""
    if kept.get("clocks") and (lost := _why_lost(now, locked_in, kept.get("stored", ""))):
        _forget_clocks(kept)
    if kept.get("set_to") and _is_another(now, kept["set_to"]):  # somebody chose it since
        for name in ("power_mode", "set_to", "relock"):
            kept.pop(name, None)
    return kept, lost


def _why_lost(now: str, locked_in: str, stamp: str) -> str:
    """Why clocks are not to be put back by what is stored of them, which has the cores of their mode too; empty where
    they are."""
    if locked_in and _is_another(now, locked_in):
        return f"power mode {now} was set since they were locked in {locked_in}; nvpmodel set cores and clocks anew"
    if _is_hidden(system_path(CLOCKS_FILE)):  # but not from root, who puts them back
        return ""
    stored, missing = _stamp_of(system_path(CLOCKS_FILE))
    if missing or not stamp:  # of a run before there were stamps
        return missing
    return "" if stored == stamp else f"{system_path(CLOCKS_FILE)} was written anew, by a run of another user"


def _is_another(now: str, mode: str) -> bool:
    """Whether a board that is in mode ``now``, as far as that is known, is in another than this one."""
    return bool(now) and plain_mode(now) != plain_mode(mode)


def _forget_clocks(changed: dict) -> None:
    for name in ("clocks", "clocks_in", "stored"):
        changed.pop(name, None)


def _restore_path() -> str:
    return system_path(os.path.expanduser(RESTORE_FILE))


def boot_id() -> str:
    """Which start of the machine this is; empty where the kernel does not tell."""
    return text_of(system_path("/proc/sys/kernel/random/boot_id"))
