"""A run directory: what is finished, what may be reused, and why a stage had to run again.

``ROOT/<stage>-<key12>/{artifacts…, record.json, log.txt}``. A stage works in ``ROOT/.partial-*``, its record is written
last and the folder is then renamed, so a folder with a record is complete and everything else is leftovers. What must
survive a kill (epoch checkpoints) lies in ``ROOT/.scratch/<stage>-<key12>``, and what a stage that failed had printed
in ``ROOT/failed/<stage>-<key12>``, until it finishes, or a later build with other keys finds it a month old.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any, Generic, TypeVar, cast

from edgeprune.artifact import Artifact, Role, not_written, remove_unfinished, sha256_of
from edgeprune.errors import DataError, EdgepruneError, StageError, TargetError, first_line
from edgeprune.serial import digest_of, from_json, read_json, to_json, write_json

RECORD = "record.json"
LOG = "log.txt"
LAST_LOG = "failed.log"
REASON = "reason.txt"
REASON_LETTERS = 900  # of a reason that are kept: the next command stands at its end
STATE = "state.json"
LOCK = ".lock"
BUILD = "build"
BUNDLE = "bundle"
BUILD_RECORD = "build.json"
OLD_BUNDLE = ".bundle-old"
"""Where the bundle lies while the one that takes its place is moved there; never named as what may be cleared."""
STAGE_FOLDER = "[a-z]+-[0-9a-f]{12}"
"""What :attr:`Key.folder_name` gives: names by which a folder is known as edgeprune's."""
FAILED = "failed"
SCRATCH = ".scratch"
KEPT_S = 30 * 24 * 3600  # what nothing has used for so long is removed: stages that did not finish, links to datasets
Facts = TypeVar("Facts")


@dataclass(frozen=True)
class Key:
    """What a stage's result depends on: equal keys mean an equal result.

    Attributes:
        stage: name of the stage.
        inputs: dotted name to plain value, for example ``source.model`` to a sha256, ``params.epochs`` to 10,
            ``env.torch`` to a version.
    """

    stage: str
    inputs: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 over stage and inputs."""
        return digest_of({"stage": self.stage, "inputs": dict(self.inputs)})

    @property
    def folder_name(self) -> str:
        """Name of the folder that the finished stage lies in."""
        return f"{self.stage}-{self.digest[:12]}"


@dataclass(frozen=True)
class Record(Generic[Facts]):
    """A finished stage.

    Attributes:
        key: what it was made from.
        folder: where its files lie.
        artifacts: its files by role.
        facts: what it came to.
        seconds: wall time of the stage.
        created: when it was published, ISO 8601, UTC.
        held: whether a measurement showed the budget held behind it, of a stage that left open whether it would be;
            False once a build came to its end without one, None before.
    """

    key: Key
    folder: Path
    artifacts: Mapping[Role, Artifact]
    facts: Facts
    seconds: float
    created: str
    held: bool | None = None

    def path(self, role: Role) -> Path:
        """File of a role; ``StageError`` when the stage has none."""
        if role not in self.artifacts:
            raise StageError(f"stage {self.key.stage} left no {role}; it has: {', '.join(self.artifacts) or 'nothing'}")
        return self.artifacts[role].path


@dataclass(frozen=True)
class StageRun:
    """What the latest build did about a stage.

    Attributes:
        stage: its name.
        key: digest of its key.
        folder: of its result, in the run directory.
        reused: whether the result was there already.
        compared_with: folder of the newest other result of this stage; None where there is none.
        differs: what makes the two keys differ, one line an entry.
        again: why a result of this key was made again; empty where that is not why it ran.
    """

    stage: str
    key: str
    folder: str
    reused: bool
    compared_with: str | None
    differs: tuple[str, ...]
    again: str = ""


@dataclass(frozen=True)
class BuildState:
    """How far the latest build in a run directory has come: its command, and the stages that it began."""

    command: tuple[str, ...]
    stages: tuple[StageRun, ...]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Nested mappings as one level of dotted names, so that two keys can be compared entry by entry."""
    out: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            out.update(flat(cast("Mapping[str, Any]", value), f"{prefix}{name}."))
        else:
            out[f"{prefix}{name}"] = value
    return out


