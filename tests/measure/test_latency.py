"""What latency is sampled on."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeprune.dataset import Dataset
from edgeprune.measure.latency import latency_settings
from edgeprune.runtimes.site import open_site

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
