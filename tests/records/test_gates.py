"""Gates that follow from the facts of a build."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeprune.measure.result import GRAPH_RUNTIME
from edgeprune.records.gates import METADATA_BYTES, drop_gate, gates_again, size_gate
from edgeprune.report.build import build_markdown
from edgeprune.report.verdict import accuracy_text
from edgeprune.samples.gates import Verdict
from edgeprune.target import load_target
from tests.records.sample import accuracy, build_record


@pytest.mark.parametrize(
    ("more_bytes", "verdict"),
    [(0, Verdict.PASS), (173, Verdict.PASS), (METADATA_BYTES, Verdict.PASS), (METADATA_BYTES + 1024, Verdict.FAIL)],
)
def test_what_ships_may_be_larger_by_its_metadata_and_no_more(more_bytes: int, verdict: Verdict) -> None:
    stages = build_record().stages
    baseline = replace(stages.baseline.facts, engine_bytes=500_000)
    engine = replace(stages.engine.facts, size_bytes=500_000 + more_bytes)
    assert size_gate(baseline, engine).verdict is verdict


@pytest.mark.parametrize(
    ("profile", "precision", "words"),
    [
        ("jetson-orin", "fp16", "built from"),
        ("jetson-orin-nx-tensorrt-8", "fp16", "built from, which is in fp32 where the engine is in fp16"),
        ("jetson-orin-nx-tensorrt-8", "int8", "built from"),
    ],
)
def test_an_accuracy_that_is_not_the_engines_says_what_ran(profile: str, precision: str, words: str) -> None:
    record = build_record()
    target = load_target(profile).changed({"precision": precision})
    measured = replace(accuracy(0.54), measured_on=GRAPH_RUNTIME)
    facts = replace(record.stages.engine.facts, accuracy=measured)
    engine = replace(record.stages.engine, facts=facts)
    record = replace(record, target=target, stages=replace(record.stages, engine=engine))
    gate = drop_gate(target, record.stages.baseline.facts, facts)
    said = f"by onnxruntime on this CPU, of the graph that the engine is {words}"
    assert gate.reason.endswith(f"; {said}")
    assert f", {said}" in accuracy_text(record) and said in build_markdown(record)


def test_an_accuracy_of_the_engine_needs_no_words() -> None:
    record = build_record()
    gate = drop_gate(record.target, record.stages.baseline.facts, record.stages.engine.facts)
    assert "graph" not in gate.reason and "graph" not in accuracy_text(record)
    assert [row.verdict for row in gates_again(record) if row.metric == gate.metric] == [Verdict.PENDING]
