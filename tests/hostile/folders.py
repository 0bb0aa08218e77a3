"""Hostile contents of a dataset: labels, images, and the caches that Ultralytics looks for beside them."""

from __future__ import annotations

import os
import random
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.hostile import payloads
from tests.hostile.registry import Prepare, Try, in_turns
from tests.hostile.yamls import COMMANDS_OF_DATA
from tests.situations.commands import Inputs, arguments
from tests.situations.datasets import copied, images_of, labels_of, replaced

LABELS: dict[str, bytes] = {
    "NaN": b"0 nan nan nan nan\n",
    "infinite": b"0 inf 0.5 0.1 0.1\n",
    "too large to hold": b"0 1e999 0.5 0.1 0.1\n",
    "negative": b"0 -0.5 0.5 0.1 0.1\n",
    "a negative class": b"-1 0.5 0.5 0.1 0.1\n",
    "half a class": b"0.5 0.5 0.5 0.1 0.1\n",
    "a huge class": b"99999999999999999999 0.5 0.5 0.1 0.1\n",
    "NaN for a class": b"nan 0.5 0.5 0.1 0.1\n",
    "other digits": "٣ 0.5 0.5 0.1 0.1\n".encode(),
    "underscores": b"0 0.5 0.5 0_1 0.1\n",
    "hexadecimal": b"0x0 0.5 0.5 0.1 0.1\n",
    "NUL": b"0 0.5 0.5 0.1 0.1\0\n",
    "one long line": b"0 " + b"0.5 " * 500_000,
    "many lines": b"0 0.5 0.5 0.1 0.1\n" * 100_000,
    "commas": b"0,0.5,0.5,0.1,0.1\n",
    "JSON": b'{"shapes": []}\n',
    "zero size": b"0 0.5 0.5 0 0\n",
    "columns that differ": b"0 0.5 0.5 0.1 0.1\n0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n",
    "carriage returns": b"0 0.5 0.5 0.1 0.1\r0 0.4 0.4 0.1 0.1\r",
    "a form feed": b"0 0.5 0.5 0.1 0.1\x0c\x1c\x85",
    "latin": b"\xe4 0.5 0.5 0.1 0.1\n",
    "UTF-16": "0 0.5 0.5 0.1 0.1\n".encode("utf-16"),
}


