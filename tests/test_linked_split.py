from __future__ import annotations

import errno
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from edgeprune.dataset import Dataset, linked_split
from edgeprune.errors import DataError, TargetError
from edgeprune.progress import one_run
from tests.test_dataset import class_folders, picture, written
from tests.test_dataset_agrees import loader_of


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def rewritten(data: Path, **entries: object) -> Path:
    data.write_text(yaml.safe_dump({**yaml.safe_load(data.read_text()), **entries}))
    return data


@pytest.mark.parametrize("place", ["labels/train.cache", "images/train.cache", "images/train/0.npy"])
def test_what_others_left_beside_the_images_is_not_loaded(place, tmp_path):
    data, canary = written(tmp_path / "d"), tmp_path / "canary"
    payload = np.array(Payload(canary), dtype=object)
    with (data.parent / place).open("wb") as file:
        np.save(file, payload, allow_pickle=True)
    before = (data.parent / place).read_bytes()
    loader = loader_of(Dataset.load(data).for_ultralytics("train", "val"))
    assert [loader.load_image(index)[0].shape[2] for index in range(len(loader))] == [3, 3, 3]
    assert not canary.exists()
    assert (data.parent / place).read_bytes() == before
    np.load(data.parent / place, allow_pickle=True)
    assert canary.exists(), "the payload is one"


def test_images_are_opened_once_until_one_changes(tmp_path, monkeypatch):
    data = written(tmp_path / "d")
    first = Dataset.load(data)
    opened: list[str] = []

    def counted(link, rules, verified=linked_split._verified):
        opened.append(str(link))
        return verified(link, rules)

    monkeypatch.setattr(linked_split, "_verified", counted)
    assert Dataset.load(data).for_ultralytics("val") == first.for_ultralytics("val")
    assert not opened
    (tmp_path / "d/labels/val/0.txt").write_text("1 .5 .5 .1 .1\n")
    Dataset.load(data)
    assert len(opened) == 3, "the split with the change, and no other"


@pytest.mark.parametrize("package", ["pi-heif", "pillow", "ultralytics"])
def test_what_another_reader_may_take_is_looked_at_again(package, tmp_path, monkeypatch):
    data = written(tmp_path / "d")
    (tmp_path / "d" / "images" / "train" / "1.jpg").write_bytes(b"\0\0\0\x18ftypheic")
    before = Dataset.load(data)
    assert len(before.images("train")) == 2
    monkeypatch.setattr(linked_split, "_verified", lambda *_: ("", 2, 0))
    monkeypatch.setattr(linked_split, "read_image", lambda *_, **__: None)
    assert len(Dataset.load(data).images("train")) == 2, "the same readers say the same"
    versions = {**{name: linked_split.installed(name) for name in linked_split.READERS}, package: "99"}
    monkeypatch.setattr(linked_split, "installed", versions.__getitem__)
    after = Dataset.load(data)
    assert len(after.images("train")) == 3
    assert after.digest != before.digest


def test_what_is_left_out_is_named_once(tmp_path, caplog):
    data = written(tmp_path / "d")
    for index, name in enumerate("vwxyz"):
        (tmp_path / f"d/images/val/{name}.jpg").write_bytes(b"<html>" if index else b"")
    with one_run():
        Dataset.load(data)
        dataset = Dataset.load(data)
        assert len(dataset.images("val")) == 3
    [message] = caplog.messages
    assert "5 of the 8 images of split 'val' are left out" in message
    assert "val/v.jpg" in message
    assert "and 2 more" in message


