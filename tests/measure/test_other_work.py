"""Waiting for a quiet machine, with looks that are made up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeprune.measure import other_work
from edgeprune.measure.other_work import idle_cores, wait_for_quiet


@pytest.mark.parametrize(
    ("looks", "longest_s", "taken", "said"),
    [
        ([2.0], 60.0, 1, []),
        ([], 0.0, 0, []),
        ([0.1, 0.2, 0.9], 60.0, 3, ["waiting for a quiet moment, 60 s at most", "it is quiet now"]),
        ([0.1] * 4, 3.0, 4, ["waiting for a quiet moment, 3 s at most", "still busy after 3 s"]),
    ],
    ids=["quiet", "no wait asked for", "it ends", "it does not end"],
)
def test_a_wait_has_an_end_and_says_so(looks: list[float], longest_s: float, taken: int, said: list[str]) -> None:
    left, notes = list(looks), list[str]()
    wait_for_quiet(longest_s, 1, notes.append, idle=lambda: left.pop(0))
    assert len(looks) - len(left) == taken
    assert len(notes) == len(said)
    assert all(words in note for words, note in zip(said, notes, strict=True))


def test_idle_cores_are_counted() -> None:
    assert 0 <= idle_cores(0.01) <= (os.cpu_count() or 1)


STAT = """cpu  {all} 0 0 {all} 0 0 0 0 0 0
cpu0 0 0 0 {idle} 0 0 0 0 0 0
cpu1 {busy} 0 0 0 0 0 0 0 0 0
cpu2 {busy} 0 0 {idle} 0 0 0 0 0 0
cpu10 0 0 0 {idle} 0 0 0 0 0 0
intr 5
"""


@pytest.mark.parametrize(
    ("allowed", "idle"), [({0}, 1.0), ({1}, 0.0), ({2}, 0.5), ({0, 1}, 1.0), ({1, 2, 10}, 1.5), ({0, 7}, 2.0)]
)
def test_only_the_cpus_that_this_process_may_use_are_looked_at(
    allowed: set[int], idle: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container with --cpuset-cpus, beside which the machine may be busy or idle; of CPU 7 nothing is told."""
    stat = tmp_path / "proc" / "stat"
    stat.parent.mkdir()
    stat.write_text(STAT.format(all=0, idle=0, busy=0))
    monkeypatch.setattr("edgeprune.agent.system.ROOT", str(tmp_path))
    monkeypatch.setattr(other_work, "allowed_cpus", lambda: allowed)
    monkeypatch.setattr(other_work.time, "sleep", lambda _: stat.write_text(STAT.format(all=9000, idle=100, busy=100)))
    assert idle_cores() == pytest.approx(idle)


@pytest.mark.parametrize(
    ("cores", "idle", "waits"),
    [
        (1, 0.7, False),
        (1, 0.5, True),
        (4, 2.5, False),
        (4, 2.3, True),
        (0, 2.3, True),
        (0, 2.5, False),
        (16, 2.5, False),
    ],
)
def test_as_many_cores_are_waited_for_as_a_run_can_use(
    cores: int, idle: float, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four of them are there: 0 threads are all of those, and 16 get no more."""
    monkeypatch.setattr(other_work, "allowed_cpus", lambda: {0, 1, 2, 3})
    notes: list[str] = []
    wait_for_quiet(1.0, cores, notes.append, idle=lambda: idle)
    assert bool(notes) == waits