def _png(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


IMAGES: dict[str, bytes] = {
    "a bomb of pixels": _png(60_000, 60_000),
    "a huge side": _png(2**31 - 1, 1),
    "no pixels": _png(64, 64),
    "no size": _png(0, 0),
    "one pixel": _png(1, 1, b"\0\0\0\0"),
    "a thin one": _png(3, 5000, (b"\0" + bytes(9)) * 5000),
    "text": b"hello\n",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "GIF": b"GIF89a\x01\0\x01\0\0\0\0;",
    "ZIP": b"PK\x03\x04" + bytes(100),
    "noise": random.Random(3).randbytes(3000),
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(CANARY) (w) file closefile\nshowpage\n",
}


def _kinds(place: Callable[[Path], Path]) -> dict[str, Callable[[Path], Any]]:
    return {
        kind: (lambda data, kind=kind: replaced(place(data), kind))
        for kind in ("folder", "fifo", "loop", "link", "device")
    }


def _other_links(data: Path) -> None:
    """Folders of images that hold themselves."""
    folder = images_of(data, "val")[0].parent
    for name in ("again", "more"):
        (folder / name).symlink_to(folder, target_is_directory=True)


def _renamed(data: Path, name: str) -> None:
    image = images_of(data, "val")[0]
    image.rename(os.fsdecode(os.fsencode(image.parent) + b"/" + name.encode("utf-8", "surrogateescape") + b".png"))


def changes() -> dict[str, Callable[[Path], Any]]:
    """What happens to a copy of a good dataset, by name."""
    made: dict[str, Callable[[Path], Any]] = {}
    for split in ("train", "val"):
        for name, content in LABELS.items():
            made[f"{split} label: {name}"] = lambda data, s=split, c=content: labels_of(data, s)[0].write_bytes(c)
        for name, content in IMAGES.items():
            made[f"{split} image: {name}"] = lambda data, s=split, c=content: images_of(data, s)[0].write_bytes(c)
        made |= {f"{split} label: a {k}": v for k, v in _kinds(lambda data, s=split: labels_of(data, s)[0]).items()}
        made |= {f"{split} image: a {k}": v for k, v in _kinds(lambda data, s=split: images_of(data, s)[0]).items()}
    made |= {
        "a folder that holds itself": _other_links,
        "images are a file": lambda data: _as_file(data, "images"),
        "labels are a file": lambda data: _as_file(data, "labels"),
        "labels are a fifo": lambda data: (shutil.rmtree(data.parent / "labels"), os.mkfifo(data.parent / "labels")),
        "a name of bytes": lambda data: _renamed(data, "\udcff\udcfe"),
        "a name of lines": lambda data: _renamed(data, "a\nb\r"),
        "a name of escapes": lambda data: _renamed(data, "\x1b[31mred[/]"),
        "a name of 250 letters": lambda data: _renamed(data, "n" * 250),
        "a name of dots": lambda data: _renamed(data, "..."),
        "a cache that is none": lambda data: _cache(data, b"hello"),
        "a cache of another shape": lambda data: _cache(data, None, np.zeros(3)),
        "a cache of a word": lambda data: _cache(data, None, np.array("cache", dtype=object)),
        "a cache that is a folder": lambda data: [
            (data.parent / "labels" / f"{s}.cache").mkdir() for s in ("train", "val")
        ],
        "a cache that is a fifo": lambda data: [
            os.mkfifo(data.parent / "labels" / f"{s}.cache") for s in ("train", "val")
        ],
    }
    return made


def _as_file(data: Path, name: str) -> None:
    shutil.rmtree(data.parent / name)
    (data.parent / name).write_text("hello\n")


def _cache(data: Path, content: bytes | None, array: Any = None) -> None:
    for split in ("train", "val"):
        path = data.parent / "labels" / f"{split}.cache"
        if content is not None:
            path.write_bytes(content)
        else:
            with path.open("wb") as file:
                np.save(file, array, allow_pickle=True)


def _changed(change: Callable[[Path], Any], command: str) -> Prepare:
    def prepare(folder: Path, inputs: Inputs, out: Path) -> list[object]:
        assert inputs.data is not None
        data = copied(inputs.data, folder / "data")
        change(data)
        return arguments(command, replace(inputs, data=data), out)

    return prepare


def _caching(name: str, form: str, command: str) -> Prepare:
    def prepare(folder: Path, inputs: Inputs, out: Path) -> list[object]:
        assert inputs.data is not None
        data = copied(inputs.data, folder / "data")
        payload = payloads.calls(folder.parent / "canary")[name]
        for split in ("train", "val"):
            if form == "labels":
                payloads.npy_of(payload, data.parent / "labels" / f"{split}.cache")
            elif form == "images":
                for image in images_of(data, split):
                    payloads.npy_of(payload, image.with_suffix(".npy"))
            else:
                payloads.npy_of(payload, data.parent / "images" / f"{split}.cache")
        return arguments(command, replace(inputs, data=data), out)

    return prepare


def tries() -> Iterator[Try]:
    """Every hostile folder with the commands that it meets."""
    options = {"timeout_s": 60}
    for (name, change), command in in_turns(changes().items(), COMMANDS_OF_DATA, 2):
        yield Try("dataset", name, command, _changed(change, command), options)
    chosen = ("os.system", "builtins.exec", "subprocess.Popen", "numpy runstring")
    commands = [command for command in COMMANDS_OF_DATA if command not in ("search", "sweep")]
    for number, command in enumerate(commands):
        name = chosen[number % len(chosen)]
        yield Try("code", f"label cache, {name}", command, _caching(name, "labels", command), options)
    for form in ("images", "image cache"):
        for command in ("finetune", "val", "prune --data", "val onnx"):
            yield Try("code", f"{form}, os.system", command, _caching("os.system", form, command), options)
