"""Streams that take no Unicode, no bytes, or are not there; and a stdout that is the command's own."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from edgeprune.artifact import write_atomically
from edgeprune.cli import app
from edgeprune.cli.streams import BROKEN_PIPE, UNPRINTABLE, Command, failing_machine, refused_write

MAIN = "from edgeprune.cli import main; main()"
# A command whose library prints by every way there is: Python's, the descriptor's, and a child's.
CHATTY = """
import os, subprocess, sys
from edgeprune.cli import app, main, streams
from edgeprune.cli.streams import say

@app.command()
def chatty() -> None:
    print("from Python")
    sys.stdout.flush()
    os.write(1, b"from C\\n")
    subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
    say('{"answer": "×2"}')

streams.register(app)
main()
"""


def edgeprune(*argv: str, script: str = MAIN, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """The program in a process of its own."""
    environment = {**os.environ, **options.pop("env", {})}
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run([sys.executable, "-c", script, *argv], env=environment, timeout=1200, check=False, **given)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_words_that_a_terminal_cannot_show_are_written_as_it_can(encoding: str) -> None:
    shown = edgeprune("targets", "show", "cpu", env={"PYTHONIOENCODING": encoding})
    listed = edgeprune("targets", env={"PYTHONIOENCODING": encoding, "COLUMNS": "80"})
    helped = edgeprune("--help", env={"PYTHONIOENCODING": encoding})
    assert [one.returncode for one in (shown, listed, helped)] == [0, 0, 0], listed.stderr
    assert "x1.5" in listed.stdout.decode("ascii") if encoding == "ascii" else "×1.5" in listed.stdout.decode(encoding)


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="/dev/full is not the device that it is on Linux")
def test_a_full_disk_behind_stdout_is_one_line() -> None:
    with Path("/dev/full").open("wb") as full:
        for argv in (["targets"], ["--help"], ["targets", "schema"]):
            ended = edgeprune(*argv, stdout=full)
            assert ended.returncode == 3
            assert ended.stderr.decode().startswith("edgeprune: the output cannot be written: No space left on device")
            assert ended.stderr.count(b"\n") == 1


def test_a_reader_that_goes_away_is_no_missed_gate() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = edgeprune("targets", stdout=writing)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (BROKEN_PIPE, b"")


@pytest.mark.parametrize(
    ("argv", "code"),
    [("show nope", 2), ("--nope", 2), ("show --nope", 2), ("targets", 0), ("chatty", 0)],
)
@pytest.mark.parametrize("stderr", ["a full disk", "a reader that went away"])
def test_a_command_whose_messages_nobody_can_hear_ends_by_its_own_code(argv: str, code: int, stderr: str) -> None:
    if stderr == "a full disk":
        if not Path("/dev/full").is_char_device():
            pytest.skip("/dev/full is not the device that it is on Linux")
        place = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, place = os.pipe()
        os.close(reading)
    python_alone = [line for line in CHATTY.splitlines() if "os.write" not in line and "run([" not in line]
    ended = edgeprune(*argv.split(), script="\n".join(python_alone), stderr=place)
    os.close(place)
    assert ended.returncode == code
    assert bool(ended.stdout) == (code == 0)


def test_a_full_disk_without_a_name_is_no_bug() -> None:
    raising = "import errno, os\nraise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))"
    script = f"import edgeprune.cli as cli\ncli.app = lambda: exec({raising!r})\ncli.main()"
    ended = edgeprune(script=script)
    assert ended.returncode == 3
    assert (
        ended.stderr
        == b"edgeprune: the disk is full (No space left on device); free some space and give the same command again\n"
    )


@pytest.mark.parametrize(
    ("number", "code", "says"),
    [
        (errno.ENOSPC, 3, "out/best.pt: No space left on device; free some space"),
        (errno.EDQUOT, 3, "out/best.pt: Disk quota exceeded; free some space"),
        (errno.EIO, 3, "out/best.pt: Input/output error; the disk, or the connection to it, fails"),
        (errno.ESTALE, 3, "out/best.pt: Stale file handle; the disk, or the connection to it, fails"),
        (errno.EMFILE, 3, "out/best.pt: Too many open files; raise the limit (ulimit -n 4096)"),
        (errno.EACCES, 2, "out/best.pt: Permission denied; work in a folder that you may write to"),
        (errno.EPERM, 2, "out/best.pt: Operation not permitted; work in a folder that you may write to"),
        (errno.EROFS, 2, "out/best.pt: Read-only file system; work in a folder that you may write to"),
    ],
)
def test_a_write_that_fails_ends_by_whose_fault_it_is(number: int, code: int, says: str) -> None:
    raising = f"import os\nraise OSError({number}, os.strerror({number}), 'out/best.pt')"
    ended = edgeprune(script=f"import edgeprune.cli as cli\ncli.app = lambda: exec({raising!r})\ncli.main()")
    assert (ended.returncode, ended.stderr.decode().count("\n")) == (code, 1)
    assert ended.stderr.decode().startswith(f"edgeprune: {says}")


def test_a_copy_that_found_no_room_names_what_it_wrote() -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "weights.pt", None, "out/best.pt")
    assert str(failing_machine(error)).startswith("out/best.pt: No space left")


def test_without_stdout_a_command_ends_by_its_own_code() -> None:
    script = f"import os, sys; os.close(1); os.execv(sys.executable, [sys.executable, '-c', {MAIN!r}, 'targets'])"
    ended = edgeprune(script=script)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_stdout_has_what_the_command_says_and_nothing_that_a_library_prints() -> None:
    ended = edgeprune("chatty", script=CHATTY)
    assert json.loads(ended.stdout) == {"answer": "×2"}
    assert ended.stderr.decode().split("\n")[:3] == ["from Python", "from C", "from a child"]


# A command whose library asks the stream that it prints to what it is, and gives it to a child.
ASKING = """
import subprocess, sys
from edgeprune.cli import app, main, streams

