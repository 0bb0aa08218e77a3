"""Profiles: what ships loads, what is wrong is named by file, key and what is allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from pydantic import TypeAdapter

from edgeprune.errors import TargetError
from edgeprune.measure.compiling import int8_recipe
from edgeprune.options import options_of_command
from edgeprune.settings import RuntimeName, TrainSettings
from edgeprune.stages.bundle_readme import trtexec_lines
from edgeprune.target import (
    Target,
    extending_yaml,
    is_shipped,
    load_target,
    name_to_extend,
    profile_yaml,
    shipped_targets,
    target_schema,
    targets_dir,
)
from edgeprune.target.schema import defaulted_sections, free_mappings
from tests.runtimes.models import convolutions


@pytest.mark.parametrize("name", sorted(shipped_targets()))
def test_every_shipped_profile_loads_under_its_own_name(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert target.description


def test_the_device_family_is_complete() -> None:
    expected = {"cpu", "desktop-cuda", "jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "jetson-orin"}
    assert expected <= set(shipped_targets())


def test_a_teacher_is_looked_for_beside_the_profile_that_states_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, here = tmp_path / "profiles", tmp_path / "here"
    for folder in (own / "deeper", here):
        folder.mkdir(parents=True)
    for file in (own / "larger.pt", here / "larger.pt", here / "other.pt"):
        file.touch()
    (own / "base.yaml").write_text("extends: cpu\nfinetune: {teacher: larger.pt}\n")
    (own / "deeper" / "mine.yaml").write_text("extends: ../base.yaml\nfinetune: {epochs: 3}\n")
    (own / "deeper" / "up.yaml").write_text("extends: ../base.yaml\nfinetune: {teacher: ../larger.pt}\n")
    (own / "other.yaml").write_text("extends: base.yaml\nfinetune: {teacher: other.pt}\n")
    monkeypatch.chdir(here)
    for profile in ("base.yaml", "deeper/mine.yaml", "deeper/up.yaml"):
        assert load_target(own / profile).finetune.teacher == str((own / "larger.pt").resolve()), profile
    assert load_target(own / "other.yaml").finetune.teacher == "other.pt"  # of the working directory


@pytest.mark.parametrize("host", ["", "local", "me@box", "box:65535", "me@[fe80::1]:22", "fake:orin-nano,throttle"])
def test_a_device_is_named_as_ssh_takes_it(host: str) -> None:
    assert load_target("cpu").changed({"device.host": host}).device.host == host


@pytest.mark.parametrize("host", ["a b", "box:99999", "box:" + "9" * 500])
def test_a_device_that_is_none_is_called_as_it_was_given(host: str) -> None:
    with pytest.raises(TargetError, match=r"^arguments: device: '.*is no device; allowed: local, user@host\[:port\]"):
        load_target("cpu").with_overrides(device=host)
    with (
        options_of_command({"device": "--device"}),
        pytest.raises(TargetError, match=r"^command line: --device: .*is no device"),
    ):
        load_target("cpu").with_overrides(device=host)


def test_jetson_orin_extends_another_board() -> None:
    nano, orin = load_target("jetson-orin-nano"), load_target("jetson-orin")
    assert orin.device == nano.device
    assert orin.budget == nano.budget


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("extends: cpu\nimgsz: 321", ["imgsz", "multiple of 32", "321"]),
        ("extends: cpu\nimgsz: -32", ["imgsz", "-32"]),
        ("extends: cpu\ndevice: {host: a b}", ["device.host: 'a b' is no device; allowed: local, user@host[:port]"]),
        ("extends: cpu\ndevice: {host: 'me@box:65536'}", ["device.host: 'me@box:65536' is no device"]),
        ("extends: cpu\ndevice: {host: 'box:0'}", ["device.host: 'box:0' is no device"]),
        ("extends: cpu\nname: a/b", ["name: allowed is a name without slashes", 'seen: "a/b"']),
        (
            "extends: jetson-orin\nbuilder: {tactic_sources: [CUDNN]}",
            ["tactic_sources", "+ or - and the name"],
        ),
        ("extends: cpu\nfinetune: {epoch: 3}", ["finetune.epoch", "did you mean epochs?"]),
        ("extends: cpu\nbudgets: {speed_up: 2}", ["budgets", "did you mean budget?"]),
        ("extends: cpu\nbudget: {latency_ms: 3, speed_up: 2}", ["budget", "exactly one", "latency_ms and speed_up"]),
        ("extends: cpu\nbudget: {statistic: p95}", ["budget", "exactly one", "none of them"]),
        ("extends: cpu\nbudget: {speed_up: 0.5}", ["budget.speed_up", "0.5"]),
        ("extends: cpu\nbudget: {latency_ms: .nan}", ["budget.latency_ms", "NaN"]),
        ("extends: cpu\nbudget: {latency_ms: 3, statistic: p42}", ["budget.statistic", "p42", "'p95'"]),
        ("extends: cpu\nbudget: {speed_up: 2, scope: frames}", ["budget.scope", "'end_to_end'", "frames"]),
        ("extends: jetson-orin\nbudget: {latency_ms: 3, scope: end_to_end}", ["budget.scope", "ONNX Runtime"]),
        ("extends: cpu\nbudget: {speed_up: 2, scope: end_to_end}\nbatch: 2", ["budget.scope", "batch 2"]),
        ("extends: cpu\nbudget: {macs_speed_up: 2, scope: end_to_end}", ["budget.scope", "macs_speed_up"]),
        ("extends: cpu\nbatch: yes", ["batch", "true"]),
        ("extends: cpu\nruntime: tensorrt", ["runtime", "tensorrt", "onnxruntime"]),
        ("extends: cpu\ndevice: {kind: cpu, power_mode: MAXN}", ["power_mode", "jetson"]),
        ("extends: nowhere", ["extends", "nowhere", "edgeprune targets"]),
        ("extends: [cpu]", ["extends", "one profile"]),
        ("description: x", ["device: is missing", "runtime: is missing", "budget: is missing"]),
        ("extends: cpu\nimgsz: 320\nimgsz: 640", ["line 3", "imgsz", "twice"]),
        ("x: [", ["line", "not YAML"]),
        ("- a", ["mapping", "list"]),
        ("", ["mapping"]),
        ("extends: cpu\nsparsify: {lamda: 0.01}", ["sparsify.lamda", "did you mean lambda?"]),
        ("extends: cpu\nsparsify: {strength: 0.01}", ["sparsify.strength", "unknown key"]),
        ("extends: cpu\nsparsify: {optimizer: MuSGD}", ["sparsify.optimizer", "MuSGD", "'RMSprop'"]),
        ("extends: cpu\nfinetune: {until: map <= 0.01}", ["finetune.until", "map_drop <= 0.01"]),
        ("extends: cpu\nfinetune: {until: map_drop <= 2}", ["finetune.until", "1"]),
        ("extends: cpu\nfinetune: {distill: true, response: 0}", ["finetune", "teaches nothing"]),
        ("extends: cpu\nprecision: fp8", ["precision", "'fp16'", "fp8"]),
    ],
)
def test_a_wrong_profile_is_refused_with_file_and_key(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(TargetError) as caught:
        load_target(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("extends: cpu\nmeasure: {cuda_graph: true}", "cuda_graph needs an NVIDIA GPU"),
        ("extends: desktop-cuda\ndevice: {trtexec: /opt/trtexec}", "device: trtexec needs the runtime trtexec"),
        ("extends: desktop-tensorrt\ndevice: {trtexec: ~/bin/trtexec}", "~/bin/trtexec: .* an absolute path"),
        ("extends: desktop-tensorrt\ndevice: {trtexec: [bin/run, trtexec]}", "bin/run: .* an absolute path"),
        ("extends: desktop-cuda\nbuilder: {optimization_level: 1}", "builder: optimization_level needs the runtime"),
        (
            "extends: jetson-orin-nano-4gb\nruntime: onnxruntime-cuda",
            "builder: workspace_mib needs the runtime trtexec; seen: onnxruntime-cuda; builder: null takes out what",
        ),
        ("extends: cpu\nqat: {epochs: 1}", "qat: trains INT8; .*; qat: null takes out what an extended profile says"),
        ("extends: desktop-tensorrt\nbuilder: {tactic_sources: [CUDNN]}", "builder.tactic_sources"),
        ("extends: desktop-tensorrt\nexport: {opset: 18}", "TensorRT 8.5 reads opset 17 at most; seen: 18"),
        ("extends: cpu\nprecision: int8\nexport: {opset: 12}", "int8, .* needs opset 13 or more; seen: 12"),
        ("extends: cpu\nprecision: int8-fp16", "int8-fp16 is for TensorRT; the runtime onnxruntime allows fp32"),
        ("extends: desktop-cuda\nruntime: onnxruntime\nprecision: int8-fp16", "int8-fp16 is for TensorRT"),
        ("extends: desktop-cuda\ncalibration: {reduce_range: true}", "reduce_range is for .* onnxruntime, on a CPU"),
        ("extends: jetson-orin\ncalibration: {reduce_range: false}", "trtexec allows null: leave it out"),
        ("extends: desktop-cuda\nprecision: int8-fp16\nexport: {opset: 12}", "needs opset 13 or more; seen: 12"),
        (
            "extends: desktop-cuda\nruntime: onnxruntime-tensorrt-rtx\nmeasure: {cuda_graph: true}",
            "cuda_graph needs a runtime of tensorrt, trtexec, onnxruntime-cuda, onnxruntime-tensorrt; seen: .*-rtx",
        ),
        ("extends: jetson-orin\ndevice: {dla_core: 0}", "not one of the board's 0 DLA cores"),
        ("extends: jetson-orin-nx\ndevice: {dla_core: 2}", "less than or equal to 1"),
        ("extends: jetson-orin-nx\ndevice: {dla_core: 0}", "exclude each other"),
        ("extends: jetson-orin-nx\ndevice: {jetpack: '6.2'}", "device: jetpack: '6.2' is not a version specifier"),
        ("extends: jetson-orin-nx\ndevice: {tensorrt: '10.3'}", "device: tensorrt: '10.3' is not a version specifier"),
        (
            "extends: jetson-orin-nx\nruntime: onnxruntime\ndevice: {tensorrt: newest}",
            "device: tensorrt: 'newest' is not a version specifier",
        ),
        ("extends: jetson-orin-nx\nruntime: tensorrt\ndevice: {dla_core: 0}", "dla_core needs the runtime trtexec"),
        ("extends: jetson-orin-nx\nprecision: fp32\ndevice: {dla_core: 0}", "half precision or INT8"),
        ("extends: jetson-orin-nx\ndevice: {dla_core: 0, tensorrt: '>=10.8,<11.4'}", "no release .* has one"),
        ("extends: jetson-orin-nx\ndevice: {dla_core: 0, tensorrt: '>=11.4.1'}", "on an AGX Orin"),
        ("extends: desktop-cuda\nruntime: onnxruntime-tensorrt-rtx\nmeasure: {copies: false}", "copies must be true"),
        (
            "extends: jetson-orin\ndevice: {tensorrt: '>=8.7,<10.3'}",
            "no release in '>=8.7,<10.3' is known; known are 8.5",
        ),
        ("extends: jetson-orin\ndevice: {tensorrt: '>=12'}", "no release in '>=12' is known"),
        (
            "extends: jetson-xavier-nx\ndevice: {tensorrt: '==8.5.*'}\nbuilder: {optimization_level: 2}",
            "optimization_level: no release in tensorrt '==8.5.*' has one; it is there from 8.6 on",
        ),
    ],
)
def test_graphs_copies_and_dla_cores_that_cannot_be_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(TargetError, match=words):
        load_target(tmp_path / "mine.yaml")


def test_trtexec_is_named_by_a_path_or_by_what_starts_it(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: desktop-tensorrt\ndevice: {trtexec: /opt/trtexec}")
    assert load_target(tmp_path / "mine.yaml").trtexec_program == ("/opt/trtexec",)
    (tmp_path / "mine.yaml").write_text("extends: desktop-tensorrt\ndevice: {trtexec: [docker, run, x, trtexec]}")
    assert load_target(tmp_path / "mine.yaml").trtexec_program == ("docker", "run", "x", "trtexec")
    assert load_target("desktop-tensorrt").trtexec_program == ()


def test_a_builder_that_chooses_precisions_is_given_a_graph_in_fp32(tmp_path: Path) -> None:
    desktop = load_target("desktop-tensorrt")
    assert [desktop.at_tensorrt(version).graph_precision for version in ("8.5.2", "8.6.0", "10.3.0", "11.1.0")] == [
        *("fp32", "fp32", "fp16", "fp16")
    ]
    int8 = desktop.with_overrides(precision="int8-fp16")
    assert [int8.at_tensorrt(version).graph_precision for version in ("8.6.0", "10.3.0")] == ["int8", "int8-fp16"]
    assert load_target("desktop-cuda").at_tensorrt("8.6.0").graph_precision == "fp32"  # its own


@pytest.mark.parametrize(
    ("text", "oldest"),
    [
        ("extends: desktop-tensorrt", "8.5"),
        ("extends: desktop-tensorrt\nbuilder: {optimization_level: 3}", "8.6"),
        ("extends: jetson-orin\ndevice: {tensorrt: '>=8,<9'}", "8.5"),
        ("extends: jetson-orin\ndevice: {tensorrt: '>=9'}", "10.3"),
        ("extends: jetson-orin\ndevice: {tensorrt: '>=10,<12'}", "10.3"),
        ("extends: jetson-orin\ndevice: {tensorrt: '>=10.7,<12'}", "10.7"),
        ("extends: jetson-orin\ndevice: {tensorrt: '<11'}", "10.3"),
        ("extends: jetson-orin\ndevice: {tensorrt: '<9'}", "8.5"),
        ("extends: jetson-orin\ndevice: {tensorrt: '>=8.5,!=8.5.*'}", "8.6"),
        ("extends: jetson-orin\ndevice: {tensorrt: '>10.3.0,<10.3.2'}", "10.3.0"),
        ("extends: jetson-orin\ndevice: {tensorrt: '===10.3.0'}", "10.3.0"),
        ("extends: jetson-orin\ndevice: {tensorrt: '==8.6.*'}", "8.6"),
        (
            "extends: jetson-agx-orin\ndevice: {dla_core: 1, tensorrt: '>=11'}\nmeasure: {cuda_graph: false}",
            "11.4.1",
        ),
    ],
)
def test_the_oldest_release_is_a_known_one_that_can_do_what_is_asked(tmp_path: Path, text: str, oldest: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    target = load_target(tmp_path / "mine.yaml")
    assert target.oldest_tensorrt == oldest
    graph = convolutions(tmp_path / "m.onnx")
    assert all(line[0].endswith("trtexec") for line in trtexec_lines(target, graph)), (
        "the lines of a bundle can be written"
    )


def test_a_device_that_cannot_do_what_is_asked_is_still_itself() -> None:
    asked = load_target("desktop-tensorrt").changed({"builder.optimization_level": 3})
    assert asked.at_tensorrt("8.5.2").oldest_tensorrt == "8.5.2"
    assert asked.at_tensorrt("9.1.0").oldest_tensorrt == "10.3", "an unknown one says so when it is asked to build"


def test_a_dla_core_and_a_graph_each_alone_are_taken(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: jetson-orin-nx\ndevice: {dla_core: 1}\nmeasure: {cuda_graph: false}")
    assert load_target(tmp_path / "mine.yaml").device.dla_core == 1
    (tmp_path / "mine.yaml").write_text(
        "extends: jetson-agx-orin\ndevice: {dla_core: 1, tensorrt: '>=11.4.1'}\nmeasure: {cuda_graph: false}"
    )
    assert load_target(tmp_path / "mine.yaml").device.dla_core == 1
    orin = load_target("jetson-orin").measure
    assert orin.cuda_graph and not orin.copies and load_target("cpu").measure.copies


def test_a_model_in_place_of_a_profile_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_bytes(bytes(2**21))
    with pytest.raises(TargetError, match=r"best\.pt is a model, and a target is a profile: .* edgeprune targets"):
        load_target(tmp_path / "best.pt")


def test_a_circle_of_extends_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b")
    (tmp_path / "b.yaml").write_text("extends: a")
    with pytest.raises(TargetError, match=r"a\.yaml → \S+b\.yaml → \S+a\.yaml; .* a shipped one: .*cpu"):
        load_target(tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_text("extends: c")
    with pytest.raises(TargetError, match=r"circle: \S+c\.yaml → \S+c\.yaml;"):
        load_target(tmp_path / "c.yaml")


def test_a_profile_called_like_a_shipped_one_may_start_from_it(tmp_path: Path) -> None:
    (tmp_path / "cpu.yaml").write_text("extends: cpu\nbatch: 2")
    (tmp_path / "mine.yaml").write_text("extends: cpu\nimgsz: 320")
    assert load_target(tmp_path / "cpu.yaml").batch == 2
    mine = load_target(tmp_path / "mine.yaml")
    assert (mine.batch, mine.imgsz, mine.budget) == (2, 320, load_target("cpu").budget)
    (tmp_path / "cpu.yaml").write_text("extends: mine")  # as a child it is passed over, too
    assert load_target(tmp_path / "cpu.yaml").batch == load_target("cpu").batch


def test_null_drops_what_a_parent_has_in_a_mapping_with_keys_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "parent.yaml").write_text(
        "extends: cpu\nprune: {max_ratio: {a: 0.1, b: 0.2}}\nfinetune: {train: {mosaic: 0.0}}"
    )

    def child(text: str) -> Target:
        (tmp_path / "child.yaml").write_text(f"extends: parent\n{text}")
        return load_target(tmp_path / "child.yaml")

    assert child("prune: {max_ratio: {a: null, c: 0.3}}").prune.max_ratio == {"b": 0.2, "c": 0.3}
    assert child("prune: {max_ratio: null}").prune.max_ratio == {}
    assert child("finetune: {train: null}").finetune.train == {}
    assert child("finetune: {train: {auto_augment: null}}").finetune.train == {"mosaic": 0.0, "auto_augment": None}
    assert child("sparsify: {train: null}").sparsify is not None
    with pytest.raises(TargetError, match="max_ratio"):
        child("prune: {max_ratio: [a]}")


@pytest.mark.parametrize("section", defaulted_sections())
def test_null_in_place_of_a_section_is_the_section_of_a_profile_without_one(section: str, tmp_path: Path) -> None:
    """What a parent says of another runtime, or of a model that this one is not for, can be taken out."""
    said = {
        "accuracy": "max_map_drop: 0.5",
        "prune": "importance: l1",
        "pretrain": "epochs: 7",
        "finetune": "epochs: 7",
        "export": "opset: 15",
        "builder": "workspace_mib: 9",
        "calibration": "images: 77",
        "measure": "threads: 3",
    }
    (tmp_path / "parent.yaml").write_text(f"extends: desktop-tensorrt\n{section}: {{{said[section]}}}\n")
    (tmp_path / "mine.yaml").write_text(f"extends: parent.yaml\n{section}: null\n")
    field = Target.model_fields[section]
    default = field.get_default(call_default_factory=True)
    assert getattr(load_target(tmp_path / "parent.yaml"), section) != default
    assert getattr(load_target(tmp_path / "mine.yaml"), section) == default
    assert {"type": "null"} in target_schema()["properties"][section]["anyOf"]


def test_the_way_out_of_a_section_of_another_runtime_is_one(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: jetson-orin-nano-4gb\nruntime: onnxruntime-cuda\nbuilder: null\n")
    assert load_target(tmp_path / "mine.yaml").runtime == "onnxruntime-cuda"


def test_null_in_a_free_mapping_satisfies_the_schema() -> None:
    import jsonschema

    for section, key in free_mappings():
        jsonschema.validate({"extends": "cpu", section: {key: None}}, target_schema())
    jsonschema.validate({"extends": "cpu", "prune": {"max_ratio": {"a": None}}}, target_schema())


@pytest.mark.parametrize("section", defaulted_sections())
def test_a_section_has_one_set_of_defaults(section: str, tmp_path: Path) -> None:
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump(BARE))
    (tmp_path / "named.yaml").write_text(yaml.safe_dump({**BARE, section: {}}))
    bare, named = (getattr(load_target(tmp_path / f"{name}.yaml"), section) for name in ("bare", "named"))
    assert bare == named
    part = target_schema()["$defs"][type(bare).__name__]
    written = {key: value["default"] for key, value in part["properties"].items() if "default" in value}
    assert written == {key: value for key, value in named_values(bare).items() if key in written}


def named_values(section: object) -> dict[str, object]:
    return TypeAdapter(type(section)).dump_python(section, mode="json")


BARE = {
    "description": "x",
    "device": {"kind": "cpu"},
    "runtime": "onnxruntime",
    "budget": {"speed_up": 1.5},
}


def keys() -> list[str]:
    """Every key of every section of a profile."""
    schema = target_schema()
    parts = {
        section: [choice["$ref"] for choice in (value, *value.get("anyOf", ())) if "$ref" in choice]
        for section, value in schema["properties"].items()
    }
    return [
        f"{section}.{key}" if key else section
        for section, found in parts.items()
        for key in ((schema["$defs"][found[0].rpartition("/")[2]])["properties"] if found else [""])
        if section not in ("extends", "budget")
    ]


@pytest.mark.parametrize("value", [{"no": {"such": 1}}, [[1]]], ids=str)
@pytest.mark.parametrize("key", keys())
def test_a_value_of_another_kind_is_one_line_about_its_key(key: str, value: object, tmp_path: Path) -> None:
    content: dict[str, Any] = {key.rpartition(".")[2]: value}
    if "." in key:
        content = {key.partition(".")[0]: content}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"extends": "cpu", "precision": "int8", **content}))
    try:
        load_target(tmp_path / "mine.yaml")
    except TargetError as error:
        own = str(error).removeprefix(f"{tmp_path / 'mine.yaml'}: ")
        assert own.count("; seen: ") + own.count("is no condition") == 1, own
        assert own.startswith((f"{key}: ", f"{key}.no: ", f"{key}.0: ")), own
    else:
        assert isinstance(value, dict) and key.endswith(".train")


def test_a_childs_budget_replaces_the_parents(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "extends: cpu\nbudget: {latency_ms: 7.5, statistic: p99}\nfinetune: {epochs: 3}"
    )
    target = load_target(tmp_path / "mine.yaml")
    assert (target.budget.kind, target.budget.value, target.budget.statistic) == ("latency_ms", 7.5, "p99")
    assert target.finetune.epochs == 3
    assert target.finetune.lr0 == load_target("cpu").finetune.lr0


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(TargetError, match=r"did you mean jetson-orin .*edgeprune targets"):
        load_target("jetson-orn")


def test_the_command_line_replaces_the_budget_and_keeps_its_statistic() -> None:
    timed = load_target("jetson-orin").changed({"finetune.time_h": 2.0})
    assert timed.with_overrides(imgsz=320).finetune.time_h == 2.0
    assert timed.with_overrides(epochs=2).finetune.time_h is None, "the time would decide, whatever epochs says"
    target = load_target("jetson-orin").with_overrides(latency_ms=3.5, imgsz=320, epochs=2, max_map_drop=0.1)
    assert (target.budget.latency_ms, target.budget.statistic) == (3.5, "p95")
    assert (target.imgsz, target.finetune.epochs, target.accuracy.max_map_drop) == (320, 2, 0.1)


def test_the_scope_stays_with_a_latency_and_goes_with_macs(tmp_path: Path) -> None:
    (tmp_path / "whole.yaml").write_text("extends: cpu\nbudget: {speed_up: 2, scope: end_to_end}")
    target = load_target(tmp_path / "whole.yaml")
    assert str(target.budget) == "end-to-end latency speed-up ≥ ×2"
    assert target.with_overrides(latency_ms=9.0).budget.scope == "end_to_end"
    assert target.with_overrides(macs_speed_up=2.0).budget.scope == "model"


@pytest.mark.parametrize(
    "overrides",
    [{"latency_ms": 3.0, "speed_up": 2.0}, {"latency_ms": 0.0}, {"imgsz": 100}, {"epochs": 0}, {"max_map_drop": 2.0}],
)
def test_a_wrong_override_is_refused(overrides: dict) -> None:
    with pytest.raises(TargetError, match=f"arguments: .*{next(reversed(overrides))}"):
        load_target("cpu").with_overrides(**overrides)


def test_a_profile_is_refused_by_its_keys_while_a_command_runs(tmp_path: Path) -> None:
    (tmp_path / "auto.yaml").write_text("extends: cpu\nfinetune: {train: {lr0: 0.1}}\naccuracy: {max_map_drop: 2}")
    with options_of_command({"lr0": "--lr0", "max_map_drop": "--max-map-drop"}):
        with pytest.raises(TargetError, match=r"accuracy\.max_map_drop: .*use lr0"):
            load_target(tmp_path / "auto.yaml")
        with pytest.raises(TargetError, match=r"^command line: --max-map-drop: .*; seen: 2"):
            load_target("cpu").with_overrides(max_map_drop=2.0)


def test_a_target_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_target("cpu").imgsz = 32  # pyright: ignore[reportAttributeAccessIssue]


def test_the_committed_schema_is_the_generated_one() -> None:
    committed = json.loads((targets_dir() / "schema.json").read_text())
    assert committed == target_schema(), "run: make schemas"


@pytest.mark.parametrize("path", sorted(targets_dir().glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_profile_satisfies_the_schema(path: Path) -> None:
    import jsonschema

    jsonschema.validate(yaml.safe_load(path.read_text()), target_schema())


def test_the_schema_refuses_an_unknown_key() -> None:
    import jsonschema

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"extends": "cpu", "imgzs": 320}, target_schema())


def test_a_resolved_profile_reads_back_as_itself(tmp_path: Path) -> None:
    target = load_target("jetson-agx-orin")
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(target.model_dump(mode="json") | {"name": "again"}))
    assert load_target(tmp_path / "again.yaml") == Target.model_validate(target.model_dump() | {"name": "again"})


@pytest.mark.parametrize("text", ["map_drop <= 0.01", "map_drop<=.01", "0.01", "1e-2"])
def test_an_accuracy_goal_is_read_from_a_profile_and_from_the_command_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: cpu\nfinetune: {{until: '{text}'}}")
    assert load_target(path).finetune.until == 0.01
    assert load_target("cpu").with_overrides(until=text).finetune.until == 0.01


def test_a_sparsify_stage_survives_the_overrides_of_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: cpu\nsparsify: {lambda: 0.02, epochs: 7, bias_lambda: 0.01}")
    changed = load_target(path).with_overrides(epochs=3).sparsify
    assert changed is not None
    assert (changed.strength, changed.epochs, changed.bias_strength, changed.patience) == (0.02, 7, 0.01, 0)
    assert load_target("cpu").sparsify is None


def test_the_demo_leaves_room_for_a_machine_that_does_something_else() -> None:
    demo, usual = load_target("demo"), load_target("cpu")
    assert demo.prune.least_used <= 0.8 < usual.prune.least_used
    assert demo.measure.quiet_wait_s >= 60 and demo.measure.retries >= 3


@pytest.mark.parametrize(("text", "device"), [("0", "0"), ("[0, 1]", "0,1"), ('"0,1"', "0,1"), ("cpu", "cpu")])
def test_gpus_may_be_numbers(tmp_path, text, device):
    (tmp_path / "own.yaml").write_text(f"extends: cpu\ndescription: mine\nfinetune:\n  device: {text}\n")
    assert load_target(tmp_path / "own.yaml").finetune.device == device
    assert TrainSettings(device=yaml.safe_load(text)).device == device  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("text", ["1.5", "true", "[0, x]"])
def test_what_names_no_gpu_is_refused(tmp_path, text):
    (tmp_path / "own.yaml").write_text(f"extends: cpu\ndescription: mine\nfinetune:\n  device: {text}\n")
    with pytest.raises(TargetError, match=r"finetune\.device"):
        load_target(tmp_path / "own.yaml")


@pytest.mark.parametrize("name", sorted(shipped_targets()))
def test_a_target_written_as_a_profile_is_read_as_the_same(name: str, tmp_path: Path) -> None:
    shipped = load_target(name)
    changed = shipped.changed({"prune.max_ratio": {"model.22.*": 1 / 3}, "prune.ignore": ("a: *",), "imgsz": (96, 160)})
    for number, target in enumerate((shipped, changed)):
        file = tmp_path / f"profile-{number}.yaml"
        file.write_text(profile_yaml(target))
        assert load_target(file) == target and load_target(file).stated_imgsz == target.stated_imgsz
    assert is_shipped(shipped) and not is_shipped(changed)
    sized = shipped.with_overrides(imgsz=shipped.imgsz)
    assert is_shipped(sized) is (shipped.stated_imgsz is not None), "a stated size is not one that was left out"


@pytest.mark.parametrize(
    "folder",
    ["a #b", "a: b", "- a", "it's", 'say "a"', "[a]", "a, {b}", "é \N{SNOWMAN}", " a ", "1e3", "a" * 120 + " b"],
)
def test_a_profile_that_extends_one_in_any_folder_reads_as_it_was_made(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    base = tmp_path / folder / "mine.yaml"
    base.write_text("extends: cpu\nbatch: 3\n")
    keys = {
        "imgsz": (64, 96),
        "export.nms": True,
        "budget.statistic": "p50",
        "precision": "int8",
        "budget.speed_up": 2.0,
    }
    (tmp_path / "made.yaml").write_text(extending_yaml(str(base), keys))
    made = load_target(tmp_path / "made.yaml")
    assert (made.batch, made.imgsz, made.export.nms, made.precision) == (3, (64, 96), True, "int8")
    assert (made.budget.speed_up, made.budget.statistic) == (2.0, "p50")


@pytest.mark.parametrize("beside", ["cpu.yaml", "cpu", "other.yaml"])
def test_a_shipped_profile_is_extended_beside_a_file_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: str
) -> None:
    (tmp_path / beside).write_text("extends: cpu\nbatch: 3\n")
    monkeypatch.chdir(tmp_path)
    said = name_to_extend("cpu", tmp_path)
    assert (said == "cpu") is (beside == "other.yaml"), "a name reads the same on every machine"
    (tmp_path / "made.yaml").write_text(extending_yaml(said, {}))
    assert load_target("made.yaml").batch == load_target("cpu").batch == 1
    own = name_to_extend(f"./{beside}", tmp_path / "elsewhere")
    assert own == str(tmp_path / beside)
    assert name_to_extend(f"./{beside}", tmp_path) == beside, "both may be taken to another place"


def test_a_profile_without_sections_is_no_line_of_braces() -> None:
    assert extending_yaml("cpu", {"precision": "int8"}) == "extends: cpu\nprecision: int8\n"


def test_a_latency_budget_is_of_one_of_two_kinds() -> None:
    target = load_target("cpu")
    assert target.with_budget("latency_ms", 5).budget.latency_ms == 5
    assert target.with_budget("speed_up", 2).budget.speed_up == 2
    for number in (np.float64(2), np.float32(2), np.int64(2)):
        assert target.with_budget("speed_up", number) == target.with_budget("speed_up", 2)
    for kind in ("fps", "macs_speed_up", "", "latency-ms"):
        with pytest.raises(TargetError, match=f"'{kind}' is no kind .* allowed are latency_ms and speed_up"):
            target.with_budget(kind, 2)


def test_numbers_are_read_as_people_write_them(tmp_path: Path) -> None:
    text = "extends: cpu\nfinetune: {lr0: 1e-3, train: {weight_decay: 5e-4}}"
    (tmp_path / "mine.yaml").write_text(text)
    target = load_target(tmp_path / "mine.yaml")
    assert (target.finetune.lr0, target.finetune.train) == (0.001, {"weight_decay": 0.0005})
    (tmp_path / "again.yaml").write_text(profile_yaml(target))
    assert load_target(tmp_path / "again.yaml").finetune == target.finetune


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("camera.yaml", "camera.yaml: no such file; give the path of a profile, or a name from: edgeprune targets"),
        ("boards/camera", "boards/camera: no such file; give the path of a profile, or a name from: edgeprune targets"),
        ("jetson-orin-nan", "did you mean jetson-orin-nano or jetson-orin"),
        ("toaster", "no target 'toaster'; allowed is the name of a shipped one, or a .yaml."),
    ],
)
def test_a_target_that_is_none_is_answered_by_what_was_meant_and_not_by_all(name: str, says: str) -> None:
    with pytest.raises(TargetError) as refused:
        load_target(name)
    said = str(refused.value)
    assert says in said and said.endswith(": edgeprune targets")
    assert sum(one in said.split() for one in shipped_targets()) <= 3


@pytest.mark.parametrize(
    ("machine", "isa", "reduced"),
    [
        ("x86_64", "sse4_2 avx avx2 fma f16c", True),
        ("x86_64", "avx2 avx512f avx512bw avx512vl", True),  # AVX-512 alone adds as AVX2 does
        ("AMD64", "avx2", True),
        ("x86_64", "none known", True),
        ("x86_64", "avx2 avx512f avx512_vnni", False),
        ("x86_64", "avx2 avx_vnni", False),
        ("x86_64", "avx2 amx_tile amx_int8", False),
        ("aarch64", "asimd", False),
        ("arm64", "none known", False),
    ],
)
def test_int8_weights_are_of_seven_bits_where_the_cpu_that_runs_them_would_cut_off_their_sums(
    machine: str, isa: str, reduced: bool
) -> None:
    assert load_target("cpu").at_cpu(machine, isa).calibration.reduce_range is reduced
    for said in (True, False):  # whoever states it knows better
        stated = load_target("cpu").changed({"calibration.reduce_range": said})
        assert stated.at_cpu(machine, isa).calibration.reduce_range is said


@pytest.mark.parametrize("name", ["cpu", "desktop-cuda", "jetson-orin"])
@pytest.mark.parametrize("runtime", get_args(RuntimeName))
def test_number_formats_are_those_of_the_runtime_whatever_the_device_is(name: str, runtime: RuntimeName) -> None:
    by_cpu = runtime == "onnxruntime"
    if name == "cpu" and not by_cpu:
        with pytest.raises(TargetError, match="needs an NVIDIA GPU"):
            load_target(name).changed({"runtime": runtime})
        return
    keys = {"runtime": runtime, "precision": "fp32", "measure.cuda_graph": False, "measure.copies": True}
    target = load_target(name).changed(keys)
    assert target.lower_precisions == (("int8",) if by_cpu else ("fp16", "int8-fp16"))
    assert target.changed({"precision": "int8"}).plainer_precision == ("fp32" if by_cpu else "fp16")
    assert int8_recipe(target) == int8_recipe(load_target(name), runtime) == ("cpu" if by_cpu else "tensorrt")
