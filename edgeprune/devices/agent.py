"""The program that edgeprune sends to a device: facts, files, jobs, power and telemetry. Standard library, Python 3.8.

It stands alone: nothing is installed on the device. ``python3 agent.py VERB …`` prints JSON lines; whatever goes wrong
on purpose is ``{"error": {"kind", "message"}}`` and exit code 0, so that any other exit code is a crash or a lost
connection.

    facts                     what the device is
    hello WORK OWNER          work directories that other builds left here, free space
    offer DEST SHA SIZE       whether a file with this content is here already, or how much of it
    put DEST SHA SIZE OFFSET  the rest of it, from stdin
    stat PATH, get PATH OFFSET
    job FOLDER OFFSET         start the job on stdin unless it runs, follow its output from OFFSET, give its result
    run FOLDER                the job itself; detached, so that it outlives the connection
    keep WORK POWER CLOCKS    hold the board for the measured jobs of a build; detached, ends when they pause
    remove PATH               a folder inside the work directory
    clean WORK                stop what runs, put power and clocks back, remove the work directory

Every absolute path of the system is read below ``EDGEPRUNE_ROOT``, which only a stand-in board sets.
"""

import base64
import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

ROOT = os.environ.get("EDGEPRUNE_ROOT", "")
PREFIX = "edgeprune-"
STALE_S = 7 * 86400
IDLE_S = float(
    os.environ.get("EDGEPRUNE_IDLE_S", "10")
)  # a pause after which the board is another's; shorter ones lie between processes that are compared
BEAT_S = 5.0
RESERVE = 1 << 16  # room for the result when a job has filled the disk
FULL_BELOW = 1 << 20
JETPACKS = (  # L4T release, JetPack release
    ("39.2.2", "7.2.2"),
    ("39.2", "7.2"),
    ("38.4", "7.1"),
    ("38.2", "7.0"),
    ("36.5", "6.2.2"),
    ("36.4.7", "6.2.1"),
    ("36.4.4", "6.2.1"),
    ("36.4.3", "6.2"),
    ("36.4", "6.1"),
    ("36.3", "6.0"),
    ("35", "5.1"),
)
VECTOR_FLAGS = (
    "sse4_2 avx avx2 fma f16c avx512f avx512bw avx512vl avx512_vnni avx_vnni avx512_bf16 avx512_fp16 amx_tile amx_int8 "
    "amx_bf16 asimd asimdhp asimddp i8mm bf16 sve sve2 sme"
).split()
TOTAL_RAILS = ("VDD_IN", "VIN")  # a rail that is the whole board; boards without one have parts that add up
THROTTLES = 0x8 | 0x20 | 0x40 | 0x80  # NVML's reasons: hardware slowdown, software thermal, hardware thermal, brake


class Refused(Exception):
    """Something that a person has to change; ``kind`` is for the program on the other side."""

    def __init__(self, kind, message):
        Exception.__init__(self, message)
        self.kind = kind


class Stopped(Exception):
    """A signal asked this process to end."""


def say(**line):
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def at(path):
    return ROOT + path


def text_of(path):
    try:
        with open(path, errors="replace") as file:
            return file.read().strip("\0\n ")
    except OSError:
        return ""


def output_of(argv, stdin="", timeout=20):
    """Exit code and both streams of a program; 127 when there is none."""
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            errors="replace",
            timeout=timeout,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, str(error)
    return done.returncode, done.stdout


# ---------------------------------------------------------------- facts


def jetpack_of(l4t):
    """``36.4.3`` to ``6.2``; empty for a release that is not in the table."""
    for release, jetpack in JETPACKS:
        if l4t == release or l4t.startswith(release + "."):
            return jetpack
    return ""


def l4t_of(release):
    """``# R36 (release), REVISION: 4.3, …`` to ``36.4.3``."""
    found = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", release)
    return "%s.%s" % found.groups() if found else ""


def modules_of(compatible):
    """Module ids in a device tree's ``compatible``; ``nvidia,p3768-0000+p3767-0005-super`` has two."""
    return list(dict.fromkeys(re.findall(r"p\d{4}-\d{4}", compatible)))


