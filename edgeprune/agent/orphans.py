"""Programs that outlived the process which ran them: noted while they run, and ended by whoever needs the board next.

A program is the leader of a session of its own, so that a kill of the process that runs it (for its memory, say) leaves
it at work, and every timing beside it would be wrong.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
from typing import Collection

from edgeprune.agent.power import RESTORE_FILE
from edgeprune.agent.system import (
    end_leader,
    is_of_here,
    is_running,
    process_of,
    read_json,
    system_path,
    write_file,
)


def note_program(pid: int) -> None:
    """Note a program that this process runs; where nothing can be written, it is not."""
    note = {"host": _host(), "by": process_of(os.getpid()), "program": process_of(pid)}
    with contextlib.suppress(OSError):
        os.makedirs(_folder(), exist_ok=True)
        write_file(_folder(), _name(pid), json.dumps(note).encode())  # a disk is not waited for beside a timing


def forget_program(pid: int) -> None:
    """Remove the note of a program that has ended."""
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(_folder(), _name(pid)))


def end_orphans(runners: Collection[str] | None = None) -> None:
    """End this user's programs on this machine whose process has ended without them; those of ``runners`` alone where
    these are given, as :func:`~edgeprune.agent.system.process_of` names them."""
    for path in glob.glob(os.path.join(_folder(), "program-*.json")):
        note = read_json(path)
        if not isinstance(note, dict) or note.get("host") != _host():  # a home may be on several machines
            continue
        by, program = str(note.get("by")), str(note.get("program"))
        if not is_of_here(by) or is_running(by):  # of another container nobody here knows
            continue
        if runners is not None and by not in runners:
            continue
        end_leader(program)
        with contextlib.suppress(OSError):
            os.unlink(path)


def _name(pid: int) -> str:
    return f"program-{pid}.json"


def _folder() -> str:
    return os.path.dirname(system_path(os.path.expanduser(RESTORE_FILE)))


def _host() -> str:
    return os.uname().nodename
