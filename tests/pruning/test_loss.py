"""The loss of a batch is the sum over its images, whatever the task."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from edgeprune.pruning import loss as loss_module
from edgeprune.pruning.batches import Batch
from edgeprune.pruning.loss import batch_loss, loss_backward, loss_model, mean_loss

TASKS = ["", "-seg", "-pose", "-obb", "-cls"]


def batch_of(task: str, copies: int) -> Batch:
    """One labelled image, so many times."""
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    if task == "-cls":
        return Batch(image.repeat(copies, 1, 1, 1), {"cls": torch.tensor([1]).repeat(copies)})
    labels: dict[str, torch.Tensor] = {"cls": torch.tensor([[0.0]]), "bboxes": torch.tensor([[0.5, 0.5, 0.5, 0.4]])}
    if task == "-obb":
        labels["bboxes"] = torch.tensor([[0.5, 0.5, 0.5, 0.4, 0.3]])
    if task == "-seg":
        labels["masks"] = torch.zeros(1, 16, 16).index_fill(1, torch.arange(4, 12), 1)
    if task == "-pose":
        labels["keypoints"] = torch.rand(1, 17, 3, generator=torch.Generator().manual_seed(1))
    repeated = {key: value.repeat(copies, *[1] * (value.ndim - 1)) for key, value in labels.items()}
    return Batch(image.repeat(copies, 1, 1, 1), {**repeated, "batch_idx": torch.arange(copies).float()})


@pytest.mark.parametrize("task", TASKS)
def test_twice_the_images_cost_twice_the_loss(stock: Any, task: str) -> None:
    """So many that a detector's loss, over the sum of its targets' scores, is not over the 1 that this is at least."""
    ready = loss_model(stock(f"yolov8n{task}.yaml"))
    half, whole = (batch_of(task, copies) for copies in (64, 128))
    with torch.no_grad():
        loss = float(batch_loss(ready, half))
        assert loss > 0
        assert float(batch_loss(ready, whole)) == pytest.approx(2 * loss, rel=1e-3)
    assert mean_loss(ready, [whole]) == pytest.approx(loss / 64, rel=1e-3)


def test_every_image_counts_alike_however_they_are_batched(stock: Any) -> None:
    """The last batch of a split often holds fewer."""
    ready = loss_model(stock("yolov8n-cls.yaml"))
    generator = torch.Generator().manual_seed(0)
    images, classes = torch.rand(5, 3, 64, 64, generator=generator), torch.arange(5) * 100
    losses = []
    for size in (1, 2, 4, 5):
        places = [slice(start, start + size) for start in range(0, 5, size)]
        losses.append(mean_loss(ready, [Batch(images[at], {"cls": classes[at]}) for at in places]))
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "head"), [*((f"yolov8n{task}", "auto") for task in TASKS), ("yolo26n", "end-to-end"), ("yolo26n", "raw")]
)
def test_a_batch_of_large_images_goes_through_in_parts_and_is_one_sample_all_the_same(
    stock: Any, monkeypatch: pytest.MonkeyPatch, name: str, head: str
) -> None:
    """Its loss, over the sum of all its targets' scores, is not the sum of those of its parts."""
    task = name.removeprefix("yolov8n") if name.startswith("yolov8n") else ""
    images = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    batch, seen = Batch(images, batch_of(task, 5).labels), []

    def gradients() -> tuple[float, dict[str, torch.Tensor]]:
        ready = loss_model(stock(f"{name}.yaml"), head)
        ready.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
        for parameter in ready.parameters():
            parameter.requires_grad_(True)
        loss = float(loss_backward(ready, batch))
        assert mean_loss(ready, [batch]) == pytest.approx(loss / 5, rel=1e-4)
        return loss, {name: one.grad for name, one in ready.named_parameters() if one.grad is not None}

    whole, wanted = gradients()
    assert set(seen) == {5}
    for most, parts in ((2 * 64 * 64, [2, 2, 1]), (1, [1] * 5)):
        seen.clear()
        monkeypatch.setattr(loss_module, "MOST_PIXELS", most)
        loss, found = gradients()
        assert seen == [*parts, *parts, *parts]
        assert loss == pytest.approx(whole, rel=1e-4)
        assert found.keys() == wanted.keys()
        for key, gradient in found.items():
            scale = float(wanted[key].abs().max())
            assert float((gradient - wanted[key]).abs().max()) <= 1e-3 * scale + 1e-5, key
