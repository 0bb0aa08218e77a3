"""The public names: importing them costs nothing, completion sees them, and each says what it is."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

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


def handed_out(cls: Any) -> set[str]:
    """Names of the data classes of edgeprune in the fields of one, however deep."""
    found: set[str] = set()
    waiting: list[Any] = list(get_type_hints(cls).values())
    while waiting:
        one = waiting.pop()
        waiting += get_args(one)
        if is_dataclass(one) and isinstance(one, type) and one.__name__ not in found:
            found.add(one.__name__)
            waiting += get_type_hints(one).values()
    return found


@pytest.mark.parametrize("name", ["Frontier", "Sweep"])
def test_what_a_result_hands_out_is_public_and_documented(name: str) -> None:
    documented = (Path(__file__).parents[1] / "docs" / "api.md").read_text()
    for one in {name} | handed_out(getattr(edgeprune, name)):
        assert one in edgeprune.__all__, one
        assert f".{one}\n" in documented, one


@pytest.mark.parametrize("name", ["BuildRecord", "Frontier", "History", "Sweep"])
def test_every_record_says_the_version_of_its_form(name: str) -> None:
    module = {"BuildRecord": "build", "Frontier": "frontier", "History": "history", "Sweep": "sweep"}[name]
    assert "schema_version" in get_type_hints(getattr(import_module(f"edgeprune.records.{module}"), name))


def test_functions_of_the_public_api_have_no_seams_of_tests() -> None:
    assert not {"steps", "screener", "everything"} & set(inspect.signature(edgeprune.frontier).parameters)
