"""Ranges of packages that messages tell to install: from pyproject.toml, stated there alone."""

from __future__ import annotations

import ast
import re
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from edgeprune import version

PACKAGE = Path(__file__).parents[1] / "edgeprune"
STATED = [
    "onnxruntime<2,>=1.20",
    "packaging>=23",
    "unbound",
    'onnxruntime<2,>=1.24; extra == "rtx"',
    "ray<3,>=2.40; extra == 'ray'",
    "tool==1.7; (sys_platform == 'linux' and platform_machine == 'x86_64') and extra == 'parser'",
]


def test_a_package_comes_with_the_range_that_edgeprune_states(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "requires", lambda _: STATED)
    assert version.declared("onnxruntime") == "onnxruntime>=1.20,<2"
    assert version.declared("onnxruntime", "rtx") == "onnxruntime>=1.24,<2"
    assert version.declared("tool", "parser") == "tool==1.7", "on every machine: it is asked for where it can be"
    assert version.declared("packaging") == "packaging>=23"
    assert version.declared("unbound") == "unbound"
    assert version.declared("ray") == "ray", "it belongs to an extra"
    assert version.pip_extra("ray", "ray", "other").endswith(" -m pip install 'ray>=2.40,<3' other")


def test_without_its_metadata_a_package_is_told_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> list[str]:
        raise PackageNotFoundError

    monkeypatch.setattr(version, "requires", absent)
    assert version.declared("ray", "ray") == "ray"
    from edgeprune.runtimes.tensorrt_ import cuda_12_bindings

    assert cuda_12_bindings() == "cuda-bindings<13"
    monkeypatch.setattr(version, "requires", lambda _: ["cuda-bindings<14,>=12.8; extra == 'tensorrt'"])
    assert cuda_12_bindings() == "cuda-bindings>=12.8,<13"


def test_no_range_of_a_package_is_written_in_the_code() -> None:
    project = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    names = set(re.findall(r'^(?:  |.*[\[ ])"([a-z][a-z0-9-]+)(?:\[[a-z-]+\])?[<>=]', project, re.MULTILINE))
    assert {"torch", "ray", "py-minisign", "mlflow-skinny", "onnxruntime-gpu"} <= names
    written = re.compile(rf"(?:{'|'.join(sorted(names))})\s*[<>=~]=?\s*\d[\d.]*(?:,[<>=\d.]+)?")
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 200
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {node.value}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and written.fullmatch(node.value)
    ]
    assert not found
