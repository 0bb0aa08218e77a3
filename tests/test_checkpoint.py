"""checkpoint: what is written loads without edgeprune; what is unsafe or damaged is refused in one line."""

from __future__ import annotations

import copy
import errno
import os
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune as torch_prune

from edgeprune.checkpoint import (
    _checkpoint_of,
    for_ultralytics,
    load,
    parameter_count,
    refuse_broken_weights,
    require_shapes,
    save,
    shape_signature,
)
from edgeprune.errors import DataError, StageError
from edgeprune.export.metadata import facts_of
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.pruning.api import prune
from edgeprune.stages.inputs import _read_weights
from tests.situations.models import answering, old_modules
from tests.situations.models import model as small_model
from tests.training.narrow import narrow_checkpoint


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


@pytest.mark.parametrize("older", ["ch", "neither"])
def test_a_model_of_grey_images_by_an_older_ultralytics_says_so_to_todays(older, tmp_path):
    """Which reads the entry ``channels``, and takes images for RGB without it."""
    from ultralytics import YOLO

    path = narrow_checkpoint(tmp_path / "old.pt", names=("a", "b"), channels=1)
    content = torch.load(path, weights_only=False)
    channels = content["model"].yaml.pop("channels")
    content["model"].yaml |= {"ch": channels} if older == "ch" else {}
    torch.save(content, path)
    read = load(path)
    assert (read.channels, read.says_its_channels) == (1, False)
    onnx_from_checkpoint(path, tmp_path / "m.onnx", imgsz=64)
    assert facts_of(tmp_path / "m.onnx").channels == 1
    readable = for_ultralytics(read, tmp_path / "copy.pt")
    assert readable != path and load(readable).says_its_channels
    save(prune(content["model"], ratio=0.3, imgsz=64, importance="l2").model, tmp_path / "pruned.pt")
    for file in (readable, tmp_path / "pruned.pt"):
        assert len(YOLO(file).predict(np.zeros((64, 64, 1), np.uint8), imgsz=64, verbose=False)) == 1


def test_what_ultralytics_takes_for_rgb_and_is_stays_as_it_is(model, tmp_path):
    """A copy of published weights has the bytes that it had, and with them every stage its key."""
    older = copy.deepcopy(model)
    del older.yaml["channels"]
    save(older, tmp_path / "older.pt")
    assert load(tmp_path / "older.pt").says_its_channels and "channels" not in load(tmp_path / "older.pt").model.yaml


def test_a_file_that_runs_code_is_refused_and_does_not_run(tmp_path):
    marker = tmp_path / "ran"
    torch.save({"model": _Marker(marker)}, tmp_path / "evil.pt")
    with pytest.raises(DataError, match=r"exec.*--trust"):
        load(tmp_path / "evil.pt")
    assert not marker.exists()


def test_a_foreign_class_is_named_and_loads_with_trust(model, tmp_path):
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


def _tensor_for_a_model(file: Path, path: Path) -> None:
    torch.save({"model": None, "ema": torch.zeros(2)}, path)


