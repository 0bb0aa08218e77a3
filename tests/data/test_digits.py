"""Digits: the same pixels for a seed, disjoint samples, all or nothing, and no foreign folder touched."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from edgeprune.artifact import sha256_of
from edgeprune.data import digits
from edgeprune.data.digits import CLASSES, write_digits
from edgeprune.errors import DataError
from edgeprune.scratch import locked

SMALL = {"train": 12, "val": 4, "test": 4, "imgsz": 96}


def digests(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256_of(p) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits") / "set", **SMALL).parent


def test_one_seed_gives_the_same_bytes_and_another_gives_others(made: Path, tmp_path: Path) -> None:
    again = write_digits(tmp_path / "again", **SMALL).parent
    other = write_digits(tmp_path / "other", **SMALL, seed=1).parent
    assert digests(again) == digests(made)
    assert digests(other)["images/train/00000.jpg"] != digests(made)["images/train/00000.jpg"]


def test_a_larger_split_begins_with_the_smaller_one(made: Path, tmp_path: Path) -> None:
    larger = digests(write_digits(tmp_path / "larger", **{**SMALL, "train": 14}).parent)
    smaller = {k: v for k, v in digests(made).items() if k != digits.RECORD}
    assert smaller.items() <= larger.items()
    assert "images/train/00013.jpg" in larger


def test_the_folder_is_what_ultralytics_reads_wherever_it_is_moved(made: Path, tmp_path: Path) -> None:
    from ultralytics.data.utils import check_det_dataset

    moved = tmp_path / "elsewhere"
    shutil.copytree(made, moved)
    described = check_det_dataset(str(moved / "data.yaml"), autodownload=False)
    assert "path" not in yaml.safe_load((moved / "data.yaml").read_text())
    assert described["names"] == dict(enumerate(CLASSES))
    for split in digits.SPLITS:
        assert Path(described[split]) == moved / "images" / split


@pytest.mark.parametrize("split", digits.SPLITS)
def test_every_label_lies_inside_its_image_and_on_ink(made: Path, split: str) -> None:
    images = sorted((made / "images" / split).iterdir())
    assert len(images) == SMALL[split]
    for image in images:
        with Image.open(image) as opened:
            assert opened.size == (SMALL["imgsz"], SMALL["imgsz"])
        rows = np.loadtxt(made / "labels" / split / f"{image.stem}.txt", ndmin=2)
        assert len(rows) >= 1
        assert set(rows[:, 0]) <= set(range(10))
        low, high = rows[:, 1:3] - rows[:, 3:] / 2, rows[:, 1:3] + rows[:, 3:] / 2
        assert low.min() >= -1e-5
        assert high.max() <= 1 + 1e-5
        assert rows[:, 3:].min() >= 0.03


def test_the_splits_use_disjoint_digit_samples_of_all_classes() -> None:
    _, classes = digits._digit_samples()
    pools = digits._disjoint_pools(classes, seed=0)
    together = np.concatenate(pools)
    assert len(set(together.tolist())) == len(together) == len(classes)
    for pool in pools:
        assert set(classes[pool].tolist()) == set(range(10))


def test_objects_differ_in_size_and_overlap(tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "set", train=60, val=1, test=1, imgsz=96).parent
    sizes, overlapping = [], 0
    for file in (folder / "labels" / "train").iterdir():
        rows = np.loadtxt(file, ndmin=2)
        sizes += list(rows[:, 3] * rows[:, 4])
        for i, one in enumerate(rows):
            overlapping += any(_meet(one, two) for two in rows[:i])
    assert max(sizes) > 4 * min(sizes)
    assert overlapping >= 5


def _meet(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two boxes of label rows overlap."""
    return bool(np.all(np.abs(one[1:3] - other[1:3]) < (one[3:] + other[3:]) / 2))


