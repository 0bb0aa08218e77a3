"""Which images decide what is pruned."""

from __future__ import annotations

from pathlib import Path

import torch

from edgeprune.pruning.batches import calibration_batches
from edgeprune.pruning.depth import few_batches
from tests.situations import datasets


def test_a_batch_and_the_first_few_show_more_than_what_lies_together_in_the_files(tmp_path: Path) -> None:
    """A classifier's files are sorted by class, a detector's by scene."""
    data = datasets.dataset(tmp_path / "data", "classify", counts={"train": 48, "val": 3})
    batches = calibration_batches(data, "classify", 32, images=24, batch=4)
    assert [len(batch.images) for batch in batches] == [4] * 6
    assert all(len(batch.labels["cls"].unique()) > 1 for batch in batches)
    assert len(torch.cat([batch.labels["cls"] for batch in few_batches(batches)]).unique()) == 3
    again, other = (calibration_batches(data, "classify", 32, images=24, batch=4, seed=seed) for seed in (0, 1))
    assert all(one.images.equal(same.images) for one, same in zip(batches, again, strict=True))
    assert not all(one.images.equal(same.images) for one, same in zip(batches, other, strict=True))
    flat = torch.cat([batch.images for batch in batches]).flatten(1)
    assert len(flat.unique(dim=0)) == 24, "drawn without replacement"
