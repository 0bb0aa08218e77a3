"""Execute docs/compare.ipynb and write it back with its output, without anything of the machine that ran it.

    python docs/run_notebook.py

The tests execute it with the same function and leave the file alone.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).with_name("compare.ipynb")
LONGEST_S = 600  # for one cell


def executed(path: Path = NOTEBOOK) -> nbformat.NotebookNode:
    """The notebook, run from its first cell to its last in a kernel of this Python; a cell that fails is an error."""
    root = str(path.resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=LONGEST_S, kernel_name="python3").execute()
    return stripped(notebook)


def stripped(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without times, warnings, and plain text where there is something better to look at (it names files)."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            data = output.get("data", {})
            if len(data) > 1:
                data.pop("text/plain", None)
    return notebook


if __name__ == "__main__":
    nbformat.write(executed(), NOTEBOOK)
    sys.exit(0)