def power_modes(conf):
    """Names to ids out of /etc/nvpmodel.conf."""
    return {
        name: int(number) for number, name in re.findall(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", conf, re.M)
    }


def plain(mode):
    """A power mode's name without what differs between boards: ``MODE_15W`` and ``15w`` are ``15W``."""
    return re.sub(r"^MODE_", "", mode.strip().upper().replace(" ", "_"))


def power_mode():
    """Name of the current power mode, or an empty string where there are none."""
    if not shutil.which("nvpmodel"):
        return ""
    found = re.search(r"NV Power Mode:\s*(\S+)", output_of(["nvpmodel", "-q"])[1])
    if found:
        return found.group(1)
    status = re.search(r"pmode:0*(\d+)", text_of(at("/var/lib/nvpmodel/status")))
    names = {number: name for name, number in power_modes(text_of(at("/etc/nvpmodel.conf"))).items()}
    return names.get(int(status.group(1)), "") if status else ""


def gpu_clock():
    """Folder of the GPU's clock in sysfs, or an empty string."""
    found = [
        path for path in sorted(glob.glob(at("/sys/class/devfreq/*"))) if re.search(r"gpu|ga10b|gv11b|gb10b", path)
    ]
    return found[0] if found else ""


def clocks_locked():
    folder = gpu_clock()
    low, high = (text_of(os.path.join(folder, name)) for name in ("min_freq", "max_freq"))
    return bool(folder) and low == high != ""


def may_sudo():
    """Whether power and clocks may be changed without a password: any command, or just that one."""
    if os.geteuid() == 0 and not ROOT:
        return True
    tried = (["sudo", "-n", "true"], ["sudo", "-n", "jetson_clocks", "--show"])
    return bool(shutil.which("sudo")) and any(output_of(argv)[0] == 0 for argv in tried)


def as_root(argv):
    return list(argv) if os.geteuid() == 0 and not ROOT else ["sudo", "-n"] + list(argv)


def package_version(names):
    for name in names:
        code, out = output_of(["dpkg-query", "-W", "-f", "${Version}", name])
        found = re.match(r"\d+(?:\.\d+)+", out)
        if code == 0 and found:
            return found.group(0)
    return ""


def cuda_version():
    try:
        return str(json.loads(text_of(at("/usr/local/cuda/version.json")))["cuda"]["version"])
    except (ValueError, KeyError, TypeError):
        return ""


def gpus():
    """NVIDIA GPUs as nvidia-smi lists them; Jetsons before JetPack 7 have none of it."""
    fields = ["name", "compute_cap", "driver_version", "memory.total"]
    code, out = output_of(["nvidia-smi", "--query-gpu=" + ",".join(fields), "--format=csv,noheader"])
    rows = [[cell.strip() for cell in line.split(",")] for line in out.splitlines()] if code == 0 else []
    return [dict(zip(fields, row)) for row in rows if len(row) == len(fields)]


def cpu():
    fields = {}
    for line in text_of("/proc/cpuinfo").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip().lower(), value.strip())
    flags = fields.get("flags", fields.get("features", "")).split()
    part = "implementer %s part %s" % (fields.get("cpu implementer", "?"), fields.get("cpu part", "?"))
    return {
        "cpu": fields.get("model name") or (part if "cpu implementer" in fields else "unknown"),
        "isa": " ".join(flag for flag in VECTOR_FLAGS if flag in flags) or "none known",
    }


def facts():
    """What the device is; what is not there is left out."""
    found = {
        "machine": platform.machine(),
        "system": platform.system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }
    found.update(cpu())
    compatible = text_of(at("/proc/device-tree/compatible")).replace("\0", " ")
    l4t = l4t_of(text_of(at("/etc/nv_tegra_release")))
    conf = text_of(at("/etc/nvpmodel.conf"))
    trtexec = shutil.which("trtexec") or at("/usr/src/tensorrt/bin/trtexec")
    optional = {
        "board": text_of(at("/proc/device-tree/model")),
        "compatible": compatible.split(),
        "modules": modules_of(compatible),
        "l4t": l4t,
        "jetpack": jetpack_of(l4t),
        "power_mode": power_mode(),
        "power_modes": power_modes(conf),
        "trtexec": trtexec if os.path.isfile(trtexec) else "",
        "tegrastats": shutil.which("tegrastats") or "",
        "jetson_clocks": shutil.which("jetson_clocks") or "",
        "cuda": cuda_version(),
        "gpus": gpus(),
    }
    if optional["board"] or optional["trtexec"]:
        optional["tensorrt"] = package_version(["tensorrt", "libnvinfer10", "libnvinfer8", "libnvinfer-bin"])
    if conf:
        optional["clocks"] = "locked" if clocks_locked() else "free"
        found["sudo"] = may_sudo()
    found.update({name: value for name, value in optional.items() if value})
    return found