def _tensor_at(*place: str) -> Callable[[Path, Path], None]:
    """Several numbers where one, a word or a mapping is: they have no truth value."""

    def make(file: Path, path: Path) -> None:
        data = torch.load(file, weights_only=False)
        *outer, name = place
        if not outer:
            data[name] = torch.zeros(2)
        else:
            setattr(data["model"].model[-1] if outer == ["head"] else data["model"], name, torch.ones(2))
        torch.save(data, path)

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_truncated, "truncated"),
        (_empty, "is empty; copy or train it again"),
        (_image, "no checkpoint"),
        (_state_dict, "bare state dict"),
        (_torchscript, "TorchScript"),
        (_list, "not an Ultralytics checkpoint"),
        (_plain_module, "not an Ultralytics model"),
        (_tensor_for_a_model, "not an Ultralytics checkpoint"),
        (_tensor_at("modelopt"), "its modelopt is a Tensor; allowed: a mapping"),
        (_tensor_at("head", "nc"), "its head.nc is a Tensor; allowed: 1 to"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_no_checkpoint_is_refused_in_one_line(make, message, file, tmp_path):
    path = tmp_path / "bad.pt"
    make(file, path)
    with pytest.raises(DataError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


OLD_NAMES = {
    b"ultralytics.utils\n": b"ultralytics.yolo.utils\n",
    b"ultralytics.utils.loss\n": b"ultralytics.yolo.utils.loss\n",
    b"ultralytics.utils.tal\n": b"ultralytics.yolo.utils.tal\n",
    b"ultralytics.nn.modules.conv\n": b"ultralytics.nn.modules\n",
    b"ultralytics.nn.modules.block\n": b"ultralytics.nn.modules\n",
    b"ultralytics.nn.modules.head\n": b"ultralytics.nn.modules\n",
}


@pytest.fixture
def old(model, tmp_path) -> Path:
    """A best.pt as Ultralytics 8.0.112 wrote it: a loss on the model, arguments in a namespace, modules elsewhere."""
    from ultralytics.utils import IterableSimpleNamespace
    from ultralytics.utils.loss import v8DetectionLoss

    trained = copy.deepcopy(model)
    trained.args = IterableSimpleNamespace(box=7.5, cls=0.5, dfl=1.5, imgsz=64, epochs=100)
    trained.criterion = v8DetectionLoss(trained)
    today = tmp_path / "today.pt"
    torch.save({"model": trained, "ema": None, "train_args": vars(trained.args)}, today)
    return old_modules(today, tmp_path / "old.pt", OLD_NAMES)


@pytest.mark.parametrize("trust", [False, True])
def test_a_checkpoint_of_version_8_0_loads_as_stock_ultralytics_loads_it(model, old, tmp_path, trust):
    checkpoint = load(old, trust=trust)
    assert checkpoint.task == "detect"
    assert checkpoint.trained_imgsz == 64
    assert all(torch.equal(a, b) for a, b in zip(checkpoint.model.parameters(), model.parameters(), strict=True))
    save(checkpoint.model, tmp_path / "new.pt", like=checkpoint)
    assert b"ultralytics.yolo" not in (tmp_path / "new.pt").read_bytes()
    # each module of Ultralytics is there once: a second one under an old name has classes of its own
    modules = {name: module for name, module in sys.modules.items() if name.startswith("ultralytics.")}
    assert not [name for name in modules if name.startswith("ultralytics.yolo")]
    for name, module in modules.items():
        package, _, leaf = name.rpartition(".")
        assert getattr(sys.modules[package], leaf) is module, name


FIGURES = {"train_metrics": {"metrics/mAP50-95(B)": 0.8, "fitness": 0.8}, "best_fitness": 0.8, "stopper": {"best": 0.8}}


@pytest.fixture
def measured(model, tmp_path) -> Path:
    """A checkpoint with the figures of its own training."""
    path = tmp_path / "measured.pt"
    content = {"model": model, "ema": None, "train_args": {"imgsz": 64}, "license": "of its own", **FIGURES}
    torch.save(content, path)
    return path


def _says(path: Path) -> dict[str, Any]:
    content = torch.load(path, weights_only=False)
    return {key: content[key] for key in ("license", *FIGURES) if content.get(key) is not None}


def test_other_weights_do_not_carry_the_figures_of_those_that_they_come_from(measured, tmp_path):
    source = load(measured)
    save(source.model, tmp_path / "other.pt", like=source)
    assert _says(tmp_path / "other.pt") == {"license": "of its own"}
    prune(measured, tmp_path / "pruned.pt", macs_speed_up=1.2, imgsz=64)
    assert _says(tmp_path / "pruned.pt") == {"license": "of its own"}


def test_a_copy_for_ultralytics_says_what_the_file_says(measured, tmp_path, monkeypatch):
    monkeypatch.setattr("edgeprune.checkpoint.ultralytics_reads", lambda path: False)
    copied = for_ultralytics(load(measured), tmp_path / "copy.pt")
    assert copied != measured and _says(copied) == {"license": "of its own", **FIGURES}


@pytest.mark.parametrize("name", ["yolov5n.pt", "yolov8n.pt", "it's.pt", "two words.pt"])
def test_a_file_that_exists_is_read_itself(file, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(file.read_bytes())
    assert load(name).trained_imgsz == 320
    (tmp_path / name).write_bytes(file.read_bytes()[:5000])
    with pytest.raises(DataError, match="truncated"):
        load(name)
    assert (tmp_path / name).is_file()  # Ultralytics' own loader takes a damaged one for its cache, and deletes it


def test_the_format_before_archives_is_called_that_and_loads_with_trust(model, tmp_path):
    torch.save({"model": model}, tmp_path / "m.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(DataError, match=r"format of torch before 1\.6.*save it again.*--trust"):
        load(tmp_path / "m.pt")
    assert load(tmp_path / "m.pt", trust=True).task == "detect"


def test_what_wraps_a_model_for_several_gpus_is_unwrapped(model, tmp_path):
    torch.save({"model": nn.DataParallel(model)}, tmp_path / "parallel.pt")
    assert parameter_count(load(tmp_path / "parallel.pt").model) == parameter_count(model)


def _averaged(model: Any) -> Any:
    return torch.optim.swa_utils.AveragedModel(model)


def _unstructured_mask(model: Any) -> Any:
    torch_prune.l1_unstructured(model.model[1].conv, "weight", amount=0.3)
    return model


def _structured_mask(model: Any) -> Any:
    torch_prune.ln_structured(model.model[1].conv, "weight", amount=0.3, n=2, dim=0)
    return model


def _weight_norm(model: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(model.model[1].conv)
    return model


def _spectral_norm(model: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.spectral_norm(model.model[1].conv)
    return model


def _with(value: float) -> Callable[[Any], Any]:
    def change(model: Any) -> Any:
        model.model[1].bn.running_var[3] = value
        return model

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_averaged, r"AveragedModel.*averaged\.module"),
        (_unstructured_mask, r"model\.1\.conv\.weight is computed by a pruning mask.*prune\.remove\(layer, 'weight'\)"),
        (_structured_mask, r"model\.1\.conv\.weight is computed by a pruning mask"),
        (_weight_norm, r"model\.1\.conv\.weight is computed by weight norm.*remove_weight_norm"),
        (_spectral_norm, r"computes.*save it again"),
        (_with(float("nan")), r"model\.1\.bn\.running_var has NaN"),
        (_with(float("inf")), r"model\.1\.bn\.running_var has infinity"),
    ],
)
def test_weights_that_are_not_plain_and_finite_are_refused_by_name(model, tmp_path, change, message):
    torch.save({"model": change(copy.deepcopy(model))}, tmp_path / "w.pt")
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path / "w.pt")
    assert "--trust" not in str(caught.value)
    assert "\n" not in str(caught.value)


def _own() -> Any:
    """A model that may be broken: Ultralytics' layers share one activation with every model of the process."""
    return copy.deepcopy(answering(small_model()))


def _parts(made: Any) -> list[tuple[Any, str, Any]]:
    """(where, key, value) of everything that a pickle can lack or have otherwise: attributes, children, tensors."""
    kept = ("_parameters", "_buffers", "_modules")
    return [
        (place, key, value)
        for module in made.modules()
        for place in (vars(module), *(vars(module)[name] for name in kept))
        for key, value in place.items()
    ]


WRONG = (None, "x", -1, [], {}, 2.5, (1, 2), True)


ANY_PART = given(share=st.floats(0, 1, exclude_max=True), wrong=st.sampled_from([..., *WRONG]))


@settings(max_examples=20)
@ANY_PART
def test_a_model_with_a_part_missing_or_of_another_type_is_refused_or_runs(tmp_path_factory, share, wrong):
    _refused_or_runs(tmp_path_factory, share, wrong)


@pytest.mark.slow
@settings(max_examples=400)
@ANY_PART
def test_many_models_with_a_part_missing_or_of_another_type(tmp_path_factory, share, wrong):
    _refused_or_runs(tmp_path_factory, share, wrong)


def _refused_or_runs(tmp_path_factory, share, wrong):
    made = _own()
    place, key, _ = (parts := _parts(made))[int(share * len(parts))]
    if wrong is ...:
        del place[key]
    else:
        place[key] = wrong
    path = tmp_path_factory.mktemp("part") / "m.pt"
    torch.save({"model": made, "train_args": {"imgsz": 64}}, path)
    try:
        read = load(path)
    except DataError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return
    side = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.isfinite(read.model(side)[0]).all()
        read.model.fuse(verbose=False)
        assert torch.isfinite(read.model(side)[0]).all()
    save(read.model, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda made: vars(made.model[-1])["_modules"].update(cv2=nn.ModuleList()),
            r"layer 6 \(Detect\) on: IndexError",
        ),
        (lambda made: vars(made.model[1]).pop("f"), r"from layer 0 \(Conv\) on: AttributeError"),
        (lambda made: vars(made.model[-1]).update(reg_max=3), r"from layer 6 \(Detect\) on: RuntimeError"),
        (lambda made: vars(made.model[2].cv1.conv).pop("_buffers"), "conv: TypeError: its _buffers is no dict"),
        (lambda made: vars(made.model[0])["_modules"].update(conv="x"), "0: TypeError: its conv is a str"),
        (lambda made: vars(made.model[2].cv1.conv).pop("kernel_size"), "model.2.cv1.conv: AttributeError"),
        (lambda made: vars(made.model[-1]).update(anchors=2.5), "the model: AttributeError"),
    ],
)
def test_what_does_not_run_says_where(tmp_path, change, message):
    made = _own()
    change(made)
    torch.save({"model": made, "train_args": {"imgsz": 64}}, tmp_path / "m.pt")
    with pytest.raises(DataError, match=message):
        load(tmp_path / "m.pt")


