"""What a carried folder asks of a board, and what the board answers: ``request.json`` and ``results.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgeprune.agent.facts import DeviceFacts
from edgeprune.agent.programs import Turns
from edgeprune.runtimes.trtexec_argv import Version
from edgeprune.samples.conditions import DeviceState

SCHEMA_VERSION = 4
MAX_RESULTS_BYTES = 2 << 30  # of a results.tar, unpacked


@dataclass(frozen=True)
class Command:
    """One run of trtexec, or several that take turns.

    Attributes:
        argv: its command line; files are named as the carried folder has them. Of turns, the first one's.
        timeout_s: longest run.
        measured: a build or a timing, which is watched.
        title: what it does, for people.
        turns: None for one run.
        informs: no verdict rests on it: where it fails, the run goes on without it.
    """

    argv: tuple[str, ...]
    timeout_s: float
    measured: bool
    title: str
    turns: Turns | None = None
    informs: bool = False

    def untitled(self) -> Command:
        """What is run: of two versions of edgeprune the titles may differ."""
        return replace(self, title="")


@dataclass(frozen=True)
class Script:
    """The commands for one generation of trtexec: from version ``first`` on, before version ``below``."""

    first: Version
    below: Version
    commands: tuple[Command, ...]


@dataclass(frozen=True)
class Request:
    """What the board is asked.

    Attributes:
        schema_version: of this file.
        target: name of the target.
        board: what it has to be.
        modules: the ids that it may have; empty for any.
        jetpack: releases of JetPack that the profile asks for, as a version specifier; empty for any.
        jetpacks: those among the known ones, of which a range may hold none.
        power_mode: what it is measured in; empty for the one that it is in.
        clocks: lock the clocks, where the board's user may.
        trtexec: what starts the program, as the profile says; empty where it is looked for.
        known_versions: of TensorRT, for people.
        scripts: what to run, by the version of trtexec.
        inputs: the engine's inputs, in order: name to the digest of the raw values, which are packed as ``NAME.z``.
        images: how many images they hold; the rest of the last one is zeros.
        files: digests of all that was packed.
    """

    schema_version: int
    target: str
    board: str
    modules: tuple[str, ...]
    jetpack: str
    jetpacks: tuple[str, ...]
    power_mode: str
    clocks: bool
    trtexec: tuple[str, ...]
    known_versions: str
    scripts: tuple[Script, ...]
    inputs: Mapping[str, str]
    images: int
    files: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """One command that ended, and what the board was like meanwhile.

    Attributes:
        returncode: its exit code; of one that did not start or end, what a shell gives (127, 124).
        conditions: of a measured one.
        failure: why one that only informs failed; empty where it did not.
    """

    returncode: int
    conditions: DeviceState
    failure: str = ""


@dataclass(frozen=True)
class Results:
    """What the board answered.

    Attributes:
        schema_version: of this file.
        request_sha256: of the request that it answers.
        facts: what the board is.
        banner: what its trtexec prints first.
        conditions: power mode and clocks of all runs.
        simulated: the board was a stand-in.
        answers: of the script's commands, in order; what command N wrote and printed is in ``commands/N``.
        files: digests of all that came back.
    """

    schema_version: int
    request_sha256: str
    facts: DeviceFacts
    banner: str
    conditions: DeviceState
    simulated: bool
    answers: tuple[Answer, ...]
    files: Mapping[str, str]
