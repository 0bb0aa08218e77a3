"""A teacher that is named: one scale up is heard, trusted where the command says so, refused where it cannot teach."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from typer.testing import CliRunner

from edgeprune import checkpoint, cli
from edgeprune.data.digits import CLASSES
from edgeprune.errors import DataError, SettingError, TargetError
from edgeprune.frontier.run import frontier
from edgeprune.search.budget import BudgetSearch
from edgeprune.settings import Finetuning, TrainSettings, hours_from
from edgeprune.stages.inputs import read_inputs
from edgeprune.sweep.run import sweep
from edgeprune.target import load_target
from edgeprune.training.finetune import finetune
from edgeprune.training.iterative import prune_in_rounds
from tests.search.devices import StandIn, stand_in_site
from tests.training.narrow import narrow_checkpoint


class Note:
    """A class that no stock checkpoint has."""


def profile(folder: Path, section: str) -> Path:
    path = folder / "profile.yaml"
    path.write_text(f"extends: cpu\nimgsz: 64\nfinetune: {section}\n")
    return path


@pytest.fixture
def larger(tmp_path: Path) -> Path:
    """A v8s where the student is a narrow v8n."""
    return narrow_checkpoint(tmp_path / "larger.pt", "yolov8s.yaml", names=CLASSES, seed=2)


@pytest.fixture
def theirs(full: Path, tmp_path: Path) -> Path:
    """A teacher in whose file lies something foreign."""
    content = torch.load(full, weights_only=False)
    path = tmp_path / "theirs.pt"
    torch.save({**content, "note": Note()}, path)
    return path


def test_a_model_one_scale_up_teaches(
    larger: Path, narrow: Path, digits: Path, settings: TrainSettings, tmp_path: Path
) -> None:
    taught = replace(settings, epochs=1, teacher=larger)
    done = finetune(narrow, data=digits, out=tmp_path / "o", work=tmp_path / "w", settings=taught)
    assert done.summary.epochs[0].figures["train/kd_loss"] > 0


def test_a_foreign_teacher_is_read_where_the_user_trusts_it(
    theirs: Path, narrow: Path, digits: Path, settings: TrainSettings, tmp_path: Path
) -> None:
    where = {"data": digits, "out": tmp_path / "o", "work": tmp_path / "w"}
    taught = replace(settings, epochs=1, teacher=theirs)
    with pytest.raises(DataError, match="--trust"):
        finetune(narrow, settings=taught, **where)
    assert finetune(narrow, settings=taught, trust=True, **where).best.is_file()


@pytest.mark.parametrize("config", ["yolo26n.yaml", "yolo11n-seg.yaml"])
def test_a_teacher_that_answers_otherwise_is_refused_in_one_line(
    config: str, narrow: Path, digits: Path, settings: TrainSettings, tmp_path: Path
) -> None:
    teacher = narrow_checkpoint(tmp_path / "t.pt", config, names=CLASSES)
    where = {"data": digits, "out": tmp_path / "o", "work": tmp_path / "w"}
    with pytest.raises(DataError, match=r"^teacher .*(answers by two heads|is a segment model)") as error:
        finetune(narrow, settings=replace(settings, teacher=teacher), **where)
    assert "\n" not in str(error.value)


@pytest.fixture
def two_heads(tmp_path: Path) -> Path:
    return narrow_checkpoint(tmp_path / "two.pt", "yolo26n.yaml", names=CLASSES)


@pytest.fixture
def fused(two_heads: Path) -> Path:
    """The same after ``fuse()``, which leaves the head that ships alone."""
    whole = checkpoint.load(two_heads)
    model = cast(Any, whole.model)
    model.end2end = True  # as a prediction says which of the two ships
    checkpoint.save(model.fuse(verbose=False), two_heads.with_name("fused.pt"), like=whole)
    return two_heads.with_name("fused.pt")


@pytest.mark.parametrize("heard", [{"response": 1.0}, {"response": 0.0, "feature": 1.0}], ids=["answers", "features"])
def test_a_teacher_that_lost_a_head_by_fuse_is_refused_in_one_line(
    heard: dict[str, float], two_heads: Path, fused: Path, digits: Path, settings: TrainSettings, tmp_path: Path
) -> None:
    taught = replace(settings, teacher=fused, **heard)
    with pytest.raises(DataError, match=r"^teacher .*fused\.pt was fused, .*from before fuse\(\)$"):
        finetune(two_heads, data=digits, out=tmp_path / "o", work=tmp_path / "w", settings=taught)
    target = load_target(profile(tmp_path, f"{{teacher: {fused}}}"))
    for student in (two_heads, "yolo26n.yaml"):
        with pytest.raises(DataError, match=r"finetune\.teacher: teacher .*fused\.pt was fused"):
            read_inputs(target, student, digits, trust=False)


@pytest.mark.parametrize("command", ["build", "sweep", "frontier", "iterate"])
def test_a_student_that_lost_a_head_by_fuse_is_refused_before_it_is_pruned(
    command: str, fused: Path, digits: Path, settings: TrainSettings, tmp_path: Path
) -> None:
    own = profile(tmp_path, "{epochs: 1}")
    given: dict[str, Any] = {"target": own, "weights": fused, "data": digits, "out": tmp_path / "out"}
    told = r"the model was fused, which removed the one of its two heads .*from before fuse\(\)"
    with pytest.raises(DataError, match=told):
        if command == "build":
            read_inputs(load_target(own).with_budget("speed_up", 1.5), fused, digits, trust=False)
        elif command == "sweep":
            sweep(**given, budgets=[("speed_up", 1.5)])
        elif command == "frontier":
            frontier(**given, kind="speed_up", budgets=[1.5])
        else:
            rounds = {"macs_speed_up": 1.5, "rounds": 1, "settings": settings, "work": tmp_path / "w"}
            prune_in_rounds(fused, data=digits, out=tmp_path / "out", **rounds)
    assert not (tmp_path / "out").exists()


def test_what_is_only_compiled_need_not_be_trainable(fused: Path, digits: Path, tmp_path: Path) -> None:
    """The unpruned model may meet a budget in ms, which a measurement tells."""
    own = load_target(profile(tmp_path, "{epochs: 1}"))
    for kind, value in (("speed_up", 1.0), ("latency_ms", 100.0)):
        assert read_inputs(own.with_budget(kind, value), fused, digits, trust=False).weights.path == fused


def test_what_misses_a_budget_in_ms_and_cannot_be_trained_is_refused_before_the_first_probe(
    fused: Path, tmp_path: Path
) -> None:
    site = stand_in_site(load_target(profile(tmp_path, "{epochs: 1}")), StandIn(0.5, 0.1))
    search = BudgetSearch(site, checkpoint.load(fused), tmp_path / "s", to_train=True)
    with pytest.raises(DataError, match=r"fused\.pt: the model was fused"):
        search.search(tmp_path, None, start_used=1.3)


def test_a_build_refuses_its_teacher_before_anything(narrow: Path, digits: Path, tmp_path: Path) -> None:
    other = narrow_checkpoint(tmp_path / "other.pt", "yolov8s.yaml", names=("a", "b"))
    target = load_target(profile(tmp_path, f"{{teacher: {other}}}"))
    with pytest.raises(DataError, match=r"teacher .*other\.pt knows 2 classes"):
        read_inputs(target, narrow, digits, trust=False)
    with pytest.raises(DataError, match=r"cannot read .*gone\.pt"):
        read_inputs(load_target(profile(tmp_path, "{teacher: gone.pt}")), narrow, digits, trust=False)


@pytest.mark.parametrize("asks", ["build", "finetune"])
def test_a_teacher_that_was_trained_at_another_size_is_heard_with_a_warning(
    asks: str, narrow: Path, digits: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    class Enough(Exception):
        pass

    def trains(*_: Any, **__: Any) -> None:
        raise Enough

    monkeypatch.setattr("edgeprune.training.finetune.run_training", trains)
    source = checkpoint.load(narrow)
    checkpoint.save(source.model, tmp_path / "128.pt", like=source, train_args={"imgsz": 128})
    unnamed = TrainSettings(imgsz=64, teacher=tmp_path / "128.pt", quiet=True)
    for side in (64, 96):
        checkpoint.save(source.model, teacher := tmp_path / f"{side}.pt", like=source, train_args={"imgsz": side})
        if asks == "build":
            read_inputs(load_target(profile(tmp_path, f"{{teacher: {teacher}}}")), narrow, digits, trust=False)
        else:
            settings = TrainSettings(imgsz=64, teacher=teacher, quiet=True)
            with pytest.raises(Enough):
                finetune(narrow, data=digits, out=tmp_path / "o", work=tmp_path / "w", settings=settings)
    with pytest.raises(Enough):  # the unpruned model teaches in a build, and nobody named it
        finetune(narrow, data=digits, out=tmp_path / "o", work=tmp_path / "w", settings=unnamed, teacher_is_named=False)
    said = [record.getMessage() for record in caplog.records if "teacher" in record.getMessage()]
    assert said == [f"teacher {tmp_path / '96.pt'}: its input is 64 px, as the student's; it was trained at 96 px"]


def test_the_model_itself_is_not_loaded_again_as_its_teacher(
    narrow: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Any] = []
    monkeypatch.setattr("edgeprune.training.finetune.load_teacher", lambda *given, **_: loaded.append(given[0]))
    target = load_target(profile(tmp_path, "{distill: true}"))
    read_inputs(target, narrow, digits, trust=False)
    assert loaded == []
    read_inputs(load_target(profile(tmp_path, f"{{teacher: {narrow}}}")), narrow, digits, trust=False)
    assert len(loaded) == 1


@pytest.mark.parametrize("command", ["build", "sweep", "frontier"])
def test_a_teacher_of_another_head_is_refused_before_anything(
    command: str, narrow: Path, digits: Path, tmp_path: Path
) -> None:
    teacher = narrow_checkpoint(tmp_path / "two.pt", "yolo26n.yaml", names=CLASSES)
    named = profile(tmp_path, f"{{teacher: {teacher}}}")
    given: dict[str, Any] = {"target": named, "weights": narrow, "data": digits, "out": tmp_path / "out"}
    with pytest.raises(DataError, match=r"teacher .*two\.pt answers by two heads"):
        if command == "build":
            read_inputs(load_target(named), narrow, digits, trust=False)
        elif command == "sweep":
            sweep(**given, budgets=[("speed_up", 1.5)])
        else:
            frontier(**given, kind="speed_up", budgets=[1.5])
    assert not (tmp_path / "out").exists()


def test_a_teacher_that_is_not_heard_is_a_contradiction(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="is not heard with distill false"):
        Finetuning(teacher="larger.pt", distill=False)
    with pytest.raises(TargetError, match=r"finetune.*is not heard"):
        load_target(profile(tmp_path, "{teacher: larger.pt, distill: false}"))


@pytest.mark.parametrize(("text", "hours"), [("2h", 2), ("30m", 0.5), ("1h30m", 1.5), ("0.5", 0.5), (" 1.5H ", 1.5)])
def test_a_time_is_read_as_it_is_typed(text: str, hours: float) -> None:
    assert hours_from(text) == hours


@pytest.mark.parametrize("text", ["", "2 days", "-1h", "0", "0h", "h", "m30", "30s", "1m1h", "1e400", "nan", "½h"])
def test_nonsense_is_no_time(text: str, narrow: Path) -> None:
    with pytest.raises(ValueError, match="is no time; allowed is 2h, 30m"):
        hours_from(text)
    told = CliRunner().invoke(cli.app, ["finetune", str(narrow), "--data", "d.yaml", f"--time={text}"])
    assert told.exit_code == 2


@pytest.mark.parametrize("section", ["{feature: 1.0}", "{feature: 1.0, teacher: TEACHER}"], ids=["default", "named"])
def test_features_of_a_classifier_are_refused_before_a_build_begins(
    section: str, tmp_path: Path, task_data: Any
) -> None:
    weights = narrow_checkpoint(tmp_path / "m.pt", "yolo11n-cls.yaml", names=("loud", "quiet"))
    target = load_target(profile(tmp_path, section.replace("TEACHER", str(weights))))
    for given in (weights, "yolo11n-cls.yaml"):
        with pytest.raises(DataError, match=r"feature=1: .*detection head"):
            read_inputs(target, given, task_data("classify"), trust=False)
