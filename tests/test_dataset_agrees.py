"""What edgeprune counts is what Ultralytics' own loader counts, on folders of every kind of disorder.

Each example is a folder of a few tiny images. Plain Ultralytics reads a copy of it; edgeprune has to name the same
images, hand Ultralytics the same labels and pixels, and leave the folder as it is, or refuse in one line and for a
reason that the example was given.
"""

from __future__ import annotations

import io
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeprune.dataset import Dataset
from edgeprune.errors import DataError
from edgeprune.quiet import quiet

FORMS = {"png": "PNG", "jpg": "JPEG", "JPG": "JPEG", "jpeg": "JPEG", "bmp": "BMP", "tif": "TIFF", "webp": "WEBP"}
MODES = ("RGB", "L", "RGBA", "P", "1", "I;16", "CMYK")
NAMES = ("a", "b c", "été", "日本", "a[1]*", "x.y", "-", "Z'", "._d", ".h", "images", "n" * 120)
PLACES = ("", "sub", "sub/images", "v1.2/deep", ".hidden")
BROKEN = (*("whole",) * 8, "truncated", "empty", "web page", "noise", "trailing")
KINDS = (*("file",) * 6, "link", "dead link", "folder", "fifo")
LABELS = {
    "none": None,
    "one": b"0 .5 .5 .2 .2\n",
    "two": b"0 .5 .5 .2 .2\n1 .4 .4 .1 .1\n",
    "twice the same": b"0 .5 .5 .2 .2\n0 .5 .5 .2 .2\n",
    "empty": b"",
    "blank": b"\n  \n",
    "byte-order mark": b"\xef\xbb\xbf0 .5 .5 .2 .2\r\n",
    "polygon": b"1 .1 .1 .5 .1 .5 .5 .1 .5\n",
    "polygon and box": b"1 .1 .1 .5 .1 .5 .5 .1 .5\n0 .5 .5 .2 .2\n",
    "pixels": b"0 32 32 12 12\n",
    "three columns": b"0 .5 .5\n",
    "no numbers": b"0 a b c d\n",
    "negative": b"0 -.5 .5 .2 .2\n",
    "not a number": b"0 nan nan nan nan\n",
}
REFUSED = {
    "Latin-1": b"0 .5 .5 .2 .2 \xe4\n",
    "UTF-16": "0 .5 .5 .2 .2\n".encode("utf-16"),
    "AppleDouble": b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(range(256)),
    "class beyond": b"7 .5 .5 .2 .2\n",
    "word": b"cat .5 .5 .2 .2\n",
}
CORNERS = b"1 .1 .1 .5 .1 .5 .5 .1 .5\n"
OTHER_TASKS = {
    "segment": {
        "one": CORNERS,
        "two": CORNERS + b"0 .2 .2 .9 .2 .9 .7 .6 .9 .2 .7\n",
        "twice the same": CORNERS * 2,
        "outside": b"0 .2 .2 1.4 .2 1.4 .7\n",
        "odd": b"0 .2 .2 .9 .2 .9 .7 .6\n",
    },
    "obb": {
        "one": CORNERS,
        "two": CORNERS + b"0 .3 .2 .9 .4 .8 .7 .2 .5\n",
        "twice the same": CORNERS * 2,
        "five corners": b"0 .2 .2 .9 .2 .9 .7 .6 .9 .2 .7\n",
    },
    "pose": {
        "one": b"0 .5 .5 .2 .2 .4 .4 2 .6 .6 1\n",
        "two": b"0 .5 .5 .2 .2 .4 .4 2 .6 .6 1\n1 .4 .4 .1 .1 0 0 0 .4 .4 2\n",
        "twice the same": b"0 .5 .5 .2 .2 .4 .4 2 .6 .6 1\n" * 2,
        "one point": b"0 .5 .5 .2 .2 .4 .4 2\n",
        "box": b"0 .5 .5 .2 .2\n",
        "outside": b"0 .5 .5 .2 .2 1.4 .4 2 .6 .6 1\n",
    },
}
OF_ANY_TASK = ("none", "empty", "blank", "three columns", "no numbers")
BOXES = {"segment": {"box": b"0 .5 .5 .2 .2\n", "box and polygon": b"0 .5 .5 .2 .2\n" + CORNERS}}
BOXES["obb"] = BOXES["segment"]


def labels_of(task: str) -> tuple[dict[str, bytes | None], dict[str, bytes]]:
    """Label files of a task: those that Ultralytics trains on or skips, and those that edgeprune refuses, because no
    class or no outline can be told from them."""
    if task == "detect":
        return dict(LABELS), REFUSED
    shared = {name: LABELS[name] for name in OF_ANY_TASK}
    return {**shared, **OTHER_TASKS[task]}, {**REFUSED, **BOXES.get(task, {})}


@dataclass(frozen=True)
class Item:
    """One image of an example with its label."""

    name: str
    place: str
    suffix: str
    mode: str
    size: tuple[int, int]
    broken: str
    kind: str
    label: str


