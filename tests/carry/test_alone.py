"""A run on a board goes on when whoever started it is gone, and two runs of one folder wait for each other."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from edgeprune.agent import carried
from edgeprune.agent.carried import _run_one, run_carried
from edgeprune.agent.system import Refused, Stopped
from edgeprune.carry.out import MAKE_WAY, _jetpacks
from edgeprune.devices.archive import archive
from edgeprune.devices.board import outside
from edgeprune.devices.fake import FakeBoard, fake_device

COMMAND = {
    "title": "asking",
    "argv": ["trtexec", "--help"],
    "timeout_s": 600,
    "measured": False,
    "turns": None,
    "informs": False,
}


def folder_for_a_board(root: Path) -> Path:
    """A carried folder without a model: its commands only ask trtexec for its options."""
    (root / "agent.zip").write_bytes(archive())
    scripts = [{"first": [1, 0, 0], "below": [99, 0, 0], "commands": [COMMAND, COMMAND]}]
    board = {
        "board": "any",
        "modules": [],
        "jetpack": "",
        "jetpacks": [],
        "power_mode": "",
        "clocks": False,
        "trtexec": [],
        "known_versions": "all",
    }
    request = {**board, "scripts": scripts, "inputs": {}, "files": {}}
    (root / "request.json").write_text(json.dumps(request))
    return root


@pytest.mark.parametrize("gone", ["connection", "terminal", "never there", "Ctrl-C in front of it"])
def test_a_run_outlives_whoever_started_it(gone: str, tmp_path: Path) -> None:
    folder = folder_for_a_board(tmp_path)
    (folder / "results").mkdir()
    (folder / "results" / "of-a-run-that-is-at-work").touch()
    board = fake_device("orin-nano").channel
    assert isinstance(board, FakeBoard)
    argv = [sys.executable, str(folder / "agent.zip"), "carried", str(folder)]
    if gone == "never there":
        argv = ["sh", "-c", 'exec "$@" >&-', "sh", *argv]
    if gone == "Ctrl-C in front of it":  # what `run-on-device.sh &` in a script is started with
        argv = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *argv]
    with (board.root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=board.env)
        assert process.stdout is not None and process.stderr is not None
        if gone != "never there":
            assert process.stdout.readline().startswith(b"the board is busy with another build")
            assert (folder / "results" / "of-a-run-that-is-at-work").is_file()
        process.stdout.close()
        if gone == "terminal":
            os.kill(process.pid, signal.SIGHUP)
        if gone == "Ctrl-C in front of it":
            os.kill(process.pid, signal.SIGINT)
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), said) == (0, b"")
    with tarfile.open(folder / "results.tar") as packed:
        names = packed.getnames()
    assert "results/results.json" in names and "results/commands/001/stdout" in names
    assert "results/of-a-run-that-is-at-work" not in names


def test_ctrl_c_while_the_board_is_still_looked_at_is_one_line(tmp_path: Path) -> None:
    folder = folder_for_a_board(tmp_path)
    board = fake_device("orin-nano").channel
    assert isinstance(board, FakeBoard)
    program = board.root / "slow-trtexec"
    program.write_text("#!/bin/sh\n: > asked\nexec sleep 60\n")
    program.chmod(0o755)
    change_request(folder, trtexec=["/slow-trtexec"])
    argv = [sys.executable, str(folder / "agent.zip"), "carried", str(folder)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env=board.env, cwd=folder) as process:
        while process.poll() is None and not (folder / "asked").exists():
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        said = process.communicate()[1]
    assert (process.returncode, said) == (130, "run-on-device: stopped; power and clocks are as they were\n")


def test_a_start_that_waited_for_an_earlier_run_of_the_folder_leaves_its_results(tmp_path: Path) -> None:
    folder = tmp_path / "edgeprune-device"
    folder.mkdir()
    folder_for_a_board(folder)
    board = fake_device("orin-nano").channel
    assert isinstance(board, FakeBoard)
    program = board.root / "slow-trtexec"
    banner = "&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # trtexec"
    program.write_text(f"#!/bin/sh\necho '{banner}'\n[ $1 != --slow ] || until [ -e go-on ]; do sleep 0.02; done\n")
    program.chmod(0o755)
    slow = {**COMMAND, "argv": ["trtexec", "--slow"]}
    scripts = [{"first": [1, 0, 0], "below": [99, 0, 0], "commands": [slow]}]
    change_request(folder, trtexec=["/slow-trtexec"], scripts=scripts)
    argv = [sys.executable, str(folder / "agent.zip"), "carried", str(folder)]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=board.env)

    def make_way() -> tuple[int, bool]:
        done = subprocess.run(["sh", "-c", MAKE_WAY], cwd=tmp_path, check=False, capture_output=True, text=True)
        return done.returncode, "a run goes on in it" in done.stdout

    def first_line(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline()

    with start() as first:
        assert first_line(first).startswith("asking (1 of 1)")
        assert make_way() == (4, True) and (folder / "request.json").is_file()
        with start() as second:
            assert first_line(second).startswith("an earlier run of this folder goes on; waiting for its end")
            (folder / "go-on").touch()
            said = second.communicate()[0]
        assert first.wait() == 0
    assert second.returncode == 0 and "its results.tar stays: bring it back" in said
    kept = (folder / "results.tar").stat().st_mtime_ns
    with start() as again:  # nobody had to be waited for: it measures once more
        assert first_line(again).startswith("asking (1 of 1)")
        again.communicate()
    assert again.returncode == 0 and (folder / "results.tar").stat().st_mtime_ns != kept
    assert make_way() == (0, False) and not folder.exists()


@pytest.mark.parametrize(
    ("flock", "there", "left"),
    [
        ("exit 71", True, False),  # a file system without locks
        ("", True, False),  # no util-linux
        ("echo asked; exit 75", True, True),
        ("echo asked; exit 75", False, False),  # there is nothing to lock
    ],
)
def test_where_locks_do_not_work_an_earlier_folder_is_removed_without_one(
    flock: str, there: bool, left: bool, tmp_path: Path
) -> None:
    programs, home = tmp_path / "programs", tmp_path / "home"
    programs.mkdir()
    home.mkdir()
    (programs / "rm").symlink_to("/bin/rm")
    if flock:
        (programs / "flock").write_text(f"#!/bin/sh\n{flock}\n")
        (programs / "flock").chmod(0o755)
    if there:
        (home / "edgeprune-device").mkdir()
        (home / "edgeprune-device" / "request.json").touch()
    argv = ["/bin/sh", "-c", MAKE_WAY]
    done = subprocess.run(argv, cwd=home, env={"PATH": str(programs)}, check=False, capture_output=True, text=True)
    assert (done.returncode, (home / "edgeprune-device").exists()) == (4 if left else 0, left)
    assert ("asked" in done.stdout) == left and not done.stderr


def run_on_stand_in(folder: Path, text: str = "orin-nano") -> tuple[int, str]:
    """Run a carried folder on a board of its own; exit code and what it says of its failure."""
    board = fake_device(text).channel
    assert isinstance(board, FakeBoard)
    argv = [sys.executable, str(folder / "agent.zip"), "carried", str(folder)]
    done = subprocess.run(
        argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=board.env, check=False
    )
    return done.returncode, done.stderr


def test_clocks_that_could_not_be_locked_are_told_on_the_board(tmp_path: Path) -> None:
    """Whoever stands there may mend it before an hour of runs; the record has it too."""
    folder = folder_for_a_board(tmp_path)
    change_request(folder, clocks=True)
    board = fake_device("orin-nano").channel
    assert isinstance(board, FakeBoard)
    rules = board.root / "etc/sudoers.d/edgeprune"
    rules.write_text("".join(line for line in rules.read_text().splitlines(True) if "mkdir" not in line))
    argv = [sys.executable, str(folder / "agent.zip"), "carried", str(folder)]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, env=board.env, check=True)
    assert "the clocks were to be locked and are free (sudo mkdir -p" in done.stdout
    with tarfile.open(folder / "results.tar") as packed:
        file = packed.extractfile("results/results.json")
        assert file is not None and "(sudo mkdir -p" in json.load(file)["conditions"]["clocks_doubt"]


def change_request(folder: Path, **entries: object) -> None:
    request = json.loads((folder / "request.json").read_text())
    (folder / "request.json").write_text(json.dumps({**request, **entries}))


def test_a_run_that_fails_leaves_no_results_of_an_earlier_one(tmp_path: Path) -> None:
    folder = folder_for_a_board(tmp_path)
    packed = [folder / name for name in ("results.tar", "results.tar.part")]
    for path in packed:
        path.write_text("of an earlier run")
    change_request(folder, modules=["p3701-0000"])  # refused before it begins: they are still what they were
    code, said = run_on_stand_in(folder)
    assert code == 4 and said.endswith("; the results.tar here is of an earlier run\n")
    assert [path.read_text() for path in packed] == ["of an earlier run"] * 2
    for refused, words in (
        ({"power_mode": "99W"}, "99W"),
        ({"power_mode": "", "inputs": {"input-00.bin": ""}}, "input-00.bin.z"),
    ):
        change_request(folder, modules=[], **refused)
        code, said = run_on_stand_in(folder)
        assert code == 4 and words in said and said.endswith("; the results.tar here is of an earlier run\n")
        assert [path.read_text() for path in packed] == ["of an earlier run"] * 2
    failing = {**COMMAND, "argv": ["trtexec", "--no-such-option"]}
    change_request(folder, inputs={}, scripts=[{"first": [1, 0, 0], "below": [99, 0, 0], "commands": [failing]}])
    code, said = run_on_stand_in(folder)
    assert code == 4 and "Unknown option: --no-such-option" in said and "earlier run" not in said
    assert not [path for path in packed if path.exists()]


def test_what_only_informs_may_fail_and_the_run_goes_on(tmp_path: Path) -> None:
    folder = folder_for_a_board(tmp_path)
    unknown = {**COMMAND, "argv": ["trtexec", "--no-such-option"], "informs": True}
    turns = {"programs": [["trtexec", "--no-such-option"]], "writes": "", "rounds": 1, "least_rounds": 1}
    turns = {**turns, "time_limit_s": 0, "timeout_s": 600, "begins": "", "ends": ""}
    in_turns = {**unknown, "measured": True, "turns": turns}
    wrapper = tmp_path / "wrapper"
    wrapper.write_text('[ "$1" != --forever ] || exec sleep 600\nexec trtexec "$@"\n')
    endless = {**COMMAND, "argv": ["trtexec", "--forever"], "timeout_s": 0.2, "informs": True}
    commands = [unknown, in_turns, endless, COMMAND]
    change_request(
        folder, trtexec=["sh", str(wrapper)], scripts=[{"first": [1, 0, 0], "below": [99, 0, 0], "commands": commands}]
    )
    assert run_on_stand_in(folder) == (0, "")
    with tarfile.open(folder / "results.tar") as packed:
        file = packed.extractfile("results/results.json")
        assert file is not None
        answers = json.load(file)["answers"]
    assert [answer["returncode"] for answer in answers] == [1, 1, 124, 0]
    failures = [answer.get("failure", "") for answer in answers]
    assert all("Unknown option: --no-such-option" in failure for failure in failures[:2])
    assert "ran longer than 0.2 s" in failures[2] and failures[3] == ""


@pytest.mark.parametrize(
    ("release", "asked", "code"),
    [
        ("6.0", ">=6.1", 4),
        ("6.2", ">=6.1", 0),
        ("5.1", ">=5.1.2,<6", 4),
        ("5.1", ">=5.1,<6", 0),
        ("6.2", ">=8", 4),  # no release that is known is in the range
        ("6.2", "", 0),
    ],
)
def test_a_board_of_another_jetpack_is_refused_before_anything_runs(
    release: str, asked: str, code: int, tmp_path: Path
) -> None:
    folder = folder_for_a_board(tmp_path)
    change_request(folder, jetpack=asked, jetpacks=_jetpacks(asked))
    ended, said = run_on_stand_in(folder, f"orin-nano,jetpack={release}")
    assert ended == code
    assert bool(outside(asked, release)) is bool(code)  # as the workstation decides of the results
    assert (f"this has JetPack {release}, the request asks for {asked}; " in said) is bool(code)
    assert (folder / "results").exists() is not bool(code)


@pytest.mark.parametrize(
    ("says", "option", "taken"),
    [
        ("&&&& PASSED TensorRT.trtexec", "--saveEngine=x", True),
        ("[E] it broke", "--saveEngine=x", False),
        ("&&&& PASSED TensorRT.trtexec", "--loadEngine=x", False),  # the workstation would refuse it later
    ],
)
def test_a_build_that_crashes_behind_its_last_line_is_taken_on_the_board_too(
    says: str, option: str, taken: bool, tmp_path: Path
) -> None:
    program = tmp_path / "trtexec"
    program.write_text(f"#!/bin/sh\necho '{says}'\nkill -SEGV $$\n")
    program.chmod(0o755)
    command = {**COMMAND, "argv": [str(program), option], "cwd": "", "stdin": ""}
    if taken:
        assert _run_one(command, str(tmp_path), "one", {})["returncode"] == -signal.SIGSEGV
        return
    with pytest.raises(Refused, match=r"trtexec failed with -11"):
        _run_one(command, str(tmp_path), "one", {})


@pytest.mark.parametrize("text", ['{"modules": [', "[]", "{}", '{"files": 1}', "\udcff"])
def test_a_damaged_request_is_said_in_one_line_and_is_no_failed_gate(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "request.json").write_bytes(text.encode(errors="surrogateescape"))
    assert run_carried(str(tmp_path)) == 4
    assert capsys.readouterr().err == "run-on-device: request.json is damaged; copy the folder again\n"


@pytest.mark.parametrize("failure", ["", "power mode MAXN needs a reboot"])
def test_a_stopped_run_says_what_it_left_of_the_board(
    failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(folder: str, not_restored: list[str]) -> None:
        not_restored += [failure] if failure else []
        raise Stopped

    monkeypatch.setattr(carried, "_run_all", stopped)
    assert run_carried(str(tmp_path)) == 130
    err = capsys.readouterr().err
    assert ("as they were" in err) is (not failure) and failure in err and err.startswith("run-on-device: stopped; ")
