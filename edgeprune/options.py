"""Options that commands share: checks of their values before anything slow begins, the line that repeats them, and what
they are called where a value is refused."""

from __future__ import annotations

import contextlib
import json
import numbers
import os
import shlex
from collections.abc import Generator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from edgeprune.artifact import sha256_of
from edgeprune.errors import TargetError

PLOTS = (".html", ".png", ".svg", ".pdf")
BEST = "best.pt"
"""What a training leaves in its folder."""
RESULTS = "results.csv"
"""The figures of its epochs there."""
RESULT = "result.json"
"""What it says of the two in its scratch folder: their digests by name; until it knows them, that it writes them."""
WRITING = "writing"
"""Key of the folder that it writes them into."""
TRAINING = ".training"
"""Folder of its epochs there, with which the same command goes on."""
STDOUT = "-"
"""As the path of a file: what would be written there is printed."""


OUT = ("--out", "--output", "-o")
"""How every command is told where its result goes."""

Value = TypeVar("Value")
Number = TypeVar("Number")
_running: ContextVar[Mapping[str, str] | None] = ContextVar("running", default=None)


@contextlib.contextmanager
def options_of_command(options: Mapping[str, str] | None) -> Generator[None, None, None]:
    """For as long as a command runs: :func:`named` gives its options.

    Args:
        options: argument of Python to the option that it comes from; None where names are neither, as in a file.
    """
    token = _running.set(options)
    try:
        yield
    finally:
        _running.reset(token)


def is_command_running() -> bool:
    """Whether what is read was given on the command line."""
    return _running.get() is not None


def option(argument: str) -> str | None:
    """The option of the running command that an argument comes from; None where it has none, and from Python."""
    return (_running.get() or {}).get(argument)


def named(argument: str, value: str = "") -> str:
    """An argument as whoever gave it calls it, for messages: ``--drop-blocks 2`` where the running command has such an
    option, ``drop_blocks=2`` elsewhere.

    Args:
        argument: its name in Python.
        value: as it is typed; the name alone where it is empty.
    """
    flag = option(argument)
    sign = "=" if flag is None else " "
    return f"{flag or argument}{sign if value else ''}{value}"


def refuse_without_effect(arguments: Mapping[str, object], why: str) -> None:
    """Refuse arguments that were given (are not None) beside others that leave them without an effect.

    Args:
        arguments: by their names in Python; those that a command has under another name, by its options.
        why: what the message says of each.

    Raises:
        TargetError: there is one.
    """
    if seen := [named(argument) for argument, value in arguments.items() if value is not None]:
        raise TargetError(f"{', '.join(seen)}: {why}; leave {'them' if len(seen) > 1 else 'it'} out")


def output_file(path: Path | None) -> Path | None:
    """A file that a command will write, as a callback of its option; gives it back.

    Raises:
        TargetError: it is a folder, or its folder is missing or read-only.
    """
    if path is None:
        return None
    output_file_with_folder(path)
    folder = path.absolute().parent
    if not folder.is_dir():
        raise TargetError(f"{path}: there is no folder {folder}; make it first: mkdir -p {shlex.quote(str(folder))}")
    return path


def output_file_with_folder(path: Path | str) -> None:
    """Refuse a file that a function of Python will write, and whose folder it makes where that is missing.

    Raises:
        TargetError: it is a folder, or its folder is read-only or cannot be made.
    """
    path = Path(path)
    if path.is_dir():
        raise TargetError(f"{path}: is a folder; give the path of a file")
    if path.exists() and not path.is_file():  # written atomically, a file would take its place
        raise TargetError(f"{path}: is a device or a pipe; give the path of a file")
    output_folder(path.parent)


def output_file_or_stdout(path: Path | None) -> Path | None:
    """As :func:`output_file` where ``-`` is not a file but stdout."""
    return path if str(path) == STDOUT else output_file(path)


def output_plot(path: Path | None) -> Path | None:
    """As :func:`output_file` for a figure; TargetError also for a format that is not one of :data:`PLOTS`."""
    return _ends_in(path, "a plot", PLOTS)


def output_figure(path: Path | None) -> Path | None:
    """As :func:`output_plot` for a figure that is drawn in lines alone."""
    return _ends_in(path, "a figure", (".svg", ".html"))


def output_checkpoint(path: Path | None) -> Path | None:
    """As :func:`output_file`; TargetError also for an ending by which it would be taken for something else."""
    return _ends_in(path, "a checkpoint", (".pt",))


def output_graph(path: Path | None) -> Path | None:
    """As :func:`output_checkpoint` for an ONNX graph."""
    return _ends_in(path, "an ONNX graph", (".onnx",))


