"""Stand-in boards: scripted Jetsons on which every decision about a device can be tried without one.

The board's files and programs (nvpmodel, jetson_clocks, tegrastats, trtexec, sudo) are small scripts in a private
folder; agent and client are the real ones. Whatever such a device gives is marked simulated, and no gate passes on it.

``fake:BOARD[,TRAIT…]``: BOARD is one of :data:`BOARDS`; traits are ``throttle`` (it gets too hot), ``no-sudo`` (this
user may change nothing), ``reboot=MODE`` (that power mode needs one), ``drops=N`` (the connection breaks at every Nth
command), ``mode=NAME`` (the power mode it starts in), ``jetpack=RELEASE`` (one of :data:`RELEASES`, with what came
with it), ``tensorrt=VERSION``, ``free-mib=N`` (of memory).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from edgeprune.agent.root import sudoers
from edgeprune.devices.channel import ConnectionLost
from edgeprune.devices.fake_programs import CORE, cores_of
from edgeprune.devices.here import Here
from edgeprune.devices.process import Ended
from edgeprune.devices.remote import RemoteDevice
from edgeprune.devices.trtexec_options import known_options
from edgeprune.errors import TargetError

PROGRAMS = ("nvpmodel", "jetson_clocks", "tegrastats", "trtexec", "sudo", "dpkg-query", "nvidia-smi")


@dataclass(frozen=True)
class Board:
    """What a scripted board says of itself; releases and modes as in NVIDIA's documentation of that board."""

    model: str
    compatible: tuple[str, ...]
    release: str
    modes: tuple[str, ...]
    mode: str
    tensorrt: str
    cuda: str
    slowness: float
    gpu_mhz: int
    before_super: tuple[str, ...] = ()  # modes before JetPack 6.2, where they are others


RELEASES = {  # of JetPack: L4T's words, TensorRT, CUDA
    "5.1": ("# R35 (release), REVISION: 2.1, GCID: 1, BOARD: t186ref, EABI: aarch64", "8.5.2", "11.4.315"),
    "6.0": ("# R36 (release), REVISION: 3.0, GCID: 1, BOARD: generic, EABI: aarch64", "8.6.2", "12.2.140"),
    "6.2": ("# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic, EABI: aarch64", "10.3.0", "12.6.68"),
    "7.2": ("# R39 (release), REVISION: 2.0, GCID: 1, BOARD: generic, EABI: aarch64", "10.16.1", "13.2.0"),
}
GPU_CLOCKS = {  # of the kernel, by what the device tree calls the chip
    "nvidia,tegra194": "17000000.gv11b",
    "nvidia,tegra234": "17000000.gpu",
    "nvidia,tegra264": "gpu-gpc-0",
}
ORIN = dict(zip(("release", "tensorrt", "cuda"), RELEASES["6.2"], strict=True))
XAVIER = dict(zip(("release", "tensorrt", "cuda"), RELEASES["5.1"], strict=True))
BOARDS: dict[str, Board] = {
    "orin-nano": Board(
        "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        ("nvidia,p3768-0000+p3767-0005-super", "nvidia,p3767-0005", "nvidia,tegra234"),
        modes=("15W", "25W", "MAXN_SUPER", "7W"),
        mode="25W",
        slowness=2.0,
        gpu_mhz=1020,
        before_super=("15W", "7W"),
        **ORIN,
    ),
    "orin-nx": Board(
        "NVIDIA Jetson Orin NX Engineering Reference Developer Kit",
        ("nvidia,p3768-0000+p3767-0000-super", "nvidia,p3767-0000", "nvidia,tegra234"),
        modes=("MAXN_SUPER", "10W", "15W", "25W", "40W"),
        mode="25W",
        slowness=1.6,
        gpu_mhz=1173,
        before_super=("MAXN", "10W", "15W", "25W"),
        **ORIN,
    ),
    "agx-orin": Board(
        "NVIDIA Jetson AGX Orin Developer Kit",
        ("nvidia,p3737-0000+p3701-0005", "nvidia,p3701-0005", "nvidia,tegra234"),
        modes=("MAXN", "MODE_15W", "MODE_30W", "MODE_50W"),
        mode="MODE_50W",
        slowness=1.0,
        gpu_mhz=1300,
        **ORIN,
    ),
    "xavier-nx": Board(
        "NVIDIA Jetson Xavier NX Developer Kit",
        ("nvidia,p3509-0000+p3668-0000", "nvidia,tegra194"),
        modes=(
            *("MODE_15W_2CORE", "MODE_15W_4CORE", "MODE_15W_6CORE", "MODE_10W_2CORE", "MODE_10W_4CORE"),
            *("MODE_10W_DESKTOP", "MODE_20W_2CORE", "MODE_20W_4CORE", "MODE_20W_6CORE"),
        ),
        mode="MODE_15W_6CORE",
        slowness=2.6,
        gpu_mhz=1109,
        **XAVIER,
    ),
    "agx-xavier": Board(
        "Jetson-AGX",
        ("nvidia,p2972-0000", "nvidia,tegra194"),
        modes=(
            *("MAXN", "MODE_10W", "MODE_15W", "MODE_30W_ALL", "MODE_30W_6CORE", "MODE_30W_4CORE"),
            *("MODE_30W_2CORE", "MODE_15W_DESKTOP"),
        ),
        mode="MODE_15W",
        slowness=2.0,
        gpu_mhz=1377,
        **XAVIER,
    ),
    "thor": Board(
        "NVIDIA Jetson AGX Thor Developer Kit",
        ("nvidia,p4071-0000+p3834-0008", "nvidia,p3834-0008", "nvidia,tegra264"),
        "# R38 (release), REVISION: 4.0, GCID: 1, BOARD: generic, EABI: aarch64",
        ("MAXN", "120W", "90W", "70W"),
        "120W",
        "10.13.3",
        "13.0.0",
        0.5,
        1575,
    ),
}