# ---------------------------------------------------------------- files


def digest_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def store():
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "store")
    os.makedirs(folder, exist_ok=True)
    return folder


def placed(stored, target):
    partial = target + ".part"
    shutil.copyfile(stored, partial)
    os.replace(partial, target)


def offer(target, sha, size):
    """Content that is here already is not sent again; what a lost connection left is gone on with."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    stored = os.path.join(store(), sha)
    if os.path.isfile(stored):
        placed(stored, target)
        return {"have": True}
    partial = stored + ".part"
    here = os.path.getsize(partial) if os.path.isfile(partial) else 0
    if here > size:
        os.unlink(partial)
        here = 0
    free = shutil.disk_usage(store()).free
    if 2 * size - here > free:  # the store's copy and the one in place
        raise OSError(errno.ENOSPC, "No space left on device")
    return {"have": False, "offset": here}


def put(target, sha, size, offset):
    stored = os.path.join(store(), sha)
    partial = stored + ".part"
    with open(partial, "r+b" if offset else "wb") as file:
        file.seek(offset)
        file.truncate()
        for piece in iter(lambda: sys.stdin.buffer.read(1 << 16), b""):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    if os.path.getsize(partial) < size:
        return {"short": os.path.getsize(partial)}
    if digest_of(partial) != sha:
        os.unlink(partial)
        return {"short": 0}
    os.replace(partial, stored)
    placed(stored, target)
    return {"have": True}


def get(path, offset):
    with open(path, "rb") as file:
        file.seek(offset)
        shutil.copyfileobj(file, sys.stdout.buffer)
    sys.stdout.buffer.flush()


# ---------------------------------------------------------------- work directories


def alive(pid):
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True


def hello(work, owner):
    """Name the owner of this work directory, and say whose others lie beside it."""
    written(os.path.join(work, "owner.json"), {"owner": owner})
    others = []
    for folder in glob.glob(os.path.join(os.path.dirname(work), PREFIX + "*")):
        try:
            mine = os.stat(folder).st_uid == os.geteuid() and os.path.abspath(folder) != os.path.abspath(work)
            with open(os.path.join(folder, "owner.json")) as file:
                named = json.load(file)["owner"]
            age = time.time() - os.stat(os.path.join(folder, "owner.json")).st_mtime
        except (OSError, ValueError, KeyError):
            continue
        if mine and age > STALE_S:
            clean(folder)
        elif mine:
            others.append({"folder": folder, "owner": named})
    return {"python": platform.python_version(), "free_bytes": shutil.disk_usage(work).free, "others": others}


def clean(work):
    """End the jobs of a work directory, let them put power and clocks back, and remove it."""
    if not os.path.basename(os.path.abspath(work)).startswith(PREFIX):
        raise Refused("device", "%s is not a work directory of edgeprune" % work)
    for folder in glob.glob(os.path.join(work, "jobs", "*")):
        pid = int(text_of(os.path.join(folder, "pid")) or 0)
        ended(pid, lambda folder=folder: os.path.exists(os.path.join(folder, "result.json")))
    keeper = state_of(os.path.join(work, "keeper.json"))
    if keeper:
        ended(keeper["pid"], lambda: False)
    left = put_back(work) or text_of(os.path.join(work, "not_put_back"))  # it does something only for a killed keeper
    shutil.rmtree(work, ignore_errors=True)
    return {"removed": not os.path.exists(work), "not_put_back": left}


def ended(pid, over):
    """Ask a process to end, and wait until it has tidied up."""
    if not pid or over() or not alive(pid):
        return
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGTERM)
    ends = time.time() + 20
    while alive(pid) and not over() and time.time() < ends:
        time.sleep(0.05)


def written(path, data):
    partial = path + ".part"
    with open(partial, "w") as file:
        json.dump(data, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


# ---------------------------------------------------------------- power and clocks


def set_power_mode(wanted):
    """Switch to a mode by its name, and see that it took; gives the name of the mode before, or None if it was this."""
    modes, before = power_modes(text_of(at("/etc/nvpmodel.conf"))), power_mode()
    found = [name for name in modes if plain(name) == plain(wanted)]
    if not found:
        raise Refused(
            "device",
            "this board has no power mode %s; it has: %s; name one in the profile (device.power_mode)"
            % (wanted, ", ".join(modes) or "none (/etc/nvpmodel.conf is missing)"),
        )
    name = found[0]
    if plain(before) == plain(name):
        return None
    _, out = output_of(as_root(["nvpmodel", "-m", str(modes[name])]), stdin="no\n", timeout=60)
    typed = "sudo nvpmodel -m %d" % modes[name]
    if re.search(r"reboot\s+required", out, re.I):
        raise Refused(
            "device", "power mode %s needs a reboot of the board (it is in %s); type there: %s" % (name, before, typed)
        )
    if re.search(r"password is required|not allowed|not in the sudoers|a terminal is required", out):
        raise Refused(
            "device",
            "the board is in power mode %s, the target asks for %s, and this user may not change it; type there: %s"
            % (before, name, typed),
        )
    now = power_mode()
    if plain(now) != plain(name):
        last = (out.strip().splitlines() or ["no output"])[-1]
        raise Refused(
            "device",
            "power mode %s was set but the board is in %s (nvpmodel: %s); type there: %s" % (name, now, last, typed),
        )
    return before


def prepared(job, folder):
    """Power mode and clocks as the job asks; what has to be put back is on disk before it is changed."""
    back = {}

    def change(**entry):
        back.update(entry)
        written(os.path.join(folder, "restore.json"), back)

    if job.get("power_mode"):
        change(power_mode=power_mode())
        if set_power_mode(job["power_mode"]) is None:
            back.pop("power_mode")
    if job.get("clocks") and shutil.which("jetson_clocks") and not clocks_locked() and may_sudo():
        kept = os.path.join(folder, "clocks.conf")
        if output_of(as_root(["jetson_clocks", "--store", kept]), timeout=60)[0] == 0:
            change(clocks=kept)
            output_of(as_root(["jetson_clocks"]), timeout=60)
    return (
        {"power_mode": power_mode(), "clocks": "locked" if clocks_locked() else "free"}
        if shutil.which("nvpmodel")
        else {}
    )


def put_back(folder):
    """Undo what ``prepared`` changed; does nothing the second time. Gives what could not be undone, for people."""
    path = os.path.join(folder, "restore.json")
    try:
        with open(path) as file:
            back = json.load(file)
    except (OSError, ValueError):
        return ""
    left = ""
    if back.get("clocks"):
        code, out = output_of(as_root(["jetson_clocks", "--restore", back["clocks"]]), timeout=60)
        if code != 0:
            left = "clocks are still locked (%s); type there: sudo jetson_clocks --restore" % out.strip()[-80:]
    if back.get("power_mode"):
        try:
            set_power_mode(back["power_mode"])
        except Refused as error:
            left = str(error)
    with contextlib.suppress(OSError):
        os.unlink(path)
    return left


# ---------------------------------------------------------------- telemetry


def tegrastats_of(line):
    """One line of tegrastats: temperatures in degrees Celsius, power in mW, the GPU's load in % and clocks in MHz.

    JetPack 6: ``GR3D_FREQ 99%@[612]``, ``VDD_IN 4700mW/4650mW`` (now / mean). JetPack 7 on Thor: ``GR3D_FREQ
    @[314,314,314]`` or nothing, ``VIN 87426mW/43713mW/87426mW`` (now / mean / peak). A sensor that is off reads -256.
    """
    temperatures = re.findall(r"\b([A-Za-z]\w*)@(-?\d+(?:\.\d+)?)C\b", line)
    rails = re.findall(r"\b([A-Z][A-Z0-9_]*) (-?\d+)mW", line)
    found = {}
    gpu = re.search(r"GR3D_FREQ (?:(\d+)%)?(?:@\[?([\d,]+)\]?)?", line)
    if gpu and gpu.group(1):
        found["gpu_load"] = int(gpu.group(1))
    if gpu and gpu.group(2):
        found["gpu_mhz"] = max(int(part) for part in gpu.group(2).split(","))
    ram = re.search(r"\bRAM (\d+)/(\d+)MB", line)
    if ram:
        found["ram_mb"] = int(ram.group(1))
    return dict(
        found,
        temperature_c={name.lower(): float(value) for name, value in temperatures if float(value) > -100},
        power_mw={name: int(value) for name, value in rails if name != "NC"},
    )


def board_power(rails):
    """Power of the whole board in mW: its input rail, or the sum of the parts on boards that have none."""
    for name in TOTAL_RAILS:
        if name in rails:
            return rails[name]
    parts = [value for name, value in rails.items() if name.startswith(("VDD_", "VIN_")) and name != "VDDQ_VDD2_1V8AO"]
    return sum(parts) if parts else None


def nvidia_smi_of(line):
    """One line of nvidia-smi without units: ``temperature.gpu, power.draw, clocks.sm, throttle reasons``."""
    cells = [cell.strip() for cell in line.split(",")]
    temperature, power = {}, {}
    found = {}
    with contextlib.suppress(ValueError, IndexError):
        temperature["gpu"] = float(cells[0])
    with contextlib.suppress(ValueError, IndexError):
        power["VIN"] = round(float(cells[1]) * 1000)
    with contextlib.suppress(ValueError, IndexError):
        found["gpu_mhz"] = int(cells[2])
    with contextlib.suppress(ValueError, IndexError):
        found["throttle_reasons"] = int(cells[3], 16)
    return dict(found, temperature_c=temperature, power_mw=power)


def throttle_state():
    """Counters and states of the kernel that tell of throttling: over-current events, cooling devices at work."""
    state = {}
    for path in glob.glob(at("/sys/class/hwmon/hwmon*/oc*_event_cnt")):
        with contextlib.suppress(ValueError):
            state[os.path.basename(path)] = int(text_of(path))
    for path in glob.glob(at("/sys/class/thermal/cooling_device*")):
        kind = text_of(os.path.join(path, "type"))
        if "throttle" in kind:
            with contextlib.suppress(ValueError):
                state[kind] = int(text_of(os.path.join(path, "cur_state")))
    return state


def zones():
    found = {}
    for path in glob.glob(at("/sys/class/thermal/thermal_zone*")):
        with contextlib.suppress(ValueError):
            value = int(text_of(os.path.join(path, "temp"))) / 1000
            if -40 < value < 200:
                found[text_of(os.path.join(path, "type")) or os.path.basename(path)] = value
    return found


class Telemetry:
    """Samples while a job runs; tegrastats on a Jetson, nvidia-smi on a desktop, the kernel's thermal zones else."""

    def __init__(self):
        self.samples, self.lines = [], []
        self.before = throttle_state()
        self.cooling = {}
        self.process, self.parse, self.source = None, tegrastats_of, "sysfs"
        if shutil.which("tegrastats"):
            argv, self.parse, self.source = ["tegrastats", "--interval", "200"], tegrastats_of, "tegrastats"
        elif shutil.which("nvidia-smi"):
            fields = "temperature.gpu,power.draw,clocks.sm,clocks_throttle_reasons.active"
            argv = ["nvidia-smi", "--query-gpu=" + fields, "--format=csv,noheader,nounits", "-lms", "200"]
            self.parse, self.source = nvidia_smi_of, "nvidia-smi"
        else:
            argv = None
        if argv:
            with contextlib.suppress(OSError):
                self.process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._read if self.process else self._watch, daemon=True)
        self.thread.start()

    def _read(self):
        for raw in self.process.stdout if self.process and self.process.stdout else ():
            line = raw.decode(errors="replace").strip()
            if line and len(self.lines) < 20000:
                self.lines.append(line)
                self.samples.append(self.parse(line))
            self._cooling()

    def _watch(self):
        while not self.stop.wait(1.0):
            self.samples.append({"temperature_c": zones(), "power_mw": {}})
            self._cooling()

    def _cooling(self):
        for name, value in throttle_state().items():
            if "throttle" in name:
                self.cooling[name] = max(self.cooling.get(name, 0), value)

    def finish(self, locked):
        """End sampling; a summary, with why the run counts as throttled, if it does."""
        self.stop.set()
        self._cooling()
        if self.process:
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.thread.join(5)
        return summary(self.samples, self.lines, self.source, self.before, throttle_state(), self.cooling, locked)