@pytest.mark.parametrize("said", ["segment", "semantic", 7, None])
def test_ultralytics_is_given_the_task_that_the_class_is(tmp_path, said):
    from ultralytics import YOLO

    made = answering(small_model())
    vars(made).update(task=said)
    torch.save({"model": made, "train_args": {"imgsz": 64}}, tmp_path / "m.pt")
    found = load(tmp_path / "m.pt")
    readable = for_ultralytics(found, tmp_path / "given.pt")
    assert found.task == "detect" and readable == tmp_path / "given.pt"
    assert YOLO(readable).task == "detect" and load(readable).says_its_task


def test_reading_leaves_the_head_as_it_was(tmp_path):
    made = answering(small_model())
    made(torch.zeros(1, 3, 96, 96))
    torch.save({"model": made, "train_args": {"imgsz": 64}}, tmp_path / "m.pt")
    assert torch.equal(load(tmp_path / "m.pt").model.model[-1].anchors, made.model[-1].anchors)


def test_parametrizations_of_a_model_in_memory_are_refused(model):
    normed = copy.deepcopy(model)
    nn.utils.parametrizations.weight_norm(normed.model[1].conv)  # torch refuses to save these itself
    with pytest.raises(DataError, match=r"model\.1\.conv\.weight.*remove_parametrizations"):
        refuse_broken_weights(normed, "the model")