def fake_device(
    text: str,
    *,
    power_mode: str = "",
    clocks: bool = True,
    python: str = "",
    note: Callable[[str], None] | None = None,
) -> RemoteDevice:
    """A stand-in board by its description (see the module).

    Raises:
        TargetError: no such board or trait.
    """
    board, *traits = text.split(",")
    values = {name: value for name, _, value in (trait.partition("=") for trait in traits)}
    unknown = sorted(
        set(values) - {"throttle", "no-sudo", "reboot", "drops", "mode", "jetpack", "tensorrt", "free-mib"}
    )
    counts = [values.get(name, "1") for name in ("drops", "free-mib")]
    numbers = all(re.fullmatch(r"\d{1,6}", count) for count in counts) and re.fullmatch(
        r"\d{1,3}(\.\d{1,3}){1,3}", values.get("tensorrt", "10.3")
    )
    release = values.get("jetpack", "6.2")
    if board not in BOARDS or unknown or not numbers or release not in RELEASES:
        raise TargetError(
            f"fake:{text} is no stand-in; allowed: {', '.join(BOARDS)}, "
            f"with ,throttle ,no-sudo ,reboot=MODE ,drops=N ,mode=NAME ,jetpack={'|'.join(RELEASES)} ,tensorrt=VERSION "
            ",free-mib=N"
        )
    chosen = BOARDS[board]
    if "jetpack" in values:
        l4t, tensorrt, cuda = RELEASES[release]
        chosen = replace(chosen, release=l4t, tensorrt=tensorrt, cuda=cuda)
        if release in ("5.1", "6.0") and chosen.before_super:
            chosen = replace(chosen, modes=chosen.before_super, mode=chosen.before_super[0])
    return RemoteDevice(
        FakeBoard(f"fake:{text}", chosen, values),
        power_mode=power_mode,
        clocks=clocks,
        python=python or sys.executable,
        note=note,
        simulated=True,
    )


