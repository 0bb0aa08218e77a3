"""A change of classes replaces class outputs and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from edgeprune import checkpoint
from edgeprune.dataset.class_names import old_indices
from edgeprune.errors import DataError
from edgeprune.settings import TrainSettings
from edgeprune.training.classes import fit_classes, require_same_names
from edgeprune.training.early_stop import baseline_accuracy
from edgeprune.training.finetune import finetune
from tests.training.narrow import narrow_checkpoint

OLD = ("ant", "bee", "cat", "dog")
NEW = {0: "bee", 1: "emu", 2: "ant"}


@pytest.mark.parametrize("config", ["yolov8n.yaml", "yolo26n.yaml", "yolo26n-seg.yaml", "yolo11n-pose.yaml"])
def test_shared_classes_keep_their_outputs(config: str, tmp_path: Path) -> None:
    model: Any = checkpoint.load(narrow_checkpoint(tmp_path / "m.pt", config, names=OLD)).model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert fit_classes(model, NEW)
    head = model.model[-1]
    assert (head.nc, head.no, model.nc, model.yaml["nc"], model.names) == (3, 3 + 4 * head.reg_max, 3, 3, NEW)
    changed = {k for k, v in model.state_dict().items() if v.shape != before[k].shape or not torch.equal(v, before[k])}
    branches = {"cv3": head.cv3} | ({"one2one_cv3": head.one2one_cv3} if hasattr(head, "one2one_cv3") else {})
    for name, branch in branches.items():
        for level, layers in enumerate(branch):
            last = len(layers) - 1
            old = before[f"model.{head.i}.{name}.{level}.{last}.weight"]
            assert torch.equal(layers[-1].weight[0], old[1])
            assert torch.equal(layers[-1].weight[2], old[0])
            changed -= {f"model.{head.i}.{name}.{level}.{last}.{kind}" for kind in ("weight", "bias")}
    assert all("semseg.2" in key for key in changed)
    model.train()
    out = model(torch.zeros(1, 3, 64, 64))
    scores = out["one2one"]["scores"] if "one2one" in out else out["scores"]
    assert scores.shape[1] == 3
    assert torch.isfinite(scores).all()


def test_other_names_of_as_many_classes_change_nothing(narrow: Path) -> None:
    model = checkpoint.load(narrow).model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert not fit_classes(model, {i: f"other {i}" for i in range(10)})
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (("dog", "cat", "bee", "ant"), [3, 2, 1, 0]),
        (("bee", "cat", "ant", "dog"), [1, 2, 0, 3]),
        (("wasp", "bee", "cat", "dog"), [0, 1, 2, 3]),  # a class by another name
        ((" Dog", "CAT", "bee ", "aNt"), [3, 2, 1, 0]),
        (("DOG", "emu", "Cat", "ant"), [3, 1, 2, 0]),
        (("1", "0", "2", "3"), [0, 1, 2, 3]),
        (("bee", "Bee", "cat", "dog"), [0, 1, 2, 3]),  # a name that tells nothing apart
        (("dog", "emu", "cat", "ant"), [3, 1, 2, 0]),
        (("bee", "emu", "cat", "dog"), [1, 0, 2, 3]),
    ],
)
@pytest.mark.parametrize("config", ["yolo26n.yaml", "yolo26n-seg.yaml", "yolo11n-cls.yaml"])
def test_as_many_classes_in_another_order_move_their_outputs(
    config: str, names: tuple[str, ...], rows: list[int], tmp_path: Path
) -> None:
    model: Any = checkpoint.load(narrow_checkpoint(tmp_path / "m.pt", config, names=OLD)).model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    new = dict(enumerate(names))
    moved = rows != [0, 1, 2, 3]
    assert fit_classes(model, new) is moved
    after = model.state_dict()
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert bool(changed) is moved and all(torch.equal(after[key], before[key][rows]) for key in changed)
    if moved:
        levels = {"yolo26n.yaml": 6, "yolo26n-seg.yaml": 7, "yolo11n-cls.yaml": 1}[config]
        assert sum(key.endswith("weight") for key in changed) == levels
        assert model.names == new and not fit_classes(model, new), "a run that goes on moves nothing again"


@pytest.mark.parametrize("config", ["yolov8n.yaml", "yolo11n-cls.yaml"])
def test_without_remapping_outputs_stay_or_start_anew(config: str, tmp_path: Path) -> None:
    path = narrow_checkpoint(tmp_path / "m.pt", config, names=OLD)
    model: Any = checkpoint.load(path).model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert not fit_classes(model, dict(enumerate(OLD[::-1])), by_name=False)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    if config == "yolov8n.yaml":
        assert fit_classes(model, NEW, by_name=False)
        rows = model.model[-1].cv3[0][-1].weight.flatten(1)
        old = before[f"model.{model.model[-1].i}.cv3.0.2.weight"].flatten(1)
        assert not any(torch.equal(row, kept) for row in rows for kept in old)


CODES = ("n01440764", "n01443537")


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        (("ant", "bee"), ("Bee ", "ant"), {0: 1, 1: 0}),
        (("Ant", "ant"), ("ant", "Ant", "ANT"), {0: 1, 1: 0, 2: 0}),
        (("0", "1"), ("1", "0"), {}),
        (("ant", "bee"), ("0", "1", "2"), {}),
    ],
    ids=["case", "written the same", "placeholders before or after", "placeholders after"],
)
def test_a_class_is_found_as_ultralytics_finds_it(
    before: tuple[str, ...], after: tuple[str, ...], found: dict[int, int]
) -> None:
    assert old_indices(dict(enumerate(before)), dict(enumerate(after))) == found


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (CODES, ("tench", "goldfish"), True),
        (("tench", "goldfish"), CODES, True),
        (("Tench ", "goldfish"), CODES, True),
        (("goldfish", "tench"), CODES, False),
        (("tench",), CODES, False),
        ((), CODES, False),
        (("0", "1"), ("0", "1"), True),
        (("0", "1"), ("1", "0"), False),
    ],
)
def test_same_classes_are_the_same_by_code_and_by_word(
    one: tuple[str, ...], other: tuple[str, ...], same: bool
) -> None:
    if same:
        require_same_names("teacher", dict(enumerate(one)), dict(enumerate(other)))
        return
    with pytest.raises(DataError, match="teacher knows"):
        require_same_names("teacher", dict(enumerate(one)), dict(enumerate(other)))


def test_a_classifier_of_words_teaches_and_is_the_baseline_on_folders_of_codes(
    tmp_path: Path, settings: TrainSettings
) -> None:
    for split in ("train", "val"):
        for spread, code in zip((20, 90), CODES, strict=True):
            (tmp_path / "data" / split / code).mkdir(parents=True)
            for index in range(4):
                noise = Image.effect_noise((32, 32), spread).convert("RGB")
                noise.save(tmp_path / "data" / split / code / f"{index}.png")
    weights = narrow_checkpoint(tmp_path / "words.pt", "yolo11n-cls.yaml", names=("tench", "goldfish"))
    given = replace(settings, epochs=1, batch=4, imgsz=32)
    assert baseline_accuracy(weights, data=tmp_path / "data", settings=given, work=tmp_path / "b") >= 0
    taught = replace(given, teacher=weights)
    done = finetune(weights, data=tmp_path / "data", out=tmp_path / "o", work=tmp_path / "w", settings=taught)
    assert done.summary.epochs[0].figures["train/kd_loss"] >= 0


def test_cls_remap_is_heard_by_a_training(tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings) -> None:
    """The data set has the classes of the model the other way round."""
    swapped = tmp_path / "swapped.yaml"
    content = yaml.safe_load(digits.read_text())
    swapped.write_text(yaml.safe_dump({**content, "path": str(digits.parent), "names": list("abcdefghij")}))
    weights = narrow_checkpoint(tmp_path / "m.pt", names=tuple("JIHGFEDCBA"))
    given = checkpoint.load(weights).model.model[-1].cv3[0][-1].weight.flatten(1)
    for remapped, rows in ((True, given.flip(0)), (False, given)):
        seen: list[torch.Tensor] = []

        def note(trainer: Any) -> None:
            seen.append(trainer.model.model[-1].cv3[0][-1].weight.detach().clone().flatten(1))  # noqa: B023
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            finetune(
                weights,
                data=swapped,
                out=tmp_path / "o",
                work=tmp_path / f"w{remapped}",
                settings=replace(settings, train={"cls_remap": remapped}),
                watchers=[("on_train_batch_start", note)],
                keep="last",
            )
        assert torch.equal(seen[0], rows)


def test_a_head_of_another_kind_is_refused() -> None:
    from ultralytics.nn.tasks import RTDETRDetectionModel

    model = RTDETRDetectionModel("rtdetr-resnet50.yaml", verbose=False)
    with pytest.raises(DataError, match="RTDETRDecoder"):
        fit_classes(model, {0: "a"})