def summary(samples, lines, source, before, after, cooling, locked):
    """What a run's samples come to. ``throttled`` makes its gate inconclusive.

    Over-current events of the third kind are instantaneous spikes that boards in their widest mode count all the time;
    they are kept, but do not count as throttling by themselves.
    """
    temperatures, power = {}, []
    for sample in samples:
        for name, value in sample["temperature_c"].items():
            temperatures[name] = max(value, temperatures.get(name, value))
        total = board_power(sample["power_mw"])
        if total is not None:
            power.append(total)
    clocks = [sample["gpu_mhz"] for sample in samples if sample.get("gpu_mhz") and sample.get("gpu_load", 100) > 10]
    events = {name: after[name] - before.get(name, 0) for name in after if name.startswith("oc")}
    why = ["%s was at work" % name for name, value in sorted(cooling.items()) if value > 0]
    why += ["%s rose by %d" % (name, events[name]) for name in sorted(events) if events[name] > 0 and name[:3] != "oc3"]
    reasons = 0
    for sample in samples:
        reasons |= sample.get("throttle_reasons", 0)
    if reasons & THROTTLES:
        why.append("nvidia-smi reports throttle reasons 0x%x" % reasons)
    if locked and clocks and min(clocks) < 0.95 * max(clocks):
        why.append("the GPU's clock fell from %d to %d MHz although clocks are locked" % (max(clocks), min(clocks)))
    told = {"source": source, "samples": len(samples), "temperature_max_c": temperatures}
    found = {}
    if power:
        told["power_w_mean"], told["power_w_max"] = sum(power) / len(power) / 1000, max(power) / 1000
    if clocks:
        told["gpu_mhz_min"], told["gpu_mhz_max"] = min(clocks), max(clocks)
    if any(events.values()):
        told["over_current_events"] = events
    if lines:
        told["first_line"], told["last_line"] = lines[0], lines[-1]
    if temperatures:
        found["temperature_c"] = max(temperatures.values())
    if why:
        found["throttled"] = True
        found["throttled_why"] = "; ".join(why)
    return dict(found, telemetry=told)


