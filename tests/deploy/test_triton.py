"""Triton's repository: parsed by Triton's own schema, and every claim held against the graph by running it."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from typer.testing import CliRunner
from ultralytics import YOLO

from edgeprune.artifact import write_files
from edgeprune.cli.deploy import app
from edgeprune.deploy.shipped import ShippedModel
from edgeprune.deploy.triton import triton_files
from edgeprune.errors import DataError, TargetError
from edgeprune.export.half import cast_to_fp16
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.runtimes.engine_file import EngineFacts, write_facts
from edgeprune.runtimes.onnx_facts import onnx_facts
from tests.export.helpers import saved, stock_model

NUMPY = {"TYPE_FP32": np.float32, "TYPE_FP16": np.float16}


@pytest.fixture(scope="module")
def schema():
    """``inference.ModelConfig`` of Triton's client; its package is not imported, which would need gRPC."""
    package = importlib.util.find_spec("tritonclient")
    assert package is not None and package.origin is not None, "make install-dev brings tritonclient"
    path = Path(package.origin).parent / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.shared
@pytest.mark.parametrize("dynamic", [False, True])
def test_the_configuration_is_the_graphs(shared, tmp_path, schema, dynamic):
    bundle, repository = tmp_path / "bundle", tmp_path / "models"
    bundle.mkdir()
    onnx = bundle / "model.onnx"
    onnx_from_checkpoint(shared / "weights" / "bccd-yolov8n-320.pt", onnx, imgsz=320, dynamic=dynamic)
    (bundle / "engine.engine").write_bytes(b"plan")
    write_files(repository, triton_files(ShippedModel.read(bundle), name="cells"))
    roots = [repository / "cells_onnx", repository / "cells_tensorrt"]
    assert sorted(repository.iterdir()) == roots
    assert (roots[0] / "1" / "model.onnx").read_bytes() == onnx.read_bytes()
    assert (roots[1] / "1" / "model.plan").read_bytes() == b"plan"
    for root, backend in zip(roots, ("onnxruntime", "tensorrt"), strict=True):
        config = text_format.Parse((root / "config.pbtxt").read_text(), schema.ModelConfig())
        assert (config.name, config.backend) == (root.name, backend)
        free = dynamic and backend == "onnxruntime"  # an engine has one shape, whatever its graph left free
        assert config.max_batch_size == (16 if free else 0)
        assert config.HasField("dynamic_batching") == free
        metadata = ast.literal_eval(config.parameters["metadata"].string_value)  # as Ultralytics' client reads it
        assert metadata["task"] == "detect" and metadata["names"] == {0: "RBC", 1: "WBC", 2: "Platelets"}
        assert metadata["stride"] == 32 and metadata["imgsz"] == [320, 320]

        assert free or list(config.input[0].dims) == [1, 3, 320, 320]
        as_it_says(schema, config, onnx, [2] if free else [], 320)


def as_it_says(schema, config, onnx: Path, batch: list[int], side: int) -> None:
    """Names, types and shapes of a configuration are those of the graph when it runs."""
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    assert [tensor.name for tensor in config.input] == [tensor.name for tensor in session.get_inputs()]
    assert [tensor.name for tensor in config.output] == [tensor.name for tensor in session.get_outputs()]
    shape = batch + [size if size > 0 else side for size in config.input[0].dims]
    kind = schema.DataType.Name(config.input[0].data_type)
    outputs = session.run(None, {config.input[0].name: np.zeros(shape, NUMPY[kind])})
    for tensor, output in zip(config.output, outputs, strict=True):
        claimed = batch + list(tensor.dims)
        assert len(claimed) == output.ndim
        assert all(claim in (-1, size) for claim, size in zip(claimed, output.shape, strict=True))
        assert NUMPY[schema.DataType.Name(tensor.data_type)] == output.dtype


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param(1, id="one image"),
        pytest.param(4, id="four images", marks=pytest.mark.slow),
        pytest.param(0, id="free", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    ("family", "task", "head"),
    [
        *(("yolov8", task, "raw") for task in ("detect", "segment", "pose", "obb", "classify")),
        *(("yolo26", task, "end-to-end") for task in ("detect", "segment", "pose", "obb")),
        ("yolov8", "detect", "nms"),
    ],
)
def test_every_task_and_head_is_described_as_it_runs(tmp_path, schema, family, task, head, batch):
    onnx = tmp_path / "model.onnx"
    weights = saved(stock_model(family, task), tmp_path / "m.pt")
    onnx_from_checkpoint(weights, onnx, imgsz=64, head=head, dynamic=batch == 0, batch=batch or 2)
    if task == "detect" and batch == 1:  # with inputs and outputs of half precision too
        cast_to_fp16(onnx, tmp_path / "half.onnx", half_inputs=True)
    graphs = sorted(tmp_path.glob("*.onnx"))
    assert len(graphs) == (2 if task == "detect" and batch == 1 else 1)
    for graph in graphs:
        text = triton_files(ShippedModel.read(graph))["edgeprune_onnx/config.pbtxt"].decode()
        config = text_format.Parse(text, schema.ModelConfig())
        as_it_says(schema, config, graph, [2] if config.max_batch_size else [], 64)


