"""The interval of 95 % that people are told, and other figures that hold in several rooms, are written once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from edgeprune.export import metadata, precision
from edgeprune.pruning import heads
from edgeprune.runtimes import NAMES, all_runtimes, onnx_facts
from edgeprune.samples.average_precision import DropInterval
from edgeprune.samples.statistics import INTERVAL_END_CONFIDENCE, INTERVAL_LEVEL, interval_half_width
from edgeprune.settings import ExportedHead, Head, Precision, RuntimeName
from edgeprune.target.schema import Export

SOURCES = Path(__file__).parents[2]
WRITTEN_ONCE = {
    "an interval's standard errors": r"\b1\.96\b",
    "an interval's end": r"\b0?\.975\b",
    "the least gain": r"\bLEAST_GAIN = ",
    "the largest side": r"\bLARGEST_SIDE = ",
    "the number formats": r"[(\[{]\"fp32\",? ?.*\"fp16\".*\"int8\".*\"int8-fp16\"",
    "the heads": r"\"raw\", \"(nms|end-to-end)\"|\"end-to-end\", \"raw\"",
    "the runtimes": r"\"onnxruntime\", \"onnxruntime-cuda\"",
}


@pytest.mark.parametrize("what", WRITTEN_ONCE)
def test_what_several_rooms_hold_to_is_written_once(what: str) -> None:
    files = [file for folder in ("edgeprune", "benchmarks") for file in (SOURCES / folder).rglob("*.py")]
    found = [
        f"{file.relative_to(SOURCES)}:{number}"
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(WRITTEN_ONCE[what], line)
    ]
    assert len(found) <= 1, found


def test_an_interval_has_both_ends_at_its_level() -> None:
    assert pytest.approx(0.975) == INTERVAL_END_CONFIDENCE and INTERVAL_LEVEL == 0.95
    assert interval_half_width(0.01) == pytest.approx(0.0196, rel=1e-3)
    assert "ends" in vars(DropInterval)


def test_each_set_of_names_has_one_source() -> None:
    assert list(precision.PRECISIONS) == list(onnx_facts.PRECISIONS) == list(get_args(Precision))
    assert onnx_facts.PRECISIONS["int8-fp16"] == ("int8", "fp16") and onnx_facts.PRECISIONS["fp32"] == ()
    assert get_args(RuntimeName) == NAMES and len(all_runtimes()) == len(NAMES)
    assert heads.HEADS == get_args(Head) == ("auto", *metadata.HEADS) and get_args(ExportedHead) == metadata.HEADS
    allowed = Export.model_json_schema()["properties"]["head"]["enum"]
    assert {*allowed, "nms"} == set(heads.HEADS)
