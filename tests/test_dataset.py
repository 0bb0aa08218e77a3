from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from edgeprune.dataset import Dataset, image_hashes
from edgeprune.dataset.images import IMAGE_SUFFIXES
from edgeprune.dataset.labels import label_file, read_labels
from edgeprune.errors import DataError
from edgeprune.limited_yaml import read_yaml
from edgeprune.progress import one_run

YAML = "train: images/train\nval: images/val\nnames: [cat, dog]\n"


def picture(seed: int, form: str = "JPEG", mode: str = "RGB", size: tuple[int, int] = (12, 10)) -> bytes:
    """A small image file of plain colour."""
    buffer = io.BytesIO()
    Image.new(mode, size, seed * 7 % 200).save(buffer, form)
    return buffer.getvalue()


def written(root: Path, yaml: str = YAML, labels: str = "0 .5 .5 .1 .1\n1 .2 .2 .1 .1\n", count: int = 3) -> Path:
    """A dataset of tiny images, with the same labels for each."""
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            (root / "images" / split / f"{index}.jpg").write_bytes(picture(index))
            (root / "labels" / split / f"{index}.txt").write_text(labels)
    (root / "data.yaml").write_text(yaml)
    return root / "data.yaml"


def class_folders(root: Path, classes: Sequence[str] = "ab", splits: tuple[str, ...] = ("train", "val")) -> Path:
    for split in splits:
        for name in classes:
            (root / split / name).mkdir(parents=True, exist_ok=True)
            (root / split / name / "0.png").write_bytes(picture(0, "PNG"))
    return root


def beside(root: Path, *names: str) -> Path:
    """The folder of a dataset with further files beside its YAML."""
    for name in names:
        (root / name).write_text(written(root).read_text())
    return root


def packed(path: Path) -> Path:
    path.write_bytes(b"PK\x03\x04")
    return path


def test_a_yaml_without_path_resolves_beside_itself(tmp_path, monkeypatch):
    data = written(tmp_path / "d")
    monkeypatch.chdir(tmp_path)
    dataset = Dataset.load(Path("d/data.yaml"))
    assert dataset.source == data
    assert dataset.nc == 2
    assert {split: len(images) for split, images in dataset.splits.items()} == {"train": 3, "val": 3}
    assert dataset.task is None


@pytest.mark.parametrize(
    "yaml",
    [
        "path: {root}\n" + YAML,
        "train: [images/train]\nval: images/val\nnames: {{0: cat, 1: dog}}\n",
        "train: images/train\nvalidation: images/val\nnames: {{1: dog, 0: cat}}\n",
        "train: ../images/train\nval: images/val\nnames: [cat, dog]\nnc: 2\n",
        "train: train.txt\nval: images/val\nnames: [cat, dog]\n",
    ],
)
def test_ultralytics_ways_of_naming_a_split(yaml, tmp_path):
    from ultralytics.data.utils import check_det_dataset

    data = written(tmp_path / "d", yaml.format(root=tmp_path / "d"))
    lines = "\n".join(f"./images/train/{index}.jpg" for index in range(3))
    (tmp_path / "d" / "train.txt").write_text(lines)
    dataset = Dataset.load(data)
    assert len(dataset.images("train")) == 3
    assert len(dataset.images("val")) == 3
    assert dict(dataset.names) == check_det_dataset(str(data))["names"]


@pytest.mark.parametrize(
    "name", ["bccd/data.yaml", "coco8/coco8.yaml", "coco8-pose/coco8-pose.yaml", "dota8/dota8.yaml"]
)
def test_real_datasets_load_as_ultralytics_reads_them(name, shared):
    from ultralytics.data.utils import check_det_dataset, img2label_paths

    path = shared / "data" / name
    dataset, theirs = Dataset.load(path), check_det_dataset(str(path))
    assert dict(dataset.names) == theirs["names"]
    for split in ("train", "val"):
        assert all(image.parent == Path(theirs[split]) for image in dataset.images(split))
    images = [str(image) for image in dataset.images("val")]
    assert [str(label_file(Path(image))) for image in images] == img2label_paths([*images])
    assert dataset.task == ("pose" if "pose" in name else None)


def test_image_formats_are_ultralytics_own():
    from ultralytics.data.utils import IMG_FORMATS

    assert frozenset(f".{name}" for name in IMG_FORMATS) == IMAGE_SUFFIXES


def test_a_folder_of_class_folders_is_for_classification(tmp_path):
    dataset = Dataset.load(class_folders(tmp_path, "ba"), task="classify")
    assert (dataset.task, dict(dataset.names)) == ("classify", {0: "a", 1: "b"})
    assert len(dataset.images("val")) == 2


