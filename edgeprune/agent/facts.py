"""What a device is: board, releases, power modes, GPUs, programs. What is not there is left empty, never guessed."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from dataclasses import dataclass, field
from typing import Mapping

from edgeprune.agent.cpus import cpu_quota
from edgeprune.agent.host import cpu_identity, load_average
from edgeprune.agent.power import clocks_locked, over_current_events, power_mode, power_modes
from edgeprune.agent.root import may_sudo
from edgeprune.agent.system import allowed_cpus, output_of, system_path, text_of
from edgeprune.agent.trtexec import every_trtexec

JETPACKS = (  # L4T release, JetPack release
    ("39.2.2", "7.2.2"),
    ("39.2.1", "7.2.1"),
    ("39.2", "7.2"),
    ("39.1", "7.2"),  # between the preview and the release of 7.2
    ("39.0", "7.2"),  # the preview
    ("38.4", "7.1"),
    ("38.2", "7.0"),
    ("36.5.2", "6.2.3"),
    ("36.5", "6.2.2"),
    ("36.4.7", "6.2.1"),
    ("36.4.4", "6.2.1"),
    ("36.4.3", "6.2"),
    ("36.4", "6.1"),
    ("36.3", "6.0"),
    ("35.6.0", "5.1.4"),
    ("35.6", "5.1.5"),  # 35.6.1, and what mends it
    ("35.5", "5.1.3"),
    ("35.4", "5.1.2"),
    ("35.3", "5.1.1"),
    ("35.2", "5.1"),
    ("35.1", "5.0.2"),
)
TENSORRT_DISTRIBUTIONS = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-libs")
WSL_DRIVER = "/usr/lib/wsl/lib/libcuda.so.1"
GPU_NODE = re.compile(r"nvidia\d+|nvhost-gpu|nvmap|dxg")  # a card's, Jetsons', and that of WSL
TENSORRT_PACKAGES = ("tensorrt", "libnvinfer11", "libnvinfer10", "libnvinfer8", "libnvinfer-bin")


@dataclass(frozen=True)
class Gpu:
    """A GPU as nvidia-smi lists it.

    Attributes:
        name: ``NVIDIA H100 80GB HBM3``.
        compute_capability: ``9.0``.
        driver: version of NVIDIA's driver.
        memory_mib: its memory; None where nvidia-smi does not tell.
    """

    name: str
    compute_capability: str
    driver: str
    memory_mib: int | None

    def __str__(self) -> str:
        """What tells this GPU and its driver from another, as identities have it."""
        return f"{self.name} {self.compute_capability} {self.driver}"


@dataclass(frozen=True)
class DeviceFacts:
    """What a device is. Strings are empty, and collections too, for what it does not have.

    Attributes:
        machine: architecture, as ``uname -m`` prints it.
        system: ``Linux``.
        kernel: its release.
        python: version of the Python that found this out.
        cpu: model name.
        isa: its vector instruction sets.
        cpus: how many this process may use.
        memory_bytes: of the machine.
        load_average: over 1, 5 and 15 minutes.
        board: model in the device tree.
        compatible: the device tree's names of the board.
        modules: module ids among them (``p3767-0005``).
        l4t: release of NVIDIA's Linux for Tegra.
        jetpack: release of JetPack.
        power_mode: the one that the board is in.
        power_modes: name to number, of all that it has.
        clocks: ``locked`` or ``free``.
        sudo: whether power and clocks may be changed without a password; None where there is nothing to change.
        trtexec: path of TensorRT's program; the first of ``trtexecs``.
        tegrastats: path of NVIDIA's power meter.
        jetson_clocks: path of the program that locks clocks.
        cuda: version of the toolkit.
        tensorrt: version, as its package says.
        gpus: as nvidia-smi lists them; Jetsons before JetPack 7 list none.
        memory_available_bytes: what programs may still take; 0 where the kernel does not tell.
        swap_free_bytes: of swap on a disk; zram is memory, and counted there.
        trtexecs: every trtexec that was found; some are taken only where a profile names them.
        tensorrt_pip: version of the TensorRT that pip installed for the Python that found this out.
        gpu_nodes: files of NVIDIA GPUs in ``/dev``.
        over_current_events: since boot, by kind; those that were counted.
        cpu_quota: processor time that its programs are granted at most, 1 is that of one CPU; None without a quota.
    """

    machine: str
    system: str
    kernel: str
    python: str
    cpu: str
    isa: str
    cpus: int
    memory_bytes: int
    load_average: tuple[float, ...]
    board: str = ""
    compatible: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    l4t: str = ""
    jetpack: str = ""
    power_mode: str = ""
    power_modes: Mapping[str, int] = field(default_factory=dict)
    clocks: str = ""
    sudo: bool | None = None
    trtexec: str = ""
    tegrastats: str = ""
    jetson_clocks: str = ""
    cuda: str = ""
    tensorrt: str = ""
    gpus: tuple[Gpu, ...] = ()
    memory_available_bytes: int = 0
    swap_free_bytes: int = 0
    trtexecs: tuple[str, ...] = ()
    tensorrt_pip: str = ""
    gpu_nodes: tuple[str, ...] = ()
    over_current_events: Mapping[str, int] = field(default_factory=dict)
    cpu_quota: float | None = None

    @property
    def has_gpu(self) -> bool:
        """Whether it shows an NVIDIA GPU. nvidia-smi alone does not tell: an Orin's names none, a Xavier has none, and
        a container may have the GPU without it, and without the release of its Jetson."""
        return bool(self.gpus or self.l4t or self.gpu_nodes)


def device_facts() -> DeviceFacts:
    """Look at this machine; nothing on it is changed."""
    cpu = cpu_identity()
    compatible = text_of(system_path("/proc/device-tree/compatible")).replace("\0", " ")
    l4t = l4t_of(text_of(system_path("/etc/nv_tegra_release")))
    modes = text_of(system_path("/etc/nvpmodel.conf"))
    board = text_of(system_path("/proc/device-tree/model"))
    trtexecs = every_trtexec()
    trtexec = trtexecs[0] if trtexecs else ""
    memory = text_of(system_path("/proc/meminfo"))
    return DeviceFacts(
        machine=cpu["architecture"],
        system=platform.system(),
        kernel=platform.release(),
        python=platform.python_version(),
        cpu=cpu["cpu"],
        isa=cpu["isa"],
        cpus=len(allowed_cpus()),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        load_average=load_average(),
        board=board,
        compatible=tuple(compatible.split()),
        modules=tuple(modules_of(compatible)),
        l4t=l4t,
        jetpack=jetpack_of(l4t),
        power_mode=power_mode(),
        power_modes=power_modes(modes),
        clocks=("locked" if clocks_locked() else "free") if modes else "",
        sudo=may_sudo() if modes else None,
        trtexec=trtexec,
        tegrastats=shutil.which("tegrastats") or "",
        jetson_clocks=shutil.which("jetson_clocks") or "",
        cuda=cuda_version(),
        tensorrt=package_version(TENSORRT_PACKAGES) if board or trtexec else "",
        gpus=tuple(gpus()),
        memory_available_bytes=memory_entry(memory, "MemAvailable"),
        swap_free_bytes=swap_free_bytes(text_of(system_path("/proc/swaps"))),
        trtexecs=trtexecs,
        tensorrt_pip=pip_version(TENSORRT_DISTRIBUTIONS),
        gpu_nodes=gpu_nodes(system_path("/dev")),
        over_current_events={name: count for name, count in over_current_events().items() if count},
        cpu_quota=cpu_quota(),
    )


def memory_entry(meminfo: str, name: str) -> int:
    """Bytes of an entry of /proc/meminfo; 0 without it."""
    match = re.search(rf"^{name}:\s*(\d+) kB", meminfo, re.M)
    return int(match.group(1)) * 1024 if match else 0


def swap_free_bytes(swaps: str) -> int:
    """Free bytes of the swap on disks in /proc/swaps (file, type, KiB, KiB used, priority).

    A Jetson swaps to zram from the start, half of its memory in size: what is put there takes memory.
    """
    rows = [row for row in map(str.split, swaps.splitlines()[1:]) if len(row) > 3 and "/zram" not in row[0]]
    return sum(int(row[2]) - int(row[3]) for row in rows if row[2].isdigit() and row[3].isdigit()) * 1024


def jetpack_of(l4t: str) -> str:
    """``36.4.3`` to ``6.2``; empty for a release that is not in the table."""
    return next((jetpack for release, jetpack in JETPACKS if l4t == release or l4t.startswith(release + ".")), "")


def l4t_of(release: str) -> str:
    """``# R36 (release), REVISION: 4.3, …`` to ``36.4.3``."""
    match = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", release)
    return ".".join(match.groups()) if match else ""


