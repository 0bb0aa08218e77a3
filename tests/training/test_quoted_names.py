"""Folders with an apostrophe in their names, which Ultralytics drops: a home of O'Brien, an --out of Jo's."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from edgeprune import checkpoint
from edgeprune.errors import DataError
from edgeprune.settings import TrainSettings
from edgeprune.training.early_stop import baseline_accuracy
from edgeprune.training.finetune import finetune
from edgeprune.training.run import run_training
from edgeprune.unpickle import own_name
from tests.training.test_resume import Killed, stop_after


@pytest.fixture
def quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose name has an apostrophe, and the place of temporary files too."""
    folder = tmp_path / "Jo's"
    (folder / "tmp").mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "tmp"))
    return folder


def test_training_goes_on_and_is_judged_in_a_quoted_folder(
    quoted: Path, narrow: Path, full: Path, digits: Path, settings: TrainSettings
) -> None:
    student, teacher = (Path(shutil.copy(file, quoted / name)) for file, name in ((narrow, "s.pt"), (full, "t.pt")))
    settings = replace(settings, teacher=teacher, response=1.0, feature=1.0)
    arguments = {"data": digits, "settings": settings, "work": quoted / "work"}
    with pytest.raises(Killed):
        finetune(student, out=quoted / "out", watchers=stop_after(1), **arguments)
    # what stands under the name without the quote is another file
    shutil.copytree(quoted, quoted.with_name("Jos"))
    for file in quoted.with_name("Jos").rglob("*.pt"):
        file.write_bytes(b"another")
    done = finetune(student, out=quoted / "out", **arguments)
    assert done.summary.epochs_run == 2
    assert checkpoint.load(done.best).sha256 == checkpoint.sha256_of(quoted / "out" / "best.pt")
    run_training(quoted / "sparse", student, data=digits, settings=replace(settings, teacher=None, epochs=1))


def test_a_baseline_in_a_quoted_folder_is_validated(
    quoted: Path, narrow: Path, digits: Path, settings: TrainSettings
) -> None:
    weights = Path(shutil.copy(narrow, quoted / "b.pt"))
    figures = [
        baseline_accuracy(file, data=digits, settings=settings, work=quoted / f"work-{file.name}")
        for file in (weights, narrow)
    ]
    assert figures[0] == figures[1]


def test_where_every_temporary_folder_is_quoted_another_is_asked_for(
    quoted: Path, narrow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = Path(shutil.copy(narrow, quoted / "w.pt"))
    with own_name(weights) as name:
        assert "'" not in str(name) and name.resolve() == weights.resolve()
    monkeypatch.setattr("edgeprune.unpickle.PLACES_OF_LINKS", ())
    with pytest.raises(DataError, match=r"drops quotes.*\$TMPDIR"), own_name(weights):
        pass
