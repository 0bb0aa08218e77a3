"""What a CUDA graph gains, on a machine whose level moves from run to run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.errors import StageError
from edgeprune.samples.measurement import Measurement
from edgeprune.search import diagnosis
from edgeprune.search.diagnosis import Diagnostician
from edgeprune.target import load_target
from tests.samples.made import latency

from .devices import StandIn, stand_in_site

GAIN = 1.25
CAPTURES = {"measure.cuda_graph": True}


def told(
    levels: Sequence[float], monkeypatch: pytest.MonkeyPatch, *, captures: bool = True, after: bool = True
) -> tuple[Any, Diagnostician]:
    """The lever of a machine whose level is another at each run, and who measured it."""
    runs = iter(levels)

    def timed(site: Any, engines: Sequence[Path], *_: Any, **__: Any) -> list[Measurement]:
        captured, level = site.target.measure.cuda_graph, next(runs)
        if not after and not captured and level != levels[0]:
            raise StageError("the connection was lost")
        ms = level / GAIN if captured else level
        samples = np.random.default_rng(0).normal(ms, 0.002 * ms, 200)
        return [latency(samples, samples_per_block=5, cuda_graph=captured and captures) for _ in engines]

    monkeypatch.setattr(diagnosis, "side_by_side", timed)
    monkeypatch.setattr(diagnosis, "offered_levers", lambda target: [("CUDA graph", CAPTURES, "")])
    site: Any = stand_in_site(load_target("desktop-tensorrt").changed({"measure.cuda_graph": False}), StandIn(1.0, 0.1))
    nothing: Any = None
    by = Diagnostician(site, nothing, nothing, None, Path("baseline.engine"), Path("work"))
    [found] = by.alternatives()
    return found, by


@pytest.mark.parametrize("drift", [1.0, 1.04, 0.97])
def test_a_steady_drift_is_no_gain(drift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    found, by = told([10, 10 * drift, 10 * drift**2], monkeypatch)
    assert found.speed_up == pytest.approx(GAIN, rel=0.005)
    assert bool(by.disturbed) is (abs(drift**2 - 1) > 0.05)


def test_a_level_that_moved_meanwhile_is_told_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    found, by = told([10, 10, 11], monkeypatch)
    assert found.speed_up == pytest.approx(10.5 / 10 * GAIN, rel=0.005) and by.disturbed == {"CUDA graph"}


def test_what_cannot_be_captured_or_timed_again_has_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = told([10, 10, 10], monkeypatch, captures=False)
    assert found.speed_up is None and found.reason == "the engine cannot be captured"
    found, _ = told([10, 11, 12], monkeypatch, after=False)
    assert found.speed_up is None and found.reason == "the connection was lost"
