"""checkpoint: what is written loads without edgeprune; what is unsafe or damaged is refused in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgeprune.checkpoint import load, parameter_count, require_shapes, save, shape_signature
from edgeprune.errors import DataError, StageError


@pytest.fixture(scope="module")
def model() -> Any:
    from ultralytics import YOLO

    model: Any = YOLO("yolov8n.yaml").model
    return model.float().eval()


@pytest.fixture(scope="module")
def file(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "model.pt"
    save(model, path, metadata={"plan": {"kept": [1, 2], "note": None}}, train_args={"imgsz": 320})
    return path


class _Marker:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (exec, (f"open({str(self.path)!r}, 'w').close()",))


class _Foreign(nn.Module):
    def forward(self, x):
        return x


def test_a_round_trip_keeps_everything(model, file):
    checkpoint = load(file)
    assert checkpoint.task == "detect"
    assert checkpoint.stride == 32
    assert checkpoint.names[0] == "0"
    assert checkpoint.edgeprune == {"plan": {"kept": [1, 2], "note": None}}
    assert checkpoint.train_args == {"imgsz": 320}
    assert parameter_count(checkpoint.model) == parameter_count(model)
    state = model.state_dict()
    for name, tensor in checkpoint.model.state_dict().items():
        assert tensor.dtype == state[name].dtype
        assert torch.equal(tensor, state[name])


def test_equal_models_give_equal_bytes(model, file, tmp_path):
    save(model, tmp_path / "other.pt", metadata={"plan": {"kept": [1, 2], "note": None}}, train_args={"imgsz": 320})
    assert (tmp_path / "other.pt").read_bytes() == file.read_bytes()


def test_plain_ultralytics_loads_it_where_edgeprune_is_missing(file, tmp_path):
    code = (
        "import sys; sys.modules['edgeprune'] = None\n"
        "from ultralytics import YOLO\n"
        "import numpy as np\n"
        f"print(len(YOLO({str(file)!r}).predict(np.zeros((64, 64, 3), np.uint8), imgsz=64, verbose=False)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("1")


def test_a_file_that_runs_code_is_refused_and_does_not_run(tmp_path):
    marker = tmp_path / "ran"
    torch.save({"model": _Marker(marker)}, tmp_path / "evil.pt")
    with pytest.raises(DataError, match=r"exec.*--trust"):
        load(tmp_path / "evil.pt")
    assert not marker.exists()


def test_a_foreign_class_is_named_and_loads_with_trust(model, tmp_path):
    import copy

    foreign = copy.deepcopy(model)
    foreign.model[0].act = _Foreign()
    torch.save({"model": foreign}, tmp_path / "foreign.pt")
    with pytest.raises(DataError, match=r"_Foreign.*--trust"):
        load(tmp_path / "foreign.pt")
    assert load(tmp_path / "foreign.pt", trust=True).task == "detect"
    with pytest.raises(StageError, match="_Foreign"):
        save(foreign, tmp_path / "again.pt")
    assert not (tmp_path / "again.pt").exists()


def _truncated(file: Path, path: Path) -> None:
    path.write_bytes(file.read_bytes()[:-1000])


def _empty(file: Path, path: Path) -> None:
    path.write_bytes(b"")


def _image(file: Path, path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))


def _state_dict(file: Path, path: Path) -> None:
    torch.save({"a.weight": torch.zeros(2)}, path)


def _torchscript(file: Path, path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Identity(), torch.zeros(1)), str(path))


def _list(file: Path, path: Path) -> None:
    torch.save([1, 2], path)


def _plain_module(file: Path, path: Path) -> None:
    torch.save({"model": nn.Linear(2, 2)}, path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_truncated, "truncated"),
        (_empty, "truncated"),
        (_image, "no checkpoint"),
        (_state_dict, "bare state dict"),
        (_torchscript, "TorchScript"),
        (_list, "not an Ultralytics checkpoint"),
        (_plain_module, "not an Ultralytics model"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_no_checkpoint_is_refused_in_one_line(make, message, file, tmp_path):
    path = tmp_path / "bad.pt"
    make(file, path)
    with pytest.raises(DataError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["/nowhere/model.pt", "nothing-of-this-name.pt", "model.onnx"])
def test_a_missing_file_is_refused(path):
    with pytest.raises(DataError, match=r"no such file|not a \.pt"):
        load(path)


def test_published_weights_that_cannot_be_fetched_give_one_line(tmp_path, monkeypatch):
    import ultralytics.utils.downloads as downloads

    def offline(*args, **kwargs):
        raise ConnectionError("offline\nand more")

    monkeypatch.setattr(downloads, "attempt_download_asset", offline)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="go online") as caught:
        load("yolov8n.pt")
    assert "\n" not in str(caught.value)


def test_metadata_must_be_plain(model, tmp_path):
    with pytest.raises(StageError, match=r"metadata\.widths\[1\] is a Tensor"):
        save(model, tmp_path / "model.pt", metadata={"widths": [1, torch.zeros(1)]})
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(model, file, tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")

    def broken(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        save(model, path)
    assert [one.read_bytes() for one in tmp_path.iterdir()] == [b"old"]


def test_the_signature_follows_shapes_only(model):
    import copy

    signature = shape_signature(model)
    assert shape_signature(copy.deepcopy(model).half()) == signature
    wider = copy.deepcopy(model)
    wider.model[0].conv = nn.Conv2d(3, 24, 3)
    assert shape_signature(wider) != signature


def test_a_model_rebuilt_from_its_yaml_never_passes_for_the_pruned_one(model):
    from ultralytics.nn.tasks import DetectionModel

    from edgeprune.pruning.api import prune

    result = prune(model, imgsz=64, macs_speed_up=2)
    require_shapes(result.model, result.plan.result_shapes, "training")
    rebuilt: Any = DetectionModel(result.model.yaml, verbose=False)
    rebuilt.load(result.model)  # what Model.train does: copies what fits, says little
    with pytest.raises(StageError, match="after training"):
        require_shapes(rebuilt, result.plan.result_shapes, "training")


@pytest.mark.shared
@pytest.mark.parametrize("name", ["yolov8n", "yolo11n", "yolo26n"])
def test_trained_weights_load_as_float32(shared, name):
    checkpoint = load(shared / "weights" / f"bccd-{name}-320.pt")
    assert checkpoint.names == {0: "RBC", 1: "WBC", 2: "Platelets"}
    assert {tensor.dtype for tensor in checkpoint.model.parameters()} == {torch.float32}
    assert not checkpoint.model.training
