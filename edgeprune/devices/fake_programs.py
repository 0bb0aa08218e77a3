"""The programs of a stand-in board: what a Jetson's own would print, from a script. Standard library only.

``python fake.py PROGRAM ARGUMENTS…``, beside ``board.json`` (what it is) and ``state.json`` (what was changed). Formats
as NVIDIA's programs have them: nvpmodel, jetson_clocks, tegrastats (JetPack 6, 7 on Thor, and Xavier's, which leave the
units out; to anybody but root no clocks) and trtexec (8.5, 8.6, 10 and 11).
A second of theirs takes a tenth of one.
"""

import fnmatch
import json
import os
import random
import re
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SPEED = 10
CORE = "sys/devices/system/cpu/cpu5/online"
REPORT_S = 0.2  # between two lines of tegrastats, as the agent asks for
LAYERS = ("/model.0/conv/Conv", "/model.1/conv/Conv", "/model.2/cv1/conv/Conv", "/model.22/Concat")


def read(name):
    with open(os.path.join(HERE, name)) as file:
        return json.load(file)


def write(name, data):
    partial = os.path.join(HERE, name + ".part")
    with open(partial, "w") as file:
        json.dump(data, file)
    os.replace(partial, os.path.join(HERE, name))


def change(**entries):
    write("state.json", dict(read("state.json"), **entries))


def kernel(path, text):
    path = os.path.join(HERE, path)
    with open(path + ".part", "w") as file:
        file.write(text + "\n")
    os.replace(path + ".part", path)  # who reads it meanwhile reads no half of it


def gpu_clock(least_mhz, now_mhz):
    folder = read("board.json")["gpu_clock"]
    kernel(folder + "/min_freq", "%d000000" % least_mhz)
    kernel(folder + "/cur_freq", "%d000000" % now_mhz)


def value_of(path):
    with open(os.path.join(HERE, path)) as file:
        return file.read().strip()


def cores_of(mode, modes):
    """What :data:`CORE` reads in a mode: there are less of them in the one of the fewest watts."""
    watts = [(int(re.findall(r"\d+", name)[0]), name) for name in modes if re.search(r"\d", name)]
    return "0" if mode == min(watts, key=lambda pair: pair[0])[1] else "1"


def nvpmodel(argv):
    modes, state = read("board.json")["modes"], read("state.json")
    if argv[:1] == ["-q"]:
        print("NV Power Mode: %s\n%d" % (state["mode"], modes.index(state["mode"])))
        return 0
    if not os.environ.get("FAKE_ROOT_USER"):
        print("NVPM ERROR: Error opening /var/lib/nvpmodel/status: 13\nNVPM ERROR: failed to set power mode!")
        return 1
    wanted = modes[int(argv[1])]
    if wanted == read("board.json")["reboot"]:
        print("NVPM WARN: Golden image context is already created")
        print("NVPM WARN: Reboot required for changing to this power mode: %s" % argv[1])
        print("NVPM WARN: DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm:")
        sys.stdin.readline()
        print("NVPM ERROR: optMask is 1, no request for power mode")
        return 0
    gpu_clock(306, 306)  # a mode sets the range of every clock anew, and which cores there are
    kernel(CORE, cores_of(wanted, modes))
    change(mode=wanted, locked=False)
    return 0


def jetson_clocks(argv):
    if not os.environ.get("FAKE_ROOT_USER"):
        print("Error: must be run as root")
        return 1
    if argv[:1] == ["--show"]:
        return 0
    gpu = read("board.json")["gpu_clock"]
    if argv[:1] == ["--store"]:
        if os.path.exists(argv[1]):
            print("File %s already exists. Can I overwrite it? Y/N:" % argv[1])
            if sys.stdin.readline().strip() not in ("y", "Y"):
                print("Error: file %s already exists!" % argv[1])
                return 1
            os.unlink(argv[1])
        print("Storing system configuration in %s" % argv[1])
        for name in (CORE, gpu + "/min_freq"):  # a shell script, which goes on where a line of it fails
            try:
                with open(argv[1], "a") as file:
                    file.write("/%s:%s\n" % (name, value_of(name)))
            except OSError as error:
                told = "/usr/bin/jetson_clocks: line 191: %s: %s" % (argv[1], error.strerror)
                print(told, file=sys.stderr)
    elif argv[:1] == ["--restore"]:
        if not os.path.exists(argv[1]):
            print("Error: %s file not found !" % argv[1])
            return 1
        print("Restoring system configuration from %s" % argv[1])
        with open(argv[1]) as file:
            for name, _, value in (line.strip().partition(":") for line in file):
                kernel(name.lstrip("/"), value)
        change(locked=value_of(gpu + "/min_freq") == value_of(gpu + "/max_freq"))
    else:
        gpu_clock(read("board.json")["gpu_mhz"], read("board.json")["gpu_mhz"])
        change(locked=True)
    return 0


