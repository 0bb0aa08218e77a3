"""Every command has an example in its help, and every example runs and ends as it says.

The examples run as they are written, in one scratch folder that holds ``best.pt`` (a small trained detector),
``data.yaml`` (a small dataset), ``theirs.pt`` (another pruner's), ``engine.engine`` (bytes in the place of a plan of
TensorRT) and a pair of keys, ``minisign.key`` and ``minisign.pub``. Any other file that an example reads is made by
running the example that writes it.
"""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from minisign import KeyPair

from docs.pages import DOCS, ROOT, Example, commands, examples
from edgeprune import cli
from tests.pruning.theirs import their_checkpoint, their_pruner

COMMANDS = commands()
EXAMPLES = [example for name, command in COMMANDS.items() for example in examples(name, command)]
WRITING = {"out", "output", "save_plan", "plot", "json", "csv", "html", "report"}
"""Parameters whose value is a file or folder that the command writes."""
HOW = "docs/contributing.md says how"


@dataclass(frozen=True)
class Ended:
    """How an example ended."""

    code: int
    out: str
    err: str


def writes(example: Example) -> set[Path]:
    """Files and folders that an example leaves, by its options; a build's default run directory too."""
    found = {Path(example.stdout)} if example.stdout else set()
    for parameter in COMMANDS[example.command].params:
        if parameter.name in WRITING and not parameter.is_flag:
            found |= {Path(value) for name, value in pairwise(example.argv) if name in parameter.opts}
    if example.command == "build" and not found:
        found = {Path("runs") / example.argv[example.argv.index("--target") + 1]}
    return {path for path in found if str(path) != "-"}


