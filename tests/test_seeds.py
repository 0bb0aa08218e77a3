"""A seed that no library takes is wrong input: one line and exit code 2 from every command and function with a seed."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer.main

import edgeprune
from edgeprune import cli
from edgeprune.data.digits import write_digits
from edgeprune.errors import EdgepruneError
from edgeprune.pruning.batches import calibration_batches
from edgeprune.settings import MOST_SEED

WRONG = [-1, MOST_SEED + 1]


def seeded_commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if subcommands := getattr(command, "commands", None):
        for name, one in subcommands.items():
            yield from seeded_commands(one, (*path, name))
    elif any("--seed" in parameter.opts for parameter in command.params):
        yield path


COMMANDS = sorted(seeded_commands(typer.main.get_command(cli.app)))
PUBLIC = [getattr(edgeprune, name) for name in edgeprune.__all__]
FUNCTIONS = [one for one in (*PUBLIC, write_digits, calibration_batches) if inspect.isfunction(one)]
SEEDED = [one for one in FUNCTIONS if "seed" in inspect.signature(one).parameters]
SEEDED += [edgeprune.TrainSettings, edgeprune.BenchSettings]


@pytest.mark.parametrize("seed", WRONG)
@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_command_refuses_a_seed_out_of_range(
    path: tuple[str, ...], seed: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["edgeprune", *path, "--seed", str(seed)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "Invalid value for '--seed'" in said and str(0 if seed < 0 else MOST_SEED) in said


@pytest.mark.parametrize("seed", [*WRONG, 1.5, True, "1"])
@pytest.mark.parametrize("function", SEEDED, ids=lambda function: function.__name__)
def test_a_function_refuses_a_seed_out_of_range_before_it_reads_anything(
    function: Callable[..., Any], seed: object
) -> None:
    needed: dict[str, Any] = {
        name: "missing"
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    }
    with pytest.raises(EdgepruneError, match=f"seed={seed!r}: ") as refused:
        function(**needed, seed=seed)
    assert refused.value.exit_code == 2


def test_every_command_and_function_with_a_seed_is_looked_at() -> None:
    assert {("build",), ("prune",), ("finetune",), ("data", "digits"), ("sensitivity",)} <= set(COMMANDS)
    assert {"build", "search", "profile", "sweep", "frontier", "compare", "quantize_onnx", "prune"} <= {
        function.__name__ for function in SEEDED
    }


@pytest.mark.parametrize("seed", [0, MOST_SEED])
def test_the_ends_of_the_range_are_taken(seed: int) -> None:
    import numpy as np
    import torch

    edgeprune.TrainSettings(seed=seed)
    edgeprune.BenchSettings(seed=seed)
    np.random.seed(seed + 1 + 1024)  # Ultralytics' own, in the last process of a large machine
    torch.manual_seed(seed + 1_000_003 * 100_000)  # of the last epoch that is allowed