@pytest.mark.shared
def test_without_a_plan_only_the_graph_is_served(exported):
    assert set(triton_files(ShippedModel.read(exported("yolov8", "raw")))) == {
        "edgeprune_onnx/config.pbtxt",
        "edgeprune_onnx/1/model.onnx",
    }


@pytest.mark.shared
def test_a_name_that_leaves_the_repository_is_refused(exported):
    with pytest.raises(TargetError, match="cannot name a model of Triton"):
        triton_files(ShippedModel.read(exported("yolov8", "raw")), name="../elsewhere")


CLASSES = {0: "猫😀", 1: 'a "quoted" one', 2: "back\\slash's"}


def built(folder: Path, facts: EngineFacts | None, *, dynamic: bool = True) -> ShippedModel:
    """A bundle of a graph of free batch, and an engine whose facts are given."""
    folder.mkdir()
    network = stock_model("yolov8", "detect")
    network.names = CLASSES
    onnx_from_checkpoint(saved(network, folder / "m.pt"), folder / "model.onnx", imgsz=64, dynamic=dynamic, batch=2)
    (folder / "engine.engine").write_bytes(b"plan")
    if facts is not None:
        write_facts(folder / "engine.engine", facts_for(folder / "model.onnx", facts))
    return ShippedModel.read(folder)


def facts_for(onnx: Path, facts: EngineFacts) -> EngineFacts:
    graph = onnx_facts(onnx)
    return replace(facts, inputs=graph.inputs, outputs=graph.outputs, metadata=graph.metadata)


FACTS = EngineFacts("trtexec 10.3.0", {}, "fp16", (), (), {}, (), {"images": (4, 3, 96, 64)}, dla_core=1)


@pytest.mark.parametrize("facts", [FACTS, None], ids=["with facts", "without"])
def test_an_engine_is_served_in_the_shape_and_on_the_core_that_it_was_built_for(tmp_path, schema, facts):
    files = triton_files(built(tmp_path / "bundle", facts))
    config = text_format.Parse(files["edgeprune_tensorrt/config.pbtxt"].decode(), schema.ModelConfig())
    shape = [4, 3, 96, 64] if facts else [2, 3, 64, 64]
    assert list(config.input[0].dims) == shape
    assert config.output[0].dims[0] == shape[0]
    assert config.max_batch_size == 0 and not config.HasField("dynamic_batching")
    [group] = config.instance_group
    cores = [(device.kind, device.device_id) for device in group.secondary_devices]
    assert cores == ([(schema.ModelInstanceGroup.SecondaryDevice.KIND_NVDLA, 1)] if facts else [])
    graph = text_format.Parse(files["edgeprune_onnx/config.pbtxt"].decode(), schema.ModelConfig())
    assert graph.max_batch_size > 1 and not graph.instance_group[0].secondary_devices


