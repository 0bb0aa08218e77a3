"""Kill -9 in the middle of an epoch, then the same call: what an uninterrupted run would have given, bit for bit."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ultralytics.nn.tasks import torch_safe_load

from edgeprune.data.digits import CLASSES
from edgeprune.dataset import Dataset
from edgeprune.settings import TrainSettings
from edgeprune.training.finetune import finetune
from edgeprune.training.run import FinishedRun, _read_request, read_epochs, run_training
from tests.training.narrow import narrow_checkpoint

SETTINGS = TrainSettings(epochs=3, batch=8, device="cpu", imgsz=64, quiet=True)

CHILD = """
import os, signal, sys
from pathlib import Path
from edgeprune.training.run import run_training
from tests.training.test_resume import SETTINGS

def die(trainer):
    if trainer.epoch == 1:
        os.kill(os.getpid(), signal.SIGKILL)

weights, data, work = sys.argv[1:]
run_training(work, weights, data=data, settings=SETTINGS, watchers=[("on_train_batch_end", die)])
"""


class Killed(Exception):
    """Stands for the end of the process where a whole process would take too long."""


def stop_after(epoch: int):
    """A watcher that ends training when ``epoch`` (from 1) has been saved."""

    def stop(trainer) -> None:
        if trainer.epoch + 1 == epoch:
            raise Killed

    return [("on_model_save", stop)]


def state(run: FinishedRun) -> dict[str, Any]:
    return torch_safe_load(str(run.last), safe_only=True)[0]


def assert_equal_runs(one: FinishedRun, two: FinishedRun) -> None:
    a, b = state(one), state(two)
    for key, value in a["edgeprune"]["weights"].items():
        assert torch.equal(value, b["edgeprune"]["weights"][key]), f"live {key}"
    for (key, value), other in zip(a["ema"].state_dict().items(), b["ema"].state_dict().values(), strict=True):
        assert torch.equal(value, other), f"averaged {key}"
    steps = [{int(s["step"]) for s in c["optimizer"]["state"].values()} for c in (a, b)]
    assert steps[0] == steps[1]
    assert len(steps[0]) == 1
    assert a["updates"] == b["updates"] == min(steps[0])
    assert one.best_epoch == two.best_epoch
    without_clock = [[(epoch.number, epoch.figures) for epoch in run.epochs] for run in (one, two)]
    assert without_clock[0] == without_clock[1]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, narrow: Path, digits: Path) -> FinishedRun:
    return run_training(tmp_path_factory.mktemp("whole"), narrow, data=digits, settings=SETTINGS)


def test_kill_nine_in_an_epoch(tmp_path: Path, narrow: Path, digits: Path, uninterrupted: FinishedRun) -> None:
    work = tmp_path / "work"
    command = [sys.executable, "-c", CHILD, str(narrow), str(digits), str(work)]
    killed = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert killed.returncode == -9, killed.stderr
    assert len(read_epochs(work / "run" / "results.csv")) == 1
    told: list[str] = []
    resumed = run_training(
        work, narrow, data=digits, settings=SETTINGS, progress=lambda text, *, done=0, total=0: told.append(text)
    )
    assert told[0] == "training goes on after epoch 1"
    assert len(told) == 3
    assert_equal_runs(uninterrupted, resumed)


def test_killed_between_the_row_and_the_checkpoint(
    tmp_path: Path, narrow: Path, digits: Path, uninterrupted: FinishedRun
) -> None:
    with pytest.raises(Killed):
        run_training(tmp_path, narrow, data=digits, settings=SETTINGS, watchers=stop_after(2))
    results = tmp_path / "run" / "results.csv"
    results.write_text(results.read_text() + results.read_text().splitlines()[-1].replace("2,", "3,", 1) + "\n3,0.1,")
    resumed = run_training(tmp_path, narrow, data=digits, settings=SETTINGS)
    assert [epoch.number for epoch in resumed.epochs] == [1, 2, 3]
    assert_equal_runs(uninterrupted, resumed)


@pytest.mark.parametrize(
    ("response", "feature"),
    [pytest.param(1.0, 0.0, id="answers", marks=pytest.mark.slow), pytest.param(0.0, 6.0, id="features")],
)
def test_resumed_distillation_goes_on_exactly(
    tmp_path: Path, narrow: Path, full: Path, digits: Path, response: float, feature: float
) -> None:
    taught = replace(SETTINGS, epochs=2, teacher=full, response=response, feature=feature)
    whole = run_training(tmp_path / "whole", narrow, data=digits, settings=taught)
    with pytest.raises(Killed):
        run_training(tmp_path / "cut", narrow, data=digits, settings=taught, watchers=stop_after(1))
    assert_equal_runs(whole, run_training(tmp_path / "cut", narrow, data=digits, settings=taught))


def test_resumed_dual_heads_go_on_exactly(tmp_path: Path, digits: Path) -> None:
    short = replace(SETTINGS, epochs=2)
    dual = narrow_checkpoint(tmp_path / "dual.pt", "yolo26n.yaml", names=CLASSES)
    whole = run_training(tmp_path / "whole", dual, data=digits, settings=short)
    with pytest.raises(Killed):
        run_training(tmp_path / "cut", dual, data=digits, settings=short, watchers=stop_after(1))
    assert_equal_runs(whole, run_training(tmp_path / "cut", dual, data=digits, settings=short))


@pytest.mark.parametrize("after", [1, 2])
@pytest.mark.parametrize(
    "train", [{"nbs": 16}, {"nbs": 40}, {"nbs": 32, "warmup_epochs": 1.5}], ids=["over-an-epoch", "longer", "warm-up"]
)
def test_accumulated_gradients_go_on_exactly(
    tmp_path: Path, narrow: Path, digits: Path, train: dict[str, Any], after: int
) -> None:
    settings = replace(SETTINGS, train=train)
    whole = run_training(tmp_path / "whole", narrow, data=digits, settings=settings)
    with pytest.raises(Killed):
        run_training(tmp_path / "cut", narrow, data=digits, settings=settings, watchers=stop_after(after))
    assert_equal_runs(whole, run_training(tmp_path / "cut", narrow, data=digits, settings=settings))


def test_gradients_that_wait_go_on_exactly_where_memory_ran_out(tmp_path: Path, narrow: Path, digits: Path) -> None:
    """Ultralytics halves the batch and keeps ``nbs``: two batches make a step, and an epoch of five ends within one."""
    settings = replace(SETTINGS, batch=10)

    class Exhaust:
        left = 1

        def __call__(self, trainer: Any) -> None:
            if self.left and trainer.batch_size == 10 and not trainer.resume:
                self.left = 0
                preprocess = trainer.preprocess_batch

                def fail(batch: Any) -> Any:
                    trainer.preprocess_batch = preprocess
                    raise RuntimeError("CUDA out of memory")

                trainer.preprocess_batch = fail

    watchers = [("on_train_batch_start", Exhaust())]
    whole = run_training(tmp_path / "whole", narrow, data=digits, settings=settings, watchers=watchers)
    watchers = [("on_train_batch_start", Exhaust()), *stop_after(1)]
    with pytest.raises(Killed):
        run_training(tmp_path / "cut", narrow, data=digits, settings=settings, watchers=watchers)
    assert state(whole)["train_args"]["batch"] == 5
    assert_equal_runs(whole, run_training(tmp_path / "cut", narrow, data=digits, settings=settings))


def test_memory_that_runs_out_as_a_run_goes_on_halves_its_batch_as_in_a_first_epoch(
    tmp_path: Path, narrow: Path, digits: Path
) -> None:
    """On a GPU with less memory than the one before; the schedule goes on where it was, and the clock too."""
    with pytest.raises(Killed):
        run_training(tmp_path, narrow, data=digits, settings=SETTINGS, watchers=stop_after(1))
    spent = float(torch_safe_load(str(tmp_path / "run/weights/last.pt"), safe_only=True)[0]["edgeprune"]["seconds"])
    failed: list[int] = []
    seen: list[tuple[int, int, int, bool]] = []

    def exhaust(trainer: Any) -> None:
        if not failed:
            failed.append(trainer.epoch)
            preprocess = trainer.preprocess_batch

            def fail(batch: Any) -> Any:
                trainer.preprocess_batch = preprocess
                raise RuntimeError("CUDA out of memory")

            trainer.preprocess_batch = fail

    def note(trainer: Any) -> None:
        moved = time.time() - trainer.train_time_start > spent
        seen.append((trainer.epoch, trainer.batch_size, trainer.scheduler.last_epoch, moved))

    watchers = [("on_train_batch_start", exhaust), ("on_train_epoch_end", note)]
    run = run_training(tmp_path, narrow, data=digits, settings=SETTINGS, watchers=watchers)
    assert failed == [1]
    assert seen == [(1, 4, 1, True), (2, 4, 2, True)]
    assert [epoch.number for epoch in run.epochs] == [1, 2, 3]


def changed_run(
    folder: Path, narrow: Path, digits: Path, before: TrainSettings, *after: TrainSettings
) -> tuple[list[dict[str, Any]], list[int]]:
    """Arguments that training went on with in each call but the first, of which all but the last are cut off at once;
    and the epochs of the last."""
    seen: list[dict[str, Any]] = []

    def note(trainer: Any) -> None:
        seen.append(dict(vars(trainer.args)))
        if len(seen) < len(after):
            raise Killed

    with pytest.raises(Killed):
        run_training(folder, narrow, data=digits, settings=before, watchers=stop_after(1))
    for settings in after[:-1]:
        with pytest.raises(Killed):
            run_training(folder, narrow, data=digits, settings=settings, watchers=[("on_train_start", note)])
    run = run_training(folder, narrow, data=digits, settings=after[-1], watchers=[("on_train_start", note)])
    return seen, [epoch.number for epoch in run.epochs]


def test_a_run_goes_on_with_what_may_change_between_epochs(
    tmp_path: Path, narrow: Path, digits: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A call that is cut off before an epoch was saved changes nothing of it; what is no longer said is as it began."""
    before = replace(SETTINGS, train={"cache": "ram", "nbs": 16})
    after = replace(SETTINGS, batch=4, patience=7, train={"close_mosaic": 2, "nbs": 16})
    seen, epochs = changed_run(tmp_path, narrow, digits, before, after, after)
    assert epochs == [1, 2, 3] and not (tmp_path / "run.before-1").exists()
    assert len(seen) == 2
    for arguments in seen:
        assert [arguments[name] for name in ("batch", "patience", "close_mosaic", "cache", "epochs", "nbs")] == [
            *(4, 7, 2, False, 3, 16)
        ]
    [line] = [record.getMessage() for record in caplog.records if record.name == "edgeprune.training.run"]
    assert line == (
        "training goes on with other settings (batch: 8 → 4; patience: 50 → 7; train.cache: ram → nothing; "
        "train.close_mosaic: nothing → 2)"
    )
    assert torch_safe_load(str(tmp_path / "run/weights/last.pt"), safe_only=True)[0]["train_args"]["batch"] == 4