class Workspace:
    """One run directory, held by one build at a time. Get one from :func:`open_workspace`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, key: Key, facts: type[Facts]) -> Record[Facts] | None:
        """The finished stage of this key, or None. A folder whose files are missing or changed does not count.

        Args:
            key: what the stage depends on.
            facts: class of its facts.
        """
        folder = self.root / key.folder_name
        stored = _read(folder)
        if stored is None or stored.key != key.digest:
            return None
        try:
            record = _record(stored, folder, facts)
        except DataError:
            return None
        intact = all(a.path.is_file() and sha256_of(a.path) == a.sha256 for a in record.artifacts.values())
        return record if intact else None

    @contextlib.contextmanager
    def partial(self, key: Key) -> Generator[Path, None, None]:
        """A folder to work in; it is gone afterwards unless :meth:`publish` renamed it. Of a stage that fails, the logs
        stay: see :meth:`failed_logs`; why it failed the last time is no reason any more once it is tried again."""
        folder = self.root / f".partial-{key.folder_name}-{os.getpid()}"
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            (self.failed_logs(key) / REASON).unlink()
        folder.mkdir()
        try:
            yield folder
        except Exception as error:
            self._keep_logs(folder, self.failed_logs(key), _log_of(error), first_line(error, REASON_LETTERS))
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def failed_logs(self, key: Key) -> Path:
        """The folder in which the logs of a stage lie that failed; not there where none was kept."""
        return self.root / FAILED / key.folder_name

    @staticmethod
    def _keep_logs(folder: Path, kept: Path, last: str, reason: str) -> None:
        """Copy the logs below ``folder``, each by its place there, and what the program that failed printed: its own
        folder may be gone. ``reason`` is what :func:`last_failure` tells."""
        with contextlib.suppress(OSError):  # a full disk is no reason to hide why the stage failed
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir(parents=True)
            (kept / REASON).write_bytes(reason.encode(errors="backslashreplace"))  # a path may be no text
            if last:
                (kept / LAST_LOG).write_text(last, encoding="utf-8")
            for log in (*folder.rglob("*.log"), folder / LOG):
                if log.is_file() and log.stat().st_size:
                    shutil.copyfile(log, kept / "__".join(log.relative_to(folder).parts))

    def scratch(self, key: Key) -> Path:
        """A folder that survives a kill, for work that can go on where it stopped."""
        folder = self.root / SCRATCH / key.folder_name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def publish(
        self, key: Key, folder: Path, artifacts: Mapping[Role, Path], facts: Facts, seconds: float
    ) -> Record[Facts]:
        """Turn a partial folder into a finished stage; afterwards its scratch folder is dropped.

        Args:
            key: the stage's key.
            folder: what :meth:`partial` gave.
            artifacts: role to file inside ``folder``.
            facts: what the stage came to, a frozen dataclass.
            seconds: wall time the stage took.
        """
        stored = _Stored(
            stage=key.stage,
            key=key.digest,
            inputs=json.loads(json.dumps(dict(key.inputs), default=str)),
            artifacts={
                role: _StoredFile(path.relative_to(folder).as_posix(), sha256_of(path))
                for role, path in artifacts.items()
            },
            facts=to_json(facts),
            seconds=round(seconds, 3),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        write_json(folder / RECORD, stored)
        final = self.root / key.folder_name
        if final.exists():  # found unfit by find(): a file of it is missing or changed
            shutil.rmtree(final)
        folder.replace(final)
        shutil.rmtree(self.root / SCRATCH / key.folder_name, ignore_errors=True)
        shutil.rmtree(self.failed_logs(key), ignore_errors=True)
        return _record(stored, final, type(facts))

    def with_facts(self, record: Record[Facts], facts: Facts) -> Record[Facts]:
        """A finished stage with more facts of the same artifacts, which its record keeps from now on."""
        stored = _read(record.folder)
        if stored is not None:
            write_json(record.folder / RECORD, replace(stored, facts=to_json(facts)))
        return replace(record, facts=facts)

    def settle(self, record: Record[Facts], *, held: bool) -> Record[Facts]:
        """A finished stage with what was measured behind it; see :attr:`Record.held`."""
        stored = _read(record.folder)
        if stored is not None:
            write_json(record.folder / RECORD, replace(stored, held=held))
        return replace(record, held=held)

    def remove_old(self, keys: Collection[Key]) -> None:
        """Remove epochs and logs of stages that were stopped or failed, where their key is none of these and nothing
        was written there for a month; whoever goes back to the settings of before goes on with what is younger."""
        names = {key.folder_name for key in keys}
        for place in (self.root / SCRATCH, self.root / FAILED):
            # nothing but what edgeprune named: a folder of somebody else's may be called so too
            for folder in filter(_is_ours, place.iterdir() if place.is_dir() else ()):
                with contextlib.suppress(OSError):
                    if folder.name not in names and time.time() - _written(folder) > KEPT_S:
                        shutil.rmtree(folder, ignore_errors=True)

    def write_state(self, state: BuildState) -> None:
        """Remember what the latest build ran and reused, for ``edgeprune show``."""
        write_json(self.root / STATE, state)

    def earlier(self, key: Key) -> tuple[Path, Key] | None:
        """Folder and key of the newest other result of the same stage: what a changed key is compared with."""
        others = [
            (stored.created, path.parent, Key(stored.stage, stored.inputs))
            for path in self.root.glob(f"{key.stage}-*/{RECORD}")
            if (stored := _read(path.parent)) is not None and stored.stage == key.stage and stored.key != key.digest
        ]
        if not others:
            return None
        _, folder, other = max(others, key=lambda entry: entry[0])
        return folder, other


def _is_ours(folder: Path) -> bool:
    return re.fullmatch(STAGE_FOLDER, folder.name) is not None


def _written(folder: Path) -> float:
    """When anything in a folder was written last, as seconds of the clock of files."""
    return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))


def user_cache(name: str) -> Path:
    """A folder of what may be used again on this machine and may be deleted at any time; it need not exist.

    Under ``$EDGEPRUNE_CACHE``, which may start from the current folder or with ``~``, else
    ``$XDG_CACHE_HOME/edgeprune``, else ``~/.cache/edgeprune``. The path is absolute: Ultralytics takes another for one
    below its own folder of datasets.
    """
    given = os.path.expanduser(os.environ.get("EDGEPRUNE_CACHE", ""))  # noqa: PTH111  files of settings have no shell
    cache = os.environ.get("XDG_CACHE_HOME", "")
    home = os.path.expanduser("~/.cache")  # noqa: PTH111  Path.home() raises where there is none
    base = cache if os.path.isabs(cache) else home  # noqa: PTH117  the XDG specification has a relative one ignored
    return (Path(given) if given else Path(base) / "edgeprune").absolute() / name


def has_finished_stage(root: Path) -> bool:
    """Whether a stage has ever finished in a run directory."""
    return any(root.glob(f"*/{RECORD}"))


def _refuse_foreign_bundle(root: Path) -> None:
    """Refuse a folder whose ``bundle`` edgeprune did not write: a finished build puts its own in that place.

    Raises:
        TargetError: there is one, without a record of a build, where no build has run.
    """
    bundle = root / BUNDLE
    with contextlib.suppress(OSError):  # a folder that cannot be looked into is told of as it is opened
        ours = (root / STATE).is_file() or has_finished_stage(root) or (bundle / BUILD_RECORD).is_file()
        if not ours and bundle.exists() and (not bundle.is_dir() or any(bundle.iterdir())):
            raise TargetError(
                f"{root}: has a {BUNDLE!r} that no build of edgeprune wrote (no {BUILD_RECORD} in it), and a build "
                "would replace it; give another folder (--out DIRECTORY), or move it away"
            )


@contextlib.contextmanager
def open_workspace(root: Path, work: str = BUILD) -> Generator[Workspace, None, None]:
    """Create a run directory if need be, hold its lock, and clear what a stopped build left half done; a bundle that
    was being replaced when it stopped is put back.

    Args:
        root: the run directory, the folder of a sweep or a frontier, or the scratch folder of a training.
        work: one word for what is done in it, told to whoever comes meanwhile.

    Raises:
        TargetError: the directory cannot be written, its file system has no locks, or it has a ``bundle`` that is none
            of edgeprune's.
        StageError: another process holds it.
    """
    if work == BUILD:
        _refuse_foreign_bundle(root)
    lock = root / LOCK
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle = lock.open("a+")
    except OSError as error:
        raise not_written(root, error, "a run directory has to be one that you may write to") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.seek(0)
            there, _, holder = handle.read().strip().rpartition(" ")  # the number alone is an older edgeprune's
            raise StageError(
                f"{root}: another {there or 'build'} (process {holder or 'unknown'}) works here; wait for it or give "
                "another folder"
            ) from error
        except OSError as error:  # ENOLCK, ENOTSUP, ENOSYS: a mount without locks; nobody is known to be here
            raise TargetError(
                f"{root}: locks do not work on this file system ({error.strerror or first_line(error)}), so two of "
                "them could not be kept apart here; give a folder on another one: --out DIRECTORY"
            ) from error
        with contextlib.suppress(OSError):  # a full disk: whoever comes is not told who works here
            os.ftruncate(handle.fileno(), 0)
            os.write(handle.fileno(), f"{work} {os.getpid()}".encode())
        _held.add(handle)
        try:
            for leftover in root.glob(".partial-*-*"):
                if re.fullmatch(rf"\.partial-({STAGE_FOLDER}|{BUNDLE})-\d+", leftover.name):
                    shutil.rmtree(leftover, ignore_errors=True)
            for folder in (root, *(one for one in root.iterdir() if one.is_dir() and not one.is_symlink())):
                with contextlib.suppress(OSError):
                    remove_unfinished(folder)
            if (old := root / OLD_BUNDLE).is_dir():
                _keep_one_bundle(old, root / BUNDLE)
            yield Workspace(root)
        finally:
            _held.discard(handle)


_held: set[IO[str]] = set()


def _let_go() -> None:
    """In a child that was forked: a loader that outlives a killed training for a moment would hold its lock."""
    while _held:
        _held.pop().close()


os.register_at_fork(after_in_child=_let_go)


def _keep_one_bundle(old: Path, bundle: Path) -> None:
    """Of a replacement that was stopped: the old bundle where the new one had not taken its place, else the new one."""
    if bundle.exists():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.replace(bundle)


def run_directory_of(bundle: Path) -> Path | None:
    """The run directory that a bundle lies in as its build left it, whatever path or link leads to it; None where it
    was copied elsewhere: what lies beside it there is somebody else's."""
    for one in (bundle, bundle.resolve()):  # `.` has no folder above it by name
        if one.name == BUNDLE and any((one.parent / name).is_file() for name in (LOCK, STATE)):
            return one.parent
    return None


