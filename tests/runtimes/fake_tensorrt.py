"""A strict stand-in for ``tensorrt``, made of its type stubs of 10.13: a call that they do not have does not exist.

Every class has exactly the stubs' members, less those that the asked version lacks; every call is bound to the stubs'
signatures. Behind them stands just enough behaviour to build, load, run and profile an engine that doubles its input.
"""

from __future__ import annotations

import ast
import ctypes
import inspect
import json
import re
import types
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tests.runtimes.tensorrt_versions import ADDED_AFTER_10_3, REMOVED_IN_11
from tests.runtimes.trtexec_samples import LAYERS, layers_json

SHAPE = (1, 3, 32, 32)
MAGIC = b"fake plan "


def stubs() -> Path | None:
    """The stubs' file for the bindings; None when they are not installed."""
    found = find_spec("tensorrt_bindings")
    places = list(found.submodule_search_locations or ()) if found else []
    file = Path(places[0]) / "tensorrt.pyi" if places else None
    return file if file is not None and file.is_file() else None


def module(version: tuple[int, int] = (10, 13), ways: dict[str, Any] | None = None) -> Any:
    """The stand-in for one version; ``ways`` say how it behaves (``refuses``, ``parser``, ``precision``, ``shape``;
    ``warns``: so often before it builds; ``plugins``: neither parses nor loads before they are registered)."""
    path = stubs()
    assert path is not None, "tensorrt-stubs is not installed"
    absent = set(REMOVED_IN_11) if version >= (11, 0) else set(ADDED_AFTER_10_3) if version < (10, 4) else set()
    made = types.ModuleType("tensorrt")
    made.__version__ = f"{version[0]}.{version[1]}.0"  # type: ignore[attr-defined]
    world = _World(made, version, ways or {})
    for block in re.split(r"^(?=class )", path.read_text(), flags=re.MULTILINE)[1:]:
        node = _parsed(block).body[0]
        if isinstance(node, ast.ClassDef) and node.name not in absent:
            setattr(made, node.name, _class(node, node.name, absent, world))
    made.init_libnvinfer_plugins = world.register  # type: ignore[attr-defined]
    made.nptype = lambda kind: {"FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8}[kind.name]  # type: ignore[attr-defined]
    return made


def _parsed(text: str) -> ast.Module:
    """A class of the stubs as Python; a few lines are none (a parameter without a default behind one with it)."""
    lines = text.splitlines()
    while True:
        try:
            return ast.parse("\n".join(lines))
        except SyntaxError as error:
            place = (error.lineno or 0) - 1
            wrong = lines[place]
            assert " def " in wrong, f"line {place + 1} of the stubs: {error}"
            lines[place] = wrong.partition("(")[0] + "(self, *arguments):"


class _Member:
    """A value of an enumeration, as pybind makes them: it has a name and converts to int."""

    def __init__(self, name: str, number: int) -> None:
        self.name, self._number = name, number

    def __int__(self) -> int:
        return self._number


def _class(node: ast.ClassDef, name: str, absent: set[str], world: _World) -> type:
    members: dict[str, Any] = {}
    methods: dict[str, list[ast.FunctionDef]] = {}
    writable: set[str] = set()
    number = 0
    for item in node.body:
        if isinstance(item, ast.ClassDef):
            members[item.name] = _class(item, f"{name}.{item.name}", absent, world)
        elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            field = item.target.id
            if "ClassVar" not in ast.unparse(item.annotation):
                writable.add(field)
            elif field != "__members__" and f"{name}.{field}" not in absent:
                members[field] = _Member(field, number)
                number += 1
        elif isinstance(item, ast.FunctionDef) and f"{name}.{item.name}" not in absent:
            methods.setdefault(item.name, []).append(item)
    for field, defined in methods.items():
        if any(ast.unparse(mark) == "property" for mark in defined[0].decorator_list):
            members[field] = property(world.reader(name, field))
        elif field == "__init__" or not field.startswith("__"):
            members[field] = world.method(name, field, [_signature(one) for one in defined])
    members |= {field: world.attribute(name, field) for field in writable if f"{name}.{field}" not in absent}
    known = set(members)

    def set_known(self: Any, field: str, value: Any) -> None:
        if type(self) is made and field not in known and not field.startswith("_"):
            raise AttributeError(f"tensorrt.{name} has no attribute {field} in the stubs")
        object.__setattr__(self, field, value)

    made = type(name.rpartition(".")[2], (), {**members, "__setattr__": set_known})
    return made


def _signature(node: ast.FunctionDef) -> inspect.Signature:
    given, kind = node.args, inspect.Parameter.POSITIONAL_OR_KEYWORD
    first = len(given.args) - len(given.defaults)
    return inspect.Signature(
        [
            inspect.Parameter(one.arg, kind, default=None if place >= first else inspect.Parameter.empty)
            for place, one in enumerate(given.args)
        ]
    )


class _World:
    """Behaviour behind the signatures, by ``Class.member``."""

    def __init__(self, made: Any, version: tuple[int, int], ways: dict[str, Any]) -> None:
        self.trt, self.version, self.ways = made, version, ways
        self.registered = not ways.get("plugins")

    def register(self, logger: Any, namespace: str) -> bool:
        assert isinstance(logger, self.trt.ILogger) and namespace == ""
        self.registered = True
        return True

    def method(self, owner: str, name: str, signatures: list[inspect.Signature]) -> Callable[..., Any]:
        act = getattr(self, f"{owner}_{name}", None)

        def call(this: Any, *arguments: Any, **named: Any) -> Any:
            for signature in signatures:
                try:
                    bound = signature.bind(this, *arguments, **named)
                except TypeError:
                    continue
                return act(*bound.args, **bound.kwargs) if act is not None else None
            raise TypeError(f"tensorrt.{owner}.{name} does not take {arguments} {named}")

        return call

    def reader(self, owner: str, name: str) -> Callable[[Any], Any]:
        act = getattr(self, f"{owner}_{name}", None)
        return lambda this: act(this) if act is not None else None

    def attribute(self, owner: str, name: str) -> property:
        def write(this: Any, value: Any) -> None:
            this.__dict__[name] = value

        return property(lambda this: this.__dict__.get(name), write)

    def new(self, name: str, **state: Any) -> Any:
        this = object.__new__(getattr(self.trt, name))
        this.__dict__.update({f"_{key}": value for key, value in state.items()})
        return this

    def memory(self, content: bytes) -> Any:
        this = self.new("IHostMemory", content=content)
        type(this).__bytes__ = lambda one: one.__dict__["_content"]
        return this

    def say(self, logger: Any, text: str, severity: str = "ERROR") -> None:
        logger.log(_Member(severity, 1), text)

    def Builder___init__(self, this: Any, logger: Any) -> None:
        this.__dict__["_logger"] = logger

    def Builder_create_network(self, this: Any, flags: int = 0) -> Any:
        strong = 1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        assert flags == strong, "the network is not strongly typed"
        return self.new("INetworkDefinition", logger=this.__dict__["_logger"])

    def OnnxParser___init__(self, this: Any, network: Any, logger: Any) -> None:
        this.__dict__["_logger"] = logger

    def OnnxParser_parse_from_file(self, this: Any, model: str) -> bool:
        if said := self.ways.get("parser"):
            self.say(this.__dict__["_logger"], said)
        return self.registered and not self.ways.get("parser") and Path(model).is_file()

    def OnnxParser_num_errors(self, this: Any) -> int:
        return 1

    def OnnxParser_get_error(self, this: Any, index: int) -> Any:
        return self.new("ParserError")

    def ParserError_desc(self, this: Any) -> str:
        return "no such file"

    def Builder_create_builder_config(self, this: Any) -> Any:
        return self.new("IBuilderConfig", flags=[])

    def IBuilderConfig_create_timing_cache(self, this: Any, serialized: bytes) -> Any:
        return self.new("ITimingCache", content=bytes(serialized))

    def IBuilderConfig_set_timing_cache(self, this: Any, cache: Any, ignore_mismatch: bool) -> bool:
        fits = not cache.__dict__["_content"].startswith(b"foreign")
        if fits:
            this.__dict__["_cache"] = cache
        return fits

    def IBuilderConfig_get_timing_cache(self, this: Any) -> Any:
        return this.__dict__["_cache"]

    def ITimingCache_serialize(self, this: Any) -> Any:
        return self.memory(this.__dict__["_content"] + b"+")

    def Builder_create_optimization_profile(self, this: Any) -> Any:
        return self.new("IOptimizationProfile")

    def IOptimizationProfile_set_shape(self, this: Any, name: str, low: Any, best: Any, high: Any) -> None:
        assert isinstance(low, self.trt.Dims)

    def Dims___init__(self, this: Any, *sizes: Any) -> None:
        this.__dict__["_sizes"] = sizes

    def IBuilderConfig_set_flag(self, this: Any, flag: Any) -> None:
        this.__dict__["_flags"].append(flag.name)

    def Builder_build_serialized_network(self, this: Any, network: Any, config: Any) -> Any:
        for number in range(self.ways.get("warns", 0)):
            self.say(this.__dict__["_logger"], f"Skipping tactic {number}", "WARNING")
        if said := self.ways.get("refuses"):
            self.say(this.__dict__["_logger"], said)
            return None
        assert config.profiling_verbosity is self.trt.ProfilingVerbosity.DETAILED
        assert config.DLA_core is None  # strong typing and a DLA exclude each other: trtexec is the way to one
        told = {"version": self.version, "precision": self.ways.get("precision", "fp16")}
        return self.memory(MAGIC + json.dumps(told).encode())

    def Runtime___init__(self, this: Any, logger: Any) -> None:
        this.__dict__["_logger"] = logger

    def Runtime_deserialize_cuda_engine(self, this: Any, plan: bytes) -> Any:
        told = json.loads(bytes(plan)[len(MAGIC) :]) if bytes(plan).startswith(MAGIC) else {}
        if tuple(told.get("version", ())) != self.version or not self.registered:
            self.say(this.__dict__["_logger"], "Serialization assertion magicTagRead == kMAGIC failed.")
            return None
        return self.new("ICudaEngine", told=told)

    def ICudaEngine_num_io_tensors(self, this: Any) -> int:
        return 2

    def ICudaEngine_device_memory_size_v2(self, this: Any) -> int:
        return 4096

    def ICudaEngine_get_tensor_name(self, this: Any, index: int) -> str:
        return ("images", "output0")[index]

    def ICudaEngine_get_tensor_mode(self, this: Any, name: str) -> Any:
        return self.trt.TensorIOMode.INPUT if name == "images" else self.trt.TensorIOMode.OUTPUT

    def ICudaEngine_get_tensor_dtype(self, this: Any, name: str) -> Any:
        return self.trt.DataType.FLOAT

    def ICudaEngine_create_execution_context(self, this: Any, *_: Any) -> Any:
        return self.new("IExecutionContext", at={}, told=this.__dict__["_told"])

    def ICudaEngine_create_engine_inspector(self, this: Any) -> Any:
        return self.new("EngineInspector", told=this.__dict__["_told"])

    def EngineInspector_get_engine_information(self, this: Any, format: Any) -> str:
        assert format is self.trt.LayerInformationFormat.JSON
        told = this.__dict__["_told"]
        return layers_json(11 if self.version >= (11, 0) else 10, told["precision"])

    def IExecutionContext_get_tensor_shape(self, this: Any, name: str) -> tuple[int, ...]:
        return self.ways.get("shape", SHAPE)

    def IExecutionContext_set_input_shape(self, this: Any, name: str, shape: Any) -> bool:
        assert tuple(shape) == SHAPE
        return True

    def IExecutionContext_set_tensor_address(self, this: Any, name: str, memory: int) -> bool:
        this.__dict__["_at"][name] = memory
        return True

    def IExecutionContext_execute_async_v3(self, this: Any, stream_handle: int) -> bool:
        assert isinstance(stream_handle, int)
        at = this.__dict__["_at"]
        count = int(np.prod(SHAPE))
        source = (ctypes.c_float * count).from_address(at["images"])
        target = (ctypes.c_float * count).from_address(at["output0"])
        target[:] = (2 * np.frombuffer(memoryview(source), np.float32)).tolist()
        return True

    def IExecutionContext_report_to_profiler(self, this: Any) -> bool:
        assert this.enqueue_emits_profile is False
        for place, (name, *_) in enumerate(LAYERS):
            this.profiler.report_layer_time(name, 0.125 * (place + 1))
        return True
