"""What a profile may say and a later stage would refuse is refused before the first."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edgeprune.cli import app
from edgeprune.data.digits import write_digits
from edgeprune.errors import DataError, EdgepruneError, StageError, TargetError
from edgeprune.frontier.run import frontier
from edgeprune.options import named, options_of_command
from edgeprune.search import inputs as search_inputs
from edgeprune.search.run import profile as profile_layers
from edgeprune.search.run import search
from edgeprune.stages import finetune, pretrain, qat, sparsify
from edgeprune.stages.buildable import require_buildable
from edgeprune.stages.inputs import levers_command, read_inputs
from edgeprune.sweep.point import Pruned
from edgeprune.sweep.run import require_trainable, sweep
from edgeprune.sweep.steps import RealSteps
from edgeprune.target import load_target, shipped_targets
from tests.situations.models import model, saved
from tests.training.narrow import narrow_checkpoint

NAMES = [str(digit) for digit in range(10)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("inputs") / "digits", train=4, val=2, test=2, imgsz=64)


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ("prune: {importance: magic}", "profile profile: prune: unknown importance 'magic'"),
        ("prune: {ignore: ['nowhere.*']}", "profile profile: prune: ignore: 'nowhere\\.\\*' matches no module"),
        ("prune: {max_ratio: {'model.99.*': 0.5}}", "profile profile: prune: max_ratio: 'model\\.99\\.\\*' matches no"),
        ("finetune: {train: {mosiac: 0.5}}", "finetune: .*mosiac"),
        ("sparsify: {train: {bogus: 1}}", "sparsify: .*bogus"),
        ("finetune: {device: '7'}", "finetune: device '7' is not here"),
        ("budget: {speed_up: 1.5, scope: end_to_end}", "known for RGB; a model of 1 channels"),
    ],
)
def test_it_is_refused_before_the_first_stage(said: str, word: str, data: Path, tmp_path: Path) -> None:
    channels = 1 if "end_to_end" in said else 3
    weights = narrow_checkpoint(tmp_path / "w.pt", names=NAMES, channels=channels)
    profile = tmp_path / "profile.yaml"
    profile.write_text(f"extends: cpu\ndescription: Wrong\n{said}\n")
    with options_of_command({"device": "--device"}), pytest.raises(TargetError, match=word):  # that is the board
        read_inputs(load_target(profile), weights, data, trust=False)


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ("prune: {importance: magic}", "profile profile: prune: unknown importance 'magic'"),
        ("finetune: {train: {mosiac: 0.5}}", "profile profile: finetune: train argument 'mosiac'"),
        ("finetune: {train: {mosaic: much}}", "profile profile: finetune: a train argument is wrong: .*mosaic"),
        ("pretrain: {train: {bogus: 1}}", "profile profile: pretrain: train argument 'bogus'"),
        ("finetune: {teacher: larger.onnx}", "profile profile: finetune.teacher: larger.onnx is not a .pt file"),
        ("levers: auto", "profile profile: levers: auto needs .* latency_ms; seen: speed_up 1"),
        (
            "device: {kind: cuda, host: user@box}\nruntime: tensorrt",
            "device.host, or --device: runtime .*user@box",
        ),
    ],
)
def test_showing_a_profile_refuses_what_a_build_refuses_of_it_alone(
    said: str, word: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgeprune.cli import targets_show

    profile = tmp_path / "profile.yaml"
    profile.write_text(f"extends: cpu\ndescription: Wrong\n{said}\n")
    with pytest.raises(EdgepruneError, match=word) as shown:
        targets_show(str(profile))
    assert "description: Wrong" in capsys.readouterr().out  # the profile is there to look at
    weights = "yolov8n.yaml" if "pretrain" in said else narrow_checkpoint(tmp_path / "w.pt", names=NAMES)
    with pytest.raises(EdgepruneError, match=word) as built:
        read_inputs(load_target(profile), weights, data, trust=False)
    assert shown.value.exit_code == built.value.exit_code == 2


def test_a_gpu_that_is_not_here_is_no_fault_of_a_profile(tmp_path: Path) -> None:
    profile = tmp_path / "profile.yaml"
    profile.write_text("extends: cpu\ndescription: Ours\nfinetune: {device: '7', train: {mosaic: 0.5}}\n")
    require_buildable(load_target(profile))


@pytest.mark.parametrize("name", sorted(shipped_targets()))
def test_every_shipped_profile_can_be_built(name: str) -> None:
    require_buildable(load_target(name))


class Refusing:
    """Stands for a build or a job; whatever is asked of it is refused by its name."""

    def __getattr__(self, name: str) -> Any:
        raise TargetError(named("device"))


@pytest.mark.parametrize("stage", [pretrain, sparsify, finetune, qat], ids=lambda stage: stage.STAGE.name)
def test_what_a_training_of_a_build_refuses_is_called_by_the_profiles_keys(stage: Any, tmp_path: Path) -> None:
    with options_of_command({"device": "--device"}), pytest.raises(TargetError, match=r"^device$"):
        stage.STAGE.run(Refusing(), tmp_path, None)


def test_what_a_training_of_a_sweep_refuses_is_called_by_the_profiles_keys() -> None:
    job: Any = Refusing()
    with options_of_command({"device": "--device"}), pytest.raises(TargetError, match=r"^device$"):
        RealSteps().finetune(job, Pruned(b"", 1.0, 0))


def test_a_model_description_is_asked_for_its_own_training(data: Path, tmp_path: Path) -> None:
    profile = tmp_path / "profile.yaml"
    profile.write_text("extends: cpu\ndescription: Wrong\npretrain: {train: {bogus: 1}}\n")
    with pytest.raises(TargetError, match=r"pretrain: .*bogus"):
        read_inputs(load_target(profile), "yolov8n.yaml", data, trust=False)
    weights = narrow_checkpoint(tmp_path / "w.pt", names=NAMES)  # which is not trained from scratch
    assert read_inputs(load_target(profile), weights, data, trust=False).weights.path == weights


@pytest.mark.parametrize("opset", [11, 21])
def test_an_opset_that_is_not_exported_is_no_profiles(opset: int, tmp_path: Path) -> None:
    profile = tmp_path / "profile.yaml"
    profile.write_text(f"extends: cpu\ndescription: Wrong\nexport: {{opset: {opset}}}\n")
    with pytest.raises(TargetError, match=f"opset.*{opset}|{opset}.*opset"):
        load_target(profile)


def test_a_head_that_the_model_has_not_is_refused_before_it_is_pruned(data: Path, tmp_path: Path) -> None:
    profile = tmp_path / "profile.yaml"
    profile.write_text("extends: cpu\ndescription: Wrong\nexport: {head: end-to-end}\n")
    weights = narrow_checkpoint(tmp_path / "w.pt", names=NAMES)
    for read in (read_inputs, search_inputs.read_inputs):
        with pytest.raises(TargetError, match=r"^export: head end-to-end: the model has no end-to-end head; auto, raw"):
            read(load_target(profile), weights, data, trust=False)


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        ("budget: {speed_up: 1.5}\nsparsify: {epochs: 1}", True),
        ("budget: {speed_up: 1.0}\nsparsify: {epochs: 1}", False),  # which asks for nothing, so that nothing is trained
        ("budget: {latency_ms: 5}\nsparsify: {epochs: 1}", False),  # which the model may meet as it is: neither is it
        ("budget: {latency_ms: 5}", False),
    ],
)
def test_what_cannot_be_trained_is_refused_before_a_training_that_is_certain(
    said: str, refused: bool, data: Path, tmp_path: Path
) -> None:
    profile, made = tmp_path / "profile.yaml", model("end-to-end", nc=10)
    made.names, made.model[-1].end2end = dict(enumerate(NAMES)), True  # the head that is left
    weights = saved(made.fuse(verbose=False), tmp_path / "fused.pt")
    profile.write_text(f"extends: cpu\ndescription: Ours\n{said}\n")
    with pytest.raises(DataError, match="was fused") if refused else nullcontext():
        read_inputs(load_target(profile), weights, data, trust=False)


@pytest.mark.parametrize(
    ("description", "said", "channels", "word"),
    [
        ("yolov8n", "budget: {speed_up: 1.5, scope: end_to_end}", 1, "end_to_end is known for RGB; a model of 1 chan"),
        ("yolov8n", "export: {head: end-to-end}", 3, "^export: head end-to-end: the model has no end-to-end head"),
        ("yolov8n-cls", "export: {nms: true}", 3, "^export.nms: true: yolov8n-cls.yaml is a classifier, .*leave it"),
        ("yolov8n", "prune: {ignore: ['nowhere.*']}", 3, "prune: ignore: 'nowhere\\.\\*' matches no module"),
        ("yolov8n", "prune: {max_ratio: {'model.99.*': 0.5}}", 3, "prune: max_ratio: 'model\\.99\\.\\*' matches no"),
        ("yolo26n", "finetune: {teacher: 'TEACHER'}", 3, "finetune.teacher: .*name a teacher of the student's family"),
    ],
)
def test_a_description_is_refused_before_it_is_trained_for_hours(
    description: str, said: str, channels: int, word: str, data: Path, tmp_path: Path
) -> None:
    teacher = narrow_checkpoint(tmp_path / "teacher.pt", names=NAMES) if "TEACHER" in said else tmp_path
    profile, listed = tmp_path / "profile.yaml", data.with_name(f"{channels}.yaml")
    profile.write_text(f"extends: cpu\ndescription: Wrong\n{said.replace('TEACHER', str(teacher))}\n")
    listed.write_text(f"{data.read_text()}\nchannels: {channels}\n")
    with pytest.raises(EdgepruneError, match=word) as refused:
        read_inputs(load_target(profile), f"{description}.yaml", listed, trust=False)
    assert refused.value.exit_code == 2


def test_a_description_that_fits_is_built(data: Path, tmp_path: Path) -> None:
    profile, teacher = tmp_path / "profile.yaml", narrow_checkpoint(tmp_path / "teacher.pt", names=NAMES)
    said = "budget: {speed_up: 1.5, scope: end_to_end}\nprune: {ignore: ['model.0.*']}\nexport: {nms: true}"
    profile.write_text(f"extends: cpu\ndescription: Ours\n{said}\nfinetune: {{teacher: '{teacher}'}}\n")
    found = read_inputs(load_target(profile), "yolov8n.yaml", data, trust=False)
    assert not found.weights.trained and found.target.imgsz == 640


def test_a_description_whose_layers_cannot_be_followed_is_refused_before_it_is_trained(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untraceable(*_: object) -> None:
        raise StageError("model.3: cannot be followed")

    monkeypatch.setattr("edgeprune.pruning.pruner.trace_model", untraceable)
    with pytest.raises(StageError, match="cannot be followed"):
        read_inputs(load_target("cpu"), "yolov8n.yaml", data, trust=False)


def test_nms_of_a_classifier_is_refused_by_its_key_in_every_command(data: Path, tmp_path: Path) -> None:
    profile, out = tmp_path / "profile.yaml", tmp_path / "out"
    profile.write_text("extends: cpu\ndescription: Wrong\nexport: {nms: true}\n")
    weights = saved(model("classify"), tmp_path / "w.pt")
    given: Any = {"data": data, "out": out, "epochs": 0}
    for command in (
        lambda: read_inputs(load_target(profile), weights, data, trust=False),
        lambda: profile_layers(profile, weights, data, cache=None),
        lambda: search(profile, weights, data, output=tmp_path / "found.pt", speed_up=1.5),
        lambda: sweep(profile, weights, budgets=[("speed_up", 1.5)], **given),
        lambda: frontier(profile, weights, kind="speed_up", budgets=[1.5], **given),
    ):
        with pytest.raises(TargetError, match=r"^export\.nms: true: .*w\.pt is a classifier, .*leave it out$"):
            command()
    assert not out.exists()


@pytest.mark.parametrize(
    ("said", "profiled", "searched"),
    [
        ("prune: {importance: l1, diagnose: false}", False, False),
        ("prune: {importance: l1}", False, True),  # INT8 beside it, where the plan is dear
        ("prune: {importance: taylor}", False, True),
        ("", False, True),
        ("precision: int8\nprune: {importance: l1}", True, True),
        ("budget: {speed_up: 1.5, scope: end_to_end}\nprune: {importance: l1}", True, True),
        ("export: {nms: true}", True, True),
    ],
)
def test_images_that_nothing_would_look_at_are_refused(
    said: str, profiled: bool, searched: bool, tmp_path: Path
) -> None:
    profile = tmp_path / "profile.yaml"
    profile.write_text(f"extends: cpu\ndescription: Ours\n{said}\n")
    target = load_target(profile)
    for ranks, used in ((False, profiled), (True, searched)):
        search_inputs.refuse_unused_data(target, None, ranks=ranks)
        if used:
            search_inputs.refuse_unused_data(target, "data.yaml", ranks=ranks)
            continue
        with pytest.raises(TargetError, match=r"data: the target profile neither calibrates .*out$"):
            search_inputs.refuse_unused_data(target, "data.yaml", ranks=ranks)


def test_the_commands_refuse_them(tmp_path: Path) -> None:
    weights = narrow_checkpoint(tmp_path / "w.pt", names=NAMES)
    with pytest.raises(TargetError, match="data: the target cpu neither"):
        profile_layers("cpu", weights, "data.yaml")
    profile = tmp_path / "profile.yaml"
    profile.write_text("extends: cpu\ndescription: Ours\nprune: {importance: l1, diagnose: false}\n")
    search = "search", str(weights), "--target", str(profile), "--data", "d.yaml", "-o", str(tmp_path / "o.pt")
    refused = CliRunner().invoke(app, [*search, "--speed-up", "1.5"]).exception
    assert isinstance(refused, TargetError) and "ranks channels by l1, which needs none; leave it out" in str(refused)


@pytest.mark.parametrize(
    ("said", "weights", "options", "command"),
    [
        ("", "m.pt", {}, "m.pt --target mine.yaml --data d.yaml --speed-up 3"),
        (
            "",
            "m.pt",
            {"imgsz": 320, "epochs": 5, "seed": 7, "out": "runs/x", "max_map_drop": 0.1},
            "m.pt --target mine.yaml --data d.yaml --speed-up 3 --imgsz 320 --epochs 5 --seed 7",
        ),
        ("", "yolo11n.yaml", {}, "run/pretrain/best.pt --target mine.yaml --data d.yaml --speed-up 3"),
        ("finetune: {time_h: 2}", "m.pt", {"epochs": 5}, "m.pt --target mine.yaml --data d.yaml --speed-up 3"),
        ("sparsify: {epochs: 3}", "m.pt", {}, ""),  # the frontier refuses it
    ],
)
def test_the_command_for_other_levers_is_one_that_runs(
    said: str, weights: str, options: dict[str, Any], command: str, tmp_path: Path
) -> None:
    """Of a checkpoint, with what was given that decides what the rows cost, and none where the frontier refuses."""
    (tmp_path / "mine.yaml").write_text(f"extends: cpu\ndescription: Mine\nbudget: {{speed_up: 3}}\n{said}\n")
    target = load_target(tmp_path / "mine.yaml")
    tell = levers_command(target, "mine.yaml", weights, "d.yaml", target.budget, options, trust=False)
    assert tell(Path("run/pretrain/best.pt")) == (f"edgeprune frontier {command}" if command else "")
    if command:
        require_trainable(target, options.get("epochs") if "--epochs" in command else None)
    else:
        with pytest.raises(TargetError, match="sparsify"):
            require_trainable(target, None)
