"""What compiling leaves beside the files that it makes."""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeprune.measure import compiling, graphs
from edgeprune.target import load_target

OURS = dict.fromkeys(("raw.onnx", "plain.onnx", "low.onnx", "m-raw.onnx", "model-raw.onnx"), "somebody's")


@pytest.fixture
def stood_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporting, simplifying and converting are stood in for by files of text."""
    monkeypatch.setattr(compiling, "export_onnx", lambda target, checkpoint, onnx, metadata: onnx.write_text("raw"))
    export, simplify, mixed = (import_module(f"edgeprune.export.{name}") for name in ("onnx", "simplify", "mixed"))
    monkeypatch.setattr(export, "onnx_from_checkpoint", lambda model, onnx, **named: onnx.write_text("raw"))
    monkeypatch.setattr(simplify, "simplify_onnx", lambda raw, onnx: shutil.copy(raw, onnx))
    monkeypatch.setattr(
        compiling, "convert_precision", lambda target, onnx, low, dataset, seed, precision=None: low.write_text("low")
    )
    monkeypatch.setattr(mixed, "with_float_layers", lambda source, low, onnx, layers, half: shutil.copy(low, onnx))


@pytest.mark.usefixtures("stood_in")
@pytest.mark.parametrize("how", ["compiled", "trained", "timed"])
def test_files_of_others_stay_as_they_are(how: str, tmp_path: Path) -> None:
    for name, text in OURS.items():
        (tmp_path / name).write_text(text)
    target, made = load_target("jetson-orin").changed({"precision": "int8"}), {"model.onnx"}
    dataset: Any = None
    if how == "compiled":
        site: Any = SimpleNamespace(target=target, usable=False, seed=0)
        compiling.compile_checkpoint(site, tmp_path / "m.pt", tmp_path, float_layers=["a"])
        made.add("model-int8.onnx")
    elif how == "trained":
        given = tmp_path / "m.pt", tmp_path / "q.pt", tmp_path / "model.onnx"
        compiling.export_trained_int8(target, *given, dataset, 0)
    else:
        (tmp_path / "m.pt").touch()
        graphs.graph_of(tmp_path / "m.pt", tmp_path)
        made = {"m.pt", "m.pt.onnx"}
    assert {path.name for path in tmp_path.iterdir()} == {*OURS, *made}
    assert {name: (tmp_path / name).read_text() for name in OURS} == OURS
