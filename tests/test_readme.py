"""The README keeps its promises: commands, verbs and links that exist."""

from __future__ import annotations

import re
from pathlib import Path

from edgeprune.target import shipped_targets

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


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


def test_the_readme_is_short_and_says_early_what_it_is_for_and_where_it_has_not_run() -> None:
    lines = README.splitlines()
    assert len(lines) < 200
    early = "\n".join(lines[:20])
    assert "Not yet on a Jetson" in early
    heads = [line for line in lines if line.startswith("## ")]
    assert heads[:2] == ["## Why not just …", "## Try it"]


def test_one_range_of_python_is_named_everywhere() -> None:
    found = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert found is not None
    words = f"Python 3.{found[1]} to 3.{int(found[2]) - 1}"
    assert words in README and words in (ROOT / "Makefile").read_text()


def test_the_demo_installs_nothing_that_only_others_need() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    needed = project[project.index("\ndependencies = [") :].partition("\n]")[0]
    assert not re.search(r'"(ray|nbclient|pyright)\b', needed) and '"torch>' in needed
    makefile = (ROOT / "Makefile").read_text()
    installs = re.findall(r"^demo\S*:.*?(install\S*)", makefile, re.MULTILINE)
    assert installs and set(installs) == {"install"}
