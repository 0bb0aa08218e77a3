"""Every `python -m benchmarks.X ...` that a page or the registry of benchmarks shows is taken by the parser of X."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks import suite

BENCHMARKS = Path(suite.__file__).parent
STARTS = r"python (?:-m benchmarks\.|benchmarks/)"
SHOWN = re.compile(rf"`({STARTS}[^`]+)`")


def commands_in(text: str) -> list[str]:
    """Lines of fenced code, and code within lines, that start a benchmark."""
    fenced = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line.strip() for block in fenced for line in block.replace("\\\n", " ").splitlines()]
    rest = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [line for line in lines if re.match(STARTS, line)] + [
        " ".join(found.split()) for found in SHOWN.findall(rest)
    ]


TEXTS = {page.name: page.read_text() for page in sorted(BENCHMARKS.glob("*.md"))}
TEXTS |= {f"NO_RUNNER of {page}": why for page, why in suite.NO_RUNNER.items()}
FOUND = list(dict.fromkeys((name, command) for name, text in TEXTS.items() for command in commands_in(text)))


def words_of(command: str) -> list[str]:
    """The module that a command starts, and what follows."""
    as_module = re.sub(r"^python benchmarks/(\w+)\.py", r"python -m benchmarks.\1", command)
    return shlex.split(as_module, comments=True)[2:]


class Parsed(Exception):
    """Ends a benchmark once its arguments were read."""


def parses(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a benchmark up to where it has read its arguments; raises SystemExit where it refuses them."""
    module, *words = words_of(command)
    spec = find_spec(module)
    assert spec is not None, f"no module {module}"
    taken = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *given: Any, **named: Any) -> None:
        taken(self, *given, **named)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(sys, "argv", [module, *words])
    main = importlib.import_module(f"{module}.__main__" if spec.submodule_search_locations else module).main
    with pytest.raises(Parsed):
        main()


@pytest.mark.parametrize(("page", "command"), FOUND)
def test_a_command_that_is_shown_is_taken(
    page: str, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, *words = words_of(command)
    if not words:  # the script is named, not its command
        assert find_spec(module) is not None
        return
    try:
        parses(command, monkeypatch)
    except SystemExit:
        pytest.fail(f"{page}: `{command}`: {capsys.readouterr().err.splitlines()[-1]}")


def test_a_command_that_is_refused_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(FOUND) > 40
    with pytest.raises(SystemExit):
        parses("python -m benchmarks.bench_resolution MODEL.onnx", monkeypatch)
    assert commands_in("By `python -m benchmarks.x\nA` and\n```\npython -m benchmarks.y \\\n  B\n```\n") == [
        "python -m benchmarks.y    B",
        "python -m benchmarks.x A",
    ]
