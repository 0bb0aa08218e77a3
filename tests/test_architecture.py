"""The floors of the house: the contracts in pyproject.toml, which ``make check`` runs, catch every kind of breach."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package and the contracts in a folder where they may be broken."""
    shutil.copytree(ROOT / "edgeprune", tmp_path / "edgeprune", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(folder: Path) -> tuple[int, list[str]]:
    """Exit code of the command of ``make check`` in a folder, and the names of the contracts that are broken."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1200)
    return ended.returncode, re.findall(r"^(.+?) BROKEN", ended.stdout, re.MULTILINE)


def append(path: Path, text: str) -> None:
    path.write_text((path.read_text() if path.exists() else "") + text)


def test_the_house_keeps_its_contracts(copy: Path) -> None:
    assert lint(copy) == (0, [])


FLOORS, CIRCLES, LIGHT = (
    "A room imports only rooms below it",
    "No circle of files or rooms",
    "What judges figures needs no torch",
)


@pytest.mark.parametrize(
    ("file", "text", "broken"),
    [
        ("samples/gates.py", "\nimport edgeprune.runtimes.base\n", {FLOORS, CIRCLES}),
        ("pruning/plan.py", "\ndef late():\n    from edgeprune.report import text\n", {FLOORS}),
        (
            "target/schema.py",
            "\nif TYPE_CHECKING:\n    from edgeprune.stages.base import Stage\n",
            {FLOORS, CIRCLES, LIGHT},
        ),
        ("measure/bench.py", "\nimport edgeprune\n", {FLOORS}),
        ("attic.py", '"""A room that has no floor."""\n', {FLOORS}),
        ("pruning/channels.py", "\nfrom edgeprune.pruning import structure\n", {CIRCLES}),
        ("samples/statistics.py", "\ndef late():\n    import torch\n", {LIGHT}),
    ],
    ids=["module", "lazy", "types-only", "public-face", "unplaced", "circle", "torch"],
)
def test_a_breach_fails_the_check(copy: Path, file: str, text: str, broken: set[str]) -> None:
    append(copy / "edgeprune" / file, text)
    code, contracts = lint(copy)
    assert code == 1
    assert broken <= set(contracts)


def test_no_file_imports_itself_through_others() -> None:
    """The contract on circles compares siblings; this one sees a package's own ``__init__`` too."""
    graph = grimp.build_graph("edgeprune", cache_dir=None, exclude_type_checking_imports=False)
    waiting = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    while leaves := [module for module, imported in waiting.items() if not imported]:
        waiting = {module: imported - set(leaves) for module, imported in waiting.items() if module not in leaves}
    assert sorted(waiting) == []


RUNS_ALONE = ("agent", "runtimes/bench_worker.py", "runtimes/remote_worker.py")  # jobs, which answer with every error


def test_no_input_is_blamed_for_memory_or_the_installation() -> None:
    """Whoever tells any error of a library as a line about what it was given passes on what that is no reason for."""
    blaming, tries = [], 0
    for path in sorted((ROOT / "edgeprune").rglob("*.py")):
        if path.relative_to(ROOT / "edgeprune").as_posix().startswith(RUNS_ALONE):
            continue
        for tried in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Try)):
            tries += 1
            kinds = ["" if one.type is None else ast.unparse(one.type) for one in tried.handlers]
            if "Exception" not in kinds:
                continue
            handler, before = tried.handlers[kinds.index("Exception")], " ".join(kinds[: kinds.index("Exception")])
            tells = any(isinstance(node, ast.Raise) and node.cause is not None for node in ast.walk(handler))
            if tells and "NOT_OF_THE_INPUT" not in before and not {"ImportError", "MemoryError"} <= {*before.split()}:
                blaming.append(f"{path.relative_to(ROOT)}:{handler.lineno}")
    assert blaming == [] and tries > 100


def test_what_a_printed_command_takes_from_outside_is_quoted() -> None:
    """A folder with a space in its name would be two arguments where the line is typed again."""
    names = "|".join(page.stem for page in (ROOT / "docs" / "commands").glob("*.md"))
    # names of profiles and number formats, what was quoted or stands in the code, and numbers, one of them a constant
    harmless = {"fitting[0]", "precision", "option", "calibrated", "run", "DEFAULT_OPSET"}
    assert "build" in names
    printed = re.compile(rf"edgeprune (?:{names})\b([^\n\"]*)")
    found, seen = [], 0
    for file in (ROOT / "edgeprune").rglob("*.py"):
        text = re.sub(r"\"\s*\n\s*f?\"", "", file.read_text())  # a text over several lines
        for rest in printed.findall(text):
            seen += 1
            inserted = re.findall(r"(?<!\{)\{([^{}]+)\}", rest)
            found += [f"{file.name}: {one}" for one in inserted if not one.startswith("shlex.") and one not in harmless]
    assert found == []
    assert seen > 40
