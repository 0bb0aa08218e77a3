"""`edgeprune compare`: checkpoints and graphs in any mixture, the page, and what is refused."""

from __future__ import annotations

import html
import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest
import typer
from typer.testing import CliRunner
from yaml import safe_load

from edgeprune.cli.compare import compare as command
from edgeprune.data.digits import write_digits
from edgeprune.errors import DataError, DeviceError, TargetError
from edgeprune.export.graph import load_graph, save_graph
from edgeprune.export.int8 import quantize_to_int8
from edgeprune.export.onnx import ExportInfo, describe_onnx, onnx_from_checkpoint
from edgeprune.export.simplify import simplify_onnx
from edgeprune.measure import compare as measured
from edgeprune.measure.compare import Comparison, compare
from edgeprune.measure.graphs import Counts, counts_of, graph_of, nms_inside
from edgeprune.measure.names import names_apart
from edgeprune.progress import silent
from edgeprune.report.comparison import classes_table, comparison_page, draw_scenes, models_table
from edgeprune.report.notebook import comparison_html
from edgeprune.runtimes.base import AS_EXPORTED, BenchSettings, Session
from edgeprune.runtimes.engine_file import EngineFacts, write_facts
from edgeprune.runtimes.onnx_facts import onnx_facts
from edgeprune.runtimes.onnxruntime_ import OnnxRuntime
from edgeprune.settings import LAUNCHES
from edgeprune.target import load_target
from tests.export.helpers import noise_images, saved, stock_model
from tests.report import results
from tests.report.browser import WIDTHS, looked_at, needs_chromium
from tests.runtimes.models import convolutions

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(command)
QUICK = BenchSettings(warmup_s=0.01, rounds=10, per_round=4)