@contextlib.contextmanager
def held(folder: Path) -> Generator[None, None, None]:
    """Hold the lock of a run directory while something in it is replaced; a folder that is none is left alone."""
    if (folder / LOCK).is_file():
        with open_workspace(folder):
            yield
    else:
        yield


@contextlib.contextmanager
def held_build(directory: Path) -> Generator[None, None, None]:
    """:func:`held` for a run directory or the bundle in it: what is read and written in the block is of one build."""
    directory = directory.resolve()  # `.` has no folder above it by name
    within = directory.name == BUNDLE and not (directory / LOCK).is_file()
    with held(directory.parent if within else directory):
        yield


def has_logs(failed: Path) -> bool:
    """Whether a folder of :meth:`Workspace.failed_logs` holds more than the reason."""
    return failed.is_dir() and any(path.name != REASON for path in failed.iterdir())


def last_failure(root: Path) -> str:
    """Why the stage failed in which the latest build of a run directory ended; empty where it did not end so."""
    with contextlib.suppress(OSError, DataError):  # a build that goes on meanwhile takes it away
        [*_, run] = read_state(root).stages or [None]
        if run is not None:
            failed = root / FAILED / run.folder
            logs = f" (its log: {failed})" if has_logs(failed) else ""
            return f"stage {run.stage} failed{logs}: {(failed / REASON).read_text(encoding='utf-8')}"
    return ""


