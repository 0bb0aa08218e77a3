"""The size of the input: one rule, the same in every command, and never silent where it is not the trained one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner
from ultralytics import YOLO
from ultralytics.models.yolo.classify import ClassificationTrainer

from edgeprune import checkpoint
from edgeprune.cli import app
from edgeprune.cli.sizes import side_to_run
from edgeprune.data.digits import write_digits
from edgeprune.dataset import Dataset
from edgeprune.errors import DataError, StageError, TargetError
from edgeprune.export.onnx import describe_onnx, onnx_from_checkpoint
from edgeprune.frontier import run as frontier_run
from edgeprune.frontier.run import frontier
from edgeprune.input_size import CLASSIFIER_SIDE, DEFAULT_SIDE, InputSize, Size, input_size, pixels, plain, size_from
from edgeprune.measure.accuracy import subject_of
from edgeprune.measure.graphs import graph_of
from edgeprune.progress import Silent
from edgeprune.pruning.api import prune
from edgeprune.pruning.sensitivity import sensitivity
from edgeprune.search.inputs import read_inputs as read_for_search
from edgeprune.serial import from_json, to_json
from edgeprune.settings import TrainSettings
from edgeprune.stages.inputs import read_inputs as read_for_build
from edgeprune.sweep import run as sweep_run
from edgeprune.sweep.run import checkpoints_apart, refuse_lacking_heads, sweep
from edgeprune.target import Target, default_target, load_target, shipped_targets
from edgeprune.training.pretrain import pretrain
from edgeprune.training.sizes import sized
from tests.situations import models

TRAINED = 96


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of three classes that says it was trained at 96 px."""
    return models.saved(models.model(), tmp_path_factory.mktemp("w") / "w.pt", train_args={"imgsz": TRAINED})


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("data") / "digits", train=4, val=2, test=2, imgsz=64)


@pytest.mark.parametrize(
    ("said", "size"),
    [
        ({"command": 64, "plan": 128, "profile": 160, "trained": 320}, InputSize(64, "command", 320)),
        ({"plan": 128, "profile": 160, "trained": 320}, InputSize(128, "plan", 320)),
        ({"profile": 160, "trained": 320}, InputSize(160, "profile", 320)),
        ({"trained": 320}, InputSize(320, "weights", 320)),
        ({"trained": 300}, InputSize(320, "weights", 320)),
        ({}, InputSize(DEFAULT_SIDE, "default", None)),
    ],
    ids=["command", "plan", "profile", "weights", "rounded as in training", "nobody"],
)
def test_who_decides(said: dict[str, int], size: InputSize) -> None:
    assert input_size(said.pop("trained", None), 32, "detect", **said) == size


