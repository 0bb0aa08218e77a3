"""Errors are sent between processes: every class arrives as what it was."""

from __future__ import annotations

import contextlib
import pickle
import pkgutil
from collections.abc import Iterator
from importlib import import_module

import pytest

import edgeprune
from edgeprune.errors import EdgepruneError, ToolError


def subclasses(of: type[EdgepruneError]) -> Iterator[type[EdgepruneError]]:
    yield of
    for one in of.__subclasses__():
        yield from subclasses(one)


def every_class() -> list[type[EdgepruneError]]:
    for found in pkgutil.walk_packages(edgeprune.__path__, "edgeprune."):
        with contextlib.suppress(ImportError, AttributeError):  # what runs beside TensorRT or Triton alone
            if not found.name.endswith("__main__"):
                import_module(found.name)
    return sorted(set(subclasses(EdgepruneError)), key=lambda one: one.__name__)


MADE = {ToolError: lambda: ToolError(["trtexec", "--onnx=a.onnx"], 1, "reading\nout of memory")}
"""What is not made of a message alone."""


def test_every_error_comes_out_of_another_process_as_it_went_in() -> None:
    classes = [one for one in every_class() if one.__module__.startswith("edgeprune.")]
    assert {"ToolError", "DeviceError", "OutputError", "ConnectionLost"} <= {one.__name__ for one in classes}
    for one in classes:
        error = MADE[one]() if one in MADE else one("what was seen; next: a command")
        error.log = "all that it printed"
        there = pickle.loads(pickle.dumps(error))  # noqa: S301
        assert type(there) is one and str(there) == str(error) and vars(there) == vars(error), one


@pytest.mark.parametrize("attribute", ["argv", "returncode", "tail"])
def test_a_tool_error_keeps_what_it_was_made_of(attribute: str) -> None:
    error = MADE[ToolError]()
    there = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert getattr(there, attribute) == getattr(error, attribute)
