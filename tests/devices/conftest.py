"""A real SSH server for the tests of remote devices; skipped, visibly, where OpenSSH's server is not installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.devices.server import Server, sshd_path


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder for the keys that all servers of the session share."""
    if sshd_path() is None:
        pytest.skip("OpenSSH's server is not installed: apt install openssh-server")
    return tmp_path_factory.mktemp("ssh")


@pytest.fixture
def serve(keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    """Start a server whose sessions have the environment, and begin with the command, that are given."""
    started: list[Server] = []

    def start(login: str = "", **env: str) -> Server:
        root = tmp_path / f"sshd{len(started)}"
        root.mkdir()
        for key in keys.glob("*"):
            (root / key.name).write_bytes(key.read_bytes())
            (root / key.name).chmod(0o600)
        server = Server(root, env, login)
        for name in ("host", "user", "host.pub", "user.pub"):
            (keys / name).write_bytes((root / name).read_bytes())
        server.start()
        started.append(server)
        monkeypatch.setenv("EDGEPRUNE_SSH_CONFIG", str(root / "client"))
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def server(serve: Callable[..., Server]) -> Server:
    """One with nothing special."""
    return serve()