@app.command()
def asking() -> None:
    print(sys.stdout.encoding, sys.stdout.errors, sys.stdout.fileno(), sys.stdout.writable(), sys.stdout.isatty())
    "×".encode(sys.stdout.encoding)
    sys.stdout.flush()
    subprocess.run([sys.executable, "-c", "print('from a child')"], stdout=sys.stdout, check=True)

streams.register(app)
main()
"""


@pytest.mark.parametrize("encoding", ["utf-8", "iso8859-1"])
def test_a_library_finds_a_whole_stream_where_it_prints(encoding: str) -> None:
    ended = edgeprune("asking", script=ASKING, env={"PYTHONIOENCODING": encoding})
    assert (ended.returncode, ended.stdout) == (0, b""), ended.stderr
    assert ended.stderr.decode().splitlines() == [f"{encoding} {UNPRINTABLE} 2 True False", "from a child"]


def commands(group: Any) -> Iterator[Any]:
    """Every command below a group."""
    for command in group.commands.values():
        if hasattr(command, "commands"):
            yield from commands(command)
        else:
            yield command


def test_every_command_has_its_stdout_to_itself() -> None:
    found = list(commands(get_command(app)))
    assert len(found) > 20
    assert all(isinstance(command, Command) for command in found)


@pytest.mark.parametrize("name", [(), ("deploy",), ("prune",)])
def test_no_help_asks_for_the_value_of_a_flag(name: tuple[str, ...]) -> None:
    words = edgeprune(*name, "--help").stdout.decode()
    assert "--help" in words and "<bool>" not in words


def test_help_shows_flags_without_a_value_and_every_exit_code() -> None:
    words = " ".join(edgeprune("build", "--help").stdout.decode().split())
    assert "--trust Load " in words.replace(" │ │ ", " ") and "<bool>" not in words
    told = " ".join(edgeprune("--help").stdout.decode().split())
    assert all(f"{code} " in told.rpartition("Exit codes:")[2] for code in (0, 1, 2, 3, 4, 5, 70, 130))


@pytest.mark.parametrize("name", ["/proc/edgeprune", "/proc/self/fdinfo/runs"])
def test_a_place_that_takes_no_file_is_the_users_to_change(name: str) -> None:
    with pytest.raises(OSError) as refused:
        Path(name).mkdir()
    assert refused_write(refused.value) is not None


@pytest.mark.parametrize(
    ("act", "seen"),
    [
        (lambda here: (here / "file" / "x").write_text(""), "file: a file is in the way"),
        (lambda here: (here / "file" / "x").mkdir(parents=True), "file: a file is in the way"),
        (lambda here: (here / "file").mkdir(exist_ok=True), "file: a file is in the way"),
        (lambda here: (here / "folder").write_text(""), "folder: a folder is in the way"),
        (lambda here: (here / "file").replace(here / "folder"), "folder: a folder is in the way"),
        (lambda here: (here / "missing" / "x").write_text(""), "mkdir -p"),
    ],
    ids=["below a file", "folder below a file", "folder over a file", "file over a folder", "moved there", "no folder"],
)
def test_what_is_in_the_way_is_the_users_to_change(tmp_path: Path, act: Callable[[Path], object], seen: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError) as refused:
        act(tmp_path)
    line = refused_write(refused.value)
    assert line is not None and seen in line and "\n" not in line


def test_a_file_that_a_folder_does_not_take_is_named_as_it_was_given() -> None:
    with pytest.raises(OSError) as refused:
        write_atomically("/proc/edgeprune.json", "{}")
    said = refused_write(refused.value)
    assert said == "/proc/edgeprune.json: the folder /proc takes no new file; give another path"


def test_a_missing_file_in_a_good_folder_stays_a_bug(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        (tmp_path / "record.json").read_text()
    assert refused_write(missing.value) is None
