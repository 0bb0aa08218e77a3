"""What a device is like while a job runs: temperatures, power, clocks, and whether it was throttled."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Collection, Mapping, Sequence

from edgeprune.agent.host import temperatures_c
from edgeprune.agent.power import gpu_clock_folder, gpu_clock_mhz, over_current_events, over_current_harmless
from edgeprune.agent.system import output_of, system_path, text_of

WHOLE_BOARD_RAILS = ("VDD_IN", "VIN")  # boards without one have rails that add up
PARTS_OF_AGX_XAVIER = ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V")
NVML_HEAT, NVML_SUPPLY, NVML_EITHER = 0x20 | 0x40, 0x80, 0x8  # thermal by software and hardware, power brake, slowdown
NVML_THROTTLE_REASONS = NVML_HEAT | NVML_SUPPLY | NVML_EITHER
# What tells one cause of throttling from another in words, for edgeprune.samples.telemetry
AT_WORK, ROSE_BY, FELL, NVML = "was at work", "rose by", "the GPU's clock fell", "nvidia-smi reports throttle reasons"
MAX_READINGS = 20_000  # kept one by one, of an hour; of a longer run the worst of the rest is
WATCH_S = 0.2  # between two looks at cooling devices and the GPU's clock, whatever the source does
POLL_S = 1.0  # between two looks at the thermal zones, where no program tells
START_S = 5.0  # for the source's first line; nvidia-smi takes seconds to begin on a machine with several GPUs
NEXT_S = 2.0  # for a line of a run that is shorter than the pause between two: ten times that pause
SILENT_S = 5.0  # between two lines; a source that is late tells in a second or two
IDLE_LOAD = 10  # percent; up to it a GPU waits
IDLE_SHARE = 0.5  # of the highest clock; below it a GPU waits
TEGRASTATS = ("tegrastats", "--interval", "200")
NVIDIA_SMI = (
    "nvidia-smi",
    "--query-gpu=temperature.gpu,power.draw,clocks.sm,clocks_throttle_reasons.active,index",
    "--format=csv,noheader,nounits",
    "-lms",
    "200",
)
NVIDIA_CARDS = ("nvidia-smi", "--query-gpu=index,name,uuid,pci.bus_id", "--format=csv,noheader")
DRIVERS_FIRST = """
import ctypes
cuda, device, bus = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.create_string_buffer(32)
if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0) or cuda.cuDeviceGetPCIBusId(bus, 32, device):
    raise SystemExit(1)
