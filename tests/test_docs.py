"""The pages in docs/: generated parts are as the code is, the strict build passes, command lines in them parse."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

import edgeprune
from docs.pages import DOCS, ROOT, commands, filled, pages
from edgeprune.target import load_target, target_schema
from tests.command_lines import parses

PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = {".md", ".py", ".yaml", ".jinja", ".ipynb", ".cpp", ".txt"}
WANTED = pages()
LINES = [
    (path.relative_to(ROOT).as_posix(), line.strip())
    for path in (ROOT / "README.md", *PAGES)
    for block in re.findall(r"^```[^\n]*\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip().startswith("edgeprune ")
]
# Through an interpreter, or a launcher of one: `torchrun --nproc_per_node 2 -m edgeprune finetune ...`
MODULES = sorted(
    {
        (path.relative_to(ROOT).as_posix(), *found)
        for path in (ROOT / "README.md", *PAGES)
        for found in re.findall(r"-m (edgeprune[\w.]*)((?: [^\n`]*)?)", path.read_text())
    }
)


def synopsis(line: str) -> bool:
    """A usage line (``edgeprune show DIRECTORY``) rather than a command."""
    return any(re.fullmatch(r"\[?[A-Z_]+\]?(\.\.\.\]?)?", word) for word in line.split())


@pytest.mark.parametrize(("page", "line"), [one for one in LINES if not synopsis(one[1])], ids=lambda text: text)
def test_command_line_in_readme_and_pages_parses(page: str, line: str) -> None:
    try:
        parses(line)
    except Exception as error:
        pytest.fail(f"{page}: `{line}`: {getattr(error, 'message', error)}")


@pytest.mark.parametrize(("page", "module", "rest"), MODULES)
def test_module_that_a_page_starts_can_be_started(page: str, module: str, rest: str) -> None:
    spec = find_spec(module)
    assert spec is not None, page
    assert not spec.submodule_search_locations or find_spec(f"{module}.__main__"), f"{page}: {module} is a package"
    if module == "edgeprune" and rest.strip():
        parses(f"edgeprune{rest}")


@pytest.mark.parametrize("path", [ROOT / "README.md", *PAGES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_options_named_in_the_text_exist(path: Path) -> None:
    known = {
        name for command in commands().values() for one in command.params for name in (*one.opts, *one.secondary_opts)
    }
    known |= {"--help"}
    known |= {"--fp16", "--int8", "--init"}  # trtexec's, whose others have a capital letter, and docker's
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    found = (name for code in re.findall(r"`([^`]+)`", text) for name in re.findall(r"(?<![\w-])--[a-z][\w-]*", code))
    named = {name for name in found if name == name.lower()}  # trtexec writes its own like --exportTimes
    assert named - known == set()


@pytest.mark.parametrize("line", ["edgeprune buidl", "edgeprune val a.onnx", "edgeprune lint a.onnx --no-such-option"])
def test_a_line_that_does_not_parse_is_noticed(line: str) -> None:
    with pytest.raises(Exception, match=r"[Nn]o such|Missing"):
        parses(line)


@pytest.mark.parametrize("path", WANTED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_generated_parts_are_as_the_code_is(path: Path) -> None:
    assert path.exists(), "run: make pages"
    assert path.read_text() == WANTED[path], "an option, key or help text has changed; run: make pages"


def test_every_section_of_a_profile_has_its_keys_on_the_page() -> None:
    schema = target_schema()
    parts = {f"#/$defs/{name}" for name in schema["$defs"]}
    page = (DOCS / "guides" / "targets.md").read_text()
    found = set()
    for key, value in schema["properties"].items():
        named = {one["$ref"] for one in (value, *value.get("anyOf", ())) if "$ref" in one}
        if not named:
            continue
        assert f"\n### {key}\n" in page and f"| `{key}` | [keys below](#{key}) |" in page, key
        [reference] = named
        for name in schema["$defs"][reference.rpartition("/")[2]]["properties"]:
            assert f"| `{key}.{name}` |" in page, f"{key}.{name}"
        found.add(reference)
    assert found == parts, "a part of the schema that no section of the page is about"


def test_a_page_that_drifted_is_noticed() -> None:
    text = (DOCS / "guides" / "targets.md").read_text()
    damaged = text.replace("`0.02`", "`0.03`")
    assert damaged != text
    assert filled(damaged, {}) == text


def test_every_page_is_in_the_navigation() -> None:
    def listed(entry: object) -> set[str]:
        if isinstance(entry, str):
            return {entry}
        return set().union(*map(listed, entry.values() if isinstance(entry, dict) else entry))  # type: ignore[union-attr]

    written = {path.relative_to(DOCS).as_posix() for path in PAGES}
    shown = listed(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert written - shown == set(), "pages that nav in mkdocs.yml lacks"
    assert shown - written == set(), "in nav, but no such page"


def test_every_public_name_is_in_the_reference() -> None:
    reference = set(re.findall(r"^::: (\S+)", (DOCS / "api.md").read_text(), re.MULTILINE))
    for name in set(edgeprune.__all__) - {"__version__"}:
        public = getattr(edgeprune, name)
        assert f"{public.__module__}.{public.__qualname__}" in reference, name
    for name in reference:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_no_line_asks_an_index_for_edgeprune() -> None:
    """It is in none: what would be installed under its name is somebody else's. `version.pip_extra` names packages."""
    folders = ("docs", "edgeprune", "tests", "benchmarks", "targets")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in TEXTS]
    files += [ROOT / name for name in ("README.md", "Makefile", "Dockerfile")]
    assert len(files) > 400
    asking = re.compile(r"install\b[^\n`]*?[\s'\"]edgeprune(?:\[|[<>=~]=|['\"`]|$)", re.MULTILINE)
    assert asking.search("pip install 'edgeprune[sign]'") and asking.search("pip install edgeprune")
    found = [f"{path.relative_to(ROOT)}: {hit[0]}" for path in files for hit in asking.finditer(path.read_text())]
    assert [line for line in found if not line.startswith("tests/test_docs.py")] == []


