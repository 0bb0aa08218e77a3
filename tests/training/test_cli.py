"""The commands finetune, sparsify and iterate: arguments reach the settings, and results are printed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from edgeprune import checkpoint
from edgeprune.artifact import sha256_of
from edgeprune.cli import training as cli
from edgeprune.cli.settings import training_arguments
from edgeprune.data.digits import CLASSES
from edgeprune.errors import DataError, TargetError
from edgeprune.training.arguments import SHORT_RUN
from tests.training.narrow import narrow_checkpoint

app = typer.Typer()
COMMANDS = ("finetune", "sparsify", "iterate")
for command in COMMANDS:
    app.command()(getattr(cli, command))


def quick(narrow: Path, digits: Path, out: Path, *more: str) -> list[str]:
    given = {"--data": digits, "--out": out, "--epochs": 1, "--batch": 8, "--imgsz": 64, "--device": "cpu"}
    return [str(narrow), *(str(part) for pair in given.items() for part in pair), "--quiet", *more]


def test_finetune_writes_a_checkpoint_and_prints_its_figure(tmp_path: Path, narrow: Path, digits: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["finetune", *quick(narrow, digits, out, "--train", "mosaic=0.0")])
    assert result.exit_code == 0, result.output
    assert "on the validation split (epoch 1 of 1" in result.output.replace("\n", "")
    trained = checkpoint.load(out / "best.pt")
    assert trained.train_args["mosaic"] == 0.0
    assert trained.train_args["epochs"] == 1


def test_sparsify_prints_its_verdict(tmp_path: Path, narrow: Path, digits: Path) -> None:
    result = CliRunner().invoke(app, ["sparsify", *quick(narrow, digits, tmp_path / "out", "--lambda", "0.01")])
    assert result.exit_code == 0, result.output
    assert "scales below 0.01" in result.output
    assert "from 0.01 " in result.output
    assert (tmp_path / "out" / "scales.json").is_file()
    assert "absolute bias β" in (tmp_path / "out" / "scales.html").read_text()


def test_help_says_what_holds_for_this_training() -> None:
    """All rounds share epochs and time, and a short one has no mosaic; sparsity takes no optimiser that undoes it."""
    told = {name: CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "300"}).output for name in COMMANDS}
    assert f"of all rounds together; a round of fewer than {SHORT_RUN} trains without mosaic" in told["iterate"]
    assert "Time that all rounds take together" in told["iterate"]
    assert "together" not in told["finetune"]
    refused = CliRunner().invoke(app, ["sparsify", "w.pt", "--data", "d.yaml", "--optimizer", "MuSGD"])
    assert refused.exit_code == 2 and "'NAdam', 'RAdam', 'RMSprop'." in " ".join(refused.output.split())


@pytest.mark.parametrize("pair", ["mosaic", "=3", "mo-saic=1"])
def test_a_training_argument_is_a_pair(pair: str) -> None:
    with pytest.raises(TargetError, match="NAME=VALUE"):
        training_arguments([pair])


def test_training_arguments_are_read_as_yaml() -> None:
    pairs = ["mosaic=0.5", "cos_lr=false", "freeze=[0, 1]", "cache=disk"]
    assert training_arguments(pairs) == {"mosaic": 0.5, "cos_lr": False, "freeze": [0, 1], "cache": "disk"}


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("weight_decay=5e-4", 0.0005),
        ("lrf=1e-2", 0.01),
        ("lrf=.5", 0.5),
        ("box=7.5E+0", 7.5),
        ("auto_augment=None", None),
        ("cache=none", None),
        ("optimizer=", None),
        ("project=1:30", "1:30"),
        ("project=1:30.5", "1:30.5"),
        ("name=1e", "1e"),
        ("nbs=64", 64),
    ],
)
def test_numbers_of_training_arguments_are_those_that_people_write(pair: str, value: Any) -> None:
    [read] = training_arguments([pair]).values()
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--until", "0.01"], "--baseline"),
        (["--until", "map < 3", "--baseline", "0.5"], "map_drop <= 0.01"),
        (["--baseline", "0.5"], "--until"),
    ],
    ids=["no baseline", "no condition", "a baseline alone"],
)
def test_an_accuracy_goal_needs_a_condition_and_a_baseline(
    tmp_path: Path, narrow: Path, digits: Path, options: list[str], words: str
) -> None:
    result = CliRunner().invoke(app, ["finetune", *quick(narrow, digits, tmp_path / "out", *options)])
    assert isinstance(result.exception, TargetError)
    assert words in str(result.exception)


@pytest.mark.parametrize("baseline", ["gone.pt", "other.pt"], ids=["missing", "other classes"])
def test_a_baseline_that_says_nothing_is_refused(tmp_path: Path, narrow: Path, digits: Path, baseline: str) -> None:
    narrow_checkpoint(tmp_path / "other.pt", names=("cat", "dog"))
    options = ["--until", "0.01", "--baseline", str(tmp_path / baseline)]
    result = CliRunner().invoke(app, ["finetune", *quick(narrow, digits, tmp_path / "out", *options)])
    assert isinstance(result.exception, DataError)
    assert baseline in str(result.exception)
    assert "\n" not in str(result.exception)


@pytest.mark.parametrize(
    "options", [["--teacher"], ["--until", "map_drop <= 0.5", "--baseline"]], ids=lambda given: given[-1]
)
def test_a_teacher_or_baseline_of_other_channels_is_refused(
    tmp_path: Path, narrow: Path, digits: Path, options: list[str]
) -> None:
    grey = narrow_checkpoint(tmp_path / "grey.pt", names=CLASSES, factor=1.0, channels=1)
    result = CliRunner().invoke(app, ["finetune", *quick(narrow, digits, tmp_path / "out", *options, str(grey))])
    assert isinstance(result.exception, DataError), result.output
    assert "grey.pt takes" in str(result.exception) and "channels" in str(result.exception)
    assert "\n" not in str(result.exception)


def test_the_baseline_may_be_weights_or_the_teacher(tmp_path: Path, narrow: Path, full: Path, digits: Path) -> None:
    """Random weights find nothing, so the goal is met after the first of three epochs."""
    options = ["--until", "map_drop <= 0.5", "--teacher", full]
    arguments = quick(narrow, digits, tmp_path / "out", *map(str, options), "--epochs", "3")
    result = CliRunner().invoke(app, ["finetune", *arguments])
    assert result.exit_code == 0, result.output
    assert "(epoch 1 of 1" in result.output.replace("\n", "")
    kept = json.loads((tmp_path / "out" / ".training" / "unpruned.json").read_text())
    assert kept["weights"] == sha256_of(full)


def test_iterate_prints_every_round(tmp_path: Path, narrow: Path, digits: Path) -> None:
    options = ["--macs-speed-up", "1.2", "--rounds", "1", "--importance", "lamp"]
    result = CliRunner().invoke(app, ["iterate", *quick(narrow, digits, tmp_path / "out", *options)])
    assert result.exit_code == 0, result.output
    assert "round 1: MACs x1.2" in result.output


@pytest.mark.parametrize("module", ["edgeprune.cli.training", "edgeprune.cli.data", "edgeprune.settings"])
def test_the_command_line_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'ultralytics', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