def test_a_folder_with_one_yaml_is_that_yaml(tmp_path):
    (tmp_path / "._data.yaml").write_bytes(b"\0\5\x16\7")  # of macOS
    assert Dataset.load(written(tmp_path).parent).source == tmp_path / "data.yaml"


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        ("train: images/train\nval: images/nowhere\nnames: [cat, dog]\n", "images/nowhere"),
        ("train: images/train\nnames: [cat, dog]\n", "no key 'val'"),
        ("train: images/train\nval: images/val\n", "neither 'names' nor 'nc'"),
        ("train: images/train\nval: images/val\nnames: [cat, dog]\nnc: 3\n", "nc: 3"),
        ("train: images/train\nval: images/val\nnames: {0: cat, 2: dog}\n", "without a gap"),
        ("train: images/train\nval: images/val\nnames: {a: cat}\n", "class indices"),
        ("train: images/train\nval: images/val\nnames: 7\n", "list"),
        ("train: images/train\nval: images/val\nnames: {0: cat, '0': dog}\n", "has class 0 twice"),
        ("train: images/train\nval: images/val\nnames: {0: cat, 0.9: dog}\n", r"class indices, .*seen: 0\.9"),
        ("train: images/train\nval: images/val\nnames: {false: cat, true: dog}\n", "class indices, .*seen: False"),
        ("train: images/train\nval: images/val\nnames:\n  0: cat\n  0: dog\n", "line 5: 0: is written twice"),
        ("train: images/train\nval: images/val\nnames: {0: cat, 0x0: dog}\n", "0x0: is written twice"),
        ("train: images/train\nval: images/val\nnames: [cat, dog]\nnames: [hen]\n", "names: is written twice"),
        ('train: images/train\nval: images/val\nnames: [cat, "do\\ng"]\n', r"class 1: 'do\\ng'; one line"),
        ('train: images/train\nval: images/val\nnames: [cat, "do\\Lg"]\n', "class 1: .*; one line"),
        ('train: images/train\nval: images/val\nnames: [cat, "do\\e[31mg"]\n', "class 1: .*; one line"),
        ('train: images/train\nval: images/val\nnames: [cat, "do\\tg"]\n', "class 1: .*; one line"),
        ('train: images/train\nval: images/val\nnames: [cat, ""]\n', "class 1 has no name; a word"),
        ("train: images/train\nval: images/val\nnames: {0: '  ', 1: dog}\n", "class 0 has no name; a word"),
        ("train: images/train\nval: images/val\nnames:\n  0: cat\n  1:\n", "class 1 has no name; a word"),
        ("train: images/train\nval: images/val\nnames: [cat]\n", "class 1 is out of range"),
        ("just text", "no dataset"),
        ("a: [unclosed", "YAML"),
        ("", "no dataset"),
    ],
)
def test_a_yaml_that_contradicts_itself_is_one_line(yaml, says, tmp_path):
    with pytest.raises(DataError, match=says) as error:
        Dataset.load(written(tmp_path, yaml))
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ("2 .5 .5 .1 .1\n", "class 2 is out of range"),
        ("-1 .5 .5 .1 .1\n", "class -1 is out of range"),
        ("0.5 .5 .5 .1 .1\n", "class 0.5 is out of range"),
        ("cat .5 .5 .1 .1\n", "'cat' is no class index"),
        ("", "none of the 3 images of split 'train' has a label"),
    ],
)
def test_labels_that_do_not_fit_are_named(labels, says, tmp_path):
    with pytest.raises(DataError, match=says):
        Dataset.load(written(tmp_path, labels=labels))


def test_a_single_image_without_a_label_is_background(tmp_path):
    data = written(tmp_path)
    (tmp_path / "labels" / "val" / "1.txt").unlink()
    Dataset.load(data)


@pytest.mark.parametrize("root", ["", "path: elsewhere\n", "path: /nowhere\n"])
def test_a_folder_that_is_not_there_is_named_with_what_moves_it(tmp_path, root):
    (tmp_path / "data.yaml").write_text(root + YAML)
    where = {"": f"{tmp_path}/images/val", "path: /nowhere\n": "/nowhere/images/val"}.get(root, "elsewhere/images/val")
    with pytest.raises(DataError, match=f"{where} does not exist; 'path' in the YAML is where"):
        Dataset.load(tmp_path / "data.yaml", need=("val",))


def test_of_several_folders_those_that_are_missing_are_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "images").mkdir(parents=True)
        (tmp_path / name / "labels").mkdir()
        (tmp_path / name / "images" / "0.jpg").write_bytes(picture(1))
        (tmp_path / name / "labels" / "0.txt").write_text("0 .5 .5 .2 .2\n")
    file = tmp_path / "data.yaml"
    file.write_text("train: a/images\nval: [b/images, gone]\nnames: [cat]\n")
    with pytest.raises(DataError, match=f"'val': {tmp_path / 'gone'} does not exist"):
        Dataset.load(file)


