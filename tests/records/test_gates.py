"""Gates that follow from the facts of a build."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeprune.records.gates import METADATA_BYTES, size_gate
from edgeprune.samples.gates import Verdict
from tests.records.sample import build_record


@pytest.mark.parametrize(
    ("more_bytes", "verdict"),
    [(0, Verdict.PASS), (173, Verdict.PASS), (METADATA_BYTES, Verdict.PASS), (METADATA_BYTES + 1024, Verdict.FAIL)],
)
def test_what_ships_may_be_larger_by_its_metadata_and_no_more(more_bytes: int, verdict: Verdict) -> None:
    stages = build_record().stages
    baseline = replace(stages.baseline.facts, engine_bytes=500_000)
    engine = replace(stages.engine.facts, size_bytes=500_000 + more_bytes)
    assert size_gate(baseline, engine).verdict is verdict
