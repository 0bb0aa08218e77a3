"""Temporary files of edgeprune and of the libraries that it calls: in one place, and swept where a process was killed.

A process that is killed leaves its temporary folders behind, and nobody can tell whose they are. So all of them lie in
one folder a process below the cache, whose lock the process holds while it lives: the next start removes every folder
whose lock is free.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from edgeprune.quiet import one_thread
from edgeprune.workspace import user_cache

LONGEST_PATH = 72  # bytes: multiprocessing and ssh put sockets below, whose paths have at most 104
LOCK = ".lock"
"""File in a folder of one process, which holds its lock for as long as it needs the folder."""
OWN_NAME = re.compile(r"\d+-[0-9a-f]{4}")
"""Of such a folder. The cache may be any folder that somebody named, with folders of theirs in its ``tmp``."""

_in_use: list[Path] = []


@contextlib.contextmanager
def scratch() -> Iterator[None]:
    """Have temporary files, those of libraries and of child processes too, below the cache while the block lasts.

    Where the cache cannot be written, or another user made the folder that takes its place, they go where the system
    has them. Inside of another such block nothing changes.

    Raises:
        StageError: another thread of this process is in such a block (:func:`~edgeprune.quiet.one_thread`).
    """
    with one_thread(), contextlib.ExitStack() as stack:
        if _in_use:
            yield
            return
        folder = _own_folder(stack)
        if folder is not None:
            stack.enter_context(_temporary_files_in(folder))
        yield


def _own_folder(stack: contextlib.ExitStack) -> Path | None:
    """A new folder that goes away with ``stack``; None where there is no place for one."""
    name, own = f"{os.getpid()}-{uuid.uuid4().hex[:4]}", f"edgeprune-{os.getuid()}"
    shared = [root / own / name for root in (Path(tempfile.gettempdir()), Path("/tmp"))]  # where others may write too
    folders = [user_cache("tmp") / name, *shared]
    folder = next((one for one in folders if len(os.fsencode(one)) <= LONGEST_PATH), folders[-1])
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder in shared and not _is_ours_alone(folder.parent):
            return None
        with locked(folder.parent / LOCK, wait=True):  # between a folder and its lock nobody sweeps
            sweep(one for one in folder.parent.iterdir() if OWN_NAME.fullmatch(one.name))
            folder.mkdir(mode=0o700)
            lock = _lock(folder / LOCK, wait=False)
        stack.callback(lock.close)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
    except OSError:  # a read-only home, a file system without locks
        return None
    return folder


def _is_ours_alone(folder: Path) -> bool:
    """Whether it is a folder, no link, that this user made and nobody else may enter: below a folder that everybody
    may write to, another user may have made it first, to have locks follow a link or to read what lies in it."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def sweep(folders: Iterable[Path]) -> None:
    """Remove the folders whose lock no process holds any more. What has no lock was not made by edgeprune, or on a file
    system without locks: nobody knows whose it is."""
    for folder in folders:
        if folder.is_dir() and not folder.is_symlink() and (folder / LOCK).is_file():
            with contextlib.suppress(OSError), locked(folder / LOCK, wait=False):
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """``tempfile`` of this process and ``$TMPDIR`` of its children name the folder."""
    before, variable = tempfile.tempdir, os.environ.get("TMPDIR")
    tempfile.tempdir, os.environ["TMPDIR"] = str(folder), str(folder)
    _in_use.append(folder)
    try:
        yield
    finally:
        _in_use.remove(folder)
        tempfile.tempdir = before
        if variable is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = variable


def _lock(path: Path, *, wait: bool) -> IO[str]:
    """An open file whose lock this process holds until it is closed; ``OSError`` where another one has it."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
    file = os.fdopen(handle, "a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        file.close()
        raise
    return file


@contextlib.contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold a file's lock while the block lasts; ``OSError`` where another process has it and none is to ``wait``."""
    with _lock(path, wait=wait):
        yield