def test_an_empty_split_is_named(tmp_path):
    data = written(tmp_path)
    for image in (tmp_path / "images" / "val").iterdir():
        image.unlink()
    with pytest.raises(DataError, match="'val' is empty"):
        Dataset.load(data)


def test_a_split_is_checked_when_it_is_needed(tmp_path):
    dataset = Dataset.load(written(tmp_path))
    with pytest.raises(DataError, match=r"no split 'test' \(there is no key 'test'\); it has train, val"):
        dataset.images("test")


@pytest.mark.parametrize(
    ("make", "task", "says"),
    [
        (lambda root: root / "nowhere" / "data.yaml", None, "does not exist"),
        (lambda root: root, None, "no class folders"),
        (lambda root: written(root), "classify", "is a file"),
        (lambda root: written(root), "pose", "kpt_shape"),
        (lambda root: class_folders(root), "detect", "a YAML file was expected"),
        (lambda root: beside(root, "b.yaml"), "detect", "holds b.yaml and data.yaml; give one of them"),
        (lambda root: beside(root, "b.yml"), None, "holds data.yaml and b.yml; give one of them"),
        (lambda root: beside(root, *(f"{one}.yaml" for one in "abc")), None, "a.yaml, b.yaml, c.yaml and 1 more"),
        (lambda root: packed(root / "d.zip"), "detect", "d.zip is an archive; unpack it and give its YAML"),
        (lambda root: packed(root / "d.TAR.GZ"), "classify", "is an archive; unpack it and give its folder of class"),
        (lambda root: packed(root / "d.ndjson"), None, "convert_ndjson_to_yolo"),
        (
            lambda root: "https://example.invalid/d.zip",
            "detect",
            "d.zip is an address; download it, unpack it, and give",
        ),
        (lambda root: (root / "train").mkdir() or root, "classify", "no class folders"),
        (lambda root: class_folders(root, splits=("train",)), "classify", "no split 'val'"),
    ],
)
def test_the_wrong_kind_of_place_is_one_line(make, task, says, tmp_path):
    with pytest.raises(DataError, match=says):
        Dataset.load(make(tmp_path), task=task)


def test_a_class_of_val_that_train_lacks_is_named(tmp_path):
    class_folders(tmp_path)
    class_folders(tmp_path, "z", ("val",))
    with pytest.raises(DataError, match="val/z is no class"):
        Dataset.load(tmp_path, task="classify")


def test_a_class_folder_of_two_lines_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"class 1: .*; one line"):
        Dataset.load(class_folders(tmp_path, ["a", "b\nc"]))
    with pytest.raises(DataError, match="class 0 has no name"):
        Dataset.load(class_folders(tmp_path / "blank", [" ", "b"]))


def test_ultralytics_own_datasets_have_no_key_twice():
    from ultralytics.utils import ROOT

    files = sorted((ROOT / "cfg/datasets").glob("*.yaml"))
    assert len(files) > 20
    for file in files:
        read_yaml(file)


def test_a_name_that_cannot_be_fetched_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="give the path of a YAML") as error:
        Dataset.load("surely-no-such-dataset.yaml")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


POSE = "train: images/train\nval: images/val\nnames: [a]\nkpt_shape: [2, 3]\n"


@pytest.mark.parametrize(
    ("entry", "other"),
    [
        ("flip_idx: [0, 1]\n", "flip_idx: [1, 0]\n"),
        ("", "flip_idx: [0, 1]\n"),
        ("", "kpt_oks_sigmas: [0.5, 0.01]\n"),
        ("kpt_oks_sigmas: [0.5, 0.5]\n", "kpt_oks_sigmas: [0.5, 0.01]\n"),
    ],
)
def test_the_digest_follows_what_training_and_judging_take_of_keypoints(entry, other, tmp_path):
    rows = "0 .5 .5 .4 .4 .4 .4 2 .6 .6 2\n"
    one = Dataset.load(written(tmp_path / "one", POSE + entry, rows), task="pose")
    two = Dataset.load(written(tmp_path / "two", POSE + other, rows), task="pose")
    assert one.digest != two.digest
    named = Dataset.load(written(tmp_path / "named", POSE + entry + "kpt_names: {0: [x, y]}\n", rows), task="pose")
    assert named.digest == one.digest, "names of keypoints are for people"


