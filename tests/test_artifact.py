"""Files that are written whole or not at all, and what a full disk says of them."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeprune import checkpoint
from edgeprune.artifact import not_written, write_atomically, write_files
from edgeprune.errors import StageError, TargetError

WRITES: dict[str, Callable[[Path], Any]] = {
    "bytes": lambda file: write_atomically(file, b"text"),
    "files": lambda file: write_files(file.parent, {file.name: b"text"}),
    "a copy": lambda file: write_files(file.parent, {file.name: Path(__file__)}),
    "a checkpoint": lambda file: checkpoint.save(torch.nn.Linear(1, 1), file),
}


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StageError),
        (errno.EDQUOT, StageError),
        (errno.EIO, StageError),
        (errno.EROFS, TargetError),
        (errno.EACCES, TargetError),
    ],
)
def test_a_place_is_the_users_to_change_and_a_disk_is_not(number: int, kind: type[Exception]) -> None:
    error = not_written("out.json", OSError(number, os.strerror(number)), "give another path")
    assert type(error) is kind and str(error).startswith(f"out.json: cannot be written: {os.strerror(number)}; ")
    assert str(error).endswith("; give another path") == (kind is TargetError)


@pytest.mark.parametrize("write", WRITES.values(), ids=list(WRITES))
def test_a_full_disk_names_the_file_that_it_had_no_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], Any]
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)  # write(2) and fsync(2) know no name
    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OSError, match="No space left") as error:
        write(tmp_path / "file")
    assert error.value.filename == str(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="/dev/full is not the device that it is on Linux")
def test_a_checkpoint_tells_a_full_disk_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch, which writes to a file itself, says that its archive is at another place than it thought."""
    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda path, mode="r": opened(Path("/dev/full") if "w" in mode else path, mode))
    with pytest.raises(OSError, match="No space left") as error:
        checkpoint.save(torch.nn.Linear(999, 999), tmp_path / "model.pt")
    assert error.value.filename == str(tmp_path / "model.pt")


KILLED = """
import os, signal, sys
from pathlib import Path
from edgeprune.artifact import write_atomically
os.fsync = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
write_atomically(Path(sys.argv[1]), "text")
"""


@pytest.mark.parametrize("place", [".", "finetune-0123456789ab", "run/weights", "out"])
def test_what_a_killed_process_had_not_finished_is_removed_by_the_next(tmp_path: Path, place: str) -> None:
    from edgeprune.training.run import alone_in

    out = tmp_path / "out"
    root = out if place == "out" else out / ".training"
    folder = root if place == "out" else root / place
    folder.mkdir(parents=True)
    mine = folder / ".notes.tmp"
    mine.write_text("of somebody else")
    subprocess.run([sys.executable, "-c", KILLED, str(folder / "last.pt")], check=False)
    assert len(list(folder.iterdir())) == 2
    with alone_in(out / ".training", out):
        left = {file for file in folder.iterdir() if file.is_file()}
        assert left - {folder / ".lock"} == {mine}


def test_a_page_with_a_name_that_is_no_utf8_shows_it(tmp_path: Path) -> None:
    write_atomically(tmp_path / "report.html", "caf\udce9.jpg")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "caf\\udce9.jpg"