def digit_model(path: Path, seed: int, nc: int = 10, task: str = "detect", names: str = "") -> Path:
    model = stock_model("yolov8", task, nc=nc, seed=seed)
    model.names = {index: f"{names}{index}" for index in range(nc)}
    return saved(model, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two detectors of digits, one as a checkpoint and one as a graph too, and data."""
    root = tmp_path_factory.mktemp("compare")
    write_digits(root / "digits", train=4, val=8, test=2, imgsz=64)
    digit_model(root / "base.pt", 0)
    onnx_from_checkpoint(digit_model(root / "pruned.pt", 1), root / "pruned.onnx", imgsz=64)
    return root


@pytest.fixture(scope="module")
def found(folder) -> Comparison:
    models = [folder / "base.pt", folder / "pruned.onnx", folder / "pruned.pt"]
    return compare(models, folder / "digits" / "data.yaml", settings=QUICK, images=2)


def test_no_picture_costs_a_finished_comparison(folder, monkeypatch):
    def fail(*_, **__):
        raise DeviceError("orin: the connection was lost")

    monkeypatch.setattr("edgeprune.measure.compare.choose_scenes", fail)
    models = [folder / "pruned.onnx", folder / "pruned.onnx"]
    made = compare(models, folder / "digits" / "data.yaml", settings=QUICK, images=2)
    said = "no images side by side: orin: the connection was lost"
    assert made.scenes == () and made.models[1].latency is not None
    assert said in made.notes and said in made.to_json()["notes"]  # the machine may have been busy besides
    assert said in comparison_page(made)


def test_a_checkpoint_and_its_graph_compare_as_the_same(found):
    _, graph, checkpoint = found.models
    assert graph.counts == checkpoint.counts
    assert graph.accuracy.map50_95 == pytest.approx(checkpoint.accuracy.map50_95, abs=1e-6)
    assert found.scenes
    for scene in found.scenes:
        assert len(scene.results[1].detections) == len(scene.results[2].detections) and len(scene.truth) > 0
    assert found.models[0].latency is not None and found.models[0].latency.speed_up is None
    assert found.models[2].latency is not None and found.models[2].latency.speed_up is not None


class ProcessEach(OnnxRuntime):
    """Starts a process for every inference, as trtexec does; counts them."""

    fit_for_dataset = False
    started = 0

    @contextmanager
    def session(self, model: Path, *, threads: int = 0) -> Iterator[Session]:
        with super().session(model, threads=threads) as session:

            def counted(inputs):
                self.started += 1
                return session.run(inputs)

            class Counted:
                input_names, output_names = session.input_names, session.output_names

                run = staticmethod(counted)

            yield Counted()


def test_a_runtime_of_a_process_an_inference_is_not_asked_for_a_whole_split(folder):
    models, slow = [folder / "base.pt", folder / "pruned.onnx"], ProcessEach()
    made = compare(models, folder / "digits" / "data.yaml", runtime=slow, settings=QUICK, images=2, split="train")
    plain = compare(models, folder / "digits" / "data.yaml", settings=QUICK, images=2, split="train")
    assert [one.accuracy.map50_95 for one in made.models] == [one.accuracy.map50_95 for one in plain.models]
    assert made.scenes and slow.started == 2 * 4, "four images of the split for each model's agreement, and no more"
    told = [line for line in made.notes if "of the graph" in line]
    assert len(told) == 2 and all("starts a process for every inference" in line for line in told)
    assert not any("of the graph" in line for line in plain.notes)


class Watched(OnnxRuntime):
    """Keeps what it was asked to time models by."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[BenchSettings] = []

    def latency(self, models, settings, *, progress=silent):
        self.asked.append(settings)
        return super().latency(models, settings, progress=progress)


def test_graphs_with_nms_inside_are_timed_on_images_of_the_split_and_others_on_noise(folder, tmp_path):
    onnx_from_checkpoint(folder / "base.pt", tmp_path / "nms.onnx", imgsz=64, head="nms")
    for first, on_images in ((tmp_path / "nms.onnx", True), (folder / "base.pt", False)):
        runtime = Watched()
        models = [first, folder / "pruned.onnx"]
        made = compare(models, folder / "digits" / "data.yaml", runtime=runtime, settings=QUICK, images=0)
        assert [one.images is not None for one in runtime.asked] == [on_images]
        taken = [one.latency.latency.conditions.images for one in made.models if one.latency is not None]
        assert taken == [on_images] * 2
        assert not any("noise" in note for note in made.notes)


class Builds(OnnxRuntime):
    """Loads no graphs, as TensorRT; its engines have the batch that they were built for."""

    suffix = ".engine"

    def engine_from_onnx(self, onnx, engine, *, precision="fp32", keep_float=(), free=AS_EXPORTED):
        model = load_graph(onnx)
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = free.batch or 1
        save_graph(model, engine)
        facts = onnx_facts(onnx, free=free)
        write_facts(engine, EngineFacts("builds", {}, "fp32", facts.inputs, facts.outputs, facts.metadata, ()))


def test_engines_of_graphs_of_free_batch_are_built_for_the_batch_that_is_asked(folder, tmp_path):
    free = tmp_path / "free.onnx"
    onnx_from_checkpoint(folder / "base.pt", free, imgsz=64, dynamic=True)
    settings = replace(QUICK, batch=2)
    made = compare([free, folder / "pruned.pt"], folder / "digits" / "data.yaml", runtime=Builds(), settings=settings)
    assert [one.latency.latency.conditions.batch for one in made.models if one.latency is not None] == [2, 2]
    plain = compare([free, folder / "pruned.pt"], folder / "digits" / "data.yaml", settings=QUICK, images=0)
    for one, other in zip(made.models, plain.models, strict=True):
        assert one.accuracy.map50_95 == pytest.approx(other.accuracy.map50_95, abs=1e-6)


def test_models_of_fixed_sizes_compare_each_at_its_own(folder, tmp_path):
    small = tmp_path / "small.onnx"
    onnx_from_checkpoint(folder / "base.pt", small, imgsz=32)
    for models in ([folder / "pruned.onnx", small], [folder / "pruned.pt", small]):
        found = compare(models, folder / "digits" / "data.yaml", settings=QUICK, images=0)
        assert [model.imgsz for model in found.models] == [(64, 64), (32, 32)]
        assert [model.latency and (model.latency.model, model.latency.size_bytes) for model in found.models] == [
            (path, path.stat().st_size) for path in models
        ]


def test_tables_json_and_figures(found):
    table = models_table(found)
    assert table.columns == ("", "base.pt", "pruned.onnx", "pruned.pt")
    assert all(len(row) == 4 for row in (*table.rows, *classes_table(found).rows))
    assert [row[0] for row in table.rows][:3] == ["file", "parameters", "MACs"]
    data = json.loads(found.json_text())
    assert [row["name"] for row in data["models"]] == ["base.pt", "pruned.onnx", "pruned.pt"]
    assert len(data["models"][1]["latency"]["latency"]["values"]) == 40
    assert {"found", "right", "missed", "lost", "gone", "new"} <= set(data["scenes"]["shown"][0]["models"][1])
    assert comparison_html(found).lstrip().startswith("<table")
    assert [len(figure.axes) for figure in draw_scenes(found)] == [4, 4]
    # the most differing image comes first, and the images are in the page once each
    assert found.scenes[0].difference >= found.scenes[1].difference
    assert comparison_page(found).count("data:image/jpeg;base64,") == 2


@needs_chromium
@pytest.mark.parametrize("width", WIDTHS)
def test_in_a_browser(found, tmp_path, width):
    seen = looked_at(comparison_page(found), tmp_path, width)
    assert len(seen["titled"]) == 3 + 2 and len(seen["pixels"]) == 2 * 4


def test_macs_and_parameters_are_those_of_the_shapes(tmp_path, found):
    path = convolutions(tmp_path / "m.onnx", width=8, depth=2, shape=(1, 3, 32, 32))
    onnx.save(onnx.shape_inference.infer_shapes(onnx.load(str(path))), str(path))
    counted = counts_of(path)
    assert counted.parameters == 3 * 8 * 9 + 8 * 8 * 9
    assert counted.macs == 32 * 32 * (3 * 8 * 9 + 8 * 8 * 9)
    assert found.models[0].counts.parameters == pytest.approx(3.01e6, rel=0.01)


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """A detector in FP32, and forms of it in whole numbers and by ONNX Runtime's own operators; by name."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = tmp_path_factory.mktemp("forms")
    made = {name: root / f"{name}.onnx" for name in ("fp32", "qdq", "dynamic", "cpu")}
    onnx_from_checkpoint(saved(stock_model("yolov8", "classify"), root / "m.pt"), root / "raw.onnx", imgsz=32)
    simplify_onnx(root / "raw.onnx", made["fp32"])
    quantize_to_int8(made["fp32"], made["qdq"], noise_images(root, 16, 32), method="minmax", recipe="cpu")
    quantize_dynamic(str(made["fp32"]), str(made["dynamic"]), weight_type=QuantType.QUInt8)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(made["cpu"])
    ort.InferenceSession(str(made["qdq"]), options, providers=["CPUExecutionProvider"])
    return made


@pytest.mark.parametrize(
    ("form", "holds"),
    [("qdq", "DequantizeLinear"), ("dynamic", "ConvInteger"), ("cpu", "QLinearConv")],
)
def test_a_form_of_a_graph_is_counted_as_the_graph_or_not_at_all(form, holds, forms):
    assert holds in {node.op_type for node in onnx.load(str(forms[form])).graph.node}
    whole, counted = counts_of(forms["fp32"]), counts_of(forms[form])
    assert whole.parameters and whole.macs
    assert counted.macs in ((whole.macs, None) if form == "cpu" else (whole.macs,))  # shapes of its own layout
    assert counted.parameters == (None if form == "dynamic" else whole.parameters)


def test_an_engine_of_reordered_weights_is_not_counted_in_part(forms, tmp_path):
    OnnxRuntime().engine_from_onnx(forms["qdq"], tmp_path / "engine.onnx", precision="int8")
    nodes = onnx.load(str(tmp_path / "engine.onnx")).graph.node
    counted, whole = counts_of(tmp_path / "engine.onnx"), counts_of(forms["fp32"])
    reordered = any(node.domain not in ("", "com.microsoft") and node.op_type == "Conv" for node in nodes)
    assert counted.parameters == (None if reordered else whole.parameters)
    assert counted.macs in (None, whole.macs)


def fused_convolution(path: Path) -> Path:
    """As ONNX Runtime writes a convolution with its activation."""
    model = onnx.load(str(convolutions(path, depth=1)))
    node = model.graph.node[0]
    node.op_type, node.domain, node.output[0] = "FusedConv", "com.microsoft", "output0"
    node.attribute.append(onnx.helper.make_attribute("activation", "Relu"))
    del model.graph.node[1:]
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, str(path))
    return path


def test_a_convolution_with_its_activation_in_it_is_counted(tmp_path):
    assert counts_of(fused_convolution(tmp_path / "fused.onnx")) == Counts(3 * 8 * 9, 32 * 32 * 3 * 8 * 9)


@pytest.mark.parametrize(
    ("domain", "operator", "counted"),
    [
        ("", "Attention", False),
        ("com.microsoft", "MultiHeadAttention", False),
        ("com.microsoft", "Attention", False),
        ("com.microsoft", "TransposeMatMul", False),
        ("com.microsoft", "NoOneKnowsIt", False),
        ("com.microsoft", "QuickGelu", True),
        ("com.microsoft", "QLinearAdd", True),
        ("", "Softmax", True),
    ],
)
def test_an_operator_without_weights_that_may_multiply_is_not_counted_as_nothing(domain, operator, counted, tmp_path):
    path = convolutions(tmp_path / "m.onnx", depth=1)
    whole, model = counts_of(path), onnx.load(str(path))
    values = ["c0"] if operator == "Softmax" else ["c0", "c0", "c0"]
    model.graph.node.append(onnx.helper.make_node(operator, values, ["mixed"], domain=domain))
    model.opset_import[0].version = 23
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, str(path))
    assert counts_of(path) == (whole if counted else Counts(None, None))


def test_models_of_other_classes_or_tasks_are_refused_in_a_line(folder, tmp_path):
    cases = {
        "7 of its classes differ: it calls 3 'missing'": digit_model(tmp_path / "fewer.pt", 0, nc=3),
        "it calls 0 'no0', .* and .*base.pt 0 '0'": digit_model(tmp_path / "renamed.pt", 0, names="no"),
        "compare models of a task": digit_model(tmp_path / "pose.pt", 0, task="obb"),
        "does not exist": tmp_path / "gone.pt",
    }
    for words, other in cases.items():
        with pytest.raises(DataError, match=words) as refused:
            compare([folder / "base.pt", other], folder / "digits" / "data.yaml", settings=QUICK, imgsz=64)
        assert "\n" not in str(refused.value)
    with pytest.raises(TargetError, match="two or more"):
        compare([folder / "base.pt"], folder / "digits" / "data.yaml")
    with pytest.raises(TargetError, match=r"1 model given; .* two or more"):  # and not one a letter
        compare(str(folder / "base.pt"), folder / "digits" / "data.yaml")


def test_models_that_write_their_classes_otherwise_are_compared_as_elsewhere(folder, tmp_path):
    write_digits(tmp_path / "digits", train=4, val=8, test=2, imgsz=64)
    yaml = tmp_path / "digits" / "data.yaml"
    data = safe_load(yaml.read_text())
    yaml.write_text(json.dumps({**data, "names": {index: f"digit {index}" for index in range(10)}}))
    one = digit_model(tmp_path / "one.pt", 0, names="digit ")
    other = digit_model(tmp_path / "other.pt", 0, names="Digit ")
    found = compare([one, other], yaml, settings=QUICK, imgsz=64, images=0)
    first, second = (model.accuracy.per_class for model in found.models)
    assert first == second and set(first) <= {f"digit {index}" for index in range(10)}
    assert first and "nan" not in str(classes_table(found).rows)


def test_a_checkpoint_is_exported_as_a_build_for_the_target_exports_it(folder, tmp_path):
    cpu = load_target("cpu")
    target = cpu.changed({"imgsz": 64, "batch": 3, "export.opset": 15, "export.nms": True})
    made = describe_onnx(graph_of(folder / "base.pt", tmp_path, imgsz=64, batch=3, target=target))
    assert (made.opset, made.head, made.batch, made.dynamic) == (15, "nms", 3, False)
    free = cpu.changed({"imgsz": 64, "export.dynamic": True})
    assert describe_onnx(graph_of(folder / "base.pt", tmp_path, imgsz=64, target=free)).dynamic
    assert nms_inside(folder / "base.pt", target) and not nms_inside(folder / "base.pt", free)
    assert not nms_inside(folder / "base.pt")


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_comparison_for_a_target_is_at_its_batch(folder, monkeypatch, dynamic):
    opsets: list[ExportInfo] = []
    monkeypatch.setattr(measured, "counts_of", lambda graph: opsets.append(describe_onnx(graph)) or Counts(1, 1))
    target = load_target("cpu").changed({"imgsz": 64, "batch": 2, "export.opset": 16, "export.dynamic": dynamic})
    models, data = [folder / "base.pt", folder / "pruned.pt"], folder / "digits" / "data.yaml"
    found = compare(models, data, settings=QUICK, target=target, imgsz=64, images=0)
    assert [one.latency.latency.conditions.batch for one in found.models] == [2, 2]
    assert {(one.opset, one.dynamic) for one in opsets} == {(16, dynamic)}


class AskedError(Exception):
    """In place of the timing: how it was asked for is known."""


def test_without_settings_it_samples_as_its_target_asks_and_in_as_many_processes_as_the_command(folder, monkeypatch):
    asked: list[BenchSettings] = []

    def timed(models, runtime, settings, **more):
        asked.append(settings)
        raise AskedError

    monkeypatch.setattr(measured, "bench_graphs", timed)
    models, data = [folder / "base.pt", folder / "pruned.pt"], folder / "digits" / "data.yaml"
    target = load_target("cpu").changed({"imgsz": 64, "measure.rounds": 7, "measure.warmup_s": 0.5})
    for given in (None, target):
        with pytest.raises(AskedError):
            compare(models, data, target=given, imgsz=64, images=0)
    bare, profiled = asked
    assert (bare.launches, bare.rounds) == (LAUNCHES, BenchSettings().rounds)
    assert (profiled.launches, profiled.rounds, profiled.warmup_s) == (LAUNCHES, 7, 0.5)
    assert profiled.threads == target.measure.threads


def test_the_command_compares_at_the_batch_of_its_profile(folder, tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: cpu\nbatch: 2\nimgsz: 64\n")
    (tmp_path / "quick.yaml").write_text(
        "extends: ./mine.yaml\nmeasure: {rounds: 8, per_round: 1, warmup_s: 0, retries: 0}\n"
    )
    argv = [str(folder / "base.pt"), str(folder / "pruned.pt"), "--data", str(folder / "digits" / "data.yaml")]
    argv += ["--target", str(tmp_path / "quick.yaml"), "--images", "0", "--json", str(tmp_path / "found.json")]
    ended = CliRunner().invoke(app, argv)
    assert ended.exit_code == 0, ended.output
    models = json.loads((tmp_path / "found.json").read_text())["models"]
    assert [one["latency"]["latency"]["conditions"]["batch"] for one in models] == [2, 2]


def test_names_tell_the_files_apart():
    assert names_apart([Path("a/m.pt"), Path("b/m.pt")]) == ["a/m.pt", "b/m.pt"]
    assert names_apart([Path("m.pt"), Path("m.pt")]) == ["1: m.pt", "2: m.pt"]


def test_the_command_compares_a_checkpoint_with_a_graph(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("base.pt", "pruned.onnx"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "data.yaml").symlink_to(folder / "digits" / "data.yaml")
    arguments = [
        *("base.pt", "pruned.onnx", "--data", "data.yaml", "-o", "comparison"),
        "--rounds",
        "8",
        "--images",
        "1",
        "--imgsz",
        "64",
        "--warmup-s",
        "0.05",
    ]
    monkeypatch.chdir(folder / "digits")
    done = CliRunner().invoke(app, [*(str(tmp_path / a) if (tmp_path / a).is_file() else a for a in arguments)])
    assert done.exit_code == 0, (done.output, done.exception)
    assert "mAP50-95" in done.output and "lost" in done.output
    assert "images of split val" in done.output
    page = (folder / "digits" / "comparison" / "compare.html").read_text()
    assert "Side by side" in page


@pytest.mark.parametrize("first", ["pruned.onnx", "pruned.pt"])
def test_a_profile_s_size_reaches_every_checkpoint_and_the_page_has_the_command_that_was_run(
    folder, tmp_path, monkeypatch, first
):
    seen = {}

    def run(models, data, *, imgsz, **options):
        seen.update(imgsz=imgsz)
        return results.comparison("plain")

    monkeypatch.setattr(measured, "compare", run)
    (tmp_path / "mine.yaml").write_text("extends: cpu\nimgsz: 96\n")
    argv = [str(folder / first), str(folder / "base.pt"), "--data", str(tmp_path / "my data.yaml")]
    argv += ["--target", str(tmp_path / "mine.yaml"), "--split", "test", "--output", str(tmp_path / "out")]
    argv += ["--images", "3"]
    done = CliRunner().invoke(app, argv)
    assert done.exit_code == 0, (done.output, done.exception)
    assert seen["imgsz"] == 96
    typed = tuple(json.loads((tmp_path / "out" / "compare.json").read_text())["command"])
    assert typed[: len(argv) + 2] == ("edgeprune", "compare", *argv)
    again = CliRunner().invoke(app, typed[2:])  # what it adds are values that it took by itself
    assert again.exit_code == 0, (again.output, again.exception)
    page = html.unescape(re.sub("<[^>]+>", "", (tmp_path / "out" / "compare.html").read_text()))
    assert shlex.join(typed) in " ".join(page.split())
    assert "edgeprune compare" not in comparison_page(replace(results.comparison("plain"), command=()))
