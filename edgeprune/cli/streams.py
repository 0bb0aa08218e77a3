"""Where words go: results to stdout, whatever libraries print to stderr, and no stream ends a command in a traceback.

One mechanism for every command: :func:`streams` around the program, :class:`Command` around each command, and
:func:`say` or :func:`results_console` for what a command has to tell.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import re
import shlex
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import typer
from typer.core import TyperCommand, TyperGroup

from edgeprune.artifact import is_full, remedy_of
from edgeprune.cli.settings import FLAGS
from edgeprune.errors import EdgepruneError, TargetError
from edgeprune.options import FILE_CHECKS, FOLDER_CHECKS, STDOUT, options_of_command, refuse_source
from edgeprune.reading import shown

if TYPE_CHECKING:
    from rich.console import Console

BARS = "▁▂▃▄▅▆▇█"
# What a terminal that knows no Unicode shows for signs that do not decompose into its letters.
PLAIN = {"×": "x", "→": "->", "–": "-", "−": "-", "≤": "<=", "≥": ">=", "…": "...", "·": "-", "✗": "x", "°": " deg "}
PLAIN |= dict(zip(BARS, "_.-:=+*#", strict=True))
UNPRINTABLE = "edgeprune.plain"
REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.EFBIG)
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # ECMA-48: colours, and what moves the cursor
MOST_WORDS = 600  # characters of a parser's refusal, which repeats the value
BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell says of a program whose reader went away

_apart: list[TextIO] = []


class OutputError(EdgepruneError):
    """stdout cannot be written."""


class _Output(io.TextIOWrapper):
    """stdout whose faults are one line, or the end of a pipe that nobody reads any more.

    Attributes:
        has_own_number: whether it has a descriptor besides 1, so that 1 can be given to others.
    """

    def __init__(self, output: io.TextIOWrapper) -> None:
        self.has_own_number = _number(output) == 1
        binary = os.fdopen(os.dup(1), "wb") if self.has_own_number else output.buffer
        buffered = output.line_buffering
        super().__init__(binary, encoding=output.encoding, errors=UNPRINTABLE, newline="", line_buffering=buffered)

    def write(self, text: str) -> int:
        with _faults():
            return super().write(text)

    def flush(self) -> None:
        with _faults():
            super().flush()


class _Messages(io.TextIOWrapper):
    """stderr whose faults end nothing: a full disk, or a reader who went away, hears nothing more, and the exit code
    says what the words would have said."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        buffered = stream.line_buffering
        super().__init__(stream.buffer, stream.encoding, UNPRINTABLE, newline="", line_buffering=buffered)

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            self._give_up()

    def close(self) -> None:
        """Nothing is closed: the buffer is somebody else's, and whoever kept this stream may write to it."""
        self.flush()

    def _give_up(self) -> None:
        """Have nowhere to write to from now on: what waits would be tried again when Python ends, which exits with 120
        where that fails."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            super().flush()


class _LinesOnly(io.TextIOBase):
    """What libraries print where no terminal shows it: each line as it stood when it ended, without colours and without
    the hundreds of states that a bar went through.

    Args:
        stream: where the lines go.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._line = stream, ""

    def write(self, text: str) -> int:
        *ended, self._line = (self._line + text).split("\n")
        for line in ended:
            self._stream.write(f"{_settled(line)}\n")
        if "\r" in self._line:
            self._line = self._line[self._line.rindex("\r") :]
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def settle(self) -> None:
        """Write what stands on a line that never ended."""
        if rest := _settled(self._line):
            self._stream.write(f"{rest}\n")
        self._line = ""

    # The class above answers these by itself: with nothing, or by refusing to.
    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._stream.errors

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:  # buffer, reconfigure
        return getattr(self._stream, name)


def _settled(line: str) -> str:
    return ESCAPES.sub("", line).rstrip("\r").rpartition("\r")[2]


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise SystemExit(BROKEN_PIPE) from None
    except OSError as error:
        raise OutputError(f"the output cannot be written: {error.strerror}; give stdout another place") from error