@pytest.mark.parametrize("hours", [0.5, 2.0])
def test_a_run_by_time_that_goes_on_uses_the_time_that_is_given_now(
    tmp_path: Path, narrow: Path, digits: Path, hours: float
) -> None:
    """The epochs of a checkpoint are those that fitted when it was written: two after the first."""
    before = replace(SETTINGS, epochs=2, time_h=0.5)
    seen: list[tuple[int, int, float]] = []

    def note(trainer: Any) -> None:
        rates = [trainer.lf(epoch) for epoch in (0, trainer.epochs)]
        seen.append((trainer.epoch, trainer.epochs, rates[0] - rates[1]))
        raise Killed

    with pytest.raises(Killed):
        run_training(tmp_path, narrow, data=digits, settings=before, watchers=stop_after(1))
    spent = float(torch_safe_load(str(tmp_path / "run/weights/last.pt"), safe_only=True)[0]["edgeprune"]["seconds"])
    with pytest.raises(Killed):
        now = replace(before, time_h=hours)
        run_training(tmp_path, narrow, data=digits, settings=now, watchers=[("on_train_epoch_start", note)])
    [(epoch, epochs, fall)] = seen
    assert epoch == 1 and epochs == math.ceil(hours * 3600 / spent) > 2
    assert fall == pytest.approx(1 - SETTINGS.train.get("lrf", 0.01)), "the rate falls over all of them"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"lr0": 1e-4}, "lr0: 0.002 → 0.0001"),
        ({"epochs": 1}, "epochs: 3 → 1"),
        ({"imgsz": 32}, "imgsz: 64 → 32"),
        ({"batch": 4, "train": {"mosaic": 0.0}}, "batch: 8 → 4; train.mosaic: nothing → 0.0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_run_that_cannot_go_on_is_moved_aside_and_says_why(
    tmp_path: Path, narrow: Path, digits: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(Killed):
        run_training(tmp_path, narrow, data=digits, settings=SETTINGS, watchers=stop_after(1))
    kept = (tmp_path / "run/weights/last.pt").read_bytes()
    changed = replace(SETTINGS, **changes)
    with pytest.raises(Killed):
        run_training(tmp_path, narrow, data=digits, settings=changed, watchers=[("on_train_start", _kill)])
    assert (tmp_path / "run.before-1/weights/last.pt").read_bytes() == kept
    said = caplog.records[-1].getMessage()
    assert said == f"training starts anew ({line}); the run before it is kept in {tmp_path / 'run.before-1'}"
    with pytest.raises(Killed):  # no epoch of the second was finished: nothing of it is kept
        run_training(tmp_path, narrow, data=digits, settings=SETTINGS, watchers=stop_after(1))
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["run", "run.before-1"]


def test_a_run_of_an_older_version_goes_on(tmp_path: Path, narrow: Path, digits: Path) -> None:
    """Its run.json was the request alone, Ultralytics' arguments under one key, and the path of the data set beside its
    digest."""
    settings = replace(SETTINGS, epochs=2, train={"nbs": 16})
    options: dict[str, Any] = {"data": digits, "settings": settings, "identity": {"dataset": "digest"}}
    with pytest.raises(Killed):
        run_training(tmp_path, narrow, **options, watchers=stop_after(1))
    record, told = tmp_path / "run.json", []
    written = json.loads(record.read_text())
    flat = {name: value for name, value in written["request"].items() if not name.startswith("train.")}
    record.write_text(json.dumps({**flat, "train": {"nbs": 16}, "data": "elsewhere.yaml"}))
    run_training(tmp_path, narrow, **options, progress=lambda text, *, done=0, total=0: told.append(text))
    assert told[0] == "training goes on after epoch 1"
    assert json.loads(record.read_text()) == written


@pytest.mark.parametrize(
    "content",
    ["[]", "3", "{}", '{"request": 3, "changed": []}', '{"request": {}, "changed": null}', '{"request": {}}']
    + ['{"request": {}, "changed": [3]}', '{"source": "a.pt", "train": 3}', "{", ""],
)
def test_a_record_of_another_shape_says_nothing(tmp_path: Path, content: str) -> None:
    record = tmp_path / "run.json"
    record.write_text(content)
    assert _read_request(record) == (None, [])


def _kill(trainer: Any) -> None:
    raise Killed


def test_a_run_that_ended_is_moved_aside_by_any_other_setting(tmp_path: Path, narrow: Path, digits: Path) -> None:
    once = replace(SETTINGS, epochs=1)
    run_training(tmp_path, narrow, data=digits, settings=once)
    for number in (2, 3):
        again = run_training(tmp_path, narrow, data=digits, settings=replace(once, patience=number))
        assert again.epochs_run == 1
    assert sorted(path.name for path in tmp_path.glob("run.before-*")) == ["run.before-1", "run.before-2"]


def test_a_run_that_ended_is_taken_where_it_may_be_and_no_more_than_that_has_changed(
    tmp_path: Path, narrow: Path, digits: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a round of several, whose successor ran out of memory."""
    once = replace(SETTINGS, epochs=1)
    where = {"data": digits, "take_ended": True}
    first = run_training(tmp_path, narrow, settings=once, **where)
    for changed in (replace(once, batch=4), replace(once, patience=3), replace(once, train={"plots": True}), once):
        assert run_training(tmp_path, narrow, settings=changed, **where) == first
    assert [record.getMessage() for record in caplog.records if record.name == "edgeprune.training.run"] == [
        f"training had ended with other settings ({line}), and stays as it is"
        for line in ("batch: 8 → 4", "patience: 50 → 3", "train.plots: nothing → True")
    ]
    assert not (tmp_path / "run.before-1").exists()
    run_training(tmp_path, narrow, settings=replace(once, batch=4, lr0=0.001), **where)
    assert (tmp_path / "run.before-1").exists()


def test_the_data_set_may_be_named_by_another_path(tmp_path: Path, narrow: Path, digits: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(digits.parent, moved)
    with pytest.raises(Killed):
        finetune(
            narrow, data=digits, out=tmp_path / "o", work=tmp_path / "w", settings=SETTINGS, watchers=stop_after(1)
        )
    told: list[str] = []
    finetune(
        narrow,
        data=moved / digits.name,
        out=tmp_path / "o",
        work=tmp_path / "w",
        settings=SETTINGS,
        progress=lambda text, *, done=0, total=0: told.append(text),
    )
    assert told[0] == "fine-tune goes on after epoch 1"


def test_a_teacher_of_features_may_lie_elsewhere(tmp_path: Path, narrow: Path, full: Path, digits: Path) -> None:
    first, then = tmp_path / "first.pt", tmp_path / "then.pt"
    shutil.copy(full, first)
    taught = replace(SETTINGS, epochs=2, response=0.0, feature=6.0)
    with pytest.raises(Killed):
        run_training(tmp_path, narrow, data=digits, settings=replace(taught, teacher=first), watchers=stop_after(1))
    first.rename(then)
    run = run_training(tmp_path, narrow, data=digits, settings=replace(taught, teacher=then))
    assert [epoch.number for epoch in run.epochs] == [1, 2]


def test_a_run_that_goes_on_elsewhere_has_the_precision_of_that_device(
    tmp_path: Path, narrow: Path, digits: Path
) -> None:
    with pytest.raises(Killed):
        run_training(tmp_path, narrow, data=digits, settings=SETTINGS, watchers=stop_after(1))
    last = tmp_path / "run/weights/last.pt"
    content = torch.load(last, weights_only=False)
    content["train_args"]["amp"] = "bf16"  # as on a GPU
    torch.save(content, last)
    seen: list[Any] = []

    def note(trainer: Any) -> None:
        seen.append((trainer.args.amp, trainer.amp))
        raise Killed

    with pytest.raises(Killed):
        run_training(tmp_path, narrow, data=digits, settings=SETTINGS, watchers=[("on_train_start", note)])
    assert seen == [(False, False)]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04half"], ids=["empty", "truncated"])
def test_a_spoilt_last_pt_begins_anew(tmp_path: Path, narrow: Path, digits: Path, content: bytes) -> None:
    once = replace(SETTINGS, epochs=1)
    first = run_training(tmp_path, narrow, data=digits, settings=once)
    first.last.write_bytes(content)
    (tmp_path / "run" / "ended").unlink()
    again = run_training(tmp_path, narrow, data=digits, settings=once)
    assert (again.epochs_run, len(again.epochs)) == (1, 1)
    assert (tmp_path / "run.unreadable-1/weights/last.pt").read_bytes() == content


def test_a_full_disk_keeps_the_epoch_before(
    tmp_path: Path, narrow: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeprune.errors import StageError
    from edgeprune.training import trainers

    real = trainers.write_atomically

    def full_disk(path: Path, content: bytes) -> None:
        if path.exists() and path.name == "last.pt":
            raise OSError(28, "No space left on device")
        real(path, content)

    monkeypatch.setattr(trainers, "write_atomically", full_disk)
    with pytest.raises(StageError, match="No space left") as caught:
        finetune(narrow, data=digits, out=tmp_path / "out", settings=SETTINGS, work=tmp_path / "work")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    told: list[str] = []
    run_training(
        tmp_path / "work",
        narrow,
        data=digits,
        settings=SETTINGS,
        identity={"dataset": Dataset.load(digits, task="detect").digest},
        keep_given=True,
        progress=lambda text, *, done=0, total=0: told.append(text),
    )
    assert told[0] == "training goes on after epoch 1"


def test_a_time_limit_counts_the_time_before_the_kill(tmp_path: Path, narrow: Path, digits: Path) -> None:
    limited = replace(SETTINGS, epochs=1000, time_h=0.5)
    with pytest.raises(Killed):
        run_training(tmp_path, narrow, data=digits, settings=limited, watchers=stop_after(2))
    before = read_epochs(tmp_path / "run" / "results.csv")[-1].seconds
    seen: list[tuple[float, int]] = []

    def note(trainer) -> None:
        seen.append((time.time() - trainer.train_time_start, trainer.epochs))
        raise Killed

    with pytest.raises(Killed):
        run_training(tmp_path, narrow, data=digits, settings=limited, watchers=[("on_fit_epoch_end", note)])
    spent, epochs = seen[0]
    assert spent > before
    # Ultralytics asked its clock after the first run and before this line, and counted three epochs over both runs
    assert 3 * 1800 / spent <= epochs <= 3 * 1800 / before + 1
