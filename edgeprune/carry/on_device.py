"""Runs on the board, beside what it measures: builds both engines, times them in turns, keeps everything that was seen.

Started by ``run-on-device.sh``; needs Python 3.8 and TensorRT's trtexec. Queues behind other builds, sets power mode
and clocks as the request asks where this user may, and puts them back on every way out. Leaves ``results.tar``.
"""

import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import zlib

import agent  # pyright: ignore[reportMissingImports]  it lies beside this file on the board

HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAMS = ("/usr/src/tensorrt/bin/trtexec", "trtexec", "/opt/tensorrt/bin/trtexec")
BANNER = r"TensorRT\.trtexec \[TensorRT v(\d+)\]"
MODELS = ("baseline", "model")


class Failed(Exception):
    """Something that a person has to change; the message says what to type."""


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def load(path):
    with open(path) as file:
        return json.load(file)


def save(path, data):
    with open(path, "w") as file:
        json.dump(data, file, indent=1)


def tell(text):
    print(text, flush=True)


def checked_request():
    """The request, after every file that it names was compared with its digest."""
    request = load(os.path.join(HERE, "request.json"))
    for name, wanted in request["files"].items():
        path = os.path.join(HERE, name)
        if not os.path.isfile(path) or digest(path) != wanted:
            raise Failed("%s is missing or not what was packed; copy the folder again" % name)
    return request


def checked_board(request, facts):
    wanted, here = request["modules"], facts.get("modules", [])
    if wanted and not set(wanted) & set(here):
        seen = facts.get("board", facts.get("cpu", "an unknown machine"))
        raise Failed(
            "this is %s (%s), the request is for %s (%s); carry the folder there, or build for this board's profile"
            % (seen, ", ".join(here) or "no module id", request["board"], ", ".join(wanted))
        )


