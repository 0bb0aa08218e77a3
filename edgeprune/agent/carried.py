"""A folder that was carried to a board by hand: runs the commands that were recorded for it and keeps what they gave.

``request.json`` names them (:class:`edgeprune.carry.request.Request`). Queues behind other builds, sets power mode and
clocks as asked where this user may, and puts them back on every way out. Leaves ``results.tar``. A terminal or
connection that goes away does not stop it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import sys
import tarfile
import zlib
from dataclasses import asdict

from edgeprune.agent.facts import device_facts
from edgeprune.agent.files import sha256_of
from edgeprune.agent.hold import board_lock
from edgeprune.agent.orphans import end_orphans
from edgeprune.agent.power import board_change, prepare_board, restore_board
from edgeprune.agent.programs import TURN, run_measured, run_program
from edgeprune.agent.system import (
    ROOT,
    Refused,
    Stopped,
    ignore_signals,
    refusal_of,
    stop_on_signals,
    write_json,
)
from edgeprune.agent.trtexec import crashed_behind_its_work, find_trtexec, version_in

RESULTS = "results"
PACKED = "results.tar"


def run_carried(folder: str) -> int:
    """Run the commands of a carried folder; gives the exit code, after a line that says why it is not 0."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    not_restored: list[str] = []
    try:
        stop_on_signals(but=[signal.SIGHUP])  # before the board is looked at, which takes seconds
        _run_all(os.path.abspath(folder), not_restored)
    except Refused as error:
        reason, code = str(error), 4
    except Stopped:
        board = (
            f"the board is not as it was: {not_restored[0]}" if not_restored else "power and clocks are as they were"
        )
        reason, code = f"stopped; {board}", 130
    except OSError as error:
        refusal = refusal_of(error)
        remedy = "; free some space there, or carry the folder to another disk" if refusal["kind"] == "full" else ""
        reason, code = refusal["message"] + remedy, 4
    else:
        return 0
    if os.path.exists(os.path.join(folder, PACKED)):  # of a run that began it is gone
        reason += f"; the {PACKED} here is of an earlier run"
    _print(f"run-on-device: {reason}", sys.stderr)
    return code


def _run_all(folder: str, not_restored: list[str]) -> None:
    """Run everything; what could not be put back on the board is told, and added to ``not_restored``."""
    request = _checked_request(folder)
    facts = device_facts()
    if request["modules"] and not set(request["modules"]) & set(facts.modules):
        raise Refused(
            "device",
            f"this is {facts.board or facts.cpu} ({', '.join(facts.modules) or 'no module id'}), the request is for "
            f"{request['board']} ({', '.join(request['modules'])}); carry the folder there, or build for this board's "
            "profile",
        )
    if request["modules"] and not facts.l4t:
        raise Refused(
            "device",
            "this shows no L4T release, without which its results would be refused later (no /etc/nv_tegra_release: a "
            "container?); next: docker run with -v /etc/nv_tegra_release:/etc/nv_tegra_release:ro",
        )
    if request["jetpack"] and facts.jetpack and facts.jetpack not in request["jetpacks"]:  # one not known is trusted
        raise Refused(
            "device",
            f"this has JetPack {facts.jetpack}, the request asks for {request['jetpack']}; carry the folder to a board "
            "that has, or build for the target that fits this one: edgeprune device probe names it",
        )
    program, banner, commands = _commands(request)
    results = os.path.join(folder, RESULTS)
    waiting = []

    def wait(holder: str) -> None:
        if not waiting:
            waiting.append(holder)
            _print(f"the board is busy with another build ({holder}); waiting")

    before = _packed_at(folder)
    with _own_folder(folder), board_lock(wait) as waited_s:
        if _packed_at(folder) not in (0, before) and _answers_this(folder):  # it was waited for
            _print(
                f"an earlier run of this folder is through, and its {PACKED} stays: bring it back, then: edgeprune "
                "import-results results.tar; to measure once more, start this again"
            )
            return
        try:
            end_orphans()
            left = restore_board()
            done = left.done and f"put back from an earlier run: {left.done}"
            for text in filter(None, (done, left.lost, left.failure)):
                _print(text)
            conditions = prepare_board(request["power_mode"], request["clocks"])
            if conditions.get("clocks_doubt"):  # before an hour of runs that would be repeated for it
                _print(conditions["clocks_doubt"])
            inputs = _inflate(folder, request["inputs"])
            shutil.rmtree(results, ignore_errors=True)  # from here on it runs; a start that is refused destroys nothing
            for name in (PACKED, f"{PACKED}.part"):  # of a run that fails nobody may take an earlier one's for its own
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(folder, name))
            os.makedirs(results)
            answers = []
            for number, command in enumerate(commands):
                _print(f"{command['title']} ({number + 1} of {len(commands)})")
                place = f"{RESULTS}/commands/{number:03d}"
                answers.append(_run_one(_by(program, command), folder, place, conditions))
        finally:
            ignore_signals()
            _, failure, lost = restore_board()
            failure = "; ".join(text for text in (lost, failure) if text)
            if failure:
                not_restored.append(failure)
                _print(f"the board is not as it was: {failure}")
        for path in inputs:
            os.unlink(path)
        if waiting:
            answers[0]["conditions"]["waited_s"] = round(waited_s, 2)
        names = [os.path.join(parent, name) for parent, _, names in os.walk(results) for name in names]
        write_json(
            os.path.join(results, "results.json"),
            {
                "schema_version": 4,
                "request_sha256": sha256_of(os.path.join(folder, "request.json")),
                "facts": dict(asdict(facts), power_mode=conditions.get("power_mode", facts.power_mode)),
                "banner": banner,
                "conditions": conditions,
                "simulated": bool(ROOT),
                "answers": answers,
                "files": {os.path.relpath(path, results): sha256_of(path) for path in names},
            },
        )
        partial = os.path.join(folder, f"{PACKED}.part")
        with tarfile.open(partial, "w") as packed:
            packed.add(results, arcname=RESULTS)
        os.replace(partial, os.path.join(folder, PACKED))
    _print("done: bring results.tar back, then: edgeprune import-results results.tar")