def test_the_hard_kind_has_many_small_digits_that_overlap_and_tells_light_ink_from_dark(tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "set", train=12, val=1, test=1, imgsz=320, hard=True).parent
    names = yaml.safe_load((folder / "data.yaml").read_text())["names"]
    assert list(names.values()) == list(digits.HARD_CLASSES) and len(set(names.values())) == 20
    heights, counts, seen, named_right = [], [], set(), []
    for file in sorted((folder / "labels" / "train").iterdir()):
        rows = np.loadtxt(file, ndmin=2)
        with Image.open(folder / "images" / "train" / f"{file.stem}.jpg") as opened:
            grey = np.asarray(opened.convert("L"), dtype=float)
        counts.append(len(rows))
        heights += list(rows[:, 4])
        seen |= {int(row[0]) // 10 for row in rows}
        alone = [
            row for row in rows if sum(np.all(np.abs(row[1:3] - o[1:3]) < (row[3:] + o[3:]) / 2) for o in rows) == 1
        ]
        for kind, x, y, width, height in alone:
            left, top = int((x - width / 2) * 320), int((y - height / 2) * 320)
            box = grey[top : top + max(int(height * 320), 1), left : left + max(int(width * 320), 1)]
            far = box - np.median(grey[max(top - 4, 0) : top + int(height * 320) + 4, max(left - 4, 0) : left + 20])
            skew = far.ravel()[np.argmax(np.abs(far))]
            right = (skew < 0) == (kind >= 10)
            named_right.append(right)
    assert seen == {0, 1} and np.median(heights) < 0.12 and max(counts) > 10
    assert np.mean(named_right) > 0.8


def test_a_folder_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "set"
    write_digits(out, **{**SMALL, "imgsz": 320})
    with pytest.raises(DataError, match="made with hard=False"):
        write_digits(out, **{**SMALL, "imgsz": 320}, hard=True)


def test_a_second_call_with_the_same_parameters_touches_nothing(made: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in made.rglob("*")}
    assert write_digits(made, **SMALL) == made / "data.yaml"
    assert {p: p.stat().st_mtime_ns for p in made.rglob("*")} == before


@pytest.mark.parametrize("name", ["data.yaml", "images/val/00001.jpg", "labels/train/00000.txt"])
def test_a_folder_that_lost_a_file_is_not_taken_for_whole(tmp_path: Path, name: str) -> None:
    out = write_digits(tmp_path / "d", train=2, val=2, test=1, imgsz=64).parent
    (out / name).unlink()
    with pytest.raises(DataError, match=f"lacks {name}, deleted since"):
        write_digits(out, train=2, val=2, test=1, imgsz=64)


def test_a_stopped_run_leaves_nothing_half_and_the_next_one_cleans_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "set"

    def stop(text: str, *, done: int = 0, total: int = 0) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_digits(out, **{**SMALL, "train": 100}, progress=stop)
    assert list(tmp_path.iterdir()) == []
    for name in ("0000dead", "a11fe000"):  # what kill -9 would leave, and what another process writes just now
        (tmp_path / f".set.partial-{name}").mkdir()
        (tmp_path / f".set.partial-{name}" / ".lock").touch()
    with locked(tmp_path / ".set.partial-a11fe000" / ".lock", wait=False):
        write_digits(out, **SMALL)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".set.partial-a11fe000", "set"]
    assert not (out / ".lock").exists()


@pytest.mark.parametrize(
    ("prepare", "parameters", "message"),
    [
        (lambda out: (out.mkdir(), (out / "thesis.txt").write_text("mine")), {}, "holds other files"),
        (lambda out: out.write_text("mine"), {}, "is a file"),
        (lambda out: write_digits(out, **SMALL), {"seed": 5}, "made with seed=0"),
        (lambda out: None, {"val": 0}, "val=0"),
        (lambda out: None, {"imgsz": 8}, "imgsz=8"),
        (lambda out: None, {"imgsz": 128, "hard": True}, "from 320 to 1280"),
    ],
    ids=[
        "foreign-folder",
        "file",
        "other-parameters",
        "empty-split",
        "too-small",
        "too-small-hard",
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(tmp_path: Path, prepare, parameters, message: str) -> None:
    out = tmp_path / "set"
    prepare(out)
    before = digests(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        write_digits(out, **{**SMALL, **parameters})
    assert "\n" not in str(caught.value)
    assert digests(tmp_path) == before


def test_the_command_prints_where_the_data_is(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from edgeprune.cli.data import app

    out = tmp_path / "set"
    result = CliRunner().invoke(
        app, ["digits", "--out", str(out), "--train", "2", "--val", "1", "--test", "1", "--imgsz", "64"]
    )
    assert result.exit_code == 0, result.output
    assert str(out / "data.yaml") in result.output.replace("\n", "")
    assert (out / "data.yaml").is_file()


def test_progress_counts_the_images_of_each_split(tmp_path: Path) -> None:
    said: list[tuple[str, int, int]] = []

    def note(text: str, *, done: int = 0, total: int = 0) -> None:
        said.append((text, done, total))

    write_digits(tmp_path / "set", train=3, val=2, test=1, imgsz=64, progress=note)
    assert said == [("train images", 3, 3), ("val images", 2, 2), ("test images", 1, 1)]