def sudo(argv):
    if not read("board.json")["sudo"]:
        print("sudo: a password is required", file=sys.stderr)
        return 1
    with open(os.path.join(HERE, "etc/sudoers.d/edgeprune")) as file:
        rules = [line.split("NOPASSWD: ")[1].split() for line in file]
    program, *arguments = argv[1:]
    if not any(
        os.path.basename(rule[0]) == program
        and ((rule[1:] == ['""'] and not arguments) or fnmatch.fnmatchcase(" ".join(arguments), " ".join(rule[1:])))
        for rule in rules
    ):
        print("sudo: a password is required", file=sys.stderr)
        return 1
    return subprocess.call(argv[1:], env=dict(os.environ, FAKE_ROOT_USER="1"))


def dpkg_query(argv):
    if argv[-1] != "tensorrt":
        return 1
    print(read("board.json")["tensorrt"] + ".30-1+cuda", end="")
    return 0


def nvidia_smi(argv):
    if not read("board.json")["thor"]:  # the stub of an Orin
        print("Orin (nvgpu), [N/A], 540.4.0, [N/A]")
        return 0
    return 9  # nothing to say to these questions


def tegrastats(argv):
    board = read("board.json")
    pause = float(argv[argv.index("--interval") + 1]) / 1000 if "--interval" in argv else 1.0
    number = 0
    while True:
        number += 1
        hot = 45.0 + min(number, 40) * (1.2 if board["throttle"] else 0.1)
        mhz = board["gpu_mhz"]
        if board["throttle"] and number > 1:
            kernel("sys/class/thermal/cooling_device0/cur_state", "1")
            mhz = mhz * 6 // 10
        kernel(board["gpu_clock"] + "/cur_freq", "%d000000" % mhz)
        stamp = time.strftime("%m-%d-%Y %H:%M:%S")
        if board["thor"]:
            line = (
                "%s RAM 17842/125772MB (lfb 79x4MB) CPU [0%%@972,1%%@972] EMC_FREQ 0%%@2750 GR3D_FREQ @[%d,%d,%d] "
                "cpu@%.3fC tj@%.3fC gpu@%.3fC VDD_GPU 21000mW/20000mW/22000mW VDD_CPU_SOC_MSS 9000mW/9000mW/9000mW "
                "VIN_SYS_5V0 6000mW/6000mW/6000mW VIN 52000mW/50000mW/54000mW"
            ) % (stamp, mhz, mhz, mhz, hot, hot + 1, hot)
        elif board["tegra"].endswith("194"):
            line = (
                "%s RAM 4412/7772MB (lfb 237x4MB) SWAP 139/3886MB (cached 2MB) CPU [9%%@1190,6%%@1190,off,off] "
                "EMC_FREQ 10%%@1600 GR3D_FREQ 98%%@%d APE 150 MTS fg 0%% bg 0%% AO@41.5C GPU@%.1fC PMIC@100C AUX@41.5C "
                "CPU@%.1fC thermal@%.2fC "
            ) % (stamp, mhz, hot, hot, hot)
            whole = "VDD_IN 9067/8067 VDD_CPU_GPU_CV 4738/4738 VDD_SOC 1353/1353"
            parts = "GPU 4000/3900 CPU 1311/1311 SOC 932/932 CV 0/0 VDDRQ 621/621 SYS5V 1482/1482"
            line += whole if "p3668" in board["module"] else parts
        else:
            line = (
                "%s RAM 2538/7620MB (lfb 5x4MB) SWAP 0/3810MB (cached 0MB) CPU [12%%@1510,3%%@1510,off,off] "
                "EMC_FREQ 12%%@2133 GR3D_FREQ 98%%@[%d] NVDEC off NVJPG off VIC off OFA off APE 200 cpu@%.3fC "
                "soc2@44.5C gpu@%.3fC tj@%.3fC cv0@-256C VDD_IN 9000mW/8700mW VDD_CPU_GPU_CV 4100mW/4000mW "
                "VDD_SOC 1700mW/1700mW"
            ) % (stamp, mhz, hot, hot, hot + 1)
        if not os.environ.get("FAKE_ROOT_USER"):  # clocks of GPU and memory are told to root alone
            line = re.sub(r" EMC_FREQ \S+| GR3D_FREQ (?=@)\S+", "", line)
            line = re.sub(r"(?<=GR3D_FREQ )(\d+%)@\S+", r"\1", line)
        print(line, flush=True)
        write("reports.json", reports() + 1)
        time.sleep(pause / SPEED)


