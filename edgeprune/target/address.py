"""How a device is named in a profile and on the command line; nothing is connected to."""

from __future__ import annotations

import re

DEVICES = "local, user@host[:port], fake:orin-nano"
"""What may name a device, for people."""
_SSH = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][\w.-]*)@)?(?P<host>[A-Za-z0-9][\w.-]*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
)


def ssh_parts(text: str) -> tuple[str, str, int] | None:
    """User, host and port of ``[user@]host[:port]``, empty and 0 where they were not given; None for anything else."""
    match = _SSH.fullmatch(text)
    if not match or not 0 < int(match["port"] or 22) < 65536:
        return None
    return match["user"] or "", match["host"].strip("[]"), int(match["port"] or 0)


def why_no_device(text: str) -> str:
    """What is wrong with the name of a device, for an error; empty where it may be one. Of a stand-in (``fake:``) its
    own board is not looked at."""
    if text in ("", "local") or text.startswith("fake:") or ssh_parts(text) is not None:
        return ""
    return f"{text!r} is no device; allowed: {DEVICES}"