@pytest.mark.parametrize("form", ["TIFF", "BMP", "JPEG2000"])
def test_an_image_that_would_stop_the_training_is_refused_before_it(form, tmp_path):
    data = written(tmp_path / "d")
    whole = picture(0, form, size=(64, 64))
    cut = tmp_path / f"d/images/train/cut.{'jp2' if form == 'JPEG2000' else form.lower()}"
    cut.write_bytes(whole[: len(whole) // 2])
    stock = loader_of(data)
    with pytest.raises(FileNotFoundError):  # Ultralytics' check lets it pass, in the middle of an epoch it is met
        stock.load_image(stock.im_files.index(str(cut)))
    with pytest.raises(DataError, match=r"cut\.\w+ cannot be read"):
        Dataset.load(data)


def test_a_split_without_a_usable_image_is_refused_with_the_first_reason(tmp_path):
    data = written(tmp_path / "d")
    for image in (tmp_path / "d/images/val").iterdir():
        image.write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the 3 images of split 'val' can be used; .*0.jpg: "):
        Dataset.load(data)


@pytest.mark.parametrize("content", [b"0 .5 .5 .1 .1 # \xe4", "0 .5 .5 .1 .1".encode("utf-16"), bytes(range(256))])
def test_a_label_that_is_not_text_is_refused_by_its_name(content, tmp_path):
    data = written(tmp_path / "d")
    (tmp_path / "d/labels/val/1.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"labels/val/1.txt: is not text in UTF-8 \(byte \d+\)") as error:
        Dataset.load(data)
    assert "\n" not in str(error.value)


def test_a_pipe_for_an_image_or_a_label_is_not_opened(tmp_path):
    data = written(tmp_path / "d")
    (tmp_path / "d/labels/val/1.txt").unlink()
    os.mkfifo(tmp_path / "d/labels/val/1.txt")
    os.mkfifo(tmp_path / "d/images/val/pipe.jpg")
    (tmp_path / "d/images/val/zero.jpg").symlink_to("/dev/zero")
    dataset = Dataset.load(data)
    assert [image.name for image in dataset.images("val")] == ["0.jpg", "1.jpg", "2.jpg"]
    assert sum(len(label["cls"]) for label in loader_of(rewritten_for(dataset)).labels) == 4
    assert len(dataset.digest) == 64


def rewritten_for(dataset: Dataset) -> Path:
    """A YAML in which the validation images stand for the training's, which the loader of the tests takes."""
    path = dataset.for_ultralytics("train", "val")
    content = yaml.safe_load(path.read_text())
    made = path.with_name("turned.yaml")
    made.write_text(yaml.safe_dump({**content, "train": content["val"]}))
    return made


def test_class_folders_ignore_what_macos_and_notebooks_leave(tmp_path):
    class_folders(tmp_path)
    for split in ("train", "val"):
        (tmp_path / split / ".ipynb_checkpoints").mkdir()
        (tmp_path / split / "a/._0.png").write_bytes(struct.pack(">II", 0x51607, 0x20000))
    dataset = Dataset.load(tmp_path, task="classify")
    assert dict(dataset.names) == {0: "a", 1: "b"}
    assert len(dataset.images("train")) == 2


def test_a_download_script_runs_only_when_trusted(tmp_path):
    data = written(tmp_path / "d")
    (tmp_path / "d/images/val").rename(tmp_path / "d/images/later")
    canary = tmp_path / "canary"
    script = f"from pathlib import Path\nPath({str(canary)!r}).touch()\nroot = Path({str(data.parent)!r})\n"
    script += "(root / 'images/later').rename(root / 'images/val')\n"
    rewritten(data, download=script)
    with pytest.raises(DataError, match="'download' is a script, which is not run: read it, then give --trust"):
        Dataset.load(data, trust=False)
    with pytest.raises(DataError, match="is not run: get the images first"):
        Dataset.load(data)
    assert not canary.exists()
    assert len(Dataset.load(data, trust=True).images("val")) == 3
    assert canary.exists()


def test_an_archive_is_downloaded_as_ultralytics_does(tmp_path, monkeypatch):
    data = written(tmp_path / "d")
    (tmp_path / "d/images/val").rename(tmp_path / "d/images/later")
    asked = []

    def downloaded(url, dir, delete):
        asked.append(url)
        (tmp_path / "d/images/later").rename(tmp_path / "d/images/val")

    monkeypatch.setattr("ultralytics.utils.downloads.safe_download", downloaded)
    rewritten(data, download="https://example.invalid/d.zip")
    assert len(Dataset.load(data).images("val")) == 3
    assert asked == ["https://example.invalid/d.zip"]


@pytest.mark.parametrize("name", ["data", "data.yaml "])
def test_a_name_that_ultralytics_takes_for_a_file_that_lies_here_runs_no_script(tmp_path, monkeypatch, name):
    data = rewritten(written(tmp_path), val="images/gone", download=f"open({str(tmp_path / 'canary')!r}, 'w').close()")
    assert data.name == "data.yaml"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="is not here and is none that Ultralytics knows"):
        Dataset.load(name, trust=False)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "download",
    [
        "http=open({0!r},'w').close()#%3f.zip",
        "http=open({0!r},'w').close()#.zip",
        "http://x/%0aopen({0!r},'w').close()#%3f.zip",
        "http://x/\nopen({0!r},'w').close()#.zip",
        "http://[/x.zip",
    ],
)
def test_a_script_that_looks_like_an_address_runs_only_when_trusted(tmp_path, download):
    canary = tmp_path / "canary"
    data = rewritten(written(tmp_path / "d"), val="images/gone", download=download.format(str(canary)))
    with pytest.raises(DataError, match="'download' is a script, which is not run: read it, then give --trust"):
        Dataset.load(data, trust=False)
    assert not canary.exists()


def test_what_ultralytics_is_given_has_no_entry_that_it_would_run(tmp_path):
    data = rewritten(written(tmp_path / "d"), download="bash -c true", masks_dir="/etc", augmentations="x")
    content = yaml.safe_load(Dataset.load(data).for_ultralytics("train").read_text())
    assert set(content) == {"path", "train", "val", "names", "channels"}
    assert content["val"] is None


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "file"))
    with pytest.raises(TargetError, match="name another folder for caches in"):
        Dataset.load(written(tmp_path / "d"))