def reports():
    """How often tegrastats has told by now."""
    try:
        return read("reports.json")
    except OSError:
        return 0


def pass_time(seconds):
    """Let so much of the board's time pass, by tegrastats, which runs beside every measured program: so a busy machine
    tells as often of a measurement as a quiet one."""
    last, ends = reports() + seconds / REPORT_S, time.time() + 60
    while reports() < last and time.time() < ends:
        time.sleep(0.005)


def trtexec(argv):
    options = dict(part.lstrip("-").partition("=")[::2] for part in argv)
    board = read("board.json")
    major, minor, patch = (int(part) for part in (board["tensorrt"] + ".0.0").split(".")[:3])
    number = major * (10000 if major >= 10 else 1000) + minor * 100 + patch
    print("&&&& RUNNING TensorRT.trtexec [TensorRT v%d] # trtexec %s" % (number, " ".join(argv)))
    if "help" in options:
        return 0
    for name, _, value in (part.partition("=") for part in argv):
        if name not in board["trtexec_options"]:
            print("[E] Unknown option: %s %s" % (name, value))
            return 1
    if "useDLACore" in options and "stronglyTyped" in options:
        print("[E] Error[9]: [standardEngineBuilder.cpp] Error Code 9: !config.getFlag(BuilderFlag::kFP16)")
        return 1
    if "useDLACore" in options and (major, minor) >= (10, 8) and (major, minor, patch) < (11, 4, 1):
        print("[E] Cannot create DLA engine, 0 not available")
        return 1
    plan = options.get("saveEngine") or options.get("loadEngine", "")
    if "onnx" in options:
        with open(options["onnx"], "rb") as file:
            content = file.read()
        with open(plan, "wb") as file:
            held, takes = facts_of(options["onnx"], options.get("shapes", ""))
            if major < 11 and "stronglyTyped" not in options:  # it chooses among what it may use, and takes the lowest
                held = "fp16" if held == "fp32" and "fp16" in options else held if held in options else "fp32"
            kind = "dla-engine" if "useDLACore" in options else "engine"
            file.write(("scripted %s %s %s\n" % (kind, takes, held)).encode() + content)
        if options.get("timingCacheFile"):
            with open(options["timingCacheFile"], "ab") as file:
                file.write(b"scripted")
    with open(plan, "rb") as file:
        head, _, content = file.read().partition(b"\n")
    if options.get("exportLayerInfo"):
        write_json(options["exportLayerInfo"], layer_info(major, *head.decode().split()[-3::2]))
    runs = not {"skipInference", "buildOnly"} & set(options)
    if runs and not infer(options, board, head.decode().split()[-2], content, major):
        print("&&&& FAILED TensorRT.trtexec [TensorRT v%d] # trtexec %s" % (number, " ".join(argv)))
        return 1
    print("&&&& PASSED TensorRT.trtexec [TensorRT v%d] # trtexec %s" % (number, " ".join(argv)))
    return 0


