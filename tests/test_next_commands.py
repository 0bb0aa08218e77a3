"""Every command of edgeprune that the code prints is one that can be typed as it stands: its options exist, and what
it needs is given, with a placeholder in capitals where only the user knows it.

Two kinds are looked at less or not: of a line that leaves something out by ``…`` only the options, and of one that is
joined from a list of words (``shlex.join``) nothing, for it is no text of the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command_lines import Named, named_in, refused

PACKAGE = Path(__file__).resolve().parents[1] / "edgeprune"
FILLED = "8"  # for what an f-string fills in: a number, a name and a path at once


def texts_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of every string of a module, but for docstrings: of those the help is tested by its examples."""
    parts = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for inner in ast.walk(node)}
    parts |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield (
                node.lineno,
                "".join(str(part.value) if isinstance(part, ast.Constant) else FILLED for part in node.values),
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.lineno, node.value


def printed() -> Iterator[tuple[str, Named]]:
    """Where it stands, and the command."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for line, text in texts_in(ast.parse(path.read_text())):
            for named in named_in(text):
                yield f"{path.relative_to(PACKAGE)}:{line}", named
    for path in sorted(PACKAGE.rglob("*.jinja")):
        text = re.sub(r"\{\{.*?\}\}", FILLED, path.read_text())
        for named in named_in(text):
            yield path.name, named


def test_every_command_that_is_printed_can_be_typed_as_it_stands() -> None:
    found = list(printed())
    assert sum(named.to_type for _, named in found) > 30
    wrong = {f"{where}: `{named.line}`: {why}" for where, named in found if (why := refused(named))}
    assert wrong == set()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("is missing; next: edgeprune sign", "Missing"),
        ("its nodes: edgeprune lint --nodes", "Missing"),
        ("edgeprune finetune WEIGHTS --train single_cls=true", "Missing"),
        ("run 'edgeprune finetune WEIGHTS --dat DATA', then", "no such option: --dat"),
        ("next: edgeprune quantize FP32.onnx --precision int8", "INT8 needs --data"),
        ("next: edgeprune quantize FP32.onnx --precision fp32", "makes no fp32"),
        ("again: edgeprune prune ORIGINAL.pt --macs-speed-up 2", "needs -o"),
        ("again: edgeprune prune ORIGINAL.pt --dry-run.", "needs one amount"),
    ],
)
def test_a_command_that_cannot_be_typed_is_noticed(text: str, why: str) -> None:
    [named] = named_in(text)
    assert why in refused(named)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("edgeprune val judges on another split", "edgeprune val"),
        ("whose figures edgeprune knows, as edgeprune build leaves it", "edgeprune build"),
        ("(edgeprune build --weights yolo11n-pose.yaml …) takes them", "edgeprune build --weights yolo11n-pose.yaml …"),
        ("that fits: edgeprune device probe names it", "edgeprune device probe"),
        ("by: edgeprune search WEIGHTS --target cpu --speed-up N -o a.pt", None),
        ("`edgeprune quantize FP32.onnx --precision int8 --data data.yaml`, which", None),
    ],
)
def test_what_is_only_named_or_can_be_typed_is_left_alone(text: str, line: str | None) -> None:
    [named] = named_in(text)
    assert refused(named) == ""
    assert line is None or named.line == line