def modules_of(compatible: str) -> list[str]:
    """Module ids in a device tree's ``compatible``; ``nvidia,p3768-0000+p3767-0005-super`` has two."""
    return list(dict.fromkeys(re.findall(r"p\d{4}-\d{4}", compatible)))


def gpus() -> list[Gpu]:
    """NVIDIA GPUs as nvidia-smi lists them; empty where there is none.

    The stub that Orin boards have (``Orin (nvgpu)``, and ``[N/A]`` for the rest) is not believed.
    """
    fields = "name,compute_cap,driver_version,memory.total"
    code, text = output_of(["nvidia-smi", "--query-gpu=" + fields, "--format=csv,noheader,nounits"])
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines()] if code == 0 else []
    return [
        Gpu(row[0], row[1], row[2], int(row[3]) if row[3].isdigit() else None)
        for row in rows
        if len(row) == 4 and re.fullmatch(r"\d+\.\d+", row[1]) and "nvgpu" not in row[0]
    ]


def gpu_nodes(folder: str) -> tuple[str, ...]:
    """Names of the files of NVIDIA GPUs in a folder; a driver without a card leaves others there, and WSL has its own
    for the cards of every maker."""
    try:
        found = [name for name in os.listdir(folder) if GPU_NODE.fullmatch(name)]
    except OSError:
        return ()
    return tuple(sorted(name for name in found if name != "dxg" or os.path.exists(system_path(WSL_DRIVER))))


def package_version(names: tuple[str, ...]) -> str:
    """Version of the first of these Debian packages that is installed."""
    for name in names:
        code, text = output_of(["dpkg-query", "-W", "-f", "${Version}", name])
        match = re.match(r"\d+(?:\.\d+)+", text)
        if code == 0 and match:
            return match.group(0)
    return ""


def pip_version(names: tuple[str, ...]) -> str:
    """Version of the first of these Python packages that is installed."""
    from importlib import metadata  # the agent starts for every verb, and few of them ask

    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""


def cuda_version() -> str:
    """Version of the CUDA toolkit that ``/usr/local/cuda`` is."""
    try:
        return str(json.loads(text_of(system_path("/usr/local/cuda/version.json")))["cuda"]["version"])
    except (ValueError, KeyError, TypeError):
        return ""