def test_the_digest_follows_the_shape_of_keypoints(tmp_path):
    dataset = Dataset.load(written(tmp_path / "d"))
    assert replace(dataset, kpt_shape=(2, 3)).digest != replace(dataset, kpt_shape=(3, 2)).digest != dataset.digest


def test_the_digest_of_a_dataset_without_keypoints_is_what_it_was(tmp_path):
    (tmp_path / "d" / "images").mkdir(parents=True)
    (tmp_path / "d" / "images" / "0.jpg").write_bytes(b"four")
    dataset = Dataset(tmp_path, tmp_path / "d", None, {0: "a"}, {"val": (tmp_path / "d" / "images" / "0.jpg",)})
    content = hashlib.sha256(b"four").hexdigest().encode()
    said = repr([(0, "a")]).encode() + b"\0val\0" + b"images/0.jpg\0" + content + b"\0\1"
    assert dataset.digest == hashlib.sha256(said).hexdigest()


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_digest_follows_every_pixel_of_images_that_keep_their_size(split, tmp_path):
    def dataset(place: str, colour: int) -> Dataset:
        data = written(tmp_path / place, YAML + "test: images/test\n")
        folder = data.parent / "images" / split
        folder.mkdir(exist_ok=True)
        (folder / "z.bmp").write_bytes(picture(colour, "BMP"))
        return Dataset.load(data)

    one, other, copy = dataset("one", 0), dataset("other", 9), dataset("copy", 0)
    assert len({image.splits[split][-1].stat().st_size for image in (one, other)}) == 1
    assert one.digest == copy.digest != other.digest


def test_images_are_read_for_the_digest_once_until_one_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))
    data, read = written(tmp_path / "d"), []

    def counted(path, whole=image_hashes.sha256_of):
        read.append(path)
        return whole(path)

    monkeypatch.setattr(image_hashes, "sha256_of", counted)
    first = Dataset.load(data).digest
    assert len(read) == 6
    assert Dataset.load(data).digest == first
    assert len(read) == 6
    (tmp_path / "d/images/val/0.jpg").write_bytes(picture(9))
    assert Dataset.load(data).digest != first
    assert len(read) == 9, "the split with the change, and no other"


def test_an_image_that_could_not_be_read_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))
    dataset, whole = Dataset.load(written(tmp_path / "d")), image_hashes.sha256_of

    def failing(path):
        if path.name == "1.jpg":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return whole(path)

    with monkeypatch.context() as then:
        then.setattr(image_hashes, "sha256_of", failing)
        with pytest.raises(DataError, match=r"1\.jpg cannot be read: Input/output error"):
            _ = dataset.digest
    images = dataset.splits["train"]
    read = image_hashes.image_hashes(images)
    assert read == tuple(whole(image) for image in images)
    [kept] = [file for file in (tmp_path / "cache/datasets").glob("hashes-*/*") if json.loads(file.read_text())]
    kept.write_text(json.dumps([read[0], "", read[2]]))  # as older versions kept it
    assert image_hashes.image_hashes(images) == read


EDITS = {
    "a label": lambda root: (root / "labels/val/0.txt").write_text("1 .5 .5 .2 .2\n"),
    "no label": lambda root: (root / "labels/train/0.txt").unlink(),
    "a label in the middle of an edit": lambda root: (root / "labels/val/0.txt").write_text("7 .5\n"),
    "an image": lambda root: (root / "images/val/1.jpg").write_bytes(picture(5)),
    "an image more": lambda root: (root / "images/train/9.jpg").write_bytes(picture(9)),
    "a split": lambda root: shutil.rmtree(root / "images/val"),
    "a name": lambda root: (root / "data.yaml").write_text(YAML.replace("cat", "cow")),
    "the yaml": lambda root: (root / "data.yaml").unlink(),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=list(EDITS))
def test_a_dataset_that_changes_while_it_is_used_is_told(edit, tmp_path):
    dataset = Dataset.load(written(tmp_path))
    assert dataset.digest
    dataset.require_unchanged()
    edit(tmp_path)
    with pytest.raises(DataError, match=r"the data set changed while this command used it.*the same command again"):
        dataset.require_unchanged()


def test_a_dataset_is_unchanged_as_whom_a_model_sees_it(tmp_path):
    data = written(tmp_path / "boxes")
    (tmp_path / "boxes/images/train/0.jpg").write_bytes(b"no image")
    whole = Dataset.load(data, need=("train",))
    seen = [whole, whole.of_one_class(), whole.known_to({0: "pet"}, single_cls=True)]
    seen.append(Dataset.load(class_folders(tmp_path / "classes"), task="classify"))
    for dataset in seen:
        assert dataset.digest
        dataset.require_unchanged()
    (tmp_path / "classes/val/a/0.png").write_bytes(picture(3, "PNG"))
    with pytest.raises(DataError, match="changed"):
        seen[-1].require_unchanged()
    data.unlink()
    Dataset.load(written(tmp_path / "other")).require_unchanged()  # nothing rests on it yet


