"""What a stage's libraries print: all of it in the log, of a training's log only the epochs on the screen."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeprune.logs import EPOCH_WATCHERS, capture_output

LOGGER = logging.getLogger("ultralytics")


@pytest.fixture
def screen() -> Iterator[io.StringIO]:
    """What Ultralytics' logger writes to the screen."""
    before, level = LOGGER.handlers, LOGGER.level
    stream = io.StringIO()
    LOGGER.handlers = [logging.StreamHandler(stream)]
    LOGGER.setLevel(logging.INFO)
    yield stream
    LOGGER.handlers = before
    LOGGER.setLevel(level)


def train() -> None:
    """The order in which Ultralytics logs and calls back in a training of two epochs."""

    def call(event: str) -> None:
        for name, watcher in EPOCH_WATCHERS:
            if name == event:
                watcher(None)

    LOGGER.info("layers")
    call("on_train_start")
    LOGGER.info("begins")
    for epoch in (1, 2):
        call("on_train_epoch_start")
        LOGGER.info(f"epoch {epoch}")
        call("on_fit_epoch_end")
    LOGGER.info("finished")
    LOGGER.warning("careful")


def test_of_a_training_the_epochs_are_on_the_screen_and_everything_in_the_log(
    screen: io.StringIO, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for _ in range(2):  # a second training starts as the first did
        screen.truncate(0)
        screen.seek(0)
        with capture_output(tmp_path / "log.txt", show=True):
            train()
            print("printed")
        assert screen.getvalue().split("\n") == ["begins", "epoch 1", "epoch 2", "careful", ""]
    assert capsys.readouterr().out == "printed\nprinted\n"
    log = (tmp_path / "log.txt").read_text().split()
    assert log == ["layers", "begins", "epoch", "1", "epoch", "2", "finished", "careful", "printed"] * 2


def test_of_any_other_stage_nothing_is_on_the_screen(
    screen: io.StringIO, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with capture_output(tmp_path / "log.txt", show=False):
        train()
        print("printed", file=sys.stderr)
    assert screen.getvalue() == "" and capsys.readouterr().err == ""
    assert "printed" in (tmp_path / "log.txt").read_text()
    LOGGER.info("afterwards")
    assert screen.getvalue() == "afterwards\n"