# ---------------------------------------------------------------- jobs


def lock_path():
    asked = os.environ.get("EDGEPRUNE_LOCK")
    if asked:
        return asked
    return os.path.join("/run/lock" if os.path.isdir("/run/lock") else "/tmp", "edgeprune.lock")


@contextlib.contextmanager
def turn(waiting):
    """The device-wide lock: one build or timing at a time, whoever started it. Gives the seconds that it waited."""
    path, flags = lock_path(), os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
    mask = os.umask(0)
    try:
        try:
            handle = os.open(path, flags | os.O_CREAT, 0o666)
        except PermissionError:  # another user's file in a sticky folder may be locked, but not written
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    finally:
        os.umask(mask)
    began = time.time()
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                waiting(text_of(path) or "another user")
                time.sleep(0.1)
        with contextlib.suppress(OSError):
            os.ftruncate(handle, 0)
            os.pwrite(handle, ("process %d of %s" % (os.getpid(), user())).encode(), 0)
        yield time.time() - began
    finally:
        os.close(handle)


def user():
    return os.environ.get("USER") or os.environ.get("LOGNAME") or str(os.getuid())


def run(folder):
    """Do the job in ``folder``: in turn, in its power mode, watched; the result is there in every case."""
    with open(os.path.join(folder, "job.json")) as file:
        job = json.load(file)

    def stop(*_):
        raise Stopped

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, stop)
    result = {"returncode": None, "conditions": {}}
    try:
        with open(os.path.join(folder, "reserve"), "wb") as file:
            file.write(b"\0" * RESERVE)
        if job.get("measured"):
            measured(job, folder, result)
        else:
            child(job, folder, result)
    except Refused as error:
        result["error"] = {"kind": error.kind, "message": str(error)}
    except Stopped:
        result["error"] = {"kind": "stopped", "message": "the job was stopped"}
    except OSError as error:
        result["error"] = full(error) or {"kind": "tool", "message": str(error)}
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(folder, "reserve"))
    if result["returncode"] and shutil.disk_usage(folder).free < FULL_BELOW:
        result["error"] = full(OSError(errno.ENOSPC, ""))
    written(os.path.join(folder, "result.json"), result)