def _plain(error: UnicodeError) -> tuple[str, int]:
    """A handler for ``codecs``: letters lose their accents, signs get words, the rest is a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    words = (
        PLAIN.get(sign) or unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode() for sign in signs
    )
    return "".join(word or "?" for word in words), error.end


codecs.register_error(UNPRINTABLE, _plain)


@contextmanager
def streams() -> Iterator[None]:
    """Make both streams fit for any word and any place for as long as the program runs, and stdout empty at its end."""
    before = sys.stdout, sys.stderr
    if sys.stdout is None:  # closed by who started the program: nothing that is opened later may take its number
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.flush()
        sys.stderr = _Messages(sys.stderr)
    output = sys.stdout
    if isinstance(output, io.TextIOWrapper):
        sys.stdout = _Output(output)
    try:
        yield
    finally:
        made = sys.stdout
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
        if isinstance(made, _Output):
            with suppress(OutputError, SystemExit):
                made.flush()
            if made.has_own_number:  # else Python 3.13 closes it by itself and prints what cannot be written any more
                with suppress(OutputError, SystemExit, OSError):
                    made.close()
            else:
                made.detach()  # the buffer is somebody else's


def _files(value: object) -> list[Path]:
    """The paths in a parameter's value."""
    values = value if isinstance(value, list | tuple) else [value]
    return [Path(one) for one in values if isinstance(one, str | Path) and str(one) != STDOUT]


def _as_flags(params: list[Any]) -> list[Any]:
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""  # the help would ask for a <bool>, which a flag does not take
    return params


UsageError: Any = typer.BadParameter.__mro__[1]  # of the parser that typer brings: its own, or the package click


class Group(TyperGroup):
    """A group of commands. What its parser refuses is one line like any other refusal, and not a box."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **extra)
        try:
            code = super().main(*args, standalone_mode=False, **extra)
        except UsageError as error:
            if type(error).__name__ == "NoArgsIsHelpError":  # a group without a command: its help
                error.show()
            else:
                print(f"edgeprune: {usage_text(error)}", file=sys.stderr)
            sys.exit(error.exit_code)
        sys.exit(code if isinstance(code, int) else 0)

    def get_params(self, ctx: Any) -> list[Any]:
        return _as_flags(super().get_params(ctx))


class Command(TyperCommand):
    """A command during which stdout is its own: what libraries and programs print there goes to stderr."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _as_flags(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        self._refuse_sources(ctx)
        output = sys.stdout
        moved = os.dup(1) if isinstance(output, _Output) and output.has_own_number else None
        if moved is not None:
            os.dup2(sys.stderr.fileno(), 1)
        _apart.append(output)
        lines = None if sys.stderr.isatty() else _LinesOnly(sys.stderr)
        sys.stdout = sys.stderr if lines is None else cast(TextIO, lines)
        try:
            with options_of_command(self._options()):
                return super().invoke(ctx)
        finally:
            sys.stdout = _apart.pop()
            if lines is not None:
                lines.settle()
            if moved is not None:
                os.dup2(moved, 1)
                os.close(moved)

    def _options(self) -> dict[str, str]:
        """Argument of Python to option, of this command."""
        found: dict[str, str] = {}
        for param in self.params:
            flag = max(param.opts, key=len)
            if param.name and flag.startswith("--"):
                found[param.name] = flag
        fields = {field: flag for field, flag in FLAGS.items() if flag in found.values()}
        return fields | found

    def _refuse_sources(self, ctx: Any) -> None:
        """Refuse a file to write that another parameter names as one to read, or to write too."""
        written: list[Path] = []
        read: list[Path] = []
        options, twice = {}, ""
        for param in self.params:
            check = getattr(param.callback, "__wrapped__", None)  # by Typer
            if check in FILE_CHECKS:
                value, option = ctx.params.get(param.name), max(param.opts, key=len)
                written += _files(value)
                place = STDOUT if str(value) == STDOUT else str(Path(value).resolve()) if value is not None else option
                if (other := options.setdefault(place, option)) != option:
                    twice = f"{other} and {option} are both {value}; give each a place of its own"
            elif check not in FOLDER_CHECKS:
                read += _files(ctx.params.get(param.name))
        for file in written:
            refuse_source(file, *read)
        if twice:
            raise TargetError(twice)


