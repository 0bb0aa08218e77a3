"""Hostile checkpoints: code in the pickle, metadata of any type, files that are damaged or something else."""

from __future__ import annotations

import functools
import io
import os
import random
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.hostile import payloads
from tests.hostile.registry import LONG_NAME, Try, in_turns, refused
from tests.situations import models
from tests.situations.commands import COMMANDS, Inputs, arguments
from tests.situations.datasets import replaced

COMMANDS_OF_WEIGHTS = (
    *("export", "val", "prune --data", "sensitivity", "parity", "finetune", "build", "compare", "bench"),
    *("iterate", "sparsify", "search", "sweep", "profile", "export --head nms"),
)
NAMES: dict[str, Any] = {
    "None": None,
    "a number": 5,
    "a word": "circle",
    "bytes": b"\xff\xfe",
    "numbers": [1, 2, 3],
    "words for keys": {"a": "circle", "b": "square", "c": "bar"},
    "None inside": {0: None, 1: None, 2: None},
    "a gap": {0: "circle", 2: "square", 5: "bar"},
    "negative": {-1: "circle", 0: "square", 1: "bar"},
    "too many": {index: f"c{index}" for index in range(100_000)},
    "too few": {0: "circle"},
    "none": {},
    "long": {0: LONG_NAME, 1: "square", 2: "bar"},
    "the same": {0: "circle", 1: "circle", 2: "circle"},
    "escapes": {0: "\x1b[31mred\x1b[0m", 1: "a\nb", 2: "\0"},
    "markup": {0: "[red]circle[/red]", 1: "<script>alert(1)</script>", 2: "[/]"},
    "surrogates": {0: "\ud800", 1: "square", 2: "bar"},
    "nested": {0: {0: {0: "circle"}}, 1: "square", 2: "bar"},
    "floats": {0.5: "circle", float("nan"): "square", 2.0: "bar"},
}
STRIDES: dict[str, Any] = {
    "None": None,
    "a word": "32",
    "empty": torch.tensor([]),
    "NaN": torch.tensor([float("nan")]),
    "zero": torch.tensor([0.0]),
    "negative": torch.tensor([-32.0]),
    "huge": torch.tensor([1e30]),
    "a list": [8, 16, 32],
    "complex": torch.tensor([8 + 1j]),
}
TASKS: dict[str, Any] = {"None": None, "a number": 5, "unknown": "dance", "a list": ["detect"], "long": LONG_NAME}
TRAIN_ARGS: dict[str, Any] = {
    "None": None,
    "a list": [1, 2],
    "a word": "imgsz=64",
    "a number": 7,
    "imgsz in words": {"imgsz": "sixty-four"},
    "imgsz of two": {"imgsz": [64, 96]},
    "imgsz negative": {"imgsz": -64},
    "imgsz zero": {"imgsz": 0},
    "imgsz huge": {"imgsz": 10**12},
    "imgsz None": {"imgsz": None},
    "imgsz NaN": {"imgsz": float("nan")},
    "single_cls in words": {"imgsz": 64, "single_cls": "maybe"},
    "numbers for keys": {1: 2, None: 3},
    "unknown keys": {"imgsz": 64, "no_such": 1, LONG_NAME: 2},
    "a tensor": {"imgsz": torch.tensor([64])},
}
YAMLS: dict[str, Any] = {
    "None": None,
    "a word": "yolo",
    "a list": [1],
    "nothing": {},
    "channels in words": {"channels": "three", "nc": 3},
    "nc in words": {"nc": "three"},
}
EDGEPRUNE: dict[str, Any] = {
    "a word": "pruned",
    "a number": 5,
    "a list": [("shape_signature", 1)],
    "signature a number": {"shape_signature": 5},
    "signature a list": {"signature": ["x"]},
    "signature of another": {"shape_signature": "0" * 64},
    "plan a number": {"plan": 5},
    "deep": functools.reduce(lambda inner, _: {"a": inner}, range(300), {}),
    "long": {"plan": LONG_NAME * 100},
}


def _made() -> Any:
    return models.answering(models.model())