def infer(options, board, takes, content, major):
    """Whether it ran: a file of an input that has not the engine's number of bytes is refused, as by the real one."""
    tensors = [one.rsplit(":", 2) for one in takes.split(",")]
    expected = {name: size for name, size, _ in tensors if size}
    for given in filter(None, options.get("loadInputs", "").split(",")):
        name, _, path = given.partition(":")
        with open(path, "rb") as file:
            size = len(file.read())
        if size != int(expected[name]):
            note = "Note: Expected: %s bytes but only read: %d bytes"
            print(("[E] Unexpected file size for input file: %s. " + note) % (path, expected[name], size))
            return False
    state = read("state.json")
    change(runs=state["runs"] + 1)
    new = major >= 11
    on = {
        "ExposeDMA": "exposeDMA" in options,
        "Data transfers": "includeDataTransfers" in options if new else "noDataTransfers" not in options,
        "Spin-wait": "noSpinWait" not in options if new else "useSpinWait" in options,
        "CUDA Graph": "noCudaGraph" not in options if new else "useCudaGraph" in options,
    }
    for name, enabled in on.items():
        print("[I] %s: %s" % (name, "Enabled" if enabled else "Disabled"))
    if on["CUDA Graph"] and major >= 10:
        print("[I] Successfully captured CUDA graph for the current execution context")
    slow = board["slowness"] * (1.0 if state["locked"] else 1.3)
    level = slow * (0.4 + len(content) * 2.5e-7)
    noise = random.Random(state["runs"])
    runs = int(options.get("iterations", "10"))
    samples = [level * (1 + abs(noise.gauss(0, 0.004))) for _ in range(runs)]
    copy = 0.02 * slow if on["Data transfers"] else 0.0
    duration_s = float(options.get("duration", "0"))
    for name, size, sides in tensors:  # as sampleInference.cpp of each version says it; an output has no bytes here
        way = "input" if size else "output"
        if major < 10:
            print("[I] Created %s binding for %s with dimensions %s" % (way, name, sides))
        else:
            kind = " and type k" + kind_of(size, sides) if new else ""
            print("[I] %s binding for %s with dimensions %s%s is created." % (way.capitalize(), name, sides, kind))
    print("[I] Starting inference", flush=True)
    if duration_s:
        pass_time(float(options["warmUp"]) / 1000 + duration_s)
    count = int(max(runs, duration_s * 1000 / level))
    print("[I] Timing trace has %d queries over %g s" % (count, count * level / 1000), flush=True)
    if options.get("exportTimes"):
        rows, clock = [], 0.0
        for ms in samples:
            rows.append(
                {
                    "startEnqMs": clock,
                    "endEnqMs": clock + 0.1,
                    "startH2dMs": clock,
                    "endH2dMs": clock + copy,
                    "startComputeMs": clock + copy,
                    "endComputeMs": clock + copy + ms,
                    "startD2hMs": clock + copy + ms,
                    "endD2hMs": clock + 2 * copy + ms,
                    "h2dMs": copy,
                    "computeMs": ms,
                    "d2hMs": copy,
                    "latencyMs": ms + 2 * copy,
                }
            )
            clock += ms + 2 * copy
        write_json(options["exportTimes"], rows)
    if options.get("exportProfile"):
        shares = [level * part for part in (0.4, 0.3, 0.2, 0.1)]
        rows = []
        for name, ms in zip(LAYERS, shares):
            rows.append(
                {"name": name, "timeMs": ms * runs, "averageMs": ms, "medianMs": ms, "percentage": 100 * ms / level}
            )
        write_json(options["exportProfile"], [{"count": runs}] + rows)
    if options.get("exportOutput"):
        outputs(options)
    return True