print(bus.value.decode())
"""  # for a process of its own: CUDA stays in one where it was begun, and a fork of that cannot use it


@dataclass(frozen=True)
class Reading:
    """One look at the sensors.

    Attributes:
        temperature_c: by sensor.
        power_mw: by power rail.
        gpu_mhz: the GPU's clock; None where it is not told.
        gpu_clock: who told it; empty for the source of the rest.
        gpu_load: in percent; None where it is not told.
        throttle_reasons: NVML's bits; None where none are told.
    """

    temperature_c: Mapping[str, float] = field(default_factory=dict)
    power_mw: Mapping[str, int] = field(default_factory=dict)
    gpu_mhz: int | None = None
    gpu_load: int | None = None
    throttle_reasons: int | None = None
    gpu_clock: str = ""


def tegrastats_reading(line: str) -> Reading:
    """One line of tegrastats.

    JetPack 6: ``GR3D_FREQ 99%@[612]``, ``VDD_IN 4700mW/4650mW`` (now / mean). JetPack 7 on Thor: ``GR3D_FREQ
    @[314,314,314]`` or nothing, ``VIN 87426mW/43713mW/87426mW`` (now / mean / peak). Xavier's may leave the unit out:
    ``VDD_IN 4067/4067``, ``GPU 0/0 CPU 311/311``. A sensor that is off reads -256; PMIC reads the same at any heat.
    Clocks are told to root alone: anybody else reads ``GR3D_FREQ 99% cpu@…``, and no ``EMC_FREQ``.
    """
    temperatures = re.findall(r"\b([A-Za-z]\w*)@(-?\d+(?:\.\d+)?)C\b", line)
    rails = re.findall(r"\b([A-Z][A-Z0-9_]*) (-?\d+)(?:mW|/-?\d+(?!\S))", line)
    gpu = re.search(r"GR3D_FREQ (?:(\d+)%)?(?:@\[?([\d,]+)\]?)?", line)
    load, told = gpu.groups() if gpu else (None, None)
    clocks = [int(clock) for clock in (told or "").split(",") if clock]
    return Reading(
        {name.lower(): float(value) for name, value in temperatures if float(value) > -100 and name != "PMIC"},
        {name: int(value) for name, value in rails if name != "NC"},
        gpu_mhz=max(clocks) if clocks else None,
        gpu_load=int(load) if load else None,
    )


def nvidia_smi_reading(line: str) -> Reading:
    """One line of nvidia-smi without units: ``temperature.gpu, power.draw, clocks.sm, throttle reasons, index``."""
    cells = [cell.strip() for cell in line.split(",")]
    values = {}
    for name, cell in zip(("gpu", "watt", "mhz"), cells):
        with contextlib.suppress(ValueError):
            values[name] = float(cell)
    reasons = None
    with contextlib.suppress(ValueError, IndexError):
        reasons = int(cells[3], 16)
    return Reading(
        {"gpu": values["gpu"]} if "gpu" in values else {},
        {"VIN": round(values["watt"] * 1000)} if "watt" in values else {},
        gpu_mhz=int(values["mhz"]) if "mhz" in values else None,
        throttle_reasons=reasons,
    )


def card_in(line: str) -> str:
    """Index of the GPU that a line of nvidia-smi is of, as :func:`nvidia_smi_reading` reads it; empty without one."""
    cells = line.split(",")
    return cells[4].strip() if len(cells) > 4 else ""


@dataclass(frozen=True)
class Card:
    """A GPU as nvidia-smi lists it, which counts by the bus.

    Attributes:
        name: ``NVIDIA H100 80GB HBM3``.
        uuid: ``GPU-5f1c2a3b-0001-4c1d-9e2f-0123456789ab``.
        bus: its place on the PCI bus, ``00000000:65:00.0``.
    """

    name: str
    uuid: str
    bus: str


def cards() -> list[Card]:
    """The GPUs of this machine; empty where nvidia-smi lists none."""
    code, text = output_of([*NVIDIA_CARDS])
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines()] if code == 0 else []
    return [Card(*row[1:]) for row in rows if len(row) == 4 and row[0].isdecimal()]


def first_gpu(environment: Mapping[str, str], listed: Sequence[Card]) -> str:
    """UUID of the GPU that programs take, CUDA's first; empty where environment and list alone do not tell.

    CUDA counts the fastest first unless ``CUDA_DEVICE_ORDER`` says otherwise, nvidia-smi by the bus. The beginning of a
    UUID will do for CUDA, and a part of a card (MIG) may be named by its card's.

    Args:
        environment: of the programs.
        listed: the GPUs, as :func:`cards` gives them.
    """
    if len(listed) == 1:
        return listed[0].uuid
    first = environment.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0].strip()
    if named := re.match(r"(?:MIG-)?(GPU-[\w-]+)", first):
        found = [card.uuid for card in listed if card.uuid.lower().startswith(named.group(1).lower())]
        return found[0] if len(found) == 1 else ""
    counted_alike = len({card.name for card in listed}) == 1 or environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    return listed[int(first)].uuid if counted_alike and first.isdecimal() and int(first) < len(listed) else ""


def watched_gpu() -> str:
    """UUID of the GPU that programs of this environment take; empty where nothing tells. NVIDIA's driver is asked where
    the environment does not say it, for that takes a second."""
    listed = cards()
    if (known := first_gpu(os.environ, listed)) or not listed:
        return known
    code, text = output_of([sys.executable, "-c", DRIVERS_FIRST])
    return next((card.uuid for card in listed if code == 0 and _place(card.bus) == _place(text)), "")


def _place(bus: str) -> tuple[int, str]:
    """A place on the PCI bus: nvidia-smi writes its domain with eight digits, the driver with four."""
    domain, _, rest = bus.strip().lower().partition(":")
    with contextlib.suppress(ValueError):
        return int(domain, 16), rest
    return -1, bus


def board_power_mw(rails: Mapping[str, int]) -> int | None:
    """Power of the whole board: its input rail, or the sum of the parts on boards that have none."""
    for name in WHOLE_BOARD_RAILS:
        if name in rails:
            return rails[name]
    parts = [
        value
        for name, value in rails.items()
        if (name.startswith(("VDD_", "VIN_")) and name != "VDDQ_VDD2_1V8AO") or name in PARTS_OF_AGX_XAVIER
    ]
    return sum(parts) if parts else None


def throttling_devices() -> list[tuple[str, str]]:
    """The kernel's cooling devices that slow something down, each with the file of its state; above 0 they are at
    work."""
    folders = sorted(glob.glob(system_path("/sys/class/thermal/cooling_device*")))
    kinds = [(text_of(os.path.join(folder, "type")), os.path.join(folder, "cur_state")) for folder in folders]
    return [(kind, path) for kind, path in kinds if "throttle" in kind]


def worse_of(first: Reading, second: Reading) -> Reading:
    """The worst of two readings: the hotter, the stronger, the slower of those that worked, and all reasons."""
    slower = min(
        (one for one in (first, second) if one.gpu_mhz),
        key=lambda one: (one.gpu_load is not None and one.gpu_load <= IDLE_LOAD, one.gpu_mhz),
        default=first,
    )
    reasons = [one.throttle_reasons for one in (first, second) if one.throttle_reasons is not None]
    return replace(
        slower,
        temperature_c=_highest(first.temperature_c, second.temperature_c),
        power_mw=_highest(first.power_mw, second.power_mw),
        throttle_reasons=reasons[0] | reasons[-1] if reasons else None,
    )


def _highest(first: Mapping[str, float], second: Mapping[str, float]) -> dict:
    return {name: max(values.get(name, float("-inf")) for values in (first, second)) for name in {**first, **second}}


@dataclass
class _Seen:
    """What was read of one run: ``reasons_of`` throttling by GPU where nothing says which of them the run used, whether
    its source was ``heard`` after the start, ``silent_s`` the longest pause of it, ``events`` of over-current."""

    readings: list[Reading]
    lines: list[str]
    throttling: Mapping[str, int]
    reasons_of: Mapping[str, int]
    heard: bool
    silent_s: float
    events: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def common_reasons(self) -> int:
        """All reasons, where every GPU told some: whichever the run used throttled; else 0."""
        reasons = 0
        for told in self.reasons_of.values():
            if not told:
                return 0
            reasons |= told
        return reasons


class Telemetry:
    """Reads the sensors from its making to :meth:`finish`; by tegrastats on a Jetson, nvidia-smi on a desktop, the
    kernel's thermal zones else, and where that program ends. What the kernel tells of throttling is read besides, for
    such a program may die. :meth:`begin` says that the run begins.

    Args:
        uses_gpu: what runs does so; else a card is not asked, for its state says nothing of a CPU's figures.
    """

    def __init__(self, uses_gpu: bool = True) -> None:
        self.readings: list[Reading] = []
        self.powers: list[tuple[float, int]] = []  # time.monotonic() and milliwatts of the whole board
        self.lines: list[str] = []  # of the source, the first and the last
        self.told = False  # the source ever told something
        self.waited = False  # for the source's first line
        self.heard = threading.Event()  # a line of this run, or the source's end
        self.heard_at, self.silent_s = time.monotonic(), 0.0  # the last line, and the longest pause between two
        self.reasons_of: dict[str, int] = {}  # of throttling, by GPU, where nothing says which of them the run uses
        self.lock = threading.Lock()  # of the readings
        self.events_before = over_current_events()
        self.began_at = time.monotonic()
        self.clock_folder = gpu_clock_folder()
        self.cooling = throttling_devices()
        self.throttling: dict[str, int] = {}
        self.process = None
        self.unstarted = ""  # why the source's program did not start
        self.source, self.parse, self.gpu = "sysfs", tegrastats_reading, ""
        if shutil.which("tegrastats"):
            self.source, argv = "tegrastats", TEGRASTATS
        elif uses_gpu and shutil.which("nvidia-smi"):
            self.source, self.parse, self.gpu = "nvidia-smi", nvidia_smi_reading, watched_gpu()
            argv = (*NVIDIA_SMI, "-i", self.gpu) if self.gpu else NVIDIA_SMI
        else:
            argv = ()
        if argv:
            try:
                self.process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError as error:
                self.unstarted = f"{self.source} does not start ({error.strerror or error})"
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._follow, self._watch)]
        for thread in self.threads:
            thread.start()

    def begin(self) -> None:
        """A run begins. The source of the first has :data:`START_S` to tell something, so that a run which ends before
        that program has begun is watched too; it tells what the device was like at the start. What was read between two
        runs is no part of them."""
        if self.waited:
            self._taken()
            return
        self.waited = True
        if self.process is not None:
            self.heard.wait(START_S)
        with self.lock:
            self.heard.clear()
            self.heard_at, self.silent_s = time.monotonic(), 0.0
        self.events_before, self.began_at = over_current_events(), time.monotonic()

    def _follow(self) -> None:
        """Take what the source's program tells."""
        for raw in self.process.stdout if self.process and self.process.stdout else ():
            line = raw.decode(errors="replace").strip()
            if line:
                self._take(line)
        self.heard.set()

    def _take(self, line: str) -> None:
        parsed = self.parse(line)
        reading, told = self._with_clock(parsed), parsed != Reading()  # it may be an error
        with self.lock:
            if self.source == "nvidia-smi" and not self.gpu:
                reading = self._of_some_gpu(card_in(line), parsed)
            power_mw = board_power_mw(reading.power_mw)
            self.told = self.told or told
            self.lines[1:] = [line]
            if told:
                self._keep(reading)
            if power_mw is not None and len(self.powers) < MAX_READINGS:
                self.powers.append((time.monotonic(), power_mw))
            self._note_pause()
            self.heard.set()

    def _of_some_gpu(self, card: str, reading: Reading) -> Reading:
        """What is known of the run by a reading of a GPU that may be another one: that its reasons are told. They are
        kept by GPU; its heat, power and clock are nobody's."""
        if reading.throttle_reasons is None:
            return Reading()
        self.reasons_of[card] = self.reasons_of.get(card, 0) | reading.throttle_reasons
        return Reading(throttle_reasons=0)

    def _note_pause(self) -> None:
        now = time.monotonic()
        self.silent_s, self.heard_at = max(self.silent_s, now - self.heard_at), now

    def _watch(self) -> None:
        """Read what the kernel tells, whatever that program does."""
        polled_at = time.monotonic()
        while not self.stop.wait(WATCH_S):
            self._note_throttling()
            if self.process is not None and self.process.poll() is None:
                continue
            due = time.monotonic() - polled_at >= POLL_S
            if due or self.clock_folder:
                self._look(temperatures=due)
            polled_at = time.monotonic() if due else polled_at

    def _look(self, temperatures: bool = True) -> None:
        reading = self._with_clock(Reading(temperatures_c() if temperatures else {}))
        with self.lock:
            self._keep(reading)

    def _keep(self, reading: Reading) -> None:
        if len(self.readings) < MAX_READINGS:
            self.readings.append(reading)
        else:
            self.readings[-1] = worse_of(self.readings[-1], reading)

    def _with_clock(self, reading: Reading) -> Reading:
        """With the GPU's clock by the kernel, where the source does not tell it: tegrastats tells it to root alone."""
        if reading.gpu_mhz is None and (mhz := gpu_clock_mhz(self.clock_folder)):
            return replace(reading, gpu_mhz=mhz, gpu_clock="devfreq")
        return reading

    def _note_throttling(self) -> None:
        for name, path in self.cooling:
            with contextlib.suppress(ValueError):
                state = int(text_of(path))
                with self.lock:
                    self.throttling[name] = max(self.throttling.get(name, 0), state)

    def _unwatched(self, seen: _Seen) -> tuple[str, bool]:
        """What the source did not tell of a run, for people, empty where it told all; and whether nothing else would
        have shown that the run was slowed down. A card whose nvidia-smi never told anything is as one without: a
        container may have none that works."""
        ended = self.process.poll() if self.process is not None else None
        if self.source == "sysfs":
            return "", False
        watched = bool(self.cooling) or gpu_clock_mhz(self.clock_folder) is not None
        blind = not watched and (self.told or self.source == "tegrastats")
        if self.unstarted or ended is not None:
            return self.unstarted or f"{self.source} ended by itself, with exit code {ended}", blind
        if not seen.heard or seen.silent_s >= SILENT_S:
            words = f"{self.source} told nothing in {max(seen.silent_s, 0.1):.1f} s"
            return words, blind and not seen.heard and (seen.silent_s >= SILENT_S or not self.told)
        if self.source == "nvidia-smi" and all(one.throttle_reasons is None for one in seen.readings):
            return "nvidia-smi tells no reasons for throttling here", False
        throttled = [f"{card} ({reasons:#x})" for card, reasons in sorted(seen.reasons_of.items()) if reasons]
        if throttled and not seen.common_reasons:
            which = (
                f"{NVML} of GPU {', '.join(throttled)}, and which of {len(seen.reasons_of)} the run used is not known"
            )
            return which, False
        return "", False

    def _taken(self) -> _Seen:
        """What was read since the last call."""
        with self.lock:
            self._note_pause()
            reasons_of = {card: reasons & NVML_THROTTLE_REASONS for card, reasons in self.reasons_of.items()}
            heard = self.heard.is_set()
            seen = _Seen(self.readings, self.lines, self.throttling, reasons_of, heard, self.silent_s)
            self.readings, self.powers, self.lines, self.throttling, self.reasons_of = [], [], [], {}, {}
            self.silent_s = 0.0
            self.heard.clear()
        before, self.events_before = self.events_before, over_current_events()
        seen.events = {name: count - before.get(name, 0) for name, count in self.events_before.items()}
        began_at, self.began_at = self.began_at, time.monotonic()
        seen.seconds = self.began_at - began_at
        return seen

    def state(self, locked: bool) -> dict:
        """What was read since the last call, or since :meth:`begin`, as :func:`summary` gives it. ``locked``: the
        clocks were, and should not have moved."""
        runs = self.process is not None and self.process.poll() is None
        if runs and self.told:
            self.heard.wait(NEXT_S)
        self._note_throttling()
        if not self.readings and not runs:
            self._look()  # a run may be shorter than the pause between two looks
        seen = self._taken()
        unwatched, blind = self._unwatched(seen)
        if seen.common_reasons:
            seen.readings.append(Reading(throttle_reasons=seen.common_reasons))
        return summary(
            seen.readings,
            seen.lines,
            self.source,
            seen.events,
            seen.throttling,
            locked,
            seconds=seen.seconds,
            harmless=over_current_harmless() if any(seen.events.values()) else (),
            unwatched=unwatched,
            blind=blind,
        )

    def power_w(self, began_at: float | None, ended_at: float | None) -> list[tuple[float, float]]:
        """Watts of the whole board between two times since the last :meth:`state`, each with its seconds before the
        second; none where one of them is not known."""
        if began_at is None or ended_at is None:
            return []
        return [(round(ended_at - at, 3), mw / 1000) for at, mw in self.powers if began_at <= at <= ended_at]

    def finish(self, locked: bool) -> dict:
        """End reading; gives :meth:`state`."""
        state = self.state(locked)
        self.stop.set()
        if self.process:
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
        for thread in self.threads:
            thread.join(5)
        return state