@contextlib.contextmanager
def _own_folder(folder: str):
    """Waits for an earlier run of the folder. Whoever carries a folder there asks for this lock before removing one."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):  # else a file system without locks: the board's does
                _print(f"an earlier run of this folder goes on; waiting for its end, and for its {PACKED}")
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _packed_at(folder: str) -> int:
    """When the results in a folder were written; 0 for none."""
    try:
        return os.stat(os.path.join(folder, PACKED)).st_mtime_ns
    except OSError:
        return 0


def _answers_this(folder: str) -> bool:
    """Whether the results in a folder are whole, and of the request that lies there now."""
    try:
        with tarfile.open(os.path.join(folder, PACKED)) as packed:
            file = packed.extractfile(f"{RESULTS}/results.json")
            answered = json.loads(file.read().decode())["request_sha256"] if file else ""
    except (OSError, tarfile.TarError, EOFError, ValueError, KeyError, TypeError):
        return False
    return answered == sha256_of(os.path.join(folder, "request.json"))


def _checked_request(folder: str) -> dict:
    """The request, after every file that it names was compared with its digest."""
    try:
        with open(os.path.join(folder, "request.json"), "rb") as file:
            request = json.loads(file.read().decode())
        files = dict(request["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise Refused("device", "request.json is damaged; copy the folder again") from error
    for name, sha256 in files.items():
        path = os.path.join(folder, name)
        if not os.path.isfile(path) or sha256_of(path) != sha256:
            raise Refused("device", f"{name} is missing or not what was packed; copy the folder again")
    return request


def _commands(request: dict) -> tuple[list[str], str, list[dict]]:
    """What starts trtexec, its banner, and the commands that were recorded for its version."""
    program, banner = find_trtexec(request["trtexec"])
    version = list(version_in(banner) or ())
    for script in request["scripts"]:
        if script["first"] <= version < script["below"]:
            return program, banner, script["commands"]
    shown = ".".join(str(part) for part in version)
    raise Refused("device", f"TensorRT {shown} is not among those that this request knows: {request['known_versions']}")


def _inflate(folder: str, names: dict) -> list[str]:
    """Write the inputs that were packed, beside what was packed; gives their paths."""
    paths = []
    for name in names:
        with open(os.path.join(folder, name + ".z"), "rb") as packed, open(os.path.join(folder, name), "wb") as file:
            file.write(zlib.decompress(packed.read()))
        paths.append(os.path.join(folder, name))
    return paths


def _by(program: list[str], command: dict) -> dict:
    """The command with this board's trtexec in it."""
    turns = command["turns"]
    if turns:
        turns = dict(turns, programs=[[*program, *argv[1:]] for argv in turns["programs"]])
    return dict(command, argv=[*program, *command["argv"][1:]], turns=turns)


def _run_one(command: dict, folder: str, place: str, conditions: dict[str, str]) -> dict:
    """One command, in ``folder``; what it prints and writes goes to ``place`` below it. ``conditions`` are what
    :func:`prepare_board` gave."""
    own = os.path.join(folder, place)
    os.makedirs(own)
    answer: dict = {"returncode": None, "conditions": {}}
    job = dict(command, cwd=folder, stdin="")
    try:
        _run_to_its_end(job, own, conditions, answer)
    except Refused as error:
        if not command["informs"]:
            raise
        if answer["returncode"] in (None, 0):
            answer["returncode"] = 124 if error.kind == "timeout" else 127
        answer["failure"] = str(error)
        _print(f"it goes on without: {error}")
    return answer


def _run_to_its_end(job: dict, own: str, conditions: dict[str, str], answer: dict) -> None:
    """Run a job in its folder ``own``; ``answer`` gets what it came to. ``Refused`` says why it failed."""
    if job["measured"]:
        run_measured(job, own, conditions.get("clocks") == "locked", answer, lambda: board_change(conditions))
    else:
        answer["returncode"] = run_program(job, own)
    if answer["returncode"] != 0:
        lines, failed = [], os.path.join(own, TURN) if job["turns"] else own
        for name in ("stdout", "stderr"):
            with open(os.path.join(failed, name), errors="replace") as file:
                lines += [line.strip() for line in file if line.strip()]
        built = any(word.startswith("--saveEngine=") for word in job["argv"])
        if built and crashed_behind_its_work(answer["returncode"], "\n".join(lines)):
            return  # as on a board that is reached; of other runs it is refused there too
        errors = [line for line in lines if "[E]" in line] or lines[-1:] or ["it printed nothing"]
        raise Refused("tool", f"trtexec failed with {answer['returncode']}: {errors[0]} (all of it: {own})")


def _print(text: str, stream=None) -> None:
    """Tell whoever looks; nobody may, for an hour of work goes on without them."""
    stream = stream or sys.stdout
    try:
        stream.write(text + "\n")
        stream.flush()
    except (OSError, AttributeError):  # its other end is gone, or it was never open
        with contextlib.suppress(OSError, AttributeError), open(os.devnull, "w") as null:
            os.dup2(null.fileno(), stream.fileno())  # what is left in it would make the interpreter's end a failure