def kind_of(size, sides):
    """TensorRT's word for the type of a tensor of so many bytes; an output, of which none are known, is float."""
    count = 1
    for side in sides.split("x"):
        count *= int(side)
    return {2: "HALF", 1: "INT8"}.get(int(size) // count, "FLOAT") if size else "FLOAT"


def outputs(options):
    """By ONNX Runtime of the workstation: a script cannot know what the model finds."""
    code = (
        "import sys, json, numpy as np, onnxruntime as ort\n"
        "s = ort.InferenceSession(open(sys.argv[1], 'rb').read().partition(b'\\n')[2])\n"
        "v = s.get_inputs()[0]\n"
        "kind = np.float16 if 'float16' in v.type else np.float32\n"
        "free = dict(one.rpartition(':')[::2] for one in sys.argv[4].split(',') if one)\n"
        "shape = [int(side) for side in free[v.name].split('x')] if v.name in free else v.shape\n"
        "x = np.fromfile(sys.argv[2], kind).reshape(shape)\n"
        "names = [o.name for o in s.get_outputs()]\n"
        "rows = [{'name': n, 'dimensions': 'x'.join(map(str, a.shape)), 'values': a.astype(float).ravel().tolist()}"
        " for n, a in zip(names, s.run(names, {v.name: x}))]\n"
        "json.dump(rows, open(sys.argv[3], 'w'))\n"
    )
    source = options["loadInputs"].split(",")[0].partition(":")[2]
    python = read("board.json")["python"]
    shapes = options.get("shapes", "")
    subprocess.check_call([python, "-c", code, options["loadEngine"], source, options["exportOutput"], shapes])


def facts_of(onnx, shapes):
    """The number format of a graph's weights, and ``input:bytes:1x3x64x64,...,output::1x84x2100`` at these shapes, by
    the workstation's own reader."""
    code = (
        "import sys, onnx\n"
        "g = onnx.load(sys.argv[1]).graph\n"
        "q = any(n.op_type == 'DequantizeLinear' for n in g.node)\n"
        "h = any(w.data_type == onnx.TensorProto.FLOAT16 for w in g.initializer)\n"
        "free = dict(one.rpartition(':')[::2] for one in sys.argv[2].split(',') if one)\n"
        "own = {w.name for w in g.initializer}\n"
        "takes = []\n"
        "for v in (v for v in g.input if v.name not in own):\n"
        "    kind = v.type.tensor_type\n"
        "    sides = free[v.name].split('x') if v.name in free else [d.dim_value for d in kind.shape.dim]\n"
        "    count = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize\n"
        "    for side in sides: count *= int(side)\n"
        "    takes.append('%s:%d:%s' % (v.name, count, 'x'.join(map(str, sides))))\n"
        "for v in g.output:\n"
        "    sides = [str(d.dim_value) for d in v.type.tensor_type.shape.dim]\n"
        "    takes.append('%s::%s' % (v.name, 'x'.join(sides)))\n"
        "print('int8' if q else 'fp16' if h else 'fp32', ','.join(takes))\n"
    )
    told = subprocess.check_output([read("board.json")["python"], "-c", code, onnx, shapes]).decode()
    return told.split()


def layer_info(major, kind, precision):
    texts = {
        "fp32": ("Row major linear FP32", "Float"),
        "fp16": ("Channel major FP16 format where channel % 8 == 0", "Half"),
        "int8": ("Thirty-two wide channel vectorized row major Int8 format", "Int8"),
    }
    layers = []
    for number, name in enumerate(LAYERS):
        tensor = {"Name": "of " + name, "Location": "Device", "Dimensions": [1, 16, 32, 32]}
        if major < 11:
            tensor["Format/Datatype"] = texts[precision][0]
        else:
            tensor.update({"Format": "Row major linear", "Datatype": texts[precision][1]})
        layers.append(
            {
                "Name": name,
                "LayerType": "DLA" if kind == "dla-engine" and not number else "CaskConvolution",
                "Inputs": [tensor],
                "Outputs": [tensor],
                "TacticName": "scripted",
                "StreamId": 0,
                "Metadata": "",
            }
        )
    return {"Layers": layers, ("Bindings" if major < 11 else "I/O Tensors"): []}


def write_json(path, data):
    with open(path, "w") as file:
        json.dump(data, file)


if __name__ == "__main__":
    programs = {
        "nvpmodel": nvpmodel,
        "jetson_clocks": jetson_clocks,
        "sudo": sudo,
        "dpkg-query": dpkg_query,
        "nvidia-smi": nvidia_smi,
        "tegrastats": tegrastats,
        "trtexec": trtexec,
    }
    sys.exit(programs[sys.argv[1]](sys.argv[2:]))
