"""What an epoch's line says of the time that is left."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from edgeprune.training.run import time_left


@pytest.mark.parametrize(
    ("epoch", "start_epoch", "said"),
    [
        (-1, 0, ""),  # the model as it was given
        (0, 0, ", about 15 min left"),
        (1, 1, ", about 14 min left"),  # a run that goes on has one epoch of its own
        (9, 0, ", about 10 s left"),
        (10, 0, ""),
    ],
)
def test_it_is_the_mean_of_the_epochs_of_this_run(
    epoch: int, start_epoch: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1090.0 if epoch < 9 else 1100.0)
    trainer: Any = SimpleNamespace(epoch=epoch, start_epoch=start_epoch, epochs=11, train_time_start=1000.0)
    assert time_left(trainer) == said


def test_hours_are_said_as_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1090.0)
    trainer: Any = SimpleNamespace(epoch=0, start_epoch=0, epochs=101, train_time_start=1000.0)
    assert time_left(trainer) == ", about 2.5 h left"