@pytest.mark.parametrize("task", ["detect", "classify"])
@pytest.mark.parametrize("fails", ["mkdir", "utime"])
def test_a_cache_that_can_be_read_and_no_longer_written_is_the_same_line(task, fails, tmp_path, monkeypatch):
    data = class_folders(tmp_path / "d") if task == "classify" else written(tmp_path / "d")
    dataset = Dataset.load(data, task=task)
    place = Path if fails == "mkdir" else os
    monkeypatch.setattr(place, fails, lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EROFS, "Read-only")))
    with pytest.raises(TargetError, match=r"datasets: cannot be written: Read-only; name another folder for caches"):
        dataset.for_ultralytics("train", "val")


def test_a_note_that_cannot_be_removed_is_the_same_line(tmp_path, monkeypatch):
    dataset = Dataset.load(written(tmp_path / "d"))
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EROFS, "Read-only")))
    with pytest.raises(TargetError, match="name another folder for caches"):
        dataset.require_all_taken("val", 1)


def test_a_copy_of_a_dataset_with_a_relative_list_is_judged_on_its_own_labels(tmp_path, monkeypatch):
    written(tmp_path / "v1/d", "train: images/train\nval: val.txt\nnames: [cat, dog]\n")
    (tmp_path / "v1/d/val.txt").write_text("d/images/val/0.jpg\nd/images/val/1.jpg\n")
    shutil.copytree(tmp_path / "v1", tmp_path / "v2")  # with the times of change, as cp -a
    for version in ("v1", "v2"):
        monkeypatch.chdir(tmp_path / version)
        folder = Dataset.load("d/data.yaml")._link("val").folder
        for link in (*(folder / "images").iterdir(), *(folder / "labels").iterdir()):
            assert link.resolve().is_relative_to(tmp_path / version)


def test_folders_that_nothing_uses_are_swept(tmp_path, cache):
    names = ("0" * 24, f"data-{'1' * 24}", f"hashes-{'2' * 24}", f".partial-{'3' * 24}-{'4' * 8}")
    old, others = ([cache / "datasets" / name for name in some] for some in (names, ("coco", "data-of-mine")))
    for folder in (*old, *others):  # the cache may be any folder, in which somebody keeps data sets
        folder.mkdir(parents=True)
        os.utime(folder, (0, 0))
    Dataset.load(written(tmp_path / "d"))
    assert not any(folder.exists() for folder in old) and all(folder.exists() for folder in others)