def test_the_strict_build_passes_and_asks_no_network(tmp_path: Path) -> None:
    pytest.importorskip("zensical", reason="the docs tool is in the extra dev")
    site = built(copied(tmp_path))
    html = {path.relative_to(site).as_posix(): path.read_text() for path in site.rglob("*.html")}
    assert {path.relative_to(DOCS).with_suffix(".html").as_posix() for path in PAGES} <= set(html)
    assert not list(site.rglob("*.py"))
    for page, text in html.items():
        fetched = re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=\"([^\"]+)", text)
        fetched += [link for tag in re.findall(r"<link[^>]*>", text) for link in re.findall(r"href=\"([^\"]+)", tag)]
        assert [link for link in fetched if re.match(r"(?:https?:)?//", link)] == [], page
        for link in fetched:
            folder = site if link.startswith("/") else (site / page).parent  # 404.html is served from anywhere
            assert folder.joinpath(link.partition("?")[0].lstrip("/")).exists(), f"{page}: {link}"


def test_a_broken_link_ends_the_build(tmp_path: Path) -> None:
    pytest.importorskip("zensical", reason="the docs tool is in the extra dev")
    folder = copied(tmp_path)
    page = folder / "docs" / "index.md"
    page.write_text(page.read_text() + "\n[nowhere](guides/nowhere.md)\n")
    with pytest.raises(subprocess.CalledProcessError):
        built(folder)


def copied(folder: Path) -> Path:
    """What the build reads, in a folder that it may write to."""
    for name in ("docs", "edgeprune"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "mkdocs.yml", folder / "mkdocs.yml")
    return folder


def built(folder: Path) -> Path:
    argv = [sys.executable, "-m", "zensical", "build", "--clean"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=1200)
    print(done.stdout, done.stderr, sep="\n")  # which pytest shows where it failed
    done.check_returncode()
    return folder / "site"


PROFILES = [
    (path.relative_to(ROOT).as_posix(), block)
    for path in (ROOT / "README.md", *PAGES)
    for block in re.findall(r"^```yaml\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    if "extends:" in block
]


@pytest.mark.parametrize(("page", "block"), PROFILES)
def test_profiles_on_pages_load(tmp_path: Path, page: str, block: str) -> None:
    (tmp_path / "camera.yaml").write_text(block)
    assert load_target(tmp_path / "camera.yaml").name == "camera", page


def test_the_lines_that_the_jetson_page_explains_are_lines_that_are_printed() -> None:
    sources = "".join(path.read_text() for path in sorted((ROOT / "edgeprune").rglob("*.py")))
    printed = re.sub(r'"\s*\n\s*f?"', "", sources)  # strings that go on in the next line
    printed = re.sub(r"\{[^{}]*\}", "…", printed)
    table = (DOCS / "jetson.md").read_text().partition("## When a line ends in an error")[2]
    told = [found for row in table.splitlines() for found in re.findall(r"^\| `([^`]+)` \|", row)]
    assert len(told) > 12
    for line in told:
        for part in (part.strip(" ;,") for part in line.split("…")):
            assert part in printed, f"docs/jetson.md explains {line!r}, which nothing prints"


def test_a_folder_that_is_copied_to_a_board_is_not_put_inside_the_one_of_last_time() -> None:
    """``scp -r`` does so where its name is there already."""
    copied = []
    for path in (ROOT / "README.md", *PAGES, *sorted((ROOT / "edgeprune").rglob("*.py"))):
        text = path.read_text()
        for found in re.finditer(r"scp -r \S.*?(?:USER@BOARD|user@orin):(\S+)", text):
            copied.append(found[1])
            assert f"rm -rf {found[1]}" in text[: found.start()], f"{path}: {found[0]}"
    assert {"edgeprune-device", "edgeprune-bundle"} <= set(copied)
