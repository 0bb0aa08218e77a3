"""Files of the work directory: taken from where an earlier attempt stopped, and kept by their content's digest."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import sys

from edgeprune.agent.system import work_folder

STORE_BYTES = 256 << 20  # of content that may be asked for again: a timing cache, the unpruned graph


def sha256_of(path: str) -> str:
    """Hexadecimal digest of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def offer(target: str, sha256: str, size: int) -> dict:
    """Put a file in its place if its content is here already; else say how many bytes of it are.

    Raises:
        OSError: there is no room for it.
    """
    os.makedirs(os.path.dirname(target), exist_ok=True)
    stored = _store_path(sha256)
    if os.path.isfile(stored):
        with contextlib.suppress(OSError):
            os.utime(stored)  # the newest stay
        _copy_whole(stored, target)
        return {"have": True}
    partial = stored + ".part"
    offset = os.path.getsize(partial) if os.path.isfile(partial) else 0
    if offset > size:
        os.unlink(partial)
        offset = 0
    if not _has_room(size, offset):
        _trim_store(0, but=partial)
    if not _has_room(size, offset):
        raise OSError(errno.ENOSPC, "No space left on device")
    return {"have": False, "offset": offset}


def put(target: str, sha256: str, size: int, offset: int) -> dict:
    """Take the rest of a file from stdin; ``short`` is how much is here when it does not end whole."""
    stored = _store_path(sha256)
    partial = stored + ".part"
    with open(partial, "r+b" if offset else "wb") as file:
        file.seek(offset)
        file.truncate()
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 16)
        file.flush()
        os.fsync(file.fileno())
    if os.path.getsize(partial) < size:
        return {"short": os.path.getsize(partial)}
    if sha256_of(partial) != sha256:
        os.unlink(partial)
        return {"short": 0}
    os.replace(partial, stored)
    _copy_whole(stored, target)
    _trim_store(STORE_BYTES, but=stored)  # asked for again where the answer is lost
    return {"have": True}


def stat(path: str) -> dict:
    """Size and digest of a file."""
    return {"size": os.path.getsize(path), "sha256": sha256_of(path)}


def get(path: str, offset: int) -> None:
    """Write a file to stdout, from ``offset`` on."""
    with open(path, "rb") as file:
        file.seek(offset)
        shutil.copyfileobj(file, sys.stdout.buffer)
    sys.stdout.buffer.flush()


def make_folder(path: str) -> dict:
    """Make a folder that only this user may enter; asked again after a lost connection, it is there already."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    return {}


def remove_folder(path: str) -> dict:
    """Remove a folder inside the work directory."""
    if os.path.abspath(path).startswith(work_folder() + os.sep):
        shutil.rmtree(path, ignore_errors=True)
    return {}


def _store_path(sha256: str) -> str:
    folder = os.path.join(work_folder(), "store")
    os.makedirs(folder, exist_ok=True)
    return os.path.join(folder, sha256)


def _has_room(size: int, offset: int) -> bool:
    """Whether the disk takes the rest of a file, twice: the store's copy and the one in place."""
    return 2 * size - offset <= shutil.disk_usage(work_folder()).free


def _trim_store(most_bytes: int, but: str = "") -> None:
    """Keep of the store what was used last, up to so many bytes: a search sends graph after graph, and each only
    once."""
    files = []
    with os.scandir(os.path.join(work_folder(), "store")) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                files.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
    kept = 0
    for _, size, path in sorted(files, reverse=True):
        kept += size
        if kept > most_bytes and path != but:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _copy_whole(stored: str, target: str) -> None:
    partial = f"{target}.{os.getpid()}.part"  # a new connection may copy the same file before the old one has ended
    shutil.copyfile(stored, partial)
    os.replace(partial, target)