def contents() -> dict[str, Callable[[], Any]]:
    """What ``torch.save`` writes, by name."""
    made: dict[str, Callable[[], Any]] = {}

    def checkpoint(change: Callable[[Any], Any] = lambda model: model, **entries: Any) -> Callable[[], Any]:
        def build() -> Any:
            told = {"epoch": -1, "model": change(_made()), "train_args": {"task": "detect", "imgsz": 64}, **entries}
            return {key: value for key, value in told.items() if value is not ...}

        return build

    for attribute, values in (("names", NAMES), ("stride", STRIDES), ("task", TASKS), ("yaml", YAMLS)):
        for name, value in values.items():
            made[f"{attribute}: {name}"] = checkpoint(
                lambda model, a=attribute, v=value: models.with_attribute(model, **{a: v})
            )
    for name, value in TRAIN_ARGS.items():
        made[f"train_args: {name}"] = checkpoint(train_args=value)
    for name, value in EDGEPRUNE.items():
        made[f"edgeprune: {name}"] = checkpoint(edgeprune=value)
    made |= {
        "nc of another head": checkpoint(lambda model: _with_head(model, nc=7)),
        "head without layers": checkpoint(lambda model: _with_head(model, cv2=nn.ModuleList())),
        "reg_max of another": checkpoint(lambda model: _with_head(model, reg_max=3)),
        "no layers": checkpoint(lambda model: models.with_attribute(model, model=nn.Sequential())),
        "layers a list": checkpoint(lambda model: _with_plain(model, "model", [1, 2])),
        "a weight of another shape": checkpoint(_with_other_weight),
        "weights of integers": checkpoint(_with_integers),
        "complex weights": checkpoint(_with_complex),
        "on the meta device": checkpoint(lambda model: model.to("meta")),
        "shared weights": checkpoint(_with_shared),
        "a loop of modules": checkpoint(_with_loop),
        "version a list": checkpoint(version=[8, 4]),
        "date a tensor": checkpoint(date=torch.zeros(3)),
        "ema a word": checkpoint(ema="ema"),
        "epoch a word": checkpoint(epoch="last"),
        "a tensor alone": lambda: torch.zeros(3),
        "None alone": lambda: None,
        "an empty dictionary": dict,
        "a tuple of models": lambda: (_made(), _made()),
    }
    return made


def _with_head(model: Any, **attributes: Any) -> Any:
    models.with_attribute(model.model[-1], **attributes)
    return model


def _with_plain(model: Any, name: str, value: Any) -> Any:
    del model._modules[name]
    model.__dict__[name] = value
    return model


def _with_other_weight(model: Any) -> Any:
    model.model[1].conv.weight = nn.Parameter(torch.zeros(5, 7, 3, 3))
    return model


def _with_integers(model: Any) -> Any:
    weight = model.model[1].conv.weight
    model.model[1].conv.weight = nn.Parameter(weight.detach().to(torch.int8), requires_grad=False)
    return model


def _with_complex(model: Any) -> Any:
    weight = model.model[1].conv.weight
    model.model[1].conv.weight = nn.Parameter(weight.detach().to(torch.complex64), requires_grad=False)
    return model


def _with_shared(model: Any) -> Any:
    model.model[5].conv.weight = model.model[4].conv.weight
    return model


def _with_loop(model: Any) -> Any:
    model.model[0].add_module("again", model.model[0])
    return model