def _clocks_under_load(readings: Sequence[Reading]) -> list[int]:
    """The GPU's clock while it worked.

    Where no load is told (Thor), or none but an idle one, the far slower readings at both ends are the pauses before
    and after the work: heat takes less away, and not only there.
    """
    told = [(reading.gpu_mhz, reading.gpu_load) for reading in readings if reading.gpu_mhz]
    if any(load is not None and load > IDLE_LOAD for _, load in told):
        return [mhz for mhz, load in told if load is None or load > IDLE_LOAD]
    fastest = max((mhz for mhz, _ in told), default=0)
    busy = [number for number, (mhz, _) in enumerate(told) if mhz >= IDLE_SHARE * fastest]
    return [mhz for mhz, _ in told[busy[0] : busy[-1] + 1]] if busy else []


def summary(
    readings: Sequence[Reading],
    lines: Sequence[str],
    source: str,
    events: Mapping[str, int],
    throttling: Mapping[str, int],
    locked: bool,
    *,
    seconds: float = 0.0,
    harmless: Collection[str] = (),
    unwatched: str = "",
    blind: bool = False,
) -> dict:
    """What a run's readings come to, as a ``DeviceState`` of :mod:`edgeprune.samples.conditions` in JSON.

    ``throttled`` makes the run's gate inconclusive. Over-current events of the third kind are instantaneous spikes,
    at each of which the hardware throttles for a moment (``oc3_throt_en`` reads 1 on boards). Boards in their widest
    mode count some in any run, so that they decide nothing here; with ``seconds`` they are kept as a rate, of which
    :func:`edgeprune.samples.telemetry.doubt_of` speaks.

    Args:
        readings: in order.
        lines: of the source, in order.
        source: ``tegrastats``, ``nvidia-smi`` or ``sysfs``.
        events: over-current events during the run.
        throttling: highest state of each cooling device that slows something down.
        locked: the clocks were locked.
        seconds: how long the run took, with what lies around it.
        harmless: names of events that throttle nothing.
        unwatched: what the source did not tell; empty where it told all.
        blind: and nothing else would have shown a run that was slowed down.
    """
    temperatures: dict[str, float] = {}
    for reading in readings:
        for name, value in reading.temperature_c.items():
            temperatures[name] = max(value, temperatures.get(name, value))
    powers = [power for power in (board_power_mw(reading.power_mw) for reading in readings) if power is not None]
    clocks = _clocks_under_load(readings)
    causes = [f"{name} {AT_WORK}" for name, state in sorted(throttling.items()) if state > 0]
    causes += [
        f"{name} {ROSE_BY} {count}"
        for name, count in sorted(events.items())
        if count > 0 and not name.startswith("oc3") and name not in harmless
    ]
    reasons = 0
    for reading in readings:
        reasons |= reading.throttle_reasons or 0
    if reasons & NVML_THROTTLE_REASONS:
        causes.append(f"{NVML} {reasons:#x}")
    if locked and clocks and min(clocks) < 0.95 * max(clocks):
        causes.append(f"{FELL} from {max(clocks)} to {min(clocks)} MHz although clocks are locked")
    telemetry: dict = {"source": source, "samples": len(readings), "temperature_max_c": temperatures}
    if blind:
        causes.append(f"the board was not watched: {unwatched}")
    telemetry["seconds"] = round(seconds, 3)
    if unwatched:
        telemetry["unwatched"] = unwatched
    if powers:
        telemetry["power_w_mean"], telemetry["power_w_max"] = sum(powers) / len(powers) / 1000, max(powers) / 1000
    if clocks:
        telemetry["gpu_mhz_min"], telemetry["gpu_mhz_max"] = min(clocks), max(clocks)
        telemetry["gpu_clock"] = next(reading.gpu_clock or source for reading in readings if reading.gpu_mhz)
    if any(events.values()):
        telemetry["over_current_events"] = dict(events)
        telemetry["over_current_harmless"] = sorted(set(harmless) & set(events))
    if lines:
        telemetry["first_line"], telemetry["last_line"] = lines[0], lines[-1]
    state: dict = {"telemetry": telemetry}
    if temperatures:
        state["temperature_c"] = max(temperatures.values())
    if causes:
        state["throttled"], state["throttled_why"] = True, "; ".join(causes)
    return state
