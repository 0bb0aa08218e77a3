"""Rows of the verdict table as people read them."""

from __future__ import annotations

from dataclasses import replace

from edgeprune.records.facts import Change
from edgeprune.report.build import build_markdown, build_page
from edgeprune.report.verdict import gate_cells, gate_text
from edgeprune.samples.gates import accuracy_gate, pending_gate
from edgeprune.target import Budget
from tests.records.sample import build_record


def test_a_gain_and_a_loss_read_as_what_they_are() -> None:
    gained, lost = accuracy_gate("engine", 0.5646, 0.5712, 0.03), accuracy_gate("engine", 0.5646, 0.4550, 0.03)
    assert gate_cells(gained)[1:5] == ("mAP50-95 change", "+0.0066", "-0.0300", "PASS")
    assert gate_text(lost) == "mAP50-95 change -0.1096 (limit -0.0300)"
    waiting = pending_gate("engine", "mAP50-95 drop", 0.02, "mAP50-95", "run-on-device.sh")
    assert gate_text(waiting) == "mAP50-95 change – (limit -0.0200)"


def test_a_stand_in_budget_is_announced_in_the_rows_of_the_gates() -> None:
    record = build_record("PENDING")
    pruned = replace(record.stages.prune.facts, probes=(), macs=Change(2_000, 1_000))
    words = pruned.stand_in(Budget(latency_ms=4.0))
    assert words == "pruned to a stand-in, ×2.00 fewer MACs, whatever 4 ms means on the device"
    command = "run-on-device.sh"
    gate = pending_gate("prune", "latency p95", 4.0, "ms", command, but=words)
    waiting = replace(record, gates=(gate,), next_command=command)
    for text in (build_markdown(waiting), build_page(waiting)):
        assert words in text and text.count(command) == 1
    assert words in build_page(waiting).partition("</header>")[0]  # in the banner too, without the command


def test_what_was_searched_or_asked_in_macs_stands_in_for_nothing() -> None:
    searched = build_record().stages.prune.facts
    assert searched.stand_in(Budget(speed_up=1.5)) == ""
    assert replace(searched, probes=()).stand_in(Budget(macs_speed_up=2.0)) == ""
    met_unpruned = replace(searched, probes=(), macs=Change(1_000, 1_000))
    assert met_unpruned.stand_in(Budget(latency_ms=50.0)) == ""