def test_another_process_that_links_at_the_same_time_is_no_error(tmp_path, cache, monkeypatch):
    gone, entries, renamed = cache / "datasets" / f".partial-{'0' * 24}-{'1' * 8}", Path.iterdir, Path.replace

    def with_one_that_goes(folder):
        return iter([*entries(folder), *([gone] if folder == gone.parent else [])])

    def published_by_the_other_first(partial, folder):
        if partial.parent == gone.parent:
            shutil.copytree(partial, folder, symlinks=True)
        return renamed(partial, folder)  # onto a folder that is not empty

    monkeypatch.setattr(Path, "iterdir", with_one_that_goes)
    monkeypatch.setattr(Path, "replace", published_by_the_other_first)
    dataset = Dataset.load(written(tmp_path / "d"))
    assert len(dataset.images("val")) == 3
    assert not list(gone.parent.glob(".partial-*"))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_are_those_of_ultralytics_own_loader(channels, tmp_path):
    from edgeprune.export.images import batch_from_images

    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    data = rewritten(written(tmp_path / "d"), channels=channels)
    for split in ("train", "val"):
        for index in range(3):
            pixels = np.random.default_rng(index).integers(0, 255, (32, 32, channels), dtype=np.uint8)
            image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels, mode)
            image.save(tmp_path / f"d/images/{split}/{index}.png")
            (tmp_path / f"d/images/{split}/{index}.jpg").unlink()
    dataset = Dataset.load(data)
    ours = batch_from_images(dataset.images("train"), imgsz=(32, 32), channels=channels)
    loader = loader_of(dataset.for_ultralytics("train"))
    theirs = np.stack([loader[index]["img"].numpy() for index in range(3)]) / np.float32(255)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    with pytest.raises(DataError, match="channels"):
        dataset.check_matches({0: "cat", 1: "dog"}, channels=channels + 1)


FAULTS = [errno.EIO, errno.EMFILE, errno.EACCES, errno.ESTALE]


@pytest.mark.parametrize("number", FAULTS, ids=os.strerror)
@pytest.mark.parametrize("task", ["detect", "classify"])
def test_a_fault_of_the_system_leaves_no_image_out(number, task, tmp_path, monkeypatch):
    """Ultralytics takes every fault for damage; what was left out for one would be left out when it is long over."""
    data = class_folders(tmp_path / "d") if task == "classify" else written(tmp_path / "d")
    whole = Image.open

    def failing(file, *more, **named):
        if str(file).endswith(("0000001.jpg", "0000001.png")):
            raise OSError(number, os.strerror(number), str(file))
        return whole(file, *more, **named)

    with monkeypatch.context() as then:
        then.setattr(Image, "open", failing)
        with pytest.raises(DataError, match=rf"(1.jpg|0.png) cannot be read: {os.strerror(number)}; once it can be"):
            Dataset.load(data, task=task)
    dataset = Dataset.load(data, task=task)
    assert len(dataset.images("train")) == len(dataset.splits["train"])


def test_an_image_that_the_system_does_not_read_is_not_damaged(tmp_path, monkeypatch):
    data = written(tmp_path / "d")
    damaged = tmp_path / "d/images/train/1.jpg"
    damaged.write_bytes(b"no image")
    opened = Path.open

    def failing(path, *more, **named):
        if path == damaged:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return opened(path, *more, **named)

    with monkeypatch.context() as then:
        then.setattr(Path, "open", failing)
        with pytest.raises(DataError, match=r"1\.jpg cannot be read: Input/output error"):
            Dataset.load(data)
    assert len(Dataset.load(data).images("train")) == 2


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_folder_that_cannot_be_looked_into_is_not_an_empty_one(kind, tmp_path, monkeypatch):
    data = written(tmp_path / "d")
    hidden, looked_at = tmp_path / "d" / kind / "val" / f"1.{'jpg' if kind == 'images' else 'txt'}", Path.stat

    def failing(path, *more, **named):
        if path == hidden:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return looked_at(path, *more, **named)

    monkeypatch.setattr(Path, "stat", failing)
    with pytest.raises(DataError, match=r"1\.(jpg|txt) cannot be read: Input/output error"):
        Dataset.load(data)


def test_a_cache_that_is_named_from_the_current_folder_is_trained_from(tmp_path, monkeypatch):
    data = written(tmp_path / "d")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEPRUNE_CACHE", "here")
    path = Dataset.load(data).for_ultralytics("train", "val")
    assert path.is_absolute()
    assert len(loader_of(path)) == 3
