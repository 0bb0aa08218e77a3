"""A run directory: what is finished, what may be reused, and why a stage had to run again.

``ROOT/<stage>-<key12>/{artifacts…, record.json, log.txt}``. A stage works in ``ROOT/.partial-*``, its record is written
last and the folder is then renamed, so a folder with a record is complete and everything else is leftovers. What must
survive a kill (epoch checkpoints) lies in ``ROOT/.scratch/<stage>-<key12>``.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgeprune.artifact import Artifact, sha256_of, write_atomically
from edgeprune.errors import StageError, TargetError

RECORD = "record.json"
LOG = "log.txt"
STATE = "state.json"


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
        text = json.dumps({"stage": self.stage, "inputs": dict(self.inputs)}, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def folder_name(self) -> str:
        return f"{self.stage}-{self.digest[:12]}"


@dataclass(frozen=True)
class Record:
    """A finished stage.

    Attributes:
        key: what it was made from.
        folder: where its files lie.
        artifacts: role (``model``, ``onnx``, ``engine``, ``plan``) to file.
        facts: plain data that the gates and the report read.
        seconds: wall time of the stage.
        created: when it was published, ISO 8601, UTC.
    """

    key: Key
    folder: Path
    artifacts: Mapping[str, Artifact]
    facts: Mapping[str, Any]
    seconds: float
    created: str

    def path(self, role: str) -> Path:
        """File of a role; ``StageError`` when the stage has none."""
        if role not in self.artifacts:
            raise StageError(f"stage {self.key.stage} left no {role}; it has: {', '.join(self.artifacts) or 'nothing'}")
        return self.artifacts[role].path


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level of dotted names, so that two keys can be compared entry by entry."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            out.update(flat(value, f"{prefix}{name}."))
        else:
            out[f"{prefix}{name}"] = value
    return out


class Workspace:
    """One run directory, held by one build at a time. Open it with :meth:`opened`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    @contextlib.contextmanager
    def opened(cls, root: Path) -> Iterator[Workspace]:
        """Create the directory if need be, hold its lock, and clear what a stopped build left half done.

        Raises:
            TargetError: the directory cannot be written.
            StageError: another build holds it.
        """
        lock = root / ".lock"
        try:
            root.mkdir(parents=True, exist_ok=True)
            handle = lock.open("a+")
        except OSError as error:
            raise TargetError(
                f"--out {root}: cannot be written ({error.strerror}); choose a folder that you may write to"
            ) from error
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                handle.seek(0)
                holder = handle.read().strip() or "unknown"
                raise StageError(
                    f"{root}: another build (process {holder}) works here; wait for it or give another --out"
                ) from error
            handle.seek(0)
            handle.truncate()
            handle.write(str(os.getpid()))
            handle.flush()
            for leftover in root.glob(".partial-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            yield cls(root)

    def find(self, key: Key) -> Record | None:
        """The finished stage of this key, or None. A folder whose files are missing or changed does not count."""
        folder = self.root / key.folder_name
        if not (folder / RECORD).is_file():
            return None
        record = read_record(folder)
        if record is None or record.key.digest != key.digest:
            return None
        intact = all(a.path.is_file() and sha256_of(a.path) == a.sha256 for a in record.artifacts.values())
        return record if intact else None

    @contextlib.contextmanager
    def partial(self, key: Key) -> Iterator[Path]:
        """A folder to work in; it is gone afterwards unless :meth:`publish` renamed it."""
        folder = self.root / f".partial-{key.folder_name}-{os.getpid()}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def scratch(self, key: Key) -> Path:
        """A folder that survives a kill, for work that can go on where it stopped."""
        folder = self.root / ".scratch" / key.folder_name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def publish(
        self,
        key: Key,
        folder: Path,
        artifacts: Mapping[str, tuple[str, Path]],
        facts: Mapping[str, Any],
        seconds: float,
    ) -> Record:
        """Turn a partial folder into a finished stage; afterwards its scratch folder is dropped.

        Args:
            key: the stage's key.
            folder: what :meth:`partial` gave.
            artifacts: role to (kind, file inside ``folder``).
            facts: plain data for gates and report.
            seconds: wall time the stage took.
        """
        described = {
            role: {"kind": kind, "file": path.relative_to(folder).as_posix(), "sha256": sha256_of(path)}
            for role, (kind, path) in artifacts.items()
        }
        content = {
            "stage": key.stage,
            "key": key.digest,
            "inputs": dict(key.inputs),
            "artifacts": described,
            "facts": facts,
            "seconds": round(seconds, 3),
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        write_atomically(folder / RECORD, json.dumps(content, indent=1, default=str))
        final = self.root / key.folder_name
        if final.exists():  # found unfit by find(): a file of it is missing or changed
            shutil.rmtree(final)
        folder.replace(final)
        shutil.rmtree(self.root / ".scratch" / key.folder_name, ignore_errors=True)
        record = read_record(final)
        assert record is not None
        return record

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Remember what the latest build ran and reused, for ``edgeprune show``."""
        write_atomically(self.root / STATE, json.dumps(state, indent=1, default=str))

    def earlier(self, key: Key) -> Record | None:
        """The newest other record of the same stage: what a changed key is compared with."""
        records = [read_record(p.parent) for p in self.root.glob(f"{key.stage}-*/{RECORD}")]
        others = [r for r in records if r is not None and r.key.stage == key.stage and r.key.digest != key.digest]
        return max(others, key=lambda r: r.created, default=None)


def read_record(folder: Path) -> Record | None:
    """The record in a stage's folder, or None where it is missing or not readable."""
    try:
        data = json.loads((folder / RECORD).read_text())
        return Record(
            key=Key(data["stage"], data["inputs"]),
            folder=folder,
            artifacts={
                role: Artifact(item["kind"], folder / item["file"], item["sha256"])
                for role, item in data["artifacts"].items()
            },
            facts=data["facts"],
            seconds=data["seconds"],
            created=data["created"],
        )
    except (OSError, ValueError, KeyError):
        return None


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What makes two keys differ, one line an entry: ``params.budget.speed_up: 1.5 → 2.0``."""
    lines = []
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            old, new = (str(side[name]) if name in side else "nothing" for side in (before, now))
            lines.append(f"{name}: {_short(old)} → {_short(new)}")
    return lines


def _short(text: str) -> str:
    return text if len(text) <= 48 else f"{text[:12]}…"