def test_a_cache_that_cannot_be_written_gives_the_same_digest(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))
    data = written(tmp_path / "d")
    dataset = Dataset.load(data)

    def refused(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", refused)
    monkeypatch.setattr(image_hashes, "write_json", refused)
    digest = dataset.digest
    assert not list((tmp_path / "cache").rglob(image_hashes.FILE))
    assert Dataset.load(data).digest == digest


def test_the_digest_follows_what_is_left_out(tmp_path):
    data = written(tmp_path / "d")
    whole = Dataset.load(data)
    before = {whole.digest, whole.of_one_class().digest}
    broken = tmp_path / "d" / "images" / "train" / "1.jpg"
    broken.write_bytes(b"\0" * broken.stat().st_size)
    left_out = Dataset.load(data)
    assert len(left_out.images("train")) == 2
    after = {left_out.digest, left_out.of_one_class().digest}
    assert len(before) == len(after) == 2 and not before & after


def test_the_digest_follows_the_content_and_not_the_place(tmp_path):
    first = Dataset.load(written(tmp_path / "a"))
    second = Dataset.load(written(tmp_path / "b"))
    assert first.digest == second.digest
    changes = [
        lambda root: (root / "labels/val/0.txt").write_text("0 .5 .5 .2 .2\n"),
        lambda root: (root / "images/train/0.jpg").write_bytes(picture(0, size=(40, 30))),
        lambda root: (root / "images/train/0.jpg").rename(root / "images/train/zero.jpg"),
        lambda root: (root / "data.yaml").write_text(YAML.replace("dog", "hen")),
        lambda root: shutil.copy(root / "images/val/0.jpg", root / "images/val/9.jpg"),
    ]
    seen = {first.digest}
    for number, change in enumerate(changes):
        data = written(tmp_path / f"c{number}")
        change(data.parent)
        seen.add(Dataset.load(data).digest)
    assert len(seen) == len(changes) + 1


def listed(root: Path) -> Path:
    """As :func:`written`, the images named in lists beside the YAML."""
    data = written(root, YAML.replace("images/train", "train.txt").replace("images/val", "val.txt"))
    for split in ("train", "val"):
        (root / f"{split}.txt").write_text("".join(f"./images/{split}/{index}.jpg\n" for index in range(3)))
    return data


FORMS = {
    "class folders": (class_folders, None),
    "class folders, of a classifier": (class_folders, "classify"),
    "a yaml": (written, "detect"),
    "a folder with one yaml": (lambda root: written(root).parent, None),
    "lists": (listed, None),
}


@pytest.mark.parametrize(("make", "task"), FORMS.values(), ids=list(FORMS))
def test_by_whatever_path_a_dataset_is_given_it_is_the_same_and_unchanged(make, task, tmp_path, monkeypatch) -> None:
    real = make(tmp_path / "real/data")
    (tmp_path / "link").symlink_to("real")
    linked = tmp_path / "link" / real.relative_to(tmp_path / "real")
    itself = tmp_path / f"itself{real.suffix}"
    itself.symlink_to(real)
    monkeypatch.chdir(tmp_path)
    around = Path("link/data/../../real") / real.relative_to(tmp_path / "real")
    relative = real.relative_to(tmp_path)
    loaded = [Dataset.load(path, task=task) for path in (real, relative, f"./{relative}", linked, itself, around)]
    assert len({dataset.digest for dataset in loaded}) == 1
    assert {dataset.source for dataset in loaded} == {loaded[0].source}
    for dataset in loaded:
        dataset.require_unchanged()
    monkeypatch.chdir(real if real.is_dir() else real.parent)
    here = Dataset.load("." if real.is_dir() else real.name, task=task)
    assert here.digest == loaded[0].digest
    here.require_unchanged()


def test_the_digest_of_class_folders_by_a_whole_path_is_what_it_was(tmp_path) -> None:
    digest = hashlib.sha256(b"[(0, 'a'), (1, 'b')]")
    for split in ("train", "val"):
        digest.update(f"\0{split}\0".encode())
        for name in "ab":
            sha256 = hashlib.sha256(picture(0, "PNG")).hexdigest()
            digest.update(f"{split}/{name}/0.png\0{sha256}\0".encode())
    assert Dataset.load(class_folders(tmp_path.resolve()), task="classify").digest == digest.hexdigest()


def test_the_digest_follows_the_class_of_an_image_by_whatever_path(tmp_path, monkeypatch) -> None:
    root = class_folders(tmp_path / "data")
    (root / "train/a/1.png").write_bytes(picture(1, "PNG"))
    (root / "train/b/0.png").rename(root / "train/b/2.png")  # so that the order of all stays
    (tmp_path / "link").symlink_to("data")
    monkeypatch.chdir(tmp_path)
    before = [Dataset.load(path, task="classify") for path in ("data", "link", root)]
    digests = {dataset.digest for dataset in before}
    (root / "train/a/1.png").rename(root / "train/b/1.png")
    for dataset in before:
        with pytest.raises(DataError, match="changed"):
            dataset.require_unchanged()
    assert not digests & {Dataset.load(path, task="classify").digest for path in ("data", "link", root)}


def test_a_sample_is_seeded_sorted_and_without_repetition(tmp_path):
    dataset = Dataset.load(written(tmp_path, count=50))
    sample = dataset.sample_images("train", 20, seed=1)
    assert sample == dataset.sample_images("train", 20, seed=1)
    assert sample != dataset.sample_images("train", 20, seed=2)
    assert sample == sorted(set(sample))
    assert len(dataset.sample_images("train", 99)) == 50


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ({0: "cat"}, "has 2 classes .* has 1"),
        (["cat", "dog", "hen"], "has 2 classes .* has 3"),
        (["dog", "cat"], "class 0 is 'cat' .* and 'dog'"),
    ],
)
def test_a_model_of_other_classes_is_refused(names, says, tmp_path):
    with pytest.raises(DataError, match=says):
        Dataset.load(written(tmp_path)).check_matches(names)


