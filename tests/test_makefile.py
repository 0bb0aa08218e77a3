"""What is given to make is used by one of its goals, or refused in one line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ASKED = [
    "WEIGHTS",
    "DATA",
    "LATENCY_MS",
    "SPEED_UP",
    "MACS_SPEED_UP",
    "MAX_MAP_DROP",
    "IMGSZ",
    "EPOCHS",
    "DEVICE",
    "SEED",
    "OUT",
]
USED = {
    "cpu": ASKED,
    "gpu-check": ["WEIGHTS", "DATA", "SPEED_UP", "IMGSZ", "EPOCHS", "OUT", "PHASES", "TARGET"],
    "bench": ["HOURS", "WEIGHTS", "DATA", "ONLY", "OUT"],
    "test": ["WORKERS", "PYTEST"],
    "test-slow": ["WORKERS", "PYTEST"],
    "test-hostile": ["WORKERS", "PYTEST"],
    "test-matrix": ["PYTEST"],
    "install": [],
    "demo": [],
    "check": [],
    "help": [],
    "clean": [],
}
EVERY = sorted({name for names in USED.values() for name in names})

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*words: str) -> subprocess.CompletedProcess[str]:
    """Those words to make, by hand: not as part of the make that runs these tests. Nothing is run."""
    around = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", "-n", *words], capture_output=True, text=True, check=False, cwd=ROOT, env=around)


@pytest.mark.parametrize("goal", USED)
def test_a_variable_is_used_by_its_goal_or_refused(goal: str) -> None:
    used = USED[goal]
    if used:
        done = make(goal, *(f"{name}=given-{name}." for name in used))
        assert done.returncode == 0, done.stderr
        assert set(re.findall(r"given-([A-Z_]+)\.", done.stdout)) == set(used)
    unused = [name for name in EVERY if name not in used]
    refused = make(goal, *(f"{name}=1" for name in unused))
    [line] = refused.stderr.splitlines()
    assert refused.returncode == 2 and set(re.findall(r"[A-Z_]+", line.partition(": m")[0].partition(": n")[0])) >= {
        *unused
    }


def test_a_variable_of_one_of_several_goals_is_taken() -> None:
    assert make("install", "cpu", "WEIGHTS=a.pt", "DATA=d.yaml", "SEED=3").returncode == 0
    refused = make("install", "demo", "EPOCHS=3")
    assert refused.returncode == 2 and "EPOCHS: make demo is the same for everybody" in refused.stderr
    assert "BUGDET: not used by make cpu; used are DATA DEVICE" in make("cpu", "BUGDET=3").stderr


@pytest.mark.parametrize(
    ("goal", "words"),
    [
        ("cpu", ["OUT=~/runs/first"]),
        ("cpu", ["WEIGHTS=~/best.pt", "DATA=d.yaml"]),
        ("cpu", ["WEIGHTS=best.pt", "DATA=~/d.yaml"]),
        ("gpu-check", ["OUT=~/runs/first"]),
        ("gpu-check", ["TARGET=~/ours.yaml"]),
        ("bench", ["OUT=~/runs/first"]),
        ("bench", ["OUT=~"]),
    ],
)
def test_a_tilde_that_no_shell_replaced_is_refused_before_anything_runs(goal: str, words: list[str]) -> None:
    refused = make(goal, *words)
    [given] = [word for word in words if "~" in word]
    [line] = refused.stderr.splitlines()
    assert refused.returncode == 2 and not refused.stdout
    assert line.partition("*** ")[2].startswith(
        f"{given}: the shell did not expand ~; write {given.replace('~', '$HOME')}."
    )


def test_a_tilde_is_left_where_a_shell_replaces_it_or_nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--weights ~/a.pt ~/b.pt" in make("bench", "WEIGHTS=~/a.pt ~/b.pt").stdout
    assert make("cpu", "OUT=./~/runs").returncode == 0
    monkeypatch.setenv("OUT", "~/runs")  # of something else
    assert make("check").returncode == 0


@pytest.mark.parametrize(
    ("goal", "meant"), [("jetson-nano", "jetson-orin-nano"), ("cpuu", "cpu"), ("isntall", "install")]
)
@pytest.mark.parametrize("given", [[], ["WEIGHTS=a.pt", "DATA=b.yaml"]], ids=["bare", "with variables"])
def test_a_misspelt_goal_is_answered_with_the_nearest_and_not_with_its_variables(
    goal: str, meant: str, given: list[str]
) -> None:
    refused = make("help", goal, *given)
    [line] = refused.stderr.splitlines()
    assert refused.returncode == 2 and not refused.stdout
    assert f"no target '{goal}'; did you mean {meant}? " in line and "; next: make help" in line
    assert "not used" not in line


def test_a_goal_like_none_is_told_what_there_is() -> None:
    line = make("qqqq").stderr
    assert "no target 'qqqq'; allowed are help install " in line
    assert " jetson-orin " in line and "; next: make help" in line


def test_every_goal_is_known_and_what_users_call_is_in_the_help() -> None:
    goals = set(re.findall(r"^([a-z][a-z-]*):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"install", "demo", "wheel"} <= goals
    for goal in goals:
        assert make(goal).returncode == 0, goal
    said = make("help").stdout
    for goal in goals - {"help", "install-dev", "headers", "distclean", "schemas", "pages", "wheel"}:
        assert f"make {goal} " in said, goal


def test_a_value_with_blanks_is_one_value_and_a_folder_of_packages_has_none() -> None:
    taken = make("cpu", "WEIGHTS=a.pt", "DATA=d.yaml", "OUT=runs/a b=c")
    assert taken.returncode == 0 and '--out "runs/a b=c"' in taken.stdout
    refused = make("cpu", "VENV=/tmp/a b")
    assert refused.returncode == 2 and "VENV=/tmp/a b: make takes no path with a blank" in refused.stderr