def read_state(root: Path) -> BuildState:
    """What the latest build in a run directory did; ``DataError`` where none has run."""
    try:
        return read_json(BuildState, root / STATE)
    except DataError as error:
        raise DataError(f"{root}: no build has run here; expected {STATE}, as edgeprune build leaves it") from error


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What makes two keys differ, one line an entry: ``params.budget.speed_up: 1.5 → 2.0``."""
    lines: list[str] = []
    now = json.loads(json.dumps(now))  # as the other was read: a tuple is a list there
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            old, new = (str(side[name]) if name in side else "nothing" for side in (before, now))
            lines.append(f"{name}: {_short(old)} → {_short(new)}")
    return lines


@dataclass(frozen=True)
class _StoredFile:
    file: str
    sha256: str


@dataclass(frozen=True)
class _Stored:
    """The content of ``record.json``; the class of ``facts`` is known to whoever asks for the record."""

    stage: str
    key: str
    inputs: Mapping[str, Any]
    artifacts: Mapping[Role, _StoredFile]
    facts: Any
    seconds: float
    created: str
    held: bool | None = None


def _read(folder: Path) -> _Stored | None:
    """The content of a folder's ``record.json``, or None where it is missing or not readable."""
    try:
        return read_json(_Stored, folder / RECORD)
    except DataError:
        return None


def _record(stored: _Stored, folder: Path, facts: type[Facts]) -> Record[Facts]:
    return Record(
        key=Key(stored.stage, stored.inputs),
        folder=folder,
        artifacts={role: Artifact(folder / item.file, item.sha256) for role, item in stored.artifacts.items()},
        facts=from_json(facts, stored.facts, folder / RECORD),
        seconds=stored.seconds,
        created=stored.created,
        held=stored.held,
    )


def _log_of(error: BaseException | None) -> str:
    """What the program printed whose failure is behind an error; empty where no program's is."""
    while error is not None:
        if isinstance(error, EdgepruneError) and error.log:
            return error.log
        error = error.__cause__ or error.__context__
    return ""


def _short(text: str) -> str:
    return text if len(text) <= 48 else f"{text[:12]}…"