class Enough(Exception):
    """Ends a call where it got far enough."""


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A classification data set of two classes."""
    for split, name in itertools.product(("train", "val", "test"), ("cat", "dog")):
        (tmp_path / "d" / split / name).mkdir(parents=True)
        for index in range(4):
            Image.new("RGB", (64, 64), (60 * index, 0, 0)).save(tmp_path / "d" / split / name / f"{index}.png")
    return tmp_path / "d"


def test_a_classifier_has_the_size_that_ultralytics_trains_it_at_where_nobody_says_one(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(_: object, cfg: object, overrides: dict[str, int], *__: object) -> None:
        raise Enough(overrides["imgsz"])

    def trains(work: object, source: str, *, settings: TrainSettings, **_: object) -> None:
        raise Enough(settings.imgsz)

    with monkeypatch.context() as patched, pytest.raises(Enough, match=r"^224$"):
        patched.setattr("ultralytics.engine.trainer.BaseTrainer.__init__", told)
        ClassificationTrainer(overrides={})
    monkeypatch.setattr("edgeprune.training.pretrain.run_training", trains)
    for imgsz, side in ((None, CLASSIFIER_SIDE), (64, 64)):
        settings, out, work = TrainSettings(imgsz=imgsz), tmp_path / "out", tmp_path / "work"
        with pytest.raises(Enough, match=f"^{side}$"):
            pretrain("yolov8n-cls.yaml", data=folders, out=out, settings=settings, work=work)
    assert read_for_build(load_target("cpu"), "yolov8n-cls.yaml", folders, False).target.imgsz == CLASSIFIER_SIDE
    silent = models.saved(models.model("classify"), tmp_path / "w.pt", train_args={"imgsz": None})
    assert checkpoint.load(silent).size_for() == InputSize(CLASSIFIER_SIDE, "default", None)
    assert prune(models.model("classify"), ratio=0.2, importance="lamp").size.side == CLASSIFIER_SIDE
    assert prune(models.model(), ratio=0.2, importance="lamp").size.side == DEFAULT_SIDE


def test_the_sensitivity_of_a_bare_model_counts_at_the_size_of_its_task(monkeypatch: pytest.MonkeyPatch) -> None:
    def counts(_: object, model: object, imgsz: Size) -> None:
        raise Enough(imgsz)

    monkeypatch.setattr("edgeprune.pruning.sensitivity.Pruner.__init__", counts)
    for task, imgsz, side in (("classify", None, CLASSIFIER_SIDE), ("detect", None, DEFAULT_SIDE), ("detect", 64, 64)):
        with pytest.raises(Enough, match=f"^{side}$"):
            sensitivity(models.model(task), [], imgsz=imgsz)


@pytest.mark.parametrize(
    ("told", "own", "size"),
    [({"imgsz": 320, "single_cls": True}, {}, 320), ({"imgsz": 160}, {"imgsz": [96, 160]}, (96, 160))],
    ids=["square", "rectangle"],
)
def test_a_model_in_the_interface_of_ultralytics_keeps_what_its_checkpoint_says_of_its_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: dict[str, Any], own: dict[str, Any], size: Size
) -> None:
    file = models.saved(models.model(), tmp_path / "w.pt", train_args=told, **({"edgeprune": own} if own else {}))
    made = prune(YOLO(file), tmp_path / "pruned.pt", ratio=0.2, importance="lamp")
    assert (made.size, made.plan.settings.imgsz) == (InputSize(size, "weights", size), size)
    kept, given = checkpoint.load(tmp_path / "pruned.pt"), checkpoint.load(file)
    assert (kept.train_args, kept.trained_imgsz, kept.single_cls) == (given.train_args, size, "single_cls" in told)
    assert kept.plan_digest == made.plan.digest
    assert prune(YOLO(file), ratio=0.2, importance="lamp", imgsz=64).size == InputSize(64, "command", size)
    assert prune(YOLO(file).model, ratio=0.2, importance="lamp").size == InputSize(DEFAULT_SIDE, "default", None)

    def counts(_: object, model: object, imgsz: Size) -> None:
        raise Enough(imgsz)

    monkeypatch.setattr("edgeprune.pruning.sensitivity.Pruner.__init__", counts)
    with pytest.raises(Enough) as ended:
        sensitivity(YOLO(file), [])
    assert ended.value.args == (size,)


def test_another_size_than_the_trained_one_is_a_warning_with_both() -> None:
    text = str(input_size(320, 32, "detect", profile=640))
    assert text == "warning: input 640 px, as the profile says; the weights were trained at 320 px"
    assert str(input_size(320, 32, "detect", profile=320)) == "input 320 px, as the profile says"
    assert str(input_size(320, 32, "detect")) == "input 320 px, what the weights were trained at"


def test_a_size_that_the_model_does_not_take_is_refused() -> None:
    with pytest.raises(TargetError, match="use 128"):
        input_size(None, 64, "detect", command=96)
    with pytest.raises(TargetError, match=r"imgsz 100,160 is no multiple of the model's stride 32; use 96,160$"):
        input_size(None, 32, "detect", command=(100, 160))
    assert input_size(None, 32, "classify", command=(100, 160)).side == (100, 160)


@pytest.mark.parametrize("text", ["384,640", "384x640", "384 , 640", "[384, 640]", "(384,640)", "384×640"])
def test_height_and_width_as_people_type_them(text: str) -> None:
    assert size_from(text) == (384, 640)


@pytest.mark.parametrize(("text", "size"), [("640", 640), ("640,640", 640), ("[640]", 640)])
def test_a_square_is_one_number(text: str, size: int) -> None:
    assert size_from(text) == size


@pytest.mark.parametrize("text", ["", "x", "640,", "640,640,640", "-640", "6.4", "640px", "1e3", "٦٤٠"])
def test_what_is_no_size_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="is no size in pixels; allowed is 640, or 384,640"):
        size_from(text)
    refused = CliRunner().invoke(app, ["export", "m.pt", f"--imgsz={text}"], env={"COLUMNS": "200"})
    assert refused.exit_code == 2 and "is no size in pixels" in refused.output


def test_a_size_in_words() -> None:
    assert (pixels(640), pixels((640, 640)), pixels([384, 640])) == ("640 px", "640 px", "384 × 640 px")
    text = str(input_size(640, 32, "detect", command=(384, 640)))
    assert text == "warning: input 384 × 640 px, as was asked; the weights were trained at 640 px"


@pytest.mark.parametrize(("said", "size"), [("[64, 96]", (64, 96)), ("[96, 96]", 96), ("96", 96)])
def test_a_profile_states_a_side_or_height_and_width(said: str, size: Size, tmp_path: Path) -> None:
    profile = tmp_path / "mine.yaml"
    profile.write_text(f"extends: cpu\ndescription: d\nimgsz: {said}\n")
    target = load_target(profile)
    assert target.stated_imgsz == size
    assert target.with_overrides(epochs=3).imgsz == size, "as plain data and back"
    assert from_json(Target, to_json(target), "build.json") == target
    assert target.with_overrides(imgsz=(128, 64)).imgsz == (128, 64)


@pytest.mark.parametrize("said", ["[64]", "[64, 96, 128]", "[64, 97]", "[64, '96']", "[64, true]", "64x96", "[0, 64]"])
def test_a_profile_with_no_such_size_is_one_line(said: str, tmp_path: Path) -> None:
    profile = tmp_path / "mine.yaml"
    profile.write_text(f"extends: cpu\ndescription: d\nimgsz: {said}\n")
    with pytest.raises(TargetError, match=r"imgsz: .*seen: ") as refused:
        load_target(profile)
    assert str(refused.value).count("imgsz") == 1


def test_shipped_profiles_leave_the_size_to_the_weights_but_the_demo() -> None:
    stated = {name: load_target(name).stated_imgsz for name in shipped_targets()}
    assert {name: side for name, side in stated.items() if side is not None} == {"demo": 128}
    assert default_target().stated_imgsz is None


def test_a_profile_that_states_a_size_means_it_and_others_do_not_begin_to(tmp_path: Path) -> None:
    stating, silent = tmp_path / "stating.yaml", tmp_path / "silent.yaml"
    stating.write_text("extends: cpu\ndescription: d\nimgsz: 640\n")
    silent.write_text("extends: cpu\ndescription: d\n")
    assert load_target(stating).stated_imgsz == 640, "also where it is the default's value"
    assert load_target(silent).with_overrides(epochs=3).stated_imgsz is None, "an override of something else"
    assert load_target(silent).with_overrides(imgsz=64).stated_imgsz == 64
    shown = CliRunner().invoke(app, ["targets", "show", str(silent)]).stdout
    assert "imgsz" not in shown, "what is printed can be saved as a profile without stating a size"


def side_of_prune(weights: Path, imgsz: Size | None, tmp_path: Path) -> Size:
    return prune(weights, imgsz=imgsz, ratio=0.2, importance="lamp").plan.settings.imgsz


def side_of_export(weights: Path, imgsz: Size | None, tmp_path: Path) -> Size:
    return onnx_from_checkpoint(weights, tmp_path / "m.onnx", imgsz=imgsz).imgsz


def side_of_bench_and_compare(weights: Path, imgsz: Size | None, tmp_path: Path) -> Size:
    return describe_onnx(graph_of(weights, tmp_path, imgsz=imgsz)).imgsz


def side_of_val(weights: Path, imgsz: Size | None, tmp_path: Path) -> Size:
    with subject_of(weights, imgsz, 1, None, "auto", None) as subject:
        return subject.imgsz


def side_of_training(weights: Path, imgsz: Size | None, tmp_path: Path) -> Size:
    settings = sized(TrainSettings(imgsz=imgsz, quiet=True), checkpoint.load(weights))
    assert settings.imgsz == settings.side
    return settings.side


def side_of_search(weights: Path, imgsz: Size | None, tmp_path: Path) -> Size:
    found = read_for_search(load_target("cpu"), weights, None, trust=False, imgsz=imgsz)
    assert found.target.imgsz == found.size.side
    return found.size.side


EVERYWHERE = (
    side_of_prune,
    side_of_export,
    side_of_bench_and_compare,
    side_of_val,
    side_of_training,
    side_of_search,
)


@pytest.mark.parametrize("side_of", EVERYWHERE, ids=lambda function: function.__name__)
def test_every_command_takes_the_trained_size_and_does_as_it_is_told(side_of, weights: Path, tmp_path: Path) -> None:
    assert plain(side_of(weights, None, tmp_path)) == TRAINED
    assert plain(side_of(weights, 64, tmp_path)) == 64
    assert side_of(weights, (64, 96), tmp_path) == (64, 96)


def test_a_build_takes_the_trained_size_and_a_description_that_of_the_profile(digits: Path, tmp_path: Path) -> None:
    made = models.with_attribute(models.model(nc=10), names=dict(Dataset.load(digits).names))
    ten = models.saved(made, tmp_path / "ten.pt", train_args={"imgsz": TRAINED})
    found = read_for_build(load_target("cpu"), ten, digits, False)
    assert (found.size, found.target.imgsz) == (InputSize(TRAINED, "weights", TRAINED), TRAINED)
    assert read_for_build(load_target("cpu"), ten, digits, False, 64).size == InputSize(64, "command", TRAINED)
    assert read_for_build(load_target("demo"), ten, digits, False).size == InputSize(128, "profile", TRAINED)
    fresh = read_for_build(load_target("demo"), "yolov8n.yaml", digits, False)
    assert (fresh.size, fresh.target.imgsz) == (InputSize(128, "profile", None), 128)
    assert read_for_build(load_target("cpu"), "yolov8n.yaml", digits, False).target.imgsz == DEFAULT_SIDE


def test_a_build_prints_its_size_and_warns_where_it_is_not_the_trained_one(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def enough(*_: object) -> None:
        raise StageError("enough")

    made = models.with_attribute(models.model(nc=10), names=dict(Dataset.load(digits).names))
    ten = models.saved(made, tmp_path / "ten.pt", train_args={"imgsz": TRAINED})
    monkeypatch.setattr("edgeprune.pipeline.run_stages", enough)
    argv = ["build", "--target", "cpu", "--weights", str(ten), "--data", str(digits), "--out", str(tmp_path / "run")]
    for more, words in (
        (["--imgsz", "64"], "warning: input 64 px, as was asked; the weights were trained at 96 px"),
        ([], "input 96 px, what the weights were trained at"),
    ):
        ended = CliRunner().invoke(app, [*argv, *more])
        assert isinstance(ended.exception, StageError)
        assert words in " ".join(ended.output.split())


def test_running_a_checkpoint_at_another_size_is_said_beside_the_results(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert side_to_run(weights, 64) == 64
    assert "warning: input 64 px, as was asked; the weights were trained at 96 px" in capsys.readouterr().err
    assert side_to_run(weights, None, load_target("demo")) == 128
    assert side_to_run(Path("m.onnx"), None, load_target("demo")) is None, "an exported file has a size of its own"
    assert "as the profile says" in capsys.readouterr().err
    assert side_to_run(weights, None, load_target("cpu")) is None
    assert side_to_run(weights, TRAINED) == TRAINED
    assert side_to_run(Path("model.onnx"), 64) == 64
    assert capsys.readouterr() == ("", "")


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def sweep_beside(other: Path, given: Mapping[str, Any], heard: Heard) -> None:
    sweep("cpu", **given, budgets=[("speed_up", 1.5)], unpruned=other, progress=heard)


def frontier_beside(other: Path, given: Mapping[str, Any], heard: Heard) -> None:
    frontier("cpu", **given, kind="speed_up", budgets=[1.5], also=other, progress=heard)


@pytest.mark.parametrize(("beside", "option"), [(sweep_beside, "--unpruned"), (frontier_beside, "--also")])
def test_another_checkpoint_at_a_size_that_it_was_not_trained_at_is_said(
    beside: Callable[..., None], option: str, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def enough(*_: object, **__: object) -> None:
        raise Enough

    for run in (sweep_run, frontier_run):
        monkeypatch.setattr(run, "open_site", enough)
    made = models.with_attribute(models.model(nc=10), names=dict(Dataset.load(digits).names))
    files = {side: models.saved(made, tmp_path / f"{side}.pt", train_args={"imgsz": side}) for side in (TRAINED, 128)}
    same = models.saved(made, tmp_path / "same.pt", train_args={"imgsz": TRAINED})
    given = {"weights": files[TRAINED], "data": digits, "out": tmp_path / "out", "epochs": 0}
    for other, words in (
        (files[128], f"warning: {option} {files[128]}: input 96 px, as for {files[TRAINED]}; the weights were trained"),
        (same, None),
    ):
        heard = Heard()
        with pytest.raises(Enough):
            beside(other, given, heard)
        warned = [note for note in heard.notes if note.startswith("warning")]
        assert warned == ([f"{words} at 128 px"] if words else [])


@pytest.mark.parametrize(
    ("target", "differs", "word"),
    [
        ({"imgsz": TRAINED}, {"stride": torch.tensor([8.0, 64.0])}, "imgsz 96 is no multiple of the model's stride 64"),
        ({"imgsz": 128, "export.head": "end-to-end"}, {}, "export: head end-to-end: the model has no end-to-end head"),
    ],
)
def test_another_checkpoint_that_cannot_be_run_so_is_refused_by_its_name(
    target: dict[str, Any], differs: dict[str, Any], word: str, tmp_path: Path
) -> None:
    source = checkpoint.load(models.saved(models.model("end-to-end"), tmp_path / "source.pt"))
    other = models.saved(models.with_attribute(models.model(), **differs), tmp_path / "other.pt")
    asked = load_target("cpu").changed(target)
    with pytest.raises(TargetError, match=f"^--also {other}: {word}"):
        checkpoints_apart(source, other, "--also", asked, trust=False, reporter=Silent())


def test_another_checkpoint_without_the_head_that_the_device_takes_is_refused_by_its_name(tmp_path: Path) -> None:
    """A range of releases may allow another head than the release that is found."""
    two_heads = checkpoint.load(models.saved(models.model("end-to-end"), tmp_path / "source.pt"))
    one_head = checkpoint.load(models.saved(models.model(), tmp_path / "other.pt"))
    asked = load_target("cpu").changed({"export.head": "end-to-end"})
    refuse_lacking_heads({"source": two_heads}, "--also", asked)
    with pytest.raises(TargetError, match=f"^--also {one_head.path}: export: head end-to-end: the model has no"):
        refuse_lacking_heads({"source": two_heads, "other": one_head}, "--also", asked)


@pytest.mark.parametrize(("beside", "option"), [(sweep_beside, "--unpruned"), (frontier_beside, "--also")])
def test_the_heads_of_all_checkpoints_are_looked_at_on_the_device(
    beside: Callable[..., None], option: str, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[list[Path], str]] = []

    def heads(sources: Mapping[str, checkpoint.Checkpoint], option: str, target: object) -> None:
        asked.append(([source.path for source in sources.values()], option))
        raise Enough

    for run in (sweep_run, frontier_run):
        monkeypatch.setattr(run, "refuse_lacking_heads", heads)
    made = models.with_attribute(models.model(nc=10), names=dict(Dataset.load(digits).names))
    first, second = (models.saved(made, tmp_path / f"{name}.pt", train_args={"imgsz": TRAINED}) for name in "ab")
    with pytest.raises(Enough):
        beside(second, {"weights": first, "data": digits, "out": tmp_path / "out", "epochs": 0}, Heard())
    assert asked == [([first, second], option)]


def test_another_checkpoint_of_other_images_is_refused(tmp_path: Path) -> None:
    source = checkpoint.load(models.saved(models.model(), tmp_path / "source.pt"))
    grey = models.saved(models.model(channels=1), tmp_path / "grey.pt")
    with pytest.raises(DataError, match=r"^--also .*grey\.pt: it takes images of 1 channels, and .*source\.pt of 3"):
        checkpoints_apart(source, grey, "--also", load_target("cpu"), trust=False, reporter=Silent())


def test_a_plan_is_applied_at_the_size_that_it_was_made_for(weights: Path) -> None:
    plan = prune(weights, imgsz=64, ratio=0.2, importance="lamp").plan
    again = prune(weights, plan=plan)
    assert again.size == InputSize(64, "plan", TRAINED)
    assert again.plan == plan
