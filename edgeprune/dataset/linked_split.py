"""A split of a dataset as a folder of links in the user's cache: what Ultralytics is given instead of the dataset.

Every image is opened once, by Ultralytics' own check and then by its loader; what its check rejects gets no link, with
the reason kept. What Ultralytics writes beside images and labels (label caches, which are pickles; decoded pixels;
repaired JPEGs) and what it would read there, lies in this folder, which only this program writes: nothing that came
with a dataset is executed, and nothing of a dataset is changed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path

from edgeprune.artifact import not_written
from edgeprune.dataset.images import read_image
from edgeprune.dataset.labels import read_label_file
from edgeprune.errors import DataError, EdgepruneError, UnreadableError, first_line
from edgeprune.quiet import quiet
from edgeprune.reading import is_file, shown
from edgeprune.serial import read_json, write_json
from edgeprune.version import installed, pip
from edgeprune.workspace import KEPT_S, user_cache

FOLDER = "datasets"
OWN_NAME = re.compile(r"(data-|hashes-)?[0-9a-f]{24}|\.partial-[0-9a-f]{24}-[0-9a-f]{8}")  # of a folder in it
CHECKED = "checked.json"
FORMAT = "5"
READERS = ("ultralytics", "pillow", "pi-heif")  # which images are left out depends on their versions
NO_SUCH_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
SYSTEM_ERROR = re.compile(r"\[Errno (\d+)\]")  # as Python begins what an error of the system says
MANY = 5000  # images from which on it is said that they are opened

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelRules:
    """What a label file is checked against.

    Attributes:
        classes: number of classes.
        task: ``detect``, ``pose`` or ``classify``, which has no labels.
        kpt_shape: keypoints and numbers a keypoint; (0, 0) where the dataset has none.
        channels: that the images are read with.
        one_class: whether every object is of class 0, whatever its label says; labels are then copies, not links.
    """

    classes: int
    task: str
    kpt_shape: tuple[int, int] = (0, 0)
    channels: int = 3
    one_class: bool = False


@dataclass(frozen=True)
class Source:
    """One image of a split.

    Attributes:
        image: its file, as the dataset names it.
        label: its label file, which need not be there; None for a classifier.
        group: the folder of links that it goes to: the class for a classifier.
    """

    image: Path
    label: Path | None
    group: str = "images"


@dataclass(frozen=True)
class Skipped:
    """An image that Ultralytics leaves out, and why; ``index`` is its place in the split."""

    index: int
    reason: str


@dataclass(frozen=True)
class Checked:
    """What the check of a split came to.

    Attributes:
        skipped: images without a link.
        labelled: images with at least one object.
        objects: in all images.
        outlined: those of them that are a polygon or corners, not a box.
    """

    skipped: tuple[Skipped, ...]
    labelled: int
    objects: int
    outlined: int


@dataclass(frozen=True)
class LinkedSplit:
    """A checked split.

    Attributes:
        folder: of the links: ``images`` and ``labels``, or one folder a class.
        checked: what its images came to.
        new: whether it was checked just now.
    """

    folder: Path
    checked: Checked
    new: bool


def link_split(
    sources: Sequence[Source],
    groups: Sequence[str],
    rules: LabelRules,
    refuse: Callable[[Path], None],
) -> LinkedSplit:
    """Check a split and link what Ultralytics takes of it, or find what an earlier call left.

    Args:
        sources: its images in order; the links sort as they do.
        groups: folders of links to make, also where no image goes there.
        rules: what labels are checked against.
        refuse: called with an image whose label Ultralytics rejects: raises ``DataError`` for one that may not be
            left out in silence.

    Raises:
        DataError: by ``refuse``, or an image that Ultralytics' check lets pass and its loader cannot read.
        TargetError: the cache cannot be written.
    """
    root = user_cache(FOLDER)
    folder = root / _key(sources, groups, rules)
    checked = _read(folder)
    if checked is not None:
        return LinkedSplit(folder, checked, new=False)
    if len(sources) > MANY:
        _logger.warning("opening %d images, once", len(sources))
    partial = root / f".partial-{folder.name}-{uuid.uuid4().hex[:8]}"  # containers that share a cache share numbers
    try:
        with writing_cache(root):
            root.mkdir(parents=True, exist_ok=True)
            _sweep(root)
            checked = _check(sources, _link(sources, groups, rules, partial), rules, refuse)
            write_json(partial / CHECKED, checked)
            _publish(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return LinkedSplit(folder, checked, new=True)


@contextlib.contextmanager
def writing_cache(root: Path) -> Iterator[None]:
    """Around what writes the cache ``root``: raises ``TargetError`` where the system does not let it,
    ``StageError`` where the disk is full or fails."""
    try:
        yield
    except OSError as error:
        raise not_written(root, error, "name another folder for caches in $EDGEPRUNE_CACHE") from error


def _publish(partial: Path, folder: Path) -> None:
    """Give a finished folder its name, unless another process was first."""
    if _read(folder) is not None:
        return
    shutil.rmtree(folder, ignore_errors=True)
    try:
        partial.replace(folder)
    except OSError:  # another process published in this very moment
        if _read(folder) is None:
            raise


def _read(folder: Path) -> Checked | None:
    """What an earlier check came to; a folder in use is not swept."""
    with contextlib.suppress(OSError):  # of a cache that cannot be written
        os.utime(folder)
    try:
        return read_json(Checked, folder / CHECKED)
    except (DataError, OSError):
        return None


def _key(sources: Sequence[Source], groups: Sequence[str], rules: LabelRules) -> str:
    readers = [installed(package) for package in READERS]
    digest = hashlib.sha256(repr((FORMAT, rules, tuple(groups), readers)).encode(errors="surrogateescape"))
    for source in sources:
        for path in (source.image, source.label):
            lies_at = None if path is None else path.absolute()  # what a list names starts from the working directory
            digest.update(os.fsencode(f"\0{source.group}\0{lies_at}\0") + stamp_of(path))
    return digest.hexdigest()[:24]


def stamp_of(path: Path | None) -> bytes:
    """Size and time of change, by which a file is known again; empty for what is no regular file.

    Raises:
        DataError: whether it is one cannot be told, here or now.
    """
    if path is None:
        return b""
    try:
        status = path.stat()
    except ValueError:  # NUL in the name
        return b""
    except OSError as error:
        if error.errno in NO_SUCH_FILE:
            return b""
        raise unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        return b""
    return f"{status.st_size} {status.st_mtime_ns}".encode()


def unreadable(path: Path | None, error: OSError) -> UnreadableError:
    """The refusal of a file that the system does not read: a share that is away, too many open files, no permission.
    Nothing is kept of it, and it is not left out: that may pass, and figures of fewer images would stay."""
    return UnreadableError(
        f"{shown(path or '')} cannot be read: {error.strerror}; once it can be, give the same command again, or take "
        "it out of the dataset"
    )


def _link(sources: Sequence[Source], groups: Sequence[str], rules: LabelRules, folder: Path) -> list[Path | None]:
    """Make the links; None for an image that is no regular file."""
    shutil.rmtree(folder, ignore_errors=True)
    labelled = any(source.label is not None for source in sources)
    for group in (*groups, *(("labels",) if labelled else ())):
        (folder / group).mkdir(parents=True, exist_ok=True)
    links: list[Path | None] = []
    for index, source in enumerate(sources):
        if not is_file(source.image):
            links.append(None)
            continue
        link = folder / source.group / f"{index:07d}{source.image.suffix}"
        link.symlink_to(source.image.absolute())
        links.append(link)
        if source.label is not None and is_file(source.label):
            label = folder / "labels" / f"{index:07d}.txt"
            if rules.one_class:
                label.write_text(_as_one_class(source.label), encoding="utf-8")
            else:
                label.symlink_to(source.label.absolute())
    return links


def _as_one_class(label: Path) -> str:
    """A label file with every object of class 0; what is no class index stays, for Ultralytics to refuse."""
    text = ""
    for row in read_label_file(label):
        index = row.values[0] if row.class_index is None else "0"
        text += " ".join((index, *row.values[1:])) + "\n"
    return text


def _check(
    sources: Sequence[Source], links: Sequence[Path | None], rules: LabelRules, refuse: Callable[[Path], None]
) -> Checked:
    """Open every image, in threads; takes away the links of those that Ultralytics leaves out."""
    from ultralytics.utils import NUM_THREADS

    def one(index: int) -> tuple[str, int, int] | EdgepruneError:
        link = links[index]
        if link is None:
            return "it is no regular file", 0, 0
        try:
            reason, objects, outlined = _verified(link, rules)
            if reason:
                _refuse_unreadable(sources[index], reason)
                refuse(sources[index].image)
                link.unlink()
                return reason.replace(str(link), str(sources[index].image)), 0, 0
            read_image(link, rules.channels, task=rules.task)
        except DataError as error:
            return type(error)(str(error).replace(str(link), str(sources[index].image)))
        return "", objects, outlined

    with ThreadPool(NUM_THREADS) as pool, quiet(logging.ERROR):  # what is wrong with an image is in its reason
        results = pool.map(one, range(len(sources)), chunksize=16)
    for result in results:
        if isinstance(result, EdgepruneError):
            raise result
    said = [result for result in results if not isinstance(result, EdgepruneError)]
    skipped = tuple(Skipped(index, reason) for index, (reason, *_) in enumerate(said) if reason)
    counts = [objects for _, objects, _ in said]
    return Checked(skipped, sum(count > 0 for count in counts), sum(counts), sum(outlined for *_, outlined in said))


def _refuse_unreadable(source: Source, reason: str) -> None:
    """Raise ``DataError`` where an image was rejected because the system did not read it, or its label, then or still;
    Ultralytics takes that for damage."""
    said = SYSTEM_ERROR.match(reason)
    if said is not None and (number := int(said[1])) != errno.EINVAL:  # damage asks for places before the first byte
        raise unreadable(source.image, OSError(number, os.strerror(number)))
    for path in (source.image, source.label):
        if path is not None and is_file(path):
            try:
                with path.open("rb") as file:
                    while file.read(1 << 20):
                        pass
            except OSError as error:
                raise unreadable(path, error) from error


def _verified(link: Path, rules: LabelRules) -> tuple[str, int, int]:
    """Why Ultralytics leaves an image out, empty where it takes it; the number of its objects, and of outlined ones."""
    from ultralytics.data.utils import verify_image, verify_image_label

    if rules.task == "classify":
        _, _, corrupt, message = verify_image(((str(link), 0), ""))
        objects, outlined = 1, 0
    else:
        keypoints, numbers = rules.kpt_shape
        label = link.parent.parent / "labels" / f"{link.stem}.txt"
        arguments = (str(link), str(label), "", rules.task == "pose", rules.classes, keypoints, numbers, False)
        result = verify_image_label(arguments)
        corrupt, message = result[8], result[9]
        objects, outlined = (0, 0) if corrupt else (len(result[1]), len(result[3]))
    if not corrupt:
        return "", objects, outlined
    reason = first_line(ValueError(message.partition("ignoring corrupt image/label: ")[2]))
    if "pi_heif" in reason or "pi-heif" in reason:  # where Pillow knows no format, Ultralytics thinks of HEIC
        reason = f"it is no image that Pillow can read (HEIC needs: {pip('install', 'pi-heif')})"
    return reason, 0, 0


def _sweep(root: Path) -> None:
    """Remove what nothing has used for a month, and what a killed process left; nothing but what edgeprune named: the
    cache may be any folder, in which somebody keeps data sets."""
    for folder in filter(lambda one: OWN_NAME.fullmatch(one.name), root.iterdir()):
        with contextlib.suppress(FileNotFoundError):  # what another process has just published, or swept
            age = time.time() - folder.lstat().st_mtime
            if age > (KEPT_S / 30 if folder.name.startswith(".partial-") else KEPT_S):
                shutil.rmtree(folder, ignore_errors=True)
