"""--trust wherever a checkpoint or a dataset is read: without it, nothing of theirs is executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.main import get_command
from typer.testing import CliRunner

from edgeprune.cli import app
from edgeprune.errors import DataError
from tests.situations import catalogue, models
from tests.situations.commands import COMMANDS, Inputs, arguments

TRUSTING = sorted({name.partition(" ")[0] for name, what in COMMANDS.items() if what.uses & {"weights", "data"}})


class Foreign(nn.Module):
    """An activation that is neither Ultralytics' nor torch's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Good inputs, but for a class in the checkpoint."""
    root = tmp_path_factory.mktemp("trust")
    good = catalogue.good(root)
    made = models.answering(models.model())
    made.model[0].act = Foreign()
    return Inputs(models.saved(made, root / "foreign.pt"), good.onnx, good.data, good.profile, good.imgsz)


@pytest.mark.parametrize("name", TRUSTING)
def test_every_command_that_reads_weights_or_a_dataset_takes_it(name: str) -> None:
    command: Any = get_command(app)
    assert any("--trust" in one.opts for one in command.commands[name].params)


@pytest.mark.parametrize("name", ["val", "parity", "bench", "compare", "export"])
def test_a_foreign_class_is_loaded_with_it_and_refused_without(name: str, given: Inputs, tmp_path: Path) -> None:
    argv = [str(word) for word in arguments(name, given, tmp_path)]
    refused = CliRunner().invoke(app, argv)
    assert isinstance(refused.exception, DataError)
    assert "Foreign" in str(refused.exception) and "--trust" in str(refused.exception)
    ran = CliRunner().invoke(app, [*argv, "--trust"])
    assert ran.exit_code in (0, 5), ran.exception


@pytest.mark.parametrize("name", ["val onnx", "parity onnx", "quantize int8 cpu"])
def test_the_script_of_a_dataset_runs_with_it_alone(name: str, given: Inputs, tmp_path: Path) -> None:
    import shutil

    import yaml

    assert given.data is not None
    shutil.copytree(given.data.parent, tmp_path / "data")
    data = tmp_path / "data" / given.data.name
    (tmp_path / "data" / "images").rename(tmp_path / "data" / "later")
    script = f"import os\nos.rename({str(tmp_path / 'data' / 'later')!r}, {str(tmp_path / 'data' / 'images')!r})\n"
    content = {**yaml.safe_load(data.read_text()), "path": str(tmp_path / "data"), "download": script}
    data.write_text(yaml.safe_dump(content))
    (tmp_path / "out").mkdir()
    inputs = Inputs(given.weights, given.onnx, data, given.profile, given.imgsz)
    argv = [str(word) for word in arguments(name, inputs, tmp_path / "out")]
    refused = CliRunner().invoke(app, argv)
    assert isinstance(refused.exception, DataError) and "give --trust" in str(refused.exception)
    assert not (tmp_path / "data" / "images").exists()
    ran = CliRunner().invoke(app, [*argv, "--trust"])
    assert ran.exit_code in (0, 5), ran.exception