def test_a_class_of_yolov5s_own_repository_is_called_that(tmp_path):
    module = types.ModuleType("models.yolo")
    exec("class DetectionModel: pass", module.__dict__)
    module.DetectionModel.__module__ = "models.yolo"  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "models", types.ModuleType("models"))
        patch.setitem(sys.modules, "models.yolo", module)
        torch.save({"model": module.DetectionModel()}, tmp_path / "v5.pt")  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="repositories of YOLOv5"):
        load(tmp_path / "v5.pt")


JUNK = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.binary(max_size=4),
        st.just(torch.zeros(2)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers(0, 3)), inner, max_size=3),
    ),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=150, derandomize=True)
@given(
    told=st.dictionaries(st.sampled_from(["names", "stride", "task", "yaml"]), JUNK, max_size=2),
    entries=st.dictionaries(st.sampled_from(["train_args", "edgeprune", "epoch", "version", "date"]), JUNK, max_size=2),
    argument=st.tuples(st.sampled_from(["imgsz", "single_cls", "lr0", "task"]), JUNK),
)
def test_metadata_of_any_kind_is_read_right_or_refused_in_one_line(model, told, entries, argument):
    """Everything :func:`load` takes from an unpickled file; the file itself would only make this slow."""
    given_model = copy.copy(model)
    for name, value in told.items():
        setattr(given_model, name, value)
    try:
        found = _checkpoint_of(given_model, "detect", {"train_args": dict([argument]), **entries}, Path(__file__))
    except DataError as error:
        assert "\n" not in str(error)
        assert str(error).isprintable()
        return
    assert list(found.names) == list(range(80))
    assert all(type(name) is str for name in found.names.values())
    assert found.model.task == "detect"
    assert 0 < found.stride <= 1024
    assert found.trained_imgsz is None or 0 < found.trained_imgsz <= 16_384
    assert found.signature is None or isinstance(found.signature, str)