def usage_text(error: Any) -> str:
    """What the parser refused and what is allowed, in its words, and the help to ask for."""
    words = " ".join(error.format_message().split()).rstrip(".").replace(": Value error, ", ": ", 1)  # pydantic's
    option = max(getattr(getattr(error, "param", None), "opts", [""]), key=len)
    given = [value for flag, value in zip(sys.argv, sys.argv[1:], strict=False) if flag == option.strip()]
    given += [word.partition("=")[2] for word in sys.argv if option.strip() and word.startswith(f"{option}=")]
    if given and words.startswith("Invalid value") and repr(given[0]) not in words:
        words += f" (seen: {given[0]})"
    context, path = error.ctx, []
    while context is not None and context.parent is not None:
        path, context = [context.info_name, *path], context.parent
    return f"{shown(words, MOST_WORDS)}; next: {' '.join(['edgeprune', *path, '--help'])}"


def register(app: typer.Typer) -> None:
    """Make every command of the application and of its groups a :class:`Command`, and each of them a :class:`Group`."""
    app.info.cls = Group
    for command in app.registered_commands:
        command.cls = Command
    for group in app.registered_groups:
        if group.typer_instance is not None:
            register(group.typer_instance)


def results() -> TextIO:
    """The stream for what a command has to tell: stdout, also while libraries are kept away from it."""
    return _apart[-1] if _apart else sys.stdout


def say(*lines: str) -> None:
    """Lines of a command's result."""
    for line in lines:
        print(line, file=results(), flush=True)


def results_console() -> Console:
    """Rich's console on :func:`results`."""
    from rich.console import Console

    return Console(file=results(), highlight=False)


def is_screen(console: Console) -> bool:
    """Whether a console writes to a terminal that knows its width and moves its cursor. Rich takes a pipe for one where
    ``FORCE_COLOR`` or ``TTY_COMPATIBLE`` asks for colours, and draws nothing on a dumb one (Emacs' shell)."""
    try:
        there = console.file.isatty()
    except ValueError:  # closed
        return False
    return there and console.is_terminal and not console.is_dumb_terminal


def has_bars(console: Console) -> bool:
    """Whether Rich draws a bar there that moves: on a screen, unless ``TTY_INTERACTIVE=0`` asks for none."""
    return is_screen(console) and console.is_interactive


def has_width(console: Console) -> bool:
    """Whether somebody said how many columns there are: a terminal, or ``COLUMNS``."""
    return is_screen(console) or os.environ.get("COLUMNS", "").isdigit()


def failing_machine(error: OSError) -> str | None:
    """One line for a disk that is full or fails, which no other argument mends; None for any other fault."""
    if (remedy := remedy_of(error)) is None:
        return None
    name = error.filename
    if is_full(error) and error.filename2 is not None:  # of a copy: the first one was read
        name = error.filename2
    if isinstance(name, str | os.PathLike):
        return f"{os.fspath(name)}: {error.strerror}; {remedy}"
    return f"the disk is full ({error.strerror}); {remedy}" if is_full(error) else f"{error.strerror}; {remedy}"


def refused_write(error: OSError) -> str | None:
    """One line for a place that cannot be written, which is the user's to change; None for any other fault."""
    if not isinstance(error.filename, str | os.PathLike):
        return None
    path = Path(error.filename)
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        # of a renaming, the second name is the one that somebody gave: the first is a file on its way there
        place = Path(error.filename2) if isinstance(error.filename2, str | os.PathLike) else path
        there = next(one for one in (place, *place.absolute().parents) if os.path.lexists(one))
        kind = "a folder" if there.is_dir() else "a file"
        return f"{there}: {kind} is in the way ({error.strerror}); give another path, or move it away"
    if error.errno == errno.ENOENT and not path.absolute().parent.exists():
        folder = path.parent
        make = f"mkdir -p {shlex.quote(str(folder))}"
        return f"there is no folder {folder} for {path.name}; give another path, or make it first: {make}"
    # /proc and its like refuse a new file by saying that it is not there
    if error.errno == errno.ENOENT and _refuses_files(path.parent):
        return f"{path}: the folder {path.parent} takes no new file; give another path"
    return f"{path}: {error.strerror}; work in a folder that you may write to" if error.errno in REFUSALS else None


def _refuses_files(folder: Path) -> bool:
    """Whether a folder that is there takes no new file."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return False
    except OSError:
        return folder.is_dir()


def _number(stream: TextIO) -> int | None:
    """The descriptor of a stream; None for one in memory."""
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None
