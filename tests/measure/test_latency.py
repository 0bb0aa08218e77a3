"""What latency is sampled on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from edgeprune.dataset import Dataset
from edgeprune.measure import latency as measured
from edgeprune.measure.latency import judge_until_decided, latency_settings
from edgeprune.runtimes.site import open_site
from edgeprune.samples.conditions import CoreState, EndToEndState
from edgeprune.samples.gates import Verdict, latency_gate, pass_confidence
from edgeprune.samples.statistics import quantile_of, samples_needed
from tests.samples.made import latency as samples
from tests.situations import datasets

PROFILE = """
extends: cpu
imgsz: 64
budget: {speed_up: 1.2}
export: {nms: NMS}
"""


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "labels" / split).mkdir(parents=True)
        for number in range(3):
            cv2.imwrite(str(tmp_path / "images" / split / f"{number}.png"), np.full((40, 60, 3), 50 * number, np.uint8))
            (tmp_path / "labels" / split / f"{number}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "data.yaml").write_text(f"path: {tmp_path}\ntrain: images/train\nval: images/val\nnames: {{0: cell}}\n")
    return Dataset.load(tmp_path / "data.yaml", task="detect", need=("val",))


@pytest.mark.parametrize("nms", [True, False])
def test_a_graph_with_nms_is_timed_on_images_and_every_other_on_noise(
    tmp_path: Path, dataset: Dataset, nms: bool
) -> None:
    (tmp_path / "profile.yaml").write_text(PROFILE.replace("NMS", str(nms).lower()))
    with open_site(tmp_path / "profile.yaml") as site:
        images = latency_settings(site, dataset).images
        assert latency_settings(site).images is None  # without a dataset there are none
    assert (images is not None) == nms
    if images is not None:
        taken = images((4, 3, 64, 96))  # more than there are: they come again
        assert taken.shape == (4, 3, 64, 96) and taken.dtype == np.float32
        np.testing.assert_array_equal(taken[0], taken[3])
        assert sorted({round(255 * float(image[0, 32, 48])) for image in taken}) == [0, 50, 100]


END_TO_END = "extends: cpu\nimgsz: 64\nbudget: {latency_ms: 100, statistic: STATISTIC, scope: end_to_end}\n"


@pytest.fixture(scope="module")
def forty(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    data = datasets.dataset(tmp_path_factory.mktemp("forty") / "data", counts={**datasets.COUNTS, "val": 40})
    return Dataset.load(data, task="detect", need=("val",))


@pytest.mark.parametrize(("statistic", "images"), [("p50", 8), ("p95", 32), ("p99", 32)])
def test_a_percentile_from_frame_to_boxes_is_of_as_many_images_as_it_takes(
    tmp_path: Path, forty: Dataset, statistic: str, images: int
) -> None:
    (tmp_path / "profile.yaml").write_text(END_TO_END.replace("STATISTIC", statistic) + "accuracy: {split: val}\n")
    with open_site(tmp_path / "profile.yaml") as site:
        frames = latency_settings(site, forty).frames
    assert len(set(frames)) == images


def test_large_images_are_fewer_and_still_drawn_from_all(
    tmp_path: Path, forty: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "profile.yaml").write_text(END_TO_END.replace("STATISTIC", "p95") + "accuracy: {split: val}\n")
    monkeypatch.setattr(measured, "FRAMES_BYTES", 12 * max(map(measured._pixel_bytes, forty.images("val"))))
    with open_site(tmp_path / "profile.yaml") as site:
        frames = latency_settings(site, forty).frames
        assert list(frames) == forty.sample_images("val", 12, site.seed)
        monkeypatch.setattr(measured, "FRAMES_BYTES", 1)
        assert len(latency_settings(site, forty).frames) == 8, "whatever they take"


@pytest.mark.parametrize(("statistic", "rounds"), [("p50", 60), ("p50", 4), ("p95", 12), ("p99", 60), ("p50", 100_000)])
def test_a_look_at_twice_the_samples_is_twice_the_first_one(tmp_path: Path, statistic: str, rounds: int) -> None:
    """Also where the percentile needs more of them than the target asks for, and beyond the most rounds of a run."""
    budget = f"budget: {{latency_ms: 10, statistic: {statistic}}}"
    (tmp_path / "profile.yaml").write_text(f"extends: cpu\n{budget}\nmeasure: {{rounds: {rounds}}}\n")
    with open_site(tmp_path / "profile.yaml") as site:
        looks = [latency_settings(site, effort=2.0**look) for look in range(5)]
        place = latency_settings(site, effort=0.4)
    first = looks[0].rounds * looks[0].per_round
    confidence = pass_confidence(site.target.measure.retries)
    assert first >= 1.5 * samples_needed(quantile_of(statistic), confidence) and looks[0].rounds >= 20
    assert [look.rounds * look.per_round / first for look in looks] == pytest.approx([1, 2, 4, 8, 16], rel=0.05)
    assert [look.time_limit_s for look in looks] == [60, 120, 240, 480, 960]
    assert (place.rounds, place.launches, place.time_limit_s) == (max(8, round(0.4 * rounds)), 1, 60)


class Noted:
    """A place where nothing but notes is wanted."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.reporter = SimpleNamespace(note=self.notes.append)


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(measured, "wait_before_again", lambda *_: None)
    return Noted()


def test_a_note_names_the_samples_that_are_really_taken(noted: Any) -> None:
    efforts: list[float] = []
    taken, _, times = measured.measure_until_told(
        noted, "engine", lambda effort: efforts.append(effort) or [], lambda _: (None, "it drifts"), retries=6
    )
    assert (taken, times) == ([], 7) and efforts == [1, 2, 4, 8, 16, 16, 16]
    told = [note.partition("measuring again, ")[2] for note in noted.notes]
    assert told == [f"{effort:g} times as many samples as the first time at most" for effort in efforts[1:]]


def test_what_a_quota_stopped_is_not_measured_again(noted: Any) -> None:
    """Another run would be stopped as often; what more samples can settle is measured again under a quota too."""
    core = CoreState(share=0.5, contended=True, cpu_ms=(5.0,) * 300, quota=0.5, stopped=0.5)
    pair = [samples([10 + 0.001 * (n % 7) for n in range(300)], core=core)] * 2

    def measured_until(limit: float, retries: int = 2) -> int:
        def read(_: object) -> tuple[object, str]:
            gate = latency_gate("engine", pair[1], limit)
            return gate, gate.reason if gate.verdict is Verdict.INCONCLUSIVE else ""

        return measured.measure_until_told(noted, "engine", lambda _: pair, read, retries)[2]

    assert measured_until(8.0) == 1 and not noted.notes
    assert measured_until(20.0) == 1
    assert measured.measure_until_told(noted, "engine", lambda _: pair, lambda _: (None, "too few samples"), 2)[2] == 3


def test_a_gate_says_over_how_many_images_it_was_timed(tmp_path: Path) -> None:
    (tmp_path / "profile.yaml").write_text(END_TO_END.replace("STATISTIC", "p50"))
    state = EndToEndState(frames=((480, 640),) * 32)
    values = np.random.default_rng(0).normal(20, 0.1, 400)
    pair = [samples(values, scope="end_to_end", end_to_end=state) for _ in range(2)]
    with open_site(tmp_path / "profile.yaml") as site:
        gate = judge_until_decided(site, "engine", lambda effort: (pair[0], pair[1]), 0).gate
    assert gate.verdict.value == "PASS" and gate.reason.endswith("; over 32 images")
