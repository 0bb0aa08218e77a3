"""The commands finetune and sparsify: arguments reach the settings, and results are printed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from edgeprune import checkpoint
from edgeprune.errors import TargetError
from edgeprune.training import cli

app = typer.Typer()
app.command()(cli.finetune)
app.command()(cli.sparsify)


def quick(narrow: Path, digits: Path, out: Path, *more: str) -> list[str]:
    given = {"--data": digits, "--out": out, "--epochs": 1, "--batch": 8, "--imgsz": 64}
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


@pytest.mark.parametrize("pair", ["mosaic", "=3", "mo-saic=1"])
def test_a_training_argument_is_a_pair(pair: str) -> None:
    with pytest.raises(TargetError, match="NAME=VALUE"):
        cli.training_arguments([pair])


def test_training_arguments_are_read_as_yaml() -> None:
    pairs = ["mosaic=0.5", "cos_lr=false", "freeze=[0, 1]", "cache=disk"]
    assert cli.training_arguments(pairs) == {"mosaic": 0.5, "cos_lr": False, "freeze": [0, 1], "cache": "disk"}


def test_until_drop_needs_a_baseline(tmp_path: Path, narrow: Path, digits: Path) -> None:
    result = CliRunner().invoke(app, ["finetune", *quick(narrow, digits, tmp_path / "out", "--until-drop", "0.01")])
    assert isinstance(result.exception, TargetError)


@pytest.mark.parametrize("module", ["edgeprune.training.cli", "edgeprune.data.cli", "edgeprune.training.settings"])
def test_the_command_line_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'ultralytics', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
