"""The public names: importing them costs nothing, completion sees them, and each says what it is."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import edgeprune

PUBLIC = sorted(set(edgeprune.__all__) - {"__version__"})
FUNCTIONS = {name for name in PUBLIC if name.islower()}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_resolves_and_is_described(name: str) -> None:
    public = getattr(edgeprune, name)
    assert callable(public)
    assert (inspect.getdoc(public) or "").strip(), name


def test_completion_and_type_checkers_see_every_name() -> None:
    assert set(edgeprune.__all__) <= set(dir(edgeprune))
    source = ast.parse(Path(edgeprune.__file__).read_text())
    imported = {
        name.asname or name.name for node in ast.walk(source) if isinstance(node, ast.ImportFrom) for name in node.names
    }
    assert set(edgeprune.__all__) <= imported
    assert sorted(edgeprune.__all__) == edgeprune.__all__


@pytest.mark.parametrize(
    ("names", "first"),
    [
        (("build", "search", "sweep", "profile"), "target"),
        (("prune", "finetune", "sparsify", "export"), "weights"),
        (("simplify", "quantize", "val"), "model"),
    ],
)
def test_functions_agree_on_their_first_argument(names: tuple[str, ...], first: str) -> None:
    for name in names:
        assert next(iter(inspect.signature(getattr(edgeprune, name)).parameters)) == first, name


def test_what_is_a_dataset_is_called_data() -> None:
    for name in ("build", "search", "sweep", "prune", "finetune", "sparsify", "quantize", "val", "compare"):
        assert "data" in inspect.signature(getattr(edgeprune, name)).parameters, name


def test_a_function_stays_one_when_the_folder_of_its_name_is_imported() -> None:
    code = """
import edgeprune
import edgeprune.export.graph, edgeprune.search.probing, edgeprune.sweep.point
from edgeprune.search import probing
from edgeprune.sweep.point import Job
assert all(type(f).__name__ == "function" for f in (edgeprune.export, edgeprune.search, edgeprune.sweep))
assert probing.run_probes and Job
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=1200)


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = """
import sys
import edgeprune
dir(edgeprune)
assert not {"torch", "ultralytics", "onnx", "onnxruntime", "pydantic", "numpy"} & set(sys.modules), sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=1200)
