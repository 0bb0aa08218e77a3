"""Datasets, read and checked in one place: splits, class names, images, labels and a digest of the content.

:meth:`Dataset.load` takes a YAML in Ultralytics' format, a folder of class folders (classification), or a name that
Ultralytics knows (``coco8.yaml``). It refuses, in one line and before anything is written, what is missing, empty,
unlabelled, or contradicts itself or the model. Every image of the splits in use is opened once; images that Ultralytics
leaves out are named and left out here too. Ultralytics itself is given :meth:`Dataset.for_ultralytics`, never the
dataset.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import random
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from edgeprune.artifact import write_atomically
from edgeprune.dataset.class_names import same_class, words_of
from edgeprune.dataset.download import by_ultralytics, fetch, is_archive, refuse_packed, unpack
from edgeprune.dataset.entries import (
    MAX_CLASSES,
    checked_names,
    class_count,
    keypoint_shape,
    looking_for_files,
    paths_of_split,
    root_of,
)
from edgeprune.dataset.image_hashes import image_hashes
from edgeprune.dataset.images import list_images
from edgeprune.dataset.labels import label_file, read_labels
from edgeprune.dataset.linked_split import LabelRules, LinkedSplit, Source, link_split, stamp_of, writing_cache
from edgeprune.errors import DataError, UnreadableError
from edgeprune.limited_yaml import read_yaml, yaml_text
from edgeprune.progress import said_in_this_run
from edgeprune.reading import is_file, read_bytes, shown

SPLITS = ("train", "val", "test")
ONE_CLASS = {0: "item"}  # what Ultralytics calls the class of a model that is trained with single_cls
KEYPOINT_ENTRIES = ("flip_idx", "kpt_names", "kpt_oks_sigmas")  # entries of a YAML that Ultralytics reads for poses
MAX_CHANNELS = 512  # far beyond what anybody trains
OUTLINES = {"segment": "a polygon (CLASS X Y X Y X Y ...)", "obb": "four corners (CLASS X Y X Y X Y X Y)"}
CHANGED = (
    "{}: the data set changed while this command used it, so that figures from before and after would be of two data "
    "sets; once it is as it should be, give the same command again: what was finished before stays"
)
NAMED = 3  # images that are left out, named one by one

_logger = logging.getLogger(__package__)


@dataclass(frozen=True)
class Dataset:
    """A dataset whose needed splits exist, are not empty, and carry labels that fit its class names.

    Attributes:
        source: the YAML file, or the folder of a classification dataset.
        root: the folder that relative paths start from.
        task: the task that :meth:`load` was given; without one ``classify`` for a folder, ``pose`` for a YAML with
            ``kpt_shape``, else None, since a YAML does not tell detect, segment and obb apart.
        names: class names by index, 0 to nc - 1.
        splits: image files by split, sorted, as they are named: :meth:`images` has those that can be used; a split
            whose folder is missing is absent.
        looked_at: where each split was looked for, for error messages; of an absent one what of that is missing.
        kpt_shape: keypoints and numbers a keypoint, for pose.
        channels: of the images, as the YAML says.
        keypoints: further entries about keypoints, for Ultralytics.
        one_class: whether every object counts as of the one class, whatever its label says; see :meth:`of_one_class`.
    """

    source: Path
    root: Path
    task: str | None
    names: Mapping[int, str]
    splits: Mapping[str, tuple[Path, ...]]
    looked_at: Mapping[str, str] = field(default_factory=dict)
    kpt_shape: tuple[int, int] | None = None
    channels: int = 3
    keypoints: Mapping[str, Any] = field(default_factory=dict)
    one_class: bool = False
    _needed: tuple[str, ...] = field(default=(), repr=False, compare=False)
    _judging: str = field(default="", repr=False, compare=False)  # what auto was found to be; empty: it was not asked
    _linked: dict[str, LinkedSplit] = field(default_factory=dict, repr=False, compare=False)
    _said: set[object] = field(default_factory=said_in_this_run, repr=False, compare=False)

    @property
    def nc(self) -> int:
        """Number of classes."""
        return len(self.names)

    @classmethod
    def load(
        cls,
        data: Path | str,
        *,
        task: str | None = None,
        need: Sequence[str] = ("train", "val"),
        trust: bool | None = None,
    ) -> Dataset:
        """Read a dataset and check it.

        Args:
            data: a YAML, a folder of class folders, or a name that Ultralytics can fetch.
            task: the model's task, when it is known; ``classify`` asks for a folder.
            need: the splits that must be there, with images and labels; others are checked when they are asked for.
                ``auto`` is the one that judges (:meth:`judging_split`).
            trust: where images are missing, run the script that the YAML has under ``download``; an archive's address
                there needs no trust. None where the caller cannot be told so, which errors then do not advise.

        Raises:
            DataError: one line that names the file, the key or the path, and what to do.
        """
        if "auto" in need:
            first = cls.load(data, task=task, need=[split for split in need if split != "auto"], trust=trust)
            judging = first.judging_split("auto")
            if judging not in first._needed:
                first = cls.load(data, task=task, need=[*first._needed, judging], trust=trust)
            return replace(first, _judging=judging)
        path = Path(data)
        with looking_for_files(data):
            yamls = _yamls_in(path)
            is_folder = path.is_dir()
        if len(yamls) > 1 and task != "classify":
            raise DataError(f"{shown(path)} holds {_some([yaml.name for yaml in yamls])}; give one of them")
        if len(yamls) == 1 and task != "classify":
            path, is_folder = yamls[0], False
        elif not is_folder and not is_file(path):
            path = fetch(data, task)
            is_folder = path.is_dir()
        if is_folder:
            return _checked(_dataset_from_folder(path, task), need)
        refuse_packed(path, task)
        if task == "classify":
            raise DataError(f"{path} is a file; a classification dataset is a folder with train/CLASS/*.jpg in it")
        dataset = _dataset_from_yaml(path, task)
        if any(split in dataset.looked_at and split not in dataset.splits for split in need):
            dataset = _downloaded(dataset, task, trust=trust)
        return _checked(dataset, need)

    def images(self, split: str) -> tuple[Path, ...]:
        """The images of a split that Ultralytics takes, sorted; ``DataError`` when the dataset has no such split."""
        left_out = {skipped.index for skipped in self._link(split).checked.skipped}
        return tuple(image for index, image in enumerate(self.splits[split]) if index not in left_out)

    def for_ultralytics(self, *splits: str) -> Path:
        """What to give Ultralytics as ``data=``: the checked images of these splits, and nothing that it may execute.

        Label caches and whatever else Ultralytics writes beside images go to the same folder, in the user's cache;
        ``TargetError`` where that cannot be written.
        """
        folders = {split: self._link(split).folder for split in splits}
        said = repr((self.task, self.names, self.kpt_shape, self.channels, sorted(self.keypoints.items()), folders))
        name = hashlib.sha256(said.encode(errors="surrogateescape")).hexdigest()[:24]
        place = next(iter(folders.values())).with_name(f"data-{name}")
        with writing_cache(place.parent):
            place.mkdir(exist_ok=True)
            os.utime(place)
            return self._written_for_ultralytics(place, folders)

    def _written_for_ultralytics(self, place: Path, folders: Mapping[str, Path]) -> Path:
        if self.task == "classify":
            for split, folder in {"train": next(iter(folders.values())), **folders}.items():
                with contextlib.suppress(FileExistsError):
                    (place / split).symlink_to(folder)
            return place
        content: dict[str, Any] = {"path": str(place), "train": None, "val": None}
        content |= {split: str(folder / "images") for split, folder in folders.items()}
        content |= {"names": dict(self.names), "channels": self.channels}
        if self.kpt_shape:
            content |= {"kpt_shape": list(self.kpt_shape), **self.keypoints}
        write_atomically(place / "data.yaml", yaml_text(content))
        return place / "data.yaml"

    def sample_images(self, split: str, count: int, seed: int = 0, *, outside: str | None = None) -> list[Path]:
        """``count`` images of a split drawn by chance without replacement, sorted; all of them when there are fewer.
        With ``outside``, only of those that this other split does not hold too."""
        images = self.images(split)
        if outside is not None and self.also_in(split).get(outside):
            files = self._files[outside]
            images = [image for image, file in zip(images, _files_of(images), strict=True) if file not in files]
        return sorted(random.Random(seed).sample(images, min(count, len(images))))

    def with_other_images(self, split: str, source: str, images: Sequence[Path]) -> Dataset:
        """This dataset of the one split ``split``, which holds these images of the split ``source``: for choices that
        are to be made like the judgement and not on the images that it is made on."""
        looked_at = {split: self.looked_at[source]} if source in self.looked_at else {}
        return replace(self, splits={split: tuple(images)}, looked_at=looked_at, _linked={}, _judging=split)

    def judging_split(self, asked: str) -> str:
        """The split that a model is judged on: ``asked``, or for ``auto`` the test split where it has labelled images,
        because training chose no epoch on it, else val. A test split that holds images of val is no other than val,
        and one that :meth:`load` would refuse judges nothing: that is told in a warning.

        Raises:
            UnreadableError: the system did not read the test split, so that this cannot be told.
        """
        return (self._judging or self._unseen_split) if asked == "auto" else asked

    @cached_property
    def _unseen_split(self) -> str:
        images = self.splits.get("test", ())
        if not images or not (self.task == "classify" or any(stamp_of(label_file(image)) for image in images)):
            return "val"
        if shared := self.also_in("test").get("val"):
            self._say_once(f"{shared} of the {len(images)} images of split 'test' are in val too: val judges instead")
            return "val"
        try:
            _require_usable(self, "test")
        except UnreadableError:
            raise
        except DataError as error:
            reason = str(error).removeprefix(f"{self.source}: ")
            self._say_once(f"split 'test' cannot judge: val judges instead ({reason})")
            return "val"
        return "test"

    def class_of(self, split: str, image: Path) -> str:
        """The class that an image of a classification split stands for: the first folder below the split."""
        return image.relative_to(self.looked_at[split]).parts[0]

    def also_in(self, split: str) -> dict[str, int]:
        """The other splits that hold images of this one, and how many; an image is the file that its path leads to."""
        files = self._files.get(split, frozenset())
        shared = {other: len(files & self._files[other]) for other in SPLITS if other in self.splits and other != split}
        return {other: count for other, count in shared.items() if count}

    def say_trained_on(self, split: str) -> None:
        """One warning where images of a split that judges are in the training split too."""
        if count := self.also_in(split).get("train"):
            self._say_once(
                f"{count} of the {len(self.images(split))} images of split '{split}' are in train too: accuracy on "
                "them tells nothing of images that were not trained on"
            )

    def _say_once(self, text: str) -> None:
        if (line := f"{self.source}: {text}") not in self._said:
            self._said.add(line)
            _logger.warning("%s", line)

    @cached_property
    def _files(self) -> dict[str, frozenset[str]]:
        return {split: frozenset(_files_of(images)) for split, images in self.splits.items()}

    def of_one_class(self, names: Mapping[int, str] | None = None) -> Dataset:
        """This dataset as Ultralytics trains on it with ``single_cls``: each object is of the class in ``names``.

        Without names it is Ultralytics' own name for it, and a dataset of one class keeps that class.

        Raises:
            DataError: it is for classification, where there would be nothing to tell apart.
        """
        if names is None and self.nc == 1:
            return self
        if self.task == "classify":
            raise DataError(
                f"{self.source} is for classification, whose classes cannot count as one; remove single_cls"
            )
        return replace(self, names=dict(ONE_CLASS if names is None else names), one_class=True, _linked={})

    def known_to(self, names_of_model: Mapping[int, str], *, single_cls: bool | None = None) -> Dataset:
        """This dataset with the classes that a model knows its objects by: the one class of a model that was trained
        with ``single_cls``, else the dataset's own, whether the model knows them or not.

        Args:
            names_of_model: its class names.
            single_cls: whether its checkpoint says so; its one class may then have another name. None where it cannot
                say (a graph): Ultralytics' name of the one class then tells how it was trained.
        """
        names = dict(names_of_model)
        by_name = names == ONE_CLASS != self.names and single_cls is not False
        renamed = bool(single_cls) and len(names) == 1 < self.nc
        if self.task == "classify" or not (by_name or renamed):
            return self
        if self.nc > 1:
            self._say_once(
                f"objects of its {self.nc} classes count as '{names[0]}', as the model was trained to see them"
            )
        return self.of_one_class(names)

    def seen_by(
        self,
        names_of_model: Mapping[int, str] | Sequence[str],
        *,
        model: str = "the model",
        channels: int | None = None,
        kpt_shape: Sequence[int] = (),
        single_cls: bool | None = None,
    ) -> Dataset:
        """This dataset as :meth:`known_to` a model, which its classes, channels and keypoints fit; arguments as
        :meth:`check_matches`.

        Raises:
            DataError: they do not fit.
        """
        known = dict(names_of_model) if isinstance(names_of_model, Mapping) else dict(enumerate(names_of_model))
        seen = self.known_to(known, single_cls=single_cls)
        seen.check_matches(names_of_model, model=model, channels=channels, kpt_shape=kpt_shape)
        return seen

    def check_matches(
        self,
        names_of_model: Mapping[int, str] | Sequence[str],
        *,
        model: str = "the model",
        channels: int | None = None,
        kpt_shape: Sequence[int] = (),
    ) -> None:
        """Raise ``DataError`` unless a model's classes, channels and keypoints are this dataset's, in number, order and
        name.

        Args:
            names_of_model: its class names.
            model: what errors call it.
            channels: of the images that it takes; None where it is not known.
            kpt_shape: keypoints and numbers a keypoint that it gives; empty where it is not known.
        """
        self.check_keypoints(kpt_shape, model=model)
        if channels is not None:
            self.check_channels(channels, model=model)
        theirs = checked_names(names_of_model, model)
        if len(theirs) != self.nc:
            raise DataError(
                f"{self.source} has {self.nc} classes ({_few(self.names)}) and {model} has {len(theirs)} "
                f"({_few(theirs)}); give the dataset that the model was trained on, or train it for these classes "
                f"first: edgeprune finetune WEIGHTS --data {shlex.quote(str(self.source))}"
            )
        known = words_of(theirs)
        for index, name in words_of(self.names).items():
            if not same_class(known[index], name):
                raise DataError(
                    f"class {index} is '{name}' in {self.source} and '{known[index]}' in {model}; give the dataset "
                    f"that the model was trained on, or the same names in the same order"
                )

    def check_channels(self, channels: int, *, model: str = "the model") -> None:
        """Raise ``DataError`` unless a model takes images of as many channels as this dataset's are read with."""
        if channels == self.channels:
            return
        if self.task == "classify":
            raise DataError(f"Ultralytics reads a classifier's images in 3 channels, and {model} takes {channels}")
        raise DataError(
            f"{self.source} has images of {self.channels} channels and {model} takes {channels}; where the images have "
            f"them, write 'channels: {channels}' in the YAML"
        )

    def check_keypoints(self, kpt_shape: Sequence[int], *, model: str = "the model") -> None:
        """Raise ``DataError`` where a model gives other keypoints than this dataset's labels have; ``kpt_shape`` as in
        :meth:`check_matches`."""
        if not kpt_shape or self.kpt_shape is None or tuple(kpt_shape) == self.kpt_shape:
            return
        from_description = "edgeprune build --target TARGET --weights yolo11n-pose.yaml --data DATA"
        raise DataError(
            f"{self.source} has kpt_shape {list(self.kpt_shape)} and {model} gives {list(kpt_shape)}, which its head "
            "fixes; give a dataset of the model's keypoints, or a model of the dataset's: one from a description "
            f"({from_description}) takes them from the dataset"
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 over class names, what a YAML says of keypoints and, for every split, each image's relative name, its
        bytes and its label's; and over which images Ultralytics leaves out of the splits that were needed.

        It does not depend on where the dataset lies. Which images are left out is known of the splits that were asked
        for when it was loaded; images are read by the first call (:func:`edgeprune.dataset.image_hashes.image_hashes`).
        """
        digest = hashlib.sha256(repr(sorted(self.names.items())).encode(errors="surrogateescape"))
        if self.channels != 3:
            digest.update(f"channels {self.channels}".encode())
        if self.one_class:
            digest.update(b"one class")
        judged_by = {key: value for key, value in self.keypoints.items() if key != "kpt_names"}
        if self.kpt_shape or judged_by:
            digest.update(f"keypoints {self.kpt_shape} {sorted(judged_by.items())}".encode())
        for split in sorted(self.splits):
            digest.update(f"\0{split}\0".encode())
            images = self.splits[split]
            for image, sha256 in zip(images, image_hashes(images), strict=True):
                digest.update(f"{_relative(image, self.root)}\0{sha256}\0".encode(errors="surrogateescape"))
                if self.task != "classify":
                    file = label_file(image)
                    digest.update(read_bytes(file) if is_file(file) else b"\1")
            if split in self._needed and (skipped := self._link(split).checked.skipped):
                digest.update(f"without {[one.index for one in skipped]}".encode())
        return digest.hexdigest()

    def require_all_taken(self, split: str, count: int) -> None:
        """Raise ``DataError`` where Ultralytics took fewer than all of :meth:`images`, ``count`` of them: it left out
        what the system did not read to it, as damaged. What it noted of that is removed, so that it looks again."""
        if count >= len(self.images(split)):
            return
        folder = self._link(split).folder
        with writing_cache(folder.parent):
            for noted in (folder / "labels.cache", *folder.parent.glob(f"data-*/{split}.cache")):
                noted.unlink(missing_ok=True)
        raise DataError(
            f"{self.source}: {len(self.images(split)) - count} of the {len(self.images(split))} images of split "
            f"'{split}' could no longer be read; once they can be, give the same command again"
        )

    def require_unchanged(self) -> None:
        """Raise ``DataError`` where what lies there by now has another :attr:`digest` than this dataset had when it was
        asked for; what rests on it would be held against another ground truth. Nothing rests on one that nobody asked.

        Image files are known again by their stamps, and label files are read.
        """
        if "digest" not in vars(self):
            return
        try:
            in_a_folder = self.source.is_dir()
            now = _dataset_from_folder(self.source, self.task) if in_a_folder else self._from_yaml_again()
            changed = replace(now, _needed=self._needed, _said=self._said).digest != self.digest
        except DataError as error:
            raise DataError(f"{CHANGED.format(self.source)} ({error})") from error
        if changed:
            raise DataError(CHANGED.format(self.source))

    def _from_yaml_again(self) -> Dataset:
        """The dataset that the YAML describes by now, as a model sees it that saw this one; nothing is downloaded."""
        now = _dataset_from_yaml(self.source, self.task)
        return replace(now, names=self.names, one_class=True) if self.one_class else now

    def _link(self, split: str) -> LinkedSplit:
        """The split as it was checked, on the first call; see :mod:`edgeprune.dataset.linked_split`."""
        if split in self._linked:
            return self._linked[split]
        images = self.splits.get(split)
        if images is None:
            if where := self.looked_at.get(split):
                start = "'path' in the YAML is where splits start from: absolute, or left out to start beside the YAML"
                advice = "" if self.task == "classify" else f"; {start}"
                raise DataError(f"{self.source} has no split '{split}': {where} does not exist{advice}")
            raise DataError(
                f"{self.source} has no split '{split}' (there is no key '{split}'); it has "
                f"{', '.join(self.splits) or 'none'}"
            )
        if not images:
            raise DataError(f"{self.source}: split '{split}' is empty (no images under {self.looked_at.get(split)})")
        if self.task == "classify":
            sources, groups = _classified(self, split), tuple(self.names.values())
            rules = LabelRules(self.nc, "classify")
        else:
            sources, groups = [Source(image, label_file(image)) for image in images], ("images",)
            boxes = "pose" if self.task == "pose" else "detect"  # every other task's labels are checked alike
            rules = LabelRules(self.nc, boxes, self.kpt_shape or (0, 0), self.channels, self.one_class)
        linked = link_split(sources, groups, rules, self._refuse_labels)
        _say_skipped(self, split, linked)
        self._linked[split] = linked
        return linked

    def _refuse_labels(self, image: Path) -> None:
        """Refuse a label that contradicts the class names, or is not text; Ultralytics leaves such an image out."""
        for row in read_labels(image) if self.task != "classify" else ():
            first = row.values[0]
            try:
                index = float(first)
            except ValueError:
                raise DataError(
                    f"{row.file}:{row.line}: '{shown(first, 40)}' is no class index; a line is CLASS X Y W H"
                ) from None
            known = MAX_CLASSES if self.one_class else self.nc  # of one class are all that the YAML names
            if not 0 <= index < known or index != int(index):
                raise DataError(
                    f"{row.file}:{row.line}: class {shown(first, 40)} is out of range; {self.source} names 0 to "
                    f"{self.nc - 1}"
                )


def _dataset_from_yaml(path: Path, task: str | None) -> Dataset:
    # keys are unique here alone: Ultralytics takes the last of a key's values in silence
    content: Any = read_yaml(path, as_ultralytics=True)
    if not isinstance(content, dict):
        raise DataError(f"{path} is no dataset: a YAML with the keys train, val and names was expected")
    names, nc = content.get("names"), class_count(content, path)
    if names is None:
        if nc is None:
            raise DataError(f"{path} has neither 'names' nor 'nc'; list the class names under 'names'")
        names = [f"class_{index}" for index in range(nc)]
    names = checked_names(names, str(path))
    if nc is not None and nc != len(names):
        raise DataError(f"{path} says nc: {nc} and names {len(names)} classes; make them agree")
    channels = content.get("channels", 3)
    if type(channels) is not int or not 1 <= channels <= MAX_CHANNELS:
        raise DataError(f"{path}: channels: {shown(str(channels), 40)}; a number from 1 to {MAX_CHANNELS} is allowed")
    kpt_shape = keypoint_shape(content, path, task)
    if "val" not in content and "validation" in content:  # Ultralytics renames it the same way
        content["val"] = content["validation"]

    root = root_of(content.get("path"), path)
    splits: dict[str, tuple[Path, ...]] = {}
    looked_at: dict[str, str] = {}
    for split in SPLITS:
        entries = content.get(split)
        if not entries:
            continue
        with looking_for_files(path):
            folders = paths_of_split(root, entries, f"{path}: {split}")
            missing = [folder for folder in folders if not folder.exists()]
            looked_at[split] = shown(", ".join(map(str, missing or folders)))
            if not missing:
                splits[split] = tuple(sorted((image for folder in folders for image in list_images(folder)), key=str))
    return Dataset(
        source=path.resolve(),
        root=root,
        task=task or ("pose" if kpt_shape else None),
        names=names,
        splits=splits,
        looked_at=looked_at,
        kpt_shape=kpt_shape,
        channels=channels,
        keypoints={key: content[key] for key in KEYPOINT_ENTRIES if content.get(key) is not None},
    )


def _dataset_from_folder(path: Path, task: str | None) -> Dataset:
    if task not in {None, "classify"}:
        raise DataError(f"{path} is a folder; a YAML file was expected for task {task}")
    with looking_for_files(path):
        path = path.resolve()  # first: images are listed below it, and the digest has the class as its folder there
        train = path / "train"
        classes = _class_folders(train)
    if not classes:
        raise DataError(f"{path} has no class folders; put the images of a class under {train}/CLASS")
    with looking_for_files(path):
        val = next((path / name for name in ("val", "validation", "valid") if (path / name).is_dir()), path / "val")
        folders = {"train": train, "val": val, "test": path / "test"}
        splits = {
            split: tuple(image for name in _class_folders(folder) for image in list_images(folder / name))
            for split, folder in folders.items()
            if folder.is_dir()
        }
    return Dataset(
        source=path,
        root=path,
        task="classify",
        names=checked_names(classes, str(train)),
        splits=splits,
        looked_at={split: str(folder) for split, folder in folders.items()},
    )


def _yamls_in(folder: Path) -> list[Path]:
    """The YAML files in a folder; those that macOS leaves beside others (``._data.yaml``) are none."""
    found = sorted(folder.glob("*.yaml")) + sorted(folder.glob("*.yml")) if folder.is_dir() else []
    return [path for path in found if not path.name.startswith(".")]


def _class_folders(folder: Path) -> list[str]:
    """Names of the classes that have a folder here; ``.ipynb_checkpoints`` is none."""
    if not folder.is_dir():
        return []
    return sorted(one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))


def _classified(dataset: Dataset, split: str) -> list[Source]:
    """The images of a split with the class that each one's folder stands for."""
    known, sources = set(dataset.names.values()), []
    folder = Path(dataset.looked_at[split])
    for image in dataset.splits[split]:
        name = dataset.class_of(split, image)
        if name not in known:
            raise DataError(f"{folder / name} is no class of {dataset.source / 'train'}; it has {_few(dataset.names)}")
        sources.append(Source(image, None, name))
    return sources


def _downloaded(dataset: Dataset, task: str | None, *, trust: bool | None) -> Dataset:
    """The dataset after its ``download`` entry, where it has one: images are missing."""
    path = dataset.source
    download = read_yaml(path, unique_keys=False, as_ultralytics=True).get("download")
    if not isinstance(download, str):
        return dataset
    archive = is_archive(download)
    if not archive and not trust:
        remedy = "get the images first" if trust is None else "read it, then give --trust, or get the images first"
        raise DataError(f"{path}: images are missing, and 'download' is a script, which is not run: {remedy}")
    if archive:
        _logger.warning("%s: images are missing; downloading %s", path, shown(download))
        unpack(download, path)
    else:
        _logger.warning("%s: images are missing; running its 'download'", path)
        by_ultralytics(str(path), task)
    return _dataset_from_yaml(path, task)


def _checked(dataset: Dataset, need: Sequence[str]) -> Dataset:
    for split in need:
        _require_usable(dataset, split)
    return replace(dataset, _needed=tuple(need))


def _require_usable(dataset: Dataset, split: str) -> None:
    """Raise ``DataError`` where a split is missing, or has no images or no labels that training or judging can use."""
    images = dataset.images(split)
    linked = dataset._link(split)
    if not images:
        first = linked.checked.skipped[0].reason
        raise DataError(
            f"{dataset.source}: none of the {len(dataset.splits[split])} images of split '{split}' can be used; "
            f"{shown(dataset.splits[split][0])}: {first}"
        )
    if not linked.checked.labelled:
        raise DataError(
            f"{dataset.source}: none of the {len(images)} images of split '{split}' has a label; "
            f"looked at {label_file(images[0]).parent}"
        )
    boxes = linked.checked.objects - linked.checked.outlined
    if dataset.task in OUTLINES and boxes:
        raise DataError(
            f"{dataset.source}: {boxes} of the {linked.checked.objects} objects of split '{split}' are boxes, and "
            f"a model of task {dataset.task} needs {OUTLINES[dataset.task]} for every object; give such labels, "
            "or a model of task detect"
        )


def _say_skipped(dataset: Dataset, split: str, linked: LinkedSplit) -> None:
    """One warning about the images of a split that are left out."""
    skipped, images = linked.checked.skipped, dataset.splits[split]
    if not skipped or linked.folder in dataset._said:
        return
    dataset._said.add(linked.folder)
    first = "; ".join(f"{shown(images[one.index])}: {shown(one.reason)}" for one in skipped[:NAMED])
    more = f"; and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
    _logger.warning(
        "%s: %d of the %d images of split '%s' are left out, as Ultralytics does: %s%s",
        *(dataset.source, len(skipped), len(images), split, first, more),
    )


def _some(names: Sequence[str]) -> str:
    """A few names of files as a sentence has them."""
    named = [shown(name) for name in names[:NAMED]]
    last = f"{len(names) - NAMED} more" if len(names) > NAMED else named.pop()
    return f"{', '.join(named)} and {last}"


def _few(names: Mapping[int, str], count: int = 3) -> str:
    shown = [names[index] for index in sorted(names)[:count]]
    return ", ".join(shown) + (", …" if len(names) > count else "")


def _files_of(images: Iterable[Path]) -> Iterator[str]:
    """The files that paths of images lead to; a folder is resolved once, for a split may have a hundred thousand."""
    folders: dict[str, str] = {}
    for image in images:
        folder, name = os.path.split(image)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        path = os.path.join(folders[folder], name)  # noqa: PTH118
        yield os.path.realpath(path) if os.path.islink(path) else path  # noqa: PTH114


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
