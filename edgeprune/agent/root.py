"""What is done as root on a board: these commands and no other, by ``sudo`` that asks for no password.

The line for the board's sudoers file is made of them (docs/jetson.md shows it), so that it allows what is needed and
nothing else.
"""

from __future__ import annotations

import os
import shutil
from fnmatch import fnmatchcase

from edgeprune.agent.system import ROOT, output_of, system_path

# Below a folder of root's: jetson_clocks writes, as root, what it finds in the file to the files that are named there.
CLOCKS_FILE = "/var/lib/edgeprune/clocks.conf"
ROOT_COMMANDS = (  # program and arguments, as sudoers has them: [0-9] is one digit
    ("/usr/sbin/nvpmodel", "-m", "[0-9]"),
    ("/usr/bin/jetson_clocks",),
    ("/usr/bin/jetson_clocks", "--show"),
    ("/usr/bin/jetson_clocks", "--store", CLOCKS_FILE),
    ("/usr/bin/jetson_clocks", "--restore", CLOCKS_FILE),
    ("/usr/bin/mkdir", "-p", os.path.dirname(CLOCKS_FILE)),
)


def sudoers(user: str) -> str:
    """The lines of a sudoers file that allow a user all of them; ``""`` is sudoers' word for no arguments."""
    rules = (" ".join(command) if len(command) > 1 else f'{command[0]} ""' for command in ROOT_COMMANDS)
    return "".join(f"{user} ALL=(root) NOPASSWD: {rule}\n" for rule in rules)


def may_sudo() -> bool:
    """Whether power and clocks may be changed without a password."""
    if os.geteuid() == 0 and not ROOT:
        return True
    return bool(shutil.which("sudo")) and output_of(as_root(["jetson_clocks", "--show"]))[0] == 0


def as_root(argv: list[str]) -> list[str]:
    """The command as root, without the path of its program; without a terminal, ``sudo`` must not ask.

    Raises:
        ValueError: it is none of :data:`ROOT_COMMANDS`.
    """
    if not any(_is(argv, *command) for command in ROOT_COMMANDS):
        raise ValueError(f"{argv} is not among the commands that are run as root")
    return list(argv) if os.geteuid() == 0 and not ROOT else ["sudo", "-n", *argv]


def _is(argv: list[str], program: str, *arguments: str) -> bool:
    wanted = [system_path(argument) if argument.startswith("/") else argument for argument in arguments]
    return (
        argv[0] == os.path.basename(program)
        and len(argv) == 1 + len(wanted)
        and all(given == one or fnmatchcase(given, one) for given, one in zip(argv[1:], wanted))
    )
