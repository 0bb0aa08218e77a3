"""SHA-256 of images' bytes, read once: what was read before is known by a file's size and time of change.

It is kept beside the links of splits (:mod:`edgeprune.dataset.linked_split`), in the user's cache, and read anew where
that cannot be written.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path

from edgeprune.artifact import sha256_of
from edgeprune.dataset.linked_split import FOLDER, MANY, stamp_of, unreadable
from edgeprune.errors import DataError
from edgeprune.reading import is_file
from edgeprune.serial import read_json, write_json
from edgeprune.workspace import user_cache

FILE = "sha256.json"
UNREADABLE = ""  # of what is no regular file

_logger = logging.getLogger(__name__)


def image_hashes(images: Sequence[Path]) -> tuple[str, ...]:
    """The SHA-256 of each image; empty for what is no regular file. Where the files lie does not count.

    Raises:
        DataError: the system does not read one.
    """
    folder = user_cache(FOLDER) / f"hashes-{_key(images)}"
    with contextlib.suppress(OSError):
        os.utime(folder)  # a folder in use is not swept
    with contextlib.suppress(DataError):
        known = read_json(tuple[str, ...], folder / FILE)
        if len(known) == len(images):
            return tuple(one or _hash(image) for one, image in zip(known, images, strict=True))
    if len(images) > MANY:
        _logger.warning("reading %d images, once", len(images))
    with ThreadPool() as pool:
        hashes = tuple(pool.map(_hash, images, chunksize=16))
    with contextlib.suppress(OSError):  # of a cache that cannot be written
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE, hashes)
    return hashes


def _hash(image: Path) -> str:
    try:
        return sha256_of(image) if is_file(image) else UNREADABLE
    except OSError as error:
        raise unreadable(image, error) from error


def _key(images: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for image in images:
        digest.update(os.fsencode(f"\0{image.absolute()}\0") + stamp_of(image))
    return digest.hexdigest()[:24]