def test_a_model_of_the_same_classes_is_accepted(tmp_path):
    Dataset.load(written(tmp_path)).check_matches({1: "dog", 0: "cat"})


def test_labels_are_read_by_object_and_a_missing_file_is_background(tmp_path):
    data = written(tmp_path, labels="0 .5 .5 .1 .1\n\n1 .2 .2 .1 .1 \n")
    image = data.parent / "images" / "val" / "0.jpg"
    rows = read_labels(image)
    assert [(row.line, row.values) for row in rows] == [
        (1, ("0", ".5", ".5", ".1", ".1")),
        (3, ("1", ".2", ".2", ".1", ".1")),
    ]
    assert read_labels(image.with_name("gone.jpg")) == []


@pytest.mark.parametrize(
    ("test_images", "test_labels", "judging"),
    [(3, True, "test"), (3, False, "val"), (0, False, "val")],
    ids=["labelled", "without labels", "empty"],
)
def test_a_labelled_test_split_judges_and_val_does_elsewhere(
    tmp_path: Path, test_images: int, test_labels: bool, judging: str
) -> None:
    data = written(tmp_path, YAML + "test: images/test\n")
    for kind in ("images", "labels"):
        (tmp_path / kind / "test").mkdir()
    for index in range(test_images):
        (tmp_path / "images" / "test" / f"{index}.jpg").write_bytes(picture(index))
        if test_labels:
            (tmp_path / "labels" / "test" / f"{index}.txt").write_text("0 .5 .5 .1 .1\n")
    dataset = Dataset.load(data)
    assert dataset.judging_split("auto") == judging
    assert dataset.judging_split("val") == "val", "a profile that names a split keeps its word"


def test_without_a_test_split_val_judges(tmp_path: Path) -> None:
    assert Dataset.load(written(tmp_path)).judging_split("auto") == "val"


SHARED = {
    "apart": ("images/train", "images/val", "images/test", "test", {}),
    "test is val": ("images/train", "images/val", "images/val", "val", {"test": 3}),  # as in Ultralytics' VOC.yaml
    "test and val share one": ("images/train", "images/val", "[images/test, one.txt]", "val", {"test": 1}),
    "test by links is val": ("images/train", "images/val", "images/linked", "val", {"test": 3}),
    "val is train": ("images/train", "images/train", None, "val", {"train": 3}),  # coco128
    "val is train by a linked folder": ("images/train", "images/folder", None, "val", {"train": 3}),
    "test is in train": ("[images/train, images/test]", "images/val", "images/test", "test", {"train": 3}),
    "all are one": ("images/train", "images/train", "images/train", "val", {"train": 3, "test": 3}),
}