class FakeBoard(Here):
    """A channel to a scripted board. ``root`` holds its files; ``state()`` is what its programs changed."""

    def __init__(self, name: str, board: Board, traits: dict[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fake-board-")
        self.root = Path(self._folder.name)
        self._drops = int(traits.get("drops", "0"))
        self._calls = 0
        _write_board(self.root, board, traits)
        env = {
            **os.environ,
            "PATH": f"{self.root}/bin{os.pathsep}{os.environ.get('PATH', '')}",
            "EDGEPRUNE_ROOT": str(self.root),
            "EDGEPRUNE_LOCK": str(self.root / "lock"),
            "TMPDIR": str(self.root / "tmp"),
        }
        super().__init__(name, env)

    def state(self) -> dict[str, object]:
        """Power mode and clocks as the board's programs left them."""
        return json.loads((self.root / "state.json").read_text())

    def typed(self, command: str) -> str:
        """Nobody can log in there."""
        return f"on {self.name}: {command}"

    def call(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | Iterable[bytes] = b"",
        on_output: Callable[[bytes], object] | None = None,
    ) -> Ended:
        """Run a command; the connection breaks when its turn has come, after the command was started."""
        self._calls += 1
        ended = super().call(argv, stdin=stdin, on_output=on_output)
        if self._drops and self._calls > 2 and self._calls % self._drops == 0:
            raise ConnectionLost(f"{self.name}: the connection was lost: scripted")
        return ended


def _meminfo(free_mib: int) -> str:
    return f"MemTotal: 7800000 kB\nMemAvailable: {free_mib * 1024} kB\nSwapTotal: 3900000 kB\nSwapFree: 3900000 kB\n"


ZRAM = "Filename\tType\tSize\tUsed\tPriority\n/dev/zram0 partition 3900000 0 5\n"  # as JetPack sets it up


def _write_board(root: Path, board: Board, traits: dict[str, str]) -> None:
    """Write the board's files and programs below ``root``."""
    conf = "".join(f"< POWER_MODEL ID={number} NAME={name} >\n" for number, name in enumerate(board.modes))
    tegra = next(name for name in board.compatible if "tegra" in name)
    gpu = f"sys/class/devfreq/{GPU_CLOCKS[tegra]}"
    tensorrt, mode = traits.get("tensorrt", board.tensorrt), traits.get("mode", board.mode)
    texts = {
        "etc/nvpmodel.conf": f"# scripted\n{conf}",
        "etc/nv_tegra_release": board.release + "\n",
        "etc/sudoers.d/edgeprune": sudoers("user").replace(" /var/", f" {root}/var/"),
        "proc/sys/kernel/random/boot_id": "first\n",
        "proc/meminfo": _meminfo(int(traits.get("free-mib", "6000"))),
        "proc/swaps": ZRAM,
        "proc/device-tree/model": board.model + "\0",
        "proc/device-tree/compatible": "\0".join(board.compatible) + "\0",
        "usr/local/cuda/version.json": json.dumps({"cuda": {"name": "CUDA SDK", "version": board.cuda}}),
        f"{gpu}/min_freq": "306000000\n",
        f"{gpu}/max_freq": f"{board.gpu_mhz}000000\n",
        f"{gpu}/cur_freq": "306000000\n",
        "sys/class/hwmon/hwmon3/oc1_event_cnt": "0\n",
        "sys/class/hwmon/hwmon3/oc1_throt_en": "1\n",
        "sys/class/hwmon/hwmon3/oc3_event_cnt": "7\n",
        "sys/class/hwmon/hwmon3/oc3_throt_en": "1\n",
        "sys/class/thermal/cooling_device0/type": "gpu-throttle-alert\n",
        "sys/class/thermal/cooling_device0/cur_state": "0\n",
        "sys/class/thermal/cooling_device1/type": "pwm-fan\n",
        "sys/class/thermal/cooling_device1/cur_state": "2\n",
        CORE: cores_of(mode, board.modes) + "\n",
        "fake.py": files("edgeprune.devices").joinpath("fake_programs.py").read_text(),
        "state.json": json.dumps({"mode": mode, "locked": False, "runs": 0}),
        "board.json": json.dumps(
            {
                "modes": list(board.modes),
                "slowness": board.slowness,
                "gpu_mhz": board.gpu_mhz,
                "gpu_clock": gpu,
                "tensorrt": tensorrt,
                "trtexec_options": sorted(known_options(tuple(int(part) for part in tensorrt.split(".")))),
                "thor": board.model.endswith("Thor Developer Kit"),
                "tegra": tegra,
                "module": board.compatible[0],
                "throttle": "throttle" in traits,
                "sudo": "no-sudo" not in traits,
                "reboot": traits.get("reboot", ""),
                "python": sys.executable,
            }
        ),
    }
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    # JetPack keeps trtexec off the PATH; a program that is looked for by its absolute path is not below ``root``
    places = [*(("bin", name) for name in PROGRAMS), ("usr/src/tensorrt/bin", "trtexec")]
    for folder, name in places:
        script = root / folder / name
        script.parent.mkdir(parents=True, exist_ok=True)
        arguments = shlex.join([sys.executable, "-S", str(root / "fake.py"), name])
        script.write_text(f'#!/bin/sh\nexec {arguments} "$@"\n')
        script.chmod(0o755)
    # the board's own: what is called so on this machine's PATH may be a version manager's script, ten times as slow
    (root / "bin" / "python3").symlink_to(Path(sys.executable).resolve())
    (root / "tmp").mkdir()
