"""What edgeprune counts is what Ultralytics' own loader counts, over datasets of any shape.

A folder is drawn file by file: names, formats, modes, sizes, labels of any encoding, duplicates, links, hidden files.
edgeprune either sees as many images as the loader that trains on them, or refuses the dataset in one line.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.situations import catalogue, models, reference
from tests.situations.commands import Inputs
from tests.situations.driver import Sandbox, printed_json

pytestmark = pytest.mark.hostile
NAMES = st.one_of(
    st.sampled_from(
        ["a", "B", "ab.cd", "été", "日本", "a b", "._a", ".a", "a'b", "[x]", "x*", "-", "a.txt", "A" * 100]
    ),
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\0"), min_size=1, max_size=6),
)
SUFFIXES = st.sampled_from(
    [".png", ".jpg", ".JPG", ".Png", ".bmp", ".tif", ".jpeg", ".webp", ".gif", ".txt", "", ".npy"]
)
FOLDERS = st.sampled_from(["", "sub", "sub/deeper", ".hidden", "images", "labels", "with space"])
MODES = st.sampled_from(["RGB", "L", "RGBA", "P", "1", "I;16", "CMYK", "LA"])
SIZES = st.sampled_from([(64, 64), (40, 90), (9, 9), (10, 10), (1, 1), (300, 12)])
BODIES = st.sampled_from(["whole", "whole", "whole", "cut", "nearly whole", "empty", "text", "another format"])
LABELS = st.sampled_from(
    [
        *(
            b"0 0.5 0.5 0.2 0.2\n",
            b"1 0.5 0.5 0.2 0.2\n2 0.1 0.1 0.1 0.1\n",
            b"",
            b"\n\n",
            None,
            b"\xef\xbb\xbf0 .5 .5 .1 .1\n",
        ),
        *(
            b"0 0.5 0.5 0.2 0.2\n" * 2,
            b"9 0.5 0.5 0.2 0.2\n",
            b"0 5 5 2 2\n",
            b"0 -0.5 0.5 0.2 0.2\n",
            b"0 0.5 0.5 0.2\n",
        ),
        *(
            b"a b c d e\n",
            b"\xff\xfe0",
            b"0.5 0.5 0.5 0.2 0.2\n",
            b"0 nan 0.5 0.2 0.2\n",
            "0 ½ 0.5 0.2 0.2\n".encode("latin-1"),
        ),
        b"0 0.1 0.1 0.5 0.1 0.5 0.5\n",
    ]
)


@dataclass(frozen=True)
class File:
    """An image and its label as they are drawn; ``link`` makes the image a link to a copy elsewhere."""

    name: str
    suffix: str = ".png"
    folder: str = ""
    mode: str = "RGB"
    size: tuple[int, int] = (64, 64)
    body: str = "whole"
    label: bytes | None = b"0 0.5 0.5 0.2 0.2\n"
    link: bool = False


FILES = st.lists(
    st.builds(
        File, NAMES, SUFFIXES, FOLDERS, MODES, SIZES, BODIES, LABELS, st.sampled_from([False, False, False, True])
    ),
    min_size=1,
    max_size=5,
)
LISTED = st.sampled_from(["folder", "list", "relative list", "list with duplicates", "two folders", "one folder twice"])


def content_of(file: File) -> bytes:
    """Bytes of the image."""
    pixels = np.random.default_rng(len(file.name)).integers(0, 255, (file.size[1], file.size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image = image.convert("I").convert("I;16") if file.mode == "I;16" else image.convert(file.mode)
    stream = io.BytesIO()
    format_ = {"jpg": "JPEG", "jpeg": "JPEG", "bmp": "BMP", "tif": "TIFF", "webp": "WEBP"}.get(
        file.suffix[1:].lower(), "PNG"
    )
    if file.body == "another format":
        format_ = "GIF" if format_ == "PNG" else "PNG"
    try:
        image.save(stream, format_)
    except (OSError, ValueError):  # a mode that the format has not
        Image.fromarray(pixels).save(stream, format_)
    whole = stream.getvalue()
    return {"cut": whole[: len(whole) // 2], "nearly whole": whole[:-3], "empty": b"", "text": b"hello\n"}.get(
        file.body, whole
    )


def written(root: Path, files: list[File], listed: str) -> Path:
    """The dataset's YAML."""
    images = []
    for file in files:
        path = root / "images" / "train" / file.folder / f"{file.name}{file.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() or path.is_symlink():
            continue
        if file.link:
            (root / "elsewhere").mkdir(exist_ok=True)
            source = root / "elsewhere" / f"{len(images)}{file.suffix}"
            source.write_bytes(content_of(file))
            path.symlink_to(source)
        else:
            path.write_bytes(content_of(file))
        images.append(path)
        label = root / "labels" / "train" / file.folder / f"{(file.name + file.suffix).rpartition('.')[0]}.txt"
        if file.label is not None and not label.exists():
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_bytes(file.label)
    train: object = "images/train"
    lines = [str(path) for path in images if "\n" not in str(path)]
    if listed == "relative list":
        lines = [f"./{path.relative_to(root)}" for path in images]
    if "list" in listed:
        lines += lines[:2] if "duplicates" in listed else []
        (root / "train.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        train = "train.txt"
    elif listed == "two folders":
        (root / "images" / "train" / "sub").mkdir(exist_ok=True)
        train = ["images/train", "images/train/sub"]
    elif listed == "one folder twice":
        train = ["images/train", "images/train"]
    content = {"path": str(root), "train": train, "val": "images/train", "names": dict(models.NAMES)}
    (root / "data.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return root / "data.yaml"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sandbox, Inputs]]:
    """A sandbox with a small graph in it."""
    box = Sandbox(tmp_path_factory.mktemp("loader"))
    yield box, catalogue.good(box.root / "in" / "base")


def compared(site: tuple[Sandbox, Inputs], files: list[File], listed: str) -> str | None:
    """The fault, or None."""
    box, inputs = site
    root = box.root / "in" / "drawn"
    shutil.rmtree(root, ignore_errors=True)
    try:
        data = written(root, files, listed)
    except OSError:  # a name that this file system does not take
        return None
    try:
        taken: int | None = reference.image_count(data, "train")
    except Exception:  # whatever Ultralytics raises for what it does not train on
        taken = None
    outcome = box.run(
        ["parity", inputs.onnx, inputs.onnx, "--data", data, "--split", "train", "--count", 1000, "--json"],
        timeout_s=60,
    )
    if fault := outcome.fault():
        return fault
    if outcome.code in (2, 3):
        unreadable = any(file.label is not None and not _is_text(file.label) for file in files)
        return (
            None
            if taken is None or unreadable or "label" in (outcome.refusal or "")
            else (f"refused what Ultralytics takes {taken} images of: {outcome.refusal}")
        )
    seen = printed_json(outcome).get("images")
    return None if seen == taken else f"{seen} images where Ultralytics takes {taken}"


def _is_text(label: bytes) -> bool:
    try:
        label.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


GIVEN = given(files=FILES, listed=LISTED)


@settings(max_examples=12, suppress_health_check=list(HealthCheck), derandomize=True)
@GIVEN
@example(files=[File("a"), File("._b")], listed="folder")
@example(files=[File("a"), File("b", body="cut")], listed="folder")
@example(files=[File("a"), File("b", label=b"\xff\xfe0")], listed="folder")
@example(files=[File("a"), File("b", folder=".hidden")], listed="folder")
@example(files=[File("a"), File("b")], listed="list with duplicates")
def test_edgeprune_counts_what_ultralytics_counts(site: tuple[Sandbox, Inputs], files: list[File], listed: str) -> None:
    assert compared(site, files, listed) is None


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@GIVEN
def test_over_hundreds_of_folders(site: tuple[Sandbox, Inputs], files: list[File], listed: str) -> None:
    assert compared(site, files, listed) is None