@pytest.mark.parametrize(("train", "val", "test", "judging", "shared"), SHARED.values(), ids=SHARED)
def test_splits_that_share_images_are_noticed_by_the_files_that_their_paths_lead_to(
    train: str,
    val: str,
    test: str | None,
    judging: str,
    shared: dict[str, int],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    yaml = f"train: {train}\nval: {val}\nnames: [cat, dog]\n" + (f"test: {test}\n" if test else "")
    data = written(tmp_path, yaml)
    for kind in ("images", "labels"):
        shutil.copytree(tmp_path / kind / "val", tmp_path / kind / "test")
        (tmp_path / kind / "linked").mkdir()
        for file in (tmp_path / kind / "val").iterdir():
            (tmp_path / kind / "linked" / f"other-{file.name}").symlink_to(file)
        (tmp_path / kind / "folder").symlink_to(tmp_path / kind / "train")
    (tmp_path / "one.txt").write_text(f"{tmp_path}/images/val/0.jpg\n")
    dataset = Dataset.load(data)
    assert dataset.judging_split("auto") == judging
    assert dataset.also_in(judging) == shared
    for _ in range(2):
        dataset.judging_split("auto")
        dataset.say_trained_on(judging)
    lines = [record.getMessage() for record in caplog.records]
    trained = [line for line in lines if "tells nothing of images that were not trained on" in line]
    counts = [line for line in lines if "val judges instead" in line]
    assert len(trained) == ("train" in shared) and len(counts) == ("test" in shared)
    assert all(line.startswith(str(data)) and "\n" not in line for line in lines)
    outside = dataset.sample_images(judging, 9, outside="train")
    assert len(outside) == len(dataset.images(judging)) - shared.get("train", 0)


def test_class_folders_that_share_images_are_noticed_too(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "d")
    shutil.rmtree(root / "val")
    (root / "val").symlink_to(root / "train")
    assert Dataset.load(root).also_in("val") == {"train": 2}


def with_test(root: Path, label: bytes) -> Path:
    """A dataset whose test split has one image, with this label."""
    data = written(root, YAML + "test: images/test\n")
    for file, content in (("images/test/0.jpg", picture(5)), ("labels/test/0.txt", label)):
        (root / file).parent.mkdir()
        (root / file).write_bytes(content)
    return data


@pytest.mark.parametrize(
    ("label", "task", "says"),
    [
        (b"7 .5 .5 .1 .1\n", "detect", "class 7 is out of range"),
        (b"0 50 50 10 10\n", "detect", "none of the 1 images of split 'test' can be used"),  # pixels
        ("0 .5 .5 .1 .1\n".encode("utf-16"), "detect", "is not text in UTF-8"),
        (b"0 .5 .5 .1 .1\n", "segment", "are boxes, and a model of task segment needs"),
    ],
)
def test_a_test_split_that_cannot_judge_leaves_it_to_val(
    label: bytes, task: str, says: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from edgeprune.search.inputs import read_dataset
    from edgeprune.target import load_target

    data = with_test(tmp_path, label)
    if task == "segment":
        for file in tmp_path.glob("labels/[tv]*[nl]/*.txt"):
            file.write_text("0 .2 .2 .8 .2 .8 .8\n")
    target = load_target("cpu")
    assert target.accuracy.split == "auto"
    with one_run():
        dataset = read_dataset(target, data, task, {"train", target.accuracy.split}, None)
        assert dataset.judging_split("auto") == "val"
        assert Dataset.load(data, task=task).judging_split("auto") == "val"
    [said] = [line for line in caplog.messages if "val judges instead" in line]
    assert said.startswith(f"{data}: split 'test' cannot judge") and says in said
    with pytest.raises(DataError, match=says):
        Dataset.load(data, task=task, need=("test",))  # a split that is named is no choice


def test_where_val_has_to_judge_and_cannot_it_is_refused(tmp_path: Path) -> None:
    data = with_test(tmp_path, b"7 .5 .5 .1 .1\n")
    shutil.rmtree(tmp_path / "labels/val")
    with pytest.raises(DataError, match="none of the 3 images of split 'val' has a label"):
        Dataset.load(data, need=("train", "auto"))


@pytest.mark.parametrize("name", ["0.jpg", "0.txt"])
def test_a_test_split_that_the_system_does_not_read_is_not_passed_over(name, tmp_path, monkeypatch) -> None:
    data, opened = with_test(tmp_path, b"0 .5 .5 .1 .1\n"), Path.stat

    def failing(path: Path, **flags: bool) -> os.stat_result:
        if path.parts[-2:] == ("test", name):
            raise OSError(errno.EIO, "Input/output error")
        return opened(path, **flags)

    monkeypatch.setattr(Path, "stat", failing)
    with pytest.raises(DataError, match=rf"test/{name} cannot be read: Input/output error"):
        Dataset.load(data, need=("train", "auto"))


def test_images_of_no_class_for_a_competition_leave_it_to_val(tmp_path, caplog) -> None:
    root = class_folders(tmp_path)
    (root / "test/unlabelled").mkdir(parents=True)
    (root / "test/unlabelled/0.png").write_bytes(picture(0, "PNG"))
    assert Dataset.load(root, task="classify", need=("train", "auto")).judging_split("auto") == "val"
    assert [line for line in caplog.messages if "test/unlabelled is no class of" in line]


@pytest.mark.parametrize(
    "name", ["کتاب\u200cخانه", "\u0915\u094d\u200d\u0937", "feu\u00a0rouge", "\U0001f468\u200d\U0001f33e"]
)
def test_a_name_of_any_script_is_a_name(name: str, tmp_path: Path) -> None:
    from edgeprune.model_metadata import names_of

    data = written(tmp_path, f"train: images/train\nval: images/val\nnames: [cat, '{name}']\n")
    assert Dataset.load(data).names[1] == name
    assert names_of({0: "cat", 1: name}, "m.pt")[1] == name


@pytest.mark.parametrize(
    "name", ["a\nb", "a\x85b", "a\u2028b", "a\u2029b", "a\x1b[31mb", "a\udce9b", "a\x00", "a\u202eb", "\u2067a"]
)
def test_a_name_that_leaves_its_line_is_none(name: str) -> None:
    from edgeprune.dataset.entries import checked_names
    from edgeprune.model_metadata import names_of

    for read in (checked_names, names_of):
        with pytest.raises(DataError, match="name of class 0") as error:
            read([name], "m.pt")
        assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "yaml", [YAML.replace("dog", "Hündin").encode("cp1252"), YAML.replace("dog", "do\x01g").encode()]
)
def test_a_yaml_that_ultralytics_reads_in_part_has_the_names_that_it_trains(yaml: bytes, tmp_path: Path) -> None:
    from ultralytics.utils import YAML as THEIRS

    data = written(tmp_path)
    data.write_bytes(yaml)
    assert [*Dataset.load(data).names.values()] == THEIRS.load(str(data))["names"]


@pytest.mark.parametrize("task", ["segment", "obb"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_boxes_are_no_labels_of_a_task_that_needs_outlines(tmp_path, task, split):
    data = written(tmp_path / "d")
    outline = "0 0.2 0.2 0.8 0.2 0.8 0.8 0.2 0.8\n"
    for file in (tmp_path / "d/labels").rglob("*.txt"):
        file.write_text(outline)
    assert Dataset.load(data, task=task).nc
    file = sorted((tmp_path / "d/labels" / split).glob("*.txt"))[0]
    file.write_text("0 0.5 0.5 0.4 0.4\n")
    with pytest.raises(
        DataError, match=rf"1 of the \d objects of split '{split}' are boxes, and a model of task {task}"
    ):
        Dataset.load(data, task=task)
    assert Dataset.load(data, task="detect").nc


def test_imagenet_codes_of_class_folders_are_the_words_of_a_model(tmp_path):
    for split in ("train", "val"):
        for code in ("n01440764", "n01443537"):
            (tmp_path / split / code).mkdir(parents=True)
            (tmp_path / split / code / "0.png").write_bytes(picture(0, "PNG"))
    dataset = Dataset.load(tmp_path, task="classify")
    dataset.check_matches({0: "tench", 1: "goldfish"})
    dataset.check_matches({0: "n01440764", 1: "n01443537"})
    with pytest.raises(DataError, match="class 0 is 'tench'"):
        dataset.check_matches({0: "goldfish", 1: "tench"})


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ValueError("a bug"), ImportError("libGL"), MemoryError()])
def test_only_files_are_blamed_for_what_files_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("edgeprune.dataset.dataset.class_count", fail)
    with pytest.raises(type(error)) as caught:
        Dataset.load(written(tmp_path))
    assert caught.value is error


def test_a_disk_that_fails_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> list[Path]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("edgeprune.dataset.dataset.list_images", fail)
    for data in (written(tmp_path / "boxes"), class_folders(tmp_path / "folders")):
        with pytest.raises(DataError, match=f"dataset .* cannot be read: .*{os.strerror(errno.EIO)}"):
            Dataset.load(data)


def test_the_next_run_of_a_process_is_warned_too_and_each_run_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = written(tmp_path)
    (tmp_path / "images/val/0.jpg").write_bytes(b"no image")
    shutil.copy(tmp_path / "images/train/1.jpg", tmp_path / "images/train/9.jpg")

    @one_run()
    def run() -> int:
        caplog.clear()
        for _ in range(2):  # as the stages of a build do
            Dataset.load(data, task="detect")._say_once("a warning")
        return len(caplog.records)

    assert (run(), run()) == (2, 2)  # one of the image that is left out, one of this
    caplog.clear()
    for _ in range(2):  # outside of a run each load is one
        Dataset.load(data, task="detect").of_one_class()._say_once("a warning")
    assert len(caplog.records) == 4