def output_json(path: Path | None) -> Path | None:
    """As :func:`output_checkpoint` for a plan or a table."""
    return _ends_in(path, "what is written there", (".json",))


def output_page_or_stdout(path: Path | None) -> Path | None:
    """As :func:`output_checkpoint` for a page, where ``-`` is not a file but stdout."""
    return path if str(path) == STDOUT else _ends_in(path, "a page", (".html", ".htm"))


def _ends_in(path: Path | None, what: str, suffixes: Sequence[str]) -> Path | None:
    if path is not None and path.suffix not in suffixes:
        raise TargetError(f"{path}: {what} ends in {', '.join(suffixes)}")
    return output_file(path)


def output_folder(path: Path | None) -> Path | None:
    """A folder that a command makes or goes on with, as a callback of its option; gives it back.

    Raises:
        TargetError: a file stands in its way, or it cannot be made where it would lie.
    """
    if path is not None:
        nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if not nearest.is_dir():
            raise TargetError(f"{path}: {nearest} is a file; give the path of a folder")
        if not os.access(nearest, os.W_OK):
            raise TargetError(f"{path}: the folder {nearest} is not writable; give another")
    return path


def output_training(path: Path | None) -> Path | None:
    """A folder that a training leaves its ``best.pt`` in, as a callback of its option; gives it back.

    Raises:
        TargetError: as :func:`refuse_other_training`, with the epochs in ``.training`` beside it.
    """
    if path is not None:
        refuse_other_training(path, path / TRAINING)
    return path


def refuse_other_training(out: Path | str, work: Path | str) -> None:
    """Refuse a folder where the result of a training would replace that of another one.

    Args:
        out: folder that the result goes into.
        work: scratch folder of the training; before it is made where it is ``.training`` in ``out``.

    Raises:
        TargetError: as :func:`output_folder`, or a ``best.pt`` or ``results.csv`` lies there that is neither beside a
            ``.training`` nor what the training in ``work`` left.
    """
    out, work = Path(out), Path(work)
    output_folder(out)
    left = next((out / name for name in (BEST, RESULTS) if (out / name).exists()), None)
    if left is None or (out / TRAINING).is_dir():
        return
    said = read_result(work)
    if said.get(WRITING) == str(out.absolute()) or (left.is_file() and sha256_of(left) == said.get(left.stem)):
        return
    whose = f" and no {TRAINING} beside it, so that it is not known to be edgeprune's, and this training"
    if work.absolute() != (out / TRAINING).absolute():
        whose = f" that is not known to be of the training in {work}, which"
    raise TargetError(f"{out}: has a {left.name}{whose} would replace it; give another folder, or move it away")


def read_result(work: Path) -> dict[str, Any]:
    """What a training says in :data:`RESULT` of its scratch folder; empty where it says nothing."""
    try:
        said = json.loads((work / RESULT).read_text())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


FOLDER_CHECKS = (output_folder, output_training)
"""Callbacks of options that name a folder to make or to go on in."""
FILE_CHECKS = (
    output_file,
    output_file_or_stdout,
    output_plot,
    output_figure,
    output_checkpoint,
    output_graph,
    output_json,
    output_page_or_stdout,
)
"""Callbacks of options that name a file to write."""


def refuse_source(output: Path | str | None, *sources: Path | str | None) -> None:
    """Refuse a file to write that is one of those that are read: hours of training may lie in it, and nothing else.

    Raises:
        TargetError: it is, by whatever path or link.
    """
    if output is None or not Path(output).exists():
        return
    for source in sources:
        with contextlib.suppress(OSError, ValueError):  # no path, or none that a file can have
            if source is not None and Path(output).samefile(source):
                raise TargetError(f"{output}: is {source}, which is read; give the result another path")


def without_none(values: Mapping[str, Value | None]) -> dict[str, Value]:
    """Arguments that were given: those that are None were not."""
    return {name: value for name, value in values.items() if value is not None}


def command_line(name: str, arguments: Sequence[object], options: Mapping[str, object], trust: bool) -> list[str]:
    """A command of edgeprune that repeats what was asked, one item an argument; an option that is None is left out."""
    argv = ["edgeprune", name, *map(str, arguments)]
    for option, value in options.items():
        if value is not None:
            argv += [f"--{option.replace('_', '-')}", _text(value)]
    return [*argv, "--trust"] if trust else argv


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return exact(value) if isinstance(value, float) else str(plain_number(value))


def exact(value: float) -> str:
    """A number as text that reads as the same number, and as people write it: ``8``, ``8.333333333333334``."""
    return repr(plain_number(value)).removesuffix(".0")


def plain_number(value: Number) -> Number | int | float:
    """A number of NumPy as the one of Python, which JSON has and people type; anything else as it is."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) and not isinstance(value, int) else value
