"""The file of what was found in every image: read as it was written, and a damaged one is one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeprune.errors import DataError
from edgeprune.measure.per_image import load_per_image, save_per_image
from edgeprune.samples.average_precision import ImageScores


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    path = tmp_path / "per_image.npz"
    save_per_image(ImageScores(generator.random(20), generator.random((20, 5), np.float32)), path)
    return path


def test_it_is_read_as_it_was_written(kept: Path) -> None:
    read = load_per_image(kept)
    assert isinstance(read, ImageScores) and read.confidence.shape == (20, 5)


@pytest.mark.parametrize("damage", ["a byte", "its end", "text"])
def test_a_damaged_file_is_one_line(kept: Path, damage: str) -> None:
    whole = kept.read_bytes()
    damaged = {
        "a byte": [
            whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :] for at in range(len(whole)) for flip in (1, 255)
        ],
        "its end": [whole[:length] for length in range(0, len(whole), 7)],
        "text": [b"no results"],
    }[damage]
    refused = 0
    for content in damaged:
        kept.write_bytes(content)
        try:
            load_per_image(kept)
        except DataError as error:
            assert "build again" in str(error) and "\n" not in str(error)
            refused += 1
    if damage == "a byte":  # some bytes, as the time of a member, mean nothing to a reader
        assert refused > len(damaged) // 2
    else:
        assert refused == len(damaged)


def test_a_file_of_other_arrays_is_one_line(kept: Path) -> None:
    np.savez(kept, other=np.zeros(2))
    with pytest.raises(DataError, match="build again"):
        load_per_image(kept)