def found_trtexec():
    """Program and version, (major, minor, patch)."""
    import re

    for name in PROGRAMS:
        path = shutil.which(agent.at(name) if name.startswith("/") else name)
        if not path:
            continue
        found = re.search(BANNER, agent.output_of([path, "--help"], timeout=60)[1])
        if found:
            number = int(found.group(1))
            thousand = 10000 if number >= 10000 else 1000
            return path, (number // thousand, number % thousand // 100, number % 100)
    raise Failed("there is no trtexec here; next: sudo apt install nvidia-jetpack")


class Board:
    """trtexec as this board has it, with the request's command lines."""

    def __init__(self, request, out):
        self.program, self.version = found_trtexec()
        self.request, self.out = request, out
        lines = request["commands"].get(str(self.version[0]))
        if lines is None or self.version < tuple(request["oldest"]):
            shown = ".".join(str(part) for part in self.version)
            raise Failed("TensorRT %s is not among those that this request knows: %s" % (shown, request["known"]))
        self.lines = lines

    def run(self, kind, log, **places):
        argv = [self.program if part == "{trtexec}" else part.format(**places) for part in self.lines[kind]]
        path = os.path.join(self.out, log)
        with open(path, "wb") as file:
            try:
                code = subprocess.call(
                    argv, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, cwd=self.out
                )
            except OSError as error:
                raise Failed("%s does not start: %s" % (argv[0], error.strerror)) from error
        if code != 0:
            with open(path, errors="replace") as file:
                lines = [line.strip() for line in file if line.strip()]
            errors = [line for line in lines if "[E]" in line] or lines[-1:] or ["it printed nothing"]
            raise Failed("trtexec failed with %d: %s (all of it: %s)" % (code, errors[0], path))

    def build(self):
        for name in MODELS:
            tell("building %s: minutes" % name)
            places = {"onnx": os.path.join(HERE, name + ".onnx"), "engine": name + ".engine", "cache": "timing.cache"}
            self.run("build", name + ".build.log", layers=name + ".layers.json", **places)

    def time(self):
        count, samples = self.request["processes"], self.request["samples"]
        for number in range(count):
            tell("timing %d of %d" % (number + 1, count))
            for place in range(2):
                name = MODELS[(place + number) % 2]
                times = "times/%s-%03d" % (name, number)
                self.run(
                    "time",
                    times + ".log",
                    engine=name + ".engine",
                    times=times + ".json",
                    iterations=samples + self.request["spare"],
                    warmup=self.request["warmup_ms"],
                )

    def profile(self):
        for name in MODELS:
            tell("timing the layers of %s" % name)
            self.run("profile", name + ".profile.log", engine=name + ".engine", profile=name + ".profile.json")

    def outputs(self):
        """What the candidate's engine finds on the images that came along."""
        shape, batch = self.request["shape"], self.request["shape"][0]
        size = shape[1] * shape[2] * shape[3]
        half = self.request["dtype"] == "float16"
        table = [struct.pack("<e" if half else "<f", value / 255.0) for value in range(256)]
        names = self.request["images"]
        for start in range(0, len(names), batch):
            tell("running image %d of %d" % (start + 1, len(names)))
            content = b""
            for name in names[start : start + batch]:
                with open(os.path.join(HERE, name), "rb") as file:
                    content += zlib.decompress(file.read())
            content += b"\0" * (batch * size - len(content))
            with open(os.path.join(self.out, "input.bin"), "wb") as file:
                file.write(b"".join(table[value] for value in content))
            target = "outputs/%03d.json" % start
            self.run("outputs", "outputs/%03d.log" % start, engine="model.engine", input="input.bin", outputs=target)
        os.unlink(os.path.join(self.out, "input.bin"))


def measured(request, out):
    """Everything between taking the board's lock and putting power and clocks back; gives what was seen."""
    conditions = {}

    def waiting(holder):
        if "waited" not in conditions:
            conditions["waited"] = True
            tell("the board is busy with another build (%s); waiting" % holder)

    with agent.turn(waiting) as waited:
        conditions = {"waited_s": round(waited, 2)} if waited > 0.05 else {}
        asked = {"power_mode": request["power_mode"], "clocks": request["clocks"]}
        try:
            conditions.update(agent.prepared(asked, out))
            board = Board(request, out)
            board.build()
            watch = agent.Telemetry()
            try:
                board.time()
            finally:
                conditions.update(watch.finish(conditions.get("clocks") == "locked"))
            board.profile()
            board.outputs()
        finally:
            agent.put_back(out)
    return board.version, conditions


def main():
    request = checked_request()
    facts = agent.facts()
    checked_board(request, facts)
    out = os.path.join(HERE, "results")
    shutil.rmtree(out, ignore_errors=True)
    for folder in ("times", "outputs"):
        os.makedirs(os.path.join(out, folder))

    def stop(*_):
        raise agent.Stopped

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, stop)
    version, conditions = measured(request, out)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    with_facts = dict(facts, power_mode=conditions.get("power_mode", facts.get("power_mode", "")))
    files = {}
    for folder, _, names in os.walk(out):
        for name in names:
            path = os.path.join(folder, name)
            files[os.path.relpath(path, out)] = digest(path)
    save(
        os.path.join(out, "results.json"),
        {
            "schema_version": 1,
            "request_sha256": digest(os.path.join(HERE, "request.json")),
            "facts": with_facts,
            "tensorrt": list(version),
            "conditions": conditions,
            "simulated": bool(agent.ROOT),
            "files": files,
        },
    )
    partial = os.path.join(HERE, "results.tar.part")
    with tarfile.open(partial, "w") as packed:
        packed.add(out, arcname="results")
    os.replace(partial, os.path.join(HERE, "results.tar"))
    tell("done: bring results.tar back, then: edgeprune import-results results.tar")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failed, agent.Refused) as error:
        print("run-on-device: %s" % error, file=sys.stderr)
        sys.exit(4)
    except agent.Stopped:
        print("run-on-device: stopped; power and clocks are as they were", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        full = agent.full(error)
        print("run-on-device: %s" % (full["message"] if full else error), file=sys.stderr)
        sys.exit(4)