class Scratch:
    """A folder in which examples run, each once, after those that write what it reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ended: dict[Example, Ended] = {}
        self._running: list[Example] = []

    def run(self, example: Example) -> Ended:
        if example not in self._ended:
            self._running.append(example)
            for other in EXAMPLES:
                if other not in self._running and self._reads(example, writes(other)):
                    self.run(other)
            self._running.remove(example)
            self._ended[example] = self._call(example)
        return self._ended[example]

    def _reads(self, example: Example, written: set[Path]) -> bool:
        words = [Path(word) for word in example.argv if not word.startswith("-")]
        return any(
            not (self.folder / word).exists() and path in (word, *word.parents)
            for path in written - writes(example)
            for word in words
        )

    def _call(self, example: Example) -> Ended:
        out, err, code = io.StringIO(), io.StringIO(), 0
        with _inside(self.folder), redirect_stdout(out), redirect_stderr(err):
            sys.argv = ["edgeprune", *example.argv]
            try:
                cli.main()
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
        if example.stdout:
            (self.folder / example.stdout).write_text(out.getvalue())
        return Ended(code, out.getvalue(), err.getvalue())


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before, argv = Path.cwd(), sys.argv
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        sys.argv = argv


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Scratch:
    """What every example may start from."""
    from ultralytics.utils import ROOT as ULTRALYTICS

    from edgeprune.data.digits import write_digits
    from edgeprune.settings import TrainSettings
    from edgeprune.training.pretrain import pretrain

    folder = tmp_path_factory.mktemp("examples")
    write_digits(folder, train=16, val=8, test=8, imgsz=64)
    work = tmp_path_factory.mktemp("pretraining")
    model = yaml.safe_load((ULTRALYTICS / "cfg/models/v8/yolov8.yaml").read_text())
    model["scales"] = {"n": [0.33, 0.125, 1024]}
    (work / "narrow.yaml").write_text(yaml.safe_dump(model))
    settings = TrainSettings(epochs=2, batch=8, device="cpu", imgsz=64, quiet=True)
    trained = pretrain(work / "narrow.yaml", data=folder / "data.yaml", out=work / "out", settings=settings, work=work)
    (folder / "best.pt").write_bytes(trained.best.read_bytes())
    (folder / "engine.engine").write_bytes(b"plan")
    pair = KeyPair.generate()
    (folder / "minisign.key").write_bytes(bytes(pair.secret_key))
    (folder / "minisign.pub").write_bytes(bytes(pair.public_key))
    with their_pruner() as module:
        their_checkpoint(folder / "theirs.pt", "yolov8", module, {4: (1, 0.5)})
    return Scratch(folder)


SLOW = ("sweep", "frontier", "build", "search", "profile", "bench", "compare", "sparsify", "iterate")
GIVEN = ("best.pt", "data.yaml", "theirs.pt", "engine.engine", "minisign.key", "minisign.pub")


def is_slow(example: Example, asked_for: tuple[Example, ...] = ()) -> bool:
    """Whether it, or what writes a file that it reads, takes most of a minute: such as a whole build."""
    chain = (*asked_for, example)
    words = [Path(word) for word in example.argv if not word.startswith("-")]
    needed = [word for word in words if word.parts and word.parts[0] not in GIVEN]
    writers = [
        next((one for one in EXAMPLES if one not in chain and writes(one) & {word, *word.parents}), None)
        for word in needed
        if not writes(example) & {word, *word.parents}
    ]
    return example.command in SLOW or any(is_slow(one, chain) for one in writers if one is not None)


MARKED = [pytest.param(one, marks=[pytest.mark.slow] if is_slow(one) else [], id=one.text) for one in EXAMPLES]


@pytest.mark.parametrize("example", MARKED)
def test_example_runs_and_ends_as_it_says(scratch: Scratch, example: Example) -> None:
    ended = scratch.run(example)
    said = ", ".join(map(str, sorted(example.exits)))
    assert ended.code in example.exits, (
        f"`{example.text}` ended with {ended.code}, its help says {said}; a file that no other example writes is "
        f"missing, or `# exits N: why` belongs at its end ({HOW}):\n{ended.err or ended.out}"
    )
    assert "Traceback" not in ended.err
    assert {path for path in writes(example) if not (scratch.folder / path).exists()} == set(), "said to be written"


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("prune best.pt --ratio 0.3 --data data.yaml --batch 0 --dry-run", "greater than or equal to 1"),
        ("finetune best.pt --data data.yaml --imgsz 64 --device 99 --out elsewhere", "device '99' is not here"),
    ],
)
def test_what_cannot_be_done_is_one_line(scratch: Scratch, line: str, seen: str) -> None:
    ended = scratch.run(Example(line.split()[0], line, tuple(line.split()), None, frozenset({2})))
    assert ended.code == 2
    assert seen in " ".join(ended.err.split()) and "Traceback" not in ended.err


def test_the_criterion_of_ones_own_on_the_page_runs(scratch: Scratch) -> None:
    [code] = re.findall(
        r"^```python\n(.*?)^```", (DOCS / "guides" / "pruning.md").read_text(), re.DOTALL | re.MULTILINE
    )
    path = os.pathsep.join([str(ROOT), *sys.path])
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=scratch.folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert float(ended.stdout.split()[-1]) >= 1.5


@pytest.mark.parametrize("name", COMMANDS)
def test_command_has_help_an_example_and_a_page(name: str) -> None:
    command = COMMANDS[name]
    assert command.help, f"`edgeprune {name}` has no docstring"
    shown = examples(name, command)
    assert shown, f"`edgeprune {name}` has no example in its docstring; {HOW}"
    words = tuple(name.split())
    assert all(example.argv[: len(words)] == words for example in shown), "an example of another command"
    undescribed = [one.name for one in command.params if not one.help]
    assert undescribed == [], f"`edgeprune {name}`: parameters without help"
    page = DOCS / "commands" / f"{words[0]}.md"
    assert page.exists(), f"`edgeprune {name}` has no page; `make pages` writes {page.name}"
    assert f"<!-- begin: command {name} -->" in page.read_text(), f"`make pages` adds it to {page.name}"


def test_examples_are_read_from_help_with_exit_codes_and_continued_lines() -> None:
    class Command:
        help = "Do.\n\nMore.\n\nExamples:\n  edgeprune x a \\\n    --b 'c d'  # exits 4 or 5: absent\n  edgeprune x > y"
        epilog = None

    first, second = examples("x", Command())
    assert first.argv == ("x", "a", "--b", "c d")
    assert first.exits == {4, 5}
    assert (second.argv, second.stdout, second.exits) == (("x",), "y", {0})


def test_a_command_that_ends_with_a_code_of_its_own_says_so() -> None:
    """Whoever calls it from a script cannot read it out of a table."""
    ending = []
    for file in sorted(Path(cli.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and "typer.Exit(" in ast.unparse(node) and ast.get_docstring(node):
                public = not node.name.startswith("_")
                assert not public or "exits" in (ast.get_docstring(node) or "").lower(), f"{file.name}: {node.name}"
                ending += [node.name] if public else []
    assert len(ending) > 5
