"""Hostile ONNX files: metadata of any text, graphs of any shape, files that are damaged or point elsewhere."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.hostile.registry import LONG_NAME, Prepare, Try, in_turns, refused
from tests.situations import graphs
from tests.situations.commands import Inputs, arguments
from tests.situations.datasets import replaced

COMMANDS_OF_GRAPHS = (
    *("val onnx", "parity onnx", "lint", "quantize fp16", "simplify", "quantize int8 cpu", "bench onnx", "parity"),
    *("quantize int8 tensorrt", "compare onnx", "bench --end-to-end", "val --target", "bench --target"),
    *("quantize int8 cpu entropy", "compare"),
)
TEXTS: dict[str, str] = {
    "nothing": "",
    "None": "None",
    "a word": "hello",
    "a number": "7",
    "negative": "-1",
    "zero": "0",
    "huge": "9" * 400,
    "a million digits": "9" * 1_000_000,
    "infinite": "1e999",
    "a list": "[1, 2, 3]",
    "an empty list": "[]",
    "words": "['a', 'b']",
    "a mapping": "{'a': 'b'}",
    "an empty mapping": "{}",
    "a set": "{1, 2}",
    "unclosed": "[1, 2",
    "nested": "(" * 4000 + ")" * 4000,
    "deep": "[" * 150 + "]" * 150,
    "code": "__import__('os').system('touch CANARY')",
    "a call": "open('CANARY', 'w')",
    "NUL": "a\0b",
    "escapes": "\x1b[31m[/]",
    "bytes": "b'abc'",
    "complex": "1+2j",
}
KEYS = (
    "names",
    "imgsz",
    "stride",
    "batch",
    "args",
    "channels",
    "task",
    "kpt_shape",
    "end2end",
    "edgeprune_head",
    "dynamic",
)


def metadata() -> dict[str, dict[str, str | None]]:
    """Entries of ``metadata_props``, by name; every key meets every other text."""
    made: dict[str, dict[str, str | None]] = {}
    for number, key in enumerate(KEYS):
        for place, (name, text) in enumerate(TEXTS.items()):
            if (number + place) % 2 == 0 or name in ("nested", "code", "a mapping", "None", "a million digits"):
                made[f"{key}: {name}"] = {key: text}
        made[f"no {key}"] = {key: None}
    made |= {
        "names: a gap": {"names": "{0: 'a', 5: 'b', 9: 'c'}"},
        "names: long": {"names": str({0: LONG_NAME, 1: "b", 2: "c"})},
        "names: too many": {"names": str(dict.fromkeys(range(50000), "c"))},
        "names: numbers": {"names": "{0: 1, 1: 2, 2: 3}"},
        "names: floats": {"names": "{0.5: 'a', 1.5: 'b', 2.5: 'c'}"},
        "imgsz: three": {"imgsz": "[64, 64, 3]"},
        "imgsz: floats": {"imgsz": "[64.5, 64.5]"},
        "imgsz: words": {"imgsz": "['64', '64']"},
        "imgsz: huge": {"imgsz": "[1000000, 1000000]"},
        "imgsz: negative": {"imgsz": "[-64, -64]"},
        "batch: huge": {"batch": "1000000000"},
        "stride: huge": {"stride": "1000000000"},
        "channels: huge": {"channels": "1000000"},
        "args: NMS in words": {"args": "{'nms': 'maybe', 'dynamic': 'perhaps'}"},
        "args: a list": {"args": "['nms']"},
        "kpt_shape: huge": {"task": "pose", "kpt_shape": "[1000000, 3]"},
        "kpt_shape: words": {"task": "pose", "kpt_shape": "['a', 'b']"},
        "task: another": {"task": "segment"},
        "task: classify": {"task": "classify"},
        "head: another": {"edgeprune_head": "end-to-end"},
        "head: nms": {"edgeprune_head": "nms"},
        "nothing at all": dict.fromkeys((*KEYS, "description", "author", "version", "license", "docs"), None),
    }
    return made


def _graph(
    inputs: list[Any], outputs: list[Any], nodes: list[Any], weights: list[Any] | None = None, **told: Any
) -> Any:
    graph = helper.make_graph(nodes, told.pop("name", "g"), inputs, outputs, weights or [])
    opsets = told.pop("opsets", [helper.make_opsetid("", 17)])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=told.pop("ir_version", 9))
    props = {"names": "{0: 'circle', 1: 'square', 2: 'bar'}", "task": "detect", "stride": "32", "imgsz": "[64, 64]"}
    helper.set_model_props(model, {**props, "batch": "1", "channels": "3"})
    return model


def _image(name: str = "images", kind: int = TensorProto.FLOAT, shape: Any = (1, 3, 64, 64)) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def _output(shape: Any = (1, 7, 84), kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info("output0", kind, shape)


def _to_output() -> list[Any]:
    """Nodes that make something of the right shape out of an image."""
    shape = helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(np.array([1, 3 * 64 * 64])))
    cut = numpy_helper.from_array(np.array([588]))
    zero, one = (numpy_helper.from_array(np.array([number])) for number in (0, 1))
    last = numpy_helper.from_array(np.array([1, 7, 84]))
    return [
        shape,
        helper.make_node("Reshape", ["images", "shape"], ["flat"]),
        helper.make_node("Constant", [], ["zero"], value=zero),
        helper.make_node("Constant", [], ["cut"], value=cut),
        helper.make_node("Constant", [], ["one"], value=one),
        helper.make_node("Slice", ["flat", "zero", "cut", "one"], ["short"]),
        helper.make_node("Constant", [], ["last"], value=last),
        helper.make_node("Reshape", ["short", "last"], ["output0"]),
    ]


def graph_files() -> dict[str, Callable[[], Any]]:
    """Models, by name."""
    value, node = helper.make_tensor_value_info, helper.make_node
    wide = [1, 3, 64, 64]
    made: dict[str, Callable[[], Any]] = {
        "no inputs": lambda: _graph(
            [],
            [_output([1])],
            [node("Constant", [], ["output0"], value=numpy_helper.from_array(np.zeros(1, np.float32)))],
        ),
        "no outputs": lambda: _graph([_image()], [], [node("Relu", ["images"], ["x"])]),
        "no nodes": lambda: _graph([_image()], [_image()], []),
        "two images": lambda: _graph(
            [_image("a"), _image("b")], [_output(wide)], [node("Add", ["a", "b"], ["output0"])]
        ),
        "a missing input": lambda: _graph([_image()], [_output(wide)], [node("Add", ["images", "gone"], ["output0"])]),
        "a circle": lambda: _graph(
            [_image()],
            [_output(wide)],
            [node("Add", ["images", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["output0"])],
        ),
        "two of a name": lambda: _graph(
            [_image()], [_output(wide)], [node("Relu", ["images"], ["output0"]), node("Sqrt", ["images"], ["output0"])]
        ),
        "an unknown operator": lambda: _graph([_image()], [_output(wide)], [node("Magic", ["images"], ["output0"])]),
        "an unknown domain": lambda: _graph(
            [_image()],
            [_output(wide)],
            [node("Magic", ["images"], ["output0"], domain="my.own")],
            opsets=[helper.make_opsetid("", 17), helper.make_opsetid("my.own", 1)],
        ),
        "no opset": lambda: _graph([_image()], [_output()], _to_output(), opsets=[]),
        "opset 1": lambda: _graph([_image()], [_output()], _to_output(), opsets=[helper.make_opsetid("", 1)]),
        "opset 99": lambda: _graph([_image()], [_output()], _to_output(), opsets=[helper.make_opsetid("", 99)]),
        "IR version 99": lambda: _graph([_image()], [_output()], _to_output(), ir_version=99),
        "words for pixels": lambda: _graph(
            [_image(kind=TensorProto.STRING)],
            [_output(wide, TensorProto.STRING)],
            [node("Identity", ["images"], ["output0"])],
        ),
        "booleans for pixels": lambda: _graph(
            [_image(kind=TensorProto.BOOL)],
            [_output(wide, TensorProto.BOOL)],
            [node("Identity", ["images"], ["output0"])],
        ),
        "doubles": lambda: _graph(
            [_image(kind=TensorProto.DOUBLE)],
            [_output(wide, TensorProto.DOUBLE)],
            [node("Identity", ["images"], ["output0"])],
        ),
        "bytes": lambda: _graph(
            [_image(kind=TensorProto.UINT8)],
            [_output(wide, TensorProto.UINT8)],
            [node("Identity", ["images"], ["output0"])],
        ),
        "three axes": lambda: _graph(
            [_image(shape=(3, 64, 64))], [_output((3, 64, 64))], [node("Relu", ["images"], ["output0"])]
        ),
        "five axes": lambda: _graph(
            [_image(shape=(1, 1, 3, 64, 64))], [_output((1, 1, 3, 64, 64))], [node("Relu", ["images"], ["output0"])]
        ),
        "no shape": lambda: _graph(
            [value("images", TensorProto.FLOAT, None)], [value("output0", TensorProto.FLOAT, None)], _to_output()
        ),
        "zero pixels": lambda: _graph(
            [_image(shape=(1, 3, 0, 0))], [_output((1, 3, 0, 0))], [node("Relu", ["images"], ["output0"])]
        ),
        "a negative size": lambda: _graph(
            [_image(shape=(1, 3, -64, 64))], [_output(wide)], [node("Relu", ["images"], ["output0"])]
        ),
        "a billion pixels": lambda: _graph(
            [_image(shape=(1, 3, 10**6, 10**6))],
            [_output((1, 3, 10**6, 10**6))],
            [node("Relu", ["images"], ["output0"])],
        ),
        "a batch of a million": lambda: _graph(
            [_image(shape=(10**6, 3, 64, 64))], [_output((10**6, 3, 64, 64))], [node("Relu", ["images"], ["output0"])]
        ),
        "images for detections": lambda: _graph([_image()], [_output(wide)], [node("Relu", ["images"], ["output0"])]),
        "a number for detections": lambda: _graph(
            [_image()], [_output([])], [node("ReduceSum", ["images"], ["output0"], keepdims=0)]
        ),
        "pixels for detections": lambda: _graph([_image()], [_output()], _to_output()),
        "other rows": lambda: _other_rows(),
        "a wrong shape": lambda: _graph([_image()], [_output((1, 9, 9))], [node("Relu", ["images"], ["output0"])]),
        "names of escapes": lambda: _graph(
            [_image("\x1b[31m[/]")],
            [_output(wide)],
            [node("Relu", ["\x1b[31m[/]"], ["output0"], name="[red]" + LONG_NAME)],
        ),
        "a thousand nodes": lambda: _chain(3000),
        "a sequence": lambda: _graph(
            [_image()],
            [_output(wide)],
            [
                node("SequenceConstruct", ["images"], ["s"]),
                node("ConcatFromSequence", ["s"], ["output0"], axis=0),
            ],
        ),
        "a weight of NaN bytes": lambda: _weights(np.full((3, 3, 1, 1), np.nan, np.float32)),
        "a weight that is cut": lambda: _cut_weight(),
        "a weight of a wrong type": lambda: _wrong_type(),
        "a weight of a billion": lambda: _huge_weight(),
        "a TopK of a million": lambda: _top_k(),
        "a graph within a graph": lambda: _with_if(60),
        "training info": lambda: _with_training(),
        "a function that calls itself": lambda: _with_function(),
    }
    for name, location in {
        "/etc/passwd": "/etc/passwd",
        "a folder above": "../../../../etc/passwd",
        "itself": "hostile.onnx",
        "nowhere": "gone.bin",
        "a device": "/dev/zero",
        "NUL": "a\0b",
        "long": LONG_NAME,
    }.items():
        made[f"weights in {name}"] = functools.partial(_external, location)
    return made


def _other_rows() -> Any:
    nodes = _to_output()
    nodes[-2] = helper.make_node("Constant", [], ["last"], value=numpy_helper.from_array(np.array([1, 84, 7])))
    return _graph([_image()], [_output((1, 84, 7))], nodes)


def _chain(count: int) -> Any:
    names = ["images", *(f"x{number}" for number in range(count - 1)), "output0"]
    nodes = [helper.make_node("Relu", [a], [b]) for a, b in itertools.pairwise(names)]
    return _graph([_image()], [_output((1, 3, 64, 64))], nodes)


def _conv(weight: Any) -> Any:
    nodes = [helper.make_node("Conv", ["images", "w"], ["output0"], name="conv")]
    return _graph([_image()], [_output((1, 3, 64, 64))], nodes, [weight])


def _weights(array: np.ndarray) -> Any:
    return _conv(numpy_helper.from_array(array, "w"))


def _cut_weight() -> Any:
    model = _weights(np.zeros((3, 3, 1, 1), np.float32))
    model.graph.initializer[0].raw_data = b"\0" * 5
    return model


def _wrong_type() -> Any:
    model = _weights(np.zeros((3, 3, 1, 1), np.float32))
    model.graph.initializer[0].data_type = 99
    return model


def _huge_weight() -> Any:
    model = _weights(np.zeros((3, 3, 1, 1), np.float32))
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend([10**6, 10**6, 1, 1])
    return model


def _external(location: str) -> Any:
    model = _weights(np.zeros((3, 3, 1, 1), np.float32))
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": "36"}.items():
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    return model


def _top_k() -> Any:
    count = numpy_helper.from_array(np.array([10**6]), "k")
    nodes = [helper.make_node("TopK", ["images", "k"], ["output0", "index"])]
    return _graph([_image()], [_output((1, 3, 64, 64))], nodes, [count])


def _with_if(depth: int) -> Any:
    inner = helper.make_graph([helper.make_node("Relu", ["images"], ["y0"])], "deepest", [], [_named("y0")])
    for number in range(1, depth):
        node = (
            helper.make_node("If", ["yes"], [f"y{number}"], then_branch=inner, else_branch=inner)
            if number < 12
            else (helper.make_node("Identity", ["images"], [f"y{number}"]))
        )
        inner = helper.make_graph([node], f"level{number}", [], [_named(f"y{number}")])
    nodes = [helper.make_node("If", ["yes"], ["output0"], then_branch=inner, else_branch=inner)]
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    return _graph([_image()], [_output((1, 3, 64, 64))], nodes, [yes])


def _named(name: str) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 3, 64, 64))


def _with_training() -> Any:
    model = _graph([_image()], [_output()], _to_output())
    model.training_info.add().algorithm.CopyFrom(model.graph)
    return model


def _with_function() -> Any:
    body = [helper.make_node("Again", ["x"], ["y"], domain="mine")]
    again = helper.make_function("mine", "Again", ["x"], ["y"], body, [helper.make_opsetid("mine", 1)])
    model = _graph(
        [_image()],
        [_output((1, 3, 64, 64))],
        [helper.make_node("Again", ["images"], ["output0"], domain="mine")],
        opsets=[helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)],
    )
    model.functions.append(again)
    return model


def damages() -> dict[str, Callable[[bytes, Path], Any]]:
    """What happens to a good file, by name."""
    draw = random.Random(5)

    def flipped(count: int, content: bytes, path: Path) -> None:
        data = bytearray(content)
        for _ in range(count):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(bytes(data))

    made: dict[str, Callable[[bytes, Path], Any]] = {
        "empty": lambda content, path: path.write_bytes(b""),
        "text": lambda content, path: path.write_text("hello\n"),
        "noise": lambda content, path: path.write_bytes(random.Random(2).randbytes(5000)),
        "JSON": lambda content, path: path.write_text('{"irVersion": "8"}'),
        "a checkpoint": lambda content, path: path.write_bytes(b"PK\x03\x04" + bytes(500)),
        "twice": lambda content, path: path.write_bytes(content * 2),
        "a protobuf of groups": lambda content, path: path.write_bytes(b"\x0b" * 100_000),
        "a protobuf that nests": lambda content, path: path.write_bytes(_nested(3000)),
        "memory of a process": lambda content, path: path.symlink_to("/proc/self/mem"),
    }
    made |= {f"cut at {share:.0%}": functools.partial(_cut, share) for share in (0.01, 0.3, 0.7, 0.999)}
    made |= {f"{count} bits flipped": functools.partial(flipped, count) for count in (1, 5, 50, 500)}
    made |= {kind: functools.partial(_kind, kind) for kind in ("folder", "fifo", "loop", "link", "device")}
    return made


def _cut(share: float, content: bytes, path: Path) -> None:
    path.write_bytes(content[: int(len(content) * share)])


def _kind(kind: str, content: bytes, path: Path) -> None:
    replaced(path, kind)


def _nested(depth: int) -> bytes:
    """Graphs in attributes of nodes of graphs: field 7 of a model, 1 of a graph, 5 of a node, 6 of an attribute."""
    content = b""
    for _ in range(depth):
        for tag in (0x32, 0x2A, 0x0A):
            content = bytes([tag]) + _varint(len(content)) + content
    return b"\x3a" + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def _given(write: Callable[[Inputs, Path], Any], command: str) -> Prepare:
    def prepare(folder: Path, inputs: Inputs, out: Path) -> list[object]:
        path = folder / "hostile.onnx"
        write(inputs, path)
        return arguments(command, replace(inputs, onnx=path), out)

    return prepare


def told(inputs: Inputs, path: Path, entries: dict[str, str | None]) -> None:
    assert inputs.onnx is not None
    canary = str(path.parent.parent / "canary")
    changed = {key: text and text.replace("CANARY", canary) for key, text in entries.items()}
    graphs.with_metadata(inputs.onnx, path, **changed)


def stored(model: Callable[[], Any], path: Path) -> None:
    path.write_bytes(model().SerializeToString())


def damaged(inputs: Inputs, path: Path, write: Callable[[bytes, Path], Any]) -> None:
    assert inputs.onnx is not None
    write(inputs.onnx.read_bytes(), path)


def tries() -> Iterator[Try]:
    """Every hostile ONNX file with the commands that it meets."""
    options = {"timeout_s": 60}
    for (name, entries), command in in_turns(metadata().items(), COMMANDS_OF_GRAPHS):
        write: Any = lambda inputs, path, e=entries: told(inputs, path, e)  # noqa: E731
        reader = "code" if "CANARY" in str(entries) else "ONNX"
        yield Try(reader, f"metadata, {name}", command, _given(write, command), options)
    for (name, model), command in in_turns(graph_files().items(), COMMANDS_OF_GRAPHS, 3):
        write = lambda inputs, path, m=model: stored(m, path)  # noqa: E731
        yield Try("ONNX", name, command, _given(write, command), options)
    for (name, damage), command in in_turns(damages().items(), COMMANDS_OF_GRAPHS, 2):
        right = None if "flipped" in name or name == "twice" else refused
        write = lambda inputs, path, d=damage: damaged(inputs, path, d)  # noqa: E731
        yield Try("ONNX", name, command, _given(write, command), options, right)


assert onnx.__version__
