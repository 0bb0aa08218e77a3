"""Programs that take turns on a device behind a real SSH connection: one job, whatever happens to the connection."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeprune.agent.programs import Turns
from edgeprune.devices.base import Completed
from edgeprune.devices.remote import RemoteDevice
from edgeprune.devices.ssh import Ssh
from edgeprune.errors import ToolError
from edgeprune.runtimes.base import BenchSettings
from edgeprune.runtimes.trtexec_ import TrtExec
from tests.devices.server import Server
from tests.runtimes import fake_trtexec
from tests.runtimes.models import convolutions


@contextmanager
def board_at(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[TrtExec, list[str]]]:
    """trtexec on the other side, and the verbs that are sent there."""
    program = fake_trtexec.install(tmp_path)
    channel = Ssh(server.name)
    verbs: list[str] = []
    real = channel.call

    def counted(argv, **options):
        verbs.append(argv[2])
        return real(argv, **options)

    monkeypatch.setattr(channel, "call", counted)
    with RemoteDevice(channel) as device:
        yield TrtExec(device, program=(str(program),), keep_timing_cache=False), verbs


def pair(tmp_path: Path) -> list[Path]:
    return [convolutions(tmp_path / f"{width}.onnx", width=width) for width in (16, 4)]


@pytest.mark.slow
def test_a_pair_is_timed_by_one_job_whatever_the_number_of_rounds(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = []
    with board_at(server, tmp_path, monkeypatch) as (trtexec, verbs):
        for graph in pair(tmp_path):
            engines.append(graph.with_suffix(".engine"))
            trtexec.engine_from_onnx(graph, engines[-1])
        used = []
        for rounds in (8, 24):
            del verbs[:]
            settings = BenchSettings(rounds=rounds, per_round=3, warmup_s=0)
            first, second = trtexec.latency(engines, settings)
            assert len(first.conditions.launches) == len(second.conditions.launches) == rounds
            used.append(list(verbs))
    assert used[0].count("job") == used[1].count("job") == 1
    assert used[0] == ["mkdir", "offer", "put", "offer", "put", "job", "remove"]  # each is an SSH session, and Python
    assert used[1] == ["mkdir", "offer", "offer", "job", "remove"]
    assert server.left() == []


@pytest.mark.slow
def test_a_connection_that_is_lost_between_two_turns_finds_them_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[int] = []

    def told(text: str, *, done: int = 0, **_: object) -> None:
        rounds.append(done)
        if done == 3:
            assert server.drop() >= 1

    with board_at(server, tmp_path, monkeypatch) as (trtexec, verbs):
        graphs = pair(tmp_path)
        engines = [graph.with_suffix(".engine") for graph in graphs]
        for graph, engine in zip(graphs, engines, strict=True):
            trtexec.engine_from_onnx(graph, engine)
        trtexec.latency(engines, BenchSettings(rounds=8, per_round=3, warmup_s=0), progress=told)
    assert rounds == list(range(1, 9))  # each once, in spite of the break
    timed = [call for call in fake_trtexec.calls(tmp_path / "trtexec") if "--exportTimes" in call]
    assert len(timed) == 16
    assert verbs.count("job") > 1
    assert server.left() == []


def test_the_first_program_that_fails_ends_the_turns(server: Server) -> None:
    heard: list[tuple[int, Completed]] = []
    code = "import sys; print(sys.argv[1]); print('why', file=sys.stderr); sys.exit(int(sys.argv[1]))"
    programs = tuple((sys.executable, "-c", code, status) for status in ("0", "3"))
    turns = Turns(programs, "", rounds=4, least_rounds=1, time_limit_s=0, timeout_s=60)
    with RemoteDevice(Ssh(server.name)) as device:
        device.run_turns(turns, lambda index, done: heard.append((index, done)))
        assert [(index, done.returncode, done.stdout, done.stderr) for index, done in heard] == [
            (0, 0, "0\n", "why\n"),
            (1, 3, "3\n", "why\n"),
        ]
        slow = Turns((("sleep", "60"),), "", rounds=2, least_rounds=1, time_limit_s=0, timeout_s=0.3)
        with pytest.raises(ToolError, match=r"ran longer than 0\.3 s"):
            device.run_turns(slow, lambda index, done: None)
    assert server.left() == []


def test_the_time_limit_leaves_the_rounds_that_are_needed_and_a_file_is_each_runs_own(
    server: Server, tmp_path: Path
) -> None:
    heard: list[tuple[int, str]] = []
    with RemoteDevice(Ssh(server.name)) as device, device.workspace() as folder:
        path = f"{folder}/written"
        code = f"import sys; open({path!r}, 'a').write(sys.argv[1])"
        programs = ((sys.executable, "-c", code, "a"), (sys.executable, "-c", code, "b"), ("true",))
        turns = Turns(programs, path, rounds=50, least_rounds=3, time_limit_s=1e-6, timeout_s=60)
        device.run_turns(turns, lambda index, done: heard.append((index, done.written)))
    texts = ("a", "b", "")
    assert heard == [(index, texts[index]) for index in (0, 1, 2, 1, 2, 0, 2, 0, 1)]