@pytest.mark.parametrize("facts", [FACTS, None], ids=["with facts", "without"])
@pytest.mark.parametrize("form", ["onnx", "tensorrt"])
def test_ultralytics_gives_each_form_of_a_free_graph_what_it_takes(tmp_path, schema, monkeypatch, form, facts):
    """The line that is printed, of an image of another shape, with Ultralytics' own client but for the network."""
    model = built(tmp_path / "bundle", facts)
    files = triton_files(model)
    config = text_format.Parse(files[f"edgeprune_{form}/config.pbtxt"].decode(), schema.ModelConfig())
    session = onnxruntime.InferenceSession(model.onnx, providers=["CPUExecutionProvider"])
    given: list[tuple[int, ...]] = []

    class Server:
        def __init__(self, url: str) -> None:
            self.metadata = ast.literal_eval(config.parameters["metadata"].string_value)

        def __call__(self, images: np.ndarray) -> list[np.ndarray]:
            given.append(images.shape)
            dims = list(config.input[0].dims)
            shape = images.shape[1:] if config.max_batch_size else images.shape
            assert len(dims) == len(shape) and all(dim in (-1, size) for dim, size in zip(dims, shape, strict=True))
            return session.run(None, {config.input[0].name: images})

    monkeypatch.setattr("ultralytics.utils.triton.TritonRemoteModel", Server)
    monkeypatch.setattr("ultralytics.nn.backends.triton.check_requirements", lambda *_: True)
    wide = np.random.default_rng(0).integers(0, 256, (40, 200, 3), np.uint8)
    found = YOLO(f"http://localhost:8000/edgeprune_{form}", task="detect").predict([wide], verbose=False)
    assert len(found) == 1 and found[0].names == CLASSES
    fixed = (4, 3, 96, 64) if facts else (2, 3, 64, 64)
    assert set(given) == {fixed} if form == "tensorrt" else fixed not in given and given[-1][0] == 1


def test_names_of_classes_come_through_protobuf(tmp_path, schema):
    files = triton_files(built(tmp_path / "bundle", None)).values()
    texts = [content.decode() for content in files if isinstance(content, bytes)]
    assert len(texts) == 2
    for text in texts:
        config = text_format.Parse(text, schema.ModelConfig())
        assert ast.literal_eval(config.parameters["metadata"].string_value)["names"] == CLASSES


def test_an_engine_of_another_graph_is_not_served(tmp_path):
    model = built(tmp_path / "bundle", None)
    other = onnx_facts(model.onnx)
    facts = replace(FACTS, inputs=other.inputs, outputs=other.outputs, metadata={**other.metadata, "task": "pose"})
    write_facts(model.onnx.with_name("engine.engine"), facts)
    for path in (model.onnx.parent, model.onnx):
        with pytest.raises(DataError, match=r"engine\.engine was built from another graph than .*model\.onnx; give"):
            ShippedModel.read(path)


@pytest.mark.parametrize("task", ["detect", "segment", "classify"])
def test_the_line_that_is_printed_predicts_by_the_models_task(task, tmp_path):
    path = saved(stock_model("yolov8", task), tmp_path / "m.pt")
    onnx_from_checkpoint(path, tmp_path / "model.onnx", imgsz=64)
    printed = CliRunner().invoke(app, ["triton", str(tmp_path / "model.onnx"), "-o", str(tmp_path / "models")]).output
    line = next(line for line in printed.splitlines() if "YOLO(" in line)
    address, named = re.search(r"YOLO\('(.*)', task='(.*)'\)", line).groups()
    model = YOLO(address, task=named)
    assert named == task and model._smart_load("predictor").__name__.lower().startswith(task[:6])


def deployed(bundle: Path, repository: Path, *more: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["triton", str(bundle), "-o", str(repository), *more])
    return done.exit_code, done.output if done.exception is None or not done.exit_code else str(done.exception)


def test_a_server_that_the_engine_does_not_load_on_is_told_to_serve_the_graph_alone(tmp_path):
    """By itself tritonserver ends where one model of the repository does not load."""
    repository = tmp_path / "my models"
    model = built(tmp_path / "bundle", None)
    every = f"tritonserver '--model-repository={repository}'"
    code, said = deployed(model.onnx.parent, repository, "--name", "cells")
    board, elsewhere = (line for line in said.splitlines() if line.startswith("tritonserver"))
    assert code == 0 and shlex.split(board, comments=True) == shlex.split(every)
    graph = ["--model-control-mode=explicit", "--load-model=cells_onnx"]
    assert shlex.split(elsewhere, comments=True) == [*shlex.split(every), *graph]
    model.onnx.with_name("engine.engine").unlink()
    assert deployed(model.onnx.parent, tmp_path / "other")[1].splitlines()[-1] == (
        f"tritonserver --model-repository={tmp_path / 'other'}"
    )


