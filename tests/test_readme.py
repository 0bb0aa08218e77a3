"""The README keeps its promises: a tree that is the repository's, commands and verbs that exist."""

from __future__ import annotations

import re
from pathlib import Path

from edgeprune.target import shipped_targets

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def tree() -> set[str]:
    """Paths in the README's tree, from its indentation."""
    lines = README.split("## The tree\n\n```\n")[1].split("```")[0].splitlines()
    found, folders = set(), []
    for line in lines:
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders[depth:] = [name.rstrip("/")] if name.endswith("/") else []
        found.add("/".join([*folders[:depth], name.rstrip("/")]))
    return found


def test_the_tree_has_a_line_for_every_file_of_the_package_and_of_targets() -> None:
    files = {
        path.relative_to(ROOT).as_posix()
        for folder, pattern in (("edgeprune", "*.py"), ("targets", "*.yaml"))
        for path in (ROOT / folder).rglob(pattern)
        if path.name != "__init__.py"
    }
    assert files - tree() == set(), "missing in the README's tree"
    assert {path for path in tree() if not (ROOT / path).exists()} == set(), "in the tree but not in the repository"


def test_every_make_verb_in_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    own = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    used = set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE))
    assert {"demo", "test"} <= used
    assert used <= own | set(shipped_targets())


def test_every_link_in_the_readme_leads_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