def items(task: str = "detect") -> st.SearchStrategy[Item]:
    """Images with labels of a task."""
    taken, refused = labels_of(task)
    return st.builds(
        Item,
        name=st.sampled_from(NAMES),
        place=st.sampled_from(PLACES),
        suffix=st.sampled_from((*FORMS, "txt", "gif")),
        mode=st.sampled_from(MODES),
        size=st.sampled_from(((16, 12), (12, 40), (9, 20), (10, 10))),
        broken=st.sampled_from(BROKEN),
        kind=st.sampled_from(KINDS),
        label=st.sampled_from((*taken, *taken, *taken, *refused)),
    )


GOOD = Item("good", "", "png", "RGBA", (16, 12), "whole", "file", "two")


def image_bytes(item: Item, seed: int) -> bytes:
    form = FORMS.get(item.suffix, "PNG")
    height, width = item.size
    pixels = np.random.default_rng(seed).integers(0, 255, (width, height, 3), dtype=np.uint8)
    mode = item.mode if form in ("PNG", "TIFF") and item.mode != "CMYK" else "RGB"
    mode = "CMYK" if form == "JPEG" and item.mode == "CMYK" else mode
    image = Image.fromarray(pixels)
    image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, form)
    content = buffer.getvalue()
    return {
        "truncated": content[: len(content) // 2],
        "empty": b"",
        "web page": b"<html>404</html>\n",
        "noise": bytes(pixels)[:200],
        "trailing": content + b"\0\0",
    }.get(item.broken, content)


def written(root: Path, drawn: list[Item], channels: int, listed: str, task: str = "detect") -> Path:
    """The example's folder; its YAML."""
    taken, refused = labels_of(task) if task != "classify" else ({"none": None}, {})
    (root / "images").mkdir(parents=True)
    (root / "aside").mkdir()
    for number, item in enumerate(drawn):
        image = root / "images" / item.place / f"{item.name}.{item.suffix}"
        label = root / "labels" / item.place / f"{item.name}.txt"
        image.parent.mkdir(parents=True, exist_ok=True)
        label.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(image) or os.path.lexists(label):
            continue
        if item.kind == "folder":
            image.mkdir()
        elif item.kind == "fifo":
            os.mkfifo(image)
        elif item.kind == "dead link":
            image.symlink_to("nowhere.png")
        elif item.kind == "link":
            (root / "aside" / f"{number}.bin").write_bytes(image_bytes(item, number))
            image.symlink_to(os.path.relpath(root / "aside" / f"{number}.bin", image.parent))
        else:
            image.write_bytes(image_bytes(item, number))
        content = {**taken, **refused}[item.label]
        if content is not None:
            label.write_bytes(content)
    content = {"train": "images", "val": "images", "names": ["cat", "dog"], "channels": channels}
    if task == "pose":
        content |= {"kpt_shape": [2, 3]}
    if listed != "folder":
        names = sorted(path.relative_to(root).as_posix() for path in (root / "images").rglob("*") if not path.is_dir())
        lines = [f"./{name}" for name in (names * 2 if listed == "list twice" else names)] + ["./gone.png", ""]
        (root / "all.txt").write_text("\n".join(lines), encoding="utf-8-sig" if listed == "list" else "utf-8")
        content |= {"train": "all.txt", "val": ["all.txt"]}
    (root / "data.yaml").write_text(yaml.safe_dump(content))
    return root / "data.yaml"


def loader_of(data: Path, task: str = "detect") -> Any:
    """Ultralytics' own loader of the training split; raises what it raises."""
    from ultralytics.cfg import get_cfg
    from ultralytics.data.build import build_yolo_dataset
    from ultralytics.data.utils import check_det_dataset

    with quiet(50):
        described = check_det_dataset(str(data), autodownload=False)
        options: Any = get_cfg(overrides={"imgsz": 32, "task": task, "cache": False})
        return build_yolo_dataset(options, described["train"], 1, described, mode="val", rect=False)


def by_stock(data: Path, task: str = "detect") -> tuple[list[str], list[Any]] | None:
    """Names and loaded images with labels of plain Ultralytics; None where it fails. Pipes, at which it would never
    end, are taken away first."""
    for path in data.parent.rglob("*"):
        if path.is_fifo():
            path.unlink()
    try:
        loader = loader_of(data, task)
        return [os.path.relpath(name, data.parent) for name in loader.im_files], loaded(loader)
    except Exception:  # six kinds
        return None


def loaded(loader: Any) -> list[Any]:
    return [
        (
            loader.load_image(index)[0],
            label["cls"],
            label["bboxes"],
            *label["segments"],
            *([] if label["keypoints"] is None else [label["keypoints"]]),
        )
        for index, label in enumerate(loader.labels)
    ]


def contents(root: Path) -> dict[str, object]:
    """Every file below a folder, by what would change if it were written to."""
    return {
        str(path): (path.lstat().st_mode, path.readlink() if path.is_symlink() else path.lstat().st_size)
        for path in root.rglob("*")
        if not path.is_dir() or path.is_symlink()
    }


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory):
    """A cache of this module's own, for hypothesis makes hundreds of splits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEPRUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@settings(max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    drawn=st.lists(items(), max_size=4).map(lambda some: [GOOD, *some]),
    channels=st.sampled_from((3, 3, 3, 1, 4)),
    listed=st.sampled_from(("folder", "folder", "list", "list twice")),
)
def test_the_images_of_a_folder_are_those_that_ultralytics_takes(drawn, channels, listed):
    agree(drawn, channels, listed, "detect")


@pytest.mark.parametrize("task", OTHER_TASKS)
@settings(max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(choice=st.data(), listed=st.sampled_from(("folder", "folder", "list")))
def test_the_labels_of_other_tasks_are_those_that_ultralytics_takes(task, choice, listed):
    drawn = choice.draw(st.lists(items(task), min_size=2, max_size=5).map(lambda some: [GOOD, *some]))
    agree(drawn, 3, listed, task)


def agree(drawn: list[Item], channels: int, listed: str, task: str) -> None:
    """Hold that edgeprune names the images that Ultralytics trains on and hands it the same labels, or refuses."""
    refused = labels_of(task)[1]
    with tempfile.TemporaryDirectory() as folder:
        data = written(Path(folder) / "ours", drawn, channels, listed, task)
        stock = written(Path(folder) / "stock", drawn, channels, listed, task)
        before = contents(data.parent)
        expected = by_stock(stock, task)
        try:
            dataset = Dataset.load(data, task=task, need=("train",))
            given_to_it = loaded(loader_of(dataset.for_ultralytics("train"), task))
        except DataError as error:
            assert "\n" not in str(error)
            assert str(data.parent) in str(error), "a refusal names what it is about"
            labels = {item.label for item in drawn}
            objects = expected is not None and any(len(classes) for _, classes, *_ in expected[1])
            assert labels & set(refused) or not objects or (expected and _other_channels(expected, channels)), error
        else:
            assert expected is not None
            names, images = expected
            assert [os.path.relpath(image, data.parent) for image in dataset.images("train")] == names
            for (ours, *our_labels), (theirs, *their_labels) in zip(given_to_it, images, strict=True):
                np.testing.assert_array_equal(ours, theirs)
                for one, other in zip(our_labels, their_labels, strict=True):
                    np.testing.assert_array_equal(one, other)
        assert contents(data.parent) == before, "a dataset is never written to"


def _other_channels(expected: tuple[list[str], list[Any]], channels: int) -> bool:
    return any(image.shape[2] != channels for image, *_ in expected[1])


CLASS_ITEMS = st.builds(
    Item,
    name=st.sampled_from(("a", "b c", "été", "x.y")),
    place=st.sampled_from(("cat", "dog", "cat/sub", "dog/deep.er")),
    suffix=st.sampled_from(tuple(FORMS)),
    mode=st.sampled_from(MODES),
    size=st.sampled_from(((16, 12), (9, 20))),
    broken=st.sampled_from(BROKEN),
    kind=st.sampled_from(KINDS),
    label=st.just("none"),
)


@settings(max_examples=25, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=st.lists(CLASS_ITEMS, min_size=1, max_size=4))
def test_the_images_of_class_folders_are_those_that_ultralytics_takes(drawn):
    from ultralytics.cfg import get_cfg
    from ultralytics.data.dataset import ClassificationDataset

    def samples(root: Path) -> list[tuple[str, int]]:
        options: Any = get_cfg(overrides={"imgsz": 32, "task": "classify", "cache": False})
        with quiet(50):
            read = ClassificationDataset(root=str(root / "train"), args=options, augment=False)
            return [(sample[0], sample[1]) for sample in read.samples]

    with tempfile.TemporaryDirectory() as folder:
        roots = []
        for name in ("ours", "stock"):
            written(Path(folder) / name, drawn, 3, "folder", "classify")
            (Path(folder) / name / "images").rename(Path(folder) / name / "train")
            for place in ("cat", "dog"):
                (Path(folder) / name / "train" / place).mkdir(exist_ok=True)
            roots.append(Path(folder) / name)
        for path in roots[1].rglob("*"):
            if path.is_fifo():
                path.unlink()
        expected = [(os.path.relpath(name, roots[1]), index) for name, index in samples(roots[1])]
        try:
            dataset = Dataset.load(roots[0], task="classify", need=("train",))
        except DataError:
            assert not expected or any(item.broken != "whole" for item in drawn)
            return
        named = [os.path.relpath(image, roots[0]) for image in dataset.images("train")]
        assert named == [name for name, _ in expected]
        linked = samples(dataset.for_ultralytics("train"))
        assert [index for _, index in linked] == [index for _, index in expected]
        assert [Path(name).resolve() for name, _ in linked] == [image.resolve() for image in dataset.images("train")]


def test_a_folder_that_holds_itself_ends_in_one_line(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for name in ("again", "more"):
        (images / name).symlink_to(images, target_is_directory=True)
    (tmp_path / "data.yaml").write_text("train: images\nval: images\nnames: [cat]\n")
    with pytest.raises(DataError, match="is a link to a folder that holds it"):
        Dataset.load(tmp_path / "data.yaml")
