"""tests/matrix/run.py: which versions of Ultralytics it takes, and that one is there only once it is whole."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.matrix import run


def test_an_install_that_was_stopped_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "PLACE", tmp_path / ".matrix")
    stops = [True, False]

    def pip(argv: list[str], **_: Any) -> Any:
        assert argv[-1] == "ultralytics==8.4.184"
        (part := Path(argv[argv.index("--target") + 1]) / "ultralytics").mkdir(parents=True)
        if stops.pop(0):
            raise KeyboardInterrupt
        (part / "__init__.py").write_text("")

    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(KeyboardInterrupt):
        run.unpacked("8.4.184")
    assert list((tmp_path / ".matrix").iterdir()) == []
    (tmp_path / ".matrix" / "8.4.184" / "bin").mkdir(parents=True)  # as older code left it
    for _ in range(2):
        folder = run.unpacked("8.4.184")
        assert (folder / "ultralytics" / "__init__.py").is_file() and not stops
    assert [one.name for one in folder.parent.iterdir()] == ["8.4.184"]


def test_the_newest_version_is_that_of_today_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def pip(argv: list[str], **_: Any) -> Any:
        asked.append(argv)
        report = {"install": [{"metadata": {"version": f"8.4.19{len(asked)}"}}]}
        return SimpleNamespace(returncode=0, stdout=json.dumps(report), stderr="")

    monkeypatch.setattr(subprocess, "run", pip)
    assert [run.newest_below("8.5") for _ in range(2)] == ["8.4.191", "8.4.192"]
    assert asked[0][-1] == "ultralytics<8.5"
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1, stdout="", stderr="no index\n")
    )
    with pytest.raises(SystemExit, match=r"below 8\.5 was not found: no index; next: --versions A,B"):
        run.newest_below("8.5")