def files() -> dict[str, Callable[[bytes, Path], Any]]:
    """What happens to a good checkpoint's file, by name; takes its bytes and the place."""
    damage = random.Random(0)

    def flipped(content: bytes, path: Path, count: int) -> None:
        data = bytearray(content)
        for _ in range(count):
            data[damage.randrange(len(data))] ^= 1 << damage.randrange(8)
        path.write_bytes(bytes(data))

    def zipped(entries: dict[str, bytes]) -> Callable[[bytes, Path], None]:
        def write(_: bytes, path: Path) -> None:
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, content in entries.items():
                    archive.writestr(name, content)

        return write

    def without(part: str) -> Callable[[bytes, Path], None]:
        def write(content: bytes, path: Path) -> None:
            with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(path, "w") as new:
                for item in old.infolist():
                    if part not in item.filename:
                        new.writestr(item, old.read(item))

        return write

    return {
        "empty": lambda content, path: path.write_bytes(b""),
        "one byte": lambda content, path: path.write_bytes(b"\x80"),
        "text": lambda content, path: path.write_text("weights\n"),
        "web page": lambda content, path: path.write_text("<!DOCTYPE html><html>404</html>"),
        "git-lfs pointer": lambda content, path: path.write_text("version https://git-lfs.github.com/spec/v1\noid x\n"),
        "noise": lambda content, path: path.write_bytes(random.Random(1).randbytes(10_000)),
        "cut at 100": lambda content, path: path.write_bytes(content[:100]),
        "cut in half": lambda content, path: path.write_bytes(content[: len(content) // 2]),
        "cut at the end": lambda content, path: path.write_bytes(content[:-30]),
        "twice": lambda content, path: path.write_bytes(content + content),
        **{f"{count} bits flipped": functools.partial(flipped, count=count) for count in (1, 20, 400, 5000)},
        "an archive of nothing": zipped({}),
        "an archive of text": zipped({"w/readme.txt": b"hello"}),
        "an archive with an empty pickle": zipped({"w/data.pkl": b"", "w/version": b"3"}),
        "a bomb": zipped({"w/data.pkl": bytes(200_000_000), "w/version": b"3"}),
        "without data": without("data/"),
        "without version": without("version"),
        "a deep pickle": zipped(
            {"w/data.pkl": b"\x80\x02" + b"(" * 200_000 + b"t" * 200_000 + b".", "w/version": b"3"}
        ),
        "a pickle of a huge list": lambda content, path: path.write_bytes(b"\x80\x02X\xff\xff\xff\x7f"),
        **{
            kind: (lambda content, path, kind=kind: replaced(path, kind))
            for kind in ("folder", "fifo", "loop", "link", "device")
        },
        "memory of a process": lambda content, path: path.symlink_to("/proc/self/mem"),
    }


def tries() -> Iterator[Try]:
    """Every hostile checkpoint with the commands that it meets."""
    for (name, content), command in in_turns(contents().items(), COMMANDS_OF_WEIGHTS):
        for chosen in ("prune --dry-run", command):
            yield Try("checkpoint", name, chosen, _saving(content, chosen))
    for (name, write), command in in_turns(files().items(), COMMANDS_OF_WEIGHTS):
        for chosen in ("prune --dry-run", command):
            right = None if name in ("twice", "1 bits flipped", "20 bits flipped") else refused
            yield Try("checkpoint", name, chosen, _writing(write, chosen), right=right)
    names = list(payloads.calls(Path("/")))
    for name in names:
        for form in ("checkpoint", "bare", "in train_args", "as a state"):
            command = COMMANDS_OF_WEIGHTS[(names.index(name) * 4 + len(form)) % len(COMMANDS_OF_WEIGHTS)]
            yield Try("code", f"{name}, {form}", command, _executing(name, form, command))


def _command(name: str, inputs: Inputs, weights: Path, out: Path) -> list[object]:
    return arguments(name, replace(inputs, weights=weights), out)


def _saving(content: Callable[[], Any], command: str) -> Any:
    def prepare(folder: Path, inputs: Inputs, out: Path) -> list[object]:
        torch.save(content(), folder / "hostile.pt")
        return _command(command, inputs, folder / "hostile.pt", out)

    return prepare


def _writing(write: Callable[[bytes, Path], Any], command: str) -> Any:
    def prepare(folder: Path, inputs: Inputs, out: Path) -> list[object]:
        write(Path(str(inputs.weights)).read_bytes(), folder / "hostile.pt")
        return _command(command, inputs, folder / "hostile.pt", out)

    return prepare


def _executing(name: str, form: str, command: str) -> Any:
    def prepare(folder: Path, inputs: Inputs, out: Path) -> list[object]:
        payload = payloads.calls(folder.parent / "canary")[name]
        path = folder / "hostile.pt"
        if form == "bare":
            path.write_bytes(payloads.nested_pickle(payload))
        elif form == "checkpoint":
            torch.save({"model": payload}, path)
        elif form == "in train_args":
            torch.save({"model": _made(), "train_args": {"imgsz": payload}}, path)
        else:
            made = _made()
            made.__dict__["secret"] = payload
            torch.save({"model": made, "train_args": {"imgsz": 64}}, path, _use_new_zipfile_serialization=False)
        return _command(command, inputs, path, out)

    return prepare


assert set(COMMANDS_OF_WEIGHTS) <= set(COMMANDS)
assert os.name == "posix"