def measured(job, folder, result):
    """The job on a board that is held for this build, in its power mode, watched."""
    work = os.path.dirname(os.path.abspath(__file__))
    busy = os.path.join(work, "busy-%d" % os.getpid())
    began = time.time()
    try:
        conditions = held(work, busy, job, folder)
        if time.time() - began > 1.0 and os.path.exists(os.path.join(folder, "waiting")):
            result["conditions"]["waited_s"] = round(time.time() - began, 2)
        result["conditions"].update(conditions)
        watch = Telemetry()
        try:
            child(job, folder, result)
        finally:
            result["conditions"].update(watch.finish(conditions.get("clocks") == "locked"))
    finally:
        with contextlib.suppress(OSError):
            os.utime(os.path.join(work, "keeper.json"))
            os.unlink(busy)


@contextlib.contextmanager
def guarded(work):
    """What decides between a job that wants the board held and a keeper that wants to let go."""
    with open(os.path.join(work, "keeper.lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def held(work, busy, job, folder):
    """Wait until the board is held for this build; gives its power mode and clocks."""
    path, asked = os.path.join(work, "keeper.json"), [job.get("power_mode") or "", "1" if job.get("clocks") else ""]
    while True:
        with guarded(work):
            keeper = state_of(path)
            if not keeper or not alive(keeper["pid"]):
                process = subprocess.Popen(
                    [sys.executable, os.path.abspath(__file__), "keep", work] + asked,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
                keeper = {"pid": process.pid, "state": "starting"}
                written(path, keeper)
            if keeper["state"] == "ready":
                with open(busy, "w"):
                    pass
                return keeper["conditions"]
            if keeper["state"] == "refused":
                os.unlink(path)
                raise Refused(keeper["kind"], keeper["message"])
        if keeper["state"] == "waiting" and not os.path.exists(os.path.join(folder, "waiting")):
            with open(os.path.join(folder, "waiting"), "w") as file:
                file.write(keeper["holder"])
        time.sleep(0.05)


def state_of(path):
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def keep(work, power, clocks):
    """Hold the board's lock, power mode and clocks while measured jobs of this build follow one another.

    Ends, and puts back what it changed, on a signal, when the work directory is gone, or IDLE_S after the last job.
    """
    path = os.path.join(work, "keeper.json")

    def stop(*_):
        raise Stopped

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, stop)

    def tell(**state):
        with guarded(work):
            written(path, dict(state, pid=os.getpid()))

    told = []

    def waiting(holder):
        if not told:
            told.append(holder)
            tell(state="waiting", holder=holder)
        if not os.path.isdir(work):
            raise Stopped

    try:
        with turn(waiting):
            try:
                conditions = prepared({"power_mode": power, "clocks": clocks}, work)
                tell(state="ready", conditions=conditions)
                while wanted(work, path):
                    time.sleep(0.1)
            finally:
                for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                    signal.signal(number, signal.SIG_IGN)
                left = put_back(work)
                if left:
                    with contextlib.suppress(OSError), open(os.path.join(work, "not_put_back"), "w") as file:
                        file.write(left)
    except Refused as error:
        tell(state="refused", kind=error.kind, message=str(error))
    except Stopped:
        pass
    except OSError as error:
        reason = full(error) or {"kind": "device", "message": "%s: %s" % (error.filename, error.strerror)}
        with contextlib.suppress(OSError):
            tell(state="refused", **reason)


def wanted(work, path):
    """Whether a measured job runs or ran a moment ago; once not, nobody can join any more."""
    with guarded(work):
        for busy in glob.glob(os.path.join(work, "busy-*")):
            if alive(int(busy.rsplit("-", 1)[1])):
                return True
        if time.time() - os.stat(path).st_mtime < IDLE_S:
            return True
        os.unlink(path)
        return False


def child(job, folder, result):
    """The program itself, in a process group that ends with it."""
    environment = dict(os.environ)
    environment.update(job.get("env") or {})
    with open(os.path.join(folder, "stdout"), "wb") as out, open(os.path.join(folder, "stderr"), "wb") as err:
        source = os.path.join(folder, "stdin")
        with open(source, "wb") as file:
            file.write(base64.b64decode(job.get("stdin") or ""))
        with open(source, "rb") as inp:
            try:
                process = subprocess.Popen(
                    job["argv"],
                    stdin=inp,
                    stdout=out,
                    stderr=err,
                    cwd=os.path.expanduser(job.get("cwd") or "~"),
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise Refused("start", "does not start: %s" % (error.strerror or error)) from error
        try:
            result["returncode"] = process.wait(job["timeout_s"])
        except subprocess.TimeoutExpired:
            raise Refused("timeout", "ran longer than %g s and was stopped" % job["timeout_s"]) from None
        finally:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def job(folder, offset):
    """Start the job unless it was started before a connection was lost; then follow it."""
    asked = sys.stdin.buffer.read()
    with contextlib.suppress(OSError):
        os.utime(os.path.join(os.path.dirname(os.path.abspath(__file__)), "owner.json"))  # in use: not stale
    if not os.path.exists(os.path.join(folder, "pid")):
        os.makedirs(folder, exist_ok=True)
        written(os.path.join(folder, "job.json"), json.loads(asked.decode()))
        runner = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), "run", folder],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        written(os.path.join(folder, "pid"), runner.pid)
    pid = int(text_of(os.path.join(folder, "pid")))
    path, result = os.path.join(folder, "stdout"), os.path.join(folder, "result.json")
    told, pause, waits = time.time(), 0.02, False
    while True:
        over = os.path.exists(result) or not running(pid)
        offset, spoke = told_from(path, offset, over)
        if not waits and os.path.exists(os.path.join(folder, "waiting")):
            waits = spoke = True
            say(waiting=text_of(os.path.join(folder, "waiting")))
        if over:
            break
        if spoke or time.time() - told > BEAT_S:
            told, pause = time.time(), 0.02
            if not spoke:
                say(beat=1)
        time.sleep(pause)
        pause = min(pause * 1.5, 0.25)
    if not os.path.exists(result):
        raise Refused("tool", "the job's process died without a result (killed, or the device is out of memory)")
    with open(result) as file:
        answer = json.load(file)
    with contextlib.suppress(OSError), open(os.path.join(folder, "stderr"), "rb") as file:
        file.seek(max(0, os.path.getsize(file.name) - (1 << 18)))
        answer["stderr"] = file.read().decode(errors="replace")
    return {"done": answer}


def running(pid):
    """Whether the process lives; one that waits to be collected by its parent does not."""
    with contextlib.suppress(ChildProcessError):
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return False
    return alive(pid)


def told_from(path, offset, over):
    """Say what the output has from ``offset``: whole lines, and the rest when the job is over."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            new = file.read(1 << 20)
    except OSError:
        return offset, False
    end = len(new) if over or len(new) == 1 << 20 else new.rfind(b"\n") + 1
    while end:
        say(out=new[:end].decode(errors="replace"), at=offset + end)
        offset += end
        if not over:
            return offset, True
        with open(path, "rb") as file:
            file.seek(offset)
            new = file.read(1 << 20)
        end = len(new)
    return offset, False


def full(error):
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    folder = os.path.dirname(os.path.abspath(__file__))
    free = shutil.disk_usage(folder).free / 2**20
    return {
        "kind": "full",
        "message": "the disk of %s is full (%.1f MiB free); free some space there, or set TMPDIR to another disk"
        % (os.path.dirname(folder), free),
    }


def remove(path):
    work = os.path.dirname(os.path.abspath(__file__))
    if os.path.abspath(path).startswith(work + os.sep):
        shutil.rmtree(path, ignore_errors=True)
    return {}


def main(argv):
    verb, rest = argv[1], argv[2:]
    verbs = {
        "facts": facts,
        "hello": hello,
        "offer": lambda target, sha, size: offer(target, sha, int(size)),
        "put": lambda target, sha, size, offset: put(target, sha, int(size), int(offset)),
        "stat": lambda path: {"size": os.path.getsize(path), "sha256": digest_of(path)},
        "job": lambda folder, offset: job(folder, int(offset)),
        "remove": remove,
        "clean": clean,
    }
    try:
        if verb == "get":
            get(rest[0], int(rest[1]))
        elif verb == "run":
            run(rest[0])
        elif verb == "keep":
            keep(*rest)
        elif verb == "mkdir":
            os.makedirs(rest[0], mode=0o700, exist_ok=True)  # asked again after a lost connection
            say()
        else:
            say(**verbs[verb](*rest))
    except Refused as error:
        say(error={"kind": error.kind, "message": str(error)})
    except OSError as error:
        say(
            error=full(error)
            or {"kind": "device", "message": "%s: %s" % (error.filename or verb, error.strerror or error)}
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