@pytest.mark.parametrize("read", [load, lambda path: _read_weights(path, trust=False)])
def test_an_exported_file_is_answered_with_the_checkpoint_behind_it(read: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"give the \.pt that it was exported from"):
        read(tmp_path / "model.onnx")
    with pytest.raises(DataError, match=r"give a checkpoint, a \.pt file"):
        read(tmp_path / "model.zip")


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
    rebuilt: Any = DetectionModel(cast(Any, result.model.yaml), verbose=False)
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


def test_a_task_that_is_no_word_is_that_of_the_model(file, tmp_path):
    _tensor_at("model", "task")(file, tmp_path / "odd.pt")
    found = load(tmp_path / "odd.pt")
    assert (found.task, found.says_its_task) == ("detect", False)


@pytest.mark.parametrize("trust", [False, True], ids=["restricted", "trusted"])
@pytest.mark.parametrize(
    "error",
    [MemoryError(), ImportError("libGL.so.1: cannot open shared object file"), RuntimeError("DefaultCPUAllocator: no")],
    ids=["memory", "library", "allocator"],
)
def test_a_good_file_is_not_blamed_for_memory_or_the_installation(file, monkeypatch, trust, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch, "load", fail)
    monkeypatch.setattr("ultralytics.nn.tasks.torch_load", fail)
    with pytest.raises((MemoryError, ImportError)):
        load(file, trust=trust)


def test_a_file_that_cannot_be_read_is_not_called_damaged(file, monkeypatch):
    def stale(*_, **__):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr("ultralytics.nn.tasks.torch_load", stale)
    with pytest.raises(DataError, match=os.strerror(errno.ESTALE)) as caught:
        load(file)
    assert "truncated" not in str(caught.value)


def test_a_module_that_only_another_ultralytics_has_is_named(file, monkeypatch):
    def missing(*_, **__):
        raise ModuleNotFoundError("No module named x", name="ultralytics.nn.modules.of_tomorrow")

    monkeypatch.setattr("ultralytics.nn.tasks.torch_load", missing)
    with pytest.raises(
        DataError, match=r"needs ultralytics\.nn\.modules\.of_tomorrow, which the installed Ultralytics"
    ):
        load(file)


def test_running_a_good_model_is_not_blamed_for_memory(file, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(nn.Conv2d, "forward", fail)
    with pytest.raises(MemoryError):
        load(file)
