"""Hostile surroundings: terminals, places that cannot be written, hosts, and arguments that no person would type."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.hostile.registry import LONG_NAME, Prepare, Try, in_turns, refused
from tests.situations.commands import COMMANDS, Inputs, arguments
from tests.situations.driver import Outcome

QUICK = tuple(name for name, command in COMMANDS.items() if not command.long)
PRINTING: dict[str, tuple[object, ...]] = {
    "--help": ("--help",),
    "targets": ("targets",),
    "targets schema": ("targets", "schema"),
    "doctor": ("doctor",),
    "device probe": ("device", "probe"),
    "data digits": ("data", "digits", "--out", "OUT/digits", "--train", 2, "--val", 2, "--test", 1, "--imgsz", 64),
    "show": ("show", "RUN"),
    "history": ("history", "RUN"),
    "build again": ("build", "--target", "PROFILE", "--weights", "WEIGHTS", "--data", "DATA", "--out", "RUN"),
}
STREAMS: dict[str, dict[str, Any]] = {
    "ASCII": {"encoding": "ascii"},
    "Latin-1": {"encoding": "latin-1"},
    "a full disk behind stdout": {"stdout": "/dev/full"},
    "no stdout": {"stdout": "closed"},
}
ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "a working directory that cannot be written": {"cwd": Path("/proc/self/fdinfo")},
    "a narrow terminal": {"env": {"COLUMNS": "1", "LINES": "1", "TERM": "dumb"}},
    "a terminal of words": {"env": {"COLUMNS": "wide", "TERM": "\x1b"}},
    "no HOME": {"env": {"HOME": "/proc/nowhere", "XDG_CACHE_HOME": "/proc/nowhere"}},
    "no temporary folder": {"env": {"TMPDIR": "/proc/nowhere"}},
    "files of at most 64 kB": {"file_bytes": 65536},
    "another locale": {"env": {"LC_ALL": "xx_YY", "LANG": "xx_YY"}},
    "no PATH": {"env": {"PATH": "/nowhere"}},
}
HOSTS = {
    "an option of ssh": "-oProxyCommand=touch CANARY",
    "an option in the user": "-oProxyCommand=touch CANARY@host",
    "a shell": "user@host.invalid;touch CANARY",
    "a command": "user@$(touch CANARY)",
    "backticks": "user@`touch CANARY`",
    "a line": "user@host.invalid\ntouch CANARY",
    "NUL": "a\x01b",
    "spaces": "user @ host",
    "nothing before": "@host.invalid",
    "nothing behind": "user@",
    "a port of words": "user@host.invalid:ssh",
    "a huge port": "user@host.invalid:99999999999",
    "a negative port": "user@host.invalid:-1",
    "long": f"user@{LONG_NAME}",
    "an address of IPv6": "user@[::1",
    "other letters": "user@höst.invalid",
    "a stand-in that is none": "fake:toaster",
    "a trait that is none": "fake:orin-nano,magic",
    "a trait of words": "fake:orin-nano,drops=often",
    "a version of words": "fake:orin-nano,tensorrt=newest",
    "nothing": "fake:",
}
NUMBERS = ("-1", "0", "nan", "inf", "1e400", "99999999999999999999", "", "abc", "0x10", "١")
OPTIONS: dict[str, tuple[str, ...]] = {
    "prune --dry-run": ("--ratio", "--macs-speed-up", "--align", "--min-width", "--images", "--seed", "--imgsz"),
    "export": ("--imgsz", "--batch", "--opset", "--head", "--output-name"),
    "val onnx": ("--imgsz", "--batch", "--split", "--runtime", "--head"),
    "parity onnx": ("--count", "--limit", "--split"),
    "quantize int8 cpu": ("--count", "--method", "--recipe", "--seed", "--keep-float"),
    "bench onnx": ("--threads", "--cpus", "--rounds", "--per-round", "--seconds", "--max-ms", "--statistic", "--imgsz"),
    "build": ("--latency-ms", "--speed-up", "--macs-speed-up", "--max-map-drop", "--imgsz", "--epochs", "--until"),
    "finetune": ("--epochs", "--batch", "--lr0", "--time", "--device", "--train", "--until", "--seed"),
    "lint": ("--tensorrt", "--precision"),
    "compare onnx": ("--images", "--imgsz", "--statistic", "--rounds"),
    "search": ("--speed-up", "--latency-ms", "--imgsz"),
    "sweep": ("--speed-up", "--latency-ms", "--epochs"),
    "frontier": ("--speed-up", "--latency-ms", "--epochs"),
    "sensitivity": ("--ratios", "--images", "--batch", "--align"),
}
OUTPUTS = {
    "a device": "/dev/full",
    "a folder of the system": "/proc/self/out",
    "below a file": "FILE/out",
    "NUL": "a\x01b/out",
    "long": f"OUT/{LONG_NAME}",
    "nowhere": "OUT/a/b/c/d",
    "a folder": "FOLDER",
}


def _plain(words: tuple[object, ...]) -> Prepare:
    def prepare(folder: Path, inputs: Inputs, out: Path) -> list[object]:
        from tests.hostile.records import FINISHED

        places = {"PROFILE": inputs.profile, "WEIGHTS": inputs.weights, "DATA": inputs.data, "RUN": FINISHED[0].run}
        return [places.get(str(word), str(word).replace("OUT", str(out))) for word in words]

    return prepare


def _command(name: str, change: Callable[[list[object]], list[object]] = lambda argv: argv) -> Prepare:
    return lambda folder, inputs, out: change(arguments(name, inputs, out))


def ended(outcome: Outcome) -> str | None:
    """A command whose words cannot be printed still ends by its own code, or by one line."""
    return None if outcome.code in (0, 1, 2, 3, 4, 5) else f"exit code {outcome.code}"


def _streams() -> Iterator[Try]:
    for stream, options in STREAMS.items():
        for name, words in PRINTING.items():
            if not (name == "build again" and stream in ("Latin-1", "no stdout")):
                yield Try("environment", stream, name, _plain(words), {**options, "timeout_s": 120}, ended)
        for name in QUICK:
            if stream != "Latin-1" or not COMMANDS[name].slow:
                yield Try("environment", stream, name, _command(name), {**options, "timeout_s": 120}, ended)
    for (place, options), name in in_turns(ENVIRONMENTS.items(), QUICK, 9):
        yield Try("environment", place, name, _command(name), {**options, "timeout_s": 120}, ended)


def _hosts() -> Iterator[Try]:
    def told(host: str, folder: Path) -> str:
        return host.replace("CANARY", str(folder.parent / "canary"))

    for name, host in HOSTS.items():
        reader = "code" if "CANARY" in host else "device"
        yield Try(
            reader, f"host, {name}", "device probe", lambda f, i, o, h=host: ["device", "probe", "--", told(h, f)],
            {"timeout_s": 40}, refused,
        )  # fmt: skip
        for command in ("bench onnx", "build"):
            prepare: Prepare = lambda f, i, o, h=host, c=command: [*arguments(c, i, o), f"--device={told(h, f)}"]  # noqa: E731
            yield Try(reader, f"host, {name}", command, prepare, {"timeout_s": 60}, refused)


def _arguments() -> Iterator[Try]:
    for (command, option), number in in_turns(
        [(command, option) for command, options in OPTIONS.items() for option in options], NUMBERS, 2
    ):
        prepare = _command(command, lambda argv, o=option, n=number: [*argv, f"{o}={n}"])
        yield Try("arguments", f"{option}={number}", command, prepare, {"timeout_s": 90})


def _outputs() -> Iterator[Try]:
    commands = [name for name in QUICK if any("-o" in str(word) for word in arguments(name, _NONE, Path("x")))]
    for (name, place), command in in_turns(OUTPUTS.items(), commands, 4):

        def prepare(folder: Path, inputs: Inputs, out: Path, p: str = place, c: str = command) -> list[object]:
            (folder / "file").write_text("in the way")
            (folder / "folder").mkdir()
            where = p.replace("FILE", str(folder / "file")).replace("FOLDER", str(folder / "folder"))
            where = where.replace("OUT", str(out))
            argv = arguments(c, inputs, out)
            return [where if isinstance(word, Path) and out in word.parents else word for word in argv]

        yield Try("outputs", name, command, prepare, {"timeout_s": 90}, ended)


def _models() -> Iterator[Try]:
    for name in (
        "",
        " ",
        ".",
        "..",
        "-",
        "/",
        "a\x01b.pt",
        f"{LONG_NAME}.pt",
        "weights.pt ",
        "*.pt",
        "~/w.pt",
        "http://x.invalid/w.pt",
    ):
        for command in ("prune --dry-run", "build", "val"):
            shown = name if len(name) < 40 else "a long name"
            prepare: Prepare = lambda f, i, o, n=name, c=command: arguments(c, replace(i, weights=n), o)  # noqa: E731
            yield Try("arguments", f"weights {shown!r}", command, prepare, {"timeout_s": 60}, refused)


_NONE = Inputs(Path("w.pt"), Path("w.onnx"), Path("data.yaml"), Path("p.yaml"))


def tries() -> Iterator[Try]:
    """Every surrounding with the commands that meet it."""
    yield from _streams()
    yield from _hosts()
    yield from _arguments()
    yield from _outputs()
    yield from _models()


assert os.name == "posix"
