"""The notebook of docs/ runs, shows what it says it shows, and holds nothing of the machine that ran it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
NOTEBOOK = DOCS / "compare.ipynb"


def kinds(cells: list[dict]) -> list[set[str]]:
    """What each code cell's output is made of."""
    return [
        {kind for output in cell["outputs"] for kind in (output.get("data") or {output.get("name", "?"): ""})}
        for cell in cells
        if cell["cell_type"] == "code"
    ]


def test_the_committed_output_is_whole_and_names_no_machine() -> None:
    text = NOTEBOOK.read_text()
    for part in ("/tmp/", "/home/", "/root/", "/work/", "Traceback", "PosixPath"):
        assert part not in text, part
    cells = json.loads(text)["cells"]
    assert sum("text/html" in kind for kind in kinds(cells)) >= 3  # the plan, the comparison, a figure
    assert sum("image/png" in kind for kind in kinds(cells)) == 2  # the same images side by side
    assert len(text) < 1_500_000


@pytest.mark.slow
def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nbclient", reason="nbclient is not installed (extra dev)")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed (extra dev)")
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    spec = importlib.util.spec_from_file_location("run_notebook", DOCS / "run_notebook.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.executed(NOTEBOOK)
    committed = json.loads(NOTEBOOK.read_text())["cells"]
    assert kinds(found.cells) == kinds(committed)
