"""Errors are sent between processes: every class arrives as what it was."""

from __future__ import annotations

import contextlib
import pickle
import pkgutil
from collections.abc import Iterator
from importlib import import_module

import pytest

import edgeprune
from edgeprune import cli
from edgeprune.errors import EdgepruneError, StageError, ToolError, only_informs


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


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError("Unable to allocate 3.2 GiB"), "memory is exhausted (Unable to allocate 3.2 GiB)"),
        (ModuleNotFoundError("No module named 'onnxscript'", name="onnxscript"), "next: edgeprune doctor"),
        (ImportError("libGL.so.1: cannot open shared object file"), "libGL.so.1"),
        (ImportError("cannot import name 'x' from 'edgeprune.y'", name="edgeprune.y"), "this is a bug of edgeprune"),
        (KeyError("x"), "this is a bug of edgeprune"),
    ],
    ids=str,
)
def test_what_the_machine_lacks_is_a_line_and_no_bug(
    error: Exception, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    code, err = cli._run(), capsys.readouterr().err
    assert told in err
    is_bug = "this is a bug" in told
    assert code == (cli.BUG_EXIT_CODE if is_bug else StageError.exit_code)
    assert is_bug or err.count("\n") == 1


@pytest.mark.parametrize("error", [StageError("what was seen"), MemoryError("what was seen"), ImportError("seen")])
def test_what_only_informs_ends_in_a_note_whatever_ended_it(error: Exception) -> None:
    notes: list[str] = []
    with only_informs("no picture", notes.append):
        raise error
    assert len(notes) == 1 and notes[0].startswith("no picture: ") and "seen" in notes[0]
