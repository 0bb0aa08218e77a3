"""Commands of edgeprune that a text names, and whether its command line takes them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import typer

from edgeprune import cli

ELIDED = ("…", "...")
"""Where a text leaves out on purpose what has to be typed."""
BEHIND = "`'\").,;:"
"""What ends a command in a sentence, and is no part of it."""


@dataclass(frozen=True)
class Named:
    """A command in a text.

    Attributes:
        words: what follows ``edgeprune``.
        to_type: whether it is there to be typed as it stands, behind a colon or with arguments; else it is only named,
            as in "edgeprune val judges on another split".
    """

    words: tuple[str, ...]
    to_type: bool

    @property
    def line(self) -> str:
        """The command as it stands."""
        return " ".join(["edgeprune", *self.words])


def followed(argv: list[str]) -> tuple[Any, Any, list[str]]:
    """The command that a line ends at, the context of the one around it, and what is left of the line."""
    command, context = typer.main.get_command(cli.app), None
    while argv and argv[0] in getattr(command, "commands", {}):
        context = type(command).context_class(command, parent=context, info_name=argv[0])
        command, argv = command.commands[argv[0]], argv[1:]
    return command, context, argv


def parses(line: str) -> dict[str, Any]:
    """Follow a command line to its command and parse its options; raises what the command line itself would.

    Returns:
        The values of its parameters; none where it only asks for help.
    """
    argv = shlex.split(line, comments=True)[1:]
    argv = argv[: argv.index(">")] if ">" in argv else argv
    command, context, argv = followed(argv)
    if argv and not argv[0].startswith("-") and hasattr(command, "commands"):
        raise typer.BadParameter(f"No such command {argv[0]!r}")
    if "--help" in argv:
        return {}
    return command.make_context("edgeprune", list(argv), parent=context).params


def named_in(text: str) -> Iterator[Named]:
    """Every command of edgeprune in a sentence: as far as it goes on with options, their values, files and
    placeholders (capitals)."""
    for found in re.finditer(r"(?<![\w./-])edgeprune (?=[a-z-])", text):
        words = _words(text[found.end() :].split())
        command, _, left = followed(list(words))
        if len(left) == len(words):  # no command of ours: "edgeprune knows"
            continue
        group = hasattr(command, "commands") and not command.invoke_without_command
        before, line = text[: found.start()], " ".join(["edgeprune", *words])
        introduced = text.strip(BEHIND) == line or re.search(r"(?:[:\n]|&&)\s*$", before) is not None
        yield Named(words, bool(left) or (introduced and not group))


def _words(tokens: list[str]) -> tuple[str, ...]:
    words: list[str] = []
    for token in tokens:
        command, _, left = followed(list(words))
        word = token.rstrip(BEHIND) if token not in ELIDED else token
        if not (_is_argument(word) or _takes_value(command, left) or word in getattr(command, "commands", {})):
            break
        words.append(word)
        if word != token:
            break
    return tuple(words)


def _takes_value(command: Any, words: list[str]) -> bool:
    """Whether a command's last word is an option whose value comes next."""
    options = {name: one for one in command.params for name in one.opts}
    return bool(words) and words[-1] in options and not getattr(options[words[-1]], "is_flag", False)


def _is_argument(word: str) -> bool:
    """Options, placeholders, files and numbers; not a word of a sentence."""
    return word in ELIDED or re.fullmatch(r"-{1,2}[a-z].*|[A-Z][A-Z0-9_]*|\S*[./:=]\S+|\d+", word) is not None


def refused(named: Named) -> str:
    """Why a command cannot be typed as it stands, with values for its placeholders; empty where it can."""
    command, _, left = followed(list(named.words))
    options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
    if unknown := [word for word in left if word.startswith("-") and word not in options]:
        return f"no such option: {', '.join(unknown)}"
    if not named.to_type or set(left) & set(ELIDED):
        return ""
    argv = [
        "8" if re.fullmatch("[A-Z_]+", word) and _takes_value(command, left[:place]) else word
        for place, word in enumerate(left)
    ]
    line = shlex.join(["edgeprune", *named.words[: len(named.words) - len(left)], *argv])
    try:
        given = parses(line)
    except Exception as error:
        return str(getattr(error, "message", "") or f"{type(error).__name__} {error} {getattr(error, 'param', '')}")
    return _lacking(command.name, given)


def _lacking(command: str, given: dict[str, Any]) -> str:
    """What a command asks for that its parser does not know of."""
    if command == "quantize" and set(given["precision"]) == {"8"}:  # filled in
        return ""
    if command == "quantize" and given["precision"] not in ("fp16", "int8", "int8-fp16"):
        return f"makes no {given['precision']}"
    if command == "quantize" and (given["precision"] == "fp16") != (given["data"] is None):
        return "INT8 needs --data, and nothing else takes it"
    if command == "prune" and given["output"] is None and not given["dry_run"]:
        return "needs -o, or --dry-run"
    amounts = ("macs_speed_up", "params_ratio", "ratio", "plan")
    if command == "prune" and sum(given[name] is not None for name in amounts) != 1:
        return "needs one amount"
    return ""
