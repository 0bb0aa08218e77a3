"""Drives the command line as a user does and says what came of it: exit code, what was printed, what was left behind.

Nothing here knows a module of edgeprune: commands, options, exit codes and files are all that it goes by.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "edgeprune: "
VERDICTS = (0, 1, 5)
REFUSALS = (2, 3, 4)
LONGEST_LINE = 1000  # characters of a refusal: a message, not a copy of the file
GATED = (
    "build",
    "search",
    "show",
    "lint",
    "parity",
    "bench",
    "history",
    "sweep",
    "frontier",
    "import-results",
)  # may end with 1, or 5
CACHES = (".cache/edgeprune", ".cache/matplotlib", ".config/matplotlib", ".config/Ultralytics")


@dataclass(frozen=True)
class Outcome:
    """What one run came to.

    Attributes:
        argv: the arguments behind ``edgeprune``.
        code: exit code; negative for a signal.
        out: standard output.
        err: standard error.
        seconds: wall time.
        timed_out: it was killed because it did not end.
        written: files that are new or changed outside the places that the command was given, relative to the sandbox.
        executed: code of an input ran.
    """

    argv: tuple[str, ...]
    code: int
    out: str
    err: str
    seconds: float
    timed_out: bool
    written: tuple[str, ...] = ()
    executed: bool = False

    @property
    def refusal(self) -> str | None:
        """The one line of refusal, without its prefix; None when there is none, or more than one."""
        lines = [line for line in self.err.splitlines() if line.startswith(PREFIX)]
        return lines[0].removeprefix(PREFIX) if len(lines) == 1 else None

    @property
    def traceback(self) -> bool:
        """Whether an exception reached the user."""
        return "Traceback (most recent call last)" in self.out + self.err or self.code == 70

    @property
    def last_line(self) -> str:
        """What a user reads last."""
        lines = [line for line in (self.err.strip() or self.out.strip()).splitlines() if line.strip()]
        return lines[-1].strip() if lines else ""

    def fault(self) -> str | None:
        """What is wrong with how it ended, whatever the input was; None when it is one of the allowed three."""
        if self.executed:
            return "code of the input was executed"
        if self.timed_out:
            return f"did not end within {self.seconds:.0f} s"
        if self.traceback:
            lines = [line for line in self.err.splitlines() if line.strip() and not line.startswith(PREFIX)]
            return f"traceback: {lines[-1].strip()[:300] if lines else self.last_line}"
        if self.code < 0:
            return f"died of {signal.Signals(-self.code).name}"
        if self.code in REFUSALS:
            if self.refusal is None:
                count = sum(line.startswith(PREFIX) for line in self.err.splitlines())
                return f"exit code {self.code} with {count} lines of refusal"
            if len(self.refusal) > LONGEST_LINE:
                return f"a refusal of {len(self.refusal)} characters"
        elif self.code not in VERDICTS or (self.code != 0 and self.argv[:1] and self.argv[0] not in GATED):
            return f"exit code {self.code}"
        elif self.refusal is not None:
            return f"exit code {self.code} with a refusal: {self.refusal}"
        return None

    def stray(self) -> str | None:
        """What it wrote where nothing was to be written; None when nothing."""
        return f"wrote {', '.join(self.written[:3])}" if self.written else None


def printed_json(outcome: Outcome) -> dict[str, Any]:
    """The one JSON object that ``--json`` promises; empty when something else stands on stdout too."""
    try:
        return json.loads(outcome.out)
    except ValueError:
        return {}


@dataclass
class Sandbox:
    """A home, a temporary folder and a working directory for runs; what appears outside ``allowed`` is noticed.

    Attributes:
        root: folder that holds inputs and everything below.
        above: a folder that holds ``root`` and is watched too, for what climbs out of it.
        canary: payloads of hostile inputs write this file; its presence says that they ran.
    """

    root: Path
    env: dict[str, str] = field(default_factory=dict)
    above: Path | None = None

    def __post_init__(self) -> None:
        for name in ("cwd", "tmp", "out"):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    @property
    def cwd(self) -> Path:
        return self.root / "cwd"

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def canary(self) -> Path:
        return self.root / "canary"

    def run(
        self,
        argv: Sequence[object],
        *,
        timeout_s: float = 60,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdout: str = "",
        encoding: str = "utf-8",
        file_bytes: int | None = None,
        keep: bool = False,
    ) -> Outcome:
        """Run the command line once; afterwards the sandbox is as it was, unless ``keep`` leaves ``out``.

        Args:
            argv: arguments behind ``edgeprune``.
            timeout_s: it is killed after so many seconds of the processor, or of waiting for something else.
            cwd: working directory; the sandbox's.
            env: environment on top of the sandbox's.
            stdout: where standard output goes: a device such as ``/dev/full``, or ``closed``; kept when empty.
            encoding: of standard output.
            file_bytes: the largest file that may be written, as on a full disk.
            keep: leave what was written to ``out``.
        """
        self.begin(argv, timeout_s=timeout_s, cwd=cwd, env=env, stdout=stdout, encoding=encoding, file_bytes=file_bytes)
        return self.end(keep=keep)

    def begin(
        self,
        argv: Sequence[object],
        *,
        timeout_s: float = 60,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdout: str = "",
        encoding: str = "utf-8",
        file_bytes: int | None = None,
    ) -> int:
        """As :meth:`run` without waiting: the process, which leads a group of its own. :meth:`end` has to follow."""
        self._words = tuple(str(word) for word in argv)
        shutil.rmtree(self.root / "tmp", ignore_errors=True)
        (self.root / "tmp").mkdir()
        printed = self.root / "tmp-printed"
        printed.mkdir(exist_ok=True)
        self._before = self._states()
        self.pid = server().begin(
            {
                "argv": self._words,
                "cwd": str(cwd or self.cwd),
                "env": {"TMPDIR": str(self.root / "tmp"), **self.env, **(env or {})},
                "stdout": stdout or str(printed / "out"),
                "stderr": str(printed / "err"),
                "encoding": encoding,
                "timeout_s": timeout_s,
                "file_bytes": file_bytes,
            }
        )
        return self.pid

    def printed(self) -> str:
        """What the process that runs has printed until now."""
        return _text_of(self.root / "tmp-printed" / "out")

    def end(self, *, keep: bool = False) -> Outcome:
        """Wait for what :meth:`begin` started."""
        reply = server().end()
        before, printed = self._before, self.root / "tmp-printed"
        out, err = (_text_of(printed / name) for name in ("out", "err"))
        shutil.rmtree(printed)
        after = self._states()
        changed = sorted(path for path in after if after[path] != before.get(path))
        changed += sorted(f"{path} (removed)" for path in before if path not in after and not path.startswith("tmp-"))
        outcome = Outcome(
            argv=self._words,
            code=reply["code"],
            out=out,
            err=err,
            seconds=reply["seconds"],
            timed_out=reply["timed_out"],
            written=tuple(path for path in changed if not _allowed(path)),
            executed=self.canary.exists(),
        )
        self._restore(before, after, keep)
        return outcome

    def _states(self) -> dict[str, tuple[int, int]]:
        found = {**_state(self.root), **_state(server().home, "HOME")}
        if self.above is not None:
            found |= _state(self.above, "ABOVE", skipped=self.root)
        return found

    def _path(self, name: str) -> Path:
        """The file behind a name of :meth:`_states`."""
        first, _, rest = name.partition("/")
        folder = {"HOME": server().home, "ABOVE": self.above}.get(first)
        return self.root / name if folder is None else folder / rest

    def _restore(self, before: Mapping[str, Any], after: Mapping[str, Any], keep: bool) -> None:
        self.canary.unlink(missing_ok=True)
        for name in ("tmp", "cwd", *(() if keep else ("out",))):
            new = [path for path in after if path.startswith(f"{name}/") and path not in before]
            for path in new:
                (self.root / path).unlink(missing_ok=True)
        for path in after:
            if path not in before and not path.startswith(("tmp", "cwd/", "out/")):
                self._path(path).unlink(missing_ok=True)
        if not keep:
            shutil.rmtree(self.out, ignore_errors=True)
            self.out.mkdir()


def _allowed(path: str) -> bool:
    if path.startswith("HOME/"):
        return path.removeprefix("HOME/").startswith(CACHES)
    lock = path == "in/finished/run/.lock"  # of the run directory that a build again was given
    return lock or path.startswith(("out/", "cwd/runs/", "tmp-printed")) or path == "canary"


def _state(folder: Path, name: str = "", skipped: Path | None = None) -> dict[str, tuple[int, int]]:
    """Every file below a folder with its size and time of change; folders are not files, links are not followed."""
    found = {}
    prefix = f"{name}/" if name else ""
    stack = [(str(folder), prefix)]
    while stack:
        place, relative = stack.pop()
        try:
            entries = list(os.scandir(place))
        except OSError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if skipped is not None and entry.path == str(skipped):
                    continue
                stack.append((entry.path, f"{relative}{entry.name}/"))
            else:
                status = entry.stat(follow_symlinks=False)
                found[f"{relative}{entry.name}"] = (status.st_size, status.st_mtime_ns)
    return found


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


class Server:
    """The warm process; see :mod:`tests.situations.server`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="edgeprune-tests-"))
        self.home = self.folder / "home"
        self.home.mkdir()
        env = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "EDGEPRUNE_", "COV_"))}
        env |= {"HOME": str(self.home), "TMPDIR": str(self.folder), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        env |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "PYTHONPATH": str(ROOT)}
        env.pop("PYTEST_CURRENT_TEST", None)
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        with (self.folder / "server.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.situations.server", str(theirs_in), str(theirs_out)],
                cwd=ROOT,
                env=env,
                pass_fds=(theirs_in, theirs_out),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        os.close(theirs_in)
        os.close(theirs_out)
        self._requests, self._replies = os.fdopen(ours_out, "w"), os.fdopen(ours_in, "r")
        self._line()

    def begin(self, request: Mapping[str, Any]) -> int:
        """Start one request; its process."""
        self._requests.write(json.dumps(request) + "\n")
        self._requests.flush()
        return self._line()["pid"]

    def end(self) -> dict[str, Any]:
        """Wait for the request that was started."""
        return self._line()

    def _line(self) -> dict[str, Any]:
        line = self._replies.readline()
        if not line:
            raise RuntimeError(f"the server of the tests died: {_text_of(self.folder / 'server.log')[-2000:]}")
        return json.loads(line)

    def close(self) -> None:
        """End the process and remove its folder."""
        self._requests.close()
        self.process.wait()
        self._replies.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@lru_cache(maxsize=1)
def server() -> Server:
    """The one server of this process, started when it is first asked for."""
    started = Server()
    owner = os.getpid()
    atexit.register(lambda: started.close() if os.getpid() == owner else None)
    return started


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