def test_an_engine_of_an_earlier_bundle_is_not_served_beside_the_new_graph(tmp_path):
    repository = tmp_path / "models"
    model = built(tmp_path / "bundle", None)
    assert deployed(model.onnx.parent, repository)[0] == 0
    assert (repository / "edgeprune_tensorrt" / "1" / "model.plan").is_file()
    model.onnx.with_name("engine.engine").unlink()
    others = {path: path.read_bytes() for path in somebody_elses(repository)}
    code, said = deployed(model.onnx.parent, repository)
    assert code == 0 and f"{repository / 'edgeprune_tensorrt'}: removed, for it was of an earlier bundle" in said
    assert not (repository / "edgeprune_tensorrt").exists() and (repository / "edgeprune_onnx").is_dir()
    assert {path: path.read_bytes() for path in others} == others
    code, said = deployed(model.onnx.parent, repository)  # nothing is told of what did not change
    assert code == 0 and "removed" not in said and "takes the place" not in said


def somebody_elses(repository: Path) -> list[Path]:
    """A model under a name that this model has not got, and a version beside the engine's, by hand."""
    (repository / "other_tensorrt" / "1").mkdir(parents=True)
    paths = [repository / "other_tensorrt" / "config.pbtxt", repository / "other_tensorrt" / "1" / "model.plan"]
    for path in paths:
        path.write_text("by hand")
    return paths


def test_a_version_that_somebody_put_beside_an_old_engine_stays(tmp_path):
    repository, model = tmp_path / "models", built(tmp_path / "bundle", None)
    deployed(model.onnx.parent, repository)
    kept = repository / "edgeprune_tensorrt" / "2" / "model.plan"
    kept.parent.mkdir()
    kept.write_text("by hand")
    model.onnx.with_name("engine.engine").unlink()
    assert deployed(model.onnx.parent, repository)[0] == 0
    assert [path for path in (repository / "edgeprune_tensorrt").rglob("*") if path.is_file()] == [kept]


@pytest.mark.parametrize(
    "there", ["another model", "another engine alone", "a configuration by hand", "no configuration"]
)
def test_what_is_there_under_the_name_and_is_of_something_else_is_refused(tmp_path, there):
    repository, model = tmp_path / "models", built(tmp_path / "bundle", None)
    deployed(model.onnx.parent, repository)
    served = repository / "edgeprune_onnx"
    if there == "a configuration by hand":
        (served / "config.pbtxt").write_text('name: "edgeprune_onnx"\n')
    if there == "no configuration":
        (served / "config.pbtxt").unlink()
    if there == "another engine alone":
        served = served.rename(repository / "elsewhere").with_name("edgeprune_tensorrt")
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    network = stock_model("yolov8", "detect")
    network.names = {0: "red", 1: "white", 2: "plate"} if there.startswith("another") else CLASSES
    onnx_from_checkpoint(saved(network, tmp_path / "m.pt"), tmp_path / "model.onnx", imgsz=64)
    code, said = deployed(tmp_path / "model.onnx", repository)
    assert code == 1 and said.startswith(f"{served} has ") and "--name NAME, or another repository, -o FOLDER" in said
    assert ("has a detect model of 3 classes" if there.startswith("another") else "has what edgeprune did not") in said
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before
    assert deployed(tmp_path / "model.onnx", repository, "--name", "cells")[0] == 0


def test_a_later_model_of_the_same_classes_takes_the_place_and_says_so(tmp_path):
    repository, model = tmp_path / "models", built(tmp_path / "bundle", None)
    deployed(model.onnx.parent, repository)
    later = built(tmp_path / "later", None, dynamic=False)
    code, said = deployed(later.onnx.parent, repository)
    assert code == 0 and f"{repository / 'edgeprune_onnx'}: takes the place of the model that was there" in said
    assert f"{repository / 'edgeprune_tensorrt'}: takes" not in said  # the same engine
    assert (repository / "edgeprune_onnx" / "1" / "model.onnx").read_bytes() == later.onnx.read_bytes()
