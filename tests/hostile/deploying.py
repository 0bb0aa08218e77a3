"""What ships and what others ship: hostile graphs, engines, pruned checkpoints, bundles, keys and signatures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from tests.hostile import checkpoints, onnx_files, payloads, records
from tests.hostile.registry import Prepare, Try, in_turns, refused
from tests.situations.commands import Inputs
from tests.situations.datasets import replaced

GRAPH_READERS: dict[str, Callable[[Path, Path], list[object]]] = {
    "deploy triton": lambda path, out: ["deploy", "triton", path, "-o", out / "models"],
    "deploy deepstream": lambda path, out: ["deploy", "deepstream", path, "-o", out / "deepstream"],
    "engine-header add": lambda path, out: ["engine-header", "add", path, "--onnx", path, "-o", out / "model.engine"],
}
ENGINE_READERS: dict[str, Callable[[Path, Path], list[object]]] = {
    "engine-header show": lambda path, out: ["engine-header", "show", path],
    "engine-header strip": lambda path, out: ["engine-header", "strip", path, "-o", out / "bare.engine"],
}
BUNDLE_READERS: dict[str, Callable[[Path, Path], list[object]]] = {
    "verify": lambda run, out: ["verify", run],
    "push": lambda run, out: ["push", run, "--to", out / "models"],
    "deploy triton of a bundle": lambda run, out: ["deploy", "triton", run / "bundle", "-o", out / "models"],
}


def _headed(content: bytes, length: int | None = None) -> bytes:
    return (len(content) if length is None else length).to_bytes(4, "little") + content + b"plan"


ENGINES: dict[str, bytes] = {
    "empty": b"",
    "one byte": b"f",
    "a length alone": _headed(b"", 0),
    "a length beyond the end": _headed(b"{}", 2**32 - 1),
    "a header alone": _headed(b"{}")[:6],
    "JSON that is no mapping": _headed(b"[1, 2]"),
    "nested": _headed(b"[" * 100_000 + b"]" * 100_000),
    "mappings in mappings": _headed(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "no text": _headed(b"\xff\xfe{}"),
    "a huge number": _headed(b'{"a": ' + b"9" * 5000 + b"}"),
    "NaN": _headed(b'{"a": NaN}'),
    "surrogates": _headed(b'{"a": "\\ud800"}'),
    "escapes": _headed(b'{"a": "\\u001b[31m[/red]"}'),
    "a key twice": _headed(b'{"a": 1, "a": 2}'),
}
KEYS: dict[str, bytes] = {
    "empty": b"",
    "no text": b"\xff\xfe" * 40,
    "a comment alone": b"untrusted comment: x\n",
    "short": b"untrusted comment: x\nRWQ=\n",
    "no base64": b"untrusted comment: x\n" + b"?" * 56 + b"\n",
    "long": b"x" * 70_000,
    "lines": b"untrusted comment: x\n" + b"RWQ\n" * 1000,
    "NUL": b"untrusted comment: \0\n" + b"A" * 56 + b"\n\0\0",
    "zeros": b"untrusted comment: x\n" + b"A" * 56 + b"\ntrusted comment: y\n" + b"A" * 88 + b"\n",
}


def _graph(write: Callable[[Inputs, Path], Any], command: str) -> Prepare:
    def prepare(folder: Path, inputs: Inputs, out: Path) -> list[object]:
        write(inputs, folder / "hostile.onnx")
        return GRAPH_READERS[command](folder / "hostile.onnx", out)

    return prepare


def _graphs() -> Iterator[Try]:
    for (name, entries), command in in_turns(onnx_files.metadata().items(), GRAPH_READERS):
        write: Any = lambda inputs, path, e=entries: onnx_files.told(inputs, path, e)  # noqa: E731
        reader = "code" if "CANARY" in str(entries) else "shipped ONNX"
        yield Try(reader, f"metadata, {name}", command, _graph(write, command))
    for (name, model), command in in_turns(onnx_files.graph_files().items(), GRAPH_READERS):
        write = lambda inputs, path, m=model: onnx_files.stored(m, path)  # noqa: E731
        yield Try("shipped ONNX", name, command, _graph(write, command))
    for (name, damage), command in in_turns(onnx_files.damages().items(), GRAPH_READERS):
        right = None if "flipped" in name or name == "twice" else refused
        write = lambda inputs, path, d=damage: onnx_files.damaged(inputs, path, d)  # noqa: E731
        yield Try("shipped ONNX", name, command, _graph(write, command), right=right)


def _engines() -> Iterator[Try]:
    def engine(write: Callable[[Path], Any], command: str) -> Prepare:
        def prepare(folder: Path, inputs: Inputs, out: Path) -> list[object]:
            write(folder / "hostile.engine")
            return ENGINE_READERS[command](folder / "hostile.engine", out)

        return prepare

    for command in ENGINE_READERS:
        for name, content in ENGINES.items():
            right = refused if not content else None
            yield Try(
                "engine header", name, command, engine(lambda p, c=content: p.write_bytes(c), command), right=right
            )
        for kind in records.PLACES:
            prepare = engine(lambda path, k=kind: replaced(path, k), command)
            yield Try("engine header", f"a {kind}", command, prepare, right=refused)


def _adopted() -> Iterator[Try]:
    def checkpoint(write: Callable[[Path, Inputs], Any]) -> Prepare:
        def prepare(folder: Path, inputs: Inputs, out: Path) -> list[object]:
            write(folder / "hostile.pt", inputs)
            return ["adopt", folder / "hostile.pt", "-o", out / "stock.pt"]

        return prepare

    for name, content in checkpoints.contents().items():
        write: Any = lambda path, inputs, c=content: torch.save(c(), path)  # noqa: E731
        yield Try("adopted checkpoint", name, "adopt", checkpoint(write))
    for name, spoil in checkpoints.files().items():
        right = None if name in ("twice", "1 bits flipped", "20 bits flipped") else refused
        write = lambda path, inputs, s=spoil: s(Path(str(inputs.weights)).read_bytes(), path)  # noqa: E731
        yield Try("adopted checkpoint", name, "adopt", checkpoint(write), right=right)
    for name in payloads.calls(Path("/")):
        write = lambda path, inputs, n=name: torch.save(  # noqa: E731
            {"model": payloads.calls(path.parent.parent / "canary")[n]}, path
        )
        yield Try("code", f"{name}, adopted", "adopt", checkpoint(write), right=refused)


def _bundles() -> Iterator[Try]:
    for (name, text), command in in_turns(records.TEXTS.items(), ("verify", "push")):
        prepare = records.run_with(records.written("bundle/build.json", text), BUNDLE_READERS[command])
        yield Try("bundle", f"build.json, {name}", command, prepare, right=refused)
    for number, command in in_turns(range(40), ("verify", "push")):
        prepare = records.run_with(records.written_spoiled("bundle/build.json", number, 7), BUNDLE_READERS[command])
        yield Try("bundle", f"build.json, spoiled {number}", command, prepare)
    for kind, command in in_turns(records.PLACES, BUNDLE_READERS, 3):
        name = "model.onnx" if "triton" in command else "sample.py"
        prepare = records.run_with(lambda run, k=kind, n=name: replaced(run / "bundle" / n, k), BUNDLE_READERS[command])
        yield Try("bundle", f"{name}, a {kind}", command, prepare, right=refused)
    for name in ("triton/edgeprune_onnx/config.pbtxt", "cpp/sample.cpp", "sbom.cdx.json", "sample.py"):
        prepare = records.run_with(records.flipped(f"bundle/{name}"), BUNDLE_READERS["verify"])
        yield Try("bundle", f"a byte of {name} flipped", "verify", prepare, right=refused)


def _signatures() -> Iterator[Try]:
    def with_key(write: Callable[[Path, Path], Any], command: str) -> Prepare:
        def argv(run: Path, out: Path) -> list[object]:
            return [command, run, "--key", run.parent / "hostile.key"]

        return records.run_with(lambda run: write(run.parent / "hostile.key", run / "bundle"), argv)

    for name, content in KEYS.items():
        for command in ("sign", "verify"):
            prepare = with_key(lambda key, _, c=content: key.write_bytes(c), command)
            yield Try("signature", f"key, {name}", command, prepare, right=refused)

        def signed(key: Path, bundle: Path, content: bytes = content) -> None:
            from minisign import KeyPair

            key.write_bytes(bytes(KeyPair.generate().public_key))
            (bundle / "build.json.minisig").write_bytes(content)

        yield Try("signature", f"signature, {name}", "verify", with_key(signed, "verify"), right=refused)
    for kind in records.PLACES:
        for command in ("sign", "verify"):
            prepare = with_key(lambda key, _, k=kind: replaced(key, k), command)
            yield Try("signature", f"key, a {kind}", command, prepare, right=refused)


def tries() -> Iterator[Try]:
    """Every hostile input with the commands that it meets."""
    yield from _graphs()
    yield from _engines()
    yield from _adopted()
    yield from _bundles()
    yield from _signatures()
